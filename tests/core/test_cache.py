"""What is kept of upstreams' answers, for how long, and what of them is passed on."""

import struct
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.cache import FLUSHED as FLUSH_TURN
from dnsfilter.core.cache import MAX_LINKS, Cache, ChainError, Entry, Limits, from_response, key
from dnsfilter.core.index import Index
from dnsfilter.core.names import to_text
from dnsfilter.core.wire.response import FormError, read
from tests.core.make import many, name, opt, query, question, response, type_number, unhex, wire

LIMITS = Limits(entries=1_000, octets=1_000_000, max_ttl=3_600, max_negative_ttl=300)
SOA = "example 120 IN SOA ns.example host.example 1 3600 600 86400 60"
NXDOMAIN = dns.rcode.NXDOMAIN


def entry(
    *answer: str,
    asked: str = "www.example",
    rtype: str | int = "A",
    authority: Sequence[str] = (),
    additional: Sequence[str] = (),
    rcode: int = 0,
    flags: int = 0,
    now: float = 1_000.0,
    limits: Limits = LIMITS,
) -> Entry:
    octets = response(
        query(asked, rtype, edns=opt()), *answer, authority=authority, additional=additional, rcode=rcode, flags=flags
    )
    return kept(octets, asked, rtype, now, limits)


def kept(octets: bytes, asked: str, rtype: str | int, now: float = 1_000.0, limits: Limits = LIMITS) -> Entry:
    return from_response(read(octets, name(asked)), name(asked), type_number(rtype), now, limits)


def delivered(found: Entry, asked: str, rtype: str | int, now: float, limit: int | None = None) -> dns.message.Message:
    """The answer as a client gets it, read by dnspython: another id, other flags, the question in its own spelling."""
    head = struct.pack("!2sH", b"\xfe\xdc", 0x8180 | found.rcode) + b"\0\1" + found.counts
    octets = head + question(asked.upper(), rtype) + found.aged_body(now, limit)
    return dns.message.from_wire(octets, one_rr_per_rrset=True)


def told(message: dns.message.Message) -> list[str]:
    return [rrset.to_text() for section in message.sections[1:] for rrset in section]


def ttls(found: Entry, now: float, limit: int | None = None) -> list[int]:
    message = delivered(found, "www.example", "A", now, limit)
    return [rrset.ttl for section in message.sections[1:] for rrset in section]


# How long


@pytest.mark.parametrize(
    ("found", "lifetime"),
    [
        pytest.param(entry("www.example 300 IN A 192.0.2.1"), 300, id="an address"),
        pytest.param(
            entry("www.example 300 IN A 192.0.2.1", "www.example 200 IN A 192.0.2.2"),
            200,
            id="the smallest of an RRset",
        ),
        pytest.param(
            entry("www.example 60 IN CNAME edge.example", "edge.example 300 IN A 192.0.2.1"),
            60,
            id="an alias ends first",
        ),
        pytest.param(
            entry("www.example 300 IN CNAME edge.example", "edge.example 60 IN A 192.0.2.1"),
            60,
            id="its target ends first",
        ),
        pytest.param(
            entry("www.example 300 IN A 192.0.2.1", additional=["ns.example 10 IN A 192.0.2.53"]),
            10,
            id="an additional record ends first",
        ),
        pytest.param(entry("www.example 86400 IN A 192.0.2.1"), 3_600, id="max_ttl"),
        pytest.param(entry("www.example 0 IN A 192.0.2.1"), 0, id="TTL 0 is passed on, not kept"),
        pytest.param(
            entry("www.example 2147483648 IN A 192.0.2.1"), 0, id="the top bit counts as 0, RFC 2181 section 8"
        ),
        pytest.param(entry("www.example 4294967295 IN A 192.0.2.1"), 0, id="all bits count as 0"),
        pytest.param(entry("www.example 2147483647 IN A 192.0.2.1"), 3_600, id="the largest TTL is cut"),
        pytest.param(
            entry("www.example 300 IN CNAME edge.example", rtype="CNAME"), 300, id="an alias asked for by type"
        ),
        pytest.param(
            entry("www.example 300 IN CNAME edge.example", "edge.example 300 IN A 192.0.2.1", rtype="CNAME"),
            300,
            id="an alias asked for by type, with its target's address",
        ),
        pytest.param(
            entry("example 300 IN DNAME other.test", asked="example", rtype="DNAME"), 300, id="DNAME asked for"
        ),
        pytest.param(entry("www.example 300 IN HTTPS 0 edge.example", rtype="HTTPS"), 300, id="HTTPS"),
        pytest.param(entry("www.example 300 IN A 192.0.2.1", rtype="ANY"), 0, id="ANY is never kept"),
        pytest.param(entry(authority=[SOA]), 60, id="NODATA: the SOA's minimum, RFC 2308 section 5"),
        pytest.param(
            entry(authority=["example 30 IN SOA ns.example host.example 1 3600 600 86400 60"]),
            30,
            id="NODATA: the SOA's own TTL",
        ),
        pytest.param(
            entry(authority=["example 86400 IN SOA ns.example host.example 1 3600 600 86400 86400"]),
            300,
            id="NODATA: max_negative_ttl",
        ),
        pytest.param(entry(), 0, id="NODATA without a SOA is not kept"),
        pytest.param(entry(authority=["example 300 IN NS ns.example"]), 0, id="a referral is not kept"),
        pytest.param(entry(authority=[SOA], rcode=NXDOMAIN), 60, id="NXDOMAIN"),
        pytest.param(entry(rcode=NXDOMAIN), 0, id="NXDOMAIN without a SOA is not kept"),
        pytest.param(
            entry("www.example 20 IN CNAME gone.example", authority=[SOA], rcode=NXDOMAIN),
            20,
            id="NXDOMAIN of a target",
        ),
        pytest.param(
            entry("www.example 300 IN CNAME edge.example", authority=[SOA]), 60, id="an alias whose target has no data"
        ),
        pytest.param(entry("www.example 300 IN CNAME edge.example"), 0, id="an alias alone is not kept"),
        pytest.param(
            entry("www.example 300 IN A 192.0.2.1", authority=[SOA], rcode=NXDOMAIN),
            60,
            id="NXDOMAIN with a stray address",
        ),
        pytest.param(
            entry(authority=["example 120 IN SOA ns.example host.example 1 3600 600 86400 0"]),
            0,
            id="a minimum of 0 is not kept",
        ),
        pytest.param(
            entry("www.example 300 IN A 192.0.2.1", rcode=dns.rcode.YXDOMAIN), 0, id="another rcode is not kept"
        ),
    ],
)
def test_an_answer_is_kept_for(found: Entry, lifetime: int) -> None:
    assert found.lifetime == lifetime


