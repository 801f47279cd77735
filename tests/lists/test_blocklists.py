"""The shipped lists as dnsfilter reads them: whole, without overlap, and neither too narrow nor too wide."""

import datetime
from functools import cache

import pytest

from dnsfilter.core.names import ancestry, from_text, to_text
from dnsfilter.core.rules import Match
from dnsfilter.lists.formats import parse
from dnsfilter.lists.source import Builtin, builtin

BUILTIN = builtin()
DEFAULT = ("tiktok", "bytedance", "encrypted-dns")
BYTEDANCE = ("tiktok", "douyin", "bytedance", "bytedance-ads", "capcut", "lark", "volcengine")
ENTERPRISE = ("lark", "volcengine")
CATEGORIES = {
    *("social", "streaming", "games", "dating", "messaging", "creative", "ai", "advertising", "enterprise"),
    *("security", "bypass"),
}
every_list = pytest.mark.parametrize("shipped", BUILTIN.values(), ids=BUILTIN)


@cache
def listed(name: str) -> frozenset[bytes]:
    return frozenset(parse(BUILTIN[name].path.read_bytes(), "domains", Match.SUFFIX).suffix)


def blocking(asked: str) -> set[str]:
    """The lists that block a name."""
    names = set(ancestry(from_text(asked)))
    return {name for name in BUILTIN if not listed(name).isdisjoint(names)}


def test_the_lists_ship() -> None:
    assert {*DEFAULT, *BYTEDANCE} <= set(BUILTIN)


@every_list
def test_head(shipped: Builtin) -> None:
    assert shipped.path.stem == shipped.name
    assert all((shipped.title, shipped.purpose, shipped.side_effects, shipped.source, shipped.licence))
    assert datetime.date.fromisoformat(shipped.date) >= datetime.date(2026, 11, 25)
    assert shipped.category in CATEGORIES
    assert shipped.origin is None or (len(shipped.origin) == 2 and shipped.origin.isupper())


@every_list
def test_every_line_is_understood(shipped: Builtin) -> None:
    text = shipped.path.read_text(encoding="utf-8")
    rules = parse(text.encode(), "domains", Match.SUFFIX)
    assert (rules.skipped, rules.skipped_count) == ([], 0)
    assert len(rules.suffix) == sum(1 for line in text.splitlines() if line and not line.startswith("#"))


@every_list
def test_no_entry_is_there_twice_or_below_another(shipped: Builtin) -> None:
    names = parse(shipped.path.read_bytes(), "domains", Match.SUFFIX).suffix
    above = {name: [other for other in ancestry(name) if other in set(names)] for name in names}
    assert [to_text(name) for name, others in above.items() if others != [name]] == []
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param("www.tiktok.com", id="the site"),
        pytest.param("webcast16-normal-no1a.tiktokv.eu", id="live in Europe"),
        pytest.param("api16-normal-c-useast1a.tiktokv.com", id="the API"),
        pytest.param("mssdk.tiktokw.us", id="the American web"),
        pytest.param("v16m.tiktokcdn.com", id="videos"),
        pytest.param("p19-sign.tiktokcdn-us.com", id="pictures in America"),
        pytest.param("pull-f5-sg01.ttlivecdn.com", id="live streams"),
        pytest.param("p16-va-tiktok.ibyteimg.com", id="a host in a shared domain"),
        pytest.param("verification-va.byteoversea.com", id="the captcha"),
        pytest.param("p16-oec-general.ttcdn-us.com", id="the shop"),
        pytest.param("api2.musical.ly", id="the former musical.ly"),
        pytest.param("log-va.tiktokv.com.edgekey.net", id="an alias at a network"),
    ],
)
def test_tiktok_is_blocked_by_its_list(asked: str) -> None:
    assert "tiktok" in blocking(asked)


@pytest.mark.parametrize(
    "asked", ["direct-http.quic-tiktok-proxy.useast5.byteglb.com", "mon-va.byteoversea.com", "s16.ibytedtos.com"]
)
def test_what_tiktok_shares_is_blocked_by_default(asked: str) -> None:
    assert blocking(asked) & set(DEFAULT)


