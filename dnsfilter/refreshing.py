"""Has remote lists fetched: each when its time has come, all when an admin asks. Fetches nothing itself."""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from dnsfilter import child
from dnsfilter.control import Json
from dnsfilter.reloading import Reloader
from dnsfilter.settings import ListState, Request

log = logging.getLogger(__name__)

LOOK_S = 1.0  # how often due times are looked at
RETRY_S = 30.0  # after a first failure; doubled with each further one, up to the list's own period
JITTER = 0.1  # of a period, so that many resolvers do not come at once

Tell = Callable[[Json], None]


@dataclass(slots=True)
class _Due:
    at: float  # `now`
    failures: int = 0  # in a row
    lacked: bool = False  # whether it had no content when it was last looked at


class Refresher:
    """When each remote list is fetched next, and how the last time went."""

    def __init__(
        self, request: Request, reloader: Reloader, now: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._request = replace(request, state=reloader.head.settings.state)
        self._reloader = reloader
        self._now, self._wall = now, wall
        self._due: dict[tuple[str, str], _Due] = {}  # by list and source
        self._lock = asyncio.Lock()
        self._owes_reload = False  # something was fetched that is not judged yet

    async def watch(self) -> None:
        """Fetch what is due, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if due := self._look():
                    await self.update(due)
            except Exception:
                log.exception("lists were not refreshed")

    def _remote(self) -> list[ListState]:
        return [each for each in self._reloader.head.lists if each.refresh_s]

    def _look(self) -> list[str]:
        """Return the lists that are due: a new one by when it was checked last, one that lacks content at once."""
        now, remote = self._now(), self._remote()
        known = {(each.name, each.source): self._due.get((each.name, each.source)) for each in remote}
        self._due = {key: due for key, due in known.items() if due is not None}
        for each in remote:
            if (each.name, each.source) not in self._due:
                age = max(0.0, self._wall() - self._reloader.checked_at[each.name])
                self._due[each.name, each.source] = _Due(now + max(0.0, _jittered(each.refresh_s) - age))
            due = self._due[each.name, each.source]
            if each.wants_fetch and not due.lacked:
                due.at = now
            due.lacked = each.wants_fetch
        return [each.name for each in remote if self._due[each.name, each.source].at <= now]

    async def update(
        self, names: Collection[str] | None = None, accept: Iterable[str] = (), tell: Tell = lambda _told: None
    ) -> Json:
        """Fetch lists, put in force what came, and return what became of each.

        names: None for all remote ones. accept: lists that are taken over however they have changed.
        tell: hears of progress.
        """
        outcomes: dict[str, Json] = {}
        reloads: list[asyncio.Task[Json]] = []
        accepted = list(accept)

        def reload() -> None:
            self._owes_reload = True
            work = self._reloader.reload(is_full=False, accept=accepted)
            reloads.append(asyncio.get_running_loop().create_task(work))

        def take(told: Json) -> None:
            if "outcome" not in told:
                tell(told)
                return
            outcomes[told["list"]] = told
            self._note(told["list"], told)
            if told["outcome"] == "changed":  # a slow list must not hold up the others
                reload()

        async with self._lock:
            try:
                request = replace(self._request, text=self._reloader.head.config_text)
                if names is None or names:
                    await child.fetch(request, names, take)
            except child.Refusal as error:
                log.error("lists were not fetched: %s", error)
                for each in self._remote():
                    if each.name not in outcomes and (names is None or each.name in names):
                        take({"list": each.name, "outcome": "failed", "reason": str(error)})
            if not reloads and (accepted or self._owes_reload):
                reload()
            for result in await asyncio.gather(*reloads):
                if "error" in result:
                    return result
            self._owes_reload = False
        problems = self._reloader.problems
        return {
            "lists": [self._told(name, told) for name, told in outcomes.items()],
            "problems": {name: problems[name] for name in accepted if name in problems},
        }

    def _note(self, name: str, told: Json) -> None:
        """Take note of how a fetch went, and set when the next one is due."""
        reloader = self._reloader
        for each in self._remote():
            if each.name != name:
                continue
            due = self._due.setdefault((name, each.source), _Due(0.0))
            if told["outcome"] == "failed":
                reloader.failures[name] += 1
                log.error("list '%s': it could not be fetched: %s", name, told["reason"])
                left = "its last good copy stays in force" if each.sha256 else "it blocks nothing yet"
                reloader.unfetched[name] = f"it could not be fetched: {told['reason']}; {left}"
                pause = min(each.refresh_s, RETRY_S * 2.0 ** min(due.failures, 20))
                due.failures, due.at = due.failures + 1, self._now() + _jittered(pause)
                continue
            due.failures, due.at = 0, self._now() + _jittered(each.refresh_s)
            reloader.unfetched.pop(name, None)
            if told["outcome"] == "unchanged" and not each.problem:
                reloader.checked_at[name] = self._wall()

    def _told(self, name: str, told: Json) -> Json:
        found = next((each for each in self._reloader.head.lists if each.name == name), None)
        return {**told, "entries": found.entries if found else 0, "problem": self._reloader.problems.get(name, "")}


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - spreads load, hides nothing
