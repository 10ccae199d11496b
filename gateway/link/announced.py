"""The list of what this gateway has retained on its broker, to clear what is gone.

A broker keeps a retained message until somebody clears it. So the list is written down before
anything is published, and shortened only after the broker has taken the clearing: whatever is
killed in between, the next start knows (docs/decisions/0039).
"""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from gateway.decoding import decode_json
from gateway.errors import StorageError, Undecodable
from gateway.link.topics import Topics
from gateway.statedir import write_atomically

FILE_BYTES_MAX = 4 * 1024 * 1024
"""Far more than the topics of the largest site; a larger file is not this list."""

TRIES_MAX = 3
"""Sessions in which clearing is tried. A broker may end the session of whoever writes where it may
not: then what is gone has to be cleared by hand, and the gateway has to stay connected."""

DISCOVERY = re.compile(r"[^#+\0]{1,200}/door-gateway/[0-9a-f]{24}/config")
"""A topic of Home Assistant's discovery, as this gateway makes them."""

_log = structlog.get_logger(__name__)


class _List(msgspec.Struct):
    v: int
    site: str
    gateway: str
    topics: list[str]
    tries: int = 0


class Announced:
    """The list, in `file`; None or a file that can't be written: only this process knows it."""

    def __init__(self, file: Path | None, topics: Topics, *, site: str, gateway: str) -> None:
        self._file = file
        self._own = topics
        self._ids = (site, gateway)
        self._topics: set[str] | None = None
        self._tries = 0
        self._warned = False

    def begin(self, wanted: Iterable[str]) -> list[str]:
        """Write down what is about to be retained; returns what is to be cleared, in order.

        Takes as long as an fsync: call it in a thread.
        """
        if self._topics is None:
            self._topics = self._read()
        wanted = set(wanted)
        gone = sorted(self._topics - wanted)
        if gone and self._tries >= TRIES_MAX:
            _log.error("retained_topics_not_cleared", topics=gone, tries=self._tries)
            self._topics -= set(gone)
            gone = []
        tries = self._tries + 1 if gone else 0
        if not wanted <= self._topics or tries != self._tries:
            self._topics |= wanted
            self._tries = tries
            self._write()
        return gone

    def cleared(self, gone: Iterable[str]) -> None:
        """Shorten the list: the broker has taken the clearing of these, or refused it for good."""
        assert self._topics is not None  # noqa: S101 - `begin` gave them
        self._topics -= set(gone)
        self._tries = 0
        self._write()

    def _read(self) -> set[str]:
        if self._file is None:
            return set()
        try:
            with self._file.open("rb") as file:
                found = decode_json(file.read(FILE_BYTES_MAX), _List)
        except FileNotFoundError:
            return set()
        except (OSError, Undecodable) as failed:
            _log.warning("retained_topics_unknown", file=str(self._file), reason=str(failed))
            return set()
        if (found.site, found.gateway) != self._ids:
            # Another gateway's, which may be in service elsewhere: its topics are not ours.
            _log.warning("retained_topics_of_another", site=found.site, gateway=found.gateway)
            return set()
        self._tries = max(0, found.tries)
        return {topic for topic in found.topics if self._is_ours(topic)}

    def _is_ours(self, topic: str) -> bool:
        """A damaged file must clear nothing that this gateway can't have retained."""
        return self._own.is_door_state(topic) or DISCOVERY.fullmatch(topic) is not None

    def _write(self) -> None:
        if self._file is None or self._topics is None:
            return
        site, gateway = self._ids
        kept = _List(1, site, gateway, sorted(self._topics), self._tries)
        try:
            write_atomically(self._file, msgspec.json.encode(kept))
        except (StorageError, OSError) as failed:
            if not self._warned:
                self._warned = True
                _log.warning("retained_topics_not_kept", file=str(self._file), reason=str(failed))
