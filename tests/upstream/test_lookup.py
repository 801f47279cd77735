"""Addresses of hosts that we need ourselves: whom is asked, what is believed, what is said where there are none.

The upstreams are scripts on the loopback interface, and the clock jumps.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from itertools import pairwise

import dns.flags
import dns.rcode
import pytest

from dnsfilter.core.names import Name
from dnsfilter.upstream import lookup
from dnsfilter.upstream.lookup import MAX_ADDRESSES, MAX_LINKS, LookupFailed
from tests.core.make import name, question, response
from tests.upstream.loop import run
from tests.upstream.peer import Asked, Peer, Said, silence

HOST = name("lists.example")
TIMEOUT_S = 2.0
Script = Callable[[Asked], Said]


def says(*records: str, flags: int = 0) -> Script:
    """Answer each question with those of the records that have its type, or are links."""

    def script(asked: Asked) -> bytes:
        wanted = {1: "A", 28: "AAAA"}[asked.question[-3]]
        fitting = [each for each in records if each.split()[3] in (wanted, "CNAME")]
        return response(asked.octets, *fitting, flags=flags)

    return script


def fails(rcode: int) -> Script:
    return lambda asked: response(asked.octets, rcode=rcode)


GOOD = says("lists.example 60 IN A 192.0.2.7", "lists.example 60 IN AAAA 2001:db8::7")
ADDRESSES = ("192.0.2.7", "2001:db8::7")


def find(*scripts: Script, host: Name = HOST, has_tcp: bool = True) -> tuple[tuple[str, ...], list[Peer], float]:
    """Ask upstreams with these scripts; return what was found, them, and how many seconds it took."""

    async def work() -> tuple[tuple[str, ...], list[Peer], float]:
        peers = [await Peer(script).start(has_tcp=has_tcp) for script in scripts]
        loop, before = asyncio.get_running_loop(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        begun = loop.time()
        try:
            found = await lookup.addresses(host, [(each.host, each.port) for each in peers], TIMEOUT_S)
            return found, peers, loop.time() - begun
        finally:
            for each in peers:
                await each.stop()
            assert len(os.listdir("/proc/self/fd")) <= before, "sockets are left open"  # noqa: PTH208

    return run(work)


def failure(*scripts: Script, has_tcp: bool = True) -> str:
    with pytest.raises(LookupFailed) as caught:
        find(*scripts, has_tcp=has_tcp)
    assert str(caught.value).startswith("lists.example has no address: ")
    return str(caught.value)


def test_both_families_are_asked_for_at_once() -> None:
    found, [one], _ = find(GOOD)
    assert found == ADDRESSES
    assert {asked.question for asked in one.asked} == {question("lists.example"), question("lists.example", "AAAA")}
    assert len({asked.port for asked in one.asked}) == 2, "each from a port of its own"


def test_the_families_take_turns() -> None:
    many = [f"lists.example 60 IN A 192.0.2.{number}" for number in (1, 2, 3)]
    found, _, _ = find(says(*many, "lists.example 60 IN AAAA 2001:db8::1"))
    assert found == ("192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3")


@pytest.mark.parametrize(
    ("rtype", "address"),
    [pytest.param("A", "192.0.2.7", id="IPv4 alone"), pytest.param("AAAA", "2001:db8::7", id="IPv6 alone")],
)
def test_one_family_is_enough(rtype: str, address: str) -> None:
    assert find(says(f"lists.example 60 IN {rtype} {address}"))[0] == (address,)


def test_a_family_that_nobody_answers_for_costs_time_and_no_more() -> None:
    def script(asked: Asked) -> Said:
        return None if asked.question[-3] == 28 else GOOD(asked)

    found, _, seconds = find(script)
    assert found == ("192.0.2.7",)
    assert seconds == pytest.approx(2 * TIMEOUT_S, abs=0.1)


def test_the_chain_in_the_answer_is_followed() -> None:
    chain = ["lists.example 60 IN CNAME A.example", "a.example 60 IN CNAME b.test", "b.TEST 60 IN A 192.0.2.9"]
    assert find(says(*chain))[0] == ("192.0.2.9",)


def test_addresses_of_other_names_are_not_taken() -> None:
    found, _, _ = find(says("lists.example 60 IN A 192.0.2.7", "other.example 60 IN A 192.0.2.66"))
    assert found == ("192.0.2.7",)


def test_addresses_beside_the_answer_are_not_taken() -> None:
    def script(asked: Asked) -> bytes:
        return response(asked.octets, additional=["lists.example 60 IN A 192.0.2.66"])

    assert "knows no A record" in failure(script)


def links(count: int) -> list[str]:
    chain = ["lists.example", *(f"n{number}.example" for number in range(count))]
    return [f"{one} 60 IN CNAME {two}" for one, two in pairwise(chain)]


def test_a_chain_has_its_bound() -> None:
    last = f"n{MAX_LINKS - 1}.example 60 IN A 192.0.2.7"
    assert find(says(*links(MAX_LINKS), last))[0] == ("192.0.2.7",)
    assert f"more than {MAX_LINKS} names" in failure(says(*links(MAX_LINKS + 1)))


def test_a_chain_that_bites_its_tail_is_no_answer() -> None:
    loop = ["lists.example 60 IN CNAME a.example", "a.example 60 IN CNAME lists.example"]
    assert find(says(*loop), GOOD)[0] == ADDRESSES


def test_a_chain_that_leads_out_of_the_answer_is_not_pursued() -> None:
    assert "knows no A record" in failure(says("lists.example 60 IN CNAME a.example"))


def test_what_no_datagram_holds_comes_over_tcp_and_is_bounded() -> None:
    many = [f"lists.example 60 IN A 192.0.2.{number}" for number in range(1, 100)]

    def script(asked: Asked) -> Said:
        return says(*many)(asked) if asked.is_tcp else response(asked.octets, flags=dns.flags.TC)

    found, [one], _ = find(script)
    assert found == tuple(f"192.0.2.{number}" for number in range(1, MAX_ADDRESSES + 1))
    assert one.queries(tcp=True) == 2


def test_where_tcp_is_refused_the_next_is_asked() -> None:
    cut = says(flags=dns.flags.TC)
    assert find(cut, GOOD, has_tcp=False)[0] == ADDRESSES
    assert "none over TCP" in failure(cut, has_tcp=False)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(fails(dns.rcode.SERVFAIL), id="SERVFAIL"),
        pytest.param(fails(dns.rcode.REFUSED), id="REFUSED"),
        pytest.param(lambda asked: response(asked.octets)[:-1] + b"\1\2\3", id="no message"),
        pytest.param(lambda asked: asked.octets[:2] + b"\x81\x85" + bytes(8), id="REFUSED without a question"),
    ],
)
def test_who_has_no_answer_is_followed_by_the_next(bad: Script) -> None:
    found, [first, second, third], seconds = find(bad, GOOD, GOOD)
    assert (found, first.queries(), second.queries(), third.queries()) == (ADDRESSES, 2, 2, 0)
    assert seconds < TIMEOUT_S


@pytest.mark.parametrize(
    ("none", "part"),
    [
        pytest.param(fails(dns.rcode.NXDOMAIN), "says that there is no such name", id="NXDOMAIN"),
        pytest.param(says(), "knows no A record of it", id="NODATA"),
    ],
)
def test_that_there_is_none_is_final(none: Script, part: str) -> None:
    told = failure(none, GOOD)
    assert part in told
    assert "resolve.bootstrap" in told


def test_who_is_silent_is_followed_by_the_next() -> None:
    found, [first, second], seconds = find(silence, GOOD)
    assert (found, first.queries(), second.queries()) == (ADDRESSES, 2, 2)
    assert seconds == pytest.approx(TIMEOUT_S, abs=0.1)


def test_a_lost_datagram_is_sent_once_more() -> None:
    seen: dict[bytes, int] = {}

    def script(asked: Asked) -> Said:
        seen[asked.question] = seen.get(asked.question, 0) + 1
        return GOOD(asked) if seen[asked.question] == 2 else None

    found, [one], _ = find(script)
    assert (found, one.queries()) == (ADDRESSES, 4)


def test_where_nobody_has_an_answer_all_are_named_with_what_they_did() -> None:
    told = failure(silence, silence, fails(dns.rcode.SERVFAIL))
    assert told.count("does not answer within 2 s") == 2
    assert told.count("says SERVFAIL") == 1


def test_who_answered_is_not_asked_in_the_second_round() -> None:
    counts = {"silent": 0, "servfail": 0}

    def silent(asked: Asked) -> Said:
        counts["silent"] += 1
        return None

    def servfail(asked: Asked) -> Said:
        counts["servfail"] += 1
        return response(asked.octets, rcode=dns.rcode.SERVFAIL)

    failure(silent, servfail)
    assert counts == {"silent": 4, "servfail": 2}


def test_a_port_where_nobody_listens_costs_no_time() -> None:
    async def work() -> tuple[tuple[str, ...], float]:
        closed, one = await Peer(GOOD).start(), await Peer(GOOD).start()
        await closed.stop()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        found = await lookup.addresses(HOST, [(closed.host, closed.port), (one.host, one.port)], TIMEOUT_S)
        await one.stop()
        return found, loop.time() - begun

    found, seconds = run(work)
    assert found == ADDRESSES
    assert seconds < TIMEOUT_S


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(lambda octets: bytes([octets[0] ^ 1]) + octets[1:], id="another id"),
        pytest.param(lambda octets: octets.replace(b"\5lists", b"\5lasts", 1), id="another name"),
        pytest.param(lambda octets: octets[:2] + bytes([octets[2] & 0x7F]) + octets[3:], id="no response"),
        pytest.param(lambda octets: octets[:11], id="less than a header"),
    ],
)
def test_what_answers_nothing_that_was_asked_is_not_believed(forged: Callable[[bytes], bytes]) -> None:
    false = says("lists.example 60 IN A 192.0.2.66")

    def script(asked: Asked) -> Sequence[bytes]:
        right = GOOD(asked)
        assert isinstance(right, bytes)
        said = false(asked)
        assert isinstance(said, bytes)
        return [forged(said), right]

    found, [one], seconds = find(script)
    assert found == ADDRESSES
    assert one.queries() == 2
    assert seconds < TIMEOUT_S


def test_with_nobody_to_ask_it_says_so() -> None:
    assert "there is nobody to ask" in failure()


def test_many_upstreams_make_no_long_message() -> None:
    assert len(failure(*[fails(dns.rcode.SERVFAIL)] * 20)) < 500


def test_the_system_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*words: object, **more: object) -> None:
        raise AssertionError("the system's resolver was asked")

    for each in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        monkeypatch.setattr(socket, each, forbidden)

    def over_tcp(asked: Asked) -> Said:
        return GOOD(asked) if asked.is_tcp else response(asked.octets, flags=dns.flags.TC)

    assert find(over_tcp)[0] == ADDRESSES
