"""Who seems to get around the ban: the signs of each reason, when a suspicion ends, and that memory is bounded."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.suspicion import (
    APP_QUERIES,
    BUSY_QUERIES,
    GONE_S,
    MOST,
    RUN_GAP_S,
    SILENT_S,
    SLOT_S,
    SUSPECTED_S,
    Reason,
    Signal,
    Suspect,
    Suspicion,
)
from tests.core.make import thorough

APP, RESOLVER, OTHER = Signal.APP_BLOCKED, Signal.RESOLVER_BLOCKED, Signal.OTHER
CLIENT, GROUP = "192.0.2.9", "managed"
NOW = 300_000.0  # a slot begins here


def noted(*steps: tuple[float, Signal, int], suspicion: Suspicion | None = None) -> Suspicion:
    """Note queries of one client: seconds after NOW, what they tell, how many of them."""
    suspicion = suspicion or Suspicion()
    for after, signal, times in steps:
        for _ in range(times):
            suspicion.note(CLIENT, GROUP, signal, NOW + after)
    return suspicion


def reasons(suspicion: Suspicion, after: float) -> list[tuple[Reason, float]]:
    """The suspicions so many seconds after NOW, and since when after NOW each."""
    return [(each.reason, each.since - NOW) for each in suspicion.suspects(NOW + after)]


# ---- a resolver after banned apps ----


@pytest.mark.parametrize(
    ("steps", "since"),
    [
        pytest.param([(0, APP, APP_QUERIES), (5, RESOLVER, 1)], 5.0, id="an app, then a resolver"),
        pytest.param([(0, APP, APP_QUERIES), (RUN_GAP_S, RESOLVER, 1)], RUN_GAP_S, id="a minute later"),
        pytest.param([(0, APP, APP_QUERIES), (RUN_GAP_S + 1, RESOLVER, 9)], None, id="much later"),
        pytest.param([(0, APP, APP_QUERIES - 1), (5, RESOLVER, 9)], None, id="one name of an app, in a web page"),
        pytest.param([(0, RESOLVER, 9), (5, APP, 99)], None, id="a resolver before the app"),
        pytest.param([(0, RESOLVER, 99)], None, id="a resolver alone"),
        pytest.param([(0, APP, 99)], None, id="an app alone"),
        pytest.param(
            [*((at * RUN_GAP_S, APP, 1) for at in range(APP_QUERIES)), (APP_QUERIES * RUN_GAP_S, RESOLVER, 1)],
            APP_QUERIES * RUN_GAP_S,
            id="an app that tries once a minute",
        ),
        pytest.param(
            [(0, APP, APP_QUERIES - 1), (RUN_GAP_S + 1, APP, 1), (RUN_GAP_S + 2, RESOLVER, 1)], None, id="two runs"
        ),
        pytest.param([(0, APP, 6), (1, OTHER, 50), (2, RESOLVER, 1)], 2.0, id="other names between"),
    ],
)
def test_a_resolver_asked_right_after_banned_apps(steps: list[tuple[float, Signal, int]], since: float | None) -> None:
    found = reasons(noted(*steps), 300)
    assert found == ([(Reason.RESOLVER, since)] if since is not None else [])


def test_this_suspicion_ends_an_hour_after_the_last_sign() -> None:
    suspicion = noted((0, APP, 6), (1, RESOLVER, 1), (1_000, APP, 6), (1_001, RESOLVER, 1), (1_002, OTHER, 1))
    resolver = (Reason.RESOLVER, 1.0)
    assert resolver in reasons(suspicion, 1_000 + SUSPECTED_S)
    assert resolver not in reasons(suspicion, 1_001 + SUSPECTED_S)


def test_a_new_sign_after_the_end_begins_anew() -> None:
    later = 1 + SUSPECTED_S
    suspicion = noted((0, APP, 6), (1, RESOLVER, 1), (later, APP, 6), (later, RESOLVER, 1))
    assert reasons(suspicion, later) == [(Reason.RESOLVER, later)]


# ---- silence ----


@pytest.mark.parametrize(
    ("steps", "is_busy"),
    [
        pytest.param([(0, APP, 1), (1, OTHER, BUSY_QUERIES - 1)], True, id="in somebody's hand, with an app"),
        pytest.param([(0, APP, 1), (1, OTHER, BUSY_QUERIES - 2)], False, id="a few queries"),
        pytest.param([(0, OTHER, 99)], False, id="no banned app"),
        pytest.param([(0, APP, 1), (0, OTHER, 99), (SLOT_S, OTHER, 1)], True, id="the last query in the next slot"),
        pytest.param([(0, APP, 1), (0, OTHER, 99), (2 * SLOT_S, OTHER, 1)], False, id="in the one after the next"),
        pytest.param([(0, APP, 1), (SLOT_S, OTHER, 99)], False, id="an app before it was busy"),
        pytest.param([(0, OTHER, 99), (1, APP, 1)], False, id="what came before the first sign is not known"),
        pytest.param([(0, RESOLVER, 1), (1, OTHER, 99)], False, id="a resolver is no app"),
    ],
)
def test_a_client_that_was_busy_with_a_banned_app_falls_silent(
    steps: list[tuple[float, Signal, int]], is_busy: bool
) -> None:
    last = steps[-1][0]
    suspicion = noted(*steps)
    assert reasons(suspicion, last + SILENT_S - 1) == []
    expected = [(Reason.SILENCE, last)] if is_busy else []
    assert reasons(suspicion, last + SILENT_S) == expected
    assert reasons(suspicion, last + GONE_S - 1) == expected
    assert reasons(suspicion, last + GONE_S) == []


@pytest.mark.parametrize("signal", Signal, ids=lambda signal: signal.name)
def test_the_silence_ends_with_the_next_query(signal: Signal) -> None:
    suspicion = noted((0, APP, 1), (1, OTHER, 99))
    assert reasons(suspicion, 1_000) == [(Reason.SILENCE, 1.0)]
    noted((1_001, signal, 1), suspicion=suspicion)
    assert reasons(suspicion, 1_001) == []
    assert reasons(suspicion, 1_001 + SILENT_S) == []


# ---- who is told ----


def test_a_client_may_be_suspected_for_both_reasons_and_counts_once_for_each() -> None:
    suspicion = noted((0, APP, BUSY_QUERIES), (1, RESOLVER, 1))
    assert suspicion.suspects(NOW + 700) == [
        Suspect(CLIENT, GROUP, Reason.RESOLVER, NOW + 1),
        Suspect(CLIENT, GROUP, Reason.SILENCE, NOW + 1),
    ]
    assert suspicion.counts(NOW + 700) == {(GROUP, Reason.RESOLVER): 1, (GROUP, Reason.SILENCE): 1}
    assert suspicion.counts(NOW + 90_000) == {}


def test_a_client_counts_in_the_group_of_its_last_query() -> None:
    suspicion = noted((0, APP, 6), (1, RESOLVER, 1))
    suspicion.note(CLIENT, "press", OTHER, NOW + 2)
    assert suspicion.counts(NOW + 3) == {("press", Reason.RESOLVER): 1}


def test_no_client_answers_for_another() -> None:
    suspicion = noted((0, APP, 6))
    suspicion.note("192.0.2.10", GROUP, RESOLVER, NOW + 1)
    assert suspicion.suspects(NOW + 2) == []


# ---- memory ----


def test_no_more_than_so_many_are_followed_and_the_one_whose_last_sign_is_oldest_goes() -> None:
    suspicion = noted((0, APP, 6), (1, RESOLVER, 1))
    for number in range(MOST):
        assert len(suspicion) <= MOST
        assert reasons(suspicion, 2) != []
        suspicion.note(f"2001:db8::{number:x}", GROUP, APP, NOW + 2)
    assert len(suspicion) == MOST
    assert reasons(suspicion, 2) == []


def test_clients_without_any_sign_take_no_memory_and_push_nobody_out() -> None:
    suspicion = noted((0, APP, 6), (1, RESOLVER, 1), suspicion=Suspicion(1))
    for number in range(100):
        suspicion.note(f"2001:db8::{number:x}", GROUP, OTHER, NOW + 2)
    assert len(suspicion) == 1
    assert reasons(suspicion, 2) == [(Reason.RESOLVER, 1.0)]


# ---- the definition, over all that a client asked since it is followed ----

Events = list[tuple[float, Signal]]


def resolver_since(events: Events, now: float) -> Iterator[float]:
    signs = []
    for at, (when, signal) in enumerate(events):
        apps = [each for each, what in events[:at] if what is APP]
        run = apps[-APP_QUERIES:]
        has_run = len(run) == APP_QUERIES and all(later - sooner <= RUN_GAP_S for sooner, later in pairwise(run))
        if signal is RESOLVER and has_run and when - run[-1] <= RUN_GAP_S:
            signs.append(when)
    first = signs[:1] + [later for sooner, later in pairwise(signs) if later - sooner >= SUSPECTED_S]
    if signs and now - signs[-1] < SUSPECTED_S:
        yield first[-1]


def silent_since(events: Events, now: float) -> Iterator[float]:
    last = events[-1][0]
    for slot in (last // SLOT_S, last // SLOT_S - 1):
        within = [signal for when, signal in events if when // SLOT_S == slot]
        if len(within) >= BUSY_QUERIES and APP in within and SILENT_S <= now - last < GONE_S:
            yield last
            return


steps = st.tuples(
    st.sampled_from([0, 0, 1, 30, 60, 61, 299, 301, 600, 3_600, 7_200]),  # seconds since the step before
    st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3"]),
    st.sampled_from([APP, APP, RESOLVER, OTHER]),
    st.sampled_from([1, 3, 6, 19, 20]),  # queries
)


@thorough
@given(series=st.lists(steps, max_size=40), most=st.integers(1, 3))
def test_it_agrees_with_the_definition(series: list[tuple[int, str, Signal, int]], most: int) -> None:
    suspicion, now = Suspicion(most), NOW
    followed: dict[str, Events] = {}  # by the last sign
    for gap, client, signal, times in series:
        now += gap
        expected = [
            Suspect(each, GROUP, reason, since)
            for each, events in followed.items()
            for reason, found in ((Reason.RESOLVER, resolver_since), (Reason.SILENCE, silent_since))
            for since in found(events, now)
        ]
        assert suspicion.suspects(now) == expected
        assert suspicion.counts(now) == Counter((GROUP, each.reason) for each in expected)
        for _ in range(times):
            suspicion.note(client, GROUP, signal, now)
        if signal is not OTHER:
            followed[client] = followed.pop(client, [])
            for other in list(followed)[:-most]:
                del followed[other]
        if client in followed:
            followed[client] += [(now, signal)] * times
        assert len(suspicion) == len(followed) <= most
