"""The basic protocol: RFC 1035, EDNS (RFC 6891) and the behaviour that RFC 8906 tests for."""

import dns.message
import dns.opcode
import dns.update
import pytest

from tests.scenarios.client import (
    AA,
    AD,
    ANSWER,
    ANY_CLASS,
    BADVERS,
    CD,
    CH,
    COOKIE,
    FORMERR,
    HS,
    IN,
    KEEPALIVE,
    NOERROR,
    NONE,
    NOTIMP,
    QR,
    RA,
    RD,
    REFUSED,
    TC,
    Address,
    Edns,
    UdpClient,
    Z,
    ask,
    exchange,
    labels,
    query,
    read,
    text_of,
)
from tests.scenarios.expect import LISTED, MANAGED
from tests.scenarios.upstream import Asked, Upstream, address_of, record, reply


def test_a_plain_query_gets_the_upstreams_answer(server: Address, upstream: Upstream) -> None:
    """QR, RA, one question echoed (RFC 1035 4.1.1)."""
    upstream.on("plain.example", "plain.example 300 IN A 192.0.2.1")
    response = ask(server, "plain.example", "A")
    assert response.flags & ~RD == QR | RA
    assert response.rcode == NOERROR
    assert response.texts == ["plain.example. 300 IN A 192.0.2.1"]
    assert response.counts == (1, 1, 0, 0)


@pytest.mark.parametrize("rd", [pytest.param(True, id="RD=1 is copied"), pytest.param(False, id="RD=0 stays 0")])
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_rd_is_copied_and_both_are_answered(server: Address, upstream: Upstream, rd: bool, tcp: bool) -> None:
    """RFC 1035 4.1.1, RFC 8906 8.1.3.4: fresh, asked of the upstream with RD=1, and cached."""
    name = f"rd-{rd}-{tcp}.example"
    for _ in range(2):
        response = ask(server, name, "A", rd=rd, tcp=tcp)
        assert bool(response.flags & RD) is rd
        assert response.flags & RA
        assert response.addresses == [address_of(name)]
    assert [asked.flags & RD for asked in upstream.queries(name)] == [RD]


@pytest.mark.parametrize("name", [LISTED, "localhost", "missing.invalid", "use-application-dns.net"])
def test_rd_and_cd_are_copied_into_answers_of_our_own(server: Address, name: str) -> None:
    """RFC 1035 4.1.1, RFC 4035 3.1.6. `ask` fails on another RD, and on a Z that comes back."""
    for rd in (True, False):
        for flags in (0, CD, Z, CD | Z):
            assert ask(server, name, "A", source=MANAGED, rd=rd, flags=flags).flags & CD == flags & CD


def test_the_rdata_of_an_unknown_type_passes_unchanged(server: Address, upstream: Upstream) -> None:
    """RFC 3597 3 and 5: octets that look like a compressed name stay as they are."""
    upstream.on("opaque.example", r"opaque.example 300 IN TYPE65400 \# 6 c00c0001ff00")
    response = ask(server, "opaque.example", "TYPE65400")
    assert [record.rdata.hex() for record in response.answer] == ["c00c0001ff00"]
    again = ask(server, "opaque.example", "TYPE65400")
    assert [record.rdata.hex() for record in again.answer] == ["c00c0001ff00"]


def test_an_unknown_type_without_data_is_empty_noerror(server: Address) -> None:
    """RFC 8906 8.1.2."""
    response = ask(server, "no-such-type.example", "TYPE1000")
    assert response.rcode == NOERROR
    assert not response.answer


@pytest.mark.parametrize(
    "rdclass",
    [
        pytest.param(HS, id="HS"),
        pytest.param(32, id="unassigned"),
        pytest.param(NONE, id="NONE, RFC 2136"),
        pytest.param(ANY_CLASS, id="ANY"),
        pytest.param(0, id="0"),
        pytest.param(65535, id="65535"),
    ],
)
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_another_class_gets_a_response(server: Address, upstream: Upstream, rdclass: int, tcp: bool) -> None:
    """RFC 8906 3, RFC 2136: of our own, as nobody upstream was asked."""
    response = ask(server, "class.example", "A", rdclass=rdclass, tcp=tcp, edns=Edns())
    assert response.rcode in (NOTIMP, REFUSED)
    assert not response.answer
    assert not upstream.queries("class.example")


