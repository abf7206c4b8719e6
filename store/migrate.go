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

//go:embed migrations/*/*.sql
var migrationFiles embed.FS

// migration brings the schema from the version before to its own.
type migration struct {
	version int
	name    string
	sql     string
}

// The folders of migrations. Both bring a database to the same versions.
const (
	sqliteMigrations   = "migrations/sqlite"
	postgresMigrations = "migrations/postgres"
)

// readMigrations reads files named 0001_words.sql, 0002_words.sql and so on.
// The first may have a higher number: no older schema was ever on such a
// database.
func readMigrations(files fs.FS, dir string) ([]migration, error) {
	names, err := fs.Glob(files, dir+"/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, file := range names {
		name := strings.TrimSuffix(strings.TrimPrefix(file, dir+"/"), ".sql")
		number, _, _ := strings.Cut(name, "_")
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || i > 0 && n != all[i-1].version+1 || len(number) != 4 {
			return nil, fmt.Errorf("migration %s has no number, or not the next one", file)
		}
		text, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		all = append(all, migration{version: n, name: name, sql: string(text)})
	}
	return all, nil
}

// newest is the version that migrations bring a database to.
func newest(all []migration) int { return all[len(all)-1].version }

func newerSchema(found, known int) error {
	return keys.Errorf(keys.ErrStore, "the store has the schema version %d and this program knows up to %d: "+
		"run the newer keyholed, or put back a copy of the store from before its upgrade", found, known)
}

// migrate brings a database to the newest schema, each version in one
// transaction. begin is run at the start of each, and says which version the
// database has: of several processes that migrate at once, each finds what
// the others have done. The row with the version comes first, so that there
// is one who makes it; what the others get for that is an error that again
// knows.
func (d *database) migrate(ctx context.Context, all []migration, begin func(tx *sql.Tx) (version int, err error), again func(err error, tries int) bool) error {
	for tries := 1; ; tries++ {
		done := false
		err := transact(ctx, d.write, d.updating, func(tx *sql.Tx) error {
			version, err := begin(tx)
			if err != nil {
				return err
			}
			if version > d.schema {
				return newerSchema(version, d.schema)
			}
			if done = version == d.schema; done {
				return nil
			}
			m := all[max(0, version+1-all[0].version)]
			if _, err = tx.ExecContext(ctx, "INSERT INTO schema_version (version, name) VALUES (?, ?)", m.version, m.name); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, m.sql); err != nil {
				return fmt.Errorf("migration %s: %w", m.name, err)
			}
			return d.migrated(ctx, tx, version, m.version)
		})
		switch {
		case err == nil && done:
			return nil
		case err == nil:
			tries = 0
		case ctx.Err() != nil || !again(err, tries):
			return err
		}
	}
}

// firstSealed is the schema version from which on rows are sealed.
const firstSealed = 2

// migrated seals what a new schema version begins with.
func (d *database) migrated(ctx context.Context, tx *sql.Tx, from, to int) error {
	if from >= firstSealed || to < firstSealed {
		return nil
	}
	return d.writeBlocks(ctx, tx, blocks{intact: true}, 0)
}
