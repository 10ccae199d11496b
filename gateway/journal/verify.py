"""An exported journal, held against the chain and the gateway's signatures by anybody.

The file is JSON Lines: a header, every event with what its hash is computed from, and a seal that
the gateway signed when it made the export. Each line has one form, so every byte of it counts.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from gateway.decoding import decode_json
from gateway.errors import GatewayError, Undecodable
from gateway.journal.chain import SALT_BYTES, commitment_to, genesis, link

LINE_BYTES_MAX = 64 * 1024
"""An event has some hundred bytes, and a few thousand with all that its decision looked at."""


class JournalWrong(GatewayError):
    """An exported journal is not what the gateway wrote. `seq` is the first event that is wrong."""

    def __init__(self, seq: int, how: str, why: str) -> None:
        self.seq = seq
        self.how = how
        """`changed`, `missing`, `reordered`, `inserted` or `cut`."""
        super().__init__(f"event {seq}: {how}: {why}")


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line: whose journal, and what its first event is chained to."""

    journal: int
    site: str
    gateway: str
    stream: str
    after: int
    anchor: str


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An event. `erased` is the commitment to a personal part that was erased; hashes are hex."""

    seq: int
    event: msgspec.Raw
    chain: str
    personal: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    salt: str = ""
    erased: str = ""


class Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last line: a COSE_Sign1 in base64."""

    seal: str


class Claimed(Protocol):
    """What a signature says of a journal: `gateway.trust.claims.Claim`."""

    @property
    def site(self) -> str: ...  # noqa: D102
    @property
    def gateway(self) -> str: ...  # noqa: D102
    @property
    def stream(self) -> str: ...  # noqa: D102
    @property
    def after(self) -> int: ...  # noqa: D102
    @property
    def anchor(self) -> bytes: ...  # noqa: D102
    @property
    def seq(self) -> int: ...  # noqa: D102
    @property
    def chain(self) -> bytes: ...  # noqa: D102


class Opens(Protocol):
    """Checks a signature. Raises GatewayError where it isn't the gateway's."""

    def checkpoint(self, message: bytes) -> Claimed:
        """A checkpoint."""

    def seal(self, message: bytes) -> Claimed:
        """The seal of an export."""


class Verified(NamedTuple):
    """What is proved."""

    stream: str
    first: int
    last: int
    checkpoints: int
    erased: int


def header_line(header: Header) -> bytes:
    """The first line."""
    return msgspec.json.encode(header) + b"\n"


def event_line(
    seq: int, public: bytes, personal: bytes | None, erased: bytes | None, chain: bytes
) -> bytes:
    """One event; `personal` with its salt before it."""
    salted = personal or b""
    line = Line(
        seq,
        msgspec.Raw(public),
        chain.hex(),
        personal=msgspec.Raw(salted[SALT_BYTES:]) if personal else msgspec.UNSET,
        salt=salted[:SALT_BYTES].hex(),
        erased=(erased or b"").hex(),
    )
    return msgspec.json.encode(line) + b"\n"


def seal_line(message: bytes) -> bytes:
    """The last line."""
    return msgspec.json.encode(Seal(base64.b64encode(message).decode("ascii"))) + b"\n"


def unpacked(message: str) -> bytes:
    """What base64 stands for. Raises GatewayError where it isn't in its one form."""
    try:
        found = base64.b64decode(message, validate=True)
    except ValueError as error:
        raise GatewayError(f"no base64: {error}") from error
    if base64.b64encode(found).decode("ascii") != message:
        raise GatewayError("base64, but not in its one form")
    return found


def verify(
    lines: Iterable[bytes], opens: Opens, outside: Mapping[int, bytes] | None = None
) -> Verified:
    """Check a whole export, in one pass and with flat memory.

    `outside` are chain values by number from checkpoints of this stream that somebody else kept,
    such as the cloud, their signatures checked already: they show what was cut off before the
    export was made anew.

    Raises:
        JournalWrong: at the first event that is wrong.
    """
    return _Verifier(iter(lines), opens, outside or {}).run()


