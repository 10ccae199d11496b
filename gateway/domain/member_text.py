"""A decision in plain words, in the member's own terms: for the app, the front desk and the CLI.

No secret stands in a text: no name, card number or PIN, and of a duress PIN nothing at all.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from zoneinfo import ZoneInfo

from gateway.domain.events import AccessDecided, Told

LANGUAGES = ("en", "de")

_EN = {
    "grant": "You were let in.",
    "challenge": "Please enter your PIN as well.",
    "day_pass_starts": "Your day pass starts at {time}; you are {early} early.",
    "booking_starts": "Your booking starts at {time}; you are {early} early.",
    "membership_starts": "Your membership starts at {time}; you are {early} early.",
    "card_starts": "Your card is valid from {time}; you are {early} early.",
    "opens": "You can go in here again from {time}, in {early}.",
    "minute": "{n} minute",
    "minutes": "{n} minutes",
    "hour": "{n} hour",
    "hours": "{n} hours",
    "day": "{n} day",
    "days": "{n} days",
    "other": "You can't go in here at the moment. Please ask at the front desk.",
    "unknown_credential": "This card or code is not known here. Please ask at the front desk.",
    "credential_suspended": "This card is suspended. Please ask at the front desk.",
    "credential_lost": "This card was reported lost. Please ask at the front desk.",
    "credential_stolen": "This card was reported stolen. Please ask at the front desk.",
    "credential_returned": "This card was handed back. Please ask at the front desk.",
    "credential_not_yet_valid": "Your card is not valid yet.",
    "credential_expired": "Your card is not valid any more.",
    "membership_pending": "Your membership is not active yet.",
    "membership_suspended": "Your membership is paused.",
    "membership_not_started": "Your membership has not started yet.",
    "membership_ended": "Your membership has ended.",
    "payment_overdue": "A payment is overdue. Please settle it in the app.",
    "lockdown": "The building is in lockdown. Please follow the staff's instructions.",
    "exception": "You were asked not to enter here. Please ask at the front desk.",
    "outside_schedule": "Your plan does not cover this time of day.",
    "booking_not_started": "Your booking has not started yet.",
    "booking_over": "Your booking is over.",
    "no_entitlement": "Your plan does not cover this door.",
    "pin_not_accepted": "A PIN alone does not open this door. Please use your card as well.",
    "second_factor_required": "At this hour, please use your card and your PIN.",
    "no_pin": "You need a PIN for this door at this hour. Please ask at the front desk.",
    "wrong_pin": "That PIN was not right.",
    "pin_locked_out": "Too many wrong PINs. Please wait, or use your card.",
    "door_blocked": "This door is closed for everybody at the moment.",
    "interlock": "Another door must close first.",
    "antipassback": "You are inside already. Please leave by a reader first.",
    "uses_exhausted": "This code has been used up.",
    "max_occupancy": "The room is full.",
    "second_person_required": "A second person must identify at this door within 30 seconds.",
    "assurance_too_low": "This kind of card is not enough for this door. Please use your phone.",
    "holder_unknown": "This code is not known here yet. Please ask at the front desk.",
    "needs_reader": "This door can't be opened from the app. Please use the reader at the door.",
    "member_unknown": "Your membership is not known here yet. Please ask at the front desk.",
    "grant_malformed": "This code can't be read. Please show it again, or ask at the front desk.",
    "grant_unknown_key": "This code is not valid here. Please ask at the front desk.",
    "grant_bad_signature": "This code is not valid here. Please ask at the front desk.",
    "grant_wrong_audience": "This code is for another place.",
    "grant_key_unproven": "This pass works with your phone only. Please hold it to the reader.",
}
_DE = {
    "grant": "Sie wurden eingelassen.",
    "challenge": "Bitte geben Sie auch Ihre PIN ein.",
    "day_pass_starts": "Ihr Tagespass beginnt um {time}; Sie sind {early} zu früh.",
    "booking_starts": "Ihre Buchung beginnt um {time}; Sie sind {early} zu früh.",
    "membership_starts": "Ihre Mitgliedschaft beginnt um {time}; Sie sind {early} zu früh.",
    "card_starts": "Ihre Karte gilt ab {time}; Sie sind {early} zu früh.",
    "opens": "Sie können hier wieder ab {time} hinein, in {early}.",
    "minute": "{n} Minute",
    "minutes": "{n} Minuten",
    "hour": "{n} Stunde",
    "hours": "{n} Stunden",
    "day": "{n} Tag",
    "days": "{n} Tage",
    "other": "Sie können hier gerade nicht hinein. Bitte fragen Sie am Empfang.",
    "unknown_credential": "Diese Karte oder dieser Code ist hier nicht bekannt. Bitte fragen Sie am"
    " Empfang.",
    "credential_suspended": "Diese Karte ist gesperrt. Bitte fragen Sie am Empfang.",
    "credential_lost": "Diese Karte ist als verloren gemeldet. Bitte fragen Sie am Empfang.",
    "credential_stolen": "Diese Karte ist als gestohlen gemeldet. Bitte fragen Sie am Empfang.",
    "credential_returned": "Diese Karte wurde zurückgegeben. Bitte fragen Sie am Empfang.",
    "credential_not_yet_valid": "Ihre Karte gilt noch nicht.",
    "credential_expired": "Ihre Karte gilt nicht mehr.",
    "membership_pending": "Ihre Mitgliedschaft ist noch nicht aktiv.",
    "membership_suspended": "Ihre Mitgliedschaft ruht.",
    "membership_not_started": "Ihre Mitgliedschaft hat noch nicht begonnen.",
    "membership_ended": "Ihre Mitgliedschaft ist beendet.",
    "payment_overdue": "Eine Zahlung steht aus. Bitte begleichen Sie sie in der App.",
    "lockdown": "Das Gebäude ist abgeriegelt. Bitte folgen Sie den Anweisungen des Personals.",
    "exception": "Sie wurden gebeten, hier nicht einzutreten. Bitte fragen Sie am Empfang.",
    "outside_schedule": "Ihr Tarif gilt nicht zu dieser Tageszeit.",
    "booking_not_started": "Ihre Buchung hat noch nicht begonnen.",
    "booking_over": "Ihre Buchung ist vorbei.",
    "no_entitlement": "Ihr Tarif gilt nicht für diese Tür.",
    "pin_not_accepted": "Eine PIN allein öffnet diese Tür nicht. Bitte nehmen Sie auch Ihre Karte.",
    "second_factor_required": "Um diese Zeit brauchen Sie Karte und PIN.",
    "no_pin": "Um diese Zeit brauchen Sie hier eine PIN. Bitte fragen Sie am Empfang.",
    "wrong_pin": "Diese PIN war nicht richtig.",
    "pin_locked_out": "Zu viele falsche PINs. Bitte warten Sie, oder nehmen Sie Ihre Karte.",
    "door_blocked": "Diese Tür ist im Augenblick für alle geschlossen.",
    "interlock": "Zuerst muss eine andere Tür schließen.",
    "antipassback": "Sie sind schon drinnen. Bitte verlassen Sie den Bereich erst an einem Leser.",
    "uses_exhausted": "Dieser Code ist aufgebraucht.",
    "max_occupancy": "Der Raum ist voll.",
    "second_person_required": "Eine zweite Person muss sich hier binnen 30 Sekunden ausweisen.",
    "assurance_too_low": "Diese Art Karte genügt hier nicht. Bitte nehmen Sie Ihr Telefon.",
    "holder_unknown": "Dieser Code ist hier noch nicht bekannt. Bitte fragen Sie am Empfang.",
    "needs_reader": "Diese Tür lässt sich nicht aus der App öffnen. Bitte nehmen Sie den Leser an"
    " der Tür.",
    "member_unknown": "Ihre Mitgliedschaft ist hier noch nicht bekannt. Bitte fragen Sie am"
    " Empfang.",
    "grant_malformed": "Dieser Code ist nicht lesbar. Bitte zeigen Sie ihn noch einmal, oder fragen"
    " Sie am Empfang.",
    "grant_unknown_key": "Dieser Code gilt hier nicht. Bitte fragen Sie am Empfang.",
    "grant_bad_signature": "Dieser Code gilt hier nicht. Bitte fragen Sie am Empfang.",
    "grant_wrong_audience": "Dieser Code ist für einen anderen Ort.",
    "grant_key_unproven": "Dieser Ausweis gilt nur mit Ihrem Telefon. Bitte halten Sie es an den"
    " Leser.",
}
CATALOGUE: Mapping[str, Mapping[str, str]] = MappingProxyType({"en": _EN, "de": _DE})
"""By language; every one has the same entries. A reason that has none is told as `other`."""

_WITH_TIME = {
    "booking_not_started": "booking_starts",
    "membership_not_started": "membership_starts",
    "credential_not_yet_valid": "card_starts",
    "outside_schedule": "opens",
    "clock_untrusted": "opens",
}
"""What is said instead of the reason where it is known from when on the door would open."""

_FROM_AFAR = {
    "assurance_too_low": "needs_reader",
    "second_factor_required": "needs_reader",
    "second_person_required": "needs_reader",
    "holder_unknown": "member_unknown",
}
"""What is said instead of the reason to a holder who asked from afar and presented nothing."""

_UNITS = (
    (timedelta(days=1), "day"),
    (timedelta(hours=1), "hour"),
    (timedelta(minutes=1), "minute"),
)


def can_say_when(reason: str) -> bool:
    """Whether a denial for `reason` is told with a time, where there is one."""
    return reason in _WITH_TIME


def told(
    event: AccessDecided,
    *,
    timezone: str = "UTC",
    opens_at: datetime | None = None,
    persona: str | None = None,
) -> Told:
    """What a member is told of a decision, in no language yet.

    `opens_at` is the explanation's (docs/spec/decision.md): with it, it says when.
    """
    if event.outcome != "deny":
        return Told(event.outcome)
    if opens_at is not None and opens_at > event.at and event.reason in _WITH_TIME:
        key = _WITH_TIME[event.reason]
        if key == "booking_starts" and persona == "daypass":
            key = "day_pass_starts"
        early_min = -((event.at - opens_at) // timedelta(minutes=1))
        return Told(key, opens_at.astimezone(ZoneInfo(timezone)), early_min)
    reason = event.reason
    if event.remote is not None:
        reason = _FROM_AFAR.get(reason, reason)
    return Told(reason if reason in _EN else "other")


def worded(what: Told, language: str = "en") -> str:
    """What a member is told, in words."""
    words = CATALOGUE[language]
    text = words.get(what.key, words["other"])
    if what.at is None or what.early_min is None:
        return text
    early = _span(timedelta(minutes=what.early_min), words)
    return text.format(time=f"{what.at:%H:%M}", early=early)


def _span(span: timedelta, words: Mapping[str, str]) -> str:
    """Rounded up, in the largest unit of which there is one at least."""
    unit, name = next((each for each in _UNITS if span >= each[0]), _UNITS[-1])
    n = -(-span // unit)
    return words[name if n == 1 else f"{name}s"].format(n=n)
