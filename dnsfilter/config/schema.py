"""The shape of a configuration: typed, frozen, every default in its place.

Built from plain data in which each scalar is the text that was written; what a text may
be is in values.py, what several values may say together in check.py. The names in YAML
differ from the attributes only where an attribute carries its unit: `timeout`, `timeout_s`.
"""

import os
from collections.abc import Callable, Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeAlias, TypedDict, cast

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from dnsfilter.config import times, upstreams, values
from dnsfilter.config.problems import Wrong, shown
from dnsfilter.config.sets import BuiltinInfo
from dnsfilter.config.values import Address, IPAddress, Network
from dnsfilter.core.names import Name
from dnsfilter.core.rules import Match

DEFAULT_GROUP = "default"
DEFAULT_BLOCK = ("tiktok", "bytedance", "encrypted-dns")

RESERVED_LISTS = dict.fromkeys(
    ("only", "canary", "protected", "rebinding"), "it stands for a part of dnsfilter where a verdict names what decided"
)


class Context(TypedDict):
    """What reading a value may need beside its text."""

    base: Path  # relative paths start here
    builtin: Mapping[str, BuiltinInfo]
    zone: NotRequired[tzinfo]  # for local times; UTC without it


def wrong(error: Wrong) -> PydanticCustomError:
    """Carry text and remedy through pydantic."""
    return PydanticCustomError("wrong", "{text}", {"text": error.text, "remedy": error.remedy})


def _text(value: object) -> str:
    if isinstance(value, list) and value:
        raise wrong(Wrong("a list stands where one value belongs", "what has brackets of its own stands in quotes"))
    if not isinstance(value, str):
        raise wrong(Wrong("keys stand where one value belongs", "write the value alone"))
    if not value:
        raise wrong(Wrong("no value is written here", "write one, or leave the key out for its default"))
    return value


def _read(parse: Callable[..., object], *args: object) -> PlainValidator:
    """Read a scalar with one of the functions of values.py."""

    def read(value: object) -> Any:
        try:
            return parse(_text(value), *args)
        except Wrong as error:
            raise wrong(error) from None

    return PlainValidator(read)


def _read_in(parse: Callable[[str, Context], object]) -> PlainValidator:
    """Read a scalar whose meaning depends on the context."""

    def read(value: object, info: ValidationInfo) -> Any:
        try:
            return parse(_text(value), cast(Context, info.context))
        except Wrong as error:
            raise wrong(error) from None

    return PlainValidator(read)


def _address_or_off(text: str, *, any_port: bool) -> Address | None:
    return None if text == "off" else values.address(text, None, any_port=any_port)


def _bootstrap(text: str) -> Address:
    if "://" in text:
        raise Wrong(f"{shown(text)}: bootstrap resolvers are asked without encryption", "write an address: 192.0.2.53")
    found = values.address(text, 53)
    if found.ip.is_unspecified:
        raise Wrong(f"{shown(text)} is no machine's address", "write the address of a resolver")
    return found


def _allow(text: str) -> Name | str:
    return values.name(text) if "." in text or "\\" in text else text


def _list_name(text: str, context: Context) -> str:
    return values.word(text, RESERVED_LISTS | dict.fromkeys(context["builtin"], "it is a built-in list"))


def _workers(text: str) -> Literal["auto"] | int:
    return "auto" if text == "auto" else values.whole(text, 1, 1024)


def _seconds_or_off(text: str, lowest: float, highest: float) -> int:
    return 0 if text == "off" else _whole_seconds(text, lowest, highest)


def _whole_seconds(text: str, lowest: float, highest: float) -> int:
    seconds = values.duration_within(text, lowest, highest)
    if seconds % 1:
        raise Wrong(f"'{text}' is not in whole seconds", f"write {seconds:.0f}s")
    return int(seconds)


ListenAddress: TypeAlias = Annotated[Address, _read(values.listen_address)]
OptionalAddress: TypeAlias = Annotated[Address | None, _read(lambda text: _address_or_off(text, any_port=True))]
Upstream: TypeAlias = Annotated[upstreams.Upstream, _read(upstreams.upstream)]
Bootstrap: TypeAlias = Annotated[tuple[Annotated[Address, _read(_bootstrap)], ...], Field(min_length=1)]
Upstreams: TypeAlias = Annotated[tuple[Upstream, ...], Field(min_length=1)]
Prefix: TypeAlias = Annotated[Network, _read(values.network)]
ListedPrefix: TypeAlias = Annotated[Network, _read(values.listed_network)]
Switch: TypeAlias = Annotated[bool, _read(values.switch)]
DomainName: TypeAlias = Annotated[Name, _read(values.name)]
ListedName: TypeAlias = Annotated[Name, _read(values.listed_name)]
Text: TypeAlias = Annotated[str, _read(values.line_of_text)]
ListRef: TypeAlias = Annotated[str, _read(str)]  # whether there is such a list is judged in check.py
ListRefs: TypeAlias = Annotated[tuple[ListRef, ...], Field(min_length=1)]
Mode: TypeAlias = Annotated[Literal["enforce", "observe"], _read(values.choice, ("enforce", "observe"))]
_ANSWERS = ("sinkhole", "nodata", "nxdomain", "refused")
Answer: TypeAlias = Annotated[Literal["sinkhole", "nodata", "nxdomain", "refused"], _read(values.choice, _ANSWERS)]


