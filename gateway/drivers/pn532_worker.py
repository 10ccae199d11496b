"""The process in which nfcpy talks to one PN532, so that a reader that hangs can be killed.

    python -I pn532_worker.py PORT PARENT_PID

It is run as a file, imports nothing of this package but `cards` and starts in a fraction of a
second. It ends when its parent does, when its standard input closes, or at the first error that it
can't sit out; then whoever started it starts it again. The first line of its standard input is one
JSON object: which technologies to try, and their keys, which stand in no argument and no
environment. What it says on standard output is one line a message:

    O NS                        the chip answers; NS is CLOCK_MONOTONIC in nanoseconds
    U HEX NS                    a card came: its UID, and when the reply was complete
    P KIND VALUE COUNTER B NS   a card that was found at B proved itself; COUNTER may be "-"
    G NONCE KEY SIGNATURE GRANT B NS    a phone found at B showed a grant; nothing of it is judged
    X KIND WHY NS               a card didn't, or is of no kind that is tried (KIND is "uid")
    R COUNT                     a card came whose UID has COUNT bytes, or isn't whole
    H                           still here
    E WHY                       the last line

Commands, replies and sections are those of NXP UM0701-02 (PN532 User Manual), the UID rules those
of ISO/IEC 14443-3, 6.5.
"""

import ctypes
import errno
import importlib
import importlib.util
import json
import logging
import os
import re
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

PORT: Final = re.compile(r"(/[A-Za-z0-9._:+@-]{1,128}){1,16}")
"""nfcpy 1.0.4 runs `stty -F PORT` in a shell: no character here means anything to one."""

IN_LIST_PASSIVE_TARGET: Final = 0x4A  # 7.3.5
IN_DATA_EXCHANGE: Final = 0x40  # 7.3.8
AUTOMATIC_RATS: Final = 0x10  # SetParameters (7.2.9): the chip runs ISO/IEC 14443-4 by itself
MORE_INFORMATION: Final = 0x40  # 7.1, MI
STATUS: Final = 0x3F
BR_TY_106A: Final = 0x00  # ISO/IEC 14443 type A at 106 kbit/s
RF_FIELD: Final = 0x01  # RFConfiguration (7.3.1), CfgItem 1
MAX_RETRIES: Final = 0x05  # CfgItem 5: MxRtyATR, MxRtyPSL, MxRtyPassiveActivation

TRIES_ALONE: Final = 0xFF
"""Without end (7.3.1): the chip itself waits for a card and reports it at once, and the host has
nothing to do meanwhile."""

TRIES_PRESENT: Final = 0x01
"""While a card is there, the chip must say soon that it's gone or that there is a second."""

SEARCH_S: Final = 0.5
"""How long the host lets the chip wait; then nfcpy aborts the search with an ACK (6.2.1.3), which
proves that both are alive, and starts it anew."""

RESET_S: Final = 0.010
"""The field is off for so long between two looks at a present card: ISO/IEC 14443-3 asks for 5 ms,
after which a card starts anew and answers again."""

PRESENT_S: Final = 0.020
"""The pause between two looks at cards that stay."""

ABSENT_SENSES: Final = 3
ABSENT_NS: Final = 250_000_000
"""A card is gone when it was not there so often in a row, for at least so long: a hand that shakes
makes one read, a card that is taken away and shown again makes two."""

RESTING_LOOKS: Final = 3
"""Looks at the field before the reader is live: a card at its edge may be missed by one."""

NOISY_NS: Final = 10_000_000_000
"""The frames' check is an 8-bit sum: of 256 replies with two wrong bytes it lets one pass. On a
line that garbled anything in the last 10 s a UID counts only when it is read twice in a row."""

UNANSWERED_NS_MAX: Final = 2_000_000_000
"""Without one good reply for so long the chip is as good as gone: end, and let the line be opened
anew."""

EXCHANGE_S: Final = 0.6
"""The longest that a card may think over one command: a phone that computes asks for more time by
itself, and the chip gives it (ISO/IEC 14443-4, 7.3)."""

