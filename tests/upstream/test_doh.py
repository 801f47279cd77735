"""DNS over HTTPS to an upstream: what is sent, what is believed, and what a server can cost.

The server is a script on the loopback interface, and the clock jumps.
"""

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.wire import build
from dnsfilter.upstream import doh, http2
from dnsfilter.upstream.doh import DohPool
from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.tls import Tls
from tests.core.make import many, query, question, response, texts
from tests.upstream.doh_server import NAME, Certificates, Connection, DohServer, Request, Script, silence
from tests.upstream.loop import run

PATH = "/dns-query"
PLAIN = ("content-type", "text/plain")
LONG_S = 60.0  # longer than anything here waits


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@dataclass
class Asking:
    """Who asks a pool, and what it was told."""

    pool: DohPool[str] = field(init=False)
    told: dict[str, bytes | str] = field(default_factory=dict)  # by token: octets, or a reason
    order: list[str] = field(default_factory=list)
    batches: int = 0
    untold: int = 0  # outcomes since the last end of a batch
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def on_answer(self, token: str, octets: bytes) -> None:
        self._tell(token, octets)

    def on_failed(self, token: str, reason: str) -> None:
        self._tell(token, reason)

    def _tell(self, token: str, outcome: bytes | str) -> None:
        assert token not in self.told, f"{token} is told twice"
        self.told[token] = outcome
        self.order.append(token)
        self.untold += 1

    def on_batch_end(self) -> None:
        self.batches += 1
        self.untold = 0
        self._news.set()

    def send(self, *names: str) -> None:
        for name in names:
            asked = question(name)
            self.pool.send(build.upstream_query(asked, cd=False, do=False, edns=True), asked, name)

    async def ask(self, *names: str) -> list[bytes | str]:
        """Ask and wait for all the outcomes."""
        self.send(*names)
        return await self.wait(*names)

    async def wait(self, *names: str) -> list[bytes | str]:
        async with asyncio.timeout(LONG_S):
            while not all(name in self.told for name in names):
                self._news.clear()
                await self._news.wait()
        assert not self.untold, "an outcome, and no end of its batch"
        return [self.told.pop(name) for name in names]


@dataclass
class Lab:
    """How one test's server and pool are made."""

    certificates: Certificates
    server: DohServer = field(default_factory=DohServer)
    server_names: tuple[str, ...] = (NAME,)
    alpn: tuple[str, ...] = ("h2",)
    has_tls: bool = True
    ca_file: str | None = None

    @asynccontextmanager
    async def asking(self, most: int = doh.CONNECTIONS, most_waiting: int = 1_000) -> AsyncIterator[Asking]:
        context = self.certificates.context(*self.server_names, alpn=self.alpn) if self.has_tls else None
        await self.server.start(context)
        asking = Asking()
        tls = Tls(NAME, self.ca_file or self.certificates.ca_file, ("h2",))
        loop = asyncio.get_running_loop()
        asking.pool = DohPool(
            "127.0.0.1",
            self.server.port,
            PATH,
            loop,
            asking,
            Hosts(()),
            tls,
            authority=NAME,
            most=most,
            most_waiting=most_waiting,
        )
        try:
            yield asking
        finally:
            asking.pool.close()
            await self.server.stop()
            await asyncio.sleep(0.05)


def try_with(lab: Lab, check: Callable[[Asking], Awaitable[None]], **options: int) -> None:
    async def work() -> None:
        async with lab.asking(**options) as asking:
            await check(asking)

    run(work)


@pytest.fixture
def lab(certificates: Certificates) -> Lab:
    return Lab(certificates)


def is_right(outcome: bytes | str, name: str = "www.example") -> bool:
    return isinstance(outcome, bytes) and texts(outcome) == [f"{name}. 300 IN A 192.0.2.1"]


# What is sent (RFC 8484 section 4.1)


def test_a_query_is_one_plain_post_request(lab: Lab) -> None:
    async def check(asking: Asking) -> None:
        [outcome] = await asking.ask("www.example")
        assert is_right(outcome)
        [request] = lab.server.requests
        assert sorted(request.headers) == [
            (":authority", NAME),
            (":method", "POST"),
            (":path", PATH),
            (":scheme", "https"),
            ("accept", "application/dns-message"),
            ("content-length", "128"),
            ("content-type", "application/dns-message"),
            ("user-agent", "dnsfilter"),
        ]
        told = request.connection.h2.remote_settings
        assert (told.enable_push, told.max_frame_size, told.max_header_list_size) == (0, 16_384, 16_384)
        assert request.body[:12] == struct.pack("!6H", 0, 0x0120, 1, 0, 0, 1), "the id is 0"
        assert request.question == question("www.example")

    try_with(lab, check)


