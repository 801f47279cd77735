"""Upstreams that lose, forge, break, truncate and fail: what dnsfilter asks of them, and what it believes."""

import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest

from tests.scenarios.client import (
    AA,
    AD,
    CD,
    COOKIE,
    ECS,
    FORMERR,
    KEEPALIVE,
    NOERROR,
    NOTIMP,
    NSID,
    QR,
    RA,
    SERVFAIL,
    TC,
    Address,
    Edns,
    Response,
    UdpClient,
    ask,
    check_echo,
    exchange,
    labels,
    query,
    read,
    walk,
)
from tests.scenarios.conftest import Start
from tests.scenarios.expect import MANAGED, check_clean, policy, where
from tests.scenarios.service import Service
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
    heavy_names,
    nodata,
    reply,
    truncated,
)

QUICK = {"timeout": "0.5s", "deadline": "1s"}
RIGHT = "192.0.2.80"
FORGED = "192.0.2.66"
NewUpstream = Callable[[], Upstream]


# Loss and failover


@pytest.mark.parametrize("lost", [1, 2])
def test_the_first_datagrams_to_upstream_are_lost(start: Start, upstreams: NewUpstream, lost: int) -> None:
    """Answered within 6 s of one client query (RFC 1035 4.2.1, 7.2)."""
    upstream = upstreams()
    service = start(policy(upstream))
    upstream.on(
        "lost.example", lambda asked: default(asked) if len(upstream.queries("lost.example")) > lost else SILENCE
    )
    started = time.monotonic()
    assert ask(service.dns, "lost.example", "A").addresses == [address_of("lost.example")]
    assert time.monotonic() - started < 6
    check_clean(upstream)


def test_an_answer_that_takes_a_second_and_a_half_arrives(server: Address, upstream: Upstream) -> None:
    """RFC 1035 7.2."""
    upstream.on("late.example", lambda asked: [Send(address_for(asked), after_s=1.5)])
    assert ask(server, "late.example", "A").addresses == [RIGHT]


@pytest.mark.parametrize("down", [pytest.param(0, id="the first"), pytest.param(1, id="the second")])
def test_an_upstream_whose_port_is_closed_is_passed_over(start: Start, upstreams: NewUpstream, down: int) -> None:
    """The other serves, each answer within 3 s (RFC 1035 7.2)."""
    both = upstreams(), upstreams()
    both[down].stop()
    service = start(policy(*both))
    for number in range(10):
        name = f"down-{number}.example"
        assert ask(service.dns, name, "A", timeout_s=3).addresses == [address_of(name)]
    assert both[1 - down].queries("down-9.example")


@pytest.mark.parametrize("silent", [pytest.param(0, id="the first"), pytest.param(1, id="the second")])
def test_a_silent_upstream_is_passed_over_and_the_server_learns(
    start: Start, upstreams: NewUpstream, silent: int
) -> None:
    """Each answer after one time-out of 1 s at most, later ones in under 1 s (median) (RFC 1035 7.2)."""
    both = upstreams(), upstreams()
    both[silent].otherwise(SILENCE)
    service = start(policy(*both, resolve={"timeout": "1s"}))
    took = []
    for number in range(12):
        name = f"silent-{number}.example"
        started = time.monotonic()
        assert ask(service.dns, name, "A").addresses == [address_of(name)]
        took.append(time.monotonic() - started)
    assert statistics.median(took[4:]) < 1
    assert max(took) < 1.8, f"the silent one was asked twice: {[round(each, 1) for each in took]}"


@pytest.mark.parametrize("rcode", [pytest.param(SERVFAIL, id="SERVFAIL"), pytest.param(5, id="REFUSED")])
def test_one_upstream_answers_with_an_error_and_the_other_is_asked(
    start: Start, upstreams: NewUpstream, rcode: int
) -> None:
    """RFC 1034 5.3.3 step 4d, RFC 9520 3.1."""
    both = upstreams(), upstreams()
    both[0].otherwise(lambda asked: reply(asked, rcode=rcode))
    service = start(policy(*both))
    for number in range(5):
        name = f"error-{number}.example"
        assert ask(service.dns, name, "A").addresses == [address_of(name)]


