"""One message through the engine: what is answered here, what is asked, and what becomes of the response."""

import itertools
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.clients import ClientRow, Style
from dnsfilter.core.delivery import deliver
from dnsfilter.core.exemptions import Exemption
from dnsfilter.core.names import ancestry
from dnsfilter.core.policy import Policy, Verdict
from dnsfilter.core.rules import Rules
from dnsfilter.core.wire.query import Query
from dnsfilter.core.wire.response import read
from dnsfilter.engine import pure
from dnsfilter.engine.interface import Completed, Dropped, Forward, Joined, Outcome, Rejected, Transport
from tests.core.make import labels_to_wire, many, name, opt, option, query, question, response, suffixes, texts, unhex
from tests.core.wire.test_query import mutated
from tests.engine.make import LIMITS, Asking, Clock, index, policy

MANAGED, EXEMPT, OTHER, STRANGER = "192.0.2.9", "192.0.2.70", "198.51.100.9", "203.0.113.9"
ROW = ClientRow(
    "managed", Style.SINKHOLE, enforced=0b01, observed=0b10, order=((1, "ban"), (2, "watch")), allow=1, canary=0b100
)
START, END = 1_700_000_000.0, 1_700_000_100.0  # of the exemption
SOA = "example 120 IN SOA ns.example host.example 1 3600 600 86400 60"


def rules(*more: str) -> list[Rules]:
    return [suffixes("banned.example", "banned.test", *more), suffixes("watched.example")]


def shared(*more: str, zones: dict[bytes, int] | None = None, end: float = END) -> Policy:
    """Managed clients, those of them that are exempt for a while, others; more: names that are banned too."""
    exempt = replace(ROW, exemptions=(Exemption("EX-1", 0b01, START, end),))
    return policy(
        index(*rules(*more), allow=[name("press.banned.example")], canaries=2),
        ClientRow("default"),
        {"192.0.2.0/24": ROW, "192.0.2.64/28": exempt},
        zones=zones,
        access=["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"],
    )


@pytest.fixture
def asking() -> Asking:
    return Asking(shared(), Clock(wall=START - 1_000))


def message(octets: bytes) -> dns.message.Message:
    return dns.message.from_wire(octets, one_rr_per_rrset=True)


def rcode(octets: bytes) -> str:
    return dns.rcode.to_text(message(octets).rcode())


def edes(octets: bytes) -> list[tuple[int, str | None]]:
    return [(int(each.code), each.text) for each in message(octets).options if isinstance(each, dns.edns.EDEOption)]


def is_sinkhole(octets: bytes) -> bool:
    return texts(octets)[0].endswith(" 60 IN A 192.0.2.1") if texts(octets) else False


def outcomes(asking: Asking) -> dict[Outcome, int]:
    return {outcome: count for outcome, count in asking.engine.counters().outcomes.items() if count}


def through(asking: Asking, asked: bytes, *answer: str, client: str = MANAGED, **more: object) -> bytes:
    """Ask, let an upstream answer with these records, and return what the client gets."""
    forward = asking.forward(asked, client)
    [octets] = asking.complete(forward, response(asked, *answer, **more))  # type: ignore[arg-type]
    return octets


# The life of a query


def test_a_blocked_question_is_answered_at_once_octet_by_octet(asking: Asking) -> None:
    asked = unhex("1234 0100 0001 0000 0000 0000  01780642616e6e6564 076578616d706c65 00 0001 0001")
    assert asking.answer(asked) == unhex(
        "1234 8180 0001 0001 0000 0000  01780642616e6e6564 076578616d706c65 00 0001 0001"
        "c00c 0001 0001 0000003c 0004 c0000201"
    )
    assert outcomes(asking) == {Outcome("udp", "ipv4", "NOERROR", "managed", "blocked", "ban", ""): 1}


def test_another_question_is_asked_then_answered_then_cached(asking: Asking) -> None:
    forward = asking.forward(query("WWW.example", ident=1, edns=opt(4096, do=True)))
    assert (forward.name, forward.qtype, forward.do, forward.cd, forward.zone) == (
        name("www.example"),
        1,
        True,
        False,
        0,
    )
    assert (forward.edns, forward.by_tcp) == (True, False)
    answer = response(query("www.example", edns=opt(do=True)), "www.example 300 IN A 198.51.100.1")
    [octets] = asking.complete(forward, answer)
    assert octets[:2] == b"\0\1"
    assert texts(octets) == ["WWW.example. 300 IN A 198.51.100.1"]
    asking.clock.wait(10)
    again = asking.answer(query("www.EXAMPLE", ident=2, edns=opt(4096, do=True)))
    assert texts(again) == ["www.EXAMPLE. 290 IN A 198.51.100.1"]
    assert outcomes(asking) == {
        Outcome("udp", "ipv4", "NOERROR", "managed", "forwarded", "", "miss"): 1,
        Outcome("udp", "ipv4", "NOERROR", "managed", "forwarded", "", "hit"): 1,
    }
    assert asking.engine.counters().cache_entries == 1


def test_an_answer_that_is_over_is_asked_for_anew(asking: Asking) -> None:
    through(asking, query("www.example"), "www.example 10 IN A 198.51.100.1")
    asking.clock.wait(9.5)
    assert texts(asking.answer(query("www.example"))) == ["www.example. 1 IN A 198.51.100.1"]
    asking.clock.wait(0.5)
    asking.forward(query("www.example"))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (b"", "not_a_query"),
        (bytes(11), "not_a_query"),
        (response(query("www.example")), "not_a_query"),
        (unhex("1234 f801 0000 0000 0000 0000"), "not_a_query"),
    ],
    ids=["empty", "11 octets", "a response", "a response of another opcode with an error"],
)
def test_what_is_no_query_is_dropped_and_counted(asking: Asking, asked: bytes, reason: str) -> None:
    assert asking.step(asked) is None
    assert asking.engine.counters().dropped == {reason: 1}
    assert outcomes(asking) == {}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (query("www.example")[:-1], "1234 8181 0000 0000 0000 0000"),
        (unhex("1234 7900 0001 0000 0000 0000"), "1234 f984 0000 0000 0000 0000"),
        (unhex("1234 2800 0001 0000 0000 0000"), "1234 a885 0000 0000 0000 0000"),
        (query("banned.example") + question("www.example"), "1234 8181 0000 0000 0000 0000"),
    ],
    ids=["FORMERR", "NOTIMP", "REFUSED", "octets behind a listed name"],
)
def test_what_cannot_be_read_is_answered_by_a_header_alone(asking: Asking, asked: bytes, expected: str) -> None:
    assert asking.answer(asked) == unhex(expected)
    assert asking.answer(asked, STRANGER) == unhex(expected)


def test_a_stranger_is_refused_whatever_is_asked(asking: Asking) -> None:
    for asked in (
        query("banned.example"),
        query("localhost"),
        query("www.example", "ANY"),
        query("www.example", edns=opt()),
    ):
        assert rcode(asking.answer(asked, STRANGER)) == "REFUSED"
    [outcome] = outcomes(asking)
    assert (outcome.verdict, outcome.group) == ("refused", "")


def test_an_ipv4_client_may_come_mapped(asking: Asking) -> None:
    assert is_sinkhole(asking.answer(query("banned.example"), "::ffff:192.0.2.9"))
    assert rcode(asking.answer(query("banned.example"), "fe80::1%eth0")) == "REFUSED"


def test_another_version_of_edns_is_badvers_even_for_a_listed_name(asking: Asking) -> None:
    """RFC 6891 section 6.1.3."""
    octets = asking.answer(query("banned.example", edns=opt(version=1, do=True, options=option(65_001, b"x"))))
    assert message(octets).rcode() == dns.rcode.BADVERS
    assert message(octets).edns == 0
    assert octets[6:12] == unhex("0000 0000 0001")


