"""A link process for tests: `python -m tests.link.link_main SOCKET PORT`."""

import asyncio
import random
import signal
import sys
from contextlib import suppress
from pathlib import Path

from gateway.link.run import run_link
from tests.link.rig import TrustedClock, link_settings


async def main() -> None:
    link = asyncio.create_task(
        run_link(
            link_settings(int(sys.argv[2])), Path(sys.argv[1]), TrustedClock(), random.Random(1)
        )
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, link.cancel)
    with suppress(asyncio.CancelledError):
        await link


if __name__ == "__main__":
    asyncio.run(main())
