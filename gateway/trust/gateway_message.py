"""Messages that a gateway signs by its own key: results of commands, parity reports."""

from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.trust.cose import NotSigned, PublicKey, decode, parse1, verify1
from gateway.trust.keys import kid_of

_T = TypeVar("_T")


def open_message(
    message: bytes,
    key: Ed25519PublicKey | None,
    kind: type[_T],
    *,
    what: str,
    context: bytes,
    bytes_max: int,
    items_max: int,
) -> _T:
    """Return the payload of a message that this gateway's key signed for `context`.

    Without a key the signature is not checked. `what` names the message in an error.

    Raises:
        NotSigned: the message is too long, malformed, not of this key, or not of this kind.
    """
    if key is None:
        payload = parse1(message, bytes_max=bytes_max).payload
    else:
        keys: dict[bytes, PublicKey] = {kid_of(key): key}
        payload = verify1(message, keys, context=context, bytes_max=bytes_max).payload
    body = decode(payload, bytes_max=bytes_max, items_max=items_max)
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as malformed:
        raise NotSigned(f"no {what}: {malformed}") from malformed