@pytest.mark.parametrize("name", ["version.bind", "version.server", "id.server", "hostname.bind", "authors.bind"])
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
@pytest.mark.parametrize("rdtype", ["TXT", "ANY"])
def test_class_ch_tells_no_version(server: Address, upstream: Upstream, name: str, rdtype: str, tcp: bool) -> None:
    """RFC 4892: neither ours nor the upstream's."""
    response = ask(server, name, rdtype, rdclass=CH, tcp=tcp)
    assert not response.answer
    assert b"dnsfilter" not in response.octets.lower()
    assert not upstream.queries(name)


@pytest.mark.parametrize(
    ("opcode", "rcodes"),
    [
        pytest.param(15, {NOTIMP}, id="15, unassigned: NOTIMP, RFC 8906 8.1.4"),
        pytest.param(3, {NOTIMP}, id="3, unassigned: NOTIMP, RFC 8906 8.1.4"),
        pytest.param(1, {NOTIMP, REFUSED}, id="IQUERY: not forwarded, RFC 3425 3"),
        pytest.param(2, {NOTIMP, REFUSED}, id="STATUS: not forwarded, RFC 1035"),
        pytest.param(4, {NOTIMP, REFUSED}, id="NOTIFY: refused, RFC 1996"),
        pytest.param(5, {NOTIMP, REFUSED}, id="UPDATE: refused, RFC 2136"),
        pytest.param(6, {NOTIMP, REFUSED}, id="DSO: refused, RFC 8490"),
    ],
)
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_other_opcodes_are_not_forwarded(
    server: Address, upstream: Upstream, opcode: int, rcodes: set[int], tcp: bool
) -> None:
    name = f"opcode-{opcode}-{tcp}.example"
    octets = exchange(server, query(name, "SOA", ident=0x1234, opcode=opcode), tcp=tcp)
    assert octets is not None
    assert octets[:2] == b"\x12\x34"
    assert octets[2] & 0xF8 == 0x80 | opcode << 3
    assert octets[3] & 15 in rcodes
    assert not upstream.queries(name)


@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_opcode_15_with_a_bare_header_is_not_implemented(server: Address, tcp: bool) -> None:
    """RFC 8906 8.1.4."""
    octets = exchange(server, bytes.fromhex("1234 7800 0000 0000 0000 0000"), tcp=tcp)
    assert octets is not None
    response = read(octets)
    assert (response.ident, response.opcode, response.rcode) == (0x1234, 15, NOTIMP)
    assert response.counts == (0, 0, 0, 0)


def test_a_whole_notify_and_a_whole_update_are_refused(server: Address, upstream: Upstream) -> None:
    """RFC 1996 3.7 and RFC 2136 2.5: with records as a primary or a client with DHCP would send them."""
    soa = "changes.example 300 IN SOA ns.changes.example. host.changes.example. 7 3600 600 86400 300"
    notify = dns.message.make_query("changes.example", "SOA", flags=AA)
    notify.set_opcode(dns.opcode.NOTIFY)
    notify.answer = [record(soa)]
    update = dns.update.UpdateMessage("changes.example")
    update.absent("host")
    update.add("host", 300, "A", "192.0.2.66")
    update.delete("other", "A")
    for message in (notify, update):
        for tcp in (False, True):
            octets = exchange(server, message.to_wire(), tcp=tcp)
            assert octets is not None
            assert octets[:2] == message.id.to_bytes(2, "big")
            assert octets[3] & 15 in (NOTIMP, REFUSED)
    assert not upstream.queries("changes.example", below=True)


def test_the_reserved_header_bit_is_answered_and_cleared(server: Address) -> None:
    """RFC 1035 4.1.1, RFC 8906 8.1.3.3: fresh and cached. `ask` fails on a Z that comes back."""
    for tcp in (False, True, False):
        assert ask(server, "z.example", "A", flags=Z, tcp=tcp).addresses == [address_of("z.example")]


def test_ad_in_the_query_is_accepted(server: Address) -> None:
    """RFC 6840 5.7, RFC 8906 8.1.3.2."""
    assert ask(server, "ad.example", "A", flags=AD).addresses == [address_of("ad.example")]


def test_cd_in_the_query_is_accepted_and_copied(server: Address) -> None:
    """RFC 4035 3.1.6, RFC 8906 8.1.3.1: on the fresh answer and on the cached one."""
    for _ in range(2):
        response = ask(server, "cd.example", "A", flags=CD)
        assert response.flags & CD
        assert response.addresses == [address_of("cd.example")]
    assert not ask(server, "cd.example", "A").flags & CD


@pytest.mark.parametrize("flag", [pytest.param(AA, id="AA"), pytest.param(TC, id="TC"), pytest.param(RA, id="RA")])
def test_header_bits_that_mean_nothing_in_a_query_are_not_copied(server: Address, flag: int) -> None:
    """RFC 1035 4.1.1; RA is the server's own."""
    octets = exchange(server, query("bits.example", "A", flags=flag))
    assert octets is not None
    assert read(octets).flags & (AA | TC) == 0


