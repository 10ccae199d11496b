"""The process in which libosdp talks to the readers of one RS-485 line, so that it can be killed.

    python -I osdp_worker.py PARENT_PID

It is run as a file, imports nothing of this package, and ends when its parent does, when its
standard input closes, or at the first error that it can't sit out. Both ways it speaks one JSON
object a line. The first line in is the line's settings and keys, which stand in no argument and no
environment (see `Setup`); further ones are commands. What it says is in `gateway/drivers/osdp.py`.

libosdp 3.2.9, as observed; each is why something below is as it is:

- It drops card data in characters (osdp_FMT) without an event, since OSDP 2.2.2 deprecates it
  (its issue 206; the binding's CARD_FMT_ASCII is for peripherals): `Gate` takes note of one, for
  the code of a reply is in clear in a session too.
- It looks at replies before a secure channel is up as it does after, so a card in clear, as answer
  to the very first request, reaches its event handler. In a session it takes a frame that is marked
  as part of the handshake without looking for a MAC. It copies a card of up to 250 bytes into 64.
  So `Gate` decides first which frames it may see at all.
- It loses a reply that comes in two reads: `Gate` hands over whole frames only.
- It gives a silent reader 8.3 s, a second at a time, in which it takes no order; then it waits for
  300 s. A refusal (osdp_NAK) ends that at once, so `Gate` writes one when the time is up.
- After osdp_BUSY it asks again with the wrong sequence number: it sees none, `Gate` asks again.
- Its timers run by the wall clock. When that was set back it may poll nobody: then this ends.
- Its Python binding cuts a timer's count to eight bits without a word, so none is larger.
- A command that a reader refuses takes that reader offline: none is sent that it can't do.
- There is no lock to wait for and no thread, since nothing here uses its `ControlPanel.start()`.

OSDP's own words (PD, SCBK) and sections are those of SIA OSDP 2.2 / IEC 60839-11-5.
"""

import binascii
import ctypes
import errno
import importlib.util
import json
import os
import re
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

PORT: Final = re.compile(r"(/[A-Za-z0-9._:+@-]{1,128}){1,16}")

SOM: Final = 0x53  # 5.6
REPLY: Final = 0x80  # in the address of a reply
BROADCAST: Final = 0x7F
SEQUENCE: Final = 0x03  # the control byte, 5.9
CRC_USED: Final = 0x04
SECURITY_BLOCK: Final = 0x08
SECURED: Final = (0x16, 0x18)  # SCS_16 and SCS_18: replies with a MAC (annex D)
HANDSHAKE: Final = {0x76: 0x12, 0x78: 0x14}  # osdp_CCRYPT and osdp_RMAC_I, and their SCS types

ACK: Final = 0x40
NAK: Final = 0x41
PDID: Final = 0x45
PDCAP: Final = 0x46
RAW: Final = 0x50
FMT: Final = 0x51
KEYPAD: Final = 0x53
BUSY: Final = 0x79
FTSTAT: Final = 0x7A
IN_CLEAR: Final = frozenset({NAK, PDID, PDCAP})
"""All that a reader may say outside a session: who it is, what it can do, and no."""

ID: Final = 0x61
CAP: Final = 0x62
CHLNG: Final = 0x76
SCRYPT: Final = 0x77

FRAME_BYTES_MAX: Final = 1440  # 5.6
LIBOSDP_FRAME_BYTES_MAX: Final = 256
"""What libosdp's buffers hold (OSDP_PACKET_BUF_SIZE)."""
CARD_FRAME_BYTES_MAX: Final = 78
"""With 64 encrypted bytes: a card of at most 472 bits, and never more than libosdp has room for."""

REPLY_S_MAX: Final = 0.19
"""A reader must answer within 200 ms (5.7); libosdp gives up 200 ms after it wrote."""
QUIET_S: Final = 0.015
RESENDS_MAX: Final = 2
RESEND_WITHIN_S: Final = 0.12
"""A reply that came garbled is asked for again, so often at most and no later than this."""

POLL_S: Final = 0.0505
"""libosdp polls a reader when more than 50 ms have passed since it last answered."""
BUSY_TICK_S: Final = 0.001
IDLE_TICK_S_MAX: Final = 0.020

