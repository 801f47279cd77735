"""Answers past their TTL (RFC 8767) and failures that are remembered (RFC 9520), as clients see them.

The tests share services and let the records of all wait out their TTL together: time is spent once.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from tests.scenarios.client import NXDOMAIN, SERVFAIL, TC, Edns, Response, UdpClient, ask, check_echo, query, read
from tests.scenarios.conftest import Start
from tests.scenarios.expect import EXEMPT, LISTED, MANAGED, UNMANAGED, check_sinkholed, policy, where
from tests.scenarios.service import Service, eventually
from tests.scenarios.upstream import (
    SILENCE,
    Action,
    Asked,
    Close,
    Handler,
    Send,
    Upstream,
    address_of,
    default,
    reply,
    truncated,
)

OLD, NEW = "192.0.2.1", "192.0.2.2"
STALE, STALE_NXDOMAIN, CACHED_ERROR = 3, 19, 13  # EDE (RFC 8914 4.4, 4.20, 4.14)
STALE_TTL_S = 30  # at most (RFC 8767 4)
AT_ONCE_S = 0.5  # far from any time-out
CLIENT_S = 1.8  # after which a client has its stale answer (RFC 8767 5)
OVER_A_SECOND = 1.15  # beyond a TTL of 1 s, in whole seconds of the service's clock
SOA = "example. 1 IN SOA ns.example. host.example. 1 3600 600 86400 1"
NewUpstream = Callable[[], Upstream]


def over() -> None:
    """Wait until records with a TTL of 1 s are past it."""
    time.sleep(OVER_A_SECOND)


def brief(name: str, address: str = OLD) -> str:
    """A record for one second."""
    return f"{name} 1 IN A {address}"


def without_data(rcode: int) -> Handler:
    """NXDOMAIN or NODATA, for one second."""
    return lambda asked: reply(asked, rcode=rcode, authority=[SOA])


def timed(service: Service, name: str, source: str = UNMANAGED, **more: Any) -> tuple[Response, float]:
    """Ask with OPT, and return the response and how long it took."""
    started = time.monotonic()
    response = ask(service.dns, name, "A", source=source, edns=Edns(), **more)
    return response, time.monotonic() - started


def codes_of(response: Response) -> list[int]:
    """The extended errors' codes."""
    return [code for code, _ in response.ede]


def is_stale(response: Response, code: int = STALE) -> bool:
    """Whether a response says to be stale; if so its TTLs have to be short ones."""
    if code not in codes_of(response):
        return False
    assert response.lowest_ttl >= 1
    assert all(record.ttl <= STALE_TTL_S for record in response.records if record.rdtype != 41)
    return True


# What an upstream does instead of answering anew
TROUBLES: dict[str, Callable[[Asked], bytes | Sequence[Action]]] = {
    "silent": lambda _: SILENCE,
    "servfail": lambda asked: reply(asked, rcode=SERVFAIL),
    "refused": lambda asked: reply(asked, rcode=5),
    "rubbish": lambda asked: [Send(asked.octets[:2] + b"\xa5" * 60)],
    "cut": lambda asked: [Send(default(asked)[:-20])],
    "slow": lambda asked: [Send(reply(asked, f"{asked.name} 300 IN A {NEW}"), after_s=3)],
}
AT_ONCE = {"servfail", "refused", "cut"}  # a failure that is told need not be waited for


