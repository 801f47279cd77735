"""Which lists name a name: rules in, set ids out. Built once, then only read. Knows no clients.

A listed name maps to two sets of lists: `at` for the name itself, `below` for the names
under it. What names above a listed name say is merged into its entry when the index is
built, so that a look-up walks from the qname upwards and ends at the first listed name.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from dnsfilter.core.names import Name, ancestry, parent
from dnsfilter.core.rules import Rules

CHUNK = 8_192  # names that a loader takes in one turn: about 2 ms


@dataclass(frozen=True, slots=True)
class Hit:
    """The lists that name one name: masks, one bit a list."""

    names: int = 0  # lists that hold it, whatever follows from that
    blocks: int = 0  # lists that block it: the same without what `protected` takes away
    allows: int = 0  # groups' allow lists that hold it

    def __or__(self, other: "Hit") -> "Hit":
        return Hit(self.names | other.names, self.blocks | other.blocks, self.allows | other.allows)

    def without(self, lists: int) -> "Hit":
        """Return what is left where these lists say nothing."""
        return Hit(self.names & ~lists, self.blocks & ~lists, self.allows)

    def without_blocks(self, lists: int = -1) -> "Hit":
        """Return what is left where these lists, or all, may not block."""
        return Hit(self.names, self.blocks & ~lists, self.allows)


NOTHING = Hit()


@dataclass(frozen=True, slots=True)
class Pair:
    """What a listed name says of itself, and of the names below it."""

    at: Hit
    below: Hit


@dataclass(frozen=True, slots=True)
class Chunk:
    """Listed names that share one pair: what the builder hands to a loader."""

    pair: Pair
    count: int
    names: bytes  # folded names one behind the other, each ended by its root octet


class Index:
    """The compact table. Set id 0 is "no list".

    Names are kept without their root octet, in a dict for each length: one dict of a million
    names would stall its owner each time it grows, and once more when it goes.
    """

    __slots__ = ("_ids", "_pairs", "count", "sets", "tables")

    def __init__(self, chunks: Iterable[Chunk] = ()) -> None:
        self.sets: list[Hit] = [NOTHING]
        self.count = 0
        self._ids: dict[Hit, int] = {NOTHING: 0}
        self._pairs: dict[tuple[int, int], tuple[int, int]] = {}
        self.tables: list[dict[bytes, tuple[int, int]]] = [{} for _ in range(256)]
        for chunk in chunks:
            self.load(chunk)

    def find(self, name: Name) -> int:
        """Return the set id of the lists that name `name`, 0 where there are none.

        name: folded. The work is bounded by its labels, 127 at the most.
        """
        end = len(name) - 1
        tables = self.tables
        found = tables[end].get(name[:end])
        if found is not None:
            return found[0]
        at = name[0] + 1
        while at < end:
            found = tables[end - at].get(name[at:end])
            if found is not None:
                return found[1]
            at += name[at] + 1
        return 0

    def hit(self, name: Name) -> Hit:
        """Return the lists that name `name`."""
        return self.sets[self.find(name)]

    def load(self, chunk: Chunk) -> None:
        """Add the names of one chunk; a loader on a loop gives one a turn."""
        ids = self._id(chunk.pair.at), self._id(chunk.pair.below)
        pair = self._pairs.setdefault(ids, ids)
        names = chunk.names.split(b"\0")[:-1]
        if len(names) != chunk.count:  # a label holds a zero octet
            names = list(_cut(chunk.names))
        tables = self.tables
        for name in names:
            tables[len(name)][name] = pair
        self.count += len(names)

    def _id(self, hit: Hit) -> int:
        known = self._ids.get(hit)
        if known is None:
            known = self._ids[hit] = len(self.sets)
            self.sets.append(hit)
        return known

    def discard(self) -> Iterator[None]:
        """Forget the names, a chunk for each step taken; the index is of no use afterwards."""
        tables, self.tables = self.tables, []
        for table in tables:
            while table:
                for _ in range(min(CHUNK, len(table))):
                    table.popitem()
                yield


def _cut(names: bytes) -> Iterator[bytes]:
    start = at = 0
    while at < len(names):
        if names[at]:
            at += names[at] + 1
        else:
            yield names[start:at]
            start = at = at + 1


@dataclass(frozen=True, slots=True)
class _Said:
    """What lists and groups say of one name, while it is built: a pair, and the lists that allow.

    Of the same name, what a list allows it does not hold, whatever else it says.
    """

    at: Hit = NOTHING
    below: Hit = NOTHING
    open_at: int = 0  # lists that allow the name: what they say of names above does not reach it,
    open_below: int = 0  # nor the names below it

    def __or__(self, other: "_Said") -> "_Said":
        open_at, open_below = self.open_at | other.open_at, self.open_below | other.open_below
        at, below = (self.at | other.at).without(open_at), (self.below | other.below).without(open_below)
        return _Said(at, below, open_at, open_below)

    def under(self, above: "_Said") -> "_Said":
        """Return this with what a name above it says merged in: what is said nearer to a name decides."""
        at, below = above.below.without(self.open_at), above.below.without(self.open_below)
        return _Said(self.at | at, self.below | below, self.open_at, self.open_below)

    def without_blocks(self, lists: int = -1) -> "_Said":
        """Return what is left where these lists, or all, may not block."""
        at, below = self.at.without_blocks(lists), self.below.without_blocks(lists)
        return _Said(at, below, self.open_at, self.open_below)


_SILENCE = _Said()


@dataclass(slots=True)
class Builder:
    """Collects what lists and groups say of names, and resolves it into chunks.

    Allow rules of lists end here: in chunks a list does not name what it allows.
    """

    protected: frozenset[Name] = frozenset()
    unblocked: list[Name] = field(default_factory=list)  # names that lists hold and `protected` keeps open
    _codes: dict[Name, int] = field(default_factory=dict)
    _said: list[_Said] = field(default_factory=list)  # by code
    _known: dict[_Said, int] = field(default_factory=dict)

    def block(self, number: int, rules: Rules) -> None:
        """Add the rules of the list with this number (its bit in `names` and `blocks`)."""
        bit = 1 << number
        hit = Hit(names=bit, blocks=bit)
        self._add(rules.exact, _Said(at=hit))
        self._add(rules.suffix, _Said(at=hit, below=hit))
        self._add(rules.below, _Said(below=hit))
        self._add(rules.allow_exact, _Said(open_at=bit))
        self._add(rules.allow_suffix, _Said(open_at=bit, open_below=bit))
        self._add(rules.allow_below, _Said(open_below=bit))

    def blocks(self, name: Name) -> int:
        """Return the mask of lists added so far that block a name, by itself or by a name above."""
        said = self._of(name)
        mask, spared = said.at.blocks, said.open_at
        for above in ancestry(parent(name)):
            said = self._of(above)
            mask |= said.below.blocks & ~spared
            spared |= said.open_below
        return mask

    def allow(self, number: int, names: Sequence[Name]) -> None:
        """Add the allow names of a group, each with all below it (its bit in `allows`)."""
        hit = Hit(allows=1 << number)
        self._add(names, _Said(at=hit, below=hit))

    def _of(self, name: Name) -> _Said:
        code = self._codes.get(name)
        return _SILENCE if code is None else self._said[code]

    def _code(self, said: _Said) -> int:
        code = self._known.get(said)
        if code is None:
            code = self._known[said] = len(self._said)
            self._said.append(said)
        return code

    def _add(self, names: Sequence[Name], said: _Said) -> None:
        codes = self._codes
        fresh = dict.fromkeys(names, self._code(said))
        merged: dict[int, int] = {}  # many names, few codes
        for name in codes.keys() & fresh.keys():
            before = codes[name]
            if before not in merged:
                merged[before] = self._code(self._said[before] | said)
            fresh[name] = merged[before]
        if codes:
            codes.update(fresh)
        else:
            self._codes = fresh

    def chunks(self) -> Iterator[Chunk]:
        """Resolve and yield all names; the builder is of no use afterwards."""
        self._open_above_protected()
        for name in sorted(self._merge_ancestors()):
            self._replace(name, self._of(name).without_blocks())
        groups: defaultdict[int, list[Name]] = defaultdict(list)
        for name, code in self._codes.items():
            groups[code].append(name)
        self._codes.clear()
        for code, names in groups.items():
            pair = Pair(self._said[code].at, self._said[code].below)
            for start in range(0, len(names), CHUNK):
                part = names[start : start + CHUNK]
                yield Chunk(pair, len(part), b"".join(part))

    def _open_above_protected(self) -> None:
        """A rule for all below a name above a protected one would take that along: it does not block at all.

        Except where the list itself allows the protected name with all below, nearer than that rule.
        """
        taking: dict[Name, int] = {}
        for name in self.protected:
            said = self._of(name)
            spared = said.open_at & said.open_below
            for above in ancestry(parent(name)):
                said = self._of(above)
                taking[above] = taking.get(above, 0) | (said.below.blocks & ~spared)
                spared |= said.open_below
        for above, lists in taking.items():
            if lists:
                self._replace(above, self._of(above).without_blocks(lists))

    def _merge_ancestors(self) -> set[Name]:
        """Let each name have what is said above it; return the names that are protected, they or a name above."""
        codes, said = self._codes, self._said
        protected = set(self.protected)
        for name in self.protected:
            codes.setdefault(name, self._code(_SILENCE))
        below = []
        for name in codes:
            above = name[name[0] + 1 :]
            while len(above) > 1:
                if above in codes:
                    below.append((name, above))
                    break
                above = above[above[0] + 1 :]
        below.sort(key=lambda entry: len(entry[0]))  # what is above is shorter, so it is whole before it is used
        merged: dict[tuple[int, int], int] = {}  # many names, few codes
        for name, above in below:
            both = codes[name], codes[above]
            if both not in merged:
                merged[both] = self._code(said[both[0]].under(said[both[1]]))
            codes[name] = merged[both]
            if above in protected:
                protected.add(name)
        return protected

    def _replace(self, name: Name, opened: _Said) -> None:
        if opened != self._of(name):
            self.unblocked.append(name)
            self._codes[name] = self._code(opened)
