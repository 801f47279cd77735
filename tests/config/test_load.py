"""Configurations that load, and what is said of those that do not."""

import ipaddress
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.config import nodes, schema
from dnsfilter.config.load import load
from dnsfilter.config.problems import ConfigError, Problem
from dnsfilter.config.schema import Config
from dnsfilter.config.sets import expand
from dnsfilter.config.unavailable import UNAVAILABLE
from dnsfilter.config.upstreams import Upstream
from dnsfilter.config.values import Address
from dnsfilter.core.names import from_text
from dnsfilter.core.rules import Match
from tests.config.builtin import BUILTIN, FILE, loaded, only_problem, problems

EVERYTHING = """\
listen:
  dns: ["10.0.0.53:53", "[2001:db8::53]:53", 127.0.0.1, "::1"]
  metrics: "10.0.0.53:9153"
  admin: off
access: [10.0.0.0/8, "2001:db8::/32", "::ffff:192.0.2.0/120"]
upstreams:
  - 192.0.2.53
  - "192.0.2.54:5353"
  - "[2001:db8::54]:5353"
  - "tls://192.0.2.55#dns.example"
  - "https://dns.example/dns-query"
forward:
  - {zone: intra.ministry.example, upstreams: [10.1.0.53]}
resolve:
  strategy: parallel
  timeout: 1.5s
  deadline: 6s
  max_concurrent: 500
  bootstrap: [192.0.2.53]
  random_case: on
  rebind_protection: on
  private_domains: [corp.example]
cache: {entries: 50000, max_ttl: 2h, max_negative_ttl: 1m}
lists:
  ministry: {file: ministry.txt, format: domains, match: suffix}
  csirt: {file: /srv/csirt.hosts, format: hosts, mode: observe}
  urgent: {domains: [new.example, Other.Example.], match: exact}
  edge: {addresses: [203.0.113.0/24, 203.0.113.9, "2001:db8:bad::/48", "::ffff:198.51.100.0/120"], mode: observe}
  social: {category: [social]}
  offensive: {origin: [CN, RU]}
  ban: {lists: [tiktok, social, encrypted-dns, ministry, csirt, urgent, edge]}
protected: [gouv.example, bank.example]
groups:
  managed:
    networks: [10.20.0.0/16, "2001:db8:20::/48", 10.21.0.9]
    block: [ban]
    allow: [press.example, urgent, example.]
    mode: observe
    answer: nxdomain
  inspected: {networks: [10.30.0.0/16], block: [ban], only: [ministry]}
  default: {block: [ban]}
exemptions:
  regime: registered
  max_duration: 366d
  entries:
    - id: COMM-2026-004
      networks: [10.20.8.0/24]
      lists: [tiktok, bytedance]
      owner: Digital communication office
      reason: institutional communication
      approved_by: CISO
      start: 2026-05-04T08:00
      end: 2026-05-08
timezone: Europe/Paris
blocking: {answer: nodata, ipv4: off, ipv6: "2001:db8::1", ttl: 30, text: "Not allowed: help@ministry.example"}
rate_limit: {queries_per_second: 200, exempt: [10.0.0.54, "2001:db8:5::/48"]}
log: {level: warning}
state: state
workers: 4
"""


LAB = "groups: {default: {block: []}, labs: {block: [], networks: [%s]}}"
EXEMPT = (
    "exemptions: {%s entries: [{id: A, networks: [10.0.0.0/24], lists: [tiktok], owner: o, reason: r,"
    " approved_by: a, %s}]}"
)


def test_every_key_is_read_as_its_type() -> None:
    config = loaded(EVERYTHING).config
    assert list(map(str, config.listen.dns)) == ["10.0.0.53:53", "[2001:db8::53]:53", "127.0.0.1:53", "[::1]:53"]
    assert config.listen.metrics == Address("10.0.0.53", 9153)
    assert config.listen.admin is None
    assert config.access is not None
    assert str(config.access[2]) == "192.0.2.0/24"
    assert config.upstreams is not None
    assert list(map(str, config.upstreams)) == [
        *("192.0.2.53:53", "192.0.2.54:5353", "[2001:db8::54]:5353"),
        *("tls://192.0.2.55:853#dns.example", "https://dns.example:443/dns-query"),
    ]
    assert config.forward[0].zone == from_text("intra.ministry.example")
    assert config.forward[0].upstreams == (Upstream("udp", "10.1.0.53", 53),)
    assert (config.resolve.timeout_s, config.resolve.deadline_s, config.resolve.max_concurrent) == (1.5, 6.0, 500)
    assert (config.resolve.strategy, config.resolve.bootstrap) == ("parallel", (Address("192.0.2.53", 53),))
    assert (config.resolve.random_case, config.resolve.rebind_protection) == (True, True)
    assert (config.resolve.ca_file, config.resolve.private_domains) == (None, (from_text("corp.example"),))
    assert config.rate_limit.queries_per_second == 200
    assert list(map(str, config.rate_limit.exempt)) == ["10.0.0.54/32", "2001:db8:5::/48"]
    assert list(map(str, config.lists["edge"].addresses or ())) == [
        *("203.0.113.0/24", "203.0.113.9/32", "2001:db8:bad::/48", "198.51.100.0/24"),
    ]
    assert (config.cache.entries, config.cache.max_ttl_s, config.cache.max_negative_ttl_s) == (50000, 7200, 60)
    assert config.lists["ministry"].file == FILE.parent / "ministry.txt"
    assert config.lists["csirt"].file == Path("/srv/csirt.hosts")
    assert config.lists["urgent"].domains == (from_text("new.example"), from_text("other.example"))
    assert config.lists["urgent"].match is Match.EXACT
    assert config.lists["csirt"].match is None
    assert config.protected == (from_text("gouv.example"), from_text("bank.example"))
    managed = config.groups["managed"]
    assert managed.networks[2] == ipaddress.ip_network("10.21.0.9/32")
    assert managed.allow_names == (from_text("press.example"), from_text("example"))
    assert managed.allow_lists == ("urgent",)
    assert (managed.mode, managed.answer) == ("observe", "nxdomain")
    assert config.groups["inspected"].only == ("ministry",)
    assert config.groups["default"].answer is None
    [exemption] = config.exemptions.entries
    assert config.exemptions.max_duration_s == 366 * 86400
    assert exemption.start == datetime(2026, 5, 4, 6, tzinfo=UTC).timestamp()
    assert exemption.end == datetime(2026, 5, 8, 22, tzinfo=UTC).timestamp()
    assert (config.blocking.answer, config.blocking.ipv4, config.blocking.ipv6) == ("nodata", None, "2001:db8::1")
    assert (config.blocking.ttl, config.blocking.text) == (30, "Not allowed: help@ministry.example")
    assert config.log.level == "warning"
    assert config.state == FILE.parent / "state"
    assert config.workers == 4


