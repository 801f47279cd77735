"""What is allowed and yet rarely meant: warnings about a configuration that loads."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from dnsfilter.config import delivery
from dnsfilter.config.load import Loaded
from dnsfilter.config.prefixes import Prefixes, covers
from dnsfilter.config.problems import Path, Problem, alternatives, in_order, some, subject
from dnsfilter.config.schema import DEFAULT_GROUP, Config
from dnsfilter.config.sets import BuiltinInfo, expand, members
from dnsfilter.config.upstreams import Upstream
from dnsfilter.config.values import Network

ENCRYPTED_DNS = "encrypted-dns"
MAX_EDE_TEXT = 64  # octets of text that fit the extended error
FEW_QUERIES = 20  # a second; a single page may ask as many at once


@dataclass(frozen=True, slots=True)
class _Facts:
    """What several warnings need, worked out once."""

    loaded: Loaded
    wall: float
    blocked: Mapping[str, tuple[str, ...]]  # the plain lists that each group blocks
    networks: Prefixes[str]  # to the group

    @property
    def config(self) -> Config:
        return self.loaded.config

    def warn(self, path: Path, text: str, remedy: str) -> Problem:
        head = subject(path, {})
        return self.loaded.places.problem(path, f"{head}: {text}" if head else text, remedy)

    def warn_of_exemption(self, index: int, key: str, text: str, remedy: str) -> Problem:
        head = f"exemption {self.config.exemptions.entries[index].id!r}"
        return self.loaded.places.problem(("exemptions", "entries", index, key), f"{head}: {text}", remedy)


def warnings(loaded: Loaded, wall: float | None = None) -> list[Problem]:
    """Return what an admin ought to know, in the order of the lines.

    wall: seconds since the epoch, to tell which exemptions are over; None: now.
    """
    config, builtin = loaded.config, loaded.builtin
    facts = _Facts(
        loaded,
        time.time() if wall is None else wall,
        {name: expand(config, builtin, group.block) for name, group in config.groups.items()},
        Prefixes((network, name) for name, group in config.groups.items() for network in group.networks),
    )
    return in_order(problem for one in _WARNINGS for problem in one(facts))


def _unused_lists(facts: _Facts) -> Iterator[Problem]:
    config = facts.config
    used: set[str] = set()
    left = [one for group in config.groups.values() for one in (*group.block, *group.only, *group.allow_lists)]
    while left:
        name = left.pop()
        if name not in used and name in config.lists:
            left += members(config.lists[name], facts.loaded.builtin)
        used.add(name)
    for name in config.lists:
        if name not in used:
            yield facts.warn(("lists", name), "no group uses it", "name it under `block` of a group, or remove it")


def _empty_sets(facts: _Facts) -> Iterator[Problem]:
    builtin: Mapping[str, BuiltinInfo] = facts.loaded.builtin
    origins = {info.origin for info in builtin.values()}
    for name, entry in facts.config.lists.items():
        for i, origin in enumerate(entry.origin or ()):
            if origin not in origins:
                text = f"no built-in list is of a maker in {origin}, so it adds nothing"
                yield facts.warn(
                    ("lists", name, "origin", i), text, "write the lists that are meant under `lists` of a set"
                )


def _bans_without_encrypted_dns(facts: _Facts) -> Iterator[Problem]:
    if ENCRYPTED_DNS not in facts.loaded.builtin:
        return
    for name, group in facts.config.groups.items():
        if facts.blocked[name] and ENCRYPTED_DNS not in facts.blocked[name] and not group.only:
            text = f"it blocks lists, but not {ENCRYPTED_DNS}: apps go round the ban by resolvers of their own"
            yield facts.warn(("groups", name, "block"), text, f"add {ENCRYPTED_DNS} to block")


def _lists_blocked_and_allowed(facts: _Facts) -> Iterator[Problem]:
    for name, group in facts.config.groups.items():
        allowed = expand(facts.config, facts.loaded.builtin, group.allow_lists)
        if both := [one for one in facts.blocked[name] if one in allowed]:
            text = f"allow takes back all of {some(both)}, which block names"
            yield facts.warn(("groups", name, "allow"), text, "allow wins: take it out of one of them")


def _one_family(facts: _Facts) -> Iterator[Problem]:
    if len({address.ip.version for address in facts.config.listen.dns}) < 2:
        return
    for name, group in facts.config.groups.items():
        families = {network.version for network in group.networks}
        if len(families) == 1:
            other = 6 if 4 in families else 4
            text = f"its clients are in group {DEFAULT_GROUP!r} when they ask over IPv{other}, on which we listen too"
            yield facts.warn(("groups", name, "networks"), text, f"add the IPv{other} networks of the same clients")


def _shadowed_networks(facts: _Facts) -> Iterator[Problem]:
    """The longest prefix decides: parts of a network may belong to other groups."""
    inner: dict[Network, list[tuple[Network, str]]] = {}
    for name, group in facts.config.groups.items():
        for network in group.networks:
            for around, other in facts.networks.around(network):
                if other != name:
                    inner.setdefault(around, []).append((network, name))
    for name, group in facts.config.groups.items():
        for i, network in enumerate(group.networks):
            if network in inner:
                taken = some(f"{part} to group {other!r}" for part, other in inner[network])
                is_all = covers((part for part, _ in inner[network]), network)
                text = f"{network} goes {'wholly' if is_all else 'in part'} to other groups: {taken}"
                remedy = (
                    "the longer prefix decides; right if these clients are meant to have the rules of the other group"
                )
                yield facts.warn(("groups", name, "networks", i), text, remedy)


def _groups_of(facts: _Facts, network: Network) -> set[str]:
    """Return the groups that clients in `network` can be in."""
    inside = {name for name, group in facts.config.groups.items() for one in group.networks if _is_within(one, network)}
    around = next((name for _, name in facts.networks.around(network)), DEFAULT_GROUP)
    return inside | {around}


def _is_within(inner: Network, outer: Network) -> bool:
    return (
        inner.version == outer.version
        and inner.prefixlen >= outer.prefixlen
        and inner.network_address in outer  # cheaper than subnet_of, and does for whole prefixes
    )


def _exemptions_without_time_zone(facts: _Facts) -> Iterator[Problem]:
    if facts.config.exemptions.entries and ("timezone",) not in facts.loaded.places:
        text = "exemptions, but no timezone: their days and times are read as UTC"
        yield facts.warn(("exemptions", "entries"), text, "write `timezone: Europe/Paris`, or `timezone: UTC` if meant")


def _exemptions_of_nothing(facts: _Facts) -> Iterator[Problem]:
    config, builtin = facts.config, facts.loaded.builtin
    for e, exemption in enumerate(config.exemptions.entries):
        if exemption.end <= facts.wall:
            yield facts.warn_of_exemption(e, "end", "it is over", "remove it, or grant a new one under a new id")
            continue
        groups = sorted(set().union(*(_groups_of(facts, network) for network in exemption.networks)))
        blocked = {one for name in groups for one in facts.blocked[name]}
        if idle := [one for one in expand(config, builtin, exemption.lists) if one not in blocked]:
            where = f"group {alternatives(map(repr, groups))}"
            text = f"it lifts {some(idle)}, which {where} does not block"
            yield facts.warn_of_exemption(e, "lists", text, "take it out, or see whether its networks are right")


def _exemptions_outside_groups(facts: _Facts) -> Iterator[Problem]:
    config = facts.config
    if not any(group.networks for group in config.groups.values()):
        return  # everybody is in the default group, and meant to be
    every = [network for group in config.groups.values() for network in group.networks]
    for e, exemption in enumerate(config.exemptions.entries):
        for network in exemption.networks:
            if any(True for _ in facts.networks.around(network)):
                continue
            inside = [one for one in every if _is_within(one, network)]
            if not covers(inside, network):
                part = "partly in no group" if inside else "in no group"
                text = f"{network} is {part}: those clients are in group {DEFAULT_GROUP!r}"
                yield facts.warn_of_exemption(e, "networks", text, "see whether the network is right")


def _long_text(facts: _Facts) -> Iterator[Problem]:
    text = facts.config.blocking.text
    if text is not None and (length := len(text.encode())) > MAX_EDE_TEXT:
        remedy = f"say it in {MAX_EDE_TEXT} octets"
        yield facts.warn(("blocking", "text"), f"{length} octets; clients get the first {MAX_EDE_TEXT}", remedy)


def _mixed_upstreams(facts: _Facts) -> Iterator[Problem]:
    groups: list[tuple[Path, tuple[Upstream, ...]]] = [(("upstreams",), facts.config.upstreams or ())]
    groups += [(("forward", z, "upstreams"), zone.upstreams) for z, zone in enumerate(facts.config.forward)]
    for path, group in groups:
        plain = [str(one) for one in group if one.transport == "udp"]
        if plain and len(plain) < len(group):
            text = f"{some(plain)} is asked in the clear what the others are asked encrypted"
            yield facts.warn(path, text, "take the plain ones out, or encrypt nothing if that is meant")


def _idle_settings(facts: _Facts) -> Iterator[Problem]:
    """Keys that mean something only beside another."""
    resolve, limit = facts.config.resolve, facts.config.rate_limit
    every = [*(facts.config.upstreams or ()), *(one for zone in facts.config.forward for one in zone.upstreams)]
    idle: list[tuple[Path, object, bool, str]] = [
        (("resolve", "private_domains"), resolve.private_domains, resolve.rebind_protection, "rebind_protection: on"),
        (("resolve", "ca_file"), resolve.ca_file, any(one.transport != "udp" for one in every), "encrypted upstreams"),
        (("rate_limit", "exempt"), limit.exempt, limit.queries_per_second > 0, "queries_per_second"),
    ]
    for path, value, is_used, needed in idle:
        if value and not is_used:
            yield facts.warn(path, f"it means nothing without {needed}", f"write that, or leave {path[-1]} out")


def _low_rate_limit(facts: _Facts) -> Iterator[Problem]:
    queries = facts.config.rate_limit.queries_per_second
    if 0 < queries < FEW_QUERIES:
        text = f"{queries} a second: an office that comes from one address is one client"
        remedy = f"write {FEW_QUERIES} or more, or name the addresses of offices under `exempt`"
        yield facts.warn(("rate_limit", "queries_per_second"), text, remedy)


def _shared_addresses(facts: _Facts) -> Iterator[Problem]:
    for name, entry in facts.config.lists.items():
        for i, network in enumerate(entry.addresses or ()):
            for text in delivery.warnings(network):
                remedy = "block names instead, or narrow it down; right if all of it is meant"
                yield facts.warn(("lists", name, "addresses", i), text, remedy)


def _workers(facts: _Facts) -> Iterator[Problem]:
    if facts.config.workers not in ("auto", 1):
        yield facts.warn(("workers",), "this version serves in one process", "leave it out, or write auto")


_WARNINGS: tuple[Callable[[_Facts], Iterator[Problem]], ...] = (
    _unused_lists,
    _empty_sets,
    _bans_without_encrypted_dns,
    _lists_blocked_and_allowed,
    _one_family,
    _shadowed_networks,
    _exemptions_without_time_zone,
    _exemptions_of_nothing,
    _exemptions_outside_groups,
    _long_text,
    _mixed_upstreams,
    _idle_settings,
    _low_rate_limit,
    _shared_addresses,
    _workers,
)