@pytest.mark.parametrize("length", [1, 20, 60, 63])
def test_queries_are_as_long_as_others(lab: Lab, length: int) -> None:
    """RFC 8467 section 4.1."""

    async def check(asking: Asking) -> None:
        await asking.ask(f"{'a' * length}.{'b' * length}.example")
        assert len(lab.server.requests[0].body) % 128 == 0

    try_with(lab, check)


def test_many_queries_share_one_connection_and_are_answered_in_any_order(lab: Lab) -> None:
    names = [f"n{number}.example" for number in range(90)]
    held: list[Request] = []

    def script(request: Request) -> None:
        held.append(request)
        if len(held) == len(names):
            for each in reversed(held):
                each.answer()

    lab.server.script = script

    async def check(asking: Asking) -> None:
        outcomes = await asking.ask(*names)
        assert all(map(is_right, outcomes, names))
        assert asking.order == names[::-1]
        assert len(lab.server.connections) == 1

    try_with(lab, check)


def test_a_thousand_queries_keep_to_the_number_of_streams_and_to_their_order(lab: Lab) -> None:
    names = [f"n{number}.example" for number in range(1_000)]
    most = 0

    def script(request: Request) -> None:
        nonlocal most
        most = max(most, request.connection.h2.open_inbound_streams)
        asyncio.get_running_loop().call_later(0.01, request.answer)

    lab.server.script = script
    lab.server.settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 50}

    async def check(asking: Asking) -> None:
        assert all(map(is_right, await asking.ask(*names), names))
        assert [request.name for request in lab.server.requests] == names
        assert 50 <= most <= doh.MOST_STREAMS

    try_with(lab, check, most=1)


def test_one_stream_at_a_time_is_enough(lab: Lab) -> None:
    lab.server.settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}

    async def check(asking: Asking) -> None:
        await asking.ask("first.example")  # the server's settings have come with this one
        names = [f"n{number}.example" for number in range(20)]
        assert all(map(is_right, await asking.ask(*names), names))
        assert len(lab.server.connections) == 1

    try_with(lab, check, most=1)


def test_a_second_connection_takes_what_the_first_has_no_room_for(lab: Lab) -> None:
    lab.server.settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 10}
    lab.server.script = lambda request: asyncio.get_running_loop().call_later(1.0, request.answer)
    names = [f"n{number}.example" for number in range(25)]

    async def check(asking: Asking) -> None:
        await asking.ask("first.example")
        assert all(map(is_right, await asking.ask(*names), names))
        on_second = [request for request in lab.server.requests if request.connection is lab.server.connections[1]]
        assert len(lab.server.connections) == 2
        assert len(on_second) >= 10

    try_with(lab, check)


def test_a_pool_takes_no_more_than_it_may_hold(lab: Lab) -> None:
    lab.server.script = silence

    async def check(asking: Asking) -> None:
        asking.send(*(f"n{number}.example" for number in range(5)))
        with pytest.raises(OSError, match="too many"):
            asking.send("more.example")
        asking.pool.forget("n3.example")
        asking.send("more.example")

    try_with(lab, check, most_waiting=5)


# What is believed


def with_script(lab: Lab, script: Script) -> list[bytes | str]:
    """Ask once, with a server that does this, and then once more, with one that does right."""
    outcomes: list[bytes | str] = []

    async def check(asking: Asking) -> None:
        right, lab.server.script = lab.server.script, script
        outcomes.extend(await asking.ask("www.example"))
        lab.server.script = right
        [after] = await asking.ask("after.example")
        assert is_right(after, "after.example")

    try_with(lab, check)
    return outcomes