class Section(BaseModel):
    """A mapping with known keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Listen(Section):
    """The addresses that clients and operators come to."""

    dns: Annotated[tuple[ListenAddress, ...], Field(min_length=1)] = (Address("127.0.0.1", 5335),)
    metrics: OptionalAddress = None
    admin: OptionalAddress = Address("127.0.0.1", 9353)

    def is_own(self, address: Address) -> bool:
        """Tell whether a query to this address would come back to us.

        Which addresses the machine has is not known here: of a wildcard listener only the
        loopback addresses are taken for ours.
        """
        return any(
            own.port == address.port and (own.host == address.host or (own.ip.is_unspecified and _is_local(address.ip)))
            for own in self.dns
        )


def _is_local(ip: IPAddress) -> bool:
    return ip.is_loopback or ip.is_unspecified


class ForwardZone(Section):
    """A zone whose names go to its own upstreams and to no others."""

    zone: DomainName
    upstreams: Upstreams


_STRATEGIES = ("strict", "load_balance", "parallel")
LocalPath: TypeAlias = Annotated[Path, _read_in(lambda text, context: values.path(text, context["base"]))]


class Resolve(Section):
    """How upstreams are asked."""

    strategy: Annotated[Literal["strict", "load_balance", "parallel"], _read(values.choice, _STRATEGIES)] = "strict"
    timeout_s: Annotated[float, _read(values.duration_within, 0.1, 30)] = Field(default=2.0, alias="timeout")
    deadline_s: Annotated[float, _read(values.duration_within, 0.1, 60)] = Field(default=5.0, alias="deadline")
    max_concurrent: Annotated[int, _read(values.whole, 1, 1_000_000)] = 1000
    bootstrap: Bootstrap | None = None  # who looks up hosts of lists and upstreams; None: the plain upstreams
    ca_file: LocalPath | None = None  # who may sign certificates of upstreams; None: whom the system trusts
    random_case: Switch = False  # of letters in questions to upstreams
    rebind_protection: Switch = False
    private_domains: tuple[DomainName, ...] = ()  # names that may lead to private addresses


class RateLimit(Section):
    """How much one client may ask."""

    queries_per_second: Annotated[int, _read(values.whole, 0, 1_000_000)] = 0  # 0: as much as it likes
    exempt: tuple[Prefix, ...] = ()


class Cache(Section):
    """What is kept of upstreams' answers, and for how long."""

    entries: Annotated[int, _read(values.whole, 1, 100_000_000)] = 100_000
    max_ttl_s: Annotated[int, _read(_whole_seconds, 1, 7 * 86400)] = Field(default=3600, alias="max_ttl")
    max_negative_ttl_s: Annotated[int, _read(_whole_seconds, 1, 86400)] = Field(default=300, alias="max_negative_ttl")
    serve_stale_s: Annotated[int, _read(_seconds_or_off, 1, 7 * 86400)] = Field(default=86400, alias="serve_stale")


_MAX_SIZE = 64 * 1024**2
_FORMATS = ("domains", "hosts", "adblock", "dnsmasq", "rpz")


def _refresh(text: str) -> float:
    return values.duration_within(text, 5, 366 * 86400)


class ListConfig(Section):
    """A list of one's own, or a set of lists. One of the first seven is given, never two."""

    url: Annotated[str, _read(values.url)] | None = None
    file: LocalPath | None = None
    domains: tuple[ListedName, ...] | None = None
    addresses: Annotated[tuple[ListedPrefix, ...], Field(min_length=1)] | None = None  # in answers; it has no names
    category: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    origin: Annotated[tuple[Annotated[str, _read(values.origin)], ...], Field(min_length=1)] | None = None
    lists: ListRefs | None = None
    format: Annotated[str, _read(values.choice, _FORMATS)] = "domains"
    match: Annotated[Match, _read(lambda text: Match(values.choice(text, tuple(Match))))] | None = None
    mode: Mode = "enforce"
    refresh_s: Annotated[float, _read(_refresh)] = Field(default=6 * 3600.0, alias="refresh")
    max_shrink: Annotated[float, _read(values.percent)] = 0.5  # of its rules, that it may lose at once
    max_growth: Annotated[float, _read(values.factor)] = 10.0  # times as many rules as before
    max_rejected: Annotated[float, _read(values.percent)] = 0.1  # of its lines, that may be no rules
    max_size: Annotated[int, _read(values.size_within, 1, 1024**3)] = _MAX_SIZE  # octets
    sha256: Annotated[str, _read(values.sha256)] | None = None
    signing_key: Annotated[str, _read(values.signing_key)] | None = None  # of minisign

    @property
    def is_set(self) -> bool:
        """Whether it stands for other lists and has no rules of its own."""
        return self.file is None and self.domains is None and self.url is None and self.addresses is None


