-- minimum_reader: the oldest schema whose release may use this file.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('minimum_reader', '1');

-- The records in force, as sealed lines (gateway/cache/sealed.py): no credential value, no name.
CREATE TABLE record (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    line BLOB NOT NULL,
    leaf BLOB NOT NULL,
    mac BLOB NOT NULL,
    value TEXT, -- of a credential: its kind and keyed hash
    PRIMARY KEY (type, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX record_value ON record (value) WHERE value IS NOT NULL;

-- Whose a credential, booking or exception is.
CREATE TABLE part (
    holder TEXT NOT NULL,
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (holder, type, id)
) STRICT, WITHOUT ROWID;

-- The seal over all of them, and sums over them that a delta carries on.
CREATE TABLE seal (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    header BLOB NOT NULL,
    sums BLOB NOT NULL
) STRICT;