def test_formerr_because_of_an_option_comes_with_opt(asking: Asking) -> None:
    """RFC 6891 section 7."""
    octets = asking.answer(query("www.example", edns=opt(options=option(10, b"short"))))
    assert octets == unhex("1234 8181 0001 0000 0000 0001") + question("www.example") + unhex(
        "00 0029 04d0 0000 0000 0000"
    )


@pytest.mark.parametrize("rclass", [0, 3, 4, 254, 255, 65_535])
def test_other_classes_are_refused(asking: Asking, rclass: int) -> None:
    for asked in ("www.example", "banned.example", "version.bind", "localhost"):
        octets = asking.answer(query(asked, "TXT", rclass=rclass))
        assert (rcode(octets), octets[6:12]) == ("REFUSED", bytes(6))


@pytest.mark.parametrize(
    ("rtype", "expected"),
    [
        *((0, "FORMERR"), (41, "FORMERR"), (249, "REFUSED"), (250, "REFUSED"), (251, "REFUSED"), (252, "REFUSED")),
        *((253, "NOTIMP"), (254, "NOTIMP"), (65_535, "REFUSED")),
    ],
    ids=["0", "OPT", "TKEY", "TSIG", "IXFR", "AXFR", "MAILB", "MAILA", "65535"],
)
@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
def test_types_that_are_no_data_are_answered_here(
    asking: Asking, rtype: int, expected: str, transport: Transport
) -> None:
    octets = asking.answer(query("www.example", rtype), MANAGED, transport)
    assert dns.rcode.to_text(dns.rcode.Rcode.make(octets[3] & 15)) == expected
    assert octets[6:] == bytes(6) + question("www.example", rtype)
    blocked = asking.answer(query("banned.example", rtype), MANAGED, transport)
    assert blocked[3] & 15 == 0, "a listed name gets its policy answer"
    assert blocked[8:10] == b"\0\1"


@pytest.mark.parametrize("rtype", [1, 28, 65, 64, 16, 15, 255, 2, 6, 43, 5, 33, 12, 257, 48, 10, 65_280])
@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
def test_every_type_of_a_listed_name_is_answered_here(asking: Asking, rtype: int, transport: Transport) -> None:
    for asked in (name("banned.example"), b"\1x" + name("banned.example"), b"\1a" * 115 + name("banned.example")):
        octets = asking.answer(query(asked, rtype), MANAGED, transport)
        records = (1, 0) if rtype in (1, 28) else (0, 1)
        assert struct.unpack("!2H", octets[6:10]) == records
        assert octets[3] & 15 == 0


def test_any_over_udp_is_answered_here_and_over_tcp_asked_but_not_kept(asking: Asking) -> None:
    """RFC 8482 section 4."""
    assert texts(asking.answer(query("www.example", "ANY"))) == ['www.example. 60 IN HINFO "RFC8482" ""']
    asked = query("www.example", "ANY")
    forward = asking.forward(asked, MANAGED, Transport.TCP)
    [octets] = asking.complete(
        forward, response(asked, "www.example 300 IN A 198.51.100.1", "www.example 300 IN TXT x")
    )
    assert len(texts(octets)) == 2
    asking.forward(asked, MANAGED, Transport.TCP)
    asking.forward(query("www.example"))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (query("localhost"), ["localhost. 60 IN A 127.0.0.1"]),
        (query("x.localhost", "AAAA"), ["x.localhost. 60 IN AAAA ::1"]),
    ],
    ids=["IPv4", "IPv6"],
)
def test_localhost_is_answered_here(asking: Asking, asked: bytes, expected: list[str]) -> None:
    assert texts(asking.answer(asked)) == expected
    [outcome] = outcomes(asking)
    assert (outcome.verdict, outcome.group) == ("local", "managed")


def test_names_answered_here_come_before_lists_and_after_zones() -> None:
    asking = Asking(shared("test", zones={name("lab.test"): 1}))
    assert rcode(asking.answer(query("x.test"))) == "NXDOMAIN"
    assert message(asking.answer(query("_dns.resolver.arpa", 64))).authority[0].rdtype == dns.rdatatype.SOA
    assert is_sinkhole(asking.answer(query("x.lab.test"))), "in a zone of its own it is an ordinary name, and listed"
    assert asking.forward(query("x.lab.test"), OTHER).zone == 1
    assert asking.forward(query("www.example"), OTHER).zone == 0


@pytest.mark.parametrize("zone", [".", "arpa", "resolver.arpa", "_dns.resolver.arpa"])
@pytest.mark.parametrize("asked", ["resolver.arpa", "_dns.resolver.arpa", "x._dns.resolver.arpa"])
def test_resolver_arpa_is_never_asked_of_an_upstream_whatever_the_zones(zone: str, asked: str) -> None:
    """RFC 9462 section 6.4."""
    asking = Asking(shared(zones={name(zone): 1}))
    for rtype in (1, 64):
        octets = asking.answer(query(asked, rtype))
        assert (rcode(octets), texts(octets)) == ("NOERROR", [])
    assert [outcome.verdict for outcome in outcomes(asking)] == ["local"]


def test_canaries_do_not_exist_for_groups_that_enforce_a_list(asking: Asking) -> None:
    octets = asking.answer(query("use-application-dns.net", edns=opt()))
    assert (rcode(octets), edes(octets)) == ("NXDOMAIN", [(15, "canary")])
    asking.forward(query("use-application-dns.net"), OTHER)


def test_an_allow_name_is_asked_and_its_chain_not_judged(asking: Asking) -> None:
    octets = through(
        asking,
        query("press.banned.example"),
        "press.banned.example 300 IN CNAME edge.banned.example",
        "edge.banned.example 300 IN A 198.51.100.1",
    )
    assert len(texts(octets)) == 2
    assert [outcome.verdict for outcome in outcomes(asking)] == ["allowed"]


def test_an_observed_name_is_asked_and_counted(asking: Asking) -> None:
    assert len(texts(through(asking, query("watched.example"), "watched.example 300 IN A 198.51.100.1"))) == 1
    [outcome] = outcomes(asking)
    assert (outcome.verdict, outcome.list_name) == ("observed", "watch")


# The probe of readiness checks


def test_a_probe_tells_the_block_and_is_not_counted(asking: Asking) -> None:
    clock = asking.clock
    octets = asking.engine.probe(query("banned.example"), MANAGED, clock.now, clock.wall)
    assert octets is not None
    assert is_sinkhole(octets)
    assert asking.engine.probe(query("www.example"), MANAGED, clock.now, clock.wall) is None
    assert asking.engine.probe(query("banned.example"), OTHER, clock.now, clock.wall) is None
    assert outcomes(asking) == {}
    assert sum(asking.engine.counters().durations) == 0


def test_the_name_that_readiness_checks_ask_of_a_listener_is_answered_and_not_counted(asking: Asking) -> None:
    asked = query("probe.dnsfilter.invalid", "TXT", rclass=3)
    assert rcode(asking.answer(asked)) == "REFUSED"
    assert rcode(asking.answer(asked, "127.0.0.1")) == "REFUSED"
    assert outcomes(asking) == {}
    assert sum(asking.engine.counters().durations) == 0


# The cache, the policy and the client


def test_the_decision_comes_before_the_cache(asking: Asking) -> None:
    asked = query("x.banned.example")
    assert len(texts(through(asking, asked, "x.banned.example 300 IN A 198.51.100.1", client=OTHER))) == 1
    assert is_sinkhole(asking.answer(asked, MANAGED))
    assert texts(asking.answer(asked, OTHER)) == ["x.banned.example. 300 IN A 198.51.100.1"]


