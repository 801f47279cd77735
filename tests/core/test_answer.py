"""Answers of our own, octet by octet, and each once more by dnspython."""

import itertools

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from dnsfilter.core import answer
from dnsfilter.core.clients import Style
from dnsfilter.core.names import Name
from dnsfilter.core.policy import CANARY, Action, Blocking, Verdict
from dnsfilter.core.special import Special
from dnsfilter.core.wire import build, codes
from dnsfilter.core.wire.query import Query, parse
from tests.core.make import labels_to_wire, opt, query, unhex

BLOCKING = Blocking(ipv4=bytes([192, 0, 2, 1]), ipv6=unhex("20010db8 00000000 00000000 00000001"), ttl=60, text=None)
NAME = "03416473 074578616d706c65 00"  # Ads.Example, spelt as asked

# The parts of all answers. The client's question follows the header, so the qname is at octet 12: c00c.
A_RECORD = "c00c 0001 0001 0000003c 0004 c0000201"
AAAA_RECORD = "c00c 001c 0001 0000003c 0010 20010db8 00000000 00000000 00000001"
SOA_RECORD = (
    "c00c 0006 0001 0000003c 0037"
    "09646e7366696c746572 07696e76616c6964 00"  # dnsfilter.invalid.
    "066e6f626f6479 07696e76616c6964 00"  # nobody.invalid.
    "00000001 00000e10 00000258 00015180 0000003c"  # 1 3600 600 86400 60
)
HINFO_RECORD = "c00c 000d 0001 0000003c 0009 0752464338343832 00"
BLOCKED = Verdict(Action.BLOCKED, "managed", "tiktok")
EDE = "000f 0008 000f 74696b746f6b"  # Blocked, "tiktok"


def check(octets: bytes) -> dns.message.Message:
    """Read an answer with dnspython, which refuses what is not well formed; write it again."""
    message = dns.message.from_wire(octets)
    assert message.to_wire(max_size=65_535, prefer_truncation=False), "cannot be written"
    assert message.flags & dns.flags.QR
    assert message.flags & dns.flags.RA
    assert not message.flags & (dns.flags.AA | dns.flags.AD)
    return message


STYLES = [
    # style, type asked; rcode, ANCOUNT and NSCOUNT, records
    (Style.SINKHOLE, 1, 0, "0001 0000", A_RECORD),
    (Style.SINKHOLE, 28, 0, "0001 0000", AAAA_RECORD),
    (Style.SINKHOLE, 16, 0, "0000 0001", SOA_RECORD),
    (Style.NODATA, 1, 0, "0000 0001", SOA_RECORD),
    (Style.NODATA, 28, 0, "0000 0001", SOA_RECORD),
    (Style.NODATA, 65, 0, "0000 0001", SOA_RECORD),
    (Style.NXDOMAIN, 1, 3, "0000 0001", SOA_RECORD),
    (Style.NXDOMAIN, 28, 3, "0000 0001", SOA_RECORD),
    (Style.NXDOMAIN, 255, 3, "0000 0001", SOA_RECORD),
    (Style.REFUSED, 1, 5, "0000 0000", ""),
    (Style.REFUSED, 28, 5, "0000 0000", ""),
    (Style.REFUSED, 65_280, 5, "0000 0000", ""),
]
BITS = list(itertools.product([False, True], repeat=4))  # RD, AD, CD, DO


def asked(rtype: int, *, rd: bool = True, ad: bool = False, cd: bool = False, edns: bytes = b"") -> Query:
    octets = query(labels_to_wire([b"Ads", b"Example"]), rtype, rd=rd, ad=ad, cd=cd, edns=edns)
    return parse(octets)