@pytest.mark.parametrize(
    ("now", "remaining", "ttl"),
    [
        pytest.param(1_000.0, 10, 10, id="at once"),
        pytest.param(1_000.9, 10, 10, id="within its first second"),
        pytest.param(1_001.0, 9, 9, id="after a second"),
        pytest.param(1_009.999, 1, 1, id="just before its TTL is over"),
        pytest.param(1_010.0, 0, 30, id="at its TTL it is stale, RFC 8767 section 4"),
        pytest.param(1_010.4, 0, 30, id="at its TTL and 0.4 s"),
        pytest.param(5_000.0, -3_990, 30, id="long after"),
    ],
)
def test_ttls_count_down_until_an_answer_is_stale(now: float, remaining: int, ttl: int) -> None:
    found = entry("www.example 10 IN A 192.0.2.1", "www.example 15 IN A 192.0.2.2", now=1_000.3)
    assert found.remaining(now) == remaining
    assert ttls(found, now)[0] == ttl
    cache = Cache(LIMITS)
    cache.put(b"k", found)
    assert (cache.get(b"k", now) is None) is (remaining <= 0)
    assert len(cache) == (0 if remaining <= 0 else 1)


def test_every_ttl_is_counted_down_and_the_rest_left_alone() -> None:
    found = entry(
        "www.example 300 IN CNAME edge.example",
        "edge.example 200 IN A 192.0.2.1",
        authority=["example 400 IN NS ns.example"],
        additional=["ns.example 500 IN A 192.0.2.53"],
    )
    assert told(delivered(found, "www.example", "A", 1_050.0)) == [
        "WWW.EXAMPLE. 250 IN CNAME edge.EXAMPLE.",
        "edge.EXAMPLE. 150 IN A 192.0.2.1",
        "EXAMPLE. 350 IN NS ns.EXAMPLE.",
        "ns.EXAMPLE. 450 IN A 192.0.2.53",
    ]


@pytest.mark.parametrize(("limit", "expected"), [(None, [290, 90]), (1_000, [290, 90]), (100, [100, 90]), (1, [1, 1])])
def test_ttls_are_cut_to_a_limit_too(limit: int | None, expected: list[int]) -> None:
    found = entry("www.example 300 IN A 192.0.2.1", "www.example 100 IN A 192.0.2.2")
    assert ttls(found, 1_010.0, limit) == expected
    assert ttls(found, 1_000.0, limit) == [ttl if limit is None else min(ttl, limit) for ttl in (300, 100)]


def test_clients_are_never_told_more_than_max_ttl_nor_a_ttl_with_its_top_bit_set() -> None:
    found = entry("www.example 86400 IN A 192.0.2.1", "www.example 4294967295 IN A 192.0.2.2")
    assert ttls(found, 1_000.0) == [3_600, 0]


def test_a_negative_answer_passes_its_soa_and_tells_no_ttl_beyond_its_life() -> None:
    found = entry("www.example 300 IN CNAME gone.example", authority=[SOA], rcode=NXDOMAIN)
    assert told(delivered(found, "www.example", "A", 1_010.0)) == [
        "WWW.EXAMPLE. 50 IN CNAME gone.EXAMPLE.",
        "EXAMPLE. 50 IN SOA ns.EXAMPLE. host.EXAMPLE. 1 3600 600 86400 60",
    ]


