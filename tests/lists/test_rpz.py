"""Response policy zones, in hand-written files and as other servers write them."""

import subprocess
from pathlib import Path

import pytest

from dnsfilter.core.names import from_text, to_text
from dnsfilter.core.rules import Rules
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats import Found, find, parse
from tests.programs import need

SOA = "@ SOA localhost. root.localhost. 1 3600 600 86400 60\n"


def read(octets: str | bytes) -> Rules:
    return parse(octets.encode() if isinstance(octets, str) else octets, "rpz", None)


def said(rules: Rules) -> set[str]:
    """What the rules say, a word for each."""
    parts = {
        "exact": rules.exact + rules.suffix,  # a suffix rule is what `x` and `*.x` say together
        "below": rules.below + rules.suffix,
        "allow": rules.allow_exact,
        "allow below": rules.allow_below,
    }
    assert rules.allow_suffix == [], "the syntax has none"
    return {f"{kind} {to_text(name)}" for kind, names in parts.items() for name in names}


def reason(line: str | bytes) -> str:
    """Why a line says nothing, in a zone whose name is the root, or in rpz.test where the line has that."""
    octets = line if isinstance(line, bytes) else line.encode()
    rules = read(b"$TTL 60\n" + SOA.encode() + b"ok.example CNAME .\n" + octets + b"\nlast.example. CNAME .\n")
    assert said(rules) == {"exact ok.example", "exact last.example"}
    assert [skipped.line for skipped in rules.skipped] == [4]
    return rules.skipped[0].reason


# ---- rules ----


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        pytest.param("app.example CNAME .", "exact app.example", id="NXDOMAIN"),
        pytest.param("app.example CNAME *.", "exact app.example", id="NODATA"),
        pytest.param("app.example CNAME rpz-drop.", "exact app.example", id="drop"),
        pytest.param("app.example CNAME rpz-passthru.", "allow app.example", id="let pass"),
        pytest.param("app.example CNAME app.example.", "allow app.example", id="let pass, as it was written before"),
        pytest.param("app.example A 192.0.2.1", "exact app.example", id="an address"),
        pytest.param("app.example AAAA 2001:db8::1", "exact app.example", id="an IPv6 address"),
        pytest.param('app.example TXT "blocked; see ( x"', "exact app.example", id="text"),
        pytest.param(r"app.example TYPE65280 \# 2 0102", "exact app.example", id="a type by its number"),
        pytest.param("*.app.example CNAME .", "below app.example", id="a star"),
        pytest.param("*.app.example CNAME rpz-passthru.", "allow below app.example", id="a star, let pass"),
        pytest.param("app.example. CNAME .", "exact app.example", id="absolute"),
        pytest.param("APP.Example cname .", "exact app.example", id="letter case"),
        pytest.param("app.example\t60\tIN\tCNAME\t.", "exact app.example", id="TTL and class"),
        pytest.param("app.example IN 1h30m CNAME .", "exact app.example", id="class and TTL"),
        pytest.param("app.example 1W CNAME .", "exact app.example", id="a TTL in weeks"),
        pytest.param("app.example CNAME . ; why", "exact app.example", id="a comment"),
        pytest.param(b"app.example CNAME . ; Gr\xf6\xdfe", "exact app.example", id="any octets in a comment"),
        pytest.param("app.example ( CNAME\n ; why\n . )", "exact app.example", id="parentheses"),
        pytest.param("a\\032b.example CNAME .", "exact a\\032b.example", id="an octet by its number"),
        pytest.param("a\\.b.example CNAME .", "exact a\\046b.example", id="a dot in a label"),
        pytest.param("a/b.example CNAME .", "exact a\\047b.example", id="a sign in a label"),
        pytest.param("café.example CNAME .", "exact xn--caf-dma.example", id="a letter that is not ASCII"),
        pytest.param("_dns.app.example CNAME .", "exact _dns.app.example", id="an underscore"),
    ],
)
def test_what_a_record_says(line: str | bytes, rule: str) -> None:
    octets = line if isinstance(line, bytes) else line.encode()
    rules = read(SOA.encode() + octets + b"\nok.example CNAME .\n")
    assert said(rules) == {rule, "exact ok.example"}
    assert rules.skipped == []


