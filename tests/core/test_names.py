"""Names: text to wire and back, limits, and what is below what."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dnsfilter.core.names import (
    MAX_LABEL,
    ROOT,
    BadName,
    ancestry,
    from_text,
    labels,
    parent,
    to_text,
)
from tests.core.make import labels_to_wire, thorough

octet_labels = st.lists(st.binary(min_size=1, max_size=MAX_LABEL), max_size=127).filter(
    lambda found: sum(len(label) + 1 for label in found) < 255
)
few = st.lists(st.sampled_from([b"a", b"b", b"ab", b"\1a", b"a\1", b"x.y"]), max_size=5).map(tuple)


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        pytest.param("ads.example", b"\3ads\7example\0", id="two labels"),
        pytest.param("ads.example.", b"\3ads\7example\0", id="a final dot"),
        pytest.param("ADS.Example", b"\3ads\7example\0", id="letter case, RFC 4343"),
        pytest.param(".", b"\0", id="the root"),
        pytest.param("example", b"\7example\0", id="one label"),
        pytest.param("_dns.resolver.arpa", b"\4_dns\x08resolver\4arpa\0", id="an underscore"),
        pytest.param(r"a\.b.example", b"\3a.b\7example\0", id="a dot within a label"),
        pytest.param(r"\065\.\000\255.example", b"\4a.\0\xff\7example\0", id="octets by number, RFC 1035 section 5.1"),
        pytest.param(r"\\.example", b"\1\\\7example\0", id="a backslash"),
        pytest.param(r"a\ b\".example", b'\4a b"\7example\0', id="characters behind a backslash"),
        pytest.param("a b.example", b"\3a b\7example\0", id="a space as it stands"),
        pytest.param("bücher.example", b"\x0dxn--bcher-kva\7example\0", id="IDNA"),
        pytest.param("BÜCHER.example", b"\x0dxn--bcher-kva\7example\0", id="IDNA, mapped to lower case"),
        pytest.param("xn--a-.example", b"\6xn--a-\7example\0", id="an A-label that does not decode"),
        pytest.param("a\u3002b\uff0ec\uff61example", b"\1a\1b\1c\7example\0", id="other dots, UTS 46"),
        pytest.param("ads.example\u3002", b"\3ads\7example\0", id="another dot at the end"),
        pytest.param("a" * 63 + ".example", b"\x3f" + b"a" * 63 + b"\7example\0", id="a label of 63 octets"),
        pytest.param(
            ".".join(["a" * 63] * 3 + ["a" * 61]),
            (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0",
            id="a name of 255 octets",
        ),
        pytest.param(".".join("a" * 127), b"\1a" * 127 + b"\0", id="127 labels"),
    ],
)
def test_text_is_read_as_folded_wire_octets(text: str, wire: bytes) -> None:
    assert from_text(text) == wire


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "no name at all", id="nothing"),
        pytest.param("a..example", "an empty label", id="two dots in a row"),
        pytest.param(".example", "an empty label", id="a dot at the start"),
        pytest.param("..", "an empty label", id="dots alone"),
        pytest.param("a" * 64 + ".example", "a label of 64 octets; 63 is the most", id="a label of 64 octets"),
        pytest.param(
            ".".join(["a" * 63] * 3 + ["a" * 62]), "a name of 256 octets; 255 is the most", id="a name of 256 octets"
        ),
        pytest.param(".".join("a" * 128), "a name of 257 octets", id="128 labels"),
        pytest.param("ä" * 63 + ".example", "no IDNA form", id="a label too long once it is an A-label"),
        pytest.param("\u2488com.example", "", id="a character that stands for several with a dot"),
        pytest.param("a\u00ad\ufffd.example", "no IDNA form", id="a character that IDNA forbids"),
        pytest.param("\u00ad.example", "", id="a label of nothing but an ignored character"),
        pytest.param("\ud800.example", "no IDNA form", id="half a surrogate pair"),
        pytest.param("a\\", "a backslash that escapes nothing", id="a backslash at the end"),
        pytest.param(r"a\25.example", "a backslash that escapes nothing", id="two digits"),
        pytest.param(r"a\256.example", "a backslash that escapes nothing", id="a number above 255"),
    ],
)
def test_text_that_is_no_name_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(BadName) as caught:
        from_text(text)
    assert reason in str(caught.value)


@thorough
@given(octet_labels)
@example([bytes([octet]) for octet in range(128)][:127])
@example([bytes([octet]) for octet in range(128, 255)])
def test_any_labels_come_back_from_text(found: list[bytes]) -> None:
    folded = labels_to_wire([label.lower() for label in found])
    text = to_text(folded)
    assert from_text(text) == folded
    assert from_text(text.upper()) == folded
    assert from_text(text if text == "." else text + ".") == folded
    assert set(text) <= set(string.ascii_letters + string.digits + "-_\\."), "not safe to print"
    assert list(labels(folded)) == [label.lower() for label in found]


@thorough
@given(st.text() | st.text(alphabet="aA.\\019\u3002ü\u00df\u200d\ud800-_ ", max_size=20))
def test_any_text_is_a_name_or_a_bad_name(text: str) -> None:
    try:
        found = from_text(text)
    except BadName:
        return
    assert found == found.lower()
    assert len(found) <= 255
    assert found.endswith(b"\0")
    assert labels_to_wire(list(labels(found))) == found
    assert from_text(to_text(found)) == found


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        pytest.param("ads.example", "ads.example", True, id="the name itself"),
        pytest.param("x.y.ads.example", "ads.example", True, id="two labels below"),
        pytest.param("badads.example", "ads.example", False, id="same ending, other label"),
        pytest.param("example", "ads.example", False, id="above"),
        pytest.param("ads.example", ".", True, id="the root is above all"),
        pytest.param(".", ".", True, id="the root itself"),
        pytest.param(".", "example", False, id="the root is below nothing"),
        pytest.param(
            r"x\003ads.example", "ads.example", False, id="a length octet within a label, RFC 2181 section 11"
        ),
        pytest.param(r"x\.ads.example", "ads.example", False, id="a dot within a label"),
        pytest.param(r"ads\007example\000.test", r"example\000.test", False, id="a zero octet within a label"),
    ],
)
def test_below_is_a_matter_of_labels_not_of_text(below: str, above: str, *, expected: bool) -> None:
    assert (from_text(above) in ancestry(from_text(below))) is expected


@thorough
@given(few, few)
def test_below_agrees_with_lists_of_labels(below: tuple[bytes, ...], above: tuple[bytes, ...]) -> None:
    expected = below[len(below) - len(above) :] == above if len(below) >= len(above) else False
    assert (labels_to_wire(above) in ancestry(labels_to_wire(below))) is expected


def test_ancestry_is_the_name_then_each_name_above_it() -> None:
    assert list(map(to_text, ancestry(from_text("a.b.example")))) == ["a.b.example", "b.example", "example", "."]
    assert list(ancestry(ROOT)) == [ROOT]


def test_the_root_is_its_own_parent() -> None:
    assert parent(from_text("a.example")) == from_text("example")
    assert parent(from_text("example")) == ROOT
    assert parent(ROOT) == ROOT