CHAIN = ("www.example 300 IN CNAME edge.Banned.example", "edge.Banned.example 300 IN A 198.51.100.1")


@pytest.mark.parametrize("order", [(OTHER, MANAGED), (MANAGED, OTHER)], ids=["others first", "managed first"])
@pytest.mark.parametrize(
    ("rtype", "answer"),
    [
        pytest.param("A", CHAIN, id="an alias"),
        pytest.param("A", CHAIN[::-1], id="an alias, records reversed"),
        pytest.param(
            "A",
            (
                "www.example 300 IN CNAME a.example",
                "a.example 300 IN CNAME x.banned.example",
                "x.banned.example 9 IN CNAME b.example",
            ),
            id="in the middle of a chain",
        ),
        pytest.param("CNAME", CHAIN[:1], id="an alias asked for by type"),
        pytest.param("AAAA", ("example 300 IN DNAME banned.test",), id="DNAME"),
        pytest.param("HTTPS", ("www.example 300 IN HTTPS 0 banned.example",), id="HTTPS, AliasMode"),
        pytest.param(
            "HTTPS", ("www.example 300 IN HTTPS 1 banned.example ipv4hint=198.51.100.1",), id="HTTPS, ServiceMode"
        ),
        pytest.param(64, ("www.example 300 IN SVCB 1 x.banned.example",), id="SVCB"),
    ],
)
def test_the_chain_is_judged_for_each_client_on_fresh_and_on_cached_answers(
    asking: Asking, rtype: str | int, answer: tuple[str, ...], order: tuple[str, str]
) -> None:
    asked = query("www.example", rtype, edns=opt())
    found: dict[str, list[bytes]] = {MANAGED: [], OTHER: []}
    forward = asking.forward(asked, order[0])
    assert isinstance(asking.step(asked, order[1]), Joined)
    for client, octets in zip(order, asking.complete(forward, response(asked, *answer, authority=[SOA])), strict=True):
        found[client].append(octets)
    for client in (*order, *order[::-1]):
        result = asking.step(asked, client)
        if isinstance(result, bytes):  # what has no data and no SOA of its own is not kept
            found[client].append(result)
    assert all(len(texts(octets)) == len(answer) for octets in found[OTHER])
    for octets in found[MANAGED]:
        assert octets == found[MANAGED][0]
        assert edes(octets) == [(15, "Not allowed")]
        assert b"\x06banned" not in octets[12 + len(question("www.example")) :]
    blocked = [outcome for outcome in outcomes(asking) if outcome.verdict == "blocked"]
    assert {(outcome.group, outcome.list_name) for outcome in blocked} == {("managed", "ban")}


def test_a_block_through_the_chain_is_the_same_as_of_the_name_itself(asking: Asking) -> None:
    for style in Style:
        for rtype in (1, 28, 16):
            row = replace(ROW, style=style)
            other = Asking(policy(index(*rules("www.example"), canaries=2), row))
            direct = other.answer(query("www.example", rtype, edns=opt()))
            asking = Asking(policy(index(*rules(), canaries=2), row))
            assert through(asking, query("www.example", rtype, edns=opt()), *CHAIN) == direct


def additional(octets: bytes) -> list[str]:
    return [rrset.to_text() for rrset in message(octets).additional]


MX = ("www.example 300 IN MX 10 mx.banned.example", "www.example 300 IN MX 20 mx.example")
LISTED, UNLISTED = "mx.banned.example 300 IN A 198.51.100.1", "mx.example 300 IN A 198.51.100.2"


@pytest.mark.parametrize(
    ("extra", "left"),
    [
        pytest.param((LISTED,), 0, id="alone"),
        pytest.param((LISTED, UNLISTED), 0, id="first"),
        pytest.param((UNLISTED, LISTED), 1, id="last"),
        pytest.param((UNLISTED, LISTED, "mx.example 300 IN AAAA 2001:db8::2"), 1, id="in the middle"),
        pytest.param((UNLISTED, "mx.example 300 IN MX 10 banned.example"), 2, id="a name that is no place to go"),
    ],
)
def test_additional_records_go_from_the_first_of_a_blocked_name_on_and_the_answer_stays(
    asking: Asking, extra: tuple[str, ...], left: int
) -> None:
    asked = query("www.example", "MX")
    whole = through(asking, asked, *MX, additional=extra, client=OTHER)
    assert len(additional(whole)) == len(extra)
    for _ in range(2):
        octets = asking.answer(asked, MANAGED)
        assert sorted(texts(octets)) == [
            "www.example. 300 IN MX 10 mx.banned.example.",
            "www.example. 300 IN MX 20 mx.example.",
        ]
        assert additional(octets) == additional(whole)[:left]
        assert asking.answer(asked, OTHER) == whole


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("www.example 300 IN HTTPS 0 banned.example", id="HTTPS, AliasMode"),
        pytest.param("x.example 300 IN HTTPS 1 x.banned.example ipv4hint=198.51.100.1", id="HTTPS, ServiceMode"),
        pytest.param("_dns.example 300 IN SVCB 1 banned.example", id="SVCB"),
        pytest.param("x.example 300 IN CNAME x.banned.example", id="CNAME"),
        pytest.param("x.example 300 IN DNAME banned.test", id="DNAME"),
    ],
)
@pytest.mark.parametrize("first", [MANAGED, EXEMPT], ids=["fresh to managed clients", "fresh to exempt clients"])
def test_an_additional_record_that_leads_to_a_blocked_name_reaches_those_who_may_go_there(
    asking: Asking, text: str, first: str
) -> None:
    asking.clock.wall = START
    asked = query("www.example")
    found = {first: through(asking, asked, "www.example 9 IN A 198.51.100.9", additional=[text], client=first)}
    for client in (MANAGED, EXEMPT, OTHER):
        found[client] = found.get(client) or asking.answer(asked, client)
        assert asking.answer(asked, client) == found[client]
        assert texts(found[client]) == ["www.example. 9 IN A 198.51.100.9"]
    assert additional(found[MANAGED]) == []
    assert b"banned" not in found[MANAGED]
    assert len(additional(found[EXEMPT])) == len(additional(found[OTHER])) == 1


def test_an_address_in_the_authority_section_passes_to_nobody(asking: Asking) -> None:
    asked = query("www.example", edns=opt())
    authority = ["x.banned.example 300 IN A 198.51.100.1", "example 300 IN NS ns.example"]
    first = through(asking, asked, "www.example 300 IN A 198.51.100.9", authority=authority)
    for octets in (first, *(asking.answer(asked, client) for client in (MANAGED, EXEMPT, OTHER))):
        assert [rrset.to_text() for rrset in message(octets).authority] == ["example. 300 IN NS ns.example."]
        assert b"banned" not in octets


@pytest.mark.parametrize("cached", [False, True], ids=["fresh", "cached"])
def test_additional_records_can_be_removed_however_names_are_compressed(asking: Asking, *, cached: bool) -> None:
    """Names that go through a hundred pointers: a query is never lost to them."""
    asked = query("www.example", "NS")
    octets, at = b"", 12
    for _ in range(100):
        octets += b"\xc0\x0c" + unhex("0002 0001 0000012c 0004")
        pointer, at = struct.pack("!H", 0xC000 | at), 12 + len(question("www.example")) + len(octets)
        octets += b"\1a" + pointer
    octets += name("x.banned.example") + unhex("0001 0001 0000012c 0004 c6336401")
    whole = unhex("1234 8180 0001") + struct.pack("!3H", 100, 0, 1) + question("www.example", "NS") + octets
    forward = asking.forward(asked, OTHER if cached else MANAGED, Transport.TCP)
    [first] = asking.complete(forward, whole)
    second = asking.answer(asked, MANAGED, Transport.TCP)
    assert [record.section for record in read(first, name("www.example")).records] == [0] * 100 + [2] * cached
    assert [record.section for record in read(second, name("www.example")).records] == [0] * 100


