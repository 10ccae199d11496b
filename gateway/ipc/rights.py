"""Who may do what on the socket, by the kernel's word on who the peer is."""

import os
import select
import socket
import struct
from enum import Enum
from typing import Literal, NamedTuple

from gateway.ipc.ancestry import descends_from, is_own
from gateway.ipc.messages import (
    Acknowledge,
    Cancel,
    Deliver,
    Fetch,
    FetchUrgent,
    Hello,
    ReportAck,
    RequestBody,
    SessionSaid,
    StatusWanted,
    WatchDoors,
    WatchOutbox,
)

_ROOT_UID = 0
_NOBODY = 65534
"""What the kernel calls every uid and gid that a user namespace doesn't map (user_namespaces(7)):
`PrivateUsers=yes` maps root and the service's own user and group, and nobody else."""
_SO_PEERPIDFD = 77
"""asm-generic/socket.h, Linux 6.5; its value is the same on x86-64 and on ARM."""
_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class Rights(Enum):
    """What a peer may ask for."""

    ALL = "all"
    LINK = "link"

    @property
    def name_on_wire(self) -> Literal["all", "link"]:
        """As `Welcome.rights` has it."""
        return self.value

    def allows(self, request: RequestBody) -> bool:
        """Whether the peer may ask for this."""
        return self is Rights.ALL or isinstance(request, _OF_LINK)


_OF_LINK = (
    Hello,
    Cancel,
    Fetch,
    FetchUrgent,
    ReportAck,
    Acknowledge,
    Deliver,
    SessionSaid,
    WatchOutbox,
    WatchDoors,
    StatusWanted,
)


class Peer(NamedTuple):
    """Who is at the other end, as it was when it connected."""

    uid: int
    gid: int
    """Its effective group; supplementary groups don't count."""
    pid: int = 0


def rights_of(
    peer: Peer, *, own: Peer, supervisor: int | None = None, shuts_out_own: bool = False
) -> Rights | None:
    """The rights of a peer: root and the core's own user everything, the core's own group what the
    link needs. None: this peer has no business here.

    By the group, because the link has a user of its own, which the core can't see from within a
    user namespace. `supervisor` is the process of `door-gateway run`: it starts the link as the
    core's own user, so whatever descends from it has the link's rights and no others. With
    `shuts_out_own`, what this process itself has started has none: its workers read what cards,
    lines and radios say, and have nothing to ask for.
    """
    if shuts_out_own and peer.uid == own.uid and is_own(peer.pid):
        return None
    supervised = peer.uid == own.uid and supervisor is not None
    if supervised and descends_from(peer.pid, supervisor or 0) is not False:
        return Rights.LINK
    if peer.uid == _ROOT_UID or (peer.uid == own.uid and own.uid != _NOBODY):
        return Rights.ALL
    if peer.gid == own.gid and own.gid != _NOBODY:
        return Rights.LINK
    return None


def peer_of(connection: socket.socket) -> Peer:
    """The process at the other end (SO_PEERCRED, unix(7))."""
    answer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(answer)
    return Peer(uid, gid, pid)


def has_ended(connection: socket.socket) -> bool:
    """Return True if the process that connected has ended, so that its pid may be another's.

    False where the kernel has no SO_PEERPIDFD.
    """
    try:
        descriptor = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        return bool(waiting.poll(0))
    finally:
        os.close(descriptor)


def own_credentials() -> Peer:
    """This process, as `peer_of` would show it to others."""
    return Peer(os.geteuid(), os.getegid())
