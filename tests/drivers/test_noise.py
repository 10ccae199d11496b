"""The campaign of random bytes, in small: what it counts, and that checked protocols take none."""

import json
from pathlib import Path

import pytest

from tests.drivers import noise

CHECKED = ("pn532", "osdp", "modbus rtu")
LEDGER = Path(__file__).parents[1] / "campaigns.jsonl"


@pytest.mark.parametrize("listener", list(noise.listeners()), ids=lambda each: str(each.name))
def test_a_message_that_arrives_whole_is_told_and_random_bytes_are_not(
    listener: noise.Listener,
) -> None:
    random_line = noise.run(listener, "random", 100_000, 1)
    assert random_line["told"] == 0
    hit = noise.run(listener, "hit", 20_000, 1)
    assert hit["told"] > hit["false"]
    if listener.name in CHECKED:
        assert hit["false"] == 0


def test_the_ledger_has_10_8_random_bytes_for_every_protocol_and_nobody_let_in() -> None:
    rows = [json.loads(line) for line in LEDGER.read_text(encoding="utf-8").splitlines()]
    ran = {
        (row["protocol"], row["line"]): row
        for row in rows
        if row["campaign"] == "noise" and row["bytes"] >= 10**7
    }
    for listener in noise.listeners():
        random_line = ran[listener.name, "random"]
        assert random_line["bytes"] >= 10**8
        assert random_line["admitted"] == 0
        if listener.name in CHECKED:
            assert random_line["false"] == 0
