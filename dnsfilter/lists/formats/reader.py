"""What a format offers: a reader, made anew for each list, that is given the parts of it in order."""

import re
from abc import ABC, abstractmethod
from typing import ClassVar

from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.formats.text import Kind


class Reader(ABC):
    """Reads one list. A part is a run of plain lines, or else one line; all end in a newline."""

    default_match: ClassVar[Match | None] = None  # what a name covers; None: each line says that itself
    also_reads: ClassVar[tuple[str, ...]] = ()  # what other syntaxes, by the words of `syntax`
    plain: re.Pattern[bytes] | None = None  # matches as many plain lines as there are

    def __init__(self, match: Match | None) -> None:
        """Read names without further syntax as `match` says; None: as the format does."""
        self._kind: Kind = "exact" if (match or self.default_match) is Match.EXACT else "suffix"

    def end(self, octets: bytes, at: int) -> int:
        """Return where the line that begins at `at` ends, its newline included."""
        return octets.index(b"\n", at) + 1

    @abstractmethod
    def take(self, run: bytes, rules: Rules) -> None:
        """Add the rules of a run of lines that `plain` matches."""

    @abstractmethod
    def read(self, line: bytes, rules: Rules) -> None:
        """Add the rules of one line, if it has any. Raises BadLine, after adding those that are right."""

    def finish(self, rules: Rules) -> None:  # noqa: B027 - most have nothing to do
        """Settle what the lines of the whole list say together."""
