"""Failures are remembered for a second at first, for five at most (RFC 9520 section 3.2)."""

from itertools import pairwise

import pytest

from dnsfilter.core.failures import LONGEST_S, MOST, Failures


def lasts(failures: Failures, key: bytes, now: float) -> float:
    """For how long a failure of now is remembered, in tenths of a second."""
    failures.note(key, now)
    return next(tenths / 10 for tenths in range(1, 1_000) if not failures.is_recent(key, now + tenths / 10))


def test_each_failure_in_a_row_is_remembered_for_longer() -> None:
    failures, now, found = Failures(), 1_000.0, []
    for _ in range(5):
        found.append(lasts(failures, b"www", now))
        now += found[-1]
    assert found == [1.0, 2.0, 4.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("after_s", "expected"),
    [pytest.param(LONGEST_S - 0.5, 2.0, id="soon"), pytest.param(LONGEST_S + 0.5, 1.0, id="much later")],
)
def test_a_failure_long_after_another_is_a_first_one(after_s: float, expected: float) -> None:
    failures = Failures()
    assert lasts(failures, b"www", 1_000.0) == 1.0
    assert lasts(failures, b"www", 1_001.0 + after_s) == expected


def test_an_answer_in_between_begins_anew() -> None:
    failures = Failures()
    failures.note(b"www", 1_000.0)
    failures.forget(b"www")
    assert not failures.is_recent(b"www", 1_000.1)
    assert lasts(failures, b"www", 1_000.2) == 1.0


def test_one_names_failure_is_not_anothers() -> None:
    failures = Failures()
    failures.note(b"www", 1_000.0)
    assert failures.is_recent(b"www", 1_000.5)
    assert not failures.is_recent(b"www2", 1_000.5)
    failures.clear()
    assert not failures.is_recent(b"www", 1_000.5)


def test_no_more_than_so_many_are_remembered_the_oldest_goes_first() -> None:
    failures = Failures()
    for number in range(MOST + 5):
        failures.note(b"%d" % number, 1_000.0)
    known = [failures.is_recent(b"%d" % number, 1_000.5) for number in range(MOST + 5)]
    assert known == [False] * 5 + [True] * MOST
    assert sum(one != other for one, other in pairwise(known)) == 1
