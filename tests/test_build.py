"""A configuration and its lists to a policy: what it decides, its hash, and what is refused."""

import ipaddress
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsfilter import build, changes, fetch, readiness, snapshot
from dnsfilter.config.problems import ConfigError
from dnsfilter.core.clients import ClientRow, address
from dnsfilter.core.policy import Action, Policy, decide
from dnsfilter.settings import Request, Resolver
from tests.core import reference
from tests.core.make import name

BASE: dict[str, Any] = {
    "upstreams": ["192.0.2.53"],
    "lists": {
        "ministry": {"file": "ministry.txt"},
        "hosts": {"file": "hosts.txt", "format": "hosts"},
        "urgent": {"domains": ["new.example"]},
        "watch": {"domains": ["watched.example"], "mode": "observe"},
        "news": {"domains": ["news.example"]},
        "edge": {"addresses": ["203.0.113.0/24", "2001:db8:bad::/48"]},
    },
    "protected": ["gouv.example"],
    "groups": {
        "managed": {
            "networks": ["192.0.2.0/24", "2001:db8:1::/48"],
            "block": ["ministry", "hosts", "urgent", "watch", "edge"],
            "allow": ["press.example"],
        },
        "labs": {"networks": ["192.0.2.64/26"], "block": ["ministry"], "answer": "nxdomain"},
        "inspected": {"networks": ["198.51.100.0/24"], "block": ["ministry"], "only": ["urgent"]},
        "default": {"block": []},
    },
    "exemptions": {
        "entries": [
            {
                "id": "PRESS-1",
                "networks": ["192.0.2.16/28", "192.0.2.128/25"],
                "lists": ["ministry"],
                "owner": "Press office",
                "reason": "communication",
                "approved_by": "CISO",
                "start": "2026-05-04",
                "end": "2026-05-08",
            }
        ]
    },
    "timezone": "UTC",
    "blocking": {"ttl": 30},
}
FILES = {"ministry.txt": "banned.example\nx.gouv.example\n", "hosts.txt": "0.0.0.0 exact.example\n"}
DURING, AFTER = 1_778_000_000.0, 1_778_300_000.0  # 5 and 9 May 2026


def changed(base: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """The same configuration with another value at a path of keys; None takes the key out."""
    key, _, rest = path.partition("/")
    found = dict(base)
    if rest:
        found[key] = changed(found.get(key, {}), rest, value)
    elif value is None:
        del found[key]
    else:
        found[key] = value
    return found


def write(folder: Path, config: Mapping[str, Any] = BASE, files: Mapping[str, str] = FILES) -> Request:
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text)
    path = folder / "dnsfilter.yaml"
    path.write_text(yaml.safe_dump({"state": str(folder / "state")} | dict(config), sort_keys=False))
    return Request(config=str(path))


def built(folder: Path, config: Mapping[str, Any] = BASE, files: Mapping[str, str] = FILES) -> build.Built:
    return build.build(build.read(write(folder, config, files)))


def action(policy: Policy, client: str, asked: str, wall: float = AFTER) -> Action:
    row = policy.clients.find(address(client))
    return Action.REFUSED if row is None else decide(policy, row, name(asked), wall).action


@pytest.mark.parametrize(
    ("client", "asked", "wall", "expected"),
    [
        ("192.0.2.9", "x.banned.example", AFTER, Action.BLOCKED),
        ("::ffff:192.0.2.9", "banned.example", AFTER, Action.BLOCKED),
        ("2001:db8:1::9", "banned.example", AFTER, Action.BLOCKED),
        ("192.0.2.9", "exact.example", AFTER, Action.BLOCKED),
        ("192.0.2.9", "x.exact.example", AFTER, Action.FORWARDED),
        ("192.0.2.9", "x.gouv.example", AFTER, Action.FORWARDED),
        ("192.0.2.9", "watched.example", AFTER, Action.OBSERVED),
        ("192.0.2.9", "x.press.example", AFTER, Action.ALLOWED),
        ("192.0.2.9", "use-application-dns.net", AFTER, Action.BLOCKED),
        ("192.0.2.20", "banned.example", DURING, Action.EXEMPTED),
        ("192.0.2.20", "banned.example", AFTER, Action.BLOCKED),
        ("192.0.2.20", "new.example", DURING, Action.BLOCKED),
        ("192.0.2.70", "banned.example", DURING, Action.BLOCKED),
        ("192.0.2.70", "new.example", AFTER, Action.FORWARDED),
        ("192.0.2.200", "banned.example", DURING, Action.EXEMPTED),
        ("198.51.100.9", "any.example", AFTER, Action.BLOCKED),
        ("198.51.100.9", "new.example", AFTER, Action.FORWARDED),
        ("10.0.0.9", "banned.example", AFTER, Action.FORWARDED),
        ("10.0.0.9", "use-application-dns.net", AFTER, Action.FORWARDED),
        ("203.0.113.9", "banned.example", AFTER, Action.REFUSED),
    ],
)
def test_a_configuration_decides(tmp_path: Path, client: str, asked: str, wall: float, expected: Action) -> None:
    assert action(built(tmp_path).policy(), client, asked, wall) is expected


