"""A real resolver asked over TLS: unbound with a certificate of its own and data of its own, started by the tests."""

import asyncio
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

import pytest
import trustme
import uvloop

from dnsfilter.core.wire import build
from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.stream import StreamPool
from dnsfilter.upstream.tls import Tls
from tests.core.make import question, response, texts
from tests.programs import free_port, need
from tests.scenarios.client import NXDOMAIN, SERVFAIL, Edns, UdpClient, ask, query, read
from tests.scenarios.expect import EXEMPT, LISTED, MANAGED, check_sinkholed, exemption, policy, where
from tests.scenarios.service import Service, eventually
from tests.scenarios.upstream import Upstream, nodata
from tests.upstream.test_stream import Told

START_S = 10.0
NAME = "dns.example"

UNBOUND = """
server:
    interface: 127.0.0.1@{port}
    tls-port: {port}
    tls-service-pem: "{directory}/server.pem"
    tls-service-key: "{directory}/server.key"
    access-control: 127.0.0.0/8 allow
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: ""
    use-syslog: no
    logfile: ""
    do-daemonize: no
    do-ip6: no
    log-queries: yes
    num-threads: 1
    module-config: "iterator"
    incoming-num-tcp: 20
    tcp-idle-timeout: 30000
    local-zone: "example." static
    local-data: "example. 300 IN SOA ns.example. host.example. 1 3600 600 86400 120"
    local-data: "www.example. 300 IN A 192.0.2.1"
    local-data: "www.example. 300 IN AAAA 2001:db8::1"
    local-data: "www.banned.example. 300 IN A 192.0.2.66"
    local-data: "alias.example. 300 IN CNAME www.banned.example."
{many}
remote-control:
    control-enable: no
"""


class Unbound:
    """unbound, which speaks DNS over TLS and nothing else on its port. It may be stopped and started again."""

    def __init__(self, directory: Path, *names: str) -> None:
        """names: what its certificate is for."""
        self._program = need("unbound", "unbound")
        self._directory = directory
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        certificate = authority.issue_cert(*names)
        certificate.private_key_pem.write_to_path(str(directory / "server.key"))
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(directory / "server.pem"), append=True)
        self.port = free_port()
        many = "".join(f'    local-data: "many.example. 300 IN A 198.51.100.{n}"\n' for n in range(1, 121))
        self._config = directory / "unbound.conf"
        self._config.write_text(UNBOUND.format(port=self.port, directory=directory, many=many))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [self._program, "-d", "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ,
            )
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            assert self._process.poll() is None, self._log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
            except ConnectionRefusedError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(self._log.read_text())

    @property
    def upstream(self) -> str:
        """It as an upstream in a configuration."""
        return f"tls://127.0.0.1:{self.port}#{NAME}"

    def was_asked(self, name: str) -> bool:
        """Whether a query for this name, or one below, has come."""
        return f"{name}. " in self._log.read_text()

    def stop(self) -> None:
        """Stop it: who connects now is refused."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


@pytest.fixture(scope="module")
def unbound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unbound]:
    with Unbound(tmp_path_factory.mktemp("unbound"), NAME, "127.0.0.1") as started:
        yield started


class Asker:
    """A pool to one server, as long as a test's loop runs."""

    def __init__(self, port: int, tls: Tls | None) -> None:
        self.told = Told()
        self.pool = StreamPool[int](
            "127.0.0.1", port, asyncio.get_running_loop(), self.told, Hosts(()), tls, idle_s=0.3
        )
        self._count = 0

    def begin(self, name: str, rtype: str = "A") -> int:
        """Ask, and go on."""
        asked = question(name, rtype)
        token, self._count = self._count, self._count + 1
        self.pool.send(build.upstream_query(asked, cd=False, do=False, edns=True), asked, token)
        return token

    async def all(self) -> Told:
        """Wait for everything that was asked."""
        await self.told.wait(self._count, 10.0)
        return self.told


