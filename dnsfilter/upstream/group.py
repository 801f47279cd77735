"""An ordered set of upstreams, what is known of their health, and what was counted of them."""

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

from dnsfilter.core import health
from dnsfilter.upstream.udp import UdpPool

BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # upper bounds of response times, seconds
REASONS = ("timeout", "unreachable", "malformed", "servfail", "refused", "rcode", "tcp", "tls", "http")


class Stream(Protocol):
    """Exchanges over connections: TCP, TLS or HTTPS. The token is whatever the sender knows an exchange by."""

    def send(self, rest: bytes, question: bytes, token: Any) -> None:
        """Have a query sent. Raises OSError where no more can wait. rest: the query without its id."""

    def forget(self, token: Any) -> None:
        """Wait no more for this one."""

    def close(self) -> None:
        """Close all connections."""


class Strategy(StrEnum):
    """Who of a group is asked, and when."""

    STRICT = "strict"  # the first; the next where one fails or is silent
    LOAD_BALANCE = "load_balance"  # one drawn by how fast each is; else as strict
    PARALLEL = "parallel"  # all at once, the first good answer counts


class Upstream:
    """One resolver that we ask."""

    def __init__(self, name: str, udp: UdpPool[Any] | None, stream: Stream) -> None:
        """udp: None where everything goes over `stream`; else that is for answers that no datagram holds."""
        self.name = name
        self.udp = udp
        self.post: Any = None if udp is None else udp.post
        self.stream = stream
        self.health = health.Health()
        self.open = 0  # exchanges that have not ended
        self.is_loop = False  # what it is asked comes back to us
        self.queries = 0
        self.failures: Counter[str] = Counter()
        self.durations = [0] * (len(BUCKETS) + 1)
        self.duration_sum_s = 0.0

    def answered(self, seconds: float, count: int = 1) -> None:
        """Note responses of any kind, after so long: the upstream is alive."""
        self.health.succeeded(seconds)
        self.durations[bisect_left(BUCKETS, seconds)] += count
        self.duration_sum_s += seconds * count

    def failed(self, reason: str, now: float, *, counts_against: bool) -> None:
        """Note a failure; one that may be the name's own does not count against the upstream."""
        self.failures[reason] += 1
        if counts_against:
            self.health.failed(now)

    def close(self) -> None:
        """Close everything."""
        if self.udp is not None:
            self.udp.close()
        self.stream.close()


class UpstreamGroup:
    """Upstreams in the order of the configuration."""

    def __init__(self, upstreams: Sequence[Upstream], strategy: Strategy = Strategy.STRICT) -> None:
        self.all = tuple(upstreams)
        self.upstreams = tuple(each for each in upstreams if not each.is_loop)  # those that may be asked
        self.strategy = strategy

    @property
    def is_down(self) -> bool:
        """Whether none is known to answer."""
        return not any(each.health.is_up for each in self.upstreams)

    def order(self) -> Sequence[Upstream]:
        """Return those that may be asked, in the order to try them."""
        upstreams = self.upstreams
        states = [each.health for each in upstreams]
        if self.strategy is Strategy.LOAD_BALANCE and upstreams:
            drawn = random.random()  # noqa: S311 - nothing is secret here
            numbers = health.balanced(states, [each.open for each in upstreams], drawn)
        else:
            numbers = health.order(states)
        return [upstreams[number] for number in numbers]

    def probes(self, now: float) -> list[Upstream]:
        """Return those that are down and due to be asked again, beside the one whose turn it is."""
        return [each for each in self.upstreams if each.health.takes_probe(now)]
