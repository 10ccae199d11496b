"""How the site stands at this moment, for the detector and for whoever asks."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from cryptography import x509

from gateway.clock import Clock
from gateway.config.site import SiteConfig
from gateway.control.site import SiteController
from gateway.domain.detection import DoorNow, SiteNow
from gateway.domain.door_state import Alarm

_LIFE_TIMES = "/sys/block/mmcblk*/device/life_time"
"""Linux, Documentation/ABI/testing/sysfs-bus-mmc: two hexadecimal estimates (types A and B) in
steps of a tenth, 0x01 for 0 to 10 % used, 0x0b for past it. eMMC has it, few SD cards do."""


class Standing:
    """Ask it with `now`; what is slow to find out is read from small files of the kernel's."""

    def __init__(self, config: SiteConfig, site: SiteController, clock: Clock) -> None:
        self._config = config
        self._site = site
        self._clock = clock

    def now(self) -> SiteNow:
        """How the site stands."""
        devices = {name: bool(device.online) for name, device in self._site.devices.items()}
        trusted = self._clock.trust().decides_as_trusted
        return SiteNow(
            devices=devices,
            doors={
                door_id: DoorNow(
                    works=devices[door.strike.device]
                    and any(devices[reader.device] for reader in door.readers),
                    held_open=Alarm.HELD_OPEN in self._site.doors[door_id].state.alarms,
                )
                for door_id, door in self._config.doors.items()
            },
            clock_trusted=trusted,
            disk_free=disk_free_share(Path(self._config.state.dir)),
            storage_life_used=storage_life_used(),
            certificates=dict(self._certificates()) if trusted else {},
        )

    def _certificates(self) -> Iterator[tuple[str, timedelta]]:
        tls = self._config.mqtt.tls if self._config.mqtt else None
        if tls is None:
            return
        for file in (tls.certificate, tls.ca):
            try:
                found = x509.load_pem_x509_certificates(Path(file).read_bytes())
            except (OSError, ValueError):
                continue  # the link says what is wrong with it, whenever it connects
            end = min(each.not_valid_after_utc for each in found)
            yield Path(file).name, end - self._clock.now()


def disk_free_share(directory: Path) -> float | None:
    """How much of the disk is free for us, 0 to 1; None where it can't be asked."""
    try:
        said = os.statvfs(directory)
    except OSError:
        return None
    return said.f_bavail / said.f_blocks if said.f_blocks else None


def storage_life_used(pattern: str = _LIFE_TIMES) -> float | None:
    """The larger estimate of any eMMC on the box, 0 to 1; None where none tells."""
    root = Path(pattern.partition("*")[0]).parent
    found = []
    for file in root.glob(pattern.removeprefix(f"{root}/")):
        try:
            estimates = [int(each, 16) for each in file.read_text(encoding="ascii").split()]
        except (OSError, ValueError):
            continue
        found += [min(each, 10) / 10 for each in estimates if each]
    return max(found, default=None)
