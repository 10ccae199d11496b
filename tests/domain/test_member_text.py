import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.domain.events import AccessDecided, Told
from gateway.domain.member_text import CATALOGUE, LANGUAGES, can_say_when, told, worded

AT = datetime(2026, 6, 1, 6, 48, tzinfo=UTC)


def event(reason: str, outcome: str = "deny", **more: Any) -> AccessDecided:
    return AccessDecided(
        at=AT, trust=2, door="street", side="in", device="r", kinds=("uid",), outcome=outcome,
        reason=reason, **more,
    )  # fmt: skip


def member_text(event: AccessDecided, language: str = "en", **known: Any) -> str:
    return worded(told(event, **known), language)


def test_a_day_pass_that_starts_later_says_when_and_how_early_one_is() -> None:
    said = {
        language: member_text(
            event("booking_not_started"),
            language,
            timezone="Europe/Sofia",
            opens_at=AT + timedelta(minutes=12),
            persona="daypass",
        )
        for language in LANGUAGES
    }
    assert said == {
        "en": "Your day pass starts at 10:00; you are 12 minutes early.",
        "de": "Ihr Tagespass beginnt um 10:00; Sie sind 12 Minuten zu früh.",
    }


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(seconds=5), "1 minute"),
        (timedelta(minutes=59), "59 minutes"),
        (timedelta(minutes=61), "2 hours"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(hours=25), "2 days"),
    ],
)
def test_spans_are_rounded_up(span: timedelta, said: str) -> None:
    assert f"in {said}." in member_text(event("outside_schedule"), opens_at=AT + span)


def test_every_language_has_every_text_with_the_same_fields() -> None:
    assert set(CATALOGUE) == set(LANGUAGES)
    for words in CATALOGUE.values():
        assert words.keys() == CATALOGUE["en"].keys()
        for name, text in words.items():
            assert fields(text) == fields(CATALOGUE["en"][name]), name


def fields(text: str) -> set[str]:
    return set(re.findall(r"{(\w+)}", text))


def test_every_reason_of_the_specification_that_a_member_can_do_something_about_has_a_text() -> (
    None
):
    spec = Path(__file__).parents[2] / "docs" / "spec"
    reasons = set[str]()
    for page in ("decision.md", "carried-grants.md"):
        text = (spec / page).read_text(encoding="utf-8")
        found = re.findall(
            r"(?:deny |^\| )`((?<=deny `)[a-z_]+|grant_[a-z_]+)`", text, re.MULTILINE
        )
        reasons |= set(found)
    assert {"no_pin", "holder_unknown", "grant_wrong_audience"} <= reasons
    of_the_gateway = {"unknown_door", "entitlements_stale", "clock_untrusted"}
    assert reasons - CATALOGUE["en"].keys() <= of_the_gateway
    for reason in of_the_gateway:
        assert member_text(event(reason)) == CATALOGUE["en"]["other"]


def test_nothing_that_is_secret_is_told() -> None:
    forced = event("group", "grant", duress=True, holder="h-maya", via="secret-group")
    calm = event("group", "grant")
    assert member_text(forced) == member_text(calm) == "You were let in."
    assert member_text(event("pin_required", "challenge")) == "Please enter your PIN as well."


def test_an_app_is_told_a_name_and_what_to_put_in() -> None:
    early = event("booking_not_started")
    opens_at = AT + timedelta(minutes=11, seconds=1)
    found = told(early, timezone="Europe/Sofia", opens_at=opens_at, persona="daypass")
    assert msgspec.json.encode(found) == (
        b'{"key":"day_pass_starts","at":"2026-06-01T09:59:01+03:00","early_min":12}'
    )
    assert told(early) == told(early, opens_at=AT) == Told("booking_not_started")
    assert told(event("wrong_pin"), opens_at=opens_at) == Told("wrong_pin")
    assert told(event("entitlements_stale"), opens_at=opens_at) == Told("other")
    assert told(event("pin_required", "challenge")) == Told("challenge")
    assert worded(Told("from_a_later_release")) == CATALOGUE["en"]["other"]
    assert {reason for reason in CATALOGUE["en"] if can_say_when(reason)} == {
        "booking_not_started", "membership_not_started", "credential_not_yet_valid",
        "outside_schedule",
    }  # fmt: skip