def other_question(request: Request) -> bytes:
    return response(query("other.example", ident=0), "other.example 300 IN A 192.0.2.66")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param(lambda request: request.answer(status=404), "http", id="404"),
        pytest.param(lambda request: request.answer(status=500), "http", id="500"),
        pytest.param(lambda request: request.answer(status=503, headers=[("retry-after", "9")]), "http", id="503"),
        pytest.param(lambda request: request.answer(status=429, headers=[("retry-after", "9")]), "http", id="429"),
        pytest.param(lambda request: request.answer(status=204), "http", id="204"),
        pytest.param(
            lambda request: request.answer(b"", 302, [("location", f"https://{NAME}/elsewhere")]), "http", id="302"
        ),
        pytest.param(lambda request: request.begin(status=500, end=True), "http", id="500 without a body"),
        pytest.param(lambda request: request.answer(headers=[PLAIN]), "http", id="another media type"),
        pytest.param(lambda request: request.answer(headers=[]), "http", id="no media type"),
        pytest.param(lambda request: request.answer(b""), "http", id="an empty body"),
        pytest.param(lambda request: request.begin(end=True), "http", id="no body"),
        pytest.param(lambda request: request.answer(request.right[:11]), "http", id="less than a header"),
        pytest.param(lambda request: request.reset(ErrorCodes.INTERNAL_ERROR), "http", id="the stream reset"),
        pytest.param(lambda request: request.answer(other_question(request)), "tcp", id="another question"),
        pytest.param(lambda request: request.answer(request.body), "tcp", id="a query"),
        pytest.param(lambda request: request.answer(b"\0\1" + request.right[2:]), "tcp", id="another id"),
        pytest.param(lambda request: request.connection.transport.abort(), "tcp", id="the connection closed"),
    ],
)
def test_what_is_no_answer_fails_and_the_next_query_is_answered(lab: Lab, script: Script, reason: str) -> None:
    assert with_script(lab, script) == [reason]


@pytest.mark.parametrize(
    "media_type", ["application/dns-message; charset=utf-8", "Application/DNS-Message", " application/dns-message "]
)
def test_a_media_type_may_be_written_in_other_ways(lab: Lab, media_type: str) -> None:
    [outcome] = with_script(lab, lambda request: request.answer(headers=[("content-type", media_type)]))
    assert is_right(outcome)


def test_a_body_may_come_octet_by_octet(lab: Lab) -> None:
    def script(request: Request) -> None:
        request.begin()
        for octet in request.right:
            request.data(bytes([octet]))
        request.data(b"", end=True)

    [outcome] = with_script(lab, script)
    assert is_right(outcome)


def test_a_response_may_have_informational_ones_before_and_trailers_behind(lab: Lab) -> None:
    def script(request: Request) -> None:
        server = request.connection.h2
        server.send_headers(request.stream, [(":status", "103"), ("link", "</x>")])
        request.begin()
        request.data(request.right)
        server.send_headers(request.stream, [("x-trailer", "1")], end_stream=True)

    [outcome] = with_script(lab, script)
    assert is_right(outcome)


def test_the_longest_message_arrives(lab: Lab) -> None:
    def script(request: Request) -> None:
        right = request.right
        long = right[:-11] + bytes(65_535 - len(right)) + right[-11:]
        request.begin()
        for at in range(0, len(long), 16_000):
            request.data(long[at : at + 16_000], end=at + 16_000 >= len(long))

    [outcome] = with_script(lab, script)
    assert len(outcome) == 65_535


def test_an_endless_body_is_cut_off(lab: Lab) -> None:
    sent = 0

    def script(request: Request) -> None:
        nonlocal sent
        request.begin()

        def more() -> None:
            nonlocal sent
            if request.stream in request.connection.resets:
                return
            size = min(16_000, request.connection.h2.local_flow_control_window(request.stream))
            if size > 0:
                sent += size
                request.data(bytes(size))
            asyncio.get_running_loop().call_later(0.001, more)

        more()

    assert with_script(lab, script) == ["http"]
    assert sent < 4 * 65_535
    assert len(lab.server.connections) == 1, "the connection goes on"


# What is asked again


def test_what_a_closing_server_has_not_answered_is_asked_once_more(lab: Lab) -> None:
    """RFC 7766 section 6.2.4 says it of TCP: servers close idle connections at any time."""

    async def check(asking: Asking) -> None:
        await asking.ask("first.example")
        answer, lab.server.script = lab.server.script, lambda request: request.connection.transport.abort()
        lab.server.on_connect = lambda _: setattr(lab.server, "script", answer)
        outcomes = await asking.ask("a.example", "b.example")
        assert is_right(outcomes[0], "a.example")
        assert is_right(outcomes[1], "b.example")
        assert len(lab.server.connections) == 2

    try_with(lab, check)


def test_what_fails_twice_is_not_asked_a_third_time(lab: Lab) -> None:
    lab.server.script = lambda request: request.connection.transport.abort()

    async def check(asking: Asking) -> None:
        assert await asking.ask("www.example") == ["tcp"]
        assert len(lab.server.connections) == 2

    try_with(lab, check)


def test_a_response_that_breaks_off_is_not_asked_again(lab: Lab) -> None:
    def script(request: Request) -> None:
        request.begin()
        request.data(request.right[:20])
        request.connection.transport.close()

    lab.server.script = script

    async def check(asking: Asking) -> None:
        assert await asking.ask("www.example") == ["tcp"]
        assert len(lab.server.connections) == 1

    try_with(lab, check)


