"""What a blocked question gets, whatever way it is asked, and that nothing else of a ban leaks."""

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from tests.scenarios.client import (
    AD,
    ADDITIONAL,
    ANY_CLASS,
    AUTHORITY,
    CD,
    CH,
    COOKIE,
    EDE,
    HS,
    NOERROR,
    NONE,
    NXDOMAIN,
    OPT,
    PADDING,
    QR,
    REFUSED,
    SERVFAIL,
    TC,
    Address,
    Edns,
    Response,
    TcpClient,
    UdpClient,
    ask,
    check_echo,
    exchange,
    labels,
    query,
    read,
    text_of,
    type_code,
)
from tests.scenarios.conftest import Start
from tests.scenarios.expect import (
    EXEMPT,
    LISTED,
    MANAGED,
    UNMANAGED,
    check_explained,
    check_sinkholed,
    check_soa,
    nothing_of,
    policy,
    rdata_text,
)
from tests.scenarios.service import Service
from tests.scenarios.upstream import SILENCE, Action, Asked, Send, Upstream, address_of, nodata, reply

TYPES: list[str | int] = [
    *("A", "AAAA", "HTTPS", "SVCB", "TXT", "MX", "ANY", "NS", "SOA", "DS", "CNAME", "SRV", "PTR", "CAA", "DNSKEY"),
    *("NULL", "HINFO", "NAPTR", "DNAME", "TYPE65280", 0, "OPT"),
]
BELOW = "www." + LISTED
DATA_TYPES = [kind for kind in TYPES if kind not in ("ANY", 0, "OPT")]


@pytest.mark.parametrize("rdtype", TYPES)
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_every_query_type_gets_the_policy_answer(
    server: Address, rdtype: str | int, tcp: bool, listed_stays_here: None
) -> None:
    """At and below the listed name, nothing upstream (RFC 3597, RFC 8482, RFC 9460)."""
    for name in (LISTED, BELOW):
        check_sinkholed(ask(server, name, rdtype, source=MANAGED, tcp=tcp, edns=Edns()))
        check_sinkholed(ask(server, name, rdtype, source=MANAGED, tcp=tcp))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(labels(*[b"a"] * 60, b"banned", b"example"), id="60 labels below"),
        pytest.param(labels(b"l" * 63, b"l" * 63, b"l" * 63, b"m" * 46, b"banned", b"example"), id="255 octets long"),
        pytest.param(labels(b"\0\xff", b"banned", b"example"), id="odd octets below"),
        pytest.param(labels(b"BaNnEd", b"eXaMpLe"), id="letter case, RFC 4343"),
        pytest.param(labels(b"*", b"banned", b"example"), id="a star below"),
    ],
)
def test_all_names_below_are_blocked(server: Address, name: bytes, listed_stays_here: None) -> None:
    """RFC 1035 2.3.4."""
    for edns in (None, Edns()):
        check_sinkholed(ask(server, name, "A", source=MANAGED, edns=edns))
        check_sinkholed(ask(server, name, "MX", source=MANAGED, edns=edns))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(labels(b"xbanned", b"example"), id="same ending"),
        pytest.param(labels(b"x-banned", b"example"), id="same ending behind a hyphen"),
        pytest.param(labels(b"banned", b"example", b"example"), id="the listed name at the front"),
        pytest.param(labels(b"banned", b"examples"), id="longer last label"),
        pytest.param(labels(b"banned"), id="its first label alone"),
        pytest.param(labels(b"example"), id="its parent"),
        pytest.param(labels(b"bannedx", b"example"), id="longer label"),
        pytest.param(labels(b"x.banned", b"example"), id="a dot within a label, RFC 2181 11"),
        pytest.param(labels(b"banned.example"), id="all of it as one label, RFC 2181 11"),
        pytest.param(labels(b"www.banned.example", b"example"), id="the listed name as a label, RFC 2181 11"),
    ],
)
def test_names_that_only_look_listed_are_forwarded(server: Address, name: bytes) -> None:
    """Label boundaries decide, never text (RFC 1034 3.1)."""
    assert ask(server, name, "A", source=MANAGED).addresses == [address_of(text_of(name))]


