"""What monitoring gets: /metrics, /health and /ready, and what the numbers mean."""

import contextlib
import http.client
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.scenarios.client import (
    FORMERR,
    NOERROR,
    NXDOMAIN,
    REFUSED,
    SERVFAIL,
    Address,
    TcpClient,
    UdpClient,
    ask,
    exchange,
    query,
)
from tests.scenarios.conftest import Start
from tests.scenarios.expect import LISTED, exemption, policy, where
from tests.scenarios.service import Service, eventually
from tests.scenarios.upstream import SILENCE, Upstream, reply

Series = tuple[str, frozenset[tuple[str, str]]]
STRANGER, MANAGED, EXEMPT, WATCHED, INSPECTED, OTHER = (f"127.0.{net}.9" for net in (200, 1, 2, 3, 4, 5))

FAMILIES = {
    "dnsfilter_queries": "counter",
    "dnsfilter_responses": "counter",
    "dnsfilter_verdicts": "counter",
    "dnsfilter_query_duration_seconds": "histogram",
    "dnsfilter_cache_hits": "counter",
    "dnsfilter_cache_misses": "counter",
    "dnsfilter_cache_stale": "counter",
    "dnsfilter_rate_limited": "counter",
    "dnsfilter_bypass_suspects": "gauge",
    "dnsfilter_cache_entries": "gauge",
    "dnsfilter_upstream_queries": "counter",
    "dnsfilter_upstream_failures": "counter",
    "dnsfilter_upstream_duration_seconds": "histogram",
    "dnsfilter_upstream_healthy": "gauge",
    "dnsfilter_list_entries": "gauge",
    "dnsfilter_list_skipped_lines": "gauge",
    "dnsfilter_list_checked_timestamp_seconds": "gauge",
    "dnsfilter_list_changed_timestamp_seconds": "gauge",
    "dnsfilter_list_failures": "counter",
    "dnsfilter_policy_info": "gauge",
    "dnsfilter_config_last_reload_successful": "gauge",
    "dnsfilter_config_last_reload_success_timestamp_seconds": "gauge",
    "dnsfilter_ready": "gauge",
    "dnsfilter_degraded": "gauge",
    "dnsfilter_exemption_end_timestamp_seconds": "gauge",
    "dnsfilter_socket_drops": "counter",
    "dnsfilter_dropped": "counter",
    "dnsfilter_internal_errors": "counter",
    "dnsfilter_build_info": "gauge",
}


def config(up: Upstream, **more: Any) -> dict[str, Any]:
    """A policy in which every verdict can come about."""
    return policy(
        up,
        **{
            "access": ["127.0.0.0/17"],
            "lists": {
                "ban": {"domains": [LISTED]},
                "second": {"domains": ["second.example", LISTED]},
                "watch": {"domains": ["watched.example"], "mode": "observe"},
                "approved": {"domains": ["approved.example"]},
            },
            "groups": {
                "managed": {
                    "networks": ["127.0.1.0/24", "127.0.2.0/24"],
                    "block": ["ban", "second", "watch"],
                    "allow": ["press.banned.example"],
                },
                "watched": {"networks": ["127.0.3.0/24"], "block": ["ban"], "mode": "observe"},
                "inspected": {"networks": ["127.0.4.0/24"], "block": ["ban"], "only": ["approved"]},
                "default": {"block": []},
            },
            "exemptions": {"entries": [exemption("EX-1", ["127.0.2.0/24"], ["ban", "second"])]},
            "resolve": {"timeout": "0.4s", "deadline": "1s"},
            **more,
        },
    )


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    """An upstream for this module."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def seen(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the tests that look at its numbers."""
    with Service(tmp_path_factory.mktemp("seen"), config(up)) as service:
        yield service


def scrape(service: Service) -> dict[Series, float]:
    """All samples of one scrape; fail on one that is there twice, or does not parse."""
    found: dict[Series, float] = {}
    for family in text_string_to_metric_families(service.http("/metrics")):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def counters(service: Service) -> dict[Series, float]:
    """The samples of one scrape that may only grow."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(service.http("/metrics"))
        for sample in family.samples
        if family.type == "counter" or (family.type == "histogram" and not sample.name.endswith("_created"))
    }


def change(before: dict[Series, float], after: dict[Series, float], name: str) -> dict[tuple[str, ...], float]:
    """By how much the series of one metric grew, those that did, by their labels' values in order of the labels."""
    grown = {}
    for (metric, labels), value in after.items():
        if metric == name and value != before[metric, labels]:
            grown[tuple(text for _, text in sorted(labels))] = value - before[metric, labels]
    return grown


