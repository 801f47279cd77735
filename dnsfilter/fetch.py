"""Fetches remote lists into the state directory. What becomes of them is judged when the policy is built.

`python -m dnsfilter.fetch` is the child process in which the server has it done: TLS, unpacking and a
slow disk would stall the loop that answers.
"""

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dnsfilter import build
from dnsfilter.config.load import Loaded
from dnsfilter.config.problems import ConfigError
from dnsfilter.config.schema import ListConfig
from dnsfilter.core.names import ancestry, from_text
from dnsfilter.lists import download
from dnsfilter.lists.download import DownloadError, NotModified, Wanted
from dnsfilter.lists.store import Fetched, Kept, Store
from dnsfilter.settings import Endpoint, Request
from dnsfilter.upstream import lookup

AT_ONCE = 4  # lists
PROGRESS_S = 0.1  # between two words about one list

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Resolvers:
    """Who is asked for the addresses of the hosts of lists: never the system's own way, which may lead to us."""

    default: Sequence[Endpoint]
    zones: Mapping[bytes, Sequence[Endpoint]]  # those of `forward`, whose names go nowhere else

    async def __call__(self, host: str) -> Sequence[str]:
        """Return the addresses of a host. Raises DownloadError."""
        name = from_text(host)
        endpoints = next((self.zones[above] for above in ancestry(name) if above in self.zones), self.default)
        try:
            return await lookup.addresses(name, endpoints)
        except lookup.LookupFailed as error:
            raise DownloadError(str(error), is_transient=True) from None


def resolvers(loaded: Loaded, request: Request) -> Resolvers:
    """Return who is to be asked. Raises ConfigError."""
    config = loaded.config
    upstreams = () if config.resolve.bootstrap else build.upstreams(loaded, Path(request.resolv_conf))
    zones = {zone.zone: build.plain(map(build.resolver, zone.upstreams)) for zone in config.forward}
    return Resolvers(build.bootstrap(config, upstreams), zones)


async def run(request: Request, names: Collection[str] | None, tell: Tell) -> None:
    """Fetch the remote lists, or those of them that are named; tell what happens. Raises ConfigError.

    Told are, with the list's name: progress as `done` and `total` octets, and in the end one `outcome`:
    `changed`, `unchanged`, or `failed` with its `reason`.
    """
    loaded = build.configuration(request)
    ask, store = resolvers(loaded, request), Store(build.state_of(loaded, request))
    remote = {name: entry for name, entry in loaded.config.lists.items() if entry.url is not None}
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, entry: ListConfig) -> None:
        async with gate:
            try:
                told = await _fetch(store.kept(name, str(entry.url)), entry, ask, _paced(name, tell))
            except OSError as error:  # one full disk, and yet the others may fit
                where = error.filename or store.kept(name, str(entry.url)).folder
                told = {"outcome": "failed", "reason": f"{where} cannot be written: {error.strerror}"}
            tell({"list": name, **told})

    await asyncio.gather(*(one(name, entry) for name, entry in remote.items() if names is None or name in names))


def _paced(name: str, tell: Tell) -> Callable[[int, int | None], None]:
    """Tell of progress now and then."""
    told_at = 0.0

    def progress(done: int, total: int | None) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= PROGRESS_S:
            told_at = time.monotonic()
            tell({"list": name, "done": done, "total": total})

    return progress


async def _fetch(
    kept: Kept,
    entry: ListConfig,
    resolve: Callable[[str], Awaitable[Sequence[str]]],
    tell: Callable[[int, int | None], None],
) -> dict[str, str]:
    before, proof = kept.fetched or Fetched("", None, None, 0.0), entry.sha256 or entry.signing_key or ""
    is_there = before.proof == proof and bool(before.sha256) and kept.octets(before.sha256) is not None
    wanted = Wanted(
        url=str(entry.url),
        etag=before.etag if is_there else None,
        last_modified=before.last_modified if is_there else None,
        max_size=entry.max_size,
        sha256=entry.sha256,
        signing_key=entry.signing_key,
    )
    try:
        found = await download.fetch(wanted, resolve, tell)
    except DownloadError as error:
        failures = before.failures + 1
        kept.fetch(None, replace(before, failed_at=time.time(), failures=failures, failure=str(error)))
        return {"outcome": "failed", "reason": str(error)}
    if isinstance(found, NotModified):
        kept.fetch(None, replace(before, checked_at=time.time(), failures=0, failure=""))
        return {"outcome": "unchanged"}
    sha256 = hashlib.sha256(found.octets).hexdigest()
    fresh = Fetched(sha256, found.etag, found.last_modified, time.time(), proof)
    kept.fetch(found.octets, fresh)
    return {"outcome": "unchanged" if is_there and fresh.sha256 == before.sha256 else "changed"}


# ---- the child process ----


def _child() -> int:
    """Read a request from standard input; print a line of JSON for each thing that happens."""
    asked = json.loads(sys.stdin.read())

    def tell(told: dict[str, Any]) -> None:
        print(json.dumps(told), flush=True)

    try:
        asyncio.run(run(Request(**asked["request"]), asked["names"], tell))
    except ConfigError as error:
        tell({"error": str(error), "status": 2})
    return 0


if __name__ == "__main__":
    sys.exit(_child())