ENABLE_S: Final = 0.1
"""From disabling a reader to enabling it: what libosdp needs to forget it."""
MISSES_MAX: Final = 1
"""A reader that was online may leave one poll unanswered; libosdp asks again a second later."""
INSTALL_RETRY_S: Final = 1.0
UNPOLLED_S_MAX: Final = 3.0
HEARTBEAT_S: Final = 0.4
COMMAND_BYTES_MAX: Final = 65_536

READERS_MAX: Final = 32
"""The binding's status words have 32 bits, and RS-485 32 unit loads."""
TIMER_COUNT_MAX: Final = 255

PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def crc16(data: bytes) -> int:
    """Annex C: polynomial 0x1021, initial value 0x1D0F, over everything from SOM on."""
    return binascii.crc_hqx(data, 0x1D0F)


def sealed(body: bytes) -> bytes:
    """A frame from `body`, whose length field is filled in, with its CRC or checksum."""
    crc_used = bool(body[4] & CRC_USED)
    length = len(body) + (2 if crc_used else 1)
    body = body[:2] + length.to_bytes(2, "little") + body[4:]
    return body + (crc16(body).to_bytes(2, "little") if crc_used else bytes([-sum(body) & 0xFF]))


def is_sound(frame: bytes) -> bool:
    """Whether a whole frame's CRC or checksum (5.10) is right."""
    if frame[4] & CRC_USED:
        return crc16(frame[:-2]) == int.from_bytes(frame[-2:], "little")
    return sum(frame) & 0xFF == 0


def code_of(frame: bytes) -> int | None:
    """A whole frame's command or reply code; None if its security block leaves no room for one."""
    at = 5 + (frame[5] if frame[4] & SECURITY_BLOCK else 0)
    return frame[at] if at < len(frame) - (2 if frame[4] & CRC_USED else 1) else None


class Deframer:
    """Bytes in, whole and sound frames out, from SOM on; the rest is skipped."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def clear(self) -> None:
        """Forget what is not whole."""
        self._buffer.clear()

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Take bytes; yield the frames that they complete."""
        self._buffer += data
        while True:
            start = self._buffer.find(SOM)
            del self._buffer[: start if start >= 0 else len(self._buffer)]
            if len(self._buffer) < 5:
                return
            length = int.from_bytes(self._buffer[2:4], "little")
            if not 7 <= length <= FRAME_BYTES_MAX:
                del self._buffer[0]
                continue
            if len(self._buffer) < length:
                return
            frame = bytes(self._buffer[:length])
            if is_sound(frame):
                del self._buffer[:length]
                yield frame
            else:
                del self._buffer[0]  # a SOM inside it may be the real one


