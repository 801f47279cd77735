"""What an author of lists is told."""

import time

import pytest

from dnsfilter.core.rules import Match
from dnsfilter.lists.guards import Guards
from dnsfilter.lists.lint import MOST, Finding, Kind, Listed, lint

GUARDS = Guards()
WHY, AGAIN = " # owned; v2fly", "repeated"

SPELLED = "'|' is no part of a host name; in a name from a log write it \\DDD"


def listed(name: str, text: str, format_name: str = "domains") -> Listed:
    return Listed(name, text.encode(), format_name, Match.SUFFIX if format_name == "domains" else None)


def found(*lists: Listed, known: tuple[str, ...] = ()) -> list[tuple[str, int, str]]:
    return [(each.list_name, each.line, each.kind) for each in lint(lists, GUARDS, known).findings]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a.example # why\nb.example # why\n", [], id="nothing to say"),
        pytest.param("a.example # x\nb.example # x\na.example # x\n", [(3, AGAIN)], id="twice"),
        pytest.param(
            "a.example # x\nA.Example. # x\n*.a.example # x\n", [(2, "repeated"), (3, "repeated")], id="again"
        ),
        pytest.param("a.example # x\nwww.a.example # x\n", [(2, "redundant")], id="a name below another"),
        pytest.param("www.a.example # x\na.example # x\n", [(1, "redundant")], id="whatever the order"),
        pytest.param("a.example # x\nxa.example # x\n", [], id="same ending, other label"),
        pytest.param("a.example # x\nb.example\n", [(2, "no evidence")], id="one entry without a reason"),
        pytest.param("a.example # x\nb.example # \n", [(2, "no evidence")], id="an empty reason"),
        pytest.param("# head\na.example\nb.example\n", [(0, "no evidence")], id="no entry has one"),
        pytest.param("a.example # x\r\n# head\r\nb.example\r\n", [(3, "no evidence")], id="lines of Windows"),
        pytest.param("a.example # x\nbad line\n", [(2, "skipped")], id="a line that is no rule"),
        pytest.param(
            "a.example # x\nco.uk # x\nakamai.net # x\n", [(2, "skipped"), (3, "skipped")], id="guarded names"
        ),
        pytest.param("# nothing\n", [(0, "unusable")], id="no list"),
        pytest.param("xtiktok.example # x\n", [(1, "misplaced")], id="named after another list"),
    ],
)
def test_what_is_said_of_one_list(text: str, expected: list[tuple[int, str]]) -> None:
    assert [(line, kind) for _, line, kind in found(listed("ban", text), known=("tiktok", "vk"))] == expected


def test_a_finding_says_what_of_which_name_and_line() -> None:
    text = f"# head\na.example{WHY}\nx.a.example{WHY}\na.example{WHY}\n|{WHY}\nco.uk{WHY}\n"
    assert lint([listed("ban", text)], GUARDS).findings == [
        Finding(Kind.REDUNDANT, "ban", 3, "x.a.example", "is covered by a.example"),
        Finding(Kind.REPEATED, "ban", 4, "a.example", "is in this list already, line 2"),
        Finding(Kind.SKIPPED, "ban", 5, f"|{WHY}", SPELLED),
        Finding(Kind.SKIPPED, "ban", 6, "co.uk", "a public suffix: all that is registered under it would go"),
    ]


def test_a_name_in_two_lists_is_said_of_the_second() -> None:
    first, second = listed("one", f"a.example{WHY}\n"), listed("two", f"b.example{WHY}\na.example{WHY}\n")
    report = lint([first, second], GUARDS)
    assert report.findings == [Finding(Kind.IN_TWO_LISTS, "two", 2, "a.example", "is in list 'one' too")]


def test_findings_stand_in_the_order_of_lists_and_lines() -> None:
    texts = {
        "two": f"x.b.example{WHY}\nbad line\nb.example{WHY}\n",
        "one": f"c.example\nd.example{WHY}\nc.example{WHY}\n",
    }
    assert found(*(listed(name, text) for name, text in texts.items())) == [
        ("two", 1, "redundant"),
        ("two", 2, "skipped"),
        ("one", 1, "no evidence"),
        ("one", 3, "repeated"),
    ]


def test_the_name_of_a_list_is_a_hint_only_where_it_is_long_enough_and_not_ones_own() -> None:
    lists = (
        listed("vk", f"vk.example{WHY}\n"),
        listed("tiktok", f"vk-tiktok.example{WHY}\ntiktok-bytedance.example{WHY}\n"),
        listed("bytedance-ads", f"bytedance.example{WHY}\n"),
    )
    assert found(*lists, known=("bytedance",)) == []


def test_a_name_of_two_labels_that_together_read_like_a_list_is_not_named_after_it() -> None:
    assert found(listed("ban", f"tik.tok.example{WHY}\n"), known=("tiktok",)) == []


@pytest.mark.parametrize(
    ("format_name", "text", "expected"),
    [
        pytest.param("adblock", "||a.example^\n||x.a.example^\n", [(2, "redundant")], id="adblock"),
        pytest.param("hosts", "0.0.0.0 a.example b.example\n0.0.0.0 b.example\n", [(2, "repeated")], id="hosts"),
        pytest.param("hosts", "0.0.0.0 a.example\n0.0.0.0 x.a.example\n", [], id="hosts mean themselves alone"),
        pytest.param(
            "rpz", "a.example CNAME .\n*.a.example CNAME .\nx.a.example CNAME .\n", [(3, "redundant")], id="rpz"
        ),
        pytest.param(
            *("rpz", "*.a.example CNAME .\n*.b.a.example CNAME rpz-passthru.\nc.b.a.example CNAME .\n", []),
            id="an exception between two rules",
        ),
    ],
)
def test_other_formats_are_read_by_their_own_rules_and_need_no_reasons(
    format_name: str, text: str, expected: list[tuple[int, str]]
) -> None:
    assert [(line, kind) for _, line, kind in found(listed("ban", text, format_name))] == expected


def test_what_stands_in_the_configuration_is_meant_and_has_no_room_for_reasons() -> None:
    written = Listed("ban", b"a.example\ngithub.io\nco.uk\n", "domains", Match.SUFFIX, is_written=True)
    assert found(written) == [("ban", 3, "skipped")]


def test_findings_are_bounded_and_all_are_counted() -> None:
    text = f"up.example{WHY}\n" + "".join(f"n{number:05}.up.example\n" for number in range(50_000))
    begun = time.process_time()
    report = lint([listed("ban", text)], GUARDS)
    assert time.process_time() - begun < 10  # takes a fraction of a second
    assert report.counts == {("ban", Kind.REDUNDANT): 50_000, ("ban", Kind.NO_EVIDENCE): 50_000}
    assert len(report.findings) == 2 * MOST
    assert {each.line for each in report.findings} == set(range(2, MOST + 2))  # the first


def test_one_name_over_and_over_is_bounded_too() -> None:
    report = lint([listed("ban", f"a.example{WHY}\n" * 5_000)], GUARDS)
    assert (report.counts["ban", Kind.REPEATED], len(report.findings)) == (4_999, MOST)
