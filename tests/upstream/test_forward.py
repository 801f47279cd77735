"""Asking upstreams: what is believed, what is asked again and of whom, and when it is given up.

The engine is the real one, the upstreams are scripts on the loopback interface, and the clock jumps.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from dnsfilter.core.cache import Limits
from dnsfilter.core.health import FAILURES_UNTIL_DOWN, LONGEST_BACKOFF_S, SHORTEST_PATIENCE_S
from dnsfilter.core.names import Name
from dnsfilter.engine.interface import Answered, Forward, Transport
from dnsfilter.forward import STALE_AFTER_S, SWEEP_S, Forwarder
from dnsfilter.upstream.group import Upstream, UpstreamGroup
from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.stream import StreamPool
from dnsfilter.upstream.udp import UdpPool
from tests.core.make import name, opt, query, question, response, texts
from tests.engine.make import LIMITS, Asking, policy
from tests.upstream import peer as peers
from tests.upstream.loop import run
from tests.upstream.peer import Asked, Peer, Said, silence

TIMEOUT_S, DEADLINE_S = 2.0, 5.0
ASKED = query("www.example", edns=opt())
RIGHT = "www.example 300 IN A 192.0.2.1"
FORGED = "www.example 300 IN A 192.0.2.66"


@dataclass
class Bench:
    """A forwarder with its engine and its upstreams."""

    asking: Asking
    forwarder: Forwarder
    upstreams: list[Upstream]

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def ask(self, message: bytes = ASKED, transport: Transport = Transport.UDP) -> bytes:
        """Ask as a client does, and wait for the answer."""
        return await self.begin(message, transport)

    def begin(self, message: bytes = ASKED, transport: Transport = Transport.UDP) -> "asyncio.Future[bytes]":
        """Ask, and go on."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        now = self.now
        result = self.asking.engine.step(message, "192.0.2.9", transport, now, now, answer.set_result)
        if isinstance(result, Answered):
            answer.set_result(result.octets)
        if isinstance(result, Forward):
            self.forwarder.ask(result)
        return answer

    def left_over(self) -> list[object]:
        """What waits though nobody is asked any more."""
        waiting = [exchange for each in self.upstreams for port in pool(each)._ports for exchange in port.waiting]
        pending = self.asking.engine._pending
        counts = [self.forwarder.in_flight, *pending.out.values(), *pending._held.values(), *pending._waiting.values()]
        return [*waiting, *(each for each in [*counts, *(upstream.open for upstream in self.upstreams)] if each)]


@asynccontextmanager
async def bench(
    *groups: Sequence[Peer],
    zones: dict[Name, int] | None = None,
    max_in_flight: int = 1_000,
    limits: Limits = LIMITS,
) -> AsyncIterator[Bench]:
    """Groups of upstreams that run already; afterwards nothing may be left over."""
    loop = asyncio.get_running_loop()
    asking = Asking(policy(zones=zones), limits=limits, max_in_flight=max_in_flight)
    forwarder = Forwarder(asking.engine, TIMEOUT_S, DEADLINE_S, loop.time, loop.time)
    made = [[upstream(each, forwarder) for each in group] for group in groups]
    forwarder.groups = [UpstreamGroup(group) for group in made]
    found = Bench(asking, forwarder, [upstream for group in made for upstream in group])
    try:
        yield found
        await asyncio.sleep(TIMEOUT_S + 2 * SWEEP_S)  # for what nobody waits for: probes
        assert not found.left_over()
        assert asking.engine.counters().internal_errors == 0
    finally:
        forwarder.close()
        for one in found.upstreams:
            one.close()
        for group in groups:
            for each in group:
                await each.stop()


def upstream(one: Peer, forwarder: Forwarder) -> Upstream:
    loop = asyncio.get_running_loop()
    udp = UdpPool[Any](one.host, one.port, loop, forwarder)
    udp.take_over = forwarder.take_over
    return Upstream(f"{one.host}:{one.port}", udp, StreamPool(one.host, one.port, loop, forwarder, Hosts(())))


def pool(one: Upstream) -> UdpPool[Any]:
    assert one.udp is not None
    return one.udp


async def started(*scripts: Callable[[Asked], Said], has_tcp: bool = True) -> list[Peer]:
    return [await Peer(script).start(has_tcp=has_tcp) for script in scripts]


