"""Runs a simulated site from the command line: `python -m hwsim SITE.toml`; a fleet: `… fleet`."""

import argparse
import asyncio
import fcntl
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from hwsim import fleet
from hwsim.control import COMMANDS, control_socket
from hwsim.observations import HostClosed, HostOpened, Seen
from hwsim.site import SiteError, running_site

_EPILOG = f"""
control socket: one JSON object a line, one reply a line.
  {{"do": "present", "reader": "street-reader", "uid": "04A1B2C3D4E5F6", "hold": 0.4}}
      -> {{"ok": true, "result": 123456789}}      or {{"ok": false, "error": "..."}}
  {{"do": "watch"}}     turns the connection into a stream of observations
  {{"do": "seen"}}      all observations so far
  {{"do": "devices"}}   where the simulated devices are
  further: {", ".join(COMMANDS)}
  Arguments are those of the method of that name in hwsim/site.py.

GPIO: the gateway finds the simulated chip only with what is in RUN_DIR/gateway.env in its
environment; it is written there once the shim is compiled.

example:
  python -m hwsim config/site.toml --run-dir /tmp/sim --write-config /tmp/sim/site.toml \\
      --control /tmp/sim/control &
  door-gateway run --config /tmp/sim/site.toml &
  python -m demo.people > /tmp/sim/records.jsonl
  door-gateway import /tmp/sim/records.jsonl --config /tmp/sim/site.toml
  echo '{{"do": "present", "reader": "street-reader", "uid": "04A10000000001"}}' \\
      | nc -N -U /tmp/sim/control
  door-gateway journal tail --config /tmp/sim/site.toml
"""


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hwsim",
        description="Simulate the hardware of a site at the wire, until SIGTERM or SIGINT.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("site", type=Path, help="the gateway's site.toml")
    parser.add_argument(
        "--run-dir",
        type=Path,
        help="where ports appear and a gateway keeps its state; default: a fresh directory, removed"
        " at the end",
    )
    parser.add_argument(
        "--write-config",
        type=Path,
        help="write the site.toml to run the gateway on: the devices are the simulated ones; state,"
        " socket and a new credential key are below RUN_DIR; the clock is the host's; a broker that"
        " isn't on this machine and break-glass codes are left out",
    )
    parser.add_argument("--control", type=Path, help="path of the control socket")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--any-baud",
        action="store_true",
        help="readers understand any speed; a real PN532 keeps the one it was set to until it loses"
        " power",
    )
    parser.add_argument(
        "--watchdog",
        action="append",
        default=[],
        metavar="NAME=SECONDS",
        help="this relay board drops its outputs after so long without a request (class R1)",
    )
    return parser.parse_args(arguments)


@contextmanager
def _alone(run_dir: Path) -> Iterator[Path]:
    """Hold a run directory. Raises SiteError where another simulator has it.

    The lock is on the directory itself and ends with the process, however that ends.
    """
    descriptor = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SiteError(
                f"{run_dir}: another simulator runs there. Stop it, or name another --run-dir"
            ) from error
        yield run_dir
    finally:
        os.close(descriptor)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _run(options: argparse.Namespace, run_dir: Path) -> None:
    stop = asyncio.Event()
    pairs = (option.partition("=") for option in options.watchdog)
    watchdogs = {name: float(seconds) for name, _, seconds in pairs}
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def tell(seen: Seen) -> None:
        if options.json:
            _print(json.dumps(seen.to_dict()))
        elif not isinstance(seen, HostOpened | HostClosed):
            _print(str(seen))  # a gateway that tries again every second tells a person nothing

    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(
            running_site(options.site, run_dir, any_baud=options.any_baud, watchdogs=watchdogs)
        )
        if options.write_config:
            site.write_config(options.write_config)
        if options.control:
            await stack.enter_async_context(control_socket(site, options.control))
        stack.enter_context(site.seen.subscribed(tell))
        environment = site.gateway_environment()
        if environment:
            lines = "".join(f"{name}={value}\n" for name, value in environment.items())
            (run_dir / "gateway.env").write_text(lines, encoding="utf-8")
        ready: dict[str, Any] = {
            "seen": "ready",
            "run_dir": str(run_dir),
            "devices": len(site.devices),
            "doors": len(site.doors),
            "environment": environment,
        }
        if options.json:
            _print(json.dumps(ready))
        else:
            _print("ready: {devices} devices and {doors} doors in {run_dir}".format(**ready))
            if environment:
                _print(f"run the gateway with `env $(cat {run_dir}/gateway.env) door-gateway …`")
        await stop.wait()


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop; 2 if the site cannot be simulated."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["fleet"]:
        return fleet.main(arguments[1:])
    options = _parse(arguments)
    try:
        if options.run_dir is not None:
            options.run_dir.mkdir(parents=True, exist_ok=True)
            with _alone(options.run_dir.absolute()) as run_dir:
                asyncio.run(_run(options, run_dir))
        else:
            with tempfile.TemporaryDirectory(prefix="hwsim-") as fresh:
                asyncio.run(_run(options, Path(fresh)))
    except (SiteError, OSError, ValueError) as error:
        sys.stderr.write(f"hwsim: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
