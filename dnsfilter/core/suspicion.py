"""Which clients seem to get around the ban: what they asked, in a few numbers each. Decides nothing, keeps no names."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

MOST = 4_096  # clients that are followed

# Reason `resolver`. Queries are counted, not names: devices ask a name for A and AAAA, many for HTTPS too. So six are
# two or three names, as an installed app asks them at once; a web page that shows a video from there asks for one.
APP_QUERIES = 6
RUN_GAP_S = 60.0  # between blocked app names of one run, and from the last of them to the resolver's name
SUSPECTED_S = 3_600.0  # after the last such sign

# Reason `silence`.
SLOT_S = 300.0
BUSY_QUERIES = 20  # in a slot: a device in somebody's hand; one that lies there asks a few
SILENT_S = 600.0  # phones and computers ask something every few minutes while they are connected
GONE_S = 7_200.0  # silent for longer than that: it has probably left


class Signal(Enum):
    """What one query tells."""

    APP_BLOCKED = "a list of an app named it"  # blocked, or observed
    RESOLVER_BLOCKED = "a list of resolvers named it"  # blocked, or observed
    OTHER = "nothing"


class Reason(StrEnum):
    """Why a client is suspected."""

    RESOLVER = "resolver"  # asked for a resolver of its own right after names of banned apps
    SILENCE = "silence"  # was busy, names of banned apps among what it asked, and asks nothing any more


@dataclass(frozen=True, slots=True)
class Suspect:
    """A client under suspicion."""

    client: str
    group: str  # at its last query
    reason: Reason
    since: float  # the first of the signs, or the last query before the silence


class _Seen:
    """What is known of one client."""

    __slots__ = (
        "app_at",
        "apps",
        "group",
        "last",
        "queries",
        "sign_at",
        "sign_since",
        "slot_end",
        "slot_has_app",
        "was_busy",
    )

    def __init__(self) -> None:
        self.group = ""
        self.last = 0.0  # any query
        self.apps = 0  # blocked app names in a run
        self.app_at = 0.0  # the last of them
        self.sign_since = 0.0
        self.sign_at: float | None = None  # the last sign of reason `resolver`
        self.slot_end = 0.0  # of the slot of the last query
        self.queries = 0  # in that slot
        self.slot_has_app = False
        self.was_busy = False  # in the slot just before that one

    @property
    def is_busy(self) -> bool:
        """Whether its last slot was a busy one, with an app's name in it."""
        return self.slot_has_app and self.queries >= BUSY_QUERIES

    def begin_slot(self, now: float) -> None:
        """A query came after the end of the slot."""
        self.was_busy = self.is_busy and now < self.slot_end + SLOT_S
        self.slot_end = (now // SLOT_S + 1) * SLOT_S
        self.queries = 0
        self.slot_has_app = False


class Suspicion:
    """The clients with signs, and what they did since.

    Only a client that asked for a banned app or a resolver is followed, from then on: the many
    others cost one look-up each, and a flood of made-up sources that asks for anything else pushes nobody out.
    When the table is full, the client whose last sign is the oldest goes.
    """

    def __init__(self, most: int = MOST) -> None:
        """most: clients that are followed at a time."""
        self._most = most
        self._seen: OrderedDict[str, _Seen] = OrderedDict()  # by the last sign

    def __len__(self) -> int:
        """Clients that are followed."""
        return len(self._seen)

    def note(self, client: str, group: str, signal: Signal, now: float) -> None:
        """Take note of one query. client: address as text, always written alike."""
        seen = self._seen.get(client)
        if signal is not _OTHER:
            seen = self._followed(client, seen)
        elif seen is None:
            return
        if now >= seen.slot_end:
            seen.begin_slot(now)
        seen.queries += 1
        seen.last = now
        seen.group = group or seen.group  # none: nothing was judged yet
        if signal is _APP_BLOCKED:
            seen.apps = seen.apps + 1 if now - seen.app_at <= RUN_GAP_S else 1
            seen.app_at = now
            seen.slot_has_app = True
        elif signal is _RESOLVER_BLOCKED and seen.apps >= APP_QUERIES and now - seen.app_at <= RUN_GAP_S:
            if seen.sign_at is None or now - seen.sign_at >= SUSPECTED_S:
                seen.sign_since = now
            seen.sign_at = now

    def suspects(self, now: float) -> list[Suspect]:
        """Return who is suspected, and of what; a client may appear once for each reason."""
        return [
            Suspect(client, seen.group, reason, since)
            for client, seen in self._seen.items()
            for reason, since in _reasons(seen, now)
        ]

    def counts(self, now: float) -> Mapping[tuple[str, Reason], int]:
        """Return how many clients of each group are suspected for each reason; none: no entry."""
        return Counter((each.group, each.reason) for each in self.suspects(now))

    def _followed(self, client: str, seen: _Seen | None) -> _Seen:
        """A sign: the client is followed from now on, and goes last."""
        if seen is None:
            if len(self._seen) >= self._most:
                self._seen.popitem(last=False)
            seen = self._seen[client] = _Seen()
        else:
            self._seen.move_to_end(client)
        return seen


# In Python 3.11 a member looked up in its class costs as much as the rest of `note`.
_OTHER, _APP_BLOCKED, _RESOLVER_BLOCKED = Signal.OTHER, Signal.APP_BLOCKED, Signal.RESOLVER_BLOCKED


def _reasons(seen: _Seen, now: float) -> Iterator[tuple[Reason, float]]:
    if seen.sign_at is not None and now - seen.sign_at < SUSPECTED_S:
        yield Reason.RESOLVER, seen.sign_since
    if (seen.is_busy or seen.was_busy) and SILENT_S <= now - seen.last < GONE_S:
        yield Reason.SILENCE, seen.last