@pytest.fixture(scope="module")
def stale(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the defaults: an answer may be a day late."""
    with Service(tmp_path_factory.mktemp("stale"), policy(up)) as service:
        yield service


@pytest.fixture(scope="module")
def hasty(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that gives up soon, so that silence costs the tests little."""
    times = {"timeout": "0.3s", "deadline": "0.8s"}
    with Service(tmp_path_factory.mktemp("hasty"), policy(up, resolve=times)) as service:
        yield service


@pytest.fixture(autouse=True)
def is_well(stale: Service, up: Upstream) -> None:
    """Before each test the upstream answers, and is known to."""
    up.otherwise(default)

    def answers() -> bool:
        name = f"well-{time.monotonic_ns()}.example"
        return ask(stale.dns, name, "A").addresses == [address_of(name)] and bool(
            stale.metric("dnsfilter_upstream_healthy")
        )

    eventually("the upstream is used", answers, timeout_s=20, every_s=0.2)


@contextmanager
def away(upstream: Upstream) -> Iterator[None]:
    """The upstream's port is closed meanwhile."""
    upstream.stop()
    try:
        yield
    finally:
        upstream.start()


def becomes_fresh(service: Service, *names: str) -> None:
    """Wait until names have the new address: a failure is remembered for a while, and so is who is down."""
    for name in names:
        eventually(f"{name} is fresh", lambda name=name: ask(service.dns, name, "A").addresses == [NEW], timeout_s=20)  # type: ignore[misc]


def test_with_every_trouble_of_the_upstream_an_expired_answer_is_served_stale_and_later_the_fresh_one(
    stale: Service, up: Upstream
) -> None:
    """RFC 8767 4 and 5: within 1.8 s, with short TTLs and EDE 3; without OPT in the query, without OPT."""
    names = {what: f"stale-{what}.example" for what in TROUBLES}
    for name in names.values():
        up.on(name, [f"{name} 1 IN CNAME target.{name}", f"target.{name} 600 IN A {OLD}"])
        assert ask(stale.dns, name, "A").addresses == [OLD]
    before = stale.metric("dnsfilter_cache_stale_total")
    over()
    for what, name in names.items():
        up.on(name, TROUBLES[what])
    wrong = []
    for edns in (Edns(), None):
        started = time.monotonic()
        with UdpClient(stale.dns) as client:
            sent = {number: query(name, "A", ident=number, edns=edns) for number, name in enumerate(names.values())}
            for octets in sent.values():
                client.send(octets)
            for _ in sent:
                octets = client.receive(CLIENT_S + 0.5) or b""
                took = time.monotonic() - started
                assert octets, f"silence, with {edns}"
                response = read(octets)
                check_echo(sent[response.ident], response)
                what = list(names)[response.ident]
                if response.addresses != [OLD] or len(response.answer) != 2:
                    wrong.append(f"{what}: {response.texts}, rcode {response.rcode}, {response.ede}")
                elif edns and not is_stale(response):
                    wrong.append(f"{what}: {response.ede}")
                elif max(record.ttl for record in response.answer) > STALE_TTL_S:
                    wrong.append(f"{what}: {response.texts}")
                elif took > (AT_ONCE_S if what in AT_ONCE else CLIENT_S + 0.2):
                    wrong.append(f"{what}: took {took:.1f} s")
    assert not wrong, "\n".join(wrong)
    assert stale.metric("dnsfilter_cache_stale_total") == before + 2 * len(names)
    for name in names.values():
        up.on(name, brief(name, NEW))
    becomes_fresh(stale, *names.values())


def test_a_slow_upstreams_answer_is_kept_although_the_client_got_the_stale_one(stale: Service, up: Upstream) -> None:
    """RFC 8767 5: the upstream is asked on after all clients have been answered, once, and its answer counts."""
    up.on("slow.example", brief("slow.example"))
    assert ask(stale.dns, "slow.example", "A").addresses == [OLD]
    over()
    seen = len(up.queries("slow.example"))
    up.on("slow.example", TROUBLES["slow"])
    started = time.monotonic()
    with UdpClient(stale.dns) as client:
        for ident in range(20):
            client.send(query("slow.example", "A", ident=ident, edns=Edns()))
        got = client.gather(20, timeout_s=CLIENT_S + 0.5)
        took = time.monotonic() - started
        assert len(got) == 20
        assert all(read(octets).addresses == [OLD] and is_stale(read(octets)) for octets in got.values())
        assert 1.0 <= took <= CLIENT_S + 0.2
        joined, took = timed(stale, "slow.example")  # the question is still out: who comes now waits no longer
        assert joined.addresses == [OLD]
        assert took < AT_ONCE_S
        becomes_fresh(stale, "slow.example")
        assert client.drain() == [], "a second answer"
    assert len(up.queries("slow.example")) - seen <= 5
    assert timed(stale, "slow.example")[0].ede == []


def test_with_the_upstream_alive_an_expired_answer_is_fetched_anew(stale: Service, up: Upstream) -> None:
    """RFC 8767 5: resolver attempts come first, even if they take a second."""
    for name in ("alive.example", "alive-late.example"):
        up.on(name, brief(name))
        assert ask(stale.dns, name, "A").addresses == [OLD]
    over()
    up.on("alive.example", brief("alive.example", NEW))
    up.on("alive-late.example", lambda asked: [Send(reply(asked, brief(asked.name, NEW)), after_s=1.0)])
    for name in ("alive.example", "alive-late.example"):
        response, _ = timed(stale, name)
        assert response.addresses == [NEW]
        assert response.ede == []


def test_what_the_upstream_says_now_takes_the_place_of_what_is_stale(stale: Service, up: Upstream) -> None:
    """NXDOMAIN and NODATA are answers, not failures (RFC 8767 4)."""
    names = {"gone.example": NXDOMAIN, "empty.example": 0}
    for name in names:
        up.on(name, brief(name))
        assert ask(stale.dns, name, "A").addresses == [OLD]
    over()
    for name, rcode in names.items():
        up.on(name, without_data(rcode))
        response, _ = timed(stale, name)
        assert response.rcode == rcode
        assert not response.answer
        assert response.ede == []
    for name in names:
        up.on(name, TROUBLES["servfail"])
    over()
    for name in names:
        assert timed(stale, name)[0].addresses != [OLD], "an answer that was replaced came back"


def test_an_nxdomain_is_served_stale_too_and_so_is_a_nodata(stale: Service, up: Upstream) -> None:
    """RFC 8914 4.20: EDE 19 for a stale NXDOMAIN, 3 for a stale NODATA; the SOA's TTL is a short one."""
    cases = {"no-name.example": (NXDOMAIN, STALE_NXDOMAIN), "no-data.example": (0, STALE)}
    for name, (rcode, _) in cases.items():
        up.on(name, without_data(rcode))
        assert ask(stale.dns, name, "A").rcode == rcode
    over()
    for name, (rcode, code) in cases.items():
        up.on(name, TROUBLES["servfail"])
        response, _ = timed(stale, name)
        assert response.rcode == rcode
        assert response.soa is not None
        assert is_stale(response, code)


def test_an_answer_that_was_never_there_is_servfail(stale: Service, up: Upstream) -> None:
    """Neither another type's, nor the alias's target, nor what was not to be kept (TTL 0) is served in its place."""
    up.on("type.example", "type.example 1 IN AAAA 2001:db8::1", "AAAA")
    up.on("zero-ttl.example", f"zero-ttl.example 0 IN A {OLD}")
    assert ask(stale.dns, "type.example", "AAAA").addresses
    assert ask(stale.dns, "zero-ttl.example", "A").addresses == [OLD]
    over()
    up.on("type.example", TROUBLES["servfail"])
    up.on("type.example", TROUBLES["servfail"], "AAAA")
    up.on("zero-ttl.example", TROUBLES["servfail"])
    for name in ("type.example", "zero-ttl.example"):
        assert timed(stale, name)[0].rcode == SERVFAIL


@pytest.mark.parametrize("rcode", [pytest.param(SERVFAIL, id="SERVFAIL"), pytest.param(5, id="REFUSED")])
def test_a_good_cached_answer_survives_a_later_failure_for_the_same_name(
    stale: Service, up: Upstream, rcode: int
) -> None:
    """RFC 8767 5, RFC 2181 5.4.1: of another type, and with DO."""
    name = f"survives-{rcode}.example"
    up.on(name, f"{name} 300 IN A {OLD}")
    assert ask(stale.dns, name, "A").addresses == [OLD]
    up.on(name, lambda asked: reply(asked, rcode=rcode))
    assert ask(stale.dns, name, "AAAA").rcode in (SERVFAIL, rcode)
    assert ask(stale.dns, name, "A", edns=Edns(do=True)).rcode in (SERVFAIL, rcode)
    response, _ = timed(stale, name)
    assert response.addresses == [OLD]
    assert response.ede == []


def test_stale_answers_come_at_once_while_all_upstreams_are_known_to_be_down(stale: Service, up: Upstream) -> None:
    """RFC 8767 5: with the port closed; blocked names stay blocked, and the fresh answer comes after the return."""
    names = [f"down-{number}.example" for number in range(10)]
    for name in names:
        up.on(name, brief(name))
        assert ask(stale.dns, name, "A").addresses == [OLD]
    over()
    with away(up):
        for number in range(4):
            ask(stale.dns, f"never-{number}.example", "A")  # so that it is known
        for name in names:
            for tcp in (False, True):
                response, took = timed(stale, name, tcp=tcp)
                assert response.addresses == [OLD]
                assert is_stale(response)
                assert took < AT_ONCE_S
        check_sinkholed(ask(stale.dns, LISTED, "A", source=MANAGED))
        for name in names:
            up.on(name, brief(name, NEW))
    becomes_fresh(stale, *names)


def test_stale_answers_come_at_once_from_a_silent_upstream_that_is_known_to_be(hasty: Service, up: Upstream) -> None:
    """RFC 8767 5: nobody waits for an upstream that has not answered for a while, but it is asked now and then."""
    up.on("quiet.example", brief("quiet.example"))
    assert ask(hasty.dns, "quiet.example", "A").addresses == [OLD]
    over()
    up.on("quiet.example", SILENCE)
    up.otherwise(SILENCE)
    with UdpClient(hasty.dns) as client:
        for number in range(5):
            client.send(query(f"unheard-{number}.example", "A", ident=number))
        assert len(client.gather(5)) == 5
    response, took = timed(hasty, "quiet.example")
    assert response.addresses == [OLD]
    assert is_stale(response)
    assert took < AT_ONCE_S


def test_a_truncated_answer_whose_whole_cannot_be_fetched_is_no_reason_for_an_error(
    stale: Service, up: Upstream
) -> None:
    """RFC 8767 5: over TCP the stale whole; over UDP that, or TC, so that the client comes by TCP."""
    name = "cut-off.example"
    up.on(name, brief(name))
    assert ask(stale.dns, name, "A").addresses == [OLD]
    over()
    up.on(name, lambda asked: truncated(asked) if asked.transport == "udp" else [Close()])
    response, _ = timed(stale, name, tcp=True)
    assert response.addresses == [OLD]
    assert is_stale(response)
    response, _ = timed(stale, name)
    assert response.flags & TC or is_stale(response)


def test_stale_answers_are_for_those_whose_upstreams_are_all_away(start: Start, upstreams: NewUpstream) -> None:
    """One upstream of two is enough for a fresh answer; those of another zone are none."""
    first, second, other = upstreams(), upstreams(), upstreams()
    zone = {"zone": "corp.test", "upstreams": [where(other.address)]}
    service = start(policy(first, second, forward=[zone], resolve={"timeout": "0.3s", "deadline": "0.8s"}))
    for name in ("two.example", "host.corp.test"):
        for upstream in (first, second, other):
            upstream.on(name, brief(name))
        assert ask(service.dns, name, "A").addresses == [OLD]
    over()
    first.stop()
    second.on("two.example", brief("two.example", NEW))
    other.otherwise(SILENCE)
    other.on("host.corp.test", SILENCE)
    response, _ = timed(service, "two.example")
    assert response.addresses == [NEW]
    assert response.ede == []
    response, _ = timed(service, "host.corp.test")
    assert response.addresses == [OLD]
    assert is_stale(response)
    assert not first.queries("host.corp.test")
    assert not second.queries("host.corp.test")


# Policy


def test_a_name_listed_meanwhile_is_never_served_stale_to_a_managed_client(
    start: Start, upstreams: NewUpstream
) -> None:
    """Nor a stale chain to a listed name; an exempt client and one without a policy get both."""
    upstream = upstreams()
    names = ("meanwhile.example", "chain.example", f"exempted.{LISTED}")
    upstream.on("chain.example", ["chain.example 1 IN CNAME hidden.example", f"hidden.example 1 IN A {OLD}"])
    for name in ("meanwhile.example", f"exempted.{LISTED}"):
        upstream.on(name, brief(name))
    service = start(policy(upstream))
    for name in names:
        assert ask(service.dns, name, "A", source=EXEMPT).addresses == [OLD]
    listed = {"lists": {"ban": {"domains": [LISTED, "meanwhile.example", "hidden.example"]}}}
    service.configure(policy(upstream, **listed))
    assert "error" not in service.control("reload")
    over()
    upstream.stop()
    for tcp in (False, True):
        for name in names:
            check_sinkholed(ask(service.dns, name, "A", source=MANAGED, edns=Edns(), tcp=tcp))
            for source in (EXEMPT, UNMANAGED):
                response, _ = timed(service, name, source, tcp=tcp)
                assert response.addresses == [OLD]
                assert is_stale(response)
        check_sinkholed(ask(service.dns, "hidden.example", "A", source=MANAGED, tcp=tcp))


# The window


def test_an_answer_older_than_the_window_is_not_served(start: Start, upstreams: NewUpstream) -> None:
    """`serve_stale: 2s`: within it stale, after it SERVFAIL."""
    upstream = upstreams()
    service = start(policy(upstream, cache={"serve_stale": "2s"}))
    upstream.on("window.example", brief("window.example"))
    begun = time.monotonic()
    assert ask(service.dns, "window.example", "A").addresses == [OLD]
    over()
    upstream.stop()
    response, _ = timed(service, "window.example")
    assert response.addresses == [OLD]
    assert is_stale(response)
    time.sleep(begun + 4.2 - time.monotonic())
    response, _ = timed(service, "window.example")
    assert response.rcode == SERVFAIL
    assert not response.answer


def test_without_serve_stale_an_expired_answer_is_servfail(start: Start, upstreams: NewUpstream) -> None:
    """`serve_stale: off`."""
    upstream = upstreams()
    service = start(policy(upstream, cache={"serve_stale": "off"}))
    upstream.on("off.example", brief("off.example"))
    assert ask(service.dns, "off.example", "A").addresses == [OLD]
    over()
    upstream.stop()
    response, took = timed(service, "off.example")
    assert response.rcode == SERVFAIL
    assert not response.answer
    assert took < 1
    assert service.metric("dnsfilter_cache_stale_total") == 0


# Failures that are remembered


def test_twenty_queries_within_a_second_for_a_failing_name_are_one_round_upstream(stale: Service, up: Upstream) -> None:
    """RFC 9520 3.2; the later ones say so (EDE 13), over TCP too."""
    up.on("failing.example", TROUBLES["servfail"])
    responses = [timed(stale, "failing.example", tcp=number % 2 == 1)[0] for number in range(20)]
    assert {response.rcode for response in responses} == {SERVFAIL}
    assert len(up.queries("failing.example")) <= 2
    assert all(CACHED_ERROR in codes_of(response) for response in responses[1:])


def test_a_remembered_failure_of_one_name_does_not_fail_its_neighbours_or_its_other_types(
    stale: Service, up: Upstream
) -> None:
    """RFC 9520 3.2: it is remembered by question."""
    up.on("one.fails.example", TROUBLES["servfail"], "A")
    for _ in range(3):
        assert ask(stale.dns, "one.fails.example", "A").rcode == SERVFAIL
    for name in ("other.fails.example", "fails.example", "below.one.fails.example"):
        assert ask(stale.dns, name, "A").addresses == [address_of(name)]
    assert ask(stale.dns, "one.fails.example", "AAAA").addresses


def test_a_failure_is_remembered_for_longer_each_time_and_for_5_seconds_at_most(stale: Service, up: Upstream) -> None:
    """RFC 9520 3.2: 1, 2, 4 and 5 s; asked all the time, the upstream hears of it three times in 4 s."""
    up.on("again.example", TROUBLES["servfail"])
    begun = time.monotonic()
    while time.monotonic() - begun < 4.0:
        assert ask(stale.dns, "again.example", "A").rcode == SERVFAIL
        time.sleep(0.05)
    begins = [each.at for each in up.queries("again.example")]
    gaps = [after - before for before, after in pairwise(begins) if after - before > 0.5]  # within a round it is less
    assert gaps == sorted(gaps), gaps
    assert len(gaps) == 2, gaps
    assert 0.9 <= gaps[0] <= 1.5, gaps
    assert 1.8 <= gaps[1] <= 2.6, gaps


def test_a_failure_of_a_silent_upstream_is_remembered_too(hasty: Service, up: Upstream) -> None:
    """RFC 9520 2.2 and 3.2: while it is, clients hear at once, and listed names are blocked all the same."""
    up.on("mute.example", SILENCE)
    up.on(f"mute.{LISTED}", SILENCE)
    with UdpClient(hasty.dns, UNMANAGED) as client:
        for number, name in enumerate(("mute.example", f"mute.{LISTED}")):
            client.send(query(name, "A", ident=number))
        assert len(client.gather(2)) == 2
    seen = len(up.queries("mute.example"))
    for _ in range(5):
        response, took = timed(hasty, "mute.example")
        assert response.rcode == SERVFAIL
        assert CACHED_ERROR in codes_of(response)
        assert took < AT_ONCE_S
    assert len(up.queries("mute.example")) == seen
    check_sinkholed(ask(hasty.dns, f"mute.{LISTED}", "A", source=MANAGED))
