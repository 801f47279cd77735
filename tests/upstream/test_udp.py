"""The pool of sockets to one upstream: when they are opened, used up, and closed."""

import asyncio
import errno
import os
import socket
from dataclasses import dataclass, field
from typing import Any

import pytest

from dnsfilter.upstream import udp
from dnsfilter.upstream.udp import Exchange, UdpPool
from tests.core.make import query, question, response
from tests.upstream.loop import run
from tests.upstream.peer import Peer, silence

REST, QUESTION = query("www.example")[2:], question("www.example")


@dataclass
class Told:
    """Notes what becomes of the queries."""

    responses: list[tuple[str, bytes]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    batches: int = 0

    def on_response(self, exchange: Exchange[str], octets: bytes) -> None:
        self.responses.append((exchange.purpose, octets))

    def on_refused(self, exchange: Exchange[str]) -> None:
        self.refused.append(exchange.purpose)

    def on_batch_end(self) -> None:
        self.batches += 1


def pool_to(one: Peer, told: Told) -> UdpPool[str]:
    return UdpPool(one.host, one.port, asyncio.get_running_loop(), told, udp.POOL)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_sockets_are_opened_with_the_first_query_and_all_closed() -> None:
    async def work() -> None:
        one = await Peer(lambda asked: response(asked.octets, "www.example 300 IN A 192.0.2.1")).start()
        before, told = descriptors(), Told()
        pool = pool_to(one, told)
        assert descriptors() == before
        pool.send(REST, QUESTION, "first", 0.0)
        assert descriptors() >= before + udp.POOL
        await asyncio.sleep(0.1)
        assert [purpose for purpose, _ in told.responses] == ["first"]
        assert told.batches == 1
        pool.close()
        assert descriptors() == before
        with pytest.raises(OSError, match="no longer"):
            pool.send(REST, QUESTION, "later", 0.0)
        pool.close()
        await one.stop()

    run(work)


def test_a_socket_makes_room_for_another_port_after_so_many_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "USES", 3)
    monkeypatch.setattr(udp, "POOL", 2)

    async def work() -> None:
        one = await Peer(lambda asked: response(asked.octets, "www.example 300 IN A 192.0.2.1")).start()
        told = Told()
        pool = pool_to(one, told)
        for number in range(40):
            pool.send(REST, QUESTION, str(number), 0.0)
            await asyncio.sleep(0.1)
        assert [purpose for purpose, _ in told.responses] == [str(number) for number in range(40)]
        ports = [asked.port for asked in one.asked]
        assert len(set(ports)) >= 8
        assert max(map(ports.count, ports)) <= 4
        pool.close()
        await one.stop()

    run(work)


def test_a_socket_that_waits_for_an_answer_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "USES", 1)
    monkeypatch.setattr(udp, "POOL", 1)

    async def work() -> None:
        one = await Peer(silence).start()
        told = Told()
        pool = pool_to(one, told)
        for number in range(5):
            pool.send(REST, QUESTION, str(number), 0.0)
        await asyncio.sleep(0.1)
        assert len({asked.port for asked in one.asked}) == 1
        assert len({asked.octets[:2] for asked in one.asked}) == 5, "ids that wait are not drawn again"
        pool.close()
        await one.stop()

    run(work)


def test_without_more_descriptors_the_sockets_there_are_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []
    real = socket.socket

    def scarce(*args: Any, **more: Any) -> socket.socket:
        if len(opened) == 3:
            raise OSError(errno.EMFILE, "Too many open files")
        opened.append(real(*args, **more))
        return opened[-1]

    async def work() -> None:
        one = await Peer(lambda asked: response(asked.octets, "www.example 300 IN A 192.0.2.1")).start()
        told = Told()
        pool = pool_to(one, told)
        monkeypatch.setattr(socket, "socket", scarce)
        for number in range(20):
            pool.send(REST, QUESTION, str(number), 0.0)
        monkeypatch.setattr(socket, "socket", real)
        await asyncio.sleep(0.1)
        assert len(told.responses) == 20
        assert len({asked.port for asked in one.asked}) == 3
        pool.close()
        await one.stop()

    run(work)


def test_without_any_descriptor_nothing_is_left_open_and_the_next_query_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(*args: Any, **more: Any) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    async def work() -> None:
        one = await Peer(lambda asked: response(asked.octets, "www.example 300 IN A 192.0.2.1")).start()
        told, before, real = Told(), descriptors(), socket.socket
        pool = pool_to(one, told)
        monkeypatch.setattr(socket, "socket", none)
        for _ in range(3):
            with pytest.raises(OSError, match="Too many"):
                pool.send(REST, QUESTION, "lost", 0.0)
        monkeypatch.setattr(socket, "socket", real)
        assert descriptors() == before
        pool.send(REST, QUESTION, "sent", 0.0)
        await asyncio.sleep(0.1)
        assert [purpose for purpose, _ in told.responses] == ["sent"]
        pool.close()
        assert descriptors() == before
        await one.stop()

    run(work)


def test_nobody_listening_is_told_of_every_query_that_waits_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "POOL", 1)

    async def work() -> None:
        one = await Peer(silence).start()
        told = Told()
        pool = pool_to(one, told)
        pool.send(REST, QUESTION, "first", 0.0)
        await asyncio.sleep(0.1)
        await one.stop()
        pool.send(REST, QUESTION, "second", 0.0)
        await asyncio.sleep(0.1)
        assert told.refused == ["first", "second"]
        pool.close()

    run(work)


def test_what_is_forgotten_is_ignored_and_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its id has been drawn for another query since."""
    monkeypatch.setattr(udp, "POOL", 1)

    async def work() -> None:
        one = await Peer(silence).start()
        told = Told()
        pool = pool_to(one, told)
        monkeypatch.setattr(pool, "_draw", lambda: (0, b"\1\2"))
        first = pool.send(REST, QUESTION, "first", 0.0)
        first.forget()
        await asyncio.sleep(0.1)
        one.script = lambda asked: response(asked.octets, "www.example 300 IN A 192.0.2.1")
        pool.send(REST, QUESTION, "second", 0.0)
        first.forget()
        await asyncio.sleep(0.1)
        assert [purpose for purpose, _ in told.responses] == ["second"]
        pool.close()
        await one.stop()

    run(work)
