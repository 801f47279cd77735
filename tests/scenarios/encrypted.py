"""A scripted upstream over TLS or HTTPS, in a thread of its own: as `upstream` is for UDP and TCP."""

import asyncio
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from tests.scenarios.upstream import Asked, default
from tests.upstream.doh_server import NAME, Certificates, DohServer, Request

PATH = "/dns-query"
Transport = Literal["tls", "https"]


class Encrypted:
    """The upstream. Use it as a context manager; `answer` may be changed at any time."""

    def __init__(
        self, certificates: Certificates, transport: Transport, answer: Callable[[Asked], bytes] = default
    ) -> None:
        """certificates: whose authority signs its certificate, for NAME. answer: one message for each query."""
        self.answer = answer
        self.seen: list[Asked] = []
        self.port = 0
        self._transport = transport
        self._context = certificates.context(NAME, alpn=("h2",) if transport == "https" else ())
        self._doh = DohServer(self._take_request)
        self._dot: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="encrypted upstream", daemon=True)

    def as_upstream(self, host: str = "127.0.0.1") -> str:
        """It as the configuration has it, by its address or by a name."""
        path = PATH if self._transport == "https" else ""
        name = "" if host == NAME else f"#{NAME}"
        return f"{self._transport}://{host}:{self.port}{path}{name}"

    def queries(self, name: str) -> list[Asked]:
        """The queries for a name so far."""
        return [asked for asked in self.seen if asked.name == name.rstrip(".") + "."]

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        if self._transport == "https":
            await self._doh.start(self._context)
            self.port = self._doh.port
        else:
            self._dot = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._context)
            self.port = self._dot.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        await self._doh.stop()
        if self._dot is not None:
            self._dot.close()
        await asyncio.sleep(0)  # for connections that were just being accepted
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, octets: bytes) -> bytes:
        asked = Asked(octets, "tcp", ("127.0.0.1", 0))
        self.seen.append(asked)
        return self.answer(asked)

    def _take_request(self, request: Request) -> None:
        request.answer(self._take(request.body))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(2), "big")
                octets = self._take(await reader.readexactly(length))
                writer.write(struct.pack("!H", len(octets)) + octets)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)
