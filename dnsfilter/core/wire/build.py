"""Building messages: the header of a response, OPT records, and queries for upstreams."""

from dnsfilter.core.wire import codes
from dnsfilter.core.wire.query import Query

_OPT_START = b"\0\0\x29" + codes.UDP_SIZE.to_bytes(2, "big")
_PLAIN_OPT = _OPT_START + bytes(6)
_PLAIN_OPT_DO = _OPT_START + bytes((0, 0, codes.DO, 0, 0, 0))
_PADDING, _BLOCK = 12, 128  # the option's code, and what lengths are multiples of


def header_error(message: bytes, rcode: int) -> bytes:
    """Answer a query that cannot be read: id, opcode and RD copied, all counts 0."""
    return message[:2] + bytes((codes.QR | message[2] & 0x79, codes.RA | rcode)) + bytes(8)


def response(
    query: Query, rcode: int, counts: bytes = bytes(6), body: bytes = b"", *, flags: int = 0, flags2: int = 0
) -> bytes:
    """Return header, the question as asked, and `body`, followed by OPT if the query had one.

    counts: ANCOUNT, NSCOUNT and ARCOUNT of body, two octets each.
    flags, flags2: bits to set besides QR, RA and those copied from the query (TC; AD).
    """
    return respond(query, rcode, counts, body, opt(query, rcode), flags, flags2)


def respond(
    query: Query, rcode: int, counts: bytes, body: bytes, opt_record: bytes, flags: int = 0, flags2: int = 0
) -> bytes:
    """As `response`, with an OPT record made before (empty: none)."""
    if opt_record:
        counts = counts[:4] + (int.from_bytes(counts[4:], "big") + 1).to_bytes(2, "big")
    bits = bytes((codes.QR | query.flags | flags, codes.RA | query.flags2 & codes.CD | flags2 | rcode & 15))
    asked = query.question
    return b"".join((query.id, bits, b"\0\1" if asked else b"\0\0", counts, asked, body, opt_record))


def opt(query: Query, rcode: int = codes.NOERROR, options: bytes = b"") -> bytes:
    """Return the OPT record for an answer; empty if the query had none (RFC 6891 section 7)."""
    edns = query.edns
    if edns is None:
        return b""
    options += edns.reply
    if rcode < 16 and not options:
        return _PLAIN_OPT_DO if edns.do else _PLAIN_OPT
    do = codes.DO if edns.do else 0
    return _OPT_START + bytes((rcode >> 4, 0, do, 0)) + len(options).to_bytes(2, "big") + options


def option(code: int, octets: bytes) -> bytes:
    """Return one EDNS option (RFC 6891 section 6.1.2)."""
    return b"".join((code.to_bytes(2, "big"), len(octets).to_bytes(2, "big"), octets))


def ede(code: int, text: str = "") -> bytes:
    """Return an Extended DNS Error option (RFC 8914 section 2), its text cut at 64 octets."""
    extra = text.encode()[:64].decode(errors="ignore").encode()  # never half a character
    return option(codes.EDE, code.to_bytes(2, "big") + extra)


def upstream_query(question: bytes, cd: bool, do: bool, edns: bool, *, is_small: bool = False) -> bytes:
    """Return a query for an upstream, without its two octets of id.

    RD asks for recursion, AD for the upstream's word on DNSSEC (RFC 6840 section 5.7). Nothing
    of the client's own OPT record goes along but DO: EDNS is hop by hop. is_small: only 512 octets are
    wanted by UDP, where larger answers may be lost on their way.
    """
    head, opt = _UPSTREAM[cd, do, edns]
    if is_small and opt:
        opt = opt[:3] + codes.MIN_UDP_SIZE.to_bytes(2, "big") + opt[5:]
    return head + question + opt


def padded(rest: bytes) -> bytes:
    """Pad a query for an upstream to a multiple of 128 octets, so that its length tells little (RFC 7830).

    The block is that of RFC 8467 section 4.1.
    rest: as `upstream_query` made it, without the id, which counts. One without OPT is returned as it is.
    """
    if rest[8:10] != b"\0\1" or rest[-11:] not in (_PLAIN_OPT, _PLAIN_OPT_DO):
        return rest
    padding = option(_PADDING, bytes(-(2 + len(rest) + 4) % _BLOCK))
    return rest[:-2] + len(padding).to_bytes(2, "big") + padding


def random_case(question: bytes, drawn: bytes) -> bytes:
    """Spell the name of a question in letters of random case: a forger has to guess that too.

    Whoever answers has to copy the spelling. drawn: random octets, as many as the name has.
    """
    name, rest = question[: len(drawn)], question[len(drawn) :]
    drawn_of = zip(name, drawn, strict=True)
    return bytes(octet ^ (bit & 0x20) if 0x61 <= octet <= 0x7A else octet for octet, bit in drawn_of) + rest


_UPSTREAM = {
    (cd, do, edns): (
        bytes((codes.RD, codes.AD | (codes.CD if cd else 0), 0, 1, 0, 0, 0, 0, 0, int(edns))),
        b"" if not edns else _PLAIN_OPT_DO if do else _PLAIN_OPT,
    )
    for cd in (False, True)
    for do in (False, True)
    for edns in (False, True)
}
