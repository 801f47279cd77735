"""Fetches a list: whether it has changed, what it is now, and the proof that it is what its publisher made.

Whatever goes wrong is a DownloadError that tells an admin what and, where that is known, the remedy.
Tries again what may pass.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx
import tenacity

from dnsfilter.lists import body
from dnsfilter.lists.body import Tell
from dnsfilter.lists.errors import BadList
from dnsfilter.lists.formats.text import shown
from dnsfilter.lists.https import LIMITS, Answer, Client, DownloadError, Limits, Resolve, parse_url, shown_url
from dnsfilter.lists.signature import BadSignature, read_key, verify

__all__ = ["DownloadError", "Fetched", "Limits", "NotModified", "Wanted", "fetch"]

SIGNATURE_SIZE = 4_096  # octets
LONGEST_PAUSE_S = 30.0  # a server that wants to be left alone for longer is left to the next refresh
_LONGEST_VALIDATOR = 1_024  # characters

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be fetched."""

    url: str  # https
    etag: str | None  # of the copy that we have
    last_modified: str | None
    max_size: int  # octets, once unpacked
    sha256: str | None  # hexadecimal, of the file as published
    signing_key: str | None  # of minisign; the signature is at the same URL with .minisig behind its path


@dataclass(frozen=True, slots=True)
class Fetched:
    """A list as it is now."""

    octets: bytes = field(repr=False)  # unpacked; asyncio writes out what its tasks return
    etag: str | None  # to be sent the next time
    last_modified: str | None
    verified: Literal["", "sha256", "signature"]  # the proof that was asked for; the stronger of two


@dataclass(frozen=True, slots=True)
class NotModified:
    """The copy that we have is what the server has."""


async def fetch(
    wanted: Wanted, resolve: Resolve, tell: Tell, limits: Limits = LIMITS, sleep: Sleep = asyncio.sleep
) -> Fetched | NotModified:
    """Fetch a list. Raises DownloadError.

    resolve: may raise DownloadError itself. sleep: the pause before a further attempt, in seconds.
    """
    client = Client(resolve, limits)
    attempts = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(limits.attempts),
        retry=tenacity.retry_if_exception(_may_pass_soon),
        wait=_pause,
        sleep=sleep,
        reraise=True,
    )
    try:
        async with asyncio.timeout(limits.total_s):
            return await attempts(_attempt, client, wanted, tell)
    except TimeoutError:
        where = shown_url(parse_url(wanted.url))
        remedy = "is the server, or the way to it, too slow?"
        raise DownloadError(f"{where}: not done within {limits.total_s:g} s; {remedy}", is_transient=True) from None


def _may_pass_soon(error: BaseException) -> bool:
    return isinstance(error, DownloadError) and error.is_transient and error.after_s <= LONGEST_PAUSE_S


_BACK_OFF = tenacity.wait_exponential_jitter(initial=1, max=LONGEST_PAUSE_S, jitter=1)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return max(_BACK_OFF(state), error.after_s if isinstance(error, DownloadError) else 0.0)


async def _attempt(client: Client, wanted: Wanted, tell: Tell) -> Fetched | NotModified:
    url = parse_url(wanted.url)
    found = await _published(client, url, wanted, tell)
    if isinstance(found, NotModified):
        return found
    verified: Literal["", "sha256", "signature"] = ""
    if wanted.sha256 is not None:
        _check_hash(url, wanted.sha256, found.octets)
        verified = "sha256"
    if wanted.signing_key is not None:
        await _check_signature(client, url, wanted.signing_key, found.octets)
        verified = "signature"
    try:
        octets = body.unpacked(found.octets, wanted.max_size)
        body.check(octets)
    except BadList as error:
        raise _bad(url, error) from None
    return Fetched(octets, found.etag, found.last_modified, verified)


async def _published(client: Client, url: httpx.URL, wanted: Wanted, tell: Tell) -> Fetched | NotModified:
    """Return the file as it is published, if it is another than before."""
    validators = _validators(wanted)
    for headers in (validators, {"Cache-Control": "no-cache"}):
        async with client.get(url, headers) as answer:
            if answer.response.status_code != 304:
                octets = await _octets(answer, wanted.max_size, tell)
                # What a redirect leads to may be another file tomorrow: its validators say nothing of this URL.
                said = {} if answer.is_redirected else answer.headers
                return Fetched(octets, _printable(said.get("etag")), _printable(said.get("last-modified")), "")
            if headers is validators and _confirms(answer, validators):
                return NotModified()
            # else an answer to a question that was not asked: once more, without any
    remedy = "a cache on the way is broken, or the server"
    raise DownloadError(
        f"{shown_url(url)}: answers 304 Not Modified to who has nothing yet; {remedy}", is_transient=False
    )