CONVERSATION_NS_MAX: Final = 1_500_000_000
"""The longest that one card may be talked to: others wait, and whoever runs this too."""

RANDOM_UID: Final = 0x08
"""A UID of four bytes that begins so is another each time (ISO/IEC 14443-3, 6.5.4)."""

HEARTBEAT_NS: Final = 400_000_000
"""Said this often at most, and with each search."""

FAST_BAUD_RATES: Final = (921_600, 460_800, 230_400)
"""What nfcpy raises the line to. A worker that was killed leaves the chip there."""

LONG_PREAMBLE: Final = bytes(10)  # wakes the chip's HSU (6.3.2.3)
ACK: Final = bytes.fromhex("0000ff00ff00")  # 6.2.1.3; from the host it aborts the command
SET_SERIAL_BAUD_RATE_115200: Final = bytes.fromhex("0000ff03fdd410041800")  # 7.2.9

PR_SET_PDEATHSIG: Final = 1  # prctl(2)
PR_SET_DUMPABLE: Final = 4


Read = Callable[[bytes], Generator[bytes, bytes, str | None]]
"""`cards.reading.read` for the card with this UID."""


class Target(NamedTuple):
    """One card of an InListPassiveTarget reply."""

    sel_res: int
    nfcid: bytes

    @property
    def is_iso_dep(self) -> bool:
        """Whether it speaks ISO/IEC 14443-4 (ISO/IEC 14443-3, table 9)."""
        return bool(self.sel_res & 0x20)


class GarbledReplyError(Exception):
    """A reply whose parts don't add up."""


class CardGoneError(Exception):
    """A card that was there doesn't answer any more."""


def targets_of(reply: bytes, *, with_ats: bool = False) -> list[Target]:
    """Take an InListPassiveTarget reply apart (UM0701-02, 7.3.5), from NbTg on.

    Only `with_ats`, where automatic RATS is on, an ISO/IEC 14443-4 target's ATS follows its UID.

    Raises:
        GarbledReplyError: its lengths or numbers don't add up.
    """
    if not reply:
        raise GarbledReplyError
    targets: list[Target] = []
    rest = reply[1:]
    while rest:
        # Tg, SENS_RES (2 bytes), SEL_RES, NFCIDLength
        if len(rest) < 5 or rest[0] != len(targets) + 1 or len(rest) < 5 + rest[4]:
            raise GarbledReplyError
        target = Target(rest[3], bytes(rest[5 : 5 + rest[4]]))
        targets.append(target)
        rest = rest[5 + rest[4] :]
        if with_ats and target.is_iso_dep:
            # Its first byte is its length, itself included (ISO/IEC 14443-4, 5.2.2).
            if not rest or not 1 <= rest[0] <= len(rest):
                raise GarbledReplyError
            rest = rest[rest[0] :]
    if reply[0] != len(targets):
        raise GarbledReplyError
    return targets


def uid_of(target: Target) -> str | None:
    """The card's whole UID in upper-case hex digits, first byte first; None if it isn't one."""
    if len(target.nfcid) not in (4, 7, 10):
        return None
    if target.sel_res & 0x04:  # ISO/IEC 14443-3, table 9: UID not complete
        return None
    if len(target.nfcid) == 4 and target.nfcid[0] == 0x88:  # the cascade tag: more should follow
        return None
    return target.nfcid.hex().upper()


