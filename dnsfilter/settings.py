"""What a serving process is told besides the policy: plain values, as they stand in a snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass

Endpoint = tuple[str, int]  # address and port


@dataclass(frozen=True, slots=True)
class Resolver:
    """An upstream as it is configured: whom to ask, and by which transport."""

    transport: str  # "udp" (TCP where it is needed), "tls" (RFC 7858) or "https" (RFC 8484)
    host: str  # an address, or a name that `bootstrap` looks up
    port: int
    server_name: str = ""  # that the certificate is for, and of the HTTP authority; empty: the host
    path: str = ""  # of an https URL

    @property
    def name(self) -> str:
        """The text for metrics and logs: 192.0.2.53:53, tls://192.0.2.55:853#dns.example."""
        where = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        if self.transport == "udp":
            return where
        return f"{self.transport}://{where}{self.path}{self.server_name and '#' + self.server_name}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything of the node. A change of what is in `FIXED` needs a restart."""

    state: str  # directory
    dns: tuple[Endpoint, ...]
    admin: Endpoint | None
    metrics: Endpoint | None
    upstream_groups: tuple[tuple[Resolver, ...], ...]  # 0: the default; then one for each `forward` zone
    strategy: str  # in which order a group is asked: "strict", "load_balance", "parallel"
    bootstrap: tuple[Endpoint, ...]  # who looks up the host names of upstreams and of remote lists
    ca_file: str  # PEM file with whom certificates of upstreams must come from; empty: the system's
    ca_hash: str  # of its content; empty: none
    random_case: bool  # whether letters of questions to upstreams are in random case
    timeout_s: float
    deadline_s: float
    max_concurrent: int
    cache_entries: int
    max_ttl: int  # seconds
    max_negative_ttl: int
    serve_stale: int
    rate_limit: int  # queries a second for each client; 0: no limit
    rate_limit_exempt: tuple[str, ...]  # networks without
    log_level: str


@dataclass(frozen=True, slots=True)
class Request:
    """What a policy is to be built from: the command line's words."""

    config: str | None = None  # path of the file; None: built-in defaults
    text: str | None = None  # its text, where not as it stands in the file now
    listen: str | None = None
    upstream: str | None = None
    resolv_conf: str = "/etc/resolv.conf"
    state: str | None = None  # where the server that asks keeps its state; None: as configured
    keeps: bool = False  # whether last good copies of lists are written, and serve where a list is at fault
    is_meant: bool = False  # whether an admin asked for it: files count as they stand, however they have changed
    accept: Sequence[str] = ()  # lists whose content an admin takes over, however it has changed


FIXED = (
    *("state", "dns", "admin", "metrics", "max_concurrent"),
    *("cache_entries", "max_ttl", "max_negative_ttl", "serve_stale"),
)


@dataclass(frozen=True, slots=True)
class ListState:
    """One list as it was read for a policy."""

    name: str
    source: str  # "file PATH", "built-in", "configuration"
    path: str  # empty: no file to watch
    stamp: str  # of the file as it was read; another one means that it has changed
    format: str
    match: str
    mode: str
    sha256: str
    entries: int
    skipped_lines: int
    skipped: tuple[str, ...]  # "line N: reason: text", the first ones
    samples: tuple[str, ...]  # some of its names as text, for readiness checks
    checked_at: float  # seconds since the epoch: when the source was last seen to be what is in force; 0: never
    changed_at: float  # last change of its content; 0: never
    dated: str = ""  # the date that its head states
    problem: str = ""  # why something else than what the source says is in force
    refresh_s: float = 0.0  # of a remote list; 0: none
    wants_fetch: bool = False  # nothing that its source says now is at hand
