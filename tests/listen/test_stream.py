"""TCP connections of clients: framing, order, time, and those that waste ours (RFC 7766)."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dnsfilter.core.clients import ClientRow
from dnsfilter.core.wire.framing import Framer, frame
from dnsfilter.engine.interface import Completed, Forward
from dnsfilter.listen.stream import (
    CONNECTIONS,
    FIRST_QUERY_S,
    HIGH_WATER,
    IDLE_S,
    IN_FLIGHT,
    PER_CLIENT,
    STUCK_S,
    StreamListener,
    StreamListeners,
)
from tests.core.make import query, response, suffixes, texts, unhex
from tests.engine.make import Asking, index, policy
from tests.upstream.loop import run

BANNED = query("banned.example")
ASKED = query("www.example")


class Wire(asyncio.Transport):
    """The connection as the listener sees it: what it wrote, and whether it is read from."""

    def __init__(self, host: str, *, takes: bool = True) -> None:
        super().__init__({"peername": (host, 50_000)})
        self.protocol: StreamListener | None = None
        self.takes = takes  # the client takes its answers
        self.sent = bytearray()
        self.unsent = 0
        self.is_read = True
        self.is_gone = False
        self._high = 65_536

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or self._high

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert self.protocol is not None
        self.sent += data
        if not self.takes:
            was = self.unsent
            self.unsent += len(data)
            if was <= self._high < self.unsent:
                self.protocol.pause_writing()

    def take_all(self) -> None:
        """The client takes what waits for it."""
        assert self.protocol is not None
        was, self.unsent = self.unsent, 0
        if was > self._high:
            self.protocol.resume_writing()

    def is_closing(self) -> bool:
        return self.is_gone

    def abort(self) -> None:
        assert self.protocol is not None
        if not self.is_gone:
            self.is_gone = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def messages(self) -> list[bytes]:
        """The answers written so far."""
        framer, found = Framer(), []
        framer.push(bytes(self.sent))
        while (message := framer.pop()) is not None:
            found.append(message)
        assert framer.pop() is None
        return found

    def feed(self, *messages: bytes) -> None:
        """What the client sends, in one piece."""
        assert self.protocol is not None
        assert self.is_read, "nothing is read from it"
        self.protocol.data_received(b"".join(map(frame, messages)))


class Room:
    """The listeners, with an engine that bans one name."""

    def __init__(self) -> None:
        row = ClientRow("default", enforced=1, order=((1, "ban"),))
        self.asking = Asking(policy(index(suffixes("banned.example")), row), max_in_flight=10_000)
        self.clock = self.asking.clock
        self.forwards: list[Forward] = []
        self.all = StreamListeners(
            self.asking.engine, self.forwards.append, lambda: self.clock.now, lambda: self.clock.wall
        )

    def connect(self, host: str = "192.0.2.9", *, takes: bool = True) -> Wire:
        wire = Wire(host, takes=takes)
        wire.protocol = self.all.protocol()
        wire.protocol.connection_made(wire)
        return wire

    def complete(self, number: int = 0, octets: bytes | None = None) -> None:
        """An upstream answers the question with this number."""
        forward = self.forwards.pop(number)
        asked = query(forward.name, forward.qtype)
        result = self.asking.engine.complete(forward, octets or response(asked), self.clock.now, self.clock.wall)
        assert isinstance(result, Completed)
        for reply, sent in result.responses:
            reply(sent)

    def pass_time(self, seconds: float) -> None:
        self.clock.wait(seconds)
        self.all.sweep()


def with_room(check: Callable[[Room], Awaitable[None]]) -> None:
    async def work() -> None:
        room = Room()
        await check(room)
        await turns()
        room.all.close()
        await turns()
        assert len(room.all) == 0
        assert room.asking.engine.counters().internal_errors == 0

    run(work)


async def turns(count: int = 5) -> None:
    """Let the loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


# Framing and order


def test_a_query_is_answered_in_a_frame() -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        wire.feed(BANNED)
        assert bytes(wire.sent) == frame(wire.messages()[0])
        assert texts(wire.messages()[0]) == ["banned.example. 60 IN A 192.0.2.1"]

    with_room(check)


def test_a_query_may_come_an_octet_at_a_time() -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        assert wire.protocol is not None
        for octet in frame(BANNED) + frame(BANNED):
            wire.protocol.data_received(bytes([octet]))
        assert len(wire.messages()) == 2

    with_room(check)


def test_two_hundred_pipelined_queries_are_all_answered() -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        wire.feed(*(query("banned.example", ident=number) for number in range(200)))
        await turns(20)
        assert [message[:2] for message in wire.messages()] == [number.to_bytes(2, "big") for number in range(200)]
        assert wire.is_read

    with_room(check)


