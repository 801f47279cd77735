"""What holds of upstreams holds in every way of asking them: each strategy, and the short way of plain questions.

Two upstreams that say the same. Under `strict` the questions for addresses here go the short way, as nothing has
failed before; under the others none does.
"""

import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from tests.scenarios.client import (
    AA,
    AD,
    CD,
    COOKIE,
    ECS,
    FORMERR,
    KEEPALIVE,
    NOERROR,
    NOTIMP,
    NSID,
    QR,
    RA,
    SERVFAIL,
    TC,
    Address,
    Edns,
    UdpClient,
    ask,
    check_echo,
    exchange,
    query,
    read,
)
from tests.scenarios.conftest import Start
from tests.scenarios.encrypted import Encrypted, Transport
from tests.scenarios.expect import EXEMPT, LISTED, MANAGED, UNMANAGED, check_clean, check_sinkholed, policy, where
from tests.scenarios.service import Service
from tests.scenarios.test_upstreams import BROKEN, BROKEN_TCP, NOT_BELIEVED, RIGHT, framed, over_tcp, typed
from tests.scenarios.upstream import (
    SILENCE,
    Action,
    Asked,
    Close,
    Handler,
    Raw,
    Said,
    Send,
    Upstream,
    address_for,
    address_of,
    default,
    heavy_names,
    reply,
    truncated,
)
from tests.upstream.doh_server import Certificates

STRATEGIES = ("strict", "load_balance", "parallel")
LIES = [cast(Callable[[Asked], list[Action]], cast(Any, each).values[0]) for each in NOT_BELIEVED]
NewUpstream = Callable[[], Upstream]


@dataclass
class Site:
    """A service with its two upstreams."""

    service: Service
    upstreams: tuple[Upstream, Upstream]
    strategy: str

    @property
    def dns(self) -> Address:
        return self.service.dns

    def on(self, name: str, said: Handler | Said | str | Sequence[str]) -> None:
        """Let both upstreams say the same to a name."""
        for each in self.upstreams:
            each.on(name, said)

    def queries(self, name: str) -> list[Asked]:
        """The queries for a name, to both."""
        return [asked for each in self.upstreams for asked in each.queries(name)]

    def is_served(self, name: str) -> bool:
        return ask(self.dns, name).addresses == [address_of(name)]


@contextmanager
def serving(folder: Path, strategy: str) -> Iterator[Site]:
    """Two upstreams, and a service that asks them so and has learnt which questions are plain."""
    with Upstream() as first, Upstream() as second:
        resolve = {"strategy": strategy, "timeout": "0.5s", "deadline": "2s"}
        with Service(folder, policy(first, second, resolve=resolve)) as service:
            for source in (UNMANAGED, MANAGED, EXEMPT, "127.0.0.1"):
                for edns in (None, Edns()):
                    assert ask(service.dns, f"warm-{source}-{edns is None}.example", source=source, edns=edns).answer
            yield Site(service, (first, second), strategy)
        for each in (first, second):
            check_clean(each)


