"""Questions that no upstream could answer, remembered for a moment: no storms of retries (RFC 9520)."""

SHORTEST_S = 1  # RFC 9520 section 3.2
LONGEST_S = 5
MOST = 10_000  # questions; the oldest is forgotten first


class Failures:
    """Failures by the cache's key; each in a row is remembered for twice as long."""

    def __init__(self) -> None:
        self.until: dict[bytes, tuple[float, int]] = {}  # key: until when, and for how long that was

    def note(self, key: bytes, now: float) -> None:
        """Remember that nobody could answer a question."""
        until, lasted = self.until.pop(key, (0.0, 0))
        lasted = min(2 * lasted, LONGEST_S) if lasted and now - until < LONGEST_S else SHORTEST_S
        if len(self.until) >= MOST:
            del self.until[next(iter(self.until))]
        self.until[key] = now + lasted, lasted

    def is_recent(self, key: bytes, now: float) -> bool:
        """Tell whether asking again is too early."""
        found = self.until.get(key)
        return found is not None and now < found[0]

    def forget(self, key: bytes) -> None:
        """An answer came."""
        self.until.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self.until.clear()
