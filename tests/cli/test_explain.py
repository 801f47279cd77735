"""`dnsfilter explain`: what it says is what the server does, and where it comes from."""

import contextlib
import io
import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dnsfilter.cli.main import main
from tests.cli.conftest import (
    CLIENTS,
    ENDED,
    EXEMPT,
    INSPECTED,
    LABS,
    MANAGED,
    OTHER,
    PLANNED,
    STRANGER,
    WATCHED,
)
from tests.scenarios.client import UdpClient, query, question_of, read, text_of, type_code
from tests.scenarios.service import Service, command
from tests.scenarios.upstream import Upstream, address6_of, address_of

BASES = (
    *("banned.example", "sub.banned.example", "press.banned.example", "chained.example", "guarded.gouv.example"),
    *("exact.example", "other.example", "urgent.example", "watched.example", "approved.example", "plain.example"),
    *(
        "tiktok.com",
        "tiktokv.com",
        "use-application-dns.net",
        "mask.icloud.com",
        "localhost",
        "x.test",
        "resolver.arpa",
    ),
    *("10.in-addr.arpa", "alias1.example", "alias3.example", "nbanned.example", "example"),
)
PREFIXES = ("", "", "www.", "a.b.", "xn--bcher-kva.", "_dns.", "\\.x.", "banned.example.")
TYPES = ("A", "AAAA", "HTTPS", "TXT", "MX", "TYPE65400")


def explained(service: Service, *words: str) -> list[dict[str, Any]]:
    """What the command says as JSON; it has to end well. In this process: it is asked very often."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main(["explain", "-c", str(service.config_file), *words, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(output.getvalue())["explained"]
    return found


def spelled(random_: random.Random, name: str) -> str:
    """The same name in any mixture of letters, with or without the final dot."""
    text = "".join(random_.choice((char.lower(), char.upper())) for char in name)
    return text + random_.choice(("", "."))


def pairs(count: int, seed: int) -> list[tuple[str, str, str]]:
    """Random clients, names and types."""
    random_ = random.Random(seed)
    return [
        (
            random_.choice(CLIENTS),
            spelled(random_, random_.choice(PREFIXES) + random_.choice(BASES)),
            random_.choice(TYPES),
        )
        for _ in range(count)
    ]


class Answers:
    """The server's real answers, and which verdicts it counted for them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._clients: dict[str, UdpClient] = {}

    def ask(self, client: str, name: str, rdtype: str) -> bytes:
        """Ask as a client does; with the octets of the question in lower case, as `explain` answers it."""
        if client not in self._clients:
            self._clients[client] = UdpClient(self._service.dns, client)
        sent = query(name, rdtype, ident=0)
        self._clients[client].send(sent)
        octets = self._clients[client].receive()
        assert octets is not None
        assert question_of(octets) == question_of(sent)
        return octets

    def close(self) -> None:
        """Close all sockets."""
        for client in self._clients.values():
            client.socket.close()


def check_answer(said: dict[str, Any], real: bytes) -> None:
    """Compare the answer that a verdict stands for with the one that came."""
    response = read(real)
    if said["answer"] is None:
        assert said["verdict"] in ("allowed", "exempted", "observed", "forwarded")
        asked = text_of(response.question[:-4])
        if response.addresses and not asked.startswith("alias"):
            assert response.addresses == [address_of(asked) if said["type"] == 1 else address6_of(asked)]
        return
    expected = read(bytes.fromhex(said["answer"]))
    assert said["verdict"] in ("refused", "local", "blocked")
    assert response.rcode == expected.rcode
    assert response.flags & 0x0680 == expected.flags & 0x0680
    assert [(each.rdtype, each.rdata) for each in response.answer] == [
        (each.rdtype, each.rdata) for each in expected.answer
    ]
    assert (response.soa is None) is (expected.soa is None)
    assert [each.ttl for each in response.answer] == [each.ttl for each in expected.answer]