RDATA = {
    "A": "192.0.2.7",
    "AAAA": "2001:db8::7",
    "HTTPS": "1 . alpn=h2 ipv4hint=192.0.2.7",
    "SVCB": "1 . alpn=h2",
    "TXT": '"real"',
    "MX": "10 mail.other.example.",
    "NS": "ns.other.example.",
    "SOA": "ns.other.example. host.other.example. 1 2 3 4 5",
    "DS": "1 8 2 " + "00" * 32,
    "CNAME": "target.other.example.",
    "SRV": "1 2 443 target.other.example.",
    "PTR": "target.other.example.",
    "CAA": '0 issue "ca.example"',
    "DNSKEY": "257 3 8 AAAA",
    "NULL": r"\# 2 0102",
    "HINFO": '"a" "b"',
    "NAPTR": '1 2 "u" "x" "" target.other.example.',
    "DNAME": "target.other.example.",
    "TYPE65280": r"\# 2 0102",
}


@pytest.mark.parametrize("rdtype", DATA_TYPES)
@pytest.mark.parametrize("source", [pytest.param(EXEMPT, id="exempt"), pytest.param(UNMANAGED, id="unmanaged")])
def test_exempt_and_unmanaged_clients_get_the_real_answer(
    server: Address, upstream: Upstream, rdtype: str, source: str
) -> None:
    """For every type; over TCP too (RFC 7766); and the managed client its policy answer in between."""
    upstream.on(BELOW, f"{BELOW} 300 IN {rdtype} {RDATA[rdtype]}", rdtype)
    for tcp in (False, True):
        for _ in range(2):
            response = ask(server, BELOW, rdtype, source=source, tcp=tcp)
            assert len(response.answer) == 1
            assert response.answer[0].rdtype == type_code(rdtype)
            assert response.answer[0].ttl > 60
            check_sinkholed(ask(server, BELOW, rdtype, source=MANAGED, tcp=tcp))


def test_any_of_a_listed_name_over_tcp_is_forwarded_for_the_exempt(server: Address, upstream: Upstream) -> None:
    name = "any." + LISTED
    upstream.on(name, f"{name} 300 IN A 192.0.2.7")
    assert ask(server, name, "ANY", source=EXEMPT, tcp=True).addresses == ["192.0.2.7"]
    check_sinkholed(ask(server, name, "ANY", source=MANAGED, tcp=True))


WAYS = [
    pytest.param({"edns": Edns()}, id="EDNS"),
    pytest.param({"edns": Edns(do=True)}, id="DO"),
    pytest.param({"flags": CD}, id="CD"),
    pytest.param({"flags": AD}, id="AD"),
    pytest.param({"flags": AD | CD, "edns": Edns(do=True)}, id="AD, CD and DO"),
    pytest.param({"rd": False}, id="RD=0: no reading of the exempt clients' cache"),
    pytest.param({"rd": False, "edns": Edns()}, id="RD=0 with EDNS"),
    pytest.param({"tcp": True}, id="TCP"),
    pytest.param({"tcp": True, "rd": False}, id="RD=0 over TCP"),
    pytest.param({"edns": Edns(size=0)}, id="size 0"),
    pytest.param({"edns": Edns(flags=0x7FFF)}, id="unknown flags"),
    pytest.param({"edns": Edns(options=((COOKIE, b"c" * 8),))}, id="COOKIE"),
    pytest.param({"edns": Edns(options=((PADDING, bytes(100)),))}, id="PADDING"),
    pytest.param({"edns": Edns(options=((65001, b"x"),))}, id="an unknown option"),
    pytest.param({"edns": Edns(options=((EDE, b"\0\x0f"),))}, id="an EDE"),
    pytest.param({"edns": Edns(options=((8, b"\0\1\x18\0\x7f\0\1"),))}, id="an ECS of the exempt"),
]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", [pytest.param(LISTED, id="lower case"), pytest.param(LISTED.upper(), id="upper case")])
def test_whatever_way_it_asks_the_managed_client_is_blocked(server: Address, how: dict[str, object], name: str) -> None:
    """Although the exempt client's answer to the same query is in the cache (RFC 6891 6.1.2)."""
    real = ask(server, name, "A", source=EXEMPT, **how)  # type: ignore[arg-type]
    assert real.addresses == [address_of(LISTED)]
    response = ask(server, name, "A", source=MANAGED, **how)  # type: ignore[arg-type]
    assert response.addresses == ["0.0.0.0"]
    if response.opt is not None:
        assert EDE in dict(response.options)
        assert set(dict(response.options)) <= {EDE, COOKIE}


@pytest.mark.parametrize("how", WAYS)
def test_whatever_way_it_asks_for_an_alias_the_managed_client_is_blocked(
    server: Address, upstream: Upstream, how: dict[str, object]
) -> None:
    """Although the exempt client's answer, with the alias in it, is in the cache."""
    name = f"w{secrets.token_hex(4)}.example"
    upstream.on(name, [f"{name} 300 IN CNAME {LISTED}", f"{LISTED} 300 IN A 192.0.2.7"])
    for spelling in (name, name.upper()):
        real = ask(server, spelling, "A", source=EXEMPT, **how)  # type: ignore[arg-type]
        assert real.addresses == ["192.0.2.7"]
        response = ask(server, spelling, "A", source=MANAGED, **how)  # type: ignore[arg-type]
        assert response.addresses == ["0.0.0.0"]
        assert not real_octets(response)


