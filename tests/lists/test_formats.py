"""What all formats have in common; what each of them says is in a file of its own."""

import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dnsfilter.core.names import from_text
from dnsfilter.core.rules import SKIPPED_KEPT, Match, Rules
from dnsfilter.lists.errors import BadLine, BadList
from dnsfilter.lists.formats import FORMATS, Found, default_match, find, parse, text
from dnsfilter.lists.formats.adblock import Adblock
from dnsfilter.lists.formats.dnsmasq import Dnsmasq
from dnsfilter.lists.formats.domains import Domains
from dnsfilter.lists.formats.hosts import Hosts
from dnsfilter.lists.formats.reader import Reader
from dnsfilter.lists.formats.rpz import Rpz
from tests.core.make import many

READERS: dict[str, type[Reader]] = {
    "domains": Domains,
    "hosts": Hosts,
    "adblock": Adblock,
    "dnsmasq": Dnsmasq,
    "rpz": Rpz,
}
every_format = pytest.mark.parametrize("format_name", FORMATS)


def test_the_formats_and_what_their_names_cover() -> None:
    assert {name: default_match(name) for name in FORMATS} == {
        "domains": Match.SUFFIX,
        "hosts": Match.EXACT,
        "adblock": None,
        "dnsmasq": Match.SUFFIX,
        "rpz": None,
    }


# ---- runs of plain lines ----

# Pieces that are plain alone, and the borders of what is: so that both ways are often taken.
PIECES = [b"a", b"A", b"1", b"b-", b"_c", b"x" * 63, b"x" * 64, b".", b".", b".", b".example", b".com", b"localhost"]
ENDS = [b"\n", b"\n", b"\r\n", b"\n0.0.0.0 ", b"\n0.0.0.0 ", b"\n127.0.0.1\t", b"\n::1 ", b"\n*.", b" #", b" ", b"\t"]
STRANGE = [b"\\", b"\xc3\xbc", b"\x1b", b"\xff", b"*", b"#"]
texts = st.lists(st.sampled_from([*PIECES, *PIECES, *ENDS, *ENDS, *STRANGE]), max_size=60).map(b"".join)

# Lines of each format, most of them plain: what stands before a name, and behind it.
BEFORE = {
    "domains": [b"", b"", b"*.", b" ", b"/(^|\\.)", b"# "],
    "hosts": [b"0.0.0.0 ", b"0.0.0.0 ", b"::\t ", b"127.0.0.1  ", b"192.0.2.1 ", b"0.0.0.0" + b" " * 65],
    "adblock": [b"||", b"||", b"@@||", b"@@", b"", b"*.", b".", b"|", b"||*.", b"0.0.0.0 ", b"!"],
    "dnsmasq": [b"address=/", b"local=/", b"server=/", b"server=/a.example/", b"address = /", b"#"],
    "rpz": [b"", b"", b"*.", b"*.", b" ", b"$ORIGIN ", b"@ CNAME .\n", b"[rpz.test.] ", b";", b"* CNAME .\n"],
}
BEHIND = {
    "domains": [b"\n", b"\n", b".\n", b" # why\n", b"$\n", b"$/\n"],
    "hosts": [b"\n", b"\n", b" a.example\n", b"#why\n", b" \n"],
    "adblock": [b"^\n", b"^\n", b"\n", b"|\n", b"^$important\n", b"^$badfilter\n", b"^$client=a\n", b"/x\n", b"##x\n"],
    "dnsmasq": [b"/0.0.0.0\n", b"/\n", b"/#\n", b"/::\n", b"/192.0.2.1\n", b"/ # why\n", b"\n"],
    "rpz": [
        *(b" CNAME .\n", b"\t\t60 IN\tCNAME *.\n", b" in 60 cname rpz-drop.\t;why\n", b" 60 CNAME .\n", b"\n"),
        *(b".rpz.test. CNAME .\n", b".rpz.test. IN CNAME .\n", b".rpz.test.\n", b". CNAME .\n", b" CNAME . .\n"),
        *(b" CNAME rpz-passthru.\n", b" A 192.0.2.1\n", b" AAAA ::\n", b" TXT (\n", b" )\n", b" CNAME a.example.\n"),
        *(b" 60 60 CNAME .\n", b".rpz.test. SOA a b 1 2 3 4 5\n", b".rpz-ip CNAME .\n", b".Rpz-Ip.rpz.test. CNAME .\n"),
    ],
}
HEADS = {"rpz": [b"", b"@ SOA a b 1 2 3 4 5\n", b"$ORIGIN rpz.test.\n@ SOA a b 1 2 3 4 5\n", b"rpz.test. NS a\n"]}
labels = st.sampled_from(
    [b"a", b"A", b"b-", b"_c", b"1", b"2", b"x" * 63, b"x" * 64, b"com", b"example", b"rpz-ip", b"*"]
)
names = st.one_of(
    st.sampled_from(
        [b"a.example", b"B.a.example", b"c.test", b"rpz.test.", b"a.rpz.test.", b"1.2.3.4", b"", b".", b"a"]
    ),
    st.lists(labels, min_size=1, max_size=5).map(b".".join),
)


