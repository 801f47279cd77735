"""A real server as the upstream, and as the client: BIND with zones of its own, and with settings met in the field.

What a client gets through dnsfilter is what it would get from BIND itself, whether BIND answers in full, truncates,
drops for rate, refuses, signs or validates.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import dns.dnssec
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest

from tests.programs import free_port, need
from tests.scenarios.client import (
    AA,
    AD,
    CD,
    NOERROR,
    NXDOMAIN,
    REFUSED,
    SERVFAIL,
    TC,
    Address,
    Edns,
    Response,
    TcpClient,
    UdpClient,
    ask,
    check_echo,
    query,
    read,
)
from tests.scenarios.conftest import Start
from tests.scenarios.expect import EXEMPT, LISTED, MANAGED, check_sinkholed, policy, where
from tests.scenarios.service import Service

START_S = 15.0

CONFIGURATION = """
options {{
    directory "{directory}";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile none;
    allow-query {{ any; }};
    allow-transfer {{ any; }};
    recursion {recursion};
    empty-zones-enable no;
    notify no;
    {options}
}};
controls {{ }};
logging {{ category lame-servers {{ null; }}; }};
dnssec-policy "test" {{ keys {{ csk lifetime unlimited algorithm ecdsap256sha256; }}; {denial} }};
{zones}
"""

HEAD = """$TTL 300
@ IN SOA ns host 1 3600 600 86400 120
@ IN NS ns
ns IN A 192.0.2.53
"""

ZONE = (
    HEAD
    + """www IN A 192.0.2.1
www IN A 192.0.2.2
www IN AAAA 2001:db8::1
alias IN CNAME other
other IN CNAME www
far IN CNAME www.signed.example.
cloaked IN CNAME www.banned.example.
tree IN DNAME www
mail IN MX 10 www
mail IN MX 20 backup
backup IN A 192.0.2.25
text IN TXT "some text" "and more"
service IN HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.1
opaque IN TYPE65400 \\# 4 c00c0001
caa IN CAA 0 issue "ca.test"
_sip._tcp IN SRV 0 5 5060 www
name.empty IN A 192.0.2.9
*.wild IN A 192.0.2.77
short 1 IN A 192.0.2.3
child IN NS ns.child
ns.child IN A 192.0.2.54
"""
    + "".join(f"many IN A 198.51.100.{number}\n" for number in range(1, 100))
    + "".join(f"some IN A 198.51.100.{number}\n" for number in range(1, 51))
    + "".join(f'huge IN TXT "{number:03}" {" ".join(["x" * 190] * 3)}\n' for number in range(90))
)

SIGNED = (
    HEAD
    + """www IN A 192.0.2.1
