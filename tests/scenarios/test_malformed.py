"""Malformed and hostile messages: the answer the RFCs ask for, nothing upstream, and the next query is served."""

import socket
import struct
import time
from collections.abc import Iterator

import dns.message
import dns.name
import dns.tsig
import pytest

from tests.scenarios.client import (
    FORMERR,
    NOERROR,
    OPT,
    QR,
    RA,
    RD,
    REFUSED,
    Address,
    Edns,
    TcpClient,
    UdpClient,
    ask,
    exchange,
    labels,
    query,
    read,
)
from tests.scenarios.expect import LISTED, MANAGED, check_sinkholed
from tests.scenarios.service import Service
from tests.scenarios.upstream import Upstream, address_of

MARK = b"m4lf0rmed"
NAME = labels(MARK, b"example")
TYPE_A = b"\x00\x01\x00\x01"


def header(
    *,
    flags: int = RD,
    questions: int = 1,
    answers: int = 0,
    authority: int = 0,
    additional: int = 0,
    ident: int = 0x1234,
) -> bytes:
    """A header with any counts."""
    return struct.pack("!6H", ident, flags, questions, answers, authority, additional)


def opt(rdata: bytes = b"", *, length: int | None = None, owner: bytes = b"\0") -> bytes:
    """An OPT record, with any rdata length."""
    return owner + struct.pack("!HHIH", OPT, 1232, 0, len(rdata) if length is None else length) + rdata


@pytest.fixture(autouse=True)
def nothing_malformed_goes_upstream_and_the_next_query_is_served(
    server: Address, upstream: Upstream, service: Service
) -> Iterator[None]:
    """What every test here has in common."""
    yield
    check_sinkholed(ask(server, LISTED, "A", source=MANAGED))
    assert ask(server, "next.example", "A").addresses == [address_of("next.example")]
    assert not [asked for asked in upstream.queries() if MARK in asked.octets.lower()]
    service.check_alive()


def silence(server: Address, octets: bytes) -> None:
    """Send octets that get no answer: the answer to a query sent after them is the only one that comes."""
    with UdpClient(server, MANAGED) as client:
        client.send(octets)
        client.send(query(LISTED, "A", ident=0xFEFE))
        got = client.receive()
        assert got is not None
        assert got[:2] == b"\xfe\xfe"
        assert client.drain() == []


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"", id="empty datagram"),
        pytest.param(b"\x12", id="1 octet"),
        pytest.param(header()[:11], id="11 octets"),
    ],
)
def test_less_than_a_header_gets_no_answer(server: Address, octets: bytes) -> None:
    """RFC 1035 4.1.1."""
    silence(server, octets)


UNREADABLE = [
    pytest.param(header(), id="QDCOUNT 1, no question octets, RFC 1035 4.1.2"),
    pytest.param(header() + b"\xc0\x0c" + TYPE_A, id="QNAME is a pointer to itself, RFC 9267 2"),
    pytest.param(header() + b"\x01a\xc0\x0c" + TYPE_A, id="pointer loop through a label, RFC 9267 2"),
    pytest.param(header() + b"\xc0\x0e\xc0\x0c" + TYPE_A, id="two pointers to each other, RFC 9267 2"),
    pytest.param(header() + b"\xff\xff" + TYPE_A, id="pointer beyond the message, RFC 9267 2"),
    pytest.param(header() + b"\xc0\x00" + TYPE_A, id="pointer into the header, RFC 9267 2"),
    pytest.param(header() + b"\xc0\x12" + TYPE_A + NAME, id="pointer forwards, RFC 1035 4.1.4"),
    pytest.param(header() + b"\xc0", id="half a pointer"),
    pytest.param(header() + b"\x41" + b"a" * 32 + b"\0" + TYPE_A, id="label type 01, RFC 6891 5"),
    pytest.param(header() + b"\x80" + b"a" * 32 + b"\0" + TYPE_A, id="label type 10"),
    pytest.param(header() + b"\x3fm4lf0rmed", id="label longer than the rest, RFC 9267 3"),
    pytest.param(header() + NAME[:-1], id="QNAME without its final zero, RFC 9267 4"),
    pytest.param(header() + NAME, id="no type and class"),
    pytest.param(header() + NAME + TYPE_A[:3], id="half a class"),
    pytest.param(
        header() + labels(b"l" * 63, b"l" * 63, b"l" * 63, b"m" * 54, b"example") + TYPE_A,
        id="QNAME of 256 octets, RFC 1035 2.3.4",
    ),
    pytest.param(header() + labels(*[b"a"] * 200) + TYPE_A, id="QNAME of 401 octets, RFC 1035 2.3.4"),
    pytest.param(header(questions=65535, answers=65535, authority=65535, additional=65535), id="all counts 65535"),
]


