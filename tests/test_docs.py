"""What the documents show is run: examples, configurations, keys, metrics, list lines, links."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin
from zoneinfo import ZoneInfo

import certifi
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from dnsfilter import build, changes
from dnsfilter.cli.main import main
from dnsfilter.config import lint, times
from dnsfilter.config.load import Loaded, load
from dnsfilter.config.schema import Config
from dnsfilter.core import special
from dnsfilter.core.clients import Style, address
from dnsfilter.core.names import from_text, to_text
from dnsfilter.core.policy import Action, decide
from dnsfilter.core.rules import Match
from dnsfilter.engine.interface import DURATIONS, Counters
from dnsfilter.lists import formats, source
from dnsfilter.lists.errors import BadList
from dnsfilter.observe import metrics
from dnsfilter.settings import Request
from dnsfilter.snapshot import Head
from dnsfilter.upstream.group import BUCKETS, REASONS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.yaml"))
TEXTS: Mapping[str, str] = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/**/*.md", "bench/*.md")
    for path in sorted(ROOT.glob(pattern))
}
CONFIGURATION, FORMATS, LISTS, METRICS = (
    TEXTS[f"docs/{name}.md"] for name in ("configuration", "formats", "lists", "metrics")
)
BEFORE_EXEMPTIONS = datetime(2027, 5, 1, tzinfo=UTC).timestamp()


# ---- reading Markdown ----


@dataclass(frozen=True)
class Block:
    """A fenced block with its language, or an indented one, which has none."""

    file: str
    line: int
    language: str
    text: str


def blocks(file: str) -> Iterator[Block]:
    lines = TEXTS[file].splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("```"):
            inside = list(takewhile(lambda each: not each.startswith("```"), lines[at + 1 :]))
            yield Block(file, at + 1, line[3:].strip(), "\n".join(inside))
            at += len(inside) + 2
        elif line.startswith("    ") and not (at and lines[at - 1].strip()):
            inside = list(takewhile(lambda each: not each.strip() or each.startswith("    "), lines[at:]))
            yield Block(file, at + 1, "", "\n".join(each[4:] for each in inside))
            at += len(inside)
        else:
            at += 1


def is_configuration(block: Block) -> bool:
    """A block that says so, or an indented one with a top-level key of ours."""
    keys = "|".join(Config.model_fields)
    return block.language == "yaml" or (
        not block.language and re.search(rf"^({keys}):", block.text, re.MULTILINE) is not None
    )


ALL_BLOCKS = [block for file in TEXTS for block in blocks(file)]
CONFIGURATIONS = [block for block in ALL_BLOCKS if is_configuration(block)]


def rows(text: str, *header: str) -> list[list[str]]:
    """Return the rows of all tables whose first columns are headed so."""
    found: list[list[str]] = []
    is_inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else []
        if cells[: len(header)] == list(header):
            is_inside = True
        elif not cells:
            is_inside = False
        elif is_inside and not set("".join(cells)) <= set("-: "):
            found.append(cells)
    return found


def codes(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return [code.replace(r"\|", "|") for code in re.findall(r"`([^`]+)`", cell)]


def section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


# ---- examples and configurations ----


every_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)


def loaded(text: str, path: Path | None = None) -> Loaded:
    return load(path, builtin=source.builtin(), text=text)


@every_example
def test_an_example_passes_check(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(path)]) == 0, capsys.readouterr().err
    assert "ok: policy" in capsys.readouterr().out


@every_example
def test_an_example_has_nothing_to_be_warned_of(path: Path) -> None:
    assert lint.warnings(loaded(path.read_text(encoding="utf-8"), path), BEFORE_EXEMPTIONS) == []


@every_example
def test_a_list_of_an_example_has_no_skipped_line(path: Path) -> None:
    head = build.build(build.read(Request(config=str(path)))).head
    assert {each.name: each.skipped for each in head.lists if each.skipped_lines} == {}


@pytest.mark.parametrize("shipped", source.builtin().values(), ids=source.builtin())
def test_a_shipped_list_has_no_skipped_line(shipped: source.Builtin) -> None:
    rules = formats.parse(shipped.path.read_bytes(), "domains", formats.default_match("domains"))
    assert rules.skipped == []


def test_the_small_office_has_ten_lines() -> None:
    assert len((DOCS / "examples/small-office.yaml").read_text(encoding="utf-8").splitlines()) == 10


def test_every_file_among_the_examples_is_used_by_one() -> None:
    every = "".join(path.read_text(encoding="utf-8") for path in EXAMPLES)
    beside = [path.name for path in (DOCS / "examples").iterdir() if path.suffix != ".yaml"]
    assert [name for name in beside if f"file: {name}" not in every] == []


@pytest.mark.parametrize(
    ("example", "client", "asked", "day", "verdict", "by"),
    [
        pytest.param("small-office", "192.168.10.77", "www.tiktok.com", 1, "blocked", "tiktok", id="a small office"),
        pytest.param("small-office", "192.168.10.77", "shop.example", 1, "forwarded", "", id="all else goes on"),
        pytest.param("ministry", "10.20.1.1", "www.tiktok.com", 10, "blocked", "tiktok", id="a work phone"),
        pytest.param("ministry", "2001:db8:20:1::1", "tiktok.com", 10, "blocked", "tiktok", id="over IPv6"),
        pytest.param("ministry", "10.20.8.9", "www.tiktok.com", 1, "blocked", "tiktok", id="before the exemption"),
        pytest.param("ministry", "10.20.8.9", "www.tiktok.com", 10, "exempted", "tiktok", id="within the exemption"),
        pytest.param("ministry", "10.20.8.9", "www.tiktok.com", 28, "exempted", "tiktok", id="its last day"),
        pytest.param("ministry", "10.20.8.9", "www.tiktok.com", 29, "blocked", "tiktok", id="after the exemption"),
        pytest.param("ministry", "10.20.8.9", "dns.google", 10, "blocked", "encrypted-dns", id="what it leaves closed"),
        pytest.param("ministry", "10.20.1.1", "www.chat.example", 1, "blocked", "ministry", id="the ministry's list"),
        pytest.param("ministry", "10.20.1.1", "login.phish.example", 1, "blocked", "csirt", id="the hosts list"),
        pytest.param("ministry", "10.20.1.1", "a.login.phish.example", 1, "forwarded", "", id="and nothing below"),
        pytest.param("ministry", "10.20.1.1", "games.example", 1, "observed", "trial", id="a list on trial"),
        pytest.param("ministry", "10.20.1.1", "www.press.example", 1, "allowed", "", id="the press review"),
        pytest.param("ministry", "10.90.1.1", "www.tiktok.com", 1, "forwarded", "", id="a guest"),
        pytest.param("ministry", "10.1.1.1", "www.tiktok.com", 1, "blocked", "tiktok", id="an unknown address"),
        pytest.param("allow-only", "10.40.0.1", "www.time.example", 1, "forwarded", "", id="an approved name"),
        pytest.param("allow-only", "10.40.0.1", "other.example", 1, "blocked", "only", id="any other name"),
        pytest.param("allow-only", "10.41.0.1", "other.example", 1, "observed", "only", id="a group on trial"),
        pytest.param("allow-only", "10.50.0.1", "other.example", 1, "forwarded", "", id="other clients"),
        pytest.param("encrypted", "10.0.0.9", "www.tiktok.com", 1, "blocked", "tiktok", id="encrypted upstreams"),
    ],
)
def test_an_example_does_what_its_comments_say(
    example: str, client: str, asked: str, day: int, verdict: str, by: str
) -> None:
    policy = build.build(build.read(Request(config=str(DOCS / f"examples/{example}.yaml")))).policy()
    row = policy.clients.find(address(client))
    assert row is not None
    noon = datetime(2027, 5, day, 12, tzinfo=UTC).timestamp()
    found = decide(policy, row, from_text(asked), noon)
    assert (found.action, found.list_name) == (verdict, by)


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=lambda block: f"{block.file}:{block.line}")
def test_a_configuration_in_a_document_loads(block: Block) -> None:
    assert loaded(block.text).config.groups


@pytest.mark.parametrize("file", ["README.md", "docs/lists.md"])
def test_the_configurations_of_a_document_are_found(file: str) -> None:
    assert any(block.file == file for block in CONFIGURATIONS)


# ---- keys of the configuration ----


def schema_keys(model: type[BaseModel] = Config, path: str = "") -> Iterator[str]:
    """Yield the path of every value: groups.NAME.block, forward[].zone."""
    for name, field in model.model_fields.items():
        key = path + (field.alias or name)
        inner, sign = _model(field.annotation)
        if inner is None:
            yield key
        else:
            yield from schema_keys(inner, f"{key}{sign}.")


def _model(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    sign = {dict: ".NAME", tuple: "[]"}.get(get_origin(annotation), "")
    for part in get_args(annotation):
        if (found := _model(part))[0] is not None:
            return found[0], sign
    return None, ""


KEY_ROWS = rows(CONFIGURATION, "key", "type", "default", "meaning")
# What has to stand beside a key so that it can be tried.
REMOTE: Mapping[str, Any] = MappingProxyType({"url": "https://lists.example/mine.txt"})
BESIDE: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "lists.NAME": {"file": "mine.txt"},
        "groups.NAME": {"block": []},
        "lists.NAME.refresh": REMOTE,
        "lists.NAME.max_growth": REMOTE,
        "lists.NAME.max_rejected": REMOTE,
    }
)


def plain(text: str) -> Any:
    """Read YAML as the configuration does: every scalar is the text that was written."""
    return yaml.load(text, Loader=yaml.BaseLoader)


def with_key(key: str, value: str | None) -> Config:
    """Load a configuration in which `key` has this value; None: in which it is not written."""
    around, _, last = key.rpartition(".")
    document: Any = dict(BESIDE.get(key) or BESIDE.get(around, {}))
    if value is not None:
        document[last] = plain(value)
    for part in reversed([part for part in around.split(".") if part]):
        document = {"default" if part == "NAME" else part: document}
    return loaded(yaml.safe_dump(document)).config


def at(config: Config, key: str) -> object:
    value: Any = config
    for part in key.split("."):
        if isinstance(value, dict):
            value = value["default"]
            continue
        by_alias = {field.alias or name: name for name, field in type(value).model_fields.items()}
        value = getattr(value, by_alias[part])
    return value


def test_every_key_is_described_once_and_every_key_described_exists() -> None:
    assert sorted(codes(row[0])[0] for row in KEY_ROWS) == sorted(schema_keys())


DEFAULTS = [
    (codes(key)[0], codes(default)[0])
    for key, _, default, _ in KEY_ROWS
    if re.fullmatch("`[^`]+`", default) and "[]" not in key
]


@pytest.mark.parametrize(("key", "default"), DEFAULTS, ids=[key for key, _ in DEFAULTS])
def test_a_default_is_what_is_described(key: str, default: str) -> None:
    assert at(with_key(key, default), key) == at(with_key(key, None), key)


WORDS = [
    (codes(key)[0], word)
    for key, kind, *_ in KEY_ROWS
    for word in codes(kind)
    if "[]" not in key and word not in set(schema_keys())
]


@pytest.mark.parametrize(("key", "word"), WORDS, ids=[f"{key}: {word}" for key, word in WORDS])
def test_a_word_that_a_key_is_said_to_take_is_taken(key: str, word: str) -> None:
    assert at(with_key(key, word), key) != at(with_key(key, None), key) or (key, word) in DEFAULTS


SOME_CHANGE = {
    "access": "[192.0.2.0/24]",
    "upstreams": "[192.0.2.54]",
    "forward": "[{zone: intra.example, upstreams: [192.0.2.1]}]",
    "lists": "{mine: {domains: [app.example]}}",
    "protected": "[bank.example]",
    "groups": "{default: {block: []}}",
    "exemptions": "{max_duration: 30d}",
    "timezone": "Europe/Paris",
    "blocking": "{ttl: 30}",
    "resolve.strategy": "strict",
    "resolve.timeout": "1s",
    "resolve.deadline": "6s",
    "resolve.max_concurrent": "2000",
    "resolve.bootstrap": "[192.0.2.54]",
    "resolve.ca_file": certifi.where(),
    "resolve.random_case": "on",
    "resolve.rebind_protection": "on",
    "resolve.private_domains": "[corp.example]",
    "rate_limit": "{queries_per_second: 100}",
    "cache.entries": "10",
    "cache.max_ttl": "30m",
    "cache.max_negative_ttl": "1m",
    "cache.serve_stale": "off",
    "log.level": "debug",
    "workers": "2",
    "listen.dns": '["192.0.2.1:53"]',
    "listen.metrics": '"192.0.2.1:9153"',
    "listen.admin": '"127.0.0.1:9354"',
    "state": "/var/tmp/dnsfilter",
}
RELOAD_ROWS = [(key, how) for keys, how in rows(CONFIGURATION, "change", "taken over by") for key in codes(keys)]


def test_it_is_said_of_every_key_how_a_change_is_taken_over() -> None:
    said = [key for key, _ in RELOAD_ROWS]
    assert len(said) == len(set(said))
    covered = {
        key: [each for each in said if f"{key}.".replace("[]", "").startswith(f"{each}.")] for key in schema_keys()
    }
    assert {key: by for key, by in covered.items() if len(by) != 1} == {}


@pytest.mark.parametrize(("key", "how"), RELOAD_ROWS, ids=[key for key, _ in RELOAD_ROWS])
def test_a_change_is_taken_over_as_described(key: str, how: str) -> None:
    def head(document: object) -> Head:
        return build.build(build.read(Request(text=yaml.safe_dump(document)))).head

    base = {"upstreams": ["192.0.2.53"]}
    change = plain(SOME_CHANGE[key])
    for part in reversed(key.split(".")):
        change = {part: change}
    assert bool(changes.needs_restart(head(base), head({**base, **change}))) is (how == "restart")


def test_the_decision_is_described_in_its_order() -> None:
    said = re.findall(r"^\d\. \*\*(\w+)\*\*", section(CONFIGURATION, "The decision"), re.MULTILINE)
    assert said == list(Action)


def test_the_answers_described_are_those_there_are() -> None:
    assert [codes(row[0])[0] for row in rows(CONFIGURATION, "answer", "A, AAAA")] == list(Style)


def test_names_said_to_be_answered_here_are_and_canaries_are_all_told() -> None:
    decision = section(CONFIGURATION, "The decision")
    local = decision.partition("2. **local**")[2].partition("\n3. ")[0]
    told = [code for code in codes(local) if code != "forward"]
    assert [name for name in told if special.find(from_text(name)) is None] == []
    assert set(map(to_text, special.CANARIES)) <= set(codes(decision))


@pytest.mark.parametrize(
    ("written", "start", "end"),
    [(codes(written)[0], start, end) for written, start, end in rows(CONFIGURATION, "written", "as start, UTC")],
)
def test_a_moment_is_what_is_described(written: str, start: str, end: str) -> None:
    zone = ZoneInfo("Europe/Paris")
    found = (times.start(written, zone), times.end(written, zone))
    assert tuple(datetime.fromtimestamp(each, UTC).strftime("%Y-%m-%dT%H:%M") for each in found) == (start, end)


# ---- lists ----


FORMAT_ROWS = [
    (name, (codes(line) or [""])[0], outcome)
    for name in formats.FORMATS
    for line, outcome in rows(section(FORMATS, f"Format {name}"), "line", "what becomes of it")
]
GOOD = {
    "domains": "good.example\n",
    "hosts": "0.0.0.0 good.example\n",
    "adblock": "||good.example^\n",
    "dnsmasq": "local=/good.example/\n",
    "rpz": "$ORIGIN rpz.example.\n@ SOA a.example. b.example. 1 2 3 4 5\ngood.example CNAME .\n",
}
OUTCOME = re.compile(r"(blocked|allowed): (?:all below ([^; ]+)|([^; ]+) (alone|and all below it))")


def said_of(outcome: str) -> set[tuple[str, str, str]]:
    """Return the rules that a cell tells: blocked or allowed, the part of the rules, the name."""
    kinds = {"alone": "exact", "and all below it": "suffix", "": "below"}
    return {(action, kinds[covers], below or name) for action, below, name, covers in OUTCOME.findall(outcome)}


def rules_of(format_name: str, line: str) -> tuple[set[tuple[str, str, str]], list[str]]:
    """Return what a line becomes in a list that has another rule, and the reasons of what is skipped."""
    octets = (GOOD[format_name] + line + "\n").encode()
    rules = formats.parse(octets, format_name, formats.default_match(format_name))
    found = set()
    for kind in ("exact", "suffix", "below"):
        for action, part in (("blocked", kind), ("allowed", f"allow_{kind}")):
            found |= {(action, kind, to_text(name)) for name in getattr(rules, part)}
    return {each for each in found if each[2] != "good.example"}, [each.reason for each in rules.skipped]


@pytest.mark.parametrize(("format_name", "line", "outcome"), FORMAT_ROWS, ids=[f"{f}: {t}" for f, t, _ in FORMAT_ROWS])
def test_a_line_of_a_list_becomes_what_is_described(format_name: str, line: str, outcome: str) -> None:
    said = said_of(outcome)
    skipped = re.search(r"skipped: (`+)(.+)\1$", outcome)
    assert said or skipped or outcome.startswith("ignored")
    assert rules_of(format_name, line) == (said, [skipped[2].replace(r"\|", "|")] if skipped else [])


@pytest.mark.parametrize("format_name", formats.FORMATS)
def test_the_lines_of_a_format_are_described(format_name: str) -> None:
    outcomes = [outcome for name, _, outcome in FORMAT_ROWS if name == format_name]
    assert all(any(outcome.startswith(word) for outcome in outcomes) for word in ("blocked", "ignored", "skipped"))


def test_what_a_name_covers_in_each_format_is_described() -> None:
    said = {codes(name)[0]: covers for name, _, covers in rows(FORMATS, "format", "what it is", "a name covers")}
    words = {Match.SUFFIX: "itself and all below; ", Match.EXACT: "itself; ", None: "what the line says"}
    assert list(said) == list(formats.FORMATS)
    assert all(said[each].startswith(words[formats.default_match(each)]) for each in formats.FORMATS)


MODIFIERS = [
    (modifier, becomes.partition(":")[0])
    for cell, becomes in rows(FORMATS, "modifier", "what becomes of a rule with it")
    for modifier in codes(cell)
]


@pytest.mark.parametrize(("modifier", "becomes"), MODIFIERS, ids=[modifier for modifier, _ in MODIFIERS])
def test_a_modifier_does_what_is_described(modifier: str, becomes: str) -> None:
    rule = {("blocked", "suffix", "app.example")}
    said, skipped = rules_of("adblock", f"||app.example^${modifier}\n@@||app.example^")
    assert bool(skipped) is (becomes == "skipped")
    assert (said & rule == rule) is (becomes == "ignored" or modifier == "important")


BAD_LISTS = {
    "nothing": b"",
    "comments": b"# nothing\n\n",
    "another syntax": b"||a.example^\n||b.example^\n",
    "a web page": b"<!DOCTYPE html>\n<p>404</p>\n",
    "compressed": b"\x1f\x8b\x08\x00",
    "half of UTF-16": b"\xff\xfea",
}


def test_what_refuses_a_list_is_what_is_described() -> None:
    said = {codes(message)[0] for _, message in rows(FORMATS, "the file", "message")}
    found = set()
    for format_name, octets in [
        *(("domains", octets) for octets in BAD_LISTS.values()),
        ("adblock", b"@@||a.example^\n"),
    ]:
        with pytest.raises(BadList) as caught:
            formats.parse(octets, format_name, formats.default_match(format_name))
        found |= {each for each in said if str(caught.value).startswith(each.removesuffix(" ..."))}
    assert found == said
    assert len(said) == len(BAD_LISTS)


def test_the_built_in_lists_are_described() -> None:
    said = {codes(name)[0]: (category, origin) for name, category, origin, _ in rows(LISTS, "list", "category")}
    assert said == {name: (each.category, each.origin or "none") for name, each in source.builtin().items()}


# ---- metrics ----


STATE = metrics.State(
    version="1.0",
    engine="python",
    counters=Counters({}, {}, [0] * (len(DURATIONS) + 1), 0.0, 0, 0, {}, {}),
    group_lists={"managed": ["tiktok", "canary", "only"]},
    upstreams=[
        metrics.UpstreamCounts(
            name="192.0.2.53:53",
            is_healthy=True,
            queries=0,
            failures=dict.fromkeys(REASONS, 0),
            bounds=BUCKETS,
            durations=[0] * (len(BUCKETS) + 1),
            duration_sum_s=0.0,
        )
    ],
    lists=[metrics.ListCounts("tiktok", 1, 0, 0.0, 0.0, 0)],
    policy_hash="0123456789abcdef",
    generation=1,
    is_reload_successful=True,
    reloaded_at=0.0,
    is_ready=True,
    degraded=frozenset(),
    exemption_ends={"COMM-1": 0.0},
    socket_drops=0,
)


@dataclass(frozen=True)
class Rendered:
    kind: str
    help: str
    labels: frozenset[str]
    values: Mapping[str, frozenset[str]]  # of each label


def rendered() -> dict[str, Rendered]:
    """Return the metrics of one scrape by the name that they have there."""
    found = {}
    for family in text_string_to_metric_families(metrics.render(STATE).decode()):
        labels: dict[str, set[str]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
        if family.type == "histogram":
            labels.pop("le")
        name = family.samples[0].name if family.type == "counter" else family.name
        values = {label: frozenset(seen) for label, seen in labels.items()}
        found[name] = Rendered(family.type, family.documentation, frozenset(labels), values)
    return found


RENDERED = rendered()
METRIC_ROWS = {codes(row[0])[0]: row for row in rows(METRICS, "metric", "type", "labels", "meaning")}


def test_every_metric_is_described_and_every_metric_described_exists() -> None:
    said = {name: (kind, frozenset(codes(labels))) for name, (_, kind, labels, _) in METRIC_ROWS.items()}
    assert said == {name: (each.kind, each.labels) for name, each in RENDERED.items()}
    assert len(METRIC_ROWS) == len(rows(METRICS, "metric", "type", "labels", "meaning"))


@pytest.mark.parametrize("label", ["reason", "transport", "family"])
def test_the_words_of_a_closed_set_are_all_told(label: str) -> None:
    told = {name: set(codes(METRIC_ROWS[name][3])) for name, each in RENDERED.items() if label in each.labels}
    assert told
    assert {name for name, words in told.items() if not RENDERED[name].values[label] <= words} == set()


@pytest.mark.parametrize("name", RENDERED)
def test_a_metric_is_named_by_the_rules_of_prometheus(name: str) -> None:
    each = RENDERED[name]
    assert re.fullmatch("dnsfilter(_[a-z]+)+", name)
    assert name.endswith("_total") is (each.kind == "counter")
    assert not re.search(r"_(ms|us|milliseconds|microseconds|minutes|hours|kb|kib|mb|percent)(_|$)", name)
    if each.kind == "histogram" or "_timestamp" in name or "_duration" in name:
        assert name.removesuffix("_total").endswith("_seconds")
    assert not re.search(r"_(bucket|sum|count|gauge|counter)$", name)
    assert each.help.strip()
    assert all(re.fullmatch("[a-z][a-z_]*", label) for label in each.labels)


PROMQL = [block for block in ALL_BLOCKS if block.language == "promql"]


@pytest.mark.parametrize("block", PROMQL, ids=lambda block: f"{block.file}:{block.line}")
def test_an_expression_uses_metrics_and_labels_that_exist(block: Block) -> None:
    found = re.findall(r"\b(dnsfilter_\w+)(?:\{([^}]*)\})?", block.text)
    assert found
    for name, selector in found:
        base = re.sub("_(bucket|sum|count)$", "", name)
        assert name in RENDERED or RENDERED[base].kind == "histogram"
        known = RENDERED[name if name in RENDERED else base]
        for label, sign, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selector):
            assert label in known.labels
            if label == "reason":
                assert {value} <= known.values[label] or sign == "=~"
                assert all(word in known.values[label] for word in value.split("|"))
    for grouping in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", block.text):
        known_labels = frozenset().union(*(each.labels for each in RENDERED.values()))
        assert {label.strip() for label in grouping.split(",")} <= known_labels
    assert block.text.count("(") == block.text.count(")")


def test_every_metric_in_any_document_exists() -> None:
    named = {name for text in TEXTS.values() for name in re.findall(r"\bdnsfilter_[a-z_]+[a-z]\b(?!\()", text)}
    bases = {re.sub("_(bucket|sum|count)$", "", name) for name in named}
    assert bases - RENDERED.keys() == set()


# ---- links ----


LINKS = [
    (file, target)
    for file, text in TEXTS.items()
    for target in re.findall(r"(?<!\\)\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))
    if not re.match("[a-z]+:", target)
]


def anchors(text: str) -> set[str]:
    """Return the anchors that headings have, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"(?ms)^```.*?^```$", "", text), re.MULTILINE)
    plain = [unicodedata.normalize("NFC", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize(("file", "target"), LINKS, ids=[f"{file}: {target}" for file, target in LINKS])
def test_a_link_points_to_something_that_is_there(file: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    pointed = (ROOT / file).parent / path if path else ROOT / file
    assert pointed.exists()
    assert pointed.resolve().is_relative_to(ROOT)
    if anchor:
        assert anchor in anchors(pointed.read_text(encoding="utf-8"))