def test_the_longest_name_decides_so_what_is_let_pass_stands_beside_what_is_not() -> None:
    rules = read(SOA + "*.app.example CNAME .\nhelp.app.example CNAME rpz-passthru.\n")
    assert said(rules) == {"below app.example", "allow help.app.example"}


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("", id="nothing"),
        pytest.param("; a comment", id="a comment"),
        pytest.param(b";; Gr\xf6\xdfe (", id="a comment in Latin-1 with a parenthesis"),
        pytest.param(" \t ; a comment", id="a comment behind white space"),
        pytest.param("$TTL 1h ; why", id="a TTL"),
        pytest.param("@ NS localhost.", id="the zone's NS record"),
        pytest.param("@ TXT x", id="other data of the zone itself"),
        pytest.param(SOA, id="the SOA record again, as at the end of a transfer"),
        pytest.param("ok.example RRSIG CNAME 8 2 60 20300101000000 20200101000000 1 @ AAAA", id="a signature"),
        pytest.param("x.example NSEC y.example CNAME RRSIG NSEC", id="what signing adds"),
    ],
)
def test_lines_that_say_nothing(lines: str | bytes) -> None:
    octets = lines if isinstance(lines, bytes) else lines.encode()
    rules = read(SOA.encode() + octets + b"\nok.example CNAME .\n")
    assert (said(rules), rules.skipped) == ({"exact ok.example"}, [])


@pytest.mark.parametrize(
    ("line", "part"),
    [
        pytest.param("app.example CNAME garden.example.", "it redirects to another name", id="a redirection"),
        pytest.param("app.example CNAME garden.example", "it redirects to another name", id="a relative one"),
        pytest.param("app.example CNAME *.garden.example.", "it redirects", id="a redirection with a star"),
        pytest.param("*.app.example CNAME *.app.example.", "it redirects", id="a redirection to itself with a star"),
        pytest.param("app.example DNAME garden.example.", "it redirects", id="DNAME"),
        pytest.param("app.example CNAME rpz-tcp-only.", "rpz-tcp-only neither blocks nor lets pass", id="TCP only"),
        pytest.param("x.rpz.test CNAME rpz-passthru.x", "whose final dot may be missing", id="no final dot"),
        pytest.param("32.1.2.0.192.rpz-ip CNAME .", "rpz-ip goes by something else", id="addresses"),
        pytest.param("128.1.zz.db8.2001.RPZ-IP CNAME .", "rpz-ip goes by something else", id="IPv6 addresses"),
        pytest.param("24.0.2.0.192.rpz-client-ip CNAME .", "rpz-client-ip goes by something else", id="clients"),
        pytest.param("ns.example.rpz-nsdname CNAME .", "rpz-nsdname goes by something else", id="names of servers"),
        pytest.param("32.1.2.0.192.rpz-nsip CNAME .", "rpz-nsip goes by something else", id="addresses of servers"),
        pytest.param("sub.example NS ns.example.", "an NS record below", id="a delegation"),
        pytest.param("$INCLUDE other.zone", "$INCLUDE is not read", id="an include"),
        pytest.param("$GENERATE 1-9 a$.example CNAME .", "$GENERATE is not read", id="generated records"),
        pytest.param("com CNAME .", "less than two labels", id="a top-level domain"),
        pytest.param("*.com CNAME .", "less than two labels", id="all of a top-level domain"),
        pytest.param("* CNAME .", "less than two labels", id="everything"),
        pytest.param("a.*.example CNAME .", "a * may only be the first label", id="a star in the middle"),
        pytest.param("192.0.2.1 CNAME .", "an address, not a name", id="an address as a name"),
        pytest.param("app.example", "this is domains syntax, set format: domains", id="a name alone"),
        pytest.param("app.example IN 60", "no type", id="no type"),
        pytest.param("app.example A", "no data", id="no data"),
        pytest.param("app.example CNAME", "no data", id="no target"),
        pytest.param("app.example CNAME . .", "more than one name behind CNAME", id="two targets"),
        pytest.param("app.example CH CNAME .", "class CH", id="another class"),
        pytest.param("app.example 60 60 CNAME .", "'60' is no type of records", id="two TTLs"),
        pytest.param("app.example IN IN CNAME .", "'IN' is no type of records", id="two classes"),
        pytest.param("app.example BLOCK .", "'BLOCK' is no type of records", id="no such type"),
        pytest.param("app.example TYPE99999 x", "'TYPE99999' is no type of records", id="a number out of range"),
        pytest.param("app.example AXFR x", "'AXFR' is no type of records", id="a type of questions"),
        pytest.param("app..example CNAME .", "an empty label", id="two dots"),
        pytest.param("a." * 127 + "example CNAME .", "255 is the most", id="a name too long"),
        pytest.param(b"a\xffb.example CNAME .", "not UTF-8", id="not UTF-8"),
        pytest.param("app.example CNAME . )", "not readable as a record", id="a parenthesis too many"),
        pytest.param("app.example ( CNAME .", "not readable as a record: unbalanced parentheses", id="one too few"),
        pytest.param('"app.example CNAME .', "not readable as a record", id="a quote without an end"),
        pytest.param("other.example. SOA a. b. 1 2 3 4 5", "an SOA record of another zone", id="another zone"),
        pytest.param("0.0.0.0 app.example", "this is hosts syntax, set format: hosts", id="hosts"),
        pytest.param("||app.example^", "this is adblock syntax, set format: adblock", id="adblock"),
        pytest.param("local=/app.example/", "this is dnsmasq syntax, set format: dnsmasq", id="dnsmasq"),
    ],
)
def test_records_that_are_no_rule_say_why(line: str | bytes, part: str) -> None:
    assert part in reason(line)


