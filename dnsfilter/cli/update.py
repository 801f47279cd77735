"""`dnsfilter update`: fetch remote lists now, keeping the last good copy where one fails."""

import asyncio
import sys
from argparse import Namespace
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from dnsfilter import admission, build, control, fetch
from dnsfilter.cli.configured import state_of
from dnsfilter.cli.output import complain, dump, say
from dnsfilter.config.problems import ConfigError
from dnsfilter.control import Json
from dnsfilter.settings import Request


def main(options: Namespace) -> int:
    """Have the running server fetch, or fetch for the next start; exit 1 where a list was not taken over."""
    names, accept = options.names or None, options.accept
    try:
        with _Bars() as bars:
            try:
                state = state_of(options)
                asked = {"command": "update", "names": names, "accept": accept}
                result = control.request(state, asked, on_progress=bars.take)
            except control.NoServer:
                result = _without_server(options, names, accept, bars)
    except ConfigError as error:
        complain(str(error))
        return 2
    except (control.StateInUse, OSError) as error:
        complain(str(error))
        return 1
    if "error" in result:
        complain(result["error"])
        return 1
    if options.json:
        dump(result)
    else:
        _print(result)
    is_failed = any(each["problem"] or each["outcome"] == "failed" for each in result["lists"])
    return 1 if is_failed or result["problems"] else 0


def _without_server(options: Namespace, names: list[str] | None, accept: list[str], bars: "_Bars") -> Json:
    """Fetch into the state directory and judge what came. Raises ConfigError, StateInUse, OSError."""
    request = Request(config=options.config, keeps=True, accept=tuple(accept))
    loaded = build.configuration(request)
    remote = [name for name, entry in loaded.config.lists.items() if entry.url is not None]
    if wrong := [name for name in (names or ()) if name not in remote]:
        return {"error": f"there is no remote list '{wrong[0]}'; there are: {', '.join(remote) or 'none'}"}
    if wrong := [name for name in accept if name not in admission.used_lists(loaded)]:
        return {"error": f"there is no list '{wrong[0]}'"}
    if names is None and accept:
        names = [name for name in accept if name in remote]
    outcomes: dict[str, Json] = {}

    def take(told: Json) -> None:
        if "outcome" in told:
            outcomes[told["list"]] = told
        else:
            bars.take(told)

    with control.lock(loaded.config.state):
        asyncio.run(fetch.run(request, names, take))
        states = {each.name: each for each in build.build(build.read(request)).head.lists}
    told = [
        {**each, "entries": states[name].entries, "problem": states[name].problem} for name, each in outcomes.items()
    ]
    return {"lists": told, "problems": {name: states[name].problem for name in accept if states[name].problem}}


def _print(result: Json) -> None:
    if not result["lists"] and not result["problems"]:
        say("no remote lists are configured")
    for each in result["lists"]:
        outcome = f"{each['outcome']}, {each['entries']} entries in force"
        if each["outcome"] == "failed":
            outcome = f"FAILED: {each['reason']}"
        say(f"list '{each['list']}': {outcome}")
        if each["problem"]:
            say(f"  {each['problem']}")
    told = {each["list"] for each in result["lists"]}
    for name, problem in result["problems"].items():
        if name not in told:
            say(f"list '{name}': {problem}")


class _Bars(AbstractContextManager["_Bars"]):
    """A bar for each list that is being fetched, on a terminal only."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True)
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def take(self, told: Json) -> None:
        """Show how far a list has come."""
        if "list" not in told:
            return
        name = told["list"]
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(f"list '{name}'", total=told["total"])
        self._progress.update(self._bars[name], completed=told["done"], total=told["total"])
