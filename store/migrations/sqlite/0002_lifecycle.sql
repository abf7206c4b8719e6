-- Policies, plans and lists are JSON; lengths of time in them nanoseconds.
-- mac is the seal of a row; rows from before have none and are not trusted.

ALTER TABLE meta ADD COLUMN last_event INTEGER NOT NULL DEFAULT 0; -- the highest id ever given

ALTER TABLE keys ADD COLUMN policy TEXT NOT NULL DEFAULT '{}';
UPDATE keys SET policy = json_object('period', period * 1000) WHERE period <> 0;
ALTER TABLE keys DROP COLUMN period;
ALTER TABLE keys ADD COLUMN delete_at INTEGER;
ALTER TABLE keys ADD COLUMN mac BLOB; -- of this row and all its versions

ALTER TABLE versions ADD COLUMN label TEXT NOT NULL DEFAULT '';
ALTER TABLE versions ADD COLUMN activated_at INTEGER;

ALTER TABLE rotations ADD COLUMN note TEXT NOT NULL DEFAULT '';
ALTER TABLE rotations ADD COLUMN plan TEXT NOT NULL DEFAULT '{}';
ALTER TABLE rotations ADD COLUMN activate_at INTEGER;
ALTER TABLE rotations ADD COLUMN announced_at INTEGER;
ALTER TABLE rotations ADD COLUMN switch_at INTEGER;
ALTER TABLE rotations ADD COLUMN expected TEXT NOT NULL DEFAULT '[]';
ALTER TABLE rotations ADD COLUMN skipped TEXT NOT NULL DEFAULT '[]';
ALTER TABLE rotations ADD COLUMN forced_by TEXT NOT NULL DEFAULT '';
ALTER TABLE rotations ADD COLUMN ended_by TEXT NOT NULL DEFAULT '';
ALTER TABLE rotations ADD COLUMN mac BLOB;

CREATE TABLE events (
    id       INTEGER PRIMARY KEY,
    type     TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    key_name TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    due      INTEGER,
    rotation TEXT    NOT NULL,
    reason   TEXT    NOT NULL
) STRICT;

CREATE TABLE agents (
    principal  TEXT    PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    first_seen INTEGER NOT NULL,
    last_seen  INTEGER NOT NULL
) STRICT;

-- What is sealed as a whole, so that no part of it can be taken away: the
-- list of blocked principals.
CREATE TABLE sealed (
    name     TEXT    PRIMARY KEY,
    body     TEXT    NOT NULL,
    revision INTEGER NOT NULL, -- of the last change
    mac      BLOB
) STRICT;

CREATE TABLE subscriptions (
    key_name  TEXT    NOT NULL,
    principal TEXT    NOT NULL,
    since     INTEGER NOT NULL,
    PRIMARY KEY (key_name, principal)
) STRICT;

CREATE INDEX subscriptions_principal ON subscriptions (principal, key_name);

CREATE TABLE acks (
    key_name  TEXT    NOT NULL,
    version   INTEGER NOT NULL,
    principal TEXT    NOT NULL,
    at        INTEGER NOT NULL,
    PRIMARY KEY (key_name, version, principal)
) STRICT;

CREATE INDEX acks_principal ON acks (principal, key_name);

CREATE TABLE usage (
    key_name  TEXT    NOT NULL,
    version   INTEGER NOT NULL,
    principal TEXT    NOT NULL,
    node      TEXT    NOT NULL,
    applied   INTEGER NOT NULL,
    processed INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,
    last_use  INTEGER,
    PRIMARY KEY (key_name, version, principal, node)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_node ON usage (node, key_name);

CREATE TABLE approvals (
    id           TEXT    PRIMARY KEY,
    action       TEXT    NOT NULL,
    key_name     TEXT    NOT NULL,
    version      INTEGER NOT NULL,
    force        INTEGER NOT NULL,
    note         TEXT    NOT NULL,
    state        TEXT    NOT NULL,
    requested_by TEXT    NOT NULL,
    requested_as TEXT    NOT NULL, -- JSON list
    request_id   TEXT    NOT NULL,
    requested_at INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    decided_by   TEXT    NOT NULL,
    decided_at   INTEGER,
    decided_note TEXT    NOT NULL,
    error        TEXT    NOT NULL,
    mac          BLOB
) STRICT;

CREATE INDEX approvals_state ON approvals (state, id);

CREATE TABLE hooks (
    name       TEXT    PRIMARY KEY,
    cursor     INTEGER NOT NULL,
    failures   INTEGER NOT NULL,
    first_fail INTEGER,
    retry_at   INTEGER,
    last_error TEXT    NOT NULL,
    last_ok    INTEGER
) STRICT;

CREATE TABLE dead_events (
    hook     TEXT    NOT NULL,
    id       INTEGER NOT NULL,
    type     TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    key_name TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    due      INTEGER,
    rotation TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    error    TEXT    NOT NULL,
    given_up INTEGER NOT NULL,
    PRIMARY KEY (hook, id)
) STRICT;