def with_one(script: Callable[[Asked], Said], check: Callable[[Bench, Peer], Awaitable[None]], **more: bool) -> None:
    """Run a check with one upstream."""

    async def work() -> None:
        [one] = await started(script, **more)
        async with bench([one]) as found:
            await check(found, one)

    run(work)


def right(asked: Asked) -> bytes:
    return response(asked.octets, RIGHT)


def edes(octets: bytes) -> list[int]:
    options = dns.message.from_wire(octets).options
    return [int(option.code) for option in options if isinstance(option, dns.edns.EDEOption)]


def rcode(octets: bytes) -> int:
    return int(dns.message.from_wire(octets).rcode())


def test_a_query_goes_out_plain_and_its_answer_comes_back() -> None:
    async def check(found: Bench, one: Peer) -> None:
        answer = await found.ask(query("WWW.Example", ident=0xBEEF, edns=opt(4096, do=True)))
        assert answer[:2] == b"\xbe\xef"
        assert answer[12:].startswith(question("WWW.Example"))
        assert texts(answer) == ["WWW.Example. 300 IN A 192.0.2.1"]
        [asked] = one.asked
        assert asked.octets[:2] != b"\xbe\xef", "the client's id goes nowhere"
        assert asked.octets[2:] == struct.pack("!5H", 0x0120, 1, 0, 0, 1) + question("www.example") + opt(do=True)
        assert found.upstreams[0].queries == 1
        assert sum(found.upstreams[0].durations) == 1

    with_one(right, check)


# What is believed (RFC 5452 section 9.1)


def forge(**changes: Callable[[bytes], bytes]) -> list[object]:
    return [pytest.param(change, id=label.replace("_", " ")) for label, change in changes.items()]


FORGERIES = forge(
    another_id=lambda good: bytes([good[0] ^ 1]) + good[1:],
    another_name=lambda good: response(good[:2] + query("other.example")[2:], "other.example 300 IN A 192.0.2.66"),
    another_type=lambda good: response(
        good[:2] + query("www.example", "AAAA")[2:], "www.example 9 IN AAAA 2001:db8::66"
    ),
    another_class=lambda good: response(good[:2] + query("www.example", rclass=3)[2:]),
    a_query=lambda good: good[:2] + bytes([good[2] & 0x7F]) + good[3:],
    another_opcode=lambda good: good[:2] + bytes([good[2] | 0x20]) + good[3:],
    no_question=lambda good: good[:4] + b"\0\0" + good[6:12] + good[12 + len(question("www.example")) :],
    a_header_alone=lambda good: good[:4] + bytes(8),
    less_than_a_header=lambda good: good[:11],
    nothing=lambda good: b"",
)


@pytest.mark.parametrize("change", FORGERIES)
def test_what_is_no_answer_to_the_question_is_ignored_and_the_right_one_awaited(
    change: Callable[[bytes], bytes],
) -> None:
    async def check(found: Bench, one: Peer) -> None:
        answer = await found.ask()
        assert texts(answer) == ["www.example. 300 IN A 192.0.2.1"]
        assert pool(found.upstreams[0]).ignored == 3
        assert one.queries() == 1
        assert not found.upstreams[0].failures

    def script(asked: Asked) -> list[bytes]:
        forged = change(response(asked.octets, FORGED))
        return [forged, forged, forged, right(asked)]

    with_one(script, check)


def test_the_question_may_come_back_in_another_letter_case() -> None:
    async def check(found: Bench, _one: Peer) -> None:
        assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]

    def script(asked: Asked) -> bytes:
        return response(asked.octets[:12] + question("WwW.eXaMpLe") + opt(), "wWw.EXAMPLE 300 IN A 192.0.2.1")

    with_one(script, check)


def test_500_answers_with_wrong_ids_are_ignored() -> None:
    async def check(found: Bench, _one: Peer) -> None:
        assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]

    def script(asked: Asked) -> list[bytes]:
        forged, own = response(asked.octets, FORGED)[2:], int.from_bytes(asked.octets[:2], "big")
        return [*(struct.pack("!H", own + number & 0xFFFF) + forged for number in range(1, 200)), right(asked)]

    with_one(script, check)


def test_an_answer_from_another_port_of_the_upstreams_address_does_not_arrive() -> None:
    async def check(found: Bench, one: Peer) -> None:
        assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]
        assert pool(found.upstreams[0]).ignored == 0

    def script(asked: Asked) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(response(asked.octets, FORGED), ("127.0.0.1", asked.port))
        return right(asked)

    with_one(script, check)


