"""Downloads from a real HTTPS server: what is taken, what is refused and in which words, what is tried again."""

import asyncio
import gzip
import hashlib
import itertools
import logging
import os
import socket
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dnsfilter.lists import body
from dnsfilter.lists.download import SIGNATURE_SIZE, DownloadError, Fetched, Limits, NotModified, Wanted, fetch
from dnsfilter.lists.errors import BadList
from tests.lists.server import (
    EXPIRED,
    HOST,
    STRANGER,
    Asked,
    ListServer,
    Raw,
    Reply,
    Said,
    Script,
    bomb,
    gzipped,
    redirect,
    text,
)
from tests.lists.signing import Signer
from tests.programs import need
from tests.scenarios.upstream import Upstream

LIST = b"tiktok.example\nother.example\n"
PACKED = gzip.compress(LIST)
ETAG, DAY = '"1"', "Tue, 24 Nov 2026 08:00:00 GMT"
MAX_SIZE = 100_000
MIB = 1 << 20
ONCE = Limits(attempts=1)
SIGNER = Signer()

Resolve = Callable[[str], Awaitable[Sequence[str]]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ListServer]:
    """A server whose authority is trusted."""
    with ListServer(tmp_path) as found:
        monkeypatch.setenv("SSL_CERT_FILE", str(found.ca_file))
        yield found


class Hosts:
    """Every host is at these addresses; notes what is looked up."""

    def __init__(self, *addresses: str) -> None:
        self.addresses, self.asked = addresses or ("127.0.0.1",), list[str]()

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.addresses


def wanted(
    url: str,
    *,
    etag: str | None = None,
    last_modified: str | None = None,
    max_size: int = MAX_SIZE,
    sha256: str | None = None,
    key: str | None = None,
) -> Wanted:
    return Wanted(url, etag, last_modified, max_size, sha256, key)


def get(
    what: Wanted,
    limits: Limits = ONCE,
    *,
    hosts: Resolve | None = None,
    told: list[tuple[int, int | None]] | None = None,
    pauses: list[float] | None = None,
) -> Fetched | NotModified:
    """Fetch on a loop of its own. Pauses are noted, not made."""

    async def pause(seconds: float) -> None:
        (pauses if pauses is not None else []).append(seconds)

    def tell(done: int, total: int | None) -> None:
        (told if told is not None else []).append((done, total))

    return asyncio.run(fetch(what, hosts or Hosts(), tell, limits, pause))


def octets(what: Wanted) -> bytes:
    found = get(what)
    assert isinstance(found, Fetched)
    return found.octets


def failure(what: Wanted, limits: Limits = ONCE, *, hosts: Resolve | None = None) -> DownloadError:
    """Fetch in vain; every message is short, safe to print and shows no query."""
    with pytest.raises(DownloadError) as caught:
        get(what, limits, hosts=hosts)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    assert "?" not in message.partition(" ")[0]
    assert "secret" not in message
    return caught.value


# ---- what is taken


def test_a_list_comes_with_what_to_ask_with_the_next_time(server: ListServer) -> None:
    server.on("/t.txt", text(LIST, ETag=ETAG, Last_Modified=DAY, Content_Type="text/plain"))
    assert get(wanted(server.url())) == Fetched(LIST, ETAG, DAY, "")
    [asked] = server.asked
    assert (asked.target, asked.sni, asked.headers["host"]) == ("/t.txt", HOST, f"{HOST}:{server.port}")
    assert asked.headers["accept-encoding"] == "gzip"
    assert asked.headers["user-agent"].startswith("dnsfilter/")
    assert not {"if-none-match", "if-modified-since", "cookie", "authorization", "referer"} & asked.headers.keys()


