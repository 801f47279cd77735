"""Counters to the Prometheus text format. Labels are from the configuration and closed sets only.

Every series exists from the start and their number is constant: nothing here ever comes
from a query or a client.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dnsfilter.core.policy import CANARY, ONLY, REBINDING
from dnsfilter.core.suspicion import Reason
from dnsfilter.core.wire.codes import BADVERS, RCODE_NAMES
from dnsfilter.engine.interface import DURATIONS, Counters

TRANSPORTS = ("udp", "tcp")
FAMILIES = ("ipv4", "ipv6")
DROPPED = ("internal_error", "not_a_query", "oversize", "send")
_VERDICTS = {
    CANARY: ("blocked",),
    REBINDING: ("blocked",),
    ONLY: ("blocked", "observed"),
}  # what never happens to a name has no series
DEGRADED = ("list", "loop", "reload", "upstreams")


@dataclass(frozen=True, slots=True)
class UpstreamCounts:
    """What was counted of one upstream."""

    name: str
    is_healthy: bool
    queries: int
    failures: Mapping[str, int]  # by reason, all reasons present
    bounds: Sequence[float]  # upper bounds of the buckets, seconds
    durations: Sequence[int]  # responses by bucket, the last one above all
    duration_sum_s: float


@dataclass(frozen=True, slots=True)
class ListCounts:
    """What is known of one list."""

    name: str
    entries: int
    skipped_lines: int
    checked_at: float  # seconds since the epoch: last read without an error
    changed_at: float  # last change of its content
    failures: int


@dataclass(frozen=True, slots=True)
class State:
    """Everything that is told at one scrape."""

    version: str
    engine: str
    counters: Counters
    group_lists: Mapping[str, Sequence[str]]  # each group's lists, those that stand for `only` and canaries too
    upstreams: Sequence[UpstreamCounts]
    lists: Sequence[ListCounts]
    policy_hash: str
    generation: int
    is_reload_successful: bool
    reloaded_at: float  # seconds since the epoch
    is_ready: bool
    degraded: frozenset[str]  # reasons
    exemption_ends: Mapping[str, float]
    socket_drops: int


def render(state: State) -> bytes:
    """Return the text of one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(state))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yield the families for the registry."""
        yield from _queries(self._state)
        yield from _groups(self._state)
        yield from _upstreams(self._state.upstreams)
        yield from _lists(self._state.lists)
        yield from _service(self._state)


Series = Mapping[Any, float]  # label values, a tuple of strings, to the number


def _counter(name: str, text: str, labels: Sequence[str], values: Series) -> Metric:
    family = CounterMetricFamily(f"dnsfilter_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _gauge(name: str, text: str, labels: Sequence[str], values: Series) -> Metric:
    family = GaugeMetricFamily(f"dnsfilter_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _histogram_buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _queries(state: State) -> Iterator[Metric]:
    counters = state.counters
    queries: Counter[tuple[str, ...]] = Counter({(t, f): 0 for t in TRANSPORTS for f in FAMILIES})
    responses: Counter[tuple[str, ...]] = Counter({(name,): 0 for name in RCODE_NAMES.values()})
    verdicts: Counter[tuple[str, ...]] = Counter(dict.fromkeys(_verdict_series(state.group_lists), 0))
    cache: Counter[str] = Counter()
    for outcome, count in counters.outcomes.items():
        queries[outcome.transport, outcome.family] += count
        responses[(outcome.rcode,)] += count
        cache[outcome.cache] += count
        if outcome.verdict:
            verdicts[outcome.group, outcome.verdict, outcome.list_name] += count
    yield _counter("queries", "Queries that got a response.", ["transport", "family"], queries)
    yield _counter("responses", f"Responses by rcode; {RCODE_NAMES[BADVERS]} is EDNS.", ["rcode"], responses)
    yield _counter("verdicts", "Verdicts of the policy.", ["group", "verdict", "list"], verdicts)
    yield _counter("cache_hits", "Questions answered from the cache.", [], {(): cache["hit"]})
    yield _counter("cache_misses", "Questions that an upstream was asked.", [], {(): cache["miss"]})
    yield _counter("cache_stale", "Questions answered with what was right before.", [], {(): cache["stale"]})
    yield _gauge("cache_entries", "Answers in the cache, stale ones among them.", [], {(): counters.cache_entries})
    duration = HistogramMetricFamily("dnsfilter_query_duration_seconds", "From a query's arrival to its response.")
    duration.add_metric([], _histogram_buckets(DURATIONS, counters.durations), counters.duration_sum_s)
    yield duration
    dropped = {(reason,): counters.dropped.get(reason, 0) for reason in DROPPED}
    yield _counter("dropped", "Messages that got no response.", ["reason"], dropped)
    yield _counter("internal_errors", "Queries lost to errors of ours.", [], {(): counters.internal_errors})


def _groups(state: State) -> Iterator[Metric]:
    groups, counters = state.group_lists, state.counters
    limited = {(group,): counters.limited.get(group, 0) for group in groups}
    yield _counter("rate_limited", "Queries over the rate limit, those for blocked names apart.", ["group"], limited)
    suspects = {
        (group, reason.value): counters.suspects.get((group, reason), 0) for group in groups for reason in Reason
    }
    text = "Clients that seem to get around the ban."
    yield _gauge("bypass_suspects", text, ["group", "reason"], suspects)


def _verdict_series(group_lists: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, str]]:
    yield "", "refused", ""
    for group, lists in group_lists.items():
        yield from ((group, verdict, "") for verdict in ("local", "allowed", "forwarded"))
        for name in lists:
            verdicts = _VERDICTS.get(name, ("blocked", "exempted", "observed"))
            yield from ((group, verdict, name) for verdict in verdicts)


def _upstreams(upstreams: Sequence[UpstreamCounts]) -> Iterator[Metric]:
    label = ["upstream"]
    yield _counter("upstream_queries", "Queries sent.", label, {(u.name,): u.queries for u in upstreams})
    failures = {(u.name, reason): n for u in upstreams for reason, n in u.failures.items()}
    yield _counter("upstream_failures", "Exchanges without an answer.", ["upstream", "reason"], failures)
    healthy = {(u.name,): float(u.is_healthy) for u in upstreams}
    yield _gauge("upstream_healthy", "1: asked in its turn; 0: down, probed now and then.", label, healthy)
    duration = HistogramMetricFamily("dnsfilter_upstream_duration_seconds", "Response times.", labels=label)
    for each in upstreams:
        duration.add_metric([each.name], _histogram_buckets(each.bounds, each.durations), each.duration_sum_s)
    yield duration


def _lists(lists: Iterable[ListCounts]) -> Iterator[Metric]:
    every = list(lists)
    label = ["list"]
    yield _gauge("list_entries", "Rules in force.", label, {(each.name,): each.entries for each in every})
    skipped = {(each.name,): each.skipped_lines for each in every}
    yield _gauge("list_skipped_lines", "Lines that are no rule.", label, skipped)
    checked = {(each.name,): each.checked_at for each in every}
    yield _gauge("list_checked_timestamp_seconds", "Last time it was read without an error.", label, checked)
    changed = {(each.name,): each.changed_at for each in every}
    yield _gauge("list_changed_timestamp_seconds", "Last change of its content.", label, changed)
    failures = {(each.name,): each.failures for each in every}
    yield _counter("list_failures", "Times it was refused; its last good rules stay in force.", label, failures)


def _service(state: State) -> Iterator[Metric]:
    policy = {(state.policy_hash, str(state.generation)): 1}
    yield _gauge("policy_info", "The policy in force.", ["hash", "generation"], policy)
    ok = {(): float(state.is_reload_successful)}
    yield _gauge("config_last_reload_successful", "Whether the last reload was.", [], ok)
    at = {(): state.reloaded_at}
    yield _gauge("config_last_reload_success_timestamp_seconds", "When the last one was.", [], at)
    yield _gauge("ready", "Whether the ban is in force and every address answers.", [], {(): float(state.is_ready)})
    degraded = {(reason,): float(reason in state.degraded) for reason in DEGRADED}
    yield _gauge("degraded", "Works, but not as it should.", ["reason"], degraded)
    ends = {(each,): end for each, end in state.exemption_ends.items()}
    yield _gauge("exemption_end_timestamp_seconds", "The first moment without it.", ["id"], ends)
    drops = {(): float(state.socket_drops)}
    yield _counter("socket_drops", "Datagrams the kernel dropped because a buffer was full.", [], drops)
    info = {(state.version, state.engine): 1}
    yield _gauge("build_info", "What runs.", ["version", "engine"], info)