@pytest.mark.parametrize("name", [NAME, "127.0.0.1"])
def test_answers_come_over_tls_many_on_one_connection(unbound: Unbound, name: str) -> None:
    async def work() -> None:
        asker = Asker(unbound.port, Tls(name, str(unbound.ca_file)))
        wanted = {asker.begin("www.example"): "www.example. 300 IN A 192.0.2.1"}
        wanted |= {asker.begin("www.example", "AAAA"): "www.example. 300 IN AAAA 2001:db8::1" for _ in range(150)}
        large, missing = asker.begin("many.example"), asker.begin("missing.example")
        told = await asker.all()
        assert not told.failures
        for token, text in wanted.items():
            assert texts(told.answers[token]) == [text]
        assert len(texts(told.answers[large])) == 120
        assert told.answers[missing][3] & 15 == 3
        assert len(asker.pool._connections) == 1
        asker.pool.close()

    asyncio.run(work())


def test_a_second_connection_is_resumed(unbound: Unbound) -> None:
    async def work() -> None:
        tls = Tls(NAME, str(unbound.ca_file))
        asker = Asker(unbound.port, tls)
        reused = []
        for _ in range(3):
            asker.begin("www.example")
            told = await asker.all()
            [connection] = asker.pool._connections
            reused.append(connection._transport.get_extra_info("ssl_object").session_reused)
            while asker.pool._connections:
                await asyncio.sleep(0.05)
        assert not told.failures
        assert reused == [False, True, True]

    uvloop.run(work())


def test_a_restart_in_between_is_not_noticed_by_those_who_ask(tmp_path: Path) -> None:
    async def work() -> None:
        with Unbound(tmp_path, NAME) as server:
            asker = Asker(server.port, Tls(NAME, str(server.ca_file)))
            asker.begin("www.example")
            await asker.all()
            server.stop()
            server.start()
            for _ in range(10):
                asker.begin("www.example")
            told = await asker.all()
            assert not told.failures
            server.stop()
            asker.begin("www.example")
            assert list((await asker.all()).failures.values()) == ["unreachable"]
            server.start()
            last = asker.begin("www.example")
            assert last in (await asker.all()).answers
            asker.pool.close()

    uvloop.run(work())


@pytest.mark.parametrize(
    ("name", "has_file"),
    [pytest.param("other.example", True, id="another name"), pytest.param(NAME, False, id="an authority nobody knows")],
)
def test_a_server_that_is_not_the_right_one_is_asked_nothing(unbound: Unbound, name: str, *, has_file: bool) -> None:
    async def work() -> None:
        asker = Asker(unbound.port, Tls(name, str(unbound.ca_file) if has_file else None))
        for _ in range(3):
            asker.begin("www.example")
        told = await asker.all()
        assert set(told.failures.values()) == {"tls"}
        asker.pool.close()

    asyncio.run(work())


def test_a_server_of_tls_asked_in_plain_tcp_gives_no_answer(unbound: Unbound) -> None:
    async def work() -> None:
        asker = Asker(unbound.port, None)
        asker.begin("www.example")
        assert list((await asker.all()).failures.values()) == ["tcp"]
        asker.pool.close()

    asyncio.run(work())


# The whole service before it


@pytest.fixture(scope="module")
def service(unbound: Unbound, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("before"), before(unbound.ca_file, unbound.upstream)) as started:
        yield started


def before(ca_file: Path, *upstreams: str, **more: Any) -> dict[str, Any]:
    """The shared policy with encrypted upstreams."""
    register = {"regime": "registered", "entries": [exemption("EX-1", ["127.0.1.64/28"], ["ban"])]}
    resolve = {"ca_file": str(ca_file), **more}
    return policy(upstreams=list(upstreams), exemptions=register, resolve=resolve)


@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_clients_get_answers_that_came_over_tls(service: Service, *, tcp: bool) -> None:
    for _ in range(2):
        assert ask(service.dns, "www.example", "A", tcp=tcp).addresses == ["192.0.2.1"]
        assert ask(service.dns, "www.example", "AAAA", tcp=tcp).addresses == ["2001:db8::1"]
        assert ask(service.dns, "missing.example", "A", tcp=tcp).rcode == NXDOMAIN
    assert len(ask(service.dns, "many.example", "A", tcp=True).addresses) == 120


def test_many_questions_at_once_are_answered_each_with_its_own(service: Service) -> None:
    with UdpClient(service.dns) as client:
        for ident in range(300):
            client.send(query(f"missing-{ident}.example", "A", ident=ident))
        got = client.gather(300)
    assert len(got) == 300
    assert {read(octets).rcode for octets in got.values()} == {NXDOMAIN}