def lines_of(format_name: str) -> st.SearchStrategy[bytes]:
    before, behind = st.sampled_from(BEFORE[format_name]), st.sampled_from(BEHIND[format_name])
    lines = st.lists(st.tuples(before, names, behind).map(b"".join), max_size=12).map(b"".join)
    return st.tuples(st.sampled_from(HEADS.get(format_name, [b""])), lines).map(b"".join)


LISTS = {name: lines_of(name) for name in FORMATS}

THREE_LONG_LABELS = b".".join([b"x" * 63] * 3) + b"."
LENGTHS = b"\n".join(THREE_LONG_LABELS + b"y" * length for length in (60, 61, 62))  # the longest name is the second


def line_by_line(octets: bytes, format_name: str, match: Match) -> tuple[Rules, list[int]]:
    """Read a list without its runs of plain lines; with the numbers of lines that are no rules."""
    reader, rules, skipped = READERS[format_name](match), Rules(), []
    octets = text.to_lines(octets)
    number, at = 1, 0
    while at < len(octets):
        end = reader.end(octets, at)
        try:
            reader.read(octets[at:end], rules)
        except BadLine:
            skipped.append(number)
        number, at = number + octets.count(b"\n", at, end), end
    reader.finish(rules)
    return rules, skipped


def content(rules: Rules) -> list[set[bytes]]:
    """What the rules say, however often, and whether or not in one rule for a name and all below it."""
    said = []
    for allows in (False, True):
        parts = {kind: set(text.part(rules, kind, allows=allows)) for kind in text.KINDS}
        said += [parts["exact"] | parts["suffix"], parts["below"] | parts["suffix"]]
    return said


def compare(octets: bytes, format_name: str, match: Match) -> None:
    expected, skipped = line_by_line(octets, format_name, match)
    try:
        rules = parse(octets, format_name, match)
    except BadList:
        assert not any(expected.blocked)
        return
    assert content(rules) == content(expected)
    assert (rules.skipped_count, [line.line for line in rules.skipped]) == (len(skipped), skipped[:SKIPPED_KEPT])


@every_format
@given(octets=texts, match=st.sampled_from(Match))
@example(octets=b"a." + b"x" * 63 + b"\na." + b"x" * 64, match=Match.EXACT)
@example(octets=LENGTHS, match=Match.EXACT)
@example(octets=b"0.0.0.0 " + LENGTHS.replace(b"\n", b"\n0.0.0.0 "), match=Match.EXACT)
@example(octets=b"||" + LENGTHS.replace(b"\n", b"^\n||") + b"^\n", match=Match.EXACT)
@example(octets=b"local=/" + LENGTHS.replace(b"\n", b"/\nlocal=/") + b"/\n", match=Match.EXACT)
@example(octets=b"a CNAME .\n" + LENGTHS.replace(b"\n", b" CNAME .\n") + b" CNAME .\n", match=Match.EXACT)
def test_runs_of_plain_lines_give_what_reading_line_by_line_gives(
    format_name: str, octets: bytes, match: Match
) -> None:
    compare(octets, format_name, match)


