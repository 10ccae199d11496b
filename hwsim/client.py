"""The client of a running simulator's control socket, and a site in this very process for tests."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hwsim.observations import Seen, from_dict
from hwsim.site import running_site

__all__ = ["Simulator", "SimulatorError", "connect", "running_site"]

_REPLY_BYTES_MAX = 256 * 1024 * 1024
_RETRY_S = 0.02


class SimulatorError(Exception):
    """The simulator refused a request; the message is its own."""


class Simulator:
    """A running simulator. Requests have connections of their own, so they may run side by side.

    The methods are those of `hwsim.site.Site`, where arguments and results are described.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def ask(self, do: str, **arguments: Any) -> Any:
        """Send one request and return its result.

        Raises:
            SimulatorError: it was refused.
            OSError: there is no simulator.
        """
        reader, writer = await asyncio.open_unix_connection(self._path, limit=_REPLY_BYTES_MAX)
        try:
            writer.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            reply = json.loads(await reader.readline() or b'{"error": "the simulator left"}')
        finally:
            writer.close()
        if not reply.get("ok"):
            raise SimulatorError(f"{do}: {reply['error']}")
        return reply.get("result")

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[AsyncIterator[Seen]]:
        """A stream of every observation from the beginning of the block on."""
        reader, writer = await asyncio.open_unix_connection(self._path)

        async def stream() -> AsyncIterator[Seen]:
            async for line in reader:
                yield from_dict(json.loads(line))

        try:
            writer.write(b'{"do": "watch"}\n')
            await reader.readline()
            yield stream()
        finally:
            writer.close()

    async def watch(self) -> AsyncIterator[Seen]:
        """Every observation from the first iteration on."""
        async with self.watching() as stream:
            async for seen in stream:
                yield seen

    async def seen(self) -> list[Seen]:
        """Everything that was observed so far."""
        return [from_dict(fields) for fields in await self.ask("seen")]

    async def devices(self) -> dict[str, Any]:
        """The `devices` tables of the rewritten config."""
        found: dict[str, Any] = await self.ask("devices")
        return found

    async def present(self, reader: str, uid: str, hold: float | None = 0.4, **how: Any) -> int:
        """Hold a card to a reader."""
        return int(await self.ask("present", reader=reader, uid=uid, hold=hold, **how))

    async def present_two(
        self, reader: str, first: str, second: str, hold: float | None = 0.4
    ) -> int:
        """Hold two cards to a reader at once."""
        arguments = {"reader": reader, "first": first, "second": second, "hold": hold}
        return int(await self.ask("present_two", **arguments))

    async def present_secure(
        self, reader: str, kind: str, whose: str, hold: float | None = 0.4, *, forged: bool = False
    ) -> int:
        """Hold somebody's secure card or phone to a reader."""
        how = {"kind": kind, "whose": whose, "hold": hold, "forged": forged}
        return int(await self.ask("present_secure", reader=reader, **how))

    async def carry_grant(
        self, whose: str, grant: str, *, trick: str = "", signs_for: str = ""
    ) -> None:
        """Put a grant into somebody's phone, which `present_secure` shows as kind `grant`."""
        how = {"whose": whose, "grant": grant, "trick": trick, "signs_for": signs_for}
        await self.ask("carry_grant", **how)

    async def secure_value(self, reader: str, kind: str, whose: str) -> str:
        """What the records call that card."""
        return str(await self.ask("secure_value", reader=reader, kind=kind, whose=whose))

    async def sun_address(self, reader: str, whose: str) -> str:
        """What a phone gets that reads somebody's SUN tag: a URL, another one each time."""
        return str(await self.ask("sun_address", reader=reader, whose=whose))

    async def remove(self, reader: str, uid: str | None = None) -> None:
        """Take a card away, or all of them."""
        await self.ask("remove", reader=reader, uid=uid)

    async def press(self, keypad: str, keys: str, gap: float = 0.05) -> int:
        """Press keys."""
        return int(await self.ask("press", keypad=keypad, keys=keys, gap=gap))

    async def card(self, reader: str, bits: str) -> int:
        """Hold a card of raw bits to an OSDP reader."""
        return int(await self.ask("card", reader=reader, bits=bits))

    async def swipe(self, door: str, card: int) -> int:
        """Present a card to a UHPPOTE door's reader."""
        return int(await self.ask("swipe", door=door, card=card))

    async def tamper(self, reader: str, active: bool = True) -> None:
        """Open or close the case of an OSDP reader."""
        await self.ask("tamper", reader=reader, active=active)

    async def power_failure(self, reader: str, failed: bool = True) -> None:
        """The supply of an OSDP reader fails or comes back."""
        await self.ask("power_failure", reader=reader, failed=failed)

    async def tap_phone(self, reader: str, phone: str, trick: str = "") -> str:
        """Connect a phone with PKOC to a BLE reader; what the reader told it."""
        return str(await self.ask("tap_phone", reader=reader, phone=phone, trick=trick))

    async def phone_key(self, phone: str) -> str:
        """A phone's public key, as a `pkoc` credential has it."""
        return str(await self.ask("phone_key", phone=phone))

    async def press_fob(
        self,
        scanner: str,
        fob: str,
        distance: float = 0.5,
        start: float | None = None,
        trick: str = "",
        grant: str = "",
    ) -> str:
        """Press a fob's button, or a phone app's, near a door; what the gateway answered."""
        how = {"fob": fob, "distance": distance, "start": start, "trick": trick, "grant": grant}
        return str(await self.ask("press_fob", scanner=scanner, **how))

    async def osdp_key(self, reader: str, key: str) -> None:
        """Give an OSDP reader a key, or put it into install mode."""
        await self.ask("osdp_key", reader=reader, key=key)

    async def reboot(self, reader: str) -> None:
        """An OSDP reader loses power for a moment."""
        await self.ask("reboot", reader=reader)

    async def scan(self, scanner: str, code: str) -> int:
        """Hold a code before a scanner."""
        return int(await self.ask("scan", scanner=scanner, code=code))

    async def push(self, door: str, patience: float = 1.0) -> bool:
        """Push a door and walk through."""
        return bool(await self.ask("push", door=door, patience=patience))

    async def leave(self, door: str) -> None:
        """Go out by the mechanical handle."""
        await self.ask("leave", door=door)

    async def rex(self, door: str, hold: float = 0.3) -> int:
        """Press the request-to-exit button."""
        return int(await self.ask("rex", door=door, hold=hold))

    async def force(self, door: str) -> None:
        """Break a door open."""
        await self.ask("force", door=door)

    async def prop(self, door: str) -> None:
        """Put a wedge under a door."""
        await self.ask("prop", door=door)

    async def close(self, door: str) -> None:
        """Take the wedge away and let a door close."""
        await self.ask("close", door=door)

    async def unplug(self, device: str, after_bytes: int | None = None) -> None:
        """Unplug a device."""
        await self.ask("unplug", device=device, after_bytes=after_bytes)

    async def plug(self, device: str) -> None:
        """Plug a device in."""
        await self.ask("plug", device=device)

    async def hang(self, device: str) -> None:
        """Let a device hang."""
        await self.ask("hang", device=device)

    async def resume(self, device: str) -> None:
        """End `hang`, `fault` and `garble`."""
        await self.ask("resume", device=device)

    async def noise(self, device: str, n: int, seed: int = 0) -> None:
        """Let a device send random bytes."""
        await self.ask("noise", device=device, n=n, seed=seed)

    async def garble(self, device: str, rate: float, seed: int = 0) -> None:
        """Hit bytes on a serial line with this probability."""
        await self.ask("garble", device=device, rate=rate, seed=seed)

    async def flood(
        self, device: str, per_second: float, seconds: float = 1.0, what: str = ""
    ) -> None:
        """Let a device on a serial line send what nobody asked for."""
        await self.ask("flood", device=device, per_second=per_second, seconds=seconds, what=what)

    async def weld(self, device: str, output: int) -> None:
        """Weld an output's contact closed."""
        await self.ask("weld", device=device, output=output)

    async def unweld(self, device: str, output: int) -> None:
        """Repair an output's contact."""
        await self.ask("unweld", device=device, output=output)

    async def cut_wire(self, device: str, input: int) -> None:  # noqa: A002  # the config's word
        """Cut a wire of the loop at an input."""
        await self.ask("cut_wire", device=device, input=input)

    async def short_wires(
        self,
        device: str,
        input: int,  # noqa: A002
        ohms: float = 0.0,
    ) -> None:
        """Join the wires of the loop at an input, well or badly."""
        await self.ask("short_wires", device=device, input=input, ohms=ohms)

    async def repair_wires(self, device: str, input: int) -> None:  # noqa: A002
        """Mend the wires of the loop at an input."""
        await self.ask("repair_wires", device=device, input=input)

    async def power_lock(self, door: str, *, on: bool) -> None:
        """Fail or restore the lock's own supply."""
        await self.ask("power_lock", door=door, on=on)

    async def jam_contact(self, door: str, *, closed: bool | None) -> None:
        """Weld a door's contact closed, tear it open or repair it."""
        await self.ask("jam_contact", door=door, closed=closed)

    async def chatter(self, door: str, what: str, edges: int = 100, gap: float = 0.002) -> None:
        """Let a door's contact or rex chatter."""
        await self.ask("chatter", door=door, what=what, edges=edges, gap=gap)

    async def fault(self, device: str, **faults: Any) -> None:
        """Let a relay board's replies go wrong."""
        await self.ask("fault", device=device, **faults)

    async def power_cycle(self, device: str, off: float = 1.0) -> None:
        """Cut a device's power for some seconds."""
        await self.ask("power_cycle", device=device, off=off)


@asynccontextmanager
async def connect(path: Path | str, wait_s: float = 10.0) -> AsyncIterator[Simulator]:
    """A client of the simulator whose control socket is at `path`.

    Args:
        path: The socket.
        wait_s: Wait so long for a simulator that is still starting.

    Raises:
        TimeoutError: there was none in time.
    """
    simulator = Simulator(Path(path))
    async with asyncio.timeout(wait_s):
        while True:
            try:
                await simulator.devices()
            except OSError:
                await asyncio.sleep(_RETRY_S)
            else:
                break
    yield simulator