def test_progress_is_told(server: ListServer) -> None:
    packed, told = gzip.compress(os.urandom(50_000)), list[tuple[int, int | None]]()
    server.on("/t.txt", text(packed, Content_Encoding="gzip"))
    get(wanted(server.url()), told=told)
    assert told[-1] == (len(packed), len(packed))
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_how_much_is_to_come_is_told_where_it_is_known_only(server: ListServer) -> None:
    told: list[tuple[int, int | None]] = []
    server.on("/t.txt", Reply([LIST, LIST], framing="chunked"))
    get(wanted(server.url()), told=told)
    assert told[-1] == (2 * len(LIST), None)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(text(LIST), id="plain"),
        pytest.param(text(LIST, Content_Encoding="identity"), id="coding identity"),
        pytest.param(gzipped(LIST), id="packed for the way"),
        pytest.param(text(PACKED, Content_Encoding="X-GZIP"), id="the coding's other name"),
        pytest.param(text(PACKED), id="a gzip file"),
        pytest.param(text(PACKED, Content_Type="application/gzip"), id="a gzip file by type"),
        pytest.param(gzipped(PACKED), id="a gzip file, packed for the way"),
        pytest.param(text(gzip.compress(LIST[:9]) + gzip.compress(LIST[9:])), id="a gzip file of two members"),
        pytest.param(text(gzip.compress(b"") * 3 + PACKED + gzip.compress(b"")), id="empty members"),
        pytest.param(text(PACKED + bytes(512)), id="a gzip file with padding"),
        pytest.param(Reply([LIST[:9], LIST[9:]], framing="chunked"), id="in chunks"),
        pytest.param(Reply(LIST, framing="close"), id="ended by the connection"),
        pytest.param(
            Reply([PACKED[:1], PACKED[1:]], {"Content-Encoding": "gzip"}, framing="chunked"), id="packed, in chunks"
        ),
    ],
)
def test_a_list_is_the_same_however_it_is_sent(server: ListServer, said: Said) -> None:
    server.on("/t.txt", said)
    assert octets(wanted(server.url())) == LIST


def test_a_list_of_the_largest_size_is_taken(server: ListServer) -> None:
    whole = b"a" * MAX_SIZE
    for said in (text(whole), gzipped(whole), text(gzip.compress(whole))):
        server.on("/t.txt", said)
        assert octets(wanted(server.url())) == whole


def test_an_address_in_the_url_needs_no_look_up(server: ListServer) -> None:
    server.on("/t.txt", text(LIST))
    hosts = Hosts()
    assert isinstance(get(wanted(server.url(host="127.0.0.1")), hosts=hosts), Fetched)
    assert hosts.asked == []
    assert server.asked[0].sni is None, "an address is no server name, RFC 6066"


