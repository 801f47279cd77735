"""Programs of other projects that some tests run; a missing one skips its tests and says which package has it."""

import shutil

import pytest


def need(program: str, package: str) -> str:
    """Return the program's path, or skip the test with the name of the Debian package that has it."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"needs {program} (Debian package {package})")
    return path
