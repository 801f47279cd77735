"""The control socket, for commands on the same machine. Knows no DNS octets.

One line of JSON in, one out. A command that takes its time may send lines of progress before: those
with the key `progress`.
"""

import asyncio
import fcntl
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

log = logging.getLogger(__name__)

SOCKET = "control.sock"  # in the state directory
LOCK = "lock"
LONGEST_PATH = 107  # octets of a Unix socket's path (unix(7))
MOST_OCTETS = 64 * 1024  # of a request
REQUEST_S = 10.0  # to send one

Json = dict[str, Any]
Tell = Callable[[Json], None]  # sends a line of progress
Command = Callable[[Json, Tell], Awaitable[Json]]


class StateInUse(Exception):
    """This state directory cannot be had; mostly because another server runs on it."""


class NoServer(Exception):
    """No server runs on this state directory."""


def lock(state: Path) -> TextIO:
    """Take the state directory for this process, until the returned file is closed. Raises StateInUse, OSError."""
    if len(os.fsencode(state / SOCKET)) > LONGEST_PATH:
        raise StateInUse(f"{state} is too long a path for a socket in it\n  write a shorter one: state: DIR")
    state.mkdir(mode=0o750, parents=True, exist_ok=True)
    file = (state / LOCK).open("a+", encoding="ascii")
    if os.geteuid() == 0:  # a command that root runs must not keep the service out
        os.fchown(file.fileno(), state.stat().st_uid, state.stat().st_gid)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise StateInUse(
            f"a dnsfilter runs on {state} already (process {owner})\n"
            "  stop it, or give this one a state directory of its own: state: DIR"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


class ControlServer:
    """Takes commands on a Unix socket that its owner and group may use."""

    def __init__(self, state: Path, commands: dict[str, Command]) -> None:
        self._path = state / SOCKET
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._path.unlink(missing_ok=True)  # of a process that is gone: the lock says so
        before = os.umask(0o117)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=MOST_OCTETS)
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Listen no more, and leave commands that are being done."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._serving.add(task)
        try:
            async with asyncio.timeout(REQUEST_S):
                line = await reader.readline()

            def tell(progress: Json) -> None:
                if not writer.is_closing():
                    writer.write(json.dumps({"progress": progress}).encode() + b"\n")

            writer.write(json.dumps(await self._answer(line, tell)).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError, RecursionError, TimeoutError):
            log.debug("a control connection broke off", exc_info=True)
        except asyncio.CancelledError:
            log.debug("a command was left undone: the service ends")  # asyncio takes a cancelled task here for a fault
        finally:
            self._serving.discard(task)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, line: bytes, tell: Tell) -> Json:
        try:
            request = json.loads(line)
            command = self._commands[request["command"]]
        except (KeyError, TypeError, ValueError, RecursionError):
            return {"error": f"a request is a line of JSON whose command is one of {', '.join(self._commands)}"}
        try:
            return await command(request, tell)
        except Exception as error:
            log.exception("command %s failed", request["command"])
            return {"error": f"internal error: {error}"}


def request(state: Path, document: Json, timeout_s: float = 300.0, on_progress: Tell = lambda _progress: None) -> Json:
    """Send a command to the server that runs on this state directory. Raises NoServer."""
    path = state / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(str(path))
            sock.sendall(json.dumps(document).encode() + b"\n")
            with sock.makefile("rb") as file:
                answer: Json = {"progress": {}}
                while "progress" in answer:
                    on_progress(answer["progress"])
                    answer = json.loads(file.readline())
        except PermissionError:
            raise NoServer(f"{path} is not open to this user\n  run the command as the server's user") from None
        except (OSError, ValueError):
            raise NoServer(f"no server answers on {path}\n  start it with `dnsfilter run`") from None
    return answer
