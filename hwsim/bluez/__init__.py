"""Bluetooth without hardware: a radio, an `org.bluez` on a D-Bus of its own, and those in range."""
