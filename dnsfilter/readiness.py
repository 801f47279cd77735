"""Whether the ban is in force and every address answers: asked as a client would ask."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from dnsfilter.core.clients import Address, ClientRow, Network, Style
from dnsfilter.core.names import BadName, Name, from_text
from dnsfilter.core.policy import Action, Policy, decide
from dnsfilter.core.wire import codes
from dnsfilter.core.wire.framing import frame
from dnsfilter.engine.interface import Engine
from dnsfilter.explain import question
from dnsfilter.settings import Endpoint, ListState
from dnsfilter.workers import endpoint_text

PROBE_S = 5.0
_PROBE = bytes.fromhex("0000 0100 0001 0000 0000 0000") + b"\x05probe\x09dnsfilter\x07invalid\0" + b"\0\x10\0\3"
_SPARE = ("127.255.255.254", "10.255.255.254", "192.168.255.254", "172.31.255.254", "::1")


@dataclass(frozen=True, slots=True)
class Sample:
    """A listed name, and an address to ask it as, for one group that enforces a list."""

    group: str
    client: str
    name: Name
    row: ClientRow


def samples(policy: Policy, lists: Iterable[ListState], networks: Iterable[Network], wall: float) -> Iterator[Sample]:
    """Yield one sample for each group that enforces a list and for which one can be found."""
    every = tuple(lists)
    addresses: list[Address] = [network[0] for network in networks]
    addresses += map(ipaddress.ip_address, _SPARE)
    seen: set[str] = set()
    for client in addresses:
        row = policy.clients.find(client)
        if row is None or row.group in seen or not row.enforced:
            continue
        for name in _names(row, every):
            if decide(policy, row, name, wall).action is Action.BLOCKED:
                seen.add(row.group)
                yield Sample(row.group, str(client), name, row)
                break


def _names(row: ClientRow, lists: Iterable[ListState]) -> Iterator[Name]:
    wanted = {name for bit, name in row.order if bit & row.enforced}
    for each in lists:
        if each.name in wanted:
            for text in each.samples:
                with suppress(BadName):
                    yield from_text(text)


def is_blocked(engine: Engine, sample: Sample, now: float, wall: float) -> bool:
    """Ask the engine the listed name as a client of the group; tell whether its answer is the block."""
    octets = engine.probe(question(sample.name, codes.A), sample.client, now, wall)
    if octets is None:
        return False
    rcode, answers = octets[3] & 15, int.from_bytes(octets[6:8], "big")
    if sample.row.style is Style.NXDOMAIN:
        return rcode == codes.NXDOMAIN
    if sample.row.style is Style.REFUSED:
        return rcode == codes.REFUSED
    sinkhole = engine.policy.blocking.ipv4
    if sample.row.style is Style.SINKHOLE and sinkhole is not None:
        return rcode == codes.NOERROR and answers == 1 and sinkhole in octets[12 + len(sample.name) + 4 :]
    return rcode == codes.NOERROR and not answers


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