def _validators(wanted: Wanted) -> dict[str, str]:
    found = {"If-None-Match": _printable(wanted.etag), "If-Modified-Since": _printable(wanted.last_modified)}
    return {header: value for header, value in found.items() if value}


def _printable(value: str | None) -> str | None:
    """Return a validator that can be sent back as it came, else None."""
    fits = value and len(value) <= _LONGEST_VALIDATOR and value.isascii() and value.isprintable()
    return value if fits else None


def _confirms(answer: Answer, validators: dict[str, str]) -> bool:
    """Tell whether a 304 is about what was sent (RFC 9110 section 8.8.3.2: weak comparison)."""
    if answer.is_redirected or not validators:
        return False
    sent, said = validators.get("If-None-Match"), answer.headers.get("etag")
    return sent is None or said is None or sent.removeprefix("W/") == said.removeprefix("W/")


async def _octets(answer: Answer, max_size: int, tell: Tell) -> bytes:
    """Return the body of an answer that holds a file. Raises DownloadError."""
    if answer.response.status_code != 200:
        raise _refused(answer)
    try:
        coding = answer.headers.get("content-encoding", "")
        octets = await body.read(answer.chunks(), coding, answer.length, max_size, tell)
        body.check(octets, answer.headers.get("content-type", ""))
    except BadList as error:
        raise _bad(answer.url, error) from None
    return octets


def _bad(url: httpx.URL, error: BadList) -> DownloadError:
    return DownloadError(f"{shown_url(url)} {error}", is_transient=isinstance(error, body.CutShort))


_STATUS_REMEDIES = {
    401: "it wants to know who asks: a token belongs behind ? in the URL",
    403: "it does not let us have it: is a token missing in the URL, or this address not allowed?",
    404: "correct the URL",
    410: "the list is no longer published there; look for where it has gone",
    429: "it is asked too often: raise the list's refresh",
}


def _refused(answer: Answer) -> DownloadError:
    status = answer.response.status_code
    reason = shown(answer.response.reason_phrase.encode(), 40)
    remedy = _STATUS_REMEDIES.get(status, "the server itself has a problem" if status >= 500 else "")
    text = f"{shown_url(answer.url)}: answers {status} {reason}".rstrip() + (f"; {remedy}" if remedy else "")
    is_transient = status >= 500 or status in (408, 425, 429)
    return DownloadError(text, is_transient, _retry_after_s(answer.headers) if is_transient else 0.0)


def _retry_after_s(headers: httpx.Headers) -> float:
    """Return for how long the server wants to be left alone (RFC 9110 section 10.2.3); a date counts from its own."""
    said = headers.get("retry-after", "")
    if said.isascii() and said.isdigit():
        return float(said[:9])
    try:
        until = parsedate_to_datetime(said) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return max(0.0, until.total_seconds())


def _check_hash(url: httpx.URL, expected: str, octets: bytes) -> None:
    found = hashlib.sha256(octets).hexdigest()
    if found != expected.lower():
        remedy = "if its publisher has changed it, write the new hash"
        text = f"{shown_url(url)}: its SHA-256 is {found}, not the one configured; {remedy}"
        raise DownloadError(text, is_transient=False)


async def _check_signature(client: Client, url: httpx.URL, key: str, octets: bytes) -> None:
    path, mark, query = url.raw_path.partition(b"?")
    beside = url.copy_with(raw_path=path + b".minisig" + mark + query)
    try:
        public_key = read_key(key)
        async with client.get(beside, {}) as answer:
            signature = await _octets(answer, SIGNATURE_SIZE, lambda _done, _total: None)
        verify(public_key, octets, signature)
    except DownloadError as error:
        text = f"its signature was not fetched, and without it nothing is taken over: {error}"
        raise DownloadError(text, error.is_transient, error.after_s) from None
    except (BadSignature, ValueError) as error:
        raise DownloadError(f"{shown_url(url)}: {error}", is_transient=False) from None
