"""The short way where something comes between: a flush, a crowd, a response that is no answer; and who is counted."""

import socket
import struct
from dataclasses import replace
from ipaddress import ip_network

import pytest

from dnsfilter.core.addresses import AddressRules
from dnsfilter.core.clients import ClientRow
from dnsfilter.core.limits import RateLimit
from dnsfilter.core.suspicion import APP_QUERIES, Reason
from dnsfilter.engine.interface import Completed, Forward, Joined
from dnsfilter.engine.tally import RESOLVERS
from tests.core.make import name, opt, query, response, suffixes, texts
from tests.engine.make import Asking, index, policy
from tests.engine.test_datagrams import client_socket, received, served, settled
from tests.engine.test_express import CLIENT, Short, listing

# What is out


@pytest.mark.parametrize("act", ["flush", "other upstreams", "flush of a name"])
def test_what_is_asked_after_a_flush_is_handed_over_if_nobody_answers(act: str) -> None:
    short = Short(listing())
    engine = short.asking.engine
    if act == "flush":
        list(engine.flush(None))
    elif act == "flush of a name":
        list(engine.flush(name("a.example")))
    else:
        engine.load(listing(), keep_cache=False)
        engine.row(CLIENT)
    assert short.takes(query("www.example"))
    assert isinstance(short.asking.step(query("www.example", ident=8), "192.0.2.10"), Joined), "asked once is enough"
    short.take(query("b.example"))
    engine.hand_over(short.now + 1)
    assert [each.name for each in short.asking.forwards] == [name("www.example"), name("b.example")]


def test_a_question_that_made_room_is_over_when_its_response_comes_after_all() -> None:
    """No sweep has handed it over yet: the loop was busy for half a second."""
    short = Short(listing(), max_in_flight=3)
    assert short.takes(query("a.example"))
    short.asking.forward(query("b.example"), "192.0.2.11")
    short.asking.forward(query("c.example"), "192.0.2.12")
    short.asking.clock.wait(0.6)
    short.asking.forward(query("d.example"), "192.0.2.13")
    assert len(short.sock.told) == 1, "the oldest one gave up its place"
    quick = short.link.waiting.get(b"\0\0")
    if quick is not None:  # else a late response answers nothing that is known
        express = short.asking.engine.express
        express.begin()(quick, response(short.link.sent[0], "a.example 60 IN A 192.0.2.1"))
        express.end()
    assert len(short.sock.told) == 1, "one answer for one query"


# What is believed


def chain(question: bytes, rdata: bytes) -> bytes:
    """A response with an alias of this rdata, and an address of where it leads."""
    head = struct.pack("!6H", 0, 0x8180, 1, 2, 0, 0)
    alias = struct.pack("!HHHIH", 0xC00C, 5, 1, 60, len(rdata)) + rdata
    at = 12 + len(question) + 12
    return head + question + alias + struct.pack("!HHHIH", 0xC000 | at, 1, 1, 60, 4) + bytes([192, 0, 2, 1])


def test_an_alias_that_ends_before_its_rdata_does_is_malformed() -> None:
    """Its target is the root, and two octets are left: the general way rejects it."""
    octets = chain(query("www.example")[12:], b"\0\xc0\x0c")
    short, general = Short(listing()), Asking(listing())
    assert short.takes(query("www.example"))
    short.respond(octets)
    result = general.engine.complete(general.forward(query("www.example"), CLIENT), octets, 0.0, 0.0)
    assert isinstance(result, Completed) is (short.sock.told != [b"rejected"])


@pytest.mark.parametrize("do", [False, True], ids=["without DO", "with DO"])
def test_a_response_whose_count_promises_a_record_that_is_not_there_is_malformed(do: bool) -> None:
    asked = query("www.example", edns=opt(do=do))
    short = Short(listing())
    assert short.takes(query("a.example"))
    assert short.respond(response(short.link.sent[0], "a.example 60 IN A 192.0.2.1", edns=False))
    assert short.takes(asked)
    octets = bytearray(response(short.link.sent[1], "www.example 60 IN A 192.0.2.1", edns=False))
    octets[11] = 1
    short.respond(bytes(octets))
    assert short.sock.told[1:] == [b"rejected"]


# Policies that come and go


def test_an_answer_that_an_address_list_blocked_is_told_once_that_list_is_gone() -> None:
    row = ClientRow("managed", enforced=1, order=((1, "edge"),), network="192.0.2.0/24")
    before = replace(policy(rows={"192.0.2.0/24": row}), lists=("edge",))
    ranges = AddressRules([(ip_network("203.0.113.0/24"), 1)])
    asking = Asking(replace(before, addresses=ranges))
    forward = asking.forward(query("www.example"))
    [blocked] = asking.complete(forward, response(query("www.example"), "www.example 300 IN A 203.0.113.1"))
    assert texts(blocked) == ["www.example. 60 IN A 192.0.2.1"]
    other = ClientRow("managed", enforced=1, order=((1, "ban"),), network="192.0.2.0/24")
    asking.engine.load(replace(policy(rows={"192.0.2.0/24": other}), lists=("ban",)), keep_cache=True)
    assert texts(asking.answer(query("www.example"))) == ["www.example. 300 IN A 203.0.113.1"]


# Suspicion


def suspicious() -> Asking:
    row = ClientRow("managed", enforced=3, order=((1, "apps"), (2, RESOLVERS)))
    found = policy(index(suffixes("app.example"), suffixes("resolver.example")), row)
    return Asking(replace(found, lists=("apps", RESOLVERS)))


def test_a_suspect_stays_one_of_its_group_when_it_asks_for_something_new() -> None:
    asking = suspicious()
    for number in range(APP_QUERIES):
        asking.step(query(f"n{number}.app.example"))
    asking.step(query("resolver.example"))
    assert asking.engine.counters().suspects == {("managed", Reason.RESOLVER): 1}
    assert isinstance(asking.step(query("www.example")), Forward)
    assert asking.engine.counters().suspects == {("managed", Reason.RESOLVER): 1}


def test_a_client_over_its_limit_is_not_taken_for_the_one_that_was_answered_before() -> None:
    async def check(asking: Asking, server: socket.socket) -> None:
        asking.engine.limit(RateLimit(1))
        where = server.getsockname()
        with client_socket("127.0.0.2", where) as other, client_socket("127.0.0.3", where) as banned:
            for number in range(20):  # its burst
                other.send(query(f"n{number}.banned2.invalid"))
            await settled(asking, [server])
            banned.send(query("banned.example"))
            other.send(query("www.invalid"))  # in one batch with the one before
            await received(banned)
            await settled(asking, [server])
        assert "127.0.0.2" not in asking.engine.suspicion._seen

    served(check)
