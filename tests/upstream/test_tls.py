"""TLS to upstreams: who is believed, what is said of the others, and the short handshake of those that know us."""

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.stream import WARN_S, StreamPool
from dnsfilter.upstream.tls import VERIFIED_S, Tls
from tests.upstream.loop import JumpingLoop
from tests.upstream.test_stream import Bench, Connection, Server, Told, answer, descriptors, honest

NAME = "dns.example"
Loop = Callable[[], asyncio.AbstractEventLoop]
LOOPS: list[Any] = [
    pytest.param(JumpingLoop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]


@dataclass(frozen=True)
class Authority:
    """One that we trust, and one that nobody knows."""

    ca_file: str
    own: trustme.CA
    stranger: trustme.CA

    def context(self, *names: str, by: trustme.CA | None = None, **more: Any) -> ssl.SSLContext:
        """A server's context, with a certificate for these names."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (by or self.own).issue_cert(*names, **more).configure_cert(made)
        return made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    own = trustme.CA()
    own.cert_pem.write_to_path(str(path))
    return Authority(str(path), own, trustme.CA())


def with_tls(
    check: Callable[[Bench], Awaitable[None]],
    tls: Tls,
    server_context: ssl.SSLContext | None,
    script: Callable[[Connection], Awaitable[None]] = honest,
    loop: Loop = JumpingLoop,
    **more: Any,
) -> None:
    """Run a check with a TLS server (None: a plain one) and a pool that speaks TLS to it."""

    async def work() -> None:
        # A handshake that we break off is an error to the server.
        asyncio.get_running_loop().set_exception_handler(expected)
        told = Told()
        server = await Server(script).start(ssl=server_context)
        before = descriptors()
        pool = StreamPool[int]("127.0.0.1", server.port, asyncio.get_running_loop(), told, Hosts(()), tls, **more)
        try:
            await check(Bench(server, pool, told))
        finally:
            pool.close()
            await server.stop()
        assert descriptors() < before, "sockets are left open"

    faults: list[object] = []

    def expected(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), OSError):
            faults.append(context.get("exception") or context)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(work())
    assert not faults, faults


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", [NAME, "127.0.0.1"], ids=["by its name", "by its address"])
def test_queries_go_over_tls_padded(authority: Authority, name: str, loop: Loop) -> None:
    """RFC 7858, with the block length of RFC 8467."""
    said: list[str | None] = []

    async def check(bench: Bench) -> None:
        tokens = bench.ask(20)
        await bench.told.wait(20)
        bench.check(tokens)
        assert {len(octets) for _, octets in bench.server.asked} == {128}
        assert bench.server.connections == 1
        assert said == ["dot"]

    async def script(connection: Connection) -> None:
        said.append(connection.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await honest(connection)

    context = authority.context(name)
    context.set_alpn_protocols(["dot"])
    with_tls(check, Tls(name, authority.ca_file), context, script, loop)


def test_a_server_that_knows_no_alpn_serves_too(authority: Authority) -> None:
    with_tls(answered, Tls(NAME, authority.ca_file), authority.context(NAME))


async def answered(bench: Bench) -> None:
    tokens = bench.ask(3)
    await bench.told.wait(3)
    bench.check(tokens)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("loop", LOOPS)
def test_the_second_connection_resumes_the_first(authority: Authority, version: ssl.TLSVersion, loop: Loop) -> None:
    reused: list[bool | None] = []

    async def check(bench: Bench) -> None:
        for number in range(1, 4):
            bench.ask()
            await bench.told.wait(number)
            while bench.pool._connections:
                await asyncio.sleep(0.05)
        bench.check(range(3))
        assert reused == [False, True, True]

    context = authority.context(NAME)
    context.minimum_version = context.maximum_version = version
    with_tls(check, Tls(NAME, authority.ca_file), context, noting(reused), loop, idle_s=0.05)


def noting(reused: list[bool | None]) -> Callable[[Connection], Awaitable[None]]:
    async def script(connection: Connection) -> None:
        reused.append(connection.writer.get_extra_info("ssl_object").session_reused)
        await honest(connection)

    return script


def test_after_an_hour_the_certificate_is_looked_at_again(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    reused: list[bool | None] = []
    late_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() + late_s)

    async def check(bench: Bench) -> None:
        nonlocal late_s
        for number in range(1, 5):
            bench.ask()
            await bench.told.wait(number)
            await asyncio.sleep(2.0)
            late_s += VERIFIED_S / 2 - 10.0
        assert reused == [False, True, True, False]

    with_tls(check, Tls(NAME, authority.ca_file), authority.context(NAME), noting(reused), idle_s=1.0)


def test_a_server_that_has_forgotten_us_gets_a_whole_handshake(authority: Authority) -> None:
    reused: list[bool | None] = []

    async def check(bench: Bench) -> None:
        bench.ask()
        await bench.told.wait(1)
        await bench.server.stop()
        await bench.server.start(ssl=authority.context(NAME))
        bench.ask()
        await bench.told.wait(2)
        bench.check(range(2))
        assert reused == [False, False]

    with_tls(check, Tls(NAME, authority.ca_file), authority.context(NAME), noting(reused))


def test_another_servers_certificate_counts_even_after_a_session_with_the_right_one(authority: Authority) -> None:
    async def check(bench: Bench) -> None:
        bench.ask()
        await bench.told.wait(1)
        await bench.server.stop()
        await bench.server.start(ssl=authority.context("other.example"))
        bench.ask()
        await bench.told.wait(2)
        assert bench.told.failures == {1: "tls"}
        assert len(bench.server.asked) == 1

    with_tls(check, Tls(NAME, authority.ca_file), authority.context(NAME))


# Who is not believed


def expired() -> dict[str, Any]:
    return {"not_after": datetime(2020, 1, 1, tzinfo=UTC)}


def too_early() -> dict[str, Any]:
    now = datetime.now(UTC)
    return {"not_before": now + timedelta(days=10), "not_after": now + timedelta(days=20)}


def wrong(label: str, said: str, *names: str, **more: Any) -> Any:
    return pytest.param(names, more, said, id=label)


REFUSED = [
    wrong(
        "another name",
        "its certificate is for a.example, b.example, not for dns.example",
        *("a.example", "b.example"),
    ),
    wrong(
        "many other names",
        "is for n0.example, n1.example, n2.example, ..., not for dns.example",
        *(f"n{number}.example" for number in range(9)),
    ),
    wrong("an address", "its certificate is for 127.0.0.1, not for dns.example", "127.0.0.1"),
    wrong("a name below", "is for x.dns.example, not for dns.example", "x.dns.example"),
    wrong("a wildcard for names below", "is for *.dns.example, not for dns.example", "*.dns.example"),
    wrong("expired", "its certificate has expired", NAME, **expired()),
    wrong("not valid yet", "its certificate is not valid yet", NAME, **too_early()),
    wrong("an authority nobody knows", "resolve.ca_file", NAME, by="stranger"),
]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("names", "more", "said"), REFUSED)
def test_a_wrong_certificate_gets_no_query_and_a_word_in_the_log(
    authority: Authority,
    names: tuple[str, ...],
    more: dict[str, Any],
    said: str,
    loop: Loop,
    caplog: pytest.LogCaptureFixture,
) -> None:
    more = dict(more)
    if more.pop("by", None):
        more["by"] = authority.stranger
    port = 0

    async def check(bench: Bench) -> None:
        nonlocal port
        bench.ask(3)
        await bench.told.wait(3)
        assert set(bench.told.failures.values()) == {"tls"}
        assert not bench.server.asked
        port = bench.server.port

    with_tls(check, Tls(NAME, authority.ca_file), authority.context(*names, **more), loop=loop)
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("dnsfilter")]
    assert said in line
    assert line.startswith(f"upstream tls://127.0.0.1:{port}#{NAME} ")


def test_an_address_is_checked_as_strictly_as_a_name(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    with_tls(refused, Tls("127.0.0.1", authority.ca_file), authority.context("127.0.0.2", NAME))
    assert "is for 127.0.0.2, dns.example, not for 127.0.0.1" in caplog.text


async def refused(bench: Bench) -> None:
    bench.ask(2)
    await bench.told.wait(2)
    assert set(bench.told.failures.values()) == {"tls"}
    assert not bench.server.asked


def test_without_a_file_the_authorities_of_the_system_count(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with_tls(refused, Tls(NAME), authority.context(NAME))
    assert "no authority that is trusted here" in caplog.text


def test_with_a_file_the_authorities_of_the_system_do_not_count(authority: Authority) -> None:
    assert len(Tls(NAME, authority.ca_file).context.get_ca_certs()) == 1


def test_a_plain_server_gets_no_query(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """What it gets is a TLS handshake, which it takes for a frame."""

    async def script(connection: Connection) -> None:
        connection.writer.write(b"\0\x0c" + bytes(12))
        await connection.reader.read()

    with_tls(refused, Tls(NAME, authority.ca_file), None, script)
    assert "speaks no TLS" in caplog.text


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("turns", [0, 1])
def test_a_server_that_ends_during_the_handshake(
    authority: Authority, turns: int, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(connection: Connection) -> None:
        if turns:
            await connection.reader.read(1)

    with_tls(refused, Tls(NAME, authority.ca_file), None, script, loop)
    assert "closes the connection during the TLS handshake" in caplog.text


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_that_says_nothing_is_not_waited_for_for_ever(
    authority: Authority, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(connection: Connection) -> None:
        await connection.reader.read()

    with_tls(refused, Tls(NAME, authority.ca_file), None, script, loop, connect_s=0.2)
    assert "does not finish the TLS handshake in time" in caplog.text


@pytest.mark.parametrize(
    ("alert", "said"),
    [
        pytest.param(70, "no TLS version from 1.2 on", id="protocol_version"),
        pytest.param(120, "ALPN", id="no_application_protocol"),
        pytest.param(40, "no common way to encrypt", id="handshake_failure"),
        pytest.param(80, "the TLS handshake fails: TLSV1_ALERT_INTERNAL_ERROR", id="internal_error"),
    ],
)
@pytest.mark.parametrize("loop", LOOPS)
def test_what_a_server_says_when_it_refuses_is_told(
    authority: Authority, alert: int, said: str, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 8446 section 6: a fatal alert in place of a ServerHello."""

    async def script(connection: Connection) -> None:
        await connection.reader.read(65_535)
        connection.writer.write(bytes((21, 3, 3, 0, 2, 2, alert)))
        await connection.reader.read()

    with_tls(refused, Tls(NAME, authority.ca_file), None, script, loop)
    assert said in caplog.text


@pytest.mark.parametrize("loop", LOOPS)
def test_the_pool_may_end_during_the_handshake(authority: Authority, loop: Loop) -> None:
    begun = asyncio.Event()

    async def check(bench: Bench) -> None:
        bench.ask(3)
        await begun.wait()
        bench.pool.close()
        await asyncio.sleep(0.1)
        assert not bench.told.order

    async def script(connection: Connection) -> None:
        await connection.reader.read(1)
        begun.set()
        await connection.reader.read()

    with_tls(check, Tls(NAME, authority.ca_file), None, script, loop)


@pytest.mark.filterwarnings("ignore:ssl.OP_NO:DeprecationWarning")
def test_an_old_version_is_not_spoken(authority: Authority) -> None:
    context = authority.context(NAME)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.options |= ssl.OP_NO_TLSv1_3 | ssl.OP_NO_TLSv1_2
    with_tls(refused, Tls(NAME, authority.ca_file), context)


def test_of_two_addresses_the_one_with_the_right_certificate_serves(authority: Authority) -> None:
    """And where none has it, that is told rather than that another one refuses."""
    both = {"127.0.0.2": authority.context("other.example"), "127.0.0.1": authority.context(NAME)}

    class Two(Hosts):
        async def addresses(self, host: str) -> tuple[str, ...]:
            return tuple(both)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, _context: None)
        good = await Server(honest).start(ssl=both["127.0.0.1"])
        bad = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.2", good.port, ssl=both["127.0.0.2"])
        told = Told()
        pool = StreamPool[int](NAME, good.port, loop, told, Two(()), Tls(NAME, authority.ca_file), idle_s=1.0)
        bench = Bench(good, pool, told)
        bench.ask(3)
        await told.wait(3)
        bench.check(range(3))
        await asyncio.sleep(3.0)
        await good.stop()
        for number in (4, 5):
            bench.ask()
            await told.wait(number)
        assert told.failures == {3: "tls", 4: "tls"}
        pool.close()
        bad.close()
        await asyncio.sleep(0.1)

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(work())


