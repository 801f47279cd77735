"""Addresses in answers: the ranges that contain one, and all that an answer tells."""

import ipaddress
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise

import dns.message
import dns.rdata
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core import plain
from dnsfilter.core.addresses import PRIVATE, AddressRules, answer_addresses, record_addresses
from dnsfilter.core.cache import Entry, Limits, from_response
from dnsfilter.core.clients import Address, Network
from dnsfilter.core.wire.response import read
from tests.core.make import many, name, opt, query, question, response, thorough, type_number, unhex

LIMITS = Limits(entries=1_000, octets=1_000_000, max_ttl=3_600, max_negative_ttl=300)
EDGE, OTHER = 1, 2


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def rules(*ranges: tuple[str, int]) -> AddressRules:
    return AddressRules((ipaddress.ip_network(network), mask) for network, mask in ranges)


# Which ranges contain an address


@pytest.mark.parametrize(
    ("ranges", "asked", "found"),
    [
        pytest.param([("203.0.113.128/25", EDGE)], "203.0.113.130", EDGE, id="in a range"),
        pytest.param([("203.0.113.128/25", EDGE)], "203.0.113.128", EDGE, id="its first address"),
        pytest.param([("203.0.113.128/25", EDGE)], "203.0.113.255", EDGE, id="its last address"),
        pytest.param([("203.0.113.128/25", EDGE)], "203.0.113.127", 0, id="the address before it"),
        pytest.param([("203.0.113.128/25", EDGE)], "203.0.114.0", 0, id="the address behind it"),
        pytest.param([("203.0.113.7/32", EDGE)], "203.0.113.7", EDGE, id="a range of one"),
        pytest.param([("0.0.0.0/0", EDGE)], "255.255.255.255", EDGE, id="all of IPv4"),
        pytest.param([("0.0.0.0/0", EDGE)], "2001:db8::1", 0, id="all of IPv4 is nothing of IPv6"),
        pytest.param([("::/0", EDGE)], "ffff::", EDGE, id="all of IPv6"),
        pytest.param([("::/0", EDGE)], "203.0.113.7", 0, id="all of IPv6 is nothing of IPv4"),
        pytest.param([("2001:db8:bad::/48", EDGE)], "2001:db8:bad:ffff::1", EDGE, id="IPv6"),
        pytest.param([("2001:db8:bad::/48", EDGE)], "2001:db8:bae::", 0, id="IPv6, behind it"),
        pytest.param([("203.0.113.0/24", EDGE)] * 2, "203.0.113.7", EDGE, id="the same range twice"),
        pytest.param(
            [("203.0.113.0/24", EDGE), ("203.0.113.0/24", OTHER)], "203.0.113.7", EDGE | OTHER, id="of two lists"
        ),
        pytest.param(
            [("203.0.113.0/24", EDGE), ("203.0.113.0/25", OTHER)], "203.0.113.7", EDGE | OTHER, id="within another"
        ),
        pytest.param(
            [("203.0.113.0/25", OTHER), ("203.0.113.0/24", EDGE)], "203.0.113.200", EDGE, id="behind the narrower one"
        ),
        pytest.param(
            [("203.0.113.0/25", EDGE), ("203.0.113.128/25", OTHER)], "203.0.113.128", OTHER, id="one behind another"
        ),
        pytest.param([("203.0.113.128/25", EDGE)], "::ffff:203.0.113.130", EDGE, id="IPv4-mapped"),
        pytest.param([("203.0.113.128/25", EDGE)], "64:ff9b::203.0.113.130", EDGE, id="NAT64's well-known prefix"),
        pytest.param([("203.0.113.128/25", EDGE)], "64:ff9b:1::203.0.113.130", 0, id="NAT64's local prefix"),
        pytest.param([("203.0.113.128/25", EDGE)], "::203.0.113.130", 0, id="IPv4-compatible"),
        pytest.param([("64:ff9b::/96", EDGE)], "64:ff9b::203.0.113.130", EDGE, id="a range of NAT64 itself"),
        pytest.param(
            [("64:ff9b::/96", EDGE), ("203.0.113.0/24", OTHER)], "64:ff9b::203.0.113.130", EDGE | OTHER, id="both ways"
        ),
        pytest.param([("64:ff9b::/96", EDGE)], "203.0.113.130", 0, id="NAT64 is nothing of IPv4"),
        pytest.param([], "203.0.113.7", 0, id="no ranges"),
    ],
)
def test_the_masks_of_all_ranges_that_contain_an_address(ranges: list[tuple[str, int]], asked: str, found: int) -> None:
    assert rules(*ranges).find(packed(asked)) == found


