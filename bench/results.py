"""The shape of a measurement's result, on disk, on a terminal and in bench/results/README.md."""

import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

RESULTS = Path(__file__).with_name("results")


class Spread(msgspec.Struct, frozen=True, omit_defaults=True):
    """How long something took, many times."""

    what: str
    unit: str
    n: int
    p50: float
    p99: float
    worst: float
    floor: float | None = None
    """The p50 of the least that could do the same here, in the same run."""
    idle_p99: float | None = None
    """Under load: the p99 of the same without."""


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """One number."""

    what: str
    value: float
    unit: str


class Result(msgspec.Struct, frozen=True):
    """What one measurement found."""

    name: str
    what: str
    spreads: list[Spread]
    figures: list[Figure]
    notes: list[str]
    quick: bool = False
    date: str = ""
    machine: str = ""
    python: str = ""


def spread(
    what: str,
    unit: str,
    values: Sequence[float],
    *,
    floor: float | None = None,
    idle_p99: float | None = None,
) -> Spread:
    """Median, 99th percentile (nearest rank) and worst of `values`."""
    ordered = sorted(values)
    rank = min(len(ordered) - 1, -(-len(ordered) * 99 // 100) - 1)
    return Spread(
        what,
        unit,
        len(ordered),
        _rounded(statistics.median(ordered)),
        _rounded(ordered[rank]),
        _rounded(ordered[-1]),
        None if floor is None else _rounded(floor),
        None if idle_p99 is None else _rounded(idle_p99),
    )


def figure(what: str, value: float, unit: str) -> Figure:
    """A number as it is kept: three digits that count."""
    return Figure(what, _rounded(value), unit)


def save(result: Result, *, quick: bool) -> Result:
    """Write a result beside the others and bring their README up to date."""
    kept = msgspec.structs.replace(
        result,
        quick=quick,
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        machine=machine_class(),
        python=platform.python_version(),
    )
    RESULTS.mkdir(exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(kept), indent=2)
    (RESULTS / f"{kept.name}.json").write_bytes(text + b"\n")
    write_readme()
    return kept


def machine_class() -> str:
    """What kind of machine this is; never which."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    cpu = models[0] if models else platform.machine()
    return f"{cores} cores, {cpu}, {platform.machine()}, Linux {platform.release().split('-')[0]}"


def table(result: Result) -> str:
    """A result as Markdown, which reads well on a terminal too."""
    lines: list[str] = []
    if result.spreads:
        rows = [["what", "n", "unit", "p50", "p99", "worst", "floor", "ratio"]]
        for each in result.spreads:
            over_floor = f"{each.p50 / each.floor:.1f} x floor" if each.floor else ""
            over_idle = f"p99 {each.p99 / each.idle_p99:.1f} x idle" if each.idle_p99 else ""
            rows.append(
                [each.what, f"{each.n:,}", each.unit]
                + [f"{value:g}" for value in (each.p50, each.p99, each.worst)]
                + [f"{each.floor:g}" if each.floor else "", over_floor or over_idle]
            )
        lines += _markdown(rows)
    if result.figures:
        rows = [["what", "value", "unit"]]
        rows += [[each.what, f"{each.value:,g}", each.unit] for each in result.figures]
        lines += ["", *_markdown(rows)]
    lines += ["", *(f"- {note}" for note in result.notes)]
    return "\n".join(lines).strip()


def write_readme() -> None:
    """Make README.md from what lies in the directory."""
    parts = [
        "# Results",
        "",
        "Written by `python -m bench`; don't edit. As they are, on a shared, noisy machine: ratios",
        "hold, absolutes drift. The floor is the p50 of the least that could do the same, measured",
        "in the same run.",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        result = msgspec.json.decode(path.read_bytes(), type=Result)
        parts += ["", f"## {result.name}", "", result.what, ""]
        kind = ", quick run" if result.quick else ""
        parts += [f"{result.date}, {result.machine}, Python {result.python}{kind}", ""]
        parts += [table(result)]
    (RESULTS / "README.md").write_text("\n".join(parts) + "\n", encoding="utf-8")


def _markdown(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def _rounded(value: float) -> float:
    return float(f"{value:.3g}") if abs(value) < 1000 else float(round(value))
