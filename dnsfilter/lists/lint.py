"""What an author of lists would want to know: repetitions, names in the wrong list, entries without a reason."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from dnsfilter.core.names import Name, to_text
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists import formats
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats import text
from dnsfilter.lists.guards import Guards

MOST = 1_000  # findings of one kind in one list that are kept, the first; all are counted
_SHORTEST = 4  # letters of a list's name that mean something within a domain name
_BARE_LINE = re.compile(rb"^[ \t]*(?![#!])([^\s#]+)[ \t]*(?:[ \t]#[ \t]*)?$", re.MULTILINE)
_REASONED_LINE = re.compile(rb"^[ \t]*(?![#!])[^\s#]+[ \t]+#[ \t]*\S", re.MULTILINE)


class Kind(StrEnum):
    """What may be said of an entry."""

    UNUSABLE = "unusable"  # of the whole list
    SKIPPED = "skipped"
    REPEATED = "repeated"
    REDUNDANT = "redundant"
    IN_TWO_LISTS = "in two lists"
    MISPLACED = "misplaced"
    NO_EVIDENCE = "no evidence"


@dataclass(frozen=True, slots=True)
class Listed:
    """A list to judge."""

    name: str
    octets: bytes
    format: str
    match: Match | None
    is_written: bool = False  # it stands in the configuration itself: line n is its n-th name


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about one entry."""

    kind: Kind
    list_name: str
    line: int  # from 1; 0: the list as a whole
    name: str  # of a skipped line: what it begins with; empty: the list as a whole
    text: str


@dataclass(slots=True)
class Report:
    """All findings, in the order of lists and lines."""

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[tuple[str, Kind]] = field(default_factory=Counter)  # by list and kind, those not kept too


Reasons = dict[Name, str]  # what is to be said of names, in the order in which they stand


def lint(lists: Sequence[Listed], guards: Guards, known: Iterable[str] = ()) -> Report:
    """Judge lists, each for itself and against those before it.

    known: names of further lists, whose products an entry may belong to.
    """
    report = Report()
    products = {each.name for each in lists} | set(known)
    first: dict[Name, str] = {}  # the list in which each name stood first
    for each in lists:
        try:
            findings = _judge(each, guards, products, first, report.counts)
        except BadList as error:
            report.counts[each.name, Kind.UNUSABLE] += 1
            findings = [Finding(Kind.UNUSABLE, each.name, 0, "", str(error))]
        report.findings += sorted(findings, key=lambda finding: finding.line)
    return report


def _judge(
    listed: Listed,
    guards: Guards,
    products: Collection[str],
    first: dict[Name, str],
    counts: Counter[tuple[str, Kind]],
) -> list[Finding]:
    """Judge one list, and add its names to `first`. Raises BadList."""
    rules = formats.parse(listed.octets, listed.format, listed.match)
    findings = [
        Finding(Kind.SKIPPED, listed.name, skipped.line, skipped.text, skipped.reason) for skipped in rules.skipped
    ]
    found: dict[Kind, Reasons] = {Kind.SKIPPED: guards.refuse(rules, is_written=listed.is_written)}
    names = dict.fromkeys(name for part in rules.blocked for name in part)
    found[Kind.REPEATED] = _repeated(rules, names)
    found[Kind.REDUNDANT] = _redundant(rules, names)
    found[Kind.IN_TWO_LISTS] = {name: f"is in list '{first[name]}' too" for name in names if name in first}
    found[Kind.MISPLACED] = _misplaced(names, listed.name, products)
    for name in names:
        first.setdefault(name, listed.name)
    told = {
        Kind.SKIPPED: rules.skipped_count + len(found[Kind.SKIPPED]),
        Kind.REPEATED: sum(map(len, rules.blocked)) - sum(len(set(part)) for part in rules.blocked),
        **{kind: len(found[kind]) for kind in (Kind.REDUNDANT, Kind.IN_TWO_LISTS, Kind.MISPLACED)},
    }
    findings += _placed(listed, found)
    if listed.format == "domains" and not listed.is_written:  # others have no room for a reason
        told[Kind.NO_EVIDENCE], bare = _without_evidence(listed)
        findings += bare
    counts.update({(listed.name, kind): n for kind, n in told.items() if n})
    return findings