@pytest.mark.parametrize(
    ("style", "rtype", "rcode", "counts", "records"), STYLES, ids=[f"{each[0]}, type {each[1]}" for each in STYLES]
)
def test_blocked_answers_octet_by_octet(style: Style, rtype: int, rcode: int, counts: str, records: str) -> None:
    verdict = Verdict(Action.BLOCKED, "managed", "tiktok", style=style)
    for rd, ad, cd, do in BITS:
        flags = f"{0x80 | rd:02x}{0x80 | cd << 4 | rcode:02x}"  # QR, RD as asked, RA, CD as asked; AA and AD are 0
        body = f"{NAME} {rtype:04x} 0001 {records}"
        plain = answer.blocked(asked(rtype, rd=rd, ad=ad, cd=cd), verdict, BLOCKING)
        assert plain == unhex(f"1234 {flags} 0001 {counts} 0000 {body}")
        check(plain)
        edns = answer.blocked(asked(rtype, rd=rd, ad=ad, cd=cd, edns=opt(4096, do=do)), verdict, BLOCKING)
        opt_record = f"00 0029 04d0 00 00 {'8000' if do else '0000'} 000c {EDE}"
        assert edns == unhex(f"1234 {flags} 0001 {counts} 0001 {body} {opt_record}")
        message = check(edns)
        assert (message.payload, message.edns, bool(message.ednsflags & dns.flags.DO)) == (1232, 0, do)
        [told] = message.options
        assert isinstance(told, dns.edns.EDEOption)
        assert (told.code, told.text) == (15, "tiktok")


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "rtype", "counts", "records"),
    [
        pytest.param(None, bytes(16), 1, "0000 0001", SOA_RECORD, id="no IPv4 address, A"),
        pytest.param(bytes(4), None, 28, "0000 0001", SOA_RECORD, id="no IPv6 address, AAAA"),
        pytest.param(None, None, 1, "0000 0001", SOA_RECORD, id="none at all, A"),
        pytest.param(bytes(4), None, 1, "0001 0000", "c00c 0001 0001 0000003c 0004 00000000", id="the zero address"),
        pytest.param(
            None, bytes(16), 28, "0001 0000", "c00c 001c 0001 0000003c 0010" + "00" * 16, id="the zero address by IPv6"
        ),
    ],
)
def test_a_family_without_a_sinkhole_address_is_nodata(
    ipv4: bytes | None, ipv6: bytes | None, rtype: int, counts: str, records: str
) -> None:
    verdict = Verdict(Action.BLOCKED, "managed", "tiktok", style=Style.SINKHOLE)
    octets = answer.blocked(asked(rtype), verdict, Blocking(ipv4, ipv6, 60, None))
    assert octets == unhex(f"1234 8180 0001 {counts} 0000 {NAME} {rtype:04x} 0001 {records}")
    check(octets)


def test_the_root_can_be_blocked_too() -> None:
    verdict = Verdict(Action.BLOCKED, "managed", "only", style=Style.NXDOMAIN)
    octets = answer.blocked(parse(query(".", "NS")), verdict, BLOCKING)
    assert octets == unhex(f"1234 8183 0001 0000 0001 0000 00 0002 0001 {SOA_RECORD}")
    check(octets)


@pytest.mark.parametrize(
    ("ttl", "valid_s", "told"),
    [
        pytest.param(60, None, 60, id="no exemption"),
        pytest.param(60, 3600, 60, id="a change long after"),
        pytest.param(60, 60, 60, id="a change just then"),
        pytest.param(60, 59, 59, id="a change before"),
        pytest.param(3600, 1, 1, id="a change at once"),
    ],
)
@pytest.mark.parametrize("style", [Style.SINKHOLE, Style.NODATA, Style.NXDOMAIN])
def test_the_ttl_ends_with_the_next_change_of_an_exemption(
    style: Style, ttl: int, valid_s: int | None, told: int
) -> None:
    verdict = Verdict(Action.BLOCKED, "managed", "tiktok", style=style, valid_s=valid_s)
    octets = answer.blocked(asked(1), verdict, Blocking(bytes(4), bytes(16), ttl, None))
    message = check(octets)
    [rrset] = message.answer or message.authority
    assert rrset.ttl == told
    if rrset.rdtype == 6:
        assert rrset[0].minimum == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("Not allowed", b"Not allowed", id="short"),
        pytest.param("x" * 64, b"x" * 64, id="64 octets"),
        pytest.param("x" * 65, b"x" * 64, id="65 octets"),
        pytest.param("x" * 63 + "é", b"x" * 63, id="the last character would be cut in half"),
        pytest.param("x" * 62 + "é", b"x" * 62 + "é".encode(), id="it fits exactly"),
        pytest.param("x" * 61 + "€", b"x" * 61 + "€".encode(), id="three octets fit exactly"),
        pytest.param("x" * 62 + "€", b"x" * 62, id="three octets, the last would be missing"),
        pytest.param("x" * 63 + "\U0001f600", b"x" * 63, id="four octets, three would be missing"),
        pytest.param("é" * 40, "é".encode() * 32, id="many of two octets"),
        pytest.param("", b"", id="nothing"),
    ],
)
def test_the_text_of_the_extended_error_is_cut_at_a_character_within_64_octets(text: str, told: bytes) -> None:
    verdict = Verdict(Action.BLOCKED, "managed", "tiktok", style=Style.NODATA)
    octets = answer.blocked(asked(1, edns=opt()), verdict, Blocking(bytes(4), bytes(16), 60, text))
    assert octets.endswith(unhex(f"000f {2 + len(told):04x} 000f") + told)
    assert len(check(octets).options) == 1


