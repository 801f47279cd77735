"""What operators may ask of a running service: pages for monitoring, commands on the control socket."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from dnsfilter import __version__, explain, readiness, workers
from dnsfilter.admin import Page, Pages, Server, json_page
from dnsfilter.connecting import Upstreams
from dnsfilter.control import Command, Json, Tell
from dnsfilter.core.cache import ChainError, Limits, from_response
from dnsfilter.core.names import BadName, from_text
from dnsfilter.core.policy import CANARY, ONLY
from dnsfilter.core.wire.response import FormError, read
from dnsfilter.engine.interface import Answered, Clock, Engine, Forward
from dnsfilter.forward import Forwarder
from dnsfilter.listen.stream import StreamListeners
from dnsfilter.observe import metrics
from dnsfilter.refreshing import Refresher
from dnsfilter.reloading import Reloader
from dnsfilter.upstream.group import BUCKETS, REASONS
from dnsfilter.workers import Listener, endpoint_text

log = logging.getLogger(__name__)

ENGINE = "python"
EXPLAIN_S = 10.0
READINESS_S = 5.0
LIMITS_S = 60.0  # between two warnings of one kind
_EVERYTHING = Limits(entries=1, octets=1, max_ttl=2**31, max_negative_ttl=2**31)  # for an answer that is only shown


@dataclass(slots=True)
class Operations:
    """The parts of a running service, and the questions about them."""

    config: str | None
    now: Clock
    engine: Engine
    forwarder: Forwarder
    streams: StreamListeners
    refresher: Refresher
    reloader: Reloader
    listeners: Sequence[Listener]
    admin: Mapping[str, Server]
    upstreams: Upstreams
    samples: Sequence[readiness.Sample] = ()
    warned_at: float = float("-inf")  # of queries over the rate limit
    last_limited: Mapping[str, int] = field(default_factory=dict)
    last_reasons: list[str] | None = None  # None: not asked yet
    started_at: float = field(default_factory=time.time)

    def pages(self) -> Pages:
        """Return the pages by path."""
        return {"/metrics": self._metrics, "/health": self._health, "/ready": self._ready}

    def commands(self) -> dict[str, Command]:
        """Return the commands of the control socket."""
        return {
            "status": self._status,
            "reload": self._reload,
            "update": self._update,
            "flush": self._flush,
            "explain": self._explain,
        }

    async def _reasons(self) -> list[str]:
        """Return why the service is not ready; empty when it is."""
        wall, now = time.time(), self.now()
        reasons = [
            f"group '{each.group}': no name of its lists is seen to be blocked"
            for each in self.samples
            if not readiness.is_enforced(self.engine, each, now, wall)
        ]
        return reasons + await readiness.silent([listener.address for listener in self.listeners])

    def warn_of_limits(self) -> None:
        """Say in the log whose clients have asked more than the rate limit, once a minute at most."""
        now, limited = self.now(), self.engine.limited()
        if now < self.warned_at + LIMITS_S or limited == self.last_limited:
            return
        more = {group: count - self.last_limited.get(group, 0) for group, count in limited.items()}
        told = ", ".join(f"{count} of group '{group}'" for group, count in more.items() if count)
        log.warning("over the rate limit, and told to come by TCP or refused: %s; see rate_limit.exempt", told)
        self.warned_at, self.last_limited = now, limited

    async def watch_readiness(self) -> None:
        """Ask now and then, so that a scrape tells it without waiting for an address that is silent."""
        while True:
            self.last_reasons = await self._reasons()
            await asyncio.sleep(READINESS_S)

    def _degraded(self) -> dict[str, str]:
        found = dict(self.reloader.degraded)
        for group in self.forwarder.groups:
            if not any(upstream.health.is_up for upstream in group.upstreams):
                found["upstreams"] = f"none answers of {', '.join(upstream.name for upstream in group.upstreams)}"
        if loops := self.upstreams.loops:
            found["loop"] = f"what they are asked comes back to us: {', '.join(loops)}"
        return found

    # ---- pages ----

    async def _health(self) -> Page:
        return json_page(HTTPStatus.OK, {"alive": True})

    async def _ready(self) -> Page:
        reasons = await self._reasons()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        return json_page(status, {"ready": not reasons, "reasons": reasons, "degraded": self._degraded()})

    async def _metrics(self) -> Page:
        state = self._state(is_ready=self.last_reasons == [])
        text = await asyncio.to_thread(metrics.render, state)
        return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", text

    def _state(self, *, is_ready: bool) -> metrics.State:
        policy, reloader = self.engine.policy, self.reloader
        group_lists: dict[str, list[str]] = {}
        for row in policy.clients.all_rows():
            extra = [CANARY] if row.canary else []
            extra += [ONLY] if row.only else []
            group_lists[row.group] = [*(name for _, name in row.order), *extra]
        return metrics.State(
            version=__version__,
            engine=ENGINE,
            counters=self.engine.counters(),
            group_lists=group_lists,
            upstreams=[
                metrics.UpstreamCounts(
                    name=each.name,
                    is_healthy=each.health.is_up,
                    queries=each.queries,
                    failures={reason: each.failures[reason] for reason in REASONS},
                    bounds=BUCKETS,
                    durations=list(each.durations),
                    duration_sum_s=each.duration_sum_s,
                )
                for each in self.upstreams.known.values()
            ],
            lists=[
                metrics.ListCounts(
                    name=each.name,
                    entries=each.entries,
                    skipped_lines=each.skipped_lines,
                    checked_at=reloader.checked_at[each.name],
                    changed_at=reloader.changed_at[each.name],
                    failures=reloader.failures[each.name],
                )
                for each in reloader.head.lists
            ],
            policy_hash=policy.hash,
            generation=policy.generation,
            is_reload_successful=reloader.is_successful,
            reloaded_at=reloader.reloaded_at,
            is_ready=is_ready,
            degraded=frozenset(self._degraded()),
            exemption_ends=reloader.head.ends,
            socket_drops=workers.drops([listener.udp for listener in self.listeners]),
        )

    # ---- commands ----

    async def _status(self, _request: Json, _tell: Tell) -> Json:
        reasons = await self._reasons()
        policy, reloader = self.engine.policy, self.reloader
        return {
            "ready": not reasons,
            "reasons": reasons,
            "degraded": self._degraded(),
            "version": __version__,
            "engine": ENGINE,
            "config": self.config,
            "started_at": self.started_at,
            "reloaded_at": reloader.reloaded_at,
            "listen": {
                "dns": [endpoint_text(listener.address) for listener in self.listeners],
                **{name: endpoint_text(server.endpoint) for name, server in self.admin.items()},
            },
            "policy": {"hash": policy.hash, "generation": policy.generation, "names": policy.index.count},
            "lists": [
                {
                    "name": each.name,
                    "source": each.source,
                    "format": each.format,
                    "match": each.match,
                    "mode": each.mode,
                    "entries": each.entries,
                    "skipped_lines": each.skipped_lines,
                    "skipped": each.skipped,
                    "checked_at": reloader.checked_at[each.name],
                    "changed_at": reloader.changed_at[each.name],
                    "dated": each.dated,
                    "failures": reloader.failures[each.name],
                    "problem": reloader.problems.get(each.name, ""),
                }
                for each in reloader.head.lists
            ],
            "upstreams": [
                {"name": each.name, "healthy": each.health.is_up, "queries": each.queries, "failures": each.failures}
                for each in self.upstreams.known.values()
            ],
            "exemption_ends": dict(reloader.head.ends),
            "in_flight": self.forwarder.in_flight,
            "connections": len(self.streams),
        }

    async def _reload(self, _request: Json, _tell: Tell) -> Json:
        return await self.reloader.reload()

    async def _update(self, request: Json, tell: Tell) -> Json:
        """Fetch remote lists now, all or those named, and put in force what came."""
        names, accept = request.get("names"), request.get("accept", [])
        known = {each.name: each for each in self.reloader.head.lists}
        for name in [*(names or ()), *accept]:
            if name not in known:
                return {"error": f"there is no list '{name}' in force; lists are: {', '.join(known)}"}
        for name in names or ():
            if not known[name].refresh_s:
                return {"error": f"list '{name}' is no remote list: {known[name].source}"}
        if names is None and accept:
            names = [name for name in accept if known[name].refresh_s]
        return await self.refresher.update(names, accept, tell)

    async def _flush(self, request: Json, _tell: Tell) -> Json:
        """Forget cached answers, a few a turn of the loop."""
        name = request.get("name")
        try:
            zone = None if name is None else from_text(str(name))
        except BadName as error:
            return {"error": f"{name!r} is no name: {error}"}
        forgotten = 0
        for count in self.engine.flush(zone):
            forgotten += count
            await asyncio.sleep(0)
        return {"forgotten": forgotten}

    async def _explain(self, request: Json, _tell: Tell) -> Json:
        """Explain by the policy in force, and ask for the chain."""
        try:
            wall = time.time() if request["at"] is None else float(request["at"])
            name, qtype, client = from_text(request["name"]), int(request["type"]), request["client"]
            if not 0 <= qtype < 65_536:
                return {"error": f"{qtype} is no query type"}
            list(explain.ask(self.engine.policy, name, qtype, client, wall))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return {"error": f"{error}"}
        octets = None
        if explain.goes_upstream(self.engine.policy, name, qtype):
            octets = await self._upstream_answer(explain.question(name, qtype))
        policy, entry = self.engine.policy, None
        if octets is not None:
            with suppress(FormError, ChainError):
                entry = from_response(read(octets, name), name, qtype, self.now(), _EVERYTHING)
        explained = []
        for each in explain.ask(policy, name, qtype, client, wall):
            verdict = explain.verdict_of(policy, each)
            if entry is not None:
                verdict = explain.chain_verdict(policy, each, verdict, entry)
            explained.append(explain.describe(policy, each, verdict))
        return {
            "explained": explained,
            "upstream_answer": None if octets is None else octets.hex(),
            "config_text": self.reloader.head.config_text,
            "sha256": {each.name: each.sha256 for each in self.reloader.head.lists},
        }

    async def _upstream_answer(self, message: bytes) -> bytes | None:
        """Ask past the policy, for an explanation only; None where nothing came."""
        answer: asyncio.Queue[bytes] = asyncio.Queue()
        result = self.engine.resolve(message, self.now(), answer.put_nowait)
        if isinstance(result, Answered):
            return result.octets
        if isinstance(result, Forward):
            self.forwarder.ask(result)
        with suppress(TimeoutError):
            async with asyncio.timeout(EXPLAIN_S):
                return await answer.get()
        return None
