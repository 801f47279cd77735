"""Format `adblock`: what ad blockers' syntax says of host names, read as AdGuard Home reads it.

`||name^` covers a name and all below it, `@@` before a rule makes an exception. An exception wins
over all blocks of its list, however near they stand; `$important` wins over what is not important.
The index knows no such order, it takes what is said of the longest name: `finish` leaves out what
does not count. A rule that would cover more than it says is never loaded: rules with modifiers
that mean nothing here, paths, parts of names.
"""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import product

from dnsfilter.core.names import Name
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.errors import BadLine
from dnsfilter.lists.formats import hosts, regex, text
from dnsfilter.lists.formats.reader import Reader
from dnsfilter.lists.formats.text import KINDS, Kind, part

_PAGE_MARK = r"#[@?$%]{0,3}#"  # element hiding, styles, scriptlets, and exceptions from them
_PAGE = re.compile(rf"{_PAGE_MARK}|\$@?\$")  # those, and HTML filters
_IGNORED = re.compile(rf"\s*+(?:$|!|\[(?!\$)[^]]*]\s*$|#+(?:\s|$)|(?!{_PAGE_MARK})#)".encode())
_COMMENT = re.compile(rf"\s(?!{_PAGE_MARK})#".encode())

# What stands before and behind a name, and what the rule then covers. The first that fits counts.
_HEADS: tuple[tuple[str, Kind], ...] = (
    ("||*.", "below"),
    ("||", "suffix"),
    ("|", "exact"),
    ("*.", "below"),
    (".", "below"),
    ("", "exact"),
)
_ENDS = ("^|", "^", "|", "")

# Modifiers that take nothing from what a rule covers: all kinds of requests, and underscores for the eye.
# Those of AdGuard Home for clients, types and answers are not among them, nor are unknown ones.
_HARMLESS = re.compile(r"all|_+")
_OBEYED = ("important", "badfilter")
_EXPRESSION = re.compile(r"(/.+/)(?:\$(.*))?")  # may have a $ of its own


class Adblock(Reader):
    also_reads = ("hosts", "domains", "regular expression")
    plain = re.compile(
        rb"(?:\|\|%(name)b\^\n)+|(?:%(name)b\n)+|(?:@@\|\|%(name)b\^\n)+|(?:%(hosts)b)+"
        % {b"name": text.PLAIN_NAME, b"hosts": hosts.PLAIN_LINE}
    )

    def __init__(self, match: Match | None) -> None:
        super().__init__(match)
        self._important = Rules()  # those of the rules that are
        self._withdrawn = Rules()  # by `$badfilter`, and
        self._important_withdrawn = Rules()

    def take(self, run: bytes, rules: Rules) -> None:
        if run.startswith(b"||"):
            rules.suffix += text.plain_names(run[2:-2].lower().split(b"^\n||"))
        elif run.startswith(b"@@"):
            rules.allow_suffix += text.plain_names(run[4:-2].lower().split(b"^\n@@||"))
        elif b" " in run or b"\t" in run:
            rules.exact += hosts.plain_names(run)
        else:
            rules.exact += text.plain_names(run.lower().split())

    def read(self, line: bytes, rules: Rules) -> None:
        if _IGNORED.match(line):
            return
        rule = text.decode(_COMMENT.split(line, maxsplit=1)[0])
        allows = rule.startswith("@@")
        try:
            self._read(rule.removeprefix("@@"), rules, allows=allows)
        except BadLine as error:
            if not allows:
                raise
            raise BadLine(f"{error}; what it allows stays blocked") from None

    def _read(self, rule: str, rules: Rules, *, allows: bool) -> None:
        words = rule.partition("#")[0].split()
        if len(words) > 1 and text.is_address(words[0]):
            hosts.add_names(words, part(rules, "exact", allows=allows))
            return
        if _PAGE.search(rule):
            raise BadLine("a rule for what is on pages; DNS sees host names only")
        if len(words) > 1:
            raise BadLine("more than one word; write one rule a line")
        pattern, modifiers = _cut(rule)
        unread = [each for each in modifiers if each not in _OBEYED and not _HARMLESS.fullmatch(each)]
        if unread and "badfilter" in modifiers:
            return  # it withdraws a rule that is not read either
        if unread:
            shown = text.shown(unread[0].partition("=")[0].encode(), 30)
            raise BadLine(f"the modifier ${shown} is not read, and without it the rule would cover more than it says")
        kind, name = _rule(pattern)
        is_important = "important" in modifiers
        if "badfilter" in modifiers:
            part(self._important_withdrawn if is_important else self._withdrawn, kind, allows=allows).append(name)
            return
        part(rules, kind, allows=allows).append(name)
        if is_important:
            part(self._important, kind, allows=allows).append(name)

    def finish(self, rules: Rules) -> None:
        for kind, allows in product(KINDS, (False, True)):
            _subtract(part(rules, kind, allows=allows), part(self._important, kind, allows=allows))
            _withdraw(part(rules, kind, allows=allows), part(self._withdrawn, kind, allows=allows))
            _withdraw(part(self._important, kind, allows=allows), part(self._important_withdrawn, kind, allows=allows))
        surely_open = _Covered.by(self._important, allows=True)
        surely_blocked = _Covered.by(self._important).besides(surely_open)
        opened = surely_open | _Covered.by(rules, allows=True).besides(surely_blocked)
        for kind in KINDS:
            part(rules, kind, allows=True)[:] = opened.part(kind)
            blocked = part(rules, kind)
            if opened.below:
                blocked[:] = [name for name in blocked if not _is_under(name, opened.below)]
            blocked += surely_blocked.part(kind)


