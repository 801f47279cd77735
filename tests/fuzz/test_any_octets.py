"""Any octets keep the promise: a small budget of them in every run; `make fuzz` takes more time."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, seeds

# How many inputs of each kind, for targets that are slow.
BUDGET = {"list_time": 4, "configuration_time": 4, "configuration": 40, "complete": 60, "step": 60}
SCALE = float(os.environ.get("DNSFILTER_FUZZ_SCALE", "1"))  # for a longer run with Hypothesis's own choice of inputs


def examples(target: str) -> settings:
    most = max(1, int(BUDGET.get(target, 100) * SCALE))
    return settings(max_examples=most, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_inputs_keep_the_promise(target: str) -> None:
    pool, words = list(seeds(target)), TARGETS[target].words

    @examples(target)
    @given(st.integers(min_value=0, max_value=2**64 - 1))
    def check(seed: int) -> None:
        TARGETS[target].run(mutated(pool, words, seed))

    check()


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_of_its_own_words_keep_the_promise(target: str) -> None:
    pieces = st.lists(
        st.sampled_from(TARGETS[target].words or (b"\0", b"\1", b"\xff")) | st.binary(max_size=8), max_size=40
    )

    @examples(target)
    @given(pieces.map(b"".join))
    def check(octets: bytes) -> None:
        TARGETS[target].run(octets)

    check()


@pytest.mark.parametrize("target", TARGETS)
def test_random_octets_keep_the_promise(target: str) -> None:
    @examples(target)
    @given(st.binary(max_size=300))
    def check(octets: bytes) -> None:
        TARGETS[target].run(octets)

    check()
