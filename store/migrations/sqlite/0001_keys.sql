-- Times are microseconds since 1970, UTC; NULL means "not".

CREATE TABLE meta (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL -- grows by one with each commit
) STRICT;

INSERT INTO meta (id, revision) VALUES (1, 0);

CREATE TABLE keys (
    name        TEXT    PRIMARY KEY,
    purpose     TEXT    NOT NULL,
    algorithm   TEXT    NOT NULL,
    bits        INTEGER NOT NULL,
    description TEXT    NOT NULL,
    tags        TEXT    NOT NULL, -- JSON object of strings
    token       TEXT    NOT NULL,
    period      INTEGER NOT NULL, -- microseconds; 0: never rotated by itself
    epoch       INTEGER NOT NULL CHECK (epoch > 0),
    created_at  INTEGER,
    revision    INTEGER NOT NULL  -- of the last change
) STRICT;

CREATE INDEX keys_revision ON keys (revision);

CREATE TABLE versions (
    key_name          TEXT    NOT NULL REFERENCES keys (name),
    number            INTEGER NOT NULL CHECK (number BETWEEN 1 AND 4294967295),
    cka_id            BLOB    NOT NULL UNIQUE CHECK (length(cka_id) = 16),
    algorithm         TEXT    NOT NULL,
    bits              INTEGER NOT NULL,
    public_key        BLOB,
    check_value       BLOB,
    never_extractable INTEGER NOT NULL CHECK (never_extractable IN (0, 1)),
    always_sensitive  INTEGER NOT NULL CHECK (always_sensitive IN (0, 1)),
    reserved_at       INTEGER NOT NULL,
    created_at        INTEGER,
    announced_at      INTEGER,
    activate_at       INTEGER,
    suspended_at      INTEGER,
    revoked_at        INTEGER,
    archived_at       INTEGER,
    destroy_at        INTEGER,
    destroyed_at      INTEGER,
    revoke_reason     TEXT    NOT NULL,
    PRIMARY KEY (key_name, number)
) STRICT;

CREATE TABLE rotations (
    id           TEXT    PRIMARY KEY,
    key_name     TEXT    NOT NULL, -- stays when the key goes
    from_version INTEGER NOT NULL,
    to_version   INTEGER NOT NULL,
    reason       TEXT    NOT NULL,
    phase        TEXT    NOT NULL,
    started_by   TEXT    NOT NULL,
    request_id   TEXT    NOT NULL,
    started_at   INTEGER,
    completed_at INTEGER,
    error        TEXT    NOT NULL
) STRICT;

CREATE UNIQUE INDEX rotations_open ON rotations (key_name) WHERE phase NOT IN ('completed', 'aborted');
CREATE INDEX rotations_key ON rotations (key_name, id);
CREATE INDEX rotations_request ON rotations (request_id) WHERE request_id <> '';

-- Names that a deleted key had and no key may have again.
CREATE TABLE tombstones (
    name         TEXT    PRIMARY KEY,
    last_version INTEGER NOT NULL,
    revision     INTEGER NOT NULL
) STRICT;

-- Names whose last change was a deletion, for those who follow the changes.
CREATE TABLE deletions (
    name     TEXT    PRIMARY KEY,
    revision INTEGER NOT NULL
) STRICT;

CREATE INDEX deletions_revision ON deletions (revision);

CREATE TABLE attempts (
    principal   TEXT    NOT NULL,
    key         TEXT    NOT NULL, -- the Idempotency-Key
    fingerprint TEXT    NOT NULL,
    request_id  TEXT    NOT NULL,
    started_at  INTEGER NOT NULL,
    status      INTEGER NOT NULL, -- 0: not answered yet
    body        BLOB,
    PRIMARY KEY (principal, key)
) STRICT;

CREATE INDEX attempts_started ON attempts (started_at);
