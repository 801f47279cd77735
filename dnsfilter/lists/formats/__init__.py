"""The formats of lists: octets in, rules and skipped lines out. Know no files, no clients, no messages.

Runs of plain lines are taken at once; every other line goes through its format's `read`,
which defines the format. Both give the same rules, as a property test shows.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from dnsfilter.core.names import Name
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.errors import BadLine, BadList
from dnsfilter.lists.formats import domains, hosts, syntax, text


class _Format(Protocol):
    """What a module of this room offers."""

    DEFAULT_MATCH: Match
    PLAIN: re.Pattern[bytes]  # matches as many plain lines as there are

    def plain_names(self, run: bytes, /) -> list[Name]: ...  # one a line
    def read(self, line: bytes, match: Match, rules: Rules, /) -> None: ...  # any line; raises BadLine


_FORMATS: dict[str, _Format] = {"domains": domains, "hosts": hosts}
FORMATS: tuple[str, ...] = tuple(_FORMATS)

_RUN = 65536  # octets taken at once: bounds the memory in use, and more is no faster


@dataclass(frozen=True, slots=True)
class Found:
    """A line of a list that states a rule about a name."""

    line: int  # from 1
    text: str  # the line, short and safe to print
    name: Name  # the name that the rule writes


def default_match(format_name: str) -> Match:
    """Return what a name in a list of this format covers if the configuration says nothing."""
    return _FORMATS[format_name].DEFAULT_MATCH


def parse(octets: bytes, format_name: str, match: Match) -> Rules:
    """Return the rules of a list, with the lines that are none. Raises BadList if it has no rule at all.

    format_name: one of FORMATS. match: what a name without further syntax covers.
    """
    reader, rules = _FORMATS[format_name], Rules()
    names = text.names_of(rules, match)
    for number, lines, found in _walk(octets, reader):
        if found is not None:
            names += found
            continue
        try:
            reader.read(lines, match, rules)
        except BadLine as error:
            rules.skip(number, text.shown(lines), _reason(lines, format_name, error))
    if not len(rules):
        raise BadList(_why_empty(rules, format_name))
    return rules


def find(octets: bytes, format_name: str, match: Match, wanted: Collection[Name]) -> list[Found]:
    """Return the lines of a list whose rules write one of the wanted names, in order."""
    reader, wanted, all_found = _FORMATS[format_name], frozenset(wanted), list[Found]()
    for number, lines, names in _walk(octets, reader):
        if names is None:
            hits = [name for name in _names_of_line(reader, lines, match) if name in wanted]
            all_found += [Found(number, text.shown(lines), name) for name in hits]
        elif not wanted.isdisjoint(names):
            places = [(at, name) for at, name in enumerate(names) if name in wanted]
            texts = lines.split(b"\n")
            all_found += [Found(number + at, text.shown(texts[at]), name) for at, name in places]
    return all_found


def _walk(octets: bytes, reader: _Format) -> Iterator[tuple[int, bytes, list[Name] | None]]:
    """Yield runs of plain lines with their names, and every other line with None; first the line's number."""
    octets = text.to_lines(octets)
    number, at = 1, 0
    while at < len(octets):
        names: list[Name] | None = None
        if run := reader.PLAIN.match(octets, at, at + _RUN):
            names, end = reader.plain_names(run.group()), run.end()
        else:
            end = octets.index(b"\n", at) + 1
        yield number, octets[at : end - 1], names
        number, at = number + (1 if names is None else len(names)), end


def _names_of_line(reader: _Format, line: bytes, match: Match) -> list[Name]:
    rules = Rules()
    with suppress(BadLine):  # `parse` has told it; the rest of the line counts
        reader.read(line, match, rules)
    return rules.exact + rules.suffix + rules.below


def _reason(line: bytes, format_name: str, error: BadLine) -> str:
    """Return why a line is no rule: the syntax it is in, if that is known, says more than the error."""
    looks_like = syntax.of_line(text.shown(b" ".join(line.split()), limit=1024))
    if looks_like in (None, format_name):
        return str(error)
    if looks_like == "url":
        return "a URL; write the host name alone"
    if looks_like in FORMATS:
        return f"this is {looks_like} syntax, set format: {looks_like}"
    return f"this is {looks_like} syntax, which format: {format_name} does not read"


def _why_empty(rules: Rules, format_name: str) -> str:
    if not rules.skipped_count:
        return "the list has no rule: nothing in it but comments and empty lines"
    looks_like = syntax.of_lines(skipped.text for skipped in rules.skipped)
    hint = f", looks like {looks_like}" if looks_like not in (None, format_name) else ""
    first = rules.skipped[0]
    return (
        f"0 of {rules.skipped_count} lines understood, expected format {format_name}{hint}; "
        f"line {first.line}: {first.text}: {first.reason}"
    )
