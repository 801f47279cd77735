"""Programs of other projects that some tests run; a missing one skips its tests and says which package has it."""

import contextlib
import random
import shutil
import socket

import pytest


def need(program: str, package: str) -> str:
    """Return the program's path, or skip the test with the name of the Debian package that has it."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"needs {program} (Debian package {package})")
    return path


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free for UDP and TCP, for a program that takes it a moment later.

    It is not one of those that the kernel gives to others meanwhile: services under test open hundreds of sockets.
    """
    while True:
        port = random.randrange(12_000, 32_000)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
            contextlib.suppress(OSError),
        ):
            stream.bind(("127.0.0.1", port))
            datagram.bind(("127.0.0.1", port))
            return port
