"""How commands print what others wrote: nothing in it does anything to a terminal."""

from gateway.domain.visible import visible, visible_lines

__all__ = ["say", "visible", "visible_lines"]


def say(text: object) -> None:
    """Print one line, made visible."""
    print(visible(str(text)))