def test_listed_and_other_names_on_one_connection_each_get_their_own_answer() -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        wire.feed(query("www.example", ident=1), query("banned.example", ident=2), query("mail.example", ident=3))
        assert [message[:2] for message in wire.messages()] == [b"\0\2"]
        room.complete(1)
        room.complete(0)
        assert [message[:2] for message in wire.messages()] == [b"\0\2", b"\0\3", b"\0\1"], "a slow one holds up nobody"

    with_room(check)


def test_a_slow_connection_does_not_hold_up_another() -> None:
    async def check(room: Room) -> None:
        slow, fast = room.connect("192.0.2.9"), room.connect("192.0.2.10")
        slow.feed(*(query("banned.example", ident=number) for number in range(200)))
        fast.feed(BANNED)
        assert len(fast.messages()) == 1
        assert len(slow.messages()) < 200, "its turn is bounded"

    with_room(check)


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"\0", bytes(11), response(BANNED), b"GET / HTTP/1.1\r\n\r\n" * 3000],
    ids=["length 0", "1 octet", "11 octets", "a response", "HTTP"],
)
def test_rubbish_gets_no_answer_and_the_next_query_does(rubbish: bytes) -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        wire.feed(rubbish[:60_000], BANNED)
        answers = wire.messages()
        assert len(texts(answers[-1])) == 1
        assert len(answers) == 1 or answers[0][3] & 15 in (1, 4), "or FORMERR, NOTIMP"

    with_room(check)


def test_a_malformed_query_is_formerr() -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        wire.feed(ASKED[:-1])
        assert wire.messages() == [unhex("1234 8181 0000 0000 0000 0000")]

    with_room(check)


def test_an_answer_of_sixty_thousand_octets_passes_whole() -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        wire.feed(query("www.example", "TXT"))
        room.complete(octets=big())
        [message] = wire.messages()
        assert len(message) > 55_000
        assert len(texts(message)) == 240

    with_room(check)


def big() -> bytes:
    text = "x" * 220
    return response(
        query("www.example", "TXT"), *(f"www.example 300 IN TXT {number:03}{text}" for number in range(240))
    )


# Time


@pytest.mark.parametrize(
    ("sends", "lives_s"),
    [
        pytest.param([], FIRST_QUERY_S, id="asks nothing"),
        pytest.param([b"\0"], FIRST_QUERY_S, id="half a length"),
        pytest.param([frame(BANNED)[:-1]], FIRST_QUERY_S, id="half a query"),
        pytest.param([frame(BANNED)], IDLE_S, id="asks once"),
        pytest.param([frame(BANNED) + frame(BANNED)[:-1]], IDLE_S, id="asks once and a half"),
    ],
)
def test_an_idle_connection_is_ended(sends: list[bytes], lives_s: float) -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        assert wire.protocol is not None
        for octets in sends:
            wire.protocol.data_received(octets)
        room.pass_time(lives_s - 0.5)
        assert not wire.is_gone
        room.pass_time(0.5)
        assert wire.is_gone
        await turns()
        assert len(room.all) == 0

    with_room(check)


def test_a_query_that_drips_in_does_not_keep_its_connection() -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        assert wire.protocol is not None
        octets = frame(BANNED)
        for at in range(len(octets)):
            if wire.is_gone:
                break
            wire.protocol.data_received(octets[at : at + 1])
            room.pass_time(1.0)
        assert wire.is_gone
        assert room.clock.now <= 1_000.25 + FIRST_QUERY_S

    with_room(check)


def test_each_query_gives_its_connection_time_again() -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        for _ in range(5):
            wire.feed(BANNED)
            room.pass_time(IDLE_S - 0.5)
        assert not wire.is_gone

    with_room(check)


def test_a_connection_that_waits_for_its_answer_is_not_idle() -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        wire.feed(ASKED)
        room.pass_time(IDLE_S + 5)
        assert not wire.is_gone
        room.complete()
        assert len(wire.messages()) == 1
        room.pass_time(IDLE_S - 0.5)
        assert not wire.is_gone
        room.pass_time(0.5)
        assert wire.is_gone

    with_room(check)


def test_a_client_that_has_sent_its_last_query_still_gets_its_answer() -> None:
    """RFC 7766 section 6.2.4: half closed."""

    async def check(room: Room) -> None:
        wire = room.connect()
        assert wire.protocol is not None
        wire.feed(ASKED)
        assert wire.protocol.eof_received(), "kept open"
        room.complete()
        assert len(wire.messages()) == 1
        room.pass_time(IDLE_S)
        assert wire.is_gone
        other = room.connect()
        assert other.protocol is not None
        other.feed(BANNED)
        assert not other.protocol.eof_received(), "nothing is to come"

    with_room(check)


def test_an_answer_that_comes_after_its_client_has_gone_does_no_harm() -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        wire.feed(ASKED)
        wire.abort()
        await turns()
        room.complete()
        assert wire.messages() == []

    with_room(check)


# Numbers


