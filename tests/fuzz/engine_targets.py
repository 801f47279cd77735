"""Targets: any message through the engine, and any response for a question it forwarded."""

import functools
from dataclasses import replace

from dnsfilter.core.clients import ClientRow, Style
from dnsfilter.core.exemptions import Exemption
from dnsfilter.core.policy import Policy
from dnsfilter.core.wire import codes
from dnsfilter.core.wire.response import LAYOUTS
from dnsfilter.engine.interface import Answered, Completed, Dropped, Forward, Joined, Rejected, Transport
from tests.core.make import name, opt, query, suffixes
from tests.core.make import response as made
from tests.engine.make import Asking, Clock, index, policy
from tests.fuzz import second
from tests.fuzz.promise import within
from tests.fuzz.wire_targets import LOOSE_RDATA, question_of

MANAGED, EXEMPT, OTHER, STRANGER = "192.0.2.9", "192.0.2.70", "198.51.100.9", "203.0.113.9"
BANNED, ALLOWED = name("banned.example"), name("press.banned.example")
SECRET = "198.51.100.66"  # an address of the banned name, in the cache for those who are exempt
ENDS = 8  # how often a question may be asked anew

RFC_1035_NAMES = frozenset({2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15})  # types in whose rdata names may be compressed
META = frozenset({0, *range(128, 256)})  # types that no record has (RFC 6895 section 3.1)


@functools.cache
def _policy() -> Policy:
    row = ClientRow("managed", Style.SINKHOLE, enforced=1, order=((1, "ban"),), allow=1)
    exempt = replace(row, exemptions=(Exemption("EX-1", 1, 1_699_999_000.0, 1_700_009_000.0),))
    return policy(
        index(suffixes("banned.example"), allow=[ALLOWED]),
        ClientRow("default"),
        {"192.0.2.0/24": row, "192.0.2.64/28": exempt},
        access=["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"],
    )


@functools.cache
def _cached() -> tuple[tuple[bytes, bytes], ...]:
    """Questions of one who is exempt, with their answers."""
    banned, www, alias = query("banned.example"), query("www.example"), query("alias.example", "AAAA")
    return (
        (banned, made(banned, f"banned.example 300 IN A {SECRET}")),
        (www, made(www, "www.example 300 IN A 198.51.100.1")),
        (
            alias,
            made(alias, "alias.example 300 IN CNAME x.banned.example", "x.banned.example 300 IN AAAA 2001:db8::66"),
        ),
    )


def is_listed(name: bytes) -> bool:
    """Tell whether managed clients may learn nothing of a name (folded)."""
    if name == ALLOWED or second.is_below(name, ALLOWED):
        return False
    return name == BANNED or second.is_below(name, BANNED)


def step(octets: bytes) -> None:
    """Every client gets an answer that dnspython reads, or waits, or none is due; no listed name is told of."""
    asking = Asking(_policy(), Clock())
    for asked, said in _cached():
        asking.complete(asking.forward(asked, EXEMPT, Transport.TCP), said)
    for client in (MANAGED, EXEMPT, OTHER, STRANGER):
        for transport in (Transport.UDP, Transport.TCP):
            with within(0.5):
                result = asking.engine.step(
                    octets, client, transport, asking.clock.now, asking.clock.wall, asking.sent.append
                )
            if isinstance(result, Dropped):
                assert result.reason == "not_a_query"
                assert len(octets) < 12 or octets[2] & codes.QR
            elif isinstance(result, Answered):
                assert len(octets) >= 12
                _check_answer(octets, result.octets, client, transport)
            else:
                assert isinstance(result, Forward | Joined)
                assert client != STRANGER
                assert client != MANAGED or not is_listed(_qname(octets))
    assert asking.engine.counters().internal_errors == 0


def _qname(octets: bytes) -> bytes:
    end = octets.index(0, 12)  # no label of a length that would hide it: these are found one by one
    at = 12
    while octets[at]:
        at += 1 + octets[at]
        end = at
    return octets[12 : end + 1].lower()


def _check_answer(asked: bytes, octets: bytes, client: str, transport: Transport) -> None:
    """Check what any answer to any query has to be."""
    assert second.read(octets) is not None or any(map(_is_as_it_came, second.walk(octets)))
    assert octets[:2] == asked[:2]
    assert octets[2] & codes.QR
    assert octets[2] & 0x79 == asked[2] & 0x79  # opcode and RD
    assert len(octets) <= 65_535
    if len(octets) == 12:
        assert octets[3] & 15 != 0
        return
    size = 12 + len(_qname(asked)) + 4
    assert octets[4:6] == b"\0\1"
    assert octets[12:size] == asked[12:size], "the question, spelt as asked"
    told = list(second.walk(octets))
    opts = list(second.opts(asked))
    assert len([each for each in told if each.rtype == codes.OPT]) == len(opts)
    if transport is Transport.UDP:
        assert len(octets) <= (min(max(opts[0], 512), 1_232) if opts else 512)
    records = [each for each in told if each.rtype != codes.OPT]
    assert all(each.rclass == codes.IN and each.ttl <= 3_600 for each in records)
    assert not any(each.rtype in META for each in records)
    _check_chain(_qname(asked), records)
    if client == MANAGED:
        _check_nothing_listed(_qname(asked), records)
    if client == STRANGER:
        assert octets[3] & 15 != 0
        assert not records


