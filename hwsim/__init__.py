"""Simulated hardware of a site, at the wire: readers, keypads, relay boards, doors and people.

It imports nothing from the gateway and is written from the devices' manuals alone, so that a
misreading of a manual cannot hide in both ends of the line.
"""
