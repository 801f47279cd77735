"""The upstreams as configured: what is kept, what is let go, and what a certificate file that has gone changes."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dnsfilter.connecting import Upstreams
from dnsfilter.forward import Forwarder
from dnsfilter.settings import Resolver, Settings
from tests.engine.make import Asking, policy
from tests.upstream.loop import run

PLAIN, OTHER = Resolver("udp", "127.0.0.1", 9), Resolver("udp", "127.0.0.2", 9)
DOT = Resolver("tls", "127.0.0.1", 9, "dns.example")

SETTINGS = Settings(
    state="",
    dns=(),
    admin=None,
    metrics=None,
    upstream_groups=((PLAIN,),),
    strategy="strict",
    bootstrap=(),
    ca_file="",
    ca_hash="",
    random_case=False,
    timeout_s=2.0,
    deadline_s=5.0,
    max_concurrent=100,
    cache_entries=100,
    max_ttl=3600,
    max_negative_ttl=300,
    serve_stale=0,
    rate_limit=0,
    rate_limit_exempt=(),
    log_level="info",
)


def connected(check: Callable[[Upstreams, Forwarder], Any]) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        asking = Asking(policy())
        forwarder = Forwarder(asking.engine, 2.0, 5.0, loop.time, loop.time)
        upstreams = Upstreams(asking.engine, asking.engine.express, forwarder)
        try:
            await check(upstreams, forwarder)
        finally:
            forwarder.close()
            upstreams.close()

    run(work)


def test_a_certificate_file_that_has_gone_leaves_the_upstreams_as_they_were() -> None:
    async def check(upstreams: Upstreams, forwarder: Forwarder) -> None:
        upstreams.connect(SETTINGS)
        before = dict(upstreams.known)
        with pytest.raises(FileNotFoundError):
            upstreams.connect(replace(SETTINGS, upstream_groups=((DOT, PLAIN),), ca_file="/nowhere", ca_hash="1"))
        assert upstreams.known == before
        assert list(forwarder.groups[0].upstreams) == list(before.values())

    connected(check)


def test_upstreams_that_are_configured_no_more_are_forgotten(tmp_path: Path) -> None:
    async def check(upstreams: Upstreams, forwarder: Forwarder) -> None:
        upstreams.connect(SETTINGS)
        for number in range(10, 20):
            await upstreams.find_loops()
            upstreams.connect(replace(SETTINGS, upstream_groups=((replace(PLAIN, port=number),),)))
        await asyncio.sleep(10)
        assert len(upstreams._checked) <= 1

    connected(check)


def test_each_upstream_is_closed_when_its_own_questions_are_over() -> None:
    """The deadline was long when the first went, and is short when the second goes."""

    async def check(upstreams: Upstreams, forwarder: Forwarder) -> None:
        upstreams.connect(replace(SETTINGS, deadline_s=60.0))
        [first] = upstreams.known.values()
        upstreams.connect(replace(SETTINGS, deadline_s=60.0, upstream_groups=((OTHER,),)))
        [second] = upstreams.known.values()
        upstreams.connect(replace(SETTINGS, deadline_s=2.0, upstream_groups=((replace(OTHER, port=10),),)))
        [third] = upstreams.known.values()
        upstreams.connect(replace(SETTINGS, deadline_s=2.0, upstream_groups=((replace(OTHER, port=11),),)))
        await asyncio.sleep(3)
        assert [each.udp is None or each.udp._is_closed for each in (first, second, third)] == [False, False, True]

    connected(check)
