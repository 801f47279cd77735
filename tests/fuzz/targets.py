"""The table of targets: a name, which is that of its corpus too, and a plain function of octets."""

from collections.abc import Iterator
from pathlib import Path

from dnsfilter.lists.formats import FORMATS
from tests.fuzz import engine_targets, file_targets, list_targets, upstream_targets, wire_targets
from tests.fuzz.promise import Target

CORPUS = Path(__file__).parent / "corpus"

_NAMES = (b"\6banned\7example\0", b"\5press", b"\3www\7example\0", b"\xc0\x0c", b"\0\0\x29\x04\xd0\0\0\x80\0\0\0")
_RECORDS = (
    b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\1",
    b"\xc0\x0c\0\5\0\1\0\0\1\x2c\0\x10\6banned\7example\0",
    b"\xc0\x0c\0\x27\0\1\0\0\1\x2c\0\2\xc0\x0c",
    b"\xc0\x0c\0\x41\0\1\0\0\1\x2c\0\3\0\1\0",
    b"\6banned\7example\0\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\1",
)

_ALIASES = (
    b"\xc0\x0c\0\5\0\1\0\0\1\x2c\0\6\3cdn\xc0\x10",
    b"\xc0\x29\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\1",
    b"\xc0\x29\0\1\0\1\0\0\1\x2c\0\4\xc6\x33\x64\1",
    b"\4deep\3cdn\7example\0",
)
_FRAMES = (
    b"\0\0\0\4\0\0\0\0\0",  # SETTINGS
    b"\0\0\0\4\1\0\0\0\0",
    b"\0\0\4\3\0\0\0\0\1\0\0\0\7",  # RST_STREAM, REFUSED_STREAM
    b"\0\0\x08\7\0\0\0\0\0\0\0\0\0\0\0\0\0",  # GOAWAY
    b"\0\0\4\x08\0\0\0\0\1\0\0\0\1",  # WINDOW_UPDATE
    b"\0\0\x08\6\0\0\0\0\0\0\0\0\0\0\0\0\0",  # PING
    b"\0\0\1\0\1\0\0\0\1\0",  # DATA, the last
)
_UPSTREAM_WORDS = (
    *(b"tls://", b"https://", b"udp://", b"192.0.2.53", b"[2001:db8::53]", b":853", b"#dns.example", b"/dns-query"),
    *(b"dns.example", b"@", b"%25eth0", b"::ffff:", b"{?dns}", b"xn--", "bücher".encode()),
)

TARGETS: dict[str, Target] = {
    "query": Target(wire_targets.query, _NAMES),
    "step": Target(engine_targets.step, _NAMES, ("query",)),
    "answer": Target(wire_targets.answer, _NAMES + _RECORDS),
    "complete": Target(engine_targets.complete, _NAMES + _RECORDS, ("answer",)),
    "addresses": Target(upstream_targets.addresses, _NAMES + _RECORDS, ("answer",)),
    "short_way": Target(upstream_targets.short_way, _NAMES + _RECORDS + _ALIASES),
    "stream": Target(upstream_targets.stream, (b"\xf0\0", b"\x64", b"\x61", b"\x70", b"\x78", b"\x7a", b"\x40")),
    "http2": Target(upstream_targets.http2, (b"\x80\x09", b"\x64", b"\x61", b"\x70", b"\x78", b"\x7a", *_FRAMES)),
    "upstream_text": Target(upstream_targets.upstream_text, _UPSTREAM_WORDS),
    "framing": Target(wire_targets.framing),
    "name_text": Target(wire_targets.name_text, list_targets.WORDS),
    "name_wire": Target(wire_targets.name_wire),
    **{f"list_{each}": Target(list_targets.reading(each), list_targets.WORDS) for each in FORMATS},
    "list_time": Target(list_targets.time, list_targets.WORDS, tuple(f"list_{each}" for each in FORMATS), is_slow=True),
    "gunzip": Target(list_targets.gunzip),
    "signed": Target(list_targets.signed),
    "configuration": Target(file_targets.configuration, file_targets.CONFIG_WORDS),
    "configuration_time": Target(
        file_targets.configuration_time, file_targets.CONFIG_WORDS, ("configuration",), is_slow=True
    ),
    "snapshot": Target(file_targets.snapshot_file),
    "snapshot_head": Target(file_targets.snapshot_head),
    "control": Target(file_targets.control),
    "store": Target(file_targets.store),
    "store_sealed": Target(file_targets.store_sealed),
}

# Promises that are broken, until they are mended: file of the corpus to what is wrong.
BROKEN: dict[str, str] = {}


def files(name: str) -> list[Path]:
    """Return the corpus of a target, in order; that of others it may start from is not among it."""
    return sorted((CORPUS / name).glob("*.bin"))


def seeds(name: str) -> Iterator[bytes]:
    """Yield all inputs that a target starts from."""
    for each in (name, *TARGETS[name].corpora):
        for path in files(each):
            if f"{each}/{path.stem}" not in BROKEN:
                yield path.read_bytes()