alias IN CNAME www
*.wild IN A 192.0.2.77
name.empty IN A 192.0.2.9
"""
    + "".join(f'large IN TXT "{number:02} {"y" * 100}"\n' for number in range(20))
)

BANNED = HEAD + "www IN A 192.0.2.66\n@ IN A 192.0.2.66\n"

ZONES = {
    "zone.example": (ZONE, False),
    "signed.example": (SIGNED, True),
    LISTED: (BANNED, False),
}


class Bind:
    """One named, as a context manager; what it logged is in `log`."""

    def __init__(
        self, directory: Path, options: str = "", *, recursion: bool = False, further: str = "", denial: str = ""
    ) -> None:
        """options: further ones. recursion: and no zones. further: statements. denial: words of the signing policy."""
        self._program = need("named", "bind9")
        self._directory = directory
        self._options = options
        self._recursion = recursion
        self._further = further
        self._denial = denial
        self._process: subprocess.Popen[bytes] | None = None
        self.address: Address = ("", 0)
        self.log = directory / "log"

    def _configure(self) -> None:
        self.address = "127.0.0.1", free_port()
        zones = []
        for name, (content, is_signed) in () if self._recursion else ZONES.items():
            file = self._directory / f"{name}.zone"
            file.write_text(content)
            signing = 'dnssec-policy "test"; inline-signing yes;' if is_signed else ""
            zones.append(f'zone "{name}" {{ type primary; file "{file}"; {signing} }};')
        text = CONFIGURATION.format(
            directory=self._directory,
            port=self.address[1],
            recursion="yes" if self._recursion else "no",
            options=self._options,
            zones="\n".join([*zones, self._further]),
            denial=self._denial,
        )
        (self._directory / "named.conf").write_text(text)

    def __enter__(self) -> Self:
        for _ in range(5):
            self._configure()
            with self.log.open("wb") as output:
                self._process = subprocess.Popen(
                    [self._program, "-g", "-n", "1", "-c", str(self._directory / "named.conf")],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            try:
                self._wait()
            except BaseException:
                self._end()
                raise
            if "address in use" not in self.log.read_text():
                return self
            self._end()  # somebody else has been given the port meanwhile
        raise AssertionError("no free port")

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + START_S
        while " running\n" not in (said := self.log.read_text(errors="replace")):
            assert self._process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.02)
        assert "not loaded" not in said, said

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


NewBind = Callable[..., Bind]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bind]:
    """BIND as it is by default."""
    with Bind(tmp_path_factory.mktemp("bind")) as bind:
        yield bind


@pytest.fixture(scope="module")
def before(plain: Bind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """dnsfilter before it."""
    with Service(tmp_path_factory.mktemp("before"), settings(plain)) as service:
        yield service


@pytest.fixture
def binds(tmp_path: Path) -> Iterator[NewBind]:
    """Start others: `binds(settings)`; they end with the test."""
    with ExitStack() as stack:
        count = 0

        def run(*words: str, **more: object) -> Bind:
            nonlocal count
            count += 1
            directory = tmp_path / f"bind-{count}"
            directory.mkdir()
            return stack.enter_context(Bind(directory, *words, **more))  # type: ignore[arg-type]

        yield run


def settings(*binds: Bind, **more: object) -> dict[str, object]:
    """The shared policy with these as upstreams."""
    upstreams = [where(bind.address) for bind in binds]
    return policy(**{"upstreams": upstreams, **more})


def same(got: Response, expected: Response) -> None:
    """The same rcode and records in the answer section, whatever their order; no AA."""
    assert got.rcode == expected.rcode
    assert sorted(_records(got)) == sorted(_records(expected))
    assert not got.flags & (AA | AD | TC)


def _records(response: Response) -> list[tuple[str, int, bytes]]:
    found = []
    for rrset in response.message.answer:
        for rdata in rrset:
            octets = rdata.to_digestable(dns.name.root)
            found.append((rrset.name.to_text().lower(), int(rrset.rdtype), octets))
    return found


# As it is


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [
        ("www", "A"),
        ("www", "AAAA"),
        ("www", "TXT"),
        ("alias", "A"),
        ("far", "A"),
        ("a.tree", "A"),
        ("mail", "MX"),
        ("text", "TXT"),
        ("service", "HTTPS"),
        ("opaque", "TYPE65400"),
        ("caa", "CAA"),
        ("_sip._tcp", "SRV"),
        ("empty", "A"),
        ("missing", "A"),
        ("x.y.wild", "A"),
        ("*.wild", "A"),
        ("some", "A"),
        ("ns", "A"),
    ],
)
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_answers_are_binds_own(before: Service, plain: Bind, name: str, rdtype: str, tcp: bool) -> None:
    """Fresh and cached, with EDNS and without."""
    name += ".zone.example"
    for edns in (Edns(), Edns(do=True), None):
        expected = ask(plain.address, name, rdtype, edns=edns, tcp=tcp)
        if expected.flags & TC:
            continue
        for _ in range(2):
            got = ask(before.dns, name, rdtype, edns=edns, tcp=tcp)
            if got.flags & TC:
                assert len(expected.octets) > (512 if edns is None else edns.size) - 100
                continue
            same(got, expected)
            assert (got.soa is None) == (expected.soa is None)
            assert all(record.ttl <= 300 for record in got.records if record.rdtype != 41)


@pytest.mark.parametrize("name", ["many.zone.example", "huge.zone.example"])
def test_large_answers_are_truncated_and_whole_over_tcp(before: Service, plain: Bind, name: str) -> None:
    """99 addresses, and 53,000 octets of text (RFC 7766 5)."""
    rdtype = "A" if name.startswith("many") else "TXT"
    for edns in (None, Edns(512), Edns(1232), Edns(4096)):
        assert ask(before.dns, name, rdtype, edns=edns).flags & TC
    for _ in range(2):
        same(ask(before.dns, name, rdtype, tcp=True), ask(plain.address, name, rdtype, tcp=True))


def test_the_policy_holds(before: Service) -> None:
    """Listed names, names below them, and an alias to one."""
    for name in (LISTED, f"www.{LISTED}", "cloaked.zone.example"):
        check_sinkholed(ask(before.dns, name, source=MANAGED, edns=Edns()))
    assert ask(before.dns, f"www.{LISTED}", source=EXEMPT).addresses == ["192.0.2.66"]
    assert ask(before.dns, "cloaked.zone.example", source=EXEMPT).texts == [
        f"cloaked.zone.example. 300 IN CNAME www.{LISTED}."
    ]


def test_a_zone_that_it_does_not_serve_is_no_answer(before: Service) -> None:
    """REFUSED by the only upstream: an error at once, and the next name is served."""
    begun = time.monotonic()
    assert ask(before.dns, "www.elsewhere.example", edns=Edns()).rcode in (REFUSED, SERVFAIL)
    assert time.monotonic() - begun < 0.5
    assert ask(before.dns, "www.zone.example").addresses


def test_a_referral_is_no_data_of_ours(before: Service) -> None:
    """A delegation, from a server that does not recurse: no data, and not kept as if there were none."""
    for _ in range(2):
        asked = before.metric("dnsfilter_upstream_queries_total")
        got = ask(before.dns, "www.child.zone.example", edns=Edns())
        assert not got.answer
        assert got.soa is None
        assert before.metric("dnsfilter_upstream_queries_total") > asked


def test_zone_transfers_are_refused(before: Service, plain: Bind) -> None:
    """Though BIND would give the zone to anybody (RFC 5936)."""
    with TcpClient(plain.address) as client:
        client.send(query("zone.example", "AXFR"))
        assert (octets := client.receive()) is not None
        assert read(octets).answer
    with TcpClient(before.dns) as client:
        client.send(query("zone.example", "AXFR"))
        assert (octets := client.receive()) is not None
        assert not read(octets).answer
        assert read(octets).rcode in (REFUSED, 4)


def test_a_thousand_names_in_bursts(before: Service) -> None:
    """Each its own answer."""
    with UdpClient(before.dns) as client:
        for base in range(0, 1000, 100):
            sent = {
                ident: query(f"n{ident}.{'wild' if ident % 2 else 'none'}.zone.example", ident=ident)
                for ident in range(base, base + 100)
            }
            for octets in sent.values():
                client.send(octets)
            got = client.gather(100)
            assert len(got) == 100
            for ident, octets in got.items():
                response = read(octets)
                check_echo(sent[ident], response)
                assert response.rcode == (NOERROR if ident % 2 else NXDOMAIN)
                assert response.addresses == (["192.0.2.77"] if ident % 2 else [])


# With settings that are met in the field


@pytest.mark.parametrize(
    "options",
    [
        pytest.param("max-udp-size 512;", id="max-udp-size 512"),
        pytest.param("nocookie-udp-size 128;", id="nocookie-udp-size 128"),
        pytest.param("require-server-cookie yes;", id="require-server-cookie"),
        pytest.param("answer-cookie no;", id="answer-cookie no"),
        pytest.param("minimal-responses no;", id="minimal-responses no"),
        pytest.param("minimal-responses yes; minimal-any yes;", id="minimal-responses yes"),
        pytest.param("message-compression no;", id="message-compression no"),
        pytest.param("rrset-order { order random; };", id="rrset-order random"),
        pytest.param("tcp-initial-timeout 25; tcp-idle-timeout 1; keep-response-order { any; };", id="impatient TCP"),
        pytest.param("tcp-clients 2;", id="tcp-clients 2"),
    ],
)
def test_answers_are_right_whatever_binds_settings(start: Start, binds: NewBind, options: str) -> None:
    """Small, large, missing and aliased names; each over UDP, or over TCP after TC."""
    bind = binds(options)
    service = start(settings(bind))
    for edns in (Edns(), Edns(do=True), None):
        for name, rdtype in (
            ("www", "A"),
            ("alias", "AAAA"),
            ("mail", "MX"),
            ("some", "A"),
            ("many", "A"),
            ("missing", "A"),
            ("text", "TXT"),
        ):
            expected = ask(bind.address, f"{name}.zone.example", rdtype, tcp=True, edns=edns)
            for _ in range(2):
                got = ask(service.dns, f"{name}.zone.example", rdtype, edns=edns)
                if got.flags & TC:
                    assert len(expected.octets) > (512 if edns is None else edns.size)
                    got = ask(service.dns, f"{name}.zone.example", rdtype, edns=edns, tcp=True)
                same(got, expected)
    assert bind.log.exists()


def ask_60_at_once(service: Service) -> tuple[list[list[str]], float]:
    """Names of one wildcard, which BIND counts as one: what each got, by TCP where it has to, and how long it took."""
    begun = time.monotonic()
    with UdpClient(service.dns) as client:
        for ident in range(60):
            client.send(query(f"n{ident}.wild.zone.example", ident=ident))
        got = client.gather(60)
    took = time.monotonic() - begun
    answers = [read(got[ident]) for ident in range(60)]
    truncated = [ident for ident in range(60) if answers[ident].flags & TC]
    for ident in truncated:
        answers[ident] = ask(service.dns, f"n{ident}.wild.zone.example", tcp=True)
    print(f"{len(got)} in {took:.2f} s, {len(truncated)} truncated")
    return [answer.addresses for answer in answers], took


RIGHT = [["192.0.2.77"]] * 60


@pytest.mark.parametrize("slip", [pytest.param(1, id="all truncated"), pytest.param(2, id="half of them dropped")])
def test_what_bind_limits_in_rate_is_still_answered(start: Start, binds: NewBind, slip: int) -> None:
    """60 at once, where 5 a second are answered: TC sends us to TCP, silence to another try, of which eight fit in."""
    bind = binds(f"rate-limit {{ responses-per-second 5; slip {slip}; }};")
    service = start(settings(bind, resolve={"timeout": "0.5s"}))
    assert ask_60_at_once(service)[0] == RIGHT


def test_60_questions_that_have_to_go_by_tcp_at_once_do_not_wait_for_each_other(start: Start, binds: NewBind) -> None:
    """RFC 7766 6.2.1 and 6.2.2: few connections, many questions on each."""
    service = start(settings(binds("rate-limit { responses-per-second 5; slip 1; };")))
    answers, took = ask_60_at_once(service)
    assert answers == RIGHT
    assert took < 0.8


def test_the_other_upstream_serves_what_bind_drops_for_rate(start: Start, binds: NewBind) -> None:
    """slip 0: all that is too much is dropped."""
    limited, free = binds("rate-limit { responses-per-second 5; slip 0; };"), binds()
    service = start(settings(limited, free, resolve={"timeout": "0.5s"}))
    answers, took = ask_60_at_once(service)
    assert answers == RIGHT
    assert took < 2


def test_binds_own_response_policy_passes(start: Start, binds: NewBind, tmp_path: Path) -> None:
    """A filter behind a filter: what it says is an answer, and its block stays a block."""
    zone = tmp_path / "rpz.zone"
    zone.write_text(
        "$TTL 60\n@ SOA ns.invalid. host.invalid. 1 3600 600 86400 60\n@ NS ns.invalid.\n"
        "missing-by-policy.zone.example CNAME .\n"
        "empty-by-policy.zone.example CNAME *.\n"
        "walled.zone.example A 203.0.113.9\n"
        "dropped.zone.example CNAME rpz-drop.\n"
        "by-tcp.zone.example CNAME rpz-tcp-only.\n"
    )
    bind = binds(
        'response-policy { zone "rpz"; } recursive-only no qname-wait-recurse no;',
        further=f'zone "rpz" {{ type primary; file "{zone}"; }};',
    )
    service = start(settings(bind, resolve={"timeout": "0.3s", "deadline": "1s"}))
    for _ in range(2):
        assert ask(service.dns, "missing-by-policy.zone.example", edns=Edns()).rcode == NXDOMAIN
        empty = ask(service.dns, "empty-by-policy.zone.example", edns=Edns())
        assert (empty.rcode, empty.answer) == (NOERROR, [])
        assert ask(service.dns, "walled.zone.example").addresses == ["203.0.113.9"]
    assert ask(service.dns, "dropped.zone.example").rcode == SERVFAIL
    assert ask(service.dns, "by-tcp.zone.example").rcode == NXDOMAIN  # answered over TCP: such a name there is not
    assert len(ask(service.dns, "www.zone.example").addresses) == 2


# DNSSEC


def keys_of(bind: Bind, zone: str = "signed.example") -> dns.rrset.RRset:
    """The zone's DNSKEY records; named may still be signing."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        message = dns.message.from_wire(ask(bind.address, zone, "DNSKEY", tcp=True, edns=Edns(do=True)).octets)
        signed = ask(bind.address, f"www.{zone}", "A", tcp=True, edns=Edns(do=True))
        if len(message.answer) == 2 and signed.section(1, "RRSIG"):
            return next(rrset for rrset in message.answer if rrset.rdtype == dns.rdatatype.DNSKEY)
        time.sleep(0.1)
    raise AssertionError(bind.log.read_text())


