"""Upstreams and clients that do their worst, and changes in the midst of it: each query gets its own answer, once."""

import asyncio
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.core.make import question
from tests.scenarios.client import NOERROR, SERVFAIL, TC, Address, Edns, UdpClient, ask, query, read
from tests.scenarios.conftest import Start
from tests.scenarios.expect import LISTED, MANAGED, check_clean, check_sinkholed, policy, where
from tests.scenarios.service import Service, eventually
from tests.scenarios.test_load import descriptors, resident
from tests.scenarios.upstream import SILENCE, Asked, Said, Send, Upstream, address_of, default, truncated
from tests.upstream.doh_server import NAME, Certificates, DohServer, Request

NewUpstream = Callable[[], Upstream]
QUICKLY = {"timeout": "0.5s", "deadline": "1.5s"}
IP_PKTINFO = 8  # Linux; Python 3.11 does not name it


# Many queries at once, and what came back


@dataclass
class Crowd:
    """Sends queries from one UDP socket or several, each under an id of its own, and collects the answers."""

    server: Address
    sources: Sequence[str] = ("127.0.0.20",)
    told: dict[tuple[int, int], list[tuple[float, bytes]]] = field(default_factory=dict)  # by socket and id
    asked: dict[tuple[int, int], str] = field(default_factory=dict)
    _clients: list[UdpClient] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _is_over: bool = False

    def __enter__(self) -> "Crowd":
        for number, source in enumerate(self.sources):
            client = UdpClient(self.server, source)
            self._clients.append(client)
            self._threads.append(threading.Thread(target=self._collect, args=(number, client), daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.socket.close()

    def _collect(self, number: int, client: UdpClient) -> None:
        while not self._is_over:
            octets = client.receive(0.1)
            if octets is not None:
                key = number, int.from_bytes(octets[:2], "big")
                self.told.setdefault(key, []).append((time.monotonic(), octets))

    def ask(self, names: Iterable[str], every_s: float = 0.0, burst: int = 50) -> None:
        """Ask for addresses, each name from the next socket, some back to back."""
        for count, name in enumerate(names):
            number = count % len(self._clients)
            ident = len(self.asked) // len(self._clients)
            self.asked[number, ident] = name
            self._clients[number].send(query(name, ident=ident, edns=Edns()))
            if count % burst == burst - 1:
                time.sleep(every_s)

    def wait(self, timeout_s: float) -> None:
        """Wait until each has an answer, for so long at most, and a little longer for second ones."""
        until = time.monotonic() + timeout_s
        while len(self.told) < len(self.asked) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.2)

    def check(self, rcodes: Iterable[int] = (NOERROR,)) -> Counter[int]:
        """Each got one answer, to its own question, right where it is one; return how many there are by rcode."""
        lost = [name for key, name in self.asked.items() if key not in self.told]
        assert not lost, f"{len(lost)} of {len(self.asked)} got no answer: {lost[:3]}"
        twice = [self.asked[key] for key, each in self.told.items() if len(each) > 1]
        assert not twice, f"{len(twice)} were answered twice: {twice[:3]}"
        found = Counter[int]()
        for key, [(_, octets)] in self.told.items():
            name = self.asked[key]
            assert octets[12:].startswith(question(name)), f"another question than {name}"
            rcode = octets[3] & 15
            found[rcode] += 1
            if rcode == NOERROR and not octets[2] & TC >> 8:
                assert socket.inet_aton(address_of(name)) in octets, f"another answer than that to {name}"
        print(f"{dict(found)} of {len(self.asked)}")
        assert set(found) <= set(rcodes), found
        return found


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number}.example" for number in range(count)]


def in_flight(service: Service) -> int:
    found = service.control("status")["in_flight"]
    assert isinstance(found, int)
    return found


@contextmanager
def comes_to_rest(service: Service) -> Iterator[None]:
    """Afterwards nothing is in flight, no descriptor is left open, and it serves."""
    before = descriptors(service.pid)
    yield
    eventually("nothing is in flight", lambda: in_flight(service) == 0, timeout_s=8)
    check_sinkholed(ask(service.dns, LISTED, source=MANAGED))
    eventually("descriptors are given back", lambda: descriptors(service.pid) <= before, timeout_s=15)


