"""Other people's clients, and clients of every kind of listener."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs import need
from tests.scenarios.client import Address, Edns, UdpClient, ask, query, read
from tests.scenarios.conftest import Start
from tests.scenarios.expect import (
    EXEMPT,
    LISTED,
    MANAGED,
    TEXT,
    UNMANAGED,
    check_sinkholed,
    exemption,
    is_blocked,
    policy,
)
from tests.scenarios.service import Service
from tests.scenarios.upstream import Upstream, address_of

PATIENCE_S = 20


def output(*command: str) -> str:
    """What a program prints; it has to end well."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def dig(server: Address) -> Callable[..., str]:
    """Run dig against the shared service from an address."""
    program = need("dig", "bind9-dnsutils")
    return lambda source, *words: output(
        program, f"@{server[0]}", "-p", str(server[1]), "-b", source, "+tries=1", "+time=5", *words
    )


@pytest.fixture
def kdig(server: Address) -> Callable[..., str]:
    """Run kdig against the shared service from an address."""
    program = need("kdig", "knot-dnsutils")
    return lambda source, *words: output(
        program, f"@{server[0]}", "-p", str(server[1]), "-b", source, "+retry=0", "+timeout=5", *words
    )


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig_of_a_managed_client_is_told_of_the_block(dig: Callable[..., str], transport: str) -> None:
    """With its text: dig asks with EDNS, a COOKIE and AD as it comes."""
    said = dig(MANAGED, transport, LISTED, "A")
    assert "status: NOERROR" in said
    assert "0.0.0.0" in said
    assert f"EDE: 15 (Blocked): ({TEXT})" in said
    assert "Warning" not in said
    assert "WARNING" not in said


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize("source", [pytest.param(EXEMPT, id="exempt"), pytest.param(UNMANAGED, id="unmanaged")])
def test_dig_of_other_clients_gets_the_real_answer(dig: Callable[..., str], transport: str, source: str) -> None:
    assert dig(source, transport, "+short", LISTED, "A").split() == [address_of(LISTED)]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("+noedns",), id="no EDNS"),
        pytest.param(("+dnssec", "+cd"), id="DO and CD"),
        pytest.param(("+norec",), id="RD=0"),
        pytest.param(("+ednsopt=100:c0ffee",), id="an unknown option, RFC 8906 8.2.3"),
        pytest.param(("+ednsflags=0x40",), id="an unknown flag, RFC 8906 8.2.4"),
        pytest.param(("+subnet=192.0.2.0/24",), id="ECS"),
        pytest.param(("+bufsize=512",), id="512 octets"),
        pytest.param(("+zflag",), id="the reserved bit"),
        pytest.param(("+keepalive",), id="KEEPALIVE"),
        pytest.param(("+padding=128",), id="PADDING"),
        pytest.param(("+keepopen", "+tcp"), id="a connection that stays"),
    ],
)
def test_dig_in_every_way_it_can_ask(dig: Callable[..., str], words: tuple[str, ...]) -> None:
    """dig warns of what it finds wrong in a response."""
    said = dig(MANAGED, *words, "dig.example", "A")
    assert address_of("dig.example") in said
    assert "status: NOERROR" in said
    assert "warning" not in said.lower()
    assert "malformed" not in said.lower()


def test_dig_negotiates_the_edns_version(dig: Callable[..., str]) -> None:
    """RFC 6891 6.1.3: BADVERS, then version 0."""
    said = dig(MANAGED, "+edns=1", "+noednsnegotiation", "dig.example", "A")
    assert "status: BADVERS" in said
    assert "EDNS: version: 0" in said
    assert address_of("dig.example") in dig(MANAGED, "+edns=1", "dig.example", "A")


def test_dig_asks_again_over_tcp_for_what_is_truncated(dig: Callable[..., str], upstream: Upstream) -> None:
    """RFC 7766 5."""
    upstream.on("dig-large.example", [f'dig-large.example 300 IN TXT "{n:03}{"x" * 200}"' for n in range(20)])
    said = dig(MANAGED, "dig-large.example", "TXT")
    assert said.count("\tTXT\t") == 20 or said.count("TXT\t") >= 20
    assert "Truncated, retrying in TCP mode" in said


