"""JSON objects from lines that others wrote, so that nothing in them can be read in two ways."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

import msgspec

DEPTH_MAX = 64
"""Containers within containers; no record or request has more than 5. Deeper is refused."""

_INT_DIGITS_MAX = 100  # int() refuses 4,300; no member is near either, and both are no int for us

_CONTAINERS = (dict, list)

_KEY_END = re.compile(rb'"[ \t\r\n]*:')


class JsonError(ValueError):
    """The line is no JSON object. The text never repeats what stands there."""


class JsonObject(NamedTuple):
    """One line's object."""

    members: dict[str, object]
    repeated: frozenset[str]
    """The members that are given twice, or have a key given twice somewhere in them: which of the
    two was meant, nobody can say."""


def decode_object(line: bytes | str) -> JsonObject:
    """The object that stands on `line`.

    Raises:
        JsonError: There is something else, or nothing.
    """
    try:
        text = line if isinstance(line, bytes) else line.encode()
        return _decode(text)
    except UnicodeError:
        raise JsonError("not UTF-8") from None
    except RecursionError:
        raise JsonError("nested too deep") from None


def _decode(text: bytes) -> JsonObject:
    try:
        value = msgspec.json.decode(text)
    except msgspec.ValidationError:  # a number that msgspec can't hold: JSON none the less
        return _decode_slowly(text)
    except msgspec.DecodeError as error:
        raise JsonError(str(error) if text.strip() else "blank") from None
    if type(value) is not dict:
        raise JsonError("not a JSON object")
    # Every key ends like this, and little else does: an equal count rules repeated keys out.
    if len(_KEY_END.findall(text)) == _count_keys(value, 1):
        return JsonObject(value, frozenset())
    return _decode_slowly(text)


def _decode_slowly(text: bytes) -> JsonObject:
    try:
        value = json.loads(
            text.decode(),
            object_pairs_hook=_pairs,
            parse_int=_parse_int,
            parse_constant=_parse_constant,
        )
        json.dumps(value, ensure_ascii=False).encode()  # json takes half a surrogate pair as well
    except json.JSONDecodeError as error:
        raise JsonError(f"JSON is malformed (character {error.pos})") from None
    if not isinstance(value, dict):
        raise JsonError("not a JSON object")
    _count_keys(value, 1)  # for its limit on depth
    repeated = {name for name, inner in value.items() if _has_repeated(inner)}
    if isinstance(value, _Repeating):
        repeated |= value.repeated
    return JsonObject(value, frozenset(repeated))


class _Repeating(dict[str, object]):
    """An object with repeated keys."""

    repeated: frozenset[str]


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    counts = Counter(key for key, _ in pairs)
    repeating = _Repeating(members)
    repeating.repeated = frozenset(key for key, count in counts.items() if count > 1)
    return repeating


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) < _INT_DIGITS_MAX else float("inf")


def _parse_constant(name: str) -> NoReturn:
    raise JsonError(f"JSON is malformed: {name}")


def _count_keys(value: dict[str, object] | list[object], depth: int) -> int:
    if depth > DEPTH_MAX:
        raise JsonError("nested too deep")
    count = 0
    items: Iterable[object] = value
    if isinstance(value, dict):
        count = len(value)
        items = value.values()
    for item in items:
        if isinstance(item, _CONTAINERS):
            count += _count_keys(item, depth + 1)
    return count


def _has_repeated(value: object) -> bool:
    if isinstance(value, dict):
        return isinstance(value, _Repeating) or any(map(_has_repeated, value.values()))
    return isinstance(value, list) and any(map(_has_repeated, value))
