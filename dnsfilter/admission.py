"""What each list says, and what of it is taken over: what its source says now, or its last good copy, and why.

A list is judged before it may decide anything: its format, its guards, and how much it has changed.
What is refused leaves the last good copy in force; nothing is ever repaired into another name.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from dnsfilter.config.load import Loaded
from dnsfilter.config.schema import ListConfig
from dnsfilter.config.sets import expand
from dnsfilter.core.names import to_text
from dnsfilter.core.rules import SKIPPED_KEPT, Match, Rules, Skipped
from dnsfilter.lists import formats, source
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats.text import shown
from dnsfilter.lists.guards import Guards
from dnsfilter.lists.store import Good, Kept, Refused, Store
from dnsfilter.settings import Request

FEW_RULES = 4  # lists of fewer may shrink as they like,
FEW_GROWN = 100  # and lists may grow to this many
_HEAD = 4_096  # octets in which a list states its date

_DATED = re.compile(rb"^\s*[#!;]+\s*(?:last[ -](?:modified|updated?)|updated?|date)\s*:\s*(\S[^\n\r]*)", re.I | re.M)


@dataclass(slots=True)
class Source:
    """One list: where its octets come from, what they are now, and how to read them."""

    name: str
    kind: Literal["built-in", "inline", "file", "url"]
    where: str  # for people
    format: str
    match: Match | None  # None: the format says
    mode: str
    octets: bytes | None = None  # what the source says now; None: `fault` says why not
    fault: str = ""
    path: Path | None = None
    modified_at: float = 0.0
    stamp: str = ""
    checked_at: float = 0.0  # when the source said it
    kept: Kept | None = None
    config: ListConfig | None = None
    failure: str = ""  # of the last try to fetch it, where an earlier content stands
    wants_fetch: bool = False  # a remote list of which nothing that counts now is at hand
    sha256: str = ""

    def __post_init__(self) -> None:
        self.sha256 = "" if self.octets is None else hashlib.sha256(self.octets).hexdigest()

    @property
    def how(self) -> str:
        """Tell all that judging its octets depends on."""
        entry = self.config
        limits = "" if entry is None else f"{entry.max_shrink} {entry.max_growth} {entry.max_rejected} {entry.max_size}"
        return f"{self.format} {self.match} {limits} {guards().version}"

    @property
    def inputs(self) -> str:
        """Tell all that what is taken over depends on."""
        good = self.kept.good if self.kept is not None and self.octets is None else None
        refused = None if self.kept is None else self.kept.refused
        again = refused is not None and refused.sha256 == self.sha256  # what was refused is to be judged anew
        return f"{self.name} {self.where} {self.sha256} {again} {self.fault} {good.sha256 if good else ''}"

    def copy(self, sha256: str) -> bytes | None:
        """Return the octets with this hash, if they are still there."""
        if self.sha256 == sha256:
            return self.octets
        return None if self.kept is None else self.kept.octets(sha256)


@dataclass(slots=True)
class Admitted:
    """What is in force of one list."""

    source: Source
    rules: Rules
    sha256: str = ""
    octets: bytes = b""
    checked_at: float = 0.0
    changed_at: float = 0.0
    problem: str = ""  # why it is not what the source says now
    warnings: list[str] = field(default_factory=list)

    @property
    def dated(self) -> str:
        """The date that the head of the list states, as it is written there."""
        found = _DATED.search(self.octets[:_HEAD])
        return shown(found[1], 40) if found else ""


@cache
def guards() -> Guards:
    """Return the names that no list may block, read once."""
    return Guards()


def used_lists(loaded: Loaded) -> tuple[str, ...]:
    """Return every list that is configured or that a group or an exemption names, built-in ones last."""
    config = loaded.config
    wanted = [name for name, entry in config.lists.items() if not entry.is_set]
    for group in config.groups.values():
        wanted += expand(config, loaded.builtin, (*group.block, *group.only, *group.allow_lists))
    for exemption in config.exemptions.entries:
        wanted += expand(config, loaded.builtin, exemption.lists)
    return tuple(dict.fromkeys(wanted))


def without_query(url: str) -> str:
    """Return a URL for people: what stands behind `?` may be a token."""
    parts = urlsplit(url)
    return parts._replace(query="").geturl() + ("?..." if parts.query else "")


# ---- what the sources say ----


def gather(loaded: Loaded, request: Request, store: Store, read_at: float) -> list[Source]:
    """Read what each list's source says now."""
    builtin = source.builtin()
    found = []
    for name in used_lists(loaded):
        entry = loaded.config.lists.get(name)
        if entry is not None and entry.addresses is not None:
            continue  # it has no names: nothing to judge
        if entry is None:
            found.append(shipped(builtin[name], read_at))
        elif entry.url is not None:
            found.append(_remote(name, entry, entry.url, store, request))
        elif entry.file is not None:
            found.append(_local(name, entry, entry.file, store, request, read_at))
        else:
            octets = source.inline(to_text(each) for each in entry.domains or ())
            match = entry.match or Match.SUFFIX
            inline = Source(name, "inline", "configuration", "domains", match, entry.mode, octets)
            inline.modified_at = inline.checked_at = read_at
            found.append(inline)
    return found


