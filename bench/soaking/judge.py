"""An answer beside what it ought to be: by the reference decision, by the truth, and by the rules of the protocol."""

import math
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.rdatatype

from soaking import reference, world
from soaking.question import Question, is_asked_upstream
from soaking.reference import BLOCK_TTL, Policy, Verdict
from soaking.upstream import Weather, clock_ttl, size_of
from soaking.world import Name, Record, Truth

EARLY_S = 0.25  # the server reads its clock once for a batch, that long before a query's arrival at most
LATE_S = 0.3  # an answer takes no longer from the server to the client
STALE_TTL = 30  # RFC 8767 section 4
BLOCKED_CODE, STALE_CODES = 15, (3, 19)  # extended errors, RFC 8914
REMEMBERED_S = 5.0  # for so long a failure is told again (RFC 9520)
Told = tuple[Name, int, bytes]  # owner, type, rdata, in lower case


@dataclass(slots=True)
class Response:
    """An answer that dnspython could read."""

    octets: bytes
    message: dns.message.Message

    @property
    def rcode(self) -> int:
        """The rcode with OPT's part."""
        return int(self.message.rcode())

    def section(self, number: int) -> list[tuple[Told, int]]:
        """Records and their TTLs of the answer (1), authority (2) or additional section (3)."""
        return [
            ((tuple(rrset.name.canonicalize().labels[:-1]), int(rrset.rdtype), rdata.to_wire().lower()), rrset.ttl)
            for rrset in self.message.sections[number]
            for rdata in rrset
        ]

    @property
    def is_truncated(self) -> bool:
        """TC."""
        return bool(self.octets[2] & 2)

    def errors(self) -> list[tuple[int, str]]:
        """Extended errors: code and text."""
        found = []
        for option in self.message.options:
            if int(option.otype) == 15:
                octets = option.to_wire()
                assert octets is not None
                found.append((int.from_bytes(octets[:2], "big"), octets[2:].decode()))
        return found


@dataclass(frozen=True, slots=True)
class Finding:
    """What an answer was found to be."""

    verdict: str  # as counted
    wrong: str = ""  # what is wrong; empty: nothing
    expected: str = ""
    is_let_through: bool = False


