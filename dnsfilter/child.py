"""Has policies built and lists fetched in child processes, slow and large as that may be: nobody waits for it."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dnsfilter.core.index import Index
from dnsfilter.settings import Request
from dnsfilter.snapshot import BadSnapshot, Head, Reader

BUILD_S = 300.0  # a policy of a million names takes about two
FETCH_S = 600.0  # without a word; each list has bounds of its own, and this is for a process that hangs


class Refusal(Exception):
    """Nothing was built; the message is for the admin.

    status: the exit status that says so. lists: lists that were refused, with their reasons.
    """

    def __init__(self, text: str, status: int, lists: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.lists = lists or {}


@dataclass(frozen=True, slots=True)
class Built:
    """A snapshot that was built, or was there already."""

    path: Path
    checked_at: dict[str, float]  # when the sources of lists said what they do, seconds since the epoch


async def build(request: Request, *, is_nice: bool) -> Built:
    """Build a snapshot. Raises Refusal.

    is_nice: below the priority of a server that answers meanwhile.
    """
    try:
        process = await _start("build")
    except OSError as error:
        raise Refusal(f"the process that builds the policy cannot be started: {error}", 1) from None
    try:
        async with asyncio.timeout(BUILD_S):
            asked = json.dumps(asdict(request) | {"nice": is_nice}).encode()
            out, errors = await process.communicate(asked)
    except TimeoutError:
        raise Refusal(
            f"the policy was not built within {BUILD_S:.0f} s: is a list on a file system that hangs?", 1
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        result = json.loads(out)
    except ValueError:
        detail = errors.decode(errors="replace").strip()[-2000:] or f"exit status {process.returncode}"
        raise Refusal(f"the process that builds the policy failed\n  {detail}", 1) from None
    if "error" in result:
        raise Refusal(result["error"], result["status"], result.get("lists", {}))
    return Built(Path(result["snapshot"]), result["checked_at"])


async def fetch(request: Request, names: Iterable[str] | None, tell: Callable[[dict[str, Any]], None]) -> None:
    """Fetch remote lists into the state directory; each thing that happens is told. Raises Refusal.

    names: of the lists; None: all remote ones.
    """
    try:
        process = await _start("fetch")
    except OSError as error:
        raise Refusal(f"the process that fetches lists cannot be started: {error}", 1) from None
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    try:
        asked = {"request": asdict(request), "names": None if names is None else list(names)}
        process.stdin.write(json.dumps(asked).encode())
        process.stdin.close()
        while line := await asyncio.wait_for(process.stdout.readline(), FETCH_S):
            told = json.loads(line)
            if "error" in told:
                raise Refusal(told["error"], told["status"])
            tell(told)
        if await asyncio.wait_for(process.wait(), FETCH_S):
            raise Refusal("the process that fetches lists failed; its own messages stand above", 1)
    except TimeoutError:
        raise Refusal(f"the process that fetches lists has said nothing for {FETCH_S:.0f} s", 1) from None
    except ValueError:
        raise Refusal("the process that fetches lists said something that is no JSON", 1) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _start(module: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", f"dnsfilter.{module}"),  # -P: nothing is imported from the working directory
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if module == "build" else None,
    )


async def load(path: Path) -> tuple[Head, Index]:
    """Read a snapshot, a chunk a turn of the loop. Raises Refusal."""
    try:
        reader = Reader(path)
        index = Index()
        for chunk in reader.chunks():
            index.load(chunk)
            await asyncio.sleep(0)
    except (OSError, BadSnapshot) as error:
        raise Refusal(f"the policy that was built cannot be read: {error}", 1) from None
    return reader.head, index


def head_of(path: Path) -> Head | None:
    """Return the head of a snapshot; None where there is none."""
    try:
        reader = Reader(path)
    except (OSError, BadSnapshot):
        return None
    reader.close()
    return reader.head
