"""A question the engine hands over: ask, retry, complete, fail. Knows no policy.

Everything here is callbacks on the loop and one sweep for time-outs: a task for each
question would cost more than the question.
"""

import asyncio
import errno
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dnsfilter.core.health import SHORTEST_PATIENCE_S
from dnsfilter.core.names import Name
from dnsfilter.core.wire import build, codes
from dnsfilter.engine.interface import Clock, Completed, Engine, Forward, Quick, Rejected, Reply
from dnsfilter.upstream.group import Strategy, Upstream, UpstreamGroup
from dnsfilter.upstream.udp import Exchange

SWEEP_S = 0.05  # how exactly time-outs are kept
STALE_AFTER_S = 1.8  # the client response timer of RFC 8767 section 5
LONGEST_GAP_S = 1.0  # between two tries of one question, where the upstreams are not slower than that
EDNS_ROUNDS = 2  # of asking; whoever answered none of them may lose queries with EDNS, or large answers
UNHEARD = 10_000  # exchanges that nobody waits for any more, kept to learn whether they are answered
_NAMES_OWN = frozenset({"servfail", "refused", "rcode"})  # failures that may be the name's, not the upstream's


@dataclass(slots=True, eq=False)
class _Attempt:
    """What has been done for one question so far."""

    forward: Forward
    group: UpstreamGroup
    deadline: float
    stale_at: float  # from then on those who wait get what is stale
    retry_at: float = math.inf
    open: "list[Ask]" = field(default_factory=list)
    asked: tuple[Upstream, ...] = ()  # those that this round has asked
    given_up: tuple[Upstream, ...] = ()  # those that answered, but not with an answer
    round: int = 0
    is_over: bool = False
    on_end: Callable[[bool], None] | None = None  # hears whether an answer came

    def next(self) -> Sequence[Upstream]:
        """Return whom to ask now: the first that this round has not asked, or all; nobody when all have given up."""
        left = [upstream for upstream in self.group.order() if upstream not in self.given_up]
        fresh = [upstream for upstream in left if upstream not in self.asked]
        if left and not fresh:  # another round: what was sent may have been lost
            fresh, self.asked = left, ()
            self.round += 1
        if self.group.strategy is Strategy.PARALLEL:
            return [upstream for upstream in fresh if upstream.health.is_up] or fresh
        return fresh[:1]


@dataclass(slots=True, eq=False)
class Ask:
    """One exchange with one upstream for one question."""

    attempt: _Attempt
    upstream: Upstream
    since: float
    until: float  # then another one is asked beside it
    edns: bool
    by_stream: bool = False
    exchange: Exchange[Any] | None = None  # over UDP, until it is over: each holds the other
    is_noted: bool = False  # that it is silent was held against the upstream


