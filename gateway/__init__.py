"""The access-control gateway of one site: decides taps, drives doors, reports events."""

__version__ = "0.1.0"
