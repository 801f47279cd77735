"""The cache, seen through what the upstream is asked again and what clients are told meanwhile."""

import time
from collections.abc import Callable, Sequence

import pytest

from tests.scenarios.client import (
    AD,
    ADDITIONAL,
    AUTHORITY,
    CD,
    CH,
    COOKIE,
    ECS,
    HS,
    NOERROR,
    NXDOMAIN,
    SERVFAIL,
    Address,
    Edns,
    UdpClient,
    ask,
    query,
    read,
)
from tests.scenarios.conftest import Start
from tests.scenarios.expect import EXEMPT, UNMANAGED, policy
from tests.scenarios.upstream import SILENCE, Action, Asked, Close, Send, Upstream, address_of, reply

SOA = "example. {ttl} IN SOA ns.example. host.example. 1 3600 600 86400 {minimum}"
OVER_A_SECOND = 1.1


def soa(ttl: int = 300, minimum: int = 300) -> str:
    """The SOA of the zone `example`."""
    return SOA.format(ttl=ttl, minimum=minimum)


def negative(rcode: int, *authority: str) -> Callable[[Asked], bytes]:
    """A negative answer with this authority section."""
    return lambda asked: reply(asked, rcode=rcode, authority=authority)


def in_turn(*said: Callable[[Asked], bytes]) -> Callable[[Asked], bytes]:
    """Answer the first query as the first says, and so on; the last one for all that follow."""
    left = list(said)

    def answer(asked: Asked) -> bytes:
        said = left.pop(0) if len(left) > 1 else left[0]
        return said(asked)

    return answer


def fixed(*records: str) -> Callable[[Asked], bytes]:
    """These records."""
    return lambda asked: reply(asked, *records)


def test_a_repeated_query_is_answered_from_the_cache(server: Address, upstream: Upstream) -> None:
    """RFC 1034 5.3.3: over UDP and TCP, for all clients."""
    upstream.on("repeat.example", "repeat.example 300 IN A 192.0.2.1")
    for source in (UNMANAGED, EXEMPT, UNMANAGED):
        for tcp in (False, True):
            assert ask(server, "repeat.example", "A", source=source, tcp=tcp).addresses == ["192.0.2.1"]
    assert len(upstream.queries("repeat.example")) == 1


def test_a_cached_ttl_counts_down(server: Address, upstream: Upstream) -> None:
    """RFC 1034 3.6, RFC 2181 8: every record's, and OPT stays what it is."""
    upstream.on("down.example", ["down.example 300 IN CNAME up.example", "up.example 100 IN A 192.0.2.1"])
    assert [record.ttl for record in ask(server, "down.example", "A").answer] == [300, 100]
    for edns in (None, Edns()):
        ask(server, "down.example", "A", edns=edns)
    time.sleep(OVER_A_SECOND)
    for edns in (None, Edns()):
        response = ask(server, "down.example", "A", edns=edns)
        cname, address = (record.ttl for record in response.answer)
        assert 297 <= cname <= 299
        assert 97 <= address <= 99
        assert response.opt is None or response.opt.ttl == 0


def test_ttl_0_reaches_the_client_as_0_and_is_not_kept(server: Address, upstream: Upstream) -> None:
    """RFC 1035 3.2.1."""
    upstream.on("zero.example", "zero.example 0 IN A 192.0.2.1")
    for _ in range(2):
        assert [record.ttl for record in ask(server, "zero.example", "A").answer] == [0]
    assert len(upstream.queries("zero.example")) == 2


def test_an_expired_record_is_fetched_anew_and_not_served_stale(server: Address, upstream: Upstream) -> None:
    """RFC 1034 3.6; RFC 8767 5: resolver attempts come first."""
    first, then = fixed("expires.example 1 IN A 192.0.2.1"), fixed("expires.example 1 IN A 192.0.2.2")
    upstream.on("expires.example", in_turn(first, then))
    for _ in range(2):
        assert ask(server, "expires.example", "A").addresses == ["192.0.2.1"]
    time.sleep(OVER_A_SECOND)
    assert ask(server, "expires.example", "A").addresses == ["192.0.2.2"]