class Judge:
    """Finds out whether an answer is right."""

    def __init__(self, policy: Policy, weather: Weather, started: float) -> None:
        self._policy = policy
        self._weather = weather
        self._started = started

    def find(self, asked: Question, octets: bytes) -> Finding:
        """Judge an answer that has just come."""
        received = time.time()
        if asked.is_answered is False:
            return Finding("odd", "an answer to what is no query", "silence")
        try:
            response = Response(octets, dns.message.from_wire(octets, one_rr_per_rrset=True))
        except (dns.exception.DNSException, ValueError, struct.error) as error:
            return Finding("odd", f"not well formed: {error!r}", "a message")
        if asked.client in reference.NEVER and _tells_banned(octets):
            return Finding("let through", "data of a listed name", "none of it", is_let_through=True)
        if wrong := _form(asked, response):
            return Finding("odd", wrong, "an answer to this query")
        if asked.is_answered is None:
            return Finding("odd")
        if asked.rcodes:
            is_right = response.rcode in asked.rcodes and not response.message.answer
            return Finding("odd", "" if is_right else "another rcode, or data", f"rcode of {asked.rcodes}")
        return self._by_policy(asked, response, received)

    def _by_policy(self, asked: Question, response: Response, received: float) -> Finding:
        truth = world.truth(asked.name, asked.rtype) if is_asked_upstream(asked) else Truth()
        is_explained = self._weather.explains((asked.name, asked.rtype), asked.sent - REMEMBERED_S - 1, received)
        decided = asked.sent  # or later
        is_late = asked.is_read_late or self._weather.has_stalled(asked.sent)
        if not is_late and response.rcode != world.SERVFAIL:  # who waits for data is judged when they come
            decided = max(decided, received - LATE_S)
        verdicts: dict[Verdict, str] = {}
        for verdict in self._verdicts(asked, truth, decided - EARLY_S, received):
            wrong = self._compare(asked, response, verdict, truth, is_explained=is_explained)
            if not wrong:
                return Finding(_counted(asked, verdict, response))
            verdicts[verdict] = wrong
        is_let_through = all(each.kind == "blocked" for each in verdicts) and bool(
            {each for each, _ in response.section(1)} & _told(truth.answer)
        )
        expected = "; or ".join(f"{verdict} ({wrong})" for verdict, wrong in verdicts.items())
        return Finding("wrong", next(iter(verdicts.values())), expected, is_let_through)

    def _verdicts(self, asked: Question, truth: Truth, since: float, until: float) -> Iterator[Verdict]:
        seen = set()
        for state in self._policy.possible(since, until):
            for wall in (until, since):
                verdict = self._policy.judge(state, asked.client, asked.name, truth, wall)
                if verdict not in seen:
                    seen.add(verdict)
                    yield verdict

    # ---- what each verdict asks for; each returns what is wrong ----

    def _compare(
        self, asked: Question, response: Response, verdict: Verdict, truth: Truth, *, is_explained: bool
    ) -> str:
        if verdict.kind == "refused":
            is_right = response.rcode == world.REFUSED and not any(map(response.section, (1, 2, 3)))
            return "" if is_right else "a stranger is not plainly refused"
        if verdict.kind == "local":
            return _local(asked, response, verdict)
        if response.rcode == world.SERVFAIL and is_explained and (verdict.kind == "passed" or verdict.by_chain):
            return "" if not any(map(response.section, (1, 2, 3))) else "SERVFAIL with records"
        if (
            response.is_truncated
            and not asked.is_tcp
            and is_explained
            and (verdict.kind == "passed" or verdict.by_chain)
        ):
            return "" if not any(map(response.section, (1, 2, 3))) else "TC with records"
        if verdict.kind == "blocked":
            return _blocked(asked, response, verdict)
        if not is_asked_upstream(asked):
            return _unasked(asked, response)
        return self._real(asked, response, verdict, truth, is_explained=is_explained)

    def _real(self, asked: Question, response: Response, verdict: Verdict, truth: Truth, *, is_explained: bool) -> str:
        if response.is_truncated:
            if asked.is_tcp:
                return "TC over TCP"
            if any(map(response.section, (1, 2, 3))):
                return "TC with records"
            needed = size_of(asked.name, asked.rtype)
            return "" if needed > min(asked.size, 1_232) else f"TC though {needed} octets would do"
        if response.rcode != truth.rcode:
            return f"rcode {response.rcode}, not {truth.rcode}"
        is_stale = is_explained or self._weather.may_be_down(asked.sent, time.time())
        is_stale &= not asked.has_opt or any(code in STALE_CODES for code, _ in response.errors())
        if world.is_below(asked.name, world.CLOCK):
            return self._clock(asked, response, is_stale=is_stale)
        limit = max(1, math.ceil(verdict.valid_s)) if verdict.valid_s < math.inf else math.inf
        for number, records in ((1, truth.answer), (2, truth.authority)):
            if wrong := _same(response.section(number), records, limit, is_stale=is_stale):
                return f"section {number}: {wrong}"
        additional = [each for each in truth.additional if each.owner not in verdict.hidden]
        wrong = _same(response.section(3), tuple(additional), limit, is_stale=is_stale)
        return f"section 3: {wrong}" if wrong else ""

    def _clock(self, asked: Question, response: Response, *, is_stale: bool) -> str:
        records = response.section(1)
        if len(records) != 1 or records[0][0][2][:2] != b"\xc0\0":
            return "not the one address that there is"
        (_, _, rdata), left = records[0]
        if is_stale and left <= STALE_TTL:
            return ""
        age = asked.sent - self._started - int.from_bytes(rdata[2:], "big") - 1
        if age + left > clock_ttl(asked.name) + 1:
            return f"{age:.1f} s old, and good for {left} s more"
        return ""


def _form(asked: Question, response: Response) -> str:
    """What every answer has to be."""
    octets, message = response.octets, response.message
    if not octets[2] & 0x80:
        return "QR is 0"
    if octets[2] >> 3 & 15 != asked.octets[2] >> 3 & 15 or (octets[2] ^ asked.octets[2]) & 1:
        return "another opcode, or RD not as asked"
    if not octets[3] & 0x80:
        return "RA is 0"
    if octets[3] & 0x40 or octets[2] & 4:
        return "Z or AA is set"
    if not asked.is_tcp and len(octets) > max(512, min(asked.size, 1_232) if asked.is_answered else 1_232):
        return f"{len(octets)} octets for a client that takes {asked.size}"
    if asked.is_answered is None:
        return ""
    if not message.question:
        return "" if asked.rcodes and len(octets) == 12 else "no question"
    if octets[12 : 12 + len(asked.spelt)] != asked.spelt or len(message.question) != 1:
        return "another question"
    if (octets[3] ^ asked.octets[3]) & 0x10:
        return "CD is not as asked"
    if (message.edns >= 0) is not asked.has_opt:
        return "OPT where none was asked, or none where it was"
    if asked.has_opt and (message.edns != 0 or message.ednsflags & 0xFFFF != (0x8000 if asked.is_do else 0)):
        return "an OPT record of another version or with other flags"
    return ""


def _tells_banned(octets: bytes) -> bool:
    """Whether a record's data starts as only banned names' data do."""
    return b"\0\4" + world.BANNED_DATA[0] in octets or b"\0\x10" + world.BANNED_DATA[1] in octets