@pytest.mark.parametrize("octets", UNREADABLE)
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_a_question_that_cannot_be_read_is_formerr_with_a_bare_header(
    server: Address, octets: bytes, tcp: bool
) -> None:
    """The id, the opcode and RD come back, all counts are 0."""
    got = exchange(server, octets, tcp=tcp)
    assert got is not None
    response = read(got)
    assert len(got) == 12
    assert response.ident == 0x1234
    assert response.flags & (QR | RD) == QR | RD
    assert response.opcode == 0
    assert response.rcode == FORMERR


MALFORMED = [
    pytest.param(header(additional=2) + NAME + TYPE_A + opt() + opt(), id="two OPT records, RFC 6891 6.1.1"),
    pytest.param(
        header(additional=1) + NAME + TYPE_A + opt(owner=b"\x01a\0"),
        id="OPT whose owner is not the root, RFC 6891 6.1.2",
    ),
    pytest.param(
        header(additional=1) + NAME + TYPE_A + opt(length=40), id="OPT whose rdata runs off the end, RFC 6891 6.1.2"
    ),
    pytest.param(header(additional=1) + NAME + TYPE_A + opt(b"\0\x0a\0"), id="EDNS option header cut, RFC 6891 6.1.2"),
    pytest.param(
        header(additional=1) + NAME + TYPE_A + opt(b"\0\x0a\0\x09abcd"),
        id="EDNS option longer than OPT, RFC 6891 6.1.2",
    ),
    pytest.param(header(additional=1) + NAME + TYPE_A + opt()[:7], id="OPT cut"),
    pytest.param(header(additional=65535) + NAME + TYPE_A, id="ARCOUNT 65535 and no records, RFC 9267 6"),
    pytest.param(header(answers=1) + NAME + TYPE_A, id="ANCOUNT 1 and no record, RFC 9267 6"),
    pytest.param(
        header(questions=65535, answers=65535, authority=65535, additional=65535) + NAME + TYPE_A,
        id="all counts 65535, RFC 9267 6",
    ),
    pytest.param(header(questions=2) + NAME + TYPE_A + NAME + TYPE_A, id="two questions, RFC 9619 4"),
    pytest.param(header(questions=2) + NAME + TYPE_A, id="QDCOUNT 2 and one question"),
    pytest.param(header(questions=0), id="no question, RFC 9619 4"),
]


@pytest.mark.parametrize("octets", MALFORMED)
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_a_malformed_query_is_formerr(server: Address, octets: bytes, tcp: bool) -> None:
    """The response has no record but perhaps an OPT, and at most the question."""
    got = exchange(server, octets, tcp=tcp)
    assert got is not None
    response = read(got)
    assert response.ident == 0x1234
    assert response.flags & (QR | RD) == QR | RD
    assert response.rcode == FORMERR
    assert not response.answer
    assert response.counts[0] <= 1


