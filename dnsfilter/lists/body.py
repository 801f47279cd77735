"""The body of a response to the octets of a list: all of it, no more than allowed, unpacked."""

import codecs
import zlib
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from typing import TypeAlias

from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats.text import shown

PLAIN, GZIP = frozenset({"", "identity"}), frozenset({"gzip", "x-gzip"})  # content codings, RFC 9110 section 8.4.1
MAGIC = b"\x1f\x8b"  # what a gzip file begins with, RFC 1952 section 2.3.1
MEMBERS = 65_536  # of one gzip file; tools that cut a file into many make one of each 64 kB
_STEP = 65_536  # octets handed to zlib, and taken from it, at a time
_WITH_GZIP_HEAD = 31  # zlib's way to say so
_PAGES = frozenset({"text/html", "application/xhtml+xml"})

Tell: TypeAlias = Callable[[int, int | None], None]  # octets that have come; of how many, where that is known


class CutShort(BadList):
    """Less came than there is; the rest may come another time."""


async def read(chunks: AsyncIterator[bytes], coding: str, length: int | None, max_size: int, tell: Tell) -> bytes:
    """Return a body without its Content-Encoding, `max_size` octets at most. Raises BadList, of it CutShort.

    coding, length: what Content-Encoding and Content-Length say; None: nothing.
    """
    coding = coding.strip().lower()
    if coding not in PLAIN | GZIP:
        raise BadList(f"is sent in the content coding '{shown(coding.encode(), 30)}', which was not asked for")
    if length is not None and length > max_size:
        raise _too_large(max_size)
    body = BytesIO()  # gives its content away without a copy, unlike bytearray
    async for chunk in chunks:
        body.write(chunk)
        if body.tell() > max_size:
            raise _too_large(max_size)
        tell(body.tell(), length)
    if length is not None and body.tell() < length:
        raise CutShort(f"is cut short: {body.tell()} of {length} octets came")
    octets = body.getvalue()
    return gunzip(octets, max_size) if octets and coding in GZIP else octets


def unpacked(published: bytes, max_size: int) -> bytes:
    """Return what a file holds: of a gzip file its content, of any other itself. Raises BadList, of it CutShort."""
    return gunzip(published, max_size) if published.startswith(MAGIC) else published


def gunzip(packed: bytes, max_size: int) -> bytes:
    """Unpack gzip members, one behind the other (RFC 1952). Raises BadList, of it CutShort.

    However much is packed, it is unpacked to `max_size` octets and one more at the most.
    """
    out, inflater, members = BytesIO(), zlib.decompressobj(_WITH_GZIP_HEAD), 1
    for at in range(0, len(packed), _STEP):
        piece = packed[at : at + _STEP]
        while piece:
            if inflater.eof:
                piece = piece.lstrip(b"\0")  # padding, which gzip(1) ignores too
                if not piece:
                    break
                inflater, members = zlib.decompressobj(_WITH_GZIP_HEAD), members + 1
                if members > MEMBERS:
                    raise BadList(f"is a gzip file of more than {MEMBERS} members; pack it as one")
            try:
                out.write(inflater.decompress(piece, min(_STEP, max_size + 1 - out.tell())))
            except zlib.error:
                raise BadList(
                    "is said to be gzip and is not, or is damaged; see what the server really sends"
                ) from None
            if out.tell() > max_size:
                raise _too_large(max_size)
            piece = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    if not inflater.eof:
        raise CutShort("is cut short: the gzip data have no end")
    return out.getvalue()


def check(octets: bytes, content_type: str = "") -> None:
    """Raise BadList for nothing at all and for a web page, of a portal or a login. No list begins with `<`."""
    if not octets:
        raise BadList("is empty; has the list moved?")
    begin = octets[:1024].removeprefix(codecs.BOM_UTF8).lstrip()
    if content_type.partition(";")[0].strip().lower() in _PAGES or begin.startswith(b"<"):
        remedy = "look for the address of the plain text file, and for a portal that asks for a login on the way there"
        raise BadList(f"is a web page, not a list; {remedy}")


def _too_large(max_size: int) -> BadList:
    return BadList(f"is larger than {max_size} octets; is it the right file? max_size says how large a list may be")
