"""The MQTT topics in AsyncAPI 3, from the code's own message types: `python -m tests.asyncapi`.

What is JSON is described by the structs that the code encodes; what is signed, by the maps that
docs/spec/trust.md lists. `docs/asyncapi.yaml` is the outcome, and the end-to-end tests hold every
live message against it.
"""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import cbor2
import jsonschema
import msgspec
import yaml

import gateway
from gateway.domain import events
from gateway.domain.member_text import CATALOGUE
from gateway.ipc.messages import DoorStateReport, Status
from gateway.link.health import LinkHealth
from gateway.link.live import EVENT_TYPES

DOCUMENT = Path(__file__).parents[1] / "docs" / "asyncapi.yaml"

_ID = {"type": "string", "minLength": 1, "maxLength": 128}
_INSTANT = {"type": "integer", "minimum": 0, "description": "seconds since 1970"}
_INSTANT_TEXT = {"type": "string", "format": "date-time"}
_MS = {"type": "integer", "minimum": 0, "description": "milliseconds since 1970"}
_COUNT = {"type": "integer", "minimum": 0}
_HEX = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
_DIGEST = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_V = {"const": 1, "description": "the version of this topic's messages"}


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [dict(schema), {"type": "null"}]}


def _map(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": sorted(required),
        "additionalProperties": False,
    }


# --- What the code encodes ------------------------------------------------------------------------


def _of_structs() -> tuple[list[str], dict[str, Any]]:
    """The names of every event's schema, and all schemas: events, a door's state, the health."""
    kinds = [*get_args(events.Event), LinkHealth, DoorStateReport, Status]
    refs, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    schemas = {name: _plain(schema) for name, schema in sorted(components.items())}
    for name in ("DoorStateReport", "Status"):
        del schemas[name]["properties"]["m"]  # the socket's own tag
        schemas[name]["required"] = [each for each in schemas[name]["required"] if each != "m"]
    schemas["Told"]["properties"]["key"] |= {
        "description": "what `x-texts` words, with {time} for `at` and {early} for `early_min` as a"
        " span; one that isn't there is `other`",
        "x-texts": {language: dict(words) for language, words in CATALOGUE.items()},
    }
    return [ref["$ref"] for ref in refs[:-3]], schemas


def _plain(schema: Any) -> Any:
    """Without titles that only repeat the name, and discriminators in the form of OpenAPI."""
    if isinstance(schema, dict):
        kept = {key: each for key, each in schema.items() if key != "title"}
        if isinstance(told := kept.get("description"), str):
            kept["description"] = inspect.cleandoc(told)  # as Python 3.13 compiles docstrings
        if isinstance(kept.get("discriminator"), dict):
            del kept["discriminator"]
        return {key: _plain(each) for key, each in kept.items()}
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    return schema


def _schemas() -> dict[str, Any]:
    kinds, schemas = _of_structs()
    state, status = schemas.pop("DoorStateReport"), schemas.pop("Status")
    health = {**status["properties"], "v": _V, "doors": _COUNT}
    health["link"] = {"$ref": "#/components/schemas/LinkHealth"}
    codes = [str(event.__struct_config__.tag) for event in get_args(events.Event)]
    schemas["Event"] = {
        "oneOf": [{"$ref": kind} for kind in kinds],
        "discriminator": "code",
        "properties": {
            "salvaged_from": {
                **_map({"stream": _ID, "seq": {"type": "integer", "minimum": 1}}),
                "description": "the identity that it had in a damaged journal: under that it"
                " may have come before",
            }
        },
        "description": f"What happened; its `code` is one of {', '.join(sorted(codes))}.",
    }
    numbered = _map({
        "seq": {"type": "integer", "minimum": 1, "description": "dense from 1 within a stream"},
        "event": {"$ref": "#/components/schemas/Event"},
    })  # fmt: skip
    schemas |= {
        "EventsMessage": _map(
            {"v": _V, "stream": _ID, "events": {"type": "array", "items": numbered, "minItems": 1}},
            {"urgent": {"const": True, "description": "ahead of the backlog; at their place in the"
                        " sequence they come all the same"}},
        ),
        "StatusMessage": _map(
            {"v": _V, "online": {"type": "boolean"}},
            {"core": {"type": "boolean", "description": "whether the core answers the link"},
             "why": {"enum": ["lost", "stopped"]}},
        ),
        "DoorEventMessage": _map(
            {"v": _V, "event_type": {"enum": list(EVENT_TYPES)}, "at": _INSTANT_TEXT},
            {"reason": _or_null({"type": "string"})},
        ),
        "DoorStateMessage": {
            **state, "properties": {"v": _V, **state["properties"]},
            "required": ["v", *state["required"]],
        },
        "HealthMessage": {
            **status, "properties": dict(sorted(health.items())),
            "required": sorted({*status["required"], "v", "link"}),
        },
        "NeedMessage": _map({
            "v": _V, "revision": _or_null(_COUNT), "digest": _or_null(_DIGEST),
            "chunks": {"type": "array", "items": _DIGEST, "maxItems": 64}, "root": _COUNT,
        }),
        "PlainAckMessage": _map({"stream": _ID, "seq": {"type": "integer", "minimum": 1}}),
    } | _signed()  # fmt: skip
    return dict(sorted(schemas.items()))


