"""Reads the records in force from the state directory, for a command beside the core."""

import sqlite3
from pathlib import Path
from typing import NamedTuple

from gateway.cache.key import read_key
from gateway.cache.outcome import Place
from gateway.cache.sealed import SealedSet, check_seal, unseal
from gateway.cache.source import Source
from gateway.domain.entitlements import ValidRecords
from gateway.errors import StorageError
from gateway.sqlite import open_to_read


class RecordsInForce(NamedTuple):
    """One revision. Credentials have stand-ins for values: only their keyed hashes are kept."""

    revision: str
    records: ValidRecords


def records_in_force(directory: Path, key_file: Path, site: str) -> RecordsInForce:
    """Read and check what lies in a state directory, and change nothing there.

    Raises:
        RecordsRefused: an earlier release wrote them, and this one finds faults.
        StorageError: there are none, they are damaged, or this user may not read them.
    """
    path = Place(directory, site).source
    key = read_key(key_file)
    connection = open_to_read(path)
    try:
        source = Source(connection, path)
        seal, _ = source.seal(key)
        found = SealedSet(seal, list(source.lines()))
    except sqlite3.Error as error:
        raise StorageError(f"{path}: can't be read: {error}") from error
    finally:
        connection.close()
    # No lock is held: what was read while the core changed it doesn't add up to its seal.
    check_seal(found, key)
    return RecordsInForce(seal.revision, unseal(found.lines, site).records)
