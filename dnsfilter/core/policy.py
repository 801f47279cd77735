"""The policy: one immutable snapshot, and the decision over it. Knows no messages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache

from dnsfilter.core.addresses import AddressRules
from dnsfilter.core.clients import ClientRow, Clients, Style
from dnsfilter.core.exemptions import Exemption
from dnsfilter.core.index import NOTHING, Hit, Index
from dnsfilter.core.names import Name, ancestry

CANARY = "canary"  # stands for the list in verdicts on canary names
ONLY = "only"  # stands for the list where a group's `only` blocks
REBINDING = "rebinding"  # stands for the list where a public name leads to a private address


class Action(StrEnum):
    """What is done with a question. One a query; where several apply, the first in this order."""

    REFUSED = "refused"
    LOCAL = "local"
    ALLOWED = "allowed"
    BLOCKED = "blocked"
    EXEMPTED = "exempted"
    OBSERVED = "observed"
    FORWARDED = "forwarded"


_RANK = {action: rank for rank, action in enumerate(Action)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says of one name for one client, and why."""

    action: Action
    group: str  # the client group it was judged for; empty for a stranger
    list_name: str = ""  # the list that decided; empty: none matched
    exemption: str = ""  # id; set where one lifted a block
    style: Style | None = None  # how a block is answered
    valid_s: int | None = None  # whole seconds until a change of exemptions may alter it; None: none will
    via: Name | None = None  # the name of the chain that decided; None: the qname, or an address
    address: bytes | None = None  # of the answer, where that decided: four or sixteen octets


REFUSED = Verdict(Action.REFUSED, "")


@dataclass(frozen=True, slots=True)
class Blocking:
    """How blocked questions are answered, where a group says nothing else."""

    ipv4: bytes | None  # four octets; None: NODATA for A
    ipv6: bytes | None  # sixteen octets; None: NODATA for AAAA
    ttl: int  # seconds
    text: str | None  # the EXTRA-TEXT of the extended error; None: the list's name


@dataclass(frozen=True, slots=True)
class Policy:
    """All that decides, and nothing of the node: equal hashes decide alike."""

    hash: str
    lists: tuple[str, ...]  # the list with bit i
    index: Index
    clients: Clients
    blocking: Blocking
    zones: Mapping[Name, int]  # `forward` zones: name to the number of their upstream group
    addresses: AddressRules = field(default_factory=AddressRules)  # ranges of address lists, and of REBINDING
    private_zones: frozenset[Name] = frozenset()  # whose names may lead to private addresses, with all below
    generation: int = 0  # 1 for the first policy of a process

    @property
    def guard(self) -> int:
        """The bit that stands for the guard against rebinding; 0: there is none."""
        return 1 << self.lists.index(REBINDING) if REBINDING in self.lists else 0

    def spared(self, qname: Name) -> int:
        """Return the guard's bit if a name (folded) may lead to private addresses, else 0."""
        if not self.guard:
            return 0
        is_private = self.zone(qname) != 0 or any(above in self.private_zones for above in ancestry(qname))
        return self.guard if is_private else 0

    def zone(self, name: Name) -> int:
        """Return the number of the upstream group for a name: the longest `forward` zone's, else 0."""
        if not self.zones:
            return 0
        at = 0
        while at < len(name):
            if (number := self.zones.get(name[at:])) is not None:
                return number
            at += name[at] + 1
        return 0


def decide(policy: Policy, row: ClientRow, name: Name, wall: float) -> Verdict:
    """Judge the qname for one client. Precedence: allowed, blocked, exempted, observed, forwarded.

    name: folded. wall: seconds since the epoch, for start and end of exemptions.
    """
    found = policy.index.find(name)
    if not found and not row.only:
        return _forwarded(row.group)
    return judge(row, policy.index.sets[found], wall, is_qname=True)


def decide_chain(
    policy: Policy, row: ClientRow, verdict: Verdict, chain: Iterable[tuple[Name, int]], wall: float
) -> Verdict:
    """Judge the names met in an answer and return the verdict on the whole of it.

    verdict: the qname's. An allowed qname covers the chain. The first blocked name decides;
    without one, the first that was exempted, then the first observed.
    chain: names with their set ids in this policy's index.
    """
    hits = ((name, None, policy.index.sets[set_id]) for name, set_id in chain if set_id)
    return _decide_hits(row, verdict, hits, wall)


