"""PyPI's `osdp` as control panel, as a peer: `python osdp_panel.py PORT ADDRESS MASTER_KEY`.

It runs in an environment of its own, since libosdp's module has the same name. What it reads of the
reader stands on standard output, one JSON object a line; it ends with its standard input.
"""

import json
import sys
from typing import Any


def main() -> None:
    import osdp  # noqa: PLC0415  # another module than the one that type checkers see

    port, address, master_key = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])

    def say(**fields: Any) -> None:
        print(json.dumps(fields), flush=True)

    class Panel(osdp.ControlPanel):  # type: ignore[misc]
        def on_raw_card_data_reply_received(self, address: int, raw: Any) -> None:
            bits = "".join(f"{octet:08b}" for octet in raw.data)
            say(card=bits[: raw.bit_count])

        def on_keypad_data_reply_received(self, address: int, keypad: Any) -> None:
            say(keys=bytes(keypad.data).hex())

    panel = Panel(master_key=master_key)
    bus = panel.start_connection(osdp.SerialPortOsdpConnection(port=port, baud_rate=115200))
    panel.add_device(connection_id=bus, address=address, use_crc=True, use_secure_channel=True)
    identity = panel.id_report(bus, address)
    say(vendor=bytes(identity.vendor_code).hex())
    say(tamper=bool(panel.local_status(bus, address).tamper))
    sys.stdin.read()
    panel.shutdown()


if __name__ == "__main__":
    main()
