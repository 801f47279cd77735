"""The policy all scenarios share, and what its answers look like."""

from collections.abc import Iterable
from typing import Any

import dns.rdata
import dns.rdataclass
import dns.rdatatype

from tests.scenarios.client import AA, AD, AUTHORITY, NOERROR, QR, RA, Address, Response, ask
from tests.scenarios.upstream import Upstream

LISTED = "banned.example"
TEXT = "Not allowed on work phones"
BLOCKED_CODE = 15  # the EDE "Blocked", RFC 8914 4.16

MANAGED = "127.0.1.10"  # in the network of the group that blocks
EXEMPT = "127.0.1.70"  # in it too, and in the exemption's
UNMANAGED = "127.0.0.10"  # in no group's network


def where(address: Address) -> str:
    """An upstream's address as the configuration has it."""
    return f"{address[0]}:{address[1]}"


def policy(*upstreams: Upstream, **more: Any) -> dict[str, Any]:
    """The configuration: MANAGED is blocked, EXEMPT is exempted, UNMANAGED is forwarded. more: further keys."""
    return {
        "upstreams": [where(upstream.address) for upstream in upstreams],
        "lists": {"ban": {"domains": [LISTED]}},
        "groups": {
            "managed": {"networks": ["127.0.1.0/24"], "block": ["ban"]},
            "default": {"block": []},
        },
        "exemptions": {
            "regime": "registered",
            "entries": [exemption("EX-1", ["127.0.1.64/28"], ["ban"])],
        },
        "timezone": "UTC",
        "blocking": {"text": TEXT},
        **more,
    }


def exemption(
    ident: str, networks: list[str], lists: list[str], start: str = "2023-03-17", end: str = "2099-12-31"
) -> dict[str, Any]:
    """An entry of the register."""
    return {
        "id": ident,
        "networks": networks,
        "lists": lists,
        "owner": "Press office",
        "reason": "institutional communication",
        "approved_by": "CISO",
        "start": start,
        "end": end,
    }


def rdata_text(response: Response, section: int, rdtype: str) -> list[str]:
    """The rdata of a section's records of a type, as text."""
    rrsets = {1: response.message.answer, 2: response.message.authority, 3: response.message.additional}[section]
    return [rdata.to_text() for rrset in rrsets if rrset.rdtype == dns.rdatatype.from_text(rdtype) for rdata in rrset]


def check_soa(response: Response, ttl: int) -> None:
    """The one SOA of a negative answer of our own (RFC 2308)."""
    records = response.section(AUTHORITY)
    assert [record.rdtype for record in records] == [6]
    assert records[0].owner.lower() == response.question[:-4].lower(), "the SOA's owner is not the qname"
    assert records[0].ttl == ttl
    assert rdata_text(response, AUTHORITY, "SOA") == [f"dnsfilter.invalid. nobody.invalid. 1 3600 600 86400 {ttl}"]


def check_sinkholed(response: Response, ttl: int = 60, text: str = TEXT) -> None:
    """A policy answer in the default style: the zero address for A and AAAA, NODATA for all else."""
    assert response.flags & (QR | RA) == QR | RA
    assert not response.flags & (AA | AD)
    assert response.rcode == NOERROR
    rdtype = int.from_bytes(response.question[-4:-2], "big")
    if rdtype in (1, 28):
        assert response.addresses == ["0.0.0.0" if rdtype == 1 else "::"]
        assert [record.ttl for record in response.answer] == [ttl]
        assert response.answer[0].owner.lower() == response.question[:-4].lower()
        assert response.counts[1:3] == (1, 0)
    else:
        assert not response.answer
        check_soa(response, ttl)
    assert response.counts[3] == (0 if response.opt is None else 1)
    check_explained(response, text)


def check_explained(response: Response, text: str = TEXT) -> None:
    """A policy answer tells why, if the query had OPT (RFC 8914), and nothing else is in its OPT."""
    if response.opt is not None:
        assert response.ede == [(BLOCKED_CODE, text)]
        assert response.opt.rdclass == 1232


def is_blocked(server: Address, name: str, source: str) -> bool:
    """Whether a name is answered with the zero address."""
    return ask(server, name, "A", source=source).addresses == ["0.0.0.0"]


def nothing_of(names: Iterable[str], upstream: Upstream) -> None:
    """Fail if one of these names, or one below, has gone upstream, even as octets of another query."""
    for name in names:
        assert not upstream.queries(name, below=True), f"{name} went upstream"


def check_clean(upstream: Upstream) -> None:
    """Every query that went upstream is a plain one.

    RD set, opcode 0, one question and nothing else but OPT, no other header bit than AD and CD
    (RFC 1035 4.1.1, RFC 9619), nothing behind it, no EDNS option, at most 1,400 octets offered (RFC 9715).
    """
    for asked in upstream.queries():
        if asked.flags & QR:
            continue  # the answer to a query that a test forged
        message = asked.message  # fails on octets behind it
        assert asked.flags & ~0x0030 == 0x0100, f"flags {asked.flags:04x}"
        counts = [len(section) for section in (message.question, message.answer, message.authority, message.additional)]
        assert counts == [1, 0, 0, 0], counts
        if message.edns >= 0:
            assert message.edns == 0
            assert not message.options, message.options
            assert 512 <= message.payload <= 1400
            assert not message.ednsflags & 0x7FFF