def after(seconds: float) -> Callable[[Asked], Said]:
    return lambda asked: [Send(default(asked), after_s=seconds)]


def first_socket_is_open(service: Service) -> None:
    """Have the sockets to the upstream opened, and the short way learnt."""
    for name in names("first", 3):
        ask(service.dns, name, source="127.0.0.20", edns=Edns())


# What upstreams send


@pytest.mark.slow
def test_an_upstream_that_answers_50_times(start: Start, upstreams: NewUpstream) -> None:
    """The first counts; the others reach nobody, and end nothing."""
    upstream = upstreams()
    service = start(policy(upstream))
    first_socket_is_open(service)
    upstream.otherwise(lambda asked: [Send(default(asked))] * 50)
    with comes_to_rest(service), Crowd(service.dns) as crowd:
        crowd.ask(names("often", 400), every_s=0.1, burst=20)
        crowd.wait(10)
        crowd.check()
    check_clean(upstream)


def _wrong(asked: Asked, number: int) -> bytes:
    """A response with the right id that answers something else."""
    right = default(asked)
    kind = number % 6
    if kind == 0:
        return right[:12] + bytes([right[12]]) + b"x" + right[14:]
    if kind == 1:
        return right[: 12 + len(asked.question) - 4] + b"\0\x1c\0\1" + right[12 + len(asked.question) :]
    if kind == 2:
        return right[:12]
    if kind == 3:
        return right[:4] + b"\0\2" + right[6:]
    if kind == 4:
        return right[:2] + b"\1\0" + right[4:]
    return right[: number % 12]


def test_responses_with_the_right_id_and_another_question_end_nothing(start: Start, upstreams: NewUpstream) -> None:
    """RFC 5452 section 9.1: 100 of them come in front of the right one."""
    upstream = upstreams()
    service = start(policy(upstream))
    first_socket_is_open(service)
    upstream.otherwise(
        lambda asked: [*(Send(_wrong(asked, number)) for number in range(100)), Send(default(asked), after_s=0.05)]
    )
    with comes_to_rest(service), Crowd(service.dns) as crowd:
        crowd.ask(names("wrong", 200), every_s=0.2, burst=10)
        crowd.wait(10)
        crowd.check()


BROKEN = {
    "OPT of three octets": lambda octets: octets[:11] + b"\1" + octets[12:] + b"\0\0\x29",
    "OPT of five octets": lambda octets: octets[:11] + b"\1" + octets[12:] + b"\0\0\x29\4\xd0",
    "cut in the header": lambda octets: octets[:11],
    "cut in the record": lambda octets: octets[:-3],
    "counts more than there is": lambda octets: octets[:6] + b"\0\2" + octets[8:],
}


@pytest.mark.parametrize("spoilt", [pytest.param(spoil, id=what) for what, spoil in BROKEN.items()])
def test_a_broken_response_ends_no_other_question(
    start: Start, upstreams: NewUpstream, spoilt: Callable[[bytes], bytes]
) -> None:
    """It comes in the midst of right ones; the second upstream answers what it was for."""
    upstream, other = upstreams(), upstreams()

    def some_are_broken(asked: Asked) -> Said:
        right = default(Asked(asked.octets[:10] + b"\0\0" + asked.question, "udp", asked.source))
        return spoilt(right) if asked.name.startswith("broken") else default(asked)

    service = start(policy(upstream, other, resolve=QUICKLY))
    first_socket_is_open(service)
    upstream.otherwise(some_are_broken)
    with comes_to_rest(service), Crowd(service.dns) as crowd:
        mixed = [name for pair in zip(names("right", 100), names("broken", 100), strict=True) for name in pair]
        crowd.ask(mixed, every_s=0.05, burst=20)
        crowd.wait(10)
        crowd.check()
        slow = [each for each in crowd.told.values() if len(each[0][1]) > 0]
        assert len(slow) == 200
    assert "Traceback" not in service.output


