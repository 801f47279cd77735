"""The decision, end to end: who is asking, what wins over what, and the answer's octets in each style."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.scenarios.client import (
    ADDITIONAL,
    NOERROR,
    NXDOMAIN,
    REFUSED,
    SERVFAIL,
    Address,
    Edns,
    Response,
    ask,
    exchange,
    query,
)
from tests.scenarios.conftest import Start
from tests.scenarios.expect import (
    BLOCKED_CODE,
    LISTED,
    check_sinkholed,
    check_soa,
    exemption,
    is_blocked,
    policy,
    where,
)
from tests.scenarios.service import Service
from tests.scenarios.upstream import SILENCE, Upstream, address_of, reply

# One client for each group
WIDE, NARROW, ONE, NOBODY = "127.1.0.1", "127.1.2.1", "127.1.2.3", "127.0.0.1"
ALLOWING, ONLY, OBSERVED, WATCHING, WATCHED_ONLY = "127.2.0.1", "127.2.1.1", "127.2.2.1", "127.2.3.1", "127.2.4.1"
SINKHOLE, NODATA_STYLE, NXDOMAIN_STYLE, REFUSED_STYLE = "127.3.0.1", "127.3.1.1", "127.3.2.1", "127.3.3.1"
ADS_FIRST, MORE_FIRST, SET = "127.4.0.1", "127.4.1.1", "127.4.2.1"
PAST, FUTURE, NOW, BOTH, HALF, SOON, ENDS = (f"127.5.{number}.1" for number in range(1, 8))
TTL = 240  # of blocked answers; the upstream's are 300
INTERVAL_S = 180  # until SOON's exemption starts and ENDS's ends: less than both


@dataclass(frozen=True, slots=True)
class Scene:
    """The service, and who answers for what."""

    service: Service
    upstream: Upstream
    intra: Upstream  # the zone intra.example, and names answered here otherwise
    deep: Upstream  # the zone deep.intra.example
    started: float  # seconds since the epoch

    @property
    def server(self) -> Address:
        """The DNS address."""
        return self.service.dns


def local_time(wall: float) -> str:
    """A moment as the configuration has it, in UTC."""
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def group(network: str, *block: str, **more: Any) -> dict[str, Any]:
    """A group of one network."""
    return {"networks": [network], "block": list(block), **more}


def configuration(upstream: Upstream, intra: Upstream, deep: Upstream, wall: float) -> dict[str, Any]:
    """Every group of this module, each with a network of its own."""
    return {
        "upstreams": [where(upstream.address)],
        "forward": [
            {"zone": "intra.example", "upstreams": [where(intra.address)]},
            {"zone": "deep.intra.example", "upstreams": [where(deep.address)]},
            {"zone": "corp.test", "upstreams": [where(intra.address)]},
            {"zone": "10.in-addr.arpa", "upstreams": [where(intra.address)]},
        ],
        "resolve": {"timeout": "0.5s", "deadline": "1s"},
        "blocking": {"ttl": TTL},
        "lists": {
            "ban": {"domains": ["banned.example", "listed.invalid", "banned.intra.example"]},
            "ads": {"domains": ["ads.example", "both.example"]},
            "more": {"domains": ["more.example", "both.example"]},
            "watched": {"domains": ["watched.example", "both.example"], "mode": "observe"},
            "press": {"domains": ["press.example"]},
            "good": {"domains": ["good.banned.example", "use-application-dns.net"]},
            "over": {"domains": ["gov.example", "www.gov.example", "city.example", "rightly.example"]},
            "all": {"lists": ["ban", "ads"]},
        },
        "protected": ["gov.example", "www.city.example"],
        "groups": {
            "wide": group("127.1.0.0/16", "ban", "over"),
            "one": group("127.1.2.3"),
            "narrow": group("127.1.2.0/24", "ads"),
            "allowing": group("127.2.0.0/24", "ban", "ads", allow=["press.banned.example", "good"]),
            "only": group("127.2.1.0/24", "ban", only=["press"]),
            "observed": group("127.2.2.0/24", "ban", mode="observe"),
            "watching": group("127.2.3.0/24", "watched", "ban"),
            "watched-only": group("127.2.4.0/24", "watched"),
            "sinkhole": group("127.3.0.0/24", "ban", answer="sinkhole"),
            "nodata": group("127.3.1.0/24", "ban", answer="nodata"),
            "nxdomain": group("127.3.2.0/24", "ban", answer="nxdomain"),
            "refused": group("127.3.3.0/24", "ban", answer="refused"),
            "ads-first": group("127.4.0.0/24", "ads", "more"),
            "more-first": group("127.4.1.0/24", "more", "ads"),
            "set": group("127.4.2.0/24", "all"),
            "exempt": group("127.5.0.0/16", "ban", "ads", "more"),
            "default": {"block": ["more"]},
        },
        "exemptions": {
            "regime": "registered",
            "entries": [
                exemption("PAST", ["127.5.1.0/24"], ["ban"], end="2024-05-08"),
                exemption("FUTURE", ["127.5.2.0/24"], ["ban"], start="2090-01-01"),
                exemption("NOW", ["127.5.3.0/24"], ["ban"]),
                exemption("BOTH-1", ["127.5.4.0/24"], ["ads"]),
                exemption("BOTH-2", ["127.5.4.0/25"], ["more"]),
                exemption("HALF", ["127.5.5.0/24"], ["ads"]),
                exemption("SOON", ["127.5.6.0/24"], ["ban"], start=local_time(wall + INTERVAL_S)),
                exemption("ENDS", ["127.5.7.0/24"], ["ban"], end=local_time(wall + INTERVAL_S)),
            ],
        },
        "timezone": "UTC",
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One service for all decisions."""
    with Upstream() as upstream, Upstream() as intra, Upstream() as deep:
        wall = float(int(time.time()))
        config = configuration(upstream, intra, deep, wall)
        with Service(tmp_path_factory.mktemp("decision"), config) as service:
            yield Scene(service, upstream, intra, deep, wall)


