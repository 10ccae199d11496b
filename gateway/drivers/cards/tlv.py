"""BER-TLV (ISO/IEC 7816-4, 5.2.2), as far as cards here use it."""

from collections.abc import Iterator


class MalformedTlvError(Exception):
    """Bytes that are no sequence of BER-TLV objects."""


def objects(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The tag, the value and all the bytes of each object, in order.

    Raises:
        MalformedTlvError: an object is cut off, or its length has another form.
    """
    rest = data
    while rest:
        tag, at = rest[0], 1
        if tag & 0x1F == 0x1F:
            if len(rest) < 2 or rest[1] & 0x80:
                raise MalformedTlvError  # no tag here has three bytes
            tag, at = tag << 8 | rest[1], 2
        if len(rest) <= at:
            raise MalformedTlvError
        size = rest[at]
        at += 1
        if size & 0x80:
            octets = size & 0x7F
            if not 1 <= octets <= 2 or len(rest) < at + octets:
                raise MalformedTlvError
            size = int.from_bytes(rest[at : at + octets], "big")
            at += octets
        if len(rest) < at + size:
            raise MalformedTlvError
        yield tag, rest[at : at + size], rest[: at + size]
        rest = rest[at + size :]


def values(data: bytes) -> dict[int, bytes]:
    """The value of each tag; of one that comes twice none could say which is meant.

    Raises:
        MalformedTlvError: as `objects`, or a tag comes twice.
    """
    found: dict[int, bytes] = {}
    for tag, value, _ in objects(data):
        if tag in found:
            raise MalformedTlvError
        found[tag] = value
    return found


def encoded(tag: int, value: bytes) -> bytes:
    """One object."""
    head = tag.to_bytes(2 if tag > 0xFF else 1, "big")
    size = len(value)
    if size < 0x80:
        return head + bytes((size,)) + value
    octets = 1 if size < 0x100 else 2
    return head + bytes((0x80 | octets,)) + size.to_bytes(octets, "big") + value