# ---- metrics ----


def test_the_metrics_are_those_that_are_documented_and_each_says_what_it_is(seen: Service) -> None:
    families = {family.name: family for family in text_string_to_metric_families(seen.http("/metrics"))}
    assert {name: family.type for name, family in families.items()} == FAMILIES
    assert all(family.documentation for family in families.values())


def test_the_page_of_metrics_is_of_the_type_that_prometheus_reads(seen: Service) -> None:
    with connection(seen.admin) as asked:
        asked.request("GET", "/metrics")
        response = asked.getresponse()
        assert response.status == 200
        assert (response.getheader("Content-Type") or "").startswith("text/plain; version=0.0.4")
        assert int(response.getheader("Content-Length") or 0) == len(response.read())


def test_two_thousand_random_questions_make_no_series_and_counters_only_grow(seen: Service) -> None:
    """Labels come from the configuration and closed sets, never from a query or a client."""
    random_ = random.Random(3)
    before, counted = scrape(seen), counters(seen)
    clients = [UdpClient(seen.dns, f"127.0.{net}.{host}") for net in (0, 1, 2, 3, 4, 200) for host in (1, 77, 254)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.enter_context(client)
        for number in range(2000):
            label = "".join(random_.choices("abcdefghij-_0123456789", k=random_.randrange(1, 20)))
            zone = random_.choice([LISTED, "second.example", "watched.example", "example", "x.test", "localhost"])
            rdtype = random_.choice([1, 28, 65, 16, 15, random_.randrange(1, 65536)])
            rdclass = random_.choice([1, 1, 1, 3, random_.randrange(65536)])
            client = random_.choice(clients)
            client.send(query(f"{label}.{zone}", rdtype, ident=number, rdclass=rdclass))
            if number % 100 == 99:
                for each in clients:
                    each.drain(0.001)
        for each in clients:
            each.drain(0.02)
    exchange(seen.dns, b"\0\1\1\0\0\1\0\0\0\0\0\0junk", timeout_s=0.2)
    exchange(seen.dns, b"\0", timeout_s=0.05)
    after, recounted = scrape(seen), counters(seen)
    assert after.keys() == before.keys()
    assert len(after) < 500
    fallen = {key: (counted[key], value) for key, value in recounted.items() if value < counted[key]}
    assert not fallen
    total = sum(change(before, after, "dnsfilter_queries_total").values())
    assert total >= 1900
    assert "abc" not in seen.output


# (client, name, how often, verdict's group, verdict, list)
ASKED = [
    (STRANGER, LISTED, 3, "", "refused", ""),
    (MANAGED, "localhost", 4, "managed", "local", ""),
    (OTHER, "x.test", 5, "default", "local", ""),
    (MANAGED, "press.banned.example", 6, "managed", "allowed", ""),
    (MANAGED, LISTED, 7, "managed", "blocked", "ban"),
    (MANAGED, "a.second.example", 8, "managed", "blocked", "second"),
    (MANAGED, "alias.example", 3, "managed", "blocked", "second"),
    (MANAGED, "use-application-dns.net", 2, "managed", "blocked", "canary"),
    (EXEMPT, LISTED, 9, "managed", "exempted", "ban"),
    (EXEMPT, "alias.example", 2, "managed", "exempted", "second"),
    (MANAGED, "watched.example", 10, "managed", "observed", "watch"),
    (WATCHED, LISTED, 11, "watched", "observed", "ban"),
    (INSPECTED, "any.example", 12, "inspected", "blocked", "only"),
    (INSPECTED, "approved.example", 2, "inspected", "forwarded", ""),
    (MANAGED, "plain.example", 13, "managed", "forwarded", ""),
    (OTHER, LISTED, 14, "default", "forwarded", ""),
]


def test_verdicts_are_counted_by_group_verdict_and_list_as_they_were_given(up: Upstream, seen: Service) -> None:
    up.on("alias.example", ["alias.example 300 IN CNAME in.second.example", "in.second.example 300 IN A 192.0.2.3"])
    before = scrape(seen)
    expected: Counter[tuple[str, ...]] = Counter()
    for source, name, count, *verdict in ASKED:
        for number in range(count):
            ask(seen.dns, name, "A", source=source, tcp=number == 0)
        expected[tuple(verdict[index] for index in (0, 2, 1))] += count
    after = scrape(seen)
    assert change(before, after, "dnsfilter_verdicts_total") == dict(expected)  # labels in order: group, list, verdict
    total = sum(expected.values())
    assert change(before, after, "dnsfilter_queries_total") == {
        ("ipv4", "tcp"): len(ASKED),
        ("ipv4", "udp"): total - len(ASKED),
    }
    assert sum(change(before, after, "dnsfilter_responses_total").values()) == total
    assert change(before, after, "dnsfilter_query_duration_seconds_count") == {(): total}


@pytest.mark.parametrize(
    ("name", "source", "rdclass", "rcode", "label"),
    [
        pytest.param("fine.example", MANAGED, 1, NOERROR, "NOERROR", id="NOERROR"),
        pytest.param("x.invalid", MANAGED, 1, NXDOMAIN, "NXDOMAIN", id="NXDOMAIN"),
        pytest.param("fine.example", STRANGER, 1, REFUSED, "REFUSED", id="REFUSED"),
        pytest.param("broken.example", MANAGED, 1, SERVFAIL, "SERVFAIL", id="SERVFAIL"),
    ],
)
def test_responses_are_counted_by_rcode(
    up: Upstream, seen: Service, name: str, source: str, rdclass: int, rcode: int, label: str
) -> None:
    up.on("broken.example", lambda asked: reply(asked, rcode=SERVFAIL))
    before = scrape(seen)
    assert ask(seen.dns, name, source=source, rdclass=rdclass).rcode == rcode
    assert change(before, scrape(seen), "dnsfilter_responses_total") == {(label,): 1}


def test_a_malformed_query_is_counted_as_a_response_and_what_gets_none_as_dropped(seen: Service) -> None:
    before = scrape(seen)
    octets = exchange(seen.dns, query("cut.example")[:-2], source=MANAGED)
    assert octets is not None
    assert octets[3] & 15 == FORMERR
    assert exchange(seen.dns, query("answer.example", flags=0x8000), source=MANAGED, timeout_s=0.2) is None
    after = scrape(seen)
    assert change(before, after, "dnsfilter_responses_total") == {("FORMERR",): 1}
    assert change(before, after, "dnsfilter_dropped_total") == {("not_a_query",): 1}
    assert not change(before, after, "dnsfilter_verdicts_total")
    assert not change(before, after, "dnsfilter_internal_errors_total")


def test_the_cache_and_the_upstream_are_counted(up: Upstream, seen: Service) -> None:
    before, name = scrape(seen), where(up.address)
    for _ in range(5):
        ask(seen.dns, "counted.example", source=MANAGED)
    ask(seen.dns, LISTED, source=MANAGED)
    after = scrape(seen)
    assert change(before, after, "dnsfilter_cache_misses_total") == {(): 1}
    assert change(before, after, "dnsfilter_cache_hits_total") == {(): 4}
    assert change(before, after, "dnsfilter_cache_entries") == {(): 1}
    assert change(before, after, "dnsfilter_upstream_queries_total") == {(name,): 1}
    assert change(before, after, "dnsfilter_upstream_duration_seconds_count") == {(name,): 1}
    assert not change(before, after, "dnsfilter_upstream_failures_total")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        pytest.param(SILENCE, "timeout", id="silence"),
        pytest.param(lambda asked: reply(asked, rcode=SERVFAIL), "servfail", id="SERVFAIL"),
        pytest.param(lambda asked: reply(asked, rcode=REFUSED), "refused", id="REFUSED"),
    ],
)
def test_what_goes_wrong_upstream_is_counted_by_its_reason(up: Upstream, seen: Service, said: Any, reason: str) -> None:
    name = f"failing-{reason}.example"
    up.on(name, said)
    before = scrape(seen)
    assert ask(seen.dns, name, source=MANAGED).rcode == SERVFAIL
    failures = change(before, scrape(seen), "dnsfilter_upstream_failures_total")
    assert failures.keys() == {(reason, where(up.address))}
    ask(seen.dns, f"after-{reason}.example", source=MANAGED)  # it is well again


