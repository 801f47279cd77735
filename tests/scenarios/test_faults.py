"""Faults injected at the upstreams, one by one and in pairs: every client hears in time, and never what is not its own.

Whatever goes wrong, a query ends with the right answer, with TC, or with a SERVFAIL that says why, by the
deadline; and descriptors, memory and the upstreams' good name are back afterwards.
"""

import random
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import pytest

from tests.scenarios.client import SERVFAIL, TC, Edns, Response, TcpClient, UdpClient, ask, query, read
from tests.scenarios.conftest import Start
from tests.scenarios.expect import LISTED, MANAGED, check_clean, check_sinkholed, policy
from tests.scenarios.service import Service, eventually
from tests.scenarios.test_load import descriptors, resident
from tests.scenarios.upstream import (
    SILENCE,
    Action,
    Asked,
    Close,
    Handler,
    Raw,
    Send,
    Upstream,
    address_for,
    address_of,
    default,
    reply,
    truncated,
)

RIGHT = "192.0.2.80"
FORGED = "192.0.2.66"
OLD = "192.0.2.1"
STALE = 3  # EDE: Stale Answer
TIMEOUT_S, DEADLINE_S = 0.5, 2.0
SLACK_S = 1.0  # of a busy machine
TIMES = {"timeout": f"{TIMEOUT_S}s", "deadline": f"{DEADLINE_S}s", "max_concurrent": 4_000}
UNANSWERED = {13, 22, 23}  # EDE: Cached Error, No Reachable Authority, Network Error (RFC 8914)
FLOOD = 1_000
MIB = 1 << 20
NewUpstream = Callable[[], Upstream]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Upstream, Upstream]]:
    """Two upstreams for this module alone, whose queries have all to be plain ones."""
    with Upstream() as first, Upstream() as second:
        yield first, second
        check_clean(first)
        check_clean(second)