def test_concurrent_queries_of_two_groups_each_get_their_own_answer(server: Address, upstream: Upstream) -> None:
    """While the exempt client's question is in flight, and in both orders (cache separation, coalescing)."""
    name = "together." + LISTED
    alias = "together-alias.example"

    def slowly(asked: Asked) -> list[Action]:
        return [Send(reply(asked, f"{alias} 300 IN CNAME {LISTED}", f"{LISTED} 300 IN A 192.0.2.7"), after_s=0.1)]

    upstream.on(alias, slowly)
    with UdpClient(server, MANAGED) as managed, UdpClient(server, EXEMPT) as exempt:
        for ident in range(20):
            exempt.send(query(name, "A", ident=ident))
            managed.send(query(name, "A", ident=ident))
            managed.send(query(alias, "A", ident=100 + ident))
            exempt.send(query(alias, "A", ident=100 + ident))
        blocked = managed.gather(40)
        real = exempt.gather(40)
    assert len(blocked) == len(real) == 40
    for octets in blocked.values():
        check_sinkholed(read(octets))
    for ident, octets in real.items():
        assert read(octets).addresses == (["192.0.2.7"] if ident >= 100 else [address_of(name)])


# Cloaking: a listed name behind an alias

EDGE = "edge." + LISTED
Chain = Callable[[Asked, str], bytes]


def _answer(*records: str) -> Chain:
    """Records with {q} for the name asked."""
    return lambda asked, name: reply(asked, *[text.format(q=name) for text in records])


