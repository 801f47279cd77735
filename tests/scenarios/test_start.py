"""From the command to an address that answers, or to one message that says what to do; and the way to an end."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.programs import need
from tests.scenarios.client import SERVFAIL, Address, TcpClient, UdpClient, ask, query, read
from tests.scenarios.conftest import Start
from tests.scenarios.expect import EXEMPT, LISTED, MANAGED, UNMANAGED, check_sinkholed, is_blocked, policy, where
from tests.scenarios.service import ROOT, Service, command, environment, eventually
from tests.scenarios.upstream import SILENCE, Send, Upstream, address6_of, address_of, reply

NOBODY = 65534  # an ordinary user, also where nobody made one
DEFAULT_DNS, DEFAULT_ADMIN = ("127.0.0.1", 5335), ("127.0.0.1", 9353)


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    """An upstream for this module."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def ordinary() -> Sequence[str]:
    """What runs a command as an ordinary user without any capability; empty where we are one."""
    if os.geteuid() != 0:
        return ()
    user = str(NOBODY)
    setpriv = [need("setpriv", "util-linux"), f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    # Where the interpreter is out of that user's reach: our own files, under another number.
    unshare = [need("unshare", "util-linux"), "--user", f"--map-user={user}", f"--map-group={user}"]
    # Twice, as setpriv itself still has capabilities when it starts the first.
    again = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import dnsfilter.cli.main'], check=True)"
    for through in (setpriv, unshare):
        tried = [*through, sys.executable, "-c", again]
        if subprocess.run(tried, capture_output=True, check=False, cwd=ROOT).returncode == 0:
            return through
    pytest.skip("an ordinary user can neither run this interpreter nor have a user namespace")


@pytest.fixture
def open_folder(ordinary: Sequence[str]) -> Iterator[Path]:
    """A directory that an ordinary user can reach and write to, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="dnsfilter-test-"))
    folder.chmod(0o755)
    if any("setpriv" in word for word in ordinary[:1]):
        os.chown(folder, NOBODY, NOBODY)
    yield folder
    for state in folder.glob("state"):
        state.chmod(0o700)
    shutil.rmtree(folder)


def write(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write a configuration and return where."""
    path = folder / "dnsfilter.yaml"
    path.write_text(yaml.safe_dump({"state": str(folder / "state"), **config}, sort_keys=False))
    return path


def taken(kind: socket.SocketKind) -> tuple[socket.socket, int]:
    """Take a port of 127.0.0.1 for one protocol and leave it free for the other."""
    other_kind = socket.SOCK_STREAM if kind == socket.SOCK_DGRAM else socket.SOCK_DGRAM
    while True:
        sock = socket.socket(socket.AF_INET, kind)
        sock.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        port: int = sock.getsockname()[1]
        with closing(socket.socket(socket.AF_INET, other_kind)) as other:
            try:
                other.bind(("127.0.0.1", port))
            except OSError:
                sock.close()
                continue
            return sock, port


def refused(done: subprocess.CompletedProcess[str], status: int) -> list[str]:
    """The lines of a start that failed; fail if it did more than say why."""
    assert done.returncode == status, done.stderr
    assert not done.stdout
    assert "listening on" not in done.stderr
    return done.stderr.splitlines()


def check_nothing_begun(state: Path) -> None:
    """A start that failed leaves nothing that a later one, or a command, could take for a server or its policy."""
    left = [path.name for path in state.iterdir()] if state.exists() else []
    assert set(left) <= {"lock"}, left


# ---- addresses ----


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [pytest.param(socket.SOCK_DGRAM, "UDP", id="UDP"), pytest.param(socket.SOCK_STREAM, "TCP", id="TCP")],
)
def test_a_port_that_another_program_has_is_told_once_with_remedies(
    up: Upstream, tmp_path: Path, kind: socket.SocketKind, protocol: str
) -> None:
    """And no other address is served either."""
    holder, port = taken(kind)
    with closing(holder):
        config = policy(up, listen={"dns": ["127.0.0.2:0", f"127.0.0.1:{port}", "127.0.0.3:0"], "admin": "off"})
        lines = refused(command("run", "-c", write(tmp_path, config)), 1)
    assert len(lines) == 2, lines
    assert lines[0].startswith(f"127.0.0.1:{port} ({protocol}) is in use")
    assert "systemd-resolved" in lines[0]
    assert f"ss -lpn 'sport = :{port}'" in lines[1]
    assert "listen.dns" in lines[1]
    check_nothing_begun(tmp_path / "state")


