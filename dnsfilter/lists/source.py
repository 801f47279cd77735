"""Where the octets of a list come from: a file, the configuration itself, or this package."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dnsfilter.lists.errors import BadList

MAX_SIZE = 64 * 1024 * 1024  # octets; some four million names


@dataclass(frozen=True, slots=True)
class Builtin:
    """A list that ships with dnsfilter: format domains, suffix match. What its head says of it."""

    name: str
    path: Path
    title: str
    category: str  # social, streaming, bypass, ...
    origin: str | None  # country of the maker, ISO 3166-1 alpha-2; None: no matter of origin
    purpose: str
    side_effects: str  # what stops working besides
    source: str
    licence: str
    date: str  # of the last review, YYYY-MM-DD


def read_file(path: Path, max_size: int = MAX_SIZE) -> bytes:
    """Return the octets of a list file, at most `max_size`. Raises BadList with reason and remedy."""
    try:
        # Asked first, because opening a named pipe would wait for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise BadList(f"{path} is {kind}; write the path of the list file itself")
        with path.open("rb") as file:
            octets = file.read(max_size + 1)
    except FileNotFoundError:
        raise BadList(f"{path} does not exist; correct the path or put the list there") from None
    except PermissionError:
        raise BadList(f"{path} is not readable for user {os.geteuid()}; give that user read permission") from None
    except (OSError, ValueError) as error:
        raise BadList(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(octets) > max_size:
        raise BadList(f"{path} is larger than {max_size} octets; split the list, or check that it is one")
    return octets


def file_stamp(path: Path) -> str:
    """Return a text that changes when the file does; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns} {found.st_size} {found.st_ino}"


def inline(domains: Iterable[str]) -> bytes:
    """Return names from the configuration as a list of format domains: line n is the n-th name."""
    # A line end within a name must not make two of it. What is no text at all (a lone
    # surrogate, from an escape in YAML) stays invalid, so that the parser tells.
    lines = (" ".join(domain.splitlines()) for domain in domains)
    return "".join(line + "\n" for line in lines).encode(errors="surrogatepass")


def builtin() -> dict[str, Builtin]:
    """Return the lists that ship with dnsfilter, by name. Reads their heads only."""
    folder = Path(str(resources.files("dnsfilter.blocklists")))
    return {path.stem: _described(path) for path in sorted(folder.glob("*.txt"))}


def _described(path: Path) -> Builtin:
    head = _head(path)
    try:
        return Builtin(
            name=head["name"],
            path=path,
            title=head["title"],
            category=head["category"],
            origin=None if head["origin"] == "none" else head["origin"],
            purpose=head["purpose"],
            side_effects=head["side effects"],
            source=head["source"],
            licence=head["licence"],
            date=head["date"],
        )
    except KeyError as missing:
        raise BadList(f"{path}: the head lacks {missing}") from None


def _head(path: Path) -> dict[str, str]:
    """Return the `# key: value` lines that a shipped list begins with; deeper indented lines go on."""
    fields: dict[str, str] = {}
    key = ""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#"):
                break
            text = line[1:].rstrip()
            if key and text.startswith("   "):
                fields[key] += " " + text.strip()
            else:
                key, _, value = text.strip().partition(": ")
                fields[key] = value
    return fields