def test_a_clock_that_stands_still_or_goes_back_does_no_harm() -> None:
    found = entry("www.example 10 IN A 192.0.2.1", now=1_000.0)
    assert ttls(found, 990.0) == [20] or ttls(found, 990.0) == [10]
    assert found.remaining(990.0) >= 10


# The chain


def chain(found: Entry) -> list[str]:
    return list(map(to_text, found.chain))


LINKS = [
    "www.example 300 IN CNAME a.example",
    "a.example 300 IN CNAME b.test",
    "b.test 300 IN CNAME c.example",
    "c.example 300 IN A 192.0.2.1",
]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)], ids=["in order", "reversed", "mixed"])
def test_a_chain_is_followed_whatever_the_order_of_its_records(order: tuple[int, ...]) -> None:
    found = entry(*(LINKS[number] for number in order))
    assert chain(found) == ["a.example", "b.test", "c.example"]
    assert found.lifetime == 300
    assert len(told(delivered(found, "www.example", "A", 1_000.0))) == 4


def test_a_chain_is_followed_in_any_letter_case() -> None:
    assert chain(entry("WWW.Example 300 IN CNAME EDGE.Example", "edge.EXAMPLE 300 IN CNAME Last.Example")) == [
        "edge.example",
        "last.example",
    ]


def test_an_alias_asked_for_by_type_leads_to_its_target_too() -> None:
    assert chain(entry("www.example 300 IN CNAME edge.example", rtype="CNAME")) == ["edge.example"]


@pytest.mark.parametrize("rtype", ["A", "AAAA", "HTTPS", "ANY"])
def test_a_dname_moves_all_below_it(rtype: str) -> None:
    """RFC 6672, with the synthesised CNAME record or without."""
    dname = "example 300 IN DNAME banned.test"
    assert chain(entry(dname, rtype=rtype)) == ["www.banned.test", "banned.test"]
    assert chain(entry(dname, "www.example 300 IN CNAME www.banned.test", rtype=rtype)) == [
        "www.banned.test",
        "banned.test",
    ]


def test_a_dname_does_not_move_its_own_name_nor_its_neighbours() -> None:
    assert chain(entry("www.example 300 IN DNAME other.test", rtype="A")) == ["other.test"]
    found = entry("ww.example 300 IN DNAME other.test", "www.example 300 IN A 192.0.2.1")
    assert chain(found) == []
    assert len(told(delivered(found, "www.example", "A", 1_000.0))) == 1


def test_a_dname_whose_substitution_is_too_long_is_judged_without_it() -> None:
    """RFC 6672 section 2.2: YXDOMAIN, with the DNAME record. No name of the chain may be longer than a name can be."""
    longest = ".".join(["a" * 63] * 3)
    found = entry(f"example 300 IN DNAME {longest}.test", asked="b" * 63 + ".example", rcode=dns.rcode.YXDOMAIN)
    index = Index()
    for each in found.chain:
        assert len(each) <= 255
        assert index.find(each) == 0


@pytest.mark.parametrize(
    ("answer", "rtype", "expected"),
    [
        pytest.param(["www.example 300 IN HTTPS 0 edge.example"], "HTTPS", ["edge.example"], id="HTTPS, AliasMode"),
        pytest.param(["www.example 300 IN HTTPS 1 edge.example alpn=h2"], "HTTPS", ["edge.example"], id="ServiceMode"),
        pytest.param(["www.example 300 IN HTTPS 1 . alpn=h2"], "HTTPS", [], id="the owner itself"),
        pytest.param(["www.example 300 IN SVCB 1 edge.example"], 64, ["edge.example"], id="SVCB"),
        pytest.param(
            ["www.example 300 IN CNAME a.example", "a.example 300 IN HTTPS 1 edge.example"],
            "HTTPS",
            ["a.example", "edge.example"],
            id="behind an alias",
        ),
        pytest.param(
            ["www.example 300 IN HTTPS 1 one.example", "www.example 300 IN HTTPS 2 two.example"],
            "HTTPS",
            ["one.example", "two.example"],
            id="two of them",
        ),
        pytest.param(["www.example 300 IN MX 10 mail.example"], "MX", [], id="MX leads nowhere"),
        pytest.param(["www.example 300 IN SRV 1 2 3 host.example"], "SRV", [], id="SRV leads nowhere"),
        pytest.param(["www.example 300 IN NS ns.example"], "NS", [], id="NS leads nowhere"),
    ],
)
def test_the_names_that_an_answer_leads_to(answer: list[str], rtype: str | int, expected: list[str]) -> None:
    assert chain(entry(*answer, rtype=rtype)) == expected