def test_two_identical_answers_make_one() -> None:
    async def check(found: Bench, _one: Peer) -> None:
        await found.ask()
        await asyncio.sleep(1)
        assert found.asking.engine.counters().internal_errors == 0

    with_one(lambda asked: [right(asked), right(asked)], check)


def test_200_queries_leave_from_at_least_100_ports_under_different_ids() -> None:
    """RFC 5452 section 9.2."""

    async def check(found: Bench, one: Peer) -> None:
        await asyncio.gather(*(found.ask(query(f"n{number}.example")) for number in range(200)))
        assert one.queries() == 200
        ports = [asked.port for asked in one.asked]
        assert len(set(ports)) >= 100
        assert len({asked.octets[:2] for asked in one.asked}) > 190
        steps = [two - first for first, two in pairwise(ports)]
        assert max(map(steps.count, steps)) < 50, "ports in sequence"

    with_one(peers.address, check)


def test_100_queries_in_flight_are_answered_out_of_order_each_with_its_own() -> None:
    async def check(found: Bench, one: Peer) -> None:
        held: list[Asked] = []

        def hold(asked: Asked) -> Said:
            held.append(asked)
            if len(held) == 100:
                for each in reversed(held):
                    one._udp.sendto(peers.address(each), ("127.0.0.1", each.port))  # type: ignore[union-attr]
            return None

        one.script = hold
        names = [f"n{number}.example" for number in range(100)]
        answers = await asyncio.gather(*(found.ask(query(each)) for each in names))
        assert [texts(answer) for answer in answers] == [[f"{each}. 300 IN A 192.0.2.1"] for each in names]

    with_one(silence, check)


# Asked again


def test_a_truncated_answer_is_fetched_by_tcp() -> None:
    many = [f"www.example 300 IN A 192.0.2.{number}" for number in range(1, 200)]

    def script(asked: Asked) -> bytes:
        return response(asked.octets, *many) if asked.is_tcp else response(asked.octets, flags=dns.flags.TC)

    async def check(found: Bench, one: Peer) -> None:
        answer = await found.ask(transport=Transport.TCP)
        assert len(texts(answer)) == 199
        assert (one.queries(tcp=False), one.queries(tcp=True)) == (1, 1)
        assert await found.ask(query("www.example")) == struct.pack("!6H", 0x1234, 0x8380, 1, 0, 0, 0) + question(
            "www.example"
        )
        assert one.queries() == 2, "the whole is cached"

    with_one(script, check)


@pytest.mark.parametrize(
    "by_tcp",
    [
        pytest.param(lambda asked: [b""], id="closes the connection"),
        pytest.param(lambda asked: [response(asked.octets, FORGED)[:-1] + b"x" * 9], id="a malformed answer"),
        pytest.param(lambda asked: [bytes([asked.octets[0] ^ 1]) + right(asked)[1:]], id="another id"),
        pytest.param(lambda asked: [response(asked.octets, flags=dns.flags.TC)], id="truncated again"),
        pytest.param(lambda asked: [response(asked.octets, rcode=dns.rcode.SERVFAIL)], id="SERVFAIL"),
        pytest.param(silence, id="says nothing"),
    ],
)
def test_what_nobody_can_fetch_by_tcp_is_passed_on_as_truncated_and_not_kept(by_tcp: Callable[[Asked], Said]) -> None:
    def script(asked: Asked) -> Said:
        return by_tcp(asked) if asked.is_tcp else response(asked.octets, RIGHT, flags=dns.flags.TC)

    async def check(found: Bench, one: Peer) -> None:
        started_at = found.now
        answer = await found.ask()
        assert found.now - started_at <= DEADLINE_S + 2 * SWEEP_S
        assert dns.message.from_wire(answer).flags & dns.flags.TC
        assert texts(answer) == []
        assert rcode(await found.ask(transport=Transport.TCP)) == dns.rcode.SERVFAIL
        assert one.queries(tcp=False) == 2, "nothing was kept"
        assert len(found.asking.engine.counters().outcomes) == 2

    with_one(script, check)


def test_tcp_that_is_refused_is_passed_on_as_truncated() -> None:
    async def check(found: Bench, one: Peer) -> None:
        answer = await found.ask()
        assert dns.message.from_wire(answer).flags & dns.flags.TC
        assert found.upstreams[0].failures["unreachable"] == 1

    with_one(lambda asked: response(asked.octets, RIGHT, flags=dns.flags.TC), check, has_tcp=False)


