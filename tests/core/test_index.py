"""The index: which lists name a name, against the definition, however it is loaded."""

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.index import CHUNK, NOTHING, Builder, Chunk, Hit, Index
from dnsfilter.core.names import from_text, to_text
from dnsfilter.core.rules import Rules
from tests.core import reference
from tests.core.make import labels_to_wire, name, suffixes, thorough


def index(*lists: Rules, protected: Iterable[str] = (), allow: Iterable[str] = ()) -> Index:
    builder = Builder(protected=frozenset(map(from_text, protected)))
    for number, rules in enumerate(lists):
        builder.block(number, rules)
    builder.allow(0, list(map(from_text, allow)))
    return Index(builder.chunks())


def exact(*texts: str) -> Rules:
    return Rules(exact=list(map(from_text, texts)))


def below(*texts: str) -> Rules:
    return Rules(below=list(map(from_text, texts)))


@pytest.mark.parametrize(
    ("listed", "asked", "matches"),
    [
        pytest.param("ads.example", "ads.example", True, id="the name itself"),
        pytest.param("ads.example", "x.ads.example", True, id="a name below it"),
        pytest.param("ads.example", "a.b.c.d.ads.example", True, id="five labels below it"),
        pytest.param("ads.example", "badads.example", False, id="same ending, other label"),
        pytest.param("ads.example", "example", False, id="the name above"),
        pytest.param("ads.example", "ads.example.test", False, id="same beginning"),
        pytest.param("ads.example", "ads.examples", False, id="a longer last label"),
        pytest.param("ads.example", "other.example", False, id="a sibling"),
        pytest.param("ads.example", ".", False, id="the root"),
        pytest.param("ads.example", r"x\.ads.example", False, id="a dot within a label, RFC 2181 section 11"),
        pytest.param("ads.example", r"x\003ads.example", False, id="a length octet within a label"),
        pytest.param("ADS.example", "x.ads.EXAMPLE", True, id="letter case, RFC 4343"),
        pytest.param("example", "ads.example", True, id="a top-level name"),
        pytest.param(r"a\000b.example", r"x.a\000b.example", True, id="a zero octet within a label"),
        pytest.param(r"a\000b.example", r"b.example", False, id="what follows a zero octet"),
        pytest.param(r"\000.example", r"\000.example", True, id="a label of a zero octet alone"),
        pytest.param("a.example", "x" * 63 + ".a.example", True, id="a label of 63 octets"),
    ],
)
def test_a_suffix_rule(listed: str, asked: str, *, matches: bool) -> None:
    assert index(suffixes(listed)).hit(name(asked)) == (Hit(1, 1) if matches else NOTHING)


@pytest.mark.parametrize(
    ("asked", "in_exact", "in_below"),
    [
        ("ads.example", True, False),
        ("x.ads.example", False, True),
        ("x.y.ads.example", False, True),
        ("example", False, False),
    ],
)
def test_exact_and_below_rules(asked: str, *, in_exact: bool, in_below: bool) -> None:
    assert bool(index(exact("ads.example")).find(name(asked))) is in_exact
    assert bool(index(below("ads.example")).find(name(asked))) is in_below


def test_a_name_of_127_labels_is_found_by_its_last_two() -> None:
    assert index(suffixes("a.a")).hit(b"\1a" * 127 + b"\0") == Hit(1, 1)
    assert index(suffixes("b.a")).hit(b"\1a" * 127 + b"\0") == NOTHING


def test_each_list_keeps_its_own_bit() -> None:
    found = index(suffixes("ads.example"), exact("x.ads.example"), below("ads.example"), suffixes("example"))
    assert found.hit(name("ads.example")) == Hit(0b1001, 0b1001)
    assert found.hit(name("x.ads.example")) == Hit(0b1111, 0b1111)
    assert found.hit(name("y.x.ads.example")) == Hit(0b1101, 0b1101)
    assert found.hit(name("other.example")) == Hit(0b1000, 0b1000)


def test_what_names_above_say_is_merged_through_several_levels() -> None:
    found = index(suffixes("a"), exact("b.a"), suffixes("d.c.b.a"), exact("e.d.c.b.a"))
    assert found.hit(name("e.d.c.b.a")) == Hit(0b1101, 0b1101)
    assert found.hit(name("x.e.d.c.b.a")) == Hit(0b0101, 0b0101)
    assert found.hit(name("c.b.a")) == Hit(0b0001, 0b0001)
    assert found.hit(name("b.a")) == Hit(0b0011, 0b0011)