@pytest.fixture(scope="module", params=STRATEGIES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for each strategy, whose upstreams are never taken for down."""
    with serving(tmp_path_factory.mktemp(request.param), request.param) as found:
        yield found


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for tests that make its upstreams look bad, and take time: in parallel, as strict is asked elsewhere."""
    with serving(tmp_path_factory.mktemp("troubled"), "parallel") as found:
        yield found


# Whose answer it is


def test_lies_are_not_believed_and_the_right_answer_is_accepted(site: Site) -> None:
    """RFC 5452 section 9.1, CVE-2008-1447: at once from both, the right one 0.1 s later; fresh and cached."""
    names = [f"lie-{number}.example" for number in range(len(LIES))]
    for name, lie in zip(names, LIES, strict=True):
        site.on(name, lambda asked, lie=lie: [*lie(asked), Send(address_for(asked), after_s=0.1)])  # type: ignore[misc]
    for _ in range(2):
        with UdpClient(site.dns) as client:
            for ident, name in enumerate(names):
                client.send(query(name, ident=ident))
            got = client.gather(len(names))
        assert {ident: read(octets).addresses for ident, octets in got.items()} == {
            ident: [RIGHT] for ident in range(len(names))
        }
    assert site.is_served("other.example")


def test_100_queries_in_flight_answered_out_of_order_each_get_their_own(site: Site) -> None:
    """RFC 1035 7.3, RFC 5452 3."""

    def backwards(asked: Asked) -> list[Action]:
        number = int(asked.name.split(".")[0].removeprefix("order-"))
        return [Send(default(asked), after_s=0.3 - number * 0.002)]

    with UdpClient(site.dns) as client:
        for number in range(100):
            site.on(f"order-{number}.example", backwards)
            client.send(query(f"order-{number}.example", ident=number))
        got = client.gather(100)
    assert {ident: read(octets).addresses for ident, octets in got.items()} == {
        number: [address_of(f"order-{number}.example")] for number in range(100)
    }


def test_answers_that_come_twice_make_one_each(site: Site) -> None:
    """RFC 1035 7.3."""
    with UdpClient(site.dns) as client:
        for ident in range(20):
            site.on(f"twice-{ident}.example", lambda asked: [Send(address_for(asked))] * 2)
            client.send(query(f"twice-{ident}.example", ident=ident))
        assert len(client.gather(20)) == 20
        assert client.drain(0.2) == []


def test_source_ports_and_ids_cannot_be_guessed(site: Site) -> None:
    """200 questions leave from at least 100 ports, none in sequence; no client's id is used (RFC 5452 9.2)."""
    with UdpClient(site.dns) as client:
        for base in range(0, 200, 50):
            for number in range(base, base + 50):
                client.send(query(f"port-{number}.example", ident=number))
            assert len(client.gather(50)) == 50
    for each in site.upstreams:
        seen = [asked for asked in each.queries() if asked.name.startswith("port-")]
        seen.sort(key=lambda asked: asked.at)
        if not seen:
            continue
        share = len(seen) / 200
        ports, idents = [asked.source[1] for asked in seen], [asked.ident for asked in seen]
        assert len(set(ports)) >= 100 * share
        assert len(set(idents)) >= 195 * share
        for numbers in (ports, idents):
            assert sum(abs(after - before) <= 2 for before, after in pairwise(numbers)) < 20
        assert sum(f"port-{asked.ident}.example." == asked.name for asked in seen) <= 2
    if site.strategy == "strict":
        assert len(site.queries("port-7.example")) == 1
    if site.strategy == "parallel":
        first, second = ([each.wait(f"port-{n}.example")[0].ident for n in range(200)] for each in site.upstreams)
        assert sum(one == other for one, other in zip(first, second, strict=True)) <= 2


def test_an_answer_with_records_for_another_name_only(site: Site) -> None:
    """No data for the client's name, and nothing kept for the other (RFC 1034 5.3.3, RFC 5452 6)."""
    site.on("asked.example", "unasked.example 300 IN A 192.0.2.66")
    assert not ask(site.dns, "asked.example").answer
    assert site.is_served("unasked.example")


def test_letter_case_of_the_echoed_question_and_of_owners(site: Site) -> None:
    """RFC 4343 4 and 4.1: accepted, and the client's spelling kept (`ask` fails on another)."""

    def lower(asked: Asked) -> bytes:
        octets = default(asked)
        return octets[:12] + asked.question[:-4].lower() + octets[12 + len(asked.question) - 4 :]

    def upper(asked: Asked) -> bytes:
        octets = default(asked)
        return octets[:12] + asked.question[:-4].upper() + octets[12 + len(asked.question) - 4 :]

    site.on("lower.example", lower)
    site.on("upper.example", upper)
    site.on("owner.example", ["OWNER.example 300 IN CNAME TaRgEt.example", f"target.EXAMPLE 300 IN A {RIGHT}"])
    for _ in range(2):
        assert ask(site.dns, "LoWeR.ExAmPlE").addresses == [address_of("lower.example")]
        assert ask(site.dns, "UpPeR.eXaMpLe").addresses == [address_of("upper.example")]
        assert ask(site.dns, "owner.example").addresses == [RIGHT]


# What goes there, and what comes back with it


def test_nothing_of_the_client_goes_there_but_the_question(site: Site) -> None:
    """No option, address, id or header bit (RFC 1035 4.1.1, RFC 7871 11.1, RFC 7873 5.2, RFC 7828 3, RFC 9619)."""
    options = ((ECS, b"\0\1\x18\0\xc0\0\2"), (COOKIE, b"c00k1e-!"), (KEEPALIVE, b""), (65001, b"pr1vate"))
    ways: list[dict[str, Any]] = [
        {"edns": Edns(options=options)},
        {"edns": Edns(size=4096, do=True, flags=0x7FFF)},
        {"edns": Edns()},
        {"rd": False},
        {"flags": AA | TC | RA | AD | CD | 0x40},
        {"rdtype": "TYPE65400"},
        {},
    ]
    for number, way in enumerate(ways):
        for tcp in (False, True):
            name = f"private-{number}-{tcp}.example"
            octets = query(name, ident=0xABCD, **way)
            assert exchange(site.dns, octets, source="127.0.77.88", tcp=tcp) is not None
            asked = site.queries(name)
            assert asked
            for each in asked:
                assert each.ident != 0xABCD or len(asked) > 1
                assert not any(part in each.octets for part in (b"c00k1e", b"pr1vate", bytes([127, 0, 77])))
                assert each.source[0] != "127.0.77.88"
    for upstream in site.upstreams:
        check_clean(upstream)


def test_upstreams_options_do_not_reach_the_client(site: Site) -> None:
    """COOKIE, NSID, ECS and unknown ones (RFC 7873 5.3, RFC 5001, RFC 6891 6.1.2); fresh and cached."""
    options = [(COOKIE, b"c" * 16), (NSID, b"server"), (ECS, b"\0\1\x18\x18\xc0\0\2"), (65001, b"x")]
    site.on("talkative.example", lambda asked: reply(asked, f"{asked.name} 300 IN A {RIGHT}", options=options))
    for _ in range(2):
        response = ask(site.dns, "talkative.example", edns=Edns(options=((NSID, b""),)))
        assert (response.addresses, response.options) == ([RIGHT], [])
        response = ask(site.dns, "talkative.example", edns=Edns())
        assert (response.addresses, response.options) == ([RIGHT], [])


@pytest.mark.parametrize(
    ("rcode", "bare"),
    [(NOTIMP, False), (FORMERR, False), (FORMERR, True)],
    ids=["NOTIMP", "FORMERR", "FORMERR, a bare header"],
)
def test_who_knows_no_edns_is_asked_again_without(site: Site, rcode: int, bare: bool) -> None:
    """RFC 6891 6.2.2 and 7: for clients with OPT and without."""

    def old(asked: Asked) -> bytes:
        if asked.message.edns < 0:
            return default(asked)
        header = struct.pack("!6H", asked.ident, QR | RA | 0x0100 | rcode, 0 if bare else 1, 0, 0, 0)
        return header if bare else header + asked.question

    for edns in (None, Edns()):
        name = f"old-{rcode}-{bare}-{edns is None}.example"
        site.on(name, old)
        assert ask(site.dns, name, edns=edns, timeout_s=3).addresses == [address_of(name)]


@pytest.mark.parametrize("rcode", [16, 23, 4000, 4, 6, 9, 11])
def test_an_unusual_rcode_does_no_harm(site: Site, rcode: int) -> None:
    """BADVERS, BADCOOKIE and others (RFC 6891 6.1.3, RFC 7873): an error without data, and the next is served."""

    def unusual(asked: Asked) -> bytes:
        header = struct.pack("!6H", asked.ident, QR | RA | 0x0100 | rcode & 15, 1, 0, 0, 1)
        return header + asked.question + b"\0\0\x29\x04\xd0" + bytes([rcode >> 4]) + bytes(5)

    for edns in (None, Edns()):
        name = f"rcode-{rcode}-{edns is None}.example"
        site.on(name, unusual)
        response = ask(site.dns, name, edns=edns)
        assert response.rcode != NOERROR
        assert not response.answer
    assert site.is_served(f"usual-{rcode}.example")


# Groups of clients


@pytest.mark.parametrize("order", [(MANAGED, EXEMPT), (UNMANAGED, MANAGED)], ids=["managed first", "managed last"])
@pytest.mark.parametrize("edns", [None, Edns()], ids=["no OPT", "OPT"])
def test_an_alias_of_a_listed_name_is_judged_for_each_client(
    site: Site, order: tuple[str, str], edns: Edns | None
) -> None:
    """Alone and while the other's question is out, fresh and from the one cache; also in another spelling."""
    for kind in ("one by one", "at once"):
        alias = f"alias-{order[0] == MANAGED}-{edns is None}-{kind.replace(' ', '')}.example"
        slowly = 0.1 if kind == "at once" else 0.0
        site.on(
            alias,
            lambda asked, alias=alias, slowly=slowly: [  # type: ignore[misc]
                Send(reply(asked, f"{alias} 300 IN CNAME x.{LISTED}", f"x.{LISTED} 300 IN A {RIGHT}"), after_s=slowly)
            ],
        )
        with UdpClient(site.dns, order[0]) as first, UdpClient(site.dns, order[1]) as second:
            for ident, spelling in enumerate((alias, alias.upper(), alias)):
                for source, client in zip(order, (first, second), strict=True):
                    client.send(query(spelling, ident=ident, edns=edns))
                    if kind == "one by one":
                        check_own(client.receive(), source)
            if kind == "at once":
                for source, client in zip(order, (first, second), strict=True):
                    for octets in client.gather(3).values():
                        check_own(octets, source)


def check_own(octets: bytes | None, source: str) -> None:
    """The block for the managed client and nothing of the real answer; the real answer for the others."""
    assert octets is not None
    response = read(octets)
    if source == MANAGED:
        check_sinkholed(response)
        assert bytes([192, 0, 2, 80]) not in octets
    else:
        assert response.addresses == [RIGHT]


def test_a_listed_name_is_judged_for_each_client_and_never_asked_for_the_managed_one(site: Site) -> None:
    for number in range(3):
        name = f"own-{number}.{LISTED}"
        check_sinkholed(ask(site.dns, name, source=MANAGED))
        assert not site.queries(name)
        assert ask(site.dns, name, source=EXEMPT).addresses == [address_of(name)]
        assert ask(site.dns, name, source=UNMANAGED).addresses == [address_of(name)]
        check_sinkholed(ask(site.dns, name, source=MANAGED))


@pytest.mark.parametrize("rdtype", ["SVCB", "A", "HTTPS"])
def test_resolver_discovery_is_never_forwarded(site: Site, rdtype: str) -> None:
    """RFC 9462 section 6.4."""
    for name in ("_dns.resolver.arpa", "resolver.arpa", "x._dns.resolver.arpa"):
        for source in (MANAGED, EXEMPT, UNMANAGED):
            response = ask(site.dns, name, rdtype, source=source)
            assert (response.rcode, response.answer) == (NOERROR, [])
        assert not site.queries(name)


# Too much, too long, in circles


@pytest.mark.parametrize("tcp", [False, True], ids=["1,200 octets over UDP", "TCP"])
def test_many_long_compressed_names_cost_no_second(site: Site, tcp: bool) -> None:
    """CVE-2024-8508, CVE-2024-0760."""
    name = f"heavy-{tcp}.example"

    site.on(name, heavy_names(tcp=tcp))
    begun = time.monotonic()
    assert exchange(site.dns, query(name, "NS", edns=Edns()), tcp=tcp) is not None
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_cname_loop_ends(site: Site, count: int) -> None:
    """RFC 1034 3.6.2 and 5.2.2: SERVFAIL after few queries."""
    names = [f"loop{number}of{count}.example" for number in range(count)]
    loop = [f"{name} 300 IN CNAME {names[(number + 1) % count]}" for number, name in enumerate(names)]
    for name in names:
        site.on(name, loop)
    for _ in range(2):
        assert ask(site.dns, names[0]).rcode == SERVFAIL
    assert sum(len(site.queries(name)) for name in names) <= 60


# Loss and silence


def test_the_first_two_datagrams_are_lost(troubled: Site) -> None:
    """Answered all the same (RFC 1035 4.2.1 and 7.2)."""
    troubled.on("lost.example", lambda asked: default(asked) if len(troubled.queries("lost.example")) > 2 else SILENCE)
    assert ask(troubled.dns, "lost.example", timeout_s=6).addresses == [address_of("lost.example")]


def test_an_answer_that_takes_a_second_and_a_half_arrives(troubled: Site) -> None:
    """RFC 1035 7.2: longer than a time-out, shorter than the deadline."""
    troubled.on("late.example", lambda asked: [Send(address_for(asked), after_s=1.5)])
    assert ask(troubled.dns, "late.example").addresses == [RIGHT]


def test_upstreams_that_lose_queries_with_edns_are_asked_without_in_the_end(troubled: Site) -> None:
    """RFC 6891 6.2.2; for a client that does not want signatures, with OPT or without."""
    with UdpClient(troubled.dns) as client:
        for ident, edns in enumerate((None, Edns())):
            troubled.on(
                f"loses-{ident}.example", lambda asked: SILENCE if asked.message.edns >= 0 else address_for(asked)
            )
            client.send(query(f"loses-{ident}.example", ident=ident, edns=edns))
        got = client.gather(2)
    assert [read(got[ident]).addresses for ident in range(2)] == [[RIGHT], [RIGHT]]


# TCP


def test_what_is_truncated_is_fetched_by_tcp(troubled: Site) -> None:
    """TC or the whole over UDP, then the whole over TCP (RFC 2181 9, RFC 7766 5); in small segments; at a retry."""
    records = [f'whole.example 300 IN TXT "{"x" * 200}{number}"' for number in range(20)]
    troubled.on("whole.example", over_tcp(lambda asked: reply(asked, *records)))
    first = ask(troubled.dns, "whole.example", "TXT", edns=Edns())
    assert first.flags & TC or len(first.answer) == 20
    assert len(ask(troubled.dns, "whole.example", "TXT", tcp=True).answer) == 20

    def segments(asked: Asked) -> list[Action]:
        octets = framed(address_for(asked))
        return [Raw(octets[at : at + 1], after_s=0.002 * at) for at in range(len(octets))]

    troubled.on("segments.example", over_tcp(segments))
    assert ask(troubled.dns, "segments.example").addresses == [RIGHT]

    def first_closed(asked: Asked) -> bytes | Sequence[Action]:
        tries = [each for each in troubled.queries(asked.name) if each.transport == "tcp"]
        return [Close()] if len(tries) == 1 else address_for(asked)

    troubled.on("closed-once.example", over_tcp(first_closed))
    assert ask(troubled.dns, "closed-once.example", tcp=True).addresses == [RIGHT]


def test_upstreams_that_are_broken_over_tcp(troubled: Site) -> None:
    """An error or TC within 12 s, not silence; others are served meanwhile (RFC 7766 6.2.3, 6.2.4 and 8)."""
    for number, handler in enumerate(BROKEN_TCP.values()):
        troubled.on(f"tcp{number}.example", over_tcp(handler))
    results: dict[tuple[int, bool], bytes | None] = {}

    def run(number: int, tcp: bool) -> None:
        results[number, tcp] = exchange(troubled.dns, query(f"tcp{number}.example", edns=Edns()), tcp=tcp, timeout_s=12)

    threads = [threading.Thread(target=run, args=(n, tcp)) for n in range(len(BROKEN_TCP)) for tcp in (False, True)]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    assert troubled.is_served("meanwhile.example")
    assert time.monotonic() - begun < 1
    for thread in threads:
        thread.join()
    wrong = []
    for number, what in enumerate(BROKEN_TCP):
        for tcp in (False, True):
            octets = results[number, tcp]
            response = None if octets is None else read(octets)
            if response is None or response.answer or not (response.flags & TC or response.rcode == SERVFAIL):
                wrong.append(f"{what}: {response and response.message}, TCP client: {tcp}")
    assert not wrong, "\n".join(wrong)


def test_a_hundred_addresses_come_whole_or_not_at_all(troubled: Site) -> None:
    """Within what the client offers, with OPT if it sent one (`ask`); all over TCP; nothing cut is kept."""
    addresses = sorted(f"198.51.100.{number}" for number in range(1, 101))
    troubled.on("hundred.example", [f"hundred.example 300 IN A {address}" for address in addresses])
    for edns in (None, Edns(512), Edns(1232), Edns(4096), None):
        response = ask(troubled.dns, "hundred.example", edns=edns)
        assert response.flags & TC
        assert len(response.octets) <= min(1232, 512 if edns is None else edns.size)
        assert response.addresses == []
        assert sorted(ask(troubled.dns, "hundred.example", edns=edns, tcp=True).addresses) == addresses


# Broken answers


def test_broken_answers_of_any_kind(troubled: Site) -> None:
    """The client gets a well-formed response, the server lives, and there are no endless retries (RFC 9267)."""
    sent = {}
    for number, (_, breaks) in enumerate(BROKEN):
        name = f"broken{number:02}.example"
        troubled.on(name, lambda asked, breaks=breaks: [Send(breaks(default(asked), asked))])  # type: ignore[misc]
        sent[number] = query(name, ident=number, edns=Edns())
    with UdpClient(troubled.dns, MANAGED) as client:
        for octets in sent.values():
            client.send(octets)
        got = client.gather(len(sent), timeout_s=6)
    wrong = []
    for number, (what, _) in enumerate(BROKEN):
        name = f"broken{number:02}.example"
        try:
            response = read(got[number])
            check_echo(sent[number], response)
            assert response.addresses in ([], [address_of(name)]), response.addresses
            assert len(troubled.queries(name)) <= 2 * 8, f"asked {len(troubled.queries(name))} times"
        except Exception as error:  # noqa: BLE001 - each failure is listed
            wrong.append(f"{what}: {error!r}")
    assert not wrong, "\n".join(wrong)
    assert troubled.is_served("whole-again.example")


def cut(asked: Asked) -> bytes:
    """An address whose rdata is said to be longer than it is."""
    return default(asked)[: 12 + len(asked.question) + 10] + b"\0\xff" + default(asked)[12 + len(asked.question) + 12 :]


def short(asked: Asked) -> bytes:
    """An address of three octets."""
    return typed(asked, 1, b"\xc0\0\2")


def test_an_answer_cut_within_its_opt_holds_up_nobody(start: Start, upstreams: NewUpstream) -> None:
    """At each octet, amid others that are whole: those are answered at once, and the cut ones by the next upstream."""
    first, second = upstreams(), upstreams()
    service = start(policy(first, second))
    assert ask(service.dns, "warm.example").answer
    for number in range(1, 11):  # octets that are left of 11
        first.on(f"cut-{number}.example", lambda asked, number=number: [Send(default(asked)[: number - 11])])  # type: ignore[misc]
        with UdpClient(service.dns) as client:
            begun = time.monotonic()
            names = [f"cut-{number}.example" if ident == 5 else f"w-{number}-{ident}.example" for ident in range(10)]
            for ident, name in enumerate(names):
                client.send(query(name, ident=ident))
            got = client.gather(10)
        assert time.monotonic() - begun < 0.3, f"{number} octets of OPT"
        assert [read(got[ident]).addresses for ident in range(10)] == [[address_of(name)] for name in names]


def unreadable(asked: Asked) -> bytes:
    """One of them, by the last letter of the first label."""
    return cut(asked) if asked.name.partition(".")[0][-1] in "02468" else short(asked)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def check_few_packets(
    service: Service, names: Sequence[str], both: Sequence[str], count: Callable[[str], int], most: int
) -> None:
    """One question after the other: SERVFAIL at once, each upstream's answer counted as malformed, few packets."""
    before = service.metric("dnsfilter_upstream_failures_total", reason="malformed")
    packets = []
    for name in names:
        begun = time.monotonic()
        assert ask(service.dns, name, edns=Edns(), timeout_s=3).rcode == SERVFAIL
        assert time.monotonic() - begun < 0.5, f"{name} waits for more"
        time.sleep(0.02)  # for what is sent after the answer
        packets.append(count(name))
    print(f"packets for each question: {packets}")
    for upstream in both:
        assert service.metric("dnsfilter_upstream_failures_total", upstream=upstream, reason="malformed") >= 1
    after = service.metric("dnsfilter_upstream_failures_total", reason="malformed")
    assert after - before >= sum(packets), "not every one was counted"
    assert max(packets) <= most, packets


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_upstreams_that_all_answer_what_cannot_be_read_are_not_asked_again_and_again(
    start: Start, upstreams: NewUpstream, strategy: str
) -> None:
    """Each once for each question, and one packet more at most."""
    both = upstreams(), upstreams()
    service = start(policy(*both, resolve={"strategy": strategy}))
    assert ask(service.dns, "warm.example", edns=Edns()).answer
    for each in both:
        each.otherwise(unreadable)
    names = [f"unreadable-{number}.example" for number in range(8)]
    where_ = [where(each.address) for each in both]
    check_few_packets(service, names, where_, lambda name: sum(len(each.queries(name)) for each in both), 3)


@pytest.mark.parametrize(("transport", "strategy"), [("tls", "strict"), ("https", "parallel")])
def test_encrypted_upstreams_that_all_answer_what_cannot_be_read_are_not_asked_again_and_again(
    start: Start, certificates: Certificates, transport: Transport, strategy: str
) -> None:
    with Encrypted(certificates, transport) as first, Encrypted(certificates, transport) as second:
        both = first, second
        resolve = {"strategy": strategy, "ca_file": certificates.ca_file}
        service = start(policy(upstreams=[each.as_upstream() for each in both], resolve=resolve))
        assert ask(service.dns, "warm.example", edns=Edns()).answer
        for name in ("_dns.resolver.arpa", "resolver.arpa"):  # RFC 9462 section 6.4
            response = ask(service.dns, name, "SVCB")
            assert (response.rcode, response.answer) == (NOERROR, [])
            assert not any(each.queries(name) for each in both)
        for each in both:
            each.answer = unreadable
        names = [f"unreadable-{number}.example" for number in range(8)]
        where_ = [each.as_upstream() for each in both]
        check_few_packets(service, names, where_, lambda name: sum(len(each.queries(name)) for each in both), 3)


def test_probes_of_upstreams_that_are_all_down_come_in_the_place_of_questions(
    start: Start, upstreams: NewUpstream
) -> None:
    """Each upstream is asked once for one question, whenever it comes."""
    both = upstreams(), upstreams()
    service = start(policy(*both))
    for each in both:
        each.otherwise(cut)
    begun, names = time.monotonic(), list[str]()
    while time.monotonic() - begun < 1.8:  # the first probes are due after a second
        names.append(f"down-{len(names)}.example")
        assert ask(service.dns, names[-1]).rcode == SERVFAIL
        time.sleep(0.05)
    packets = [[len(each.queries(name)) for each in both] for name in names]
    print(packets)
    assert max(map(max, packets)) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_cannot_be_read_over_tcp_either_is_tried_once_with_each(
    start: Start, upstreams: NewUpstream, strategy: str
) -> None:
    """One datagram and one TCP try for each upstream at most; TC to the client, as it may do better."""
    both = upstreams(), upstreams()
    service = start(policy(*both, resolve={"strategy": strategy}))
    for each in both:
        each.otherwise(lambda asked: truncated(asked) if asked.transport == "udp" else [Send(cut(asked))])
    name = "unreadable-by-tcp.example"
    begun = time.monotonic()
    assert ask(service.dns, name, edns=Edns()).flags & TC
    assert time.monotonic() - begun < 0.5
    tries = [[asked.transport for asked in each.queries(name)] for each in both]
    print(f"{strategy}: {tries}")
    assert all(each.count("udp") <= 1 and each.count("tcp") <= 1 for each in tries)


# All of them silent


@pytest.mark.slow
def test_silence_of_both_is_servfail_after_few_datagrams(start: Start, upstreams: NewUpstream) -> None:
    """Within 10 s, and at most 20 datagrams (RFC 2308 7.2, RFC 9520 2.2 and 3.1). Beside them two that are closed."""
    groups = [(upstreams(), upstreams()) for _ in STRATEGIES]
    closed = upstreams(), upstreams()
    for each in (upstream for group in groups for upstream in group):
        each.otherwise(SILENCE)
    for each in closed:
        each.stop()
    zone = {"zone": "closed.example", "upstreams": [where(each.address) for each in closed]}
    services = [
        start(policy(*group, forward=[zone], resolve={"strategy": strategy}))
        for group, strategy in zip(groups, STRATEGIES, strict=True)
    ]
    begun = time.monotonic()
    with ExitStack() as stack:
        clients = [stack.enter_context(UdpClient(service.dns)) for service in services]
        for client in clients:
            client.send(query("nobody.example", ident=1, edns=Edns()))
            client.send(query("nobody.closed.example", ident=2))
        for client, group, strategy in zip(clients, groups, STRATEGIES, strict=True):
            got = {ident: read(octets) for ident, octets in client.gather(2, timeout_s=10).items()}
            assert time.monotonic() - begun < 6
            assert got[1].rcode == got[2].rcode == SERVFAIL
            assert [code for code, _ in got[1].ede][:1] in ([22], [23])
            datagrams = sum(len(each.queries("nobody.example")) for each in group)
            print(f"{strategy}: {datagrams} datagrams")
            assert datagrams <= 20


def test_strict_sends_two_datagrams_for_a_question_at_most_while_the_first_is_silent_and_when_it_returns(
    start: Start, upstreams: NewUpstream
) -> None:
    """Down after a few failures, asked again beside the other by a probe, used again within seconds."""
    first, second = upstreams(), upstreams()
    service = start(policy(first, second, resolve={"timeout": "0.3s"}))
    first.otherwise(SILENCE)
    names = [f"away-{number}.example" for number in range(12)]
    took = []
    for name in names:
        begun = time.monotonic()
        assert ask(service.dns, name).addresses == [address_of(name)]
        took.append(time.monotonic() - begun)
    assert statistics.median(took[6:]) < 0.1, "it is still waited for"
    assert service.metric("dnsfilter_upstream_healthy", upstream=where(first.address)) == 0
    first.otherwise(default)
    returned = time.monotonic()
    while not service.metric("dnsfilter_upstream_healthy", upstream=where(first.address)):
        assert time.monotonic() - returned < 10, "not asked again"
        names.append(f"back-{len(names)}.example")
        assert ask(service.dns, names[-1]).addresses == [address_of(names[-1])]
        time.sleep(0.05)
    names.append("again.example")
    assert ask(service.dns, names[-1]).addresses == [address_of(names[-1])]
    assert not second.queries("again.example")
    counts = [len(first.queries(name)) + len(second.queries(name)) for name in names]
    print(f"used again after {time.monotonic() - returned:.1f} s; datagrams {counts}")
    assert max(counts) <= 2


# Letters in random case


def test_random_letter_case_has_to_be_repeated(start: Start, upstreams: NewUpstream) -> None:
    """A forger who knows the id and the port has to guess the letters too; the client's own spelling comes back."""
    upstream = upstreams()
    service = start(policy(upstream, resolve={"random_case": "on", "timeout": "0.3s", "deadline": "0.6s"}))
    long = "abcdefghijklmnopqrstuvwxyz-abcdefghijklmnopqrstuvwxyz"
    assert ask(service.dns, f"Right.{long}.example").addresses == [address_of(f"right.{long}.example")]
    names = [f"s{number}.{long}.example" for number in range(4)]
    for name in names:
        assert ask(service.dns, name).addresses == [address_of(name)]
    spelled = [asked.question[:-4] for name in names for asked in upstream.queries(name)]
    assert len({name[3:] for name in spelled}) == 4, "the same letters again"
    assert all(name != name.lower() for name in spelled)

    def lies(asked: Asked) -> list[Action]:
        wrong = reply(asked, f"{asked.name} 300 IN A 192.0.2.66")
        lower = wrong[:12] + asked.question[:-4].lower() + wrong[12 + len(asked.question) - 4 :]
        swapped = wrong[:12] + asked.question[:-4].swapcase() + wrong[12 + len(asked.question) - 4 :]
        return [Send(lower), Send(swapped), Send(address_for(asked), after_s=0.05)]

    upstream.on(f"lied.{long}.example", lies)
    assert ask(service.dns, f"lied.{long}.example").addresses == [RIGHT]
