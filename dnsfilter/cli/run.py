"""`dnsfilter run`: serve."""

import logging
import sys
from argparse import Namespace

import uvloop

from dnsfilter import service
from dnsfilter.cli.output import complain
from dnsfilter.settings import Request


def main(options: Namespace) -> int:
    """Serve until told to stop."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        uvloop.run(service.run(Request(options.config, None, options.listen, options.upstream)))
    except service.StartError as error:
        complain(str(error))
        return error.status
    return 0
