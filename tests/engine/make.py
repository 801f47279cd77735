"""Engines, policies and clocks for tests."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dnsfilter.core.cache import Limits
from dnsfilter.core.clients import ClientRow, Clients, Prefixes
from dnsfilter.core.index import Builder, Index
from dnsfilter.core.names import Name
from dnsfilter.core.policy import Blocking, Policy
from dnsfilter.core.rules import Rules
from dnsfilter.core.special import CANARIES
from dnsfilter.engine.interface import Answered, Completed, Forward, Joined, Transport
from dnsfilter.engine.pure import PureEngine, Settings

BLOCKING = Blocking(ipv4=bytes([192, 0, 2, 1]), ipv6=bytes(15) + b"\1", ttl=60, text="Not allowed")
LIMITS = Limits(entries=1_000, octets=1_000_000, max_ttl=3_600, max_negative_ttl=300)


@dataclass
class Clock:
    """Both clocks, put forward by hand."""

    now: float = 1_000.25
    wall: float = 1_700_000_000.25

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


def index(*lists: Rules, allow: Iterable[Name] = (), canaries: int | None = None) -> Index:
    """Lists by number, the allow names of one group (bit 1), the canaries under a number of their own."""
    builder = Builder()
    for number, rules in enumerate(lists):
        builder.block(number, rules)
    if canaries is not None:
        builder.block(canaries, Rules(suffix=list(CANARIES)))
    builder.allow(0, list(allow))
    return Index(builder.chunks())


def policy(
    found: Index | None = None,
    default: ClientRow | None = None,
    rows: Mapping[str, ClientRow] | None = None,
    *,
    zones: Mapping[Name, int] | None = None,
    blocking: Blocking = BLOCKING,
    access: Iterable[str] = ("0.0.0.0/0", "::/0"),
) -> Policy:
    """A policy; rows by network."""
    clients = Clients(
        access=Prefixes((ipaddress.ip_network(each), True) for each in access),
        rows=Prefixes((ipaddress.ip_network(each), row) for each, row in (rows or {}).items()),
        default=default or ClientRow("default"),
    )
    return Policy("hash", (), found or Index(), clients, blocking, dict(zones or {}))


@dataclass
class Asking:
    """An engine, and what it has handed over and sent; questions are answered by hand."""

    policy: Policy
    clock: Clock = field(default_factory=Clock)
    limits: Limits = LIMITS
    max_in_flight: int = 100
    on_forward: Callable[[Forward], None] | None = None
    forwards: list[Forward] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    engine: PureEngine = field(init=False)

    def __post_init__(self) -> None:
        settings = Settings(self.limits, self.max_in_flight, tcp_idle_s=10.0)
        on_forward = self.on_forward or self.forwards.append
        self.engine = PureEngine(settings, self.policy, on_forward, lambda: self.clock.now, lambda: self.clock.wall)

    def step(
        self, message: bytes, client: str = "192.0.2.9", transport: Transport = Transport.UDP
    ) -> bytes | Forward | Joined | None:
        """One message: the answer, or what has to be waited for; None where none is due."""
        result = self.engine.step(message, client, transport, self.clock.now, self.clock.wall, self.sent.append)
        if isinstance(result, Answered):
            return result.octets
        return result if isinstance(result, Forward | Joined) else None

    def answer(self, message: bytes, client: str = "192.0.2.9", transport: Transport = Transport.UDP) -> bytes:
        """One message that is answered at once."""
        result = self.step(message, client, transport)
        assert isinstance(result, bytes), result
        return result

    def forward(self, message: bytes, client: str = "192.0.2.9", transport: Transport = Transport.UDP) -> Forward:
        """One message that an upstream must be asked for."""
        result = self.step(message, client, transport)
        assert isinstance(result, Forward), result
        return result

    def complete(self, forward: Forward, octets: bytes) -> list[bytes]:
        """An upstream's response: what the clients who waited get."""
        result = self.engine.complete(forward, octets, self.clock.now, self.clock.wall)
        assert isinstance(result, Completed), result
        self.sent.clear()
        for reply, sent in result.responses:
            reply(sent)
        return list(self.sent)