@pytest.mark.slow
@pytest.mark.parametrize("moment_s", [0.1, 0.2, 0.5, 1.0, 1.5], ids=lambda each: f"{each:g} s")
def test_answers_that_come_just_as_patience_ends(start: Start, upstreams: NewUpstream, moment_s: float) -> None:
    """Around the first retry, the time-out and the deadline: each query is answered, once."""
    upstream = upstreams()
    service = start(policy(upstream, resolve=QUICKLY))
    first_socket_is_open(service)

    def about_then(asked: Asked) -> Said:
        spread = (int.from_bytes(asked.octets[:2], "big") % 64 - 32) / 400  # 80 ms to each side
        return [Send(default(asked), after_s=max(0.0, moment_s + spread))]

    upstream.otherwise(about_then)
    with comes_to_rest(service), Crowd(service.dns) as crowd:
        crowd.ask(names("moment", 600), every_s=0.05)
        crowd.wait(6)
        crowd.check((NOERROR, SERVFAIL))


@pytest.mark.slow
def test_a_flood_of_refused_questions(start: Start, upstreams: NewUpstream) -> None:
    """Nobody listens: each of 4,000 hears so soon, and the upstream is asked again when it is back."""
    upstream = upstreams()
    service = start(policy(upstream, resolve=QUICKLY))
    first_socket_is_open(service)
    with comes_to_rest(service), Crowd(service.dns, [f"127.0.7.{n}" for n in range(1, 9)]) as crowd:
        upstream.stop()
        crowd.ask(names("refused", 4_000), every_s=0.02)
        crowd.wait(5)
        crowd.check((SERVFAIL,))
        upstream.start()
        eventually("it is asked again", lambda: ask(service.dns, "back.example").rcode == NOERROR, every_s=1.1)


@pytest.mark.slow
def test_every_answer_truncated_and_tcp_refused_or_silent(start: Start, upstreams: NewUpstream) -> None:
    """All go on to TCP, where nothing comes: each hears within the deadline that its answer was too long."""
    upstream = upstreams()
    service = start(policy(upstream, resolve=QUICKLY))
    first_socket_is_open(service)
    upstream.otherwise(lambda asked: [Send(truncated(asked))] if asked.transport == "udp" else SILENCE)
    with comes_to_rest(service), Crowd(service.dns) as crowd:
        crowd.ask(names("long", 500), every_s=0.02)
        crowd.wait(6)
        crowd.check((NOERROR, SERVFAIL))


def test_an_upstream_that_does_not_repeat_random_case(start: Start, upstreams: NewUpstream) -> None:
    """What it says is not believed; whoever repeats it is asked then, and its answer arrives in the client's case."""
    careless, honest = upstreams(), upstreams()
    careless.otherwise(lambda asked: default(asked).replace(asked.question, asked.question.lower()))
    service = start(policy(careless, honest, resolve={**QUICKLY, "random_case": "on"}))
    with comes_to_rest(service), Crowd(service.dns) as crowd:
        crowd.ask(names("a-rather-long-name", 200), every_s=0.05)
        crowd.wait(6)
        crowd.check()
    check_clean(honest)


# Changes in the midst of it


def test_nothing_is_lost_while_the_cache_is_flushed(start: Start, upstreams: NewUpstream) -> None:
    """All of it, or a part: as often as can be, with questions of the short way in flight."""
    upstream = upstreams()
    service = start(policy(upstream))
    first_socket_is_open(service)
    upstream.otherwise(after(0.005))
    is_over = threading.Event()
    flushes = 0

    def flush() -> None:
        nonlocal flushes
        while not is_over.is_set():
            service.control("flush", **({"name": "example"} if flushes % 3 == 2 else {}))
            flushes += 1

    with comes_to_rest(service), Crowd(service.dns) as crowd:
        flushing = threading.Thread(target=flush)
        flushing.start()
        try:
            crowd.ask(names("flushed", 6_000), every_s=0.002, burst=5)
            crowd.wait(8)
        finally:
            is_over.set()
            flushing.join()
        print(f"{flushes} flushes")
        crowd.check()
    assert "Traceback" not in service.output


