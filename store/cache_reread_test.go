package store_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/storetest"
)

// TestReread: what is altered by hand is found although nobody commits.
func TestReread(t *testing.T) {
	t.Parallel()
	for what, tt := range map[string]struct {
		edit, repair string
		want         []string
	}{
		"an edit":       {"UPDATE keys SET description = 'x' WHERE name = 'other'", "UPDATE keys SET description = '' WHERE name = 'other'", []string{"other"}},
		"a lost key":    {"CREATE TABLE k AS SELECT * FROM keys; DELETE FROM keys WHERE name = 'gone'", "INSERT INTO keys SELECT * FROM k WHERE name = 'gone'", []string{"gone"}},
		"a lost seal":   {"CREATE TABLE k AS SELECT * FROM keys; UPDATE keys SET mac = NULL", "DELETE FROM keys; INSERT INTO keys SELECT * FROM k", []string{"gone", "other", "payments"}},
		"blocks":        {"CREATE TABLE k AS SELECT * FROM sealed; DELETE FROM sealed", "INSERT INTO sealed SELECT * FROM k", []string{"(blocked agents)"}},
		"an orphan":     {"CREATE TABLE k AS SELECT * FROM versions; UPDATE versions SET key_name = 'lost' WHERE key_name = 'other' AND number = 1", "DELETE FROM versions; INSERT INTO versions SELECT * FROM k", []string{"lost", "other"}},
		"no difference": {"UPDATE meta SET id = 1", "", nil},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newTamperWorld(t)
				o := &observed{Store: w}
				c := store.NewCache(o, store.CacheConfig{Reread: time.Minute, Log: slog.New(slog.DiscardHandler)})
				stop := run(t, c)
				loads := func(n int64) {
					t.Helper()
					for limit := time.Now().Add(time.Hour); o.loads.Load() < n; <-time.After(time.Second) {
						if time.Now().After(limit) {
							t.Fatalf("in an hour the store was read whole %d times, not %d", o.loads.Load(), n)
						}
					}
					<-time.After(100 * time.Millisecond)
				}
				loads(2)
				damaged(t, c)
				w.exec(t, tt.edit)
				loads(4)
				damaged(t, c, tt.want...)
				if s, err := c.Snapshot(); err != nil || !s.Blocked("jwt:corp:mallory") {
					t.Errorf("mallory is not blocked any more, %v", err)
				}
				if tt.repair != "" {
					w.exec(t, tt.repair)
				}
				loads(6)
				damaged(t, c)
				if s, err := c.Snapshot(); err != nil || len(s.Names()) != 3 {
					t.Errorf("the keys are %v, %v", s.Names(), err)
				}
				stop()
			})
		})
	}
}

// TestRereadWithCommits: commits at the same time are not taken for edits.
func TestRereadWithCommits(t *testing.T) {
	t.Parallel()
	db, _ := newSQLite(t)
	var log bytes.Buffer
	c := store.NewCache(db, store.CacheConfig{Poll: time.Millisecond, Reread: time.Nanosecond, Log: slog.New(slog.NewTextHandler(&log, nil))})
	create(t, db, storetest.NewKey("a", 2), storetest.NewKey("b", 2))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	for range 20 {
		change(t, db, "a")
		change(t, db, "b")
		if err := db.BlockAgent(ctx, "bob", &keys.Block{At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		create(t, db, storetest.NewKey("c", 0))
		refresh(t, c)
		remove(t, db, "c")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	refresh(t, c)
	damaged(t, c)
	if log.Len() > 0 {
		t.Errorf("the log says:\n%s", log.String())
	}
}
