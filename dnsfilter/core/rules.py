"""What one list states, between its parser and the index; lives during a build only.

A list of a million names is a few flat lists of names here, never an object a rule:
where a rule stands in its source is found again when somebody asks (`dnsfilter explain`).
"""

from dataclasses import dataclass, field
from enum import StrEnum

from dnsfilter.core.names import Name

SKIPPED_KEPT = 100  # skipped lines whose text and reason are kept; all are counted


class Match(StrEnum):
    """What a name in a list without further syntax covers."""

    EXACT = "exact"  # the name alone
    SUFFIX = "suffix"  # the name and all names below it


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line that is no rule, and why; `text` is short and safe to print."""

    line: int  # from 1
    text: str
    reason: str


@dataclass(slots=True)
class Rules:
    """The rules of one list, as folded names; a name may stand in several places."""

    exact: list[Name] = field(default_factory=list)  # block this name alone
    suffix: list[Name] = field(default_factory=list)  # block it and all names below
    below: list[Name] = field(default_factory=list)  # block the names below it only
    allow_exact: list[Name] = field(default_factory=list)  # this list does not block this name,
    allow_suffix: list[Name] = field(default_factory=list)  # nor the names below it,
    allow_below: list[Name] = field(default_factory=list)  # or those below it only, whatever it says of names above
    skipped: list[Skipped] = field(default_factory=list)  # the first SKIPPED_KEPT
    skipped_count: int = 0

    def __len__(self) -> int:
        return sum(map(len, (*self.blocked, self.allow_exact, self.allow_suffix, self.allow_below)))

    @property
    def blocked(self) -> tuple[list[Name], list[Name], list[Name]]:
        """The names that block, by what they cover."""
        return self.exact, self.suffix, self.below

    def skip(self, line: int, text: str, reason: str) -> None:
        """Count a line that is no rule, and keep its reason while there is room."""
        self.skipped_count += 1
        if len(self.skipped) < SKIPPED_KEPT:
            self.skipped.append(Skipped(line, text, reason))
