"""The file that hands a policy over: it comes back whole, and a damaged one is refused."""

import dataclasses
import functools
import ipaddress
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsfilter import build, snapshot
from dnsfilter.core.index import Chunk, Index
from dnsfilter.core.names import from_text
from dnsfilter.settings import Request
from dnsfilter.snapshot import BadSnapshot, Head, Reader

CONFIG = """\
upstreams: [192.0.2.53, "tls://192.0.2.55#dns.example", "https://192.0.2.56:8443/dns-query"]
forward: [{zone: intra.example, upstreams: [192.0.2.54]}]
lists:
  one: {domains: [one.example, both.example]}
  two: {domains: [two.example, both.example], match: exact}
  edge: {addresses: [203.0.113.0/24, "2001:db8:bad::/48"]}
protected: [safe.one.example]
groups:
  managed:
    networks: [192.0.2.0/24, "2001:db8::/48"]
    block: [one, two, edge]
    allow: [press.one.example]
    answer: nxdomain
  default: {block: [one]}
exemptions:
  entries:
    - {id: PRESS-1, networks: [192.0.2.64/28], lists: [one], owner: o, reason: r, approved_by: a, end: 2099-12-31}
resolve: {strategy: parallel, rebind_protection: on, private_domains: [corp.example]}
rate_limit: {queries_per_second: 100, exempt: [192.0.2.9]}
blocking: {ipv4: off, text: "Not allowed: é"}
timezone: UTC
"""


@functools.cache
def built() -> build.Built:
    return build.build(build.read(Request(text=CONFIG)))


@functools.cache
def octets() -> bytes:
    """A snapshot of several chunks: each list's names, and those of both."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.snapshot"
        snapshot.write(path, built().head, built().chunks)
        return path.read_bytes()


def loaded(path: Path) -> tuple[Head, list[Chunk]]:
    reader = Reader(path)
    return reader.head, list(reader.chunks())


def test_a_snapshot_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "policy.snapshot"
    snapshot.write(path, built().head, built().chunks)
    head, chunks = loaded(path)
    assert dataclasses.replace(head, policy={}) == dataclasses.replace(built().head, policy={})
    assert chunks == built().chunks
    assert len(chunks) > 2
    assert len({chunk.pair for chunk in chunks}) > 2
    ours, theirs = snapshot.policy_of(head, Index(chunks)), built().policy()
    assert list(ours.clients.all_rows()) == list(theirs.clients.all_rows())
    assert (ours.hash, ours.lists, ours.blocking, ours.zones) == (
        theirs.hash,
        theirs.lists,
        theirs.blocking,
        theirs.zones,
    )
    assert ours.private_zones == theirs.private_zones == {from_text("corp.example")}
    for text in ("203.0.113.9", "203.0.114.9", "10.0.0.1", "2001:db8:bad::9", "::1", "2001:db8::9"):
        packed = ipaddress.ip_address(text).packed
        assert ours.addresses.find(packed) == theirs.addresses.find(packed), text
    for text in ("one.example", "x.one.example", "safe.one.example", "two.example", "x.two.example", "other.example"):
        assert ours.index.hit(from_text(text)) == theirs.index.hit(from_text(text)), text


def test_nobody_else_can_read_it_and_no_part_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "policy.snapshot"
    snapshot.write(path, built().head, built().chunks)
    assert path.stat().st_mode & 0o777 == 0o600, "it holds who is exempt"
    assert [each.name for each in tmp_path.iterdir()] == ["policy.snapshot"]


def test_a_snapshot_without_any_name_is_whole_too(tmp_path: Path) -> None:
    path = tmp_path / "policy.snapshot"
    snapshot.write(path, built().head, [])
    assert loaded(path)[1] == []


def is_refused(damaged: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.snapshot"
        path.write_bytes(damaged)
        try:
            loaded(path)
        except BadSnapshot:
            return True
    return False


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_snapshot_damaged_at_any_octet_is_refused(data: st.DataObject) -> None:
    whole = octets()
    at = data.draw(st.integers(min_value=0, max_value=len(whole) - 1))
    bits = data.draw(st.integers(min_value=1, max_value=255))
    assert is_refused(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])


def test_lengths_numbers_and_checksums_count_as_much_as_names() -> None:
    """A pair's number that changes would block other names for other groups; a length must not take all memory."""
    whole = octets()
    head, names = range(80), range(len(whole) - 24 * len(built().chunks) - 400, len(whole))
    for at in (*head, *range(80, len(whole), 31), *names):
        for bits in (1, 0x80):
            damaged = whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :]
            assert is_refused(damaged), f"octet {at} of {len(whole)}"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_snapshot_cut_anywhere_is_refused(data: st.DataObject) -> None:
    whole = octets()
    assert is_refused(whole[: data.draw(st.integers(min_value=0, max_value=len(whole) - 1))])


def test_octets_behind_the_end_are_refused() -> None:
    assert is_refused(octets() + b"\0")


@pytest.mark.parametrize(
    "damaged",
    [b"", b"dnsfilter snapshot 0\n", b"# a list\ntiktok.example\n", bytes(100_000)],
    ids=["empty", "of another version", "another file", "zeros"],
)
def test_what_is_no_snapshot_is_refused(damaged: bytes) -> None:
    assert is_refused(damaged)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Reader(tmp_path / "policy.snapshot")


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="policy"):
        snapshot.write(tmp_path / "missing" / "policy.snapshot", built().head, built().chunks)
