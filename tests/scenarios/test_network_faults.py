"""dnsfilter on networks that delay, lose, repeat, reorder and swallow packets, between namespaces of the test's own."""

import asyncio
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.programs import need
from tests.scenarios.client import (
    NOERROR,
    RECEIVE_BUFFER,
    SERVFAIL,
    TC,
    Address,
    Edns,
    Response,
    TcpClient,
    UdpClient,
    check_echo,
    query,
    read,
)
from tests.scenarios.expect import LISTED, check_clean, check_sinkholed, policy
from tests.scenarios.netlab import NETWORKS, NONE, RESOLVER, UPSTREAMS, Faults, Lab, Place
from tests.scenarios.service import Service
from tests.scenarios.upstream import Upstream, address_of

PORT = 5353
FAR = NETWORKS["upstream"]
POOR = Faults(delay_s=0.08, jitter_s=0.04, loss=0.2, repeated=0.05)
BLACK_HOLE = Faults(delay_s=0.005, swallows_above=1300)


class FarUpstream(Upstream):
    """A scripted upstream whose sockets are in the lab's far network."""

    def __init__(self, lab: Lab, host: str) -> None:
        super().__init__()
        self._lab = lab
        self.address = host, PORT

    async def _start(self) -> None:
        datagram = self._lab.socket("upstream", socket.SOCK_DGRAM)
        datagram.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        stream = self._lab.socket("upstream", socket.SOCK_STREAM)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for each in (datagram, stream):
            each.bind(self.address)
            each.setblocking(False)
        self._udp, _ = await self._loop.create_datagram_endpoint(lambda: self, sock=datagram)
        self._server = await asyncio.start_server(self._connected, sock=stream, backlog=256)


