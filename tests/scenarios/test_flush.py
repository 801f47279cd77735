"""`dnsfilter flush`: cached answers are forgotten by name, with all below it and all whose alias chain leads there."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.scenarios.client import NXDOMAIN, SERVFAIL, Edns, ask
from tests.scenarios.conftest import Start
from tests.scenarios.expect import EXEMPT, LISTED, MANAGED, UNMANAGED, check_sinkholed, policy
from tests.scenarios.service import Service
from tests.scenarios.upstream import Upstream, address_of, default, reply

SOA = "example. 300 IN SOA ns.example. host.example. 1 3600 600 86400 300"


@pytest.fixture(scope="module")
def flushed(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose cache these tests empty."""
    with Service(tmp_path_factory.mktemp("flushed"), policy(up)) as service:
        yield service


def flush(service: Service, what: str) -> int:
    """Run the command, which has to succeed, and return how many answers it says were forgotten."""
    done = service.command("flush", what)
    assert done.returncode == 0, done.stderr
    return count_of(done)


def count_of(done: subprocess.CompletedProcess[str]) -> int:
    """The number in what the command printed."""
    numbers = re.findall(r"\b\d+\b", done.stdout)
    assert len(numbers) == 1, done.stdout
    return int(numbers[0])


def is_asked_again(service: Service, up: Upstream, name: str, rdtype: str = "A") -> bool:
    """Whether a question makes a query upstream."""
    before = len(up.queries(name))
    ask(service.dns, name, rdtype, source=UNMANAGED)
    return len(up.queries(name)) > before


def test_a_name_and_all_below_it_are_forgotten_and_nothing_else(flushed: Service, up: Upstream) -> None:
    """Of every type, with DO and without, positive and negative; a name with the same ending is another name."""
    up.on("gone.zone.example", lambda asked: reply(asked, rcode=NXDOMAIN, authority=[SOA]))
    forgotten = [("zone.example", "A"), ("zone.example", "AAAA"), ("a.b.zone.example", "A"), ("gone.zone.example", "A")]
    kept = [("otherzone.example", "A"), ("example", "A"), ("zone.example.invalid", "A")]
    for name, rdtype in forgotten + kept:
        ask(flushed.dns, name, rdtype)
    ask(flushed.dns, "zone.example", "A", edns=Edns(do=True))
    assert flush(flushed, "zone.example") == len(forgotten) + 1
    assert not [each for each in kept if is_asked_again(flushed, up, *each)]
    assert [each for each in forgotten if is_asked_again(flushed, up, *each)] == forgotten


@pytest.mark.parametrize("typed", ["SPELLED.example", "spelled.example.", "SpElLeD.eXaMpLe."])
def test_the_name_may_be_spelled_in_any_way(flushed: Service, up: Upstream, typed: str) -> None:
    """RFC 4343; the final dot is no part of a name."""
    ask(flushed.dns, "spelled.example", "A")
    assert flush(flushed, typed) == 1
    assert is_asked_again(flushed, up, "spelled.example")


def test_a_name_beyond_ascii_is_flushed_by_its_letters(flushed: Service, up: Upstream) -> None:
    """IDNA: what people write is what is meant."""
    ask(flushed.dns, "xn--bcher-kva.example", "A")
    assert flush(flushed, "bücher.example") == 1
    assert is_asked_again(flushed, up, "xn--bcher-kva.example")


def test_answers_whose_chain_leads_there_are_forgotten(flushed: Service, up: Upstream) -> None:
    """By a CNAME to the name, to one below it and over another one; not those that only come from there."""
    up.on("direct.example", ["direct.example 300 IN CNAME cdn.example", "cdn.example 300 IN A 192.0.2.1"])
    up.on("below.example", ["below.example 300 IN CNAME x.cdn.example", "x.cdn.example 300 IN A 192.0.2.1"])
    up.on(
        "far.example",
        [
            "far.example 300 IN CNAME near.example",
            "near.example 300 IN CNAME cdn.example",
            "cdn.example 300 IN A 192.0.2.1",
        ],
    )
    up.on("elsewhere.example", ["elsewhere.example 300 IN CNAME notcdn.example", "notcdn.example 300 IN A 192.0.2.1"])
    leading = ["direct.example", "below.example", "far.example"]
    for name in [*leading, "elsewhere.example", "near.example"]:
        ask(flushed.dns, name, "A")
    assert flush(flushed, "cdn.example") == len(leading)
    assert not is_asked_again(flushed, up, "elsewhere.example")
    assert not is_asked_again(flushed, up, "near.example")
    assert [name for name in leading if is_asked_again(flushed, up, name)] == leading


