"""Plays a morning at a simulated site: real drivers, real daemon, real broker, wire by wire.

make demo                 a morning, then the three below; exit 0 if all went well
make demo ARGS="--site phones"       phones, cards that can't be copied, printed codes, and refusals
make demo ARGS="--site every-kind"   seven doors, one of each kind of wired hardware
make demo ARGS="--site signed"   a cloud that signs, and somebody in between who holds the broker
make demo ARGS=--stay     leaves the site running afterwards, until Ctrl-C
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import tomli_w

from demo import every_kind, phones, signed
from demo.brokers import Broker, any_broker
from demo.people import morning_zone, people, records
from demo.processes import REPOSITORY, process
from demo.script import CATCH_UP, MORNING, OUTAGE, Act, Tap
from gateway.domain import events
from gateway.errors import GatewayError
from gateway.ipc.client import CoreClient, connect
from hwsim import observations as seen
from hwsim.client import Simulator, SimulatorError
from hwsim.client import connect as connect_simulator
from hwsim.cloud import EventCloud

GATEWAY = (sys.executable, "-m", "gateway")
ANSWER_S_MAX = 5.0
COLOURS = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(text: str, colour: int) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if COLOURS else text


GREEN, RED, YELLOW, GREY, BOLD = 32, 31, 33, 90, 1


class WentWrong(Exception):
    """The morning did not go as the script says it should."""


@dataclass
class Tally:
    """What the summary counts."""

    answers: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)


class Stage:
    """The running site, and the eyes on it."""

    def __init__(
        self,
        simulator: Simulator,
        core: CoreClient,
        broker: Broker,
        cloud: EventCloud,
        zone: ZoneInfo,
    ) -> None:
        self.simulator = simulator
        self.core = core
        self.broker = broker
        self.cloud = cloud
        self.zone = zone
        self.tally = Tally()
        self.people = {person.id: person for person in people(datetime.now(UTC))}
        self.decided: asyncio.Queue[events.AccessDecided] = asyncio.Queue()
        self.edges: list[seen.Seen] = []
        self.edge = asyncio.Event()
        self.released: set[str] = set()
        self.last_seq = 0
        self.away: set[str] = set()

    async def follow_journal(self) -> None:
        """Read the journal as `door-gateway journal tail --follow` does."""
        while True:
            batch = await self.core.fetch(self.last_seq, wait_s=30)
            for seq, body in enumerate(batch.bodies, start=batch.first_seq):
                self.last_seq = seq
                event = events.decode(body)
                if isinstance(event, events.AccessDecided):
                    self.decided.put_nowait(event)
                elif line := self.told(event):
                    print(f"{self.clock(event.at)}  {paint(line, YELLOW)}")

    async def follow_hardware(self) -> None:
        """Remember when card bytes left and strikes moved."""
        async with self.simulator.watching() as stream:
            async for what in stream:
                if isinstance(what, seen.Strike):
                    (self.released.add if what.on else self.released.discard)(what.door)
                if isinstance(what, seen.CardSent | seen.KeysSent | seen.Strike):
                    self.edges.append(what)
                    self.edge.set()

    def told(self, event: events.Event) -> str | None:
        """A line for what is not a tap, or None; that a device is there, only where it was away."""
        if isinstance(event, events.DeviceDown):
            self.away.add(event.device)
        if isinstance(event, events.DeviceUp):
            if event.device not in self.away:
                return None
            self.away.remove(event.device)
        return told(event)

    def clock(self, at: datetime) -> str:
        return paint(at.astimezone(self.zone).strftime("%H:%M:%S"), GREY)

    # --- Playing ---------------------------------------------------------------------------------

    async def play(self, acts: list[Act | Tap]) -> None:
        for act in acts:
            if isinstance(act, Tap):
                await self.tap(act)
            else:
                await act.play(self)

    def say(self, text: str) -> None:
        print("\n" + paint(text, BOLD))

    async def tap(self, tap: Tap) -> None:
        """One person at one door: present what they carry, print the line, walk through."""
        start, already = len(self.edges), tap.door in self.released
        if tap.card is not None:
            await self.simulator.present(tap.reader, tap.card, hold=0.15)
            answer = await self._answer()
            if tap.pin is not None and answer.outcome == "challenge":
                await self.simulator.press(tap.keypad, tap.pin + "#", gap=0.02)
                answer = await self._answer()
        else:
            await self.simulator.press(tap.keypad, (tap.pin or "") + "#", gap=0.02)
            answer = await self._answer()
        # A strike that is still released gets more time, and makes no edge to measure.
        ms = None if already else await self._latency(answer, tap.door, start)
        still_open = already and answer.outcome == "grant"
        self._line(
            tap, answer, "still open" if still_open else f"{ms:.1f} ms" if ms is not None else ""
        )
        if ms is not None:
            self.tally.latencies_ms.append(ms)
        if answer.outcome == "grant" and tap.walk:
            await self.simulator.push(tap.door)

    async def _answer(self) -> events.AccessDecided:
        async with asyncio.timeout(ANSWER_S_MAX):
            return await self.decided.get()

    async def _latency(self, answer: events.AccessDecided, door: str, start: int) -> float | None:
        """Milliseconds from the credential's last byte to the strike's edge, at the hardware."""
        if answer.outcome != "grant":
            return None
        async with asyncio.timeout(ANSWER_S_MAX):
            while True:
                last_byte = 0
                for what in self.edges[start:]:
                    if isinstance(what, seen.CardSent | seen.KeysSent):
                        last_byte = what.at_ns
                    elif isinstance(what, seen.Strike) and what.on and what.door == door:
                        return (what.at_ns - last_byte) / 1e6
                self.edge.clear()
                await self.edge.wait()

    def _line(self, tap: Tap, answer: events.AccessDecided, took: str) -> None:
        person = self.people.get(answer.holder or "")
        who = f"{person.name}, {person.persona}" if person else "somebody"
        colour = {"grant": GREEN, "challenge": YELLOW}.get(answer.outcome, RED)
        verdict = paint(f"{answer.outcome:<9}", colour)
        via = paint(f"  {answer.via}" if answer.via else "", GREY)
        kinds = "+".join(answer.kinds)
        print(
            f"{self.clock(answer.at)}  {who:<17} {tap.door:<8} {kinds:<8} {verdict} "
            f"{answer.reason:<22} {took:>10}{via}"
        )
        self.tally.answers[f"{answer.outcome} {answer.reason}"] += 1
        if (answer.outcome, answer.reason) != tap.expect:
            self.tally.surprises.append(
                f"{who} at {tap.door}: {answer.outcome} {answer.reason}, "
                f"where the script has {' '.join(tap.expect)}"
            )

    async def caught_up(self) -> None:
        """Wait until central operations have everything that the journal has."""
        async with asyncio.timeout(30):
            while True:
                status = await self.core.status()
                if status.last_seq and status.acknowledged_seq >= status.last_seq:
                    return
                await asyncio.sleep(0.05)


def told(event: events.Event) -> str | None:
    """A line for what is not a tap, or None for what happens at every door all day."""
    match event:
        case events.RexPressed():
            return f"{event.door}: exit button, released"
        case events.ForcedOpen():
            return f"{event.door}: FORCED OPEN"
        case events.HeldOpen():
            return f"{event.door}: held open too long"
        case events.AlarmRestored():
            return f"{event.door}: {event.alarm.replace('_', ' ')} is over"
        case events.DeviceDown():
            return f"{event.device}: offline"
        case events.DeviceUp():
            return f"{event.device}: back"
        case events.EntitlementsApplied():
            count = sum(event.counts.values())
            return f"entitlements: revision {event.revision[:12]} in force, {count} records"
        case events.UnlockFailed():
            return f"{event.door}: NOT RELEASED, {event.why}"
        case _:
            return None


# --- The stage is set ----------------------------------------------------------------------------


async def gateway(*arguments: str) -> str:
    """Run a command of the gateway's to its end."""
    run = await asyncio.create_subprocess_exec(
        *GATEWAY, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await run.communicate()
    if run.returncode:
        raise WentWrong(f"door-gateway {arguments[0]}: exit {run.returncode}\n{err.decode()}")
    return out.decode()


def add_broker(path: Path, broker_port: int) -> None:
    """Let the gateway report to a broker of this machine."""
    config: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    config["mqtt"] = {"host": "127.0.0.1", "port": broker_port}
    path.write_text(tomli_w.dumps(config), encoding="utf-8")


async def connected(socket: Path, daemon: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until the core answers on its socket."""
    async with asyncio.timeout(20):
        while not socket.exists():
            if daemon.returncode is not None:
                raise WentWrong(f"the gateway ended at once:\n{log.read_text()}")
            await asyncio.sleep(0.02)


async def demo(*, stay: bool, run_dir: Path) -> int:
    """Set the stage, play the morning, sum up; the exit status."""
    if (playing := asyncio.current_task()) is not None:
        # Told to stop, leave no process behind.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)
    now = datetime.now(UTC)
    zone = morning_zone(now)
    config, control = run_dir / "site.toml", run_dir / "hardware.sock"
    entitlements = run_dir / "records.jsonl"
    entitlements.write_text(
        "".join(json.dumps(record) + "\n" for record in records(now, zone)), encoding="utf-8"
    )
    async with contextlib.AsyncExitStack() as stack:
        broker = await stack.enter_async_context(any_broker(run_dir / "broker"))
        await stack.enter_async_context(
            process(
                *(sys.executable, "-m", "hwsim", str(REPOSITORY / "config" / "site.toml")),
                *("--run-dir", str(run_dir), "--write-config", str(config)),
                *("--control", str(control)),
                log=run_dir / "hardware.log",
            )
        )
        simulator = await stack.enter_async_context(connect_simulator(control))
        add_broker(config, broker.port)
        await gateway("config", "check", str(config))
        log = run_dir / "gateway.log"
        daemon = await stack.enter_async_context(
            process(*GATEWAY, "run", "--config", str(config), log=log)
        )
        socket = run_dir / "core.sock"
        await connected(socket, daemon, log)
        cloud = await stack.enter_async_context(EventCloud("127.0.0.1", broker.port))
        core = await stack.enter_async_context(connect(socket, role="demo"))
        stage = Stage(simulator, core, broker, cloud, ZoneInfo(zone))
        followers = [
            asyncio.create_task(stage.follow_journal()),
            asyncio.create_task(stage.follow_hardware()),
            asyncio.create_task(print_operations(cloud)),
        ]
        try:
            print(
                f"Five doors, {len(stage.people)} people, {broker.name} as the broker; "
                f"it is nine in the morning in {zone}.\nLogs and state are in {run_dir}"
            )
            await gateway("import", str(entitlements), "--config", str(config))
            await readers_live(core)
            await stage.play(MORNING)
            await stage.play(OUTAGE)
            await stage.play(CATCH_UP)
            await stage.caught_up()
            status = sum_up(stage)
            if stay:
                await wait_for_ctrl_c(config, control)
        finally:
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)
    return status


async def readers_live(core: CoreClient) -> None:
    """Wait until every device answers."""
    async with asyncio.timeout(20):
        while True:
            devices = (await core.status()).devices
            if all(device.online for device in devices.values()):
                return
            await asyncio.sleep(0.05)


async def print_operations(cloud: EventCloud) -> None:
    """What central operations receive, a line for what came together."""
    printed = 0
    while True:
        await asyncio.sleep(0.1)  # what comes together belongs on one line
        new = list(cloud.events.items())[printed:]
        if not new:
            continue
        printed += len(new)
        what = Counter(str(event["code"]) for _, event in new)
        kinds = ", ".join(f"{count} {code}" for code, count in what.items())
        first, last = new[0][0][1], new[-1][0][1]
        print(paint(f"          operations received #{first} to #{last}: {kinds}", GREY))


def sum_up(stage: Stage) -> int:
    """Print the summary; 0 if all went as the script says."""
    tally, cloud = stage.tally, stage.cloud
    stage.say("Summary")
    total = sum(tally.answers.values())
    granted = sum(n for what, n in tally.answers.items() if what.startswith("grant"))
    print(f"  {total} taps: {granted} granted, {total - granted} not")
    for what, count in tally.answers.most_common():
        print(f"    {count:>2}  {what}")
    middle, worst = statistics.median(tally.latencies_ms), max(tally.latencies_ms)
    print(
        f"  last byte of the credential to the strike: median {middle:.1f} ms, worst {worst:.1f} ms"
    )
    numbers = {seq for _, seq in cloud.events}
    missing = max(numbers) - len(numbers)
    print(
        f"  operations received {len(numbers)} events, {missing} missing, "
        f"{cloud.duplicates} more than once and recognised, {cloud.out_of_order} out of order"
    )
    for surprise in tally.surprises:
        print(paint(f"  NOT AS IT SHOULD BE: {surprise}", RED))
    if missing or tally.surprises:
        return 1
    print(paint("  All as it should be.", GREEN))
    return 0


async def wait_for_ctrl_c(config: Path, control: Path) -> None:
    """Leave the site to whoever wants to play with it."""
    cards = "\n".join(
        f"      {person.name:<6} {person.persona:<11} {person.card}"
        + (f"   PIN {person.pin}" if person.pin else "")
        for person in people(datetime.now(UTC))
    )
    print(f"""
The site stays up until Ctrl-C. Try, in another terminal:

  {GATEWAY[0]} -m gateway status --config {config}
  {GATEWAY[0]} -m gateway journal tail --follow --config {config}
  {GATEWAY[0]} -m demo.tap {control} lounge-reader 04A10000000002
  {GATEWAY[0]} -m demo.tap {control} street-keypad 2468#

  cards:
{cards}
""")
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()  # the morning's own exit status counts


_SITES = {
    "every-kind": ("a door of each kind of wired hardware", every_kind.play),
    "signed": ("a cloud that signs, and somebody in between", signed.play),
    "phones": ("phones, and cards that can't be copied", phones.play),
}

_WRONG = (WentWrong, every_kind.WentWrong, signed.WentWrong, SimulatorError)


def _play(options: argparse.Namespace, run_dir: Path) -> int:
    if options.site in _SITES:
        _, play = _SITES[options.site]
        return asyncio.run(play(run_dir))
    status = asyncio.run(demo(stay=options.stay, run_dir=run_dir))
    if options.stay:
        return status
    for name, (title, play) in _SITES.items():
        if status == 0:
            beside = run_dir / name
            beside.mkdir()
            print("\n" + paint(f"Another site: {title}", BOLD))
            status = asyncio.run(play(beside))
    return status


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stay", action="store_true", help="leave the site running")
    parser.add_argument(
        "--site",
        choices=("coworking", *_SITES),
        default="coworking",
        help="every-kind: once through each of seven doors, one of each kind of wired hardware;"
        " phones: phones over BLE and NFC, cards that can't be copied, printed codes, and refusals;"
        " signed: a cloud that signs, and what becomes of bundles that are forged or old",
    )
    options = parser.parse_args()
    os.umask(0o077)  # records, logs and state are for nobody else on this machine
    with tempfile.TemporaryDirectory(prefix="door-gateway-demo-") as directory:
        try:
            return _play(options, Path(directory))
        except (KeyboardInterrupt, asyncio.CancelledError):
            return 130
        except (*_WRONG, GatewayError, OSError, TimeoutError) as error:
            reason = str(error) or "a wait ended before its event came: is the machine busy?"
            print(f"the demo could not be played: {reason}", file=sys.stderr)
            for log in sorted(Path(directory).rglob("*.log")):
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                print(f"--- {log.name}\n{tail}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