class LabUdpClient(UdpClient):
    """A client in the lab; beside the service it comes from 127.0.0.1, which blocks nothing, unless told otherwise."""

    def __init__(self, lab: Lab, server: Address, source: str = "127.0.0.1", place: Place = "resolver") -> None:
        self.socket = lab.socket(place, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.socket.bind((source, 0))
        self.socket.connect(server)


class LabTcpClient(TcpClient):
    """The same over TCP."""

    def __init__(self, lab: Lab, server: Address, place: Place = "resolver") -> None:
        self.socket = lab.socket(place, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(server)


class Site:
    """The service in the near network, two upstreams in the far one."""

    def __init__(self, lab: Lab, service: Service, upstreams: tuple[Upstream, Upstream]) -> None:
        self.lab, self.service, self.upstreams = lab, service, upstreams

    def client(self, source: str = "127.0.0.1") -> LabUdpClient:
        """A client over UDP."""
        return LabUdpClient(self.lab, self.service.dns, source)

    def ask(
        self, name: str, rdtype: str = "A", *, source: str = "127.0.0.1", edns: Edns | None = None, tcp: bool = False
    ) -> Response:
        """Ask one question; the response has to come and to belong to it."""
        sent = query(name, rdtype, edns=edns)
        with LabTcpClient(self.lab, self.service.dns) if tcp else self.client(source) as client:
            client.send(sent)
            octets = client.receive()
        assert octets is not None, f"no answer to {name}"
        response = read(octets)
        check_echo(sent, response)
        return response

    def timed(self, name: str) -> float:
        """Ask for a name's address, which has to be right; return how long it took."""
        begun = time.monotonic()
        response = self.ask(name)
        took = time.monotonic() - begun
        assert response.addresses == [address_of(name)], f"rcode {response.rcode} for {name} after {took:.2f} s"
        return took


Start = Callable[..., Site]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Start]:
    """Start networks, upstreams and service: `site(faults)`, further keys of the configuration by name."""
    for program, package in (("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2")):
        need(program, package)
    with ExitStack() as stack:

        def start(faults: Faults = NONE, mtu: int = 1500, **more: Any) -> Site:
            try:
                lab = stack.enter_context(Lab(mtu))
            except OSError as error:
                pytest.skip(f"no network namespaces with TUN devices here: {error}")
            first, second = (stack.enter_context(FarUpstream(lab, host)) for host in UPSTREAMS)
            config = policy(first, second, **{"listen": {"dns": ["127.0.0.1:0"], "admin": "off"}, **more})
            service = Service(tmp_path, config)
            service.through = lab.through
            stack.enter_context(service)
            lab.set(faults)
            return Site(lab, service, (first, second))

        yield start


# Loss


@pytest.mark.parametrize(
    ("resolve", "may_fail"),
    [
        pytest.param({}, 3, id="times as they are by default"),  # six tries fit in: one of 460 names loses all
        pytest.param({"timeout": "0.4s"}, 0, id="a time-out of 0.4 s", marks=pytest.mark.slow),  # twelve
    ],
)
def test_where_a_fifth_of_all_packets_is_lost_each_of_200_names_gets_its_answer(
    site: Start, resolve: dict[str, str], may_fail: int
) -> None:
    """20 % both ways, 80 ms of delay give or take 40: within the deadline of 5 s, none wrong, each answered once."""
    here = site(POOR, resolve=resolve)
    names = [f"lossy-{number}.example" for number in range(200)]
    took: dict[int, float] = {}
    answers: dict[int, Response] = {}
    with here.client() as client:
        begun: dict[int, float] = {}
        for base in range(0, 200, 50):
            for ident in range(base, base + 50):
                begun[ident] = time.monotonic()
                client.send(query(names[ident], ident=ident))
            until = time.monotonic() + 5.5
            while len(answers) < base + 50 and (left := until - time.monotonic()) > 0:
                octets = client.receive(left)
                if octets is not None:
                    response = read(octets)
                    assert response.ident not in answers, "answered twice"
                    answers[response.ident] = response
                    took[response.ident] = time.monotonic() - begun[response.ident]
        assert client.drain() == []
    order = sorted(took.values())
    print(f"p50 {statistics.median(order):.2f} s, p90 {order[len(order) * 9 // 10]:.2f} s, longest {order[-1]:.2f} s")
    counts = here.lab.counts()
    print(counts)
    assert counts["lost"] > 50
    assert counts["repeated"] > 5
    assert len(answers) == 200
    wrong = {i: each.addresses for i, each in answers.items() if each.addresses not in ([], [address_of(names[i])])}
    assert not wrong
    failed = [names[ident] for ident, each in answers.items() if each.rcode != NOERROR]
    assert len(failed) <= may_fail, f"{len(failed)} of 200 failed: {failed[:5]}"
    assert order[-1] <= 5.2
    assert order[len(order) * 9 // 10] < 1.2
    for each in here.upstreams:
        check_clean(each)


@pytest.mark.slow
def test_a_way_that_fails_every_other_second_fails_no_question(site: Start) -> None:
    """80 names in 8 seconds, some sent just as it fails: each is answered within 3 s, none with an error."""
    here = site()
    names = [f"flapping-{number}.example" for number in range(80)]
    sent: list[float] = []
    took: dict[int, float] = {}
    here.timed("before.example")
    with here.client() as client:
        begun = time.monotonic()
        while len(took) < len(names):
            now = time.monotonic()
            assert now - begun < 12, f"{len(took)} of {len(names)} were answered"
            if len(sent) < len(names) and now >= begun + len(sent) * 0.1:
                if len(sent) % 10 == 0:
                    here.lab.set(Faults(swallows=UPSTREAMS) if len(sent) % 20 else NONE)
                sent.append(now)
                client.send(query(names[len(sent) - 1], ident=len(sent) - 1))
            octets = client.receive(0.02)
            if octets is not None:
                response = read(octets)
                assert response.addresses == [address_of(names[response.ident])], f"rcode {response.rcode}"
                took[response.ident] = time.monotonic() - sent[response.ident]
            if len(sent) == len(names):
                here.lab.set(NONE)
    print(f"p50 {statistics.median(took.values()):.2f} s, longest {max(took.values()):.2f} s; {here.lab.counts()}")
    assert max(took.values()) < 3


def test_large_answers_come_over_a_poor_way(site: Start) -> None:
    """By TCP, whose own repetition of what was lost has to fit into the deadline (RFC 7766 5)."""
    here = site(Faults(delay_s=0.04, jitter_s=0.02, loss=0.03))
    addresses = [f"198.51.100.{number}" for number in range(1, 201)]
    for each in here.upstreams:
        each.on("large.example", [f"large.example 300 IN A {address}" for address in addresses])
    assert here.ask("large.example", edns=Edns()).flags & TC
    assert sorted(here.ask("large.example", tcp=True).addresses) == sorted(addresses)


def test_a_way_that_repeats_and_reorders_confuses_nothing(site: Start) -> None:
    """Every packet twice, overtaking each other: each of 100 questions at once gets its own answer, once."""
    here = site(Faults(delay_s=0.03, jitter_s=0.03, repeated=1.0))
    with here.client() as client:
        for ident in range(100):
            client.send(query(f"twice-{ident}.example", ident=ident))
        got = client.gather(100, timeout_s=5)
        assert client.drain(0.2) == []
    assert {ident: read(octets).addresses for ident, octets in got.items()} == {
        ident: [address_of(f"twice-{ident}.example")] for ident in range(100)
    }


def test_blocked_and_cached_names_do_not_feel_the_network(site: Start) -> None:
    """Nothing comes back from any upstream."""
    here = site()
    here.timed("cached.example")
    here.lab.set(Faults(swallows=UPSTREAMS))
    for number in range(20):
        if number == 0:
            assert here.ask("waits.example").rcode == SERVFAIL
        begun = time.monotonic()
        check_sinkholed(here.ask(LISTED, source="127.0.1.10"))
        here.timed("cached.example")
        assert time.monotonic() - begun < 0.2


# What is too large for the way


@pytest.mark.parametrize(
    "told",
    [pytest.param(False, id="which nobody told of"), pytest.param(True, id="with a segment size at the route")],
)
def test_large_answers_come_through_a_black_hole_for_packets_above_1300_octets(site: Start, told: bool) -> None:
    """No ICMP tells of it. 1,232 octets over UDP fit, as RFC 9715 wants; TCP segments of 1,460 vanish.

    We ask for smaller ones, as the other resolvers do, or the site's route does.
    """
    here = site(BLACK_HOLE)
    if told:
        here.lab.ip("resolver", "route", "change", "198.51.100.0/24", "dev", "way0", "advmss", "1220")
    addresses = [f"198.51.100.{number}" for number in range(1, 151)]
    for each in here.upstreams:
        each.on("large.example", [f"large.example 300 IN A {address}" for address in addresses])
        each.on("fits.example", [f"fits.example 300 IN A {address}" for address in addresses[:70]])
    fits = here.ask("fits.example", edns=Edns())
    assert len(fits.addresses) == 70
    assert not fits.flags & TC
    assert here.ask("large.example", edns=Edns()).flags & TC
    begun = time.monotonic()
    whole = here.ask("large.example", tcp=True)
    print(f"{time.monotonic() - begun:.2f} s, rcode {whole.rcode}, {here.lab.counts()}")
    assert sorted(whole.addresses) == sorted(addresses)


@pytest.mark.parametrize("mtu", [576, 1280])
@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(NONE, id="fragments pass"),
        pytest.param(Faults(swallows_fragments=True), id="fragments vanish"),
    ],
)
def test_answers_of_all_sizes_come_where_packets_are_small(site: Start, mtu: int, faults: Faults) -> None:
    """From 1 to 200 addresses. Where fragments vanish, what does not fit is asked for without EDNS, then by TCP."""
    here = site(faults, mtu)
    for count in (1, 30, 40, 70, 80, 200):
        addresses = [f"198.51.100.{number}" for number in range(1, count + 1)]
        for each in here.upstreams:
            each.on(f"sized-{count}.example", [f"sized-{count}.example 300 IN A {address}" for address in addresses])
        begun = time.monotonic()
        got = here.ask(f"sized-{count}.example", edns=Edns())
        first = time.monotonic() - begun
        if got.flags & TC:
            got = here.ask(f"sized-{count}.example", edns=Edns(), tcp=True)
        print(f"{count} addresses: {first:.2f} s, in all {time.monotonic() - begun:.2f} s, rcode {got.rcode}")
        assert sorted(got.addresses) == sorted(addresses)
    check_sinkholed(here.ask(LISTED, source="127.0.1.10"))


