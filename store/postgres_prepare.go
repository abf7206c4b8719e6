package store

import (
	"context"
	"database/sql"
	"time"

	"keyhole/keys"
	"keyhole/store/internal/postgres"
)

// preparing bounds the opening of a store: a migration may have much to do.
const preparing = 2 * time.Minute

// prepare looks whether the database is Keyhole's or an empty one, and only
// then changes anything.
func (p *Postgres) prepare(ctx context.Context, all []migration) error {
	ctx, cancel := context.WithTimeout(ctx, preparing)
	defer cancel()
	version := 0
	err := p.repeat(ctx, p.read, p.viewing, func(tx *sql.Tx) (err error) {
		if err = p.checkServer(ctx, tx); err == nil {
			version, err = p.identify(ctx, tx)
		}
		return err
	})
	if err != nil {
		return err
	}
	if version < p.schema {
		if err := p.migrate(ctx, all, func(tx *sql.Tx) (int, error) { return p.begin(ctx, tx) }, raced); err != nil {
			return err
		}
	}
	return p.learnToTell(ctx)
}

// raced reports that another gateway was first with a step of a migration. It
// is not so forever: what is already there may be in the migration's way.
func raced(err error, tries int) bool {
	state := postgres.State(err)
	return (state == postgres.AlreadyThere || state == postgres.Duplicate || postgres.Collided(err)) && tries < collisions
}

// begin is what each migration begins with.
func (p *Postgres) begin(ctx context.Context, tx *sql.Tx) (int, error) {
	if _, err := tx.ExecContext(ctx, "SET LOCAL statement_timeout = 0"); err != nil {
		return 0, err
	}
	version, err := p.identify(ctx, tx)
	if err != nil || version > 0 {
		return version, err
	}
	_, err = tx.ExecContext(ctx, "CREATE TABLE schema_version (version BIGINT PRIMARY KEY, name TEXT NOT NULL, keyhole BOOLEAN NOT NULL DEFAULT true)")
	return 0, err
}

func (p *Postgres) checkServer(ctx context.Context, tx *sql.Tx) error {
	var version int
	var name, fsync string
	err := tx.QueryRowContext(ctx, "SELECT CAST(current_setting('server_version_num') AS BIGINT), current_setting('server_version'), coalesce(current_setting('fsync', true), 'on')").
		Scan(&version, &name, &fsync)
	if err == nil && version < oldestPostgres {
		err = keys.Errorf(keys.ErrStore, "the store %s runs PostgreSQL %s: it has to be 13 or newer", p.connector.Where(), name)
	}
	if err == nil && fsync != "on" {
		p.log.WarnContext(ctx, "the database does not wait for its disk (fsync is off): a power failure may lose acknowledged changes, revocations too", "store", p.connector.Where())
	}
	return err
}

// identify returns the schema version of a Keyhole database, 0 for an empty
// one, and refuses every other. What extensions bring does not count.
func (p *Postgres) identify(ctx context.Context, tx *sql.Tx) (version int, err error) {
	var tables int
	var schema sql.NullString
	var ours bool
	err = tx.QueryRowContext(ctx, `SELECT current_schema(), count(*), coalesce(bool_or(c.relname = 'schema_version' AND EXISTS (
			SELECT 1 FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'keyhole')), false)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p')
		AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')`).Scan(&schema, &tables, &ours)
	switch {
	case err != nil:
		return 0, err
	case !schema.Valid:
		return 0, keys.Errorf(keys.ErrStore, "the store %s has no schema for its tables: see the search_path of the user %q", p.connector.Where(), p.connector.User())
	case tables == 0:
		return 0, nil
	case !ours:
		return 0, keys.Errorf(keys.ErrStore, "the database %q (schema %s) holds tables of another program: make one for the store alone", p.connector.Database(), schema.String)
	}
	err = tx.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM schema_version").Scan(&version)
	if err == nil && version > p.schema {
		err = newerSchema(version, p.schema)
	}
	return version, err
}

// learnToTell finds out whether the server has notifications; not all that
// speak PostgreSQL's protocol do.
func (p *Postgres) learnToTell(ctx context.Context) error {
	const tell = "pg_notify('" + postgres.Channel + "', '')"
	err := p.repeat(ctx, p.write, p.updating, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "SELECT "+tell)
		return err
	})
	switch {
	case err == nil:
		p.tells, p.tell = true, tell
	case postgres.State(err) != "" && !postgres.Lost(err):
		p.log.InfoContext(ctx, "the database does not tell of commits; it is polled", "err", err)
	default:
		return err
	}
	return nil
}