class Forwarder:
    """Carries the engine's questions to the upstream groups and back. It is told by their pools what came."""

    def __init__(self, engine: Engine, timeout_s: float, deadline_s: float, now: Clock, wall: Clock) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._now = now
        self._wall = wall
        self._attempts: set[_Attempt] = set()
        self._unheard: set[Ask] = set()  # nobody waits for these: probes, and those that another one was faster than
        self._sweep: asyncio.TimerHandle | None = None
        self._outbox: list[tuple[Reply, bytes]] = []
        self.groups: Sequence[UpstreamGroup] = ()
        self.has_random_case = False

    def configure(self, timeout_s: float, deadline_s: float, *, has_random_case: bool = False) -> None:
        """Take other settings for questions to come."""
        self._timeout_s, self._deadline_s, self.has_random_case = timeout_s, deadline_s, has_random_case

    def ask(self, forward: Forward) -> None:
        """Take a question; its engine hears of the outcome within the deadline."""
        now = forward.since
        attempt = self._begin(forward)
        if forward.sent is not None:
            self._resume(attempt, forward.sent)
            return
        group = attempt.group
        if not all(each.health.is_up for each in group.upstreams):
            first = group.order()[:1]  # whose turn it is anyhow
            for upstream in group.probes(now):
                if upstream not in first:
                    attempt.asked += (upstream,)
                    self._send(attempt, upstream, now, is_probe=True)
            if forward.has_stale and group.is_down:
                attempt.stale_at = now
                self._answer_stale(attempt, now)
        self._try_next(attempt, now)
        if self._outbox:  # no upstream could be asked at all, or there was no need to wait for one
            self.on_batch_end()

    def try_out(self, upstream: Upstream, name: Name, on_end: Callable[[bool], None]) -> None:
        """Ask one upstream for a name, only to learn whether it has an answer."""
        now = self._now()
        forward = Forward(b"", name, codes.A, do=False, cd=False, zone=0, since=now, waiters=[], is_out=False)
        attempt = self._begin(forward, UpstreamGroup([upstream]))
        attempt.on_end = on_end
        self._try_next(attempt, now)

    def _begin(self, forward: Forward, group: UpstreamGroup | None = None) -> _Attempt:
        """Begin an attempt; group: who is asked, where not those of the name's zone."""
        group = group or self.groups[forward.zone if forward.zone < len(self.groups) else 0]
        stale_at = forward.since + STALE_AFTER_S if forward.has_stale else math.inf
        attempt = _Attempt(forward, group, forward.since + self._deadline_s, stale_at)
        self._attempts.add(attempt)
        self.watch()
        return attempt

    def _resume(self, attempt: _Attempt, quick: Quick) -> Exchange[Ask]:
        """Go on with what the engine has asked an upstream itself."""
        upstream: Upstream = quick.link
        until = quick.since + upstream.health.patience_s(self._timeout_s)
        ask = Ask(attempt, upstream, quick.since, until, edns=True)
        ask.exchange = exchange = Exchange(quick.id, quick.question, ask, quick.since, quick.waiting)
        if quick.waiting.get(quick.id) is quick:
            quick.waiting[quick.id] = exchange
        upstream.open += 1
        attempt.asked, attempt.retry_at = (upstream,), until
        attempt.open.append(ask)
        return exchange

    def take_over(self, quick: Quick) -> Exchange[Ask]:
        """Go on with what the engine has asked itself, and return its exchange."""
        return self._resume(self._begin(self._engine.adopt(quick)), quick)

    @property
    def in_flight(self) -> int:
        """How many questions are out."""
        return len(self._attempts)

    def close(self) -> None:
        """Drop all questions that are out; their clients get nothing any more."""
        if self._sweep is not None:
            self._sweep.cancel()
        for attempt in list(self._attempts):
            self._finish(attempt)
        for ask in list(self._unheard):
            self._forget(ask)

    # ---- what the pools tell ----

    def on_response(self, exchange: Exchange[Ask], octets: bytes) -> None:
        """Take a response over UDP."""
        ask = exchange.purpose
        # That the answer is too large for UDP is known already, where it is fetched by TCP.
        if not (ask.attempt.forward.by_tcp and octets[2] & codes.TC):
            self.on_answer(ask, octets)
        else:
            self._end(ask)

    def on_refused(self, exchange: Exchange[Ask]) -> None:
        """Nobody listens there."""
        self.on_failed(exchange.purpose, "unreachable")

    def on_answer(self, ask: Ask, octets: bytes) -> None:
        """Take a response that answers the question, whatever it says."""
        self._end(ask)
        if ask.attempt.is_over:
            ask.upstream.answered(self._now() - ask.since)  # another one was faster
        else:
            self._take_response(ask, octets)

    def on_failed(self, ask: Ask, reason: str) -> None:
        """Take note that no response will come."""
        self._end(ask)
        now = self._now()
        ask.upstream.failed(reason, now, counts_against=True)
        self._give_up_on(ask, now)

    def on_batch_end(self) -> None:
        """Send what has been answered, back to back: a client that is woken once gets all that is ready."""
        outbox, self._outbox = self._outbox, []
        for reply, octets in outbox:
            reply(octets)

    # ---- one attempt ----

    def _try_next(self, attempt: _Attempt, now: float) -> None:
        """Ask the next upstream, or all; when all have answered without an answer, give up at once."""
        while chosen := attempt.next():
            attempt.asked += tuple(chosen)
            attempt.forward.edns = attempt.forward.do or attempt.round < EDNS_ROUNDS
            sent = [self._send(attempt, upstream, now) for upstream in chosen]
            if any(sent):
                return
        self._give_up(attempt, now)

    def _send(self, attempt: _Attempt, upstream: Upstream, now: float, *, is_probe: bool = False) -> bool:
        """Ask an upstream; False where the question cannot be sent, which is noted."""
        forward = attempt.forward
        by_stream = forward.by_tcp or upstream.udp is None
        patience_s = upstream.health.patience_s(self._timeout_s)
        patience_s = min(patience_s * 2**attempt.round, max(patience_s, LONGEST_GAP_S), self._timeout_s)
        until = now if is_probe else now + (self._timeout_s if forward.by_tcp else patience_s)
        if not is_probe:  # for those nobody waits
            attempt.retry_at = until
        if by_stream and any(each.upstream is upstream and each.by_stream for each in attempt.open):
            return True  # on a connection nothing is lost
        question = forward.name + forward.qtype.to_bytes(2, "big") + b"\0\1"
        if self.has_random_case:
            question = build.random_case(question, os.urandom(len(forward.name)))
        is_small = forward.do and attempt.round >= EDNS_ROUNDS
        rest = build.upstream_query(question, forward.cd, forward.do, forward.edns, is_small=is_small)
        ask = Ask(attempt, upstream, now, until, forward.edns, by_stream)
        upstream.queries += 1
        try:
            if by_stream:
                upstream.stream.send(rest, question, ask)
            else:
                assert upstream.udp is not None  # noqa: S101
                ask.exchange = upstream.udp.send(rest, question, ask, now)
        except OSError as error:  # that too many wait already is not its fault
            upstream.failed("unreachable", now, counts_against=error.errno != errno.ENOBUFS)
            if not is_probe:
                attempt.given_up += (upstream,)
            return False
        upstream.open += 1
        attempt.open.append(ask)
        return True

    def _take_response(self, ask: Ask, octets: bytes) -> None:
        now, attempt, upstream = self._now(), ask.attempt, ask.upstream
        forward = attempt.forward
        forward.edns = ask.edns
        result = self._engine.complete(forward, octets, now, self._wall())
        if not isinstance(result, Rejected) or result.reason in _NAMES_OWN:
            upstream.answered(now - ask.since)
        if isinstance(result, Completed):
            if attempt.on_end is not None:
                attempt.on_end(True)
            self._finish(attempt, result)
        elif isinstance(result, Rejected):
            upstream.failed(result.reason, now, counts_against=result.reason not in _NAMES_OWN)
            self._give_up_on(ask, now)
        elif not self._send(attempt, upstream, now):  # the same again, by TCP or without EDNS
            self._give_up_on(ask, now)

    def _give_up_on(self, ask: Ask, now: float) -> None:
        """Expect no answer of this upstream; ask the next unless another one is being waited for."""
        attempt = ask.attempt
        if attempt.is_over:
            return
        attempt.given_up += (ask.upstream,)
        if not any(now < each.until for each in attempt.open):
            self._try_next(attempt, now)

    def _give_up(self, attempt: _Attempt, now: float) -> None:
        if attempt.on_end is not None:
            attempt.on_end(False)
        if attempt.forward.by_tcp:
            self._finish(attempt, self._engine.give_up_on_tcp(attempt.forward, now, self._wall()))
            return
        heard = any(upstream.health.is_up for upstream in attempt.given_up)
        ede = codes.EDE_NO_REACHABLE_AUTHORITY if heard else codes.EDE_NETWORK_ERROR
        text = "every upstream failed" if heard else "no upstream answers"
        self._finish(attempt, self._engine.fail(attempt.forward, ede, text, now, self._wall()))

    def _answer_stale(self, attempt: _Attempt, now: float) -> None:
        """Let nobody wait longer who can have what was right a while ago; the upstreams are still asked."""
        if attempt.forward.waiters:
            self._outbox.extend(self._engine.answer_stale(attempt.forward, now, self._wall()).responses)

    def _finish(self, attempt: _Attempt, result: Completed | None = None) -> None:
        attempt.is_over = True
        self._attempts.discard(attempt)
        left, attempt.open = attempt.open, []
        for ask in left:
            if ask.is_noted or result is None or len(self._unheard) >= UNHEARD:
                self._forget(ask)
            else:
                self._unheard.add(ask)  # whether it is alive is still to be learnt
        if result is not None:
            self._outbox.extend(result.responses)

    # ---- one exchange ----

    def _end(self, ask: Ask) -> None:
        """Take note that an exchange is over."""
        ask.exchange = None
        ask.upstream.open -= 1
        self._unheard.discard(ask)
        if ask in ask.attempt.open:
            ask.attempt.open.remove(ask)

    def _forget(self, ask: Ask) -> None:
        """Wait for its response no more."""
        exchange = ask.exchange
        self._end(ask)
        if exchange is not None:
            exchange.forget()
        else:
            ask.upstream.stream.forget(ask)

    # ---- time ----

    def watch(self) -> None:
        """Keep time-outs from now on."""
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._on_sweep)

    def _on_sweep(self) -> None:
        self._sweep = None
        now, is_more = self._now(), True
        try:
            self._sweep_once(now)
            is_more = self._engine.hand_over(now - min(SHORTEST_PATIENCE_S, self._timeout_s))
        finally:  # whatever went wrong for one question, the others still get their time-outs
            if self._attempts or self._unheard or is_more:
                self.watch()

    def _sweep_once(self, now: float) -> None:
        for attempt in list(self._attempts):
            self._note_silent(attempt.open, now)
            if attempt.forward.is_given_up:
                self._finish(attempt)
                continue
            if now >= attempt.deadline:
                self._give_up(attempt, now)
                continue
            if now >= attempt.stale_at:
                self._answer_stale(attempt, now)
            if attempt.forward.by_tcp:
                self._end_slow_tcp(attempt, now)
            elif now >= attempt.retry_at:
                self._try_next(attempt, now)
        self._note_silent(self._unheard, now)
        for ask in [each for each in self._unheard if each.is_noted]:
            self._forget(ask)
        self.on_batch_end()

    def _note_silent(self, asks: Iterable[Ask], now: float) -> None:
        """Hold time-outs against the upstreams; their answers still count, should they come before the deadline."""
        for ask in asks:
            if not ask.is_noted and now >= ask.since + self._timeout_s:
                ask.is_noted = True
                ask.upstream.failed("timeout", now, counts_against=True)

    def _end_slow_tcp(self, attempt: _Attempt, now: float) -> None:
        """Whoever has the answer and cannot say it by TCP in time is not waited for: the client may do better."""
        for ask in [each for each in attempt.open if each.by_stream and now >= each.until]:
            self._forget(ask)
            self._give_up_on(ask, now)
