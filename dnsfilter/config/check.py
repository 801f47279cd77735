"""What values of a configuration may say together: each check yields problems with their places."""

import importlib.util
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from urllib.parse import urlsplit

from dnsfilter.config.prefixes import Prefixes, collapse
from dnsfilter.config.problems import Path, Places, Problem, nearest, shown, some, subject, written
from dnsfilter.config.schema import DEFAULT_GROUP, RESERVED_LISTS, Config
from dnsfilter.config.sets import BuiltinInfo, cycle, expand
from dnsfilter.config.times import local_length
from dnsfilter.config.upstreams import Upstream
from dnsfilter.config.values import Address, Network, written_duration
from dnsfilter.core.names import ancestry, from_text, to_text

MAX_LISTS = 256


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration to check, and what is needed to say where it is wrong.

    Where a value alone was wrong the configuration goes without it; `written` still has it, so
    that nothing is called missing that was only badly written.
    """

    config: Config
    written: object  # everything that was written, as plain data
    data: object  # what the configuration was made of: that without wrong values
    places: Places
    builtin: Mapping[str, BuiltinInfo]
    zone: tzinfo

    def problem(self, path: Path, text: str, remedy: str) -> Problem:
        head = subject(path, self.data)
        return self.places.problem(path, f"{head}: {text}" if head else text, remedy)

    def lacks(self, *path: str | int) -> bool:
        """Tell whether a value was written there, and was wrong: nothing more can be said of it."""
        return written(self.written, path) is not None and path not in self.places

    def names(self, *path: str | int) -> list[str]:
        """Return the keys that were written at `path`."""
        found = written(self.written, path)
        return list(found) if isinstance(found, dict) else []

    def items(self, *path: str | int) -> list[object]:
        """Return what was written in the list at `path`, wrong or not."""
        found = written(self.written, path)
        return found if isinstance(found, list) else []


def check(checked: Checked) -> Iterator[Problem]:
    """Yield all that is wrong."""
    for one in _CHECKS:
        yield from one(checked)


def _addresses(checked: Checked) -> Iterator[Problem]:
    listen = checked.config.listen
    seen: dict[Address, str] = {}
    places: list[tuple[Path, Address]] = [(("listen", "dns", i), one) for i, one in enumerate(listen.dns)]
    places += [(("listen", key), one) for key in ("metrics", "admin") if (one := getattr(listen, key)) is not None]
    if ("listen", "admin") not in checked.places:  # a default must not be blamed
        places.sort(key=lambda place: place[0] != ("listen", "admin"))
    for path, address in places:
        if address.port and address in seen:
            text = f"{address} is the address of listen.{seen[address]} already"
            yield checked.problem(path, text, "give each its own; the admin address serves metrics as well")
        seen.setdefault(address, str(path[1]))
    if listen.admin is not None and not listen.admin.ip.is_loopback:
        text = f"{listen.admin} can be reached from elsewhere; that needs admin_token, not available in this version"
        yield checked.problem(("listen", "admin"), text, 'write "127.0.0.1:9353"; metrics for others are on `metrics`')


def _loops(checked: Checked) -> Iterator[Problem]:
    config = checked.config
    asked: list[tuple[Path, Address | None]] = [(path, one.address) for path, one in _upstreams(config)]
    asked += [(("resolve", "bootstrap", i), one) for i, one in enumerate(config.resolve.bootstrap or ())]
    for path, address in asked:
        if address is not None and config.listen.is_own(address):
            text = f"{address} is an address of our own: queries would go round in a circle"
            yield checked.problem(path, text, "write the resolver that is to be asked")


def _upstreams(config: Config) -> Iterator[tuple[Path, Upstream]]:
    for i, one in enumerate(config.upstreams or ()):
        yield ("upstreams", i), one
    for z, zone in enumerate(config.forward):
        for i, one in enumerate(zone.upstreams):
            yield ("forward", z, "upstreams", i), one


def _asked_twice(checked: Checked) -> Iterator[Problem]:
    seen: dict[tuple[Path, Upstream], Path] = {}
    for path, one in _upstreams(checked.config):
        first = seen.setdefault((path[:-1], one), path)
        if first != path:
            line = checked.places.place(*first).line
            where = "" if line is None else f"line {line} has it already; "
            yield checked.problem(path, f"{one} is in it twice", f"{where}one that fails is asked again anyhow")


def _encrypted(checked: Checked) -> Iterator[Problem]:
    """What encrypted upstreams need besides themselves."""
    lacks_bootstrap = checked.config.resolve.bootstrap is None and not checked.lacks("resolve", "bootstrap")
    lacks_h2 = importlib.util.find_spec("h2") is None
    for path, one in _upstreams(checked.config):
        if one.address is None and lacks_bootstrap:
            text = f"{one}: the address of {one.host} could be looked up by nobody but itself"
            remedy = f"name who looks it up: `resolve: {{bootstrap: [192.0.2.53]}}`, or write {_by_address(one)}"
            yield checked.problem(path, text, remedy)
        if one.transport == "https" and lacks_h2:
            yield checked.problem(path, "https:// upstreams need the library h2", "pip install 'dnsfilter[doh]'")


def _by_address(one: Upstream) -> str:
    return f"{one.transport}://192.0.2.53{one.path}#{one.server_name or one.host}"


def _hosts_of_lists(checked: Checked) -> Iterator[Problem]:
    """Hosts of remote lists are looked up without encryption: somebody has to be asked so."""
    config = checked.config
    upstreams = config.upstreams
    if upstreams is not None and len(upstreams) != len(checked.items("upstreams")):
        upstreams = None  # a plain one may only be badly written
    is_default = config.resolve.bootstrap is not None or checked.lacks("resolve", "bootstrap")
    is_default = is_default or upstreams is None or _has_plain(upstreams)
    zones = {zone.zone: _has_plain(zone.upstreams) for zone in config.forward}
    for name, entry in config.lists.items():
        host = "" if entry.url is None else urlsplit(entry.url).hostname or ""
        if not host or ":" in host or host.replace(".", "").isdigit():
            continue
        zone = next((above for above in ancestry(from_text(host)) if above in zones), None)
        if is_default if zone is None else zones[zone]:
            continue
        whom = "all upstreams are" if zone is None else f"all upstreams of zone {to_text(zone)} are"
        text = f"nobody can look up {host}: {whom} encrypted, and hosts of lists are not asked of those"
        remedy = "name who looks it up: `resolve: {bootstrap: [192.0.2.53]}`"
        if zone is not None:
            remedy = "put a plain one beside them, or write the address of the list's host"
        yield checked.problem(("lists", name, "url"), text, remedy)


def _has_plain(upstreams: Iterable[Upstream]) -> bool:
    return any(one.transport == "udp" for one in upstreams)


def _ca_file(checked: Checked) -> Iterator[Problem]:
    file = checked.config.resolve.ca_file
    if file is None:
        return
    path, remedy = ("resolve", "ca_file"), "name a file of certificates in the form PEM: -----BEGIN CERTIFICATE-----"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if file.exists() and not file.is_file():  # a pipe would never end
            raise OSError(0, "it is no ordinary file")
        context.load_verify_locations(file)
    except ssl.SSLError:  # an OSError too
        yield checked.problem(path, f"{file} is no file of certificates", remedy)
    except OSError as error:
        text = f"{file} cannot be read: {error.strerror}"
        yield checked.problem(path, text, f"give this user the right to read it, or {remedy}")
    else:
        if not context.cert_store_stats()["x509"]:  # lists of revoked ones alone
            yield checked.problem(path, f"{file} has no certificate", remedy)


def _zones(checked: Checked) -> Iterator[Problem]:
    seen: set[bytes] = set()
    for z, zone in enumerate(checked.config.forward):
        if zone.zone in seen:
            text = f"{to_text(zone.zone)} is forwarded by an earlier entry"
            yield checked.places.problem(("forward", z, "zone"), text, "put the upstreams of both into one")
        seen.add(zone.zone)


def _timing(checked: Checked) -> Iterator[Problem]:
    resolve = checked.config.resolve
    if checked.lacks("resolve", "deadline") or checked.lacks("resolve", "timeout"):
        return
    if resolve.deadline_s < resolve.timeout_s:
        key = "deadline" if ("resolve", "deadline") in checked.places else "timeout"
        timeout, deadline = written_duration(resolve.timeout_s), written_duration(resolve.deadline_s)
        text = f"resolve: the deadline, {deadline}, is shorter than the timeout, {timeout}"
        remedy = "the deadline covers all upstreams that are tried: make it twice the timeout or more"
        yield checked.places.problem(("resolve", key), text, remedy)


def _lists(checked: Checked) -> Iterator[Problem]:
    config = checked.config
    if (count := len(config.lists) + len(checked.builtin)) > MAX_LISTS:
        text = f"{count} lists, with sets and the built-in ones; {MAX_LISTS} are the most"
        yield checked.places.problem(("lists", list(config.lists)[-1]), text, "join files of one kind into one list")
        return  # what follows takes its time for so many
    categories = sorted({info.category for info in checked.builtin.values()})
    for name, entry in config.lists.items():
        yield from _sources(checked, name)
        for i, category in enumerate(entry.category or ()):
            if category not in categories:
                text = f"no built-in list has the category {shown(category)}"
                remedy = nearest(category, categories, f"there are: {', '.join(categories) or 'none'}")
                yield checked.problem(("lists", name, "category", i), text, remedy)
        if way := cycle(config, name):
            yield checked.problem(("lists", name, "lists"), f"contains itself: {' > '.join(way)}", "take one out")


# Where a list's rules may come from, and the keys that mean something beside it.
_LIMITS = ("max_shrink", "max_size")
_REMOTE = ("refresh", "max_growth", "max_rejected", "sha256", "signing_key")
_SOURCES: dict[str, tuple[str, ...]] = {
    "url": ("format", "match", "mode", *_LIMITS, *_REMOTE),
    "file": ("format", "match", "mode", *_LIMITS),
    "domains": ("match", "mode"),
    "addresses": ("mode",),
    "category": (),
    "origin": (),
    "lists": (),
}
_FINE = ("format", "match", "mode", *_LIMITS, *_REMOTE)
_SAYS_ITSELF = ("adblock", "rpz")  # formats whose syntax says what a name covers


def _sources(checked: Checked, name: str) -> Iterator[Problem]:
    """A list has one source, and no key that means nothing for it."""
    keys = checked.names("lists", name)
    sources = [key for key in keys if key in _SOURCES]
    if not sources:
        remedy = "write url, file, domains, addresses, category, origin or lists"
        yield checked.problem(("lists", name), "nothing says what is in it", remedy)
    for extra in sources[1:]:
        text = f"it has {sources[0]} already, and may have only one source"
        yield checked.problem(
            ("lists", name, extra), text, "make it another list; a third one joins them: `lists: [a, b]`"
        )
    for key in keys:
        if len(sources) == 1 and key in _FINE and key not in _SOURCES[sources[0]]:
            yield checked.problem(("lists", name, key), f"it means nothing beside {sources[0]}", "leave it out")
    entry = checked.config.lists[name]
    if entry.match is not None and entry.format in _SAYS_ITSELF:
        text = f"it means nothing for format {entry.format}, whose lines say what they cover"
        yield checked.problem(("lists", name, "match"), text, "leave it out")


def _references(checked: Checked) -> Iterator[Problem]:
    """Everything that names a list must name one that is there."""
    config = checked.config
    named: list[tuple[Path, str]] = []
    for name, entry in config.lists.items():
        named += [(("lists", name, "lists", i), one) for i, one in enumerate(entry.lists or ())]
    for name, group in config.groups.items():
        for key in ("block", "allow", "only"):
            lists = [(i, one) for i, one in enumerate(getattr(group, key)) if isinstance(one, str)]
            named += [(("groups", name, key, i), one) for i, one in lists]
    for e, exemption in enumerate(config.exemptions.entries):
        named += [(("exemptions", "entries", e, "lists", i), one) for i, one in enumerate(exemption.lists)]
    known = dict.fromkeys([*checked.names("lists"), *checked.builtin])
    for path, one in named:
        if one in RESERVED_LISTS:
            text = f"{shown(one)} is not a list"
            yield checked.problem(path, text, "it stands where a verdict names what decided, and cannot be chosen")
        elif one not in known:
            remedy = nearest(one, known, f"lists are: {some([*config.lists, *checked.builtin], 12)}")
            if "." in one:
                remedy = "names stand in a list: `lists: {mine: {domains: [app.example]}}`"
            elif path[2:3] == ("allow",):
                remedy += f" (a top-level domain is written with its dot: {one}.)"
            yield checked.problem(path, f"there is no list {shown(one)}", remedy)


def _addresses_for_names(checked: Checked) -> Iterator[Problem]:
    """Lists under `only` and `allow` say which names are open: a list of addresses has none."""
    config = checked.config
    has_addresses = {name for name, entry in config.lists.items() if entry.addresses is not None}
    for name, group in config.groups.items():
        for key in ("allow", "only"):
            for i, one in enumerate(getattr(group, key)):
                if not isinstance(one, str):
                    continue
                found = [each for each in expand(config, checked.builtin, [one]) if each in has_addresses]
                if found:
                    what = "has addresses" if found == [one] else f"contains {shown(found[0])}, which has addresses"
                    text = f"{shown(one)} {what} and no names"
                    remedy = "addresses are blocked under `block`; name lists of names here"
                    yield checked.problem(("groups", name, key, i), text, remedy)


def _groups(checked: Checked) -> Iterator[Problem]:
    config, names = checked.config, checked.names("groups")
    if ("groups",) in checked.places and DEFAULT_GROUP not in names:
        remedy = f"write `{DEFAULT_GROUP}: {{block: [...]}}` for clients of no network; `block: []` forwards them"
        yield checked.problem(("groups",), f"there is no group {DEFAULT_GROUP!r}", remedy)
    for name, group in config.groups.items():
        networks = written(checked.written, ("groups", name, "networks"))
        if name == DEFAULT_GROUP and networks is not None:
            text = f"group {name!r} has networks, but is for the clients that are in no network"
            yield checked.places.problem(("groups", name, "networks"), text, "move them to another group")
        elif name != DEFAULT_GROUP and networks in (None, []):
            remedy = "write whom it is for: `networks: [192.0.2.0/24]`"
            yield checked.problem(("groups", name), "it has no networks", remedy)
        both = [one for one in group.allow_lists if one in group.block]
        for one in both:
            path: Path = ("groups", name, "allow", group.allow.index(one))
            yield checked.problem(path, f"{shown(one)} is under block and under allow", "keep the one that is meant")


def _networks(checked: Checked) -> Iterator[Problem]:
    """A client has one group, and a group's clients may ask."""
    config = checked.config
    access = Prefixes((network, None) for network in collapse(config.access or ()))
    allowed = written(checked.written, ("access",))  # with one of them wrong, who may ask is not known
    is_bounded = config.access is not None and isinstance(allowed, list) and len(allowed) == len(config.access)
    seen: dict[Network, tuple[str, Path]] = {}
    for name, group in config.groups.items():
        for i, network in enumerate(group.networks):
            path: Path = ("groups", name, "networks", i)
            if network in seen:
                other, where = seen[network]
                line = checked.places.place(*where).line
                what = "is in it twice" if other == name else f"is in group {other!r} as well"
                yield checked.problem(path, f"{network} {what}", f"keep it here or in line {line}")
            else:
                seen[network] = name, path
            if is_bounded and not any(True for _ in access.around(network)):
                yield checked.problem(path, f"{network} may not ask: it is not within `access`", "add it to `access`")


