"""What a reader's lamp and buzzer can say."""

from enum import StrEnum


class Signal(StrEnum):
    """What the person in front of a reader is told."""

    GRANTED = "granted"
    DENIED = "denied"
    PIN_WANTED = "pin_wanted"
    FAULT = "fault"
    HELD_OPEN = "held_open"
    """Close the door, please."""
