"""Messages on a stream: two octets of length before each (RFC 1035 section 4.2.2)."""

MAX_MESSAGE = 65_535


def frame(message: bytes) -> bytes:
    """Return the message with its length before it."""
    return len(message).to_bytes(2, "big") + message


class Framer:
    """Cuts a stream of octets into messages, as fast as somebody takes them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0  # of the next message; what is before it has been taken

    def push(self, octets: bytes) -> None:
        """Add what has come."""
        del self._buffer[: self._start]
        self._start = 0
        self._buffer += octets

    def pop(self) -> bytes | None:
        """Return the next message that is whole, None where there is none; one of length 0 is empty."""
        body = self._start + 2
        if len(self._buffer) < body:
            return None
        end = body + int.from_bytes(self._buffer[self._start : body], "big")
        if len(self._buffer) < end:
            return None
        self._start = end
        return bytes(self._buffer[body:end])

    @property
    def has_message(self) -> bool:
        """Whether `pop` would return one."""
        left = len(self._buffer) - self._start
        return left >= 2 and left - 2 >= int.from_bytes(self._buffer[self._start : self._start + 2], "big")
