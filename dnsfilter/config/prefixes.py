"""Networks within and around each other."""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from dnsfilter.config.values import Network

T = TypeVar("T")


class Prefixes(Generic[T]):
    """Networks with a value each, to be asked for what lies around another network."""

    def __init__(self, entries: Iterable[tuple[Network, T]]) -> None:
        self._values: dict[Network, T] = dict(entries)
        lengths = {(network.version, network.prefixlen) for network in self._values}
        self._lengths = sorted(lengths, reverse=True)  # only lengths that occur are tried

    def around(self, network: Network) -> Iterator[tuple[Network, T]]:
        """Yield the networks that contain `network`, itself included, the narrowest first."""
        for version, length in self._lengths:
            if version == network.version and length <= network.prefixlen:
                wider = network.supernet(new_prefix=length)
                if wider in self._values:
                    yield wider, self._values[wider]


def collapse(networks: Iterable[Network]) -> list[Network]:
    """Join neighbouring networks, so that what they cover together is seen."""
    by_family: dict[int, list[Network]] = {4: [], 6: []}
    for network in networks:
        by_family[network.version].append(network)
    joined: list[Network] = []
    for family in by_family.values():
        joined += ipaddress.collapse_addresses(family)  # type: ignore[type-var]  # of one family each
    return joined


def covers(networks: Iterable[Network], one: Network) -> bool:
    """Tell whether the networks together contain every address of `one`."""
    return any(True for _ in Prefixes((network, None) for network in collapse(networks)).around(one))
