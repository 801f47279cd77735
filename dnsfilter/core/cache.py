"""What upstreams said: positive, negative and stale answers, counted down. Knows no policy, no upstreams.

An entry is a response's octets behind the question, so that it is copied behind whatever
spelling of the question a client sends, compression pointers and all.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from dnsfilter.core.names import MAX_NAME, ROOT, Name, ancestry, is_within, parent
from dnsfilter.core.wire import codes
from dnsfilter.core.wire.framing import MAX_MESSAGE
from dnsfilter.core.wire.response import FormError, Record, Response, uncompressed

MAX_LINKS = 16
STALE_TTL = 30  # seconds that clients are told of a stale answer (RFC 8767 section 4)
FLUSHED = 4_096  # answers looked at in one turn
_TTL = struct.Struct("!I")
_TOP_BIT = 0x8000_0000


class ChainError(ValueError):
    """A chain of aliases that loops or has more than MAX_LINKS links."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds on what is kept."""

    entries: int  # answers
    octets: int  # of memory, all together, as nearly as can be told
    max_ttl: int  # seconds; also bounds what clients are told
    max_negative_ttl: int
    serve_stale: int = 0  # seconds beyond its TTL for which an answer is kept, in case no upstream answers


@dataclass(frozen=True, slots=True)
class Additional:
    """One record of the additional section."""

    at: int  # where it starts in the body
    names: tuple[Name, ...]  # its owner, and the target of an alias or a service


@dataclass(slots=True)
class Entry:
    """One upstream answer, fit to be sent to any client that the policy lets have it."""

    rcode: int
    is_authentic: bool  # upstream's AD
    counts: bytes  # ANCOUNT, NSCOUNT, ARCOUNT without OPT
    body: bytes  # the octets behind the question, without OPT
    ttls: tuple[tuple[int, int], ...]  # (offset in body, seconds)
    lifetime: int  # whole seconds; 0: to be passed on, not kept
    born: int  # whole seconds of `now`
    chain: tuple[Name, ...]  # names that the answer leads to, in order, targets of services last
    additional: tuple[Additional, ...] = ()
    is_truncated: bool = False  # only to be passed on: nobody could fetch the whole
    sets: tuple[int, ...] = ()  # set ids of the chain, in the index of `generation`
    additional_sets: tuple[tuple[int, ...], ...] = ()  # set ids of the names of each additional record
    additional_masks: tuple[int, ...] = ()  # of the lists in whose ranges each has addresses
    addresses: tuple[tuple[bytes, int], ...] = ()  # those of the answer section in a list's range, with the mask
    generation: int = 0
    is_listed: bool = False  # any of these is not 0, or there are such addresses
    is_bare: bool = False  # it was looked at, and has no `ech`
    bare: "Entry | None" = None  # the same without, where it has some and somebody has asked who gets none

    def remaining(self, now: float) -> int:
        """Return the whole seconds it may still be used; seconds are counted at whole seconds of `now`."""
        return self.born + self.lifetime - int(now)

    def is_stale(self, now: float) -> bool:
        """Tell whether its time is over. What is passed on and not kept never is."""
        return 0 < self.lifetime <= int(now) - self.born

    def aged_body(self, now: float, limit: int | None) -> bytes:
        """Return the body with TTLs counted down, none above `limit` seconds; STALE_TTL where it is stale."""
        age = int(now) - self.born
        if not age and limit is None:
            return self.body
        if self.is_stale(now):
            stale = STALE_TTL if limit is None else min(STALE_TTL, limit)
            return with_ttls(self.body, ((at, stale) for at, _ttl in self.ttls))
        body = bytearray(self.body)
        for at, ttl in self.ttls:
            left = max(0, ttl - age)
            _TTL.pack_into(body, at, left if limit is None else min(left, limit))
        return bytes(body)

    def without(self, number: int) -> "Entry":
        """Return the same answer without additional record `number` and those behind it, which may point into it."""
        cut = self.additional[number].at
        counts = self.counts[:4] + number.to_bytes(2, "big")
        ttls = tuple(each for each in self.ttls if each[0] < cut)
        return replace(self, counts=counts, body=self.body[:cut], ttls=ttls)


