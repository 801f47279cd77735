"""Lists that are fetched: the whole service, a real HTTPS server with an authority of its own, and a DNS upstream."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lists.server import HOST, Asked, ListServer, Reply, gzipped, redirect, text
from tests.lists.signing import Signer
from tests.scenarios.client import ask
from tests.scenarios.expect import is_blocked, where
from tests.scenarios.service import Service, eventually
from tests.scenarios.upstream import Upstream, address_of

CLIENT = "127.0.0.1"
SOON_S = 15.0


def numbered(count: int, stem: str = "n") -> bytes:
    return b"".join(b"%s%d.example\n" % (stem.encode(), number) for number in range(count))


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    """An upstream that knows where the list server is."""
    with Upstream() as upstream:
        for host in (HOST, "other.example"):
            upstream.on(host, f"{host}. 60 IN A 127.0.0.1", "A")
        yield upstream


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListServer]:
    """The list server of this module; each test has a path of its own."""
    with ListServer(tmp_path_factory.mktemp("site")) as server:
        yield server


class Subscriber:
    """A service whose list `ban` is fetched."""

    def __init__(self, folder: Path, up: Upstream, site: ListServer) -> None:
        self.up, self.site = up, site
        self.service = Service(folder, {})
        self.service.env = {"SSL_CERT_FILE": str(site.ca_file)}
        self.folder = folder

    def configure(self, path: str, **more: Any) -> None:
        """Say where the list is. more: further keys of it, or of the configuration as `config`."""
        config = more.pop("config", {})
        ban = {"url": self.site.url(path), **more}
        self.service.configure(
            {
                "upstreams": [where(self.up.address)],
                "lists": {"ban": ban, "own": {"domains": ["own.example"]}},
                "groups": {"default": {"block": ["ban", "own"]}},
                **config,
            }
        )

    @contextmanager
    def up_with(self, path: str, **more: Any) -> Iterator[Service]:
        """Serve with the list from this path, once it was asked for."""
        self.configure(path, **more)
        count = self.site.paths().count(path)
        with self.service:
            self.site.wait(path, count + 1, SOON_S)
            yield self.service

    def blocks(self, name: str) -> bool:
        return is_blocked(self.service.dns, name, CLIENT)

    def entries(self) -> float:
        return self.service.metric("dnsfilter_list_entries", list="ban")

    def degraded(self) -> str:
        found: dict[str, str] = json.loads(self.service.http("/ready"))["degraded"]
        return found.get("list", "")

    def update(self, *words: str) -> str:
        """Run `dnsfilter update`; its exit status first."""
        done = self.service.command("update", *words)
        return f"{done.returncode} {done.stdout}{done.stderr}"


@pytest.fixture
def subscriber(tmp_path: Path, up: Upstream, site: ListServer) -> Subscriber:
    return Subscriber(tmp_path, up, site)


# ---- from nothing to a list in force ----


def test_a_list_is_in_force_soon_after_a_first_start_and_meanwhile_the_others_are(subscriber: Subscriber) -> None:
    subscriber.site.on("/first.txt", gzipped(numbered(3), ETag='"1"'))
    with subscriber.up_with("/first.txt") as service:
        assert subscriber.blocks("own.example")
        eventually("it is in force", lambda: subscriber.entries() == 3, SOON_S)
        assert subscriber.blocks("www.n2.example")
        assert ask(service.dns, "fine.example", source=CLIENT).addresses == [address_of("fine.example")]
        eventually("nothing is missed", lambda: not subscriber.degraded())
        (asked,) = [each for each in subscriber.site.asked if each.path == "/first.txt"]
        assert (asked.sni, asked.headers["host"]) == (HOST, f"{HOST}:{subscriber.site.port}")
        assert subscriber.up.queries(HOST), "its host was not looked up at our upstream"


def test_before_anything_was_fetched_ready_says_what_is_missing(subscriber: Subscriber) -> None:
    subscriber.site.on("/never.txt", Reply(status=500))
    with subscriber.up_with("/never.txt") as service:
        eventually("the failure is told", lambda: "answers 500" in subscriber.degraded(), SOON_S)
        assert "blocks nothing yet" in subscriber.degraded()
        assert json.loads(service.http("/ready"))["ready"]
        assert subscriber.blocks("own.example")
        assert service.metric("dnsfilter_list_failures_total", list="ban") >= 1
        assert service.metric("dnsfilter_config_last_reload_successful") == 1


def test_a_group_without_any_list_in_force_is_not_ready(subscriber: Subscriber) -> None:
    subscriber.site.on("/nothing.txt", Reply(status=404))
    with subscriber.up_with("/nothing.txt", config={"groups": {"default": {"block": ["ban"]}}}) as service:
        status = service.control("status")
        assert not status["ready"]
        assert "group 'default'" in status["reasons"][0]
        subscriber.site.on("/nothing.txt", text(numbered(1)))
        assert subscriber.update().startswith("0 ")
        assert service.control("status")["ready"]


def test_the_last_good_copy_serves_at_a_start_without_network(subscriber: Subscriber) -> None:
    subscriber.site.on("/boot.txt", text(numbered(3)))
    with subscriber.up_with("/boot.txt"):
        eventually("it is in force", lambda: subscriber.entries() == 3, SOON_S)
    subscriber.site.on("/boot.txt", Reply(is_cut=True, length=99))
    subscriber.configure("/boot.txt", refresh="5s", config={"upstreams": ["127.0.0.1:1"]})
    with subscriber.service as service:
        assert subscriber.blocks("n0.example")
        eventually("it is told", lambda: "could not be fetched" in subscriber.degraded(), SOON_S)
        assert "its last good copy stays in force" in subscriber.degraded()
        assert json.loads(service.http("/ready"))["ready"]


def test_a_state_directory_that_was_cut_in_half_is_made_anew(subscriber: Subscriber) -> None:
    subscriber.site.on("/half.txt", text(numbered(3)))
    with subscriber.up_with("/half.txt"):
        eventually("it is in force", lambda: subscriber.entries() == 3, SOON_S)
    for path in [*subscriber.service.state.glob("lists/*/*"), subscriber.service.state / "policy.snapshot"]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with subscriber.up_with("/half.txt"):
        assert subscriber.blocks("own.example")
        eventually("it is in force again", lambda: subscriber.entries() == 3, SOON_S)


# ---- refreshes ----


def test_a_new_name_is_blocked_within_one_period(subscriber: Subscriber) -> None:
    """And the same content under a new date is no change of it: when it was checked is told apart."""
    path, grown = "/often.txt", numbered(3) + b"new.example\n"

    def old(_asked: Asked) -> Reply:
        return text(numbered(3), Last_Modified=time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()))

    subscriber.site.on(path, old)
    with subscriber.up_with(path, refresh="5s") as service:
        eventually("it is in force", lambda: subscriber.entries() == 3, SOON_S)
        changed = service.metric("dnsfilter_list_changed_timestamp_seconds", list="ban")
        checked = service.metric("dnsfilter_list_checked_timestamp_seconds", list="ban")
        subscriber.site.wait(path, 2, SOON_S)

        def was_checked() -> bool:
            return service.metric("dnsfilter_list_checked_timestamp_seconds", list="ban") > checked

        eventually("it was checked again", was_checked)
        assert service.metric("dnsfilter_list_changed_timestamp_seconds", list="ban") == changed
        subscriber.site.on(path, text(grown))
        eventually("the new name is blocked", lambda: subscriber.blocks("new.example"), 10)
        assert service.metric("dnsfilter_list_changed_timestamp_seconds", list="ban") > changed


def test_an_unchanged_list_is_neither_sent_nor_built_again(subscriber: Subscriber) -> None:
    def said(asked: Asked) -> Reply:
        if asked.headers.get("if-none-match") == '"7"':
            return Reply(headers={"ETag": '"7"'}, status=304)
        return text(numbered(2), ETag='"7"')

    subscriber.site.on("/same.txt", said)
    with subscriber.up_with("/same.txt") as service:
        eventually("it is in force", lambda: subscriber.entries() == 2, SOON_S)
        generation = service.control("status")["policy"]["generation"]
        assert "unchanged, 2 entries in force" in subscriber.update()
        assert subscriber.site.asked[-1].headers["if-none-match"] == '"7"'
        assert service.control("status")["policy"]["generation"] == generation


@pytest.mark.parametrize(
    ("reply", "part"),
    [
        pytest.param(text(b""), "is empty", id="empty"),
        pytest.param(text(b"# nothing\n"), "no rule", id="comments only"),
        pytest.param(text(b"<html>log in</html>", Content_Type="text/html"), "web page", id="a portal"),
        pytest.param(text(b"0.0.0.0 a.example\n" * 50), "set format: hosts", id="another format"),
        pytest.param(text(numbered(4)), "`dnsfilter update --accept ban`", id="a tenth of it"),
        pytest.param(text(numbered(500)), "max_growth (10x)", id="far more of it"),
        pytest.param(Reply(numbered(40), length=10_000, is_cut=True), "peer closed", id="cut in the middle"),
        pytest.param(redirect("http://other.example/t.txt"), "plain http", id="a redirect to http"),
        pytest.param(Reply(status=404, reason="Gone\x1b[31m"), "404", id="not there, with a coloured reason"),
    ],
)
def test_what_is_no_good_leaves_the_last_good_copy_in_force(subscriber: Subscriber, reply: Reply, part: str) -> None:
    path = "/bad.txt"
    subscriber.site.on(path, text(numbered(40)))
    with subscriber.up_with(path) as service:
        eventually("it is in force", lambda: subscriber.entries() == 40, SOON_S)
        failures = service.metric("dnsfilter_list_failures_total", list="ban")
        subscriber.site.on(path, reply)
        said = subscriber.update()
        assert said.startswith("1 ")
        assert part in said
        assert subscriber.blocks("n39.example")
        assert (subscriber.entries(), subscriber.blocks("a.example")) == (40, False)
        assert part in subscriber.degraded()
        assert "stays in force" in subscriber.degraded()
        assert service.metric("dnsfilter_list_failures_total", list="ban") > failures
        assert service.metric("dnsfilter_ready") == 1
        lists = service.command("lists")
        assert lists.returncode == 1
        assert "list 'ban': " in lists.stdout
        assert "\x1b" not in lists.stdout
        subscriber.site.on(path, text(numbered(41)))
        assert subscriber.update().startswith("0 ")
        assert (subscriber.degraded(), subscriber.entries()) == ("", 41)


def test_an_admin_takes_over_by_name_what_was_held_back(subscriber: Subscriber) -> None:
    subscriber.site.on("/held.txt", text(numbered(40)))
    with subscriber.up_with("/held.txt") as service:
        eventually("it is in force", lambda: subscriber.entries() == 40, SOON_S)
        subscriber.site.on("/held.txt", text(numbered(4)))
        assert "shrank from 40 rules to 4" in subscriber.update()
        assert service.command("reload").returncode == 1, "a reload is no word on remote lists"
        assert subscriber.entries() == 40
        assert "there is no list 'bann'" in subscriber.update("--accept", "bann")
        assert subscriber.update("--accept", "ban").startswith("0 ")
        assert (subscriber.entries(), subscriber.degraded(), subscriber.blocks("n9.example")) == (4, "", False)


def test_a_list_that_only_drips_holds_up_neither_the_others_nor_the_end(subscriber: Subscriber) -> None:
    subscriber.site.on("/drip.txt", Reply(subscriber.site.dripping(b"a.example\n", 0.2), framing="chunked"))
    subscriber.site.on("/brisk.txt", text(numbered(2)))
    brisk = {"url": subscriber.site.url("/brisk.txt")}
    config = {
        "lists": {"ban": {"url": subscriber.site.url("/drip.txt")}, "brisk": brisk},
        "groups": {"default": {"block": ["ban", "brisk"]}},
    }
    with subscriber.up_with("/drip.txt", config=config):
        eventually("the other one is in force", lambda: subscriber.blocks("n1.example"), SOON_S)


def test_a_list_that_names_its_own_server_and_our_upstream_goes_on_being_fetched(subscriber: Subscriber) -> None:
    subscriber.site.on("/own.txt", text(f"{HOST}\nn0.example\n".encode()))
    with subscriber.up_with("/own.txt"):
        eventually("it is in force", lambda: subscriber.blocks(HOST), SOON_S)
        subscriber.site.on("/own.txt", text(f"{HOST}\nn0.example\nn1.example\n".encode()))
        assert subscriber.update().startswith("0 ")
        assert subscriber.blocks("n1.example")


def test_another_address_for_the_list_never_serves_the_old_content_as_the_new(subscriber: Subscriber) -> None:
    subscriber.site.on("/old.txt", text(numbered(3)))
    subscriber.site.on("/new.txt", Reply(status=503))
    with subscriber.up_with("/old.txt") as service:
        eventually("it is in force", lambda: subscriber.entries() == 3, SOON_S)
        subscriber.configure("/new.txt")
        done = service.command("reload")
        assert done.returncode == 0, "that a list is still to come is no failure"
        assert "warning: list 'ban': it has not been fetched yet" in done.stdout
        assert subscriber.blocks("n0.example"), "better the old content than none"
        assert "the source changed" in json.dumps(service.control("status")["degraded"])
        assert "/old.txt is served" in json.dumps(service.control("status")["degraded"])
        subscriber.site.on("/new.txt", text(numbered(2, "u")))
        assert subscriber.update().startswith("0 ")
        assert (subscriber.blocks("n0.example"), subscriber.blocks("u1.example")) == (False, True)
        assert subscriber.degraded() == ""


# ---- proof ----


def test_a_signed_list_is_taken_over_and_another_hand_is_not(subscriber: Subscriber) -> None:
    signer, stranger = Signer(), Signer()
    octets, forged = numbered(3), numbered(3) + b"forged.example\n"
    subscriber.site.on("/signed.txt", text(octets))
    subscriber.site.on("/signed.txt.minisig", text(signer.sign(octets)))
    with subscriber.up_with("/signed.txt", signing_key=signer.public):
        eventually("it is in force", lambda: subscriber.entries() == 3, SOON_S)
        subscriber.site.on("/signed.txt", text(forged))
        for signature in (signer.sign(octets), stranger.sign(forged)):
            subscriber.site.on("/signed.txt.minisig", text(signature))
            assert subscriber.update().startswith("1 ")
            assert not subscriber.blocks("forged.example")
            assert "signature" in subscriber.degraded()
        assert subscriber.blocks("n0.example")


def test_a_pinned_list_stays_what_it_is(subscriber: Subscriber) -> None:
    octets = numbered(3)
    subscriber.site.on("/pinned.txt", text(octets))
    with subscriber.up_with("/pinned.txt", sha256=hashlib.sha256(octets).hexdigest()):
        eventually("it is in force", lambda: subscriber.entries() == 3, SOON_S)
        subscriber.site.on("/pinned.txt", text(numbered(4)))
        assert "SHA-256" in subscriber.update()
        assert subscriber.entries() == 3


def test_a_server_whose_certificate_nobody_vouches_for_is_not_believed(subscriber: Subscriber) -> None:
    subscriber.site.on("/trust.txt", text(numbered(3)))
    subscriber.service.env = {}
    subscriber.configure("/trust.txt")
    with subscriber.service:
        eventually("it is told", lambda: "certificate" in subscriber.degraded(), SOON_S)
        assert subscriber.entries() == 0
    assert "/trust.txt" not in subscriber.site.paths()


# ---- without a server ----


def test_update_without_a_server_fetches_for_the_next_start(subscriber: Subscriber) -> None:
    subscriber.site.on("/ahead.txt", text(numbered(3)))
    subscriber.configure("/ahead.txt")
    done = subscriber.service.command("update")
    assert done.returncode == 1, "the authority is not trusted here"
    assert "certificate" in done.stdout
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(subscriber.site.ca_file))
        done = subscriber.service.command("update")
        assert (done.returncode, "list 'ban': changed, 3 entries in force" in done.stdout) == (0, True), done.stderr
        assert subscriber.service.command("check").returncode == 0
        explained = subscriber.service.command("explain", "www.n1.example")
        assert "BLOCKED" in explained.stdout
        assert f"{subscriber.site.url('/ahead.txt')}:2: n1.example" in explained.stdout
    subscriber.site.on("/ahead.txt", Reply(status=500))
    with subscriber.service:
        assert subscriber.blocks("n0.example")


def test_update_says_which_lists_there_are(subscriber: Subscriber) -> None:
    subscriber.configure("/none.txt")
    done = subscriber.service.command("update", "own")
    assert done.returncode == 1
    assert "there is no remote list 'own'; there are: ban" in done.stderr


def test_a_token_in_the_url_is_shown_nowhere(subscriber: Subscriber) -> None:
    subscriber.site.on("/token.txt", text(numbered(3)), Reply(status=403))
    subscriber.configure("/token.txt?t=s3cret")
    with subscriber.service as service:
        eventually("it is in force", lambda: subscriber.entries() == 3, SOON_S)
        said = subscriber.update()
        said += "".join(service.command(*words).stdout for words in (("lists",), ("status", "--json"), ("check",)))
        said += service.http("/metrics") + service.http("/ready") + service.output
        assert "403" in said
        assert "s3cret" not in said
    assert subscriber.site.asked[-1].target == "/token.txt?t=s3cret"
