"""Messages between the broker's thread and who looks at them, within bounds."""

import threading
from collections import deque
from datetime import datetime

Message = tuple[str, bytes, datetime]
"""Topic, payload, and when it came."""

BYTES_MAX = 64 * 1024 * 1024
"""Of all messages that wait. A look a second takes them all; what comes beyond is dropped."""
OF_ONE_BYTES_MAX = 2 * 1024 * 1024
"""Of one gateway's: several batches of events. Its oldest gives way, and nobody else's."""
OF_ONE_MAX = 2_000
"""Messages of one gateway: the states of 1,000 doors, which come at once when we connect."""
_OVERHEAD_BYTES = 512
"""What a message takes besides its topic and payload."""


class Inbox:
    """A queue for each gateway, so that a loud one pushes out its own messages only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Message]] = {}
        self._of_one: dict[str, int] = {}
        self._bytes = 0
        self.dropped = 0
        """Messages that found no room, or gave way."""

    def put(self, topic: str, payload: bytes, at: datetime) -> None:
        """Keep a message until the next `take`. Never waits."""
        size = len(topic) + len(payload) + _OVERHEAD_BYTES
        sender = "/".join(topic.split("/", 4)[:4])
        with self._lock:
            queue = self._waiting.setdefault(sender, deque())
            while queue and (
                len(queue) >= OF_ONE_MAX or self._of_one[sender] + size > OF_ONE_BYTES_MAX
            ):
                self._drop_oldest(sender, queue)
            if size > OF_ONE_BYTES_MAX or self._bytes + size > BYTES_MAX:
                self.dropped += 1
                if not queue:
                    del self._waiting[sender]
                return
            queue.append((topic, payload, at))
            self._of_one[sender] = self._of_one.get(sender, 0) + size
            self._bytes += size

    def take(self) -> list[Message]:
        """Return all that waits, gateway by gateway, and keep nothing of it."""
        with self._lock:
            found = [message for queue in self._waiting.values() for message in queue]
            self._waiting.clear()
            self._of_one.clear()
            self._bytes = 0
        return found

    def _drop_oldest(self, sender: str, queue: deque[Message]) -> None:
        topic, payload, _at = queue.popleft()
        size = len(topic) + len(payload) + _OVERHEAD_BYTES
        self._of_one[sender] -= size
        self._bytes -= size
        self.dropped += 1