def from_response(response: Response, qname: Name, qtype: int, now: float, limits: "Limits") -> Entry:
    """Make an entry of a response that was walked to its end.

    Left out are records of the answer section that neither the qname nor its chain leads to
    (RFC 5452 section 6), and all of the authority section that has no use for a client of a
    forwarder. Raises ChainError, and FormError if what is left is too long.
    """
    records = response.records
    on_chain, targets = [qname], []
    is_plain = response.is_plain
    if any(record.owner != qname or record.section or record.rtype in _LEADING for record in records):
        on_chain += _chain(records, qname)
        above = {name for each in on_chain for name in ancestry(each)}
        records = [record for record in records if _belongs(record, on_chain, above)]
        is_plain = is_plain and len(records) == len(response.records)
        leading = (r.target for r in records if r.section == 0 and r.rtype in _LEADING and r.target is not None)
        targets = [name for name in dict.fromkeys(leading) if name != ROOT and name not in on_chain]
    ttls, lifetime = _times(records, response.rcode, on_chain, qtype, limits)
    if is_plain and response.opt_end in (0, len(response.octets)):
        counts, body, starts, places = _as_received(response)
    else:
        counts, body, starts, places = _written_anew(response, records)
    placed = tuple(zip(places, ttls, strict=True))
    if ttls != [record.ttl for record in records]:
        body = with_ttls(body, placed)
    additional = [(start, record) for start, record in zip(starts, records, strict=True) if record.section == 2]
    return Entry(
        rcode=response.rcode,
        is_authentic=bool(response.flags2 & codes.AD),
        counts=counts,
        body=body,
        ttls=placed,
        lifetime=lifetime if qtype != codes.ANY else 0,
        born=int(now),
        chain=(*on_chain[1:], *targets),
        additional=tuple(Additional(start, _told(record)) for start, record in additional),
    )


def _told(record: Record) -> tuple[Name, ...]:
    """Return the names that an additional record tells a client of as places to go."""
    if record.rtype in _LEADING and record.target is not None:
        return record.owner, record.target
    return (record.owner,)


_AUTHORITY = frozenset({codes.NS, codes.SOA, codes.DS})  # of zones that the names asked for are in
_PROOFS = frozenset({codes.RRSIG, codes.NSEC, codes.NSEC3})  # owned by other names too (RFC 4035 section 3.1.3)


def _belongs(record: Record, on_chain: Collection[Name], above: Collection[Name]) -> bool:
    if record.section == 0:
        return record.owner in on_chain or (record.rtype in _MOVING and record.owner in above)
    if record.section == 1:
        return record.rtype in _PROOFS or (record.rtype in _AUTHORITY and record.owner in above)
    return True


_MOVING = (codes.DNAME, codes.RRSIG)  # owned by a name above those that they are about
_LEADING = frozenset({codes.CNAME, codes.DNAME, codes.SVCB, codes.HTTPS})  # types whose target a client goes on to


def _chain(records: list[Record], qname: Name) -> list[Name]:
    """Follow CNAME and DNAME records from the qname, whatever their order (RFC 1034 section 3.6.2, RFC 6672)."""
    aliases: dict[Name, Name] = {}
    moved: dict[Name, Name] = {}
    for record in records:
        if record.section == 0 and record.target is not None:
            if record.rtype == codes.CNAME:
                aliases[record.owner] = record.target
            elif record.rtype == codes.DNAME:
                moved[record.owner] = record.target
    chain: list[Name] = []
    name, seen = qname, {qname}
    while aliases or moved:
        target = aliases.get(name) or _substituted(name, moved)
        if target is None:
            break
        if target in seen or len(chain) == MAX_LINKS:
            raise ChainError("a loop of aliases" if target in seen else f"more than {MAX_LINKS} aliases")
        chain.append(target)
        seen.add(target)
        name = target
    return chain