def decide_addresses(
    policy: Policy, row: ClientRow, verdict: Verdict, qname: Name, found: Iterable[tuple[bytes, int]], wall: float
) -> Verdict:
    """Judge the addresses in an answer and return the verdict on the whole of it; see `decide_chain`.

    verdict: that on the qname and its chain. found: packed addresses, each with the mask of lists whose ranges
    contain it. Whether a name may have private addresses is asked of the qname: who asks for it is led there.
    """
    spared = policy.spared(qname)
    hits = ((None, packed, Hit(mask & ~spared, mask & ~spared)) for packed, mask in found if mask & ~spared)
    return _decide_hits(row, verdict, hits, wall)


def _decide_hits(
    row: ClientRow, verdict: Verdict, hits: Iterable[tuple[Name | None, bytes | None, Hit]], wall: float
) -> Verdict:
    if verdict.action is Action.ALLOWED:
        return verdict
    valid_s = verdict.valid_s
    for name, packed, hit in hits:
        link = judge(row, hit, wall, is_qname=False)
        valid_s = _sooner(valid_s, link.valid_s)
        if link.action is not Action.ALLOWED and _RANK[link.action] < _RANK[verdict.action]:
            verdict = replace(link, via=name, address=packed)
    return limited(verdict, valid_s)


def limited(verdict: Verdict, valid_s: int | None) -> Verdict:
    """Return the verdict, good for no longer than `valid_s` seconds."""
    sooner = _sooner(verdict.valid_s, valid_s)
    return verdict if sooner == verdict.valid_s else replace(verdict, valid_s=sooner)


def _sooner(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def judge(row: ClientRow, hit: Hit, wall: float, *, is_qname: bool) -> Verdict:
    """Judge one name by the lists that name it. `only` asks of the qname alone, not of the chain."""
    if hit is NOTHING and not row.only:
        return _forwarded(row.group)
    if hit.allows & row.allow or hit.names & row.allow_lists:
        return Verdict(Action.ALLOWED, row.group)
    if hit.names & row.canary:
        return Verdict(Action.BLOCKED, row.group, CANARY, style=Style.NXDOMAIN)
    matching = hit.blocks & (row.enforced | row.observed)
    outside = is_qname and row.only and not hit.names & row.only
    if not matching and not outside:
        return _forwarded(row.group)
    lifted, valid_s = 0, None
    if row.exemptions and matching:
        lifted, valid_s = _lift(row.exemptions, matching, wall)
    left = matching & ~lifted
    if left & row.enforced:
        return Verdict(Action.BLOCKED, row.group, row.first(left & row.enforced), "", row.style, valid_s)
    if outside and row.only_enforced:
        return Verdict(Action.BLOCKED, row.group, ONLY, "", row.style, valid_s)
    if lifted & row.enforced:
        name, exemption = _first_lifted(row, lifted & row.enforced, wall)
        return Verdict(Action.EXEMPTED, row.group, name, exemption, None, valid_s)
    if left & row.observed:
        return Verdict(Action.OBSERVED, row.group, row.first(left & row.observed), "", None, valid_s)
    if outside:
        return Verdict(Action.OBSERVED, row.group, ONLY, "", None, valid_s)
    return Verdict(Action.FORWARDED, row.group, valid_s=valid_s)


@lru_cache(maxsize=256)
def _forwarded(group: str) -> Verdict:
    """The verdict on nearly every name: one object a group."""
    return Verdict(Action.FORWARDED, group)


def _lift(exemptions: Iterable[Exemption], matching: int, wall: float) -> tuple[int, int | None]:
    """Return the mask that the exemptions in force lift together, and the whole seconds for which it holds."""
    lifted, change = 0, None
    for exemption in exemptions:
        if not exemption.lists & matching:
            continue
        if exemption.is_in_force(wall):
            lifted |= exemption.lists & matching
        moment = exemption.next_change(wall)
        if moment is not None:
            change = moment if change is None else min(change, moment)
    return lifted, None if change is None else max(1, int(change - wall))


def _first_lifted(row: ClientRow, lifted: int, wall: float) -> tuple[str, str]:
    """Return the first lifted list in the group's order, and the exemption that lifts it."""
    bit, name = next((bit, name) for bit, name in row.order if bit & lifted)
    return name, next(each.id for each in row.exemptions if each.lists & bit and each.is_in_force(wall))
