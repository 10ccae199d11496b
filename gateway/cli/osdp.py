"""`door-gateway osdp`: find the readers on a line, and give one a key of its own."""

import argparse
import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from gateway.cli import EXIT_COULD_NOT, EXIT_NO, EXIT_OK, Command
from gateway.cli.common import add_config, add_json, load_config, print_json
from gateway.clock import monotonic
from gateway.drivers.osdp import OsdpSettings
from gateway.drivers.osdp_keys import WINDOW_MAX, KeyStore
from gateway.drivers.osdp_scan import ADDRESSES, SPEEDS, Found, scan

_DESCRIPTION = """\
For whoever installs OSDP readers: which are on a line (`scan`), and a random key of its own for one
of them (`install`). Until it has one, the gateway doesn't speak to a reader."""

_EXAMPLE = """\
example:
  door-gateway osdp scan /dev/ttyUSB0
  door-gateway osdp install street-reader --config /etc/door-gateway/site.toml"""

_SCAN = """\
Ask at every speed, and at each one at which somebody answers every address. Nothing on the line is
changed. The core must not have the line open. Exits 1 when nobody answers."""

_INSTALL = """\
Put the reader into its install mode first (its maker says how). For at most ten minutes the running
core then opens a channel to it with the default key that everybody knows, and sets a random key,
which is on disk before the reader gets it. Whoever listens on the wire in this very moment learns
it: be there. The window closes at the first success. Exits 1 when the reader took no key."""

LOOK_S = 0.2
MINUTES_MAX = int(WINDOW_MAX.total_seconds() // 60)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    form = argparse.RawDescriptionHelpFormatter
    found = actions.add_parser(
        "scan",
        help="which readers answer on a serial line, at which speed and address",
        description=_SCAN,
        epilog="example:\n  door-gateway osdp scan /dev/ttyUSB0 --json",
        formatter_class=form,
    )
    found.add_argument("port", metavar="PORT")
    found.add_argument("--speed", type=int, action="append", choices=sorted(SPEEDS), metavar="BAUD")
    found.add_argument("--thorough", action="store_true", help="also find slow readers; minutes")
    add_json(found)
    install = actions.add_parser(
        "install",
        help="open the install window of a reader, and wait until it has its key",
        description=_INSTALL,
        epilog="example:\n  door-gateway osdp install street-reader --minutes 5",
        formatter_class=form,
    )
    install.add_argument("device", metavar="DEVICE", help="its name in the site's file")
    install.add_argument(
        "--minutes", type=int, default=MINUTES_MAX, choices=range(1, MINUTES_MAX + 1), metavar="N"
    )
    add_config(install)
    add_json(install)


def _run(options: argparse.Namespace) -> int:
    return _scan(options) if options.action == "scan" else _install(options)


def _scan(options: argparse.Namespace) -> int:
    found: list[Found] = []
    for reader in scan(
        options.port,
        speeds=options.speed or SPEEDS,
        addresses=ADDRESSES,
        thorough=options.thorough,
        progress=lambda text: print(text, file=sys.stderr),
    ):
        found.append(reader)
        if not options.json:
            secure = "secure channel" if reader.secure else "NO secure channel: can't be used"
            print(
                f"address {reader.address} at {reader.baud_rate} baud: vendor {reader.vendor}, "
                f"model {reader.model}, serial {reader.serial}, firmware {reader.firmware}, "
                f"{reader.inputs} inputs, {reader.outputs} outputs, {secure}"
            )
    if options.json:
        print_json(found)
    elif not found:
        print("nobody answers", file=sys.stderr)
    return EXIT_OK if found else EXIT_NO


def _install(options: argparse.Namespace) -> int:
    device = load_config(options).devices.get(options.device)
    if device is None or not isinstance(device.settings, OsdpSettings):
        print(f"{options.config}: {options.device!r} is no OSDP reader there", file=sys.stderr)
        return EXIT_COULD_NOT
    store = KeyStore(Path(device.settings.keys))
    before = store.key(options.device)
    length = timedelta(minutes=options.minutes)
    store.open_window(options.device, length, monotonic())
    print(
        f"{options.device}: the window is open for {options.minutes} minutes. Put the reader into "
        "install mode; the core must be running.",
        file=sys.stderr,
    )
    try:
        asyncio.run(_until_closed(store, options.device))
    finally:
        store.close_window(options.device)
    done = store.key(options.device) not in (None, before)
    if options.json:
        print_json({"device": options.device, "installed": done})
    else:
        print(f"{options.device}: {'has a key of its own' if done else 'took no key'}")
    return EXIT_OK if done else EXIT_NO


async def _until_closed(store: KeyStore, device: str) -> None:
    while store.window(device, monotonic()) is not None:  # noqa: ASYNC110  # a file of another process
        await asyncio.sleep(LOOK_S)


COMMAND = Command(_configure, _run)
