"""Answers without the keys of Encrypted Client Hello: what goes, what stays, and that the rest is still a message."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import dns.message
import dns.rdata
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.cache import ChainError, Entry, Limits, from_response
from dnsfilter.core.ech import stripped, without_ech
from dnsfilter.core.wire.framing import MAX_MESSAGE
from dnsfilter.core.wire.response import FormError, read
from tests.core.make import many, name, opt, query, question, record, response, thorough, unhex, wire
from tests.fuzz.mutate import mutated

LIMITS = Limits(entries=100, octets=1_000_000, max_ttl=3_600, max_negative_ttl=300)
NOW = 1_000.0
HTTPS, SVCB, RRSIG, AD = 65, 64, 46, 0x20
KEYS = "AARhYmNk"  # of ECH, in base 64


def entry(octets: bytes, asked: str = "www.example", rtype: int = HTTPS) -> Entry:
    return from_response(read(octets, name(asked)), name(asked), rtype, NOW, LIMITS)


def answer_to(*answer: str, rtype: int = HTTPS, additional: Sequence[str] = (), authority: Sequence[str] = ()) -> Entry:
    asked = query("www.example", rtype, edns=opt(do=True))
    octets = response(asked, *answer, additional=additional, authority=authority, flags=AD)
    return entry(octets, rtype=rtype)


def message_of(found: Entry, asked: str = "www.example", rtype: int = HTTPS) -> bytes:
    """The entry as a client gets it, without OPT."""
    head = struct.pack("!2sH", b"\0\1", 0x8180 | found.rcode | (AD if found.is_authentic else 0))
    return head + b"\0\1" + found.counts + question(asked, rtype) + found.body


def told(found: Entry, asked: str = "www.example", rtype: int = HTTPS) -> list[list[str]]:
    """The records of each section as dnspython reads them, in order."""
    message = dns.message.from_wire(message_of(found, asked, rtype), one_rr_per_rrset=True)
    sections = (message.answer, message.authority, message.additional)
    return [[rrset.to_text() for rrset in section] for section in sections]


def bare(found: Entry, asked: str = "www.example") -> Entry:
    return without_ech(found, name(asked))


def normal(*texts: str) -> list[str]:
    """Records as dnspython writes them."""
    return [record(text).to_text() for text in texts]


def sig(owner: str, covered: str, signer: str = "example") -> str:
    return f"{owner} 60 IN RRSIG {covered} 13 2 60 20300101000000 20200101000000 4711 {signer}. c2lnbmF0dXJl"


# One record


@pytest.mark.parametrize(
    ("rdata", "expected"),
    [
        pytest.param("0001 00 0005 0002 abcd", "0001 00", id="nothing else"),
        pytest.param("0001 00 0005 0000", "0001 00", id="no keys in it"),
        pytest.param(
            *("0001 00 0001 0003 026832 0005 0002 abcd 029b 0001 78", "0001 00 0001 0003 026832 029b 0001 78"),
            id="between others",
        ),
        pytest.param(
            *("0001 03737663 00 0003 0002 01bb 0005 0001 ff", "0001 03737663 00 0003 0002 01bb"), id="behind a target"
        ),
        pytest.param("0001 00 0000 0002 0005 0005 0001 ff", "0001 00", id="the one mandatory key"),
        pytest.param(
            *("0001 00 0000 0004 0001 0005 0001 0003 026832 0005 0001 ff", "0001 00 0000 0002 0001 0001 0003 026832"),
            id="the last of two mandatory keys",
        ),
        pytest.param(
            *("0001 00 0000 0004 0005 0006 0005 0001 ff 0006 0000", "0001 00 0000 0002 0006 0006 0000"),
            id="the first of two mandatory keys",
        ),
        pytest.param(
            *("0001 00 0000 0002 0001 0001 0003 026832 0005 0001 ff", "0001 00 0000 0002 0001 0001 0003 026832"),
            id="not mandatory, as another is",
        ),
        pytest.param(
            *("0001 00 0000 0004 0105 0500 0005 0001 ff", "0001 00 0000 0004 0105 0500"),
            id="mandatory keys that look like it",
        ),
        pytest.param("0001 00 0000 0000 0005 0001 ff", "0001 00 0000 0000", id="an empty list of mandatory keys"),
        pytest.param(
            "0001 00 0000 0003 000500 0005 0001 ff", "0001 00 0000 0001 00", id="a list with half a key in it"
        ),
        pytest.param("0000 00 0005 0001 ff", "0000 00", id="the alias form, which should have none"),
        pytest.param("0001 00 0005 0009 ff", "0001 00", id="keys cut short"),
        pytest.param("0001 00 0005 0001 ff 0006", "0001 00 0006", id="half a parameter behind it"),
        pytest.param("0001 00 0001 0003 026832", None, id="no keys"),
        pytest.param("0001 00 0000 0002 0005", None, id="mandatory, and not there"),
        pytest.param("0001 00 029b 0004 0005 0000", None, id="octets of a value that look like them"),
        pytest.param("0001 04 00050000 00", None, id="octets of a target that look like them"),
        pytest.param("0001 00 0500 0000", None, id="another key"),
        pytest.param("0001 00", None, id="no parameters"),
        pytest.param("0001 3f 0005", None, id="a target that does not end"),
        pytest.param("0001", None, id="a priority alone"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_what_is_left_of_a_record(rdata: str, expected: str | None) -> None:
    assert stripped(unhex(rdata)) == (None if expected is None else unhex(expected))


@thorough
@given(rdata=st.binary(max_size=40) | st.binary(max_size=60).map(lambda tail: b"\0\1\0" + tail))
def test_any_octets_of_rdata_give_fewer_or_none(rdata: bytes) -> None:
    left = stripped(rdata)
    if left is not None:
        assert len(left) < len(rdata)
        assert stripped(left) is None


# Whole answers

WITH = f"www.example 60 IN HTTPS 1 . alpn=h2,h3 ech={KEYS} ipv4hint=192.0.2.1"
WITHOUT = "www.example 60 IN HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.1"
PLAIN = "www.example 60 IN HTTPS 2 . alpn=h2"


@pytest.mark.parametrize(
    ("answer", "additional", "expected", "expected_additional"),
    [
        pytest.param([WITH], [], [WITHOUT], [], id="one record"),
        pytest.param([PLAIN, WITH], [], [PLAIN, WITHOUT], [], id="one of two, in their order"),
        pytest.param([WITH, PLAIN], [], [WITHOUT, PLAIN], [], id="the other of two"),
        pytest.param([WITH, sig("www.example", "HTTPS")], [], [WITHOUT], [], id="its signature"),
        pytest.param([sig("www.example", "HTTPS"), WITH], [], [WITHOUT], [], id="a signature before it"),
        pytest.param(
            [WITH, sig("www.example", "HTTPS"), sig("www.example", "HTTPS", "other.example")],
            *([], [WITHOUT], []),
            id="both its signatures",
        ),
        pytest.param(
            [
                "www.example 60 IN CNAME svc.test",
                sig("www.example", "CNAME"),
                f"svc.test 60 IN HTTPS 1 . ech={KEYS}",
                sig("svc.test", "HTTPS"),
            ],
            [],
            ["www.example 60 IN CNAME svc.test", sig("www.example", "CNAME"), "svc.test 60 IN HTTPS 1 ."],
            [],
            id="signatures over other types stay",
        ),
        pytest.param(
            [PLAIN, sig("www.example", "HTTPS")],
            [f"svc.test 60 IN HTTPS 1 . ech={KEYS}", sig("svc.test", "HTTPS"), "svc.test 60 IN A 192.0.2.1"],
            [PLAIN, sig("www.example", "HTTPS")],
            ["svc.test 60 IN HTTPS 1 .", "svc.test 60 IN A 192.0.2.1"],
            id="signatures over other record sets stay",
        ),
        pytest.param(
            [f"www.example 60 IN HTTPS 1 svc.test mandatory=ech,port ech={KEYS} port=8443"],
            ["svc.test 60 IN A 192.0.2.1", "a.svc.test 60 IN AAAA 2001:db8::1", "svc.test 60 IN MX 1 b.svc.test"],
            ["www.example 60 IN HTTPS 1 svc.test mandatory=port port=8443"],
            ["svc.test 60 IN A 192.0.2.1", "a.svc.test 60 IN AAAA 2001:db8::1", "svc.test 60 IN MX 1 b.svc.test"],
            id="additional records compressed against the target",
        ),
        pytest.param(
            [WITH],
            [f"x.test 60 IN SVCB 1 y.test ech={KEYS}", f"x.test 60 IN SVCB 2 . ech={KEYS}", "y.test 60 IN A 192.0.2.1"],
            [WITHOUT],
            ["x.test 60 IN SVCB 1 y.test", "x.test 60 IN SVCB 2 .", "y.test 60 IN A 192.0.2.1"],
            id="in both sections",
        ),
    ],
)
def test_what_is_left_of_an_answer(
    answer: list[str], additional: list[str], expected: list[str], expected_additional: list[str]
) -> None:
    found = answer_to(*answer, additional=additional)
    before = message_of(found)
    left = bare(found)
    assert told(left) == [normal(*expected), [], normal(*expected_additional)]
    assert found.is_authentic
    assert not left.is_authentic, "it is no longer what was validated"
    assert message_of(found) == before, "others get it as it came"
    assert (left.lifetime, left.born, left.chain) == (found.lifetime, found.born, found.chain)
    assert bare(found) is left, "made once"
    assert bare(left) is left


@pytest.mark.parametrize(
    ("rtype", "answer", "additional"),
    [
        pytest.param(HTTPS, [PLAIN, sig("www.example", "HTTPS")], [], id="a signed record without keys"),
        pytest.param(HTTPS, ["www.example 60 IN HTTPS 0 svc.test"], [], id="the alias form"),
        pytest.param(1, ["www.example 60 IN A 192.0.2.1"], [], id="an address"),
        pytest.param(15, ["www.example 60 IN MX 1 mx.test"], ["mx.test 60 IN A 192.0.2.1"], id="a mail server"),
        pytest.param(16, ['www.example 60 IN TXT "ech=AARhYmNk"'], [], id="text"),
        pytest.param(RRSIG, [sig("www.example", "HTTPS")], [], id="a signature asked for by type"),
        pytest.param(HTTPS, [], [], id="no data"),
    ],
)
def test_an_answer_without_keys_is_itself(rtype: int, answer: list[str], additional: list[str]) -> None:
    found = answer_to(*answer, rtype=rtype, additional=additional)
    assert bare(found) is found
    assert bare(found) is found
    assert found.is_authentic
    assert found.bare is None


def test_octets_of_an_answer_that_is_changed() -> None:
    """The owner goes on to be the name in the client's question, in the client's letters."""
    found = answer_to("www.example 60 IN CNAME sub.www.example", "sub.www.example 60 IN HTTPS 1 . alpn=h2 ech=AARhYmNk")
    assert bare(found).body == unhex(
        "c00c 0005 0001 0000003c 0006 03737562 c00c"  # www.example. CNAME sub.www.example.: as it came
        "c029 0041 0001 0000003c 000a 0001 00 0001 0003 026832"  # its target: the same pointer, HTTPS 1 . alpn=h2
    )
    assert told(bare(found), "WWW.Example")[0][1].startswith("sub.WWW.Example. 60 IN HTTPS ")


def test_a_name_that_points_into_a_dropped_signature_is_written_out() -> None:
    signer = b"\6signer\4test\0"
    rdata = struct.pack("!HBBIIIH", HTTPS, 13, 2, 60, 2**31, 1, 4711) + signer + b"signature"
    head = struct.pack("!HHIH", HTTPS, 1, 60, 9) + unhex("0001 00 0005 0002 abcd")
    records = b"\xc0\x0c" + head + b"\xc0\x0c" + struct.pack("!HHIH", RRSIG, 1, 60, len(rdata)) + rdata
    at = 12 + len(question("www.example", HTTPS)) + len(records) - len(rdata) + 18
    pointer = struct.pack("!H", 0xC000 | at)
    address = struct.pack("!HHIH4s", 1, 1, 60, 4, bytes((192, 0, 2, 1)))
    mail = struct.pack("!HHIHH", 15, 1, 60, 4, 1) + pointer
    asked = question("www.example", HTTPS)
    octets = struct.pack("!6H", 1, 0x8180, 1, 2, 0, 3) + asked + records
    octets += b"\1a" + pointer + address + pointer + address + pointer + mail
    left = bare(entry(octets))
    expected = [
        "a.signer.test 60 IN A 192.0.2.1",
        "signer.test 60 IN A 192.0.2.1",
        "signer.test 60 IN MX 1 signer.test",
    ]
    assert told(left) == [normal("www.example 60 IN HTTPS 1 ."), [], normal(*expected)]


def test_records_out_of_their_order_are_stripped_too() -> None:
    """Where the answer was written anew there are no pointers at all."""
    found = answer_to(
        f"svc.test 60 IN HTTPS 1 . ech={KEYS}", "stray.test 60 IN A 192.0.2.9", "www.example 60 IN CNAME svc.test"
    )
    assert told(bare(found))[0] == normal("svc.test 60 IN HTTPS 1 .", "www.example 60 IN CNAME svc.test")


def test_ttls_count_down_and_additional_records_can_be_cut() -> None:
    found = answer_to(
        WITH,
        sig("www.example", "HTTPS"),
        additional=[f"x.test 90 IN SVCB 1 . ech={KEYS}", sig("x.test", "SVCB"), "y.test 90 IN A 192.0.2.1"],
    )
    left = bare(found)
    for at, ttl in left.ttls:
        assert left.body[at : at + 4] == struct.pack("!I", ttl)
    aged = dns.message.from_wire(
        message_of(left)[: 12 + len(question("www.example", HTTPS))] + left.aged_body(NOW + 7, None)
    )
    assert [rrset.ttl for rrset in (*aged.answer, *aged.additional)] == [53, 83, 83]
    assert [each.names for each in left.additional] == [(name("x.test"), name(".")), (name("y.test"),)]
    assert told(left.without(1))[2] == normal("x.test 90 IN SVCB 1 .")
    assert told(left.without(0))[2] == []


def test_an_answer_that_no_message_can_hold_once_its_names_are_written_out_is_a_failure() -> None:
    owner = ".".join(["a" * 60] * 4)
    found = answer_to(WITH, additional=[f"{owner} 60 IN TXT {number}" for number in range(300)])
    left = bare(found)
    assert len(found.body) < MAX_MESSAGE / 4
    assert (left.rcode, left.counts, left.body, left.ttls, left.additional) == (2, bytes(6), b"", (), ())


# A second opinion


@dataclass(frozen=True, slots=True)
class Service:
    """A record of a service, to be written with and without keys."""

    owner: str
    rtype: str
    priority: int
    target: str
    mandatory: tuple[str, ...]
    values: tuple[tuple[str, str], ...]

    def text(self, *, ech: bool) -> str:
        values = [(key, value) for key, value in self.values if ech or key != "ech"]
        keys = [key for key in self.mandatory if key in dict(values)]
        parts = [f"mandatory={','.join(keys)}"] if keys else []
        parts += [f"{key}={value}" for key, value in values]
        return f"{self.owner} 60 IN {self.rtype} {self.priority} {self.target} {' '.join(parts)}"


VALUES = {
    "alpn": "h2,h3",
    "port": "8443",
    "ipv4hint": "192.0.2.1",
    "ech": KEYS,
    "ipv6hint": "2001:db8::1",
    "key667": "x",
}
owners = st.sampled_from(["www.example", "svc.test", "a.svc.test"])
chosen = st.lists(st.sampled_from(list(VALUES)), unique=True).map(lambda keys: [key for key in VALUES if key in keys])
services = st.builds(
    lambda owner, rtype, priority, target, keys, mandatory: Service(
        owner, rtype, priority, target, tuple(mandatory), tuple((key, VALUES[key]) for key in keys)
    ),
    owners,
    st.sampled_from(["HTTPS", "SVCB"]),
    st.integers(1, 3),
    st.sampled_from([".", "svc.test", "b.svc.test"]),
    chosen,
    st.lists(st.sampled_from(list(VALUES)), unique=True, max_size=3),
)
others = st.one_of(
    st.tuples(owners, st.sampled_from(["HTTPS", "SVCB", "A"]), st.sampled_from(["example", "svc.test"])).map(
        lambda each: sig(*each)
    ),
    st.tuples(owners, st.sampled_from(["A 192.0.2.1", "MX 1 mx.svc.test", "TXT x", "SRV 0 0 1 srv.svc.test"])).map(
        lambda each: f"{each[0]} 60 IN {each[1]}"
    ),
)
records = st.lists(services | others, max_size=5)


def is_over(text: str, changed: set[tuple[str, str]]) -> bool:
    """Whether a record is a signature over one of these record sets."""
    owner, _, _, rtype, covered, *_ = text.split()
    return rtype == "RRSIG" and (owner, covered) in changed


@thorough
@given(answer=records, additional=records, is_alias=st.booleans())
def test_what_is_left_agrees_with_a_second_reader(
    answer: list[Service | str], additional: list[Service | str], is_alias: bool
) -> None:
    """All records of a chain and all additional ones, told with keys and without."""
    alias = ["www.example 60 IN CNAME svc.test", "svc.test 60 IN CNAME a.svc.test"] if is_alias else []
    answer = [each for each in answer if is_alias or (each if isinstance(each, str) else each.owner)[:3] == "www"]
    given_ = [*alias, *(each if isinstance(each, str) else each.text(ech=True) for each in answer)]
    given_additional = [each if isinstance(each, str) else each.text(ech=True) for each in additional]
    with_keys = [each for each in (*answer, *additional) if isinstance(each, Service) and "ech" in dict(each.values)]
    changed = {(each.owner, each.rtype) for each in with_keys}

    def left(said: list[Service | str]) -> list[str]:
        texts = [each if isinstance(each, str) else each.text(ech=False) for each in said]
        return normal(*(text for text in texts if not is_over(text, changed)))

    found = answer_to(*given_, additional=given_additional)
    assert told(found) == [normal(*given_), [], normal(*given_additional)]
    bared = bare(found)
    assert told(bared) == [normal(*alias) + left(answer), [], left(additional)]
    assert (bared is found) is (not changed)
    again = entry(message_of(bared))
    assert (again.counts, again.chain, again.ttls, again.additional) == (
        *(bared.counts, bared.chain, bared.ttls, bared.additional),
    )


SEEDS = [
    response(
        query("www.example", HTTPS, edns=opt(do=True)),
        *("www.example 60 IN CNAME svc.test", f"svc.test 60 IN HTTPS 1 t.svc.test alpn=h2 ech={KEYS}"),
        *(f"svc.test 60 IN HTTPS 2 . mandatory=ech ech={KEYS}", sig("svc.test", "HTTPS", "svc.test")),
        authority=["svc.test 60 IN NS ns.svc.test"],
        additional=[
            f"t.svc.test 60 IN SVCB 1 . ech={KEYS}",
            "ns.svc.test 60 IN A 192.0.2.1",
            "x.test 60 IN MX 1 mx.svc.test",
        ],
    ),
    response(query("www.example", HTTPS), WITH, sig("www.example", "HTTPS"), PLAIN),
]
WORDS = [
    wire("svc.test"),
    b"\xc0\x0c",
    b"\xc0\x21",
    b"\0\5\0\4abcd",
    b"\0\0\0\2\0\5",
    b"\0\x41\0\1\0\0\0\x3c",
    b"\0\x2e\0\1\0\0\0\x3c",
]


@many
@given(seed=st.integers(0, 2**64))
def test_whatever_an_upstream_says_what_is_left_is_a_message_that_holds_no_keys(seed: int) -> None:
    asked = question("www.example", HTTPS)
    for number in range(20):
        octets = mutated(SEEDS, WORDS, seed + number)
        try:
            found = entry(b"\0\1\x81\x80\0\1" + octets[6:12] + asked + octets[12 + len(asked) :])
        except (FormError, ChainError):
            continue
        left = bare(found)
        again = entry(message_of(left))
        assert bare(again) is again
        assert len(again.ttls) <= len(found.ttls)
        assert again.counts == left.counts


@thorough
@given(
    rtype=st.sampled_from([HTTPS, SVCB, 1]),
    rdata=st.binary(max_size=40).map(lambda tail: b"\0\1\0" + tail) | st.binary(max_size=40),
    length=st.none() | st.integers(0, 65_535),
    tail=st.binary(max_size=8),
    counts=st.binary(min_size=6, max_size=6),
)
def test_any_octets_raise_no_error(rtype: int, rdata: bytes, length: int | None, tail: bytes, counts: bytes) -> None:
    head = b"\0" + struct.pack("!HHIH", rtype, 1, 60, len(rdata) if length is None else length)
    found = Entry(0, False, counts, head + rdata + tail, ((5, 60),), 60, 1_000, ())
    left = bare(found)
    assert left is found or len(left.body) < len(found.body)
