"""The short way of plain questions: a name that no list names, asked for an address, answered by the first upstream.

Nearly all questions that an upstream must be asked are of this kind, and the general way costs
each three times as much. What is not plain at any step goes on by the general way, from where it
is: `take` and `complete` say False, or the engine adopts the question. A property test holds both
ways to the same answers.
"""

import socket
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Protocol

from dnsfilter.core import special
from dnsfilter.core.cache import Cache, Limits, is_fresh, key
from dnsfilter.core.clients import ClientRow
from dnsfilter.core.names import MAX_NAME, Name
from dnsfilter.core.plain import ends
from dnsfilter.core.policy import Action, Policy, Verdict
from dnsfilter.core.wire import build, codes
from dnsfilter.core.wire.query import BadQuery, NotAQuery, parse
from dnsfilter.engine.interface import Clock, Quick, Transport
from dnsfilter.engine.pending import Pending
from dnsfilter.engine.tally import Tally

FORMS = 256  # of queries, remembered
PARENTS = 65_536  # names whose children are plain, remembered
LONGEST = MAX_NAME - 64  # octets of a parent: any label fits before it
RECORDS = 8  # of an answer, at most

_RECORD = struct.Struct("!HHHIH")  # pointer to the owner, type, class, TTL, length of the rdata
_SIZES = {codes.A: 4, codes.AAAA: 16}
_QNAME = 0xC00C
_POINTER = 0xC000
_NOT_PLAIN = -1
_OVER: list[Name] = []  # stands for a chain that has come to its end
_new = tuple.__new__  # a NamedTuple's own constructor takes three times as long

Peer = tuple[Any, ...]


class Link(Protocol):
    """The upstream that is asked first, as far as it matters here."""

    queries: int
    health: Any
    post: Any  # has a query sent: see `upstream.udp`

    def answered(self, seconds: float, count: int = 1) -> None:
        """Note so many responses."""


@dataclass(frozen=True, slots=True)
class Form:
    """What is common to all queries that differ in id and name only."""

    rtype: int
    size: int  # octets of an address
    key_tail: bytes  # behind the name in the cache's key
    question_tail: bytes  # type and class
    head: bytes  # of the query to the upstream, behind its id
    opt: bytes  # that query's
    answers: dict[bytes, tuple[int, int, bytes]]  # by header of the response behind its id: see `_answers`
    reply_opt: bytes
    limit: int  # octets of a response


