"""Which syntax a line is written in when it is not that of its list; for hints only."""

import re
from collections import Counter
from collections.abc import Iterable

from dnsfilter.lists.formats.text import is_address

_SYNTAXES = {
    "dnsmasq": re.compile(r"(?:address|server|local|ipset|nftset|rebind-domain-ok)\s*=\s*/|(?:bogus-nx|conf-)\w+="),
    "regular expression": re.compile(r"/.*/$|\(?\^|.*\(\^\|\\\."),
    "adblock": re.compile(r"\|\||@@|\|https?:|\[Adblock|[^ ]*#[@?$%]?#|[^ ]*\^(?:$|[$|])", re.IGNORECASE),
    "rpz": re.compile(
        r"\$(?:TTL|ORIGIN|INCLUDE|GENERATE)\b|\S*\s+(?:(?:\d+|IN)\s+){0,2}(?:CNAME|A|AAAA|TXT|SOA|NS)\s", re.IGNORECASE
    ),
    "html": re.compile(r"</?[a-z!]", re.IGNORECASE),
    "url": re.compile(r"[a-z]+://[^ ]", re.IGNORECASE),
    "domains": re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.[a-z][a-z0-9_-]*\.?$", re.IGNORECASE),
}


def of_line(line: str) -> str | None:
    """Return the name of the syntax that the line looks like; None: none that is known."""
    address, *names = line.split(maxsplit=1)[:2] or [""]
    if names and is_address(address) and not _SYNTAXES["rpz"].match(line):
        return "hosts"
    return next((name for name, pattern in _SYNTAXES.items() if pattern.match(line)), None)


def of_lines(lines: Iterable[str]) -> str | None:
    """Return the syntax that most of the lines look like, if any."""
    found = Counter(filter(None, map(of_line, lines)))
    return found.most_common(1)[0][0] if found else None
