"""A supervised input: a changeover contact on two inputs, which must never say the same.

A cut or shorted wire leaves both alike. That is a fault of the wiring, not a state of the door.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Literal

Fault = Literal["cut", "short"]
"""Both inactive: a wire is cut, or its supply is gone. Both active: one is shorted."""

SETTLE = timedelta(milliseconds=400)
"""Both inputs are debounced by themselves, so for a moment after each change they agree: as long as
a chattering input takes to be believed (drivers.debounced_input.HOLD_MAX), and some more."""


class SupervisedInput:
    """One pair of inputs. `on_fault` hears what is wrong when it is found broken, and None when it
    is well again.
    """

    def __init__(self, on_fault: Callable[[Fault | None], None]) -> None:
        self._on_fault = on_fault
        self._said: dict[bool, bool] = {}
        self._check: asyncio.TimerHandle | None = None
        self.faulty = False

    @property
    def is_sound(self) -> bool:
        """Whether both have spoken and say opposite things: only then is either to be believed."""
        return len(self._said) == 2 and self._said[True] != self._said[False]

    def said(self, *, opposite: bool, active: bool) -> None:
        """One of the two reported."""
        self._said[opposite] = active
        if len(self._said) < 2:
            return
        alike = self._said[True] == self._said[False]
        if alike and self._check is None and not self.faulty:
            loop = asyncio.get_running_loop()
            self._check = loop.call_later(SETTLE.total_seconds(), self._still_alike)
        elif not alike:
            self.forget_check()
            if self.faulty:
                self.faulty = False
                self._on_fault(None)

    def forget(self) -> None:
        """The device is lost: what it said is unknown."""
        self.forget_check()
        self._said.clear()

    def forget_check(self) -> None:
        """Nothing is waited for any more."""
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def _still_alike(self) -> None:
        self._check = None
        self.faulty = True
        self._on_fault("short" if self._said[True] else "cut")
