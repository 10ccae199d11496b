"""What happened, as the journal keeps it and central operations receive it.

One struct an event code, tagged with `code`. No card number, PIN or name ever stands in one:
`holder` is the pseudonymous id of the entitlement records (docs/promises.md P16, P22).
Wall times are UTC with the trust level they were read at; durations are milliseconds of monotonic
time, suffixed `_ms`.
"""

from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple, Self, get_args

import msgspec

from gateway.decoding import decode_with
from gateway.domain.after_decision import Surroundings
from gateway.domain.carried_grant import CarriedGrant, Refusal
from gateway.domain.memory import Remembered


class Priority:
    """How urgently operations want to know. From ALARM on, an event goes ahead of any backlog."""

    ROUTINE: ClassVar[int] = 0
    WARNING: ClassVar[int] = 1
    ALARM: ClassVar[int] = 2
    EMERGENCY: ClassVar[int] = 3
    """Somebody is in danger, or broke the glass."""


class _Event(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="code", gc=False
):
    priority: ClassVar[int] = Priority.ROUTINE
    at: datetime
    trust: int
    """The `TimeTrust` of `at`, 0 to 3."""


class Context(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What the rules after the decision depended on, so that it can be decided again."""

    mono: timedelta
    """The monotonic time that the moments in `memory` compare with."""
    around: Surroundings = Surroundings()
    memory: dict[str, Remembered] = {}


class Told(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What the member is told, for an app that words it (`gateway.domain.member_text`)."""

    key: str
    """The text's name in the catalogue; an app takes one that it doesn't know for `other`."""
    at: datetime | None = None
    """From when on it would be different, by the site's own clock (with its offset)."""
    early_min: int | None = None
    """Until then, in minutes, rounded up."""


class Remote(msgspec.Struct, frozen=True, gc=False):
    """A signed command that asks for a door in a holder's name."""

    by: str
    """Who signed for it: the app or console, not the holder."""
    why: str
    command: str
    """Its id (`cti`), in hex: spent by this."""


EXCEPTION_TEXT_MAX = 256
"""Characters kept of an exception's reason and issuer: each tap repeats them."""


class Excepted(msgspec.Struct, frozen=True, gc=False):
    """The words of the exception record that decided; they stay when the record is deleted."""

    reason: str
    issued_by: str

    @classmethod
    def of(cls, reason: str, issued_by: str) -> Self:
        """Make it of the record's members, each cut to `EXCEPTION_TEXT_MAX` characters."""
        return cls(_cut(reason), _cut(issued_by))


def _cut(text: str) -> str:
    return text if len(text) <= EXCEPTION_TEXT_MAX else f"{text[: EXCEPTION_TEXT_MAX - 1]}…"


class AccessDecided(_Event, frozen=True, tag="access"):
    """A credential was presented and decided: everything that the decision depended on."""

    door: str
    side: str
    device: str
    kinds: tuple[str, ...]
    """The kinds of the credentials presented, in order; never their values."""
    outcome: str
    reason: str
    holder: str | None = None
    via: str | None = None
    duress: bool = False
    revision: str | None = None
    """The entitlement revision in force; null before the first one."""
    as_of: datetime | None = None
    lockdown: bool = False
    credential: str | None = None
    """The id of the record of the primary credential, where it is in one."""
    decide_ms: float = 0.0
    """From the fact's arrival (last byte of the credential) to the decision."""
    read_ms: float | None = None
    """From the first sign of the credential to its last byte, where its device knows both."""
    mode: str = "controlled"
    """The door's mode at that moment."""
    turned_from: str | None = None
    """The reason of the grant that `reason` turned into a denial."""
    pin: str | None = None
    """The id of the record of a PIN presented after something else, where it is this holder's."""
    grant: CarriedGrant | None = None
    """What was decided by, where it was carried: its claims, and nothing that could be shown."""
    refusal: Refusal | None = None
    """Why a carried grant was not believed."""
    context: Context | None = None
    """Null where no rule after the decision had anything to look at."""
    member: Told | None = None
    """What the member is told of a denial or challenge; of a grant there is nothing to tell."""
    remote: Remote | None = None
    """Where nothing was presented and the holder asked from afar (`kinds` is then `remote`, and
    `device` is empty)."""
    exception: Excepted | None = None
    """Where `reason` is `exception`: why the record `via` was made, and by whom."""


class OtherDoors(_Event, frozen=True, tag="other_doors"):
    """Doors that stayed locked at a tap of their common reader, beside the doors that the tap's own
    `access` events are about. A tap is one attempt: these are not denials of their own.
    """

    device: str
    outcome: str
    """What the tap's own events say: `grant`, `challenge`, or `deny` where no door opened."""
    doors: dict[str, str]
    """Reason by door."""
    holder: str | None = None
    credential: str | None = None
    """The id of the record of the primary credential, where it is in one."""


class CredentialRefused(_Event, frozen=True, tag="credential_refused"):
    """Something was presented and didn't prove itself, so that nobody was looked up."""

    priority: ClassVar[int] = Priority.WARNING
    door: str
    side: str
    device: str
    kind: str
    why: str
    others: tuple[str, ...] = ()
    """The other doors of a reader of several doors."""


class AdmittedByController(_Event, frozen=True, tag="admitted_by_controller"):
    """A controller let somebody in by its own list, without the gateway; told when it is heard of.

    `at` is when the gateway heard; the controller's own clock is not vouched for.
    """

    priority: ClassVar[int] = Priority.WARNING
    device: str
    doors: tuple[str, ...]
    holder: str | None = None
    """By the records in force now."""
    credential: str | None = None


class LateCommit(_Event, frozen=True, tag="late_commit"):
    """The strike was released before its grant was on disk: the commit took over 250 ms."""

    priority: ClassVar[int] = Priority.WARNING
    door: str
    seq: int
    """The sequence number of the grant's own event."""


class Unlocked(_Event, frozen=True, tag="unlocked"):
    """The relay board confirmed that it energised the strike."""

    door: str
    cause: str
    """`grant`, `rex` or `mode`."""
    seq: int | None = None
    """The sequence number of the event that gave the right to."""
    pulse_ms: int = 0
    confirm_ms: float = 0.0
    """From the fact's arrival to the board's confirmation."""
    record_ms: float = 0.0
    """Of that, how long the release waited for its record to be on disk."""


class UnlockFailed(_Event, frozen=True, tag="unlock_failed"):
    """A grant or REX was due a release, and the strike's device did not confirm it."""

    priority: ClassVar[int] = Priority.ALARM
    door: str
    cause: str
    why: str
    seq: int | None = None


class RexPressed(_Event, frozen=True, tag="rex"):
    """Somebody inside asked to leave; the door is released, nobody is let in."""

    door: str


class DoorOpened(_Event, frozen=True, tag="opened"):
    """The contact opened after a release."""

    door: str
    cause: str
    """`grant`, `rex`, `mode`; by a handle that nothing reports, `egress`; while the contact was
    lost, `unseen`."""
    seq: int | None = None
    after_ms: int | None = None
    """From the strike's release to the leaf's opening, for a grant or REX."""


class DoorClosed(_Event, frozen=True, tag="closed"):
    """The contact closed."""

    door: str


class ForcedOpen(_Event, frozen=True, tag="forced_open"):
    """The contact opened and nothing had released the door."""

    priority: ClassVar[int] = Priority.ALARM
    door: str


class HeldOpen(_Event, frozen=True, tag="held_open"):
    """The door has stood open for longer than `held_open_s`."""

    priority: ClassVar[int] = Priority.ALARM
    door: str


class HeldOpenWarning(_Event, frozen=True, tag="held_open_warning"):
    """The door will have stood open for too long in a moment; the reader's buzzer says so."""

    door: str


class Entered(_Event, frozen=True, tag="entered"):
    """Somebody who was let through went through, as far as the contact shows."""

    door: str
    side: str
    seq: int | None = None
    """The sequence number of the grant."""
    holders: tuple[str, ...] = ()
    sure: bool = False
    """The leaf opened for them alone; else they may have stayed, or not gone by themselves."""


class NotEntered(_Event, frozen=True, tag="not_entered"):
    """Somebody was let through and the door was not opened."""

    door: str
    side: str
    seq: int | None = None
    holders: tuple[str, ...] = ()


class RelockFailed(_Event, frozen=True, tag="relock_failed"):
    """The strike did not confirm that it locked early; its own timer ends the release."""

    priority: ClassVar[int] = Priority.WARNING
    door: str
    why: str


class Duress(_Event, frozen=True, tag="duress"):
    """A holder used their duress PIN: they are being forced. Nothing at the door shows it."""

    priority: ClassVar[int] = Priority.EMERGENCY
    door: str
    outcome: str
    """What the door answered: `grant`, `deny`."""
    holder: str | None = None
    """Null only where it has been erased."""


class PinLockout(_Event, frozen=True, tag="pin_lockout"):
    """Too many wrong PINs in a row: PINs are locked out at a door, or of a holder."""

    priority: ClassVar[int] = Priority.ALARM
    door: str
    """Where the last one was entered."""
    seconds: int
    holder: str | None = None
    """Null where it is the door that is locked out."""


class Passback(_Event, frozen=True, tag="passback"):
    """A door with soft anti-passback let somebody into a zone that they had not left."""

    priority: ClassVar[int] = Priority.WARNING
    door: str
    zone: str
    holder: str | None = None
    """Null only where it has been erased."""


class ModeChanged(_Event, frozen=True, tag="mode_changed"):
    """Another mode is in force at a door."""

    priority: ClassVar[int] = Priority.WARNING
    door: str
    mode: str
    """`controlled`, `unlocked`, `blocked`, `lockdown` or `evacuation`."""
    source: str
    """`schedule`, `hand`, `lockdown` or `evacuation`; `records` where nothing else says more."""
    by: str | None = None
    why: str | None = None


class Forgiven(_Event, frozen=True, tag="forgiven"):
    """An operator made the site forget a holder's place and PIN lockout, or a zone's count, or
    renewed the hours of a break-glass role.
    """

    priority: ClassVar[int] = Priority.WARNING
    by: str
    why: str
    holder: str | None = None
    zone: str | None = None
    role: str | None = None


class Ordered(_Event, frozen=True, tag="ordered"):
    """An operator ordered a mode, a lockdown or an evacuation, or its end."""

    priority: ClassVar[int] = Priority.ALARM
    scope: str
    """`site`, `zone` or `door`."""
    id: str
    """Of the zone or door; empty for the site."""
    mode: str
    """The mode ordered; `release` ends what was ordered for this scope before."""
    by: str
    why: str
    seconds: int | None = None
    """How long it lasts; null: until it is released."""


class BreakGlass(_Event, frozen=True, tag="break_glass"):
    """A break-glass code was used: without network, records or membership."""

    priority: ClassVar[int] = Priority.EMERGENCY
    door: str
    side: str
    device: str
    role: str
    secret: int
    """Whose it is: which of the role's secrets, from 1."""
    outcome: str
    """`opened`, `second_required` (a quorum of two) or `over` (the role's hours have passed)."""


class RemoteUnlock(_Event, frozen=True, tag="remote_unlock"):
    """A signed command, or an operator on the box, released a door once for whoever is there."""

    priority: ClassVar[int] = Priority.WARNING
    door: str
    by: str
    """Who ordered it."""
    why: str
    command: str
    """Its id (`cti`), in hex: spent by this. Empty where an operator opened the door on the box."""


class Commanded(_Event, frozen=True, tag="commanded"):
    """A signed command other than to unlock was taken; what it changes has events of its own."""

    priority: ClassVar[int] = Priority.WARNING
    act: str
    target: str
    """The door or zone; empty for the site."""
    by: str
    why: str
    command: str
    holder: str | None = None
    """Who is forgiven."""


class SealedRefused(_Event, frozen=True, tag="sealed_refused"):
    """Something that should be signed for this gateway is not believed, or comes twice or late."""

    priority: ClassVar[int] = Priority.ALARM
    what: str
    """`ack`, `beacon`, `cmd`, or `bundle` for what changes the records or the keys."""
    reason: str
    """The rule of docs/spec/trust.md that it breaks."""
    count: int
    """How many since the last such event."""


class BeaconsMissing(_Event, frozen=True, tag="beacons_missing"):
    """The broker is there and no beacon comes: somebody may hold them back, and bundles too."""

    priority: ClassVar[int] = Priority.ALARM
    minutes: int


class BeaconsBack(_Event, frozen=True, tag="beacons_back"):
    """Beacons come again."""


class ClockOff(_Event, frozen=True, tag="clock_off"):
    """A beacon shows how far the machine's clock is off; the gateway goes by the beacon's time."""

    priority: ClassVar[int] = Priority.ALARM
    ahead_ms: int
    """Negative: it is behind. Zero: it is right again."""


class PinOddsLow(_Event, frozen=True, tag="pin_odds_low"):
    """Of the possible PINs so many are in force that guessing is worth a try."""

    priority: ClassVar[int] = Priority.WARNING
    revision: str
    codes_per_pin: int


class PinOddsCritical(_Event, frozen=True, tag="pin_odds_critical"):
    """So many PINs are in force that a guess is likely to be right."""

    priority: ClassVar[int] = Priority.ALARM
    revision: str
    codes_per_pin: int


class AlarmRestored(_Event, frozen=True, tag="alarm_restored"):
    """A door that was forced or held open is closed again."""

    door: str
    alarm: str


class DeviceUp(_Event, frozen=True, tag="device_online"):
    """A device answers, for the first time or again."""

    device: str


class DeviceDown(_Event, frozen=True, tag="device_offline"):
    """A device is lost."""

    priority: ClassVar[int] = Priority.WARNING
    device: str
    why: str


class Tamper(_Event, frozen=True, tag="tamper"):
    """A device's case was opened: somebody may be at its wires."""

    priority: ClassVar[int] = Priority.ALARM
    device: str
    doors: tuple[str, ...] = ()
    """The doors that it serves."""
    input: int | None = None
    """Of the device, where a switch in another case hangs on it; null: the device's own case."""


class TamperRestored(_Event, frozen=True, tag="tamper_restored"):
    """The case is closed again."""

    device: str
    doors: tuple[str, ...] = ()
    input: int | None = None


class PowerFailed(_Event, frozen=True, tag="power_failed"):
    """A device says that its supply has failed."""

    priority: ClassVar[int] = Priority.WARNING
    device: str


class PowerRestored(_Event, frozen=True, tag="power_restored"):
    """The device's supply is back."""

    device: str


class InstallWindowOpened(_Event, frozen=True, tag="install_window_opened"):
    """A reader may be given a new key: until then the default key, which all know, is accepted."""

    priority: ClassVar[int] = Priority.ALARM
    device: str
    seconds: int


class InstallWindowClosed(_Event, frozen=True, tag="install_window_closed"):
    """The default key counts no longer."""

    priority: ClassVar[int] = Priority.WARNING
    device: str
    key_set: bool
    """Whether the reader has got a key of its own."""


class OutputForcedOff(_Event, frozen=True, tag="output_forced_off"):
    """An output was energised that nobody had pulsed; it was put to rest."""

    priority: ClassVar[int] = Priority.ALARM
    device: str
    output: int
    door: str | None = None


class EntitlementsApplied(_Event, frozen=True, tag="entitlements_applied"):
    """A new set of records is in force."""

    revision: str
    as_of: datetime
    counts: dict[str, int]
    """Records by type."""


class EntitlementsRefused(_Event, frozen=True, tag="entitlements_refused"):
    """A set of records had faults and was refused whole; what was in force stays."""

    priority: ClassVar[int] = Priority.ALARM
    faults: int
    first: str


class GatewayStarted(_Event, frozen=True, tag="started"):
    """The core is deciding."""

    version: str
    revision: str | None = None
    host_timed: dict[str, str] = {}
    """Doors whose strike this software times (R0, R1) and the reason that the config gives."""


class GatewayStopped(_Event, frozen=True, tag="stopped"):
    """The core stopped in good order."""


class InputFault(_Event, frozen=True, tag="input_fault"):
    """A supervised input's wires are broken: what it says is unknown."""

    priority: ClassVar[int] = Priority.ALARM
    door: str
    point: str
    """`contact`, `rex` or `tamper`."""
    what: str = ""
    """`cut` (of a changeover contact: both wires say nothing) or `short` (both say something); with
    end-of-line resistors also `resistance`, `unsteady` or `supply`."""


class InputRestored(_Event, frozen=True, tag="input_restored"):
    """A supervised input is well again."""

    door: str
    point: str


class InputIgnored(_Event, frozen=True, tag="input_ignored"):
    """A door's inbox was full: taps that nobody could have waited for were dropped."""

    priority: ClassVar[int] = Priority.WARNING
    door: str
    count: int


class JournalGap(_Event, frozen=True, tag="journal_gap"):
    """Events could not be kept: the disk refused them for longer than memory could hold them."""

    priority: ClassVar[int] = Priority.ALARM
    lost: int
    why: str


class JournalRestarted(_Event, frozen=True, tag="journal_restarted"):
    """The journal's file was corrupt or gone: a new stream is begun."""

    priority: ClassVar[int] = Priority.ALARM
    kept_as: str
    """What the damaged file is called now; empty where there was none any more."""
    salvaged: int
    old_stream: str | None = None
    missing: tuple[tuple[int, int], ...] = ()
    """Numbers of the old stream that were not acknowledged and read no more, from and to; the
    first `MISSING_MAX` such ranges."""
    last_known: int | None = None
    """The highest number that the old stream is known to have had; there may have been later
    ones."""


class DailySummary(_Event, frozen=True, tag="daily_summary"):
    """What a day was like, where the site is. Counts only; nobody is named."""

    day: str
    """YYYY-MM-DD."""
    entries: dict[str, dict[str, int]] = {}
    """People who entered, by zone and by local hour (`00` … `23`)."""
    denials: dict[str, int] = {}
    """By reason."""
    propped_min: dict[str, int] = {}
    """Minutes for which a door counted as held open, by door."""


class HolderErased(_Event, frozen=True, tag="holder_erased"):
    """An operator had deleted what the journal told of one holder; whose it was is not said."""

    by: str
    why: str
    events: int
    """In how many events."""


class Checkpoint(_Event, frozen=True, tag="checkpoint"):
    """The gateway has signed the chain up to the event before this one."""

    message: str
    """A COSE_Sign1 (docs/journal.md) in base64."""


class AckRefused(_Event, frozen=True, tag="ack_refused"):
    """Events were acknowledged that were never sent. Whoever can say so could have events deleted
    that nobody has: look for a stranger on the broker.
    """

    priority: ClassVar[int] = Priority.ALARM
    seq: int
    """The number acknowledged; `last` is the highest that there was."""
    last: int
    count: int
    """How many since the last such event."""


class CacheRebuilt(_Event, frozen=True, tag="cache_rebuilt"):
    """The entitlement cache was corrupt and was built again from the last good bundle."""

    priority: ClassVar[int] = Priority.ALARM
    revision: str | None
    why: str


class MemoryDamaged(_Event, frozen=True, tag="memory_damaged"):
    """A value that the site must remember could not be read: its safest meaning counts instead."""

    priority: ClassVar[int] = Priority.ALARM
    what: str
    """`pin`, `place`, `uses`, `lockdown`, …: the kind of value."""
    instead: str
    """One line for a person: what counts now, and the way back."""
    about: str = ""
    """The door, zone, role or command that it was about."""
    holder: str | None = None
    credential: str | None = None
    grant: str | None = None


class FindingRaised(_Event, frozen=True, tag="finding"):
    """Something that operations should look at, found on the box (`gateway.domain.detection`)."""

    priority: ClassVar[int] = Priority.WARNING
    what: str
    """`device_offline`, `denied_spike_door`, …: the kind of finding."""
    subject: str
    """The door, device or certificate that it is about; empty for the site, and for a holder."""
    text: str
    """One line for a person."""
    count: int
    usual: float = 0.0
    holder: str | None = None
    """Whom it is about."""


class FindingCleared(_Event, frozen=True, tag="finding_cleared"):
    """A finding is over."""

    what: str
    subject: str
    holder: str | None = None


Event = (
    AccessDecided
    | OtherDoors
    | AdmittedByController
    | CredentialRefused
    | LateCommit
    | Unlocked
    | UnlockFailed
    | RexPressed
    | DoorOpened
    | DoorClosed
    | ForcedOpen
    | HeldOpen
    | HeldOpenWarning
    | Entered
    | NotEntered
    | RelockFailed
    | Duress
    | PinLockout
    | Passback
    | ModeChanged
    | Forgiven
    | Ordered
    | BreakGlass
    | RemoteUnlock
    | Commanded
    | SealedRefused
    | BeaconsMissing
    | BeaconsBack
    | ClockOff
    | PinOddsLow
    | PinOddsCritical
    | AlarmRestored
    | DeviceUp
    | DeviceDown
    | Tamper
    | TamperRestored
    | PowerFailed
    | PowerRestored
    | InstallWindowOpened
    | InstallWindowClosed
    | OutputForcedOff
    | EntitlementsApplied
    | EntitlementsRefused
    | GatewayStarted
    | GatewayStopped
    | InputFault
    | InputRestored
    | InputIgnored
    | JournalGap
    | JournalRestarted
    | DailySummary
    | HolderErased
    | Checkpoint
    | AckRefused
    | CacheRebuilt
    | MemoryDamaged
    | FindingRaised
    | FindingCleared
)


CODES = tuple(sorted(str(kind.__struct_config__.tag) for kind in get_args(Event)))
"""Every code that there is."""


class JournalledEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it lies in the journal: `stream` and `seq` together are its identity."""

    stream: str
    """Random id of this journal file; a new file is a new stream."""
    seq: int
    """Dense from 1 within the stream."""
    event: Event


def encode(event: Event) -> bytes:
    """The canonical bytes of an event: compact JSON, members in the order of the struct."""
    return msgspec.json.encode(event)


class Parts(NamedTuple):
    """An event's canonical bytes in two: what tells of a person can be erased by itself."""

    public: bytes
    personal: bytes
    """A JSON object of the members in PERSONAL; empty where there is none."""


def split(body: bytes) -> Parts:
    """The two parts of an event's canonical bytes. Raises Undecodable."""
    members = decode_with(_members, body)
    personal = {name: members.pop(name) for name in PERSONAL if name in members}
    if not personal:
        return Parts(body, b"")
    return Parts(msgspec.json.encode(members), msgspec.json.encode(personal))


def join(public: bytes, personal: bytes) -> bytes:
    """The event as it is sent: the personal members, if there are any, behind the others."""
    return public if not personal else b"%b,%b" % (public[:-1], personal[1:])


def decode(body: bytes) -> Event:
    """The event of its canonical bytes. Raises Undecodable."""
    return decode_with(_decoder, body)


PERSONAL = (
    "holder",
    "holders",
    "credential",
    "pin",
    "via",
    "context",
    "grant",
    "member",
    "exception",
)
"""The members of events that tell of a person: by a pseudonym, or by what that person holds."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
