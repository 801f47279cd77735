"""Rules about the addresses in answers, end to end: hand-written ranges, and protection from DNS rebinding."""

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.client import ADDITIONAL, NOERROR, NXDOMAIN, REFUSED, Edns, Response, ask
from tests.scenarios.conftest import Start
from tests.scenarios.expect import (
    BLOCKED_CODE,
    LISTED,
    check_sinkholed,
    check_soa,
    exemption,
    policy,
    rdata_text,
    where,
)
from tests.scenarios.service import Service, command
from tests.scenarios.upstream import Upstream, address_of, reply

RANGES = ["203.0.113.128/25", "2001:db8:bad::/48"]
HIT, HIT6 = "203.0.113.130", "2001:db8:bad::130"  # in the ranges
MISS, MISS6 = "203.0.113.127", "2001:db8:bae::1"  # just outside
MANAGED, EXEMPT = "127.6.0.1", "127.6.0.65"
OBSERVED, ALLOWING, NAMED, UNMANAGED = "127.6.1.1", "127.6.2.1", "127.6.3.1", "127.0.0.1"
BOTH, HALF, WATCHING = "127.6.7.1", "127.6.7.65", "127.6.8.1"
WATCHED = "198.51.100.1"  # in a range that is only observed
STYLES = {"nodata": "127.6.4.1", "nxdomain": "127.6.5.1", "refused": "127.6.6.1"}
TTL = 60  # of blocked answers


def group(client: str, *block: str, **more: Any) -> dict[str, Any]:
    """A group of the client's network."""
    return {"networks": [client.rpartition(".")[0] + ".0/24"], "block": list(block), **more}


def configuration(upstream: Upstream, **more: Any) -> dict[str, Any]:
    """Ranges under `edge`, and a group for each way to use them. more: further keys."""
    return {
        "upstreams": [where(upstream.address)],
        "lists": {
            "edge": {"addresses": RANGES},
            "watched": {"addresses": [f"{WATCHED}/32"], "mode": "observe"},
            "ban": {"domains": ["banned.example", "tiktok.example"]},
            "all": {"lists": ["ban", "edge"]},
        },
        "groups": {
            "managed": group(MANAGED, "edge"),
            "observed": group(OBSERVED, "edge", mode="observe"),
            "allowing": group(ALLOWING, "edge", allow=["allowed.example"]),
            "named": group(NAMED, "ban"),
            "both": group(BOTH, "all"),
            "watching": group(WATCHING, "watched", "edge"),
            **{style: group(client, "edge", answer=style) for style, client in STYLES.items()},
            "default": {"block": []},
        },
        "exemptions": {
            "regime": "registered",
            "entries": [
                exemption("EX-1", ["127.6.0.64/28"], ["edge"]),
                exemption("EX-2", ["127.6.7.64/28"], ["ban"]),
            ],
        },
        "timezone": "UTC",
        **more,
    }


@dataclass(frozen=True, slots=True)
class Scene:
    """The service and its upstream."""

    service: Service
    upstream: Upstream

    def ask(self, name: str, rdtype: str = "A", source: str = MANAGED, *, tcp: bool = False) -> Response:
        """Ask as a client that takes extended errors."""
        return ask(self.service.dns, name, rdtype, source=source, tcp=tcp, edns=Edns())


