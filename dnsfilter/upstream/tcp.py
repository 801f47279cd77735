"""One exchange over TCP: for answers that no datagram holds (RFC 7766)."""

import asyncio
import os

from dnsfilter.core.wire.framing import frame
from dnsfilter.core.wire.response import answers

SEGMENT = 1_220  # octets: fits every path of IPv6; nobody may tell that a way takes less than it says


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
