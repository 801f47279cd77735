"""Targets: what comes from upstreams, by the short way, over connections and over HTTP/2; and who is one."""

import functools
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.svcbbase

from dnsfilter.config import upstreams
from dnsfilter.config.problems import Wrong
from dnsfilter.core.addresses import AddressRules, answer_addresses
from dnsfilter.core.cache import ChainError, Entry, from_response
from dnsfilter.core.clients import ClientRow
from dnsfilter.core.listed import look_up
from dnsfilter.core.policy import Policy
from dnsfilter.core.wire import build, response
from dnsfilter.core.wire.framing import frame
from dnsfilter.engine.interface import Answered, Completed, Forward, Transport
from dnsfilter.settings import Resolver
from dnsfilter.upstream.doh import DohPool
from dnsfilter.upstream.doh import _Connection as DohConnection
from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.stream import StreamPool
from dnsfilter.upstream.stream import _Connection as StreamConnection
from tests.core.make import name, opt, query, question, suffixes
from tests.engine.make import LIMITS, Asking, Clock, index, policy
from tests.engine.test_express import CLIENT, Short
from tests.fuzz import second
from tests.fuzz.promise import check_printable, within
from tests.fuzz.wire_targets import question_of

# The short way


@functools.cache
def _listing() -> Policy:
    banned = ClientRow("managed", enforced=1, order=((1, "apps"),), network="192.0.2.0/24")
    found = policy(
        index(suffixes("banned.example", "deep.cdn.example")),
        rows={"192.0.2.0/24": banned},
        zones={name("intra.corp.example"): 1},
    )
    return replace(found, lists=("apps",))


def short_way(octets: bytes) -> None:
    """A query, and what an upstream says to it: both ways ask the same, tell the same, keep and count the same.

    The first octet is the length of the query, the rest of it is what the upstream says, behind the right id.
    """
    size = octets[0] if octets else 0
    asked, said = octets[1 : 1 + size], octets[1 + size :]
    short, general = Short(_listing(), limits=LIMITS), Asking(_listing(), limits=LIMITS)
    short.takes(query("aaa.example"))
    before = len(short.link.sent)
    with within(0.5):
        is_taken = short.takes(asked)
    if not is_taken:
        return
    [sent] = short.link.sent[before:]
    forward = general.forward(asked, CLIENT)
    wanted = forward.name + forward.qtype.to_bytes(2, "big") + b"\0\1"
    assert sent[2:] == build.upstream_query(wanted, forward.cd, forward.do, forward.edns)
    said = sent[:2] + said[2:]
    if len(said) < 12 or not response.answers(sent[:2], wanted, said):
        assert not short.asking.engine.express.begin()(short.link.waiting[sent[:2]], said), "nobody asked for that"
        return
    with within(0.5):
        is_done = short.respond(said)
    result = general.engine.complete(forward, said, general.clock.now, general.clock.wall)
    assert isinstance(result, Completed) or not is_done
    if not isinstance(result, Completed):
        assert short.sock.told == [b"again" if isinstance(result, Forward) else b"rejected"]
        return
    assert short.sock.told == [each for _, each in result.responses]
    pending = short.asking.engine._pending
    assert pending.out.total() == (before > 0)
    _check_kept(short.asking, general, asked)


def _check_kept(short: Asking, general: Asking, asked: bytes) -> None:
    """Both have kept the same, and count the same."""
    for wait_s in (0.9, 30.0, 3_700.0):
        found = []
        for each in (short, general):
            each.clock.wait(wait_s)
            result = each.engine.step(asked, CLIENT, Transport.UDP, each.clock.now, each.clock.wall, each.sent.append)
            found.append(result.octets if isinstance(result, Answered) else type(result))
        assert found[0] == found[1], f"after {wait_s} s"
        if not isinstance(found[0], bytes):
            break
    counts = [each.engine.counters() for each in (short, general)]
    assert {key: n for key, n in counts[0].outcomes.items() if n} == {
        key: n for key, n in counts[1].outcomes.items() if n
    }
    assert counts[0].internal_errors == counts[1].internal_errors == 0


# Connections, without sockets


class Handle:
    """A callback that is due at some time."""

    def __init__(self, at: float, call: Callable[..., object], arguments: Sequence[object]) -> None:
        self.at, self._call, self._arguments = at, call, arguments
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def run(self) -> None:
        if not self.is_cancelled:
            self._call(*self._arguments)


