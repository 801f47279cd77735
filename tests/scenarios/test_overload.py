"""Floods of random names below a zone that nobody answers for: who else is served meanwhile, and what is left of it.

5,000 queries in about 4 seconds, in bursts of 50. The limits are loose, as test machines are noisy; what was measured
is printed.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest

from tests.scenarios.client import NOERROR, SERVFAIL, Address, Edns, TcpClient, UdpClient, ask, query, read
from tests.scenarios.conftest import Start
from tests.scenarios.expect import LISTED, MANAGED, check_clean, check_sinkholed, policy, where
from tests.scenarios.service import Service
from tests.scenarios.test_load import Collector, resident
from tests.scenarios.upstream import SILENCE, Asked, Said, Upstream, address_of, default

pytestmark = pytest.mark.alone

FLOOD = 5_000
BURST = 50
EVERY_S = 0.04
ZONE = "attacked.example"
NewUpstream = Callable[[], Upstream]


@dataclass(slots=True)
class Flood:
    """One flood: what came back, and how long other questions took during it."""

    answers: list[bytes] = field(default_factory=list)
    took: dict[str, list[float]] = field(default_factory=dict)

    def time(self, what: str, do: Callable[[], object]) -> None:
        """Do something during the flood and note how long it took."""
        begun = time.monotonic()
        do()
        self.took.setdefault(what, []).append(time.monotonic() - begun)

    def p90(self, what: str) -> float:
        """The time that nine of ten took no longer than."""
        return sorted(self.took[what])[len(self.took[what]) * 9 // 10]

    def report(self) -> None:
        """Print what was measured."""
        for what, took in self.took.items():
            median = statistics.median(took)
            times = f"p50 {median * 1e3:.1f}, p90 {self.p90(what) * 1e3:.1f}, longest {max(took) * 1e3:.1f} ms"
            print(f"{what}: {len(took)} in {times}")


@contextmanager
def flooding(server: Address, sources: int = 1) -> Iterator[tuple[Flood, Callable[[int], None]]]:
    """Give a flood, and a function that sends its burst of a number when its time has come. sources: addresses."""
    flood = Flood()
    begun = time.monotonic()
    with ExitStack() as stack:
        clients = [stack.enter_context(UdpClient(server, f"127.0.9.{number + 1}")) for number in range(sources)]
        collectors = [Collector(client) for client in clients]
        for collector in collectors:
            collector.start()

        def burst(number: int) -> None:
            time.sleep(max(0.0, begun + number * EVERY_S - time.monotonic()))
            for ident in range(number * BURST, (number + 1) * BURST):
                clients[ident % sources].send(query(f"{begun:.3f}-{ident}.{ZONE}", ident=ident, edns=Edns()))

        yield flood, burst
        until = time.monotonic() + 7  # the deadline of the last one, and some more
        for collector in collectors:
            flood.answers += collector.finish(FLOOD // sources, max(0.1, until - time.monotonic()))


def silent_below_the_zone(asked: Asked) -> Said:
    """What an authority's outage looks like to those who ask its resolver."""
    return SILENCE if asked.name.endswith(f".{ZONE}.") else default(asked)


def answered(server: Address, name: str, source: str = "127.0.0.20") -> None:
    """Ask for a name's address, which has to be right."""
    response = ask(server, name, source=source, edns=Edns())
    assert response.addresses == [address_of(name)], f"{name}: rcode {response.rcode}, {response.ede}"


def blocked(server: Address, name: str) -> None:
    """Ask for a listed name."""
    check_sinkholed(ask(server, name, source=MANAGED))


def check_ordinary_names_return(server: Address, timeout_s: float = 10) -> None:
    """A new name every tenth of a second, until three in a row were answered."""
    begun = time.monotonic()
    in_a_row = number = 0
    while in_a_row < 3:
        assert time.monotonic() - begun < timeout_s, "not resolved again"
        name = f"ordinary-{begun:.3f}-{number}.example"
        number += 1
        in_a_row = in_a_row + 1 if ask(server, name).addresses == [address_of(name)] else 0
        if not in_a_row:
            time.sleep(0.1)
    print(f"ordinary names again after {time.monotonic() - begun:.2f} s")


