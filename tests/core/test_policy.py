"""The decision: its precedence, and that it agrees with the definition for any lists, groups and exemptions."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.clients import ClientRow, Clients, Prefixes, Style
from dnsfilter.core.exemptions import Exemption
from dnsfilter.core.index import Builder, Index
from dnsfilter.core.policy import CANARY, ONLY, Action, Blocking, Policy, Verdict, decide, decide_chain
from dnsfilter.core.rules import Rules
from dnsfilter.core.special import CANARIES
from tests.core import reference
from tests.core.make import labels_to_wire, name, suffixes, thorough

BLOCKING = Blocking(ipv4=bytes(4), ipv6=bytes(16), ttl=60, text=None)
WALL = 1_000.0


def policy(index: Index, row: ClientRow, zones: dict[bytes, int] | None = None) -> Policy:
    return Policy("hash", (), index, Clients(Prefixes(), Prefixes(), row), BLOCKING, zones or {})


def index() -> Index:
    """Three lists (bits 1, 2, 4), the canaries (8), and the allow name of one group."""
    builder = Builder()
    builder.block(0, suffixes("tiktok.example", "both.example"))
    builder.block(1, suffixes("games.example", "both.example"))
    builder.block(2, suffixes("news.example"))
    builder.block(3, Rules(suffix=list(CANARIES)))
    builder.allow(0, [name("press.tiktok.example"), name("mask.icloud.com")])
    return Index(builder.chunks())


ROW = ClientRow(
    group="managed",
    style=Style.NODATA,
    enforced=0b011,
    order=((2, "games"), (1, "tiktok")),
    allow=1,
    canary=8,
)
PRESS = Exemption("PRESS-1", 0b001, start=500.0, end=1_500.0)


@pytest.mark.parametrize(
    ("row", "asked", "verdict"),
    [
        pytest.param(ROW, "other.example", Verdict(Action.FORWARDED, "managed"), id="not listed"),
        pytest.param(
            ROW, "x.tiktok.example", Verdict(Action.BLOCKED, "managed", "tiktok", style=Style.NODATA), id="blocked"
        ),
        pytest.param(ROW, "news.example", Verdict(Action.FORWARDED, "managed"), id="listed, but not for this group"),
        pytest.param(
            ROW,
            "both.example",
            Verdict(Action.BLOCKED, "managed", "games", style=Style.NODATA),
            id="of several lists the first in the group's order is named",
        ),
        pytest.param(
            ROW, "x.press.tiktok.example", Verdict(Action.ALLOWED, "managed"), id="an allow name wins over a block"
        ),
        pytest.param(
            replace(ROW, allow=2),
            "press.tiktok.example",
            Verdict(Action.BLOCKED, "managed", "tiktok", style=Style.NODATA),
            id="another group's allow name does not",
        ),
        pytest.param(
            replace(ROW, allow_lists=0b100), "news.example", Verdict(Action.ALLOWED, "managed"), id="an allowed list"
        ),
        pytest.param(
            replace(ROW, allow_lists=0b001),
            "both.example",
            Verdict(Action.ALLOWED, "managed"),
            id="an allowed list wins over every block",
        ),
        pytest.param(
            ROW,
            "use-application-dns.net",
            Verdict(Action.BLOCKED, "managed", CANARY, style=Style.NXDOMAIN),
            id="a canary is NXDOMAIN whatever the style",
        ),
        pytest.param(ROW, "mask.icloud.com", Verdict(Action.ALLOWED, "managed"), id="an allow name lifts a canary"),
        pytest.param(
            replace(ROW, exemptions=(Exemption("ALL", 0b1111, 0.0, math.inf),)),
            "x.mask-h2.icloud.com",
            Verdict(Action.BLOCKED, "managed", CANARY, style=Style.NXDOMAIN),
            id="no exemption lifts a canary",
        ),
        pytest.param(
            replace(ROW, canary=0),
            "use-application-dns.net",
            Verdict(Action.FORWARDED, "managed"),
            id="a canary is ordinary for a group that enforces nothing",
        ),
        pytest.param(
            replace(ROW, exemptions=(PRESS,)),
            "tiktok.example",
            Verdict(Action.EXEMPTED, "managed", "tiktok", "PRESS-1", valid_s=500),
            id="exempted",
        ),
        pytest.param(
            replace(ROW, exemptions=(PRESS,)),
            "both.example",
            Verdict(Action.BLOCKED, "managed", "games", style=Style.NODATA, valid_s=500),
            id="an exemption lifts its own lists only",
        ),
        pytest.param(
            replace(ROW, exemptions=(PRESS, Exemption("GAMES-1", 0b010, 0.0, 2_000.0))),
            "both.example",
            Verdict(Action.EXEMPTED, "managed", "games", "GAMES-1", valid_s=500),
            id="exemptions lift together, and the one named is that of the list named",
        ),
        pytest.param(
            replace(ROW, exemptions=(PRESS,)),
            "other.example",
            Verdict(Action.FORWARDED, "managed"),
            id="an exemption that lifts nothing is not named",
        ),
        pytest.param(
            replace(ROW, exemptions=(replace(PRESS, start=1_030.5),)),
            "tiktok.example",
            Verdict(Action.BLOCKED, "managed", "tiktok", style=Style.NODATA, valid_s=30),
            id="a block ends when an exemption starts",
        ),
        pytest.param(
            replace(ROW, exemptions=(replace(PRESS, end=1_000.0),)),
            "tiktok.example",
            Verdict(Action.BLOCKED, "managed", "tiktok", style=Style.NODATA),
            id="an exemption that has ended",
        ),
        pytest.param(
            replace(ROW, exemptions=(replace(PRESS, end=1_000.25),)),
            "tiktok.example",
            Verdict(Action.EXEMPTED, "managed", "tiktok", "PRESS-1", valid_s=1),
            id="less than a second left counts as one",
        ),
        pytest.param(
            replace(ROW, enforced=0b001, observed=0b010),
            "games.example",
            Verdict(Action.OBSERVED, "managed", "games"),
            id="a list that is only observed",
        ),
        pytest.param(
            replace(ROW, enforced=0b001, observed=0b010),
            "both.example",
            Verdict(Action.BLOCKED, "managed", "tiktok", style=Style.NODATA),
            id="an enforced list before an observed one that comes first",
        ),
        pytest.param(
            replace(ROW, enforced=0b001, observed=0b010, exemptions=(PRESS,)),
            "both.example",
            Verdict(Action.EXEMPTED, "managed", "tiktok", "PRESS-1", valid_s=500),
            id="exempted before observed",
        ),
        pytest.param(
            replace(ROW, enforced=0b010, observed=0b001, exemptions=(PRESS,)),
            "tiktok.example",
            Verdict(Action.FORWARDED, "managed", valid_s=500),
            id="an exemption of an observed list is not named",
        ),
        pytest.param(
            replace(ROW, only=0b100, only_enforced=True),
            "other.example",
            Verdict(Action.BLOCKED, "managed", ONLY, style=Style.NODATA),
            id="outside of `only`",
        ),
        pytest.param(
            replace(ROW, only=0b100, only_enforced=True),
            "x.news.example",
            Verdict(Action.FORWARDED, "managed"),
            id="inside of `only`",
        ),
        pytest.param(
            replace(ROW, only=0b100),
            "other.example",
            Verdict(Action.OBSERVED, "managed", ONLY),
            id="outside of `only`, of a group that is observed",
        ),
        pytest.param(
            replace(ROW, only=0b100, only_enforced=True),
            "press.tiktok.example",
            Verdict(Action.ALLOWED, "managed"),
            id="an allow name outside of `only`",
        ),
        pytest.param(
            replace(ROW, only=0b100, only_enforced=True, exemptions=(PRESS,)),
            "tiktok.example",
            Verdict(Action.BLOCKED, "managed", ONLY, style=Style.NODATA, valid_s=500),
            id="an exemption does not lift `only`",
        ),
    ],
)
def test_precedence(row: ClientRow, asked: str, verdict: Verdict) -> None:
    assert decide(policy(index(), row), row, name(asked), WALL) == verdict


def chain_of(row: ClientRow, asked: str, *links: str) -> Verdict:
    found = policy(index(), row)
    verdict = decide(found, row, name(asked), WALL)
    chain = [(name(link), found.index.find(name(link))) for link in links]
    return decide_chain(found, row, verdict, chain, WALL)


def test_the_first_blocked_name_of_a_chain_decides() -> None:
    verdict = chain_of(ROW, "www.example", "other.example", "x.tiktok.example", "games.example")
    assert verdict == Verdict(Action.BLOCKED, "managed", "tiktok", style=Style.NODATA, via=name("x.tiktok.example"))


def test_an_allow_name_covers_the_whole_chain() -> None:
    assert chain_of(ROW, "press.tiktok.example", "games.example").action is Action.ALLOWED


def test_an_allow_name_in_the_chain_covers_itself_alone() -> None:
    verdict = chain_of(ROW, "www.example", "press.tiktok.example", "games.example")
    assert verdict == Verdict(Action.BLOCKED, "managed", "games", style=Style.NODATA, via=name("games.example"))
    assert chain_of(ROW, "www.example", "press.tiktok.example") == Verdict(Action.FORWARDED, "managed")


def test_an_exempted_link_is_named_and_bounds_the_time() -> None:
    row = replace(ROW, exemptions=(PRESS,))
    verdict = chain_of(row, "www.example", "tiktok.example")
    assert verdict == Verdict(Action.EXEMPTED, "managed", "tiktok", "PRESS-1", valid_s=500, via=name("tiktok.example"))


def test_a_blocked_link_wins_over_one_that_was_exempted_before_it() -> None:
    row = replace(ROW, exemptions=(PRESS,))
    verdict = chain_of(row, "tiktok.example", "games.example")
    assert (verdict.action, verdict.list_name, verdict.via) == (Action.BLOCKED, "games", name("games.example"))
    assert verdict.valid_s == 500


def test_only_asks_of_the_qname_alone() -> None:
    row = replace(ROW, only=0b100, only_enforced=True)
    assert chain_of(row, "news.example", "cdn.example").action is Action.FORWARDED


def test_a_canary_in_the_chain_is_nxdomain() -> None:
    verdict = chain_of(ROW, "www.example", "use-application-dns.net")
    assert (verdict.action, verdict.list_name, verdict.style) == (Action.BLOCKED, CANARY, Style.NXDOMAIN)


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        ("intra.example", 1),
        ("x.intra.example", 1),
        ("lab.intra.example", 2),
        ("x.lab.intra.example", 2),
        ("xintra.example", 0),
        ("example", 0),
        (".", 0),
    ],
)
def test_the_longest_forward_zone_decides_where_a_name_goes(asked: str, number: int) -> None:
    zones = {name("intra.example"): 1, name("lab.intra.example"): 2}
    assert policy(Index(), ROW, zones).zone(name(asked)) == number
    assert policy(Index(), ROW).zone(name(asked)) == 0


# The definition, for lists, a group and exemptions of any kind.

LISTS = ("l0", "l1", "l2")
labels = st.sampled_from(["a", "b"])
plain_names = st.lists(labels, min_size=1, max_size=2).map(tuple)
names = plain_names | st.sampled_from([*reference.CANARIES, ("a", *reference.CANARIES[0]), ("icloud", "com")])
rules = st.builds(reference.Rule, names, st.sampled_from(reference.KINDS))
some_lists = st.lists(st.sampled_from(LISTS), unique=True, max_size=3).map(tuple)
moments = st.sampled_from([900.0, 990.0, 999.5, 1_000.0, 1_000.5, 1_003.25, 1_060.0, 5_000.0])

worlds = st.builds(
    reference.World,
    st.fixed_dictionaries(
        {each: st.builds(reference.List, st.lists(rules, max_size=4).map(tuple), st.booleans()) for each in LISTS}
    ),
    st.lists(names, max_size=1).map(tuple),
)
groups = st.builds(
    reference.Group,
    block=some_lists,
    allow=st.lists(names, max_size=1).map(tuple),
    allow_lists=st.just(()) | some_lists,
    only=st.just(()) | some_lists,
    is_observed=st.booleans(),
    style=st.sampled_from([str(style) for style in Style]),
)
exemptions = st.lists(
    st.builds(
        lambda ident, of, times: reference.Exemption(ident, of, *sorted(times)),
        st.uuids().map(str),
        some_lists.filter(bool),
        st.lists(moments, min_size=2, max_size=2, unique=True),
    ),
    max_size=3,
)


def product(
    world: reference.World, group: reference.Group, held: list[reference.Exemption]
) -> tuple[Policy, ClientRow]:
    """The same in the compact form: one bit a list."""
    bits = {each: 1 << number for number, each in enumerate((*LISTS, CANARY))}
    builder = Builder(protected=frozenset(map(octets, world.protected)))
    for number, each in enumerate(LISTS):
        found = Rules()
        for rule in world.lists[each].rules:
            getattr(found, rule.kind).append(octets(rule.name))
        builder.block(number, found)
    builder.block(len(LISTS), Rules(suffix=list(CANARIES)))
    builder.allow(0, list(map(octets, group.allow)))

    def mask(of: tuple[str, ...]) -> int:
        return sum(bits[each] for each in of)

    observed = mask(tuple(each for each in group.block if group.is_observed or world.lists[each].is_observed))
    row = ClientRow(
        group=group.name,
        style=Style(group.style),
        enforced=mask(group.block) & ~observed,
        observed=observed,
        order=tuple((bits[each], each) for each in group.block),
        allow=1,
        allow_lists=mask(group.allow_lists),
        canary=bits[CANARY] if mask(group.block) & ~observed or (group.only and not group.is_observed) else 0,
        only=mask(group.only),
        only_enforced=bool(group.only) and not group.is_observed,
        exemptions=tuple(Exemption(each.id, mask(each.lists), each.start, each.end) for each in held),
    )
    return policy(Index(builder.chunks()), row), row


def octets(labels: reference.Name) -> bytes:
    return labels_to_wire([label.encode() for label in labels])


def compare(verdict: Verdict, expected: reference.Expected) -> None:
    assert (verdict.action, verdict.list_name, verdict.valid_s) == (
        expected.action,
        expected.list_name,
        expected.valid_s,
    )
    assert (None if verdict.style is None else str(verdict.style)) == expected.style
    assert verdict.via == (None if expected.via is None else octets(expected.via))
    assert verdict.exemption in (expected.exemptions or {""})


@thorough
@given(world=worlds, group=groups, held=exemptions, asked=names, wall=moments)
def test_the_decision_agrees_with_the_definition(
    world: reference.World, group: reference.Group, held: list[reference.Exemption], asked: reference.Name, wall: float
) -> None:
    found, row = product(world, group, held)
    verdict = decide(found, row, octets(asked), wall)
    compare(verdict, reference.judge(world, group, held, asked, wall, is_qname=True))


@thorough
@given(
    world=worlds,
    group=groups,
    held=exemptions,
    asked=names,
    chain=st.lists(names, max_size=3, unique=True),
    wall=moments,
)
def test_the_decision_on_a_chain_agrees_with_the_definition(
    world: reference.World,
    group: reference.Group,
    held: list[reference.Exemption],
    asked: reference.Name,
    chain: list[reference.Name],
    wall: float,
) -> None:
    found, row = product(world, group, held)
    verdict = decide(found, row, octets(asked), wall)
    if verdict.action is not Action.BLOCKED:  # a blocked question has no answer to judge
        links = [(octets(link), found.index.find(octets(link))) for link in chain]
        verdict = decide_chain(found, row, verdict, links, wall)
    compare(verdict, reference.judge_answer(world, group, held, asked, chain, wall))
