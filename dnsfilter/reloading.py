"""Keeps the policy in force, and puts another in its place: whole, or not at all."""

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
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
MAX_SHRINK = 0.5  # of a list's rules, when its file changes by itself
FEW_RULES = 10  # lists of fewer may shrink as they like

_LEFT_OVER = re.compile(r"[0-9]+(\.[0-9]+)?\.(snapshot|partial)")  # as build and snapshot name their files
Adopt = Callable[[Head, Index], Awaitable[int]]  # puts a policy in force and returns its generation


class Reloader:
    """The policy in force, what is known of its lists, and how the last reload went."""

    def __init__(self, request: Request, head: Head, adopt: Adopt) -> None:
        self._request = replace(request, state=head.settings.state)
        self._adopt = adopt
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[Json] | None = None
        self._running: asyncio.Task[Json] | None = None
        self._next_is_full = False
        self._generation = 1
        self.head = head
        self.failures: Counter[str] = Counter()  # refusals by list
        self.checked_at: dict[str, float] = {}  # by list, seconds since the epoch
        self.changed_at: dict[str, float] = {}
        self._contents: dict[str, str] = {}  # hashes, by list
        self.degraded: dict[str, str] = {}  # reason to its text
        self.is_successful = True
        self.reloaded_at = time.time()
        self._note_lists()

    def _note_lists(self) -> None:
        for each in self.head.lists:
            self.checked_at[each.name] = each.read_at
            if self._contents.get(each.name) != each.sha256:
                self._contents[each.name] = each.sha256
                self.changed_at[each.name] = each.modified_at

    async def reload(self, *, is_full: bool = True) -> Json:
        """Build anew and swap, or keep the old policy. At most one runs and one waits; others join that one.

        is_full: with the configuration as it stands now, else only its lists are read again.
        """
        self._next_is_full = self._next_is_full or is_full
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._reload())
        return await asyncio.shield(self._next)

    async def _reload(self) -> Json:
        async with self._lock:
            is_full, self._next_is_full = self._next_is_full, False
            self._running, self._next = self._next, None
            request = self._request
            if not is_full:
                request = replace(request, text=self.head.config_text)
            try:
                told = await self._swap(request, is_full=is_full)
            except child.Refusal as error:
                return self._refused(error)
            except Exception as error:
                log.exception("reload failed")
                return self._refused(child.Refusal(f"internal error: {error!r}", 1))
            self.reloaded_at = time.time()
            self.degraded.pop("list", None)
            if is_full:  # lists alone say nothing of a configuration that was refused
                self.degraded.pop("reload", None)
            self.is_successful = "reload" not in self.degraded
            return {
                "changes": told,
                "warnings": list(self.head.warnings),
                "policy": {"hash": self.head.hash, "generation": self._generation},
            }

    async def _swap(self, request: Request, *, is_full: bool) -> list[str]:
        """Build, load and adopt a policy; return what it changes. Raises Refusal, with the old one in force."""
        path = await child.build(request, is_nice=True)
        try:
            head = child.head_of(path)
            if head is None:
                raise child.Refusal("the policy that was built cannot be read", 1)
            if fixed := changes.needs_restart(self.head, head):
                keys = ", ".join(fixed)
                raise child.Refusal(f"a change of {keys} needs a restart; nothing else was taken over either", 1)
            if not is_full:
                self._judge_sizes(head)
            if head.inputs == self.head.inputs:
                self.checked_at |= dict.fromkeys(self.checked_at, time.time())
                return []
            head, index = await child.load(path)
            keep(path)
        finally:
            if path.name != IN_FORCE:
                path.unlink(missing_ok=True)
        told = changes.between(self.head, head)
        for line in told:
            log.info("reload: %s", line)
        self.head = head
        self._note_lists()
        self._generation = await self._adopt(head, index)
        return told

    def _judge_sizes(self, head: Head) -> None:
        """Hold back a list that lost most of its rules by itself: it may be half written. Raises Refusal."""
        before = {each.name: each.entries for each in self.head.lists}
        reasons = {
            each.name: f"it shrank from {before[each.name]} rules to {each.entries}; `dnsfilter reload` takes that over"
            for each in head.lists
            if each.entries < before.get(each.name, 0) * MAX_SHRINK and before[each.name] >= FEW_RULES
        }
        if reasons:
            text = "\n".join(f"list '{name}': {reason}" for name, reason in reasons.items())
            raise child.Refusal(text, 1, reasons)

    def _refused(self, error: child.Refusal) -> Json:
        self.is_successful = False
        self.failures.update(error.lists.keys())
        if error.lists:
            self.degraded["list"] = "; ".join(f"list '{name}': {reason}" for name, reason in error.lists.items())
        else:
            self.degraded["reload"] = str(error)
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
                if each.path not in moved and "list" not in self.degraded:
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
