"""What commands need of a configuration. `run` does not: the process that serves reads none."""

from argparse import Namespace
from pathlib import Path

from dnsfilter import build
from dnsfilter.cli.output import complain
from dnsfilter.config import load
from dnsfilter.config.problems import ConfigError
from dnsfilter.settings import Request


def state_of(options: Namespace) -> Path:
    """Return the state directory of the configuration, right or wrong. Raises ConfigError."""
    return load.state_of(None if options.config is None else Path(options.config))


def build_all(options: Namespace) -> build.Built | None:
    """Build the policy of the configuration in this process; None when that failed, which was said."""
    try:
        return build.build(build.read(Request(config=options.config)))
    except (ConfigError, build.ListErrors) as error:
        complain(str(error))
        return None
