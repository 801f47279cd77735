"""Who else asks for the name by which loops are looked for: no proof of a loop."""

from tests.scenarios.client import NOERROR, ask
from tests.scenarios.conftest import Start
from tests.scenarios.expect import where
from tests.scenarios.service import eventually
from tests.scenarios.upstream import Upstream


def test_a_monitor_that_asks_again_for_what_it_saw_takes_no_upstream_away(start: Start) -> None:
    """Appliances that watch DNS look names up that they see for the first time: of us, as everybody does."""
    with Upstream() as upstream:
        service = start({"upstreams": [where(upstream.address)]})
        eventually("the check", lambda: any("loop-check" in each.name for each in list(upstream.seen)))
        [seen] = {each.name for each in list(upstream.seen) if "loop-check" in each.name}
        ask(service.dns, seen.rstrip("."))
        assert ask(service.dns, "www.example").rcode == NOERROR
