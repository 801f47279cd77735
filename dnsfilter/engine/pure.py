"""The engine in pure Python: the core's functions put together; the definition of right.

One process, one loop. The per-packet path allocates little, logs nothing and touches no
metric object: its counters are integers.
"""

import asyncio
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from dnsfilter.core import answer, special
from dnsfilter.core.cache import Cache, ChainError, Entry, Limits, from_response, key
from dnsfilter.core.clients import ClientRow, address
from dnsfilter.core.policy import REFUSED, Action, Policy, Verdict, decide, decide_chain, judge
from dnsfilter.core.wire import build, codes, response
from dnsfilter.core.wire.query import BadQuery, NotAQuery, Query, parse
from dnsfilter.engine.interface import (
    DURATIONS,
    Answered,
    Completed,
    Counters,
    Dropped,
    Forward,
    Joined,
    Outcome,
    Rejected,
    Reply,
    Transport,
    Waiter,
)

log = logging.getLogger(__name__)

# asyncio's own datagram transport allocates 256 KiB for every datagram and hands over one a
# wake-up: five times the cost. So the engine reads its sockets itself, with a small buffer.
DATAGRAM = 1_500  # octets read; a query that is longer is none
BATCH = 128  # datagrams a wake-up, so that timers and streams get their turn
ANCILLARY = socket.CMSG_SPACE(20)  # holds in_pktinfo and in6_pktinfo
IP_PKTINFO = 8  # Linux; Python 3.11 does not name it
_PKTINFO = struct.Struct("=I4s4s")

CLIENTS_KNOWN = 65_536  # addresses whose row is remembered
REUSED = 20_000  # whole answers kept within a second
REUSED_OCTETS = 8 * 2**20
WAITERS_PER_QUESTION = 10  # on average; bounds what waits in all

PROBE = b"\x05probe\x09dnsfilter\x07invalid\0"  # asked in class CH by readiness checks, and not counted
PROBED = Transport.PROBE

# Types that are no data: answered here once the policy has let them through (RFC 6895 section 3.1).
_META = {
    0: codes.FORMERR,
    codes.OPT: codes.FORMERR,
    codes.TKEY: codes.REFUSED,
    codes.TSIG: codes.REFUSED,
    codes.IXFR: codes.REFUSED,
    codes.AXFR: codes.REFUSED,
    codes.MAILB: codes.NOTIMP,
    codes.MAILA: codes.NOTIMP,
    65_535: codes.REFUSED,
}
_REJECTED = {codes.SERVFAIL: "servfail", codes.REFUSED: "refused"}
_GOOD = (codes.NOERROR, codes.NXDOMAIN, codes.YXDOMAIN)

