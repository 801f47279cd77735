"""Answers without the keys of Encrypted Client Hello: for sites whose firewall reads the names in TLS handshakes.

HTTPS and SVCB records carry the keys as their parameter `ech` (RFC 9848). A client that gets none
says the name in the clear. All else of an answer stays as it is.
"""

from collections.abc import Iterator

from dnsfilter.core.cache import Additional, Entry
from dnsfilter.core.names import Name
from dnsfilter.core.wire import codes
from dnsfilter.core.wire.framing import MAX_MESSAGE
from dnsfilter.core.wire.query import HEADER
from dnsfilter.core.wire.response import Record, Response, uncompressed

_MANDATORY, _ECH = b"\0\0", b"\0\5"  # keys of parameters (RFC 9460 section 14.3.2)
_SERVICES = frozenset(rtype.to_bytes(2, "big") for rtype in (codes.SVCB, codes.HTTPS))


def without_ech(entry: Entry, qname: Name) -> Entry:
    """Return the answer for clients that get no `ech`: the entry itself where it has none.

    What is found is noted in the entry, so that it is made once.
    qname: the name asked, folded; compression pointers may lead into it.
    """
    if entry.is_bare:
        return entry
    if entry.bare is None:
        changed = dict(_changed(entry))
        if not changed:
            entry.is_bare = True
            return entry
        entry.bare = _Rewriting(entry, qname, changed).entry()
    return entry.bare


def _changed(entry: Entry) -> Iterator[tuple[int, bytes]]:
    """Yield the number of each record with `ech`, and its rdata without."""
    body = entry.body
    for number, (at, _ttl) in enumerate(entry.ttls):
        if body[at - 4 : at - 2] in _SERVICES:
            rdata = body[at + 6 : at + 6 + int.from_bytes(body[at + 4 : at + 6], "big")]
            fewer = stripped(rdata)
            if fewer is not None:
                yield number, fewer


def stripped(rdata: bytes) -> bytes | None:
    """Return rdata of an HTTPS or SVCB record without `ech`, and without its mention as mandatory; None: it has none.

    The alias form should have no parameters (RFC 9460 section 2.4.2): it loses this one all the same.
    """
    at = _parameters_at(rdata)
    kept, has_ech = [rdata[:at]], False
    while at + 4 <= len(rdata):
        key, end = rdata[at : at + 2], at + 4 + (rdata[at + 2] << 8 | rdata[at + 3])
        if key == _ECH:
            has_ech = True
        else:
            kept.append(_optional(rdata[at:end]) if key == _MANDATORY else rdata[at:end])
        at = end
    return b"".join((*kept, rdata[at:])) if has_ech else None


def _parameters_at(rdata: bytes) -> int:
    """Return where parameters start: behind the priority and the target, which is not compressed."""
    at = 2
    while at < len(rdata) and rdata[at]:
        at += 1 + rdata[at]
    return at + 1


def _optional(mandatory: bytes) -> bytes:
    """Return the list of mandatory keys without `ech`; nothing where that was all (RFC 9460 section 8)."""
    keys = [mandatory[at : at + 2] for at in range(4, len(mandatory), 2)]
    if _ECH not in keys:
        return mandatory
    left = b"".join(key for key in keys if key != _ECH)
    return _MANDATORY + len(left).to_bytes(2, "big") + left if left else b""