def test_an_exemption_opens_no_access(tmp_path: Path) -> None:
    """By default private ranges and the networks of groups may ask."""
    entry = BASE["exemptions"]["entries"][0] | {"networks": ["203.0.113.0/28"]}
    policy = built(tmp_path, changed(BASE, "exemptions/entries", [entry])).policy()
    assert action(policy, "203.0.113.9", "any.example") is Action.REFUSED


# The hash: equal hashes decide alike, and nothing of the node is in it.


def test_equal_policies_in_other_places_have_the_same_hash(tmp_path: Path) -> None:
    assert built(tmp_path / "one").head.hash == built(tmp_path / "two").head.hash


NODE = [
    ("upstreams", ["192.0.2.54", "192.0.2.55"]),
    ("listen", {"dns": ["127.0.0.1:5353"], "admin": "off"}),
    ("state", "elsewhere"),
    ("log", {"level": "debug"}),
    ("resolve", {"timeout": "1s", "deadline": "3s"}),
    ("resolve", {"strategy": "parallel", "random_case": "on", "bootstrap": ["192.0.2.1"]}),
    ("rate_limit", {"queries_per_second": 100}),
    ("cache", {"entries": 5, "max_ttl": "5m"}),
]


@pytest.mark.parametrize(("path", "value"), NODE, ids=[f"{path} {value}" for path, value in NODE])
def test_the_hash_does_not_change_with_what_is_of_the_node(tmp_path: Path, path: str, value: object) -> None:
    found = built(tmp_path, changed(BASE, path, value)).head
    assert found.hash == built(tmp_path).head.hash
    assert found.inputs != built(tmp_path).head.inputs


def test_the_hash_does_not_change_with_the_upstreams_of_a_zone(tmp_path: Path) -> None:
    one, two = (
        built(tmp_path, changed(BASE, "forward", [{"zone": "intra.example", "upstreams": [each]}])).head
        for each in ("192.0.2.60", "192.0.2.61")
    )
    assert one.hash == two.hash != built(tmp_path).head.hash


ENTRY = BASE["exemptions"]["entries"][0]
POLICY = [
    ("lists/urgent/domains", ["new.example", "newer.example"]),
    ("lists/urgent/match", "exact"),
    ("lists/urgent/mode", "observe"),
    ("lists/watch/mode", "enforce"),
    ("lists/edge/addresses", ["203.0.113.0/25", "2001:db8:bad::/48"]),
    ("lists/edge/mode", "observe"),
    ("resolve", {"rebind_protection": "on"}),
    ("resolve", {"rebind_protection": "on", "private_domains": ["corp.example"]}),
    ("protected", ["gouv.example", "bank.example"]),
    ("protected", None),
    ("groups/managed/networks", ["192.0.2.0/24"]),
    ("groups/managed/block", ["hosts", "ministry", "urgent", "watch", "edge"]),
    ("groups/managed/block", ["ministry"]),
    ("groups/managed/allow", ["press.example", "radio.example"]),
    ("groups/managed/allow", ["news"]),
    ("groups/managed/mode", "observe"),
    ("groups/managed/answer", "refused"),
    ("groups/inspected/only", ["urgent", "watch"]),
    ("groups/default/block", ["ministry"]),
    ("groups/labs", None),
    ("access", ["192.0.2.0/24", "2001:db8:1::/48", "198.51.100.0/24"]),
    ("exemptions", None),
    ("exemptions/entries", [ENTRY | {"id": "PRESS-2"}]),
    ("exemptions/entries", [ENTRY | {"end": "2026-05-09"}]),
    ("exemptions/entries", [ENTRY | {"start": "2026-05-03"}]),
    ("exemptions/entries", [ENTRY | {"lists": ["ministry", "urgent"]}]),
    ("exemptions/entries", [ENTRY | {"networks": ["192.0.2.16/29"]}]),
    ("timezone", "Europe/Paris"),
    ("blocking/answer", "nodata"),
    ("blocking/ipv4", "192.0.2.1"),
    ("blocking/ipv6", "off"),
    ("blocking/ttl", 31),
    ("blocking/text", "Not allowed"),
    ("forward", [{"zone": "intra.example", "upstreams": ["192.0.2.60"]}]),
]