def check_signatures(response: Response, keys: dns.rrset.RRset) -> set[str]:
    """Validate every RRset of the answer and authority sections; return the types that were."""
    message = dns.message.from_wire(response.octets)
    kinds = set()
    for section in (message.answer, message.authority):
        for rrset in section:
            if rrset.rdtype == dns.rdatatype.RRSIG:
                continue
            signatures = message.find_rrset(section, rrset.name, rrset.rdclass, dns.rdatatype.RRSIG, rrset.rdtype)
            dns.dnssec.validate(rrset, signatures, {keys.name: keys})
            kinds.add(dns.rdatatype.to_text(rrset.rdtype))
    return kinds


@pytest.mark.parametrize("denial", [pytest.param("", id="NSEC"), pytest.param("nsec3param;", id="NSEC3")])
def test_a_validating_client_can_validate_all_it_gets(start: Start, binds: NewBind, denial: str) -> None:
    """Answers, aliases, wildcards, NODATA and NXDOMAIN with their proofs; fresh and cached, UDP and TCP (RFC 4035)."""
    pytest.importorskip("cryptography")
    bind = binds(denial=denial)
    keys = keys_of(bind)
    service = start(settings(bind))
    proof = "NSEC3" if denial else "NSEC"
    expected = {
        ("www", "A"): {"A"},
        ("alias", "A"): {"A", "CNAME"},
        ("x.wild", "A"): {"A", proof},
        ("large", "TXT"): {"TXT"},
        ("", "DNSKEY"): {"DNSKEY"},
        ("www", "MX"): {"SOA", proof},
        ("empty", "A"): {"SOA", proof},
        ("missing", "A"): {"SOA", proof},
    }
    for tcp in (False, True, False):
        for (label, rdtype), kinds in expected.items():
            name = f"{label}.signed.example".lstrip(".")
            got = ask(service.dns, name, rdtype, edns=Edns(do=True), tcp=tcp)
            if got.flags & TC:
                assert not tcp
                got = ask(service.dns, name, rdtype, edns=Edns(do=True), tcp=True)
            assert check_signatures(got, keys) >= kinds, got.message
            assert got.rcode == (NXDOMAIN if label == "missing" else NOERROR)
            unsigned = ask(service.dns, name, rdtype, edns=Edns(), tcp=True)
            wanted = {"RRSIG", proof} - {rdtype}
            assert not {dns.rdatatype.RdataType.make(record.rdtype).name for record in unsigned.records} & wanted
    check_sinkholed(ask(service.dns, LISTED, source=MANAGED, edns=Edns(do=True)))


