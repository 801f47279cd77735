"""A real resolver as the upstream: unbound with data of its own, started by the tests."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs import free_port, need
from tests.scenarios.client import AA, AD, NXDOMAIN, REFUSED, TC, Edns, UdpClient, ask, query, read
from tests.scenarios.expect import EXEMPT, LISTED, MANAGED, check_sinkholed, exemption, policy, where
from tests.scenarios.service import Service

START_S = 10.0

UNBOUND = """
server:
    interface: 127.0.0.1
    port: {port}
    access-control: 127.0.0.0/8 allow
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    do-daemonize: no
    do-ip6: no
    num-threads: 1
    module-config: "iterator"
    hide-identity: no
    hide-version: no
    edns-buffer-size: 1232
    local-zone: "example." static
    local-data: "example. 300 IN SOA ns.example. host.example. 1 3600 600 86400 120"
    local-data: "www.example. 300 IN A 192.0.2.1"
    local-data: "www.example. 300 IN AAAA 2001:db8::1"
    local-data: "text.example. 300 IN TXT 'some text'"
    local-data: "mail.example. 300 IN MX 10 www.example."
    local-data: "service.example. 300 IN TYPE65 \\# 13 000100000100060268320268 33"
    local-data: "opaque.example. 300 IN TYPE65400 \\# 4 c00c0001"
    local-data: "www.banned.example. 300 IN A 192.0.2.66"
    local-data: "alias.example. 300 IN CNAME www.banned.example."
{many}
remote-control:
    control-enable: no
"""


@dataclass(frozen=True, slots=True)
class Both:
    """dnsfilter before unbound."""

    service: Service
    unbound: tuple[str, int]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Start unbound, then dnsfilter before it."""
    program = need("unbound", "unbound")
    directory = tmp_path_factory.mktemp("unbound")
    port = free_port()
    config = directory / "unbound.conf"
    many = "".join(f'    local-data: "many.example. 300 IN A 198.51.100.{n}"\n' for n in range(1, 121))
    config.write_text(UNBOUND.format(port=port, directory=directory, many=many))
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "-d", "-c", str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ
        )
    try:
        wait(("127.0.0.1", port), process, log)
        settings = policy(
            upstreams=[where(("127.0.0.1", port))],
            exemptions={"regime": "registered", "entries": [exemption("EX-1", ["127.0.1.64/28"], ["ban"])]},
        )
        with Service(tmp_path_factory.mktemp("before"), settings) as service:
            yield Both(service, ("127.0.0.1", port))
    finally:
        process.terminate()
        process.wait(10)


def wait(server: tuple[str, int], process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until it answers."""
    until = time.monotonic() + START_S
    with UdpClient(server) as client:
        while time.monotonic() < until:
            assert process.poll() is None, log.read_text()
            try:
                client.send(query("www.example", "A"))
                if client.receive(0.1):
                    return
            except ConnectionRefusedError:
                time.sleep(0.02)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize("rdtype", ["A", "AAAA", "TXT", "MX", "HTTPS", "TYPE65400", "NS", "CAA"])
@pytest.mark.parametrize("edns", [None, Edns(), Edns(do=True)])
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_answers_are_unbounds_own(both: Both, rdtype: str, edns: Edns | None, tcp: bool) -> None:
    """The same records and rcode as when unbound is asked, fresh and cached, but for AA."""
    name = {"TXT": "text", "MX": "mail", "HTTPS": "service", "TYPE65400": "opaque"}.get(rdtype, "www") + ".example"
    expected = ask(both.unbound, name, rdtype, edns=edns, tcp=tcp)
    for _ in range(2):
        response = ask(both.service.dns, name, rdtype, edns=edns, tcp=tcp)
        assert response.rcode == expected.rcode
        assert sorted(record.rdata for record in response.answer) == sorted(record.rdata for record in expected.answer)
        assert not response.flags & (AA | AD | TC)
        assert all(290 <= record.ttl <= 300 for record in response.answer)


def test_nxdomain_passes_with_its_soa(both: Both) -> None:
    """RFC 2308 3: and is kept no longer than the SOA's MINIMUM of 120 s."""
    for _ in range(2):
        response = ask(both.service.dns, "missing.example", "A")
        assert response.rcode == NXDOMAIN
        assert response.soa is not None
        assert response.soa.ttl <= 300


def test_a_large_answer_is_fetched_over_tcp(both: Both) -> None:
    """RFC 7766 5: 120 addresses are more than 1232 octets."""
    first = ask(both.service.dns, "many.example", "A", edns=Edns())
    assert first.flags & TC
    for _ in range(2):
        assert len(ask(both.service.dns, "many.example", "A", tcp=True).addresses) == 120


def test_the_policy_holds_before_a_real_resolver(both: Both) -> None:
    server = both.service.dns
    for name in ("www." + LISTED, "alias.example", LISTED):
        check_sinkholed(ask(server, name, "A", source=MANAGED, edns=Edns()))
    for name in ("www." + LISTED, "alias.example"):
        assert "192.0.2.66" in ask(server, name, "A", source=EXEMPT).addresses or name == "alias.example"
    assert ask(server, "alias.example", "A", source=EXEMPT).texts[0].endswith("CNAME www.banned.example.")


def test_unbounds_refusal_is_no_data(both: Both) -> None:
    """What unbound refuses (RD=0 for a name it has not cached is such a case, but dnsfilter asks with RD=1)."""
    response = ask(both.service.dns, "version.bind", "TXT", rdclass=3)
    assert not response.answer
    assert response.rcode in (REFUSED, 4)


def test_a_thousand_queries_for_unbounds_names(both: Both) -> None:
    """Under a burst each answer belongs to its query."""
    with UdpClient(both.service.dns) as client:
        for base in range(0, 1000, 100):
            for ident in range(base, base + 100):
                name = "www.example" if ident % 2 else f"missing-{ident}.example"
                client.send(query(name, "A", ident=ident))
            got = client.gather(100)
            assert len(got) == 100
            for ident, octets in got.items():
                response = read(octets)
                assert response.rcode == (0 if ident % 2 else NXDOMAIN)
