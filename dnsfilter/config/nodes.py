"""YAML text to a tree of texts, lists and mappings in which each value knows its place.

Built from the parser's events and not from its loader: a scalar stays the text that was
written (off, NO, 007, 2026-05-04T08:00), a repeated key is seen, and nothing that could
grow (anchors and aliases), run (tags) or exhaust the stack (depth) gets through.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml

from dnsfilter.config.problems import Path, Place, Places, Problem, shown

Loader: type[yaml.CSafeLoader | yaml.SafeLoader]
try:
    Loader = yaml.CSafeLoader
except AttributeError:  # PyYAML built without libyaml; ten times slower, and no different
    Loader = yaml.SafeLoader

MAX_TEXT = 8 * 2**20  # characters; a configuration beyond this is some other file
MAX_DEPTH = 32  # the deepest key that means anything stands at six

Plain: TypeAlias = "str | list[Plain] | dict[str, Plain]"

_SURROGATES = re.compile("[\ud800-\udfff]")
_PLAIN_TAGS = (None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


@dataclass(slots=True)
class Node:
    """A value as written: a text, a list or a mapping."""

    value: "str | list[Node] | dict[str, Node]"
    place: Place

    def plain(self) -> Plain:
        """Return the value without places."""
        if isinstance(self.value, str):
            return self.value
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return {key: child.plain() for key, child in self.value.items()}

    def places(self) -> Places:
        """Return the place of each value by its path."""
        return Places(dict(self._walk(())), self.place.file)

    def _walk(self, path: Path) -> Iterator[tuple[Path, Place]]:
        yield path, self.place
        if isinstance(self.value, list):
            for index, child in enumerate(self.value):
                yield from child._walk((*path, index))
        elif isinstance(self.value, dict):
            for key, child in self.value.items():
                yield from child._walk((*path, key))

    def find(self, path: Path) -> "Node | None":
        """Return the node at `path`."""
        node: Node | None = self
        for part in path:
            if node is None:
                return None
            if isinstance(node.value, dict):
                node = node.value.get(str(part))
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
            else:
                return None
        return node

    def remove(self, path: Path) -> bool:
        """Take the node at `path` out of the tree; False where there is none."""
        around, last = self.find(path[:-1]), path[-1]
        if around is None or self.find(path) is None:
            return False
        if isinstance(around.value, list):
            del around.value[int(last)]
        elif isinstance(around.value, dict):
            del around.value[str(last)]
        return True


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been read yet."""

    node: Node
    key: str | None = None  # of a mapping: the key whose value comes next; None: a key comes next
    place: Place | None = None  # of that key
    skip: bool = False  # the value that comes next is dropped: its key is wrong