# --- What is signed: docs/spec/trust.md -----------------------------------------------------------


def _signed() -> dict[str, Any]:
    """Payloads of COSE messages, byte strings written as lower-case hex."""
    scope = {"door": _ID, "zone": _ID, "site": {"const": True}}
    return {
        "BeaconPayload": _map({
            "site": _ID, "gateway": _ID, "revision": _COUNT, "digest": _DIGEST, "now_ms": _MS,
            "expires": _INSTANT, "nonce": _or_null({**_HEX, "minLength": 32, "maxLength": 32}),
            "root": _COUNT,
        }),
        "ParityPayload": _map({
            "site": _ID, "gateway": _ID, "at_ms": _MS,
            "trust": {"type": "integer", "minimum": 0, "maximum": 3},
            "revision": _or_null(_COUNT), "digest": _or_null(_DIGEST), "as_of": _or_null(_INSTANT),
            "root": _COUNT, "records": {"type": "object", "additionalProperties": _COUNT},
            "doors": {"type": "object", "additionalProperties": _COUNT},
            "nonce": {**_HEX, "minLength": 32, "maxLength": 32},
        }, {"buckets": {**_HEX, "minLength": 16384, "maxLength": 16384}}),
        "AckPayload": _map({
            "site": _ID, "gateway": _ID, "stream": _ID, "seq": {"type": "integer", "minimum": 1},
            "at": _INSTANT,
        }),
        "CommandPayload": _map({
            "3": {"type": "string", "description": "aud: SITE/GATEWAY"}, "4": _INSTANT,
            "6": _INSTANT, "7": {**_HEX, "minLength": 32, "maxLength": 32},
            "act": {"enum": ["unlock", "mode", "lockdown", "evacuation", "release", "forgive",
                             "identify", "logs", "refresh"]},
            "by": _ID, "why": {"type": "string"},
        }, {**scope, "mode": {"enum": ["controlled", "unlocked", "blocked"]}, "until": _INSTANT,
            "of": {"enum": ["lockdown", "evacuation"]}, "holder": _ID, "minutes": _COUNT}),
        "ResultPayload": _map({
            "cti": _HEX, "outcome": {"enum": ["done", "refused"]},
            "reason": _or_null({"type": "string"}), "at_ms": _MS, "took_ms": {"type": "number"},
            "seq": _or_null(_COUNT),
        }, {"member": _map({"key": {"type": "string"}, "at": _or_null(_INSTANT),
                            "early_min": _or_null(_COUNT)})}),
    }  # fmt: skip


_JSON, _COSE, _BYTES = "application/json", "application/cose", "application/octet-stream"

_TOPICS = (
    ("event", "send", _JSON, "EventsMessage", "QoS 1, kept until acknowledged: PUBACK is not"
     " delivery. Each event may come again; stream and seq tell."),
    ("status", "send", _JSON, "StatusMessage", "Retained, and the last will."),
    ("door/{door}/state", "send", _JSON, "DoorStateMessage", "Retained: what the devices last said,"
     " or that it is unknown."),
    ("door/{door}/event", "send", _JSON, "DoorEventMessage", "As it happens, once: QoS 0, never"
     " retained, never sent again, and only with [mqtt.home_assistant]."),
    ("health", "send", _JSON, "HealthMessage", "Each minute, QoS 0."),
    ("parity", "send", _COSE, "ParityPayload", "What is enforced, signed by the gateway."),
    ("cmd/result", "send", _COSE, "ResultPayload", "What became of a command, signed."),
    ("checkpoint", "send", _COSE, None, "The journal's chain, signed by the gateway"
     " (docs/journal.md)."),
    ("sync/need", "send", _JSON, "NeedMessage", "What the gateway lacks."),
    ("ack", "receive", _COSE, "AckPayload", "Cumulative. Without `[trust]` plain JSON"
     " (PlainAckMessage)."),
    ("beacon", "receive", _COSE, "BeaconPayload", "Revision and time, never retained."),
    ("cmd", "receive", _COSE, "CommandPayload", "A CWT; never retained, never late."),
    ("sync/manifest", "receive", _BYTES, None, "A root or bundle document (docs/spec/trust.md)."),
    ("sync/chunk", "receive", _BYTES, None, "A chunk of a bundle, named by its SHA-256."),
)  # fmt: skip


