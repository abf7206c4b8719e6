-- The whole schema: no older one was ever on PostgreSQL. It has the columns
-- that SQLite's has (migrations/sqlite), where what they hold is explained.
-- Texts sort by their bytes, and the zero byte, which PostgreSQL has not, is
-- kept as 01 01, and 01 as 01 02. Times are microseconds since 1970.

CREATE TABLE meta (
    id         BIGINT PRIMARY KEY CHECK (id = 1),
    revision   BIGINT NOT NULL,
    last_event BIGINT NOT NULL
);

INSERT INTO meta (id, revision, last_event) VALUES (1, 0, 0);

CREATE TABLE keys (
    name        TEXT COLLATE "C" PRIMARY KEY,
    purpose     TEXT COLLATE "C" NOT NULL,
    algorithm   TEXT COLLATE "C" NOT NULL,
    bits        BIGINT NOT NULL,
    description TEXT COLLATE "C" NOT NULL,
    tags        TEXT COLLATE "C" NOT NULL,
    token       TEXT COLLATE "C" NOT NULL,
    policy      TEXT COLLATE "C" NOT NULL,
    epoch       BIGINT NOT NULL CHECK (epoch > 0),
    created_at  BIGINT,
    delete_at   BIGINT,
    revision    BIGINT NOT NULL,
    mac         BYTEA
);

CREATE INDEX keys_revision ON keys (revision);

CREATE TABLE versions (
    key_name          TEXT COLLATE "C" NOT NULL REFERENCES keys (name),
    number            BIGINT  NOT NULL CHECK (number BETWEEN 1 AND 4294967295),
    cka_id            BYTEA   NOT NULL UNIQUE CHECK (length(cka_id) = 16),
    algorithm         TEXT COLLATE "C" NOT NULL,
    bits              BIGINT  NOT NULL,
    label             TEXT COLLATE "C" NOT NULL,
    public_key        BYTEA,
    check_value       BYTEA,
    never_extractable BOOLEAN NOT NULL,
    always_sensitive  BOOLEAN NOT NULL,
    reserved_at       BIGINT  NOT NULL,
    created_at        BIGINT,
    announced_at      BIGINT,
    activate_at       BIGINT,
    activated_at      BIGINT,
    suspended_at      BIGINT,
    revoked_at        BIGINT,
    archived_at       BIGINT,
    destroy_at        BIGINT,
    destroyed_at      BIGINT,
    revoke_reason     TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (key_name, number)
);

CREATE TABLE rotations (
    id           TEXT COLLATE "C" PRIMARY KEY,
    key_name     TEXT COLLATE "C" NOT NULL,
    from_version BIGINT NOT NULL,
    to_version   BIGINT NOT NULL,
    reason       TEXT COLLATE "C" NOT NULL,
    note         TEXT COLLATE "C" NOT NULL,
    phase        TEXT COLLATE "C" NOT NULL,
    started_by   TEXT COLLATE "C" NOT NULL,
    request_id   TEXT COLLATE "C" NOT NULL,
    started_at   BIGINT,
    completed_at BIGINT,
    error        TEXT COLLATE "C" NOT NULL,
    plan         TEXT COLLATE "C" NOT NULL,
    activate_at  BIGINT,
    announced_at BIGINT,
    switch_at    BIGINT,
    expected     TEXT COLLATE "C" NOT NULL,
    skipped      TEXT COLLATE "C" NOT NULL,
    forced_by    TEXT COLLATE "C" NOT NULL,
    ended_by     TEXT COLLATE "C" NOT NULL,
    mac          BYTEA
);

CREATE UNIQUE INDEX rotations_open ON rotations (key_name) WHERE phase NOT IN ('completed', 'aborted');
CREATE INDEX rotations_key ON rotations (key_name, id);
CREATE INDEX rotations_request ON rotations (request_id) WHERE request_id <> '';

CREATE TABLE tombstones (
    name         TEXT COLLATE "C" PRIMARY KEY,
    last_version BIGINT NOT NULL,
    revision     BIGINT NOT NULL
);

CREATE TABLE deletions (
    name     TEXT COLLATE "C" PRIMARY KEY,
    revision BIGINT NOT NULL
);

CREATE INDEX deletions_revision ON deletions (revision);

CREATE TABLE attempts (
    principal   TEXT COLLATE "C" NOT NULL,
    key         TEXT COLLATE "C" NOT NULL,
    fingerprint TEXT COLLATE "C" NOT NULL,
    request_id  TEXT COLLATE "C" NOT NULL,
    started_at  BIGINT NOT NULL,
    status      BIGINT NOT NULL,
    body        BYTEA,
    PRIMARY KEY (principal, key)
);