def _told(records: tuple[Record, ...]) -> set[Told]:
    return {(each.owner, each.rtype, each.rdata.lower()) for each in records}


def _same(found: list[tuple[Told, int]], records: tuple[Record, ...], limit: float, *, is_stale: bool) -> str:
    right = {(each.owner, each.rtype, each.rdata.lower()): each.ttl for each in records}
    if {each for each, _ in found} != set(right) or len(found) != len(right):
        return f"{len(found)} records, not the {len(right)} that there are"
    for each, ttl in found:
        if ttl > limit or (ttl > right[each] and not (is_stale and (ttl == STALE_TTL or ttl <= limit < STALE_TTL))):
            return f"TTL {ttl}, more than {min(limit, right[each])}"
    return ""


def _blocked(asked: Question, response: Response, verdict: Verdict) -> str:
    limit = min(BLOCK_TTL, max(1, math.ceil(verdict.valid_s)) if verdict.valid_s < math.inf else BLOCK_TTL)
    lowest = limit if verdict.valid_s == math.inf else max(1, min(BLOCK_TTL, math.floor(verdict.valid_s) - 1))
    rcode = {"nxdomain": world.NXDOMAIN, "canary": world.NXDOMAIN, "refused": world.REFUSED}.get(verdict.style, 0)
    if response.rcode != rcode:
        return f"rcode {response.rcode}, not {rcode}"
    if response.is_truncated:
        return "TC"
    text = "canary" if verdict.style == "canary" else reference.TEXT
    if asked.has_opt and response.errors() != [(BLOCKED_CODE, text)]:
        return f"extended errors {response.errors()}"
    if verdict.style == "refused":
        return "" if not any(map(response.section, (1, 2, 3))) else "REFUSED with records"
    zero = {world.A: bytes(4), world.AAAA: bytes(16)}.get(asked.rtype)
    if verdict.style == "sinkhole" and zero is not None:
        return _zero(asked, response, zero, (lowest, limit))
    return _soa(asked, response, (lowest, limit))


def _zero(asked: Question, response: Response, zero: bytes, ttls: tuple[int, int]) -> str:
    records = response.section(1)
    if [each for each, _ in records] != [(asked.name, asked.rtype, zero)] or response.section(2):
        return "not the zero address alone"
    return "" if ttls[0] <= records[0][1] <= ttls[1] else f"TTL {records[0][1]}, not from {ttls[0]} to {ttls[1]}"


def _soa(asked: Question, response: Response, ttls: tuple[int, int]) -> str:
    records = response.section(2)
    if response.section(1) or response.section(3) or [each[:2] for each, _ in records] != [(asked.name, world.SOA)]:
        return "not a negative answer with one SOA record of the qname"
    (_, _, rdata), ttl = records[0]
    numbers = b"".join(number.to_bytes(4, "big") for number in (1, 3_600, 600, 86_400, ttl))
    names = b"".join(world.wire_of(world.name_of(text)) for text in ("dnsfilter.invalid", "nobody.invalid"))
    if rdata != (names + numbers).lower():
        return "another SOA record"
    return "" if ttls[0] <= ttl <= ttls[1] else f"TTL {ttl}, not from {ttls[0]} to {ttls[1]}"


def _local(asked: Question, response: Response, verdict: Verdict) -> str:
    if asked.rtype == world.ANY:
        return ""  # addresses or none: both have been seen elsewhere
    if response.rcode != (world.NXDOMAIN if verdict.style == "absent" else world.NOERROR):
        return f"rcode {response.rcode}"
    loopback = {world.A: b"\x7f\0\0\1", world.AAAA: bytes(15) + b"\1"}.get(asked.rtype)
    if verdict.style == "loopback" and loopback is not None:
        return _zero(asked, response, loopback, (BLOCK_TTL, BLOCK_TTL))
    return _soa(asked, response, (BLOCK_TTL, BLOCK_TTL))


def _unasked(asked: Question, response: Response) -> str:
    if asked.rtype != world.ANY:
        is_error = response.rcode in (world.FORMERR, world.REFUSED, world.NOTIMP)
        return "" if is_error and not response.message.answer else "data for a type that has none"
    records = response.section(1)
    is_minimal = [each[:2] for each, _ in records] == [(asked.name, 13)] and response.rcode == world.NOERROR
    return "" if is_minimal else "not the one small record of RFC 8482"


def _counted(asked: Question, verdict: Verdict, response: Response) -> str:
    if response.rcode == world.SERVFAIL:
        return "failed by a fault"
    if response.is_truncated:
        return "truncated"
    if verdict.kind == "blocked":
        return "blocked by its chain" if verdict.by_chain else "blocked"
    is_listed = world.is_banned(asked.name)
    return "passed though listed" if verdict.kind == "passed" and is_listed else verdict.kind
