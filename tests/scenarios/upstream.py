"""A scripted upstream: UDP and TCP on one loopback port, in a thread of its own.

What it answers is said by name: records, octets, or a function of the question
that returns what to send, when and from where. A name that nothing was said of
gets an address made from the name. Every query is kept octet for octet.
"""

import asyncio
import contextlib
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rrset

from tests.scenarios.client import NOERROR, Address, question_of, text_of, type_code

RECEIVE_BUFFER = 4 << 20
LOOKS_FOR_LOOPS = re.compile(r"[0-9a-f]{12}\.")  # what each upstream is asked at start
HOLDING = "127.0.0.253"  # has the same UDP port bound, so that the kernel gives it to nobody while ours is closed


@dataclass(frozen=True, slots=True)
class Asked:
    """One message that came to the upstream."""

    octets: bytes
    transport: Literal["udp", "tcp"]
    source: Address
    at: float = field(default_factory=time.monotonic)
    name: str = field(init=False)  # the qname in lower case, with its final dot; empty if it cannot be read

    def __post_init__(self) -> None:
        try:
            name = text_of(self.question[:-4])
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is no name
            name = ""
        object.__setattr__(self, "name", name)

    @property
    def ident(self) -> int:
        """The id."""
        return int.from_bytes(self.octets[:2], "big")

    @property
    def flags(self) -> int:
        """The 16 bits of flags, opcode and rcode."""
        return int.from_bytes(self.octets[2:4], "big")

    @property
    def question(self) -> bytes:
        """The question's octets."""
        return question_of(self.octets)

    @property
    def rdtype(self) -> int:
        """The qtype."""
        return int.from_bytes(self.question[-4:-2], "big")

    @property
    def message(self) -> dns.message.Message:
        """The query, read strictly."""
        return dns.message.from_wire(self.octets)

    @property
    def size(self) -> int:
        """How many octets the asker takes over this transport."""
        if self.transport == "tcp":
            return 65535
        message = self.message
        return max(512, message.payload) if message.edns >= 0 else 512


@dataclass(frozen=True, slots=True)
class Send:
    """A message to send, as it is."""

    octets: bytes
    after_s: float = 0.0
    elsewhere: bool = False  # over UDP: from another port of the same address
    to: Address | None = None  # over UDP: to another port than the one that asked


