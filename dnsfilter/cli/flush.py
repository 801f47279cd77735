"""`dnsfilter flush`: have the running server forget cached answers."""

from argparse import Namespace

from dnsfilter import control
from dnsfilter.cli.configured import state_of
from dnsfilter.cli.output import complain, dump, say
from dnsfilter.config.problems import ConfigError


def main(options: Namespace) -> int:
    """Print how many answers were forgotten. Without a running server there is nothing to forget (exit 1)."""
    try:
        result = control.request(state_of(options), {"command": "flush", "name": options.name})
    except ConfigError as error:
        complain(str(error))
        return 2
    except control.NoServer as error:
        complain(str(error))
        return 1
    if options.json:
        dump(result)
    elif "error" not in result:
        say(f"{result['forgotten']} answers forgotten")
    if "error" in result:
        complain(result["error"])
        return 2
    return 0
