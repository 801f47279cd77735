"""What a DoH server writes into its answers stays one line of the log."""

import logging

import pytest

from dnsfilter.upstream import doh
from tests.upstream.doh_server import TYPE, Request
from tests.upstream.test_doh import Asking, Lab, certificates, lab, try_with  # noqa: F401 - fixtures


def test_a_status_is_logged_in_one_line(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    def answer(request: Request) -> None:
        request.connection.h2.send_headers(request.stream, [(":status", "5\nERROR all well"), TYPE], end_stream=True)
        request.connection.flush()

    lab.server.script = answer

    async def check(asking: Asking) -> None:
        with caplog.at_level(logging.WARNING):
            assert await asking.ask("www.example") == ["http"]
        [message] = [each.getMessage() for each in caplog.records if each.name == doh.__name__]
        assert "\n" not in message

    try_with(lab, check)
