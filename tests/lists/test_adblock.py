import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsfilter.core.index import Builder, Index
from dnsfilter.core.names import from_text
from dnsfilter.core.rules import Match, Rules
from dnsfilter.lists.formats import Found, find, parse
from tests.core.make import many

NAME = from_text("app.example")
OK = from_text("ok.example")
STAYS = "; what it allows stays blocked"


def read(*lines: str | bytes) -> Rules:
    """The rules of these lines and `||ok.example^`."""
    octets = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    return parse(octets + b"\n||ok.example^\n", "adblock", None)


def said(rules: Rules) -> dict[str, list[bytes]]:
    """The parts of the rules that are not empty, without the rule that is always there."""
    parts = {
        "exact": rules.exact,
        "suffix": [name for name in rules.suffix if name != OK],
        "below": rules.below,
        "allow_exact": rules.allow_exact,
        "allow_suffix": rules.allow_suffix,
        "allow_below": rules.allow_below,
    }
    return {kind: names for kind, names in parts.items() if names}


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        pytest.param("||app.example^", "suffix", id="the usual way"),
        pytest.param("||app.example", "suffix", id="without its end"),
        pytest.param("||app.example^|", "suffix", id="with two ends"),
        pytest.param("||app.example|", "suffix", id="with the other end"),
        pytest.param("||APP.Example^", "suffix", id="letter case"),
        pytest.param("  ||app.example^\t", "suffix", id="white space around"),
        pytest.param("||app.example^ # why", "suffix", id="a comment behind"),
        pytest.param("||*.app.example^", "below", id="a star"),
        pytest.param("*.app.example^", "below", id="a star without bars"),
        pytest.param("*.app.example", "below", id="a star alone"),
        pytest.param(".app.example^", "below", id="a dot"),
        pytest.param("|app.example^", "exact", id="one bar"),
        pytest.param("|app.example|", "exact", id="two bars"),
        pytest.param("app.example", "exact", id="a name"),
        pytest.param("app.example # why", "exact", id="a name and a comment"),
        pytest.param("0.0.0.0 app.example", "exact", id="hosts"),
        pytest.param("192.0.2.1 app.example #why", "exact", id="hosts, another address and a comment"),
        pytest.param("0.0.0.0 app.example ## why", "exact", id="hosts, a comment that looks like a page rule"),
        pytest.param(r"/(^|\.)app\.example$/", "suffix", id="an expression"),
        pytest.param(r"/^app\.example$/", "exact", id="an expression for the name alone"),
        pytest.param("||app.example^$important", "suffix", id="important"),
        pytest.param("||app.example^$all", "suffix", id="all kinds of requests"),
        pytest.param("||app.example^$_,important,__", "suffix", id="separators"),
        pytest.param(r"/(^|\.)app\.example$/$important", "suffix", id="an expression, important"),
    ],
)
@pytest.mark.parametrize("at", ["", "@@"])
def test_ways_to_write_a_rule_and_an_exception(line: str, kind: str, at: str) -> None:
    indent = line[: len(line) - len(line.lstrip())]
    rules = read(indent + at + line.lstrip())
    assert said(rules) == {f"allow_{kind}" if at else kind: [NAME]}
    assert rules.skipped == []


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="nothing"),
        pytest.param(" \t", id="white space"),
        pytest.param("! Title: a list", id="a comment"),
        pytest.param(b"! Gr\xf6\xdfe", id="a comment in Latin-1"),
        pytest.param("!#if (adguard)", id="a directive"),
        pytest.param("!#include other.txt", id="an include"),
        pytest.param("# a comment", id="#"),
        pytest.param("#", id="# alone"),
        pytest.param("#comment", id="# without a space"),
        pytest.param("##########", id="a ruler"),
        pytest.param("## Head", id="two #"),
        pytest.param("[Adblock Plus 2.0]", id="a head"),
        pytest.param("[AdGuard]", id="another head"),
        pytest.param("127.0.0.1 localhost", id="the machine itself"),
        pytest.param("||app.example^$third-party,badfilter", id="withdraws a rule that is not read"),
    ],
)
def test_lines_that_say_nothing(line: str | bytes) -> None:
    rules = read(line)
    assert (said(rules), rules.skipped) == ({}, [])


PAGE = "a rule for what is on pages"
MODIFIER = "is not read, and without it the rule would cover more"