def test_the_longest_name_with_200_records_that_point_to_it_gets_its_answer(asking: Asking) -> None:
    """Written out in full it would be longer than a message: what is removed leaves the rest as it came."""
    longest = b"\1a" * 121 + name("www.example")
    assert len(longest) == 255
    asked = query(longest, "MX")
    mx = b"".join(struct.pack("!HHHIHHH", 0xC00C, 15, 1, 300, 4, number, 0xC00C) for number in range(200))
    extra = name("mx.example") + unhex("0001 0001 0000012c 0004 c6336402")
    extra += name("mx.banned.example") + unhex("0001 0001 0000012c 0004 c6336401")
    whole = unhex("1234 8180 0001") + struct.pack("!3H", 200, 0, 2) + question(longest, "MX") + mx + extra
    [first] = asking.complete(asking.forward(asked, MANAGED, Transport.TCP), whole)
    for octets in (first, asking.answer(asked, MANAGED, Transport.TCP)):
        assert rcode(octets) == "NOERROR"
        assert len(texts(octets)) == 200
        assert additional(octets) == ["mx.example. 300 IN A 198.51.100.2"]
    assert len(additional(asking.answer(asked, OTHER, Transport.TCP))) == 2


@pytest.mark.parametrize("answer", [("www.example 300 IN CNAME www.example",), ("example 300 IN DNAME x.example",)])
def test_a_loop_is_servfail(asking: Asking, answer: tuple[str, ...]) -> None:
    octets = through(asking, query("www.example", edns=opt()), *answer)
    assert rcode(octets) == "SERVFAIL"
    assert [code for code, _ in edes(octets)] == [24]
    assert asking.engine.counters().cache_entries == 0


def test_a_dname_whose_substitution_is_too_long_is_passed_on(asking: Asking) -> None:
    """RFC 6672 section 2.2: YXDOMAIN with the DNAME record."""
    asked = query(labels_to_wire([b"b" * 63, b"example"]))
    dname = f"example 300 IN DNAME {'.'.join(['a' * 63] * 3)}.test"
    octets = through(asking, asked, dname, rcode=dns.rcode.YXDOMAIN)
    assert rcode(octets) == "YXDOMAIN"
    assert asking.engine.counters().internal_errors == 0


# Exemptions and time


def test_an_exemption_starts_and_ends_at_its_moment_without_any_reload(asking: Asking) -> None:
    asked, clock = query("x.banned.example"), asking.clock
    clock.wall = START - 0.25
    assert is_blocked_for(asking, asked, 1)
    clock.wait(0.25)
    octets = through(asking, asked, "x.banned.example 300 IN A 198.51.100.1", client=EXEMPT)
    assert texts(octets) == ["x.banned.example. 100 IN A 198.51.100.1"], "not told for longer than it holds"
    clock.wait(60.25)
    assert texts(asking.answer(asked, EXEMPT)) == ["x.banned.example. 39 IN A 198.51.100.1"]
    clock.wall = END - 0.25
    assert texts(asking.answer(asked, EXEMPT)) == ["x.banned.example. 1 IN A 198.51.100.1"]
    clock.wall = END
    assert is_blocked_for(asking, asked, 60)
    assert is_sinkhole(asking.answer(asked, MANAGED))


def is_blocked_for(asking: Asking, asked: bytes, ttl: int) -> bool:
    return texts(asking.answer(asked, EXEMPT)) == [f"x.banned.example. {ttl} IN A 192.0.2.1"]


def test_an_exemption_lifts_a_link_of_the_chain_and_bounds_its_ttl(asking: Asking) -> None:
    asking.clock.wall = END - 50
    octets = through(asking, query("www.example"), *CHAIN, client=EXEMPT)
    assert [text.split()[1] for text in texts(octets)] == ["50", "50"]
    assert [outcome.verdict for outcome in outcomes(asking)] == ["exempted"]


def test_every_ttl_that_an_exempt_client_gets_ends_with_the_exemption(asking: Asking) -> None:
    asking.clock.wall = END - 10
    for octets in (
        asking.answer(query("x.banned.example", "ANY"), EXEMPT),
        through(asking, query("x.banned.example", "TXT"), authority=[SOA], client=EXEMPT),
    ):
        found = message(octets)
        assert max(rrset.ttl for section in found.sections[1:] for rrset in section) <= 10


def test_an_additional_record_of_an_exempted_name_is_not_told_for_longer_than_the_exemption_holds(
    asking: Asking,
) -> None:
    asking.clock.wall = END - 10
    asked = query("www.example", "MX")
    octets = through(asking, asked, *MX, additional=[LISTED], client=EXEMPT)
    for each in (octets, asking.answer(asked, EXEMPT)):
        assert [text.split()[:2] for text in additional(each)] == [["mx.banned.example.", "10"]]
    asking.clock.wall = END
    assert additional(asking.answer(asked, EXEMPT)) == []


def test_an_exemption_that_ends_while_a_question_is_out_does_not_let_its_answer_through(asking: Asking) -> None:
    asked = query("x.banned.example")
    asking.clock.wall = END - 1
    forward = asking.forward(asked, EXEMPT)
    asking.clock.wait(1)
    [octets] = asking.complete(forward, response(asked, "x.banned.example 300 IN A 198.51.100.1"))
    assert is_sinkhole(octets)


# Reload


def in_flight(asking: Asking, client: str = MANAGED) -> Callable[[Policy], bytes]:
    asked = query("news.example")
    forward = asking.forward(asked, client)

    def reloaded(fresh: Policy) -> bytes:
        asking.engine.load(fresh, keep_cache=True)
        [octets] = asking.complete(forward, response(asked, "news.example 300 IN A 198.51.100.1"))
        return octets

    return reloaded


def test_a_name_that_is_listed_while_its_question_is_out_is_blocked(asking: Asking) -> None:
    assert is_sinkhole(in_flight(asking)(shared("news.example")))
    assert is_sinkhole(asking.answer(query("news.example")))


def test_a_target_that_is_listed_while_the_question_is_out_is_blocked(asking: Asking) -> None:
    asked = query("www.example")
    forward = asking.forward(asked)
    asking.engine.load(shared("edge.example"), keep_cache=True)
    [octets] = asking.complete(forward, response(asked, "www.example 300 IN CNAME edge.example"))
    assert is_sinkhole(octets)


def test_a_client_that_becomes_a_stranger_while_its_question_is_out_is_refused(asking: Asking) -> None:
    assert rcode(in_flight(asking)(policy(access=["198.51.100.0/24"]))) == "REFUSED"


def test_an_unchanged_policy_lets_the_answer_through(asking: Asking) -> None:
    assert texts(in_flight(asking)(shared())) == ["news.example. 300 IN A 198.51.100.1"]


def test_a_list_that_changes_acts_on_cached_answers_at_once(asking: Asking) -> None:
    through(asking, query("www.example"), "www.example 300 IN CNAME edge.example", "edge.example 300 IN A 198.51.100.1")
    asking.engine.load(shared("edge.example"), keep_cache=True)
    assert is_sinkhole(asking.answer(query("www.example")))
    asking.engine.load(shared(), keep_cache=True)
    assert len(texts(asking.answer(query("www.example")))) == 2


def test_each_policy_has_the_next_generation(asking: Asking) -> None:
    first = asking.engine.policy.generation
    asking.engine.load(shared(), keep_cache=True)
    assert asking.engine.policy.generation == first + 1 == 2


