"""Regular expressions in lists, against what they match: each is run here, and nowhere else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.names import ancestry, from_text
from dnsfilter.lists.errors import BadLine
from dnsfilter.lists.formats.regex import is_expression, rule_of
from dnsfilter.lists.formats.text import Kind
from tests.core.make import many

NAME = r"app\.example"


@pytest.mark.parametrize("slashes", [True, False])
@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        (rf"(^|\.){NAME}$", "suffix"),
        (rf"(\.|^){NAME}$", "suffix"),
        (rf"(?:^|\.){NAME}$", "suffix"),
        (rf"^(.*\.)?{NAME}$", "suffix"),
        (rf"^(.+\.)?{NAME}$", "suffix"),
        (rf"^(?:.+\.)?{NAME}$", "suffix"),
        (rf"^{NAME}$", "exact"),
        (rf"\.{NAME}$", "below"),
        (r"(^|\.)APP\.Example$", "suffix"),
    ],
)
def test_an_expression_with_the_shape_of_a_rule(expression: str, kind: str, *, slashes: bool) -> None:
    written = f"/{expression}/" if slashes else expression
    assert slashes or expression.startswith("\\") or is_expression(written)
    assert rule_of(written) == (kind, from_text("app.example"))


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        pytest.param(rf"{NAME}$", "anchored on the left, and would match notapp.example too", id="no left end"),
        pytest.param(NAME, "anchored on the left", id="no end at all"),
        pytest.param(rf"^{NAME}", "anchored on the right, and would match app.example.other too", id="no right end"),
        pytest.param(rf"(^|\.){NAME}", "anchored on the right", id="no right end of a suffix"),
        pytest.param(r"^app.example$", "a dot that is not escaped stands for any character", id="a loose dot"),
        pytest.param(r"(^|\.)a\.b.example$", "a dot that is not escaped", id="one loose dot among others"),
        pytest.param(r"^app[0-9]+\.example$", "not supported; write names", id="a range"),
        pytest.param(r"^(a+)+$", "not supported; write names", id="nested quantifiers"),
        pytest.param(r".*", "not supported; write names", id="everything"),
        pytest.param(r"", "not supported; write names", id="nothing"),
        pytest.param(r"^$", "not supported; write names", id="the empty name"),
        pytest.param(r"(^|\.)$", "not supported; write names", id="the root"),
        pytest.param(r"^(app|web)\.example$", "not supported; write names", id="alternatives"),
        pytest.param(r"^app\.example\.$", "not supported; write names", id="a final dot, which no name has"),
        pytest.param(r"^app\\.example$", "not supported; write names", id="an escaped backslash"),
        pytest.param(r"(?!x)app\.example$", "not supported; write names", id="a look around"),
        pytest.param(r"^café\.example$", "not supported; write names", id="a letter that no query has"),
        pytest.param("x" * 300 + "$", "anchored on the left", id="a long name"),
    ],
)
def test_any_other_expression_is_no_rule_and_says_why(expression: str, part: str) -> None:
    with pytest.raises(BadLine) as caught:
        rule_of(f"/{expression}/")
    assert part in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        pytest.param(r"(^|\.)example$", "less than two labels", id="a top-level domain"),
        pytest.param(r"^192\.0\.2\.1$", "an address", id="an address"),
        pytest.param(rf"^{'x' * 64}\.example$", "63 is the most", id="a label too long"),
    ],
)
def test_an_expression_may_name_no_more_than_a_name_may(expression: str, part: str) -> None:
    with pytest.raises(BadLine, match=part):
        rule_of(expression)


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("/", False),
        ("//", True),
        ("/a/", True),
        ("/a", False),
        ("a/", False),
        ("", False),
        ("app.example", False),
        ("^a", True),
        ("a$", True),
        ("(a)", True),
    ],
)
def test_what_is_taken_for_an_expression(line: str, *, is_one: bool) -> None:
    assert is_expression(line) is is_one


# Pieces of which many together have the shape of a rule, and names that are close to it.
pieces = st.sampled_from(
    [r"(^|\.)", "^(.*\\.)?", "^", r"\.", "a", "b", r"a\.b", r"\.a", ".", "$", "$", "|", "(", ")", "+"]
)
expressions = st.lists(pieces, min_size=1, max_size=5).map("".join)
ASKED = [
    "a.b",
    "a.a.b",
    "b.a.b",
    "x.y.a.b",
    "xa.b",
    "a.bx",
    "a.b.x",
    "axb",
    "b.a",
    "a.a",
    "x.a.a",
    "ba.b",
    "a.b.a",
    "b",
]


@many
@given(expression=expressions)
def test_a_rule_matches_what_its_expression_matches(expression: str) -> None:
    try:
        kind, name = rule_of(expression)
    except BadLine:
        return
    pattern = re.compile(expression)
    for asked in ASKED:
        assert covers(kind, name, from_text(asked)) is (pattern.search(asked) is not None), asked


def covers(kind: Kind, name: bytes, asked: bytes) -> bool:
    if asked == name:
        return kind != "below"
    return kind != "exact" and name in ancestry(asked)
