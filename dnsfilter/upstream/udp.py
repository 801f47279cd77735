"""Exchanges over UDP with one upstream, from a pool of connected sockets.

A forger must guess the port of one socket out of the pool and an id (RFC 5452 section
9.2): both are drawn anew for each query. The kernel drops what comes from another address.
"""

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from dnsfilter.core.wire.response import answers

POOL = 256  # sockets
USES = 4_096  # queries after which a socket makes room for one with a new port
RESPONSE = 4_096  # octets read; we announce 1,232
_RANDOM = 4_096  # octets taken from the kernel's generator at a time

OnResponse = Callable[[bytes], None]
OnRefused = Callable[[], None]


@dataclass(slots=True)
class Exchange:
    """One query that was sent, until its response comes or nobody waits any more."""

    id: bytes
    question: bytes
    on_response: OnResponse
    on_refused: OnRefused
    port: "_Port"


@dataclass(slots=True, eq=False)
class _Port:
    sock: socket.socket
    waiting: dict[bytes, Exchange] = field(default_factory=dict)
    uses: int = 0


class UdpPool:
    """The sockets to one upstream; opened when the first query goes there."""

    def __init__(self, host: str, port: int, loop: asyncio.AbstractEventLoop, on_batch_end: Callable[[], None]) -> None:
        """on_batch_end: called when all responses that had come were handed over."""
        self._address = (host, port)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._loop = loop
        self._on_batch_end = on_batch_end
        self._is_closed = False
        self._ports: list[_Port] = []
        self._by_fd: dict[int, _Port] = {}
        self._epoll: select.epoll | None = None  # one descriptor for the loop to watch, not POOL of them
        self._random = b""
        self.ignored = 0  # responses that answer nothing that was asked

    def send(self, rest: bytes, question: bytes, on_response: OnResponse, on_refused: OnRefused) -> Exchange:
        """Send a query and return its exchange. Raises OSError where it cannot be sent.

        rest: the query without its id. question: name, type and class in it.
        """
        if not self._ports:
            if self._is_closed:
                raise OSError(errno.ENOTCONN, "this upstream is no longer configured")
            self._open()
        draw = self._draw()
        number = draw[0] % len(self._ports)
        port = self._ports[number]
        if port.uses >= USES and not port.waiting:
            port = self._renew(number)
        id_ = draw[1:]
        while id_ in port.waiting:
            id_ = self._draw()[1:]
        port.sock.send(id_ + rest)
        port.uses += 1
        exchange = Exchange(id_, question, on_response, on_refused, port)
        port.waiting[id_] = exchange
        return exchange

    def forget(self, exchange: Exchange) -> None:
        """Wait no more; a response that comes now is ignored."""
        exchange.port.waiting.pop(exchange.id, None)

    def close(self) -> None:
        """Close all sockets; nothing can be sent any more."""
        self._is_closed = True
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
        for port in self._ports:
            port.sock.close()
        self._ports.clear()
        self._by_fd.clear()

    def _draw(self) -> bytes:
        if len(self._random) < 3:
            self._random = os.urandom(_RANDOM)
        drawn, self._random = self._random[-3:], self._random[:-3]
        return drawn

    def _open(self) -> None:
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._read)
        while len(self._ports) < POOL:
            try:
                self._ports.append(self._connect())
            except OSError:
                if not self._ports:
                    raise
                break  # out of descriptors: go on with those there are

    def _connect(self) -> _Port:
        sock = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._address)  # the kernel picks a port at random
        except OSError:
            sock.close()
            raise
        port = _Port(sock)
        self._by_fd[sock.fileno()] = port
        assert self._epoll is not None  # noqa: S101
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return port

    def _renew(self, number: int) -> _Port:
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
        for fd, _events in self._epoll.poll(0, POOL):
            port = self._by_fd.get(fd)
            if port is None:
                continue
            try:
                octets = port.sock.recv(RESPONSE)
            except BlockingIOError:
                continue
            except OSError:  # nobody listens there
                refused = list(port.waiting.values())
                port.waiting.clear()
                for exchange in refused:
                    exchange.on_refused()
                continue
            waiting = port.waiting.get(octets[:2])
            if waiting is None or not answers(waiting.id, waiting.question, octets):
                self.ignored += 1
                continue
            del port.waiting[waiting.id]
            waiting.on_response(octets)
        self._on_batch_end()