@dataclass(slots=True)
class _Builder:
    file: str
    problems: list[Problem] = field(default_factory=list)
    root: Node | None = None
    stack: list[_Open] = field(default_factory=list)

    def wrong(self, line: int | None, text: str, remedy: str) -> None:
        self.problems.append(Problem(self.file, line, text, remedy))

    def feed(self, event: yaml.Event) -> bool:
        """Take one event; False: nothing after it can be understood."""
        line = event.start_mark.line + 1 if event.start_mark is not None else None
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            self.wrong(line, "a second document begins here", "one file is one document: remove this line `---`")
            return False
        if isinstance(event, yaml.NodeEvent):
            self._refuse(event, line)
        if isinstance(event, yaml.AliasEvent):
            self._add(Node("", Place(self.file, line)), drop=True)
        elif isinstance(event, yaml.ScalarEvent):
            self._add(Node(event.value, Place(self.file, line)), drop=self._has_surrogate(event.value, line))
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self.stack) >= MAX_DEPTH:
                self.wrong(line, "values too deep inside each other", f"{MAX_DEPTH} levels are the most")
                return False
            node = Node([] if isinstance(event, yaml.SequenceStartEvent) else {}, Place(self.file, line))
            self.stack.append(_Open(self._add(node)))
        elif isinstance(event, yaml.CollectionEndEvent):
            self.stack.pop()
        return True

    def _refuse(self, event: yaml.NodeEvent, line: int | None) -> None:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            self.wrong(
                line,
                f"{shown(sign + str(event.anchor))} refers to another value, which is not read here",
                "write the value out; a text that begins with & or * stands in quotes",
            )
        elif getattr(event, "tag", None) not in _PLAIN_TAGS:
            tag = str(getattr(event, "tag", "")).replace("tag:yaml.org,2002:", "!!")
            self.wrong(line, f"the tag {shown(tag)} is not read here", "remove it: each value is read as its key needs")

    def _has_surrogate(self, text: str, line: int | None) -> bool:
        if _SURROGATES.search(text) is None:
            return False
        self.wrong(line, "an escape that is half a character", "write the character itself")
        return True

    def _add(self, node: Node, *, drop: bool = False) -> Node:
        """Put a node where it belongs, or nowhere; return it."""
        if not self.stack:
            self.root = Node("", node.place) if drop else node
            return node
        around = self.stack[-1]
        if isinstance(around.node.value, list):
            if not drop:
                around.node.value.append(node)
        elif isinstance(around.node.value, dict):
            if around.place is None:
                self._key(around, node, around.node.value, drop=drop)
            else:
                if around.key is not None and not drop:
                    node.place = around.place  # of a list in lines of its own, the line of its key says more
                    around.node.value[around.key] = node
                around.key = around.place = None
        return node

    def _key(self, around: _Open, node: Node, mapping: dict[str, Node], *, drop: bool) -> None:
        around.place = node.place
        if drop:
            return
        if not isinstance(node.value, str):
            self.wrong(
                node.place.line,
                "a key that is a list or a mapping",
                'what has brackets of its own stands in quotes: "[2001:db8::53]:53"',
            )
        elif (first := mapping.get(node.value)) is not None:
            self.wrong(
                node.place.line,
                f"the key {shown(node.value)} is here a second time",
                f"it stands in line {first.place.line} already: put both together",
            )
        else:
            around.key = node.value


def parse(text: str, file: str) -> tuple[Node, list[Problem]]:
    """Return the tree that `text` writes and what is wrong with it as YAML.

    After a syntax error the tree is empty. An empty text is an empty mapping.
    """
    builder = _Builder(file)
    empty = Node({}, Place(file))
    if len(text) > MAX_TEXT:
        builder.wrong(None, f"{len(text)} characters", f"a configuration has {MAX_TEXT} at most; is this another file?")
        return empty, builder.problems
    try:
        for event in yaml.parse(text, Loader=Loader):
            if not builder.feed(event):
                return empty, builder.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        around = f" ({error.context})" if error.context else ""
        builder.wrong(line, f"not YAML: {error.problem}{around}", _remedy(text, mark))
        return empty, builder.problems
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # characters that YAML has no place for
        line, why = _unreadable(text, error)
        builder.wrong(line, f"not YAML: {why}", 'remove it, or write it as an escape: "\\x1b"')
        return empty, builder.problems
    root = builder.root
    if root is None or root.value == "":
        return empty, builder.problems
    if not isinstance(root.value, dict):
        builder.wrong(root.place.line, "no keys at all", "write `key: value` lines, as in `upstreams: [192.0.2.53]`")
        return empty, builder.problems
    return root, builder.problems


def _remedy(text: str, mark: yaml.Mark | None) -> str:
    lines = text.splitlines()
    if mark is not None and mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
        return "indent with spaces: YAML takes no tabs"
    return (
        "look at the indentation, brackets and quotes here and in the line above; "
        'what has brackets of its own, ": ", " #" or a * in front stands in quotes: "[2001:db8::53]:53"'
    )


def _unreadable(text: str, error: Exception) -> tuple[int | None, str]:
    position = getattr(error, "position", getattr(error, "start", None))
    if not isinstance(position, int):
        return None, "a character that cannot be read"
    octets = text.encode("utf-8", "surrogatepass")  # libyaml counts octets; for ASCII in front it is the same
    return octets[:position].count(b"\n") + 1, "a character that may not stand in a file"