@dataclass(frozen=True, slots=True)
class Validating:
    """A validating BIND that asks another one, and trusts another key for a second zone than it is signed with."""

    resolver: Bind
    authority: Bind


def trusting(keys: dns.rrset.RRset, upstream: Address, *, right: bool = True) -> str:
    """Statements of a resolver that validates the zone and has all of it from one address."""
    key = str(keys[0]).split(None, 3)
    text = key[3].replace(" ", "")
    if not right:
        text = text[:8] + ("B" if text[8] == "A" else "A") + text[9:]
    return (
        f'trust-anchors {{ "{keys.name}" static-key {key[0]} {key[1]} {key[2]} "{text}"; }};\n'
        f'zone "example" {{ type forward; forward only; forwarders {{ {upstream[0]} port {upstream[1]}; }}; }};'
    )


@pytest.mark.parametrize("right", [pytest.param(True, id="the right key"), pytest.param(False, id="another key")])
def test_a_validating_upstreams_verdict_is_passed_on(start: Start, binds: NewBind, right: bool) -> None:
    """AD to those who set DO or AD and to nobody else; what is bogus is SERVFAIL, but with CD (RFC 4035, RFC 6840)."""
    authority = binds()
    keys = keys_of(authority)
    trust = trusting(keys, authority.address, right=right)
    resolver = binds("dnssec-validation yes;", recursion=True, further=trust)
    service = start(settings(resolver))
    for _ in range(2):
        for edns, flags in ((Edns(do=True), 0), (Edns(), AD), (Edns(), 0), (None, 0)):
            got = ask(service.dns, "www.signed.example", edns=edns, flags=flags)
            assert got.rcode == (NOERROR if right else SERVFAIL)
            assert got.addresses == (["192.0.2.1"] if right else [])
            wants = flags & AD or (edns is not None and edns.do)
            assert bool(got.flags & AD) == bool(right and wants)
        unchecked = ask(service.dns, "www.signed.example", edns=Edns(do=True), flags=CD)
        assert unchecked.addresses == ["192.0.2.1"]
        assert unchecked.flags & CD
        assert ask(service.dns, "www.zone.example", edns=Edns(do=True)).rcode == NOERROR