def verdicts(scene: Scene, group: str, verdict: str, list_name: str = "") -> float:
    """How often a group's verdict was given because of a list."""
    return scene.service.metric("dnsfilter_verdicts_total", group=group, verdict=verdict, list=list_name)


# 1. Who may not ask


def test_a_client_outside_access_is_refused(start: Start, upstreams: Callable[[], Upstream]) -> None:
    """RFC 8914 and RFC 1035: REFUSED for any name, listed, local, cached or not; nothing goes upstream."""
    upstream = upstreams()
    config = policy(upstream, access=["127.6.0.0/16"])
    config["groups"]["managed"]["networks"] = ["127.6.1.0/24"]
    config["exemptions"]["entries"] = []
    service = start(config)
    check_sinkholed(ask(service.dns, "banned.example", "A", source="127.6.1.1"))
    assert ask(service.dns, "ok.example", "A", source="127.6.2.1").addresses == [address_of("ok.example")]
    seen = len(upstream.queries())
    for stranger in ("127.0.0.1", "127.7.0.1"):
        for name in ("banned.example", "ok.example", "new.example", "localhost", "use-application-dns.net"):
            for tcp in (False, True):
                response = ask(service.dns, name, "A", source=stranger, tcp=tcp, edns=Edns())
                assert response.rcode == REFUSED
                assert not response.section(1)
                assert not response.section(2)
                assert not response.section(ADDITIONAL)
    assert len(upstream.queries()) == seen


# 2. The client's group


@pytest.mark.parametrize(
    ("client", "blocked"),
    [
        pytest.param(WIDE, "banned.example", id="the only prefix"),
        pytest.param(NARROW, "ads.example", id="the longer of two prefixes"),
        pytest.param(ONE, None, id="the longest of three, which blocks nothing"),
        pytest.param("127.1.2.2", "ads.example", id="the address before it"),
        pytest.param("127.1.2.4", "ads.example", id="the address after it"),
        pytest.param("127.1.1.255", "banned.example", id="the last before the longer prefix"),
        pytest.param("127.1.3.0", "banned.example", id="the first after the longer prefix"),
        pytest.param(NOBODY, "more.example", id="no network: default"),
    ],
)
def test_the_longest_prefix_decides_whatever_the_order_in_the_file(
    scene: Scene, client: str, blocked: str | None
) -> None:
    for name in ("banned.example", "ads.example", "more.example"):
        assert is_blocked(scene.server, name, client) is (name == blocked), name


# 3. Names answered here

