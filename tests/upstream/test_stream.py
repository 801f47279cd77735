"""Connections to one upstream: pipelining, what is believed, and what becomes of queries when a connection ends.

The servers are scripts on the loopback interface, and the clock jumps.
"""

import asyncio
import errno
import os
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import uvloop

from dnsfilter.core.wire.framing import frame
from dnsfilter.upstream import stream
from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.stream import BUSY, CLOSES_EARLY_S, DRAINING, STRAYS, StreamPool
from tests.core.make import opt, query, question, response
from tests.upstream.loop import run
from tests.upstream.peer import Asked, Peer, silence

Script = Callable[["Connection"], Awaitable[None]]


@dataclass
class Told:
    """Notes what becomes of the queries, and lets tests wait for it."""

    answers: dict[int, bytes] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)  # of all tokens, as they were told
    batches: int = 0
    then: Callable[[int], None] | None = None  # called with each token
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def on_answer(self, token: int, octets: bytes) -> None:
        self.answers[token] = octets
        self._note(token)

    def on_failed(self, token: int, reason: str) -> None:
        self.failures[token] = reason
        self._note(token)

    def on_batch_end(self) -> None:
        self.batches += 1

    def _note(self, token: int) -> None:
        assert token not in self.order, f"{token} was told twice"
        self.order.append(token)
        self._news.set()
        if self.then is not None:
            self.then(token)

    async def wait(self, number: int, timeout_s: float = 60.0) -> None:
        """Wait until so many were told."""
        async with asyncio.timeout(timeout_s):
            while len(self.order) < number:
                self._news.clear()
                await self._news.wait()


@dataclass
class Connection:
    """One connection as a script sees it."""

    number: int  # the first is 0
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: "Server"

    async def query(self) -> bytes:
        """Read the next query."""
        length = int.from_bytes(await self.reader.readexactly(2), "big")
        octets = await self.reader.readexactly(length)
        self.server.asked.append((self.number, octets))
        return octets

    def say(self, *messages: bytes) -> None:
        self.writer.write(b"".join(map(frame, messages)))


