"""The addresses of upstreams that the configuration names: kept while fresh, and longer where nobody answers."""

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from dnsfilter.core.names import BadName, from_text
from dnsfilter.upstream import lookup
from dnsfilter.upstream.lookup import LookupFailed

FRESH_S = 300.0
RETRY_S = 5.0  # after a look-up that failed


@dataclass(slots=True)
class _Host:
    """What is known of one name."""

    addresses: tuple[str, ...] = ()  # those of the last look-up that went well
    failure: str = ""  # what the last look-up said, if it failed
    until: float = 0.0  # the loop's time at which to look again
    task: asyncio.Task[None] | None = None  # the look-up that is going on


class Hosts:
    """Names to addresses. All upstreams share one, and with it the look-ups."""

    def __init__(self, bootstrap: Sequence[tuple[str, int]], timeout_s: float = 2.0) -> None:
        """bootstrap: addresses and ports of plain resolvers, in the order to ask. timeout_s: for each exchange."""
        self._bootstrap = tuple(bootstrap)
        self._timeout_s = timeout_s
        self._hosts: dict[str, _Host] = {}

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a host, an address its own. Raises LookupFailed where none was ever known.

        Old addresses are given at once, while new ones are looked up: what is asked now need not wait.
        """
        if _is_address(host):
            return (host,)
        known = self._hosts.setdefault(host, _Host())
        loop = asyncio.get_running_loop()
        if known.task is None and loop.time() >= known.until:
            known.task = loop.create_task(self._look_up(host, known))
        if not known.addresses and known.task is not None:
            await asyncio.wait([known.task])  # others may wait for it too
        if not known.addresses:
            raise LookupFailed(known.failure)
        return known.addresses

    def close(self) -> None:
        """End the look-ups that are going on."""
        for known in self._hosts.values():
            if known.task is not None:
                known.task.cancel()

    async def _look_up(self, host: str, known: _Host) -> None:
        loop = asyncio.get_running_loop()
        try:
            known.addresses = await lookup.addresses(from_text(host), self._bootstrap, self._timeout_s)
            known.until = loop.time() + FRESH_S
        except LookupFailed as error:
            known.failure, known.until = str(error), loop.time() + RETRY_S
        except BadName as error:
            known.failure, known.until = f"{host} is no host name: {error}", loop.time() + FRESH_S
        except asyncio.CancelledError:
            known.failure = f"{host} is not looked up any more"
            raise
        finally:
            known.task = None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
