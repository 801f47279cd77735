"""Keys and values whose feature does not exist yet: refused by name, so that nobody relies on them.

A row goes when its feature comes.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from dnsfilter.config.problems import SHOWN, Path, shown, walk

_OUT = "leave it out"

# Path, with * for any name or position: (patterns of values, none for the key whatever its value; remedy)
UNAVAILABLE: dict[str, tuple[tuple[str, ...], str]] = {
    "include": ((), "write all keys into this file"),
    "node": ((), _OUT),
    "listen.dot": ((), _OUT),
    "listen.doh": ((), _OUT),
    "listen.server_name": ((), _OUT),
    "listen.certificate": ((), _OUT),
    "listen.private_key": ((), _OUT),
    "listen.admin_token": ((), "leave it out, and `admin` on a loopback address"),
    "resolve.strategy": (("fastest", "random", "round-robin"), "write strict, load_balance or parallel"),
    "measure": ((), "keep it as a comment"),
    "devices": ((), "give the devices addresses of their own, and write `networks`"),
    "exemptions.regime": (("forbidden", "two-person"), "write registered, which is also the default"),
    "exemptions.register": ((), "write the exemptions under `entries`"),
    "exemptions.warn_before": ((), "leave it out, and watch dnsfilter_exemption_end_timestamp_seconds"),
    "exemptions.entries.*.devices": ((), "give the devices addresses of their own, and write `networks`"),
    "tests": ((), _OUT),
    "log.queries": ((), _OUT),
    "log.file": ((), "leave it out: the log goes to standard error"),
    "log.max_size": ((), _OUT),
    "log.keep": ((), _OUT),
    "log.clients": ((), _OUT),
    "audit": ((), _OUT),
}

_ROWS = {tuple(path.split(".")): row for path, row in UNAVAILABLE.items()}


def _safe(key: str) -> str:
    return key if key.isprintable() and len(key) < SHOWN else shown(key)


def refused(data: object) -> Iterator[tuple[Path, str, str]]:
    """Yield each refused value of the plain data: its path, what to say, and the remedy."""
    for path, value in walk(data):
        for pattern, (values, remedy) in _ROWS.items():
            if len(pattern) != len(path) or not all(p in ("*", part) for p, part in zip(pattern, path, strict=True)):
                continue
            named = ".".join(_safe(part) for part in path if isinstance(part, str))
            if not values:
                yield path, f"{named} is not available in this version", remedy
            elif isinstance(value, str) and any(fnmatchcase(value.lower(), one) for one in values):
                yield path, f"{named}: {shown(value)} is not available in this version", remedy
