"""What pydantic found wrong, in an admin's words."""

from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from dnsfilter.config.problems import Path, Places, Problem, nearest, shown, some, subject, written
from dnsfilter.config.schema import Config

_MISSING = {
    "block": "write `block: [tiktok]`; `block: []` blocks nothing",
    "zone": "write the zone: `zone: intra.example`",
    "upstreams": "write who is asked: `upstreams: [192.0.2.53]`",
    "id": "write the number of the file or ticket: `id: COMM-2026-004`",
    "networks": "write whom it covers: `networks: [192.0.2.0/28]`",
    "lists": "write what it lifts: `lists: [tiktok, bytedance]`",
    "owner": "write who answers for it",
    "reason": "write what it is needed for",
    "approved_by": "write who decided it",
    "end": "write the last day, or the first moment without: no exemption is for ever",
}


def problems(errors: Iterable[ErrorDetails], data: object, places: Places) -> Iterator[tuple[Path, Problem]]:
    """Yield each error as a problem, with the path of the value that is wrong."""
    for error in errors:
        path = tuple(part for part in error["loc"] if part != "[key]")
        if error["type"] == "too_short" and written(data, path):
            continue  # pydantic counts only the good ones, and each bad one is an error of its own
        text, remedy = _words(error, path, written(data, path))
        head, sep = subject(path, data), " " if error["type"] == "too_short" else ": "
        if error["type"] in ("extra_forbidden", "missing"):
            head, sep = subject(path[:-1], data), ": "
        yield path, places.problem(path, f"{head}{sep}{text}" if head else text, remedy)


def _words(error: ErrorDetails, path: Path, value: object) -> tuple[str, str]:
    """Return what is wrong and the remedy. The types are those of pydantic that the schema can meet."""
    key = str(path[-1]) if path else ""
    match error["type"]:
        case "wrong":
            return error["ctx"]["text"], error["ctx"]["remedy"]
        case "extra_forbidden":
            known = keys_at(path[:-1])
            return f"unknown key {shown(key)}", nearest(key, known, f"known here: {', '.join(known)}")
        case "missing":
            return f"{key} is missing", _MISSING.get(key, "write it")
        case "too_short":
            return "is an empty list", "write at least one, or leave the key out"
    if value == "":
        return "no value is written here", "write one, or leave the key out for its default"
    if error["type"] in ("tuple_type", "list_type"):
        if isinstance(value, str):
            return f"{shown(value)} stands where a list belongs", f"write {_flow(value)}"
        return "keys stand where a list belongs", "write [a, b], or a line with - for each"
    return f"{_kind(value)} stands where keys belong", f"known here: {some(keys_at(path), 12)}"


def _flow(value: str) -> str:
    parts = [part.strip() for part in value.split(",")]
    return f"[{', '.join(parts)}]" if value.isprintable() and len(value) < 100 else "it as [a, b]"


def _kind(value: object) -> str:
    return shown(value) if isinstance(value, str) else "a list"


def keys_at(path: Path) -> list[str]:
    """Return the keys that a mapping at `path` may have, in the order of the schema."""
    model: type[BaseModel] | None = Config
    is_entry = False  # the next part is the name or position of an entry, not a key
    for part in path:
        if is_entry:
            is_entry = False
            continue
        fields = {field.alias or name: field for name, field in model.model_fields.items()} if model else {}
        annotation = fields[str(part)].annotation if str(part) in fields else None
        model, is_entry = _model(annotation), get_origin(annotation) in (dict, tuple)
    if is_entry or model is None:
        return ["the names of entries"]
    return [field.alias or name for name, field in model.model_fields.items()]


def _model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model(part))), None)
