"""Scripted upstreams that tell the truth, but for faults: two in a row for most names, one for the zones of `forward`.

Each fault is noted, with its question or its time: what a client does not get has to be explained by one of them.
"""

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections import Counter, deque
from functools import lru_cache

from soaking import world
from soaking.world import KEPT_FOR_BLOCKED, Name, Record, Truth, wire_of

EXPLAINS_S = 12.0  # a failure of one question may be told again for so long
STALL_S = 0.25
DOWN_S = 16.0  # an upstream that is back may count as down for so long; an answer ends it
EXPLAINS_ALL_S = 6.0  # what was asked while nobody answered ends so long after
UNHARMFUL = ("delay", "twice", "stray", "truncated", "forged first", "drip")  # a right answer has to come all the same
HARMFUL = ("loss", "wrong id", "wrong question", "cut", "counts", "trailing", "servfail", "refused", "random")
TCP_FAULTS = ("close", "half", "empty", "silence")
HOLDING = "127.0.0.253"  # has the same ports bound, so that the kernel gives them to nobody while ours are closed

Question = tuple[Name, int]


def _read(octets: bytes) -> tuple[Name, int, bytes] | None:
    """Name, type and question of a query as a forwarder ought to send it; None for any other."""
    if (
        len(octets) < 17
        or octets[2:4] not in (b"\1\0", b"\1\x10", b"\1\x20", b"\1\x30")
        or octets[4:10] != b"\0\1\0\0\0\0"
    ):
        return None
    at, labels = 12, []
    while at < len(octets) and octets[at]:
        labels.append(octets[at + 1 : at + 1 + octets[at]].lower())
        at += octets[at] + 1
    rest, has_opt = octets[at + 5 :], octets[11] == 1
    if len(rest) != (11 if has_opt else 0) or (has_opt and (rest[:3] != b"\0\0\x29" or rest[9:] != b"\0\0")):
        return None
    return tuple(labels), int.from_bytes(octets[at + 1 : at + 3], "big"), octets[12 : at + 5]


@lru_cache(maxsize=2_048)
def body(name: Name, rtype: int) -> tuple[bytes, int]:
    """Everything behind the question, its counts in front, and the rcode."""
    return written(world.truth(name, rtype), name)


def written(truth: Truth, name: Name) -> tuple[bytes, int]:
    """A truth as octets; owners that are the qname are compressed."""
    sections = (truth.answer, truth.authority, truth.additional)
    counts = b"".join(len(section).to_bytes(2, "big") for section in sections)
    records = (_octets(record, name) for section in sections for record in section)
    return counts + b"".join(records), truth.rcode


def _octets(record: Record, name: Name) -> bytes:
    owner = b"\xc0\x0c" if record.owner == name else wire_of(record.owner)
    return owner + struct.pack("!HHIH", record.rtype, 1, record.ttl, len(record.rdata)) + record.rdata


def size_of(name: Name, rtype: int) -> int:
    """The octets of a whole response with OPT, no name in it compressed: as long as it may ever be."""
    truth = world.truth(name, rtype)
    records = (*truth.answer, *truth.authority, *truth.additional)
    return 12 + len(wire_of(name)) + 4 + 11 + sum(len(wire_of(each.owner)) + 10 + len(each.rdata) for each in records)


