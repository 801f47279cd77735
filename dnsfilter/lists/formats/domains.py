"""Format `domains`: one name a line. `*.` before it says the same as match: suffix.

Comments: a line that begins with `#` or `!`, and ` #` after a name.
"""

import re

from dnsfilter.core.names import Name
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.errors import BadLine
from dnsfilter.lists.formats import text

DEFAULT_MATCH = Match.SUFFIX
PLAIN = re.compile(b"(?:" + text.PLAIN_NAME + rb"\n)+")

_COMMENT = re.compile(rb"^\s*[#!]|\s#")


def plain_names(run: bytes) -> list[Name]:
    """Return the names of a run of lines that PLAIN matches."""
    return text.plain_names(run.lower().split())


def read(line: bytes, match: Match, rules: Rules) -> None:
    """Add the rule of one line, if it has one. Raises BadLine."""
    rule = text.decode(_COMMENT.split(line, maxsplit=1)[0])
    if not rule:
        return
    if len(rule.split(maxsplit=1)) > 1:
        raise BadLine("more than one word; write one name a line, and # before a comment")
    if rule.startswith("*."):
        # Lists disagree whether `*.x` covers x as well; for a ban the safe reading is that it does.
        rule, match = rule[2:], Match.SUFFIX
    if "*" in rule.replace("\\*", ""):
        raise BadLine("a * may only stand at the start, before a dot, as in *.host.example")
    text.names_of(rules, match).append(text.rule_name(rule))