def test_the_durations_are_a_histogram_in_which_a_slow_answer_has_its_bucket(up: Upstream, seen: Service) -> None:
    up.on("slow.example", SILENCE)
    before = scrape(seen)
    ask(seen.dns, "slow.example", source=MANAGED)
    ask(seen.dns, LISTED, source=MANAGED)
    after = scrape(seen)
    buckets = change(before, after, "dnsfilter_query_duration_seconds_bucket")
    by_bound = {float(bound): count for (bound,), count in buckets.items()}
    assert by_bound[float("inf")] == 2
    assert by_bound[0.3] == 1
    assert by_bound[0.1] == 1
    assert by_bound[3.0] == 2
    total = change(before, after, "dnsfilter_query_duration_seconds_sum")[()]
    assert 0.35 < total < 3
    for (name, labels), value in after.items():
        if name.endswith("_seconds_bucket") and ("le", "+Inf") in labels:
            count = name.replace("_bucket", "_count"), labels - {("le", "+Inf")}
            assert value == after[count]


def test_what_we_ask_ourselves_is_not_counted(seen: Service) -> None:
    """Probes of readiness and status."""
    before = counters(seen)
    for _ in range(3):
        seen.http("/ready")
        seen.http("/metrics")
        seen.control("status")
    assert counters(seen) == before