class Gate:
    """libosdp's channel: what it writes goes out; what comes in it sees if it may.

    `is_secure(address)` says whether libosdp has a session with its own key there, and
    `misses_max(address)` how many commands in a row may go unanswered.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        is_secure: Callable[[int], bool],
        misses_max: Callable[[int], int],
        now: Callable[[], float],
        installing: frozenset[int] = frozenset(),
    ) -> None:
        self.id = 0
        self._write = write
        self._is_secure = is_secure
        self._misses_max = misses_max
        self._now = now
        self._installing = installing
        self._deframer = Deframer()
        self._ready = b""
        self._sent = b""
        self._sent_at = 0.0
        self._heard_at: float | None = None
        self._resends = 0
        self._busy = False
        self.waiting = False
        """Whether a command is out whose reply has not come."""
        self.address = 0
        self.command: int | None = None
        """Where the last command went, and its code."""
        self.answered_at: dict[int, float] = {}
        self.written_at: dict[int, float] = {}
        self.misses: dict[int, int] = {}
        """By address: when it last answered and was last asked, and how often it didn't since."""
        self.dropped = 0
        """Frames that libosdp was not shown."""
        self.formatted: list[int] = []
        """The addresses of readers that sent a card as osdp_FMT, since somebody last looked."""

    # --- libosdp's side ---------------------------------------------------------------------------

    def write(self, data: bytes) -> int:
        """Send one command; called by libosdp, so it raises nothing."""
        if self.waiting:  # its own time was up first
            self._missed()
        try:
            frame = data[data.index(SOM) :]
            self.address, self.command = frame[1], code_of(frame)
            self._send(frame, self._now())
            self._resends, self._busy = 0, False
            self.waiting = True
            self.written_at[self.address] = self._sent_at
            if self.misses.get(self.address, 0) > self._misses_max(self.address):
                self._refuse()
            else:
                self._write(data)
        except (OSError, ValueError, IndexError):
            return -1  # the loop meets the same error when it reads
        return len(data)

    def read(self, max_bytes: int) -> bytes:
        """Hand over the rest of a whole frame."""
        data, self._ready = self._ready[:max_bytes], self._ready[max_bytes:]
        return data

    def flush(self) -> None:
        """Forget what came before."""
        self._ready = b""
        self._deframer.clear()

    def _missed(self) -> None:
        self.waiting = False
        if not self._busy:
            self.misses[self.address] = self.misses.get(self.address, 0) + 1

    # --- the line's side --------------------------------------------------------------------------

    def _send(self, frame: bytes, at: float) -> None:
        self._sent, self._sent_at, self._heard_at = frame, at, None

    def receive(self, data: bytes) -> None:
        """Take what came over the line."""
        self._heard_at = self._now()
        for frame in self._deframer.receive(data):
            if self.waiting and self._may_pass(frame):
                self._ready = frame
                self.waiting = False
                if code_of(frame) == FMT and self._is_secure(self.address):
                    self.formatted.append(self.address)
                self.answered_at[self.address] = self._now()
                self.misses[self.address] = 0
            else:
                self.dropped += 1

    def _may_pass(self, frame: bytes) -> bool:
        code = code_of(frame)
        if frame[1] != self.address | REPLY or code is None:
            return False  # somebody else's, or late
        block = frame[4] & SECURITY_BLOCK
        if code == BUSY:
            self._busy = True
            return False
        if frame[4] & SEQUENCE != self._sent[4] & SEQUENCE or len(frame) > LIBOSDP_FRAME_BYTES_MAX:
            return False
        if code in (RAW, KEYPAD) and len(frame) > CARD_FRAME_BYTES_MAX:
            return False
        if self._is_secure(self.address):
            secured = block and frame[5] == 2 and frame[6] in SECURED
            return code == NAK if not secured else code != FTSTAT
        if self.address in self._installing:
            # Its session has the default key, and what comes in it goes no further (see `Bus`).
            return not block or code in HANDSHAKE or frame[6] in SECURED
        if not block:
            return code in IN_CLEAR
        return HANDSHAKE.get(code) == frame[6]

    def next_due(self) -> float:
        """When `tick` should be called, at the latest, while waiting."""
        at = self._sent_at + REPLY_S_MAX
        if self._heard_at is not None and self._resends < RESENDS_MAX:
            at = min(at, self._heard_at + QUIET_S)
        return at

    def tick(self) -> None:
        """Ask again for what came garbled, and refuse in the name of a reader that is silent.

        One that may miss some more is asked again by libosdp, a second after the first time.
        """
        if not self.waiting:
            return
        now = self._now()
        waited = now - self._sent_at
        if (
            self._heard_at is not None
            and now - self._heard_at >= QUIET_S
            and self._resends < RESENDS_MAX
            and waited < RESEND_WITHIN_S
        ):
            self._resends += 1
            self._heard_at = None
            self._deframer.clear()
            with suppress(OSError):
                self._write(b"\xff" + self._sent)
        elif waited >= REPLY_S_MAX:
            self._missed()
            if self.misses.get(self.address, 0) > self._misses_max(self.address):
                self._refuse()

    def _refuse(self) -> None:
        self.waiting = False
        control = self._sent[4] & (SEQUENCE | CRC_USED)
        self._ready = sealed(bytes([SOM, self.address | REPLY, 0, 0, control, NAK, 0x03]))


class Reader:
    """What this process knows of one reader."""

    def __init__(self, index: int, address: int, *, install_until: float | None) -> None:
        self.index = index
        self.address = address
        self.install = install_until is not None
        self.install_until = install_until
        self.up = False
        self.enabled = True
        self.enable_at: float | None = None
        self.commands: deque[int | None] = deque()
        """Ids of the commands that libosdp has not completed, in order."""


