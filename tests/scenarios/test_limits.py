"""How much one client may ask, and who is counted as getting around the ban: on the whole service."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.scenarios.client import NOERROR, REFUSED, TC, Edns, TcpClient, UdpClient, ask, query, read
from tests.scenarios.conftest import Start
from tests.scenarios.expect import LISTED, MANAGED, check_sinkholed, policy
from tests.scenarios.service import Service, eventually
from tests.scenarios.upstream import Upstream

RATE = 20
BRANCH, EXEMPT, OTHER = "127.0.0.66", "127.0.7.7", "127.0.0.67"


@pytest.fixture(scope="module")
def limited(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    limit = {"queries_per_second": RATE, "exempt": ["127.0.7.0/24"]}
    with Service(tmp_path_factory.mktemp("limited"), policy(up, rate_limit=limit)) as service:
        yield service


def burst(service: Service, name: Callable[[int], str], source: str, count: int) -> Counter[str]:
    """What became of so many queries at once: answered, told to come by TCP, or refused."""
    with UdpClient(service.dns, source) as client:
        for ident in range(count):
            client.send(query(name(ident), "A", ident=ident, edns=Edns()))
        responses = [read(octets) for octets in client.gather(count, timeout_s=5).values()]
    assert len(responses) == count, "silence is no answer"
    return Counter(
        "tc" if each.flags & TC else "answered" if each.rcode == NOERROR else "refused" for each in responses
    )


def test_over_the_limit_a_client_is_told_to_come_by_tcp_and_others_are_served(limited: Service) -> None:
    told = burst(limited, lambda n: f"n{n}.example", BRANCH, 150)
    assert told["answered"] >= RATE
    assert told["tc"] >= 100
    assert told["refused"] == 0
    assert ask(limited.dns, "one.example", source=OTHER).rcode == NOERROR
    assert limited.metric("dnsfilter_rate_limited_total", group="default") == told["tc"]
    eventually("a warning", lambda: "over the rate limit" in limited.output)
    assert BRANCH not in limited.output, "whose queries they are is in no log"


def test_blocked_names_stay_blocked_over_the_limit(limited: Service) -> None:
    """300 queries in a second, half of them for a blocked name: no limit lifts a block, and none counts as limited."""
    before = limited.metric("dnsfilter_rate_limited_total", group="managed")
    with UdpClient(limited.dns, MANAGED) as client:
        for ident in range(300):
            client.send(query(LISTED if ident % 2 else f"m{ident}.example", "A", ident=ident, edns=Edns()))
        responses = {ident: read(octets) for ident, octets in client.gather(300, timeout_s=5).items()}
    assert len(responses) == 300
    for ident in range(1, 300, 2):
        check_sinkholed(responses[ident])
    truncated = sum(bool(responses[ident].flags & TC) for ident in range(0, 300, 2))
    assert truncated >= 100
    assert limited.metric("dnsfilter_rate_limited_total", group="managed") - before == truncated


def test_over_the_limit_tcp_is_refused_but_for_blocked_names(limited: Service) -> None:
    with TcpClient(limited.dns, "127.0.0.68") as client:
        for ident in range(100):
            client.send(query(f"t{ident}.example", "A", ident=ident))
        rcodes = Counter(read(client.receive() or b"").rcode for _ in range(100))
    assert rcodes[NOERROR] >= RATE
    assert rcodes[REFUSED] >= 60


def test_who_is_exempt_may_ask_as_much_as_it_likes(limited: Service) -> None:
    assert burst(limited, lambda n: f"e{n}.example", EXEMPT, 300) == {"answered": 300}


def test_a_client_that_goes_on_is_answered_at_its_rate(limited: Service) -> None:
    burst(limited, lambda n: f"g{n}.example", "127.0.0.69", 50)
    time.sleep(1.1)
    assert burst(limited, lambda n: f"h{n}.example", "127.0.0.69", RATE)["answered"] >= RATE - 1


def test_the_warning_names_groups_and_comes_once_a_minute(limited: Service) -> None:
    """However many are over the limit meanwhile."""
    for _ in range(2):
        assert burst(limited, lambda n: f"w{n}.example", "127.0.0.70", 100)["tc"]
        time.sleep(0.6)
    said = [line for line in limited.output.splitlines() if "over the rate limit" in line]
    assert len(said) == 1
    assert "of group 'default'" in said[0]


def test_without_a_limit_a_branch_behind_one_address_is_served(start: Start, upstreams: Callable[[], Upstream]) -> None:
    """300 queries at once, then 300 of which every other one is for a blocked name."""
    service = start(policy(upstreams()))
    assert burst(service, lambda n: f"b{n}.example", BRANCH, 300) == {"answered": 300}
    half = burst(service, lambda n: f"b{n}.{LISTED}" if n % 2 else f"m{n}.example", MANAGED, 300)
    assert half == {"answered": 300}
    assert service.metric("dnsfilter_verdicts_total", group="managed", verdict="blocked") == 150
    assert service.metric("dnsfilter_rate_limited_total") == 0


def test_a_limit_can_be_set_by_a_reload(start: Start, upstreams: Callable[[], Upstream]) -> None:
    config: dict[str, Any] = policy(upstreams())
    service = start(config)
    service.configure({**config, "rate_limit": {"queries_per_second": RATE}})
    service.command("reload")
    assert burst(service, lambda n: f"r{n}.example", BRANCH, 150)["tc"] >= 100


# Bypass suspicion


def suspects(service: Service, group: str, reason: str) -> float:
    return service.metric("dnsfilter_bypass_suspects", group=group, reason=reason)


def test_a_blocked_app_followed_by_a_known_resolver_is_a_sign(start: Start, upstreams: Callable[[], Upstream]) -> None:
    """By group, never by client."""
    config: dict[str, Any] = policy(upstreams())
    config["groups"]["managed"]["block"] = [*config["groups"]["managed"]["block"], "encrypted-dns"]
    service = start(config)
    for _ in range(3):
        for rtype in ("A", "AAAA", "HTTPS"):
            ask(service.dns, LISTED, rtype, source=MANAGED)
    assert suspects(service, "managed", "resolver") == 0
    ask(service.dns, "dns.google", "A", source=MANAGED)
    assert suspects(service, "managed", "resolver") == 1
    assert suspects(service, "default", "resolver") == 0
    assert suspects(service, "managed", "silence") == 0
    assert MANAGED not in service.http("/metrics")


def test_a_resolver_alone_is_no_sign(start: Start, upstreams: Callable[[], Upstream]) -> None:
    config: dict[str, Any] = policy(upstreams())
    config["groups"]["managed"]["block"] = [*config["groups"]["managed"]["block"], "encrypted-dns"]
    service = start(config)
    for _ in range(10):
        ask(service.dns, "dns.google", "A", source=MANAGED)
    assert suspects(service, "managed", "resolver") == 0
    assert json.loads(service.command("status", "--json").stdout)["ready"]
