"""The composition root: where settings become objects; start, reload, stop."""

import asyncio
import ctypes
import gc
import ipaddress
import logging
import signal
import time
from collections import Counter
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TextIO

from dnsfilter import __version__, changes, child, explain, readiness, workers
from dnsfilter.admin import Page, Pages, Server, json_page
from dnsfilter.control import ControlServer, Json, StateInUse, lock
from dnsfilter.core.cache import ChainError, Limits, from_response
from dnsfilter.core.index import Index
from dnsfilter.core.names import from_text
from dnsfilter.core.policy import CANARY, ONLY, Policy
from dnsfilter.core.wire.response import FormError, read
from dnsfilter.engine.interface import Answered, Forward
from dnsfilter.engine.pure import PureEngine
from dnsfilter.engine.pure import Settings as EngineSettings
from dnsfilter.forward import Forwarder
from dnsfilter.listen.stream import StreamListeners
from dnsfilter.lists.source import file_stamp
from dnsfilter.observe import metrics
from dnsfilter.settings import Request, Settings
from dnsfilter.snapshot import Head, policy_of
from dnsfilter.upstream.group import BUCKETS, REASONS, Upstream, UpstreamGroup
from dnsfilter.workers import CannotListen, Listener, endpoint_text

log = logging.getLogger(__name__)

CACHE_OCTETS_PER_ENTRY = 1_024
WATCH_S = 3.0  # a changed list is in force within 10 s: seen, seen again at rest, built
SWEEP_S = 1.0
EXPLAIN_S = 10.0
SNAPSHOT = "policy.snapshot"
ENGINE = "python"
_M_MMAP_THRESHOLD = -3  # of mallopt(3)


