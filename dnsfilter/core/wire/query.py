"""A query's octets, read strictly: what is not plainly right is an error the client is told of.

Every octet comes from the network. Work is bounded by the message's length: names in
the question may not be compressed, other names are stepped over and never followed.
"""

from dataclasses import dataclass

from dnsfilter.core.names import MAX_NAME, ROOT, Name
from dnsfilter.core.wire import codes

_NO_QUESTION = b"\0\0\0\0\0\0\0\1"
_ONE_QUESTION = b"\0\1\0\0\0\0\0\0"
_WITH_OPT = b"\0\1\0\0\0\0\0\1"
HEADER = 12


class NotAQuery(Exception):
    """Shorter than a header, or a response: gets no answer at all, or servers would talk for ever."""


class BadQuery(Exception):
    """Gets an answer of a header alone, with this rcode."""

    def __init__(self, rcode: int) -> None:
        super().__init__(codes.RCODE_NAMES[rcode])
        self.rcode = rcode


@dataclass(slots=True)  # this and Query are made for each packet; frozen ones would cost three times as much
class Edns:
    """What the query's OPT record says (RFC 6891 section 6.1.2)."""

    udp_size: int  # octets, as offered
    version: int
    do: bool
    has_options: bool
    is_malformed: bool = False  # options that cannot be read: FORMERR, with OPT (RFC 6891 section 7)
    cookie: bytes = b""  # the client's 8 octets, and ours of earlier, if any (RFC 7873 section 4)
    has_keepalive: bool = False  # the client keeps its TCP connection if told for how long (RFC 7828)
    reply: bytes = b""  # options that go back with every answer to this query


@dataclass(slots=True)
class Query:
    """One question, ready to be decided on."""

    id: bytes  # two octets
    flags: int  # RD of the third header octet
    flags2: int  # AD and CD of the fourth
    question: bytes  # name, type and class, spelt as asked; empty: only a cookie is wanted (RFC 7873 section 5.4)
    name: Name  # folded
    qtype: int
    qclass: int
    edns: Edns | None

    @property
    def do(self) -> bool:
        """DNSSEC records are wanted (RFC 3225)."""
        return self.edns is not None and self.edns.do

    @property
    def cd(self) -> bool:
        """Checking is disabled (RFC 4035 section 3.1.6)."""
        return bool(self.flags2 & codes.CD)

    @property
    def udp_limit(self) -> int:
        """The largest UDP response in octets (RFC 6891 section 6.2.3, RFC 9715)."""
        if self.edns is None:
            return codes.MIN_UDP_SIZE
        return min(max(self.edns.udp_size, codes.MIN_UDP_SIZE), codes.UDP_SIZE)


def parse(message: bytes) -> Query:
    """Read one query. Raises NotAQuery and BadQuery.

    message: at least the whole message; octets behind its last record are an error.
    """
    if len(message) < HEADER or message[2] & codes.QR:
        raise NotAQuery
    if opcode := message[2] >> 3 & 15:
        raise BadQuery(codes.REFUSED if opcode in (codes.NOTIFY, codes.UPDATE) else codes.NOTIMP)
    counts = message[4:HEADER]
    if counts[:2] != b"\0\1":  # RFC 9619: exactly one question
        return _cookie_query(message)
    at = HEADER
    try:
        while length := message[at]:
            if length > 63:
                raise BadQuery(codes.FORMERR)
            at += length + 1
        end = at + 5
        if at >= HEADER + MAX_NAME or end > len(message):
            raise BadQuery(codes.FORMERR)
        if counts == _ONE_QUESTION:
            edns = None
            if end != len(message):
                raise BadQuery(codes.FORMERR)
        elif counts == _WITH_OPT and message[end : end + 3] == b"\0\0\x29":
            edns = _read_opt(message, end + 1, len(message))
        else:
            edns = _walk(message, end, counts)
    except IndexError:
        raise BadQuery(codes.FORMERR) from None
    return Query(
        id=message[:2],
        flags=message[2] & codes.RD,
        flags2=message[3] & (codes.AD | codes.CD),
        question=message[HEADER:end],
        name=message[HEADER : at + 1].lower(),
        qtype=message[at + 1] << 8 | message[at + 2],
        qclass=message[at + 3] << 8 | message[at + 4],
        edns=edns,
    )


def _cookie_query(message: bytes) -> Query:
    """Read a query without any question: all it may hold is a cookie. Raises BadQuery, IndexError."""
    if message[4:HEADER] == _NO_QUESTION and message[HEADER : HEADER + 3] == b"\0\0\x29" and len(message) > HEADER + 10:
        edns = _read_opt(message, HEADER + 1, len(message))
        if edns.cookie:
            return Query(message[:2], message[2] & codes.RD, message[3] & codes.CD, b"", ROOT, 0, codes.IN, edns)
    raise BadQuery(codes.FORMERR)


def _read_opt(message: bytes, at: int, end: int) -> Edns:
    """Read the OPT record whose type field starts at `at`; it must reach exactly to `end`."""
    length = message[at + 8] << 8 | message[at + 9]
    option = at + 10
    if option + length != end:
        raise BadQuery(codes.FORMERR)
    size, version, do = message[at + 2] << 8 | message[at + 3], message[at + 5], message[at + 6] & codes.DO != 0
    edns = Edns(size, version, do, length > 0)
    if length:
        _read_options(edns, message, option, end)
    return edns


def _read_options(edns: Edns, message: bytes, at: int, end: int) -> None:
    """Read the options that are acted on; all must fill the octets exactly.

    A cookie has 8 octets of the client, and 8 to 32 of ours (RFC 7873 section 5.2.2). Of several the
    first counts. A client's keepalive has no octets; what it has is not looked at (RFC 7828 section 3.2.1).
    """
    while at + 4 <= end:
        code = message[at] << 8 | message[at + 1]
        size = message[at + 2] << 8 | message[at + 3]
        at += 4
        if code == codes.COOKIE and not edns.cookie:
            edns.is_malformed |= size != 8 and not 16 <= size <= 40
            edns.cookie = message[at : at + size]
        elif code == codes.KEEPALIVE:
            edns.has_keepalive = True
        at += size
    edns.is_malformed |= at != end


def _walk(message: bytes, at: int, counts: bytes) -> Edns | None:
    """Step over all records behind the question and return what the one OPT record says."""
    edns = None
    answers_and_authorities = (counts[2] << 8 | counts[3]) + (counts[4] << 8 | counts[5])
    total = answers_and_authorities + (counts[6] << 8 | counts[7])
    for number in range(total):
        owner = at
        at = skip_name(message, at)
        rdata = at + 10
        end = rdata + (message[at + 8] << 8 | message[at + 9])
        if end > len(message):
            raise BadQuery(codes.FORMERR)
        if message[at : at + 2] == b"\0\x29":
            if edns is not None or number < answers_and_authorities or message[owner]:
                raise BadQuery(codes.FORMERR)  # one OPT, additional, of the root (RFC 6891 section 6.1.1)
            edns = _read_opt(message, at, end)
        at = end
    if at != len(message):
        raise BadQuery(codes.FORMERR)
    return edns


def skip_name(message: bytes, at: int) -> int:
    """Return where the name at `at` ends, without following pointers. Raises BadQuery, IndexError."""
    while length := message[at]:
        if length >= 0xC0:
            return at + 2
        if length > 63:
            raise BadQuery(codes.FORMERR)
        at += length + 1
    return at + 1