def test_a_query_is_sent_and_never_logged(server: ListServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.on("/t.txt", redirect("/u.txt?token=secret2"))
    server.on("/u.txt", text(LIST))
    assert octets(wanted(server.url("/t.txt?token=secret1"))) == LIST
    assert [asked.target for asked in server.asked] == ["/t.txt?token=secret1", "/u.txt?token=secret2"]
    assert "secret" not in caplog.text


# ---- what is refused


@pytest.mark.parametrize(
    ("said", "part", "is_transient"),
    [
        pytest.param(text(LIST, Content_Encoding="gzip"), "said to be gzip", False, id="gzip that is plain"),
        pytest.param(text(LIST, Content_Encoding="br"), "content coding 'br'", False, id="another coding"),
        pytest.param(text(PACKED, Content_Encoding="gzip, gzip"), "content coding", False, id="two codings"),
        pytest.param(text(LIST, Content_Encoding="\x1b[2j"), "content coding '\\x1b[2j'", False, id="a hostile coding"),
        pytest.param(text(PACKED[:-3], Content_Encoding="gzip"), "cut short", True, id="gzip without its end"),
        pytest.param(text(PACKED[:-3]), "cut short", True, id="a gzip file without its end"),
        pytest.param(text(PACKED + PACKED[:5]), "cut short", True, id="a second member without its end"),
        pytest.param(text(PACKED[:-8] + b"\1" * 8), "damaged", False, id="a gzip file with a wrong checksum"),
        pytest.param(text(PACKED + b"more"), "damaged", False, id="something behind a gzip file"),
        pytest.param(text(b"a" * (MAX_SIZE + 1)), "larger than 100000 octets", False, id="too large"),
        pytest.param(gzipped(b"a" * (MAX_SIZE + 1)), "larger than 100000 octets", False, id="too large once unpacked"),
        pytest.param(text(gzip.compress(bytes(MIB))), "larger than 100000 octets", False, id="too large a gzip file"),
        pytest.param(text(b""), "is empty", False, id="empty"),
        pytest.param(text(b"", Content_Encoding="gzip"), "is empty", False, id="empty, and packed"),
        pytest.param(gzipped(b""), "is empty", False, id="packed emptiness"),
        pytest.param(text(gzip.compress(b"")), "is empty", False, id="a gzip file of nothing"),
        pytest.param(Reply(framing="chunked"), "is empty", False, id="no chunks"),
        pytest.param(Reply(framing="close"), "is empty", False, id="nothing but an end"),
        pytest.param(text(LIST, Content_Type="Text/HTML; charset=utf-8"), "is a web page", False, id="HTML by type"),
        pytest.param(text(b"\n <!DOCTYPE html><p>Log in"), "is a web page", False, id="HTML by content"),
        pytest.param(text(b"\xef\xbb\xbf<html>"), "is a web page", False, id="HTML with a byte order mark"),
        pytest.param(text(b"<?xml version='1.0'?><Error/>"), "is a web page", False, id="a store's error"),
        pytest.param(text(gzip.compress(b"<html>")), "is a web page", False, id="a packed web page"),
        pytest.param(Reply(LIST, length=999, is_cut=True), "failed", True, id="cut"),
        pytest.param(Reply([LIST], framing="chunked", is_cut=True), "failed", True, id="cut between chunks"),
        pytest.param(Reply(LIST, framing="close", is_cut=True), "was cut", True, id="cut where only TLS shows it"),
        pytest.param(Reply(b"", length=9, is_cut=True), "failed", True, id="cut before the first octet"),
        pytest.param(Raw(b""), "failed", True, id="no answer at all"),
        pytest.param(Raw(b"220 mail.example ESMTP\x1b[2J\r\n"), "failed", True, id="another protocol"),
        pytest.param(Raw(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000), "failed", True, id="headers without end"),
        pytest.param(Reply(status=404, reason="Not Found"), "answers 404 Not Found; correct the URL", False, id="404"),
        pytest.param(Reply(status=403), "a token", False, id="403"),
        pytest.param(Reply(status=204), "answers 204", False, id="no content"),
        pytest.param(Reply(LIST, status=206), "answers 206", False, id="a part"),
        pytest.param(Reply(status=500), "answers 500", True, id="500"),
        pytest.param(Reply(status=503), "answers 503", True, id="503"),
        pytest.param(Reply(status=429), "raise the list's refresh", True, id="429"),
        pytest.param(Reply(status=418, reason="\x1b[2J" * 99), "418 \\x1b[2J", False, id="a hostile reason"),
    ],
)
def test_what_is_no_whole_list_is_refused(server: ListServer, said: Said, part: str, is_transient: bool) -> None:
    server.on("/t.txt", said)
    error = failure(wanted(server.url("/t.txt?token=secret")))
    assert part in str(error)
    assert f"https://{HOST}:{server.port}/t.txt" in str(error)
    assert error.is_transient is is_transient


def test_a_list_said_to_be_too_large_is_not_even_begun(server: ListServer) -> None:
    server.on("/t.txt", Reply(server.stalling(b"a"), length=MAX_SIZE + 1))
    assert "larger than" in str(failure(wanted(server.url())))


def test_a_list_without_end_is_left_at_the_largest_size(server: ListServer) -> None:
    told: list[tuple[int, int | None]] = []
    server.on("/t.txt", Reply(itertools.repeat(b"a.example\n" * 1_000), framing="chunked"))
    with pytest.raises(DownloadError, match="larger than"):
        get(wanted(server.url()), told=told)
    assert told[-1][0] <= MAX_SIZE


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://lists.example/t.txt", id="http"),
        pytest.param("ftp://lists.example/t.txt", id="another scheme"),
        pytest.param("https:///t.txt", id="no host"),
        pytest.param("https://lists..example/t.txt", id="an empty label"),
        pytest.param("https://lists.example:99999/t.txt", id="no port"),
        pytest.param("https://%6cists.example/t.txt", id="an escaped host"),
        pytest.param("https://lists.example/\x1b[2J", id="control characters"),
        pytest.param("https://[fe80::1%25lo]/t.txt", id="an address with a zone"),
    ],
)
def test_a_url_that_cannot_be_fetched_is_refused(url: str) -> None:
    assert not failure(wanted(url + "?token=secret")).is_transient


# ---- certificates


@pytest.mark.parametrize(
    ("host", "part"),
    [
        pytest.param("third.example", "not valid for 'third.example'", id="for another name"),
        pytest.param(f"www.{HOST}", "not valid for", id="for the name above"),
        pytest.param(EXPIRED, "expired", id="expired"),
        pytest.param(STRANGER, "update-ca-certificates, or SSL_CERT_FILE", id="by an unknown authority"),
    ],
)
def test_a_certificate_that_proves_nothing_is_refused(server: ListServer, host: str, part: str) -> None:
    server.on("/t.txt", text(LIST))
    error = failure(wanted(server.url(host=host)))
    assert "its certificate is refused" in str(error)
    assert part in str(error)
    assert not error.is_transient
    assert server.asked == []


