"""Walking responses: the same records as dnspython finds, and no octets that do harm."""

import random
import struct
import time
from collections.abc import Callable, Iterator

import dns.flags
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.names import from_text
from dnsfilter.core.wire.response import FormError, Record, Response, answers, read, uncompressed
from tests.core.make import many, name, opt, query, question, response, thorough, unhex, wire

ASKED = query("www.example", "A", edns=opt())
QUESTION = question("www.example")
QNAME = name("www.example")
HEAD = unhex("1234 8180 0001")

COMMON = [
    "www.example 300 IN A 192.0.2.1",
    "www.example 300 IN AAAA 2001:db8::1",
    "example 300 IN NS ns.example",
    "www.example 300 IN CNAME edge.www.example",
    "example 300 IN SOA ns.example host.example 1 3600 600 86400 60",
    "1.2.0.192.in-addr.arpa 300 IN PTR www.example",
    "www.example 300 IN HINFO cpu os",
    "example 300 IN MX 10 mail.example",
    'www.example 300 IN TXT "some text" ""',
    "www.example 300 IN RP host.example text.example",
    "www.example 300 IN AFSDB 1 host.example",
    "_sip._udp.example 300 IN SRV 1 2 5060 sip.example",
    'www.example 300 IN NAPTR 10 20 "u" "E2U+sip" "!^.*$!sip:x@example!" sip.example',
    "www.example 300 IN KX 10 host.example",
    "example 300 IN DNAME other.test",
    "example 300 IN DS 12345 13 2 " + "ab" * 32,
    "www.example 300 IN SSHFP 1 1 " + "ab" * 20,
    "example 300 IN RRSIG A 13 2 300 20300101000000 20200101000000 12345 example " + "YWJj" * 20,
    "www.example 300 IN NSEC example A AAAA RRSIG NSEC",
    "example 300 IN DNSKEY 257 3 13 " + "YWJj" * 20,
    "abcdefghijklmnop.example 300 IN NSEC3 1 0 0 - 2vptu5timamqttgl4luu9kg21e0aor3s A RRSIG",
    "_443._tcp.www.example 300 IN TLSA 3 1 1 " + "ab" * 32,
    "_dns.example 300 IN SVCB 1 dot.example alpn=dot port=853",
    "www.example 300 IN HTTPS 0 edge.example",
    'www.example 300 IN HTTPS 1 . alpn="h2,h3" ipv4hint=192.0.2.1 ipv6hint=2001:db8::1',
    'example 300 IN CAA 0 issue "ca.example"',
    "www.example 300 IN LOC 52 22 23 N 4 53 32 E 0m",
    r"www.example 300 IN TYPE65400 \# 4 c00c0001",
]

records = st.lists(st.sampled_from(COMMON), max_size=8)
bodies = st.builds(
    lambda counts, rest: HEAD + counts + QUESTION + rest,
    st.lists(st.integers(min_value=0, max_value=3), min_size=3, max_size=3).map(
        lambda found: struct.pack("!3H", *found)
    ),
    st.binary(max_size=120),
)


def theirs(octets: bytes) -> Iterator[tuple[int, dns.rrset.RRset]]:
    message = dns.message.from_wire(octets, one_rr_per_rrset=True)
    for section in range(3):
        for rrset in message.sections[section + 1]:
            yield section, rrset


def plain_record(rrset: dns.rrset.RRset) -> bytes:
    """One record as dnspython writes it without compression."""
    rdata = rrset[0].to_wire()
    assert rdata is not None
    head = struct.pack("!HHIH", rrset.rdtype, rrset.rdclass, rrset.ttl, len(rdata))
    return rrset.name.to_wire() + head + rdata  # type: ignore[no-any-return, operator]


