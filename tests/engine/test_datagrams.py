"""The UDP side of the engine on the loopback interface: batches, addresses, and answers used again within a second."""

import asyncio
import contextlib
import itertools
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import dns.rcode
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dnsfilter import workers
from dnsfilter.core.clients import ClientRow, Style
from dnsfilter.core.exemptions import Exemption
from dnsfilter.core.policy import Blocking, Policy
from dnsfilter.engine.interface import Answered, Completed, Forward, Outcome, Transport
from tests.core.make import name, opt, option, query, response, suffixes, texts
from tests.engine.make import Asking, Clock, index, policy

WALL = 1_700_000_000.0
PATIENCE_S = 5.0


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def server_socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((host, 0))
    return sock


def client_socket(host: str, server: tuple[Any, ...]) -> socket.socket:
    sock = server_socket(host)
    sock.connect(server)
    return sock


async def received(sock: socket.socket) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.get_running_loop().sock_recv(sock, 65_535)


async def settled(asking: Asking, servers: Sequence[socket.socket]) -> None:
    """Wait until each server's socket was read to its end: the uncounted question of readiness checks comes last."""
    for server in servers:
        host = server.getsockname()[0]
        with client_socket({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), server.getsockname()) as sock:
            sock.send(query("probe.dnsfilter.invalid", "TXT", rclass=3))
            await received(sock)


def banning(**more: Any) -> Policy:
    return policy(index(suffixes("banned.example")), ClientRow("default", enforced=1, order=((1, "ban"),)), **more)


def served(
    check: Callable[[Asking, socket.socket], Coroutine[Any, Any, None]],
    host: str = "127.0.0.1",
    asking: Asking | None = None,
) -> None:
    """Run a check against an engine that reads one socket."""
    found = asking or Asking(banning())

    async def work() -> None:
        with server_socket(host) as server:
            found.engine.start([server])
            try:
                await check(found, server)
            finally:
                found.engine.stop()

    run(work)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"], ids=["IPv4", "IPv6"])
def test_a_blocked_question_is_answered(host: str) -> None:
    async def check(_asking: Asking, server: socket.socket) -> None:
        with client_socket(host, server.getsockname()) as client:
            for ident in (1, 2):
                client.send(query("banned.example", ident=ident))
                octets = await received(client)
                assert octets[:2] == bytes([0, ident])
                assert texts(octets) == ["banned.example. 60 IN A 192.0.2.1"]

    served(check, host)


def test_a_burst_of_a_thousand_queries_is_answered_one_by_one() -> None:
    async def check(_asking: Asking, server: socket.socket) -> None:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
        with client_socket("127.0.0.1", server.getsockname()) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
            idents = Counter[bytes]()
            for start in range(0, 1_000, 100):
                for ident in range(start, start + 100):
                    client.send(query(f"n{ident % 7}.banned.example", ident=ident))
                for _ in range(100):
                    idents[(await received(client))[:2]] += 1
            assert idents == Counter(ident.to_bytes(2, "big") for ident in range(1_000))

    served(check)


def test_what_must_be_asked_is_handed_over_and_answered_later() -> None:
    async def check(asking: Asking, server: socket.socket) -> None:
        with client_socket("127.0.0.1", server.getsockname()) as client:
            client.send(query("www.example", ident=1))
            client.send(query("www.example", ident=2))
            await settled(asking, [server])
            [forward] = asking.forwards
            result = asking.engine.complete(
                forward, response(query("www.example"), "www.example 300 IN A 198.51.100.1"), 1_000.25, WALL
            )
            assert isinstance(result, Completed)
            for reply, octets in result.responses:
                reply(octets)
            assert [(await received(client))[:2] for _ in range(2)] == [b"\0\1", b"\0\2"]

    served(check)


def test_responses_and_fragments_get_no_answer_and_are_counted() -> None:
    async def check(asking: Asking, server: socket.socket) -> None:
        with client_socket("127.0.0.1", server.getsockname()) as client:
            for octets in (b"", b"\0", bytes(11), response(query("banned.example")), bytes(1_500), bytes(60_000)):
                client.send(octets)
            await settled(asking, [server])
            assert asking.engine.counters().dropped == {"not_a_query": 4, "oversize": 2}
            client.send(query("banned.example"))
            assert len(texts(await received(client))) == 1

    served(check)


