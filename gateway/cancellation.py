"""Being told to end, also where Python loses it."""

import asyncio


def end_if_cancelled() -> None:
    """Raise CancelledError if the running task was told to end and something else came instead.

    Python 3.11's `wait_for` returns a result that comes in the same instant, and its `TaskGroup`
    raises its children's error: a loop that goes on after either would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