@pytest.fixture(scope="module")
def shared(pair: tuple[Upstream, Upstream], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that asks the two, and has opened its sockets to both."""
    with Service(tmp_path_factory.mktemp("faults"), policy(*pair, resolve=TIMES)) as service:
        pair[0].on("second.example", lambda asked: reply(asked, rcode=SERVFAIL))
        assert ask(service.dns, "second.example", "A").addresses == [address_of("second.example")]
        yield service


@pytest.fixture
def faulty(shared: Service, pair: tuple[Upstream, Upstream]) -> Iterator[Service]:
    """The service; after each test it answers and blocks as before, with what it had of the system."""
    files, memory = descriptors(shared.pid), resident(shared.pid)
    yield shared
    for upstream in pair:
        upstream.otherwise(default)
    name = f"well-{time.monotonic_ns()}.example"
    eventually("it is well again", lambda: ask(shared.dns, name, "A").addresses == [address_of(name)])
    check_sinkholed(ask(shared.dns, LISTED, "A", source=MANAGED))
    eventually("descriptors are given back", lambda: descriptors(shared.pid) <= files + 10)
    assert resident(shared.pid) - memory < 48 * MIB


def said(asked: Asked, address: str) -> bytes:
    """One address for the name asked: made from octets, for floods must not cost the upstream the time."""
    octets = default(asked)
    at = 12 + len(asked.question) + 12
    return octets[:at] + socket.inet_aton(address) + octets[at + 4 :]


def changed(asked: Asked, *, flip: int = 0, name: bytes = b"") -> bytes:
    """An answer with the forger's address under another id, or to another question of the same length."""
    octets = said(asked, FORGED)
    question = name + asked.question[len(name) :]
    return struct.pack("!H", asked.ident ^ flip) + octets[2:12] + question + octets[12 + len(question) :]


def bare(asked: Asked, flags: int) -> bytes:
    """A header with these flags and the question."""
    return struct.pack("!6H", asked.ident, flags, 1, 0, 0, 0) + asked.question


def cut_off(asked: Asked) -> bytes:
    """A record that says to be longer than its message."""
    octets = default(asked)
    at = 12 + len(asked.question) + 10
    return octets[:at] + b"\xff\xff" + octets[at + 2 :]


def framed(octets: bytes) -> bytes:
    """A message behind its length."""
    return struct.pack("!H", len(octets)) + octets


def by_tcp(then: Handler) -> Handler:
    """TC over UDP, and this over TCP."""
    return lambda asked: truncated(asked) if asked.transport == "udp" else then(asked)


def drip(asked: Asked) -> list[Action]:
    """An octet now and then."""
    return [Raw(framed(address_for(asked))[at : at + 1], after_s=0.2 * at) for at in range(40)]


class Losing:
    """Loses the first datagram for each name."""

    def __init__(self) -> None:
        self._lost: set[str] = set()

    def __call__(self, asked: Asked) -> bytes | Sequence[Action]:
        if asked.transport == "tcp" or asked.name in self._lost:
            return address_for(asked)
        self._lost.add(asked.name)
        return SILENCE


class Repeating:
    """Sends, before each answer, the last ones it gave to others, whatever port they went to."""

    def __init__(self) -> None:
        self._given: list[bytes] = []

    def __call__(self, asked: Asked) -> Sequence[Action]:
        old = [Send(octets) for octets in self._given[-5:]] if asked.transport == "udp" else []
        self._given.append(said(asked, RIGHT))
        return [*old, Send(said(asked, RIGHT), after_s=0.02)]


# What an upstream does, and whether the right answer can be had from it in the end
FAULTS: dict[str, tuple[Callable[[], Handler], bool]] = {
    "answers": (lambda: address_for, True),
    "answers after 0.3 s": (lambda: lambda asked: [Send(address_for(asked), after_s=0.3)], True),
    "answers twice": (lambda: lambda asked: [Send(address_for(asked))] * 2, True),
    "loses the first datagram": (Losing, True),
    "repeats old answers first": (Repeating, True),
    "answers under a wrong id first": (
        lambda: (
            lambda asked: [
                *([Send(changed(asked, flip=1))] if asked.transport == "udp" else ()),
                Send(address_for(asked), after_s=0.02),
            ]
        ),
        True,
    ),
    "answers over TCP": (lambda: by_tcp(address_for), True),
    "is silent": (lambda: lambda _: SILENCE, False),
    "answers after the deadline": (lambda: lambda asked: [Send(address_for(asked), after_s=DEADLINE_S + 0.5)], False),
    "says SERVFAIL": (lambda: lambda asked: reply(asked, rcode=SERVFAIL), False),
    "says REFUSED": (lambda: lambda asked: reply(asked, rcode=5), False),
    "sends rubbish behind the right id": (lambda: lambda asked: [Send(asked.octets[:2] + b"\xa5" * 60)], False),
    "sends a record that is cut off": (lambda: cut_off, False),
    "answers under a wrong id": (lambda: lambda asked: [Send(changed(asked, flip=1))], False),
    "answers another question": (lambda: lambda asked: [Send(changed(asked, name=b"\4else"))], False),
    "truncates, and refuses to go on over TCP": (lambda: by_tcp(lambda _: [Close()]), False),
    "truncates, and is silent over TCP": (lambda: by_tcp(lambda _: SILENCE), False),
    "truncates, and drips over TCP": (lambda: by_tcp(drip), False),
    "truncates, and answers another question over TCP": (
        lambda: by_tcp(lambda asked: [Send(changed(asked, name=b"\4else"))]),
        False,
    ),
}
PAIRS = list(product(FAULTS, FAULTS))


def wrong_with(response: Response, *, can_answer: bool) -> str:
    """Say what is wrong with the outcome of a query; empty: nothing is."""
    if response.addresses == [RIGHT]:
        return ""
    if response.answer:
        return f"{response.texts}, which nobody gave for this name"
    if can_answer:
        return f"no answer, though it could be had: rcode {response.rcode}, {response.ede}"
    if response.rcode == SERVFAIL and UNANSWERED & {code for code, _ in response.ede}:
        return ""
    return "" if response.flags & TC else f"rcode {response.rcode} without a reason: {response.ede}"


def inject(pair: tuple[Upstream, Upstream], names: Sequence[str]) -> None:
    """Give each name a pair of faults, one of each upstream."""
    for side, upstream in enumerate(pair):
        handlers = {what: make() for what, (make, _) in FAULTS.items()}
        for name, both in zip(names, PAIRS, strict=True):
            upstream.on(name, handlers[both[side]])


def outcomes(client: UdpClient, names: Sequence[str]) -> dict[tuple[str, str], Response | None]:
    """Ask for all names at once; by the pair of faults, what came within the deadline."""
    for number, name in enumerate(names):
        client.send(query(name, "A", ident=number, edns=Edns()))
    got = client.gather(len(names), timeout_s=DEADLINE_S + SLACK_S)
    return {both: read(got[number]) if number in got else None for number, both in enumerate(PAIRS)}


def test_any_two_faults_at_once_end_in_an_answer_or_in_an_explained_failure_by_the_deadline(
    faulty: Service, pair: tuple[Upstream, Upstream]
) -> None:
    """All pairs at once, each under a name of its own. One upstream that can answer is enough.

    Where one truncates, TC is an answer too: questions share connections, and what is said on one may end the others.
    Who then comes by TCP gets it all.
    """
    names = [f"{number:04}.pair.example" for number in range(len(PAIRS))]  # the first label is as long as `else`
    inject(pair, names)
    started = time.monotonic()
    with UdpClient(faulty.dns) as client:
        wrong = []
        for both, first in outcomes(client, names).items():
            can_answer = any(FAULTS[each][1] for each in both)
            is_cut = can_answer and first is not None and first.flags & TC
            response = ask(faulty.dns, names[PAIRS.index(both)], "A", tcp=True) if is_cut else first
            if what := "silence" if response is None else wrong_with(response, can_answer=can_answer):
                wrong.append(f"{both}: {what}")
        for name, both in zip(names, PAIRS, strict=True):
            if (count := sum(len(each.queries(name)) for each in pair)) > 12:
                wrong.append(f"{both}: {count} queries upstream")
        assert not wrong, "\n".join(wrong)
        time.sleep(max(0.0, started + DEADLINE_S + 0.7 - time.monotonic()))  # until the late answers have come
        assert client.drain() == [], "a second answer"
    for upstream, name in product(pair, names):
        upstream.on(name, address_for)
    for name in names:
        eventually(f"{name} is well", lambda name=name: ask(faulty.dns, name, "A").addresses == [RIGHT])  # type: ignore[misc]


def test_with_an_expired_answer_at_hand_any_two_faults_end_in_an_answer(
    faulty: Service, pair: tuple[Upstream, Upstream]
) -> None:
    """RFC 8767 5: the fresh one where it can be had before the client has waited too long, else the stale one.

    Over UDP, TC instead, where an upstream truncates: the client then comes by TCP.
    """
    names = [f"{number:04}.stale.example" for number in range(len(PAIRS))]
    for upstream, name in product(pair, names):
        upstream.on(name, f"{name} 1 IN A {OLD}")
    with UdpClient(faulty.dns) as client:
        assert all(each is not None and each.addresses == [OLD] for each in outcomes(client, names).values())
        time.sleep(1.2)
        inject(pair, names)
        wrong = []
        for both, response in outcomes(client, names).items():
            if response is None:
                wrong.append(f"{both}: silence")
            elif response.addresses == [OLD]:
                if [code for code, _ in response.ede] != [STALE] or response.lowest_ttl > 30:
                    wrong.append(f"{both}: stale, and does not say so: {response.message}")
            elif response.addresses != [RIGHT] and not response.flags & TC:
                wrong.append(f"{both}: rcode {response.rcode}, {response.texts}, {response.ede}")
        assert not wrong, "\n".join(wrong)


def test_over_a_bad_line_nearly_every_question_is_answered_and_none_wrongly(
    faulty: Service, pair: tuple[Upstream, Upstream]
) -> None:
    """500 questions, both upstreams: 30 % lost, some late, some twice, some turned into rubbish. Seeded."""
    chance = random.Random(1035)

    def bad_line(asked: Asked) -> bytes | Sequence[Action]:
        right = said(asked, address_of(asked.name))
        if asked.transport == "tcp":
            return right
        if chance.random() < 0.3:
            return SILENCE
        bad = [Send(right[:2] + chance.randbytes(40))] if chance.random() < 0.2 else []
        late = chance.choice((0.0, 0.01, 0.1, 0.3))
        return [*bad, *[Send(right, after_s=late)] * chance.choice((1, 1, 1, 2, 5))]

    for upstream in pair:
        upstream.otherwise(bad_line)
    with UdpClient(faulty.dns) as client:
        for number in range(500):
            client.send(query(f"line-{number}.example", "A", ident=number, edns=Edns()))
        got = client.gather(500, timeout_s=DEADLINE_S + SLACK_S)
        assert sorted(got) == list(range(500)), "silence"
        assert client.drain() == [], "a second answer"
    failed = 0
    for number, octets in got.items():
        response = read(octets)
        if response.rcode == SERVFAIL:
            assert UNANSWERED & {code for code, _ in response.ede}
            failed += 1
        else:
            assert response.addresses == [address_of(f"line-{number}.example")]
    assert failed <= 25, f"{failed} of 500: four tries of which each is lost three times in ten"


# Floods


def flood(of: Callable[[Asked, int], Send]) -> Handler:
    """So many datagrams for one query, and the right answer a moment later; over TCP the right answer."""

    def handler(asked: Asked) -> bytes | Sequence[Action]:
        if asked.transport == "tcp":
            return address_for(asked)
        return [*(of(asked, number) for number in range(FLOOD)), Send(address_for(asked), after_s=0.1)]

    return handler


FLOODS = [
    pytest.param(lambda asked, n: Send(changed(asked, flip=n % 0xFFFF + 1)), id="wrong ids, CVE-2008-1447"),
    pytest.param(lambda asked, n: Send(changed(asked, name=b"\4%04d" % n)), id="answers to other questions"),
    pytest.param(lambda asked, n: Send(said(asked, RIGHT)), id="the right answer over and over"),
    pytest.param(lambda asked, n: Send(changed(asked), elsewhere=True), id="from another port"),
    pytest.param(lambda asked, n: Send(asked.octets[:2] + b"\xa5" * (n * 4)), id="rubbish behind the right id"),
    pytest.param(lambda asked, n: Send(b"\xff" * (n % 12)), id="empty and short datagrams"),
    pytest.param(lambda asked, n: Send(asked.octets), id="the query itself"),
    pytest.param(lambda asked, n: Send(bare(asked, 0x8380)), id="TC over and over"),
]


@pytest.mark.parametrize("of", FLOODS)
def test_an_upstream_that_sends_1000_datagrams_for_one_query_holds_up_nobody(
    faulty: Service, pair: tuple[Upstream, Upstream], of: Callable[[Asked, int], Send], request: pytest.FixtureRequest
) -> None:
    """Five such queries at once: one right answer each, and ordinary and blocked names at once all the while."""
    names = [f"4{n:03}.flood-{abs(hash(request.node.name)):x}.example" for n in range(5)]
    for upstream, name in product(pair, names):
        upstream.on(name, flood(of))
    with UdpClient(faulty.dns) as client:
        for number, name in enumerate(names):
            client.send(query(name, "A", ident=number))
        for number in range(5):
            started = time.monotonic()
            check_sinkholed(ask(faulty.dns, f"meanwhile-{number}.{LISTED}", "A", source=MANAGED))
            assert time.monotonic() - started < 0.3
        ordinary = f"ordinary.{names[0]}"
        assert ask(faulty.dns, ordinary, "A").addresses == [address_of(ordinary)]
        got = client.gather(len(names), timeout_s=DEADLINE_S + SLACK_S)
        assert [read(got[number]).addresses for number in range(len(names))] == [[RIGHT]] * len(names)
        assert client.drain() == [], "a second answer"


def test_of_every_answer_to_everyone_each_client_gets_its_own(faulty: Service, pair: tuple[Upstream, Upstream]) -> None:
    """50 questions in flight; the upstream sends all answers to all ports that asked, its right one last."""
    waiting: dict[str, Asked] = {}

    def everyone(asked: Asked) -> Sequence[Action]:
        if asked.transport == "tcp":
            return SILENCE
        waiting[asked.name] = asked
        if len(waiting) < 50:
            return SILENCE
        everybody = list(waiting.values())
        strange = [Send(default(b), to=a.source) for a, b in product(everybody, repeat=2) if a is not b]
        return [*strange, *(Send(default(each), after_s=0.1, to=each.source) for each in everybody)]

    names = [f"everyone-{number}.example" for number in range(50)]
    for upstream, name in product(pair, names):
        upstream.on(name, everyone)
    with UdpClient(faulty.dns) as client:
        for number, name in enumerate(names):
            client.send(query(name, "A", ident=number))
        got = client.gather(len(names), timeout_s=DEADLINE_S + SLACK_S)
    assert {number: read(octets).addresses for number, octets in got.items()} == {
        number: [address_of(name)] for number, name in enumerate(names)
    }


@pytest.mark.parametrize(
    "then",
    [
        pytest.param(lambda asked: [Raw(framed(address_for(asked)) * FLOOD)], id="the answer 1,000 times"),
        pytest.param(
            lambda asked: [Raw(framed(address_for(asked)) + b"\xa5" * 500_000)], id="rubbish behind the answer"
        ),
        pytest.param(lambda asked: [Raw(b"\0\0" * 1000 + framed(address_for(asked)))], id="1,000 empty messages first"),
        pytest.param(lambda asked: [Raw(framed(b"x" * 11)), Close(0.01)], id="11 octets"),
        pytest.param(lambda asked: [Raw(framed(asked.octets[:12])), Close(0.01)], id="the query's header"),
    ],
)
def test_too_much_and_too_little_over_tcp_is_an_answer_or_a_failure(
    faulty: Service, pair: tuple[Upstream, Upstream], then: Handler, request: pytest.FixtureRequest
) -> None:
    """20 at once, from UDP and TCP clients; what is well-formed and the answer may be taken, nothing else."""
    names = [f"{n}.stream-{abs(hash(request.node.name)):x}.example" for n in range(20)]
    for upstream, name in product(pair, names):
        upstream.on(name, by_tcp(then))
    with UdpClient(faulty.dns) as udp, TcpClient(faulty.dns) as tcp:
        for number, name in enumerate(names):
            (tcp if number % 2 else udp).send(query(name, "A", ident=number, edns=Edns()))
        got = [*udp.gather(10, DEADLINE_S + SLACK_S).values(), *tcp.gather(10, DEADLINE_S + SLACK_S)]
    responses = [read(octets) for octets in got]
    assert sorted(response.ident for response in responses) == list(range(20))
    assert not [what for response in responses if (what := wrong_with(response, can_answer=False))]


# Ports that close


def test_upstreams_that_vanish_while_100_questions_are_out(faulty: Service, pair: tuple[Upstream, Upstream]) -> None:
    """Each is told of it by the deadline, and within seconds of the return all is well."""
    names = [f"vanish-{number}.example" for number in range(100)]
    for upstream, name in product(pair, names):
        upstream.on(name, SILENCE)
    with UdpClient(faulty.dns) as client:
        for number, name in enumerate(names):
            client.send(query(name, "A", ident=number, edns=Edns()))
        eventually("the last one is out", lambda: any(upstream.queries(names[-1]) for upstream in pair), every_s=0.01)
        for upstream in pair:
            upstream.stop()
        got = client.gather(len(names), timeout_s=DEADLINE_S + SLACK_S)
    assert sorted(got) == list(range(len(names)))
    assert not [what for octets in got.values() if (what := wrong_with(read(octets), can_answer=False))]
    check_sinkholed(ask(faulty.dns, LISTED, "A", source=MANAGED))
    for upstream, name in product(pair, names):
        upstream.on(name, address_for)
    for upstream in pair:
        upstream.start()
    eventually("it answers again", lambda: ask(faulty.dns, names[0], "A").addresses == [RIGHT], timeout_s=10)


def test_while_the_upstreams_come_and_go_in_turn_nobody_is_left_without_an_answer(
    faulty: Service, pair: tuple[Upstream, Upstream]
) -> None:
    """One of the two is there at any time: at most a few questions, those in flight at a change, may fail."""
    failed = []
    with UdpClient(faulty.dns) as client:
        for turn in range(6):
            pair[turn % 2].stop()
            for number in range(20):
                client.send(query(f"turn-{turn}-{number}.example", "A", ident=number))
            got = client.gather(20, timeout_s=DEADLINE_S + SLACK_S)
            assert sorted(got) == list(range(20)), "silence"
            for number, octets in got.items():
                response = read(octets)
                if response.addresses != [address_of(f"turn-{turn}-{number}.example")]:
                    assert response.rcode == SERVFAIL
                    failed.append((turn, number))
            pair[turn % 2].start()
    assert len(failed) <= 6, failed


def test_a_service_whose_upstreams_drip_and_flood_ends_at_once_when_told(start: Start, upstreams: NewUpstream) -> None:
    """What is in flight does not hold up the end; `Service` fails on a traceback or a late end."""
    upstream = upstreams()
    for n in range(20):
        upstream.on(f"drip-{n}.example", by_tcp(drip))
        upstream.on(f"4{n:03}.example", flood(lambda asked, n: Send(changed(asked, name=b"\4%04d" % n))))
    service = start(policy(upstream))
    client = UdpClient(service.dns)
    for n in range(20):
        client.send(query(f"drip-{n}.example", "A"))
        client.send(query(f"4{n:03}.example", "A"))
    upstream.wait("drip-19.example", 2)
    client.socket.close()