def test_a_client_that_has_gone_disturbs_nobody() -> None:
    async def check(asking: Asking, server: socket.socket) -> None:
        for _ in range(20):
            with client_socket("127.0.0.1", server.getsockname()) as gone:
                gone.send(query("banned.example"))
        with client_socket("127.0.0.1", server.getsockname()) as client:
            for ident in range(20):
                client.send(query("banned.example", ident=ident))
                assert (await received(client))[1] == ident
        assert asking.engine.counters().internal_errors == 0

    served(check)


def test_once_stopped_nothing_is_read_but_what_was_asked_is_answered() -> None:
    async def check(asking: Asking, server: socket.socket) -> None:
        with client_socket("127.0.0.1", server.getsockname()) as client:
            client.send(query("www.example"))
            await settled(asking, [server])
            asking.engine.stop()
            client.send(query("banned.example"))
            await asyncio.sleep(0)
            [forward] = asking.forwards
            for reply, octets in asking.engine.fail(forward, 22, "", 1_001.0, 0.0).responses:
                reply(octets)
            assert (await received(client))[3] & 15 == 2
            with pytest.raises(BlockingIOError):
                client.recv(512)

    served(check)


@pytest.mark.parametrize(
    ("wildcard", "asked"),
    [("0.0.0.0", "127.0.0.5"), ("0.0.0.0", "127.0.1.9"), ("::", "::1")],
    ids=["one", "another", "IPv6"],
)
def test_on_a_wildcard_socket_the_answer_leaves_from_the_address_that_was_asked(wildcard: str, asked: str) -> None:
    async def work() -> None:
        asking = Asking(banning())
        [listener] = workers.open_all([(wildcard, 0)])
        asking.engine.start([listener.udp])
        try:
            source = "::1" if ":" in asked else "127.0.0.1"
            with client_socket(source, (asked, listener.address[1])) as client:  # connected: takes from there only
                for _ in range(2):
                    client.send(query("banned.example"))
                    assert len(texts(await received(client))) == 1
                client.send(query("www.example"))
                await settled(asking, [listener.udp])
                for reply, octets in asking.engine.fail(asking.forwards[0], 22, "", 1_001.0, 0.0).responses:
                    reply(octets)
                assert (await received(client))[3] & 15 == 2
        finally:
            asking.engine.stop()
            listener.close()

    run(work)


def test_an_answer_used_again_is_counted_for_the_family_that_asked() -> None:
    """Both clients have the same row, and ask the same octets in the same second."""

    async def work() -> None:
        asking = Asking(banning())
        with server_socket("127.0.0.1") as four, server_socket("::1") as six:
            asking.engine.start([four, six])
            for server, host in ((four, "127.0.0.1"), (six, "::1"), (four, "127.0.0.2"), (six, "::1")):
                with client_socket(host, server.getsockname()) as client:
                    client.send(query("banned.example"))
                    await received(client)
            asking.engine.stop()
        found = asking.engine.counters().outcomes
        assert {outcome.family: count for outcome, count in found.items() if count} == {"ipv4": 2, "ipv6": 2}

    run(work)


# Answers used again are equal to answers made anew

ROW = ClientRow("managed", enforced=0b01, observed=0b10, order=((1, "ban"), (2, "watch")), canary=0b100)
EXEMPT = replace(
    ROW, exemptions=(Exemption("EX-1", 0b01, WALL + 10, WALL + 20), Exemption("EX-2", 0b01, WALL + 60, WALL + 90))
)
OTHERS = ClientRow("default", Style.NXDOMAIN, enforced=0b10, order=((2, "watch"),))