def document() -> dict[str, Any]:
    """The whole description."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for topic, action, content, schema, about in _TOPICS:
        name = "".join(part.strip("{}").capitalize() for part in topic.split("/"))
        parameters = {"site": {"$ref": "#/components/parameters/site"},
                      "gateway": {"$ref": "#/components/parameters/gateway"}}  # fmt: skip
        if "{door}" in topic:
            parameters["door"] = {"$ref": "#/components/parameters/door"}
        messages[name] = {"name": name, "contentType": content, "summary": about} | (
            {"payload": {"$ref": f"#/components/schemas/{schema}"}} if schema else {}
        )
        channels[name] = {
            "address": f"acs/v1/{{site}}/{{gateway}}/{topic}",
            "parameters": parameters,
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        }
        operations[f"{action}{name}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
        }
    percent = "percent-encoded: letters, digits and _.-~ as they are"
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "door-gateway over MQTT",
            "version": gateway.__version__,
            "description": (
                "Version 1 of the topics. `send` is the gateway's, `receive` the cloud's. A payload"
                " of type application/cose is a COSE_Sign1; its schema is that of the CBOR map in"
                " it, byte strings as lower-case hex, integer keys as text. A consumer must ignore"
                " event codes and members that it doesn't know; `v` changes where that doesn't do."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": _JSON,
        "channels": channels,
        "operations": operations,
        "components": {
            "parameters": {
                "site": {"description": f"the site's id, {percent}"},
                "gateway": {"description": f"the gateway's id, {percent}"},
                "door": {"description": f"the door's id, {percent}"},
            },
            "messages": messages,
            "schemas": _schemas(),
        },
    }


def text() -> str:
    """The document as it is kept."""
    dumped: str = yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=100)
    return f"# Made by python -m tests.asyncapi; don't edit.\n{dumped}"


def breaks(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What a consumer or producer written for `before` would no longer understand in `after`."""
    found = [
        f"channel {name}: its address"
        for name, channel in before["channels"].items()
        if after["channels"].get(name, {}).get("address") != channel["address"]
    ]
    told = {name for name, each in before["operations"].items() if each["action"] == "send"}
    found += [
        f"operation {name}" for name in before["operations"] if name not in after["operations"]
    ]
    found += [f"operation {name}: direction" for name in told & after["operations"].keys()
              if after["operations"][name]["action"] != "send"]  # fmt: skip
    received = ("BeaconPayload", "AckPayload", "CommandPayload", "PlainAckMessage")
    schemas = after["components"]["schemas"]
    for name, schema in before["components"]["schemas"].items():
        if name not in schemas:
            found.append(f"{name} is gone")
        else:
            found += _breaks(name, schema, schemas[name], received=name in received)
    return found


def _breaks(where: str, before: Any, after: Any, *, received: bool) -> list[str]:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return [] if before == after else [f"{where}: was {before!r}, is {after!r}"]
    found: list[str] = []
    kind = (
        "type",
        "enum",
        "const",
        "format",
        "pattern",
        "$ref",
        "minimum",
        "maximum",
        "prefixItems",
    )
    for key in kind:
        old, new = before.get(key), after.get(key)
        if key == "enum" and old and new and (set(new) > set(old) if received else False):
            continue  # more is taken than before
        if old != new:
            found.append(f"{where}: {key} was {old!r}, is {new!r}")
    for key in ("anyOf", "oneOf"):
        ways = [_shape(each) for each in after.get(key, [])]
        found += [
            f"{where}: {key} no longer has {each}"
            for each in before.get(key, [])
            if _shape(each) not in ways
        ]
    if "items" in before:
        found += _breaks(f"{where}[]", before["items"], after.get("items", {}), received=received)
    properties = after.get("properties", {})
    for name, schema in before.get("properties", {}).items():
        if name not in properties:
            found.append(f"{where}.{name} is gone")
        else:
            found += _breaks(f"{where}.{name}", schema, properties[name], received=received)
    old, new = set(before.get("required", [])), set(after.get("required", []))
    if received:
        found += [f"{where}.{name} must be there now" for name in sorted(new - old)]
    else:
        found += [f"{where}.{name} may be missing now" for name in sorted(old - new)]
    return found


def _shape(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in schema.items() if key != "description"}


class Validator:
    """Holds live messages against a kept document."""

    def __init__(self, kept: Mapping[str, Any]) -> None:
        self._kept = kept
        self._schemas = kept["components"]["schemas"]

    def check(self, topic: str, payload: bytes) -> str:
        """The name of the message. Raises jsonschema.ValidationError, ValueError, KeyError."""
        levels = topic.split("/")[4:]
        levels = ["door", "door", levels[2]] if levels[0] == "door" else levels
        name = "".join(map(str.capitalize, levels))
        message = self._kept["components"]["messages"][name]
        if "payload" not in message:
            return name
        schema = message["payload"]["$ref"].rpartition("/")[2]
        if message["contentType"] == _COSE and payload[:1] == b"{":
            schema = "PlainAckMessage"
        value = (
            _from_cbor(cbor2.loads(cbor2.loads(payload).value[2]))
            if payload[:1] != b"{"
            else msgspec.json.decode(payload)
        )
        jsonschema.validate(
            value,
            {"$ref": f"#/components/schemas/{schema}", "components": self._kept["components"]},
        )
        return name


def _from_cbor(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(_from_cbor(key)): _from_cbor(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_from_cbor(each) for each in value]
    return value


if __name__ == "__main__":
    DOCUMENT.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{DOCUMENT}\n")
