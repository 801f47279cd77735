"""An HTTPS server that publishes lists, or what comes in their place: a script of path and reply.

It has an authority of its own, `ca_file`: trusted through the environment variable SSL_CERT_FILE, in this process or
in another. Each connection is a thread and serves one request.
"""

import contextlib
import gzip
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import trustme

HOST = "lists.example"
NAMES = (HOST, "other.example", "127.0.0.1")  # that the certificate is for
EXPIRED, STRANGER = "expired.example", "stranger.example"  # hosts with certificates of their own that are no good


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    target: str  # path and query
    headers: Mapping[str, str]  # by name in lower case
    sni: str | None  # the host that TLS was begun for

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered.

    framing: how the body's end is told. close: by the end of the connection, which TLS says too.
    is_cut: the connection ends without a word behind the body, whatever the framing promised.
    """

    body: bytes | Iterable[bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    reason: str = "As Scripted"
    framing: Literal["length", "chunked", "close"] = "length"
    length: int | None = None  # what Content-Length says, where that is not true
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Raw:
    """Octets instead of HTTP."""

    octets: bytes


Said = Reply | Raw
Script = Callable[[Asked], Said]


def text(body: bytes, **headers: str) -> Reply:
    """A body with headers; `_` in their names stands for `-`."""
    return Reply(body, {name.replace("_", "-"): value for name, value in headers.items()})


def gzipped(body: bytes, **more: str) -> Reply:
    """A body packed for the way."""
    return text(gzip.compress(body), Content_Encoding="gzip", **more)


def redirect(to: str, status: int = 302) -> Reply:
    return Reply(b"over there", {"Location": to}, status)


def bomb(size: int) -> bytes:
    """One gzip member that unpacks to so many zeros, a multiple of 1 MiB; its checksum at the end is none."""
    packer = zlib.compressobj(9, wbits=31)
    piece = bytes(1 << 20)
    head = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    same = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)  # each further one begins anew, at a whole octet
    return head + same * (size // len(piece) - 1)


class ListServer:
    """The server. Use it as a context manager; `on` may be called at any time."""

    def __init__(self, directory: Path, names: tuple[str, ...] = NAMES) -> None:
        """directory: for the certificates. names: that the server's own is for."""
        authority = trustme.CA()
        self.ca_file = directory / "authority.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.asked: list[Asked] = []
        self.errors: list[BaseException] = []  # of scripts: a broken script is a broken test
        self.is_mute = False  # connections are taken, and nothing is said, not even TLS
        self._scripts: dict[str, list[Said | Script]] = {}
        self._contexts = {
            EXPIRED: self._context(authority.issue_cert(EXPIRED, not_after=datetime(2020, 1, 1, tzinfo=UTC))),
            STRANGER: self._context(trustme.CA().issue_cert(STRANGER)),
        }
        self._own = self._context(authority.issue_cert(*names))
        self._own.sni_callback = self._begun
        self._sni: dict[int, str | None] = {}  # by the TLS connection's identity
        self._news = threading.Condition()
        self._is_over = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]

    def url(self, path: str = "/t.txt", host: str = HOST) -> str:
        """The URL of a path here."""
        return f"https://{host}:{self.port}{path}"

    def on(self, path: str, *said: Said | Script) -> None:
        """Say what is answered at a path: to each request the next, and the last for ever."""
        self._scripts[path] = list(said)

    def paths(self) -> list[str]:
        """The paths asked for so far."""
        return [each.path for each in self.asked]

    def wait(self, path: str, count: int = 1, timeout_s: float = 10.0) -> list[Asked]:
        """Wait until a path was asked for so often, and return the requests."""
        with self._news:
            assert self._news.wait_for(lambda: self.paths().count(path) >= count, timeout_s), self.asked
            return [each for each in self.asked if each.path == path]

    def dripping(self, piece: bytes, every_s: float) -> Iterator[bytes]:
        """A body that never ends and comes drop by drop."""
        yield piece
        while not self._is_over.wait(every_s):
            yield piece

    def stalling(self, piece: bytes) -> Iterator[bytes]:
        """A body that begins, and does not go on."""
        yield piece
        self._is_over.wait()

    # life

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
        if kind is None:
            assert not self.errors, self.errors

    def _spawn(self, work: Callable[..., None], *words: object) -> None:
        thread = threading.Thread(target=work, args=words, name="list server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            self._spawn(self._serve, connection)

    # one connection

    def _context(self, certificate: trustme.LeafCert) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context

    def _begun(self, tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self._sni[id(tls)] = name
        if name in self._contexts:
            tls.context = self._contexts[name]

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self.is_mute:
                self._is_over.wait()
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(30)
            with self._own.wrap_socket(connection, server_side=True) as tls:
                self._open.add(tls)
                self._answer(tls)
        except (OSError, ValueError):  # the client has gone, or does not like the certificate, or all is over
            pass
        finally:
            connection.close()

    def _answer(self, tls: ssl.SSLSocket) -> None:
        asked = _read(tls, self._sni.pop(id(tls), None))
        with self._news:
            self.asked.append(asked)
            scripts = self._scripts.get(asked.path, [Reply(b"nothing here", status=404, reason="Not Found")])
            script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
            self._news.notify_all()
        try:
            said = script(asked) if callable(script) else script
        except Exception as error:
            self.errors.append(error)
            raise OSError("a broken script") from error
        if isinstance(said, Raw):
            tls.sendall(said.octets)
            return
        _send(tls, said)
        if not said.is_cut:
            # Says that the end is wanted. The other side has no need to answer: its silence is an error to Python.
            tls.settimeout(5)
            tls.unwrap()


def _read(tls: ssl.SSLSocket, sni: str | None) -> Asked:
    octets = b""
    while b"\r\n\r\n" not in octets:
        if not (more := tls.recv(65_536)):
            raise ConnectionError("no request")
        octets += more
    first, *lines = octets.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Asked(first.split(" ")[1], headers, sni)


def _send(tls: ssl.SSLSocket, reply: Reply) -> None:
    headers = dict(reply.headers)
    pieces = [reply.body] if isinstance(reply.body, bytes) else reply.body
    if reply.framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
    elif reply.framing == "length":
        body = reply.body if isinstance(reply.body, bytes) else b""
        headers["Content-Length"] = str(len(body) if reply.length is None else reply.length)
    head = [f"HTTP/1.1 {reply.status} {reply.reason}", *(f"{name}: {value}" for name, value in headers.items())]
    tls.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
    for piece in pieces:
        tls.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if reply.framing == "chunked" and piece else piece)
    if reply.framing == "chunked" and not reply.is_cut:
        tls.sendall(b"0\r\n\r\n")
