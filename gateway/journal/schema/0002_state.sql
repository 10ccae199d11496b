-- What the site must remember besides what happened (lockouts, uses counted, modes, places), each
-- written in the transaction of the event that changed it.
CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