@pytest.mark.parametrize(
    ("ranges", "is_any"),
    [
        pytest.param([], False, id="none"),
        pytest.param([("203.0.113.0/24", 0)], False, id="one of no list"),
        pytest.param([("203.0.113.0/24", EDGE)], True, id="IPv4"),
        pytest.param([("2001:db8::/32", EDGE)], True, id="IPv6"),
    ],
)
def test_whether_there_are_rules(ranges: list[tuple[str, int]], is_any: bool) -> None:
    assert bool(rules(*ranges)) is is_any


# Few addresses and many lengths, so that ranges meet; at both ends of each family too.
BASES = ["203.0.113.0", "0.0.0.0", "255.255.255.255", "2001:db8::", "::", "::ffff:203.0.113.0", "64:ff9b::203.0.113.0"]


def near(base: str, number: int, shift: int) -> Address:
    """An address that differs from the base in a few bits."""
    found = ipaddress.ip_address(base)
    return type(found)(int(found) ^ number << shift)


addresses = st.builds(near, st.sampled_from(BASES), st.integers(0, 7), st.sampled_from([0, 1, 4, 7]))
networks: st.SearchStrategy[Network] = st.tuples(addresses, st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 24, 99])).map(
    lambda each: ipaddress.ip_network((each[0], max(0, each[0].max_prefixlen - each[1])), strict=False)
)
CARRIERS = (ipaddress.ip_network("::ffff:0:0/96"), ipaddress.ip_network("64:ff9b::/96"))


def meanings(asked: Address) -> Iterator[Address]:
    """The address, and the IPv4 address that it leads to."""
    yield asked
    if any(asked in carrier for carrier in CARRIERS):
        yield ipaddress.IPv4Address(int(asked) & 0xFFFFFFFF)


@thorough
@given(ranges=st.lists(st.tuples(networks, st.integers(0, 15)), max_size=12), asked=st.lists(addresses, min_size=1))
def test_ranges_agree_with_the_definition(ranges: list[tuple[Network, int]], asked: list[Address]) -> None:
    table = AddressRules(ranges)
    for each in asked:
        expected = 0
        for network, mask in ranges:
            if any(meaning in network for meaning in meanings(each)):
                expected |= mask
        assert table.find(each.packed) == expected


# Addresses that no public name may have


