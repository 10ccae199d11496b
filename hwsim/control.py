"""The control socket of a running simulator: JSON lines in, one reply each, or a stream."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from hwsim.observations import WatcherTooSlowError
from hwsim.site import Site, SiteError

REQUEST_BYTES_MAX = 65_536

COMMANDS = (
    "present",
    "present_two",
    "present_secure",
    "carry_grant",
    "secure_value",
    "sun_address",
    "remove",
    "press",
    "card",
    "swipe",
    "tamper",
    "power_failure",
    "osdp_key",
    "reboot",
    "scan",
    "tap_phone",
    "phone_key",
    "press_fob",
    "push",
    "leave",
    "rex",
    "force",
    "prop",
    "close",
    "power_lock",
    "jam_contact",
    "chatter",
    "unplug",
    "plug",
    "hang",
    "resume",
    "noise",
    "garble",
    "flood",
    "fault",
    "power_cycle",
    "weld",
    "unweld",
    "cut_wire",
    "short_wires",
    "repair_wires",
)


async def answer(site: Site, line: bytes) -> dict[str, Any]:
    """Carry out one request.

    Args:
        site: The site to act on.
        line: A JSON object: `do` names a method of `Site` in `COMMANDS`, the rest its arguments.

    Returns:
        `{"ok": true, "result": ...}` or `{"ok": false, "error": "..."}`.
    """
    try:
        request = json.loads(line)
        do = request.pop("do")
        if do == "devices":
            return {"ok": True, "result": site.rewritten_config().get("devices", {})}
        if do == "seen":
            return {"ok": True, "result": [seen.to_dict() for seen in site.seen.all]}
        if do not in COMMANDS:
            return {"ok": False, "error": f"unknown command {do!r}"}
        act = getattr(site, do)
        inspect.signature(act).bind(**request)
        return {"ok": True, "result": await act(**request)}
    except (SiteError, ValueError, TypeError, KeyError, AttributeError) as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}


@asynccontextmanager
async def control_socket(site: Site, path: Path) -> AsyncIterator[None]:
    """Serve a site's control socket for the length of the block."""
    conversations: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        try:
            await _converse(site, reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            return  # the client left, or the simulator ends: either way nobody listens
        finally:
            conversations.discard(task)
            writer.close()

    _unlink(path)
    server = await asyncio.start_unix_server(converse, path, limit=REQUEST_BYTES_MAX)
    try:
        yield
    finally:
        server.close()
        for task in tuple(conversations):
            task.cancel()
        await asyncio.gather(*conversations)
        _unlink(path)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _converse(site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            line = await reader.readline()
        except ValueError:
            writer.write(_line({"ok": False, "error": f"over {REQUEST_BYTES_MAX} bytes"}))
            return
        if not line.endswith(b"\n"):
            return
        if _is_watch(line):
            await _stream(site, reader, writer)
            return
        writer.write(_line(await answer(site, line)))
        await writer.drain()


def _is_watch(line: bytes) -> bool:
    with suppress(ValueError, AttributeError):
        return bool(json.loads(line).get("do") == "watch")
    return False


async def _stream(site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send every observation until the client leaves or falls too far behind."""

    async def forward() -> None:
        with suppress(WatcherTooSlowError, ConnectionError):
            async for seen in stream:
                writer.write(_line(seen.to_dict()))
                await writer.drain()

    async def until_left() -> None:
        with suppress(ConnectionError):
            await reader.read()

    with site.seen.watching() as stream:
        writer.write(_line({"ok": True}))
        async with asyncio.TaskGroup() as group:
            either = [group.create_task(forward()), group.create_task(until_left())]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in either:
                task.cancel()


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"
