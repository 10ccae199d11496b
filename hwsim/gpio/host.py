"""What a test needs beside the chip's process: the shim, and a way to work the chip's lines."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

SHIM = Path(__file__).with_name("shim.c")


def build_shim(into: Path) -> Path:
    """Compile the shim with the machine's C compiler; the path to preload.

    Raises:
        OSError, subprocess.CalledProcessError: there is no compiler, or no linux/gpio.h.
    """
    made = into / "gpio_shim.so"
    flags = ["-shared", "-fPIC", "-O1", "-o", str(made), str(SHIM), "-ldl"]
    subprocess.run(["cc", *flags], check=True, capture_output=True)
    return made


class ChipProcess:
    """A running chip: commands in, what was seen out."""

    def __init__(self, process: asyncio.subprocess.Process, path: Path) -> None:
        self.path = path
        self.seen: list[dict[str, Any]] = []
        self._process = process
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def listen(self) -> None:
        """Sort what the chip says, until it ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            if "seen" in said:
                self.seen.append(said)
            else:
                self._answers.put_nowait(said)

    async def do(self, what: str, **arguments: Any) -> Any:
        """Carry out a command of `hwsim.gpio.chip.Chip.do`.

        Raises:
            ValueError: the chip refused it.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
        await self._process.stdin.drain()
        answer = await self._answers.get()
        if not answer["ok"]:
            raise ValueError(answer["error"])
        return answer["result"]

    async def card(self, d0: int, d1: int, bits: str, apart_us: int = 2000) -> int:
        """Send bits as a Wiegand reader does; when the last went out, in monotonic nanoseconds."""
        lines = {"0": d0, "1": d1}
        edges = [[lines[bit], place * apart_us] for place, bit in enumerate(bits)]
        return int(await self.do("pulses", edges=edges))

    def levels(self, line: int) -> list[bool]:
        """What an output was set to, in order."""
        return [each["high"] for each in self.seen if each.get("line") == line]


@asynccontextmanager
async def running_chip(path: Path) -> AsyncIterator[ChipProcess]:
    """A chip at `path` for the length of the block."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hwsim.gpio.chip", str(path), stdin=pipe, stdout=pipe
    )
    chip = ChipProcess(process, path)
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    listening = asyncio.create_task(chip.listen())
    try:
        yield chip
    finally:
        process.stdin.close()
        await process.wait()
        await listening
