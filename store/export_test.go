package store

import (
	"context"
	"io/fs"
	"testing"
	"time"
)

// OpenSQLiteWith opens a store with other migrations than the program's.
func OpenSQLiteWith(ctx context.Context, path string, seal []byte, files fs.FS) (*SQLite, error) {
	all, err := readMigrations(files, sqliteMigrations)
	if err != nil {
		return nil, err
	}
	return openSQLite(ctx, path, seal, all)
}

// Migrations are the program's own.
var Migrations fs.FS = migrationFiles

// Exec runs SQL on a connection that writes.
func (d *database) Exec(tb testing.TB, query string, args ...any) {
	tb.Helper()
	if _, err := d.write.ExecContext(tb.Context(), query, args...); err != nil {
		tb.Fatal(err)
	}
}

// Ask returns the one value that a query on a writing (or a reading)
// connection yields.
func (d *database) Ask(tb testing.TB, writer bool, query string) (value string) {
	tb.Helper()
	db := d.read
	if writer {
		db = d.write
	}
	if err := db.QueryRowContext(tb.Context(), query).Scan(&value); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
	return value
}

// OpenPostgresWith opens a store with other migrations than the program's.
func OpenPostgresWith(ctx context.Context, c PostgresConfig, seal []byte, files fs.FS) (*Postgres, error) {
	all, err := readMigrations(files, postgresMigrations)
	if err != nil {
		return nil, err
	}
	return openPostgres(ctx, c, seal, all)
}

// Freeze begins a transaction that keeps all others from writing, and stops
// there.
func (p *Postgres) Freeze(ctx context.Context) (release func() error, err error) {
	tx, err := p.write.BeginTx(ctx, p.updating)
	if err == nil {
		_, err = p.hold(ctx, tx)
	}
	if err != nil {
		return nil, err
	}
	return tx.Rollback, nil
}

// SetTimeout sets how long a call waits for the database.
func (p *Postgres) SetTimeout(d time.Duration) { p.timeout = d }

// SetTakeover sets how long the name of a node stays taken.
func (p *Postgres) SetTakeover(d time.Duration) { p.takeover = d }

// Contact returns when the cache last reached the store.
func (c *Cache) Contact() time.Time { return c.view.Load().at }