@pytest.mark.parametrize("gone", [pytest.param(False, id="silent"), pytest.param(True, id="port closed")])
@pytest.mark.parametrize("at_once", [pytest.param(1, id="one by one"), pytest.param(20, id="with 20 questions out")])
def test_the_first_upstream_is_used_again_within_seconds_of_its_return(
    start: Start, upstreams: NewUpstream, gone: bool, at_once: int
) -> None:
    """RFC 1035 7.2: 5 s after a short absence; that many questions failed at once makes it no longer one."""
    first, second = upstreams(), upstreams()
    first.otherwise(SILENCE)
    if gone:
        first.stop()
    service = start(policy(first, second, resolve={"timeout": "0.2s", "deadline": "1s"}))
    with UdpClient(service.dns) as client:
        for base in range(0, max(4, at_once), at_once):
            names = {number: f"away-{number}.example" for number in range(base, base + at_once)}
            for number, name in names.items():
                client.send(query(name, "A", ident=number))
            got = client.gather(at_once)
            assert {number: read(got[number]).addresses for number in names} == {
                number: [address_of(name)] for number, name in names.items()
            }
    first.otherwise(default)
    if gone:
        first.start()
    until = time.monotonic() + 5
    number = 0
    while not first.queries(f"back-{number - 1}.example"):
        assert time.monotonic() < until, "not asked again"
        assert ask(service.dns, f"back-{number}.example", "A").addresses == [address_of(f"back-{number}.example")]
        number += 1
        time.sleep(0.1)


@pytest.mark.parametrize("gone", [pytest.param(False, id="silent"), pytest.param(True, id="ports closed")])
def test_without_any_upstream_there_is_an_error_and_no_silence(
    start: Start, upstreams: NewUpstream, gone: bool
) -> None:
    """SERVFAIL within 10 s, explained if the query had OPT (RFC 2308 7.2, RFC 9520 2.2, RFC 8914); few datagrams."""
    both = upstreams(), upstreams()
    for each in both:
        each.otherwise(SILENCE)
        if gone:
            each.stop()
    service = start(policy(*both))
    with UdpClient(service.dns) as client:
        client.send(query("nobody-a.example", "A", ident=1, edns=Edns()))
        client.send(query("nobody-b.example", "A", ident=2))
        got = {ident: read(octets) for ident, octets in client.gather(2, timeout_s=10).items()}
    assert got[1].rcode == got[2].rcode == SERVFAIL
    assert [code for code, _ in got[1].ede][:1] in ([22], [23])
    assert got[2].opt is None
    assert sum(len(each.queries("nobody-a.example")) for each in both) <= 20


# Whose answer it is


def test_100_queries_in_flight_answered_out_of_order(server: Address, upstream: Upstream) -> None:
    """Each client its own answer (RFC 1035 7.3, RFC 5452 3)."""

    def backwards(asked: Asked) -> list[Action]:
        number = int(asked.name.split(".")[0].removeprefix("order-"))
        return [Send(default(asked), after_s=0.3 - number * 0.002)]

    with UdpClient(server) as client:
        for number in range(100):
            upstream.on(f"order-{number}.example", backwards)
            client.send(query(f"order-{number}.example", "A", ident=number))
        got = client.gather(100)
    assert {ident: read(octets).addresses for ident, octets in got.items()} == {
        number: [address_of(f"order-{number}.example")] for number in range(100)
    }


def forged(asked: Asked, **changed: bytes | int) -> bytes:
    """An answer with the forger's address, and something changed: id, flags, question."""
    octets = reply(asked, f"{asked.name} 300 IN A {FORGED}")
    question = changed.get("question", asked.question)
    ident = changed.get("ident", asked.ident)
    flags = changed.get("flags", 0x8180)
    assert isinstance(question, bytes)
    assert isinstance(ident, int)
    assert isinstance(flags, int)
    behind = octets[12 + len(asked.question) :]
    return struct.pack("!HH", ident, flags) + octets[4:12] + question + behind


NOT_BELIEVED: list[object] = [
    pytest.param(lambda asked: [Send(forged(asked, ident=asked.ident ^ 1))], id="wrong id, RFC 5452 9.1"),
    pytest.param(
        lambda asked: [Send(forged(asked, ident=asked.ident + 1 + n & 0xFFFF)) for n in range(500)],
        id="500 wrong ids, CVE-2008-1447",
    ),
    pytest.param(
        lambda asked: [Send(forged(asked, question=asked.question[:-4] + b"\0\x1c\0\1"))],
        id="another type, RFC 5452 9.1",
    ),
    pytest.param(
        lambda asked: [Send(forged(asked, question=asked.question[:-4] + b"\0\1\0\3"))],
        id="another class, RFC 5452 9.1",
    ),
    pytest.param(
        lambda asked: [Send(forged(asked, question=labels(b"other", b"example") + b"\0\1\0\1"))],
        id="another name, RFC 5452 9.1",
    ),
    pytest.param(lambda asked: [Send(forged(asked), elsewhere=True)], id="another port, RFC 5452 9.1"),
    pytest.param(
        lambda asked: [
            Send(forged(asked)[:4] + b"\0\0\0\1\0\0\0\0" + asked.question[:-4] + b"\0\1\0\1\0\0\1\0\0\4\xc0\0\2\x42")
        ],
        id="no question section, RFC 9619 3",
    ),
    pytest.param(
        lambda asked: [Send(forged(asked, flags=0x0100))], id="a query in the place of the answer, RFC 1035 4.1.1"
    ),
    pytest.param(lambda asked: [Send(forged(asked, flags=0xA180))], id="another opcode, RFC 1035 4.1.1"),
    pytest.param(lambda asked: [Send(asked.octets)], id="the query itself"),
    pytest.param(lambda asked: [Send(asked.octets[:2])], id="2 octets"),
    pytest.param(lambda asked: [Send(b"")], id="an empty datagram"),
    pytest.param(lambda asked: [Send(asked.octets[:2] + b"\xa5" * 60)], id="rubbish behind the right id"),
]