@pytest.mark.parametrize("length", [12 + len(question("www.example")), 500, 511])
def test_a_truncated_answer_that_is_cut_within_a_record_is_fetched_by_tcp(length: int) -> None:
    many = [f"www.example 300 IN A 192.0.2.{number}" for number in range(1, 100)]

    def script(asked: Asked) -> bytes:
        if asked.is_tcp:
            return response(asked.octets, *many)
        return response(asked.octets, *many, flags=dns.flags.TC)[:length]

    async def check(found: Bench, one: Peer) -> None:
        assert len(texts(await found.ask(transport=Transport.TCP))) == 99
        assert (one.queries(tcp=False), one.queries(tcp=True)) == (1, 1)
        assert not found.upstreams[0].failures

    with_one(script, check)


def test_an_upstream_that_is_silent_by_tcp_is_given_up_after_the_time_out_and_the_next_is_asked() -> None:
    def truncating(by_tcp: Callable[[Asked], Said]) -> Callable[[Asked], Said]:
        return lambda asked: by_tcp(asked) if asked.is_tcp else response(asked.octets, flags=dns.flags.TC)

    async def work() -> None:
        pair = await started(truncating(silence), truncating(right))
        async with bench(pair) as found:
            started_at = found.now
            assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]
            assert found.now - started_at == pytest.approx(TIMEOUT_S, abs=2 * SWEEP_S)
            assert [each.queries(tcp=True) for each in pair] == [1, 1]
            assert dict(found.upstreams[0].failures) == {"timeout": 1}

    run(work)


def test_a_tcp_connection_that_is_closed_once_is_opened_again() -> None:
    async def check(found: Bench, one: Peer) -> None:
        def script(asked: Asked) -> Said:
            if not asked.is_tcp:
                return response(asked.octets, flags=dns.flags.TC)
            return [b""] if one.queries(tcp=True) == 1 else right(asked)

        one.script = script
        assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]

    with_one(silence, check)


def test_a_tcp_answer_in_small_segments_is_put_together() -> None:
    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            octets = response(asked, RIGHT)
            for at in range(len(octets) + 2):
                writer.write((struct.pack("!H", len(octets)) + octets)[at : at + 1])
                await asyncio.sleep(0.01)
            writer.close()

        one = await Peer(lambda asked: response(asked.octets, flags=dns.flags.TC), handler=serve).start()
        async with bench([one]) as found:
            assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]

    run(work)


@pytest.mark.parametrize("code", [dns.rcode.FORMERR, dns.rcode.NOTIMP], ids=["FORMERR", "NOTIMP"])
@pytest.mark.parametrize("is_bare", [False, True], ids=["with the question", "a header alone"])
def test_a_server_that_knows_no_edns_is_asked_again_without(code: dns.rcode.Rcode, *, is_bare: bool) -> None:
    """RFC 6891 sections 6.2.2 and 7."""

    def script(asked: Asked) -> bytes:
        if not asked.has_opt:
            return right(asked)
        error = response(asked.octets, rcode=code, edns=False)
        return error[:4] + bytes(8) if is_bare else error

    async def check(found: Bench, one: Peer) -> None:
        assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]
        assert [asked.has_opt for asked in one.asked] == [True, False]
        assert found.upstreams[0].health.is_up

    with_one(script, check)


def test_that_one_upstream_knows_no_edns_says_nothing_of_the_next() -> None:
    def first(asked: Asked) -> bytes:
        return response(asked.octets, rcode=dns.rcode.FORMERR if asked.has_opt else dns.rcode.SERVFAIL, edns=False)

    async def work() -> None:
        pair = await started(first, right)
        async with bench(pair) as found:
            assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]
            assert [[asked.has_opt for asked in each.asked] for each in pair] == [[True, False], [True]]

    run(work)