@pytest.mark.parametrize(
    ("line", "part"),
    [
        pytest.param("app.example##.banner", PAGE, id="element hiding"),
        pytest.param("##.banner", PAGE, id="element hiding everywhere"),
        pytest.param("###banner", PAGE, id="element hiding by id"),
        pytest.param("app.example ##.banner", PAGE, id="element hiding, with a space"),
        pytest.param("app.example##.banner > .ad", PAGE, id="element hiding, of several words"),
        pytest.param("app.example#@#.banner", PAGE, id="an exception from it"),
        pytest.param("app.example#?#div:has(.ad)", PAGE, id="extended element hiding"),
        pytest.param("app.example#$#body { color: red }", PAGE, id="a style"),
        pytest.param("app.example#@$?#body", PAGE, id="an exception from an extended style"),
        pytest.param("app.example#%#window.x = 1;", PAGE, id="a script"),
        pytest.param("#%#//scriptlet('x')", PAGE, id="a script everywhere"),
        pytest.param("app.example##+js(x, y)", PAGE, id="a scriptlet"),
        pytest.param('app.example$$script[data-src="x"]', PAGE, id="an HTML filter"),
        pytest.param("app.example$@$script", PAGE, id="an exception from it"),
        pytest.param("[$path=/x]app.example##.banner", PAGE, id="element hiding with a condition"),
        *(
            pytest.param(
                f"||app.example^${modifier}", f"the modifier ${modifier.partition('=')[0]} {MODIFIER}", id=modifier
            )
            for modifier in (
                *("third-party", "~third-party", "dnstype=AAAA", "client=192.0.2.9", "ctag=device_phone", "document"),
                *("denyallow=a.app.example", "dnsrewrite=192.0.2.1", "popup", "domain=b.example", "script", "network"),
                *("match-case", "removeparam=x", "unheard-of", "~important", "all=1", "IMPORTANT"),
            )
        ),
        pytest.param("||app.example^$important,script", f"the modifier $script {MODIFIER}", id="the second modifier"),
        pytest.param("||app.example^$", f"the modifier $ {MODIFIER}", id="no modifier"),
        pytest.param("||app.example/path^", "a path or a URL", id="a path"),
        pytest.param("||app.example^*/ads/", "a path or a URL", id="a path with a star"),
        pytest.param("/banner/ad.js", "a path or a URL", id="a path alone"),
        pytest.param("|https://app.example/", "a path or a URL", id="a URL with a bar"),
        pytest.param("https://app.example/", "a URL; write the host name", id="a URL"),
        pytest.param("||app.example:8080^", "a port", id="a port"),
        pytest.param("||ad*.example^", "a * may only be the first label", id="a star in a label"),
        pytest.param("||a.*.example^", "a * may only be the first label", id="a star in the middle"),
        pytest.param("||app.*^", "a * may only be the first label", id="a star at the end"),
        pytest.param("app.example^", "would match parts of other names; write ||host.example^", id="no left end"),
        pytest.param("|app.example", "would match parts of other names", id="no right end"),
        pytest.param("||app^example^", "'^' is no part of a host name", id="a separator in the middle"),
        pytest.param("||192.0.2.1^", "an address, not a name", id="an address"),
        pytest.param("app.example other.example", "more than one word", id="two names"),
        pytest.param("0.0.0.0", "an address, not a name", id="an address alone"),
        pytest.param("/app[0-9]+/", "regular expressions are not supported", id="an expression"),
        pytest.param(r"/app\.example$/", "anchored on the left", id="an expression without its left end"),
        pytest.param("/app$/$third-party", f"the modifier $third-party {MODIFIER}", id="an expression, modified"),
        pytest.param("address=/app.example/", "this is dnsmasq syntax, set format: dnsmasq", id="dnsmasq"),
        pytest.param("app.example CNAME .", "this is rpz syntax, set format: rpz", id="rpz"),
        pytest.param(b"||a\xffb.example^", r"the byte \xff is not UTF-8", id="not UTF-8"),
        pytest.param(b"||a\x1bb.example^", r"'\x1b'", id="an escape byte"),
    ],
)
def test_lines_that_are_no_rule_say_why(line: str | bytes, part: str) -> None:
    rules = read(line)
    assert said(rules) == {}
    assert [skipped.line for skipped in rules.skipped] == [1]
    assert part in rules.skipped[0].reason


@pytest.mark.parametrize(
    "line",
    ["||", "||^", "||*^", "||*.^", "||.^", "*", "*.", ".", "..", "^", "|", "://", "/.*/", "//", "$important", "*.*"],
)
@pytest.mark.parametrize("at", ["", "@@"])
def test_lines_of_signs_alone_are_never_rules(line: str, at: str) -> None:
    rules = read(at + line)
    assert (said(rules), rules.skipped_count) == ({}, 1)


@pytest.mark.parametrize(
    "line", ["@@||app.example^$client=192.0.2.9", "@@||app.example/path", "@@/app/", "@@tok", "@@app.example^"]
)
def test_an_exception_that_is_skipped_says_what_follows(line: str) -> None:
    (skipped,) = read(line).skipped
    assert skipped.reason.endswith(STAYS)


def test_a_block_that_is_skipped_does_not_say_so() -> None:
    (skipped,) = read("||app.example^$script").skipped
    assert not skipped.reason.endswith(STAYS)


def test_one_bad_name_of_a_hosts_line_does_not_cost_the_others() -> None:
    rules = read("0.0.0.0 app.example tok")
    assert said(rules) == {"exact": [NAME]}
    assert rules.skipped[0].reason.startswith("tok: less than two labels")


def test_match_is_not_asked() -> None:
    octets = b"app.example\n||b.example^\n"
    for match in (None, *Match):
        rules = parse(octets, "adblock", match)
        assert (rules.exact, rules.suffix) == ([NAME], [from_text("b.example")])


