"""Questions for what is no host name: served as any other, octet for octet, and listed by nothing but labels."""

from collections.abc import Callable

import pytest

from tests.scenarios.client import NOERROR, Address, Edns, ask, labels, text_of
from tests.scenarios.conftest import Start
from tests.scenarios.expect import MANAGED, check_sinkholed, policy
from tests.scenarios.service import Service
from tests.scenarios.upstream import Upstream, address_of, default

STRANGE = [
    pytest.param(labels(b"https://banned.example/feed"), id="a URL as one label, with a dot inside"),
    pytest.param(labels(b"https://banned", b"example/feed"), id="a URL as labels"),
    pytest.param(labels(b"banned", b"example/feed"), id="a path in the last label"),
    pytest.param(labels(b"banned", b"example:443"), id="a port in the last label"),
    pytest.param(labels(b"user@banned", b"example"), id="a user before it"),
    pytest.param(labels(b"banned.example"), id="the listed name as one label"),
    pytest.param(labels(b"banned.example."), id="the same with its final dot"),
    pytest.param(labels(b"www.banned", b"example"), id="a dot within a label above the zone"),
    pytest.param(labels(b"*.banned.example"), id="a wildcard as one label"),
    pytest.param(labels(b"||banned.example^"), id="a rule as one label"),
    pytest.param(labels(b"banned ", b"example"), id="a space behind it"),
    pytest.param(labels(b"banned", b"example\0"), id="a zero octet behind it"),
    pytest.param(labels(b"banned\0", b"example"), id="a zero octet within it"),
    pytest.param(labels(b"\x06banned\x07example"), id="its wire form as one label"),
    pytest.param(labels(b"banned\\", b"example"), id="a backslash before the boundary"),
    pytest.param(labels(b"192", b"0", b"2", b"1"), id="an IPv4 address"),
    pytest.param(labels(b"2001:db8::1"), id="an IPv6 address"),
    pytest.param(labels(b"[2001:db8::1]:53"), id="an IPv6 address and a port"),
    pytest.param(labels(b"0x7f000001"), id="a number"),
    pytest.param(labels(b"_443", b"_tcp", b"x", b"example"), id="underscores"),
    pytest.param(labels("bücher".encode(), b"example"), id="UTF-8"),
    pytest.param(labels(b"xn--a-\xff", b"example"), id="no A-label although it begins like one"),
    pytest.param(labels(b"." * 63), id="a label of dots"),
    pytest.param(labels(b"-", b"-"), id="hyphens"),
    pytest.param(labels(b"printer.local"), id="a name answered here as one label"),
    pytest.param(labels(b"x.localhost"), id="localhost within a label"),
    pytest.param(labels(b"use-application-dns.net"), id="a canary as one label"),
]


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_that_is_no_host_name_is_forwarded_as_it_is(server: Address, upstream: Upstream, name: bytes) -> None:
    """RFC 2181 section 11: any octets make a label. Fresh, cached, over UDP and TCP, with and without data."""
    for edns in (None, Edns()):
        for tcp in (False, True):
            response = ask(server, name, "A", source=MANAGED, tcp=tcp, edns=edns)
            assert response.addresses == [address_of(text_of(name))]
            assert response.answer[0].owner.lower() == name.lower()
            assert not response.ede
    nodata = ask(server, name, "TXT", source=MANAGED)
    assert (nodata.rcode, nodata.answer) == (NOERROR, [])
    asked = [each for each in upstream.queries() if each.name == text_of(name)]
    assert [each.rdtype for each in asked] == [1, 16]


@pytest.mark.parametrize(
    "below",
    [
        pytest.param(labels(b"https://www", b"banned", b"example"), id="a URL"),
        pytest.param(labels(b"a.b", b"banned", b"example"), id="a dot within a label"),
        pytest.param(labels(b"\0", b"banned", b"example"), id="a zero octet"),
        pytest.param(labels(b"\\", b"banned", b"example"), id="a backslash"),
        pytest.param(labels(b"192", b"0", b"2", b"1", b"BANNED", b"example"), id="an IPv4 address"),
        pytest.param(labels(b"_dns", b"resolver", b"arpa", b"banned", b"example"), id="a name answered here"),
    ],
)
def test_below_a_listed_name_every_label_is_blocked(server: Address, below: bytes, listed_stays_here: None) -> None:
    for tcp in (False, True):
        check_sinkholed(ask(server, below, "A", source=MANAGED, tcp=tcp, edns=Edns()))
        check_sinkholed(ask(server, below, "HTTPS", source=MANAGED, tcp=tcp))


@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_the_root_is_a_name_as_any_other(server: Address, upstream: Upstream, tcp: bool) -> None:
    """RFC 1034 section 3.1: for data, for none, and for the keys that validators ask for."""
    upstream.on(".", '. 300 IN TXT "of the root"', "TXT")
    upstream.on(".", ". 300 IN DNSKEY 257 3 8 AAAA", "DNSKEY")
    upstream.on(".", default, "A")
    for edns in (None, Edns(do=True)):
        for _ in range(2):
            texts = ask(server, ".", "TXT", tcp=tcp, edns=edns, source=MANAGED).answer
            assert [(each.owner, each.rdata) for each in texts] == [(b"\0", b"\x0bof the root")]
            assert ask(server, ".", "DNSKEY", tcp=tcp, edns=edns, source=MANAGED).answer[0].rdtype == 48
            assert ask(server, ".", "A", tcp=tcp, edns=edns, source=MANAGED).addresses == [address_of(".")]
            assert not ask(server, ".", "MX", tcp=tcp, edns=edns, source=MANAGED).answer


def test_strange_names_are_counted_as_any_other(service: Service) -> None:
    """No name makes a label of a metric, and the page stays readable."""
    before = service.metric("dnsfilter_verdicts_total", group="managed", verdict="forwarded")
    for name in (labels(b'"} 1\n', b"example"), labels(b"https://banned.example/counted"), labels(b"\xff", b"example")):
        ask(service.dns, name, "A", source=MANAGED)
    assert service.metric("dnsfilter_verdicts_total", group="managed", verdict="forwarded") == before + 3
    assert "counted" not in service.http("/metrics")


def test_a_name_as_explain_shows_it_can_be_pasted_as_a_rule(start: Start, upstreams: Callable[[], Upstream]) -> None:
    """It blocks that name and those below, and no name that only reads like it."""
    names = [labels(b"a.b", b"example"), labels(b"a\0b", b"example"), labels(b"c d", b"example")]
    names += [labels(b"https://e", b"example"), labels(b"f", b"example/feed"), labels(b"g\\", b"example")]
    upstream = upstreams()
    service = start(policy(upstream))
    shown = []
    for name in names:
        done = service.command("explain", text_of(name), "--client", MANAGED)
        assert done.returncode == 0, done.stderr
        shown.append(done.stdout.split(maxsplit=1)[0])
    service.configure(policy(upstream, lists={"ban": {"domains": shown}}))
    assert "error" not in service.control("reload")
    for name in names:
        check_sinkholed(ask(service.dns, name, "A", source=MANAGED))
        check_sinkholed(ask(service.dns, labels(b"below")[:-1] + name, "A", source=MANAGED))
    for name in (
        labels(b"a", b"b", b"example"),
        labels(b"e", b"example"),
        labels(b"f", b"example"),
        labels(b"example"),
    ):
        assert ask(service.dns, name, "A", source=MANAGED).addresses == [address_of(text_of(name))]
