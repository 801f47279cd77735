"""Built-in lists for these tests, and a short way to load a text."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from dnsfilter.config.load import Loaded, load
from dnsfilter.config.problems import ConfigError, Problem


@dataclass(frozen=True)
class Info:
    category: str
    origin: str | None


BUILTIN = {
    "tiktok": Info("social", "CN"),
    "bytedance": Info("social", "CN"),
    "games": Info("games", None),
    "encrypted-dns": Info("bypass", None),
    "vk": Info("social", "RU"),
}
FILE = Path("/etc/dnsfilter/dnsfilter.yaml")


def loaded(text: str) -> Loaded:
    return load(FILE, builtin=BUILTIN, text=dedent(text))


def problems(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    return caught.value.problems


def only_problem(text: str) -> Problem:
    found = problems(text)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]