class _Rewriting:
    """One answer being written anew.

    All before the first change stays where it is, so that pointers to it stay right. Names behind it
    are written out: what they point to may have moved, or be gone with a signature.
    """

    def __init__(self, entry: Entry, qname: Name, changed: dict[int, bytes]) -> None:
        self._entry = entry
        self._changed = changed
        head = bytes(HEADER) + qname + b"\0\0\0\1"
        self._body_at = len(head)
        self._message = Response(head + entry.body, entry.rcode, 0, 0, len(head))
        self._records = list(self._all_records())
        self._unsigned = self._signatures()
        first = min(*self._unsigned, *changed) if self._unsigned else min(changed)
        self._first, found = first, self._records[first]
        self._fixed = found.start  # the octets of the message that stay where they are
        if first in changed:
            self._fixed = found.rdata_at + _parameters_at(self._rdata(found))

    def _all_records(self) -> Iterator[Record]:
        octets, start = self._message.octets, self._body_at
        ends = [int.from_bytes(self._entry.counts[at : at + 2], "big") for at in (0, 2)]
        for number, (at, ttl) in enumerate(self._entry.ttls):
            ttl_at = self._body_at + at
            rtype = int.from_bytes(octets[ttl_at - 4 : ttl_at - 2], "big")
            end = ttl_at + 6 + int.from_bytes(octets[ttl_at + 4 : ttl_at + 6], "big")
            section = (number >= ends[0]) + (number >= sum(ends))
            yield Record(section, b"", rtype, ttl, start, ttl_at, ttl_at + 6, end, None)
            start = end

    def _rdata(self, record: Record) -> bytes:
        return self._message.octets[record.rdata_at : record.end]

    def _signatures(self) -> set[int]:
        """Return the numbers of the signatures over record sets that are changed: they no longer fit (RFC 4035)."""
        sets = {self._set(self._records[number], self._records[number].rtype) for number in self._changed}
        found = set()
        for number, record in enumerate(self._records):
            if record.rtype == codes.RRSIG:
                covered = int.from_bytes(self._rdata(record)[:2], "big")
                if self._set(record, covered) in sets:
                    found.add(number)
        return found

    def _set(self, record: Record, rtype: int) -> tuple[Name, int]:
        """Return what a record set is known by: its owner, folded, and a type."""
        written = uncompressed(self._message, record)
        return written[: _owner_end(written)].lower(), rtype

    def entry(self) -> Entry:
        """Return the new answer; SERVFAIL if it is too long for a message, its names being written out."""
        entry, counts, parts, at = self._entry, [0, 0, 0], list[bytes](), 0
        ttls: list[tuple[int, int]] = []
        additional: list[Additional] = []
        told = {each.at: each.names for each in entry.additional}
        for number, record in enumerate(self._records):
            if number in self._unsigned:
                continue
            head, rdata = self._written(number, record)
            counts[record.section] += 1
            if (names := told.get(record.start - self._body_at)) is not None:
                additional.append(Additional(at, names))
            ttls.append((at + len(head) - 4, record.ttl))
            part = head + len(rdata).to_bytes(2, "big") + rdata
            parts.append(part)
            at += len(part)
            if at > MAX_MESSAGE:
                return self._made(codes.SERVFAIL, [0, 0, 0], b"", [], [])
        return self._made(entry.rcode, counts, b"".join(parts), ttls, additional)

    def _written(self, number: int, record: Record) -> tuple[bytes, bytes]:
        """Return a record's octets up to its TTL, and its rdata."""
        octets = self._message.octets
        if number < self._first:
            return octets[record.start : record.ttl_at + 4], self._rdata(record)
        if number == self._first:  # its names stand before what is taken out
            return octets[record.start : record.ttl_at + 4], self._changed[number]
        written = uncompressed(self._message, record)
        end = _owner_end(written)
        pointer = octets[record.start] << 8 | octets[record.start + 1]
        owner = octets[record.start : record.start + 2] if 0xC000 <= pointer < 0xC000 + self._fixed else written[:end]
        return owner + written[end : end + 8], self._changed.get(number, written[end + 10 :])

    def _made(
        self,
        rcode: int,
        counts: list[int],
        body: bytes,
        ttls: list[tuple[int, int]],
        additional: list[Additional],
    ) -> Entry:
        entry = self._entry
        return Entry(
            rcode=rcode,
            is_authentic=False,
            counts=b"".join(count.to_bytes(2, "big") for count in counts),
            body=body,
            ttls=tuple(ttls),
            lifetime=entry.lifetime,
            born=entry.born,
            chain=entry.chain,
            additional=tuple(additional),
            is_bare=True,
        )


def _owner_end(record: bytes) -> int:
    """Return where the owner of a record ends that is not compressed."""
    at = 0
    while record[at]:
        at += 1 + record[at]
    return at + 1