def test_what_other_upstreams_said_is_forgotten(asking: Asking) -> None:
    through(asking, query("www.example"), "www.example 300 IN A 198.51.100.1")
    asking.engine.load(shared(zones={name("www.example"): 1}), keep_cache=False)
    assert asking.forward(query("www.example")).zone == 1


def test_what_another_upstream_says_after_a_reload_is_not_kept(asking: Asking) -> None:
    """A zone has got upstreams of its own: what the old ones still answer must not hide what those say."""
    asked = query("x.intra.example")
    forward = asking.forward(asked)
    asking.engine.load(shared(zones={name("intra.example"): 1}), keep_cache=False)
    asking.complete(forward, response(asked, authority=[SOA], rcode=dns.rcode.NXDOMAIN))
    assert asking.forward(asked).zone == 1


def test_a_question_of_a_zone_does_not_join_one_that_is_out_to_other_upstreams(asking: Asking) -> None:
    asked = query("x.intra.example")
    asking.forward(asked)
    asking.engine.load(shared(zones={name("intra.example"): 1}), keep_cache=False)
    assert asking.forward(asked).zone == 1


# Equal questions


def test_equal_questions_are_asked_once_and_each_gets_its_own_answer(asking: Asking) -> None:
    forward = asking.forward(query("www.example", ident=1))
    assert isinstance(asking.step(query("WWW.EXAMPLE", ident=2, rd=False), OTHER), Joined)
    assert isinstance(asking.step(query("www.example", ident=3, edns=opt(512)), MANAGED, Transport.TCP), Joined)
    sent = asking.complete(forward, response(query("www.example"), "www.example 300 IN A 198.51.100.1"))
    assert [octets[:4] for octets in sent] == [unhex("0001 8180"), unhex("0002 8080"), unhex("0003 8180")]
    assert texts(sent[1]) == ["WWW.EXAMPLE. 300 IN A 198.51.100.1"]
    assert [message(octets).edns for octets in sent] == [-1, -1, 0]
    assert isinstance(asking.step(query("www.example", ident=4)), bytes)


def test_types_do_and_cd_are_asked_apart(asking: Asking) -> None:
    for asked in (
        query("www.example"),
        query("www.example", "AAAA"),
        query("www.example", edns=opt(do=True)),
        query("www.example", cd=True),
        query("www.example", cd=True, edns=opt(do=True)),
    ):
        asking.forward(asked)
        assert isinstance(asking.step(asked, OTHER), Joined)


def test_a_failure_is_told_to_all_who_wait_and_remembered_for_a_second(asking: Asking) -> None:
    asked = query("www.example", edns=opt())
    forward = asking.forward(asked)
    asking.step(asked, OTHER)
    result = asking.engine.fail(forward, 22, "every upstream failed", asking.clock.now, asking.clock.wall)
    assert len(result.responses) == 2
    for reply, octets in result.responses:
        reply(octets)
        assert (rcode(octets), edes(octets)) == ("SERVFAIL", [(22, "every upstream failed")])
    assert len(asking.sent) == 2
    assert edes(asking.answer(asked)) == [(13, "nobody could answer")]
    asking.clock.wait(1.0)
    asking.forward(asked)


def test_a_client_that_waited_for_a_failure_is_judged_anew() -> None:
    """Its exemption has ended meanwhile."""
    asking = Asking(shared(), Clock(wall=END - 1))
    forward = asking.forward(query("banned.example"), EXEMPT)
    asking.clock.wait(2.0)
    [(_, octets)] = asking.engine.fail(forward, 22, "", asking.clock.now, asking.clock.wall).responses
    assert is_sinkhole(octets)


# Stale answers (RFC 8767)


ADDRESS = "www.example 10 IN A 192.0.2.1"


def aged(asked: bytes, *answer: str, seconds: float = 11.0, **more: Any) -> Asking:
    """An engine that keeps one answer, so many seconds old."""
    asking = Asking(shared(), Clock(wall=START - 1_000), replace(LIMITS, serve_stale=60))
    through(asking, asked, *answer, **more)
    asking.clock.wait(seconds)
    return asking


def failed(asking: Asking, forward: Forward) -> list[bytes]:
    result = asking.engine.fail(forward, 22, "no upstream answers", asking.clock.now, asking.clock.wall)
    return [octets for _, octets in result.responses]


def test_where_nobody_answers_what_is_stale_is_told_for_30_seconds() -> None:
    asked = query("www.example", edns=opt())
    asking = aged(asked, ADDRESS)
    forward = asking.forward(asked)
    assert forward.has_stale
    [octets] = failed(asking, forward)
    assert texts(octets) == ["www.example. 30 IN A 192.0.2.1"]
    assert [code for code, _ in edes(octets)] == [3]
    again = asking.answer(asked)
    assert texts(again) == texts(octets), "the failure is remembered: nobody is asked"
    assert {each.cache for each in outcomes(asking)} == {"miss", "stale"}


def test_a_stale_answer_is_told_as_such_to_those_with_edns_only() -> None:
    asking = aged(query("www.example"), ADDRESS)
    [octets] = failed(asking, asking.forward(query("www.example")))
    assert texts(octets) == ["www.example. 30 IN A 192.0.2.1"]
    assert message(octets).edns == -1


def test_a_stale_nxdomain_has_an_extended_error_of_its_own() -> None:
    asked = query("www.example", edns=opt())
    asking = aged(asked, authority=[SOA], rcode=dns.rcode.NXDOMAIN, seconds=61.0)
    [octets] = failed(asking, asking.forward(asked))
    assert rcode(octets) == "NXDOMAIN"
    assert [code for code, _ in edes(octets)] == [19]


def test_who_waits_may_be_told_what_is_stale_while_the_question_stays_out() -> None:
    asked = query("www.example", edns=opt())
    asking = aged(asked, ADDRESS)
    forward = asking.forward(asked)
    [(_, octets)] = asking.engine.answer_stale(forward, asking.clock.now, asking.clock.wall).responses
    assert [code for code, _ in edes(octets)] == [3]
    assert isinstance(asking.step(asked, OTHER), Joined)
    [octets] = asking.complete(forward, response(asked, "www.example 300 IN A 192.0.2.2"))
    assert texts(octets) == ["www.example. 300 IN A 192.0.2.2"], "who came later waits for the fresh one"
    assert texts(asking.answer(asked)) == ["www.example. 300 IN A 192.0.2.2"]


def test_a_stale_answer_is_judged_by_the_policy_in_force() -> None:
    asked = query("www.example")
    asking = aged(asked, "www.example 10 IN CNAME edge.example", "edge.example 10 IN A 192.0.2.1")
    asking.engine.load(shared("edge.example"), keep_cache=True)
    forward = asking.forward(asked)
    assert isinstance(asking.step(asked, OTHER), Joined)
    blocked, passed = failed(asking, forward)
    assert is_sinkhole(blocked)
    assert len(texts(passed)) == 2


def test_a_stale_answer_is_not_told_once_upstreams_have_changed() -> None:
    asked = query("www.example")
    asking = aged(asked, ADDRESS)
    forward = asking.forward(asked)
    asking.engine.load(shared(), keep_cache=False)
    assert [rcode(octets) for octets in failed(asking, forward)] == ["SERVFAIL"]
    assert not asking.forward(asked).has_stale, "nor is the failure of the old ones remembered"


def test_a_whole_that_cannot_be_fetched_is_no_reason_to_tell_nothing_where_something_is_stale() -> None:
    asked = query("www.example", edns=opt())
    asking = aged(asked, ADDRESS)
    forward = asking.forward(asked, transport=Transport.TCP)
    result = asking.engine.give_up_on_tcp(forward, asking.clock.now, asking.clock.wall)
    assert [texts(octets) for _, octets in result.responses] == [["www.example. 30 IN A 192.0.2.1"]]