@pytest.mark.parametrize("text", COMMON, ids=lambda text: " ".join(text.split()[2:4]))
def test_each_common_type_is_walked_and_written_out_as_dnspython_does(text: str) -> None:
    octets = response(ASKED, text, text, additional=[text])
    found = read(octets, QNAME)
    assert [record.section for record in found.records] == [0, 0, 2]
    for record, (section, rrset) in zip(found.records, theirs(octets), strict=True):
        assert (record.section, record.rtype, record.ttl) == (section, rrset.rdtype, 300)
        assert uncompressed(found, record) == plain_record(rrset)


@many
@given(answer=records, authority=records, additional=records, edns=st.booleans())
def test_whole_messages_are_walked_as_dnspython_does(
    answer: list[str], authority: list[str], additional: list[str], *, edns: bool
) -> None:
    octets = response(ASKED, *answer, authority=authority, additional=additional, edns=edns)
    found = read(octets, QNAME)
    assert found.body_at == 12 + len(QUESTION)
    assert (found.opt_at is not None) is edns
    for record, (section, rrset) in zip(found.records, theirs(octets), strict=True):
        assert (record.section, record.ttl) == (section, rrset.ttl)
        assert uncompressed(found, record) == plain_record(rrset)


def test_names_are_folded_wherever_they_stand() -> None:
    octets = response(
        query("WwW.ExAmPlE"), "wWw.example 300 IN CNAME EDGE.wWw.example", "EDGE.www.EXAMPLE 300 IN A 192.0.2.1"
    )
    alias, address = read(octets, QNAME).records
    assert (alias.owner, alias.target) == (QNAME, name("edge.www.example"))
    assert address.owner == name("edge.www.example")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("www.example 300 IN CNAME edge.example", "edge.example"),
        ("www.example 300 IN DNAME edge.example", "edge.example"),
        ("www.example 300 IN HTTPS 1 edge.example alpn=h2", "edge.example"),
        ("www.example 300 IN SVCB 0 edge.example", "edge.example"),
        ("www.example 300 IN HTTPS 1 . alpn=h2", "."),
        ("www.example 300 IN MX 10 edge.example", "edge.example"),
        ("www.example 300 IN SRV 1 2 3 edge.example", "edge.example"),
        ("www.example 300 IN A 192.0.2.1", None),
        ("www.example 300 IN TXT edge.example", None),
    ],
    ids=lambda text: " ".join((text or "none").split()[3:5]),
)
def test_the_name_that_a_record_leads_to(text: str, target: str | None) -> None:
    [record] = read(response(ASKED, text), QNAME).records
    assert record.target == (None if target is None else from_text(target))


@pytest.mark.parametrize(
    ("ttl", "minimum", "expected"), [(300, 60, 60), (60, 300, 60), (0, 60, 0), (60, 0, 0), (60, 0xFFFFFFFF, 60)]
)
def test_a_soa_record_tells_the_smaller_of_its_ttl_and_its_minimum(ttl: int, minimum: int, expected: int) -> None:
    """RFC 2308 section 5."""
    soa = f"example {ttl} IN SOA ns.example host.example 1 3600 600 86400 {minimum}"
    [record] = read(response(ASKED, authority=[soa]), QNAME).records
    assert record.minimum == expected


def test_the_rcode_is_extended_by_opt() -> None:
    octets = HEAD[:3] + b"\x83" + unhex("0001 0000 0000 0001") + QUESTION + b"\0\0\x29\x04\xd0\x01\0\0\0\0\0"
    assert read(octets, QNAME).rcode == 0x13


def test_opt_is_told_apart_wherever_it_stands() -> None:
    address = unhex("c00c 0001 0001 0000012c 0004 c0000201")
    octets = HEAD + unhex("0001 0000 0002") + QUESTION + address + opt() + address
    found = read(octets, QNAME)
    assert found.opt_at == 12 + len(QUESTION) + len(address)
    assert found.opt_end == found.opt_at + len(opt())
    assert len(found.records) == 2


# Compression in rdata: not all of it is allowed in writing (RFC 3597 section 4), all of it is read.

