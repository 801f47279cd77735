"""The rate limit: bursts and the long run, whose queries count together, and memory in a flood of made-up sources."""

import ipaddress
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core import limits
from dnsfilter.core.limits import KNOWN, SMALLEST_BURST, RateLimit
from tests.core.make import thorough

CLIENT = "192.0.2.9"
NOW = 1_000_000.0  # of a machine that has been up for days: the float is coarse there


def granted(limit: RateLimit, client: str, now: float, queries: int = 5_000) -> int:
    """How many of so many queries at one moment are within the limit."""
    return sum(not limit.is_over(client, now) for _ in range(queries))


def source(number: int) -> str:
    """An address of another client for each number."""
    return str(ipaddress.IPv6Address((0x2001_0DB8 << 96) + (number << 72) + 1))


@pytest.mark.parametrize(
    ("rate", "burst"),
    [
        pytest.param(1, SMALLEST_BURST, id="a low rate allows a page's worth"),
        pytest.param(20, 20, id="as much"),
        pytest.param(21, 21, id="a second's worth"),
        pytest.param(3_000, 3_000, id="a high rate"),
    ],
)
def test_a_client_that_was_quiet_may_ask_a_burst(rate: int, burst: int) -> None:
    limit = RateLimit(rate)
    assert granted(limit, CLIENT, NOW) == burst
    assert granted(limit, CLIENT, NOW + 1) == rate
    assert granted(limit, CLIENT, NOW + 1_000) == burst


@pytest.mark.parametrize("rate", [1, 7, 100, 1_500])
def test_who_asks_too_much_is_answered_at_the_rate(rate: int) -> None:
    limit = RateLimit(rate)
    granted(limit, CLIENT, NOW)
    seconds, a_second = 20, 4 * rate
    queries = [NOW + number / a_second for number in range(1, seconds * a_second + 1)]
    assert sum(not limit.is_over(CLIENT, now) for now in queries) == pytest.approx(seconds * rate, abs=1)


def test_a_clock_that_is_read_a_little_late_gives_nothing() -> None:
    limit = RateLimit(10)
    granted(limit, CLIENT, NOW)
    assert granted(limit, CLIENT, NOW - 0.5) == 0


@pytest.mark.parametrize(
    ("one", "other", "counts_together"),
    [
        pytest.param("192.0.2.9", "192.0.2.8", False, id="another IPv4 address"),
        pytest.param("192.0.2.9", "::ffff:192.0.2.9", True, id="IPv4-mapped"),
        pytest.param("192.0.2.9", "::FFFF:c000:209", True, id="IPv4-mapped, in hexadecimal"),
        pytest.param("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True, id="the same /64"),
        pytest.param("2001:db8:1:200::1", "2001:db8:1:2ff::1", True, id="the same /56"),
        pytest.param("2001:db8:1:200::1", "2001:db8:1:300::1", False, id="the next /56"),
        pytest.param("2001:db8::1", "2001:DB8:0::1", True, id="written otherwise"),
        pytest.param("fe80::1%eth0", "fe80::1%eth1", True, id="a zone id says nothing"),
        pytest.param("fe80::1%eth0", "fe80::2%eth0", False, id="link-local neighbours"),
        pytest.param("192.0.2.9", "::192.0.2.9", False, id="IPv4-compatible is IPv6"),
        pytest.param("::1", "127.0.0.1", False, id="loopback of two families"),
    ],
)
def test_whose_queries_count_together(one: str, other: str, counts_together: bool) -> None:
    limit = RateLimit(10)
    granted(limit, one, NOW)
    assert (granted(limit, other, NOW) == 0) is counts_together
    assert granted(limit, one, NOW) == 0


@pytest.mark.parametrize(
    ("client", "is_exempt"),
    [
        pytest.param("192.0.2.9", True, id="its network"),
        pytest.param("::ffff:192.0.2.9", True, id="IPv4-mapped"),
        pytest.param("192.0.2.77", False, id="beside it"),
        pytest.param("2001:db8::53", True, id="one IPv6 address"),
        pytest.param("2001:db8::53%eth0", True, id="a zone id"),
        pytest.param("2001:db8::54", False, id="another address of the same client"),
    ],
)
def test_who_is_exempt_may_ask_as_much_as_it_likes(client: str, is_exempt: bool) -> None:
    limit = RateLimit(1, [ipaddress.ip_network("192.0.2.0/28"), ipaddress.ip_network("2001:db8::53/128")])
    assert granted(limit, client, NOW) == (5_000 if is_exempt else SMALLEST_BURST)


def test_an_exempt_address_does_not_use_up_what_its_neighbours_may_ask() -> None:
    limit = RateLimit(1, [ipaddress.ip_network("2001:db8::53/128")])
    granted(limit, "2001:db8::53", NOW)
    assert granted(limit, "2001:db8::54", NOW) == SMALLEST_BURST


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="address"):
        RateLimit(1).is_over("name.example", NOW)


