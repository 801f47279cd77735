"""Names that are answered here by RFC, whatever the lists say, and the canaries. Knows no lists."""

from enum import Enum

from dnsfilter.core.names import Name, from_text


class Special(Enum):
    """How a name answered here is answered."""

    LOOPBACK = "its addresses are the loopback's"
    ABSENT = "NXDOMAIN"
    EMPTY = "NODATA"


_ABSENT = [
    *("invalid", "test", "onion", "alt", "local"),  # RFC 6761, 7686, 9476, 6762
    "home.arpa",  # RFC 8375
    # RFC 6303 section 4: reverse zones that nobody outside a site can answer for
    *("0.in-addr.arpa", "10.in-addr.arpa", "127.in-addr.arpa", "254.169.in-addr.arpa", "168.192.in-addr.arpa"),
    *(f"{octet}.172.in-addr.arpa" for octet in range(16, 32)),
    *("2.0.192.in-addr.arpa", "100.51.198.in-addr.arpa", "113.0.203.in-addr.arpa", "255.255.255.255.in-addr.arpa"),
    *("d.f.ip6.arpa", "8.e.f.ip6.arpa", "9.e.f.ip6.arpa", "a.e.f.ip6.arpa", "b.e.f.ip6.arpa"),
    "8.b.d.0.1.0.0.2.ip6.arpa",
    ".".join(["0"] * 32) + ".ip6.arpa",
    ".".join(["1"] + ["0"] * 31) + ".ip6.arpa",
    *(f"{octet}.100.in-addr.arpa" for octet in range(64, 128)),  # RFC 7793: shared address space
]

_ZONES: dict[Name, Special] = {
    from_text("localhost"): Special.LOOPBACK,  # RFC 6761 section 6.3
    from_text("resolver.arpa"): Special.EMPTY,  # RFC 9462 section 6.4: never forwarded
    **{from_text(zone): Special.ABSENT for zone in _ABSENT},
}
_ARPA = from_text("arpa")
_TOPS = frozenset(zone for zone in _ZONES if len(zone) == zone[0] + 2) | {_ARPA}

# Asked by devices before they go round the resolver: NXDOMAIN keeps them with it.
CANARIES: tuple[Name, ...] = (
    from_text("use-application-dns.net"),  # Firefox
    from_text("mask.icloud.com"),  # iCloud Private Relay
    from_text("mask-h2.icloud.com"),
)


def may_be(name: Name) -> bool:
    """Tell whether `name` (folded), or a name below it, may be answered here."""
    at = top = 0
    while name[at]:
        top, at = at, at + name[at] + 1
    return top == at or name[top:] in _TOPS


def find(name: Name) -> Special | None:
    """Return how `name` (folded) is answered here, None for all ordinary names."""
    if not may_be(name):  # nearly every name is decided by its last label
        return None
    at = 0
    while at < len(name):
        if (found := _ZONES.get(name[at:])) is not None:
            return found
        at += name[at] + 1
    return None
