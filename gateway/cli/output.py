"""How commands print what others wrote: nothing in it does anything to a terminal."""

import json


def visible(text: str) -> str:
    """One line, in which whatever can't be seen is escaped as JSON does it: controls, ends of
    lines, what turns the direction of writing. JSON stays the same JSON.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def visible_lines(text: str) -> str:
    """The same for text whose line feeds and tabs are meant."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in text.split("\n"))


def say(text: object) -> None:
    """Print one line, made visible."""
    print(visible(str(text)))
