"""Queries as octets, and responses read strictly, over UDP and TCP from any loopback address.

A response that does not parse, whose counts lie, that carries octets after its
last record or a second OPT, or that cannot be written again, is a failure here.
"""

import secrets
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype

Address = tuple[str, int]

IN, CH, HS, NONE, ANY_CLASS = 1, 3, 4, 254, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
QR, AA, TC, RD, RA, Z, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010
ECS, COOKIE, KEEPALIVE, PADDING, EDE, NSID = 8, 10, 11, 12, 15, 3  # EDNS option codes
ANSWER, AUTHORITY, ADDITIONAL = 1, 2, 3
OPT = 41
CLIENT_PATIENCE_S = 8.0
RECEIVE_BUFFER = 8 << 20  # of a client's UDP socket: what it loses shall not be its own fault
SO_RCVBUFFORCE = 33  # as SO_RCVBUF, beyond net.core.rmem_max; needs CAP_NET_ADMIN


@dataclass(frozen=True, slots=True)
class Edns:
    """What the OPT record of a query says (RFC 6891)."""

    size: int = 1232
    do: bool = False
    version: int = 0
    flags: int = 0  # the 15 unassigned bits below DO
    options: tuple[tuple[int, bytes], ...] = ()

    def octets(self) -> bytes:
        """The OPT record."""
        options = b"".join(struct.pack("!HH", code, len(value)) + value for code, value in self.options)
        flags = self.flags | (0x8000 if self.do else 0)
        return struct.pack("!BHHBBHH", 0, OPT, self.size, 0, self.version, flags, len(options)) + options


def type_code(rdtype: str | int) -> int:
    """The number of a type: "A", "TYPE65400" or the number itself."""
    return rdtype if isinstance(rdtype, int) else int(dns.rdatatype.from_text(rdtype))


def wire(name: str | bytes) -> bytes:
    """A name in wire form; octets stay as they are."""
    if isinstance(name, bytes):
        return name
    octets = dns.name.from_text(name).to_wire()
    assert octets is not None
    return octets


def labels(*parts: bytes) -> bytes:
    """A name in wire form from labels that text would not carry unharmed."""
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def query(
    name: str | bytes,
    rdtype: str | int = "A",
    *,
    ident: int | None = None,
    rd: bool = True,
    flags: int = 0,
    opcode: int = 0,
    rdclass: int = IN,
    edns: Edns | None = None,
) -> bytes:
    """One query. flags: further header bits; ident: random if None."""
    ident = secrets.randbelow(65536) if ident is None else ident
    bits = flags | (RD if rd else 0) | opcode << 11
    header = struct.pack("!6H", ident, bits, 1, 0, 0, 0 if edns is None else 1)
    question = wire(name) + struct.pack("!HH", type_code(rdtype), rdclass)
    return header + question + (b"" if edns is None else edns.octets())