@pytest.mark.parametrize("first", [pytest.param(NAME, id="first ordinary"), pytest.param(None, id="first listed")])
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_nothing_of_two_questions_passes_where_one_is_blocked(
    server: Address, first: bytes | None, tcp: bool, listed_stays_here: None
) -> None:
    """RFC 9619 4, for firewalls."""
    listed = labels(b"banned", b"example")
    names = (NAME, listed) if first else (listed, NAME)
    got = exchange(server, header(questions=2) + names[0] + TYPE_A + names[1] + TYPE_A, source=MANAGED, tcp=tcp)
    assert got is not None
    assert read(got).rcode == FORMERR


@pytest.mark.parametrize("tail", [pytest.param(b"\0", id="1 octet"), pytest.param(MARK * 20, id="180 octets")])
@pytest.mark.parametrize("edns", [pytest.param(None, id="no OPT"), pytest.param(Edns(), id="OPT")])
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_octets_after_the_message_never_go_upstream(
    server: Address, upstream: Upstream, tail: bytes, edns: Edns | None, tcp: bool
) -> None:
    """Smuggling; a fixture checks that nothing that went upstream has the marks."""
    name = f"trailing-{len(tail)}-{edns is None}-{tcp}.example"
    got = exchange(server, query(name, "A", edns=edns) + tail, tcp=tcp)
    assert got is not None
    assert read(got).rcode in (FORMERR, NOERROR)
    for asked in upstream.queries(name):
        assert asked.message.question  # fails on octets behind it


@pytest.mark.parametrize("edns", [pytest.param(None, id="no OPT"), pytest.param(Edns(), id="OPT")])
def test_a_query_behind_a_query_is_not_let_through(server: Address, edns: Edns | None, listed_stays_here: None) -> None:
    """One datagram, one message: a listed name behind it goes nowhere, and gets no answer of its own."""
    with UdpClient(server, MANAGED) as client:
        client.send(query("first.example", "A", ident=1, edns=edns) + query(LISTED, "A", ident=2, edns=edns))
        got = client.drain(0.2)
    assert [octets[:2] for octets in got] in ([b"\0\1"], [])


@pytest.mark.parametrize("rd", [pytest.param(0, id="RD=0"), pytest.param(RD, id="RD=1")])
@pytest.mark.parametrize("ident", [0, 0xFFFF])
def test_formerr_copies_id_and_rd(server: Address, rd: int, ident: int) -> None:
    """The rest of the flags is the server's own: QR, and RA or not."""
    for body in (b"\xc0\x0c", labels(b"l" * 63, b"l" * 63, b"l" * 63, b"m" * 62, b"x") + TYPE_A):
        got = exchange(server, header(ident=ident, flags=rd | 0x0670) + body)
        assert got is not None
        response = read(got)
        assert (response.ident, response.rcode, response.counts) == (ident, FORMERR, (0, 0, 0, 0))
        assert response.flags & ~RA == QR | rd | FORMERR


@pytest.mark.parametrize("opcode", range(16))
@pytest.mark.parametrize("rcode", [pytest.param(0, id="NOERROR"), pytest.param(2, id="SERVFAIL")])
def test_a_response_gets_no_answer(server: Address, opcode: int, rcode: int) -> None:
    """RFC 1035 4.1.1: QR=1 with every opcode and with an error code; two servers make no loop."""
    silence(server, header(flags=QR | RD | opcode << 11 | rcode) + NAME + TYPE_A)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(header(flags=QR | 1, questions=0), id="a bare FORMERR"),
        pytest.param(header(flags=QR, questions=65535), id="a response that cannot be read"),
        pytest.param(header(flags=0xFFFF, questions=1) + NAME + TYPE_A, id="all flags"),
    ],
)
def test_a_malformed_response_gets_no_answer(server: Address, octets: bytes) -> None:
    silence(server, octets)


@pytest.mark.parametrize("flags", [0, 0x0003, 0x2000, 0x7FFF & ~QR])
def test_a_response_over_tcp_gets_no_answer(server: Address, flags: int) -> None:
    """RFC 1035 4.1.1: the connection may end or go on, but the first answer is that to the next query."""
    with TcpClient(server, MANAGED) as client:
        client.send(header(flags=QR | RD | flags) + NAME + TYPE_A)
        client.send(query(LISTED, "A", ident=0xFEFE))
        got = client.receive(2)
    assert got is None or got[:2] == b"\xfe\xfe"


