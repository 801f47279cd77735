"""The engine: a packet to its answer, or to "ask upstream"; its results and its counters.

An engine holds the policy, the cache and the questions in flight. Two engines can have one
behaviour: what both must do to the octet alike is in `core`.
"""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple, Protocol

from dnsfilter.core.clients import ClientRow
from dnsfilter.core.limits import RateLimit
from dnsfilter.core.names import Name
from dnsfilter.core.policy import Policy, Verdict
from dnsfilter.core.suspicion import Reason
from dnsfilter.core.wire.query import Query

Clock = Callable[[], float]
Reply = Callable[[bytes], None]  # sends one response to the client that asked
Again = Callable[[float], bytes | None]  # from `now` to an answer without its id; None: it must be asked for anew


class Transport(StrEnum):
    """What a query came by."""

    UDP = "udp"
    TCP = "tcp"
    PROBE = "probe"  # asked by ourselves, and not counted


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a query, in labels of closed sets only."""

    transport: str
    family: str  # ipv4, ipv6
    rcode: str
    group: str
    verdict: str  # empty where the query never came to one
    list_name: str
    cache: str  # hit, miss, stale, or empty where no cache was asked


PROBE_NAME = b"\x05probe\x09dnsfilter\x07invalid\0"  # asked in class CH by readiness checks
PROBE_OUTCOME = 0  # number of the outcome of probes: they are not counted


class Reuse(IntEnum):
    """For how long the same octets from a client of the same row get the same answer."""

    NEVER = 0
    SECOND = 1  # as long as neither clock has reached its next second
    POLICY = 2  # as long as the policy is in force


@dataclass(slots=True)  # made for each packet: a frozen one would cost three times as much
class Answered:
    """The response is ready."""

    octets: bytes
    outcome: int  # number of its Outcome
    reuse: Reuse = Reuse.NEVER
    again: Again | None = None  # gives the answer of a later second


@dataclass(frozen=True, slots=True)
class Dropped:
    """No answer is due."""

    reason: str


@dataclass(slots=True)
class Waiter:
    """One client's query that waits for an upstream's response."""

    query: Query
    row: ClientRow
    verdict: Verdict
    generation: int  # of the policy that the verdict was made by
    client: str
    transport: Transport
    since: float  # `now` of its arrival
    reply: Reply


Holder = tuple[int, str]  # upstream group, and the client that a question counts as


@dataclass(slots=True, eq=False)
class Forward:
    """A question that an upstream must be asked, and who waits for it."""

    key: bytes
    name: Name
    qtype: int
    do: bool
    cd: bool
    zone: int  # number of the upstream group
    since: float
    waiters: list[Waiter]
    has_stale: bool = False  # an answer whose time is over is kept, should nobody have another one
    is_out: bool = True
    by_tcp: bool = False
    edns: bool = True
    holder: Holder = (0, "")
    sent: "Quick | None" = None  # it has been asked already, like this

    @property
    def is_given_up(self) -> bool:
        """Whether the engine has answered all who waited and wants to hear no more. Without a key nobody waits."""
        return bool(self.key) and not self.is_out


class Quick(NamedTuple):
    """A plain question of one client's, sent to its first upstream by the engine itself: see `engine.express`."""

    question: bytes  # name (folded), type and class
    key: bytes  # of the cache
    form: Any  # see `engine.express`
    message: bytes  # the client's query
    client: Any  # its socket address
    sock: socket.socket  # that it came by
    since: float  # `now` of its arrival
    outcome: int  # number of its Outcome, should nothing get in the way
    zone: int  # number of the upstream group
    link: Any  # the upstream
    id: bytes  # of the query sent
    waiting: dict[bytes, Any]  # where that is noted, by id


@dataclass(frozen=True, slots=True)
class Joined:
    """The same question is in flight already; the reply comes with its response."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The upstream's response is no answer: ask the next."""

    reason: str  # from the closed set of `dnsfilter_upstream_failures_total`


@dataclass(slots=True)
class Completed:
    """All who waited have their responses."""

    responses: Sequence[tuple[Reply, bytes]]


DURATIONS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # upper bounds, seconds


@dataclass(frozen=True, slots=True)
class Counters:
    """Integers that only grow (but for `cache_entries`), as they stand when read."""

    outcomes: Mapping[Outcome, int]
    dropped: Mapping[str, int]  # by reason
    durations: Sequence[int]  # queries by bucket of DURATIONS, the last one above all
    duration_sum_s: float
    internal_errors: int
    cache_entries: int
    limited: Mapping[str, int]  # queries over the rate limit, by group
    suspects: Mapping[tuple[str, Reason], int]  # clients that seem to get around the ban, by group and reason


class Engine(Protocol):
    """What the rest of the program knows of an engine. UDP is its own; other listeners call `step`."""

    @property
    def policy(self) -> Policy:
        """The policy in force."""

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Answer queries on these UDP sockets."""

    def stop(self) -> None:
        """Read no more queries; those in flight still get their responses."""

    def load(self, policy: Policy, *, keep_cache: bool) -> None:
        """Put a policy in force, whole; no query runs under the old one when this returns."""

    def step(
        self, message: bytes, client: str, transport: Transport, now: float, wall: float, reply: Reply
    ) -> Answered | Forward | Joined | Dropped:
        """Take one message; `reply` is kept only where the response comes later."""

    def limit(self, limit: RateLimit | None) -> None:
        """Bound what one client may ask."""

    def probe(self, message: bytes, client: str, now: float, wall: float) -> bytes | None:
        """Return the answer to one message without counting it or asking an upstream; None: it would be asked."""

    def watch_for(self, name: Name, on_asked: Callable[[], None] | None) -> None:
        """Tell when somebody asks for a name that is asked of an upstream; None: no longer."""

    def resolve(self, message: bytes, now: float, reply: Reply) -> Answered | Forward | Joined:
        """Ask past the policy, for an explanation; uncounted."""

    def adopt(self, quick: Quick) -> Forward:
        """Return what the engine has asked itself as a question to go on with."""

    def hand_over(self, before: float) -> bool:
        """Hand over what the engine asked itself before then, and tell whether there is more."""

    def complete(self, forward: Forward, response: bytes, now: float, wall: float) -> Completed | Forward | Rejected:
        """Take an upstream's response to a Forward. Forward again: to be asked anew as it now says."""

    def give_up_on_tcp(self, forward: Forward, now: float, wall: float) -> Completed:
        """Pass a truncated answer on as such: nobody could fetch the whole by TCP."""

    def fail(self, forward: Forward, ede: int, text: str, now: float, wall: float) -> Completed:
        """Give up: a stale answer or SERVFAIL for all who wait, and the failure is remembered for a moment."""

    def answer_stale(self, forward: Forward, now: float, wall: float) -> Completed:
        """Answer those who wait with what is stale; the question stays out."""

    def flush(self, zone: Name | None) -> Iterator[int]:
        """Forget cached answers for a name and all below it, or all.

        Yields how many, after each turn's worth of work.
        """

    def limited(self) -> Mapping[str, int]:
        """Return how many queries were over the rate limit, by group; cheaper than all counters."""

    def counters(self) -> Counters:
        """Return the counters as they stand."""
