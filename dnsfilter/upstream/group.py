"""An ordered set of upstreams, what is known of their health, and what was counted of them."""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dnsfilter.core import health
from dnsfilter.upstream.udp import POOL, Receiver, UdpPool

BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # upper bounds of response times, seconds
REASONS = ("timeout", "unreachable", "malformed", "servfail", "refused", "rcode", "tcp")


class Upstream:
    """One resolver that we ask."""

    def __init__(
        self, host: str, port: int, loop: asyncio.AbstractEventLoop, receiver: Receiver[Any], sockets: int = POOL
    ) -> None:
        self.host, self.port = host, port
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.pool = UdpPool[Any](host, port, loop, receiver, sockets)
        self.health = health.Health()
        self.queries = 0
        self.failures: Counter[str] = Counter()
        self.durations = [0] * (len(BUCKETS) + 1)
        self.duration_sum_s = 0.0

    def answered(self, seconds: float) -> None:
        """Note a response of any kind: the upstream is alive."""
        self.health.succeeded()
        self.durations[bisect_left(BUCKETS, seconds)] += 1
        self.duration_sum_s += seconds

    def failed(self, reason: str, now: float, *, counts_against: bool) -> None:
        """Note a failure; one that may be the name's own does not count against the upstream."""
        self.failures[reason] += 1
        if counts_against:
            self.health.failed(now)


class UpstreamGroup:
    """Upstreams in the order of the configuration."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self.upstreams = tuple(upstreams)

    @property
    def is_healthy(self) -> bool:
        """Whether each is asked in its turn."""
        for each in self.upstreams:  # noqa: SIM110 - asked for each question: `all` would cost three times as much
            if each.health.failures >= health.FAILURES_UNTIL_DOWN:
                return False
        return True

    @property
    def is_down(self) -> bool:
        """Whether none is known to answer."""
        return not any(each.health.is_up for each in self.upstreams)

    def order(self) -> Sequence[Upstream]:
        """Return all, in the order to try them."""
        if self.is_healthy:
            return self.upstreams
        states = [each.health for each in self.upstreams]
        return [self.upstreams[number] for number in health.order(states)]

    def probes(self, now: float) -> list[Upstream]:
        """Return those that are down and due to be asked again, beside the one whose turn it is."""
        return [each for each in self.upstreams if each.health.takes_probe(now)]