def test_sets_are_expanded_in_place_and_each_list_once() -> None:
    config = loaded(EVERYTHING).config
    assert expand(config, BUILTIN, ["ban"]) == (
        *("tiktok", "bytedance", "vk", "encrypted-dns", "ministry", "csirt", "urgent", "edge"),
    )
    assert expand(config, BUILTIN, ["games", "offensive"]) == ("games", "tiktok", "bytedance", "vk")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("# nothing yet\n", id="a comment"),
        pytest.param("---\n...\n", id="an empty document"),
        pytest.param("{}", id="no keys"),
    ],
)
def test_an_empty_file_is_the_defaults(text: str) -> None:
    config = loaded(text).config
    assert config == load(None, builtin=BUILTIN).config
    assert config.listen.dns == (Address("127.0.0.1", 5335),)
    assert config.groups["default"].block == ("tiktok", "bytedance", "encrypted-dns")
    assert config.upstreams is None
    assert config.access is None


def test_options_of_the_command_line_stand_in_the_place_of_the_file() -> None:
    found = load(FILE, builtin=BUILTIN, text=EVERYTHING, listen="127.0.0.1:0", upstream="tls://192.0.2.1#dns.example")
    assert found.config.listen.dns == (Address("127.0.0.1", 0),)
    assert found.config.listen.metrics == Address("10.0.0.53", 9153)
    assert found.config.upstreams == (Upstream("tls", "192.0.2.1", 853, "dns.example"),)


def test_a_wrong_option_is_named_as_such() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, builtin=BUILTIN, listen="127.0.0.1:99999", upstream="nobody")
    assert [(problem.file, problem.line) for problem in caught.value.problems] == [
        ("--listen", None),
        ("--upstream", None),
    ]
    assert str(caught.value).startswith("--listen: listen.dns: '127.0.0.1:99999': '99999' is not a port\n  ")


def test_state_is_where_the_user_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert schema.default_state() == Path("/var/lib/dnsfilter")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert schema.default_state() == Path("/home/user/.local/state/dnsfilter")
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert schema.default_state() == Path("/srv/state/dnsfilter")


def test_scalars_stay_the_text_that_was_written() -> None:
    config = loaded(
        "lists: {norway: {origin: [CN]}, 007: {domains: [no.example]}, off: {domains: [1.2e3.example]}}"
    ).config
    assert list(config.lists) == ["norway", "007", "off"]


# Where a configuration is wrong


def test_the_form_of_a_problem() -> None:
    text = "groups:\n  default: {block: []}\n  labs:\n    block: []\n    networks: [10.4.0.0/33]\n"
    with pytest.raises(ConfigError) as caught:
        load(Path("dnsfilter.yaml"), builtin=BUILTIN, text=text)
    assert str(caught.value) == (
        "dnsfilter.yaml:5: group 'labs': '10.4.0.0/33' is not a network\n"
        "  an IPv4 prefix length ends at 32; for all of 10.4.*.* write 10.4.0.0/16"
    )


