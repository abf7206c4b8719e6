package store_test

import (
	"os"
	"testing"
	"time"

	"keyhole/store"
	"keyhole/store/postgrestest"
	"keyhole/store/storetest"
)

// config is how the owner of a database opens it, on a busy machine.
func config(d *postgrestest.Database) store.PostgresConfig {
	return store.PostgresConfig{URL: d.URL, Password: func() ([]byte, error) { return os.ReadFile(d.PasswordFile) }, Timeout: time.Minute}
}

// postgresAt opens a store that fails the test if it cannot be opened.
func postgresAt(tb testing.TB, c store.PostgresConfig) *store.Postgres {
	tb.Helper()
	s, err := store.OpenPostgres(tb.Context(), c, seal)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// newPostgres returns a new store, closed at the test's end, and its database.
func newPostgres(tb testing.TB) (*store.Postgres, *postgrestest.Database) {
	tb.Helper()
	d := postgrestest.Shared(tb).Database(tb)
	s := postgresAt(tb, config(d))
	closeAtEnd(tb, s)
	return s, d
}

// closeAtEnd closes a store when the test ends.
func closeAtEnd(tb testing.TB, s store.Store) {
	tb.Helper()
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
}

func TestPostgresContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(tb testing.TB) func() store.Store {
		c := config(postgrestest.Shared(tb).Database(tb))
		return func() store.Store { return postgresAt(tb, c) }
	})
}

func TestPostgresForSeveral(t *testing.T) {
	t.Parallel()
	storetest.RunSeveral(t, func(tb testing.TB) func() store.Store {
		c := config(postgrestest.Shared(tb).Database(tb))
		return func() store.Store {
			s := postgresAt(tb, c)
			s.SetTakeover(time.Hour) // a name stays taken, however busy the machine
			return s
		}
	})
}
