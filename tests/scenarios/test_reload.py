"""Another policy in the place of the one in force: whole, at once, or not at all; and no question lost meanwhile."""

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.client import Address, TcpClient, UdpClient, ask, query, read
from tests.scenarios.conftest import Start
from tests.scenarios.expect import (
    EXEMPT,
    LISTED,
    MANAGED,
    UNMANAGED,
    check_sinkholed,
    exemption,
    is_blocked,
    nothing_of,
    policy,
    where,
)
from tests.scenarios.service import Service, eventually
from tests.scenarios.test_load import resident
from tests.scenarios.upstream import Send, Upstream, address_of, reply

Config = dict[str, Any]
IN_FORCE_S = 10.0  # within which a changed list file is
LARGE = 100_000  # names


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    """An upstream for this module."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def shared(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the tests that only reload it."""
    with Service(tmp_path_factory.mktemp("reloaded"), policy(up)) as service:
        yield service


@pytest.fixture
def reloaded(up: Upstream, shared: Service) -> Service:
    """The module's service, with the usual policy in force and nothing to complain of."""
    shared.check_alive()
    adopt(shared, policy(up))
    return shared


def merged(config: Mapping[str, Any], *changes: Mapping[str, Any]) -> Config:
    """A configuration with some keys, at any depth, added or replaced."""
    result = dict(config)
    for change in changes:
        for key, value in change.items():
            old = result.get(key)
            result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def generation(service: Service) -> int:
    """The generation of the policy in force."""
    found: int = service.control("status")["policy"]["generation"]
    return found


def ready(service: Service) -> dict[str, Any]:
    """What /ready says; fail unless its status is 200."""
    found: dict[str, Any] = json.loads(service.http("/ready"))
    return found


def adopt(service: Service, config: Mapping[str, Any]) -> None:
    """Put another configuration in force."""
    service.configure(config)
    result = service.control("reload")
    assert "error" not in result, result


def reload_by_signal(service: Service) -> str:
    """Send SIGHUP, wait for what comes of it, and return what was logged of it."""
    before, was = len(service.output), service.control("status")["reloaded_at"]
    service.signal(signal.SIGHUP)

    def is_over() -> bool:
        return "reload refused" in service.output[before:] or service.control("status")["reloaded_at"] != was

    eventually("the reload is over", is_over)
    return service.output[before:]


def reload_by_command(service: Service) -> str:
    """Run `dnsfilter reload`, which has to fail, and return what it says."""
    done = service.command("reload")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "stays in force" in done.stderr
    return done.stderr


def inline(*names: str) -> Config:
    """A change: what the list names."""
    return {"lists": {"ban": {"domains": [LISTED, *names]}}}


# ---- what a reload does and says ----


def test_sighup_puts_the_changed_configuration_in_force(up: Upstream, reloaded: Service) -> None:
    before = generation(reloaded)
    assert not is_blocked(reloaded.dns, "hangup.example", MANAGED)
    reloaded.configure(merged(policy(up), inline("hangup.example")))
    reload_by_signal(reloaded)
    assert is_blocked(reloaded.dns, "hangup.example", MANAGED)
    assert is_blocked(reloaded.dns, LISTED, MANAGED)
    assert generation(reloaded) == before + 1


