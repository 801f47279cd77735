"""Which lists name a name: rules in, set ids out. Built once, then only read. Knows no clients.

A listed name maps to two sets of lists: `at` for the name itself, `below` for the names
under it. What names above a listed name say is merged into its entry when the index is
built, so that a look-up walks from the qname upwards and ends at the first listed name.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

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

    def without_blocks(self) -> "Hit":
        """Return what is left where no list may block."""
        return Hit(self.names, 0, self.allows)


NOTHING = Hit()


@dataclass(frozen=True, slots=True)
class Pair:
    """What a listed name says of itself, and of the names below it."""

    at: Hit
    below: Hit

    def __or__(self, other: "Pair") -> "Pair":
        return Pair(self.at | other.at, self.below | other.below)

    def under(self, above: "Pair") -> "Pair":
        """Return this pair with what a name above it says merged in."""
        return Pair(self.at | above.below, self.below | above.below)

    def without_blocks(self) -> "Pair":
        """Return what is left where no list may block."""
        return Pair(self.at.without_blocks(), self.below.without_blocks())


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

    __slots__ = ("_ids", "_pairs", "_tables", "count", "sets")

    def __init__(self, chunks: Iterable[Chunk] = ()) -> None:
        self.sets: list[Hit] = [NOTHING]
        self.count = 0
        self._ids: dict[Hit, int] = {NOTHING: 0}
        self._pairs: dict[tuple[int, int], tuple[int, int]] = {}
        self._tables: list[dict[bytes, tuple[int, int]]] = [{} for _ in range(256)]
        for chunk in chunks:
            self.load(chunk)

    def find(self, name: Name) -> int:
        """Return the set id of the lists that name `name`, 0 where there are none.

        name: folded. The work is bounded by its labels, 127 at the most.
        """
        end = len(name) - 1
        tables = self._tables
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
        tables = self._tables
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
        tables, self._tables = self._tables, []
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


@dataclass(slots=True)
class Builder:
    """Collects what lists and groups say of names, and resolves it into chunks."""

    protected: frozenset[Name] = frozenset()
    unblocked: list[Name] = field(default_factory=list)  # names that lists hold and `protected` keeps open
    _codes: dict[Name, int] = field(default_factory=dict)
    _pairs: list[Pair] = field(default_factory=list)
    _numbers: dict[Pair, int] = field(default_factory=dict)

    def block(self, number: int, rules: Rules) -> None:
        """Add the rules of the list with this number (its bit in `names` and `blocks`)."""
        hit = Hit(names=1 << number, blocks=1 << number)
        self._add(rules.exact, Pair(hit, NOTHING))
        self._add(rules.suffix, Pair(hit, hit))
        self._add(rules.below, Pair(NOTHING, hit))

    def blocks(self, name: Name) -> int:
        """Return the mask of lists added so far that block a name, by itself or by a name above."""
        pair = self._codes.get(name)
        mask = 0 if pair is None else self._pairs[pair].at.blocks
        for above in ancestry(parent(name)):
            if (pair := self._codes.get(above)) is not None:
                mask |= self._pairs[pair].below.blocks
        return mask

    def allow(self, number: int, names: Sequence[Name]) -> None:
        """Add the allow names of a group, each with all below it (its bit in `allows`)."""
        hit = Hit(allows=1 << number)
        self._add(names, Pair(hit, hit))

    def _number(self, pair: Pair) -> int:
        number = self._numbers.get(pair)
        if number is None:
            number = self._numbers[pair] = len(self._pairs)
            self._pairs.append(pair)
        return number

    def _add(self, names: Sequence[Name], pair: Pair) -> None:
        fresh = dict.fromkeys(names, self._number(pair))
        for name in self._codes.keys() & fresh.keys():
            fresh[name] = self._number(self._pairs[self._codes[name]] | pair)
        if self._codes:
            self._codes.update(fresh)
        else:
            self._codes = fresh

    def chunks(self) -> Iterator[Chunk]:
        """Resolve and yield all names; the builder is of no use afterwards."""
        self._open_above_protected()
        self._merge_ancestors()
        self._open_protected()
        groups: defaultdict[int, list[Name]] = defaultdict(list)
        for name, number in self._codes.items():
            groups[number].append(name)
        self._codes.clear()
        for number, names in groups.items():
            for start in range(0, len(names), CHUNK):
                part = names[start : start + CHUNK]
                yield Chunk(self._pairs[number], len(part), b"".join(part))

    def _open_above_protected(self) -> None:
        """A rule for all below a name above a protected one would take that along: it does not block at all."""
        for name in {above for below in self.protected for above in ancestry(parent(below))}:
            if (number := self._codes.get(name)) is not None:
                pair = self._pairs[number]
                exact = replace(pair.at, blocks=pair.at.blocks & ~pair.below.blocks)
                self._replace(name, Pair(exact, pair.below.without_blocks()))

    def _merge_ancestors(self) -> None:
        codes, pairs = self._codes, self._pairs
        for name in self.protected:
            codes.setdefault(name, self._number(Pair(NOTHING, NOTHING)))
        below = []
        for name in codes:
            above = name[name[0] + 1 :]
            while len(above) > 1:
                if above in codes:
                    below.append((name, above))
                    break
                above = above[above[0] + 1 :]
        below.sort(key=lambda entry: len(entry[0]))  # what is above is shorter, so it is whole before it is used
        for name, above in below:
            codes[name] = self._number(pairs[codes[name]].under(pairs[codes[above]]))

    def _open_protected(self) -> None:
        if self.protected:
            for name in list(self._codes):
                if not self.protected.isdisjoint(ancestry(name)):
                    self._replace(name, self._pairs[self._codes[name]].without_blocks())

    def _replace(self, name: Name, opened: Pair) -> None:
        if opened != self._pairs[self._codes[name]]:
            self.unblocked.append(name)
            self._codes[name] = self._number(opened)
