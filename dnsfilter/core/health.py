"""Which upstream to ask, and how long to wait for it: outcomes and times in, an order out. Opens nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

FAILURES_UNTIL_DOWN = 3
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 15.0  # an upstream that has come back is used again within this
SHORTEST_PATIENCE_S = 0.4  # a resolver may have to ask others first; asking twice costs little
_UNKNOWN_S = 0.01  # the response time of one that was not asked yet
_SHORTEST_S = 0.001  # response times below are equal: noise, not distance


@dataclass(slots=True)
class Health:
    """What is known of one upstream."""

    failures: int = 0  # in a row
    backoff_s: float = FIRST_BACKOFF_S
    retry_at: float = 0.0  # `now` from which one that is down may be probed
    usual_s: float = 0.0  # smoothed response time; 0: unknown
    spread_s: float = 0.0  # smoothed difference from it

    @property
    def is_up(self) -> bool:
        """Whether it is asked in its turn."""
        return self.failures < FAILURES_UNTIL_DOWN

    def succeeded(self, seconds: float) -> None:
        """It answered after so long: whatever was held against it is forgotten."""
        self.failures = 0
        self.backoff_s = FIRST_BACKOFF_S
        if self.usual_s:  # RFC 6298 section 2
            self.spread_s += (abs(self.usual_s - seconds) - self.spread_s) / 4
            # A fast answer tells more of an upstream than a slow one, for which it had to ask others.
            self.usual_s += (seconds - self.usual_s) / (8 if seconds > self.usual_s else 2)
        else:
            self.usual_s, self.spread_s = seconds, seconds / 2

    def failed(self, now: float) -> None:
        """It did not answer, or not with an answer."""
        self.failures += 1
        if self.failures == FAILURES_UNTIL_DOWN:  # many questions may fail in one moment, which is one failure
            self.retry_at = now + self.backoff_s

    def takes_probe(self, now: float) -> bool:
        """Tell whether one that is down is due to be asked again, and note that it is."""
        if self.is_up or now < self.retry_at:
            return False
        self.backoff_s = min(self.backoff_s * 2, LONGEST_BACKOFF_S)
        self.retry_at = now + self.backoff_s
        return True

    def patience_s(self, most_s: float) -> float:
        """Return for how long to wait before another one is asked beside it (RFC 1035 section 7.2)."""
        return min(most_s, max(SHORTEST_PATIENCE_S, self.usual_s + 4 * self.spread_s))


def order(states: Sequence[Health]) -> list[int]:
    """Return the upstreams in the order to try them: those that are up as configured, then the others."""
    return sorted(range(len(states)), key=lambda number: not states[number].is_up)


def balanced(states: Sequence[Health], open_: Sequence[int], drawn: float) -> list[int]:
    """Return the upstreams in the order to try them, the first drawn by how fast each is and how busy.

    open_: questions that each has not answered yet. drawn: at random from [0, 1).
    """
    weights = [
        1.0 / (max(state.usual_s or _UNKNOWN_S, _SHORTEST_S) * (1 + busy)) if state.is_up else 0.0
        for state, busy in zip(states, open_, strict=True)
    ]
    left, first = drawn * sum(weights), 0
    for number, weight in enumerate(weights):
        if weight:
            first = number
            if left < weight:
                break
            left -= weight
    rest = [number for number in order(states) if number != first]
    return [first, *rest] if weights[first] else order(states)