def test_an_address_has_to_be_in_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ListServer(tmp_path, names=(HOST,)) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca_file))
        server.on("/t.txt", text(LIST))
        assert octets(wanted(server.url())) == LIST
        error = failure(wanted(server.url(host="127.0.0.1")))
    assert "not valid for '127.0.0.1'" in str(error)


def test_an_authority_that_is_not_trusted_is_none(server: ListServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    server.on("/t.txt", text(LIST))
    assert "certificate is refused" in str(failure(wanted(server.url())))


def test_proxies_and_passwords_of_the_environment_are_not_used(
    server: ListServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text(f"machine {HOST} login me password secret\n machine 127.0.0.1 login me password x")
    for name, value in {"HTTPS_PROXY": "http://192.0.2.1:3128", "NETRC": str(tmp_path / "netrc")}.items():
        monkeypatch.setenv(name, value)
    server.on("/t.txt", text(LIST))
    assert octets(wanted(server.url())) == LIST
    assert "authorization" not in server.asked[0].headers


# ---- addresses


def test_an_address_that_refuses_is_followed_by_the_next(server: ListServer) -> None:
    server.on("/t.txt", text(LIST))
    assert isinstance(get(wanted(server.url()), hosts=Hosts("127.0.0.2", "::1", "127.0.0.1")), Fetched)


def test_where_no_address_answers_all_are_named(server: ListServer) -> None:
    error = failure(wanted(server.url()), hosts=Hosts("127.0.0.2", "127.0.0.3"))
    assert "127.0.0.2: Connection refused; 127.0.0.3: Connection refused" in str(error)
    assert error.is_transient


def test_of_many_addresses_a_few_are_named(server: ListServer) -> None:
    many = [f"127.0.1.{number}" for number in range(1, 33)]
    assert "29 more" in str(failure(wanted(server.url()), hosts=Hosts(*many)))


def test_a_failed_look_up_is_told_as_it_is_and_made_again(server: ListServer) -> None:
    async def nobody(host: str) -> Sequence[str]:
        raise DownloadError(f"{host} has no address", is_transient=True)

    pauses: list[float] = []
    with pytest.raises(DownloadError, match=r"^lists\.example has no address$"):
        get(wanted(server.url()), Limits(attempts=3), hosts=nobody, pauses=pauses)
    assert len(pauses) == 2


# ---- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: ListServer, status: int) -> None:
    server.on("/t.txt", redirect("/moved/t.txt?token=secret", status))
    server.on("/moved/t.txt", text(LIST))
    assert octets(wanted(server.url())) == LIST
    assert [asked.target for asked in server.asked] == ["/t.txt", "/moved/t.txt?token=secret"]


def test_a_redirect_to_another_host_is_looked_up_and_checked_anew(server: ListServer) -> None:
    server.on("/t.txt", lambda _: redirect(server.url("/u.txt", host="other.example")))
    server.on("/u.txt", text(LIST))
    hosts = Hosts()
    assert isinstance(get(wanted(server.url()), hosts=hosts), Fetched)
    assert hosts.asked == [HOST, "other.example"]
    assert [asked.sni for asked in server.asked] == [HOST, "other.example"]
    server.on("/t.txt", lambda _: redirect(server.url("/u.txt", host="third.example")))
    error = failure(wanted(server.url()))
    assert "not valid for 'third.example'" in str(error), "it is at the same address as the first"
    assert server.paths().count("/u.txt") == 1


def test_validators_are_for_the_first_url_alone(server: ListServer) -> None:
    server.on("/t.txt", redirect("/u.txt"))
    server.on("/u.txt", text(LIST, ETag=ETAG, Last_Modified=DAY))
    found = get(wanted(server.url(), etag=ETAG, last_modified=DAY))
    first, second = server.asked
    assert first.headers["if-none-match"] == ETAG
    assert not {"if-none-match", "if-modified-since"} & second.headers.keys()
    assert found == Fetched(LIST, None, None, ""), "what the second says is not about the first"


@pytest.mark.parametrize(
    ("to", "part"),
    [
        pytest.param("http://lists.example/t.txt?token=secret", "plain http", id="to http"),
        pytest.param("file:///etc/passwd", "no https URL", id="to a file"),
        pytest.param("https://lists..example/", "no https URL", id="to no host"),
        pytest.param("https://[::1/", "no https URL", id="to half an address"),
        pytest.param("https://x.example/\x1b[2J\t?token=secret", "no https URL", id="to something hostile"),
        pytest.param("https://x.example/" + "a" * 20_000, "", id="to something long"),
        pytest.param("", "leads nowhere", id="to nowhere"),
    ],
)
def test_a_redirect_that_cannot_be_followed_is_refused(server: ListServer, to: str, part: str) -> None:
    server.on("/t.txt", redirect(to))
    assert part in str(failure(wanted(server.url())))


def test_a_host_that_stands_for_no_unicode_is_a_host(server: ListServer) -> None:
    server.on("/t.txt", lambda _: redirect(server.url(host="xn--a-.example")))
    assert "not valid for 'xn--a-.example'" in str(failure(wanted(server.url())))


def test_a_redirect_to_http_is_not_even_tried(server: ListServer) -> None:
    hosts = Hosts()
    server.on("/t.txt", redirect("http://other.example/t.txt"))
    error = failure(wanted(server.url()), hosts=hosts)
    assert not error.is_transient
    assert hosts.asked == [HOST]


def test_redirects_have_their_bound(server: ListServer) -> None:
    for number in range(6):
        server.on(f"/{number}", redirect(f"/{number + 1}"))
    server.on("/6", text(LIST))
    assert octets(wanted(server.url("/1"))) == LIST
    assert "more than 5 redirects" in str(failure(wanted(server.url("/0"))))


def test_a_redirect_in_a_circle_ends(server: ListServer) -> None:
    server.on("/t.txt", redirect("/t.txt"))
    assert "more than 5 redirects" in str(failure(wanted(server.url())))
    assert len(server.asked) == 6


# ---- has it changed?


def by_validators(asked: Asked) -> Said:
    """Answer as a server should."""
    is_same = asked.headers.get("if-none-match") == ETAG or asked.headers.get("if-modified-since") == DAY
    return Reply(headers={"ETag": ETAG}, status=304) if is_same else text(LIST, ETag=ETAG)


@pytest.mark.parametrize(
    ("etag", "last_modified"),
    [
        pytest.param(ETAG, None, id="by its tag"),
        pytest.param(None, DAY, id="by its day"),
        pytest.param(ETAG, DAY, id="by both"),
    ],
)
def test_what_has_not_changed_is_not_sent(server: ListServer, etag: str | None, last_modified: str | None) -> None:
    server.on("/t.txt", by_validators)
    assert get(wanted(server.url(), etag=etag, last_modified=last_modified)) == NotModified()
    [asked] = server.asked
    assert (asked.headers.get("if-none-match"), asked.headers.get("if-modified-since")) == (etag, last_modified)


def test_what_has_changed_is_sent(server: ListServer) -> None:
    server.on("/t.txt", by_validators)
    assert get(wanted(server.url(), etag='"0"')) == Fetched(LIST, ETAG, None, "")


def unchanged(**headers: str) -> Script:
    """Say 304 to whoever asks with any validator, or with none and no wish for freshness."""

    def script(asked: Asked) -> Said:
        return text(LIST) if "cache-control" in asked.headers else Reply(headers=headers, status=304)

    return script


@pytest.mark.parametrize(
    ("sent", "said", "is_believed"),
    [
        pytest.param(ETAG, {}, True, id="no tag"),
        pytest.param(ETAG, {"ETag": ETAG}, True, id="the same tag"),
        pytest.param(ETAG, {"ETag": f"W/{ETAG}"}, True, id="the same tag, weak"),
        pytest.param(f"W/{ETAG}", {"ETag": ETAG}, True, id="the same tag, strong"),
        pytest.param(ETAG, {"ETag": '"2"'}, False, id="another tag"),
        pytest.param(None, {"ETag": ETAG}, False, id="to who sent none"),
    ],
)
def test_that_nothing_has_changed_is_believed_about_what_was_sent_only(
    server: ListServer, sent: str | None, said: dict[str, str], is_believed: bool
) -> None:
    server.on("/t.txt", unchanged(**said))
    found = get(wanted(server.url(), etag=sent))
    assert found == (NotModified() if is_believed else Fetched(LIST, None, None, ""))
    assert len(server.asked) == (1 if is_believed else 2)
    assert "if-none-match" not in server.asked[-1].headers or is_believed


def test_that_nothing_has_changed_for_ever_is_an_error(server: ListServer) -> None:
    server.on("/t.txt", Reply(status=304))
    error = failure(wanted(server.url()), Limits(attempts=3))
    assert "answers 304 Not Modified to who has nothing yet" in str(error)
    assert len(server.asked) == 2


def test_behind_a_redirect_nothing_is_unchanged(server: ListServer) -> None:
    server.on("/t.txt", redirect("/u.txt"))
    server.on("/u.txt", Reply(status=304), text(LIST))
    assert get(wanted(server.url(), etag=ETAG)) == Fetched(LIST, None, None, "")


@pytest.mark.parametrize(
    "tag",
    [
        pytest.param('"\xe9"', id="not ASCII"),
        pytest.param('"\t"', id="a control character"),
        pytest.param('"' + "a" * 2_000 + '"', id="very long"),
    ],
)
def test_a_tag_that_cannot_be_sent_back_is_not_kept(server: ListServer, tag: str) -> None:
    server.on("/t.txt", text(LIST, ETag=tag))
    assert get(wanted(server.url())) == Fetched(LIST, None, None, "")
    assert get(wanted(server.url(), etag=tag)) == Fetched(LIST, None, None, "")


# ---- time


def test_a_server_that_takes_connections_and_says_nothing_is_left(server: ListServer) -> None:
    server.is_mute = True
    error = failure(wanted(server.url()), Limits(attempts=1, connect_s=0.2))
    assert "no connection within 0.2 s" in str(error)
    assert error.is_transient


def test_a_server_that_falls_silent_is_left(server: ListServer) -> None:
    for said in (Reply(server.stalling(LIST), length=999), Reply(server.stalling(LIST), framing="chunked")):
        server.on("/t.txt", said)
        error = failure(wanted(server.url()), Limits(attempts=1, silence_s=0.2))
        assert "silent for 0.2 s" in str(error)
        assert error.is_transient


def test_a_server_that_drips_is_left_after_the_whole_time(server: ListServer) -> None:
    server.on("/t.txt", Reply(server.dripping(b"a", every_s=0.02), framing="chunked"))
    error = failure(wanted(server.url()), Limits(total_s=0.5))
    assert "not done within 0.5 s" in str(error)
    assert len(server.asked) == 1


def test_a_server_that_sends_for_ever_is_left_after_the_whole_time(server: ListServer) -> None:
    server.on("/t.txt", Reply(itertools.repeat(b"a.example\n" * 100), framing="chunked"))
    error = failure(wanted(server.url(), max_size=1 << 40), Limits(total_s=0.5))
    assert "not done within 0.5 s" in str(error)


async def for_ever(*_: object) -> Sequence[str]:
    await asyncio.Event().wait()
    return ()


def test_the_whole_time_holds_for_look_ups_too(server: ListServer) -> None:
    assert "not done" in str(failure(wanted(server.url()), Limits(total_s=0.1), hosts=for_ever))


def test_the_whole_time_holds_for_pauses_too(server: ListServer) -> None:
    server.on("/t.txt", Reply(status=500))

    async def pause(_seconds: float) -> None:
        await for_ever()

    with pytest.raises(DownloadError, match="not done"):
        asyncio.run(fetch(wanted(server.url()), Hosts(), lambda _done, _total: None, Limits(total_s=0.5), pause))


# ---- further attempts


def attempts(server: ListServer, *said: Said, tries: int = 3) -> tuple[Fetched | NotModified | None, list[float]]:
    """Fetch from a server that says these things in turn; return what came of it and the pauses."""
    server.on("/t.txt", *said)
    pauses: list[float] = []
    try:
        return get(wanted(server.url()), Limits(attempts=tries), pauses=pauses), pauses
    except DownloadError:
        return None, pauses


GOOD = Fetched(LIST, None, None, "")


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(Reply(status=500), id="500"),
        pytest.param(Reply(status=503), id="503"),
        pytest.param(Reply(status=429), id="429"),
        pytest.param(Reply(LIST, length=999, is_cut=True), id="cut"),
        pytest.param(text(PACKED[:-1]), id="a gzip file without its end"),
        pytest.param(Raw(b""), id="no answer"),
    ],
)
def test_what_may_pass_is_tried_again_after_a_pause(server: ListServer, first: Said) -> None:
    found, [pause] = attempts(server, first, text(LIST))
    assert found == GOOD
    assert 1 <= pause <= 2


