"""The numbers of the protocol that dnsfilter acts on, by their IANA names."""

# rcodes (RFC 1035 section 4.1.1, RFC 2136, RFC 6891)
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
YXDOMAIN = 6
BADVERS = 16

RCODE_NAMES = {
    NOERROR: "NOERROR",
    FORMERR: "FORMERR",
    SERVFAIL: "SERVFAIL",
    NXDOMAIN: "NXDOMAIN",
    NOTIMP: "NOTIMP",
    REFUSED: "REFUSED",
    YXDOMAIN: "YXDOMAIN",
    BADVERS: "BADVERS",
}

# opcodes
QUERY, NOTIFY, UPDATE = 0, 4, 5

# types
A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA, SRV, DNAME, OPT = 1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 39, 41
DS, RRSIG, NSEC, NSEC3, SVCB, HTTPS = 43, 46, 47, 50, 64, 65
TKEY, TSIG, IXFR, AXFR, MAILB, MAILA, ANY = 249, 250, 251, 252, 253, 254, 255

# Types that are no data (RFC 6895 section 3.1), and how they are answered once the policy lets them through.
META = {
    0: FORMERR,
    OPT: FORMERR,
    TKEY: REFUSED,
    TSIG: REFUSED,
    IXFR: REFUSED,
    AXFR: REFUSED,
    MAILB: NOTIMP,
    MAILA: NOTIMP,
    65_535: REFUSED,
}

# classes
IN = 1

# header bits of the third and fourth octet
QR, TC, RD = 0x80, 0x02, 0x01
RA, AD, CD = 0x80, 0x20, 0x10

# EDNS (RFC 6891)
DO = 0x80  # the first octet of the OPT record's flags
COOKIE = 10  # option codes: RFC 7873,
KEEPALIVE = 11  # RFC 7828,
EDE = 15  # RFC 8914
UDP_SIZE = 1232  # what we announce, and send at most over UDP (RFC 9715)
MIN_UDP_SIZE = 512

# Extended DNS Errors (RFC 8914)
EDE_OTHER, EDE_STALE, EDE_CACHED_ERROR, EDE_BLOCKED, EDE_STALE_NXDOMAIN = 0, 3, 13, 15, 19
EDE_NO_REACHABLE_AUTHORITY, EDE_NETWORK_ERROR, EDE_INVALID_DATA = 22, 23, 24
