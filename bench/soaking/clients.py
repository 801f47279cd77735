"""The clients: a UDP socket for each address, and TCP conversations of all manners. Every answer goes to the judge."""

import asyncio
import contextlib
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

from soaking import world
from soaking.judge import Finding, Judge
from soaking.question import Question, Questions
from soaking.reference import CLIENTS

PATIENCE_S = 6.0  # an answer that takes longer is none
MOST_WRONG = 20
AROUND_LIMIT_S = 1.5
NEW_AT_LIMIT = "new at a limit"
CONVERSATIONS = 40  # at a time
MANNERS = ("pipelined", "read late", "in pieces", "dropped", "no DNS")

Address = tuple[str, int]
Manner = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Tally:
    """What the clients saw. `is_over` once there are too many mismatches to go on."""

    def __init__(self, seed: int, judge: Judge) -> None:
        self.asked: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.manners: Counter[str] = Counter()
        self.waits: list[float] = []  # seconds
        self.blocked_waits: list[float] = []  # of names that are blocked themselves, over UDP: no upstream matters
        self.answers = 0
        self.unread = 0  # answers that clients did not wait for
        self.wrong = 0
        self.let_through = 0
        self._seed = seed
        self._judge = judge

    @property
    def is_over(self) -> bool:
        """Whether to end before the time."""
        return self.wrong >= MOST_WRONG

    def take(self, asked: Question, octets: bytes) -> None:
        """Take the answer to a question."""
        self.answers += 1
        waited = time.time() - asked.sent
        found = self._judge.find(asked, octets)
        self.waits.append(waited)
        if found.verdict == "blocked" and not asked.is_tcp and asked.kind != NEW_AT_LIMIT:
            self.blocked_waits.append(waited)
        self.verdicts[found.verdict] += 1
        self.let_through += found.is_let_through
        if found.wrong:
            self.report(asked, octets, found)

    def miss(self, asked: Question) -> None:
        """Note that no answer came; this is wrong for all but what is no query."""
        if asked.is_answered:
            waited = time.time() - asked.sent
            self.report(asked, b"", Finding("unanswered", f"no answer in {waited:.1f} s", "an answer or SERVFAIL"))
        self.verdicts["unanswered" if asked.is_answered else "silence, rightly"] += 1

    def report(self, asked: Question | None, octets: bytes, found: Finding) -> None:
        """Tell of a mismatch, with all that is needed to see it again."""
        self.wrong += 1
        print(f"MISMATCH {self.wrong} (seed {self._seed}), {time.time():.3f}: {found.wrong}")
        if asked is not None:
            print(f"  query     {asked}, {asked.ident:#06x}, sent {asked.sent:.3f}\n            {asked.octets.hex()}")
        print(f"  expected  {found.expected}\n  answer    {octets.hex() or 'none'}")
        with contextlib.suppress(Exception):  # whatever is wrong with it, the octets are told
            for line in str(dns_message(octets)).splitlines():
                print(f"            {line}")
        sys.stdout.flush()


def dns_message(octets: bytes) -> object:
    """A message to be printed."""
    import dns.message

    return dns.message.from_wire(octets)


