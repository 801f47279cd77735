"""The short way of plain questions: taken for those alone, and with the answers of the general way."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dnsfilter.core.clients import ClientRow
from dnsfilter.core.health import Health
from dnsfilter.core.policy import Policy
from dnsfilter.core.wire.response import answers
from dnsfilter.engine.interface import Answered, Completed, Counters, Forward, Joined, Quick, Rejected, Transport
from tests.core.make import many, name, opt, query, question, response, suffixes
from tests.engine.make import LIMITS, Asking, index, policy

CLIENT = "192.0.2.9"


@dataclass
class Link:
    """The upstream: what it was sent."""

    queries: int = 0
    answers: int = 0
    health: Health = field(default_factory=Health)
    sent: list[bytes] = field(default_factory=list)
    waiting: dict[bytes, Quick] = field(default_factory=dict)

    def post(self, rest: bytes) -> tuple[bytes, dict[bytes, Quick]]:
        id_ = struct.pack("!H", len(self.sent))
        self.sent.append(id_ + rest)
        return id_, self.waiting

    def answered(self, seconds: float, count: int = 1) -> None:
        assert seconds >= 0
        self.answers += count


@dataclass
class Socket:
    """A client's socket: what it was told."""

    told: list[bytes] = field(default_factory=list)

    def sendto(self, octets: bytes, client: tuple[str, int]) -> None:
        assert client == (CLIENT, 5_353)
        self.told.append(octets)


class Short:
    """An engine that may go the short way, and what becomes of each query."""

    def __init__(self, found: Policy, **more: Any) -> None:
        self.asking = Asking(found, **more)
        self.link, self.sock = Link(), Socket()
        links: dict[int, Any] = {0: self.link, 1: self.link}
        self.asking.engine.express.links = links
        self.asking.engine.row(CLIENT)

    @property
    def now(self) -> float:
        return self.asking.clock.now

    def take(self, message: bytes) -> bool:
        """One query by the short way, if it is taken there."""
        return self.asking.engine.express.take(message, (CLIENT, 5_353), self.sock, self.now)  # type: ignore[arg-type]

    def takes(self, message: bytes) -> bool:
        """The same, once queries like it and names beside its are known."""
        return self.take(message) or self.take(message)

    def respond(self, octets: bytes) -> bool:
        """Let the upstream answer what it was asked first and has not answered."""
        quick = self.link.waiting.pop(octets[:2])
        express = self.asking.engine.express
        is_done = express.begin()(quick, octets)
        express.end()
        if not is_done:
            self.go_on(quick, octets)
        return is_done

    def go_on(self, quick: Quick, octets: bytes) -> None:
        engine = self.asking.engine
        result = engine.complete(engine.adopt(quick), octets, self.now, self.asking.clock.wall)
        if isinstance(result, Completed):
            for reply, answer in result.responses:
                reply(answer)
        else:
            self.sock.told.append(b"rejected" if isinstance(result, Rejected) else b"again")


def listing(**more: Any) -> Policy:
    banned = ClientRow("managed", enforced=1, order=((1, "apps"),), network="192.0.2.0/24")
    found = policy(index(suffixes("banned.example", "deep.cdn.example")), rows={"192.0.2.0/24": banned}, **more)
    return replace(found, lists=("apps",))


# Which queries


