"""Tells the service manager how we are: sd_notify(3) and its watchdog, without a library."""

import os
import socket
from datetime import timedelta


def notify(*assignments: str) -> None:
    """Send `READY=1`, `STATUS=…`, `WATCHDOG=1` …; does nothing outside a service manager."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(address)
        channel.sendall("\n".join(assignments).encode())


def watchdog_interval() -> timedelta | None:
    """Half of WatchdogSec=, the interval that sd_watchdog_enabled(3) recommends."""
    usec = os.environ.get("WATCHDOG_USEC")
    if not usec or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return timedelta(microseconds=int(usec) / 2)