def test_a_line_that_does_not_end_its_parentheses_costs_no_other_line() -> None:
    rules = read(SOA + "a.example TXT ( x\n" * 20 + "b.example CNAME .\n*.b.example CNAME .\n")
    assert said(rules) == {"exact b.example", "below b.example"}
    assert [skipped.line for skipped in rules.skipped] == list(range(2, 22))


def test_a_record_over_several_lines_is_counted_where_it_begins() -> None:
    rules = read(SOA + "a.example (\n CNAME\n c.example. ) ; why\nb.example CNAME .\nx\n")
    assert said(rules) == {"exact b.example"}
    assert [skipped.line for skipped in rules.skipped] == [2, 6]


# ---- owners, origins and the zone ----


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(SOA + "a.example CNAME .\n*.a.example CNAME .\n", id="no zone: all is relative"),
        pytest.param("a.example CNAME .\n*.a.example CNAME .\n", id="nothing but rules"),
        pytest.param("$ORIGIN rpz.test.\n" + SOA + "a.example CNAME .\n*.a.example CNAME .\n", id="relative"),
        pytest.param(
            "rpz.test. SOA a. b. 1 2 3 4 5\na.example.rpz.test. CNAME .\n*.a.example.rpz.test. CNAME .\n",
            id="absolute",
        ),
        pytest.param("$ORIGIN rpz.test.\na.example CNAME .\n*.a.example.RPZ.test. CNAME .\n", id="no SOA record"),
        pytest.param(
            "$ORIGIN test.\nrpz SOA a b 1 2 3 4 5\na.example.rpz CNAME .\n$ORIGIN example.rpz\n*.a CNAME .\n",
            id="relative origins",
        ),
        pytest.param(
            "$ORIGIN .\nrpz.test SOA a. b. (1 2 ; why\n 3 4 5)\n NS a.\n$ORIGIN example.rpz.test.\na CNAME .\n"
            "$ORIGIN a.example.rpz.test.\n* CNAME .\n",
            id="an origin for each",
        ),
        pytest.param("$ORIGIN rpz.test.\n$ORIGIN example\na CNAME .\n$ORIGIN a\n* CNAME .\n", id="origins in origins"),
        pytest.param(
            "[rpz.test.] rpz.test. 60 NS a.\n[rpz.test.] rpz.test. 60 SOA a. b. 1 2 3 4 5\n"
            "[rpz.test.] a.example.rpz.test. 60 CNAME .\n[rpz.test.] *.a.example.rpz.test. 60 CNAME .\n",
            id="as a server shows a zone it has loaded",
        ),
    ],
)
def test_ways_to_write_the_same_zone(text: str) -> None:
    rules = read(text)
    assert said(rules) == {"exact a.example", "below a.example"}
    assert rules.skipped == []


def test_an_owner_that_is_not_written_is_the_one_before() -> None:
    rules = read(SOA + " NS a.\na.example A 192.0.2.1\n AAAA 2001:db8::1\nb.example CNAME .\n\tTXT x\n")
    assert (said(rules), rules.skipped) == ({"exact a.example", "exact b.example"}, [])


def test_an_owner_before_that_is_no_name_is_not_repeated() -> None:
    rules = read(SOA + "a.example CNAME .\nb..example CNAME .\n TXT x\n")
    assert said(rules) == {"exact a.example"}
    assert [skipped.line for skipped in rules.skipped] == [3, 4]
    assert rules.skipped[1].reason.startswith("no owner")


def test_what_is_not_in_the_zone_is_no_rule() -> None:
    rules = read("$ORIGIN rpz.test.\n" + SOA + "a.example CNAME .\nb.example. CNAME .\nc.example.xrpz.test. CNAME .\n")
    assert said(rules) == {"exact a.example"}
    assert [skipped.reason for skipped in rules.skipped] == ["not in the zone, which is rpz.test"] * 2