def test_pauses_grow_and_differ(server: ListServer) -> None:
    found, pauses = attempts(server, Reply(status=500), tries=6)
    assert found is None
    assert len(server.asked) == 6
    for number, pause in enumerate(pauses):
        assert 2**number <= pause <= 2**number + 1
    assert len({pause % 1 for pause in pauses}) == 5


@pytest.mark.parametrize(
    "final",
    [
        pytest.param(Reply(status=404), id="404"),
        pytest.param(text(b""), id="empty"),
        pytest.param(text(b"<html>"), id="a web page"),
        pytest.param(text(b"a" * (MAX_SIZE + 1)), id="too large"),
        pytest.param(redirect("http://lists.example/t.txt"), id="a redirect to http"),
        pytest.param(text(LIST, Content_Encoding="gzip"), id="no gzip"),
    ],
)
def test_what_does_not_pass_is_not_tried_again(server: ListServer, final: Said) -> None:
    assert attempts(server, final, text(LIST)) == (None, [])
    assert len(server.asked) == 1


def busy(after: str) -> Reply:
    return Reply(headers={"Retry-After": after, "Date": DAY}, status=429)


@pytest.mark.parametrize(
    ("after", "pause_s"),
    [
        pytest.param("7", 7, id="seconds"),
        pytest.param("30", 30, id="the longest"),
        pytest.param("Tue, 24 Nov 2026 08:00:09 GMT", 9, id="a date, by the server's clock"),
    ],
)
def test_a_server_is_left_alone_for_as_long_as_it_asks(server: ListServer, after: str, pause_s: float) -> None:
    assert attempts(server, busy(after), text(LIST)) == (GOOD, [pause_s])


