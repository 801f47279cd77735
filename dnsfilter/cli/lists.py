"""`dnsfilter lists`: the state of each list; `lint` and `score` say how good lists are."""

import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dnsfilter import admission, build, control
from dnsfilter.admission import Source
from dnsfilter.cli.configured import build_all, state_of
from dnsfilter.cli.output import complain, dump, say
from dnsfilter.config.problems import ConfigError
from dnsfilter.config.sets import expand
from dnsfilter.control import Json
from dnsfilter.core.rules import Rules
from dnsfilter.lists import formats, source
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats import syntax
from dnsfilter.lists.formats.text import shown
from dnsfilter.lists.lint import Finding, Kind, Listed, Report, lint
from dnsfilter.lists.score import Score, score
from dnsfilter.lists.store import Store
from dnsfilter.settings import Request

SHOWN = 20  # names of one kind that are printed without --all
WIDE = 10_000  # columns, where no terminal bounds them
_HEAD = 16_384  # octets by which a file's format is known
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_NUMBERS = ("entries", "skipped", "line", "names", "blocked", "share")  # columns to the right
_LONG = ("source", "file", "name", "what")  # those that give way on a narrow terminal

# What is told of a list, by a server or by the files.
_TOLD = (
    *("name", "source", "format", "match", "mode", "entries", "skipped_lines", "skipped", "checked_at", "changed_at"),
    *("dated", "problem"),
)


def main(options: Namespace) -> int:
    """Print the state, or judge."""
    judge = {None: _state, "lint": _lint, "score": _score}[options.action]
    try:
        return judge(options)
    except ConfigError as error:
        complain(str(error))
        return 2
    except BadList as error:
        complain(str(error))
        return 1


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in _NUMBERS else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column not in _LONG)
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(Text(str(cell)) for cell in cells))  # never markup: a list may say anything


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print(table)


# ---- state ----


def _state(options: Namespace) -> int:
    """Print each list: by the running server, else by the files. Exit 1 where one is not as its source says."""
    try:
        answer = control.request(state_of(options), {"command": "status"}, timeout_s=15.0)
    except control.NoServer:
        built = build_all(options)
        if built is None:
            return 2
        answer = {"lists": [{key: value for key, value in asdict(x).items() if key in _TOLD} for x in built.head.lists]}
        is_running = False
    else:
        is_running = True
    if "error" in answer:
        complain(answer["error"])
        return 1
    lists = answer["lists"]
    unused = sorted(source.builtin().keys() - {each["name"] for each in lists})
    if options.json:
        dump({"lists": lists, "running": is_running, "unused": unused})
    else:
        _print_state(lists, unused, is_running=is_running, everything=options.all)
    return 1 if any(each["problem"] for each in lists) else 0


def _print_state(lists: list[Json], unused: list[str], *, is_running: bool, everything: bool) -> None:
    if not is_running:
        say("no server runs with this configuration's state directory: this is what one would begin with now")
    now = time.time()
    table = _table("list", "source", "mode", "entries", "skipped", "checked", "changed", "dated")
    for each in lists:
        ages = (age(now, each["checked_at"]), age(now, each["changed_at"]))
        counts = (each["entries"], each["skipped_lines"])
        _row(table, each["name"], each["source"], each["mode"], *counts, *ages, each["dated"])
    _print(table)
    for each in lists:
        if each["problem"]:
            say(f"\nlist '{each['name']}': {each['problem']}")
    for each in lists:
        if each["skipped_lines"]:
            say(f"\nlist '{each['name']}': {_of(each['skipped_lines'], 'line')} skipped")
            _some(each["skipped"], each["skipped_lines"], everything=everything)
    if unused:
        say(f"\nbuilt-in, and not used: {', '.join(unused)}")


def age(now: float, then: float) -> str:
    """Return how long ago that was, as 2d 4h. then: 0 means never."""
    if not then:
        return "never"
    left = max(0, int(now - then))
    for (unit, size), (smaller, part) in pairwise(_UNITS):
        if left >= size:
            rest = left % size // part
            return f"{left // size}{unit}" + (f" {rest}{smaller}" if rest else "")
    return f"{left}s"