ABSENT = [
    *("invalid", "www.invalid", "test", "www.test", "onion", "abcdef.onion", "alt", "x.alt", "local", "printer.local"),
    *("home.arpa", "nas.home.arpa", "1.0.0.127.in-addr.arpa", "5.1.168.192.in-addr.arpa", "1.0.16.172.in-addr.arpa"),
    *("1.254.169.in-addr.arpa", "1.2.0.192.in-addr.arpa", "d.f.ip6.arpa", "b.8.e.f.ip6.arpa"),
]


@pytest.mark.parametrize("name", ABSENT)
def test_special_names_do_not_exist_and_are_asked_of_nobody(scene: Scene, name: str) -> None:
    """RFC 6761, 7686, 9476, 6762, 8375, 6303: NXDOMAIN with a SOA, for every client."""
    for client in (WIDE, ONE, NOBODY):
        for rdtype in ("A", "PTR", "NS"):
            response = ask(scene.server, name, rdtype, source=client)
            assert response.rcode == NXDOMAIN
            assert response.soa is not None
            assert not response.answer
    assert not scene.upstream.queries(name)
    assert not scene.intra.queries(name)


@pytest.mark.parametrize("name", ["localhost", "below.localhost", "LocalHost"])
def test_localhost_has_its_addresses(scene: Scene, name: str) -> None:
    """RFC 6761 6.3."""
    assert ask(scene.server, name, "A", source=WIDE).addresses == ["127.0.0.1"]
    assert ask(scene.server, name, "AAAA", source=WIDE).addresses == ["::1"]
    other = ask(scene.server, name, "MX", source=WIDE)
    assert (other.rcode, other.answer) == (NOERROR, [])
    assert other.soa is not None
    assert not scene.upstream.queries(name)


@pytest.mark.parametrize("name", ["resolver.arpa", "_dns.resolver.arpa", "x._dns.resolver.arpa"])
@pytest.mark.parametrize("rdtype", ["SVCB", "A", "HTTPS"])
def test_resolver_discovery_finds_nothing_and_is_never_forwarded(scene: Scene, name: str, rdtype: str) -> None:
    """RFC 9462 6.4: NODATA, so that no device learns of an encrypted resolver behind the filter."""
    for client in (WIDE, ONE, NOBODY):
        response = ask(scene.server, name, rdtype, source=client)
        assert (response.rcode, response.answer) == (NOERROR, [])
        assert response.soa is not None
    assert not scene.upstream.queries(name)


def test_the_zone_example_is_ordinary(scene: Scene) -> None:
    for name in ("ordinary.example", "example"):
        assert ask(scene.server, name, "A", source=WIDE).addresses == [address_of(name)]


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [
        pytest.param("corp.test", "A", id="at the zone"),
        pytest.param("host.corp.test", "A", id="below it"),
        pytest.param("5.0.0.10.in-addr.arpa", "PTR", id="a private reverse zone"),
    ],
)
def test_a_forward_zone_comes_before_names_answered_here(scene: Scene, name: str, rdtype: str) -> None:
    scene.intra.on(name, f"{name} 300 IN {rdtype} {'192.0.2.1' if rdtype == 'A' else 'host.corp.test'}")
    assert len(ask(scene.server, name, rdtype, source=WIDE).answer) == 1
    assert scene.intra.queries(name)
    assert not scene.upstream.queries(name)


@pytest.mark.parametrize("name", ["test", "other.test", "xcorp.test"])
def test_beside_a_forward_zone_names_are_still_answered_here(scene: Scene, name: str) -> None:
    assert ask(scene.server, name, "A", source=WIDE).rcode == NXDOMAIN
    assert not scene.intra.queries(name)


def test_a_local_name_is_local_although_a_list_names_it(scene: Scene) -> None:
    response = ask(scene.server, "listed.invalid", "A", source=WIDE, edns=Edns())
    assert response.rcode == NXDOMAIN
    assert BLOCKED_CODE not in dict(response.ede)


# 4. Allow


def alias(scene: Scene, name: str, *targets: str, ttl: int = 300) -> str:
    """Make the name an alias of the first target, that of the next, and the last an address."""
    names = [name, *targets]
    chain = [f"{a} {ttl} IN CNAME {b}" for a, b in zip(names, targets, strict=False)]
    scene.upstream.on(name, [*chain, f"{names[-1]} {ttl} IN A 192.0.2.7"])
    return name