POINTER = b"\xc0\x0c"
PLAIN = wire("www.example")


@pytest.mark.parametrize(
    ("rtype", "rdata"),
    [
        pytest.param(rtype, rdata, id=f"type {rtype}")
        for rtype, rdata in [
            *((rtype, ["", POINTER]) for rtype in (2, 3, 4, 5, 7, 8, 9, 12, 39)),
            (6, ["", POINTER, b"\2ns" + POINTER, bytes(20)]),
            (14, ["", POINTER, POINTER]),
            (15, [b"\0\x0a", POINTER]),
            (17, ["", POINTER, b"\4text" + POINTER]),
            (18, [b"\0\1", POINTER]),
            (21, [b"\0\1", POINTER]),
            (24, [bytes(18), POINTER, b"signature"]),
            (26, [b"\0\1", POINTER, POINTER]),
            (30, ["", POINTER, b"\x40"]),
            (33, [bytes(6), POINTER]),
            (35, [b"\0\1\0\2\1u\7E2U+sip\0", POINTER]),
            (36, [b"\0\1", POINTER]),
            (46, [bytes(18), POINTER, b"signature"]),
            (47, ["", POINTER, b"\0\1\x40"]),
            (64, [b"\0\1", POINTER, b"\0\3\0\2\0\x35"]),
            (65, [b"\0\0", POINTER]),
        ]
    ],
)
def test_names_in_rdata_are_written_out_in_full(rtype: int, rdata: list[bytes | str]) -> None:
    packed = b"".join(part.encode() if isinstance(part, str) else part for part in rdata)
    full = b"".join((part.encode() if isinstance(part, str) else part).replace(POINTER, PLAIN) for part in rdata)
    head = struct.pack("!HHI", rtype, 1, 300)
    octets = HEAD + unhex("0001 0000 0000") + QUESTION + POINTER + head + struct.pack("!H", len(packed)) + packed
    found = read(octets, QNAME)
    [record] = found.records
    assert uncompressed(found, record) == PLAIN + head + struct.pack("!H", len(full)) + full


def test_rdata_of_an_unknown_type_is_opaque() -> None:
    """RFC 3597 section 3: octets that look like a pointer are none."""
    head = struct.pack("!HHIH", 65_400, 1, 300, 2)
    octets = HEAD + unhex("0001 0000 0000") + QUESTION + POINTER + head + b"\xc0\xff"
    found = read(octets, QNAME)
    [record] = found.records
    assert record.target is None
    assert uncompressed(found, record) == PLAIN + head + b"\xc0\xff"


# What is refused


def with_rdata(rtype: int, rdata: bytes, length: int | None = None) -> bytes:
    head = struct.pack("!HHIH", rtype, 1, 300, len(rdata) if length is None else length)
    return HEAD + unhex("0001 0000 0000") + QUESTION + POINTER + head + rdata


def with_owner(owner: bytes) -> bytes:
    return HEAD + unhex("0001 0000 0000") + QUESTION + owner + unhex("0001 0001 0000012c 0004 c0000201")


