"""What the benchmarks share: names to ask for, one question at a time, processes, the load generator, tables."""

import contextlib
import json
import os
import platform
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
LOOPBACK = "127.0.0.1"

Row = dict[str, Any]


def say(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


class Unfit(Exception):
    """A server that does not start, or does not do what is measured."""


# What names are made of: the same on every machine.

SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"] + [
    "ad",
    "cloud",
    "cdn",
    "net",
    "play",
    "shop",
    "star",
    "win",
]
SUFFIXES = [
    f"{top}.example" for top in ("app", "biz", "co", "com", "info", "io", "me", "net", "org", "site", "top", "xyz")
]
HOSTS = ["www", "m", "api", "ads", "img", "static", "s1", "cdn", "log", "t"]


def word(rng: random.Random) -> str:
    return "".join(rng.choices(SYLLABLES, k=rng.choice((3, 3, 4))))


# One question at a time: for right answers, not for speed.


def ask(
    port: int, name: str, qtype: int = 1, qclass: int = 1, timeout_s: float = 0.1, source: str = LOOPBACK
) -> bytes | None:
    """Return the response to one query, or None where none came or it repeats another question."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question += struct.pack("!xHH", qtype, qclass)
    query_id = os.urandom(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(timeout_s)
        try:
            udp.bind((source, 0))
            udp.connect((LOOPBACK, port))
            udp.send(query_id + struct.pack("!5H", 0x0100, 1, 0, 0, 0) + question)
            response = udp.recv(4096)
        except OSError:  # refused counts as no answer too
            return None
    is_ours = response[:2] == query_id and response[12 : 12 + len(question)] == question
    return response if is_ours else None


def name_address(name: str) -> bytes:
    """The address that the upstream has for a name: the same as in name_address.h."""
    value = 2166136261
    for octet in b"".join(bytes([len(label)]) + label.encode() for label in name.lower().split(".")) + b"\0":
        value = (value ^ octet) * 16777619 % 2**32
    value ^= value >> 16
    return struct.pack("!L", 0xC6120000 | (value & 0xFFFF) % 0xFFFE + 1)


def verdict(port: int, name: str, timeout_s: float = 0.1, source: str = LOOPBACK) -> str:
    """What a server makes of a name: "blocked", "forwarded", or what else came back."""
    response = ask(port, name, timeout_s=timeout_s, source=source)
    if response is None:
        return "no answer"
    rcode, records = response[3] & 15, struct.unpack("!H", response[6:8])[0]
    data = response[-4:]  # of an answer with one record and nothing behind it
    if (rcode, records) == (3, 0) or (rcode, records, data) == (0, 1, bytes(4)):
        return "blocked"
    if (rcode, records, data) == (0, 1, name_address(name)):
        return "forwarded"
    return f"rcode {rcode} with {records} records"


def wrong_answers(port: int, listed: Iterable[str]) -> list[str]:
    """Ask around these listed names, none of them below another; return what was wrong."""
    wrong = []
    for name in listed:
        expected = {
            name: "blocked",
            f"www.{name}": "blocked",
            f"a.b.c.{name}": "blocked",
            name.upper(): "blocked",
            f"not{name}": "forwarded",  # the same ending, another label
            f"{name}.free.example": "forwarded",
            name.split(".", 1)[1]: "forwarded",  # above it
        }
        for asked, right in expected.items():
            got = verdict(port, asked, timeout_s=2)
            if got != right:
                wrong.append(f"{asked}: {got}, not {right}")
        over_aaaa = ask(port, name, qtype=28, timeout_s=2)
        if over_aaaa is None or (over_aaaa[6:8] != b"\0\0" and over_aaaa[-16:] != bytes(16)):
            wrong.append(f"{name} AAAA: has an address")
    return wrong


# Processes: their processor time and memory.


def fields_of(pid: int) -> list[str]:
    """What /proc/PID/stat says behind the command's name; state first."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def process_tree(pid: int) -> list[int]:
    """A process and its living descendants."""
    found, todo = [], [pid]
    while todo:
        current = todo.pop()
        with contextlib.suppress(OSError):  # gone meanwhile
            for children in Path(f"/proc/{current}/task").glob("*/children"):
                todo += map(int, children.read_text().split())
            found.append(current)
    return found


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    with contextlib.suppress(OSError):
        found = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) / 1024 if found else 0
    return 0