@pytest.fixture(scope="module")
def scene(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One service for all tests about ranges."""
    with Service(tmp_path_factory.mktemp("addresses"), configuration(up)) as service:
        yield Scene(service, up)


# What a range matches

HITS = [
    pytest.param("A", [f"@ 300 IN A {HIT}"], id="an address"),
    pytest.param("A", ["@ 300 IN A 203.0.113.128"], id="the first of the range"),
    pytest.param("A", ["@ 300 IN A 203.0.113.255"], id="the last of the range"),
    pytest.param("AAAA", [f"@ 300 IN AAAA {HIT6}"], id="an IPv6 address"),
    pytest.param("A", [f"@ 300 IN A {MISS}", f"@ 300 IN A {HIT}"], id="one of several"),
    pytest.param("A", ["@ 300 IN CNAME cdn.test", f"cdn.test 300 IN A {HIT}"], id="behind an alias"),
    pytest.param(
        "A",
        ["cdn.test 300 IN CNAME edge.test", f"edge.test 300 IN A {HIT}", "@ 300 IN CNAME cdn.test"],
        id="behind two, in no order",
    ),
    pytest.param("AAAA", ["@ 300 IN CNAME cdn.test", f"cdn.test 300 IN AAAA {HIT6}"], id="an alias, IPv6"),
    pytest.param("HTTPS", [f"@ 300 IN HTTPS 1 . alpn=h2 ipv4hint={HIT}"], id="a hint of HTTPS"),
    pytest.param("HTTPS", [f"@ 300 IN HTTPS 1 . ipv4hint={MISS},{HIT}"], id="the second hint"),
    pytest.param("HTTPS", [f"@ 300 IN HTTPS 1 . ipv4hint={MISS} ipv6hint={HIT6}"], id="an IPv6 hint"),
    pytest.param("HTTPS", [f"@ 300 IN HTTPS 1 svc.test ech=AARhYmNk ipv4hint={HIT}"], id="a hint beside ech"),
    pytest.param("HTTPS", ["@ 300 IN CNAME cdn.test", f"cdn.test 300 IN HTTPS 1 . ipv4hint={HIT}"], id="alias, hint"),
    pytest.param("SVCB", [f"@ 300 IN SVCB 1 svc.test alpn=dot ipv6hint={HIT6}"], id="a hint of SVCB"),
    pytest.param("AAAA", [f"@ 300 IN AAAA ::ffff:{HIT}"], id="IPv4-mapped"),
    pytest.param("AAAA", [f"@ 300 IN AAAA 64:ff9b::{HIT}"], id="through NAT64, RFC 6052"),
]
MISSES = [
    pytest.param("A", [f"@ 300 IN A {MISS}"], id="just outside"),
    pytest.param("AAAA", [f"@ 300 IN AAAA {MISS6}"], id="just outside, IPv6"),
    pytest.param("HTTPS", [f"@ 300 IN HTTPS 1 . ipv4hint={MISS} ipv6hint={MISS6}"], id="hints outside"),
    pytest.param("TXT", [f'@ 300 IN TXT "{HIT}"'], id="text that looks like one"),
    pytest.param("A", ["@ 300 IN CNAME cdn.test", f"cdn.test 300 IN A {MISS}"], id="behind an alias"),
]


def say(scene: Scene, name: str, records: Sequence[str]) -> None:
    """Let the upstream answer a name with these records; @ stands for the name."""
    scene.upstream.on(name, [text.replace("@", name, 1) if text.startswith("@") else text for text in records])


def name_of(request: pytest.FixtureRequest) -> str:
    """A name that only this test asks for."""
    return f"t{zlib.crc32(request.node.name.encode()):08x}.example"


def is_real(response: Response, records: Sequence[str]) -> bool:
    """Whether the answer section has as many records as the upstream gave, and no error came along."""
    return response.rcode == NOERROR and len(response.answer) == len(records) and not response.ede


@pytest.mark.parametrize(("rdtype", "records"), HITS)
@pytest.mark.parametrize("order", [(MANAGED, EXEMPT), (EXEMPT, MANAGED)], ids=["managed first", "exempt first"])
def test_an_answer_with_an_address_in_the_range_is_blocked_for_some_and_real_for_others_from_one_cache(
    scene: Scene, request: pytest.FixtureRequest, rdtype: str, records: list[str], order: tuple[str, str]
) -> None:
    name = name_of(request)
    say(scene, name, records)
    for client in (*order, *order):
        response = scene.ask(name, rdtype, client)
        if client == MANAGED:
            check_sinkholed(response, TTL, "edge")
        else:
            assert is_real(response, records)
    assert is_real(scene.ask(name, rdtype, UNMANAGED), records), "a group that does not use the list"
    assert len(scene.upstream.queries(name)) == 1


@pytest.mark.parametrize(("rdtype", "records"), MISSES)
def test_an_answer_without_an_address_in_the_range_is_real(
    scene: Scene, request: pytest.FixtureRequest, rdtype: str, records: list[str]
) -> None:
    name = name_of(request)
    say(scene, name, records)
    for _ in ("fresh", "cached"):
        assert is_real(scene.ask(name, rdtype), records)


def test_the_same_over_tcp_and_without_edns(scene: Scene) -> None:
    say(scene, "tcp.example", [f"@ 300 IN A {HIT}"])
    check_sinkholed(scene.ask("tcp.example", tcp=True), TTL, "edge")
    check_sinkholed(ask(scene.service.dns, "tcp.example", source=MANAGED))


@pytest.mark.parametrize(
    ("style", "rcode"),
    [
        pytest.param("nodata", NOERROR, id="nodata"),
        pytest.param("nxdomain", NXDOMAIN, id="nxdomain"),
        pytest.param("refused", REFUSED, id="refused"),
    ],
)
@pytest.mark.parametrize("rdtype", ["A", "AAAA", "HTTPS"])
def test_the_group_s_style_holds(scene: Scene, style: str, rcode: int, rdtype: str) -> None:
    name = f"{style}.style.example"
    scene.upstream.on(name, f"{name} 300 IN A {HIT}", "A")
    scene.upstream.on(name, f"{name} 300 IN AAAA {HIT6}", "AAAA")
    scene.upstream.on(name, f"{name} 300 IN HTTPS 1 . ipv4hint={HIT}", "HTTPS")
    response = scene.ask(name, rdtype, STYLES[style])
    assert (response.rcode, response.answer) == (rcode, [])
    assert response.ede == [(BLOCKED_CODE, "edge")]
    if rcode != REFUSED:
        check_soa(response, TTL)


def verdicts(scene: Scene, group: str, verdict: str, list_name: str) -> float:
    """How often a group's verdict was given because of a list."""
    return scene.service.metric("dnsfilter_verdicts_total", group=group, verdict=verdict, list=list_name)


@pytest.mark.parametrize(
    ("client", "group", "verdict", "list_name", "address"),
    [
        pytest.param(MANAGED, "managed", "blocked", "edge", HIT, id="blocked"),
        pytest.param(EXEMPT, "managed", "exempted", "edge", HIT, id="exempted"),
        pytest.param(OBSERVED, "observed", "observed", "edge", HIT, id="an observed group"),
        pytest.param(WATCHING, "watching", "observed", "watched", WATCHED, id="an observed list"),
    ],
)
def test_verdicts_are_counted_under_the_list(
    scene: Scene, client: str, group: str, verdict: str, list_name: str, address: str
) -> None:
    name = f"{group}.{verdict}.example"
    say(scene, name, [f"@ 300 IN A {address}"])
    scene.ask(name, source=client)
    before = verdicts(scene, group, verdict, list_name)
    assert scene.ask(name, source=client).addresses == (["0.0.0.0"] if verdict == "blocked" else [address])
    assert verdicts(scene, group, verdict, list_name) == before + 1


def test_an_exemption_from_the_name_s_list_does_not_lift_the_address_s(scene: Scene) -> None:
    say(scene, "banned.example", [f"@ 300 IN A {HIT}"])
    say(scene, "www.banned.example", [f"@ 300 IN A {MISS}"])
    check_sinkholed(scene.ask("banned.example", source=BOTH), TTL, "ban")
    check_sinkholed(scene.ask("www.banned.example", source=BOTH), TTL, "ban")
    check_sinkholed(scene.ask("banned.example", source=HALF), TTL, "edge")
    assert scene.ask("www.banned.example", source=HALF).addresses == [MISS]


def test_an_allowed_name_covers_its_addresses(scene: Scene) -> None:
    for name in ("allowed.example", "www.allowed.example", "other.example"):
        say(scene, name, [f"@ 300 IN A {HIT}"])
    assert scene.ask("allowed.example", source=ALLOWING).addresses == [HIT]
    assert scene.ask("www.allowed.example", source=ALLOWING).addresses == [HIT]
    check_sinkholed(scene.ask("other.example", source=ALLOWING), TTL, "edge")
    check_sinkholed(scene.ask("allowed.example"), TTL, "edge")


def test_names_answered_here_and_blocked_answers_of_our_own_are_not_judged(
    start: Start, upstreams: Callable[[], Upstream]
) -> None:
    config = {
        "upstreams": [where(upstreams().address)],
        "lists": {"all": {"addresses": ["127.0.0.0/8", "198.51.100.0/24"]}, "ban": {"domains": ["banned.example"]}},
        "groups": {"default": {"block": ["ban", "all"]}},
        "blocking": {"ipv4": "198.51.100.1"},
    }
    service = start(config)
    assert ask(service.dns, "localhost").addresses == ["127.0.0.1"]
    response = ask(service.dns, "banned.example", edns=Edns())
    assert (response.addresses, response.ede) == (["198.51.100.1"], [(BLOCKED_CODE, "ban")])


# The additional section


@pytest.mark.parametrize(
    ("rdtype", "answer", "extra"),
    [
        pytest.param("MX", "@ 300 IN MX 10 mx.test", f"mx.test 300 IN A {HIT}", id="the address of a mail server"),
        pytest.param("SRV", "@ 300 IN SRV 0 0 443 srv.test", f"srv.test 300 IN AAAA {HIT6}", id="of a service"),
        pytest.param("SVCB", "@ 300 IN SVCB 1 svc.test alpn=h2", f"svc.test 300 IN A {HIT}", id="of a target"),
        pytest.param(
            "SVCB", "@ 300 IN SVCB 0 svc.test", f"svc.test 300 IN SVCB 1 . ipv4hint={HIT}", id="a hint of a target"
        ),
    ],
)
def test_additional_records_in_the_range_are_cut_and_the_answer_stays(
    scene: Scene, request: pytest.FixtureRequest, rdtype: str, answer: str, extra: str
) -> None:
    name = name_of(request)
    first = f"first.test 300 IN A {MISS}"
    scene.upstream.on(
        name,
        lambda asked: reply(
            asked, answer.replace("@", name, 1), additional=[first, extra, "z.test 300 IN A 192.0.2.9"]
        ),
    )
    for _ in ("fresh", "cached"):
        managed, exempt = scene.ask(name, rdtype), scene.ask(name, rdtype, EXEMPT)
        assert is_real(managed, [answer])
        assert rdata_text(managed, ADDITIONAL, "A") == [MISS], "those behind it are cut with it"
        assert len(managed.section(ADDITIONAL)) == 1
        assert len(exempt.section(ADDITIONAL)) == 3


# Where answers come from


def test_answers_of_a_forward_zone_are_judged_too(start: Start, upstreams: Callable[[], Upstream]) -> None:
    public, intra = upstreams(), upstreams()
    intra.on("www.intra.example", f"www.intra.example 300 IN A {HIT}")
    config = configuration(public, forward=[{"zone": "intra.example", "upstreams": [where(intra.address)]}])
    service = start(config)
    check_sinkholed(ask(service.dns, "www.intra.example", source=MANAGED, edns=Edns()), TTL, "edge")
    assert ask(service.dns, "www.intra.example", source=UNMANAGED).addresses == [HIT]


def test_a_reload_judges_what_is_cached_anew(start: Start, upstreams: Callable[[], Upstream]) -> None:
    upstream = upstreams()
    upstream.on("www.example", f"www.example 300 IN A {HIT}")
    config = configuration(upstream)
    service = start(config | {"lists": {**config["lists"], "edge": {"addresses": ["198.51.100.0/24"]}}})
    assert ask(service.dns, "www.example", source=MANAGED).addresses == [HIT]
    for is_blocked, ranges in ((True, RANGES), (False, ["198.51.100.0/24"])):
        service.configure(config | {"lists": {**config["lists"], "edge": {"addresses": ranges}}})
        assert service.command("reload").returncode == 0
        assert ask(service.dns, "www.example", source=MANAGED).addresses == (["0.0.0.0"] if is_blocked else [HIT])
    assert len(upstream.queries("www.example")) == 1


def test_no_address_is_ever_learned_from_a_blocked_name(scene: Scene) -> None:
    """An edge of a delivery network serves the banned app and an unrelated shop alike."""
    edge = "198.51.100.88"
    chain = ["api.tiktok.example 300 IN CNAME api.edge.example", f"api.edge.example 300 IN A {edge}"]
    scene.upstream.on("api.tiktok.example", chain)
    scene.upstream.on("alias.example", ["alias.example 300 IN CNAME api.tiktok.example", *chain])
    say(scene, "shop.example", [f"@ 300 IN A {edge}"])
    for _ in range(3):
        assert scene.ask("api.tiktok.example", source=NAMED).addresses == ["0.0.0.0"]
        assert scene.ask("alias.example", source=NAMED).addresses == ["0.0.0.0"]
        assert scene.ask("shop.example", source=NAMED).addresses == [edge]
    assert scene.ask("api.edge.example", source=NAMED).addresses == [address_of("api.edge.example.")]


# What operators see


def explained(service: Service, *words: str) -> dict[str, Any]:
    """The first verdict that `explain` tells as JSON."""
    done = service.command("explain", *words, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["explained"][0]
    return found


def test_explain_live_names_the_address_that_decides(scene: Scene) -> None:
    say(
        scene, "explained.example", ["@ 300 IN CNAME cdn.test", f"cdn.test 300 IN A {MISS}", f"cdn.test 300 IN A {HIT}"]
    )
    found = explained(scene.service, "explained.example", "--client", MANAGED, "--live")
    assert (found["verdict"], found["list"]) == ("blocked", "edge")
    text = scene.service.command("explain", "explained.example", "--client", MANAGED, "--live").stdout
    assert "explained.example for client 127.6.0.1: BLOCKED" in text
    before_the_answer = text.partition("upstream answers:")[0]
    assert HIT in before_the_answer
    assert MISS not in before_the_answer
    offline = explained(scene.service, "explained.example", "--client", MANAGED)
    assert offline["verdict"] == "forwarded"
    assert explained(scene.service, "explained.example", "--client", EXEMPT, "--live")["verdict"] == "exempted"


@pytest.mark.parametrize(
    ("ranges", "says"),
    [
        pytest.param(["203.0.113.128/33"], "is not a network", id="no prefix length"),
        pytest.param(["203.0.113.130/25"], "bits set behind its prefix length", id="bits behind the prefix"),
        pytest.param(["www.example"], "is not a network", id="a name"),
    ],
)
def test_what_is_no_range_is_refused_with_its_line(tmp_path: Path, ranges: list[str], says: str) -> None:
    done = check(tmp_path, ranges)
    assert done[0] == 2
    assert says in done[1]
    assert "dnsfilter.yaml:" in done[1]


@pytest.mark.parametrize(
    ("ranges", "says"),
    [
        pytest.param(["104.16.0.0/20"], "Cloudflare", id="a delivery network's"),
        pytest.param(["10.0.0.0/7"], "33,554,432 addresses", id="a very broad one"),
        pytest.param(RANGES, None, id="neither"),
    ],
)
def test_check_warns_of_ranges_that_many_share(tmp_path: Path, ranges: list[str], says: str | None) -> None:
    status, output = check(tmp_path, ranges)
    assert status == 0
    assert ("addresses of" in output or " covers " in output) is (says is not None)
    assert says is None or says in output


def check(folder: Path, ranges: list[str]) -> tuple[int, str]:
    """Check a configuration with these ranges; return the exit status and all that was said."""
    path = folder / "dnsfilter.yaml"
    config = {
        "upstreams": ["192.0.2.53"],
        "state": str(folder / "state"),
        "lists": {"edge": {"addresses": ranges}},
        "groups": {"default": {"block": ["edge", "encrypted-dns"]}},
    }
    path.write_text(json.dumps(config))
    done = command("check", "-c", path)
    return done.returncode, done.stdout + done.stderr


# Rebinding: a public name that leads into the site


@dataclass(frozen=True, slots=True)
class Guarded:
    """A service with protection from rebinding, and who answers for what."""

    service: Service
    upstream: Upstream
    intra: Upstream

    def ask(self, name: str, rdtype: str = "A") -> Response:
        """Ask as a client of the default group."""
        return ask(self.service.dns, name, rdtype, edns=Edns())


def rebinding(upstream: Upstream, intra: Upstream, protection: str) -> dict[str, Any]:
    """A configuration with protection on or off."""
    return {
        "upstreams": [where(upstream.address)],
        "forward": [{"zone": "intra.example", "upstreams": [where(intra.address)]}],
        "resolve": {"rebind_protection": protection, "private_domains": ["corp.example"]},
        "lists": {"ban": {"domains": ["banned.example"]}},
        "groups": {"default": {"block": ["ban"]}},
    }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One service for all tests of protection from rebinding."""
    with Upstream() as upstream, Upstream() as intra:
        config = rebinding(upstream, intra, "on")
        with Service(tmp_path_factory.mktemp("rebinding"), config) as service:
            yield Guarded(service, upstream, intra)


PRIVATE = [
    *(
        pytest.param("A", f"A {text}", id=text)
        for text in ("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1")
    ),
    *(
        pytest.param("AAAA", f"AAAA {text}", id=text)
        for text in ("::", "::1", "fd00::1", "fe80::1", "::ffff:192.168.1.1", "64:ff9b::10.0.0.1")
    ),
    pytest.param("HTTPS", "HTTPS 1 . ipv4hint=192.168.1.1", id="a hint"),
    pytest.param("HTTPS", "HTTPS 1 . ipv6hint=fd00::1", id="an IPv6 hint"),
]


@pytest.mark.parametrize(("rdtype", "rdata"), PRIVATE)
def test_a_public_name_with_a_private_address_is_answered_like_a_blocked_one(
    guarded: Guarded, request: pytest.FixtureRequest, rdtype: str, rdata: str
) -> None:
    name = name_of(request)
    guarded.upstream.on(name, f"{name} 300 IN {rdata}")
    for _ in ("fresh", "cached"):
        check_sinkholed(guarded.ask(name, rdtype), TTL, "rebinding")
    assert len(guarded.upstream.queries(name)) == 1
    assert guarded.service.metric("dnsfilter_verdicts_total", verdict="blocked", list="rebinding") >= 2


@pytest.mark.parametrize(("rdtype", "rdata"), PRIVATE)
@pytest.mark.parametrize("zone", ["corp.example", "intra.example"], ids=["private_domains", "a forward zone"])
def test_names_of_the_site_s_own_may_have_private_addresses(
    guarded: Guarded, request: pytest.FixtureRequest, zone: str, rdtype: str, rdata: str
) -> None:
    name = name_of(request).replace("example", zone)
    (guarded.intra if zone == "intra.example" else guarded.upstream).on(name, f"{name} 300 IN {rdata}")
    response = guarded.ask(name, rdtype)
    assert len(response.answer) == 1
    assert response.answer[0].ttl == 300, "the upstream's record, not one of ours"
    assert not response.ede


def test_the_apex_of_a_private_domain_is_within_it_and_names_that_only_look_so_are_not(guarded: Guarded) -> None:
    for name in ("corp.example", "notcorp.example", "corp.example.other.example"):
        guarded.upstream.on(name, f"{name} 300 IN A 192.168.1.1")
    assert guarded.ask("CORP.example").addresses == ["192.168.1.1"]
    check_sinkholed(guarded.ask("notcorp.example"), TTL, "rebinding")
    check_sinkholed(guarded.ask("corp.example.other.example"), TTL, "rebinding")


def test_an_alias_is_judged_by_the_name_asked(guarded: Guarded) -> None:
    """A stranger's name that leads to a host of the site is what rebinding is, whatever it is called on the way."""
    guarded.upstream.on(
        "evil.example", ["evil.example 1 IN CNAME host.corp.example", "host.corp.example 1 IN A 192.168.1.1"]
    )
    guarded.upstream.on("www.corp.example", ["www.corp.example 300 IN CNAME cdn.test", "cdn.test 300 IN A 192.168.1.1"])
    check_sinkholed(guarded.ask("evil.example"), TTL, "rebinding")
    assert guarded.ask("www.corp.example").addresses == ["192.168.1.1"]


def test_public_addresses_names_answered_here_and_blocked_names_are_as_ever(guarded: Guarded) -> None:
    assert guarded.ask("ok.example").addresses == [address_of("ok.example")]
    assert guarded.ask("localhost").addresses == ["127.0.0.1"]
    check_sinkholed(guarded.ask("banned.example"), TTL, "ban")


def test_additional_records_with_private_addresses_are_cut(guarded: Guarded) -> None:
    guarded.upstream.on(
        "mail.example",
        lambda asked: reply(asked, "mail.example 300 IN MX 10 mx.test", additional=["mx.test 300 IN A 192.168.1.1"]),
    )
    response = guarded.ask("mail.example", "MX")
    assert rdata_text(response, 1, "MX") == ["10 mx.test."]
    assert not response.section(ADDITIONAL)


def test_without_protection_private_addresses_pass(start: Start, upstreams: Callable[[], Upstream]) -> None:
    upstream, intra = upstreams(), upstreams()
    upstream.on("home.example", "home.example 300 IN A 192.168.1.1")
    for config in (rebinding(upstream, intra, "off"), {"upstreams": [where(upstream.address)]}):
        assert ask(start(config).dns, "home.example").addresses == ["192.168.1.1"]


def test_explain_live_says_that_a_private_address_decided(guarded: Guarded) -> None:
    guarded.upstream.on("evil.explained.example", "evil.explained.example 300 IN A 192.168.1.7")
    found = explained(guarded.service, "evil.explained.example", "--client", "127.0.0.1", "--live")
    assert (found["verdict"], found["list"]) == ("blocked", "rebinding")
    text = guarded.service.command("explain", "evil.explained.example", "--client", "127.0.0.1", "--live").stdout
    assert "192.168.1.7" in text.partition("upstream answers:")[0]


def test_a_reload_without_the_ranges_opens_what_was_blocked_by_them(
    start: Start, upstreams: Callable[[], Upstream]
) -> None:
    """What is kept was looked up under a policy that is no longer in force."""
    upstream = upstreams()
    upstream.on("www.example", "www.example 300 IN A 203.0.113.200")

    def config(*blocked: str) -> dict[str, Any]:
        lists: dict[str, Any] = {"ban": {"domains": [LISTED]}, "edge": {"addresses": ["203.0.113.128/25"]}}
        named = {name: lists[name] for name in blocked}
        return policy(upstream, lists=named, groups={"default": {"block": list(blocked)}}, exemptions={})

    service = start(config("ban", "edge"))
    assert ask(service.dns, "www.example").addresses == ["0.0.0.0"]
    service.configure(config("ban"))
    service.command("reload")
    assert ask(service.dns, "www.example").addresses == ["203.0.113.200"]