class CardPresence:
    """Which cards are on the reader: each is new once, until it has really been away."""

    def __init__(self) -> None:
        self._cards: dict[str, tuple[int, int]] = {}  # UID: when last seen, senses missed since
        self._unconfirmed: frozenset[str] = frozenset()

    def forget(self, uid: str) -> None:
        """The card counts as new at the next look: it was not read to its end."""
        self._cards.pop(uid, None)

    @property
    def empty(self) -> bool:
        """Whether no card is there, or was there a moment ago."""
        return not self._cards and not self._unconfirmed

    def sensed(self, uids: Iterable[str], now_ns: int, *, noisy: bool = False) -> list[str]:
        """Take the UIDs of one look at the field, in the order found; return those that are new.

        With `noisy`, a UID counts from its second look in a row.
        """
        found = list(dict.fromkeys(uids))
        new = [
            uid
            for uid in found
            if uid not in self._cards and (not noisy or uid in self._unconfirmed)
        ]
        self._unconfirmed = frozenset(found).difference(self._cards, new)
        for uid, (seen_ns, missed) in list(self._cards.items()):
            if uid in found:
                self._cards[uid] = (now_ns, 0)
            elif missed + 1 >= ABSENT_SENSES and now_ns - seen_ns >= ABSENT_NS:
                del self._cards[uid]
            else:
                self._cards[uid] = (seen_ns, missed + 1)
        self._cards.update(dict.fromkeys(new, (now_ns, 0)))
        return new


class Poller:
    """Looks for cards with nfcpy's chipset object and says what it finds.

    nfcpy's own `sense()` asks for one card, reads registers in between and switches the field off
    after each look; two cards at once, and a chip that waits by itself, need its chipset object.
    """

    def __init__(
        self,
        chipset: Any,
        say: Callable[[str], None],
        now_ns: Callable[[], int] = time.monotonic_ns,
        *,
        read: Read | None = None,
        takes_uids: bool = True,
    ) -> None:
        self._chipset = chipset
        self._say = say
        self._now_ns = now_ns
        self._read_card = read
        self._takes_uids = takes_uids
        self._parameters_set = False
        self._presence = CardPresence()
        self._refused: frozenset[int] = frozenset()
        self._tries = 0
        self._answered_ns = self._now_ns()
        self._said_ns = -HEARTBEAT_NS
        self._garbled_ns = -NOISY_NS
        self._resting_looks = RESTING_LOOKS

    def run(self, wait: Callable[[float], None]) -> None:
        """Say that the reader is live, and poll until an error that can't be sat out.

        A card that is found before that was there already, and nobody has just presented it: a
        reader that is plugged in again, or a gateway that starts, must not open a door to a
        forgotten card. It counts again when it was away. `wait` pauses for seconds.
        """
        while True:
            started_ns = self._now_ns()
            if started_ns - self._said_ns >= HEARTBEAT_NS:
                self._say("H")
                self._said_ns = started_ns
            alone = self._presence.empty and not self._resting_looks
            try:
                self._look(alone=alone)
                if not alone or not self._presence.empty:
                    # Off, so that each card starts anew when the next look switches it on.
                    self._chipset.rf_configuration(RF_FIELD, b"\x02")  # AutoRFCA, off
            except Exception as error:
                if not _is_noise(error, self._chipset):
                    raise
                self._garbled_ns = now_ns = self._now_ns()
                self._tries = 0  # who knows what the chip has understood
                self._parameters_set = False
                if now_ns - self._answered_ns >= UNANSWERED_NS_MAX:
                    raise
                self._chipset.send_ack()
                wait(RESET_S)
                continue
            if self._resting_looks:
                self._resting_looks -= 1
                if not self._resting_looks:
                    self._say(f"O {self._now_ns()}")
                wait(RESET_S)
            elif self._presence.empty:
                wait(0.0)
            else:
                # Soon after the first, for there may be a second.
                wait(RESET_S if alone else PRESENT_S)

    def _look(self, *, alone: bool) -> None:
        tries = TRIES_ALONE if alone else TRIES_PRESENT
        if tries != self._tries:
            self._chipset.rf_configuration(MAX_RETRIES, bytes((1, 0, tries)))
            self._tries = tries
        if self._read_card and not self._parameters_set:
            self._chipset.set_parameters(AUTOMATIC_RATS)
            self._parameters_set = True
        max_tg = 1 if alone else 2
        command = bytearray((max_tg, BR_TY_106A))
        try:
            reply = self._chipset.command(IN_LIST_PASSIVE_TARGET, command, SEARCH_S)
        except TimeoutError:
            # nfcpy has read the chip's ACK, so it lives, and no card has come.
            if not alone:
                raise
            reply = b"\x00"
        at_ns = self._now_ns()
        targets = targets_of(bytes(reply), with_ats=self._read_card is not None)
        self._answered_ns = at_ns
        noisy = at_ns - self._garbled_ns < NOISY_NS
        # By what it is known again at the next look.
        cards = {
            "random" if is_random(target) else uid: (number, target, uid)
            for number, target in enumerate(targets, 1)
            if (uid := uid_of(target)) is not None
        }
        for name in self._presence.sensed(cards, at_ns, noisy=noisy):
            if not self._resting_looks:
                try:
                    self._say(self._read(*cards[name], at_ns))
                except CardGoneError:
                    self._presence.forget(name)
        refused = frozenset(len(target.nfcid) for target in targets if uid_of(target) is None)
        for count in refused - self._refused:
            self._say(f"R {count}")
        self._refused = refused

    def _read(self, number: int, target: Target, uid: str, at_ns: int) -> str:
        """What is to be said of a card that came.

        Raises:
            CardGoneError: it left in mid-read.
        """
        if target.is_iso_dep and self._read_card is not None:
            found_ns = at_ns
            said, at_ns = self._talk(self._read_card(target.nfcid), number, found_ns)
            if said is not None:
                return f"{said} {found_ns} {at_ns}" if said[0] in "PG" else f"{said} {at_ns}"
        return f"U {uid} {at_ns}" if self._takes_uids else f"X uid not_taken {at_ns}"

    def _talk(
        self, conversation: Generator[bytes, bytes, str | None], number: int, at_ns: int
    ) -> tuple[str | None, int]:
        """What a conversation came to, and when the card's last answer was complete."""
        until_ns = at_ns + CONVERSATION_NS_MAX
        try:
            command = next(conversation)
            while True:
                answer = self._exchange(number, command)
                at_ns = self._now_ns()
                if answer is None or at_ns > until_ns:
                    command = conversation.throw(TimeoutError())
                else:
                    command = conversation.send(answer)
        except StopIteration as done:
            return done.value, at_ns
        except TimeoutError:
            raise CardGoneError from None

    def _exchange(self, number: int, command: bytes) -> bytes | None:
        """A command APDU and its answer (InDataExchange, 7.3.8); the chip does the blocks.

        None: the card is there, and has asked for more time than it gets.

        Raises:
            CardGoneError: it isn't there any more.
        """
        answer = b""
        while True:
            data = bytearray((number,)) + command
            try:
                reply = bytes(self._chipset.command(IN_DATA_EXCHANGE, data, EXCHANGE_S))
            except TimeoutError:
                # nfcpy has read the chip's ACK, so it lives, and has aborted the command.
                return None
            if not reply:
                raise GarbledReplyError
            if reply[0] & STATUS:
                raise CardGoneError  # 7.1: time-outs, CRC and protocol errors of the air
            answer += reply[1:]
            if not reply[0] & MORE_INFORMATION:
                return answer
            command = b""


