"""What a single written value may be: address, network, name, duration, number, path. Text in, value out.

Every function raises Wrong, with what is wrong and what to write instead.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from dnsfilter.config.problems import Wrong, alternatives, nearest, shown
from dnsfilter.core import names

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ZONE = re.compile(r"%[A-Za-z0-9._-]+")
HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SIZES = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SIZE = re.compile(rf"([0-9]{{1,12}})({'|'.join(_SIZES)})")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%")
_FACTOR = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)x")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, or whom to ask."""

    host: str  # an address in its shortest form; IPv4-mapped as IPv4; a zone id as written
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ip(self) -> IPAddress:
        """The host without its zone id, to reason about."""
        return ipaddress.ip_address(self.host.partition("%")[0])


def unmapped(address: IPAddress) -> IPAddress:
    """Return the IPv4 address that an IPv4-mapped IPv6 address stands for, any other as it is."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def address(text: str, port: int | None, *, any_port: bool = False) -> Address:
    """Read `192.0.2.53`, `192.0.2.53:5353`, `2001:db8::53` or `[2001:db8::53]:5353`.

    port: the one meant where none is written; None: it must be written.
    any_port: 0 may be written, and the system chooses.
    """
    host, written_port = host_and_port(text)
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise _no_address(text, host) from None
    zone = host.partition("%")[2]
    if zone and _ZONE.fullmatch("%" + zone) is None:
        raise Wrong(f"{shown(text)}: not the name of an interface after %", 'write it as in "[fe80::1%eth0]:53"')
    ip = unmapped(ip)
    if ip.is_multicast or str(ip) == "255.255.255.255":
        raise Wrong(f"{shown(text)} is an address of many", "write the address of one machine")
    if written_port is None:
        if port is None:
            form = f"[{ip}]:9153" if ip.version == 6 else f"{ip}:9153"
            raise Wrong(f"{shown(text)} has no port", f'write it behind the address: "{form}"')
        return Address(str(ip), port)
    return Address(str(ip), port_of(text, written_port, lowest=0 if any_port else 1))


def host_and_port(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")) or ":" not in host:
            raise Wrong(f"{shown(text)} is not an address", 'write IPv6 with a port as "[2001:db8::53]:53"')
        return host, rest[1:] if rest else None
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, None  # an IPv6 address without brackets can have no port


def port_of(text: str, port: str, *, lowest: int) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and lowest <= int(port) <= 65535):
        raise Wrong(f"{shown(text)}: {shown(port)} is not a port", f"a port is a number from {lowest} to 65535")
    return int(port)


NO_NAME = "a host name stands where an address belongs"


def is_host_name(host: str) -> bool:
    return HOST_NAME.fullmatch(host) is not None and not host.replace(".", "").isdigit()


def _no_address(text: str, host: str) -> Wrong:
    if host in ("", "*"):
        return Wrong(f"{shown(text)} has no address", 'for all addresses write "0.0.0.0:53" and "[::]:53"')
    if is_host_name(host):
        return Wrong(f"{shown(text)}: {NO_NAME}", "write the address")
    if "/" in host:
        return Wrong(f"{shown(text)} is not an address", "write one address, without a prefix length")
    return Wrong(f"{shown(text)} is not an address", 'write 192.0.2.53, "192.0.2.53:5353" or "[2001:db8::53]:53"')


def switch(text: str) -> bool:
    """Read on or off."""
    return choice(text, ("on", "off")) == "on"


def listed_network(text: str) -> Network:
    """Read a network to block: never all of a family."""
    found = network(text)
    if found.prefixlen == 0:
        raise Wrong(f"{shown(text)} is every address there is", "write the networks that are meant")
    return found


def listen_address(text: str) -> Address:
    """An address to listen on, 53 where no port is written."""
    return address(text, 53, any_port=True)


def network(text: str) -> Network:
    """Read `10.20.0.0/16`, `2001:db8::/32` or one address. IPv4-mapped becomes IPv4, a zone id is ignored."""
    host, slash, length = _ZONE.sub("", text).partition("/")
    try:
        if "%" in host:
            raise ValueError
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise Wrong(f"{shown(text)} is not a network", _network_remedy(host)) from None
    most = ip.max_prefixlen
    if slash and not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= most):
        raise Wrong(f"{shown(text)} is not a network", _length_remedy(ip, length))
    bits = int(length) if slash else most
    if (plain := unmapped(ip)) is not ip and bits >= 96:
        ip, bits = plain, bits - 96
    found = ipaddress.ip_network((ip, bits), strict=False)
    if found.network_address != ip:
        raise Wrong(f"{shown(text)} has bits set behind its prefix length", f"write {found}, or {ip} for one address")
    return found


def _network_remedy(host: str) -> str:
    octets = host.split(".")
    known = next((i for i, octet in enumerate(octets) if octet in ("*", "x", "")), len(octets))
    if 0 < known < 4 and all(octet.isascii() and octet.isdigit() and len(octet) < 4 for octet in octets[:known]):
        return f"write {'.'.join(octets[:known] + ['0'] * (4 - known))}/{8 * known}"
    if "-" in host:
        return "a range is written as its networks: 10.20.0.0 to 10.20.1.255 is 10.20.0.0/23"
    return "write 10.20.0.0/16, 2001:db8:20::/48 or one address"


def _length_remedy(ip: IPAddress, length: str) -> str:
    remedy = f"an IPv{ip.version} prefix length ends at {ip.max_prefixlen}"
    try:
        mask = ipaddress.IPv4Network(f"0.0.0.0/{length}")  # 255.255.0.0
        return f"write the mask as a prefix length: {ip}/{mask.prefixlen}" if "." in length else remedy
    except ValueError:
        pass
    octets = str(ip).split(".")
    while len(octets) > 1 and octets[-1] == "0":
        octets.pop()
    if ip.version == 4 and len(octets) < 4:
        stars = ".".join(octets + ["*"] * (4 - len(octets)))
        return f"{remedy}; for all of {stars} write {ip}/{8 * len(octets)}"
    return remedy


def name(text: str) -> names.Name:
    """Read a domain name. Not the root, no address, nothing of a URL, no star: those never mean what was meant."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        raise Wrong(f"{shown(text)} is an address", "write a name; addresses belong to `networks`")
    if text.startswith("*.") or (text.startswith(".") and text != "."):
        raise Wrong(
            f"{shown(text)} is not a name", f"write {shown(text.lstrip('*.'))}: names below it are meant as well"
        )
    if "\\" not in text and text.isascii() and _PLAIN_NAME.fullmatch(text) is None:
        raise Wrong(
            f"{shown(text)} is not a name",
            "write the name alone, as press.example; any other character as its number: \\047 for a slash",
        )
    try:
        found = names.from_text(text)
    except names.BadName as error:
        raise Wrong(f"{shown(text)} is not a name: {error}", "write a name as press.example") from None
    if found == names.ROOT:
        raise Wrong(f"{shown(text)} is every name there is", "write the names that are meant")
    return found