@pytest.mark.parametrize("lie", NOT_BELIEVED)
def test_what_is_no_answer_is_not_believed_and_the_right_one_is_accepted(
    server: Address, upstream: Upstream, lie: Callable[[Asked], list[Action]], request: pytest.FixtureRequest
) -> None:
    """A forged answer neither is believed nor spoils the query: the right one, a moment later, counts."""
    name = f"lie-{abs(hash(request.node.name)):x}.example"
    upstream.on(name, lambda asked: [*lie(asked), Send(address_for(asked), after_s=0.1)])
    for _ in range(2):
        assert ask(server, name, "A").addresses == [RIGHT]
    assert ask(server, "other.example", "A").addresses == [address_of("other.example")]


def test_two_identical_answers_make_one_answer_to_the_client(server: Address, upstream: Upstream) -> None:
    """RFC 1035 7.3."""
    upstream.on("double.example", lambda asked: [Send(address_for(asked))] * 2)
    with UdpClient(server) as client:
        client.send(query("double.example", "A", ident=1))
        assert len(client.drain(0.2)) == 1


def test_the_question_in_lower_case_is_accepted_and_the_clients_spelling_kept(
    server: Address, upstream: Upstream
) -> None:
    """RFC 4343 4.1, 0x20: `ask` fails on another spelling."""

    def lower(asked: Asked) -> bytes:
        octets = default(asked)
        return octets[:12] + asked.question[:-4].lower() + octets[12 + len(asked.question) - 4 :]

    upstream.on("case.example", lower)
    assert ask(server, "CaSe.ExAmPlE", "A").addresses == [address_of("case.example")]


def test_owner_names_in_another_case_pass(server: Address, upstream: Upstream) -> None:
    """RFC 4343 4."""
    records = ["OWNER.example 300 IN CNAME TaRgEt.example", "target.EXAMPLE 300 IN A 192.0.2.80"]
    upstream.on("owner.example", records)
    for _ in range(2):
        assert ask(server, "owner.example", "A").addresses == [RIGHT]


def test_an_answer_with_records_for_another_name_only(server: Address, upstream: Upstream) -> None:
    """No data for the client's name, and nothing kept for the other (RFC 1034 5.3.3, RFC 5452 6)."""
    upstream.on("asked.example", f"unasked.example 300 IN A {FORGED}")
    response = ask(server, "asked.example", "A")
    assert not response.answer
    assert ask(server, "unasked.example", "A").addresses == [address_of("unasked.example")]


@pytest.mark.parametrize("listed", [pytest.param(True, id="of a listed name"), pytest.param(False, id="of any name")])
def test_strays_in_the_answer_section_are_removed(server: Address, upstream: Upstream, listed: bool) -> None:
    """Only the question's chain is an answer (RFC 5452 6); fresh and cached."""
    name = f"stray-{listed}.example"
    other = "stray.banned.example" if listed else "stray.example"
    upstream.on(name, [f"{name} 300 IN A {RIGHT}", f"{other} 300 IN A {FORGED}"])
    for _ in range(2):
        assert ask(server, name, "A", source=MANAGED).texts == [f"{name.lower()}. 300 IN A {RIGHT}"]


# Ports and ids


def ports_of(asked: Sequence[Asked]) -> list[int]:
    """The source ports of UDP queries in order."""
    return [each.source[1] for each in asked if each.transport == "udp"]


def test_source_ports_and_ids_cannot_be_guessed(server: Address, upstream: Upstream) -> None:
    """200 queries leave from at least 100 ports, not in sequence; the clients' ids are not used (RFC 5452 9.2)."""
    seen = []
    with UdpClient(server) as client:
        for base in range(0, 200, 50):
            for number in range(base, base + 50):
                client.send(query(f"port-{number}.example", "A", ident=number))
            assert len(client.gather(50)) == 50
    for number in range(200):
        seen += upstream.queries(f"port-{number}.example")
    seen.sort(key=lambda each: each.at)
    ports = ports_of(seen)
    assert len(set(ports)) >= 100
    steps = [after - before for before, after in pairwise(ports)]
    assert sum(abs(step) <= 2 for step in steps) < 20
    same = [each for each in seen if f"port-{each.ident}.example." == each.name]
    assert len(same) <= 2
    idents = [each.ident for each in seen]
    assert len(set(idents)) >= 195
    assert sum(0 <= after - before <= 2 for before, after in pairwise(idents)) < 20


