"""The scripted morning: who comes to which door with what, and what should come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from demo.people import UNKNOWN_CARD, people

if TYPE_CHECKING:
    from demo.__main__ import Stage

CARDS = {person.name: person.card for person in people(datetime.now(UTC))}


@dataclass(frozen=True)
class Tap:
    """One person at one door."""

    door: str
    card: str | None
    expect: tuple[str, str]
    pin: str | None = None
    walk: bool = True

    @property
    def reader(self) -> str:
        return f"{self.door}-reader"

    @property
    def keypad(self) -> str:
        return f"{self.door}-keypad"


@dataclass(frozen=True)
class Act:
    """Anything else that happens."""

    play: Callable[[Stage], Awaitable[None]]


def say(text: str) -> Act:
    async def play(stage: Stage) -> None:
        stage.say(text)

    return Act(play)


def granted(name: str, door: str, reason: str = "group", *, pin: str | None = None) -> Tap:
    return Tap(door, CARDS[name], ("grant", reason), pin)


def denied(name: str, door: str, reason: str, *, pin: str | None = None) -> Tap:
    return Tap(door, CARDS[name], ("deny", reason), pin)


async def leave_by_button(stage: Stage) -> None:
    await stage.simulator.rex("lounge")
    await stage.simulator.push("lounge")


async def force(stage: Stage) -> None:
    await stage.simulator.force("suite")
    await asyncio.sleep(0.5)
    await stage.simulator.close("suite")


async def touch_cable(stage: Stage) -> None:
    await stage.simulator.unplug("meeting-reader")
    await asyncio.sleep(0.3)
    await stage.simulator.plug("meeting-reader")


async def stop_broker(stage: Stage) -> None:
    await stage.caught_up()
    await stage.broker.stop()


async def start_broker(stage: Stage) -> None:
    status = await stage.core.status()
    stage.say(f"The broker is back; {status.backlog} events are waiting for it")
    await stage.broker.start()


MORNING: list[Act | Tap] = [
    say("Nine o'clock: people come in"),
    granted("Sam", "street"),
    granted("Maya", "street"),
    granted("Maya", "lounge"),
    granted("Olga", "suite"),
    granted("Ben", "meeting"),
    granted("Dana", "lounge"),
    granted("Vera", "street", "exception"),
    Tap("street", None, ("grant", "group"), pin="2468"),
    say("The comms room asks for a PIN as well"),
    granted("Sam", "comms", pin="2468"),
    denied("Sam", "comms", "wrong_pin", pin="9999"),
    say("Not everybody may"),
    Tap("street", UNKNOWN_CARD, ("deny", "unknown_credential")),
    Tap("street", None, ("deny", "unknown_credential"), pin="0000"),
    denied("Milo", "lounge", "credential_lost"),
    denied("Mona", "lounge", "membership_suspended"),
    denied("Mila", "lounge", "membership_ended"),
    denied("Mark", "lounge", "payment_overdue"),
    denied("Maya", "suite", "no_entitlement"),
    denied("Bea", "meeting", "booking_not_started"),
    denied("Olga", "lounge", "exception"),
    denied("Vera", "lounge", "no_entitlement"),
    say("Carl cleans at night; at nine in the morning his card is locked out"),
    denied("Carl", "comms", "outside_schedule"),
    say("Things happen to doors"),
    Act(leave_by_button),
    Act(force),
]

OUTAGE: list[Act | Tap] = [
    say("The broker goes away; doors don't notice"),
    Act(stop_broker),
    granted("Maya", "lounge"),
    granted("Sam", "meeting"),
    denied("Milo", "street", "credential_lost"),
    granted("Olga", "suite"),
    Act(touch_cable),
    granted("Maya", "street"),
]

CATCH_UP: list[Act | Tap] = [
    Act(start_broker),
    granted("Sam", "street"),
]