def test_the_policy_comes_first_and_nothing_of_what_it_blocks_is_sent(service: Service, unbound: Unbound) -> None:
    check_sinkholed(ask(service.dns, "deep.in." + LISTED, "A", source=MANAGED, edns=Edns()))
    check_sinkholed(ask(service.dns, "alias.example", "A", source=MANAGED, edns=Edns()))
    assert ask(service.dns, "www." + LISTED, "A", source=EXEMPT).addresses == ["192.0.2.66"]
    assert unbound.was_asked("www." + LISTED)
    assert not unbound.was_asked("deep.in." + LISTED)


def test_an_upstream_that_goes_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "unbound").mkdir()
    (tmp_path / "before").mkdir()
    with (
        Unbound(tmp_path / "unbound", NAME) as server,
        Service(tmp_path / "before", before(server.ca_file, server.upstream)) as service,
    ):
        assert ask(service.dns, "a.example", "A").rcode == NXDOMAIN
        server.stop()
        server.start()
        assert ask(service.dns, "b.example", "A").rcode == NXDOMAIN, "the next connection is opened at once"
        server.stop()
        assert ask(service.dns, "c.example", "A", timeout_s=6.0).rcode == SERVFAIL
        server.start()
        numbers = count()
        eventually(
            "answers again", lambda: ask(service.dns, f"d{next(numbers)}.example", "A", timeout_s=6.0).rcode == NXDOMAIN
        )


class Impostor:
    """Takes the place of an upstream on UDP and TCP, with a certificate or without, and notes what it is told.

    Over TLS it answers every query with NXDOMAIN and closes after each: the next needs another connection.
    """

    def __init__(self, directory: Path, *names: str) -> None:
        """names: of its certificate; none: it speaks no TLS."""
        authority = trustme.CA()
        self.ca_file = directory / "impostor-ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self._context: ssl.SSLContext | None = None
        if names:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(*names).configure_cert(self._context)
        self.first_octets: list[bytes] = []  # of each TCP connection
        self.datagrams: list[bytes] = []
        self.queries: list[bytes] = []  # that came over TLS
        self.reused: list[bool] = []  # of each TLS connection
        self._udp, self._tcp = _pair()
        self.port: int = self._tcp.getsockname()[1]
        self._threads = [Thread(target=each, daemon=True) for each in (self._read, self._accept)]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for each in (self._udp, self._tcp):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits there
            each.close()
        for thread in self._threads:
            thread.join(5.0)

    @property
    def upstream(self) -> str:
        """It as an upstream in a configuration, under the name of another."""
        return f"tls://127.0.0.1:{self.port}#{NAME}"

    def _read(self) -> None:
        with suppress(OSError):
            while octets := self._udp.recv(65_535):
                self.datagrams.append(octets)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._tcp.accept()
                connection.settimeout(5.0)
                with connection, suppress(OSError):
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        self.first_octets.append(connection.recv(3, socket.MSG_PEEK))
        if self._context is None:
            connection.recv(65_535)
            return
        with self._context.wrap_socket(connection, server_side=True) as tls:
            self.reused.append(bool(tls.session_reused))
            length = int.from_bytes(tls.recv(2), "big")
            octets = tls.recv(length)
            self.queries.append(octets)
            message = response(octets, authority=["example 60 IN SOA ns.example h.example 1 2 3 4 60"], rcode=NXDOMAIN)
            tls.sendall(len(message).to_bytes(2, "big") + message)
            tls.shutdown(socket.SHUT_WR)
            while tls.recv(65_535):  # else the kernel resets the connection, and the answer may be lost with it
                pass


def _pair() -> tuple[socket.socket, socket.socket]:
    """A port for UDP and TCP."""
    while True:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:  # taken for UDP
            tcp.close()
            udp.close()
        else:
            return udp, tcp