def aliases(count: int) -> list[str]:
    names = ["www.example", *(f"n{number}.example" for number in range(count))]
    return [f"{one} 300 IN CNAME {next_}" for one, next_ in pairwise(names)]


def test_sixteen_links_are_followed_and_one_more_is_too_many() -> None:
    assert len(chain(entry(*aliases(MAX_LINKS)))) == 16
    with pytest.raises(ChainError, match="more than 16"):
        entry(*aliases(17))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(["www.example 300 IN CNAME www.example"], id="to itself"),
        pytest.param(["www.example 300 IN CNAME WWW.example"], id="to itself in capitals"),
        pytest.param(["www.example 300 IN CNAME a.example", "a.example 300 IN CNAME www.example"], id="of two"),
        pytest.param(
            [
                "www.example 300 IN CNAME a.example",
                "a.example 300 IN CNAME b.example",
                "b.example 300 IN CNAME a.example",
            ],
            id="that does not lead back to the qname",
        ),
        pytest.param(["example 300 IN DNAME a.example"], id="of a DNAME into itself, that never ends"),
        pytest.param(["example 300 IN DNAME test", "test 300 IN DNAME example"], id="of two DNAME"),
    ],
)
def test_a_loop_is_refused(answer: list[str]) -> None:
    with pytest.raises(ChainError):
        entry(*answer)


# What is passed on


def test_strays_in_the_answer_section_are_removed() -> None:
    """RFC 5452 section 6."""
    found = entry(
        "www.example 300 IN CNAME edge.example",
        "other.example 300 IN A 192.0.2.66",
        "edge.example 300 IN A 192.0.2.1",
        "example 300 IN A 192.0.2.67",
        "x.edge.example 300 IN A 192.0.2.68",
    )
    assert told(delivered(found, "www.example", "A", 1_000.0)) == [
        "www.example. 300 IN CNAME edge.example.",
        "edge.example. 300 IN A 192.0.2.1",
    ]


def test_an_answer_of_nothing_but_strays_has_no_data() -> None:
    found = entry("other.example 300 IN A 192.0.2.66")
    assert told(delivered(found, "www.example", "A", 1_000.0)) == []
    assert found.lifetime == 0


def test_signatures_of_the_chain_are_no_strays() -> None:
    signature = "DNAME 13 1 300 20300101000000 20200101000000 1 example YWJj"
    found = entry(
        "example 300 IN DNAME other.test",
        f"example 300 IN RRSIG {signature}",
        "www.example 300 IN CNAME www.other.test",
    )
    assert len(told(delivered(found, "www.example", "A", 1_000.0))) == 3


AUTHORITY = [
    *("example 300 IN NS ns.example", SOA, "example 300 IN DS 12345 13 2 " + "ab" * 32),
    "example 300 IN RRSIG NS 13 1 300 20300101000000 20200101000000 1 example YWJj",
    "a.example 300 IN NSEC z.example A",
    "abc.example 300 IN NSEC3 1 0 0 - 2vptu5timamqttgl4luu9kg21e0aor3s A",
]


@pytest.mark.parametrize("text", AUTHORITY, ids=lambda text: text.split()[3])
def test_the_authority_section_keeps_what_tells_of_delegation_and_absence(text: str) -> None:
    found = entry("www.example 300 IN A 192.0.2.1", authority=[text])
    assert found.counts == unhex("0001 0001 0000")
    [_, kept_] = told(delivered(found, "www.example", "A", 1_000.0))
    assert kept_.split()[3] == text.split()[3]


@pytest.mark.parametrize(
    "text",
    [
        "banned.test 300 IN A 192.0.2.66",
        "banned.test 300 IN AAAA 2001:db8::66",
        "www.example 300 IN A 192.0.2.66",
        "www.example 300 IN MX 10 banned.test",
        "banned.test 300 IN CNAME edge.test",
        "example 300 IN DNAME banned.test",
        "www.example 300 IN CNAME banned.test",
        "www.example 300 IN HTTPS 1 banned.test ipv4hint=192.0.2.66",
        "example 300 IN SVCB 1 banned.test",
        "example 300 IN MX 10 banned.test",
        "example 300 IN TXT banned.test",
        r"example 300 IN TYPE65400 \# 4 c0000242",
    ],
    ids=lambda text: " ".join(text.split()[:4]),
)
@pytest.mark.parametrize("answer", [["www.example 300 IN A 192.0.2.1"], []], ids=["an answer", "no data"])
def test_all_else_in_the_authority_section_is_left_out(text: str, answer: list[str]) -> None:
    found = entry(*answer, authority=[text, SOA])
    assert found.counts == struct.pack("!3H", len(answer), 1, 0)
    message = delivered(found, "www.example", "A", 1_000.0)
    assert [rrset.to_text().split()[3] for rrset in message.authority] == ["SOA"]
    assert b"banned" not in found.body
    assert found.chain == ()
    assert found.lifetime == (120 if answer else 60)