def test_the_text_is_the_configured_one_else_the_lists_name_but_for_canaries() -> None:
    text = Blocking(bytes(4), bytes(16), 60, "Not allowed: help@ministry.example")

    def told(list_name: str, blocking: Blocking) -> str | None:
        verdict = Verdict(Action.BLOCKED, "managed", list_name, style=Style.NXDOMAIN)
        [option] = check(answer.blocked(asked(1, edns=opt()), verdict, blocking)).options
        assert isinstance(option, dns.edns.EDEOption)
        return option.text

    assert told("tiktok", text) == "Not allowed: help@ministry.example"
    assert told("tiktok", BLOCKING) == "tiktok"
    assert told(CANARY, text) == "canary"


@pytest.mark.parametrize(
    ("kind", "rtype", "rcode", "counts", "records"),
    [
        (Special.LOOPBACK, 1, 0, "0001 0000", "c00c 0001 0001 0000003c 0004 7f000001"),
        (Special.LOOPBACK, 28, 0, "0001 0000", "c00c 001c 0001 0000003c 0010" + "00" * 15 + "01"),
        (Special.LOOPBACK, 16, 0, "0000 0001", SOA_RECORD),
        (Special.ABSENT, 1, 3, "0000 0001", SOA_RECORD),
        (Special.EMPTY, 64, 0, "0000 0001", SOA_RECORD),
    ],
    ids=["localhost A", "localhost AAAA", "localhost TXT", "a name that does not exist", "resolver.arpa"],
)
def test_names_answered_here_octet_by_octet(kind: Special, rtype: int, rcode: int, counts: str, records: str) -> None:
    octets = answer.local(asked(rtype), kind, 60)
    assert octets == unhex(f"1234 818{rcode} 0001 {counts} 0000 {NAME} {rtype:04x} 0001 {records}")
    check(octets)
    edns = answer.local(asked(rtype, cd=True, edns=opt(do=True)), kind, 60)
    assert edns == unhex(
        f"1234 819{rcode} 0001 {counts} 0001 {NAME} {rtype:04x} 0001 {records} 00 0029 04d0 0000 8000 0000"
    )
    check(edns)


def test_any_over_udp_is_answered_by_one_small_record() -> None:
    """RFC 8482 section 4.2."""
    octets = answer.minimal_any(asked(255), Verdict(Action.FORWARDED, "managed"), 60)
    assert octets == unhex(f"1234 8180 0001 0001 0000 0000 {NAME} 00ff 0001 {HINFO_RECORD}")
    [rrset] = check(octets).answer
    assert rrset.to_text().split(" ", 4)[1:] == ["60", "IN", "HINFO", '"RFC8482" ""']