def test_all_problems_are_said_at_once_in_the_order_of_the_lines() -> None:
    found = problems("""\
        listen: {dot: ["10.0.0.53:853"]}
        access: [10.0.0.0/8]
        lists: {mine: {file: a, format: bind}}
        groups:
          labs:
            networks:
              - 10.4.0.0/33
              - 11.0.0.0/16
            block: [tiktok, mine, mien]
          other: {networks: [10.7.0.0/16], bloc: []}
          third: {networks: [10.7.0.0/16], block: []}
        exemptions:
          entries:
            - {id: A, networks: [10.4.1.0/24], lists: [tiktok], reason: r, start: 2026-05-02, end: 2026-05-01}
        timezone: Europe/Pari
        blocking: {ttl: 5000}
        """)
    assert [(problem.line, problem.text) for problem in found] == [
        (1, "listen.dot is not available in this version"),
        (3, "list 'mine': format: 'bind' is not known here"),
        (4, "groups: there is no group 'default'"),
        (7, "group 'labs': '10.4.0.0/33' is not a network"),
        (8, "group 'labs': 11.0.0.0/16 may not ask: it is not within `access`"),
        (9, "group 'labs': there is no list 'mien'"),
        (10, "group 'other': block is missing"),
        (10, "group 'other': unknown key 'bloc'"),
        (11, "group 'third': 10.7.0.0/16 is in group 'other' as well"),
        (14, "exemption 'A': owner is missing"),
        (14, "exemption 'A': approved_by is missing"),
        (14, "exemption 'A': end: it is not after start"),
        (15, "timezone: 'Europe/Pari' is not a time zone"),
        (16, "blocking.ttl: '5000' is not a number from 1 to 3600"),
    ]


def test_taking_a_wrong_entry_out_moves_no_other_problem() -> None:
    found = problems("""\
        upstreams:
          - nonsense
          - 127.0.0.1:5335
        forward:
          - {upstreams: [192.0.2.1, bad]}
          - {zone: a.example, upstreams: [192.0.2.1]}
          - zone: a.example
            upstreams: [192.0.2.1]
        """)
    assert [(problem.line, problem.text.partition(":")[0]) for problem in found] == [
        (2, "upstreams"),
        (3, "upstreams"),
        (5, "forward zone number 1"),
        (5, "forward zone number 1"),
        (7, "a.example is forwarded by an earlier entry"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("access: [10.0.0.1/8]\n" + LAB % "10.1.0.0/16", id="access"),
        pytest.param("resolve: {timeout: 9s, deadline: 10}", id="deadline"),
        pytest.param("lists: {a: {file: ''}}\ngroups: {default: {block: [a]}}", id="a list's file"),
        pytest.param("lists: {a b: {file: a}}\ngroups: {default: {block: [a b]}}", id="a list's name"),
        pytest.param(LAB % "10.0.0.0/33", id="a group's only network"),
        pytest.param("groups: {default: none, a: {block: [], networks: [10.0.0.0/8]}}", id="the default group"),
        pytest.param("upstreams: [bad]", id="the only upstream"),
        pytest.param(EXEMPT % ("max_duration: 5d,", "start: 2026-05-32, end: 2026-06-01"), id="a start"),
    ],
)
def test_what_is_wrong_is_not_called_missing_as_well(text: str) -> None:
    only_problem(text)


def sample(path: str) -> tuple[list[str], object]:
    """Return the keys of a path of the table of refusals, and a value for its end."""
    values, _ = UNAVAILABLE[path]
    return path.split("."), values[0].replace("*", "192.0.2.55") if values else "x"


def nested(keys: list[str], value: object) -> object:
    """Wrap the value in mappings and lists as the keys say."""
    if not keys:
        return value
    key, *rest = keys
    if key == "*" and (not rest or rest[0] in ("upstreams", "devices")):
        return [nested(rest, value)]
    return {"mine" if key == "*" else key: nested(rest, value)}


@pytest.mark.parametrize("path", list(UNAVAILABLE))
def test_a_key_without_its_feature_is_refused_by_name(path: str) -> None:
    keys, value = sample(path)
    text = "\n\n" + yaml.safe_dump(nested(keys, value), default_flow_style=True)
    found = [problem for problem in problems(text) if "is not available in this version" in problem.text]
    assert len(found) == 1
    named = ".".join("mine" if key == "*" else key for key in keys if key != "*" or keys[0] == "lists")
    assert found[0].text.startswith(named)
    assert (found[0].file, found[0].line) == (str(FILE), 3)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("\nlog: {queries: all}", 2, id="a query log"),
        pytest.param("\n\nresolve: {strategy: fastest}", 3, id="a strategy"),
        pytest.param("listen: {admin: '0.0.0.0:9353'}", 1, id="admin beyond loopback"),
    ],
)
def test_what_is_refused_by_name_is_said_once_and_without_echo(text: str, line: int) -> None:
    found = problems(text)
    assert {problem.line for problem in found} == {line}
    assert all("not available in this version" in problem.text for problem in found)


