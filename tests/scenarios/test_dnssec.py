"""DNSSEC behind the filter: who validates does so through it, and a block is never an open answer.

The upstream serves a zone that is signed here; Debian's delv validates as a device would,
with that zone's key as its trust anchor.
"""

import base64
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from dns.dnssectypes import Algorithm

from tests.programs import need
from tests.scenarios.client import (
    AD,
    ADDITIONAL,
    ANSWER,
    AUTHORITY,
    CD,
    NOERROR,
    NXDOMAIN,
    TC,
    Address,
    Edns,
    Record,
    ask,
)
from tests.scenarios.expect import EXEMPT, MANAGED, UNMANAGED, check_sinkholed, policy
from tests.scenarios.service import Service
from tests.scenarios.upstream import Asked, Upstream, default, record, reply

PATIENCE_S = 30
OVER_A_SECOND = 1.1
DAY_S = 86_400
ORIGIN, HEAVY = "signed.example", "heavy.example"
BANNED = "banned." + ORIGIN
REAL = "192.0.2.66"  # the banned name's address: no managed client may ever see it

ZONE = f"""
@ 300 IN SOA ns host 1 3600 600 86400 120
@ 300 IN NS ns
ns 300 IN A 192.0.2.53
www 300 IN A 192.0.2.1
www 300 IN A 192.0.2.2
www 300 IN AAAA 2001:db8::1
www 300 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1
alias 300 IN CNAME www
mail 300 IN MX 10 www
MixedCase 300 IN SVCB 1 Target.MixedCase alpn=dot
long-lived 86400 IN A 192.0.2.3
wild 300 IN TXT "above the wildcard"
*.wild 300 IN A 192.0.2.5
unsigned 300 IN NS ns.unsigned
banned 300 IN A {REAL}
banned 300 IN AAAA 2001:db8::66
below.banned 300 IN A {REAL}
cloak 300 IN CNAME banned
"""


