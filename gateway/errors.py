"""Every exception this package raises, in one tree.

GatewayError
├── ConfigError            site.toml can't be used: every fault, each with its path in the file
├── RecordsRefused         an entitlement set has faults: each with type, id, member
├── FolderRefused          a folder of CSV files has faults: each with its place (gateway/cloud)
├── RequestError           a decision was asked for in another form than the specification's
├── OrderRefused           an operator's order can't be followed: no such door, zone or time
├── StateDirInUse          another daemon owns the state directory
├── StorageError           a database or state file can't be read or written
│   ├── JournalFull        an event was not kept (gateway/journal/journal.py)
│   ├── DatabaseCorrupt    a database is damaged (gateway/sqlite.py)
│   │   └── JournalBegunAgain  while in use; all is saved in a new file (gateway/journal/journal.py)
│   ├── DatabaseLocked     another process holds it (gateway/sqlite.py)
│   ├── DatabaseTooNew     a later release wrote it, in a form that this one can't read
│   └── Unsealable         a sealed set is damaged or under another key (gateway/cache/sealed.py)
├── Undecodable            bytes from a disk or a peer are not JSON or MessagePack of their form
├── IpcError               the other end of the socket broke the protocol, or is not there
│   └── NotAllowed         the peer's credentials don't give it that right
├── LinkError              the link can't work as it is configured (gateway/link/errors.py)
│   ├── TlsUnusable        a certificate or key is missing, unreadable, expired or of another pair
│   └── BrokerUnavailable  transient: no session with the broker; tried again with backoff
├── NotAdmitted            an envelope is not believed (gateway/trust/admission.py)
│   └── BreaksRule         it breaks a rule of docs/spec/trust.md, which it names (trust/rules.py)
├── NotCbor                bytes are no CBOR in its one form (gateway/trust/cbor.py)
├── NotSigned              a message bears no signature to believe (gateway/trust/cose.py)
│   ├── UnknownKey         it names none of the keys asked for
│   └── BadSignature       it names a key that did not sign it
├── GrantUnfit             a carried grant can't be made as asked for (gateway/trust/grants.py)
├── CommandRefused         a signed command is not followed (gateway/trust/commands.py)
├── JournalWrong           an export of the journal proves wrong (gateway/journal/verify.py)
├── UnreadableFileError    a file named on the command line can't be read (gateway/cli)
└── DeviceError            a device did not do what it was told
    ├── DeviceUnavailable  transient: unplugged, silent, unreachable; the supervisor tries again
    ├── DeviceRefused      it answered no: to ask again at once is no use
    ├── DeviceProtocolError  transient: bytes that no manual explains; carries them
    └── DeviceMisconfigured  permanent: the settings can't be right for this device
"""

from collections.abc import Sequence
from typing import NamedTuple


class GatewayError(Exception):
    """Anything this package raises on purpose. Its text says what, where and what to do."""


class Fault(NamedTuple):
    """One thing wrong in a file that a person wrote: where it stands and what is wrong there."""

    where: str
    """Its path in the file; "-" for the whole file."""
    what: str

    def __str__(self) -> str:
        """The fault in a line, without the file's name."""
        return self.what if self.where == "-" else f"{self.where}: {self.what}"


class ConfigError(GatewayError):
    """site.toml can't be used. `faults` names every one, `where` being its path in the file."""

    def __init__(self, file: str, faults: Sequence[Fault]) -> None:
        self.file = file
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{file}: {fault}" for fault in faults))


class RecordFault(NamedTuple):
    """One fault of an entitlement set (docs/spec/entitlements.md); "-" for what doesn't apply."""

    type: str
    id: str
    member: str
    what: str


class RecordsRefused(GatewayError):
    """A set of records has faults, so it is refused whole. `faults` names every one."""

    def __init__(self, faults: Sequence[RecordFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join("\t".join(fault) for fault in faults))


class RequestError(GatewayError):
    """A decision was asked for in another form than docs/spec/decision.md's."""


class OrderRefused(GatewayError):
    """An operator's order can't be followed: there is no such door, zone or holder, or no time."""


class StateDirInUse(GatewayError):
    """Another daemon owns the state directory."""


class StorageError(GatewayError):
    """A database or state file can't be read or written."""


class Undecodable(GatewayError):
    """Bytes from a disk or a peer can't be decoded. The text never repeats them."""


class IpcError(GatewayError):
    """The other end of the Unix socket broke the protocol, or is not there."""


class NotAllowed(IpcError):
    """The peer's credentials don't give it that right."""


class DeviceError(GatewayError):
    """A device did not do what it was told. The text carries device, point and bytes."""


class DeviceUnavailable(DeviceError):
    """Transient: unplugged, silent or unreachable. The supervisor tries again."""


class DeviceRefused(DeviceError):
    """It answered that it did not do what it was told; asked again, it may go on saying so."""


class DeviceProtocolError(DeviceError):
    """Transient: bytes that the device's manual doesn't explain."""


class DeviceMisconfigured(DeviceError):
    """Permanent: the settings can't be right for this device."""