def test_dig_batch_over_one_connection(dig: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> None:
    batch = tmp_path_factory.mktemp("dig") / "batch"
    batch.write_text("".join(f"batch-{number}.example A\n{LISTED} A\n" for number in range(20)))
    said = dig(MANAGED, "+tcp", "+keepopen", "+short", "-f", str(batch)).split()
    assert said == [text for number in range(20) for text in (address_of(f"batch-{number}.example"), "0.0.0.0")]


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_kdig_agrees(kdig: Callable[..., str], transport: str) -> None:
    blocked = kdig(MANAGED, transport, "+edns", LISTED, "AAAA")
    assert "status: NOERROR" in blocked
    assert "\t::" in blocked
    assert TEXT in blocked
    assert kdig(EXEMPT, transport, "+short", LISTED, "A").split() == [address_of(LISTED)]
    assert kdig(MANAGED, transport, "+short", "kdig.example", "A").split() == [address_of("kdig.example")]


def test_kdig_reads_every_type_of_a_blocked_name(kdig: Callable[..., str]) -> None:
    for rdtype in ("HTTPS", "SVCB", "TXT", "MX", "TYPE65280"):
        said = kdig(MANAGED, "+dnssec", LISTED, rdtype)
        assert "status: NOERROR" in said
        assert "SOA\tdnsfilter.invalid. nobody.invalid. 1 3600 600 86400 60" in said
        assert "WARNING" not in said.replace("WARNING: not verified", "")


# Groups side by side


def test_clients_of_many_groups_ask_at_once_and_each_gets_its_own(
    start: Start, upstreams: Callable[[], Upstream]
) -> None:
    """Twenty groups, each with a list of its own, one shared cache."""
    config = policy(upstreams())
    config["lists"] = {f"list{n}": {"domains": [f"only{n}.example"]} for n in range(20)}
    config["groups"] = {f"g{n}": {"networks": [f"127.9.{n}.0/24"], "block": [f"list{n}"]} for n in range(20)}
    config["groups"]["default"] = {"block": []}
    config["exemptions"]["entries"] = [exemption("EX-3", ["127.9.3.128/25"], ["list3"])]
    service = start(config)
    clients = [UdpClient(service.dns, f"127.9.{n}.{host}") for n in range(20) for host in (7, 200)]
    for client in clients:
        for n in range(20):
            client.send(query(f"only{n}.example", "A", ident=n))
    for number, client in enumerate(clients):
        group, is_exempt = number // 2, number // 2 == 3 and number % 2
        got = client.gather(20)
        client.socket.close()
        for n, octets in got.items():
            blocked = n == group and not is_exempt
            assert read(octets).addresses == ["0.0.0.0" if blocked else address_of(f"only{n}.example")]
        assert len(got) == 20


# Listeners


@pytest.fixture
def has_ipv6() -> None:
    """Skip where the machine has no IPv6 loopback."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("needs the address ::1")


def test_ipv4_and_ipv6_listeners_side_by_side(start: Start, upstreams: Callable[[], Upstream], has_ipv6: None) -> None:
    """Each family's clients in their groups, over UDP and TCP, with one cache."""
    upstream = upstreams()
    config = policy(upstream)
    config["groups"]["managed"]["networks"] = ["127.0.1.0/24", "::1/128"]
    service = start(config, dns=("127.0.0.1:0", "[::1]:0"))
    four, six = service.addresses
    assert six[0] == "::1"
    for tcp in (False, True):
        check_sinkholed(ask(six, LISTED, "A", source="::1", tcp=tcp, edns=Edns()))
        check_sinkholed(ask(six, LISTED, "AAAA", source="::1", tcp=tcp))
        check_sinkholed(ask(four, LISTED, "A", source=MANAGED, tcp=tcp))
        assert not is_blocked(four, LISTED, UNMANAGED)
        assert ask(six, "dual.example", "A", source="::1", tcp=tcp).addresses == [address_of("dual.example")]
        assert ask(four, "dual.example", "A", source=UNMANAGED, tcp=tcp).addresses == [address_of("dual.example")]
    assert len(upstream.queries("dual.example")) == 1


@pytest.mark.parametrize(
    "listeners",
    [
        pytest.param(("0.0.0.0:0",), id="IPv4"),
        pytest.param(("0.0.0.0:0", "[::]:0"), id="IPv4 and IPv6"),
    ],
)
def test_a_wildcard_listener_answers_from_the_address_that_was_asked(
    start: Start, upstreams: Callable[[], Upstream], has_ipv6: None, listeners: tuple[str, ...]
) -> None:
    """Blocked, local, cached and forwarded answers: a connected socket takes no other source."""
    service = start(policy(upstreams()), dns=listeners)
    servers = [(f"127.0.0.{last}", service.addresses[0][1]) for last in (1, 2, 53)]
    if len(listeners) == 2:
        servers.append(("::1", service.addresses[1][1]))
    for number, server in enumerate(servers):
        source = "::1" if server[0] == "::1" else MANAGED
        names = [f"wild-{number}.example", f"wild-{number}.example", "localhost", "use-application-dns.net"]
        for name in [*names, LISTED]:
            for tcp in (False, True):
                assert ask(server, name, "A", source=source, tcp=tcp) is not None
        with socket.socket(socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind((source, 0))
            client.settimeout(5)
            client.sendto(query("wild.example", "A"), server)
            assert client.recvfrom(2000)[1][:2] == server


def test_the_same_client_on_two_listeners(start: Start, upstreams: Callable[[], Upstream]) -> None:
    """Answers leave by the listener that was asked."""
    service = start(policy(upstreams()), dns=("127.0.0.1:0", "127.0.0.2:0"))
    assert [host for host, _ in service.addresses] == ["127.0.0.1", "127.0.0.2"]
    for server in service.addresses:
        check_sinkholed(ask(server, LISTED, "A", source=MANAGED))
        assert ask(server, "two.example", "A", source=MANAGED).addresses == [address_of("two.example")]


@pytest.fixture
def network() -> tuple[str, ...]:
    """A program that runs another in a network of its own, where the test may add addresses."""
    ip = need("ip", "iproute2")
    words = (need("unshare", "util-linux"), "--user", "--map-root-user", "--net", "sh", "-c")
    run = (*words, f'{ip} link set lo up && exec "$@"', "sh")
    need("nsenter", "util-linux")
    if subprocess.run([*run, "true"], capture_output=True, timeout=PATIENCE_S, check=False).returncode:
        pytest.skip("user namespaces are not permitted here")
    return run


@pytest.mark.parametrize(
    "listeners",
    [
        pytest.param(("0.0.0.0:0", "[::]:0"), id="a wildcard"),
        pytest.param(("192.0.2.53:0", "[2001:db8::53]:0"), id="the address itself"),
    ],
)
def test_an_address_that_comes_after_the_start_answers_as_itself(
    tmp_path: Path, network: tuple[str, ...], has_ipv6: None, listeners: tuple[str, ...]
) -> None:
    """A virtual address after a failover: dig takes no answer from another address than it asked."""
    dig, ip, nsenter = need("dig", "bind9-dnsutils"), need("ip", "iproute2"), need("nsenter", "util-linux")
    config = policy(
        upstreams=["127.0.0.1:9"],  # nobody is there, so that these answers come late
        resolve={"timeout": "0.2s", "deadline": "0.5s"},
        listen={"dns": list(listeners), "admin": "off"},
    )
    config["groups"]["managed"]["networks"] = ["127.0.1.0/24", "::1/128"]
    service = Service(tmp_path, config)
    service.through = network
    with service:
        inside = (nsenter, f"--target={service.pid}", "--user", "--net", "--preserve-credentials")
        for address in ("192.0.2.53/32", "2001:db8::53/128"):
            output(*inside, ip, "address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
        for (_, port), host, source in zip(
            service.addresses, ("192.0.2.53", "2001:db8::53"), ("127.0.1.10", "::1"), strict=True
        ):
            for transport in ("+notcp", "+tcp"):
                words = (dig, f"@{host}", "-p", str(port), "-b", source, "+tries=1", "+time=5", transport)
                assert output(*inside, *words, "+short", LISTED, "A").split() == ["0.0.0.0"]
                assert output(*inside, *words, "+short", "localhost", "A").split() == ["127.0.0.1"]
                assert "status: SERVFAIL" in output(*inside, *words, "late.example", "A")
