"""Exchanges over TCP and TLS with one upstream, on few connections that live long (RFC 7766, RFC 7858).

Queries are pipelined, responses come in any order. Everything here is callbacks on the loop;
the one task there is opens the next connection.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

from dnsfilter.core.wire import build
from dnsfilter.core.wire.framing import Framer, frame
from dnsfilter.core.wire.response import answers
from dnsfilter.upstream.dial import CONNECT_S, SHUTDOWN_S, CannotConnect, Dialler, NotFound
from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.tls import Tls

T = TypeVar("T", bound=Hashable)
T_contra = TypeVar("T_contra", contravariant=True)

CONNECTIONS = 2
WAITING = 1_000
IDLE_S = 10.0
BUSY = 200  # queries out on one connection that make another one worth its handshake
USES = 20_000  # queries after which a connection makes room for a fresh one: ids do not last for ever
CLOSES_EARLY_S = 60.0  # for so long a server is known to close after few answers
LOSSES = 4  # a query's connections lost, after which it fails: one that had answered others meanwhile counts 1, else 2
DOUBT_S = 1.0  # of silence, after which a query that is given up makes its connection one that may be dead
STRAYS = 64  # messages in a row that answer nothing
DRAINING = 6  # connections, beside those in use, that still wait for their last responses
TURN = 64 * 1024  # octets written to a connection in a turn of the loop: only then does it tell that they are too many
WARN_S = 60.0  # between two warnings of one upstream
_DRAWN = 1_024  # ids taken from the kernel's generator at a time

log = logging.getLogger(__name__)


class Receiver(Protocol[T_contra]):
    """Who sent the queries: told what becomes of each, once."""

    def on_answer(self, token: T_contra, octets: bytes) -> None:
        """Take a response that answers the query, whatever it says."""

    def on_failed(self, token: T_contra, reason: str) -> None:
        """No response will come: "unreachable", "tls", or "tcp" (lost, or no answer to the question)."""

    def on_batch_end(self) -> None:
        """All that was known was handed over."""


@dataclass(slots=True, eq=False)
class _Query(Generic[T]):
    """One query that somebody waits for."""

    token: T
    rest: bytes  # without its id
    question: bytes
    connection: "_Connection[T] | None" = None  # None: not sent yet
    id: bytes = b""  # on that connection
    heard: int = 0  # what its connection had answered when it was sent
    losses: int = 0  # connections that ended before its answer came, weighed


class StreamPool(Generic[T]):
    """The connections to one upstream; opened when a query needs one."""

    def __init__(
        self,
        host: str,
        port: int,
        loop: asyncio.AbstractEventLoop,
        receiver: Receiver[T],
        hosts: Hosts,
        tls: Tls | None = None,
        *,
        idle_s: float = IDLE_S,
        connect_s: float = CONNECT_S,
        most: int = CONNECTIONS,
        most_waiting: int = WAITING,
    ) -> None:
        """host: a name or an address. tls: None for plain TCP. connect_s: for TCP, and again for TLS.

        idle_s: after which a connection that is not needed is closed. most: connections in use.
        """
        self._host, self._port = host, port
        self._loop = loop
        self._receiver = receiver
        self._dialler = Dialler(host, port, loop, hosts, tls, connect_s)
        self._tls = tls
        self._most, self._most_waiting = most, most_waiting
        self.idle_s, self.stuck_s = idle_s, 2 * connect_s
        self._queries: dict[T, _Query[T]] = {}  # all that somebody waits for
        self._unsent: dict[T, _Query[T]] = {}  # those of them that no connection has
        self._connections: list[_Connection[T]] = []
        self._connecting: asyncio.Task[None] | None = None
        self._uses = USES  # for a connection; fewer where the upstream closes them earlier
        self._uses_until = 0.0
        self._more_at = 0.0  # from then on another connection may be opened beside a busy one
        self._warned_at = float("-inf")
        self._is_closed = False
        self.ignored = 0  # messages that answer nothing that was asked

    # ---- what senders call ----

    def send(self, rest: bytes, question: bytes, token: T) -> None:
        """Have a query sent; the receiver hears of its outcome later.

        Raises OSError where no more may wait, or after `close`.

        rest: the query without its id. question: name, type and class in it. token: unique among those that wait.
        """
        if self._is_closed:
            raise OSError(errno.ENOTCONN, "this upstream is no longer configured")
        if len(self._queries) >= self._most_waiting:
            raise OSError(errno.ENOBUFS, "too many queries wait for this upstream")
        if self._tls is not None:
            rest = build.padded(rest)
        self._queries[token] = self._unsent[token] = _Query(token, rest, question)
        self._pump()

    def forget(self, token: T) -> None:
        """Wait no more for this one: a response that comes now is ignored."""
        query = self._queries.pop(token, None)
        if query is None:
            return
        if query.connection is None:
            self._unsent.pop(token, None)
        else:
            query.connection.forget(query)

    def close(self) -> None:
        """Close all connections; those who wait are told nothing any more."""
        self._is_closed = True
        self._queries.clear()
        self._unsent.clear()
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in self._connections:
            connection.abort()

    # ---- queries to connections ----

    def _pump(self) -> None:
        """Give the queries that wait to connections, as far as there are any, and see to it that there will be."""
        if self._is_closed:
            return
        usable = [each for each in self._connections if each.is_usable]
        while self._unsent and usable:
            connection = min(usable, key=len) if len(usable) > 1 else usable[0]
            query = self._unsent.pop(next(iter(self._unsent)))
            connection.ask(query)
            if not connection.is_usable:
                usable.remove(connection)
        if self._connecting is None and self._wants_connection(usable):
            self._connecting = self._loop.create_task(self._connect())

    def _wants_connection(self, usable: "list[_Connection[T]]") -> bool:
        in_use = sum(each.is_in_use for each in self._connections)
        if in_use >= self._most or len(self._connections) >= self._most + DRAINING:
            return False
        if self._unsent:
            return True
        if not usable or min(map(len, usable)) <= BUSY or self._loop.time() < self._more_at:
            return False
        self._more_at = self._loop.time() + self.idle_s  # an upstream that allows but one is not asked all the time
        return True

    # ---- what connections tell ----

    def opened(self, connection: "_Connection[T]") -> None:
        """Take a connection into use."""
        if self._is_closed:
            connection.abort()
            return
        if self._loop.time() >= self._uses_until:
            self._uses = USES
        connection.uses_left = self._uses
        self._connections.append(connection)
        self._pump()

    def ready(self) -> None:
        """Note that a connection takes queries again."""
        if self._unsent:
            self._pump()

    def take(self, query: _Query[T], octets: bytes) -> None:
        """Hand a message on that came under a query's id."""
        if self._queries.pop(query.token, None) is None:
            return
        if answers(octets[:2], query.question, octets):
            self._receiver.on_answer(query.token, octets)
        else:
            self.ignored += 1
            self._receiver.on_failed(query.token, "tcp")

    def batch_end(self) -> None:
        """Tell that all that came at once was handed over."""
        self._receiver.on_batch_end()

    def remember(self, transport: asyncio.Transport) -> None:
        """Keep what makes the next handshake short."""
        if self._tls is not None:
            self._tls.remember(transport.get_extra_info("ssl_object"))

    def lost(self, connection: "_Connection[T]", left: Sequence[_Query[T]]) -> None:
        """Ask once more what a connection has left: servers close theirs at any time (RFC 7766 section 6.2.4)."""
        if connection in self._connections:
            self._connections.remove(connection)
        if self._is_closed:
            return
        failed = []
        for query in left:
            query.losses += 1 if connection.answered > query.heard else 2
            if query.losses >= LOSSES or connection.is_given_up:
                failed.append(query)
            else:
                query.connection = None
                self._unsent[query.token] = query
        if connection.answered and left:  # a server that closes after n answers gets n queries at once
            self._uses = min(self._uses, connection.answered)
            self._uses_until = self._loop.time() + CLOSES_EARLY_S
        self._fail(failed, "tcp")
        self._pump()

    def _fail(self, queries: Sequence[_Query[T]], reason: str) -> None:
        told = False
        for query in queries:
            if self._queries.pop(query.token, None) is not None:
                self._receiver.on_failed(query.token, reason)
                told = True
        if told:
            self._receiver.on_batch_end()

    # ---- connecting ----

    async def _connect(self) -> None:
        """Open one connection; where that cannot be, all that wait for one hear of it."""
        reason = ""
        try:
            await self._dialler.connect(lambda: _Connection(self, self._loop))
        except CannotConnect as error:
            reason = error.reason
            if reason == "tls" or isinstance(error, NotFound):  # what else there is, metrics tell
                self._warn(error)
        finally:
            self._connecting = None
        if not reason:
            self._pump()  # that connection may be full already, or gone
        elif not any(each.is_in_use for each in self._connections):  # else those who wait have that one
            queries = list(self._unsent.values())
            self._unsent.clear()
            self._fail(queries, reason)

    def _warn(self, failure: Exception) -> None:
        now = self._loop.time()
        if now >= self._warned_at + WARN_S:
            self._warned_at = now
            log.warning("upstream %s is not asked: %s", self.name, failure)

    @property
    def name(self) -> str:
        """The upstream as the configuration writes it."""
        where = f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"
        return where if self._tls is None else f"tls://{where}#{self._tls.server_name}"


