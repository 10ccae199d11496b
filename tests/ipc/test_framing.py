import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import IpcError
from gateway.ipc.framing import Framing, frame


@given(st.lists(st.binary(min_size=1, max_size=50)), st.lists(st.integers(1, 60)))
def test_frames_arrive_whole_however_the_bytes_are_split(
    bodies: list[bytes], cuts: list[int]
) -> None:
    framing = Framing()
    stream = b"".join(frame(body) for body in bodies)
    got: list[bytes] = []
    for cut in cuts:
        got += framing.feed(stream[:cut])
        stream = stream[cut:]
    got += framing.feed(stream)
    assert got == bodies


def test_a_length_beyond_the_limit_is_refused_before_the_body_comes() -> None:
    framing = Framing(frame_bytes_max=10)
    assert framing.feed(frame(b"0123456789")) == [b"0123456789"]
    with pytest.raises(IpcError, match="11 bytes was announced"):
        framing.feed((11).to_bytes(4))


def test_an_empty_message_is_refused() -> None:
    with pytest.raises(IpcError, match="0 bytes"):
        Framing().feed(bytes(4))


def test_a_body_that_the_other_end_would_refuse_is_not_sent() -> None:
    with pytest.raises(IpcError, match="can't be sent"):
        frame(b"x" * 11, frame_bytes_max=10)
