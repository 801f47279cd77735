"""The engine in pure Python: the core's functions put together; the definition of right.

One process, one loop. The per-packet path logs nothing and touches no metric object: its
counters are integers.
"""

import logging
import socket
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dnsfilter.core import answer
from dnsfilter.core.cache import Cache, ChainError, Entry, Limits, from_response, key
from dnsfilter.core.clients import ClientRow, address
from dnsfilter.core.policy import REFUSED, Action, Policy, Verdict, decide, decide_chain, judge, limited
from dnsfilter.core.wire import build, codes, response
from dnsfilter.core.wire.framing import MAX_MESSAGE
from dnsfilter.core.wire.query import BadQuery, NotAQuery, Query, parse
from dnsfilter.engine.datagrams import Datagrams
from dnsfilter.engine.interface import (
    DURATIONS,
    PROBE_NAME,
    PROBE_OUTCOME,
    Answered,
    Clock,
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

CLIENTS_KNOWN = 65_536  # addresses whose row is remembered
WAITERS_PER_QUESTION = 10  # on average; bounds what waits in all

PROBED = Transport.PROBE

_REJECTED = {codes.SERVFAIL: "servfail", codes.REFUSED: "refused"}
_GOOD = (codes.NOERROR, codes.NXDOMAIN, codes.YXDOMAIN)


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine is told once."""

    limits: Limits
    max_in_flight: int  # questions to one upstream group


class PureEngine:
    """The Engine protocol on an asyncio loop."""

    def __init__(
        self, settings: Settings, policy: Policy, on_forward: Callable[[Forward], None], now: Clock, wall: Clock
    ) -> None:
        self._settings = settings
        self._now = now
        self._cache = Cache(settings.limits)
        self._pending: dict[bytes, Forward] = {}
        self._out: Counter[int] = Counter()  # questions that are out, by zone: one dead zone must not stop the others
        self._waiting: Counter[int] = Counter()  # clients that wait for them
        self.counts: list[int] = [0]  # by number of outcome; number 0 is that of probes, and not told
        self._outcomes: dict[tuple[str, str, int, str, str, str, str], int] = {}
        self.dropped: Counter[str] = Counter()
        self._durations = [0] * (len(DURATIONS) + 1)
        self._duration_sum_s = 0.0
        self._internal_errors = 0
        self._errors_logged: set[str] = set()
        self._policy = policy
        self._rows: dict[str, ClientRow | None] = {}
        self._datagrams = Datagrams(self, on_forward, now, wall)
        self.load(policy, keep_cache=True)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    # ---- life ----

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Answer queries on these UDP sockets, which do not block."""
        self._datagrams.start(sockets)

    def stop(self) -> None:
        """Read no more queries; those in flight still get their responses."""
        self._datagrams.stop()

    def load(self, policy: Policy, *, keep_cache: bool) -> None:
        """Put a policy in force. What waits for an upstream is judged anew when its response comes."""
        if not keep_cache or policy.zones != self._policy.zones:
            self._cache.clear()
            self._pending = {}  # what is out is answered to those who wait, and neither kept nor joined
        self._policy = replace(policy, generation=self._policy.generation + 1)
        self._rows.clear()
        self._datagrams.forget()
        self._datagrams.has_exemptions = any(row.exemptions for row in policy.clients.all_rows())

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
            self.counts[result.outcome] += 1
            if result.outcome != PROBE_OUTCOME:
                self.measure(self._now() - now, 1)
        elif isinstance(result, Dropped):
            self.dropped[result.reason] += 1
        return result

    def probe(self, message: bytes, client: str, now: float, wall: float) -> bytes | None:
        """Return the answer to one message, uncounted; None where an upstream would be asked."""
        query = parse(message)
        row = self.row(client)
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
        row = self.row(client)
        result = self._local_answer(query, row, client, transport, now, wall)
        if isinstance(result, Answered):
            return result
        assert row is not None  # noqa: S101 - a stranger was answered above
        verdict, wanted = result
        return self._ask(Waiter(query, row, verdict, self._policy.generation, client, transport, now, reply), wanted)

    def row(self, client: str) -> ClientRow | None:
        """Return the client's row under the policy in force; None for a stranger."""
        try:
            return self._rows[client]
        except KeyError:
            if len(self._rows) >= CLIENTS_KNOWN:
                self._rows.clear()
            row = self._rows[client] = self._policy.clients.find(address(client))
            return row

    def _local_answer(
        self, query: Query, row: ClientRow | None, client: str, transport: Transport, now: float, wall: float
    ) -> Answered | tuple[Verdict, bytes]:
        """Answer what needs no upstream, else return the verdict and the key with which to ask one."""
        policy, edns, cache = self._policy, query.edns, ""
        verdict: Verdict | None = None
        if query.qclass != codes.IN and query.name == PROBE_NAME:
            transport, octets = PROBED, build.response(query, codes.REFUSED)
        elif row is None:
            verdict, octets = REFUSED, build.response(query, codes.REFUSED)
        elif edns is not None and (edns.is_malformed or edns.version):
            error = codes.BADVERS if edns.version else codes.FORMERR
            return Answered(build.response(query, error), self._outcome(transport, client, error))
        elif query.qclass != codes.IN:
            octets = build.response(query, codes.REFUSED)
        elif kind := answer.answered_here(policy, query.name):
            verdict = Verdict(Action.LOCAL, row.group)
            octets = answer.local(query, kind, policy.blocking.ttl)
        else:
            verdict = decide(policy, row, query.name, wall)
            if verdict.action is Action.BLOCKED:
                octets = answer.blocked(query, verdict, policy.blocking)
            elif (rcode := codes.META.get(query.qtype)) is not None:
                octets = build.response(query, rcode)
            elif query.qtype == codes.ANY and transport is Transport.UDP:
                octets = answer.minimal_any(query, verdict, policy.blocking.ttl)
            else:
                wanted = key(query.name, query.qtype, do=edns is not None and edns.do, cd=query.cd)
                entry = self._cache.get(wanted, now)
                if entry is None:
                    return verdict, wanted
                octets, verdict = self._deliver(query, row, verdict, entry, transport, now, wall)
                cache = "hit"
        outcome = self._outcome(transport, client, octets[3] & 15, verdict, cache)
        is_plain = edns is None or not edns.has_options
        return Answered(octets, outcome, is_reusable=is_plain and outcome != PROBE_OUTCOME)

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
            entry.sets = tuple(map(find, entry.chain))
            entry.additional_sets = tuple(tuple(map(find, each.names)) for each in entry.additional)
            entry.is_listed = any(entry.sets) or any(map(any, entry.additional_sets))
            entry.generation = policy.generation
        if entry.is_listed and verdict.action is not Action.ALLOWED:
            verdict = decide_chain(policy, row, verdict, zip(entry.chain, entry.sets, strict=True), wall)
            if verdict.action is Action.BLOCKED:
                return answer.blocked(query, verdict, policy.blocking), verdict
            entry, verdict = self._without_blocked(row, verdict, entry, wall)
        if entry.is_truncated and transport is Transport.TCP:
            return answer.failure(query, codes.EDE_NETWORK_ERROR, "upstream does not answer by TCP"), verdict
        if entry.is_truncated:
            return answer.truncated(query), verdict
        flags2 = codes.AD if entry.is_authentic and (query.do or query.flags2 & codes.AD) else 0
        body = entry.aged_body(now, verdict.valid_s)
        octets = build.response(query, entry.rcode, entry.counts, body, flags2=flags2)
        if transport is Transport.UDP and len(octets) > query.udp_limit:
            return answer.truncated(query), verdict
        if len(octets) > MAX_MESSAGE:
            return answer.failure(query, codes.EDE_OTHER, "an answer that no message can hold"), verdict
        return octets, verdict

    def _without_blocked(self, row: ClientRow, verdict: Verdict, entry: Entry, wall: float) -> tuple[Entry, Verdict]:
        """Take away additional records that tell of blocked names; the answer itself stays (MX, SRV, NS)."""
        sets = self._policy.index.sets
        for number, found in enumerate(entry.additional_sets):
            for link in (judge(row, sets[each], wall, is_qname=False) for each in found if each):
                verdict = limited(verdict, link.valid_s)
                if link.action is Action.BLOCKED:
                    return entry.without(number), verdict
        return entry, verdict

    # ---- upstream ----

    def resolve(self, message: bytes, now: float, reply: Reply) -> Answered | Forward | Joined:
        """Ask past the policy, for an explanation; uncounted."""
        query = parse(message)
        row, verdict = ClientRow(""), Verdict(Action.ALLOWED, "")
        wanted = key(query.name, query.qtype, do=query.do, cd=query.cd)
        entry = self._cache.get(wanted, now)
        if entry is not None:
            octets, _ = self._deliver(query, row, verdict, entry, Transport.TCP, now, 0.0)
            return Answered(octets, self._outcome(PROBED, "", codes.NOERROR))
        return self._ask(Waiter(query, row, verdict, self._policy.generation, "", PROBED, now, reply), wanted)

    def _ask(self, waiter: Waiter, wanted: bytes) -> Answered | Forward | Joined:
        query, most = waiter.query, self._settings.max_in_flight
        forward = self._pending.get(wanted)
        zone = self._policy.zone(query.name)
        if self._out[zone] >= most if forward is None else self._waiting[zone] >= most * WAITERS_PER_QUESTION:
            return self._overloaded(waiter)
        self._waiting[zone] += 1
        if forward is not None:
            forward.waiters.append(waiter)
            return Joined()
        self._out[zone] += 1
        forward = Forward(wanted, query.name, query.qtype, query.do, query.cd, zone, waiter.since, [waiter])
        self._pending[wanted] = forward
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
        if octets[2] & codes.TC:  # what came is not looked at (RFC 2181 section 9)
            if forward.by_tcp:
                return Rejected("malformed")
            forward.by_tcp = True
            return forward
        try:
            found = response.read(octets, forward.name)
        except response.FormError:
            return Rejected("malformed")
        if forward.edns and found.opt_at is None and found.rcode in (codes.FORMERR, codes.NOTIMP):
            forward.edns = False  # a server that knows no EDNS (RFC 6891 section 7)
            return forward
        if found.rcode not in _GOOD:
            return Rejected(_REJECTED.get(found.rcode, "rcode"))
        try:
            entry = from_response(found, forward.name, forward.qtype, now, self._settings.limits)
        except ChainError as error:
            return self.fail(forward, codes.EDE_INVALID_DATA, str(error), now)
        except response.FormError:
            return Rejected("malformed")
        if self._pending.get(forward.key) is forward and (forward.edns or not forward.do):
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
                octets, verdict = answer.failure(waiter.query, codes.EDE_OTHER), waiter.verdict
            self._count(waiter, octets, verdict, now)
            responses.append((waiter.reply, octets))
        return Completed(responses)

    def _late_answer(self, waiter: Waiter, entry: Entry, now: float, wall: float) -> tuple[bytes, Verdict]:
        """Answer one who waited, under the policy in force now: a name listed meanwhile is not let through."""
        row: ClientRow | None = waiter.row
        verdict = waiter.verdict
        if waiter.transport is not PROBED and (waiter.generation != self._policy.generation or waiter.row.exemptions):
            row = self.row(waiter.client)
            if row is None:
                return build.response(waiter.query, codes.REFUSED), REFUSED
            verdict = decide(self._policy, row, waiter.query.name, wall)
            if verdict.action is Action.BLOCKED:
                return answer.blocked(waiter.query, verdict, self._policy.blocking), verdict
        assert row is not None  # noqa: S101
        return self._deliver(waiter.query, row, verdict, entry, waiter.transport, now, wall)

    def _pop(self, forward: Forward) -> list[Waiter]:
        waiters, forward.waiters = forward.waiters, []
        if waiters:
            self._out[forward.zone] -= 1
        if self._pending.get(forward.key) is forward:
            del self._pending[forward.key]
        self._waiting[forward.zone] -= len(waiters)
        return waiters

    # ---- counters ----

    def _outcome(self, transport: str, client: str, rcode: int, verdict: Verdict | None = None, cache: str = "") -> int:
        """Return the number of an outcome; there are as many as the configuration's labels allow."""
        if transport == PROBED:
            return PROBE_OUTCOME
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
            number = self._outcomes[outcome] = len(self.counts)
            self.counts.append(0)
        return number

    def _count(self, waiter: Waiter, octets: bytes, verdict: Verdict, now: float) -> None:
        outcome = self._outcome(waiter.transport, waiter.client, octets[3] & 15, verdict, "miss")
        if outcome == PROBE_OUTCOME:
            return
        self.counts[outcome] += 1
        self.measure(max(0.0, now - waiter.since), 1)

    def measure(self, seconds: float, queries: int) -> None:
        """Count so many queries that took so long."""
        self._durations[_bucket(seconds)] += queries
        self._duration_sum_s += seconds * queries

    def counters(self) -> Counters:
        """Return the counters as they stand."""
        outcomes = {
            Outcome(transport, family, codes.RCODE_NAMES[rcode], *rest): self.counts[number]
            for (transport, family, rcode, *rest), number in self._outcomes.items()
        }
        return Counters(
            outcomes=outcomes,
            dropped=dict(self.dropped),
            durations=list(self._durations),
            duration_sum_s=self._duration_sum_s,
            internal_errors=self._internal_errors,
            cache_entries=len(self._cache),
        )


def _bucket(seconds: float) -> int:
    return bisect_left(DURATIONS, seconds)


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
