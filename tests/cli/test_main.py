"""The command line itself: its commands, its options, and what it says of those it does not have."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dnsfilter import __version__
from tests.cli.conftest import MANAGED
from tests.scenarios.service import PROGRAM, ROOT, Service, command, environment


def test_version_tells_version_engine_and_what_is_compiled_in() -> None:
    done = command("--version")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"dnsfilter {__version__}"
    assert lines[1].startswith("engine: python (")
    assert lines[2] == "features: udp tcp"


@pytest.mark.parametrize("word", ["test", "exemptions", "journal", "report", "init"])
def test_a_command_that_is_still_to_come_is_named_and_is_status_2(word: str) -> None:
    done = command(word, "--all")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"dnsfilter {word} is not available in this version\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param([], "COMMAND", id="no command"),
        pytest.param(["frobnicate"], "frobnicate", id="an unknown command"),
        pytest.param(["status", "--nonsense"], "--nonsense", id="an unknown option"),
        pytest.param(["status", "more"], "more", id="a word too many"),
        pytest.param(["check", "-c"], "-c", id="an option without its value"),
        pytest.param(["explain"], "NAME", id="no name to explain"),
        pytest.param(["reload", "--json"], "--json", id="an option of another command"),
    ],
)
def test_wrong_usage_is_status_2_with_the_usage(words: list[str], said: str) -> None:
    done = command(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.startswith("usage: dnsfilter")


def test_help_names_every_command() -> None:
    done = command("--help")
    assert done.returncode == 0
    for word in ("run", "check", "reload", "status", "explain"):
        assert f"\n    {word} " in done.stdout
        assert command(word, "--help").returncode == 0


def test_the_console_script_is_the_module() -> None:
    script = Path(sys.executable).with_name("dnsfilter")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False, timeout=20)
    assert done.stdout == command("--version").stdout


@pytest.mark.parametrize("words", [["status"], ["explain", "banned.example", "--client", MANAGED], ["check"]])
def test_a_reader_that_has_seen_enough_is_no_error_to_tell_of(server: Service, words: list[str]) -> None:
    """As with `| head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*PROGRAM, words[0], "-c", str(server.config_file), *words[1:]],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=20,
            env=environment(),
            cwd=ROOT,
        )
    finally:
        os.close(writing)
    assert done.stderr == ""