@pytest.mark.parametrize("name", ["press.banned.example", "www.press.banned.example", "PRESS.banned.example"])
def test_an_allowed_name_wins_over_a_block_and_covers_the_whole_chain(scene: Scene, name: str) -> None:
    alias(scene, name, "edge.banned.example", "ads.example")
    for _ in range(2):
        assert ask(scene.server, name, "A", source=ALLOWING).addresses == ["192.0.2.7"]
        assert is_blocked(scene.server, name, WIDE)


def test_an_allow_does_not_reach_further(scene: Scene) -> None:
    """Neither above it nor beside it, nor other groups."""
    for name in ("banned.example", "xpress.banned.example", "edge.banned.example"):
        assert is_blocked(scene.server, name, ALLOWING)


def test_a_name_that_an_allowed_list_names_is_allowed(scene: Scene) -> None:
    """A word without a dot is a list."""
    name = "good.banned.example"
    assert ask(scene.server, name, "A", source=ALLOWING).addresses == [address_of(name)]
    assert is_blocked(scene.server, name, WIDE)


def test_a_blocked_alias_of_an_allowed_name_stays_blocked(scene: Scene) -> None:
    """The name asked decides: an alias that leads on to a banned name is no way round."""
    name = alias(scene, "not-allowed.example", "edge.banned.example")
    assert is_blocked(scene.server, name, ALLOWING)


def test_allowed_answers_are_counted_so(scene: Scene) -> None:
    before = scene.service.metric("dnsfilter_verdicts_total", group="allowing", verdict="allowed")
    ask(scene.server, "press.banned.example", "A", source=ALLOWING)
    assert scene.service.metric("dnsfilter_verdicts_total", group="allowing", verdict="allowed") == before + 1


# 5. Blocks


@pytest.mark.parametrize(
    ("client", "first"), [pytest.param(ADS_FIRST, "ads", id="ads"), pytest.param(MORE_FIRST, "more", id="more")]
)
def test_of_several_lists_the_first_in_the_groups_order_is_named(scene: Scene, client: str, first: str) -> None:
    """In the extended error, for want of a text, and in the metrics."""
    group = {"ads": "ads-first", "more": "more-first"}[first]
    before = verdicts(scene, group, "blocked", first)
    response = ask(scene.server, "both.example", "A", source=client, edns=Edns())
    check_sinkholed(response, TTL, first)
    assert verdicts(scene, group, "blocked", first) == before + 1


def test_a_set_blocks_what_its_lists_name(scene: Scene) -> None:
    check_sinkholed(ask(scene.server, "banned.example", "A", source=SET, edns=Edns()), TTL, "ban")
    check_sinkholed(ask(scene.server, "ads.example", "A", source=SET, edns=Edns()), TTL, "ads")
    assert not is_blocked(scene.server, "more.example", SET)


@pytest.mark.parametrize(
    ("name", "blocked"),
    [
        pytest.param("press.example", False, id="the name itself"),
        pytest.param("www.press.example", False, id="below it"),
        pytest.param("ordinary.example", True, id="any other name"),
        pytest.param("xpress.example", True, id="same ending"),
        pytest.param("banned.example", True, id="a blocked name"),
        pytest.param("com", True, id="a top-level domain"),
        pytest.param(".", True, id="the root"),
    ],
)
def test_only_blocks_what_its_lists_do_not_name(scene: Scene, name: str, blocked: bool) -> None:
    assert is_blocked(scene.server, name, ONLY) is blocked


def test_local_names_need_no_place_in_only(scene: Scene) -> None:
    assert ask(scene.server, "localhost", "A", source=ONLY).addresses == ["127.0.0.1"]


@pytest.mark.parametrize(
    "name", ["gov.example", "x.gov.example", "www.gov.example", "city.example", "www.city.example"]
)
def test_no_list_blocks_a_protected_name(scene: Scene, name: str) -> None:
    """The names, names below them, and the suffixes above them."""
    assert ask(scene.server, name, "A", source=WIDE).addresses == [address_of(name)]


def test_a_list_with_protected_names_blocks_its_others(scene: Scene) -> None:
    assert is_blocked(scene.server, "rightly.example", WIDE)


CANARIES = ["use-application-dns.net", "mask.icloud.com", "mask-h2.icloud.com", "x.use-application-dns.net"]


