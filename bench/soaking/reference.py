"""The decision written a second time, in few lines and from its description: nothing here comes from the product.

Who asks (groups by longest prefix), what is listed (whole labels), exemptions by time, and the chain. While the policy
is being changed, the one before and the one after may both decide.
"""

import ipaddress
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from soaking import world
from soaking.world import Name, Truth, is_below, name_of

ZONE = ZoneInfo("Europe/Paris")
TEXT = "Not allowed on work phones"
BLOCK_TTL = 60
ALWAYS_LISTED = {
    "ban": frozenset([*map(world.listed, range(world.LISTED)), world.BANNED_INTRA]),
    "other": frozenset(map(world.other, range(world.OTHERS))),
}
APPROVED = frozenset((b"w%d" % number, *world.PLAIN) for number in range(world.APPROVED))
CANARIES = tuple(map(name_of, ("use-application-dns.net", "mask.icloud.com", "mask-h2.icloud.com")))
LOCAL = {
    **dict.fromkeys(map(name_of, ("invalid", "test", "onion", "local", "home.arpa", "168.192.in-addr.arpa")), "absent"),
    name_of("localhost"): "loopback",
    name_of("resolver.arpa"): "empty",
}


@dataclass(frozen=True, slots=True)
class Group:
    """A group of clients."""

    block: tuple[str, ...] = ()
    style: str = "sinkhole"
    allow: frozenset[Name] = frozenset()
    has_only: bool = False
    is_observed: bool = False

    @property
    def enforces(self) -> bool:
        """Whether anything is blocked for it."""
        return bool(self.block or self.has_only) and not self.is_observed


ALLOWED = frozenset({world.listed(1), (b"good", *world.listed(2)), name_of("mask.icloud.com")})
NETWORKS: dict[str, tuple[str, Group]] = {
    "managed": ("127.1.0.0/16", Group(("ban", "other"))),
    "allowing": ("127.1.64.0/24", Group(("ban", "other"), "nxdomain", ALLOWED)),
    "observed": ("127.2.0.0/16", Group(("ban", "other"), is_observed=True)),
    "approved": ("127.3.0.0/16", Group(("ban",), "refused", has_only=True)),
    "nodata": ("127.4.0.0/16", Group(("other", "ban"), "nodata")),
}
ACCESS = "127.0.0.0/13"


@dataclass(frozen=True, slots=True)
class Exemption:
    """Who passes which lists, from when until before when; seconds since the epoch."""

    network: str
    lists: tuple[str, ...]
    start: float = 0.0
    end: float = math.inf


CLIENTS = {  # by kind: addresses that ask
    "managed": ("127.1.0.1", "127.1.0.2", "127.1.200.3"),
    "allowing": ("127.1.64.1", "127.1.64.2"),
    "exempt": ("127.1.8.1", "127.1.8.2"),
    "exempt from one list": ("127.1.9.1",),
    "exemption starts": ("127.1.10.1", "127.1.10.2"),
    "exemption ends": ("127.1.11.1", "127.1.11.2"),
    "exemption by reload": ("127.1.12.1", "127.1.12.2"),
    "observed": ("127.2.0.1", "127.2.0.2"),
    "approved": ("127.3.0.1", "127.3.0.2"),
    "nodata": ("127.4.0.1", "127.4.0.2"),
    "unmanaged": ("127.5.0.1", "127.5.0.2", "127.0.0.1"),
    "stranger": ("127.9.0.1",),
}
NEVER = frozenset(  # no octet of a banned name's data may reach these
    source for kind in ("managed", "approved", "nodata") for source in CLIENTS[kind]
)


@dataclass(frozen=True, slots=True)
class State:
    """What of the policy changes by reloads, and from when until when it may decide."""

    churned: frozenset[Name] = frozenset()  # in the list file
    is_granted: bool = False
    since: float = 0.0  # wall clock: the change to it was asked for
    until: float = math.inf  # the change to the next one was in force


