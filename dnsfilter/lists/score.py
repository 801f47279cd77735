"""How good lists are, against names that somebody else collected: what they miss, and what they block too much."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dnsfilter.core.names import BadName, Name, ancestry, from_text, parent, to_text
from dnsfilter.core.rules import Rules
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.source import read_file

MUST_NOT_BLOCK = "must-not-block"  # how the names of files begin whose names must stay reachable
_SECTION = "# =="


class Blocked:
    """What the rules of one list block: what the index answers, from plain sets."""

    def __init__(self, rules: Rules) -> None:
        self._at = {*rules.exact, *rules.suffix}
        self._below = {*rules.suffix, *rules.below}
        self._open_at = {*rules.allow_exact, *rules.allow_suffix}
        self._open_below = {*rules.allow_suffix, *rules.allow_below}

    def blocks(self, name: Name) -> bool:
        """Tell whether the list blocks a name. What is said nearer to it decides; of one name, what is allowed."""
        if name in self._open_at:
            return False
        if name in self._at:
            return True
        for above in ancestry(parent(name)):
            if above in self._open_below:
                return False
            if above in self._below:
                return True
        return False


@dataclass(slots=True)
class Score:
    """How lists do on one file of names, or on one section of it."""

    file: str
    section: str  # empty: what stands before the first, or all of a file of names to block
    is_wanted: bool  # whether its names ought to be blocked
    names: int = 0
    blocked: int = 0
    unread: int = 0  # lines that are no names, which count as nothing
    offending: list[str] = field(default_factory=list)  # missed, or blocked though they must not be

    @property
    def share(self) -> float:
        """The part of its names that is blocked: recall, or else over-blocking."""
        return self.blocked / self.names if self.names else 0.0


def score(lists: Sequence[Rules], directory: Path) -> list[Score]:
    """Score lists, as one, on every *.txt file below a directory. Raises BadList.

    One name a line, `#` before comments; `# == NAME` begins a section of a must-not-block file.
    """
    blocked = [Blocked(rules) for rules in lists]
    files = sorted(directory.rglob("*.txt"))
    if not files:
        raise BadList(f"{directory} has no *.txt files to score on")
    found = list[Score]()
    for path in files:
        is_wanted = not path.name.startswith(MUST_NOT_BLOCK)
        found += _score(blocked, read_file(path), str(path.relative_to(directory)), is_wanted=is_wanted)
    return found


def _score(blocked: Sequence[Blocked], octets: bytes, file: str, *, is_wanted: bool) -> Iterator[Score]:
    """Yield a score for each section that has names. A name counts once in each."""
    found, seen = Score(file, "", is_wanted), set[Name]()
    for line in octets.decode("utf-8-sig", errors="replace").splitlines():
        if line.startswith(_SECTION) and not is_wanted:
            if found.names or found.unread:
                yield found
            found, seen = Score(file, line.removeprefix(_SECTION).partition("(")[0].strip(), is_wanted), set()
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            name = from_text(text)
        except BadName:
            found.unread += 1
            continue
        if name not in seen:
            seen.add(name)
            _count(found, name, is_blocked=any(each.blocks(name) for each in blocked))
    if found.names or found.unread:
        yield found


def _count(found: Score, name: Name, *, is_blocked: bool) -> None:
    found.names += 1
    found.blocked += is_blocked
    if is_blocked is not found.is_wanted:
        found.offending.append(to_text(name))
