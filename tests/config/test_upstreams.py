"""Upstreams: plain and encrypted, by address and by name."""

import importlib.machinery
import importlib.util
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from dnsfilter.config.load import load
from dnsfilter.config.problems import Wrong
from dnsfilter.config.upstreams import Upstream, upstream
from tests.config.builtin import BUILTIN, loaded, only_problem, problems


def _revocation_list() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca.example")]),
        last_update=datetime(2026, 5, 1, tzinfo=UTC),
        next_update=datetime(2036, 5, 1, tzinfo=UTC),
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


REVOKED = _revocation_list()
BOOTSTRAP = "resolve: {bootstrap: [192.0.2.9]}\n"


@pytest.mark.parametrize(
    ("text", "read", "shown"),
    [
        pytest.param("192.0.2.53", Upstream("udp", "192.0.2.53", 53), "192.0.2.53:53", id="an address"),
        pytest.param("192.0.2.54:5353", Upstream("udp", "192.0.2.54", 5353), "192.0.2.54:5353", id="and its port"),
        pytest.param("2001:db8::53", Upstream("udp", "2001:db8::53", 53), "[2001:db8::53]:53", id="IPv6"),
        pytest.param("tls://192.0.2.55", Upstream("tls", "192.0.2.55", 853), "tls://192.0.2.55:853", id="TLS"),
        pytest.param(
            "tls://192.0.2.55:8853#dns.example",
            Upstream("tls", "192.0.2.55", 8853, "dns.example"),
            "tls://192.0.2.55:8853#dns.example",
            id="TLS, port and name",
        ),
        pytest.param(
            "tls://[2001:db8::55]:8853#DNS.Example.",
            Upstream("tls", "2001:db8::55", 8853, "dns.example"),
            "tls://[2001:db8::55]:8853#dns.example",
            id="TLS over IPv6, capital letters",
        ),
        pytest.param(
            "tls://2001:db8::55", Upstream("tls", "2001:db8::55", 853), "tls://[2001:db8::55]:853", id="no brackets"
        ),
        pytest.param("TLS://dns.example", Upstream("tls", "dns.example", 853), "tls://dns.example:853", id="by name"),
        pytest.param(
            "tls://dns.example#dns.example",
            Upstream("tls", "dns.example", 853),
            "tls://dns.example:853",
            id="its name's own",
        ),
        pytest.param(
            "tls://bücher.example",
            Upstream("tls", "xn--bcher-kva.example", 853),
            "tls://xn--bcher-kva.example:853",
            id="other letters",
        ),
        pytest.param(
            "tls://::ffff:192.0.2.55", Upstream("tls", "192.0.2.55", 853), "tls://192.0.2.55:853", id="in IPv6"
        ),
        pytest.param(
            "https://dns.example/dns-query",
            Upstream("https", "dns.example", 443, "", "/dns-query"),
            "https://dns.example:443/dns-query",
            id="HTTPS",
        ),
        pytest.param(
            "https://192.0.2.1:8443/q/a%20b/#dns.example",
            Upstream("https", "192.0.2.1", 8443, "dns.example", "/q/a%20b/"),
            "https://192.0.2.1:8443/q/a%20b/#dns.example",
            id="HTTPS, port, longer path, name",
        ),
    ],
)
def test_an_upstream_is_kept_in_one_form(text: str, read: Upstream, shown: str) -> None:
    config = loaded(f"{BOOTSTRAP}upstreams: ['{text}']\nforward: [{{zone: a.example, upstreams: ['{text}']}}]").config
    assert config.upstreams == config.forward[0].upstreams == (read,)
    assert str(read) == shown
    assert upstream(shown) == read


