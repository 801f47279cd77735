"""Addresses of upstreams that have names: for how long they are kept, and how often somebody is asked."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dnsfilter.upstream.hosts import FRESH_S, RETRY_S, Hosts
from dnsfilter.upstream.lookup import LookupFailed
from tests.core.make import response
from tests.upstream.loop import run
from tests.upstream.peer import Asked, Peer, Said, silence

Check = Callable[[Hosts, Peer], Awaitable[None]]
TIMEOUT_S = 2.0


def with_resolver(check: Check, script: Callable[[Asked], Said] | None = None) -> None:
    """Run a check with a resolver that knows dns.example, or does as the script says."""

    async def work() -> None:
        resolver = await Peer(script or knows("192.0.2.1")).start()
        hosts = Hosts([(resolver.host, resolver.port)], TIMEOUT_S)
        try:
            await check(hosts, resolver)
        finally:
            hosts.close()
            await resolver.stop()

    run(work)


def knows(*addresses: str) -> Callable[[Asked], Said]:
    """Answer with these IPv4 addresses, and with none for IPv6."""

    def script(asked: Asked) -> Said:
        records = [f"dns.example 60 IN A {address}" for address in addresses]
        return response(asked.octets, *(records if asked.question[-3] == 1 else []))

    return script


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_an_address_is_its_own_and_nobody_is_asked(address: str) -> None:
    async def check(hosts: Hosts, resolver: Peer) -> None:
        assert await hosts.addresses(address) == (address,)
        assert not resolver.asked

    with_resolver(check)


@pytest.mark.parametrize("host", ["dns.example", "DNS.example", "dns.example."])
def test_a_name_is_looked_up_once_while_it_is_fresh(host: str) -> None:
    async def check(hosts: Hosts, resolver: Peer) -> None:
        for _ in range(3):
            assert await hosts.addresses(host) == ("192.0.2.1", "192.0.2.2")
            await asyncio.sleep(FRESH_S / 4)
        assert resolver.queries() == 2

    with_resolver(check, knows("192.0.2.1", "192.0.2.2"))


def test_old_addresses_are_given_at_once_and_new_ones_afterwards() -> None:
    async def check(hosts: Hosts, resolver: Peer) -> None:
        await hosts.addresses("dns.example")
        await asyncio.sleep(FRESH_S)
        resolver.script = knows("192.0.2.9")
        assert await hosts.addresses("dns.example") == ("192.0.2.1",)
        await asyncio.sleep(0.1)
        assert await hosts.addresses("dns.example") == ("192.0.2.9",)
        assert resolver.queries() == 4

    with_resolver(check)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(silence, id="silence"),
        pytest.param(lambda asked: response(asked.octets, rcode=3), id="NXDOMAIN"),
        pytest.param(lambda asked: response(asked.octets, rcode=2), id="SERVFAIL"),
        pytest.param(lambda asked: response(asked.octets), id="no address"),
    ],
)
def test_the_last_good_addresses_serve_for_as_long_as_look_ups_fail(fault: Callable[[Asked], Said]) -> None:
    async def check(hosts: Hosts, resolver: Peer) -> None:
        await hosts.addresses("dns.example")
        await asyncio.sleep(FRESH_S)
        resolver.script = fault
        for _ in range(20):
            assert await hosts.addresses("dns.example") == ("192.0.2.1",)
            await asyncio.sleep(3_600.0)
        resolver.script = knows("192.0.2.9")
        await hosts.addresses("dns.example")
        await asyncio.sleep(0.1)
        assert await hosts.addresses("dns.example") == ("192.0.2.9",)

    with_resolver(check)


def test_a_look_up_that_failed_is_tried_again_every_few_seconds_only() -> None:
    async def check(hosts: Hosts, resolver: Peer) -> None:
        for number in range(1, 4):
            for _ in range(10):
                with pytest.raises(LookupFailed, match="there is no such name"):
                    await hosts.addresses("dns.example")
            assert resolver.queries() == 2 * number
            await asyncio.sleep(RETRY_S)
        resolver.script = knows("192.0.2.1")
        assert await hosts.addresses("dns.example") == ("192.0.2.1",)

    with_resolver(check, lambda asked: response(asked.octets, rcode=3))


def test_all_who_want_a_name_wait_for_one_look_up() -> None:
    async def check(hosts: Hosts, resolver: Peer) -> None:
        resolver.after_s = 1.0
        found = await asyncio.gather(*(hosts.addresses("dns.example") for _ in range(20)))
        assert set(found) == {("192.0.2.1",)}
        assert resolver.queries() == 2

    with_resolver(check)


def test_that_one_waits_no_more_does_not_end_it_for_the_others() -> None:
    async def check(hosts: Hosts, resolver: Peer) -> None:
        resolver.after_s = 1.0
        first, second = (asyncio.create_task(hosts.addresses("dns.example")) for _ in range(2))
        await asyncio.sleep(0.5)
        first.cancel()
        assert await second == ("192.0.2.1",)
        assert first.cancelled()

    with_resolver(check)


def test_names_are_looked_up_side_by_side() -> None:
    async def check(hosts: Hosts, resolver: Peer) -> None:
        resolver.after_s = 1.0
        begun = asyncio.get_running_loop().time()
        names = ("other.example", "dns.example")
        other, found = await asyncio.gather(*map(hosts.addresses, names), return_exceptions=True)
        assert isinstance(other, LookupFailed)
        assert found == ("192.0.2.1",)
        assert asyncio.get_running_loop().time() - begun == pytest.approx(1.0, abs=0.2)

    with_resolver(check)


@pytest.mark.parametrize("host", ["a..example", "x" * 64 + ".example", ""])
def test_what_is_no_name_has_no_address(host: str) -> None:
    async def check(hosts: Hosts, resolver: Peer) -> None:
        with pytest.raises(LookupFailed):
            await hosts.addresses(host)
        assert not resolver.asked

    with_resolver(check)


def test_at_its_end_nothing_goes_on() -> None:
    async def check(hosts: Hosts, resolver: Peer) -> None:
        resolver.after_s = 1.0
        waiting = asyncio.create_task(hosts.addresses("dns.example"))
        await asyncio.sleep(0.5)
        hosts.close()
        with pytest.raises(LookupFailed):
            await waiting

    with_resolver(check)
