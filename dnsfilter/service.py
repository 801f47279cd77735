"""The composition root: where settings become objects; start and stop."""

import asyncio
import ctypes
import gc
import logging
import math
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TextIO

from dnsfilter import __version__, child, readiness, workers
from dnsfilter.admin import Server
from dnsfilter.connecting import Upstreams
from dnsfilter.control import ControlServer, StateInUse, lock
from dnsfilter.core.cache import Limits
from dnsfilter.core.index import Index
from dnsfilter.core.limits import RateLimit
from dnsfilter.engine.interface import Forward
from dnsfilter.engine.pure import PureEngine
from dnsfilter.engine.pure import Settings as EngineSettings
from dnsfilter.forward import Forwarder
from dnsfilter.listen.stream import CONNECTIONS, IDLE_S, StreamListeners
from dnsfilter.operations import ENGINE, Operations
from dnsfilter.refreshing import Refresher
from dnsfilter.reloading import Reloader, keep, sweep_out
from dnsfilter.settings import Request, Settings
from dnsfilter.snapshot import IN_FORCE, Head, policy_of
from dnsfilter.workers import CannotListen, Listener, endpoint_text

log = logging.getLogger(__name__)

CACHE_OCTETS_PER_ENTRY = 1_024
SWEEP_S = 1.0
OURSELVES = ("127.0.0.1/32", "::1/128")  # where readiness checks come from: no rate limit
DRAIN_S = 0.5  # beyond the deadline of questions, for those who are told at it
_M_MMAP_THRESHOLD = -3  # of mallopt(3)