@pytest.mark.parametrize(
    ("text", "says", "remedy"),
    [
        pytest.param("http://dns.example/q", "can be read and changed", "https://", id="http"),
        pytest.param("udp://192.0.2.53", "has no scheme", "write 192.0.2.53", id="udp"),
        pytest.param("tcp://192.0.2.53:5353", "has no scheme", "write 192.0.2.53:5353", id="tcp"),
        pytest.param("quic://dns.example", "not available in this version", "tls:// or https://", id="quic"),
        pytest.param("h3://dns.example/q", "not available in this version", "tls:// or https://", id="HTTP/3"),
        pytest.param("sdns://AQcAAAA", "stamps are not read", "tls://192.0.2.55#dns.example", id="a stamp"),
        pytest.param("dot://dns.example", "is written tls://", "tls://", id="dot"),
        pytest.param("doh://dns.example/q", "is written https://", "https://", id="doh"),
        pytest.param("smtp://dns.example", "'smtp://' is not known", "tls:// or https://", id="another scheme"),
        pytest.param("https://dns.example", "has no path", "/dns-query", id="no path"),
        pytest.param("https://dns.example/", "has no path", "/dns-query", id="the root as path"),
        pytest.param("https://dns.example/q{?dns}", "a template", "leave {?dns} out", id="a template"),
        pytest.param("https://dns.example/q?a=b", "no query string", "leave out", id="a query string"),
        pytest.param("https://dns.example/a b", "'/a b' is not a path", "%20", id="a blank in the path"),
        pytest.param("tls://dns.example/q", "tls:// has no path", "https://", id="a path for TLS"),
        pytest.param("https://me:secret@dns.example/q", "a user or a password", "leave them out", id="a password"),
        pytest.param("tls://secret@192.0.2.55", "a user or a password", "leave them out", id="a user"),
        pytest.param("tls://", "has no host", "tls://dns.example", id="no host"),
        pytest.param("https:///q", "has no host", "https://dns.example/dns-query", id="no host, a path"),
        pytest.param("tls://:853", "''", "tls://dns.example", id="a port alone"),
        pytest.param("tls://dns.example:0", "'0' is not a port", "1 to 65535", id="port 0"),
        pytest.param("tls://dns.example:x", "'x' is not a port", "1 to 65535", id="a port of letters"),
        pytest.param("tls://192.0.2.300", "is not an address", "tls://", id="an octet of 300"),
        pytest.param("tls://[2001:db8::55", "is not an address", "[2001:db8::53]:53", id="an open bracket"),
        pytest.param("tls://0.0.0.0", "no machine's address", "resolver", id="unspecified"),
        pytest.param("tls://224.0.0.251", "address of many", "tls://", id="multicast"),
        pytest.param("tls://dns..example", "is not a name", "tls://", id="an empty label"),
        pytest.param("tls://dns_.example\\032", "is not", "tls://", id="an escape"),
        pytest.param("tls://192.0.2.55#", "no host name stands behind #", "certificate", id="an empty name"),
        pytest.param(
            "tls://192.0.2.55#192.0.2.56", "no host name stands behind #", "certificate", id="an address there"
        ),
        pytest.param("tls://192.0.2.55#a/b", "is not a name", "certificate", id="a path there"),
        pytest.param("192.0.2.53#dns.example", "plain upstream has no name", "tls://", id="a name for a plain one"),
        pytest.param("dns.example", "a host name stands where an address", "tls://dns.example", id="a plain name"),
        pytest.param("dns.example:53", "a host name stands where an address", "tls://", id="a plain name and port"),
    ],
)
def test_an_upstream_that_cannot_be_asked_says_what_to_write(text: str, says: str, remedy: str) -> None:
    problem = only_problem(f"\n{BOOTSTRAP}upstreams: ['{text}']")
    assert problem.text.startswith("upstreams: ")
    assert says in problem.text
    assert remedy in problem.remedy
    assert problem.line == 3
    assert "secret" not in f"{problem.text}{problem.remedy}"