@dataclass
class Server:
    """Runs a script for each connection."""

    script: Script
    connections: int = 0
    asked: list[tuple[int, bytes]] = field(default_factory=list)  # connection and query, as they came
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, **more: Any) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, **more)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        number, self.connections = self.connections, self.connections + 1
        try:
            await self.script(Connection(number, reader, writer, self))
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def stop(self) -> None:
        """End all connections: who connects now is refused."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(5):
            await asyncio.sleep(0)


@dataclass
class Bench:
    """A server, the pool that asks it, and what was told."""

    server: Server
    pool: StreamPool[int]
    told: Told
    numbers: "count[int]" = field(default_factory=count)

    def ask(self, number: int = 1) -> list[int]:
        """Ask so many different questions; their tokens are numbers."""
        tokens = [next(self.numbers) for _ in range(number)]
        for token in tokens:
            self.pool.send(rest(token), asked_for(token), token)
        return tokens

    def check(self, tokens: Sequence[int]) -> None:
        """Each of these got its own answer."""
        for token in tokens:
            assert self.told.answers[token][12:].startswith(asked_for(token)), token
        assert not self.told.failures


def asked_for(token: int) -> bytes:
    return question(f"n{token}.example")


def rest(token: int) -> bytes:
    return query(f"n{token}.example", edns=opt())[2:]


def answer(octets: bytes) -> bytes:
    return response(octets, f"{name_of(octets)} 300 IN A 192.0.2.1")


def name_of(octets: bytes) -> str:
    return octets[13 : 13 + octets[12]].decode() + ".example"


async def honest(connection: Connection) -> None:
    """Answer each query as it comes."""
    while True:
        connection.say(answer(await connection.query()))


async def mute(connection: Connection) -> None:
    """Take queries and say nothing."""
    while True:
        await connection.query()


def with_server(script: Script, check: Callable[[Bench], Awaitable[None]], **more: Any) -> None:
    """Run a check with a server and a pool; afterwards every socket must be closed again."""
    run(lambda: _with_server(script, check, **more))


async def _with_server(script: Script, check: Callable[[Bench], Awaitable[None]], **more: Any) -> None:
    server, told = await Server(script).start(), Told()
    loop, before = asyncio.get_running_loop(), descriptors()
    pool = StreamPool[int]("127.0.0.1", server.port, loop, told, Hosts(()), **more)
    try:
        await check(Bench(server, pool, told))
    finally:
        pool.close()
        await server.stop()
    assert descriptors() < before, "sockets are left open"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


# One connection, many queries


def test_one_connection_serves_one_query_after_the_other() -> None:
    async def check(bench: Bench) -> None:
        for _ in range(3):
            bench.ask()
            await bench.told.wait(len(bench.told.order) + 1)
        bench.check([0, 1, 2])
        assert bench.server.connections == 1
        assert bench.told.batches >= 3

    with_server(honest, check)


def test_queries_go_out_as_they_are_each_under_an_id_of_its_own() -> None:
    async def check(bench: Bench) -> None:
        tokens = bench.ask(150)
        await bench.told.wait(150)
        bench.check(tokens)
        assert [octets[2:] for _, octets in bench.server.asked] == [rest(token) for token in tokens]
        assert len({octets[:2] for _, octets in bench.server.asked}) == 150
        assert bench.server.connections == 1

    async def script(connection: Connection) -> None:
        held = [await connection.query() for _ in range(150)]
        connection.say(*map(answer, held))
        await connection.query()

    with_server(script, check)


def test_an_id_that_is_out_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([b"\1\1\1\1\1\1\2\2", b"\2\2\3\3\4\4\5\5"])
    monkeypatch.setattr(os, "urandom", lambda size: next(drawn))

    async def check(bench: Bench) -> None:
        bench.ask(3)
        await bench.told.wait(3)
        assert [octets[:2] for _, octets in bench.server.asked] == [b"\1\1", b"\2\2", b"\3\3"]

    async def script(connection: Connection) -> None:
        held = [await connection.query() for _ in range(3)]
        connection.say(*map(answer, held))
        await connection.query()

    with_server(script, check)


def test_answers_may_come_in_any_order() -> None:
    async def check(bench: Bench) -> None:
        tokens = bench.ask(20)
        await bench.told.wait(20)
        bench.check(tokens)
        assert bench.told.order == tokens[::-1]

    async def script(connection: Connection) -> None:
        held = [await connection.query() for _ in range(20)]
        connection.say(*map(answer, reversed(held)))
        await connection.query()

    with_server(script, check)


def test_queries_of_one_turn_leave_together() -> None:
    """RFC 7766 section 8: a length and its message in one segment, and here those of several queries."""
    pieces: list[bytes] = []

    async def check(bench: Bench) -> None:
        bench.ask()
        await bench.told.wait(1)
        bench.ask(10)
        await bench.told.wait(11)
        assert len(pieces[1]) == sum(2 + 2 + len(rest(token)) for token in range(1, 11))

    async def script(connection: Connection) -> None:
        while data := await connection.reader.read(65_535):
            pieces.append(data)
            while data:
                end = 2 + int.from_bytes(data[:2], "big")
                connection.say(answer(data[2:end]))
                data = data[end:]

    with_server(script, check)


def test_an_answer_is_put_together_from_single_octets() -> None:
    async def check(bench: Bench) -> None:
        tokens = bench.ask(2)
        await bench.told.wait(2)
        bench.check(tokens)

    async def script(connection: Connection) -> None:
        while True:
            for octet in frame(answer(await connection.query())):
                connection.writer.write(bytes([octet]))
                await asyncio.sleep(0.01)

    with_server(script, check)


def test_the_largest_answer_there_is_comes_whole() -> None:
    async def check(bench: Bench) -> None:
        bench.ask()
        await bench.told.wait(1)
        assert len(bench.told.answers[0]) == 65_535

    async def script(connection: Connection) -> None:
        octets = answer(await connection.query())
        connection.say(octets + bytes(65_535 - len(octets)))
        await connection.query()

    with_server(script, check)


# What is believed


def another_id(octets: bytes) -> bytes:
    return bytes([octets[0] ^ 1]) + octets[1:]


@pytest.mark.parametrize(
    "stray",
    [
        pytest.param(another_id, id="another id"),
        pytest.param(lambda octets: b"", id="a frame of no octets"),
        pytest.param(lambda octets: b"\0", id="one octet"),
        pytest.param(lambda octets: another_id(octets) + bytes(65_535 - len(octets)), id="65,535 octets"),
    ],
)
def test_what_belongs_to_no_query_is_counted_and_the_answer_awaited(stray: Callable[[bytes], bytes]) -> None:
    async def check(bench: Bench) -> None:
        tokens = bench.ask(2)
        await bench.told.wait(2)
        bench.check(tokens)
        assert bench.pool.ignored == 2 * 3
        assert bench.server.connections == 1

    async def script(connection: Connection) -> None:
        while True:
            right = answer(await connection.query())
            connection.say(*[stray(right)] * 3, right)

    with_server(script, check)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda octets: octets.replace(b"\2n1", b"\2x1", 1), id="another name"),
        pytest.param(lambda octets: octets[:2] + bytes([octets[2] & 0x7F]) + octets[3:], id="a query"),
        pytest.param(lambda octets: octets[:2] + bytes([octets[2] | 0x20]) + octets[3:], id="another opcode"),
        pytest.param(lambda octets: octets[:11], id="less than a header"),
        pytest.param(lambda octets: octets[:2], id="the id alone"),
    ],
)
def test_what_comes_under_an_id_and_answers_another_question_ends_that_query_only(
    wrong: Callable[[bytes], bytes],
) -> None:
    """Nobody but the server can have written it: no better one will come."""

    async def check(bench: Bench) -> None:
        bench.ask(3)
        await bench.told.wait(3)
        assert bench.told.failures == {1: "tcp"}
        assert set(bench.told.answers) == {0, 2}
        assert (bench.server.connections, bench.pool.ignored) == (1, 1)

    async def script(connection: Connection) -> None:
        while True:
            octets = answer(await connection.query())
            connection.say(wrong(octets) if name_of(octets) == "n1.example" else octets)

    with_server(script, check)


def test_letter_case_of_the_echoed_question_does_not_count() -> None:
    async def check(bench: Bench) -> None:
        bench.ask()
        await bench.told.wait(1)
        assert set(bench.told.answers) == {0}

    async def script(connection: Connection) -> None:
        octets = answer(await connection.query())
        connection.say(octets.replace(b"\2n0\7example", b"\2N0\7eXAMPLE", 1))
        await connection.query()

    with_server(script, check)


def test_a_server_that_only_says_what_nobody_asked_for_is_hung_up_on() -> None:
    async def check(bench: Bench) -> None:
        bench.ask(2)
        await bench.told.wait(2)
        assert bench.told.failures == {0: "tcp", 1: "tcp"}
        assert bench.pool.ignored == STRAYS + 1
        tokens = bench.ask()
        await bench.told.wait(3)
        assert set(bench.told.answers) == set(tokens)
        assert bench.server.connections == 2

    async def script(connection: Connection) -> None:
        if connection.number:
            await honest(connection)
        octets = answer(await connection.query())
        connection.say(*[another_id(octets)] * (3 * STRAYS))
        await connection.reader.read()

    with_server(script, check)


def test_strays_count_in_a_row_only() -> None:
    async def check(bench: Bench) -> None:
        for number in range(1, 6):
            bench.ask()
            await bench.told.wait(number)
        bench.check(range(5))
        assert (bench.server.connections, bench.pool.ignored) == (1, 5 * (STRAYS - 1))

    async def script(connection: Connection) -> None:
        while True:
            octets = answer(await connection.query())
            connection.say(*[another_id(octets)] * (STRAYS - 1), octets)

    with_server(script, check)


# Connections that end


def test_a_query_on_which_a_server_always_closes_is_not_asked_for_ever() -> None:
    async def check(bench: Bench) -> None:
        bench.ask(10)
        await bench.told.wait(10)
        assert bench.told.failures[4] == "tcp"
        assert set(bench.told.answers) >= {0, 1, 2, 3, 9}
        assert [name_of(octets) for _, octets in bench.server.asked].count("n4.example") <= 4

    async def script(connection: Connection) -> None:
        while True:
            octets = await connection.query()
            if name_of(octets) == "n4.example":
                return
            connection.say(answer(octets))

    with_server(script, check)


def test_a_server_that_closes_every_connection_is_asked_twice() -> None:
    async def check(bench: Bench) -> None:
        bench.ask(5)
        await bench.told.wait(5)
        assert set(bench.told.failures.values()) == {"tcp"}
        assert bench.server.connections == 2
        assert bench.told.batches == 1

    async def script(connection: Connection) -> None:
        pass

    with_server(script, check)


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_a_connection_that_ends_with_queries_out_is_followed_by_another(*, is_reset: bool) -> None:
    """RFC 7766 section 6.2.4: a server may close one just when we ask."""

    async def check(bench: Bench) -> None:
        bench.ask()
        await bench.told.wait(1)
        tokens = bench.ask(5)
        await bench.told.wait(6)
        bench.check([0, *tokens])
        names = [name_of(octets) for _, octets in bench.server.asked]
        assert max(map(names.count, names)) <= 2

    async def script(connection: Connection) -> None:
        if connection.number:
            await honest(connection)
        connection.say(answer(await connection.query()))
        await connection.query()
        if is_reset:
            raw = connection.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with_server(script, check)


@pytest.mark.parametrize("most", [1, 3])
def test_a_server_that_closes_after_few_answers_still_answers_all(most: int) -> None:
    async def check(bench: Bench) -> None:
        tokens = bench.ask(30)
        await bench.told.wait(30)
        bench.check(tokens)
        assert len(bench.server.asked) < 4 * 30, "what it will not answer is not asked again and again"

    async def script(connection: Connection) -> None:
        for _ in range(most):
            connection.say(answer(await connection.query()))

    with_server(script, check)


def test_a_server_that_closes_after_fewer_and_fewer_answers_still_answers_all() -> None:
    """A query may lose several connections, as long as each answered others meanwhile."""

    async def check(bench: Bench) -> None:
        tokens = bench.ask(10)
        await bench.told.wait(10)
        bench.check(tokens)

    async def script(connection: Connection) -> None:
        for _ in range(max(1, 4 - 2 * connection.number)):
            connection.say(answer(await connection.query()))

    with_server(script, check)


def test_a_server_that_does_so_no_more_is_soon_asked_much_on_one_connection_again() -> None:
    strict = True

    async def check(bench: Bench) -> None:
        nonlocal strict
        bench.check(await told_after(bench, 10))
        strict, before = False, bench.server.connections
        await asyncio.sleep(CLOSES_EARLY_S)
        for _ in range(10):
            bench.check(await told_after(bench, 10))
        assert bench.server.connections - before == 1

    async def told_after(bench: Bench, number: int) -> list[int]:
        tokens = bench.ask(number)
        await bench.told.wait(tokens[-1] + 1)
        return tokens

    async def script(connection: Connection) -> None:
        while True:
            connection.say(answer(await connection.query()))
            if strict:
                return

    with_server(script, check)


@pytest.mark.parametrize("does_better", [True, False])
def test_half_an_answer_and_an_end_is_no_answer(*, does_better: bool) -> None:
    async def check(bench: Bench) -> None:
        tokens = bench.ask()
        await bench.told.wait(1)
        if does_better:
            bench.check(tokens)
        else:
            assert bench.told.failures == {0: "tcp"}
        assert bench.server.connections == 2

    async def script(connection: Connection) -> None:
        if does_better and connection.number:
            await honest(connection)
        octets = frame(answer(await connection.query()))
        connection.writer.write(octets[: len(octets) // 2])

    with_server(script, check)


def test_where_nobody_listens_all_who_wait_are_told_and_the_next_query_tries_anew() -> None:
    async def check(bench: Bench) -> None:
        await bench.server.stop()
        bench.ask(5)
        await bench.told.wait(5)
        assert set(bench.told.failures.values()) == {"unreachable"}
        await bench.server.start()
        bench.ask()
        await bench.told.wait(6)
        assert set(bench.told.answers) == {5}

    with_server(honest, check)


def test_a_server_that_went_away_is_unreachable_to_those_it_left() -> None:
    async def check(bench: Bench) -> None:
        bench.ask()
        await bench.told.wait(1)
        bench.server.script = mute
        bench.ask(3)
        await asyncio.sleep(0.1)
        await bench.server.stop()
        await bench.told.wait(4)
        assert set(bench.told.failures.values()) == {"unreachable"}

    async def script(connection: Connection) -> None:
        connection.say(answer(await connection.query()))
        await mute(connection)

    with_server(script, check)


def test_without_a_descriptor_all_who_wait_are_told_and_the_next_query_tries_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = socket.socket

    def none(*args: Any, **more: Any) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    async def check(bench: Bench) -> None:
        monkeypatch.setattr(socket, "socket", none)
        bench.ask(3)
        await bench.told.wait(3)
        monkeypatch.setattr(socket, "socket", real)
        assert set(bench.told.failures.values()) == {"unreachable"}
        bench.ask()
        await bench.told.wait(4)
        assert set(bench.told.answers) == {3}

    with_server(honest, check)


def test_a_server_that_ends_its_side_is_not_asked_on_that_connection() -> None:
    async def check(bench: Bench) -> None:
        for number in range(1, 6):
            bench.ask()
            await bench.told.wait(number)
            await asyncio.sleep(0.1)
        bench.check(range(5))
        assert bench.server.connections == len(bench.server.asked) == 5

    async def script(connection: Connection) -> None:
        connection.say(answer(await connection.query()))
        connection.writer.write_eof()
        await connection.reader.read()

    with_server(script, check)


# Silence


@pytest.mark.parametrize("drips", [False, True], ids=["not an octet", "an answer that never ends"])
def test_a_connection_on_which_no_answer_comes_is_given_up(*, drips: bool) -> None:
    async def check(bench: Bench) -> None:
        begun = asyncio.get_running_loop().time()
        bench.ask(3)
        await bench.told.wait(3)
        assert bench.told.failures == dict.fromkeys(range(3), "tcp")
        assert asyncio.get_running_loop().time() - begun == pytest.approx(10.0, abs=0.5)
        assert bench.server.connections == 1
        bench.ask()
        await bench.told.wait(4)
        assert set(bench.told.answers) == {3}

    async def script(connection: Connection) -> None:
        if connection.number:
            await honest(connection)
        await connection.query()
        while drips:
            connection.writer.write(b"\xff")
            await connection.writer.drain()
            await asyncio.sleep(1.0)
        await mute(connection)

    with_server(script, check)


def test_a_slow_server_is_not_given_up_as_long_as_answers_come() -> None:
    async def check(bench: Bench) -> None:
        tokens = bench.ask(5)
        await bench.told.wait(5)
        bench.check(tokens)
        assert bench.server.connections == 1

    async def script(connection: Connection) -> None:
        while True:
            octets = await connection.query()
            await asyncio.sleep(8.0)
            connection.say(answer(octets))

    with_server(script, check, idle_s=1.0)


def test_the_time_of_a_query_begins_when_it_is_sent() -> None:
    async def check(bench: Bench) -> None:
        for number in (1, 2):
            bench.ask()
            await bench.told.wait(number)
            await asyncio.sleep(8.0)
        bench.check([0, 1])
        assert bench.server.connections == 1

    async def script(connection: Connection) -> None:
        connection.say(answer(await connection.query()))
        octets = await connection.query()
        await asyncio.sleep(5.0)
        connection.say(answer(octets))
        await honest(connection)

    with_server(script, check)


def test_an_answer_that_nobody_waits_for_is_ignored_and_the_connection_kept() -> None:
    async def check(bench: Bench) -> None:
        [first, second] = bench.ask(2)
        await asyncio.sleep(0.5)
        bench.pool.forget(first)
        bench.pool.forget(first)
        bench.pool.forget(99)
        await bench.told.wait(1)
        tokens = bench.ask(2)
        await bench.told.wait(3)
        bench.check([second, *tokens])
        assert (bench.server.connections, bench.pool.ignored) == (1, 0)

    async def script(connection: Connection) -> None:
        held = [await connection.query() for _ in range(2)]
        await asyncio.sleep(0.7)
        connection.say(*map(answer, held))
        await honest(connection)

    with_server(script, check)


def test_what_is_forgotten_before_there_is_a_connection_is_not_sent() -> None:
    async def check(bench: Bench) -> None:
        [first, second] = bench.ask(2)
        bench.pool.forget(first)
        await bench.told.wait(1)
        bench.check([second])
        assert len(bench.server.asked) == 1

    with_server(honest, check)


def test_a_query_given_up_in_silence_makes_the_next_one_take_another_connection() -> None:
    """A way that no longer leads anywhere (a firewall that forgot us) costs one time-out, not all those that follow."""

    async def check(bench: Bench) -> None:
        [first] = bench.ask()
        await asyncio.sleep(2.0)
        bench.pool.forget(first)
        tokens = bench.ask()
        await bench.told.wait(1)
        bench.check(tokens)
        assert bench.server.connections == 2

    async def script(connection: Connection) -> None:
        await (honest if connection.number else mute)(connection)

    with_server(script, check)


def test_an_upstream_that_never_answers_has_few_connections_at_any_time() -> None:
    open_at_once = [0, 0]  # now, most

    async def check(bench: Bench) -> None:
        waiting: list[int] = []
        for _ in range(60):
            waiting += bench.ask(3)
            await asyncio.sleep(1.0)
            while len(waiting) > 6:
                bench.pool.forget(waiting.pop(0))
        assert 2 <= open_at_once[1] <= 4
        assert not bench.told.answers

    async def script(connection: Connection) -> None:
        open_at_once[0] += 1
        open_at_once[1] = max(open_at_once)
        try:
            await mute(connection)
        finally:
            open_at_once[0] -= 1

    with_server(script, check)


# How many, how long


def test_an_idle_connection_is_closed_by_us_and_the_next_query_opens_another() -> None:
    ended: list[float] = []

    async def check(bench: Bench) -> None:
        bench.ask()
        await asyncio.sleep(9.0)
        bench.ask()
        await asyncio.sleep(9.0)
        assert not ended
        await asyncio.sleep(2.0)
        assert len(ended) == 1
        bench.ask()
        await bench.told.wait(3)
        assert bench.server.connections == 2

    async def script(connection: Connection) -> None:
        try:
            await honest(connection)
        finally:
            ended.append(asyncio.get_running_loop().time())

    with_server(script, check)


def test_queries_join_a_connection_that_is_being_opened() -> None:
    async def check(bench: Bench) -> None:
        bench.ask(3)
        await asyncio.sleep(0)
        bench.ask(3)
        await bench.told.wait(6)
        bench.check(range(6))
        assert bench.server.connections == 1

    with_server(honest, check)


def test_a_busy_connection_gets_another_beside_it_and_no_third() -> None:
    async def check(bench: Bench) -> None:
        bench.ask(BUSY)
        await asyncio.sleep(0.1)
        assert bench.server.connections == 1
        for _ in range(4):
            bench.ask(BUSY)
            await asyncio.sleep(0.1)
        assert bench.server.connections == 2
        assert len(bench.server.asked) == 5 * BUSY
        by_connection = [number for number, _ in bench.server.asked]
        assert by_connection.count(1) > BUSY

    with_server(mute, check, most_waiting=5 * BUSY)


def test_a_server_that_allows_but_one_connection_is_not_asked_for_more_all_the_time() -> None:
    async def check(bench: Bench) -> None:
        for _ in range(50):
            bench.ask(BUSY // 10)
            await asyncio.sleep(0.05)
        assert not bench.told.order
        assert bench.server.connections <= 3

    async def script(connection: Connection) -> None:
        if not connection.number:
            await mute(connection)

    with_server(script, check, most_waiting=50 * BUSY)


def test_no_more_than_so_many_wait() -> None:
    async def check(bench: Bench) -> None:
        tokens = bench.ask(10)
        for _ in range(2):
            with pytest.raises(OSError, match="too many"):
                bench.pool.send(rest(99), asked_for(99), 99)
            await asyncio.sleep(0.1)
        bench.pool.forget(tokens[0])
        bench.pool.send(rest(99), asked_for(99), 99)

    with_server(mute, check, most_waiting=10)


def test_a_connection_makes_room_for_another_after_so_many_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "USES", 10)

    async def check(bench: Bench) -> None:
        for _ in range(10):
            bench.ask(5)
            await bench.told.wait(len(bench.told.order) + 5)
        bench.check(range(50))
        numbers = [number for number, _ in bench.server.asked]
        assert bench.server.connections == 5
        assert max(map(numbers.count, numbers)) == 10

    with_server(honest, check)


def test_connections_that_drain_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "USES", 1)

    async def check(bench: Bench) -> None:
        bench.ask(50)
        await asyncio.sleep(1.0)
        assert bench.server.connections <= 2 + DRAINING

    with_server(mute, check)


def test_what_a_server_does_not_read_waits_here_and_is_bounded() -> None:
    big = bytes(60_000)

    async def check(bench: Bench) -> None:
        for token in range(200):
            bench.pool.send(rest(token) + big, asked_for(token), token)
            if not token % 10:
                await asyncio.sleep(0.01)
        connections = bench.pool._connections
        assert sum(each._transport.get_write_buffer_size() for each in connections) < 40 * len(big)
        await bench.told.wait(200)
        assert set(bench.told.failures.values()) == {"tcp"}

    async def script(connection: Connection) -> None:
        await asyncio.sleep(1_000.0)

    with_server(script, check)


def test_what_waited_for_a_slow_reader_is_sent_when_it_reads() -> None:
    """Also where no other connection can be had: those who wait have this one."""
    big, number = bytes(60_000), 300

    async def check(bench: Bench) -> None:
        bench.ask()
        await bench.told.wait(1)
        assert bench.server._server is not None
        bench.server._server.close()  # its connections stay
        for token in range(1, number):
            bench.pool.send(rest(token) + big, asked_for(token), token)
            if not token % 10:
                await asyncio.sleep(0.001)
        assert bench.pool._unsent
        await bench.told.wait(number)
        assert len(bench.told.answers) == number

    async def script(connection: Connection) -> None:
        connection.say(answer(await connection.query()))
        await asyncio.sleep(2.0)
        while True:
            octets = await connection.query()
            connection.say(answer(octets[: -len(big)]))

    with_server(script, check)


def test_a_connection_whose_other_side_reads_nothing_is_gone_soon_after_it_is_given_up() -> None:
    big = bytes(60_000)

    async def check(bench: Bench) -> None:
        for token in range(200):
            bench.pool.send(rest(token) + big, asked_for(token), token)
            if not token % 10:
                await asyncio.sleep(0.001)
        await asyncio.sleep(2.0)
        for token in range(200):
            bench.pool.forget(token)
        await asyncio.sleep(3.0)
        assert not bench.pool._connections
        assert not bench.told.order

    async def script(connection: Connection) -> None:
        await asyncio.sleep(1_000.0)

    with_server(script, check)


# Its end, and who is told


def test_after_its_end_nobody_is_told_anything_and_nothing_is_sent() -> None:
    async def check(bench: Bench) -> None:
        bench.ask()
        await bench.told.wait(1)
        bench.ask(3)
        bench.pool.close()
        with pytest.raises(OSError, match="no longer"):
            bench.pool.send(rest(9), asked_for(9), 9)
        bench.pool.close()
        bench.pool.forget(1)
        await asyncio.sleep(30.0)
        assert bench.told.order == [0]

    with_server(honest, check)


@pytest.mark.parametrize("turns", range(5))
def test_it_may_end_while_a_connection_is_being_opened(turns: int) -> None:
    async def check(bench: Bench) -> None:
        bench.ask(3)
        for _ in range(turns):
            await asyncio.sleep(0)
        bench.pool.close()
        await asyncio.sleep(30.0)
        assert not bench.told.order

    with_server(mute, check)


def test_whoever_is_told_may_close_it() -> None:
    async def check(bench: Bench) -> None:
        bench.told.then = lambda token: bench.pool.close()
        bench.ask(5)
        await bench.told.wait(1)
        await asyncio.sleep(30.0)
        assert len(bench.told.order) == 1

    async def script(connection: Connection) -> None:
        held = [await connection.query() for _ in range(5)]
        connection.say(*map(answer, held))

    with_server(script, check)


def test_whoever_is_told_may_ask_the_next() -> None:
    async def check(bench: Bench) -> None:
        def next_one(_token: int) -> None:
            if len(bench.told.order) not in (20, 40):
                bench.ask()

        bench.told.then = next_one
        bench.ask()
        await bench.told.wait(20)
        bench.check(range(20))
        await bench.server.stop()
        bench.ask()
        await bench.told.wait(40)
        assert set(bench.told.failures.values()) <= {"unreachable", "tcp"}

    with_server(honest, check)


@pytest.mark.parametrize("seed", range(15))
def test_whatever_a_server_does_each_query_ends_once(seed: int) -> None:
    """Answers in any order, strays, cuts, pauses, closes and refusals, by a seed."""
    chance = random.Random(seed)

    async def check(bench: Bench) -> None:
        forgotten = set()
        for _ in range(40):
            tokens = bench.ask(chance.randint(1, 8))
            await asyncio.sleep(chance.choice([0.0, 0.0, 0.1, 3.0, 12.0]))
            if chance.random() < 0.3:
                token = chance.choice(tokens)
                bench.pool.forget(token)
                forgotten.add(token)
        bench.server.script = honest
        await asyncio.sleep(60.0)
        asked = set(range(next(bench.numbers)))
        assert asked - forgotten <= set(bench.told.order)
        assert all(octets[12:].startswith(asked_for(token)) for token, octets in bench.told.answers.items())
        assert set(bench.told.failures.values()) <= {"tcp", "unreachable"}
        assert not bench.pool._queries

    async def script(connection: Connection) -> None:
        held: list[bytes] = []
        while True:
            held.append(await connection.query())
            act = chance.random()
            if act < 0.5:
                chance.shuffle(held)
                connection.say(*map(answer, held))
                held.clear()
            elif act < 0.6:
                connection.say(another_id(answer(held[0])), b"")
            elif act < 0.65:
                connection.writer.write(frame(answer(held[0]))[: chance.randint(1, 30)])
                return
            elif act < 0.7:
                return
            elif act < 0.75:
                await asyncio.sleep(chance.choice([1.0, 20.0]))

    with_server(script, check)


# Names and families


def test_a_name_is_looked_up_and_its_addresses_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.2 refuses. It is not tried first the next time."""

    async def work() -> None:
        server, told = await Server(honest).start(), Told()
        resolver, loop, tried = await Peer(two_addresses).start(), asyncio.get_running_loop(), list[str]()
        connect = loop.sock_connect

        async def noted(sock: socket.socket, address: Any) -> None:
            tried.append(address[0])
            await connect(sock, address)

        monkeypatch.setattr(loop, "sock_connect", noted)
        hosts = Hosts([(resolver.host, resolver.port)])
        pool = StreamPool[int]("dns.example", server.port, asyncio.get_running_loop(), told, hosts, idle_s=1.0)
        bench = Bench(server, pool, told)
        bench.ask(3)
        await told.wait(3)
        assert tried == ["127.0.0.2", "127.0.0.1"]
        await asyncio.sleep(2.0)
        bench.ask()
        await told.wait(4)
        bench.check(range(4))
        assert tried[2:] == ["127.0.0.1"]
        assert (server.connections, resolver.queries()) == (2, 2)
        pool.close()
        await resolver.stop()
        await server.stop()

    def two_addresses(asked: Asked) -> bytes:
        if asked.question[-3] != 1:
            return response(asked.octets)
        return response(asked.octets, "dns.example 60 IN A 127.0.0.2", "dns.example 60 IN A 127.0.0.1")

    run(work)