def test_a_server_that_refuses_both_is_not_asked_for_ever() -> None:
    async def check(found: Bench, one: Peer) -> None:
        answer = await found.ask()
        assert (rcode(answer), edes(answer)) == (dns.rcode.SERVFAIL, [22])
        assert one.queries() == 2

    with_one(lambda asked: response(asked.octets, rcode=dns.rcode.FORMERR, edns=False), check)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param(lambda asked: response(asked.octets, rcode=dns.rcode.SERVFAIL), "servfail", id="SERVFAIL"),
        pytest.param(lambda asked: response(asked.octets, rcode=dns.rcode.REFUSED), "refused", id="REFUSED"),
        pytest.param(lambda asked: response(asked.octets, rcode=dns.rcode.NOTAUTH), "rcode", id="NOTAUTH"),
        pytest.param(lambda asked: response(asked.octets, rcode=dns.rcode.BADVERS), "rcode", id="an extended rcode"),
        pytest.param(lambda asked: right(asked)[:-1], "malformed", id="a record that is cut"),
        pytest.param(lambda asked: right(asked) + b"\0", "malformed", id="an octet too many"),
        pytest.param(lambda asked: right(asked)[:6] + b"\xff" * 6 + right(asked)[12:], "malformed", id="wrong counts"),
    ],
)
class TestNoAnswer:
    """A response that is none: the next upstream is asked at once; when all have said so, SERVFAIL."""

    def test_the_next_upstream_is_asked(self, said: Callable[[Asked], bytes], reason: str) -> None:
        async def work() -> None:
            pair = await started(said, right)
            async with bench(pair) as found:
                started_at = found.now
                assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]
                assert found.now - started_at < SWEEP_S
                assert [each.queries() for each in pair] == [1, 1]
                assert dict(found.upstreams[0].failures) == {reason: 1}

        run(work)

    def test_all_are_asked_once_and_then_it_is_given_up(self, said: Callable[[Asked], bytes], reason: str) -> None:
        async def work() -> None:
            three = await started(said, said, said)
            async with bench(three) as found:
                started_at = found.now
                answer = await found.ask()
                assert (rcode(answer), edes(answer)) == (dns.rcode.SERVFAIL, [22])
                assert found.now - started_at < SWEEP_S
                assert [each.queries() for each in three] == [1, 1, 1]

        run(work)


def test_the_upstreams_are_tried_in_the_order_of_the_configuration() -> None:
    async def work() -> None:
        order: list[int] = []

        def failing(number: int) -> Callable[[Asked], bytes]:
            def script(asked: Asked) -> bytes:
                order.append(number)
                return response(asked.octets, rcode=dns.rcode.SERVFAIL)

            return script

        four = await started(*map(failing, range(4)))
        async with bench(four) as found:
            await found.ask()
        assert order == [0, 1, 2, 3]

    run(work)


@pytest.mark.parametrize(
    "code", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTAUTH], ids=["SERVFAIL", "REFUSED", "NOTAUTH"]
)
def test_a_failure_of_a_name_is_not_held_against_the_upstream(code: dns.rcode.Rcode) -> None:
    async def check(found: Bench, one: Peer) -> None:
        for number in range(3 * FAILURES_UNTIL_DOWN):
            await found.ask(query(f"n{number}.example"))
        assert found.upstreams[0].health.is_up
        assert sum(found.upstreams[0].failures.values()) == one.queries() == 3 * FAILURES_UNTIL_DOWN

    with_one(lambda asked: response(asked.octets, rcode=code), check)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(lambda asked: peers.address(asked)[:-1], id="a record that is cut"),
        pytest.param(lambda asked: peers.address(asked) + b"\0", id="an octet too many"),
        pytest.param(
            lambda asked: peers.address(asked)[:6] + b"\xff" * 6 + peers.address(asked)[12:], id="wrong counts"
        ),
    ],
)
def test_an_upstream_whose_answers_make_no_sense_goes_down_and_comes_back(said: Callable[[Asked], bytes]) -> None:
    async def work() -> None:
        pair = await started(said, peers.address)
        first = pair[0]
        async with bench(pair) as found:
            for number in range(FAILURES_UNTIL_DOWN):
                assert found.upstreams[0].health.is_up
                assert len(texts(await found.ask(query(f"a{number}.example")))) == 1
            assert not found.upstreams[0].health.is_up
            assert dict(found.upstreams[0].failures) == {"malformed": FAILURES_UNTIL_DOWN}
            assert len(texts(await found.ask(query("b.example")))) == 1
            assert first.queries() == FAILURES_UNTIL_DOWN, "down it is not asked in its turn"
            for number in range(4):  # probes, which it answers as badly
                await asyncio.sleep(LONGEST_BACKOFF_S)
                await found.ask(query(f"c{number}.example"))
                await asyncio.sleep(1)
            assert first.queries() > FAILURES_UNTIL_DOWN
            assert not found.upstreams[0].health.is_up
            first.script = peers.address
            await asyncio.sleep(LONGEST_BACKOFF_S)
            await found.ask(query("d.example"))
            await asyncio.sleep(1)
            assert found.upstreams[0].health.is_up

    run(work)


