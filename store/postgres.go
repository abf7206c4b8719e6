package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"keyhole/keys"
	"keyhole/store/internal/postgres"
	"keyhole/store/internal/seal"
)

// PostgresConfig says where the database is and who asks for it.
type PostgresConfig struct {
	// URL is like postgres://user@host:5432/database?sslmode=verify-full. It
	// holds no password. Without TLS (sslmode=disable) it leads to a unix
	// socket (?host=/directory) or a loopback address only. Of several hosts
	// (host1:5432,host2:5432) the one that takes writes is used.
	URL string
	// Password is asked for each new connection, so that it can be renewed; a
	// line end behind it does not count. nil: none is needed.
	Password func() ([]byte, error)
	CAFile   string // whose certificate the server has; "": one by whom the system trusts
	CertFile string // and KeyFile: the certificate that this client shows; "": none
	KeyFile  string
	Timeout  time.Duration // the longest that any call waits for the database; 0: 5 s
	Log      *slog.Logger  // nil: nothing is logged
}

const (
	postgresTimeout = 5 * time.Second
	postgresConns   = 4 // of each, those that write and those that read
	// postgresTakeover is more than the second after which each gateway beats.
	postgresTakeover = 5 * time.Second
	connLifetime     = 30 * time.Minute
	oldestPostgres   = 130000 // as server_version_num says it

	// postgresNow is the clock of the database when a statement came to it.
	postgresNow = "CAST(1000000 * extract(epoch FROM statement_timestamp()) AS BIGINT)"
)

// Postgres is a Store in a PostgreSQL database that several gateways share.
//
// It relies on transactions (READ COMMITTED with row locks, and REPEATABLE
// READ to read), on unique constraints, and on the server to keep what it has
// acknowledged. It needs no advisory locks. Notifications are hints: all goes
// well without them.
//
// No call takes longer than the Timeout, whatever the network or the server
// does. What failed because others ran at the same time, or because a
// connection was dead before the commit was asked for, is done again within
// that; a commit of which no answer came is keys.ErrStore and is not.
type Postgres struct {
	database
	connector *postgres.Connector
	log       *slog.Logger
	tells     bool // the server has notifications

	mu     sync.Mutex
	closed bool
	hints  chan struct{}
	stop   context.CancelFunc // of the listener, which is started when Hints is first called
	done   chan struct{}
}

var _ Store = (*Postgres)(nil)

// OpenPostgres opens the store in a database that exists, whose rows are
// sealed by a key of 32 bytes that whoever can write to it must not have. In
// an empty database it makes the tables, and an older schema it brings to the
// newest; several gateways may do so at once. What the operator can mend is a
// *keys.Error of kind keys.ErrStore: a URL that is not safe, a server that
// cannot be reached, does not know the user or has no such database, one that
// is too old, a database of another program or whose schema is newer than
// this program.
func OpenPostgres(ctx context.Context, c PostgresConfig, key []byte) (*Postgres, error) {
	all, err := readMigrations(migrationFiles, postgresMigrations)
	if err != nil {
		return nil, err
	}
	return openPostgres(ctx, c, key, all)
}

func openPostgres(ctx context.Context, c PostgresConfig, key []byte, all []migration) (*Postgres, error) {
	sealer, err := seal.New(key)
	if err != nil {
		return nil, err
	}
	if c.Timeout <= 0 {
		c.Timeout = postgresTimeout
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	connector, err := postgres.New(postgres.Config{
		URL: c.URL, Password: c.Password, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, Timeout: c.Timeout,
	})
	if err != nil {
		return nil, err
	}
	p := &Postgres{connector: connector, log: c.Log}
	p.write, p.read = pool(connector), pool(connector)
	p.updating = &sql.TxOptions{Isolation: sql.LevelReadCommitted}
	p.viewing = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	p.timeout, p.again, p.explain, p.ready = c.Timeout, again, p.explainPostgres, func() error { return nil }
	p.schema, p.seal, p.takeover = newest(all), sealer, postgresTakeover
	p.nowSQL, p.forUpdate, p.tell = postgresNow, " FOR UPDATE", "''"
	if err := p.prepare(ctx, all); err != nil {
		return nil, errors.Join(p.unopened(ctx, err), p.Close())
	}
	return p, nil
}

func pool(c *postgres.Connector) *sql.DB {
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(postgresConns)
	db.SetMaxIdleConns(postgresConns)
	db.SetConnMaxLifetime(connLifetime)
	return db
}

const (
	collisions = 50                // of one transaction, until it is given up
	losses     = postgresConns + 2 // each connection of the pool may be dead
)

// again is database.again for PostgreSQL.
func again(err error, tries int) bool {
	if postgres.Collided(err) {
		return tries < collisions
	}
	var committing *commitError
	return postgres.Lost(err) && !errors.As(err, &committing) && tries < losses
}

// explainPostgres puts an error into words. Its own text stays behind the
// sentinel, where no caller sees it.
func (p *Postgres) explainPostgres(doing string, err error) error {
	kind := keys.ErrStore
	if postgres.Constraint(err) {
		kind = keys.ErrInternal
	}
	what := p.connector.Explain(err)
	if what == "" {
		what = "it failed"
	}
	// The end of a time limit of the store's own is not the caller's.
	return fmt.Errorf("store: %s: %s: %w: %v", doing, what, kind, err) //nolint:errorlint // see above
}

// unopened says to the operator why the store cannot be opened.
func (p *Postgres) unopened(ctx context.Context, err error) error {
	var detailed *keys.Error
	if errors.As(err, &detailed) || errors.Is(err, keys.ErrInternal) || ctx.Err() != nil {
		return p.failed(ctx, "opening "+p.connector.Where(), err)
	}
	if what := p.connector.Explain(err); what != "" {
		return keys.Errorf(keys.ErrStore, "the store %s cannot be used: %s", p.connector.Where(), what)
	}
	return p.explainPostgres("opening "+p.connector.Where(), err)
}

// Ping implements Store.
func (p *Postgres) Ping(ctx context.Context) error {
	return p.view(ctx, "looking at the store", func(tx *sql.Tx) error {
		_, err := p.revision(ctx, tx)
		return err
	})
}

// Hints implements Store. The first call begins to listen; Close ends it.
func (p *Postgres) Hints() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.tells || p.closed || p.hints != nil {
		return p.hints
	}
	ctx, stop := context.WithCancel(context.Background())
	hints, done := make(chan struct{}, 1), make(chan struct{})
	p.hints, p.stop, p.done = hints, stop, done
	go func() {
		defer close(done)
		p.connector.Listen(ctx, func() {
			select {
			case hints <- struct{}{}:
			default: // there is one already
			}
		}, func(err error) {
			p.log.DebugContext(ctx, "not told of commits by others; the store is polled", "err", err)
		})
	}()
	return hints
}

// Close implements Store.
func (p *Postgres) Close() error {
	p.mu.Lock()
	p.closed = true
	stop, done := p.stop, p.done
	p.mu.Unlock()
	if stop != nil {
		stop()
		<-done
	}
	return p.database.Close()
}