def _forge(source: Address, target: Address, payload: bytes) -> None:
    """Send a datagram whose source is somebody else's address and port."""
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except PermissionError:
        pytest.skip("needs CAP_NET_RAW to forge a source address")
    with raw:
        udp = struct.pack("!4H", source[1], target[1], 8 + len(payload), 0) + payload
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0)
        raw.sendto(ip + socket.inet_aton(source[0]) + socket.inet_aton(target[0]) + udp, target)


@pytest.mark.parametrize(
    "whose", [pytest.param("own", id="the server's own"), pytest.param("upstream", id="upstream's")]
)
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(query(LISTED, "A"), id="a proper query"),
        pytest.param(header() + b"\xc0\x0c", id="a malformed query"),
        pytest.param(query(NAME, "A", opcode=15), id="another opcode"),
    ],
)
def test_a_query_from_a_forged_address_and_port_makes_no_loop(
    server: Address, upstream: Upstream, service: Service, whose: str, payload: bytes
) -> None:
    """Loops of servers: what comes of one datagram is one datagram at most."""
    before = service.metric("dnsfilter_queries_total")
    seen = len(upstream.queries())
    _forge(server if whose == "own" else upstream.address, server, payload)
    time.sleep(0.1)  # a loop would make thousands in this time
    assert service.metric("dnsfilter_queries_total") - before <= 2
    assert len(upstream.queries()) - seen <= 2


def test_source_port_0_gets_no_answer(server: Address, service: Service) -> None:
    """Nobody asks from there (RFC 768); whoever sends to it gets an error from the system."""
    _forge(("127.0.0.9", 0), server, query(LISTED, "A"))


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="rubbish"),
        pytest.param(query("sixty-thousand.example", "A"), id="behind a query"),
        pytest.param(header(additional=1) + labels(b"sixty") + TYPE_A + opt(length=59_000), id="in its OPT record"),
    ],
)
def test_a_datagram_of_60000_octets_does_no_harm(server: Address, start: bytes) -> None:
    """RFC 768."""
    with UdpClient(server) as client:
        client.send((start + MARK * 7_000)[:60_000])
        for octets in client.drain():
            read(octets)


def bomb(records: int) -> bytes:
    """A query whose additional records have owners that are pointers into one long chain of labels."""
    question = labels(b"bomb", *[b"a"] * 110, b"example") + TYPE_A
    body = b"".join(
        struct.pack("!H", 0xC000 | 12 + 2 * (number % 100)) + struct.pack("!HHIH", 1, 1, 0, 0)
        for number in range(records)
    )
    return header(additional=records) + question + body


def test_a_compression_bomb_over_tcp_is_done_with_in_2_seconds(server: Address) -> None:
    """Its names expand to half a megabyte. UDP is served meanwhile."""
    message = bomb(5_000)
    assert len(message) < 65536
    started = time.monotonic()
    with TcpClient(server, MANAGED) as client:
        client.send(message)
        for _ in range(5):
            asked = time.monotonic()
            check_sinkholed(ask(server, LISTED, "A", source=MANAGED))
            assert time.monotonic() - asked < 1
        got = client.receive(2)
    assert time.monotonic() - started < 2
    assert got is None or read(got).rcode in (FORMERR, NOERROR, REFUSED)


def pointer_chain(hops: int) -> bytes:
    """A query with an additional record whose owner takes so many hops, each a legal one."""
    names = header(additional=2) + labels(b"chain", b"example") + TYPE_A
    at = 12
    rdata = b""
    base = len(names) + 11
    for _ in range(hops):
        position = base + len(rdata)
        rdata += struct.pack("!H", 0xC000 | at)
        at = position
    first = b"\0" + struct.pack("!HHIH", 65280, 1, 0, len(rdata)) + rdata
    return names + first + struct.pack("!H", 0xC000 | at) + struct.pack("!HHIH", 1, 1, 0, 4) + bytes(4)


