"""The long mode itself: it finds a planted flaw, makes it small, and keeps it under its exception's name."""

import random
from pathlib import Path

import pytest

from tests.fuzz import run, targets
from tests.fuzz.mutate import LONGEST, composed, mutated
from tests.fuzz.promise import Target


def flawed(octets: bytes) -> None:
    if b"\xff" in octets:
        raise KeyError(octets)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run, "CORPUS", tmp_path)
    monkeypatch.setattr(targets, "CORPUS", tmp_path)
    monkeypatch.setitem(targets.TARGETS, "planted", Target(flawed, (b"a word", b"another\xff")))
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "plain.bin").write_bytes(b"nothing wrong with this")
    return tmp_path


def test_a_planted_flaw_is_found_made_small_and_kept(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fuzzing = run.Fuzzing("planted", random.Random(1))
    fuzzing.go(0.5)
    [find] = fuzzing.finds.values()
    assert find.parent == corpus / "planted"
    assert find.name.startswith("keyerror_test_run_")
    assert find.read_bytes() == b"\xff"
    assert "FIND in planted" in capsys.readouterr().out
    assert find in targets.files("planted")


def test_an_input_that_is_known_to_be_broken_is_no_seed(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (corpus / "planted" / "bad.bin").write_bytes(b"\xff")
    monkeypatch.setitem(targets.BROKEN, "planted/bad", "planted")
    assert list(targets.seeds("planted")) == [b"nothing wrong with this"]


def test_the_same_seed_makes_the_same_octets() -> None:
    pool, words = [b"abcdefgh" * 20, b""], (b"word", b"\0")
    for seed in range(300):
        octets = mutated(pool, words, seed)
        assert octets == mutated(pool, words, seed)
        assert len(octets) <= LONGEST
        assert composed(words, seed) == composed(words, seed)
    assert len({mutated(pool, words, seed) for seed in range(300)}) > 250
