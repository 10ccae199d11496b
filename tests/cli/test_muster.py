"""`door-gateway muster`, as a warden reads it."""

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.ipc.messages import Muster, Whereabouts, ZoneMuster, ZonesMuster
from tests.cli.served import served
from tests.ipc.memory import NOON, MemoryCore

ANN = Whereabouts(holder="h-ann", door="floor-2", at=NOON, seen=False)
SAM = Whereabouts(holder="h-sam", door="front", at=NOON, seen=True)
NOBODY = "nobody is known to be inside"


class Known(MemoryCore):
    """A core that knows who is where."""

    def __init__(self, zones: list[ZoneMuster], between: list[ZonesMuster]) -> None:
        super().__init__()
        self.known = Muster(at=NOON, zones=zones, between=between)

    async def muster(self) -> Muster:
        return self.known


@pytest.mark.parametrize(
    ("zones", "between", "lines"),
    [
        ([], [], [NOBODY]),
        (
            [ZoneMuster(zone="club", people=[], left_unseen=2, counted=1)],
            [],
            ["club: 0 known, 1 counted, 2 left unseen", NOBODY],
        ),
        (
            [ZoneMuster(zone="club", people=[SAM], left_unseen=0)],
            [],
            ["club: 1 known", "    h-sam                    2026-03-02 12:00 UTC  by front"],
        ),
        (
            [],
            [ZonesMuster(zones=["z1", "z2"], people=[ANN])],
            ["in one of z1, z2: 1 known",
             "  ? h-ann                    2026-03-02 12:00 UTC  by floor-2"],
        ),
    ],
)  # fmt: skip
def test_a_warden_reads_who_is_inside_or_that_nobody_is_known_to_be(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    zones: list[ZoneMuster],
    between: list[ZonesMuster],
    lines: list[str],
) -> None:
    with served(tmp_path, Known(zones, between)) as config:
        assert main(["muster", "--config", str(config)]) == 0
        assert capsys.readouterr().out.splitlines() == lines
        assert main(["muster", "--json", "--config", str(config)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert len(told["zones"]) == len(zones)
