"""Which group a client is in when its address is not what the configuration has: other families, links, strangers."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.programs import need
from tests.scenarios.client import NOERROR, Edns, ask, exchange, query
from tests.scenarios.conftest import Start
from tests.scenarios.expect import EXEMPT, LISTED, MANAGED, UNMANAGED, check_sinkholed, is_blocked, policy
from tests.scenarios.service import ROOT, Service, command
from tests.scenarios.upstream import Upstream, address_of

NewUpstream = Callable[[], Upstream]


def grouped(upstream: Upstream, groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The shared policy with other groups and no exemption."""
    return policy(upstream, groups=groups, exemptions={"regime": "registered", "entries": []}, **more)


# Addresses of another family


def test_networks_may_be_written_as_mapped_addresses(start: Start, upstreams: NewUpstream) -> None:
    """They are the IPv4 networks: blocked, exempted and told in the IPv4 form (RFC 4291 section 2.5.5.2)."""
    config = policy(upstreams())
    config["groups"]["managed"]["networks"] = ["::ffff:127.0.1.0/120"]
    config["exemptions"]["entries"][0]["networks"] = ["::ffff:127.0.1.64/124"]
    service = start(config)
    assert is_blocked(service.dns, LISTED, MANAGED)
    assert not is_blocked(service.dns, LISTED, EXEMPT)
    assert not is_blocked(service.dns, LISTED, UNMANAGED)
    said = service.command("explain", LISTED, "--client", f"::ffff:{MANAGED}")
    assert "127.0.1.0/24" in said.stdout
    assert "ffff" not in said.stdout
    assert service.metric("dnsfilter_queries_total", transport="udp", family="ipv4") == 3
    assert service.metric("dnsfilter_queries_total", family="ipv6") == 0


def test_a_wildcard_of_ipv6_takes_no_ipv4_clients(start: Start, upstreams: NewUpstream) -> None:
    """So none comes as a mapped address: who wants both families writes both wildcards."""
    service = start(policy(upstreams()), dns=("[::]:0",))
    port = service.addresses[0][1]
    assert ask(("::1", port), "six.example", source="::1").addresses == [address_of("six.example")]
    with pytest.raises(ConnectionRefusedError):
        exchange(("127.0.0.1", port), query("four.example"))
    with pytest.raises(ConnectionRefusedError):
        exchange(("127.0.0.1", port), query("four.example"), tcp=True)


def test_a_client_by_an_address_of_no_network_is_in_default_and_counted_there(
    start: Start, upstreams: NewUpstream
) -> None:
    """The same device over IPv6, of which only the IPv4 network is known: blocked where `default` blocks."""
    managed = {"networks": ["127.0.1.0/24"], "block": ["ban"]}
    config = grouped(upstreams(), {"managed": managed, "default": {"block": ["ban"]}})
    service = start(config, dns=("127.0.0.1:0", "[::1]:0"))
    four, six = service.addresses
    for tcp in (False, True):
        check_sinkholed(ask(four, LISTED, source=MANAGED, tcp=tcp))
        check_sinkholed(ask(six, LISTED, "AAAA", source="::1", tcp=tcp, edns=Edns()))
    assert ask(six, "unmatched.example", source="::1").addresses == [address_of("unmatched.example")]
    assert service.metric("dnsfilter_verdicts_total", group="managed") == 2
    assert service.metric("dnsfilter_verdicts_total", group="default") == 3
    assert service.metric("dnsfilter_verdicts_total", group="default", verdict="forwarded") == 1


def test_check_warns_of_groups_with_one_family_where_listeners_have_two(tmp_path: Path) -> None:
    file = tmp_path / "dnsfilter.yaml"
    file.write_text(
        "listen: {dns: ['192.0.2.53:53', '[2001:db8::53]:53'], admin: off}\n"
        "upstreams: [198.51.100.53]\n"
        "groups:\n"
        "  managed: {networks: [192.0.2.0/24], block: [tiktok, encrypted-dns]}\n"
        "  both: {networks: [198.51.100.0/24, '2001:db8:1::/48'], block: [tiktok, encrypted-dns]}\n"
        "  default: {block: [tiktok, encrypted-dns]}\n"
        f"state: {tmp_path / 'state'}\n"
    )
    done = command("check", "-c", file)
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if "over IPv6, on which we listen too" in line]
    assert len(said) == 1
    assert "dnsfilter.yaml:4" in said[0]
    assert "group 'managed'" in said[0]
    assert "group 'default'" in said[0]


