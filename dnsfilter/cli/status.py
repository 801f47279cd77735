"""`dnsfilter status`: how the running server is."""

from argparse import Namespace

from dnsfilter import control
from dnsfilter.cli.configured import state_of
from dnsfilter.cli.output import complain, dump, moment, say
from dnsfilter.config.problems import ConfigError


def main(options: Namespace) -> int:
    """Print the server's state; exit 1 when it is not ready."""
    try:
        status = control.request(state_of(options), {"command": "status"}, timeout_s=15.0)
    except ConfigError as error:
        complain(str(error))
        return 2
    except control.NoServer as error:
        complain(str(error))
        return 1
    if options.json:
        dump(status)
    else:
        _print(status)
    return 0 if status["ready"] else 1


def _print(status: control.Json) -> None:
    say("ready" if status["ready"] else "NOT READY")
    for reason in status["reasons"]:
        say(f"  {reason}")
    for reason, text in status["degraded"].items():
        say(f"degraded ({reason}): {text}")
    policy = status["policy"]
    say(f"policy {policy['hash']}, generation {policy['generation']}, since {moment(status['reloaded_at'])}")
    say(f"listening on {', '.join(status['listen']['dns'])}")
    for each in status["lists"]:
        changed = moment(each["changed_at"]) if each["changed_at"] else "never"
        say(f"list '{each['name']}' ({each['source']}): {each['entries']} entries, changed {changed}")
    for each in status["upstreams"]:
        say(f"upstream {each['name']}: {'up' if each['healthy'] else 'DOWN'}, {each['queries']} queries")
    for name, end in status["exemption_ends"].items():
        say(f"exemption {name}: until {moment(end)}")
