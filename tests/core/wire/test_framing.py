"""Messages on a stream, however the stream is cut (RFC 1035 section 4.2.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.wire.framing import Framer, frame


def test_a_frame_is_two_octets_of_length_and_the_message() -> None:
    assert frame(b"abc") == b"\0\3abc"
    assert frame(b"") == b"\0\0"
    assert frame(bytes(65_535)) == b"\xff\xff" + bytes(65_535)


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(min_value=0, max_value=20)))
def test_messages_come_out_as_they_went_in_wherever_the_stream_is_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream, framer, found = b"".join(map(frame, messages)), Framer(), []
    for cut in cuts:
        found += framer.feed(stream[:cut])
        stream = stream[cut:]
    found += framer.feed(stream)
    assert found == messages
    assert framer.is_between


@pytest.mark.parametrize("octets", [b"\0", b"\0\5", b"\0\5abcd"], ids=["half a length", "a length", "all but one"])
def test_a_part_of_a_message_is_kept_until_the_rest_comes(octets: bytes) -> None:
    framer = Framer()
    assert list(framer.feed(octets)) == []
    assert not framer.is_between
    assert list(framer.feed(b"\0\5abcde\0\1z"[len(octets) :])) == [b"abcde", b"z"]
    assert framer.is_between
