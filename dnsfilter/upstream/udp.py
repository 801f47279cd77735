"""Exchanges over UDP with one upstream, from a pool of connected sockets.

A forger must guess the port of one socket out of the pool and an id (RFC 5452 section
9.2): both are drawn anew for each query. The kernel drops what comes from another address.
"""

import asyncio
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from dnsfilter.core.wire.response import answers
from dnsfilter.engine.interface import Quick

T = TypeVar("T")

POOL = 256  # sockets, where there are descriptors for them
USES = 4_096  # queries after which a socket makes room for one with a new port
RESPONSE = 4_096  # octets read; we announce 1,232
_DRAWN = 1_024  # numbers taken from the kernel's generator at a time
_DRAW = struct.Struct("B2s")


@dataclass(slots=True, eq=False)
class Exchange(Generic[T]):
    """One query that was sent, until its response comes or nobody waits any more."""

    id: bytes
    question: bytes
    purpose: T  # whatever the sender knows it by
    since: float  # `now` of sending
    waiting: "Waiting[T]"

    def forget(self) -> bool:
        """Wait no more: a response that comes now is ignored. False where nobody waited."""
        if self.waiting.get(self.id) is not self:  # else the id has been drawn again
            return False
        del self.waiting[self.id]
        return True


Waiting = dict[bytes, Exchange[T] | Quick]  # what was sent from one port, by id


class Receiver(Protocol[T]):
    """Who sent the queries: told what becomes of them."""

    def on_response(self, exchange: Exchange[T], octets: bytes) -> None:
        """Take a response that answers the query."""

    def on_refused(self, exchange: Exchange[T]) -> None:
        """Nobody listens there."""

    def on_batch_end(self) -> None:
        """All responses that had come were handed over."""


class Express(Protocol):
    """Who takes the responses to what it sent itself."""

    def begin(self) -> Callable[[Quick, bytes], bool]:
        """Begin a batch of responses; return what takes each, or says that it is not that simple."""

    def end(self) -> None:
        """All responses that had come were handed over."""


def _never(_quick: Quick, _octets: bytes) -> bool:
    return False


@dataclass(slots=True, eq=False)
class _Port(Generic[T]):
    sock: socket.socket
    send: Callable[[bytes], int]  # the socket's
    recv: Callable[[int], bytes]
    waiting: Waiting[T] = field(default_factory=dict)
    uses: int = 0