def test_a_client_with_too_many_connections_loses_its_longest_idle_one() -> None:
    async def check(room: Room) -> None:
        wires = [room.connect() for _ in range(PER_CLIENT)]
        other = room.connect("192.0.2.10")
        wires[0].feed(BANNED)
        last = room.connect()
        await turns()
        assert [number for number, wire in enumerate(wires) if wire.is_gone] == [1]
        assert not other.is_gone
        assert not last.is_gone
        assert len(room.all) == PER_CLIENT + 1

    with_room(check)


def test_over_the_bound_of_all_the_longest_idle_connection_of_anybody_makes_room() -> None:
    async def check(room: Room) -> None:
        wires = [room.connect(f"192.0.2.{number % 200}") for number in range(CONNECTIONS)]
        wires[0].feed(BANNED)
        last = room.connect("198.51.100.1")
        await turns()
        assert [number for number, wire in enumerate(wires) if wire.is_gone] == [1]
        assert not last.is_gone
        last.feed(BANNED)
        assert len(last.messages()) == 1
        assert len(room.all) == CONNECTIONS

    with_room(check)


def test_closed_connections_leave_nothing_behind() -> None:
    async def check(room: Room) -> None:
        for _ in range(3):
            wires = [room.connect(f"192.0.2.{number}") for number in range(50)]
            for wire in wires:
                wire.feed(BANNED)
                wire.abort()
                wire.abort()
            await turns()
        assert len(room.all) == 0
        assert not room.all._by_client

    with_room(check)


def test_a_connection_whose_client_has_gone_before_it_was_accepted_is_ended() -> None:
    async def check(room: Room) -> None:
        wire = Wire("")
        wire._extra = {"peername": None}  # type: ignore[attr-defined]
        wire.protocol = room.all.protocol()
        wire.protocol.connection_made(wire)
        await turns()
        assert wire.is_gone
        assert len(room.all) == 0

    with_room(check)


def test_questions_in_flight_on_one_connection_are_bounded() -> None:
    async def check(room: Room) -> None:
        wire = room.connect()
        wire.feed(*(query(f"n{number}.example") for number in range(IN_FLIGHT + 50)))
        await turns(20)
        assert len(room.forwards) == IN_FLIGHT
        assert not wire.is_read
        for _ in range(50):
            room.complete()
        await turns(20)
        assert len(room.forwards) == IN_FLIGHT
        while room.forwards:
            room.complete()
        assert len(wire.messages()) == IN_FLIGHT + 50
        assert wire.is_read

    with_room(check)


# A client that never reads


def test_a_client_that_takes_no_answers_is_not_read_from_and_does_not_fill_memory() -> None:
    async def check(room: Room) -> None:
        good = room.connect()
        good.feed(query("www.example", "TXT"))
        room.complete(octets=big())
        bad = room.connect("192.0.2.10", takes=False)
        bad.feed(*(query("www.example", "TXT", ident=number) for number in range(2_000)))
        await turns(50)
        assert not bad.is_read
        assert bad.unsent <= HIGH_WATER + 2 * 65_537
        good.feed(BANNED)
        assert len(good.messages()) == 2, "others are served"
        room.pass_time(STUCK_S - 0.5)
        assert not bad.is_gone
        room.pass_time(0.5)
        assert bad.is_gone

    with_room(check)


def test_a_client_that_takes_its_answers_late_gets_them_all() -> None:
    async def check(room: Room) -> None:
        first = room.connect()
        first.feed(query("www.example", "TXT"))
        room.complete(octets=big())
        slow = room.connect("192.0.2.10", takes=False)
        slow.feed(*(query("www.example", "TXT", ident=number) for number in range(100)))
        for _ in range(200):
            await turns(2)
            slow.take_all()
        assert [message[:2] for message in slow.messages()] == [number.to_bytes(2, "big") for number in range(100)]
        assert slow.is_read

    with_room(check)


def test_late_answers_to_a_client_that_does_not_read_keep_it_no_longer() -> None:
    async def check(room: Room) -> None:
        wire = room.connect(takes=False)
        wire.feed(*(query("www.example", "TXT", ident=number, rd=bool(number % 2)) for number in range(3)))
        room.complete(octets=big())
        assert wire.unsent > HIGH_WATER
        room.pass_time(STUCK_S)
        assert wire.is_gone

    with_room(check)


# Over the loopback interface


def test_a_real_connection_is_served_and_ended() -> None:
    async def work() -> None:
        room = Room()
        server = await asyncio.get_running_loop().create_server(room.all.protocol, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"".join(frame(query("banned.example", ident=number)) for number in range(300)))
        idents = []
        for _ in range(300):
            message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            idents.append(int.from_bytes(message[:2], "big"))
        assert idents == list(range(300))
        assert len(room.all) == 1
        room.pass_time(IDLE_S)
        assert await reader.read() == b"" or reader.at_eof()
        writer.close()
        server.close()
        await turns()
        assert len(room.all) == 0

    run(work)
