"""The command line: which command, its options, its exit status.

Exit status: 0 done; 1 the thing asked about is wrong or failed; 2 usage or configuration.
"""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dnsfilter import __version__

DEFAULT_CONFIG = Path("/etc/dnsfilter/dnsfilter.yaml")

# Commands that have a name already and no code yet.
PLANNED = ("test", "exemptions", "journal", "report", "init")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        "dnsfilter",
        description="A DNS resolver that keeps banned apps off managed devices.",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # the lines of --version stay lines
    )
    top.add_argument("--version", action="version", version=version())
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = _command(commands, "run", "serve; SIGHUP reloads, SIGTERM drains and ends")
    run.add_argument("--listen", metavar="ADDR:PORT", help="in place of listen.dns")
    run.add_argument("--upstream", metavar="UPSTREAM", help="in place of upstreams")

    check = _command(commands, "check", "judge a configuration and its lists, and what a reload would change")
    _json(check)

    _command(commands, "reload", "reload the running server and wait for the outcome")

    status = _command(commands, "status", "the running server: ready or not, and why (exit 1: not ready)")
    _json(status)

    update = _command(commands, "update", "fetch remote lists now; a list that fails keeps its last good copy (exit 1)")
    update.add_argument("names", metavar="LIST", nargs="*", help="default: all remote lists")
    accept = "take this list over as it is now, however it has changed; may be repeated"
    update.add_argument("--accept", metavar="LIST", action="append", default=[], help=accept)
    _json(update)

    _lists(commands)

    flush = _command(commands, "flush", "forget cached answers")
    what = flush.add_mutually_exclusive_group(required=True)
    what.add_argument("name", metavar="NAME", nargs="?", help="of this name and all below it, and what leads there")
    what.add_argument("--all", action="store_true", help="of all names")
    _json(flush)

    explain = _command(commands, "explain", "the verdict on a name, and all that led to it")
    explain.add_argument("name", metavar="NAME")
    explain.add_argument("--client", metavar="ADDR", help="who asks; without it, each group is told")
    explain.add_argument("--type", default="A", metavar="T", help="query type, A by default")
    explain.add_argument("--at", metavar="TIME", help="a day or time in the configuration's timezone; default now")
    explain.add_argument("--live", action="store_true", help="by the running server's policy; asks for the chain")
    _json(explain)

    return top


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.add_argument("-c", "--config", metavar="FILE", help=f"default: $DNSFILTER_CONFIG, else {DEFAULT_CONFIG}")
    return command


def _lists(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    lists = _command(commands, "lists", "each list: source, age, entries, skipped lines with reasons; lint; score")
    lists.epilog = (
        "Exit 1: a list is not as its source says; lint found more than entries without evidence; "
        "score found a name blocked that must not be."
    )
    lists.add_argument(
        *("action",),
        nargs="?",
        choices=["lint", "score"],
        help="lint: duplicates, names in the wrong list, entries without evidence; "
        "score: how much of the names in a directory lists block, and what they must not",
    )
    lists.add_argument("what", metavar="LIST|FILE", nargs="*", help="default for lint: all lists that are used")
    lists.add_argument("--against", metavar="DIR", help="score: *.txt files of names to block; must-not-block*.txt")
    lists.add_argument("--all", action="store_true", help="print every name, not the first ones")
    _json(lists)


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for machines")


def version() -> str:
    """Return version, engine and what is compiled in."""
    return f"dnsfilter {__version__}\nengine: python (this version has no native one)\nfeatures: udp tcp"


def config_path(written: str | None) -> str | None:
    """Return the configuration to use: as written, else the environment's, else the system's; None: defaults."""
    if written is not None:
        return written
    if from_environment := os.environ.get("DNSFILTER_CONFIG"):
        return from_environment
    return str(DEFAULT_CONFIG) if DEFAULT_CONFIG.exists() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in PLANNED:
        print(f"dnsfilter {words[0]} is not available in this version", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows ASCII alone must not end a command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(words)
    options.config = config_path(options.config)
    command = importlib.import_module(f"dnsfilter.cli.{options.command}")
    try:
        status: int = command.main(options)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return status