def test_a_question_to_be_explained_is_no_clients_question(seen: Service) -> None:
    """It is counted where an upstream is asked, and nowhere else."""
    before = counters(seen)
    for client in (MANAGED, STRANGER, None):
        seen.control("explain", name=f"{client}.explained.example", type=1, client=client, at=None)
    after = counters(seen)
    changed = {name for (name, labels), value in after.items() if value != before[name, labels]}
    assert not {name for name in changed if not name.startswith("dnsfilter_upstream_")}


def test_the_counters_outlive_a_reload(up: Upstream, start: Start) -> None:
    service = start(config(up))
    for _ in range(3):
        ask(service.dns, LISTED, source=MANAGED)
    before = counters(service)
    service.configure(config(up, blocking={"ttl": 30}))
    assert "error" not in service.control("reload")
    ask(service.dns, LISTED, source=MANAGED)
    after = counters(service)
    assert after.keys() == before.keys()
    assert all(value >= before[key] for key, value in after.items())
    assert change(before, after, "dnsfilter_verdicts_total") == {("managed", "ban", "blocked"): 1}


def test_the_ends_of_exemptions_and_the_lists_are_there(seen: Service) -> None:
    assert seen.metric("dnsfilter_exemption_end_timestamp_seconds", id="EX-1") == 4_102_444_800  # 2100-01-01, UTC
    assert seen.metric("dnsfilter_list_entries", list="second") == 2
    assert seen.metric("dnsfilter_list_skipped_lines", list="second") == 0
    assert seen.metric("dnsfilter_list_checked_timestamp_seconds", list="ban") == pytest.approx(time.time(), abs=120)
    assert seen.metric("dnsfilter_build_info", engine="python") == 1


# ---- the other pages ----


@contextlib.contextmanager
def connection(server: Address) -> Iterator[http.client.HTTPConnection]:
    """An HTTP connection."""
    made = http.client.HTTPConnection(*server, timeout=8)
    try:
        yield made
    finally:
        made.close()


def fetch(server: Address, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, dict[str, str]]:
    """One request: status, body, headers."""
    with connection(server) as asked:
        asked.request(method, path, body)
        response = asked.getresponse()
        return response.status, response.read(), dict(response.getheaders())


def test_health_and_ready_are_json(seen: Service) -> None:
    ask(seen.dns, "well.example", source=MANAGED)  # whatever other tests did to the upstream
    status, body, headers = fetch(seen.admin, "GET", "/health")
    assert (status, json.loads(body)) == (200, {"alive": True})
    assert headers["Content-Type"] == "application/json"
    status, body, headers = fetch(seen.admin, "GET", "/ready?from=balancer")
    assert (status, json.loads(body)) == (200, {"ready": True, "reasons": [], "degraded": {}})
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("path", ["/", "/nothing", "/metrics/", "/../metrics", "/%6detrics", "/health%00"])
def test_another_path_is_not_found_and_says_which_there_are(seen: Service, path: str) -> None:
    status, body, _ = fetch(seen.admin, "GET", path)
    assert status == 404
    assert json.loads(body) == {"pages": ["/health", "/metrics", "/ready"]}