def _exemptions(checked: Checked) -> Iterator[Problem]:
    exemptions = checked.config.exemptions
    most = exemptions.max_duration_s
    entries = written(checked.written, ("exemptions", "entries"))
    begun = (
        [one.get("id") for one in entries if isinstance(one, dict) and "start" in one]
        if isinstance(entries, list)
        else []
    )
    seen: dict[str, int] = {}
    for e, one in enumerate(exemptions.entries):
        path: Path = ("exemptions", "entries", e)
        if one.id in seen:
            line = checked.places.place("exemptions", "entries", seen[one.id], "id").line
            text = f"exemption {one.id!r}: the id is used twice"
            yield checked.places.problem((*path, "id"), text, f"line {line} has it too; ids are for ever")
        seen.setdefault(one.id, e)
        if one.start is not None and one.end <= one.start:
            yield checked.problem((*path, "end"), "it is not after start", "write the last day, or the moment it ends")
        elif most is not None and one.start is None and one.id not in begun:
            text = f"start is missing, so it may be longer than max_duration, {written_duration(most)}"
            yield checked.problem(path, text, "write when it begins")
        elif most is not None and one.start is not None and local_length(one.start, one.end, checked.zone) > most:
            text = f"longer than max_duration, {written_duration(most)}"
            yield checked.problem((*path, "end"), text, "end it earlier, and renew it then")


_CHECKS: tuple[Callable[[Checked], Iterator[Problem]], ...] = (
    _addresses,
    _loops,
    _asked_twice,
    _encrypted,
    _hosts_of_lists,
    _ca_file,
    _zones,
    _timing,
    _lists,
    _references,
    _addresses_for_names,
    _groups,
    _networks,
    _exemptions,
)