@pytest.mark.parametrize(
    ("text", "line", "says", "remedy"),
    [
        # the shape
        pytest.param(
            "\nupstream: [192.0.2.1]", 2, "unknown key 'upstream'", "did you mean 'upstreams'?", id="typo in a key"
        ),
        pytest.param("log: {verbosity: 3}", 1, "log: unknown key 'verbosity'", "known here: level", id="unknown key"),
        pytest.param(
            "log: {level: info}\nlog: {level: info}", 2, "'log' is here a second time", "line 1", id="repeated key"
        ),
        pytest.param(
            "cache:\n  entries: 5\n  entries: 6", 3, "'entries' is here a second", "line 2", id="repeated inside"
        ),
        pytest.param(
            "upstreams: 192.0.2.1", 1, "stands where a list belongs", "[192.0.2.1]", id="one value for a list"
        ),
        pytest.param("upstreams: {a: b}", 1, "keys stand where a list", "[a, b]", id="keys for a list"),
        pytest.param("groups:\n", 1, "groups: no value is written", "leave the key out", id="nothing for keys"),
        pytest.param("upstreams:\n", 1, "upstreams: no value is written", "leave the key out", id="nothing for a list"),
        pytest.param("workers:\n", 1, "workers: no value is written", "leave the key out", id="nothing for a value"),
        pytest.param("cache: [1]", 1, "cache: a list stands where keys belong", "entries", id="a list for keys"),
        pytest.param("workers: [1]", 1, "a list stands where one value belongs", "quotes", id="a list for a value"),
        pytest.param("workers: {a: b}", 1, "keys stand where one value belongs", "alone", id="keys for a value"),
        pytest.param("upstreams: []", 1, "upstreams is an empty list", "leave the key out", id="an empty list"),
        pytest.param("? [a]\n: b", 1, "a key that is a list", "quote", id="a list as a key"),
        # values
        pytest.param("workers: many", 1, "workers: 'many' is not a number", "digits", id="workers"),
        pytest.param("workers: 0", 1, "from 1 to 1024", "digits", id="no workers"),
        pytest.param("cache: {entries: 1_000}", 1, "'1_000' is not a number", "digits", id="digits with _"),
        pytest.param("blocking: {ttl: 0}", 1, "'0' is not a number from 1 to 3600", "digits", id="TTL of 0"),
        pytest.param("resolve: {timeout: 2}", 1, "'2' is not a duration", "write 2s", id="no unit"),
        pytest.param("resolve: {timeout: 2 s}", 1, "'2 s' is not a duration", "30s", id="space before the unit"),
        pytest.param("resolve: {timeout: 1h}", 1, "'1h' is out of range", "30s", id="a long timeout"),
        pytest.param(
            "resolve: {timeout: 6s}", 1, "deadline, 5s, is shorter than the timeout, 6s", "twice", id="deadline"
        ),
        pytest.param(
            "resolve: {strategy: best}", 1, "'best' is not known", "load_balance or parallel", id="unknown strategy"
        ),
        pytest.param("resolve: {random_case: yes}", 1, "random_case: 'yes' is not", "on or off", id="no switch"),
        pytest.param("resolve: {private_domains: [.]}", 1, "every name", "meant", id="all names private"),
        pytest.param(
            "resolve: {ca_file: missing.pem}", 1, "missing.pem cannot be read: No such file", "PEM", id="no CA file"
        ),
        pytest.param(f"resolve: {{ca_file: {__file__}}}", 1, "no file of certificates", "PEM", id="another CA file"),
        pytest.param(
            "resolve: {ca_file: /}", 1, "ca_file: / cannot be read: it is no", "PEM", id="a directory as CA file"
        ),
        pytest.param("rate_limit: {queries_per_second: -1}", 1, "'-1' is not a number", "digits", id="negative rate"),
        pytest.param("rate_limit: {queries_per_second: 1000001}", 1, "from 0 to 1000000", "digits", id="high rate"),
        pytest.param("rate_limit: {exempt: [10.0.0.1/8]}", 1, "has bits set", "10.0.0.0/8", id="exempt host bits"),
        pytest.param("cache: {max_ttl: 1.5s}", 1, "not in whole seconds", "write 2s", id="half a second of TTL"),
        pytest.param("log: {level: INFO}", 1, "'INFO' is not known", "'info'", id="a capital level"),
        pytest.param("blocking: {answer: drop}", 1, "'drop' is not known", "sinkhole, nodata", id="unknown answer"),
        pytest.param("blocking: {ipv4: '::'}", 1, "not an IPv4 address", '"0.0.0.0"', id="the other family"),
        pytest.param(
            'blocking: {text: "a\\u001bb"}', 1, "'a\\x1bb' cannot be shown", "ordinary", id="control character"
        ),
        pytest.param("state: ~/x", 1, "~ has no meaning", "whole path", id="home directory"),
        pytest.param(
            "timezone: Europe/Pariss", 1, "'Europe/Pariss' is not a time zone", "'Europe/Paris'", id="zone typo"
        ),
        pytest.param("timezone: Europe", 1, "'Europe' is not a time zone", "", id="zone that is a directory"),
        pytest.param("timezone: ../UTC", 1, "is not a time zone", "", id="zone that climbs"),
        # addresses
        pytest.param("listen: {dns: ['10.0.0.1:x']}", 1, "'x' is not a port", "0 to 65535", id="port of letters"),
        pytest.param("upstreams: ['192.0.2.1:0']", 1, "'0' is not a port", "1 to 65535", id="upstream port 0"),
        pytest.param(
            "upstreams: ['[192.0.2.1]:53']", 1, "is not an address", "[2001:db8::53]:53", id="IPv4 in brackets"
        ),
        pytest.param("upstreams: ['[2001:db8::1']", 1, "is not an address", "[2001:db8::53]:53", id="open bracket"),
        pytest.param("upstreams: [192.0.2.300]", 1, "'192.0.2.300' is not an address", "192.0.2.53", id="octet of 300"),
        pytest.param("upstreams: [0.0.0.0]", 1, "no machine's address", "resolver", id="unspecified upstream"),
        pytest.param("upstreams: [224.0.0.251]", 1, "address of many", "one machine", id="multicast upstream"),
        pytest.param(
            "listen: {dns: ['*:53']}", 1, "has no address", '"0.0.0.0:53" and "[::]:53"', id="star to listen on"
        ),
        pytest.param("listen: {dns: [':53']}", 1, "has no address", '"0.0.0.0:53" and "[::]:53"', id="port alone"),
        pytest.param("listen: {metrics: 10.0.0.1}", 1, "has no port", '"10.0.0.1:9153"', id="metrics without port"),
        pytest.param("listen: {metrics: '::1'}", 1, "has no port", '"[::1]:9153"', id="IPv6 metrics without port"),
        pytest.param(
            "listen: {dns: [127.0.0.1, '127.0.0.1:53']}", 1, "is the address of listen.dns", "own", id="twice"
        ),
        pytest.param(
            "listen: {metrics: '127.0.0.1:9353'}", 1, "listen.metrics: 127.0.0.1:9353 is", "admin", id="admin's"
        ),
        pytest.param(
            "listen: {dns: [localhost]}", 1, "a host name stands where", "write the address", id="a name to listen on"
        ),
        # networks
        pytest.param(LAB % "10.20.1.0/16", 1, "has bits set", "write 10.20.0.0/16, or 10.20.1.0 for", id="host bits"),
        pytest.param(LAB % "10.20.*.*", 1, "not a network", "write 10.20.0.0/16", id="stars"),
        pytest.param(LAB % "10.20/16", 1, "not a network", "write 10.20.0.0/16", id="short form"),
        pytest.param(LAB % "10.0.0.1-10.0.0.9", 1, "not a network", "range", id="a range"),
        pytest.param(LAB % "10.20.0.0/255.255.0.0", 1, "not a network", "10.20.0.0/16", id="a mask"),
        pytest.param(LAB % "10.20.0.0/0.0.255.255", 1, "not a network", "", id="a wildcard mask"),
        pytest.param(LAB % "010.0.0.0/8", 1, "not a network", "", id="leading zero"),
        pytest.param(LAB % "'2001:db8::/129'", 1, "not a network", "ends at 128", id="IPv6 length"),
        pytest.param(LAB % "'::ffff:10.0.0.1/104'", 1, "has bits set", "write 10.0.0.0/8", id="mapped, host bits"),
        pytest.param(LAB % "10.0.0.0/8, 10.0.0.0/8", 1, "10.0.0.0/8 is in it twice", "line 1", id="twice in a group"),
        pytest.param(LAB % "10.0.0.0/8, '::ffff:10.0.0.0/104'", 1, "is in it twice", "line 1", id="twice, once mapped"),
        pytest.param("access: [10.0.0.0/9]\n" + LAB % "10.0.0.0/8", 2, "may not ask", "access", id="outside access"),
        # names
        pytest.param("protected: ['*.gouv.example']", 1, "is not a name", "write 'gouv.example'", id="a star"),
        pytest.param("protected: ['https://gouv.example/']", 1, "is not a name", "alone", id="a URL"),
        pytest.param("protected: [192.0.2.1]", 1, "is an address", "networks", id="an address as a name"),
        pytest.param("protected: [.]", 1, "every name", "meant", id="the root"),
        pytest.param("protected: [a..example]", 1, "empty label", "press.example", id="an empty label"),
        pytest.param(f"protected: [{'a' * 64}.example]", 1, "64 octets; 63 is the most", "", id="a long label"),
        pytest.param("lists: {a: {domains: [tok]}}", 1, "list 'a': 'tok' is a whole top-level", "tok", id="one label"),
        # lists
        pytest.param(
            "lists: {tiktok: {file: a}}", 1, "'tiktok' is not free: it is a built-in", "another", id="built-in"
        ),
        pytest.param("lists: {only: {file: a}}", 1, "the name 'only' is not free", "another", id="reserved: only"),
        pytest.param(
            "lists: {canary: {file: a}}", 1, "the name 'canary' is not free", "another", id="reserved: canary"
        ),
        pytest.param(
            "lists: {protected: {file: a}}", 1, "'protected' is not free", "another", id="reserved: protected"
        ),
        pytest.param(
            "lists: {a.b: {file: a}}", 1, "'a.b' cannot be used as a name", "letters", id="dot in a list's name"
        ),
        pytest.param("lists: {a: {}}", 1, "list 'a': nothing says what is in it", "file", id="list of nothing"),
        pytest.param(
            "lists:\n  a:\n    file: a\n    domains: [a.example]", 4, "it has file already", "another", id="two sources"
        ),
        pytest.param(
            "lists: {a: {domains: [a.example], format: hosts}}", 1, "format: it means nothing", "out", id="idle"
        ),
        pytest.param(
            "lists: {a: {lists: [tiktok], mode: observe}}", 1, "mode: it means nothing", "out", id="idle mode"
        ),
        pytest.param("lists: {a: {category: [gamez]}}", 1, "the category 'gamez'", "'games'", id="unknown category"),
        pytest.param("lists: {a: {origin: [cn]}}", 1, "'cn' is not a country code", "write CN", id="small country"),
        pytest.param(
            "lists: {a: {lists: [nope]}}", 1, "there is no list 'nope'", "lists are: a, tiktok", id="unknown in a set"
        ),
        pytest.param("lists: {a: {lists: [a]}}", 1, "contains itself: a > a", "take one out", id="a set in itself"),
        pytest.param("lists: {rebinding: {file: a}}", 1, "'rebinding' is not free", "", id="reserved: rebinding"),
        # lists of addresses
        pytest.param("lists: {a: {addresses: [203.0.113.9/24]}}", 1, "has bits set", "203.0.113.0/24", id="bits in it"),
        pytest.param("lists: {a: {addresses: ['::/0']}}", 1, "every address there is", "meant", id="all of a family"),
        pytest.param("lists: {a: {addresses: []}}", 1, "addresses is an empty list", "at least one", id="no addresses"),
        pytest.param("lists: {a: {addresses: [a.example]}}", 1, "'a.example' is not a network", "", id="a name in it"),
        pytest.param(
            "lists: {a: {addresses: [203.0.113.0/24], match: exact}}", 1, "match: it means nothing", "out", id="match"
        ),
        pytest.param(
            "lists: {a: {addresses: [203.0.113.0/24], domains: [a.example]}}",
            *(1, "it has addresses already", "another list"),
            id="names beside addresses",
        ),
        pytest.param(
            "lists: {a: {addresses: [203.0.113.0/24]}}\ngroups: {default: {block: [], only: [a]}}",
            *(2, "group 'default': 'a' has addresses and no names", "block"),
            id="only addresses",
        ),
        pytest.param(
            "lists: {a: {addresses: [203.0.113.0/24]}, b: {lists: [a, vk]}}\n"
            "groups: {default: {block: [], allow: [b]}}",
            *(2, "'b' contains 'a', which has addresses", "block"),
            id="allowed addresses in a set",
        ),
        # groups
        pytest.param("groups: {}", 1, "there is no group 'default'", "default", id="no groups at all"),
        pytest.param(
            "\ngroups: {labs: {block: [], networks: [10.0.0.0/8]}}", 2, "no group 'default'", "", id="no default"
        ),
        pytest.param(
            "groups: {default: {networks: [10.0.0.0/8], block: []}}", 1, "has networks", "", id="default's networks"
        ),
        pytest.param("groups: {default: {mode: observe}}", 1, "group 'default': block is missing", "[]", id="no block"),
        pytest.param(
            "groups: {default: {block: []}, labs: {block: []}}", 1, "it has no networks", "", id="no networks"
        ),
        pytest.param(LAB % "", 1, "it has no networks", "networks", id="empty networks"),
        pytest.param(
            "groups: {default: {block: [tiktk]}}", 1, "there is no list 'tiktk'", "'tiktok'", id="typo in block"
        ),
        pytest.param(
            "groups: {default: {block: [a.example]}}", 1, "no list 'a.example'", "domains", id="name in block"
        ),
        pytest.param(
            "groups: {default: {block: [], allow: [press]}}", 1, "no list 'press'", "press.)", id="word in allow"
        ),
        pytest.param(
            "groups: {default: {block: [], only: [mine]}}", 1, "there is no list 'mine'", "", id="unknown in only"
        ),
        pytest.param("groups: {default: {block: [], only: []}}", 1, "only is an empty list", "out", id="empty only"),
        pytest.param("groups: {default: {block: [canary]}}", 1, "'canary' is not a list", "", id="canary in block"),
        pytest.param(
            "groups: {default: {block: [vk], allow: [vk]}}", 1, "under block and under allow", "", id="both ways"
        ),
        pytest.param(
            "groups: {default: {block: []}, 'a b': {block: []}}", 1, "'a b' cannot be used", "", id="group's name"
        ),
        # forwarding
        pytest.param("upstreams: ['127.0.0.1:5335']", 1, "an address of our own", "", id="our own address"),
        pytest.param(
            "listen: {dns: ['0.0.0.0:53']}\nupstreams: [127.0.0.53]", 2, "of our own", "", id="under a wildcard"
        ),
        pytest.param(
            "listen: {dns: ['[::]:53']}\nupstreams: ['::1']", 2, "of our own", "", id="under an IPv6 wildcard"
        ),
        pytest.param(
            "forward: [{zone: a.example, upstreams: ['127.0.0.1:5335']}]", 1, "own", "", id="zone to ourselves"
        ),
        pytest.param(
            "forward:\n- {zone: a.example, upstreams: [192.0.2.1]}\n- {zone: A.example., upstreams: [192.0.2.2]}",
            *(3, "a.example is forwarded by an earlier entry", "into one"),
            id="a zone twice",
        ),
        pytest.param("forward: [{upstreams: [192.0.2.1]}]", 1, "zone number 1: zone is missing", "zone:", id="no zone"),
        # exemptions
        pytest.param(EXEMPT % ("", "start: 2026-05-01"), 1, "'A': end is missing", "for ever", id="no end"),
        pytest.param(EXEMPT % ("", "end: 2026-05-32"), 1, "'2026-05-32' does not exist", "", id="no such day"),
        pytest.param(EXEMPT % ("", "start: 2026-05-02, end: 2026-05-01"), 1, "not after start", "", id="ends first"),
        pytest.param(EXEMPT % ("", "start: 2026-05-02T08:00, end: 2026-05-02T08:00"), 1, "not after", "", id="no time"),
        pytest.param(
            EXEMPT % ("max_duration: 5d,", "start: 2026-05-01, end: 2026-05-06"), 1, "longer than", "", id="long"
        ),
        pytest.param(EXEMPT % ("max_duration: 5d,", "end: 2026-05-06"), 1, "start is missing", "begins", id="no start"),
        pytest.param(EXEMPT % ("regime: strict,", "end: 2026-05-06"), 1, "'strict' is not known", "", id="regime"),
    ],
)
def test_one_mistake_is_one_problem_with_its_line_and_remedy(text: str, line: int, says: str, remedy: str) -> None:
    problem = only_problem(text)
    assert says in problem.text
    assert remedy in problem.remedy
    assert problem.remedy
    assert (problem.file, problem.line) == (str(FILE), line)