def test_a_client_that_set_do_gets_what_does_not_fit_where_fragments_vanish(site: Start) -> None:
    """EDNS has to stay for its signatures, but 512 octets may be announced (RFC 6891 6.2.5): then there is TC."""
    here = site(Faults(swallows_fragments=True), 576)
    addresses = [f"198.51.100.{number}" for number in range(1, 61)]
    for each in here.upstreams:
        each.on("fragmented.example", [f"fragmented.example 300 IN A {address}" for address in addresses])
    got = here.ask("fragmented.example", edns=Edns(do=True))
    if got.flags & TC:
        got = here.ask("fragmented.example", edns=Edns(do=True), tcp=True)
    assert sorted(got.addresses) == sorted(addresses)


def test_a_client_behind_a_black_hole_gets_large_answers(site: Start) -> None:
    """One in the far network, such as a branch behind a tunnel: over UDP 1,232 octets at most, over TCP the whole."""
    here = site(
        Faults(delay_s=0.005),
        listen={"dns": [f"{RESOLVER}:0"], "admin": "off"},
        access=["127.0.0.0/8", f"{RESOLVER}/32", FAR],
    )
    addresses = [f"198.51.100.{number}" for number in range(1, 151)]
    for each in here.upstreams:
        each.on("large.example", [f"large.example 300 IN A {address}" for address in addresses])
    with here.client(RESOLVER) as near:  # it is in the cache then
        near.send(query("large.example", edns=Edns()))
        assert near.receive() is not None
    here.lab.set(BLACK_HOLE)
    sent = query("large.example", edns=Edns(4096))
    with LabUdpClient(here.lab, here.service.dns, UPSTREAMS[0], "upstream") as client:
        client.send(sent)
        octets = client.receive()
        assert octets is not None
        check_echo(sent, read(octets))
        assert read(octets).flags & TC
    with LabTcpClient(here.lab, here.service.dns, "upstream") as stream:
        stream.send(sent)
        octets = stream.receive(4)
        assert octets is not None
        assert sorted(read(octets).addresses) == sorted(addresses)