Clock = Callable[[], float]
Memo = dict[bytes, tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine is told once."""

    limits: Limits
    max_in_flight: int  # questions


class PureEngine:
    """The Engine protocol on an asyncio loop."""

    def __init__(
        self, settings: Settings, policy: Policy, on_forward: Callable[[Forward], None], now: Clock, wall: Clock
    ) -> None:
        self._settings = settings
        self._on_forward = on_forward
        self._now = now
        self._wall = wall
        self._cache = Cache(settings.limits)
        self._pending: dict[bytes, Forward] = {}
        self._waiting = 0
        self._listeners: list[socket.socket] = []
        self._counts: list[int] = []
        self._outcomes: dict[tuple[str, str, int, str, str, str, str], int] = {}
        self._dropped: Counter[str] = Counter()
        self._durations = [0] * (len(DURATIONS) + 1)
        self._duration_sum_s = 0.0
        self._internal_errors = 0
        self._errors_logged: set[str] = set()
        self._policy = policy
        self._known: dict[str, tuple[ClientRow | None, Memo]] = {}
        self._memos: dict[int, Memo] = {}
        self._reused = 0
        self._reused_octets = 0
        self._second: tuple[int, int] = (0, 0)
        self._has_exemptions = False
        self.load(policy, keep_cache=True)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    # ---- life ----

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Answer queries on these UDP sockets, which do not block."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._listeners.append(sock)
            read = self._read_from if _is_wildcard(sock) else self._read
            loop.add_reader(sock.fileno(), read, sock)

    def stop(self) -> None:
        """Read no more queries; those in flight still get their responses."""
        loop = asyncio.get_running_loop()
        for sock in self._listeners:
            loop.remove_reader(sock.fileno())
        self._listeners.clear()

    def load(self, policy: Policy, *, keep_cache: bool) -> None:
        """Put a policy in force. What waits for an upstream is judged anew when its response comes."""
        self._policy = replace(policy, generation=self._policy.generation + 1)
        if not keep_cache:
            self._cache.clear()
        self._known.clear()
        self._forget()
        self._has_exemptions = any(row.exemptions for row in policy.clients.all_rows())

    # ---- UDP ----

    def _read(self, sock: socket.socket) -> None:
        """Answer up to BATCH datagrams of a socket bound to one address."""
        now, wall = self._turn()
        known, counts, recvfrom, sendto = self._known, self._counts, sock.recvfrom, sock.sendto
        answered = 0
        for _ in range(BATCH):
            try:
                message, client = recvfrom(DATAGRAM)
            except BlockingIOError:
                break
            except OSError:
                continue  # an error that an earlier answer met on its way
            try:
                octets, outcome = known[client[0]][1][message[2:]]
            except KeyError:
                taken = self._take_datagram(message, client[0], now, wall, partial(self._send, sock, client))
                if taken is None:
                    continue
                octets, outcome = taken
            counts[outcome] += 1
            answered += 1
            try:
                sendto(message[:2] + octets, client)
            except OSError:
                self._dropped["send"] += 1
        self._measure(answered, now)

    def _read_from(self, sock: socket.socket) -> None:
        """The same for a wildcard socket: the answer leaves from the address that was asked.

        Costs about a tenth more CPU per query than `_read`, for the ancillary data.
        """
        now, wall = self._turn()
        answered = 0
        for _ in range(BATCH):
            try:
                message, ancillary, _flags, client = sock.recvmsg(DATAGRAM, ANCILLARY)
            except BlockingIOError:
                break
            except OSError:
                continue
            source = _source(ancillary)
            known = self._known.get(client[0])
            taken = known[1].get(message[2:]) if known else None
            if taken is None:
                reply = partial(self._send_from, sock, client, source)
                taken = self._take_datagram(message, client[0], now, wall, reply)
                if taken is None:
                    continue
            octets, outcome = taken
            self._counts[outcome] += 1
            answered += 1
            self._send_from(sock, client, source, message[:2] + octets)
        self._measure(answered, now)

    def _take_datagram(
        self, message: bytes, client: str, now: float, wall: float, reply: Reply
    ) -> tuple[bytes, int] | None:
        """Take a datagram; return the answer without its id, and its outcome, or None where none is due now."""
        if len(message) >= DATAGRAM:
            self._dropped["oversize"] += 1
            return None
        result = self.take(message, client, Transport.UDP, now, wall, reply)
        if isinstance(result, Answered):
            taken = result.octets[2:], result.outcome
            if result.is_reusable:
                self._remember(client, message[2:], taken)
            return taken
        if isinstance(result, Forward):
            self._on_forward(result)
        elif isinstance(result, Dropped):
            self._dropped[result.reason] += 1
        return None

    def _send(self, sock: socket.socket, client: tuple[str, int], octets: bytes) -> None:
        try:
            sock.sendto(octets, client)
        except OSError:  # a full buffer, or a client that cannot be reached: the query counts as lost
            self._dropped["send"] += 1

    def _send_from(
        self, sock: socket.socket, client: tuple[str, int], source: list[tuple[int, int, bytes]], octets: bytes
    ) -> None:
        try:
            sock.sendmsg([octets], source, 0, client)
        except OSError:
            self._dropped["send"] += 1

    def _turn(self) -> tuple[float, float]:
        """Read the clocks for one batch; whole answers live within one second."""
        now, wall = self._now(), self._wall()
        second = (int(now), int(wall) if self._has_exemptions else 0)
        if second != self._second:
            self._second = second
            self._forget()
        return now, wall

    def _remember(self, client: str, rest: bytes, taken: tuple[bytes, int]) -> None:
        size = len(rest) + len(taken[0])
        if self._reused < REUSED and self._reused_octets + size <= REUSED_OCTETS:
            self._reused += 1
            self._reused_octets += size
            self._known[client][1][rest] = taken

    def _forget(self) -> None:
        for memo in self._memos.values():
            memo.clear()
        self._reused = self._reused_octets = 0

    def _measure(self, answered: int, since: float) -> None:
        """Count a batch in the histogram: its length is an upper bound of each query's own."""
        if answered:
            took = self._now() - since
            self._durations[_bucket(took)] += answered
            self._duration_sum_s += took * answered

    def _note_error(self, error: Exception) -> None:
        """Count a bug that cost one query, and log the first of its kind."""
        self._internal_errors += 1
        kind = f"{type(error).__name__} at {_place(error)}"
        if kind not in self._errors_logged and len(self._errors_logged) < 100:
            self._errors_logged.add(kind)
            log.error("a query was lost to an error of ours, please report it: %s", kind, exc_info=error)

    # ---- one message ----

    def step(
        self, message: bytes, client: str, transport: Transport, now: float, wall: float, reply: Reply
    ) -> Answered | Forward | Joined | Dropped:
        """Take one message and count what became of it."""
        result = self.take(message, client, transport, now, wall, reply)
        if isinstance(result, Answered):
            self._counts[result.outcome] += 1
            self._durations[0] += 1
        elif isinstance(result, Dropped):
            self._dropped[result.reason] += 1
        return result

    def probe(self, message: bytes, client: str, now: float, wall: float) -> bytes | None:
        """Return the answer to one message, uncounted; None where an upstream would be asked."""
        query = parse(message)
        row = self._row(client)
        result = self._local_answer(query, row, client, Transport.UDP, now, wall)
        return result.octets if isinstance(result, Answered) else None

    def take(
        self, message: bytes, client: str, transport: Transport, now: float, wall: float, reply: Reply
    ) -> Answered | Forward | Joined | Dropped:
        """Take one message: an answer, a question for an upstream, or nothing. Counts nothing."""
        try:
            return self._take(message, client, transport, now, wall, reply)
        except NotAQuery:
            return Dropped("not_a_query")
        except BadQuery as bad:
            outcome = self._outcome(transport, client, bad.rcode)
            return Answered(build.header_error(message, bad.rcode), outcome)
        except Exception as error:  # noqa: BLE001 - one query's bug costs one query
            self._note_error(error)
            return Dropped("internal_error")

    def _take(
        self, message: bytes, client: str, transport: Transport, now: float, wall: float, reply: Reply
    ) -> Answered | Forward | Joined:
        query = parse(message)
        row = self._row(client)
        result = self._local_answer(query, row, client, transport, now, wall)
        if isinstance(result, Answered):
            return result
        assert row is not None  # noqa: S101 - a stranger was answered above
        return self._ask(Waiter(query, row, result, self._policy.generation, client, transport, now, reply), now)

    def _row(self, client: str) -> ClientRow | None:
        known = self._known.get(client)
        if known is None:
            if len(self._known) >= CLIENTS_KNOWN:
                self._known.clear()
            row = self._policy.clients.find(address(client))
            known = self._known[client] = (row, self._memos.setdefault(id(row), {}))
        return known[0]

    def _local_answer(
        self, query: Query, row: ClientRow | None, client: str, transport: Transport, now: float, wall: float
    ) -> Answered | Verdict:
        """Answer what needs no upstream, else return the verdict with which to ask one."""
        policy = self._policy
        reusable = query.edns is None or not query.edns.has_options

        def done(octets: bytes, verdict: Verdict | None = None, cache: str = "") -> Answered:
            return Answered(octets, self._outcome(transport, client, octets[3] & 15, verdict, cache), reusable)

        if query.qclass != codes.IN and query.name == PROBE:
            return Answered(build.response(query, codes.REFUSED), self._outcome(PROBED, client, codes.REFUSED))
        if row is None:
            return done(build.response(query, codes.REFUSED), REFUSED)
        if query.edns is not None and query.edns.version:
            outcome = self._outcome(transport, client, codes.BADVERS)
            return Answered(build.response(query, codes.BADVERS), outcome, reusable)
        if query.qclass != codes.IN:
            return done(build.response(query, codes.REFUSED))
        zone = policy.zone(query.name)
        if not zone and (kind := special.find(query.name)):
            verdict = Verdict(Action.LOCAL, row.group)
            return done(answer.local(query, kind, policy.blocking.ttl), verdict)
        verdict = decide(policy, row, query.name, wall)
        if verdict.action is Action.BLOCKED:
            return done(answer.blocked(query, verdict, policy.blocking), verdict)
        if (rcode := _META.get(query.qtype)) is not None:
            return done(build.response(query, rcode), verdict)
        if query.qtype == codes.ANY and transport is Transport.UDP:
            return done(answer.minimal_any(query, policy.blocking.ttl), verdict)
        entry = self._cache.get(key(query.name, query.qtype, do=query.do, cd=query.cd), now)
        if entry is None:
            return verdict
        octets, verdict = self._deliver(query, row, verdict, entry, transport, now, wall)
        return done(octets, verdict, "hit")

    def _deliver(
        self,
        query: Query,
        row: ClientRow,
        verdict: Verdict,
        entry: Entry,
        transport: Transport,
        now: float,
        wall: float,
    ) -> tuple[bytes, Verdict]:
        """Fit an upstream's answer to one client, if the policy lets its whole chain through."""
        policy = self._policy
        if entry.generation != policy.generation:
            find = policy.index.find
            entry.sets = tuple(find(name) for name in (*entry.chain, *entry.extras))
            entry.is_listed = any(entry.sets)
            entry.generation = policy.generation
        if entry.is_listed and verdict.action is not Action.ALLOWED:
            verdict = decide_chain(policy, row, verdict, zip(entry.chain, entry.sets, strict=False), wall)
            if verdict.action is Action.BLOCKED:
                return answer.blocked(query, verdict, policy.blocking), verdict
            entry = self._without_blocked_extras(query, row, entry, wall)
        if entry.is_truncated and transport is Transport.TCP:
            return answer.failure(query, codes.EDE_NETWORK_ERROR, "upstream does not answer by TCP"), verdict
        if entry.is_truncated:
            return answer.truncated(query), verdict
        flags2 = codes.AD if entry.is_authentic and (query.do or query.flags2 & codes.AD) else 0
        body = entry.aged_body(now, verdict.valid_s)
        octets = build.response(query, entry.rcode, entry.counts, body, flags2=flags2)
        if len(octets) > (query.udp_limit if transport is Transport.UDP else 65_535):
            return answer.truncated(query), verdict
        return octets, verdict

    def _without_blocked_extras(self, query: Query, row: ClientRow, entry: Entry, wall: float) -> Entry:
        """Take away additional records of blocked names; the answer itself stays (MX, SRV, NS)."""
        sets = self._policy.index.sets
        blocked = [
            name
            for name, number in zip(entry.extras, entry.sets[len(entry.chain) :], strict=True)
            if number and judge(row, sets[number], wall, is_qname=False).action is Action.BLOCKED
        ]
        return entry.without(blocked, query.name) if blocked else entry

    # ---- upstream ----

    def resolve(self, message: bytes, now: float, reply: Reply) -> Answered | Forward | Joined:
        """Ask past the policy, for an explanation; uncounted."""
        query = parse(message)
        row, verdict = ClientRow(""), Verdict(Action.ALLOWED, "")
        entry = self._cache.get(key(query.name, query.qtype, do=query.do, cd=query.cd), now)
        if entry is not None:
            octets, _ = self._deliver(query, row, verdict, entry, Transport.TCP, now, 0.0)
            return Answered(octets, self._outcome(PROBED, "", codes.NOERROR))
        return self._ask(Waiter(query, row, verdict, self._policy.generation, "", PROBED, now, reply), now)

    def _ask(self, waiter: Waiter, now: float) -> Answered | Forward | Joined:
        query = waiter.query
        wanted = key(query.name, query.qtype, do=query.do, cd=query.cd)
        if (forward := self._pending.get(wanted)) is not None:
            if self._waiting >= self._settings.max_in_flight * WAITERS_PER_QUESTION:
                return self._overloaded(waiter)
            forward.waiters.append(waiter)
            self._waiting += 1
            return Joined()
        if len(self._pending) >= self._settings.max_in_flight:
            return self._overloaded(waiter)
        zone = self._policy.zone(query.name)
        forward = Forward(wanted, query.name, query.qtype, query.do, query.cd, zone, now, [waiter])
        self._pending[wanted] = forward
        self._waiting += 1
        return forward

    def _overloaded(self, waiter: Waiter) -> Answered:
        octets = answer.failure(waiter.query, codes.EDE_NETWORK_ERROR, "too many questions in flight")
        return Answered(octets, self._outcome(waiter.transport, waiter.client, codes.SERVFAIL, waiter.verdict, "miss"))

    def complete(self, forward: Forward, octets: bytes, now: float, wall: float) -> Completed | Forward | Rejected:
        """Take an upstream's response; see the protocol."""
        try:
            return self._complete(forward, octets, now, wall)
        except Exception as error:  # noqa: BLE001 - one query's bug costs one query
            self._note_error(error)
            return Rejected("malformed")

    def _complete(self, forward: Forward, octets: bytes, now: float, wall: float) -> Completed | Forward | Rejected:
        try:
            found = response.read(octets, forward.name)
        except response.FormError:
            return Rejected("malformed")
        if forward.edns and found.opt_at is None and found.rcode in (codes.FORMERR, codes.NOTIMP):
            forward.edns = False  # a server that knows no EDNS (RFC 6891 section 7)
            return forward
        if found.rcode not in _GOOD:
            return Rejected(_REJECTED.get(found.rcode, "rcode"))
        if found.is_truncated:
            if forward.by_tcp:
                return Rejected("malformed")
            forward.by_tcp = True
            return forward
        try:
            entry = from_response(found, forward.name, forward.qtype, now, self._settings.limits)
        except ChainError as error:
            return self.fail(forward, codes.EDE_INVALID_DATA, str(error), now)
        except response.FormError:
            return Rejected("malformed")
        self._cache.put(forward.key, entry)
        return self._finish(forward, entry, now, wall)

    def give_up_on_tcp(self, forward: Forward, now: float, wall: float) -> Completed:
        """Pass a truncated answer on as such: the whole could not be fetched. Nothing is kept."""
        entry = Entry(codes.NOERROR, False, bytes(6), b"", (), 0, int(now), (), (), is_truncated=True)
        return self._finish(forward, entry, now, wall)

    def fail(self, forward: Forward, ede: int, text: str, now: float) -> Completed:
        """Give up: SERVFAIL for all who wait."""
        responses = []
        for waiter in self._pop(forward):
            octets = answer.failure(waiter.query, ede, text)
            self._count(waiter, octets, waiter.verdict, now)
            responses.append((waiter.reply, octets))
        return Completed(responses)

    def _finish(self, forward: Forward, entry: Entry, now: float, wall: float) -> Completed:
        responses = []
        for waiter in self._pop(forward):
            try:
                octets, verdict = self._late_answer(waiter, entry, now, wall)
            except Exception as error:  # noqa: BLE001 - one query's bug costs one query
                self._note_error(error)
                continue
            self._count(waiter, octets, verdict, now)
            responses.append((waiter.reply, octets))
        return Completed(responses)

    def _late_answer(self, waiter: Waiter, entry: Entry, now: float, wall: float) -> tuple[bytes, Verdict]:
        """Answer one who waited, under the policy in force now: a name listed meanwhile is not let through."""
        row: ClientRow | None = waiter.row
        verdict = waiter.verdict
        if waiter.generation != self._policy.generation or (row is not None and row.exemptions):
            row = self._row(waiter.client)
            if row is None:
                return build.response(waiter.query, codes.REFUSED), REFUSED
            verdict = decide(self._policy, row, waiter.query.name, wall)
            if verdict.action is Action.BLOCKED:
                return answer.blocked(waiter.query, verdict, self._policy.blocking), verdict
        assert row is not None  # noqa: S101
        return self._deliver(waiter.query, row, verdict, entry, waiter.transport, now, wall)

    def _pop(self, forward: Forward) -> list[Waiter]:
        waiters, forward.waiters = forward.waiters, []
        if self._pending.get(forward.key) is forward:
            del self._pending[forward.key]
        self._waiting -= len(waiters)
        return waiters

    # ---- counters ----

    def _outcome(self, transport: str, client: str, rcode: int, verdict: Verdict | None = None, cache: str = "") -> int:
        """Return the number of an outcome; there are as many as the configuration's labels allow."""
        outcome = (
            transport,
            "ipv6" if ":" in client else "ipv4",
            rcode,
            verdict.group if verdict else "",
            verdict.action if verdict else "",
            verdict.list_name if verdict else "",
            cache,
        )
        number = self._outcomes.get(outcome)
        if number is None:
            number = self._outcomes[outcome] = len(self._counts)
            self._counts.append(0)
        return number

    def _count(self, waiter: Waiter, octets: bytes, verdict: Verdict, now: float) -> None:
        outcome = self._outcome(waiter.transport, waiter.client, octets[3] & 15, verdict, "miss")
        self._counts[outcome] += 1
        took = max(0.0, now - waiter.since)
        self._durations[_bucket(took)] += 1
        self._duration_sum_s += took

    def counters(self) -> Counters:
        """Return the counters as they stand."""
        outcomes = {
            Outcome(transport, family, codes.RCODE_NAMES[rcode], *rest): self._counts[number]
            for (transport, family, rcode, *rest), number in self._outcomes.items()
            if transport != PROBED
        }
        return Counters(
            outcomes=outcomes,
            dropped=dict(self._dropped),
            durations=list(self._durations),
            duration_sum_s=self._duration_sum_s,
            internal_errors=self._internal_errors,
            cache_entries=len(self._cache),
        )


def _bucket(seconds: float) -> int:
    return next((number for number, bound in enumerate(DURATIONS) if seconds <= bound), len(DURATIONS))


def _is_wildcard(sock: socket.socket) -> bool:
    return sock.getsockname()[0] in {"0.0.0.0", "::"}


def _source(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Turn the packet information received into that for the answer: from the address asked."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            _interface, _local, asked = _PKTINFO.unpack(data)
            return [(level, kind, _PKTINFO.pack(0, asked, bytes(4)))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return [(level, kind, data)]
    return []


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
