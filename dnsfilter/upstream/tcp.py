"""One exchange over TCP: for answers that no datagram holds (RFC 7766)."""

import asyncio
import os

from dnsfilter.core.wire.framing import frame
from dnsfilter.core.wire.response import answers


class TcpError(Exception):
    """No answer came over this connection; the message is the reason."""


async def exchange(host: str, port: int, rest: bytes, question: bytes) -> bytes:
    """Ask on a connection of its own and return the response. The caller bounds the time.

    rest: the query without its id. Raises TcpError.
    """
    id_ = os.urandom(2)
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(frame(id_ + rest))
        length = int.from_bytes(await reader.readexactly(2), "big")
        octets = await reader.readexactly(length)
    except (OSError, EOFError) as error:
        raise TcpError(str(error) or "closed") from None
    finally:
        if writer is not None:
            writer.close()
    if not answers(id_, question, octets):
        raise TcpError("another question's answer")
    return octets


class Conversations:
    """A connection for each exchange."""

    def __init__(self, host, port, receiver):
        self._host, self._port, self._receiver = host, port, receiver
        self._tasks = {}
        self._is_closed = False

    def send(self, rest, question, token):
        if self._is_closed:
            raise OSError("closed")
        self._tasks[token] = asyncio.get_running_loop().create_task(self._work(rest, question, token))

    async def _work(self, rest, question, token):
        octets = None
        for _ in range(2):
            try:
                octets = await exchange(self._host, self._port, rest, question)
                break
            except TcpError:
                continue
        del self._tasks[token]
        if octets is None:
            self._receiver.on_failed(token, "tcp")
        else:
            self._receiver.on_answer(token, octets)
        self._receiver.on_batch_end()

    def forget(self, token):
        task = self._tasks.pop(token, None)
        if task is not None:
            task.cancel()

    def close(self):
        self._is_closed = True
        for task in self._tasks.values():
            task.cancel()