@pytest.mark.parametrize(
    ("asked", "is_plain"),
    [
        pytest.param(query("www.example"), True, id="an address"),
        pytest.param(query("www.example", "AAAA"), True, id="an IPv6 address"),
        pytest.param(query("WWW.Example"), True, id="letters of any case"),
        pytest.param(query("www.example", edns=opt()), True, id="with EDNS"),
        pytest.param(query("www.example", edns=opt(do=True)), True, id="with DO"),
        pytest.param(query("www.example", ad=True), True, id="with AD"),
        pytest.param(query("www.example", rd=False), True, id="without RD"),
        pytest.param(query("www.example", cd=True), False, id="with CD"),
        pytest.param(query("www.example", "HTTPS"), False, id="another type"),
        pytest.param(query("www.example", "ANY"), False, id="ANY"),
        pytest.param(query("www.example", rclass=3), False, id="another class"),
        pytest.param(query("www.example", edns=opt(options=b"\0\x03\0\0")), False, id="with an option"),
        pytest.param(query("www.example", edns=opt(version=1)), False, id="EDNS of the future"),
        pytest.param(query("example"), False, id="a name of one label"),
        pytest.param(query(b"\0"), False, id="the root"),
        pytest.param(query("banned.example"), False, id="a listed name"),
        pytest.param(query("x.banned.example"), False, id="below a listed name"),
        pytest.param(query("xbanned.example"), True, id="a name that only looks listed"),
        pytest.param(query("x.test"), False, id="a special name"),
        pytest.param(query("1.2.0.192.in-addr.arpa", "A"), False, id="a reverse name"),
        pytest.param(query("home.arpa"), False, id="a special name whose parent is none"),
        pytest.param(query("intra.corp.example"), False, id="a zone of forward"),
        pytest.param(query("x.intra.corp.example"), True, id="below a zone of forward"),
        pytest.param(query(b"\x01\0\x07example\0"), False, id="a zero octet in a label"),
        pytest.param(query(b"\x40" + b"x" * 64 + b"\x03www\x07example\0"), False, id="a label of 64 octets"),
        pytest.param(query(b"\xc0\x0c"), False, id="a pointer"),
        pytest.param(query("www.example") + b"\0", False, id="octets behind the question"),
        pytest.param(query("www.example")[:-1], False, id="a question that is cut"),
        pytest.param(b"", False, id="nothing"),
        pytest.param(query("www.example")[:12], False, id="a header alone"),
        pytest.param(b"\0\0\x81\0" + query("www.example")[4:], False, id="a response"),
    ],
)
def test_the_short_way_is_for(asked: bytes, is_plain: bool) -> None:
    short = Short(listing(zones={name("intra.corp.example"): 1}))
    short.takes(query("aaa.example"))
    assert short.takes(asked) is is_plain


LONGEST = b"".join(bytes([63]) + bytes([97 + n]) * 63 for n in range(3)) + b"\x3d" + b"z" * 61 + b"\0"


def test_names_of_any_length_are_asked_or_left_to_the_general_way() -> None:
    assert len(LONGEST) == 255
    short = Short(listing())
    for octets in (LONGEST, b"\1x" + LONGEST[64:], LONGEST[64:], b"\x3f" + b"y" * 63 + LONGEST):
        before = len(short.link.sent)
        if short.takes(query(octets)):
            assert answers(b"\0\0", octets + b"\0\1\0\1", b"\0\0\x81\x80" + short.link.sent[before][4:])


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda short: setattr(short.link.health, "failures", 1), id="the upstream has failed"),
        pytest.param(lambda short: short.asking.engine.express.links.clear(), id="there is no such upstream"),
        pytest.param(lambda short: short.asking.engine.express.forget_clients(), id="the client is not known"),
        pytest.param(
            lambda short: short.asking.engine.watch_for(name("x.example"), lambda: None), id="a name beside is watched"
        ),
        pytest.param(lambda short: short.asking.forward(query("b.example")), id="the question is out"),
        pytest.param(
            lambda short: short.asking.engine._failures.note(b"\1b\7example\0\0\1\0", short.now), id="it failed"
        ),
    ],
)
def test_what_is_not_in_order_is_left_to_the_general_way(spoil: Any) -> None:
    short = Short(listing())
    assert short.takes(query("a.example"))
    spoil(short)
    assert not short.takes(query("b.example"))


def test_half_of_the_room_is_left_to_the_general_way() -> None:
    short = Short(listing(), max_in_flight=10)
    short.take(query("a.example"))
    taken = [short.take(query(f"n{number}.example")) for number in range(10)]
    assert taken == [True] * 6 + [False] * 4


# What becomes of them


