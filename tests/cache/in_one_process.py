"""A cache whose child's work is done in the test's own process."""

import os

import msgspec

from gateway.cache import Cache
from gateway.cache.apply import run

NO_CHILD = "/bin/false"


class InOneProcess(Cache):
    """What the child does is done right here: what matters is what it does, and it takes long to
    start (tests/cache/test_cache.py has the child).
    """

    async def _answer(
        self, command: list[str], descriptors: tuple[int, ...]
    ) -> tuple[bytes, int | None]:
        if command[0] == NO_CHILD:
            return b"", 1
        arguments = command[3:]
        del arguments[arguments.index("--parent") : arguments.index("--parent") + 2]
        if descriptors:
            arguments[-1] = str(os.dup(descriptors[0]))
        return msgspec.json.encode(run(arguments)), 0
