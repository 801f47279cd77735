"""Format `rpz`: a response policy zone as text (RFC 1035 section 5), its rules about the question's name only.

An owner inside the zone, without the zone's name, is the name that a rule is about; `*.name`
covers what is below it and not the name. `CNAME .`, `CNAME *.`, `CNAME rpz-drop.` and local data
block, `CNAME rpz-passthru.` lets pass, and the longest name decides. What would need another
answer than the configured one, or something else to go by than a name, is skipped.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Literal, TypeAlias

import dns.exception
import dns.rdatatype
from dns.rdatatype import RdataType
from dns.tokenizer import Token, Tokenizer

from dnsfilter.core.names import MAX_NAME, ROOT, BadName, Name, ancestry, from_text, labels, to_text
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.errors import BadLine
from dnsfilter.lists.formats import text
from dnsfilter.lists.formats.reader import Reader
from dnsfilter.lists.formats.text import MAX_LINE, SPACE, Kind, part

_STAR = b"\1*"
_BLOCKING = (ROOT, _STAR + ROOT, b"\x08rpz-drop\0")  # NXDOMAIN, NODATA, DROP: answered as `blocking` says
_PASSTHRU = b"\x0crpz-passthru\0"
_REDIRECTS = "it redirects to another name; dnsfilter does not redirect"
_OTHER_TARGETS = {  # by their first label
    b"rpz-tcp-only": "rpz-tcp-only neither blocks nor lets pass",
    b"rpz-passthru": "it redirects to another name than rpz-passthru, whose final dot may be missing",
    b"rpz-drop": "it redirects to another name than rpz-drop, whose final dot may be missing",
}
_NO_RULES = {
    RdataType.NS: "an NS record below the zone's own name is no rule",
    RdataType.SOA: "an SOA record of another zone; the zone's own comes first",
    RdataType.DNAME: _REDIRECTS,
}
_TRIGGERS = (b"rpz-ip", b"rpz-client-ip", b"rpz-nsip", b"rpz-nsdname")  # other things to go by than the name

# What signing a zone adds to it.
_SIGNING = frozenset(map(RdataType.make, ("RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "DNSKEY", "DS", "CDS", "CDNSKEY")))
_CLASSES = ("IN", "CH", "HS", "NONE", "ANY")
_TTL = re.compile(r"(?:[0-9]{1,10}[SMHDW]?){1,5}")
_READ_OUT = re.compile(rb"\[([^]\s]{0,1020}\.)\] ")  # `knotc zone-read` writes the zone before each record

# A record goes on for as long as a parenthesis is open. One without an end costs a search through
# MAX_LINE octets, so after some of them nothing is searched for any more.
_UNCLOSED_MOST = 8
_BRACKET = re.compile(rb'"(?:[^"\\\n]|\\[^\n])*+"?|;[^\n]*|\\[^\n]|[()\n]')

_Where: TypeAlias = Literal["elsewhere", "at the zone", "one label below", "deeper"]  # $ORIGIN is

# Plain lines: an owner relative to $ORIGIN or below the zone; TTL and class; what blocks; a comment.
# Owners are so short, and origins too, that both together are no name too long.
_LONGEST_ORIGIN = 60  # octets
_LABEL = rb"[A-Za-z0-9_-]{1,63}+"
_RELATIVE = rb"(?=[A-Za-z0-9_.-]{1,190}+[ \t])"
_IS_TRIGGER = rb"(?i:rpz-(?:client-ip|ip|nsip|nsdname))"
_OWNERS: Mapping[_Where, bytes] = {
    "elsewhere": rb"",
    "at the zone": rb"|(?:\*\.)?%b(?:%b\.)++(?!%b[ \t])[A-Za-z][A-Za-z0-9_-]{0,62}+" % (_RELATIVE, _LABEL, _IS_TRIGGER),
    "one label below": rb"|(?:\*\.)?%b(?:%b\.)*+%b" % (_RELATIVE, _LABEL, _LABEL),
    "deeper": rb"|\*|(?:\*\.)?%b(?:%b\.)*+%b" % (_RELATIVE, _LABEL, _LABEL),
}
_TTL_AND_CLASS = rb"(?:[0-9]{1,9}+%b(?:(?i:IN)%b)?|(?i:IN)%b(?:[0-9]{1,9}+%b)?)?" % ((SPACE,) * 4)
_DATA = rb"(?:(?i:CNAME)%b(?:\*?\.|(?i:rpz-drop)\.)|(?i:A)%b[0-9.]{7,15}+|(?i:AAAA)%b[0-9a-fA-F:.]{2,45}+)" % (
    (SPACE,) * 3
)
_END = rb"[ \t]{0,64}+(?:;[^\n]{0,1024}+)?\n"
_AFTER_OWNER = re.compile(rb"[ \t][^\n]*\n")
_PLAIN_ORIGIN = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z][a-z0-9_-]*")  # no address with what stands before it


@lru_cache(maxsize=64)
def _plain(zone: str, origin: _Where) -> re.Pattern[bytes]:
    """Return the pattern of plain lines, for a zone without escapes in its name and where $ORIGIN is."""
    name = b"" if zone == "." else rb"(?i:%b)\." % re.escape(zone.encode())
    count = 2 if zone == "." else 3 + zone.count(".")
    no_triggers = b"".join(rb"(?<!\.(?i:%b)\.%b)" % (re.escape(each), name) for each in _TRIGGERS)
    absolute = (
        rb"(?:\*\.)?(?=[A-Za-z0-9_.-]{3,250}+[ \t])(?![0-9]+\.[0-9]+\.[0-9]+\.[0-9]+\.)(?:%b\.){%d,}+(?<=\.%b)%b"
        % (*(_LABEL, count, name, no_triggers),)
    )
    return re.compile(rb"(?:(?:%b%b)%b%b%b%b)+" % (absolute, _OWNERS[origin], SPACE, _TTL_AND_CLASS, _DATA, _END))


class Rpz(Reader):
    def __init__(self, match: Match | None) -> None:
        super().__init__(match)
        self._zone: Name | None = None  # None: not known yet
        self._written = ""  # the same as text
        self._first_origin: Name | None = None
        self._origin: Name | None = ROOT  # None: it was not readable
        self._owner: Name | None = None  # of the last record; None: none, or not readable
        self._unclosed = 0
        self._inside = b""  # of plain lines: what follows a relative owner, up to the zone
        self._outside = 0  # and how many octets of an absolute one are the zone's

    def end(self, octets: bytes, at: int) -> int:
        end = super().end(octets, at)
        if self._unclosed == _UNCLOSED_MOST or octets.find(b"(", at, end) < 0:
            return end
        depth = 0
        for found in _BRACKET.finditer(octets, at, min(at + MAX_LINE, len(octets))):
            match found.group():
                case b"(":
                    depth += 1
                case b")":
                    depth -= 1
                case b"\n" if depth <= 0:
                    return found.end()
        self._unclosed += 1
        return end

    def take(self, run: bytes, rules: Rules) -> None:
        assert self._zone is not None  # noqa: S101 - nothing is plain before
        owners = _AFTER_OWNER.split(run.lower())[:-1]
        triggers = [each[: -self._outside] if each.endswith(b".") else each + self._inside for each in owners]
        exact = [each for each in triggers if not each.startswith(b"*")]
        below = [each[2:] for each in triggers if each.startswith(b"*")]
        if both := set(exact).intersection(below):  # the usual pair, `x` and `*.x`
            rules.suffix += text.plain_names([each for each in exact if each in both])
            exact = [each for each in exact if each not in both]
            below = [each for each in below if each not in both]
        rules.exact += text.plain_names(exact)
        rules.below += text.plain_names(below)
        last = triggers[-1]
        star = _STAR if last.startswith(b"*") else b""
        self._owner = star + text.plain_names([last.removeprefix(b"*.")])[0][:-1] + self._zone

    def read(self, line: bytes, rules: Rules) -> None:
        if found := _READ_OUT.match(line):
            self._enter(_absolute(found[1].decode(errors="replace"), ROOT))
            line = line[found.end() :]
        if line.startswith(b"$"):
            self._directive(line.partition(b";")[0].decode(errors="replace").split())
            return
        try:
            self._record(Tokenizer(line.decode(errors="replace")), rules)
        except dns.exception.DNSException as error:
            raise BadLine(f"not readable as a record: {str(error).rstrip('.').lower()}") from None

    def finish(self, rules: Rules) -> None:
        """Say of a name once what two records say: itself, and all below."""
        if rules.exact and rules.below and (both := set(rules.exact).intersection(rules.below)):
            rules.suffix += both
            rules.exact[:] = [name for name in rules.exact if name not in both]
            rules.below[:] = [name for name in rules.below if name not in both]

    def _directive(self, words: list[str]) -> None:
        directive = words[0].upper()
        if directive == "$TTL":
            return
        if directive != "$ORIGIN":
            raise BadLine(f"{text.shown(directive.encode(), 20)} is not read; write out what it stands for")
        origin = None  # where it is not readable, relative names mean nothing
        try:
            if len(words) != 2:
                raise BadLine("$ORIGIN takes one name")
            origin = _absolute(words[1], self._origin)
        finally:
            self._set_origin(origin)

    def _record(self, tokens: Tokenizer, rules: Rules) -> None:
        token = tokens.get(want_leading=True)
        is_repeated = token.is_whitespace()
        if is_repeated:
            token = tokens.get()
        if token.is_eol_or_eof():
            return
        if not is_repeated:
            self._owner = None
            self._owner = _absolute(token.value, self._origin)
            token = tokens.get()
        owner = self._owner
        if owner is None:
            raise BadLine("no owner: the record before has none that could count here too")
        rtype = _type(token, tokens)
        if rtype == RdataType.SOA and self._zone in (None, owner):
            self._enter(owner)
        elif rtype not in _SIGNING and not (rtype == RdataType.NS and self._zone is None):
            self._rule(owner, rtype, tokens, rules)

    def _rule(self, owner: Name, rtype: RdataType, tokens: Tokenizer, rules: Rules) -> None:
        if self._zone is None:
            self._enter(self._first_origin or ROOT)
        zone = self._zone or ROOT
        if owner == zone:
            return
        if zone not in ancestry(owner):
            raise BadLine(f"not in the zone, which is {text.shown(to_text(zone).encode())}")
        kind, name = _trigger(owner[: -len(zone)] + ROOT)
        data = _data(tokens)
        if rtype != RdataType.CNAME:
            if rtype in _NO_RULES:
                raise BadLine(_NO_RULES[rtype])
            part(rules, kind).append(name)
            return
        if len(data) > 1:
            raise BadLine("more than one name behind CNAME")
        target = _absolute(data[0], self._origin)
        allows = target == _PASSTHRU or (kind, target) == ("exact", name)  # the second is how it was written before
        if not allows and target not in _BLOCKING:
            raise BadLine(_OTHER_TARGETS.get(next(labels(target)), _REDIRECTS))
        part(rules, kind, allows=allows).append(name)

    def _enter(self, zone: Name) -> None:
        """Take a name for the zone's, unless that is known."""
        if self._zone is None:
            self._zone, self._written = zone, to_text(zone)
            self._set_plain(zone)

    def _set_origin(self, origin: Name | None) -> None:
        self._origin = origin
        self._first_origin = self._first_origin or origin
        if self._zone is not None:
            self._set_plain(self._zone)

    def _set_plain(self, zone: Name) -> None:
        """Set which lines are plain, now that zone or origin is another one."""
        written, origin = self._written, self._origin
        where: _Where = "elsewhere"
        self._inside, self._outside = b"", 1 if zone == ROOT else len(written) + 2
        if origin is not None and len(origin) <= _LONGEST_ORIGIN and zone in ancestry(origin):
            inside = to_text(origin[: -len(zone)] + ROOT)
            if origin == zone:
                where = "at the zone"
            elif _PLAIN_ORIGIN.fullmatch(inside) and inside.rpartition(".")[2].encode() not in _TRIGGERS:
                where = "deeper" if "." in inside else "one label below"
                self._inside = b"." + inside.encode()
        self.plain = None if "\\" in written else _plain(written, where)