def test_blocked_and_cached_names_during_a_flood_towards_silent_upstreams(start: Start, upstreams: NewUpstream) -> None:
    """Each is answered, nine of ten within 100 ms; all of the flood hears something; ordinary names come back in 10 s.

    Random-subdomain attack; RFC 9520 2.2.
    """
    both = upstreams(), upstreams()
    service = start(policy(*both))
    server = service.dns
    answered(server, "cached.example")
    for each in both:
        each.otherwise(SILENCE)
    with flooding(server) as (flood, burst):
        for number in range(FLOOD // BURST):
            burst(number)
            name = f"b{number}.{LISTED}"
            flood.time("blocked", partial(blocked, server, name))
            flood.time("cached", partial(answered, server, "cached.example"))
    flood.report()
    print(f"{len(flood.answers)} of {FLOOD} heard something")
    for each in both:
        each.otherwise(default)
    check_ordinary_names_return(server)
    assert flood.p90("blocked") < 0.1
    assert flood.p90("cached") < 0.1
    assert len(flood.answers) == FLOOD
    assert {read(octets).rcode for octets in flood.answers} == {SERVFAIL}
    for each in both:
        check_clean(each)


def test_memory_is_given_back_after_a_flood(start: Start, upstreams: NewUpstream) -> None:
    """The third leaves nothing behind beyond the second: the tables that grow with the first one are full by then."""
    upstream = upstreams()
    service = start(policy(upstream, resolve={"timeout": "0.5s", "deadline": "1s"}))
    levels = [resident(service.pid)]
    for _ in range(3):
        upstream.otherwise(silent_below_the_zone)
        with flooding(service.dns) as (_, burst):
            for number in range(FLOOD // BURST):
                burst(number)
        check_ordinary_names_return(service.dns)
        levels.append(resident(service.pid))
    print(f"resident: {[f'{level / 2**20:.1f}' for level in levels]} MiB")
    assert levels[1] - levels[0] < 100 << 20
    assert levels[3] - levels[2] < 4 << 20


@pytest.mark.parametrize(
    "sources", [pytest.param(1, id="one client", marks=pytest.mark.slow), pytest.param(20, id="twenty clients")]
)
def test_a_well_behaved_client_is_served_during_a_flood_by(start: Start, upstreams: NewUpstream, sources: int) -> None:
    """Its names are new and of a zone that the same upstream answers: each right, nine of ten within 100 ms."""
    upstream = upstreams()
    upstream.otherwise(silent_below_the_zone)
    service = start(policy(upstream))
    server = service.dns
    answered(server, "cached.example")
    failed: list[str] = []

    def new_name(name: str) -> None:
        response = ask(server, name, source="127.0.0.20", edns=Edns())
        if response.addresses != [address_of(name)]:
            failed.append(f"{name} {response.rcode} {response.ede}")

    with flooding(server, sources) as (flood, burst):
        for number in range(FLOOD // BURST):
            burst(number)
            flood.time("new names", partial(new_name, f"good-{number}.example"))
            flood.time("blocked", partial(blocked, server, LISTED))
            flood.time("cached", partial(answered, server, "cached.example"))
    flood.report()
    print(f"{len(failed)} of {FLOOD // BURST} new names failed")
    check_ordinary_names_return(server)
    assert not failed, f"{len(failed)} of {FLOOD // BURST}: {failed[:3]}"
    assert all(flood.p90(what) < 0.1 for what in flood.took)


@pytest.mark.slow
def test_a_flood_over_udp_stops_no_client_over_tcp(start: Start, upstreams: NewUpstream) -> None:
    """One connection, opened before, with a new name and a blocked one in turn."""
    upstream = upstreams()
    upstream.otherwise(silent_below_the_zone)
    service = start(policy(upstream))
    failed = 0
    with TcpClient(service.dns, MANAGED) as client, flooding(service.dns) as (flood, burst):
        for number in range(FLOOD // BURST):
            burst(number)
            name = f"tcp-{number}.example"

            def both(name: str = name) -> None:
                nonlocal failed
                client.send(query(LISTED, ident=1), query(name, ident=2))
                got = {response.ident: response for response in map(read, client.gather(2))}
                check_sinkholed(got[1])
                failed += got[2].addresses != [address_of(name)]

            flood.time("over TCP", both)
    flood.report()
    assert failed == 0
    assert flood.p90("over TCP") < 0.1


def test_beyond_max_concurrent_there_is_servfail_with_ede_23_at_once(start: Start, upstreams: NewUpstream) -> None:
    """RFC 8914 4.24; not more than that many go upstream, and one of another client has its turn within a second."""
    upstream = upstreams()
    upstream.otherwise(silent_below_the_zone)
    service: Service = start(policy(upstream, resolve={"max_concurrent": 20}))
    with UdpClient(service.dns, "127.0.0.66") as client:
        begun = time.monotonic()
        for ident in range(200):
            client.send(query(f"over-{ident}.{ZONE}", ident=ident, edns=Edns()))
        at_once = client.gather(180, timeout_s=0.5)
        assert time.monotonic() - begun < 0.6
        assert len(at_once) == 180
        for octets in at_once.values():
            response = read(octets)
            assert response.rcode == SERVFAIL
            assert [code for code, _ in response.ede] == [23]
        assert len({asked.name for asked in upstream.queries()}) <= 20
        until = begun + 1.5
        number = 0
        while ask(service.dns, f"other-{number}.example", source="127.0.0.20").rcode != NOERROR:
            assert time.monotonic() < until, "another client is kept out by one client's questions"
            number += 1
            time.sleep(0.1)
        rest = client.gather(200 - len(at_once), timeout_s=6)
    assert len(at_once) + len(rest) == 200
    assert {read(octets).rcode for octets in rest.values()} == {SERVFAIL}
    check_ordinary_names_return(service.dns)


@pytest.mark.slow
def test_a_flood_for_one_zones_upstreams_leaves_the_others_alone(start: Start, upstreams: NewUpstream) -> None:
    """Questions in flight are counted for each group of upstreams."""
    alive, dead = upstreams(), upstreams()
    dead.otherwise(SILENCE)
    service = start(policy(alive, forward=[{"zone": ZONE, "upstreams": [where(dead.address)]}]))
    with flooding(service.dns) as (flood, burst):
        for number in range(FLOOD // BURST):
            burst(number)
            name = f"alive-{number}.example"
            flood.time("new names", partial(answered, service.dns, name))
    flood.report()
    assert flood.p90("new names") < 0.1
    assert not alive.queries(ZONE, below=True)