class UdpPool(Generic[T]):
    """The sockets to one upstream; opened when the first query goes there."""

    def __init__(
        self, host: str, port: int, loop: asyncio.AbstractEventLoop, receiver: Receiver[T], size: int = POOL
    ) -> None:
        self._size = size
        self._address = (host, port)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._loop = loop
        self._receiver = receiver
        self._is_closed = False
        self._ports: list[_Port[T]] = []
        self._by_fd: dict[int, _Port[T]] = {}
        self._epoll: select.epoll | None = None  # one descriptor for the loop to watch, not POOL of them
        self._drawn: Iterator[tuple[int, bytes]] = iter(())
        self._unsent: list[tuple[_Port[T], bytes]] = []
        self.ignored = 0  # responses that answer nothing that was asked
        self.express: Express | None = None
        self.take_over: Callable[[Quick], Exchange[T]]  # has the receiver go on with what `express` has sent

    def send(self, rest: bytes, question: bytes, purpose: T, now: float) -> Exchange[T]:
        """Have a query sent at the end of this turn of the loop, and return its exchange.

        Raises OSError where no socket can be had.

        rest: the query without its id. question: name, type and class in it.
        """
        id_, waiting = self.post(rest)
        exchange = waiting[id_] = Exchange(id_, question, purpose, now, waiting)
        return exchange

    def post(self, rest: bytes) -> tuple[bytes, Waiting[T]]:
        """Have a query sent at the end of this turn; return its id, and where to put who waits for it.

        Raises OSError where no socket can be had.
        """
        if not self._unsent:
            if not self._ports:
                self._open()
            self._loop.call_soon(self._flush)
        drawn, id_ = next(self._drawn, None) or self._draw()
        number = drawn % len(self._ports)
        port = self._ports[number]
        waiting = port.waiting
        if port.uses >= USES and not waiting:
            port = self._renew(number)
            waiting = port.waiting
        while id_ in waiting:
            _, id_ = self._draw()
        port.uses += 1
        self._unsent.append((port, id_ + rest))
        return id_, waiting

    def _flush(self) -> None:
        """Send the queries of one turn back to back: an upstream that has gone to sleep is woken once, not for each."""
        unsent, self._unsent = self._unsent, []
        refused = []
        for port, octets in unsent:
            try:
                port.send(octets)
            except BlockingIOError:
                pass  # lost, as on any way
            except OSError:  # there is no way there, or nobody listened a moment ago
                refused.append((port.waiting, octets[:2]))
        for waiting, id_ in refused:
            if (exchange := waiting.pop(id_, None)) is not None:
                self._receiver.on_refused(self._whole(exchange))
        if refused:
            self._receiver.on_batch_end()

    def close(self) -> None:
        """Close all sockets; nothing can be sent any more."""
        self._is_closed = True
        self._unsent = []
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
        for port in self._ports:
            port.sock.close()
        self._ports.clear()
        self._by_fd.clear()

    def _draw(self) -> tuple[int, bytes]:
        """Return a number below 256 and an id, from the kernel's generator."""
        drawn = next(self._drawn, None)
        if drawn is None:
            self._drawn = _DRAW.iter_unpack(os.urandom(_DRAWN * _DRAW.size))
            drawn = next(self._drawn)
        return drawn

    def _open(self) -> None:
        if self._is_closed:
            raise OSError(errno.ENOTCONN, "this upstream is no longer configured")
        self._epoll = select.epoll()
        try:
            self._ports.append(self._connect())
            while len(self._ports) < self._size:
                self._ports.append(self._connect())
        except OSError:
            if not self._ports:
                self._epoll.close()
                self._epoll = None
                raise
            # else out of descriptors: go on with those there are
        self._loop.add_reader(self._epoll.fileno(), self._read)

    def _connect(self) -> _Port[T]:
        sock = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._address)  # the kernel picks a port at random
        except OSError:
            sock.close()
            raise
        port: _Port[T] = _Port(sock, sock.send, sock.recv)
        self._by_fd[sock.fileno()] = port
        assert self._epoll is not None  # noqa: S101
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return port

    def _renew(self, number: int) -> _Port[T]:
        old = self._ports[number]
        try:
            fresh = self._connect()
        except OSError:
            return old
        del self._by_fd[old.sock.fileno()]
        old.sock.close()
        self._ports[number] = fresh
        return fresh

    def _read(self) -> None:
        assert self._epoll is not None  # noqa: S101
        by_fd, express = self._by_fd, self.express
        on_quick = _never if express is None else express.begin()
        for fd, _events in self._epoll.poll(0, POOL):
            port = by_fd.get(fd)
            if port is None:
                continue
            try:
                octets = port.recv(RESPONSE)
            except BlockingIOError:
                continue
            except OSError:  # nobody listens there
                self._refuse(port)
                continue
            exchange = port.waiting.pop(octets[:2], None)
            if exchange.__class__ is not Quick or not on_quick(exchange, octets):
                self._take(port, exchange, octets)
        if express is not None:
            express.end()
        self._receiver.on_batch_end()

    def _take(self, port: _Port[T], exchange: Exchange[T] | Quick | None, octets: bytes) -> None:
        if exchange is None:
            self.ignored += 1
        elif answers(octets[:2], exchange.question, octets):
            self._receiver.on_response(self._whole(exchange), octets)
        else:
            self.ignored += 1
            port.waiting[octets[:2]] = exchange  # what answers something else ends nothing

    def _refuse(self, port: _Port[T]) -> None:
        refused = list(port.waiting.values())
        port.waiting.clear()
        for exchange in refused:
            self._receiver.on_refused(self._whole(exchange))

    def _whole(self, exchange: Exchange[T] | Quick) -> Exchange[T]:
        """Return an exchange that the receiver knows, of what was asked the short way too."""
        if isinstance(exchange, Exchange):
            return exchange
        assert self.express is not None  # noqa: S101
        return self.take_over(exchange)