@pytest.mark.parametrize(
    ("asked", "is_private"),
    [
        *(
            pytest.param(text, True, id=text)
            for text in (
                *("0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255"),
                *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.1.1", "::", "::1", "fd00::1", "fc00::1"),
                *("fe80::1", "febf::1", "fec0::1", "::ffff:192.168.1.1", "::ffff:127.0.0.1", "64:ff9b::10.0.0.1"),
            )
        ),
        *(
            pytest.param(text, False, id=text)
            for text in (
                *("1.0.0.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
                *("128.0.0.1", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"),
                *("198.18.0.1", "192.0.2.1", "203.0.113.1", "::2", "2001:db8::1", "fbff::1", "fe7f::1", "ff02::1"),
                *("::ffff:203.0.113.1", "64:ff9b::203.0.113.1"),
            )
        ),
    ],
)
def test_addresses_that_no_public_name_should_lead_to(asked: str, is_private: bool) -> None:
    assert bool(AddressRules((network, 1) for network in PRIVATE).find(packed(asked))) is is_private


# Which addresses an answer gives


def entry(octets: bytes, asked: str, rtype: str | int) -> Entry:
    return from_response(read(octets, name(asked)), name(asked), type_number(rtype), 1_000.0, LIMITS)


def given_by(found: Entry) -> list[tuple[str, bool]]:
    return [(str(ipaddress.ip_address(each)), is_additional) for each, is_additional in answer_addresses(found)]


@pytest.mark.parametrize(
    ("rtype", "answer", "authority", "additional", "expected"),
    [
        pytest.param("A", ["www.example 60 IN A 203.0.113.7"], [], [], [("203.0.113.7", False)], id="an A record"),
        pytest.param(
            *("AAAA", ["www.example 60 IN AAAA 2001:db8::7"], [], [], [("2001:db8::7", False)]), id="an AAAA record"
        ),
        pytest.param(
            "A",
            ["www.example 60 IN CNAME a.test", "a.test 60 IN A 203.0.113.7", "a.test 60 IN A 203.0.113.8"],
            [],
            [],
            [("203.0.113.7", False), ("203.0.113.8", False)],
            id="at the end of a chain",
        ),
        pytest.param(
            "A",
            ["a.test 60 IN A 203.0.113.7", "www.example 60 IN CNAME a.test"],
            [],
            [],
            [("203.0.113.7", False)],
            id="a chain in reverse order, which is written anew",
        ),
        pytest.param(
            "HTTPS",
            ["www.example 60 IN HTTPS 1 . alpn=h2 ipv4hint=203.0.113.7,203.0.113.8 ipv6hint=2001:db8::7"],
            [],
            [],
            [("203.0.113.7", False), ("203.0.113.8", False), ("2001:db8::7", False)],
            id="hints of an HTTPS record",
        ),
        pytest.param(
            "HTTPS",
            ["www.example 60 IN HTTPS 1 svc.example.test port=8443 ipv4hint=203.0.113.7 ech=AARhYmNk key667=x"],
            [],
            [],
            [("203.0.113.7", False)],
            id="behind a target and between other parameters",
        ),
        pytest.param("HTTPS", ["www.example 60 IN HTTPS 0 svc.test"], [], [], [], id="an alias form"),
        pytest.param("HTTPS", ["www.example 60 IN HTTPS 1 ."], [], [], [], id="without parameters"),
        pytest.param(
            64,
            ["www.example 60 IN SVCB 1 svc.test ipv6hint=2001:db8::7"],
            [],
            ["svc.test 60 IN A 203.0.113.7", "svc.test 60 IN HTTPS 1 . ipv4hint=203.0.113.8"],
            [("2001:db8::7", False), ("203.0.113.7", True), ("203.0.113.8", True)],
            id="the additional section comes last",
        ),
        pytest.param(
            "MX",
            ["www.example 60 IN MX 10 mx.example"],
            ["example 60 IN NS ns.example"],
            ["ns.example 60 IN A 203.0.113.53", "mx.example 60 IN AAAA 2001:db8::25"],
            [("203.0.113.53", True), ("2001:db8::25", True)],
            id="no address in the answer, and an authority section",
        ),
        pytest.param("TXT", ["www.example 60 IN TXT 203.0.113.7"], [], [], [], id="text that looks like one"),
        pytest.param("A", [], ["example 60 IN SOA ns.example host.example 1 2 3 4 5"], [], [], id="no data"),
    ],
)
def test_the_addresses_of_an_answer(
    rtype: str | int,
    answer: list[str],
    authority: list[str],
    additional: list[str],
    expected: list[tuple[str, bool]],
) -> None:
    asked = query("www.example", rtype, edns=opt())
    octets = response(asked, *answer, authority=authority, additional=additional)
    assert given_by(entry(octets, "www.example", rtype)) == expected


def test_additional_records_that_are_cut_give_no_address() -> None:
    octets = response(
        query("www.example", "MX"),
        "www.example 60 IN MX 10 mx.example",
        additional=["mx.example 60 IN A 203.0.113.1", "mx.example 60 IN A 203.0.113.2"],
    )
    found = entry(octets, "www.example", "MX")
    assert given_by(found) == [("203.0.113.1", True), ("203.0.113.2", True)]
    assert given_by(found.without(1)) == [("203.0.113.1", True)]
    assert given_by(found.without(0)) == []


TYPES = {"A": 1, "AAAA": 28, "HTTPS": 65, "SVCB": 64, "MX": 15}
ipv4 = st.sampled_from(["192.0.2.1", "203.0.113.7", "203.0.113.255"])
ipv6 = st.sampled_from(["2001:db8::1", "::ffff:203.0.113.7", "2001:db8:bad::7"])
targets = st.sampled_from([".", "svc.example", "a.b.svc.test", "www.example"])
parameters = st.tuples(
    st.sampled_from(["", "alpn=h2,h3", "port=8443"]),
    st.lists(ipv4, max_size=3).map(lambda each: f"ipv4hint={','.join(each)}" if each else ""),
    st.sampled_from(["", "ech=AARhYmNk"]),
    st.lists(ipv6, max_size=3).map(lambda each: f"ipv6hint={','.join(each)}" if each else ""),
    st.sampled_from(["", "key667=hello"]),
).map(" ".join)
rdatas = st.one_of(
    ipv4.map("A {}".format),
    ipv6.map("AAAA {}".format),
    st.tuples(st.sampled_from(["HTTPS", "SVCB"]), targets, parameters).map(
        lambda each: f"{each[0]} 1 {each[1]} {each[2]}"
    ),
    st.tuples(st.sampled_from(["HTTPS", "SVCB"]), targets).map(lambda each: f"{each[0]} 0 {each[1]}"),
    st.just("MX 10 mx.example"),
    st.just("TXT text"),
)
owners = st.sampled_from(["www.example", "edge.test", "svc.example", "stray.test"])


def told_by(message: dns.message.Message) -> list[tuple[str, bool]]:
    """The addresses of a message as dnspython reads it."""
    found = []
    for section, is_additional in ((message.answer, False), (message.additional, True)):
        for rdata in (rdata for rrset in section for rdata in rrset):
            texts = [rdata.address] if rdata.rdtype in (1, 28) else []
            if rdata.rdtype in (64, 65):
                texts = [text for key in (4, 6) if key in rdata.params for text in rdata.params[key].addresses]
            found += [(str(ipaddress.ip_address(text)), is_additional) for text in texts]
    return found


def delivered(found: Entry, asked: str, rtype: int) -> dns.message.Message:
    head = struct.pack("!2sH", b"\0\1", 0x8180 | found.rcode) + b"\0\1" + found.counts
    return dns.message.from_wire(head + question(asked, rtype) + found.body, one_rr_per_rrset=True)


@thorough
@given(
    rtype=st.sampled_from(list(TYPES)),
    is_alias=st.booleans(),
    answer=st.lists(st.tuples(owners, rdatas), max_size=5),
    authority=st.booleans(),
    additional=st.lists(st.tuples(owners, rdatas), max_size=3),
    edns=st.booleans(),
)
def test_addresses_agree_with_a_second_reader(
    rtype: str,
    is_alias: bool,
    answer: list[tuple[str, str]],
    authority: bool,
    additional: list[tuple[str, str]],
    edns: bool,
) -> None:
    links = ["www.example 60 IN CNAME edge.test"] if is_alias else []
    octets = response(
        query("www.example", TYPES[rtype], edns=opt()),
        *links,
        *(f"{owner} 60 IN {rdata}" for owner, rdata in answer),
        authority=["example 60 IN NS ns.example"] if authority else [],
        additional=[f"{owner} 60 IN {rdata}" for owner, rdata in additional],
        edns=edns,
    )
    found = entry(octets, "www.example", TYPES[rtype])
    assert given_by(found) == told_by(delivered(found, "www.example", TYPES[rtype]))
    assert sum(is_additional for _, is_additional in given_by(found)) == sum(
        is_additional for _, is_additional in told_by(dns.message.from_wire(octets, one_rr_per_rrset=True))
    )


@many
@given(
    rtype=st.sampled_from(["A", "AAAA"]),
    links=st.lists(st.sampled_from(["a.test", "b.test", "c.example"]), unique=True, max_size=3),
    found=st.lists(ipv4, min_size=1, max_size=4),
)
def test_addresses_of_answers_read_the_short_way(rtype: str, links: Sequence[str], found: list[str]) -> None:
    texts = found if rtype == "A" else [f"2001:db8::{text.rpartition('.')[2]}" for text in found]
    chain = ["www.example", *links]
    records = [f"{owner} 60 IN CNAME {target}" for owner, target in pairwise(chain)]
    records += [f"{chain[-1]} 60 IN {rtype} {text}" for text in texts]
    octets = response(query("www.example", rtype, edns=opt()), *records)
    short = plain.read(octets, name("www.example"), TYPES[rtype], 1_000.0, LIMITS)
    assert short is not None
    assert given_by(short) == [(text, False) for text in texts]


# Octets of any kind


@pytest.mark.parametrize(
    ("rdata", "expected"),
    [
        pytest.param("0001 00 0004 0004 cb007107", ["203.0.113.7"], id="one hint"),
        pytest.param("0001 00 0004 0006 cb007107 cb00", ["203.0.113.7"], id="a hint of six octets"),
        pytest.param("0001 00 0004 0008 cb007107", ["203.0.113.7"], id="a hint cut short"),
        pytest.param("0001 00 0004 0000", [], id="a hint of nothing"),
        pytest.param("0001 00 0004", [], id="a parameter cut in its head"),
        pytest.param("0001 00 0006 0004 cb007107", [], id="an IPv6 hint of four octets"),
        pytest.param("0001 00 0000 0002 0004 0004 0004 cb007107", ["203.0.113.7"], id="mandatory first"),
        pytest.param("0001 00 0004 0004 cb007107 0004 0004 cb007108", ["203.0.113.7", "203.0.113.8"], id="a key twice"),
        pytest.param("0000 00 0004 0004 cb007107", ["203.0.113.7"], id="an alias form with a hint"),
        pytest.param("0001 03737663 0004 0004 cb007107", [], id="a target that does not end"),
        pytest.param("0001 c00c 0004 0004 cb007107", [], id="a target that is compressed"),
        pytest.param("0001", [], id="a priority alone"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_hints_of_every_shape(rdata: str, expected: list[str]) -> None:
    octets = unhex(rdata)
    body = unhex("00 0041 0001 0000003c") + struct.pack("!H", len(octets)) + octets
    assert [str(ipaddress.ip_address(each)) for each in record_addresses(body, 5)] == expected


@thorough
@given(
    rtype=st.sampled_from([1, 28, 64, 65, 5, 16]),
    rdata=st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: b"\0\1\0" + tail),
    length=st.none() | st.integers(0, 65_535),
    tail=st.binary(max_size=8),
    counts=st.binary(min_size=6, max_size=6),
)
def test_any_octets_give_whole_addresses_and_no_error(
    rtype: int, rdata: bytes, length: int | None, tail: bytes, counts: bytes
) -> None:
    head = b"\0" + struct.pack("!HHIH", rtype, 1, 60, len(rdata) if length is None else length)
    found = Entry(0, False, counts, head + rdata + tail, ((5, 60),), 60, 1_000, ())
    for each, _ in answer_addresses(found):
        assert len(each) in (4, 16)
    for each in record_addresses(found.body, 5):
        assert each in rdata + tail
        assert len(each) in ((4,) if rtype == 1 else (16,) if rtype == 28 else (4, 16))