def test_what_is_listed_while_its_question_is_in_flight_is_not_let_through(
    start: Start, upstreams: NewUpstream
) -> None:
    """Asked by the short way, and by who joined it; the answers come when the new policy is in force."""
    upstream = upstreams()
    service = start(policy(upstream))
    first_socket_is_open(service)
    is_new = threading.Event()
    held: list[Callable[[], object]] = []
    lock = threading.Lock()

    def hold(asked: Asked) -> Said:
        with lock:
            if is_new.is_set():
                return default(asked)
            loop = asyncio.get_running_loop()
            send = partial(upstream._datagram, Send(default(asked)), asked.source)
            held.append(partial(loop.call_soon_threadsafe, send))
        return SILENCE

    upstream.otherwise(hold)
    listed = [f"{name[:-8]}.later.example" for name in names("listed", 300)]
    with comes_to_rest(service), Crowd(service.dns, [MANAGED, "127.0.1.11"]) as crowd:
        crowd.ask(name for name in listed for _ in range(2))
        crowd.ask(names("free", 200))
        service.configure(policy(upstream, lists={"ban": {"domains": [LISTED, "later.example"]}}))
        assert "error" not in service.control("reload")
        with lock:
            is_new.set()
            for send in held:
                send()
        crowd.wait(8)
        assert len(crowd.told) == len(crowd.asked)
        for key, each in crowd.told.items():
            assert len(each) == 1, f"{crowd.asked[key]} was answered {len(each)} times"
            octets = each[0][1]
            if "later" in crowd.asked[key]:
                check_sinkholed(read(octets))
            else:
                assert octets[3] & 15 == NOERROR
                assert socket.inet_aton(address_of(crowd.asked[key])) in octets


def test_a_question_for_a_zone_goes_to_no_other_zones_upstream_after_a_reload(
    start: Start, upstreams: NewUpstream
) -> None:
    """The zones get other numbers while it is in flight: it is asked again of its own upstream alone, or fails."""
    public, own, others = upstreams(), upstreams(), upstreams()
    corp = {"zone": "corp.example", "upstreams": [where(own.address)]}
    lab = {"zone": "aaa.example", "upstreams": [where(others.address)]}
    service = start(policy(public, forward=[corp], resolve=QUICKLY))
    ask(service.dns, "a.x.corp.example", source="127.0.0.20", edns=Edns())
    ask(service.dns, "b.x.corp.example", source="127.0.0.20", edns=Edns())
    own.otherwise(lambda asked: SILENCE if asked.name[0] == "q" else default(asked))
    with Crowd(service.dns) as crowd:
        for zones in ([lab, corp], [corp], [corp, lab], [lab, corp]):
            service.configure(policy(public, forward=zones, resolve=QUICKLY))
            reloading = threading.Thread(target=service.control, args=("reload",))
            reloading.start()
            while reloading.is_alive():
                number = len(crowd.asked)
                crowd.ask([f"{'qr'[number % 3 > 0]}-secret-{number}.x.corp.example"])
                time.sleep(0.004)
            reloading.join()
        crowd.wait(5)
        assert len(crowd.told) == len(crowd.asked)
        number = len(crowd.asked)
    leaked = [asked.name for asked in (*public.queries(), *others.queries()) if "secret" in asked.name]
    assert not leaked, f"{len(leaked)} of {number} went elsewhere: {leaked[:3]}"


def test_questions_in_flight_keep_their_upstream_for_as_long_as_they_were_given(
    start: Start, upstreams: NewUpstream
) -> None:
    """A reload that names another upstream and a shorter deadline is for questions to come."""
    slow, other = upstreams(), upstreams()
    service = start(policy(slow, resolve={"strategy": "load_balance", "timeout": "5s", "deadline": "6s"}))
    first_socket_is_open(service)
    slow.otherwise(after(2.5))
    with comes_to_rest(service), Crowd(service.dns) as crowd:
        crowd.ask(names("patient", 20))
        service.configure(policy(other, resolve={"timeout": "0.5s", "deadline": "1s"}))
        assert "error" not in service.control("reload")
        crowd.wait(7)
        crowd.check()