def test_goaway_moves_later_queries_and_leaves_earlier_ones(lab: Lab) -> None:
    """RFC 9113 section 6.8: streams up to the last one named are still answered."""
    names = [f"n{number}.example" for number in range(6)]
    held: list[Request] = []

    def script(request: Request) -> None:
        if request.connection is not lab.server.connections[0]:
            request.answer()
            return
        held.append(request)
        if len(held) == len(names):
            request.connection.go_away(held[2].stream)
            for each in held[:3]:
                asyncio.get_running_loop().call_later(0.5, each.answer)

    lab.server.script = script

    async def check(asking: Asking) -> None:
        assert all(map(is_right, await asking.ask(*names), names))
        asked = [(request.name, lab.server.connections.index(request.connection)) for request in lab.server.requests]
        assert asked == [(name, 0) for name in names] + [(name, 1) for name in names[3:]]
        await asyncio.sleep(0.1)
        assert lab.server.connections[0].is_lost, "closed once the last answer had come"
        assert not lab.server.connections[1].is_lost

    try_with(lab, check)


@pytest.mark.parametrize(
    "greeting",
    [
        pytest.param(lambda connection: connection.transport.abort(), id="resets it"),
        pytest.param(lambda connection: connection.transport.close(), id="closes it"),
        pytest.param(lambda connection: connection.go_away(0), id="says GOAWAY"),
        pytest.param(lambda connection: connection.raw(0, 0, 1, b"x"), id="says what HTTP/2 forbids"),
    ],
)
def test_a_server_that_ends_each_connection_at_once_is_not_asked_for_ever(
    lab: Lab, greeting: Callable[[Connection], object]
) -> None:
    lab.server.on_connect = greeting

    async def check(asking: Asking) -> None:
        assert await asking.ask("a.example", "b.example") == ["tcp"] * 2
        await asyncio.sleep(1)
        assert len(lab.server.connections) <= 3

    try_with(lab, check)


def test_connections_that_still_wait_for_responses_are_few(lab: Lab) -> None:
    """A server may end each connection after the first request, and never answer."""
    lab.server.script = lambda request: request.connection.go_away(http2.LAST_STREAM)
    names = [f"n{number}.example" for number in range(30)]

    async def check(asking: Asking) -> None:
        for name in names:
            asking.send(name)
            await asyncio.sleep(0.05)
        assert len(lab.server.connections) == doh.CONNECTIONS + doh.DRAINING
        assert await asking.wait(*names) == ["tcp"] * len(names)

    try_with(lab, check)


def test_a_goaway_for_everything_a_second_time_fails(lab: Lab) -> None:
    lab.server.script = lambda request: request.connection.go_away(0, ErrorCodes.ENHANCE_YOUR_CALM)

    async def check(asking: Asking) -> None:
        assert await asking.ask("www.example") == ["tcp"]
        assert len(lab.server.connections) == 2

    try_with(lab, check)


def test_a_refused_stream_is_asked_once_more(lab: Lab) -> None:
    """RFC 9113 section 8.7: it was not looked at."""

    def script(request: Request) -> None:
        if request.stream == 1:
            request.reset(ErrorCodes.REFUSED_STREAM)
        else:
            request.answer()

    [outcome] = with_script(lab, script)
    assert is_right(outcome)


def test_a_connection_without_stream_ids_gives_way_to_another(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "LAST_STREAM", 9)
    names = [f"n{number}.example" for number in range(10)]

    async def check(asking: Asking) -> None:
        assert all(map(is_right, await asking.ask(*names), names))
        assert [request.stream for request in lab.server.requests] == [1, 3, 5, 7] * 2 + [1, 3]

    try_with(lab, check)


# Who waits no more


def test_a_forgotten_query_is_reset_and_never_told(lab: Lab) -> None:
    held: list[Request] = []
    lab.server.script = held.append

    async def check(asking: Asking) -> None:
        asking.send("www.example", "other.example")
        while len(held) < 2:
            await asyncio.sleep(0.01)
        asking.pool.forget("www.example")
        await asyncio.sleep(0.01)
        assert held[0].connection.resets == [1]
        held[1].answer()
        [outcome] = await asking.wait("other.example")
        assert is_right(outcome, "other.example")
        asking.pool.forget("www.example")
        asking.pool.forget("never.example")
        await asyncio.sleep(1)
        assert not asking.told

    try_with(lab, check)


def test_a_query_forgotten_in_the_same_turn_is_not_sent(lab: Lab) -> None:
    async def check(asking: Asking) -> None:
        asking.send("www.example", "other.example")
        asking.pool.forget("www.example")
        await asking.wait("other.example")
        assert [request.name for request in lab.server.requests] == ["other.example"]

    try_with(lab, check)


