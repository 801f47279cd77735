"""What is wrong in a configuration, where, and what to write instead."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Path = tuple[str | int, ...]  # the keys and positions that lead to a value

SHOWN = 60  # characters of a value that a message repeats


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written."""

    file: str
    line: int | None = None  # from 1; None: the file as a whole, or an option of the command line

    def __str__(self) -> str:
        return f"{self.file}: " if self.line is None else f"{self.file}:{self.line}: "


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or that an admin ought to know."""

    file: str
    line: int | None
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{Place(self.file, self.line)}{self.text}\n  {self.remedy}"


class ConfigError(Exception):
    """A configuration that cannot be used; `problems` are all its problems, in the order of the lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = in_order(problems)
        super().__init__("\n".join(map(str, self.problems)))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort by place and drop what is said twice."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line or 0))


class Wrong(ValueError):
    """A written value that is not what its key takes; with the remedy."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.text = text
        self.remedy = remedy


class Places:
    """From the path of a value to the place where it was written."""

    def __init__(self, places: dict[Path, Place], file: str) -> None:
        self._places = places
        self._file = file

    def __contains__(self, path: Path) -> bool:
        """Tell whether the value was written, and is no default."""
        return path in self._places

    def place(self, *path: str | int) -> Place:
        """Return the place of the value, or of the nearest one around it that was written."""
        while path:
            if (place := self._places.get(path)) is not None:
                return place
            path = path[:-1]
        return Place(self._file)

    def problem(self, path: Path, text: str, remedy: str) -> Problem:
        """Return a problem with the value at `path`."""
        place = self.place(*path)
        return Problem(place.file, place.line, text, remedy)


def shown(text: str) -> str:
    """Return a written value for a message: quoted, short, and safe for terminals and logs."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")


def subject(path: Path, data: object) -> str:
    """Say in an admin's words what the value at `path` belongs to: "group 'labs': mode"."""
    match path:
        case ("groups", str(name), *rest):
            head = f"group {shown(name)}"
        case ("lists", str(name), *rest):
            head = f"list {shown(name)}"
        case ("exemptions", "entries", int(index), *rest):
            head = f"exemption {_label(data, path[:3], 'id', index)}"
        case ("forward", int(index), *rest):
            head = f"forward zone {_label(data, path[:2], 'zone', index)}"
        case _:
            head, rest = "", list(path)
    if head and rest and isinstance(rest[-1], int):
        return head  # the value itself, which the message repeats, says enough
    tail = ".".join(part for part in rest if isinstance(part, str))
    return ": ".join(filter(None, [head, tail]))


def _label(data: object, path: Path, key: str, index: int) -> str:
    entry = written(data, path)
    value = entry.get(key) if isinstance(entry, dict) else None
    return shown(value) if isinstance(value, str) and value else f"number {index + 1}"


def written(data: object, path: Path) -> object:
    """Return what the plain data hold at `path`, None where they hold nothing."""
    for part in path:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def nearest(text: str, known: Iterable[str], otherwise: str) -> str:
    """Return "did you mean 'x'?" where a known word is close to `text`, else `otherwise`."""
    found = difflib.get_close_matches(text, list(known), n=1)
    return f"did you mean {found[0]!r}?" if found else otherwise


def alternatives(words: Iterable[str]) -> str:
    """Join words as "a, b or c"."""
    *head, last = words
    return f"{', '.join(head)} or {last}" if head else last


def some(words: Iterable[str], most: int = 3) -> str:
    """Join words as "a, b, c and 4 more"."""
    every = list(words)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def walk(data: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Yield every value of the plain data with its path, the outer before the inner."""
    yield path, data
    if isinstance(data, dict):
        for key, value in data.items():
            yield from walk(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from walk(value, (*path, index))
