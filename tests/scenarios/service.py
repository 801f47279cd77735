"""The service as a process: configuration in, addresses out, and a loud end if anything went wrong in it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.scenarios.client import Address

START_S = 20.0
STOP_S = 20.0  # a build that runs meanwhile is niced, and the machine may be busy with other tests
COMMAND_S = 30.0
ROOT = Path(__file__).parents[2]
PROGRAM: Sequence[str] = (sys.executable, "-m", "dnsfilter")


def address(text: str) -> Address:
    """An address from "127.0.0.1:53" or "[::1]:53"."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a dnsfilter process: ours, without what would change its configuration."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DNSFILTER_CONFIG")}
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "always", "PYTHONDEVMODE": ""} | dict(more or {})


def command(
    *words: str | Path, env: Mapping[str, str] | None = None, through: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run one command of dnsfilter to its end. through: a program that runs it, with its options."""
    done = subprocess.run(
        [*through, *PROGRAM, *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
        env=environment(env),
        cwd=ROOT,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def eventually(what: str, is_so: Callable[[], object], timeout_s: float = 10.0, every_s: float = 0.05) -> float:
    """Wait until something is so, and return after how many seconds it was."""
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() - begun < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(every_s)
    return time.monotonic() - begun


class Service:
    """`dnsfilter run` with a configuration, from start to SIGTERM.

    It listens on ports that the system chooses and asks the control socket for them.
    Its end fails if it died, did not exit with 0, printed a traceback or counted an internal error.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any],
        *,
        dns: Sequence[str] = ("127.0.0.1:0",),
        options: Sequence[str] = (),
    ) -> None:
        """Write the configuration. options: further words of the command line."""
        self.state = directory / "state"
        self.state.mkdir(mode=0o700)
        self.config_file = directory / "dnsfilter.yaml"
        self._written = {"listen": {"dns": list(dns), "admin": "127.0.0.1:0"}, "state": str(self.state)}
        self.configure(config)
        self.words: Sequence[str] = ("run", "-c", str(self.config_file), *options)
        self.env: Mapping[str, str] = {}
        self.through: Sequence[str] = ()  # a program that runs it, with its options
        self._output = directory / "output.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self.addresses: list[Address] = []
        self.admin: Address = ("", 0)  # port 0: none

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the configuration anew, with the same addresses and state directory unless it says otherwise."""
        self.config_file.write_text(yaml.safe_dump({**self._written, **config}, sort_keys=False))

    def command(self, word: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command with this service's configuration."""
        return command(word, "-c", self.config_file, *words)

    @property
    def dns(self) -> Address:
        """The first DNS listener."""
        return self.addresses[0]

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def __enter__(self) -> Self:
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*self.through, *PROGRAM, *self.words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(self.env),
                cwd=ROOT,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            self.check_alive()
            try:
                listen = self.control("status")["listen"]
            except (OSError, ValueError, KeyError):
                time.sleep(0.02)
                continue
            self.addresses = [address(text) for text in listen["dns"]]
            self.admin = address(listen["admin"]) if "admin" in listen else ("", 0)
            return
        raise AssertionError(f"not serving after {START_S} s; it printed:\n{self.output}")

    def check_alive(self) -> None:
        """Fail if the process has ended."""
        assert self._process is not None
        status = self._process.poll()
        assert status is None, f"the service ended with {status}; it printed:\n{self.output}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process is not None
        try:
            self.check_alive()
            errors = self.metric("dnsfilter_internal_errors_total") if self.admin[1] else 0
            self._process.send_signal(signal.SIGTERM)
            try:
                status = self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"did not end {STOP_S} s after SIGTERM; it printed:\n{self.output}") from None
            assert status == 0, f"exit status {status} after SIGTERM; it printed:\n{self.output}"
            assert errors == 0, f"{errors:.0f} internal errors; it printed:\n{self.output}"
            for sign in ("Traceback", "never awaited", "never retrieved", "ResourceWarning"):
                assert sign not in self.output, self.output
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self.pid, number)

    def control(self, command: str, **arguments: object) -> dict[str, Any]:
        """Ask the control socket: one JSON line out, one back."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(10)
            client.connect(str(self.state / "control.sock"))
            client.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with client.makefile("rb") as lines:
                answer = json.loads(lines.readline())
        assert isinstance(answer, dict)
        return answer

    def http(self, path: str) -> str:
        """Fetch a page of the admin listener."""
        host, port = self.admin
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as response:
            text: bytes = response.read()
        return text.decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; fail if there is none."""
        found = []
        for line in self.http("/metrics").splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)(?: \d+)?", line)
            if match is None or match[1] != name:
                continue
            has = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            if labels.items() <= has.items():
                found.append(float(match[3]))
        assert found, f"no sample {name} with {labels}"
        return sum(found)