class Express:
    """Takes plain questions and answers them; in the engine's place, and with its tables."""

    def __init__(
        self, cache: Cache, limits: Limits, pending: Pending, failures: dict[bytes, Any], tally: Tally, now: Clock
    ) -> None:
        self._cache = cache
        self._pending = pending
        self._failed = failures
        self._tally = tally
        self._kept = cache.entries
        self._out = pending.out
        self._by_key = pending.by_key
        self.links: Mapping[int, Link] = {}  # by upstream group, where there is a short way
        self._apart: frozenset[Name] = frozenset()
        self._forms: dict[bytes, Form] = {}
        self._lengths: dict[Name, tuple[int, ...]] = {}  # of these names and the names above them
        self._parents: dict[Name, int] = {}  # the upstream group of all children that are not listed; or _NOT_PLAIN
        self._outcomes: dict[str, int] = {}
        self._outbox: list[tuple[Quick, bytes]] = []
        self._opts: set[bytes] = set()  # records at the end of responses that say nothing special
        self._counts = tally.counts
        self._max_ttl = limits.max_ttl
        self._clock = now
        self._now, self._second = 0.0, 0
        self.on_first: Callable[[], None] = lambda: None  # a question is out, and has to be watched

    def load(self, policy: Policy) -> None:
        """Put a policy in force."""
        self._policy = policy
        self._tables = policy.index.tables
        self._parents.clear()
        self._lengths.clear()
        self._outcomes.clear()

    def keep_apart(self, parents: frozenset[Name]) -> None:
        """Leave the names below these to the general way."""
        self._apart = parents
        self._parents.clear()
        self._lengths.clear()

    def forget_clients(self) -> None:
        """Take nobody's questions until they are welcome again."""
        self._outcomes.clear()

    def welcome(self, client: str, row: ClientRow) -> None:
        """Take this client's questions from now on."""
        if row.only:
            return
        verdict = Verdict(Action.FORWARDED, row.group)
        self._outcomes[client] = self._tally.outcome(Transport.UDP, client, codes.NOERROR, verdict, "miss")

    # ---- a query ----

    def take(self, message: bytes, client: Peer, sock: socket.socket, now: float) -> bool:
        """Take a query if it is plain, and ask the upstream."""
        end = message.find(b"\0", 12) + 1
        form = self._forms.get(message[2:12] + message[end:])
        if form is None or not end:
            if client[0] in self._outcomes:  # a stranger teaches nothing
                self._learn_form(message, end)
            return False
        name = message[12:end].lower()
        parent = name[name[0] + 1 :]
        zone = self._parents.get(parent)
        if zone is None:
            zone = self._learn_parent(parent)
        wanted = name + form.key_tail
        outcome = self._outcomes.get(client[0])
        if (
            zone < 0
            or outcome is None
            or name[0] > 63
            or name[:-1] in self._tables[len(name) - 1]
            or ((kept := self._kept.get(wanted)) is not None and is_fresh(kept, now))
            or wanted in self._by_key
            or (self._failed and wanted in self._failed)
            or self._out[zone] >= self._pending.half
            or (link := self.links.get(zone)) is None
            or link.health.failures
        ):
            return False
        question = name + form.question_tail
        try:
            id_, waiting = link.post(form.head + question + form.opt)
        except OSError:
            return False
        by_key = self._by_key
        waiting[id_] = by_key[wanted] = _new(
            Quick, (question, wanted, form, message, client, sock, now, outcome, zone, link, id_, waiting)
        )
        self._out[zone] += 1
        link.queries += 1
        if len(by_key) == 1:
            self.on_first()
        return True

    def _learn_form(self, message: bytes, end: int) -> None:
        """Remember how queries like this one are answered, if they are plain."""
        try:
            query = parse(message)
        except (BadQuery, NotAQuery):
            return
        edns = query.edns
        size = _SIZES.get(query.qtype)
        if size is None or query.qclass != codes.IN or query.cd or not 13 < end < 268 or len(query.name) != end - 12:
            return
        if edns is not None and (edns.has_options or edns.version or edns.is_malformed):
            return
        tail = query.qtype.to_bytes(2, "big") + b"\0\1"
        rest = build.upstream_query(tail, False, query.do, True)
        opt = build.opt(query)
        answers = _answers(query.flags, query.do, query.do or query.flags2 & codes.AD != 0, bool(opt))
        if len(self._forms) >= FORMS:
            self._forms.clear()
        self._forms[message[2:12] + message[end:]] = Form(
            rtype=query.qtype,
            size=size,
            key_tail=key(b"", query.qtype, do=query.do, cd=False),
            question_tail=tail,
            head=rest[:10],
            opt=rest[14:],
            answers=answers,
            reply_opt=opt,
            limit=query.udp_limit,
        )

    def _learn_parent(self, parent: Name) -> int:
        """Remember how names directly below this one are treated, unless they are listed themselves."""
        zone, policy, lengths = _NOT_PLAIN, self._policy, _lengths(parent)
        if lengths and parent not in self._apart and not policy.addresses and not special.may_be(parent):
            child = b"\1\0" + parent
            if not policy.index.find(child) and not any(each[each[0] + 1 :] == parent for each in policy.zones):
                zone = policy.zone(child)
        if len(self._parents) >= PARENTS:
            self._parents.clear()
            self._lengths.clear()
        self._parents[parent] = zone
        self._lengths[parent] = lengths
        return zone

    # ---- its response ----

    def begin(self) -> Callable[[Quick, bytes], bool]:
        """Begin a batch of responses; return what takes each."""
        self._now = self._clock()
        self._second = int(self._now)
        return self.complete

    def end(self) -> None:
        """Send the answers of a batch, back to back: a client that is woken once gets all that is ready."""
        outbox, self._outbox = self._outbox, []
        count, last, since, link = 0, None, 0.0, None
        for quick, answer in outbox:
            try:
                quick.sock.sendto(answer, quick.client)
            except OSError:
                self._tally.dropped["send"] += 1
            if quick.since == since and quick.link is link:
                count += 1  # questions that came together are mostly answered together
                continue
            if last is not None:
                self._measure(last, count)
            count, last, since, link = 1, quick, quick.since, quick.link
        if last is not None:
            self._measure(last, count)

    def _measure(self, quick: Quick, count: int) -> None:
        seconds = self._now - quick.since
        self._tally.measure(seconds, count)
        quick.link.answered(seconds, count)

    def complete(self, quick: Quick, octets: bytes) -> bool:
        """Answer the client with a response that has the right id, if it is plain."""
        question, wanted, form, message, _client, _sock, _since, outcome, zone, _link, _id, _waiting = quick
        start = at = len(question) + 12
        known = form.answers.get(octets[2:12])
        if known is None or octets[12:at] != question:
            return False
        count, has_opt, head = known
        most = lifetime = self._max_ttl
        owner, chain = _QNAME, None
        try:
            while count:
                pointer, rtype, rclass, ttl, length = _RECORD.unpack_from(octets, at)
                at += 12
                if pointer != owner or rclass != 1 or ttl > most:
                    return False
                if ttl < lifetime:  # noqa: PLR1730 - `min` is a call
                    lifetime = ttl
                if rtype == form.rtype:
                    if length != form.size:
                        return False
                    chain = _OVER
                elif rtype != codes.CNAME or chain is _OVER:
                    return False
                else:
                    if chain is None:
                        chain = [question[:-4]]
                        lengths = self._lengths.get(question[question[0] + 1 : -4], ())
                    if not self._follow(octets, at, at + length, question, chain, lengths):
                        return False
                    owner = _POINTER | at
                at += length
                count -= 1
        except (struct.error, IndexError):
            return False
        if chain is not _OVER:
            return False
        if has_opt:
            if octets[at:] not in self._opts and not self._is_opt(octets, at):
                return False
        elif at != len(octets):
            return False
        answer = message[:2] + head + message[12:start] + octets[start:at] + form.reply_opt
        by_key = self._by_key
        if len(answer) > form.limit or by_key.get(wanted) is not quick:
            return False
        del by_key[wanted]
        self._out[zone] -= 1
        self._cache.keep(wanted, octets, lifetime, self._second)
        self._counts[outcome] += 1
        self._outbox.append((quick, answer))
        return True

    def _follow(
        self, octets: bytes, at: int, end: int, question: bytes, chain: list[Name], lengths: Collection[int]
    ) -> bool:
        """Add an alias's target to the chain, if nobody lists it and all but its first labels stand in the question."""
        pointer = octets[end - 2] << 8 | octets[end - 1]
        tail = question[pointer - _QNAME : -4]
        if pointer < _QNAME or end - at < 3:
            return False
        if pointer > _QNAME and len(tail) not in lengths:
            return False  # it leads into the middle of a label
        name = octets[at : end - 2].lower() + tail
        parent = name[name[0] + 1 :]
        zone = self._parents.get(parent)
        if zone is None:
            zone = self._learn_parent(parent)
        if zone < 0 or not 0 < name[0] < 64 or name in chain or name[:-1] in self._tables[len(name) - 1]:
            return False
        chain.append(name)
        return True

    def _is_opt(self, octets: bytes, at: int) -> bool:
        """Tell whether an OPT record without anything special is the rest, and remember it."""
        if not ends(octets, at):
            return False
        if len(self._opts) < FORMS:
            self._opts.add(octets[at:])
        return True


