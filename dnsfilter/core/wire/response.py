"""An upstream's response, walked strictly before anything of it is believed or kept.

`read` steps over every record, follows every name and checks the inner lengths of the
types whose rdata may hold names, so that what is passed on to clients is well formed.
Pointers lead to names read before and nowhere else (RFC 1035 section 4.1.4, RFC 9267).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from dnsfilter.core.names import MAX_NAME, ROOT, Name
from dnsfilter.core.wire import codes
from dnsfilter.core.wire.query import HEADER

Names = dict[int, Name]  # by offset


class FormError(ValueError):
    """Octets that make no message; `offset` is where they stop making sense."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"{reason} at octet {offset}")
        self.offset = offset


@dataclass(slots=True)
class Record:
    """Where one record lies in its message, and what was read of it."""

    section: int  # 0 answer, 1 authority, 2 additional
    owner: Name  # folded
    rtype: int
    ttl: int  # seconds, as received
    start: int  # of the owner
    ttl_at: int
    rdata_at: int
    end: int
    target: Name | None  # the first name in its rdata, if its type has one
    minimum: int = 0  # seconds; of a SOA record, the smaller of its TTL and its MINIMUM field


@dataclass(slots=True)
class Response:
    """A response that was walked to its end."""

    octets: bytes
    rcode: int  # extended by OPT
    flags: int  # third header octet
    flags2: int  # fourth
    body_at: int  # the first octet behind the question
    records: list[Record] = field(default_factory=list)  # all but OPT
    is_plain: bool = True  # no rdata holds a pointer that it may not (RFC 3597 section 4)
    opt_at: int | None = None  # where OPT starts
    opt_end: int = 0


def answers(id_: bytes, question: bytes, octets: bytes) -> bool:
    """Tell whether `octets` is a response to a query: id, QR, opcode and question (RFC 5452 section 9.1).

    question: name (folded), type and class, as asked. Letter case does not count (RFC 4343). An
    error without any question is an answer too: some servers send no more than a header.
    """
    if len(octets) < 12 or octets[:2] != id_ or octets[2] & 0xF8 != codes.QR:
        return False
    if octets[4:6] == b"\0\0":
        return octets[4:] == bytes(8) and octets[3] & 15 not in (codes.NOERROR, codes.NXDOMAIN)
    if octets[4:6] != b"\0\1":
        return False
    echoed = octets[12 : 12 + len(question)]
    return echoed == question or (echoed[-4:] == question[-4:] and echoed[:-4].lower() == question[:-4])


def read(octets: bytes, qname: Name) -> Response:
    """Walk a response that `answers` accepted. Raises FormError.

    qname: the folded name asked, which the question section holds.
    """
    try:
        return _read(octets, qname)
    except IndexError:
        raise FormError(len(octets), "a record runs off the end") from None


def _read(octets: bytes, qname: Name) -> Response:
    rcode = octets[3] & 15
    if octets[4:6] == b"\0\0":
        return Response(octets, rcode, octets[2], octets[3], 12)
    at = 12 + len(qname) + 4
    found = Response(octets, rcode, octets[2], octets[3], at)
    names = question_names(qname)
    size = len(octets)
    for section, count_at in enumerate((6, 8, 10)):
        for _ in range(octets[count_at] << 8 | octets[count_at + 1]):
            start = at
            if octets[at] == 0xC0 and octets[at + 1] == 12:
                owner, at = qname, at + 2
            else:
                owner, at = read_name(octets, at, names)
            rtype = octets[at] << 8 | octets[at + 1]
            rdata_at = at + 10
            end = rdata_at + (octets[at + 8] << 8 | octets[at + 9])
            if end > size:
                raise FormError(at + 8, "rdata runs off the end")
            if rtype == codes.OPT:
                if section != 2 or found.opt_at is not None or owner != b"\0":
                    raise FormError(start, "a second or misplaced OPT record")
                found.opt_at, found.opt_end = start, end
                found.rcode |= octets[at + 4] << 4
                _options(octets, rdata_at, end)
            else:
                if not rtype or 128 <= rtype <= 255:  # RFC 6895 section 3.1: asked for, or between servers
                    raise FormError(at, "a type that no record has")
                if octets[at + 2 : at + 4] != b"\0\1":
                    raise FormError(at + 2, "a record of another class")
                check = LAYOUTS.get(rtype)
                target = check(octets, rdata_at, end, names) if check else None
                ttl = int.from_bytes(octets[at + 4 : at + 8], "big")
                if rtype in _UNCOMPRESSED and _is_compressed(octets, rtype, rdata_at, end):
                    found.is_plain = False
                record = Record(section, owner, rtype, ttl, start, at + 4, rdata_at, end, target)
                if rtype == codes.SOA and target is not None:
                    record.minimum = min(ttl, int.from_bytes(octets[end - 4 : end], "big"))
                found.records.append(record)
            at = end
    if at != size:
        raise FormError(at, "octets behind the last record")
    return found


