"""Server cookies: the test vectors of RFC 9018, and which cookies are ours."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.cookies import AHEAD_S, LIFETIME_S, RENEWED_S, Cookies, siphash

SECRET = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
CLIENT = bytes.fromhex("2464c4abcf10c957")
IP = ipaddress.ip_address("198.51.100.100")
WALL = 1_559_731_985
OURS = bytes.fromhex("2464c4abcf10c957 010000005cf79f11 1f8130c3eee29480")


@pytest.fixture
def cookies() -> Cookies:
    return Cookies(SECRET)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, "310e0edd47db6f72"), (1, "fd67dc93c539f874"), (8, "6224939a79f5f593"), (15, "e545be4961ca29a1")],
    ids="{} octets".format,
)
def test_siphash_gives_its_authors_vectors(length: int, expected: str) -> None:
    assert siphash(bytes(range(16)), bytes(range(length))).hex() == expected


def test_a_new_client_gets_the_cookie_of_rfc_9018_a_1(cookies: Cookies) -> None:
    assert cookies.answer(CLIENT, IP, WALL) == OURS


def test_a_cookie_that_is_young_is_sent_back_as_it_is(cookies: Cookies) -> None:
    for age in (-AHEAD_S, 0, 1, RENEWED_S):
        assert cookies.answer(OURS, IP, WALL + age) == OURS


@pytest.mark.parametrize(
    "age", [pytest.param(RENEWED_S + 1, id="half an hour old"), pytest.param(-AHEAD_S - 1, id="of the future")]
)
def test_another_cookie_is_replaced(cookies: Cookies, age: int) -> None:
    found = cookies.answer(OURS, IP, WALL + age)
    assert found != OURS
    assert found[:8] == CLIENT
    assert cookies.is_ours(found, IP, WALL + age)


def test_an_ipv6_client_gets_the_cookie_of_rfc_9018_a_4() -> None:
    secret = bytes.fromhex("445536bcd2513298075a5d379663c962")
    client, ip = bytes.fromhex("22681ab97d52c298"), ipaddress.ip_address("2001:db8:220:1:59de:d0f4:8769:82b8")
    expected = "22681ab97d52c298010000005cf7c609a6bb79d16625507a"
    assert Cookies(secret).answer(client, ip, 1_559_741_961).hex() == expected


@pytest.mark.parametrize(
    ("cookie", "ip", "age"),
    [
        pytest.param(CLIENT, "198.51.100.100", 0, id="none of ours"),
        pytest.param(OURS, "198.51.100.101", 0, id="another client's"),
        pytest.param(OURS, "2001:db8::1", 0, id="an IPv6 client's"),
        pytest.param(OURS, "198.51.100.100", LIFETIME_S + 1, id="an hour old"),
        pytest.param(OURS, "198.51.100.100", -AHEAD_S - 1, id="of the future"),
        pytest.param(OURS[:-1] + b"\0", "198.51.100.100", 0, id="guessed"),
        pytest.param(bytes(8) + OURS[8:], "198.51.100.100", 0, id="of another client cookie"),
        pytest.param(OURS[:9] + b"\1" + OURS[10:], "198.51.100.100", 0, id="reserved octets set"),
        pytest.param(OURS + b"\0", "198.51.100.100", 0, id="longer"),
        pytest.param(OURS[:-8], "198.51.100.100", 0, id="shorter"),
    ],
)
def test_what_is_not_ours(cookies: Cookies, cookie: bytes, ip: str, age: int) -> None:
    assert cookies.is_ours(OURS, IP, WALL)
    assert not cookies.is_ours(cookie, ipaddress.ip_address(ip), WALL + age)


@given(cookie=st.binary(min_size=8, max_size=40), wall=st.integers(min_value=0, max_value=2**33))
def test_every_answer_is_a_cookie_of_ours_behind_the_clients(cookie: bytes, wall: int) -> None:
    cookies = Cookies(SECRET)
    found = cookies.answer(cookie, IP, wall)
    assert (len(found), found[:8]) == (24, cookie[:8])
    assert cookies.is_ours(found, IP, wall % 2**32)