@pytest.mark.parametrize("key", ["id", "networks", "lists", "owner", "reason", "approved_by", "end"])
@pytest.mark.parametrize("left", [pytest.param(None, id="left out"), pytest.param("", id="empty")])
def test_an_exemption_says_all_that_it_must(key: str, left: str | None) -> None:
    entry: dict[str, Any] = {"id": "A", "networks": ["10.0.0.0/24"], "lists": ["tiktok"], "end": "2026-05-08"}
    entry |= {"owner": "o", "reason": "r", "approved_by": "a"}
    if left is None:
        del entry[key]
    else:
        entry[key] = [] if isinstance(entry[key], list) else left
    problem = only_problem(yaml.safe_dump({"exemptions": {"entries": [entry]}}))
    assert key in problem.text


@pytest.mark.parametrize("bad", ["a b", "é", "a/b", "-a", "a" * 64, "=A1"])
def test_an_exemption_has_an_id_that_is_safe_in_metrics(bad: str) -> None:
    text = (EXEMPT % ("", "end: 2026-05-08")).replace("id: A", f"id: '{bad}'")
    assert "cannot be used as an id" in only_problem(text).text


def test_an_id_is_used_once() -> None:
    entry = (
        "    - {id: A, networks: [10.0.0.0/24], lists: [vk], owner: o, reason: r, approved_by: a, end: 2026-05-08}\n"
    )
    problem = only_problem("exemptions:\n  entries:\n" + entry + entry)
    assert (problem.line, problem.text) == (4, "exemption 'A': the id is used twice")
    assert "line 3" in problem.remedy


