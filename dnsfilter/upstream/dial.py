"""Opening connections to one upstream: at whichever of its addresses lets us, with TLS where that is wanted."""

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.lookup import LookupFailed
from dnsfilter.upstream.tcp import SEGMENT
from dnsfilter.upstream.tls import Tls

P = TypeVar("P", bound=asyncio.Protocol)

CONNECT_S = 5.0  # for TCP, and again for TLS
SHUTDOWN_S = 1.0  # for the other side's part of a TLS close


class CannotConnect(Exception):
    """No connection; the message is for the log."""

    def __init__(self, reason: str, message: str) -> None:
        """reason: "unreachable" or "tls"."""
        super().__init__(message)
        self.reason = reason


class NotFound(CannotConnect):
    """No address of the host is known."""


class Dialler:
    """Knows which addresses of an upstream did not let us connect, and tries those last."""

    def __init__(
        self,
        host: str,
        port: int,
        loop: asyncio.AbstractEventLoop,
        hosts: Hosts,
        tls: Tls | None,
        connect_s: float = CONNECT_S,
    ) -> None:
        """host: a name or an address. tls: None for plain TCP."""
        self._host, self._port = host, port
        self._loop = loop
        self._hosts = hosts
        self._tls = tls
        self._connect_s = connect_s
        self._failed_at: dict[str, float] = {}

    async def connect(self, protocol: Callable[[], P], refuse: Callable[[P], str] = lambda _made: "") -> None:
        """Connect to the first address that lets us. Raises CannotConnect.

        protocol: makes the connection. refuse: says what is wrong with one whose handshake went well, or nothing.
        """
        try:
            addresses = await self._hosts.addresses(self._host)
        except LookupFailed as error:
            raise NotFound("unreachable", str(error)) from None
        self._failed_at = {each: at for each, at in self._failed_at.items() if each in addresses}
        failures = []
        for address in sorted(addresses, key=lambda each: self._failed_at.get(each, 0.0)):
            try:
                made = await self._connect_to(address, protocol)
                if why := refuse(made):
                    raise CannotConnect("tls", f"{address} {why}")
            except CannotConnect as error:
                failures.append(error)
                self._failed_at[address] = self._loop.time()
            else:
                self._failed_at.pop(address, None)
                return
        # That somebody answers there with a wrong certificate says more than that others do not answer.
        raise next((each for each in failures if each.reason == "tls"), failures[0])

    async def _connect_to(self, address: str, protocol: Callable[[], P]) -> P:
        try:
            sock = await self._socket(address)
        except OSError as error:  # TimeoutError is one
            why = error.strerror or str(error) or f"does not answer within {self._connect_s:g} s"
            raise CannotConnect("unreachable", f"{address} port {self._port}: {why}") from None
        tls = self._tls
        try:
            if tls is None:
                _, made = await self._loop.create_connection(protocol, sock=sock)
            else:
                _, made = await self._loop.create_connection(
                    protocol,
                    sock=sock,
                    ssl=tls.context,
                    server_hostname=tls.server_name,
                    ssl_handshake_timeout=self._connect_s,
                    ssl_shutdown_timeout=SHUTDOWN_S,
                )
        except OSError as error:  # ssl.SSLError is one
            sock.close()
            if tls is None:
                raise CannotConnect("unreachable", f"{address}: {error}") from None
            raise CannotConnect("tls", f"{address}: {tls.reason(error)}") from None
        except BaseException:
            sock.close()  # no transport may have it yet
            raise
        return made

    async def _socket(self, address: str) -> socket.socket:
        """Return a socket that is connected. Raises OSError."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        # Said to be TCP, or asyncio leaves it to wait for 40 ms before it sends little (Nagle's algorithm).
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
            async with asyncio.timeout(self._connect_s):
                await self._loop.sock_connect(sock, (address, self._port))
        except BaseException:
            sock.close()
            raise
        return sock
