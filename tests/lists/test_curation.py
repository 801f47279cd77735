"""How the shipped lists are made: what ships is what the generator makes, and it refuses what is not fit to ship."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    """The module, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "curation" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


generate = load("generate")
CURATION = generate.read(ROOT / "curation")
MADE = {each.path.stem: generate.text(each, CURATION.sources) for each in CURATION.lists}
SHIPPED = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "blocklists").glob("*.txt")}


def test_what_stands_in_the_folder_is_fit_to_ship() -> None:
    assert list(generate.problems(CURATION)) == []


@pytest.mark.parametrize("name", sorted(SHIPPED.keys() | MADE.keys()))
def test_what_ships_is_what_the_generator_makes(name: str) -> None:
    assert SHIPPED.get(name) == MADE.get(name)


def test_every_source_has_a_worth_and_a_date() -> None:
    for source in CURATION.sources.values():
        assert source.worth in {"A", "B", "C", "D"}, source.key
        assert source.date, source.key


HEAD = {
    "name": "app",
    "title": "App",
    "category": "social",
    "origin": "none",
    "purpose": "p",
    "side_effects": "s",
    "licence": "CC0-1.0",
    "date": "2026-01-02",
}


def entry(name: str = "app.example.com", **changed: Any) -> dict[str, Any]:
    return {"name": name, "class": "service", "evidence": ["maker"], **changed}


def without(key: str) -> dict[str, Any]:
    return {other: value for other, value in entry().items() if other != key}


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """Write a small curation; return its root. lists: the entries of each; head: what differs in list `app`."""

    def write(head: dict[str, Any] | None = None, left_out: Any = (), **lists: list[dict[str, Any]]) -> Path:
        folder = tmp_path / "curation"
        (folder / "entries").mkdir(parents=True)
        (tmp_path / "blocklists").mkdir()
        source = {"title": "the maker", "family": "maker", "worth": "A", "licence": "facts", "date": "2026-01-02"}
        dump(folder / "sources.yaml", {"maker": source})
        dump(folder / "sources-more.yaml", {"general-knowledge": {**source, "title": "general knowledge"}})
        dump(folder / "classes.yaml", {"owned": "", "customer": "", "service": ""})
        dump(folder / "left_out.yaml", list(left_out))
        for name, entries in lists.items():
            said = {**HEAD, "name": name, **(head or {}), "sections": [{"title": "All: of it", "entries": entries}]}
            dump(folder / "entries" / f"{name}.yaml", said)
        return tmp_path

    def dump(path: Path, data: Any) -> None:
        path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")

    return write


WRONG = [
    pytest.param([without("class")], "app.example.com: class (none) is not in", id="no class"),
    pytest.param([entry(**{"class": "mine"})], "app.example.com: class mine is not in", id="unknown class"),
    pytest.param([without("evidence")], "app.example.com: no evidence", id="no evidence"),
    pytest.param([entry(evidence=[])], "app.example.com: no evidence", id="empty evidence"),
    pytest.param([entry(evidence=["who"])], "app.example.com: evidence who is in no", id="unknown source"),
    pytest.param([entry(evidence=["general-knowledge"])], "alone, without a note", id="knowledge without a note"),
    pytest.param([entry(), entry()], "app.example.com: is there twice", id="twice"),
    pytest.param([entry(), entry("a.app.example.com")], "a.app.example.com: below app.example.com", id="below another"),
    pytest.param([entry("com")], "com: not a name in normal form", id="a single label"),
    pytest.param([entry("co.uk")], "co.uk: a public suffix", id="a public suffix"),
    pytest.param([entry("github.io")], "github.io: a public suffix", id="a platform's suffix"),
    pytest.param([entry("a.test.invalid")], "a.test.invalid: a public suffix", id="no top-level domain"),
    pytest.param([entry(**{"class": "owned"})], "owned, but not a registrable domain", id="owned, but deeper"),
    pytest.param([entry("x.github.io", **{"class": "owned"})], "owned, but not a reg", id="owned, on a platform"),
    pytest.param([entry("example.com")], "service, but all of somebody's domain", id="service, but all of a domain"),
    pytest.param([entry("example.com", **{"class": "customer"})], "customer, but all", id="customer, but all of it"),
    pytest.param([entry("App.example.com")], "normal form", id="capitals"),
    pytest.param([entry("app.example.com.")], "normal form", id="final dot"),
    pytest.param([entry("bücher.example.com")], "normal form", id="not ASCII"),
    pytest.param([entry("*.example.com")], "normal form", id="a wildcard"),
    pytest.param([entry("/(^|\\.)app\\.example\\.com$/")], "normal form", id="an expression"),
    pytest.param([entry("app..example.com")], "normal form", id="an empty label"),
    pytest.param([entry(f"{'a' * 64}.example.com")], "normal form", id="a label of 64"),
    pytest.param([entry("192.0.2.1")], "192.0.2.1: not a name in normal form", id="an address"),
    pytest.param([entry(notes="typed wrongly")], "app.example.com: notes is no key", id="unknown key"),
]


