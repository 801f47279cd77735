"""`strip_ech` end to end: one group gets no keys of Encrypted Client Hello, another one does, from one cache."""

import base64
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from tests.scenarios.client import AD, ADDITIONAL, ANSWER, NOERROR, TC, Edns, Response, UdpClient, ask, query, read
from tests.scenarios.conftest import Start
from tests.scenarios.expect import check_sinkholed, exemption, rdata_text, where
from tests.scenarios.service import Service, eventually
from tests.scenarios.upstream import SILENCE, Asked, Send, Upstream, reply

STRIPPED, ALLOWING, EXEMPT, OBSERVED = "127.7.0.1", "127.7.1.1", "127.7.0.65", "127.7.2.1"
PLAIN = "127.0.0.1"  # of a group without `strip_ech`
KEYS = "AARhYmNk"
BANNED_EDGE = "203.0.113.7"
STALE = 3  # the extended error "Stale Answer", RFC 8914 section 4.4

both_transports = pytest.mark.parametrize("tcp", [False, True], ids=["UDP", "TCP"])


def stripping(client: str, **more: Any) -> dict[str, Any]:
    """A group of the client's network that gets no keys."""
    networks = [client.rpartition(".")[0] + ".0/24"]
    return {"networks": networks, "block": ["ban", "edge"], "strip_ech": "on", **more}


def configuration(upstream: Upstream, **groups: Any) -> dict[str, Any]:
    """Groups with `strip_ech` and one without. groups: further ones."""
    return {
        "upstreams": [where(upstream.address)],
        "lists": {"ban": {"domains": ["banned.example"]}, "edge": {"addresses": [f"{BANNED_EDGE}/32"]}},
        "groups": {
            "stripped": stripping(STRIPPED),
            "allowing": stripping(ALLOWING, allow=["allowed.example"]),
            "observed": stripping(OBSERVED, mode="observe"),
            "default": {"block": ["ban", "edge"]},
            **groups,
        },
        "exemptions": {"entries": [exemption("EX-1", ["127.7.0.64/28"], ["ban", "edge"])]},
        "timezone": "UTC",
    }


@dataclass(frozen=True, slots=True)
class Scene:
    """The service and its upstream."""

    service: Service
    upstream: Upstream

    def ask(self, name: str, source: str, rdtype: str = "HTTPS", **more: Any) -> Response:
        """Ask as a client with EDNS."""
        return ask(self.service.dns, name, rdtype, source=source, **{"edns": Edns(), **more})