@pytest.mark.parametrize("rdata", ["A 192.0.2.66", "MX 10 banned.test", "TXT banned.test"])
def test_nor_does_the_authority_section_keep_records_of_the_qname_itself(rdata: str) -> None:
    for answer in ([], ["www.example 300 IN A 192.0.2.1"]):
        found = entry(*answer, authority=[f"www.example 300 IN {rdata}"])
        assert found.counts == struct.pack("!3H", len(answer), 0, 0)
        assert found.lifetime == (300 if answer else 0)


def names_told(found: Entry) -> list[list[str]]:
    return [list(map(to_text, each.names)) for each in found.additional]


def test_additional_records_are_told_apart_from_the_chain() -> None:
    found = entry(
        "www.example 300 IN CNAME mail.example",
        "mail.example 300 IN MX 10 mx.example",
        rtype="MX",
        additional=[
            "mx.example 300 IN A 192.0.2.1",
            "mail.example 300 IN A 192.0.2.2",
            "mx.example 300 IN AAAA 2001:db8::1",
        ],
    )
    assert chain(found) == ["mail.example"]
    assert names_told(found) == [["mx.example"], ["mail.example"], ["mx.example"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X.example 300 IN A 192.0.2.1", ["x.example"]),
        ("x.example 300 IN TXT banned.test", ["x.example"]),
        ("x.example 300 IN MX 10 mx.test", ["x.example"]),
        ("x.example 300 IN SRV 1 2 3 host.test", ["x.example"]),
        ("x.example 300 IN CNAME Edge.test", ["x.example", "edge.test"]),
        ("x.example 300 IN DNAME edge.test", ["x.example", "edge.test"]),
        ("x.example 300 IN SVCB 1 edge.test", ["x.example", "edge.test"]),
        ("x.example 300 IN HTTPS 0 edge.test", ["x.example", "edge.test"]),
        ("x.example 300 IN HTTPS 1 . alpn=h2", ["x.example", "."]),
    ],
    ids=lambda text: " ".join(text.split()[3:5]) if isinstance(text, str) else None,
)
def test_the_names_that_an_additional_record_tells_of(text: str, expected: list[str]) -> None:
    found = entry("www.example 300 IN A 192.0.2.1", additional=[text])
    assert names_told(found) == [expected]
    assert chain(found) == []


EXTRA = [
    "mx.example 200 IN A 192.0.2.1",
    "mx.banned.test 300 IN A 192.0.2.66",
    "mx.banned.test 300 IN AAAA 2001:db8::66",
]


