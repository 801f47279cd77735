import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dnsfilter.core.names import from_text
from dnsfilter.core.rules import SKIPPED_KEPT, Match, Rules
from dnsfilter.lists.errors import BadLine, BadList
from dnsfilter.lists.formats import FORMATS, default_match, domains, find, hosts, parse, text

READ = {"domains": domains.read, "hosts": hosts.read}


def test_the_formats_and_what_their_names_cover() -> None:
    assert {name: default_match(name) for name in FORMATS} == {"domains": Match.SUFFIX, "hosts": Match.EXACT}


# Pieces that are plain alone, and the borders of what is: so that both ways are often taken.
PIECES = [b"a", b"A", b"1", b"b-", b"_c", b"x" * 63, b"x" * 64, b".", b".", b".", b".example", b".com", b"localhost"]
ENDS = [b"\n", b"\n", b"\r\n", b"\n0.0.0.0 ", b"\n0.0.0.0 ", b"\n127.0.0.1\t", b"\n::1 ", b"\n*.", b" #", b" ", b"\t"]
STRANGE = [b"\\", b"\xc3\xbc", b"\x1b", b"\xff", b"*", b"#"]
lists = st.lists(st.sampled_from([*PIECES, *PIECES, *ENDS, *ENDS, *STRANGE]), max_size=60).map(b"".join)

THREE_LONG_LABELS = b".".join([b"x" * 63] * 3) + b"."
LENGTHS = b"\n".join(THREE_LONG_LABELS + b"y" * length for length in (60, 61, 62))  # the longest name is the second


@pytest.mark.parametrize("format_name", FORMATS)
@given(octets=lists, match=st.sampled_from(Match))
@example(octets=b"a." + b"x" * 63 + b"\na." + b"x" * 64, match=Match.EXACT)
@example(octets=LENGTHS, match=Match.EXACT)
@example(octets=b"0.0.0.0 " + LENGTHS.replace(b"\n", b"\n0.0.0.0 "), match=Match.EXACT)
def test_runs_of_plain_lines_give_what_reading_line_by_line_gives(
    format_name: str, octets: bytes, match: Match
) -> None:
    expected, skipped = Rules(), []
    for number, line in enumerate(text.to_lines(octets).split(b"\n"), start=1):
        try:
            READ[format_name](line, match, expected)
        except BadLine:
            skipped.append(number)
    try:
        rules = parse(octets, format_name, match)
    except BadList:
        assert len(expected) == 0
        return
    assert (rules.exact, rules.suffix, rules.below) == (expected.exact, expected.suffix, expected.below)
    assert (rules.skipped_count, [line.line for line in rules.skipped]) == (len(skipped), skipped[:SKIPPED_KEPT])


def test_a_long_list_keeps_its_names_and_line_numbers() -> None:
    lines = [b"host%d.example" % number for number in range(1, 30_001)]
    lines[20_000] = b"bad"
    octets = b"\n".join(lines)
    rules = parse(octets, "domains", Match.SUFFIX)
    assert rules.suffix == [from_text(line.decode()) for line in lines if line != b"bad"]
    assert [skipped.line for skipped in rules.skipped] == [20_001]
    wanted = [from_text(f"host{number}.example") for number in (1, 15_000, 30_000)]
    assert [found.line for found in find(octets, "domains", Match.SUFFIX, wanted)] == [1, 15_000, 30_000]


@pytest.mark.parametrize("format_name", FORMATS)
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
    ],
)
def test_a_line_of_two_megabytes_costs_linear_time(format_name: str, junk: bytes) -> None:
    line = junk * (2_000_000 // len(junk))
    octets = b"0.0.0.0 a.example\nb.example\n" + line + b"\n0.0.0.0 c.example\nd.example\n"
    began = time.process_time()
    rules = parse(octets, format_name, Match.EXACT)
    assert time.process_time() - began < 2.0  # takes some hundredths
    assert len(rules) == 2
    assert all(len(skipped.text) < 70 and len(skipped.reason) < 200 for skipped in rules.skipped)
