"""What commands print, and how they read a configuration."""

import json
import sys
from argparse import Namespace
from datetime import datetime
from pathlib import Path

from dnsfilter import build
from dnsfilter.config import load
from dnsfilter.config.problems import ConfigError
from dnsfilter.settings import Request


def say(text: str) -> None:
    """Print a line for a person."""
    print(text)


def complain(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr)


def dump(document: object) -> None:
    """Print JSON for a machine."""
    print(json.dumps(document, indent=2, sort_keys=True))


def moment(seconds: float) -> str:
    """Return a time as people read it, in the machine's zone."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")


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