class StartError(Exception):
    """The service cannot start; the message is for the admin."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def now() -> float:
    """Return seconds that go on counting while the machine sleeps: for TTLs, limits and time-outs."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def run(request: Request) -> None:
    """Serve until told to stop. Raises StartError."""
    give_memory_back()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    hung_up = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)  # while there is nothing to reload yet
    preparing, stopped = asyncio.ensure_future(_prepare(request)), asyncio.ensure_future(stopping.wait())
    await asyncio.wait([preparing, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not preparing.done():
        preparing.cancel()
        return
    service = Service(request, *preparing.result())
    await service.start()
    if hung_up.is_set():
        service.reload()
    calm_collector()
    await stopping.wait()
    await service.stop()


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


class Opened:
    """What must be had before anything is served: all of it or nothing."""

    def __init__(self, settings: Settings) -> None:
        """Take the state directory and every address. Raises StateInUse, CannotListen, OSError."""
        self.lock: TextIO = lock(Path(settings.state))
        self.listeners: list[Listener] = []
        self.admin: dict[str, Server] = {}
        try:
            workers.raise_descriptor_limit()
            self.listeners = workers.open_all(settings.dns)
            for name, endpoint in (("admin", settings.admin), ("metrics", settings.metrics)):
                if endpoint is not None:
                    self.admin[name] = Server(endpoint, asyncio.get_running_loop())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of everything."""
        for listener in self.listeners:
            listener.close()
        for server in self.admin.values():
            server.server_close()
        self.lock.close()


async def _prepare(request: Request) -> tuple[child.Built, Head, Index, Opened]:
    """Build the policy and open all addresses. Raises StartError."""
    path: Path | None = None
    try:
        built = await child.build(replace(request, keeps=True), is_nice=False)
        path = built.path
        head, index = await child.load(path)
        logging.getLogger().setLevel(head.settings.log_level.upper())
        opened = Opened(head.settings)
        keep(path)
        sweep_out(path.parent)
    except child.Refusal as error:
        raise StartError(str(error), error.status) from None
    except (StateInUse, CannotListen) as error:
        raise StartError(str(error), 1) from None
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}", 1) from None
    finally:
        if path is not None and path.name != IN_FORCE:
            path.unlink(missing_ok=True)
    return built, head, index, opened


class Service:
    """Everything that runs."""

    def __init__(self, request: Request, built: child.Built, head: Head, index: Index, opened: Opened) -> None:
        settings = head.settings
        self._settings = settings
        self._opened = opened
        self._limited: tuple[int, tuple[str, ...]] = 0, ()  # the rate limit in force
        self._tasks: set[asyncio.Task[object]] = set()
        self._servers: list[asyncio.Server] = []
        limits = Limits(
            entries=settings.cache_entries,
            octets=settings.cache_entries * CACHE_OCTETS_PER_ENTRY,
            max_ttl=settings.max_ttl,
            max_negative_ttl=settings.max_negative_ttl,
            serve_stale=settings.serve_stale,
        )
        engine_settings = EngineSettings(limits, settings.max_concurrent, IDLE_S)
        self._engine = PureEngine(engine_settings, policy_of(head, index), self._ask, now, time.time)
        self._forwarder = Forwarder(self._engine, settings.timeout_s, settings.deadline_s, now, time.time)
        self._engine.express.on_first = self._forwarder.watch
        self._upstreams = Upstreams(self._engine, self._engine.express, self._forwarder)
        most = min(CONNECTIONS, workers.descriptors() // 4)
        self._streams = StreamListeners(self._engine, self._ask, now, time.time, most)
        reloader = Reloader(request, built, head, self._adopt)
        self._operations = Operations(
            config=request.config,
            now=now,
            engine=self._engine,
            forwarder=self._forwarder,
            streams=self._streams,
            refresher=Refresher(request, reloader, now, time.time),
            reloader=reloader,
            listeners=opened.listeners,
            admin=opened.admin,
            upstreams=self._upstreams,
        )
        self._control = ControlServer(Path(settings.state), self._operations.commands())
        self._apply(settings)
        self._sample(head)

    def _ask(self, forward: Forward) -> None:
        self._forwarder.ask(forward)

    # ---- start and stop ----

    async def start(self) -> None:
        """Serve on all addresses. Raises OSError."""
        loop = asyncio.get_running_loop()
        listeners, reloader = self._opened.listeners, self._operations.reloader
        for listener in listeners:
            self._servers.append(
                await loop.create_server(self._streams.protocol, sock=listener.tcp, backlog=workers.BACKLOG)
            )
            where, size = endpoint_text(listener.address), workers.receive_buffer(listener.udp) // 1024
            log.info("listening on %s (UDP and TCP), receive buffer %d KiB", where, size)
        self._engine.start([listener.udp for listener in listeners])
        for server in self._opened.admin.values():
            server.start(self._operations.pages())
        await self._control.start()
        self._spawn(reloader.watch())
        self._spawn(self._operations.refresher.watch())
        self._spawn(self._operations.watch_readiness())
        self._spawn(self._sweep())
        self._spawn(self._upstreams.watch())
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        for warning in reloader.head.warnings:
            log.warning("%s", warning)
        for name, problem in reloader.problems.items():
            log.error("list '%s': %s", name, problem)
        rules = sum(each.entries for each in reloader.head.lists)
        hash_ = reloader.head.hash
        log.info("dnsfilter %s, %s engine in one process: policy %s, %d rules", __version__, ENGINE, hash_, rules)

    async def stop(self) -> None:
        """Take no more queries, answer what is in flight, and end."""
        log.info("stopping: %d questions in flight", self._forwarder.in_flight)
        self._engine.stop()
        self._engine.hand_over(math.inf)  # what the engine has asked itself
        for server in self._servers:
            server.close()
        deadline = now() + self._settings.deadline_s + DRAIN_S
        while self._forwarder.in_flight and now() < deadline:
            await asyncio.sleep(0.01)
        await self._control.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._operations.reloader.close()
        self._streams.close()
        self._forwarder.close()
        self._upstreams.close()
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self._opened.admin.values()))
        self._opened.close()

    def reload(self) -> None:
        """Reload in the background; the log tells the outcome."""
        self._spawn(self._operations.reloader.reload())

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._streams.sweep()
            self._operations.warn_of_limits()

    # ---- policy ----

    async def _adopt(self, head: Head, index: Index) -> int:
        """Put another policy in force, with the settings that may change meanwhile; return its generation."""
        old = self._engine.policy.index
        keep_cache = self._settings.upstream_groups == head.settings.upstream_groups
        self._engine.hand_over(math.inf)  # while zones have the numbers under which it was asked
        self._apply(head.settings)
        self._settings = head.settings
        logging.getLogger().setLevel(head.settings.log_level.upper())
        self._engine.load(policy_of(head, index), keep_cache=keep_cache)
        self._sample(head)
        self._spawn(self._upstreams.find_loops())
        for _ in old.discard():
            await asyncio.sleep(0)
        return self._engine.policy.generation

    def _apply(self, settings: Settings) -> None:
        """Take over what is not of the policy and may change while serving."""
        self._upstreams.connect(settings)
        self._forwarder.configure(settings.timeout_s, settings.deadline_s, has_random_case=settings.random_case)
        bounds = settings.rate_limit, (*OURSELVES, *settings.rate_limit_exempt)
        if bounds != self._limited:  # else every reload would let each client begin anew
            self._limited = bounds
            self._engine.limit(RateLimit(bounds[0], map(ip_network, bounds[1])) if bounds[0] else None)

    def _sample(self, head: Head) -> None:
        """Find what readiness checks may ask for under the policy in force."""
        self._operations.samples = tuple(readiness.samples(self._engine.policy, head.lists))
