"""`dnsfilter check`: judge a configuration and its lists without serving."""

from argparse import Namespace
from pathlib import Path

from dnsfilter import changes, child, control
from dnsfilter.cli.configured import build_all
from dnsfilter.cli.output import dump, say
from dnsfilter.snapshot import IN_FORCE, Head


def main(options: Namespace) -> int:
    """Build everything, say what is odd, and what a reload would change."""
    built = build_all(options)
    if built is None:
        return 2
    head = built.head
    told = _against_running(Path(head.settings.state), head)
    if options.json:
        lists = [
            {
                "name": each.name,
                "entries": each.entries,
                "skipped_lines": each.skipped_lines,
                "skipped": each.skipped,
                "problem": each.problem,
            }
            for each in head.lists
        ]
        dump({"hash": head.hash, "warnings": head.warnings, "lists": lists, "changes": told})
        return 0
    for each in head.lists:
        say(f"list '{each.name}' ({each.source}): {each.entries} entries, {each.skipped_lines} lines skipped")
        if each.problem:
            say(f"  warning: {each.problem}")
        for line in each.skipped:
            say(f"  {line}")
    for warning in head.warnings:
        say(f"warning: {warning}")
    if told is None:
        say("no server runs with this configuration's state directory: nothing to compare with")
    elif told:
        say("a reload would change:")
        for line in told:
            say(f"  {line}")
    else:
        say("a reload would change nothing")
    say(f"ok: policy {head.hash}")
    return 0


def _against_running(state: Path, head: Head) -> list[str] | None:
    """Return what a reload would change; None where no server runs."""
    try:
        control.request(state, {"command": "status"}, timeout_s=10.0)
    except control.NoServer:
        return None
    running = child.head_of(state / IN_FORCE)
    if running is None:
        return None
    if keys := changes.needs_restart(running, head):
        return [f"nothing: it would be refused, since a change of {', '.join(keys)} needs a restart"]
    return changes.between(running, head)
