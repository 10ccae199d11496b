"""How the box and its site stand at this moment, for the detector and for whoever asks."""

import os
import resource
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cryptography import x509

from gateway.clock import Clock
from gateway.config.site import SiteConfig
from gateway.control.site import SiteController
from gateway.domain.detection import DoorNow, SiteNow
from gateway.domain.door_state import Alarm
from gateway.ipc.messages import BoxStatus
from gateway.statedir import open_plain

SYSFS = Path("/sys")

_LIFE_TIMES = "block/mmcblk*/device/life_time"
"""Linux, Documentation/ABI/testing/sysfs-bus-mmc: two hexadecimal estimates (types A and B) in
steps of a tenth, 0x01 for 0 to 10 % used, 0x0b for past it. eMMC has it, few SD cards do."""

_TEMPERATURES = "class/thermal/thermal_zone*/temp"
"""Linux, Documentation/driver-api/thermal/sysfs-api.rst: thousandths of a degree Celsius."""


class Standing:
    """Ask it with `box` or `site`: what they tell is read from small files at that moment."""

    def __init__(
        self, config: SiteConfig, site: SiteController, clock: Clock, sysfs: Path = SYSFS
    ) -> None:
        self._config = config
        self._site = site
        self._clock = clock
        self._sysfs = sysfs
        self._expiries: dict[str, tuple[tuple[int, int, int], datetime]] = {}
        """By file: which content of it was parsed, and its earliest end."""

    def box(self) -> BoxStatus:
        """How the box is."""
        try:
            disk = os.statvfs(self._config.state.dir)
        except OSError:
            disk = None
        return BoxStatus(
            temperature_c=temperature_c(self._sysfs),
            disk_free=disk.f_bavail / disk.f_blocks if disk and disk.f_blocks else None,
            disk_free_bytes=disk.f_bavail * disk.f_frsize if disk else None,
            storage_life_used=storage_life_used(self._sysfs),
            memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            certificates=dict(self._certificates()),
        )

    def site(self) -> SiteNow:
        """How the site stands."""
        devices = {name: bool(device.online) for name, device in self._site.devices.items()}
        trusted, box = self._clock.trust().decides_as_trusted, self.box()
        now = self._clock.now()
        return SiteNow(
            devices=devices,
            doors={
                door_id: DoorNow(
                    works=devices[door.strike.device]
                    and any(devices[reader.device] for reader in door.readers),
                    held_open=Alarm.HELD_OPEN in self._site.doors[door_id].state.alarms,
                    devices=frozenset(
                        (door.strike.device, *(reader.device for reader in door.readers))
                    ),
                )
                for door_id, door in self._config.doors.items()
            },
            clock_trusted=trusted,
            disk_free=box.disk_free,
            storage_life_used=box.storage_life_used,
            certificates={name: end - now for name, end in box.certificates.items()}
            if trusted
            else {},
        )

    def _certificates(self) -> Iterator[tuple[str, datetime]]:
        tls = self._config.mqtt.tls if self._config.mqtt else None
        if tls is None:
            return
        for file in (tls.certificate, tls.ca):
            try:
                yield Path(file).name, self._expiry(file)
            except (OSError, ValueError):
                continue  # the link says what is wrong with it, whenever it connects

    def _expiry(self, file: str) -> datetime:
        """The earliest end in a file, parsed only once for one content of it."""
        with open_plain(Path(file)) as opened:
            at = os.fstat(opened.fileno())
            content = at.st_mtime_ns, at.st_size, at.st_ino
            known = self._expiries.get(file)
            if known is None or known[0] != content:
                found = x509.load_pem_x509_certificates(opened.read())
                known = content, min(each.not_valid_after_utc for each in found)
                self._expiries[file] = known
        return known[1]


def storage_life_used(sysfs: Path = SYSFS) -> float | None:
    """The largest estimate of any eMMC on the box, 0 to 1; None where none tells."""
    found = [
        min(int(estimate, 16), 10) / 10
        for text in _texts(sysfs, _LIFE_TIMES)
        for estimate in text.split()
        if estimate.startswith("0x") and int(estimate, 16)
    ]
    return max(found, default=None)


def temperature_c(sysfs: Path = SYSFS) -> float | None:
    """The hottest place of the box that tells; None where none does."""
    found = [
        int(text) / 1000 for text in _texts(sysfs, _TEMPERATURES) if text.lstrip("-").isdecimal()
    ]
    return max(found, default=None)


def _texts(sysfs: Path, pattern: str) -> Iterator[str]:
    for file in sysfs.glob(pattern):
        try:
            yield file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