FAR = f"Tue, 24 Nov 2026 08:00:00 +{'9' * 40}"


@pytest.mark.parametrize("after", ["0", "-5", "soon", "\xb2", "", "Tue, 24 Nov 2026 07:00:00 GMT", "Tue, 99 Nov", FAR])
def test_a_wish_that_means_nothing_changes_no_pause(server: ListServer, after: str) -> None:
    found, [pause] = attempts(server, busy(after), text(LIST))
    assert found == GOOD
    assert 1 <= pause <= 2


@pytest.mark.parametrize("after", ["31", "9" * 99, "Wed, 25 Nov 2026 08:00:00 GMT"])
def test_a_server_that_wants_a_long_rest_gets_it(server: ListServer, after: str) -> None:
    assert attempts(server, busy(after), text(LIST)) == (None, [])


# ---- proofs


def sha256(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


@pytest.mark.parametrize(
    ("said", "published"),
    [
        pytest.param(text(LIST), LIST, id="plain"),
        pytest.param(gzipped(LIST), LIST, id="packed for the way"),
        pytest.param(text(PACKED), PACKED, id="a gzip file"),
        pytest.param(gzipped(PACKED), PACKED, id="a gzip file, packed for the way"),
    ],
)
def test_proofs_are_about_the_file_as_published(server: ListServer, said: Said, published: bytes) -> None:
    server.on("/t.txt", said)
    server.on("/t.txt.minisig", text(SIGNER.sign(published)))
    by_hash = get(wanted(server.url(), sha256=sha256(published).upper()))
    assert by_hash == Fetched(LIST, None, None, "sha256")
    assert get(wanted(server.url(), key=SIGNER.public)) == Fetched(LIST, None, None, "signature")
    by_both = get(wanted(server.url(), sha256=sha256(published), key=SIGNER.public))
    assert by_both == Fetched(LIST, None, None, "signature")


def test_another_content_than_the_hash_says_is_refused_at_once(server: ListServer) -> None:
    server.on("/t.txt", text(LIST + b"more.example\n"))
    error = failure(wanted(server.url(), sha256=sha256(LIST)), Limits())
    assert f"its SHA-256 is {sha256(LIST + b'more.example' + bytes([10]))}" in str(error)
    assert not error.is_transient
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("said", "part", "is_transient"),
    [
        pytest.param(text(SIGNER.sign(LIST.upper())), "not what was signed", False, id="of another file"),
        pytest.param(text(Signer(b"another!").sign(LIST)), "signed with key", False, id="with another key"),
        pytest.param(text(b"nothing like it"), "not one of minisign", False, id="something else"),
        pytest.param(text(b"a" * (SIGNATURE_SIZE + 1)), "larger than 4096", False, id="too large"),
        pytest.param(text(b"<html>"), "web page", False, id="a web page"),
        pytest.param(Reply(status=404), "answers 404", False, id="none"),
        pytest.param(Reply(status=500), "answers 500", True, id="a server with a problem"),
        pytest.param(redirect("http://lists.example/t.txt.minisig"), "plain http", False, id="over http"),
    ],
)
def test_a_list_without_a_good_signature_is_refused(
    server: ListServer, said: Said, part: str, is_transient: bool
) -> None:
    server.on("/t.txt", text(LIST))
    server.on("/t.txt.minisig", said)
    error = failure(wanted(server.url(), key=SIGNER.public))
    assert part in str(error)
    assert error.is_transient is is_transient