@pytest.mark.parametrize(("path", "value"), POLICY, ids=[f"{path} {value}" for path, value in POLICY])
def test_the_hash_changes_with_what_decides(tmp_path: Path, path: str, value: object) -> None:
    assert built(tmp_path, changed(BASE, path, value)).head.hash != built(tmp_path).head.hash


def test_the_hash_changes_with_the_rules_of_a_file(tmp_path: Path) -> None:
    before = built(tmp_path).head.hash
    assert built(tmp_path, files=FILES | {"ministry.txt": "banned.example\n"}).head.hash != before
    assert built(tmp_path, files=FILES | {"hosts.txt": "0.0.0.0 other.example\n"}).head.hash != before
    assert built(tmp_path).head.hash == before


# What is refused


def test_all_lists_that_cannot_be_read_are_told_at_once(tmp_path: Path) -> None:
    config = changed(BASE, "lists/third", {"file": "missing-too.txt"})
    request = write(tmp_path, config, {})
    with pytest.raises(build.ListErrors) as caught:
        build.build(build.read(request))
    assert set(caught.value.reasons) == {"ministry", "hosts", "third"}
    assert "list 'ministry': " in str(caught.value)
    assert "does not exist" in str(caught.value)


def test_all_lists_without_a_rule_are_told_at_once(tmp_path: Path) -> None:
    inputs = build.read(
        write(tmp_path, files={"ministry.txt": "0.0.0.0 banned.example\n", "hosts.txt": "exact.example\n"})
    )
    with pytest.raises(build.ListErrors) as caught:
        build.build(inputs)
    assert set(caught.value.reasons) == {"ministry", "hosts"}
    assert "looks like hosts" in caught.value.reasons["ministry"]


def resolv_conf(folder: Path, text: str) -> str:
    path = folder / "resolv.conf"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 192.0.2.53\n", [("192.0.2.53", 53)]),
        (
            "# nameserver 192.0.2.1\nsearch example\nnameserver\t192.0.2.53\nnameserver 2001:db8::53\n",
            [("192.0.2.53", 53), ("2001:db8::53", 53)],
        ),
        ("nameserver fe80::1%eth0\nnameserver dns.example\nnameserver\noptions edns0\n", [("fe80::1%eth0", 53)]),
        ("nameserver 127.0.0.1\n", [("127.0.0.1", 53)]),
    ],
    ids=["one", "two, and other lines", "a zone id, and what is no address", "a local resolver beside us"],
)
def test_without_upstreams_those_of_resolv_conf_are_asked(
    tmp_path: Path, text: str, expected: list[tuple[str, int]]
) -> None:
    request = replace(write(tmp_path, changed(BASE, "upstreams", None)), resolv_conf=resolv_conf(tmp_path, text))
    assert build.read(request).upstreams == tuple(Resolver("udp", *each) for each in expected)


