"""Answers read in one pass are those that the definition gives, octet for octet."""

import struct
from collections.abc import Sequence

import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core import plain
from dnsfilter.core.cache import ChainError, Entry, Limits, from_response
from dnsfilter.core.wire.response import FormError, read
from tests.core.make import TYPES, many, name, opt, query, question, response, thorough, unhex

LIMITS = Limits(entries=1_000, octets=1_000_000, max_ttl=3_600, max_negative_ttl=300, serve_stale=60)
NOW = 1_000.75


def defined(octets: bytes, qname: bytes, qtype: int) -> Entry | None:
    """What the definition makes of a response; None where it is no answer."""
    try:
        return from_response(read(octets, qname), qname, qtype, NOW, LIMITS)
    except (FormError, ChainError):
        return None


def agree(octets: bytes, qname: bytes, qtype: int) -> bool:
    """Check both ways against each other; True where the short one was taken."""
    found = plain.read(octets, qname, qtype, NOW, LIMITS)
    assert found is None or found == defined(octets, qname, qtype)
    return found is not None


CHAIN = ("www.example 300 IN CNAME a.example", "a.example 200 IN CNAME b.other.test", "b.other.test 100 IN A 192.0.2.1")


@pytest.mark.parametrize(
    ("rtype", "records", "is_plain"),
    [
        pytest.param("A", ["www.example 300 IN A 192.0.2.1"], True, id="an address"),
        pytest.param("AAAA", ["www.example 300 IN AAAA 2001:db8::1"], True, id="an IPv6 address"),
        pytest.param("A", [f"www.example {n} IN A 192.0.2.{n}" for n in range(1, 9)], True, id="eight addresses"),
        pytest.param("A", CHAIN, True, id="a chain"),
        pytest.param("A", ["www.example 86400 IN A 192.0.2.1"], True, id="a TTL above the highest"),
        pytest.param("A", ["www.example 0 IN A 192.0.2.1"], True, id="TTL 0"),
        pytest.param("A", ["www.example 2147483648 IN A 192.0.2.1"], False, id="a TTL with the top bit set"),
        pytest.param("A", CHAIN[::-1], False, id="a chain in reverse order"),
        pytest.param("A", CHAIN[:2], False, id="a chain without an address"),
        pytest.param("A", ["other.example 300 IN A 192.0.2.1"], False, id="a stray"),
        pytest.param("A", ["www.example 300 IN TXT x"], False, id="another type"),
        pytest.param("CNAME", ["www.example 300 IN CNAME a.example"], False, id="an alias asked for by type"),
        pytest.param("A", ["www.example 300 IN CNAME www.example"], False, id="a loop of one"),
        pytest.param("A", [], False, id="nothing"),
    ],
)
@pytest.mark.parametrize("edns", [None, False], ids=["with OPT", "without OPT"])
def test_the_short_way_is_taken_for(rtype: str, records: Sequence[str], is_plain: bool, edns: bool | None) -> None:
    octets = response(query("www.example", rtype, edns=opt()), *records, edns=edns)
    assert agree(octets, name("www.example"), TYPES[rtype]) is is_plain


@pytest.mark.parametrize(
    ("more", "octets"),
    [
        pytest.param({"rcode": dns.rcode.NXDOMAIN}, b"", id="NXDOMAIN"),
        pytest.param({"authority": ["example 300 IN NS ns.example"]}, b"", id="authority"),
        pytest.param({"additional": ["ns.example 300 IN A 192.0.2.53"]}, b"", id="additional"),
        pytest.param({}, b"\0", id="octets behind the last record"),
    ],
)
def test_all_else_is_left_to_the_definition(more: dict[str, object], octets: bytes) -> None:
    answer = response(query("www.example", edns=opt()), "www.example 300 IN A 192.0.2.1", **more)  # type: ignore[arg-type]
    assert not agree(answer + octets, name("www.example"), 1)


