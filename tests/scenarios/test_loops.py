"""Upstreams that ask us what we ask them: found at the start, named, and left alone."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self

import pytest

from tests.programs import free_port
from tests.scenarios.client import NOERROR, SERVFAIL, Address, ask
from tests.scenarios.conftest import Start
from tests.scenarios.expect import LISTED, MANAGED, check_sinkholed, policy, where
from tests.scenarios.service import Service, eventually
from tests.scenarios.upstream import Asked, Upstream, address_of

ENOUGH = 2_000  # datagrams after which a relay gives up: a loop shall not go on for ever


class Relay(threading.Thread):
    """An upstream that forwards every query to an address, and the answers back."""

    def __init__(self, target: Address) -> None:
        super().__init__(name="relay", daemon=True)
        self._target = target
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self._back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._back.bind(("127.0.0.1", 0))
        self._back.settimeout(0.1)
        self._front.settimeout(0.1)
        self._clients: dict[bytes, Address] = {}  # by id: drawn at random, so that few meet
        self._is_over = False
        self.address: Address = self._front.getsockname()
        self.seen: list[Asked] = []
        self._return = threading.Thread(target=self._give_back, name="relay, back", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        self._return.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over = True
        self.join()
        self._return.join()
        self._front.close()
        self._back.close()

    def run(self) -> None:
        """Forward."""
        while not self._is_over and len(self.seen) < ENOUGH:
            try:
                octets, client = self._front.recvfrom(4096)
            except OSError:
                continue
            self.seen.append(Asked(octets, "udp", client))
            self._clients[octets[:2]] = client
            with contextlib.suppress(OSError):
                self._back.sendto(octets, self._target)

    def _give_back(self) -> None:
        while not self._is_over:
            try:
                octets = self._back.recv(4096)
            except OSError:
                continue
            client = self._clients.get(octets[:2])
            if client is not None:
                with contextlib.suppress(OSError):
                    self._front.sendto(octets, client)

    def names(self) -> set[str]:
        """The names asked so far."""
        return {asked.name for asked in self.seen}


@pytest.fixture
def relay() -> Iterator[Callable[[Address], Relay]]:
    """Start relays to an address."""
    with ExitStack() as stack:
        yield lambda target: stack.enter_context(Relay(target))


@pytest.fixture
def listener() -> Address:
    """Where the service will listen: the relay has to know before it does."""
    return "127.0.0.1", free_port()


def degraded(service: Service) -> dict[str, str]:
    """What `dnsfilter status --json` says."""
    done = service.command("status", "--json")
    reasons: dict[str, str] = json.loads(done.stdout)["degraded"]
    return reasons


def check_loop_is_told(service: Service, relay: Relay) -> None:
    """In the log, the status and the metric."""
    eventually("it is in the status", lambda: "loop" in degraded(service), timeout_s=8, every_s=0.3)
    assert where(relay.address) in degraded(service)["loop"]
    lines = [line for line in service.output.splitlines() if "asks us what we ask it" in line]
    assert len(lines) == 1, service.output
    assert f"upstream {where(relay.address)} asks us what we ask it" in lines[0]
    assert "error" in lines[0].lower()
    assert service.metric("dnsfilter_degraded", reason="loop") == 1


@pytest.mark.parametrize("place", [pytest.param(0, id="the first"), pytest.param(1, id="the second")])
def test_an_upstream_that_asks_us_is_named_and_no_longer_asked(
    start: Start, upstreams: Callable[[], Upstream], relay: Callable[[Address], Relay], listener: Address, place: int
) -> None:
    """The other serves, each answer at once."""
    looping, honest = relay(listener), upstreams()
    addresses = [where(honest.address)]
    addresses.insert(place, where(looping.address))
    service = start(policy(upstreams=addresses), dns=[where(listener)])
    check_loop_is_told(service, looping)
    probed = looping.names()
    assert [name for name in probed if re.fullmatch(r"[^.]{12}\.loop-check\.example\.", name)]
    for number in range(20):
        begun = time.monotonic()
        assert ask(service.dns, f"served-{number}.example").addresses == [address_of(f"served-{number}.example")]
        assert time.monotonic() - begun < 0.5
    assert not [name for name in looping.names() if name.startswith("served-")]
    listed = {"ban": {"domains": [LISTED, "later.example"]}}
    service.configure(policy(upstreams=addresses, lists=listed))
    assert "error" not in service.control("reload")
    for number in range(5):
        name = f"reloaded-{number}.example"
        assert ask(service.dns, name).addresses == [address_of(name)]


def test_a_zones_upstream_that_asks_us_is_found_too(
    start: Start, upstreams: Callable[[], Upstream], relay: Callable[[Address], Relay], listener: Address
) -> None:
    """By a name in the zone, as other names would not go there. What is outside of it is served."""
    looping, honest = relay(listener), upstreams()
    zone = {"zone": "corp.example", "upstreams": [where(looping.address)]}
    service = start(policy(honest, forward=[zone]), dns=[where(listener)])
    check_loop_is_told(service, looping)
    assert [name for name in looping.names() if re.fullmatch(r"[^.]{12}\.corp\.example\.", name)]
    assert ask(service.dns, "outside.example").addresses == [address_of("outside.example")]
    begun = time.monotonic()
    assert ask(service.dns, "inside.corp.example").rcode == SERVFAIL
    assert time.monotonic() - begun < 1
    assert not honest.queries("corp.example", below=True)


def test_each_upstream_is_asked_one_name_of_its_own_at_the_start(
    start: Start, upstreams: Callable[[], Upstream]
) -> None:
    """Type A, twelve characters drawn at random; whatever the answer is, nothing is degraded."""
    first, second, own = upstreams(), upstreams(), upstreams()
    second.on("loop-check.example", "loop-check.example 300 IN A 192.0.2.1")
    zone = {"zone": "corp.example", "upstreams": [where(own.address)]}
    service = start(policy(first, second, forward=[zone]))
    drawn = set()
    for each, below in ((first, "loop-check.example"), (second, "loop-check.example"), (own, "corp.example")):
        eventually("the name was asked", partial(each.queries, below, below=True))
        (asked,) = each.queries(below, below=True)
        assert asked.rdtype == 1
        assert re.fullmatch(rf"[^.]{{12}}\.{re.escape(below)}\.", asked.name)
        drawn.add(asked.name[:12])
    assert len(drawn) == 3
    assert "loop" not in degraded(service)
    assert service.metric("dnsfilter_degraded", reason="loop") == 0
    assert "asks us" not in service.output


def test_a_loop_through_the_only_upstream_is_no_storm(
    start: Start, relay: Callable[[Address], Relay], listener: Address
) -> None:
    """Each question goes round a few times at most and ends as SERVFAIL; blocked names are answered all the while."""
    looping = relay(listener)
    resolve = {"timeout": "0.5s", "deadline": "1.5s"}
    service = start(policy(upstreams=[where(looping.address)], resolve=resolve), dns=[where(listener)])
    for number in range(5):
        begun = time.monotonic()
        assert ask(service.dns, f"round-{number}.example").rcode == SERVFAIL
        assert time.monotonic() - begun < 3
        check_sinkholed(ask(service.dns, LISTED, source=MANAGED))
    rounds = [asked for asked in looping.seen if asked.name.startswith("round-")]
    print(f"{len(rounds)} datagrams for 5 questions")
    assert len(rounds) <= 5 * 20


def test_a_relay_to_another_resolver_is_no_loop(
    start: Start, upstreams: Callable[[], Upstream], relay: Callable[[Address], Relay]
) -> None:
    """What goes through several hands and ends elsewhere is an upstream like others."""
    honest = upstreams()
    forwarding = relay(honest.address)
    service = start(policy(upstreams=[where(forwarding.address)]))
    for number in range(5):
        response = ask(service.dns, f"relayed-{number}.example")
        assert response.rcode == NOERROR
        assert response.addresses == [address_of(f"relayed-{number}.example")]
    assert "loop" not in degraded(service)