def verdicts(service: Service) -> Counter[tuple[str, str, str]]:
    """The server's count of verdicts by group, list and verdict."""
    found: Counter[tuple[str, str, str]] = Counter()
    for line in service.http("/metrics").splitlines():
        if line.startswith("dnsfilter_verdicts_total{"):
            labels, _, value = line.removeprefix("dnsfilter_verdicts_total{").rpartition("} ")
            by_name = dict(part.split("=", 1) for part in labels.split(","))
            key = tuple(by_name[key].strip('"') for key in ("group", "list", "verdict"))
            found[key[0], key[1], key[2]] += int(float(value))
    return found


def test_the_servers_own_explanation_agrees_with_its_answers_to_random_questions(server: Service) -> None:
    """Verdict, group and list as the server counted them, and the answer as it came; aliases included."""
    answers, expected = Answers(server), Counter[tuple[str, str, str]]()
    before = verdicts(server)
    try:
        for client, name, rdtype in pairs(1500, 11):
            result = server.control("explain", name=name, type=type_code(rdtype), client=client, at=None)
            said = result["explained"][0]
            check_answer(said, answers.ask(client, name, rdtype))
            expected[said["group"] or "", said["list"] or "", said["verdict"]] += 1
    finally:
        answers.close()
    assert verdicts(server) - before == expected
    assert {verdict for _, _, verdict in expected} == {
        *("refused", "local", "allowed", "blocked", "exempted", "observed", "forwarded")
    }


def test_the_command_agrees_with_the_servers_answers_to_random_questions(server: Service) -> None:
    """By the files alone, so without aliases."""
    answers = Answers(server)
    try:
        for client, name, rdtype in pairs(400, 12):
            if "alias" in name.lower():
                continue
            said = explained(server, name, "--client", client, "--type", rdtype)[0]
            check_answer(said, answers.ask(client, name, rdtype))
            live = server.control("explain", name=name, type=type_code(rdtype), client=client, at=None)["explained"][0]
            for key in ("verdict", "group", "network", "list", "lists", "exemption", "answer", "name"):
                assert said[key] == live[key], key
            assert said["policy"]["hash"] == live["policy"]["hash"]
    finally:
        answers.close()


@pytest.mark.parametrize(
    ("client", "name", "verdict", "group", "list_name"),
    [
        pytest.param(MANAGED, "WWW.Banned.Example.", "blocked", "managed", "ministry", id="blocked"),
        pytest.param(MANAGED, "www.press.banned.example", "allowed", "managed", None, id="allowed"),
        pytest.param(MANAGED, "www.tiktok.com", "blocked", "managed", "tiktok", id="by a built-in list"),
        pytest.param(MANAGED, "watched.example", "observed", "managed", "watch", id="observed"),
        pytest.param(MANAGED, "use-application-dns.net", "blocked", "managed", "canary", id="a canary"),
        pytest.param(MANAGED, "printer.local", "local", "managed", None, id="answered here"),
        pytest.param(MANAGED, "x.exact.example", "forwarded", "managed", None, id="below an exact name"),
        pytest.param(EXEMPT, "banned.example", "exempted", "managed", "ministry", id="exempted"),
        pytest.param(EXEMPT, "urgent.example", "blocked", "managed", "urgent", id="exempted from other lists"),
        pytest.param(PLANNED, "banned.example", "blocked", "managed", "ministry", id="before an exemption"),
        pytest.param(ENDED, "banned.example", "blocked", "managed", "ministry", id="after an exemption"),
        pytest.param(WATCHED, "banned.example", "observed", "watched", "ministry", id="a group that is observed"),
        pytest.param(INSPECTED, "plain.example", "blocked", "inspected", "only", id="only"),
        pytest.param(OTHER, "banned.example", "forwarded", "default", None, id="a group that blocks nothing"),
        pytest.param(STRANGER, "banned.example", "refused", None, None, id="a stranger"),
    ],
)
def test_a_verdict_has_its_group_and_its_list(
    server: Service, client: str, name: str, verdict: str, group: str | None, list_name: str | None
) -> None:
    found = explained(server, name, "--client", client)
    assert len(found) == 1
    assert (found[0]["verdict"], found[0]["group"], found[0]["list"]) == (verdict, group, list_name)
    assert found[0]["client"] == client
    assert found[0]["name"] == name.lower().rstrip(".")