def test_a_retry_has_another_id_and_port(start: Start, upstreams: NewUpstream) -> None:
    """RFC 5452 9.2: each query anew."""
    upstream = upstreams()
    upstream.otherwise(SILENCE)
    service = start(policy(upstream, resolve=QUICK))
    assert ask(service.dns, "retried.example", "A").rcode == SERVFAIL
    asked = upstream.queries("retried.example")
    assert len({(each.ident, each.source) for each in asked}) == len(asked)


# EDNS and options


@pytest.mark.parametrize(
    ("rcode", "bare"),
    [
        pytest.param(NOTIMP, False, id="NOTIMP"),
        pytest.param(FORMERR, False, id="FORMERR"),
        pytest.param(FORMERR, True, id="FORMERR, a bare header"),
    ],
)
def test_an_upstream_without_edns_is_asked_again_without(
    start: Start, upstreams: NewUpstream, rcode: int, bare: bool
) -> None:
    """RFC 6891 6.2.2 and 7: for clients with OPT and without."""
    upstream = upstreams()

    def old(asked: Asked) -> bytes:
        if asked.message.edns < 0:
            return default(asked)
        header = struct.pack("!6H", asked.ident, QR | RA | 0x0100 | rcode, 0 if bare else 1, 0, 0, 0)
        return header if bare else header + asked.question

    upstream.otherwise(old)
    service = start(policy(upstream))
    for name, edns in {"with.example": Edns(), "without.example": None}.items():
        assert ask(service.dns, name, "A", edns=edns, timeout_s=3).addresses == [address_of(name)]


@pytest.mark.parametrize("rcode", [pytest.param(16, id="BADVERS"), pytest.param(23, id="BADCOOKIE"), 4000, 4, 6, 9, 11])
@pytest.mark.parametrize("edns", [pytest.param(None, id="no OPT"), pytest.param(Edns(), id="OPT")])
def test_an_unusual_rcode_from_upstream_does_no_harm(
    server: Address, upstream: Upstream, rcode: int, edns: Edns | None
) -> None:
    """RFC 6891 6.1.3, RFC 7873: an error without data, and the next query is served."""
    name = f"rcode-{rcode}-{edns is None}.example"

    def unusual(asked: Asked) -> bytes:
        header = struct.pack("!6H", asked.ident, QR | RA | 0x0100 | rcode & 15, 1, 0, 0, 1)
        return header + asked.question + b"\0\0\x29\x04\xd0" + bytes([rcode >> 4]) + bytes(5)

    upstream.on(name, unusual)
    response = ask(server, name, "A", edns=edns)
    assert response.rcode != NOERROR
    assert not response.answer
    assert ask(server, "usual.example", "A").addresses == [address_of("usual.example")]


def test_no_option_of_the_client_goes_upstream(server: Address, upstream: Upstream) -> None:
    """ECS (RFC 7871 11.1), COOKIE (RFC 7873 5.2: hop by hop), KEEPALIVE (RFC 7828 3) and unknown ones."""
    options = (
        (ECS, b"\0\1\x18\0\xc0\0\2"),
        (COOKIE, b"c00k1e-!"),
        (KEEPALIVE, b""),
        (NSID, b""),
        (65001, b"pr1vate"),
    )
    for tcp in (False, True):
        name = f"private-{tcp}.example"
        ask(server, name, "A", edns=Edns(options=options), tcp=tcp)
        for asked in upstream.queries(name):
            assert not asked.message.options
            assert b"c00k1e" not in asked.octets
            assert b"pr1vate" not in asked.octets


def test_the_clients_address_is_nowhere_in_the_query(server: Address, upstream: Upstream) -> None:
    """RFC 7871 11.1: no ECS is added."""
    ask(server, "address.example", "A", source="127.0.77.88", edns=Edns())
    for asked in upstream.queries("address.example"):
        assert bytes([127, 0, 77]) not in asked.octets
        assert asked.source[0] != "127.0.77.88"