def test_the_reload_command_returns_once_the_policy_is_in_force(up: Upstream, reloaded: Service) -> None:
    assert not is_blocked(reloaded.dns, "now.example", MANAGED)
    for change in (inline("now.example"), {}):
        reloaded.configure(merged(policy(up), change))
        assert reloaded.command("reload").returncode == 0
        assert is_blocked(reloaded.dns, "now.example", MANAGED) is bool(change)


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        pytest.param(inline("a.example"), ["list 'ban' changed: 1 entries before, 2 now"], id="a list grows"),
        pytest.param(
            {
                "lists": {"more": {"domains": ["a.example", "b.example"]}, "ban": {"mode": "observe"}},
                "groups": {"managed": {"networks": ["127.0.1.0/24", "127.0.4.0/24"], "block": ["ban", "more"]}},
                "exemptions": {"entries": []},
            },
            [
                "list 'ban' is read otherwise: domains, match suffix, mode observe, configuration",
                "list 'more' is new: 2 entries from configuration",
                "group 'managed' gains the networks 127.0.4.0/24",
                "group 'managed' is treated otherwise: lists, allow, only, mode or answer",
                "exemption EX-1 is gone",
                "who may ask changed",
            ],
            id="lists, networks and exemptions",
        ),
        pytest.param(
            {
                "groups": {"labs": {"networks": ["127.0.5.0/24"], "block": ["ban"]}},
                "exemptions": {"entries": [exemption("EX-1", ["127.0.1.64/28"], ["ban"], end="2098-12-31")]},
                "blocking": {"ttl": 30},
                "access": ["127.0.0.0/8"],
                "protected": ["gouv.example"],
            },
            [
                "group 'labs' is new: 1 networks",
                "exemption EX-1 changed",
                "how blocked questions are answered changed",
                "who may ask changed",
                "the protected names changed",
            ],
            id="all the rest",
        ),
    ],
)
def test_the_reload_command_prints_what_changed_and_the_policy(
    up: Upstream, reloaded: Service, change: Config, lines: list[str]
) -> None:
    before = generation(reloaded)
    reloaded.configure(merged(policy(up), change))
    done = reloaded.command("reload")
    said = done.stdout.splitlines()
    running = reloaded.control("status")["policy"]
    assert done.returncode == 0
    assert not done.stderr
    assert sorted(said[: len(lines)]) == sorted(lines)
    assert said[-1] == f"in force: policy {running['hash']}, generation {before + 1}"
    assert all(line.startswith(("warning: ", "  ")) for line in said[len(lines) : -1]), said


def test_a_reload_of_unchanged_inputs_builds_nothing(reloaded: Service) -> None:
    before = reloaded.control("status")["policy"]
    snapshot = (reloaded.state / "policy.snapshot").stat()
    done = reloaded.command("reload")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"unchanged: policy {before['hash']}, generation {before['generation']}"
    assert reloaded.control("status")["policy"] == before
    after = (reloaded.state / "policy.snapshot").stat()
    assert (after.st_ino, after.st_mtime_ns) == (snapshot.st_ino, snapshot.st_mtime_ns)


def test_a_change_that_decides_nothing_leaves_the_hash(up: Upstream, reloaded: Service) -> None:
    """Equal hashes decide alike: what is of the node alone is not in it."""
    before = reloaded.control("status")["policy"]
    reloaded.configure(merged(policy(up), {"resolve": {"timeout": "1s"}}))
    done = reloaded.command("reload")
    assert "resolve.timeout changed" in done.stdout
    assert reloaded.control("status")["policy"]["hash"] == before["hash"]


def test_the_policy_in_force_has_one_hash_and_generation_everywhere(up: Upstream, reloaded: Service) -> None:
    reloaded.configure(merged(policy(up), inline("everywhere.example")))
    assert reloaded.command("reload").returncode == 0
    running = reloaded.control("status")["policy"]
    assert reloaded.metric("dnsfilter_policy_info", hash=running["hash"], generation=str(running["generation"])) == 1
    explained = reloaded.control("explain", name=LISTED, type=1, client=MANAGED, at=None)["explained"]
    assert explained[0]["policy"] == {"hash": running["hash"], "generation": running["generation"]}
    assert json.loads(reloaded.command("check", "--json").stdout)["hash"] == running["hash"]


# ---- what is refused ----


def good(up: Upstream, folder: Path) -> Config:
    """A policy whose list is a file that can be read."""
    (folder / "ban.txt").write_text(f"{LISTED}\n")
    return merged(policy(up), {"lists": {"ban": {"file": str(folder / "ban.txt")}}, "groups": {}}) | {
        "lists": {"ban": {"file": str(folder / "ban.txt")}}
    }


def bad_configuration(service: Service, _folder: Path) -> list[str]:
    text = service.config_file.read_text()
    at = len(text.splitlines()) + 1
    service.config_file.write_text(text + "grups: {}\n")
    return [f"{service.config_file}:{at}: ", "grups", "groups"]


def no_yaml(service: Service, _folder: Path) -> list[str]:
    text = service.config_file.read_text()
    at = len(text.splitlines()) + 1
    service.config_file.write_text(text + "upstreams: [192.0.2.53\n")
    return [f"{service.config_file}:{at}"]


def no_configuration(service: Service, _folder: Path) -> list[str]:
    service.config_file.unlink()
    return [str(service.config_file), "there is no such file"]


