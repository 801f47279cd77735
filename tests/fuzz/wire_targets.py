"""Targets: queries, responses and streams as octets, and names as text."""

from collections.abc import Iterator

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdata

from dnsfilter.core import cache, names
from dnsfilter.core.wire import build, codes, response
from dnsfilter.core.wire.framing import Framer, frame
from dnsfilter.core.wire.query import HEADER, BadQuery, NotAQuery, Query, parse
from tests.engine.make import LIMITS
from tests.fuzz import second
from tests.fuzz.promise import check_name, within


def query(octets: bytes) -> None:
    """A query, an rcode, or no answer; and dnspython reads the same."""
    with within(0.5):
        try:
            found = parse(octets)
        except NotAQuery:
            assert len(octets) < HEADER or octets[2] & codes.QR
            return
        except BadQuery as bad:
            _check_refusal(octets, bad.rcode)
            return
    end = HEADER + len(found.question)
    assert octets[HEADER:end] == found.question
    check_name(found.name)
    assert found.question[:-4].lower() == found.name
    asked = dns.message.from_wire(octets, question_only=True)
    [question] = asked.question
    assert (question.name.to_wire(), question.rdtype, question.rdclass) == (
        found.question[:-4],
        found.qtype,
        found.qclass,
    )
    assert (asked.opcode(), asked.id) == (dns.opcode.QUERY, int.from_bytes(found.id, "big"))
    # Owners of other records are stepped over, so a pointer in them may lead anywhere: dnspython refuses those.
    assert list(second.opts(octets)) == ([] if found.edns is None else [found.edns.udp_size])
    _check_response(found, asked)


def _check_response(found: Query, asked: dns.message.Message) -> None:
    for rcode in (codes.NOERROR, codes.BADVERS) if found.edns else (codes.NOERROR,):
        answer = dns.message.from_wire(build.response(found, rcode))
        assert asked.is_response(answer)
        assert (answer.id, answer.question, answer.rcode()) == (asked.id, asked.question, rcode)
        assert (answer.edns >= 0) is (found.edns is not None)
        assert answer.flags & dns.flags.QR


def _check_refusal(octets: bytes, rcode: int) -> None:
    """What dnspython takes for a query and we refuse stands here, with the reason."""
    assert rcode in (codes.FORMERR, codes.NOTIMP, codes.REFUSED)
    assert second.read(build.header_error(octets, rcode)) is not None
    if rcode != codes.FORMERR or second.read(octets) is None:
        return
    if octets[4:6] != b"\0\1":
        return  # RFC 9619: exactly one question
    at = HEADER
    while 0 < octets[at] <= 63:
        at += 1 + octets[at]
    if octets[at]:
        return  # a question's name that is compressed: nothing lies before it that it could point to
    counted = [octets[at] << 8 | octets[at + 1] for at in (6, 8)]
    opts = len(list(second.opts(octets)))
    if opts and (sum(counted) or opts > 1):
        return  # an OPT record that is misplaced (dnspython looks at that in some sections only)
    if opts and b"\0\0\x29" not in octets[at + 5 :]:
        return  # an OPT record whose owner is a pointer to some zero octet
    raise AssertionError("dnspython reads a query here")


# Why dnspython reads a response that `read` refuses. Besides, it leaves rdata of types out of use alone (MD, NXT).
WANTED_REFUSALS = {
    "a compression pointer that does not lead back to a name": "it may lead to a TTL, which is counted down",
    "a record of another class": "class IN was asked for, and nothing else is believed",
    "a type that no record has": "it has no meaning in an answer",
}
# Types whose rdata `read` looks at less closely than dnspython: no names that could point anywhere are left unread.
LOOSE_RDATA = {
    codes.TXT: "no string at all",
    56: "the same",
    99: "the same",
    258: "the same",
    261: "the same",
    262: "the same",
    codes.DS: "length by kind of digest",
    codes.RRSIG: "covered type, labels",
    24: "as RRSIG",
    codes.NSEC: "windows of the type bitmap",
    48: "flags and algorithms",
    codes.SVCB: "values of parameters",
    codes.HTTPS: "values of parameters",
    257: "the tag's characters",
}


# A message whose one record starts where no message's own record can: pointers that are left would lead astray.
ELSEWHERE = bytes(4) + b"\0\1\0\1" + bytes(4) + b"\1x\0" + bytes(4)


def question_of(octets: bytes) -> bytes | None:
    """Return the question that a response echoes, folded; None where no query could have asked it.

    A header alone answers any question: one is made up.
    """
    if octets[4:6] == b"\0\0":
        question = b"\3www\7example\0\0\1\0\1"
        return question if response.answers(octets[:2], question, octets) else None
    at = HEADER
    while at < len(octets) and 0 < octets[at] <= 63:
        at += 1 + octets[at]
    question = octets[HEADER : at + 1].lower() + octets[at + 1 : at + 5]
    if len(question) != at + 5 - HEADER or octets[at] or at - HEADER >= 255 or question[-2:] != b"\0\1":
        return None
    return question if response.answers(octets[:2], question, octets) else None


