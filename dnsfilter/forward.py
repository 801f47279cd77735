"""A question the engine hands over: ask, retry, complete, fail. Knows no policy.

Everything here is callbacks on the loop and one sweep for time-outs: a task for each
question would cost more than the question.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dnsfilter.core.wire import build, codes
from dnsfilter.engine.interface import Clock, Completed, Engine, Forward, Rejected, Reply
from dnsfilter.upstream import tcp
from dnsfilter.upstream.group import Upstream, UpstreamGroup
from dnsfilter.upstream.udp import Exchange

SWEEP_S = 0.05  # how exactly time-outs are kept
STALE_AFTER_S = 1.8  # the client response timer of RFC 8767 section 5
TCP_TRIES = 2  # a server may close an idle connection just as we ask
_NAMES_OWN = frozenset({"servfail", "refused", "rcode"})  # failures that may be the name's, not the upstream's


@dataclass(slots=True, eq=False)  # made for each question: no default factories
class _Attempt:
    """What has been done for one question so far."""

    forward: Forward
    group: UpstreamGroup
    deadline: float
    retry_at: float
    stale_at: float  # from then on those who wait get what is stale
    exchanges: list[Exchange[Any]]
    asked: tuple[Upstream, ...] = ()  # those that this round has asked
    given_up: tuple[Upstream, ...] = ()  # those that answered, but not with an answer
    silent: Upstream | None = None  # asked last, not heard of yet
    unheard: tuple[Upstream, ...] = ()  # those that were silent once
    is_over: bool = False
    task: asyncio.Task[None] | None = None  # the one TCP exchange

    def next(self) -> Upstream | None:
        """Return whom to ask now: the first that this round has not asked; None when all have given up."""
        order = self.group.order()
        if self.asked or self.given_up:
            left = [upstream for upstream in order if upstream not in self.given_up]
            if not left:
                return None
            order = [upstream for upstream in left if upstream not in self.asked]
            if not order:  # another round: what was sent may have been lost
                order, self.asked = left, ()
        return order[0]


class Forwarder:
    """Carries the engine's questions to the upstream groups and back."""

    def __init__(self, engine: Engine, timeout_s: float, deadline_s: float, now: Clock, wall: Clock) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._now = now
        self._wall = wall
        self._attempts: set[_Attempt] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._outbox: list[tuple[Reply, bytes]] = []
        self._probes: set[Exchange[Any]] = set()
        self.groups: Sequence[UpstreamGroup] = ()

    def configure(self, timeout_s: float, deadline_s: float) -> None:
        """Take other times for questions to come."""
        self._timeout_s, self._deadline_s = timeout_s, deadline_s

    def ask(self, forward: Forward) -> None:
        """Take a question; its engine hears of the outcome within the deadline."""
        now = forward.since
        group = self.groups[forward.zone if forward.zone < len(self.groups) else 0]
        stale_at = now + STALE_AFTER_S if forward.has_stale else math.inf
        attempt = _Attempt(forward, group, now + self._deadline_s, now + self._timeout_s, stale_at, [])
        self._attempts.add(attempt)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._on_sweep)
        if group.is_healthy:
            self._ask(attempt, group.upstreams[0], now)
        else:
            for upstream in group.probes(now):
                self._probe(attempt, upstream, now)
            if forward.has_stale and group.is_down:
                attempt.stale_at = now
                self._answer_stale(attempt, now)
            self._try_next(attempt, now)
        if self._outbox:  # no upstream could be asked at all, or there was no need to wait for one
            self.on_batch_end()

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

    # ---- what the pools tell ----

    def on_response(self, exchange: Exchange[tuple[_Attempt, Upstream]], octets: bytes) -> None:
        """Take a response over UDP."""
        attempt, upstream = exchange.purpose
        if exchange in self._probes:
            self._probes.discard(exchange)
            if attempt.is_over:
                upstream.answered(self._now() - exchange.since)  # it is back; the question was answered by another
                return
        if not (attempt.forward.by_tcp and octets[2] & codes.TC):  # that much is known already
            self._take_response(attempt, upstream, exchange.since, octets)

    def on_refused(self, exchange: Exchange[tuple[_Attempt, Upstream]]) -> None:
        """Nobody listens there."""
        attempt, upstream = exchange.purpose
        if exchange in self._probes:
            self._probes.discard(exchange)
            upstream.failed("unreachable", self._now(), counts_against=True)
        else:
            self._take_failure(attempt, upstream, "unreachable")

    def on_batch_end(self) -> None:
        """Send what has been answered, back to back: a client that is woken once gets all that is ready."""
        outbox, self._outbox = self._outbox, []
        for reply, octets in outbox:
            reply(octets)

    # ---- one attempt ----

    def _try_next(self, attempt: _Attempt, now: float) -> None:
        """Ask the next upstream; when all have answered without an answer, give up at once."""
        upstream = attempt.next()
        if upstream is None:
            self._give_up(attempt, now)
        else:
            self._ask(attempt, upstream, now)

    def _ask(self, attempt: _Attempt, upstream: Upstream, now: float) -> None:
        attempt.asked += (upstream,)
        attempt.retry_at = now + self._timeout_s
        attempt.silent = upstream
        # That another one knows no EDNS says nothing of this one. One that was silent may lose queries with EDNS;
        # without it there would be no signatures, so whoever asked for those waits.
        attempt.forward.edns = attempt.forward.do or upstream not in attempt.unheard
        if attempt.forward.by_tcp:
            self._start_tcp(attempt, upstream)
        elif (exchange := self._exchange(attempt, upstream, now)) is not None:
            attempt.exchanges.append(exchange)
        else:
            attempt.given_up += (upstream,)
            self._try_next(attempt, now)

    def _probe(self, attempt: _Attempt, upstream: Upstream, now: float) -> None:
        """Ask an upstream that is down the same question: its answer counts, nobody waits for it."""
        exchange = self._exchange(attempt, upstream, now)
        if exchange is not None:
            self._probes.add(exchange)

    def _exchange(self, attempt: _Attempt, upstream: Upstream, now: float) -> Exchange[Any] | None:
        """Send the question; None where it cannot be sent, which is noted."""
        rest, question = _query(attempt.forward)
        upstream.queries += 1
        try:
            return upstream.pool.send(rest, question, (attempt, upstream), now)
        except OSError:
            upstream.failed("unreachable", now, counts_against=True)
            return None

    def _take_response(self, attempt: _Attempt, upstream: Upstream, since: float, octets: bytes) -> None:
        if attempt.is_over:
            return
        now = self._now()
        forward = attempt.forward
        result = self._engine.complete(forward, octets, now, self._wall())
        if not isinstance(result, Rejected) or result.reason in _NAMES_OWN:
            upstream.answered(now - since)
        if isinstance(result, Completed):
            self._finish(attempt, result)
        elif isinstance(result, Rejected):
            self._take_failure(attempt, upstream, result.reason)
        elif forward.by_tcp:
            self._start_tcp(attempt, upstream)
        elif (exchange := self._exchange(attempt, upstream, now)) is not None:  # the same again, without EDNS
            attempt.exchanges.append(exchange)
        else:
            self._take_failure(attempt, upstream, "unreachable")

    def _take_failure(self, attempt: _Attempt, upstream: Upstream, reason: str) -> None:
        if attempt.is_over:
            return
        now = self._now()
        upstream.failed(reason, now, counts_against=reason not in _NAMES_OWN)
        attempt.given_up = (*attempt.given_up, upstream)
        if attempt.silent is upstream or attempt.silent is None:
            self._try_next(attempt, now)

    def _give_up(self, attempt: _Attempt, now: float) -> None:
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
        for exchange in attempt.exchanges:
            exchange.forget()
        attempt.exchanges.clear()  # they hold the attempt, and a circle would wait for the collector
        if attempt.task is not None and attempt.task is not asyncio.current_task():
            attempt.task.cancel()
        if result is not None:
            self._outbox.extend(result.responses)

    # ---- time ----

    def _on_sweep(self) -> None:
        try:
            self._sweep_once(self._now())
        finally:  # whatever went wrong for one question, the others still get their time-outs
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(SWEEP_S, self._on_sweep) if self._attempts or self._probes else None

    def _sweep_once(self, now: float) -> None:
        for attempt in list(self._attempts):
            if now >= attempt.deadline:
                self._note_silence(attempt, now)
                self._give_up(attempt, now)
                continue
            if now >= attempt.stale_at:
                self._answer_stale(attempt, now)
            if now >= attempt.retry_at and attempt.task is None:
                self._note_silence(attempt, now)
                self._try_next(attempt, now)
        for exchange in [each for each in self._probes if now >= each.since + self._timeout_s]:
            self._probes.discard(exchange)
            _attempt, upstream = exchange.purpose
            exchange.forget()
            upstream.failed("timeout", now, counts_against=True)
        self.on_batch_end()

    def _note_silence(self, attempt: _Attempt, now: float) -> None:
        """Hold a time-out against the upstream; its answer still counts, should it come before the deadline."""
        if attempt.silent is not None:
            attempt.silent.failed("timeout", now, counts_against=True)
            attempt.unheard += (attempt.silent,)
            attempt.silent = None

    # ---- TCP ----

    def _start_tcp(self, attempt: _Attempt, upstream: Upstream) -> None:
        if attempt.task is None:
            attempt.silent = upstream
            attempt.task = asyncio.get_running_loop().create_task(self._by_tcp(attempt, upstream))

    async def _by_tcp(self, attempt: _Attempt, upstream: Upstream) -> None:
        rest, question = _query(attempt.forward)
        octets = None
        for _ in range(TCP_TRIES):
            since = self._now()
            upstream.queries += 1
            try:
                async with asyncio.timeout(max(0.0, min(self._timeout_s, attempt.deadline - since))):
                    octets = await tcp.exchange(upstream.host, upstream.port, rest, question)
                break
            except TimeoutError:
                break
            except tcp.TcpError:
                continue
        attempt.task = None
        if octets is None:
            self._take_failure(attempt, upstream, "tcp")
        else:
            self._take_response(attempt, upstream, since, octets)
        self.on_batch_end()


def _query(forward: Forward) -> tuple[bytes, bytes]:
    question = forward.name + forward.qtype.to_bytes(2, "big") + b"\0\1"
    return build.upstream_query(question, forward.cd, forward.do, forward.edns), question
