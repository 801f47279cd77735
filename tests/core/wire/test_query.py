"""Reading queries: each kind of malformed one, and a second opinion of dnspython and dnslib on everything else."""

import random
import struct
from collections.abc import Iterator

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dnslib
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dnsfilter.core.wire.codes import FORMERR, NOTIMP, REFUSED
from dnsfilter.core.wire.query import BadQuery, Edns, NotAQuery, Query, parse
from tests.core.make import labels_to_wire, opt, option, query, question, thorough, unhex, wire

A_RECORD = wire("x.example") + unhex("0001 0001 0000003c 0004 c0000201")
POINTER_RECORD = unhex("c00c 0001 0001 0000003c 0004 c0000201")


def header(counts: str = "0001 0000 0000 0000", flags: str = "0100") -> bytes:
    return unhex("1234", flags, counts)


def read(message: bytes) -> Query | int | None:
    """The query, the rcode it is refused with, or None where it gets no answer; any other exception is a fault."""
    try:
        return parse(message)
    except BadQuery as error:
        return error.rcode
    except NotAQuery:
        return None


# What is accepted


def test_a_plain_query_octet_by_octet() -> None:
    message = unhex("1234 0100 0001 0000 0000 0000  03414473 074578616d706c65 00 0001 0001")
    assert parse(message) == Query(
        id=b"\x12\x34",
        flags=1,
        flags2=0,
        question=unhex("03414473 074578616d706c65 00 0001 0001"),
        name=b"\3ads\7example\0",
        qtype=1,
        qclass=1,
        edns=None,
    )


def test_an_edns_query_octet_by_octet() -> None:
    message = unhex(
        "1234 0130 0001 0000 0000 0001",  # RD, AD, CD
        "00 00ff 0003",  # . CH ANY
        "00 0029 1000 00 00 8000 0004 fde90000",  # OPT, 4096 octets, DO, an empty option 65001
    )
    found = parse(message)
    assert found.edns == Edns(udp_size=4096, version=0, do=True, has_options=True)
    assert (found.name, found.qtype, found.qclass) == (b"\0", 255, 3)
    assert (found.flags, found.flags2, found.do, found.cd) == (1, 0x30, True, True)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(query(b"\x3f" + b"a" * 63 + b"\0"), id="a label of 63 octets"),
        pytest.param(query(labels_to_wire([b"a" * 63] * 3 + [b"a" * 61])), id="a name of 255 octets"),
        pytest.param(query(b"\1a" * 127 + b"\0"), id="127 labels"),
        pytest.param(query(b"\4\0\x1b.\xff\0"), id="any octets in a label, RFC 2181 section 11"),
        pytest.param(query("a.example", 65_280), id="an unknown type, RFC 3597"),
        pytest.param(query("a.example", rclass=254), id="class NONE"),
        pytest.param(query("a.example", rd=False), id="RD is 0"),
        pytest.param(query("a.example", edns=opt(512)), id="EDNS"),
        pytest.param(query("a.example", edns=opt(version=1, flags=0x7FFF)), id="EDNS of another version, flags"),
        pytest.param(header(flags="0140") + question("a.example"), id="the reserved bit Z, RFC 8906"),
        pytest.param(header(flags="0700") + question("a.example"), id="AA and TC in a query"),
        pytest.param(header(flags="010f") + question("a.example"), id="an rcode in a query"),
        pytest.param(header("0001 0001 0000 0000") + question("a.example") + A_RECORD, id="an answer record"),
        pytest.param(
            header("0001 0000 0001 0000") + question("a.example", 251) + POINTER_RECORD, id="an authority record"
        ),
        pytest.param(header("0001 0000 0000 0001") + question("a.example") + A_RECORD, id="an additional record"),
        pytest.param(
            header("0001 0001 0001 0003") + question("a.example") + A_RECORD * 3 + opt() + A_RECORD,
            id="OPT between other records",
        ),
        pytest.param(query("a.example", edns=opt(options=option(10, bytes(8)))), id="a client's cookie, RFC 7873"),
        pytest.param(query("a.example", edns=opt(options=option(10, bytes(40)))), id="both cookies, RFC 7873"),
    ],
)
def test_valid_queries_are_read(message: bytes) -> None:
    found = read(message)
    assert isinstance(found, Query)
    assert message[12:].startswith(found.question)
    assert found.edns is None or not found.edns.is_malformed


