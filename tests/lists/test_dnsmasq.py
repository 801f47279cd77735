import pytest

from dnsfilter.core.names import from_text
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats import Found, find, parse

A, B = from_text("a.example"), from_text("b.example")
OK = from_text("ok.example")


def read(*lines: str | bytes, match: Match | None = None) -> Rules:
    """The rules of these lines and `local=/ok.example/`."""
    octets = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    return parse(octets + b"\nlocal=/ok.example/\n", "dnsmasq", match)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["address=/a.example/0.0.0.0", "address=/b.example/0.0.0.0"], id="address, zero"),
        pytest.param(["address=/a.example/::", "address=/b.example/2001:db8::1"], id="address, IPv6"),
        pytest.param(["address=/a.example/192.0.2.1", "address=/b.example/127.0.0.1"], id="address, any"),
        pytest.param(["address=/a.example/", "address=/b.example/#"], id="address, none"),
        pytest.param(["server=/a.example/", "server=/b.example/"], id="server"),
        pytest.param(["local=/a.example/", "local=/b.example/"], id="local"),
        pytest.param(["address=/a.example/b.example/0.0.0.0"], id="two names"),
        pytest.param(["local=/a.example/b.example/"], id="two names of local"),
        pytest.param(["  address = /A.Example./0.0.0.0 ", "local= /b.example/"], id="white space, case, final dot"),
        pytest.param(["local=/.a.example/", "address=/..b.example/#"], id="a dot before the name"),
        pytest.param(["# head", "local=/a.example/ # why", "", "  # x", "local=/b.example/\t#x"], id="comments"),
        pytest.param([b"# Gr\xf6\xdfe", "local=/a.example/", "local=/b.example/"], id="any octets in comments"),
        pytest.param(["local=/a.example/\r", "local=/b.example/\r"], id="CRLF"),
    ],
)
def test_ways_to_block_two_names(lines: list[str]) -> None:
    rules = read(*lines)
    assert rules.suffix == [A, B, OK]
    assert (len(rules), rules.skipped) == (3, [])


def test_match_says_what_a_name_covers() -> None:
    rules = read("local=/a.example/", "server=/b.example/#", match=Match.EXACT)
    assert (rules.exact, rules.allow_exact, len(rules)) == ([A, OK], [B], 3)


@pytest.mark.parametrize("line", ["server=/a.example/b.example/#", "local=/a.example/b.example/#"])
def test_names_sent_to_the_usual_resolvers_are_allowed(line: str) -> None:
    rules = read(line)
    assert (rules.allow_suffix, rules.suffix, rules.skipped) == ([A, B], [OK], [])


@pytest.mark.parametrize(
    ("line", "part"),
    [
        pytest.param("server=/a.example/192.0.2.1", "sends these names to another resolver", id="forwarding"),
        pytest.param("server=/a.example/192.0.2.1#5353", "to another resolver", id="forwarding to a port"),
        pytest.param("address=/a.example/b.example", "'b.example' behind the last slash is no address", id="no slash"),
        pytest.param("address=/#/0.0.0.0", "it stands for every name", id="every name"),
        pytest.param("address=//0.0.0.0", "all names without a dot", id="no name"),
        pytest.param("local=//", "all names without a dot", id="no name of local"),
        pytest.param("address=0.0.0.0", "no name between slashes", id="no slashes"),
        pytest.param("server=192.0.2.1", "no name between slashes", id="an upstream"),
        pytest.param("local=/a.example", "no name between slashes", id="one slash"),
        pytest.param("local=", "no name between slashes", id="nothing"),
        pytest.param("address=/*.a.example/", "a * is not read", id="a star"),
        pytest.param("address=/ad*.example/", "a * is not read", id="a star in a label"),
        pytest.param("address=/com/", "less than two labels", id="a top-level domain"),
        pytest.param("address=/./", "no name at all", id="the root"),
        pytest.param("address=/a..example/", "an empty label", id="two dots"),
        pytest.param("address=/192.0.2.1/", "an address, not a name", id="an address as a name"),
        pytest.param("ipset=/a.example/x", "ipset says nothing of blocking", id="ipset"),
        pytest.param("nftset=/a.example/x", "nftset says nothing of blocking", id="nftset"),
        pytest.param("conf-file=/etc/x", "conf-file says nothing", id="conf-file"),
        pytest.param("bogus-nxdomain=192.0.2.1", "bogus-nxdomain says nothing", id="bogus-nxdomain"),
        pytest.param("cname=a.example,b.example", "cname says nothing", id="cname"),
        pytest.param("host-record=a.example,192.0.2.1", "host-record says nothing", id="host-record"),
        pytest.param("domain-needed", "domain-needed says nothing", id="an option alone"),
        pytest.param("address", "address says nothing", id="an option without its value"),
        pytest.param("a.example", "this is domains syntax, set format: domains", id="a name"),
        pytest.param("0.0.0.0 a.example", "this is hosts syntax, set format: hosts", id="hosts"),
        pytest.param("||a.example^", "this is adblock syntax, set format: adblock", id="adblock"),
        pytest.param("a.example CNAME .", "this is rpz syntax, set format: rpz", id="rpz"),
        pytest.param("/^a/", "this is regular expression syntax, which format: dnsmasq does not read", id="expression"),
        pytest.param(b"local=/a\x1bb.example/", r"'\x1b'", id="an escape byte"),
        pytest.param(b"local=/a\xffb.example/", r"the byte \xff is not UTF-8", id="not UTF-8"),
    ],
)
def test_lines_that_are_no_rule_say_why(line: str | bytes, part: str) -> None:
    rules = read(line)
    assert rules.suffix == [OK]
    assert [skipped.line for skipped in rules.skipped] == [1]
    assert part in rules.skipped[0].reason


def test_one_bad_name_does_not_cost_the_others_of_its_line() -> None:
    rules = read("address=/a.example/tok/*.x.example/b.example/0.0.0.0")
    assert rules.suffix == [A, B, OK]
    assert [(skipped.line, skipped.reason.partition(":")[0]) for skipped in rules.skipped] == [(1, "tok")]


def test_a_configuration_without_names_is_no_list() -> None:
    with pytest.raises(BadList, match="0 of 2 lines understood, expected format dnsmasq; line 1: no-resolv: "):
        parse(b"no-resolv\ncache-size=1000\n", "dnsmasq", None)


def test_find_gives_the_lines_that_name_a_wanted_name() -> None:
    octets = b"local=/x.example/\nlocal=/a.example/\naddress=/b.example/a.example/\nserver=/a.example/#\n"
    assert find(octets, "dnsmasq", None, {A}) == [
        Found(2, "local=/a.example/", A),
        Found(3, "address=/b.example/a.example/", A),
        Found(4, "server=/a.example/#", A),
    ]