class Group(Section):
    """Clients under one set of lists."""

    networks: tuple[Prefix, ...] = ()
    block: tuple[ListRef, ...]
    allow: tuple[Annotated[Name | str, _read(_allow)], ...] = ()  # names as octets, names of lists as text
    mode: Mode = "enforce"
    answer: Answer | None = None
    only: ListRefs = ()
    strip_ech: Switch = False  # from HTTPS and SVCB records

    @property
    def allow_names(self) -> tuple[Name, ...]:
        """Names that are never blocked for this group, with all names below them."""
        return tuple(entry for entry in self.allow if isinstance(entry, bytes))

    @property
    def allow_lists(self) -> tuple[str, ...]:
        """Lists and sets whose names are never blocked for this group."""
        return tuple(entry for entry in self.allow if isinstance(entry, str))


def _moment(convert: Callable[[str, tzinfo], float]) -> PlainValidator:
    return _read_in(lambda text, context: convert(text, context.get("zone", UTC)))


class Exemption(Section):
    """A permission to pass blocks: who, of which lists, by whom, until when."""

    id: Annotated[str, _read(values.identifier)]
    networks: Annotated[tuple[Prefix, ...], Field(min_length=1)]
    lists: ListRefs
    owner: Text
    reason: Text
    approved_by: Text
    start: Annotated[float, _moment(times.start)] | None = None  # seconds since the epoch; None: has begun
    end: Annotated[float, _moment(times.end)]  # the first moment without


class Exemptions(Section):
    """Under which rules exemptions are given, and those given."""

    regime: Annotated[Literal["registered"], _read(values.choice, ("registered",))] = "registered"
    max_duration_s: Annotated[float, _read(values.duration_within, 1, 36500 * 86400)] | None = Field(
        default=None, alias="max_duration"
    )
    entries: tuple[Exemption, ...] = ()


class Blocking(Section):
    """How blocked questions are answered."""

    answer: Answer = "sinkhole"
    ipv4: Annotated[str | None, _read(values.ip_of, 4)] = "0.0.0.0"
    ipv6: Annotated[str | None, _read(values.ip_of, 6)] = "::"
    ttl: Annotated[int, _read(values.whole, 1, 3600)] = 60  # seconds
    text: Text | None = None  # of the extended error; None: the list's name


_LEVELS = ("debug", "info", "warning", "error")


class Log(Section):
    """What the service says of itself."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _read(values.choice, _LEVELS)] = "info"


def _default_groups() -> dict[str, Group]:
    return {DEFAULT_GROUP: Group(block=DEFAULT_BLOCK)}


def default_state() -> Path:
    """Return where state is kept when the configuration does not say: by the user that runs."""
    system = Path("/var/lib/dnsfilter")
    if os.geteuid() == 0:
        return system
    home = os.environ.get("XDG_STATE_HOME", "")
    if home.startswith("/"):  # a relative one counts as not set (XDG base directory specification)
        return Path(home) / "dnsfilter"
    try:
        return Path.home() / ".local/state/dnsfilter"
    except RuntimeError:  # a user without a home, as in a container
        return system


class Config(Section):
    """A whole configuration."""

    listen: Listen = Listen()
    access: Annotated[tuple[Prefix, ...], Field(min_length=1)] | None = None  # None: private ranges and the groups'
    upstreams: Upstreams | None = None  # None: those of /etc/resolv.conf
    forward: tuple[ForwardZone, ...] = ()
    resolve: Resolve = Resolve()
    cache: Cache = Cache()
    lists: dict[Annotated[str, _read_in(_list_name)], ListConfig] = Field(default_factory=dict)
    protected: tuple[DomainName, ...] = ()
    groups: dict[Annotated[str, _read(values.word, {})], Group] = Field(default_factory=_default_groups)
    exemptions: Exemptions = Exemptions()
    timezone: Annotated[str, _read(str)] = "UTC"  # judged in load.py, before the times that need it
    blocking: Blocking = Blocking()
    rate_limit: RateLimit = RateLimit()
    log: Log = Log()
    state: LocalPath = Field(default_factory=default_state)
    workers: Annotated[Literal["auto"] | int, _read(_workers)] = "auto"
