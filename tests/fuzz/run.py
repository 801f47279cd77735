"""The long mode: mutates the corpus for as long as it is told, and keeps what breaks a promise.

    python -m tests.fuzz.run [--seed N] [TARGET...]

DNSFILTER_FUZZ_SECONDS is the time for all targets together. Inputs that reach lines of dnsfilter
which none before reached are mutated further. A find is made smaller, printed, and written to the
corpus, where every test run replays it. Exit status 1 where there was one.
"""

import argparse
import logging
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

import dnsfilter
from tests.fuzz.mutate import LONGEST, composed, mutated
from tests.fuzz.targets import CORPUS, TARGETS, seeds

SECONDS = 600.0  # without DNSFILTER_FUZZ_SECONDS
HANG_S = 30
MEMORY = 2 * 2**30  # octets of address space
TRACED = 6  # one input in so many is run slowly, to see which lines it reaches
FINDS = 5  # of one target, then the next one is run
SHRINK_S = 5.0

PACKAGE = str(Path(dnsfilter.__file__).parent)
Line = tuple[str, int]


class TakesTooLong(BaseException):
    """Goes through `except Exception`, as a time-out has to."""


def _on_alarm(_signal: int, _frame: FrameType | None) -> None:
    raise TakesTooLong(f"more than {HANG_S} s")


def broken(run: Callable[[bytes], None], octets: bytes) -> BaseException | None:
    """Run one input; the exception that it ends in, None where the promise is kept."""
    signal.alarm(HANG_S)
    try:
        run(octets)
    except (Exception, TakesTooLong) as error:  # noqa: BLE001 - that is what is looked for
        return error
    finally:
        signal.alarm(0)
    return None


def lines_of(run: Callable[[bytes], None], octets: bytes) -> set[Line]:
    """Run one input and return the lines of dnsfilter that it reaches; a bound on time may be broken by that alone."""
    found: set[Line] = set()

    def local(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            found.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(PACKAGE) else None

    sys.settrace(enter)
    try:
        broken(run, octets)
    finally:
        sys.settrace(None)
    return found


def kind(error: BaseException) -> str:
    """Name an exception and the place it comes from: two finds of one kind are most likely one flaw."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [each for each in frames if "/dnsfilter/" in each.filename or "/fuzz/" in each.filename] or frames
    last = ours[-1] if ours else None
    place = f"{Path(last.filename).stem}_{last.lineno}" if last else "nowhere"
    return re.sub(r"\W+", "_", f"{type(error).__name__}_{place}".lower())


def smaller(run: Callable[[bytes], None], octets: bytes, wanted: str) -> bytes:
    """Take pieces out for as long as it fails in the same way."""
    end, size = time.monotonic() + SHRINK_S, max(1, len(octets) // 2)
    while size and time.monotonic() < end:
        at = 0
        while at < len(octets) and time.monotonic() < end:
            tried = octets[:at] + octets[at + size :]
            error = broken(run, tried)
            if error is not None and kind(error) == wanted:
                octets = tried
            else:
                at += size
        size //= 2
    return octets


@dataclass
class Fuzzing:
    """One target being run."""

    name: str
    chance: random.Random
    pool: list[bytes] = field(default_factory=list)
    reached: set[Line] = field(default_factory=set)
    finds: dict[str, Path] = field(default_factory=dict)
    runs: int = 0

    def go(self, seconds: float) -> None:
        """Run inputs for so long, first those of the corpus."""
        end = time.monotonic() + seconds
        for octets in list(seeds(self.name)) or [b""]:
            self._try(octets)
            self._watch(octets)
            self.pool.append(octets)
        while time.monotonic() < end and len(self.finds) < FINDS:
            octets = self._next()
            self._try(octets)
            if self.runs % TRACED == 0 and self._watch(octets):
                self.pool.append(octets)

    def _watch(self, octets: bytes) -> bool:
        """Tell whether an input reaches lines that none before did."""
        target, before = TARGETS[self.name], len(self.reached)
        if not target.is_slow:
            self.reached |= lines_of(target.run, octets)
        return len(self.reached) > before

    def _next(self) -> bytes:
        words, seed = TARGETS[self.name].words, self.chance.getrandbits(64)
        return composed(words, seed) if words and seed % 5 == 0 else mutated(self.pool, words, seed)

    def _try(self, octets: bytes) -> None:
        self.runs += 1
        run = TARGETS[self.name].run
        error = broken(run, octets)
        if error is None or (wanted := kind(error)) in self.finds:
            return
        octets = smaller(run, octets, wanted)
        path = CORPUS / self.name / f"{wanted}_{sha256(octets).hexdigest()[:8]}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(octets)
        self.finds[wanted] = path
        print(f"\nFIND in {self.name}: {path}\n{octets[:LONGEST]!r}")
        traceback.print_exception(error)
        sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz dnsfilter for DNSFILTER_FUZZ_SECONDS.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    options = parser.parse_args()
    if unknown := [each for each in options.targets if each not in TARGETS]:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    chosen = options.targets or list(TARGETS)
    seconds = float(os.environ.get("DNSFILTER_FUZZ_SECONDS", SECONDS)) / len(chosen)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _on_alarm)
    logging.disable(logging.CRITICAL)
    print(f"seed {options.seed}, {seconds:.0f} s for each of {len(chosen)} targets")
    finds = 0
    for name in chosen:
        fuzzing = Fuzzing(name, random.Random(f"{options.seed} {name}"))
        fuzzing.go(seconds)
        finds += len(fuzzing.finds)
        print(
            f"{name}: {fuzzing.runs:,} inputs, {len(fuzzing.reached)} lines reached, {len(fuzzing.pool)} in the pool,"
            f" {len(fuzzing.finds)} finds",
            flush=True,
        )
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
