"""Regular expressions of lists: those that mean a name and what is below it, and why any other is no rule.

No expression of a list is ever run. One that has the shape of a rule becomes that rule, as in the style of
Pi-hole and AdGuard Home: `(^|\\.)name$` is a suffix.
"""

import re

from dnsfilter.core.names import Name
from dnsfilter.lists.errors import BadLine
from dnsfilter.lists.formats.text import Kind, rule_name, shown

_LABEL = r"[A-Za-z0-9_-]++"
_NAME = rf"(?P<name>{_LABEL}(?:\\\.{_LABEL})*+)"
_LOOSE = rf"(?P<name>{_LABEL}(?:\\?\.{_LABEL})*+)"  # where a dot may stand for any character
_ANY_LEFT = r"(?:\((?:\?:)?(?:\^\|\\\.|\\\.\|\^)\)|\^\((?:\?:)?\.[*+]\\\.\)\?)"  # (^|\.)  (\.|^)  ^(.*\.)?  ^(.+\.)?

_SHAPES: tuple[tuple[str, Kind], ...] = ((_ANY_LEFT, "suffix"), (r"\^", "exact"), (r"\\\.", "below"))
_RULES = tuple((re.compile(left + _NAME + r"\$"), kind) for left, kind in _SHAPES)
_LOOSE_RULE = re.compile(rf"(?:{'|'.join(left for left, _ in _SHAPES)}){_LOOSE}\$")
_NO_LEFT_END = re.compile(_LOOSE + r"\$?")
_NO_RIGHT_END = re.compile(rf"(?:{'|'.join(left for left, _ in _SHAPES)}){_LOOSE}")


def is_expression(text: str) -> bool:
    """Tell whether text is an expression: between slashes, or as only an expression begins or ends."""
    return _has_slashes(text) or text.startswith(("^", "(")) or text.endswith("$")


def rule_of(text: str) -> tuple[Kind, Name]:
    """Return the rule that an expression states, with or without slashes around. Raises BadLine."""
    if _has_slashes(text):
        text = text[1:-1]
    for pattern, kind in _RULES:
        if found := pattern.fullmatch(text):
            return kind, rule_name(found["name"].replace("\\", ""))
    raise BadLine(_why(text))


def _has_slashes(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] == "/"


def _why(text: str) -> str:
    if _LOOSE_RULE.fullmatch(text):
        return "a dot that is not escaped stands for any character; write \\. or the name itself"
    if found := _NO_LEFT_END.fullmatch(text):
        name = shown(found["name"].replace("\\", "").encode(), limit=40)
        return f"it is not anchored on the left, and would match not{name} too; write the name itself: {name}"
    if found := _NO_RIGHT_END.fullmatch(text):
        name = shown(found["name"].replace("\\", "").encode(), limit=40)
        return f"it is not anchored on the right, and would match {name}.other too; write the name itself: {name}"
    return "regular expressions are not supported; write names"
