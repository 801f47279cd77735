"""Lists against names that somebody else collected."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.index import Builder, Index
from dnsfilter.core.names import from_text
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats import parse
from dnsfilter.lists.score import Blocked, Score, score


def rules(text: str, format_name: str = "domains") -> Rules:
    return parse(text.encode(), format_name, Match.SUFFIX if format_name == "domains" else None)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def test_what_is_missed_and_what_is_blocked_too_much(tmp_path: Path) -> None:
    files = {
        "first.txt": "# a head\nwww.a.example\nA.example.\nb.example # why\nxa.example\nb.example\n",
        "more/second.txt": "c.example\n",
        "must-not-block.txt": "top.example\n# == cdn (2 names)\nx.a.example\nok.example\n# == more\nfine.example\n",
        "read-me.md": "a.example\n",
    }
    assert score([rules("a.example"), rules("b.example")], write(tmp_path, files)) == [
        Score("first.txt", "", True, names=4, blocked=3, offending=["xa.example"]),
        Score("more/second.txt", "", True, names=1, blocked=0, offending=["c.example"]),
        Score("must-not-block.txt", "", False, names=1, blocked=0),
        Score("must-not-block.txt", "cdn", False, names=2, blocked=1, offending=["x.a.example"]),
        Score("must-not-block.txt", "more", False, names=1, blocked=0),
    ]


def test_sections_are_of_files_of_names_that_must_stay_reachable_only(tmp_path: Path) -> None:
    files = {
        "seen.txt": "a.example\n# == more\nb.example\n",
        "must-not-block-2.txt": "# == none\n# == one\nc.example\n",
    }
    found = score([rules("a.example")], write(tmp_path, files))
    assert [(each.file, each.section, each.names) for each in found] == [
        ("must-not-block-2.txt", "one", 1),
        ("seen.txt", "", 2),
    ]


def test_a_line_that_is_no_name_is_counted_and_costs_no_other(tmp_path: Path) -> None:
    files = {"seen.txt": "\ufeffa.example\r\nb..example\r\n" + "x" * 64 + ".example\n\x1b[2J.a.example\n"}
    (found,) = score([rules("a.example")], write(tmp_path, files))
    assert (found.names, found.blocked, found.unread, found.offending) == (2, 2, 2, [])


def test_a_name_that_is_printed_is_safe_to_print(tmp_path: Path) -> None:
    (found,) = score([rules("a.example")], write(tmp_path, {"seen.txt": "\x1b[2J.b.example\n"}))
    assert found.offending == [r"\027\0912j.b.example"]


def test_the_share_is_recall_or_over_blocking(tmp_path: Path) -> None:
    files = {"seen.txt": "a.example\nb.example\nc.example\nx.a.example\n", "must-not-block.txt": "a.example\nd.example"}
    over, recall = score([rules("a.example")], write(tmp_path, files))
    assert (over.share, recall.share) == (0.5, 0.5)
    assert Score("none.txt", "", True).share == 0.0


@pytest.mark.parametrize("folder", ["", "missing"])
def test_a_directory_without_names_is_no_evidence(tmp_path: Path, folder: str) -> None:
    with pytest.raises(BadList, match=r"no \*\.txt files"):
        score([rules("a.example")], tmp_path / folder)


@pytest.mark.parametrize(
    ("asked", "is_blocked"),
    [
        pytest.param("a.example", True, id="the name"),
        pytest.param("x.a.example", True, id="a name below"),
        pytest.param("xa.example", False, id="same ending, other label"),
        pytest.param("example", False, id="a name above"),
        pytest.param("x.open.a.example", False, id="allowed nearer to it"),
        pytest.param("x.shut.open.a.example", True, id="and blocked again, nearer still"),
        pytest.param("b.example", False, id="above names that are blocked"),
        pytest.param("x.b.example", True, id="one of them"),
        pytest.param("x.exact.example", False, id="below a name that is blocked alone"),
    ],
)
def test_what_is_said_nearer_to_a_name_decides(asked: str, is_blocked: bool) -> None:
    listed = Rules(
        exact=[from_text("exact.example")],
        suffix=[from_text("a.example"), from_text("shut.open.a.example")],
        below=[from_text("b.example")],
        allow_suffix=[from_text("open.a.example")],
    )
    assert Blocked(listed).blocks(from_text(asked)) is is_blocked


def test_what_one_list_allows_another_may_block(tmp_path: Path) -> None:
    lists = [rules("||a.example^\n@@||b.a.example^", "adblock"), rules("b.a.example")]
    (found,) = score(lists, write(tmp_path, {"seen.txt": "b.a.example\n"}))
    assert found.blocked == 1


labels = st.sampled_from(["a", "b"])  # few, so that hits happen
names = st.lists(labels, min_size=1, max_size=4).map(".".join).map(from_text)
some = st.lists(names, max_size=3)
every = st.builds(Rules, some, some, some, some, some, some)


@given(listed=every, asked=names)
def test_what_counts_as_blocked_is_what_the_index_blocks(listed: Rules, asked: bytes) -> None:
    builder = Builder()
    builder.block(0, listed)
    assert Blocked(listed).blocks(asked) is bool(Index(builder.chunks()).hit(asked).blocks)