@pytest.mark.parametrize("key", ["admin", "metrics"])
def test_a_port_for_http_that_another_program_has_is_told_with_the_key_to_change(
    up: Upstream, tmp_path: Path, key: str
) -> None:
    holder, port = taken(socket.SOCK_STREAM)
    with closing(holder):
        listen = {"dns": ["127.0.0.1:0"], "admin": "127.0.0.1:0", key: f"127.0.0.1:{port}"}
        lines = refused(command("run", "-c", write(tmp_path, policy(up, listen=listen))), 1)
    assert len(lines) == 2, lines
    assert f"127.0.0.1:{port}" in lines[0]
    assert "in use" in lines[0]
    assert f"listen.{key}" in lines[1]
    check_nothing_begun(tmp_path / "state")


@pytest.mark.skipif(
    int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 53,
    reason="any user may listen on port 53 here",
)
def test_an_ordinary_user_who_may_not_listen_on_port_53_is_told_what_to_give(
    up: Upstream, open_folder: Path, ordinary: Sequence[str]
) -> None:
    path = write(open_folder, policy(up, listen={"dns": ["127.0.0.153:53"], "admin": "off"}))
    lines = refused(command("run", "-c", path, through=ordinary), 1)
    assert len(lines) == 2, lines
    assert lines[0].startswith("127.0.0.153:53 (UDP): this user may not listen on ports below 1024")
    for remedy in ("AmbientCapabilities=CAP_NET_BIND_SERVICE", "cap-add NET_BIND_SERVICE", "listen.dns"):
        assert remedy in lines[1]
    check_nothing_begun(open_folder / "state")


def test_an_address_that_is_not_there_yet_is_bound_with_a_warning(up: Upstream, start: Start) -> None:
    """The others are served, metrics can be read, and readiness says which one is silent."""
    service = start(policy(up), dns=["127.0.0.1:0", "198.51.100.53:0"])
    assert "WARNING this machine does not have the address 198.51.100.53 yet" in service.output
    assert [host for host, _ in service.addresses] == ["127.0.0.1", "198.51.100.53"]
    check_sinkholed(ask(service.dns, LISTED, source=MANAGED))
    assert service.metric("dnsfilter_queries_total", transport="udp", family="ipv4") == 1


def test_an_address_of_any_kind_of_loopback_is_served(up: Upstream, start: Start) -> None:
    service = start(policy(up), dns=["127.0.0.99:0", "[::1]:0"])
    check_sinkholed(ask(service.addresses[0], LISTED, source=MANAGED))
    assert ask(service.addresses[1], "six.example", source="::1").addresses == [address_of("six.example")]
    assert json.loads(service.http("/ready"))["ready"]


