"""An upstream's answer fitted to one client: judged by all that it tells, counted down, no longer than it may be."""

from dnsfilter.core import answer
from dnsfilter.core.cache import Entry
from dnsfilter.core.clients import ClientRow
from dnsfilter.core.index import Hit
from dnsfilter.core.listed import look_up
from dnsfilter.core.names import Name
from dnsfilter.core.policy import Action, Policy, Verdict, decide_addresses, decide_chain, judge, limited
from dnsfilter.core.wire import build, codes
from dnsfilter.core.wire.framing import MAX_MESSAGE
from dnsfilter.core.wire.query import Query

_STALE = {codes.NXDOMAIN: codes.EDE_STALE_NXDOMAIN}  # the extended error by rcode, else EDE_STALE


def deliver(
    policy: Policy,
    query: Query,
    row: ClientRow,
    verdict: Verdict,
    entry: Entry,
    now: float,
    wall: float,
    *,
    is_udp: bool,
) -> tuple[bytes, Verdict]:
    """Return the response's octets, and the verdict on the whole answer.

    verdict: that on the qname, which is not blocked. Where the policy blocks what the answer leads to, the response is
    that of a blocked name. is_udp: then it is no longer than the client offers, else truncated.
    """
    tells = entry.chain or entry.additional or policy.addresses
    if entry.generation != policy.generation and (tells or entry.is_listed):
        look_up(entry, policy)
    if entry.is_listed and verdict.action is not Action.ALLOWED:
        verdict = decide_chain(policy, row, verdict, zip(entry.chain, entry.sets, strict=True), wall)
        if entry.addresses:
            verdict = decide_addresses(policy, row, verdict, query.name, entry.addresses, wall)
        if verdict.action is Action.BLOCKED:
            return answer.blocked(query, verdict, policy.blocking), verdict
        entry, verdict = _without_blocked(policy, row, verdict, entry, query.name, wall)
    if entry.is_truncated and is_udp:
        return answer.truncated(query), verdict
    if entry.is_truncated:
        return answer.failure(query, codes.EDE_NETWORK_ERROR, "upstream does not answer by TCP"), verdict
    flags2 = codes.AD if entry.is_authentic and (query.do or query.flags2 & codes.AD) else 0
    opt = build.opt(query)
    if opt and entry.is_stale(now):
        opt = build.opt(query, options=build.ede(_STALE.get(entry.rcode, codes.EDE_STALE)))
    body = entry.aged_body(now, verdict.valid_s)
    octets = build.respond(query, entry.rcode, entry.counts, body, opt, 0, flags2)
    if is_udp and len(octets) > query.udp_limit:
        return answer.truncated(query), verdict
    if len(octets) > MAX_MESSAGE:
        return answer.failure(query, codes.EDE_OTHER, "an answer that no message can hold"), verdict
    return octets, verdict


def _without_blocked(
    policy: Policy, row: ClientRow, verdict: Verdict, entry: Entry, qname: Name, wall: float
) -> tuple[Entry, Verdict]:
    """Take away additional records that tell of what is blocked; the answer itself stays (MX, SRV, NS)."""
    sets, spared = policy.index.sets, policy.spared(qname)
    for number, (found, mask) in enumerate(zip(entry.additional_sets, entry.additional_masks, strict=True)):
        hits = [sets[each] for each in found if each]
        if left := mask & ~spared:
            hits.append(Hit(left, left))
        for link in (judge(row, hit, wall, is_qname=False) for hit in hits):
            verdict = limited(verdict, link.valid_s)
            if link.action is Action.BLOCKED:
                return entry.without(number), verdict
    return entry, verdict
