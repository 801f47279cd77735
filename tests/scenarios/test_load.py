"""Bursts, many connections and clients that do not play along. Bounded in count and time, on loopback only."""

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.name
import pytest

from tests.scenarios.client import (
    SERVFAIL,
    Address,
    Edns,
    Response,
    TcpClient,
    UdpClient,
    ask,
    check_echo,
    exchange,
    query,
    read,
)
from tests.scenarios.conftest import Start
from tests.scenarios.expect import EXEMPT, LISTED, MANAGED, check_clean, check_sinkholed, is_blocked, policy
from tests.scenarios.service import Service
from tests.scenarios.upstream import SILENCE, Action, Asked, Send, Upstream, address_of, default

pytestmark = pytest.mark.alone

BURST = 5_000
ZONE = dns.name.from_text(LISTED)


@pytest.fixture(scope="module")
def upstream_here() -> Iterator[Upstream]:
    """An upstream for this module alone."""
    with Upstream() as upstream:
        yield upstream
        check_clean(upstream)


@pytest.fixture(scope="module")
def loaded(upstream_here: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for this module alone, which at its end still has to answer right."""
    with Service(tmp_path_factory.mktemp("loaded"), policy(upstream_here)) as service:
        yield service
        check_right_answers(service.dns)
        assert not [
            asked for asked in upstream_here.queries(LISTED, below=True) if asked.name != "last." + LISTED + "."
        ]


@pytest.fixture(scope="module", autouse=True)
def idle(loaded: Service) -> Iterator[list[tuple[TcpClient, float]]]:
    """Connections that do nothing while the other tests run, and when each was opened: silent, asked once, cut."""
    clients = [(TcpClient(loaded.dns, f"127.0.3.{number}"), time.monotonic()) for number in range(1, 4)]
    clients[1][0].send(query("idle.example", "A"))
    assert clients[1][0].receive() is not None
    clients[2][0].send_raw(b"\0\x20\x12\x34")
    yield clients
    for client, _ in clients:
        client.socket.close()


def check_right_answers(server: Address) -> None:
    """Managed blocked, exempt real, ordinary names served, over UDP and TCP."""
    for tcp in (False, True):
        check_sinkholed(ask(server, "last." + LISTED, "A", source=MANAGED, tcp=tcp, edns=Edns()))
        assert ask(server, "last." + LISTED, "A", source=EXEMPT, tcp=tcp).addresses == [address_of("last." + LISTED)]
        assert ask(server, "last.example", "A", source=MANAGED, tcp=tcp).addresses == [address_of("last.example")]


def drops(*ports: int) -> int:
    """Datagrams that the kernel dropped at UDP sockets with these local ports, for want of room."""
    total = 0
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) in ports:
            total += int(fields[-1])
    return total


class Collector(threading.Thread):
    """Receives datagrams as they come, so that the client's buffer never is the limit."""

    def __init__(self, client: UdpClient) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.got: list[bytes] = []
        self._done = threading.Event()

    def run(self) -> None:
        """Collect until told to stop and nothing comes any more."""
        while True:
            octets = self.client.receive(0.2)
            if octets is not None:
                self.got.append(octets)
            elif self._done.is_set():
                return

    def finish(self, count: int, timeout_s: float) -> list[bytes]:
        """Wait for `count` datagrams, or the time; return what came."""
        until = time.monotonic() + timeout_s
        while len(self.got) < count and time.monotonic() < until:
            time.sleep(0.02)
        self._done.set()
        self.join()
        return self.got


@pytest.mark.parametrize("blocked", [pytest.param(True, id="blocked names"), pytest.param(False, id="a cached name")])
def test_of_a_burst_of_5000_queries_from_one_socket_every_one_is_answered_or_was_dropped_by_the_kernel(
    loaded: Service, blocked: bool
) -> None:
    """Nothing is lost in our own code."""
    server = loaded.dns
    name = LISTED if blocked else "burst.example"
    ask(server, name, "A", source=MANAGED)
    octets = [query(f"b{ident}.{LISTED}" if blocked else name, "A", ident=ident) for ident in range(BURST)]
    with UdpClient(server, MANAGED) as client:
        port = client.socket.getsockname()[1]
        before = drops(server[1])
        collector = Collector(client)
        collector.start()
        for each in octets:
            client.send(each)
        lost_at_server = drops(server[1]) - before
        got = collector.finish(BURST - lost_at_server, 15)
        lost = drops(server[1]) - before + drops(port)
    assert len(got) + lost == BURST
    assert len({each[:2] for each in got}) == len(got)
    for each in got[:: max(1, len(got) // 50)]:
        assert read(each).addresses == (["0.0.0.0"] if blocked else [address_of(name)])


def test_a_burst_of_1000_queries_for_blocked_names_loses_1_percent_at_most(loaded: Service) -> None:
    """Socket buffers; the best of three."""
    best = 0
    for _ in range(3):
        with UdpClient(loaded.dns, MANAGED) as client:
            collector = Collector(client)
            collector.start()
            for ident in range(1000):
                client.send(query(f"b{ident}.{LISTED}", "A", ident=ident))
            best = max(best, len(collector.finish(1000, 3)))
        if best >= 990:
            break
    assert best >= 990


def test_200_queries_pipelined_on_one_tcp_connection_are_all_answered(loaded: Service, upstream_here: Upstream) -> None:
    """RFC 7766 6.2.1.1 and 7: fresh, cached and blocked ones in one write."""
    names = [f"piped-{ident}.example" if ident % 3 else LISTED for ident in range(200)]
    sent = [query(name, "A", ident=ident) for ident, name in enumerate(names)]
    for _ in range(2):
        with TcpClient(loaded.dns, MANAGED) as client:
            client.send(*sent)
            got = [read(octets) for octets in client.gather(200)]
        assert sorted(response.ident for response in got) == list(range(200))
        for response in got:
            check_echo(sent[response.ident], response)
            expected = address_of(names[response.ident]) if response.ident % 3 else "0.0.0.0"
            assert response.addresses == [expected]


def test_on_one_tcp_connection_a_slow_answer_does_not_hold_up_a_fast_one(
    loaded: Service, upstream_here: Upstream
) -> None:
    """RFC 7766 6.2.1.1: answers come in any order."""
    upstream_here.on("slow.example", lambda asked: [Send(default(asked), after_s=0.5)])
    with TcpClient(loaded.dns, MANAGED) as client:
        started = time.monotonic()
        client.send(query("slow.example", "A", ident=1), query("fast.example", "A", ident=2), query(LISTED, ident=3))
        got = client.gather(2)
        assert time.monotonic() - started < 0.4
        got += client.gather(1)
    assert {octets[:2] for octets in got[:2]} == {b"\0\2", b"\0\3"}
    assert read(got[2]).addresses == [address_of("slow.example")]


def test_200_idle_tcp_connections_stop_neither_udp_nor_a_new_tcp_client(loaded: Service) -> None:
    """RFC 7766 6.2.3 and 10: half of them in the middle of a message."""
    clients = [TcpClient(loaded.dns, f"127.0.2.{1 + number % 4}") for number in range(200)]
    try:
        for number, client in enumerate(clients):
            if number % 2:
                client.send_raw(b"\0\x20\x12\x34")
        started = time.monotonic()
        for tcp in (False, True):
            check_sinkholed(ask(loaded.dns, LISTED, "A", source=MANAGED, tcp=tcp))
            assert ask(loaded.dns, f"idle-{tcp}.example", "A", tcp=tcp).addresses == [address_of(f"idle-{tcp}.example")]
        assert time.monotonic() - started < 2
    finally:
        for client in clients:
            client.socket.close()


def test_a_client_that_pipelines_over_tcp_and_never_reads_does_not_stop_the_others(
    loaded: Service, upstream_here: Upstream
) -> None:
    """RFC 7766 10: who does not read is not read from, and costs a bounded amount."""
    upstream_here.on("bulky.example", [f'bulky.example 300 IN TXT "{"x" * 250}{n:03}"' for n in range(200)])
    ask(loaded.dns, "bulky.example", "TXT", tcp=True)
    before = resident(loaded.pid)
    octets = query("bulky.example", "TXT")
    framed = (struct.pack("!H", len(octets)) + octets) * 10_000  # 50,000 octets of answer for each 33 of query
    with TcpClient(loaded.dns, "127.0.2.9", buffer=4096) as client:
        client.socket.settimeout(0.3)
        sent = 0
        try:
            while sent < 20_000_000:
                sent += client.socket.send(framed)
        except TimeoutError:
            pass
        assert sent < 20_000_000, "the service went on reading"
        started = time.monotonic()
        for tcp in (False, True):
            check_sinkholed(ask(loaded.dns, LISTED, "A", source=MANAGED, tcp=tcp))
            assert ask(loaded.dns, "read.example", "A", tcp=tcp).addresses == [address_of("read.example")]
        assert time.monotonic() - started < 1
        assert resident(loaded.pid) - before < 50 << 20


def resident(pid: int) -> int:
    """Octets of memory that a process has."""
    text = Path(f"/proc/{pid}/statm").read_text()
    return int(text.split()[1]) * 4096


def descriptors(pid: int) -> int:
    """Open descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_descriptors_are_given_back(loaded: Service) -> None:
    """Within 10 of the former level, 15 s after 200 connections and 500 queries (resource exhaustion)."""
    ask(loaded.dns, "before.example", "A")
    before = descriptors(loaded.pid)
    for number in range(200):
        with TcpClient(loaded.dns) as client:
            client.send(query(f"fd-{number % 50}.example", "A"))
            if number % 2:
                client.receive()
    for number in range(500):
        ask(loaded.dns, f"fd-{number % 100}.example", "A")
    until = time.monotonic() + 15
    while descriptors(loaded.pid) > before + 10:
        assert time.monotonic() < until, f"{before} descriptors became {descriptors(loaded.pid)}"
        time.sleep(0.2)


def test_responses_and_short_datagrams_make_no_answer_and_no_upstream_query(
    loaded: Service, upstream_here: Upstream
) -> None:
    """2,000 of each: reflection, CVE-2024-2169 class."""
    seen = len(upstream_here.queries())
    response = bytearray(query("reflected.example", "A"))
    response[2] |= 0x80
    with UdpClient(loaded.dns, MANAGED) as client:
        for number in range(2000):
            client.send(bytes(response))
            client.send(bytes(response[: number % 12]))
            if number % 200 == 199:  # keep within the kernel's buffer
                client.send(query(LISTED, "A", ident=number))
                got = client.receive()
                assert got is not None
                assert got[:2] == number.to_bytes(2, "big")
        assert client.drain() == []
    assert len(upstream_here.queries()) == seen


def test_random_subdomains_while_upstream_is_silent(start: Start, upstreams: Callable[[], Upstream]) -> None:
    """5,000 of them: blocked answers in under 100 ms (p90), memory below 200 MB more, and service afterwards.

    Random-subdomain attack; RFC 9520 2.2, NRDelegation class.
    """
    upstream = upstreams()
    upstream.otherwise(SILENCE)
    service = start(policy(upstream, resolve={"timeout": "1s", "deadline": "2s"}))
    before = resident(service.pid)
    took = []
    with UdpClient(service.dns, "127.0.0.66") as client:
        for number in range(BURST):
            client.send(query(f"r{number:x}.attacked.example", "A", ident=number))
            if number % 50 == 49:
                started = time.monotonic()
                check_sinkholed(ask(service.dns, f"during-{number}.{LISTED}", "A", source=MANAGED))
                took.append(time.monotonic() - started)
    assert sorted(took)[len(took) * 9 // 10] < 0.1
    assert resident(service.pid) - before < 200 << 20
    upstream.otherwise(default)
    until = time.monotonic() + 10
    while ask(service.dns, "ordinary.example", "A").addresses != [address_of("ordinary.example")]:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_dead_zone_takes_the_slots_of_nobody_else(start: Start, upstreams: Callable[[], Upstream]) -> None:
    """50 questions for a zone of a silent upstream, where 4 may be out, half of them one client's: others hear at once.

    Blocked, cached, local and ordinary names before any time-out; over the limit SERVFAIL with EDE 23.
    """
    alive, dead = upstreams(), upstreams()
    dead.otherwise(SILENCE)
    zone = {"zone": "corp.test", "upstreams": [f"{dead.address[0]}:{dead.address[1]}"]}
    times = {"timeout": "0.5s", "deadline": "1s", "max_concurrent": 4}
    service = start(policy(alive, forward=[zone], resolve=times))
    ask(service.dns, "cached.example", "A")
    with UdpClient(service.dns, "127.0.0.66") as client:
        for number in range(50):
            client.send(query(f"x{number}.corp.test", "A", ident=number, edns=Edns()))
        for name, expected in {
            LISTED: "0.0.0.0",
            "cached.example": address_of("cached.example"),
            "localhost": "127.0.0.1",
            "ordinary.example": address_of("ordinary.example"),
        }.items():
            started = time.monotonic()
            assert ask(service.dns, name, "A", source=MANAGED).addresses == [expected]
            assert time.monotonic() - started < 0.25
        over_the_limit = client.gather(48, timeout_s=0.4)
        rest = client.gather(2, timeout_s=2)
    assert (len(over_the_limit), len(rest)) == (48, 2)
    for octets in over_the_limit.values():
        response = read(octets)
        assert response.rcode == SERVFAIL
        assert [code for code, _ in response.ede] == [23]
    assert all(read(octets).rcode == SERVFAIL for octets in rest.values())
    assert len({asked.name for asked in dead.queries() if asked.name.startswith("x")}) == 2


def test_5000_distinct_names_answered_by_upstream(loaded: Service, upstream_here: Upstream) -> None:
    """Memory below 200 MB more; others served all the while (cache bounds)."""
    before = resident(loaded.pid)
    with UdpClient(loaded.dns) as client:
        for base in range(0, BURST, 100):
            for ident in range(base, base + 100):
                client.send(query(f"distinct-{ident}.example", "A", ident=ident))
            started = time.monotonic()
            check_sinkholed(ask(loaded.dns, LISTED, "A", source=MANAGED))
            assert time.monotonic() - started < 0.5
            assert len(client.gather(100)) == 100
    assert resident(loaded.pid) - before < 200 << 20
    check_sinkholed(ask(loaded.dns, LISTED, "A", source=MANAGED))


# Mutations: seeded, so that a failure comes back


def mutated(octets: bytes, chance: random.Random) -> bytes:
    """The octets with one to three of: a bit turned, an octet replaced, a piece cut, repeated or put in."""
    out = bytearray(octets)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(out)) if out else 0
        match chance.randrange(5):
            case 0 if out:
                out[at] ^= 1 << chance.randrange(8)
            case 1 if out:
                out[at] = chance.choice((0, 1, 0x3F, 0x40, 0x7F, 0xC0, 0xFF))
            case 2:
                del out[at : at + chance.randint(1, 8)]
            case 3:
                out[at:at] = out[at : at + chance.randint(1, 16)]
            case 4:
                out[at:at] = chance.randbytes(chance.randint(1, 8))
    return bytes(out)


def seeds() -> list[bytes]:
    """Good queries to begin with."""
    return [
        query(LISTED, "A"),
        query("www." + LISTED, "HTTPS", edns=Edns(do=True)),
        query("fuzz.example", "A", edns=Edns(options=((10, b"12345678"), (8, b"\0\1\x18\0\xc0\0\2")))),
        query("fuzz.example", "TXT"),
    ]


def listed_data(response: Response) -> bool:
    """Whether a response to the managed client has an address that the upstream gave for the listed name or below."""
    if not response.message.question or not response.message.question[0].name.is_subdomain(ZONE):
        return False
    return any(text not in ("0.0.0.0", "::") for text in response.addresses)


@pytest.mark.parametrize("tcp", [pytest.param(False, id="3,000 over UDP"), pytest.param(True, id="400 over TCP")])
def test_mutated_queries(loaded: Service, upstream_here: Upstream, tcp: bool) -> None:
    """The server lives, nothing malformed and no listed name goes upstream, no listed data comes back (RFC 9267)."""
    chance = random.Random(20230317)
    good = seeds()
    seen = len(upstream_here.queries())
    if tcp:
        for number in range(400):
            with TcpClient(loaded.dns, MANAGED) as client:
                octets = mutated(chance.choice(good), chance)
                client.send_raw(mutated(struct.pack("!H", len(octets)) + octets, chance) if number % 4 else octets)
                client.socket.shutdown(socket.SHUT_WR)
                got = client.receive(0.5)
                if got is not None:
                    assert not listed_data(lenient(got))
    else:
        with UdpClient(loaded.dns, MANAGED) as client:
            for number in range(3000):
                client.send(mutated(chance.choice(good), chance))
                if number % 100 == 99:
                    client.send(query(LISTED, "A", ident=number))
                    while (reply := client.receive()) is not None and reply[:2] != number.to_bytes(2, "big"):
                        assert not listed_data(lenient(reply))
                    assert reply is not None
            for octets in client.drain():
                assert not listed_data(lenient(octets))
    for asked in upstream_here.queries()[seen:]:
        assert not asked.message.question[0].name.is_subdomain(ZONE)  # fails on what is malformed, too
    check_right_answers(loaded.dns)


def lenient(octets: bytes) -> Response:
    """Read a response to a mutated query: strictly, but for opcodes that dnspython reads in ways of its own."""
    if octets[2] >> 3 & 15 == 5:  # UPDATE: its sections have another meaning
        octets = octets[:2] + bytes([octets[2] & 0x87]) + octets[3:]
    return read(octets)


@pytest.mark.parametrize("tcp", [pytest.param(False, id="1,500 over UDP"), pytest.param(True, id="500 over TCP")])
def test_mutated_upstream_answers(start: Start, upstreams: Callable[[], Upstream], tcp: bool) -> None:
    """The server lives, what reaches the client parses (RFC 9267); of every query, the client hears."""
    chance = random.Random(20230323)
    upstream = upstreams()

    def broken(asked: Asked) -> bytes | list[Action]:
        if tcp and asked.transport == "udp":
            return asked.octets[:2] + b"\x83\x80\0\1\0\0\0\0\0\0" + asked.question
        return [Send(default(asked)[:2] + mutated(default(asked)[2:], chance))]

    upstream.otherwise(broken)
    service = start(policy(upstream, resolve={"timeout": "0.2s", "deadline": "0.5s"}))
    with UdpClient(service.dns, MANAGED) as client:
        for base in range(0, 500 if tcp else 1500, 500):
            sent = {
                ident: query(f"m{ident}.example", "A", ident=ident, edns=Edns()) for ident in range(base, base + 500)
            }
            for octets in sent.values():
                client.send(octets)
            got = client.gather(500, timeout_s=4)
            assert len(got) == 500
            for ident, octets in got.items():
                response = read(octets)
                check_echo(sent[ident], response)
    upstream.otherwise(default)
    assert ask(service.dns, "sound.example", "A").addresses == [address_of("sound.example")]
    assert is_blocked(service.dns, LISTED, MANAGED)


def test_20000_queries_for_blocked_names(loaded: Service, upstream_here: Upstream) -> None:
    """The server lives, none goes upstream (availability of the filter)."""
    seen = len(upstream_here.queries(LISTED, below=True))
    answered = 0
    with UdpClient(loaded.dns, MANAGED) as client:
        collector = Collector(client)
        collector.start()
        for number in range(20_000):
            client.send(query(f"flood-{number}.{LISTED}", "A", ident=number))
        answered = len(collector.finish(20_000, 5))
    assert answered > 1000
    assert len(upstream_here.queries(LISTED, below=True)) == seen
    assert exchange(loaded.dns, query(LISTED, "A"), source=MANAGED) is not None


def test_an_idle_tcp_connection_is_closed_within_40_seconds(idle: list[tuple[TcpClient, float]]) -> None:
    """RFC 7766 6.2.3: one that asked nothing, one that asked and was answered, one that sent half a message."""
    for client, opened in idle:
        client.socket.settimeout(max(0.1, opened + 40 - time.monotonic()))
        with contextlib.suppress(ConnectionResetError):
            assert client.socket.recv(1) == b""
