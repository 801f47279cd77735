"""Imports point downwards only, and third parties stay where they are: read from the source, nothing is run.

A room is a package below `dnsfilter`, or a module beside them. A new import that fails here needs
another way (a protocol, a callable handed over by `service`), or a line in a table with its reason.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dnsfilter

ROOT = Path(dnsfilter.__file__).parent

# Which rooms a room may import, itself apart. From the bottom to the top.
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "settings": set(),  # plain values that a snapshot carries to the serving process; knows nothing
    "engine": {"core"},
    "upstream": {"core", "engine"},  # for what the engine sends itself
    "listen": {"core", "engine"},
    "forward": {"core", "engine", "upstream"},
    "lists": {"core"},
    "config": {"core"},
    "observe": {"core", "engine"},
    "workers": {"settings"},
    "admin": {"settings", "workers"},  # says why an address cannot be had in the same words as `workers`
    "control": set(),
    "explain": {"core"},
    "snapshot": {"core", "settings"},
    "changes": {"settings", "snapshot"},
    "admission": {"config", "core", "lists", "settings"},
    "rows": {"config", "core"},
    "build": {"admission", "config", "core", "lists", "rows", "settings", "snapshot"},
    "fetch": {"build", "config", "core", "lists", "settings", "upstream"},
    "child": {"core", "settings", "snapshot"},  # runs `build` and `fetch` in other processes, and never imports them
    "readiness": {"core", "engine", "explain", "settings", "workers"},  # asks as a client asks
    "reloading": {"changes", "child", "control", "core", "lists", "settings", "snapshot"},
    "refreshing": {"child", "control", "reloading", "settings"},
    "connecting": {"core", "engine", "forward", "settings", "upstream", "workers"},
    "operations": {
        *(
            "admin",
            "connecting",
            "control",
            "core",
            "engine",
            "explain",
            "forward",
            "listen",
            "observe",
            "readiness",
            "refreshing",
        ),
        *("reloading", "upstream", "workers"),
    },
    "service": {
        *("admin", "child", "connecting", "control", "core", "engine", "forward", "listen", "operations", "readiness"),
        *("refreshing", "reloading", "settings", "snapshot", "workers"),
    },
    "cli": {
        *("admission", "build", "changes", "child", "config", "control", "core", "explain", "fetch", "lists"),
        *("service", "settings", "snapshot"),
    },
    "__main__": {"cli"},
}

# Within the core: what a module may know.
CORE: dict[str, set[str]] = {
    "names": set(),
    "exemptions": set(),
    "health": set(),
    "rules": {"names"},
    "special": {"names"},
    "wire": {"names"},
    "index": {"names", "rules"},
    "clients": {"exemptions"},  # knows no names
    "cache": {"names", "wire"},  # knows no policy and no upstreams
    "ech": {"cache", "names", "wire"},  # knows no clients
    "addresses": {"cache", "clients", "wire"},
    "policy": {"addresses", "clients", "exemptions", "index", "names"},  # knows no messages
    "listed": {"addresses", "cache", "policy"},
    "limits": {"clients"},  # knows no questions
    "suspicion": set(),
    "answer": {"clients", "policy", "special", "wire"},  # knows no lists and no cache
    "delivery": {"answer", "cache", "clients", "index", "listed", "names", "policy", "wire"},
    "plain": {"cache", "names", "wire"},
    "failures": set(),
    "cookies": {"clients"},  # knows no queries
}

# What the core takes of the standard library: nothing that has a clock, a file, a socket, a thread or a log.
PURE = {
    "__future__",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "hmac",
    "ipaddress",
    "itertools",
    "math",
    "struct",
    "typing",
}

# Third parties, and the only places that know of them.
THIRD_PARTIES: dict[str, set[str]] = {
    "idna": {"core.names"},
    "yaml": {"config"},
    "pydantic": {"config"},
    "pydantic_core": {"config"},
    "prometheus_client": {"observe"},
    "h2": {"upstream.doh", "upstream.http2"},
    "hpack": {"upstream.http2"},
    "httpx": {"lists.download", "lists.https"},
    "tenacity": {"lists.download"},
    "cryptography": {"lists.signature"},
    "publicsuffixlist": {"lists.guards"},
    "rich": {"cli"},
    "dnslib": {"cli"},
    "dns": {"lists.formats.rpz"},
    "uvloop": {"cli.run", "service"},
}

# Reading YAML costs memory and time: the process that answers does not load what reads it, nor the builder.
SERVING = "cli.run"
NOT_SERVING = {
    *("admission", "build", "fetch", "config", "rows"),
    *("yaml", "pydantic", "dnslib", "dns", "httpx", "rich", "publicsuffixlist", "tenacity"),
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package by its dotted name without the package's own."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        yield ".".join(parts), ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.Module) -> Iterator[str]:
    """The dotted name of each import, wherever it stands; of `from a import b` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