@pytest.mark.parametrize(
    ("listen", "text", "reason"),
    [
        ("127.0.0.1:53", "nameserver 192.0.2.53\nnameserver 127.0.0.1\n", "127.0.0.1 in {} is dnsfilter itself"),
        ("0.0.0.0:53", "nameserver 127.0.0.53\n", "127.0.0.53 in {} is dnsfilter itself"),
        ("[::1]:53", "nameserver ::1\n", "::1 in {} is dnsfilter itself"),
        ("127.0.0.1:53", "# nothing\n", "{} names no nameserver"),
    ],
    ids=["our address", "a loopback address and a wildcard", "IPv6", "none at all"],
)
def test_a_resolv_conf_that_leads_to_ourselves_or_nowhere_is_refused(
    tmp_path: Path, listen: str, text: str, reason: str
) -> None:
    config = changed(changed(BASE, "upstreams", None), "listen", {"dns": [listen]})
    path = resolv_conf(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        build.read(replace(write(tmp_path, config), resolv_conf=path))
    assert reason.format(path) in str(caught.value)
    assert "write the resolvers to ask: upstreams: [192.0.2.53]" in str(caught.value)


def test_a_resolv_conf_that_is_not_there_names_no_nameserver(tmp_path: Path) -> None:
    request = replace(write(tmp_path, changed(BASE, "upstreams", None)), resolv_conf=str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="names no nameserver"):
        build.read(request)


# Addresses in answers

BAN_OF_ADDRESSES = {
    "upstreams": ["192.0.2.53"],
    "lists": {
        "wide": {"addresses": ["203.0.113.0/24", "2001:db8:bad::/48", "::ffff:203.0.113.0/120"]},
        "narrow": {"addresses": ["203.0.113.9", "203.0.113.0/24"]},
        "trial": {"addresses": ["198.51.100.0/24"], "mode": "observe"},
        "both": {"lists": ["names", "wide"]},
        "names": {"domains": ["new.example"]},
    },
    "groups": {
        "managed": {"networks": ["192.0.2.0/24"], "block": ["narrow", "both", "trial"]},
        "inspected": {"networks": ["192.0.2.64/26"], "block": ["wide"], "mode": "observe"},
        "default": {"block": []},
    },
    "exemptions": {"entries": [ENTRY | {"lists": ["both"], "networks": ["192.0.2.16/28"]}]},
    "timezone": "UTC",
}


def row_of(policy: Policy, client: str) -> ClientRow:
    row = policy.clients.find(address(client))
    assert row is not None
    return row


def lists_of(policy: Policy, mask: int) -> set[str]:
    """The names of the lists in a mask."""
    return {name for number, name in enumerate(policy.lists) if mask >> number & 1}


def hit(policy: Policy, text: str) -> set[str]:
    return lists_of(policy, policy.addresses.find(ipaddress.ip_address(text).packed))


@pytest.mark.parametrize(
    ("told", "lists"),
    [
        pytest.param("203.0.113.9", {"wide", "narrow"}, id="in the ranges of two lists"),
        pytest.param("203.0.113.8", {"wide", "narrow"}, id="in one range that two lists have"),
        pytest.param("2001:db8:bad:1::1", {"wide"}, id="IPv6"),
        pytest.param("198.51.100.1", {"trial"}, id="in the range of an observed list"),
        pytest.param("203.0.114.0", set(), id="behind a range"),
        pytest.param("10.0.0.1", set(), id="private, without the guard"),
    ],
)
def test_an_address_is_named_by_the_lists_whose_ranges_contain_it(tmp_path: Path, told: str, lists: set[str]) -> None:
    assert hit(built(tmp_path, BAN_OF_ADDRESSES).policy(), told) == lists


def test_an_address_list_stands_in_groups_sets_and_exemptions_like_any_other(tmp_path: Path) -> None:
    policy = built(tmp_path, BAN_OF_ADDRESSES).policy()
    managed, inspected = row_of(policy, "192.0.2.9"), row_of(policy, "192.0.2.70")
    assert [name for _, name in managed.order] == ["narrow", "names", "wide", "trial"]
    assert lists_of(policy, managed.enforced) == {"narrow", "names", "wide"}
    assert lists_of(policy, managed.observed) == {"trial"}
    assert (lists_of(policy, inspected.enforced), lists_of(policy, inspected.observed)) == (set(), {"wide"})
    [exemption] = row_of(policy, "192.0.2.17").exemptions
    assert lists_of(policy, exemption.lists) == {"names", "wide"}
    assert row_of(policy, "10.0.0.9").enforced == 0


def test_an_address_list_adds_no_name_and_is_told_with_its_ranges(tmp_path: Path) -> None:
    found = built(tmp_path, BAN_OF_ADDRESSES)
    without = changed(BAN_OF_ADDRESSES, "lists", {"names": {"domains": ["new.example"]}})
    for path in ("groups/managed/block", "exemptions"):
        without = changed(without, path, ["names"] if path.startswith("groups") else None)
    without = changed(without, "groups/inspected/block", [])
    assert found.policy().index.count == built(tmp_path, without).policy().index.count
    told = {each.name: each for each in found.head.lists}
    assert {name: each.entries for name, each in told.items()} == {"names": 1, "wide": 2, "narrow": 2, "trial": 1}
    wide = told["wide"]
    assert (wide.source, wide.format, wide.mode, wide.samples) == ("configuration", "addresses", "enforce", ())
    assert wide.checked_at == wide.changed_at > 0


def test_the_order_in_which_ranges_are_written_changes_nothing(tmp_path: Path) -> None:
    again = changed(BASE, "lists/edge/addresses", ["2001:db8:bad::/48", "203.0.113.0/24", "203.0.113.0/24"])
    assert built(tmp_path, again).head.hash == built(tmp_path).head.hash


def test_the_guard_against_rebinding_holds_for_everybody(tmp_path: Path) -> None:
    guard = {"rebind_protection": "on", "private_domains": ["corp.example", "Lab.example."]}
    found = built(tmp_path, changed(BAN_OF_ADDRESSES, "resolve", guard))
    policy = found.policy()
    assert policy.lists[-2:] == ("canary", "rebinding")
    for row in policy.clients.all_rows():
        assert "rebinding" in lists_of(policy, row.enforced), row.group
        assert row.order[-1] == (1 << len(policy.lists) - 1, "rebinding")
        assert all("rebinding" not in lists_of(policy, each.lists) for each in row.exemptions)
    assert [hit(policy, each) for each in ("10.0.0.1", "::1", "203.0.113.9")] == [
        {"rebinding"},
        {"rebinding"},
        {"wide", "narrow"},
    ]
    assert policy.private_zones == {name("corp.example"), name("lab.example")}
    assert "rebinding" not in [each.name for each in found.head.lists]
    assert row_of(policy, "10.0.0.9").canary == 0, "the guard is no ban"


def test_without_the_guard_nothing_of_it_is_in_the_policy(tmp_path: Path) -> None:
    policy = built(tmp_path, changed(BASE, "resolve", {"private_domains": ["corp.example"]})).policy()
    assert policy.private_zones == frozenset()
    assert "rebinding" not in policy.lists


@pytest.mark.parametrize(
    ("block", "groups"),
    [
        pytest.param([], [], id="nothing but the guard"),
        pytest.param(["edge"], [], id="addresses alone"),
        pytest.param(["edge", "urgent"], ["managed"], id="names too"),
    ],
)
def test_a_group_without_listed_names_is_not_asked_for_one(tmp_path: Path, block: list[str], groups: list[str]) -> None:
    config = changed(changed(BASE, "resolve", {"rebind_protection": "on"}), "groups/managed/block", block)
    for group in ("labs", "inspected"):
        config = changed(config, f"groups/{group}", None)
    found = built(tmp_path, changed(config, "exemptions", None))
    assert [each.group for each in readiness.samples(found.policy(), found.head.lists)] == groups


# What a serving process is told


def test_settings_say_how_upstreams_are_asked(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    config = changed(BASE, "upstreams", ["tls://192.0.2.55#dns.example", "https://dns.example/dns-query"])
    resolve = {"strategy": "load_balance", "bootstrap": ["192.0.2.1"], "ca_file": "ca.pem", "random_case": "on"}
    config = changed(
        changed(config, "resolve", resolve), "forward", [{"zone": "a.example", "upstreams": ["192.0.2.60"]}]
    )
    config = changed(config, "rate_limit", {"queries_per_second": 50, "exempt": ["192.0.2.7", "2001:db8:7::/48"]})
    found = built(tmp_path, config).head.settings
    assert found.upstream_groups == (
        (
            Resolver("tls", "192.0.2.55", 853, "dns.example"),
            Resolver("https", "dns.example", 443, path="/dns-query"),
        ),
        (Resolver("udp", "192.0.2.60", 53),),
    )
    assert (found.strategy, found.bootstrap, found.random_case) == ("load_balance", (("192.0.2.1", 53),), True)
    assert found.ca_file == str(authority)
    assert (found.rate_limit, found.rate_limit_exempt) == (50, ("192.0.2.7/32", "2001:db8:7::/48"))
    default = built(tmp_path).head.settings
    assert (default.strategy, default.ca_file, default.random_case) == ("strict", "", False)
    assert (default.rate_limit, default.rate_limit_exempt) == (0, ())


@pytest.mark.parametrize(
    ("upstreams", "resolve", "expected"),
    [
        pytest.param(["192.0.2.53", "192.0.2.54:5353"], {}, [("192.0.2.53", 53), ("192.0.2.54", 5353)], id="all plain"),
        pytest.param(["tls://192.0.2.55", "192.0.2.53"], {}, [("192.0.2.53", 53)], id="the plain ones"),
        pytest.param(["tls://192.0.2.55"], {}, [], id="none is plain"),
        pytest.param(["192.0.2.53"], {"bootstrap": ["192.0.2.1:5353"]}, [("192.0.2.1", 5353)], id="those named"),
        pytest.param(None, {}, [("192.0.2.77", 53)], id="the system's"),
    ],
)
def test_hosts_are_looked_up_by_those_named_for_it_else_by_plain_upstreams(
    tmp_path: Path, upstreams: list[str] | None, resolve: dict[str, Any], expected: list[tuple[str, int]]
) -> None:
    config = changed(changed(BASE, "upstreams", upstreams), "resolve", resolve)
    request = replace(write(tmp_path, config), resolv_conf=resolv_conf(tmp_path, "nameserver 192.0.2.77\n"))
    assert build.build(build.read(request)).head.settings.bootstrap == tuple(expected)
    asked = fetch.resolvers(build.configuration(request), request)
    assert list(asked.default) == expected


def test_hosts_of_lists_in_a_zone_are_asked_of_its_plain_upstreams(tmp_path: Path) -> None:
    zone = {"zone": "intra.example", "upstreams": ["tls://192.0.2.60", "192.0.2.61"]}
    request = write(tmp_path, changed(BASE, "forward", [zone]))
    assert fetch.resolvers(build.configuration(request), request).zones == {
        name("intra.example"): (("192.0.2.61", 53),)
    }


def test_other_certificates_in_the_same_file_are_another_input(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    config = changed(changed(BASE, "upstreams", ["tls://192.0.2.55"]), "resolve", {"ca_file": "ca.pem"})
    before = build.read(write(tmp_path, config)).hash
    assert build.read(write(tmp_path, config)).hash == before
    trustme.CA().cert_pem.write_to_path(str(authority))
    assert build.read(write(tmp_path, config)).hash != before


TOLD: list[tuple[str, object, str]] = [
    ("resolve", {"strategy": "parallel"}, "resolve.strategy changed"),
    ("resolve", {"bootstrap": ["192.0.2.1"]}, "resolve.bootstrap or upstreams changed"),
    ("resolve", {"random_case": "on"}, "resolve.random_case changed"),
    (
        "resolve",
        {"rebind_protection": "on"},
        "group 'labs' is treated otherwise: lists, allow, only, mode or answer",
    ),
    ("rate_limit", {"queries_per_second": 50}, "rate_limit.queries_per_second changed"),
    ("rate_limit", {"exempt": ["192.0.2.1"]}, "rate_limit.exempt changed"),
    ("upstreams", ["tls://192.0.2.55"], "upstreams or forward changed"),
    ("lists/edge/addresses", ["203.0.113.0/25"], "list 'edge' changed: 2 entries before, 1 now"),
]


@pytest.mark.parametrize(("path", "value", "told"), TOLD, ids=[told for _, _, told in TOLD])
def test_a_change_is_told_by_its_key(tmp_path: Path, path: str, value: object, told: str) -> None:
    assert told in changes.between(built(tmp_path).head, built(tmp_path, changed(BASE, path, value)).head)


def test_lists_that_nobody_uses_are_read_too_and_built_in_ones_only_where_named(tmp_path: Path) -> None:
    lists = [each.name for each in built(tmp_path).head.lists]
    assert lists == ["ministry", "hosts", "urgent", "watch", "news", "edge"]
    config = changed(BASE, "groups/default/block", ["tiktok"])
    assert {each.name for each in built(tmp_path, config).head.lists} == {*lists, "tiktok"}


def test_a_list_is_told_with_its_source_its_size_and_what_was_skipped(tmp_path: Path) -> None:
    files = FILES | {"ministry.txt": "banned.example\n||other.example^\nx.gouv.example\n"}
    ministry = built(tmp_path, files=files).head.lists[0]
    assert (ministry.entries, ministry.skipped_lines) == (2, 1)
    assert ministry.skipped[0].startswith("line 2: ")
    assert ministry.source == f"file {tmp_path / 'ministry.txt'}"
    assert ministry.path == str(tmp_path / "ministry.txt")
    assert "banned.example" in ministry.samples


def test_listed_names_that_protected_keeps_open_are_warned_of(tmp_path: Path) -> None:
    assert any("x.gouv.example" in each for each in built(tmp_path).head.warnings)


def test_groups_of_upstreams_are_numbered_as_their_zones(tmp_path: Path) -> None:
    zones = [
        {"zone": "intra.example", "upstreams": ["192.0.2.60"]},
        {"zone": "lab.intra.example", "upstreams": ["192.0.2.61:5353"]},
    ]
    head = built(tmp_path, changed(BASE, "forward", zones)).head
    policy = snapshot.policy_of(head, built(tmp_path).policy().index)
    asked = [[each.name for each in group] for group in head.settings.upstream_groups]
    assert asked == [["192.0.2.53:53"], ["192.0.2.60:53"], ["192.0.2.61:5353"]]
    assert [policy.zone(name(each)) for each in ("example", "x.intra.example", "x.lab.intra.example")] == [0, 1, 2]


# The child process


def run(request: Request) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "dnsfilter.build"],
        input=json.dumps(asdict(request) | {"nice": True}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_the_child_writes_a_snapshot_and_uses_it_again_while_nothing_changes(tmp_path: Path) -> None:
    request, state = write(tmp_path), tmp_path / "state"
    status, result = run(request)
    assert (status, Path(result["snapshot"]).parent) == (0, state)
    kept = state / snapshot.IN_FORCE
    Path(result["snapshot"]).rename(kept)
    status, again = run(request)
    assert (status, again["snapshot"], again["checked_at"].keys()) == (0, str(kept), result["checked_at"].keys())

    (tmp_path / "ministry.txt").write_text("banned.example\nnew-banned.example\n")
    status, result = run(request)
    assert status == 0
    assert Path(result["snapshot"]) != kept
    assert snapshot.Reader(Path(result["snapshot"])).head.hash != snapshot.Reader(kept).head.hash


def test_a_configuration_handed_over_as_text_is_the_same_input_as_its_file(tmp_path: Path) -> None:
    """A reload of lists hands over the text in force: a restart with the file unchanged uses its snapshot again."""
    request = write(tmp_path)
    text = (tmp_path / "dnsfilter.yaml").read_text()
    assert build.read(request).hash == build.read(replace(request, text=text)).hash


def test_a_damaged_snapshot_is_not_used_again(tmp_path: Path) -> None:
    request = write(tmp_path)
    (tmp_path / "state").mkdir()
    kept = tmp_path / "state" / snapshot.IN_FORCE
    whole = build.build(build.read(request))
    snapshot.write(kept, whole.head, whole.chunks)
    octets = kept.read_bytes()
    kept.write_bytes(octets[: len(octets) // 2])
    status, result = run(request)
    assert status == 0
    assert Path(result["snapshot"]) != kept


@pytest.mark.parametrize(
    ("config", "files", "text", "lists"),
    [
        (changed(BASE, "groups/managed/block", ["ministri"]), FILES, "dnsfilter.yaml:", []),
        (BASE, {"hosts.txt": "0.0.0.0 exact.example\n"}, "list 'ministry': ", ["ministry"]),
    ],
    ids=["the configuration", "a list"],
)
def test_the_child_says_what_is_wrong(
    tmp_path: Path, config: dict[str, Any], files: dict[str, str], text: str, lists: list[str]
) -> None:
    status, result = run(write(tmp_path, config, files))
    assert status == 2
    assert text in result["error"]
    assert sorted(result.get("lists", {})) == lists
    assert not (tmp_path / "state").exists() or not list((tmp_path / "state").iterdir())


# A whole configuration against the definition: groups and exemptions that lie in each other in any way.

NAMES = ["a.example", "b.example", "x.a.example", "use-application-dns.net", "mask.icloud.com"]
NETWORKS = [
    "192.0.2.0/24",
    "192.0.2.0/26",
    "192.0.2.0/28",
    "192.0.2.8/29",
    "192.0.2.64/26",
    "192.0.2.72/32",
    "2001:db8::/48",
]
CLIENTS = ["192.0.2.1", "192.0.2.9", "192.0.2.40", "192.0.2.72", "192.0.2.73", "192.0.2.200", "2001:db8::9", "10.0.0.9"]
DAY = 86_400.0
WALLS = [20_000 * DAY + offset for offset in (-0.25, 0.25, DAY / 2, DAY - 0.25, DAY + 0.25, 3 * DAY)]
DAYS = [f"2024-10-0{number}" for number in (3, 4, 5)]  # day 20,000 is the 4th

list_names = ["la", "lb"]
refs = st.lists(st.sampled_from(list_names), unique=True, max_size=2)
some_names = st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=3)
listings = st.fixed_dictionaries(
    {
        each: st.fixed_dictionaries(
            {
                "domains": some_names,
                "match": st.sampled_from(["exact", "suffix"]),
                "mode": st.sampled_from(["enforce", "enforce", "observe"]),
            }
        )
        for each in list_names
    }
)
group_shapes = st.fixed_dictionaries(
    {"block": refs, "mode": st.sampled_from(["enforce", "enforce", "observe"])},
    optional={
        "allow": st.lists(st.sampled_from([*NAMES[:2], "lb"]), unique=True, max_size=1),
        "only": st.lists(st.sampled_from(list_names), unique=True, min_size=1, max_size=1),
        "answer": st.sampled_from(["nodata", "refused"]),
    },
).filter(lambda shape: not set(shape["block"]) & set(shape.get("allow", [])))  # an error, and rightly
exemption_shapes = st.fixed_dictionaries(
    {
        "networks": st.lists(st.sampled_from(NETWORKS), unique=True, min_size=1, max_size=2),
        "lists": st.lists(st.sampled_from(list_names), unique=True, min_size=1, max_size=2),
        "start": st.sampled_from(DAYS),
        "length": st.integers(min_value=1, max_value=2),
    }
)


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    networks = draw(st.permutations(NETWORKS))
    shares = draw(st.lists(st.integers(min_value=0, max_value=2), min_size=len(NETWORKS), max_size=len(NETWORKS)))
    groups = {}
    for number, label in enumerate(("one", "two")):
        own = [network for network, share in zip(networks, shares, strict=True) if share == number]
        if own:
            groups[label] = draw(group_shapes) | {"networks": own}
    entries: list[dict[str, object]] = []
    for number, drawn in enumerate(draw(st.lists(exemption_shapes, max_size=2))):
        shape: dict[str, Any] = dict(drawn)
        end = f"2024-10-0{int(shape['start'][-1]) + shape.pop('length') - 1}"
        entries.append(shape | {"id": f"EX-{number}", "owner": "o", "reason": "r", "approved_by": "a", "end": end})
    return {
        "upstreams": ["192.0.2.53"],
        "access": ["0.0.0.0/0", "::/0"],
        "lists": draw(listings),
        "protected": draw(st.lists(st.sampled_from(NAMES[:3]), max_size=1)),
        "groups": groups | {"default": draw(group_shapes)},
        "exemptions": {"entries": entries},
        "timezone": "UTC",
    }


def group_of(config: dict[str, Any], client: str) -> str:
    """The longest prefix over all groups, by its text."""
    found = [
        (length_of(network), label)
        for label, group in config["groups"].items()
        for network in group.get("networks", [])
        if contains(network, client)
    ]
    return max(found)[1] if found else "default"


def length_of(network: str) -> int:
    return int(network.split("/")[1])


def contains(network: str, client: str) -> bool:
    base, bits = network.split("/")
    if (":" in base) != (":" in client):
        return False
    if ":" in base:
        return client.startswith("2001:db8:")
    one, two = (int.from_bytes(bytes(map(int, each.split("."))), "big") for each in (base, client))
    return one >> 32 - int(bits) == two >> 32 - int(bits)


def moment(day: str, days: int = 0) -> float:
    return (20_000 + int(day[-1]) - 4 + days) * DAY


def labels(text: str) -> reference.Name:
    return tuple(text.split("."))


@settings(max_examples=250, deadline=None)
@given(config=configurations(), asked=st.sampled_from([*NAMES, "example", "y.b.example"]), wall=st.sampled_from(WALLS))
def test_a_configuration_agrees_with_the_definition(config: dict[str, Any], asked: str, wall: float) -> None:
    world = reference.World(
        {
            each: reference.List(
                tuple(
                    reference.Rule(labels(text), "exact" if shape["match"] == "exact" else "suffix")
                    for text in shape["domains"]
                ),
                shape["mode"] == "observe",
            )
            for each, shape in config["lists"].items()
        },
        tuple(map(labels, config["protected"])),
    )
    policy = build.build(build.read(Request(text=yaml.safe_dump(config, sort_keys=False)))).policy()
    for client in CLIENTS:
        label = group_of(config, client)
        shape = config["groups"][label]
        group = reference.Group(
            label,
            tuple(shape["block"]),
            tuple(labels(each) for each in shape.get("allow", []) if "." in each),
            tuple(each for each in shape.get("allow", []) if "." not in each),
            tuple(shape.get("only", [])),
            shape["mode"] == "observe",
            shape.get("answer", "sinkhole"),
        )
        held = [
            reference.Exemption(each["id"], tuple(each["lists"]), moment(each["start"]), moment(each["end"], 1))
            for each in config["exemptions"]["entries"]
            if any(contains(network, client) for network in each["networks"])
        ]
        expected = reference.judge(world, group, held, labels(asked), wall, is_qname=True)
        row = policy.clients.find(address(client))
        assert row is not None
        verdict = decide(policy, row, name(asked), wall)
        assert (verdict.action, verdict.group, verdict.list_name) == (expected.action, label, expected.list_name)
        assert verdict.exemption in (expected.exemptions or {""})
        assert verdict.valid_s == expected.valid_s
        assert math.isclose(row.exemptions[0].end % DAY, 0) if row.exemptions else not held
