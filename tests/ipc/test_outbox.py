"""What the core wants published waits for the link, and no more of it than is of use."""

from gateway.ipc.messages import Outgoing
from gateway.ipc.outbox import WAITING_MAX, Outbox


async def test_the_oldest_gives_way_and_each_is_taken_once() -> None:
    outbox = Outbox()
    for number in range(WAITING_MAX + 3):
        outbox.put(Outgoing(topic="parity", payload=b"%d" % number))
    watching = outbox.watch()
    taken = [(await anext(watching)).payload for _ in range(WAITING_MAX)]
    assert taken[0] == b"3"
    assert taken[-1] == b"%d" % (WAITING_MAX + 2)
    outbox.put(Outgoing(topic="cmd/result", payload=b"new"))
    assert (await anext(watching)).payload == b"new"
    await watching.aclose()
