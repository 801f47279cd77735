"""What another policy would change, in an admin's words."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from dnsfilter.settings import FIXED
from dnsfilter.snapshot import Head

# Settings by the keys that an admin knows them by.
_KEYS = {
    "dns": "listen.dns",
    "admin": "listen.admin",
    "metrics": "listen.metrics",
    "upstream_groups": "upstreams or forward",
    "strategy": "resolve.strategy",
    "bootstrap": "resolve.bootstrap or upstreams",
    "ca_file": "resolve.ca_file",
    "ca_hash": "the certificates in resolve.ca_file",
    "random_case": "resolve.random_case",
    "timeout_s": "resolve.timeout",
    "deadline_s": "resolve.deadline",
    "max_concurrent": "resolve.max_concurrent",
    "cache_entries": "cache.entries",
    "max_ttl": "cache.max_ttl",
    "max_negative_ttl": "cache.max_negative_ttl",
    "serve_stale": "cache.serve_stale",
    "rate_limit": "rate_limit.queries_per_second",
    "rate_limit_exempt": "rate_limit.exempt",
    "log_level": "log.level",
}


def needs_restart(old: Head, new: Head) -> list[str]:
    """Return the keys that differ and are only read at a start."""
    return [_KEYS.get(name, name) for name in FIXED if getattr(old.settings, name) != getattr(new.settings, name)]


def between(old: Head, new: Head) -> list[str]:
    """Return what changes from one policy to the next, a line each; empty: nothing."""
    return [*_lists(old, new), *_groups(old, new), *_exemptions(old, new), *_rest(old, new)]


def _lists(old: Head, new: Head) -> Iterator[str]:
    before, after = ({each.name: each for each in head.lists} for head in (old, new))
    for name in before.keys() - after.keys():
        yield f"list '{name}' is no longer used ({before[name].entries} entries)"
    for name, now in after.items():
        was = before.get(name)
        if was is None:
            yield f"list '{name}' is new: {now.entries} entries from {now.source}"
        elif was.sha256 != now.sha256:
            yield f"list '{name}' changed: {was.entries} entries before, {now.entries} now"
        elif (was.format, was.match, was.mode, was.source) != (now.format, now.match, now.mode, now.source):
            yield f"list '{name}' is read otherwise: {now.format}, match {now.match}, mode {now.mode}, {now.source}"


def _groups(old: Head, new: Head) -> Iterator[str]:
    before, after = _by_group(old), _by_group(new)
    for name in before.keys() - after.keys():
        yield f"group '{name}' is gone"
    for name, now in after.items():
        was = before.get(name)
        if was is None:
            yield f"group '{name}' is new: {len(now['networks'])} networks"
            continue
        if added := sorted(now["networks"] - was["networks"]):
            yield f"group '{name}' gains the networks {', '.join(added)}"
        if lost := sorted(was["networks"] - now["networks"]):
            yield f"group '{name}' loses the networks {', '.join(lost)}"
        if was["rules"] != now["rules"]:
            yield f"group '{name}' is treated otherwise: lists, allow, only, mode or answer"
        if was["strip_ech"] != now["strip_ech"]:
            yield f"group '{name}': strip_ech is now {'on' if now['strip_ech'] else 'off'}"


def _by_group(head: Head) -> dict[str, dict[str, Any]]:
    names = head.policy["lists"]
    found: dict[str, dict[str, Any]] = {}
    for row in head.policy["rows"]:
        group = found.setdefault(row["group"], {"networks": set(), "rules": None})
        if row["network"]:
            group["networks"].add(row["network"])
        group["strip_ech"] = row.get("strip_ech", False)  # a snapshot of an earlier version does not say
        masks = ("enforced", "observed", "only", "allow_lists")
        group["rules"] = (
            [[name for number, name in enumerate(names) if row[mask] >> number & 1] for mask in masks],
            [name for _, name in row["order"]],
            (row["style"], row["only_enforced"], head.policy["allow"].get(row["group"])),
        )
    return found


def _exemptions(old: Head, new: Head) -> Iterator[str]:
    before, after = _granted(old), _granted(new)
    yield from (f"exemption {each} is gone" for each in before.keys() - after.keys())
    yield from (f"exemption {each} is new" for each in after.keys() - before.keys())
    yield from (f"exemption {each} changed" for each in before.keys() & after.keys() if before[each] != after[each])


def _granted(head: Head) -> Mapping[str, Any]:
    names = head.policy["lists"]
    found: dict[str, Any] = {each: {"end": end, "where": []} for each, end in head.ends.items()}
    for network, number in head.policy["networks"]:
        for exemption in head.policy["rows"][number]["exemptions"]:
            lists = [name for bit, name in enumerate(names) if exemption["lists"] >> bit & 1]
            found[exemption["id"]]["where"].append([network, exemption["start"], lists])
    return found


def _rest(old: Head, new: Head) -> Iterator[str]:
    labels = {"blocking": "how blocked questions are answered", "access": "who may ask"}
    labels |= {"protected": "the protected names", "zones": "the forward zones"}
    labels |= {"private_zones": "resolve.private_domains"}
    yield from (f"{label} changed" for key, label in labels.items() if old.policy[key] != new.policy[key])
    before, after = asdict(old.settings), asdict(new.settings)
    yield from (f"{_KEYS[key]} changed" for key in before if before[key] != after[key] and key not in FIXED)
