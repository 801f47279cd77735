"""The file that hands a policy from the process that builds it to the one that serves it.

Everything in it is checksummed, and the names come in chunks that a loader takes one a
turn: a list of a million names is read, checked and in force without the loop ever
standing still for longer than a chunk.
"""

import dataclasses
import hashlib
import ipaddress
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dnsfilter.core.addresses import AddressRules
from dnsfilter.core.clients import ClientRow, Clients, Prefixes, Style
from dnsfilter.core.exemptions import Exemption
from dnsfilter.core.index import CHUNK, Chunk, Hit, Index, Pair
from dnsfilter.core.names import MAX_NAME
from dnsfilter.core.policy import Blocking, Policy
from dnsfilter.settings import ListState, Resolver, Settings

IN_FORCE = "policy.snapshot"  # in the state directory: the one that serves, for the next start too

_MAGIC = b"dnsfilter snapshot 2\n"
_HEAD = struct.Struct("!Q32s")  # length and SHA-256 of the head
_CHUNK = struct.Struct("!III16s")  # number of its pair, names, octets, BLAKE2b
_END = 0xFFFFFFFF
MAX_CHUNK = CHUNK * MAX_NAME  # octets

Json = dict[str, Any]


class BadSnapshot(ValueError):
    """A file that is no snapshot, or not a whole one."""


@dataclass(frozen=True, slots=True)
class Head:
    """All of a snapshot but the names."""

    inputs: str  # hash of all that was read to build it
    hash: str  # of the policy
    config_text: str  # the configuration it was built from
    warnings: tuple[str, ...]
    settings: Settings
    lists: tuple[ListState, ...]
    policy: Json
    ends: Mapping[str, float]  # of exemptions, by id


def write(path: Path, head: Head, chunks: Iterable[Chunk]) -> None:
    """Write a snapshot whole or not at all. Raises OSError."""
    kept = list(chunks)
    pairs = list(dict.fromkeys(chunk.pair for chunk in kept))
    numbers = {pair: number for number, pair in enumerate(pairs)}
    document = dataclasses.asdict(head) | {"pairs": [dataclasses.asdict(pair) for pair in pairs]}
    octets = json.dumps(document).encode()
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            partial.chmod(0o600)  # it holds who is exempt
            file.write(_MAGIC)
            file.write(_HEAD.pack(len(octets), hashlib.sha256(octets).digest()))
            file.write(octets)
            for chunk in kept:
                number = numbers[chunk.pair]
                digest = _digest(number, chunk.count, chunk.names)
                file.write(_CHUNK.pack(number, chunk.count, len(chunk.names), digest))
                file.write(chunk.names)
            file.write(_CHUNK.pack(_END, sum(chunk.count for chunk in kept) & _END, 0, bytes(16)))
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _digest(number: int, count: int, names: bytes) -> bytes:
    return hashlib.blake2b(names, digest_size=16, key=f"{number} {count}".encode()).digest()


class Reader:
    """A snapshot being read: the head at once, the chunks one by one."""

    def __init__(self, path: Path) -> None:
        """Open and read the head. Raises BadSnapshot, OSError."""
        self._file: BinaryIO = path.open("rb")
        try:
            document = self._document()
            self.head = _head(document)
            self._pairs = [Pair(Hit(**pair["at"]), Hit(**pair["below"])) for pair in document["pairs"]]
        except (KeyError, TypeError, ValueError, RecursionError, struct.error) as error:
            self._file.close()
            raise BadSnapshot(f"{path}: {error}") from None

    def _document(self) -> Json:
        if self._file.read(len(_MAGIC)) != _MAGIC:
            raise BadSnapshot("not a snapshot of this version")
        length, digest = _HEAD.unpack(self._file.read(_HEAD.size))
        if length > os.fstat(self._file.fileno()).st_size:
            raise BadSnapshot("the head is damaged")
        octets = self._file.read(length)
        if hashlib.sha256(octets).digest() != digest:
            raise BadSnapshot("the head is damaged")
        document: Json = json.loads(octets)
        return document

    def chunks(self) -> Iterator[Chunk]:
        """Yield each chunk once it is checked, and close the file. Raises BadSnapshot."""
        total = 0
        with self._file:
            while True:
                record = self._file.read(_CHUNK.size)
                if len(record) != _CHUNK.size:
                    raise BadSnapshot("the file ends before its end")
                number, count, length, digest = _CHUNK.unpack(record)
                if number == _END:
                    if count != total & _END or length or any(digest) or self._file.read(1):
                        raise BadSnapshot("the end is not as it was written")
                    return
                names = self._file.read(min(length, MAX_CHUNK))
                if number >= len(self._pairs) or _digest(number, count, names) != digest:
                    raise BadSnapshot("names are damaged")
                total += count
                yield Chunk(self._pairs[number], count, names)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _head(document: Json) -> Head:
    settings = document["settings"]
    return Head(
        inputs=document["inputs"],
        hash=document["hash"],
        config_text=document["config_text"],
        warnings=tuple(document["warnings"]),
        settings=Settings(
            **settings
            | {
                "dns": _endpoints(settings["dns"]),
                "admin": _endpoint(settings["admin"]),
                "metrics": _endpoint(settings["metrics"]),
                "upstream_groups": tuple(
                    tuple(Resolver(**one) for one in group) for group in settings["upstream_groups"]
                ),
                "bootstrap": _endpoints(settings["bootstrap"]),
                "rate_limit_exempt": tuple(settings["rate_limit_exempt"]),
            }
        ),
        lists=tuple(
            ListState(**entry | {"skipped": tuple(entry["skipped"]), "samples": tuple(entry["samples"])})
            for entry in document["lists"]
        ),
        policy=document["policy"],
        ends=document["ends"],
    )


def _endpoint(value: list[Any] | None) -> tuple[str, int] | None:
    return None if value is None else (value[0], value[1])


def _endpoints(values: list[list[Any]]) -> tuple[tuple[str, int], ...]:
    return tuple((host, port) for host, port in values)


def policy_of(head: Head, index: Index) -> Policy:
    """Put the parts together: what a snapshot says of clients, over an index."""
    data = head.policy
    rows = [_row(row) for row in data["rows"]]
    blocking = data["blocking"]
    return Policy(
        hash=head.hash,
        lists=tuple(data["lists"]),
        index=index,
        clients=Clients(
            access=Prefixes((ipaddress.ip_network(network), True) for network in data["access"]),
            rows=Prefixes((ipaddress.ip_network(network), rows[number]) for network, number in data["networks"]),
            default=rows[0],
        ),
        blocking=Blocking(
            ipv4=None if blocking["ipv4"] is None else ipaddress.ip_address(blocking["ipv4"]).packed,
            ipv6=None if blocking["ipv6"] is None else ipaddress.ip_address(blocking["ipv6"]).packed,
            ttl=blocking["ttl"],
            text=blocking["text"],
        ),
        zones={bytes.fromhex(zone): number for zone, number in data["zones"].items()},
        addresses=AddressRules((ipaddress.ip_network(network), mask) for network, mask in data["addresses"]),
        private_zones=frozenset(map(bytes.fromhex, data["private_zones"])),
    )


def _row(row: Json) -> ClientRow:
    return ClientRow(
        **row
        | {
            "style": Style(row["style"]),
            "order": tuple((bit, name) for bit, name in row["order"]),
            "exemptions": tuple(Exemption(**exemption) for exemption in row["exemptions"]),
        }
    )