def test_the_signature_is_beside_the_list_and_takes_its_token(server: ListServer) -> None:
    server.on("/t.txt", text(LIST))
    server.on("/t.txt.minisig", text(SIGNER.sign(LIST)))
    get(wanted(server.url("/t.txt?token=secret"), key=SIGNER.public))
    assert [asked.target for asked in server.asked] == ["/t.txt?token=secret", "/t.txt.minisig?token=secret"]


def test_no_key_that_is_none_is_used(server: ListServer) -> None:
    server.on("/t.txt", text(LIST))
    assert "minisign.pub" in str(failure(wanted(server.url(), key="RWQ")))


# ---- the system's resolver, and memory: in processes of their own

RESOLVED_BY_UPSTREAM = """
    import asyncio, sys
    from dnsfilter.core.names import from_text
    from dnsfilter.lists.download import Wanted, fetch
    from dnsfilter.upstream import lookup

    url, port = sys.argv[1], int(sys.argv[2])

    async def resolve(host):
        return await lookup.addresses(from_text(host), [("127.0.0.1", port)])

    found = asyncio.run(fetch(Wanted(url, None, None, 1000, None, None), resolve, lambda done, total: None))
    sys.stdout.buffer.write(found.octets)
"""
DEADLY = """
    #include <stdlib.h>
    int getaddrinfo() { abort(); }
    int gethostbyname_r() { abort(); }
    int gethostbyname() { abort(); }
"""