def answer(octets: bytes) -> None:
    """A response or FormError, and dnspython finds the same records."""
    question = question_of(octets)
    if question is None:
        return
    with within(1.0):
        try:
            found = response.read(octets, question[:-4])
        except response.FormError as error:
            _check_form_error(octets, str(error))
            return
    if octets[4:6] == b"\0\0":
        assert found.records == []  # an error as a header alone, whatever it counts
        return
    if found.opt_at is not None:
        _check_options(octets[found.opt_at + 11 : found.opt_end])
    theirs = [each for each in second.walk(octets) if each.rtype != codes.OPT]
    assert [(each.section, each.owner, each.rtype, each.ttl) for each in found.records] == [
        (each.section, each.owner, each.rtype, each.ttl) for each in theirs
    ]
    for ours, other in zip(found.records, theirs, strict=True):
        written = response.uncompressed(found, ours)
        again = list(second.walk(ELSEWHERE + written))
        assert [(each.owner, each.rtype, each.ttl) for each in again] == [(ours.owner, ours.rtype, ours.ttl)]
        if again[0].rdata is None:
            assert ours.rtype not in response.LAYOUTS or ours.rtype in LOOSE_RDATA, f"rdata of type {ours.rtype}"
        # Names in rdata are read even if compressed where that is not allowed (RFC 3597 section 4); not by dnspython.
        if _is_left_alone(other):
            continue
        if other.rdata is not None and again[0].rdata is not None:
            assert other.rdata.to_digestable().lower() == again[0].rdata.to_digestable().lower()  # names are folded
    with within(1.0):
        try:
            entry = cache.from_response(found, question[:-4], question[-4] << 8 | question[-3], 1_000.5, LIMITS)
        except (cache.ChainError, response.FormError):
            return
    for name in entry.chain:
        check_name(name)
    assert 0 <= entry.lifetime <= LIMITS.max_ttl
    for age in (0, 1, LIMITS.max_ttl):
        body = octets[:4] + b"\0\1" + entry.counts + question + entry.aged_body(1_000.5 + age, None)
        kept = list(second.walk(body))
        assert len(kept) <= len(theirs)
        longest = cache.STALE_TTL if 0 < entry.lifetime <= age else max(0, LIMITS.max_ttl - age)
        assert all(each.ttl <= longest for each in kept)


def _check_options(octets: bytes) -> None:
    while octets:
        size = 4 + int.from_bytes(octets[2:4], "big")
        assert 4 <= size <= len(octets), "an option that runs off its record"
        octets = octets[size:]


def _check_form_error(octets: bytes, error: str) -> None:
    is_wanted = error.rpartition(" at octet ")[0] in WANTED_REFUSALS or second.read(octets) is None
    assert is_wanted or any(map(_is_left_alone, second.walk(octets))), f"dnspython reads it: {error}"


def _is_left_alone(told: second.Told) -> bool:
    return told.rtype in response.LAYOUTS and isinstance(told.rdata, dns.rdata.GenericRdata)


def framing(octets: bytes) -> None:
    """Messages of a stream are the same however it is cut: the first octets are the lengths of its pieces."""
    sizes, stream = [each or 1 for each in octets[:8]], octets[8:]
    expected, at = list[bytes](), 0
    while at + 2 <= len(stream) and (end := at + 2 + int.from_bytes(stream[at : at + 2], "big")) <= len(stream):
        expected.append(stream[at + 2 : end])
        at = end
    assert b"".join(map(frame, expected)) == stream[:at]
    framer, found, at, number = Framer(), list[bytes](), 0, 0
    with within(0.5):
        while at < len(stream):
            size = sizes[number % len(sizes)]
            framer.push(stream[at : at + size])
            at, number = at + size, number + 1
            if size % 3:  # nobody needs to take messages as soon as they are there
                found += _popped(framer)
        found += _popped(framer)
    assert found == expected


def _popped(framer: Framer) -> Iterator[bytes]:
    while framer.has_message:
        message = framer.pop()
        assert message is not None
        yield message
    assert framer.pop() is None


def name_text(octets: bytes) -> None:
    """Text is a name or BadName, and a name comes back from its text."""
    text = octets.decode("utf-8", "surrogateescape")
    with within(0.5):
        try:
            name = names.from_text(text)
        except names.BadName as error:
            str(error)
            if text.isascii() and text not in ("", "."):
                _check_refused_name(text)
            return
    check_name(name)
    written = names.to_text(name)
    assert written.isascii()
    assert written.isprintable()
    assert names.from_text(written) == names.from_text(written + "." * (written != ".")) == name
    assert list(names.ancestry(name))[-1] == names.ROOT
    if text.isascii() and text != "@":  # to dnspython, the origin
        theirs = dns.name.from_text(text).to_wire()
        assert theirs is not None
        assert theirs.lower() == name


def _check_refused_name(text: str) -> None:
    try:
        found = dns.name.from_text(text)
    except (dns.exception.DNSException, ValueError):
        return
    raise AssertionError(f"dnspython reads a name: {found}")


def name_wire(octets: bytes) -> None:
    """Any labels can be written and come back."""
    name = octets[:254].lower()
    at = 0
    while at < len(name) and 0 < name[at] <= 63:
        at += 1 + name[at]
    name = name[:at] if at <= len(name) else b""
    name += b"\0"
    written = names.to_text(name)
    assert written.isascii()
    assert written.isprintable()
    assert names.from_text(written) == name
    assert names.parent(name) == list(names.ancestry(name))[min(1, len(name) - 1)]
