"""Text that others wrote, as it may go to a terminal: nothing in it does anything there."""

import json


def visible(text: str) -> str:
    """Return one line, with whatever can't be seen escaped as JSON does it.

    Escaped are controls (C0 and C1), ends of lines and bidirectional controls. JSON stays the same
    JSON.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def visible_lines(text: str) -> str:
    """Do the same for text whose line feeds and tabs are meant."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in text.split("\n"))
