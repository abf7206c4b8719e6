package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"keyhole/keys"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration brings the schema from the version before to its own.
type migration struct {
	version int
	name    string
	sql     string
}

// readMigrations reads files named 0001_words.sql, 0002_words.sql and so on.
func readMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, file := range names {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "migrations/"), ".sql")
		number, _, _ := strings.Cut(name, "_")
		if n, err := strconv.Atoi(number); err != nil || n != i+1 || len(number) != 4 {
			return nil, fmt.Errorf("migration %s should be number %04d", file, i+1)
		}
		text, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		all = append(all, migration{version: i + 1, name: name, sql: string(text)})
	}
	return all, nil
}

func newerSchema(found, known int) error {
	return keys.Errorf(keys.ErrStore, "the store has the schema version %d and this program knows up to %d: "+
		"run the newer keyholed, or put back a copy of the store from before its upgrade", found, known)
}

// migrate brings a database to the newest schema, each version in one
// transaction. begin is run at the start of each, and says which version the
// database has: of several processes that migrate at once, each finds what
// the others have done. after is run at the end of each.
func migrate(ctx context.Context, db *sql.DB, all []migration, begin func(tx *sql.Tx) (version int, err error),
	after func(ctx context.Context, tx *sql.Tx, version int) error,
) error {
	for {
		done := false
		err := transact(ctx, db, nil, func(tx *sql.Tx) error {
			version, err := begin(tx)
			if err != nil {
				return err
			}
			switch {
			case version > len(all):
				return newerSchema(version, len(all))
			case version == len(all):
				done = true
				return nil
			}
			m := all[version]
			if _, err := tx.ExecContext(ctx, m.sql); err != nil {
				return fmt.Errorf("migration %s: %w", m.name, err)
			}
			if _, err = tx.ExecContext(ctx, "INSERT INTO schema_version (version, name) VALUES (?, ?)", m.version, m.name); err != nil {
				return err
			}
			return after(ctx, tx, m.version)
		})
		if err != nil || done {
			return err
		}
	}
}

// firstSealed is the schema version from which on rows are sealed.
const firstSealed = 2

// migrated seals what a new schema version begins with.
func (d *database) migrated(ctx context.Context, tx *sql.Tx, version int) error {
	if version != firstSealed {
		return nil
	}
	return d.writeBlocks(ctx, tx, blocks{intact: true}, 0)
}
