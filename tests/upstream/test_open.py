"""How often an upstream that is down is asked."""

import asyncio

from tests.core.make import opt, query
from tests.upstream.loop import run
from tests.upstream.peer import silence
from tests.upstream.test_forward import bench, started


def test_an_upstream_that_is_down_is_not_asked_twice_at_once() -> None:
    async def work() -> None:
        [one] = await started(silence)
        async with bench([one]) as found:
            upstream = found.upstreams[0]
            for _ in range(3):
                upstream.health.failed(found.now)
            await asyncio.sleep(2.0)
            before = upstream.queries
            found.begin(query("x.example", edns=opt()))
            assert upstream.queries - before == 1
            await asyncio.sleep(8.0)

    run(work)
