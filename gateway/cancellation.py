"""Being told to end, also where Python loses it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def end_if_cancelled() -> None:
    """Raise CancelledError if the running task was told to end and something else came instead.

    Python 3.11's `wait_for` returns a result that comes in the same instant. Of no use in a task
    that has been through a `TaskGroup`: up to Python 3.12 that leaves `cancelling()` above zero.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def in_own_task(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` in a task of its own, for a loop that goes on after its errors.

    A `TaskGroup` in `work` whose child fails just as it is cancelled raises the child's error and
    no CancelledError; here the caller's cancellation is raised all the same.
    """
    task = asyncio.ensure_future(work)
    try:
        return await task
    finally:
        end_if_cancelled()
