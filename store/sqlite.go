package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"keyhole/keys"
	"keyhole/store/internal/seal"
)

// applicationID marks a Keyhole database in the header of the SQLite file:
// "KyHl".
const applicationID = 0x4b79486c

const (
	busyTimeout = 5 * time.Second // longest wait for another process
	readers     = 4
)

// SQLite is a Store in one file of this machine. The file must be on a local
// disk. Other processes may have it open at the same time.
type SQLite struct {
	database
	path string
	file os.FileInfo // of the file that was opened
}

var _ Store = (*SQLite)(nil)

// OpenSQLite opens the store at path, whose rows are sealed by a key of 32
// bytes that whoever can write to the file must not have. It makes the file,
// with mode 0600, if there is none, and brings an older schema to the newest. What the operator
// can mend is a *keys.Error of kind keys.ErrStore: a directory that does not
// exist, a file that others may read or write, that is no SQLite database or
// another program's, that is damaged, or whose schema is newer than this
// program.
func OpenSQLite(ctx context.Context, path string, key []byte) (*SQLite, error) {
	all, err := readMigrations(migrationFiles, sqliteMigrations)
	if err != nil {
		return nil, err
	}
	return openSQLite(ctx, path, key, all)
}

func openSQLite(ctx context.Context, path string, key []byte, all []migration) (*SQLite, error) {
	sealer, err := seal.New(key)
	if err != nil {
		return nil, err
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	info, err := prepareFile(path)
	if err != nil {
		return nil, err
	}
	s := &SQLite{path: path, file: info}
	s.explain, s.ready, s.schema, s.seal = s.explainSQLite, s.sameFile, newest(all), sealer
	s.nowSQL, s.tell = "CAST(1000000 * unixepoch('subsec') AS INTEGER)", "''"
	s.viewing = &sql.TxOptions{ReadOnly: true}
	if s.write, err = connect(path, 1, "_txlock=immediate"); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if s.read, err = connect(path, readers, "_query_only=1"); err != nil {
		return nil, errors.Join(fmt.Errorf("store: %w", err), s.write.Close())
	}
	if err := s.failed(ctx, "opening "+path, s.prepare(ctx, all)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// connect returns a pool of connections that are never closed for being
// idle. Every commit is on the disk when it returns (synchronous=FULL: the
// write-ahead log is synced), and what is in the file is not trusted to run
// functions.
func connect(path string, conns int, param string) (*sql.DB, error) {
	dsn := url.URL{Scheme: "file", Path: path}
	connector, err := sqlite.NewConnector(dsn.String() + "?mode=rw&_defensive=1&_dqs=0&_foreign_keys=1&_synchronous=FULL&_busy_timeout=" +
		fmt.Sprint(busyTimeout.Milliseconds()) + "&_pragma=trusted_schema(0)&_pragma=cell_size_check(1)&" + param)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// prepare looks whether the file is a Keyhole database or an empty one, and
// only then changes anything.
func (s *SQLite) prepare(ctx context.Context, all []migration) error {
	version := 0
	identify := func(tx *sql.Tx) (err error) {
		version, err = s.identify(ctx, tx)
		return err
	}
	if err := transact(ctx, s.write, &sql.TxOptions{ReadOnly: true}, identify); err != nil {
		return err
	}
	if err := s.useWAL(ctx); err != nil {
		return err
	}
	begin := func(tx *sql.Tx) (int, error) {
		version, err := s.identify(ctx, tx)
		if err != nil || version > 0 {
			return version, err
		}
		_, err = tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; "+
			"CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT", applicationID))
		return 0, err
	}
	if version < s.schema {
		if err := s.migrate(ctx, all, begin, func(error, int) bool { return false }); err != nil {
			return err
		}
	}
	return s.checkFile(ctx)
}

// checkFile reads all pages of the file once. What the rows hold, and what
// belongs to what, is not its business: the seals tell, key by key.
func (s *SQLite) checkFile(ctx context.Context) error {
	conn, err := s.read.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var verdict string
	if _, err := conn.ExecContext(ctx, "PRAGMA ignore_check_constraints = 1"); err != nil {
		return err
	}
	if err := conn.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, "PRAGMA ignore_check_constraints = 0"); err != nil {
		return err
	}
	if verdict != "ok" {
		return keys.Errorf(keys.ErrStore, "the store %s is damaged: put back a copy of it", s.path)
	}
	return nil
}

// identify returns the schema version of a Keyhole database, 0 for an empty
// one, and refuses every other.
func (s *SQLite) identify(ctx context.Context, tx *sql.Tx) (version int, err error) {
	var id, objects int
	if err := tx.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return 0, err
	}
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&objects); err != nil {
		return 0, err
	}
	if id == 0 && objects == 0 {
		return 0, nil
	}
	if id != applicationID {
		return 0, keys.Errorf(keys.ErrStore, "%s is a database of another program: choose another file for the store", s.path)
	}
	err = tx.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM schema_version").Scan(&version)
	if err == nil && version > s.schema {
		err = newerSchema(version, s.schema)
	}
	return version, err
}

// useWAL turns the write-ahead log on. Another process that does so at the
// same moment makes it fail at times, without the wait of busyTimeout.
func (s *SQLite) useWAL(ctx context.Context) error {
	for deadline := time.Now().Add(busyTimeout); ; {
		var mode string
		err := s.write.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode)
		switch {
		case err == nil && mode == "wal":
			return nil
		case err == nil:
			return keys.Errorf(keys.ErrStore, "the store %s cannot have a write-ahead log (journal mode %s): put it on a local disk", s.path, mode)
		case primaryCode(err) != sqlite3.SQLITE_BUSY || time.Now().After(deadline):
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Ping implements Store.
func (s *SQLite) Ping(ctx context.Context) error {
	if err := s.sameFile(); err != nil {
		return err
	}
	return s.view(ctx, "looking at the store", func(tx *sql.Tx) error {
		_, err := s.revision(ctx, tx)
		return err
	})
}

// sameFile refuses to go on with a file that was moved away or deleted:
// nothing written to it would be there after a restart.
func (s *SQLite) sameFile() error {
	now, err := os.Stat(s.path)
	if err != nil {
		return fmt.Errorf("store: the file is gone: %w: %w", keys.ErrStore, err)
	}
	if !os.SameFile(s.file, now) {
		return fmt.Errorf("store: another file is at %s now; restart to use it: %w", s.path, keys.ErrStore)
	}
	return nil
}

func primaryCode(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return sqlite3.SQLITE_OK
	}
	return e.Code() & 0xff
}

// explainSQLite puts an error of SQLite into words. Its own text stays
// behind the sentinel, where no caller sees it.
func (s *SQLite) explainSQLite(doing string, err error) error {
	what, kind := "it failed", keys.ErrStore
	switch primaryCode(err) {
	case sqlite3.SQLITE_FULL:
		what = "the disk is full"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		what = "another process has it locked"
	case sqlite3.SQLITE_IOERR:
		what = "the disk failed"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		what = "the file cannot be opened or written"
	case sqlite3.SQLITE_NOTADB:
		return noDatabase(s.path)
	case sqlite3.SQLITE_CORRUPT:
		what = "the file is damaged"
	case sqlite3.SQLITE_CONSTRAINT:
		what, kind = "a constraint forbids it", keys.ErrInternal
	}
	return fmt.Errorf("store: %s: %s: %w: %w", doing, what, kind, err)
}