CREATE INDEX attempts_started ON attempts (started_at);

CREATE TABLE events (
    id       BIGINT PRIMARY KEY,
    type     TEXT COLLATE "C" NOT NULL,
    at       BIGINT NOT NULL,
    key_name TEXT COLLATE "C" NOT NULL,
    version  BIGINT NOT NULL,
    due      BIGINT,
    rotation TEXT COLLATE "C" NOT NULL,
    reason   TEXT COLLATE "C" NOT NULL
);

CREATE TABLE agents (
    principal  TEXT COLLATE "C" PRIMARY KEY,
    id         TEXT COLLATE "C" NOT NULL UNIQUE,
    first_seen BIGINT NOT NULL,
    last_seen  BIGINT NOT NULL
);

CREATE TABLE sealed (
    name     TEXT COLLATE "C" PRIMARY KEY,
    body     TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    mac      BYTEA
);

CREATE TABLE subscriptions (
    key_name  TEXT COLLATE "C" NOT NULL,
    principal TEXT COLLATE "C" NOT NULL,
    since     BIGINT NOT NULL,
    PRIMARY KEY (key_name, principal)
);

CREATE INDEX subscriptions_principal ON subscriptions (principal, key_name);

CREATE TABLE acks (
    key_name  TEXT COLLATE "C" NOT NULL,
    version   BIGINT NOT NULL,
    principal TEXT COLLATE "C" NOT NULL,
    at        BIGINT NOT NULL,
    PRIMARY KEY (key_name, version, principal)
);

CREATE INDEX acks_principal ON acks (principal, key_name);

CREATE TABLE usage (
    key_name  TEXT COLLATE "C" NOT NULL,
    version   BIGINT NOT NULL,
    principal TEXT COLLATE "C" NOT NULL,
    node      TEXT COLLATE "C" NOT NULL,
    applied   BIGINT NOT NULL,
    processed BIGINT NOT NULL,
    bytes     BIGINT NOT NULL,
    last_use  BIGINT,
    PRIMARY KEY (key_name, version, principal, node)
);

CREATE INDEX usage_node ON usage (node, key_name);

CREATE TABLE approvals (
    id           TEXT COLLATE "C" PRIMARY KEY,
    action       TEXT COLLATE "C" NOT NULL,
    key_name     TEXT COLLATE "C" NOT NULL,
    version      BIGINT  NOT NULL,
    force        BOOLEAN NOT NULL,
    note         TEXT COLLATE "C" NOT NULL,
    state        TEXT COLLATE "C" NOT NULL,
    requested_by TEXT COLLATE "C" NOT NULL,
    requested_as TEXT COLLATE "C" NOT NULL,
    request_id   TEXT COLLATE "C" NOT NULL,
    requested_at BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    decided_by   TEXT COLLATE "C" NOT NULL,
    decided_at   BIGINT,
    decided_note TEXT COLLATE "C" NOT NULL,
    error        TEXT COLLATE "C" NOT NULL,
    mac          BYTEA
);

CREATE INDEX approvals_state ON approvals (state, id);

CREATE TABLE hooks (
    name       TEXT COLLATE "C" PRIMARY KEY,
    cursor     BIGINT NOT NULL,
    failures   BIGINT NOT NULL,
    first_fail BIGINT,
    retry_at   BIGINT,
    last_error TEXT COLLATE "C" NOT NULL,
    last_ok    BIGINT
);

CREATE TABLE dead_events (
    hook     TEXT COLLATE "C" NOT NULL,
    id       BIGINT NOT NULL,
    type     TEXT COLLATE "C" NOT NULL,
    at       BIGINT NOT NULL,
    key_name TEXT COLLATE "C" NOT NULL,
    version  BIGINT NOT NULL,
    due      BIGINT,
    rotation TEXT COLLATE "C" NOT NULL,
    reason   TEXT COLLATE "C" NOT NULL,
    error    TEXT COLLATE "C" NOT NULL,
    given_up BIGINT NOT NULL,
    PRIMARY KEY (hook, id)
);

CREATE TABLE leases (
    name   TEXT COLLATE "C" PRIMARY KEY,
    holder TEXT COLLATE "C" NOT NULL,
    until  BIGINT NOT NULL
);

CREATE TABLE nodes (
    instance   TEXT COLLATE "C" PRIMARY KEY,
    name       TEXT COLLATE "C" NOT NULL,
    version    TEXT COLLATE "C" NOT NULL,
    revision   BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL,
    until      BIGINT NOT NULL
);