def forget_peak(pid: int) -> None:
    """Let VmHWM count from now on, where the kernel allows it."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def stolen_s() -> float:
    """Seconds that other guests of the host have taken from all our processors since boot."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(first[8]) / os.sysconf("SC_CLK_TCK")


class Process:
    """A program this script started, pinned to one processor. Only these are ever ended."""

    def __init__(self, command: list[str], cpu: int, log: Path) -> None:
        before = os.sched_getaffinity(0)
        with log.open("ab") as output:
            os.sched_setaffinity(0, {cpu})  # the child inherits it
            try:
                self.started = time.monotonic()
                self._popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=log.parent,
                    start_new_session=True,
                )
            finally:
                os.sched_setaffinity(0, before)
        self.log = log
        self.pid = self._popen.pid

    def is_running(self) -> bool:
        return self._popen.poll() is None

    def cpu_s(self) -> float:
        """User and system time of the tree, with children that have come and gone."""
        ticks = 0
        for pid in process_tree(self.pid):
            with contextlib.suppress(OSError):
                ticks += sum(map(int, fields_of(pid)[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def serving_pid(self, port: int) -> int:
        """The process of the tree that has the DNS socket."""
        sockets = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
        wanted = {f"socket:[{columns[9]}]" for columns in sockets if columns[1].endswith(f":{port:04X}")}
        for pid in process_tree(self.pid):
            with contextlib.suppress(OSError):
                if any(str(link.readlink()) in wanted for link in Path(f"/proc/{pid}/fd").iterdir()):
                    return pid
        return self.pid

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def stop(self) -> None:
        tree = process_tree(self.pid)
        self._popen.terminate()
        try:
            self._popen.wait(15)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        for pid in tree[1:]:  # helpers that outlive their parent
            with contextlib.suppress(OSError):
                if fields_of(pid)[0] != "Z":
                    os.kill(pid, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    """Ports that are free on 127.0.0.1, for UDP and for TCP."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            udp = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            udp.bind((LOOPBACK, 0))
            tcp = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with contextlib.suppress(OSError):
                tcp.bind(udp.getsockname())
                ports.append(udp.getsockname()[1])
    return ports


def end(_number: int, _frame: object) -> NoReturn:
    sys.exit("ended by a signal")  # through every `finally`, so that nothing stays behind


# The C programs.


def compile_tool(name: str, folder: Path) -> str:
    """Build one of the C programs of this folder; return its path."""
    target = folder / name
    options = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *options, "-o", str(target), str(HERE / f"{name}.c")], check=True, timeout=60)
    return str(target)


def start_load(program: str, port: int, queries: Path, seconds: float, *options: str) -> subprocess.Popen[str]:
    """Start the load generator, on the processor that the caller has too."""
    command = [program, *options, str(port), str(queries), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish_load(process: subprocess.Popen[str], timeout_s: float) -> Row:
    """Wait for the load generator and return what it found. Raises Unfit, subprocess.TimeoutExpired."""
    try:
        output = process.communicate(timeout=timeout_s)[0]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise Unfit(f"the load generator failed with status {process.returncode}")
    result: Row = json.loads(output)
    return result


# Results.


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine() -> Row:
    """When and where this is measured."""
    models = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
        "cpu": models[0] if models else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
    }


def write_results(target: Path, result: Row, text: str) -> None:
    """Write target as JSON, and the text beside it as Markdown."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    target.with_suffix(".md").write_text(text)
    print(text)
    say(f"written: {target} and {target.with_suffix('.md').name}")