OWNER_AT = 12 + len(QUESTION)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(HEAD + unhex("0001 0000 0000") + QUESTION, id="a record announced and none there"),
        pytest.param(HEAD + unhex("ffff ffff ffff") + QUESTION, id="all counts 65,535"),
        pytest.param(response(ASKED, COMMON[0])[:-1], id="the last octet is missing"),
        pytest.param(response(ASKED, COMMON[0]) + b"\0", id="an octet behind the last record"),
        pytest.param(response(ASKED, COMMON[0], edns=False) + opt(), id="OPT that is not counted"),
        pytest.param(with_owner(struct.pack("!H", 0xC000 | OWNER_AT)), id="a pointer to itself"),
        pytest.param(with_owner(b"\1a" + struct.pack("!H", 0xC000 | OWNER_AT)), id="a loop through a label"),
        pytest.param(with_owner(b"\xc0\xff"), id="a pointer forward"),
        pytest.param(with_owner(b"\xff\xff"), id="a pointer beyond the message"),
        pytest.param(with_owner(struct.pack("!H", 0xC000 | 13)), id="a pointer into the middle of a label"),
        pytest.param(
            with_owner(struct.pack("!H", 0xC000 | 12 + len(PLAIN))), id="a pointer to the question's type, a zero octet"
        ),
        pytest.param(with_owner(b"\x41a\0"), id="label type 01"),
        pytest.param(with_owner(b"\x80a\0"), id="label type 10"),
        pytest.param(with_owner(b"\1a" * 122 + POINTER), id="a name of 257 octets, compressed"),
        pytest.param(with_owner(b"\1a" * 127 + b"\1a\0"), id="a name of 257 octets"),
        pytest.param(HEAD + unhex("0001 0000 0000") + QUESTION + b"\3www", id="an owner that does not end"),
        pytest.param(HEAD + unhex("0001 0000 0000") + QUESTION + b"\xc0", id="half a pointer"),
        pytest.param(with_rdata(1, b"\xc0\0\2"), id="an A record of 3 octets"),
        pytest.param(with_rdata(1, b"\xc0\0\2\1\1"), id="an A record of 5 octets"),
        pytest.param(with_rdata(28, bytes(15)), id="an AAAA record of 15 octets"),
        pytest.param(with_rdata(5, b""), id="a CNAME without a name"),
        pytest.param(with_rdata(5, POINTER + b"\0"), id="octets behind a CNAME's name"),
        pytest.param(with_rdata(5, b"\1a\0", 2), id="a CNAME's name that runs off its rdata"),
        pytest.param(with_rdata(6, POINTER * 2 + bytes(19)), id="a SOA cut"),
        pytest.param(with_rdata(15, b"\0"), id="an MX record of 1 octet"),
        pytest.param(with_rdata(16, b"\5abc"), id="a TXT string that runs off its rdata"),
        pytest.param(with_rdata(33, bytes(6)), id="a SRV record without a name"),
        pytest.param(with_rdata(65, b"\0\1\0\0\1\0"), id="a service parameter cut"),
        pytest.param(with_rdata(65, b"\0\1\0" + b"\0\3\0\0\0\1\0\0"), id="service parameters out of order, RFC 9460"),
        pytest.param(with_rdata(65, b"\0\1\0" + b"\0\3\0\0" * 2), id="a service parameter twice, RFC 9460"),
        pytest.param(with_rdata(43, b"abc"), id="a DS record of 3 octets"),
        pytest.param(with_rdata(1, b"\xc0\0\2\1", 65_535), id="rdata of 65,535 octets announced"),
        pytest.param(with_rdata(65_400, b"abc", 4), id="an unknown type's rdata runs off the end"),
        pytest.param(response(ASKED, "www.example 300 CH TXT other"), id="a record of another class than the question"),
        pytest.param(with_rdata(35, b"\0\1\0\2\1u\1E\5abc"), id="a NAPTR string that runs off its rdata"),
        pytest.param(HEAD + unhex("0001 0000 0000") + QUESTION + opt(), id="OPT in the answer section"),
        pytest.param(HEAD + unhex("0000 0000 0002") + QUESTION + opt() * 2, id="two OPT records"),
        pytest.param(HEAD + unhex("0000 0000 0001") + QUESTION + b"\1a" + opt(), id="OPT whose owner is not the root"),
        pytest.param(HEAD + unhex("0000 0000 0001") + QUESTION + opt(options=b"\0\3\0\1"), id="an option runs off OPT"),
        pytest.param(HEAD + unhex("0000 0000 0001") + QUESTION + opt(options=b"\0\3\0"), id="an option header cut"),
    ],
)
def test_malformed_responses_are_refused(octets: bytes) -> None:
    assert answers(octets[:2], QUESTION, octets)
    with pytest.raises(FormError) as caught:
        read(octets, QNAME)
    assert 0 <= caught.value.offset <= len(octets) + 65_535


