"""HTTP/2 towards one server: how h2 is set up, and what a server may send before it counts as a flood (RFC 9113)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import hpack
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from dnsfilter.core.wire.framing import MAX_MESSAGE

LAST_STREAM = 2**31 - 1
MAX_FRAME = 16_384  # octets; we announce no more (RFC 9113 section 4.2)
MAX_HEADERS = 16_384  # octets of one header block, and of the list in it
# Every frame costs a credit. What is not paid for by a query or by time is a flood.
CREDIT = 1_000  # of a new connection
CREDIT_MOST = 4_000
CREDIT_PER_QUERY = 16  # its answer in frames of a few hundred octets, and updates of windows
CREDIT_PER_S = 100  # SETTINGS, PING and the like
SETTINGS_PER_CREDIT = 64  # octets

HEADERS, SETTINGS, GOAWAY, CONTINUATION = 1, 4, 7, 9  # frame types
END_HEADERS = 4

_CONFIG = H2Configuration(  # bytes in and out; our own headers are right, and of the server's we read two
    client_side=True,
    header_encoding=None,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
)
_SETTINGS = {
    SettingCodes.ENABLE_PUSH: 0,
    SettingCodes.INITIAL_WINDOW_SIZE: MAX_MESSAGE,  # the longest message fits without an update
    SettingCodes.MAX_FRAME_SIZE: MAX_FRAME,
    SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS,
}


def connection() -> H2Connection:
    """Return a client's side of a connection, its preface not sent yet."""
    made = H2Connection(_CONFIG)
    made.encoder = _Encoder()
    made.local_settings = Settings(client=True, initial_values=_SETTINGS)
    del made.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]  # not for clients to send
    return made


class Flood(Exception):
    """A server that sends what costs us and gives nothing; the message says what."""


class _Encoder(hpack.Encoder):
    """Writes our headers without the table of earlier ones: equal headers are equal octets, made once."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[tuple[Any, ...], bytes] = {}

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:
        """Return a header block (RFC 7541)."""
        key = tuple(headers)
        if self.table_size_changes:  # has to be told in the next block (RFC 7541 section 4.2)
            return super().encode(map(_never_indexed, key), huffman)
        made = self._made.get(key)
        if made is None:  # one for each length of a message, and those are padded
            made = self._made[key] = super().encode(map(_never_indexed, key), huffman)
        return made


def _never_indexed(header: tuple[bytes, bytes]) -> hpack.NeverIndexedHeaderTuple:
    return hpack.NeverIndexedHeaderTuple(*header)


@dataclass(frozen=True, slots=True)
class Goaway:
    """A server that ends a connection."""

    last_stream: int  # that it may still answer
    code: int


class Gate:
    """Cuts what comes into frames and counts them, before h2 works on them. Raises Flood.

    GOAWAY is told apart: h2 takes it for the end, though answers may still come (RFC 9113 section 6.8).
    """

    def __init__(self, now: float) -> None:
        self._rest = b""
        self._credit = float(CREDIT)
        self._since = now
        self._block = 0  # octets of the header block that is not whole yet

    def paid(self) -> None:
        """A query was sent."""
        self._credit += CREDIT_PER_QUERY

    def feed(self, octets: bytes, now: float) -> Iterator[bytes | Goaway]:
        """Yield what is whole: frames in a row, and GOAWAY."""
        self._credit = min(self._credit + (now - self._since) * CREDIT_PER_S, CREDIT_MOST)
        self._since = now
        if self._rest:
            octets = self._rest + octets
            self._rest = b""
        start = at = 0
        size = len(octets)
        while size - at >= 9:
            length = int.from_bytes(octets[at : at + 3], "big")
            if length > MAX_FRAME:
                raise Flood(f"a frame of {length} octets")
            end = at + 9 + length
            if end > size:
                break
            kind = octets[at + 3]
            self._charge(kind, octets[at + 4], length)
            if kind == GOAWAY and length >= 8:
                if at > start:
                    yield octets[start:at]
                last, code = octets[at + 9 : at + 13], octets[at + 13 : at + 17]
                yield Goaway(int.from_bytes(last, "big") & LAST_STREAM, int.from_bytes(code, "big"))
                start = end
            at = end
        if at > start:
            yield octets[start:at]
        self._rest = octets[at:]

    def _charge(self, kind: int, flags: int, length: int) -> None:
        self._credit -= 1 + (length // SETTINGS_PER_CREDIT if kind == SETTINGS else 0)
        if self._credit < 0:
            raise Flood("more frames than queries account for")
        if kind in (HEADERS, CONTINUATION):
            self._block += length
            if self._block > MAX_HEADERS:
                raise Flood(f"headers of more than {MAX_HEADERS} octets")
            if flags & END_HEADERS:
                self._block = 0
