"""Turns a decoded TOML table into a struct and names every fault, not only the first."""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from gateway.errors import Fault

S = TypeVar("S", bound=msgspec.Struct)


def convert_table(raw: object, struct: type[S], where: str, faults: list[Fault]) -> S | None:
    """Convert `raw` to `struct`; append a fault for every member that isn't right.

    `where` is the path of the table in the file ("" at the top). Returns None if there was one.
    """
    if not isinstance(raw, dict):
        faults.append(Fault(where or "-", "must be a table"))
        return None
    fields = msgspec.structs.fields(struct)
    hints = get_type_hints(struct, include_extras=True)
    names = {field.encode_name for field in fields}
    for name in raw:
        if name not in names:
            known = ", ".join(sorted(names))
            faults.append(Fault(join(where, name), f"unknown key; known here are: {known}"))
    strangers = len(raw.keys() - names)
    before = len(faults)
    values: dict[str, Any] = {}
    for field in fields:
        path = join(where, field.encode_name)
        if field.encode_name not in raw:
            if field.required:
                faults.append(Fault(path, "is missing"))
            continue
        values[field.name] = _convert(raw[field.encode_name], hints[field.name], path, faults)
    if len(faults) > before:
        return None
    try:
        made = struct(**values)
    except ValueError as error:
        # What a struct checks over its members; by convention a line a fault, each beginning with
        # the `member`.
        for line in str(error).splitlines():
            member, what = _split(line)
            faults.append(Fault(join(where, member) if member else where, what))
        return None
    return None if strangers else made


def _split(message: str) -> tuple[str, str]:
    if message.startswith("`"):
        member, _, what = message[1:].partition("` ")
        return member, what
    return "", message


def _convert(raw: object, hint: Any, path: str, faults: list[Fault]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType) and NoneType in args and len(args) == 2:
        return _convert(raw, next(arg for arg in args if arg is not NoneType), path, faults)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return convert_table(raw, hint, path, faults)
    if origin is tuple and isinstance(raw, list):
        hints = (args[0],) * len(raw) if args[-1] is Ellipsis else args
        if len(raw) != len(hints):
            faults.append(Fault(path, f"must be a list of {len(hints)}, not of {len(raw)}"))
            return None
        return tuple(
            _convert(item, each, f"{path}[{index}]", faults)
            for index, (item, each) in enumerate(zip(raw, hints, strict=True))
        )
    if origin in (dict, Mapping) and isinstance(raw, dict):
        return {
            name: _convert(item, args[1], join(path, name), faults) for name, item in raw.items()
        }
    try:
        return msgspec.convert(raw, hint)
    except msgspec.ValidationError as error:
        if origin is Literal and isinstance(raw, type(args[0])):
            # `gateway` stands in the type so that its refusal can say why: nobody may choose it.
            known = ", ".join(str(each) for each in args if each != "gateway")
            faults.append(Fault(path, f"must be one of {known}; not {raw!r}"))
            return None
        # A pattern says nothing to people; what it stands for is in the type's description.
        meant = next((m.description for m in args if isinstance(m, msgspec.Meta)), None)
        faults.append(Fault(path, f"must be {meant}" if meant else _plain(str(error))))
        return None


def join(where: str, name: str) -> str:
    """The path of `name` in the table at `where`, quoted as TOML would where it must be."""
    bare = name and all(char.isascii() and (char.isalnum() or char in "-_") for char in name)
    part = name if bare else '"' + name.encode("unicode_escape").decode().replace('"', '\\"') + '"'
    return f"{where}.{part}" if where else part


def _plain(message: str) -> str:
    # msgspec's own words, with its type names in those of TOML.
    for theirs, ours in (("`str`", "text"), ("`int`", "a whole number"), ("`bool`", "true/false")):
        message = message.replace(theirs, ours)
    return message.replace("`array`", "a list").replace("`object`", "a table")