def test_a_sensible_answer_in_between_keeps_an_upstream_up() -> None:
    async def check(found: Bench, one: Peer) -> None:
        one.script = lambda asked: peers.address(asked) + b"\0" * (one.queries() % FAILURES_UNTIL_DOWN > 0)
        for number in range(4 * FAILURES_UNTIL_DOWN):
            await found.ask(query(f"n{number}.example"))
            assert found.upstreams[0].health.is_up

    with_one(silence, check)


# Silence


def test_a_lost_datagram_is_sent_again() -> None:
    async def check(found: Bench, one: Peer) -> None:
        one.script = lambda asked: None if one.queries() == 1 else right(asked)
        started_at = found.now
        assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]
        assert SHORTEST_PATIENCE_S <= found.now - started_at <= SHORTEST_PATIENCE_S + 2 * SWEEP_S
        assert one.queries() == 2

    with_one(silence, check)


def no_edns(asked: Asked) -> Said:
    """Queries with EDNS are lost on the way, others are answered."""
    return None if asked.has_opt else right(asked)


@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside one that is silent"])
def test_one_that_loses_queries_with_edns_is_asked_without_in_the_end(others: int) -> None:
    async def work() -> None:
        peers_ = await started(no_edns, *[silence] * others)
        async with bench(peers_) as found:
            assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]
            assert [asked.has_opt for asked in peers_[0].asked] == [True, True, False]

    run(work)


def test_who_asks_for_signatures_is_never_told_an_answer_without() -> None:
    async def check(found: Bench, one: Peer) -> None:
        answer = await found.ask(query("www.example", edns=opt(do=True)))
        assert rcode(answer) == dns.rcode.SERVFAIL
        assert all(asked.has_opt for asked in one.asked)

    with_one(no_edns, check)


# What is stale (RFC 8767 section 5)


async def made_stale(found: Bench, one: Peer) -> None:
    """Have an answer kept that is stale by now, from an upstream that is silent from now on."""
    one.script = lambda asked: response(asked.octets, "www.example 1 IN A 192.0.2.7")
    await found.ask()
    one.script = silence
    await asyncio.sleep(2)


STALE = replace(LIMITS, serve_stale=3_600)
OLD = ["www.example. 30 IN A 192.0.2.7"]


def with_stale(script: Callable[[Bench, Peer], Awaitable[None]]) -> None:
    async def work() -> None:
        [one] = await started(silence)
        async with bench([one], limits=STALE) as found:
            await made_stale(found, one)
            await script(found, one)
            await asyncio.sleep(DEADLINE_S)  # the question stays out

    run(work)


def test_nobody_waits_longer_than_1_8_seconds_where_something_is_stale() -> None:
    async def check(found: Bench, one: Peer) -> None:
        started_at = found.now
        assert texts(await found.ask()) == OLD
        assert STALE_AFTER_S <= found.now - started_at <= STALE_AFTER_S + 2 * SWEEP_S
        one.script = right
        await asyncio.sleep(DEADLINE_S)  # the question was still out: another attempt has been answered
        assert texts(await found.ask())[0].endswith("192.0.2.1")

    with_stale(check)


def test_who_comes_while_the_question_is_still_out_is_told_at_once() -> None:
    async def check(found: Bench, _one: Peer) -> None:
        await found.ask()
        started_at = found.now
        assert texts(await found.ask()) == OLD
        assert found.now - started_at <= 2 * SWEEP_S

    with_stale(check)


def test_while_every_upstream_is_down_nobody_waits_at_all() -> None:
    async def check(found: Bench, one: Peer) -> None:
        for number in range(FAILURES_UNTIL_DOWN):
            await found.ask(query(f"n{number}.example"))
        started_at, asked = found.now, one.queries()
        assert texts(await found.ask()) == OLD
        assert found.now == started_at
        await asyncio.sleep(SWEEP_S)
        assert one.queries() > asked, "it is asked all the same"

    with_stale(check)


def test_an_upstream_that_answers_in_time_is_believed() -> None:
    async def check(found: Bench, one: Peer) -> None:
        one.script, one.after_s = right, STALE_AFTER_S - 0.3
        assert texts(await found.ask())[0].endswith("192.0.2.1")

    with_stale(check)


