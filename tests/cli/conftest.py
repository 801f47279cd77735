"""A running server with a policy in which every part of a verdict can come about."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.expect import exemption, where
from tests.scenarios.service import Service
from tests.scenarios.upstream import Upstream

BAN = """\
# The ministry's own list
banned.example

chained.example   # reached by aliases
sub.banned.example
guarded.gouv.example
"""

MANAGED, EXEMPT, PLANNED, ENDED = (f"127.0.1.{host}" for host in (10, 70, 130, 200))
LABS, WATCHED, INSPECTED, OTHER, STRANGER = (f"127.0.{net}.9" for net in (3, 4, 5, 100, 200))
CLIENTS: Sequence[str] = (MANAGED, EXEMPT, PLANNED, ENDED, LABS, WATCHED, INSPECTED, OTHER, STRANGER)


def config(up: Upstream, folder: Path) -> dict[str, Any]:
    """The configuration of the server."""
    return {
        "upstreams": [where(up.address)],
        "access": ["127.0.0.0/17"],
        "lists": {
            "ministry": {"file": str(folder / "ban.txt")},
            "hosts": {"file": str(folder / "hosts.txt"), "format": "hosts"},
            "urgent": {"domains": ["first.example", "urgent.example"]},
            "watch": {"domains": ["watched.example"], "mode": "observe"},
            "approved": {"domains": ["approved.example", "banned.example"]},
            "ban": {"lists": ["ministry", "hosts", "urgent", "tiktok"]},
        },
        "protected": ["gouv.example"],
        "groups": {
            "managed": {
                "networks": ["127.0.1.0/24"],
                "block": ["ban", "watch"],
                "allow": ["press.banned.example"],
            },
            "wide": {"networks": ["127.0.0.0/18"], "block": ["ministry"]},
            "labs": {"networks": ["127.0.3.0/24"], "block": ["ministry"], "answer": "nxdomain"},
            "watched": {"networks": ["127.0.4.0/24"], "block": ["ban"], "mode": "observe"},
            "inspected": {"networks": ["127.0.5.0/24"], "block": ["urgent"], "only": ["approved"]},
            "default": {"block": []},
        },
        "exemptions": {
            "entries": [
                exemption("IN-FORCE", ["127.0.1.64/28"], ["ministry", "tiktok"]),
                exemption("PLANNED", ["127.0.1.128/28"], ["ministry"], start="2098-01-01"),
                exemption("ENDED", ["127.0.1.192/28"], ["ministry"], end="2024-01-01"),
            ]
        },
        "timezone": "Europe/Paris",
        "blocking": {"text": "Not allowed on work phones"},
    }


@pytest.fixture(scope="package")
def up() -> Iterator[Upstream]:
    """The server's upstream."""
    with Upstream() as upstream:
        chain = [f"alias{n}.example 300 IN CNAME alias{n + 1}.example" for n in (1, 2)]
        for start in (1, 2, 3):
            end = "alias3.example 300 IN CNAME www.chained.example"
            upstream.on(f"alias{start}.example", [*chain[start - 1 :], end, "www.chained.example 300 IN A 192.0.2.33"])
        yield upstream


@pytest.fixture(scope="package")
def running(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The server."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "ban.txt").write_text(BAN)
    (folder / "hosts.txt").write_text("127.0.0.1 localhost\n0.0.0.0 exact.example other.example\n")
    with Service(folder, config(up, folder)) as service:
        yield service


@pytest.fixture
def server(running: Service) -> Iterator[Service]:
    """The server, which has to be alive after the test."""
    yield running
    running.check_alive()
