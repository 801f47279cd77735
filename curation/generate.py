"""The shipped lists, made from what stands beside this file: read, judged, written to blocklists/.

    python curation/generate.py            judge all entries, then write blocklists/*.txt
    python curation/generate.py --check    write nothing; fail if a file in blocklists/ is not what would be written

Exit status 1, with file and entry named, if an entry is not fit to ship.
"""

import datetime
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from publicsuffixlist import PublicSuffixList

ROOT = Path(__file__).resolve().parent.parent
HEAD = ("name", "title", "category", "origin", "purpose", "side_effects", "licence", "date")
FIELDS = frozenset({"name", "class", "evidence", "note", "also"})
CATEGORIES = frozenset(
    (
        *("social", "streaming", "games", "dating", "messaging", "creative"),
        *("ai", "advertising", "enterprise", "security", "bypass"),
    )
)
# Knowledge that no file attests: the note has to say what is known.
UNRECORDED = "general-knowledge"

_NORMAL = re.compile(r"(?=.{4,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])")
_SUFFIXES = PublicSuffixList(accept_unknown=False)
_REGISTRIES = PublicSuffixList(accept_unknown=False, only_icann=True)  # without platforms such as github.io


class Unreadable(Exception):
    """A file that is not of the shape that README.md shows; the message names it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Who attests names. Sources of one family copy each other and count once."""

    key: str
    title: str
    family: str
    worth: str  # A to D
    licence: str
    date: str
    file: str | None  # where measure.py finds its names
    about: str | None  # whose names they are


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a list, and why it is there."""

    name: str
    kind: str  # its class, from classes.yaml
    evidence: tuple[str, ...]  # keys of sources
    note: str
    also: str  # why it stands in another list too


@dataclass(frozen=True, slots=True)
class Curated:
    """One list: its head, and its sections by title."""

    path: Path
    head: dict[str, str]
    sections: tuple[tuple[str, tuple[Entry, ...]], ...]
    unknown: tuple[str, ...]  # "name: key" of each key that an entry cannot have

    @property
    def entries(self) -> Iterator[Entry]:
        """All entries, in the order of the file."""
        for _, entries in self.sections:
            yield from entries


@dataclass(frozen=True, slots=True)
class Curation:
    """All that the folder says."""

    lists: tuple[Curated, ...]
    sources: dict[str, Source]
    classes: dict[str, str]
    left_out: dict[str, str]  # name to the maker it is of all the same, or ""


def read(folder: Path) -> Curation:
    """Return what the files in `folder` say, not yet judged. Raises Unreadable, yaml.YAMLError."""
    sources = _merged(folder.glob("sources*.yaml"))
    return Curation(
        lists=tuple(_list(path) for path in sorted((folder / "entries").glob("*.yaml"))),
        sources={key: _source(key, said) for key, said in sources.items()},
        classes=_load(folder / "classes.yaml"),
        left_out={each["name"]: each.get("whose", "") for each in _load(folder / "left_out.yaml")},
    )


def _load(path: Path) -> Any:
    with path.open(encoding="utf-8") as file:  # a stream, so that an error of syntax names it
        return yaml.safe_load(file)


def _merged(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    return {key: value for path in sorted(paths) for key, value in _load(path).items()}


def _source(key: str, said: dict[str, Any]) -> Source:
    title, family, worth, licence, date = (
        str(said[field]) for field in ("title", "family", "worth", "licence", "date")
    )
    return Source(key, title, family, worth, licence, date, said.get("file"), said.get("about"))


def _list(path: Path) -> Curated:
    said = _load(path)
    try:
        sections = tuple((each["title"], tuple(map(_entry, each["entries"]))) for each in said["sections"])
        entries = [entry for each in said["sections"] for entry in each["entries"]]
        unknown = tuple(f"{entry.get('name')}: {key}" for entry in entries for key in entry.keys() - FIELDS)
        return Curated(path, {key: str(said.get(key, "")).strip() for key in HEAD}, sections, unknown)
    except (AttributeError, KeyError, TypeError) as error:
        raise Unreadable(f"{path.name}: not as README.md shows an entry file: {error}") from None


def _entry(said: dict[str, Any]) -> Entry:
    text = {key: str(said.get(key, "")).strip() for key in ("name", "class", "note", "also")}
    return Entry(text["name"], text["class"], tuple(said.get("evidence") or ()), text["note"], text["also"])


def ancestry(name: str) -> Iterator[str]:
    """Yield the name and all above it, longest first."""
    yield name
    while (dot := name.find(".")) >= 0:
        yield (name := name[dot + 1 :])


def problems(curation: Curation) -> Iterator[str]:
    """Yield what is not fit to ship, each with file and entry."""
    places: dict[str, list[tuple[Curated, Entry]]] = {}
    for each in curation.lists:
        names = {entry.name for entry in each.entries}
        yield from (f"{each.path.name}: {fault}" for fault in _head_faults(each))
        yield from (f"{each.path.name}: {key} is no key of an entry" for key in each.unknown)
        for entry in each.entries:
            faults = (*_entry_faults(entry, curation), *_overlap(entry, names))
            yield from (f"{each.path.name}: {entry.name}: {fault}" for fault in faults)
            places.setdefault(entry.name, []).append((each, entry))
    for name, found in places.items():
        files = [each.path.name for each, _ in found]
        if len(files) != len(set(files)):
            yield f"{files[0]}: {name}: is there twice"
        elif len(files) > 1 and not any(entry.also for _, entry in found):
            yield f"{files[0]}: {name}: is in {', '.join(files[1:])} too; write `also` with the reason, or keep one"
    for name in curation.left_out:
        if above := [each for each in ancestry(name) if each in places]:
            yield f"left_out.yaml: {name}: {places[above[0]][0][0].path.name} lists {above[0]}"


def _head_faults(curated: Curated) -> Iterator[str]:
    head = curated.head
    yield from (f"the head lacks {key}" for key in HEAD if not head[key])
    if head["name"] != curated.path.stem:
        yield f"name {head['name']} is not the file's"
    if head["category"] not in CATEGORIES:
        yield f"category {head['category']} is none of {', '.join(sorted(CATEGORIES))}"
    if not re.fullmatch("none|[A-Z]{2}", head["origin"]):
        yield f"origin {head['origin']} is neither a country of two letters nor none"
    try:
        datetime.date.fromisoformat(head["date"])
    except ValueError:
        yield f"date {head['date']} is not YYYY-MM-DD"


def _entry_faults(entry: Entry, curation: Curation) -> Iterator[str]:
    if not _NORMAL.fullmatch(entry.name):
        yield "not a name in normal form: lower case, A-labels, no final dot, no pattern"
    elif not _SUFFIXES.privatesuffix(entry.name):
        yield "a public suffix: everything below it would go too"
    elif entry.kind == "owned" and _REGISTRIES.privatesuffix(entry.name) != entry.name:
        yield "owned, but not a registrable domain; it is of class customer or service"
    elif entry.kind in {"customer", "service"} and _REGISTRIES.privatesuffix(entry.name) == entry.name:
        yield f"{entry.kind}, but all of somebody's domain; it is of class owned, or not for this list"
    if entry.kind not in curation.classes:
        yield f"class {entry.kind or '(none)'} is not in classes.yaml"
    if not entry.evidence:
        yield "no evidence"
    yield from (f"evidence {key} is in no sources*.yaml" for key in entry.evidence if key not in curation.sources)
    if set(entry.evidence) == {UNRECORDED} and not entry.note:
        yield f"{UNRECORDED} alone, without a note that says what is known"


def _overlap(entry: Entry, names: set[str]) -> Iterator[str]:
    above = [name for name in ancestry(entry.name) if name in names and name != entry.name]
    yield from (f"below {name}, which is in the same list" for name in above[:1])


def text(curated: Curated, sources: dict[str, Source]) -> str:
    """Return a list as it ships: the head that dnsfilter reads, then the sections (format domains)."""
    head = curated.head
    cited = sorted({key for entry in curated.entries for key in entry.evidence} & sources.keys())
    attest = [f"{sources[key].title} ({sources[key].licence}, {sources[key].date})" for key in cited]
    fields = {
        **{key.replace("_", " "): head[key] for key in HEAD[:6]},
        "source": "dnsfilter's own compilation, entry by entry, in curation/. A comment names the class of an entry, "
        f"who attests it or a host below it, and what else is known: {'; '.join(attest)}",
        **{key: head[key] for key in HEAD[6:]},
    }
    lines = [line for key, value in fields.items() for line in _wrapped(f"{key}: {value}")]
    for title, entries in curated.sections:
        lines += ["", f"# {title}"]
        lines += [f"{entry.name:<40} # {_reasons(entry, sources)}" for entry in entries]
    return "\n".join(lines) + "\n"


def _wrapped(field: str) -> list[str]:
    # An indentation of four says that the line goes on. Names with hyphens stay whole.
    return textwrap.wrap(
        " ".join(field.split()), 118, initial_indent="# ", subsequent_indent="#     ", break_on_hyphens=False
    )


def _reasons(entry: Entry, sources: dict[str, Source]) -> str:
    attest = ", ".join(sources[key].title for key in entry.evidence)
    also = f"also in another list: {entry.also}" if entry.also else ""
    return " ".join("; ".join(part for part in (entry.kind, attest, entry.note, also) if part).split())


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Judge, then write or compare. Returns the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        curation = read(root / "curation")
    except (Unreadable, yaml.YAMLError) as error:
        print(error, file=sys.stderr)
        return 1
    faults = list(problems(curation))
    made = {} if faults else {f"{each.path.stem}.txt": text(each, curation.sources) for each in curation.lists}
    shipped = {path.name: path.read_text(encoding="utf-8") for path in (root / "blocklists").glob("*.txt")}
    if not faults and arguments:
        faults = [f"blocklists/{name} is not what curation/ makes" for name in made if shipped.get(name) != made[name]]
    if not faults:
        faults = [f"blocklists/{name} has no file in curation/entries" for name in sorted(shipped.keys() - made.keys())]
    if not arguments:
        for name, content in made.items():
            (root / "blocklists" / name).write_text(content, encoding="utf-8")
    print(*faults, sep="\n", file=sys.stderr, end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