def test_the_receive_buffer_that_was_granted_is_logged(up: Upstream, start: Start) -> None:
    service = start(policy(up), dns=["127.0.0.1:0", "127.0.0.2:0"])
    asked = 4 * 2**20
    granted = min(asked, int(Path("/proc/sys/net/core/rmem_max").read_text()))
    eventually("it is logged", lambda: service.output.count("listening on") == 2)
    found = re.findall(r"listening on (\S+) \(UDP and TCP\), receive buffer (\d+) KiB", service.output)
    assert found == [(where(each), str(granted // 1024)) for each in service.addresses]


# ---- the configuration ----

WRONG = """\
upstreams: [192.0.2.53]
listen:
  dns: ["127.0.0.1:0"]
  dott: ["127.0.0.1:0"]
lists:
  ban: {file: ban.txt, format: domain}
groups:
  managed: {networks: [10.4.0.0/33], block: [bann]}
  default: {block: []}
blocking: {ttl: 0}
"""


@pytest.mark.parametrize("word", ["run", "check"])
def test_all_that_is_wrong_in_a_configuration_is_told_at_once_with_its_lines(tmp_path: Path, word: str) -> None:
    path = tmp_path / "dnsfilter.yaml"
    path.write_text(f"state: {tmp_path / 'state'}\n{WRONG}")
    lines = refused(command(word, "-c", path), 2)
    places = [line.removeprefix(f"{path}:").split(":")[0] for line in lines if line.startswith(f"{path}:")]
    assert places == ["5", "7", "9", "9", "11"]
    assert len(lines) == 10, "not every line has its remedy"
    assert all(line.startswith("  ") for line in lines[1::2])
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, ["there is no such file", "-c"], id="no file"),
        pytest.param(b"upstreams: [192.0.2.53\n", ["not YAML"], id="a bracket that is not closed"),
        pytest.param(b"listen:\n  dot: [127.0.0.1:853]\n", [":2", "listen.dot is not available"], id="a later feature"),
        pytest.param(b"\xff\xfeu\0p\0", ["UTF-16", "UTF-8"], id="UTF-16"),
    ],
)
def test_a_configuration_that_cannot_be_read_ends_the_start(
    tmp_path: Path, content: bytes | None, said: Sequence[str]
) -> None:
    path = tmp_path / "dnsfilter.yaml"
    if content is not None:
        path.write_bytes(content)
    lines = refused(command("run", "-c", path), 2)
    assert lines[0].startswith(str(path))
    for part in said:
        assert part in "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "does not exist", id="missing"),
        pytest.param("0.0.0.0 a.example\n", "looks like hosts", id="another format"),
    ],
)
def test_lists_that_cannot_be_used_end_the_start_all_at_once(
    up: Upstream, tmp_path: Path, content: str | None, said: str
) -> None:
    """An operator's mistake is fatal at the start."""
    names = ("one", "two")
    for name in names:
        if content is not None:
            (tmp_path / f"{name}.txt").write_text(content)
    config = policy(
        up,
        lists={name: {"file": f"{name}.txt"} for name in names},
        groups={"default": {"block": list(names)}},
        exemptions={},
        listen={"dns": ["127.0.0.1:0"], "admin": "off"},
    )
    path = write(tmp_path, config)
    lines = refused(command("run", "-c", path), 2)
    for name in names:
        assert any(re.match(rf"{re.escape(str(path))}:\d+: list '{name}': .*{said}", line) for line in lines), lines
    check_nothing_begun(tmp_path / "state")


def test_the_configuration_may_be_named_by_the_environment(up: Upstream, tmp_path: Path) -> None:
    """`-c` goes before it."""
    service = Service(tmp_path, policy(up))
    service.words = ("run",)
    service.env = {"DNSFILTER_CONFIG": str(service.config_file)}
    with service:
        check_sinkholed(ask(service.dns, LISTED, source=MANAGED))
        status = command("status", "--json", env=service.env)
        assert json.loads(status.stdout)["config"] == str(service.config_file)
        assert service.command("status").returncode == 0
        other = command("status", "-c", tmp_path / "none.yaml", env=service.env)
        assert other.returncode == 2
        assert "none.yaml" in other.stderr


def test_listen_and_upstream_of_the_command_line_go_before_the_configuration(
    up: Upstream, tmp_path: Path, upstreams: Callable[[], Upstream]
) -> None:
    """Also after a reload."""
    other = upstreams()
    other.on("line.example", "line.example 300 IN A 192.0.2.9")
    options = ["--listen", "127.0.0.5:0", "--upstream", where(other.address)]
    with Service(tmp_path, policy(up), dns=["127.0.0.1:1"], options=options) as service:
        assert [host for host, _ in service.addresses] == ["127.0.0.5"]
        assert ask(service.dns, "line.example").addresses == ["192.0.2.9"]
        check_sinkholed(ask(service.dns, LISTED, source=MANAGED))
        service.configure(policy(up, lists={"ban": {"domains": [LISTED, "line.example"]}}))
        assert "error" not in service.control("reload")
        assert is_blocked(service.dns, "line.example", MANAGED)
        assert ask(service.dns, "again.example").addresses == [address_of("again.example")]
    assert not up.queries("line.example")
    assert not up.queries("again.example")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--listen", "localhost:53"], id="--listen with a host name"),
        pytest.param(["--upstream", "quic://192.0.2.53"], id="--upstream over QUIC"),
        pytest.param(["--upstream", "0.0.0.0"], id="--upstream without an address"),
    ],
)
def test_an_option_that_is_wrong_is_named(up: Upstream, tmp_path: Path, options: list[str]) -> None:
    path = write(tmp_path, policy(up))
    lines = refused(command("run", "-c", path, *options), 2)
    assert lines[0].startswith(f"{options[0]}: ")