@pytest.mark.parametrize("hops", [1, 60, 2000])
def test_a_long_chain_of_legal_pointers_does_no_harm(server: Address, hops: int) -> None:
    """RFC 1035 4.1.4, RFC 9267 2: served or refused, at once."""
    started = time.monotonic()
    got = exchange(server, pointer_chain(hops), tcp=True)
    assert got is not None
    assert read(got).rcode in (FORMERR, NOERROR, REFUSED)
    assert time.monotonic() - started < 1


def test_tcp_length_0_then_a_good_query_on_a_new_connection(server: Address) -> None:
    """RFC 7766 8."""
    with TcpClient(server) as client:
        client.send_raw(b"\0\0")
        assert ask(server, "after-zero.example", "A", tcp=True).addresses == [address_of("after-zero.example")]


@pytest.mark.parametrize("length", [1, 11])
def test_tcp_message_shorter_than_a_header(server: Address, length: int) -> None:
    """RFC 7766 8: no answer to it; the connection may end."""
    with TcpClient(server, MANAGED) as client:
        client.send(b"\x12" * length)
        client.send(query(LISTED, "A", ident=0xFEFE))
        got = client.receive(2)
    assert got is None or got[:2] == b"\xfe\xfe"


def test_tcp_length_larger_than_what_comes_then_close(server: Address) -> None:
    """RFC 7766 8."""
    for length in (13, 500, 65535):
        with TcpClient(server) as client:
            client.send_raw(struct.pack("!H", length) + query(NAME, "A")[:12])


@pytest.mark.parametrize("abort", [pytest.param(False, id="close"), pytest.param(True, id="reset")])
def test_tcp_client_that_goes_before_its_answer(server: Address, upstream: Upstream, abort: bool) -> None:
    """RFC 7766 6.2.4: the answer is for nobody, and that is no error."""
    upstream.on(f"gone-{abort}.example", [f"gone-{abort}.example 300 IN A 192.0.2.1"])
    with TcpClient(server) as client:
        client.send(*[query(f"gone-{abort}.example", "A", ident=i) for i in range(20)])
        if abort:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", id="HTTP"),
        pytest.param(bytes.fromhex("16030100c8010000c40303") + b"\x5a" * 194, id="TLS hello"),
        pytest.param(b"\0\0\0\x54\xffSMB" + b"\x72" + bytes(75), id="SMB"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="SSH"),
    ],
)
def test_other_protocols_on_the_dns_port_do_no_harm(server: Address, octets: bytes) -> None:
    """RFC 7766 8: what comes back, if anything, is a DNS message."""
    with TcpClient(server) as client:
        client.send_raw(octets)
        client.socket.shutdown(socket.SHUT_WR)
        while (got := client.receive(1)) is not None:
            read(got)


def test_octet_by_octet_over_tcp(server: Address) -> None:
    """RFC 7766 8: messages and their lengths may come in any pieces."""
    message = query(LISTED, "A")
    with TcpClient(server, MANAGED) as client:
        for octet in struct.pack("!H", len(message)) + message:
            client.send_raw(bytes([octet]))
        got = client.receive()
    assert got is not None
    check_sinkholed(read(got))


def test_a_signed_query_with_an_unknown_key_gets_a_response(server: Address) -> None:
    """RFC 8945 5.2, RFC 5625 4.5. The signature is the client's affair: it is judged or left out, not relayed."""
    message = dns.message.make_query("signed.example", "A")
    key = dns.tsig.Key(dns.name.from_text("m4lf0rmed.example"), b"0123456789abcdef")
    message.use_tsig({key.name: key}, key.name)
    got = exchange(server, message.to_wire())
    assert got is not None
    assert got[2] & 0x80
    assert got[:2] == message.id.to_bytes(2, "big")
