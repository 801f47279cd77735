"""Format `hosts`: an address, then names, as in /etc/hosts. The address is not used.

Comments: from `#` to the end of the line. What such files say of the machine itself
(`127.0.0.1 localhost`) is no rule and no error.
"""

import re

from dnsfilter.core.names import Name
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.errors import BadLine
from dnsfilter.lists.formats import text

DEFAULT_MATCH = Match.EXACT
PLAIN = re.compile(rb"(?:(?:0\.0\.0\.0|127\.0\.0\.1|::1?)[ \t]++(?!localhost)" + text.PLAIN_NAME + rb"\n)+")

_BOILERPLATE = re.compile(r"localhost[46]?(?:\.localdomain[46]?)?|local|broadcasthost|ip6-[a-z]+", re.IGNORECASE)


def plain_names(run: bytes) -> list[Name]:
    """Return the names of a run of lines that PLAIN matches."""
    return text.plain_names(run.lower().split()[1::2])


def read(line: bytes, match: Match, rules: Rules) -> None:
    """Add the rules of one line, if it has any. Raises BadLine, after adding those that are right."""
    words = text.decode(line.split(b"#", maxsplit=1)[0]).split()
    if not words:
        return
    address, *hosts = words
    if not text.is_address(address):
        raise BadLine("does not begin with an address; a hosts line is an address, then names")
    if not hosts:
        raise BadLine("an address without a name")
    bad: BadLine | None = None
    for host in hosts:
        if host == address or _BOILERPLATE.fullmatch(host):
            continue
        try:
            if "*" in host:
                raise BadLine("hosts files have no wildcards; set match: suffix, or format: domains")
            text.names_of(rules, match).append(text.rule_name(host))
        except BadLine as error:
            bad = bad or BadLine(f"{text.shown(host.encode())}: {error}" if len(hosts) > 1 else str(error))
    if bad:
        raise bad