def test_a_record_repeated_outside_of_a_run_is_one_rule() -> None:
    compare(b"a.example CNAME .\na.example CNAME .\n*.a.example CNAME .\n", "rpz", Match.EXACT)


@every_format
@many
@given(data=st.data(), match=st.sampled_from(Match))
def test_lines_of_a_format_give_the_same_in_runs_and_one_by_one(
    format_name: str, data: st.DataObject, match: Match
) -> None:
    compare(data.draw(LISTS[format_name]), format_name, match)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b"1.2.0.192.rpz.test. CNAME .\n1.2.0.192 CNAME .\n", id="an address"),
        pytest.param(b"$ORIGIN 192.rpz.test.\n1.2.0 CNAME .\n", id="an address, its end in $ORIGIN"),
        *(
            pytest.param(b"x.y.%b.rpz.test. CNAME .\nx.y.%b CNAME .\n" % (label, label), id=label.decode())
            for label in (b"rpz-ip", b"rpz-client-ip", b"RPZ-nsip", b"rpz-nsdname")
        ),
        pytest.param(b"$ORIGIN rpz-ip.rpz.test.\nx.y CNAME .\n", id="rpz-ip in $ORIGIN"),
        pytest.param(b"$ORIGIN a.rpz.test.\n* CNAME .\n*.b CNAME .\n", id="all below a top-level domain"),
        pytest.param(b"$ORIGIN b.a.rpz.test.\n* CNAME .\n", id="all below a name"),
        pytest.param(b"*.a.example CNAME .\n A 192.0.2.1\n", id="an owner with a star, repeated"),
        pytest.param(b"$ORIGIN b.rpz.test.\na.c.rpz.test. CNAME .\n A 192.0.2.1\n", id="an absolute one, repeated"),
        pytest.param(b"a.b CNAME .\n$ORIGIN ..\na.b CNAME .\na.c.rpz.test. CNAME .\n", id="no origin"),
        pytest.param(b"$ORIGIN a\\.b.rpz.test.\nx.y CNAME .\n", id="an origin with a dot in a label"),
        pytest.param(b"$ORIGIN *.b.rpz.test.\nx.y CNAME .\n", id="an origin with a star"),
        pytest.param(b"$ORIGIN test.\na.b.rpz CNAME .\na.b CNAME .\n", id="an origin above the zone"),
        *(
            pytest.param(b"%b CNAME .\n*.%b CNAME .\n" % (name, name), id=f"{len(name)} characters")
            for name in (THREE_LONG_LABELS + b"y" * length for length in (1, 47, 48, 49, 50, 51, 52, 61))
        ),
    ],
)
def test_the_borders_of_what_is_plain_in_a_zone(lines: bytes) -> None:
    head = b"$ORIGIN rpz.test.\n@ SOA a b 1 2 3 4 5\n"
    for octets in (head + lines, head + lines + b"$ORIGIN rpz.test.\nz.example CNAME .\n"):
        compare(octets, "rpz", Match.EXACT)


@every_format
@many
@given(data=st.data(), match=st.sampled_from(Match))
def test_what_a_list_says_of_a_name_is_found_again(format_name: str, data: st.DataObject, match: Match) -> None:
    octets = data.draw(LISTS[format_name])
    try:
        rules = parse(octets, format_name, match)
    except BadList:
        return
    every = {name for names in content(rules) for name in names}
    found = find(octets, format_name, match, every)
    assert {each.name for each in found} == every
    assert [each.line for each in found] == sorted(each.line for each in found)
    for name in list(every)[:2]:
        assert find(octets, format_name, match, [name]) == [each for each in found if each.name == name]