# Flushed


@pytest.mark.parametrize("zone", [None, name("example"), name("www.example")], ids=["all", "above", "itself"])
def test_what_is_flushed_is_asked_anew(asking: Asking, zone: bytes | None) -> None:
    asked = query("www.example")
    through(asking, asked, ADDRESS)
    assert sum(asking.engine.flush(zone)) == 1
    asking.forward(asked)


def test_what_is_out_when_the_cache_is_flushed_is_told_and_not_kept(asking: Asking) -> None:
    asked = query("www.example")
    forward = asking.forward(asked)
    assert sum(asking.engine.flush(name("www.example"))) == 0
    assert len(asking.complete(forward, response(asked, ADDRESS))) == 1
    asking.forward(asked)


def test_a_failure_is_forgotten_with_the_cache(asking: Asking) -> None:
    asked = query("www.example")
    failed(asking, asking.forward(asked))
    assert rcode(asking.answer(asked)) == "SERVFAIL"
    list(asking.engine.flush(name("example")))
    asking.forward(asked)


# Cookies and keepalive


def options_of(octets: bytes) -> dict[int, bytes]:
    return {int(each.otype): each.to_wire() or b"" for each in message(octets).options}


COOKIE = unhex("0102030405060708")


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
@pytest.mark.parametrize("asked_for", ["banned.example", "localhost", "www.example"])
def test_a_cookie_is_answered_with_a_cookie_that_stays(asking: Asking, asked_for: str, transport: Transport) -> None:
    through(asking, query("www.example", edns=opt()), ADDRESS)
    asked = query(asked_for, edns=opt(options=option(10, COOKIE)))
    cookie = options_of(asking.answer(asked, transport=transport))[10]
    assert (len(cookie), cookie[:8]) == (24, COOKIE)
    later = query(asked_for, edns=opt(options=option(10, cookie)))
    asking.clock.wait(1.0)
    assert options_of(asking.answer(later, transport=transport))[10] == cookie
    assert options_of(asking.answer(later, "192.0.2.10", transport=transport))[10] != cookie, (
        "it is bound to the address"
    )


def test_an_answer_that_had_to_be_waited_for_carries_the_cookie_of_each_client(asking: Asking) -> None:
    asked = query("www.example", edns=opt(options=option(10, COOKIE)))
    forward = asking.forward(asked)
    asking.step(asked, OTHER)
    asking.step(query("www.example", edns=opt()), OTHER)
    one, other, none = asking.complete(forward, response(query("www.example"), ADDRESS))
    assert options_of(one)[10] != options_of(other)[10]
    assert not options_of(none)


def test_a_cookie_of_a_wrong_length_is_formerr_without_a_cookie(asking: Asking) -> None:
    for size in (0, 7, 9, 15, 41):
        octets = asking.answer(query("www.example", edns=opt(options=option(10, bytes(size)))))
        assert rcode(octets) == "FORMERR"
        assert not options_of(octets)


def test_of_several_cookies_the_first_counts(asking: Asking) -> None:
    asked = query("banned.example", edns=opt(options=option(10, COOKIE) + option(10, bytes(8))))
    assert options_of(asking.answer(asked))[10][:8] == COOKIE


def test_a_query_for_nothing_but_a_cookie_gets_one(asking: Asking) -> None:
    asked = unhex("1234 0100 0000 0000 0000 0001") + opt(options=option(10, COOKIE))
    octets = asking.answer(asked)
    assert octets[:12] == unhex("1234 8180 0000 0000 0000 0001")
    assert options_of(octets)[10][:8] == COOKIE


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(unhex("1234 0100 0000 0000 0000 0001") + opt(), id="no cookie"),
        pytest.param(unhex("1234 0100 0000 0000 0000 0000"), id="no OPT"),
        pytest.param(unhex("1234 0100 0000 0001 0000 0001") + opt(options=option(10, COOKIE)), id="an answer record"),
        pytest.param(unhex("1234 0100 0000 0000 0000 0001") + opt(options=option(10, COOKIE))[:-1], id="cut"),
        pytest.param(unhex("1234 0100 0000 0000 0000 0001 000029"), id="cut in OPT"),
    ],
)
def test_another_query_without_a_question_is_formerr(asking: Asking, octets: bytes) -> None:
    assert asking.answer(octets) == unhex("1234 8181 0000 0000 0000 0000")


@pytest.mark.parametrize(
    ("transport", "expected"),
    [
        pytest.param(Transport.TCP, {11: unhex("0064")}, id="TCP: ten seconds, RFC 7828 section 3.1"),
        pytest.param(Transport.UDP, {}, id="UDP: nothing, section 3.2.1"),
    ],
)
def test_who_asks_for_how_long_a_connection_may_stay_is_told(
    asking: Asking, transport: Transport, expected: dict[int, bytes]
) -> None:
    asked = query("banned.example", edns=opt(options=option(11)))
    found = options_of(asking.answer(asked, transport=transport))
    assert {code: octets for code, octets in found.items() if code != 15} == expected


def test_a_stranger_is_refused_without_any_work_on_its_cookie(asking: Asking) -> None:
    octets = asking.answer(query("www.example", edns=opt(options=option(10, COOKIE))), STRANGER)
    assert (rcode(octets), options_of(octets)) == ("REFUSED", {})


# Bounds


def test_too_many_questions_in_flight_are_servfail_at_once() -> None:
    asking = Asking(shared(), max_in_flight=3)
    forwards = [asking.forward(query(f"n{number}.example"), f"192.0.2.{number}") for number in range(3)]
    octets = asking.answer(query("n3.example", edns=opt()))
    assert (rcode(octets), edes(octets)) == ("SERVFAIL", [(23, "too many questions in flight")])
    assert is_sinkhole(asking.answer(query("banned.example"))), "what needs no upstream is answered all the same"
    assert isinstance(asking.step(query("n0.example")), Joined)
    asking.engine.fail(forwards[0], 22, "", asking.clock.now, asking.clock.wall)
    asking.forward(query("n3.example"))


def test_a_zone_whose_upstreams_are_dead_takes_the_slots_of_no_other() -> None:
    asking = Asking(shared(zones={name("dead.example"): 1, name("intra.example"): 2}), max_in_flight=3)
    dead = [asking.forward(query(f"n{number}.dead.example"), f"192.0.2.{number}") for number in range(3)]
    over = asking.answer(query("n3.dead.example", edns=opt()))
    assert (rcode(over), edes(over)) == ("SERVFAIL", [(23, "too many questions in flight")])
    for zone in ("intra.example", "example"):
        forwards = [asking.forward(query(f"n{number}.{zone}"), f"192.0.2.{number}") for number in range(3)]
        assert rcode(asking.answer(query(f"n3.{zone}"))) == "SERVFAIL"
        for forward in forwards:
            asking.engine.fail(forward, 22, "", asking.clock.now, asking.clock.wall)
        asking.forward(query(f"n3.{zone}"))
    assert rcode(asking.answer(query("n3.dead.example"))) == "SERVFAIL"
    asking.engine.fail(dead[0], 22, "", asking.clock.now, asking.clock.wall)
    asking.forward(query("n3.dead.example"))


def test_those_who_wait_for_a_dead_zone_take_the_places_of_no_other() -> None:
    asking = Asking(shared(zones={name("dead.example"): 1}), max_in_flight=3)
    idents = itertools.count()
    while not isinstance(asking.step(query("www.dead.example", ident=next(idents))), bytes):
        pass
    asking.forward(query("www.example"))
    assert isinstance(asking.step(query("www.example", ident=2)), Joined)


