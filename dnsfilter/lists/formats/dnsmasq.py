"""Format `dnsmasq`: the lines of dnsmasq's configuration by which it answers names itself, or lets them pass.

`address=/a.example/0.0.0.0`, `server=/a.example/` and `local=/a.example/` block a name and all
below it; the address is not used. `server=/a.example/#` lets them pass: dnsmasq's way to make
an exception. As there, the longest name decides.
"""

import re

from dnsfilter.core.names import Name
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.errors import BadLine
from dnsfilter.lists.formats import text
from dnsfilter.lists.formats.reader import Reader

_COMMENT = re.compile(rb"(?:^|\s)#")
_TARGET = rb"(?:0\.0\.0\.0|127\.0\.0\.1|::1?|#)?"
_READ = ("address", "server", "local")


class Dnsmasq(Reader):
    default_match = Match.SUFFIX
    plain = re.compile(
        rb"(?:(?:address=/%(name)b/%(target)b|(?:server|local)=/%(name)b/)\n)+"
        % {b"name": text.PLAIN_NAME, b"target": _TARGET}
    )

    def take(self, run: bytes, rules: Rules) -> None:
        names = text.part(rules, self._kind)
        names += text.plain_names(run.lower().split(b"/")[1::2])

    def read(self, line: bytes, rules: Rules) -> None:
        statement = text.decode(_COMMENT.split(line, maxsplit=1)[0])
        if not statement:
            return
        option, sign, value = (word.strip() for word in statement.partition("="))
        if option not in _READ or not sign:
            raise BadLine(
                f"{text.shown(option.encode(), 30)} says nothing of blocking; address=, server= and local= do"
            )
        if not value.startswith("/") or value.count("/") < 2:
            raise BadLine("no name between slashes, as in local=/name/; it is about every name")
        *names, target = value[1:].split("/")
        allows = _allows(option, target)
        text.add_all(text.part(rules, self._kind, allows=allows), names, _name)


def _allows(option: str, target: str) -> bool:
    """Tell whether a line with this target lets names pass or blocks them. Raises BadLine where it does neither."""
    if option == "address":
        if target in ("", "#") or text.is_address(target):
            return False
        raise BadLine(f"'{text.shown(target.encode(), 30)}' behind the last slash is no address")
    if target in ("", "#"):
        return target == "#"
    raise BadLine("it sends these names to another resolver; `forward` in the configuration does that")


def _name(word: str) -> Name:
    """Return a name between slashes. A dot before it means nothing."""
    if word == "#":
        raise BadLine("it stands for every name")
    if not word:
        raise BadLine("it stands for all names without a dot")
    if "*" in word:
        raise BadLine("a * is not read; a name covers all names below it")
    return text.rule_name(word.lstrip("."))
