package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/keys"
	"keyhole/store/internal/seal"
)

// database is a Store over database/sql, but for what depends on the
// database behind it. Its SQL is the part that SQLite and PostgreSQL share:
// placeholders are written ?.
//
// Commits are in one order: each begins with an UPDATE of the one row of meta.
// Whatever else decides by what it reads holds that row too.
type database struct {
	write *sql.DB
	read  *sql.DB
	// updating and viewing are how a transaction that writes begins, which
	// sees what was committed when its first statement had the row of meta,
	// and one that reads, which sees one state.
	updating, viewing *sql.TxOptions
	// timeout bounds every transaction with all its attempts; 0: nothing does.
	timeout time.Duration
	// again says whether to run a transaction once more that failed for the
	// tries-th time; nil: never.
	again func(err error, tries int) bool
	// explain gives an error of the driver its sentinel, and words for the log.
	explain func(doing string, err error) error
	// ready says why nothing must be written now, or nil.
	ready func() error
	// schema is the version that this program knows.
	schema int
	seal   *seal.Sealer
	// takeover is how long after its last heartbeat the name of a node stays
	// taken: a gateway that was killed can start again after that. 0: whoever
	// comes last has the name.
	takeover time.Duration
	// nowSQL is the database's word for now, in microseconds since 1970.
	nowSQL string
	// forUpdate is what a SELECT ends with to hold a row, where a transaction
	// that writes does not hold everything from its start.
	forUpdate string
	// tell is an expression that tells others of a commit, or one for nothing.
	tell string
	// blocksFrom is the latest revision from which this process has seen the
	// list of blocked principals.
	blocksFrom atomic.Uint64
	// claims are who this process is where it has claimed the counters of a
	// node, by the name of that.
	claims sync.Map
}

// update runs f in one durable transaction. f may be run several times, and
// whatever it sets counts from the last.
func (d *database) update(ctx context.Context, doing string, f func(tx *sql.Tx) error) error {
	err := d.ready()
	if err == nil {
		err = d.repeat(ctx, d.write, d.updating, f)
	}
	return d.failed(ctx, doing, err)
}

// view runs f over one state of the database; several times, as update does.
func (d *database) view(ctx context.Context, doing string, f func(tx *sql.Tx) error) error {
	return d.failed(ctx, doing, d.repeat(ctx, d.read, d.viewing, f))
}

func (d *database) repeat(ctx context.Context, db *sql.DB, opts *sql.TxOptions, f func(tx *sql.Tx) error) error {
	if d.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.timeout)
		defer cancel()
	}
	for tries := 1; ; tries++ {
		err := transact(ctx, db, opts, f)
		if err == nil || ctx.Err() != nil || d.again == nil || !d.again(err, tries) {
			return err
		}
		// Those that collided do not all come back at one moment.
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(time.Duration(min(tries, 20)) * 5 * time.Millisecond)): //nolint:gosec // no secret
		}
	}
}

// commitError says that it was the commit that failed: unless the database
// says so, nobody knows whether it was made.
type commitError struct{ err error }

func (e *commitError) Error() string { return "it may have been committed: " + e.err.Error() }
func (e *commitError) Unwrap() error { return e.err }

// beginner is an *sql.DB or *sql.Conn.
type beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

func transact(ctx context.Context, db beginner, opts *sql.TxOptions, f func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return &commitError{err}
	}
	return nil
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
	return d.atRevision(tx.QueryRowContext(ctx, "SELECT revision, (SELECT max(version) FROM schema_version), '' FROM meta"))
}

// hold returns the revision as well, and keeps all others from writing until
// the transaction ends: what it reads afterwards stays so.
func (d *database) hold(ctx context.Context, tx *sql.Tx) (uint64, error) {
	return d.atRevision(tx.QueryRowContext(ctx, "SELECT revision, (SELECT max(version) FROM schema_version), '' FROM meta"+d.forUpdate))
}

// nextRevision takes the next revision for a commit, and holds as hold does.
func (d *database) nextRevision(ctx context.Context, tx *sql.Tx) (uint64, error) {
	return d.atRevision(tx.QueryRowContext(ctx, "UPDATE meta SET revision = revision + 1 RETURNING revision, (SELECT max(version) FROM schema_version), "+d.tell))
}

func (d *database) atRevision(row *sql.Row) (uint64, error) {
	var revision uint64
	var schema int
	err := row.Scan(&revision, &schema, new(any))
	if err == nil && schema > d.schema {
		err = newerSchema(schema, d.schema)
	}
	return revision, err
}

// Close implements Store.
func (d *database) Close() error {
	return errors.Join(d.read.Close(), d.write.Close())
}
