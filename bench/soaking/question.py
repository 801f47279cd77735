"""What clients ask: every kind of question and of message, drawn from one seeded generator."""

import random
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from soaking import reference, world
from soaking.reference import CLIENTS, NEVER
from soaking.world import ANY, KEPT_FOR_BLOCKED, Name, wire_of

TYPES = (1, 1, 1, 1, 1, 28, 28, 28, 65, 65, 16, 15, 33, 2, 255, 5, 6, 64, 12, 43, 257, world.UNKNOWN)
META = (0, 41, 249, 251, 252, 253, 254, 65_535)


@dataclass(slots=True)
class Question:
    """One message of a client, and what is known of it beforehand."""

    kind: str
    client: str
    octets: bytes  # id 0
    name: Name = ()
    rtype: int = 0
    rclass: int = 1
    is_tcp: bool = False
    size: int = 512  # octets that the client takes over UDP
    has_opt: bool = False
    is_do: bool = False
    is_answered: bool | None = True  # None: whatever the server likes
    rcodes: tuple[int, ...] = ()  # for messages that are no questions
    spelt: bytes = b""  # the question section as asked
    sent: float = 0.0  # wall clock
    ident: int = 0
    is_read_late: bool = False  # the client takes its answers long after they were given

    def with_id(self, ident: int) -> bytes:
        """The octets to send."""
        self.ident = ident
        return ident.to_bytes(2, "big") + self.octets[2:]

    def __str__(self) -> str:
        transport = "TCP" if self.is_tcp else "UDP"
        return f"{self.kind}: {world.text_of(self.name)} type {self.rtype} from {self.client} over {transport}"


