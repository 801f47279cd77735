"""What commands print."""

import json
import sys
from datetime import datetime


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
