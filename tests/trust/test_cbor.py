import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.trust.cbor import DEPTH_MAX, ITEMS_MAX, NotCbor, decode, encode

TAGS = [0, 1, 2, 3, 4, 5, 18, 24, 25, 28, 29, 30, 32, 35, 36, 37, 98, 100, 258, 260, 261, 1004,
        43000, 55799, 2**64 - 1]  # fmt: skip
"""All that cbor2 gives a meaning to, and some that it does not."""


def why(data: bytes, items_max: int = ITEMS_MAX) -> str:
    with pytest.raises(NotCbor) as refused:
        decode(data, bytes_max=1 << 20, items_max=items_max)
    return str(refused.value).removeprefix("not CBOR as it is written here: ")


def tagged(tag: int, content: object) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, 0))[:-1] + cbor2.dumps(content)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("content", ["(a|b)*", b"\x01" * 100, 1, [1, 2], {}])
def test_a_tag_is_refused_before_its_content_is_looked_at(tag: int, content: object) -> None:
    for data in (tagged(tag, content), b"\x81" + tagged(tag, content)):
        assert why(data) == f"the tag {tag}"


def test_only_a_tag_that_was_asked_for_is_read() -> None:
    found = decode(tagged(18, [1]), bytes_max=100, tags=frozenset({18}))
    assert isinstance(found, cbor2.CBORTag)
    assert found.tag == 18
    with pytest.raises(NotCbor, match="the tag 35"):
        decode(tagged(35, "a"), bytes_max=100, tags=frozenset({18}))


@pytest.mark.parametrize("value", [1.5, 0.0, float("inf"), float("nan"), cbor2.undefined])
def test_neither_floats_nor_other_simple_values_are_read(value: object) -> None:
    assert "float or a simple value" in why(cbor2.dumps([value], canonical=True))


@pytest.mark.parametrize("simple", ["e0", "f3", "f820", "f8ff", "f818", "ff"])
def test_simple_values_without_a_meaning_are_refused(simple: str) -> None:
    why(bytes.fromhex(simple))


def test_what_is_written_here_is_read() -> None:
    value = {1: -8, -3: b"\x00" * 300, "a": [True, False, None, "é", 2**64 - 1, -(2**64)], b"k": {}}
    assert decode(encode(value), bytes_max=1000) == value


@pytest.mark.parametrize("key", [[1], {}, True, None])
def test_a_key_is_a_number_or_a_string(key: object) -> None:
    assert "neither a number nor a string" in why(b"\xa1" + cbor2.dumps(key) + b"\x01")


def test_items_are_counted_before_any_is_built() -> None:
    most = encode([0] * (ITEMS_MAX - 1))
    assert decode(most, bytes_max=1 << 20) == [0] * (ITEMS_MAX - 1)
    too_many = f"more than {ITEMS_MAX} items"
    assert why(encode([0] * ITEMS_MAX)) == too_many
    assert why(encode(dict.fromkeys(range(ITEMS_MAX // 2)))) == too_many
    assert why(b"\x9b" + b"\xff" * 8) == too_many  # announced, whatever follows
    assert why(b"\xbb" + b"\xff" * 8) == too_many
    assert why(b"\x82" + b"\x98\xff" * 3, items_max=200) == "more than 200 items"


def test_depth_is_bounded() -> None:
    deepest = b"\x81" * DEPTH_MAX + b"\x01"
    assert encode(decode(deepest, bytes_max=100)) == deepest
    assert why(b"\x81" + deepest) == f"deeper than {DEPTH_MAX} levels"
    assert why(b"\xa1\x01" * (DEPTH_MAX + 1) + b"\x01") == f"deeper than {DEPTH_MAX} levels"


@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_are_their_own_encoding(data: bytes) -> None:
    try:
        value = decode(data, bytes_max=300)
    except NotCbor:
        return
    assert encode(value) == data


_KEYS = st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=20) | st.text(max_size=20)
_VALUES = st.recursive(
    _KEYS | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=30,
)


@settings(max_examples=300)
@given(_VALUES, st.data())
def test_any_value_comes_back_and_no_part_of_it_alone(value: object, data: st.DataObject) -> None:
    written = encode(value)
    if len(written) > 5000:
        return
    assert decode(written, bytes_max=5000, depth_max=40) == value
    cut = data.draw(st.integers(0, len(written) - 1))
    why(written[:cut])
    why(written + b"\x00")