def test_an_answer_is_told_kept_and_counted_and_told_again_from_the_cache() -> None:
    short = Short(listing())
    short.takes(query("WWW.example", ident=7))
    [sent] = short.link.sent
    assert short.respond(response(sent, "www.example 300 IN A 192.0.2.1"))
    assert short.sock.told == [response(query("WWW.example", ident=7), "www.example 300 IN A 192.0.2.1")]
    short.asking.clock.wait(10)
    assert short.asking.answer(query("www.example")) == response(query("www.example"), "www.example 290 IN A 192.0.2.1")
    counts = short.asking.engine.counters()
    assert {(each.group, each.cache): n for each, n in counts.outcomes.items() if n} == {
        ("managed", "miss"): 1,
        ("managed", "hit"): 1,
    }
    assert (short.link.queries, short.link.answers) == (1, 1)


def test_a_name_whose_answer_is_over_is_asked_anew_and_has_what_is_stale_to_fall_back_on() -> None:
    short = Short(listing(), limits=replace(LIMITS, serve_stale=3_600))
    short.takes(query("www.example"))
    short.respond(response(short.link.sent[0], "www.example 5 IN A 192.0.2.1"))
    assert not short.take(query("www.example")), "it is kept"
    short.asking.clock.wait(6)
    assert short.take(query("www.example"))
    short.asking.engine.hand_over(short.now + 1)
    [handed_over] = short.asking.forwards
    assert handed_over.has_stale
    [(_, told)] = short.asking.engine.answer_stale(handed_over, short.now, 0.0).responses
    assert b"\xc0\x00\x02\x01" in told


def test_who_asks_the_same_meanwhile_gets_the_same_answer() -> None:
    short = Short(listing())
    short.takes(query("www.example", ident=7))
    assert isinstance(short.asking.step(query("www.example", ident=8), "192.0.2.10"), Joined)
    [handed_over] = short.asking.forwards
    assert handed_over.sent is not None
    short.asking.engine.complete(
        handed_over, response(short.link.sent[0], "www.example 60 IN A 192.0.2.1"), short.now, 0
    )
    assert len(handed_over.waiters) == 0


def test_what_is_not_answered_in_time_is_handed_over_in_order_and_once() -> None:
    short = Short(listing())
    short.takes(query("a.example"))
    short.asking.clock.wait(1)
    short.take(query("b.example"))
    engine = short.asking.engine
    assert engine.hand_over(short.now - 0.5)
    assert [each.name for each in short.asking.forwards] == [name("a.example")]
    assert not engine.hand_over(short.now + 1)
    assert [each.name for each in short.asking.forwards] == [name("a.example"), name("b.example")]


@pytest.mark.parametrize("act", ["load", "flush"])
def test_a_change_meanwhile_is_minded(act: str) -> None:
    """A name listed while its question is out is not let through; what is flushed is not kept."""
    short = Short(listing())
    short.takes(query("www.example"))
    [sent] = short.link.sent
    if act == "load":
        short.asking.engine.load(replace(listing(), index=index(suffixes("www.example"))), keep_cache=True)
    else:
        list(short.asking.engine.flush(None))
    [handed_over] = short.asking.forwards
    said = response(sent, "www.example 60 IN A 198.51.100.1")
    result = short.asking.engine.complete(handed_over, said, short.now, 0.0)
    assert isinstance(result, Completed)
    told = [octets for _, octets in result.responses]
    assert (b"\xc6\x33\x64\x01" in told[0]) is (act == "flush")
    short.asking.forwards.clear()
    assert short.takes(query("later.example"))
    short.asking.engine.hand_over(short.now + 1)
    assert len(short.asking.forwards) == 1, "what is asked afterwards is watched too"
    assert len(short.asking.engine._cache) == (act == "load")


WHOLE = response(query("www.example", edns=opt()), "www.example 300 IN A 192.0.2.1")


@pytest.mark.parametrize("length", range(12 + len(question("www.example")), len(WHOLE)))
def test_a_response_cut_anywhere_is_left_to_the_general_way_which_rejects_it(length: int) -> None:
    """Within its records and within its OPT; nothing is raised, and nothing kept."""
    short = Short(listing())
    assert short.takes(query("www.example", ident=7))
    assert not short.respond(response(short.link.sent[0], "www.example 300 IN A 192.0.2.1")[:length])
    assert short.sock.told == [b"rejected"]
    assert len(short.asking.engine._cache) == 0


# The same answers as by the general way

