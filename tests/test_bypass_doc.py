"""What docs/bypass.md shows: nft reads the rules, dig gets the answers, and all that it names of the product exists."""

import ipaddress
import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from dnsfilter.config.schema import Config
from dnsfilter.core import special, suspicion
from dnsfilter.core.names import to_text
from dnsfilter.lists import source
from tests.programs import need
from tests.scenarios.service import Service
from tests.test_docs import RENDERED, TEXTS, Block, blocks, codes, rows, schema_keys, section

FILE = "docs/bypass.md"
TEXT = TEXTS[FILE]
# Named on the page, and not in the product yet: a row goes when its feature comes.
COMING = {
    "rate_limit",
    "resolve.rebind_protection",
    "resolve.private_domains",
    "lists.NAME.addresses",
    "dnsfilter_bypass_suspects",
    "dnsfilter_rate_limited_total",
}
CODES = codes(re.sub(r"(?ms)^```.*?^```$", "", TEXT))
FIREWALL = [block for block in blocks(FILE) if block.language == "nft"]
GUARD, REDIRECT = FIREWALL

every_block = pytest.mark.parametrize("block", FIREWALL, ids=["rules", "redirect"])


# ---- firewall ----


@every_block
def test_nft_takes_the_rules(block: Block) -> None:
    nft, unshare = need("nft", "nftables"), need("unshare", "util-linux")
    alone = [unshare, "--user", "--map-root-user", "--net"]  # nft asks the kernel, even for a check
    if subprocess.run([*alone, nft, "list", "tables"], capture_output=True, check=False, timeout=30).returncode:
        pytest.skip("needs user and network namespaces, with nftables in the kernel")
    checked = subprocess.run(
        [*alone, nft, "-c", "-f", "-"], input=block.text, capture_output=True, text=True, check=False, timeout=30
    )
    assert checked.stderr == ""
    assert checked.returncode == 0


@every_block
def test_the_rules_are_whole(block: Block) -> None:
    lines = [line.partition("#")[0] for line in block.text.splitlines()]
    text = "\n".join(lines)
    assert text.count("{") == text.count("}")
    defined, used = set(re.findall(r"^define (\w+) =", text, re.MULTILINE)), set(re.findall(r"\$(\w+)", text))
    assert defined == used
    assert set(re.findall(r"@(\w+)", text)) == set(re.findall(r"^ +set (\w+) \{", text, re.MULTILINE))
    assert set(re.findall(r"(?:goto|jump) (\w+)", text)) <= set(re.findall(r"^ +chain (\w+) \{", text, re.MULTILINE))


def elements(name: str) -> Iterator[tuple[int, int]]:
    """First and last address of each element of a set."""
    found = re.search(rf"set {name} \{{.*?elements = \{{(.*?)\}}", GUARD.text, re.DOTALL)
    assert found is not None
    listed = re.sub(r"#.*", "", found[1])
    for text in (each.strip() for each in listed.split(",")):
        if "-" in text:
            first, last = map(ipaddress.ip_address, text.split("-"))
            assert first.version == last.version
            assert all(each.is_global for each in (first, last))
            yield int(first), int(last)
        else:
            network = ipaddress.ip_network(text)  # strict: no host bits
            assert network.is_global
            yield int(network.network_address), int(network.broadcast_address)


@pytest.mark.parametrize("name", ["public4", "public6"])
def test_the_public_resolvers_are_addresses_of_the_internet_and_do_not_overlap(name: str) -> None:
    ranges = sorted(elements(name))
    assert len(ranges) > 10
    assert all(first <= last for first, last in ranges)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))


WELL_KNOWN = [
    *("1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9", "149.112.112.112", "208.67.222.222", "94.140.14.14"),
    *("2606:4700:4700::1111", "2606:4700:4700::1001", "2001:4860:4860::8888", "2001:4860:4860::8844", "2620:fe::fe"),
    *("2620:119:35::35", "2a10:50c0::ad1:ff"),
]


@pytest.mark.parametrize("text", WELL_KNOWN)
def test_a_well_known_resolver_is_among_them(text: str) -> None:
    ip = ipaddress.ip_address(text)
    assert any(first <= int(ip) <= last for first, last in elements(f"public{ip.version}"))


# ---- what is said of the product ----