class Bus:
    """One line: libosdp's panel, its readers, and what is said of them."""

    def __init__(self, panel_of: Any, setup: dict[str, Any], write: Any, say: Any) -> None:
        """`panel_of(list of settings)` makes libosdp's panel; `say` takes what is to be told."""
        import osdp_sys  # noqa: PLC0415  # not on the way of those who only want the frames

        self._lib = osdp_sys
        self._say = say
        self._now = time.monotonic
        self._events: list[tuple[int, dict[str, Any], int]] = []
        self._done: list[tuple[int, int]] = []
        self._said_at = 0.0
        readers = [
            Reader(
                index,
                each["address"],
                install_until=each["install_s"] and self._now() + each["install_s"],
            )
            for index, each in enumerate(setup["readers"])
        ]
        self.readers = {reader.address: reader for reader in readers}
        self._by_index = readers
        installing = frozenset(reader.address for reader in readers if reader.install)
        self.gate = Gate(write, self._is_secure, self._misses_max, self._now, installing)
        self._panel = panel_of(
            [self._info(each, index, setup) for index, each in enumerate(setup["readers"])]
        )
        self._panel.set_event_callback(self._take_event)
        self._panel.set_command_completion_callback(self._take_completion)

    def _info(self, reader: dict[str, Any], index: int, setup: dict[str, Any]) -> dict[str, Any]:
        lib = self._lib
        flags = lib.FLAG_ENABLE_NOTIFICATION | lib.FLAG_IGN_UNSOLICITED
        if reader["install_s"] is None:
            flags |= lib.FLAG_ENFORCE_SECURE
        return {
            "name": f"r{index}",
            "address": reader["address"],
            "baud_rate": setup["baud_rate"],
            "flags": flags,
            "scbk": bytes.fromhex(reader["key"]),
            "channel": self.gate,
            # Of no meaning for a control panel, but the binding asks for them.
            "version": 1,
            "model": 1,
            "vendor_code": 1,
            "serial_number": 1,
            "firmware_version": 1,
        }

    # --- called by libosdp, from within refresh(): they only take note ---------------------------

    def _take_event(self, index: int, event: dict[str, Any]) -> int:
        reader = self._by_index[index]
        # Behind the gate this can't be otherwise; it is cheap to be sure.
        if event["event"] == self._lib.EVENT_NOTIFICATION or self._is_secure(reader.address):
            self._events.append((index, event, time.monotonic_ns()))
        return 0

    def _take_completion(self, index: int, _command: dict[str, Any], status: int) -> None:
        self._done.append((index, status))

    def _is_secure(self, address: int) -> bool:
        # The bit is not set in a session with the default key.
        return bool(self._panel.sc_status() >> self.readers[address].index & 1)

    def _misses_max(self, address: int) -> int:
        return MISSES_MAX if self.readers[address].up else 0

    # --- the loop's side --------------------------------------------------------------------------

    def step(self) -> None:
        """Let libosdp do what it can do now, and say what came of it."""
        gate = self.gate
        gate.tick()
        # An exchange takes libosdp several steps, of which only the wire has to be waited for.
        for _ in range(4):
            self._panel.refresh()
            if gate.waiting:
                break
        self._tell_events()
        now = self._now()
        for reader in self._by_index:
            self._follow(reader, now)
        if now - self._said_at >= HEARTBEAT_S:
            self._said_at = now
            self._say({"say": "alive"})

    def timeout_s(self) -> float:
        """For how long nothing needs to be done unless something comes."""
        now = self._now()
        if self.gate.waiting:
            return min(max(0.0, self.gate.next_due() - now), IDLE_TICK_S_MAX)
        due = now + IDLE_TICK_S_MAX
        for reader in self._by_index:
            if reader.up and not reader.commands:
                due = min(due, self.gate.answered_at.get(reader.address, 0.0) + POLL_S)
            elif reader.enabled or reader.enable_at is not None or reader.commands:
                return BUSY_TICK_S
        return max(BUSY_TICK_S, due - now)

    def _tell_events(self) -> None:
        for address in self.gate.formatted:
            self._say({"say": "formatted", "address": address, "ns": time.monotonic_ns()})
        self.gate.formatted.clear()
        events, self._events = self._events, []
        lib = self._lib
        for index, event, at_ns in events:
            reader = self._by_index[index]
            if event["event"] == lib.EVENT_NOTIFICATION:
                if event["type"] == lib.EVENT_NOTIFICATION_PD_STATUS and not event["arg0"]:
                    self._went_offline(reader)
                elif event["type"] == lib.EVENT_NOTIFICATION_PD_STATUS:
                    self._came_online(reader)
                continue
            if not reader.up:
                continue
            said = self._told(event)
            if said is not None:
                self._say({"address": reader.address, "ns": at_ns, **said})
        done, self._done = self._done, []
        for index, status in done:
            commands = self._by_index[index].commands
            number = commands.popleft() if commands else None
            if number is not None:
                self._say({"say": "done", "id": number, "ok": status == lib.COMPLETION_OK})

    def _told(self, event: dict[str, Any]) -> dict[str, Any] | None:
        lib = self._lib
        if event["event"] == lib.EVENT_CARDREAD:
            bits = "".join(f"{octet:08b}" for octet in event["data"])
            return {"say": "card", "bits": bits[: event.get("length", len(bits))]}
        if event["event"] == lib.EVENT_KEYPRESS:
            return {"say": "keys", "keys": event["data"].hex()}
        if event["event"] == lib.EVENT_STATUS:
            kinds = {
                lib.STATUS_REPORT_LOCAL: "local",
                lib.STATUS_REPORT_INPUT: "inputs",
                lib.STATUS_REPORT_OUTPUT: "outputs",
                lib.STATUS_REPORT_REMOTE: "remote",
            }
            return {"say": kinds[event["type"]], "states": list(event["report"])}
        return None

    def _came_online(self, reader: Reader) -> None:
        if reader.up:
            return
        if not self._is_secure(reader.address):  # only while installing
            self._went_offline(reader)
            return
        reader.up = True
        panel, lib = self._panel, self._lib

        def count(capability: int) -> int:
            level, number = panel.check_capability(reader.index, capability)
            return int(number) if level else 0

        identity = panel.get_pd_id(reader.index)
        self._say(
            {
                "say": "up",
                "address": reader.address,
                "ns": time.monotonic_ns(),
                "inputs": count(lib.CAP_CONTACT_STATUS_MONITORING),
                "outputs": count(lib.CAP_OUTPUT_CONTROL),
                "leds": count(lib.CAP_READER_LED_CONTROL),
                "buzzers": panel.check_capability(reader.index, lib.CAP_READER_AUDIBLE_OUTPUT)[0],
                "vendor": identity["vendor_code"],
                "model": identity["model"],
                "serial": identity["serial_number"],
            }
        )

    def _went_offline(self, reader: Reader) -> None:
        if not reader.enabled:
            return  # disabling it is told in the same way
        why = self._why(reader)
        reader.up = False
        reader.enabled = False
        self._say({"say": "down", "address": reader.address, "why": why})
        for number in reader.commands:
            if number is not None:
                self._say({"say": "done", "id": number, "ok": False})
        reader.commands.clear()
        self._panel.flush_commands(reader.index)
        self._panel.disable_pd(reader.index)
        if reader.install:
            reader.enable_at = self._now() + INSTALL_RETRY_S

    def _why(self, reader: Reader) -> str:
        if self.gate.misses.get(reader.address, 0):
            return "doesn't answer"
        if reader.install:
            return "refuses the default key: it is not in install mode"
        if reader.up:
            return "its secure channel is lost"
        if self.gate.address == reader.address and self.gate.command in (CHLNG, SCRYPT):
            return "refuses the secure channel: not this reader's key"
        if self.gate.address == reader.address and self.gate.command == CAP:
            return "has no secure channel"
        return "refuses to talk"

    def _follow(self, reader: Reader, now: float) -> None:
        if reader.enable_at is not None and now >= reader.enable_at:
            reader.enable_at = None
            self.gate.misses[reader.address] = 0
            reader.enabled = bool(self._panel.enable_pd(reader.index))
            if not reader.enabled:  # libosdp has not got round to disabling it
                reader.enable_at = now + ENABLE_S
        if reader.install_until is not None and now >= reader.install_until:
            raise TimeoutError(errno.ETIME, "the install window is over")
        if reader.up and now - self.gate.written_at.get(reader.address, now) > UNPOLLED_S_MAX:
            raise TimeoutError(errno.ETIME, "libosdp polls nobody")

    # --- commands ---------------------------------------------------------------------------------

    def order(self, command: dict[str, Any]) -> None:
        """Carry out one command of the parent. Raises KeyError and alike for one that is none."""
        reader = self.readers[command["address"]]
        match command["do"]:
            case "enable":
                if not reader.enabled and reader.enable_at is None:
                    reader.enable_at = self._now() + ENABLE_S
            case "disable":
                reader.up = reader.enabled = False
                reader.enable_at = None
                self._panel.disable_pd(reader.index)
            case "submit":
                lib = self._lib
                codes = {
                    "output": lib.CMD_OUTPUT,
                    "led": lib.CMD_LED,
                    "buzzer": lib.CMD_BUZZER,
                    "status": lib.CMD_STATUS,
                }
                fields: dict[str, Any] = dict(command["fields"])
                if not 0 <= fields.get("timer_count", 0) <= TIMER_COUNT_MAX:
                    raise ValueError
                if "report" in fields:
                    reports = {
                        "local": lib.STATUS_REPORT_LOCAL,
                        "inputs": lib.STATUS_REPORT_INPUT,
                        "outputs": lib.STATUS_REPORT_OUTPUT,
                    }
                    fields["type"] = reports[fields.pop("report")]
                fields["command"] = codes[command["what"]]
                if reader.up and self._panel.submit_command(reader.index, fields):
                    reader.commands.append(command.get("id"))
                elif command.get("id") is not None:
                    self._say({"say": "done", "id": command["id"], "ok": False})
            case other:
                raise KeyError(other)


