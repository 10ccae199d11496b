"""What happened: kept from the moment that it is decided until the cloud has acknowledged it."""

from gateway.journal.journal import (
    Backlog,
    Head,
    Journal,
    JournalBegunAgain,
    JournalFull,
    RawEvent,
    Ticket,
)

__all__ = [
    "Backlog",
    "Head",
    "Journal",
    "JournalBegunAgain",
    "JournalFull",
    "RawEvent",
    "Ticket",
]
