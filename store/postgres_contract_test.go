package store_test

import (
	"os"
	"testing"

	"keyhole/store"
	"keyhole/store/postgrestest"
	"keyhole/store/storetest"
)

// config is how the owner of a database opens it.
func config(d *postgrestest.Database) store.PostgresConfig {
	return store.PostgresConfig{URL: d.URL, Password: func() ([]byte, error) { return os.ReadFile(d.PasswordFile) }}
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

func TestPostgresContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(tb testing.TB) func() store.Store {
		c := config(postgrestest.Shared(tb).Database(tb))
		return func() store.Store { return postgresAt(tb, c) }
	})
}
