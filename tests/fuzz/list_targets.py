"""Targets: lists in every format, and gzip files that hold them."""

import functools
import zlib
from collections.abc import Callable

from dnsfilter.core.rules import SKIPPED_KEPT, Match, Rules
from dnsfilter.lists import body, signature
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats import FORMATS, find, parse
from tests.fuzz.promise import Run, check_name, check_printable, within

GROWN = 96 * 1_024  # octets that a piece is repeated to, to see that time grows no faster than a list
LONGEST_REASON = 11_000  # characters: some repeat a word, which has 1,024 at most, as escapes of ten each
ENDINGS = (b"", b"\n", b" ", b".", b"(", b",", b"/", b"\\")

WORDS = (
    b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\r\n", b"\r", b"\n", b"\t", b" ", b"\x0b", b"\x1b[2J", b"\x7f",
    b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\xed\xa0\x80", b"\xf0\x9f\x92\xa9", b"\xe3\x80\x82", b"xn--",
    b"XN--80AK6AA92E", b"\\", b"\\.", b"\\000", b"\\065", b"\\256", b"\\10", b".", b"..", b"*.", b"*", b"@", b"#",
    b" # ", b"!", b";", b"banned.example", b"BANNED.Example.", b"a.b.c.d.e.f", b"a" * 63 + b".", b"a" * 64 + b".",
    b"a" * 300, b"_x.", b"-", b"0.0.0.0 ", b"127.0.0.1\t", b"::1 ", b":: ", b"fe80::1%lo0 ", b"192.0.2.1",
    b"2001:db8::1", b"localhost", b"||", b"|", b"^", b"^|", b"@@", b"@@||", b"$important", b"$badfilter", b"$", b",",
    b"~", b"$ctag=x", b"##", b"#@#", b"[Adblock Plus]", b"/^x\\.example$/", b"/(^|\\.)banned\\.example$/", b"(^|\\.)",
    b"^(.*\\.)?", b"/", b"(", b")", b"[", b"address=/", b"server=/", b"local=/", b"/0.0.0.0", b"/#", b"=", b"ipset=/",
    b"$ORIGIN ", b"$TTL 60\n", b"$INCLUDE x", b"$GENERATE 1-9 ", b" IN ", b" CH ", b" 60 ", b" 9999999999 ", b" SOA ",
    b" CNAME .", b" CNAME *.", b" CNAME rpz-passthru.", b" CNAME rpz-drop.", b" A 192.0.2.1", b" AAAA ::1", b" TXT ",
    b" TYPE65535 ", b"\\# 4 00", b'"', b'\\"', b"rpz-ip.", b"rpz-nsdname.", b"rpz.example.", b"32.1.2.0.192.rpz-ip",
    b"[rpz.example.] ", b"<html>", b"\x1f\x8b", b"http://", b"https://banned.example/x",
)  # fmt: skip


def reading(format_name: str) -> Run:
    """Return the target of one format."""
    return functools.partial(_read, format_name=format_name)


def _read(octets: bytes, format_name: str) -> None:
    """Rules with valid names and skipped lines with printable reasons, or BadList."""
    for match in (None, Match.EXACT, Match.SUFFIX):
        with within(1.0):
            try:
                rules = parse(octets, format_name, match)
            except BadList as error:
                check_printable(str(error))
                continue
        _check_rules(rules, octets)
        some = [name for names in rules.blocked for name in names][:3]
        with within(1.0):
            lines = find(octets, format_name, match, some)
        for found in lines:
            check_printable(found.text)
            assert found.name in some
        has_withdrawn = format_name == "adblock"
        assert has_withdrawn or {found.name for found in lines} == set(some)


def _check_rules(rules: Rules, octets: bytes) -> None:
    for names in (*rules.blocked, rules.allow_exact, rules.allow_suffix, rules.allow_below):
        for name in names:
            check_name(name)
            assert name[name[0] + 1 :] not in (b"", b"\0"), f"{name!r} covers a whole top-level domain"
    assert len(rules.skipped) == min(rules.skipped_count, SKIPPED_KEPT)
    before = 0
    for skipped in rules.skipped:
        assert before <= skipped.line <= octets.count(b"\n") + octets.count(b"\r") + 1
        before = skipped.line
        check_printable(skipped.text)
        check_printable(skipped.reason)
        assert skipped.reason
        assert len(skipped.text) <= 80
        assert len(skipped.reason) <= LONGEST_REASON


def time(octets: bytes) -> None:
    """Time is linear: the first octets choose how the rest is repeated to a long list, in every format."""
    if len(octets) < 4:
        return
    ending, head = ENDINGS[octets[0] % len(ENDINGS)], octets[2 : 2 + octets[1] % 64]
    piece = octets[2 + len(head) :][:200] + ending
    grown = head + piece * (GROWN // max(1, len(piece)))
    for format_name in FORMATS:
        with within(3.0):
            try:
                rules = parse(grown, format_name, None)
            except BadList:
                continue
        for skipped in rules.skipped[:5]:
            check_printable(skipped.reason)


def gunzip(octets: bytes) -> None:
    """Content no longer than is allowed, or BadList."""
    most = 10_000
    with within(1.0):
        try:
            content = body.unpacked(octets, most)
        except BadList as error:
            check_printable(str(error))
            return
    if octets.startswith(body.MAGIC):
        assert len(content) <= most
        assert (
            zlib.decompressobj(31).decompress(octets, most + 1) == content[: most + 1] or octets.count(body.MAGIC) > 1
        )


def signed(octets: bytes) -> None:
    """A signature file is BadSignature: nobody signed these octets. A key is one or ValueError."""
    key = signature.PublicKey(b"12345678", bytes(32))
    _refuses(lambda: signature.verify(key, b"a list", octets), signature.BadSignature)
    try:
        found = signature.read_key(octets.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        check_printable(str(error))
    else:
        assert (len(found.id), len(found.key)) == (8, 32)


def _refuses(call: Callable[[], None], expected: type[Exception]) -> None:
    try:
        call()
    except expected as error:
        check_printable(str(error))
    else:
        raise AssertionError("octets that nobody signed are taken for signed ones")