def test_upstreams_options_do_not_reach_the_client(server: Address, upstream: Upstream) -> None:
    """COOKIE, NSID and unknown ones (RFC 7873 5.3, RFC 5001, RFC 6891 6.1.2); fresh and cached."""

    def talkative(asked: Asked) -> bytes:
        options = [(COOKIE, b"c" * 16), (NSID, b"server"), (ECS, b"\0\1\x18\x18\xc0\0\2"), (65001, b"x")]
        return reply(asked, f"{asked.name} 300 IN A {RIGHT}", options=options)

    upstream.on("talkative.example", talkative)
    for _ in range(2):
        response = ask(server, "talkative.example", "A", edns=Edns(options=((NSID, b""),)))
        assert response.addresses == [RIGHT]
        assert not response.options


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param({}, id="plain"),
        pytest.param({"rd": False}, id="RD=0"),
        pytest.param({"flags": AA | TC | RA | AD | CD | 0x40}, id="every other flag"),
        pytest.param({"edns": Edns(size=4096, do=True, flags=0x7FFF)}, id="EDNS with flags"),
        pytest.param({"tcp": True}, id="over TCP"),
        pytest.param({"rdtype": "TYPE65400"}, id="an unknown type"),
    ],
)
def test_queries_to_upstream_are_plain(
    server: Address, upstream: Upstream, sent: dict[str, object], request: pytest.FixtureRequest
) -> None:
    """RD=1, opcode 0, one question, no answer, no trailing octets, QR, AA, TC, RA and Z clear (RFC 1035, RFC 9619)."""
    name = f"clean-{abs(hash(request.node.name)):x}.example"
    arguments = dict(sent)
    tcp = bool(arguments.pop("tcp", False))
    octets = query(name, **arguments)  # type: ignore[arg-type]
    assert exchange(server, octets, tcp=tcp) is not None
    assert upstream.queries(name)
    check_clean(upstream)


# Broken answers


def well_formed(sent: bytes, octets: bytes) -> Response:
    """A response that parses, belongs to its query and has no forged data."""
    response = read(octets)
    check_echo(sent, response)
    return response


def breakages() -> Iterator[tuple[str, Callable[[bytes, Asked], bytes]]]:
    """Ways to break a good answer: what is wrong, and the function that does it."""
    good = 12 + 1 + 8 + 1 + 7 + 1 + 4  # header and a question like 'brokenNN.example'
    for end in range(0, good + 16, 3):
        yield f"cut at {end}", lambda octets, asked, end=end: octets[:end]  # type: ignore[misc]
    for at in (4, 6, 8, 10):
        for count in (0, 2, 255, 65535):
            yield (
                f"count at {at} is {count}",
                lambda octets, asked, at=at, count=count: octets[:at] + struct.pack("!H", count) + octets[at + 2 :],  # type: ignore[misc]
            )
    for length in (0, 3, 5, 255, 65535):
        yield (
            f"rdata length {length}",
            lambda octets, asked, length=length: (
                octets[: (a := 12 + len(asked.question) + 10)]  # type: ignore[misc]
                + struct.pack("!H", length)
                + octets[a + 2 :]
            ),
        )
    for pointer in (0xC000, 0xFFFF):
        yield (
            f"owner is a pointer to {pointer & 0x3FFF}",
            lambda octets, asked, pointer=pointer: (
                octets[: (a := 12 + len(asked.question))]  # type: ignore[misc]
                + struct.pack("!H", pointer)
                + octets[a + 2 :]
            ),
        )
    yield (
        "owner is a pointer to itself",
        lambda octets, asked: (
            octets[: (a := 12 + len(asked.question))] + struct.pack("!H", 0xC000 | a) + octets[a + 2 :]
        ),
    )
    yield "CNAME rdata is a pointer to itself", lambda octets, asked: rdata_pointer(asked, 0)
    yield "CNAME rdata points forward", lambda octets, asked: rdata_pointer(asked, 40)
    yield "CNAME rdata is a loop of labels", lambda octets, asked: rdata_loop(asked)
    yield "CNAME rdata longer than its name", lambda octets, asked: cname(asked, labels(b"a", b"example") + b"xxxx")
    yield "CNAME rdata shorter than its name", lambda octets, asked: cname(asked, labels(b"a", b"example")[:-3])
    yield "two OPT records", lambda octets, asked: with_records(octets, b"\0\0\x29\x04\xd0\0\0\0\0\0\0" * 2, 2)
    yield "OPT with an owner", lambda octets, asked: with_records(octets, b"\x01a\0\0\x29\x04\xd0\0\0\0\0\0\0", 1)
    yield "OPT past the end", lambda octets, asked: with_records(octets, b"\0\0\x29\x04\xd0\0\0\0\0\0\x40", 1)
    yield "option past the end", lambda o, asked: with_records(o, b"\0\0\x29\x04\xd0\0\0\0\0\0\4\0\x0a\0\x40", 1)
    yield "trailing octets", lambda octets, asked: octets + b"trailing"
    yield "oversize", lambda octets, asked: octets + bytes(60_000)
    yield (
        "a label type that does not exist",
        lambda o, a: o[: 12 + len(a.question)] + b"\x80" + o[13 + len(a.question) :],
    )
    yield "11 octets", lambda octets, asked: octets[:11]
    yield "NXDOMAIN without anything else", lambda octets, asked: octets[:3] + b"\x83" + bytes(8)
    yield "SERVFAIL with empty sections", lambda o, asked: o[:3] + b"\x82\0\1" + bytes(6) + asked.question
    yield "an extended rcode of 255 in OPT", lambda o, asked: with_records(o, b"\0\0\x29\x04\xd0\xff\0\0\0\0\0", 1)
    yield "only a header, NOERROR", lambda octets, asked: octets[:4] + bytes(8)
    yield "only a header and counts", lambda octets, asked: octets[:12]
    yield "nothing but OPT", lambda octets, asked: with_records(octets[:4] + bytes(8), b"\0\0\x29\4\xd0\0\0\0\0\0\0", 1)
    yield "everything empty, no SOA", lambda octets, asked: octets[:4] + b"\0\1" + bytes(6) + asked.question
    yield "class CH in the answer", lambda o, asked: o[: (a := 12 + len(asked.question) + 4)] + b"\0\3" + o[a + 2 :]
    yield (
        "OPT in the answer section",
        lambda o, asked: o[: (a := 12 + len(asked.question) + 2)] + b"\0\x29" + o[a + 2 :],
    )
    yield "SOA rdata cut", lambda octets, asked: authority(asked, b"\0\6\0\1\0\0\1\0\0\4\0\0\0\0")
    yield "SOA rdata of names that loop", lambda o, asked: authority(asked, b"\0\6\0\1\0\0\1\0\0\4\xc0\x0c\xc0\xff")
    yield "A of 3 octets", lambda octets, asked: typed(asked, 1, b"\xc0\0\2")
    yield "AAAA of 4 octets for A", lambda octets, asked: typed(asked, 28, b"\xc0\0\2\x07")
    yield "HTTPS cut", lambda octets, asked: typed(asked, 65, b"\0\1\0\0\1\0\x40h2")
    yield "TXT whose string runs off", lambda octets, asked: typed(asked, 16, b"\xffabc")
    yield "MX cut", lambda octets, asked: typed(asked, 15, b"\0")