def test_without_a_client_every_group_is_told(server: Service) -> None:
    """Nobody is guessed; exemptions are those of clients, not of groups."""
    found = {each["group"]: each for each in explained(server, "banned.example")}
    assert {group: each["verdict"] for group, each in found.items()} == {
        "managed": "blocked",
        "wide": "blocked",
        "labs": "blocked",
        "watched": "observed",
        "inspected": "forwarded",
        "default": "forwarded",
    }
    assert all(each["client"] is None for each in found.values())
    text = server.command("explain", "banned.example").stdout
    assert "banned.example for any client of group 'managed': BLOCKED" in text
    assert "banned.example for any client of group 'default': FORWARDED" in text


# ---- where it comes from ----


def places(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines that a verdict comes from: list and place."""
    return [(rule["list"], rule["place"]) for rule in found["rules"]]


def line_of(path: Path, text: str) -> int:
    """The number of the line that has a text."""
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_a_name_of_a_list_file_has_its_file_and_line(server: Service) -> None:
    ban = server.config_file.parent / "ban.txt"
    found = explained(server, "www.sub.banned.example", "--client", LABS)[0]
    assert [place for name, place in places(found) if name == "ministry"] == [f"{ban}:2", f"{ban}:5"]
    text = server.command("explain", "www.sub.banned.example", "--client", LABS).stdout
    assert f"{ban}:5: sub.banned.example (list 'ministry')" in text


def test_a_name_of_a_hosts_file_has_its_file_and_line(server: Service) -> None:
    hosts = server.config_file.parent / "hosts.txt"
    found = explained(server, "other.example", "--client", MANAGED)[0]
    assert places(found) == [("hosts", f"{hosts}:2")]


def test_a_name_of_a_built_in_list_has_its_file_and_line(server: Service) -> None:
    found = explained(server, "www.tiktok.com", "--client", MANAGED)[0]
    ((name, place),) = places(found)
    file, _, line = place.rpartition(":")
    assert name == "tiktok"
    assert Path(file).name == "tiktok.txt"
    assert Path(file).read_text().splitlines()[int(line) - 1].split()[0] == "tiktok.com"


def test_a_name_that_is_written_in_the_configuration_has_its_line_there(server: Service) -> None:
    found = explained(server, "urgent.example", "--client", MANAGED)[0]
    line = line_of(server.config_file, "- urgent.example")
    assert places(found) == [("urgent", f"{server.config_file}:{line}")]


def test_networks_that_contain_the_client_too_and_lost_are_told(server: Service) -> None:
    found = explained(server, "banned.example", "--client", MANAGED)[0]
    assert found["network"] == "127.0.1.0/24"
    assert found["other_networks"] == [{"network": "127.0.0.0/18", "group": "wide"}]
    text = server.command("explain", "banned.example", "--client", MANAGED).stdout
    assert "group 'managed', by network 127.0.1.0/24" in text
    assert "network 127.0.0.0/18 of group 'wide' contains it too; the longer prefix decides" in text


def test_a_protected_name_is_said_to_be_one(server: Service) -> None:
    found = explained(server, "guarded.gouv.example", "--client", MANAGED)[0]
    assert found["verdict"] == "forwarded"
    assert found["unblocked_by_protected"] is True
    assert [name for name, _ in places(found)] == ["ministry"]
    assert "`protected` keeps it open" in server.command("explain", "guarded.gouv.example", "--client", MANAGED).stdout
    assert explained(server, "plain.example", "--client", MANAGED)[0]["unblocked_by_protected"] is False


@pytest.mark.parametrize(
    ("client", "moment", "ident", "state", "verdict"),
    [
        pytest.param(EXEMPT, None, "IN-FORCE", "in force", "exempted", id="in force"),
        pytest.param(PLANNED, None, "PLANNED", "planned", "blocked", id="planned"),
        pytest.param(ENDED, None, "ENDED", "ended", "blocked", id="ended"),
        pytest.param(EXEMPT, "2023-03-16", "IN-FORCE", "planned", "blocked", id="the day before"),
        pytest.param(EXEMPT, "2023-03-17", "IN-FORCE", "in force", "exempted", id="its first day"),
        pytest.param(PLANNED, "2098-01-01", "PLANNED", "in force", "exempted", id="planned, on its first day"),
        pytest.param(PLANNED, "2097-12-31T23:59", "PLANNED", "planned", "blocked", id="planned, a minute before"),
        pytest.param(ENDED, "2024-01-01T23:59", "ENDED", "in force", "exempted", id="ended, in its last minute"),
        pytest.param(ENDED, "2024-01-02", "ENDED", "ended", "blocked", id="ended, the day after"),
    ],
)
def test_an_exemption_is_told_with_its_state_at_the_moment_asked_about(
    server: Service, client: str, moment: str | None, ident: str, state: str, verdict: str
) -> None:
    """In the configuration's time zone."""
    at = [] if moment is None else ["--at", moment]
    found = explained(server, "banned.example", "--client", client, *at)[0]
    assert found["verdict"] == verdict
    assert [(each["id"], each["state"]) for each in found["exemptions"]] == [(ident, state)]
    assert found["exemption"] == (ident if verdict == "exempted" else None)


def test_the_human_text_tells_exemptions(server: Service) -> None:
    in_force = server.command("explain", "banned.example", "--client", EXEMPT).stdout
    assert "EXEMPTED" in in_force
    assert re.search(
        r"exemption IN-FORCE in force, until 2\d{3}-.*, lists ministry, tiktok; it lifted the block", in_force
    )
    planned = server.command("explain", "banned.example", "--client", PLANNED).stdout
    assert "exemption PLANNED planned, until " in planned
    assert "it lifted the block" not in planned


def test_how_long_a_device_may_keep_the_answer_ends_with_the_exemption(server: Service) -> None:
    """Cut to the next start or end of an exemption, in whole seconds."""
    before = explained(server, "banned.example", "--client", PLANNED, "--at", "2097-12-31T23:59")[0]
    assert before["device_may_keep_s"] == 60
    last = explained(server, "banned.example", "--client", ENDED, "--at", "2024-01-01T23:58")[0]
    assert last["device_may_keep_s"] == 120
    assert explained(server, "plain.example", "--client", OTHER)[0]["device_may_keep_s"] is None


# ---- by the running server ----


def test_live_follows_the_aliases_to_the_name_that_decides(server: Service) -> None:
    found = explained(server, "alias1.example", "--client", MANAGED, "--live")[0]
    assert (found["verdict"], found["list"], found["via"]) == ("blocked", "ministry", "www.chained.example")
    assert [name for name, _ in places(found)] == ["ministry"]
    text = server.command("explain", "alias1.example", "--client", MANAGED, "--live").stdout
    assert "alias1.example for client 127.0.1.10: BLOCKED" in text
    assert "through the chain: www.chained.example" in text
    assert "upstream answers:" in text
    assert "192.0.2.33" in text
    offline = explained(server, "alias1.example", "--client", MANAGED)[0]
    assert (offline["verdict"], offline["via"]) == ("forwarded", None)


def test_live_tells_the_running_policy_and_says_where_files_have_changed_since(up: Upstream, tmp_path: Path) -> None:
    path = tmp_path / "ban.txt"
    path.write_text("old.example\n")
    config = {
        "upstreams": [f"127.0.0.1:{up.address[1]}"],
        "lists": {"ban": {"file": str(path)}},
        "groups": {"default": {"block": ["ban"]}},
    }
    with Service(tmp_path, config) as service:
        hash_ = service.control("status")["policy"]["hash"]
        path.write_text("# moved down\nold.example\nnew.example\n")
        live = explained(service, "old.example", "--client", "127.0.0.1", "--live")[0]
        assert live["policy"] == {"hash": hash_, "generation": 1}
        assert live["verdict"] == "blocked"
        assert all(rule["changed_since"] for rule in live["rules"])
        text = service.command("explain", "old.example", "--client", "127.0.0.1", "--live").stdout
        assert f"policy {hash_}" in text
        assert "(the file has changed since)" in text
        assert explained(service, "new.example", "--client", "127.0.0.1", "--live")[0]["verdict"] == "forwarded"
        offline = explained(service, "new.example", "--client", "127.0.0.1")[0]
        assert offline["verdict"] == "blocked"
        assert offline["policy"]["hash"] != hash_


def test_live_without_a_server_is_status_1(up: Upstream, tmp_path: Path) -> None:
    service = Service(tmp_path, {"upstreams": ["192.0.2.53"]})
    done = service.command("explain", "plain.example", "--live")
    assert done.returncode == 1
    assert "no server answers on" in done.stderr
    assert not done.stdout


# ---- usage ----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["a..example"], "an empty label", id="an empty label"),
        pytest.param(["x" * 64 + ".example"], "63", id="a label too long"),
        pytest.param(["plain.example", "--type", "NONSENSE"], "'NONSENSE' is no query type", id="no type"),
        pytest.param(["plain.example", "--type", "TYPE65536"], "'TYPE65536' is no query type", id="a type too high"),
        pytest.param(["plain.example", "--client", "10.0.0.300"], "--client: ", id="no address"),
        pytest.param(["plain.example", "--client", "10.0.0.0/8"], "--client: ", id="a network"),
        pytest.param(["plain.example", "--at", "yesterday"], "yesterday", id="no time"),
        pytest.param([], "NAME", id="no name"),
    ],
)
def test_a_question_that_makes_no_sense_is_status_2(server: Service, words: list[str], said: str) -> None:
    """Whether the files are asked or the server."""
    for live in ([], ["--live"]):
        done = server.command("explain", *words, *live)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