def open_line(port: str, baud_rate: int) -> Any:
    """The serial port, raw, for this process alone. Raises what pyserial does."""
    import serial  # noqa: PLC0415

    return serial.Serial(port, baud_rate, timeout=0, write_timeout=0.2, exclusive=True)


class _Said:
    """The parent's lines."""

    def __init__(self) -> None:
        self._buffer = b""

    def read(self) -> list[dict[str, Any]]:
        """Those that are complete; the process ends with its standard input."""
        data = os.read(0, 65_536)
        if not data:
            os._exit(0)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > COMMAND_BYTES_MAX:
            raise ValueError("command")
        return [json.loads(line) for line in lines]


def run(said: _Said, say: Callable[[dict[str, Any]], None]) -> None:
    """Serve one line until an error. Returns never."""
    commands: list[dict[str, Any]] = []
    while not commands:
        commands = said.read()
    setup = commands.pop(0)
    if not PORT.fullmatch(setup["port"]) or len(setup["readers"]) > READERS_MAX:
        raise ValueError("port")
    line = open_line(setup["port"], setup["baud_rate"])
    descriptor = line.fileno()
    os.set_blocking(descriptor, False)
    import osdp_sys  # noqa: PLC0415

    osdp_sys.set_loglevel(osdp_sys.LOG_EMERG)
    bus = Bus(osdp_sys.ControlPanel, setup, lambda data: _write(descriptor, data), say)
    setup.clear()
    _lock_in()
    say({"say": "ready"})
    while True:
        for command in commands:
            bus.order(command)
        commands = []
        bus.step()
        ready, _, _ = select.select([0, descriptor], [], [], bus.timeout_s())
        if 0 in ready:
            commands = said.read()
        if descriptor in ready:
            data = os.read(descriptor, 4096)
            if not data:
                raise OSError(errno.EIO, "hung up")
            bus.gate.receive(data)


def _lock_in() -> None:
    """Give up what an open port doesn't need, by `confinement.py` beside this file."""
    place = Path(__file__).with_name("confinement.py")
    spec = importlib.util.spec_from_file_location("confinement", place)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018  # it is a file
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    loaded.lock_in()  # where it can't, the core has logged why


def _write(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) != len(data):
        raise BlockingIOError(errno.EAGAIN, "the line takes no byte")


def main() -> None:
    """Run until killed. Never returns."""
    _, parent = sys.argv
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        os._exit(2)
    messages = os.dup(1)
    os.dup2(2, 1)  # nothing else may print into it, libosdp least of all

    def say(message: dict[str, Any]) -> None:
        os.write(messages, json.dumps(message, separators=(",", ":")).encode() + b"\n")

    try:
        run(_Said(), say)
    except BrokenPipeError:
        pass
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is this process's end
        number = getattr(error, "errno", None)
        # Not its text: that may quote a line that has a key or a PIN in it.
        say(
            {
                "say": "ended",
                "why": f"{type(error).__name__} {errno.errorcode.get(number or 0, '')}",
            }
        )
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
