"""Ranges that many share: what a rule about addresses would take besides what it was written for.

An address of a delivery network serves whoever its operator likes: a rule written for one app
takes a shop along. Here is only what an admin is warned of; what is blocked is what was written.
"""

import ipaddress
from functools import cache
from importlib import resources

from dnsfilter.config.problems import some
from dnsfilter.config.values import Network

BROADEST = {4: 8, 6: 24}  # prefix lengths; nothing shorter is one owner's
_WRITTEN_OUT = 10**12  # beyond, a number of addresses is told as a power of two


def warnings(network: Network) -> list[str]:
    """Return what an admin should know of a range before it is blocked, a text each; nothing of most ranges."""
    found = []
    if network.prefixlen < BROADEST[network.version]:
        found.append(f"{network} covers {_count(network)} addresses")
    if names := shared(network):
        found.append(f"{network} has addresses of {some(names)}, which many unrelated sites share")
    return found


def shared(network: Network) -> list[str]:
    """Return the delivery networks and clouds with known addresses in a network, in the order of the table."""
    return list(dict.fromkeys(name for known, name in _table() if network.overlaps(known)))


def _count(network: Network) -> str:
    count = network.num_addresses
    return f"{count:,}" if count < _WRITTEN_OUT else f"2^{network.max_prefixlen - network.prefixlen}"


@cache
def _table() -> tuple[tuple[Network, str], ...]:
    text = resources.files("dnsfilter.config").joinpath("delivery.txt").read_text(encoding="utf-8")
    lines = (line.partition("#") for line in text.splitlines())
    return tuple((ipaddress.ip_network(written.strip()), name.strip()) for written, _, name in lines if written.strip())