def test_slots_are_free_again_however_a_question_ends() -> None:
    asking = Asking(shared(), max_in_flight=1)
    clock = asking.clock
    for number in range(3):
        for end in (
            lambda forward, asked: asking.complete(forward, response(asked, "x.example 0 IN A 198.51.100.1")),
            lambda forward, asked: asking.complete(forward, response(asked, "example 9 IN DNAME x.example")),
            lambda forward, asked: asking.engine.fail(forward, 22, "", clock.now, clock.wall),
            lambda forward, asked: asking.engine.give_up_on_tcp(forward, clock.now, clock.wall),
        ):
            asked = query("x.example", ident=number)
            forward = asking.forward(asked)
            assert rcode(asking.answer(query("y.example"))) == "SERVFAIL"
            asking.engine.load(shared(zones={name("z.example"): number + 1}), keep_cache=False)
            end(forward, asked)
    asking.forward(query("y.example"))


def test_those_who_wait_are_bounded_too() -> None:
    asking = Asking(shared(), max_in_flight=3)
    asking.forward(query("www.example"))
    results = [asking.step(query("www.example", ident=number)) for number in range(100)]
    waiting = sum(isinstance(result, Joined) for result in results)
    assert 10 <= waiting < 60
    assert all(
        isinstance(result, Joined) or rcode(result) == "SERVFAIL" for result in results if isinstance(result, bytes)
    )


# What an upstream says


def test_a_truncated_answer_is_to_be_asked_for_by_tcp(asking: Asking) -> None:
    asked = query("www.example")
    forward = asking.forward(asked)
    result = asking.engine.complete(forward, response(asked, flags=dns.flags.TC), asking.clock.now, asking.clock.wall)
    assert result is forward
    assert forward.by_tcp
    [octets] = asking.complete(forward, response(asked, "www.example 300 IN A 198.51.100.1"))
    assert len(texts(octets)) == 1


def test_a_truncated_answer_that_is_cut_anywhere_is_to_be_asked_for_by_tcp() -> None:
    """What came is not looked at (RFC 2181 section 9)."""
    asked = query("www.example")
    answer = [f"www.example 300 IN A 198.51.100.{number}" for number in range(100)]
    octets = response(asked, *answer, flags=dns.flags.TC)
    for length in (500, *range(12 + len(question("www.example")), len(octets), 7)):
        asking = Asking(shared())
        forward = asking.forward(asked)
        result = asking.engine.complete(forward, octets[:length], asking.clock.now, asking.clock.wall)
        assert result is forward
        assert forward.by_tcp
    again = asking.engine.complete(forward, octets, asking.clock.now, asking.clock.wall)
    assert again == Rejected("malformed"), "by TCP nothing is truncated"
    assert len(asking.complete(forward, response(asked, *answer))) == 1


@pytest.mark.parametrize(
    ("edns", "is_kept"),
    [(b"", True), (opt(), True), (opt(do=True), False)],
    ids=["without EDNS", "with EDNS", "with DO"],
)
def test_what_was_fetched_without_edns_is_not_kept_for_those_who_ask_with_do(
    asking: Asking, edns: bytes, *, is_kept: bool
) -> None:
    """It lacks the signatures that another upstream would have sent."""
    asked = query("www.example", edns=edns)
    forward = asking.forward(asked)
    formerr = response(asked, rcode=dns.rcode.FORMERR, edns=False)
    assert asking.engine.complete(forward, formerr, asking.clock.now, asking.clock.wall) is forward
    assert not forward.edns
    [octets] = asking.complete(forward, response(asked, "www.example 300 IN A 198.51.100.1", edns=False))
    assert texts(octets) == ["www.example. 300 IN A 198.51.100.1"]
    assert isinstance(asking.step(asked), bytes) is is_kept


def test_what_cannot_be_fetched_by_tcp_is_truncated_over_udp_and_servfail_over_tcp(asking: Asking) -> None:
    asked = query("www.example", edns=opt())
    forward = asking.forward(asked)
    asking.step(asked, OTHER, Transport.TCP)
    result = asking.engine.give_up_on_tcp(forward, asking.clock.now, asking.clock.wall)
    udp, tcp = (octets for _, octets in result.responses)
    assert message(udp).flags & dns.flags.TC
    assert udp[6:12] == unhex("0000 0000 0001")
    assert rcode(tcp) == "SERVFAIL"
    asking.forward(asked)


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (response(query("www.example"), rcode=dns.rcode.SERVFAIL), Rejected("servfail")),
        (response(query("www.example"), rcode=dns.rcode.REFUSED), Rejected("refused")),
        (response(query("www.example"), rcode=dns.rcode.NOTAUTH), Rejected("rcode")),
        (response(query("www.example"), "www.example 300 IN A 198.51.100.1") + b"\0", Rejected("malformed")),
        (response(query("www.example"), "www.example 300 IN A 198.51.100.1")[:-1], Rejected("malformed")),
    ],
    ids=["SERVFAIL", "REFUSED", "another rcode", "an octet too many", "an octet too few"],
)
def test_responses_that_are_no_answer_are_rejected_and_the_question_stays(
    asking: Asking, octets: bytes, expected: Rejected
) -> None:
    asked = query("www.example")
    forward = asking.forward(asked)
    forward.edns = False
    assert asking.engine.complete(forward, octets, asking.clock.now, asking.clock.wall) == expected
    assert isinstance(asking.step(asked), Joined)
    assert len(asking.complete(forward, response(asked, "www.example 300 IN A 198.51.100.1"))) == 2


def test_the_answer_fits_what_the_client_offers(asking: Asking) -> None:
    answer = [f"www.example 300 IN A 198.51.100.{number}" for number in range(60)]  # about 1,000 octets
    full = through(asking, query("www.example", edns=opt(1232)), *answer)
    assert len(texts(full)) == 60
    for edns in (b"", opt(0), opt(512), opt(len(full) - 1)):
        octets = asking.answer(query("www.example", edns=edns))
        assert message(octets).flags & dns.flags.TC
        assert texts(octets) == []
        assert len(texts(asking.answer(query("www.example", edns=edns), MANAGED, Transport.TCP))) == 60
    assert len(asking.answer(query("www.example", edns=opt(len(full))))) == len(full)


def test_an_answer_of_more_than_1232_octets_is_never_sent_over_udp(asking: Asking) -> None:
    answer = [f"www.example 300 IN A 198.51.100.{number}" for number in range(100)]
    assert message(through(asking, query("www.example", edns=opt(4096)), *answer)).flags & dns.flags.TC


def test_an_answer_that_no_message_can_hold_with_opt_is_servfail() -> None:
    """Eleven octets too many for those who ask with EDNS; the others get it."""
    asking = Asking(shared())
    asked = query("www.example", "TXT")
    room = 65_535 - len(response(asked))
    records = [b"\xc0\x0c" + struct.pack("!HHIH", 16, 1, 300, size) + bytes(size) for size in (65_000, room - 65_024)]
    whole = unhex("1234 8180 0001 0002 0000 0000") + question("www.example", "TXT") + b"".join(records)
    assert len(whole) == 65_535
    [octets] = asking.complete(asking.forward(asked, MANAGED, Transport.TCP), whole)
    assert octets == whole
    for edns in (opt(), opt(do=True)):
        asking = Asking(shared())
        asked = query("www.example", "TXT", edns=edns)
        [octets] = asking.complete(asking.forward(asked, MANAGED, Transport.TCP), whole)
        assert rcode(octets) == "SERVFAIL"
        assert [code for code, _ in edes(octets)] == [0]
        if edns == opt():
            assert message(asking.answer(asked)).flags & dns.flags.TC
    assert asking.engine.counters().internal_errors == 0


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (query("www.example"), False),
        (query("www.example", ad=True), True),
        (query("www.example", edns=opt(do=True)), True),
    ],
    ids=["neither", "AD", "DO"],
)
def test_upstreams_ad_is_told_to_those_who_ask(asking: Asking, asked: bytes, *, expected: bool) -> None:
    """RFC 6840 section 5.7 and 5.8."""
    octets = through(asking, asked, "www.example 300 IN A 198.51.100.1", flags=dns.flags.AD)
    assert bool(message(octets).flags & dns.flags.AD) is expected
    assert bool(message(asking.answer(asked)).flags & dns.flags.AD) is expected


