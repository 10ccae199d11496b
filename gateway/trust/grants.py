"""Carried grants as they travel, verified and made (docs/spec/carried-grants.md)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, NamedTuple, cast

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.domain.carried_grant import (
    PREFIX,
    TEXT_CHARACTERS_MAX,
    CarriedGrant,
    Medium,
    Refusal,
    of_proven_value,
)
from gateway.domain.instants import FOREVER
from gateway.errors import GatewayError
from gateway.trust.cose import (
    NotSigned,
    PublicKey,
    decode,
    encode,
    parse1,
    sign1,
    signature_holds,
    signature_input,
)

CONTEXT: Final = b"door-gateway/grant/v1"
MESSAGE_BYTES_MAX: Final = 1024
"""A printed one has at most 338; a phone's may name more doors."""

_SUB, _AUD, _EXP, _NBF, _IAT, _CTI, _CNF, _OPENS = 2, 3, 4, 5, 6, 7, 8, -65537
_CLAIMS = frozenset({_SUB, _AUD, _EXP, _NBF, _IAT, _CTI, _OPENS})
_MEDIA: tuple[Medium, ...] = ("screen", "paper", "device")

AUDIENCES_MAX: Final = 16
PLACES_MAX: Final = 16
USES_MAX: Final = 1000
_EVEN, _ODD = 2, 3  # of a compressed point (SEC 1, section 2.3.3)
_ID_CHARACTERS_MAX = 128
_AUDIENCE_CHARACTERS_MAX = 2 * _ID_CHARACTERS_MAX + 1
_LAST_INSTANT = 253_402_300_799

BACKDATED_S_MAX: Final = 60
"""By so much a grant may begin before it was signed: clocks differ."""
SCREEN_S_MAX: Final = 60
OPEN_PAPER_S_MAX: Final = 24 * 3600
"""Paper that may be used as often as wanted can be copied as often: it lasts a day."""
LIFE_S_MAX: Final = 31 * 24 * 3600

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"
_DIGITS: Mapping[str, int] = {character: place for place, character in enumerate(_ALPHABET)}


class GrantUnfit(GatewayError):
    """A grant can't be made like this. The text says which claim breaks which rule."""


class Claims(NamedTuple):
    """What a grant says, before anybody has looked for whom."""

    grant: CarriedGrant
    audiences: tuple[str, ...]
    key: bytes | None = None
    """The holder key: a compressed point of P-256."""


def verify(
    text: str,
    keys: Mapping[bytes, PublicKey],
    audience: str,
    *,
    believed_until: datetime = FOREVER,
) -> CarriedGrant | Refusal:
    """The grant in a code's text or in a `proven_value`, or why it is not believed.

    `keys` are those of the role `grant`, by kid; `audience` is this gateway's `SITE/GATEWAY`. What
    was issued after `believed_until`, when the key set expired, is not believed.
    """
    try:
        proven, message = (
            (None, from_text(text)) if text.startswith(PREFIX) else of_proven_value(text)
        )
    except ValueError:
        return "grant_malformed"
    return verify_message(message, keys, audience, proven, believed_until=believed_until)


def verify_message(
    message: bytes,
    keys: Mapping[bytes, PublicKey],
    audience: str,
    proven: bytes | None = None,
    *,
    believed_until: datetime = FOREVER,
) -> CarriedGrant | Refusal:
    """The same for the message itself.

    `proven` is the key (a compressed point) that whoever presented it has just proved here.
    """
    try:
        signed = parse1(message, bytes_max=MESSAGE_BYTES_MAX)
    except NotSigned:
        return "grant_malformed"
    key = keys.get(signed.kid)
    if key is None or isinstance(key, EllipticCurvePublicKey):
        return "grant_unknown_key"
    to_be_signed = signature_input(signed.protected, signed.payload, CONTEXT)
    if not signature_holds(key, signed.signature, to_be_signed):
        return "grant_bad_signature"
    try:
        claims = _claims(signed.payload)
    except NotSigned:
        return "grant_malformed"
    if claims.grant.issued >= believed_until:
        return "grant_unknown_key"
    if audience not in claims.audiences:
        return "grant_wrong_audience"
    if claims.key is not None and claims.key != proven:
        return "grant_key_unproven"
    return claims.grant


