"""The answers that nearly all answers are, made entries in one pass: addresses, behind aliases in their order.

`read` takes no other shape, however right: those are left to `wire.response.read` and
`cache.from_response`, which define what is right. A property test holds the two ways equal.
"""

import struct

from dnsfilter.core.cache import MAX_LINKS, Entry, Limits, with_ttls
from dnsfilter.core.names import Name
from dnsfilter.core.wire import codes
from dnsfilter.core.wire.response import FormError, Names, question_names, read_name

_RECORD = struct.Struct("!HHHIH")  # pointer to the owner, type, class, TTL, length of the rdata
_SIZES = {codes.A: 4, codes.AAAA: 16}
_POINTER = 0xC000
_QNAME = _POINTER | 12


def read(octets: bytes, qname: Name, qtype: int, now: float, limits: Limits) -> Entry | None:
    """Make an entry of a response that `wire.response.answers` accepted; None where it has another shape.

    qname: folded, as asked. now: seconds.
    """
    try:
        size = _SIZES.get(qtype)
        if size is None or octets[3] & 15 or octets[8:11] != b"\0\0\0":
            return None
        start = at = len(qname) + 16
        owner, is_alias, lifetime, is_cut = _QNAME, True, limits.max_ttl, False
        chain: list[Name] = []
        names: Names | None = None
        ttls: list[tuple[int, int]] = []
        for _ in range(octets[6] << 8 | octets[7]):
            pointer, rtype, rclass, ttl, length = _RECORD.unpack_from(octets, at)
            if pointer != owner or rclass != codes.IN or ttl > 0x7FFF_FFFF:
                return None
            if ttl > limits.max_ttl:
                ttl, is_cut = limits.max_ttl, True
            elif ttl < lifetime:
                lifetime = ttl
            ttls.append((at + 6 - start, ttl))
            at += 12
            if rtype == qtype and length == size:
                is_alias = False
                at += length
            elif rtype == codes.CNAME and is_alias and octets[at] < 0xC0 and len(chain) < MAX_LINKS:
                names = question_names(qname) if names is None else names
                target, end = read_name(octets, at, names)
                if end != at + length or target in chain or target == qname:
                    return None
                chain.append(target)
                owner = _POINTER | at
                at = end
            else:
                return None
        if is_alias or not ends(octets, at):
            return None
        body = octets[start:at]
        if is_cut:
            body = with_ttls(body, ttls)
        is_authentic = octets[3] & codes.AD != 0
        counts = octets[6:10] + b"\0\0"
        return Entry(codes.NOERROR, is_authentic, counts, body, tuple(ttls), lifetime, int(now), tuple(chain))
    except (struct.error, IndexError, FormError):
        return None


def ends(octets: bytes, at: int) -> bool:
    """Tell whether nothing follows, or an OPT record without an extended rcode and options."""
    if octets[11] != 1:
        return not octets[11] and at == len(octets)
    is_opt = octets[at : at + 3] == b"\0\0\x29" and octets[at + 5 : at + 6] == b"\0"
    return is_opt and octets[at + 9 :] == b"\0\0"