def test_an_answer_that_crosses_the_reset_does_no_harm(lab: Lab) -> None:
    async def check(asking: Asking) -> None:
        for number in range(20):
            asking.send(f"n{number}.example")
            while len(lab.server.requests) <= number:
                await asyncio.sleep(0)
            asking.pool.forget(f"n{number}.example")
        [outcome] = await asking.ask("www.example")
        assert is_right(outcome)
        assert not asking.told
        assert len(lab.server.connections) == 1

    try_with(lab, check)


def test_a_closed_pool_tells_nothing_and_takes_nothing(lab: Lab) -> None:
    lab.server.script = silence

    async def check(asking: Asking) -> None:
        asking.send("www.example")
        while not lab.server.requests:
            await asyncio.sleep(0.01)
        asking.pool.close()
        with pytest.raises(OSError, match="no longer"):
            asking.send("other.example")
        await asyncio.sleep(LONG_S)
        assert not asking.told
        assert lab.server.connections[0].is_lost

    try_with(lab, check)


def test_a_pool_may_be_closed_while_it_connects(lab: Lab) -> None:
    async def check(asking: Asking) -> None:
        asking.send("www.example")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.pool.close()
        await asyncio.sleep(1)
        assert not asking.told

    try_with(lab, check)


def test_an_idle_connection_is_closed_and_the_next_query_opens_another(lab: Lab) -> None:
    async def check(asking: Asking) -> None:
        await asking.ask("a.example")
        await asyncio.sleep(5)
        await asking.ask("b.example")
        assert len(lab.server.connections) == 1
        await asyncio.sleep(12)
        assert lab.server.connections[0].is_lost
        assert lab.server.connections[0].goaway == 0
        [outcome] = await asking.ask("c.example")
        assert is_right(outcome, "c.example")

    try_with(lab, check)


def test_the_next_connection_resumes_the_session_of_the_last(lab: Lab) -> None:
    """RFC 8446 section 2.2: its handshake is shorter."""

    async def check(asking: Asking) -> None:
        for name in ("a.example", "b.example"):
            await asking.ask(name)
            await asyncio.sleep(15)
        assert [connection.is_resumed for connection in lab.server.connections] == [False, True]

    try_with(lab, check)


def test_what_was_asked_over_a_way_that_was_cut_is_asked_again(lab: Lab) -> None:
    """Nothing tells of it but that a PING stays without an answer."""

    async def check(asking: Asking) -> None:
        await asking.ask("first.example")
        lab.server.connections[0].transport.pause_reading()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        outcomes = await asking.ask("a.example", "b.example")
        assert is_right(outcomes[0], "a.example")
        assert is_right(outcomes[1], "b.example")
        assert loop.time() - begun <= 4
        assert len(lab.server.connections) == 2

    try_with(lab, check)


def test_a_slow_answer_does_not_cost_the_connection(lab: Lab) -> None:
    def script(request: Request) -> None:
        def late() -> None:
            if request.stream not in request.connection.resets:
                request.answer()

        asyncio.get_running_loop().call_later(4.0, late)

    lab.server.script = script

    async def check(asking: Asking) -> None:
        [outcome] = await asking.ask("slow.example")
        assert is_right(outcome, "slow.example")
        asking.send("slower.example")
        await asyncio.sleep(3)
        asking.pool.forget("slower.example")
        [outcome] = await asking.ask("other.example")
        assert is_right(outcome, "other.example")
        assert len(lab.server.connections) == 1

    try_with(lab, check)


class SecondAnswers(Hosts):
    """A host with two addresses, at the first of which nobody listens."""

    async def addresses(self, host: str) -> tuple[str, ...]:
        return ("127.0.0.2", host)


def test_all_addresses_of_a_host_are_tried(lab: Lab) -> None:
    async def check(asking: Asking) -> None:
        asking.pool._dialler._hosts = SecondAnswers(())
        [outcome] = await asking.ask("www.example")
        assert is_right(outcome)

    try_with(lab, check)


def test_it_works_on_uvloop_too(lab: Lab) -> None:
    names = [f"n{number}.example" for number in range(300)]

    async def work() -> None:
        async with lab.asking() as asking:
            assert all(map(is_right, await asking.ask(*names), names))
            assert all(map(is_right, await asking.ask(*names), names))
            assert len(lab.server.connections) <= doh.CONNECTIONS

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


# Who is no upstream


