"""Commands of the source of truth: CWTs that are good for seconds and once (docs/spec/trust.md)."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple, get_args

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.domain.events import Told
from gateway.errors import GatewayError
from gateway.trust.cose import NotSigned, decode, encode, sign1
from gateway.trust.gateway_message import open_message
from gateway.trust.keys import kid_of
from gateway.trust.root import KeySet, Now
from gateway.trust.rules import BreaksRule, Rule

CONTEXT: Final = b"door-gateway/command/v1"
RESULT_CONTEXT: Final = b"door-gateway/result/v1"

COMMAND_BYTES_MAX = 2048
"""About 250 bytes; with every text as long as it may be 1,700."""
_RESULT_ITEMS_MAX = 8192
"""The lines of a log, of which 48 KiB are sent."""
RESULT_BYTES_MAX = 64 * 1024
"""The answer to `logs`; every other has under 200."""

CTI_BYTES = 16
ID_CHARACTERS_MAX = 128
WHY_CHARACTERS_MAX = 200
LOG_MINUTES_MAX = 24 * 60
MODE_MAX = timedelta(hours=24)
"""As long as a mode by hand lasts at most, whoever sets it."""

OPENING_LIFE: Final = timedelta(seconds=30)
OTHER_LIFE: Final = timedelta(minutes=10)
NOT_YET_AFTER: Final = timedelta(seconds=60)

_AUD, _EXP, _IAT, _CTI = 3, 4, 6, 7
_COMMON = frozenset({_AUD, _EXP, _IAT, _CTI, "act", "by", "why"})
_LAST_INSTANT = 253_402_300_799

Act = Literal[
    "unlock", "mode", "lockdown", "evacuation", "release", "forgive", "identify", "logs", "refresh"
]
Mode = Literal["controlled", "unlocked", "blocked"]
Scope = Literal["site", "zone", "door"]
Why = str
"""One of docs/spec/trust.md's reasons, or what the door said."""

_OPENING_ACTS = frozenset({"unlock", "evacuation", "release"})
_SCOPED = frozenset({"lockdown", "evacuation", "release"})


class Command(NamedTuple):
    """A command, as its signer gave it."""

    cti: bytes
    audience: str
    issued: datetime
    expires: datetime
    act: Act
    by: str
    why: str
    scope: Scope = "site"
    """Of `lockdown`, `evacuation` and `release`."""
    target: str = ""
    """The door, zone or holder; empty for the site."""
    target_kind: Literal["", "door", "zone", "holder"] = ""
    mode: Mode | None = None
    until: datetime | None = None
    of: Literal["lockdown", "evacuation"] | None = None
    minutes: int | None = None
    as_holder: str | None = None
    """Of `unlock`: the holder who asks, and whose rights decide. None: an operator's order."""

    @property
    def opens(self) -> bool:
        """Whether it lets somebody through who would not get through without it."""
        return self.act in _OPENING_ACTS or self.mode == "unlocked"

    @property
    def needs_clock(self) -> bool:
        """Whether nothing comes of it without a trusted clock. A mode has an instant of its end."""
        return self.opens or self.act == "mode"

    @property
    def life_max(self) -> timedelta:
        """How long it may be good for."""
        return OPENING_LIFE if self.opens else OTHER_LIFE


class CommandRefused(GatewayError):
    """A command is not carried out, for `reason`. `command` is what it says, where that is known
    and signed.
    """

    def __init__(self, reason: str, command: Command | None = None) -> None:
        self.reason = reason
        self.command = command
        super().__init__(f"command refused: {reason}")


def open_command(
    message: bytes,
    keys: KeySet,
    audience: str,
    at: Now,
    *,
    is_spent: Callable[[bytes], bool],
    retained: bool,
) -> Command:
    """The command in a message, if it may be carried out as far as it alone can tell.

    Raises:
        CommandRefused: the first rule that it breaks, in the order of the specification.
    """
    try:
        if len(message) > COMMAND_BYTES_MAX:
            raise CommandRefused("malformed")
        payload = keys.opened(message, "command", CONTEXT)
    except BreaksRule as broken:
        too_large = broken.rule is Rule.TOO_LARGE
        raise CommandRefused("malformed" if too_large else broken.rule.value) from broken
    try:
        command = _parsed(payload)
    except NotSigned as malformed:
        raise CommandRefused("malformed") from malformed
    checks: tuple[tuple[str, bool], ...] = (
        ("root_expired", keys.is_expired(at)),
        ("wrong_audience", command.audience != audience),
        ("expired", at.at >= command.expires),
        ("not_yet", at.trusted and command.issued > at.at + NOT_YET_AFTER),
        ("too_long", command.expires - command.issued > command.life_max),
        ("replayed", is_spent(command.cti)),
        ("retained", retained),
    )
    for reason, broken_here in checks:
        if broken_here:
            raise CommandRefused(reason, command)
    return command


def seal_command(command: Command, key: Ed25519PrivateKey) -> bytes:
    """A command, signed. Raises CommandRefused (`malformed`) where it has another form."""
    payload = _payload(command)
    try:
        _parsed(payload)
    except NotSigned as malformed:
        raise CommandRefused("malformed", command) from malformed
    return sign1(payload, key, kid_of(key.public_key()), context=CONTEXT)


