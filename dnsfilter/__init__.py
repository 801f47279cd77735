"""dnsfilter: a DNS resolver that keeps banned apps off managed devices."""

__version__ = "0.1.0"