def test_a_long_list_keeps_its_names_and_line_numbers() -> None:
    lines = [b"host%d.example" % number for number in range(1, 30_001)]
    lines[20_000] = b"bad"
    octets = b"\n".join(lines)
    rules = parse(octets, "domains", Match.SUFFIX)
    assert rules.suffix == [from_text(line.decode()) for line in lines if line != b"bad"]
    assert [skipped.line for skipped in rules.skipped] == [20_001]
    wanted = [from_text(f"host{number}.example") for number in (1, 15_000, 30_000)]
    assert [found.line for found in find(octets, "domains", Match.SUFFIX, wanted)] == [1, 15_000, 30_000]


# ---- one name in each format ----

LINE = {
    "domains": b"%s",
    "hosts": b"0.0.0.0 %s",
    "adblock": b"||%s^",
    "dnsmasq": b"local=/%s/",
    "rpz": b"%s CNAME .",
}
ALLOW = {"adblock": b"@@||%s^", "dnsmasq": b"server=/%s/#", "rpz": b"%s CNAME rpz-passthru."}


def listed(format_name: str, *names: str) -> bytes:
    return b"".join(LINE[format_name] % name.encode() + b"\n" for name in names)


@every_format
@pytest.mark.parametrize(
    ("encode", "line_end"),
    [
        pytest.param(str.encode, "\n", id="plain"),
        pytest.param(lambda text: b"\xef\xbb\xbf" + text.encode(), "\n", id="byte order mark"),
        pytest.param(lambda text: ("\ufeff" + text).encode("utf-16-le"), "\r\n", id="UTF-16"),
        pytest.param(str.encode, "\r\n", id="CRLF"),
        pytest.param(str.encode, "\r", id="lone CR"),
        pytest.param(lambda text: text.rstrip().encode(), "\n", id="no last line end"),
        pytest.param(str.encode, "\n\n", id="empty lines"),
        pytest.param(lambda text: text.upper().replace("LOCAL=", "local=").encode(), "\n", id="letter case"),
    ],
)
def test_octets_that_hold_the_same_lines(format_name: str, encode: Callable[[str], bytes], line_end: str) -> None:
    octets = encode(listed(format_name, "a.example", "b.example").decode().replace("\n", line_end))
    rules = parse(octets, format_name, default_match(format_name))
    assert rules.exact + rules.suffix == [from_text("a.example"), from_text("b.example")]
    assert rules.skipped == []


@every_format
@pytest.mark.parametrize("other", FORMATS)
def test_lines_of_another_format_are_refused_with_its_name(format_name: str, other: str) -> None:
    if format_name == other or (format_name, other) in {("adblock", "domains"), ("adblock", "hosts")}:
        return  # adblock reads those two as well
    octets = listed(other, "a.example") + listed(format_name, "b.example", "c.example")
    rules = parse(octets, format_name, default_match(format_name))
    assert [skipped.reason for skipped in rules.skipped] == [f"this is {other} syntax, set format: {other}"]
    with pytest.raises(BadList, match=f"0 of 1 lines understood, expected format {format_name}, looks like {other}; "):
        parse(listed(other, "a.example"), format_name, default_match(format_name))


@every_format
def test_find_gives_the_lines_of_a_name_in_order(format_name: str) -> None:
    octets = listed(format_name, "x.example", "a.example", "b.example", "A.example") + b"\n\n\n"
    octets += listed(format_name, "a.example")
    wanted = from_text("a.example")
    assert find(octets, format_name, default_match(format_name), [wanted]) == [
        Found(2, (LINE[format_name] % b"a.example").decode(), wanted),
        Found(4, (LINE[format_name] % b"A.example").decode(), wanted),
        Found(8, (LINE[format_name] % b"a.example").decode(), wanted),
    ]


@pytest.mark.parametrize("format_name", ALLOW)
def test_allow_rules_are_found_too(format_name: str) -> None:
    octets = listed(format_name, "example.test") + ALLOW[format_name] % b"a.example.test" + b"\n"
    wanted = from_text("a.example.test")
    assert [found.line for found in find(octets, format_name, None, [wanted])] == [2]