@dataclass(slots=True)
class Policy:
    """The policy over the time of a run."""

    starts: float  # whole seconds of the wall clock: the limits of the two timed exemptions
    ends: float
    states: list[State] = field(default_factory=lambda: [State()])

    def exemptions(self, state: State) -> dict[str, Exemption]:
        """The register in one state, by id."""
        both = ("ban", "other")
        found = {
            "EX-ALWAYS": Exemption("127.1.8.0/24", both),
            "EX-ONE": Exemption("127.1.9.0/24", ("ban",)),
            "EX-STARTS": Exemption("127.1.10.0/24", both, start=self.starts),
            "EX-ENDS": Exemption("127.1.11.0/24", both, end=self.ends),
        }
        return found | ({"EX-RELOAD": Exemption("127.1.12.0/24", both)} if state.is_granted else {})

    def possible(self, sent: float, received: float) -> Iterable[State]:
        """The states that may have decided between two moments."""
        return (state for state in self.states if state.since <= received and sent <= state.until)

    def configuration(self, state: State, upstreams: list[str], zone_upstream: str) -> dict[str, Any]:
        """The same for the product to read."""
        groups: dict[str, Any] = {"default": {"block": []}}
        for name, (network, group) in NETWORKS.items():
            groups[name] = {
                "networks": [network],
                "block": list(group.block),
                "answer": group.style,
                **({"allow": sorted(world.text_of(each)[:-1] for each in group.allow)} if group.allow else {}),
                **({"only": ["approved"]} if group.has_only else {}),
                **({"mode": "observe"} if group.is_observed else {}),
            }
        return {
            "access": [ACCESS],
            "upstreams": upstreams,
            "forward": [{"zone": world.text_of(zone)[:-1], "upstreams": [zone_upstream]} for zone in world.FORWARDED],
            "resolve": {"timeout": "0.7s", "deadline": "3s"},
            "cache": {"entries": 1_000},
            "lists": {
                "ban": {"file": "ban.txt"},
                "other": {"domains": sorted(world.text_of(each)[:-1] for each in ALWAYS_LISTED["other"])},
                "approved": {"domains": sorted(world.text_of(each)[:-1] for each in APPROVED)},
            },
            "groups": groups,
            "exemptions": {
                "regime": "registered",
                "entries": [_entry(ident, each) for ident, each in self.exemptions(state).items()],
            },
            "timezone": ZONE.key,
            "blocking": {"text": TEXT, "ttl": BLOCK_TTL},
        }

    # ---- the decision ----

    def judge(self, state: State, client: str, name: Name, truth: Truth, wall: float) -> "Verdict":
        """Judge one name for one client, with all that its true answer leads to."""
        if not _is_in(client, ACCESS):
            return Verdict("refused")
        local = next((kind for zone, kind in LOCAL.items() if is_below(name, zone)), None)
        if local == "empty" or (local and not any(is_below(name, zone) for zone in world.FORWARDED)):
            return Verdict("local", local)
        group = _group(client)
        first = self._link(state, client, group, name, wall)
        if first.kind == "allowed":
            return Verdict("passed")
        if first.kind == "blocked":
            return first
        if group.has_only and not group.is_observed and not _covers(APPROVED, name):
            return Verdict("blocked", group.style, first.valid_s)
        links = [self._link(state, client, group, each, wall) for each in truth.chain]
        valid_s = min((each.valid_s for each in (first, *links)), default=math.inf)
        for link in links:
            if link.kind == "blocked":
                return Verdict("blocked", link.style, valid_s, by_chain=True)
        hidden = [record.owner for record in truth.additional]
        found = [(each, self._link(state, client, group, each, wall)) for each in hidden]
        valid_s = min([valid_s, *(link.valid_s for _, link in found)])
        return Verdict("passed", "", valid_s, frozenset(each for each, link in found if link.kind == "blocked"))

    def _link(self, state: State, client: str, group: Group, name: Name, wall: float) -> "Verdict":
        if _covers(group.allow, name):
            return Verdict("allowed")
        if group.enforces and any(is_below(name, canary) for canary in CANARIES):
            return Verdict("blocked", "canary")
        matching = {each for each in group.block if _covers(ALWAYS_LISTED[each], name)}
        if "ban" in group.block and _covers(state.churned, name):
            matching.add("ban")
        valid_s, lifted = math.inf, set[str]()
        for exemption in self.exemptions(state).values():
            if not _is_in(client, exemption.network) or not matching & set(exemption.lists):
                continue
            valid_s = min([valid_s, *(limit - wall for limit in (exemption.start, exemption.end) if limit > wall)])
            if exemption.start <= wall < exemption.end:
                lifted |= set(exemption.lists)
        is_blocked = bool(matching - lifted) and not group.is_observed
        return Verdict("blocked" if is_blocked else "passed", group.style, valid_s)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with one question."""

    kind: str  # refused, local, allowed, blocked, passed
    style: str = ""  # how a block is answered; of local names, which kind
    valid_s: float = math.inf  # seconds until an exemption that matters starts or ends
    hidden: frozenset[Name] = frozenset()  # owners of additional records that must not be told
    by_chain: bool = False  # the upstream had to be asked

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.style, "by its chain" if self.by_chain else "")))


def _group(client: str) -> Group:
    found = [
        (ipaddress.ip_network(network).prefixlen, group)
        for network, group in NETWORKS.values()
        if _is_in(client, network)
    ]
    return max(found, key=lambda each: each[0])[1] if found else Group()


_known: dict[tuple[str, str], bool] = {}


def _is_in(client: str, network: str) -> bool:
    found = _known.get((client, network))
    if found is None:
        found = _known[client, network] = ipaddress.ip_address(client) in ipaddress.ip_network(network)
    return found


def _covers(names: frozenset[Name], name: Name) -> bool:
    return any(name[at:] in names for at in range(len(name)))


def _entry(ident: str, exemption: Exemption) -> dict[str, Any]:
    return {
        "id": ident,
        "networks": [exemption.network],
        "lists": list(exemption.lists),
        "owner": "Press office",
        "reason": "institutional communication",
        "approved_by": "CISO",
        "start": _local(exemption.start) if exemption.start else "2023-03-17",
        "end": _local(exemption.end) if exemption.end < math.inf else "2099-12-31",
    }


def _local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, ZONE).strftime("%Y-%m-%dT%H:%M:%S")