def test_where_an_origin_is_not_readable_only_absolute_names_count() -> None:
    rules = read(
        "$ORIGIN rpz.test.\n" + SOA + "a.example CNAME .\n$ORIGIN x..y\nb.example CNAME .\n"
        "c.example.rpz.test. CNAME .\n$ORIGIN rpz.test.\nd.example CNAME .\n$ORIGIN\n"
    )
    assert said(rules) == {"exact a.example", "exact c.example", "exact d.example"}
    assert [skipped.line for skipped in rules.skipped] == [4, 5, 9]


def test_an_owner_and_its_origin_are_no_name_too_long() -> None:
    long = ".".join(["x" * 63] * 3) + "." + "y" * 50
    rules = read(f"$ORIGIN rpz.test.\n{SOA}{long} CNAME .\n{long}yyy CNAME .\n{long}.rpz.test. CNAME .\n")
    assert said(rules) == {f"exact {long}"}
    assert [skipped.reason for skipped in rules.skipped] == ["a name of 256 octets; 255 is the most"]


def test_a_zone_that_lets_everything_pass_blocks_nothing() -> None:
    with pytest.raises(BadList, match="it blocks nothing"):
        read(SOA + "a.example CNAME rpz-passthru.\n")


def test_find_gives_the_record_and_where_it_begins() -> None:
    octets = (
        b"$ORIGIN rpz.test.\n@ SOA a b ( 1 2\n 3 4 5 )\nb.example CNAME .\n*.b.example CNAME .\n"
        b"$ORIGIN example.rpz.test.\nb (\n CNAME rpz-passthru. )\nc CNAME .\nb CNAME .\n"
    )
    wanted = from_text("b.example")
    assert find(octets, "rpz", None, {wanted}) == [
        Found(4, "b.example CNAME .", wanted),
        Found(5, "*.b.example CNAME .", wanted),
        Found(7, "b ( CNAME rpz-passthru. )", wanted),
        Found(10, "b CNAME .", wanted),
    ]


# ---- zones as servers write them ----

ZONE = r"""$TTL 1h
@ SOA ns.example. root.example. ( 1 2
  3 4 ; why
  5 )
  NS ns.example.
app.example CNAME .
*.app.example CNAME .
*.deep.app.example CNAME rpz-passthru.
www.b.example CNAME *.
c.example TXT "a ; b" "( c"
  A 192.0.2.1
  AAAA 2001:db8::1
a\032b.example CNAME .
a/b.example CNAME .
32.1.2.0.192.rpz-ip CNAME .
other.example 60 IN CNAME .
pass.example CNAME rpz-passthru.
redirected.example CNAME garden.example.
"""


@pytest.mark.parametrize("style", ["full", "relative"])
def test_a_zone_as_bind_writes_it(style: str, tmp_path: Path) -> None:
    program = need("named-compilezone", "bind9-utils")
    source, dump = tmp_path / "source", tmp_path / "dump"
    source.write_text(ZONE, encoding="utf-8")
    options = ["-q", "-i", "none", "-k", "ignore", "-n", "ignore", "-s", style]
    subprocess.run([program, *options, "-o", dump, "rpz.test", source], check=True, timeout=60)
    written, original = read(dump.read_bytes()), read(ZONE)
    assert said(written) == said(original)
    assert {"exact app.example", "below app.example", "exact c.example", "allow pass.example"} <= said(original)
    reasons = [sorted(each.reason for each in rules.skipped) for rules in (written, original)]
    assert reasons[0] == reasons[1]
    assert len(reasons[0]) == 2


def test_a_zone_as_knot_writes_it() -> None:
    rules = read(
        ";; Zone dump (Knot DNS 3.2.6)\n"
        "rpz.test.           \t3600\tSOA\tns.rpz.test. root.rpz.test. 1 2 3 4 5\n"
        "rpz.test.           \t3600\tNS\tns.rpz.test.\n"
        "app.example.rpz.test. \t3600\tCNAME\t.\n"
        "*.app.example.rpz.test.\t3600\tCNAME\t.\n"
        "a\\032b.example.rpz.test.\t3600\tCNAME\t.\n"
        'c.example.rpz.test. \t3600\tTXT\t"a ; b" "c"\n'
        "other.example.rpz.test.\t60\tCNAME\t.\n"
        ";; Written 7 records\n"
        ";; Time 2027-01-01 00:00:00 UTC\n"
    )
    assert said(rules) == {
        *("exact app.example", "below app.example", "exact c.example", "exact other.example"),
        "exact a\\032b.example",
    }
    assert rules.skipped == []
