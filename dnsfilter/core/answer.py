"""A verdict and a query to the octets of a response. Knows no lists, no cache."""

from dnsfilter.core import special
from dnsfilter.core.clients import Style
from dnsfilter.core.policy import CANARY, REBINDING, Blocking, Policy, Verdict
from dnsfilter.core.special import Special
from dnsfilter.core.wire import build, codes
from dnsfilter.core.wire.query import Query

_QNAME = b"\xc0\x0c"  # a pointer to the name in the question
_SOA_START = _QNAME + b"\0\6\0\1"
_SOA_RDATA = (
    b"\x09dnsfilter\x07invalid\0"  # MNAME
    + b"\x06nobody\x07invalid\0"  # RNAME
    + b"".join(seconds.to_bytes(4, "big") for seconds in (1, 3600, 600, 86400))
)
_HINFO = b"\x07RFC8482\0"
_ONE_ANSWER = b"\0\1\0\0\0\0"
_ONE_AUTHORITY = b"\0\0\0\1\0\0"
_NOTHING = bytes(6)


def address_record(rtype: int, octets: bytes, ttl: int) -> bytes:
    """Return an A or AAAA record for the qname."""
    return b"".join(
        (_QNAME, rtype.to_bytes(2, "big"), b"\0\1", ttl.to_bytes(4, "big"), len(octets).to_bytes(2, "big"), octets)
    )


def soa_record(ttl: int) -> bytes:
    """Return the SOA record of a negative answer of our own: owner the qname, MINIMUM and TTL `ttl`."""
    seconds = ttl.to_bytes(4, "big")
    rdata = _SOA_RDATA + seconds
    return b"".join((_SOA_START, seconds, len(rdata).to_bytes(2, "big"), rdata))


def answered_here(policy: Policy, name: bytes) -> Special | None:
    """Return how a name (folded) is answered here, None where it is not: at and below a `forward` zone, say.

    resolver.arpa is never forwarded (RFC 9462 section 6.4).
    """
    kind = special.find(name)
    if kind is None or kind is Special.EMPTY or not policy.zone(name):
        return kind
    return None


def ttl_of(verdict: Verdict, blocking: Blocking) -> int:
    """Return the TTL in seconds of an answer of our own: no longer than the verdict holds."""
    return blocking.ttl if verdict.valid_s is None else min(blocking.ttl, verdict.valid_s)


def blocked(query: Query, verdict: Verdict, blocking: Blocking) -> bytes:
    """Answer a blocked question, whether its own name was blocked or one of its chain."""
    ttl = ttl_of(verdict, blocking)
    is_ban = verdict.list_name not in (CANARY, REBINDING)
    text = blocking.text if blocking.text is not None and is_ban else verdict.list_name
    opt = build.opt(query, options=build.ede(codes.EDE_BLOCKED, text)) if query.edns else b""
    if verdict.style is Style.REFUSED:
        return build.respond(query, codes.REFUSED, _NOTHING, b"", opt)
    if verdict.style is Style.NXDOMAIN:
        return build.respond(query, codes.NXDOMAIN, _ONE_AUTHORITY, soa_record(ttl), opt)
    if verdict.style is Style.SINKHOLE:
        octets = {codes.A: blocking.ipv4, codes.AAAA: blocking.ipv6}.get(query.qtype)
        if octets is not None:
            return build.respond(query, codes.NOERROR, _ONE_ANSWER, address_record(query.qtype, octets, ttl), opt)
    return build.respond(query, codes.NOERROR, _ONE_AUTHORITY, soa_record(ttl), opt)


def local(query: Query, kind: Special, ttl: int) -> bytes:
    """Answer a name that is answered here."""
    if kind is Special.LOOPBACK:
        octets = {codes.A: b"\x7f\0\0\1", codes.AAAA: bytes(15) + b"\1"}.get(query.qtype)
        if octets is not None:
            return build.response(query, codes.NOERROR, _ONE_ANSWER, address_record(query.qtype, octets, ttl))
    rcode = codes.NXDOMAIN if kind is Special.ABSENT else codes.NOERROR
    return build.response(query, rcode, _ONE_AUTHORITY, soa_record(ttl))


def minimal_any(query: Query, verdict: Verdict, ttl: int) -> bytes:
    """Answer ANY over UDP with one small record (RFC 8482 section 4.2)."""
    ttl = ttl if verdict.valid_s is None else min(ttl, verdict.valid_s)
    record = b"".join((_QNAME, codes.HINFO.to_bytes(2, "big"), b"\0\1", ttl.to_bytes(4, "big"), b"\0\x09", _HINFO))
    return build.response(query, codes.NOERROR, _ONE_ANSWER, record)


def failure(query: Query, ede: int, text: str = "") -> bytes:
    """Answer SERVFAIL with an extended error that says why."""
    opt = build.opt(query, options=build.ede(ede, text))
    return build.respond(query, codes.SERVFAIL, _NOTHING, b"", opt)


def truncated(query: Query) -> bytes:
    """Tell the client to ask again by TCP: no records at all, so none is in doubt (RFC 2181 section 9)."""
    return build.response(query, codes.NOERROR, flags=codes.TC)
