import pytest

from dnsfilter.core.names import from_text
from dnsfilter.core.rules import Match
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats import Found, find, parse


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"0.0.0.0 a.example\n127.0.0.1 b.example\n", id="the two usual addresses"),
        pytest.param(b":: a.example\n::1 b.example\n", id="IPv6"),
        pytest.param(b"192.0.2.1 a.example\n2001:db8::1 b.example\n", id="any address"),
        pytest.param(b"fe80::1%lo0 a.example\n0.0.0.0 b.example\n", id="an address with a zone"),
        pytest.param(b"0.0.0.0 a.example \t b.example", id="two names on a line"),
        pytest.param(b"  0.0.0.0\ta.example.\r\n0.0.0.0   B.Example\r\n", id="white space, case, final dot, CRLF"),
        pytest.param(b"# head\n0.0.0.0 a.example#why\n0.0.0.0 b.example # why\n", id="comments"),
        pytest.param(
            b"127.0.0.1 localhost localhost.localdomain\n::1 localhost ip6-localhost ip6-loopback\n"
            b"fe80::1%lo0 localhost\n255.255.255.255 broadcasthost\n127.0.0.1 local\n0.0.0.0 0.0.0.0\n"
            b"0.0.0.0 localhost.localdomain\n0.0.0.0 a.example\n0.0.0.0 b.example\n",
            id="names of the machine itself",
        ),
    ],
)
def test_ways_to_write_two_names(octets: bytes) -> None:
    rules = parse(octets, "hosts", Match.EXACT)
    assert rules.exact == [from_text("a.example"), from_text("b.example")]
    assert (rules.suffix, rules.below, rules.skipped) == ([], [], [])


def test_a_line_can_be_read_as_suffixes_where_the_list_says_so() -> None:
    rules = parse(b"0.0.0.0 a.example b.example\n", "hosts", Match.SUFFIX)
    assert (rules.exact, rules.suffix) == ([], [from_text("a.example"), from_text("b.example")])


@pytest.mark.parametrize(
    ("line", "part"),
    [
        pytest.param(b"0.0.0.0", "an address without a name", id="no name"),
        pytest.param(b"0.0.0.0 # a.example", "an address without a name", id="the name is a comment"),
        pytest.param(b"999.0.0.0 a.example", "does not begin with an address", id="an address out of range"),
        pytest.param(b"a.example", "set format: domains", id="a name alone"),
        pytest.param(b"||a.example^", "adblock syntax", id="adblock"),
        pytest.param(b"address=/a.example/0.0.0.0", "dnsmasq syntax", id="dnsmasq"),
        pytest.param(b"0.0.0.0 tok", "less than two labels", id="a single label"),
        pytest.param(b"0.0.0.0 192.0.2.1", "an address", id="an address as a name"),
        pytest.param(b"0.0.0.0 *.a.example", "no wildcards", id="a star"),
        pytest.param(b"0.0.0.0 a\x1bb.example", r"'\x1b'", id="an escape byte"),
        pytest.param(b"0.0.0.0 a\xffb.example", r"the byte \xff is not UTF-8", id="not UTF-8"),
    ],
)
def test_lines_that_are_no_rule_say_why(line: bytes, part: str) -> None:
    rules = parse(line + b"\n0.0.0.0 ok.example\n", "hosts", Match.EXACT)
    assert rules.exact == [from_text("ok.example")]
    assert [skipped.line for skipped in rules.skipped] == [1]
    assert part in rules.skipped[0].reason


def test_one_bad_name_does_not_cost_the_others_of_its_line() -> None:
    rules = parse(b"0.0.0.0 a.example tok b.example\n", "hosts", Match.EXACT)
    assert rules.exact == [from_text("a.example"), from_text("b.example")]
    assert [(skipped.line, skipped.reason.partition(":")[0]) for skipped in rules.skipped] == [(1, "tok")]


@pytest.mark.parametrize(
    ("octets", "part"),
    [
        pytest.param(
            b"a.example\nb.example\n",
            "0 of 2 lines understood, expected format hosts, looks like domains",
            id="domains",
        ),
        pytest.param(b"127.0.0.1 localhost\n", "has no rule", id="nothing but the machine itself"),
    ],
)
def test_lists_that_are_refused_whole(octets: bytes, part: str) -> None:
    with pytest.raises(BadList) as caught:
        parse(octets, "hosts", Match.EXACT)
    assert part in str(caught.value)


def test_find_gives_the_lines_that_name_a_wanted_name() -> None:
    wanted = from_text("a.example")
    octets = b"0.0.0.0 x.example\n0.0.0.0 a.example\n0.0.0.0 b.example tok a.example\n"
    assert find(octets, "hosts", Match.EXACT, {wanted}) == [
        Found(2, "0.0.0.0 a.example", wanted),
        Found(3, "0.0.0.0 b.example tok a.example", wanted),
    ]
