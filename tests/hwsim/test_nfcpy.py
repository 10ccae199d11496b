"""The real nfcpy against the simulated PN532, on a pseudo-terminal."""

import asyncio
import contextlib
import termios
import time
from typing import Any

import nfc
import nfc.clf.pn532
import nfc.clf.transport
import nfc.tag
import pytest

from hwsim.observations import CardSent, HostClosed, HostOpened
from hwsim.site import Site

UIDS = ["DEADBEEF", "04A1B2C3D4E5F6", "04A1B2C3D4E5F6A7B8C9"]


def port(site: Site, name: str = "reader") -> str:
    return str(site.rewritten_config()["devices"][name]["port"])


def opened(path: str) -> Any:
    clf = nfc.ContactlessFrontend()
    clf.device = nfc.clf.pn532.init(nfc.clf.transport.TTY(path))
    return clf


def hung_up(clf: Any) -> None:
    """Let go of a reader as after a crash or an unplug: nothing more is said to the chip."""
    tty = clf.device.chipset.transport.tty
    clf.device = None
    with contextlib.suppress(OSError, termios.error):
        tty.close()


def sensed(clf: Any) -> str | None:
    target = clf.sense(nfc.clf.RemoteTarget("106A"), iterations=1)
    return None if target is None else target.sdd_res.hex().upper()


async def test_senses_uids_of_every_size_and_tells_when_they_were_sent(site: Site) -> None:
    clf = await asyncio.to_thread(opened, port(site))
    assert await asyncio.to_thread(sensed, clf) is None
    for uid in UIDS:
        at_ns = await site.present("reader", uid, hold=None)
        for _ in range(3):
            assert await asyncio.to_thread(sensed, clf) == uid
        await site.remove("reader")
        assert await asyncio.to_thread(sensed, clf) is None
        assert site.seen.of(CardSent)[-1].at_ns > at_ns
    assert [sent.uid for sent in site.seen.of(CardSent)] == UIDS
    await asyncio.to_thread(clf.close)


async def test_activates_a_type_2_tag_and_reads_its_memory(site: Site) -> None:
    def read() -> tuple[str, bytes]:
        clf = opened(port(site))
        tag = nfc.tag.activate(clf, clf.sense(nfc.clf.RemoteTarget("106A"), iterations=1))
        pages = tag.read(0)
        clf.close()
        return tag.product, bytes(pages)

    await site.present("reader", "04A1B2C3D4E5F6", hold=None)
    product, pages = await asyncio.to_thread(read)
    assert product == "NXP NTAG213"
    assert pages[:3] + pages[4:8] == bytes.fromhex("04A1B2C3D4E5F6")


async def test_exchanges_apdus_with_an_iso_dep_card(site: Site) -> None:
    def exchange() -> bytes:
        clf = opened(port(site))
        tag = nfc.tag.activate(clf, clf.sense(nfc.clf.RemoteTarget("106A"), iterations=1))
        answer = tag.transceive(bytes.fromhex("00A4040000"))
        assert tag.is_present
        clf.close()
        return bytes(answer)

    await site.present("reader", "04A1B2C3D4E5F6", hold=None, iso_dep=True)
    assert await asyncio.to_thread(exchange) == bytes.fromhex("6D00")


async def test_of_two_cards_always_finds_the_same_one_as_the_field_is_reset(site: Site) -> None:
    clf = await asyncio.to_thread(opened, port(site))
    await site.present_two("reader", "01AAAAAA", "02AAAAAA", hold=None)
    assert {await asyncio.to_thread(sensed, clf) for _ in range(3)} == {"01AAAAAA"}
    await asyncio.to_thread(clf.close)


async def test_a_card_pulled_away_in_mid_read_is_no_tag(site: Site) -> None:
    def read() -> Any:
        clf = opened(port(site))
        target = clf.sense(nfc.clf.RemoteTarget("106A"), iterations=1)
        tag = nfc.tag.activate(clf, target)
        clf.close()
        return tag

    await site.present("reader", "04A1B2C3D4E5F6", hold=None, frames_left=1)
    assert await asyncio.to_thread(read) is None


