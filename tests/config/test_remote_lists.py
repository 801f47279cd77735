"""Lists that are fetched: what may be written about them."""

import pytest

from dnsfilter.core.rules import Match
from tests.config.builtin import loaded, only_problem, problems

KEY = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"


def remote(more: str = "") -> str:
    return f"lists: {{csirt: {{url: 'https://lists.example/t.txt'{more}}}}}"


def test_a_remote_list_has_limits_of_its_own_and_defaults_for_the_rest() -> None:
    text = remote(
        f", format: hosts, refresh: 90s, max_shrink: 12.5%, max_growth: 2x, max_rejected: 0%, max_size: 2MiB,"
        f" sha256: {'AB' * 32}, signing_key: '{KEY}'"
    )
    entry = loaded(text).config.lists["csirt"]
    assert (entry.url, entry.format, entry.refresh_s) == ("https://lists.example/t.txt", "hosts", 90.0)
    assert (entry.max_shrink, entry.max_growth, entry.max_rejected) == (0.125, 2.0, 0.0)
    assert (entry.max_size, entry.sha256, entry.signing_key) == (2 * 1024**2, "ab" * 32, KEY)
    default = loaded(remote()).config.lists["csirt"]
    assert (default.refresh_s, default.max_shrink, default.max_growth) == (21_600, 0.5, 10)
    assert (default.max_rejected, default.max_size) == (0.1, 64 * 1024**2)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param("https://lists.example", "https://lists.example/", id="no path"),
        pytest.param("https://LISTS.example:8443/A.txt?t=1#x", "https://lists.example:8443/A.txt?t=1", id="a fragment"),
        pytest.param("https://bücher.example/t", "https://xn--bcher-kva.example/t", id="a name of other letters"),
        pytest.param("https://192.0.2.7/t", "https://192.0.2.7/t", id="an address"),
        pytest.param("https://[2001:db8::7]:444/t", "https://[2001:db8::7]:444/t", id="an IPv6 address"),
    ],
)
def test_a_url_is_kept_in_one_form(written: str, read: str) -> None:
    assert loaded(f"lists: {{a: {{url: '{written}'}}}}").config.lists["a"].url == read


@pytest.mark.parametrize(
    ("url", "part"),
    [
        pytest.param("http://lists.example/t", "may have been changed on its way", id="http"),
        pytest.param("ftp://lists.example/t", "not an https URL", id="another scheme"),
        pytest.param("lists.example/t", "not an https URL", id="no scheme"),
        pytest.param("https:///t", "not an https URL", id="no host"),
        pytest.param("https://me:secret@lists.example/t", "a user or a password", id="a password"),
        pytest.param("https://lists.example:99999/t", "not a URL", id="a port too large"),
        pytest.param("https://lists.example:0/t", "0 is not a port", id="port 0"),
        pytest.param("https://lists example/t", "not a URL", id="a blank"),
        pytest.param("https://lists..example/t", "not a name", id="an empty label"),
        pytest.param("https://[2001:db8::7/t", "not a URL", id="half a bracket"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, part: str) -> None:
    problem = only_problem(f"lists: {{a: {{url: '{url}'}}}}")
    assert part in problem.text
    assert problem.remedy
    assert "secret" not in f"{problem.text}{problem.remedy}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("refresh", "1s", id="too often"),
        pytest.param("refresh", "6", id="a duration without unit"),
        pytest.param("max_shrink", "50", id="a share without its sign"),
        pytest.param("max_shrink", "101%", id="more than all"),
        pytest.param("max_growth", "10", id="a factor without x"),
        pytest.param("max_growth", "0.5x", id="growing to less"),
        pytest.param("max_rejected", "-1%", id="a negative share"),
        pytest.param("max_size", "64", id="a size without unit"),
        pytest.param("max_size", "2GiB", id="a size too large"),
        pytest.param("sha256", "abc", id="a short hash"),
        pytest.param("signing_key", "RWQ", id="a short key"),
        pytest.param("signing_key", "A" * 56, id="no minisign key"),
        pytest.param("format", "bind", id="an unknown format"),
    ],
)
def test_a_limit_that_means_nothing_says_what_to_write(key: str, value: str) -> None:
    problem = only_problem(remote(f", {key}: '{value}'"))
    assert (problem.line, key in problem.text) == (1, True)
    assert problem.remedy


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        pytest.param("{domains: [a.example], refresh: 6h}", "refresh", id="refresh of inline names"),
        pytest.param("{file: a.txt, sha256: " + "ab" * 32 + "}", "sha256", id="hash of a file"),
        pytest.param("{file: a.txt, max_rejected: 5%}", "max_rejected", id="rejected lines of a file"),
        pytest.param("{category: [social], max_size: 1MiB}", "max_size", id="size of a set"),
        pytest.param("{file: a.txt, format: rpz, match: exact}", "match", id="match of rpz"),
        pytest.param("{url: 'https://lists.example/t', format: adblock, match: suffix}", "match", id="of adblock"),
    ],
)
def test_a_key_that_means_nothing_there_is_refused(entry: str, key: str) -> None:
    problem = only_problem(f"lists: {{a: {entry}}}")
    assert (f"list 'a': {key}" in problem.text, "means nothing" in problem.text) == (True, True)


def test_a_list_has_one_source() -> None:
    found = problems("lists: {a: {url: 'https://lists.example/t', file: a.txt}}")
    assert ["only one source" in problem.text for problem in found] == [True]


def test_match_is_kept_for_formats_that_do_not_say_it_themselves() -> None:
    found = loaded("lists: {a: {file: a.txt, format: dnsmasq, match: exact}}").config.lists["a"]
    assert found.match is Match.EXACT


def test_bootstrap_resolvers_are_addresses_and_never_our_own() -> None:
    config = loaded("resolve: {bootstrap: [192.0.2.53, '[2001:db8::53]:5353']}").config
    assert [str(each) for each in config.resolve.bootstrap or ()] == ["192.0.2.53:53", "[2001:db8::53]:5353"]
    assert "our own" in only_problem("resolve: {bootstrap: ['127.0.0.1:5335']}").text
    assert "a host name stands where an address" in only_problem("resolve: {bootstrap: [dns.example]}").text
    assert "without encryption" in only_problem("resolve: {bootstrap: ['tls://192.0.2.55']}").text


def test_hosts_of_lists_need_somebody_who_is_asked_without_encryption() -> None:
    encrypted = f"upstreams: ['tls://192.0.2.55']\n{remote()}\n"
    problem = only_problem(encrypted)
    assert (problem.line, "nobody can look up lists.example" in problem.text) == (2, True)
    assert "bootstrap: [192.0.2.53]" in problem.remedy
    loaded(encrypted + "resolve: {bootstrap: [192.0.2.53]}")
    loaded(encrypted + "forward: [{zone: lists.example, upstreams: [192.0.2.54]}]")
    zone = only_problem(f"{remote()}\nforward: [{{zone: lists.example, upstreams: ['tls://192.0.2.54']}}]")
    assert (zone.line, "all upstreams of zone lists.example are encrypted" in zone.text) == (1, True)
    loaded(encrypted.replace("lists.example", "192.0.2.7"))
    loaded(f"upstreams: ['tls://192.0.2.55', 192.0.2.53]\n{remote()}")