MODULES = {name: set(imports(tree)) for name, tree in modules()}


def room(module: str) -> str:
    return module.partition(".")[0]


def own(module: str) -> Iterator[str]:
    """The imports from this package that name a module of it."""
    for each in MODULES[module]:
        inner = each.removeprefix("dnsfilter.")
        if each.startswith("dnsfilter.") and (inner in MODULES or inner.rpartition(".")[0] in MODULES):
            yield inner


def others(module: str) -> set[str]:
    return {each.partition(".")[0] for each in MODULES[module]} - {"dnsfilter"}


@pytest.mark.parametrize("module", [each for each in MODULES if each], ids=str)
def test_a_module_imports_from_the_rooms_below_it_only(module: str) -> None:
    allowed = ROOMS[room(module)] | {room(module), "__version__"}
    assert {room(each) for each in own(module)} <= allowed


@pytest.mark.parametrize("module", [each for each in MODULES if each], ids=str)
def test_a_third_party_is_imported_where_it_belongs_only(module: str) -> None:
    for package in others(module) - set(sys.stdlib_module_names):
        places = THIRD_PARTIES[package]
        assert places & {module, room(module)}, f"{package} belongs in {sorted(places)}"


@pytest.mark.parametrize("module", [each for each in MODULES if room(each) == "core"], ids=str)
def test_the_core_has_no_clock_no_file_no_socket_no_thread_and_no_log(module: str) -> None:
    assert others(module) - {"idna"} <= PURE


@pytest.mark.parametrize("module", [each for each in MODULES if each.startswith("core.")], ids=str)
def test_a_module_of_the_core_knows_what_it_needs_only(module: str) -> None:
    part = module.split(".")[1]
    assert {each.split(".")[1] for each in own(module) if each.startswith("core.")} <= CORE[part] | {part}


def test_lists_say_nothing_of_messages_nor_of_clients() -> None:
    for module in MODULES:
        if room(module) == "lists":
            assert {each.split(".")[1] for each in own(module) if room(each) == "core"} <= {"names", "rules"}


def test_the_configuration_knows_of_the_core_names_and_kinds_of_rules_only() -> None:
    for module in MODULES:
        if room(module) == "config":
            assert {each.split(".")[1] for each in own(module) if "." in each and room(each) == "core"} <= {
                "names",
                "rules",
            }


def test_the_serving_process_loads_no_reader_of_configurations() -> None:
    loaded, todo = set[str](), [SERVING]
    while todo:
        module = todo.pop()
        if module in loaded or module not in MODULES:
            continue
        loaded.add(module)
        todo += [*own(module), *(each.rpartition(".")[0] for each in own(module)), room(module)]
    found = {room(each) for each in loaded} | {package for each in loaded for package in MODULES[each]}
    assert not found & NOT_SERVING


def test_every_room_stands_above_those_it_imports() -> None:
    """The tables have no circles: each entry names earlier entries only."""
    for table in (ROOMS, CORE):
        seen: set[str] = set()
        for name, below in table.items():
            assert below <= seen, name
            seen.add(name)


def test_the_tables_name_nothing_that_is_not_there() -> None:
    assert set(ROOMS) == {room(each) for each in MODULES if each}
    assert set(CORE) == {each.split(".")[1] for each in MODULES if each.startswith("core.")}
    used = {package for module in MODULES for package in others(module)} - set(sys.stdlib_module_names)
    assert set(THIRD_PARTIES) == used


def test_every_module_says_first_what_it_owns() -> None:
    for name, tree in modules():
        assert ast.get_docstring(tree), name or "dnsfilter"
