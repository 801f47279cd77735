"""What is kept of lists on disk."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from dnsfilter.lists.store import SETTLED_S, UNUSED_S, Fetched, Good, Kept, Refused, Store

URL = "https://lists.example/t.txt"
OTHER = "https://lists.example/u.txt"


def sha(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def good(octets: bytes, at: float = 1.0) -> Good:
    return Good(sha(octets), octets.count(b"\n"), changed_at=at, checked_at=at)


def fetched(octets: bytes) -> Fetched:
    return Fetched(sha(octets), '"1"', None, checked_at=2.0)


def contents(kept: Kept) -> set[bytes]:
    return {path.read_bytes() for path in kept.folder.glob("*.list")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_of_a_list_that_was_never_kept_nothing_is_known(store: Store, tmp_path: Path) -> None:
    kept = store.kept("ban", URL)
    assert (kept.good, kept.fetched, kept.refused, kept.octets(sha(b""))) == (None, None, None, None)
    assert list(store.others(kept)) == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_is_there_for_the_next_process(store: Store, tmp_path: Path) -> None:
    octets = b"a.example\n"
    kept = store.kept("ban", URL)
    kept.fetch(octets, fetched(octets))
    kept.keep(octets, good(octets))
    again = Store(tmp_path).kept("ban", URL)
    assert (again.good, again.fetched, again.octets(sha(octets))) == (good(octets), fetched(octets), octets)


def test_only_the_owner_may_read_it(store: Store) -> None:
    kept = store.kept("ban", URL)
    kept.keep(b"a\n", good(b"a\n"))
    assert [path.stat().st_mode & 0o777 for path in kept.folder.iterdir()] == [0o600, 0o600]
    assert kept.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for another user")
def test_what_root_writes_belongs_to_the_owner_of_the_state_directory(store: Store, tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    kept = store.kept("ban", URL)
    kept.keep(b"a\n", good(b"a\n"))
    made = [kept.folder.parent, kept.folder, *kept.folder.iterdir()]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(65534, 65534)}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-3]), id="cut"),
        pytest.param(lambda path: path.write_bytes(b"b.example\n"), id="another content"),
        pytest.param(lambda path: path.unlink(), id="gone"),
    ],
)
def test_a_damaged_content_is_none_until_it_is_kept_again(store: Store, damage: object) -> None:
    octets = b"a.example\n"
    kept = store.kept("ban", URL)
    kept.keep(octets, good(octets))
    damage(kept.folder / f"{sha(octets)}.list")  # type: ignore[operator]
    assert kept.octets(sha(octets)) is None
    kept.keep(octets, good(octets))
    assert kept.octets(sha(octets)) == octets


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"known": {}}', '{"known": {"sha256": 1}}', "another digit"])
def test_a_damaged_document_is_none(store: Store, text: str) -> None:
    kept = store.kept("ban", URL)
    kept.keep(b"a\n", good(b"a\n"))
    if text == "another digit":
        text = (kept.folder / "good.json").read_text().replace('"entries": 1', '"entries": 7')
        assert '"entries": 7' in text
    for name in ("good.json", "fetched.json", "refused.json"):
        (kept.folder / name).write_text(text)
    assert (kept.good, kept.fetched, kept.refused) == (None, None, None)
    assert list(store.others(store.kept("ban", OTHER))) == []
    store.tidy([kept])


def test_what_a_process_left_half_written_goes_in_time(store: Store) -> None:
    kept = store.kept("ban", URL)
    kept.keep(b"1\n", good(b"1\n"))
    old, new = kept.folder / "a.list.1.partial", kept.folder / "b.list.2.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, old.stat().st_mtime - SETTLED_S - 1))
    kept.keep(b"1\n", good(b"1\n"))
    assert (old.exists(), new.exists()) == (False, True)


def test_a_content_lasts_while_a_document_points_to_it(store: Store) -> None:
    kept = store.kept("ban", URL)
    for octets in (b"1\n", b"2\n", b"3\n"):
        kept.fetch(octets, fetched(octets))
        if octets == b"1\n":
            kept.keep(octets, good(octets))
        for path in kept.folder.glob("*.list"):
            os.utime(path, (0, path.stat().st_mtime - SETTLED_S - 1))
    kept.fetch(None, fetched(b"3\n"))
    assert contents(kept) == {b"1\n", b"3\n"}


def test_a_content_that_is_just_being_written_is_left(store: Store) -> None:
    kept = store.kept("ban", URL)
    kept.keep(b"1\n", good(b"1\n"))
    (kept.folder / f"{sha(b'2')}.list").write_bytes(b"2")
    kept.keep(b"1\n", good(b"1\n"))
    assert contents(kept) == {b"1\n", b"2"}


def test_a_content_that_is_taken_over_is_refused_no_longer(store: Store) -> None:
    kept = store.kept("ban", URL)
    refused = Refused(sha(b"1\n"), "it shrank", "domains")
    kept.refuse(refused)
    assert kept.refused == refused
    kept.keep(b"1\n", good(b"1\n"))
    assert kept.refused is None


def test_another_source_of_the_same_list_is_another_folder(store: Store) -> None:
    old, new, foreign = store.kept("ban", URL), store.kept("ban", OTHER), store.kept("spam", URL)
    old.keep(b"1\n", good(b"1\n"))
    foreign.keep(b"2\n", good(b"2\n"))
    assert new.good is None
    assert [(each.source, each.good) for each in store.others(new)] == [(URL, good(b"1\n"))]


def test_of_several_earlier_sources_the_newest_comes_first(store: Store) -> None:
    for number, source in enumerate([URL, OTHER, "file /lists/t.txt"]):
        store.kept("ban", source).keep(b"%d\n" % number, good(b"%d\n" % number, at=float(10 - number)))
    others = store.others(store.kept("ban", "https://lists.example/v.txt"))
    assert [each.source for each in others] == [URL, OTHER, "file /lists/t.txt"]


def test_an_earlier_source_goes_once_the_new_one_has_a_good_copy(store: Store) -> None:
    old, new = store.kept("ban", URL), store.kept("ban", OTHER)
    old.keep(b"1\n", good(b"1\n"))
    store.tidy([new])
    assert old.good is not None
    new.keep(b"2\n", good(b"2\n"))
    store.tidy([new])
    assert not old.folder.exists()
    assert new.good is not None


def test_a_list_that_is_configured_no_longer_goes_after_a_month(store: Store) -> None:
    kept = store.kept("ban", URL)
    kept.keep(b"1\n", good(b"1\n"))
    store.tidy([])
    assert kept.good is not None
    about = kept.folder.stat()
    os.utime(kept.folder, (about.st_atime, about.st_mtime - UNUSED_S - 1))
    store.tidy([])
    assert not kept.folder.exists()


def test_what_cannot_be_written_says_so_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "lists").write_text("a file in the way")
    with pytest.raises(OSError, match="lists"):
        store.kept("ban", URL).keep(b"1\n", good(b"1\n"))
    assert list(store.others(store.kept("ban", URL))) == []


def test_documents_say_which_list_and_source_they_are_about(store: Store) -> None:
    kept = store.kept("ban", URL)
    kept.keep(b"1\n", good(b"1\n"))
    about = json.loads((kept.folder / "good.json").read_text())
    assert (about["list"], about["source"], about["known"]["entries"]) == ("ban", URL, 1)