CHAINS = [
    pytest.param("A", _answer("{q} 300 IN CNAME " + EDGE, EDGE + " 300 IN A 192.0.2.7"), id="CNAME, RFC 1034 3.6.2"),
    pytest.param("A", _answer("{q} 300 IN CNAME " + EDGE), id="a CNAME alone"),
    pytest.param(
        "A",
        _answer("{q} 300 IN CNAME mid.example", "mid.example 300 IN CNAME " + EDGE, EDGE + " 300 IN A 192.0.2.7"),
        id="a chain of 2",
    ),
    pytest.param(
        "A",
        _answer("{q} 300 IN CNAME " + EDGE.upper(), EDGE.upper() + " 300 IN A 192.0.2.7"),
        id="in capital letters",
    ),
    pytest.param(
        "A", _answer("{q} 300 IN CNAME " + LISTED, LISTED + " 300 IN A 192.0.2.7"), id="the listed name itself"
    ),
    pytest.param("AAAA", _answer("{q} 300 IN CNAME " + EDGE, EDGE + " 300 IN AAAA 2001:db8::7"), id="asked for AAAA"),
    pytest.param(
        "AAAA",
        lambda asked, name: reply(
            asked,
            f"{name} 300 IN CNAME {EDGE}",
            authority=["example. 300 IN SOA ns.example. host.example. 1 2 3 4 300"],
        ),
        id="asked for AAAA, which it has not",
    ),
    pytest.param(
        "HTTPS",
        _answer("{q} 300 IN CNAME " + EDGE, EDGE + " 300 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.7"),
        id="asked for HTTPS, RFC 9460",
    ),
    pytest.param("TXT", _answer("{q} 300 IN CNAME " + EDGE, EDGE + ' 300 IN TXT "real"'), id="asked for TXT"),
    pytest.param(
        "A",
        _answer("{q} 300 IN CNAME " + EDGE, EDGE + " 300 IN CNAME cdn.example", "cdn.example 300 IN A 192.0.2.7"),
        id="the listed name in the middle",
    ),
    pytest.param(
        "A",
        _answer("cdn.example 300 IN A 192.0.2.7", EDGE + " 300 IN CNAME cdn.example", "{q} 300 IN CNAME " + EDGE),
        id="the chain's records in reverse order",
    ),
    pytest.param(
        "HTTPS",
        _answer(
            EDGE + " 300 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.7",
            "mid.example 300 IN CNAME " + EDGE,
            "{q} 300 IN CNAME mid.example",
        ),
        id="the same asked for HTTPS",
    ),
    pytest.param(
        "A",
        lambda asked, name: reply(asked, f"{name} 300 IN CNAME {EDGE}", rcode=NXDOMAIN),
        id="NXDOMAIN at the chain's end, RFC 6604",
    ),
    pytest.param("CNAME", _answer("{q} 300 IN CNAME " + EDGE), id="CNAME asked for by type"),
    pytest.param(
        "A",
        _answer("{q} 300 IN CNAME " + EDGE, "{q} 300 IN CNAME cdn.example", "cdn.example 300 IN A 192.0.2.7"),
        id="the first of two CNAMEs, RFC 2181 10.1",
    ),
    pytest.param(
        "A",
        _answer("{q} 300 IN CNAME cdn.example", "{q} 300 IN CNAME " + EDGE, "cdn.example 300 IN A 192.0.2.7"),
        id="the second of two CNAMEs, RFC 2181 10.1",
    ),
    pytest.param(
        "A",
        lambda asked, name: reply(
            asked,
            f"{name.partition('.')[2]} 300 IN DNAME {LISTED}",
            f"{name} 300 IN CNAME {name.partition('.')[0]}.{LISTED}",
            f"{name.partition('.')[0]}.{LISTED} 300 IN A 192.0.2.7",
        ),
        id="DNAME into the listed zone, RFC 6672 3",
    ),
    pytest.param(
        "A",
        lambda asked, name: reply(
            asked,
            f"{name.partition('.')[2]} 300 IN DNAME {EDGE}",
            f"{name.partition('.')[0]}.{EDGE} 300 IN A 192.0.2.7",
        ),
        id="DNAME without the CNAME made of it, RFC 6672 3.1",
    ),
    pytest.param("DNAME", _answer("{q} 300 IN DNAME " + EDGE), id="DNAME asked for by type"),
    pytest.param(
        "HTTPS",
        _answer("{q} 300 IN HTTPS 1 " + EDGE + ". alpn=h2 ipv4hint=192.0.2.7"),
        id="HTTPS ServiceMode whose TargetName is listed, RFC 9460 2.4.3",
    ),
    pytest.param("HTTPS", _answer("{q} 300 IN HTTPS 0 " + EDGE + "."), id="HTTPS AliasMode, RFC 9460 2.4.2"),
    pytest.param(
        "HTTPS",
        _answer("{q} 300 IN CNAME cdn.example", "cdn.example 300 IN HTTPS 0 " + EDGE + "."),
        id="HTTPS AliasMode behind a CNAME",
    ),
    pytest.param("SVCB", _answer("{q} 300 IN SVCB 0 " + EDGE + "."), id="SVCB AliasMode"),
    pytest.param(
        "HTTPS",
        _answer("{q} 300 IN HTTPS 1 . alpn=h2", "{q} 300 IN HTTPS 2 " + EDGE.upper() + ". alpn=h2"),
        id="the second of two HTTPS records",
    ),
    pytest.param(
        "SVCB",
        lambda asked, name: reply(
            asked, f"{name} 300 IN SVCB 1 {EDGE}. alpn=dot", additional=[f"{EDGE} 300 IN A 192.0.2.7"]
        ),
        id="SVCB with the target's addresses, RFC 9460 4.1",
    ),
]


def real_octets(response: Response) -> bool:
    """Whether something of the real answers used here is in a response."""
    return any(part in response.octets for part in (b"\xc0\x00\x02\x07", b"real", b"edge", b"EDGE"))


@pytest.mark.parametrize(("rdtype", "answer"), CHAINS)
@pytest.mark.parametrize(
    "managed_first", [pytest.param(True, id="managed first"), pytest.param(False, id="exempt first")]
)
def test_an_alias_of_a_listed_name_is_blocked_as_the_name_is(
    server: Address, upstream: Upstream, rdtype: str, answer: Chain, managed_first: bool
) -> None:
    """CNAME cloaking: the whole answer is replaced for managed clients and passes for the exempt, fresh or cached."""
    name = f"w{secrets.token_hex(4)}.alias{secrets.token_hex(4)}.example"
    upstream.on(name, lambda asked: answer(asked, name))
    order = [MANAGED, EXEMPT, MANAGED, UNMANAGED, EXEMPT, MANAGED]
    for source in order if managed_first else order[1:]:
        response = ask(server, name, rdtype, source=source, edns=Edns())
        if source == MANAGED:
            check_sinkholed(response)
            assert not real_octets(response)
        else:
            assert real_octets(response)
            assert response.answer
    check_sinkholed(ask(server, name, rdtype, source=MANAGED, tcp=True))


