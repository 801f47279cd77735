"""How much one client may ask: a token bucket for each. Knows no questions."""

from collections.abc import Iterable

from dnsfilter.core.clients import Address, Network, Prefixes, address

IPV4_PREFIX = 32  # bits that make a client; what response rate limiting in other servers counts by, too
IPV6_PREFIX = 56  # the smallest part of the address space that a line is commonly given
SMALLEST_BURST = 20  # queries: opening one web page asks for as many names at once
KNOWN = 32_768  # entries of a generation; there are two
ROUNDING_S = 1e-6  # floats must not take the last token of a burst

_IPV6_SHIFT = 128 - IPV6_PREFIX


class _Bucket:
    """One client's tokens, kept as the time at which none will be missing."""

    __slots__ = ("full_at", "interval_s", "key")

    def __init__(self, key: str, interval_s: float) -> None:
        self.key = key  # what all addresses of the client have in common
        self.interval_s = interval_s  # until a token is replaced; 0 for who is exempt
        self.full_at = 0.0


class RateLimit:
    """A bucket for each client that fills at so many tokens a second and holds one second's worth.

    Buckets are found by the address as text, so that nothing is parsed of a client that is known, and
    by the client's prefix, so that its other addresses share the bucket.

    Both are kept in two generations. What is used moves to the young one; when that is full it becomes
    the old one, and what was old, not used since, goes. So a client is forgotten only once nearly
    KNOWN / 2 addresses have asked since its last query, however many a flood makes up: who goes on asking
    keeps its bucket, and who was within the limit loses nothing, for a new bucket is full. A client that
    pauses during such a flood may gain one burst. A prefix is never in an older generation than its
    addresses, so no client ever has two buckets.
    """

    def __init__(self, queries_per_second: int, exempt: Iterable[Network] = ()) -> None:
        """queries_per_second: at least 1. exempt: networks whose clients may ask as much as they like."""
        self._interval_s = 1 / queries_per_second
        self._most_missing_s = (max(queries_per_second, SMALLEST_BURST) - 1) * self._interval_s + ROUNDING_S
        self._exempt = Prefixes((network, True) for network in exempt)
        self._young: dict[str, _Bucket] = {}
        self._old: dict[str, _Bucket] = {}

    def __len__(self) -> int:
        """Entries in memory: addresses and prefixes, some of them in both generations."""
        return len(self._young) + len(self._old)

    def is_over(self, client: str, now: float) -> bool:
        """Take a token for one query; tell whether there was none.

        Queries over the limit take nothing: a client that asks too much is answered at the rate, not cut off.
        client: address as text, a zone id is ignored. Raises ValueError for any other text.
        """
        bucket = self._young.get(client)
        if bucket is None:
            bucket = self._recall(client)
        full_at = bucket.full_at
        if full_at <= now:
            bucket.full_at = now + bucket.interval_s
            return False
        if full_at - now > self._most_missing_s:
            return True
        bucket.full_at = full_at + bucket.interval_s
        return False

    def _recall(self, client: str) -> _Bucket:
        """Return the bucket of a client that is not in the young generation, and put it there."""
        bucket = self._old.get(client)
        if bucket is None:
            bucket = self._find(client)
        if len(self._young) >= KNOWN - 1:  # room for both entries, which stay together
            self._young, self._old = {}, self._young
        self._young[client] = self._young[bucket.key] = bucket
        return bucket

    def _find(self, client: str) -> _Bucket:
        """Return the bucket that other addresses of the client have, else a new one."""
        ip = address(client)
        if self._exempt.find(ip) is not None:  # of this address: others of its prefix may not be exempt
            return _Bucket(client, 0.0)
        key = counted_as(ip)
        return self._young.get(key) or self._old.get(key) or _Bucket(key, self._interval_s)


def counted_as(ip: Address) -> str:
    """Return what a client's addresses have in common: of IPv4 all of it, of IPv6 the first 56 bits.

    Link-local addresses of all links begin alike: each counts by itself.
    """
    if ip.version == 4 or ip.is_link_local:
        return str(ip)
    return f"{int(ip) >> _IPV6_SHIFT:x}/{IPV6_PREFIX}"