@pytest.mark.parametrize("stray", [[], ["stray.example 300 IN A 192.0.2.67"]], ids=["as received", "written anew"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_additional_record_and_those_behind_it_can_be_left_out(number: int, stray: list[str]) -> None:
    answer = ["www.example 300 IN MX 10 mx.example", "www.example 300 IN MX 20 mx.banned.test"]
    authority = ["example 300 IN NS ns.example"]
    found = entry(*answer, *stray, rtype="MX", authority=authority, additional=EXTRA, now=1_000.0)
    whole = told(delivered(found, "www.example", "MX", 1_010.0))
    assert len(whole) == 6
    left = found.without(number)
    assert left.counts == struct.pack("!3H", 2, 1, number)
    assert told(delivered(left, "www.example", "MX", 1_010.0)) == whole[: 3 + number]
    assert (left.lifetime, left.born, left.chain) == (found.lifetime, found.born, found.chain)
    assert told(delivered(found, "www.example", "MX", 1_010.0)) == whole, "the entry itself is left alone"


def test_each_additional_record_starts_where_it_is_said_to() -> None:
    for stray in ([], ["stray.example 300 IN A 192.0.2.67"]):
        found = entry("www.example 300 IN A 192.0.2.1", *stray, additional=EXTRA)
        octets = bytes(4) + b"\0\1" + found.counts + question("www.example") + found.body
        records = [record for record in read(octets, name("www.example")).records if record.section == 2]
        start = 12 + len(question("www.example"))
        assert [each.at for each in found.additional] == [record.start - start for record in records]


def test_opt_is_not_passed_on_even_where_it_is_not_last() -> None:
    address = unhex("c00c 0001 0001 0000012c 0004 c0000201")
    after = wire("ns.example") + unhex("0001 0001 0000012c 0004 c0000235")
    head = unhex("1234 8180 0001 0001 0000 0002") + question("www.example")
    for octets in (head + address + opt() + after, head + address + after + opt()):
        found = kept(octets, "www.example", "A")
        assert found.counts == unhex("0001 0000 0001")
        assert [text.lower() for text in told(delivered(found, "www.example", "A", 1_100.0))] == [
            "www.example. 200 in a 192.0.2.1",
            "ns.example. 200 in a 192.0.2.53",
        ]


def test_compression_stays_right_behind_another_question_in_the_same_spelling_or_not() -> None:
    found = entry("www.example 300 IN NS ns.www.example", "www.example 300 IN NS ns.example", rtype="NS")
    message = delivered(found, "www.example", "NS", 1_000.0)
    assert [text.lower() for text in told(message)] == [
        "www.example. 300 in ns ns.www.example.",
        "www.example. 300 in ns ns.example.",
    ]


def test_an_answer_that_no_message_can_hold_without_compression_is_refused() -> None:
    """A stray must be removed, so the rest is written anew."""
    owner = "a" * 60 + "." + "b" * 60 + ".example"
    records = [f"{owner} 300 IN A 10.0.{number >> 8}.{number & 255}" for number in range(3_000)]
    octets = response(query(owner), *records, "stray.example 300 IN A 192.0.2.66")
    assert len(octets) < 65_536
    with pytest.raises(FormError):
        kept(octets, owner, "A")


@pytest.mark.parametrize(
    ("answer", "offset"),
    [
        # Behind the question an A record, then a CNAME record whose target begins at some octet of the first.
        pytest.param("c00c 0001 0001 00036162 0004 c0000201", 7, id="a TTL"),
        pytest.param("c00c 0001 0001 0000012c 0004 03616200", 12, id="an address, which does not change"),
    ],
)
def test_names_do_not_change_with_what_is_changed_in_the_answer(answer: str, offset: int) -> None:
    """Whatever octets a pointer leads to: what was judged is what the client reads, now and later."""
    asked = "www.example"
    start = 12 + len(question(asked))
    pointer = struct.pack("!H", 0xC000 | start + offset)
    octets = unhex("1234 8180 0001 0002 0000 0000") + question(asked) + unhex(answer)
    octets += unhex("c00c 0005 0001 0000012c 0002") + pointer
    try:
        found = kept(octets, asked, "A")
    except (FormError, ChainError):
        return
    for now in (1_000.0, 1_100.0):
        body = found.aged_body(now, None)
        again = read(unhex("fedc 8580 0001") + found.counts + question(asked) + body, name(asked))
        assert [record.target for record in again.records if record.rtype == 5] == list(found.chain)


def test_upstreams_word_on_dnssec_is_kept() -> None:
    assert entry("www.example 300 IN A 192.0.2.1", flags=dns.flags.AD).is_authentic
    assert not entry("www.example 300 IN A 192.0.2.1").is_authentic


RECORDS = [
    "www.example 300 IN A 192.0.2.1",
    "www.example 200 IN CNAME edge.example",
    "edge.example 100 IN A 192.0.2.2",
    "edge.example 3600 IN CNAME last.test",
    "last.test 50 IN AAAA 2001:db8::1",
    "other.example 10 IN TXT stray",
    "example 60 IN DNAME other.test",
    "example 120 IN SOA ns.example host.example 1 3600 600 86400 60",
    "www.example 300 IN HTTPS 1 edge.example alpn=h2",
    "www.example 0 IN MX 10 mx.example",
    "mx.example 4294967295 IN A 192.0.2.3",
]
some = st.lists(st.sampled_from(RECORDS), max_size=5)


@many
@given(
    some,
    some,
    some,
    st.sampled_from(["A", "AAAA", "CNAME", "HTTPS", "MX", "ANY"]),
    st.floats(min_value=0, max_value=5_000),
)
def test_whatever_is_kept_is_well_formed_at_any_age(
    answer: list[str], authority: list[str], additional: list[str], rtype: str, age: float
) -> None:
    try:
        found = entry(*answer, rtype=rtype, authority=authority, additional=additional)
    except ChainError:
        return
    message = delivered(found, "www.example", rtype, 1_000.0 + age)
    shown = told(message)
    assert len(shown) == sum(struct.unpack("!3H", found.counts))
    allowed = {each.split()[0] + "." for each in (*answer, *authority, *additional)}
    assert {each.split()[0].lower() for each in shown} <= {each.lower() for each in allowed}
    for section in message.sections[1:]:
        for rrset in section:
            assert 0 <= rrset.ttl <= LIMITS.max_ttl
    assert {rrset.rdtype for rrset in message.authority} <= {2, 6}
    assert [each.names[0] for each in found.additional] == [
        rrset.name.canonicalize().to_wire() for rrset in message.additional
    ]
    for number in range(len(found.additional)):
        left = told(delivered(found.without(number), "www.example", rtype, 1_000.0 + age))
        assert left == shown[: len(shown) - len(found.additional) + number]


# Bombs: CPU time, as the machine may be busy.


def bomb(alias_count: int, rtype: int, rdata: bytes) -> bytes:
    """A chain of long names, then as many records as fit, whose owner ends each by its octets but not by its labels."""
    names = [wire("www.example")]
    for number in range(alias_count):
        names.append(b"\1a" * 120 + bytes([4, 97 + number, 120, 1, 98]) + b"\0")  # its last label is N x 1 b
    body, count = b"", 0
    for owner, target in pairwise(names):
        body += owner + struct.pack("!HHIH", 5, 1, 300, len(target)) + target
        count += 1
    part = b"\1b\0" + struct.pack("!HHIH", rtype, 1, 300, len(rdata)) + rdata
    room = (65_535 - 12 - len(question("www.example")) - len(body)) // len(part)
    return struct.pack("!6H", 0, 0x8180, 1, count + room, 0, 0) + question("www.example") + body + part * room


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(bomb(16, 39, b"\xc0\x0c"), id="4,000 DNAME records that look like ancestors"),
        pytest.param(bomb(16, 46, bytes(18) + b"\xc0\x0c"), id="2,000 RRSIG records that look like ancestors"),
        pytest.param(bomb(0, 39, b"\0"), id="4,000 DNAME records"),
    ],
)
def test_a_bomb_of_64_kib_takes_less_than_half_a_second(octets: bytes) -> None:
    assert len(octets) <= 65_535
    started = time.process_time()
    with suppress(FormError, ChainError):
        kept(octets, "www.example", "A")
    assert time.process_time() - started < 0.5


