"""What all formats share: octets to lines, words to names, and plain lines by the thousand.

A line is plain when it needs no judgement: letters, digits, `-` and `_` in labels, and
a name of right length. One regular expression finds runs of such lines; in each line
it reads 253 characters at most and gives none back (possessive), so hostile lists cost
linear time. White space in plain lines is bounded, too: see MAX_LINE.
"""

import codecs
import ipaddress
import re
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from dnsfilter.core.names import MAX_LABEL, ROOT, BadName, Name, from_text, parent
from dnsfilter.core.rules import Rules
from dnsfilter.lists.errors import BadLine, BadList

MAX_LINE = 65_536  # octets; what is longer was never meant to be read
Kind: TypeAlias = Literal["exact", "suffix", "below"]  # what a rule covers, as the parts of Rules are called
KINDS: tuple[Kind, ...] = get_args(Kind)

# Two labels or more, 253 characters at most (255 octets as a name). The last label starts
# with a letter, so that no address looks like a name.
PLAIN_NAME = rb"(?=[^\n]{3,253}+\n)(?:[A-Za-z0-9_-]{1,63}+\.)++[A-Za-z][A-Za-z0-9_-]{0,62}+"
SPACE = rb"[ \t]{1,64}+"  # between the words of a plain line

_LENGTH_OCTETS = [bytes([length]) for length in range(MAX_LABEL + 1)]
_LONGEST_TEXT = 1024  # characters; a name of 255 octets, each written \DDD, has fewer
_WRITTEN = re.compile(r"\\[^\x00-\x1f\x7f]|[A-Za-z0-9._\x80-\U0010ffff-]")  # what a name is written with
_COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_HTML = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)


def to_lines(octets: bytes) -> bytes:
    """Return UTF-8 octets whose lines all end in one newline, without a byte order mark.

    Raises BadList for what is no list of lines at all.
    """
    if octets.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            octets = octets.decode("utf-16").encode()
        except UnicodeDecodeError:
            raise BadList("the encoding is not readable: begins like UTF-16 but is not; save it as UTF-8") from None
    octets = octets.removeprefix(codecs.BOM_UTF8)
    if octets.startswith(_COMPRESSED):
        raise BadList("the file is compressed; unpack it first")
    if _HTML.match(octets):
        raise BadList("this is a web page (HTML), not a list; look for the address of the plain text file")
    if b"\r" in octets:
        octets = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return octets if octets.endswith(b"\n") else octets + b"\n"


def plain_names(words: list[bytes]) -> list[Name]:
    """Return the names that words of the form PLAIN_NAME in lower case write."""
    length_octets = _LENGTH_OCTETS  # a local name: this is the hot loop of a build
    return [b"".join([length_octets[len(label)] + label for label in word.split(b".")]) + b"\0" for word in words]


def decode(octets: bytes) -> str:
    """Return the text of a line whose comment is gone, without white space around it. Raises BadLine."""
    try:
        return octets.decode().strip()
    except UnicodeDecodeError as error:
        raise BadLine(f"the byte \\x{octets[error.start]:02x} is not UTF-8; save the list as UTF-8") from None


def rule_name(word: str) -> Name:
    """Return the name that a rule writes. Raises BadLine for what no rule may name.

    Other characters than letters, digits, `-` and `_` count only as RFC 1035 escapes,
    the way logs show them: unescaped they are the sign of another syntax.
    """
    if is_address(word.removesuffix(".")):
        raise BadLine("an address, not a name; DNS is asked for names")
    if len(word) > _LONGEST_TEXT:
        raise BadLine(f"{len(word)} characters, too long for a name")
    if strange := _WRITTEN.sub("", word):
        raise BadLine(f"'{shown(strange[0].encode())}' is no part of a host name; in a name from a log write it \\DDD")
    try:
        name = from_text(word)
    except BadName as error:
        raise BadLine(str(error)) from None
    return bounded(name)


def bounded(name: Name) -> Name:
    """Return the name, if a rule may name so much. Raises BadLine."""
    if parent(name) == ROOT:
        raise BadLine("less than two labels; a whole top-level domain is too much to block")
    return name


def add_all(names: list[Name], words: list[str], read: Callable[[str], Name] = rule_name) -> None:
    """Add the names that words write. One bad word does not cost the others: raises the first BadLine at the end."""
    bad: BadLine | None = None
    for word in words:
        try:
            names.append(read(word))
        except BadLine as error:
            bad = bad or BadLine(f"{shown(word.encode())}: {error}" if len(words) > 1 else str(error))
    if bad:
        raise bad


def is_address(word: str) -> bool:
    """Tell whether the word is an IPv4 or IPv6 address, with or without a zone (`fe80::1%lo0`)."""
    if ":" not in word and not word[-1:].isdigit():
        return False  # soon known of most names; the exception below is slow
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


def part(rules: Rules, kind: Kind, *, allows: bool = False) -> list[Name]:
    """Return the part of the rules that a name belongs to, to add to it."""
    found: list[Name] = getattr(rules, f"allow_{kind}" if allows else kind)
    return found


def shown(octets: bytes, limit: int = 60) -> str:
    """Return a line as short text that is safe in a terminal or a log: what does not print is `\\x1b`."""
    text = octets.strip()[: 4 * limit].decode(errors="backslashreplace")  # a character has four octets at most
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return safe if len(safe) <= limit else safe[:limit] + "..."
