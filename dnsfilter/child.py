"""Has a policy built in a child process, which may be slow and large without anybody waiting for it."""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

from dnsfilter.core.index import Index
from dnsfilter.settings import Request
from dnsfilter.snapshot import BadSnapshot, Head, Reader

BUILD_S = 300.0  # a policy of a million names takes about two


class Refusal(Exception):
    """Nothing was built; the message is for the admin.

    status: the exit status that says so. lists: lists that were refused, with their reasons.
    """

    def __init__(self, text: str, status: int, lists: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.lists = lists or {}


async def build(request: Request, *, is_nice: bool) -> Path:
    """Build a snapshot and return its path. Raises Refusal.

    is_nice: below the priority of a server that answers meanwhile.
    """
    try:
        process = await _start()
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
    return Path(result["snapshot"])


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "dnsfilter.build"),  # -P: nothing is imported from the working directory
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
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
