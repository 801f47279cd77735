"""A DNS over HTTPS server to ask: a script of request and frames, over HTTP/2 and TLS, on the test's own loop.

It is made with h2 on the server's side; what h2 would not send goes out as raw octets.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import dns.message
import trustme
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from tests.core.make import response

NAME = "dns.example"
TYPE = ("content-type", "application/dns-message")
Headers = Sequence[tuple[str, str]]


@dataclass
class Request:
    """A request as it came, and the ways to answer it."""

    connection: "Connection"
    stream: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    @property
    def question(self) -> bytes:
        return self.body[12 : self.body.index(b"\0", 12) + 5]

    @property
    def name(self) -> str:
        return dns.message.from_wire(self.body).question[0].name.to_text(omit_final_dot=True)

    @property
    def right(self) -> bytes:
        """The right answer to any question: one address."""
        return response(self.body, f"{self.name} 300 IN A 192.0.2.1")

    def answer(self, body: bytes | None = None, status: int = 200, headers: Headers = (TYPE,)) -> None:
        """Send a response, with the right body unless another is given."""
        self.begin(status, headers)
        self.data(self.right if body is None else body, end=True)

    def begin(self, status: int = 200, headers: Headers = (TYPE,), *, end: bool = False) -> None:
        self.connection.h2.send_headers(self.stream, [(":status", str(status)), *headers], end_stream=end)
        self.connection.flush()

    def data(self, octets: bytes, *, end: bool = False) -> None:
        """Send a part of the body, as soon as the client's window lets it."""
        self.connection.unsent.append((self.stream, octets, end))
        self.connection.flush()

    def reset(self, code: int = 0) -> None:
        self.connection.h2.reset_stream(self.stream, code)
        self.connection.flush()


Script = Callable[[Request], object]


def right(request: Request) -> None:
    request.answer()


def silence(request: Request) -> None:
    """Say nothing."""


class Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, server: "DohServer") -> None:
        self.server = server
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.requests: dict[int, Request] = {}
        self.resets: list[int] = []  # streams that the client gave up
        self.unsent: deque[tuple[int, bytes, bool]] = deque()
        self.goaway: int | None = None  # the client's error code
        self.transport: asyncio.Transport
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        ssl_object = transport.get_extra_info("ssl_object")
        self.is_resumed = ssl_object is not None and ssl_object.session_reused
        self.server.connections.append(self)
        self.server.on_connect(self)
        if self.is_lost or transport.is_closing():
            return
        self.h2.initiate_connection()
        if self.server.settings:
            self.h2.update_settings(self.server.settings)
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self.transport.get_extra_info("ssl_object") is None:
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, events.RequestReceived):
                headers = [(str(name), str(value)) for name, value in event.headers]
                self.requests[event.stream_id] = Request(self, event.stream_id, headers)
                self.server.on_headers(self.requests[event.stream_id])
            elif isinstance(event, events.DataReceived):
                self.requests[event.stream_id].body += event.data
                if not self.server.keeps_window:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, events.StreamEnded):
                request = self.requests[event.stream_id]
                self.server.requests.append(request)
                self.server.script(request)
            elif isinstance(event, events.StreamReset):
                self.resets.append(event.stream_id)
            elif isinstance(event, events.ConnectionTerminated):
                self.goaway = int(event.error_code or 0)
        self.flush()

    def flush(self) -> None:
        """Write what can be written."""
        while self.unsent:
            stream, octets, end = self.unsent[0]
            if stream not in self.resets:
                if len(octets) > self.h2.local_flow_control_window(stream):
                    break
                self.h2.send_data(stream, octets, end_stream=end)
            self.unsent.popleft()
        octets = self.h2.data_to_send()
        if octets and not self.transport.is_closing():
            self.transport.write(octets)

    def raw(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Send a frame that h2 would not send."""
        self.flush()
        head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
        if not self.transport.is_closing():
            self.transport.write(head + payload)

    def go_away(self, last_stream: int, code: int = 0) -> None:
        self.raw(7, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


@dataclass
class DohServer:
    """Answers requests by its script, which may be changed at any time."""

    script: Script = right
    settings: dict[SettingCodes | int, int] = field(default_factory=dict)
    on_connect: Callable[[Connection], object] = lambda _connection: None
    on_headers: Script = silence
    keeps_window: bool = False  # gives the client no window back
    host: str = "127.0.0.1"
    port: int = 0
    connections: list[Connection] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    _server: asyncio.Server | None = None

    async def start(self, context: ssl.SSLContext | None) -> "DohServer":
        """Listen on loopback; context: None for a server without TLS."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), self.host, self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Close everything: who asks now meets a closed port."""
        if self._server is not None:
            self._server.close()
        for connection in self.connections:
            connection.transport.abort()
        for _ in range(5):
            await asyncio.sleep(0)


class Certificates:
    """An authority and what it has signed."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.ca_file = str(directory / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_file)

    def context(self, *names: str, alpn: Sequence[str] = ("h2",)) -> ssl.SSLContext:
        """A server's context with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*(names or (NAME,))).configure_cert(context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def write(self, directory: Path, *names: str) -> tuple[Path, Path]:
        """Write a certificate with its chain and its key to files, for servers of other projects."""
        issued = self._ca.issue_cert(*(names or (NAME,)))
        chain, key = directory / "server.pem", directory / "server.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return chain, key
