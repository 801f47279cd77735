"""How good lists are, against names that somebody else collected: what they miss, and what they block too much."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dnsfilter.core.names import BadName, Name, ancestry, from_text, parent, to_text
from dnsfilter.core.rules import Rules
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.source import read_file

MUST_NOT_BLOCK = "must-not-block"  # how the names of files begin whose names must stay reachable
_SECTION = "# =="


class Blocked:
    """What the rules of one list block, without an index: the same answer, written for reading.

    The most specific statement decides.
    """

    def __init__(self, rules: Rules) -> None:
        self._at = {*rules.exact, *rules.suffix}
        self._below = {*rules.suffix, *rules.below}
        self._allow_at = {*rules.allow_exact, *rules.allow_suffix}
        self._allow_below = {*rules.allow_suffix, *rules.allow_below}

    def __contains__(self, name: object) -> bool:
        assert isinstance(name, bytes)  # noqa: S101
        if name in self._allow_at:
            return False
        if name in self._at:
            return True
        for above in ancestry(parent(name)):
            if above in self._allow_below:
                return False
            if above in self._below:
                return True
        return False


@dataclass(slots=True)
class Score:
    """How lists do on one file of names, or on one section of it."""

    file: str
    section: str  # empty: the whole file
    is_wanted: bool  # whether its names ought to be blocked
    names: int = 0
    offending: list[str] = field(default_factory=list)  # missed, or blocked though they must not be

    @property
    def blocked(self) -> int:
        """How many of the names are blocked."""
        return self.names - len(self.offending) if self.is_wanted else len(self.offending)


def score(lists: Sequence[Rules], directory: Path) -> list[Score]:
    """Score lists, as one, on every *.txt file below a directory. Raises BadList.

    One name a line, `#` before comments; `# == NAME` begins a section of a must-not-block file.
    """
    blocked = [Blocked(rules) for rules in lists]
    files = sorted(directory.rglob("*.txt"))
    if not files:
        raise BadList(f"{directory} has no *.txt files to score on")
    return [found for path in files for found in _score_file(blocked, path, str(path.relative_to(directory)))]


def _score_file(blocked: Sequence[Blocked], path: Path, shown: str) -> Iterator[Score]:
    is_wanted = not path.name.startswith(MUST_NOT_BLOCK)
    for section, names in _sections(path, is_wanted=is_wanted):
        found = Score(shown, section, is_wanted)
        for name in names:
            found.names += 1
            if any(name in each for each in blocked) is not is_wanted:
                found.offending.append(to_text(name))
        if found.names:
            yield found


def _sections(path: Path, *, is_wanted: bool) -> Iterator[tuple[str, Iterable[Name]]]:
    section, names = "", dict[Name, None]()
    for line in read_file(path).decode(errors="replace").splitlines():
        if line.startswith(_SECTION) and not is_wanted:
            yield section, names
            section, names = line.removeprefix(_SECTION).strip().partition(" (")[0], {}
        text = line.partition("#")[0].strip()
        if text:
            try:
                names[from_text(text)] = None
            except BadName:
                continue
    yield section, names