async def test_an_iso_dep_card_pulled_away_in_mid_apdu_is_an_error(site: Site) -> None:
    def exchange() -> None:
        clf = opened(port(site))
        tag = nfc.tag.activate(clf, clf.sense(nfc.clf.RemoteTarget("106A"), iterations=1))
        try:
            tag.transceive(bytes.fromhex("00A4040000"))
        finally:
            clf.close()

    await site.present("reader", "04A1B2C3D4E5F6", hold=None, iso_dep=True, frames_left=1)
    with pytest.raises(nfc.tag.TagCommandError):
        await asyncio.to_thread(exchange)


async def test_what_the_host_does_about_a_card_comes_after_it_was_sent(site: Site) -> None:
    def timed(clf: Any) -> int:
        assert sensed(clf) is not None
        return time.monotonic_ns()

    clf = await asyncio.to_thread(opened, port(site))
    for _ in range(20):
        await site.present("reader", "DEADBEEF", hold=None)
        read_ns = await asyncio.to_thread(timed, clf)
        sent_ns = site.seen.of(CardSent)[-1].at_ns
        assert 0 < read_ns - sent_ns < 1_000_000_000
        await site.remove("reader")
    assert len(site.seen.of(CardSent)) == 20
    await asyncio.to_thread(clf.close)


async def test_opens_closes_and_opens_again_on_one_power_supply(site: Site) -> None:
    for _ in range(3):
        clf = await asyncio.to_thread(opened, port(site))
        await asyncio.to_thread(clf.close)
    assert len(site.seen.of(HostOpened)) == len(site.seen.of(HostClosed)) > 3


async def test_after_a_crashed_host_the_chip_keeps_its_speed_until_it_loses_power(
    site: Site,
) -> None:
    clf = await asyncio.to_thread(opened, port(site))
    await asyncio.to_thread(hung_up, clf)
    with pytest.raises(OSError, match="timed out"):
        await asyncio.to_thread(opened, port(site))
    await site.power_cycle("reader", off=0.01)
    clf = await asyncio.to_thread(opened, port(site))
    await asyncio.to_thread(clf.close)


async def test_an_unplugged_reader_hangs_up_and_works_again_when_plugged_in(site: Site) -> None:
    clf = await asyncio.to_thread(opened, port(site))
    await site.unplug("reader")
    with pytest.raises((OSError, termios.error)):
        await asyncio.to_thread(sensed, clf)
    await asyncio.to_thread(hung_up, clf)
    with pytest.raises(OSError, match="No such file"):
        await asyncio.to_thread(opened, port(site))
    await site.plug("reader")
    await site.present("reader", UIDS[0], hold=None)
    clf = await asyncio.to_thread(opened, port(site))
    assert await asyncio.to_thread(sensed, clf) == UIDS[0]
    await asyncio.to_thread(clf.close)


async def test_a_reader_unplugged_in_mid_frame_hangs_up_too(site: Site) -> None:
    clf = await asyncio.to_thread(opened, port(site))
    await site.unplug("reader", after_bytes=9)
    with pytest.raises((OSError, termios.error)):
        await asyncio.to_thread(sensed, clf)
    await asyncio.to_thread(hung_up, clf)


async def test_a_hung_reader_answers_nothing_until_it_resumes(site: Site) -> None:
    clf = await asyncio.to_thread(opened, port(site))
    await site.hang("reader")
    with pytest.raises(OSError, match="Input/output error"):
        await asyncio.to_thread(sensed, clf)
    await site.resume("reader")
    await site.present("reader", UIDS[1], hold=None)
    assert await asyncio.to_thread(sensed, clf) == UIDS[1]
    await asyncio.to_thread(clf.close)
