"""Plain questions on the whole service where something comes between: a flush, the end, a reload."""

import signal
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count
from pathlib import Path

import pytest

from tests.scenarios.client import NOERROR, UdpClient, ask, query, read
from tests.scenarios.conftest import Start
from tests.scenarios.expect import where
from tests.scenarios.service import Service, eventually
from tests.scenarios.upstream import SILENCE, Send, Upstream, default


def test_after_a_flush_a_silent_upstream_still_costs_an_answer(start: Start) -> None:
    """The first upstream falls silent: the second is asked, as before the flush."""
    with Upstream() as first, Upstream() as second:
        service = start({"upstreams": [where(first.address), where(second.address)]})
        for number in range(3):
            assert ask(service.dns, f"warm{number}.example").rcode == NOERROR
        assert "forgotten" in service.control("flush", name=None)
        first.on("quiet.example", SILENCE)
        assert ask(service.dns, "quiet.example", timeout_s=4).rcode == NOERROR


def test_what_is_in_flight_at_the_end_is_answered(tmp_path: Path) -> None:
    answers: dict[int, bytes] = {}
    with Upstream() as upstream:
        service = Service(tmp_path, {"upstreams": [where(upstream.address)]})
        with pytest.raises(AssertionError, match="the service ended with 0"), service:  # noqa: PT012
            for number in range(3):
                assert ask(service.dns, f"warm{number}.example").rcode == NOERROR
            upstream.on("late.example", lambda asked: [Send(default(asked), after_s=0.25)])
            with UdpClient(service.dns) as client:
                client.send(query("late.example", "A", ident=7))
                upstream.wait("late.example")
                service.signal(signal.SIGTERM)
                answers = client.gather(1, timeout_s=3)
            eventually("the end", lambda: not Path(f"/proc/{service.pid}/fd/0").exists())
    assert [read(octets).rcode for octets in answers.values()] == [NOERROR]


def test_questions_of_a_zone_go_to_its_upstreams_whatever_a_reload_changes(start: Start) -> None:
    """While questions for a zone are out, a reload takes an earlier zone away: zones are numbered anew."""
    with Upstream() as public, Upstream() as one, Upstream() as two:
        zones = [
            {"zone": "one.example", "upstreams": [where(one.address)]},
            {"zone": "two.example", "upstreams": [where(two.address)]},
        ]
        service = start({"upstreams": [where(public.address)], "forward": zones})
        for number in range(3):
            assert ask(service.dns, f"warm{number}.x.two.example").rcode == NOERROR
        two.otherwise(SILENCE)
        service.configure({"upstreams": [where(public.address)], "forward": zones[1:]})
        with UdpClient(service.dns) as client, ThreadPoolExecutor(1) as pool:
            reload = pool.submit(service.control, "reload")
            for ident in count():
                client.send(query(f"n{ident}.x.two.example", "A", ident=ident))
                if wait([reload], 0.02).done:
                    break
        assert "error" not in reload.result()
        two.wait(f"n{ident}.x.two.example", 2)  # asked again: so were those before it
        assert not public.queries("two.example", below=True)
        assert not one.queries("two.example", below=True)
