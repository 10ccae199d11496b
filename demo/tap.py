"""Holds a card to a reader of the running demo, or presses keys: `python -m demo.tap`."""

import argparse
import asyncio
import sys
from contextlib import suppress
from pathlib import Path

from hwsim.client import SimulatorError, connect
from hwsim.observations import Seen, Strike

SHOWN_FOR_S = 1.5
"""How long the strikes and lamps are watched: a grant takes less than one second."""


async def tap(control: Path, device: str, what: str) -> list[Seen]:
    """Present it, and return what the simulated hardware did next."""
    seen = list[Seen]()
    async with connect(control, wait_s=2) as simulator, simulator.watching() as stream:
        if device.endswith("-keypad"):
            await simulator.press(device, what)
        else:
            await simulator.present(device, what)
        with suppress(TimeoutError):
            async with asyncio.timeout(SHOWN_FOR_S):
                async for each in stream:
                    seen.append(each)
    return seen


def outcome(seen: list[Seen]) -> str:
    """What happened, in a line."""
    opened = sorted({each.door for each in seen if isinstance(each, Strike) and each.on})
    if opened:
        return f"opened: {', '.join(opened)}"
    return (
        "no door opened. See why with `door-gateway journal tail -n 3 --config FILE`; where nothing"
        " is there, no gateway runs on this hardware"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python -m demo.tap /tmp/.../hardware.sock lounge-reader 04A10000000002",
    )
    parser.add_argument("control", type=Path, help="the simulator's socket, as the demo prints it")
    parser.add_argument("device", help="a reader or a keypad, such as lounge-reader")
    parser.add_argument("what", help="the card's UID, or the keys: 2468#")
    options = parser.parse_args()
    try:
        print(outcome(asyncio.run(tap(options.control, options.device, options.what))))
    except (TimeoutError, OSError):
        print(f"{options.control}: no simulator answers there. Start one first", file=sys.stderr)
        return 2
    except SimulatorError as error:
        print(f"{options.device}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
