"""Events of iCalendar files (RFC 5545), through packages that only the cloud's side needs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime
from importlib.util import find_spec
from pathlib import Path

from gateway.cloud.folder import Event
from gateway.cloud.ics_worker import Said
from gateway.decoding import decode_json
from gateway.errors import GatewayError

ICS_BYTES_MAX = 16 * 1024 * 1024
"""A busy room's ten years. What is larger isn't read."""

WORK_S_MAX = 120.0
"""For one file. The largest takes half of it on a slow machine; an event that was made to take for
ever keeps no revocation from being built."""


def read_calendar(path: Path, first: date, until: date) -> Iterator[Event]:
    """The occurrences in a file that overlap the days from `first` to `until`, in order.

    A process of its own works them out, which is stopped after WORK_S_MAX: whoever may put an event
    into a room's calendar decides what there is to work out.

    Raises:
        GatewayError: the packages aren't installed.
        ValueError: it isn't a calendar, is too large or takes too long.
        OSError: it can't be read.
    """
    for name in ("icalendar", "recurring_ical_events"):
        if find_spec(name) is None:
            raise GatewayError(
                f"{path.name}: can't be read without {name}: install requirements-cloud.lock"
            )
    with path.open("rb") as file:
        data = file.read(ICS_BYTES_MAX + 1)
    if len(data) > ICS_BYTES_MAX:
        raise ValueError(f"larger than {ICS_BYTES_MAX} bytes")
    command = [sys.executable, "-m", "gateway.cloud.ics_worker"]
    worker = subprocess.Popen(
        [*command, first.isoformat(), until.isoformat(), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with worker:
        try:
            lines = worker.communicate(data, timeout=WORK_S_MAX)[0].splitlines()
        except subprocess.TimeoutExpired:
            worker.kill()
            at = _last(worker.communicate()[0].splitlines()).at
            raise ValueError(f"{at}: takes more than {WORK_S_MAX:g} s to work out") from None
        finally:
            worker.kill()
    said = _last(lines)
    if said.fault:
        raise ValueError(said.fault)
    if said.occurrences is None:
        raise ValueError(f"{said.at}: can't be worked out: the process ended {worker.returncode}")
    events = [
        Event(each.uid, _when(each.start), _when(each.end), each.cancelled, each.people)
        for each in said.occurrences
    ]
    yield from sorted(events, key=lambda event: (str(event.start), event.uid))


def _last(lines: list[bytes]) -> Said:
    return decode_json(lines[-1], Said) if lines else Said(at="the file")


def _when(text: str) -> datetime | date:
    return datetime.fromisoformat(text) if "T" in text else date.fromisoformat(text)