class Encrypted:
    """An upstream over TLS and over HTTPS, which answers as the plain one does."""

    def __init__(self, upstream: Upstream, directory: Path) -> None:
        self._upstream = upstream
        certificates = Certificates(directory)
        self.ca_file = certificates.ca_file
        loop = upstream._loop

        async def begin() -> tuple[int, int]:
            context = certificates.context(NAME, alpn=("dot",))
            self._dot = await asyncio.start_server(upstream._connected, "127.0.0.1", 0, ssl=context)
            self._doh = await DohServer(self._answer).start(certificates.context(NAME))
            return self._dot.sockets[0].getsockname()[1], self._doh.port

        dot, doh = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
        self.urls = {
            "plain": where(upstream.address),
            "DoT": f"tls://127.0.0.1:{dot}#{NAME}",
            "DoH": f"https://127.0.0.1:{doh}/dns-query#{NAME}",
        }

    def _answer(self, request: Request) -> None:
        asked = Asked(request.body, "tcp", ("127.0.0.1", 0))
        for action in self._upstream._ask(asked):
            if isinstance(action, Send):
                asyncio.get_running_loop().call_later(action.after_s, self._say, request, action.octets)

    def _say(self, request: Request, octets: bytes) -> None:
        if request.stream not in request.connection.resets and not request.connection.is_lost:
            request.answer(octets)

    def close(self) -> None:
        async def end() -> None:
            self._dot.close()
            await self._doh.stop()

        asyncio.run_coroutine_threadsafe(end(), self._upstream._loop).result(10)


@pytest.fixture
def encrypted(upstreams: NewUpstream, tmp_path: Path) -> Iterator[tuple[Upstream, Encrypted]]:
    upstream = upstreams()
    with ExitStack() as stack:
        found = Encrypted(upstream, tmp_path)
        stack.callback(found.close)
        yield upstream, found


def over(encrypted: Encrypted, *kinds: str, **more: Any) -> dict[str, Any]:
    """The configuration with upstreams of these kinds."""
    return policy(upstreams=[encrypted.urls[kind] for kind in kinds], resolve={"ca_file": encrypted.ca_file, **more})


@pytest.mark.slow
def test_upstreams_change_to_and_fro_with_thousands_of_questions_in_flight(
    start: Start, encrypted: tuple[Upstream, Encrypted]
) -> None:
    """From plain to TLS to HTTPS and back, each reload in the midst of a stream of questions; all are answered."""
    upstream, found = encrypted
    service = start(over(found, "plain"))
    first_socket_is_open(service)
    upstream.otherwise(after(0.3))
    sources = [f"127.0.7.{n}" for n in range(1, 9)]
    with comes_to_rest(service), Crowd(service.dns, sources) as crowd:
        for turn, kind in enumerate(("DoT", "plain", "DoH", "plain", "DoT", "DoH", "plain")):
            service.configure(over(found, kind))
            reloading = threading.Thread(target=service.control, args=("reload",))
            reloading.start()
            number = 0
            while reloading.is_alive() or number < 400:
                crowd.ask(names(f"turn-{turn}-{number}", 40), every_s=0.05, burst=40)
                number += 40
            reloading.join()
        crowd.wait(8)
        crowd.check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DoT", "DoH"])
def test_answers_over_connections_that_come_just_as_patience_ends(
    start: Start, encrypted: tuple[Upstream, Encrypted], kind: str
) -> None:
    upstream, found = encrypted
    service = start(over(found, kind, **QUICKLY))
    first_socket_is_open(service)

    def about_then(asked: Asked) -> Said:
        spread = sum(asked.name.encode()) % 64 / 400
        return [Send(default(asked), after_s=0.42 + spread)]

    upstream.otherwise(about_then)
    with comes_to_rest(service), Crowd(service.dns) as crowd:
        crowd.ask(names("moment", 500), every_s=0.05)
        crowd.wait(6)
        crowd.check((NOERROR, SERVFAIL))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["DoT", "DoH"])
def test_memory_and_descriptors_after_many_connections(
    start: Start, encrypted: tuple[Upstream, Encrypted], kind: str
) -> None:
    """Each is cut after a few answers, silent questions on it: what they were is not kept."""
    upstream, found = encrypted
    service = start(over(found, kind, **QUICKLY))
    first_socket_is_open(service)

    def cut() -> None:
        if kind == "DoT":
            for task in list(upstream._tasks):
                task.cancel()
        else:
            for connection in found._doh.connections:
                connection.transport.abort()
            found._doh.connections.clear()
            found._doh.requests.clear()

    upstream.otherwise(lambda asked: SILENCE if asked.name.startswith("silent") else default(asked))
    levels = []
    with comes_to_rest(service):
        for round_ in range(4):
            with Crowd(service.dns) as crowd:
                for number in range(60):
                    crowd.ask(names(f"round-{round_}-{number}", 9))
                    crowd.ask(names(f"silent-{round_}-{number}", 1))
                    time.sleep(0.02)
                    upstream._loop.call_soon_threadsafe(cut)
                crowd.wait(4)
                crowd.check((NOERROR, SERVFAIL))
            levels.append(resident(service.pid))
    print(f"resident: {[f'{level / 2**20:.1f}' for level in levels]} MiB")
    assert levels[3] - levels[2] < 3 << 20