@pytest.mark.parametrize(
    ("edns", "limit"),
    [
        pytest.param(b"", 512, id="no EDNS"),
        pytest.param(opt(0), 512, id="offers nothing"),
        pytest.param(opt(511), 512, id="less than 512 counts as 512, RFC 6891 section 6.2.3"),
        pytest.param(opt(1000), 1000, id="within bounds"),
        pytest.param(opt(1232), 1232, id="1232"),
        pytest.param(opt(65_535), 1232, id="more than we send over UDP, RFC 9715"),
    ],
)
def test_the_udp_limit_is_what_the_client_offers_within_bounds(edns: bytes, limit: int) -> None:
    assert parse(query("a.example", edns=edns)).udp_limit == limit


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(b"\0", id="an option header cut"),
        pytest.param(b"\0\3\0\1", id="an option that runs off its record"),
        pytest.param(option(3) + b"\0\0\0", id="octets behind the last option"),
        pytest.param(option(10), id="an empty cookie"),
        pytest.param(option(10, bytes(7)), id="a cookie of 7 octets"),
        pytest.param(option(10, bytes(9)), id="a cookie of 9 octets"),
        pytest.param(option(10, bytes(15)), id="a cookie of 15 octets"),
        pytest.param(option(3) + option(10, bytes(41)), id="a cookie of 41 octets"),
    ],
)
def test_options_that_cannot_be_read_are_told_apart(options: bytes) -> None:
    """RFC 6891 section 7: FORMERR, but with OPT, so the question is needed."""
    edns = parse(query("a.example", edns=opt(options=options))).edns
    assert edns is not None
    assert edns.is_malformed


# What is refused


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0", id="1 octet"),
        pytest.param(query("a.example")[:11], id="11 octets"),
        pytest.param(header(flags="8100") + question("a.example"), id="a response"),
        pytest.param(header(flags="f800"), id="a response of another opcode"),
        pytest.param(header(flags="8001"), id="a response with an error"),
        pytest.param(header("ffff ffff ffff ffff", "8100"), id="a response with counts alone"),
    ],
)
def test_what_is_no_query_gets_no_answer(message: bytes) -> None:
    assert read(message) is None