class SignedZone:
    """A zone with one key that signs all of it, and what its server says of it (RFC 4035 section 3)."""

    def __init__(self, origin: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, algorithm: Algorithm) -> None:
        self.origin = dns.name.from_text(origin)
        self.dnskey = dns.dnssec.make_dnskey(key.public_key(), algorithm, flags=257)
        self._zone = dns.zone.from_text(ZONE, origin=self.origin, relativize=False)
        now = int(time.time())
        with self._zone.writer() as txn:
            dns.dnssec.sign_zone(
                self._zone, txn, keys=[(key, self.dnskey)], inception=now - 3600, expiration=now + DAY_S
            )
        self._owners = sorted(name for name in self._zone if self._find(name, dns.rdatatype.NSEC))

    def anchor(self) -> str:
        """The trust anchor as delv reads it."""
        key = self.dnskey
        octets = base64.b64encode(key.key).decode()
        words = f'{self.origin} static-key {int(key.flags)} {key.protocol} {int(key.algorithm)} "{octets}";'
        return f"trust-anchors {{ {words} }};\n"

    def answer(self, asked: Asked) -> bytes:
        """Answer as a validating resolver before this zone does: AD, and signatures for who sends DO."""
        message = dns.message.make_response(asked.message, recursion_available=True, our_payload=1232)
        message.flags |= dns.flags.AD
        wants = bool(asked.message.ednsflags & dns.flags.DO)
        name, rdtype = asked.message.question[0].name, dns.rdatatype.RdataType.make(asked.rdtype)
        while True:
            source = self._source(name)
            alias = None if source is None else self._find(source, dns.rdatatype.CNAME)
            found = alias or (None if source is None else self._find(source, rdtype))
            if found is None or source is None:
                self._deny(message, name, source, wants)
                break
            message.answer += self._signed(source, found, wants, owner=name)
            if source != name and wants:  # RFC 4035 section 3.1.3.3: no closer name exists
                message.authority += self._proof(name)
            if alias is None or rdtype == dns.rdatatype.CNAME:
                break
            name = alias[0].target
        return message.to_wire(max_size=65535)

    def _find(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.rdataset.Rdataset | None:
        return self._zone.get_rdataset(name, rdtype)

    def _source(self, name: dns.name.Name) -> dns.name.Name | None:
        """The name whose records answer: itself, or a wildcard."""
        if self._zone.get_node(name) is not None:
            return name
        star = self._star(name)
        return star if self._zone.get_node(star) is not None else None

    def _star(self, name: dns.name.Name) -> dns.name.Name:
        """The wildcard that a name which does not exist would be answered from (RFC 4592 section 3.3.1)."""
        encloser = name.parent()
        while self._zone.get_node(encloser) is None:
            encloser = encloser.parent()
        return dns.name.Name((b"*", *encloser.labels))

    def _signed(
        self, source: dns.name.Name, found: dns.rdataset.Rdataset, wants: bool, owner: dns.name.Name | None = None
    ) -> list[dns.rrset.RRset]:
        """The RRset and, if wanted, its signature."""
        signature = self._zone.get_rdataset(source, dns.rdatatype.RRSIG, found.rdtype)
        both = [found, signature] if wants and signature is not None else [found]
        return [dns.rrset.from_rdata_list(owner or source, each.ttl, list(each)) for each in both]

    def _proof(self, name: dns.name.Name) -> list[dns.rrset.RRset]:
        """The NSEC record at a name or over the gap that it would be in."""
        owner = max((each for each in self._owners if each <= name), default=self._owners[-1])
        found = self._find(owner, dns.rdatatype.NSEC)
        assert found is not None
        return self._signed(owner, found, wants=True)

    def _deny(
        self, message: dns.message.Message, name: dns.name.Name, source: dns.name.Name | None, wants: bool
    ) -> None:
        """Say that there is no such name (source: None), or no such record, and prove it."""
        soa = self._find(self.origin, dns.rdatatype.SOA)
        assert soa is not None
        message.authority += self._signed(self.origin, soa, wants)
        if source is None:
            message.set_rcode(dns.rcode.NXDOMAIN)
        if wants:
            proofs = [self._proof(name)]
            if source is None:
                proofs.append(self._proof(self._star(name)))
            for proof in proofs:
                message.authority += [each for each in proof if each not in message.authority]


@dataclass(frozen=True, slots=True)
class Scene:
    """The service before an upstream with two signed zones."""

    service: Service
    upstream: Upstream
    zones: dict[str, SignedZone]

    @property
    def server(self) -> Address:
        """The DNS address."""
        return self.service.dns


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One zone with small signatures, one with such that negative answers need TCP."""
    zones = {
        ORIGIN: SignedZone(ORIGIN, ec.generate_private_key(ec.SECP256R1()), Algorithm.ECDSAP256SHA256),
        HEAVY: SignedZone(HEAVY, rsa.generate_private_key(65537, 3072), Algorithm.RSASHA256),
    }

    def answer(asked: Asked) -> bytes:
        name = dns.name.from_text(asked.name)
        return next((zone.answer(asked) for zone in zones.values() if name.is_subdomain(zone.origin)), default(asked))

    with Upstream() as upstream:
        upstream.otherwise(answer)
        lists = {"ban": {"domains": [BANNED, f"banned.{HEAVY}"]}}
        with Service(tmp_path_factory.mktemp("dnssec"), policy(upstream, lists=lists)) as service:
            yield Scene(service, upstream, zones)


Delv = Callable[..., str]


@pytest.fixture
def delv(scene: Scene, tmp_path: Path) -> Delv:
    """Run delv against the service, as a client that trusts a zone's key; it prints what it made of the answer."""
    program = need("delv", "bind9-dnsutils")

    def run(name: str, rdtype: str = "A", *words: str, zone: str = ORIGIN, source: str = MANAGED) -> str:
        anchor = tmp_path / f"{zone}.key"
        anchor.write_text(scene.zones[zone].anchor())
        host, port = scene.server
        command = [program, f"@{host}", "-p", str(port), "-b", source, "-a", str(anchor), f"+root={zone}", *words]
        done = subprocess.run([*command, name, rdtype], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        return done.stdout + done.stderr

    return run


# A device that validates


@pytest.mark.parametrize("zone", [pytest.param(ORIGIN, id="small signatures"), pytest.param(HEAVY, id="large ones")])
@pytest.mark.parametrize(
    ("label", "rdtype", "expected"),
    [
        pytest.param("www", "A", ["192.0.2.1", "192.0.2.2"], id="addresses"),
        pytest.param("www", "AAAA", ["2001:db8::1"], id="an IPv6 address"),
        pytest.param("www", "HTTPS", ["alpn="], id="HTTPS"),
        pytest.param("mail", "MX", ["10 www."], id="MX"),
        pytest.param("alias", "A", ["CNAME\twww.", "192.0.2.1"], id="an alias and its target"),
        pytest.param("host.wild", "A", ["192.0.2.5"], id="of a wildcard, with its proof"),
        pytest.param("long-lived", "A", ["192.0.2.3"], id="a TTL that is cut to an hour"),
        pytest.param("mixedcase", "SVCB", ["1 Target.MixedCase."], id="letter case within rdata"),
        pytest.param("MIXEDCASE", "SVCB", ["1 Target.MixedCase."], id="letter case of the question"),
    ],
)
@pytest.mark.parametrize("tcp", [pytest.param("+notcp", id="UDP"), pytest.param("+tcp", id="TCP")])
def test_signed_names_validate_through_the_filter(
    delv: Delv, zone: str, label: str, rdtype: str, expected: Sequence[str], tcp: str
) -> None:
    """Fresh and cached (RFC 4035 section 4): nothing that is needed for it is lost or changed."""
    for _ in range(2):
        said = delv(f"{label}.{zone}", rdtype, tcp, zone=zone)
        assert "; fully validated" in said, said
        assert all(part in said for part in expected), said


@pytest.mark.parametrize("zone", [pytest.param(ORIGIN, id="small signatures"), pytest.param(HEAVY, id="large ones")])
@pytest.mark.parametrize(
    ("label", "rdtype", "expected"),
    [
        pytest.param("missing", "A", "ncache nxdomain", id="no such name"),
        pytest.param("a.missing", "TXT", "ncache nxdomain", id="below no such name"),
        pytest.param("www", "TXT", "ncache nxrrset", id="no such record"),
        pytest.param("host.wild", "TXT", "ncache nxrrset", id="no such record of a wildcard"),
        pytest.param("alias", "TXT", "ncache nxrrset", id="no such record behind an alias"),
    ],
)
def test_denials_validate_through_the_filter(delv: Delv, zone: str, label: str, rdtype: str, expected: str) -> None:
    """The NSEC records and their signatures come along, fresh and cached (RFC 4035 section 3.1.3)."""
    for _ in range(2):
        said = delv(f"{label}.{zone}", rdtype, zone=zone)
        assert f"resolution failed: {expected}" in said, said
        assert "fully validated" in said, said
        assert "unsigned" not in said, said


def test_a_zone_that_is_not_signed_is_shown_to_be_so(scene: Scene, delv: Delv) -> None:
    """RFC 4035 section 5.2: the proof that its delegation has no DS record passes, so that its names are served."""
    scene.upstream.on("host.unsigned.signed.example", "host.unsigned.signed.example 300 IN A 192.0.2.9")
    for _ in range(2):
        said = delv("unsigned.signed.example", "DS")
        assert "; negative response, fully validated" in said, said
        said = delv("host.unsigned.signed.example")
        assert "; unsigned answer" in said, said
        assert "192.0.2.9" in said, said


def test_cached_answers_validate_though_their_ttls_have_counted_down(scene: Scene, delv: Delv) -> None:
    """A signature is over the original TTL, which it carries itself (RFC 4034 section 3.1.4)."""
    name = "ns." + ORIGIN
    delv(name)
    time.sleep(OVER_A_SECOND)
    said = delv(name)
    assert "; fully validated" in said, said
    assert "\t300\tIN\tA" not in said, said
    assert len([asked for asked in scene.upstream.queries(name) if asked.rdtype == 1]) == 1


# A block


@pytest.mark.parametrize(
    ("label", "rdtype"),
    [
        pytest.param("banned", "A", id="the listed name"),
        pytest.param("banned", "AAAA", id="its other family"),
        pytest.param("banned", "TXT", id="a type that it has not"),
        pytest.param("below.banned", "A", id="below it"),
        pytest.param("cloak", "A", id="its alias"),
        pytest.param("cloak", "CNAME", id="the alias asked for by type"),
    ],
)
@pytest.mark.parametrize("zone", [pytest.param(ORIGIN, id="small signatures"), pytest.param(HEAVY, id="large ones")])
def test_a_blocked_name_in_a_signed_zone_is_no_open_answer(delv: Delv, zone: str, label: str, rdtype: str) -> None:
    """A device that validates may take it for forged; it never learns the real data, before or after the exempt."""
    for source in (MANAGED, EXEMPT, MANAGED):
        said = delv(f"{label}.{zone}", rdtype, zone=zone, source=source)
        if source == EXEMPT:
            assert "fully validated" in said, said
            continue
        assert "fully validated" not in said, said
        assert REAL not in said, said
        assert "2001:db8::66" not in said, said
        assert "CNAME\tbanned." not in said, said


@pytest.mark.parametrize("flags", [0, AD, CD, AD | CD])
@pytest.mark.parametrize("do", [False, True])
def test_a_blocked_answer_is_unsigned_and_not_authentic_whatever_is_asked_for(
    scene: Scene, flags: int, do: bool
) -> None:
    """RFC 4035 section 3.1.6, RFC 6840 section 5.7: although the upstream's answer in the cache is both."""
    for name, rdtype in ((BANNED, "A"), (BANNED, "RRSIG"), (BANNED, "DNSKEY"), ("cloak." + ORIGIN, "A")):
        ask(scene.server, name, rdtype, source=EXEMPT, flags=flags, edns=Edns(do=do))
        for tcp in (False, True):
            response = ask(scene.server, name, rdtype, source=MANAGED, flags=flags, edns=Edns(do=do), tcp=tcp)
            check_sinkholed(response)
            assert response.flags & CD == flags & CD
            assert response.do is do
            assert not {entry.rdtype for entry in response.records} & {46, 47, 48}


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [
        pytest.param(BANNED, "A", id="blocked"),
        pytest.param("cloak." + ORIGIN, "A", id="blocked by its alias"),
        pytest.param("use-application-dns.net", "A", id="a canary"),
        pytest.param("localhost", "A", id="localhost"),
        pytest.param("1.0.0.127.in-addr.arpa", "PTR", id="a private reverse zone"),
        pytest.param("_dns.resolver.arpa", "SVCB", id="resolver.arpa"),
        pytest.param("www." + ORIGIN, "ANY", id="ANY"),
        pytest.param("www." + ORIGIN, "AXFR", id="a zone transfer"),
        pytest.param("www." + ORIGIN, 0, id="type 0"),
    ],
)
def test_no_answer_of_our_own_says_ad(scene: Scene, name: str, rdtype: str | int) -> None:
    """Nobody has validated it (RFC 4035 section 3.2.3)."""
    for edns in (None, Edns(), Edns(do=True)):
        assert not ask(scene.server, name, rdtype, source=MANAGED, flags=AD, edns=edns).flags & AD


# What passes


def rdata_of(records: Sequence[Record]) -> list[tuple[str, int, bytes]]:
    """Owner, type and rdata: what has to stay as it is."""
    return [(entry.name, entry.rdtype, entry.rdata) for entry in records]


def test_signatures_pass_octet_for_octet_though_ttls_count_down(scene: Scene) -> None:
    """RFC 4034 section 3.1: the original TTL, the times and the signer's name are part of what was signed."""
    name = "counting." + ORIGIN
    signature = f"A 13 3 300 20400101000000 20200101000000 1 {ORIGIN}. {base64.b64encode(bytes(range(64))).decode()}"
    texts = [f"{name} 300 IN A 192.0.2.1", f"{name} 300 IN RRSIG {signature}"]
    scene.upstream.on(name, texts)
    fresh = ask(scene.server, name, "A", edns=Edns(do=True))
    time.sleep(OVER_A_SECOND)
    cached = ask(scene.server, name, "A", edns=Edns(do=True))
    assert rdata_of(fresh.answer) == rdata_of(cached.answer)
    assert cached.answer[1].rdata == record(texts[1])[0].to_wire()
    assert {entry.ttl for entry in cached.answer} <= {297, 298, 299}
    assert len(scene.upstream.queries(name)) == 1


@pytest.mark.parametrize(
    ("rdtype", "rdata"),
    [
        pytest.param("SVCB", "1 Target.Spelt.Example. alpn=dot", id="SVCB, RFC 9460 2.2"),
        pytest.param("HTTPS", "1 Target.Spelt.Example. alpn=h2", id="HTTPS"),
        pytest.param("NSEC", "Next.Spelt.Example. A RRSIG NSEC", id="NSEC, RFC 6840 5.1"),
        pytest.param("TYPE65280", r"\# 4 41424344", id="an unknown type, RFC 3597 7"),
    ],
)
@pytest.mark.parametrize(
    "others",
    [
        pytest.param((), id="as received"),
        pytest.param(("stray.example 300 IN A 192.0.2.66",), id="a record beside it is taken out"),
    ],
)
def test_rdata_that_is_signed_in_its_letter_case_keeps_it(
    scene: Scene, rdtype: str, rdata: str, others: tuple[str, ...]
) -> None:
    """Names in these types are not folded before they are signed (RFC 4034 section 6.2, RFC 6840 section 5.1)."""
    name = f"spelt-{rdtype}-{len(others)}.example"
    text = f"{name} 300 IN {rdtype} {rdata}"
    scene.upstream.on(name, lambda asked: reply(asked, text, *others))
    for _ in range(2):
        response = ask(scene.server, name, rdtype, edns=Edns(do=True))
        assert [entry.rdata for entry in response.answer] == [record(text)[0].to_wire()]


def test_an_answer_whose_opt_is_not_its_last_record_keeps_its_letter_case(scene: Scene) -> None:
    """RFC 6891 section 6.1.1: OPT may stand anywhere among the additional records."""
    name = "opt-first.spelt.example"
    text = f"{name} 300 IN HTTPS 1 Target.Spelt.Example. alpn=h2"
    extra = dns.name.from_text("target.spelt.example").to_wire()
    assert extra is not None
    extra += struct.pack("!HHIH4s", 1, 1, 300, 4, bytes((192, 0, 2, 1)))

    def answer(asked: Asked) -> bytes:
        octets = reply(asked, text)
        return octets[:10] + struct.pack("!H", 2) + octets[12:] + extra

    scene.upstream.on(name, answer)
    for _ in range(2):
        response = ask(scene.server, name, "HTTPS", edns=Edns(do=True))
        assert [entry.rdata for entry in response.answer] == [record(text)[0].to_wire()]
        assert [entry.rdata for entry in response.section(ADDITIONAL)] == [bytes((192, 0, 2, 1))]


def test_a_proof_in_the_authority_section_keeps_its_letter_case(scene: Scene) -> None:
    """RFC 6840 section 5.1: the next name of NSEC is signed as it is spelt, whatever else is taken out."""
    name = "denied.spelt.example"
    soa = "spelt.example 300 IN SOA ns.spelt.example. host.spelt.example. 1 2 3 4 300"
    proof = "Cased.Spelt.Example 300 IN NSEC Next.Spelt.Example. A RRSIG NSEC"
    stray = "stray.example 300 IN A 192.0.2.66"
    scene.upstream.on(name, lambda asked: reply(asked, stray, authority=[soa, proof], rcode=NXDOMAIN))
    for _ in range(2):
        response = ask(scene.server, name, "A", edns=Edns(do=True))
        assert [entry.rdata for entry in response.section(AUTHORITY, "NSEC")] == [record(proof)[0].to_wire()]


@pytest.mark.parametrize("order", [pytest.param(1, id="in order"), pytest.param(-1, id="the other way round")])
def test_do_cd_and_ad_are_kept_apart(scene: Scene, order: int) -> None:
    """Signatures only for DO, unvalidated data only for CD, AD only for who asked (RFC 4035 3.2, RFC 6840 5.7-5.9)."""
    name = f"apart-{order}.example"

    def answer(asked: Asked) -> bytes:
        unchecked = bool(asked.flags & CD)
        texts = [f"{name} 300 IN A 192.0.2.{1 + unchecked}", f"{name} 300 IN RRSIG A 13 2 300 9 1 1 example. AAAA"]
        do = asked.message.ednsflags & 0x8000
        return reply(asked, *texts[: 2 if do else 1], flags=0 if unchecked else AD)

    scene.upstream.on(name, answer)
    ways = list(product((False, True), (0, CD), (0, AD)))[::order]
    for do, cd, ad in [*ways, *ways]:
        response = ask(scene.server, name, "A", flags=cd | ad, edns=Edns(do=do))
        assert [entry.rdtype for entry in response.section(ANSWER)] == ([1, 46] if do else [1])
        assert response.addresses == ["192.0.2.2" if cd else "192.0.2.1"]
        assert bool(response.flags & AD) is (not cd and bool(ad or do))
        assert response.flags & CD == cd
    without = ask(scene.server, name, "A")
    assert (without.addresses, without.flags & AD) == (["192.0.2.1"], 0)
    assert len(scene.upstream.queries(name)) == 4


def test_an_answer_that_upstream_did_not_validate_is_never_ad(scene: Scene) -> None:
    """AD is the upstream's word and nobody else's (RFC 6840 section 5.8)."""
    for _ in range(2):
        assert not ask(scene.server, "insecure.example", "A", flags=AD, edns=Edns(do=True)).flags & AD


def test_a_signed_denial_that_does_not_fit_is_asked_for_again_by_tcp(scene: Scene) -> None:
    """RFC 4035 section 3.1: TC, then the whole with every proof in it; a client without DO has the SOA alone."""
    name = f"too-large.{HEAVY}"
    for _ in range(2):
        small = ask(scene.server, name, "A", source=UNMANAGED, edns=Edns(do=True))
        assert small.flags & TC
        whole = ask(scene.server, name, "A", source=UNMANAGED, edns=Edns(do=True), tcp=True)
        assert whole.rcode == NXDOMAIN
        assert sorted(entry.rdtype for entry in whole.section(AUTHORITY)) == [6, 46, 46, 46, 47, 47]
        plain = ask(scene.server, name, "A", source=UNMANAGED)
        assert (plain.rcode, [entry.rdtype for entry in plain.section(AUTHORITY)]) == (NXDOMAIN, [6])


def test_keys_and_signatures_are_answered_as_any_type(scene: Scene) -> None:
    """What a validator asks for by type: DNSKEY, DS, NSEC, and RRSIG without DO."""
    assert len(ask(scene.server, ORIGIN, "DNSKEY", edns=Edns(do=True)).section(ANSWER, "DNSKEY")) == 1
    assert ask(scene.server, ORIGIN, "DNSKEY").answer[0].rdtype == 48
    response = ask(scene.server, "www." + ORIGIN, "NSEC", edns=Edns(do=True))
    assert [entry.rdtype for entry in response.answer] == [47, 46]
    assert ask(scene.server, "unsigned." + ORIGIN, "DS").rcode == NOERROR
