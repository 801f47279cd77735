"""A configuration and its lists to a policy: the same for run, check, explain and reload.

`python -m dnsfilter.build` is the child process in which the server has it done: reading
and resolving a million names would stall the loop that answers.
"""

import hashlib
import ipaddress
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnsfilter import __version__, admission
from dnsfilter.admission import Admitted, Source
from dnsfilter.config import lint
from dnsfilter.config.load import Loaded, load
from dnsfilter.config.problems import ConfigError, Problem
from dnsfilter.config.schema import Config, ListConfig
from dnsfilter.config.sets import expand
from dnsfilter.config.upstreams import Upstream
from dnsfilter.config.values import Address
from dnsfilter.core.index import Builder, Chunk, Index
from dnsfilter.core.names import ancestry, to_text
from dnsfilter.core.policy import CANARY, REBINDING, Policy
from dnsfilter.core.rules import Rules
from dnsfilter.core.special import CANARIES
from dnsfilter.lists import source
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.store import Store
from dnsfilter.rows import address_lists, ranges_of, what_decides
from dnsfilter.settings import Endpoint, ListState, Request, Resolver, Settings
from dnsfilter.snapshot import IN_FORCE, BadSnapshot, Head, Reader, policy_of, write

SAMPLES = 8  # names of each list that readiness checks may ask for
SKIPPED_SHOWN = 100  # skipped lines of a list that commands may print


@dataclass(slots=True)
class Inputs:
    """Everything that was read: configuration and lists, not parsed yet."""

    request: Request
    loaded: Loaded
    sources: list[Source]
    store: Store
    upstreams: tuple[Resolver, ...]
    read_at: float  # seconds since the epoch
    ca_hash: str = field(init=False)  # of the certificates in `resolve.ca_file`; empty: none
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        given = self.request
        self.ca_hash = self._ca_hash()
        parts = [__version__, self.loaded.text, f"{given.config} {given.listen} {given.upstream}", str(self.upstreams)]
        parts += [admission.guards().version, *(each.inputs for each in self.sources), self.ca_hash]
        self.hash = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _ca_hash(self) -> str:
        """Return the hash of the certificates: others are taken over by a reload."""
        file = self.loaded.config.resolve.ca_file
        try:
            return "" if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError:
            return ""


@dataclass(slots=True)
class Built:
    """A policy that is ready to be written or used."""

    head: Head
    chunks: list[Chunk]
    inputs: Inputs

    def policy(self) -> Policy:
        """Return the policy itself, for use in this process."""
        return policy_of(self.head, Index(self.chunks))


class ListErrors(Exception):
    """Lists that must be refused, with nothing to put in their place; the reasons by list."""

    def __init__(self, reasons: dict[str, str], loaded: Loaded) -> None:
        super().__init__(admission.placed(loaded, reasons))
        self.reasons = reasons


def read(request: Request) -> Inputs:
    """Read configuration and lists. Raises ConfigError."""
    loaded = configuration(request)
    found = upstreams(loaded, Path(request.resolv_conf))
    store, read_at = Store(state_of(loaded, request)), time.time()
    return Inputs(request, loaded, admission.gather(loaded, request, store, read_at), store, found, read_at)


def configuration(request: Request) -> Loaded:
    """Read the configuration alone. Raises ConfigError."""
    path = None if request.config is None else Path(request.config)
    builtin = source.builtin()
    return load(path, builtin=builtin, text=request.text, listen=request.listen, upstream=request.upstream)


def state_of(loaded: Loaded, request: Request) -> Path:
    """Return the state directory of whoever asks."""
    return loaded.config.state if request.state is None else Path(request.state)


def resolver(one: Upstream) -> Resolver:
    """Return an upstream of the configuration as settings have it."""
    return Resolver(one.transport, one.host, one.port, one.server_name, one.path)


def plain(resolvers: Iterable[Resolver]) -> tuple[Endpoint, ...]:
    """Return those that are asked without encryption: who may be asked before anything else is known."""
    return tuple((one.host, one.port) for one in resolvers if one.transport == "udp")


def bootstrap(config: Config, upstreams: Iterable[Resolver]) -> tuple[Endpoint, ...]:
    """Return who looks up the host names that we ourselves need.

    upstreams: those of names in no zone of `forward`, of which the plain ones are asked where the configuration
    names nobody.
    """
    if config.resolve.bootstrap is not None:
        return tuple((one.host, one.port) for one in config.resolve.bootstrap)
    return plain(upstreams)


