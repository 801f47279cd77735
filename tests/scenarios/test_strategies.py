"""strict, load_balance and parallel: whom each asks, what it takes, and that one bad upstream costs little."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.scenarios.client import NOERROR, SERVFAIL, Edns, UdpClient, ask, check_echo, query, read
from tests.scenarios.conftest import Start
from tests.scenarios.expect import LISTED, MANAGED, check_clean, check_sinkholed, policy, where
from tests.scenarios.service import Service
from tests.scenarios.upstream import SILENCE, Action, Asked, Send, Upstream, address_of, default, reply

STRATEGIES = ("strict", "load_balance", "parallel")
NewUpstream = Callable[[], Upstream]

each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def after(seconds: float) -> Callable[[Asked], Sequence[Action]]:
    """Answers that are good and come late."""
    return lambda asked: [Send(default(asked), after_s=seconds)]


def servfail(asked: Asked) -> bytes:
    """An answer that is no answer."""
    return reply(asked, rcode=SERVFAIL)


def begin(
    start: Start, strategy: str, *upstreams: Upstream, resolve: dict[str, Any] | None = None, **more: Any
) -> Service:
    """Start a service that asks these upstreams so."""
    return start(policy(*upstreams, resolve={"strategy": strategy, **(resolve or {})}, **more))


def timed(service: Service, name: str) -> float:
    """Ask for a name's address, which has to be right; return how long it took."""
    begun = time.monotonic()
    response = ask(service.dns, name)
    took = time.monotonic() - begun
    assert response.addresses == [address_of(name)], f"rcode {response.rcode} for {name} after {took:.2f} s"
    return took


# What counts as an answer


