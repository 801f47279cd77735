"""Queries, responses and rules in a few words, made without the code under test."""

import struct
from collections.abc import Sequence

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset
from hypothesis import settings

from dnsfilter.core.names import Name, from_text
from dnsfilter.core.rules import Rules

TYPES = {
    "A": 1,
    "NS": 2,
    "CNAME": 5,
    "SOA": 6,
    "MX": 15,
    "TXT": 16,
    "AAAA": 28,
    "SRV": 33,
    "DNAME": 39,
    "HTTPS": 65,
    "ANY": 255,
}

thorough = settings(max_examples=300, deadline=None)
many = settings(max_examples=150, deadline=None)


def unhex(*texts: str) -> bytes:
    """Octets from hexadecimal digits with any white space between."""
    return bytes.fromhex("".join(texts))


def labels_to_wire(labels: Sequence[bytes]) -> bytes:
    """Write labels one behind the other, the root last."""
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def wire(text: str) -> bytes:
    """Write a name of plain ASCII labels, spelt as it stands."""
    return labels_to_wire([label.encode() for label in text.rstrip(".").split(".") if label])


def type_number(rtype: str | int) -> int:
    return rtype if isinstance(rtype, int) else TYPES[rtype]


def question(name: str | bytes, rtype: str | int = "A", rclass: int = 1) -> bytes:
    return (wire(name) if isinstance(name, str) else name) + struct.pack("!HH", type_number(rtype), rclass)


def opt(size: int = 1232, *, do: bool = False, version: int = 0, flags: int = 0, options: bytes = b"") -> bytes:
    """An OPT record (RFC 6891 section 6.1.2)."""
    return b"\0" + struct.pack("!HHBBHH", 41, size, 0, version, flags | (0x8000 if do else 0), len(options)) + options


def option(code: int, octets: bytes = b"") -> bytes:
    return struct.pack("!HH", code, len(octets)) + octets


def query(
    name: str | bytes,
    rtype: str | int = "A",
    *,
    rclass: int = 1,
    ident: int = 0x1234,
    rd: bool = True,
    ad: bool = False,
    cd: bool = False,
    edns: bytes = b"",
) -> bytes:
    """A query; edns: its OPT record, as `opt` makes one."""
    flags = (0x0100 if rd else 0) | (0x20 if ad else 0) | (0x10 if cd else 0)
    return struct.pack("!6H", ident, flags, 1, 0, 0, 1 if edns else 0) + question(name, rtype, rclass) + edns


def record(text: str) -> dns.rrset.RRset:
    """A record from "owner ttl class type rdata"; names need no final dot."""
    owner, ttl, rclass, rtype, words = text.split(None, 4)
    rdata = dns.rdata.from_text(rclass, rtype, words, origin=dns.name.root, relativize=False)
    return dns.rrset.from_rdata(dns.name.from_text(owner), int(ttl), rdata)


def response(
    asked: bytes,
    *answer: str,
    authority: Sequence[str] = (),
    additional: Sequence[str] = (),
    rcode: int = 0,
    flags: int = 0,
    edns: bool | None = None,
) -> bytes:
    """Answer a query with these records, in this order, names compressed, by dnspython.

    flags: header bits to set besides QR, RD and RA. edns: with OPT or without; None: as asked.
    """
    message = dns.message.make_response(dns.message.from_wire(asked), recursion_available=True, our_payload=1232)
    message.flags |= dns.flags.Flag(flags)
    message.set_rcode(dns.rcode.Rcode.make(rcode))
    message.answer = [record(text) for text in answer]
    message.authority = [record(text) for text in authority]
    message.additional = [record(text) for text in additional]
    if edns is not None:
        message.use_edns(0 if edns else -1, payload=1232)
    return message.to_wire(max_size=65_535)


def suffixes(*names: str) -> Rules:
    """The rules of a list that blocks these names and all below."""
    return Rules(suffix=[from_text(each) for each in names])


def name(text: str) -> Name:
    return from_text(text)


def texts(octets: bytes) -> list[str]:
    """The records of a message's answer section as text, in order."""
    message = dns.message.from_wire(octets, one_rr_per_rrset=True)
    return [rrset.to_text() for rrset in message.answer]
