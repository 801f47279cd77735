"""What befalls the upstreams while the clients ask: a calm, then one trouble or another, over and over."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from soaking.upstream import HARMFUL, Upstream, Weather

SLOW_S = 1.5  # half of what the server waits for all upstreams together


class Storms:
    """Troubles one after the other."""

    def __init__(self, rng: random.Random, weather: Weather, upstreams: Sequence[Upstream]) -> None:
        self._rng = rng
        self._weather = weather
        self._upstreams = upstreams
        self.count: Counter[str] = Counter()

    async def run(self) -> None:
        """Make trouble until cancelled; afterwards all is well again."""
        troubles: list[tuple[str, Callable[[float], Awaitable[None]]]] = [
            ("calm", asyncio.sleep),
            ("many faults at each", self._worse),
            ("one upstream only fails", self._spoilt),
            ("one upstream is silent", self._silent),
            ("one upstream is gone and comes back", self._gone),
            ("all upstreams are silent", self._all_silent),
        ]
        while True:
            self._rng.shuffle(troubles)
            for name, trouble in troubles:
                self.count[name] += 1
                spell = self._weather.trouble() if name != "calm" else [0.0, 0.0]
                await trouble(self._rng.uniform(1.5, 4.0))
                spell[1] = time.time()
                await asyncio.sleep(self._rng.uniform(0.5, 1.5))

    async def around(self, moment: float) -> None:
        """Slow all upstreams down before a moment of the wall clock: what was asked before is answered after."""
        await asyncio.sleep(max(0.0, moment - SLOW_S - time.time()))
        self._weather.slow_s = SLOW_S
        try:
            await asyncio.sleep(SLOW_S)
        finally:
            self._weather.slow_s = 0.0

    async def watch_stalls(self) -> None:
        """Note when this process itself stands still."""
        while True:
            self._weather.tick()
            await asyncio.sleep(0.02)

    async def _worse(self, seconds: float) -> None:
        self._weather.rates = dict.fromkeys(self._weather.rates, 0.2)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._weather.rates = dict.fromkeys(self._weather.rates, 0.02)

    async def _spoilt(self, seconds: float) -> None:
        number = self._rng.randrange(2)
        self._weather.only[number] = self._rng.choice(HARMFUL)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._weather.only.clear()

    async def _silent(self, seconds: float) -> None:
        self._weather.silent.add(self._rng.randrange(2))
        try:
            await asyncio.sleep(seconds)
        finally:
            self._weather.silent.clear()

    async def _gone(self, seconds: float) -> None:
        upstream = self._upstreams[self._rng.randrange(2)]
        await upstream.close()
        try:
            await asyncio.sleep(seconds)
        finally:
            await upstream.open()

    async def _all_silent(self, seconds: float) -> None:
        spell = self._weather.begin()
        self._weather.silent.update(range(3))
        try:
            await asyncio.sleep(min(seconds, 2.5))
        finally:
            self._weather.silent.clear()
            spell[1] = time.time()
