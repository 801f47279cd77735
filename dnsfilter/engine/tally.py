"""What an engine counts: integers that only grow, told apart by labels of closed sets."""

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

from dnsfilter.core.policy import CANARY, ONLY, REBINDING, Action, Verdict
from dnsfilter.core.suspicion import Reason, Signal
from dnsfilter.core.wire import codes
from dnsfilter.engine.interface import DURATIONS, PROBE_OUTCOME, Answered, Counters, Outcome, Transport

log = logging.getLogger(__name__)

ERRORS_LOGGED = 100  # kinds
RESOLVERS = "encrypted-dns"  # the list of resolvers that clients had better not use
NO_SIGN = ("", Signal.OTHER)
_NO_APPS = (CANARY, ONLY, REBINDING)


class Tally:
    """The counters of one engine."""

    def __init__(self) -> None:
        self.signals: list[tuple[str, Signal]] = [NO_SIGN]  # by number of outcome: client group, and what it tells
        self.limited: Counter[str] = Counter()
        self.counts: list[int] = [0]  # by number of outcome; number 0 is that of probes, and not told
        self.dropped: Counter[str] = Counter()
        self._outcomes: dict[tuple[str, bool, int, str, str, str, str], int] = {}
        self._durations = [0] * (len(DURATIONS) + 1)
        self._duration_sum_s = 0.0
        self._internal_errors = 0
        self._errors_logged: set[str] = set()

    def outcome(self, transport: str, client: str, rcode: int, verdict: Verdict | None = None, cache: str = "") -> int:
        """Return the number of an outcome; there are as many as the configuration's labels allow."""
        if transport == Transport.PROBE:
            return PROBE_OUTCOME
        if verdict is None:
            labels = (transport, ":" in client, rcode, "", "", "", cache)
        else:
            labels = (transport, ":" in client, rcode, verdict.group, verdict.action, verdict.list_name, cache)
        number = self._outcomes.get(labels)
        if number is None:
            number = self._outcomes[labels] = len(self.counts)
            self.counts.append(0)
            self.signals.append(NO_SIGN if verdict is None else (verdict.group, _signal(verdict)))
        return number

    def signal(self, result: object) -> tuple[str, Signal]:
        """Return what one query tells of its client: the group, and a sign of getting around the ban."""
        return self.signals[result.outcome] if isinstance(result, Answered) else NO_SIGN

    def count(self, outcome: int, seconds: float) -> None:
        """Count one query, answered so long after it came."""
        if outcome != PROBE_OUTCOME:
            self.counts[outcome] += 1
            self._durations[bisect_left(DURATIONS, seconds)] += 1
            self._duration_sum_s += seconds

    def measure(self, seconds: float, queries: int) -> None:
        """Count the time of so many queries, that took so long each."""
        self._durations[bisect_left(DURATIONS, seconds)] += queries
        self._duration_sum_s += seconds * queries

    def note_error(self, error: Exception) -> None:
        """Count a bug that cost one query, and log the first of its kind."""
        self._internal_errors += 1
        kind = f"{type(error).__name__} at {_place(error)}"
        if kind not in self._errors_logged and len(self._errors_logged) < ERRORS_LOGGED:
            self._errors_logged.add(kind)
            log.error("a query was lost to an error of ours, please report it: %s", kind, exc_info=error)

    def counters(self, cache_entries: int, suspects: Mapping[tuple[str, Reason], int]) -> Counters:
        """Return the counters as they stand."""
        outcomes = {
            Outcome(transport, "ipv6" if is_ipv6 else "ipv4", codes.RCODE_NAMES[rcode], *rest): self.counts[number]
            for (transport, is_ipv6, rcode, *rest), number in self._outcomes.items()
        }
        return Counters(
            outcomes=outcomes,
            dropped=dict(self.dropped),
            durations=list(self._durations),
            duration_sum_s=self._duration_sum_s,
            internal_errors=self._internal_errors,
            cache_entries=cache_entries,
            limited=dict(self.limited),
            suspects=suspects,
        )


def _signal(verdict: Verdict) -> Signal:
    if verdict.action not in (Action.BLOCKED, Action.OBSERVED) or verdict.list_name in _NO_APPS:
        return Signal.OTHER
    return Signal.RESOLVER_BLOCKED if verdict.list_name == RESOLVERS else Signal.APP_BLOCKED


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