def test_bits_are_copied_or_cleared(asking: Asking) -> None:
    through(
        asking,
        query("www.example", cd=True, edns=opt(do=True)),
        "www.example 300 IN A 198.51.100.1",
        flags=dns.flags.AA,
    )
    octets = asking.answer(
        unhex("1234 0650 0001 0000 0000 0001") + question("www.example") + opt(4096, do=True, flags=0x7FFF)
    )
    assert octets[2:4] == unhex("8090"), "QR and RA; CD as asked; AA, TC, Z and RD 0"
    assert octets.endswith(unhex("00 0029 04d0 0000 8000 0000"))


def test_negative_answers_are_kept_and_pass_their_soa(asking: Asking) -> None:
    octets = through(asking, query("gone.example"), authority=[SOA], rcode=dns.rcode.NXDOMAIN)
    for each in (octets, asking.answer(query("gone.example"))):
        assert rcode(each) == "NXDOMAIN"
        assert [rrset.ttl for rrset in message(each).authority] == [60]
    asking.forward(query("gone.example", "AAAA"))
    asking.forward(query("sibling.example"))
    asking.clock.wait(60)
    asking.forward(query("gone.example"))


# Errors of our own, and counters


def test_an_error_of_ours_costs_one_query_and_is_counted(asking: Asking, caplog: pytest.LogCaptureFixture) -> None:
    clock = asking.clock
    for _ in range(3):
        result = asking.engine.step(query("www.example"), "no address", Transport.UDP, clock.now, clock.wall, print)
        assert result == Dropped("internal_error")
    assert asking.engine.counters().internal_errors == 3
    assert len(caplog.records) == 1, "the first of its kind is logged"
    assert is_sinkhole(asking.answer(query("banned.example")))


def test_an_error_of_ours_while_an_answer_is_fitted_is_servfail_to_that_client_alone(
    asking: Asking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = query("www.example", edns=opt())
    forward = asking.forward(asked)
    asking.step(query("www.example", ident=2), OTHER, Transport.TCP)
    asking.step(query("www.example", ident=3, edns=opt()), OTHER)
    real = deliver

    def failing(policy: Policy, found: Query, row: ClientRow, *rest: Any, **more: Any) -> tuple[bytes, Verdict]:
        if row.group == "managed":
            raise ValueError("a bug")
        return real(policy, found, row, *rest, **more)

    monkeypatch.setattr(pure, "deliver", failing)
    sent = asking.complete(forward, response(asked, "www.example 300 IN A 198.51.100.1"))
    assert list(map(rcode, sent)) == ["SERVFAIL", "NOERROR", "NOERROR"]
    assert [code for code, _ in edes(sent[0])] == [0]
    counters = asking.engine.counters()
    assert (counters.internal_errors, sum(counters.outcomes.values())) == (1, 3)
    assert len(caplog.records) == 1


def test_every_query_is_counted_once_in_each_way(asking: Asking) -> None:
    asking.answer(query("banned.example"))
    asking.answer(query("banned.example"), MANAGED, Transport.TCP)
    asking.answer(query("www.example"), STRANGER)
    asking.answer(query("www.example")[:-1])
    through(asking, query("www.example"), "www.example 300 IN A 198.51.100.1")
    asking.answer(query("www.example"), "2001:db8::9")
    forward = asking.forward(query("other.example"))
    asking.engine.fail(forward, 22, "", asking.clock.now + 0.5, asking.clock.wall)
    asking.step(b"")
    counters = asking.engine.counters()
    assert sum(counters.outcomes.values()) == 7
    assert sum(counters.durations) == 7
    assert counters.duration_sum_s == pytest.approx(0.5)
    assert counters.dropped == {"not_a_query": 1}
    found = {(o.transport, o.family, o.rcode, o.group, o.verdict, o.list_name, o.cache) for o in outcomes(asking)}
    assert found == {
        ("udp", "ipv4", "NOERROR", "managed", "blocked", "ban", ""),
        ("tcp", "ipv4", "NOERROR", "managed", "blocked", "ban", ""),
        ("udp", "ipv4", "REFUSED", "", "refused", "", ""),
        ("udp", "ipv4", "FORMERR", "", "", "", ""),
        ("udp", "ipv4", "NOERROR", "managed", "forwarded", "", "miss"),
        ("udp", "ipv6", "NOERROR", "default", "forwarded", "", "hit"),
        ("udp", "ipv4", "SERVFAIL", "managed", "forwarded", "", "miss"),
    }


# Any octets

AUTHORITY = {2, 6, 43, 46, 47, 50}
QUERIES = [query("www.example"), query("banned.example", edns=opt(do=True)), query("www.example", 65, edns=opt())]


@many
@given(st.binary(max_size=80) | mutated, st.sampled_from([Transport.UDP, Transport.TCP]))
def test_any_octets_give_an_answer_a_forward_or_a_drop(octets: bytes, transport: Transport) -> None:
    asking = Asking(shared())
    result = asking.step(octets, MANAGED, transport)
    assert asking.engine.counters().internal_errors == 0
    if isinstance(result, bytes):
        assert result[:2] == octets[:2]
        assert result[2] & 0x80
        dns.message.from_wire(result)
        assert len(result) <= 512 or transport is Transport.TCP
    elif result is None:
        assert len(octets) < 12 or octets[2] & 0x80
    else:
        assert isinstance(result, Forward)


@many
@given(
    st.lists(st.tuples(st.integers(min_value=4, max_value=300), st.integers(min_value=0, max_value=255)), max_size=4),
    st.none() | st.integers(min_value=29, max_value=300),
    st.binary(max_size=4),
)
def test_any_response_completes_is_asked_anew_or_is_rejected(
    edits: list[tuple[int, int]], cut: int | None, tail: bytes
) -> None:
    asking = Asking(shared())
    asked = query("www.example", edns=opt())
    octets = bytearray(
        response(
            asked,
            *CHAIN,
            "www.example 300 IN HTTPS 1 x.example",
            authority=[SOA, "y.banned.example 9 IN A 192.0.2.67"],
            additional=["x.banned.example 9 IN A 192.0.2.66", "y.example 9 IN HTTPS 1 banned.example"],
        )
    )
    for at, value in edits:
        octets[at % len(octets)] = value
    octets[12 : 12 + len(question("www.example"))] = question("www.example")
    octets[4:6] = b"\0\1"
    forward = asking.forward(asked, OTHER)
    asking.step(asked, MANAGED)
    result = asking.engine.complete(forward, bytes(octets[:cut]) + tail, asking.clock.now, asking.clock.wall)
    assert asking.engine.counters().internal_errors == 0
    if isinstance(result, Completed):
        assert len(result.responses) == 2
        for _, sent in result.responses:
            for record in read(sent, name("www.example")).records:
                assert record.section != 1 or record.rtype in AUTHORITY
        for record in read(result.responses[1][1], name("www.example")).records:
            if record.section == 2 or record.rtype in (5, 39, 64, 65):
                assert name("banned.example") not in ancestry(record.owner)
                assert record.target is None or name("banned.example") not in ancestry(record.target)
    else:
        assert isinstance(result, Forward | Rejected)
        assert isinstance(asking.step(asked, MANAGED), Joined)
