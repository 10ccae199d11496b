"""Structured logs for the system journal or a console, with credentials masked in the pipeline."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

_SECRET_KEYS = re.compile(r"(?i)(value|pin|uid|card|code|secret|password|key|name_of_holder)$")
"""Fields that could hold a credential are masked whatever they hold."""
_NOT_SECRET = frozenset({"event_code", "exit_code", "returncode"})
_SECRET_TEXT = re.compile(
    r"(?<![0-9A-Za-z.-])(?<![0-9]:)(?:[0-9A-F]{8}|[0-9A-F]{14}|[0-9A-F]{20}|04[0-9A-F]{128}|[0-9]{4,8}"
    r"|[A-Za-z0-9]+:(?:[0-9]+|-):[0-9]+|[0-9A-F]{6}:[0-9A-F]{2,64})(?![0-9A-Za-z-])"
)
"""Texts in the shape of a card number or a PIN (spec/entitlements.md, Credential kinds). What
follows an address and a colon is a port."""
MASK = "▮▮▮▮"


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
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if pretty
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # Libraries speak only when something is wrong: at lower levels some of them print frames.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def mask(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A structlog processor: no value in the shape of a credential leaves the process."""
    for name, value in fields.items():
        if name in {"timestamp", "level"}:
            continue
        if _SECRET_KEYS.search(name) and name not in _NOT_SECRET:
            fields[name] = MASK
        elif isinstance(value, str):
            fields[name] = _SECRET_TEXT.sub(MASK, value)
        elif isinstance(value, (list, tuple, dict)):
            fields[name] = _SECRET_TEXT.sub(MASK, repr(value))
    return fields