@pytest.mark.parametrize(
    ("written", "number"),
    [
        pytest.param("a", 1, id="lower case"),
        pytest.param("HTTPS", 65, id="HTTPS"),
        pytest.param("TYPE65", 65, id="by number"),
        pytest.param("type65400", 65400, id="without a name"),
    ],
)
def test_a_type_may_be_written_by_name_or_number(server: Service, written: str, number: int) -> None:
    assert explained(server, "banned.example", "--client", MANAGED, "--type", written)[0]["type"] == number


@pytest.mark.parametrize(
    "client",
    [
        pytest.param("::ffff:127.0.1.10", id="IPv4-mapped"),
        pytest.param("::ffff:7f00:10a", id="the same in hexadecimal"),
    ],
)
def test_a_mapped_address_is_the_ipv4_client(server: Service, client: str) -> None:
    found = explained(server, "banned.example", "--client", client)[0]
    assert (found["group"], found["verdict"]) == ("managed", "blocked")


def test_the_human_text_shows_the_answer_that_the_client_gets(server: Service) -> None:
    text = server.command("explain", "banned.example", "--client", MANAGED).stdout
    assert text.startswith("banned.example for client 127.0.1.10: BLOCKED\n")
    assert "list 'ministry' decided" in text
    assert "a device may keep the answer up to 60 s" in text
    assert "0.0.0.0" in text
    assert "status: NOERROR" in text
    assert "\x1b" not in text, "colour where there is no terminal"


def test_a_name_with_control_characters_is_shown_escaped(server: Service) -> None:
    done = server.command("explain", r"a\027\010b.banned.example", "--client", MANAGED)
    assert done.returncode == 0
    assert r"a\027\010b.banned.example for client" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_configuration_that_is_wrong_is_status_2(tmp_path: Path) -> None:
    path = tmp_path / "dnsfilter.yaml"
    path.write_text("groups:\n  default: {blok: []}\n")
    done = command("explain", "-c", path, "plain.example")
    assert done.returncode == 2
    assert f"{path}:2" in done.stderr
