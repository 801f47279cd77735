"""`dnsfilter reload`: reload the running server and wait."""

from argparse import Namespace

from dnsfilter import control
from dnsfilter.cli.configured import state_of
from dnsfilter.cli.output import complain, say
from dnsfilter.config.problems import ConfigError


def main(options: Namespace) -> int:
    """Ask the server to reload; print what changed, or why the old policy stays, whole or of one list (exit 1)."""
    try:
        result = control.request(state_of(options), {"command": "reload"})
    except ConfigError as error:
        complain(f"{error}\nthe old policy stays in force")
        return 1
    except control.NoServer as error:
        complain(str(error))
        return 1
    if "error" in result:
        complain(f"{result['error']}\nthe old policy stays in force")
        return 1
    for line in result["changes"]:
        say(line)
    for warning in result["warnings"]:
        say(f"warning: {warning}")
    policy = result["policy"]
    for name, problem in result["problems"].items():
        complain(f"list '{name}': {problem}")
    outcome = "in force" if result["changes"] else "unchanged"
    say(f"{outcome}: policy {policy['hash']}, generation {policy['generation']}")
    return 1 if result["problems"] else 0
