"""Messages on a stream, however the stream is cut (RFC 1035 section 4.2.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.wire.framing import Framer, frame


def pops(framer: Framer) -> list[bytes]:
    """All messages that are whole; `has_message` tells of each beforehand."""
    found = []
    while framer.has_message:
        message = framer.pop()
        assert message is not None
        found.append(message)
    assert framer.pop() is None
    return found


def test_a_frame_is_two_octets_of_length_and_the_message() -> None:
    assert frame(b"abc") == b"\0\3abc"
    assert frame(b"") == b"\0\0"
    assert frame(bytes(65_535)) == b"\xff\xff" + bytes(65_535)


@given(
    st.lists(st.binary(max_size=40)),
    st.lists(st.tuples(st.integers(min_value=0, max_value=20), st.integers(min_value=0, max_value=3))),
)
def test_messages_come_out_as_they_went_in_wherever_the_stream_is_cut(
    messages: list[bytes], cuts: list[tuple[int, int]]
) -> None:
    """cuts: octets that come, and messages that are taken before more come."""
    stream, framer, found = b"".join(map(frame, messages)), Framer(), []
    for cut, taken in cuts:
        framer.push(stream[:cut])
        stream = stream[cut:]
        found += [message for _ in range(taken) if (message := framer.pop()) is not None]
    framer.push(stream)
    assert found + pops(framer) == messages


@pytest.mark.parametrize(
    "octets", [b"", b"\0", b"\0\5", b"\0\5abcd"], ids=["none", "half a length", "a length", "all but one"]
)
def test_a_part_of_a_message_is_kept_until_the_rest_comes(octets: bytes) -> None:
    framer = Framer()
    framer.push(octets)
    assert pops(framer) == []
    framer.push(b"\0\5abcde\0\0\0\1z"[len(octets) :])
    assert pops(framer) == [b"abcde", b"", b"z"]
