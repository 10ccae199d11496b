"""JSON from outside is read in time that grows with its length only."""

import time

import pytest

from gateway.domain.json_text import decode_object


@pytest.mark.parametrize(
    "text",
    [
        "{" + ",".join(f'"k{n}":1' for n in range(60_000)) + ',"k0":2}',
        "{" + ",".join('"k":1' for _ in range(120_000)) + "}",
        '{"x":{' + ",".join(f'"k{n}":1' for n in range(60_000)) + ',"k0":2}}',
    ],
    ids=["one of many keys twice", "one key many times", "one within another"],
)
def test_a_repeated_key_takes_no_longer_than_any_other(text: str) -> None:
    began = time.process_time()
    found = decode_object(text)
    assert time.process_time() - began < 2.0  # it took minutes
    assert found.repeated == {"x"} or found.repeated <= {"k", "k0"}
    assert found.repeated