def listed_name(text: str) -> names.Name:
    """Read a name to block: never a whole top-level domain by one careless word."""
    found = name(text)
    if names.parent(found) == names.ROOT:
        raise Wrong(
            f"{shown(text)} is a whole top-level domain", f"write a name in it, as example.{names.to_text(found)}"
        )
    return found


def duration(text: str) -> float:
    """Read 30s, 5m, 6h or 1d as seconds."""
    if (match := _DURATION.fullmatch(text)) is None:
        plain = text.isascii() and text.isdigit() and len(text) < 10
        raise Wrong(
            f"{shown(text)} is not a duration", f"write {text}s for seconds" if plain else "write 30s, 5m, 6h or 1d"
        )
    return float(match[1]) * _UNITS[match[2]]


def written_duration(seconds: float) -> str:
    """Write seconds as an admin does."""
    for unit, size in reversed(_UNITS.items()):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def duration_within(text: str, lowest: float, highest: float) -> float:
    """Read a duration between two others."""
    if not lowest <= (seconds := duration(text)) <= highest:
        raise Wrong(
            f"{shown(text)} is out of range", f"write {written_duration(lowest)} to {written_duration(highest)}"
        )
    return seconds


def whole(text: str, lowest: int, highest: int) -> int:
    """Read a whole number within bounds."""
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and lowest <= int(text) <= highest):
        raise Wrong(f"{shown(text)} is not a number from {lowest} to {highest}", "write it in digits only")
    return int(text)


