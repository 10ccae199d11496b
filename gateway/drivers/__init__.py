"""Drivers: one file a device family."""

from collections.abc import Mapping
from typing import Final

from gateway.config.devices import DriverSpec
from gateway.drivers import (
    ascii_keypad,
    barcode_scanner,
    ble_lock,
    ble_reader,
    ble_scanner,
    gpio,
    modbus_relay,
    osdp,
    pn532,
    uhppote,
    wiegand_gpio,
    wiegand_serial,
)

REGISTRY: Final[Mapping[str, DriverSpec]] = {
    spec.name: spec
    for spec in (
        ascii_keypad.DRIVER,
        barcode_scanner.DRIVER,
        ble_lock.DRIVER,
        ble_reader.DRIVER,
        ble_scanner.DRIVER,
        gpio.DRIVER,
        modbus_relay.DRIVER,
        osdp.DRIVER,
        pn532.DRIVER,
        uhppote.DRIVER,
        wiegand_gpio.DRIVER,
        wiegand_serial.DRIVER,
    )
}
"""Every driver by the name that site.toml calls it."""