# What clients do


def test_the_same_question_from_100_addresses_is_asked_once_or_twice(start: Start, upstreams: NewUpstream) -> None:
    upstream = upstreams()
    service = start(policy(upstream))
    first_socket_is_open(service)
    upstream.otherwise(after(0.1))
    with comes_to_rest(service), ExitStack() as stack:
        clients = [stack.enter_context(UdpClient(service.dns, f"127.0.6.{n}")) for n in range(1, 101)]
        for ident, client in enumerate(clients):
            client.send(query("same.example", ident=ident, edns=Edns()))
        for ident, client in enumerate(clients):
            octets = client.receive(3)
            assert octets is not None, f"client {ident} got nothing"
            assert read(octets).ident == ident
            assert read(octets).addresses == [address_of("same.example")]
        assert not any(client.receive(0.001) for client in clients)
    assert len(upstream.queries("same.example")) <= 2


@pytest.mark.slow
def test_10000_clients_with_one_question_each_to_a_silent_upstream(start: Start, upstreams: NewUpstream) -> None:
    """Each hears something within the deadline; nothing is left of them, and the next client is served."""
    upstream = upstreams()
    service = start(policy(upstream, resolve=QUICKLY))
    first_socket_is_open(service)
    upstream.otherwise(SILENCE)
    count = 10_000
    before = resident(service.pid)
    told: Counter[str] = Counter()
    is_over = threading.Event()
    with comes_to_rest(service), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.bind(("", 0))
        sock.settimeout(0.1)

        def collect() -> None:
            while not is_over.is_set():
                try:
                    octets, ancillary, _, _ = sock.recvmsg(4_096, 64)
                except TimeoutError:
                    continue
                own = socket.inet_ntoa(ancillary[0][2][8:12])
                assert octets[3] & 15 in (NOERROR, SERVFAIL)
                told[own] += 1

        collecting = threading.Thread(target=collect)
        collecting.start()
        for number in range(count):
            source = bytes([127, 9, number >> 8, number & 255])
            message = query(f"client-{number}.example", ident=number & 0xFFFF)
            info = struct.pack("=I4s4s", 0, source, bytes(4))
            sock.sendmsg([message], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, service.dns)
            if number % 50 == 49:
                time.sleep(0.01)
        until = time.monotonic() + 6
        while len(told) < count and time.monotonic() < until:
            time.sleep(0.05)
        is_over.set()
        collecting.join()
        upstream.otherwise(default)
    print(f"{len(told)} of {count} heard something; {(resident(service.pid) - before) / 2**20:.1f} MiB more")
    assert len(told) >= count * 0.99, "more than the kernel may drop"
    assert max(told.values()) == 1
    assert resident(service.pid) - before < 40 << 20
    eventually("ordinary names are resolved", lambda: ask(service.dns, "next.example").rcode == NOERROR, every_s=1.1)


@pytest.mark.slow
def test_two_dnsfilters_that_ask_each_other(start: Start, upstreams: NewUpstream) -> None:
    """A question ends as SERVFAIL, in bounded time and with few datagrams; blocked names are answered all the while."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first = start(policy(upstreams=[f"127.0.0.1:{port}"], resolve=QUICKLY))
    second = start(policy(upstreams=[where(first.dns)], resolve=QUICKLY), dns=[f"127.0.0.1:{port}"])
    with Crowd(first.dns) as crowd:
        crowd.ask(names("round", 100), every_s=0.02)
        for service in (first, second):
            check_sinkholed(ask(service.dns, LISTED, source=MANAGED))
        crowd.wait(5)
        crowd.check((SERVFAIL,))
    for service in (first, second):
        eventually("nothing is in flight", partial(_is_at_rest, service), timeout_s=8)
    asked = [each.metric("dnsfilter_upstream_queries_total") for each in (first, second)]
    print(f"{asked} queries to upstreams")
    assert sum(asked) < 100 * 20


def _is_at_rest(service: Service) -> bool:
    return in_flight(service) == 0