@pytest.mark.parametrize("name", CANARIES)
@pytest.mark.parametrize(
    "client",
    [
        pytest.param(WIDE, id="enforced"),
        pytest.param(WATCHING, id="one list of two enforced"),
        pytest.param(ONLY, id="only"),
        pytest.param(SINKHOLE, id="sinkhole"),
        pytest.param(NODATA_STYLE, id="nodata"),
        pytest.param(NXDOMAIN_STYLE, id="nxdomain"),
        pytest.param(REFUSED_STYLE, id="refused"),
        pytest.param(NOW, id="exempted"),
    ],
)
def test_canaries_do_not_exist_for_who_is_managed(scene: Scene, name: str, client: str) -> None:
    """Whatever the style, and no exemption lifts them: a browser keeps to its network's resolver."""
    for rdtype in ("A", "AAAA", "HTTPS"):
        response = ask(scene.server, name, rdtype, source=client, edns=Edns())
        assert response.rcode == NXDOMAIN
        check_soa(response, TTL)
        assert [code for code, _ in response.ede] == [BLOCKED_CODE]
    assert not [asked for asked in scene.upstream.queries(name) if asked.rdtype != 1]


@pytest.mark.parametrize(
    ("name", "client"),
    [
        pytest.param("use-application-dns.net", ONE, id="a group that blocks nothing"),
        pytest.param("mask.icloud.com", OBSERVED, id="an observed group"),
        pytest.param("mask-h2.icloud.com", WATCHED_ONLY, id="a group with observed lists only"),
        pytest.param("use-application-dns.net", ALLOWING, id="an allow name"),
        pytest.param("icloud.com", WIDE, id="the name above a canary"),
        pytest.param("xmask.icloud.com", WIDE, id="the name beside a canary"),
    ],
)
def test_canaries_are_forwarded_for_others(scene: Scene, name: str, client: str) -> None:
    assert ask(scene.server, name, "A", source=client).addresses == [address_of(name)]


# 6. Exemptions


@pytest.mark.parametrize(
    ("client", "blocked"),
    [
        pytest.param(PAST, True, id="after its end"),
        pytest.param(FUTURE, True, id="before its start"),
        pytest.param(NOW, False, id="in force"),
        pytest.param(SOON, True, id="shortly before its start"),
        pytest.param(ENDS, False, id="shortly before its end"),
        pytest.param("127.5.0.1", True, id="no exemption"),
    ],
)
def test_an_exemption_lifts_blocks_of_its_lists_while_in_force(scene: Scene, client: str, blocked: bool) -> None:
    """Of its lists only, and along the chain too."""
    assert time.time() < scene.started + INTERVAL_S - 2, "too late to tell"
    name = alias(scene, f"chain-{client.split('.')[2]}.example", "edge.banned.example")
    for _ in range(2):
        assert is_blocked(scene.server, "banned.example", client) is blocked
        assert is_blocked(scene.server, name, client) is blocked
        assert is_blocked(scene.server, "ads.example", client)


@pytest.mark.parametrize(
    ("client", "blocked"), [pytest.param(BOTH, False, id="both lifted"), pytest.param(HALF, True, id="one of two")]
)
def test_exemptions_lift_together(scene: Scene, client: str, blocked: bool) -> None:
    """A name that two lists name is free only where both are lifted."""
    assert is_blocked(scene.server, "both.example", client) is blocked
    assert not is_blocked(scene.server, "ads.example", client)


def test_an_exemption_that_lifts_nothing_is_not_counted(scene: Scene) -> None:
    """Exempted only where something was lifted; else forwarded."""

    def counted(verdict: str) -> float:
        return scene.service.metric("dnsfilter_verdicts_total", group="exempt", verdict=verdict)

    exempted, forwarded = counted("exempted"), counted("forwarded")
    ask(scene.server, "ordinary.example", "A", source=NOW)
    assert (counted("exempted"), counted("forwarded")) == (exempted, forwarded + 1)
    ask(scene.server, "banned.example", "A", source=NOW)
    assert (counted("exempted"), counted("forwarded")) == (exempted + 1, forwarded + 1)
    name = alias(scene, "lifted-chain.example", "edge.banned.example")
    ask(scene.server, name, "A", source=NOW)
    assert (counted("exempted"), counted("forwarded")) == (exempted + 2, forwarded + 1)


def remaining(scene: Scene) -> float:
    """Seconds until SOON starts and ENDS ends."""
    return scene.started + INTERVAL_S - time.time()