@each_strategy
@pytest.mark.parametrize(
    "rcode", [pytest.param(SERVFAIL, id="SERVFAIL"), pytest.param(5, id="REFUSED", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "bad", [pytest.param(0, id="by the first"), pytest.param(1, id="by the second", marks=pytest.mark.slow)]
)
def test_a_good_answer_in_30_ms_beats_an_error_at_once(
    start: Start, upstreams: NewUpstream, strategy: str, rcode: int, bad: int
) -> None:
    """Errors are final only if all failed (RFC 1034 5.3.3 step 4d, RFC 9520 3.1)."""
    both = upstreams(), upstreams()
    both[bad].otherwise(lambda asked: reply(asked, rcode=rcode))
    both[1 - bad].otherwise(after(0.03))
    service = begin(start, strategy, *both)
    took = [timed(service, f"beats-{number}.example") for number in range(20)]
    assert max(took) < 0.5
    for each in both:
        check_clean(each)


@each_strategy
def test_nxdomain_is_an_answer(start: Start, upstreams: NewUpstream, strategy: str) -> None:
    """It is not asked for elsewhere, and what another one says of the name later changes nothing."""
    both = upstreams(), upstreams()
    soa = "example. 300 IN SOA ns.example. host.example. 1 3600 600 86400 300"
    for each in both:
        each.otherwise(lambda asked: reply(asked, rcode=3, authority=[soa]))
    service = begin(start, strategy, *both)
    begun = time.monotonic()
    assert ask(service.dns, "missing.example").rcode == 3
    assert time.monotonic() - begun < 0.3
    if strategy != "parallel":
        assert sum(len(each.queries("missing.example")) for each in both) == 1


@each_strategy
def test_errors_of_all_upstreams_are_one_error_at_once(start: Start, upstreams: NewUpstream, strategy: str) -> None:
    """Each asked once or twice; the rcode is SERVFAIL and explained to who asked with OPT (RFC 8914)."""
    three = upstreams(), upstreams(), upstreams()
    for each in three:
        each.otherwise(servfail)
    service = begin(start, strategy, *three)
    begun = time.monotonic()
    response = ask(service.dns, "all-fail.example", edns=Edns())
    assert time.monotonic() - begun < 0.5
    assert response.rcode == SERVFAIL
    assert response.ede
    assert all(1 <= len(each.queries("all-fail.example")) <= 2 for each in three)


def lies(asked: Asked) -> list[Action]:
    """Another question's answer under the right id, at once; and the same with another type."""
    other = default(Asked(query("lie.example", ident=asked.ident), "udp", asked.source))
    question = asked.question[:-4] + b"\0\x10" + asked.question[-2:]
    return [Send(other), Send(default(asked)[:12] + question + default(asked)[12 + len(question) :])]


@each_strategy
@pytest.mark.parametrize(
    "also_good", [pytest.param(True, id="and the right one later"), pytest.param(False, id="only")]
)
def test_a_first_answer_that_lies_is_not_taken(
    start: Start, upstreams: NewUpstream, strategy: str, also_good: bool
) -> None:
    """Another name or type under the right id (RFC 5452 9.1); the other upstream's answer is."""
    liar, honest = upstreams(), upstreams()
    liar.otherwise(lambda asked: [*lies(asked), Send(default(asked), after_s=0.1)] if also_good else lies(asked))
    honest.otherwise(after(0.05))
    service = begin(start, strategy, liar, honest, resolve={"timeout": "0.5s"})
    for number in range(10):
        assert timed(service, f"lied-{number}.example") < 1.2
    assert not honest.queries("lie.example")


# One that is silent


@each_strategy
@pytest.mark.parametrize(
    "silent", [pytest.param(0, id="the first"), pytest.param(1, id="the second", marks=pytest.mark.slow)]
)
def test_a_silent_upstream_delays_nobody_beyond_the_timeout_and_little_once_it_is_known(
    start: Start, upstreams: NewUpstream, strategy: str, silent: int
) -> None:
    """1 s at first, 0.5 s later (RFC 1035 7.2); one question after the other and 50 at once."""
    both = upstreams(), upstreams()
    both[silent].otherwise(SILENCE)
    service = begin(start, strategy, *both, resolve={"timeout": "1s"})
    took = [timed(service, f"silent-{number}.example") for number in range(16)]
    print(f"{strategy}: {[round(each, 2) for each in took]}")
    assert max(took) < 1.3
    assert max(took[6:]) < 0.6
    begun = time.monotonic()
    with UdpClient(service.dns) as client:
        for ident in range(50):
            client.send(query(f"at-once-{ident}.example", ident=ident))
        got = client.gather(50)
    assert time.monotonic() - begun < 0.6
    assert [read(got[ident]).addresses for ident in range(50)] == [
        [address_of(f"at-once-{ident}.example")] for ident in range(50)
    ]


@each_strategy
def test_50_questions_at_once_find_a_silent_upstream_that_nobody_knew_of(
    start: Start, upstreams: NewUpstream, strategy: str
) -> None:
    """No client waits longer than one time-out and the other upstream's answer."""
    both = upstreams(), upstreams()
    service = begin(start, strategy, *both, resolve={"timeout": "1s"})
    for number in range(4):
        timed(service, f"before-{number}.example")
    both[0].otherwise(SILENCE)
    begun = time.monotonic()
    with UdpClient(service.dns) as client:
        for ident in range(50):
            client.send(query(f"sudden-{ident}.example", ident=ident))
        got = client.gather(50)
    assert time.monotonic() - begun < 1.3
    assert all(read(got[ident]).addresses == [address_of(f"sudden-{ident}.example")] for ident in range(50))


@each_strategy
@pytest.mark.parametrize(
    "gone", [pytest.param(False, id="silent"), pytest.param(True, id="port closed", marks=pytest.mark.slow)]
)
def test_the_first_is_used_again_within_30_seconds_of_its_return(
    start: Start, upstreams: NewUpstream, strategy: str, gone: bool
) -> None:
    """RFC 1035 7.2: used, not only tried."""
    first, second = upstreams(), upstreams()
    first.otherwise(SILENCE)
    if gone:
        first.stop()
    service = begin(start, strategy, first, second, resolve={"timeout": "0.3s", "deadline": "2s"})
    for number in range(10):
        timed(service, f"away-{number}.example")
    if gone:
        first.start()
    first.otherwise(default)
    returned = time.monotonic()
    number = used = 0
    while used < 3:
        assert time.monotonic() - returned < 30, "not used again"
        name = f"back-{number}.example"
        assert timed(service, name) < 0.7
        used += bool(first.queries(name))
        number += 1
        time.sleep(0.1)
    print(f"{strategy}: used again after {time.monotonic() - returned:.1f} s")


# Who is asked


def test_strict_asks_the_second_only_when_needed(start: Start, upstreams: NewUpstream) -> None:
    """At most two datagrams a query."""
    first, second = upstreams(), upstreams()
    first.on("poor.example", servfail)
    service = begin(start, "strict", first, second)
    for number in range(20):
        timed(service, f"first-{number}.example")
    assert not [asked for asked in second.queries() if asked.name.startswith("first-")]
    timed(service, "poor.example")
    assert (len(first.queries("poor.example")), len(second.queries("poor.example"))) == (1, 1)
    first.otherwise(SILENCE)
    timed(service, "hears-nothing.example")
    assert len(first.queries("hears-nothing.example")) + len(second.queries("hears-nothing.example")) <= 2


def test_load_balance_asks_two_that_are_equally_fast_about_equally_often(start: Start, upstreams: NewUpstream) -> None:
    """200 names: each at least 60; no name of both."""
    both = upstreams(), upstreams()
    for each in both:
        each.otherwise(after(0.002))
    service = begin(start, "load_balance", *both)
    for number in range(200):
        timed(service, f"equal-{number}.example")
    shares = [len(each.queries()) for each in both]
    print(f"shares {shares}")
    assert min(shares) >= 60
    assert sum(shares) <= 210


def test_load_balance_asks_mostly_the_fast_one(start: Start, upstreams: NewUpstream) -> None:
    """2 ms against 100 ms: at least three of four questions, and now and then the other, which may have become fast."""
    slow, fast = upstreams(), upstreams()
    slow.otherwise(after(0.1))
    fast.otherwise(after(0.002))
    service = begin(start, "load_balance", slow, fast)
    took = [timed(service, f"faster-{number}.example") for number in range(200)]
    print(f"shares {len(slow.queries())} slow, {len(fast.queries())} fast; median {statistics.median(took):.4f} s")
    assert len(fast.queries()) >= 150
    assert slow.queries()
    assert statistics.median(took[20:]) < 0.05


def test_parallel_asks_all_at_once_and_takes_the_first_good_answer(start: Start, upstreams: NewUpstream) -> None:
    """In 20 ms though the others take a second or fail; each is asked once, within 50 ms."""
    slow, good, bad = upstreams(), upstreams(), upstreams()
    slow.otherwise(after(1.0))
    good.otherwise(after(0.02))
    bad.otherwise(servfail)
    service = begin(start, "parallel", slow, good, bad)
    idents = []
    for number in range(10):
        name = f"race-{number}.example"
        assert timed(service, name) < 0.3
        asked = [each.wait(name) for each in (slow, good, bad)]
        assert [len(each) for each in asked] == [1, 1, 1]
        times = [each[0].at for each in asked]
        assert max(times) - min(times) < 0.05
        idents.append(len({each[0].ident for each in asked}))
    assert max(idents) > 1, "one id for all (RFC 5452 9.2)"


def test_parallel_answers_once_though_all_upstreams_do(start: Start, upstreams: NewUpstream) -> None:
    """Late answers reach no client and spoil nothing."""
    three = upstreams(), upstreams(), upstreams()
    for number, each in enumerate(three):
        each.otherwise(after(0.01 * number))
    service = begin(start, "parallel", *three)
    with UdpClient(service.dns) as client:
        sent = {ident: query(f"once-{ident}.example", ident=ident) for ident in range(100)}
        for octets in sent.values():
            client.send(octets)
        got = client.gather(100)
        assert client.drain(0.1) == []
    for ident, octets in got.items():
        response = read(octets)
        check_echo(sent[ident], response)
        assert response.addresses == [address_of(f"once-{ident}.example")]


# Zones


@each_strategy
def test_a_zone_goes_to_its_own_upstreams_and_to_no_others(start: Start, upstreams: NewUpstream, strategy: str) -> None:
    """Also where they all fail; and nothing else goes to them."""
    common, own, spare = upstreams(), upstreams(), upstreams()
    zone = {"zone": "corp.example", "upstreams": [where(own.address), where(spare.address)]}
    service = begin(start, strategy, common, forward=[zone], resolve={"timeout": "0.3s", "deadline": "1s"})
    for number in range(10):
        timed(service, f"in-{number}.corp.example")
        timed(service, f"out-{number}.example")
    timed(service, "corp.example")
    timed(service, "notcorp.example")
    for each in (own, spare):
        each.otherwise(servfail)
    assert ask(service.dns, "fails.corp.example").rcode == SERVFAIL
    for each in (own, spare):
        each.otherwise(SILENCE)
    assert ask(service.dns, "unheard.corp.example").rcode == SERVFAIL
    assert not common.queries("corp.example", below=True)
    assert not common.queries("corp.example")
    for each in (own, spare):
        names = {asked.name for asked in each.queries()}
        assert all(f".{name}".endswith(".corp.example.") for name in names), names
    assert own.queries() or spare.queries()


@each_strategy
def test_a_dead_zone_stops_nobody_else(start: Start, upstreams: NewUpstream, strategy: str) -> None:
    """`max_concurrent` counts for each group of upstreams; over it SERVFAIL with EDE 23 at once."""
    alive, other, dead = upstreams(), upstreams(), upstreams()
    dead.otherwise(SILENCE)
    zone = {"zone": "corp.example", "upstreams": [where(dead.address)]}
    resolve = {"timeout": "0.5s", "deadline": "1s", "max_concurrent": 4}
    service = begin(start, strategy, alive, other, forward=[zone], resolve=resolve)
    timed(service, "cached.example")
    with UdpClient(service.dns, "127.0.0.66") as client:
        for ident in range(50):
            client.send(query(f"x{ident}.corp.example", ident=ident, edns=Edns()))
        begun = time.monotonic()
        for number in range(10):
            assert timed(service, f"ordinary-{number}.example") < 0.25
        check_sinkholed(ask(service.dns, LISTED, source=MANAGED))
        assert timed(service, "cached.example") < 0.25
        over = client.gather(46, timeout_s=max(0.1, begun + 0.5 - time.monotonic()))
        rest = client.gather(50 - len(over), timeout_s=2)
    assert len(over) + len(rest) == 50
    assert len(over) >= 46
    for octets in over.values():
        response = read(octets)
        assert response.rcode == SERVFAIL
        assert [code for code, _ in response.ede] == [23]
    assert all(read(octets).rcode == SERVFAIL for octets in rest.values())
    assert ask(service.dns, "afterwards.example").rcode == NOERROR
