"""Format `hosts`: an address, then names, as in /etc/hosts. The address is not used.

Comments: from `#` to the end of the line. What such files say of the machine itself
(`127.0.0.1 localhost`) is no rule and no error.
"""

import re

from dnsfilter.core.names import Name
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.errors import BadLine
from dnsfilter.lists.formats import text
from dnsfilter.lists.formats.reader import Reader

PLAIN_LINE = rb"(?:0\.0\.0\.0|127\.0\.0\.1|::1?)" + text.SPACE + rb"(?!localhost)" + text.PLAIN_NAME + rb"\n"

_BOILERPLATE = re.compile(r"localhost[46]?(?:\.localdomain[46]?)?|local|broadcasthost|ip6-[a-z]+", re.IGNORECASE)


class Hosts(Reader):
    default_match = Match.EXACT
    plain = re.compile(b"(?:" + PLAIN_LINE + b")+")

    def take(self, run: bytes, rules: Rules) -> None:
        names = text.part(rules, self._kind)
        names += plain_names(run)

    def read(self, line: bytes, rules: Rules) -> None:
        words = text.decode(line.split(b"#", maxsplit=1)[0]).split()
        if not words:
            return
        if not text.is_address(words[0]):
            raise BadLine("does not begin with an address; a hosts line is an address, then names")
        add_names(words, text.part(rules, self._kind))


def plain_names(run: bytes) -> list[Name]:
    """Return the names of a run of lines of the form PLAIN_LINE."""
    return text.plain_names(run.lower().split()[1::2])


def add_names(words: list[str], names: list[Name]) -> None:
    """Add the names of a line of words: an address, then names. Raises BadLine, after adding those that are right."""
    address, *hosts = words
    if not hosts:
        raise BadLine("an address without a name")
    text.add_all(names, [host for host in hosts if host != address and not _BOILERPLATE.fullmatch(host)], _name)


def _name(host: str) -> Name:
    if "*" in host:
        raise BadLine("hosts files have no wildcards; set match: suffix, or format: domains")
    return text.rule_name(host)
