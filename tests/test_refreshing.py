"""When remote lists are fetched: the times alone, with a clock of the test's own."""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from dnsfilter import child
from dnsfilter.control import Json
from dnsfilter.refreshing import JITTER, RETRY_S, Refresher
from dnsfilter.reloading import Reloader
from dnsfilter.settings import ListState, Request

HOUR = 3600.0
STATE = ListState(
    *("ban", "url https://lists.example/t", "", "", "domains", "suffix", "enforce", "0" * 64, 3, 0, (), ()),
    checked_at=0.0,
    changed_at=0.0,
    refresh_s=HOUR,
)


@dataclass
class Settings:
    state: str = "/nowhere"


@dataclass
class Head:
    lists: tuple[ListState, ...]
    config_text: str = ""
    settings: Settings = field(default_factory=Settings)


@dataclass
class Policies:
    """What a refresher needs of the reloader."""

    head: Head
    checked_at: dict[str, float]
    failures: dict[str, int] = field(default_factory=lambda: {"ban": 0})
    unfetched: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    reloads: list[tuple[bool, tuple[str, ...]]] = field(default_factory=list)
    result: Json = field(default_factory=dict)

    async def reload(self, *, is_full: bool, accept: Iterable[str]) -> Json:
        self.reloads.append((is_full, tuple(accept)))
        return self.result


class World:
    """A refresher, its clock, and what fetches come to."""

    def __init__(self, patch: pytest.MonkeyPatch, state: ListState = STATE, checked_at: float = 0.0) -> None:
        self.now = 1_000.0
        self.policies = Policies(Head((state,)), {"ban": checked_at})
        self.outcome: Json = {"outcome": "unchanged"}
        self.fetched: list[Collection[str] | None] = []
        self.refresher = Refresher(
            Request(), cast(Reloader, self.policies), lambda: self.now, lambda: self.now + 1_000_000
        )
        patch.setattr(child, "fetch", self._fetch)

    async def _fetch(self, _request: Request, names: Collection[str] | None, tell: Any) -> None:
        self.fetched.append(names)
        if "error" in self.outcome:
            raise child.Refusal(self.outcome["error"], 1)
        tell({"list": "ban", **self.outcome})

    def pass_time(self, seconds: float) -> int:
        """Let time pass, looking every second; return how often was fetched."""
        before = len(self.fetched)
        for _ in range(int(seconds)):
            self.now += 1
            if due := self.refresher._look():
                asyncio.run(self.refresher.update(due))
        return len(self.fetched) - before


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def test_a_list_is_fetched_once_a_period_give_or_take_a_tenth(patch: pytest.MonkeyPatch) -> None:
    world = World(patch, checked_at=1_001_000.0)
    assert world.pass_time(HOUR * (1 - JITTER) - 2) == 0
    assert world.pass_time(HOUR * JITTER * 2 + 4) == 1
    assert 8 <= world.pass_time(HOUR * 10) <= 12


def test_one_that_was_checked_long_ago_is_due_at_once_and_the_clock_before_that_does_not_matter(
    patch: pytest.MonkeyPatch,
) -> None:
    assert World(patch).pass_time(1) == 1
    ahead = World(patch, checked_at=9e9)  # the wall clock was set back since
    assert ahead.pass_time(HOUR * (1 - JITTER) - 2) == 0
    assert ahead.pass_time(HOUR * JITTER * 2 + 4) == 1


def test_after_failures_it_waits_longer_and_longer_up_to_its_period(patch: pytest.MonkeyPatch) -> None:
    world = World(patch)
    world.outcome = {"outcome": "failed", "reason": "no route"}
    assert world.pass_time(1) == 1
    assert world.policies.unfetched["ban"].startswith("it could not be fetched: no route; its last good copy")
    assert world.pass_time(RETRY_S * (1 - JITTER) - 2) == 0
    assert world.pass_time(RETRY_S * JITTER * 2 + 4) == 1
    assert world.pass_time(HOUR) <= 7
    assert world.pass_time(HOUR * 10) <= 12
    assert world.policies.failures["ban"] == len(world.fetched)
    world.outcome = {"outcome": "unchanged"}
    world.pass_time(HOUR * 1.2)
    assert world.policies.unfetched == {}
    assert world.policies.checked_at["ban"] > 1_000_000


def test_one_that_lacks_content_is_fetched_at_once_and_once_only(patch: pytest.MonkeyPatch) -> None:
    world = World(patch, checked_at=1_001_000.0)
    assert world.pass_time(5) == 0
    world.policies.head = Head((replace(STATE, wants_fetch=True),))
    assert world.pass_time(60) == 1


def test_what_was_fetched_and_could_not_be_judged_is_judged_with_the_next_fetch(patch: pytest.MonkeyPatch) -> None:
    world = World(patch)
    world.outcome, world.policies.result = {"outcome": "changed"}, {"error": "the disk is full"}
    world.pass_time(1)
    world.outcome, world.policies.result = {"outcome": "unchanged"}, {}
    world.pass_time(HOUR * 1.2)
    assert world.policies.reloads == [(False, ()), (False, ())]
    world.pass_time(HOUR * 1.2)
    assert len(world.policies.reloads) == 2


def test_a_process_that_dies_is_a_failure_of_the_lists_it_was_for(patch: pytest.MonkeyPatch) -> None:
    world = World(patch)
    world.outcome = {"error": "it was killed"}
    assert world.pass_time(1) == 1
    assert "it was killed" in world.policies.unfetched["ban"]


def test_what_an_admin_accepts_is_judged_without_a_fetch(patch: pytest.MonkeyPatch) -> None:
    world = World(patch)
    result = asyncio.run(world.refresher.update([], ["ban"]))
    assert (world.fetched, world.policies.reloads) == ([], [(False, ("ban",))])
    assert result == {"lists": [], "problems": {}}
