"""`dnsfilter check`: a configuration judged without serving, and compared with the server that runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scenarios.expect import exemption
from tests.scenarios.service import Service, command
from tests.scenarios.upstream import Upstream


def write(folder: Path, config: dict[str, Any]) -> Path:
    """Write a configuration and return where."""
    path = folder / "dnsfilter.yaml"
    whole = {"upstreams": ["192.0.2.53"], "state": str(folder / "state"), **config}
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return path


def ban(*names: str) -> dict[str, Any]:
    """A configuration that bans some names."""
    return {"lists": {"ban": {"domains": list(names)}}, "groups": {"default": {"block": ["ban", "encrypted-dns"]}}}


def test_a_good_configuration_is_told_with_its_lists_and_its_hash(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a.example\nb.example\nnot a name\ntok\n")
    config = {"lists": {"a": {"file": "a.txt"}}, "groups": {"default": {"block": ["a", "encrypted-dns"]}}}
    done = command("check", "-c", write(tmp_path, config))
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0] == f"list 'a' (file {tmp_path / 'a.txt'}): 2 entries, 2 lines skipped"
    assert lines[1].startswith("  line 3: ")
    assert lines[2].startswith("  line 4: ")
    assert lines[3].startswith("list 'encrypted-dns' (built-in): ")
    assert lines[-2] == "no server runs with this configuration's state directory: nothing to compare with"
    assert lines[-1].startswith("ok: policy ")
    assert not done.stderr
    assert not (tmp_path / "state").exists(), "a check leaves nothing behind"


def test_as_json_it_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a.example\nnot a name\n")
    path = write(tmp_path, {"lists": {"a": {"file": "a.txt"}}, "groups": {"default": {"block": ["a"]}}})
    done = command("check", "-c", path, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert [(each["name"], each["entries"], each["skipped_lines"]) for each in found["lists"]] == [("a", 1, 1)]
    assert found["changes"] is None
    assert len(found["warnings"]) == 1
    assert f"ok: policy {found['hash']}" in command("check", "-c", path).stdout


@pytest.mark.parametrize(
    ("config", "said"),
    [
        pytest.param({"lists": {"ban": {"domains": ["a.example"]}}}, "no group uses it", id="an unused list"),
        pytest.param(
            {"lists": {"ban": {"domains": ["a.example"]}}, "groups": {"default": {"block": ["ban"]}}},
            "not encrypted-dns",
            id="a ban without encrypted-dns",
        ),
        pytest.param(
            {**ban("a.example"), "exemptions": {"entries": [exemption("E-1", ["10.0.0.0/8"], ["ban"])]}},
            "no timezone",
            id="exemptions without a time zone",
        ),
        pytest.param(
            {
                **ban("a.example"),
                "timezone": "UTC",
                "exemptions": {"entries": [exemption("E-1", ["10.0.0.0/8"], ["ban"], end="2024-01-01")]},
            },
            "it is over",
            id="an exemption that is over",
        ),
        pytest.param(
            {**ban("a.gouv.example"), "protected": ["gouv.example"]},
            "not blocked because of `protected`: a.gouv.example",
            id="a listed name that is protected",
        ),
    ],
)
def test_what_an_admin_would_not_see_is_a_warning_with_its_line(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    path = write(tmp_path, config)
    done = command("check", "-c", path)
    assert done.returncode == 0, done.stderr
    assert any(line.startswith("warning: ") and said in line for line in done.stdout.splitlines()), done.stdout


def test_lists_that_cannot_be_used_are_all_told_and_are_status_2(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("0.0.0.0 x.example\n")
    lists = {"a": {"file": "a.txt"}, "b": {"file": "b.txt"}}
    done = command("check", "-c", write(tmp_path, {"lists": lists, "groups": {"default": {"block": list(lists)}}}))
    assert done.returncode == 2
    assert f"list 'a': {tmp_path / 'a.txt'} does not exist" in done.stderr
    assert "list 'b': 0 of 1 lines understood, expected format domains, looks like hosts" in done.stderr
    assert not done.stdout


def test_a_list_with_control_characters_is_shown_escaped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a.example\nba\x1b[2Jd.example\n\0\n")
    config = {"lists": {"a": {"file": "a.txt"}}, "groups": {"default": {"block": ["a"]}}}
    done = command("check", "-c", write(tmp_path, config))
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\0" not in done.stdout
    assert r"ba\x1b[2Jd.example" in done.stdout


@pytest.fixture
def service(up: Upstream, tmp_path: Path) -> Service:
    """A service that does not run yet."""
    return Service(tmp_path, {"upstreams": [f"127.0.0.1:{up.address[1]}"], **ban("a.example")})


def test_compared_with_the_running_server(up: Upstream, service: Service) -> None:
    """It says what a reload would change and changes nothing."""
    base = {"upstreams": [f"127.0.0.1:{up.address[1]}"]}
    with service:
        before = service.control("status")["policy"]
        same = service.command("check")
        assert "a reload would change nothing" in same.stdout
        assert f"ok: policy {before['hash']}" in same.stdout
        assert json.loads(service.command("check", "--json").stdout)["changes"] == []

        service.configure({**base, **ban("a.example", "b.example")})
        lines = service.command("check").stdout.splitlines()
        at = lines.index("a reload would change:")
        assert lines[at + 1] == "  list 'ban' changed: 1 entries before, 2 now"
        told = json.loads(service.command("check", "--json").stdout)["changes"]
        assert told == ["list 'ban' changed: 1 entries before, 2 now"]
        assert service.control("status")["policy"] == before
        assert service.control("reload")["changes"] == told

        service.configure({**base, **ban("a.example"), "cache": {"entries": 5}})
        assert "needs a restart" in service.command("check").stdout

        service.config_file.write_text("groups: {}\nnonsense: 1\n")
        wrong = service.command("check")
        assert wrong.returncode == 2
        assert f"{service.config_file}:2" in wrong.stderr
    ended = service.command("check")
    assert ended.returncode == 2


def test_after_the_server_ended_there_is_nothing_to_compare_with(service: Service) -> None:
    """Although its policy is still on disk."""
    with service:
        pass
    done = service.command("check")
    assert done.returncode == 0
    assert "no server runs with this configuration's state directory" in done.stdout