def _is_as_it_came(told: second.Told) -> bool:
    """Tell whether dnspython cannot read rdata that is passed on unread, or read less closely than it does."""
    is_compressed = (
        told.rtype not in RFC_1035_NAMES
    )  # where it is not allowed (RFC 3597 section 4), and read all the same
    return told.rdata is None and (told.rtype not in LAYOUTS or told.rtype in LOOSE_RDATA or is_compressed)


def _check_chain(qname: bytes, records: list[second.Told]) -> None:
    """Check that the answer section holds nothing that the question does not lead to."""
    chain = second.chain(qname, records)
    for each in records:
        if each.section == 0 and each.owner not in chain:
            assert each.rtype in (39, 46), f"{each.owner!r} is not on the chain"  # DNAME, RRSIG: owned above
            assert any(second.is_below(link, each.owner) for link in chain), f"{each.owner!r} is not above the chain"


def _check_nothing_listed(qname: bytes, records: list[second.Told]) -> None:
    """Check that a managed client is told nothing of listed names."""
    if is_listed(qname):
        for each in records:
            is_sinkhole = each.rdata is not None and each.rdata.to_text() in ("192.0.2.1", "::1")
            assert each.owner == qname
            assert is_sinkhole or (each.section, each.rtype) == (1, codes.SOA)
        return
    if qname == ALLOWED or second.is_below(qname, ALLOWED):
        return  # an allowed question covers its chain
    for each in records:
        if each.section == 1:
            continue  # of the authority section only NS, SOA and what signs them is passed on: no way to go
        assert not is_listed(each.owner), f"a record of {each.owner!r}"
        assert each.target is None or not is_listed(each.target), f"a record that leads to {each.target!r}"


def complete(octets: bytes) -> None:
    """Whatever an upstream says to a question, each client's answer is right, fresh and from the cache."""
    question = question_of(octets)
    if question is None:
        return
    asking = Asking(_policy(), Clock())
    head = b"\x12\x34\1\0\0\1\0\0\0\0\0"
    queries = [
        (head + b"\0" + question, MANAGED, Transport.UDP),
        (head + b"\0" + question, OTHER, Transport.UDP),
        (head + b"\1" + question + opt(1_232, do=True), MANAGED, Transport.UDP),
        (head + b"\1" + question + opt(4_096), EXEMPT, Transport.TCP),
        (head + b"\0" + question.upper()[:-4] + question[-4:], MANAGED, Transport.TCP),
    ]
    for asked, client, transport in queries:
        _ask(asking, asked, client, transport, octets)
    asking.clock.wait(1)
    for asked, client, transport in queries:
        result = asking.engine.step(asked, client, transport, asking.clock.now, asking.clock.wall, asking.sent.append)
        if isinstance(result, Answered):
            _check_answer(asked, result.octets, client, transport)
    assert asking.engine.counters().internal_errors == 0


def _ask(asking: Asking, asked: bytes, client: str, transport: Transport, said: bytes) -> None:
    """Ask for one client; where an upstream must be asked, another client asks too, and `said` comes back."""
    engine, now, wall = asking.engine, asking.clock.now, asking.clock.wall
    sent = list[bytes]()
    result = engine.step(asked, client, transport, now, wall, sent.append)
    if isinstance(result, Answered):
        _check_answer(asked, result.octets, client, transport)
    if not isinstance(result, Forward):
        return
    other = MANAGED if client != MANAGED else EXEMPT
    also = list[bytes]()
    joined = engine.step(asked, other, transport, now, wall, also.append)
    assert isinstance(joined, Joined if other == EXEMPT or not is_listed(_qname(asked)) else Answered)
    done = _completed(asking, result, said)
    for reply, octets in done.responses:
        reply(octets)
    for mine, who, how_many in ((sent, client, 1), (also, other, isinstance(joined, Joined))):
        assert len(mine) == how_many
        for octets in mine:
            _check_answer(asked, octets, who, transport)


def _completed(asking: Asking, forward: Forward, said: bytes) -> Completed:
    engine, now, wall = asking.engine, asking.clock.now, asking.clock.wall
    for _ in range(ENDS):
        with within(1.0):
            result = engine.complete(forward, said, now, wall)
        if isinstance(result, Completed):
            return result
        if isinstance(result, Rejected):
            assert result.reason in ("malformed", "servfail", "refused", "rcode")
            return engine.fail(forward, codes.EDE_NO_REACHABLE_AUTHORITY, "no upstream answers", now, wall)
        assert result is forward
        if said[2] & codes.TC and result.by_tcp:
            return engine.give_up_on_tcp(forward, now, wall)
    raise AssertionError("asked anew for ever")
