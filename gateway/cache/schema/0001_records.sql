-- minimum_reader: the oldest schema whose release may use this file.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('minimum_reader', '1');

-- The records in force, as sealed lines (gateway/cache/sealed.py): no credential value, no name.
CREATE TABLE record (
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    line BLOB NOT NULL,
    PRIMARY KEY (type, id)
) STRICT, WITHOUT ROWID;

-- The seal over all of them.
CREATE TABLE seal (only INTEGER PRIMARY KEY CHECK (only = 1), header BLOB NOT NULL) STRICT;
