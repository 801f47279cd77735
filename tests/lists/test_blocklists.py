import datetime

import pytest

from dnsfilter.core.names import ancestry, from_text, to_text
from dnsfilter.core.rules import Match
from dnsfilter.lists.formats import parse
from dnsfilter.lists.source import Builtin, builtin

BUILTIN = builtin()
every_list = pytest.mark.parametrize("shipped", BUILTIN.values(), ids=BUILTIN)


def listed(name: str) -> frozenset[bytes]:
    return frozenset(parse(BUILTIN[name].path.read_bytes(), "domains", Match.SUFFIX).suffix)


def blocks(name: str, asked: str) -> bool:
    return not listed(name).isdisjoint(ancestry(from_text(asked)))


def test_the_default_lists_ship() -> None:
    assert {"tiktok", "bytedance", "encrypted-dns"} <= set(BUILTIN)


@every_list
def test_head(shipped: Builtin) -> None:
    assert shipped.path.stem == shipped.name
    assert all((shipped.title, shipped.purpose, shipped.side_effects, shipped.source, shipped.licence))
    assert datetime.date.fromisoformat(shipped.date) >= datetime.date(2026, 11, 25)
    assert shipped.category in {"social", "bypass"}
    assert shipped.origin is None or (len(shipped.origin) == 2 and shipped.origin.isupper())


@every_list
def test_every_line_is_understood(shipped: Builtin) -> None:
    assert parse(shipped.path.read_bytes(), "domains", Match.SUFFIX).skipped == []


@every_list
def test_no_entry_is_there_twice_or_below_another(shipped: Builtin) -> None:
    names = parse(shipped.path.read_bytes(), "domains", Match.SUFFIX).suffix
    above = {name: [other for other in ancestry(name) if other in set(names)] for name in names}
    assert [to_text(name) for name, others in above.items() if others != [name]] == []
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "asked",
    ["www.tiktok.com", "api16-normal-c-useast1a.tiktokv.com", "v16m.tiktokcdn.com", "p16-va-tiktok.ibyteimg.com"],
)
def test_tiktok_is_blocked(asked: str) -> None:
    assert blocks("tiktok", asked)


def test_what_is_named_after_tiktok_is_in_its_list() -> None:
    assert [to_text(name) for name in listed("bytedance") | listed("encrypted-dns") if b"tiktok" in name] == []


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param("www.capcut.com", id="another app, in bytedance"),
        pytest.param("p16-capcut-sign-sg.ibyteimg.com", id="its host in a shared domain"),
        pytest.param("www.douyin.com", id="the sister app, in bytedance"),
    ],
)
def test_tiktok_leaves_the_other_apps_to_bytedance(asked: str) -> None:
    assert not blocks("tiktok", asked)
    assert blocks("bytedance", asked)


@every_list
@pytest.mark.parametrize(
    "asked",
    [
        *(
            "akamai.net",
            "akamaized.net",
            "edgekey.net",
            "edgesuite.net",
            "cloudfront.net",
            "fastly.net",
            "amazonaws.com",
        ),
        *("www.larksuite.com", "open.feishu.cn", "www.volcengine.com", "www.byteplus.com"),
        *("nottiktok.com", "tiktok.com.example", "www.cloudflare.com", "www.google.com", "my.nextdns.io", "quad9.net"),
    ],
)
def test_shared_networks_enterprise_products_and_look_alikes_stay_reachable(shipped: Builtin, asked: str) -> None:
    assert not blocks(shipped.name, asked)


@pytest.mark.parametrize(
    "asked", ["dns.google", "mozilla.cloudflare-dns.com", "one.one.one.one", "abc123.dns.nextdns.io"]
)
def test_public_resolvers_are_blocked(asked: str) -> None:
    assert blocks("encrypted-dns", asked)
