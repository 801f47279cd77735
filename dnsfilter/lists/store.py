"""What is kept of lists in the state directory: the last good copy of each, and what was fetched of it.

A folder for each list and source, so that the content of one source never stands for another.
Octets lie in files named after their SHA-256; two small documents point to them. `good.json` is
written by whoever judges lists (`build`), `fetched.json` by whoever fetches them (`fetch`). What a
document says is checked against the octets, and a damaged copy counts as none.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

FOLDER = "lists"  # in the state directory
UNUSED_S = 30 * 86_400  # after which the copies of a list that is no longer configured go
SETTLED_S = 60  # younger contents may be about to get the document that points to them

_OCTETS, _PARTIAL = ".list", ".partial"
T = TypeVar("T", "Good", "Fetched", "Refused")


@dataclass(frozen=True, slots=True)
class Good:
    """A content that was taken over."""

    sha256: str
    entries: int  # rules in it
    changed_at: float  # seconds since the epoch: when this content was first seen
    checked_at: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the source said last."""

    sha256: str
    etag: str | None
    last_modified: str | None
    checked_at: float  # of the last answer, the same content or another one
    proof: str = ""  # hash or key that the content was checked against
    failed_at: float = 0.0  # of the last try, if that failed
    failures: int = 0  # in a row
    failure: str = ""  # why it did


@dataclass(frozen=True, slots=True)
class Refused:
    """A content that was not taken over, and why; judged again when an admin says so."""

    sha256: str
    reason: str
    how: str  # all else that the judgement depended on


def _is_typed(known: Good | Fetched | Refused) -> bool:
    """Tell whether each field has its type: a document may be another version's, or written by hand."""
    return all(
        isinstance(getattr(known, each.name), (int, float) if each.type is float else cast(type, each.type))
        for each in fields(known)
    )


class Kept:
    """The folder of one list and source. Reading never fails: what cannot be read is not there."""

    def __init__(self, folder: Path, name: str, source: str) -> None:
        self.folder, self.name, self.source = folder, name, source

    @property
    def good(self) -> Good | None:
        """The last content that was taken over."""
        return self._read("good.json", Good)

    @property
    def fetched(self) -> Fetched | None:
        """What is known of the source."""
        return self._read("fetched.json", Fetched)

    @property
    def refused(self) -> Refused | None:
        """The last content that was not taken over."""
        return self._read("refused.json", Refused)

    def octets(self, sha256: str) -> bytes | None:
        """Return a content; None where it is not there as it was written."""
        try:
            octets = (self.folder / (sha256 + _OCTETS)).read_bytes()
        except (OSError, ValueError):
            return None
        return octets if hashlib.sha256(octets).hexdigest() == sha256 else None

    def keep(self, octets: bytes, good: Good) -> None:
        """Make a content the last good one. Raises OSError."""
        if self.octets(good.sha256) is None:
            self._write(good.sha256 + _OCTETS, octets)
        if self.good != good:
            self._document("good.json", asdict(good))
        (self.folder / "refused.json").unlink(missing_ok=True)
        self._sweep()

    def refuse(self, refused: Refused) -> None:
        """Note a content that is not taken over. Raises OSError."""
        self._document("refused.json", asdict(refused))

    def fetch(self, octets: bytes | None, fetched: Fetched) -> None:
        """Note what the source said, with its content where that is new. Raises OSError."""
        if octets is not None and self.octets(fetched.sha256) is None:
            self._write(fetched.sha256 + _OCTETS, octets)
        self._document("fetched.json", asdict(fetched))
        self._sweep()

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            document = json.loads((self.folder / name).read_bytes())
            known = kind(**document["known"])
            return known if document["digest"] == _digest(document["known"]) and _is_typed(known) else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def _document(self, name: str, known: dict[str, Any]) -> None:
        document = {"list": self.name, "source": self.source, "known": known, "digest": _digest(known)}
        self._write(name, json.dumps(document, indent=1).encode())

    def _write(self, name: str, octets: bytes) -> None:
        """Write whole or not at all, for the eyes of the state directory's owner only."""
        owner = _owned_folder(self.folder)
        partial = self.folder / f"{name}.{os.getpid()}{_PARTIAL}"
        try:
            with partial.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                if os.geteuid() == 0:
                    os.fchown(file.fileno(), *owner)
                file.write(octets)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / name)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def _sweep(self) -> None:
        """Remove contents that no document points to, and what a process that was killed left half written."""
        pointers = (self.good, self.fetched)
        wanted = {each.sha256 + _OCTETS for each in pointers if each is not None}
        for path in [*self.folder.glob("*" + _OCTETS), *self.folder.glob("*" + _PARTIAL)]:
            if path.name not in wanted and _age(path) > SETTLED_S:
                path.unlink(missing_ok=True)


class Store:
    """The folders of all lists in one state directory."""

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER

    def is_readable(self) -> bool:
        """Tell whether this user can see what is kept, if anything is."""
        try:
            return not self._folder.exists() or os.access(self._folder, os.R_OK | os.X_OK)
        except OSError:
            return False

    def kept(self, name: str, source: str) -> Kept:
        """Return the folder of a list and its source, whether anything is in it yet or not."""
        key = hashlib.sha256(f"{name}\0{source}".encode(errors="surrogatepass")).hexdigest()[:16]
        return Kept(self._folder / f"{name}-{key}", name, source)

    def others(self, kept: Kept) -> Iterator[Kept]:
        """Yield what is kept of the same list from other sources, the newest first."""
        found = [each for each in self._all() if each.name == kept.name and each.folder != kept.folder]
        with_good = [(good.checked_at, each) for each in found if (good := each.good) is not None]
        yield from (each for _, each in sorted(with_good, key=lambda pair: -pair[0]))

    def tidy(self, current: list[Kept]) -> None:
        """Remove what nothing needs any more: other sources of lists that have a good copy, and old leavings."""
        folders = {each.folder for each in current}
        settled = {each.name for each in current if each.good is not None}
        for each in list(self._all()):
            if each.folder in folders:
                continue
            is_old = _age(each.folder) > UNUSED_S
            if each.name in settled or is_old:
                for path in each.folder.iterdir():
                    path.unlink(missing_ok=True)
                each.folder.rmdir()

    def _all(self) -> Iterator[Kept]:
        try:
            folders = sorted(self._folder.iterdir())
        except OSError:
            return
        for folder in folders:
            for document in ("good.json", "fetched.json"):
                try:
                    about = json.loads((folder / document).read_bytes())
                    yield Kept(folder, str(about["list"]), str(about["source"]))
                    break
                except (OSError, ValueError, TypeError, KeyError, RecursionError):
                    continue


def _digest(known: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _owned_folder(folder: Path) -> tuple[int, int]:
    """Make a folder that belongs to whom the state directory belongs to; return user and group.

    A command that root runs must not leave files that the service cannot read.
    """
    state = folder.parent.parent
    state.mkdir(mode=0o750, parents=True, exist_ok=True)
    about = state.stat()
    owner = about.st_uid, about.st_gid
    for each in (folder.parent, folder):
        if not each.exists():
            each.mkdir(mode=0o700, exist_ok=True)
            if os.geteuid() == 0:
                os.chown(each, *owner)
    return owner