def shipped(about: source.Builtin, read_at: float = 0.0) -> Source:
    """Return a list that ships with dnsfilter."""
    octets, modified_at = about.path.read_bytes(), about.path.stat().st_mtime
    found = Source(about.name, "built-in", "built-in", "domains", Match.SUFFIX, "enforce", octets, path=about.path)
    found.modified_at, found.checked_at = modified_at, read_at
    return found


def _match(entry: ListConfig) -> Match | None:
    return entry.match or formats.default_match(entry.format)


def _local(name: str, entry: ListConfig, path: Path, store: Store, request: Request, read_at: float) -> Source:
    stamp = source.file_stamp(path)
    octets, fault, modified_at = None, "", 0.0
    try:
        octets = source.read_file(path, entry.max_size)
        modified_at = path.stat().st_mtime
    except (BadList, OSError) as error:
        fault = str(error)
    found = Source(name, "file", f"file {path}", entry.format, _match(entry), entry.mode, octets, fault, path)
    found.modified_at, found.checked_at, found.stamp = modified_at, read_at, stamp
    found.kept, found.config = store.kept(name, f"file {path}"), entry
    if not _is_free(found, request):
        _pass_over_refused(found)
    return found


def _remote(name: str, entry: ListConfig, url: str, store: Store, request: Request) -> Source:
    kept = store.kept(name, url)
    fetched, octets = kept.fetched, None
    if fetched is None or not fetched.sha256:
        fault = fetched.failure if fetched is not None and fetched.failure else "it has not been fetched yet"
    elif fetched.proof != (entry.sha256 or entry.signing_key or ""):
        fault = fetched.failure or "it has not been fetched yet since its sha256 or signing_key was changed"
    else:
        octets = kept.octets(fetched.sha256)
        fault = "" if octets is not None else "what was fetched is damaged on disk, and is fetched again"
    found = Source(name, "url", f"url {without_query(url)}", entry.format, _match(entry), entry.mode, octets, fault)
    found.kept, found.config, found.wants_fetch = kept, entry, octets is None
    if fetched is not None:
        found.checked_at, found.failure = fetched.checked_at, fetched.failure
    if not _is_free(found, request):
        _pass_over_refused(found)
    return found


def _is_free(source: Source, request: Request) -> bool:
    """Tell whether the list counts as it stands, however it has changed."""
    is_meant = source.kind == "file" and (request.is_meant or not request.keeps)
    return is_meant or source.name in request.accept


def _pass_over_refused(source: Source) -> None:
    """Take what was refused before for refused, unless it would be judged otherwise now."""
    refused = None if source.kept is None else source.kept.refused
    if refused is not None and (refused.sha256, refused.how) == (source.sha256, source.how):
        source.octets, source.sha256, source.fault = None, "", refused.reason


# ---- what is taken over ----


def admit(source: Source, request: Request, store: Store) -> Admitted:
    """Judge what a list's source says; where it is refused, return its last good copy.

    Raises BadList where there is nothing to put in its place: for a list of the machine itself that
    is an operator's mistake. A remote list may come later, and has no rules until then.
    """
    fault = source.fault
    if source.octets is not None:
        try:
            found = _read(source, source.octets)
            if not _is_free(source, request):
                _judge(source, found.rules)
        except BadList as error:
            fault = str(error)
            if request.keeps and source.kept is not None and (source.kind == "url" or source.kept.good is not None):
                source.kept.refuse(Refused(source.sha256, fault, source.how))
        else:
            _date(found, source)
            if source.failure and not request.keeps:  # a server knows by itself, and newer
                found.problem = f"the last try to fetch it failed: {source.failure}"
            if request.keeps and source.kept is not None:
                good = Good(found.sha256, len(found.rules), found.changed_at, found.checked_at)
                source.kept.keep(source.octets, good)
            return found
    if source.kept is None or (source.kind == "file" and not request.keeps):
        raise BadList(fault)
    return _last_good(source, fault, store)