def size_within(text: str, lowest: int, highest: int) -> int:
    """Read 64MiB or 500kB as octets."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Wrong(f"{shown(text)} is not a size", "write it as 64MiB or 500kB")
    if not lowest <= (octets := int(match[1]) * _SIZES[match[2]]) <= highest:
        raise Wrong(f"{shown(text)} is out of range", f"write {lowest}B to {highest // 1024**2}MiB")
    return octets


def percent(text: str) -> float:
    """Read 50% as a share of one."""
    if (match := _PERCENT.fullmatch(text)) is None or float(match[1]) > 100:
        raise Wrong(f"{shown(text)} is not a share", "write 0% to 100%")
    return float(match[1]) / 100


def factor(text: str) -> float:
    """Read 10x."""
    if (match := _FACTOR.fullmatch(text)) is None or float(match[1]) < 1:
        raise Wrong(f"{shown(text)} is not a factor", "write how many times as long it may become: 10x")
    return float(match[1])


def sha256(text: str) -> str:
    """Read a SHA-256 in hexadecimal."""
    if _SHA256.fullmatch(text) is None:
        raise Wrong(f"{shown(text)} is not a SHA-256", "write the 64 hexadecimal digits that `sha256sum FILE` prints")
    return text.lower()


def signing_key(text: str) -> str:
    """Read a public key as minisign writes it: its algorithm, an id and an Ed25519 key, 42 octets in all."""
    try:
        octets = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        octets = b""
    if len(octets) != 42 or octets[:2] != b"Ed":
        remedy = "write the second line of minisign.pub, which begins with RW"
        raise Wrong(f"{shown(text)} is not a minisign public key", remedy)
    return text


def url(text: str) -> str:
    """Read the address of a list: https, a host, no user, no fragment; its host name in DNS form."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise Wrong(f"{shown(text)} is not a URL: {error}", _URL_REMEDY) from None
    if not text.isprintable() or " " in text:
        raise Wrong(f"{shown(text)} is not a URL", "write blanks and control characters as %20")
    if parts.scheme == "http":
        raise Wrong(f"{shown(text)}: what comes over http may have been changed on its way", "write https://")
    if parts.scheme != "https" or not parts.hostname:
        raise Wrong(f"{shown(text)} is not an https URL with a host", _URL_REMEDY)
    if "@" in parts.netloc:
        remedy = "name the list without them; a token belongs behind `?`, where no log shows it"
        raise Wrong("a URL with a user or a password", remedy)
    if port == 0:
        raise Wrong(f"{shown(text)}: 0 is not a port", "a port is a number from 1 to 65535")
    return SplitResult("https", _authority(parts.hostname, port), parts.path or "/", parts.query, "").geturl()


_URL_REMEDY = "write it as https://lists.example/list.txt"


def _authority(host: str, port: int | None) -> str:
    try:
        ip = ipaddress.ip_address(host)
        written = f"[{ip}]" if ip.version == 6 else str(ip)
    except ValueError:
        written = names.to_text(name(host))
        if _PLAIN_NAME.fullmatch(written) is None:
            raise Wrong(f"{shown(host)} is not the name of a host", _URL_REMEDY) from None
    return written if port is None else f"{written}:{port}"


def choice(text: str, words: tuple[str, ...]) -> str:
    """Read one of a few words."""
    if text not in words:
        raise Wrong(f"{shown(text)} is not known here", nearest(text.lower(), words, f"write {alternatives(words)}"))
    return text


def word(text: str, reserved: Mapping[str, str]) -> str:
    """Read the name of a group or list: it goes into metrics, and must not look like a domain name."""
    if _WORD.fullmatch(text) is None:
        raise Wrong(f"{shown(text)} cannot be used as a name here", "write up to 63 letters a to z, digits, - and _")
    if text in reserved:
        raise Wrong(f"the name {shown(text)} is not free: {reserved[text]}", "choose another name")
    return text


def identifier(text: str) -> str:
    """Read the id of an exemption: it goes into metrics and commands."""
    if _ID.fullmatch(text) is None:
        raise Wrong(
            f"{shown(text)} cannot be used as an id", "write up to 63 letters a to z, digits, . - and _: COMM-2026-004"
        )
    return text


def line_of_text(text: str) -> str:
    """Read free text of one line."""
    cleaned = " ".join(text.split())
    if not cleaned or not cleaned.isprintable():
        raise Wrong(f"{shown(text)} cannot be shown", "write a line of ordinary characters")
    return cleaned


def path(text: str, base: Path) -> Path:
    """Read a path, relative to the directory of the file it is written in."""
    if not text.isprintable():
        raise Wrong(f"{shown(text)} is not a path", "write it without control characters")
    if text.startswith("~"):
        raise Wrong(f"{shown(text)}: ~ has no meaning here", "write the whole path")
    return base / text


def ip_of(text: str, version: int) -> str | None:
    """Read the address that blocked questions are answered with; `off`: none of this family."""
    if text == "off":
        return None
    example = "0.0.0.0" if version == 4 else "::"
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        found = None
    if found is None or found.version != version or "%" in text:
        raise Wrong(f"{shown(text)} is not an IPv{version} address", f'write "{example}" or another one, or off')
    return str(found)


def origin(text: str) -> str:
    """Read the country of a maker."""
    if not (text.isascii() and text.isalpha() and text.isupper() and len(text) == 2):
        remedy = f"write {text.upper()}" if len(text) == 2 and text.isalpha() else "write two capital letters: CN, RU"
        raise Wrong(f"{shown(text)} is not a country code", remedy)
    return text
