"""HTTP for operators and monitoring: /metrics, /health and /ready, nothing else. Knows no DNS octets.

The standard library's server, in threads of its own, few and with time-outs: it may
stand on any address. What it tells is gathered on the loop.
"""

import asyncio
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dnsfilter.settings import Endpoint
from dnsfilter.workers import CannotListen, endpoint_text

log = logging.getLogger(__name__)

MOST_REQUESTS = 32  # at the same time; more are closed at once
PER_CLIENT = 12  # so that one address cannot take them all
REQUEST_S = 5.0  # to send a request
PAGE_S = 10.0  # to make a page; readiness waits up to 5 s for an address that is silent
_POLL_S = 0.1  # how soon it sees that it is to end

Page = tuple[HTTPStatus, str, bytes]  # status, content type, body
Pages = dict[str, Callable[[], Awaitable[Page]]]


def json_page(status: HTTPStatus, document: object) -> Page:
    """Return a page of JSON."""
    return status, "application/json", json.dumps(document).encode() + b"\n"


class Server(ThreadingHTTPServer):
    """One address with its pages."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop) -> None:
        """Listen on an address. Raises CannotListen."""
        self.address_family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
        self.pages: Pages = {}
        self.loop = loop
        self._is_started = False
        self._open: Counter[str] = Counter()  # requests by client, counted under the lock
        self._lock = threading.Lock()
        try:
            super().__init__(endpoint, _Handler)
        except OSError as error:
            remedy = "write another address: listen.admin or listen.metrics; `off` for none"
            raise CannotListen(f"{endpoint_text(endpoint)} (HTTP): {error.strerror}\n  {remedy}") from None
        self.endpoint: Endpoint = (endpoint[0], self.server_address[1])

    def start(self, pages: Pages) -> None:
        """Serve these pages in a thread of its own."""
        self.pages = pages
        self._is_started = True
        threading.Thread(target=self.serve_forever, args=(_POLL_S,), name="admin", daemon=True).start()

    def stop(self) -> None:
        """Serve no more; the socket is closed by `server_close`."""
        if self._is_started:  # else it would be waited for without end
            self.shutdown()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a request where there is a thread for it."""
        with self._lock:
            is_taken = self._open.total() < MOST_REQUESTS and self._open[client_address[0]] < PER_CLIENT
            if is_taken:
                self._open[client_address[0]] += 1
        if is_taken:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Give the request's slot back at the end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open[client_address[0]] -= 1
                self._open += Counter()  # drops those that are 0

    def get_request(self) -> Any:
        """Accept a connection; out of descriptors, wait rather than spin."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_POLL_S)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that breaks off is no error of ours."""
        log.debug("a request on %s broke off", endpoint_text(self.endpoint), exc_info=True)


def _cut_off(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = REQUEST_S
    server_version = "dnsfilter"
    sys_version = ""

    def handle_one_request(self) -> None:
        """Take a request; a client that drips one is cut off."""
        self._cut = threading.Timer(REQUEST_S, _cut_off, [self.connection])
        self._cut.daemon = True
        self._cut.start()
        try:
            super().handle_one_request()
        finally:
            self._cut.cancel()

    def do_GET(self) -> None:
        """Send one page."""
        self._cut.cancel()  # the request is here
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self._send(json_page(HTTPStatus.NOT_FOUND, {"pages": sorted(self.server.pages)}))
            return
        try:
            found = asyncio.run_coroutine_threadsafe(_await(page), self.server.loop).result(PAGE_S)
        except TimeoutError:
            found = json_page(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the loop is busy"})
        self._send(found)

    do_HEAD = do_GET  # noqa: N815 - the name is the base class's

    def _send(self, page: Page) -> None:
        status, content_type, body = page
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing of ordinary requests."""


async def _await(page: Callable[[], Awaitable[Page]]) -> Page:
    return await page()