class _Verifier:
    def __init__(self, lines: Iterator[bytes], opens: Opens, outside: Mapping[int, bytes]) -> None:
        self._lines = lines
        self._opens = opens
        self._outside = outside
        self._vouched = 0
        """The last event that a signature covers."""
        self._checkpoints = 0
        self._erased = 0

    def run(self) -> Verified:
        header = self._header()
        stream, first = header.stream, header.after + 1
        anchor = chain = bytes.fromhex(header.anchor)
        self._vouched = seq = header.after
        for raw in self._lines:
            if raw.startswith(b'{"seal"'):
                self._check_seal(raw, header, seq, chain, anchor)
                return Verified(stream, first, seq, self._checkpoints, self._erased)
            seq += 1
            line = _line(raw)
            if line is None:
                raise JournalWrong(seq, "changed", "its line is not as the gateway writes it")
            found = _hash(line, chain, seq)
            if line.seq != seq:
                raise self._misplaced(line, seq, was_here=found.hex() == line.chain)
            if found.hex() != line.chain:
                raise self._unlike(seq, chain)
            if b'"code":"checkpoint"' in bytes(line.event):
                self._check_checkpoint(line, stream, seq, chain)
            chain = found
            if self._outside.get(seq, chain) != chain:
                raise self._unsigned(seq, "a checkpoint that was kept elsewhere")
            self._erased += bool(line.erased)
        raise JournalWrong(seq + 1, "cut", "the file ends without the gateway's seal")

    def _header(self) -> Header:
        raw = next(self._lines, b"")
        header = _decoded(raw, Header)
        if header is None or header.journal != 2 or header.after < 0:
            raise JournalWrong(0, "changed", "the first line is no header of an exported journal")
        if len(header.anchor) != 64 or not _is_hex(header.anchor):
            raise JournalWrong(0, "changed", "the header's anchor is no hash")
        if header.after == 0 and header.anchor != genesis(header.stream).hex():
            raise JournalWrong(0, "changed", "the header's anchor is not that of the stream")
        return header

    def _check_checkpoint(self, line: Line, stream: str, seq: int, chain: bytes) -> None:
        message = _message_of(line)
        if message is None:
            return  # an event whose text says so and that is none
        try:
            claim = self._opens.checkpoint(unpacked(message))
        except GatewayError as error:
            raise self._unsigned(seq, f"the checkpoint there ({error})") from error
        if (claim.stream, claim.seq, claim.chain) != (stream, seq - 1, chain):
            raise self._unsigned(seq - 1, "the checkpoint there")
        self._vouched = seq - 1
        self._checkpoints += 1

    def _check_seal(
        self, raw: bytes, header: Header, seq: int, chain: bytes, anchor: bytes
    ) -> None:
        seal = _decoded(raw, Seal)
        if seal is None:
            raise JournalWrong(seq + 1, "changed", "the seal's line is not as the gateway wrote it")
        try:
            claim = self._opens.seal(unpacked(seal.seal))
        except GatewayError as error:
            raise self._unsigned(seq, f"the seal ({error})") from error
        if (claim.site, claim.gateway) != (header.site, header.gateway):
            raise JournalWrong(0, "changed", f"the seal is of {claim.site} {claim.gateway}")
        if claim.stream != header.stream or (claim.after, claim.anchor) != (header.after, anchor):
            raise JournalWrong(header.after + 1, "cut", "the seal begins at another event")
        if claim.seq > seq:
            raise JournalWrong(seq + 1, "missing", f"the seal covers events to {claim.seq}")
        if claim.seq < seq:
            raise JournalWrong(claim.seq + 1, "inserted", f"the seal ends at event {claim.seq}")
        if claim.chain != chain:
            raise self._unsigned(seq, "the seal")
        beyond = max(self._outside, default=0)
        if beyond > seq:
            why = f"a checkpoint that was kept elsewhere covers events to {beyond}"
            raise JournalWrong(seq + 1, "cut", why)
        if next(self._lines, None) is not None:
            raise JournalWrong(seq + 1, "inserted", "there is more behind the seal")

    def _misplaced(self, line: Line, seq: int, *, was_here: bool) -> JournalWrong:
        if was_here:
            return JournalWrong(seq, "changed", f"its number, to {line.seq}")
        if line.seq < seq:
            return JournalWrong(seq, "inserted", f"there is another event {line.seq} in its place")
        later = {each.seq for raw in self._lines if (each := _line(raw)) is not None}
        if seq in later:
            return JournalWrong(seq, "reordered", f"event {line.seq} stands in its place")
        return JournalWrong(seq, "missing", f"event {line.seq} follows event {seq - 1}")

    def _unlike(self, seq: int, chain: bytes) -> JournalWrong:
        following = _line(next(self._lines, b""))
        if following is not None and following.seq == seq:
            whole = _hash(following, chain, seq).hex() == following.chain
            if whole:
                return JournalWrong(seq, "inserted", "there are two, and this is not the true one")
        return JournalWrong(seq, "changed", "its hash is not that of what it says")

    def _unsigned(self, upto: int, by: str) -> JournalWrong:
        return JournalWrong(
            self._vouched + 1, "changed", f"it or one up to {upto} is not what {by} was made for"
        )


def _line(raw: bytes) -> Line | None:
    """An event's line; None where it is anything else, or not in its one form."""
    line = _decoded(raw, Line)
    if line is None or line.seq < 1 or not all(map(_is_hex, (line.chain, line.salt, line.erased))):
        return None
    personal = line.personal is not msgspec.UNSET
    sizes = (len(line.chain), len(line.salt), len(line.erased))
    return line if sizes == (64, 32 if personal else 0, sizes[2] and 64 - 64 * personal) else None


def _hash(line: Line, chain: bytes, seq: int) -> bytes:
    commitment = bytes.fromhex(line.erased)
    if isinstance(line.personal, msgspec.Raw):
        commitment = commitment_to(bytes.fromhex(line.salt), bytes(line.personal))
    return link(chain, seq, bytes(line.event), commitment)


def _message_of(line: Line) -> str | None:
    try:
        event = decode_json(bytes(line.event), _Checkpoint)
    except Undecodable:
        return None
    return event.message if event.code == "checkpoint" else None


class _Checkpoint(msgspec.Struct):
    code: str
    message: str


def _is_hex(text: str) -> bool:
    return not text.strip("0123456789abcdef")


_T = TypeVar("_T")


def _decoded(raw: bytes, kind: type[_T]) -> _T | None:
    if len(raw) > LINE_BYTES_MAX:
        return None
    try:
        found = decode_json(raw, kind)
    except Undecodable:
        return None
    return found if msgspec.json.encode(found) + b"\n" == raw else None
