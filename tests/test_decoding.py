"""Bytes from a disk or a peer: whatever is wrong with them is one error."""

import ast
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

import gateway
from gateway.decoding import decode_json, decode_msgpack, decode_with
from gateway.errors import Undecodable


class Value(msgspec.Struct):
    name: str = ""
    at: datetime | None = None
    length: timedelta | None = None
    more: object = None


BROKEN = {
    "empty": b"",
    "zeros": bytes(64),
    "cut short": b'{"name":"lobb',
    "another type": b'{"name":7}',
    "not UTF-8": b'{"name":"\xeclobby"}',
    "nested too deep": b'{"more":' + b"[" * 100_000,
    "a length out of range": b'{"length":1e300}',
    "a number of many digits": b'{"length":' + b"9" * 5_000 + b"}",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_bytes_that_are_not_its_json_are_one_error(data: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_json(data, Value)
    with pytest.raises(Undecodable):
        decode_with(msgspec.json.Decoder(Value), data)


@pytest.mark.parametrize("data", [b"\xa4name", b"\xa1\xa4nam\xe5", b"\x81\xa4name\xa1\xe5", b""])
def test_bytes_that_are_not_its_messagepack_are_one_error(data: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_msgpack(data, Value)


@pytest.mark.parametrize("data", [None, 7, 1.5])
def test_a_row_that_holds_another_type_is_one_error(data: object) -> None:
    with pytest.raises(Undecodable, match="not bytes"):
        decode_json(data, Value)  # type: ignore[arg-type]


def test_the_error_never_repeats_the_bytes() -> None:
    with pytest.raises(Undecodable) as raised:
        decode_json(b'{"name":"4711\xec"}', Value)
    assert "4711" not in str(raised.value)
    with pytest.raises(Undecodable) as raised:
        decode_json(b'{"name":["4711"]}', Value)
    assert "4711" not in str(raised.value)


def test_a_whole_value_is_decoded() -> None:
    assert decode_json(b'{"name":"lobby"}', Value).name == "lobby"
    assert decode_msgpack(msgspec.msgpack.encode(Value("lobby")), Value).name == "lobby"
    assert decode_with(msgspec.json.Decoder(Value), b'{"name":"lobby"}').name == "lobby"


def test_a_module_that_decodes_by_itself_is_one_of_the_known_few() -> None:
    """Whoever calls msgspec's decoders directly has to know all of its errors."""
    package = Path(gateway.__path__[0])
    direct = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("msgspec.json.decode", "msgspec.msgpack.decode")
    }
    assert direct <= {
        "decoding.py",
        "domain/json_text.py",  # with its own limits, and all of the errors
        "trust/bundle.py",
        "trust/making.py",
    }