def test_tcp_query(server: Address) -> None:
    """RFC 7766 5, RFC 8906 8.1.5."""
    assert ask(server, "tcp.example", "A", tcp=True).addresses == [address_of("tcp.example")]


@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP, RFC 8906 3.2.7")])
def test_edns_is_answered_with_version_0(server: Address, tcp: bool) -> None:
    """RFC 6891 6.1.1, RFC 8906 8.2.1. `ask` fails without an OPT of version 0."""
    for _ in range(2):
        response = ask(server, f"edns-{tcp}.example", "A", tcp=tcp, edns=Edns())
        assert response.addresses == [address_of(f"edns-{tcp}.example")]
        assert not response.options


@pytest.mark.parametrize(
    "edns",
    [
        pytest.param(Edns(version=1), id="nothing else, RFC 8906 8.2.2"),
        pytest.param(Edns(version=1, flags=0x0040), id="an unknown flag, RFC 8906 8.2.5"),
        pytest.param(Edns(version=1, options=((100, b""),)), id="an unknown option, RFC 8906 8.2.6"),
        pytest.param(Edns(version=1, do=True), id="DO, RFC 8906 8.2.9"),
        pytest.param(Edns(version=255), id="version 255"),
    ],
)
@pytest.mark.parametrize("name", [pytest.param("badvers.example", id="ordinary"), pytest.param(LISTED, id="listed")])
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_edns_version_1_is_badvers(server: Address, upstream: Upstream, name: str, edns: Edns, tcp: bool) -> None:
    """The response has version 0 and no answer; the version is judged before the name."""
    response = ask(server, name, "A", edns=edns, source=MANAGED, tcp=tcp)
    assert response.rcode == BADVERS
    assert not response.answer
    assert not response.options
    assert response.do is edns.do
    assert not upstream.queries("badvers.example")


def test_unknown_edns_options_are_ignored_and_not_echoed(server: Address, upstream: Upstream) -> None:
    """RFC 6891 6.1.2, RFC 8906 8.2.3."""
    edns = Edns(options=((100, b"abc"), (65001, b""), (65535, b"x" * 40)))
    response = ask(server, "options.example", "A", edns=edns)
    assert response.addresses == [address_of("options.example")]
    assert not response.options


def test_unknown_edns_flags_are_ignored_and_cleared(server: Address) -> None:
    """RFC 6891 6.1.4, RFC 8906 8.2.4."""
    response = ask(server, "flags.example", "A", edns=Edns(flags=0x7FFF))
    assert response.opt is not None
    assert response.opt.ttl & 0xFFFF == 0


OURS = [
    pytest.param("{}.example", id="forwarded"),
    pytest.param(LISTED, id="blocked"),
    pytest.param("localhost", id="answered here"),
    pytest.param("missing.invalid", id="absent here"),
]


@pytest.mark.parametrize("name", OURS)
def test_do_is_copied(server: Address, name: str) -> None:
    """RFC 3225 3, RFC 8906 8.2.8: fresh and cached."""
    for do in (True, False, True, False):
        assert ask(server, name.format("do"), "A", edns=Edns(do=do), source=MANAGED).do is do


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_without_opt_in_the_query_there_is_none_in_the_response(server: Address, name: str, tcp: bool) -> None:
    """RFC 6891 6.1.1 and 7: also where a client with OPT asked before, and the other way round."""
    for edns in (Edns(), None, Edns(), None):
        response = ask(server, name.format(f"opt-{tcp}"), "A", edns=edns, source=MANAGED, tcp=tcp)
        assert (response.opt is None) is (edns is None)


@pytest.mark.parametrize("name", OURS)
def test_the_advertised_udp_size_is_1232(server: Address, name: str) -> None:
    """RFC 6891 6.2.3; RFC 9715 3.1 R5 and the DNS flag day 2020: at most 1400."""
    for size in (512, 1232, 4096):
        response = ask(server, name.format("size"), "A", edns=Edns(size=size), source=MANAGED)
        assert response.opt is not None
        assert response.opt.rdclass == 1232


@pytest.mark.parametrize("length", [0, 1, 7, 9, 15, 41])
def test_a_cookie_of_a_wrong_length_is_formerr_or_ignored(server: Address, length: int) -> None:
    """RFC 7873 5.2.2."""
    octets = exchange(server, query("cookie.example", "A", edns=Edns(options=((COOKIE, b"c" * length),))))
    assert octets is not None
    response = read(octets)
    assert response.rcode == FORMERR or response.addresses == [address_of("cookie.example")]
    assert all(len(value) in (8, *range(16, 41)) for code, value in response.options if code == COOKIE)


