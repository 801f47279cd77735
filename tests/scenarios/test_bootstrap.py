"""Names that dnsfilter itself needs where the machine's resolver may be dnsfilter: cold starts, and what is refused."""

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lists.server import HOST, ListServer, text
from tests.programs import need
from tests.scenarios.client import NXDOMAIN, ask
from tests.scenarios.conftest import Start
from tests.scenarios.encrypted import Encrypted, Transport
from tests.scenarios.expect import LISTED, MANAGED, check_sinkholed, is_blocked, policy, where
from tests.scenarios.service import Service, command, eventually
from tests.scenarios.upstream import Asked, Upstream, address_of, nodata, reply
from tests.upstream.doh_server import NAME, Certificates

NewUpstream = Callable[[], Upstream]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def encrypting(certificates: Certificates) -> Iterator[Callable[[Transport], Encrypted]]:
    """Start encrypted upstreams; they end with the test."""
    with ExitStack() as stack:
        yield lambda transport: stack.enter_context(Encrypted(certificates, transport))


@pytest.fixture
def resolver(upstreams: NewUpstream) -> Upstream:
    """A plain resolver that knows where NAME and the list server are, and nothing else."""
    found = upstreams()
    found.otherwise(lambda asked: reply(asked, rcode=NXDOMAIN))
    for host in (NAME, HOST):
        found.on(host, nodata)
        found.on(host, f"{host} 60 IN A 127.0.0.1", "A")
    return found