def test_letter_case_costs_no_further_upstream_query(server: Address, upstream: Upstream) -> None:
    """RFC 4343 3."""
    for name in ("letters.example", "LETTERS.example", "LeTtErS.eXaMpLe"):
        assert ask(server, name, "A").addresses == [address_of("letters.example")]
    assert len(upstream.queries("letters.example")) == 1


NEGATIVE = [pytest.param(NXDOMAIN, id="NXDOMAIN"), pytest.param(NOERROR, id="NODATA")]


@pytest.mark.parametrize("rcode", NEGATIVE)
def test_a_negative_answer_with_a_soa_is_cached_and_the_soa_passes(
    server: Address, upstream: Upstream, rcode: int
) -> None:
    """RFC 2308 3, 5 and 6: fresh and cached, with a TTL no larger than the SOA's MINIMUM."""
    name = f"negative-{rcode}.example"
    upstream.on(name, negative(rcode, soa(ttl=200, minimum=100)))
    for _ in range(3):
        response = ask(server, name, "A")
        assert response.rcode == rcode
        assert not response.answer
        assert response.soa is not None
        assert 1 <= response.soa.ttl <= 200
    cached = ask(server, name, "A").soa
    assert cached is not None
    assert cached.ttl <= 100
    assert len(upstream.queries(name)) == 1


@pytest.mark.parametrize("rcode", NEGATIVE)
def test_a_negative_answer_without_a_soa_is_not_kept(server: Address, upstream: Upstream, rcode: int) -> None:
    """RFC 2308 5."""
    name = f"without-soa-{rcode}.example"
    upstream.on(name, negative(rcode))
    for count in (1, 2, 3):
        assert ask(server, name, "A").rcode == rcode
        assert len(upstream.queries(name)) == count


@pytest.mark.parametrize(
    ("ttl", "minimum"), [pytest.param(300, 1, id="the minimum is 1 s"), pytest.param(1, 300, id="the SOA's TTL is 1 s")]
)
def test_a_negative_answer_is_kept_for_the_smaller_of_the_soas_ttl_and_minimum(
    server: Address, upstream: Upstream, ttl: int, minimum: int
) -> None:
    """RFC 2308 3 and 5: for NXDOMAIN and for NODATA."""
    names = {rcode: f"brief-{rcode}-{ttl}.example" for rcode in (NXDOMAIN, NOERROR)}
    for rcode, name in names.items():
        upstream.on(name, negative(rcode, soa(ttl, minimum)))
        assert ask(server, name, "A").rcode == ask(server, name, "A").rcode == rcode
    time.sleep(OVER_A_SECOND)
    for rcode, name in names.items():
        upstream.on(name, f"{name} 300 IN A 192.0.2.1")
        assert ask(server, name, "A").addresses == ["192.0.2.1"], rcode


@pytest.mark.parametrize("rcode", NEGATIVE)
def test_a_negative_answer_with_a_minimum_of_10_years_is_told_for_5_minutes_at_most(
    server: Address, upstream: Upstream, rcode: int
) -> None:
    """RFC 2308 5: "one to three hours" at most; ours is `max_negative_ttl`."""
    name = f"decade-{rcode}.example"
    upstream.on(name, negative(rcode, soa(315_360_000, 315_360_000)))
    for _ in range(2):
        response = ask(server, name, "A")
        assert response.soa is not None
        assert response.soa.ttl <= 300
    assert len(upstream.queries(name)) == 1


def test_a_ttl_of_10_years_is_told_for_an_hour_at_most(server: Address, upstream: Upstream) -> None:
    """RFC 8767 4; `max_ttl` also bounds what clients are told."""
    upstream.on("decade.example", "decade.example 315360000 IN A 192.0.2.1")
    for _ in range(2):
        assert 3590 <= ask(server, "decade.example", "A").answer[0].ttl <= 3600


def test_nodata_for_a_does_not_hide_aaaa(server: Address, upstream: Upstream) -> None:
    """RFC 2308 2.2 and 5."""
    upstream.on("six-only.example", negative(NOERROR, soa()), "A")
    upstream.on("six-only.example", "six-only.example 300 IN AAAA 2001:db8::1", "AAAA")
    assert not ask(server, "six-only.example", "A").answer
    assert ask(server, "six-only.example", "AAAA").addresses == ["2001:db8::1"]
    assert not ask(server, "six-only.example", "A").answer


