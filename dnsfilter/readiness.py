"""Whether the ban is in force and every address answers: asked as a client would ask."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from dnsfilter.core import answer
from dnsfilter.core.clients import Address, ClientRow
from dnsfilter.core.names import BadName, Name, from_text
from dnsfilter.core.policy import REBINDING, Action, Policy, decide
from dnsfilter.core.wire import codes
from dnsfilter.core.wire.framing import frame
from dnsfilter.core.wire.query import parse
from dnsfilter.engine.interface import PROBE_NAME, Engine
from dnsfilter.explain import question
from dnsfilter.settings import Endpoint, ListState
from dnsfilter.workers import endpoint_text

PROBE_S = 5.0
_PROBE = bytes.fromhex("0000 0100 0001 0000 0000 0000") + PROBE_NAME + b"\0\x10\0\3"
MOST_CLIENTS = 4  # asked as, of one group


@dataclass(frozen=True, slots=True)
class Sample:
    """Whom to ask as, and for which names, to see that one group is blocked."""

    group: str
    clients: tuple[str, ...]  # addresses, those without exemptions first
    names: tuple[Name, ...]  # of the lists that the group enforces


def samples(policy: Policy, lists: Iterable[ListState]) -> Iterator[Sample]:
    """Yield a sample for each group that enforces a list and that anybody can be in."""
    every = tuple(lists)
    clients: dict[str, list[tuple[str, ClientRow]]] = {}
    nameless = {REBINDING, *(each.name for each in every if each.format == "addresses")}
    for address in _addresses(policy):
        row = policy.clients.find(address)
        if row is not None and any(bit & row.enforced and name not in nameless for bit, name in row.order):
            clients.setdefault(row.group, []).append((str(address), row))
    for group, found in clients.items():
        found.sort(key=lambda each: bool(each[1].exemptions))
        names = dict.fromkeys(name for _, row in found[:1] for name in _names(row, every))
        yield Sample(group, tuple(client for client, _ in found[:MOST_CLIENTS]), tuple(names))


def _addresses(policy: Policy) -> Iterator[Address]:
    """Yield addresses so that every row that anybody can have is met: where networks begin, and behind their ends."""
    for network in policy.clients.networks():
        yield network[0]
        with suppress(ValueError):  # behind the last address of all
            yield network[-1] + 1


def _names(row: ClientRow, lists: Iterable[ListState]) -> Iterator[Name]:
    wanted = {name for bit, name in row.order if bit & row.enforced}
    for each in lists:
        if each.name in wanted:
            for text in each.samples:
                with suppress(BadName):
                    yield from_text(text)


def is_enforced(engine: Engine, sample: Sample, now: float, wall: float) -> bool:
    """Ask the engine listed names as a client of the group until its answer is the block, to the octet.

    Where all clients at hand are exempt, that their exemptions were needed is the proof.
    """
    policy, is_lifted = engine.policy, False
    for client in sample.clients:
        row = policy.clients.find(ipaddress.ip_address(client))
        if row is None:
            continue
        for name in sample.names:
            verdict = decide(policy, row, name, wall)
            is_lifted = is_lifted or verdict.action is Action.EXEMPTED
            if verdict.action is Action.BLOCKED:
                asked = question(name, codes.A)
                expected = answer.blocked(parse(asked), verdict, policy.blocking)
                return engine.probe(asked, client, now, wall) == expected
    return is_lifted


async def silent(listeners: Iterable[Endpoint]) -> list[str]:
    """Ask every address over UDP and TCP; return a reason for each that does not answer in PROBE_S."""
    asked = [(each, ask) for each in listeners for ask in (_by_udp, _by_tcp)]
    answered = await asyncio.gather(*(_answers(each, ask) for each, ask in asked))
    return [
        f"{endpoint_text(each)} does not answer over {'UDP' if ask is _by_udp else 'TCP'}"
        for (each, ask), ok in zip(asked, answered, strict=True)
        if not ok
    ]


async def _answers(listener: Endpoint, ask: Callable[[Endpoint], Awaitable[bool]]) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener[0], listener[0])
    try:
        async with asyncio.timeout(PROBE_S):
            return await ask((host, listener[1]))
    except (OSError, EOFError, TimeoutError):
        return False


async def _by_udp(listener: Endpoint) -> bool:
    family = socket.AF_INET6 if ":" in listener[0] else socket.AF_INET
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(listener)
        await loop.sock_sendall(sock, _PROBE)
        return len(await loop.sock_recv(sock, 512)) >= 12


async def _by_tcp(listener: Endpoint) -> bool:
    reader, writer = await asyncio.open_connection(*listener)
    try:
        writer.write(frame(_PROBE))
        return len(await reader.readexactly(14)) == 14
    finally:
        writer.close()
