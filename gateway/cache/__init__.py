"""The entitlements in force: may be lost and fetched again, and never widen what a tap can open."""

from gateway.cache.cache import Applied, Cache, Rebuilt
from gateway.cache.compiled import CompiledEntitlements
from gateway.cache.key import CredentialKey, read_key

__all__ = ["Applied", "Cache", "CompiledEntitlements", "CredentialKey", "Rebuilt", "read_key"]
