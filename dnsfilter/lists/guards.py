"""Names that no list may block: public suffixes, and domains on which too much of other people's depends.

A guard refuses a rule for exactly such a name, whatever it covers. Rules for names below are rules like others.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib import metadata, resources
from pathlib import Path

import publicsuffixlist

from dnsfilter.core.names import BadName, Name, from_text, parent
from dnsfilter.core.rules import Rules

_PRIVATE = "===BEGIN PRIVATE DOMAINS==="  # in the list: what follows are platforms, not registries


class Guards:
    """The guarded names, each read when it is first needed."""

    @property
    def version(self) -> str:
        """Which names are guarded; another version may judge otherwise."""
        return metadata.version("publicsuffixlist")

    def refuse(self, rules: Rules, *, is_written: bool) -> dict[Name, str]:
        """Take rules for guarded names out, and return each such name with the reason.

        is_written: they stand in the configuration itself. Whoever wrote them there meant them, so only
        what a registry hands names out under is refused.
        """
        found: dict[Name, str] = {}
        for names in rules.blocked:
            found |= dict.fromkeys(
                self._suffixes_in(names), "a public suffix: all that is registered under it would go"
            )
            if not is_written:
                found |= self._shared_in(names)
        if found:
            for names in rules.blocked:
                names[:] = [name for name in names if name not in found]
        return found

    def shared(self, rules: Rules) -> dict[Name, str]:
        """Return the shared domains among what the rules block, each with the reason."""
        found: dict[Name, str] = {}
        for names in rules.blocked:
            found |= self._shared_in(names)
        return found

    def _shared_in(self, names: Iterable[Name]) -> dict[Name, str]:
        reasons = self._shared
        return {name: reasons[name] for name in reasons.keys() & names}

    def _suffixes_in(self, names: Iterable[Name]) -> Iterator[Name]:
        suffixes, above, except_for = self._registries
        yield from suffixes.intersection(names)
        for name in names:
            if name[name[0] + 1 :] in above and name not in except_for:
                yield name

    @cached_property
    def _registries(self) -> tuple[frozenset[Name], frozenset[Name], frozenset[Name]]:
        """Suffixes; names of which each name directly below is one; those below them that are none."""
        registries, _, _ = _sections()
        return _read(registries)

    @cached_property
    def _shared(self) -> Mapping[Name, str]:
        """Platforms' suffixes of the Public Suffix List, and our own table."""
        _, _, platforms = _sections()
        suffixes, above, _ = _read(platforms)
        reason = "a shared platform: each name below it is somebody else's; list those that are meant"
        found = dict.fromkeys(suffixes | {name for name in above if parent(name) != b"\0"}, reason)
        table = resources.files("dnsfilter.lists").joinpath("shared.txt").read_text(encoding="utf-8")
        for line in table.splitlines():
            text, _, owner = line.partition("#")
            if text.strip():
                found[from_text(text.strip())] = f"shared ({owner.strip()}): {reason.partition(': ')[2]}"
        return found


def _sections() -> tuple[str, str, str]:
    return Path(publicsuffixlist.PSLFILE).read_text(encoding="utf-8").partition(_PRIVATE)


def _read(section: str) -> tuple[frozenset[Name], frozenset[Name], frozenset[Name]]:
    found: tuple[set[Name], set[Name], set[Name]] = (set(), set(), set())
    for line in section.splitlines():
        text = line.split(maxsplit=1)[0] if line.strip() else ""
        if not text or text.startswith("//"):
            continue
        kind = 1 if text.startswith("*.") else 2 if text.startswith("!") else 0
        try:
            found[kind].add(from_text(text.lstrip("*.!")))
        except BadName:  # of a script that this version of IDNA does not know; nobody can register it either
            continue
    return frozenset(found[0]), frozenset(found[1]), frozenset(found[2])
