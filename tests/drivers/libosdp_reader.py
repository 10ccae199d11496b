"""libosdp in the peripheral's role, as a peer: `python libosdp_reader.py FD ADDRESS` on a pty.

One JSON object a line on standard input: first `{"key": hex, "install": bool}`, then what happens
at the reader (`{"card": bits}`, `{"keys": "12#"}`). On standard output: what the panel told it.
"""

import json
import os
import select
import sys
import time
from contextlib import suppress
from typing import Any

import osdp_sys


class Channel:
    """The pty's other end; a frame that comes in two pieces is handed over whole."""

    id = 1

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._in = b""

    def read(self, max_bytes: int) -> bytes:
        with suppress(OSError):
            self._in += os.read(self._descriptor, 4096)
        start = self._in.find(b"\x53")
        if start < 0 or len(self._in) < start + 5:
            return b""
        size = start + int.from_bytes(self._in[start + 2 : start + 4], "little")
        if len(self._in) < size:
            return b""
        frame, self._in = self._in[: min(size, max_bytes)], self._in[min(size, max_bytes) :]
        return frame

    def write(self, data: bytes) -> int:
        return os.write(self._descriptor, data)

    def flush(self) -> None:
        """Nothing waits here."""


def main() -> None:
    descriptor, address = int(sys.argv[1]), int(sys.argv[2])
    os.set_blocking(descriptor, False)
    said = json.loads(sys.stdin.readline())
    osdp_sys.set_loglevel(osdp_sys.LOG_EMERG)
    info = {
        "name": "peer",
        "address": address,
        "flags": osdp_sys.FLAG_INSTALL_MODE if said["install"] else osdp_sys.FLAG_ENFORCE_SECURE,
        "scbk": bytes.fromhex(said["key"]) if said["key"] else None,
        "channel": Channel(descriptor),
        "version": 1,
        "model": 1,
        "vendor_code": 0x123456,
        "serial_number": 0x789,
        "firmware_version": 0x10203,
    }
    capabilities = [
        (osdp_sys.CAP_OUTPUT_CONTROL, 1, 1),
        (osdp_sys.CAP_CONTACT_STATUS_MONITORING, 1, 1),
        (osdp_sys.CAP_READER_LED_CONTROL, 1, 1),
        (osdp_sys.CAP_READER_AUDIBLE_OUTPUT, 1, 1),
        (osdp_sys.CAP_CARD_DATA_FORMAT, 1, 0),
    ]
    reader = osdp_sys.PeripheralDevice(
        info,
        capabilities=[
            {"function_code": code, "compliance_level": level, "num_items": count}
            for code, level, count in capabilities
        ],
    )

    def command(fields: dict[str, Any]) -> tuple[int, Any]:
        told = {k: v.hex() if isinstance(v, bytes) else v for k, v in fields.items()}
        print(json.dumps(told), flush=True)
        if fields["command"] == osdp_sys.CMD_STATUS:
            local = fields["type"] == osdp_sys.STATUS_REPORT_LOCAL
            return 0, {**fields, "report": bytes(2 if local else 1)}
        return 0, None

    reader.set_command_callback(command)
    pending = b""
    while True:
        reader.refresh()
        ready, _, _ = select.select([0, descriptor], [], [], 0.002)
        if 0 not in ready:
            time.sleep(0.0005)  # noqa: TID251  # a hung-up pty is always readable
            continue
        data = os.read(0, 4096)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "card" in told:
                bits = told["card"]
                whole = bits.ljust(-(-len(bits) // 8) * 8, "0")
                reader.submit_event(
                    {
                        "event": osdp_sys.EVENT_CARDREAD,
                        "reader_no": 0,
                        "format": osdp_sys.CARD_FMT_RAW_UNSPECIFIED,
                        "direction": 0,
                        "length": len(bits),
                        "data": int(whole, 2).to_bytes(len(whole) // 8, "big"),
                    }
                )
            else:
                data = told["keys"].encode()
                event = {"event": osdp_sys.EVENT_KEYPRESS, "reader_no": 0, "data": data}
                reader.submit_event(event)


if __name__ == "__main__":
    main()