# ---- what wins ----


@pytest.mark.parametrize(
    ("lines", "blocked", "opened"),
    [
        pytest.param(
            ["||a.b.example^", "@@||b.example^"],
            [],
            ["a.b.example", "x.a.b.example", "b.example"],
            id="an exception wins over a block below it",
        ),
        pytest.param(
            ["||b.example^", "@@||a.b.example^"],
            ["b.example", "x.b.example"],
            ["a.b.example", "x.a.b.example"],
            id="an exception below a block",
        ),
        pytest.param(
            ["||b.example^", "@@b.example"], ["x.b.example"], ["b.example"], id="an exception of a name alone"
        ),
        pytest.param(
            ["||b.example^", "@@*.b.example^"], ["b.example"], ["x.b.example"], id="an exception of names below"
        ),
        pytest.param(
            ["||a.b.example^$important", "@@||b.example^"],
            ["a.b.example", "x.a.b.example"],
            ["b.example"],
            id="an important block below an exception",
        ),
        pytest.param(
            ["||b.example^$important", "@@||a.b.example^"],
            ["b.example", "a.b.example", "x.a.b.example"],
            [],
            id="an important block above an exception",
        ),
        pytest.param(
            ["b.example$important", "@@||b.example^"],
            ["b.example"],
            ["x.b.example"],
            id="an important block of the name alone",
        ),
        pytest.param(
            ["||b.example^$important", "@@||a.b.example^$important"],
            ["b.example"],
            ["a.b.example", "x.a.b.example"],
            id="an important exception",
        ),
        pytest.param(["||b.example^", "||b.example^$badfilter"], [], ["b.example"], id="a withdrawn block"),
        pytest.param(["||b.example^$badfilter", "||b.example^"], [], ["b.example"], id="withdrawn before it is stated"),
        pytest.param(["||b.example^", "b.example$badfilter"], ["b.example"], [], id="another rule withdrawn"),
        pytest.param(
            ["||b.example^", "@@||b.example^", "@@||b.example^$badfilter"],
            ["b.example"],
            [],
            id="a withdrawn exception",
        ),
        pytest.param(
            ["||b.example^$important", "||b.example^$badfilter", "@@||b.example^"],
            ["b.example"],
            [],
            id="an important block stays when the ordinary one is withdrawn",
        ),
        pytest.param(
            ["||b.example^$important", "||b.example^", "||b.example^$important,badfilter"],
            ["b.example"],
            [],
            id="an ordinary block stays when the important one is withdrawn",
        ),
    ],
)
def test_what_wins(lines: list[str], blocked: list[str], opened: list[str]) -> None:
    rules = read(*lines)
    assert rules.skipped == []
    hit = index(rules).hit
    assert [text for text in blocked if not hit(from_text(text)).blocks] == []
    assert [text for text in opened if hit(from_text(text)).blocks] == []


def index(rules: Rules) -> Index:
    builder = Builder()
    builder.block(0, rules)
    return Index(builder.chunks())


WRITTEN = {"||{}^": "suffix", "{}": "exact", "*.{}": "below"}
labels = st.sampled_from("ab")
names = st.lists(labels, min_size=2, max_size=4).map(".".join)
rules_of_a_list = st.lists(
    st.tuples(
        st.sampled_from(["", "@@"]), st.sampled_from(sorted(WRITTEN)), names, st.sampled_from(["", "$important"])
    ),
    max_size=8,
)
withdrawals = st.lists(st.integers(0, 7), max_size=2)


@many
@given(stated=rules_of_a_list, withdrawn=withdrawals, asked=st.lists(names, min_size=1, max_size=8))
def test_the_rules_of_a_list_decide_as_ad_blockers_do(
    stated: list[tuple[str, str, str, str]], withdrawn: list[int], asked: list[str]
) -> None:
    gone = [stated[number] for number in withdrawn if number < len(stated)]
    lines = [at + form.format(name) + important for at, form, name, important in stated]
    lines += [
        at + form.format(name) + (f"{important},badfilter" if important else "$badfilter")
        for at, form, name, important in gone
    ]
    in_force = [each for each in stated if each not in gone]
    found = index(read(*lines))
    for each in [*asked, *(name for _, _, name, _ in stated)]:
        # The first in this order decides: important exceptions, important blocks, exceptions, blocks.
        ranks = [
            (important == "", at == "") for at, form, name, important in in_force if matches(WRITTEN[form], name, each)
        ]
        assert bool(found.hit(from_text(each)).blocks) is (bool(ranks) and min(ranks)[1]), each


def matches(kind: str, name: str, asked: str) -> bool:
    return (kind != "below" and asked == name) or (kind != "exact" and asked.endswith("." + name))


def test_find_gives_the_lines_that_say_something_of_a_name_even_where_others_win() -> None:
    octets = b"||app.example^\n! x\n@@||app.example^\n||app.example^$important\n||app.example^$script\n"
    assert find(octets, "adblock", None, {NAME}) == [
        Found(1, "||app.example^", NAME),
        Found(3, "@@||app.example^", NAME),
        Found(4, "||app.example^$important", NAME),
    ]
