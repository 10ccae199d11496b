"""The cloud's acknowledgement: the only thing that lets an event be forgotten."""

from typing import Annotated

import msgspec

from gateway.decoding import decode_with
from gateway.errors import Undecodable
from gateway.ipc.messages import Stream
from gateway.link.errors import LinkError

ACK_BYTES_MAX = 512
"""An acknowledgement is under 150 bytes; nothing larger is parsed."""


class Ack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cloud has every event of `stream` up to `seq`."""

    stream: Stream
    seq: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


_decoder = msgspec.json.Decoder(Ack)


def open_ack(payload: bytes) -> Ack:
    """The acknowledgement in a message. Raises LinkError where it isn't exactly one."""
    if len(payload) > ACK_BYTES_MAX:
        raise LinkError(f"an acknowledgement of {len(payload)} bytes: {ACK_BYTES_MAX} are allowed")
    try:
        return decode_with(_decoder, payload)
    except Undecodable as malformed:
        raise LinkError(f"not an acknowledgement: {malformed}") from malformed