def test_a_name_may_stand_in_a_list_several_times_and_ways() -> None:
    rules = Rules(exact=[name("ads.example")] * 2, suffix=[name("ads.example")], below=[name("ads.example")])
    assert index(rules).hit(name("x.ads.example")) == Hit(1, 1)
    assert index(rules).count == 1


def test_allow_names_have_a_mask_of_their_own_and_cover_all_below() -> None:
    found = index(suffixes("example"), allow=["press.example"])
    assert found.hit(name("press.example")) == Hit(1, 1, 1)
    assert found.hit(name("x.press.example")) == Hit(1, 1, 1)
    assert found.hit(name("other.example")) == Hit(1, 1, 0)


@pytest.mark.parametrize(
    ("asked", "hit"),
    [
        pytest.param("bank.example", Hit(1, 0), id="the name itself"),
        pytest.param("x.bank.example", Hit(1, 0), id="below it"),
        pytest.param("login.bank.example", Hit(1, 0), id="below it, listed itself"),
        pytest.param("x.login.bank.example", Hit(1, 0), id="below that"),
        pytest.param("example", Hit(1, 0), id="the suffix above it"),
        pytest.param("ads.example", Hit(1, 0), id="what only that suffix names"),
        pytest.param("tracker.example", Hit(1, 1), id="a sibling with a rule of its own"),
        pytest.param("x.tracker.example", Hit(1, 1), id="below the sibling"),
    ],
)
def test_protected_names_are_held_but_not_blocked(asked: str, hit: Hit) -> None:
    found = index(suffixes("example", "login.bank.example", "tracker.example"), protected=["bank.example"])
    assert found.hit(name(asked)) == hit


@pytest.mark.parametrize(
    ("rules", "asked", "hit"),
    [
        pytest.param(exact("example"), "example", Hit(1, 1), id="the name alone"),
        pytest.param(exact("example"), "bank.example", NOTHING, id="the name alone, of the protected name"),
        pytest.param(suffixes("example"), "example", Hit(1, 0), id="a suffix, of its own name"),
        pytest.param(suffixes("example"), "other.example", Hit(1, 0), id="a suffix, of a name below"),
        pytest.param(below("example"), "other.example", Hit(1, 0), id="what is below"),
        pytest.param(
            Rules(exact=[name("example")], suffix=[name("example")]),
            "example",
            Hit(1, 0),
            id="the name and a suffix in one list, the same as the suffix",
        ),
        pytest.param(
            Rules(exact=[name("example")], below=[name("example")]),
            "example",
            Hit(1, 0),
            id="the name and what is below in one list, the same as a suffix",
        ),
        pytest.param(exact("a.bank.example"), "a.bank.example", Hit(1, 0), id="a name alone below the protected one"),
        pytest.param(exact("bank.example"), "bank.example", Hit(1, 0), id="the protected name alone"),
    ],
)
def test_above_a_protected_name_only_rules_for_the_name_alone_block(rules: Rules, asked: str, hit: Hit) -> None:
    assert index(rules, protected=["bank.example"]).hit(name(asked)) == hit


def test_above_a_protected_name_each_list_is_looked_at_by_itself() -> None:
    found = index(suffixes("example"), exact("example"), below("example"), protected=["bank.example"])
    assert found.hit(name("example")) == Hit(0b011, 0b010)
    assert found.hit(name("other.example")) == Hit(0b101, 0)


def test_a_name_alone_between_a_suffix_and_a_protected_name_is_blocked() -> None:
    found = index(Rules(exact=[name("b.example")], suffix=[name("example")]), protected=["bank.b.example"])
    assert found.hit(name("b.example")) == Hit(1, 1)
    assert found.hit(name("example")) == found.hit(name("x.b.example")) == Hit(1, 0)


def test_protection_takes_nothing_from_allow_names() -> None:
    found = index(suffixes("bank.example"), protected=["bank.example"], allow=["example"])
    assert found.hit(name("x.bank.example")) == Hit(1, 0, 1)


