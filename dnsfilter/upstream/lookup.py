"""The addresses of a host that we ourselves need, asked of upstreams. The system's resolver may be us."""

import asyncio
import ipaddress
from collections.abc import Sequence
from itertools import chain, zip_longest

from dnsfilter.core.names import Name, to_text
from dnsfilter.core.wire import build, codes
from dnsfilter.core.wire.response import FormError, Response, read
from dnsfilter.upstream import tcp
from dnsfilter.upstream.udp import Exchange, UdpPool

MAX_LINKS = 16  # of a CNAME chain
MAX_ADDRESSES = 32
_TYPES = {codes.A: "A", codes.AAAA: "AAAA"}
_TOLD = 6  # answers, in a message
_REMEDY = "correct the host name, or resolve.bootstrap (the plain ones of upstreams, where that is not set)"


class LookupFailed(Exception):
    """No address is known; the message says which name, who was asked and what they said."""


class _NoAnswer(Exception):
    """One upstream gives no address; the message is what it does instead."""

    def __init__(self, message: str, *, is_final: bool = False, may_be_lost: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final  # others would say the same
        self.may_be_lost = may_be_lost  # so that it is worth asking again


async def addresses(name: Name, upstreams: Sequence[tuple[str, int]], timeout_s: float = 2.0) -> tuple[str, ...]:
    """Return the addresses of a host, both families in turn. Raises LookupFailed.

    name: folded. upstreams: addresses and ports, in the order to ask them. timeout_s: for each exchange.
    """
    asked = await asyncio.gather(*(_family(name, qtype, upstreams, timeout_s) for qtype in _TYPES))
    # IPv4 first: where IPv6 is announced but leads nowhere, each try costs a time-out.
    found = [each for each in chain.from_iterable(zip_longest(*(found for found, _ in asked))) if each is not None]
    if not found:
        told = list(dict.fromkeys(chain.from_iterable(told for _, told in asked))) or ["there is nobody to ask"]
        raise LookupFailed(f"{to_text(name)} has no address: {'; '.join(told[:_TOLD])}; {_REMEDY}")
    return tuple(found[:MAX_ADDRESSES])


async def _family(
    name: Name, qtype: int, upstreams: Sequence[tuple[str, int]], timeout_s: float
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the addresses of one family; and if there are none, what each upstream did instead."""
    said: dict[tuple[str, int], _NoAnswer] = {}
    for _ in range(2):  # what was sent may have been lost
        for upstream in upstreams:
            if upstream in said and not said[upstream].may_be_lost:
                continue
            try:
                return await _ask(name, qtype, upstream, timeout_s), ()
            except _NoAnswer as error:
                said[upstream] = error
                if error.is_final:
                    return (), [f"{_text(upstream)} {error}"]
    return (), [f"{_text(upstream)} {error}" for upstream, error in said.items()]


async def _ask(name: Name, qtype: int, upstream: tuple[str, int], timeout_s: float) -> Sequence[str]:
    question = name + qtype.to_bytes(2, "big") + codes.IN.to_bytes(2, "big")
    rest = build.upstream_query(question, cd=False, do=False, edns=False)  # small enough without; and all know that
    try:
        async with asyncio.timeout(timeout_s):
            octets = await _by_udp(rest, question, upstream)
        if octets[2] & codes.TC:
            async with asyncio.timeout(timeout_s):
                octets = await tcp.exchange(*upstream, rest, question)
        return _addresses(read(octets, name), name, qtype)
    except TimeoutError:
        raise _NoAnswer(f"does not answer within {timeout_s:g} s", may_be_lost=True) from None
    except tcp.TcpError as error:
        raise _NoAnswer(f"gives a cut answer, and none over TCP: {error}") from None
    except OSError as error:
        raise _NoAnswer(f"cannot be asked: {error.strerror or error}") from None
    except FormError as error:
        raise _NoAnswer(f"sends what is no message: {error}") from None


async def _by_udp(rest: bytes, question: bytes, upstream: tuple[str, int]) -> bytes:
    """Ask from a port of its own. Raises OSError. The caller bounds the time."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[bytes] = loop.create_future()
    pool = UdpPool[asyncio.Future[bytes]](*upstream, loop, _Outcome(), 1)
    try:
        pool.send(rest, question, outcome, loop.time())
        return await outcome
    finally:
        pool.close()


class _Outcome:
    """Hands on what becomes of a query."""

    def on_response(self, exchange: Exchange[asyncio.Future[bytes]], octets: bytes) -> None:
        if not exchange.purpose.done():
            exchange.purpose.set_result(octets)

    def on_refused(self, exchange: Exchange[asyncio.Future[bytes]]) -> None:
        if not exchange.purpose.done():
            exchange.purpose.set_exception(ConnectionRefusedError(0, "nobody listens there"))

    def on_batch_end(self) -> None:
        """Nothing is left to do."""


def _addresses(response: Response, name: Name, qtype: int) -> Sequence[str]:
    """Return the addresses in an answer, at the end of its CNAME chain. Raises _NoAnswer."""
    if response.rcode == codes.NXDOMAIN:
        raise _NoAnswer("says that there is no such name", is_final=True)
    if response.rcode != codes.NOERROR:
        raise _NoAnswer(f"says {codes.RCODE_NAMES.get(response.rcode, f'RCODE{response.rcode}')}")
    records = [each for each in response.records if each.section == 0]
    links = {each.owner: each.target for each in records if each.rtype == codes.CNAME}
    for _ in range(MAX_LINKS + 1):
        found = [each for each in records if each.rtype == qtype and each.owner == name]
        if found:
            return [str(ipaddress.ip_address(response.octets[each.rdata_at : each.end])) for each in found]
        if (target := links.get(name)) is None:
            raise _NoAnswer(f"knows no {_TYPES[qtype]} record of it", is_final=True)
        name = target
    raise _NoAnswer(f"answers with a chain of more than {MAX_LINKS} names")


def _text(upstream: tuple[str, int]) -> str:
    host, port = upstream
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
