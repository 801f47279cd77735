"""Real DNS over HTTPS servers as upstreams: dnsdist and Knot Resolver, started by the tests."""

import asyncio
import os
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype
import pytest
import uvloop

from dnsfilter.core.names import from_text
from dnsfilter.core.wire import build
from dnsfilter.upstream.doh import DohPool
from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.tls import Tls
from tests.programs import free_port, need
from tests.scenarios.client import NXDOMAIN, SERVFAIL, TC, Edns, ask
from tests.scenarios.conftest import Start
from tests.scenarios.expect import LISTED, MANAGED, UNMANAGED, check_sinkholed, nothing_of, policy, where
from tests.scenarios.service import Service, eventually
from tests.scenarios.upstream import Asked, Upstream, reply
from tests.upstream.doh_server import NAME, Certificates, DohServer, Request, Script, right, silence

START_S = 10.0
LONG_S = 20.0
PATH = "/dns-query"

DNSDIST = """
setACL({{"127.0.0.0/8"}})
setSecurityPollSuffix("")
setLocal("127.0.0.1:{plain}")
addDOHLocal("127.0.0.1:{port}", "{chain}", "{key}", {{"/dns-query"}}, {{idleTimeout={idle_s}}})
newServer({{address="{upstream}", healthCheckMode="up"}})
addAction("busy.example.", HTTPStatusAction(503, "later", "text/plain"))
addAction("moved.example.", HTTPStatusAction(307, "https://127.0.0.1:{port}/elsewhere", "text/plain"))
addAction("spoofed.example.", SpoofAction({{"192.0.2.7"}}))
"""

KRESD = """
net.listen('127.0.0.1', {port}, {{ kind = 'doh2' }})
net.tls('{chain}', '{key}')
net.tcp_in_idle({idle_s} * 1000)
cache.size = 10 * MB
trust_anchors.remove('.')
policy.add(policy.all(policy.STUB('{upstream_at}')))
"""


def dnsdist(directory: Path) -> list[str]:
    return [need("dnsdist", "dnsdist"), "--supervised", "--disable-syslog", "-C", str(directory / "config")]


def kresd(directory: Path) -> list[str]:
    return [need("kresd", "knot-resolver"), "-n", "-c", str(directory / "config"), str(directory)]


PEERS = {"dnsdist": (DNSDIST, dnsdist), "kresd": (KRESD, kresd)}


class Peer:
    """A DNS over HTTPS server before a scripted upstream; use it as a context manager, more than once if need be."""

    def __init__(self, kind: str, directory: Path, upstream: Upstream, idle_s: int = 30) -> None:
        self.certificates = Certificates(directory)
        chain, key = self.certificates.write(directory, NAME)
        self.port = free_port()
        config, command = PEERS[kind]
        host, port = upstream.address
        text = config.format(
            port=self.port,
            plain=free_port(),
            chain=chain,
            key=key,
            upstream=f"{host}:{port}",
            upstream_at=f"{host}@{port}",
            idle_s=idle_s,
        )
        (directory / "config").write_text(text)
        self._words = command(directory)
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """It as an upstream in the configuration."""
        return f"https://127.0.0.1:{self.port}{PATH}#{NAME}"

    def __enter__(self) -> "Peer":
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ
            )
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            assert self._process.poll() is None, self._log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except ConnectionRefusedError:
                time.sleep(0.02)
            else:
                return self
        raise AssertionError(self._log.read_text())

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module", params=list(PEERS))
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Peer, Upstream]]:
    with Upstream() as upstream, Peer(request.param, tmp_path_factory.mktemp("peer"), upstream) as running:
        yield running, upstream


@dataclass
class Asking:
    """Who asks a pool, and waits."""

    pool: DohPool["asyncio.Future[bytes | str]"]

    async def ask(self, name: str, rdtype: str = "A") -> dns.message.Message | str:
        """Return the response, or the reason for having none."""
        question = from_text(name) + int(dns.rdatatype.from_text(rdtype)).to_bytes(2, "big") + b"\0\1"
        outcome: asyncio.Future[bytes | str] = asyncio.get_running_loop().create_future()
        self.pool.send(build.upstream_query(question, cd=False, do=False, edns=True), question, outcome)
        async with asyncio.timeout(LONG_S):
            told = await outcome
        return told if isinstance(told, str) else dns.message.from_wire(told)