def question_names(qname: Name) -> Names:
    """Return the names that a question for `qname` offers to pointers."""
    names, offset = {}, 0
    while offset < len(qname):
        names[HEADER + offset] = qname[offset:]
        offset += 1 + qname[offset]
    return names


def _options(octets: bytes, at: int, end: int) -> None:
    while at < end:
        at += 4 + (octets[at + 2] << 8 | octets[at + 3])
    if at != end:
        raise FormError(at, "an EDNS option runs off its record")


def read_name(octets: bytes, at: int, names: Names) -> tuple[Name, int]:
    """Return the folded name at `at` and where it ends.

    names: every name read so far, by the offset of each of its labels. A pointer must lead to
    one of them: what it could lead to else (a TTL, say) may read otherwise when it is sent on.
    """
    parts: list[bytes] = []
    starts: list[int] = []
    size = 0
    while True:
        length = octets[at]
        if length == 0:
            tail, after = ROOT, at + 1
            break
        if length >= 0xC0:
            pointer = (length & 0x3F) << 8 | octets[at + 1]
            found = names.get(pointer)
            if found is None:
                raise FormError(at, "a compression pointer that does not lead back to a name")
            tail, after = found, at + 2
            break
        size += 1 + length
        if length > 63 or size >= MAX_NAME:
            raise FormError(at, "a label type that does not exist, or a name that does not end")
        starts.append(at)
        parts.append(octets[at : at + 1 + length])
        at += 1 + length
    name = b"".join(parts).lower() + tail
    if len(name) > MAX_NAME:
        raise FormError(at, "a name longer than 255 octets")
    names[at] = tail
    offset = 0
    for start in starts:
        names[start] = name[offset:]
        offset += 1 + octets[start]
    return name, after


# How rdata is built, for the types whose rdata may hold names or has a fixed form.
# Each check raises FormError and returns the first name, or None.
Check = Callable[[bytes, int, int, Names], Name | None]


def _layout(pattern: str) -> Check:
    """Make a check from a pattern of fields: a number of octets, n a name, s a character-string, * the rest."""
    fields = [int(part) if part.isdigit() else part for part in pattern.split()]

    def check(octets: bytes, at: int, end: int, names: Names) -> Name | None:
        first: Name | None = None
        for part in fields:
            if isinstance(part, int):
                at += part
            elif part == "n":
                name, at = read_name(octets, at, names)
                first = name if first is None else first
            elif part == "s":
                at += 1 + octets[at]
            else:
                return first if at <= end else _wrong(at)
            if at > end:
                _wrong(at)
        return first if at == end else _wrong(at)

    return check


def _strings(octets: bytes, at: int, end: int, _names: Names) -> None:
    while at < end:
        at += 1 + octets[at]
    if at != end:
        _wrong(at)


def _service(octets: bytes, at: int, end: int, names: Names) -> Name | None:
    """SVCB and HTTPS: priority, target, then keys that rise (RFC 9460 section 2.2)."""
    target, at = read_name(octets, at + 2, names)
    last = -1
    while at < end:
        key = octets[at] << 8 | octets[at + 1]
        at += 4 + (octets[at + 2] << 8 | octets[at + 3])
        if key <= last:
            _wrong(at)
        last = key
    return target if at == end else _wrong(at)


def _wrong(at: int) -> NoReturn:
    raise FormError(at, "rdata that does not fit its type")


