"""What is taken over of lists: judged as the server judges, on files and on what was fetched."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dnsfilter import build
from dnsfilter.core.names import from_text
from dnsfilter.core.policy import Action, decide
from dnsfilter.lists.store import Fetched, Kept, Store
from dnsfilter.settings import ListState, Request

URL = "https://lists.example/t.txt?token=secret"
SERVING = Request(keeps=True)
Names = list[str]


def numbered(count: int, stem: str = "n") -> bytes:
    return b"".join(b"%s%d.example\n" % (stem.encode(), number) for number in range(count))


class World:
    """A configuration with one list `ban`, and the state directory of a server that uses it."""

    def __init__(self, folder: Path, source: str) -> None:
        self.folder, self.config = folder, folder / "dnsfilter.yaml"
        self.state = folder / "state"
        self.file = folder / "ban.txt"
        self.write(source)

    def write(self, source: str) -> None:
        """Write the configuration; `source` is what stands within the braces of the list."""
        self.source = source
        self.config.write_text(
            f"upstreams: [192.0.2.53]\nstate: {self.state}\n"
            f"lists: {{ban: {{{source}}}}}\ngroups: {{default: {{block: [ban]}}}}\n"
        )

    def kept(self, url: str = URL) -> Kept:
        return Store(self.state).kept("ban", url)

    def fetch(self, octets: bytes, url: str = URL, **more: object) -> None:
        """As a fetch does that got these octets."""
        sha256 = hashlib.sha256(octets).hexdigest()
        self.kept(url).fetch(octets, Fetched(sha256, None, None, time.time(), **more))  # type: ignore[arg-type]

    def take(self, **request: object) -> ListState:
        """Build as the server does, and return what became of the list."""
        self.built = build.build(build.read(replace(SERVING, config=str(self.config), **request)))  # type: ignore[arg-type]
        return next(each for each in self.built.head.lists if each.name == "ban")

    def blocks(self, text: str) -> bool:
        """Whether the policy that was built last blocks a name."""
        policy = self.built.policy()
        return decide(policy, policy.clients.default, from_text(text), 0.0).action is Action.BLOCKED


@pytest.fixture
def remote(tmp_path: Path) -> World:
    return World(tmp_path, f"url: '{URL}'")


@pytest.fixture
def local(tmp_path: Path) -> World:
    return World(tmp_path, "file: ban.txt")


# ---- remote lists ----


def test_a_remote_list_that_was_never_fetched_blocks_nothing_and_says_so(remote: World) -> None:
    found = remote.take()
    assert (found.entries, found.checked_at, found.sha256) == (0, 0.0, "")
    assert "not been fetched yet" in found.problem
    assert "blocks nothing" in found.problem


def test_what_was_fetched_is_in_force_and_shows_no_token(remote: World) -> None:
    remote.fetch(b"# Last modified: 2026-11-20\na.example\n")
    found = remote.take()
    assert (found.entries, found.problem, found.dated) == (1, "", "2026-11-20")
    assert found.source == "url https://lists.example/t.txt?..."
    assert time.time() - found.checked_at < 60
    assert remote.blocks("www.a.example")


@pytest.mark.parametrize(
    ("octets", "part"),
    [
        pytest.param(b"", "no rule", id="empty"),
        pytest.param(b"# nothing\n\n", "no rule", id="comments only"),
        pytest.param(b"<!doctype html><title>Log in</title>", "web page", id="HTML"),
        pytest.param(b"0.0.0.0 a.example\n" * 9, "looks like hosts", id="another format"),
        pytest.param(numbered(89) + b"bad line\n" * 11, "11 of 100 lines are no rules", id="too many bad lines"),
        pytest.param(numbered(49), "shrank from 100 rules to 49", id="lost more than half"),
        pytest.param(numbered(1001), "grew from 100 rules to 1001", id="more than ten times as long"),
        pytest.param(b"\xff\xfea\x00b", "encoding", id="broken UTF-16"),
    ],
)
def test_a_fetched_content_that_is_refused_leaves_the_last_good_one(remote: World, octets: bytes, part: str) -> None:
    remote.fetch(numbered(100))
    before = remote.take()
    remote.fetch(octets)
    found = remote.take()
    assert (found.entries, found.sha256, found.changed_at) == (100, before.sha256, before.changed_at)
    assert part in found.problem
    assert "its last good copy, of" in found.problem
    assert remote.blocks("n7.example")


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(numbered(90) + b"bad line\n" * 10, id="a tenth of bad lines"),
        pytest.param(numbered(50), id="lost half"),
        pytest.param(numbered(1000), id="ten times as long"),
    ],
)
def test_what_is_just_within_the_limits_is_taken_over(remote: World, octets: bytes) -> None:
    remote.fetch(numbered(100))
    remote.take()
    remote.fetch(octets)
    found = remote.take()
    assert (found.problem, found.sha256) == ("", hashlib.sha256(octets).hexdigest())


def test_limits_of_ones_own_count(remote: World) -> None:
    remote.write(f"url: '{URL}', max_shrink: 0%, max_growth: 1.5x, max_rejected: 0%")
    remote.fetch(numbered(200))
    remote.take()
    for octets, part in (
        (numbered(199), "max_shrink (0%)"),
        (numbered(301), "max_growth (1.5x)"),
        (numbered(200) + b"bad line\n", "max_rejected (0%)"),
    ):
        remote.fetch(octets)
        assert part in remote.take().problem


def test_small_lists_may_shrink_and_grow(remote: World) -> None:
    remote.fetch(numbered(3))
    remote.take()
    for count in (1, 100, 3):
        remote.fetch(numbered(count))
        found = remote.take(accept=["ban"] if count == 3 else [])
        assert (found.problem, found.entries) == ("", count)


def test_a_refused_content_is_taken_over_once_an_admin_says_so(remote: World) -> None:
    remote.fetch(numbered(100))
    remote.take()
    remote.fetch(numbered(10))
    assert "dnsfilter update --accept ban" in remote.take().problem
    assert "dnsfilter update --accept ban" in remote.take(is_meant=True).problem  # a reload is about files
    found = remote.take(accept=["ban"])
    assert (found.problem, found.entries) == ("", 10)
    assert (remote.take().problem, remote.blocks("n50.example")) == ("", False)


def test_accepting_takes_over_no_nonsense(remote: World) -> None:
    remote.fetch(numbered(100))
    remote.take()
    remote.fetch(b"<html></html>")
    found = remote.take(accept=["ban"])
    assert (found.entries, "web page" in found.problem) == (100, True)


def test_a_refused_content_is_judged_anew_when_the_limits_change(remote: World) -> None:
    remote.fetch(numbered(100))
    remote.take()
    remote.fetch(numbered(10))
    assert remote.take().problem
    remote.write(f"url: '{URL}', max_shrink: 95%")
    found = remote.take()
    assert (found.problem, found.entries) == ("", 10)


def test_the_good_content_may_come_back(remote: World) -> None:
    remote.fetch(numbered(100))
    remote.take()
    remote.fetch(b"")
    assert remote.take().problem
    remote.fetch(numbered(100))
    assert remote.take().problem == ""


def test_the_same_content_again_is_no_change(remote: World) -> None:
    remote.fetch(numbered(9))
    first = remote.take()
    remote.fetch(numbered(9))
    again = remote.take()
    assert again.changed_at == first.changed_at
    assert again.checked_at > first.checked_at


def test_another_source_under_the_same_name_is_marked_until_it_has_something_good(remote: World) -> None:
    remote.fetch(numbered(5))
    remote.take()
    other = "https://lists.example/u.txt"
    remote.write(f"url: '{other}'")
    found = remote.take()
    assert (found.entries, found.source) == (5, "url https://lists.example/u.txt")
    assert "the source changed" in found.problem
    assert "https://lists.example/t.txt?..." in found.problem
    assert "secret" not in found.problem
    remote.fetch(numbered(2, "u"), other)
    found = remote.take()
    assert (found.problem, found.entries, remote.blocks("n1.example")) == ("", 2, False)


def test_a_damaged_copy_is_passed_over(remote: World) -> None:
    remote.fetch(numbered(5))
    remote.take()
    for path in remote.kept().folder.glob("*.list"):
        path.write_bytes(path.read_bytes()[:-4])
    found = remote.take()
    assert (found.entries, "damaged" in found.problem) == (0, True)


def test_a_content_that_was_not_checked_against_the_key_written_now_is_not_new_content(remote: World) -> None:
    remote.fetch(numbered(5))
    remote.take()
    remote.write(f"url: '{URL}', sha256: {'ab' * 32}")
    remote.fetch(numbered(6))
    found = remote.take()
    assert (found.entries, "sha256 or signing_key" in found.problem) == (5, True)


# ---- files ----


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        pytest.param(lambda path: path.unlink(), "does not exist", id="gone"),
        pytest.param(lambda path: path.write_bytes(b""), "no rule", id="emptied"),
        pytest.param(lambda path: path.write_bytes(b"0.0.0.0 a.example\n"), "looks like hosts", id="another format"),
        pytest.param(lambda path: path.write_bytes(numbered(9)), "shrank from 20 rules to 9", id="half of it"),
    ],
)
def test_a_file_that_breaks_leaves_the_last_good_copy_at_a_start_too(
    local: World, damage: Callable[[Path], object], part: str
) -> None:
    local.file.write_bytes(numbered(20))
    local.take()
    damage(local.file)
    found = local.take()
    assert (found.entries, part in found.problem) == (20, True)
    assert local.take().problem == found.problem


def test_a_file_that_shrank_is_taken_over_when_it_is_meant(local: World) -> None:
    local.file.write_bytes(numbered(20))
    local.take()
    local.file.write_bytes(numbered(9))
    assert "`dnsfilter reload` takes it over" in local.take().problem
    assert (local.take(is_meant=True).entries, local.take().problem) == (9, "")


def test_a_file_may_grow_as_it_likes(local: World) -> None:
    local.file.write_bytes(numbered(20))
    local.take()
    local.file.write_bytes(numbered(5_000))
    assert local.take().problem == ""


def test_a_file_that_was_never_good_is_an_error_with_its_place(local: World) -> None:
    with pytest.raises(build.ListErrors, match=r"dnsfilter\.yaml:3: list 'ban': .*ban\.txt does not exist"):
        local.take()
    assert not list(local.state.glob("**/*.json"))


def test_judging_without_a_server_keeps_nothing_and_takes_files_as_they_stand(local: World) -> None:
    local.file.write_bytes(numbered(20))
    local.take(keeps=False)
    assert not local.state.exists()
    local.take()
    local.file.write_bytes(numbered(2))
    assert (local.take(keeps=False).problem, local.take().entries) == ("", 20)
    local.file.unlink()
    with pytest.raises(build.ListErrors, match="does not exist"):
        local.take(keeps=False)


def test_what_is_taken_over_decides_what_is_built_anew(local: World) -> None:
    local.file.write_bytes(numbered(20))
    local.take()

    def inputs(**request: object) -> str:
        return build.read(replace(SERVING, config=str(local.config), **request)).hash  # type: ignore[arg-type]

    same = inputs()
    assert inputs() == same
    local.file.write_bytes(numbered(3))
    changed = inputs()
    local.take()
    refused = inputs()
    assert len({same, changed, refused, inputs(is_meant=True)}) == 4
    assert inputs() == refused
    local.take(is_meant=True)
    local.file.write_bytes(numbered(20))
    assert inputs() == same