class Loop:
    """As much of an event loop as the pools need; what fails in a callback fails the caller of `turn`."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.soon: list[Handle] = []
        self.timers: list[Handle] = []
        self.wants_connection = False

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[..., object], *arguments: object) -> Handle:
        self.soon.append(Handle(self.now, call, arguments))
        return self.soon[-1]

    def call_later(self, seconds: float, call: Callable[..., object], *arguments: object) -> Handle:
        return self.call_at(self.now + seconds, call, *arguments)

    def call_at(self, at: float, call: Callable[..., object], *arguments: object) -> Handle:
        self.timers.append(Handle(at, call, arguments))
        return self.timers[-1]

    def create_task(self, work: Any) -> "Loop":
        work.close()  # nobody connects here but `Talk.connect`
        self.wants_connection = True
        return self

    def cancel(self) -> None:
        """End the task there is."""

    def turn(self, seconds: float = 0.0) -> None:
        """Go on by some time, and run what is due."""
        self.now += seconds
        due = [each for each in self.timers if each.at <= self.now]
        self.timers = [each for each in self.timers if each.at > self.now and not each.is_cancelled]
        for each in due:
            each.run()
        for _ in range(50):
            soon, self.soon = self.soon, []
            for each in soon:
                each.run()
            if not self.soon:
                return
        raise AssertionError("never at rest")


class Wire:
    """A transport: what was written, and whether it is closed. `lost` is told at the end of a turn, as loops do."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.protocol: Any = None
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, octets: bytes) -> None:
        assert not self.is_closed, "written behind the end"
        self.written.append(octets)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._loop.call_soon(self.protocol.connection_lost, None)

    abort = close

    def get_extra_info(self, what: str) -> "Wire":
        assert what == "ssl_object"
        return self

    def selected_alpn_protocol(self) -> str:
        return "h2"


class NoTls:
    """Stands for the TLS settings of a pool that never connects."""

    def remember(self, ssl_object: object) -> None:
        """Forget it."""


@dataclass
class Talk:
    """A pool, the queries that were sent by it, and what it told of them."""

    loop: Loop = field(default_factory=Loop)
    pool: Any = None
    connection: Callable[[Any, Any], Any] = lambda _pool, _loop: None
    wires: list[Wire] = field(default_factory=list)
    asked: dict[int, bytes] = field(default_factory=dict)  # by token
    waiting: dict[int, bytes] = field(default_factory=dict)
    told: list[int] = field(default_factory=list)
    untold: int = 0  # outcomes since the last end of a batch
    answer_sends: bool = False  # as whoever goes on to the next upstream does
    answer_forgets: bool = False  # as whoever has asked several does

    def on_answer(self, token: int, octets: bytes) -> None:
        asked = self.waiting.pop(token)  # else it was told before, or forgotten
        assert response.answers(octets[:2], asked, octets)
        if self.answer_forgets:
            self.forget(token)
        self._note(token)

    def on_failed(self, token: int, reason: str) -> None:
        assert reason in ("unreachable", "tls", "tcp", "http")
        del self.waiting[token]
        self._note(token)

    def on_batch_end(self) -> None:
        self.untold = 0

    def _note(self, token: int) -> None:
        self.told.append(token)
        self.untold += 1
        if self.answer_sends and len(self.asked) < 100:
            self.send(token)

    def send(self, number: int) -> None:
        token = len(self.asked)
        wanted = self.asked[token] = self.waiting[token] = question(f"n{number % 8}.example")
        try:
            self.pool.send(build.upstream_query(wanted, False, False, True), wanted, token)
        except OSError:
            del self.waiting[token]

    def forget(self, number: int) -> None:
        """Wait for one of those no more."""
        if self.waiting:
            token = sorted(self.waiting)[number % len(self.waiting)]
            del self.waiting[token]
            self.pool.forget(token)

    def connect(self) -> None:
        """Give the pool a connection, as it wants one."""
        self.pool._connecting, self.loop.wants_connection = None, False
        wire = Wire(self.loop)
        wire.protocol = self.connection(self.pool, self.loop)
        self.wires.append(wire)
        wire.protocol.connection_made(wire)

    def act(self, act: int, octets: bytes) -> None:
        """Do one of the things that can happen. act: what, in its upper bits, and which, in its lower four."""
        number, wire = act & 15, self.wires[-1]
        kind = act >> 4
        if kind < 4:
            self.send(number)
        elif kind < 6:
            self.forget(number)
        elif kind == 6:
            self.loop.turn((0.0, 0.1, 1.0, 2.0, 11.0, 61.0)[number % 6])
        elif kind == 7:
            self._trouble(number, wire)
        elif not wire.is_closed:
            wire.protocol.data_received(octets)
        assert kind < 8 or not self.untold, "an outcome, and no end of its batch"
        if self.loop.wants_connection and kind == 6:
            self.connect()

    def _trouble(self, number: int, wire: Wire) -> None:
        if number < 4:
            wire.close()  # by the other side
        elif number < 6:
            wire.protocol.pause_writing()
        elif number < 8:
            wire.protocol.resume_writing()
        elif number < 10:
            self.answer_sends = not self.answer_sends
        elif number < 12:
            self.answer_forgets = not self.answer_forgets
        elif number == 15:
            self.wires[0].close()

    def end(self) -> None:
        """Whatever happened: with the connections gone for good, everybody has been told, and nothing is left."""
        self.answer_sends = self.answer_forgets = False
        for _ in range(12):
            self.loop.turn(61.0)
            for wire in self.wires:
                wire.close()
            self.loop.turn()
            if not self.waiting:
                break
            if self.loop.wants_connection:
                self.connect()
        assert not self.waiting, f"never told of {sorted(self.waiting)}"
        assert len(set(self.told)) == len(self.told)
        told = len(self.told)
        self.send(0)
        self.pool.close()
        self.loop.turn(61.0)
        assert len(self.told) == told, "told of after the end"


