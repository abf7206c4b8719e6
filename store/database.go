package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"keyhole/keys"
	"keyhole/store/internal/seal"
)

// database is a Store over database/sql, but for what depends on the
// database behind it. Its SQL is the part that SQLite and PostgreSQL share:
// placeholders are written ?, and each commit begins with an UPDATE of the
// one row of meta, which puts commits in one order.
type database struct {
	write *sql.DB
	read  *sql.DB
	// explain gives an error of the driver its sentinel, and words for the log.
	explain func(doing string, err error) error
	// ready says why nothing must be written now, or nil.
	ready func() error
	// schema is the version that this program knows.
	schema int
	seal   *seal.Sealer
	// nowSQL is the database's word for now, in microseconds since 1970.
	nowSQL string
	// blocksFrom is the latest revision from which this process has seen the
	// list of blocked principals.
	blocksFrom atomic.Uint64
	// claims are who this process is where it has claimed the counters of a
	// node, by the name of that.
	claims sync.Map
}

// update runs f in one durable transaction.
func (d *database) update(ctx context.Context, doing string, f func(tx *sql.Tx) error) error {
	err := d.ready()
	if err == nil {
		err = transact(ctx, d.write, nil, f)
	}
	return d.failed(ctx, doing, err)
}

// view runs f over one state of the database.
func (d *database) view(ctx context.Context, doing string, f func(tx *sql.Tx) error) error {
	return d.failed(ctx, doing, transact(ctx, d.read, &sql.TxOptions{ReadOnly: true}, f))
}

func transact(ctx context.Context, db *sql.DB, opts *sql.TxOptions, f func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// failed gives every error that leaves the store its sentinel.
func (d *database) failed(ctx context.Context, doing string, err error) error {
	var detailed *keys.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &detailed), errors.Is(err, keys.ErrInternal), errors.Is(err, keys.ErrStore):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("store: %s: %w", doing, ctx.Err())
	}
	return d.explain(doing, err)
}

// revision returns the store's revision. A schema that went ahead of this
// program while it ran is refused, as it is at the start.
func (d *database) revision(ctx context.Context, tx *sql.Tx) (uint64, error) {
	var revision uint64
	var schema int
	err := tx.QueryRowContext(ctx, "SELECT revision, (SELECT max(version) FROM schema_version) FROM meta").Scan(&revision, &schema)
	if err == nil && schema > d.schema {
		err = newerSchema(schema, d.schema)
	}
	return revision, err
}

// nextRevision takes the next revision for a commit.
func (d *database) nextRevision(ctx context.Context, tx *sql.Tx) (uint64, error) {
	if _, err := tx.ExecContext(ctx, "UPDATE meta SET revision = revision + 1"); err != nil {
		return 0, err
	}
	return d.revision(ctx, tx)
}

// Close implements Store.
func (d *database) Close() error {
	return errors.Join(d.read.Close(), d.write.Close())
}
