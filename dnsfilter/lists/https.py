"""One GET over HTTPS, to addresses that were looked up before, the certificate checked against the host's name.

Nothing here asks the system for a name: the resolver of this machine may be ourselves.
"""

import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from dnsfilter import __version__
from dnsfilter.core.names import BadName, from_text, to_text
from dnsfilter.lists.formats.text import is_address, shown

REDIRECTS = frozenset({301, 302, 303, 307, 308})
OWN_HEADERS = {"User-Agent": f"dnsfilter/{__version__}", "Accept": "*/*", "Accept-Encoding": "gzip"}
_ADDRESSES_TOLD = 3

Resolve = Callable[[str], Awaitable[Sequence[str]]]  # host name to addresses; raises DownloadError

logging.getLogger("httpcore").setLevel(logging.WARNING)  # else it logs headers, and a redirect may hold a token


class DownloadError(Exception):
    """A list that could not be fetched; the message is for an admin and shows no query of a URL."""

    def __init__(self, message: str, is_transient: bool, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.is_transient = is_transient  # whether it may go better in a moment
        self.after_s = after_s  # how long the server asks to be left alone


@dataclass(frozen=True, slots=True)
class Limits:
    """How long, and how often."""

    connect_s: float = 10.0  # for TCP, and again for TLS
    silence_s: float = 20.0  # between two pieces of what the server says
    total_s: float = 300.0  # with all that belongs to it: look-ups, redirects, further attempts, pauses between them
    redirects: int = 5
    attempts: int = 3


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Answer:
    """The response at the end of all redirects, its body not yet read."""

    url: httpx.URL
    is_redirected: bool
    response: httpx.Response
    limits: Limits

    @property
    def headers(self) -> httpx.Headers:
        """What the server says of the body."""
        return self.response.headers

    @property
    def length(self) -> int | None:
        """How many octets the body has, where that is said in advance."""
        said = self.headers.get("content-length", "")
        return int(said) if said.isascii() and said.isdigit() and "transfer-encoding" not in self.headers else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it was sent. Raises DownloadError, where it was cut too."""
        try:
            async for chunk in self.response.aiter_raw():
                yield chunk
        except (httpx.HTTPError, OSError) as error:
            reason, is_transient = _reason(error, self.limits)
            raise DownloadError(f"{shown_url(self.url)}: {reason}", is_transient) from None
        if not self.headers.keys() & {"content-length", "transfer-encoding"}:
            self._check_end()

    def _check_end(self) -> None:
        """Where a body ends with its connection, only TLS tells a wanted end from a cut (RFC 9112 section 9.8)."""
        try:
            self.response.extensions["network_stream"].get_extra_info("ssl_object").read(1)
        except ssl.SSLError:
            reason = "the connection was cut, or this server never says where a file ends"
            raise DownloadError(f"{shown_url(self.url)}: {reason}", is_transient=True) from None


class Client:
    """GETs under the same limits.

    Of httpx the transport alone is used: nothing of the environment, no cookies, no redirects of its own. Each
    GET has a connection of its own, because a pool knows connections by address: a request for one host would
    go over a connection whose certificate was checked for another.
    """

    def __init__(self, resolve: Resolve, limits: Limits) -> None:
        self._resolve, self._limits = resolve, limits
        self._times = httpx.Timeout(limits.silence_s, connect=limits.connect_s).as_dict()
        self._context = ssl.create_default_context()  # the authorities of the system, or of SSL_CERT_FILE
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        # So that a cut can be seen; some builds set it, others do not know it.
        self._context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)

    @asynccontextmanager
    async def get(self, url: httpx.URL, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """Open the response to a GET, past all redirects. Raises DownloadError.

        headers: for the first URL only. They may be validators, and what they say holds for no other.
        """
        at = url
        for hop in range(self._limits.redirects + 1):
            async with self._opened(at, {} if hop else headers) as response:
                if response.status_code not in REDIRECTS:
                    yield Answer(at, bool(hop), response, self._limits)
                    return
                at = _target(at, response)
        raise DownloadError(f"{shown_url(url)}: more than {self._limits.redirects} redirects", is_transient=False)

    @asynccontextmanager
    async def _opened(self, url: httpx.URL, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """Open the response of the first address that gives one."""
        host, failures = _host(url), list[tuple[str, str, bool]]()
        all_headers = {**OWN_HEADERS, "Host": url.netloc.decode("ascii"), **headers}
        for address in [host] if is_address(host) else await self._resolve(host):
            there = httpx.URL(scheme="https", host=address, port=url.port, raw_path=url.raw_path)
            extensions = {"sni_hostname": host, "timeout": self._times}
            request = httpx.Request("GET", there, headers=all_headers, extensions=extensions)
            async with httpx.AsyncHTTPTransport(verify=self._context, trust_env=False) as transport:
                try:
                    response = await transport.handle_async_request(request)
                except (httpx.HTTPError, OSError) as error:
                    failures.append((address, *_reason(error, self._limits)))
                    continue
                try:
                    yield response
                finally:
                    await response.aclose()
                return
        told = [f"{address}: {reason}" for address, reason, _ in failures[:_ADDRESSES_TOLD]]
        more = [f"{len(failures) - len(told)} more"] if len(failures) > len(told) else []
        is_transient = not failures or any(each[2] for each in failures)
        raise DownloadError(f"{shown_url(url)}: {'; '.join(told + more) or 'no address'}", is_transient)


def parse_url(text: str, base: httpx.URL | None = None) -> httpx.URL:
    """Read an https URL, whole or relative to another. Raises DownloadError."""
    try:
        url = httpx.URL(text) if base is None else base.join(text)
    except (httpx.InvalidURL, ValueError):
        raise _bad_url(text) from None
    if url.scheme == "http":
        remedy = "on plain http anyone on the way can change a list; ask its publisher for an https address"
        raise DownloadError(f"{shown_url(url)}: {remedy}", is_transient=False)
    if url.scheme != "https" or not 0 < (url.port or 443) < 65_536:
        raise _bad_url(text)
    _host(url)
    return url


def shown_url(url: httpx.URL) -> str:
    """Return a URL as text that is safe to print, without its query, which may hold a token."""
    return shown(url.scheme.encode() + b"://" + url.netloc + url.raw_path.partition(b"?")[0], 120)


def _bad_url(text: str) -> DownloadError:
    return DownloadError(f"'{shown(text.partition('?')[0].encode(), 120)}' is no https URL", is_transient=False)


def _host(url: httpx.URL) -> str:
    """Return the host as an address, or as a name without final dot. Raises DownloadError."""
    host = url.raw_host.decode("ascii")
    if is_address(host) and "%" not in host:  # for a zone the system would be asked
        return host
    try:
        host = to_text(from_text(host))
    except BadName:
        raise _bad_url(str(url)) from None
    if host == "." or "\\" in host:
        raise _bad_url(str(url))
    return host


def _target(url: httpx.URL, response: httpx.Response) -> httpx.URL:
    """Return where a redirect leads to. Raises DownloadError."""
    if not (location := response.headers.get("location", "")):
        raise DownloadError(f"{shown_url(url)}: a redirect that leads nowhere", is_transient=False)
    try:
        return parse_url(location, url)
    except DownloadError as error:
        raise DownloadError(f"{shown_url(url)}: its redirect is refused: {error}", is_transient=False) from None


# Of checks that X.509 certificates fail, by OpenSSL's number: what an admin can do.
_OWN_AUTHORITY = "trust the authority that issued it: update-ca-certificates, or SSL_CERT_FILE"
_CERTIFICATE_REMEDIES = {
    9: "is this machine's clock right?",
    10: "its owner must renew it; is this machine's clock right?",
    18: _OWN_AUTHORITY,
    19: _OWN_AUTHORITY,
    20: _OWN_AUTHORITY,
    62: "write the URL with a host name that the certificate has",
    64: "write the URL with a host name that the certificate has",
}


def _reason(error: Exception, limits: Limits) -> tuple[str, bool]:
    """Say why there is no response, or no whole one, and whether that may pass."""
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {limits.connect_s:g} s; does a firewall stop it?", True
    if isinstance(error, httpx.TimeoutException):
        return f"silent for {limits.silence_s:g} s", True
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            remedy = _CERTIFICATE_REMEDIES.get(cause.verify_code)
            text = f"its certificate is refused: {cause.verify_message.rstrip('.')}"
            return f"{text}; {remedy}" if remedy else text, False
        if isinstance(cause, ssl.SSLEOFError):
            return "the connection was cut", True
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return f"TLS fails: {cause.reason.replace('_', ' ').lower()}", True
        if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno:
            return os.strerror(cause.errno), True
    said = shown(str(error).encode(), 120)
    return f"the exchange failed: {said}" if said else "the connection was cut", True


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it, as far as the libraries below still tell."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