def test_a_chain_that_comes_one_cname_per_answer_is_blocked_where_it_meets_the_list(
    server: Address, upstream: Upstream
) -> None:
    """dnsfilter does not chase: the client's next question is judged as any other (RFC 1034 3.6.2)."""
    upstream.on("one.stepwise.example", "one.stepwise.example 300 IN CNAME two.stepwise.example")
    upstream.on("two.stepwise.example", f"two.stepwise.example 300 IN CNAME {EDGE}")
    assert ask(server, "one.stepwise.example", "A", source=MANAGED).texts == [
        "one.stepwise.example. 300 IN CNAME two.stepwise.example."
    ]
    check_sinkholed(ask(server, "two.stepwise.example", "A", source=MANAGED))
    check_sinkholed(ask(server, EDGE, "A", source=MANAGED))


def test_a_cname_loop_through_a_listed_name(server: Address, upstream: Upstream) -> None:
    """An answer, no data, bounded upstream queries (RFC 1034 3.6.2, 5.2.2): the block, or the loop's SERVFAIL."""
    upstream.on("loop.example", [f"loop.example 300 IN CNAME {EDGE}", f"{EDGE} 300 IN CNAME loop.example"])
    managed = ask(server, "loop.example", "A", source=MANAGED)
    assert managed.addresses == ["0.0.0.0"] or (managed.rcode == SERVFAIL and not managed.answer)
    assert ask(server, "loop.example", "A", source=EXEMPT).rcode == SERVFAIL
    assert len(upstream.queries("loop.example")) <= 4


def links(count: int, first: str, last: str) -> list[str]:
    """A chain of so many CNAME links from one name to another, which has an address."""
    names = [first, *[f"l{number}-{first}" for number in range(1, count)], last]
    chain = [f"{a} 300 IN CNAME {b}" for a, b in pairwise(names)]
    return [*chain, f"{names[-1]} 300 IN A 192.0.2.7"]


@pytest.mark.parametrize(
    ("count", "served"), [pytest.param(16, True, id="16 links pass"), pytest.param(17, False, id="17: SERVFAIL")]
)
def test_a_long_chain(server: Address, upstream: Upstream, count: int, served: bool) -> None:
    name = f"l0of{count}.example"
    upstream.on(name, links(count, name, "end.example"))
    for _ in range(2):
        response = ask(server, name, "A", source=MANAGED, edns=Edns(), tcp=True)
        assert (response.rcode == NOERROR) is served
        assert response.addresses == (["192.0.2.7"] if served else [])


@pytest.mark.parametrize("count", [2, 12, 16])
@pytest.mark.parametrize("is_reversed", [pytest.param(False, id="in order"), pytest.param(True, id="reversed")])
def test_the_last_link_of_a_long_chain_is_judged(
    server: Address, upstream: Upstream, count: int, is_reversed: bool
) -> None:
    """RFC 1034 3.6.2: whatever the order of the records."""
    name = f"l0of{count}{is_reversed}.example"
    chain = links(count, name, EDGE)
    upstream.on(name, chain[::-1] if is_reversed else chain)
    for source in (MANAGED, EXEMPT, MANAGED):
        response = ask(server, name, "A", source=source, edns=Edns(), tcp=True)
        if source == EXEMPT:
            assert response.addresses == ["192.0.2.7"]
        else:
            check_sinkholed(response)


def test_any_over_tcp_of_an_alias_is_blocked(server: Address, upstream: Upstream) -> None:
    """What ANY gives is judged as any other answer, and is never kept."""
    name = "any-alias.example"
    upstream.on(name, [f"{name} 300 IN CNAME {EDGE}", f'{name} 300 IN TXT "real"'])
    assert len(ask(server, name, "ANY", source=EXEMPT, tcp=True).answer) == 2
    check_sinkholed(ask(server, name, "ANY", source=MANAGED, tcp=True))


@pytest.mark.parametrize(
    ("rdtype", "rdata"),
    [
        pytest.param("MX", "10 " + EDGE, id="MX"),
        pytest.param("SRV", "1 2 443 " + EDGE, id="SRV"),
        pytest.param("NS", EDGE, id="NS"),
        pytest.param("PTR", EDGE, id="PTR"),
        pytest.param("HTTPS", "1 cdn.example. alpn=h2", id="HTTPS"),
        pytest.param("SVCB", "1 . alpn=dot", id="SVCB, RFC 9460 4.1"),
    ],
)
def test_additional_records_of_a_listed_name_are_removed_and_the_answer_stays(
    server: Address, upstream: Upstream, rdtype: str, rdata: str
) -> None:
    """For managed clients, fresh and cached; the exempt get them all."""
    name = f"extra-{rdtype.lower()}.example"
    extra = [f"{EDGE} 300 IN A 192.0.2.7", f"{EDGE} 300 IN AAAA 2001:db8::7", "other.example 300 IN A 192.0.2.8"]
    upstream.on(name, lambda asked: reply(asked, f"{name} 300 IN {rdtype} {rdata}", additional=extra))
    for _ in range(2):
        response = ask(server, name, rdtype, source=MANAGED, edns=Edns())
        assert len(response.answer) == 1
        assert all(record.name != EDGE + "." for record in response.section(ADDITIONAL))
        assert b"\xc0\x00\x02\x07" not in response.octets
        assert not response.ede
        exempt = ask(server, name, rdtype, source=EXEMPT, edns=Edns())
        assert len(exempt.answer) == 1


