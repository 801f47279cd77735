"""Names and what the upstreams say of them: a function of the question alone, so that anybody can tell the truth.

A name is a tuple of labels in lower case, root left out. What it is can be read from its labels:
`k3-l5.u7.alias.example` is an alias of three links that ends at the listed name `l5.example`.
"""

import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

Name = tuple[bytes, ...]

A, NS, CNAME, SOA, MX, TXT, AAAA, SRV, SVCB, HTTPS, ANY = 1, 2, 5, 6, 15, 16, 28, 33, 64, 65, 255
UNKNOWN = 65_400
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16

LISTED = 40  # l0 to l39.example, in a file
OTHERS = 10  # o0 to o9.example, in the configuration
CHURNED = 10  # c0 to c9.example: in the file, and out again
APPROVED = 20  # w0 to w19.plain.example: what the group with `only` may reach
LONGEST_TTL = 300
BANNED_DATA = (b"\xc6\x33\x64", bytes.fromhex("20010db80bad"))  # 198.51.100.0/24 and 2001:db8:bad::/48 start so


@dataclass(frozen=True, slots=True)
class Record:
    """One record as an upstream has it; names in its rdata are not compressed."""

    owner: Name
    rtype: int
    ttl: int
    rdata: bytes


@dataclass(frozen=True, slots=True)
class Truth:
    """What the upstreams say to one question."""

    rcode: int = NOERROR
    answer: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    chain: tuple[Name, ...] = ()  # where the answer leads: aliases in order, then targets of services


def name_of(text: str) -> Name:
    """A name from text without escapes."""
    return tuple(label.encode() for label in text.rstrip(".").lower().split("."))


def text_of(name: Iterable[bytes]) -> str:
    """A name as people read it."""
    return ".".join(label.decode("latin-1") for label in name) + "."


def wire_of(name: Iterable[bytes]) -> bytes:
    """A name in wire form."""
    return b"".join(bytes([len(label)]) + label for label in name) + b"\0"


def is_below(name: Name, zone: Name) -> bool:
    """Whether a name is the zone's or below it: whole labels from the right."""
    return name[-len(zone) :] == zone


EXAMPLE = name_of("example")
PLAIN, SHORT, ALIAS, SERVICE, MAIL, NOTHING, BIG, CLOCK = (
    name_of(f"{word}.example") for word in ("plain", "short", "alias", "service", "mail", "nothing", "big", "clock")
)
INTRA = name_of("intra.example")  # a zone of `forward`
INTRA_ARPA = name_of("soak.home.arpa")  # another: below a name that is else answered locally
FORWARDED = (INTRA, INTRA_ARPA)
BANNED_INTRA = name_of("l90.intra.example")


def listed(number: int) -> Name:
    """A name of the list file."""
    return name_of(f"l{number}.example")


def other(number: int) -> Name:
    """A name that is listed in the configuration."""
    return name_of(f"o{number}.example")


def churned(number: int) -> Name:
    """A name that comes onto the list and leaves it again."""
    return name_of(f"c{number}.example")


KEPT_FOR_BLOCKED = frozenset(map(listed, range(30, LISTED)))  # asked only by clients for whom they are blocked


def target_of(code: bytes) -> Name:
    """The name that a word in an alias stands for: l5, o2, c1, or p7 for a plain one."""
    return (b"w" + code[1:], *PLAIN) if code[:1] == b"p" else (code, *EXAMPLE)


def hashed(name: Name) -> int:
    """A number that a name always has."""
    return zlib.crc32(wire_of(name))


def ttl_of(name: Name) -> int:
    """0 to 3 seconds below `short` and for half of the aliases, else minutes."""
    if name[-2:] == SHORT or (name[-2:] in (ALIAS, SERVICE) and hashed(name) % 2):
        return hashed(name) // 2 % 4
    return LONGEST_TTL - hashed(name) % 100


def is_banned(name: Name) -> bool:
    """Whether a name belongs to those that are listed all the time."""
    return name[-3:] == BANNED_INTRA or (
        name[-1:] == EXAMPLE and len(name) > 1 and name[-2][:1] in b"lo" and _counts(name[-2])
    )


def _counts(label: bytes) -> bool:
    most = LISTED if label[:1] == b"l" else OTHERS
    return label[1:].isdigit() and int(label[1:]) < most and str(int(label[1:])).encode() == label[1:]


def address(name: Name, rtype: int) -> bytes:
    """The address of a name: banned names have some that no other name has, and so do the zones of `forward`."""
    number = hashed(name)
    if rtype == AAAA:
        head = BANNED_DATA[1] if is_banned(name) else bytes.fromhex("20010db80000")
        return head + b"\0\0\0\0\0\0" + number.to_bytes(4, "big")
    if is_banned(name):
        return BANNED_DATA[0] + bytes([number % 255 + 1])
    if any(is_below(name, zone) for zone in FORWARDED):
        return b"\xcb\x00\x71" + bytes([number % 255 + 1])
    return b"\xc6\x12" + (number & 0xFFFF).to_bytes(2, "big")


def soa(zone: Name, ttl: int) -> Record:
    """A SOA record for negative answers."""
    numbers = b"".join(number.to_bytes(4, "big") for number in (1, 3600, 600, 86_400, ttl))
    return Record(zone, SOA, ttl, wire_of((b"ns", *zone)) + wire_of((b"host", *zone)) + numbers)