class Questions:
    """The generator of questions."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._fresh = 0
        kinds: list[tuple[int, Callable[[], tuple[str, Name]]]] = [
            (16, lambda: ("cached", (b"w%d" % rng.randrange(200), *world.PLAIN))),
            (10, lambda: ("short TTL", (b"s%d" % rng.randrange(60), *world.SHORT))),
            (4, lambda: ("clock", (b"t%d" % rng.randrange(20), *world.CLOCK))),
            (12, lambda: ("never asked", (b"w%d" % self._count(), *world.PLAIN))),
            (12, lambda: ("listed", self._banned())),
            (8, lambda: ("below listed", (b"www", b"x%d" % rng.randrange(9), *self._banned())[rng.randrange(2) :])),
            (6, lambda: ("looks listed", self._lookalike())),
            (6, lambda: ("comes and goes", (*self._sometimes(b"www"), *world.churned(rng.randrange(world.CHURNED))))),
            (14, lambda: ("alias", self._alias())),
            (8, lambda: ("alias to what comes and goes", self._alias_to_churned())),
            (6, lambda: ("service", (rng.choice((b"h0-", b"h1-")) + self._code(), *self._step(), *world.SERVICE))),
            (3, lambda: ("mail", (b"m-" + self._code(), *self._step(), *world.MAIL))),
            (5, lambda: ("nothing there", (rng.choice((b"x%d", b"n%d")) % rng.randrange(60), *world.NOTHING))),
            (3, lambda: ("huge", (b"b%d" % rng.choice((400, 900, 1_150, 1_500, 4_000, 20_000)), *world.BIG))),
            (4, lambda: ("local", self._local())),
            (3, lambda: ("canary", (*self._sometimes(b"a"), *rng.choice(reference.CANARIES)))),
            (4, lambda: ("forward zone", self._intra())),
        ]
        self._weights = [weight for weight, _ in kinds]
        self._names = [make for _, make in kinds]
        self._kinds = list(CLIENTS)
        self._recent: deque[Question] = deque(maxlen=30)

    def next(self, client: str | None = None, *, is_tcp: bool = False) -> Question:
        """One message; over UDP one in twenty is no proper query."""
        client = client or self.client()
        if not is_tcp and self._rng.random() < 0.05:
            return self._odd(client)
        if not is_tcp and self._recent and self._rng.random() < 0.15:
            return self._repeated(client)
        return self._proper(client, is_tcp=is_tcp)

    def _repeated(self, client: str) -> Question:
        """What was just asked, letter for letter, from somebody else."""
        asked = self._rng.choice(self._recent)
        is_kept = any(asked.name[at:] in KEPT_FOR_BLOCKED for at in range(len(asked.name)))
        return replace(asked, client=asked.client if is_kept and client not in NEVER else client)

    def client(self) -> str:
        """Somebody who asks."""
        return self._rng.choice(CLIENTS[self._rng.choice(self._kinds)])

    # ---- names ----

    def _count(self) -> int:
        self._fresh += 1
        return 1_000_000 + self._fresh

    def _sometimes(self, label: bytes) -> Name:
        return (label,) if self._rng.random() < 0.3 else ()

    def _banned(self) -> Name:
        rng = self._rng
        if rng.random() < 0.05:
            return world.BANNED_INTRA
        return world.other(rng.randrange(world.OTHERS)) if rng.random() < 0.3 else world.listed(rng.randrange(30))

    def _code(self) -> bytes:
        rng = self._rng
        kind = rng.choice((b"l", b"l", b"o", b"c", b"p", b"p"))
        return kind + b"%d" % rng.randrange({b"l": 30, b"o": world.OTHERS, b"c": world.CHURNED, b"p": 40}[kind])

    def _step(self) -> Name:
        """A label that makes a name asked often, seldom or never before."""
        rng = self._rng
        return (b"u%d" % (rng.randrange(3) if rng.random() < 0.7 else self._count()),)

    def _alias(self) -> Name:
        label = b"k%d-" % self._rng.randrange(1, 5) + self._code()
        if self._rng.random() < 0.3:
            label += b"-p%d" % self._rng.randrange(9)
        return (label, *self._step(), *world.ALIAS)

    def _alias_to_churned(self) -> Name:
        """One of few, so that it is in the cache when its target comes or goes."""
        return (b"k1-c%d" % self._rng.randrange(world.CHURNED), b"u%d" % self._rng.randrange(2), *world.ALIAS)

    def _lookalike(self) -> Name:
        number = b"%d" % self._rng.randrange(30)
        return self._rng.choice(
            (
                (b"notl" + number, *world.EXAMPLE),
                (b"l" + number + b"-x", *world.EXAMPLE),
                (b"a.l" + number, *world.EXAMPLE),  # a dot within a label is no boundary
                (b"l" + number, b"example", *world.PLAIN),
                (b"l" + number, b"x", *world.EXAMPLE),
                (b"l" + number + b"0000", *world.EXAMPLE),
            )
        )

    def _local(self) -> Name:
        zone = self._rng.choice(list(reference.LOCAL))
        return (*self._sometimes(b"a"), *zone)

    def _intra(self) -> Name:
        return (b"w%d" % self._rng.randrange(50), *self._rng.choice(world.FORWARDED))

    # ---- messages ----

    def _proper(self, client: str, *, is_tcp: bool) -> Question:
        rng = self._rng
        kind, name = self._pick()
        if client in NEVER and kind == "listed" and rng.random() < 0.3:
            name = world.listed(rng.randrange(30, world.LISTED))
        rtype = rng.choice(META) if rng.random() < 0.01 else rng.choice(TYPES)
        if kind == "huge":
            rtype = world.TXT
        elif kind == "service" and rng.random() < 0.6:
            rtype = world.HTTPS
        elif kind == "mail" and rng.random() < 0.6:
            rtype = rng.choice((world.MX, world.SRV, world.NS))
        elif kind == "clock":
            rtype = world.A
        elif kind == "alias to what comes and goes":
            rtype = rng.choice((world.A, world.AAAA))
        return self.ask(kind, client, name, rtype, is_tcp=is_tcp)

    def _pick(self) -> tuple[str, Name]:
        make: Callable[[], tuple[str, Name]] = self._rng.choices(self._names, self._weights)[0]
        return make()

    def ask(self, kind: str, client: str, name: Name, rtype: int, *, is_tcp: bool, rclass: int = 1) -> Question:
        """A query for a name, with whatever clients send beside it."""
        rng = self._rng
        spelt = wire_of(name)
        if rng.random() < 0.3:
            spelt = bytes(
                octet ^ 0x20 if chr(octet).isalpha() and octet > 63 and rng.random() < 0.5 else octet for octet in spelt
            )
        question = spelt + struct.pack("!HH", rtype, rclass)
        opt, size, is_do = b"", 512, False
        if rng.random() < 0.6:
            opt, size, is_do = self._opt()
        flags = (0x0100 if rng.random() < 0.95 else 0) | rng.choice((0, 0, 0, 0x10, 0x20, 0x30, 0x40))
        header = struct.pack("!6H", 0, flags, 1, 0, 0, 1 if opt else 0)
        octets = header + question + opt
        asked = Question(kind, client, octets, name, rtype, rclass, is_tcp, size, bool(opt), is_do, spelt=question)
        if not is_tcp and rclass == 1:
            self._recent.append(replace(asked))
        return asked

    def _opt(self) -> tuple[bytes, int, bool]:
        rng = self._rng
        size, is_do = rng.choice((0, 512, 600, 1_232, 1_232, 1_232, 4_096, 65_535)), rng.random() < 0.3
        options = b""
        if rng.random() < 0.2:
            options += b"\0\x0a" + rng.choice((b"\0\x08" + rng.randbytes(8), b"\0\x18" + rng.randbytes(24)))
        if rng.random() < 0.1:
            options += b"\xfe\xdc\0\3abc"  # unknown
        if rng.random() < 0.05:
            options += b"\0\x08\0\x07\0\1\x18\0\xc0\0\2"  # client subnet
        flags = (0x8000 if is_do else 0) | (0x1234 if rng.random() < 0.05 else 0)
        return struct.pack("!BHHIH", 0, 41, size, flags, len(options)) + options, max(512, size), is_do

    def _odd(self, client: str) -> Question:
        """A message that is no proper query, and what is right for it."""
        rng = self._rng
        asked = self._proper(client, is_tcp=False)
        octets = asked.octets
        draw = rng.random()
        if draw < 0.2:
            asked.kind, asked.is_answered = "response sent as a query", False
            asked.octets = octets[:2] + bytes([octets[2] | 0x80]) + octets[3:]
        elif draw < 0.3:
            asked.kind, asked.is_answered = "fragment", False
            asked.octets = octets[: rng.randrange(2, 12)]
        elif draw < 0.4:
            opcode = rng.choice((1, 2, 4, 5, 6, 15))
            asked.kind, asked.rcodes = "other opcode", (world.NOTIMP, world.REFUSED)
            asked.octets = octets[:2] + bytes([octets[2] & 0x87 | opcode << 3]) + octets[3:]
        elif draw < 0.5:
            asked = self.ask(
                "other class", client, asked.name, asked.rtype, is_tcp=False, rclass=rng.choice((3, 4, 254, 255))
            )
            asked.rcodes = (world.REFUSED, world.NOTIMP)
        elif draw < 0.6:
            asked.kind, asked.rcodes = "two questions", (world.FORMERR,)
            asked.octets = octets[:4] + b"\0\2" + octets[6:12] + asked.spelt + octets[12:]
        else:
            asked.kind, asked.is_answered = "mutated", None
            asked.octets = self._mutated(octets)
        return asked

    def _mutated(self, octets: bytes) -> bytes:
        rng = self._rng
        spoilt = bytearray(octets)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(2, max(3, len(spoilt)))
            match rng.randrange(4):
                case 0:
                    spoilt[at : at + 1] = rng.randbytes(1)
                case 1:
                    del spoilt[at : at + rng.randrange(1, 6)]
                case 2:
                    spoilt[at:at] = rng.randbytes(rng.randrange(1, 12))
                case _:
                    spoilt[at : at + 1] = b"\xc0"
        return bytes(spoilt)


def is_asked_upstream(question: Question) -> bool:
    """Whether a question that the policy lets pass goes to an upstream."""
    return question.rtype not in META and (question.rtype != ANY or question.is_tcp)
