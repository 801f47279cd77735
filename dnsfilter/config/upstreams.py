"""What a written upstream may be: an address, tls:// or https://. Text in, value out.

Every function raises Wrong, with what is wrong and what to write instead.
"""

import re
from dataclasses import dataclass

from dnsfilter.config import values
from dnsfilter.config.problems import Wrong, shown
from dnsfilter.config.values import Address
from dnsfilter.core import names


@dataclass(frozen=True, slots=True)
class Upstream:
    """A resolver to ask, and how."""

    transport: str  # "udp" (TCP where it is needed), "tls" or "https"
    host: str  # an address as in Address, or a host name in DNS form
    port: int
    server_name: str = ""  # that its certificate is for; empty: the host
    path: str = ""  # of https

    @property
    def address(self) -> Address | None:
        """Where it is; None where a host name has to be looked up for that."""
        found = Address(self.host, self.port)
        try:
            found.ip  # noqa: B018 - whether it is one
        except ValueError:
            return None
        return found

    def __str__(self) -> str:
        where = str(Address(self.host, self.port))
        if self.transport == "udp":
            return where
        return f"{self.transport}://{where}{self.path}{self.server_name and '#' + self.server_name}"


_PORTS = {"tls": 853, "https": 443}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_URL_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]+")
_TLS_FORM = "write it as tls://192.0.2.55#dns.example or tls://dns.example"
_HTTPS_FORM = "write it as https://dns.example/dns-query"

# Forms of upstreams that are written elsewhere: what to say of them, and what to write here.
_OTHER_SCHEMES = {
    "udp": ("a plain upstream has no scheme: it is asked over UDP, and over TCP where needed", "write {rest}"),
    "tcp": ("a plain upstream has no scheme: it is asked over UDP, and over TCP where needed", "write {rest}"),
    "http": ("what goes over http can be read and changed on its way", _HTTPS_FORM),
    **dict.fromkeys(("dot", "tls-dot"), ("DNS over TLS is written tls://", "write tls://")),
    **dict.fromkeys(("doh", "h2"), ("DNS over HTTPS is written https://", "write https://")),
    **dict.fromkeys(
        ("quic", "doq", "h3"), ("DNS over QUIC and HTTP/3 is not available in this version", "write tls:// or https://")
    ),
    "sdns": ("DNS stamps are not read", "write what it stands for: tls://192.0.2.55#dns.example or https://"),
}


def upstream(text: str) -> Upstream:
    """Read an address, `tls://HOST[:PORT][#NAME]` or `https://HOST[:PORT]/PATH[#NAME]`.

    HOST: an address or a host name. NAME: what the certificate is for, where that is not the host.
    """
    if (match := _SCHEME.fullmatch(text)) is None:
        return _plain_upstream(text)
    scheme, rest = match[1].lower(), match[2]
    if "@" in rest.partition("/")[0]:
        remedy = "leave them out: whoever is asked over it has no use for them"
        raise Wrong("an upstream with a user or a password", remedy)
    if scheme not in _PORTS:
        why, remedy = _OTHER_SCHEMES.get(scheme, (f"'{scheme}://' is not known here", "write tls:// or https://"))
        plain = rest.partition("/")[0].partition("#")[0] or "192.0.2.53"
        raise Wrong(f"{shown(text)}: {why}", remedy.format(rest=shown(plain)[1:-1]))
    rest, hash_sign, server_name = rest.partition("#")
    authority, slash, path = rest.partition("/")
    form = _TLS_FORM if scheme == "tls" else _HTTPS_FORM
    host, port = _upstream_host(text, authority, _PORTS[scheme], form)
    path = _upstream_path(text, scheme, slash + path)
    if hash_sign:
        server_name = _server_name(text, server_name)
    return Upstream(scheme, host, port, "" if server_name == host else server_name, path)


def _plain_upstream(text: str) -> Upstream:
    if "#" in text:
        remedy = "write tls:// in front of it for DNS over TLS, or leave the name out"
        raise Wrong(f"{shown(text)}: a plain upstream has no name to check", remedy)
    if values.is_host_name(values.host_and_port(text)[0]):
        raise Wrong(
            f"{shown(text)}: {values.NO_NAME}", "write the address; encrypted ones may be named: tls://dns.example"
        )
    found = values.address(text, 53)
    _one_machine(text, found)
    return Upstream("udp", found.host, found.port)


def _one_machine(text: str, found: Address) -> None:
    if found.ip.is_unspecified:
        raise Wrong(f"{shown(text)} is no machine's address", "write the address of a resolver")


def _upstream_host(text: str, authority: str, port: int, form: str) -> tuple[str, int]:
    """Return the host, an address or a name in DNS form, and the port."""
    if not authority:
        raise Wrong(f"{shown(text)} has no host", form)
    host, written_port = values.host_and_port(authority)
    if ":" in host or host.replace(".", "").isdigit():
        try:
            found = values.address(authority, port)
        except Wrong as error:
            raise Wrong(f"{shown(text)}: {error.text}", form) from None
        _one_machine(text, found)
        if "%" in found.host and "#" not in text:
            raise Wrong(f"{shown(text)}: no certificate is for an address with an interface", form)
        return found.host, found.port
    name_ = _host_name(text, host, form)
    return name_, port if written_port is None else values.port_of(text, written_port, lowest=1)


def _host_name(text: str, host: str, form: str) -> str:
    try:
        found = names.to_text(values.name(host))
    except Wrong as error:
        raise Wrong(f"{shown(text)}: {error.text}", form) from None
    if values.HOST_NAME.fullmatch(found) is None:
        raise Wrong(f"{shown(text)}: {shown(host)} is not the name of a host", form)
    return found.removesuffix(".")


def _upstream_path(text: str, scheme: str, path: str) -> str:
    if scheme == "tls":
        if path:
            raise Wrong(f"{shown(text)}: tls:// has no path", "leave it out, or write https:// for DNS over HTTPS")
        return ""
    if "{" in path:
        raise Wrong(f"{shown(text)}: a template is not read", "leave {?dns} out: questions are sent by POST")
    if "?" in path:
        raise Wrong(f"{shown(text)}: an upstream has no query string", "leave out what stands behind the path")
    if path in ("", "/"):
        raise Wrong(f"{shown(text)} has no path", "write the one that its operator names, most often /dns-query")
    if _URL_PATH.fullmatch(path) is None:
        raise Wrong(f"{shown(text)}: {shown(path)} is not a path", "write other characters as %20")
    return path


def _server_name(text: str, written: str) -> str:
    """Read what stands behind #: the name that a certificate is for."""
    remedy = "write the name that its certificate is for"
    if not written or ":" in written or written.replace(".", "").isdigit():
        raise Wrong(f"{shown(text)}: no host name stands behind #", remedy)
    return _host_name(text, written, remedy)
