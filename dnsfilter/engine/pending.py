"""The questions that upstreams are being asked, who waits for each, and how many there may be."""

from collections import Counter

from dnsfilter.engine.interface import Forward, Quick, Waiter

WAITERS_PER_QUESTION = 10  # on average; bounds what waits in all


class Pending:
    """Questions in flight, by the cache's key.

    They are counted for each upstream group, after policy and cache: one dead zone stops itself only.
    """

    def __init__(self, most: int) -> None:
        """most: questions to one upstream group."""
        self._most = most
        self.half = most // 2 + 1
        self.by_key: dict[bytes, Forward | Quick] = {}  # in the order in which they went out
        self.out: Counter[int] = Counter()  # questions, by upstream group
        self._waiting: Counter[int] = Counter()  # clients, by upstream group

    def find(self, key: bytes) -> Forward | Quick | None:
        """Return the question if it is out and its answer may be shared."""
        return self.by_key.get(key)

    def begin(self, forward: Forward) -> bool:
        """Take in a question with who asks it first; False where too many are out."""
        zone = forward.zone
        if self.out[zone] >= self._most:
            return False
        self.out[zone] += 1
        self._waiting[zone] += 1
        self.by_key[forward.key] = forward
        return True

    def adopt(self, forward: Forward) -> None:
        """Put a question in the place of the same one that the engine asked itself."""
        self._waiting[forward.zone] += 1
        self.by_key[forward.key] = forward

    def join(self, forward: Forward, waiter: Waiter) -> bool:
        """Let one more client wait for a question; False where too many wait."""
        if self._waiting[forward.zone] >= self._most * WAITERS_PER_QUESTION:
            return False
        self._waiting[forward.zone] += 1
        forward.waiters.append(waiter)
        return True

    def release(self, forward: Forward) -> list[Waiter]:
        """Return those who wait and let them go; the question stays out."""
        waiters, forward.waiters = forward.waiters, []
        self._waiting[forward.zone] -= len(waiters)
        return waiters

    def end(self, forward: Forward) -> list[Waiter]:
        """Return those who wait; the question is over."""
        if forward.is_out:
            forward.is_out = False
            self.out[forward.zone] -= 1
            if self.by_key.get(forward.key) is forward:
                del self.by_key[forward.key]
        return self.release(forward)

    def forget(self) -> None:
        """Keep and share none of the answers that are still to come; those who wait get them all the same."""
        self.by_key = {}
