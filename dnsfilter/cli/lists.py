"""`dnsfilter lists`: the state of each list; `lint` and `score` say how good lists are."""

import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dnsfilter import admission, build, control
from dnsfilter.admission import Source
from dnsfilter.cli.output import build_all, complain, dump, say, state_of
from dnsfilter.config.problems import ConfigError
from dnsfilter.config.sets import expand
from dnsfilter.control import Json
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists import formats, source
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.lint import Kind, Listed, lint
from dnsfilter.lists.score import Score, score
from dnsfilter.settings import Request

SHOWN = 20  # names of one kind that are printed
WIDE = 10_000  # columns, where nobody looks at it

_COLUMNS = ("list", "source", "mode", "entries", "skipped", "checked", "changed", "dated")
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def main(options: Namespace) -> int:
    """Print the state, or judge."""
    try:
        if options.action == "lint":
            return _lint(options)
        if options.action == "score":
            return _score(options)
        return _state(options)
    except ConfigError as error:
        complain(str(error))
        return 2
    except BadList as error:
        complain(str(error))
        return 1


def _print(table: Table) -> None:
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=WIDE, no_color=True)
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_number = column in ("entries", "skipped", "line", "names", "blocked", "share")
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(Text(str(cell)) for cell in cells))


# ---- state ----


def _state(options: Namespace) -> int:
    """Print each list: by the running server, else by the files. Exit 1 where one is not as its source says."""
    try:
        lists = control.request(state_of(options), {"command": "status"}, timeout_s=15.0)["lists"]
        is_running = True
    except control.NoServer:
        built = build_all(options)
        if built is None:
            return 2
        lists, is_running = [asdict(each) for each in built.head.lists], False
    if options.json:
        dump({"lists": lists, "running": is_running})
    else:
        _print_state(lists, is_running=is_running, everything=options.all)
    return 1 if any(each["problem"] for each in lists) else 0


def _print_state(lists: list[Json], *, is_running: bool, everything: bool) -> None:
    if not is_running:
        say("no server runs with this configuration's state directory: the lists as they would be taken over now")
    table, now = _table(*_COLUMNS), time.time()
    for each in lists:
        ages = [_age(now - each[key]) if each[key] else "never" for key in ("checked_at", "changed_at")]
        numbers = each["entries"], each["skipped_lines"]
        _row(table, each["name"], each["source"], each["mode"], *numbers, *ages, each["dated"])
    _print(table)
    for each in lists:
        if each["problem"]:
            say(f"\nlist '{each['name']}': {each['problem']}")
        if each["skipped_lines"]:
            shown = each["skipped"] if everything else each["skipped"][:SHOWN]
            say(f"\nlist '{each['name']}': {each['skipped_lines']} lines skipped")
            for line in shown:
                say(f"  {line}")
            if len(shown) < each["skipped_lines"]:
                say(f"  and {each['skipped_lines'] - len(shown)} more")


def _age(seconds: float) -> str:
    """Return an age in its two largest units: 2d 4h."""
    left, parts = max(0, int(seconds)), list[str]()
    for unit, size in _UNITS:
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2])


# ---- which lists ----


def _sources(options: Namespace) -> Iterator[Source]:
    """Yield the lists and files that are named; without any, all that the configuration uses. Raises BadList."""
    inputs = build.read(Request(config=options.config))
    read = {each.name: each for each in inputs.sources}
    builtin = source.builtin()
    if not options.what:
        yield from inputs.sources
    for word in options.what:
        if word in inputs.loaded.config.lists or word in builtin:
            for name in expand(inputs.loaded.config, inputs.loaded.builtin, [word]):
                yield read.get(name) or admission.shipped(builtin[name])
        elif "/" in word or "." in word:
            octets = source.read_file(Path(word))
            yield Source(word, "file", word, "domains", Match.SUFFIX, "enforce", octets, path=Path(word))
        else:
            raise BadList(f"there is no list '{word}'; a file is named with its path: ./{word}")


def _octets(each: Source) -> bytes:
    """Return what a list says, or said last. Raises BadList."""
    good = None if each.kept is None else each.kept.good
    octets = each.octets or (None if good is None or each.kept is None else each.kept.octets(good.sha256))
    if octets is None:
        raise BadList(f"list '{each.name}': {each.fault}")
    return octets


# ---- lint ----


def _lint(options: Namespace) -> int:
    """Print what is odd; exit 1 if anything is but entries without evidence, of which other people's lists are full."""
    lists = [Listed(each.name, _octets(each), each.format, each.match) for each in _sources(options)]
    report = lint(lists, known=source.builtin())
    if options.json:
        counts = [{"list": name, "kind": kind, "count": n} for (name, kind), n in sorted(report.counts.items())]
        dump({"findings": [asdict(each) for each in report.findings], "counts": counts})
    else:
        table, left = _table("list", "line", "kind", "what"), dict(report.counts)
        for finding in report.findings:
            key = finding.list_name, finding.kind
            if options.all or report.counts[key] - left[key] < SHOWN:
                _row(table, finding.list_name, finding.line or "", finding.kind, finding.text)
                left[key] -= 1 if finding.line else left[key]
        if report.findings:
            _print(table)
        for (name, kind), more in sorted(left.items()):
            if more > 0:
                say(f"list '{name}', {kind}: {more} more")
        say(f"{len(lists)} lists, {report.counts.total()} findings")
    return 1 if any(kind is not Kind.NO_EVIDENCE for _, kind in report.counts) else 0


# ---- score ----


def _score(options: Namespace) -> int:
    """Print how much of the names in a directory is blocked; exit 1 if any is that must not be."""
    if not options.what or options.against is None:
        complain("usage: dnsfilter lists score LIST|FILE... --against DIR")
        return 2
    rules: list[Rules] = []
    for each in _sources(options):
        rules.append(formats.parse(_octets(each), each.format, each.match))
    found = score(rules, Path(options.against))
    if options.json:
        dump([{**asdict(each), "blocked": each.blocked} for each in found])
    else:
        _print_scores(found, everything=options.all)
    return 1 if any(each.offending and not each.is_wanted for each in found) else 0


def _print_scores(found: list[Score], *, everything: bool) -> None:
    table = _table("file", "section", "names", "blocked", "share")
    for each in found:
        _row(table, each.file, each.section, each.names, each.blocked, f"{each.blocked / each.names:.1%}")
    _print(table)
    for each in found:
        if each.offending:
            what = "missed" if each.is_wanted else "BLOCKED, and must not be"
            say(f"\n{each.file}{f' ({each.section})' if each.section else ''}: {len(each.offending)} {what}")
            shown = each.offending if everything else each.offending[:SHOWN]
            for name in shown:
                say(f"  {name}")
            if len(shown) < len(each.offending):
                say(f"  and {len(each.offending) - len(shown)} more; --all prints them")
