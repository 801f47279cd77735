"""Names that no list may block."""

import time
from importlib import resources

import pytest

from dnsfilter.core.names import Name, from_text, to_text
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.formats import parse
from dnsfilter.lists.guards import Guards
from dnsfilter.lists.source import Builtin, builtin

GUARDS = Guards()
TABLE = resources.files("dnsfilter.lists").joinpath("shared.txt").read_text(encoding="utf-8").splitlines()


def names(*texts: str) -> list[Name]:
    return [from_text(text) for text in texts]


def refused(*texts: str, is_written: bool = False) -> set[str]:
    return {to_text(name) for name in GUARDS.refuse(Rules(suffix=names(*texts)), is_written=is_written)}


REGISTRIES = [
    *("com", "co.uk", "gouv.fr", "gov.uk", "com.br", "xn--p1ai", "xn--55qx5d.cn"),
    *("foo.ck", "kawasaki.jp", "x.kawasaki.jp", "sch.uk", "any.sch.uk"),
]
PLATFORMS = ["github.io", "pages.dev", "s3.amazonaws.com", "duckdns.org", "eu-west-3.elb.amazonaws.com"]
SHARED = [
    *("akamai.net", "akamaized.net", "edgekey.net", "edgesuite.net", "cloudfront.net", "fastly.net", "azureedge.net"),
    *("amazonaws.com", "googleapis.com", "apple.com", "windowsupdate.com", "pool.ntp.org", "bit.ly", "app.link"),
    *("captive.apple.com", "connectivitycheck.gstatic.com", "www.msftconnecttest.com", "ocsp.digicert.com"),
]


@pytest.mark.parametrize("name", [*REGISTRIES, *PLATFORMS, *SHARED])
def test_a_guarded_name_is_refused(name: str) -> None:
    assert refused(name) == {name}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tiktok.com", id="a registered domain"),
        pytest.param("www.ck", id="an exception of the Public Suffix List"),
        pytest.param("city.kawasaki.jp", id="another"),
        pytest.param("example.x.kawasaki.jp", id="a domain registered below a wildcard"),
        pytest.param("v16m.tiktokcdn.com.akamaized.net", id="a customer's name in a delivery network"),
        pytest.param("app.github.io", id="one site of a platform"),
        pytest.param("lb-1.eu-west-3.elb.amazonaws.com", id="one site below a wildcard"),
        pytest.param("notakamai.net", id="the same ending, another label"),
        pytest.param("akamai.net.example", id="the same beginning"),
        pytest.param("dns.google", id="below a top-level domain of one firm"),
        pytest.param("app-measurement.com", id="a tracker"),
    ],
)
def test_any_other_name_is_not(name: str) -> None:
    assert refused(name) == set()


def test_it_is_the_name_that_counts_whatever_a_rule_covers_and_the_rest_stays_in_its_order() -> None:
    rules = Rules(
        exact=names("akamai.net", "a.example"),
        suffix=names("b.example", "akamai.net", "c.example"),
        below=names("cloudfront.net", "d.example", "x.ck"),
        allow_exact=names("akamai.net"),
        allow_suffix=names("fastly.net"),
        allow_below=names("co.uk"),
    )
    found = GUARDS.refuse(rules, is_written=False)
    assert found.keys() == set(names("akamai.net", "cloudfront.net", "x.ck"))
    assert found[from_text("akamai.net")].endswith("list those that are meant")
    assert found[from_text("x.ck")].startswith("a public suffix")
    assert rules == Rules(
        exact=names("a.example"),
        suffix=names("b.example", "c.example"),
        below=names("d.example"),
        allow_exact=names("akamai.net"),
        allow_suffix=names("fastly.net"),
        allow_below=names("co.uk"),
    )


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_registry_is_never_meant(name: str) -> None:
    assert refused(name, is_written=True) == {name}


@pytest.mark.parametrize("name", [*PLATFORMS, *SHARED])
def test_who_writes_a_shared_name_into_the_configuration_means_it_and_is_told(name: str) -> None:
    assert refused(name, is_written=True) == set()
    assert GUARDS.shared(Rules(exact=names(name, "a.example"))).keys() == set(names(name))


def test_the_reason_names_who_is_behind_a_shared_name() -> None:
    (reason,) = GUARDS.shared(Rules(suffix=names("msftncsi.com"))).values()
    assert reason.startswith("Microsoft: ")


@pytest.mark.parametrize("shipped", builtin().values(), ids=builtin())
def test_no_shipped_list_holds_a_guarded_name(shipped: Builtin) -> None:
    rules = parse(shipped.path.read_bytes(), "domains", Match.SUFFIX)
    assert list(map(to_text, GUARDS.refuse(rules, is_written=False))) == []


def test_each_line_of_the_table_is_one_name_and_who_it_belongs_to() -> None:
    lines = [line.split("#", 1) for line in TABLE if line and not line.startswith("#")]
    apexes = [text.strip() for text, _ in lines]
    assert all(owner.strip() for _, owner in lines)
    assert [text for text in apexes if to_text(from_text(text)) != text or "." not in text] == []
    assert len(apexes) == len(set(apexes))


def test_the_version_tells_of_both_tables() -> None:
    suffixes, ours = GUARDS.version.split()
    assert suffixes[0].isdigit()
    assert len(ours) == 8


def test_many_names_are_looked_through_in_no_time() -> None:
    rules = Rules(suffix=names(*(f"h{number}.d{number % 999}.example" for number in range(200_000))))
    GUARDS.refuse(Rules(suffix=names("a.example")), is_written=False)  # reads the tables
    begun = time.process_time()
    assert GUARDS.refuse(rules, is_written=False) == {}
    assert time.process_time() - begun < 0.5  # takes some hundredths