@pytest.fixture(scope="module")
def scene(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One service for all tests that do not reload it."""
    with Service(tmp_path_factory.mktemp("ech"), configuration(up)) as service:
        yield Scene(service, up)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that only this test asks for."""
    return f"t{zlib.crc32(request.node.name.encode()):08x}.example"


def signature(owner: str, covered: str) -> str:
    return f"{owner} 300 IN RRSIG {covered} 13 2 300 20300101000000 20200101000000 4711 example. c2lnbmF0dXJl"


def signed(name: str) -> Callable[[Asked], bytes]:
    """Answer as a validating resolver does: AD, and signatures for who sends DO."""
    service, plain = (
        f"{name} 300 IN HTTPS 1 . mandatory=ech alpn=h2 ech={KEYS} ipv4hint=192.0.2.1",
        f"{name} 300 IN HTTPS 2 .",
    )

    def answer(asked: Asked) -> bytes:
        do = asked.message.ednsflags & 0x8000
        signatures = [signature(name, "HTTPS")] if do else []
        return reply(asked, service, plain, *signatures, flags=AD)

    return answer


WITH = [f'1 . mandatory="ech" alpn="h2" ipv4hint="192.0.2.1" ech="{KEYS}"', "2 ."]
WITHOUT = ['1 . alpn="h2" ipv4hint="192.0.2.1"', "2 ."]


@both_transports
@pytest.mark.parametrize("order", [(STRIPPED, PLAIN), (PLAIN, STRIPPED)], ids=["stripped first", "plain first"])
@pytest.mark.parametrize("do", [False, True], ids=["without DO", "with DO"])
def test_each_group_gets_its_own_from_one_cache(scene: Scene, name: str, tcp: bool, order: list[str], do: bool) -> None:
    scene.upstream.on(name, signed(name))
    for _ in ("fresh", "cached"):
        for client in order:
            response = scene.ask(name, client, tcp=tcp, edns=Edns(do=do), flags=AD)
            is_stripped = client == STRIPPED
            assert rdata_text(response, ANSWER, "HTTPS") == (WITHOUT if is_stripped else WITH)
            assert len(rdata_text(response, ANSWER, "RRSIG")) == (do and not is_stripped)
            assert bool(response.flags & AD) is not is_stripped
            assert (response.rcode, response.do) == (NOERROR, do)
    assert len(scene.upstream.queries(name)) == 1


def test_queries_with_equal_octets_are_answered_by_the_group(scene: Scene, name: str) -> None:
    """An answer that is used again within its second would be seen if it were another group's."""
    scene.upstream.on(name, signed(name))
    for _ in range(3):
        for client in (STRIPPED, PLAIN, STRIPPED, ALLOWING, PLAIN):
            response = scene.ask(name, client, ident=7)
            assert rdata_text(response, ANSWER, "HTTPS") == (WITH if client == PLAIN else WITHOUT)


def test_who_waits_for_the_same_response_gets_it_as_the_group_does(scene: Scene, name: str) -> None:
    answer = signed(name)
    scene.upstream.on(name, lambda asked: [Send(answer(asked), after_s=0.2)])
    sent = query(name, "HTTPS", edns=Edns())
    with ExitStack() as stack:
        clients = [(each, stack.enter_context(UdpClient(scene.service.dns, each))) for each in (PLAIN, STRIPPED) * 2]
        for _, client in clients:
            client.send(sent)
        for source, client in clients:
            octets = client.receive()
            assert octets is not None
            assert rdata_text(read(octets), ANSWER, "HTTPS") == (WITHOUT if source == STRIPPED else WITH)
    assert len(scene.upstream.queries(name)) == 1


@pytest.mark.parametrize(("client", "expected"), [(STRIPPED, WITHOUT), (PLAIN, WITH)], ids=["stripped", "plain"])
def test_an_answer_of_an_earlier_second_is_counted_down(
    scene: Scene, name: str, client: str, expected: list[str]
) -> None:
    scene.upstream.on(name, signed(name))
    ttls = list[int]()

    def have_counted_down() -> bool:
        response = scene.ask(name, client, ident=7)
        assert rdata_text(response, ANSWER, "HTTPS") == expected
        ttls.append(response.lowest_ttl)
        return ttls[-1] <= 298

    eventually("a TTL that has counted down twice", have_counted_down)
    assert ttls == sorted(ttls, reverse=True)


@pytest.mark.parametrize(
    ("client", "asked"),
    [
        pytest.param(EXEMPT, "banned.example", id="exempted"),
        pytest.param(ALLOWING, "allowed.example", id="allowed"),
        pytest.param(OBSERVED, "banned.example", id="observed"),
    ],
)
def test_whatever_lets_a_name_through_its_keys_are_taken(scene: Scene, name: str, client: str, asked: str) -> None:
    within = f"{name.partition('.')[0]}.{asked}"
    scene.upstream.on(within, signed(within))
    for _ in ("fresh", "cached"):
        assert rdata_text(scene.ask(within, client), ANSWER, "HTTPS") == WITHOUT


def test_what_is_blocked_stays_blocked(scene: Scene, name: str) -> None:
    check_sinkholed(scene.ask("banned.example", STRIPPED), text="ban")
    scene.upstream.on(name, f"{name} 300 IN HTTPS 1 . ech={KEYS} ipv4hint={BANNED_EDGE}")
    for _ in ("fresh", "cached"):
        check_sinkholed(scene.ask(name, STRIPPED), text="edge")
        assert rdata_text(scene.ask(name, EXEMPT), ANSWER, "HTTPS") == [f'1 . ipv4hint="{BANNED_EDGE}"']


@both_transports
def test_additional_records_are_stripped_and_those_that_are_banned_still_cut(
    scene: Scene, name: str, tcp: bool
) -> None:
    def answer(asked: Asked) -> bytes:
        additional = [
            f"svc.{name} 300 IN SVCB 1 . ech={KEYS}",
            signature(f"svc.{name}", "SVCB"),
            f"svc.{name} 300 IN A 192.0.2.1",
            f"svc.{name} 300 IN A {BANNED_EDGE}",
            f"z.svc.{name} 300 IN A 192.0.2.2",
        ]
        return reply(asked, f"{name} 300 IN SVCB 1 svc.{name} alpn=dot ech={KEYS}", additional=additional)

    scene.upstream.on(name, answer)
    for _ in ("fresh", "cached"):
        response = scene.ask(name, STRIPPED, "SVCB", tcp=tcp)
        assert rdata_text(response, ANSWER, "SVCB") == [f'1 svc.{name}. alpn="dot"']
        assert rdata_text(response, ADDITIONAL, "SVCB") == ["1 ."]
        assert rdata_text(response, ADDITIONAL, "A") == ["192.0.2.1"]
        assert not rdata_text(response, ADDITIONAL, "RRSIG")
        exempt = scene.ask(name, EXEMPT, "SVCB", tcp=tcp)
        assert rdata_text(exempt, ADDITIONAL, "A") == ["192.0.2.1", BANNED_EDGE, "192.0.2.2"]
        assert rdata_text(exempt, ADDITIONAL, "SVCB") == ["1 ."]
        plain = scene.ask(name, PLAIN, "SVCB", tcp=tcp)
        assert rdata_text(plain, ADDITIONAL, "SVCB") == [f'1 . ech="{KEYS}"']
        assert rdata_text(plain, ADDITIONAL, "A") == ["192.0.2.1"]


@pytest.mark.parametrize("rdtype", ["HTTPS", "A", "MX"])
def test_an_answer_without_keys_is_the_same_for_both(scene: Scene, name: str, rdtype: str) -> None:
    said = {"HTTPS": "HTTPS 1 . alpn=h2", "A": "A 192.0.2.1", "MX": "MX 1 mx.example"}[rdtype]
    scene.upstream.on(
        name,
        lambda asked: reply(
            asked,
            f"{name} 300 IN {said}",
            signature(name, rdtype),
            additional=["mx.example 300 IN A 192.0.2.1"],
            flags=AD,
        ),
    )
    plain, stripped = (scene.ask(name, client, rdtype, edns=Edns(do=True)) for client in (PLAIN, STRIPPED))
    assert stripped.flags == plain.flags
    assert plain.flags & AD
    assert len(plain.octets) == len(stripped.octets)
    for ours, theirs in zip(stripped.records, plain.records, strict=True):
        assert ours.ttl <= theirs.ttl
        assert replace(ours, ttl=theirs.ttl) == theirs


def test_what_fits_a_datagram_only_without_keys_is_not_truncated(scene: Scene, name: str) -> None:
    keys = base64.b64encode((900).to_bytes(2, "big") + bytes(900)).decode()
    scene.upstream.on(name, f"{name} 300 IN HTTPS 1 . alpn=h2 ech={keys}")
    for _ in ("fresh", "cached"):
        assert rdata_text(scene.ask(name, STRIPPED, edns=None), ANSWER, "HTTPS") == ['1 . alpn="h2"']
        assert scene.ask(name, PLAIN, edns=None).flags & TC
        assert rdata_text(scene.ask(name, PLAIN, tcp=True), ANSWER, "HTTPS") == [f'1 . alpn="h2" ech="{keys}"']


def test_a_stale_answer_is_stripped_too(scene: Scene, name: str) -> None:
    """RFC 8767: what is told once more when no upstream answers."""
    scene.upstream.on(name, f"{name} 1 IN HTTPS 1 . ech={KEYS}")
    scene.ask(name, PLAIN)
    scene.upstream.on(name, SILENCE)
    said: dict[str, Response] = {}

    def is_stale(client: str) -> bool:
        said[client] = scene.ask(name, client)
        return [code for code, _ in said[client].ede] == [STALE]

    for client, expected in ((STRIPPED, ["1 ."]), (PLAIN, [f'1 . ech="{KEYS}"'])):
        eventually("a stale answer", partial(is_stale, client))
        assert rdata_text(said[client], ANSWER, "HTTPS") == expected


def test_a_reload_turns_it_on_and_off_for_what_is_cached(start: Start, upstreams: Callable[[], Upstream]) -> None:
    upstream = upstreams()
    upstream.on("www.example", signed("www.example"))
    off = configuration(upstream)
    on = configuration(upstream, default={"block": [], "strip_ech": "on"})
    off["groups"]["default"] = {"block": []}
    service = start(off)
    for config, switch in ((off, None), (on, "on"), (off, "off")):
        service.configure(config)
        said = service.command("reload")
        assert said.returncode == 0, said.stderr
        if switch is not None:
            assert f"group 'default': strip_ech is now {switch}" in said.stdout
        response = ask(service.dns, "www.example", "HTTPS", edns=Edns())
        assert rdata_text(response, ANSWER, "HTTPS") == (WITHOUT if switch == "on" else WITH)
    assert len(upstream.queries("www.example")) == 1
