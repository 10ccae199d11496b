"""Random damage to an exported journal: none may pass.

`python -m tests.journal.mutations 100000` runs a campaign; docs/journal.md has its ledger.
"""

import base64
import io
import random
import sys
import time
from collections.abc import Mapping
from datetime import timedelta

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.domain import events
from gateway.journal.chain import CHECKPOINT_EVERY, commitment_to, genesis, link
from gateway.journal.verify import (
    Header,
    JournalWrong,
    Line,
    event_line,
    header_line,
    seal_line,
    verify,
)
from gateway.trust.claims import CHECKPOINT, EXPORT, Claim, open_claim, sign_claim
from gateway.trust.cose import PublicKey
from gateway.trust.keys import kid_of
from tests.journal.conftest import EPOCH

KEY = Ed25519PrivateKey.from_private_bytes(b"a gateway's own key in the tests")
STRANGER = Ed25519PrivateKey.from_private_bytes(b"somebody else's key, of no worth")
STREAM = "0123456789abcdef"


class Opens:
    """Believes KEY."""

    def __init__(self) -> None:
        key = KEY.public_key()
        self._keys: Mapping[bytes, PublicKey] = {kid_of(key): key}

    def checkpoint(self, message: bytes) -> Claim:
        return open_claim(message, self._keys, CHECKPOINT)

    def seal(self, message: bytes) -> Claim:
        return open_claim(message, self._keys, EXPORT)


def claim(after: int, anchor: bytes, seq: int, chain: bytes) -> Claim:
    return Claim("LON", "lon-1", STREAM, after, anchor, seq, chain, 0, 2)


def checkpoint_body(seq: int, chain: bytes, key: Ed25519PrivateKey = KEY) -> bytes:
    message = sign_claim(claim(0, bytes(32), seq, chain), key, CHECKPOINT)
    event = events.Checkpoint(at=EPOCH, trust=2, message=base64.b64encode(message).decode())
    return events.encode(event)


def body(seq: int) -> bytes:
    at = EPOCH + timedelta(seconds=seq)
    if seq % 3:
        return events.encode(events.DoorClosed(at=at, trust=2, door=f"door-{seq}"))
    return events.encode(
        events.AccessDecided(
            at=at, trust=2, door="street", side="in", device="r", kinds=("uid",), outcome="grant",
            reason="group", holder=f"h-{seq % 7}", via="LON | MEMBERS | ALL | BH",
        )
    )  # fmt: skip


def exported(count: int, *, after: int = 0, every: int = CHECKPOINT_EVERY) -> list[bytes]:
    """The lines of an export of `count` events behind `after`, with some erased."""
    anchor = chain = genesis(STREAM) if after == 0 else bytes(range(32))
    lines = [header_line(Header(2, "LON", "lon-1", STREAM, after, anchor.hex()))]
    for seq in range(after + 1, after + count + 1):
        is_checkpoint = seq % every == 1 and seq > after + 1
        public, personal = events.split(
            checkpoint_body(seq - 1, chain) if is_checkpoint else body(seq)
        )
        salted = b"%016d" % seq + personal if personal else None
        commitment = commitment_to(salted[:16], personal) if salted else b""
        chain = link(chain, seq, public, commitment)
        gone = salted is not None and seq % 9 == 0
        lines.append(
            event_line(seq, public, None if gone else salted, commitment if gone else None, chain)
        )
    message = sign_claim(claim(after, anchor, after + count, chain), KEY, EXPORT)
    return [*lines, seal_line(message)]


def rehashed(lines: list[bytes], first: int) -> list[bytes]:
    """What somebody can do who knows the format and has no key: renumber and chain it all anew."""
    header = msgspec.json.decode(lines[0], type=Header)
    chain, made = bytes.fromhex(header.anchor), [lines[0]]
    for seq, raw in enumerate(lines[1:-1], header.after + 1):
        line = msgspec.json.decode(raw, type=Line)
        commitment = bytes.fromhex(line.erased)
        salted = None
        if isinstance(line.personal, msgspec.Raw):
            salted = bytes.fromhex(line.salt) + bytes(line.personal)
            commitment = commitment_to(salted[:16], salted[16:])
        public = bytes(line.event)
        if seq >= first and b'"checkpoint"' in public:
            public = checkpoint_body(seq - 1, chain, STRANGER)
        chain = link(chain, seq, public, commitment)
        erased = commitment if line.erased else None
        made.append(event_line(seq, public, salted, erased, chain))
    return [*made, lines[-1]]


def mutated(lines: list[bytes], dice: random.Random) -> tuple[str, list[bytes]]:
    """One kind of damage, and the file after it."""
    kind = dice.choice(("flip", "delete", "swap", "insert", "cut", "forge", "drop", "replant"))
    out = list(lines)
    at = dice.randrange(1, len(lines) - 1)
    if kind == "flip":
        data = bytearray(b"".join(lines))
        bit = dice.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
        out = list(io.BytesIO(data))
    elif kind == "delete":
        del out[at : at + dice.randrange(1, 4)]
    elif kind == "swap":
        other = dice.choice([n for n in range(1, len(lines) - 1) if n != at])
        out[at], out[other] = out[other], out[at]
    elif kind == "insert":
        out.insert(at, dice.choice(lines[1:]))
    elif kind == "cut":
        out = out[: dice.randrange(0, len(lines))]
        if dice.random() < 0.5:
            out.append(lines[-1])
        if out == lines:
            out.pop()
    elif kind == "forge":
        line = msgspec.json.decode(out[at], type=Line)
        event = bytes(line.event).replace(b'"trust":2', b'"trust":3')
        out[at] = out[at].replace(bytes(line.event), event)
        out = rehashed(out, at)
    elif kind == "drop":
        del out[at]
        out = rehashed(out, at)
    else:
        out.insert(at, dice.choice(lines[1:-1]))
        out = rehashed(out, at)
    return kind, out


def found(lines: list[bytes], opens: Opens) -> JournalWrong | None:
    """What the verifier says."""
    try:
        verify(lines, opens)
    except JournalWrong as wrong:
        return wrong
    return None


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    dice, opens, missed = random.Random(seed), Opens(), []
    kinds: dict[str, int] = {}
    begun = time.monotonic()
    base = exported(48, every=16)
    for number in range(count):
        kind, lines = mutated(base, dice)
        kinds[kind] = kinds.get(kind, 0) + 1
        if found(lines, opens) is None:
            missed.append((number, kind))
    spent = time.monotonic() - begun
    print(f"seed {seed}: {count:,} mutations, {len(missed)} missed, {spent:.0f} s: {kinds}")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
