"""`door-gateway metrics`: the gateway's figures in Prometheus' text format, for a node exporter."""

import argparse
import asyncio
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from gateway.cli import EXIT_OK, Command
from gateway.cli.common import add_config, load_config, socket_of
from gateway.ipc.client import connect
from gateway.ipc.messages import DoorFigures, Status
from gateway.statedir import write_output

_DESCRIPTION = """\
Print the running gateway's figures in Prometheus' text format, or write them to FILE, whole or not
at all, as the node exporter's textfile collector wants it. The gateway opens no port for this."""

_EXAMPLE = """\
example:
  door-gateway metrics --output /var/lib/prometheus/node-exporter/door-gateway.prom"""

_PREFIX = "door_gateway"

Labels = Mapping[str, str]
Samples = Iterable[tuple[Labels, float]]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    add_config(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead")


def _run(options: argparse.Namespace) -> int:
    config = load_config(options)
    text = prometheus_text(asyncio.run(_ask(socket_of(config))))
    if options.output is None:
        print(text, end="")
    else:
        write_output(options.output, text.encode(), mode=0o644)
    return EXIT_OK


async def _ask(socket: Path) -> Status:
    async with connect(socket, role="metrics") as core:
        return await core.status()


def prometheus_text(status: Status) -> str:
    """The status in Prometheus' text exposition format, version 0.0.4. It names no holder."""
    lines: list[str] = []
    for name, kind, about, samples in _families(status):
        found = list(samples)
        if found:
            lines.append(f"# HELP {_PREFIX}_{name} {about}")
            lines.append(f"# TYPE {_PREFIX}_{name} {kind}")
            lines += [f"{_PREFIX}_{name}{_labels(each)} {value:.10g}" for each, value in found]
    return "\n".join(lines) + "\n"


def _families(status: Status) -> Iterator[tuple[str, str, str, Samples]]:
    none: Labels = {}
    identity = {"site": status.site, "gateway": status.gateway, "version": status.version}
    yield "info", "gauge", "Always 1, with who this is.", [(identity, 1)]
    yield "uptime_seconds", "gauge", "Since the core's start.", [(none, status.uptime_s)]
    yield "time_trust", "gauge", "0 nothing known to 3 battery clock.", [(none, status.trust)]
    yield "problems", "gauge", "Lines of problems in the status.", [(none, len(status.problems))]
    yield (
        "entitlements_as_of_seconds", "gauge", "When the source of truth last vouched for them.",
        _instants([(none, status.as_of)]),
    )  # fmt: skip
    yield (
        "beacons_expected", "gauge", "1 where beacons vouch for the entitlements.",
        [(none, status.signed)],
    )  # fmt: skip
    yield "journal_events", "gauge", "Number of the last event.", [(none, status.last_seq)]
    yield (
        "journal_backlog_events", "gauge", "Events that the cloud has not acknowledged.",
        [(none, status.backlog)],
    )  # fmt: skip
    yield from _broker(status)
    yield (
        "journal_writes", "gauge", "1 while the disk takes events.",
        [(none, status.journal.healthy)],
    )  # fmt: skip
    yield (
        "device_online", "gauge", "1 while the device answers.",
        [({"device": name}, device.online) for name, device in sorted(status.devices.items())],
    )  # fmt: skip
    yield (
        "device_battery_percent", "gauge", "What a device on a battery last said of it.",
        [({"device": name}, device.battery_percent)
         for name, device in sorted(status.devices.items()) if device.battery_percent is not None],
    )  # fmt: skip
    doors = sorted(status.doors.items())
    yield (
        "door_locked", "gauge", "1 while the strike is at rest; no sample while that is unknown.",
        [({"door": name}, door.locked) for name, door in doors if door.locked is not None],
    )  # fmt: skip
    yield (
        "door_open", "gauge", "1 while the contact says open; no sample while it is unknown.",
        [({"door": name}, door.contact == "open")
         for name, door in doors if door.contact != "unknown"],
    )  # fmt: skip
    yield (
        "door_mode", "gauge", "1 for the mode in force.",
        [({"door": name, "mode": door.mode}, 1) for name, door in doors],
    )  # fmt: skip
    yield (
        "door_alarm", "gauge", "1 for each alarm that stands.",
        [({"door": name, "alarm": alarm}, 1) for name, door in doors for alarm in door.alarms],
    )  # fmt: skip
    figures = sorted(status.figures.items())
    yield (
        "access_total", "counter", "Answers at a door since the core's start.",
        [({"door": name, "outcome": outcome}, count)
         for name, door in figures for outcome, count in sorted(door.outcomes.items())],
    )  # fmt: skip
    yield (
        "denied_total", "counter", "Denials at a door by reason since the core's start.",
        [({"door": name, "reason": reason}, count)
         for name, door in figures for reason, count in sorted(door.denials.items())],
    )  # fmt: skip
    yield (
        "latency_seconds", "summary", "Of a stage of a tap at a door, over its last 500.",
        [sample for name, door in figures for sample in _latencies(name, door)],
    )  # fmt: skip
    yield (
        "events_total", "counter", "Events by code since the core's start.",
        [({"code": code}, count) for code, count in sorted(status.counters.items())],
    )  # fmt: skip
    box = status.box
    for name, about, value in (
        ("temperature_celsius", "The box's hottest place that tells.", box.temperature_c),
        ("disk_free_ratio", "Of the disk with the state directory.", box.disk_free),
        ("disk_free_bytes", "Of the disk with the state directory.", box.disk_free_bytes),
        ("storage_life_used_ratio", "As the storage says.", box.storage_life_used),
        ("memory_bytes", "Most that the core ever had resident.", box.memory_bytes),
    ):
        yield name, "gauge", about, [] if value is None else [(none, value)]
    yield (
        "certificate_ends_seconds", "gauge", "When a certificate ends.",
        _instants([({"file": name}, end) for name, end in sorted(box.certificates.items())]),
    )  # fmt: skip


def _broker(status: Status) -> Iterator[tuple[str, str, str, Samples]]:
    """The way of events to the cloud; nothing of it at a site without a broker."""
    broker = status.broker
    none: Labels = {}
    if broker is None:
        return
    yield "link_up", "gauge", "1 while the link reports to the core.", [(none, broker.link)]
    there = broker.connected_since is not None
    yield "broker_connected", "gauge", "1 while there is a session.", [(none, there)]
    yield (
        "broker_connected_since_seconds", "gauge", "When the session began.",
        _instants([(none, broker.connected_since)]),
    )  # fmt: skip
    yield (
        "broker_topics_refused", "gauge", "Topics that the broker doesn't let us write to.",
        [(none, len(broker.refused))],
    )  # fmt: skip
    yield (
        "broker_events_refused_total", "counter", "Batches of events that the broker refused.",
        [(none, broker.events_refused)],
    )  # fmt: skip
    yield (
        "acknowledged_seconds", "gauge", "When the cloud last acknowledged events.",
        _instants([(none, broker.acknowledged_at)]),
    )  # fmt: skip
    since = broker.waiting_since
    age_s = 0.0 if since is None else max(0.0, (status.at - since).total_seconds())
    yield (
        "oldest_waiting_seconds", "gauge", "Age of the oldest event that is not acknowledged.",
        [(none, age_s)],
    )  # fmt: skip


def _latencies(name: str, door: DoorFigures) -> Iterator[tuple[Labels, float]]:
    for stage, latency in sorted(door.latency_ms.items()):
        for quantile, ms in (("0.5", latency.p50), ("0.99", latency.p99), ("1", latency.worst)):
            yield {"door": name, "stage": stage, "quantile": quantile}, ms / 1000


def _instants(samples: Iterable[tuple[Labels, datetime | None]]) -> list[tuple[Labels, float]]:
    return [(labels, at.timestamp()) for labels, at in samples if at is not None]


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


COMMAND = Command(_configure, _run)