@dataclass(frozen=True, slots=True)
class _Covered:
    """What rules cover: names, and names all below which is meant."""

    at: frozenset[Name]
    below: frozenset[Name]

    @classmethod
    def by(cls, rules: Rules, *, allows: bool = False) -> "_Covered":
        exact, suffix, below = (part(rules, kind, allows=allows) for kind in KINDS)
        return cls(frozenset(exact).union(suffix), frozenset(below).union(suffix))

    def __or__(self, other: "_Covered") -> "_Covered":
        return _Covered(self.at | other.at, self.below | other.below)

    def besides(self, other: "_Covered") -> "_Covered":
        """Return what is left of this where the other comes first."""
        at = (name for name in self.at - other.at if not _is_under(name, other.below))
        below = (name for name in self.below - other.below if not _is_under(name, other.below))
        return _Covered(frozenset(at), frozenset(below))

    def part(self, kind: Kind) -> list[Name]:
        """Return the names of the rules of one kind that cover the same."""
        found = {"exact": self.at - self.below, "suffix": self.at & self.below, "below": self.below - self.at}
        return sorted(found[kind])


def _is_under(name: Name, above: frozenset[Name]) -> bool:
    while len(name := name[name[0] + 1 :]) > 1:
        if name in above:
            return True
    return False


def _subtract(names: list[Name], some: list[Name]) -> None:
    """Take some of the names out, each as often as it stands there."""
    left, kept = Counter(some), []
    if not left:
        return
    for name in names:
        if left[name]:
            left[name] -= 1
        else:
            kept.append(name)
    names[:] = kept


def _withdraw(names: list[Name], withdrawn: list[Name]) -> None:
    """Take names out, however often they stand there."""
    if withdrawn:
        gone = frozenset(withdrawn)
        names[:] = [name for name in names if name not in gone]


def _cut(rule: str) -> tuple[str, list[str]]:
    """Return the pattern of a rule, and its modifiers."""
    if found := _EXPRESSION.fullmatch(rule):
        pattern, modifiers = found.groups()
    else:
        pattern, sign, modifiers = rule.partition("$")
        modifiers = modifiers if sign else None
    return pattern, [] if modifiers is None else modifiers.split(",")


def _rule(pattern: str) -> tuple[Kind, Name]:
    """Return what a pattern covers. Raises BadLine."""
    if _EXPRESSION.fullmatch(pattern):
        return regex.rule_of(pattern)
    head, kind = next((head, kind) for head, kind in _HEADS if pattern.startswith(head))
    end = next(end for end in _ENDS if pattern.endswith(end))
    name = pattern[len(head) :].removesuffix(end)
    if "/" in name:
        raise BadLine("a path or a URL; DNS sees host names only")
    if "*" in name:
        raise BadLine("a * may only be the first label, as in ||*.host.example^")
    if ":" in name:
        raise BadLine("a port or a colon; DNS sees host names only")
    if kind == "exact" and bool(head) != bool(end):
        raise BadLine("it would match parts of other names; write ||host.example^")
    return kind, text.rule_name(name)
