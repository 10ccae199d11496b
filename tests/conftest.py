"""What holds for every test: no loop, thread or child process is left behind."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Where a test without a loop comes first, pytest-asyncio asks for the current loop, and on Python
# 3.11 asyncio makes one that nobody closes. Once "there is none" has been said it makes none.
asyncio.set_event_loop(None)

# An example that waits for a core is no failure. What lands is judged by the same examples as what
# was there before; new ones are looked for by `make explore`.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("suite")

THREAD_END_S_MAX = 2.0
"""A thread that was told to end may need a moment on a busy machine."""


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(THREAD_END_S_MAX)
        assert not thread.is_alive(), f"the test left {thread.name!r} behind"