# The cache


def address(number: int = 1, ttl: int = 300, now: float = 1_000.0) -> Entry:
    return entry(f"www.example {ttl} IN A 192.0.2.{number}", now=now)


def test_what_is_put_is_got_until_it_is_over_and_then_dropped() -> None:
    cache, found = Cache(LIMITS), address(ttl=10)
    cache.put(b"k", found)
    assert cache.get(b"k", 1_009.9) is found
    assert cache.get(b"other", 1_000.0) is None
    assert cache.get(b"k", 1_010.0) is None
    assert cache.get(b"k", 1_000.0) is None
    assert len(cache) == 0


def test_an_answer_takes_the_place_of_the_older_one() -> None:
    cache, fresh = Cache(LIMITS), address(2)
    cache.put(b"k", address(1))
    cache.put(b"k", fresh)
    assert cache.get(b"k", 1_000.0) is fresh
    assert len(cache) == 1


def test_an_answer_of_no_lifetime_is_not_kept_and_takes_an_older_one_away() -> None:
    """It says otherwise than what would be told once more should no upstream answer."""
    cache = Cache(LIMITS)
    cache.put(b"k", address())
    cache.put(b"k", address(ttl=0))
    cache.put(b"other", address(ttl=0))
    assert cache.get(b"k", 1_000.0) is None
    assert len(cache) == 0


@pytest.mark.parametrize(
    ("now", "is_fresh", "is_kept"),
    [
        pytest.param(1_009.9, True, True, id="fresh"),
        pytest.param(1_010.0, False, True, id="just stale"),
        pytest.param(1_029.9, False, True, id="at the end of its window"),
        pytest.param(1_030.0, False, False, id="stale for too long"),
    ],
)
def test_a_stale_answer_is_kept_for_its_window(now: float, *, is_fresh: bool, is_kept: bool) -> None:
    cache, found = Cache(replace(LIMITS, serve_stale=20)), address(ttl=10)
    cache.put(b"k", found)
    assert (cache.get(b"k", now) is found) is is_fresh
    assert (cache.find(b"k", now) is found) is is_kept
    assert len(cache) == is_kept


def test_every_ttl_of_a_stale_answer_is_30_seconds_at_most() -> None:
    found = entry("www.example 20 IN A 192.0.2.1", "www.example 3000 IN A 192.0.2.2", now=1_000.0)
    assert ttls(found, 1_019.0) == [1, 2_981]
    assert ttls(found, 1_020.0) == [30, 30]
    assert ttls(found, 1_020.0, 7) == [7, 7], "nor longer than an exemption holds"


FLUSHED = ["example", "www.example", "a.www.example", "other.test"]


@pytest.mark.parametrize(
    ("zone", "left"),
    [
        pytest.param("www.example", ["example", "other.test"], id="a name and all below"),
        pytest.param("example", ["other.test"], id="a top-level domain"),
        pytest.param("ww.example", FLUSHED, id="a name that nothing was kept of"),
        pytest.param("w.example", FLUSHED, id="an ending that is no label"),
        pytest.param(".", [], id="the root"),
    ],
)
def test_answers_for_a_name_and_all_below_are_forgotten(zone: str, left: list[str]) -> None:
    cache = Cache(LIMITS)
    keys = {each: key(name(each), 1, do=False, cd=False) for each in FLUSHED}
    for each in keys.values():
        cache.put(each, address())
    assert sum(cache.flush(name(zone))) == len(FLUSHED) - len(left)
    assert [each for each, wanted in keys.items() if cache.get(wanted, 1_000.0) is not None] == left


def test_answers_that_lead_to_a_forgotten_name_are_forgotten_too() -> None:
    cache, wanted = Cache(LIMITS), key(name("www.example"), 1, do=False, cd=False)
    cache.put(wanted, entry("www.example 300 IN CNAME x.edge.test", "x.edge.test 300 IN A 192.0.2.1"))
    assert list(cache.flush(name("edge.test"))) == [1]
    assert len(cache) == 0


