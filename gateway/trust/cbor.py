"""CBOR (RFC 8949) from outside, read strictly: the few kinds of item that this product writes.

A general decoder compiles patterns, parses addresses and builds numbers of any size for whoever
sends it a tag. So the heads of all items are checked first, and cbor2 sees what is left.
"""

from typing import Final

import cbor2

from gateway.errors import GatewayError

DEPTH_MAX = 8
"""Containers within containers. Deeper is an attack on the parser, not a message of ours."""

ITEMS_MAX = 1024
"""Items of one value, containers counted: a key set of 80 keys has 260, a beacon 17. A manifest
has a bound of its own."""

NO_TAGS: Final[frozenset[int]] = frozenset()

_BYTES, _TEXT, _ARRAY, _MAP, _TAG, _OTHER = 2, 3, 4, 5, 6, 7  # major types (RFC 8949, section 3.1)
_IN_HEAD_MAX = 23
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}
"""Bytes of the argument behind the head, by the head's low five bits."""
_LEAST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
"""The argument that needs this width: a lower one has a shorter form."""
_SIMPLE = frozenset({20, 21, 22})
"""false, true and null (RFC 8949, section 3.3). Floats and the rest are in no message of ours."""


class NotCbor(GatewayError):
    """The bytes are not one item of CBOR in the one form that is read here."""

    def __init__(self, why: str) -> None:
        super().__init__(f"not CBOR as it is written here: {why}")


def encode(value: object) -> bytes:
    """Return the one encoding of a value: shortest forms, keys in order, definite lengths."""
    return cbor2.dumps(value, canonical=True)


def decode(
    data: bytes,
    *,
    bytes_max: int,
    depth_max: int = DEPTH_MAX,
    items_max: int = ITEMS_MAX,
    tags: frozenset[int] = NO_TAGS,
) -> object:
    """Return the value of one CBOR item, if the data is exactly what `encode` makes of it.

    Length, depth and number of items are bounded before anything is built. Refused are tags other
    than `tags`, floats, indefinite lengths, repeated keys, longer forms, other orders of keys, keys
    that are neither numbers nor strings, and trailing bytes.

    Raises:
        NotCbor: the data is anything else.
    """
    if len(data) > bytes_max:
        raise NotCbor(f"{len(data)} bytes, and no more than {bytes_max} are read")
    _check_heads(data, depth_max, items_max, tags)
    try:
        value: object = cbor2.loads(
            data, max_depth=depth_max + 1, allow_indefinite=False, allow_duplicate_keys=False
        )
    except (cbor2.CBORError, ValueError, TypeError) as malformed:
        raise NotCbor(str(malformed)) from malformed
    if encode(value) != data:
        raise NotCbor("another encoding than the one deterministic one")
    return value


def _check_heads(data: bytes, depth_max: int, items_max: int, tags: frozenset[int]) -> None:
    """Check every item's head, in one pass that builds nothing. Raises NotCbor."""
    end, at = len(data), 0
    left = items_max - 1
    """Items that may still be announced."""
    open_: list[tuple[int, bool]] = [(1, False)]
    """The containers around this place: items to come, and whether they are a map's."""
    while open_:
        to_come, in_map = open_.pop()
        if not to_come:
            continue
        is_key = in_map and not to_come % 2
        open_.append((to_come - 1, in_map))
        if at >= end:
            raise NotCbor("cut short")
        major, info = divmod(data[at], 32)
        at += 1
        if is_key and major > _TEXT:
            raise NotCbor("a key of a map is neither a number nor a string")
        if major == _OTHER:
            if info not in _SIMPLE:
                raise NotCbor("a float or a simple value")
            continue
        argument = info
        if info > _IN_HEAD_MAX:
            width = _WIDTHS.get(info)
            if width is None:
                raise NotCbor("an indefinite length, or a reserved form")
            argument = int.from_bytes(data[at : at + width], "big")
            at += width
            if argument < _LEAST[info] or at > end:
                raise NotCbor("a longer form than it needs, or cut short")
        if major in (_BYTES, _TEXT):
            at += argument
            if at > end:
                raise NotCbor("cut short")
        elif major in (_ARRAY, _MAP, _TAG):
            if major == _TAG and argument not in tags:
                raise NotCbor(f"the tag {argument}")
            count = 1 if major == _TAG else argument * (1 + (major == _MAP))
            left -= count
            if left < 0:
                raise NotCbor(f"more than {items_max} items")
            open_.append((count, major == _MAP))
            if len(open_) - 1 > depth_max:
                raise NotCbor(f"deeper than {depth_max} levels")
    if at != end:
        raise NotCbor(f"{end - at} bytes behind its end")
