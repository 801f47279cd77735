"""Who may pass which block, why, and until when. Knows no storage."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exemption:
    """A permission to pass blocks, as the client rows that it contains hold it.

    In force from `start` to before `end`, both in seconds since the epoch and compared at each
    query: no timer starts or ends an exemption.
    """

    id: str  # public: it stands in metrics
    lists: int  # mask of the lists whose blocks it lifts
    start: float
    end: float

    def is_in_force(self, wall: float) -> bool:
        """Tell whether it counts at this moment."""
        return self.start <= wall < self.end

    def next_change(self, wall: float) -> float | None:
        """Return the moment of its next start or end, None when it is over."""
        if wall < self.start:
            return self.start
        return self.end if wall < self.end else None