def test_an_exemption_in_the_past_does_not_stop_a_start() -> None:
    assert loaded(EXEMPT % ("", "end: 2001-05-08")).config.exemptions.entries[0].end == 989366400.0


def test_the_longest_duration_is_counted_in_days_not_in_hours() -> None:
    text = "timezone: Europe/Paris\n" + EXEMPT % ("max_duration: 1d,", "start: 2026-10-25, end: 2026-10-25")
    [entry] = loaded(text).config.exemptions.entries
    assert entry.start is not None
    assert entry.end - entry.start == 25 * 3600


def test_lists_have_a_limit() -> None:
    lists = "".join(f"  l{i}: {{file: a}}\n" for i in range(256 - len(BUILTIN)))
    assert len(loaded("lists:\n" + lists).config.lists) == 251
    assert "257 lists" in only_problem("lists:\n" + lists + "  more: {file: a}\n").text


def test_a_longer_way_round_is_shown_for_each_set_on_it() -> None:
    found = problems("lists:\n  a: {lists: [b]}\n  b: {lists: [vk, c]}\n  c: {lists: [a]}\n  d: {lists: [a]}\n")
    assert [(problem.line, problem.text.partition("itself: ")[2]) for problem in found] == [
        (2, "a > b > c > a"),
        (3, "b > c > a > b"),
        (4, "c > a > b > c"),
    ]


