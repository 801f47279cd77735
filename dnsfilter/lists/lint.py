"""What an author of lists would want to know: repetitions, names in the wrong list, entries without a reason."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from dnsfilter.core.names import Name, ancestry, parent, to_text
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists import formats
from dnsfilter.lists.errors import BadList

MOST = 1_000  # findings of one kind in one list that are kept; all are counted
_SHORTEST = 4  # letters of a list's name that mean something within a domain name
_BARE_LINE = re.compile(rb"^[ \t]*(?![ \t#!])[^\s#]+[ \t]*$", re.MULTILINE)
_REASONED_LINE = re.compile(rb"^[ \t]*(?![ \t#!])[^\s#]+[ \t]+#", re.MULTILINE)


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


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about one entry."""

    list_name: str
    kind: Kind
    line: int  # from 1; 0: the list as a whole
    text: str


@dataclass(slots=True)
class Report:
    """All findings, in the order of lists and lines."""

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[tuple[str, Kind]] = field(default_factory=Counter)  # by list and kind, those not kept too


def lint(lists: Sequence[Listed], known: Collection[str] = ()) -> Report:
    """Judge lists, each for itself and against the others.

    known: names of further lists, whose products an entry may belong to.
    """
    report = Report()
    products = {each.name for each in lists} | set(known)
    first: dict[Name, str] = {}
    for each in lists:
        try:
            rules = formats.parse(each.octets, each.format, each.match)
        except BadList as error:
            report.counts[each.name, Kind.UNUSABLE] += 1
            report.findings.append(Finding(each.name, Kind.UNUSABLE, 0, str(error)))
            continue
        found: defaultdict[Kind, dict[Name, str]] = defaultdict(dict)
        found[Kind.REPEATED] = _repeated(rules)
        found[Kind.REDUNDANT] = _redundant(rules)
        found[Kind.IN_TWO_LISTS] = _elsewhere(rules, first)
        found[Kind.MISPLACED] = _misplaced(rules, each.name, products)
        first |= dict.fromkeys(_blocked(rules) - first.keys(), each.name)
        _place(report, each, found)
        report.counts[each.name, Kind.SKIPPED] += rules.skipped_count
        report.findings += [
            Finding(each.name, Kind.SKIPPED, skipped.line, f"{skipped.reason}: {skipped.text}")
            for skipped in rules.skipped
        ]
        _without_evidence(report, each)
    order = {each.name: number for number, each in enumerate(lists)}
    report.findings.sort(key=lambda finding: (order[finding.list_name], finding.line))
    report.counts += Counter()  # without zeros
    return report


def _blocked(rules: Rules) -> set[Name]:
    return {name for names in rules.blocked for name in names}


def _repeated(rules: Rules) -> dict[Name, str]:
    found = {}
    for names in rules.blocked:
        if len(names) > len(set(names)):
            found.update({name: f"stands here {n} times" for name, n in Counter(names).items() if n > 1})
    return found


def _redundant(rules: Rules) -> dict[Name, str]:
    above = {*rules.suffix, *rules.below}
    allowed = {*rules.allow_exact, *rules.allow_suffix, *rules.allow_below}
    found = {}
    for name in _blocked(rules):
        for each in ancestry(parent(name)):
            if each in allowed:
                break
            if each in above:
                found[name] = f"{to_text(each)} in this list covers it already"
                break
    return found


def _elsewhere(rules: Rules, first: Mapping[Name, str]) -> dict[Name, str]:
    return {name: f"stands in list '{first[name]}' as well" for name in _blocked(rules) & first.keys()}


def _misplaced(rules: Rules, own: str, products: Iterable[str]) -> dict[Name, str]:
    """Find names that carry another list's name: perhaps they belong there."""
    others = [each for each in products if each != own and len(each) >= _SHORTEST and each not in own]
    if not others:
        return {}
    pattern = re.compile("|".join(map(re.escape, sorted(others, key=len, reverse=True))).encode())
    found = {}
    for name in _blocked(rules):
        match = pattern.search(name)
        if match is not None and own.encode() not in name:
            found[name] = f"is named like list '{match.group().decode()}'; does it belong there?"
    return found


def _place(report: Report, listed: Listed, found: Mapping[Kind, Mapping[Name, str]]) -> None:
    """Find the lines of what was found, as far as it is kept."""
    kept: dict[Name, list[tuple[Kind, str]]] = {}
    for kind, names in found.items():
        report.counts[listed.name, kind] += len(names)
        for name in sorted(names)[:MOST]:
            kept.setdefault(name, []).append((kind, names[name]))
    if not kept:
        return
    for line in formats.find(listed.octets, listed.format, listed.match, kept):
        for kind, text in kept.pop(line.name, ()):
            report.findings.append(Finding(listed.name, kind, line.line, f"{to_text(line.name)}: {text}"))


def _without_evidence(report: Report, listed: Listed) -> None:
    """A comment behind a name says why it is there; only format domains has room for one."""
    if listed.format != "domains":
        return
    bare = sum(1 for _ in _BARE_LINE.finditer(listed.octets))
    if not bare:
        return
    report.counts[listed.name, Kind.NO_EVIDENCE] += bare
    if _REASONED_LINE.search(listed.octets) is None:
        report.findings.append(Finding(listed.name, Kind.NO_EVIDENCE, 0, "no entry says why it is there"))
        return
    report.findings += _bare_lines(listed)


def _bare_lines(listed: Listed) -> Iterator[Finding]:
    at, line = 0, 1
    for number, match in enumerate(_BARE_LINE.finditer(listed.octets)):
        if number == MOST:
            return
        line += listed.octets.count(b"\n", at, match.start())
        at = match.start()
        text = formats.text.shown(match.group())
        yield Finding(listed.name, Kind.NO_EVIDENCE, line, f"{text}: nothing says why it is there; write it behind a #")
