"""The UDP side of the pure engine: sockets, batches, and whole answers used again within a second. Decides nothing.

asyncio's own datagram transport allocates 256 KiB for every datagram and hands over one a
wake-up, which costs five times as much: so the sockets are read here, with a small buffer.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from dnsfilter.core.clients import ClientRow
from dnsfilter.core.limits import RateLimit
from dnsfilter.core.suspicion import Suspicion
from dnsfilter.engine.express import Express
from dnsfilter.engine.interface import (
    PROBE_OUTCOME,
    Again,
    Answered,
    Clock,
    Dropped,
    Forward,
    Joined,
    Reply,
    Reuse,
    Transport,
)
from dnsfilter.engine.tally import NO_SIGN, Tally

DATAGRAM = 1_500  # octets read; a query that is longer is none
BATCH = 128  # datagrams a wake-up, so that timers and streams get their turn
ANCILLARY = socket.CMSG_SPACE(20)  # holds in_pktinfo and in6_pktinfo
IP_PKTINFO = 8  # Linux; Python 3.11 does not name it
_PKTINFO = struct.Struct("=I4s4s")

REUSED = 20_000  # whole answers kept within a second
REUSED_OCTETS = 8 * 2**20
LASTING = 10_000  # those of them that the next second begins with
LASTING_OCTETS = 2 * 2**20

Peer = tuple[Any, ...]  # as the socket module gives it
Taken = tuple[bytes, int, Again | None]  # an answer without its id, the number of its outcome, how to give it later


class Memo(dict[bytes, Taken]):
    """The answers of this second to all clients of one row, by the query without its id."""

    __slots__ = ("lasting", "older")

    def __init__(self) -> None:
        super().__init__()
        self.older: dict[bytes, Taken] = {}  # those of the second before
        self.lasting: dict[bytes, Taken] = {}  # those that no clock changes

    def turn(self) -> None:
        """Begin another second."""
        self.older = self.copy()
        self.clear()
        self.update(self.lasting)


@dataclass(slots=True)
class Room:
    """What is left of a bound."""

    answers: int
    octets: int

    def take(self, size: int) -> bool:
        """Take an answer's share of what is left; False where it is too much."""
        if not self.answers or self.octets < size:
            return False
        self.answers -= 1
        self.octets -= size
        return True


class Taker(Protocol):
    """What is needed of the engine."""

    tally: Tally

    def take(
        self, message: bytes, client: str, transport: Transport, now: float, wall: float, reply: Reply
    ) -> Answered | Forward | Joined | Dropped:
        """Take one message, counting nothing."""

    def take_over_limit(self, message: bytes, client: str, transport: Transport, wall: float) -> Answered | Dropped:
        """Answer one message of a client that is over its limit."""

    def row(self, client: str) -> ClientRow | None:
        """Return the client's row; None for a stranger."""