@pytest.mark.parametrize(
    ("opcode", "rcode"),
    [(1, NOTIMP), (2, NOTIMP), (3, NOTIMP), (4, REFUSED), (5, REFUSED), (6, NOTIMP), (15, NOTIMP)],
    ids=["IQUERY", "STATUS", "opcode 3", "NOTIFY", "UPDATE", "DSO", "opcode 15"],
)
@pytest.mark.parametrize("rest", [b"", question("a.example"), b"\xff" * 20], ids=["bare", "with a question", "rubbish"])
def test_other_opcodes_are_refused_whatever_follows(opcode: int, rcode: int, rest: bytes) -> None:
    """RFC 8906 section 3.1.4, RFC 3425, RFC 1996, RFC 2136."""
    assert read(struct.pack("!6H", 1, opcode << 11, 1, 0, 0, 0) + rest) == rcode


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(header(), id="no question octets"),
        pytest.param(header("0000 0000 0000 0000"), id="no question, and none announced"),
        pytest.param(header("0000 0000 0000 0001") + opt(), id="OPT alone"),
        pytest.param(header("0002 0000 0000 0000") + question("a.example") * 2, id="two questions, RFC 9619"),
        pytest.param(header() + question("a.example")[:-1], id="the question is cut"),
        pytest.param(header() + wire("a.example"), id="a name alone"),
        pytest.param(header() + unhex("c00c 0001 0001"), id="a pointer to itself, RFC 9267"),
        pytest.param(header() + unhex("0161 c00c 0001 0001"), id="a loop through a label"),
        pytest.param(header() + unhex("c0ff 0001 0001"), id="a pointer beyond the message"),
        pytest.param(header() + unhex("c000 0001 0001"), id="a pointer into the header"),
        pytest.param(header() + unhex("41 61 00 0001 0001"), id="label type 01, RFC 6891 section 5"),
        pytest.param(header() + unhex("80 61 00 0001 0001"), id="label type 10"),
        pytest.param(header() + unhex("3f 616263 00 0001 0001"), id="a label longer than the rest"),
        pytest.param(header() + unhex("0161 0162"), id="a name without its final zero"),
        pytest.param(query(labels_to_wire([b"a" * 63] * 3 + [b"a" * 62])), id="a name of 256 octets"),
        pytest.param(query(b"\1a" * 128 + b"\0"), id="128 labels"),
        pytest.param(query("a.example") + b"\0", id="an octet behind the message"),
        pytest.param(query("a.example", edns=opt() + b"\0"), id="an octet behind OPT"),
        pytest.param(query("a.example") + opt(), id="OPT that is not counted"),
        pytest.param(query("a.example", edns=opt()[:-1]), id="OPT is cut"),
        pytest.param(query("a.example", edns=b"\0\0\x29"), id="OPT's owner and type alone"),
        pytest.param(query("a.example", edns=opt()[:-2] + b"\0\1"), id="OPT whose rdata runs off the end"),
        pytest.param(query("a.example", edns=opt()[:-2] + b"\xff\xff"), id="OPT of 65,535 octets"),
        pytest.param(header("0001 0000 0000 0002") + question("a.example") + opt() * 2, id="two OPT, RFC 6891 6.1.1"),
        pytest.param(header("0001 0001 0000 0000") + question("a.example") + opt(), id="OPT in the answer section"),
        pytest.param(header("0001 0000 0001 0000") + question("a.example") + opt(), id="OPT in the authority section"),
        pytest.param(query("a.example", edns=b"\1a" + opt()), id="OPT whose owner is not the root"),
        pytest.param(query("a.example", edns=b"\xc0\x12" + opt()[1:]), id="OPT whose owner is compressed"),
        pytest.param(header("0001 0000 0000 ffff") + question("a.example"), id="65,535 records announced, RFC 9267"),
        pytest.param(header("0001 0000 0000 ffff") + question("a.example") + opt(), id="65,534 of them missing"),
        pytest.param(header("ffff ffff ffff ffff") + question("a.example"), id="all counts 65,535"),
        pytest.param(header("0001 0001 0000 0000") + question("a.example") + A_RECORD[:-1], id="a record is cut"),
        pytest.param(header("0001 0001 0000 0000") + question("a.example") + unhex("41 61 00") * 9, id="a bad owner"),
        pytest.param(header("0001 0001 0000 0000") + question("a.example") + b"\xc0", id="half a pointer at the end"),
    ],
)
def test_malformed_queries_are_formerr(message: bytes) -> None:
    assert read(message) == FORMERR


def test_a_query_cut_anywhere_is_never_read() -> None:
    message = query("ads.example", edns=opt(options=option(10, bytes(8)) + option(65_001, b"abc")))
    for length in range(len(message)):
        assert read(message[:length]) == (None if length < 12 else FORMERR), length


# A second opinion

SEEDS = [
    query("a.example"),
    query("ads.example", "HTTPS", edns=opt(do=True)),
    query("x.y.example", "TXT", cd=True, edns=opt(4096, options=option(10, bytes(8)) + option(65_001, b"abc"))),
    query(".", "NS", rd=False, edns=opt(version=1)),
    query(b"\4\0.\xffX" + wire("Example"), 65_535, rclass=255),
    header("0001 0001 0001 0002") + question("a.example") + A_RECORD + POINTER_RECORD + opt() + A_RECORD,
]


def _edited(message: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    """Overwrite, insert or delete octets."""
    for kind, at, octets in edits:
        rest = {"x": at + len(octets), "i": at, "d": at + len(octets)}[kind]
        message = message[:at] + (b"" if kind == "d" else octets) + message[rest:]
    return message


mutated = st.builds(
    _edited,
    st.sampled_from(SEEDS),
    st.lists(
        st.tuples(st.sampled_from("xid"), st.integers(min_value=0, max_value=80), st.binary(min_size=1, max_size=3)),
        max_size=4,
    ),
)


def random_messages(count: int) -> Iterator[bytes]:
    """The same messages in every run: mutated ones, and rubbish behind a header that makes sense."""
    chance = random.Random(2023)
    for _ in range(count):
        message = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randrange(1, 6)):
            message[chance.randrange(len(message))] = chance.choice(
                (0, 1, 12, 41, 63, 64, 192, 255, chance.randrange(256))
            )
        yield bytes(message[: chance.randrange(len(message) + 1)] if chance.random() < 0.2 else message)
        yield header(flags="0000") + chance.randbytes(chance.randrange(60))


