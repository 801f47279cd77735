"""`dnsfilter lists`, with and without a server: the state of lists, and how good they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from dnsfilter.cli.lists import SHOWN, age
from dnsfilter.core.rules import SKIPPED_KEPT
from tests.scenarios.expect import where
from tests.scenarios.service import Service, command
from tests.scenarios.upstream import Upstream

OWN = "# Date: 2026-11-20\na.example # why\nbad line\nx.a.example # why\n"


def service(folder: Path, upstream: str = "192.0.2.53", own: str = OWN, **more: Any) -> Service:
    """Groups that block list `own`, a file, list `mine`, in the configuration, and more lists."""
    (folder / "own.txt").write_text(own)
    lists = {"own": {"file": str(folder / "own.txt")}, "mine": {"domains": ["b.example"], "mode": "observe"}}
    return Service(
        folder,
        {
            "upstreams": [upstream],
            "lists": {**lists, "both": {"lists": ["own", "mine"]}, **more},
            "groups": {"default": {"block": ["both", *more]}},
        },
    )


def rows(text: str) -> dict[str, list[str]]:
    """The first row, or line, that begins with each word."""
    found: dict[str, list[str]] = {}
    for cells in map(str.split, text.splitlines()):
        if cells:
            found.setdefault(cells[0], cells)
    return found


# ---- state ----


def test_the_state_of_each_list_by_the_files(tmp_path: Path) -> None:
    done = service(tmp_path).command("lists")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no server runs with this configuration's state directory: ")
    found = rows(done.stdout)
    assert found["list"] == ["list", "source", "mode", "entries", "skipped", "checked", "changed", "dated"]
    assert found["own"][:6] == ["own", "file", str(tmp_path / "own.txt"), "enforce", "2", "1"]
    assert found["own"][-1] == "2026-11-20"
    assert found["mine"][:5] == ["mine", "configuration", "observe", "1", "0"]
    assert "list 'own': 1 line skipped\n  line 3: more than one word" in done.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(-5, "0s", id="a clock that was set back"),
        pytest.param(59.9, "59s", id="seconds"),
        pytest.param(60, "1min", id="a minute"),
        pytest.param(3_599, "59min 59s", id="less than an hour"),
        pytest.param(2 * 86_400 + 59, "2d", id="days alone"),
        pytest.param(2 * 86_400 + 4 * 3_600 + 59 * 60, "2d 4h", id="days and hours"),
    ],
)
def test_an_age_has_two_units_at_the_most(seconds: float, text: str) -> None:
    assert age(1_800_000_000.0, 1_800_000_000.0 - seconds) == text


def test_a_built_in_list_that_nothing_uses_is_named_and_no_more(tmp_path: Path) -> None:
    quiet = service(tmp_path)
    (unused,) = [line for line in quiet.command("lists").stdout.splitlines() if line.startswith("built-in, and not")]
    found = json.loads(quiet.command("lists", "--json").stdout)
    assert unused == f"built-in, and not used: {', '.join(found['unused'])}"
    assert {"tiktok", "bytedance", "encrypted-dns"} <= set(found["unused"])
    assert [each["name"] for each in found["lists"]] == ["own", "mine"]


def test_the_state_by_the_running_server_tells_what_is_in_force(tmp_path: Path) -> None:
    with Upstream() as up, service(tmp_path, where(up.address)) as running:
        done = running.command("lists")
        assert (done.returncode, "no server" in done.stdout) == (0, False)
        assert rows(done.stdout)["own"][3:6] == ["enforce", "2", "1"]
        (tmp_path / "own.txt").unlink()
        running.command("reload")
        done = running.command("lists")
        assert done.returncode == 1
        assert f"list 'own': {tmp_path / 'own.txt'} does not exist" in done.stdout
        found = json.loads(running.command("lists", "--json").stdout)
        assert found["running"]
        assert [(each["name"], each["entries"], bool(each["problem"])) for each in found["lists"]] == [
            ("own", 2, True),
            ("mine", 1, False),
        ]


def test_server_and_files_tell_the_same_of_a_list(tmp_path: Path) -> None:
    with Upstream() as up, service(tmp_path, where(up.address)) as running:
        by_server = json.loads(running.command("lists", "--json").stdout)
    by_files = json.loads(running.command("lists", "--json").stdout)
    assert (by_server["running"], by_files["running"]) == (True, False)
    for served, read in zip(by_server["lists"], by_files["lists"], strict=True):
        same = read.keys() - {"checked_at", "changed_at"}
        assert {key: served[key] for key in same} == {key: read[key] for key in same}


def test_a_remote_list_without_a_copy_is_a_problem(tmp_path: Path) -> None:
    done = service(tmp_path, far={"url": "https://lists.example/t.txt?token=1"}).command("lists")
    assert done.returncode == 1
    assert "list 'far': it has not been fetched yet" in done.stdout
    assert rows(done.stdout)["far"][1:3] == ["url", "https://lists.example/t.txt?..."]
    assert rows(done.stdout)["far"][6:8] == ["never", "never"]
    assert "token" not in done.stdout


def test_what_a_list_says_is_never_markup_nor_cut(tmp_path: Path) -> None:
    folder = tmp_path / ("[red]" + "x" * 150)
    folder.mkdir()
    done = service(folder, own="a.example\n[blink]x[/] :smile:\n\x1b[31mred.example\n").command("lists")
    assert rows(done.stdout)["own"][2] == str(folder / "own.txt")
    assert "[blink]x[/] :smile:" in done.stdout
    assert "\\x1b[31mred.example" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_list_with_more_skipped_lines_than_are_kept_says_how_many_more(tmp_path: Path) -> None:
    done = service(tmp_path, own="a.example\n" + "bad line\n" * (SKIPPED_KEPT + 5)).command("lists", "--all")
    assert f"list 'own': {SKIPPED_KEPT + 5} lines skipped" in done.stdout
    assert done.stdout.count("  line ") == SKIPPED_KEPT
    assert "  and 5 more\n" in done.stdout


def test_a_wrong_configuration_or_list_is_status_2(tmp_path: Path) -> None:
    done = command("lists", "-c", tmp_path / "none.yaml")
    assert (done.returncode, str(tmp_path / "none.yaml") in done.stderr) == (2, True)
    quiet = service(tmp_path)
    (tmp_path / "own.txt").unlink()
    done = quiet.command("lists")
    assert (done.returncode, "own.txt does not exist" in done.stderr) == (2, True)


# ---- lint ----


def test_lint_judges_the_lists_in_use_or_those_named(tmp_path: Path) -> None:
    quiet = service(tmp_path)
    done = quiet.command("lists", "lint")
    assert done.returncode == 1
    assert rows(done.stdout)["list"] == ["list", "line", "kind", "name", "what"]
    lines = [line.split(maxsplit=4) for line in done.stdout.splitlines()]
    assert ["own", "4", "redundant", "x.a.example", "is covered by a.example"] in [
        [*line[:4], line[4].strip()] for line in lines if len(line) > 4
    ]
    assert done.stdout.splitlines()[-1] == "2 lists, 2 findings"
    done = quiet.command("lists", "lint", "mine")
    assert (done.returncode, done.stdout) == (0, "1 list, 0 findings\n")
    found = json.loads(quiet.command("lists", "lint", "both", "mine", "--json").stdout)
    assert found["counts"] == [
        {"list": "own", "kind": "skipped", "count": 1},
        {"list": "own", "kind": "redundant", "count": 1},
    ]
    assert [(each["list_name"], each["line"], each["kind"]) for each in found["findings"]] == [
        ("own", 3, "skipped"),
        ("own", 4, "redundant"),
    ]


def test_lint_reads_a_file_in_the_format_that_it_looks_like(tmp_path: Path) -> None:
    quiet, new = service(tmp_path), tmp_path / "new.txt"
    new.write_text("tiktok.example # x\n")
    done = quiet.command("lists", "lint", str(new))
    assert (done.returncode, "is named like list 'tiktok'" in done.stdout) == (1, True)
    new.write_text("! Title: x\n||a.example^\n||b.example^\n")
    done = quiet.command("lists", "lint", str(new))
    assert (done.returncode, done.stdout) == (0, "1 list, 0 findings\n")


def test_entries_without_evidence_are_told_and_no_failure(tmp_path: Path) -> None:
    names = "".join(f"n{number}.example\n" for number in range(SHOWN + 5))
    quiet = service(tmp_path, own=f"a.example # why\n{names}")
    done = quiet.command("lists", "lint", "own")
    assert done.returncode == 0
    assert done.stdout.count("does not say behind a # why") == SHOWN
    assert "list 'own', no evidence: 5 more; --all prints more of them" in done.stdout
    assert quiet.command("lists", "lint", "own", "--all").stdout.count("does not say behind a # why") == SHOWN + 5


def test_lint_goes_on_after_a_list_that_is_not_there(tmp_path: Path) -> None:
    quiet = service(tmp_path, far={"url": "https://lists.example/t.txt"})
    done = quiet.command("lists", "lint", "far", "mine")
    assert (done.returncode, done.stdout) == (1, "1 list, 0 findings\n")
    assert done.stderr.startswith("list 'far': it has not been fetched yet")


def test_the_lists_that_are_blocked_by_default_have_no_fault(tmp_path: Path) -> None:
    done = service(tmp_path).command("lists", "lint", "tiktok", "bytedance", "encrypted-dns")
    assert done.returncode == 0, done.stdout


# ---- score ----


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    """Three names that were seen, and one that must stay reachable."""
    folder = tmp_path / "evidence"
    folder.mkdir()
    (folder / "seen.txt").write_text("www.a.example\nb.example\nmissed.example\n")
    (folder / "must-not-block.txt").write_text("# == innocent (1 name)\nfine.example\n")
    return folder


def test_score_takes_several_lists_as_one(tmp_path: Path, evidence: Path) -> None:
    quiet = service(tmp_path)
    done = quiet.command("lists", "score", "both", "--against", str(evidence))
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout)["seen.txt"] == ["seen.txt", "-", "3", "2", "66.7%", "all"]
    assert rows(done.stdout)["must-not-block.txt"] == ["must-not-block.txt", "innocent", "1", "0", "0.0%", "none"]
    assert done.stdout.endswith("seen.txt: 1 name missed\n  missed.example\n")
    done = quiet.command("lists", "score", str(tmp_path / "own.txt"), "--against", str(evidence), "--json")
    assert [(each["file"], each["names"], each["blocked"], each["share"]) for each in json.loads(done.stdout)] == [
        ("must-not-block.txt", 1, 0, 0.0),
        ("seen.txt", 3, 1, pytest.approx(1 / 3)),
    ]


def test_what_must_not_be_blocked_and_is_fails(tmp_path: Path, evidence: Path) -> None:
    (evidence / "must-not-block.txt").write_text("# == innocent\nfine.example\nwww.x.a.example\n")
    quiet = service(tmp_path)
    for more in ([], ["--json"]):
        done = quiet.command("lists", "score", "own", "--against", str(evidence), *more)
        assert done.returncode == 1
        assert "www.x.a.example" in done.stdout
        assert more or "must-not-block.txt, innocent: 1 name BLOCKED, and must not be" in done.stdout


def test_score_prints_the_first_names_or_all(tmp_path: Path, evidence: Path) -> None:
    (evidence / "seen.txt").write_text("".join(f"n{number}.example\n" for number in range(SHOWN + 5)))
    quiet = service(tmp_path)
    done = quiet.command("lists", "score", "own", "--against", str(evidence))
    assert done.stdout.count("\n  n") == SHOWN
    assert "  and 5 more; --all prints them" in done.stdout
    done = quiet.command("lists", "score", "own", "--against", str(evidence), "--all")
    assert done.stdout.count("\n  n") == SHOWN + 5


# ---- what cannot be done ----


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        pytest.param(["lint", "nope"], 1, "there is no list 'nope'", id="an unknown list"),
        pytest.param(["lint", "./nope.txt"], 1, "does not exist", id="a file that is not there"),
        pytest.param(["score", "own"], 2, "--against DIR", id="score without names"),
        pytest.param(["score", "--against", "."], 2, "--against DIR", id="score without lists"),
        pytest.param(["score", "own", "--against", "/dev/null"], 1, "no *.txt files", id="no directory"),
        pytest.param(["polish"], 2, "invalid choice", id="an unknown action"),
    ],
)
def test_what_cannot_be_done_says_why(tmp_path: Path, words: list[str], status: int, part: str) -> None:
    done = service(tmp_path).command("lists", *words)
    assert (done.returncode, part in done.stderr) == (status, True), done.stderr


# ---- lists of addresses ----


def test_a_list_of_addresses_has_its_state_and_no_names_to_look_at(tmp_path: Path) -> None:
    found = service(tmp_path, edge={"addresses": ["203.0.113.0/24", "2001:db8:bad::/48"], "mode": "observe"})
    done = found.command("lists")
    assert rows(done.stdout)["edge"][:5] == ["edge", "configuration", "observe", "2", "0"]
    done = found.command("lists", "lint", "edge")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 lists, 0 findings\n", "")