def _type(token: Token, tokens: Tokenizer) -> RdataType:
    """Return the type of a record, behind its TTL and class in any order. Raises BadLine."""
    has_ttl = has_class = False
    while token.is_identifier():
        word = token.value.upper()
        if not has_ttl and _TTL.fullmatch(word):
            has_ttl = True
        elif not has_class and word in _CLASSES:
            if word != "IN":
                raise BadLine(f"class {word}; policies are of class IN")
            has_class = True
        else:
            return _type_of(word)
        token = tokens.get()
    raise BadLine("no type: a record is a name, a TTL and class if wanted, a type and data")


def _type_of(word: str) -> RdataType:
    with suppress(dns.exception.DNSException, ValueError):
        rtype = dns.rdatatype.from_text(word)
        if not dns.rdatatype.is_metatype(rtype):
            return rtype
    raise BadLine(f"'{text.shown(word.encode(), 20)}' is no type of records")


def _data(tokens: Tokenizer) -> list[str]:
    """Return the words that are left of a record. Raises BadLine."""
    words = []
    while not (token := tokens.get()).is_eol_or_eof():
        words.append(token.value)
    if not words:
        raise BadLine("no data behind the type")
    return words


def _trigger(name: Name) -> tuple[Kind, Name]:
    """Return what an owner within the zone covers. Raises BadLine."""
    *_, last = labels(name)
    if last in _TRIGGERS:
        raise BadLine(f"{last.decode()} goes by something else than the name asked for; dnsfilter goes by names only")
    kind: Kind = "exact"
    if name.startswith(_STAR):
        kind, name = "below", name[len(_STAR) :]
    if b"*" in labels(name):
        raise BadLine("a * may only be the first label")
    if text.is_address(to_text(name)):
        raise BadLine("an address, not a name; DNS is asked for names")
    return kind, text.bounded(name)


def _absolute(word: str, origin: Name | None) -> Name:
    """Return the name that a word of a zone writes: relative without a final dot. Raises BadLine."""
    if "\ufffd" in word:
        raise BadLine("a name that is not UTF-8; save the list as UTF-8")
    before_dot = word.removesuffix(".")
    is_escaped = (len(before_dot) - len(before_dot.rstrip("\\"))) % 2
    if before_dot != word and not is_escaped:
        origin = ROOT
    if origin is None:
        raise BadLine("relative to an $ORIGIN that is not readable")
    try:
        name = origin if word == "@" else from_text(word)[:-1] + origin
    except BadName as error:
        raise BadLine(str(error)) from None
    if len(name) > MAX_NAME:
        raise BadLine(f"a name of {len(name)} octets; {MAX_NAME} is the most")
    return name