def make(
    *banned: str, exempt: ClientRow = EXEMPT, default: ClientRow = OTHERS, ttl: int = 60, access: str = "0.0.0.0/0"
) -> Policy:
    return policy(
        index(suffixes("banned.example", *banned), suffixes("watched.example"), canaries=2),
        default,
        {"127.0.1.0/24": ROW, "127.0.1.64/28": exempt},
        blocking=Blocking(bytes(4), bytes(16), ttl, None),
        access=[access, "::/0"],
    )


POLICIES = [
    make(),
    make("edge.example", "plain.example"),
    make(exempt=ROW, ttl=30),
    make(default=ROW),
    make(exempt=replace(ROW, style=Style.REFUSED, exemptions=EXEMPT.exemptions), access="127.0.1.0/24"),
]
CLIENTS = ["127.0.1.9", "127.0.1.10", "127.0.1.70", "127.0.2.9", "::1"]
SOA = "example 30 IN SOA ns.example host.example 1 3600 600 86400 2"
ANSWERS: dict[str, dict[str, Any]] = {
    "plain.example": {"answer": ["plain.example 3 IN A 198.51.100.1"]},
    "www.example": {"answer": ["www.example 300 IN CNAME edge.example", "edge.example 200 IN CNAME x.banned.example"]},
    "x.banned.example": {"answer": ["x.banned.example 300 IN A 198.51.100.2"]},
    "watched.example": {"answer": ["watched.example 5 IN A 198.51.100.3"]},
    "mail.example": {
        "answer": ["mail.example 300 IN MX 10 mx.banned.example"],
        "additional": ["mx.banned.example 300 IN A 198.51.100.4"],
    },
    "gone.example": {"authority": [SOA], "rcode": dns.rcode.NXDOMAIN},
    "zero.example": {"answer": ["zero.example 0 IN A 198.51.100.5"]},
}
QUESTIONS = [
    *((each, "A") for each in ANSWERS),
    ("mail.example", "MX"),
    ("x.banned.example", "AAAA"),
    ("use-application-dns.net", "A"),
    ("localhost", "A"),
    ("plain.example", "ANY"),
]
EDNS = [b"", opt(1232), opt(512, do=True), opt(options=option(65_001)), opt(version=1), opt(options=b"\0\0\0")]


@dataclass
class Pair:
    """The engine that reads sockets, and one that is asked message by message and uses no answer again."""

    reading: Asking
    stepping: Asking
    clock: Clock
    servers: list[socket.socket]
    clients: dict[str, socket.socket]
    forwards: defaultdict[bytes, list[Forward]] = field(
        default_factory=lambda: defaultdict(list)
    )  # of the stepping one
    expected: dict[str, list[bytes]] = field(default_factory=lambda: {each: [] for each in CLIENTS})

    async def ask(self, burst: list[tuple[str, bytes]]) -> None:
        """Send the queries of a burst before any is read."""
        for client, octets in burst:
            self.clients[client].send(octets)
            reply = self.expected[client].append
            result = self.stepping.engine.step(octets, client, Transport.UDP, self.clock.now, self.clock.wall, reply)
            if isinstance(result, Answered):
                reply(result.octets)
            elif isinstance(result, Forward):
                self.forwards[result.key].append(result)
        await settled(self.reading, self.servers)
        await self.compare()

    async def complete(self) -> None:
        """Let upstreams answer all that is out, the same to both."""
        assert len(self.reading.forwards) == sum(map(len, self.forwards.values()))
        for theirs in self.reading.forwards:
            octets = said(theirs)
            for asking, forward in ((self.reading, theirs), (self.stepping, self.forwards[theirs.key].pop(0))):
                result = asking.engine.complete(forward, octets, self.clock.now, self.clock.wall)
                assert isinstance(result, Completed)
                for reply, sent in result.responses:
                    reply(sent)
        self.reading.forwards.clear()
        await self.compare()

    async def compare(self) -> None:
        for client, expected in self.expected.items():
            found = [await received(self.clients[client]) for _ in expected]
            assert found == expected, client
            expected.clear()

    def load(self, number: int, *, keep_cache: bool) -> None:
        for asking in (self.reading, self.stepping):
            asking.engine.load(POLICIES[number], keep_cache=keep_cache)