class _Connection(asyncio.Protocol, Generic[T]):
    """One connection and the queries that are out on it."""

    def __init__(self, pool: StreamPool[T], loop: asyncio.AbstractEventLoop) -> None:
        self._pool, self._loop = pool, loop
        self._framer = Framer()
        self._transport: asyncio.Transport
        self._waiting: dict[bytes, _Query[T] | None] = {}  # by id; None: nobody waits, but a response may come
        self._live = 0  # of them, those that somebody waits for
        self._ids = b""
        self._unwritten: list[bytes] = []
        self._unwritten_size = 0  # octets
        self._is_writable = True
        self._strays = 0  # in a row
        self._quiet_since = 0.0  # the last answer, or the first query after all were answered
        self._timer: asyncio.TimerHandle | None = None
        self.uses_left = 0
        self.answered = 0
        self.is_retired = False  # takes no more queries, is closed after the last response
        self.is_given_up = False  # closed by us, since nothing good comes of it

    def __len__(self) -> int:
        """How many are out that somebody waits for."""
        return self._live

    @property
    def is_in_use(self) -> bool:
        """Whether it takes queries, now or when what is written already has gone."""
        return not self.is_retired and not self._transport.is_closing()

    @property
    def is_usable(self) -> bool:
        """Whether it takes a query now."""
        return self._is_writable and self._unwritten_size < TURN and self.is_in_use

    # ---- what the pool calls ----

    def ask(self, query: _Query[T]) -> None:
        """Send a query at the end of this turn of the loop, together with others."""
        id_ = self._draw()
        query.connection, query.id, query.heard = self, id_, self.answered
        if not self._live:
            self._quiet_since = self._loop.time()
        self._waiting[id_] = query
        self._live += 1
        if not self._unwritten:
            self._loop.call_soon(self._flush)
        self._unwritten.append(frame(id_ + query.rest))
        self._unwritten_size += len(query.rest)
        self.uses_left -= 1
        if self.uses_left <= 0:
            self.is_retired = True

    def forget(self, query: _Query[T]) -> None:
        """Keep the id only: it is not drawn again as long as a late response may come."""
        self._waiting[query.id] = None
        self._live -= 1
        if self.answered == query.heard and self._loop.time() >= self._quiet_since + DOUBT_S:
            self.is_retired = True  # nothing has come since it was sent
        self._close_if_done()

    def abort(self) -> None:
        """Close it without further words."""
        self._stop_timer()
        self._transport.abort()

    # ---- what the transport calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it into use."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._quiet_since = self._loop.time()
        self._watch()
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        """Hand on the messages that are whole."""
        self._framer.push(data)
        while (octets := self._framer.pop()) is not None and not self.is_given_up:
            self._take(octets)
        self._pool.batch_end()
        self._close_if_done()

    def pause_writing(self) -> None:
        """Take no queries while the other side does not read."""
        self._is_writable = False

    def resume_writing(self) -> None:
        """Take queries again."""
        self._is_writable = True
        self._pool.ready()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Leave to the pool what was not answered."""
        self._stop_timer()
        self.is_retired = True
        left = [query for query in self._waiting.values() if query is not None]
        self._waiting.clear()
        self._live = 0
        self._pool.lost(self, left)

    # ---- messages ----

    def _take(self, octets: bytes) -> None:
        try:
            query = self._waiting.pop(octets[:2])
        except KeyError:
            self._pool.ignored += 1
            self._strays += 1
            if self._strays > STRAYS:
                self._give_up()
            return
        self._strays = 0
        if not self.answered:
            self._pool.remember(self._transport)  # the tickets of TLS 1.3 come behind the handshake
        self.answered += 1
        self._quiet_since = self._loop.time()
        if query is not None:
            self._live -= 1
            self._pool.take(query, octets)

    def _draw(self) -> bytes:
        """Return an id that is not in use here, from the kernel's generator."""
        while True:
            if not self._ids:
                self._ids = os.urandom(2 * _DRAWN)
            id_, self._ids = self._ids[:2], self._ids[2:]
            if id_ not in self._waiting:
                return id_

    def _flush(self) -> None:
        unwritten, self._unwritten, self._unwritten_size = self._unwritten, [], 0
        if not self._transport.is_closing():
            self._transport.write(b"".join(unwritten))
        self._pool.ready()

    # ---- its end ----

    def _close_if_done(self) -> None:
        if self.is_retired and not self._live and not self._transport.is_closing():
            self._close()

    def _close(self) -> None:
        """Close it; abort it, should the other side not take what is still to be written."""
        self.is_retired = True
        self._stop_timer()
        self._transport.close()
        self._timer = self._loop.call_later(2 * SHUTDOWN_S, self._transport.abort)

    def _give_up(self) -> None:
        self.is_given_up = self.is_retired = True
        self.abort()

    def _watch(self) -> None:
        """Look again when its time may be up: one timer that is put off, not one for each query."""
        step_s = min(self._pool.idle_s, self._pool.stuck_s)
        self._timer = self._loop.call_at(min(self._due, self._loop.time() + step_s), self._on_timer)

    @property
    def _due(self) -> float:
        return self._quiet_since + (self._pool.stuck_s if self._live else self._pool.idle_s)

    def _on_timer(self) -> None:
        self._timer = None
        if self._loop.time() < self._due:
            self._watch()
        elif self._live:
            self._give_up()
        else:
            self._close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
