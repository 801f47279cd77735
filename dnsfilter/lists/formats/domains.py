"""Format `domains`: one name a line. `*.` before it says the same as match: suffix.

Comments: a line that begins with `#` or `!`, and ` #` after a name. A line may be a regular
expression too, if it says no more than a name does.
"""

import re

from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.errors import BadLine
from dnsfilter.lists.formats import regex, text
from dnsfilter.lists.formats.reader import Reader

_COMMENT = re.compile(rb"^\s*[#!]|\s#")


class Domains(Reader):
    default_match = Match.SUFFIX
    also_reads = ("regular expression",)
    plain = re.compile(b"(?:" + text.PLAIN_NAME + rb"\n)+")

    def take(self, run: bytes, rules: Rules) -> None:
        names = text.part(rules, self._kind)
        names += text.plain_names(run.lower().split())

    def read(self, line: bytes, rules: Rules) -> None:
        rule, kind = text.decode(_COMMENT.split(line, maxsplit=1)[0]), self._kind
        if not rule:
            return
        if regex.is_expression(rule):
            kind, name = regex.rule_of(rule)
            text.part(rules, kind).append(name)
            return
        if len(rule.split(maxsplit=1)) > 1:
            raise BadLine("more than one word; write one name a line, and # before a comment")
        if rule.startswith("*."):
            # Lists disagree whether `*.x` covers x as well; for a ban the safe reading is that it does.
            rule, kind = rule[2:], "suffix"
        if "*" in rule.replace("\\*", ""):
            raise BadLine("a * may only stand at the start, before a dot, as in *.host.example")
        text.part(rules, kind).append(text.rule_name(rule))
