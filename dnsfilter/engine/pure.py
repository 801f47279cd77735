"""The engine in pure Python: the core's functions put together; the definition of right.

One process, one loop. The per-packet path logs nothing and touches no metric object: its
counters are integers.
"""

import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from dnsfilter.core import answer, plain
from dnsfilter.core.cache import KEY_TAIL, Cache, ChainError, Entry, Limits, Packed, from_response, key
from dnsfilter.core.clients import ClientRow, address
from dnsfilter.core.cookies import SECRET, Cookies
from dnsfilter.core.delivery import deliver
from dnsfilter.core.ech import without_ech
from dnsfilter.core.failures import Failures
from dnsfilter.core.limits import RateLimit
from dnsfilter.core.names import Name, parent
from dnsfilter.core.policy import (
    REFUSED,
    Action,
    Policy,
    Verdict,
    decide,
)
from dnsfilter.core.suspicion import Suspicion
from dnsfilter.core.wire import build, codes, response
from dnsfilter.core.wire.query import HEADER, BadQuery, Edns, NotAQuery, Query, parse
from dnsfilter.engine.datagrams import Datagrams
from dnsfilter.engine.express import Express
from dnsfilter.engine.interface import (
    PROBE_NAME,
    PROBE_OUTCOME,
    Answered,
    Clock,
    Completed,
    Counters,
    Dropped,
    Forward,
    Joined,
    Quick,
    Rejected,
    Reply,
    Reuse,
    Transport,
    Waiter,
)
from dnsfilter.engine.pending import Pending
from dnsfilter.engine.tally import Tally

CLIENTS_KNOWN = 65_536  # addresses whose row is remembered
JOSTLE_S = 0.5  # a question that is out for so long makes room for another one where there is none

PROBED = Transport.PROBE