@given(st.text() | st.text("tls:/htp.#@[]{}?0123456789aäß%\\\0 -_").map(lambda text: f"tls://{text}"))
@example("https://dns.example/dns-query#\ud800")
def test_any_text_is_an_upstream_or_says_what_is_wrong(text: str) -> None:
    said = ["what is wrong", "what to write"]
    try:
        found = upstream(text)
    except Wrong as error:
        said = [error.text, error.remedy]
    else:
        assert upstream(str(found)) == found
    assert all(each and each.isprintable() for each in said)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param("upstreams: ['tls://127.0.0.1:5335']", 1, "an address of our own", id="our port by TLS"),
        pytest.param("upstreams: ['https://127.0.0.1:5335/q']", 1, "an address of our own", id="our port by HTTPS"),
        pytest.param("upstreams: ['tls://dns.example']", 1, "dns.example could be looked up by nobody", id="by itself"),
        pytest.param(
            "upstreams: [192.0.2.53]\nforward: [{zone: a.example, upstreams: ['https://dns.example/q']}]",
            *(2, "dns.example could be looked up by nobody"),
            id="by itself, in a zone",
        ),
        pytest.param("upstreams:\n- 192.0.2.53\n- '192.0.2.53:53'", 3, "192.0.2.53:53 is in it twice", id="twice"),
        pytest.param(
            "forward: [{zone: a.example, upstreams: ['tls://192.0.2.55', 'TLS://192.0.2.55:853']}]",
            *(1, "tls://192.0.2.55:853 is in it twice"),
            id="twice in a zone",
        ),
    ],
)
def test_upstreams_that_lead_nowhere_or_twice_are_refused(text: str, line: int, says: str) -> None:
    problem = only_problem(text)
    assert says in problem.text
    assert problem.remedy
    assert problem.line == line


def test_the_remedy_for_a_host_name_names_bootstrap_and_the_form_without() -> None:
    problem = only_problem("upstreams: ['https://dns.example/q']")
    assert "bootstrap: [192.0.2.53]" in problem.remedy
    written = problem.remedy.rpartition("write ")[2]
    assert upstream(written) == Upstream("https", "192.0.2.53", 443, "dns.example", "/q")


def test_a_bootstrap_that_is_wrong_is_not_called_missing_as_well() -> None:
    [problem] = problems("upstreams: ['tls://dns.example']\nresolve: {bootstrap: [nobody]}")
    assert problem.line == 2


@pytest.mark.parametrize(
    "second",
    [
        pytest.param("tls://192.0.2.53", id="by another transport"),
        pytest.param("192.0.2.53:5353", id="on another port"),
    ],
)
def test_one_machine_may_be_asked_in_two_ways(second: str) -> None:
    config = loaded(
        f"upstreams: [192.0.2.53, '{second}']\nforward: [{{zone: a.example, upstreams: ['{second}']}}]"
    ).config
    assert config.upstreams is not None
    assert len(config.upstreams) == 2


def test_certificates_are_read_from_a_file_beside_the_configuration(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    path = tmp_path / "dnsfilter.yaml"
    path.write_text("upstreams: ['tls://192.0.2.55']\nresolve: {ca_file: ca.pem}")
    assert load(path, builtin=BUILTIN).config.resolve.ca_file == tmp_path / "ca.pem"


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"-----BEGIN CERTIFICATE-----\nnot base64\n-----END CERTIFICATE-----\n", id="a damaged one"),
        pytest.param(trustme.CA().private_key_pem.bytes(), id="a private key"),
        pytest.param(REVOKED, id="revoked ones alone"),
    ],
)
def test_a_file_without_certificates_is_refused(octets: bytes, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(octets)
    problem = only_problem(f"resolve:\n  ca_file: {file}")
    assert problem.line == 2
    assert "certificate" in problem.text
    assert "BEGIN CERTIFICATE" in problem.remedy


def test_https_needs_a_library_that_not_all_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
        return None if name == "h2" else found(name)

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    problem = only_problem(f"{BOOTSTRAP}upstreams:\n- 'https://dns.example/q'\n- 'tls://192.0.2.55'")
    assert (problem.line, problem.text) == (3, "upstreams: https:// upstreams need the library h2")
    assert problem.remedy == "pip install 'dnsfilter[doh]'"