_NAME = _layout("n")
LAYOUTS: dict[int, Check] = {
    codes.A: _layout("4"),
    codes.NS: _NAME,
    3: _NAME,  # MD
    4: _NAME,  # MF
    codes.CNAME: _NAME,
    codes.SOA: _layout("n n 20"),
    7: _NAME,  # MB
    8: _NAME,  # MG
    9: _NAME,  # MR
    codes.PTR: _NAME,
    codes.HINFO: _layout("s s"),
    14: _layout("n n"),  # MINFO
    codes.MX: _layout("2 n"),
    **dict.fromkeys((codes.TXT, 56, 99, 258, 261, 262), _strings),  # NINFO, SPF, AVC, RESINFO, WALLET
    17: _layout("n n"),  # RP
    18: _layout("2 n"),  # AFSDB
    21: _layout("2 n"),  # RT
    24: _layout("18 n *"),  # SIG
    26: _layout("2 n n"),  # PX
    codes.AAAA: _layout("16"),
    30: _layout("n *"),  # NXT
    codes.SRV: _layout("6 n"),
    35: _layout("4 s s s n"),  # NAPTR
    36: _layout("2 n"),  # KX
    codes.DNAME: _NAME,
    43: _layout("4 *"),  # DS
    46: _layout("18 n *"),  # RRSIG
    47: _layout("n *"),  # NSEC
    48: _layout("4 *"),  # DNSKEY
    codes.SVCB: _service,
    codes.HTTPS: _service,
    257: _layout("1 s *"),  # CAA
}

# Where the names in rdata are, for writing a record anew without compression.
_NAMES_IN_RDATA = {
    **dict.fromkeys((codes.NS, 3, 4, codes.CNAME, 7, 8, 9, codes.PTR, codes.DNAME), (0, 1)),
    **dict.fromkeys((codes.MX, 18, 21, 36), (2, 1)),
    **dict.fromkeys((14, 17), (0, 2)),
    codes.SOA: (0, 2),
    26: (2, 2),
    codes.SRV: (6, 1),
    24: (18, 1),
    46: (18, 1),
    30: (0, 1),
    47: (0, 1),
    codes.SVCB: (2, 1),
    codes.HTTPS: (2, 1),
}


# Types since RFC 1035 whose names may be compressed by nobody (RFC 3597 section 4, RFC 9460 section 2.2).
_UNCOMPRESSED = frozenset({24, 26, 30, codes.SRV, 35, 36, codes.DNAME, 46, 47, codes.SVCB, codes.HTTPS})


def uncompressed(response: Response, record: Record) -> bytes:
    """Return the record written out, no name in it compressed, all in the letter case that it came in.

    Signatures cover the names in some types' rdata as they are spelt (RFC 6840 section 5.1).
    """
    octets = response.octets
    rdata = _rdata(octets, record.rtype, record.rdata_at, record.end)
    owner, _ = _spelt(octets, record.start)
    return b"".join((owner, octets[record.ttl_at - 4 : record.ttl_at + 4], len(rdata).to_bytes(2, "big"), rdata))


def _is_compressed(octets: bytes, rtype: int, start: int, end: int) -> bool:
    return len(_rdata(octets, rtype, start, end)) != end - start


def _rdata(octets: bytes, rtype: int, start: int, end: int) -> bytes:
    """Return rdata that was checked, its names not compressed."""
    if rtype == 35:  # NAPTR: its name comes behind three strings
        at = start + 4
        for _ in range(3):
            at += 1 + octets[at]
        count = 1
    elif rtype in _NAMES_IN_RDATA:
        skip, count = _NAMES_IN_RDATA[rtype]
        at = start + skip
    else:
        return octets[start:end]
    parts = [octets[start:at]]
    for _ in range(count):
        name, at = _spelt(octets, at)
        parts.append(name)
    parts.append(octets[at:end])
    return b"".join(parts)


def _spelt(octets: bytes, at: int) -> tuple[bytes, int]:
    """Return a name that `read_name` has read before, not folded, and where it ends."""
    parts, end = [], 0
    while length := octets[at]:
        if length >= 0xC0:
            end = end or at + 2
            at = (length & 0x3F) << 8 | octets[at + 1]
        else:
            parts.append(octets[at : at + 1 + length])
            at += 1 + length
    return b"".join(parts) + ROOT, end or at + 1