def is_free(address: Address) -> bool:
    """Whether nobody listens on an address."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with closing(socket.socket(socket.AF_INET, kind)) as sock:
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(address)
            except OSError:
                return False
    return True


def test_without_any_configuration_the_built_in_lists_are_blocked_and_all_else_is_asked_upstream(
    up: Upstream, open_folder: Path, ordinary: Sequence[str]
) -> None:
    """On 127.0.0.1:5335, for everybody, with the zero addresses."""
    if Path("/etc/dnsfilter/dnsfilter.yaml").exists():
        pytest.skip("this machine has a configuration of its own")
    eventually("the default ports are free", lambda: is_free(DEFAULT_DNS) and is_free(DEFAULT_ADMIN), 20)
    service = Service(open_folder, {})
    service.words = ("run", "--upstream", where(up.address))
    service.env = {"XDG_STATE_HOME": str(open_folder / "home"), "HOME": str(open_folder)}
    service.through = ordinary
    service.state = open_folder / "home/dnsfilter"
    with service:
        assert service.addresses == [DEFAULT_DNS]
        assert service.admin == DEFAULT_ADMIN
        for name in ("www.tiktok.com", "tiktok.com", "bytedance.com", "dns.google"):
            assert ask(service.dns, name, "A").addresses == ["0.0.0.0"], name
            assert ask(service.dns, name, "AAAA").addresses == ["::"], name
            assert not up.queries(name, below=True)
        assert ask(service.dns, "www.example", "A").addresses == [address_of("www.example")]
        assert ask(service.dns, "www.example", "AAAA").addresses == [address6_of("www.example")]
        assert ask(service.dns, "nottiktok.com", "A").addresses == [address_of("nottiktok.com")]
        status = command("status", env=service.env, through=ordinary)
        assert status.returncode == 0, status.stderr
        assert status.stdout.startswith("ready\n")
        for name in ("tiktok", "bytedance", "encrypted-dns"):
            assert f"list '{name}' (built-in)" in status.stdout


def test_a_resolv_conf_that_names_dnsfilter_itself_ends_the_build(tmp_path: Path) -> None:
    """As the server asks for it: queries would go round in circles."""
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    config = {"listen": {"dns": ["127.0.0.1:53"], "admin": "off"}, "groups": {"default": {"block": ["tiktok"]}}}
    request = {"config": str(write(tmp_path, config)), "resolv_conf": str(resolv_conf)}
    done = subprocess.run(
        [sys.executable, "-m", "dnsfilter.build"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=environment(),
        cwd=ROOT,
    )
    assert done.returncode == 2
    told = json.loads(done.stdout)["error"]
    assert "127.0.0.1" in told
    assert str(resolv_conf) in told
    assert "upstreams: [" in told


# ---- the state directory ----


def test_a_second_server_on_the_same_state_directory_is_refused_and_the_first_goes_on(
    up: Upstream, start: Start
) -> None:
    service = start(policy(up))
    before = service.control("status")["policy"]
    lines = refused(service.command("run"), 1)
    assert len(lines) == 2, lines
    assert lines[0] == f"a dnsfilter runs on {service.state} already (process {service.pid})"
    assert "state: DIR" in lines[1]
    assert service.control("status")["policy"] == before
    check_sinkholed(ask(service.dns, LISTED, source=MANAGED))


def test_a_second_server_with_another_configuration_leaves_the_firsts_policy_on_disk(
    up: Upstream, start: Start
) -> None:
    """It is what the first one's next start, and `check`, compare with."""
    service = start(policy(up))
    kept = (service.state / "policy.snapshot").read_bytes()
    service.configure(policy(up, lists={"ban": {"domains": ["other.example"]}}))
    refused(service.command("run"), 1)
    assert (service.state / "policy.snapshot").read_bytes() == kept
    assert sorted(path.name for path in service.state.iterdir()) == ["control.sock", "lock", "policy.snapshot"]


