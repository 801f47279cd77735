import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dnsfilter.core.names import from_text
from dnsfilter.core.rules import Match
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats import parse
from dnsfilter.lists.source import inline, read_file


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xff\0a.example\r\n")
    assert read_file(path) == b"\xff\0a.example\r\n"


def test_a_file_may_have_the_largest_size_and_not_one_octet_more(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"0123456789")
    assert len(read_file(path, max_size=10)) == 10
    with pytest.raises(BadList, match="larger than 9 octets"):
        read_file(path, max_size=9)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        pytest.param("missing", "does not exist", id="missing"),
        pytest.param("folder", "is a directory", id="a directory"),
        pytest.param("pipe", "not a regular file", id="a pipe without a writer"),
        pytest.param("folder/file/below", "cannot be read|does not exist", id="below nothing"),
        pytest.param("a" * 300, "cannot be read", id="a name too long"),
        pytest.param("a\0b", "cannot be read", id="a NUL in the path"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, part: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadList, match=part):
        read_file(tmp_path / name)


@contextmanager
def ordinary_user() -> Iterator[int]:
    """Be somebody whom permissions bind, also where root runs the tests."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield os.geteuid()
    finally:
        os.seteuid(user)


def test_a_file_without_permission_names_the_user(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.touch(mode=0)
    with ordinary_user() as user, pytest.raises(BadList, match=f"not readable for user {user}"):
        read_file(path)


def test_inline_names_are_a_list_whose_lines_are_their_positions() -> None:
    rules = parse(
        inline(["a.example", "bad\nname.example", "bücher.example", "\ud800.example"]), "domains", Match.SUFFIX
    )
    assert rules.suffix == [from_text("a.example"), from_text("bücher.example")]
    assert [skipped.line for skipped in rules.skipped] == [2, 4]


def test_no_inline_names_are_a_list_without_rules() -> None:
    with pytest.raises(BadList, match="has no rule"):
        parse(inline([]), "domains", Match.SUFFIX)
