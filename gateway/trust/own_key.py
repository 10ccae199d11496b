"""The gateway's own key: what it signs itself, results and reports."""

import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.statedir import sync_directory
from gateway.trust.keys import read_private_key, write_key

GATEWAY_KEY = "gateway.key"
"""Its name in the state directory and among what a service manager hands over."""


def gateway_key(state: Path, environment: Mapping[str, str]) -> Ed25519PrivateKey:
    """The gateway's own key: among the credentials that systemd handed over (systemd.exec(5)), or
    else in the state directory, made there at the first start.

    Raises:
        StorageError: it can't be read or written, or others may read it.
    """
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if directory and os.access(handed := Path(directory) / GATEWAY_KEY, os.F_OK):
        return read_private_key(handed)
    path = state / GATEWAY_KEY
    if not path.exists():
        making = path.with_name(f".{path.name}.new")
        making.unlink(missing_ok=True)
        write_key(making, Ed25519PrivateKey.generate())
        making.rename(path)
        sync_directory(state)
    return read_private_key(path)