# The answers themselves


def test_a_and_aaaa_agree_at_and_below_the_name(server: Address) -> None:
    """Both sinkhole: NXDOMAIN for one type beside an address for another breaks clients (RFC 8020, RFC 4074)."""
    for name in (LISTED, BELOW):
        answers = {kind: ask(server, name, kind, source=MANAGED) for kind in ("A", "AAAA", "HTTPS", "TXT")}
        assert {response.rcode for response in answers.values()} == {NOERROR}
        assert answers["A"].addresses == ["0.0.0.0"]
        assert answers["AAAA"].addresses == ["::"]


def test_ttls_of_policy_answers_lie_between_1_and_3600(server: Address) -> None:
    """RFC 1035 3.2.1, RFC 2308 5."""
    for kind in ("A", "AAAA", "HTTPS"):
        assert ask(server, LISTED, kind, source=MANAGED).lowest_ttl == 60


def test_policy_answers_explain_themselves_if_the_query_had_opt(server: Address) -> None:
    """RFC 8914 2 and 4.16; none without OPT (RFC 6891 6.1.1, 7)."""
    response = ask(server, LISTED, "A", source=MANAGED, edns=Edns())
    assert [code for code, _ in response.ede] == [15]
    assert response.counts == (1, 1, 0, 1)
    assert ask(server, LISTED, "A", source=MANAGED).counts == (1, 1, 0, 0)


def test_negative_policy_answers_carry_a_soa(server: Address) -> None:
    """RFC 2308 3 and 5: so that clients cache them."""
    check_soa(ask(server, LISTED, "MX", source=MANAGED), 60)


def test_policy_over_tcp_is_the_same_as_over_udp(server: Address) -> None:
    """RFC 7766 5: to the octet."""
    for kind in ("A", "AAAA", "HTTPS", "ANY"):
        for edns in (None, Edns(), Edns(do=True)):
            octets = [
                exchange(server, query(LISTED, kind, ident=5, edns=edns), source=MANAGED, tcp=tcp)
                for tcp in (False, True)
            ]
            assert octets[0] == octets[1] is not None


def test_with_do_the_policy_answer_is_unsigned(server: Address) -> None:
    """RFC 4035 3.1.6."""
    response = ask(server, LISTED, "A", source=MANAGED, edns=Edns(do=True), flags=AD)
    assert response.do
    assert not response.flags & AD
    assert [record.rdtype for record in response.records] == [1, 41]


def test_the_sinkhole_address_is_not_a_public_one(server: Address) -> None:
    """RFC 6890."""
    assert ask(server, LISTED, "A", source=MANAGED).answer[0].rdata == bytes(4)
    assert ask(server, LISTED, "AAAA", source=MANAGED).answer[0].rdata == bytes(16)


@pytest.mark.parametrize("rdclass", [CH, HS, NONE, ANY_CLASS, 0, 2, 65280])
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_other_classes_tell_no_data_of_a_listed_name(
    server: Address, upstream: Upstream, rdclass: int, tcp: bool
) -> None:
    """RFC 1035 3.2.4: neither what is in the cache in class IN, nor anything of the upstream's."""
    assert ask(server, LISTED, "A", source=EXEMPT).addresses == [address_of(LISTED)]
    before = len(upstream.queries(LISTED, below=True))
    for rdtype in ("A", "TXT", "ANY", "SOA"):
        response = ask(server, LISTED, rdtype, source=MANAGED, rdclass=rdclass, tcp=tcp)
        assert all(record.rdata == bytes(4) for record in response.answer)
    assert len(upstream.queries(LISTED, below=True)) == before


@pytest.mark.parametrize("opcode", range(1, 16))
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_other_opcodes_tell_no_data_of_a_listed_name(
    server: Address, opcode: int, tcp: bool, listed_stays_here: None
) -> None:
    """RFC 1035 4.1.1."""
    octets = exchange(server, query(LISTED, "A", opcode=opcode), source=MANAGED, tcp=tcp)
    assert octets is not None
    assert octets[3] & 15 != NOERROR
    assert octets[6:12] == bytes(6)


