"""Addresses in answers: which lists name one, and which an answer gives. Knows no names, no clients and no verdicts.

An address is judged wherever an answer tells it: in A and AAAA records, and in the hints of HTTPS
and SVCB records, which save a client the question for the address itself (RFC 9460 section 7.3).
"""

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from dnsfilter.core.cache import Entry
from dnsfilter.core.clients import Network
from dnsfilter.core.wire import codes

# IPv6 prefixes of 96 bits whose addresses lead to the IPv4 address in their last four octets.
_CARRIES_IPV4 = frozenset(
    {
        ipaddress.IPv6Address("::ffff:0:0").packed[:12],  # IPv4-mapped: a socket connects to it over IPv4
        # The well-known prefix of NAT64 (RFC 6052 section 2.1). Where clients have IPv6 alone, an upstream makes
        # AAAA of A (RFC 6147), and whatever translates leads to the very host that the A record would have:
        # such a network would else be outside of every rule about IPv4. A prefix of a site's own cannot be told
        # from other addresses; its rules are written with it.
        ipaddress.IPv6Address("64:ff9b::").packed[:12],
    }
)

# What a name of the public DNS has no business to lead to: a page that it serves could reach, through
# the browser, what only this machine or this site can (DNS rebinding).
PRIVATE: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # "this host" (RFC 1122 section 3.2.1.3): Linux and macOS connect to themselves by 0.0.0.0
            "10.0.0.0/8",  # RFC 1918
            # RFC 6598: not reachable from the Internet either, and used within sites: overlay networks, clouds'
            # metadata services. Reverse zones of it are answered here for the same reason (RFC 7793).
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",  # RFC 3927; metadata services of clouds
            "172.16.0.0/12",
            "192.168.0.0/16",
            "::/128",
            "::1/128",
            "fc00::/7",  # RFC 4193
            "fe80::/10",
            "fec0::/10",  # site-local: deprecated by RFC 3879, and in use for want of renumbering
        ),
    )
)


class AddressRules:
    """Ranges of addresses with masks: which of them contain an address, by one or two binary searches.

    Built once, then only read. Ranges may lie within each other, and several may be the same.
    """

    __slots__ = ("_ipv4", "_ipv6")

    def __init__(self, ranges: Iterable[tuple[Network, int]] = ()) -> None:
        """Take networks, each with the mask of the lists that name it."""
        found: dict[int, list[tuple[int, int, int]]] = {4: [], 6: []}
        for network, mask in ranges:
            first, last = int(network.network_address), int(network.broadcast_address)
            found[network.version].append((first, last, mask))
        self._ipv4 = _flattened(found[4], 4)
        self._ipv6 = _flattened(found[6], 16)

    def __bool__(self) -> bool:
        """Tell whether any address is in a range."""
        return any(self._ipv4[1]) or any(self._ipv6[1])

    def find(self, packed: bytes) -> int:
        """Return the masks of all ranges that contain an address, together; 0: none does.

        packed: four or sixteen octets. An IPv6 address that leads to an IPv4 address is in the ranges of both.
        """
        if len(packed) == 4:
            starts, masks = self._ipv4
            return masks[bisect_right(starts, packed) - 1]
        starts, masks = self._ipv6
        found = masks[bisect_right(starts, packed) - 1]
        if packed[:12] in _CARRIES_IPV4:
            found |= self.find(packed[12:])
        return found


_Table = tuple[list[bytes], list[int]]  # where stretches start, rising; the mask of each


def _flattened(ranges: list[tuple[int, int, int]], octets: int) -> _Table:
    """Cut all addresses of a family into stretches within which the mask is the same.

    ranges: (first address, last address, mask). Networks lie within each other or apart, so that
    those around an address are a stack.
    """
    starts, masks = [b""], [0]  # no octets at all come before every address

    def begin(address: int, mask: int) -> None:
        if address >> 8 * octets:
            return  # behind the last address
        packed = address.to_bytes(octets, "big")
        if starts[-1] == packed:
            masks[-1] = mask
        else:
            starts.append(packed)
            masks.append(mask)

    around = [(1 << 8 * octets, 0)]  # (last address, mask of it and of all around it)
    for first, last, mask in sorted(ranges, key=lambda each: (each[0], -each[1])):
        while around[-1][0] < first:
            end, _ = around.pop()
            begin(end + 1, around[-1][1])
        around.append((last, around[-1][1] | mask))
        begin(first, around[-1][1])
    while len(around) > 1:
        end, _ = around.pop()
        begin(end + 1, around[-1][1])
    return starts, masks


def answer_addresses(entry: Entry) -> Iterator[tuple[bytes, bool]]:
    """Yield the addresses that an answer gives, and of each whether it is of the additional section.

    Four or sixteen octets each, in the order of their records; those of the answer section come first.
    """
    counts = entry.counts
    answers = counts[0] << 8 | counts[1]
    additional = answers + (counts[2] << 8 | counts[3])
    for number, (at, _ttl) in enumerate(entry.ttls):
        if number < answers or number >= additional:
            for packed in record_addresses(entry.body, at):
                yield packed, number >= additional


_SIZES = {codes.A: 4, codes.AAAA: 16}
_HINTS = {4: 4, 6: 16}  # keys of SVCB parameters (RFC 9460 section 14.3.2) with the octets of an address


def record_addresses(body: bytes, ttl_at: int) -> Iterator[bytes]:
    """Yield the addresses in the record whose TTL is at this offset of an entry's body."""
    rtype = body[ttl_at - 4] << 8 | body[ttl_at - 3]
    size = _SIZES.get(rtype)
    if size is None and rtype not in (codes.HTTPS, codes.SVCB):
        return
    rdata_at = ttl_at + 6
    rdata = body[rdata_at : rdata_at + (body[ttl_at + 4] << 8 | body[ttl_at + 5])]
    if size is None:
        yield from _hints(rdata)
    elif len(rdata) == size:
        yield rdata


def _hints(rdata: bytes) -> Iterator[bytes]:
    """Yield the address hints of a HTTPS or SVCB record: what can be read of them, where rdata makes no sense.

    Alias forms have none that a client heeds (RFC 9460 section 2.4.2); if they have any, they are told all the same.
    """
    at = 2  # behind the priority
    while at < len(rdata) and rdata[at]:
        at += 1 + rdata[at]
    at += 1
    while at + 4 <= len(rdata):
        key, length = rdata[at] << 8 | rdata[at + 1], rdata[at + 2] << 8 | rdata[at + 3]
        at += 4
        if size := _HINTS.get(key):
            value = rdata[at : at + length]
            for start in range(0, len(value) - size + 1, size):
                yield value[start : start + size]
        at += length
