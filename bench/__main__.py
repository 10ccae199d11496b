"""Measures the gateway: `python -m bench [NAME…]`; results go to bench/results/.

make bench                          everything; about ten minutes
make bench ARGS="decide tap"        some of it
make bench ARGS=--quick             a tenth of the work, to see that it runs
"""

import argparse
import asyncio
import gc
import sys
from collections.abc import Awaitable
from importlib import import_module
from typing import Protocol, cast

import msgspec

from bench.results import Result, save, table

NAMES = (
    *("decide", "journal", "start", "link", "cards", "tap", "kinds", "fleet", "lint", "ble"),
    *("apply", "sync", "outage", "uhppote"),
)


class Measurement(Protocol):
    """What each of the modules has."""

    def measure(self, *, quick: bool, full: bool) -> Awaitable[Result]:
        """Take the measurement; it may take a minute or three."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--full", action="store_true", help="1,000,000 credentials and events too")
    parser.add_argument("--json", action="store_true", help="results as JSON lines on stdout")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no measurement {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in options.names or NAMES:
        print(f"{name} …", file=sys.stderr)
        module = cast("Measurement", import_module(f"bench.{name}"))
        gc.collect()
        result = asyncio.run(_measured(module, options))
        kept = save(result, quick=options.quick)
        if options.json:
            print(msgspec.json.encode(kept).decode())
        else:
            print(f"\n## {kept.name}\n\n{kept.what}\n\n{table(kept)}\n", flush=True)
    return 0


async def _measured(module: Measurement, options: argparse.Namespace) -> Result:
    return await module.measure(quick=options.quick, full=options.full)


if __name__ == "__main__":
    sys.exit(main())