ADDRESS = unhex("c00c 0001 0001 0000012c 0004 c0000201")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(unhex("c00d 0001 0001 0000012c 0004 c0000201"), id="a pointer into the question"),
        pytest.param(unhex("c00c 0001 0003 0000012c 0004 c0000201"), id="another class"),
        pytest.param(unhex("c00c 0001 0001 0000012c 0005 c000020100"), id="an address of five octets"),
        pytest.param(unhex("c00c 0005 0001 0000012c 0002 c00c"), id="an alias that is a pointer"),
        pytest.param(unhex("c00c 0005 0001 0000012c 0003 01 61 00"), id="an alias alone"),
        pytest.param(unhex("c00c 0005 0001 0000012c 0004 01 61 00 00"), id="octets behind an alias"),
        pytest.param(ADDRESS[:-1], id="cut"),
        pytest.param(ADDRESS[:7], id="cut in its fields"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_octets_that_are_not_plain(body: bytes) -> None:
    octets = unhex("1234 8180 0001 0001 0000 0000") + question("www.example") + body
    assert not agree(octets, name("www.example"), 1)


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(opt(version=1), id="version 1"),
        pytest.param(unhex("00 0029 04d0 01 00 0000 0000"), id="an extended rcode"),
        pytest.param(opt(options=unhex("000a 0008 0102030405060708")), id="an option"),
        pytest.param(opt() + opt(), id="two"),
        pytest.param(opt()[:-1], id="cut"),
        pytest.param(b"\1a" + opt(), id="of another name"),
    ],
)
def test_opt_records_of_every_kind(tail: bytes) -> None:
    octets = unhex("1234 8180 0001 0001 0000 0001") + question("www.example") + ADDRESS + tail
    agree(octets, name("www.example"), 1)


labels = st.sampled_from(["a", "b", "www"])
names = st.lists(labels, min_size=1, max_size=3).map(lambda each: ".".join([*each, "example"]))
records = st.one_of(
    st.tuples(names, st.sampled_from([0, 5, 300, 90_000]), st.just("A 192.0.2.1")),
    st.tuples(names, st.sampled_from([0, 5, 300, 90_000]), names.map("CNAME {}".format)),
    st.tuples(names, st.just(60), st.just("AAAA 2001:db8::1")),
).map(lambda each: f"{each[0]} {each[1]} IN {each[2]}")


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A name and records, half of the time in a chain that holds together."""
    asked = owner = draw(names)
    found = []
    for target in draw(st.lists(names, max_size=4)):
        found.append(f"{owner} {draw(st.sampled_from([1, 300, 90_000]))} IN CNAME {target}")
        owner = target
    found += [
        f"{owner} {draw(st.sampled_from([1, 300, 90_000]))} IN A 192.0.2.{number}"
        for number in range(draw(st.integers(0, 3)))
    ]
    return asked, found if draw(st.booleans()) else draw(
        st.permutations([*found, *draw(st.lists(records, max_size=2))])
    )


@thorough
@given(answer=answers(), ad=st.booleans(), edns=st.booleans())
def test_both_ways_agree_on_answers(answer: tuple[str, list[str]], *, ad: bool, edns: bool) -> None:
    asked, found = answer
    octets = response(query(asked, edns=opt()), *found, flags=0x20 if ad else 0, edns=edns)
    agree(octets, name(asked), 1)


@many
@given(
    answer=answers(),
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    cut=st.none() | st.integers(0, 200),
)
def test_both_ways_agree_on_mutated_answers(
    answer: tuple[str, list[str]], changes: list[tuple[int, int]], cut: int | None
) -> None:
    asked, found = answer
    octets = bytearray(response(query(asked, edns=opt()), *found))
    start = 12 + len(question(asked))  # the question is checked before
    for at, octet in changes:
        if start + at < len(octets):
            octets[start + at] = octet
    agree(bytes(octets if cut is None else octets[: start + cut]), name(asked), 1)


@many
@given(
    answer=answers(), counts=st.tuples(*[st.integers(0, 3)] * 3), flags=st.integers(0, 255), more=st.binary(max_size=12)
)
def test_both_ways_agree_whatever_the_header_says(
    answer: tuple[str, list[str]], counts: tuple[int, int, int], flags: int, more: bytes
) -> None:
    asked, found = answer
    octets = response(query(asked, edns=opt()), *found) + more
    agree(octets[:3] + bytes((flags,)) + octets[4:6] + struct.pack("!3H", *counts) + octets[12:], name(asked), 1)