@pytest.mark.parametrize("offset", [0, 2, 4, 6, 8, 10, 11])
def test_a_pointer_into_the_header_is_refused(offset: int) -> None:
    """What stands there is another message's in the answer to a client (RFC 9267): its id, its flags, its counts."""
    octets = bytearray(with_owner(struct.pack("!H", 0xC000 | offset)))
    octets[:2] = b"\1a"
    with pytest.raises(FormError):
        read(bytes(octets), QNAME)


ADDRESS = unhex("c00c 0001 0001 03616200 0004 03616200")  # its TTL and its rdata read as a name too
UNKNOWN = unhex("c00c ff78 0001 0000012c 0004 03616200")


@pytest.mark.parametrize(
    ("first", "offset"),
    [
        pytest.param(ADDRESS, 6, id="a TTL"),
        pytest.param(ADDRESS, 9, id="the zero octet that ends a TTL"),
        pytest.param(ADDRESS, 12, id="an address"),
        pytest.param(UNKNOWN, 12, id="rdata of an unknown type"),
        pytest.param(opt(options=unhex("0003 0004 03616200")), 15, id="an option"),
    ],
)
@pytest.mark.parametrize("place", ["owner", "target"])
def test_a_pointer_to_what_was_not_read_as_a_name_is_refused(first: bytes, offset: int, place: str) -> None:
    pointer = struct.pack("!H", 0xC000 | OWNER_AT + offset)
    second = unhex("0005 0001 0000012c 0002")
    second = pointer + second + POINTER if place == "owner" else POINTER + second + pointer
    octets = HEAD + unhex("0000 0000 0002") + QUESTION + first + second
    read(octets.replace(pointer, POINTER), QNAME)
    with pytest.raises(FormError):
        read(octets, QNAME)


@pytest.mark.parametrize("skip", [0, 3, 5])
def test_a_pointer_to_any_label_of_a_name_read_before_is_followed(skip: int) -> None:
    first = b"\2ab\1c" + POINTER + unhex("ff78 0001 0000012c 0000")
    pointer = struct.pack("!H", 0xC000 | OWNER_AT + skip)
    octets = HEAD + unhex("0002 0000 0000") + QUESTION + first + pointer + unhex("ff78 0001 0000012c 0000")
    assert read(octets, QNAME).records[1].owner == (b"\2ab\1c" + QNAME)[skip:]


def chained(hops: int) -> bytes:
    """NS records whose targets are a label and a pointer to the target before: the last has so many pointers."""
    octets, at = HEAD + struct.pack("!3H", hops, 0, 0) + QUESTION, 12
    for _ in range(hops):
        octets += POINTER + unhex("0002 0001 0000012c 0004")
        pointer, at = struct.pack("!H", 0xC000 | at), len(octets)
        octets += b"\1a" + pointer
    return octets


@pytest.mark.parametrize("hops", [60, 63, 64, 65, 100, 121])
def test_a_chain_of_pointers_is_read_and_written_out(hops: int) -> None:
    """However many a name goes through: its length is what is bounded."""
    found = read(chained(hops), QNAME)
    assert found.records[-1].target == b"\1a" * hops + QNAME
    for record in found.records:
        assert record.target is not None
        assert uncompressed(found, record).endswith(record.target)


def test_a_chain_of_pointers_to_a_name_that_is_too_long_is_refused() -> None:
    assert len(b"\1a" * 121 + QNAME) == 255
    with pytest.raises(FormError):
        read(chained(122), QNAME)


# Any octets