class Datagrams:
    """Reads the UDP sockets of an engine and answers on them."""

    def __init__(
        self,
        engine: Taker,
        express: Express,
        suspicion: Suspicion,
        on_forward: Callable[[Forward], None],
        now: Clock,
        wall: Clock,
    ) -> None:
        self._engine = engine
        self._tally = engine.tally
        self._express = express
        self._suspicion = suspicion
        self.limit: RateLimit | None = None
        self._on_forward = on_forward
        self._now = now
        self._wall = wall
        self._sockets: list[socket.socket] = []
        self._memos: dict[str, Memo] = {}  # by client address
        self._by_row: dict[tuple[int, bool], Memo] = {}  # by identity of the row, and IPv6: they are counted apart
        self._room, self._lasting_room = Room(REUSED, REUSED_OCTETS), Room(LASTING, LASTING_OCTETS)
        self._second: tuple[int, int] = (0, 0)
        self.has_exemptions = False  # then answers depend on the wall clock's second too

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Answer queries on these sockets, which do not block."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._sockets.append(sock)
            is_wildcard = sock.getsockname()[0] in {"0.0.0.0", "::"}
            loop.add_reader(sock.fileno(), self._read_wildcard if is_wildcard else self._read, sock)

    def stop(self) -> None:
        """Read no more."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
        self._sockets.clear()

    def forget(self) -> None:
        """Forget all answers and whose they were: another policy is in force."""
        self._memos.clear()
        self._by_row.clear()
        self._room, self._lasting_room = Room(REUSED, REUSED_OCTETS), Room(LASTING, LASTING_OCTETS)

    def _read(self, sock: socket.socket) -> None:
        """Answer up to BATCH datagrams of a socket bound to one address."""
        now, wall = self._turn()
        known, counts, recvfrom, sendto = self._memos.get, self._tally.counts, sock.recvfrom, sock.sendto
        express, limit = self._express.take, self.limit
        client: Peer = ()
        taken: Taken | None = None
        empty: dict[bytes, Taken] = {}
        forwards: list[Forward] = []
        answered = 0
        for _ in range(BATCH):
            try:
                message, client = recvfrom(DATAGRAM)
            except BlockingIOError:
                break
            except OSError:
                continue  # an error that an earlier answer met on its way
            if limit is not None and limit.is_over(client[0], now):
                taken = None
                self._take_over_limit(message, client[0], wall, partial(self.send, sock, client))
                continue
            rest = message[2:]
            taken = known(client[0], empty).get(rest)
            if taken is None:
                if express(message, client, sock, now):
                    continue
                taken = self._again(client[0], rest, now)
            if taken is None:
                taken = self._take(message, client[0], now, wall, partial(self.send, sock, client), forwards)
                if taken is None:
                    continue
                answered -= taken[1] == PROBE_OUTCOME
            octets, outcome, _again = taken
            counts[outcome] += 1
            answered += 1
            try:
                sendto(message[:2] + octets, client)
            except OSError:
                self._tally.dropped["send"] += 1
        self._end_batch(answered, now, forwards)
        self._note(client, taken, now)

    def _read_wildcard(self, sock: socket.socket) -> None:
        """The same where the answer must leave from the address that was asked.

        Asking the kernel for that address costs about a tenth more CPU per query.
        """
        now, wall = self._turn()
        client: Peer = ()
        taken: Taken | None = None
        empty: dict[bytes, Taken] = {}
        forwards: list[Forward] = []
        answered = 0
        for _ in range(BATCH):
            try:
                message, ancillary, _flags, client = sock.recvmsg(DATAGRAM, ANCILLARY)
            except BlockingIOError:
                break
            except OSError:
                continue
            source = _source(ancillary)
            if self.limit is not None and self.limit.is_over(client[0], now):
                taken = None
                self._take_over_limit(message, client[0], wall, partial(self._send_from, sock, client, source))
                continue
            rest = message[2:]
            taken = self._memos.get(client[0], empty).get(rest)
            if taken is None:
                taken = self._again(client[0], rest, now)
            if taken is None:
                reply = partial(self._send_from, sock, client, source)
                taken = self._take(message, client[0], now, wall, reply, forwards)
                if taken is None:
                    continue
            octets, outcome, _again = taken
            self._tally.counts[outcome] += 1
            answered += outcome != PROBE_OUTCOME
            self._send_from(sock, client, source, message[:2] + octets)
        self._end_batch(answered, now, forwards)
        self._note(client, taken, now)

    def _note(self, client: Peer, taken: Taken | None, now: float) -> None:
        """Let the last query of a batch tell what its client does: one by one would cost each a tenth."""
        if client:
            group, signal = NO_SIGN if taken is None else self._tally.signals[taken[1]]
            self._suspicion.note(client[0], group, signal, now)

    def _take_over_limit(self, message: bytes, client: str, wall: float, reply: Reply) -> None:
        """Have a datagram answered whose client has asked too much."""
        if len(message) >= DATAGRAM:
            self._tally.dropped["oversize"] += 1
            return
        result = self._engine.take_over_limit(message, client, Transport.UDP, wall)
        if isinstance(result, Answered):
            self._tally.count(result.outcome, 0.0)
            reply(result.octets)
        else:
            self._tally.dropped[result.reason] += 1

    def _again(self, client: str, rest: bytes, now: float) -> Taken | None:
        """Give an answer of the second before as it is now; None where there is none, or it has to be decided anew."""
        memo = self._memos.get(client)
        if memo is None or (older := memo.older.get(rest)) is None:
            return None
        _octets, outcome, again = older
        octets = again(now) if again is not None else None
        if octets is None:
            return None
        taken = octets, outcome, again
        if self._room.take(len(rest) + len(octets)):
            memo[rest] = taken
        return taken

    def _take(
        self, message: bytes, client: str, now: float, wall: float, reply: Reply, forwards: list[Forward]
    ) -> Taken | None:
        """Have a datagram decided; None where no answer is due now."""
        if len(message) >= DATAGRAM:
            self._tally.dropped["oversize"] += 1
            return None
        result = self._engine.take(message, client, Transport.UDP, now, wall, reply)
        if isinstance(result, Answered):
            taken = result.octets[2:], result.outcome, result.again
            if result.reuse:
                self._remember(client, message[2:], taken, result.reuse)
            return taken
        if isinstance(result, Forward):
            forwards.append(result)
        elif isinstance(result, Dropped):
            self._tally.dropped[result.reason] += 1
        return None

    def _end_batch(self, answered: int, since: float, forwards: list[Forward]) -> None:
        """Hand over what upstreams must be asked, back to back so that they are woken once, and take the time."""
        for forward in forwards:
            self._on_forward(forward)
        if answered:  # the batch's length is an upper bound of each query's own
            self._tally.measure(self._now() - since, answered)

    def send(self, sock: socket.socket, client: Peer, octets: bytes) -> None:
        try:
            sock.sendto(octets, client)
        except OSError:  # a full buffer, or a client that cannot be reached: the query counts as lost
            self._tally.dropped["send"] += 1

    def _send_from(
        self, sock: socket.socket, client: Peer, source: list[tuple[int, int, bytes]], octets: bytes
    ) -> None:
        try:
            sock.sendmsg([octets], source, 0, client)
        except OSError:
            self._tally.dropped["send"] += 1

    def _turn(self) -> tuple[float, float]:
        """Read the clocks for one batch; a new second ends the answers of the last one."""
        now, wall = self._now(), self._wall()
        second = (int(now), int(wall) if self.has_exemptions else 0)
        if second != self._second:
            self._second = second
            for memo in self._by_row.values():
                memo.turn()
            self._room = Room(REUSED, REUSED_OCTETS)
        return now, wall

    def _remember(self, client: str, rest: bytes, taken: Taken, reuse: Reuse) -> None:
        size = len(rest) + len(taken[0])
        is_lasting = reuse is Reuse.POLICY and self._lasting_room.take(size)
        if not is_lasting and not self._room.take(size):
            return
        memo = self._memos.get(client)
        if memo is None:
            if len(self._memos) >= REUSED:
                self._memos.clear()
            whose = id(self._engine.row(client)), ":" in client
            memo = self._memos[client] = self._by_row.setdefault(whose, Memo())
        memo[rest] = taken
        if is_lasting:
            memo.lasting[rest] = taken


def _source(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Turn the packet information received into that for the answer: from the address asked."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            _interface, local, _asked = _PKTINFO.unpack(data)
            return [(level, kind, _PKTINFO.pack(0, local, bytes(4)))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            is_link_local = data[0] == 0xFE and data[1] & 0xC0 == 0x80  # only then the interface is needed
            return [(level, kind, data if is_link_local else data[:16] + bytes(4))]
    return []
