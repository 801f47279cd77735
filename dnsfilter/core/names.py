"""The name: its folded wire form, to and from text, and its limits. Knows no rules.

A folded name is what the whole program passes around: lower-case wire octets,
uncompressed, the root octet last (RFC 1035 section 3.1, RFC 4343).
"""

from collections.abc import Iterator
from typing import TypeAlias

import idna

Name: TypeAlias = bytes

ROOT: Name = b"\0"
MAX_NAME = 255  # octets, the length octets and the root's included (RFC 1035 section 2.3.4)
MAX_LABEL = 63
LONGEST_REASON = 200  # characters of what `idna` says, which repeats the label

# Octets that stand for themselves in text. All others are written \DDD (RFC 1035 section 5.1), so
# that every name in a log is safe to print and can be pasted into a list.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_OTHER_DOTS = str.maketrans("\u3002\uff0e\uff61", "...")  # UTS 46 section 4 takes them for dots


class BadName(ValueError):
    """Text that is not a domain name; the message says why, for an admin."""


def from_text(text: str) -> Name:
    """Return the folded name that `text` writes, with or without its final dot.

    Reads RFC 1035 section 5.1 escapes (`\\.`, `\\065`) and turns labels that are not
    ASCII into A-labels (IDNA 2008 with UTS 46 mapping). Raises BadName.
    """
    if text == ".":
        return ROOT
    parts: list[bytes] = []
    for label in _split(text.translate(_OTHER_DOTS)):
        octets = _label_octets(label)
        if not octets:
            raise BadName("an empty label: two dots in a row, or one at the start")
        if len(octets) > MAX_LABEL:
            raise BadName(f"a label of {len(octets)} octets; {MAX_LABEL} is the most")
        parts.append(bytes([len(octets)]) + octets)
    name = b"".join(parts).lower() + b"\0"
    if len(name) > MAX_NAME:
        raise BadName(f"a name of {len(name)} octets; {MAX_NAME} is the most")
    return name


def _split(text: str) -> list[str]:
    """Cut at dots that no backslash escapes; the escapes stay in the labels."""
    if not text:
        raise BadName("no name at all")
    labels, start, at = [], 0, 0
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if text[at] == ".":
            labels.append(text[start:at])
            start = at + 1
        at += 1
    if start < len(text):
        labels.append(text[start:])
    return labels


def _label_octets(label: str) -> bytes:
    if not label.isascii():
        try:
            octets = idna.encode(label, uts46=True)
        except (idna.IDNAError, UnicodeError) as error:
            raise BadName(f"a label that has no IDNA form: {str(error)[:LONGEST_REASON]}") from None
        if b"." in octets:
            raise BadName("a label that would become several")
        return octets
    if "\\" not in label:
        return label.encode("ascii")
    found, at = bytearray(), 0
    while at < len(label):
        if label[at] != "\\":
            found.append(ord(label[at]))
            at += 1
        elif (digits := label[at + 1 : at + 4]).isdigit() and len(digits) == 3 and int(digits) < 256:
            found.append(int(digits))
            at += 4
        elif at + 1 < len(label) and not label[at + 1].isdigit():
            found.append(ord(label[at + 1]))
            at += 2
        else:
            raise BadName("a backslash that escapes nothing; write three digits or a character after it")
    return bytes(found)


def to_text(name: bytes) -> str:
    """Return the name as text without its final dot, the root as ".".

    Whatever is not plain is written \\DDD, so that the text is safe in logs and
    terminals and can be read back by `from_text`.
    """
    return ".".join("".join(map(_octet_text, label)) for label in labels(name)) or "."


def _octet_text(octet: int) -> str:
    return chr(octet) if octet in _PLAIN else f"\\{octet:03d}"


def labels(name: Name) -> Iterator[bytes]:
    """Yield the labels from the leftmost on, without the root's."""
    at = 0
    while length := name[at]:
        yield name[at + 1 : at + 1 + length]
        at += 1 + length


def parent(name: Name) -> Name:
    """Return the name without its leftmost label; the root is its own parent."""
    return name[name[0] + 1 :] or ROOT


def is_within(name: Name, zone: Name) -> bool:
    """Tell whether a name is `zone` itself or below it, at a label boundary. Both folded."""
    at, cut = 0, len(name) - len(zone)
    if not name.endswith(zone):
        return False
    while at < cut:
        at += 1 + name[at]
    return at == cut


def ancestry(name: Name) -> Iterator[Name]:
    """Yield the name itself, then each name above it, the root last."""
    while name != ROOT:
        yield name
        name = parent(name)
    yield ROOT