def read_unverified(text: str) -> Claims | None:
    """What a code's text claims, its signature NOT checked; None where it is no carried grant."""
    try:
        return _claims(parse1(from_text(text), bytes_max=MESSAGE_BYTES_MAX).payload)
    except (ValueError, NotSigned):
        return None


def issue(claims: Claims, key: Ed25519PrivateKey, kid: bytes) -> bytes:
    """The signed message of a grant, in the one form that `verify_message` takes.

    Raises:
        GrantUnfit: the grant breaks a rule of the form.
    """
    payload = _payload(claims)
    try:
        _claims(payload)
    except NotSigned as unfit:
        raise GrantUnfit(f"grant {claims.grant.id}: {unfit}") from unfit
    return sign1(payload, key, kid, context=CONTEXT)


def to_text(message: bytes) -> str:
    """A message as a QR code bears it. Raises GrantUnfit where it is too long for one."""
    text = PREFIX + base45(message)
    if len(text) > TEXT_CHARACTERS_MAX:
        raise GrantUnfit(
            f"{len(text)} characters: a code has at most {TEXT_CHARACTERS_MAX}: name fewer doors"
        )
    return text


def from_text(text: str) -> bytes:
    """The message in a code's text. Raises ValueError."""
    if not text.startswith(PREFIX) or len(text) > TEXT_CHARACTERS_MAX:
        raise ValueError("no text of a carried grant")
    return from_base45(text.removeprefix(PREFIX))


def base45(data: bytes) -> str:
    """RFC 9285, section 4."""
    found = []
    for at in range(0, len(data), 2):
        pair = data[at : at + 2]
        number, count = int.from_bytes(pair, "big"), len(pair) + 1
        for _ in range(count):
            number, digit = divmod(number, 45)
            found.append(_ALPHABET[digit])
    return "".join(found)


def from_base45(text: str) -> bytes:
    """RFC 9285, section 4; each byte string has one text. Raises ValueError."""
    found = bytearray()
    for at in range(0, len(text), 3):
        group = text[at : at + 3]
        if len(group) == 1 or not _DIGITS.keys() >= set(group):
            raise ValueError("no base45")
        number = sum(_DIGITS[character] * 45**place for place, character in enumerate(group))
        try:
            found += number.to_bytes(len(group) - 1, "big")
        except OverflowError:
            raise ValueError("no base45") from None
    return bytes(found)


def point(key: EllipticCurvePublicKey) -> bytes:
    """A holder key as `Claims.key` has it."""
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _payload(claims: Claims) -> bytes:
    grant = claims.grant
    payload: dict[int, object] = {
        _SUB: grant.holder,
        _AUD: sorted(claims.audiences),
        _EXP: _seconds(grant.expires),
        _NBF: _seconds(grant.not_before),
        _IAT: _seconds(grant.issued),
        _CTI: bytes.fromhex(grant.id),
        _OPENS: [_MEDIA.index(grant.medium), sorted(grant.doors), sorted(grant.zones), grant.uses],
    }
    if claims.key is not None:
        payload[_CNF] = {1: {1: 2, -1: 1, -2: claims.key[1:], -3: claims.key[0] == _ODD}}
    return encode(payload)