@pytest.mark.parametrize("path", ["/metrics", "/health", "/ready", "/nothing"])
def test_head_is_as_get_without_a_body(seen: Service, path: str) -> None:
    status, body, headers = fetch(seen.admin, "HEAD", path)
    as_get, whole, with_body = fetch(seen.admin, "GET", path)
    assert (status, body) == (as_get, b"")
    assert headers["Content-Type"] == with_body["Content-Type"]
    if path != "/metrics":  # between the two, numbers may have changed
        assert int(headers["Content-Length"]) == len(whole)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "nonsense"])
@pytest.mark.parametrize("path", ["/metrics", "/ready"])
def test_nothing_can_be_changed_over_http(seen: Service, method: str, path: str) -> None:
    status, _, _ = fetch(seen.admin, method, path, b"{}")
    assert status in (405, 501)


def test_what_is_no_http_gets_nothing_that_tells_of_the_system(seen: Service) -> None:
    """And the next request is an ordinary one."""
    for octets in (b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 70_000):
        with socket.create_connection(seen.admin, timeout=8) as client, contextlib.suppress(OSError):
            client.sendall(octets)
            client.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := client.recv(65536):
                answer += piece
            assert b"Python" not in answer
            assert b"Traceback" not in answer
    assert fetch(seen.admin, "GET", "/health")[0] == 200


def test_eight_slow_clients_do_not_keep_a_quick_one_waiting(seen: Service) -> None:
    """Whoever may reach the address must not be able to hide the service from its monitoring."""
    slow = [socket.create_connection(seen.admin, timeout=8) for _ in range(8)]
    try:
        for client in slow:
            client.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        begun = time.monotonic()
        assert fetch(seen.admin, "GET", "/ready")[0] == 200
        assert time.monotonic() - begun < 2
    finally:
        for client in slow:
            client.close()


def test_a_client_that_drips_octets_is_closed_in_the_end(seen: Service) -> None:
    """A header that never ends holds a place for some seconds, not as long as somebody goes on sending."""
    with socket.create_connection(seen.admin, timeout=0.3) as client:
        client.sendall(b"GET /health HTTP/1.1\r\n")

        def is_closed() -> bool:
            try:
                client.sendall(b"X: y\r\n")
                return client.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        eventually("the connection is closed", is_closed, 8)