def _repeated(rules: Rules, names: Iterable[Name]) -> Reasons:
    more = {name for part in rules.blocked if len(part) > len(set(part)) for name, n in Counter(part).items() if n > 1}
    return {name: "is in this list already" for name in names if name in more} if more else {}


def _redundant(rules: Rules, names: Iterable[Name]) -> Reasons:
    """Find names that a rule above them covers, with no allow rule of the list between the two."""
    covering = {*rules.suffix, *rules.below}
    allowed = {*rules.allow_exact, *rules.allow_suffix, *rules.allow_below}
    twice = set(rules.suffix).intersection(rules.exact) if rules.exact else set[Name]()
    found = {}
    for name in names:
        if name in twice:
            found[name] = "is covered by the rule for it and all below it"
            continue
        above = name[name[0] + 1 :]  # as `parent`, and the loop as `ancestry`: a million names take their time
        while len(above) > 1:
            if above in allowed:
                break
            if above in covering:
                found[name] = f"is covered by {to_text(above)}"
                break
            above = above[above[0] + 1 :]
    return found


def _misplaced(names: Iterable[Name], own: str, products: Iterable[str]) -> Reasons:
    """Find names that carry another list's name: perhaps they belong there."""
    others = [each for each in products if len(each) >= _SHORTEST and each not in own]
    if not others:
        return {}
    pattern = re.compile("|".join(map(re.escape, sorted(others, key=len, reverse=True))).encode())
    found = {}
    for name in names:
        hit = pattern.search(name)
        if hit is not None and own.encode() not in name:
            found[name] = f"is named like list '{hit[0].decode()}'; does it belong there?"
    return found


def _placed(listed: Listed, found: Mapping[Kind, Reasons]) -> Iterator[Finding]:
    """Yield what was found with its lines, as far as it is kept."""
    kept: dict[Name, list[tuple[Kind, str]]] = {}
    for kind, reasons in found.items():
        for name, _ in zip(reasons, range(MOST), strict=False):
            kept.setdefault(name, []).append((kind, reasons[name]))
    if not kept:
        return
    left, seen = Counter(dict.fromkeys(found, MOST)), dict[Name, int]()
    for line in formats.find(listed.octets, listed.format, listed.match, kept):
        for kind, reason in kept[line.name]:
            is_again = line.name in seen
            if is_again is (kind is Kind.REPEATED) and left[kind] > 0:
                left[kind] -= 1
                said = f"{reason}, line {seen[line.name]}" if is_again else reason
                yield Finding(kind, listed.name, line.line, to_text(line.name), said)
        seen.setdefault(line.name, line.line)


def _without_evidence(listed: Listed) -> tuple[int, list[Finding]]:
    """Count the names of a list of format domains without a comment behind them that says why they are there.

    Return the number, and one finding for all where the list never does so, else one for each.
    """
    lines = text.to_lines(listed.octets)
    count = sum(1 for _ in _BARE_LINE.finditer(lines))
    if count and _REASONED_LINE.search(lines) is None:
        return count, [Finding(Kind.NO_EVIDENCE, listed.name, 0, "", "no entry says behind a # why it is there")]
    return count, list(_bare_lines(listed.name, lines))


def _bare_lines(list_name: str, lines: bytes) -> Iterator[Finding]:
    at, number = 0, 1
    for bare, _ in zip(_BARE_LINE.finditer(lines), range(MOST), strict=False):
        number += lines.count(b"\n", at, bare.start())
        at = bare.start()
        yield Finding(
            Kind.NO_EVIDENCE, list_name, number, text.shown(bare[1]), "does not say behind a # why it is there"
        )