def test_an_answer_that_comes_after_its_time_out_still_counts() -> None:
    async def check(found: Bench, one: Peer) -> None:
        one.after_s = TIMEOUT_S + 0.5
        started_at = found.now
        assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]
        assert found.now - started_at < TIMEOUT_S + 0.6
        await asyncio.sleep(5)

    with_one(right, check)


def test_silence_of_all_is_servfail_by_the_deadline_after_few_datagrams() -> None:
    async def work() -> None:
        pair = await started(silence, silence)
        async with bench(pair) as found:
            started_at = found.now
            answer = await found.ask()
            assert rcode(answer) == dns.rcode.SERVFAIL
            assert edes(answer)[0] in (22, 23)
            assert DEADLINE_S <= found.now - started_at <= DEADLINE_S + 2 * SWEEP_S
            assert [each.queries() for each in pair] == [3, 4], "each is waited for longer in the next round"

    run(work)


def test_a_silent_upstream_costs_each_query_a_moment_and_soon_nothing() -> None:
    """Until the time-outs of the first queries have taken it down."""

    async def work() -> None:
        pair = await started(silence, peers.address)
        async with bench(pair) as found:
            waits = []
            began_at = found.now
            for number in range(12):
                started_at = found.now
                assert len(texts(await found.ask(query(f"n{number}.example")))) == 1
                waits.append(found.now - started_at)
                if waits[-1] > SWEEP_S:
                    assert started_at < began_at + TIMEOUT_S + FAILURES_UNTIL_DOWN * (SHORTEST_PATIENCE_S + SWEEP_S)
            assert max(waits) <= SHORTEST_PATIENCE_S + 2 * SWEEP_S, waits
            assert max(waits[-3:]) <= SWEEP_S, waits
            assert not found.upstreams[0].health.is_up

    run(work)


@pytest.mark.parametrize("after_s", [0.0, 0.05], ids=["as fast as the other", "slower than the other"])
def test_an_upstream_that_has_come_back_is_used_again(after_s: float) -> None:
    """It is probed beside the one that serves meanwhile, and its answer counts whichever comes first."""

    async def work() -> None:
        pair = await started(silence, peers.address)
        first = pair[0]
        async with bench(pair) as found:
            for number in range(FAILURES_UNTIL_DOWN):
                await found.ask(query(f"a{number}.example"))
            await asyncio.sleep(TIMEOUT_S)
            assert not found.upstreams[0].health.is_up
            first.script, first.after_s = peers.address, after_s
            returned_at, number = found.now, 0
            while not found.upstreams[0].health.is_up and found.now < returned_at + 2 * LONGEST_BACKOFF_S:
                number += 1
                started_at = found.now
                await found.ask(query(f"b{number}.example"))
                assert found.now - started_at < SWEEP_S, "the other one serves meanwhile"
                await asyncio.sleep(0.25)
            assert found.upstreams[0].health.is_up
            assert found.now <= returned_at + LONGEST_BACKOFF_S + 1
            before = pair[1].queries()
            await found.ask(query("last.example"))
            assert pair[1].queries() == before

    run(work)


def test_probes_of_an_upstream_that_is_down_are_few() -> None:
    async def work() -> None:
        pair = await started(silence, peers.address)
        async with bench(pair) as found:
            for number in range(FAILURES_UNTIL_DOWN):
                await found.ask(query(f"a{number}.example"))
            before, began_at = pair[0].queries(), found.now
            for number in range(240):
                await found.ask(query(f"b{number}.example"))
                await asyncio.sleep(0.25)
            probes = pair[0].queries() - before
            assert (found.now - began_at) / LONGEST_BACKOFF_S <= probes <= 20

    run(work)


def test_a_closed_port_is_passed_over_at_once() -> None:
    async def work() -> None:
        pair = await started(right, right)
        await pair[0].stop()
        async with bench(pair) as found:
            started_at = found.now
            assert texts(await found.ask()) == ["www.example. 300 IN A 192.0.2.1"]
            assert found.now - started_at < SWEEP_S
            assert found.upstreams[0].failures["unreachable"] == 1

    run(work)