def test_all_is_all(flushed: Service, up: Upstream) -> None:
    """The metric says so; and clients are served on."""
    flush(flushed, "--all")
    names = [f"all-{number}.example" for number in range(20)]
    for name in names:
        ask(flushed.dns, name, "A")
    assert flush(flushed, "--all") == len(names)
    assert flushed.metric("dnsfilter_cache_entries") == 0
    assert flush(flushed, "--all") == 0
    for name in names:
        assert ask(flushed.dns, name, "A").addresses == [address_of(name)]


@pytest.mark.parametrize("name", ["unknown.example", LISTED])
def test_a_name_of_which_nothing_is_kept_is_no_error(flushed: Service, name: str) -> None:
    """Zero were forgotten, as was asked."""
    assert flush(flushed, name) == 0


def test_the_root_is_above_all(flushed: Service, up: Upstream) -> None:
    """RFC 1034 3.1."""
    flush(flushed, "--all")
    ask(flushed.dns, "rooted.example", "A")
    assert flush(flushed, ".") == 1
    assert is_asked_again(flushed, up, "rooted.example")


def test_what_is_flushed_is_not_served_stale_nor_from_the_last_seconds_answers(flushed: Service, up: Upstream) -> None:
    """The very next query asks anew, and gets a failure rather than what was to be forgotten."""
    up.on("wrong.example", "wrong.example 300 IN A 192.0.2.66")
    for _ in range(3):
        assert ask(flushed.dns, "wrong.example", "A").addresses == ["192.0.2.66"]
    up.on("wrong.example", lambda asked: reply(asked, rcode=SERVFAIL))
    assert flush(flushed, "wrong.example") == 1
    assert ask(flushed.dns, "wrong.example", "A").rcode == SERVFAIL


def test_a_flush_forgets_that_a_name_failed(flushed: Service, up: Upstream) -> None:
    """Whoever has mended an upstream and flushes the name need not wait (RFC 9520 3.2)."""
    up.on("mended.example", lambda asked: reply(asked, rcode=SERVFAIL))
    assert ask(flushed.dns, "mended.example", "A").rcode == SERVFAIL
    up.on("mended.example", default)
    flush(flushed, "mended.example")
    assert ask(flushed.dns, "mended.example", "A").addresses == [address_of("mended.example")]


def test_a_flush_changes_no_verdict(flushed: Service, up: Upstream) -> None:
    """Blocked stays blocked, exempted stays exempted, before and after the fresh answer."""
    name = f"verdict.{LISTED}"
    for _ in range(2):
        check_sinkholed(ask(flushed.dns, name, "A", source=MANAGED))
        assert ask(flushed.dns, name, "A", source=EXEMPT).addresses == [address_of(name)]
        assert flush(flushed, LISTED) == 1


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((), id="neither a name nor --all"),
        pytest.param(("a.example", "--all"), id="both"),
        pytest.param(("not..a.name",), id="no name"),
        pytest.param(("a" * 64 + ".example",), id="a label of 64 octets"),
    ],
)
def test_what_cannot_be_flushed_is_a_usage_error_and_forgets_nothing(
    flushed: Service, up: Upstream, words: tuple[str, ...]
) -> None:
    ask(flushed.dns, "stays.example", "A")
    done = flushed.command("flush", *words)
    assert done.returncode == 2
    assert done.stderr
    assert not is_asked_again(flushed, up, "stays.example")


def test_without_a_running_server_it_says_so(start: Start, up: Upstream) -> None:
    """Exit status 1: there is no cache to empty."""
    service = start(policy(up))
    service.configure({**policy(up), "state": str(service.state.parent / "elsewhere")})
    done = service.command("flush", "--all")
    assert done.returncode == 1
    assert "run" in done.stderr
