"""Lists and the sets that stand for several of them. Knows no rules."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dnsfilter.config.schema import Config, ListConfig


class BuiltinInfo(Protocol):
    """What the configuration needs to know of a built-in list."""

    @property
    def category(self) -> str:
        """What its apps are: `social`, `games`."""
        ...

    @property
    def origin(self) -> str | None:
        """The country of its maker, as `CN`; None: no one country."""
        ...


def members(entry: "ListConfig", builtin: Mapping[str, BuiltinInfo]) -> tuple[str, ...]:
    """Return what a set stands for, one step deep; nothing for a list."""
    if entry.lists is not None:
        return entry.lists
    if entry.category is not None:
        return tuple(name for name, info in builtin.items() if info.category in entry.category)
    if entry.origin is not None:
        return tuple(name for name, info in builtin.items() if info.origin in entry.origin)
    return ()


def expand(config: "Config", builtin: Mapping[str, BuiltinInfo], names: Iterable[str]) -> tuple[str, ...]:
    """Return the plain lists behind `names` in their order, each set replaced by its members, each list once."""
    found: dict[str, None] = {}
    opened: set[str] = set()  # a set that comes again adds nothing new
    left = list(names)[::-1]
    while left:
        name = left.pop()
        entry = config.lists.get(name)
        if entry is None or not entry.is_set:
            found[name] = None
        elif name not in opened:
            opened.add(name)
            left.extend(reversed(members(entry, builtin)))
    return tuple(found)


def cycle(config: "Config", name: str) -> tuple[str, ...]:
    """Return the shortest way from a set back to itself, empty where there is none."""
    came_from: dict[str, str] = {}
    left = [name]
    for at in left:
        entry = config.lists.get(at)
        for member in (entry.lists or ()) if entry is not None else ():
            if member == name:
                way = [name, at]
                while way[-1] != name:
                    way.append(came_from[way[-1]])
                return tuple(reversed(way))
            if member not in came_from:
                came_from[member] = at
                left.append(member)
    return ()