def test_formerr_because_of_an_option_comes_with_opt(server: Address) -> None:
    """RFC 6891 7: so that the client can tell it from a server that knows no EDNS; header, question and OPT."""
    octets = exchange(server, query("cookie.example", "A", edns=Edns(options=((COOKIE, b"short"),))))
    assert octets is not None
    response = read(octets)
    if response.rcode == FORMERR:
        assert response.opt is not None
        assert response.counts == (1, 0, 0, 1)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("value", [pytest.param(b"", id="empty"), pytest.param(b"\0\x64", id="with a time-out")])
def test_over_udp_there_is_no_keepalive_option(server: Address, name: str, value: bytes) -> None:
    """RFC 7828 3.2.1 and 3.3.1: it is ignored, whatever is in it."""
    name = name.format("keepalive")
    plain = ask(server, name, "A", edns=Edns(), source=MANAGED)
    response = ask(server, name, "A", edns=Edns(options=((KEEPALIVE, value),)), source=MANAGED)
    assert KEEPALIVE not in dict(response.options)
    assert (response.rcode, response.addresses) == (plain.rcode, plain.addresses)


def test_any_over_udp_is_answered_with_hinfo_and_asked_of_nobody(server: Address, upstream: Upstream) -> None:
    """RFC 8482 4.2, RFC 5358: it does not amplify."""
    upstream.on("any.example", [f"any.example 300 IN A 192.0.2.{i}" for i in range(100)])
    response = ask(server, "any.example", "ANY", edns=Edns(size=4096))
    assert [record.rdtype for record in response.answer] == [13]
    assert response.answer[0].rdata == b"\x07RFC8482\x00"
    assert len(response.octets) <= 512
    assert not upstream.queries("any.example")


def test_any_over_tcp_is_forwarded(server: Address, upstream: Upstream) -> None:
    """RFC 8482 4 leaves TCP to us; each time anew, since what ANY gives is not the whole (RFC 8482 4)."""
    upstream.on("any-tcp.example", ["any-tcp.example 300 IN A 192.0.2.1", "any-tcp.example 300 IN MX 1 m.example"])
    for count in (1, 2):
        assert len(ask(server, "any-tcp.example", "ANY", tcp=True).answer) == 2
        assert len(upstream.queries("any-tcp.example")) == count


@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
@pytest.mark.parametrize("rdtype", ["IXFR", "AXFR"])
def test_zone_transfers_are_not_relayed(server: Address, upstream: Upstream, rdtype: str, tcp: bool) -> None:
    """RFC 1995, RFC 5936."""
    name = f"{rdtype}-{tcp}.example"
    response = ask(server, name, rdtype, tcp=tcp)
    assert response.rcode in (REFUSED, NOTIMP)
    assert not response.answer
    assert not upstream.queries(name)


@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_a_whole_ixfr_is_refused(server: Address, upstream: Upstream, tcp: bool) -> None:
    """RFC 1995 3: with the SOA that the asker has in the authority section."""
    message = dns.message.make_query("zone-ixfr.example", "IXFR")
    message.authority = [record("zone-ixfr.example 0 IN SOA ns.example. host.example. 1 0 0 0 0")]
    octets = exchange(server, message.to_wire(), tcp=tcp)
    assert octets is not None
    response = read(octets)
    assert response.rcode in (REFUSED, NOTIMP)
    assert response.counts[1:] == (0, 0, 0)
    assert not upstream.queries("zone-ixfr.example")


@pytest.mark.parametrize(
    "rdtype",
    [
        pytest.param(0, id="0"),
        pytest.param("OPT", id="OPT"),
        pytest.param("TKEY", id="TKEY"),
        pytest.param("TSIG", id="TSIG"),
        pytest.param("MAILA", id="MAILA"),
        pytest.param("MAILB", id="MAILB"),
        pytest.param(65535, id="65535"),
    ],
)
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_meta_types_get_a_response(server: Address, upstream: Upstream, rdtype: str | int, tcp: bool) -> None:
    """RFC 8906 3, RFC 6895 3.1: of our own; no upstream is asked for what is no data."""
    for edns in (None, Edns()):
        response = ask(server, f"meta-{tcp}.example", rdtype, tcp=tcp, edns=edns)
        assert not response.answer
    assert not upstream.queries(f"meta-{tcp}.example")