def test_nxdomain_for_a_name_does_not_hide_its_sibling_or_parent(server: Address, upstream: Upstream) -> None:
    """RFC 2308 5, RFC 8020 2."""
    upstream.on("missing.family.example", negative(NXDOMAIN, soa()))
    assert ask(server, "missing.family.example", "A").rcode == NXDOMAIN
    for name in ("sibling.family.example", "family.example"):
        assert ask(server, name, "A").addresses == [address_of(name)]


def test_servfail_is_not_kept_for_long(server: Address, upstream: Upstream) -> None:
    """RFC 9520 3.2: good again within 35 s."""
    upstream.on("recovers.example", negative(SERVFAIL))
    assert ask(server, "recovers.example", "A").rcode == SERVFAIL
    upstream.on("recovers.example", "recovers.example 300 IN A 192.0.2.1")
    until = time.monotonic() + 35
    while ask(server, "recovers.example", "A").addresses != ["192.0.2.1"]:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_failure_of_one_name_does_not_fail_its_neighbours(server: Address, upstream: Upstream) -> None:
    """RFC 9520 3.2."""
    upstream.on("fails.neighbours.example", negative(SERVFAIL))
    for _ in range(3):
        assert ask(server, "fails.neighbours.example", "A").rcode == SERVFAIL
    for name in ("other.neighbours.example", "neighbours.example", "below.fails.neighbours.example"):
        assert ask(server, name, "A").addresses == [address_of(name)]
    assert ask(server, "fails.neighbours.example", "AAAA").rcode == SERVFAIL


@pytest.mark.parametrize("edns", [pytest.param(None, id="no OPT"), pytest.param(Edns(), id="OPT")])
def test_a_question_is_asked_once_whether_its_clients_send_opt_or_not(
    server: Address, upstream: Upstream, edns: Edns | None
) -> None:
    """RFC 6891 6.1.1: OPT is between two hops, not of the question."""
    name = f"hop-{edns is None}.example"
    for each in (edns, Edns() if edns is None else None, edns, Edns(size=512), Edns(size=4096)):
        assert ask(server, name, "A", edns=each).addresses == [address_of(name)]
    assert len(upstream.queries(name)) == 1


SIGNED = [
    "{name} 300 IN A 192.0.2.1",
    "{name} 300 IN RRSIG A 8 2 300 20400101000000 20200101000000 1 example. AAAA",
]


def signed(asked: Asked) -> bytes:
    """A signed answer for who sends DO, an unsigned one for others."""
    records = [text.format(name=asked.name) for text in SIGNED]
    return reply(asked, *records[: 2 if asked.message.ednsflags & 0x8000 else 1])


def test_do_clients_get_signatures_and_others_do_not(server: Address, upstream: Upstream) -> None:
    """RFC 4035 3.2.1, RFC 3225 3, RFC 5625 4.5: whoever asked first."""
    for name, order in {"do-first.example": (True, False, True), "do-second.example": (False, True, False)}.items():
        upstream.on(name, signed)
        for do in order:
            response = ask(server, name, "A", edns=Edns(do=do))
            assert [record.rdtype for record in response.answer] == ([1, 46] if do else [1])
        assert [record.rdtype for record in ask(server, name, "A").answer] == [1]


def test_signatures_asked_for_by_type_come_without_do(server: Address, upstream: Upstream) -> None:
    """RFC 3225 3: unless security records are explicitly queried for."""
    upstream.on("signatures.example", SIGNED[1].format(name="signatures.example"), "RRSIG")
    for _ in range(2):
        assert [record.rdtype for record in ask(server, "signatures.example", "RRSIG").answer] == [46]


