"""The journal as evidence: exported, verified by anybody, erased of one holder."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from gateway.cli import EXIT_NO, EXIT_OK
from gateway.cli.common import counted, load_config, print_json, socket_of
from gateway.cli.output import say
from gateway.decoding import decode_json
from gateway.domain import events
from gateway.errors import GatewayError, IpcError, Undecodable
from gateway.ipc.client import CoreClient, connect
from gateway.ipc.messages import Erased
from gateway.journal.verify import (
    LINE_BYTES_MAX,
    Header,
    JournalWrong,
    event_line,
    header_line,
    seal_line,
    unpacked,
    verify,
)
from gateway.trust.claims import CHECKPOINT, EXPORT, Claim, open_claim
from gateway.trust.cose import PublicKey
from gateway.trust.keys import KEY_FILE_BYTES_MAX, kid_of

_BATCH = 500


def export(options: argparse.Namespace) -> int:
    """The whole journal with its proofs, or all that it tells of one holder, into a file."""
    target: Path = options.file
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise GatewayError(f"{target}: can't be made: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        try:
            socket = socket_of(load_config(options))
            count = asyncio.run(_export(socket, options.holder, file.write))
        except BaseException:
            target.unlink()
            raise
    say(f"{target}: {count:,} events")
    return EXIT_OK


def check(options: argparse.Namespace) -> int:
    """Verify an export with the gateway's public key alone."""
    keys = _public_key(options.key)
    opens = _Opens(keys)
    try:
        with options.file.open("rb") as file:
            lines = iter(lambda: file.readline(LINE_BYTES_MAX + 1), b"")
            outside = _outside(options.checkpoints, opens) if options.checkpoints else {}
            first = next(lines, b"")
            stream = _stream_of(first)
            known = outside.get(stream, {})
            found = verify(_again(first, lines), opens, known)
    except OSError as error:
        raise GatewayError(f"{error.filename}: can't be read: {error.strerror}") from error
    except JournalWrong as wrong:
        if options.json:
            print_json({"sound": False, "seq": wrong.seq, "how": wrong.how, "why": str(wrong)})
        else:
            say(wrong)
        return EXIT_NO
    if options.checkpoints and not known:
        raise GatewayError(
            f"{options.checkpoints}: has no checkpoint of stream {stream}: the export is sound in"
            " itself, and was held against nothing that was kept elsewhere"
        )
    if options.json:
        print_json({"sound": True, **found._asdict(), "kept_elsewhere": len(known)})
    else:
        erased = f", {found.erased:,} of them with erased parts" if found.erased else ""
        say(
            f"sound: events {found.first:,} to {found.last:,} of stream {found.stream}{erased}; "
            f"{found.checkpoints:,} checkpoints and the seal are by this key"
            + (f"; {len(known):,} kept elsewhere agree" if known else "")
        )
    return EXIT_OK


def erase(options: argparse.Namespace) -> int:
    """Delete what the journal tells of a holder; exit 1 where that is nothing, or not all."""
    erased = asyncio.run(_erase(options))
    done = bool(erased.events) and not erased.kept and not erased.set_aside
    if options.json:
        print_json(erased)
        return EXIT_OK if done else EXIT_NO
    if erased.events or erased.kept:
        say(f"erased in {counted(erased.events, 'event')}")
    else:
        say(f"nothing erased: no event here names {options.holder}. Check the id in the records")
    if erased.kept:
        say(
            f"not erased in {counted(erased.kept, 'event')}: the cloud has not acknowledged them. "
            "Erase again when `door-gateway status` shows 0 to be delivered. A site without a "
            'cloud needs [journal] keep = "local" in site.toml'
        )
    for name in erased.set_aside:
        say(f"{name}: a damaged journal set aside: may tell of the holder, delete it by hand")
    return EXIT_OK if done else EXIT_NO


def public_key(options: argparse.Namespace) -> int:
    """Print the gateway's public key, for whoever is to verify its journal."""
    socket = socket_of(load_config(options))

    async def ask() -> str | None:
        async with connect(socket, role="journal") as core:
            return (await core.status()).public_key

    found = asyncio.run(ask())
    if found is None:
        raise GatewayError("the gateway has no key of its own: see the core's log")
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(found))
    sys.stdout.write(
        key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")
    )
    return EXIT_OK


Write = Callable[[bytes], object]


async def _export(socket: Path, holder: str | None, write: Write) -> int:
    async with connect(socket, role="journal") as core:
        return await (_all(core, write) if holder is None else _of_holder(core, holder, write))


async def _all(core: CoreClient, write: Write) -> int:
    head = await core.export_head()
    header = Header(2, head.site, head.gateway, head.stream, head.after, head.anchor.hex())
    write(header_line(header))
    at = head.after
    while at < head.last:
        rows = await core.proof(at)
        if not rows or rows[0].seq != at + 1:
            raise IpcError("events were deleted while they were exported: export again")
        for row in rows:
            if row.seq <= head.last:
                write(event_line(*row))
                at = row.seq
    message = await core.seal(head.after, at)
    write(seal_line(message))
    return at - head.after


async def _of_holder(core: CoreClient, holder: str, write: Write) -> int:
    """Every event that names them, as it is: what a person may ask for."""
    named = re.compile(rb'(?<=["/])' + re.escape(msgspec.json.encode(holder)[1:-1]) + rb'(?=["/])')
    after = count = 0
    while (batch := await core.fetch(after, limit=_BATCH)).bodies:
        for seq, body in enumerate(batch.bodies, batch.first_seq):
            after = seq
            if named.search(events.split(body).personal):
                line = {"stream": batch.stream, "seq": seq, "event": msgspec.Raw(body)}
                write(msgspec.json.encode(line) + b"\n")
                count += 1
    return count


async def _erase(options: argparse.Namespace) -> Erased:
    async with connect(socket_of(load_config(options)), role="journal", claimed=options.by) as core:
        return await core.erase(options.holder, options.reason)


class _Opens:
    def __init__(self, keys: Mapping[bytes, PublicKey]) -> None:
        self._keys = keys

    def checkpoint(self, message: bytes) -> Claim:
        return open_claim(message, self._keys, CHECKPOINT)

    def seal(self, message: bytes) -> Claim:
        return open_claim(message, self._keys, EXPORT)


def _public_key(path: Path) -> dict[bytes, PublicKey]:
    try:
        with path.open("rb") as file:
            key = load_pem_public_key(file.read(KEY_FILE_BYTES_MAX))
    except OSError as error:
        raise GatewayError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise GatewayError(f"{path}: no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise GatewayError(f"{path}: no Ed25519 key: `door-gateway journal key` prints it")
    return {kid_of(key): key}


class _Kept(msgspec.Struct):
    event: events.Checkpoint


def _outside(path: Path, opens: _Opens) -> dict[str, dict[int, bytes]]:
    """Chain values by stream and number, of checkpoint events in `journal tail --json`'s form."""
    found: dict[str, dict[int, bytes]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), 1):
            try:
                kept = decode_json(line, _Kept)
            except Undecodable:
                continue  # another event
            try:
                claim = opens.checkpoint(unpacked(kept.event.message))
            except GatewayError as error:
                raise GatewayError(f"{path}: line {number}: {error}") from error
            found.setdefault(claim.stream, {})[claim.seq] = claim.chain
    return found


def _stream_of(line: bytes) -> str:
    try:
        return decode_json(line, Header).stream
    except Undecodable:
        return ""  # the verifier says what is wrong with it


def _again(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
