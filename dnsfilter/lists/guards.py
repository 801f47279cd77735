"""Names that no list may block: public suffixes, and domains on which too much of other people's depends.

A guard refuses a rule for exactly such a name, whatever it covers. Rules for names below are rules like others.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata, resources
from pathlib import Path

import publicsuffixlist

from dnsfilter.core.names import BadName, Name, from_text
from dnsfilter.core.rules import Rules

_PRIVATE = "===BEGIN PRIVATE DOMAINS==="  # in the Public Suffix List: what follows are platforms, not registries
_REGISTRY = "a public suffix: all that is registered under it would go"
_PLATFORM = "a platform of many owners: each name below it is somebody else's; list those that are meant"
_SHARED = "too much of other people's depends on it; of the names below it, list those that are meant"


@dataclass(frozen=True, slots=True)
class _Table:
    """Guarded names, each with the reason."""

    names: dict[Name, str]
    below: dict[Name, str]  # each name directly below one of these is guarded,
    spared: frozenset[Name]  # but for these

    def __or__(self, other: "_Table") -> "_Table":
        return _Table(self.names | other.names, self.below | other.below, self.spared | other.spared)

    def find(self, rules: Rules) -> dict[Name, str]:
        """Return the guarded names among what the rules block."""
        reasons, below, found = self.names, self.below, dict[Name, str]()
        for names in rules.blocked:
            found.update((name, reasons[name]) for name in reasons.keys() & names)
            # One cut a name: of a million names that is most of what guards cost.
            hits = [name for name in names if name[name[0] + 1 :] in below]
            found.update((name, below[name[name[0] + 1 :]]) for name in hits if name not in self.spared)
        return found


class Guards:
    """The guarded names, each table read when it is first needed."""

    @cached_property
    def version(self) -> str:
        """Which names are guarded; another version may judge otherwise."""
        return f"{metadata.version('publicsuffixlist')} {hashlib.sha256(_our_table().encode()).hexdigest()[:8]}"

    def refuse(self, rules: Rules, *, is_written: bool) -> dict[Name, str]:
        """Take rules for guarded names out, and return each such name with the reason. Allow rules stay.

        is_written: they stand in the configuration itself. Whoever wrote them there meant them, so only
        what a registry hands names out under is refused.
        """
        found = (self._registries if is_written else self._all).find(rules)
        if found:
            for names in rules.blocked:
                names[:] = [name for name in names if name not in found]
        return found

    def shared(self, rules: Rules) -> dict[Name, str]:
        """Return the shared domains among what the rules block, each with the reason."""
        return self._shared.find(rules)

    @cached_property
    def _all(self) -> _Table:
        return self._registries | self._shared

    @cached_property
    def _registries(self) -> _Table:
        registries, _, _ = _suffix_list()
        return _suffixes(registries, _REGISTRY)

    @cached_property
    def _shared(self) -> _Table:
        _, _, platforms = _suffix_list()
        return _suffixes(platforms, _PLATFORM) | _Table(dict(_ours()), {}, frozenset())


def _suffix_list() -> tuple[str, str, str]:
    return Path(publicsuffixlist.PSLFILE).read_text(encoding="utf-8").partition(_PRIVATE)


def _suffixes(section: str, reason: str) -> _Table:
    """Read a section of the Public Suffix List. The name below which all are suffixes is guarded like them."""
    names, below, spared = dict[Name, str](), dict[Name, str](), set[Name]()
    for line in section.splitlines():
        text = line.partition(" ")[0].strip()
        if not text or text.startswith("//"):
            continue
        try:
            name = from_text(text.lstrip("*.!"))
        except BadName:  # of a script that this version of IDNA does not know; nobody can register it either
            continue
        if text.startswith("!"):
            spared.add(name)
        else:
            names[name] = reason
            if text.startswith("*."):
                below[name] = reason
    return _Table(names, below, frozenset(spared))


def _our_table() -> str:
    return resources.files("dnsfilter.lists").joinpath("shared.txt").read_text(encoding="utf-8")


def _ours() -> Iterator[tuple[Name, str]]:
    for line in _our_table().splitlines():
        text, _, owner = line.partition("#")
        if text.strip():
            yield from_text(text.strip()), f"{owner.strip()}: {_SHARED}"