def _substituted(name: Name, moved: dict[Name, Name]) -> Name | None:
    """Apply the DNAME record nearest above a name; None without one, or where the result is too long."""
    if moved:
        for above in ancestry(parent(name)):
            if (target := moved.get(above)) is not None:
                found = name[: -len(above)] + target
                return found if len(found) <= MAX_NAME else None
    return None


def _times(
    records: list[Record], rcode: int, on_chain: Collection[Name], qtype: int, limits: "Limits"
) -> tuple[list[int], int]:
    """Return each record's TTL as told to clients, and for how long the whole may be kept.

    A TTL with its top bit set counts as 0 (RFC 2181 section 8). An answer without data is kept
    for the smaller of the SOA record's TTL and its MINIMUM, without a SOA not at all (RFC 2308 section 5).
    """
    ttls, minimum, has_data = [], 0, False
    for record in records:
        ttls.append(0 if record.ttl & _TOP_BIT else min(record.ttl, limits.max_ttl))
        if record.section == 0 and record.owner in on_chain and qtype in (record.rtype, codes.ANY):
            has_data = True
        elif record.section == 1 and record.rtype == codes.SOA:
            minimum = record.minimum
    lifetime = min(ttls, default=0)
    if not has_data or rcode != codes.NOERROR:
        lifetime = min(lifetime, minimum, limits.max_negative_ttl)
        ttls = [min(ttl, lifetime) if lifetime else ttl for ttl in ttls]
    if rcode not in (codes.NOERROR, codes.NXDOMAIN):
        lifetime = 0
    return ttls, lifetime


def with_ttls(body: bytes, ttls: Iterable[tuple[int, int]]) -> bytes:
    """Return a body with these TTLs (seconds) at these offsets."""
    changed = bytearray(body)
    for at, ttl in ttls:
        _TTL.pack_into(changed, at, ttl)
    return bytes(changed)


Written = tuple[bytes, bytes, list[int], list[int]]  # counts, body, where in it records and their TTLs start


def _as_received(response: Response) -> Written:
    """Cut header, question and OPT off; what is left is right as it is."""
    counts, end = response.octets[6:12], len(response.octets)
    if response.opt_at is not None:
        end = response.opt_at
        counts = counts[:4] + (int.from_bytes(counts[4:], "big") - 1).to_bytes(2, "big")
    start, records = response.body_at, response.records
    starts, places = [record.start - start for record in records], [record.ttl_at - start for record in records]
    return counts, response.octets[start:end], starts, places


def _written_anew(response: Response, records: list[Record]) -> Written:
    """Write these records alone, uncompressed."""
    counts, parts, starts, places, at = [0, 0, 0], [], [], [], 0
    for record in records:
        part = uncompressed(response, record)
        starts.append(at)
        places.append(at + len(record.owner) + 4)
        parts.append(part)
        counts[record.section] += 1
        at += len(part)
    if response.body_at + at + 11 > MAX_MESSAGE:
        raise FormError(response.body_at, "an answer that no message can hold")
    return b"".join(count.to_bytes(2, "big") for count in counts), b"".join(parts), starts, places


KEY_TAIL = 3  # octets of a key behind the name
_DO_CD = {(False, False): b"\0", (False, True): b"\1", (True, False): b"\2", (True, True): b"\3"}


def key(name: Name, qtype: int, *, do: bool, cd: bool) -> bytes:
    """Return the key of a question in class IN; answers with and without DO or CD are kept apart."""
    return name + qtype.to_bytes(2, "big") + _DO_CD[do, cd]


Packed = tuple[bytes, int, int]  # a plain response, its lifetime, and the whole second of `now` in which it came
_PACKED = 300  # octets of memory, besides those of the response