@pytest.fixture
def filtered_machine(tmp_path: Path) -> Sequence[str]:
    """A program that runs another where /etc/resolv.conf names the machine itself, as behind a filter of its own."""
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    unshare, mount = need("unshare", "util-linux"), need("mount", "mount")
    script = f'{mount} --bind {resolv_conf} /etc/resolv.conf && exec "$@"'
    words = (unshare, "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    if subprocess.run([*words, "true"], capture_output=True, timeout=20, check=False).returncode:
        pytest.skip("user namespaces are not permitted here")
    return words


def test_a_cold_start_with_named_upstream_and_remote_list_asks_the_bootstrap_resolver_alone(
    tmp_path: Path,
    encrypting: Callable[[Transport], Encrypted],
    resolver: Upstream,
    certificates: Certificates,
    filtered_machine: Sequence[str],
) -> None:
    """Nothing is known yet and the system's resolver is this very service; the list names both hosts, too."""
    upstream = encrypting("https")
    with ListServer(tmp_path) as site:
        site.on("/t.txt", text(f"{LISTED}\n{HOST}\n{NAME}\n".encode()))
        config = policy(
            upstreams=[upstream.as_upstream(NAME)],
            lists={"ban": {"url": site.url("/t.txt")}},
            resolve={"bootstrap": [where(resolver.address)], "ca_file": certificates.ca_file},
        )
        service = Service(tmp_path, config)
        service.through, service.env = filtered_machine, {"SSL_CERT_FILE": str(site.ca_file)}
        with service:
            assert ask(service.dns, "cold.example").addresses == [address_of("cold.example")]
            eventually("the list is in force", lambda: is_blocked(service.dns, LISTED, MANAGED))
            assert is_blocked(service.dns, NAME, MANAGED)
            assert ask(service.dns, "later.example", source=MANAGED).addresses == [address_of("later.example")]
            site.on("/t.txt", text(f"{LISTED}\n{HOST}\n{NAME}\nmore.example\n".encode()))
            done = service.command("update")
            assert done.returncode == 0, done.stderr
            assert is_blocked(service.dns, "more.example", MANAGED)
            assert service.command("status", "--json").returncode == 0
    assert {asked.name for asked in resolver.queries()} == {f"{NAME}.", f"{HOST}."}
    assert not upstream.queries(HOST)
    assert not upstream.queries(NAME)


def test_the_second_upstream_is_looked_up_at_the_bootstrap_resolver_too(
    start: Start,
    encrypting: Callable[[Transport], Encrypted],
    resolver: Upstream,
    certificates: Certificates,
) -> None:
    """The first one's name has no address: the other serves, and the failure is counted."""
    spare = encrypting("tls")
    first = spare.as_upstream(NAME).replace(NAME, "gone.example")
    resolve = {"bootstrap": [where(resolver.address)], "ca_file": certificates.ca_file}
    service = start(policy(upstreams=[first, spare.as_upstream(NAME)], resolve=resolve))
    for number in range(5):
        assert ask(service.dns, f"spare-{number}.example", timeout_s=3).addresses == [
            address_of(f"spare-{number}.example")
        ]
    assert resolver.queries("gone.example")
    assert service.metric("dnsfilter_upstream_failures_total", upstream=first, reason="unreachable") >= 1


def test_a_bootstrap_resolver_that_is_silent_is_followed_by_the_next(
    start: Start,
    upstreams: NewUpstream,
    encrypting: Callable[[Transport], Encrypted],
    resolver: Upstream,
    certificates: Certificates,
) -> None:
    silent = upstreams()
    silent.otherwise(())
    upstream = encrypting("tls")
    bootstrap = [where(silent.address), where(resolver.address)]
    resolve = {"bootstrap": bootstrap, "ca_file": certificates.ca_file, "timeout": "0.5s"}
    service = start(policy(upstreams=[upstream.as_upstream(NAME)], resolve=resolve))

    def is_answered() -> bool:
        return ask(service.dns, "after.example").addresses == [address_of("after.example")]

    eventually("it is looked up at the second", is_answered, timeout_s=6, every_s=0.2)


def checked(folder: Path, config: dict[str, Any]) -> str:
    """What `dnsfilter check` says of a configuration that is wrong."""
    file = folder / "dnsfilter.yaml"
    file.write_text(yaml.safe_dump({"state": str(folder / "state"), **config}, sort_keys=False))
    done = command("check", "-c", file)
    assert done.returncode == 2, done.stdout
    return done.stderr


@pytest.mark.parametrize(
    ("config", "says"),
    [
        pytest.param(
            {"upstreams": [f"https://{NAME}/dns-query"]},
            f"the address of {NAME} could be looked up by nobody but itself",
            id="a named upstream without bootstrap",
        ),
        pytest.param(
            {"upstreams": ["192.0.2.53"], "forward": [{"zone": "corp.example", "upstreams": [f"tls://{NAME}"]}]},
            f"the address of {NAME} could be looked up by nobody but itself",
            id="a named upstream of a zone",
        ),
        pytest.param(
            {"upstreams": ["tls://192.0.2.55"], "lists": {"t": {"url": f"https://{HOST}/t.txt"}}},
            f"nobody can look up {HOST}",
            id="a remote list beside encrypted upstreams alone",
        ),
        pytest.param(
            {"listen": {"dns": ["127.0.0.1:5353"]}, "upstreams": ["127.0.0.1:5353"]},
            "an address of our own",
            id="an upstream that is ourselves",
        ),
        pytest.param(
            {"listen": {"dns": ["0.0.0.0:53"]}, "upstreams": ["127.0.0.53"]},
            "an address of our own",
            id="an upstream within our wildcard",
        ),
        pytest.param(
            {"upstreams": [f"tls://{NAME}"], "resolve": {"bootstrap": ["127.0.0.1:5335"]}},
            "an address of our own",
            id="a bootstrap resolver that is ourselves",
        ),
    ],
)
def test_check_refuses_what_would_wait_for_itself(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    """With file and line, and what to write instead."""
    first, remedy, *_ = checked(tmp_path, config).splitlines()
    assert first.startswith(f"{tmp_path / 'dnsfilter.yaml'}:"), first
    assert says in first
    assert remedy.strip()


def test_an_encrypted_upstream_that_asks_us_is_found_at_the_start(
    start: Start,
    upstreams: NewUpstream,
    encrypting: Callable[[Transport], Encrypted],
    certificates: Certificates,
) -> None:
    """What it was asked comes back to us as a query: it is named, and asked no more; the other one serves."""
    looping, honest = encrypting("https"), upstreams()
    service: Service | None = None

    def round_again(asked: Asked) -> bytes:
        if service is not None:
            ask(service.dns, asked.name, timeout_s=2)
        return reply(asked, rcode=2)

    looping.answer = round_again
    config = policy(upstreams=[looping.as_upstream(), where(honest.address)], resolve={"ca_file": certificates.ca_file})
    service = start(config)
    service.configure({**config, "upstreams": [where(honest.address)]})
    assert "error" not in service.control("reload")
    service.configure(config)
    assert "error" not in service.control("reload")

    def is_told() -> bool:
        assert service is not None
        return "loop" in json.loads(service.command("status", "--json").stdout)["degraded"]

    eventually("it is told", is_told, timeout_s=8, every_s=0.3)
    before = len(looping.seen)
    for number in range(5):
        assert ask(service.dns, f"straight-{number}.example").addresses == [address_of(f"straight-{number}.example")]
    check_sinkholed(ask(service.dns, LISTED, source=MANAGED))
    assert len(looping.seen) == before
