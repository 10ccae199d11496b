"""What state machines of a whole site share: it runs in virtual time, stops and starts again."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import looptime
from hypothesis.stateful import RuleBasedStateMachine

from gateway.control.door import InForce
from gateway.domain.entitlements import Entitlements
from tests.control.site import Club, club
from tests.control.test_door import Paper
from tests.virtual import START, VirtualClock

T = TypeVar("T")


def new_loop() -> looptime.LoopTimeEventLoop:
    """Nothing here comes from outside the loop, so nobody has to be waited for."""
    return looptime.new_event_loop(noop_cycles=0)


class PlayedSite(RuleBasedStateMachine):
    """A site under a machine's rules. A reboot of the host begins monotonic time anew."""

    force: InForce
    options: ClassVar[dict[str, Any]] = {}
    """For `club`."""
    tick_s: float = 3600
    """How often modes are looked at; where no rule changes one, hardly ever."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = new_loop()
        self.paper = Paper()
        self.boots = 0
        self.clock = VirtualClock()

    def begin(self, records: Entitlements) -> None:
        """The first start."""
        self.force = InForce(records, "r1", START + self.clock.shift)
        self._start()

    def _start(self) -> None:
        self.around = club(
            self.force.records,
            paper=self.paper,
            boot=f"boot-{self.boots}",
            clock=self.clock,
            **self.options,
        )
        self.club: Club = self.play(self.around.__aenter__())
        self.club.tick_s = self.tick_s
        self.club.force = self.force
        self.keep_timers()

    def keep_timers(self) -> None:
        """As the core does when it starts, and then each minute."""
        self.seen(lambda: self.club.memory.apply(self.club.memory.running()))
        self.paper.keep(self.club.memory.take_unwritten())

    def restart(self, *, reboot: bool, off_s: float = 0) -> None:
        """End without a word to anybody, and start again."""
        self.play(self.around.__aexit__(None, None, None))
        if reboot:
            self.clock.shift += timedelta(seconds=self.now() + off_s)
            self.loop.close()
            self.loop = new_loop()
            self.boots += 1
        else:
            self.play(asyncio.sleep(off_s))
        self._start()

    def teardown(self) -> None:
        self.play(self.around.__aexit__(None, None, None))
        self.loop.close()

    def now(self) -> float:
        """Monotonic, of this boot."""
        return self.loop.time()

    def play(self, what: Awaitable[T]) -> T:
        return self.loop.run_until_complete(what)

    def seen(self, look: Callable[[], T]) -> T:
        """What the running site says of itself."""

        async def within() -> T:
            return look()

        return self.play(within())

    def wait(self, seconds: float) -> None:
        self.play(asyncio.sleep(seconds))