def check_against_others(message: bytes) -> None:
    """Where a query is read, the others read the same, if they read it at all.

    Wanted differences: we step over records other than OPT and over options without reading what
    is in them, as nothing of them is used, where dnspython refuses an address of three octets, a TSIG
    record without its key or a client subnet that makes no sense; so it may be asked for the question
    alone. What we refuse, it may accept: no question or two (RFC 9619), a compressed qname, a pointer in
    the owner of OPT.
    """
    found = read(message)
    if not isinstance(found, Query):
        return
    theirs = dns.message.from_wire(message, question_only=True)
    asked = theirs.question[0]
    assert theirs.id == int.from_bytes(found.id, "big")
    assert asked.name.to_wire() == found.question[:-4]
    assert asked.name.canonicalize().to_wire() == found.name
    assert (asked.rdtype, asked.rdclass) == (found.qtype, found.qclass)
    assert bool(theirs.flags & dns.flags.RD) is bool(found.flags)
    assert bool(theirs.flags & dns.flags.CD) is found.cd
    try:
        whole = dns.message.from_wire(message)
    except (dns.exception.DNSException, ValueError):
        whole = None
    if whole is not None and found.edns is not None:
        assert (whole.edns, whole.payload) == (found.edns.version, found.edns.udp_size)
        assert bool(whole.ednsflags & dns.flags.DO) is found.edns.do
        assert bool(whole.options) is found.edns.has_options
        assert not found.edns.is_malformed or any(each.otype == 10 for each in whole.options)
    elif whole is not None:
        assert whole.edns == -1
    check_against_dnslib(message, found)


def check_against_dnslib(message: bytes, found: Query) -> None:
    """dnslib reads less strictly than either; what it cannot hold it refuses in several ways."""
    try:
        theirs = dnslib.DNSRecord.parse(message)
    except (dnslib.DNSError, ValueError, IndexError, struct.error):  # it lets all of these out
        return
    assert labels_to_wire(theirs.q.qname.label) == found.question[:-4]
    assert (theirs.q.qtype, theirs.q.qclass) == (found.qtype, found.qclass)
    sizes = [record.rclass for record in theirs.ar if record.rtype == 41]
    assert sizes == ([] if found.edns is None else [found.edns.udp_size])


@thorough
@given(mutated)
@example(query("a.example", edns=opt(options=option(8, b"\0\1\x20\0"))))  # a client subnet without its address
def test_others_agree_on_mutated_queries(message: bytes) -> None:
    check_against_others(message)


@thorough
@given(st.binary(max_size=100) | st.builds(lambda rest: header() + rest, st.binary(max_size=60)))
def test_others_agree_on_random_octets(message: bytes) -> None:
    check_against_others(message)


def test_others_agree_on_many_messages_that_are_the_same_in_every_run() -> None:
    read_at_all = 0
    for message in random_messages(4_000):
        check_against_others(message)
        read_at_all += isinstance(read(message), Query)
    assert read_at_all > 500


@thorough
@given(
    found=st.lists(st.binary(min_size=1, max_size=63), max_size=6).filter(lambda f: sum(len(x) + 1 for x in f) < 255),
    rtype=st.integers(min_value=1, max_value=65_535),
    rclass=st.sampled_from([1, 3, 4, 254, 255]),
    bits=st.sets(st.sampled_from([dns.flags.RD, dns.flags.AD, dns.flags.CD])),
    edns=st.none() | st.tuples(st.integers(min_value=0, max_value=65_535), st.booleans()),
)
def test_whatever_dnspython_asks_is_read(
    found: list[bytes],
    rtype: int,
    rclass: int,
    bits: set[dns.flags.Flag],
    edns: tuple[int, bool] | None,
) -> None:
    asked = dns.message.QueryMessage(id=1)
    asked.flags = dns.flags.Flag(sum(bits))
    kind, among = dns.rdatatype.RdataType.make(rtype), dns.rdataclass.RdataClass.make(rclass)
    asked.find_rrset(asked.question, dns.name.Name([*found, b""]), among, kind, create=True, force_unique=True)
    if edns is not None:
        asked.use_edns(0, dns.flags.DO if edns[1] else 0, edns[0])
    octets = asked.to_wire()
    ours = parse(octets)
    assert ours.name == labels_to_wire([label.lower() for label in found])
    assert (ours.qtype, ours.qclass, ours.do) == (rtype, rclass, edns is not None and edns[1])
    check_against_others(octets)