@contextmanager
def _quiet_pool(talk: Talk) -> Iterator[Talk]:
    talk.send(0)
    talk.loop.turn()
    talk.connect()
    talk.loop.turn()
    yield talk
    talk.end()


def _script(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield what happens: an octet for what, one for how many octets come in it, and these."""
    at = 0
    while at < len(octets):
        act = octets[at]
        size = octets[at + 1] if act >= 0x80 and at + 1 < len(octets) else 0
        at += 2 if act >= 0x80 else 1
        yield act, octets[at : at + size]
        at += size


def _right(talk: Talk, number: int) -> bytes:
    """The answer to one of those that are out on a connection, with its id."""
    wire = talk.wires[-1]
    ids = sorted(wire.protocol._waiting)
    if not ids:
        return b""
    id_: bytes = ids[number % len(ids)]
    query_ = wire.protocol._waiting[id_]
    asked: bytes = question("n0.example") if query_ is None else query_.question
    return id_ + b"\x81\x80\0\1\0\0\0\0\0\0" + asked


def stream(octets: bytes) -> None:
    """Whatever happens on connections, each query's outcome is told once, in its batch, and never a wrong answer.

    Acts from 0xf0 on send the right answer to one of those that wait, in front of the octets.
    """
    talk = Talk(connection=StreamConnection)
    loop: Any = talk.loop
    talk.pool = StreamPool[int]("192.0.2.53", 53, loop, talk, Hosts(()), most_waiting=20)
    with within(2.0), _quiet_pool(talk):
        for act, piece in _script(octets):
            more = frame(_right(talk, act)) if act >= 0xF0 else b""
            talk.act(act, more + piece)
            for known in talk.pool._connections:
                assert len(known) == sum(each is not None for each in known._waiting.values())


def http2(octets: bytes) -> None:
    """The same of connections that speak HTTP/2."""
    talk = Talk(connection=DohConnection)
    loop: Any = talk.loop
    tls: Any = NoTls()
    talk.pool = DohPool[int](
        "192.0.2.53", 443, "/dns-query", loop, talk, Hosts(()), tls, authority="dns.example", most_waiting=20
    )
    with within(2.0), _quiet_pool(talk):
        for act, piece in _script(octets):
            talk.act(act, piece)


# Addresses in answers

_EDGE = bytes([198, 51, 100])  # listed: 198.51.100.0/24


@functools.cache
def _addresses_listed() -> Policy:
    row = ClientRow("managed", enforced=1, order=((1, "edges"),), network="192.0.2.0/24")
    found = policy(rows={"192.0.2.0/24": row}, blocking=replace(_listing().blocking, ipv4=None, ipv6=None))
    ranges = [(ipaddress.ip_network("198.51.100.0/24"), 1), (ipaddress.ip_network("2001:db8:bad::/48"), 1)]
    return replace(found, lists=("edges",), addresses=AddressRules(ranges))


def addresses(octets: bytes) -> None:
    """All addresses that dnspython finds in an answer are judged, and no managed client is told of a listed one."""
    wanted = question_of(octets)
    if wanted is None:
        return
    qname, qtype = wanted[:-4], wanted[-4] << 8 | wanted[-3]
    try:
        entry = from_response(response.read(octets, qname), qname, qtype, 1_000.5, LIMITS)
    except (response.FormError, ChainError):
        return
    whole = octets[:4] + b"\0\1" + entry.counts + wanted + entry.body
    theirs = Counter(packed for each in second.walk(whole) for packed in _addresses_of(each))
    ours = Counter(packed for packed, _ in answer_addresses(entry))
    assert not theirs - ours, f"not seen: {theirs - ours}"
    _check_masks(entry)
    _check_told(octets, wanted)


def _addresses_of(told: second.Told) -> Iterator[bytes]:
    """The addresses of a record outside of the authority section."""
    if told.section == 1:
        return
    rdata = told.rdata
    if isinstance(rdata, dns.rdtypes.IN.A.A | dns.rdtypes.IN.AAAA.AAAA):
        yield rdata.to_wire() or b""
    elif isinstance(rdata, dns.rdtypes.svcbbase.SVCBBase):
        for key in (4, 6):
            hint: Any = rdata.params.get(cast(Any, key))
            for address in hint.addresses if hint is not None else ():
                yield ipaddress.ip_address(address).packed


def _check_masks(entry: Entry) -> None:
    found = _addresses_listed()
    look_up(entry, replace(found, generation=7))
    assert len(entry.additional_masks) == len(entry.additional) == len(entry.additional_sets)
    assert all(mask == 1 for _, mask in entry.addresses)


def _check_told(octets: bytes, wanted: bytes) -> None:
    asking = Asking(_addresses_listed(), Clock())
    for edns in (b"", opt(4_096, do=True)):
        asked = b"\x12\x34\1\0\0\1\0\0\0\0\0" + bytes([1 if edns else 0]) + wanted + edns
        for client, is_managed in (("192.0.2.9", True), ("203.0.113.9", False), ("192.0.2.9", True)):
            result = asking.engine.step(
                asked, client, Transport.TCP, asking.clock.now, asking.clock.wall, asking.sent.append
            )
            if isinstance(result, Forward):
                done = asking.engine.complete(result, octets, asking.clock.now, asking.clock.wall)
                if not isinstance(done, Completed):
                    return
                told = [answer for _, answer in done.responses]
            else:
                assert isinstance(result, Answered)
                told = [result.octets]
            for answer in told if is_managed else ():
                for each in second.walk(answer):
                    assert not any(map(_is_listed, _addresses_of(each))), f"told of in {each}"
    assert asking.engine.counters().internal_errors == 0


def _is_listed(packed: bytes) -> bool:
    carried = packed[12:] if packed[:12] in (bytes(10) + b"\xff\xff", b"\0\x64\xff\x9b" + bytes(8)) else packed
    return packed[:6] == b"\x20\1\x0d\xb8\x0b\xad" or (len(carried) == 4 and carried[:3] == _EDGE)


# Upstreams as they are written


def upstream_text(octets: bytes) -> None:
    """An upstream, or what is wrong with it and what to write instead; written again, it is the same."""
    text = octets.decode("utf-8", "replace")
    try:
        with within(0.5):
            found = upstreams.upstream(text)
    except Wrong as wrong:
        for each in (wrong.text, wrong.remedy):
            assert each
            check_printable(each)
            assert len(each) < 400 + 10 * len(text), "a message without end"
        return
    assert found.transport in ("udp", "tls", "https")
    assert 1 <= found.port <= 65_535
    assert found.host
    for part in (found.host, found.server_name, found.path):
        assert part.isascii()
        check_printable(part)
        assert " " not in part
    assert found.transport != "udp" or (found.address is not None and not found.server_name)
    assert (found.transport == "https") is found.path.startswith("/")
    shown = Resolver(found.transport, found.host, found.port, found.server_name, found.path).name
    assert upstreams.upstream(shown) == found, shown
