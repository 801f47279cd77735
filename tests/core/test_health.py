"""Health: who is asked in turn, who is only probed, and how soon one that has come back is used."""

from dnsfilter.core.health import FAILURES_UNTIL_DOWN, LONGEST_BACKOFF_S, Health, order


def down(now: float = 100.0) -> Health:
    state = Health()
    for _ in range(FAILURES_UNTIL_DOWN):
        state.failed(now)
    return state


def test_one_that_fails_now_and_then_stays_up() -> None:
    state = Health()
    for _ in range(10):
        for _ in range(FAILURES_UNTIL_DOWN - 1):
            state.failed(100.0)
        assert state.is_up
        state.succeeded(0.01)
    assert (state.failures, state.backoff_s) == (0, Health().backoff_s)


def test_failures_in_a_row_take_it_down_and_one_success_brings_it_back() -> None:
    state = down()
    assert not state.is_up
    state.succeeded(0.01)
    assert state.is_up
    assert state.backoff_s == Health().backoff_s


def test_one_that_is_up_takes_no_probe() -> None:
    assert not Health().takes_probe(1_000_000.0)


def test_one_that_is_down_takes_one_probe_when_it_is_due() -> None:
    state = down(now=100.0)
    assert not state.takes_probe(100.0)
    assert not state.takes_probe(100.9)
    assert state.takes_probe(101.0)
    assert not state.takes_probe(101.0), "one at a time"
    assert state.takes_probe(101.0 + LONGEST_BACKOFF_S)


def test_many_failures_of_one_moment_are_one_failure() -> None:
    """A burst of questions that all fail says no more than one."""
    state = down(now=100.0)
    for _ in range(100):
        state.failed(100.1)
    assert state.takes_probe(101.0)


def test_the_time_between_probes_grows_to_a_bound() -> None:
    state, now, gaps = down(now=0.0), 0.0, []
    for _ in range(12):
        since = now
        while not state.takes_probe(now):
            now += 0.25
        gaps.append(now - since)
        state.failed(now)
    assert gaps == sorted(gaps)
    assert gaps[0] <= 1.0
    assert max(gaps) <= LONGEST_BACKOFF_S + 0.25, "one that has come back is used again within this"


def test_the_next_fall_starts_with_a_short_wait_again() -> None:
    state = down()
    for number in range(6):
        state.failed(200.0 + number)
    state.succeeded(0.01)
    for _ in range(FAILURES_UNTIL_DOWN):
        state.failed(1_000.0)
    assert state.takes_probe(1_001.0)


def test_those_that_are_up_are_tried_as_configured_then_the_others() -> None:
    assert order([Health(), Health(), Health()]) == [0, 1, 2]
    assert order([down(), Health(), Health()]) == [1, 2, 0]
    assert order([down(), Health(), down()]) == [1, 0, 2]
    assert order([down(), down()]) == [0, 1]
    assert order([]) == []
