"""`dnsfilter status`: the running server in one look."""

import json
from pathlib import Path

from tests.cli.conftest import MANAGED
from tests.scenarios.client import ask
from tests.scenarios.expect import where
from tests.scenarios.service import Service, command
from tests.scenarios.upstream import Upstream


def test_it_says_ready_the_policy_the_addresses_the_lists_and_the_upstreams(up: Upstream, server: Service) -> None:
    done = server.command("status")
    lines = done.stdout.splitlines()
    running = server.control("status")
    assert done.returncode == 0
    assert not done.stderr
    assert lines[0] == "ready"
    policy = running["policy"]
    assert lines[1].startswith(f"policy {policy['hash']}, generation {policy['generation']}, since ")
    assert lines[2] == f"listening on {where(server.dns)}"
    text = done.stdout
    assert f"list 'ministry' (file {server.config_file.parent / 'ban.txt'}): 4 entries, changed " in text
    assert "list 'tiktok' (built-in): " in text
    assert "list 'urgent' (configuration): 2 entries" in text
    assert f"upstream {where(up.address)}: up, " in text
    for ident in ("IN-FORCE", "PLANNED", "ENDED"):
        assert f"exemption {ident}: until " in text
    assert "\x1b" not in text, "colour where there is no terminal"


def test_as_json_it_says_all_of_it(up: Upstream, server: Service) -> None:
    ask(server.dns, "plain.example", source=MANAGED)
    done = server.command("status", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["ready"] is True
    assert found["reasons"] == []
    assert found["degraded"] == {}
    assert found["config"] == str(server.config_file)
    assert found["engine"] == "python"
    assert found["listen"] == {"dns": [where(server.dns)], "admin": where(server.admin)}
    lists = {each["name"]: each for each in found["lists"]}
    assert set(lists) == {"ministry", "hosts", "urgent", "watch", "approved", "tiktok"}
    assert (lists["ministry"]["entries"], lists["ministry"]["skipped_lines"]) == (4, 0)
    assert lists["watch"]["mode"] == "observe"
    assert [each["name"] for each in found["upstreams"]] == [where(up.address)]
    assert found["upstreams"][0]["healthy"] is True
    assert found["upstreams"][0]["queries"] >= 1
    assert set(found["exemption_ends"]) == {"IN-FORCE", "PLANNED", "ENDED"}


def test_degraded_is_said_and_is_still_ready(up: Upstream, tmp_path: Path) -> None:
    path = tmp_path / "ban.txt"
    path.write_text("banned.example\n")
    config = {
        "upstreams": [where(up.address)],
        "lists": {"ban": {"file": str(path)}},
        "groups": {"default": {"block": ["ban"]}},
    }
    with Service(tmp_path, config) as service:
        path.unlink()
        assert "does not exist" in service.control("reload")["problems"]["ban"]
        done = service.command("status")
        assert done.returncode == 0
        assert done.stdout.splitlines()[0] == "ready"
        assert f"degraded (list): list 'ban': {path} does not exist" in done.stdout
        found = json.loads(service.command("status", "--json").stdout)
        assert (found["ready"], list(found["degraded"])) == (True, ["list"])


def test_without_a_server_it_is_status_1_and_says_how_to_start_one(tmp_path: Path) -> None:
    service = Service(tmp_path, {"upstreams": ["192.0.2.53"]})
    for words in ((), ("--json",)):
        done = service.command("status", *words)
        assert done.returncode == 1
        assert not done.stdout
        assert f"no server answers on {service.state / 'control.sock'}" in done.stderr
        assert "dnsfilter run" in done.stderr


def test_a_configuration_that_is_not_there_is_status_2(tmp_path: Path) -> None:
    done = command("status", "-c", tmp_path / "none.yaml")
    assert done.returncode == 2
    assert str(tmp_path / "none.yaml") in done.stderr


def test_a_state_directory_of_another_user_is_told_as_such(server: Service) -> None:
    """The control socket is for owner and group."""
    assert (server.state / "control.sock").stat().st_mode & 0o777 == 0o660