def test_a_name_that_nobody_knows_is_unreachable(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        resolver, told = await Peer(silence).start(), Told()
        hosts = Hosts([(resolver.host, resolver.port)])
        pool = StreamPool[int]("dns.example", 53, asyncio.get_running_loop(), told, hosts)
        for token in range(3):
            pool.send(rest(token), asked_for(token), token)
        await told.wait(3)
        assert set(told.failures.values()) == {"unreachable"}
        assert "upstream dns.example:53 is not asked: dns.example has no address" in caplog.text
        pool.close()
        hosts.close()
        await resolver.stop()

    run(work)


@pytest.mark.parametrize("make", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_it_works_on_loops_whose_clock_is_real(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Answers, a close with queries out, and a refusal."""

    async def check(bench: Bench) -> None:
        bench.ask(50)
        await bench.told.wait(50)
        bench.ask(20)
        await bench.told.wait(70)
        bench.check(range(70))
        await bench.server.stop()
        bench.ask(3)
        await bench.told.wait(73)
        assert set(bench.told.failures.values()) <= {"unreachable", "tcp"}
        assert set(bench.told.failures) == {70, 71, 72}

    async def script(connection: Connection) -> None:
        for _ in range(60):
            connection.say(answer(await connection.query()))
        if connection.number:
            await honest(connection)

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(_with_server(script, check))
