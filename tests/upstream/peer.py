"""A resolver to ask: a script of question and reply, over UDP and TCP, on the test's own loop."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from dnsfilter.core.wire.framing import frame
from tests.core.make import response

Said = bytes | Sequence[bytes] | None
Script = Callable[["Asked"], Said]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """A query as it came."""

    octets: bytes
    is_tcp: bool
    port: int  # it came from

    @property
    def has_opt(self) -> bool:
        return self.octets[10:12] != b"\0\0"

    @property
    def question(self) -> bytes:
        return self.octets[12 : self.octets.index(b"\0", 12) + 5]


def address(asked: Asked) -> bytes:
    """Answer any question with one address."""
    name = "".join(chr(octet) for octet in asked.question[1:-5]).translate(dict.fromkeys(range(32), "."))
    return response(asked.octets, f"{name} 300 IN A 192.0.2.1")


def silence(asked: Asked) -> Said:
    return None


@dataclass
class Peer:
    """Answers what it is asked by its script, which may be changed at any time."""

    script: Script = address
    asked: list[Asked] = field(default_factory=list)
    after_s: float = 0.0
    host: str = "127.0.0.1"
    port: int = 0
    handler: Handler | None = None  # of TCP connections, in place of the script
    _udp: socket.socket | None = None
    _tcp: socket.socket | None = None
    _server: asyncio.Server | None = None
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def start(self, *, has_tcp: bool = True) -> "Peer":
        """Take a port for UDP and TCP; without TCP, connections are refused."""
        while self._udp is None:
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.bind((self.host, 0))
            self.port = udp.getsockname()[1]
            try:
                tcp.bind((self.host, self.port))
            except OSError:  # free for UDP alone: another
                udp.close()
                tcp.close()
                continue
            self._udp, self._tcp = udp, tcp
        if has_tcp:
            self._server = await asyncio.start_server(self.handler or self._serve, sock=self._tcp)
        asyncio.get_running_loop().add_reader(self._udp.fileno(), self._read)
        return self

    def _read(self) -> None:
        assert self._udp is not None
        try:
            while True:
                octets, client = self._udp.recvfrom(65_535)
                asked = Asked(octets, False, client[1])
                self.asked.append(asked)
                asyncio.get_running_loop().call_later(self.after_s, self._reply, asked, client)
        except BlockingIOError:
            return

    def _reply(self, asked: Asked, client: tuple[str, int]) -> None:
        for octets in replies(self.script(asked)):
            if self._udp is not None:
                self._udp.sendto(octets, client)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(2), "big")
                asked = Asked(await reader.readexactly(length), True, writer.get_extra_info("peername")[1])
                self.asked.append(asked)
                said = self.script(asked)
                if said is None:
                    continue
                for octets in replies(said):
                    writer.write(frame(octets) if octets else b"")
                    if not octets:  # says that the connection is to be closed
                        return
        except (OSError, EOFError):
            return
        finally:
            writer.close()

    def queries(self, *, tcp: bool | None = None) -> int:
        return sum(tcp is None or asked.is_tcp is tcp for asked in self.asked)

    async def stop(self) -> None:
        """Close everything: who asks now meets a closed port."""
        if self._udp is not None:
            asyncio.get_running_loop().remove_reader(self._udp.fileno())
            self._udp.close()
            self._udp = None
        if self._server is not None:
            self._server.close()
        if self._tcp is not None:
            self._tcp.close()
        for writer in self._writers:
            writer.close()
        for _ in range(5):  # the connections' tasks end
            await asyncio.sleep(0)


def replies(said: Said) -> Sequence[bytes]:
    return [] if said is None else [said] if isinstance(said, bytes) else said