def end_by(service: Service, number: signal.Signals) -> None:
    """Run a service and end it by a signal, which `Service` complains of."""
    with service:
        service.signal(number)
        eventually("it has ended", service.check_alive)


def test_the_state_directory_is_free_again_after_a_kill(up: Upstream, tmp_path: Path) -> None:
    """What a dead server left is no server."""
    service = Service(tmp_path, policy(up))
    with pytest.raises(AssertionError, match="ended with -9"):
        end_by(service, signal.SIGKILL)
    assert (service.state / "control.sock").exists()
    status = service.command("status")
    assert status.returncode == 1
    assert "no server answers on" in status.stderr
    with service:
        check_sinkholed(ask(service.dns, LISTED, source=MANAGED))


def test_a_state_directory_that_may_not_be_written_is_told(
    up: Upstream, open_folder: Path, ordinary: Sequence[str]
) -> None:
    state = open_folder / "state"
    state.mkdir(mode=0o500)
    path = write(open_folder, policy(up, listen={"dns": ["127.0.0.1:0"], "admin": "off"}))
    lines = refused(command("run", "-c", path, through=ordinary), 1)
    assert len(lines) == 2, lines
    assert str(state) in lines[0]
    assert "Permission denied" in lines[0]
    assert "give this user the directory" in lines[1]
    assert "state: DIR" in lines[1]


