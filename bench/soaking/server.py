"""The server under test, watched from outside: memory, descriptors, counters; and its policy changed while it runs."""

import asyncio
import random
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from soaking import reference, world
from soaking.reference import Policy, State
from tests.scenarios.service import Service, command

SAMPLE_S = 5.0
SEEN_S = 12.0  # a changed list file is in force within ten seconds


class Watch:
    """Samples of the process while it runs."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.memory: list[tuple[float, float]] = []  # seconds of the monotonic clock, MiB

    def sample(self) -> dict[str, int]:
        """What of the process has to come back to its level."""
        process = Path(f"/proc/{self._service.pid}")
        status = dict(re.findall(r"^(\w+):\s+(\d+)", (process / "status").read_text(), re.MULTILINE))
        told = self._service.control("status")
        return {
            "memory, KiB": int(status["VmRSS"]),
            "threads": int(status["Threads"]),
            "descriptors": len(list((process / "fd").iterdir())),
            "TCP connections": int(told["connections"]),
            "in flight": int(told["in_flight"]),
        }

    def remember(self) -> None:
        """Note the memory."""
        status = Path(f"/proc/{self._service.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)
        if found is not None:
            self.memory.append((time.monotonic(), int(found[1]) / 1024))

    def slope(self, since: float) -> float:
        """MiB a minute, the straight line nearest to the samples since a moment."""
        points = [(at, mib) for at, mib in self.memory if at >= since]
        if len(points) < 3:
            return 0.0
        mean_at = sum(at for at, _ in points) / len(points)
        mean = sum(mib for _, mib in points) / len(points)
        spread = sum((at - mean_at) ** 2 for at, _ in points)
        return 60 * sum((at - mean_at) * (mib - mean) for at, mib in points) / spread

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            self.remember()
            await asyncio.sleep(SAMPLE_S)


class Changes:
    """The policy changed while the server runs, and the reference with it."""

    def __init__(self, rng: random.Random, service: Service, policy: Policy, upstreams: list[str], zone: str) -> None:
        self._rng = rng
        self._service = service
        self._policy = policy
        self._upstreams = upstreams
        self._zone = zone
        self._has_flush = command("flush", "--help").returncode == 0
        self.done: Counter[str] = Counter()
        self.longest_s = 0.0
        self.wrong: list[str] = []

    def write(self, state: State) -> None:
        """Write list and configuration as they are in a state."""
        self._write_list(state)
        self._service.configure(self._policy.configuration(state, self._upstreams, self._zone))

    def _write_list(self, state: State) -> None:
        names = sorted(map(world.text_of, reference.ALWAYS_LISTED["ban"] | state.churned))
        whole = self._service.config_file.with_name("ban.txt")
        part = whole.with_suffix(".part")
        part.write_text("".join(f"{name[:-1]}\n" for name in names))
        part.replace(whole)  # never half a file

    async def run(self, every_s: float) -> None:
        """Change something now and then until cancelled; what has begun is brought to its end."""
        acts = [self._list, self._list_alone, self._exemption, self._exemption, self._broken, self._unchanged]
        acts += [self._flush] if self._has_flush else []
        turn = 0
        while True:
            await asyncio.sleep(every_s * self._rng.uniform(0.7, 1.3))
            if turn % len(acts) == 0:
                self._rng.shuffle(acts)
            act = asyncio.get_running_loop().create_task(acts[turn % len(acts)]())
            try:
                await asyncio.shield(act)
            except asyncio.CancelledError:
                await act
                raise
            turn += 1

    async def _list(self) -> None:
        names = frozenset(map(world.churned, range(world.CHURNED)))
        await self._adopt("list", churned=frozenset(each for each in names if self._rng.random() < 0.5))

    async def _list_alone(self) -> None:
        """A changed list file, and nobody who asks for a reload: the server sees it by itself."""
        states, now = self._policy.states, time.time()
        before = (await self._status())["policy"]["generation"]
        name = world.churned(self._rng.randrange(world.CHURNED))
        states.append(replace(states[-1], since=now, churned=states[-1].churned ^ {name}))
        self._write_list(states[-1])
        is_seen = False
        while not is_seen and time.time() < now + SEEN_S:
            await asyncio.sleep(0.1)
            is_seen = (await self._status())["policy"]["generation"] != before
        states[-2] = replace(states[-2], until=time.time())
        self._note("list file seen to have changed", is_seen, f"not within {SEEN_S:.0f} s")

    async def _exemption(self) -> None:
        is_granted = not self._policy.states[-1].is_granted
        await self._adopt("exemption granted" if is_granted else "exemption revoked", is_granted=is_granted)

    async def _adopt(self, kind: str, **change: Any) -> None:
        """Ask for another policy, and note from when until when both count."""
        states, now = self._policy.states, time.time()
        states.append(replace(states[-1], since=now, **change))
        self.write(states[-1])
        result = await self._reload()
        states[-2] = replace(states[-2], until=time.time())
        self.longest_s = max(self.longest_s, time.time() - now)
        self._note(kind, "error" not in result, result)

    async def _broken(self) -> None:
        """A configuration with an error: refused, and nothing changes."""
        before = (await self._status())["policy"]
        self._service.config_file.write_text("groups: {managed: {networks: [127.1.0.0/33], block: [nothing]}}\n")
        result = await self._reload()
        after = (await self._status())["policy"]
        self._note("broken configuration refused", "error" in result and before == after, result)
        self.write(self._policy.states[-1])
        self._note("reload", "error" not in (result := await self._reload()), result)

    async def _unchanged(self) -> None:
        result = await self._reload()
        self._note("reload without a change", "error" not in result, result)

    async def _flush(self) -> None:
        done = await asyncio.to_thread(self._service.command, "flush", "--all")
        self._note("flush", done.returncode == 0, done.stdout + done.stderr)

    async def _reload(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._service.control, "reload")

    async def _status(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._service.control, "status")

    def _note(self, kind: str, is_right: bool, result: object) -> None:
        self.done[kind] += 1
        if not is_right:
            self.wrong.append(f"{kind}: {result}")
