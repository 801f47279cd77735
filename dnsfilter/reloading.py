"""Keeps the policy in force, and puts another in its place: whole, or not at all."""

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path

from dnsfilter import changes, child
from dnsfilter.control import Json
from dnsfilter.core.index import Index
from dnsfilter.lists.source import file_stamp
from dnsfilter.settings import Request
from dnsfilter.snapshot import IN_FORCE, Head

log = logging.getLogger(__name__)

WATCH_S = 2.0  # a changed list is in force within 10 s: seen, seen again at rest, built
RESTLESS = 3  # rounds for which a file that does not come to rest holds up the others

_LEFT_OVER = re.compile(r"[0-9]+(\.[0-9]+)?\.(snapshot|partial)")  # as build and snapshot name their files
Adopt = Callable[[Head, Index], Awaitable[int]]  # puts a policy in force and returns its generation


class Reloader:
    """The policy in force, what is known of its lists, and how the last reload went."""

    def __init__(self, request: Request, built: child.Built, head: Head, adopt: Adopt) -> None:
        self._request = replace(request, state=head.settings.state, keeps=True)
        self._adopt = adopt
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[Json] | None = None
        self._running: asyncio.Task[Json] | None = None
        self._next_is_full = False
        self._next_accept: set[str] = set()
        self._generation = 1
        self.head = head
        self.failures: Counter[str] = Counter()  # refusals by list
        self.checked_at: dict[str, float] = {}  # by list, seconds since the epoch
        self.changed_at: dict[str, float] = {}
        self._refused = ""  # why the last reload changed nothing at all
        self._unusable: dict[str, str] = {}  # lists that it was for, and why
        self.unfetched: dict[str, str] = {}  # remote lists whose last fetch failed, and why
        self.reloaded_at = time.time()
        self._note_lists(head, built.checked_at)
        self.failures.update(self.problems.keys())

    @property
    def problems(self) -> dict[str, str]:
        """Why lists are not what their sources say now, by list."""
        built = {each.name: each.problem for each in self.head.lists if each.problem}
        return {**built, **self.unfetched, **self._unusable}

    @property
    def _to_come(self) -> dict[str, str]:
        """Remote lists of which nothing is refused, only nothing newer was fetched: another fetch may mend it."""
        return {**{each.name: each.problem for each in self.head.lists if each.wants_fetch}, **self.unfetched}

    @property
    def is_successful(self) -> bool:
        """Whether the last reload took over all that is on this machine; remote lists come and go."""
        return not self._refused and not any(each.problem for each in self.head.lists if not each.refresh_s)

    @property
    def degraded(self) -> dict[str, str]:
        """What is not as it should be: reason to its text."""
        found = {}
        if self.problems:
            found["list"] = "; ".join(f"list '{name}': {reason}" for name, reason in self.problems.items())
        if self._refused and not self._unusable:
            found["reload"] = self._refused
        return found

    def _note_lists(self, head: Head, checked_at: dict[str, float]) -> None:
        before = {each.name: each.problem for each in self.head.lists}
        self.head = head
        self.unfetched = {each.name: self.unfetched[each.name] for each in head.lists if each.name in self.unfetched}
        for each in head.lists:
            is_said = each.name in checked_at and not each.problem
            self.checked_at[each.name] = checked_at[each.name] if is_said else each.checked_at
            self.changed_at[each.name] = each.changed_at
            if each.problem and each.problem != before.get(each.name):
                self.failures[each.name] += 1

    async def reload(self, *, is_full: bool = True, accept: Iterable[str] = ()) -> Json:
        """Build anew and swap, or keep the old policy. At most one runs and one waits; others join that one.

        is_full: with the configuration as it stands now, else only its lists are read again.
        accept: lists that are taken over however they have changed.
        """
        self._next_is_full = self._next_is_full or is_full
        self._next_accept |= set(accept)
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._reload())
        return await asyncio.shield(self._next)

    async def _reload(self) -> Json:
        async with self._lock:
            is_full, self._next_is_full = self._next_is_full, False
            accept, self._next_accept = tuple(sorted(self._next_accept)), set()
            self._running, self._next = self._next, None
            request = replace(self._request, is_meant=is_full, accept=accept)
            if not is_full:
                request = replace(request, text=self.head.config_text)
            try:
                told = await self._swap(request)
            except child.Refusal as error:
                return self._refuse(error)
            except Exception as error:
                log.exception("reload failed")
                return self._refuse(child.Refusal(f"internal error: {error!r}", 1))
            self.reloaded_at = time.time()
            self._unusable = {}
            if is_full:  # lists alone say nothing of a configuration that was refused
                self._refused = ""
            return {
                "changes": told,
                "warnings": [*self.head.warnings, *(f"list '{name}': {text}" for name, text in self._to_come.items())],
                "problems": {
                    each.name: each.problem
                    for each in self.head.lists
                    if each.problem and each.name not in self._to_come
                },
                "policy": {"hash": self.head.hash, "generation": self._generation},
            }

    async def _swap(self, request: Request) -> list[str]:
        """Build, load and adopt a policy; return what it changes. Raises Refusal, with the old one in force."""
        built = await child.build(request, is_nice=True)
        try:
            head = child.head_of(built.path)
            if head is None:
                raise child.Refusal("the policy that was built cannot be read", 1)
            if fixed := changes.needs_restart(self.head, head):
                keys = ", ".join(fixed)
                raise child.Refusal(f"a change of {keys} needs a restart; nothing else was taken over either", 1)
            if head.inputs == self.head.inputs:
                self._note_lists(self.head, built.checked_at)
                return []
            index = None  # one that decides alike need not be loaded
            if (head.hash, head.settings) != (self.head.hash, self.head.settings):
                head, index = await child.load(built.path)
            keep(built.path)
        finally:
            if built.path.name != IN_FORCE:
                built.path.unlink(missing_ok=True)
        told = changes.between(self.head, head)
        for line in told:
            log.info("reload: %s", line)
        self._tell_problems(head)
        if index is not None:
            self._generation = await self._adopt(head, index)
        self._note_lists(head, built.checked_at)
        return told

    def _tell_problems(self, head: Head) -> None:
        known = {(each.name, each.problem) for each in self.head.lists}
        for each in head.lists:
            if each.problem and (each.name, each.problem) not in known:
                log.error("list '%s': %s", each.name, each.problem)

    def _refuse(self, error: child.Refusal) -> Json:
        self.failures.update(error.lists.keys())
        self._refused, self._unusable = str(error), dict(error.lists)
        log.error("reload refused, the old policy stays in force: %s", error)
        return {"error": str(error), "status": error.status}

    async def close(self) -> None:
        """Give up a reload that runs."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def watch(self) -> None:
        """Read lists again when their files change; one that is still being written is left until it rests."""
        judged = {each.path: each.stamp for each in self.head.lists if each.path}  # as they were read last
        before: dict[str, str] = {}
        waited = 0
        while True:
            await asyncio.sleep(WATCH_S)
            stamps = {each.path: file_stamp(Path(each.path)) for each in self.head.lists if each.path}
            moved = {path for path, stamp in stamps.items() if judged.setdefault(path, stamp) != stamp}
            for each in self.head.lists:
                if not each.refresh_s and each.path not in moved and not each.problem:
                    self.checked_at[each.name] = time.time()
            restless = {path for path in moved if before.get(path) != stamps[path]}
            before = stamps
            waited = waited + 1 if restless else 0
            if moved and (not restless or waited > RESTLESS):
                judged |= stamps
                waited = 0
                await self.reload(is_full=False)


def keep(path: Path) -> None:
    """Make the snapshot that is in force the one that the next start may use."""
    kept = path.with_name(IN_FORCE)
    if path != kept:
        path.replace(kept)


def sweep_out(state: Path) -> None:
    """Remove what a process that was killed left half done."""
    for left in state.iterdir():
        if _LEFT_OVER.fullmatch(left.name):
            left.unlink(missing_ok=True)