@pytest.mark.parametrize(
    ("rules", "asked", "hit"),
    [
        pytest.param(Rules(allow_suffix=[name("a.example")]), "a.example", NOTHING, id="of the name itself"),
        pytest.param(Rules(allow_suffix=[name("a.example")]), "x.a.example", NOTHING, id="of a name below"),
        pytest.param(Rules(allow_suffix=[name("a.example")]), "b.example", Hit(1, 1), id="not of another name"),
        pytest.param(Rules(allow_exact=[name("a.example")]), "a.example", NOTHING, id="of the name alone"),
        pytest.param(Rules(allow_exact=[name("a.example")]), "x.a.example", Hit(1, 1), id="not of what is below it"),
        pytest.param(Rules(allow_below=[name("a.example")]), "a.example", Hit(1, 1), id="not of the name above"),
        pytest.param(Rules(allow_below=[name("a.example")]), "x.a.example", NOTHING, id="of all below a name"),
        pytest.param(
            Rules(allow_suffix=[name("a.example")], suffix=[name("b.a.example")]),
            "x.b.a.example",
            Hit(1, 1),
            id="not of what is blocked nearer",
        ),
        pytest.param(
            Rules(allow_suffix=[name("a.example")], suffix=[name("a.example")]),
            "x.a.example",
            NOTHING,
            id="of what is blocked by the same name",
        ),
        pytest.param(
            Rules(allow_exact=[name("a.example")], suffix=[name("a.example")]),
            "x.a.example",
            Hit(1, 1),
            id="of the name alone, which is blocked with all below",
        ),
    ],
)
def test_an_allow_rule_takes_from_its_list(rules: Rules, asked: str, hit: Hit) -> None:
    rules.suffix.append(name("example"))
    assert index(rules).hit(name(asked)) == hit


def test_an_allow_rule_takes_nothing_from_other_lists_nor_from_allow_names() -> None:
    rules = Rules(suffix=[name("example")], allow_suffix=[name("a.example")])
    found = index(suffixes("a.example"), rules, suffixes("example"), allow=["example"])
    assert found.hit(name("x.a.example")) == Hit(0b101, 0b101, 1)
    assert found.hit(name("b.example")) == Hit(0b110, 0b110, 1)


@pytest.mark.parametrize(
    ("rules", "blocked"),
    [
        pytest.param(Rules(allow_suffix=[name("bank.example")]), True, id="with all below"),
        pytest.param(
            Rules(allow_exact=[name("bank.example")], allow_below=[name("bank.example")]), True, id="in two rules"
        ),
        pytest.param(Rules(allow_exact=[name("bank.example")]), False, id="alone: names below it would go along"),
        pytest.param(Rules(allow_below=[name("bank.example")]), False, id="not itself"),
        pytest.param(Rules(allow_suffix=[name("x.bank.example")]), False, id="not, but a name below it"),
        pytest.param(Rules(), False, id="not"),
    ],
)
def test_a_suffix_above_a_protected_name_blocks_where_its_list_allows_that_name(rules: Rules, *, blocked: bool) -> None:
    rules.suffix.append(name("example"))
    found = index(rules, protected=["bank.example"])
    assert found.hit(name("other.example")).blocks == blocked
    assert found.hit(name("bank.example")).blocks == 0
    assert found.hit(name("x.bank.example")).blocks == 0


def test_protected_names_that_no_list_names_are_not_listed() -> None:
    assert index(suffixes("other.example"), protected=["bank.example"]).hit(name("x.bank.example")) == NOTHING


def test_the_builder_tells_which_listed_names_stay_open() -> None:
    builder = Builder(protected=frozenset([name("bank.example")]))
    builder.block(0, suffixes("example", "bank.example", "x.bank.example", "tracker.example"))
    list(builder.chunks())
    assert sorted(map(to_text, builder.unblocked)) == ["bank.example", "example", "x.bank.example"]


def test_a_name_alone_above_a_protected_one_does_not_stay_open_and_is_not_told() -> None:
    builder = Builder(protected=frozenset([name("bank.example")]))
    builder.block(0, exact("example"))
    list(builder.chunks())
    assert builder.unblocked == []


# The definition. Few labels, so that hits happen; some of them have octets that could pass for a boundary.

LABELS = {"a": b"a", "b": b"b", "ab": b"ab", "0": b"\0", "1a": b"\1a", "a0": b"a\0"}
names = st.one_of(
    st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(tuple),  # so few that they stand above each other
    st.lists(st.sampled_from(sorted(LABELS)), min_size=1, max_size=4).map(tuple),
)
rules = st.builds(reference.Rule, names, st.sampled_from(reference.KINDS))
lists = st.lists(st.lists(rules, max_size=6).map(tuple).map(reference.List), max_size=4)


