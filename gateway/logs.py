"""Structured logs for the system journal or a console, with credentials masked in the pipeline."""

import logging
import os
import re
import sys
from collections import deque
from collections.abc import Mapping, MutableMapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import Any

import msgspec
import structlog

from gateway.clock import monotonic
from gateway.domain.visible import visible

_SECRET_KEYS = re.compile(r"(?i)(value|pin|uid|card|code|secret|password|key|name_of_holder)$")
"""Fields that could hold a credential are masked whatever they hold."""
_NOT_SECRET = frozenset({"event_code", "exit_code", "returncode"})
_SHAPES = (
    r"(?:[0-9A-Fa-f]{8}|[0-9A-Fa-f]{14}|[0-9A-Fa-f]{20}|04[0-9A-Fa-f]{128}|[0-9]{4,8}"
    r"|[A-Za-z0-9]+:(?:[0-9]+|-):[0-9]+|[0-9A-Fa-f]{6}:[0-9A-Fa-f]{2,64})(?![0-9A-Za-z-])"
)
_BEFORE = r"(?<![0-9A-Za-z.-])(?<![0-9]:)(?<!\bpid )"
_HOST = r"(?:localhost|[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)+|\[?[0-9A-Fa-f:]*::[0-9A-Fa-f:]*\]?)"
_KEPT = (
    rf"(?P<kept>(?<![0-9A-Za-z.:-])(?:'{_HOST}', |{_HOST}:|[a-z]+://[0-9A-Za-z-]+:|\bport )"
    r"[0-9]{1,5}(?![0-9A-Za-z-])|\[Errno -?[0-9]+\]"
    r"|(?<![0-9A-Za-z.:-])[0-9]{1,8} (?:ms|s|bytes|KiB|MiB)\b)|"
)
"""A port behind a host, an error's number and a figure with its unit: no credential. A host of one
word counts only behind `//`: `pin:2468` has the same shape."""
_PORT_AT_END = re.compile(r"(?s)(.*?)((?<=[^0-9])[0-9]{1,5}|[0-9]+ \w+|\[.*\])")
_SECRET_SHAPE = re.compile(_BEFORE + _SHAPES)
_SECRET_TEXT = re.compile(_KEPT + _BEFORE + _SHAPES)
"""Texts in the shape of a card number or a PIN (docs/spec/entitlements.md, Credential kinds), in
either case. What follows an address and a colon is a port, and what follows `pid` a process."""
_SECRET_TRACE = re.compile(_KEPT + _BEFORE + r'(?<!", line )' + _SHAPES)
"""The same in a traceback, whose line numbers an engineer needs."""
_TRACES = frozenset({"exception", "stack"})
_NOT_OURS = frozenset({"timestamp", "level", "_record", "_from_structlog"})
"""What structlog puts in itself; it takes the last two out again as objects."""
_OBJECTS = frozenset({"_record", "_from_structlog"})
RECENT_LINES_MAX = 1_000
"""Kept in memory for `logs`; the system journal has them all."""
RECENT_LINE_CHARACTERS_MAX = 1_000
_SYSTEM_UID_MAX = 99_999
"""A `uid` that is a number up to here is a user of the system; a card's is text."""
_DEPTH_MAX = 8
"""Containers within containers: what lies deeper is one text: circles end."""
MASK = "▮▮▮▮"


_SYSLOG = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""Priorities of sd-daemon(3), for `journalctl -p`."""


def _to_the_journal() -> bool:
    """Return True where standard error is the system journal's stream (systemd.exec(5))."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _journal_line(logger: object, method: str, fields: MutableMapping[str, Any]) -> str:
    priority = _SYSLOG.get(str(fields.get("level")), _SYSLOG["info"])
    return f"<{priority}>{_json_line(logger, method, fields)}"


def _json_line(logger: Any, method: str, fields: MutableMapping[str, Any]) -> str:
    line = structlog.processors.JSONRenderer(ensure_ascii=False)(logger, method, fields)
    return visible(str(line))


def _speaks_to_installers(record: logging.LogRecord) -> bool:
    """Return False for pymodbus, whose words the driver replaces by a reason of its own."""
    return record.name.partition(".")[0] != "pymodbus"


def configure(*, level: str = "info", console: bool | None = None) -> None:
    """Send structlog and the standard library's logging to standard error.

    `console`: readable lines with colour (default: when standard error is a terminal), else one
    JSON object a line, as the system journal keeps best.
    """
    pretty = sys.stderr.isatty() if console is None else console
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask,
        keep,
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if pretty
        else (_journal_line if _to_the_journal() else _json_line)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    # On the handler as well: a library may have set a level of its own.
    handler.setLevel(logging.WARNING)
    handler.addFilter(_speaks_to_installers)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # Libraries speak only when something is wrong: at lower levels some of them print frames.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


_recent: deque[tuple[timedelta, str]] = deque(maxlen=RECENT_LINES_MAX)


def keep(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A structlog processor, behind `mask`: remembers the last lines for whoever asks."""
    shown = {name: value for name, value in fields.items() if name not in _OBJECTS}
    line = msgspec.json.encode(shown, enc_hook=str).decode()
    _recent.append((monotonic(), line[:RECENT_LINE_CHARACTERS_MAX]))
    return fields


def recent(span: timedelta) -> list[str]:
    """What this process has logged in this span up to now, a JSON object a line."""
    since = monotonic() - span
    return [line for at, line in _recent if at >= since]


def mask(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A structlog processor: no value in the shape of a credential leaves the process."""
    for name, value in fields.items():
        if name not in _NOT_OURS:
            fields[name] = _masked_field(name, value, 0)
    return fields


def _masked_field(name: object, value: object, depth: int) -> object:
    if isinstance(name, str) and _SECRET_KEYS.search(name) and name not in _NOT_SECRET:
        known = name == "uid" and type(value) is int and 0 <= value <= _SYSTEM_UID_MAX
        return value if known else MASK
    if name in _TRACES and isinstance(value, str):
        return _SECRET_TRACE.sub(_kept_or_mask, value)
    return _masked(value, depth)


def _masked(value: object, depth: int) -> object:
    """`value` without credentials: containers stay what they are, other objects become text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{MASK} ({len(value)} bytes)"
    if depth < _DEPTH_MAX:
        if isinstance(value, Mapping):
            return {
                _masked_key(key): _masked_field(key, each, depth + 1) for key, each in value.items()
            }
        if isinstance(value, tuple):
            return tuple(_masked(each, depth + 1) for each in value)
        if isinstance(value, (list, AbstractSet)):
            return [_masked(each, depth + 1) for each in value]
    return _SECRET_TEXT.sub(_kept_or_mask, value if isinstance(value, str) else repr(value))


def _masked_key(key: object) -> object:
    return key if isinstance(key, int) else _SECRET_TEXT.sub(_kept_or_mask, str(key))


def _kept_or_mask(match: re.Match[str]) -> str:
    kept = match["kept"]
    if kept is None:
        return MASK
    # The port stays readable, not a card number that stands where a host would.
    parts = _PORT_AT_END.fullmatch(kept)
    return kept if parts is None else _SECRET_SHAPE.sub(MASK, parts[1]) + parts[2]
