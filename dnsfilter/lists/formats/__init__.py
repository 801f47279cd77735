"""The formats of lists: octets in, rules and skipped lines out. Know no files, no clients, no messages.

Runs of plain lines are taken at once; every other line goes through its reader's `read`,
which defines the format. Both give the same rules, as a property test shows.
"""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass

from dnsfilter.core.names import Name
from dnsfilter.core.rules import SKIPPED_KEPT, Match, Rules
from dnsfilter.lists.errors import BadLine, BadList
from dnsfilter.lists.formats import syntax, text
from dnsfilter.lists.formats.adblock import Adblock
from dnsfilter.lists.formats.dnsmasq import Dnsmasq
from dnsfilter.lists.formats.domains import Domains
from dnsfilter.lists.formats.hosts import Hosts
from dnsfilter.lists.formats.reader import Reader
from dnsfilter.lists.formats.rpz import Rpz

_READERS: dict[str, type[Reader]] = {
    "domains": Domains,
    "hosts": Hosts,
    "adblock": Adblock,
    "dnsmasq": Dnsmasq,
    "rpz": Rpz,
}
FORMATS: tuple[str, ...] = tuple(_READERS)

_RUN = 65_536  # octets taken at once: bounds the memory in use, and more is no faster
_LINE_TOLD = 200  # characters of a line that is found: its comment may say why it is there
_CUTS = 16  # pieces that a run with a wanted line is cut into


@dataclass(frozen=True, slots=True)
class Found:
    """A line of a list that states a rule about a name."""

    line: int  # from 1; where the rule begins
    text: str  # the line, short and safe to print
    name: Name  # the name that the rule writes


def default_match(format_name: str) -> Match | None:
    """Return what a name in a list of this format covers if the configuration says nothing; None: each line says it."""
    return _READERS[format_name].default_match


def parse(octets: bytes, format_name: str, match: Match | None) -> Rules:
    """Return the rules of a list, with the lines that are none. Raises BadList if none of them blocks.

    format_name: one of FORMATS. match: what a name without further syntax covers; None: as the format says.
    """
    reader, rules = _READERS[format_name](match), Rules()
    for number, lines, is_plain in _walk(octets, reader):
        try:
            _give(reader, lines, rules, is_plain=is_plain)
        except BadLine as error:
            if rules.skipped_count < SKIPPED_KEPT:
                rules.skip(number, text.shown(lines), _reason(lines, format_name, error))
            else:
                rules.skipped_count += 1
    reader.finish(rules)
    if not any(rules.blocked):
        raise BadList(_why_empty(rules, format_name))
    return rules


def find(octets: bytes, format_name: str, match: Match | None, wanted: Collection[Name]) -> list[Found]:
    """Return the lines of a list whose rules write one of the wanted names, in order."""
    reader, wanted, all_found = _READERS[format_name](match), frozenset(wanted), list[Found]()
    for number, lines, is_plain in _walk(octets, reader):
        if is_plain:
            all_found += _find_plain(reader, number, lines, wanted)
        else:
            all_found += _found(number, lines, _names(reader, lines, is_plain=False), wanted)
    return all_found


def _find_plain(reader: Reader, number: int, run: bytes, wanted: frozenset[Name]) -> Iterator[Found]:
    """Yield the wanted lines of a run: it is cut into ever smaller ones, and most have none."""
    names = _names(reader, run, is_plain=True)
    if wanted.isdisjoint(names):
        return
    lines = run.splitlines(keepends=True)
    if len(lines) == 1:
        yield from _found(number, run, names, wanted)
        return
    step = -(-len(lines) // _CUTS)
    for at in range(0, len(lines), step):
        yield from _find_plain(reader, number + at, b"".join(lines[at : at + step]), wanted)


def _found(number: int, line: bytes, names: list[Name], wanted: frozenset[Name]) -> Iterator[Found]:
    return (Found(number, text.shown(b" ".join(line.split()), _LINE_TOLD), name) for name in names if name in wanted)


def _walk(octets: bytes, reader: Reader) -> Iterator[tuple[int, bytes, bool]]:
    """Yield a list in parts, each with the number of its first line, and whether it is a run of plain lines."""
    octets = text.to_lines(octets)
    number, at = 1, 0
    while at < len(octets):
        run = reader.plain.match(octets, at, at + _RUN) if reader.plain else None
        end = run.end() if run else reader.end(octets, at)
        lines = octets[at:end]
        yield number, lines, run is not None
        number, at = number + lines.count(b"\n"), end


def _give(reader: Reader, lines: bytes, rules: Rules, *, is_plain: bool) -> None:
    if is_plain:
        reader.take(lines, rules)
    elif len(lines) > text.MAX_LINE:
        raise BadLine(f"{len(lines) - 1} octets long; a line has less than {text.MAX_LINE}")
    else:
        reader.read(lines, rules)


def _names(reader: Reader, lines: bytes, *, is_plain: bool) -> list[Name]:
    rules = Rules()
    with suppress(BadLine):  # `parse` has told it; the rest of the line counts
        _give(reader, lines, rules, is_plain=is_plain)
    allowed = (text.part(rules, kind, allows=True) for kind in text.KINDS)
    return [name for names in (*rules.blocked, *allowed) for name in names]


def _reason(line: bytes, format_name: str, error: BadLine) -> str:
    """Return why a line is no rule: the syntax it is in, if that is known, says more than the error."""
    looks_like = None if len(line) > text.MAX_LINE else syntax.of_line(text.shown(b" ".join(line.split()), limit=1024))
    if looks_like in (None, format_name, *_READERS[format_name].also_reads):
        return str(error)
    if looks_like == "url":
        return "a URL; write the host name alone"
    if looks_like in FORMATS:
        return f"this is {looks_like} syntax, set format: {looks_like}"
    return f"this is {looks_like} syntax, which format: {format_name} does not read"


def _why_empty(rules: Rules, format_name: str) -> str:
    if len(rules):
        return f"it blocks nothing: only allow rules, which limit this list alone; {rules.skipped_count} lines skipped"
    if not rules.skipped_count:
        return "the list has no rule: nothing in it but comments and empty lines"
    looks_like = syntax.of_lines(skipped.text for skipped in rules.skipped)
    is_known = looks_like in (None, format_name, *_READERS[format_name].also_reads)
    hint = "" if is_known else f", looks like {looks_like}"
    first = rules.skipped[0]
    return (
        f"0 of {rules.skipped_count} lines understood, expected format {format_name}{hint}; "
        f"line {first.line}: {first.text}: {first.reason}"
    )
