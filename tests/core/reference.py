"""What the decision should be, written a second time: plain lists of names, no masks, no index, no octets.

Names are tuples of labels, the leftmost first. Slow, and meant to be read beside the documentation.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

Name = tuple[str, ...]

CANARIES: tuple[Name, ...] = (
    ("use-application-dns", "net"),
    ("mask", "icloud", "com"),
    ("mask-h2", "icloud", "com"),
)
PRECEDENCE = ("allowed", "blocked", "exempted", "observed", "forwarded")


def is_below(name: Name, above: Name) -> bool:
    """Strictly below."""
    return len(name) > len(above) and name[len(name) - len(above) :] == above


def is_at_or_below(name: Name, above: Name) -> bool:
    return name == above or is_below(name, above)


Kind = Literal["exact", "suffix", "below", "allow_exact", "allow_suffix", "allow_below"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Rule:
    name: Name
    kind: Kind

    @property
    def is_allow(self) -> bool:
        return self.kind.startswith("allow_")

    @property
    def takes_names_below(self) -> bool:
        return not self.kind.endswith("exact")

    def matches(self, asked: Name) -> bool:
        if self.kind.endswith("exact"):
            return asked == self.name
        if self.kind.endswith("below"):
            return is_below(asked, self.name)
        return is_at_or_below(asked, self.name)


def holds(rules: Iterable[Rule], asked: Name) -> bool:
    """Whether a list with these rules holds the name: the rule of the longest name decides, of equals an allow rule."""
    matching = [rule for rule in rules if rule.matches(asked)]
    longest = max((len(rule.name) for rule in matching), default=0)
    return bool(matching) and not any(rule.is_allow for rule in matching if len(rule.name) == longest)


def takes_along(rules: Iterable[Rule], by: Rule, name: Name) -> bool:
    """Whether a rule for names below its own would reach another name, or names below that one.

    It would not where allow rules of the same list, as near or nearer, cover the name and all below it.
    """
    if by.is_allow or not by.takes_names_below or not is_below(name, by.name):
        return False
    allows = [rule for rule in rules if rule.is_allow and is_at_or_below(rule.name, by.name)]
    is_below_allowed = any(rule.takes_names_below and is_at_or_below(name, rule.name) for rule in allows)
    return not (is_below_allowed and any(rule.matches(name) for rule in allows))


@dataclass(frozen=True)
class List:
    rules: tuple[Rule, ...]
    is_observed: bool = False


@dataclass(frozen=True)
class Group:
    name: str = "managed"
    block: tuple[str, ...] = ()
    allow: tuple[Name, ...] = ()
    allow_lists: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    is_observed: bool = False
    style: str = "sinkhole"


@dataclass(frozen=True)
class Exemption:
    id: str
    lists: tuple[str, ...]
    start: float
    end: float

    def is_in_force(self, wall: float) -> bool:
        return self.start <= wall < self.end

    def next_change(self, wall: float) -> float:
        return min(
            (moment for moment in (self.start, self.end) if moment > wall and self.start < self.end), default=math.inf
        )


@dataclass(frozen=True)
class World:
    lists: Mapping[str, List] = field(default_factory=dict)
    protected: tuple[Name, ...] = ()

    def names(self, list_name: str, asked: Name) -> bool:
        """Whether the list holds the name, whatever follows from that."""
        return holds(self.lists[list_name].rules, asked)

    def blocks(self, list_name: str, asked: Name) -> bool:
        """The same without what is protected: those names, all below them, and what would take them along.

        Above a protected name a list blocks what it names alone. What it names with names below it
        it does not block at all, neither the name nor those below, unless it lets the protected name out itself.
        """
        if any(is_at_or_below(asked, name) for name in self.protected):
            return False
        rules = self.lists[list_name].rules
        taking = {rule.name for rule in rules if any(takes_along(rules, rule, name) for name in self.protected)}
        return holds([rule for rule in rules if rule.is_allow or rule.name not in taking], asked)


@dataclass(frozen=True)
class Expected:
    action: str
    list_name: str = ""
    exemptions: frozenset[str] = frozenset()  # those that may be named
    style: str | None = None
    valid_s: int | None = None
    via: Name | None = None


def judge(
    world: World, group: Group, exemptions: Iterable[Exemption], name: Name, wall: float, *, is_qname: bool
) -> Expected:
    """Judge one name: the qname, or a link of the chain."""
    if any(is_at_or_below(name, allowed) for allowed in group.allow):
        return Expected("allowed")
    if any(world.names(each, name) for each in group.allow_lists):
        return Expected("allowed")

    def is_enforced(list_name: str) -> bool:
        return not group.is_observed and not world.lists[list_name].is_observed

    enforces = any(map(is_enforced, group.block)) or (bool(group.only) and not group.is_observed)
    if enforces and any(is_at_or_below(name, canary) for canary in CANARIES):
        return Expected("blocked", "canary", style="nxdomain")

    matching = [each for each in group.block if world.blocks(each, name)]
    concerned = [each for each in exemptions if set(each.lists) & set(matching)]
    in_force = [each for each in concerned if each.is_in_force(wall)]
    lifted = [each for each in matching if any(each in exemption.lists for exemption in in_force)]
    left = [each for each in matching if each not in lifted]
    change = min((each.next_change(wall) for each in concerned), default=math.inf)
    valid_s = None if change == math.inf else max(1, math.floor(change - wall))
    is_outside = is_qname and bool(group.only) and not any(world.names(each, name) for each in group.only)

    for list_name in filter(is_enforced, left):
        return Expected("blocked", list_name, style=group.style, valid_s=valid_s)
    if is_outside and not group.is_observed:
        return Expected("blocked", "only", style=group.style, valid_s=valid_s)
    for list_name in filter(is_enforced, lifted):
        lifting = frozenset(each.id for each in in_force if list_name in each.lists)
        return Expected("exempted", list_name, lifting, valid_s=valid_s)
    for list_name in left:
        return Expected("observed", list_name, valid_s=valid_s)
    if is_outside:
        return Expected("observed", "only", valid_s=valid_s)
    return Expected("forwarded", valid_s=valid_s)


def judge_answer(
    world: World, group: Group, exemptions: Iterable[Exemption], qname: Name, chain: Iterable[Name], wall: float
) -> Expected:
    """Judge a whole answer: the qname, then the names of its chain in order."""
    every = list(exemptions)
    verdict = judge(world, group, every, qname, wall, is_qname=True)
    if verdict.action in ("allowed", "blocked"):
        return verdict
    links = [(name, judge(world, group, every, name, wall, is_qname=False)) for name in chain]
    times = [found.valid_s for found in (verdict, *(link for _, link in links)) if found.valid_s is not None]
    for action in PRECEDENCE[1:]:
        if verdict.action == action:
            break
        found = next(((name, link) for name, link in links if link.action == action), None)
        if found is not None:
            verdict = replace(found[1], via=found[0])
            break
    return replace(verdict, valid_s=min(times, default=None))