def test_an_own_zone_id_is_kept_to_listen_on_and_ignored_in_networks() -> None:
    config = loaded("listen: {dns: ['[fe80::1%eth0]:53']}\n" + LAB % "'fe80::%eth0/10'").config
    assert str(config.listen.dns[0]) == "[fe80::1%eth0]:53"
    assert str(config.groups["labs"].networks[0]) == "fe80::/10"


def test_admin_and_metrics_may_share_a_port_of_the_systems_choice() -> None:
    assert loaded("listen: {admin: '127.0.0.1:0', metrics: '127.0.0.1:0'}").config.listen.metrics is not None


# YAML that is none, or more than is wanted


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param("a: 1\n\tb: 2\n", 2, "not YAML", id="a tab"),
        pytest.param("upstreams: [192.0.2.1\nlog: {level: info}\n", 2, "not YAML", id="an open bracket"),
        pytest.param(
            "listen: {dns: [[::1]:53]}", 1, "a key that is a list", id="an address in brackets without quotes"
        ),
        pytest.param("blocking: {text: 'a}\n", 2, "not YAML", id="an open quote"),
        pytest.param("log:\n  level: info\n bad: x\n", 3, "not YAML", id="indentation"),
        pytest.param("lists: {a: {domains: [*.a.example]}}", 1, "not YAML", id="a star"),
        pytest.param("log: {}\n---\nlog: {}\n", 2, "a second document", id="two documents"),
        pytest.param("a: &x 1\n", 1, "'&x' refers to another value", id="an anchor"),
        pytest.param("a: *x\n", 1, "'*x' refers to another value", id="an alias"),
        pytest.param("workers: !!int 4\n", 1, "the tag '!!int' is not read", id="a tag"),
        pytest.param(
            "state: !!python/object/apply:os.system [id]\n", 1, "the tag '!!python/object", id="a dangerous tag"
        ),
        pytest.param("- a\n", 1, "no keys at all", id="a list"),
        pytest.param("\nword\n", 2, "no keys at all", id="a word"),
        pytest.param("log: {}\nstate: a\x00b\n", 2, "not YAML", id="a NUL"),
        pytest.param("state: a\ud800b\n", 1, "not YAML", id="half a character"),
        pytest.param("a: " + "[" * 500, 1, "too deep", id="depth"),
        pytest.param("#" * (nodes.MAX_TEXT + 1), None, "characters", id="size"),
    ],
)
@pytest.mark.parametrize("loader", [yaml.CSafeLoader, yaml.SafeLoader])
def test_yaml_is_refused_with_its_line(
    text: str, line: int | None, says: str, loader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "Loader", loader)
    first = problems(text)[0]
    assert says in first.text
    assert first.line == line
    assert first.remedy