def _of(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _some(lines: list[str], count: int, *, everything: bool) -> None:
    """Print lines, the first ones unless all are wanted; count: how many there would be."""
    printed = lines if everything else lines[:SHOWN]
    for line in printed:
        say(f"  {line}")
    if len(printed) < count:
        say(f"  and {count - len(printed)} more" + ("; --all prints them" if len(printed) < len(lines) else ""))


# ---- which lists ----


def _sources(options: Namespace) -> Iterator[Source]:
    """Yield the lists and files that are named, each once; if none is, all that the configuration uses.

    Raises ConfigError, BadList.
    """
    request = Request(config=options.config)
    loaded = build.configuration(request)
    store = Store(build.state_of(loaded, request))
    used = {each.name: each for each in admission.gather(loaded, request, store, time.time())}
    builtin = source.builtin()
    found: dict[str, Source] = {} if options.what else used
    for word in options.what:
        if word in loaded.config.lists or word in builtin:
            for name in expand(loaded.config, loaded.builtin, [word]):
                if name in used or name in builtin:  # a list of addresses has no names to look at
                    found[name] = used.get(name) or admission.shipped(builtin[name])
        elif "/" in word or "." in word:
            found[word] = _file(word)
        else:
            raise BadList(f"there is no list '{word}'; write a file with its path, as in ./{word}")
    yield from found.values()


def _file(word: str) -> Source:
    """Return a file as a list, in the format that it looks like. Raises BadList."""
    octets = source.read_file(Path(word))
    looks_like = syntax.of_lines(map(shown, octets[:_HEAD].splitlines()))
    format_name = looks_like if looks_like in formats.FORMATS else "domains"
    return Source(word, "file", word, format_name, formats.default_match(format_name), "enforce", octets)


def _octets(each: Source) -> bytes:
    """Return what a list says, or what it said last. Raises BadList."""
    if each.octets is not None:
        return each.octets
    good = None if each.kept is None else each.kept.good
    octets = None if good is None else each.copy(good.sha256)
    if octets is None:
        raise BadList(each.fault)
    return octets


# ---- lint ----


def _lint(options: Namespace) -> int:
    """Print what is odd; exit 1 if anything is but entries without evidence, of which other people's lists are full."""
    lists, are_all_there = list[Listed](), True
    for each in _sources(options):
        try:
            lists.append(Listed(each.name, _octets(each), each.format, each.match, each.kind == "inline"))
        except BadList as error:
            complain(f"list '{each.name}': {error}")
            are_all_there = False
    report = lint(lists, admission.guards(), known=source.builtin())
    if options.json:
        counts = [{"list": name, "kind": kind, "count": n} for (name, kind), n in report.counts.items()]
        dump({"findings": [asdict(each) for each in report.findings], "counts": counts})
    else:
        _print_report(report, len(lists), everything=options.all)
    return 0 if are_all_there and all(kind is Kind.NO_EVIDENCE for _, kind in report.counts) else 1


def _print_report(report: Report, lists: int, *, everything: bool) -> None:
    printed, told = list[Finding](), Counter[tuple[str, Kind]]()
    for finding in report.findings:
        key = finding.list_name, finding.kind
        if everything or told[key] < SHOWN:
            printed.append(finding)
            told[key] += 1 if finding.line else report.counts[key]
    if printed:
        table = _table("list", "line", "kind", "name", "what")
        for each in printed:
            _row(table, each.list_name, each.line or "-", each.kind, each.name or "-", each.text)
        _print(table)
    for (name, kind), count in report.counts.items():
        if left := count - told[name, kind]:
            say(f"list '{name}', {kind}: {left} more" + ("" if everything else "; --all prints more of them"))
    say(f"{_of(lists, 'list')}, {_of(report.counts.total(), 'finding')}")


# ---- score ----


def _score(options: Namespace) -> int:
    """Print how much of the names in a directory is blocked; exit 1 if any is that must not be."""
    if not options.what or options.against is None:
        complain("usage: dnsfilter lists score LIST|FILE... --against DIR")
        return 2
    found = score([_rules(each) for each in _sources(options)], Path(options.against))
    if options.json:
        dump([{**asdict(each), "share": each.share} for each in found])
    else:
        _print_scores(found, everything=options.all)
    return 1 if any(each.offending and not each.is_wanted for each in found) else 0


def _rules(each: Source) -> Rules:
    try:
        return formats.parse(_octets(each), each.format, each.match)
    except BadList as error:
        raise BadList(f"list '{each.name}': {error}") from None


def _print_scores(found: list[Score], *, everything: bool) -> None:
    table = _table("file", "section", "names", "blocked", "share", "wanted")
    for each in found:
        wanted = "all" if each.is_wanted else "none"
        _row(table, each.file, each.section or "-", each.names, each.blocked, f"{each.share:.1%}", wanted)
    _print(table)
    for each in found:
        place = f"{each.file}, {each.section}" if each.section else each.file
        if each.unread:
            say(f"\n{place}: {_of(each.unread, 'line')} without a name in it")
        if each.offending:
            what = "missed" if each.is_wanted else "BLOCKED, and must not be"
            say(f"\n{place}: {_of(len(each.offending), 'name')} {what}")
            _some(each.offending, len(each.offending), everything=everything)
