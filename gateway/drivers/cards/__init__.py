"""What cards and phones answer to prove who they are: conversations without any reader.

A conversation yields a command APDU (ISO/IEC 7816-4), is sent the card's whole answer, and returns
what was proven. The reader's worker, a process that must start at once, loads this package alone:
it imports nothing of the gateway.
"""

from collections.abc import Generator
from typing import Final, NamedTuple, Protocol


class Proven(NamedTuple):
    """A credential that proved itself, as docs/spec/entitlements.md writes it."""

    kind: str
    value: str
    counter: int | None = None
    """Where each proof counts one on: good for one opening."""

    def __repr__(self) -> str:
        """Without the value: a credential is never printed."""
        return f"Proven(kind={self.kind!r})"


class GrantProof(NamedTuple):
    """What a phone shows to have a grant that it carries believed. Nothing of it is proven yet."""

    nonce: bytes
    key: bytes
    """The holder key that it says it has: an uncompressed point."""
    signature: bytes
    grant: bytes
    """The signed message (docs/spec/carried-grants.md)."""

    def __repr__(self) -> str:
        """Without anything that could be shown again."""
        return "GrantProof()"


class NotThisCard(Exception):
    """The card has no such application: another technology may be tried."""


class ProofRefused(Exception):
    """The card has the application and didn't prove itself: nothing weaker is tried.

    `why` is one of the reasons that an event may give, in a word.
    """

    def __init__(self, kind: str, why: str) -> None:
        self.kind = kind
        self.why = why
        super().__init__(f"{kind}: {why}")


Conversation = Generator[bytes, bytes, Proven]
GrantConversation = Generator[bytes, bytes, GrantProof]


class Technology(Protocol):
    """One way for a card to prove itself."""

    def read(self, uid: bytes) -> Conversation | GrantConversation:
        """Talk to the card whose UID, as the anticollision found it, is `uid`.

        Raises:
            NotThisCard: It has no such application.
            ProofRefused: It has, and the proof is none.
            TimeoutError: As it was thrown in, where an answer came when the time was over.
        """


SUCCESS: Final = 0x9000
MORE: Final = 0x61
"""SW1 of ISO/IEC 7816-4, 5.1.3: SW2 more bytes are to be fetched."""

ANSWER_BYTES_MAX: Final = 4096
"""An access document with its certificates has 1 to 2 KiB; what sends more is no card of ours."""


def parted(answer: bytes) -> tuple[bytes, int]:
    """The data and the status word of an answer; 0 stands for an answer that has none."""
    if len(answer) < 2:
        return b"", 0
    return answer[:-2], int.from_bytes(answer[-2:], "big")


def whole(command: bytes, kind: str) -> Generator[bytes, bytes, tuple[bytes, int]]:
    """Send `command`; the whole answer, fetched with GET RESPONSE (ISO/IEC 7816-4, 11.7)."""
    data, status = parted((yield command))
    while status >> 8 == MORE:
        more, status = parted((yield bytes((0x00, 0xC0, 0x00, 0x00, status & 0xFF))))
        data += more
        if len(data) > ANSWER_BYTES_MAX or not more:
            raise ProofRefused(kind, "malformed")
    return data, status