def said(forward: Forward) -> bytes:
    """What an upstream answers: it depends on the question alone."""
    asked = next(each for each in ANSWERS if name(each) == forward.name) if forward.name in KNOWN else ""
    shape = ANSWERS.get(asked, {})
    octets = query(forward.name, forward.qtype, cd=forward.cd, edns=opt(do=forward.do))
    wanted = {1: "A", 15: "MX"}.get(forward.qtype, "")
    answer = [text for text in shape.get("answer", []) if text.split()[3] in (wanted, "CNAME")]
    return response(octets, *answer, **{key: value for key, value in shape.items() if key != "answer"})


KNOWN = {name(each) for each in ANSWERS}

# Few questions an example, asked again and again: so answers are used again, and something happens in between.
palettes = st.lists(
    st.tuples(
        st.sampled_from(QUESTIONS[:5]) | st.sampled_from(QUESTIONS),
        st.sampled_from(EDNS[:2]) | st.sampled_from(EDNS),
        st.sampled_from([True, True, False]),
    ),
    min_size=1,
    max_size=3,
)
events = st.lists(
    st.one_of(
        st.tuples(st.just("complete")),
        st.tuples(st.just("wait"), st.sampled_from([0.25, 0.5, 1.0, 2.0, 9.5, 30.0])),
        st.tuples(st.just("wall"), st.sampled_from([-3_600.0, -1.0, 10.0, 15.0, 60.0])),
        st.tuples(st.just("load"), st.integers(min_value=0, max_value=len(POLICIES) - 1), st.booleans()),
    ),
    max_size=2,
)


@settings(max_examples=200, deadline=None)
@given(
    palette=palettes,
    who=st.lists(st.sampled_from(CLIENTS), min_size=1, max_size=3, unique=True),
    rounds=st.lists(events, min_size=1, max_size=6),
)
@example(
    palette=[(("x.banned.example", "A"), b"", True)],
    who=["127.0.1.70", "127.0.1.9"],
    rounds=[[], [("wall", 10.0)], [("wall", 10.0)], [("wall", -3_600.0)]],
)
def test_answers_used_again_are_equal_to_answers_made_anew(
    palette: list[tuple[tuple[str, str], bytes, bool]], who: list[str], rounds: list[list[tuple[Any, ...]]]
) -> None:
    """Random queries, clients, exemptions, clocks and reloads. The clocks never stand at the start of a second.

    Wanted difference: there, the time left to an exemption is one second more than later in the second.
    """

    async def work() -> None:
        clock = Clock(1_000.2, WALL + 0.2)
        idents = itertools.count()
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(server_socket(host)) for host in ("127.0.0.1", "::1")]
            clients = {
                each: stack.enter_context(client_socket(each, servers[":" in each].getsockname())) for each in CLIENTS
            }
            pair = Pair(Asking(POLICIES[0], clock), Asking(POLICIES[0], clock), clock, servers, clients)
            pair.reading.engine.start(servers)
            for happening in rounds:
                for act, *rest in happening:
                    if act == "complete":
                        await pair.complete()
                    elif act == "wait":
                        clock.wait(rest[0])
                    elif act == "wall":
                        clock.wall += rest[0]
                    else:
                        pair.load(rest[0], keep_cache=rest[1])
                for _ in range(2):
                    burst = [
                        (client, query(*asked, ident=next(idents), rd=rd, edns=edns))
                        for client in who
                        for asked, edns, rd in palette
                    ]
                    await pair.ask(burst)
                await pair.complete()
            pair.reading.engine.stop()
        reading, stepping = pair.reading.engine.counters(), pair.stepping.engine.counters()
        assert reading.internal_errors == stepping.internal_errors == 0
        assert reading.dropped == stepping.dropped
        assert without_zeros(reading.outcomes) == without_zeros(stepping.outcomes)

    run(work)


def without_zeros(counts: Mapping[Outcome, int]) -> dict[Outcome, int]:
    return {outcome: count for outcome, count in counts.items() if count}