def is_fresh(entry: "Entry | Packed", now: float) -> bool:
    """Tell whether what is kept may be told as it is."""
    if isinstance(entry, tuple):
        _octets, lifetime, born = entry
        return born + lifetime > int(now)
    return not entry.is_stale(now)


class Cache:
    """Answers by key, fresh and stale, bounded in number and octets; the least recently used goes first."""

    def __init__(self, limits: Limits, unpack: "Callable[[bytes, Packed], Entry | None] | None" = None) -> None:
        """unpack: makes an entry of what `keep` was given."""
        self._limits = limits
        self._unpack = unpack
        self.entries: OrderedDict[bytes, Entry | Packed] = OrderedDict()
        self._octets = 0

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: bytes, now: float) -> Entry | None:
        """Return the answer if it is fresh."""
        entry = self.find(key, now)
        return None if entry is None or entry.is_stale(now) else entry

    def find(self, key: bytes, now: float) -> Entry | None:
        """Return the answer, fresh or stale; one that is stale for too long is dropped (RFC 8767)."""
        entry = self._unpacked(key)
        if entry is None:
            return None
        if entry.born + entry.lifetime + self._limits.serve_stale <= int(now):
            self._drop(key)
            return None
        self.entries.move_to_end(key)
        return entry

    def _unpacked(self, key: bytes) -> Entry | None:
        entry = self.entries.get(key)
        if entry is None or not isinstance(entry, tuple):
            return entry
        unpacked = None if self._unpack is None else self._unpack(key, entry)
        if unpacked is None:
            self._drop(key)
            return None
        self._octets += _size(key, unpacked) - _size(key, entry)
        self.entries[key] = unpacked
        return unpacked

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep an answer for its lifetime; one of lifetime 0 is not kept, nor what it says otherwise than."""
        if key in self.entries:
            self._drop(key)
        if entry.lifetime > 0:
            self.entries[key] = entry
            self._octets += _size(key, entry)
            self._evict()

    def keep(self, key: bytes, octets: bytes, lifetime: int, born: int) -> None:
        """Keep a plain response as it came: it is made an entry when it is first asked for, which most never are."""
        if key in self.entries:
            self._drop(key)
        if lifetime > 0:
            self.entries[key] = octets, lifetime, born
            self._octets += _PACKED + len(key) + len(octets)
            if len(self.entries) > self._limits.entries or self._octets > self._limits.octets:
                self._evict()

    def _evict(self) -> None:
        """Let the least recently used go, until the rest is within the bounds."""
        entries, limits, octets = self.entries, self._limits, self._octets
        while len(entries) > limits.entries or octets > limits.octets:
            oldest, gone = entries.popitem(last=False)
            octets -= _size(oldest, gone)
        self._octets = octets

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()
        self._octets = 0

    def flush(self, zone: Name) -> Iterator[int]:
        """Forget the answers for a name and all below it, and those whose aliases or services lead there.

        Yields how many it forgot, after each turn's worth of work.
        """
        keys = list(self.entries)
        for start in range(0, len(keys), FLUSHED):
            forgotten = 0
            for key in keys[start : start + FLUSHED]:
                entry = self._unpacked(key)
                if entry is not None and any(is_within(name, zone) for name in (key[:-KEY_TAIL], *entry.chain)):
                    self._drop(key)
                    forgotten += 1
            yield forgotten

    def _drop(self, key: bytes) -> None:
        self._octets -= _size(key, self.entries.pop(key))


def _size(key: bytes, entry: "Entry | Packed") -> int:
    """Return about how many octets of memory an entry takes: Python's objects weigh more than the answer."""
    if isinstance(entry, tuple):
        return _PACKED + len(key) + len(entry[0])
    size = 500 + len(key) + len(entry.body) + 130 * len(entry.ttls)
    if entry.chain or entry.additional:
        names = sum(map(len, entry.chain)) + sum(len(name) for each in entry.additional for name in each.names)
        size += names + 130 * (len(entry.chain) + 3 * len(entry.additional))
    return size
