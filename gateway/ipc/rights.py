"""Who may do what on the socket, by the kernel's word on who the peer is."""

import socket
import struct
from enum import Enum
from typing import Literal

from gateway.ipc.messages import (
    Acknowledge,
    Cancel,
    Fetch,
    Hello,
    RequestBody,
    StatusWanted,
    WatchDoors,
)

_ROOT_UID = 0
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


_OF_LINK = (Hello, Cancel, Fetch, Acknowledge, WatchDoors, StatusWanted)


def rights_of(peer_uid: int, *, own_uid: int, link_uid: int | None) -> Rights | None:
    """The rights of a peer: root and the core's own user everything, `link_uid` what link needs.

    None: this peer has no business here.
    """
    if peer_uid in (_ROOT_UID, own_uid):
        return Rights.ALL
    if link_uid is not None and peer_uid == link_uid:
        return Rights.LINK
    return None


def peer_uid(peer: socket.socket) -> int:
    """The uid that the process at the other end had when it connected (SO_PEERCRED, unix(7))."""
    answer = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(answer)
    return int(uid)
