"""`door-gateway import`: put a file of entitlement records in force, atomically."""

import argparse
import asyncio
import codecs
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from gateway.cli import EXIT_COULD_NOT, EXIT_OK, Command
from gateway.cli.common import (
    add_config,
    add_json,
    counted,
    load_config,
    print_json,
    socket_of,
)
from gateway.cli.output import say, visible, visible_lines
from gateway.clock import monotonic
from gateway.config.site import SiteConfig
from gateway.errors import GatewayError, IpcError, NotAllowed, RecordsRefused
from gateway.ipc.client import connect
from gateway.ipc.messages import IMPORT_BYTES_MAX, ImportDone
from gateway.processes.core import import_offline
from gateway.trust.bundle import MAGIC

_DESCRIPTION = """\
Put a file of entitlement records in force: the whole of it or, where anything in it is wrong,
nothing. At a site with [trust] it is a signed .bundle file, elsewhere JSON Lines. The running
core does it without a door noticing; with no core running it is done right here, for the next
start. Every fault is a line on standard error: type, id, member and what is wrong, separated by
tabs; the exit status is then 2."""

_EXAMPLE = """\
example:
  door-gateway import records.jsonl --config /etc/door-gateway/site.toml
  door-gateway import /media/stick/42.bundle"""


_PROGRESS_EVERY_S = 1.0

_HEAD_BYTES = 4096
"""The beginning of a file tells whether it is text."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    parser.add_argument("file", type=Path, metavar="FILE")
    add_config(parser)
    add_json(parser)


def _run(options: argparse.Namespace) -> int:
    config = load_config(options)
    records = _read(options.file)
    try:
        done = asyncio.run(_import_shown(config, records))
    except RecordsRefused as refused:
        if options.json:
            print_json({"ok": False, "faults": [fault._asdict() for fault in refused.faults]})
        print(visible_lines(str(refused)), file=sys.stderr)
        return EXIT_COULD_NOT
    if options.json:
        print_json(
            {
                "ok": True,
                "revision": done.revision,
                "counts": done.counts,
                "warnings": done.warnings,
            }
        )
        return EXIT_OK
    for warning in done.warnings:
        print(visible(f"warning: {warning}"), file=sys.stderr)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(done.counts.items()))
    say(f"revision {done.revision} is in force: {counts}")
    return EXIT_OK


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(IMPORT_BYTES_MAX + 1)
    except OSError as error:
        raise GatewayError(f"{path}: can't be read: {error.strerror}") from error
    if len(data) > IMPORT_BYTES_MAX:
        limit = IMPORT_BYTES_MAX // 1024**2
        raise GatewayError(f"{path}: is larger than {limit} MiB, the most that an import takes")
    if reason := _not_records(data):
        raise GatewayError(f"{path}: {reason}")
    return data


def _not_records(data: bytes) -> str | None:
    """Return why these bytes are neither records nor a bundle, in words for whoever made them."""
    if data.startswith(MAGIC):
        return None
    if not data.strip():
        return "the records file is empty. Records in force stay"
    if data.startswith(codecs.BOM_UTF8):
        return "begins with a byte order mark. Save it as UTF-8 without one"
    head = data[:_HEAD_BYTES]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _is_utf_16(head):
        return "is UTF-16. Save it as UTF-8"
    if any(byte < ord(" ") and byte not in b"\t\n\r" for byte in head):
        return "is not a text of records, nor a bundle: it has bytes that no text has"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return f"is not UTF-8 at line {line}. Save it as UTF-8"
    return None


def _is_utf_16(head: bytes) -> bool:
    """Return True where every other byte is zero, as in plain English text as UTF-16."""
    return len(head) > 1 and (not any(head[1::2]) or not any(head[::2]))


async def _import_shown(config: SiteConfig, records: bytes) -> ImportDone:
    """Import, with a sign of life for a person at a terminal: a large site takes a minute."""
    if not sys.stderr.isatty():
        return await _import(config, records)
    shown = asyncio.create_task(_show_progress(records))
    try:
        return await _import(config, records)
    finally:
        shown.cancel()
        await asyncio.wait((shown,))


async def _show_progress(records: bytes) -> None:
    lines = records.count(b"\n")
    what = "a signed bundle" if records.startswith(MAGIC) else counted(lines, "record")
    began = monotonic()
    try:
        while True:
            await asyncio.sleep(_PROGRESS_EVERY_S)
            seconds = (monotonic() - began).seconds
            print(f"\rchecking {what}: {seconds} s", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


async def _import(config: SiteConfig, records: bytes) -> ImportDone:
    async with AsyncExitStack() as stack:
        try:
            core = await stack.enter_async_context(connect(socket_of(config), role="import"))
        except NotAllowed:
            raise
        except IpcError:
            # Nobody answers: the state directory's owner, if there is one, is found by its lock.
            return await import_offline(config, records)
        return await core.import_records(records)


COMMAND = Command(_configure, _run)
