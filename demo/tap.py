"""Holds a card to a reader of the running demo, or presses keys: `python -m demo.tap`."""

import argparse
import asyncio
import sys
from pathlib import Path

from hwsim.client import SimulatorError, connect


async def tap(control: Path, device: str, what: str) -> None:
    async with connect(control, wait_s=2) as simulator:
        if device.endswith("-keypad"):
            await simulator.press(device, what)
        else:
            await simulator.present(device, what)


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
        asyncio.run(tap(options.control, options.device, options.what))
    except (SimulatorError, TimeoutError, OSError) as error:
        print(f"no such tap: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