def test_what_is_named_after_tiktok_is_in_its_list() -> None:
    tiktok = listed("tiktok")
    for name in ("bytedance", "douyin", "capcut", *ENTERPRISE, "encrypted-dns"):
        assert [to_text(entry) for entry in listed(name) if b"tiktok" in entry] == []
    assert all(not tiktok.isdisjoint(ancestry(entry)) for entry in listed("bytedance-ads") if b"tiktok" in entry)


@pytest.mark.parametrize(
    ("asked", "by"),
    [
        pytest.param("www.douyin.com", "douyin", id="Douyin"),
        pytest.param("www.capcut.com", "capcut", id="CapCut"),
        pytest.param("www.lemon8-app.com", "bytedance", id="Lemon8"),
        pytest.param("www.toutiao.com", "bytedance", id="Toutiao"),
        pytest.param("api16-access-sg.pangle.io", "bytedance-ads", id="Pangle"),
        pytest.param("open.larksuite.com", "lark", id="Lark"),
        pytest.param("www.feishu.cn", "lark", id="Feishu"),
        pytest.param("console.volcengine.com", "volcengine", id="Volcengine"),
        pytest.param("www.byteplus.com", "volcengine", id="BytePlus"),
    ],
)
def test_each_product_of_bytedance_is_in_one_list(asked: str, by: str) -> None:
    assert blocking(asked) == {by}


def test_the_pixel_can_be_blocked_without_tiktok() -> None:
    assert blocking("analytics.tiktok.com") == {"tiktok", "bytedance-ads"}
    assert blocking("www.tiktok.com") == {"tiktok"}


@pytest.mark.parametrize(
    "asked",
    [
        *("www.larksuite.com", "internal-api-lark-api.larksuite.com", "sf16-sg.larksuitecdn.com", "open.feishu.cn"),
        *("lf3-static.feishucdn.com", "www.larkoffice.com", "larksuite.com.ttdns2.com", "larkoffice.com.bytedns1.com"),
        *("www.volcengine.com", "ark.cn-beijing.volces.com", "vod.volcengineapi.com", "a.volccdn.com"),
        *("www.byteplus.com", "ark.ap-southeast.bytepluses.com", "lf16-oversea.goofy-cdn.com"),
    ],
)
def test_the_default_lists_leave_enterprise_products_alone(asked: str) -> None:
    assert blocking(asked) <= set(ENTERPRISE)


@pytest.mark.parametrize(
    "asked",
    [
        *("akamai.net", "akamaized.net", "edgekey.net", "edgesuite.net", "akadns.net", "cloudfront.net", "fastly.net"),
        *("map.fastly.net", "footprint.net", "amazonaws.com", "myqcloud.com", "app.link", "onelink.me", "tm.com.my"),
        *("other-customer.akamaized.net", "other.example.edgekey.net", "other.map.fastly.net", "shop.onelink.me"),
        *("worldfcdn2.com", "rocket-cdn.com", "c.live.rocket-cdnbp.com", "ns-440.awsdns-55.com", "cdn77.org"),
    ],
    ids=str,
)
def test_shared_networks_and_their_other_customers_stay_reachable(asked: str) -> None:
    assert blocking(asked) == set()


@pytest.mark.parametrize(
    "asked",
    [
        *("nottiktok.com", "tiktok.com.example", "tiktok.company", "tiktokv.community", "my-tiktok.example"),
        *("bytes.com", "byte.nl", "douban.com", "trailers.example", "traefik.io", "larkin.example", "volcano.si.edu"),
        *("www.cloudflare.com", "www.google.com", "my.nextdns.io", "quad9.net", "www.tokopedia.com", "toutiao.io"),
    ],
    ids=str,
)
def test_look_alikes_and_makers_sites_stay_reachable(asked: str) -> None:
    assert blocking(asked) == set()


@pytest.mark.parametrize(
    "asked", ["dns.google", "mozilla.cloudflare-dns.com", "one.one.one.one", "abc123.dns.nextdns.io"]
)
def test_public_resolvers_are_blocked(asked: str) -> None:
    assert "encrypted-dns" in blocking(asked)