class Told:
    """Hands on what becomes of a query."""

    def on_answer(self, token: "asyncio.Future[bytes | str]", octets: bytes) -> None:
        token.set_result(octets)

    def on_failed(self, token: "asyncio.Future[bytes | str]", reason: str) -> None:
        token.set_result(reason)

    def on_batch_end(self) -> None:
        """Nothing is left to do."""


@asynccontextmanager
async def asking(peer: Peer, server_name: str = NAME, path: str = PATH) -> AsyncIterator[Asking]:
    tls = Tls(server_name, peer.certificates.ca_file, ("h2",))
    loop = asyncio.get_running_loop()
    pool = DohPool["asyncio.Future[bytes | str]"](
        "127.0.0.1", peer.port, path, loop, Told(), Hosts(()), tls, authority=server_name
    )
    try:
        yield Asking(pool)
    finally:
        pool.close()
        await asyncio.sleep(0.05)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def records(told: dns.message.Message | str) -> list[str]:
    assert isinstance(told, dns.message.Message), told
    return sorted(rdata.to_text() for rrset in told.answer for rdata in rrset)


def test_answers_are_the_upstreams_own(peer: tuple[Peer, Upstream]) -> None:
    server, upstream = peer
    upstream.on("www.example", ["www.example 300 IN A 192.0.2.1", "www.example 300 IN A 192.0.2.2"], "A")
    upstream.on("www.example", ["www.example 300 IN AAAA 2001:db8::1"], "AAAA")
    upstream.on("missing.example", lambda asked: reply(asked, rcode=3))

    async def work() -> None:
        async with asking(server) as client:
            assert records(await client.ask("www.example")) == ["192.0.2.1", "192.0.2.2"]
            assert records(await client.ask("www.example", "AAAA")) == ["2001:db8::1"]
            told = await client.ask("missing.example")
            assert isinstance(told, dns.message.Message)
            assert told.rcode() == 3

    run(work)


def test_a_long_answer_arrives_whole(peer: tuple[Peer, Upstream]) -> None:
    server, upstream = peer
    texts = [f"{number:03}{'x' * 240}" for number in range(80)]
    upstream.on("long.example", [f'long.example 300 IN TXT "{text}"' for text in texts])

    async def work() -> None:
        async with asking(server) as client:
            assert records(await client.ask("long.example", "TXT")) == [f'"{text}"' for text in texts]

    run(work)


def test_a_thousand_queries_at_once_each_get_their_own_answer(peer: tuple[Peer, Upstream]) -> None:
    server, upstream = peer

    def own(asked: Asked) -> bytes:
        if not asked.name.endswith(".many.example."):  # a question of the server's own
            return reply(asked)
        number = int(asked.name.partition(".")[0][1:])
        return reply(asked, f"{asked.name} 300 IN A 198.51.{number // 256}.{number % 256}")

    async def work() -> None:
        async with asking(server) as client:
            for base in range(0, 1_000, 500):
                numbers = range(base, base + 500)
                told = await asyncio.gather(*(client.ask(f"n{number}.many.example") for number in numbers))
                assert [records(each) for each in told] == [[f"198.51.{n // 256}.{n % 256}"] for n in numbers]

    upstream.otherwise(own)
    run(work)


def test_a_wrong_name_in_its_certificate_is_tls_and_nothing_is_asked(peer: tuple[Peer, Upstream]) -> None:
    server, upstream = peer

    async def work() -> None:
        async with asking(server, "other.example") as client:
            assert await client.ask("secret.example") == "tls"

    run(work)
    assert not upstream.queries("secret.example")


def test_a_path_that_is_not_there_is_http(peer: tuple[Peer, Upstream]) -> None:
    server, _ = peer

    async def work() -> None:
        async with asking(server, path="/elsewhere") as client:
            assert [await client.ask("www.example") for _ in range(3)] == ["http"] * 3

    run(work)