def emptied(service: Service, _folder: Path) -> list[str]:
    """An empty file is a configuration: that of the built-in defaults."""
    service.config_file.write_text("")
    return ["needs a restart"]


def missing_list(_service: Service, folder: Path) -> list[str]:
    (folder / "ban.txt").unlink()
    return ["list 'ban': ", f"{folder / 'ban.txt'} does not exist", "correct the path or put the list there"]


def empty_list(_service: Service, folder: Path) -> list[str]:
    (folder / "ban.txt").write_text("")
    return ["list 'ban': ", "the list has no rule"]


def comments_only(_service: Service, folder: Path) -> list[str]:
    (folder / "ban.txt").write_text("# a list\n\n# of nothing\n")
    return ["list 'ban': ", "nothing in it but comments"]


def hosts_as_domains(_service: Service, folder: Path) -> list[str]:
    (folder / "ban.txt").write_text("".join(f"0.0.0.0 n{number}.example\n" for number in range(20)))
    return ["list 'ban': ", "0 of 20 lines understood, expected format domains, looks like hosts", "line 1"]


def html(_service: Service, folder: Path) -> list[str]:
    (folder / "ban.txt").write_text("<!DOCTYPE html>\n<html>\n<body>Moved to https://lists.example/</body>\n</html>\n")
    return ["list 'ban': ", "this is a web page (HTML), not a list"]


Break = Callable[[Service, Path], list[str]]


