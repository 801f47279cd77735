"""The corpus: what once broke a promise, or was made to, is tried in every run."""

from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.fuzz.make_corpus import corpus
from tests.fuzz.targets import BROKEN, CORPUS, TARGETS, files


def cases() -> Iterator[ParameterSet]:
    for name in TARGETS:
        for path in files(name):
            reason = BROKEN.get(f"{name}/{path.stem}")
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
            yield pytest.param(name, path.read_bytes(), id=f"{name}-{path.stem}", marks=marks)


@pytest.mark.parametrize(("target", "octets"), list(cases()))
def test_every_file_of_the_corpus_keeps_the_promise(target: str, octets: bytes) -> None:
    TARGETS[target].run(octets)


@pytest.mark.parametrize("target", ["step", "complete"])
def test_the_corpus_of_another_target_keeps_the_promise_too(target: str) -> None:
    for other in TARGETS[target].corpora:
        for path in files(other):
            TARGETS[target].run(path.read_bytes())


def test_every_folder_of_the_corpus_is_one_of_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_holds_all_that_its_script_writes(target: str) -> None:
    assert corpus()[target].keys() <= {path.stem for path in files(target)}
