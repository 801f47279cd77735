"""Names answered here: every zone of the RFCs, their boundaries, and ordinary names that look like them."""

import pytest

from dnsfilter.core.names import from_text
from dnsfilter.core.special import CANARIES, Special, find

# RFC 6303 section 4, RFC 6598 (by RFC 7793), written out once more.
REVERSE = [
    "10.in-addr.arpa",
    *(f"{octet}.172.in-addr.arpa" for octet in range(16, 32)),
    "168.192.in-addr.arpa",
    "0.in-addr.arpa",
    "127.in-addr.arpa",
    "254.169.in-addr.arpa",
    "2.0.192.in-addr.arpa",
    "100.51.198.in-addr.arpa",
    "113.0.203.in-addr.arpa",
    "255.255.255.255.in-addr.arpa",
    "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
    "d.f.ip6.arpa",
    "8.e.f.ip6.arpa",
    "9.e.f.ip6.arpa",
    "a.e.f.ip6.arpa",
    "b.e.f.ip6.arpa",
    "8.b.d.0.1.0.0.2.ip6.arpa",
    *(f"{octet}.100.in-addr.arpa" for octet in range(64, 128)),
]
ABSENT = ["invalid", "test", "onion", "alt", "local", "home.arpa", *REVERSE]


@pytest.mark.parametrize("zone", ABSENT)
def test_a_zone_that_nobody_outside_can_answer_for_does_not_exist(zone: str) -> None:
    for text in (zone, f"x.{zone}", f"x.y.{zone}", zone.upper()):
        assert find(from_text(text)) is Special.ABSENT, text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("localhost", Special.LOOPBACK, id="localhost, RFC 6761"),
        pytest.param("x.localhost", Special.LOOPBACK, id="below localhost"),
        pytest.param("resolver.arpa", Special.EMPTY, id="resolver.arpa, RFC 9462"),
        pytest.param("_dns.resolver.arpa", Special.EMPTY, id="the discovery of encrypted resolvers"),
        pytest.param("_1.x._dns.resolver.arpa", Special.EMPTY, id="below it"),
    ],
)
def test_names_with_an_answer_of_their_own(text: str, expected: Special) -> None:
    assert find(from_text(text)) is expected


@pytest.mark.parametrize(
    "text",
    [
        *(".", "arpa", "in-addr.arpa", "ip6.arpa", "e164.arpa", "arpa.example"),
        *("example", "example.com", "www.example.net", "localdomain"),
        *(
            "notlocalhost",
            "localhost.example",
            "xtest",
            "test.example",
            "contest.example",
            "local.example",
            "alt.example",
        ),
        *("home.arpa.example", "xhome.arpa", "xresolver.arpa", "resolver.example"),
        *("15.172.in-addr.arpa", "32.172.in-addr.arpa", "172.in-addr.arpa", "63.100.in-addr.arpa"),
        *("128.100.in-addr.arpa", "100.in-addr.arpa", "192.in-addr.arpa", "167.192.in-addr.arpa", "169.in-addr.arpa"),
        *("11.in-addr.arpa", "110.in-addr.arpa", "x10.in-addr.arpa", "1.18.198.in-addr.arpa"),
        *("3.0.192.in-addr.arpa", "0.192.in-addr.arpa", "255.255.255.in-addr.arpa", "1.255.255.255.in-addr.arpa"),
        *("c.f.ip6.arpa", "f.ip6.arpa", "e.f.ip6.arpa", "c.e.f.ip6.arpa", "7.e.f.ip6.arpa", "0.1.0.0.2.ip6.arpa"),
        "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
        "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
        r"x\.test.example",
        r"a\004test",
    ],
)
def test_ordinary_names_are_not_answered_here(text: str) -> None:
    assert find(from_text(text)) is None


def test_a_dot_within_a_label_is_no_boundary() -> None:
    assert find(from_text(r"a\.test")) is None
    assert find(from_text(r"10\.in-addr.arpa")) is None


def test_the_canaries_are_ordinary_names_here() -> None:
    """They depend on the client's group; the list of them is short and known."""
    assert list(CANARIES) == [
        from_text(t) for t in ("use-application-dns.net", "mask.icloud.com", "mask-h2.icloud.com")
    ]
    assert not any(map(find, CANARIES))