# BIND as the client


@pytest.mark.parametrize(
    "validates", [pytest.param(False, id="that trusts us"), pytest.param(True, id="that validates")]
)
def test_a_branch_resolver_behind_us(start: Start, binds: NewBind, validates: bool) -> None:
    """BIND forwards to dnsfilter, with cookies, DO and CD as it likes: what it tells its clients is right."""
    authority = binds()
    keys = keys_of(authority)
    config = settings(authority, groups={"default": {"block": ["ban"]}}, exemptions={})
    service = start(config)
    trust = trusting(keys, service.dns)
    branch = binds(
        f"dnssec-validation {'yes' if validates else 'no'};",
        recursion=True,
        further=trust if validates else trust.partition("\n")[2],
    )
    for tcp in (False, True):
        got = ask(branch.address, "www.signed.example", edns=Edns(do=True), tcp=tcp)
        assert got.addresses == ["192.0.2.1"]
        assert got.section(1, "RRSIG")
        assert bool(got.flags & AD) == validates
        missing = ask(branch.address, "missing.signed.example", edns=Edns(do=True), tcp=tcp)
        assert missing.rcode == NXDOMAIN
        assert bool(missing.flags & AD) == validates
        assert len(ask(branch.address, "www.zone.example", tcp=tcp).addresses) == 2
        assert ask(branch.address, "alias.zone.example", "AAAA", tcp=tcp).addresses == ["2001:db8::1"]
        assert ask(branch.address, "missing.zone.example", tcp=tcp).rcode == NXDOMAIN
        for name in (LISTED, f"www.{LISTED}", "cloaked.zone.example"):
            blocked = ask(branch.address, name, tcp=tcp)
            assert blocked.addresses == ["0.0.0.0"]
            assert ask(branch.address, name, "MX", tcp=tcp).rcode == NOERROR
    assert len(ask(branch.address, "many.zone.example", tcp=True).addresses) == 99
    for number in range(50):
        assert ask(branch.address, f"b{number}.wild.zone.example").addresses == ["192.0.2.77"]
    assert "FORMERR" not in branch.log.read_text()
    assert "broken trust chain" not in branch.log.read_text()
