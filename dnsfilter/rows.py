"""Who is under what: configuration to client rows, ranges of addresses and zones, as plain data. Reads no lists."""

from collections.abc import Collection, Iterable
from dataclasses import asdict, replace
from typing import Any

from dnsfilter.config.load import Loaded
from dnsfilter.config.prefixes import Prefixes
from dnsfilter.config.schema import DEFAULT_GROUP, Config, Group, ListConfig
from dnsfilter.config.sets import expand
from dnsfilter.core import addresses
from dnsfilter.core.clients import ClientRow, Network, Style
from dnsfilter.core.exemptions import Exemption
from dnsfilter.core.policy import CANARY, REBINDING

# Who may ask where `access` is not written: loopback, private and link-local ranges.
PRIVATE = (
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
    *("::1/128", "fc00::/7", "fe80::/10"),
)


def address_lists(config: Config) -> dict[str, ListConfig]:
    """Return the lists that name addresses."""
    return {name: entry for name, entry in config.lists.items() if entry.addresses is not None}


def ranges_of(entry: ListConfig) -> list[str]:
    """Return the ranges of an address list as text, each once."""
    return sorted(set(map(str, entry.addresses or ())))


def _ranges(config: Config, bits: dict[str, int]) -> list[list[Any]]:
    """Return the ranges that answers are judged by: network, and the mask of the lists that name it."""
    masks: dict[str, int] = {}
    for name, entry in address_lists(config).items():
        for network in ranges_of(entry):
            masks[network] = masks.get(network, 0) | bits[name]
    if REBINDING in bits:
        for network in map(str, addresses.PRIVATE):
            masks[network] = masks.get(network, 0) | bits[REBINDING]
    return [[network, mask] for network, mask in sorted(masks.items())]


def what_decides(loaded: Loaded, names: tuple[str, ...], observed_lists: Collection[str]) -> dict[str, Any]:
    """Return what decides besides the names, as plain data.

    names: of the lists, by bit. observed_lists: those of them that are only watched.
    """
    config, builtin = loaded.config, loaded.builtin
    bits = {name: 1 << number for number, name in enumerate(names)}
    observed = sum(bits[name] for name in observed_lists)
    # The guard against rebinding is no part of the ban: all are under it, and no exemption lifts it.
    guard, guards = bits.get(REBINDING, 0), tuple((bits[name], name) for name in (REBINDING,) if name in bits)

    def mask(refs: Iterable[str]) -> int:
        return sum(bits[name] for name in expand(config, builtin, refs))

    def row(name: str, group: Group, allow: int) -> ClientRow:
        order = tuple((bits[each], each) for each in expand(config, builtin, group.block))
        all_bits = sum(bit for bit, _ in order)
        enforced = all_bits & ~observed if group.mode == "enforce" else 0
        only_enforced = bool(group.only) and group.mode == "enforce"
        return ClientRow(
            group=name,
            style=Style(group.answer or config.blocking.answer),
            enforced=enforced | guard,
            observed=all_bits & ~enforced,
            order=(*order, *guards),
            allow=allow,
            allow_lists=mask(group.allow_lists),
            canary=bits[CANARY] if enforced or only_enforced else 0,
            only=mask(group.only),
            only_enforced=only_enforced,
            strip_ech=group.strip_ech,
        )

    group_rows = {name: row(name, group, 1 << n) for n, (name, group) in enumerate(config.groups.items())}
    exemptions = [
        (each.networks, Exemption(each.id, mask(each.lists), each.start if each.start is not None else 0.0, each.end))
        for each in config.exemptions.entries
    ]
    networks, rows = _rows(config, group_rows, exemptions)
    return {
        "lists": names,
        "access": sorted({*map(str, config.access or ()), *(() if config.access else _open_to(config))}),
        "networks": [(str(network), number) for network, number in networks],
        "rows": [asdict(each) for each in rows],
        "blocking": {
            "ipv4": config.blocking.ipv4,
            "ipv6": config.blocking.ipv6,
            "ttl": config.blocking.ttl,
            "text": config.blocking.text,
        },
        "zones": {zone.zone.hex(): number for number, zone in enumerate(config.forward, 1)},
        "addresses": _ranges(config, bits),
        "private_zones": sorted({name.hex() for name in config.resolve.private_domains}) if guard else [],
        "protected": sorted(name.hex() for name in config.protected),
        "allow": {name: sorted(each.hex() for each in group.allow_names) for name, group in config.groups.items()},
    }


def _open_to(config: Config) -> tuple[str, ...]:
    return (*PRIVATE, *(str(network) for group in config.groups.values() for network in group.networks))


def _rows(
    config: Config,
    group_rows: dict[str, ClientRow],
    exemptions: list[tuple[tuple[Network, ...], Exemption]],
) -> tuple[list[tuple[Network, int]], list[ClientRow]]:
    """Cut the address space where groups and exemptions begin: a row for each prefix that differs.

    Row 0 is that of clients of no network.
    """
    groups = Prefixes((network, name) for name, group in config.groups.items() for network in group.networks)
    granted: dict[Network, list[Exemption]] = {}
    for within, exemption in exemptions:
        for network in within:
            granted.setdefault(network, []).append(exemption)
    held = Prefixes(granted.items())
    rows: dict[ClientRow, int] = {group_rows[DEFAULT_GROUP]: 0}
    networks = []
    for network in dict.fromkeys([*(each for group in config.groups.values() for each in group.networks), *granted]):
        decided, group = next(groups.around(network), (None, DEFAULT_GROUP))
        found = tuple(dict.fromkeys(each for _, some in held.around(network) for each in some))
        row = replace(group_rows[group], exemptions=found, network="" if decided is None else str(decided))
        networks.append((network, rows.setdefault(row, len(rows))))
    return networks, list(rows)