def is_random(target: Target) -> bool:
    """Whether the card has another UID each time it gets power."""
    return len(target.nfcid) == 4 and target.nfcid[0] == RANDOM_UID


def _is_noise(error: Exception, chipset: Any) -> bool:
    """Whether `error` is what nfcpy makes of a wrong byte, not of a lost line."""
    if isinstance(error, OSError):
        # pyserial's own errors are OSErrors too, mostly without a number: the line is lost.
        return type(error) in (OSError, TimeoutError) and error.errno in (
            errno.EIO,
            errno.ETIMEDOUT,
        )
    # Short reads end in IndexError or struct.error; the chip's own error frames in Chipset.Error.
    return isinstance(error, (GarbledReplyError, IndexError, struct.error, type(chipset).Error))


def open_chip(port: str) -> Any:
    """Open `port` and make the PN532 on it ready; returns nfcpy's device object.

    Raises whatever nfcpy and pyserial do.
    """
    import nfc.clf.pn532  # noqa: PLC0415  # after the checks: it is most of the start
    import nfc.clf.transport  # noqa: PLC0415

    def init() -> Any:
        transport = nfc.clf.transport.TTY(port)
        try:
            device = nfc.clf.pn532.init(transport)
            transport.tty.exclusive = True  # two on one line would read each other's replies
        except BaseException:
            with suppress(Exception):
                transport.close()
            raise
        return device

    try:
        return init()
    except (OSError, IndexError) as error:
        if getattr(error, "errno", None) not in (None, errno.ENODEV, errno.ETIMEDOUT, errno.EIO):
            raise
        if not os.path.exists(port):  # noqa: PTH110  # pathlib would cost the start
            raise
        _lower_baud_rate(port)
        return init()