def test_cd_answers_are_kept_apart(server: Address, upstream: Upstream) -> None:
    """RFC 4035 4.7 and 4.9: what was fetched without validation is not served to who wants it validated."""

    def bogus(asked: Asked) -> bytes:
        if asked.flags & CD:
            return reply(asked, "bogus.example 300 IN A 192.0.2.1")
        return reply(asked, rcode=SERVFAIL)

    upstream.on("bogus.example", bogus)
    for _ in range(2):
        assert ask(server, "bogus.example", "A", flags=CD).addresses == ["192.0.2.1"]
        assert ask(server, "bogus.example", "A").rcode == SERVFAIL
    assert any(asked.flags & CD for asked in upstream.queries("bogus.example"))


def test_an_answer_for_one_ecs_subnet_is_not_served_to_another(server: Address, upstream: Upstream) -> None:
    """RFC 7871 7.3 and 11.1: no subnet goes upstream, so no answer is for one; none comes back either."""

    def scoped(asked: Asked) -> bytes:
        return reply(asked, "ecs.example 300 IN A 192.0.2.1", options=[(ECS, b"\0\1\x18\x18\xc0\0\2")])

    upstream.on("ecs.example", scoped)
    for subnet in (b"\xc0\0\2", b"\xc6\x33\x64"):
        response = ask(server, "ecs.example", "A", edns=Edns(options=((ECS, b"\0\1\x18\0" + subnet),)))
        assert response.addresses == ["192.0.2.1"]
        assert response.options == []
    assert all(b"\xc0\0\2" not in asked.octets for asked in upstream.queries("ecs.example"))


def test_each_client_gets_its_own_cookie_with_an_answer_that_all_share(server: Address, upstream: Upstream) -> None:
    """RFC 7873 5.2 and 5.3: on fresh, joined and cached answers; the upstream's own goes to nobody."""
    name = "cookies.example"

    def with_cookie(asked: Asked) -> Sequence[Action]:
        octets = reply(asked, f"{name} 300 IN A 192.0.2.1", options=[(COOKIE, b"upstream" * 2)])
        return [Send(octets, after_s=0.1)]

    upstream.on(name, with_cookie)
    sources = [f"127.0.0.{number}" for number in range(10, 15)]
    for _ in range(2):
        clients = {source: UdpClient(server, source) for source in sources}
        for source, client in clients.items():
            client.send(query(name, "A", ident=1, edns=Edns(options=((COOKIE, f"{source:>8}"[-8:].encode()),))))
        got = {source: client.gather(1)[1] for source, client in clients.items()}
        for client in clients.values():
            client.socket.close()
        given = set()
        for source, octets in got.items():
            response = read(octets)
            assert response.addresses == ["192.0.2.1"]
            assert [code for code, _ in response.options] == [COOKIE]
            cookie = response.options[0][1]
            assert cookie[:8] == f"{source:>8}"[-8:].encode()
            assert 8 <= len(cookie) - 8 <= 32
            given.add(cookie[8:])
        assert len(given) == len(sources)
    assert len(upstream.queries(name)) == 1
    assert not [asked for asked in upstream.queries(name) if asked.message.options]


def test_types_do_not_mix(server: Address, upstream: Upstream) -> None:
    """RFC 1034 5.3.3."""
    upstream.on("types.example", "types.example 300 IN A 192.0.2.1", "A")
    upstream.on("types.example", "types.example 300 IN AAAA 2001:db8::1", "AAAA")
    upstream.on("types.example", 'types.example 300 IN TXT "text"', "TXT")
    for _ in range(2):
        for rdtype, code in (("A", 1), ("AAAA", 28), ("TXT", 16)):
            assert [record.rdtype for record in ask(server, "types.example", rdtype).answer] == [code]


@pytest.mark.parametrize("rdclass", [pytest.param(CH, id="CH"), pytest.param(HS, id="HS"), 255])
def test_classes_do_not_mix(server: Address, upstream: Upstream, rdclass: int) -> None:
    """RFC 1035 3.2.4, RFC 2181 5: the IN answer is not served for CH, HS or any class."""
    assert ask(server, "classes.example", "A").addresses
    assert not ask(server, "classes.example", "A", rdclass=rdclass).answer
    assert ask(server, "classes.example", "A").addresses


