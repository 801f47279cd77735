"""`dnsfilter explain`: the verdict on a name, and all that led to it."""

import time
from argparse import Namespace
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

from dnslib import QTYPE, DNSRecord

from dnsfilter import build, control, explain
from dnsfilter.admission import Source
from dnsfilter.cli.configured import build_all, state_of
from dnsfilter.cli.output import complain, dump, moment, say
from dnsfilter.config import times
from dnsfilter.config.load import load
from dnsfilter.config.problems import ConfigError, Wrong
from dnsfilter.core.clients import address
from dnsfilter.core.names import BadName, Name, from_text
from dnsfilter.lists import formats, source
from dnsfilter.settings import Request


def main(options: Namespace) -> int:
    """Explain by the files, or by the running server."""
    try:
        name, qtype, wall = from_text(options.name), _type(options.type), _moment(options)
    except ConfigError as error:
        complain(str(error))
        return 2
    except (BadName, Wrong, ValueError) as error:
        complain(str(error))
        return 2
    try:
        if options.client is not None:
            address(options.client)
    except ValueError as error:
        complain(f"--client: {error}")
        return 2
    return _live(options, qtype, wall) if options.live else _offline(options, name, qtype, wall)


def _type(text: str) -> int:
    upper = text.upper()
    number = upper.removeprefix("TYPE")
    try:
        found = int(number) if number != upper else int(getattr(QTYPE, upper))
        if not 0 <= found < 65_536:
            raise ValueError
        return found
    except Exception:  # noqa: BLE001 - dnslib has an error class of its own
        raise ValueError(f"'{text}' is no query type; write A, AAAA, HTTPS or TYPE65") from None


def _moment(options: Namespace) -> float | None:
    """Return the moment asked about; None: now. Raises ConfigError, Wrong."""
    if options.at is None:
        return None
    path = None if options.config is None else Path(options.config)
    name = load(path, builtin=source.builtin()).config.timezone
    return times.start(options.at, UTC if name == "UTC" else ZoneInfo(name))  # UTC needs no time zone data


def _offline(options: Namespace, name: Name, qtype: int, wall: float | None) -> int:
    built = build_all(options)
    if built is None:
        return 2
    policy = built.policy()
    asked = list(explain.ask(policy, name, qtype, options.client, time.time() if wall is None else wall))
    found = [explain.describe(policy, each, explain.verdict_of(policy, each)) for each in asked]
    in_force = {each.name: each.sha256 for each in built.head.lists}
    for each in found:
        each["rules"] = _rules(built.inputs, each, in_force)
        each["about"] = _about(each["rules"])
    _print(options, found, None)
    return 0


def _live(options: Namespace, qtype: int, wall: float | None) -> int:
    request = {"command": "explain", "name": options.name, "type": qtype, "client": options.client, "at": wall}
    try:
        result = control.request(state_of(options), request, timeout_s=30.0)
    except (ConfigError, control.NoServer) as error:
        complain(str(error))
        return 1
    if "error" in result:
        complain(result["error"])
        return 1
    try:
        inputs = build.read(Request(config=options.config, text=result["config_text"]))
    except ConfigError:
        inputs = None  # what it needs has gone since; the verdict stands without it
    for each in result["explained"]:
        each["rules"] = [] if inputs is None else _rules(inputs, each, result["sha256"])
        each["about"] = _about(each["rules"])
    _print(options, result["explained"], result["upstream_answer"])
    return 0


def _rules(inputs: build.Inputs, found: control.Json, in_force: dict[str, str]) -> list[control.Json]:
    """Find the lines that name the name that decided.

    in_force: hashes of the lists that the running server read; where a file is another now, that is said.
    """
    wanted = {from_text(candidate) for candidate in found["candidates"]}
    rules = []
    for each in inputs.sources:
        if each.name not in (*found["lists"], *found["group_lists"]):  # one that allows the name does not hold it
            continue
        sha256 = in_force.get(each.name, each.sha256)
        octets = each.copy(sha256) or each.octets or b""
        for line in formats.find(octets, each.format, each.match, wanted):
            place, is_changed = _place(inputs, each, line.line), sha256 != each.sha256
            rules.append({"list": each.name, "place": place, "text": line.text, "changed_since": is_changed})
    return rules


def _about(rules: list[control.Json]) -> list[str]:
    """Return what the built-in lists among those that name the name do besides."""
    builtin = source.builtin()
    names = dict.fromkeys(rule["list"] for rule in rules if rule["list"] in builtin)
    return [f"list '{name}', {builtin[name].title}; side effects: {builtin[name].side_effects}" for name in names]


def _place(inputs: build.Inputs, each: Source, line: int) -> str:
    if each.kind == "inline":
        written = inputs.loaded.places.place("lists", each.name, "domains", line - 1)
        return f"{written.file}:{written.line}"
    return f"{each.path or each.where}:{line}"


def _print(options: Namespace, explained: list[control.Json], upstream_answer: str | None) -> None:
    if options.json:
        dump({"explained": explained, "upstream_answer": upstream_answer})
        return
    for number, found in enumerate(explained):
        if number:
            say("")
        _print_one(found)
        if upstream_answer is None and found["verdict"] == "forwarded":
            say("  names and addresses that the answer leads to are judged too: ask for them with --live")
    if upstream_answer is not None:
        say("\nupstream answers:")
        _print_message(upstream_answer)


def _print_one(found: control.Json) -> None:
    who = f"client {found['client']}" if found["client"] else f"any client of group '{found['group']}'"
    say(f"{found['name']} for {who}: {found['verdict'].upper()}")
    if found["group"] is None:
        say("  may not ask: no network of `access` contains the client")
    else:
        say(f"  group '{found['group']}'" + (f", by network {found['network']}" if found["network"] else ""))
    for other in found["other_networks"]:
        say(f"  network {other['network']} of group '{other['group']}' contains it too; the longer prefix decides")
    if found["list"]:
        say(f"  list '{found['list']}' decided")
    if found["via"]:
        say(f"  through the chain: {found['via']}")
    if found["address"]:
        say(f"  through an address of the answer: {found['address']}")
    if found["unblocked_by_protected"]:
        say("  a list names it, but `protected` keeps it open")
    for rule in found["rules"]:
        changed = " (the file has changed since)" if rule["changed_since"] else ""
        unused = "" if rule["list"] in found["group_lists"] else ", which this group does not use"
        say(f"  {rule['place']}: {rule['text']} (list '{rule['list']}'{unused}){changed}")
    for about in found["about"]:
        say(f"  {about}")
    for each in found["exemptions"]:
        lists = ", ".join(each["lists"])
        used = "; it lifted the block" if each["id"] == found["exemption"] else ""
        say(f"  exemption {each['id']} {each['state']}, until {moment(each['end'])}, lists {lists}{used}")
    if found["device_may_keep_s"] is not None:
        say(f"  a device may keep the answer up to {found['device_may_keep_s']} s")
    say(f"  policy {found['policy']['hash']}, at {found['at']}")
    if found["answer"]:
        _print_message(found["answer"])


def _print_message(octets: str) -> None:
    try:
        lines = str(DNSRecord.parse(bytes.fromhex(octets))).splitlines()
    except Exception:  # noqa: BLE001 - dnslib reads no worse than it can
        lines = [f"a message that cannot be shown as text: {octets}"]
    for line in lines:
        say(f"    {''.join(char if char.isprintable() else ascii(char)[1:-1] for char in line)}")