def test_a_client_that_does_not_read_is_no_trouble(seen: Service) -> None:
    clients = []
    try:
        for _ in range(4):
            client = socket.socket()
            clients.append(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(seen.admin)
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert fetch(seen.admin, "GET", "/metrics")[0] == 200
        ask(seen.dns, LISTED, source=MANAGED)
    finally:
        for client in clients:
            client.close()


def test_while_pages_are_fetched_questions_are_answered(seen: Service) -> None:
    """A scrape is off the path of queries."""
    slowest = 0.0
    with TcpClient(seen.dns, MANAGED) as stream:
        for _ in range(20):
            with connection(seen.admin) as asked:
                asked.request("GET", "/metrics")
                begun = time.monotonic()
                stream.send(query(LISTED))
                assert stream.receive() is not None
                slowest = max(slowest, time.monotonic() - begun)
                asked.getresponse().read()
    assert slowest < 0.5


def test_a_metrics_address_has_the_same_pages_and_nothing_else(up: Upstream, start: Start) -> None:
    listen = {"dns": ["127.0.0.1:0"], "admin": "127.0.0.1:0", "metrics": "127.0.0.2:0"}
    service = start(config(up, listen=listen))
    host, _, port = service.control("status")["listen"]["metrics"].rpartition(":")
    metrics = host, int(port)
    assert metrics[0] == "127.0.0.2"
    assert b"dnsfilter_queries_total" in fetch(metrics, "GET", "/metrics")[1]
    assert fetch(metrics, "GET", "/ready")[0] == 200
    assert fetch(metrics, "GET", "/health")[0] == 200
    assert json.loads(fetch(metrics, "GET", "/")[1]) == {"pages": ["/health", "/metrics", "/ready"]}


def listening(pid: int) -> int:
    """How many TCP sockets a process listens on."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
    ]
    inodes = {fields[9] for fields in lines if fields[3] == "0A"}
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(link.readlink()).removeprefix("socket:[").removesuffix("]") in inodes
    return found


def test_admin_off_opens_no_port(up: Upstream, start: Start) -> None:
    service = start(config(up, listen={"dns": ["127.0.0.1:0"], "admin": "off"}))
    assert set(service.control("status")["listen"]) == {"dns"}
    ask(service.dns, LISTED, source=MANAGED)
    assert listening(service.pid) == 1


def test_ready_stays_and_degraded_says_so_when_no_upstream_answers(
    start: Start, upstreams: Callable[[], Upstream]
) -> None:
    """The ban holds, which is what ready means; and it ends by itself."""
    away = upstreams()
    service = start(config(away))
    away.stop()
    for number in range(10):
        ask(service.dns, f"away{number}.example", source=MANAGED)
    status, body, _ = fetch(service.admin, "GET", "/ready")
    assert status == 200
    assert list(json.loads(body)["degraded"]) == ["upstreams"]
    assert service.metric("dnsfilter_upstream_healthy") == 0
    assert service.metric("dnsfilter_degraded", reason="upstreams") == 1
    assert ask(service.dns, LISTED, source=MANAGED).addresses == ["0.0.0.0"]
    away.start()

    def is_well() -> bool:
        ask(service.dns, f"back{time.monotonic_ns()}.example", source=MANAGED)
        return service.metric("dnsfilter_upstream_healthy") == 1

    eventually("the upstream counts as healthy", is_well, 15, every_s=0.2)
    assert json.loads(service.http("/ready"))["degraded"] == {}


def test_a_slow_client_does_not_keep_the_service_from_ending(up: Upstream, tmp_path: Path) -> None:
    """`Service` fails where it does not end in time, or not well."""
    service = Service(tmp_path, config(up))
    with service:
        slow = socket.create_connection(service.admin, timeout=8)
        slow.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        begun = time.monotonic()
    slow.close()
    assert time.monotonic() - begun < 4


# ---- the control socket ----


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"\n", id="an empty line"),
        pytest.param(b"GET / HTTP/1.1\n", id="HTTP"),
        pytest.param(b"[1, 2]\n", id="a list"),
        pytest.param(b'"status"\n', id="a text"),
        pytest.param(b'{"command": "stop"}\n', id="a command that does not exist"),
        pytest.param(b'{"command": ["status"]}\n', id="a command that is no text"),
        pytest.param(b"{}\n", id="no command"),
        pytest.param(b"\xff\xfe\n", id="no UTF-8"),
        pytest.param(b"[" * 60_000 + b"\n", id="deep"),
    ],
)
def test_what_is_no_command_is_told_which_there_are(seen: Service, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(seen.state / "control.sock"))
        client.sendall(line)
        with client.makefile("rb") as lines:
            answer = json.loads(lines.readline())
    assert list(answer) == ["error"]
    assert "status" in answer["error"]


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({"command": "explain"}, id="nothing to explain"),
        pytest.param({"command": "explain", "name": 5, "type": 1, "client": None, "at": None}, id="a name of no text"),
        pytest.param(
            {"command": "explain", "name": "a.example", "type": 65536, "client": None, "at": None}, id="a type too high"
        ),
        pytest.param(
            {"command": "explain", "name": "a.example", "type": "A", "client": None, "at": None}, id="a type as text"
        ),
        pytest.param(
            {"command": "explain", "name": "a.example", "type": 1, "client": "x", "at": None}, id="a client without one"
        ),
    ],
)
def test_a_command_with_nonsense_is_an_error_and_no_trouble(seen: Service, request_: dict[str, Any]) -> None:
    """Nothing of it is a bug to be logged with its traceback."""
    before = len(seen.output)
    assert "error" in seen.control(**request_)
    assert "Traceback" not in seen.output[before:]


def test_a_client_of_the_control_socket_that_says_nothing_holds_up_nobody(seen: Service) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(seen.state / "control.sock"))
        begun = time.monotonic()
        assert seen.control("status")["ready"]
        assert time.monotonic() - begun < 2
