"""How long the next upstream waits for one that is asked over connections."""

from typing import Any

from dnsfilter.core.health import SHORTEST_PATIENCE_S
from dnsfilter.forward import SWEEP_S
from dnsfilter.upstream.group import Upstream, UpstreamGroup
from tests.core.make import texts
from tests.upstream.loop import run
from tests.upstream.peer import silence
from tests.upstream.test_forward import RIGHT, bench, right, started


def test_one_that_is_silent_on_its_connection_is_waited_for_as_long_as_one_over_udp() -> None:
    async def work() -> None:
        first, second = await started(silence, right)
        async with bench([first, second]) as found:
            slow, good = found.upstreams
            assert slow.udp is not None
            only: Any = Upstream("tcp", None, slow.stream)
            found.forwarder.groups = [UpstreamGroup([only, good])]
            begun = found.now
            octets = await found.ask()
            assert texts(octets) == ["www.example. 300 IN A 192.0.2.1"], RIGHT
            assert found.now - begun < SHORTEST_PATIENCE_S + 3 * SWEEP_S

    run(work)