# Addresses with a zone (RFC 4007 section 11)


@pytest.fixture
def link() -> Sequence[str]:
    """A program that runs another in a network of its own, whose loopback link has two link-local addresses."""
    ip, unshare = need("ip", "iproute2"), need("unshare", "util-linux")
    add = f"{ip} address add fe80::{{}}/64 dev lo nodad"
    script = f'{ip} link set lo up && {add.format(53)} && {add.format(9)} && exec "$@"'
    run = (unshare, "--user", "--map-root-user", "--net", "sh", "-c", script, "sh")
    if subprocess.run([*run, "true"], capture_output=True, timeout=20, check=False).returncode:
        pytest.skip("user namespaces are not permitted here")
    return run


ASK = """
import socket, sys
from tests.scenarios.client import query, read
server, client = (sys.argv[1], int(sys.argv[2]), 0, 1), (sys.argv[3], 0, 0, 1)
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    for name in sys.argv[4:]:
        octets = query(name)
        with socket.socket(socket.AF_INET6, kind) as asking:
            asking.settimeout(5)
            asking.bind(client)
            asking.connect(server)
            is_stream = kind == socket.SOCK_STREAM
            asking.sendall((len(octets).to_bytes(2, "big") if is_stream else b"") + octets)
            response = read(asking.recv(4096)[2 if is_stream else 0 :])
            print(kind.name, name, response.rcode, *response.addresses)
"""


@pytest.mark.parametrize("listener", ["[::]:0", "[fe80::53%lo]:0"], ids=["a wildcard", "the address itself"])
def test_link_local_clients_are_in_the_group_of_their_network(
    tmp_path: Path, link: Sequence[str], listener: str
) -> None:
    """The zone is ignored for the group and kept for the answer, over UDP and TCP; nothing is said of errors."""
    config = policy(
        upstreams=["127.0.0.1:9"],  # nobody is there, so that these answers come late
        groups={"managed": {"networks": ["fe80::/10"], "block": ["ban"]}, "default": {"block": []}},
        exemptions={"regime": "registered", "entries": []},
        resolve={"timeout": "0.2s", "deadline": "0.5s"},
        listen={"dns": [listener], "admin": "off"},
    )
    service = Service(tmp_path, config)
    service.through = link
    names = {LISTED: "0 0.0.0.0", "localhost": "0 127.0.0.1", "late.example": "2"}
    with service:
        inside = (need("nsenter", "util-linux"), f"--target={service.pid}", "--user", "--net", "--preserve-credentials")
        done = subprocess.run(
            [*inside, sys.executable, "-c", ASK, "fe80::53", str(service.addresses[0][1]), "fe80::9", *names],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            cwd=ROOT,
        )
    assert done.stdout.splitlines() == [
        f"{kind} {name} {said}" for kind in ("SOCK_DGRAM", "SOCK_STREAM") for name, said in names.items()
    ], done.stderr


# Groups that allow, and groups that nobody is in


def test_a_group_that_allows_and_blocks_nothing_is_open(start: Start, upstreams: NewUpstream) -> None:
    """That only some names are open is said by `only`, never implied; what others block stays blocked for them."""
    managed = {"networks": ["127.0.1.0/24"], "block": ["ban"]}
    press = {"networks": ["127.0.1.64/28"], "block": [], "allow": [f"press.{LISTED}"]}
    service = start(grouped(upstreams(), {"managed": managed, "press": press, "default": {"block": []}}))
    for name in ("ok.example", f"press.{LISTED}", LISTED, f"www.{LISTED}"):
        response = ask(service.dns, name, source=EXEMPT)
        assert (response.rcode, response.addresses) == (NOERROR, [address_of(name)])
    assert is_blocked(service.dns, f"press.{LISTED}", MANAGED)
    assert service.metric("dnsfilter_verdicts_total", group="press", verdict="allowed") == 1
    assert service.metric("dnsfilter_verdicts_total", group="press", verdict="forwarded") == 3


def test_a_group_with_allow_alone_is_refused_with_what_to_write(tmp_path: Path) -> None:
    file = tmp_path / "dnsfilter.yaml"
    file.write_text("groups:\n  press: {networks: [192.0.2.0/24], allow: [press.example]}\n  default: {block: []}\n")
    done = command("check", "-c", file)
    assert done.returncode == 2
    assert f"{file}:2: group 'press': block is missing" in done.stderr
    assert "`block: []` blocks nothing" in done.stderr