@pytest.mark.parametrize(
    "names",
    [pytest.param(("other.example",), id="another name"), pytest.param((), id="no TLS at all")],
)
def test_who_cannot_prove_its_name_is_told_nothing_not_even_in_plain_text(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    """RFC 8310 section 5, strict: better no answer."""
    with (
        Impostor(tmp_path, *names) as impostor,
        Service(tmp_path, before(impostor.ca_file, impostor.upstream)) as service,
    ):
        for number in range(3):
            assert ask(service.dns, f"secret{number}.example", "A", timeout_s=6.0).rcode == SERVFAIL
        assert service.metric("dnsfilter_upstream_failures_total", reason="tls") >= 3
        assert ("not for dns.example" if names else "the TLS handshake") in service.output
        assert len(impostor.first_octets) >= 3
        assert {octets[:2] for octets in impostor.first_octets} == {b"\x16\x03"}, "the start of a TLS handshake"
        assert not impostor.datagrams
        assert not impostor.queries


def test_beside_one_that_cannot_prove_its_name_the_other_serves(tmp_path: Path, unbound: Unbound) -> None:
    with Impostor(tmp_path, NAME) as impostor:  # the right name, signed by nobody we trust
        upstreams = (impostor.upstream, unbound.upstream)
        with Service(tmp_path, before(unbound.ca_file, *upstreams)) as service:
            for number in range(5):
                assert ask(service.dns, f"other{number}.example", "A", timeout_s=6.0).rcode == NXDOMAIN
            assert ask(service.dns, "www.example", "A").addresses == ["192.0.2.1"]
            assert service.metric("dnsfilter_upstream_failures_total", reason="tls") >= 3
        assert not impostor.queries
        assert not impostor.datagrams


def test_queries_are_padded_and_the_handshakes_short(tmp_path: Path) -> None:
    """RFC 8467 section 4.1; each answer is followed by a close, so that each query needs a connection."""
    with (
        Impostor(tmp_path, NAME) as server,
        Service(tmp_path, before(server.ca_file, server.upstream)) as service,
    ):
        for number in range(5):
            assert ask(service.dns, f"{'n' * 10 * number}x.example", "A").rcode == NXDOMAIN
        assert not server.datagrams
        assert {len(octets) % 128 for octets in server.queries} == {0}
        assert not server.reused[0]
        assert server.reused.count(True) >= 4


def test_an_upstream_may_be_named_and_is_looked_up_at_the_bootstrap_resolver(tmp_path: Path, unbound: Unbound) -> None:
    with Upstream() as resolver:
        resolver.on(NAME, "dns.example. 60 IN A 127.0.0.1", "A")
        resolver.on(NAME, nodata, "AAAA")
        named, bootstrap = f"tls://{NAME}:{unbound.port}", [where(resolver.address)]
        with Service(tmp_path, before(unbound.ca_file, named, bootstrap=bootstrap)) as service:
            assert ask(service.dns, "www.example", "A").addresses == ["192.0.2.1"]
            assert ask(service.dns, "missing.example", "A").rcode == NXDOMAIN
        assert {asked.name for asked in resolver.queries()} == {"dns.example."}, "nothing else goes out in plain text"


@pytest.mark.parametrize("is_same_file", [False, True], ids=["another file", "the same file with other content"])
def test_a_reload_takes_another_authority_into_use(tmp_path: Path, unbound: Unbound, *, is_same_file: bool) -> None:
    file = tmp_path / "trusted.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    with Service(tmp_path, before(file, unbound.upstream)) as service:
        assert ask(service.dns, "www.example", "A", timeout_s=6.0).rcode == SERVFAIL
        if is_same_file:
            file.write_bytes(unbound.ca_file.read_bytes())
        else:
            service.configure(before(unbound.ca_file, unbound.upstream))
        done = service.command("reload")
        assert done.returncode == 0, done.stderr
        numbers = count()
        eventually(
            "the new authority counts",
            lambda: ask(service.dns, f"r{next(numbers)}.example", "A", timeout_s=6.0).rcode == NXDOMAIN,
        )


def test_one_that_takes_connections_and_says_nothing_costs_the_deadline_and_no_more(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        Service(tmp_path, before(authority, f"tls://127.0.0.1:{mute.getsockname()[1]}")) as service,
    ):
        begun = time.monotonic()
        assert ask(service.dns, "www.example", "A", timeout_s=8.0).rcode == SERVFAIL
        assert time.monotonic() - begun < 6.0
        check_sinkholed(ask(service.dns, LISTED, "A", source=MANAGED, edns=Edns(), timeout_s=0.5))