def test_a_failure_says_why_where_the_client_can_read_it() -> None:
    plain = answer.failure(asked(1), codes.EDE_NO_REACHABLE_AUTHORITY, "every upstream failed")
    assert plain == unhex(f"1234 8182 0001 0000 0000 0000 {NAME} 0001 0001")
    check(plain)
    edns = answer.failure(asked(1, edns=opt(do=True)), codes.EDE_NO_REACHABLE_AUTHORITY, "every upstream failed")
    assert (
        edns
        == unhex(f"1234 8182 0001 0000 0000 0001 {NAME} 0001 0001 00 0029 04d0 0000 8000 001b 000f 0017 0016")
        + b"every upstream failed"
    )
    check(edns)


def test_a_truncated_answer_has_no_records_at_all() -> None:
    """RFC 2181 section 9."""
    octets = answer.truncated(asked(1, cd=True))
    assert octets == unhex(f"1234 8390 0001 0000 0000 0000 {NAME} 0001 0001")
    assert check(octets).flags & dns.flags.TC
    edns = answer.truncated(asked(1, edns=opt()))
    assert edns == unhex(f"1234 8380 0001 0000 0000 0001 {NAME} 0001 0001 00 0029 04d0 0000 0000 0000")
    check(edns)


def test_a_longest_name_and_a_longest_text_fit_512_octets() -> None:
    longest: Name = labels_to_wire([b"a" * 63] * 3 + [b"a" * 61])
    verdict = Verdict(Action.BLOCKED, "managed", "tiktok", style=Style.NXDOMAIN)
    blocking = Blocking(bytes(4), bytes(16), 60, "x" * 200)
    octets = answer.blocked(parse(query(longest, edns=opt(512))), verdict, blocking)
    assert len(octets) <= 512
    check(octets)


# Headers and OPT


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("abcd 0100 0001 0000 0000 0000", "abcd 8181 0000 0000 0000 0000"),
        ("abcd 0000 ffff ffff ffff ffff 01", "abcd 8081 0000 0000 0000 0000"),
        ("abcd 7f7f 0001 0000 0000 0000", "abcd f981 0000 0000 0000 0000"),
    ],
    ids=["a query", "RD is 0, and rubbish", "opcode copied, all else cleared"],
)
def test_a_header_alone_answers_what_cannot_be_read(message: str, expected: str) -> None:
    octets = build.header_error(unhex(message), codes.FORMERR)
    assert octets == unhex(expected)
    assert dns.message.from_wire(octets).rcode() == dns.rcode.FORMERR


def test_an_rcode_above_15_is_split_between_header_and_opt() -> None:
    octets = build.response(asked(1, edns=opt(version=1, do=True)), codes.BADVERS)
    assert octets == unhex(f"1234 8180 0001 0000 0000 0001 {NAME} 0001 0001 00 0029 04d0 01 00 8000 0000")
    assert check(octets).rcode() == dns.rcode.BADVERS


def test_records_counts_and_flags_stand_where_they_belong() -> None:
    octets = build.response(asked(1, edns=opt()), 0, b"\0\1\0\0\0\1", b"records", flags=codes.TC, flags2=codes.AD)
    assert octets == unhex(f"1234 83a0 0001 0001 0000 0002 {NAME} 0001 0001") + b"records" + unhex(
        "00 0029 04d0 0000 0000 0000"
    )


@pytest.mark.parametrize(
    ("cd", "do", "edns", "expected"),
    [
        (False, False, True, "0120 0001 0000 0000 0001 QUESTION 00 0029 04d0 0000 0000 0000"),
        (True, True, True, "0130 0001 0000 0000 0001 QUESTION 00 0029 04d0 0000 8000 0000"),
        (True, True, False, "0130 0001 0000 0000 0000 QUESTION"),
    ],
    ids=["plain", "CD and DO", "to a server that knows no EDNS"],
)
def test_queries_to_upstreams_octet_by_octet(expected: str, *, cd: bool, do: bool, edns: bool) -> None:
    """RD and AD; no other bit, no option, nothing of the client's but CD and DO."""
    asked_for = "03616473 076578616d706c65 00 0001 0001"
    octets = build.upstream_query(unhex(asked_for), cd=cd, do=do, edns=edns)
    assert octets == unhex(expected.replace("QUESTION", asked_for))
    message = dns.message.from_wire(b"\0\0" + octets)
    assert message.payload == (1232 if edns else 0)