@pytest.mark.parametrize("rdtype", ["AXFR", "IXFR"])
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_a_zone_transfer_of_the_listed_name_gives_nothing(
    server: Address, rdtype: str, tcp: bool, listed_stays_here: None
) -> None:
    """RFC 5936, RFC 1995."""
    for source in (MANAGED, EXEMPT):
        response = ask(server, LISTED, rdtype, source=source, tcp=tcp)
        assert not response.answer


def test_one_tcp_connection_with_listed_and_unlisted_names_mixed(server: Address) -> None:
    """RFC 7766 6.2.1.1: each its own answer, whatever the order."""
    names = [BELOW if ident % 2 else f"mixed-{ident}.example" for ident in range(60)]
    sent = {ident: query(name, "A", ident=ident) for ident, name in enumerate(names)}
    with TcpClient(server, MANAGED) as client:
        client.send(*sent.values())
        got = [read(octets) for octets in client.gather(60)]
    assert len(got) == 60
    for response in got:
        check_echo(sent[response.ident], response)
        expected = "0.0.0.0" if response.ident % 2 else address_of(names[response.ident])
        assert response.addresses == [expected]


@pytest.mark.parametrize("gone", [pytest.param(False, id="silent"), pytest.param(True, id="gone")])
def test_blocked_answers_come_although_both_upstreams_are_silent_or_gone(
    start: Start, upstreams: Callable[[], Upstream], gone: bool
) -> None:
    """Within 1 s, while other questions wait (availability of the filter)."""
    both = upstreams(), upstreams()
    for each in both:
        each.otherwise(SILENCE)
        if gone:
            each.stop()
    service = start(policy(*both, resolve={"timeout": "0.5s", "deadline": "1s"}))
    with UdpClient(service.dns, MANAGED) as waiting:
        for ident in range(200):
            waiting.send(query(f"waiting-{ident}.example", "A", ident=ident))
        for kind in ("A", "AAAA", "HTTPS"):
            started = time.monotonic()
            check_sinkholed(ask(service.dns, LISTED, kind, source=MANAGED))
            check_sinkholed(ask(service.dns, LISTED, kind, source=MANAGED, tcp=True))
            assert time.monotonic() - started < 1
        answers = waiting.gather(200)
    assert len(answers) == 200
    assert {read(octets).rcode for octets in answers.values()} == {SERVFAIL}
    for each in both:
        nothing_of([LISTED], each)


def test_1000_different_listed_names_put_nothing_in_the_way_of_ordinary_service(
    server: Address, upstream: Upstream, listed_stays_here: None
) -> None:
    """They are no cache entries: what was cached stays so."""
    names = [f"keeps-{number}.example" for number in range(20)]
    for name in names:
        ask(server, name, "A")
    with UdpClient(server, MANAGED) as client:
        for base in range(0, 1000, 100):
            for ident in range(base, base + 100):
                client.send(query(f"n{ident}.{LISTED}", "A", ident=ident))
            got = client.gather(100)
            assert len(got) == 100
            assert all(octets[-4:] == socket.inet_aton("0.0.0.0") for octets in got.values())
    for name in names:
        assert ask(server, name, "A").addresses == [address_of(name)]
        assert len(upstream.queries(name)) == 1


def test_a_blocked_answer_shows_nothing_of_the_real_one(server: Address, upstream: Upstream) -> None:
    """No octet of it, in any section: neither addresses nor names nor the zone's SOA."""
    alias = "shows-nothing.example"

    def answer(asked: Asked) -> bytes:
        return reply(
            asked,
            f"{alias} 300 IN CNAME {EDGE}",
            f"{EDGE} 300 IN A 192.0.2.7",
            authority=["example 300 IN NS ns-real.example"],
            additional=["ns-real.example 300 IN A 192.0.2.7"],
        )

    upstream.on(alias, answer)
    for _ in range(2):
        response = ask(server, alias, "A", source=MANAGED, edns=Edns())
        assert response.counts == (1, 1, 0, 1)
        assert not real_octets(response)
        assert rdata_text(response, 1, "A") == ["0.0.0.0"]
        assert response.flags & QR


SOA = "example. 300 IN SOA ns.example. host.example. 1 3600 600 86400 300"


