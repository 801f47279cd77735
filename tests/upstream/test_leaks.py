"""What connections to upstreams leave behind: nothing, also where the garbage collector does not look.

The collector never walks what has become old, so a circle of references is memory lost; and OpenSSL's it never sees.
"""

import asyncio
import gc
import resource
import ssl
from pathlib import Path

import pytest
from h2.connection import H2Connection

from dnsfilter.upstream.doh import DohPool
from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.tls import Tls
from tests.core.make import opt, query, question
from tests.upstream.doh_server import NAME, Certificates, DohServer, Request
from tests.upstream.loop import run
from tests.upstream.test_stream import Told


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def connect(tls: Tls, server: ssl.SSLContext) -> ssl.SSLObject:
    """One connection in memory, up to its first octet from the server; the client has remembered its session."""
    to_client, from_client, to_server, from_server = (ssl.MemoryBIO() for _ in range(4))
    client = tls.context.wrap_bio(to_client, from_client, server_hostname=NAME)
    other = server.wrap_bio(to_server, from_server, server_side=True)
    left = [client, other]
    while left:
        for each in list(left):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                pass
            else:
                left.remove(each)
            to_server.write(from_client.read())
            to_client.write(from_server.read())
    other.write(b"x")
    to_client.write(from_server.read())
    assert client.read(1) == b"x"
    tls.remember(client)
    return client


def octets_resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def test_sessions_that_are_remembered_leave_no_memory_behind(certificates: Certificates) -> None:
    """Each resumes the one before. Reading `SSLObject.session` may cost some kilobytes that are never given back."""
    tls, server = Tls(NAME, certificates.ca_file), certificates.context(NAME, alpn=("dot",))
    for _ in range(100):
        connect(tls, server)
    before = octets_resident()
    for _ in range(400):
        assert connect(tls, server).session_reused
    grown = octets_resident() - before
    print(f"{grown / 400:.0f} octets a connection")
    assert grown < 400 * 1_000


def test_connections_over_http_2_make_no_circles(certificates: Certificates) -> None:
    run(lambda: _no_circles(certificates))


async def _no_circles(certificates: Certificates) -> None:
    def answer_and_go(request: Request) -> None:
        request.answer()
        request.connection.go_away(request.stream)

    server, told = await DohServer(answer_and_go).start(certificates.context(NAME)), Told()
    loop, tls = asyncio.get_running_loop(), Tls(NAME, certificates.ca_file, ("h2",))
    pool = DohPool[int]("127.0.0.1", server.port, "/dns-query", loop, told, Hosts(()), tls, authority=NAME)
    gc.collect()
    gc.disable()
    try:
        for number in range(10):
            name = f"n{number}.example"
            pool.send(query(name, edns=opt())[2:], question(name), number)
            await told.wait(number + 1)
            await asyncio.sleep(5)
        pool.close()
        await asyncio.sleep(5)
        kept = [each for each in gc.get_objects() if isinstance(each, H2Connection) and each.config.client_side]
        assert not kept, f"{len(kept)} of {len(server.connections)} connections are kept"
    finally:
        gc.enable()
        pool.close()
        await server.stop()
