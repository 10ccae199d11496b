"""Drivers: one file a device family."""
