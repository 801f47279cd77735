"""A configuration file to a `Config`, or to all that is wrong with it at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path

from pydantic import ValidationError

from dnsfilter.config import messages, nodes, unavailable, values
from dnsfilter.config.check import Checked, check
from dnsfilter.config.nodes import Node
from dnsfilter.config.problems import ConfigError, Place, Places, Problem, nearest, shown
from dnsfilter.config.problems import Path as Keys
from dnsfilter.config.schema import Config, Context, default_state
from dnsfilter.config.sets import BuiltinInfo

UNNAMED = "dnsfilter.yaml"  # what messages call a text that comes from no file


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where its values were written."""

    config: Config
    places: Places
    path: Path | None  # None: built-in defaults, or a text from no file
    text: str  # as it was read
    builtin: Mapping[str, BuiltinInfo]


def load(
    path: Path | None,
    *,
    builtin: Mapping[str, BuiltinInfo],
    text: str | None = None,
    listen: str | None = None,
    upstream: str | None = None,
) -> Loaded:
    """Read the file at `path`, or `text` in its stead; without both, the built-in defaults.

    builtin: the built-in lists by name.
    listen, upstream: as on the command line, in place of `listen.dns` and `upstreams`.
    Raises ConfigError, with every problem there is.
    """
    file = str(path) if path is not None else UNNAMED
    if text is None:
        text = _text_of(path, file) if path is not None else ""
    root, problems = nodes.parse(text, file)
    if problems and not root.value:
        raise ConfigError(problems)
    _override(root, ("listen", "dns"), "--listen", listen)
    _override(root, ("upstreams",), "--upstream", upstream)
    base = (path.parent if path is not None else Path()).absolute()
    zone, zone_problems = _zone(root)
    context: Context = {"base": base, "builtin": builtin, "zone": zone}
    config, places, found = _validate(root, context)
    problems += zone_problems + found
    if problems:
        raise ConfigError(problems)
    return Loaded(config, places, path, text, builtin)


def state_of(path: Path | None) -> Path:
    """Return the state directory that a configuration names, whatever else is wrong with it. Raises ConfigError.

    For commands to a running server: it serves on when the file has been broken since.
    """
    if path is None:
        return default_state()
    root, _problems = nodes.parse(_text_of(path, str(path)), str(path))
    node = root.find(("state",))
    if node is None or not isinstance(node.value, str) or not node.value:
        return default_state()
    return values.path(node.value, path.parent.absolute())


def _text_of(path: Path, file: str) -> str:
    """Read the file; UTF-8, with or without a byte order mark."""

    def fail(text: str, remedy: str, line: int | None = None) -> ConfigError:
        return ConfigError([Problem(file, line, text, remedy)])

    try:
        with path.open("rb") as opened:
            octets = opened.read(nodes.MAX_TEXT + 1)
    except FileNotFoundError:
        raise fail("there is no such file", "name the configuration with -c, or write it there") from None
    except IsADirectoryError:
        raise fail("is a directory", "name the file in it: -c .../dnsfilter.yaml") from None
    except PermissionError:
        raise fail("may not be read by this user", "give the user of the service the right to read it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise fail(f"cannot be read: {error}", "see to it that it is an ordinary file") from None
    if len(octets) > nodes.MAX_TEXT:
        raise fail("too big", f"a configuration has {nodes.MAX_TEXT} octets at most; is this another file?")
    if octets[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise fail("is in the encoding UTF-16", "save it as UTF-8")
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets[: error.start].count(b"\n") + 1
        text = f"the octet {octets[error.start]:#04x} is not of the encoding UTF-8"
        raise fail(text, "save the file as UTF-8", line) from None


def _override(root: Node, path: Keys, option: str, value: str | None) -> None:
    """Put an option of the command line in the place of what the file says."""
    if value is None:
        return
    place = Place(option)
    node = root
    for key in path[:-1]:
        if not isinstance(node.value, dict):
            return  # malformed, and will be reported
        node = node.value.setdefault(str(key), Node({}, place))
    if isinstance(node.value, dict):
        node.value[str(path[-1])] = Node([Node(value, place)], place)


def _zone(root: Node) -> tuple[tzinfo, list[Problem]]:
    """Return the time zone that local times are read in; UTC where the one written cannot be used."""
    node = root.find(("timezone",))
    if node is None or not isinstance(node.value, str) or node.value in ("", "UTC"):
        return UTC, []  # also where a machine has no time zone data
    from zoneinfo import ZoneInfo, available_timezones  # noqa: PLC0415  # most of what it loads only this needs

    try:
        return ZoneInfo(node.value), []
    except (KeyError, ValueError, OSError, RecursionError):  # not there, not a name, a directory
        pass
    known = available_timezones()
    text, remedy = f"timezone: {shown(node.value)} is not a time zone", "write it as Europe/Paris"
    if known:
        remedy = nearest(node.value, sorted(known), remedy)
    else:
        text, remedy = "timezone: this machine has no time zone data", "install tzdata, or write times in UTC"
    return UTC, [Problem(node.place.file, node.place.line, text, remedy)]


# What stands in for a key that is missing, so that the rest of its entry is still checked.
_STAND_INS: dict[str, str | list[Node]] = {"block": [], "owner": "-", "reason": "-", "approved_by": "-"}


def _validate(root: Node, context: Context) -> tuple[Config, Places, list[Problem]]:
    """Return the configuration, its places, and all that is wrong with it.

    What pydantic refuses is taken out and the rest read again, so that checks of several
    values together run in any case: an admin sees all problems at once.
    """
    written, written_places = root.plain(), root.places()
    refused: set[Keys] = set()
    problems: list[Problem] = []
    for keys, text, remedy in unavailable.refused(written):
        refused.add(keys)
        problems.append(written_places.problem(keys, text, remedy))
    is_first = True
    while True:
        data, places = root.plain(), root.places()
        try:
            config = Config.model_validate(data, context=context)
            break
        except ValidationError as error:
            found = list(messages.problems(error.errors(include_url=False), data, places))
        if is_first:
            problems += [problem for keys, problem in found if refused.isdisjoint(_prefixes(keys))]
            is_first = False
        if not _take_out(root, {keys for keys, _ in found}):
            raise ConfigError(problems)
    checked = Checked(config, written, data, places, context["builtin"], context.get("zone", UTC))
    return config, places, problems + list(check(checked))


def _prefixes(keys: Keys) -> Iterator[Keys]:
    return (keys[:length] for length in range(1, len(keys) + 1))


def _take_out(root: Node, wrong: set[Keys]) -> bool:
    """Remove what is wrong, and what lacks a key unless something can stand in; False: nothing could be done."""
    targets: set[Keys] = set()
    has_changed = False
    for keys in wrong:
        around = root.find(keys[:-1])
        if root.find(keys) is not None:
            targets.add(keys)
        elif around is not None and isinstance(around.value, dict) and keys[-1] in _STAND_INS:
            around.value[str(keys[-1])] = Node(_STAND_INS[str(keys[-1])], around.place)
            has_changed = True
        else:
            targets.add(keys[:-1])
    targets -= {keys for keys in targets if not targets.isdisjoint(_prefixes(keys[:-1]))}
    for keys in sorted(targets, key=_from_the_end):
        has_changed |= bool(keys) and root.remove(keys)
    return has_changed


def _from_the_end(keys: Keys) -> tuple[tuple[bool, int, str], ...]:
    """Sort so that positions in a list come from its end: taking one out moves those behind it."""
    return tuple((isinstance(key, str), -key if isinstance(key, int) else 0, str(key)) for key in keys)