def fails(lab: Lab, reason: str, caplog: pytest.LogCaptureFixture, text: str) -> None:
    async def check(asking: Asking) -> None:
        with caplog.at_level(logging.WARNING):
            assert await asking.ask("a.example", "b.example") == [reason] * 2
            assert await asking.ask("c.example") == [reason]
        assert not lab.server.requests
        [message] = [record.getMessage() for record in caplog.records if record.name == doh.__name__]
        assert message.startswith(f"upstream https://{NAME}{PATH} ")
        assert text in message

    try_with(lab, check)


@pytest.mark.parametrize("alpn", [("http/1.1",), ()], ids=["HTTP/1.1", "no ALPN"])
def test_a_server_without_http2_is_none(lab: Lab, alpn: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    lab.alpn = alpn
    fails(lab, "tls", caplog, "speaks no HTTP/2")


def test_an_untrusted_certificate_is_refused(lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lab.ca_file = Certificates(tmp_path).ca_file
    fails(lab, "tls", caplog, "resolve.ca_file")


def test_a_certificate_for_another_name_is_refused(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.server_names = ("other.example",)
    fails(lab, "tls", caplog, f"not for {NAME}")


def test_a_server_without_tls_is_refused(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.has_tls = False
    lab.server.on_connect = lambda connection: connection.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    fails(lab, "tls", caplog, "speaks no TLS")


def test_a_closed_port_is_unreachable(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    async def check(asking: Asking) -> None:
        await lab.server.stop()
        assert await asking.ask("www.example", "other.example") == ["unreachable"] * 2
        assert "Connect" in caplog.text

    try_with(lab, check)


def test_a_server_that_says_nothing_is_given_up(lab: Lab) -> None:
    """TCP alone: accepted, and then no handshake."""

    async def check(asking: Asking) -> None:
        loop = asyncio.get_running_loop()
        silent = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        asking.pool._dialler._port = silent.sockets[0].getsockname()[1]
        begun = loop.time()
        assert await asking.ask("www.example") == ["tls"]
        assert loop.time() - begun == pytest.approx(5, abs=0.1)
        silent.close()

    try_with(lab, check)


def test_a_warning_comes_once_a_minute(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.server.script = lambda request: request.answer(status=404)

    async def check(asking: Asking) -> None:
        for number in range(130):
            assert await asking.ask(f"n{number}.example") == ["http"]
            await asyncio.sleep(1)

    try_with(lab, check)
    messages = [record.getMessage() for record in caplog.records if record.name == doh.__name__]
    assert len(messages) == 3
    assert "HTTP status 404: is the path right" in messages[0]


# What a server can cost


def stuck(lab: Lab, sent: int, script: Script = silence) -> None:
    """Ask a server that answers one query and then no more: it has ten seconds.

    sent: how many of 150 queries it gets to see.
    """
    names = [f"n{number}.example" for number in range(150)]

    async def check(asking: Asking) -> None:
        await asking.ask("first.example")  # its settings have come with this one
        lab.server.script = script
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await asking.ask(*names) == ["tcp"] * len(names)
        assert 10 <= loop.time() - begun <= 12
        await asyncio.sleep(0.1)
        assert lab.server.connections[0].is_lost
        assert len(lab.server.requests) == 1 + sent

    try_with(lab, check, most=1)


def test_a_server_that_answers_no_query_is_given_up(lab: Lab) -> None:
    stuck(lab, 100)


def test_a_server_that_allows_no_stream_is_given_up(lab: Lab) -> None:
    lab.server.settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 0}
    stuck(lab, 0)


def test_a_server_that_never_opens_its_window_is_given_up(lab: Lab) -> None:
    lab.server.keeps_window = True
    lab.server.settings = {SettingCodes.INITIAL_WINDOW_SIZE: 0}
    stuck(lab, 0)


def test_a_server_that_is_never_given_the_time_to_answer_is_not_given_up(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """Another upstream may always be faster."""
    lab.server.script = silence

    async def check(asking: Asking) -> None:
        for number in range(30):
            asking.send(f"n{number}.example")
            await asyncio.sleep(0.5)
            asking.pool.forget(f"n{number}.example")
        assert len(lab.server.connections) == 1
        assert not caplog.records

    try_with(lab, check)


def test_a_message_goes_out_as_the_window_opens(lab: Lab) -> None:
    """A server may begin with no window and open one for each stream (RFC 9113 section 6.9)."""
    lab.server.settings = {SettingCodes.INITIAL_WINDOW_SIZE: 0}
    lab.server.keeps_window = True

    def open_more(request: Request, left: int = 13) -> None:
        request.connection.h2.increment_flow_control_window(10, request.stream)
        request.connection.flush()
        if left > 1:
            asyncio.get_running_loop().call_later(0.1, open_more, request, left - 1)

    async def check(asking: Asking) -> None:
        await asking.ask("first.example")  # its settings have come with this one
        lab.server.on_headers = open_more
        loop = asyncio.get_running_loop()
        begun = loop.time()
        outcomes = await asking.ask("a.example", "b.example")
        assert is_right(outcomes[0], "a.example")
        assert is_right(outcomes[1], "b.example")
        assert loop.time() - begun == pytest.approx(1.2, abs=0.1)

    try_with(lab, check)


@pytest.mark.parametrize("status", [200, 413])
def test_an_answer_before_the_message_was_read_ends_the_stream(lab: Lab, status: int) -> None:
    """RFC 9113 section 8.1: else streams that nobody needs would be all that the server allows."""
    lab.server.settings = {SettingCodes.INITIAL_WINDOW_SIZE: 0, SettingCodes.MAX_CONCURRENT_STREAMS: 1}

    async def check(asking: Asking) -> None:
        await asking.ask("first.example")
        lab.server.on_headers = lambda request: request.begin(status=status, end=True)
        assert await asking.ask("a.example", "b.example", "c.example") == ["http"] * 3
        assert len(lab.server.connections) == 1

    try_with(lab, check, most=1)


def test_a_message_of_which_a_part_was_sent_is_sent_whole_on_the_next_connection(lab: Lab) -> None:
    lab.server.settings = {SettingCodes.INITIAL_WINDOW_SIZE: 0}
    lab.server.keeps_window = True

    def open_a_little(request: Request) -> None:
        request.connection.h2.increment_flow_control_window(10, request.stream)
        request.connection.flush()
        asyncio.get_running_loop().call_later(0.1, request.connection.transport.close)

    async def check(asking: Asking) -> None:
        await asking.ask("first.example")
        lab.server.settings, lab.server.on_headers = {}, open_a_little
        lab.server.on_connect = lambda _: setattr(lab.server, "on_headers", silence)
        [outcome] = await asking.ask("www.example")
        assert is_right(outcome)
        assert len(lab.server.connections) == 2

    try_with(lab, check)


def flooding(frame: Callable[[Connection, int], None], count: int) -> Script:
    """Send a frame very often in place of an answer, and then the answer."""

    def script(request: Request) -> None:
        for number in range(count):
            frame(request.connection, number)
        request.answer()

    return script


def ping(connection: Connection, number: int) -> None:
    connection.raw(6, 0, 0, number.to_bytes(8, "big"))


def settings(connection: Connection, _number: int) -> None:
    connection.raw(4, 0, 0, struct.pack("!HI", 4, 65_535))


def many_settings(connection: Connection, _number: int) -> None:
    connection.raw(4, 0, 0, struct.pack("!HI", 4, 65_535) * 2_000)


def empty_data(connection: Connection, _number: int) -> None:
    connection.raw(0, 0, 1, b"")


def unknown(connection: Connection, _number: int) -> None:
    connection.raw(200, 0, 0, b"x")


def window(connection: Connection, _number: int) -> None:
    connection.raw(8, 0, 0, b"\0\0\0\1")


def priority(connection: Connection, _number: int) -> None:
    connection.raw(2, 0, 1, b"\0\0\0\0\x10")


def reset(connection: Connection, _number: int) -> None:
    connection.raw(3, 0, 1, b"\0\0\0\2")


def informational(connection: Connection, _number: int) -> None:
    connection.raw(1, 4, 1, b"\x08\x03103")


@pytest.mark.parametrize("frame", [ping, settings, empty_data, unknown, window, priority, informational])
def test_few_frames_of_any_kind_do_no_harm(lab: Lab, frame: Callable[[Connection, int], None]) -> None:
    def script(request: Request) -> None:
        if frame is not informational:
            request.begin()
        for number in range(20):
            frame(request.connection, number)
        if frame is informational:
            request.begin()
        request.data(request.right, end=True)

    [outcome] = with_script(lab, script)
    assert is_right(outcome)
    assert len(lab.server.connections) == 1


@pytest.mark.parametrize(
    "frame", [ping, settings, many_settings, empty_data, unknown, window, priority, reset, informational]
)
def test_a_flood_costs_the_server_its_connection(lab: Lab, frame: Callable[[Connection, int], None]) -> None:
    good, lab.server.script = lab.server.script, flooding(frame, 6_000)

    async def check(asking: Asking) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        [outcome] = await asking.ask("www.example")
        assert outcome in ("tcp", "http")  # reset: that stream's own end
        assert loop.time() - begun < 1
        await asyncio.sleep(0.1)
        assert all(connection.is_lost for connection in lab.server.connections)
        lab.server.script = good
        [outcome] = await asking.ask("after.example")
        assert is_right(outcome, "after.example")

    try_with(lab, check)


def huge_block(request: Request) -> None:
    """Headers that do not end: nothing to read yet, and already too much."""
    request.connection.raw(1, 0, request.stream, b"\x88")
    for _ in range(2):
        request.connection.raw(9, 0, request.stream, bytes(10_000))


def endless_continuation(request: Request) -> None:
    request.connection.raw(1, 0, request.stream, b"\x88")
    for _ in range(2_000):
        request.connection.raw(9, 0, request.stream, b"")


def header_bomb(request: Request) -> None:
    """A few octets that unfold to megabytes (a 4,000-octet entry of the table, named 10,000 times)."""
    entry = b"\x40\x01a\x7f" + bytes([4_000 - 127 & 0x7F | 0x80, (4_000 - 127) >> 7]) + b"a" * 4_000
    request.connection.raw(1, 4, request.stream, b"\x88" + entry + b"\xbe" * 10_000)


def too_long_frame(request: Request) -> None:
    request.connection.raw(0, 0, request.stream, bytes(20_000))


def announced_frame(request: Request) -> None:
    request.connection.transport.write((20_000).to_bytes(3, "big") + bytes((0, 0, 0, 0, 0, 1)))


def push(request: Request) -> None:
    request.connection.raw(5, 4, request.stream, (2).to_bytes(4, "big") + b"\x82\x84\x87")


def beyond_the_window(request: Request) -> None:
    request.begin()
    for _ in range(10):
        request.connection.raw(0, 0, request.stream, bytes(16_000))


def unknown_stream(request: Request) -> None:
    request.connection.raw(0, 0, 99, b"x")


def garbage(request: Request) -> None:
    request.connection.transport.write(bytes(range(256)) * 100)


@pytest.mark.parametrize(
    "script",
    [
        huge_block,
        endless_continuation,
        header_bomb,
        too_long_frame,
        announced_frame,
        push,
        beyond_the_window,
        unknown_stream,
        garbage,
    ],
)
def test_what_http2_forbids_costs_the_server_its_connection(
    lab: Lab, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    good, lab.server.script = lab.server.script, script

    async def check(asking: Asking) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        [outcome] = await asking.ask("www.example")
        assert outcome in ("tcp", "http")
        assert loop.time() - begun < 1
        await asyncio.sleep(0.1)
        assert all(connection.is_lost for connection in lab.server.connections)
        lab.server.script = good
        [outcome] = await asking.ask("after.example")
        assert is_right(outcome, "after.example")

    try_with(lab, check)
    assert len(caplog.records) == 1


frames = st.tuples(
    st.integers(0, 11),  # the type
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x25, 0x2D]),
    st.sampled_from([0, 1, 1, 1, 2, 3, 5]),  # the stream
    st.sampled_from([b"", b"\x88", b"\x88\x5f\x17application/dns-message", b"\x08\x03103", bytes(4), bytes(8)])
    | st.binary(max_size=40),
)


@many
@given(sent=st.lists(frames, max_size=8))
def test_whatever_frames_come_a_query_has_one_outcome_and_the_next_is_answered(
    certificates: Certificates, sent: list[tuple[int, int, int, bytes]]
) -> None:
    lab = Lab(certificates)

    def script(request: Request) -> None:
        for kind, flags, stream, payload in sent:
            request.connection.raw(kind, flags, stream, payload)

    async def check(asking: Asking) -> None:
        good, lab.server.script = lab.server.script, script
        await asking.ask("a.example", "b.example")
        lab.server.script = good
        await asyncio.sleep(15)  # what is half sent is given up
        [outcome] = await asking.ask("after.example")
        assert is_right(outcome, "after.example")

    try_with(lab, check)


def test_a_frame_that_never_ends_is_given_up(lab: Lab) -> None:
    stuck(lab, 100, lambda request: request.connection.transport.write(b"\0\x40\0\0\0\0\0\0\1" + bytes(50)))


def test_a_smaller_header_table_of_the_server_is_told_back(lab: Lab) -> None:
    """RFC 7541 section 4.2: else the server cannot read our headers any more."""

    def script(request: Request) -> None:
        request.connection.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})
        request.answer()

    lab.server.script = script

    async def check(asking: Asking) -> None:
        for number in range(5):
            [outcome] = await asking.ask(f"n{number}.example")
            assert is_right(outcome, f"n{number}.example")

    try_with(lab, check)
