"""Targets: the configuration, and what this program finds in its own directory or on its control socket."""

import asyncio
import functools
import hashlib
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

from dnsfilter import snapshot
from dnsfilter.config.load import load, state_of
from dnsfilter.config.problems import ConfigError
from dnsfilter.control import ControlServer, Json, Tell
from dnsfilter.lists.store import Store
from tests.config.builtin import BUILTIN
from tests.fuzz.promise import check_printable, within

GROWN = 48 * 1_024  # octets that a piece of a configuration is repeated to

CONFIG_WORDS = (
    b"listen:", b"dns:", b"metrics:", b"admin:", b"access:", b"upstreams:", b"forward:", b"zone:", b"resolve:",
    b"strategy:", b"timeout:", b"deadline:", b"max_concurrent:", b"cache:", b"entries:", b"max_ttl:", b"lists:",
    b"file:", b"url:", b"format:", b"match:", b"mode:", b"domains:", b"category:", b"origin:", b"protected:",
    b"groups:", b"networks:", b"block:", b"allow:", b"only:", b"answer:", b"default:", b"exemptions:", b"regime:",
    b"id:", b"owner:", b"reason:", b"approved_by:", b"start:", b"end:", b"timezone:", b"blocking:", b"ipv4:", b"ttl:",
    b"text:", b"log:", b"level:", b"state:", b"signing_key:", b"refresh:", b"max_size:", b"off", b"on", b"no",
    b"null", b"~", b"0", b"-1", b"1e999", b"9" * 400, b"9" * 5_000, b"0x7f", b"0o17", b".inf", b"1_000", b"1.5s",
    b"2h", b"366d", b"2026-05-04T08:00", b"9999-12-31", b"0001-01-01", b"Europe/Paris", b"../../etc/passwd",
    b"192.0.2.53", b"10.0.0.0/8", b"0.0.0.0/0", b"::/0", b"::ffff:192.0.2.1", b"[2001:db8::53]:53", b"fe80::1%eth0",
    b":53", b"/33", b"/-1", b"tiktok", b"ban", b"managed", b"Other.Example.", b"*.example", b".", b"\\", b"&a ",
    b"*a", b"&a [*a, *a]", b"<<: *a", b"!!python/object:os.system ", b"!!binary ", b"!!set ", b"!x ", b"--- ", b"...",
    b"%YAML 1.1\n---\n", b"- ", b"? ", b": ", b"[", b"]", b"{", b"}", b"[" * 40, b"{a: " * 40, b"|\n", b">-\n", b"'",
    b'"', b'"\\ud800"', b'"\\x1b"', b'"\\U0010ffff"', b"#", b"\n", b"\n  ", b"\n    - ", b"\t", b"\r", b"\0", b"\x1b",
    b"\xc2\x85", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\xf0\x9f\x92\xa9",
)  # fmt: skip


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="dnsfilter-fuzz-")


def _file(name: str, octets: bytes) -> Path:
    path = Path(_folder().name) / name
    path.write_bytes(octets)
    return path


def configuration(octets: bytes) -> None:
    """A configuration, or all problems, each with file and line."""
    path = _file("dnsfilter.yaml", octets)
    ends = sum(map(octets.count, (b"\n", b"\r", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")))  # as YAML counts
    with within(2.0):
        try:
            found = load(path, builtin=BUILTIN)
        except ConfigError as error:
            _check_problems(error, path, ends + 2)  # a file that ends too soon is wrong in the line after it
        else:
            assert found.text.encode() == octets.removeprefix(b"\xef\xbb\xbf")
    with within(1.0):
        try:
            state_of(path)
        except ConfigError as error:
            _check_problems(error, path, ends + 2)


def configuration_time(octets: bytes) -> None:
    """Time is bounded: the first octet chooses how much of the rest stands once, before what is repeated."""
    if len(octets) < 2:
        return
    head, piece = octets[1 : 1 + octets[0]], octets[1 + octets[0] :][:200]
    path = _file("dnsfilter.yaml", head + piece * (GROWN // max(1, len(piece))))
    with within(10.0):
        try:
            load(path, builtin=BUILTIN)
        except ConfigError as error:
            _check_problems(error, path, 3 * GROWN)


def _check_problems(error: ConfigError, path: Path, lines: int) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.file == str(path)
        assert problem.line is None or 1 <= problem.line <= lines
        assert problem.text
        assert problem.remedy
        for line in (*problem.text.split("\n"), *problem.remedy.split("\n")):
            check_printable(line)


def snapshot_file(octets: bytes) -> None:
    """A snapshot's file: BadSnapshot, unless it is whole."""
    _read_snapshot(octets)


def snapshot_head(octets: bytes) -> None:
    """A head of any content under a right checksum: BadSnapshot, or a head."""
    sealed = struct.pack("!Q32s", len(octets), hashlib.sha256(octets).digest())
    _read_snapshot(b"dnsfilter snapshot 2\n" + sealed + octets)


def _read_snapshot(octets: bytes) -> None:
    path = _file("policy.snapshot", octets)
    with within(1.0):
        try:
            reader = snapshot.Reader(path)
        except snapshot.BadSnapshot:
            return
        try:
            total = sum(chunk.count for chunk in reader.chunks())
        except snapshot.BadSnapshot:
            return
        finally:
            reader.close()
    assert total >= 0


def control(octets: bytes) -> None:
    """A line on the control socket: JSON comes back, whatever it says."""
    answered = list[str]()

    async def echo(request: Json, tell: Tell) -> Json:
        tell({"at": 1})
        answered.append(request["command"])
        return {"request": request}

    server = ControlServer(Path(_folder().name), {"status": echo, "reload": echo})
    answer = asyncio.run(server._answer(octets, lambda _progress: None))
    written = json.dumps(answer)
    assert "\n" not in written
    assert "error" in answer or answered in (["status"], ["reload"])


def store(octets: bytes) -> None:
    """A document about a list: what cannot be read is not there."""
    _read_store(octets)
    with within(1.0):
        state = Store(Path(_folder().name))
        list(state.others(state.kept("ban", "another source")))


def store_sealed(octets: bytes) -> None:
    """The same with a right digest, where the content is JSON at all. Types of fields are trusted from there on."""
    try:
        known = json.loads(octets)
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        sealed = json.dumps({"list": "ban", "source": "s", "known": known, "digest": digest}).encode()
    except (ValueError, RecursionError):
        return
    _read_store(sealed)


def _read_store(octets: bytes) -> None:
    state = Path(_folder().name)
    kept = Store(state).kept("ban", "s")
    kept.folder.mkdir(parents=True, exist_ok=True)
    reads: list[Callable[[], object]] = [lambda: kept.good, lambda: kept.fetched, lambda: kept.refused]
    for document in ("good.json", "fetched.json", "refused.json"):
        (kept.folder / document).write_bytes(octets)
    with within(1.0):
        for read in reads:
            read()