def _date(found: Admitted, source: Source) -> None:
    good = None if source.kept is None else source.kept.good
    found.checked_at = source.checked_at
    found.changed_at = source.modified_at or source.checked_at
    if source.kind == "url" and good is not None and good.sha256 == found.sha256:
        found.changed_at = good.changed_at


def _last_good(source: Source, fault: str, store: Store) -> Admitted:
    assert source.kept is not None  # noqa: S101
    for kept in (source.kept, *store.others(source.kept)):
        good = kept.good
        octets = None if good is None else kept.octets(good.sha256)
        if good is None or octets is None:
            continue
        try:
            found = _read(source, octets)
        except BadList:  # it is to be read in another format now
            continue
        day = datetime.fromtimestamp(good.changed_at, UTC).date()
        found.problem = f"{fault}; its last good copy, of {day}, stays in force"
        if kept is not source.kept:
            earlier = without_query(kept.source) if kept.source.startswith("https:") else kept.source
            found.problem = f"{fault}; the source changed, and the content of {day} from {earlier} is served"
        found.checked_at, found.changed_at = good.checked_at, good.changed_at
        return found
    if source.kind != "url":
        raise BadList(fault)
    return Admitted(source, Rules(), problem=f"{fault}; there is no good copy, so it blocks nothing yet")


def _read(source: Source, octets: bytes) -> Admitted:
    """Return the rules in octets, without those that guards refuse. Raises BadList."""
    rules = formats.parse(octets, source.format, source.match)
    is_now = octets is source.octets
    found = Admitted(source, rules, source.sha256 if is_now else hashlib.sha256(octets).hexdigest(), octets)
    if source.kind == "built-in":
        return found  # judged when they were curated
    if refused := guards().refuse(rules, is_written=source.kind == "inline"):
        lines = formats.find(octets, source.format, source.match, refused)
        first = [Skipped(line.line, line.text, refused[line.name]) for line in lines[:SKIPPED_KEPT]]
        rules.skipped_count += len(lines)
        rules.skipped[:] = sorted([*first, *rules.skipped], key=lambda each: each.line)[:SKIPPED_KEPT]
        if not len(rules):
            raise BadList(f"none of its rules may block: line {first[0].line}: {first[0].text}: {first[0].reason}")
    if source.kind == "inline":
        found.warnings += _shared(source, rules)
    return found


def _shared(source: Source, rules: Rules) -> Iterator[str]:
    for name, reason in guards().shared(rules).items():
        yield f"list '{source.name}': {to_text(name)}: {reason}; blocked all the same, since it is written here"


def _judge(source: Source, rules: Rules) -> None:
    """Refuse what has changed more than a list does by itself. Raises BadList."""
    entry, good = source.config, None if source.kept is None else source.kept.good
    if entry is None:
        return
    remedy = "`dnsfilter reload` takes it over"
    if source.kind == "url":
        remedy = f"`dnsfilter update --accept {source.name}` takes it over as it is"
        lines = len(rules) + rules.skipped_count
        if rules.skipped_count > entry.max_rejected * lines:
            first = rules.skipped[0]
            raise BadList(
                f"{rules.skipped_count} of {lines} lines are no rules, more than max_rejected "
                f"({entry.max_rejected:.0%}); line {first.line}: {first.text}: {first.reason}; {remedy}"
            )
    if good is None or good.sha256 == source.sha256:
        return
    before, now = good.entries, len(rules)
    if before >= FEW_RULES and now < before * (1 - entry.max_shrink):
        raise BadList(
            f"it shrank from {before} rules to {now}, more than max_shrink ({entry.max_shrink:.0%}); {remedy}"
        )
    if source.kind == "url" and now > FEW_GROWN and now > before * entry.max_growth:
        raise BadList(f"it grew from {before} rules to {now}, more than max_growth ({entry.max_growth:g}x); {remedy}")


def placed(loaded: Loaded, reasons: dict[str, str]) -> str:
    """Return what is wrong with lists, each with the place where it is configured."""
    return "\n".join(f"{loaded.places.place('lists', name)}list '{name}': {reason}" for name, reason in reasons.items())
