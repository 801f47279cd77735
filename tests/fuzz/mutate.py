"""Octets changed at random from a seed: the same seed makes the same octets. Knows no targets."""

import random
from collections.abc import Callable, Sequence

LONGEST = 4_096  # octets: long enough for every construct, short enough for many runs a second

_NUMBERS = (0, 1, 2, 4, 10, 12, 13, 15, 16, 41, 63, 64, 65, 127, 128, 191, 192, 250, 255)
_NUMBERS_16 = (0, 1, 5, 6, 39, 41, 65, 250, 251, 252, 255, 256, 0x3FFF, 0x7FFF, 0x8000, 0xC000, 0xC00C, 0xFFFE, 0xFFFF)

Change = Callable[[bytearray, random.Random], None]


def mutated(pool: Sequence[bytes], words: Sequence[bytes], seed: int) -> bytes:
    """Take one of the pool and change it in a few places.

    words: what the target's input is made of, put in now and then.
    """
    chance = random.Random(seed)
    octets = bytearray(chance.choice(pool))
    for _ in range(1 << chance.randrange(5)):
        kind = chance.randrange(len(_CHANGES) + 2 * bool(words) + 1)
        if kind < len(_CHANGES):
            _CHANGES[kind](octets, chance)
        elif kind == len(_CHANGES):
            _splice(octets, chance.choice(pool), chance)
        else:
            _put(octets, chance.choice(words), chance)
    return bytes(octets[:LONGEST])


def composed(words: Sequence[bytes], seed: int) -> bytes:
    """Put some words together, with random octets between a few of them."""
    chance = random.Random(seed)
    found = [chance.choice(words) for _ in range(chance.randrange(1, 40))]
    if chance.randrange(2):
        found.insert(chance.randrange(len(found) + 1), chance.randbytes(3))
    return b"".join(found)[:LONGEST]


def _at(octets: bytearray, chance: random.Random) -> int:
    return chance.randrange(len(octets)) if octets else 0


def _flip(octets: bytearray, chance: random.Random) -> None:
    if octets:
        octets[_at(octets, chance)] ^= 1 << chance.randrange(8)


def _set(octets: bytearray, chance: random.Random) -> None:
    if octets:
        octets[_at(octets, chance)] = chance.choice((*_NUMBERS, chance.randrange(256)))


def _step(octets: bytearray, chance: random.Random) -> None:
    """Add or take a little: lengths and counts that are off by one."""
    if octets:
        at = _at(octets, chance)
        octets[at] = (octets[at] + chance.choice((-2, -1, 1, 2))) & 255


def _set_16(octets: bytearray, chance: random.Random) -> None:
    at = _at(octets, chance)
    octets[at : at + 2] = chance.choice(_NUMBERS_16).to_bytes(2, "big")


def _point(octets: bytearray, chance: random.Random) -> None:
    """Put a compression pointer somewhere."""
    at = _at(octets, chance)
    octets[at : at + 2] = (0xC000 | chance.randrange(len(octets) + 2) & 0x3FFF).to_bytes(2, "big")


def _insert(octets: bytearray, chance: random.Random) -> None:
    at = _at(octets, chance)
    octets[at:at] = chance.randbytes(chance.choice((1, 1, 2, 4, 9)))


def _repeat(octets: bytearray, chance: random.Random) -> None:
    """Write a piece once more, or many times."""
    at = _at(octets, chance)
    piece = bytes(octets[at : at + chance.choice((1, 2, 4, 12, 40))])
    octets[at:at] = piece * chance.choice((1, 1, 2, 16, 130))
    del octets[LONGEST:]


def _delete(octets: bytearray, chance: random.Random) -> None:
    at = _at(octets, chance)
    del octets[at : at + chance.choice((1, 1, 2, 4, 12, 40))]


def _move(octets: bytearray, chance: random.Random) -> None:
    at, to = _at(octets, chance), _at(octets, chance)
    piece = octets[at : at + chance.choice((2, 4, 12, 16))]
    octets[to : to + len(piece)] = piece


def _cut(octets: bytearray, chance: random.Random) -> None:
    if chance.randrange(3) == 0:
        del octets[_at(octets, chance) :]


_CHANGES: tuple[Change, ...] = (_flip, _set, _step, _set_16, _point, _insert, _repeat, _delete, _move, _cut)


def _splice(octets: bytearray, other: bytes, chance: random.Random) -> None:
    """Go on as another one does."""
    octets[_at(octets, chance) :] = other[chance.randrange(len(other) + 1) :]


def _put(octets: bytearray, word: bytes, chance: random.Random) -> None:
    at = _at(octets, chance)
    octets[at : at + chance.choice((0, 0, 1, len(word)))] = word