# Addresses that cannot be reached


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("unreachable", id="no route to host"),
        pytest.param("prohibit", id="not permitted"),
        pytest.param("blackhole", id="not valid"),
        pytest.param("swallow", id="no answer"),
    ],
)
def test_the_second_upstream_answers_while_the_first_cannot_be_reached_and_then_the_first_again(
    site: Start, how: str
) -> None:
    """Each answer within 3 s; the first is used again within 30 s of its return (RFC 1035 7.2)."""
    here = site(Faults(delay_s=0.01))
    first, second = here.upstreams
    here.timed("before.example")
    assert first.queries("before.example")
    if how == "swallow":
        here.lab.set(Faults(delay_s=0.01, swallows=(UPSTREAMS[0],)))
    else:
        here.lab.ip("resolver", "route", "add", how, f"{UPSTREAMS[0]}/32")
    took = [here.timed(f"away-{number}.example") for number in range(10)]
    print(f"while it is away: {[round(each, 2) for each in took]}")
    assert max(took) < 3
    assert statistics.median(took[4:]) < 0.5
    assert second.queries("away-9.example")
    if how == "swallow":
        here.lab.set(Faults(delay_s=0.01))
    else:
        here.lab.ip("resolver", "route", "del", how, f"{UPSTREAMS[0]}/32")
    returned = time.monotonic()
    number = 0
    while not first.queries(f"back-{number - 1}.example"):
        assert time.monotonic() - returned < 30, "not used again"
        assert here.timed(f"back-{number}.example") < 3
        number += 1
        time.sleep(0.2)
    print(f"used again after {time.monotonic() - returned:.1f} s")


@pytest.mark.parametrize("at_start", [pytest.param(False, id="while serving"), pytest.param(True, id="from the start")])
def test_a_link_that_goes_down_and_comes_up_again(site: Start, at_start: bool) -> None:
    """The device is down: SERVFAIL at once or within the deadline, blocked names as ever; up: answers within 30 s."""
    here = site()
    if not at_start:
        here.timed("before.example")
    here.lab.ip("resolver", "link", "set", "way0", "down")  # its routes go with it
    for number in range(4):
        begun = time.monotonic()
        assert here.ask(f"down-{number}.example").rcode == SERVFAIL
        assert time.monotonic() - begun < 5.5
        check_sinkholed(here.ask(LISTED, source="127.0.1.10"))
    if not at_start:
        here.timed("before.example")  # from the cache
    here.lab.ip("resolver", "link", "set", "way0", "up")
    here.lab.ip("resolver", "route", "add", "198.51.100.0/24", "dev", "way0")
    up = time.monotonic()
    number = 0
    while here.ask(f"up-{number}.example").addresses != [address_of(f"up-{number}.example")]:
        number += 1
        assert time.monotonic() - up < 30, "still nothing"
        time.sleep(0.1)
    print(f"answers again after {time.monotonic() - up:.1f} s")