def encoded(labels: reference.Name) -> bytes:
    return labels_to_wire([LABELS[label] for label in labels])


def builder_of(world: reference.World, allow: Iterable[reference.Name]) -> Builder:
    builder = Builder(protected=frozenset(map(encoded, world.protected)))
    for number, each in enumerate(world.lists.values()):
        found = Rules()
        for rule in each.rules:
            getattr(found, rule.kind).append(encoded(rule.name))
        builder.block(number, found)
    builder.allow(2, list(map(encoded, allow)))
    return builder


def expected(world: reference.World, allow: Iterable[reference.Name], asked: reference.Name) -> Hit:
    return Hit(
        names=sum(1 << number for number, each in enumerate(world.lists) if world.names(each, asked)),
        blocks=sum(1 << number for number, each in enumerate(world.lists) if world.blocks(each, asked)),
        allows=4 if any(reference.is_at_or_below(asked, each) for each in allow) else 0,
    )


@thorough
@given(
    found=lists,
    protected=st.lists(names, max_size=2).map(tuple),
    allow=st.lists(names, max_size=2),
    asked=st.lists(names, min_size=1, max_size=12),
    chance=st.randoms(use_true_random=False),
)
def test_the_index_agrees_with_the_definition_in_whatever_order_it_is_loaded(
    found: list[reference.List],
    protected: tuple[reference.Name, ...],
    allow: list[reference.Name],
    asked: list[reference.Name],
    chance: random.Random,
) -> None:
    world = reference.World({str(number): each for number, each in enumerate(found)}, protected)
    chunks = list(builder_of(world, allow).chunks())
    loaded = Index()
    pieces = [piece for chunk in chunks for piece in cut(chunk)]
    for chunk in chance.sample(pieces, len(pieces)):
        loaded.load(chunk)
    whole = Index(chunks)
    assert whole.count == loaded.count
    for each in (*asked, *(rule.name for one in found for rule in one.rules), *protected):
        assert whole.hit(encoded(each)) == expected(world, allow, each), each
        assert loaded.hit(encoded(each)) == expected(world, allow, each), each


@thorough
@given(found=lists, asked=st.lists(names, min_size=1, max_size=12))
def test_the_builder_tells_which_lists_block_a_name_before_protection(
    found: list[reference.List], asked: list[reference.Name]
) -> None:
    world = reference.World({str(number): each for number, each in enumerate(found)})
    builder = builder_of(world, ())
    for each in (*asked, *(rule.name for one in found for rule in one.rules)):
        assert builder.blocks(encoded(each)) == expected(world, (), each).blocks


def cut(chunk: Chunk) -> list[Chunk]:
    """The same names in chunks of one."""
    pieces, octets = [], chunk.names
    while octets:
        at = 0
        while octets[at]:
            at += octets[at] + 1
        pieces.append(replace(chunk, count=1, names=octets[: at + 1]))
        octets = octets[at + 1 :]
    assert len(pieces) == chunk.count
    return pieces


def test_many_names_come_in_chunks_that_a_loader_takes_one_a_turn() -> None:
    builder = Builder()
    builder.block(0, Rules(suffix=[name(f"n{number}.example") for number in range(2 * CHUNK + 1)]))
    chunks = list(builder.chunks())
    assert [chunk.count for chunk in chunks] == [CHUNK, CHUNK, 1]
    loaded = Index(chunks)
    assert loaded.count == 2 * CHUNK + 1
    assert loaded.hit(name(f"x.n{2 * CHUNK}.example")) == Hit(1, 1)
    assert loaded.hit(name("nope.example")) == NOTHING


def test_an_index_is_discarded_a_chunk_for_each_step() -> None:
    builder = Builder()
    builder.block(0, Rules(suffix=[name(f"n{number:05}.example") for number in range(2 * CHUNK + 1)]))
    loaded = Index(builder.chunks())
    assert len(list(loaded.discard())) == 3


def test_names_that_say_the_same_share_a_set() -> None:
    found = index(suffixes(*(f"n{number}.example" for number in range(100))), suffixes("other.example"))
    assert len(found.sets) == 3, "nothing, the first list, the second"
    assert found.sets[0] == NOTHING
    assert found.find(name("nope.example")) == 0
