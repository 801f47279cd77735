"""How good the ByteDance lists are, measured against files of names: python curation/measure.py DIR

DIR, or a folder in it, has one text file a source (`file` in sources.yaml; one name a line, # comments) and
must-not-block.txt. A host is functional if a source of worth A or B names it, or two families do. Each figure
is printed with the names missed. Exit status 1 if a target is missed.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from generate import ROOT, Curation, Entry, ancestry, read
from publicsuffixlist import PublicSuffixList

DEFAULT = ("tiktok", "bytedance", "encrypted-dns")
BYTEDANCE = ("tiktok", "douyin", "bytedance", "bytedance-ads", "capcut")
ENTERPRISE = ("lark", "volcengine")
BYPASS = ("encrypted-dns", "httpdns")

_REGISTRIES = PublicSuffixList(accept_unknown=False, only_icann=True)


@dataclass(frozen=True, slots=True)
class Named:
    """What the sources name: name to the keys of those that do."""

    keys: dict[str, set[str]]
    curation: Curation

    def families(self, name: str) -> set[str]:
        return {self.curation.sources[key].family for key in self.keys[name]}

    def about(self, *products: str) -> set[str]:
        """The names in sources about one of these."""
        sources = self.curation.sources
        return {name for name, keys in self.keys.items() if any(sources[key].about in products for key in keys)}

    def functional(self) -> set[str]:
        """The names that a good source names, or two families do."""
        good = {key for key, source in self.curation.sources.items() if source.worth in {"A", "B"}}
        return {name for name, keys in self.keys.items() if keys & good or len(self.families(name)) > 1}

    def domains(self, names: set[str]) -> dict[str, set[str]]:
        """Return the registrable domains of these names, each with the families that name a host of it."""
        found: dict[str, set[str]] = {}
        for name in names:
            if domain := _REGISTRIES.privatesuffix(name):
                found.setdefault(domain, set()).update(self.families(name))
        return found


def names_in(path: Path) -> set[str]:
    """Return the names of a text file, one a line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def named(folder: Path, curation: Curation) -> Named:
    """Return what the sources that have a file in `folder` name."""
    keys: dict[str, set[str]] = {}
    for key, source in curation.sources.items():
        for path in folder.rglob(f"{source.file}.txt") if source.file else ():
            for name in names_in(path):
                keys.setdefault(name, set()).add(key)
    return Named(keys, curation)


def entries(curation: Curation, lists: Iterable[str]) -> Iterator[Entry]:
    """Yield the entries of these lists."""
    for each in curation.lists:
        if each.path.stem in lists:
            yield from each.entries


def missed(names: Iterable[str], listed: set[str]) -> list[str]:
    """Return the names that no listed name covers."""
    return sorted(name for name in names if listed.isdisjoint(ancestry(name)))


def report(what: str, all_of: int, misses: list[str], target: float) -> bool:
    """Print one figure; return whether it meets its target, a share from 0 to 1."""
    share = 1 - len(misses) / all_of if all_of else 1.0
    print(f"{'ok  ' if share >= target else 'MISS'} {what}: {all_of - len(misses)} of {all_of}, {share:.1%}")
    print(*(f"       {name}" for name in misses), sep="\n", end="\n" if misses else "")
    return share >= target


def main(folder: Path) -> int:
    """Print all figures. Returns the exit status."""
    curation = read(ROOT / "curation")
    found = named(folder, curation)
    by_list = {each.path.stem: {entry.name for entry in each.entries} for each in curation.lists}
    default = set().union(*(by_list.get(name, set()) for name in DEFAULT))
    bytedance = set().union(*(by_list[name] for name in BYTEDANCE))
    enterprise = set().union(*(by_list[name] for name in ENTERPRISE))
    left = set(curation.left_out)
    not_its = {name for name, maker in curation.left_out.items() if not maker}
    # A domain under which the lists name a customer is somebody else's.
    hosts = {
        _REGISTRIES.privatesuffix(entry.name) for entry in entries(curation, BYTEDANCE) if entry.kind == "customer"
    }
    others = {each for each in hosts if each} - bytedance

    functional = found.functional() & found.about("tiktok") - left
    elsewhere = set(missed(functional, default)) - set(missed(functional, bytedance | enterprise))
    met = [report("functional hosts of TikTok, default lists", *_without(functional, elsewhere, default), 1.0)]
    print(f"       other products' hosts, in lists of their own: {len(elsewhere)}")
    domains = found.domains(found.about("tiktok", "bytedance") - not_its)
    two = {name for name, families in domains.items() if len(families) > 1} - others - not_its
    two = set(missed(two, enterprise))
    about = found.domains(found.about("tiktok") - left)
    tiktok = {name for name, families in about.items() if len(families) > 1} & two - left
    elsewhere = set(missed(tiktok, default)) - set(missed(tiktok, bytedance))
    what = "domains that two families about TikTok name, default lists"
    met.append(report(what, *_without(tiktok, elsewhere, default), 1.0))
    print(f"       other products' domains, in lists of their own: {', '.join(sorted(elsewhere))}")
    what = "domains of ByteDance that two families name, its lists but lark and volcengine"
    met.append(report(what, len(two), missed(two, bytedance), 0.95))
    # The names are those that a ban on ByteDance must leave alone; among them are some of other apps themselves.
    judged = {name: by_list[name] for name in (*BYTEDANCE, *ENTERPRISE, *BYPASS)}
    judged["all of these"] = set().union(*judged.values())
    met += [_over_blocked(name, names, folder) for name, names in judged.items()]
    for name in sorted(by_list.keys() - judged.keys()):
        _over_blocked(name, by_list[name], folder)
    products = found.about("enterprise") | {"larksuite.com", "feishu.cn", "volcengine.com", "byteplus.com"}
    hit = sorted(products - set(missed(products, default)))
    met.append(report("enterprise products reachable, default lists", len(products), hit, 1.0))
    for family in sorted({source.family for source in curation.sources.values() if source.file}):
        _without_family(family, found, enterprise)
    return 0 if all(met) else 1


def _without(names: set[str], elsewhere: set[str], listed: set[str]) -> tuple[int, list[str]]:
    return len(names - elsewhere), missed(names - elsewhere, listed)


def _over_blocked(name: str, listed: set[str], folder: Path) -> bool:
    innocent: set[str] = set().union(*map(names_in, folder.rglob("must-not-block.txt")))
    if not innocent:
        raise SystemExit(f"{folder} has no must-not-block.txt: nothing says what must not be blocked")
    hit = sorted(innocent - set(missed(innocent, listed)))
    return report(f"must not be blocked, {name}", len(innocent), hit, 1.0)


def _without_family(family: str, found: Named, enterprise: set[str]) -> None:
    sources = found.curation.sources
    kept = {
        entry.name
        for entry in entries(found.curation, BYTEDANCE)
        if {sources[key].family for key in entry.evidence} != {family}
    }
    names = {name for name in found.functional() & found.about("tiktok", "bytedance") if family in found.families(name)}
    names = set(missed(names - set(found.curation.left_out), enterprise))
    report(f"without {family}'s own entries, its functional hosts", len(names), missed(names, kept), 0.0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