@pytest.mark.parametrize(("entries", "fault"), WRONG)
def test_a_wrong_entry_is_refused_by_file_and_name(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str], entries: list[dict[str, Any]], fault: str
) -> None:
    root = project(app=entries)
    assert generate.main([], root) == 1
    said = capsys.readouterr().err
    assert said.startswith("app.yaml: ")
    assert fault in said
    assert list((root / "blocklists").iterdir()) == []


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        pytest.param({"purpose": ""}, "the head lacks purpose", id="a key without a value"),
        pytest.param({"name": "other"}, "name other is not the file's", id="another name"),
        pytest.param({"category": "misc"}, "category misc is none of", id="unknown category"),
        pytest.param({"origin": "France"}, "origin France is neither", id="no country"),
        pytest.param({"date": "25.11.2026"}, "date 25.11.2026 is not", id="no date"),
    ],
)
def test_a_wrong_head_is_refused(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str], head: dict[str, Any], fault: str
) -> None:
    assert generate.main([], project(head, app=[entry()])) == 1
    assert f"app.yaml: {fault}" in capsys.readouterr().err


def test_a_file_without_sections_is_refused_by_name(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = project(app=[entry()])
    (root / "curation" / "entries" / "app.yaml").write_text("- only: this\n", encoding="utf-8")
    assert generate.main([], root) == 1
    assert "app.yaml: " in capsys.readouterr().err


def test_a_name_in_two_lists_needs_a_reason(project: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([], project(app=[entry()], other=[entry()])) == 1
    assert "app.yaml: app.example.com: is in other.yaml too" in capsys.readouterr().err


def test_a_name_in_two_lists_with_a_reason_is_in_both(project: Callable[..., Path]) -> None:
    root = project(app=[entry()], other=[entry(also="both need it")])
    assert generate.main([], root) == 0
    assert "also in another list: both need it" in (root / "blocklists" / "other.txt").read_text(encoding="utf-8")


def test_a_name_left_out_is_in_no_list(project: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    left = [{"name": "b.app.example.com", "reason": "somebody else's"}]
    assert generate.main([], project(left_out=left, app=[entry()])) == 1
    assert "left_out.yaml: b.app.example.com: app.yaml lists app.example.com" in capsys.readouterr().err


def test_what_is_written_can_be_read_again(project: Callable[..., Path]) -> None:
    root = project(app=[entry(note="its API"), entry("example.org", **{"class": "owned"})])
    assert generate.main([], root) == 0
    lines = (root / "blocklists" / "app.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# name: app"
    assert "# All: of it" in lines
    assert [line.split(maxsplit=1)[0] for line in lines if line and line[0] != "#"] == [
        "app.example.com",
        "example.org",
    ]
    assert lines[-2].endswith(" # service; the maker; its API")


def test_check_writes_nothing_and_tells_what_differs(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = project(app=[entry()])
    assert generate.main(["--check"], root) == 1
    assert "blocklists/app.txt is not what curation/ makes" in capsys.readouterr().err
    assert list((root / "blocklists").iterdir()) == []
    assert generate.main([], root) == 0
    assert generate.main(["--check"], root) == 0
    (root / "blocklists" / "stray.txt").write_text("# name: stray\n", encoding="utf-8")
    assert generate.main(["--check"], root) == 1
    assert "blocklists/stray.txt has no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "innocent", "status", "said"),
    [
        pytest.param(
            "www.tiktok.com", "www.example.com", 0, "functional hosts of TikTok, default lists: 1 of 1", id="all met"
        ),
        pytest.param("host.example.com", "www.example.com", 1, "       host.example.com", id="a host missed"),
        pytest.param("www.tiktok.com", "a.tiktok.com", 1, "       a.tiktok.com", id="too much blocked"),
    ],
)
def test_measure_tells_what_is_missed(tmp_path: Path, named: str, innocent: str, status: int, said: str) -> None:
    (tmp_path / "ndpi_tiktok.txt").write_text(f"# a list\n{named}\n", encoding="utf-8")
    (tmp_path / "must-not-block.txt").write_text(f"{innocent}\n", encoding="utf-8")
    command = [sys.executable, str(ROOT / "curation" / "measure.py"), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == status, run.stderr
    assert said in run.stdout