def test_any_does_not_stand_in_for_a(server: Address, upstream: Upstream) -> None:
    """RFC 8482 4: what ANY gave is no answer to another type, nor to ANY."""
    name = "any-then-a.example"
    upstream.on(name, [f"{name} 300 IN A 192.0.2.1"], "ANY")
    upstream.on(name, [f"{name} 300 IN A 192.0.2.1", f"{name} 300 IN A 192.0.2.2"], "A")
    assert ask(server, name, "ANY", tcp=True).addresses == ["192.0.2.1"]
    assert len(ask(server, name, "A").addresses) == 2
    assert [record.rdtype for record in ask(server, name, "ANY").answer] == [13]


@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="UDP and TCP clients")])
def test_50_identical_queries_at_once_make_one_upstream_query(server: Address, upstream: Upstream, tcp: bool) -> None:
    """RFC 5452 5 (birthday attacks), CVE-2002-2211."""
    name = f"coalesced-{tcp}.example"
    upstream.on(name, lambda asked: [Send(reply(asked, f"{name} 300 IN A 192.0.2.1"), after_s=0.2)])
    clients = [UdpClient(server, f"127.0.0.{10 + number}") for number in range(5)]
    for ident in range(50):
        clients[ident % 5].send(query(name if ident % 2 else name.upper(), "A", ident=ident))
    over_tcp = ask(server, name, "A", tcp=True) if tcp else None
    answers = [octets for client in clients for octets in client.gather(10).values()]
    for client in clients:
        client.socket.close()
    assert len(answers) == 50
    assert all(read(octets).addresses == ["192.0.2.1"] for octets in answers)
    assert over_tcp is None or over_tcp.addresses == ["192.0.2.1"]
    assert len(upstream.queries(name)) == 1


def test_a_truncated_answer_whose_tcp_retry_fails_is_not_kept_as_the_whole(server: Address, upstream: Upstream) -> None:
    """RFC 2181 9, RFC 7766 5."""
    name = "cut.example"

    def cut(asked: Asked) -> bytes | Sequence[Action]:
        if asked.transport == "tcp":
            return [Close()]
        octets = bytearray(reply(asked, f"{name} 300 IN A 192.0.2.1"))
        octets[2] |= 0x02  # TC, with a part of the answer
        return bytes(octets)

    upstream.on(name, cut)
    first = ask(server, name, "A")
    assert first.flags & 0x0200 or first.rcode == SERVFAIL
    upstream.on(name, [f"{name} 300 IN A 192.0.2.1", f"{name} 300 IN A 192.0.2.2"])
    assert len(ask(server, name, "A").addresses) == 2


@pytest.mark.parametrize("ttl", [0x80000000, 0x80000001, 0xFFFFFFFF])
def test_a_ttl_with_the_top_bit_set_never_reaches_the_client(server: Address, upstream: Upstream, ttl: int) -> None:
    """RFC 2181 8: it counts as 0, and so is not kept."""
    name = f"top-{ttl}.example"
    upstream.on(name, f"{name} {ttl} IN A 192.0.2.1")
    for _ in range(2):
        assert [record.ttl for record in ask(server, name, "A").answer] == [0]
    assert len(upstream.queries(name)) == 2


def test_ttls_of_a_day_and_of_one_second_in_one_answer_end_with_the_shorter(
    server: Address, upstream: Upstream
) -> None:
    """RFC 2181 5.2: what is told never exceeds what is left, and no record outlives another of its answer."""
    name = "uneven.example"
    old = [f"{name} 86400 IN CNAME end.{name}", f"end.{name} 1 IN A 192.0.2.1"]
    upstream.on(name, in_turn(fixed(*old), fixed(f"{name} 300 IN A 192.0.2.2")))
    for _ in range(2):
        assert ask(server, name, "A").addresses == ["192.0.2.1"]
    time.sleep(OVER_A_SECOND)
    assert ask(server, name, "A").addresses == ["192.0.2.2"]