@pytest.mark.parametrize("format_name", ALLOW)
def test_a_list_of_allow_rules_alone_is_refused_since_it_blocks_nothing(format_name: str) -> None:
    with pytest.raises(BadList, match="it blocks nothing: only allow rules"):
        parse(ALLOW[format_name] % b"a.example" + b"\nx\n", format_name, None)


@every_format
@pytest.mark.parametrize("name", [".", "*", "com", "*.com", "com.", "", "..", "://", "*.*", "#"])
def test_nothing_that_would_cover_all_or_a_top_level_domain_is_ever_a_rule(format_name: str, name: str) -> None:
    octets = listed(format_name, name, "ok.example")
    assert len(parse(octets, format_name, default_match(format_name))) == 1


# ---- hostile lists ----


@every_format
def test_a_line_that_is_too_long_is_skipped_whatever_it_says(format_name: str) -> None:
    name = b"a.example"
    for length in (text.MAX_LINE, text.MAX_LINE + 1):
        line = (LINE[format_name] % name).replace(b" ", b" " * (length - len(LINE[format_name] % name)), 1)
        line = line.ljust(length - 1) + b"\n"
        rules = parse(line + listed(format_name, "b.example"), format_name, default_match(format_name))
        assert len(rules) == (2 if length == text.MAX_LINE else 1)
    assert rules.skipped[0].reason == f"{text.MAX_LINE} octets long; a line has less than {text.MAX_LINE}"


@every_format
@pytest.mark.parametrize("length", [2_000_000, 60_000])
@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(b"a", id="one label"),
        pytest.param(b"a.", id="labels"),
        pytest.param(b"\\", id="backslashes"),
        pytest.param("ü".encode(), id="not ASCII"),
        pytest.param(b"(^|", id="brackets"),
        pytest.param(b"a^", id="separators"),
        pytest.param(b"a#", id="hashes"),
        pytest.param(b" \t", id="white space"),
        pytest.param(b"1 A ", id="words"),
        pytest.param(b"(", id="parentheses"),
        pytest.param(b'"', id="quotes"),
        pytest.param(b"/$", id="ends of expressions"),
        pytest.param(b"||a.example^$a,", id="modifiers"),
        pytest.param(b"^(.*\\.)?", id="expressions"),
    ],
)
def test_long_lines_cost_linear_time(format_name: str, junk: bytes, length: int) -> None:
    line = junk * (length // len(junk)) + b"\n"
    octets = (
        listed(format_name, "a.example")
        + line * (2_000_000 // length if length > text.MAX_LINE else 10)
        + listed(format_name, "b.example")
    )
    began = time.process_time()
    rules = parse(octets, format_name, default_match(format_name))
    assert time.process_time() - began < 5.0  # takes some tenths at most
    assert len(rules) == 2
    assert all(len(skipped.text) < 70 and len(skipped.reason) < 200 for skipped in rules.skipped)


@every_format
@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(b"(\n", id="parentheses without an end"),
        pytest.param(b"a.example TXT (\n", id="records without an end"),
        pytest.param(b"a.example TXT " + b"(" * 500 + b"\n", id="parentheses in parentheses"),
        pytest.param(b"$ORIGIN a.b.test.\n$ORIGIN a\n$ORIGIN .\n", id="origins"),
        pytest.param(b'"\n', id="quotes without an end"),
        pytest.param(b"||" + b"a." * 120 + b"test^\n@@||" + b"a." * 119 + b"b.test^\n", id="labels"),
    ],
)
def test_many_lines_cost_linear_time(format_name: str, junk: bytes) -> None:
    octets = listed(format_name, "a.example") + junk * (150_000 // len(junk)) + listed(format_name, "b.example")
    began = time.process_time()
    rules = parse(octets, format_name, default_match(format_name))
    assert time.process_time() - began < 5.0  # takes some tenths
    assert {from_text("a.example"), from_text("b.example")} <= {name for names in content(rules) for name in names}