def upstreams(loaded: Loaded, resolv_conf: Path) -> tuple[Resolver, ...]:
    """Return the resolvers to ask: as configured, else the system's. Raises ConfigError."""
    config = loaded.config
    if config.upstreams is not None:
        return tuple(map(resolver, config.upstreams))
    found: list[Endpoint] = []
    try:
        lines = resolv_conf.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            found.append((words[1], 53))
    own = [each for each in found if config.listen.is_own(Address(*each))]
    problem = ""
    if own:
        problem = f"{own[0][0]} in {resolv_conf} is dnsfilter itself: queries would go round in circles"
    elif not found:
        problem = f"no upstreams are written, and {resolv_conf} names no nameserver"
    if problem:
        place = loaded.places.place("upstreams")
        remedy = "write the resolvers to ask: upstreams: [192.0.2.53]"
        raise ConfigError([Problem(place.file, place.line, problem, remedy)])
    return tuple(Resolver("udp", *each) for each in dict.fromkeys(found))


def build(inputs: Inputs) -> Built:
    """Build the policy. Raises ListErrors."""
    config = inputs.loaded.config
    builder = Builder(protected=frozenset(config.protected))
    states: list[ListState] = []
    warnings = [str(problem) for problem in lint.warnings(inputs.loaded)]
    reasons: dict[str, str] = {}
    for number, each in enumerate(inputs.sources):
        try:
            found = admission.admit(each, inputs.request, inputs.store)
        except BadList as error:
            reasons[each.name] = str(error)
            continue
        builder.block(number, found.rules)
        states.append(_state(found))
        warnings += found.warnings
    if reasons:
        raise ListErrors(reasons, inputs.loaded)
    ranges = address_lists(config)
    states += [_address_state(name, entry, inputs.read_at) for name, entry in ranges.items()]
    guarded = (REBINDING,) if config.resolve.rebind_protection else ()
    names = (*(each.name for each in inputs.sources), *ranges, CANARY, *guarded)
    builder.block(names.index(CANARY), Rules(suffix=list(CANARIES)))
    for number, group in enumerate(config.groups.values()):
        builder.allow(number, group.allow_names)
    if not inputs.store.is_readable():
        warnings.append("the copies of lists in the state directory are not readable for this user, and count as none")
    warnings += _allowed_again(inputs.loaded, builder, names)
    chunks = list(builder.chunks())
    if unblocked := [name for name in builder.unblocked if name not in CANARIES]:
        shown = ", ".join(map(to_text, unblocked[:5]))
        warnings.append(f"{len(unblocked)} listed names are not blocked because of `protected`: {shown}")
    observed = [each.name for each in inputs.sources if each.mode == "observe"]
    observed += [name for name, entry in address_lists(config).items() if entry.mode == "observe"]
    policy = what_decides(inputs.loaded, names, observed)
    content = {
        "read": [(s.name, s.sha256, s.format, s.match) for s in states],
        "by": (__version__, admission.guards().version),
        "policy": policy,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    head = Head(
        inputs=inputs.hash,
        hash=digest[:16],
        config_text=inputs.loaded.text,
        warnings=tuple(warnings),
        settings=_settings(config, inputs.upstreams, inputs.ca_hash),
        lists=tuple(states),
        policy=policy,
        ends={each.id: each.end for each in config.exemptions.entries},
    )
    return Built(head, chunks, inputs)


def _allowed_again(loaded: Loaded, builder: Builder, names: tuple[str, ...]) -> Iterator[str]:
    """Warn of allow names that take back what the group's own lists block."""
    for name, group in loaded.config.groups.items():
        blocked = expand(loaded.config, loaded.builtin, group.block)
        for allowed in group.allow_names:
            mask = builder.blocks(allowed)
            lists = [each for number, each in enumerate(names) if mask >> number & 1 and each in blocked]
            if lists:
                place = loaded.places.place("groups", name, "allow")
                taken = ", ".join(f"'{each}'" for each in lists)
                yield f"{place}group '{name}': allow: {to_text(allowed)} is on {taken}, and not blocked for this group"


def _state(each: Admitted) -> ListState:
    origin, rules = each.source, each.rules
    names = rules.suffix or rules.exact or [b"\1x" + name for name in rules.below]
    if allowed := {*rules.allow_exact, *rules.allow_suffix, *rules.allow_below}:
        names = [name for name in names if allowed.isdisjoint(ancestry(name))]
    step = max(1, len(names) // SAMPLES)
    return ListState(
        name=origin.name,
        source=origin.where,
        path=str(origin.path) if origin.kind == "file" else "",
        stamp=origin.stamp,
        format=origin.format,
        match=origin.match or "as written",
        mode=origin.mode,
        sha256=each.sha256,
        entries=len(rules),
        skipped_lines=rules.skipped_count,
        skipped=tuple(f"line {s.line}: {s.reason}: {s.text}" for s in rules.skipped[:SKIPPED_SHOWN]),
        samples=tuple(to_text(name) for name in names[::step][:SAMPLES]),
        checked_at=each.checked_at,
        changed_at=each.changed_at,
        dated=each.dated,
        problem=each.problem,
        refresh_s=origin.config.refresh_s if origin.kind == "url" and origin.config else 0.0,
        wants_fetch=origin.wants_fetch,
    )


def _address_state(name: str, entry: ListConfig, read_at: float) -> ListState:
    networks = ranges_of(entry)
    return ListState(
        name=name,
        source="configuration",
        path="",
        stamp="",
        format="addresses",
        match="as written",
        mode=entry.mode,
        sha256=hashlib.sha256("\n".join(networks).encode()).hexdigest(),
        entries=len(networks),
        skipped_lines=0,
        skipped=(),
        samples=(),
        checked_at=read_at,
        changed_at=read_at,
    )


def _settings(config: Config, upstreams: tuple[Resolver, ...], ca_hash: str) -> Settings:
    groups = [upstreams, *(tuple(map(resolver, zone.upstreams)) for zone in config.forward)]
    return Settings(
        state=str(config.state),
        dns=tuple((each.host, each.port) for each in config.listen.dns),
        admin=None if config.listen.admin is None else (config.listen.admin.host, config.listen.admin.port),
        metrics=None if config.listen.metrics is None else (config.listen.metrics.host, config.listen.metrics.port),
        upstream_groups=tuple(groups),
        strategy=config.resolve.strategy,
        bootstrap=bootstrap(config, upstreams),
        ca_file=str(config.resolve.ca_file or ""),
        ca_hash=ca_hash,
        random_case=config.resolve.random_case,
        timeout_s=config.resolve.timeout_s,
        deadline_s=config.resolve.deadline_s,
        max_concurrent=config.resolve.max_concurrent,
        cache_entries=config.cache.entries,
        max_ttl=config.cache.max_ttl_s,
        max_negative_ttl=config.cache.max_negative_ttl_s,
        serve_stale=config.cache.serve_stale_s,
        rate_limit=config.rate_limit.queries_per_second,
        rate_limit_exempt=tuple(map(str, config.rate_limit.exempt)),
        log_level=config.log.level,
    )


# ---- the child process ----


def _child() -> int:
    """Read a request from standard input, write a snapshot, print one line of JSON about it."""
    request = json.loads(sys.stdin.read())
    if request.pop("nice", False):
        os.nice(10)
    try:
        result = _snapshot(Request(**request))
    except ConfigError as error:
        result = {"error": str(error), "status": 2}
    except ListErrors as error:
        result = {"error": str(error), "status": 2, "lists": error.reasons}
    except OSError as error:
        result = {"error": f"{error.filename}: {error.strerror}", "status": 1}
    print(json.dumps(result))
    return int(result.get("status", 0))


def _snapshot(request: Request) -> dict[str, Any]:
    inputs = read(request)
    state = state_of(inputs.loaded, request)
    current = state / IN_FORCE
    checked_at = {each.name: each.checked_at for each in inputs.sources if each.octets is not None}
    checked_at |= dict.fromkeys(address_lists(inputs.loaded.config), inputs.read_at)
    if _is_built_from(current, inputs.hash):
        return {"snapshot": str(current), "checked_at": checked_at}
    fresh = state / f"{os.getpid()}.snapshot"
    try:
        state.mkdir(mode=0o750, parents=True, exist_ok=True)
        built = build(inputs)
        write(fresh, built.head, built.chunks)
        inputs.store.tidy([each.kept for each in inputs.sources if each.kept is not None])
    except OSError as error:
        remedy = "give this user the directory, or write another one: state: DIR"
        return {"error": f"{error.filename or state}: {error.strerror}\n  {remedy}", "status": 1}
    return {"snapshot": str(fresh), "checked_at": checked_at}


def _is_built_from(path: Path, inputs: str) -> bool:
    """Tell whether there is a whole snapshot that was built from these inputs."""
    try:
        reader = Reader(path)
        if reader.head.inputs != inputs:
            reader.close()
            return False
        for _ in reader.chunks():
            pass
    except (OSError, BadSnapshot):
        return False
    return True


if __name__ == "__main__":
    status = _child()
    sys.stdout.flush()
    os._exit(status)  # taking a million names apart one by one would make who waits wait longer
