"""Warnings of what loads and is rarely meant."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from dnsfilter.config.lint import warnings
from dnsfilter.config.problems import Problem
from tests.config.builtin import loaded

NOW = datetime(2026, 5, 5, tzinfo=UTC).timestamp()
BLOCK = "block: [tiktok, encrypted-dns]"
BOTH_FAMILIES = "listen: {dns: [127.0.0.1, '::1']}\n"


def found(text: str) -> list[Problem]:
    return warnings(loaded(text), NOW)


def exemption(networks: str, lists: str = "tiktok", end: str = "2026-05-08") -> str:
    return (
        f"    - {{id: A, networks: [{networks}], lists: [{lists}], owner: o, reason: r, approved_by: a,"
        f" start: 2026-05-04, end: {end}}}\n"
    )


def grouped(exemptions: str) -> str:
    """Two groups in lines 1 to 4, exemptions from line 7 on."""
    return (
        "groups:\n"
        f"  managed: {{networks: [10.20.0.0/16], {BLOCK}}}\n"
        "  inner: {networks: [10.20.8.0/24], block: [vk, encrypted-dns]}\n"
        "  default: {block: []}\n"
        "timezone: Europe/Paris\n"
        "exemptions: {entries: [\n" + exemptions.replace("    - ", "  ") + "]}\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="the defaults"),
        pytest.param(f"groups: {{labs: {{networks: [10.0.0.0/8], {BLOCK}}}, default: {{block: []}}}}", id="a group"),
        pytest.param(
            "lists: {a: {file: a}, b: {lists: [a]}}\ngroups: {default: {block: [b, encrypted-dns]}}", id="a set"
        ),
        pytest.param("lists: {a: {file: a}}\ngroups: {default: {block: [], only: [a]}}", id="a list for only"),
        pytest.param("lists: {a: {file: a}}\ngroups: {default: {block: [], allow: [a]}}", id="a list for allow"),
        pytest.param(f"timezone: UTC\nexemptions:\n  entries:\n{exemption('10.0.0.0/8')}", id="everybody in default"),
        pytest.param("timezone: UTC\nexemptions: {entries: []}", id="no exemptions"),
        pytest.param("upstreams: ['tls://192.0.2.55', 'https://192.0.2.56/q']", id="all upstreams encrypted"),
        pytest.param(
            "upstreams: ['tls://192.0.2.55']\nforward: [{zone: a.example, upstreams: [192.0.2.53]}]",
            id="plain upstreams for a zone of our own",
        ),
        pytest.param("resolve: {rebind_protection: on, private_domains: [corp.example]}", id="private domains"),
        pytest.param("rate_limit: {queries_per_second: 20, exempt: [10.0.0.9]}", id="a rate limit"),
        pytest.param("rate_limit: {queries_per_second: 0}", id="no rate limit"),
        pytest.param(
            "lists: {a: {addresses: [203.0.113.0/24, '2001:db8:bad::/48']}}\n"
            "groups: {default: {block: [a, encrypted-dns]}}",
            id="a list of addresses",
        ),
    ],
)
def test_what_is_well_meant_is_not_warned_of(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param("\nlists: {a: {file: a}}", 2, "list 'a': no group uses it", id="an unused list"),
        pytest.param(
            "lists: {a: {origin: [RU, KP]}}\ngroups: {default: {block: [a, encrypted-dns]}}", 1, "KP", id="origin"
        ),
        pytest.param(
            "groups: {default: {block: [tiktok]}}", 1, "but not encrypted-dns", id="a ban without encrypted DNS"
        ),
        pytest.param(
            "lists: {s: {category: [social, bypass]}}\ngroups: {default: {block: [s], allow: [vk]}}",
            *(2, "allow takes back all of vk"),
            id="allowed, and blocked by a set",
        ),
        pytest.param(
            BOTH_FAMILIES + f"groups: {{a: {{networks: [10.0.0.0/8], {BLOCK}}}, default: {{block: []}}}}",
            *(2, "in group 'default' when they ask over IPv6"),
            id="IPv4 only",
        ),
        pytest.param(
            BOTH_FAMILIES + f"groups: {{a: {{networks: ['fd00::/8'], {BLOCK}}}, default: {{block: []}}}}",
            *(2, "in group 'default' when they ask over IPv4"),
            id="IPv6 only",
        ),
        pytest.param(
            f"groups:\n  a: {{networks: [10.0.0.0/8], {BLOCK}}}\n  b: {{networks: [10.1.0.0/16], {BLOCK}}}\n"
            "  default: {block: []}",
            *(2, "10.0.0.0/8 goes in part to other groups: 10.1.0.0/16 to group 'b'"),
            id="a longer prefix takes a part",
        ),
        pytest.param(
            f"groups:\n  a: {{networks: [10.0.0.0/8], {BLOCK}}}\n"
            f"  b: {{networks: [10.0.0.0/9, 10.128.0.0/9], {BLOCK}}}\n  default: {{block: []}}",
            *(2, "10.0.0.0/8 goes wholly to other groups: 10.0.0.0/9 to group 'b', 10.128.0.0/9 to group 'b'"),
            id="longer prefixes take all",
        ),
        pytest.param(f"exemptions:\n  entries:\n{exemption('10.0.0.0/8')}", 2, "but no timezone", id="no timezone"),
        pytest.param(f"blocking: {{text: {'é' * 33}}}", 1, "66 octets; clients get the first 64", id="a long text"),
        pytest.param(
            f"timezone: UTC\nexemptions:\n  entries:\n{exemption('10.0.0.0/8', 'tiktok, vk')}",
            *(4, "exemption 'A': it lifts vk, which group 'default' does not block"),
            id="a list not blocked",
        ),
        pytest.param(
            f"timezone: UTC\nexemptions:\n  entries:\n{exemption('10.0.0.0/8', end='2026-05-04')}",
            *(4, "exemption 'A': it is over"),
            id="an exemption that is over",
        ),
        pytest.param(
            "\nupstreams: [192.0.2.53, 'tls://192.0.2.55']",
            *(2, "192.0.2.53:53 is asked in the clear what the others"),
            id="plain beside encrypted",
        ),
        pytest.param(
            "forward:\n- zone: a.example\n  upstreams: ['https://192.0.2.55/q', 192.0.2.53]",
            *(3, "forward zone number 1: upstreams: 192.0.2.53:53 is asked in the clear"),
            id="plain beside encrypted in a zone",
        ),
        pytest.param(
            "resolve:\n  private_domains: [corp.example]", 2, "without rebind_protection: on", id="idle private domains"
        ),
        pytest.param("rate_limit: {exempt: [10.0.0.9]}", 1, "without queries_per_second", id="idle exempt networks"),
        pytest.param("rate_limit:\n  queries_per_second: 19", 2, "19 a second: an office", id="a low rate limit"),
        pytest.param(
            "lists: {a: {addresses: [104.16.1.0/24]}}\ngroups: {default: {block: [a, encrypted-dns]}}",
            *(1, "104.16.1.0/24 has addresses of Cloudflare"),
            id="addresses of a delivery network",
        ),
        pytest.param("lists: {a: {addresses: [203.0.113.0/24]}}", 1, "no group uses it", id="unused addresses"),
    ],
)
def test_what_is_rarely_meant_is_warned_of_with_its_line(text: str, line: int, says: str) -> None:
    [warning] = found(text)
    assert says in warning.text
    assert warning.line == line
    assert warning.remedy


def test_a_file_of_certificates_is_of_no_use_to_plain_upstreams(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    text = f"resolve: {{ca_file: {authority}}}\nupstreams: [%s]"
    [warning] = found(text % "192.0.2.53")
    assert (warning.line, warning.text) == (1, "resolve.ca_file: it means nothing without encrypted upstreams")
    assert found(text % "'tls://192.0.2.55'") == []


SHADOW = "10.20.0.0/16 goes in part"


@pytest.mark.parametrize(
    ("networks", "lists", "says"),
    [
        pytest.param("10.20.4.0/24", "tiktok", [], id="in a group that blocks it"),
        pytest.param(
            "10.20.8.0/28", "tiktok", ["it lifts tiktok, which group 'inner'"], id="the longest prefix counts"
        ),
        pytest.param("10.20.0.0/16", "tiktok, vk", [], id="around both groups"),
        pytest.param("10.20.4.0/24", "vk", ["it lifts vk, which group 'managed'"], id="blocked in another group only"),
        pytest.param("10.21.0.0/24", "tiktok", ["it lifts tiktok", "10.21.0.0/24 is in no group"], id="in no group"),
        pytest.param("10.20.0.0/15", "tiktok", ["10.20.0.0/15 is partly in no group"], id="wider than a group"),
    ],
)
def test_an_exemption_is_held_against_the_groups_of_its_clients(networks: str, lists: str, says: list[str]) -> None:
    texts = [warning.text for warning in found(grouped(exemption(networks, lists))) if SHADOW not in warning.text]
    assert len(texts) == len(says)
    for text, expected in zip(texts, says, strict=True):
        assert text.startswith("exemption 'A': ")
        assert expected in text


def test_a_network_filled_by_groups_together_is_in_groups() -> None:
    text = (
        f"groups:\n  a: {{networks: [10.0.0.0/9], {BLOCK}}}\n  b: {{networks: [10.128.0.0/9], {BLOCK}}}\n"
        f"  default: {{block: []}}\ntimezone: UTC\nexemptions:\n  entries:\n{exemption('10.0.0.0/8')}"
    )
    assert found(text) == []


def test_warnings_come_in_the_order_of_the_lines() -> None:
    lines = [warning.line for warning in found("groups: {default: {block: [vk]}}\n\nlists: {a: {file: a}}\n")]
    assert lines == [1, 3]
