"""Look names up in the index that a server has in force, in this process alone, and time it.

lookups.py SNAPSHOT < names        writes microseconds of CPU a look-up, as one JSON object

Runs under the interpreter that dnsfilter is installed for. Each name is looked up as it stands, below it, and beside
them as many that no list names; a look-up that finds what it should not, or does not find what it should, ends it.
"""

import json
import random
import sys
import time
from pathlib import Path

from harness import word

from dnsfilter.core.index import Index
from dnsfilter.core.names import Name, from_text
from dnsfilter.snapshot import Reader

ROUNDS = 5  # the fastest one counts


def unlisted(rng: random.Random) -> str:
    """A name of three to six labels."""
    return ".".join([word(rng) for _ in range(rng.randrange(1, 5))] + ["free.example"])


def microseconds(index: Index, names: list[Name]) -> float:
    """CPU of one look-up, with the loop that makes it."""
    find = index.find
    times = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for name in names:
            find(name)
        times.append(time.process_time() - begun)
    return min(times) / len(names) * 1e6


def main() -> None:
    """Load, check, measure."""
    listed = sys.stdin.read().split()
    index = Index(Reader(Path(sys.argv[1])).chunks())
    rng = random.Random(4)
    kinds = {
        "listed": [from_text(name) for name in listed],
        "below": [from_text(f"{word(rng)}.{word(rng)}.{name}") for name in listed],
        "unlisted": [from_text(unlisted(rng)) for _ in listed],
    }
    for kind, names in kinds.items():
        wrong = [name for name in names if bool(index.hit(name).blocks) is (kind == "unlisted")]
        if wrong:
            sys.exit(f"{len(wrong)} of {len(names)} names that are {kind} are found to be otherwise: {wrong[0]!r}")
    print(json.dumps({kind: round(microseconds(index, names), 3) for kind, names in kinds.items()}))


if __name__ == "__main__":
    main()
