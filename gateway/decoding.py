"""JSON and MessagePack that a disk or a peer gave: whatever is wrong with it is one error."""

from typing import Protocol, TypeVar

import msgspec

from gateway.errors import Undecodable

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)

_FAULTS = (msgspec.MsgspecError, ValueError, TypeError, ArithmeticError, RecursionError)
"""The errors of msgspec for bad bytes. UnicodeDecodeError, a ValueError, is not a DecodeError; a
time out of range is an OverflowError, nesting a RecursionError, and a database row that changed
its type, so that no bytes came at all, a TypeError."""


class Decoder(Protocol[_T_co]):
    """A decoder that was made once: `msgspec.json.Decoder(kind)`, or msgpack's."""

    def decode(self, buf: bytes, /) -> _T_co:
        """Return the value."""
        ...


def decode_json(data: bytes | str, kind: type[_T]) -> _T:
    """Return the value of this type that `data` is the JSON of.

    Raises:
        Undecodable: `data` is anything else, or not even bytes.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except _FAULTS as error:
        raise Undecodable(_reason(error)) from error


def decode_msgpack(data: bytes | memoryview, kind: type[_T]) -> _T:
    """Return the value of this type that `data` is the MessagePack of.

    Raises:
        Undecodable: `data` is anything else, or not even bytes.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except _FAULTS as error:
        raise Undecodable(_reason(error)) from error


def decode_with(decoder: Decoder[_T], data: bytes) -> _T:
    """Return the value that a ready decoder makes of `data`.

    Raises:
        Undecodable: `data` is anything else, or not even bytes.
    """
    try:
        return decoder.decode(data)
    except _FAULTS as error:
        raise Undecodable(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Return the reason without the bytes, which may hold a name or a card's number."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, TypeError):
        return "not bytes"
    return str(error)
