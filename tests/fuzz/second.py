"""A second opinion on messages, by dnspython's parser and none of our code."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import dns.exception
import dns.message
import dns.name
import dns.rdata
import dns.rdatatype
import dns.wire

# Else the first record of class ANY decides how dnspython reads a type from then on.
dns.rdata.load_all_types()  # type: ignore[no-untyped-call]


_LEADING = {5: 0, 39: 0, 64: 2, 65: 2}  # type to where in its rdata the target is


@dataclass(frozen=True, slots=True)
class Told:
    """One record as dnspython reads it."""

    section: int
    owner: bytes  # folded
    rtype: int
    rclass: int
    ttl: int
    rdata: dns.rdata.Rdata | None  # None: dnspython does not like it
    target: bytes | None = None  # folded; where a record of type CNAME, DNAME, SVCB or HTTPS leads


def folded(name: dns.name.Name) -> bytes:
    octets = name.to_wire()
    assert octets is not None
    return octets.lower()


def walk(octets: bytes) -> Iterator[Told]:
    """Yield each record, whatever is in its rdata. Raises DNSException where the records make no message."""
    parser = dns.wire.Parser(octets, 4)
    questions, *counts = parser.get_struct("!HHHH")
    for _ in range(questions):
        parser.get_name(None, True)
        parser.get_bytes(4)
    for section, count in enumerate(counts):
        for _ in range(count):
            owner = parser.get_name(None, True)
            rtype, rclass, ttl, length = parser.get_struct("!HHIH")
            end = parser.current + length
            if end > len(octets):
                raise dns.exception.FormError
            rdata_at = parser.current
            rdata = _rdata(parser, rclass, rtype, length)
            target = None
            if rtype in _LEADING:
                parser.seek(rdata_at + _LEADING[rtype])
                target = folded(parser.get_name(None, True))
            yield Told(section, folded(owner), rtype, rclass, ttl, rdata, target)
            parser.seek(end)
    if parser.remaining():
        raise dns.message.TrailingJunk


def opts(octets: bytes) -> Iterator[int]:
    """Yield the class field of each OPT record, without following any pointer: the owners of others may be broken."""
    parser = dns.wire.Parser(octets, 4)
    questions, *counts = parser.get_struct("!HHHH")
    for number in range(questions + sum(counts)):
        while (length := parser.get_uint8()) and length < 0xC0:
            parser.get_bytes(length)
        if length:
            parser.get_uint8()
        rtype, rclass = parser.get_struct("!HH")
        if number < questions:
            continue
        _ttl, size = parser.get_struct("!IH")
        parser.get_bytes(size)
        if rtype == dns.rdatatype.OPT:
            yield rclass


def _rdata(parser: dns.wire.Parser, rclass: int, rtype: int, length: int) -> dns.rdata.Rdata | None:
    try:
        with parser.restrict_to(length):
            return dns.rdata.from_wire_parser(rclass, rtype, parser)  # type: ignore[arg-type]
    except (dns.exception.DNSException, ValueError):
        return None


def read(octets: bytes) -> dns.message.Message | None:
    """Return the message, records one by one; None where dnspython takes it for none."""
    try:
        return dns.message.from_wire(octets, one_rr_per_rrset=True)
    except (dns.exception.DNSException, ValueError):
        return None


def chain(qname: bytes, records: Iterable[Told]) -> set[bytes]:
    """Return all names that CNAME and DNAME records of the answer section lead to from the qname, itself included."""
    moves = [(each.rtype, each.owner, each.target) for each in records if each.section == 0]
    found, size = {qname}, 0
    while size < len(found) <= len(moves) ** 2 + 1:
        size = len(found)
        for rtype, owner, target in moves:
            if target is None:
                continue
            if rtype == 5 and owner in found:
                found.add(target)
            elif rtype == 39:
                moved = {name[: -len(owner)] + target for name in found if is_below(name, owner)}
                found |= {name for name in moved if len(name) <= 255}
    return found


def is_below(name: bytes, above: bytes) -> bool:
    """Tell whether a name (folded) is below another one, at a label's boundary."""
    at = 0
    while at < len(name) and name[at]:
        at += 1 + name[at]
        if name[at:] == above:
            return True
    return False
