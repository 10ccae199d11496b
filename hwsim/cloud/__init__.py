"""A small source of truth, written from docs/spec/trust.md and docs/spec/entitlements.md alone."""

from hwsim.cloud.cloud import Cloud, GatewayState
from hwsim.cloud.events import EventCloud
from hwsim.cloud.keyring import Keyring
from hwsim.cloud.records import RecordBook

__all__ = ["Cloud", "EventCloud", "GatewayState", "Keyring", "RecordBook"]