def test_a_bomb_of_aliases_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    assert all(problem.line for problem in problems("\n".join(lines)))


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        pytest.param("log: {level: info}\n".encode("utf-16"), "UTF-16", id="UTF-16"),
        pytest.param(b"\n# caf\xe9\n", "0xe9", id="Latin-1"),
    ],
)
def test_another_encoding_is_named(octets: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "dnsfilter.yaml"
    path.write_bytes(octets)
    with pytest.raises(ConfigError, match=says):
        load(path, builtin=BUILTIN)


def test_a_file_is_read_with_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "dnsfilter.yaml"
    path.write_bytes(b"\xef\xbb\xbflog: {level: error}\r\nlists: {a: {file: lists/a.txt}}\r\n")
    found = load(path, builtin=BUILTIN)
    assert found.config.log.level == "error"
    assert found.config.lists["a"].file == tmp_path / "lists/a.txt"
    assert found.places.place("lists", "a", "file").line == 2


@pytest.mark.parametrize("name", ["missing.yaml", ".", "missing.yaml/x", "\0"])
def test_a_file_that_cannot_be_read_is_one_message(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / name, builtin=BUILTIN)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].line is None


# Any text

WORDS = """
    tiktok default labs a press.example 10.0.0.0/8 192.0.2.1:53 127.0.0.1:5335 2s 1d 60 off exact hosts observe
    on tls://192.0.2.55#dns.example https://dns.example/dns-query tls://127.0.0.1:5335 parallel 203.0.113.0/24 b
    2026-05-04 2026-05-04T08:00 Europe/Paris CN social only ~ null
"""
KEYS = """
    listen dns metrics admin access upstreams forward zone resolve strategy timeout deadline cache entries max_ttl
    bootstrap ca_file random_case rebind_protection private_domains rate_limit queries_per_second exempt addresses
    lists file domains category origin format match mode protected groups networks block allow answer only
    exemptions regime max_duration id owner reason approved_by start end timezone blocking ipv4 ttl text
    log level state workers default a b
"""
refused = {part for path in UNAVAILABLE for part in path.split(".") if part != "*"}
words = st.sampled_from(WORDS.split())
keys = st.sampled_from(sorted(refused.union(KEYS.split())))
trees = st.recursive(
    words | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | words | st.text(max_size=3), inner, max_size=5),
    max_leaves=30,
)
texts = (
    trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True))
    | st.text()
    | st.text("ab:-[]{}&*!|>'\"#%@`,? \n\t\\")
)


@given(text=texts)
def test_any_text_is_a_configuration_or_says_what_is_wrong(text: str) -> None:
    try:
        found: list[Problem] | None = None
        config = load(None, builtin=BUILTIN, text=text).config
    except ConfigError as error:
        found = error.problems
    if found is None:
        assert isinstance(config, Config)
    else:
        assert found
        assert all(problem.text.isprintable() and problem.remedy.isprintable() for problem in found)


shapes = st.fixed_dictionaries(
    {},
    optional={
        "lists": st.dictionaries(
            st.sampled_from("abc"), st.fixed_dictionaries({"lists": st.lists(st.sampled_from("abc"))})
        ),
        "groups": st.dictionaries(
            st.sampled_from(["default", "x", "y"]),
            st.fixed_dictionaries(
                {"block": st.lists(st.sampled_from(["a", "b", "tiktok"]))},
                optional={"networks": st.lists(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "bad"]))},
            ),
        ),
        "upstreams": st.lists(st.sampled_from(["192.0.2.1", "127.0.0.1:5335", "bad"])),
    },
)


@given(tree=shapes)
def test_what_loads_can_be_expanded(tree: object) -> None:
    try:
        found = load(None, builtin=BUILTIN, text=yaml.safe_dump(tree))
    except ConfigError:
        return
    for group in found.config.groups.values():
        assert set(expand(found.config, BUILTIN, group.block)) <= set(BUILTIN)


def test_loading_needs_no_module_of_another_room() -> None:
    code = (
        "import sys, dnsfilter.config.load, dnsfilter.config.lint\n"
        "print(*sorted(m for m in sys.modules if m.startswith('dnsfilter.')))\n"
    )
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    others = [module for module in modules if not module.startswith("dnsfilter.config")]
    assert others == ["dnsfilter.core", "dnsfilter.core.names", "dnsfilter.core.rules"]