def test_nothing_of_an_answer_that_was_not_believed_is_kept(server: Address, upstream: Upstream) -> None:
    """RFC 5452 9.1: neither for its own question nor for the one that it came for."""
    forged = "192.0.2.66"

    def with_forgery(asked: Asked) -> Sequence[Action]:
        right = reply(asked, f"{asked.name} 300 IN A 192.0.2.80")
        false = reply(asked, f"{asked.name} 300 IN A {forged}")
        other = false[:13] + b"other" + false[18:]  # the first label of the question, and so of what points to it
        return [Send(other), Send(bytes([false[0] ^ 1]) + false[1:]), Send(right, after_s=0.05)]

    upstream.on("asked.forgery.example", with_forgery)
    upstream.on("other.forgery.example", "other.forgery.example 300 IN A 192.0.2.81")
    for _ in range(2):
        assert ask(server, "asked.forgery.example", "A").addresses == ["192.0.2.80"]
        assert ask(server, "other.forgery.example", "A").addresses == ["192.0.2.81"]


def test_an_answer_within_its_ttl_is_served_at_once_although_upstream_is_silent(
    server: Address, upstream: Upstream
) -> None:
    """RFC 1034 5.3.3."""
    assert ask(server, "kept.example", "A").addresses == [address_of("kept.example")]
    upstream.on("kept.example", SILENCE)
    started = time.monotonic()
    assert ask(server, "kept.example", "A").addresses == [address_of("kept.example")]
    assert time.monotonic() - started < 0.5


def test_an_authority_ns_with_glue_does_not_redirect_the_zone(server: Address, upstream: Upstream) -> None:
    """RFC 2181 5.4.1, RFC 5452 6: dnsfilter asks its upstreams and nobody else, and glue is no answer."""

    def with_glue(asked: Asked) -> bytes:
        return reply(
            asked,
            "lure.zone.example 300 IN A 192.0.2.1",
            authority=["zone.example 300 IN NS ns.evil.example", "example 300 IN NS ns.evil.example"],
            additional=["ns.evil.example 300 IN A 127.0.0.99", "other.zone.example 300 IN A 192.0.2.66"],
        )

    upstream.on("lure.zone.example", with_glue)
    assert ask(server, "lure.zone.example", "A").addresses == ["192.0.2.1"]
    for name in ("ns.evil.example", "other.zone.example", "new.zone.example"):
        assert ask(server, name, "A").addresses == [address_of(name)]
        assert len(upstream.queries(name)) == 1


def test_nodata_with_a_stray_additional_record(server: Address, upstream: Upstream) -> None:
    """RFC 2181 5.4.1: it makes no answer, not even for its own name."""
    stray = ["stray.example 300 IN A 192.0.2.66", "elsewhere.example 300 IN A 192.0.2.66"]
    upstream.on("stray.example", lambda asked: reply(asked, authority=[soa()], additional=stray))
    for _ in range(2):
        response = ask(server, "stray.example", "A")
        assert response.rcode == NOERROR
        assert not response.answer
    assert ask(server, "elsewhere.example", "A").addresses == [address_of("elsewhere.example")]


def test_nxdomain_with_a_stray_answer_record(server: Address, upstream: Upstream) -> None:
    """RFC 2308 2.1: only an alias may stand in the answer section of NXDOMAIN."""

    def odd(asked: Asked) -> bytes:
        return reply(asked, "bystander.example 300 IN A 192.0.2.66", authority=[soa()], rcode=NXDOMAIN)

    upstream.on("odd.example", odd)
    for _ in range(2):
        response = ask(server, "odd.example", "A")
        assert response.rcode == NXDOMAIN
        assert not response.answer
    assert ask(server, "bystander.example", "A").addresses == [address_of("bystander.example")]


def test_an_mx_answers_additional_address_is_not_served_for_an_a_query(server: Address, upstream: Upstream) -> None:
    """RFC 2181 5.4.1."""

    def exchanger(asked: Asked) -> bytes:
        extra = ["exchanger.example 300 IN A 192.0.2.66"]
        return reply(asked, "mailed.example 300 IN MX 10 exchanger.example", additional=extra)

    upstream.on("mailed.example", exchanger)
    assert len(ask(server, "mailed.example", "MX").answer) == 1
    assert ask(server, "exchanger.example", "A").addresses == [address_of("exchanger.example")]


