-- minimum_reader: the oldest schema whose release may use this file. stream: this file's random id.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('minimum_reader', '1'), ('stream', lower(hex(randomblob(8))));

-- seq is dense; at is in ms since 1970 (UTC), trust that of at. body is the event's canonical JSON
-- without its personal part, which is in personal behind 16 bytes of salt; erased, its commitment
-- stands in its place. chain: gateway/journal/chain.py.
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    trust INTEGER NOT NULL,
    code TEXT NOT NULL,
    priority INTEGER NOT NULL,
    body BLOB NOT NULL,
    personal BLOB,
    erased BLOB,
    chain BLOB NOT NULL
) STRICT;

-- Alarms and emergencies go ahead of a backlog (gateway.domain.events.Priority.ALARM).
CREATE INDEX event_urgent ON event (seq) WHERE priority >= 2;

-- acknowledged: all events up to it have arrived. purged: all up to it have been deleted here, and
-- purged_chain is the last one's chain, from which the rest can be verified.
CREATE TABLE mark (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    acknowledged INTEGER NOT NULL,
    purged INTEGER NOT NULL,
    purged_chain BLOB
) STRICT;
INSERT INTO mark VALUES (1, 0, 0, NULL);

-- Damaged journals that were set aside beside this file, once what reads of them has been taken over.
CREATE TABLE aside (kept_as TEXT PRIMARY KEY, stream TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- Whatever still read in them, under its own stream and seq.
CREATE TABLE salvaged (
    stream TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX salvaged_by_time ON salvaged (at);
