"""Sizes and truncation: what a client offers is kept to, and TC leads to the whole over TCP."""

import pytest

from tests.scenarios.client import TC, Address, Edns, Response, TcpClient, UdpClient, ask, check_echo, query, read
from tests.scenarios.expect import LISTED, MANAGED, check_sinkholed
from tests.scenarios.upstream import Asked, Send, Upstream, reply, truncated


def big(name: str, size: int) -> list[str]:
    """TXT records that make an answer of about `size` octets."""
    each = 100
    return [f'{name} 300 IN TXT "{number:04}{"x" * (each - 17)}"' for number in range(size // each)]


def check_truncated(response: Response, limit: int) -> None:
    """TC, within the limit, the question kept (RFC 2181 9); no partial RRset is taken for the whole."""
    assert response.flags & TC
    assert len(response.octets) <= limit
    assert response.counts[0] == 1


def test_edns_1232_and_an_answer_of_2000_octets(server: Address, upstream: Upstream) -> None:
    """TC, at most 1232 (RFC 6891 6.2.5, RFC 8906 8.2.7); the TCP retry brings every record (RFC 7766 5, RFC 2181 9)."""
    upstream.on("two-thousand.example", big("two-thousand.example", 2000))
    for _ in range(2):
        check_truncated(ask(server, "two-thousand.example", "TXT", edns=Edns(size=1232)), 1232)
        whole = ask(server, "two-thousand.example", "TXT", edns=Edns(size=1232), tcp=True)
        assert not whole.flags & TC
        assert len(whole.answer) == 20


def test_upstream_truncates_and_a_tcp_client_gets_the_whole(server: Address, upstream: Upstream) -> None:
    """RFC 5625 4.4, RFC 7766 5."""
    upstream.on("tcp-first.example", big("tcp-first.example", 3000))
    response = ask(server, "tcp-first.example", "TXT", tcp=True)
    assert not response.flags & TC
    assert len(response.answer) == 30
    assert upstream.queries("tcp-first.example")[-1].transport == "tcp"


@pytest.mark.parametrize("edns", [pytest.param(None, id="no OPT"), pytest.param(Edns(), id="OPT")])
def test_an_answer_of_60000_octets_passes_over_tcp_whole(
    server: Address, upstream: Upstream, edns: Edns | None
) -> None:
    """RFC 1035 4.2.2, RFC 7766 8: fresh and again."""
    name = f"sixty-{edns is None}.example"
    upstream.on(name, big(name, 60_000))
    for _ in range(2):
        response = ask(server, name, "TXT", tcp=True, edns=edns)
        assert len(response.answer) == 600
        assert len(response.octets) > 55_000


@pytest.mark.parametrize("size", [None, 0, 100, 512, 700, 1232, 4096, 65535])
@pytest.mark.parametrize("octets", [400, 600, 1000, 1300, 3000])
def test_no_response_exceeds_what_the_client_offered(
    server: Address, upstream: Upstream, size: int | None, octets: int
) -> None:
    """RFC 6891 6.2.3: 512 without EDNS or with less, never above 1232; fresh and cached, the whole if it fits."""
    name = f"fits-{size}-{octets}.example"
    upstream.on(name, big(name, octets))
    limit = min(1232, max(512, size or 0))
    for _ in range(2):
        response = ask(server, name, "TXT", edns=None if size is None else Edns(size=size))
        assert len(response.octets) <= limit
        if octets + 60 + 40 < limit:
            assert not response.flags & TC
            assert len(response.answer) == octets // 100
        elif octets > limit:
            check_truncated(response, limit)


@pytest.mark.parametrize(
    ("edns", "limit"),
    [
        pytest.param(None, 512, id="no OPT"),
        pytest.param(Edns(size=512), 512, id="512"),
        pytest.param(Edns(size=777), 777, id="777"),
        pytest.param(Edns(size=1232, do=True), 1232, id="1232"),
        pytest.param(Edns(size=4096), 1232, id="4096"),
    ],
)
def test_an_answer_that_just_fits_is_whole_and_one_octet_more_is_truncated(
    server: Address, upstream: Upstream, edns: Edns | None, limit: int
) -> None:
    """RFC 6891 6.2.3: the question and our own OPT count; fresh and cached."""
    for over in (0, 1):
        name = f"just-{limit}-{edns is None}-{0 if edns is None else edns.size}-{over}.example"
        length = limit + over - len(query(name, "TYPE65400", edns=edns)) - 12
        upstream.on(name, rf"{name} 300 IN TYPE65400 \# {length} {'ab' * length}")
        for _ in range(2):
            response = ask(server, name, "TYPE65400", edns=edns)
            if over:
                check_truncated(response, limit)
            else:
                assert not response.flags & TC
                assert len(response.octets) == limit


def test_an_offered_size_below_512_counts_as_512(server: Address, upstream: Upstream) -> None:
    """RFC 6891 6.2.3."""
    upstream.on("small-offer.example", big("small-offer.example", 400))
    response = ask(server, "small-offer.example", "TXT", edns=Edns(size=100))
    assert not response.flags & TC
    assert len(response.answer) == 4


def test_the_size_offered_to_upstream_is_at_most_1400(server: Address, upstream: Upstream) -> None:
    """RFC 9715 3.2 R6, DNS flag day 2020: whatever the client offers."""
    ask(server, "offered.example", "A", edns=Edns(size=4096))
    message = upstream.queries("offered.example")[-1].message
    assert 512 <= (message.payload if message.edns >= 0 else 512) <= 1400


def test_upstreams_answer_larger_than_the_clients_size_is_truncated_for_this_client_only(
    server: Address, upstream: Upstream
) -> None:
    """RFC 6891 6.2.5: TC, not an oversized datagram; the next client, who takes more, gets the whole."""
    upstream.on("nine-hundred.example", big("nine-hundred.example", 900))
    check_truncated(ask(server, "nine-hundred.example", "TXT"), 512)
    whole = ask(server, "nine-hundred.example", "TXT", edns=Edns(size=1232))
    assert len(whole.answer) == 9
    assert not whole.flags & TC
    check_truncated(ask(server, "nine-hundred.example", "TXT"), 512)


def test_a_truncated_answer_that_fits_over_tcp_reaches_a_large_udp_client_whole(
    server: Address, upstream: Upstream
) -> None:
    """An upstream may truncate for reasons of its own; a client that takes the whole gets it (RFC 2181 9)."""

    def hesitant(asked: Asked) -> bytes:
        return truncated(asked) if asked.transport == "udp" else reply(asked, *big("hesitant.example", 400))

    upstream.on("hesitant.example", hesitant)
    response = ask(server, "hesitant.example", "TXT", edns=Edns())
    assert response.flags & TC or len(response.answer) == 4
    assert len(ask(server, "hesitant.example", "TXT", tcp=True).answer) == 4


def test_additional_records_that_do_not_fit_are_left_out_first(server: Address, upstream: Upstream) -> None:
    """RFC 2181 9: an answer that fits without its additional records may come without TC."""

    def generous(asked: Asked) -> bytes:
        extra = [f"host{number}.example 300 IN A 192.0.2.{number}" for number in range(30)]
        return reply(asked, "generous.example 300 IN MX 10 host0.example", additional=extra)

    upstream.on("generous.example", generous)
    response = ask(server, "generous.example", "MX")
    assert len(response.octets) <= 512
    assert response.flags & TC or len(response.answer) == 1


@pytest.mark.parametrize("tcp", [pytest.param(False, id="UDP"), pytest.param(True, id="TCP")])
@pytest.mark.parametrize("edns", [None, Edns(size=512), Edns(size=4096)])
def test_policy_answers_for_the_longest_name_fit(server: Address, tcp: bool, edns: Edns | None) -> None:
    """RFC 1035 4.1.4: 255 octets below the listed name, NODATA with SOA and EDE, in 512 octets."""
    name = ".".join(["l" * 63, "l" * 63, "l" * 63, "m" * 46, LISTED])
    response = ask(server, name, "TXT", source=MANAGED, tcp=tcp, edns=edns)
    check_sinkholed(response)
    assert not response.flags & TC
    assert len(response.octets) <= 512


def test_clients_that_wait_for_the_same_answer_each_get_it_in_their_size(server: Address, upstream: Upstream) -> None:
    """RFC 6891 6.2.5: one upstream query, and for each client the OPT, the size and the transport of its own."""
    name = "waited-for.example"
    upstream.on(name, lambda asked: [Send(reply(asked, *big(name, 900)), after_s=0.3)])
    sent = [query(name, "TXT", ident=1), query(name.upper(), "TXT", ident=2, edns=Edns(size=1232))]
    sent.append(query(name, "TXT", ident=3, edns=Edns(size=700), rd=False))
    with UdpClient(server) as client, TcpClient(server) as tcp:
        tcp.send(query(name, "TXT", ident=4))
        for octets in sent:
            client.send(octets)
        got = {ident: read(octets) for ident, octets in client.gather(3).items()}
        over_tcp = tcp.receive()
    for octets in sent:
        check_echo(octets, got[int.from_bytes(octets[:2], "big")])
    check_truncated(got[1], 512)
    check_truncated(got[3], 700)
    assert [got[ident].opt is None for ident in (1, 2, 3)] == [True, False, False]
    assert len(got[2].answer) == 9
    assert over_tcp is not None
    assert len(read(over_tcp).answer) == 9
    assert len(upstream.queries(name)) == 1