def test_a_listed_name_that_does_not_exist_is_blocked_all_the_same(server: Address, upstream: Upstream) -> None:
    """For the exempt the upstream's NXDOMAIN, cached or not, says nothing about the managed client's answer."""
    name = "missing." + LISTED
    upstream.on(name, lambda asked: reply(asked, authority=[SOA], rcode=NXDOMAIN))
    for _ in range(2):
        assert ask(server, name, "A", source=EXEMPT).rcode == NXDOMAIN
        check_sinkholed(ask(server, name, "A", source=MANAGED))
    upstream.on("empty." + LISTED, nodata)
    for _ in range(2):
        assert not ask(server, "empty." + LISTED, "A", source=EXEMPT).answer
        check_sinkholed(ask(server, "empty." + LISTED, "A", source=MANAGED))


# Each style, for every type, at and below the name and through an alias

STYLES = {"sinkhole": "127.3.0.1", "nodata": "127.3.1.1", "nxdomain": "127.3.2.1", "refused": "127.3.3.1"}
RCODES = {"sinkhole": NOERROR, "nodata": NOERROR, "nxdomain": NXDOMAIN, "refused": REFUSED}
ALIAS = "alias-of-banned.example"
STYLE_TTL = 120


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """A service with a group for each style, for its address; the upstream knows an alias of the listed name."""
    with Upstream() as upstream:
        upstream.on(ALIAS, [f"{ALIAS} 300 IN CNAME {EDGE}"])
        groups = {
            style: {"networks": [f"{client}/32"], "block": ["ban"], "answer": style} for style, client in STYLES.items()
        }
        config = policy(upstream, groups={**groups, "default": {"block": []}}, blocking={"ttl": STYLE_TTL})
        del config["exemptions"]
        with Service(tmp_path_factory.mktemp("styles"), config) as service:
            yield service.dns
        nothing_of([LISTED], upstream)


def check_style(response: Response, style: str) -> None:
    """One answer in its style: rcode, records, TTLs, SOA and the extended error (RFC 2308, RFC 8914)."""
    rdtype = int.from_bytes(response.question[-4:-2], "big")
    is_address = style == "sinkhole" and rdtype in (1, 28)
    assert response.rcode == RCODES[style]
    assert response.addresses == ([{1: "0.0.0.0", 28: "::"}[rdtype]] if is_address else [])
    assert len(response.answer) == is_address
    if is_address or style == "refused":
        assert not response.section(AUTHORITY)
    else:
        check_soa(response, STYLE_TTL)
    assert {record.ttl for record in response.records if record.rdtype != OPT} <= {STYLE_TTL}
    assert not response.section(ADDITIONAL)
    check_explained(response, "ban")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_all_types_agree_in_each_style_at_and_below_the_name(styled: Address, style: str, tcp: bool) -> None:
    """A and AAAA (RFC 4074); what does not exist for one type exists for none, nor below (RFC 2308 2.1, RFC 8020)."""
    for name in (LISTED, BELOW, "deep.down." + BELOW):
        for rdtype in TYPES:
            for edns in (None, Edns(do=True)):
                check_style(ask(styled, name, rdtype, source=STYLES[style], tcp=tcp, edns=edns), style)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_all_types_agree_in_each_style_through_an_alias(styled: Address, style: str, tcp: bool) -> None:
    """As for the listed name itself, fresh and cached; nothing of the upstream's chain."""
    for rdtype in DATA_TYPES:
        for edns in (None, Edns(do=True)):
            response = ask(styled, ALIAS, rdtype, source=STYLES[style], tcp=tcp, edns=edns)
            check_style(response, style)
            assert not real_octets(response)


@pytest.mark.parametrize("style", STYLES)
def test_each_style_is_the_same_over_tcp_to_the_octet(styled: Address, style: str) -> None:
    """RFC 7766 5."""
    for name in (LISTED, ALIAS):
        for rdtype in ("A", "AAAA", "HTTPS", "SOA"):
            for edns in (None, Edns(), Edns(do=True)):
                sent = query(name, rdtype, ident=5, edns=edns)
                over_udp, over_tcp = (exchange(styled, sent, source=STYLES[style], tcp=tcp) for tcp in (False, True))
                assert over_udp == over_tcp is not None


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("rdtype", ["A", "HTTPS"])
def test_each_style_fits_the_smallest_client(styled: Address, style: str, rdtype: str) -> None:
    """RFC 1035 4.2.1, RFC 6891 6.2.3: the longest name in 512 octets, without TC."""
    name = labels(b"l" * 63, b"l" * 63, b"l" * 63, b"m" * 46, b"banned", b"example")
    for edns in (None, Edns(size=512), Edns(size=0)):
        response = ask(styled, name, rdtype, source=STYLES[style], edns=edns)
        check_style(response, style)
        assert len(response.octets) <= 512
        assert not response.flags & TC