def test_the_log_says_so_once_a_minute_at_most(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async def check(bench: Bench) -> None:
        for number in range(1, 31):
            bench.ask()
            await bench.told.wait(number)
            await asyncio.sleep(5.0)
        assert bench.server.connections == 0

    with_tls(check, Tls(NAME, authority.ca_file), authority.context("other.example"))
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 150 // WARN_S + 1


@pytest.mark.parametrize("name", [".example", "a" * 64 + ".example"], ids=["a leading dot", "a label too long"])
def test_a_name_that_no_certificate_has_is_an_error_at_once(authority: Authority, name: str) -> None:
    with pytest.raises(OSError, match="is no name that a certificate could be for"):
        Tls(name, authority.ca_file)


@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["no file", "an empty file", "another file"])
def test_a_file_without_certificates_is_an_error_at_once(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OSError):  # noqa: PT011 - of several kinds
        Tls(NAME, str(path))


def test_everything_that_protects_is_switched_on(authority: Authority) -> None:
    context = Tls(NAME, authority.ca_file).context
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_ends_with_queries_out_is_followed_by_another(authority: Authority, loop: Loop) -> None:
    async def check(bench: Bench) -> None:
        tokens = bench.ask(20)
        await bench.told.wait(20)
        bench.check(tokens)
        assert bench.server.connections > 1

    async def script(connection: Connection) -> None:
        for _ in range(5):
            connection.say(answer(await connection.query()))
        if connection.number:
            await honest(connection)

    with_tls(check, Tls(NAME, authority.ca_file), authority.context(NAME), script, loop)