def question_of(octets: bytes) -> bytes:
    """The octets of the first question, as sent."""
    end = 12
    while octets[end]:
        end += octets[end] + 1
    return octets[12 : end + 5]


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it stands in a message."""

    section: int
    owner: bytes  # wire form, pointers followed
    rdtype: int
    rdclass: int
    ttl: int
    rdata: bytes  # as sent

    @property
    def name(self) -> str:
        """The owner as text, lower case, with its final dot."""
        return text_of(self.owner)


def text_of(owner: bytes) -> str:
    """A wire name as lower-case text with its final dot."""
    name, _ = dns.name.from_wire(owner, 0)
    return name.to_text().lower()


def _name_at(octets: bytes, at: int) -> tuple[bytes, int]:
    """Read a name; pointers have to go backwards (RFC 1035 4.1.4). Return it uncompressed, and the offset behind it."""
    out = b""
    behind = -1
    lowest = at
    while True:
        length = octets[at]
        if length >= 0xC0:
            if behind < 0:
                behind = at + 2
            at = (length & 0x3F) << 8 | octets[at + 1]
            assert 12 <= at < lowest, "a compression pointer that does not go back"
            lowest = at
            continue
        assert length < 64, "a label type that does not exist"
        out += octets[at : at + 1 + length]
        at += 1 + length
        if length == 0:
            break
    assert len(out) <= 255, "a name of more than 255 octets"
    return out, at if behind < 0 else behind


def walk(octets: bytes) -> tuple[Record, ...]:
    """The records of a message; fail where it is not well formed."""
    return tuple(_records(octets))


def _records(octets: bytes) -> Iterator[Record]:
    questions, *counts = struct.unpack_from("!4H", octets, 4)
    at = 12
    for _ in range(questions):
        _, at = _name_at(octets, at)
        at += 4
    for section, count in enumerate(counts, start=ANSWER):
        for _ in range(count):
            owner, at = _name_at(octets, at)
            rdtype, rdclass, ttl, length = struct.unpack_from("!HHIH", octets, at)
            at += 10
            assert at + length <= len(octets), "a record longer than its message"
            yield Record(section, owner, rdtype, rdclass, ttl, octets[at : at + length])
            at += length
    assert at == len(octets), f"{len(octets) - at} octets behind the last record"


@dataclass(frozen=True, slots=True)
class Response:
    """A response that has been read strictly."""

    octets: bytes
    message: dns.message.Message
    records: tuple[Record, ...]

    @property
    def ident(self) -> int:
        """The id."""
        return int.from_bytes(self.octets[:2], "big")

    @property
    def flags(self) -> int:
        """The 16 bits of flags, opcode and rcode."""
        return int.from_bytes(self.octets[2:4], "big")

    @property
    def opcode(self) -> int:
        """The opcode."""
        return self.flags >> 11 & 15

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Questions, answers, authority and additional records."""
        first, second, third, fourth = struct.unpack_from("!4H", self.octets, 4)
        return first, second, third, fourth

    @property
    def rcode(self) -> int:
        """The rcode, with the upper bits from OPT."""
        upper = 0 if self.opt is None else self.opt.ttl >> 24
        return upper << 4 | self.flags & 15

    @property
    def question(self) -> bytes:
        """The question's octets, as sent."""
        return question_of(self.octets)

    @property
    def opt(self) -> Record | None:
        """The OPT record."""
        return next((record for record in self.records if record.rdtype == OPT), None)

    @property
    def do(self) -> bool:
        """Whether OPT has the DO bit."""
        return self.opt is not None and bool(self.opt.ttl & 0x8000)

    @property
    def options(self) -> list[tuple[int, bytes]]:
        """EDNS options: code and octets."""
        out = []
        data = b"" if self.opt is None else self.opt.rdata
        while data:
            code, length = struct.unpack_from("!HH", data)
            assert len(data) >= 4 + length, "an EDNS option longer than its record"
            out.append((code, data[4 : 4 + length]))
            data = data[4 + length :]
        return out

    @property
    def ede(self) -> list[tuple[int, str]]:
        """Extended errors: code and text (RFC 8914)."""
        return [(int.from_bytes(value[:2], "big"), value[2:].decode()) for code, value in self.options if code == EDE]

    def section(self, section: int, rdtype: str | int | None = None) -> list[Record]:
        """The records of a section, of a type or all but OPT."""
        wanted = None if rdtype is None else type_code(rdtype)
        return [
            record
            for record in self.records
            if record.section == section and record.rdtype != OPT and wanted in (None, record.rdtype)
        ]

    @property
    def answer(self) -> list[Record]:
        """The records of the answer section."""
        return self.section(ANSWER)

    @property
    def addresses(self) -> list[str]:
        """The addresses in the answer section, in order."""
        out = []
        for record in self.answer:
            if record.rdtype in (1, 28):
                family = socket.AF_INET if record.rdtype == 1 else socket.AF_INET6
                out.append(socket.inet_ntop(family, record.rdata))
        return out

    @property
    def texts(self) -> list[str]:
        """The answer section as text: "owner ttl class type rdata", owners in lower case."""
        out = []
        for rrset in self.message.answer:
            for rdata in rrset:
                kind = dns.rdatatype.to_text(rrset.rdtype)
                out.append(f"{rrset.name.to_text().lower()} {rrset.ttl} IN {kind} {rdata.to_text()}")
        return out

    @property
    def soa(self) -> Record | None:
        """The SOA record of the authority section."""
        found = self.section(AUTHORITY, "SOA")
        return found[0] if found else None

    @property
    def lowest_ttl(self) -> int:
        """The lowest TTL of all records but OPT."""
        return min(record.ttl for record in self.records if record.rdtype != OPT)


def read(octets: bytes) -> Response:
    """Read a response strictly, by a walk of our own and by dnspython, and write it again."""
    assert len(octets) >= 12, f"a response of {len(octets)} octets"
    records = walk(octets)
    opts = [record for record in records if record.rdtype == OPT]
    assert len(opts) <= 1, "two OPT records (RFC 6891 6.1.1)"
    for record in opts:
        assert record.section == ADDITIONAL, "OPT outside the additional section"
        assert record.owner == b"\0", "OPT with an owner (RFC 6891 6.1.2)"
        assert record is records[-1], "OPT is not the last record"
    message = dns.message.from_wire(octets, one_rr_per_rrset=True)
    again = dns.message.from_wire(message.to_wire(max_size=65535), one_rr_per_rrset=True)
    assert again == message
    return Response(octets, message, records)


def check_echo(sent: bytes, response: Response) -> None:
    """A response belongs to its query: id, QR, opcode, RD and CD, the question letter for letter; Z clear."""
    asked = int.from_bytes(sent[2:4], "big")
    assert response.octets[:2] == sent[:2], "another id"
    assert response.flags & QR, "QR is 0"
    assert response.opcode == asked >> 11 & 15, "another opcode"
    assert response.flags & RD == asked & RD, "RD is not as asked"
    assert not response.flags & Z, "Z is set (RFC 1035 4.1.1)"
    assert response.counts[0] == 1, "not one question"
    assert response.question == question_of(sent), "another question"