class MemberText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a holder who asked is told of a denial (`gateway.domain.member_text`)."""

    key: str
    at: int | None = None
    """From when on it would be different: seconds since 1970."""
    early_min: int | None = None

    @classmethod
    def of(cls, told: Told) -> "MemberText":
        """The same, as a result has it."""
        return cls(told.key, None if told.at is None else int(told.at.timestamp()), told.early_min)


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of a command."""

    cti: bytes | None
    """None where none could be read from what was signed."""
    outcome: Literal["done", "refused"]
    reason: Why | None
    at_ms: int
    took_ms: int
    seq: int | None = None
    lines: tuple[str, ...] | None = None
    """The answer to `logs`, the newest last."""
    member: MemberText | None = None
    """Of a denial to a holder who asked."""


def seal_result(result: Result, key: Ed25519PrivateKey) -> bytes:
    """A result, signed by the gateway."""
    found = msgspec.structs.asdict(result)
    for name in ("lines", "member"):
        if found[name] is None:
            del found[name]
    if result.member is not None:
        found["member"] = msgspec.structs.asdict(result.member)
    return sign1(encode(found), key, kid_of(key.public_key()), context=RESULT_CONTEXT)


def open_result(message: bytes, key: Ed25519PublicKey | None) -> Result:
    """The result in a message, signed by this gateway's key; not checked where there is none.

    Raises:
        NotSigned: it isn't one.
    """
    return open_message(
        message,
        key,
        Result,
        what="result",
        context=RESULT_CONTEXT,
        bytes_max=RESULT_BYTES_MAX,
        items_max=_RESULT_ITEMS_MAX,
    )


def _payload(command: Command) -> bytes:
    payload: dict[object, object] = {
        _AUD: command.audience,
        _EXP: _seconds(command.expires),
        _IAT: _seconds(command.issued),
        _CTI: command.cti,
        "act": command.act,
        "by": command.by,
        "why": command.why,
    }
    if command.act in _SCOPED:
        payload[command.scope] = True if command.scope == "site" else command.target
    elif command.target_kind:
        payload[command.target_kind] = command.target
    if command.as_holder is not None:
        payload["holder"] = command.as_holder
    if command.mode is not None:
        payload["mode"] = command.mode
    if command.until is not None:
        payload["until"] = _seconds(command.until)
    if command.of is not None:
        payload["of"] = command.of
    if command.minutes is not None:
        payload["minutes"] = command.minutes
    return encode(payload)


def _parsed(payload: bytes) -> Command:
    """Raises NotSigned where the payload is not of the form."""
    claims = decode(payload, bytes_max=COMMAND_BYTES_MAX)
    if not isinstance(claims, dict) or not claims.keys() >= _COMMON:
        raise NotSigned("a claim is missing")
    act = claims["act"]
    _need(act in get_args(Act), "act")
    own = {key: value for key, value in claims.items() if key not in _COMMON}
    command = Command(
        cti=_bytes(claims[_CTI]),
        audience=_text(claims[_AUD], 2 * ID_CHARACTERS_MAX + 1),
        issued=_instant(claims[_IAT]),
        expires=_instant(claims[_EXP]),
        act=act,
        by=_text(claims["by"], ID_CHARACTERS_MAX),
        why=_text(claims["why"], WHY_CHARACTERS_MAX),
    )
    _need(command.issued < command.expires, "iat is not before exp")
    command = _with_own(command, own)
    # In Python 1 is also 1.0 and True, and a key of a map may be either.
    _need(_payload(command) == payload, "not in its one form")
    return command


def _with_own(command: Command, own: Mapping[object, object]) -> Command:
    """The command with the keys that its act has besides those of all."""
    act, keys = command.act, set(own)
    if act == "unlock" and "holder" in own:
        _need(keys == {"door", "holder"}, act)
        holder = _text(own["holder"], ID_CHARACTERS_MAX)
        return _to(command, "door", own)._replace(as_holder=holder)
    if act in ("unlock", "identify"):
        _need(keys == {"door"}, act)
        return _to(command, "door", own)
    if act == "mode":
        _need(keys == {"door", "mode", "until"}, act)
        mode = own["mode"]
        _need(mode in get_args(Mode), "mode")
        until = _instant(own["until"])
        return _to(command, "door", own)._replace(mode=mode, until=until)  # type: ignore[arg-type]
    if act in _SCOPED:
        of = own.get("of")
        _need((act == "release") == (of is not None), "of")
        _need(of in (None, "lockdown", "evacuation"), "of")
        command = command._replace(of=of)  # type: ignore[arg-type]
        if keys - {"of"} == {"site"}:
            _need(own["site"] is True, "site")
            return command
        for scope in ("door", "zone"):
            if keys - {"of"} == {scope}:
                return _to(command, scope, own)._replace(scope=scope)
        raise NotSigned(f"{act}: names not one of door, zone and site")
    if act == "forgive":
        _need(keys in ({"holder"}, {"zone"}), act)
        return _to(command, "holder" if "holder" in own else "zone", own)
    if act == "logs":
        minutes = own.get("minutes")
        good = type(minutes) is int and 1 <= minutes <= LOG_MINUTES_MAX
        _need(keys == {"minutes"} and good, act)
        return command._replace(minutes=minutes)  # type: ignore[arg-type]
    _need(not keys, act)
    return command


def _to(
    command: Command, kind: Literal["door", "zone", "holder"], own: Mapping[object, object]
) -> Command:
    return command._replace(target=_text(own[kind], ID_CHARACTERS_MAX), target_kind=kind)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != CTI_BYTES:
        raise NotSigned("cti")
    return value


def _text(value: object, characters_max: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= characters_max:
        raise NotSigned("a text is missing or too long")
    return value


def _instant(value: object) -> datetime:
    if type(value) is not int or not 0 <= value <= _LAST_INSTANT:
        raise NotSigned("no instant")
    return datetime.fromtimestamp(value, UTC)


def _seconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise NotSigned(f"the claims break the form: {what}")
