"""The upstreams as they are configured, made and kept; and whether what one is asked comes back to us."""

import asyncio
import logging
import secrets
from collections.abc import Iterator, Mapping
from functools import partial

from dnsfilter import workers
from dnsfilter.core.names import Name, from_text
from dnsfilter.engine.express import Express
from dnsfilter.engine.interface import Engine
from dnsfilter.forward import Ask, Forwarder
from dnsfilter.settings import Resolver, Settings
from dnsfilter.upstream.group import Strategy, Stream, Upstream, UpstreamGroup
from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.stream import StreamPool
from dnsfilter.upstream.tls import Tls
from dnsfilter.upstream.udp import POOL, UdpPool

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 300.0
LOOK_S = 0.05  # how soon the outcome is seen
HTTPS = 443  # the port that a URL does not name
# Below it nothing exists, no resolver treats it as special (RFC 6761 section 6.5), and so each asks on.
LOOP_ZONE = from_text("loop-check.example")


class Upstreams:
    """All upstreams of the process, and the groups they are in."""

    def __init__(self, engine: Engine, express: Express, forwarder: Forwarder) -> None:
        self._engine = engine
        self._express = express
        self._forwarder = forwarder
        self._settings: Settings | None = None
        self._hosts = Hosts(())
        self._retired: list[Upstream] = []  # no longer configured, open until their questions are over
        self._checked: set[Upstream] = set()
        self.known: dict[Resolver, Upstream] = {}

    def connect(self, settings: Settings) -> None:
        """Make the groups, keeping what is known of the upstreams that stay. Raises OSError for a bad `ca_file`."""
        old, old_hosts = self._settings, self._hosts
        if old is None or old.bootstrap != settings.bootstrap:
            self._hosts = Hosts(settings.bootstrap, settings.timeout_s)
        keeps = old is not None and (old.ca_hash, old.bootstrap) == (settings.ca_hash, settings.bootstrap)
        wanted = dict.fromkeys(each for group in settings.upstream_groups for each in group)
        sockets = max(1, min(POOL, workers.descriptors() // 4 // len(wanted)))
        if sockets < POOL:
            log.warning("only %d sockets for each upstream: raise the limit on open files (LimitNOFILE=65536)", sockets)
        before, known = self.known, {}
        try:
            for each in wanted:
                kept = before.get(each) if keeps or each.transport == "udp" else None
                known[each] = kept or self._upstream(each, sockets, settings)
        except OSError:
            self._hosts = old_hosts
            raise
        if self._hosts is not old_hosts:
            old_hosts.close()
        self._settings, self.known = settings, known
        longest_s = max(settings.deadline_s, 0.0 if old is None else old.deadline_s)  # questions are out under both
        for gone in set(before.values()) - set(self.known.values()):
            self._retired.append(gone)
            self._checked.discard(gone)
            asyncio.get_running_loop().call_later(longest_s, self._retire, gone)
        self._regroup()

    def _regroup(self) -> None:
        """Put the upstreams into their groups, those that lead back to us left out."""
        settings = self._settings
        assert settings is not None  # noqa: S101
        strategy = Strategy(settings.strategy)
        groups = [UpstreamGroup([self.known[each] for each in group], strategy) for group in settings.upstream_groups]
        self._forwarder.groups = groups
        is_plain = strategy is Strategy.STRICT and not settings.random_case
        self._express.links = {
            number: group.upstreams[0]
            for number, group in enumerate(groups)
            if is_plain and group.upstreams and group.upstreams[0].udp is not None
        }

    def close(self) -> None:
        """Close all connections."""
        self._hosts.close()
        for upstream in (*self.known.values(), *self._retired):
            upstream.close()

    def _retire(self, gone: Upstream) -> None:
        self._retired.remove(gone)
        gone.close()

    def _upstream(self, resolver: Resolver, sockets: int, settings: Settings) -> Upstream:
        loop, forwarder, hosts = asyncio.get_running_loop(), self._forwarder, self._hosts
        ca_file, most = settings.ca_file or None, settings.max_concurrent
        host, port = resolver.host, resolver.port
        if resolver.transport == "udp":
            udp = UdpPool[Ask](host, port, loop, forwarder, sockets)
            udp.express, udp.take_over = self._express, forwarder.take_over
            return Upstream(resolver.name, udp, StreamPool(host, port, loop, forwarder, hosts, most_waiting=most))
        server = resolver.server_name or host
        stream: Stream
        if resolver.transport == "tls":
            stream = StreamPool(host, port, loop, forwarder, hosts, Tls(server, ca_file), most_waiting=most)
        else:
            from dnsfilter.upstream.doh import DohPool  # noqa: PLC0415 - its library is an extra

            shown = f"[{server}]" if ":" in server else server
            authority = shown if port == HTTPS else f"{shown}:{port}"
            tls = Tls(server, ca_file, ("h2",))
            path = resolver.path
            stream = DohPool(host, port, path, loop, forwarder, hosts, tls, authority=authority, most_waiting=most)
        return Upstream(resolver.name, None, stream)

    # ---- loops ----

    async def watch(self) -> None:
        """Look for loops now and then: what leads back to us today may be mended tomorrow."""
        while True:
            await self.find_loops()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def find_loops(self) -> None:
        """Ask each upstream that is new, or leads back to us, a random name.

        It leads back to us if we are asked that name, give no answer, and it has none either. That we are asked alone
        says little: some appliances ask again whatever they see, and names can be overheard.
        """
        settings = self._settings
        assert settings is not None  # noqa: S101
        returned: set[Upstream] = set()
        answered: dict[Upstream, bool] = {}
        names = dict(self._questions())
        for name, upstream in names.items():
            self._checked.add(upstream)
            self._engine.watch_for(name, partial(returned.add, upstream))
            self._forwarder.try_out(upstream, name, partial(answered.__setitem__, upstream))
        deadline = asyncio.get_running_loop().time() + settings.deadline_s + 1
        while len(answered) < len(names) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(LOOK_S)
        for name in names:
            self._engine.watch_for(name, None)
        self._judge({upstream: upstream in returned and not answered.get(upstream) for upstream in names.values()})

    def _questions(self) -> Iterator[tuple[Name, Upstream]]:
        """Yield a name for each upstream to check, in the zone that it is for."""
        zones = {number: zone for zone, number in self._engine.policy.zones.items()}
        seen: set[Upstream] = set()
        for number, group in enumerate(self._forwarder.groups):
            for upstream in group.all:
                if upstream not in seen and (upstream.is_loop or upstream not in self._checked):
                    seen.add(upstream)
                    label = secrets.token_hex(6).encode()
                    yield bytes([len(label)]) + label + zones.get(number, LOOP_ZONE), upstream

    def _judge(self, found: Mapping[Upstream, bool]) -> None:
        """Leave out those that lead back to us, and take in those that no longer do."""
        changed = [upstream for upstream, is_loop in found.items() if upstream.is_loop is not is_loop]
        for upstream in changed:
            upstream.is_loop = found[upstream]
            if upstream.is_loop:
                log.error("upstream %s asks us what we ask it: it is left out until that ends", upstream.name)
            else:
                log.info("upstream %s asks us no more, and is asked again", upstream.name)
        if changed:
            self._regroup()

    @property
    def loops(self) -> list[str]:
        """Those that lead back to us."""
        return [upstream.name for upstream in self.known.values() if upstream.is_loop]