def data(name: Name, rtype: int) -> tuple[Record, ...]:
    """The records that an ordinary name has of one type; none for most types."""
    ttl = ttl_of(name)
    text = b"data of " + text_of(name).encode()[:200]
    found = {
        A: address(name, A),
        AAAA: address(name, AAAA),
        TXT: bytes([len(text)]) + text,
        MX: b"\0\x0a" + wire_of((b"mx", *name)),
        NS: wire_of((b"ns", *name)),
        SRV: b"\0\1\0\2\1\xbb" + wire_of((b"srv", *name)),
        HTTPS: b"\0\1" + wire_of(()) + b"\0\4\0\4" + address(name, A),
        UNKNOWN: b"\1\2\3" + text,
    }.get(A if rtype == ANY else rtype)
    return () if found is None else (Record(name, A if rtype == ANY else rtype, ttl, found),)


def _plain(name: Name, rtype: int) -> Truth:
    found = data(name, rtype)
    return Truth(answer=found) if found else Truth(authority=(soa(name[1:], max(1, ttl_of(name))),))


def _alias(name: Name, rtype: int) -> Truth:
    """k3-l5: three links to l5. k3-l5-p7: through a name below l5 to p7. Letter case changes on the way."""
    links, *codes = name[0].split(b"-")
    step, count = name[1:], int(links[1:])
    rest = b"-".join((b"", *codes))
    path: list[Name] = [name, *((b"k%d" % left + rest, *step) for left in range(count - 1, 0, -1))]
    if len(codes) > 1:
        path.append((b"via", *target_of(codes[0])))
    path.append(target_of(codes[-1]))
    ttl = ttl_of(name)
    aliases = []
    for at, into in pairwise(path):
        spelt = wire_of(into).swapcase() if hashed(into) % 3 == 0 else wire_of(into)
        aliases.append(Record(at, CNAME, ttl, spelt))
    if rtype == CNAME:
        return Truth(answer=tuple(aliases[:1]), chain=(path[1],))
    end = _plain(path[-1], rtype)
    if hashed(name) % 5 == 0:
        aliases.reverse()  # the order of records means nothing
    return Truth(answer=(*aliases, *end.answer), authority=end.authority, chain=tuple(path[1:]))


def _service(name: Name, rtype: int) -> Truth:
    """h0-l5: HTTPS in alias mode to l5; h1-l5: in service mode, with the address of l5 as a hint."""
    if rtype not in (HTTPS, SVCB):
        return _plain(name, rtype)
    mode, code = name[0].split(b"-")
    target = target_of(code)
    hint = b"\0\4\0\4" + address(target, A) if mode == b"h1" else b""
    priority = b"\0\1" if mode == b"h1" else b"\0\0"
    record = Record(name, rtype, ttl_of(name), priority + wire_of(target) + hint)
    return Truth(answer=(record,), additional=data(target, A), chain=(target,))


def _mail(name: Name, rtype: int) -> Truth:
    """m-l5: an MX record that names mx.l5, whose address comes along."""
    if rtype not in (MX, SRV, NS):
        return _plain(name, rtype)
    target = (b"mx", *target_of(name[0].split(b"-")[1]))
    lead = {MX: b"\0\x0a", SRV: b"\0\1\0\2\0\x19", NS: b""}[rtype]
    record = Record(name, rtype, ttl_of(name), lead + wire_of(target))
    return Truth(answer=(record,), additional=data(target, A))


def _big(name: Name, rtype: int) -> Truth:
    """b1500: that many octets of text, about."""
    if rtype != TXT:
        return _plain(name, rtype)
    size = int(name[0][1:])
    text = [b"%05d " % number + b"x" * 94 for number in range(max(1, size // 112))]
    return Truth(answer=tuple(Record(name, TXT, LONGEST_TTL, bytes([len(each)]) + each) for each in text))


@lru_cache(maxsize=4_096)
def truth(name: Name, rtype: int) -> Truth:
    """What an upstream says, but for names below `clock`, whose addresses tell when it was asked."""
    zone = name[-2:]
    if zone == NOTHING and len(name) > 2:
        rcode = NXDOMAIN if name[0][:1] == b"x" else NOERROR
        return Truth(rcode=rcode, authority=(soa(NOTHING, hashed(name) % 4 + 1),))
    form, kind = _KINDS.get(zone, (None, _plain))
    is_formed = form is not None and len(name) > len(zone) and form.fullmatch(name[0])
    return kind(name, rtype) if is_formed else _plain(name, rtype)  # not: what a mutated question made of such a name


_CODE = rb"-[locp][0-9]{1,9}"
_KINDS: dict[Name, tuple[re.Pattern[bytes], Callable[[Name, int], Truth]]] = {
    ALIAS: (re.compile(rb"k[1-9](" + _CODE + rb"){1,2}"), _alias),
    SERVICE: (re.compile(rb"h[01]" + _CODE), _service),
    MAIL: (re.compile(rb"m" + _CODE), _mail),
    BIG: (re.compile(rb"b[0-9]{1,4}0"), _big),
}
