"""Ranges that many share: which are known, and when an admin is warned."""

import ipaddress
import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.config.delivery import BROADEST, shared, warnings
from dnsfilter.config.values import Network

TABLE = resources.files("dnsfilter.config").joinpath("delivery.txt").read_text(encoding="utf-8")
LINES = [line for line in TABLE.splitlines() if line and not line.startswith("#")]
KNOWN = [(ipaddress.ip_network(line.split("#")[0].strip()), line.split("#")[1].strip()) for line in LINES]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param("104.16.132.229/32", ["Cloudflare"], id="one address"),
        pytest.param("104.16.0.0/13", ["Cloudflare"], id="exactly a range"),
        pytest.param("104.0.0.0/11", ["Cloudflare"], id="around a range"),
        pytest.param("2606:4700::/48", ["Cloudflare"], id="IPv6"),
        pytest.param("23.32.0.0/24", ["Akamai"], id="Akamai"),
        pytest.param("2a02:26f0:1234::/48", ["Akamai"], id="Akamai, IPv6"),
        pytest.param("151.101.1.140/32", ["Fastly"], id="Fastly"),
        pytest.param("13.224.0.0/16", ["Amazon CloudFront"], id="CloudFront"),
        pytest.param("3.160.1.0/24", ["Amazon CloudFront", "Amazon"], id="of two at once"),
        pytest.param("142.250.1.0/24", ["Google"], id="Google"),
        pytest.param("13.107.246.0/24", ["Microsoft"], id="Azure Front Door"),
        pytest.param("47.246.1.0/24", ["Alibaba"], id="Alibaba"),
        pytest.param("43.152.0.0/16", ["Tencent"], id="Tencent"),
        pytest.param("45.60.1.0/24", ["Imperva"], id="Imperva"),
        pytest.param("2400:52e0:1e00::/48", ["Bunny"], id="Bunny"),
        pytest.param("203.0.113.128/25", [], id="nobody's"),
        pytest.param("2001:db8:bad::/48", [], id="nobody's, IPv6"),
        pytest.param("10.0.0.0/8", [], id="a site's own"),
        pytest.param("104.15.255.255/32", [], id="just before a range"),
        pytest.param("104.32.0.0/32", [], id="just behind ranges"),
    ],
)
def test_delivery_networks_with_addresses_in_a_range(text: str, names: list[str]) -> None:
    assert shared(ipaddress.ip_network(text)) == names


def test_all_addresses_are_everybodys_and_each_is_named_once() -> None:
    names = shared(ipaddress.ip_network("0.0.0.0/0"))
    assert len(names) == len(set(names))
    assert set(names) == {name for network, name in KNOWN if network.version == 4}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("203.0.113.0/24", [], id="nothing to say"),
        pytest.param("2001:db8::/32", [], id="nothing to say, IPv6"),
        pytest.param("11.0.0.0/8", [], id="as broad as may be"),
        pytest.param("10.0.0.0/7", ["10.0.0.0/7 covers 33,554,432 addresses"], id="too broad"),
        pytest.param("3ff0::/24", [], id="as broad as may be, IPv6"),
        pytest.param("3ff0::/20", ["3ff0::/20 covers 2^108 addresses"], id="too broad, IPv6"),
        pytest.param(
            "185.199.108.0/22",
            ["185.199.108.0/22 has addresses of GitHub, which many unrelated sites share"],
            id="a delivery network's",
        ),
        pytest.param(
            "0.0.0.0/0",
            [
                "0.0.0.0/0 covers 4,294,967,296 addresses",
                "0.0.0.0/0 has addresses of Cloudflare, Akamai, Fastly and 14 more, which many unrelated sites share",
            ],
            id="both",
        ),
        pytest.param(
            "2a00::/12",
            [
                "2a00::/12 covers 2^116 addresses",
                "2a00::/12 has addresses of Cloudflare, Akamai, Fastly and 5 more, which many unrelated sites share",
            ],
            id="both, IPv6",
        ),
    ],
)
def test_what_an_admin_is_warned_of(text: str, expected: list[str]) -> None:
    assert warnings(ipaddress.ip_network(text)) == expected


starts = st.sampled_from([network.network_address for network, _ in KNOWN]) | st.ip_addresses()
ranges: st.SearchStrategy[Network] = st.tuples(starts, st.integers(0, 128)).map(
    lambda each: ipaddress.ip_network((each[0], min(each[1], each[0].max_prefixlen)), strict=False)
)


@given(network=ranges)
def test_names_agree_with_the_table(network: Network) -> None:
    assert set(shared(network)) == {
        name
        for known, name in KNOWN
        if known.version == network.version and (known[0] in network or network[0] in known)
    }


@given(network=ranges)
def test_a_range_broader_than_any_owners_is_always_warned_of(network: Network) -> None:
    is_told = any("covers" in text for text in warnings(network))
    assert is_told is (network.prefixlen < BROADEST[network.version])


# The table


def test_the_table_is_well_formed() -> None:
    assert re.search(r"Put together in \w+ 20\d\d: ", TABLE), "when, and from what"
    for line in LINES:
        assert re.fullmatch(r"[0-9a-f.:]+/[0-9]+ +# [A-Za-z0-9. ]+", line), line
    assert len(set(KNOWN)) == len(KNOWN), "a range twice"


def test_each_part_of_the_table_says_whose_it_is_and_where_it_comes_from() -> None:
    for part in TABLE.strip().split("\n\n")[1:]:
        head, *lines = part.splitlines()
        assert head.startswith("# ")
        assert len({line.split("#")[1] for line in lines}) == 1, head


def test_no_range_is_broader_than_what_is_warned_of_anyhow_nor_of_documentation() -> None:
    for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "10.0.0.0/8", "192.168.0.0/16"):
        assert shared(ipaddress.ip_network(text)) == []
    assert all(network.prefixlen >= BROADEST[network.version] for network, _ in KNOWN)
