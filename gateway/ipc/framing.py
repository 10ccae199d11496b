"""Cuts a byte stream into length-prefixed frames and back: no I/O."""

from gateway.errors import IpcError

FRAME_BYTES_MAX = 1024 * 1024
"""The largest message: far above a full batch of events, far below what hurts a small box."""

_PREFIX_BYTES = 4  # an unsigned big-endian length


class Framing:
    """The receiving half of one connection."""

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray) -> list[bytes]:
        """The frames that are complete with `data`.

        Raises:
            IpcError: A length is announced that no message may have. It is raised before the body
                is waited for, and nothing more can be read from this stream.
        """
        self._buffer += data
        frames = []
        at = 0
        while len(self._buffer) - at >= _PREFIX_BYTES:
            length = int.from_bytes(self._buffer[at : at + _PREFIX_BYTES])
            if not 0 < length <= self._frame_bytes_max:
                raise IpcError(
                    f"a message of {length} bytes was announced on the socket: "
                    f"1 to {self._frame_bytes_max} are allowed"
                )
            end = at + _PREFIX_BYTES + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[at + _PREFIX_BYTES : end]))
            at = end
        del self._buffer[:at]
        return frames


def frame(body: bytes, frame_bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """`body` as it goes onto the socket. Raises IpcError where the other end would refuse it."""
    if not 0 < len(body) <= frame_bytes_max:
        raise IpcError(f"a message of {len(body)} bytes can't be sent: 1 to {frame_bytes_max} can")
    return len(body).to_bytes(_PREFIX_BYTES) + body