def test_a_state_directory_that_cannot_be_made_is_told(up: Upstream, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = policy(up, listen={"dns": ["127.0.0.1:0"], "admin": "off"}, state=str(tmp_path / "file/state"))
    lines = refused(command("run", "-c", write(tmp_path, config)), 1)
    assert str(tmp_path / "file") in lines[0]
    assert "state: DIR" in lines[-1]


def test_what_others_may_read_and_write_in_the_state_directory(up: Upstream, tmp_path: Path) -> None:
    """The control socket: owner and group; who is exempt: the owner alone."""
    service = Service(tmp_path, policy(up))
    service.state.rmdir()
    with service:
        modes = {path.name: path.stat().st_mode & 0o777 for path in service.state.iterdir()}
        assert modes["control.sock"] == 0o660
        assert modes["policy.snapshot"] == 0o600
        assert service.state.stat().st_mode & 0o007 == 0


Damage = Callable[[bytes], bytes]


def flipped(octets: bytes, at: int) -> bytes:
    """The same octets with another one at a place."""
    return octets[:at] + bytes([octets[at] ^ 0x20]) + octets[at + 1 :]


DAMAGES: dict[str, Damage] = {
    "cut in half": lambda octets: octets[: len(octets) // 2],
    "empty": lambda _: b"",
    "another file": lambda _: b"# not a snapshot\n" * 100,
    "of another version": lambda octets: octets.replace(b"snapshot 2", b"snapshot 1", 1),
    "another name in it": lambda octets: flipped(octets, octets.rindex(b"\x06banned") + 1),
    "another head": lambda octets: flipped(octets, octets.index(b'"managed"') + 1),
}


def test_a_damaged_snapshot_of_the_policy_is_built_again(up: Upstream, tmp_path: Path) -> None:
    """Nobody is let through because a disk was full or a machine lost power."""
    service = Service(tmp_path, policy(up))
    with service:
        pass
    kept = service.state / "policy.snapshot"
    whole = kept.read_bytes()
    for damage in DAMAGES.values():
        kept.write_bytes(damage(whole))
        assert kept.read_bytes() != whole
        with service:
            check_sinkholed(ask(service.dns, LISTED, source=MANAGED))
            assert ask(service.dns, LISTED, source=EXEMPT).addresses == [address_of(LISTED)]
            assert kept.read_bytes() != damage(whole)
            assert json.loads(service.http("/ready")) == {"ready": True, "reasons": [], "degraded": {}}


def test_a_snapshot_of_another_configuration_is_not_used(up: Upstream, tmp_path: Path) -> None:
    service = Service(tmp_path, policy(up))
    with service:
        pass
    service.configure(policy(up, lists={"ban": {"domains": ["other.example"]}}))
    with service:
        assert not is_blocked(service.dns, LISTED, MANAGED)
        assert is_blocked(service.dns, "other.example", MANAGED)


def test_a_list_that_changed_while_nothing_ran_is_read_at_the_next_start(up: Upstream, tmp_path: Path) -> None:
    """Also one of the same size and time."""
    path = tmp_path / "ban.txt"
    path.write_text("aaa.example\n")
    service = Service(tmp_path, policy(up, lists={"ban": {"file": str(path)}}))
    with service:
        assert is_blocked(service.dns, "aaa.example", MANAGED)
    stamp = path.stat()
    path.write_text("bbb.example\n")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with service:
        assert is_blocked(service.dns, "bbb.example", MANAGED)
        assert not is_blocked(service.dns, "aaa.example", MANAGED)


# ---- the end ----


def test_on_sigterm_questions_in_flight_are_still_answered(up: Upstream, tmp_path: Path) -> None:
    """Over UDP and TCP; then exit status 0. `Service` sends the signal and checks the status."""
    names = ("udp.example", "tcp.example")
    for name in names:
        up.on(name, lambda asked: [Send(reply(asked, f"{asked.name} 300 IN A 192.0.2.4"), after_s=0.7)])
    service = Service(tmp_path, policy(up))
    with service:
        udp, tcp = UdpClient(service.dns), TcpClient(service.dns)
        udp.send(query(names[0]))
        tcp.send(query(names[1]))
        for name in names:
            up.wait(name)
    with udp, tcp:
        for octets in (udp.receive(1), tcp.receive(1)):
            assert octets is not None
            assert read(octets).addresses == ["192.0.2.4"]
    assert "stopping: 2 questions in flight" in service.output
    assert not (service.state / "control.sock").exists()


def test_a_question_that_no_upstream_answers_does_not_keep_the_service_for_ever(up: Upstream, tmp_path: Path) -> None:
    """It ends with its deadline."""
    up.on("never.example", SILENCE)
    service = Service(tmp_path, policy(up, resolve={"timeout": "0.5s", "deadline": "1s"}))
    with service:
        client = UdpClient(service.dns)
        client.send(query("never.example"))
        up.wait("never.example")
    with client:
        octets = client.receive(1)
    assert octets is not None
    assert read(octets).rcode == SERVFAIL


def test_an_interrupt_ends_the_service_with_status_0(up: Upstream, tmp_path: Path) -> None:
    """As SIGTERM does at the end of every other test."""
    service = Service(tmp_path, policy(up))
    with pytest.raises(AssertionError, match="the service ended with 0"):
        end_by(service, signal.SIGINT)
    assert "Traceback" not in service.output


# ---- the log ----


def test_the_log_has_no_addresses_of_clients_and_no_names_that_they_asked_for(up: Upstream, start: Start) -> None:
    """Whatever comes of their questions, and at the most talkative level."""
    service = start(
        policy(up, log={"level": "debug"}, access=["127.0.0.0/16"], resolve={"timeout": "0.5s", "deadline": "1s"})
    )
    up.on("secret-silent.example", SILENCE)
    up.on("secret-broken.example", b"\0" * 11)
    sources = [MANAGED, EXEMPT, UNMANAGED, "127.9.0.1"]
    for source, tcp in itertools.product(sources, (False, True)):
        for name in ("secret-fine.example", f"secret-blocked.{LISTED}", "secret.localhost", "use-application-dns.net"):
            ask(service.dns, name, source=source, tcp=tcp)
    for name in ("secret-silent.example", "secret-broken.example"):
        assert ask(service.dns, name, source=UNMANAGED).rcode == SERVFAIL
    with UdpClient(service.dns, UNMANAGED) as client:
        client.send(query("secret-cut.example")[:-3])
        client.send(query("secret-answer.example", flags=0x8000))
        client.drain()
    with TcpClient(service.dns, UNMANAGED) as stream:
        stream.send_raw(b"\0\5secret-stream")
    for word in ("status", "reload"):
        service.command(word)
    service.http("/metrics")
    assert "secret" not in service.output
    for source in sources:
        assert source not in service.output