def test_every_metric_named_exists() -> None:
    named = set(re.findall(r"\bdnsfilter_[a-z_]+[a-z]\b", TEXT))
    assert named
    assert named - RENDERED.keys() - COMING == set()


def test_every_configuration_key_named_exists() -> None:
    keys = {re.sub(r"\[\]", "", key) for key in schema_keys()}
    tops = "|".join(sorted({*Config.model_fields, *(key.partition(".")[0] for key in COMING)}))
    named = {code for code in CODES if re.fullmatch(rf"({tops})(\.\w+)+|rate_limit", code)}
    assert {"cache.max_ttl", "rate_limit", "lists.NAME.addresses"} <= named
    assert named - keys - COMING == set()


def test_what_is_coming_is_named() -> None:
    assert {each for each in COMING if each not in TEXT} == set()


def test_every_list_named_is_built_in() -> None:
    shown = {word.strip() for text in re.findall(r"block: \[([^\]]+)\]", TEXT) for word in text.split(",")}
    named = set(re.findall(r"[Ll]ists? `([a-z-]+)`", TEXT)) | set(re.findall(r'list="([a-z-]+)"', TEXT)) | shown
    assert {"encrypted-dns", "httpdns", "tiktok"} <= named
    assert named - source.builtin().keys() == set()


def test_every_canary_is_told_and_none_that_is_not_one() -> None:
    ways = section(TEXT, "The ways around")
    told = {code for cell in re.findall(r"canar(?:y|ies) ([^;|]*)", ways) for code in codes(cell)}
    assert told == set(map(to_text, special.CANARIES))


def test_every_way_has_an_answer_in_each_column() -> None:
    ways = rows(TEXT, "way", "what dnsfilter does", "what closes it")
    assert len(ways) > 12
    assert all(len(row) == 3 and all(row) for row in ways)


def test_the_suspicions_are_described_as_they_are() -> None:
    told = re.sub(r"\s+", " ", section(TEXT, "Who seems to get around it"))
    assert f"At most {suspicion.MOST} clients" in told
    assert re.findall(r"- \*\*`(\w+)`\*\*", told) == list(suspicion.Reason)
    assert f"at least {suspicion.APP_QUERIES} questions" in told
    assert told.count(f"no more than {suspicion.RUN_GAP_S:.0f} seconds") == 2
    assert f"at least {suspicion.BUSY_QUERIES} questions within five minutes" in told
    assert f"none for {suspicion.SILENT_S / 60:.0f} minutes" in told
    assert (suspicion.SLOT_S, suspicion.SUSPECTED_S, suspicion.GONE_S) == (300, 3_600, 7_200)  # in words there


# ---- does it hold? ----


def commands(block: Block) -> list[tuple[str, str]]:
    """The command of each line and what stands beside it."""
    return [(line, beside) for line, _, beside in (each.partition("      ") for each in block.text.splitlines())]


HERE, OUTSIDE = [block for block in blocks(FILE) if block.text.startswith("dig ")]


def test_what_must_be_answered_here_is(tmp_path: Path) -> None:
    dig = need("dig", "bind9-dnsutils")
    (config,) = [block for block in blocks(FILE) if block.language == "yaml"]
    with Service(tmp_path, {**yaml.safe_load(config.text), "upstreams": ["127.0.0.1:9"]}) as service:
        host, port = service.dns
        for command, beside in commands(HERE):
            program, server, *words = shlex.split(command.partition("|")[0])
            assert (program, server) == ("dig", "@10.0.0.53")
            asked = [dig, f"@{host}", "-p", str(port), "+tries=1", "+time=5", *words]
            shown = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout
            expected = [part.partition(" or ")[0].strip() for part in beside.strip().split(",")]
            assert expected[0]
            for part in (each for each in expected if each):
                assert part in (shown.split() if "+short" in words else shown), command


def test_what_must_fail_is_understood_by_dig() -> None:
    dig = need("dig", "bind9-dnsutils")
    asked = [command for command, _ in commands(OUTSIDE) if command.startswith("dig ")]
    assert len(asked) > 4
    for command in asked:  # asked of nobody: the loopback's port 1
        words = ["@127.0.0.1" if word[0] == "@" else word for word in shlex.split(command)[1:]]
        found = subprocess.run([dig, "-p", "1", *words], capture_output=True, text=True, check=False, timeout=30)
        assert found.returncode == 9, (command, found.stderr)  # no reply; 1 is a usage error