@pytest.mark.parametrize("kind", PEERS)
def test_a_server_may_close_idle_connections_and_restart(kind: str, tmp_path: Path) -> None:
    """What is asked next goes out on another connection, and nobody notices."""
    with Upstream() as upstream:
        upstream.on("www.example", ["www.example 1 IN A 192.0.2.1"])
        server = Peer(kind, tmp_path, upstream, idle_s=1)

        async def work() -> None:
            async with asking(server) as client:
                with server:
                    assert records(await client.ask("www.example")) == ["192.0.2.1"]
                    await asyncio.sleep(2.5)
                    assert records(await client.ask("www.example")) == ["192.0.2.1"]
                with server:
                    assert records(await client.ask("www.example")) == ["192.0.2.1"]
                assert await client.ask("www.example") in ("unreachable", "tcp")

        run(work)


@pytest.mark.parametrize("name", ["busy.example", "moved.example"], ids=["503", "307"])
def test_an_http_error_is_http(name: str, tmp_path: Path) -> None:
    with Upstream() as upstream, Peer("dnsdist", tmp_path, upstream) as server:

        async def work() -> None:
            async with asking(server) as client:
                assert await client.ask(name) == "http"
                assert records(await client.ask("spoofed.example")) == ["192.0.2.7"]

        run(work)


# The whole product


def settings(server: Peer, *others: Upstream, **resolve: str) -> dict[str, Any]:
    """The policy of all scenarios, with this server as its first upstream."""
    urls = [server.url, *(where(other.address) for other in others)]
    return policy(upstreams=urls, resolve={"ca_file": server.certificates.ca_file, **resolve})


def failures(service: Service, reason: str) -> float:
    return service.metric("dnsfilter_upstream_failures_total", reason=reason)


@pytest.mark.parametrize("kind", PEERS)
def test_clients_get_what_the_upstream_says_and_listed_names_never_go_there(
    kind: str, start: Start, tmp_path: Path
) -> None:
    texts = [f"{number:03}{'x' * 240}" for number in range(20)]
    with Upstream() as upstream, Peer(kind, tmp_path, upstream) as server:
        upstream.on("www.example", "www.example 300 IN A 192.0.2.1", "A")
        upstream.on("alias.example", "alias.example 300 IN CNAME www.banned.example", "A")
        upstream.on("missing.example", lambda asked: reply(asked, rcode=NXDOMAIN))
        upstream.on("long.example", [f'long.example 300 IN TXT "{text}"' for text in texts])
        service = start(settings(server))
        for source in (MANAGED, UNMANAGED):
            assert ask(service.dns, "www.example", "A", source=source).addresses == ["192.0.2.1"]
            assert ask(service.dns, "missing.example", "A", source=source).rcode == NXDOMAIN
        assert ask(service.dns, "long.example", "TXT", edns=Edns()).flags & TC
        assert len(ask(service.dns, "long.example", "TXT", tcp=True).answer) == len(texts)
        for name in (LISTED, "www." + LISTED):
            check_sinkholed(ask(service.dns, name, "A", source=MANAGED, edns=Edns()))
        nothing_of([LISTED], upstream)
        check_sinkholed(ask(service.dns, "alias.example", "A", source=MANAGED, edns=Edns()))
        assert len(upstream.queries("www.example")) == 1
        assert not service.metric("dnsfilter_upstream_failures_total")


@pytest.mark.parametrize("name", ["busy.example", "moved.example"], ids=["503", "307"])
def test_an_http_error_makes_the_other_upstream_answer(name: str, start: Start, tmp_path: Path) -> None:
    with Upstream() as behind, Upstream() as other, Peer("dnsdist", tmp_path, behind) as server:
        other.on(name, f"{name} 300 IN A 192.0.2.2")
        service = start(settings(server, other))
        begun = time.monotonic()
        assert ask(service.dns, name, "A").addresses == ["192.0.2.2"]
        assert time.monotonic() - begun < 0.5, "no time-out was waited for"
        assert failures(service, "http") == 1
        assert "HTTP status" in service.output


def test_an_http_error_of_the_only_upstream_is_servfail(start: Start, tmp_path: Path) -> None:
    with Upstream() as behind, Peer("dnsdist", tmp_path, behind) as server:
        service = start(settings(server))
        response = ask(service.dns, "busy.example", "A", edns=Edns())
        assert response.rcode == SERVFAIL
        assert failures(service, "http") >= 1
        assert ask(service.dns, "spoofed.example", "A").addresses == ["192.0.2.7"]