@pytest.mark.parametrize(
    ("client", "rdtype"), [(SOON, "A"), (SOON, "AAAA"), (SOON, "TXT"), (ENDS, "A"), (ENDS, "AAAA"), (ENDS, "TXT")]
)
def test_no_ttl_outlives_the_next_start_or_end_of_an_exemption(scene: Scene, client: str, rdtype: str) -> None:
    """Blocked answers before a start, real ones before an end, negative ones too, fresh and cached."""
    left = remaining(scene)
    assert left > 2, "too late to tell"
    for _ in range(2):
        response = ask(scene.server, "banned.example", rdtype, source=client, edns=Edns())
        ttls = [record.ttl for record in response.records if record.rdtype != 41]
        assert ttls
        assert all(1 <= ttl <= left for ttl in ttls)
        assert max(ttls) >= left - 5


def test_a_real_answer_along_a_chain_is_cut_too(scene: Scene) -> None:
    left = remaining(scene)
    assert left > 2, "too late to tell"
    name = alias(scene, "cut-chain.example", "edge.banned.example")
    for _ in range(2):
        assert all(1 <= record.ttl <= left for record in ask(scene.server, name, "A", source=ENDS).answer)
    assert all(record.ttl <= left for record in ask(scene.server, name, "A", source=SOON).answer)


def test_ttls_that_no_exemption_touches_are_not_cut(scene: Scene) -> None:
    """Other names of the same client, other clients of the same name."""
    assert ask(scene.server, "uncut.example", "A", source=ENDS).answer[0].ttl == 300
    assert ask(scene.server, "ads.example", "A", source=ENDS).answer[0].ttl == TTL
    assert ask(scene.server, "fresh.banned.example", "A", source=ONE).answer[0].ttl == 300
    assert ask(scene.server, "banned.example", "A", source=WIDE).answer[0].ttl == TTL


def test_an_exemption_starts_and_ends_by_itself(start: Start, upstreams: Callable[[], Upstream]) -> None:
    """Nothing is reloaded; no answer, blocked or real, may be kept by the device beyond either moment."""
    upstream = upstreams()
    wall = float(int(time.time()))
    begin, end = wall + 4, wall + 5
    config = policy(upstream)
    config["exemptions"]["entries"] = [
        exemption("BRIEF", ["127.0.1.0/24"], ["ban"], start=local_time(begin), end=local_time(end))
    ]
    upstream.on("alias.example", [f"alias.example 300 IN CNAME {LISTED}", f"{LISTED} 300 IN A 192.0.2.7"])
    service = start(config)
    assert time.time() < begin - 0.5, "too late to tell"
    phases = []
    while time.time() < end + 0.5:
        for name in (LISTED, "alias.example"):  # cached from the second time on
            before = time.time()
            response = ask(service.dns, name, "A", source="127.0.1.1")
            after = time.time()
            ttl = response.answer[0].ttl
            blocked = response.addresses == ["0.0.0.0"]
            if after < begin or before >= end:
                assert blocked
                assert ttl <= (max(1, begin - before) if after < begin else 60)
            elif before >= begin and after < end:
                assert not blocked
                assert all(record.ttl <= max(1, end - before) for record in response.answer)
            phases.append(blocked)
        time.sleep(0.1)
    changes = [phases[0]] + [now for then, now in pairwise(phases) if now != then]
    assert changes == [True, False, True]


# 7. Observed, and where questions go


@pytest.mark.parametrize(
    ("client", "name", "list_name"),
    [
        pytest.param(OBSERVED, "banned.example", "ban", id="an observed group"),
        pytest.param(WATCHING, "watched.example", "watched", id="an observed list"),
        pytest.param(WATCHED_ONLY, "x.watched.example", "watched", id="a group with observed lists only"),
    ],
)
def test_an_observed_hit_is_forwarded_and_counted(scene: Scene, client: str, name: str, list_name: str) -> None:
    """Also where the chain leads to it."""
    group = {OBSERVED: "observed", WATCHING: "watching", WATCHED_ONLY: "watched-only"}[client]
    chained = alias(scene, f"observed-{group}.example", name)
    before = verdicts(scene, group, "observed", list_name)
    assert ask(scene.server, name, "A", source=client).addresses == [address_of(name)]
    assert ask(scene.server, chained, "A", source=client).addresses == ["192.0.2.7"]
    assert verdicts(scene, group, "observed", list_name) == before + 2


