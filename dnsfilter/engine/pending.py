"""The questions that upstreams are being asked, who waits for each, and how many there may be."""

from collections import Counter

from dnsfilter.core.clients import address
from dnsfilter.core.limits import counted_as
from dnsfilter.engine.interface import Forward, Holder, Quick, Waiter

FEW = 2  # questions that any client may have out where there is room
PREFIXES = 65_536  # of IPv6 clients, remembered
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
        self._held: dict[Holder, int] = {}  # questions
        self._prefixes: dict[str, str] = {}

    def find(self, key: bytes) -> Forward | Quick | None:
        """Return the question if it is out and its answer may be shared."""
        return self.by_key.get(key)

    def has_room(self, zone: int) -> bool:
        """Tell whether an upstream group may be asked one more question."""
        return self.out[zone] < self._most

    def oldest(self, zone: int) -> Forward | Quick | None:
        """Return the question to an upstream group that has been out for longest, if its answer may be shared."""
        return next((each for each in self.by_key.values() if each.zone == zone), None)

    def begin(self, forward: Forward) -> bool:
        """Take in a question with who asks it first; False where too many are out, or too many of that client's.

        A client may have no more out than there is room left for: however much one asks, others find half of the
        room, and the next ones half of the rest (Choudhury and Hahne's dynamic thresholds).
        """
        zone, holder = forward.zone, self._holder(forward)
        free = self._most - self.out[zone]
        if free <= 0 or self._held.get(holder, 0) >= max(free, FEW):
            return False
        self._hold(forward, holder)
        self.out[zone] += 1
        self._waiting[zone] += 1
        self.by_key[forward.key] = forward
        return True

    def adopt(self, forward: Forward) -> None:
        """Put a question in the place of the same one that the engine asked itself."""
        self._hold(forward, self._holder(forward))
        self._waiting[forward.zone] += 1
        self.by_key[forward.key] = forward

    def _hold(self, forward: Forward, holder: Holder) -> None:
        forward.holder = holder
        self._held[holder] = self._held.get(holder, 0) + 1

    def _holder(self, forward: Forward) -> Holder:
        """Return whose question it counts as: the client's that asks first, with all that share its prefix."""
        client = forward.waiters[0].client
        if ":" not in client:
            return forward.zone, client
        known = self._prefixes.get(client)
        if known is None:
            if len(self._prefixes) >= PREFIXES:
                self._prefixes.clear()
            known = self._prefixes[client] = counted_as(address(client))
        return forward.zone, known

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
            left = self._held.pop(forward.holder, 0) - 1
            if left > 0:
                self._held[forward.holder] = left
            if self.by_key.get(forward.key) is forward:
                del self.by_key[forward.key]
        return self.release(forward)

    def forget(self) -> None:
        """Keep and share none of the answers that are still to come; those who wait get them all the same."""
        self.by_key.clear()
