package store_test

import (
	"path/filepath"
	"testing"

	"keyhole/store"
	"keyhole/store/storetest"
)

// seal is the key of the seals of all stores under test.
var seal = []byte("32 bytes to seal rows of a test.")

// sqliteAt opens a store that fails the test if it cannot be opened.
func sqliteAt(tb testing.TB, path string) *store.SQLite {
	tb.Helper()
	s, err := store.OpenSQLite(tb.Context(), path, seal)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestSQLiteContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(tb testing.TB) func() store.Store {
		path := filepath.Join(tb.TempDir(), "keyhole.db")
		return func() store.Store { return sqliteAt(tb, path) }
	})
}