def check(octets: bytes) -> Response | None:
    """Read what answers our question; each record can be written out, and what is written reads the same."""
    if not answers(octets[:2], QUESTION, octets):
        return None
    try:
        found = read(octets, QNAME)
    except FormError:
        return None
    body = b"".join(uncompressed(found, record) for record in found.records)
    counts = [0, 0, 0]
    for record in found.records:
        counts[record.section] += 1
    again = read(HEAD + struct.pack("!3H", *counts) + QUESTION + body, QNAME)
    assert list(map(essence, again.records)) == list(map(essence, found.records))
    return found


def essence(record: Record) -> tuple[object, ...]:
    return record.section, record.owner, record.rtype, record.ttl, record.target, record.minimum


@thorough
@given(bodies)
def test_random_octets_are_read_or_refused(octets: bytes) -> None:
    check(octets)


@thorough
@given(
    st.lists(st.sampled_from(COMMON), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(min_value=4, max_value=500), st.integers(min_value=0, max_value=255)), max_size=4),
    st.none() | st.integers(min_value=12, max_value=500),
)
def test_mutated_responses_are_read_or_refused(texts: list[str], edits: list[tuple[int, int]], cut: int | None) -> None:
    octets = bytearray(response(ASKED, *texts, additional=texts[:1]))
    for at, value in edits:
        octets[at % len(octets)] = value
    check(bytes(octets[:cut]))


def test_many_mutated_responses_that_are_the_same_in_every_run() -> None:
    chance = random.Random(2023)
    seeds = [response(ASKED, *chance.sample(COMMON, 5), additional=chance.sample(COMMON, 2)) for _ in range(40)]
    read_at_all = 0
    for _ in range(8_000):
        octets = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(OWNER_AT, len(octets))
            octets[at] = chance.choice((0, 1, 3, 12, 35, 41, 63, 64, 192, 255, chance.randrange(256)))
        read_at_all += check(bytes(octets)) is not None
    assert read_at_all > 500


@many
@given(st.lists(st.sampled_from(COMMON), min_size=1, max_size=4))
def test_a_response_cut_anywhere_is_refused(texts: list[str]) -> None:
    octets = response(ASKED, *texts)
    for length in range(12 + len(QUESTION), len(octets)):
        with pytest.raises(FormError):
            read(octets[:length], QNAME)


# Bombs: the work is bounded by the message's length, not by what it stands for. CPU time, as the machine may be busy.

BOUND_S = 1.0


def filled(make: Callable[[int], bytes], start: bytes = b"", started: int = 0) -> bytes:
    """A message of 64 KiB: `start` with so many records, then records by their number until it is full."""
    parts, size, count = [start], 12 + len(QUESTION) + len(start), started
    while size + len(part := make(count)) <= 65_535:
        parts.append(part)
        size += len(part)
        count += 1
    return HEAD + struct.pack("!3H", count, 0, 0) + QUESTION + b"".join(parts)


FIXED = unhex("0000012c")
LONG = b"\1a" * 115 + POINTER  # 243 octets in 117 labels


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(
            filled(
                lambda number: struct.pack("!H", 0xC000 | OWNER_AT + 2) + unhex("fff0 0001 0000012c 0000"),
                LONG + unhex("fff0 0001 0000012c 0000"),
                1,
            ),
            id="owners that point into a long name, 5,000 records",
        ),
        pytest.param(
            filled(
                lambda number: struct.pack(
                    "!HHHIHHH", 0xC000 | OWNER_AT + 2, 14, 1, 300, 4, 0xC000 | OWNER_AT + 4, 0xC000 | OWNER_AT + 6
                ),
                LONG + unhex("fff0 0001 0000012c 0000"),
                1,
            ),
            id="three such names a record, 4,000 records",
        ),
        pytest.param(
            filled(
                lambda number: (
                    struct.pack("!HHHIH", 0xC000 | 12, 35, 1, 300, 9)
                    + bytes(7)
                    + struct.pack("!H", 0xC000 | OWNER_AT + 2)
                ),
                LONG + unhex("fff0 0001 0000012c 0000"),
                1,
            ),
            id="a long name in each NAPTR record",
        ),
        pytest.param(filled(lambda number: struct.pack("!HHHIH", 0xC00C, 16, 1, 300, 0)), id="5,000 empty TXT records"),
        pytest.param(
            filled(lambda number: b"\xc0\x0c" + unhex("0010 0001 0000012c ffff") + bytes(65_000)[: 65_535 - 60]),
            id="one record of nothing but empty strings",
        ),
        pytest.param(
            filled(lambda number: b"\1a" * 110 + POINTER + unhex("0001 0001 0000012c 0004 c0000201")),
            id="long names without compression",
        ),
    ],
)
def test_a_bomb_of_64_kib_takes_less_than_a_second(octets: bytes) -> None:
    assert len(octets) <= 65_535
    started = time.process_time()
    try:
        found = read(octets, QNAME)
    except FormError:
        found = None
    assert time.process_time() - started < BOUND_S
    if found is not None:
        for record in found.records:
            uncompressed(found, record)
        assert time.process_time() - started < 2 * BOUND_S


