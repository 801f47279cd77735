"""Which upstream to try next: outcomes and times in, an order out. Opens nothing."""

from dataclasses import dataclass

FAILURES_UNTIL_DOWN = 3
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 15.0  # an upstream that has come back is used again within this


@dataclass(slots=True)
class Health:
    """What is known of one upstream."""

    failures: int = 0  # in a row
    backoff_s: float = FIRST_BACKOFF_S
    retry_at: float = 0.0  # `now` from which one that is down may be probed

    @property
    def is_up(self) -> bool:
        """Whether it is asked in its turn."""
        return self.failures < FAILURES_UNTIL_DOWN

    def succeeded(self) -> None:
        """It answered: whatever was held against it is forgotten."""
        self.failures = 0
        self.backoff_s = FIRST_BACKOFF_S

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


def order(states: list[Health]) -> list[int]:
    """Return the upstreams in the order to try them: those that are up as configured, then the others."""
    return sorted(range(len(states)), key=lambda number: not states[number].is_up)