_REJECTED = {codes.SERVFAIL: "servfail", codes.REFUSED: "refused"}
_GOOD = (codes.NOERROR, codes.NXDOMAIN, codes.YXDOMAIN)


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine is told once."""

    limits: Limits
    max_in_flight: int  # questions to one upstream group
    tcp_idle_s: float  # how long a client may keep a TCP connection that it does not use


class PureEngine:
    """The Engine protocol on an asyncio loop."""

    def __init__(
        self, settings: Settings, policy: Policy, on_forward: Callable[[Forward], None], now: Clock, wall: Clock
    ) -> None:
        self._settings = settings
        self._now, self._wall = now, wall
        self._cache = Cache(settings.limits, self._unpack)
        self._failures = Failures()
        self._pending = Pending(settings.max_in_flight)
        self._cookies = Cookies(os.urandom(SECRET))
        self.tally = Tally()
        self.suspicion = Suspicion()
        self._policy = policy
        self._rows: dict[str, ClientRow | None] = {}
        self._on_forward = on_forward
        self._watched: dict[Name, Callable[[], None]] = {}
        self._limit: RateLimit | None = None
        self.express = Express(self._cache, settings.limits, self._pending, self._failures.until, self.tally, now)
        self._datagrams = Datagrams(self, self.express, self.suspicion, on_forward, now, wall)
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
        self.hand_over(math.inf)
        if not keep_cache or policy.zones != self._policy.zones:
            self._forget_all()
        self._policy = replace(policy, generation=self._policy.generation + 1)
        self._rows.clear()
        self.express.load(self._policy)
        self._datagrams.forget()
        self._datagrams.has_exemptions = any(row.exemptions for row in policy.clients.all_rows())

    def flush(self, zone: Name | None) -> Iterator[int]:
        """Forget cached answers; see the protocol."""
        self.hand_over(math.inf)
        self._datagrams.forget()
        if zone is None:
            count = len(self._cache)
            self._forget_all()
            yield count
            return
        self._pending.forget()
        self._failures.clear()
        for count in self._cache.flush(zone):
            self._datagrams.forget()  # what was told between two turns
            yield count

    def _forget_all(self) -> None:
        self._cache.clear()
        self._failures.clear()
        self._pending.forget()

    # ---- one message ----

    def step(
        self, message: bytes, client: str, transport: Transport, now: float, wall: float, reply: Reply
    ) -> Answered | Forward | Joined | Dropped:
        """Take one message and count what became of it."""
        result: Answered | Forward | Joined | Dropped
        if self._limit is not None and self._limit.is_over(client, now):
            result = self.take_over_limit(message, client, transport, wall)
        else:
            result = self.take(message, client, transport, now, wall, reply)
        self.suspicion.note(client, *self.tally.signal(result), now)
        if isinstance(result, Answered):
            self.tally.count(result.outcome, self._now() - now)
        elif isinstance(result, Dropped):
            self.tally.dropped[result.reason] += 1
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
            query = parse(message)
            row = self.row(client)
            result = self._local_answer(query, row, client, transport, now, wall)
            if isinstance(result, Answered):
                return result
            assert row is not None  # noqa: S101 - a stranger was answered above
            verdict, wanted, has_stale = result
            waiter = Waiter(query, row, verdict, self._policy.generation, client, transport, now, reply)
            return self._ask(waiter, wanted, has_stale)
        except NotAQuery:
            return Dropped("not_a_query")
        except BadQuery as bad:
            outcome = self.tally.outcome(transport, client, bad.rcode)
            return Answered(build.header_error(message, bad.rcode), outcome)
        except Exception as error:  # noqa: BLE001 - one query's bug costs one query
            self.tally.note_error(error)
            return Dropped("internal_error")

    def limit(self, limit: RateLimit | None) -> None:
        """Answer clients that ask more than this with no more than that they do; None: whatever they ask."""
        self._limit = self._datagrams.limit = limit

    def take_over_limit(self, message: bytes, client: str, transport: Transport, wall: float) -> Answered | Dropped:
        """Answer one message of a client that is over its limit: blocked names as ever, others come by TCP."""
        try:
            query = parse(message)
        except NotAQuery:
            return Dropped("not_a_query")
        except BadQuery as bad:
            return Answered(build.header_error(message, bad.rcode), self.tally.outcome(transport, client, bad.rcode))
        row = self.row(client)
        if row is None:
            octets = build.response(query, codes.REFUSED)
            return Answered(octets, self.tally.outcome(transport, client, codes.REFUSED, REFUSED))
        verdict = decide(self._policy, row, query.name, wall) if query.qclass == codes.IN else None
        if verdict is not None and verdict.action is Action.BLOCKED:
            octets = answer.blocked(query, verdict, self._policy.blocking)
            return Answered(octets, self.tally.outcome(transport, client, octets[3] & 15, verdict))
        self.tally.limited[row.group] += 1
        is_udp = transport is Transport.UDP
        octets = answer.truncated(query) if is_udp else build.response(query, codes.REFUSED)
        return Answered(octets, self.tally.outcome(transport, client, octets[3] & 15))

    def row(self, client: str) -> ClientRow | None:
        """Return the client's row under the policy in force; None for a stranger."""
        try:
            return self._rows[client]
        except KeyError:
            if len(self._rows) >= CLIENTS_KNOWN:
                self._rows.clear()
                self.express.forget_clients()
            row = self._rows[client] = self._policy.clients.find(address(client))
            if row is not None:
                self.express.welcome(client, row)
            return row

    def _local_answer(
        self, query: Query, row: ClientRow | None, client: str, transport: Transport, now: float, wall: float
    ) -> Answered | tuple[Verdict, bytes, bool]:
        """Answer what needs no upstream.

        Else return the verdict, the key with which to ask one, and whether a stale answer is kept.
        """
        policy, edns = self._policy, query.edns
        verdict: Verdict | None = None
        if query.qclass != codes.IN and query.name == PROBE_NAME:
            transport, octets = PROBED, build.response(query, codes.REFUSED)
        elif row is None:
            verdict, octets = REFUSED, build.response(query, codes.REFUSED)
        elif edns is not None and (edns.is_malformed or edns.version):
            error = codes.BADVERS if edns.version else codes.FORMERR
            return Answered(build.response(query, error), self.tally.outcome(transport, client, error))
        else:
            if edns is not None and edns.has_options:
                edns.reply = self._options(edns, client, transport, wall)
            if query.qclass != codes.IN:
                octets = build.response(query, codes.REFUSED)
            elif not query.question:
                octets = build.response(query, codes.NOERROR)
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
                    return self._kept_answer(query, row, verdict, client, transport, now, wall)
        reuse = Reuse.POLICY if verdict is None or verdict.valid_s is None else Reuse.SECOND
        if transport is PROBED or (edns is not None and edns.has_options):
            reuse = Reuse.NEVER
        return Answered(octets, self.tally.outcome(transport, client, octets[3] & 15, verdict), reuse)

    def _kept_answer(
        self,
        query: Query,
        row: ClientRow,
        verdict: Verdict,
        client: str,
        transport: Transport,
        now: float,
        wall: float,
    ) -> Answered | tuple[Verdict, bytes, bool]:
        """Answer from the cache, or from the memory of a failure; see `_local_answer`."""
        edns = query.edns
        wanted = key(query.name, query.qtype, do=edns is not None and edns.do, cd=query.cd)
        entry = self._cache.find(wanted, now)
        is_stale = entry is not None and entry.is_stale(now)
        if (entry is None or is_stale) and not self._failures.is_recent(wanted, now):
            return verdict, wanted, is_stale
        if entry is None:
            octets = answer.failure(query, codes.EDE_CACHED_ERROR, "nobody could answer")
            return Answered(octets, self.tally.outcome(transport, client, codes.SERVFAIL, verdict, "hit"))
        told = without_ech(entry, query.name) if row.strip_ech else entry
        octets, verdict = deliver(self._policy, query, row, verdict, told, now, wall, is_udp=transport is Transport.UDP)
        cache = "stale" if is_stale else "hit"
        outcome = self.tally.outcome(transport, client, octets[3] & 15, verdict, cache)
        if is_stale or (edns is not None and edns.has_options):
            return Answered(octets, outcome)
        again = None
        if verdict.valid_s is None and not told.is_listed and not octets[2] & codes.TC:
            at = HEADER + len(query.question)
            again = partial(self._again, wanted, entry, told, octets[2:at], octets[at + len(told.body) :])
        return Answered(octets, outcome, Reuse.SECOND, again)

    def _again(self, wanted: bytes, entry: Entry, told: Entry, head: bytes, opt: bytes, now: float) -> bytes | None:
        """Give an answer of an earlier second anew, its TTLs counted down; None where it is no longer the one kept.

        told: what the client was told of it.
        """
        if self._cache.get(wanted, now) is not entry:
            return None
        return head + told.aged_body(now, None) + opt

    def _options(self, edns: Edns, client: str, transport: Transport, wall: float) -> bytes:
        """Return the options that go back with every answer to one query."""
        options = b""
        if edns.cookie:
            options = build.option(codes.COOKIE, self._cookies.answer(edns.cookie, address(client), wall))
        if edns.has_keepalive and transport is Transport.TCP:
            tenths = int(self._settings.tcp_idle_s * 10)  # units of 100 ms (RFC 7828 section 3.1)
            options += build.option(codes.KEEPALIVE, tenths.to_bytes(2, "big"))
        return options

    # ---- upstream ----

    def resolve(self, message: bytes, now: float, reply: Reply) -> Answered | Forward | Joined:
        """Ask past the policy, for an explanation; uncounted."""
        query = parse(message)
        row, verdict = ClientRow(""), Verdict(Action.ALLOWED, "")
        wanted = key(query.name, query.qtype, do=query.do, cd=query.cd)
        entry = self._cache.find(wanted, now)
        if entry is not None and not entry.is_stale(now):
            octets, _ = deliver(self._policy, query, row, verdict, entry, now, 0.0, is_udp=False)
            return Answered(octets, PROBE_OUTCOME)
        waiter = Waiter(query, row, verdict, self._policy.generation, "", PROBED, now, reply)
        return self._ask(waiter, wanted, has_stale=entry is not None)

    def watch_for(self, name: Name, on_asked: Callable[[], None] | None) -> None:
        """Tell when somebody asks for a name; see the protocol."""
        if on_asked is not None:
            self._watched[name] = on_asked
        else:
            self._watched.pop(name, None)
        self.express.keep_apart(frozenset(map(parent, self._watched)))

    def _ask(self, waiter: Waiter, wanted: bytes, has_stale: bool) -> Answered | Forward | Joined:
        query, forward = waiter.query, self._pending.find(wanted)
        if self._watched and (on_asked := self._watched.get(query.name)) is not None:
            on_asked()
            return self._overloaded(waiter)
        if isinstance(forward, Quick):
            forward = self.adopt(forward)
            self._on_forward(forward)
        if forward is not None:
            return Joined() if self._pending.join(forward, waiter) else self._overloaded(waiter)
        zone = self._policy.zone(query.name)
        forward = Forward(wanted, query.name, query.qtype, query.do, query.cd, zone, waiter.since, [waiter], has_stale)
        if not self._pending.has_room(zone):
            self._make_room(zone, waiter.since)
        return forward if self._pending.begin(forward) else self._overloaded(waiter)

    def _make_room(self, zone: int, now: float) -> None:
        """Give up the question that has been out for longest, if nobody has answered it for a while."""
        oldest = self._pending.oldest(zone)
        if oldest is None or now - oldest.since < JOSTLE_S:
            return
        if isinstance(oldest, Quick):
            quick, oldest = oldest, self.adopt(oldest)
            quick.waiting.pop(quick.id, None)  # what comes now answers nobody
        given_up = self.fail(oldest, codes.EDE_NETWORK_ERROR, "too many questions in flight", now, self._wall())
        for reply, octets in given_up.responses:
            reply(octets)

    def adopt(self, quick: Quick) -> Forward:
        """Return what was asked the short way as a question to go on with."""
        query, client = parse(quick.message), quick.client[0]
        row = self.row(client)
        assert row is not None  # noqa: S101 - the policy is the one under which it was asked
        verdict = Verdict(Action.FORWARDED, row.group)
        reply = partial(self._datagrams.send, quick.sock, quick.client)
        waiter = Waiter(query, row, verdict, self._policy.generation, client, Transport.UDP, quick.since, reply)
        has_stale = self._cache.find(quick.key, quick.since) is not None
        forward = Forward(
            *(quick.key, query.name, query.qtype, query.do, query.cd, quick.zone, quick.since, [waiter], has_stale),
            sent=quick,
        )
        self._pending.adopt(forward)
        return forward

    def hand_over(self, before: float) -> bool:
        """Hand over what was asked the short way before then; see the protocol."""
        for each in list(self._pending.by_key.values()):
            if isinstance(each, Quick):
                if each.since >= before:
                    return True
                self._on_forward(self.adopt(each))
        return False

    def _unpack(self, wanted: bytes, packed: Packed) -> Entry | None:
        octets, _lifetime, born = packed
        qtype = int.from_bytes(wanted[-KEY_TAIL:-1], "big")
        return plain.read(octets, wanted[:-KEY_TAIL], qtype, born, self._settings.limits)

    def _overloaded(self, waiter: Waiter) -> Answered:
        octets = answer.failure(waiter.query, codes.EDE_NETWORK_ERROR, "too many questions in flight")
        outcome = self.tally.outcome(waiter.transport, waiter.client, codes.SERVFAIL, waiter.verdict, "miss")
        return Answered(octets, outcome)

    def complete(self, forward: Forward, octets: bytes, now: float, wall: float) -> Completed | Forward | Rejected:
        """Take an upstream's response; see the protocol."""
        try:
            return self._complete(forward, octets, now, wall)
        except Exception as error:  # noqa: BLE001 - one query's bug costs one query
            self.tally.note_error(error)
            return Rejected("malformed")

    def _complete(self, forward: Forward, octets: bytes, now: float, wall: float) -> Completed | Forward | Rejected:
        if octets[2] & codes.TC:  # what came is not looked at (RFC 2181 section 9)
            if forward.by_tcp:
                return Rejected("malformed")
            forward.by_tcp = True
            return forward
        entry, has_opt = plain.read(octets, forward.name, forward.qtype, now, self._settings.limits), octets[11] != 0
        if entry is None:
            try:
                found = response.read(octets, forward.name)
            except response.FormError:
                return Rejected("malformed")
            has_opt = found.opt_at is not None
            if forward.edns and not has_opt and found.rcode in (codes.FORMERR, codes.NOTIMP):
                forward.edns = False  # a server that knows no EDNS (RFC 6891 section 7)
                return forward
            if found.rcode not in _GOOD:
                return Rejected(_REJECTED.get(found.rcode, "rcode"))
            try:
                entry = from_response(found, forward.name, forward.qtype, now, self._settings.limits)
            except ChainError as error:
                return self.fail(forward, codes.EDE_INVALID_DATA, str(error), now, wall)
            except response.FormError:
                return Rejected("malformed")
        if self._pending.find(forward.key) is forward:
            self._failures.forget(forward.key)
            if has_opt or not forward.do:  # without OPT it is no answer to DO, and would hide the signatures
                self._cache.put(forward.key, entry)
        return self._answer_all(self._pending.end(forward), entry, now, wall, "miss")

    def give_up_on_tcp(self, forward: Forward, now: float, wall: float) -> Completed:
        """Pass a truncated answer on as such: the whole could not be fetched. Nothing is kept."""
        if forward.has_stale:
            return self.fail(forward, codes.EDE_NETWORK_ERROR, "upstream does not answer by TCP", now, wall)
        entry = Entry(codes.NOERROR, False, bytes(6), b"", (), 0, int(now), (), (), is_truncated=True)
        return self._answer_all(self._pending.end(forward), entry, now, wall, "miss")

    def fail(self, forward: Forward, ede: int, text: str, now: float, wall: float) -> Completed:
        """Give up: what is stale, else SERVFAIL, for all who wait (RFC 8767 section 5)."""
        stale = None
        if self._pending.find(forward.key) is forward:
            self._failures.note(forward.key, now)
            stale = self._cache.find(forward.key, now)
        waiters = self._pending.end(forward)
        if stale is not None:
            return self._answer_all(waiters, stale, now, wall, "stale")
        return self._answer_all(waiters, (ede, text), now, wall, "miss")

    def answer_stale(self, forward: Forward, now: float, wall: float) -> Completed:
        """Answer those who wait with what is stale; the question stays out (RFC 8767 section 5)."""
        stale = self._cache.find(forward.key, now) if self._pending.find(forward.key) is forward else None
        if stale is None:
            return Completed(())
        return self._answer_all(self._pending.release(forward), stale, now, wall, "stale")

    def _answer_all(
        self, waiters: list[Waiter], said: Entry | tuple[int, str], now: float, wall: float, cache: str
    ) -> Completed:
        """Answer those who waited. said: an answer, or the extended error and text of a failure."""
        responses, tally = [], self.tally
        for waiter in waiters:
            try:
                octets, verdict = self._late_answer(waiter, said, now, wall)
            except Exception as error:  # noqa: BLE001 - one query's bug costs one query
                tally.note_error(error)
                octets, verdict = answer.failure(waiter.query, codes.EDE_OTHER), waiter.verdict
            outcome = tally.outcome(waiter.transport, waiter.client, octets[3] & 15, verdict, cache)
            tally.count(outcome, now - waiter.since)
            responses.append((waiter.reply, octets))
        return Completed(responses)

    def _late_answer(
        self, waiter: Waiter, said: Entry | tuple[int, str], now: float, wall: float
    ) -> tuple[bytes, Verdict]:
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
        if isinstance(said, Entry):
            told = without_ech(said, waiter.query.name) if row.strip_ech else said
            is_udp = waiter.transport is Transport.UDP
            return deliver(self._policy, waiter.query, row, verdict, told, now, wall, is_udp=is_udp)
        return answer.failure(waiter.query, *said), verdict

    def limited(self) -> Mapping[str, int]:
        """Return how many queries were over the rate limit, by group."""
        return dict(self.tally.limited)

    def counters(self) -> Counters:
        """Return the counters as they stand."""
        return self.tally.counters(len(self._cache), self.suspicion.counts(self._now()))