NAMES = [
    "www.example",
    "a.example",
    "x.cdn.example",
    "deep.cdn.example",
    "x.deep.cdn.example",
    "banned.example",
    "a.b.test",
]
TARGETS = [*NAMES, "a.www.example", "www.example.a.example", "com", "www.other.test"]


@st.composite
def responses(draw: st.DrawFn) -> tuple[str, str, Sequence[str], Mapping[str, Any]]:
    """A question and an answer to it, mostly a chain in order."""
    asked, rtype = draw(st.sampled_from(NAMES)), draw(st.sampled_from(["A", "A", "AAAA"]))
    ttls = st.sampled_from([0, 1, 60, 3_600, 3_601, 2**31])
    owner, records = asked, []
    for target in draw(st.lists(st.sampled_from(TARGETS), max_size=3)):
        records.append(f"{owner} {draw(ttls)} IN CNAME {target}")
        owner = target
    addresses = {"A": "192.0.2.{}", "AAAA": "2001:db8::{}"}[rtype]
    records += [f"{owner} {draw(ttls)} IN {rtype} {addresses.format(n)}" for n in range(draw(st.integers(0, 9)))]
    if draw(st.integers(0, 9)) == 0:
        records = draw(st.permutations(records))
    more: dict[str, Any] = {"flags": draw(st.sampled_from([0, 0, 0, 0x20, 0x400, 0x200]))}
    more["rcode"] = draw(st.sampled_from([0, 0, 0, 0, 2, 3]))
    more["edns"] = draw(st.sampled_from([True, True, False]))
    return asked, rtype, records, more


queries = st.fixed_dictionaries(
    {
        "rd": st.booleans(),
        "ad": st.booleans(),
        "edns": st.sampled_from([b"", opt(), opt(512), opt(100), opt(4_096, do=True), opt(512, do=True)]),
    }
)
cuts = st.none() | st.tuples(st.integers(2, 120), st.integers(0, 255))


@many
@given(said=responses(), how=queries, upper=st.booleans(), cut=cuts, wait=st.sampled_from([0.0, 0.9, 30.0, 3_700.0]))
@example(
    said=("www.example", "A", ["www.example 9 IN CNAME a.www.example", "a.www.example 9 IN A 192.0.2.1"], {}),
    how={},
    upper=True,
    cut=None,
    wait=0.9,
)
def test_both_ways_tell_and_keep_the_same(
    said: tuple[str, str, Sequence[str], Mapping[str, Any]],
    how: Mapping[str, Any],
    upper: bool,
    cut: tuple[int, int] | None,
    wait: float,
) -> None:
    """Octet for octet, fresh and from the cache; also where an octet of the response was changed."""
    text, rtype, records, more = said
    asked = query(text.upper() if upper else text, rtype, ident=77, **how)
    short, general = Short(listing(), limits=LIMITS), Asking(listing(), limits=LIMITS)
    if not short.takes(asked):
        return
    octets = response(short.link.sent[0], *records, **more)
    if cut is not None and cut[0] < len(octets):
        octets = octets[: cut[0]] + bytes([cut[1]]) + octets[cut[0] + 1 :]
    if not answers(octets[:2], short.link.waiting[octets[:2]].question, octets):
        return  # believed by neither
    short.respond(octets)
    forward = general.forward(asked, CLIENT)
    result = general.engine.complete(forward, octets, general.clock.now, general.clock.wall)
    if isinstance(result, Completed):
        assert short.sock.told == [each for _, each in result.responses]
    else:
        assert short.sock.told == [b"again" if isinstance(result, Forward) else b"rejected"]
        return
    again = []
    for asking in (short.asking, general):
        asking.clock.wait(wait)
        found = asking.engine.step(
            asked, CLIENT, Transport.UDP, asking.clock.now, asking.clock.wall, asking.sent.append
        )
        again.append(found.octets if isinstance(found, Answered) else type(found))
    assert again[0] == again[1]
    assert _counted(short.asking.engine.counters()) == _counted(general.engine.counters())


def _counted(counters: Counters) -> tuple[dict[Any, int], int]:
    return {each: n for each, n in counters.outcomes.items() if n}, counters.internal_errors