def test_an_observed_list_does_not_hide_an_enforced_one(scene: Scene) -> None:
    check_sinkholed(ask(scene.server, "banned.example", "A", source=WATCHING, edns=Edns()), TTL, "ban")


def test_questions_go_to_the_longest_matching_zones_upstreams_and_no_others(scene: Scene) -> None:
    for name, there in {
        "intra.example": scene.intra,
        "a.intra.example": scene.intra,
        "deep.intra.example": scene.deep,
        "a.b.deep.intra.example": scene.deep,
        "xintra.example": scene.upstream,
        "xdeep.intra.example": scene.intra,
    }.items():
        assert ask(scene.server, name, "A", source=WIDE).addresses == [address_of(name)]
        for each in (scene.upstream, scene.intra, scene.deep):
            assert len(each.queries(name)) == (1 if each is there else 0), name


def test_a_zone_whose_upstream_is_silent_fails_and_nobody_else_is_asked(scene: Scene) -> None:
    name = "unanswered.deep.intra.example"
    scene.deep.on(name, SILENCE)
    assert ask(scene.server, name, "A", source=WIDE).rcode == SERVFAIL
    assert not scene.upstream.queries(name)
    assert not scene.intra.queries(name)


def test_a_block_holds_in_a_forward_zone(scene: Scene) -> None:
    check_sinkholed(ask(scene.server, "banned.intra.example", "A", source=WIDE, edns=Edns()), TTL, "ban")
    assert not scene.intra.queries("banned.intra.example")


def test_verdicts_of_all_kinds_are_counted_once_a_query(scene: Scene) -> None:
    def total() -> float:
        return scene.service.metric("dnsfilter_verdicts_total")

    before = total()
    names = ["ordinary.example", "banned.example", "localhost", "watched.example", "both.example"]
    for name in names:
        for client in (WIDE, NOW, WATCHING):
            ask(scene.server, name, "A", source=client)
    assert total() == before + 15


# Answers, octet for octet

ASKED = "BanNed.Example"
QNAME = "0642616e4e6564 074578616d706c65 00"
SOA_RDATA = (
    "09646e7366696c746572 07696e76616c6964 00"  # dnsfilter.invalid.
    "066e6f626f6479 07696e76616c6964 00"  # nobody.invalid.
    "00000001 00000e10 00000258 00015180 000000f0"  # 1 3600 600 86400 240
)
SOA = "c00c 0006 0001 000000f0 0037" + SOA_RDATA
OPT = "00 0029 04d0 00 00 8000 0009 000f 0005 000f 62616e"  # size 1232, DO, EDE 15 "ban"
ZERO = "c00c 0001 0001 000000f0 0004 00000000"
ZERO6 = "c00c 001c 0001 000000f0 0010" + "00" * 16

GOLDEN = [
    pytest.param(SINKHOLE, "A", "8180 0001 0001 0000", ZERO, id="sinkhole A"),
    pytest.param(SINKHOLE, "AAAA", "8180 0001 0001 0000", ZERO6, id="sinkhole AAAA"),
    pytest.param(SINKHOLE, "HTTPS", "8180 0001 0000 0001", SOA, id="sinkhole HTTPS"),
    pytest.param(NODATA_STYLE, "A", "8180 0001 0000 0001", SOA, id="nodata A"),
    pytest.param(NODATA_STYLE, "AAAA", "8180 0001 0000 0001", SOA, id="nodata AAAA"),
    pytest.param(NODATA_STYLE, "HTTPS", "8180 0001 0000 0001", SOA, id="nodata HTTPS"),
    pytest.param(NXDOMAIN_STYLE, "A", "8183 0001 0000 0001", SOA, id="nxdomain A"),
    pytest.param(NXDOMAIN_STYLE, "AAAA", "8183 0001 0000 0001", SOA, id="nxdomain AAAA"),
    pytest.param(NXDOMAIN_STYLE, "HTTPS", "8183 0001 0000 0001", SOA, id="nxdomain HTTPS"),
    pytest.param(REFUSED_STYLE, "A", "8185 0001 0000 0000", "", id="refused A"),
    pytest.param(REFUSED_STYLE, "AAAA", "8185 0001 0000 0000", "", id="refused AAAA"),
    pytest.param(REFUSED_STYLE, "HTTPS", "8185 0001 0000 0000", "", id="refused HTTPS"),
]