def _socket(kind: socket.SocketKind, source: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    made = socket.socket(family, kind)
    made.bind((source, 0))
    return made


class UdpClient:
    """One UDP socket of a client, connected to the service."""

    def __init__(self, server: Address, source: str = "127.0.0.1") -> None:
        self.socket = _socket(socket.SOCK_DGRAM, source)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.socket.connect(server)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def send(self, octets: bytes) -> None:
        """Send one datagram."""
        self.socket.send(octets)

    def receive(self, timeout_s: float = CLIENT_PATIENCE_S) -> bytes | None:
        """Return the next datagram; None: none came in time."""
        self.socket.settimeout(timeout_s)
        try:
            return self.socket.recv(65535)
        except TimeoutError:
            return None

    def drain(self, quiet_s: float = 0.05) -> list[bytes]:
        """Return what comes until nothing comes for `quiet_s`."""
        out = []
        while (octets := self.receive(quiet_s)) is not None:
            out.append(octets)
        return out

    def gather(self, count: int, timeout_s: float = CLIENT_PATIENCE_S) -> dict[int, bytes]:
        """Return up to `count` responses by id; fail on two with the same id."""
        until = time.monotonic() + timeout_s
        out: dict[int, bytes] = {}
        while len(out) < count and (left := until - time.monotonic()) > 0:
            octets = self.receive(left)
            if octets is not None:
                ident = int.from_bytes(octets[:2], "big")
                assert ident not in out, f"two answers with id {ident}"
                out[ident] = octets
        return out


class TcpClient:
    """One TCP connection of a client."""

    def __init__(self, server: Address, source: str = "127.0.0.1", *, buffer: int | None = None) -> None:
        self.socket = _socket(socket.SOCK_STREAM, source)
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(CLIENT_PATIENCE_S)
        self.socket.connect(server)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def send(self, *messages: bytes) -> None:
        """Send messages with their length prefixes, in one write."""
        self.send_raw(b"".join(struct.pack("!H", len(octets)) + octets for octets in messages))

    def send_raw(self, octets: bytes) -> None:
        """Send octets as they are."""
        self.socket.settimeout(CLIENT_PATIENCE_S)
        self.socket.sendall(octets)

    def _exactly(self, count: int, until: float) -> bytes | None:
        out = b""
        while len(out) < count:
            left = until - time.monotonic()
            if left <= 0:
                return None
            self.socket.settimeout(left)
            try:
                piece = self.socket.recv(count - len(out))
            except (TimeoutError, ConnectionResetError):
                return None
            if not piece:
                return None
            out += piece
        return out

    def receive(self, timeout_s: float = CLIENT_PATIENCE_S) -> bytes | None:
        """Return the next message; None: closed, or none came in time."""
        until = time.monotonic() + timeout_s
        length = self._exactly(2, until)
        return None if length is None else self._exactly(int.from_bytes(length, "big"), until)

    def gather(self, count: int, timeout_s: float = CLIENT_PATIENCE_S) -> list[bytes]:
        """Return up to `count` messages in the order in which they come."""
        until = time.monotonic() + timeout_s
        out: list[bytes] = []
        while len(out) < count and (octets := self.receive(max(0.0, until - time.monotonic()))) is not None:
            out.append(octets)
        return out


def exchange(
    server: Address,
    octets: bytes,
    *,
    source: str = "127.0.0.1",
    tcp: bool = False,
    timeout_s: float = CLIENT_PATIENCE_S,
) -> bytes | None:
    """Send one message and return the first one back; None: silence, or TCP was closed."""
    client = TcpClient(server, source) if tcp else UdpClient(server, source)
    with client:
        client.send(octets)
        return client.receive(timeout_s)


def ask(
    server: Address,
    name: str | bytes,
    rdtype: str | int = "A",
    *,
    source: str = "127.0.0.1",
    tcp: bool = False,
    timeout_s: float = CLIENT_PATIENCE_S,
    ident: int | None = None,
    rd: bool = True,
    flags: int = 0,
    rdclass: int = IN,
    edns: Edns | None = None,
) -> Response:
    """Ask one question; the response has to come, to belong to it and to keep RFC 6891's rules on OPT."""
    sent = query(name, rdtype, ident=ident, rd=rd, flags=flags, rdclass=rdclass, edns=edns)
    octets = exchange(server, sent, source=source, tcp=tcp, timeout_s=timeout_s)
    assert octets is not None, f"no answer to {name!r} {rdtype} from {source}"
    response = read(octets)
    check_echo(sent, response)
    if edns is None:
        assert response.opt is None, "OPT in the response to a query without (RFC 6891 7)"
        limit = 512
    else:
        assert response.opt is not None, "no OPT in the response to a query with one (RFC 6891 6.1.1)"
        assert response.opt.ttl >> 16 & 255 == 0, "an EDNS version that does not exist"
        limit = max(512, edns.size)
    assert tcp or len(octets) <= limit, f"{len(octets)} octets for a client that takes {limit}"
    return response
