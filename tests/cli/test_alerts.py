"""The alert rules as Prometheus itself runs them: each fires when it has to, and else is quiet."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.cli.metrics import prometheus_text
from tests.cli.test_metrics import OPS, everything

RULES = OPS / "alerts.yml"
BOX = 'instance="box"'
UP = f'up{{job="door-gateway",{BOX}}}'
FILE = f'node_textfile_mtime_seconds{{{BOX},file="/x/door-gateway.prom"}}'
NOW = "0+60x90"
"""A figure that is the time of its sample, each minute for an hour and a half."""
WELL = {UP: "1x90", FILE: NOW}
END = "80m"

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


def figure(name: str, labels: str = "") -> str:
    return f"door_gateway_{name}{{{BOX}{',' if labels else ''}{labels}}}"


FIRES: list[tuple[str, dict[str, str]]] = [
    ("GatewaySilent", {UP: "1x10 0x80", FILE: "0+60x10 stale _x79"}),  # no power, no network
    ("GatewaySilent", {UP: "0x90"}),  # it never came
    ("GatewaySilent", {UP: "1x90", FILE: "0+60x10 600x80"}),  # the timer, or the core, is dead
    ("GatewaySilent", {UP: "1x90"}),  # the timer was never started
    ("GatewaySilent", {}),  # no target at all
    ("DoorForcedOrTampered", {figure("door_alarm", 'alarm="forced_open",door="a"'): "1x90"}),
    ("DoorHeldOpen", {figure("door_alarm", 'alarm="held_open",door="a"'): "1x90"}),
    ("DeviceOffline", {figure("device_online", 'device="a"'): "0x90"}),
    ("JournalDoesNotWrite", {figure("journal_writes"): "0x90"}),
    ("BrokerAway", {figure("broker_connected"): "0x90", figure("link_up"): "1x90"}),
    ("BrokerAway", {figure("broker_connected"): "0x90", figure("link_up"): "0x90"}),
    ("BrokerRefuses", {figure("broker_topics_refused"): "1x90"}),
    ("EventsWait", {figure("oldest_waiting_seconds"): NOW}),  # nothing since the start
    ("EventsWait", {figure("oldest_waiting_seconds"): NOW, figure("acknowledged_seconds"): "9x90"}),
    ("ProblemStands", {figure("problems"): "1x90"}),
    ("EntitlementsStale", {figure("entitlements_as_of_seconds"): "0x90",
                           figure("beacons_expected"): "1x90"}),
    ("ClockUntrusted", {figure("time_trust"): "1x90"}),
    ("TapsSlow", {figure("latency_seconds", 'stage="release",quantile="0.99"'): "0.2x90"}),
    ("DenialsUnusual", {figure("denied_total", 'door="a",reason="x"'): "0+5x90"}),
    ("CertificateEnds", {figure("certificate_ends_seconds", 'file="a"'): "500000x90"}),
    ("StorageWears", {figure("disk_free_ratio"): "0.05x90"}),
]  # fmt: skip

QUIET: list[tuple[str, dict[str, str]]] = [
    ("GatewaySilent", WELL),
    ("GatewaySilent", {UP: "1x75 0x3 1x12", FILE: NOW}),  # a reboot
    ("DoorForcedOrTampered", {figure("door_alarm", 'alarm="held_open",door="a"'): "1x90"}),
    ("DoorHeldOpen", {figure("door_alarm", 'alarm="held_open",door="a"'): "_x77 1x2 stale"}),
    ("DeviceOffline", {figure("device_online", 'device="a"'): "1x90"}),
    ("JournalDoesNotWrite", {figure("journal_writes"): "1x90"}),
    ("BrokerAway", {figure("broker_connected"): "1x90", figure("link_up"): "1x90"}),
    ("BrokerAway", {}),  # a site without [mqtt]
    ("BrokerRefuses", {figure("broker_topics_refused"): "0x90"}),
    ("EventsWait", {figure("oldest_waiting_seconds"): "0x90"}),
    ("EventsWait", {figure("oldest_waiting_seconds"): NOW, figure("acknowledged_seconds"): NOW}),
    ("ProblemStands", {figure("problems"): "0x90"}),
    ("EntitlementsStale", {figure("entitlements_as_of_seconds"): "0x90",
                           figure("beacons_expected"): "0x90"}),  # a site without [trust]
    ("EntitlementsStale", {figure("entitlements_as_of_seconds"): NOW,
                           figure("beacons_expected"): "1x90"}),
    ("ClockUntrusted", {figure("time_trust"): "2x90"}),
    ("TapsSlow", {figure("latency_seconds", 'stage="release",quantile="0.99"'): "0.1x90"}),
    ("DenialsUnusual", {figure("denied_total", 'door="a",reason="x"'): "0+1x90"}),
    ("CertificateEnds", {figure("certificate_ends_seconds", 'file="a"'): "900000x90"}),
    ("StorageWears", {figure("disk_free_ratio"): "0.5x90"}),
]  # fmt: skip


def case(alert: str, series: dict[str, str], count: int | None) -> dict[str, Any]:
    expression = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > 0'
    samples = [] if count is None else [{"labels": "{}", "value": count}]
    return {
        "name": f"{alert} {'fires' if count else 'is quiet'}: {series}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": expression, "eval_time": END, "exp_samples": samples}],
    }


def test_every_rule_fires_when_it_has_to_and_else_is_quiet(tmp_path: Path) -> None:
    fires = [case(alert, series, 1) for alert, series in FIRES]
    quiet = [case(alert, series, None) for alert, series in QUIET]
    file = tmp_path / "alerts_test.yml"
    whole = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [*fires, *quiet]}
    file.write_text(yaml.safe_dump(whole), encoding="utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_rule_is_without_a_case() -> None:
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    names = {rule["alert"] for rule in rules}
    assert names == {alert for alert, _ in FIRES} == {alert for alert, _ in QUIET}


def test_promtool_has_nothing_to_say_of_all_figures() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=prometheus_text(everything()), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