def test_a_large_cache_is_flushed_a_few_answers_a_turn() -> None:
    cache = Cache(replace(LIMITS, entries=20_000, octets=100_000_000))
    for number in range(10_000):
        cache.put(key(name(f"n{number}.example"), 1, do=False, cd=False), address())
    steps = cache.flush(name("example"))
    assert next(steps) == FLUSH_TURN
    cache.clear()  # whatever happens between turns
    assert sum(steps) == 0


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(Limits(3, 1_000_000, 3_600, 300))
    for each in (b"a", b"b", b"c"):
        cache.put(each, address())
    cache.get(b"a", 1_000.0)
    cache.put(b"d", address())
    assert [cache.get(each, 1_000.0) is not None for each in (b"a", b"b", b"c", b"d")] == [True, False, True, True]


def test_octets_are_bounded_too() -> None:
    cache = Cache(Limits(1_000, 5_000, 3_600, 300))
    for number in range(100):
        cache.put(bytes([number]), address())
    most = len(cache)
    assert 3 <= most <= 10
    big = entry(*(f"www.example 300 IN TXT {'x' * 200}" for _ in range(25)), rtype="TXT")
    assert len(big.body) > 5_000
    cache.put(b"big", big)
    assert len(cache) == 0, "one that is larger than all the room is not kept"
    for number in range(100):
        cache.put(bytes([number]), address())
    assert len(cache) == most, "what has gone takes no room"


@pytest.mark.parametrize(
    ("rtype", "answer", "additional"),
    [
        pytest.param("A", ["www.example 300 IN A 192.0.2.1"], [], id="an address"),
        pytest.param("A", [f"www.example 300 IN A 192.0.2.{each}" for each in range(60)], [], id="60 addresses"),
        pytest.param("A", [*aliases(16), "n15.example 300 IN A 192.0.2.1"], [], id="a chain of 16 aliases"),
        pytest.param("TXT", [f"www.example 300 IN TXT {'x' * 250}"] * 20, [], id="long texts"),
        pytest.param(
            "MX",
            ["www.example 300 IN MX 10 mx.example"],
            [f"mx{each}.example 300 IN HTTPS 1 edge{each}.example" for each in range(30)],
            id="30 additional records with targets",
        ),
    ],
)
def test_memory_is_bounded_and_not_the_octets_of_messages_alone(
    rtype: str, answer: list[str], additional: list[str]
) -> None:
    octets = response(query("www.example", rtype), *answer, additional=additional)
    room = 1_000_000  # beside it Python keeps some 100,000 octets of freed tuples at hand
    cache = Cache(Limits(1_000_000, room, 3_600, 300))
    kept(octets, "www.example", rtype)  # what is made once is made before
    tracemalloc.start()
    try:
        number = 0
        while len(cache) == number:
            number += 1
            cache.put(struct.pack("!H", number) + bytes(20), kept(octets, "www.example", rtype))
        assert room / 3 <= tracemalloc.get_traced_memory()[0] <= 1.2 * room
    finally:
        tracemalloc.stop()


@given(
    st.lists(
        st.tuples(st.sampled_from("pg"), st.integers(min_value=0, max_value=6), st.integers(min_value=0, max_value=30)),
        max_size=60,
    )
)
def test_the_cache_agrees_with_a_list_of_what_was_put(acts: list[tuple[str, int, int]]) -> None:
    """Bounds of 4 entries; time goes on by the third number with each act."""
    cache, now = Cache(Limits(4, 1_000_000, 3_600, 300)), 1_000
    model: list[tuple[bytes, Entry]] = []  # least recently used first
    for act, number, wait in acts:
        wanted = bytes([number])
        if act == "p":
            found = address(number + 1, ttl=wait, now=float(now))
            cache.put(wanted, found)
            model = [each for each in model if each[0] != wanted]
            model = [*model, (wanted, found)][-4:] if found.lifetime else model
        else:
            expected = next((each[1] for each in model if each[0] == wanted), None)
            model = [each for each in model if each[0] != wanted]
            if expected is not None and expected.remaining(now) > 0:
                model.append((wanted, expected))
            else:
                expected = None
            assert cache.get(wanted, now) is expected
        assert len(cache) == len(model)
        now += wait


def test_everything_can_be_forgotten() -> None:
    cache = Cache(Limits(2, 1_000_000, 3_600, 300))
    cache.put(b"a", address())
    cache.clear()
    assert len(cache) == 0
    for each in (b"a", b"b"):
        cache.put(each, address())
    assert len(cache) == 2


def test_names_types_do_and_cd_are_kept_apart() -> None:
    keys = {
        key(name(each), rtype, do=do, cd=cd)
        for each in ("www.example", "example", ".")
        for rtype in (1, 28, 256, 257)
        for do in (False, True)
        for cd in (False, True)
    }
    assert len(keys) == 3 * 4 * 4