def _lower_baud_rate(port: str) -> None:
    """Bring a chip that a killed worker left at a higher speed back to 115,200 baud."""
    import serial  # noqa: PLC0415

    for baud_rate in FAST_BAUD_RATES:
        with serial.Serial(port, baud_rate, timeout=0.1, write_timeout=0.5) as line:
            line.write(ACK + LONG_PREAMBLE + SET_SERIAL_BAUD_RATE_115200)
            answered = ACK in line.read(len(ACK) + 9)
            if answered:
                line.write(ACK)  # only then the chip switches (7.2.9)
                line.flush()
                return


def _say_on(descriptor: int) -> Callable[[str], None]:
    def say(line: str) -> None:
        os.write(descriptor, f"{line}\n".encode())

    return say


def _wait(seconds: float) -> None:
    """Pause; end the process when standard input is closed: the parent is gone or wants it so."""
    readable, _, _ = select.select([0], [], [], seconds)
    if readable:
        os._exit(0)


def told() -> dict[str, Any]:
    """The first line of standard input, byte by byte: what follows it is not ours to take."""
    line = bytearray()
    while not line.endswith(b"\n"):
        octet = os.read(0, 1)
        if not octet:
            os._exit(0)
        line += octet
    return cast("dict[str, Any]", json.loads(line))


def reading(settings: dict[str, Any]) -> Read | None:
    """How secure cards are read, if they are; loads `cards`, which is beside this file.

    Not as `gateway.drivers.cards`: that would bring in every driver.
    """
    if not set(settings["credentials"]) - {"uid"}:
        return None
    place = Path(__file__).with_name("cards")
    spec = importlib.util.spec_from_file_location(
        "cards", place / "__init__.py", submodule_search_locations=[str(place)]
    )
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018  # it is a file
    sys.modules["cards"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    loaded = importlib.import_module("cards.reading")
    loaded.preload()
    tried = loaded.technologies(settings, os.urandom)
    return lambda uid: cast("Generator[bytes, bytes, str | None]", loaded.read(tried, uid))


def _lock_in() -> None:
    """Give up what an open port doesn't need, by `confinement.py` beside this file."""
    place = Path(__file__).with_name("confinement.py")
    spec = importlib.util.spec_from_file_location("confinement", place)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018  # it is a file
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    loaded.lock_in()  # where it can't, the core has logged why


def main() -> None:
    """Run until killed. Never returns."""
    _, port, parent = sys.argv
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_DUMPABLE, 0)  # no core dump may have a key in it
    if os.getppid() != int(parent) or not PORT.fullmatch(port):
        os._exit(2)
    messages = os.dup(1)  # not inherited by nfcpy's children
    os.dup2(2, 1)  # and nothing else may print into it
    say = _say_on(messages)
    logging.disable()  # nfcpy logs frames with UIDs in them
    try:
        settings = told()
        read = reading(settings)
        takes_uids = "uid" in settings["credentials"]
        chipset = open_chip(port).chipset
        poller = Poller(chipset, say, read=read, takes_uids=takes_uids)
        _lock_in()
        poller.run(_wait)
    except BrokenPipeError:
        pass
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is this process's end
        number = getattr(error, "errno", None)
        name = f"{type(error).__module__}.{type(error).__name__}"
        say(f"E {name} {errno.errorcode.get(number or 0, '')}".rstrip())
    finally:
        # Past nfcpy's close(): once the adapter is gone that raises, or waits for output to drain.
        os._exit(1)


if __name__ == "__main__":
    main()