def typed(asked: Asked, rdtype: int, rdata: bytes) -> bytes:
    """A response with one answer record of any type."""
    header = struct.pack("!6H", asked.ident, 0x8180, 1, 1, 0, 0)
    return header + asked.question + struct.pack("!HHHIH", 0xC00C, rdtype, 1, 300, len(rdata)) + rdata


def cname(asked: Asked, rdata: bytes) -> bytes:
    """A response with a CNAME whose rdata is any octets."""
    return typed(asked, 5, rdata)


def rdata_pointer(asked: Asked, forward: int) -> bytes:
    """A CNAME whose target is a pointer to itself or beyond."""
    at = 12 + len(asked.question) + 12
    return cname(asked, struct.pack("!H", 0xC000 | at + forward))


def rdata_loop(asked: Asked) -> bytes:
    """A CNAME whose target is a label and a pointer back to that label."""
    at = 12 + len(asked.question) + 12
    return cname(asked, b"\x01a" + struct.pack("!H", 0xC000 | at))


def with_records(octets: bytes, records: bytes, count: int) -> bytes:
    """The response with more additional records and its count set to theirs (its own OPT is left out)."""
    if octets.endswith(b"\0\0\x29\x04\xd0\0\0\0\0\0\0"):
        octets = octets[:-11]
    return octets[:10] + struct.pack("!H", count) + octets[12:] + records


def authority(asked: Asked, record: bytes) -> bytes:
    """NODATA with an authority record at the question's name."""
    return struct.pack("!6H", asked.ident, 0x8180, 1, 0, 1, 0) + asked.question + b"\xc0\x0c" + record


BROKEN = list(breakages())


@pytest.mark.parametrize("tcp", [pytest.param(False, id="over UDP"), pytest.param(True, id="over TCP")])
def test_broken_upstream_answers_of_any_kind(start: Start, upstreams: NewUpstream, tcp: bool) -> None:
    """The client gets a well-formed response or none, the server lives (RFC 9267, RFC 1035 4.1.4).

    Wrong octets from every upstream make no endless retries either.
    """
    upstream = upstreams()
    service = start(policy(upstream, resolve=QUICK))
    sent = {}
    for number, (_, breaks) in enumerate(BROKEN):
        name = f"broken{number:02}.example"

        def broken(asked: Asked, breaks: Callable[[bytes, Asked], bytes] = breaks) -> bytes | Sequence[Action]:
            if tcp and asked.transport == "udp":
                return truncated(asked)
            return [Send(breaks(default(asked), asked))]

        upstream.on(name, broken)
        sent[number] = query(name, "A", ident=number, edns=Edns())
    with UdpClient(service.dns, MANAGED) as client:
        for octets in sent.values():
            client.send(octets)
        got = client.gather(len(sent), timeout_s=6)
    wrong = []
    for number, (what, _) in enumerate(BROKEN):
        if number not in got:
            wrong.append(f"{what}: silence")
            continue
        try:
            response = well_formed(sent[number], got[number])
        except Exception as error:  # noqa: BLE001 - each failure is listed
            wrong.append(f"{what}: {error!r} in {got[number].hex()}")
            continue
        if response.addresses not in ([], [address_of(f"broken{number:02}.example")]):
            wrong.append(f"{what}: {response.addresses}")
        asked = len(upstream.queries(f"broken{number:02}.example"))
        if asked > 8:
            wrong.append(f"{what}: asked {asked} times")
    assert not wrong, "\n".join(wrong)
    assert ask(service.dns, "whole-again.example", "A").addresses == [address_of("whole-again.example")]


