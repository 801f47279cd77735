"""What all targets share: bounds on time, and what a valid name is, said without the code under test."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Run = Callable[[bytes], None]  # raises where a promise is broken


@dataclass(frozen=True, slots=True)
class Target:
    """One promise, and what to try it with."""

    run: Run
    words: tuple[bytes, ...] = ()  # what its input is made of
    corpora: tuple[str, ...] = ()  # of other targets, whose inputs are good ones for this one too
    is_slow: bool = False  # so much so that it is not watched which lines an input reaches


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Bound the CPU time: the machine may be busy with other things."""
    started = time.process_time()
    yield
    took = time.process_time() - started
    assert took <= seconds, f"took {took:.1f} s, {seconds} s is the bound"


def check_name(name: bytes) -> None:
    """Check that a name is in folded wire form (RFC 1035 sections 2.3.4 and 3.1)."""
    assert len(name) <= 255
    assert name == name.lower()
    at = 0
    while name[at]:
        assert name[at] <= 63
        at += 1 + name[at]
    assert at == len(name) - 1


def check_printable(text: str) -> None:
    """Check that text is safe in a terminal and a log."""
    assert text.isprintable(), f"a control character in {text!r}"
