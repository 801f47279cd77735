"""A client's address to its row: group, masks, exemptions; longest prefix first. Knows no names."""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from dnsfilter.core.exemptions import Exemption

T = TypeVar("T")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Style(StrEnum):
    """How a blocked question is answered."""

    SINKHOLE = "sinkhole"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ClientRow:
    """All that the decision needs to know of a client: one row for each prefix that differs."""

    group: str
    style: Style = Style.SINKHOLE
    enforced: int = 0  # mask of lists that block for this client
    observed: int = 0  # mask of lists that are only counted
    order: tuple[tuple[int, str], ...] = ()  # (bit, list name) in the group's order
    allow: int = 0  # the group's bit in `Hit.allows`
    allow_lists: int = 0  # mask of lists whose names the group allows
    canary: int = 0  # the canaries' bit in `Hit.names`, 0 for a group that enforces nothing
    only: int = 0  # mask of lists outside of which names are blocked, 0: no such rule
    only_enforced: bool = False
    exemptions: tuple[Exemption, ...] = ()  # all that contain the client, in force or not
    network: str = ""  # the prefix that decided the group; empty: none did
    strip_ech: bool = False  # it gets no keys of Encrypted Client Hello

    def first(self, mask: int) -> str:
        """Return the name of the list that comes first in the group's order."""
        return next(name for bit, name in self.order if bit & mask)


def address(text: str) -> Address:
    """Return the address that decides about a client: no zone id, IPv4-mapped as IPv4.

    Raises ValueError.
    """
    found = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


class Prefixes(Generic[T]):
    """A table from networks to values in which the longest prefix decides, whatever the order."""

    def __init__(self, entries: Iterable[tuple[Network, T]] = ()) -> None:
        self._tables: dict[int, dict[int, dict[int, T]]] = {4: {}, 6: {}}
        for network, value in entries:
            shift = network.max_prefixlen - network.prefixlen
            table = self._tables[network.version].setdefault(shift, {})
            table[int(network.network_address) >> shift] = value
        for version, tables in self._tables.items():  # longest prefix first
            self._tables[version] = dict(sorted(tables.items()))

    def find(self, client: Address) -> T | None:
        """Return the value of the longest prefix that contains the address."""
        return next(self.all(client), None)

    def all(self, client: Address) -> Iterator[T]:
        """Yield the values of all prefixes that contain the address, the longest first."""
        bits = int(client)
        for shift, table in self._tables[client.version].items():
            if (value := table.get(bits >> shift)) is not None:
                yield value

    def networks(self) -> Iterator[Network]:
        """Yield every network."""
        for version, tables in self._tables.items():
            make, size = (ipaddress.IPv4Network, 32) if version == 4 else (ipaddress.IPv6Network, 128)
            for shift, table in tables.items():
                yield from (make((bits << shift, size - shift)) for bits in table)

    def values(self) -> Iterator[T]:
        """Yield every value."""
        for tables in self._tables.values():
            for table in tables.values():
                yield from table.values()


@dataclass(frozen=True, slots=True)
class Clients:
    """Who may ask, and each client's row."""

    access: Prefixes[bool]
    rows: Prefixes[ClientRow]
    default: ClientRow

    def find(self, client: Address) -> ClientRow | None:
        """Return the client's row; None for a stranger, who is refused."""
        if self.access.find(client) is None:
            return None
        return self.rows.find(client) or self.default

    def networks(self) -> Iterator[Network]:
        """Yield the networks of access and rows: between their edges all clients are alike."""
        yield from self.access.networks()
        yield from self.rows.networks()

    def all_rows(self) -> Iterator[ClientRow]:
        """Yield every row that a client may have."""
        yield self.default
        yield from self.rows.values()
