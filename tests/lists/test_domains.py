import pytest

from dnsfilter.core.names import from_text
from dnsfilter.core.rules import SKIPPED_KEPT, Match
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats import Found, find, parse


def suffixes(octets: bytes) -> list[bytes]:
    return parse(octets, "domains", Match.SUFFIX).suffix


def reason(line: bytes) -> str:
    """Why the line is no rule, in a list that has another one."""
    rules = parse(line + b"\nok.example\n", "domains", Match.SUFFIX)
    assert rules.suffix == [from_text("ok.example")]
    assert [skipped.line for skipped in rules.skipped] == [1]
    return rules.skipped[0].reason


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"app.example\nother.example\n", id="plain"),
        pytest.param(b"\xef\xbb\xbfapp.example\nother.example\n", id="byte order mark"),
        pytest.param("\ufeffapp.example\nother.example\n".encode("utf-16-le"), id="UTF-16, little endian"),
        pytest.param("\ufeffapp.example\r\nother.example\r\n".encode("utf-16-be"), id="UTF-16, big endian"),
        pytest.param(b"app.example\r\nother.example\r\n", id="CRLF"),
        pytest.param(b"app.example\rother.example\r", id="lone CR"),
        pytest.param(b"app.example\nother.example", id="no last line end"),
        pytest.param(b"app.example.\nother.example.\n", id="final dots"),
        pytest.param(b"APP.Example\nother.EXAMPLE\n", id="letter case"),
        pytest.param(b"# a list\n\napp.example # why\n\t \nother.example\t# why\n", id="# comments"),
        pytest.param(b"! Title: a list\napp.example\n !\nother.example\n", id="! comments"),
        pytest.param(b"# Gr\xf6\xdfe, in Latin-1\napp.example\nother.example # \x1b\n", id="any octets in comments"),
        pytest.param(b"  app.example\t\n\xc2\xa0other.example \n", id="white space around"),
        pytest.param(b"*.app.example\n*.other.example\n", id="a star covers the name itself"),
    ],
)
def test_ways_to_write_two_names(octets: bytes) -> None:
    rules = parse(octets, "domains", Match.SUFFIX)
    assert rules.suffix == [from_text("app.example"), from_text("other.example")]
    assert (rules.exact, rules.below, rules.skipped_count) == ([], [], 0)


def test_match_says_what_a_name_covers_and_a_star_covers_all_below() -> None:
    rules = parse(b"app.example\n*.other.example\n", "domains", Match.EXACT)
    assert (rules.exact, rules.suffix) == ([from_text("app.example")], [from_text("other.example")])


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        pytest.param(rb"/(^|\.)app\.example$/", "suffix", id="between slashes"),
        pytest.param(rb"(\.|^)app\.example$   # why", "suffix", id="without, and with a comment"),
        pytest.param(rb"^app\.example$", "exact", id="the name alone"),
        pytest.param(rb"\.app\.example$", "below", id="names below it"),
    ],
)
@pytest.mark.parametrize("match", Match)
def test_a_regular_expression_that_says_what_a_rule_says_is_that_rule(line: bytes, kind: str, match: Match) -> None:
    rules = parse(line + b"\nok.example\n", "domains", match)
    assert from_text("app.example") in getattr(rules, kind)
    assert (len(rules), rules.skipped) == (2, [])