# ---- the definition: no stretch of time holds more than a burst and what the rate adds meanwhile ----

CLIENTS = {
    "192.0.2.9": "a",
    "::ffff:192.0.2.9": "a",
    "192.0.2.10": "b",
    "2001:db8:0:1::1": "c",
    "2001:db8:0:2::1": "c",
    "2001:db8:0:100::1": "d",
}
gaps = st.sampled_from([0, 0, 0, 0, 1, 2, 5, 64, 300])  # in 64ths of a second
bursts = st.tuples(gaps, st.sampled_from(sorted(CLIENTS)), st.integers(1, 15))


@thorough
@given(rate=st.sampled_from([1, 3, 20, 25, 64]), series=st.lists(bursts, max_size=40))
def test_it_agrees_with_the_definition(rate: int, series: list[tuple[int, str, int]]) -> None:
    limit, burst = RateLimit(rate), max(rate, SMALLEST_BURST)
    taken: dict[str, list[Fraction]] = {who: [] for who in CLIENTS.values()}
    now = Fraction(1_000)
    for gap, client, queries in series:
        now += Fraction(gap, 64)
        for _ in range(queries):
            mine = taken[CLIENTS[client]]
            is_over = any(len(mine) - at + 1 > burst + rate * (now - start) for at, start in enumerate(mine))
            assert limit.is_over(client, float(now)) is is_over
            if not is_over:
                mine.append(now)


# ---- memory ----


def test_memory_is_bounded_whatever_sources_a_flood_makes_up() -> None:
    limit, most = RateLimit(1), 0
    for number in range(3 * KNOWN):
        limit.is_over(source(number), NOW)
        most = max(most, len(limit))
    assert KNOWN < most <= 2 * KNOWN


def test_a_client_that_goes_on_asking_keeps_its_bucket_in_a_flood() -> None:
    limit = RateLimit(1)
    assert granted(limit, CLIENT, NOW) == SMALLEST_BURST
    for number in range(3 * KNOWN):
        limit.is_over(source(number), NOW)
        if number % (KNOWN // 2) == 0:
            assert limit.is_over(CLIENT, NOW)


@thorough
@given(seed=st.integers(0, 2**32))
def test_no_client_gains_by_its_many_addresses_nor_by_the_change_of_generations(seed: int) -> None:
    rng, known = random.Random(seed), 16
    taken = dict.fromkeys(range(3), 0)
    others: dict[int, set[str]] = {prefix: set() for prefix in taken}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "KNOWN", known)
        limit = RateLimit(1)
        for _ in range(600):
            prefix = rng.randrange(3)
            is_stranger = rng.random() < 0.3
            asks = source(rng.randrange(9, 1_000)) if is_stranger else f"2001:db8:0:{prefix:x}00::{rng.randrange(1, 9)}"
            for each, seen in others.items():
                if is_stranger or each != prefix:
                    seen.add(asks)
            is_over = limit.is_over(asks, NOW)
            assert len(limit) <= 2 * known
            if is_stranger:
                continue
            if len(others[prefix]) >= known // 2 - 1:  # from here on it may have been forgotten
                taken[prefix] = 0
            others[prefix].clear()
            taken[prefix] += not is_over
            assert taken[prefix] <= SMALLEST_BURST
            assert is_over or taken[prefix] > 0
