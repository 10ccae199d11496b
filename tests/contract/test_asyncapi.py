"""docs/asyncapi.yaml is what the code says, and version 1 is never broken."""

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.asyncapi import DOCUMENT, Validator, breaks, document, text

FIRST = Path(__file__).parents[1] / "golden" / "asyncapi-v1.yaml"


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(DOCUMENT.read_bytes(), yaml.CSafeLoader)
    return loaded


def test_the_document_is_what_the_code_says(kept: dict[str, Any]) -> None:
    same = kept == yaml.load(text(), yaml.CSafeLoader)
    assert same, "python -m tests.asyncapi writes it anew"


def test_what_was_promised_first_still_holds() -> None:
    """Renew the promise only with a new version of the topics: cp docs/asyncapi.yaml there."""
    first = yaml.load(FIRST.read_bytes(), yaml.CSafeLoader)
    assert breaks(first, document()) == []


def change(kept: dict[str, Any], *path: str) -> tuple[dict[str, Any], Any]:
    changed = copy.deepcopy(kept)
    at = changed
    for key in path:
        at = at[key]
    return changed, at


SCHEMAS = ("components", "schemas")


@pytest.mark.parametrize(
    ("path", "do", "told"),
    [
        ((*SCHEMAS, "AccessDecided", "properties"), lambda at: at.pop("reason"),
         "AccessDecided.reason is gone"),
        ((*SCHEMAS, "DoorStateMessage", "properties", "locked"), lambda at: at.update(anyOf=[]),
         "DoorStateMessage.locked: anyOf no longer has"),
        ((*SCHEMAS, "StatusMessage"), lambda at: at["required"].remove("online"),
         "StatusMessage.online may be missing now"),
        ((*SCHEMAS, "CommandPayload"), lambda at: at["required"].append("door"),
         "CommandPayload.door must be there now"),
        (("channels", "Event"), lambda at: at.update(address="elsewhere"), "channel Event"),
        (("operations",), lambda at: at.pop("sendHealth"), "operation sendHealth"),
        ((*SCHEMAS,), lambda at: at.pop("Duress"), "Duress is gone"),
        ((*SCHEMAS, "Event"), lambda at: at["oneOf"].pop(), "Event: oneOf no longer has"),
    ],
)  # fmt: skip
def test_what_breaks_somebody_is_named(
    kept: dict[str, Any], path: tuple[str, ...], do: Any, told: str
) -> None:
    changed, at = change(kept, *path)
    do(at)
    assert any(line.startswith(told) for line in breaks(kept, changed)), breaks(kept, changed)


def test_a_new_event_or_member_breaks_nobody(kept: dict[str, Any]) -> None:
    changed, schemas = change(kept, *SCHEMAS)
    schemas["AccessDecided"]["properties"]["more"] = {"type": "string"}
    schemas["Event"]["oneOf"].append({"$ref": "#/components/schemas/New"})
    schemas["New"] = {"type": "object"}
    assert breaks(kept, changed) == []


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("status", b'{"v":1}'),
        ("status", b'{"v":1,"online":true,"more":1}'),
        ("event", b'{"v":1,"stream":"s","events":[{"seq":1,"event":{"code":"unheard_of"}}]}'),
        (
            "event",
            b'{"v":1,"stream":"s","events":[{"seq":1,"event":{"code":"closed","door":"front",'
            b'"at":"2026-06-01T10:00:00Z","trust":2,"salvaged_from":{"seq":7}}}]}',
        ),
        ("door/front/state", b'{"v":1,"door":"front"}'),
    ],
)
def test_a_message_of_another_form_is_refused(
    kept: dict[str, Any], topic: str, payload: bytes
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        Validator(kept).check(f"acs/v1/LON/gw/{topic}", payload)
