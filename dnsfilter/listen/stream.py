"""DNS over TCP (RFC 7766): pipelining, answers in any order, and clients that waste our time."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import cast

from dnsfilter.core.wire.framing import Framer, frame
from dnsfilter.engine.interface import Answered, Clock, Engine, Forward, Joined, Transport

CONNECTIONS = 1_000  # in all; over it the longest idle one makes room
PER_CLIENT = 250
IN_FLIGHT = 250  # queries on one connection; a client that has more is not read from
TURN = 64  # messages of one connection taken in a turn of the loop
FIRST_QUERY_S = 5.0  # a connection that asks nothing
IDLE_S = 10.0  # one that has asked, and one that sends half a message
STUCK_S = 30.0  # one whose client does not take its answers
HIGH_WATER = 64 * 1024  # octets of unsent answers before reading stops


class StreamListeners:
    """All TCP connections of the process, bounded in number, time and memory."""

    def __init__(
        self,
        engine: Engine,
        on_forward: Callable[[Forward], None],
        now: Clock,
        wall: Clock,
        most: int = CONNECTIONS,
    ) -> None:
        """most: connections in all; never more than half of the descriptors there are."""
        self.engine = engine
        self.on_forward = on_forward
        self.now = now
        self.wall = wall
        self._most = most
        self._connections: dict[StreamListener, None] = {}  # the longest idle first
        self._by_client: defaultdict[str, dict[StreamListener, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._connections)

    def protocol(self) -> "StreamListener":
        """Return a protocol for the next connection; made for `loop.create_server`."""
        return StreamListener(self)

    def opened(self, connection: "StreamListener") -> None:
        """Take a connection in, and another one out where there are too many."""
        own = self._by_client[connection.client]
        if len(own) >= PER_CLIENT:
            next(iter(own)).abort()
        elif len(self._connections) >= self._most:
            next(iter(self._connections)).abort()
        self.touched(connection)

    def touched(self, connection: "StreamListener") -> None:
        """Note that a connection was of use just now."""
        for group in (self._connections, self._by_client[connection.client]):
            group.pop(connection, None)
            group[connection] = None

    def closed(self, connection: "StreamListener") -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)
        own = self._by_client[connection.client]
        own.pop(connection, None)
        if not own:
            del self._by_client[connection.client]

    def sweep(self) -> None:
        """End the connections whose time is up; to be called about once a second."""
        now = self.now()
        for connection in list(self._connections):
            if now >= connection.expires and not connection.is_waiting:
                connection.abort()

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._connections):
            connection.abort()


class StreamListener(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, listeners: StreamListeners) -> None:
        self._all = listeners
        self._framer = Framer()
        self._in_flight = 0
        self._is_writable = True
        self._is_taking = False
        self._next_turn: asyncio.Handle | None = None
        self._transport: asyncio.Transport
        self.client = ""
        self.expires = 0.0  # `now` at which the connection is ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        peer = self._transport.get_extra_info("peername")
        self.client = peer[0] if peer else ""
        self.expires = self._all.now() + FIRST_QUERY_S
        self._all.opened(self)
        if not self.client:  # gone before it was accepted
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Forget the connection; answers that come later go nowhere."""
        self._all.closed(self)

    def data_received(self, data: bytes) -> None:
        """Answer the messages that are whole."""
        self._framer.push(data)
        self._go_on()

    def eof_received(self) -> bool:
        """Keep the connection for answers that are still to come (RFC 7766 section 6.2.4)."""
        return self._in_flight > 0

    def pause_writing(self) -> None:
        """Stop reading: who does not read is not read from."""
        self._is_writable = False
        self.expires = self._all.now() + STUCK_S

    def resume_writing(self) -> None:
        """Go on."""
        self._is_writable = True
        self.expires = self._all.now() + IDLE_S
        self._go_on()

    @property
    def is_waiting(self) -> bool:
        """Whether its client takes answers and one is still to come."""
        return self._is_writable and self._in_flight > 0

    def abort(self) -> None:
        """End the connection at once."""
        self._all.closed(self)
        self._transport.abort()

    def _take(self, message: bytes) -> None:
        now = self._all.now()
        self._all.touched(self)
        if self._is_writable:
            self.expires = now + IDLE_S
        result = self._all.engine.step(message, self.client, Transport.TCP, now, self._all.wall(), self._late_reply)
        if isinstance(result, Answered):
            self._send(result.octets)
        elif isinstance(result, Joined):
            self._in_flight += 1
        elif isinstance(result, Forward):
            self._in_flight += 1
            self._all.on_forward(result)

    def _late_reply(self, octets: bytes) -> None:
        self._in_flight -= 1
        if self._is_writable:
            self.expires = max(self.expires, self._all.now() + IDLE_S)
        self._send(octets)
        self._go_on()

    def _send(self, octets: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(frame(octets))

    @property
    def _is_ready(self) -> bool:
        """Whether the client takes its answers and has not too many questions out."""
        return self._is_writable and self._in_flight < IN_FLIGHT and not self._transport.is_closing()

    def _go_on(self) -> None:
        """Take messages while the client is ready for answers, some a turn; read on when all are taken."""
        if self._is_taking:
            return
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        self._is_taking = True
        for _ in range(TURN):
            if not self._is_ready or (message := self._framer.pop()) is None:
                break
            self._take(message)
        self._is_taking = False
        if self._transport.is_closing():
            return
        if not self._is_ready:
            self._transport.pause_reading()
        elif self._framer.has_message:
            self._transport.pause_reading()
            self._next_turn = asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._transport.resume_reading()