@lru_cache(maxsize=16)
def _answers(flags: int, do: bool, wants_ad: bool, has_own_opt: bool) -> dict[bytes, tuple[int, int, bytes]]:
    """Return what each plain response's header promises, by its octets behind the id.

    That is how many records, whether an OPT record, and what our header for it is.
    """
    answers = {}
    for theirs, theirs2 in product((0x81, 0x85, 0x80, 0x84), (0x80, 0xA0, 0x00, 0x20)):  # AA, RD; RA, AD
        shown = codes.RA | (theirs2 & codes.AD if wants_ad else 0)
        for count in range(1, RECORDS + 1):
            ours = bytes((codes.QR | flags, shown, 0, 1, 0, count, 0, 0, 0, int(has_own_opt)))
            for has_opt in (0, 1):
                if has_opt or not do:  # else it is no answer to DO
                    answers[bytes((theirs, theirs2, 0, 1, 0, count, 0, 0, 0, has_opt))] = count, has_opt, ours
    return answers


def _lengths(name: bytes) -> tuple[int, ...]:
    """Return the lengths of a name and of all names above it but the root; nothing where it is none."""
    found, at = [], 0
    while at < len(name) and 0 < name[at] < 64:
        found.append(len(name) - at)
        at += name[at] + 1
    return tuple(found) if at == len(name) - 1 < LONGEST and name[at] == 0 else ()
