"""A D-Bus of its own: a dbus-daemon on a socket below the run directory."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

START_S_MAX = 5.0

# Anyone who reaches the socket may own and call everything: it is in a directory of the test's.
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*" eavesdrop="true"/>
  </policy>
</busconfig>
"""


class PrivateBus:
    """A dbus-daemon that can be started, killed and stopped in its tracks."""

    def __init__(self, directory: Path) -> None:
        """Start nothing yet; the socket will be `directory/bus`."""
        self.socket = directory.absolute() / "bus"
        self._config = directory.absolute() / "bus.conf"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """What D-Bus clients connect to."""
        return f"unix:path={self.socket}"

    @property
    def running(self) -> bool:
        """Whether the daemon was started and not killed."""
        return self._process is not None

    async def start(self) -> None:
        """Run the daemon; returns when it listens."""
        self.socket.unlink(missing_ok=True)
        self._config.parent.mkdir(parents=True, exist_ok=True)
        self._config.write_text(CONFIG.format(socket=self.socket))
        self._process = await asyncio.create_subprocess_exec(
            "dbus-daemon",
            "--nofork",
            "--nopidfile",
            "--nosyslog",
            "--print-address",
            f"--config-file={self._config}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S_MAX):
            if not await self._process.stdout.readline():
                raise RuntimeError(f"dbus-daemon did not start on {self.socket}")

    async def kill(self) -> None:
        """End the daemon at once: every client loses its connection."""
        if self._process is not None:
            process, self._process = self._process, None
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            self.socket.unlink(missing_ok=True)

    def hang(self) -> None:
        """Let the daemon keep its connections and do nothing."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """End `hang`."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGCONT)
