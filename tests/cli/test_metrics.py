"""`door-gateway metrics`: read by the parser that Prometheus' own client library has."""

import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.cli.metrics import prometheus_text
from gateway.ipc.messages import (
    BoxStatus,
    BrokerStatus,
    DeviceStatus,
    DoorFigures,
    DoorStateReport,
    JournalStatus,
    Latency,
    Status,
)

OPS = Path(__file__).parents[2] / "config" / "ops"
AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
ODD = 'a "door"\\with\nall'


def status() -> Status:
    door = DoorStateReport(
        door=ODD, mode="controlled", locked=None, contact="open", trust=2, at=AT,
        alarms=["held_open"],
    )  # fmt: skip
    return Status(
        version="1.0", site="LON", gateway="gw", revision=None, as_of=None, at=AT, trust=2,
        uptime_s=12.5, stream="s", last_seq=7, acknowledged_seq=0, backlog=7,
        devices={"reader": DeviceStatus(online=False)}, doors={ODD: door},
        journal=JournalStatus(healthy=True), problems=["one"],
        box=BoxStatus(temperature_c=48.5, certificates={"gw.pem": AT}),
        figures={ODD: DoorFigures(
            outcomes={"grant": 3}, denials={},
            latency_ms={"release": Latency(taps=3, p50=4.0, p99=9.5, worst=9.5)},
        )},
        counters={"access": 3},
    )  # fmt: skip


def test_prometheus_reads_every_figure_with_its_labels() -> None:
    found = {
        (sample.name.removeprefix("door_gateway_"), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(prometheus_text(status()))
        for sample in family.samples
    }
    assert found["uptime_seconds",] == 12.5
    assert found["device_online", ("device", "reader")] == 0
    assert found["door_open", ("door", ODD)] == 1
    assert found["door_alarm", ("alarm", "held_open"), ("door", ODD)] == 1
    assert found["access_total", ("door", ODD), ("outcome", "grant")] == 3
    release = ("stage", "release")
    assert found["latency_seconds", ("door", ODD), ("quantile", "0.99"), release] == 0.0095
    assert found["certificate_ends_seconds", ("file", "gw.pem")] == AT.timestamp()
    assert found["temperature_celsius",] == 48.5


def test_what_is_unknown_has_no_sample_instead_of_a_wrong_one() -> None:
    text = prometheus_text(status())
    assert "door_locked" not in text
    assert "entitlements_as_of" not in text
    assert "storage_life" not in text


def everything() -> Status:
    """A status that has all there is to tell."""
    return msgspec.structs.replace(
        status(),
        as_of=AT,
        broker=BrokerStatus(
            address="mq:8883", link=True, connected_since=AT, acknowledged_at=AT, waiting_since=AT
        ),
        box=BoxStatus(
            temperature_c=1.0, disk_free=1.0, disk_free_bytes=1, storage_life_used=1.0,
            memory_bytes=1, certificates={"gw.pem": AT},
        ),
        figures={"front": DoorFigures(
            outcomes={"grant": 1}, denials={"no_pin": 1},
            latency_ms={"release": Latency(taps=1, p50=1.0, p99=1.0, worst=1.0)},
        )},
    )  # fmt: skip


@pytest.mark.parametrize("file", ["alerts.yml", "grafana-dashboard.json"])
def test_the_examples_for_operations_ask_for_figures_that_there_are(file: str) -> None:
    told = set(re.findall(r"^# TYPE (\w+)", prometheus_text(everything()), re.MULTILINE))
    asked = set(re.findall(r"door_gateway_\w+", (OPS / file).read_text(encoding="utf-8")))
    assert asked
    assert asked <= told