class Weather:
    """The faults: which, how often, and when there were some."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.rates = dict.fromkeys(range(3), 0.02)  # of all answers, by upstream
        self.silent: set[int] = set()
        self.slow_s = 0.0  # how late every answer over UDP is
        self.only: dict[int, str] = {}  # by upstream: the fault that all of its answers have
        self.by_kind: Counter[str] = Counter()
        self._questions: dict[Question, float] = {}
        self._stalled_at = 0.0
        self._ticked_at = time.time()
        self._spells: deque[list[float]] = deque(maxlen=1_000)  # start and end
        self._troubles: deque[list[float]] = deque(maxlen=1_000)  # likewise

    def note(self, kind: str, question: Question) -> None:
        """Remember that a question met a fault."""
        self.by_kind[kind] += 1
        if kind not in UNHARMFUL:
            if len(self._questions) > 20_000:
                limit = time.time() - EXPLAINS_S
                self._questions = {each: at for each, at in self._questions.items() if at > limit}
            self._questions[question] = time.time()

    def begin(self) -> list[float]:
        """A time begins in which everything may fail; set its end."""
        spell = [time.time(), float("inf")]
        self._spells.append(spell)
        return spell

    def tick(self) -> None:
        """Note that this process runs; to be called all the time. Where it stood still, upstreams and clients did."""
        now = time.time()
        if now - self._ticked_at > STALL_S:
            self.by_kind["stall of the machine"] += 1
            self._stalled_at = now
            self._spells.append([self._ticked_at, now])
        self._ticked_at = now

    def has_stalled(self, since: float) -> bool:
        """Whether this process has stood still since a moment."""
        self.tick()
        return self._stalled_at >= since

    def trouble(self) -> list[float]:
        """A time begins in which an upstream may come to count as down; set its end."""
        spell = [time.time(), float("inf")]
        self._troubles.append(spell)
        return spell

    def may_be_down(self, sent: float, received: float) -> bool:
        """Whether the upstreams may have counted as down, one after the other: then stale answers come at once."""
        return any(start <= received and sent <= end + DOWN_S for start, end in self._troubles)

    def explains(self, question: Question, sent: float, received: float) -> bool:
        """Whether there was a fault that a question may have failed by."""
        self.tick()
        if self._questions.get(question, 0.0) > sent - EXPLAINS_S:
            return True
        return any(start <= received and sent <= end + EXPLAINS_ALL_S for start, end in self._spells)


class Upstream(asyncio.DatagramProtocol):
    """One of them: a port for UDP and TCP that can be closed and opened again."""

    def __init__(self, number: int, weather: Weather, started: float) -> None:
        self.number = number
        self.weather = weather
        self.port = 0
        self.queries = 0
        self.unclean: list[str] = []  # queries that ought not to have come
        self._started = started
        self._udp: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._streams: set[asyncio.StreamWriter] = set()
        self._held: list[socket.socket] = []

    @property
    def where(self) -> str:
        """Its address as a configuration has it."""
        return f"127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Take the port, the same one as before."""
        loop = asyncio.get_running_loop()
        for _ in range(50):
            stream, datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            datagram.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            try:
                datagram.bind(("127.0.0.1", self.port))
                stream.bind(datagram.getsockname())
                break
            except OSError:
                stream.close()
                datagram.close()
                await asyncio.sleep(0.1)
        else:
            raise AssertionError(f"port {self.port} is not free")
        self.port = datagram.getsockname()[1]
        self._hold()
        datagram.setblocking(False)
        self._udp, _ = await loop.create_datagram_endpoint(lambda: self, sock=datagram)
        self._server = await asyncio.start_server(self._connected, sock=stream, backlog=256)

    def _hold(self) -> None:
        for kind in () if self._held else (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = socket.socket(type=kind)
            self._held.append(sock)
            with contextlib.suppress(OSError):
                sock.bind((HOLDING, self.port))

    async def close(self) -> None:
        """Give the port up: what comes now is refused."""
        if self._udp is not None and self._server is not None:
            self._udp.abort()
            self._server.close()
            for stream in list(self._streams):
                stream.close()
        await asyncio.sleep(0)

    # ---- answers ----

    def _answer(self, octets: bytes, *, by_tcp: bool) -> tuple[bytes, Question] | None:
        read = _read(octets)
        self.queries += 1
        if read is None:
            self.unclean.append(octets.hex())
            return None
        name, rtype, question = read
        if any(name[at:] in KEPT_FOR_BLOCKED for at in range(len(name))):
            self.unclean.append(f"a listed name that only blocked clients ask for: {world.text_of(name)}")
        if (self.number == 2) is not any(world.is_below(name, zone) for zone in world.FORWARDED):
            self.unclean.append(f"a name of another zone's upstream: {world.text_of(name)}")
        rest, rcode = self._clock(name) if world.is_below(name, world.CLOCK) and rtype == world.A else body(name, rtype)
        flags = bytes((0x81, 0x80 | octets[3] & 0x10 | rcode))
        opt = b"\0\0\x29\x04\xd0" + bytes(6) if octets[11] else b""
        if opt:
            rest = rest[:4] + (int.from_bytes(rest[4:6], "big") + 1).to_bytes(2, "big") + rest[6:]
        whole = octets[:2] + flags + b"\0\1" + rest[:6] + question + rest[6:] + opt
        if not by_tcp and len(whole) > (1_232 if opt else 512):
            whole = octets[:2] + b"\x83" + flags[1:] + b"\0\1" + bytes(6) + question
        return whole, (name, rtype)

    def _clock(self, name: Name) -> tuple[bytes, int]:
        seconds = int(time.time() + self.weather.slow_s - self._started) & 0xFFFF
        record = Record(name, world.A, clock_ttl(name), b"\xc0\0" + seconds.to_bytes(2, "big"))
        return written(Truth(answer=(record,)), name)

    def _fault(self, *, by_tcp: bool) -> str:
        rng = self.weather.rng
        if self.number in self.weather.silent:
            return "loss"
        if not by_tcp and (only := self.weather.only.get(self.number)):
            return only
        if rng.random() >= self.weather.rates[self.number]:
            return ""
        return rng.choice((*TCP_FAULTS, "drip") if by_tcp else (*HARMFUL, *UNHARMFUL[:-1]))

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer, or do something else."""
        found = self._answer(data, by_tcp=False)
        if found is None or self._udp is None:
            return
        whole, question = found
        kind = self._fault(by_tcp=False)
        delay = self.weather.slow_s
        if kind:
            self.weather.note(kind, question)
            rng = self.weather.rng
            delay += {"delay": rng.uniform(0.05, 0.4), "forged first": 0.03}.get(kind, 0.0)
            for each in spoilt(whole, kind, rng):
                self._udp.sendto(each, addr)
            if kind not in ("delay", "forged first"):
                return
        if delay:
            asyncio.get_running_loop().call_later(delay, self._send_late, whole, addr)
        else:
            self._udp.sendto(whole, addr)

    def _send_late(self, octets: bytes, addr: tuple[str, int]) -> None:
        if self._udp is not None and not self._udp.is_closing():
            self._udp.sendto(octets, addr)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams.add(writer)
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(2), "big")
                found = self._answer(await reader.readexactly(length), by_tcp=True)
                if found is None or not await self._by_tcp(*found, writer):
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._streams.discard(writer)
            writer.close()

    async def _by_tcp(self, whole: bytes, question: Question, writer: asyncio.StreamWriter) -> bool:
        kind = self._fault(by_tcp=True)
        if kind:
            self.weather.note(f"tcp {kind}" if kind != "drip" else kind, question)
        framed = len(whole).to_bytes(2, "big") + whole
        match kind:
            case "close":
                return False
            case "half":
                writer.write(framed[: len(framed) // 2])
                return False
            case "empty":
                writer.write(b"\0\0")
            case "silence" | "loss":
                await asyncio.sleep(1)
            case "drip":
                for at in range(0, len(framed), max(1, len(framed) // 5)):
                    writer.write(framed[at : at + max(1, len(framed) // 5)])
                    await asyncio.sleep(0.01)
            case _:
                writer.write(framed)
        with contextlib.suppress(OSError):
            await writer.drain()
        return True


def clock_ttl(name: Name) -> int:
    """1 to 3 seconds."""
    return world.hashed(name) % 3 + 1


def spoilt(whole: bytes, kind: str, rng: random.Random) -> list[bytes]:
    """The datagrams that a fault makes of a right answer; the answer itself comes later for some."""
    question_end = whole.index(b"\0", 12) + 5
    other_id = bytes((whole[0] ^ rng.randrange(1, 256), whole[1]))
    spoilt_name = whole[:13] + bytes([whole[13] ^ 1]) + whole[14:]
    match kind:
        case "wrong id" | "forged first":
            return [other_id + whole[2:]]
        case "wrong question":
            return [spoilt_name]
        case "cut":
            return [whole[: rng.randrange(12, len(whole) - 1)]]
        case "counts":
            return [whole[:6] + b"\xff\xff" + whole[8:]]
        case "trailing":
            return [whole + b"\0"]
        case "servfail" | "refused":
            code = 2 if kind == "servfail" else 5
            return [whole[:3] + bytes([whole[3] & 0xF0 | code]) + b"\0\1" + bytes(6) + whole[12:question_end]]
        case "random":
            return [whole[:2] + rng.randbytes(rng.randrange(0, 300))]
        case "truncated":
            return [whole[:2] + bytes([whole[2] | 2]) + whole[3:6] + bytes(6) + whole[12:question_end]]
        case "twice":
            return [whole, whole]
        case "stray":
            return [_with_stray(whole, question_end)]
    return []


def _with_stray(whole: bytes, question_end: int) -> bytes:
    """The answer, with a record in front whose owner nothing leads to and whose address is a banned one."""
    record = (
        wire_of(world.name_of("stray.example")) + struct.pack("!HHIH", 1, 1, 60, 4) + world.BANNED_DATA[0] + b"\x42"
    )
    count = int.from_bytes(whole[6:8], "big") + 1
    if whole[2] & 2:
        return whole
    return whole[:6] + count.to_bytes(2, "big") + whole[8:question_end] + record + whole[question_end:]
