"""Queries for upstreams on encrypted connections: padded, and otherwise as they were."""

import dns.edns
import dns.message
import pytest

from dnsfilter.core.wire import build
from tests.core.make import question, unhex

PADDING = 12


@pytest.mark.parametrize("do", [False, True], ids=["without DO", "with DO"])
@pytest.mark.parametrize("size", range(1, 256, 3))
def test_a_query_is_padded_to_a_multiple_of_128_octets_and_says_the_same(size: int, *, do: bool) -> None:
    """RFC 8467 section 4.1."""
    labels = [63] * (size // 64) + ([size % 64 - 1] if size % 64 > 1 else [])
    asked = question(b"".join(bytes([length]) + b"a" * length for length in labels) + b"\0", "A")
    plain = build.upstream_query(asked, cd=False, do=do, edns=True)
    octets = b"\xab\xcd" + build.padded(plain)
    assert len(octets) % 128 == 0
    assert len(octets) < 2 + len(plain) + 4 + 128, "no block more than needed"
    message, before = dns.message.from_wire(octets), dns.message.from_wire(b"\xab\xcd" + plain)
    assert [int(option.otype) for option in message.options] == [PADDING]
    assert not any(message.options[0].to_wire() or b""), "RFC 7830 section 3: octets of 0"
    assert (message.flags, message.question, message.ednsflags, message.payload) == (
        before.flags,
        before.question,
        before.ednsflags,
        before.payload,
    )


def test_padding_octet_by_octet() -> None:
    asked = question("ads.example")
    assert build.padded(build.upstream_query(asked, cd=True, do=True, edns=True)) == (
        unhex("0130 0001 0000 0000 0001")
        + asked
        + unhex("00 0029 04d0 0000 8000 0058")  # OPT with 88 octets of options
        + unhex("000c 0054")  # PADDING, 84 octets
        + bytes(84)
    )


@pytest.mark.parametrize(
    "name",
    [
        "www.example",
        pytest.param(b"\1a" + unhex("0b 00 00 29 04 d0 00 00 00 00 00 00") + b"\0", id="an OPT in a label"),
    ],
)
def test_a_query_without_opt_is_left_as_it_is(name: str | bytes) -> None:
    rest = build.upstream_query(question(name), cd=False, do=False, edns=False)
    assert build.padded(rest) == rest