def python(program: str, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *words],
        capture_output=True,
        env=os.environ | environment,
        check=False,
        timeout=60,
    )


def test_a_download_goes_on_where_the_system_can_look_nothing_up(server: ListServer, tmp_path: Path) -> None:
    compiler, library = need("gcc", "gcc"), tmp_path / "deadly.so"
    (tmp_path / "deadly.c").write_text(DEADLY)
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", library, tmp_path / "deadly.c"], check=True)
    server.on("/t.txt", lambda _: redirect(server.url("/u.txt", host="other.example")))
    server.on("/u.txt", text(LIST))
    with Upstream() as upstream:
        for host in (HOST, "other.example"):
            upstream.on(host, f"{host} 60 IN A 127.0.0.1", "A")
        port = str(upstream.address[1])
        done = python(RESOLVED_BY_UPSTREAM, server.url(), port, LD_PRELOAD=str(library))
    assert (done.stdout, done.returncode) == (LIST, 0), done.stderr.decode()
    control = python("import socket; socket.getaddrinfo('lists.example', 443)", LD_PRELOAD=str(library))
    assert control.returncode < 0, "the library kills who asks the system"


def test_python_never_asks_the_system_either(server: ListServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*words: object, **more: object) -> None:
        raise AssertionError("the system's resolver was asked")

    for each in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        monkeypatch.setattr(socket, each, forbidden)
    server.on("/t.txt", text(LIST))
    assert octets(wanted(server.url())) == LIST


MEASURED = """
    import asyncio, re, sys
    from dnsfilter.lists.download import DownloadError, Wanted, fetch

    async def resolve(host):
        return ["127.0.0.1"]

    async def get(path, max_size):
        await fetch(Wanted(sys.argv[1] + path, None, None, max_size, None, None), resolve, lambda done, total: None)

    def peak_kb():  # of this program: ru_maxrss is that of whoever started it, if that is larger
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

    asyncio.run(get("/small", 1000))  # loads all that a download needs
    before = peak_kb()
    try:
        asyncio.run(get("/bomb", int(sys.argv[2])))
    except DownloadError as error:
        print(error)
    print(peak_kb() - before)
"""


@pytest.mark.parametrize("coding", [pytest.param("gzip", id="packed for the way"), pytest.param("identity", id="file")])
def test_five_gigabytes_in_a_small_parcel_are_not_unpacked(server: ListServer, coding: str) -> None:
    parcel, max_size = bomb(5 << 30), 16 * MIB
    assert len(parcel) < max_size
    server.on("/small", text(LIST))
    server.on("/bomb", text(parcel, Content_Encoding=coding))
    done = python(MEASURED, server.url(""), str(max_size))
    message, growth = done.stdout.decode().splitlines()
    assert f"larger than {max_size} octets" in message
    assert int(growth) * 1_024 < 2 * max_size + 2 * len(parcel) + 8 * MIB


def test_unpacking_holds_no_more_than_allowed() -> None:
    parcel = bomb(5 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(BadList, match="larger than"):
            body.gunzip(parcel, MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB


def test_a_gzip_file_of_nothing_but_members_is_refused() -> None:
    with pytest.raises(BadList, match="more than 65536 members"):
        body.gunzip(gzip.compress(b"") * (body.MEMBERS + 1), MAX_SIZE)