def test_a_cname_whose_ttl_is_over_is_fetched_anew_though_its_targets_is_not(
    server: Address, upstream: Upstream
) -> None:
    """RFC 1034 3.6.2, RFC 2181 5.2."""
    first = fixed("alias.example 1 IN CNAME a.target.example", "a.target.example 300 IN A 192.0.2.1")
    then = fixed("alias.example 1 IN CNAME b.target.example", "b.target.example 300 IN A 192.0.2.2")
    upstream.on("alias.example", in_turn(first, then))
    for _ in range(2):
        assert ask(server, "alias.example", "A").addresses == ["192.0.2.1"]
    time.sleep(OVER_A_SECOND)
    assert ask(server, "alias.example", "A").addresses == ["192.0.2.2"]


def test_upstreams_ad_reaches_only_who_asked_for_it(server: Address, upstream: Upstream) -> None:
    """RFC 6840 5.7 and 5.8: neither AD nor DO in the query, no AD in the response."""
    for number, order in enumerate(([0, AD, 0], [AD, 0, AD])):
        name = f"authentic-{number}.example"
        upstream.on(name, lambda asked: reply(asked, f"{asked.name} 300 IN A 192.0.2.1", flags=AD))
        for flags in order:
            response = ask(server, name, "A", flags=flags, edns=Edns())
            assert not response.flags & AD or flags & AD
        assert not ask(server, name, "A").flags & AD


def test_a_multi_record_answer_is_served_whole_each_record_once(server: Address, upstream: Upstream) -> None:
    """RFC 2181 5: fresh and cached."""
    addresses = [f"192.0.2.{number}" for number in range(1, 26)]
    upstream.on("many.example", [f"many.example 300 IN A {address}" for address in addresses])
    for _ in range(3):
        assert sorted(ask(server, "many.example", "A").addresses) == sorted(addresses)
    assert len(upstream.queries("many.example")) == 1


def test_an_answer_with_authority_and_additional_records_is_served_whole(server: Address, upstream: Upstream) -> None:
    """A cached answer is no less than the fresh one."""

    def whole(asked: Asked) -> bytes:
        return reply(
            asked,
            "whole.example 300 IN MX 10 mail.whole.example",
            authority=["whole.example 300 IN NS ns.whole.example"],
            additional=["mail.whole.example 300 IN A 192.0.2.1"],
        )

    upstream.on("whole.example", whole)
    fresh, cached = (ask(server, "whole.example", "MX") for _ in range(2))
    assert len(fresh.answer) == len(cached.answer) == 1
    for section in (AUTHORITY, ADDITIONAL):
        assert len(fresh.section(section)) == len(cached.section(section))


def test_upstream_errors_reach_the_client_as_such_and_are_not_kept(server: Address, upstream: Upstream) -> None:
    """REFUSED is the upstream's word on this question: no data, and the next answer counts (RFC 2308 7)."""
    upstream.on("refused.example", negative(5))
    assert ask(server, "refused.example", "A").rcode in (SERVFAIL, 5)
    upstream.on("refused.example", "refused.example 300 IN A 192.0.2.1")
    until = time.monotonic() + 35
    while ask(server, "refused.example", "A").addresses != ["192.0.2.1"]:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_the_cache_is_bounded(start: Start, upstreams: Callable[[], Upstream]) -> None:
    """`cache.entries`: what is old makes room, the new is kept, and the metric says how many there are."""
    upstream = upstreams()
    service = start(policy(upstream, cache={"entries": 1000}))
    with UdpClient(service.dns) as client:
        for base in range(0, 3000, 100):
            for ident in range(base, base + 100):
                client.send(query(f"fill-{ident}.example", "A", ident=ident))
            assert len(client.gather(100)) == 100
    assert service.metric("dnsfilter_cache_entries") <= 1100
    seen = len(upstream.queries())
    assert ask(service.dns, "fill-2999.example", "A").addresses == [address_of("fill-2999.example")]
    assert len(upstream.queries()) == seen


def test_cache_hits_and_misses_are_counted(start: Start, upstreams: Callable[[], Upstream]) -> None:
    service = start(policy(upstreams()))
    for _ in range(5):
        ask(service.dns, "counted.example", "A")
    assert service.metric("dnsfilter_cache_hits_total") == 4
    assert service.metric("dnsfilter_cache_misses_total") == 1