@pytest.fixture(scope="module")
def filed(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose list is a file beside its configuration."""
    folder = tmp_path_factory.mktemp("filed")
    with Service(folder, good(up, folder)) as service:
        yield service


@pytest.fixture
def breakable(up: Upstream, filed: Service) -> Iterator[Service]:
    """That service; whatever a test breaks is as it was for the next."""
    filed.check_alive()
    yield filed
    if ready(filed)["degraded"] or not filed.config_file.exists():
        adopt(filed, good(up, filed.config_file.parent))


@pytest.mark.parametrize(
    ("damage", "is_list", "how"),
    [
        pytest.param(bad_configuration, False, reload_by_signal, id="an unknown key, SIGHUP"),
        pytest.param(bad_configuration, False, reload_by_command, id="an unknown key, command"),
        pytest.param(no_yaml, False, reload_by_signal, id="no YAML, SIGHUP"),
        pytest.param(no_configuration, False, reload_by_signal, id="no configuration file, SIGHUP"),
        pytest.param(emptied, False, reload_by_signal, id="an emptied configuration, SIGHUP"),
        pytest.param(missing_list, True, reload_by_signal, id="a missing list file, SIGHUP"),
        pytest.param(missing_list, True, reload_by_command, id="a missing list file, command"),
        pytest.param(empty_list, True, reload_by_command, id="an empty list, command"),
        pytest.param(comments_only, True, reload_by_signal, id="a list of comments, SIGHUP"),
        pytest.param(hosts_as_domains, True, reload_by_command, id="a hosts file under format domains, command"),
        pytest.param(html, True, reload_by_command, id="HTML in place of a list, command"),
    ],
)
def test_what_cannot_be_read_leaves_the_old_policy_in_force_and_says_why(
    up: Upstream, breakable: Service, damage: Break, is_list: bool, how: Callable[[Service], str]
) -> None:
    """And the next reload after the mistake is mended is an ordinary one."""
    service, folder = breakable, breakable.config_file.parent
    before = service.control("status")["policy"]
    failures = service.metric("dnsfilter_list_failures_total", list="ban")
    expected = damage(service, folder)
    said = how(service)
    for part in expected:
        assert part.lower() in said.lower()
    assert service.control("status")["policy"] == before
    check_sinkholed(ask(service.dns, LISTED, source=MANAGED))
    assert ask(service.dns, "fine.example", source=MANAGED).addresses == [address_of("fine.example")]
    degraded = ready(service)["degraded"]
    assert list(degraded) == ["list" if is_list else "reload"]
    assert expected[-1].lower() in degraded["list" if is_list else "reload"].lower()
    assert service.metric("dnsfilter_config_last_reload_successful") == 0
    assert service.metric("dnsfilter_degraded", reason="list" if is_list else "reload") == 1
    assert service.metric("dnsfilter_ready") == 1
    assert service.metric("dnsfilter_list_failures_total", list="ban") == failures + is_list

    service.configure(good(up, folder))
    mended = f"mended{before['generation']}.example"
    (folder / "ban.txt").write_text(f"{LISTED}\n{mended}\n")
    done = service.command("reload")
    assert done.returncode == 0, done.stderr
    assert is_blocked(service.dns, mended, MANAGED)
    assert ready(service)["degraded"] == {}
    assert service.metric("dnsfilter_config_last_reload_successful") == 1
    assert service.metric("dnsfilter_list_failures_total", list="ban") == failures + is_list


def test_every_list_that_cannot_be_read_is_told(up: Upstream, breakable: Service, tmp_path: Path) -> None:
    """By the command, and as long as it is so by /ready."""
    lists = {name: {"file": str(tmp_path / f"{name}.txt")} for name in ("one", "two")}
    breakable.configure(
        merged(
            good(up, breakable.config_file.parent),
            {"lists": lists, "groups": {"managed": {"block": ["ban", "one", "two"]}}},
        )
    )
    said = reload_by_command(breakable)
    for name in lists:
        assert f"list '{name}': {tmp_path / name}.txt does not exist" in said
    assert all(f"'{name}'" in ready(breakable)["degraded"]["list"] for name in lists)


def test_the_running_server_answers_status_and_explain_while_its_configuration_file_is_broken(
    up: Upstream, breakable: Service
) -> None:
    """What is in the file is not what is in force; this is when an admin asks."""
    folder = breakable.config_file.parent
    bad_configuration(breakable, folder)
    status = breakable.command("status")
    assert status.returncode == 0, status.stderr
    live = breakable.command("explain", LISTED, "--client", MANAGED, "--live")
    assert live.returncode == 0, live.stderr
    assert "BLOCKED" in live.stdout
    breakable.configure(good(up, folder))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(
            {"listen": {"dns": ["127.0.0.2:0"], "admin": "off", "metrics": "127.0.0.1:0"}},
            ["listen.dns", "listen.admin", "listen.metrics"],
            id="addresses",
        ),
        pytest.param(
            {
                "cache": {"entries": 5, "max_ttl": "5m", "max_negative_ttl": "1m", "serve_stale": "1h"},
                "resolve": {"max_concurrent": 7},
            },
            ["cache.entries", "cache.max_ttl", "cache.max_negative_ttl", "cache.serve_stale", "resolve.max_concurrent"],
            id="sizes and times",
        ),
    ],
)
def test_a_change_that_needs_a_restart_is_refused_whole(
    up: Upstream, reloaded: Service, change: Config, named: list[str]
) -> None:
    before = reloaded.control("status")["policy"]
    reloaded.configure(merged(policy(up), inline("whole.example"), change))
    said = reload_by_command(reloaded)
    assert "needs a restart" in said
    for key in named:
        assert key in said
    assert reloaded.control("status")["policy"] == before
    assert not is_blocked(reloaded.dns, "whole.example", MANAGED)
    assert "needs a restart" in ready(reloaded)["degraded"]["reload"]


def test_another_state_directory_needs_a_restart_and_is_not_made(
    up: Upstream, reloaded: Service, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    reloaded.configure(merged(policy(up), inline("whole.example"), {"state": str(other)}))
    assert "needs a restart" in reload_by_signal(reloaded)
    assert not is_blocked(reloaded.dns, "whole.example", MANAGED)
    assert not other.exists()


def test_nothing_is_left_in_the_state_directory_but_what_is_in_force(
    up: Upstream, reloaded: Service, tmp_path: Path
) -> None:
    for change in (inline("left.example"), {"cache": {"entries": 5}}, {"nonsense": 1}, {}):
        reloaded.configure(merged(policy(up), change))
        reload_by_signal(reloaded)
    assert sorted(path.name for path in reloaded.state.iterdir()) == ["control.sock", "lock", "policy.snapshot"]


# ---- what takes effect ----


def test_an_exemption_that_a_reload_adds_or_removes_counts_at_once(up: Upstream, reloaded: Service) -> None:
    """Cached answers do not outlive it, and blocks neither."""
    client, name = "127.0.1.200", f"granted.{LISTED}"
    granted = {"exemptions": {"entries": [exemption("EX-2", [f"{client}/32"], ["ban"])]}}
    for change, addresses in ((granted, [address_of(name)]), ({}, ["0.0.0.0"]), (granted, [address_of(name)])):
        adopt(reloaded, merged(policy(up), change))
        for _ in range(2):
            assert ask(reloaded.dns, name, source=client).addresses == addresses


def test_a_group_that_moves_takes_its_clients_along_at_once(up: Upstream, reloaded: Service) -> None:
    assert is_blocked(reloaded.dns, LISTED, MANAGED)
    assert not is_blocked(reloaded.dns, LISTED, UNMANAGED)
    moved = {"groups": {"managed": {"networks": ["127.0.0.0/24"]}}, "exemptions": {"entries": []}}
    adopt(reloaded, merged(policy(up), moved))
    assert not is_blocked(reloaded.dns, LISTED, MANAGED)
    assert is_blocked(reloaded.dns, LISTED, UNMANAGED)


def test_a_name_that_is_cached_is_blocked_once_it_is_listed_also_as_an_alias(up: Upstream, reloaded: Service) -> None:
    up.on("alias.example", ["alias.example 300 IN CNAME cached.example", "cached.example 300 IN A 192.0.2.7"])
    for name in ("cached.example", "alias.example"):
        assert not is_blocked(reloaded.dns, name, MANAGED)
    adopt(reloaded, merged(policy(up), inline("cached.example")))
    for name in ("cached.example", "alias.example"):
        assert is_blocked(reloaded.dns, name, MANAGED)
        assert not is_blocked(reloaded.dns, name, EXEMPT)


def test_a_connection_that_is_open_during_a_reload_stays_and_has_the_new_policy(
    up: Upstream, reloaded: Service
) -> None:
    with TcpClient(reloaded.dns, MANAGED) as client:
        client.send(query("open.example"))
        assert read(client.receive() or b"").addresses == [address_of("open.example")]
        adopt(reloaded, merged(policy(up), inline("open.example")))
        client.send(query("open.example"))
        assert read(client.receive() or b"").addresses == ["0.0.0.0"]


def test_a_question_in_flight_is_judged_by_the_policy_that_is_in_force_when_it_is_answered(
    up: Upstream, reloaded: Service
) -> None:
    """A name listed meanwhile is not let through."""
    up.on("flight.example", lambda asked: [Send(reply(asked, "flight.example 300 IN A 192.0.2.8"), after_s=1.2)])
    reloaded.configure(merged(policy(up), inline("flight.example")))
    with UdpClient(reloaded.dns, MANAGED) as client:
        client.send(query("flight.example"))
        up.wait("flight.example")
        assert reloaded.command("reload").returncode == 0
        octets = client.receive()
    assert octets is not None
    assert read(octets).addresses == ["0.0.0.0"]


def test_a_cached_answer_is_used_further_after_a_reload_that_leaves_the_upstreams(
    up: Upstream, reloaded: Service
) -> None:
    ask(reloaded.dns, "kept.example", source=MANAGED)
    adopt(reloaded, merged(policy(up), inline("other.example")))
    assert ask(reloaded.dns, "kept.example", source=MANAGED).addresses == [address_of("kept.example")]
    assert len(up.queries("kept.example")) == 1


def test_other_upstreams_count_at_once_and_nothing_of_the_old_ones_is_kept(
    up: Upstream, reloaded: Service, upstreams: Callable[[], Upstream]
) -> None:
    """What is out to the old one when the reload comes is still answered."""
    other = upstreams()
    up.on("moved.example", "moved.example 300 IN A 192.0.2.1")
    other.on("moved.example", "moved.example 300 IN A 192.0.2.2")
    up.on("slow.example", lambda asked: [Send(reply(asked, "slow.example 300 IN A 192.0.2.1"), after_s=1.2)])
    other.on("slow.example", "slow.example 300 IN A 192.0.2.2")
    assert ask(reloaded.dns, "moved.example").addresses == ["192.0.2.1"]
    reloaded.configure(merged(policy(up), {"upstreams": [where(other.address)]}))
    with UdpClient(reloaded.dns) as client:
        client.send(query("slow.example"))
        up.wait("slow.example")
        assert reloaded.command("reload").returncode == 0
        assert ask(reloaded.dns, "moved.example").addresses == ["192.0.2.2"]
        assert ask(reloaded.dns, "slow.example").addresses == ["192.0.2.2"]
        octets = client.receive()
    assert octets is not None
    assert read(octets).addresses in (["192.0.2.1"], ["192.0.2.2"])
    assert ask(reloaded.dns, "slow.example").addresses == ["192.0.2.2"]
    assert [each["name"] for each in reloaded.control("status")["upstreams"]] == [where(other.address)]
    assert len(up.queries("moved.example")) == 1


# ---- several at once, and large ones ----


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still are there."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def is_builder(pid: int) -> bool:
    """Whether a process builds a policy."""
    try:
        return b"dnsfilter.build" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def builders(pid: int) -> int:
    """How many processes that build a policy this process has right now."""
    return sum(map(is_builder, children(pid)))


def test_of_reloads_at_once_one_runs_and_the_others_join_the_next(up: Upstream, reloaded: Service) -> None:
    before = generation(reloaded)
    reloaded.configure(merged(policy(up), inline("atonce.example")))
    most, stop = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.is_set():
            most = max(most, builders(reloaded.pid))

    with ThreadPoolExecutor(6) as pool:
        watching = pool.submit(watch)
        reloads = [pool.submit(reloaded.command, "reload") for _ in range(2)]
        controls = [pool.submit(reloaded.control, "reload") for _ in range(3)]
        done = [each.result() for each in reloads]
        results = [each.result() for each in controls]
        stop.set()
        watching.result()
    assert [each.returncode for each in done] == [0, 0]
    assert not any("error" in result for result in results)
    assert most == 1
    assert generation(reloaded) == before + 1
    assert is_blocked(reloaded.dns, "atonce.example", MANAGED)


class Asker(threading.Thread):
    """Asks for blocked names again and again, each of which has to be answered with the block."""

    def __init__(self, server: Address, names: list[str]) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._names = names
        self._stop_asking = threading.Event()
        self.asked = 0
        self.wrong: list[str] = []
        self.slowest_s = 0.0

    def run(self) -> None:
        """Ask, some hundred times a second."""
        random_ = random.Random(1)
        with UdpClient(self._server, MANAGED) as client:
            while not self._stop_asking.is_set():
                name = random_.choice(self._names)
                begun = time.monotonic()
                sent = query(name, ident=self.asked & 0xFFFF)
                client.send(sent)
                octets = client.receive(3.0)
                self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
                self.asked += 1
                if octets is None or octets[:2] != sent[:2] or read(octets).addresses != ["0.0.0.0"]:
                    self.wrong.append(f"{name}: {None if octets is None else octets.hex()}")
                time.sleep(0.001)

    def finish(self) -> None:
        """Stop, and wait for the last answer."""
        self._stop_asking.set()
        self.join()


def test_during_ten_reloads_of_a_large_list_every_blocked_name_is_blocked(
    up: Upstream, start: Start, tmp_path: Path
) -> None:
    """None is let through and none is lost, the service stays ready, and later reloads take no more memory."""
    path = tmp_path / "large.txt"
    text = "".join(f"n{number}.large.example\n" for number in range(LARGE))
    path.write_text(text)
    service = start(policy(up, lists={"ban": {"file": str(path)}}))
    asker = Asker(service.dns, [f"n{number}.large.example" for number in range(0, LARGE, 97)])
    asker.start()
    levels: list[float] = []
    try:
        for number in range(10):
            path.write_text(text + f"more{number}.large.example\n")
            with ThreadPoolExecutor(1) as pool:
                reload = pool.submit(service.control, "reload")
                assert ready(service)["ready"]
                result = reload.result()
            assert "error" not in result, result
            assert is_blocked(service.dns, f"more{number}.large.example", MANAGED)
            levels.append(resident(service.pid) / 2**20)
    finally:
        asker.finish()
    print(f"resident: {[round(level) for level in levels]} MiB; slowest {asker.slowest_s * 1e3:.0f} ms")
    assert levels[9] - levels[4] < 8
    assert asker.wrong == []
    assert asker.asked > 200
    assert asker.slowest_s < 1.0
    nothing_of(["large.example"], up)
    assert service.metric("dnsfilter_list_entries", list="ban") == LARGE + 1
    assert generation(service) == 11


def test_a_service_that_is_ended_during_a_reload_ends_and_leaves_no_process(up: Upstream, tmp_path: Path) -> None:
    """And the next start finds the state directory in order."""
    path = tmp_path / "large.txt"
    path.write_text("one.example\n")
    service = Service(tmp_path, policy(up, lists={"ban": {"file": str(path)}}))
    with service:
        path.write_text("".join(f"n{number}.large.example\n" for number in range(LARGE)))
        service.signal(signal.SIGHUP)
        eventually("it is being built", lambda: builders(service.pid), every_s=0.01)
        (child,) = children(service.pid)
    eventually("nothing is built any more", lambda: not is_builder(child), 2)
    with service:
        assert is_blocked(service.dns, "n1.large.example", MANAGED)
        assert sorted(path.name for path in service.state.iterdir()) == [
            "control.sock",
            "lists",
            "lock",
            "policy.snapshot",
        ]


# ---- list files that change on disk ----
# These wait for the service to look at its files, so they run side by side, each with a service of its own.


class Watched:
    """A service with some list files."""

    def __init__(self, up: Upstream, folder: Path, *names: str) -> None:
        self.paths = {name: folder / f"{name}.txt" for name in names}
        for name, path in self.paths.items():
            path.write_text(f"{name}.before.example\n")
        lists = {name: {"file": str(path)} for name, path in self.paths.items()}
        groups = {"managed": {"networks": ["127.0.1.0/24"], "block": list(lists)}, "default": {"block": []}}
        self.service = Service(folder, policy(up, lists=lists, groups=groups, exemptions={}))

    def blocks(self, name: str) -> bool:
        """Whether a name is blocked now."""
        return is_blocked(self.service.dns, name, MANAGED)

    def is_missed(self) -> bool:
        """Whether /ready complains of a list."""
        return "list" in ready(self.service)["degraded"]


def is_in_force_within_ten_seconds(up: Upstream, folder: Path) -> None:
    """Whether it is written over, replaced by another file, or grows while it is looked at."""
    watched = Watched(up, folder, "over", "renamed", "halves")
    with watched.service as service:
        with watched.paths["halves"].open("a") as halves:
            halves.write("halves.second.example\nhalves.aft")
            halves.flush()
            watched.paths["over"].write_text("over.after.example\n")
            fresh = folder / "fresh"
            fresh.write_text("renamed.after.example\n")
            fresh.rename(watched.paths["renamed"])
            time.sleep(2)  # shorter than a list has to rest before it is read
            halves.write("er.example\n")
        written = time.monotonic()
        for name in watched.paths:
            eventually(f"{name} is in force", partial(watched.blocks, f"{name}.after.example"))
        assert time.monotonic() - written < IN_FORCE_S
        assert not watched.blocks("halves.aft")
        assert not watched.blocks("over.before.example")
        assert watched.blocks("halves.before.example")
        assert generation(service) == 2, "a list was read before it was written to its end"
        assert service.metric("dnsfilter_list_entries", list="halves") == 3
        changed = service.metric("dnsfilter_list_changed_timestamp_seconds", list="over")
        assert changed == pytest.approx(watched.paths["over"].stat().st_mtime, abs=1)


def is_refused_once_when_it_breaks_and_read_when_it_is_mended(up: Upstream, folder: Path) -> None:
    """Without a command."""
    watched = Watched(up, folder, "ban")
    with watched.service as service:
        watched.paths["ban"].write_text("<!DOCTYPE html>\n<html><body>Sign in to the network</body></html>\n")
        eventually("it is refused", watched.is_missed)
        assert "list 'ban': " in service.output
        assert watched.blocks("ban.before.example")
        time.sleep(2.5)  # the file is looked at again meanwhile
        assert service.metric("dnsfilter_list_failures_total", list="ban") == 1
        assert generation(service) == 1
        watched.paths["ban"].write_text("ban.before.example\nban.mended.example\n")
        eventually("it is in force", lambda: watched.blocks("ban.mended.example"), IN_FORCE_S)
        eventually("nothing is degraded", lambda: not ready(service)["degraded"], 1)


def is_no_longer_complained_of_once_the_same_file_is_back(up: Upstream, folder: Path) -> None:
    """As with a mount that was away for a moment."""
    watched = Watched(up, folder, "ban")
    with watched.service as service:
        watched.paths["ban"].rename(folder / "aside")
        eventually("it is missed", watched.is_missed)
        assert watched.blocks("ban.before.example")
        (folder / "aside").rename(watched.paths["ban"])
        eventually("nothing is degraded", lambda: not ready(service)["degraded"])


def is_read_once_and_then_left_when_it_is_only_touched(up: Upstream, folder: Path) -> None:
    """The same octets with another time: nothing is built again and again."""
    watched = Watched(up, folder, "ban")
    with watched.service as service:
        os.utime(watched.paths["ban"], (1_700_000_000, 1_700_000_000))
        built: list[float] = []
        begun = time.monotonic()
        while time.monotonic() - begun < 9:
            if builders(service.pid):
                built.append(time.monotonic() - begun)
                eventually("it is built", lambda: not builders(service.pid), every_s=0.02)
            time.sleep(0.02)
        assert len(built) <= 1, f"read again and again, after {[round(at, 1) for at in built]} s"
        assert generation(service) == 1


def is_not_kept_waiting_by_another_that_is_written_without_a_pause(up: Upstream, folder: Path) -> None:
    """A list that never rests is that list's trouble."""
    watched = Watched(up, folder, "busy", "quiet")

    def is_in_force() -> bool:
        with watched.paths["busy"].open("a") as file:
            file.write(f"busy{time.monotonic_ns()}.example\n")
        return watched.blocks("quiet.after.example")

    with watched.service:
        watched.paths["quiet"].write_text("quiet.after.example\n")
        eventually("the quiet one is in force", is_in_force, IN_FORCE_S, every_s=0.2)


def is_held_back_when_it_loses_most_of_its_rules_by_itself(up: Upstream, folder: Path) -> None:
    """It may be half written. The command takes it over."""
    watched = Watched(up, folder, "ban")
    watched.paths["ban"].write_text("".join(f"n{number}.example\n" for number in range(20)))
    with watched.service as service:
        watched.paths["ban"].write_text("n19.example\n")
        eventually("it is held back", watched.is_missed)
        assert "20" in ready(service)["degraded"]["list"]
        assert "dnsfilter reload" in ready(service)["degraded"]["list"]
        assert watched.blocks("n1.example")
        done = service.command("reload")
        assert done.returncode == 0, done.stderr
        assert "list 'ban' changed: 20 entries before, 1 now" in done.stdout
        assert not watched.blocks("n1.example")
        assert watched.blocks("n19.example")
        assert not watched.is_missed()


def is_not_kept_out_by_another_that_breaks(up: Upstream, folder: Path) -> None:
    """The last good rules of the one that is gone stay; names listed since in the other are blocked."""
    watched = Watched(up, folder, "lost", "kept")
    with watched.service as service:
        watched.paths["lost"].unlink()
        eventually("it is missed", watched.is_missed)
        watched.paths["kept"].write_text("kept.after.example\n")
        eventually("the other one is in force", lambda: watched.blocks("kept.after.example"), IN_FORCE_S)
        assert watched.blocks("lost.before.example")
        assert "lost" in ready(service)["degraded"]["list"]


WATCHING = (
    is_in_force_within_ten_seconds,
    is_refused_once_when_it_breaks_and_read_when_it_is_mended,
    is_no_longer_complained_of_once_the_same_file_is_back,
    is_read_once_and_then_left_when_it_is_only_touched,
    is_not_kept_waiting_by_another_that_is_written_without_a_pause,
    is_held_back_when_it_loses_most_of_its_rules_by_itself,
    is_not_kept_out_by_another_that_breaks,
)
Scenario = Callable[[Upstream, Path], None]


@pytest.fixture(scope="module")
def outcomes(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Scenario, Future[None]]]:
    """What comes of all of them, begun at once."""
    with ThreadPoolExecutor(len(WATCHING)) as pool:
        yield {each: pool.submit(each, up, tmp_path_factory.mktemp("watched")) for each in WATCHING}


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(each, id=each.__name__.replace("_", " ")) for each in WATCHING],
)
def test_a_list_file_that_changes_on_disk(outcomes: dict[Scenario, Future[None]], scenario: Scenario) -> None:
    outcomes[scenario].result()


def test_the_reload_command_without_a_server_says_so(tmp_path: Path, up: Upstream) -> None:
    service = Service(tmp_path, policy(up))
    done = service.command("reload")
    assert done.returncode == 1
    assert "no server answers on" in done.stderr
    assert "dnsfilter run" in done.stderr