def test_the_root_name(server: Address, upstream: Upstream) -> None:
    """RFC 1035 3.1."""
    upstream.on(".", ". 300 IN NS ns.example", "NS")
    assert ask(server, ".", "NS").texts == [". 300 IN NS ns.example."]


LONG_LABEL = b"l" * 63
LONGEST = labels(LONG_LABEL, LONG_LABEL, LONG_LABEL, b"m" * 53, b"example")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(labels(LONG_LABEL, b"example"), id="a label of 63 octets"),
        pytest.param(LONGEST, id="a name of 255 octets"),
        pytest.param(labels(*[b"n"] * 123, b"example"), id="124 labels"),
    ],
)
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_longest_names_and_labels(server: Address, name: bytes, tcp: bool) -> None:
    """RFC 1035 2.3.4."""
    assert len(LONGEST) == 255
    assert ask(server, name, "A", tcp=tcp).addresses == [address_of(text_of(name))]


@pytest.mark.parametrize(
    "label",
    [
        pytest.param(b"a\x00b", id="a zero octet"),
        pytest.param(b"\x1b[2J", id="a terminal's escape"),
        pytest.param(b"a\r\nb", id="a line end"),
        pytest.param(b'"\\,;', id="quotes and a backslash"),
        pytest.param(b"\xff\xfe\x80", id="no UTF-8"),
        pytest.param("\u202e".encode(), id="text direction"),
        pytest.param(b" ", id="a space"),
        pytest.param(b"*", id="a star"),
    ],
)
def test_control_characters_in_a_name_are_served_and_do_no_harm(
    server: Address, upstream: Upstream, label: bytes
) -> None:
    """RFC 2181 11: any octets make a label. Nothing of them reaches a terminal raw."""
    name = labels(label, b"octets", b"example")
    response = ask(server, name, "A")
    assert response.addresses == [address_of(text_of(name))]
    assert upstream.queries(text_of(name))[-1].question[:-4].lower() == name.lower()


def test_no_raw_control_character_was_printed(service: object) -> None:
    """One line an event, and terminals unharmed: whatever names were asked."""
    output = getattr(service, "output", "")
    assert not set(output) & {chr(code) for code in range(32) if chr(code) not in "\n\t"}


def test_a_hundred_queries_on_one_socket_each_get_their_own_answer(server: Address) -> None:
    """RFC 1035 7.3."""
    with UdpClient(server) as client:
        for ident in range(100):
            client.send(query(f"burst-{ident}.example", "A", ident=ident))
        got = client.gather(100)
    assert {ident: read(octets).addresses for ident, octets in got.items()} == {
        ident: [address_of(f"burst-{ident}.example")] for ident in range(100)
    }


@pytest.mark.parametrize("name", OURS)
def test_one_answer_per_query(server: Address, name: str) -> None:
    """RFC 1035 7.3: fresh and cached."""
    with UdpClient(server, MANAGED) as client:
        for ident in (1, 2):
            client.send(query(name.format("once"), "A", ident=ident))
            octets = client.receive()
            assert octets is not None
            assert octets[:2] == ident.to_bytes(2, "big")
            assert client.drain() == []


def test_two_questions_with_one_id_on_one_socket_get_two_answers(server: Address) -> None:
    """An id is the client's own affair: what it asks twice is answered twice (RFC 1035 7.3)."""
    names = ["twin-a.example", "twin-b.example"]
    with UdpClient(server) as client:
        for name in names:
            client.send(query(name, "A", ident=7))
        got = [client.receive(), client.receive()]
    answers = {read(octets).addresses[0] for octets in got if octets is not None}
    assert answers == {address_of(name) for name in names}


def test_the_clients_spelling_comes_back(server: Address, upstream: Upstream) -> None:
    """RFC 4343 4.1: fresh and cached; `ask` fails on another spelling. The answer's owner fits it."""
    for name in ("SpElLing.Example", "spelling.example", "SPELLING.EXAMPLE"):
        response = ask(server, name, "A")
        assert response.answer[0].name == "spelling.example."


def test_upstreams_flags_are_not_relayed_blindly(server: Address, upstream: Upstream) -> None:
    """A cached or forwarded answer is not authoritative (RFC 1035 4.1.1), fresh or cached."""

    def authoritative(asked: Asked) -> bytes:
        return reply(asked, "auth.example 300 IN A 192.0.2.1", flags=AA)

    upstream.on("auth.example", authoritative)
    for _ in range(2):
        response = ask(server, "auth.example", "A", rdclass=IN)
        assert not response.flags & (AA | TC)
        assert len(response.section(ANSWER)) == 1
