"""Exemptions: when they are in force, and when that changes next."""

import pytest

from dnsfilter.core.exemptions import Exemption

PRESS = Exemption("PRESS-1", 0b1, start=1_000.0, end=2_000.0)


@pytest.mark.parametrize(
    ("wall", "is_in_force", "change"),
    [
        pytest.param(0.0, False, 1_000.0, id="long before"),
        pytest.param(999.999, False, 1_000.0, id="just before its start"),
        pytest.param(1_000.0, True, 2_000.0, id="at its start"),
        pytest.param(1_999.999, True, 2_000.0, id="just before its end"),
        pytest.param(2_000.0, False, None, id="at its end, the first moment without"),
        pytest.param(3_000.0, False, None, id="long after"),
    ],
)
def test_an_exemption_is_in_force_from_its_start_to_before_its_end(
    wall: float, *, is_in_force: bool, change: float | None
) -> None:
    assert PRESS.is_in_force(wall) is is_in_force
    assert PRESS.next_change(wall) == change


def test_an_exemption_of_no_length_is_never_in_force() -> None:
    empty = Exemption("NONE-1", 0b1, start=1_000.0, end=1_000.0)
    assert not any(empty.is_in_force(wall) for wall in (999.0, 1_000.0, 1_001.0))


def test_one_that_ends_before_it_starts_is_never_in_force() -> None:
    wrong = Exemption("WRONG-1", 0b1, start=2_000.0, end=1_000.0)
    assert not any(wrong.is_in_force(wall) for wall in (999.0, 1_000.0, 1_500.0, 2_000.0, 2_001.0))