@dataclass(frozen=True, slots=True)
class Raw:
    """Octets for a TCP connection, without a length prefix."""

    octets: bytes
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a TCP connection."""

    after_s: float = 0.0


Action = Send | Raw | Close
SILENCE: tuple[Action, ...] = ()
Said = bytes | Sequence[Action]
Handler = Callable[[Asked], Said]


def record(text: str) -> dns.rrset.RRset:
    """A record from "owner ttl class type rdata"; names need no final dot."""
    owner, ttl, rdclass, rdtype, words = text.split(None, 4)
    rdata = dns.rdata.from_text(rdclass, rdtype, words, origin=dns.name.root, relativize=False)
    return dns.rrset.from_rdata(dns.name.from_text(owner), int(ttl), rdata)


def reply(
    asked: Asked,
    *answer: str,
    authority: Sequence[str] = (),
    additional: Sequence[str] = (),
    rcode: int = NOERROR,
    flags: int = 0,
    options: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """Answer the question with these records, in this order, and OPT if asked with one. flags: further header bits."""
    message = dns.message.make_response(asked.message, recursion_available=True, our_payload=1232)
    message.set_rcode(dns.rcode.Rcode.make(rcode))
    message.flags |= dns.flags.Flag(flags)
    message.answer = [record(text) for text in answer]
    message.authority = [record(text) for text in authority]
    message.additional = [record(text) for text in additional]
    if options and message.edns >= 0:
        message.use_edns(
            0,
            message.ednsflags,
            1232,
            options=[dns.edns.GenericOption(dns.edns.OptionType.make(code), v) for code, v in options],
        )
    return message.to_wire(max_size=65535)


def nodata(asked: Asked) -> bytes:
    """NODATA with a SOA for the zone `example`."""
    return reply(asked, authority=["example. 300 IN SOA ns.example. host.example. 1 3600 600 86400 300"])


def address_of(name: str) -> str:
    """The IPv4 address that a name has here unless something else was said (RFC 2544 range)."""
    number = zlib.crc32(name.lower().rstrip(".").encode()) & 0x1FFFF
    return f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def address6_of(name: str) -> str:
    """The IPv6 address that a name has here unless something else was said."""
    return f"2001:db8::{zlib.crc32(name.lower().rstrip('.').encode()) & 0xFFFF or 1:x}"


def default(asked: Asked) -> bytes:
    """An address made from the name for A and AAAA, NODATA for other types."""
    if asked.rdtype == 1:
        rdata = socket.inet_aton(address_of(asked.name))
    elif asked.rdtype == 28:
        rdata = socket.inet_pton(socket.AF_INET6, address6_of(asked.name))
    else:
        return nodata(asked)
    opt = asked.octets[12 + len(asked.question) :][:1] == b"\0"  # what stands behind the question of a proper query
    header = asked.octets[:2] + struct.pack("!5H", 0x8180 | asked.flags & 0x0110, 1, 1, 0, int(opt))
    answer = struct.pack("!HHHIH", 0xC00C, asked.rdtype, 1, 300, len(rdata)) + rdata
    return header + asked.question + answer + (b"\0\0\x29\x04\xd0\0\0\0\0\0\0" if opt else b"")


def truncated(asked: Asked) -> bytes:
    """A response with TC and nothing but the question."""
    return reply(asked, flags=dns.flags.TC)


def heavy_names(*, tcp: bool) -> Callable[[Asked], bytes]:
    """Answer with many long compressed names: 1,200 octets over UDP; with `tcp` far more, over TCP alone."""

    def heavy(asked: Asked) -> bytes:
        if asked.transport == "udp" and tcp:
            return truncated(asked)
        count = 4000 if tcp else 80
        header = struct.pack("!6H", asked.ident, 0x8180, 1, 1 + count, 0, 0)
        long = b"".join(b"\x01" + bytes([97 + n % 26]) for n in range(110)) + b"\xc0\x0c"
        base = 12 + len(asked.question) + 12
        first = struct.pack("!HHHIH", 0xC00C, 2, 1, 300, len(long)) + long
        rest = b"".join(
            struct.pack("!HHHIHH", 0xC00C, 2, 1, 300, 2, 0xC000 | base + 2 * (n % 100)) for n in range(count)
        )
        return header + asked.question + first + rest

    return heavy


def address_for(asked: Asked) -> bytes:
    """192.0.2.80 for the name asked: what a test takes for the right answer."""
    return reply(asked, f"{asked.name} 300 IN A 192.0.2.80")


def is_below(name: str, zone: str) -> bool:
    """Whether a name is below a zone, both as text with final dots: a dot within a label is no boundary."""
    rest = name.removesuffix("." + zone)
    return rest != name and (len(rest) - len(rest.rstrip("\\"))) % 2 == 0


class Upstream(asyncio.DatagramProtocol):
    """The upstream. Use it as a context manager; `on` may be called at any time."""

    def __init__(self) -> None:
        self.address: Address = ("127.0.0.1", 0)
        self.seen: list[Asked] = []
        self.connections = 0  # TCP connections accepted
        self.errors: list[BaseException] = []  # of handlers: a broken script is a broken test
        self._by_name: dict[str, list[Asked]] = {}
        self._handlers: dict[tuple[str, int | None], Handler] = {}
        self._any: Handler = default
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)
        self._udp: asyncio.DatagramTransport | None = None
        self._other: socket.socket | None = None
        self._held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._held.close()
        if kind is None:
            assert not self.errors, self.errors

    # what it says

    def on(self, name: str, said: Handler | Said | str | Sequence[str], rdtype: str | int | None = None) -> None:
        """Say what is answered to a name, of one type or of all.

        said: a function of the question, octets, actions, or records as text.
        """
        key = name.lower().rstrip(".") + ".", None if rdtype is None else type_code(rdtype)
        self._handlers[key] = _handler(said)

    def otherwise(self, said: Handler | Said) -> None:
        """Say what is answered to every name that nothing was said of."""
        self._any = _handler(said)

    # what it heard

    def queries(self, name: str | None = None, *, below: bool = False) -> list[Asked]:
        """The queries so far, or those for a name (and names below it). All: but those that look for loops."""
        if name is None:
            return [each for each in self.seen if not LOOKS_FOR_LOOPS.match(each.name)]
        name = name.lower().rstrip(".") + "."
        found = list(self._by_name.get(name, ()))
        if below:
            for key, asked in list(self._by_name.items()):
                found += asked if is_below(key, name) else []
        return found

    def wait(self, name: str, count: int = 1, timeout_s: float = 5.0) -> list[Asked]:
        """Wait until so many queries for a name have come, and return them."""
        with self._news:
            enough = self._news.wait_for(lambda: len(self.queries(name)) >= count, timeout_s)
        assert enough, f"{len(self.queries(name))} of {count} queries for {name} came"
        return self.queries(name)

    # life

    def start(self) -> None:
        """Open the port; after `stop` the same one again."""
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def stop(self) -> None:
        """Close the port: what comes now is refused."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)

    async def _start(self) -> None:
        for _ in range(50):
            stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagram.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            try:
                datagram.bind(self.address)
                stream.bind(datagram.getsockname())
            except OSError:
                stream.close()
                datagram.close()
                continue
            break
        else:
            raise AssertionError("no port is free for UDP and TCP")
        self.address = datagram.getsockname()
        if not self._held.getsockname()[1]:
            with contextlib.suppress(OSError):
                self._held.bind((HOLDING, self.address[1]))
        self._other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._other.bind((self.address[0], 0))
        datagram.setblocking(False)
        self._udp, _ = await self._loop.create_datagram_endpoint(lambda: self, sock=datagram)
        self._server = await asyncio.start_server(self._connected, sock=stream, backlog=256)

    async def _stop(self) -> None:
        if self._udp is not None:
            self._udp.abort()
        if self._other is not None:
            self._other.close()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    # UDP

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Note a datagram and do what was said."""
        asked = Asked(data, "udp", addr)
        for action in self._ask(asked):
            if isinstance(action, Send):
                self._later(action.after_s, self._datagram, action, action.to or addr)

    def _datagram(self, action: Send, client: Address) -> None:
        sender = self._other if action.elsewhere else self._udp
        with contextlib.suppress(OSError):
            if sender is not None:
                sender.sendto(action.octets, client)

    def _later(self, after_s: float, call: Callable[[Send, Address], None], action: Send, client: Address) -> None:
        if after_s:
            self._loop.call_later(after_s, call, action, client)
        else:
            call(action, client)

    # TCP

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            source = writer.get_extra_info("peername")
            while True:
                length = int.from_bytes(await reader.readexactly(2), "big")
                asked = Asked(await reader.readexactly(length), "tcp", source)
                for action in self._ask(asked):
                    self._spawn(action, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    def _spawn(self, action: Action, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._stream(action, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stream(self, action: Action, writer: asyncio.StreamWriter) -> None:
        if action.after_s:
            await asyncio.sleep(action.after_s)
        if isinstance(action, Close):
            writer.close()
        elif not writer.is_closing():
            prefix = struct.pack("!H", len(action.octets)) if isinstance(action, Send) else b""
            with contextlib.suppress(OSError):
                writer.write(prefix + action.octets)
                await writer.drain()

    # both

    def _ask(self, asked: Asked) -> Sequence[Action]:
        with self._news:
            self.seen.append(asked)
            self._by_name.setdefault(asked.name, []).append(asked)
            self._news.notify_all()
        if len(asked.octets) < 12 or asked.flags & 0x8000:  # a response: what comes of a forged source
            return SILENCE
        try:
            name = asked.name
            handler = self._handlers.get((name, asked.rdtype)) or self._handlers.get((name, None)) or self._any
            said = handler(asked)
            if isinstance(said, bytes):
                said = [Send(said if len(said) <= asked.size else truncated(asked))]
        except Exception as error:  # noqa: BLE001 - reported when the upstream ends
            self.errors.append(error)
            return SILENCE
        return said


def _handler(said: Handler | Said | str | Sequence[str]) -> Handler:
    if callable(said):
        return said
    if isinstance(said, str):
        return lambda asked: reply(asked, said)
    if isinstance(said, bytes):
        return lambda _: said
    texts = [part for part in said if isinstance(part, str)]
    if texts:
        return lambda asked: reply(asked, *texts)
    actions = [part for part in said if not isinstance(part, str)]
    return lambda _: actions
