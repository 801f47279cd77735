"""Clients: which row an address has, and who may ask."""

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.clients import ClientRow, Clients, Network, Prefixes, address
from tests.core.make import thorough

V4 = ipaddress.ip_network("192.0.2.0/24")
V6 = ipaddress.ip_network("2001:db8::/32")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("192.0.2.9", "192.0.2.9", id="IPv4"),
        pytest.param("2001:db8::9", "2001:db8::9", id="IPv6"),
        pytest.param("::ffff:192.0.2.9", "192.0.2.9", id="IPv4-mapped"),
        pytest.param("::FFFF:c000:209", "192.0.2.9", id="IPv4-mapped, in hexadecimal"),
        pytest.param("fe80::1%eth0", "fe80::1", id="a zone id"),
        pytest.param("fe80::1%3", "fe80::1", id="a zone id by number"),
        pytest.param("::ffff:192.0.2.9%eth0", "192.0.2.9", id="both"),
        pytest.param("::192.0.2.9", "::c000:209", id="IPv4-compatible is IPv6"),
        pytest.param("64:ff9b::192.0.2.9", "64:ff9b::c000:209", id="NAT64 is IPv6"),
    ],
)
def test_the_address_that_decides(text: str, expected: str) -> None:
    assert address(text) == ipaddress.ip_address(expected)


@pytest.mark.parametrize("text", ["", "192.0.2", "192.0.2.256", "name.example", "%eth0", "192.0.2.9/32"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        address(text)


def networks_of(base: Network, make: Callable[[tuple[int, int]], Network], bits: int) -> st.SearchStrategy[Network]:
    """Networks that lie within each other often: few addresses, many lengths."""
    first = int(base.network_address)
    hosts = st.integers(min_value=0, max_value=7).map(lambda number: first | number << 5)
    lengths = st.sampled_from([0, base.prefixlen, bits - 8, bits - 7, bits - 6, bits - 5, bits - 1, bits])
    return st.tuples(hosts, lengths).map(make)


networks = networks_of(V4, lambda pair: ipaddress.IPv4Network(pair, strict=False), 32) | networks_of(
    V6, lambda pair: ipaddress.IPv6Network(pair, strict=False), 128
)
addresses = st.tuples(st.sampled_from([V4, V6]), st.integers(min_value=0, max_value=255)).map(
    lambda pair: pair[0][pair[1]]
)


@thorough
@given(st.lists(networks, unique=True, max_size=12), addresses)
def test_the_longest_prefix_decides_whatever_the_order(
    found: list[Network], client: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    containing = sorted((net for net in found if client in net), key=lambda net: -net.prefixlen)
    for order in (found, found[::-1], sorted(found, key=str)):
        table = Prefixes((network, str(network)) for network in order)
        assert table.find(client) == next(map(str, containing), None)
        assert list(table.all(client)) == list(map(str, containing))
        assert sorted(table.values()) == sorted(map(str, found))


def test_the_two_families_do_not_mix() -> None:
    table = Prefixes([(ipaddress.ip_network("::/0"), "all of IPv6")])
    assert table.find(ipaddress.ip_address("192.0.2.9")) is None
    assert table.find(ipaddress.ip_address("::9")) == "all of IPv6"


def clients() -> Clients:
    return Clients(
        access=Prefixes([(V4, True), (V6, True)]),
        rows=Prefixes([(ipaddress.ip_network("192.0.2.64/28"), ClientRow("managed"))]),
        default=ClientRow("default"),
    )


@pytest.mark.parametrize(
    ("client", "group"),
    [
        pytest.param("192.0.2.63", "default", id="below the network"),
        pytest.param("192.0.2.64", "managed", id="its first address"),
        pytest.param("192.0.2.79", "managed", id="its last address"),
        pytest.param("192.0.2.80", "default", id="above it"),
        pytest.param("::ffff:192.0.2.70", "managed", id="IPv4-mapped"),
        pytest.param("2001:db8::9", "default", id="a family without a network"),
        pytest.param("198.51.100.9", None, id="a stranger"),
        pytest.param("2001:db9::9", None, id="a stranger by IPv6"),
    ],
)
def test_a_client_has_the_row_of_its_network_and_a_stranger_none(client: str, group: str | None) -> None:
    row = clients().find(address(client))
    assert (None if row is None else row.group) == group


def test_access_is_asked_before_the_networks() -> None:
    closed = Clients(Prefixes([(V6, True)]), clients().rows, clients().default)
    assert closed.find(address("192.0.2.70")) is None


def test_all_rows_are_the_default_and_one_for_each_network() -> None:
    assert [row.group for row in clients().all_rows()] == ["default", "managed"]


def test_the_first_list_is_the_first_in_the_groups_order_not_by_number() -> None:
    row = ClientRow("managed", order=((4, "third"), (1, "first"), (2, "second")))
    assert row.first(0b111) == "third"
    assert row.first(0b011) == "first"
    assert row.first(0b010) == "second"
