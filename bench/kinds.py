"""From the last bit on the wire to the strike's edge, for each kind of wired hardware."""

import asyncio

from bench.results import Result, Spread, spread
from bench.stage import run_dir
from demo.every_kind import TAPS, let_in, standing

REST_S = 1.1
"""Until the strikes of a round are at rest: they are released for a second."""

BOARDS = {
    "nfc": "relay on Modbus TCP",
    "osdp": "relay on Modbus TCP",
    "wiegand-gpio": "relay on a GPIO line",
    "wiegand-serial": "relay on RTU, 115200",
    "keypad": "plain coil on RTU, 115200",
    "scanner": "relay on Modbus TCP",
    "uhppote": "the board's own relay",
}


async def measure(*, quick: bool, full: bool) -> Result:
    """The whole measurement."""
    rounds = 10 if quick else 200 if full else 50
    took: dict[str, list[float]] = {tap.door: [] for tap in TAPS}
    with run_dir() as directory:
        async with standing(directory) as (site, core):
            for _ in range(rounds):
                for tap in TAPS:
                    ms, _ = await let_in(site, core, tap)
                    took[tap.door].append(ms)
                await asyncio.sleep(REST_S)
    spreads: list[Spread] = [
        spread(f"{door}, {BOARDS[door]}", "ms", values) for door, values in took.items()
    ]
    return Result("kinds", _WHAT, spreads, [], _NOTES)


_WHAT = (
    "From the moment at which the simulated device has sent the last byte or bit of a credential "
    "to the edge of the strike's relay, through the real gateway: driver, decision, commit, relay. "
    "One door of each kind (`config/every-kind.toml`), a tap at a time."
)
_NOTES = [
    (
        "Bytes take no time on a pseudo-terminal: the time that a command to a relay on RTU spends "
        "on its wire (0.8 ms at 115200 baud, 9.2 at 9600) comes on top, and what a real relay "
        "takes to move. A Wiegand frame on GPIO ends with twice the pause between its bits, which "
        "is in it."
    )
]