class UdpClient(asyncio.DatagramProtocol):
    """One address that asks over UDP; ids are used in turn, so that a second answer shows."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._waiting: dict[int, Question] = {}
        self._last = 0
        self._transport: asyncio.DatagramTransport

    @classmethod
    async def open(cls, source: str, server: Address, tally: Tally) -> "UdpClient":
        """Open the socket."""
        client = cls(tally)
        made = socket.socket(type=socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        made.bind((source, 0))
        made.connect(server)
        made.setblocking(False)
        loop = asyncio.get_running_loop()
        client._transport, _ = await loop.create_datagram_endpoint(lambda: client, sock=made)
        return client

    def __len__(self) -> int:
        return len(self._waiting)

    def ask(self, question: Question) -> None:
        """Send a question."""
        self._last = (self._last + 1) % 65_536
        octets = question.with_id(self._last)
        question.sent = time.time()
        self._waiting[self._last] = question
        self._tally.asked[question.kind] += 1
        self._transport.sendto(octets)

    def datagram_received(self, data: bytes, addr: Address) -> None:  # noqa: ARG002
        """Take an answer."""
        asked = self._waiting.pop(int.from_bytes(data[:2], "big"), None)
        if asked is None:
            self._tally.answers += 1
            self._tally.report(None, data, Finding("twice", "a second answer, or one to nothing", "one answer"))
        else:
            self._tally.take(asked, data)

    def sweep(self) -> None:
        """Give up what has been waited for too long."""
        limit = time.time() - PATIENCE_S
        for ident, asked in list(self._waiting.items()):
            if asked.sent > limit:
                break
            del self._waiting[ident]
            self._tally.miss(asked)

    def close(self) -> None:
        """Close the socket."""
        self._transport.close()


class Clients:
    """All of them, at a bounded rate."""

    def __init__(self, rng: random.Random, server: Address, tally: Tally, limits: dict[str, float]) -> None:
        """limits: for kinds of clients the moment, by the wall clock, at which their exemption starts or ends."""
        self._limits = limits
        self._at_limits: dict[str, Question] = {}
        self._at_limit_count = 0
        self._rng = rng
        self._server = server
        self._tally = tally
        self._questions = Questions(rng)
        self._udp: dict[str, UdpClient] = {}
        self._conversations: set[asyncio.Task[None]] = set()
        self._manners: tuple[Manner, ...] = (self._pipelined, self._slow, self._in_pieces, self._dropped, self._broken)

    async def open(self) -> None:
        """Open the UDP sockets."""
        for sources in CLIENTS.values():
            for source in sources:
                self._udp[source] = await UdpClient.open(source, self._server, self._tally)

    async def ask(self, rate: float, seconds: float) -> None:
        """Ask for so long, then wait until all is answered."""
        begun = time.monotonic()
        sent = 0.0
        while (now := time.monotonic()) < begun + seconds and not self._tally.is_over:
            due = min((now - begun) * rate - sent, rate / 4)  # after a stall not all at once
            sent = (now - begun) * rate
            for _ in range(int(due)):
                if self._rng.random() < 0.02 and len(self._conversations) < CONVERSATIONS:
                    self._converse()
                else:
                    question = self._questions.next()
                    self._udp[question.client].ask(question)
            sent -= due - int(due)
            self._ask_at_limits()
            for client in self._udp.values():
                client.sweep()
            await asyncio.sleep(0.01)
        while any(map(len, self._udp.values())) or self._conversations:
            for client in self._udp.values():
                client.sweep()
            await asyncio.sleep(0.05)

    def _ask_at_limits(self) -> None:
        """Around the moment at which an exemption starts or ends: one question, over and over, and new ones."""
        for kind, limit in self._limits.items():
            if abs(time.time() - limit) < AROUND_LIMIT_S:
                asked = self._at_limits.get(kind)
                if asked is None:
                    source = CLIENTS[kind][0]
                    asked = self._questions.ask("at a limit", source, world.listed(3), world.A, is_tcp=False)
                    self._at_limits[kind] = asked
                self._udp[asked.client].ask(replace(asked))
                self._at_limit_count += 1
                name = (b"y%d" % self._at_limit_count, *world.listed(4))
                self._udp[asked.client].ask(
                    self._questions.ask(NEW_AT_LIMIT, asked.client, name, world.A, is_tcp=False)
                )

    def close(self) -> None:
        """Close the UDP sockets."""
        for client in self._udp.values():
            client.close()

    # ---- TCP ----

    def _converse(self) -> None:
        manner = self._rng.choices(self._manners, (10, 2, 3, 2, 2))[0]
        self._tally.manners[MANNERS[self._manners.index(manner)]] += 1
        task = asyncio.get_running_loop().create_task(self._guarded(manner))
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)

    async def _guarded(self, manner: Manner) -> None:
        source = self._questions.client()
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096 if manner == self._slow else 1 << 20)
        made.bind((source, 0))
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, self._server)
        reader, writer = await asyncio.open_connection(sock=made)
        try:
            await manner(source, reader, writer)
        finally:
            writer.transport.abort()
            made.close()

    def _draw(self, source: str, most: int) -> dict[int, Question]:
        """Some questions of one client, by id."""
        idents = self._rng.sample(range(65_536), self._rng.randrange(1, most + 1))
        found = {}
        for ident in idents:
            question = self._questions.next(source, is_tcp=True)
            question.ident = ident
            self._tally.asked[question.kind] += 1
            found[ident] = question
        return found

    async def _pipelined(self, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Many questions at once; answers in any order."""
        waiting = self._draw(source, 20)
        writer.write(b"".join(map(_framed, waiting.values())))
        await self._read(reader, waiting)

    async def _slow(self, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Questions for long answers, which are read late."""
        waiting = self._draw(source, 20)
        for ident in list(waiting)[::2]:
            name = (b"b%d" % self._rng.choice((4_000, 20_000)), *world.BIG)
            waiting[ident] = self._questions.ask("huge", source, name, world.TXT, is_tcp=True)
            waiting[ident].ident = ident
        for question in waiting.values():
            question.is_read_late = True
        writer.write(b"".join(map(_framed, waiting.values())))
        await asyncio.sleep(self._rng.uniform(0.5, 2))
        await self._read(reader, waiting)

    async def _in_pieces(self, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Messages that come in pieces."""
        waiting = self._draw(source, 3)
        octets = b"".join(map(_framed, waiting.values()))
        cut = self._rng.randrange(1, len(octets))
        writer.write(octets[:cut])
        await asyncio.sleep(self._rng.uniform(0.01, 0.5))
        writer.write(octets[cut:])
        await self._read(reader, waiting)

    async def _dropped(self, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG002
        """Questions whose answers nobody waits for, and half a message behind them."""
        waiting = self._draw(source, 10)
        self._tally.unread += len(waiting)
        writer.write(b"".join(map(_framed, waiting.values())) + b"\0\x20\1\2\3")
        await asyncio.sleep(self._rng.choice((0, 0, 0.05, 0.5)))

    async def _broken(self, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG002
        """What is no DNS at all; whatever comes back is read and forgotten."""
        octets = self._rng.choice((b"GET / HTTP/1.1\r\n\r\n", b"\0\0", b"\x16\3\1\0", self._rng.randbytes(200)))
        writer.write(octets)
        self._tally.unread += len(octets) // 14  # no message that is answered is shorter
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(0.5):
                await reader.read(65_536)

    async def _read(self, reader: asyncio.StreamReader, waiting: dict[int, Question]) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE_S):
                while waiting:
                    octets = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                    asked = waiting.pop(int.from_bytes(octets[:2], "big"), None)
                    if asked is None:
                        self._tally.answers += 1
                        found = Finding("twice", "a second answer, or one to nothing", "one answer")
                        self._tally.report(None, octets, found)
                    else:
                        self._tally.take(asked, octets)
        for asked in waiting.values():
            self._tally.miss(asked)


def _framed(question: Question) -> bytes:
    question.sent = time.time()
    octets = question.with_id(question.ident)
    return len(octets).to_bytes(2, "big") + octets