class StartError(Exception):
    """The service cannot start; the message is for the admin."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def now() -> float:
    """Return seconds that go on counting while the machine sleeps: for TTLs, limits and time-outs."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Service:
    """Everything that runs, and what is known of its state."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()
        self._reload_lock = asyncio.Lock()
        self._next_reload: asyncio.Task[Json] | None = None
        self._next_is_full = False
        self._failures: Counter[str] = Counter()  # by list
        self._checked_at: dict[str, float] = {}
        self._changed_at: dict[str, float] = {}
        self._degraded: dict[str, str] = {}  # reason to its text
        self._is_reload_successful = True
        self._reloaded_at = self._started_at = time.time()
        self._lock: TextIO | None = None
        self._listeners: list[Listener] = []
        self._servers: list[asyncio.Server] = []
        self._admin: dict[str, Server] = {}
        self._head: Head
        self._engine: PureEngine
        self._forwarder: Forwarder
        self._streams: StreamListeners
        self._control: ControlServer
        self._samples: tuple[readiness.Sample, ...] = ()
        self._upstreams: dict[tuple[str, int], Upstream] = {}

    # ---- start and stop ----

    async def start(self) -> None:
        """Build the policy, open all addresses, serve. All or nothing. Raises StartError."""
        try:
            path = await child.build(self._request, is_nice=False)
            self._head, index = await child.load(path)
            logging.getLogger().setLevel(self._head.settings.log_level.upper())
            self._lock = lock(Path(self._head.settings.state))
            workers.raise_descriptor_limit()
            self._listeners = workers.open_all(self._head.settings.dns)
            self._open_admin(self._head.settings)
        except child.Refusal as error:
            raise StartError(str(error), error.status) from None
        except (StateInUse, CannotListen) as error:
            if path.name != SNAPSHOT:
                path.unlink(missing_ok=True)
            raise StartError(str(error), 1) from None
        except OSError as error:
            raise StartError(f"{error.filename}: {error.strerror}", 1) from None
        self._keep(path)
        await self._serve(index)

    async def _serve(self, index: Index) -> None:
        settings = self._head.settings
        limits = Limits(
            entries=settings.cache_entries,
            octets=settings.cache_entries * CACHE_OCTETS_PER_ENTRY,
            max_ttl=settings.max_ttl,
            max_negative_ttl=settings.max_negative_ttl,
        )
        policy = policy_of(self._head, index)
        engine_settings = EngineSettings(limits, settings.max_concurrent)
        self._engine = PureEngine(engine_settings, policy, self._ask, now, time.time)
        self._forwarder = Forwarder(self._engine, settings.timeout_s, settings.deadline_s, now, time.time)
        self._streams = StreamListeners(self._engine, self._ask, now, time.time)
        self._connect(settings)
        self._adopt(policy)
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            self._servers.append(await loop.create_server(self._streams.protocol, sock=listener.tcp))
            size = workers.receive_buffer(listener.udp) // 1024
            where = endpoint_text(listener.address)
            log.info("listening on %s (UDP and TCP), receive buffer %d KiB", where, size)
        self._engine.start([listener.udp for listener in self._listeners])
        for server in self._admin.values():
            server.start()
        self._control = ControlServer(
            Path(settings.state),
            {"status": self._on_status, "reload": self._on_reload, "explain": self._on_explain},
        )
        await self._control.start()
        self._spawn(self._watch())
        self._spawn(self._sweep())
        for warning in self._head.warnings:
            log.warning("%s", warning)
        names = sum(each.entries for each in self._head.lists)
        log.info("dnsfilter %s, %s engine in one process: policy %s, %d rules", __version__, ENGINE, policy.hash, names)

    def _open_admin(self, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        pages: Pages = {"/metrics": self._page_metrics, "/health": self._page_health, "/ready": self._page_ready}
        for name, endpoint in (("admin", settings.admin), ("metrics", settings.metrics)):
            if endpoint is not None:
                self._admin[name] = Server(endpoint, pages, loop)

    def handle_signals(self) -> None:
        """SIGHUP reloads; SIGTERM and SIGINT drain and end."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload()))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)

    async def until_stopped(self) -> None:
        """Serve until a signal says otherwise, then answer what is in flight and end."""
        await self._stopping.wait()
        log.info("stopping: %d questions in flight", self._forwarder.in_flight)
        self._engine.stop()
        for server in self._servers:
            server.close()
        deadline = now() + self._head.settings.deadline_s
        while self._forwarder.in_flight and now() < deadline:
            await asyncio.sleep(0.01)
        await self._control.stop()
        for task in self._tasks:
            task.cancel()
        self._streams.close()
        self._forwarder.close()
        for upstream in self._upstreams.values():
            upstream.pool.close()
        for listener in self._listeners:
            listener.close()
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self._admin.values()))
        if self._lock is not None:
            self._lock.close()

    def _spawn(self, work: "asyncio._CoroutineLike[object]") -> None:
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ask(self, forward: Forward) -> None:
        self._forwarder.ask(forward)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._streams.sweep()

    # ---- policy ----

    def _keep(self, path: Path) -> None:
        """Make the snapshot that is in force the one that the next start may use."""
        kept = path.with_name(SNAPSHOT)
        if path != kept:
            path.replace(kept)

    def _connect(self, settings: Settings) -> None:
        """Make the upstream groups, keeping what is known of the upstreams that stay."""
        loop = asyncio.get_running_loop()
        wanted = dict.fromkeys(endpoint for group in settings.upstream_groups for endpoint in group)
        gone = [upstream for endpoint, upstream in self._upstreams.items() if endpoint not in wanted]
        self._upstreams = {
            each: self._upstreams.get(each) or Upstream(*each, loop, self._forwarder.flush) for each in wanted
        }
        self._forwarder.groups = [
            UpstreamGroup([self._upstreams[endpoint] for endpoint in group]) for group in settings.upstream_groups
        ]
        for upstream in gone:  # questions that are out may still be answered
            loop.call_later(settings.deadline_s, upstream.pool.close)

    def _adopt(self, policy: Policy) -> None:
        """Note what the policy now in force is made of."""
        for each in self._head.lists:
            self._checked_at[each.name] = each.read_at
            self._changed_at[each.name] = each.modified_at
        networks = [ipaddress.ip_network(network) for network, _ in self._head.policy["networks"]]
        self._samples = tuple(readiness.samples(policy, self._head.lists, networks, time.time()))

    async def reload(self, *, is_full: bool = True) -> Json:
        """Build anew and swap, or keep the old policy. At most one runs and one waits; others join that one.

        is_full: with the configuration as it stands now, else only its lists are read again.
        """
        self._next_is_full = self._next_is_full or is_full
        if self._next_reload is None:
            self._next_reload = asyncio.get_running_loop().create_task(self._reload())
        return await asyncio.shield(self._next_reload)

    async def _reload(self) -> Json:
        async with self._reload_lock:
            is_full, self._next_is_full, self._next_reload = self._next_is_full, False, None
            request = self._request
            if not is_full:
                request = Request(request.config, self._head.config_text, request.listen, request.upstream)
            try:
                result = await self._swap(request)
            except child.Refusal as error:
                return self._refused(error)
            self._is_reload_successful = True
            self._reloaded_at = time.time()
            self._degraded.pop("reload", None)
            self._degraded.pop("list", None)
            return result

    async def _swap(self, request: Request) -> Json:
        path = await child.build(request, is_nice=True)
        try:
            head = child.head_of(path)
            if head is None:
                raise child.Refusal("the policy that was built cannot be read", 1)
            if fixed := changes.needs_restart(self._head, head):
                keys = ", ".join(fixed)
                raise child.Refusal(f"a change of {keys} needs a restart; the rest was not taken over either", 1)
            if head.inputs == self._head.inputs:
                for each in self._head.lists:
                    self._checked_at[each.name] = time.time()
                return self._report([])
            head, index = await child.load(path)
            self._keep(path)
        finally:
            if path.name != SNAPSHOT:
                path.unlink(missing_ok=True)
        old, old_index = self._head, self._engine.policy.index
        keep_cache = old.settings.upstream_groups == head.settings.upstream_groups
        policy = policy_of(head, index)
        self._head = head
        self._connect(head.settings)
        self._forwarder.configure(head.settings.timeout_s, head.settings.deadline_s)
        logging.getLogger().setLevel(head.settings.log_level.upper())
        self._engine.load(policy, keep_cache=keep_cache)
        self._adopt(policy)
        told = changes.between(old, head)
        for line in told:
            log.info("reload: %s", line)
        for _ in old_index.discard():
            await asyncio.sleep(0)
        return self._report(told)

    def _report(self, told: list[str]) -> Json:
        return {
            "changes": told,
            "warnings": list(self._head.warnings),
            "policy": {"hash": self._head.hash, "generation": self._engine.policy.generation},
        }

    def _refused(self, error: child.Refusal) -> Json:
        self._is_reload_successful = False
        for name, reason in error.lists.items():
            self._failures[name] += 1
            self._degraded["list"] = f"list '{name}': {reason}"
        if not error.lists:
            self._degraded["reload"] = str(error)
        log.error("reload refused, the old policy stays in force: %s", error)
        return {"error": str(error), "status": error.status}

    async def _watch(self) -> None:
        """Read lists again when their files change; a file that is still being written is left until it rests."""
        seen: dict[str, str] = {}
        refused: dict[str, str] = {}
        while True:
            await asyncio.sleep(WATCH_S)
            moved, is_at_rest = False, True
            for each in self._head.lists:
                if not each.path:
                    continue
                stamp = file_stamp(Path(each.path))
                if stamp == each.stamp:
                    self._checked_at[each.name] = time.time()
                elif stamp != seen.get(each.path):
                    moved, is_at_rest = True, False
                    seen[each.path] = stamp
                elif refused.get(each.path) != stamp:  # what was refused is read again once it changes
                    moved = True
            if moved and is_at_rest:
                result = await self.reload(is_full=False)
                refused = dict(seen) if "error" in result else {}

    # ---- what operators ask ----

    async def _reasons(self) -> list[str]:
        """Return why the service is not ready; empty when it is."""
        wall = time.time()
        reasons = [
            f"group '{sample.group}' is not blocked"
            for sample in self._samples
            if not readiness.is_blocked(self._engine, sample, now(), wall)
        ]
        enforcing = {row.group for row in self._engine.policy.clients.all_rows() if row.enforced}
        sampled = {sample.group for sample in self._samples}
        unchecked = sorted(enforcing - sampled)
        reasons += [f"group '{group}': no listed name is blocked for any address tried" for group in unchecked]
        return reasons + await readiness.silent([listener.address for listener in self._listeners])

    def _degradations(self) -> dict[str, str]:
        found = dict(self._degraded)
        if not any(upstream.health.is_up for upstream in self._upstreams.values()):
            found["upstreams"] = "no upstream answers"
        return found

    async def _page_health(self) -> Page:
        return json_page(HTTPStatus.OK, {"alive": True})

    async def _page_ready(self) -> Page:
        reasons = await self._reasons()
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        return json_page(status, {"ready": not reasons, "reasons": reasons, "degraded": self._degradations()})

    async def _page_metrics(self) -> Page:
        state = self._state(is_ready=not await self._reasons())
        text = await asyncio.to_thread(metrics.render, state)
        return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", text

    def _state(self, *, is_ready: bool) -> metrics.State:
        policy = self._engine.policy
        group_lists: dict[str, list[str]] = {}
        for row in policy.clients.all_rows():
            extra = [CANARY] if row.canary else []
            extra += [ONLY] if row.only else []
            group_lists[row.group] = [*(name for _, name in row.order), *extra]
        return metrics.State(
            version=__version__,
            engine=ENGINE,
            counters=self._engine.counters(),
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
                for each in self._upstreams.values()
            ],
            lists=[
                metrics.ListCounts(
                    name=each.name,
                    entries=each.entries,
                    skipped_lines=each.skipped_lines,
                    checked_at=self._checked_at[each.name],
                    changed_at=self._changed_at[each.name],
                    failures=self._failures[each.name],
                )
                for each in self._head.lists
            ],
            policy_hash=policy.hash,
            generation=policy.generation,
            is_reload_successful=self._is_reload_successful,
            reloaded_at=self._reloaded_at,
            is_ready=is_ready,
            degraded=frozenset(self._degradations()),
            exemption_ends=self._head.ends,
            socket_drops=workers.drops([listener.udp for listener in self._listeners]),
        )

    async def _on_status(self, _request: Json) -> Json:
        reasons = await self._reasons()
        policy = self._engine.policy
        return {
            "ready": not reasons,
            "reasons": reasons,
            "degraded": self._degradations(),
            "version": __version__,
            "engine": ENGINE,
            "config": self._request.config,
            "started_at": self._started_at,
            "reloaded_at": self._reloaded_at,
            "listen": {
                "dns": [endpoint_text(listener.address) for listener in self._listeners],
                **{name: endpoint_text(server.endpoint) for name, server in self._admin.items()},
            },
            "policy": {"hash": policy.hash, "generation": policy.generation, "names": policy.index.count},
            "lists": [
                {
                    "name": each.name,
                    "source": each.source,
                    "mode": each.mode,
                    "entries": each.entries,
                    "skipped_lines": each.skipped_lines,
                    "checked_at": self._checked_at[each.name],
                    "changed_at": self._changed_at[each.name],
                    "failures": self._failures[each.name],
                }
                for each in self._head.lists
            ],
            "upstreams": [
                {"name": each.name, "healthy": each.health.is_up, "queries": each.queries, "failures": each.failures}
                for each in self._upstreams.values()
            ],
            "exemption_ends": dict(self._head.ends),
            "in_flight": self._forwarder.in_flight,
            "connections": len(self._streams),
        }

    async def _on_reload(self, _request: Json) -> Json:
        return await self.reload()

    async def _on_explain(self, request: Json) -> Json:
        """Explain by the policy in force, and ask for the chain."""
        policy = self._engine.policy
        wall = request["at"] if request["at"] is not None else time.time()
        name, qtype = from_text(request["name"]), request["type"]
        explained = []
        octets = await self._upstream_answer(explain.question(name, qtype))
        for asked in explain.ask(policy, name, qtype, request["client"], wall):
            verdict = explain.verdict_of(policy, asked)
            if octets is not None:
                with suppress(FormError, ChainError):
                    entry = from_response(read(octets, name), name, qtype, now(), Limits(1, 1, 2**31, 2**31))
                    verdict = explain.chain_verdict(policy, asked, verdict, entry)
            explained.append(explain.describe(policy, asked, verdict))
        return {
            "explained": explained,
            "upstream_answer": None if octets is None else octets.hex(),
            "config_text": self._head.config_text,
            "sha256": {each.name: each.sha256 for each in self._head.lists},
        }

    async def _upstream_answer(self, message: bytes) -> bytes | None:
        """Ask past the policy, for an explanation only; None where nothing came."""
        answer: asyncio.Queue[bytes] = asyncio.Queue()
        result = self._engine.resolve(message, now(), answer.put_nowait)
        if isinstance(result, Answered):
            return result.octets
        if isinstance(result, Forward):
            self._ask(result)
        with suppress(TimeoutError):
            async with asyncio.timeout(EXPLAIN_S):
                return await answer.get()
        return None


def give_memory_back() -> None:
    """Have glibc map large tables on their own, so that those of an old policy go back to the kernel.

    Left alone, it raises its threshold with the first table that is freed, and keeps the next ones.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def calm_collector() -> None:
    """Keep the garbage collector from walking the whole cache again and again.

    Nothing on the per-packet path makes reference circles; what little of them there is elsewhere
    dies young. A full collection would stand still for a third of a second per million objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 1_000_000)


async def run(request: Request) -> None:
    """Serve until told to stop. Raises StartError."""
    give_memory_back()
    service = Service(request)
    service.handle_signals()
    await service.start()
    calm_collector()
    await service.until_stopped()