def _claims(payload: bytes) -> Claims:
    """Raises NotSigned where the payload is not of the form."""
    value = decode(payload, bytes_max=MESSAGE_BYTES_MAX)
    if not isinstance(value, dict) or not _CLAIMS <= value.keys() <= _CLAIMS | {_CNF}:
        raise NotSigned("a claim is missing, or unknown")
    match [value[claim] for claim in (_SUB, _AUD, _EXP, _NBF, _IAT, _CTI, _OPENS)]:
        case [
            str() as sub,
            list() as aud,
            exp,
            nbf,
            iat,
            bytes() as cti,
            [medium, doors, zones, uses],
        ]:
            pass
        case _:
            raise NotSigned("a claim is of another type")
    _need(0 < len(sub) <= _ID_CHARACTERS_MAX, "sub")
    _need(8 <= len(cti) <= 16, "cti")
    audiences = _texts(aud, _AUDIENCE_CHARACTERS_MAX, AUDIENCES_MAX, "aud")
    _need(bool(audiences), "aud: names nobody")
    for name, instant in (("exp", exp), ("nbf", nbf), ("iat", iat)):
        _need(type(instant) is int and 0 <= instant <= _LAST_INSTANT, name)
    _need(type(medium) is int and 0 <= medium < len(_MEDIA), "medium")
    _need(type(uses) is int and 0 <= uses <= USES_MAX, "uses")
    grant = CarriedGrant(
        id=cti.hex(),
        holder=sub,
        medium=_MEDIA[medium],
        doors=_texts(doors, _ID_CHARACTERS_MAX, PLACES_MAX, "doors"),
        zones=_texts(zones, _ID_CHARACTERS_MAX, PLACES_MAX, "zones"),
        issued=datetime.fromtimestamp(iat, UTC),
        not_before=datetime.fromtimestamp(nbf, UTC),
        expires=datetime.fromtimestamp(exp, UTC),
        uses=uses,
    )
    key = _holder_key(value[_CNF]) if _CNF in value else None
    _check(grant, audiences, key, exp=exp, nbf=nbf, iat=iat)
    claims = Claims(grant, audiences, key)
    # In Python 1 is also 1.0 and True, and a key of a map may be either.
    _need(_payload(claims) == payload, "not in its one form")
    return claims


def _check(
    grant: CarriedGrant,
    audiences: Sequence[str],
    key: bytes | None,
    *,
    exp: int,
    nbf: int,
    iat: int,
) -> None:
    _need(bool(grant.doors or grant.zones), "it opens nothing")
    _need(nbf < exp, "nbf is not before exp")
    _need(iat < exp, "iat is not before exp")
    _need(nbf >= iat - BACKDATED_S_MAX, "nbf is too far before iat")
    _need(not grant.uses or len(audiences) == 1, "what is counted is for one gateway")
    _need((key is not None) == (grant.medium == "device"), "cnf: with a device, and only there")
    if grant.medium == "screen":
        _need(grant.uses == 1, "a code on a screen is used once")
        _need(nbf <= iat and exp - iat <= SCREEN_S_MAX, "a code on a screen lasts 60 s")
    elif grant.medium == "paper" and not grant.uses:
        _need(exp - nbf <= OPEN_PAPER_S_MAX, "paper that isn't counted lasts a day")
    else:
        _need(exp - nbf <= LIFE_S_MAX, "it lasts more than 31 days")


def _holder_key(cnf: object) -> bytes:
    match cnf:
        case {1: {-2: bytes() as x, -3: bool() as odd}}:
            found = bytes([_ODD if odd else _EVEN]) + x
        case _:
            raise NotSigned("cnf: no COSE_Key of P-256")
    try:
        EllipticCurvePublicKey.from_encoded_point(SECP256R1(), found)
    except ValueError:
        raise NotSigned("cnf: no point of P-256") from None
    return found


def _texts(value: object, characters_max: int, count_max: int, what: str) -> tuple[str, ...]:
    _need(isinstance(value, list) and len(value) <= count_max, what)
    found = cast("list[object]", value)
    _need(all(isinstance(each, str) and 0 < len(each) <= characters_max for each in found), what)
    texts = tuple(cast("list[str]", found))
    _need(all(one < other for one, other in pairwise(texts)), f"{what}: order")
    return texts


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise NotSigned(f"the claims break the form: {what}")


def _seconds(at: datetime) -> int:
    return int((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1))