def test_an_upstream_with_a_certificate_for_another_name_is_told_nothing(start: Start, tmp_path: Path) -> None:
    with Upstream() as behind, Peer("dnsdist", tmp_path, behind) as server:
        config = settings(server)
        config["upstreams"] = [server.url.replace(NAME, "other.example")]
        service = start(config)
        assert ask(service.dns, "secret.example", "A").rcode == SERVFAIL
        assert failures(service, "tls") >= 1
        assert f"its certificate is for {NAME}, not for other.example" in service.output
        assert not behind.queries("secret.example")


def test_the_upstream_may_restart(start: Start, tmp_path: Path) -> None:
    with Upstream() as behind:
        server = Peer("dnsdist", tmp_path, behind)
        with server:
            service = start(settings(server))
            assert ask(service.dns, "a.spoofed.example", "A").addresses == ["192.0.2.7"]
        assert ask(service.dns, "b.spoofed.example", "A").rcode == SERVFAIL
        with server:
            eventually(
                "the upstream is asked again",
                lambda: ask(service.dns, f"{time.monotonic_ns()}.spoofed.example", "A").addresses == ["192.0.2.7"],
            )


class Scripted:
    """A scripted server on a loop of its own; use it as a context manager."""

    def __init__(self, directory: Path, script: Script, *, host: str = "127.0.0.1", name: str = NAME) -> None:
        """name: what its certificate is for."""
        self.certificates = Certificates(directory)
        self.server = DohServer(script, host=host)
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        """It as an upstream in the configuration."""
        host = f"[{self.server.host}]" if ":" in self.server.host else self.server.host
        return f"https://{host}:{self.server.port}{PATH}" + (f"#{NAME}" if self._name == NAME else "")

    def __enter__(self) -> "Scripted":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.server.start(self.certificates.context(self._name)), self._loop).result(
            10
        )
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.mark.parametrize(
    ("host", "name", "authority"),
    [
        pytest.param("127.0.0.1", NAME, f"{NAME}:{{port}}", id="a name"),
        pytest.param("127.0.0.1", "127.0.0.1", "127.0.0.1:{port}", id="an address"),
        pytest.param("::1", "::1", "[::1]:{port}", id="an IPv6 address"),
    ],
)
def test_the_request_names_the_host_as_the_url_does(
    start: Start, tmp_path: Path, host: str, name: str, authority: str
) -> None:
    """RFC 3986 section 3.2.2: an IPv6 address is in brackets."""
    with Scripted(tmp_path, right, host=host, name=name) as scripted:
        service = start(policy(upstreams=[scripted.url], resolve={"ca_file": scripted.certificates.ca_file}))
        assert ask(service.dns, "www.example", "A").addresses == ["192.0.2.1"]
        headers = dict(scripted.server.requests[0].headers)
        assert headers[":authority"] == authority.format(port=scripted.server.port)
        assert headers[":path"] == PATH


def endless(request: Request) -> None:
    """Send a body that never ends, as fast as it is taken."""
    request.begin()

    def more() -> None:
        connection = request.connection
        if connection.is_lost or request.stream in connection.resets:
            return
        if not connection.unsent:
            request.data(bytes(8_000))
        connection.flush()
        asyncio.get_running_loop().call_later(0.001, more)

    more()


def dripping(request: Request) -> None:
    """Send a body that never ends, an octet at a time."""
    request.begin()

    def more() -> None:
        if not request.connection.is_lost and request.stream not in request.connection.resets:
            request.data(b"x")
            asyncio.get_running_loop().call_later(0.1, more)

    more()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param(endless, "http", id="as fast as can be"),
        pytest.param(dripping, "timeout", id="an octet at a time"),
        pytest.param(silence, "timeout", id="nothing"),
    ],
)
def test_a_body_without_an_end_is_servfail_within_the_deadline(
    start: Start, tmp_path: Path, script: Script, reason: str
) -> None:
    with Scripted(tmp_path, script) as server:
        resolve = {"ca_file": server.certificates.ca_file, "timeout": "0.5s", "deadline": "1s"}
        service = start(policy(upstreams=[server.url], resolve=resolve))
        begun = time.monotonic()
        assert ask(service.dns, "www.example", "A").rcode == SERVFAIL
        assert time.monotonic() - begun < 1.5
        assert failures(service, reason) >= 1