@pytest.mark.parametrize(("client", "rdtype", "header", "records"), GOLDEN)
@pytest.mark.parametrize("edns", [pytest.param(None, id="no OPT"), pytest.param(Edns(do=True), id="OPT and DO")])
@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
def test_each_style_to_the_octet(
    scene: Scene, client: str, rdtype: str, header: str, records: str, edns: Edns | None, tcp: bool
) -> None:
    """The id and spelling asked, RA, no AA, the SOA's owner the qname, OPT last with EDE 15 and the list's name."""
    sent = query(ASKED, rdtype, ident=0x1234, edns=edns)
    type_and_class = sent[12 + len(bytes.fromhex(QNAME)) :][:4].hex()
    additional, opt = ("0000", "") if edns is None else ("0001", OPT)
    expected = bytes.fromhex("1234" + header + additional + QNAME + type_and_class + records + opt)
    assert exchange(scene.server, sent, source=client, tcp=tcp) == expected


@pytest.mark.parametrize("client", [SINKHOLE, NODATA_STYLE, NXDOMAIN_STYLE, REFUSED_STYLE])
@pytest.mark.parametrize("rdtype", ["A", "AAAA", "HTTPS", "CNAME", "TXT"])
def test_a_name_blocked_through_its_chain_gets_the_same_answer(scene: Scene, client: str, rdtype: str) -> None:
    """As the listed name itself, but for the name: same rcode, records, TTLs and EDE; fresh and cached."""
    name = "BanNed.Through.Example"
    lower = name.lower()
    scene.upstream.on(lower, lambda asked: reply(asked, f"{lower} 300 IN CNAME edge.banned.example"))
    direct = exchange(scene.server, query(ASKED, rdtype, ident=7, edns=Edns(do=True)), source=client)
    assert direct is not None
    for _ in range(2):
        chained = exchange(scene.server, query(name, rdtype, ident=7, edns=Edns(do=True)), source=client)
        assert chained is not None
        end = 12 + len(bytes.fromhex(QNAME))
        assert chained[:12] == direct[:12]
        assert chained[12 + len(name) + 2 :] == direct[end:]


@pytest.mark.parametrize("client", [SINKHOLE, NODATA_STYLE, NXDOMAIN_STYLE, REFUSED_STYLE])
@pytest.mark.parametrize("rd", [True, False])
@pytest.mark.parametrize("cd", [True, False])
def test_rd_and_cd_come_back_as_asked(scene: Scene, client: str, rd: bool, cd: bool) -> None:
    response = ask(scene.server, ASKED, "A", source=client, rd=rd, flags=0x0010 if cd else 0)
    assert response.flags & 0x0110 == (0x0100 if rd else 0) | (0x0010 if cd else 0)
    assert response.flags & 0x0080


def both_families(service: Service) -> tuple[Response, Response]:
    """The answers to A and AAAA."""
    first, second = (
        ask(service.dns, "banned.example", kind, source="127.0.1.1", edns=Edns()) for kind in ("A", "AAAA")
    )
    return first, second


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "addresses", "ttl"),
    [
        pytest.param("192.0.2.80", "2001:db8::80", (["192.0.2.80"], ["2001:db8::80"]), 3600, id="both families"),
        pytest.param("192.0.2.80", "off", (["192.0.2.80"], []), 1, id="IPv4 only"),
        pytest.param("off", "2001:db8::80", ([], ["2001:db8::80"]), 60, id="IPv6 only"),
    ],
)
def test_a_family_without_an_address_is_nodata(
    start: Start,
    upstreams: Callable[[], Upstream],
    ipv4: str,
    ipv6: str,
    addresses: tuple[list[str], list[str]],
    ttl: int,
) -> None:
    """NOERROR without an answer and with a SOA, never NXDOMAIN beside an address (RFC 4074); nothing upstream."""
    upstream = upstreams()
    text = "é" * 100  # 200 octets
    service = start(policy(upstream, blocking={"ipv4": ipv4, "ipv6": ipv6, "ttl": ttl, "text": text}))
    for response, expected in zip(both_families(service), addresses, strict=True):
        assert response.rcode == NOERROR
        assert response.addresses == expected
        assert response.lowest_ttl == ttl
        if not expected:
            check_soa(response, ttl)
        assert response.ede == [(BLOCKED_CODE, "é" * 32)]  # cut at 64 octets
    assert not upstream.queries()
