"""Messages on a stream: two octets of length before each (RFC 1035 section 4.2.2)."""

from collections.abc import Iterator

MAX_MESSAGE = 65_535


def frame(message: bytes) -> bytes:
    """Return the message with its length before it."""
    return len(message).to_bytes(2, "big") + message


class Framer:
    """Cuts a stream of octets into messages; keeps at most one that is not whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, octets: bytes) -> Iterator[bytes]:
        """Yield each message that is whole with these octets; one of length 0 is yielded empty."""
        self._buffer += octets
        start = 0
        while len(self._buffer) - start >= 2:
            end = start + 2 + int.from_bytes(self._buffer[start : start + 2], "big")
            if end > len(self._buffer):
                break
            yield bytes(self._buffer[start + 2 : end])
            start = end
        del self._buffer[:start]

    @property
    def is_between(self) -> bool:
        """Whether no message has begun that is not whole yet."""
        return not self._buffer