@pytest.mark.parametrize("tcp", [pytest.param(False, id="1,200 octets over UDP"), pytest.param(True, id="TCP")])
def test_an_upstream_answer_of_many_long_compressed_names_costs_no_second(
    server: Address, upstream: Upstream, tcp: bool
) -> None:
    """CVE-2024-8508, CVE-2024-0760. Others are served meanwhile."""
    name = f"heavy-{tcp}.example"

    upstream.on(name, heavy_names(tcp=tcp))
    started = time.monotonic()
    octets = exchange(server, query(name, "NS", edns=Edns()), tcp=tcp)
    assert octets is not None
    assert time.monotonic() - started < 1
    assert len(walk(octets)) >= 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_cname_loop_ends(server: Address, upstream: Upstream, count: int) -> None:
    """To itself, and a loop of more: an answer within 10 s, at most 60 upstream queries (RFC 1034 3.6.2, 5.2.2)."""
    names = [f"loop{number}of{count}.example" for number in range(count)]
    loop = [f"{name} 300 IN CNAME {names[(number + 1) % count]}" for number, name in enumerate(names)]
    for name in names:
        upstream.on(name, loop)
    for _ in range(2):
        assert ask(server, names[0], "A").rcode == SERVFAIL
    assert sum(len(upstream.queries(name)) for name in names) <= 60


# TCP


def over_tcp(tcp: Handler) -> Handler:
    """TC over UDP, and this over TCP."""
    return lambda asked: truncated(asked) if asked.transport == "udp" else tcp(asked)


def framed(octets: bytes) -> bytes:
    """A message behind its length."""
    return struct.pack("!H", len(octets)) + octets


def test_upstream_sets_tc_and_the_client_gets_the_whole_in_the_end(server: Address, upstream: Upstream) -> None:
    """TC or the whole over UDP, then the whole over TCP (RFC 2181 9, RFC 7766 5)."""
    records = [f'whole-tc.example 300 IN TXT "{"x" * 200}{number}"' for number in range(20)]
    upstream.on("whole-tc.example", over_tcp(lambda asked: reply(asked, *records)))
    first = ask(server, "whole-tc.example", "TXT", edns=Edns())
    assert first.flags & TC or len(first.answer) == 20
    assert len(ask(server, "whole-tc.example", "TXT", tcp=True).answer) == 20


def test_a_tcp_answer_in_many_small_segments_is_put_together(server: Address, upstream: Upstream) -> None:
    """RFC 7766 8."""

    def segments(asked: Asked) -> list[Action]:
        octets = framed(address_for(asked))
        return [Raw(octets[at : at + 1], after_s=0.002 * at) for at in range(len(octets))]

    upstream.on("segments.example", over_tcp(segments))
    assert ask(server, "segments.example", "A").addresses == [RIGHT]


def test_upstream_closes_tcp_once_then_answers(server: Address, upstream: Upstream) -> None:
    """The retry succeeds (RFC 7766 6.2.4)."""

    def first_closed(asked: Asked) -> bytes | Sequence[Action]:
        tries = [each for each in upstream.queries(asked.name) if each.transport == "tcp"]
        return [Close()] if len(tries) == 1 else address_for(asked)

    upstream.on("closed-once.example", over_tcp(first_closed))
    assert ask(server, "closed-once.example", "A", tcp=True).addresses == [RIGHT]


BROKEN_TCP: dict[str, Handler] = {
    "closes without an answer, RFC 7766 6.2.4": lambda _: [Close()],
    "closes in the middle of the answer, RFC 7766 8": lambda asked: [Raw(framed(address_for(asked))[:20]), Close(0.05)],
    "a frame of 0 octets, RFC 7766 8": lambda _: [Raw(b"\0\0")],
    "a frame of 5 octets": lambda _: [Send(b"short")],
    "65,535 octets of garbage, RFC 7766 8": lambda _: [Raw(b"\xff\xff" + b"\xa5" * 65535)],
    "garbage without end": lambda _: [Raw(b"\xa5" * 200_000)],
    "accepts and says nothing, RFC 7766 6.2.3": lambda _: SILENCE,
    "another id": lambda asked: [Send(forged(asked, ident=asked.ident ^ 1))],
    "another question": lambda asked: [Send(forged(asked, question=labels(b"other", b"example") + b"\0\1\0\1"))],
    "TC over TCP as well": lambda asked: [Send(truncated(asked))],
    "drips for half a minute, RFC 7766 6.2.3": lambda asked: [
        Raw(framed(address_for(asked))[at : at + 1], after_s=0.5 * at) for at in range(60)
    ],
    "half a length": lambda _: [Raw(b"\0"), Close(0.05)],
}