# Which octets answer a query at all (RFC 5452 section 9.1)

GOOD = response(ASKED, COMMON[0])


def with_bits(octets: bytes, at: int, value: int) -> bytes:
    return octets[:at] + bytes([value]) + octets[at + 1 :]


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        pytest.param(GOOD, True, id="the answer"),
        pytest.param(response(query("WWW.Example"), COMMON[0]), True, id="the question in other letter case"),
        pytest.param(with_bits(GOOD, 2, GOOD[2] | 0x07), True, id="AA, TC and RD do not matter"),
        pytest.param(b"\x12\x35" + GOOD[2:], False, id="another id"),
        pytest.param(with_bits(GOOD, 2, GOOD[2] & 0x7F), False, id="QR is 0"),
        pytest.param(with_bits(GOOD, 2, GOOD[2] | 0x28), False, id="another opcode"),
        pytest.param(response(query("ww.example"), "ww.example 300 IN A 192.0.2.1"), False, id="another name"),
        pytest.param(response(query("www.example", "AAAA")), False, id="another type"),
        pytest.param(response(query("www.example", rclass=3)), False, id="another class"),
        pytest.param(GOOD[:4] + b"\0\2" + GOOD[6:], False, id="two questions"),
        pytest.param(GOOD[:4] + b"\0\0" + GOOD[6:], False, id="no question"),
        pytest.param(GOOD[: 12 + len(QUESTION) - 1], False, id="the question is cut"),
        pytest.param(GOOD[:11], False, id="11 octets"),
        pytest.param(b"", False, id="nothing"),
        pytest.param(unhex("1234 8181 0000 0000 0000 0000"), True, id="FORMERR as a header alone"),
        pytest.param(unhex("1234 8184 0000 0000 0000 0000"), True, id="NOTIMP as a header alone"),
        pytest.param(unhex("1234 8180 0000 0000 0000 0000"), False, id="NOERROR as a header alone"),
        pytest.param(unhex("1234 8183 0000 0000 0000 0000"), False, id="NXDOMAIN as a header alone"),
        pytest.param(unhex("1234 8181 0000 0000 0000 0001") + opt(), False, id="an error without question, with OPT"),
    ],
)
def test_what_answers_a_query(octets: bytes, *, expected: bool) -> None:
    assert answers(b"\x12\x34", QUESTION, octets) is expected


def test_a_header_alone_is_read_as_its_rcode() -> None:
    found = read(unhex("1234 8181 0000 0000 0000 0000"), QNAME)
    assert (found.rcode, found.records, found.opt_at) == (1, [], None)


def test_header_bits_are_kept_as_they_came() -> None:
    assert read(response(ASKED, flags=dns.flags.TC), QNAME).flags == 0x83
    assert read(response(ASKED, flags=dns.flags.AA | dns.flags.AD), QNAME).flags == 0x85
    assert read(response(ASKED, flags=dns.flags.AD), QNAME).flags2 == 0xA0
