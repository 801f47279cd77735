"""What led to a verdict, as plain data: the functions of the engine, with what they looked at.

Used by `dnsfilter explain` on a policy built from files, and by the running server on its own.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dnsfilter.core import answer
from dnsfilter.core.cache import Entry
from dnsfilter.core.clients import ClientRow, address
from dnsfilter.core.exemptions import Exemption
from dnsfilter.core.listed import look_up
from dnsfilter.core.names import Name, ancestry, to_text
from dnsfilter.core.policy import REFUSED, Action, Policy, Verdict, decide, decide_addresses, decide_chain
from dnsfilter.core.wire import build, codes
from dnsfilter.core.wire.query import Query, parse

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, by one client or by any client of one group."""

    name: Name
    qtype: int
    client: str | None  # address; None: a client of `row`'s group without exemptions
    row: ClientRow | None  # None: a stranger
    wall: float


def ask(policy: Policy, name: Name, qtype: int, client: str | None, wall: float) -> Iterator[Asked]:
    """Yield the questions to explain: one for a client, else one for each group.

    Raises ValueError where the client is no address.
    """
    if client is not None:
        yield Asked(name, qtype, str(address(client)), policy.clients.find(address(client)), wall)
        return
    seen: set[str] = set()
    for row in sorted(policy.clients.all_rows(), key=lambda row: bool(row.exemptions)):
        if row.group not in seen:
            seen.add(row.group)
            yield Asked(name, qtype, None, row, wall)


def verdict_of(policy: Policy, asked: Asked) -> Verdict:
    """Judge the question as the engine does."""
    if asked.row is None:
        return REFUSED
    if answer.answered_here(policy, asked.name):
        return Verdict(Action.LOCAL, asked.row.group)
    return decide(policy, asked.row, asked.name, asked.wall)


def goes_upstream(policy: Policy, name: Name, qtype: int) -> bool:
    """Tell whether the question is one that an upstream is ever asked."""
    return not answer.answered_here(policy, name) and qtype not in codes.META and qtype != codes.ANY


def chain_verdict(policy: Policy, asked: Asked, verdict: Verdict, entry: Entry) -> Verdict:
    """Judge the names that an upstream's answer leads to."""
    if asked.row is None or verdict.action in (Action.BLOCKED, Action.LOCAL):
        return verdict
    look_up(entry, policy)
    chain = zip(entry.chain, entry.sets, strict=True)
    verdict = decide_chain(policy, asked.row, verdict, chain, asked.wall)
    return decide_addresses(policy, asked.row, verdict, asked.name, entry.addresses, asked.wall)


def question(name: Name, qtype: int) -> bytes:
    """Return a query for a question, with EDNS so that the answer can explain itself."""
    return b"\0\0" + build.upstream_query(
        name + qtype.to_bytes(2, "big") + codes.IN.to_bytes(2, "big"), cd=False, do=False, edns=True
    )


def describe(policy: Policy, asked: Asked, verdict: Verdict) -> Json:
    """Return the whole path to a verdict, ready for JSON."""
    row = asked.row
    decided = verdict.via or asked.name
    hit = policy.index.hit(decided)
    named = hit.names if verdict.address is None else policy.addresses.find(verdict.address)
    query = parse(question(asked.name, asked.qtype))
    return {
        "name": to_text(asked.name),
        "type": asked.qtype,
        "client": asked.client,
        "at": datetime.fromtimestamp(asked.wall, UTC).isoformat(timespec="seconds"),
        "group": None if row is None else row.group,
        "network": None if row is None else row.network or None,
        "other_networks": list(_other_networks(policy, asked)),
        "verdict": verdict.action,
        "list": verdict.list_name or None,
        "lists": [name for number, name in enumerate(policy.lists) if named >> number & 1],
        "group_lists": _used(policy, row),
        "unblocked_by_protected": bool(hit.names & ~hit.blocks & (row.enforced | row.observed)) if row else False,
        "via": None if verdict.via is None else to_text(verdict.via),
        "address": None if verdict.address is None else str(ipaddress.ip_address(verdict.address)),
        "candidates": [to_text(name) for name in ancestry(decided)][:-1],
        "exemption": verdict.exemption or None,
        "exemptions": [_exemption(policy, each, asked.wall) for each in (row.exemptions if row else ())],
        "device_may_keep_s": _kept(policy, verdict),
        "answer": _answer(policy, asked, verdict, query),
        "policy": {"hash": policy.hash, "generation": policy.generation},
    }


def _used(policy: Policy, row: ClientRow | None) -> list[str]:
    """The lists that the client's group blocks, allows or keeps to."""
    mask = 0 if row is None else row.enforced | row.observed | row.only | row.allow_lists
    return [name for number, name in enumerate(policy.lists) if mask >> number & 1]


def _other_networks(policy: Policy, asked: Asked) -> Iterator[Json]:
    """The shorter prefixes that contain the client too, and lost."""
    if asked.client is None or asked.row is None:
        return
    seen = {asked.row.network}
    for row in policy.clients.rows.all(address(asked.client)):
        if row.network and row.network not in seen:
            seen.add(row.network)
            yield {"network": row.network, "group": row.group}


def _exemption(policy: Policy, exemption: Exemption, wall: float) -> Json:
    state = "planned" if wall < exemption.start else "in force" if wall < exemption.end else "ended"
    return {
        "id": exemption.id,
        "state": state,
        "lists": [name for number, name in enumerate(policy.lists) if exemption.lists >> number & 1],
        "start": exemption.start or None,
        "end": exemption.end,
    }


def _kept(policy: Policy, verdict: Verdict) -> int | None:
    """For how many seconds a device may go on using the answer; None: as long as upstream's TTL says."""
    if verdict.action in (Action.BLOCKED, Action.LOCAL):
        return answer.ttl_of(verdict, policy.blocking)
    return verdict.valid_s


def _answer(policy: Policy, asked: Asked, verdict: Verdict, query: Query) -> str | None:
    """Return the answer in hexadecimal where it is known without asking an upstream."""
    if verdict.action is Action.REFUSED:
        return build.response(query, codes.REFUSED).hex()
    if verdict.action is Action.BLOCKED:
        return answer.blocked(query, verdict, policy.blocking).hex()
    if verdict.action is Action.LOCAL and (kind := answer.answered_here(policy, asked.name)):
        return answer.local(query, kind, policy.blocking.ttl).hex()
    return None