def test_an_upstream_that_is_broken_over_tcp(start: Start, upstreams: NewUpstream) -> None:
    """An error or TC within 12 s, not silence; others are served meanwhile; nothing broken is kept."""
    upstream = upstreams()
    service = start(policy(upstream, resolve={"timeout": "0.5s", "deadline": "2s"}))
    for number, handler in enumerate(BROKEN_TCP.values()):
        upstream.on(f"tcp{number}.example", over_tcp(handler))
    wrong = []
    results: dict[tuple[int, bool], bytes | None] = {}

    def run(number: int, tcp: bool) -> None:
        octets = query(f"tcp{number}.example", "A", edns=Edns())
        results[number, tcp] = exchange(service.dns, octets, tcp=tcp, timeout_s=12)

    threads = [threading.Thread(target=run, args=(n, tcp)) for n in range(len(BROKEN_TCP)) for tcp in (False, True)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    assert ask(service.dns, "meanwhile.example", "A").addresses == [address_of("meanwhile.example")]
    assert time.monotonic() - started < 1
    for thread in threads:
        thread.join()
    for number, what in enumerate(BROKEN_TCP):
        for tcp in (False, True):
            octets = results[number, tcp]
            if octets is None:
                wrong.append(f"{what}: silence, TCP client: {tcp}")
                continue
            response = read(octets)
            if response.answer or not (response.flags & TC or response.rcode == SERVFAIL):
                wrong.append(f"{what}: {response.message}, TCP client: {tcp}")
    assert not wrong, "\n".join(wrong)
    for number in range(len(BROKEN_TCP)):
        upstream.on(f"tcp{number}.example", address_for)
        assert ask(service.dns, f"tcp{number}.example", "A").addresses == [RIGHT]
    check_clean(upstream)


def test_a_tcp_port_that_is_closed(start: Start) -> None:
    """RFC 7766 5: a truncated answer stays truncated; a TCP client is told of a failure."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as only_udp:
        only_udp.bind(("127.0.0.1", 0))
        stop = threading.Event()

        def serve() -> None:
            only_udp.settimeout(0.1)
            while not stop.is_set():
                try:
                    octets, client = only_udp.recvfrom(2000)
                except TimeoutError:
                    continue
                only_udp.sendto(truncated(Asked(octets, "udp", client)), client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            config = {**policy(), "upstreams": [where(only_udp.getsockname())], "resolve": QUICK}
            service = start(config)
            response = ask(service.dns, "udp-only.example", "A", edns=Edns())
            assert response.flags & TC or response.rcode == SERVFAIL
            assert ask(service.dns, "udp-only.example", "A", tcp=True).rcode == SERVFAIL
        finally:
            stop.set()
            thread.join()


# A client's question and its upstream's trouble


def test_an_upstream_that_vanishes_and_returns(start: Start, upstreams: NewUpstream) -> None:
    """The only upstream: failure while it is away, answers once it is back (RFC 1035 7.2)."""
    upstream = upstreams()
    service = start(policy(upstream, resolve=QUICK))
    assert ask(service.dns, "before.example", "A").addresses == [address_of("before.example")]
    upstream.stop()
    assert ask(service.dns, "during.example", "A").rcode == SERVFAIL
    assert ask(service.dns, "before.example", "A").addresses == [address_of("before.example")]
    upstream.start()
    until = time.monotonic() + 30
    while ask(service.dns, "after.example", "A").addresses != [address_of("after.example")]:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_server_failure_of_all_upstreams_is_passed_on(start: Start, upstreams: NewUpstream) -> None:
    """SERVFAIL is final only if all failed, each asked once or twice."""
    both = upstreams(), upstreams()
    for each in both:
        each.otherwise(lambda asked: reply(asked, rcode=SERVFAIL))
    service = start(policy(*both))
    started = time.monotonic()
    assert ask(service.dns, "all-fail.example", "A").rcode == SERVFAIL
    assert time.monotonic() - started < 2
    assert all(1 <= len(each.queries("all-fail.example")) <= 2 for each in both)


def test_upstream_queries_are_counted(start: Start, upstreams: NewUpstream) -> None:
    """By upstream, as configured."""
    upstream = upstreams()
    service: Service = start(policy(upstream))
    upstream.on("none.example", nodata)
    for name in ("one.example", "two.example", "none.example"):
        ask(service.dns, name, "A")
    queries = service.metric("dnsfilter_upstream_queries_total", upstream=where(upstream.address))
    assert queries == 3 + 1, "at start each is asked a name of no one"
    assert service.metric("dnsfilter_upstream_failures_total", upstream=where(upstream.address)) == 0