def test_closed_ports_of_all_are_servfail_at_once() -> None:
    async def work() -> None:
        pair = await started(right, right)
        for each in pair:
            await each.stop()
        async with bench(pair) as found:
            for number in range(2 * FAILURES_UNTIL_DOWN):
                started_at = found.now
                answer = await found.ask(query(f"n{number}.example", edns=opt()))
                assert rcode(answer) == dns.rcode.SERVFAIL
                assert edes(answer)[0] in (22, 23)
                assert found.now - started_at < SWEEP_S

    run(work)


def test_a_second_answer_with_tc_is_not_held_against_its_upstream() -> None:
    """The first upstream was slow, so the second was asked too, and both say that the answer is too long."""

    def script(asked: Asked) -> Said:
        return None if asked.is_tcp else response(asked.octets, flags=dns.flags.TC)

    async def work() -> None:
        pair = await started(script, script)
        pair[0].after_s = TIMEOUT_S + 0.5
        async with bench(pair) as found:
            assert dns.message.from_wire(await found.ask()).flags & dns.flags.TC
            assert [each.failures["malformed"] for each in found.upstreams] == [0, 0]

    run(work)


# Groups and ends


def test_a_zone_goes_to_its_own_upstreams_and_to_no_others() -> None:
    async def work() -> None:
        everything, intra = await started(peers.address), await started(silence)
        async with bench(everything, intra, zones={name("intra.example"): 1}) as found:
            assert rcode(await found.ask(query("x.intra.example"))) == dns.rcode.SERVFAIL
            assert (everything[0].queries(), intra[0].queries()) == (0, 6)
            await found.ask(query("xintra.example"))
            assert (everything[0].queries(), intra[0].queries()) == (1, 6)

    run(work)


def test_equal_questions_in_flight_are_asked_once() -> None:
    async def check(found: Bench, one: Peer) -> None:
        answers = await asyncio.gather(*(found.ask(query("www.example", ident=number)) for number in range(50)))
        assert one.queries() == 1
        assert [answer[:2] for answer in answers] == [struct.pack("!H", number) for number in range(50)]

    with_one(right, check)


def test_a_dead_zone_stops_nobody_else() -> None:
    """The bound on questions in flight is met by a zone's silent upstream; what goes elsewhere is still asked."""

    async def work() -> None:
        everything, intra = await started(peers.address), await started(silence)
        async with bench(everything, intra, zones={name("intra.example"): 1}, max_in_flight=4) as found:
            await found.ask(query("cached.example"))
            waiting = [found.begin(query(f"n{number}.intra.example")) for number in range(8)]
            assert texts(await found.ask(query("cached.example"))) == ["cached.example. 300 IN A 192.0.2.1"]
            for number in range(8):
                assert len(texts(await found.ask(query(f"n{number}.example")))) == 1
            assert sum(each.done() for each in waiting) == 6, (
                "one client may have half of the room; over the bound it is SERVFAIL at once"
            )
            assert {rcode(each) for each in await asyncio.gather(*waiting)} == {dns.rcode.SERVFAIL}
            assert texts(await found.ask(query("later.example"))) == ["later.example. 300 IN A 192.0.2.1"]

    run(work)


def test_closing_drops_what_is_out() -> None:
    async def work() -> None:
        [one] = await started(silence)
        async with bench([one]) as found:
            waiting = [found.begin(query(f"n{number}.example")) for number in range(5)]
            await asyncio.sleep(1)
            found.forwarder.close()
            assert found.forwarder.in_flight == 0
            await asyncio.sleep(10)
            assert not any(each.done() for each in waiting)
            for each in list(found.asking.engine._pending.by_key.values()):  # the engine was not told
                found.asking.engine._pending.end(each)  # type: ignore[arg-type]

    run(work)


def test_a_closed_upstream_is_not_opened_again() -> None:
    """It has left the configuration while a question was out: the answer is SERVFAIL, no socket stays behind."""

    async def check(found: Bench, one: Peer) -> None:
        await found.ask(query("before.example"))
        pool(found.upstreams[0]).close()
        assert rcode(await found.ask()) == dns.rcode.SERVFAIL
        assert one.queries() == 1

    with_one(peers.address, check)


def test_times_can_be_changed_for_questions_to_come() -> None:
    async def check(found: Bench, one: Peer) -> None:
        found.forwarder.configure(0.5, 1.0)
        started_at = found.now
        assert rcode(await found.ask()) == dns.rcode.SERVFAIL
        assert 1.0 <= found.now - started_at <= 1.0 + 2 * SWEEP_S

    with_one(silence, check)
