"""Keeps the policy in force, and puts another in its place: whole, or not at all."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from dnsfilter import changes, child
from dnsfilter.control import Json
from dnsfilter.core.index import Index
from dnsfilter.lists.source import file_stamp
from dnsfilter.settings import Request
from dnsfilter.snapshot import IN_FORCE, Head

log = logging.getLogger(__name__)

WATCH_S = 3.0  # a changed list is in force within 10 s: seen, seen again at rest, built

Adopt = Callable[[Head, Index], Awaitable[int]]  # puts a policy in force and returns its generation


class Reloader:
    """The policy in force, what is known of its lists, and how the last reload went."""

    def __init__(self, request: Request, head: Head, adopt: Adopt) -> None:
        self._request = request
        self._adopt = adopt
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[Json] | None = None
        self._next_is_full = False
        self._generation = 1
        self.head = head
        self.failures: Counter[str] = Counter()  # refusals by list
        self.checked_at: dict[str, float] = {}  # by list, seconds since the epoch
        self.changed_at: dict[str, float] = {}
        self.degraded: dict[str, str] = {}  # reason to its text
        self.is_successful = True
        self.reloaded_at = time.time()
        self._note_lists()

    def _note_lists(self) -> None:
        for each in self.head.lists:
            self.checked_at[each.name] = each.read_at
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
            is_full, self._next_is_full, self._next = self._next_is_full, False, None
            request = self._request
            if not is_full:
                request = Request(request.config, self.head.config_text, request.listen, request.upstream)
            try:
                told = await self._swap(request)
            except child.Refusal as error:
                return self._refused(error)
            self.is_successful = True
            self.reloaded_at = time.time()
            self.degraded.clear()
            return {
                "changes": told,
                "warnings": list(self.head.warnings),
                "policy": {"hash": self.head.hash, "generation": self._generation},
            }

    async def _swap(self, request: Request) -> list[str]:
        """Build, load and adopt a policy; return what it changes. Raises Refusal, with the old one in force."""
        path = await child.build(request, is_nice=True)
        try:
            head = child.head_of(path)
            if head is None:
                raise child.Refusal("the policy that was built cannot be read", 1)
            if fixed := changes.needs_restart(self.head, head):
                keys = ", ".join(fixed)
                raise child.Refusal(f"a change of {keys} needs a restart; nothing else was taken over either", 1)
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

    def _refused(self, error: child.Refusal) -> Json:
        self.is_successful = False
        for name, reason in error.lists.items():
            self.failures[name] += 1
            self.degraded["list"] = f"list '{name}': {reason}"
        if not error.lists:
            self.degraded["reload"] = str(error)
        log.error("reload refused, the old policy stays in force: %s", error)
        return {"error": str(error), "status": error.status}

    async def watch(self) -> None:
        """Read lists again when their files change; one that is still being written is left until it rests."""
        seen: dict[str, str] = {}
        refused: dict[str, str] = {}
        while True:
            await asyncio.sleep(WATCH_S)
            has_moved, is_at_rest = False, True
            for each in self.head.lists:
                if not each.path:
                    continue
                stamp = file_stamp(Path(each.path))
                if stamp == each.stamp:
                    self.checked_at[each.name] = time.time()
                elif stamp != seen.get(each.path):
                    has_moved, is_at_rest = True, False
                    seen[each.path] = stamp
                elif refused.get(each.path) != stamp:  # what was refused is read again once it changes
                    has_moved = True
            if has_moved and is_at_rest:
                result = await self.reload(is_full=False)
                refused = dict(seen) if "error" in result else {}


def keep(path: Path) -> None:
    """Make the snapshot that is in force the one that the next start may use."""
    kept = path.with_name(IN_FORCE)
    if path != kept:
        path.replace(kept)


def sweep_out(state: Path) -> None:
    """Remove what a process that was killed left half done."""
    for pattern in ("*.snapshot", "*.partial"):
        for left in state.glob(pattern):
            if left.name != IN_FORCE:
                left.unlink(missing_ok=True)
