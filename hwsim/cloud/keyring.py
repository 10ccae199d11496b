"""The keys of a source of truth and the key set that names them."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hwsim.cloud.signing import document, kid_of

ROLES = ("root", "bundle", "freshness", "command", "grant")
ROOT = "door-gateway/root/v1"
YEAR_S = 365 * 86_400


def _fresh() -> dict[str, list[Ed25519PrivateKey]]:
    counts = {"root": 3, "bundle": 2}
    return {
        role: [Ed25519PrivateKey.generate() for _ in range(counts.get(role, 1))] for role in ROLES
    }


@dataclass
class Keyring:
    """A new one has a key set of its own: three root keys of which two sign, two for bundles."""

    site: str
    made: int
    version: int = 1
    keys: dict[str, list[Ed25519PrivateKey]] = field(default_factory=_fresh)
    root_threshold: int = 2

    def root(self, *, also: "Keyring | None" = None) -> bytes:
        """The root document; `also` is the key set before it, which signs too."""
        every = [key for role in ROLES for key in self.keys[role]]
        payload = {
            "site": self.site,
            "version": self.version,
            "made": self.made,
            "expires": self.made + YEAR_S,
            "keys": {
                kid_of(key.public_key()): key.public_key().public_bytes_raw() for key in every
            },
            "roles": {
                role: {
                    "keys": [kid_of(key.public_key()) for key in self.keys[role]],
                    "threshold": self.root_threshold if role == "root" else 1,
                }
                for role in ROLES
            },
        }
        signers = list(self.keys["root"][: self.root_threshold])
        if also is not None:
            signers += [key for key in also.keys["root"] if key not in signers]
        return document(payload, signers, ROOT)

    def successor(self, made: int, **replaced: list[Ed25519PrivateKey]) -> "Keyring":
        """The next key set, in which some roles have other keys."""
        return Keyring(self.site, made, self.version + 1, {**self.keys, **replaced})