@pytest.mark.parametrize(
    ("line", "wire"),
    [
        pytest.param("bücher.example", b"\x0dxn--bcher-kva\x07example\0", id="a letter that is not ASCII"),
        pytest.param("XN--BCHER-KVA.example", b"\x0dxn--bcher-kva\x07example\0", id="its A-label in capitals"),
        pytest.param("xn--a-.example", b"\x06xn--a-\x07example\0", id="an A-label that does not decode"),
        pytest.param(r"a\.b.app.example", b"\x03a.b\x03app\x07example\0", id="a dot in a label, as in logs"),
        pytest.param(r"\065\032\064.app.example", b"\x03a @\x03app\x07example\0", id="octets by number"),
        pytest.param(r"\042.app.example", b"\x01*\x03app\x07example\0", id="a star that is a star"),
        pytest.param("_dns.app.example", b"\x04_dns\x03app\x07example\0", id="an underscore"),
    ],
)
def test_names_in_other_spellings(line: str, wire: bytes) -> None:
    assert suffixes(line.encode()) == [wire]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        pytest.param(b"tok", "less than two labels", id="a single label"),
        pytest.param(b".", "less than two labels", id="the root"),
        pytest.param(b"*.com", "less than two labels", id="all of a top-level domain"),
        pytest.param(b"*", "a * may only", id="a star alone"),
        pytest.param(b"a.*.example", "a * may only", id="a star in the middle"),
        pytest.param(b"*app.example", "a * may only", id="a star in a label"),
        pytest.param(b"*.", "no name at all", id="a star over nothing"),
        pytest.param(b".app.example", "an empty label", id="a dot at the start"),
        pytest.param(b"app..example", "an empty label", id="two dots"),
        pytest.param(b"://", "':' is no part", id="punctuation"),
        pytest.param(b"user@host.example", "'@' is no part", id="a mail address"),
        pytest.param(b"app.example/feed", "'/' is no part", id="a path"),
        pytest.param(b"https://app.example/feed", "a URL; write the host name", id="a URL"),
        pytest.param(b"192.0.2.1", "an address", id="an IPv4 address"),
        pytest.param(b"192.0.2.1.", "an address", id="an IPv4 address with a dot"),
        pytest.param(b"2001:db8::1", "an address", id="an IPv6 address"),
        pytest.param(b"0.0.0.0 app.example", "set format: hosts", id="hosts"),
        pytest.param(
            b"address=/app.example/0.0.0.0", "this is dnsmasq syntax, set format: dnsmasq", id="dnsmasq address"
        ),
        pytest.param(b"server=/app.example/", "dnsmasq syntax", id="dnsmasq server"),
        pytest.param(b"local=/app.example/", "dnsmasq syntax", id="dnsmasq local"),
        pytest.param(b"||app.example^", "this is adblock syntax, set format: adblock", id="adblock"),
        pytest.param(b"||", "adblock syntax", id="adblock, nothing"),
        pytest.param(b"||^", "adblock syntax", id="adblock, all"),
        pytest.param(b"||*^", "adblock syntax", id="adblock, star"),
        pytest.param(b"@@||app.example^$important", "adblock syntax", id="adblock, allow"),
        pytest.param(b"app.example##.banner", "adblock syntax", id="adblock, cosmetic"),
        pytest.param(b"/.*/", "regular expressions are not supported", id="a regular expression"),
        pytest.param(b"/app.example/x", "'/' is no part", id="no regular expression, though it begins like one"),
        pytest.param(rb"app\.example$", "would match notapp.example too", id="a regular expression without slashes"),
        pytest.param(b"app.example CNAME .", "this is rpz syntax, set format: rpz", id="rpz"),
        pytest.param(b"$TTL 60", "rpz syntax", id="rpz, a directive"),
        pytest.param(b"<p>app.example</p>", "html", id="a line of HTML"),
        pytest.param(b"app.example other.example", "more than one word", id="two names"),
        pytest.param(b"app.example#comment", "'#' is no part", id="a comment without space"),
        pytest.param(b"ba\x1bd.example", r"'\x1b'", id="an escape byte"),
        pytest.param(b"ba\0d.example", r"'\x00'", id="a NUL"),
        pytest.param(b"ba\xffd.example", r"the byte \xff is not UTF-8", id="a byte that is not UTF-8"),
        pytest.param("a\u202eb.example".encode(), "no IDNA form", id="a change of writing direction"),
        pytest.param(b"a" * 64 + b".example", "63 is the most", id="a label too long"),
        pytest.param(b"a." * 127 + b"example", "255 is the most", id="a name too long"),
        pytest.param(rb"a\300.example", "a backslash", id="an escape out of range"),
    ],
)
def test_lines_that_are_no_rule_say_why(line: bytes, part: str) -> None:
    assert part in reason(line)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        pytest.param(b"ba\x1bd.example", r"ba\x1bd.example", id="an escape byte"),
        pytest.param(b"ba\0d.example", r"ba\x00d.example", id="a NUL"),
        pytest.param(b"ba\xffd.example", r"ba\xffd.example", id="a byte that is not UTF-8"),
        pytest.param("a\u202eb.example".encode(), r"a\u202eb.example", id="a change of writing direction"),
        pytest.param("☃.example".encode(), "☃.example", id="what prints stays"),
        pytest.param(b"x" * 61, "x" * 60 + "...", id="a long line is cut"),
    ],
)
def test_skipped_lines_are_shown_safely(line: bytes, shown: str) -> None:
    rules = parse(b"ok.example\n" + line + b"\nlast.example\n", "domains", Match.SUFFIX)
    assert len(rules) == 2
    assert [(skipped.line, skipped.text) for skipped in rules.skipped] == [(2, shown)]


def test_all_skipped_lines_are_counted_and_the_first_are_kept() -> None:
    rules = parse(b"ok.example\n" + b"bad\n" * 1000, "domains", Match.SUFFIX)
    assert (rules.skipped_count, len(rules.skipped)) == (1000, SKIPPED_KEPT)


@pytest.mark.parametrize(
    ("octets", "part"),
    [
        pytest.param(b"", "has no rule", id="empty"),
        pytest.param(b"# nothing\n\n! here\n", "has no rule", id="only comments"),
        pytest.param(b"0.0.0.0 a.example\n0.0.0.0 b.example\n", "0 of 2 lines understood", id="hosts, counted"),
        pytest.param(b"0.0.0.0 a.example\n", "expected format domains, looks like hosts", id="hosts"),
        pytest.param(b"address=/a.example/\n", "looks like dnsmasq", id="dnsmasq"),
        pytest.param(b"[Adblock Plus]\n! x\n||a.example^\n", "looks like adblock", id="adblock"),
        pytest.param(b"$TTL 60\n@ SOA a. b. 1 2 3 4 5\na.example CNAME .\n", "looks like rpz", id="rpz"),
        pytest.param(b"\n <!DOCTYPE html>\n<p>gone</p>\na.example\n", "web page (HTML)", id="HTML"),
        pytest.param(b"\xff\xfea", "encoding", id="UTF-16 cut short"),
        pytest.param(b"\x1f\x8b\x08\0\0", "compressed", id="gzip"),
        pytest.param(b"tok\n", "line 1: tok: less than two labels", id="the first line and its reason"),
    ],
)
def test_lists_that_are_refused_whole(octets: bytes, part: str) -> None:
    with pytest.raises(BadList) as caught:
        parse(octets, "domains", Match.SUFFIX)
    assert part in str(caught.value)


def test_find_gives_the_lines_that_name_a_wanted_name() -> None:
    octets = b"\xef\xbb\xbf# head\r\na.example\r\nB.example\r\n*.a.example # again\r\nx.a.example\r\na.example"
    wanted = [from_text("a.example"), from_text("b.example")]
    assert find(octets, "domains", Match.SUFFIX, wanted) == [
        Found(2, "a.example", wanted[0]),
        Found(3, "B.example", wanted[1]),
        Found(4, "*.a.example # again", wanted[0]),
        Found(6, "a.example", wanted[0]),
    ]
