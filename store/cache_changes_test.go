package store_test

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/storetest"
)

// damaged checks what the cache says is altered, and that these keys are
// known by name only.
func damaged(t *testing.T, c *store.Cache, want ...string) {
	t.Helper()
	if got := c.Damaged(); !slices.Equal(got, want) {
		t.Errorf("damaged are %q, want %q", got, want)
	}
	s, err := c.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range s.Keys() {
		if k.Damaged != slices.Contains(want, k.Name) || k.Damaged != slices.Contains(s.Damaged(), k.Name) {
			t.Errorf("that %s is damaged is %v", k.Name, k.Damaged)
		}
		if k.Damaged && (len(k.Versions) > 0 || k.ActiveAt(time.Now()) != nil) {
			t.Errorf("%s is damaged and has %d versions", k.Name, len(k.Versions))
		}
	}
}

func TestBlockedInSnapshot(t *testing.T) {
	t.Parallel()
	db, _ := newSQLite(t)
	ctx := t.Context()
	block := func(principal string, b *keys.Block) {
		t.Helper()
		if err := db.BlockAgent(ctx, principal, b); err != nil {
			t.Fatal(err)
		}
	}
	b := &keys.Block{At: time.Now(), By: "alice"}
	block("bob", b)
	c := store.NewCache(db, store.CacheConfig{})
	first := refresh(t, c)
	if !first.Blocked("bob") || first.Blocked("carol") || first.Blocked("") {
		t.Error("bob alone is blocked")
	}
	block("carol", b)
	second := refresh(t, c)
	block("bob", nil)
	third := refresh(t, c)
	create(t, db, storetest.NewKey("payments", 1))
	fourth := refresh(t, c)
	if first.Blocked("carol") || !second.Blocked("bob") || !second.Blocked("carol") || third.Blocked("bob") || !third.Blocked("carol") || !fourth.Blocked("carol") {
		t.Error("a snapshot does not say who was blocked at its time")
	}
	has(t, fourth, "payments")
	if refresh(t, c) != fourth {
		t.Error("nothing changed, and the snapshot is another one")
	}
}

func TestAlteredBlocksInCache(t *testing.T) {
	t.Parallel()
	w := newTamperWorld(t)
	var log bytes.Buffer
	c := store.NewCache(w, store.CacheConfig{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if !refresh(t, c).Blocked("jwt:corp:mallory") {
		t.Fatal("mallory is not blocked")
	}
	w.exec(t, "UPDATE sealed SET body = '[]'")
	create(t, w, storetest.NewKey("new", 1))
	for range 3 {
		if !refresh(t, c).Blocked("jwt:corp:mallory") {
			t.Error("mallory is unblocked by hand")
		}
		damaged(t, c, "(blocked agents)")
	}
	if err := w.BlockAgent(t.Context(), "jwt:corp:eve", &keys.Block{At: time.Now(), By: "alice"}); err != nil {
		t.Fatal(err)
	}
	if s := refresh(t, c); !s.Blocked("jwt:corp:mallory") || !s.Blocked("jwt:corp:eve") {
		t.Error("a block on an altered list has no effect")
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("it was logged %d times:\n%s", n, log.String())
	}
	// One who begins now knows nobody, and serves nobody.
	late := store.NewCache(w, store.CacheConfig{})
	err := late.Refresh(t.Context())
	if !errors.Is(err, keys.ErrTampered) {
		t.Errorf("a cache that knows nobody: %v", err)
	}
	tellsTheWay(t, err)
	stale(t, late)
	if _, err := w.AdoptBlocks(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := refresh(t, c); s.Blocked("jwt:corp:mallory") || !s.Blocked("jwt:corp:eve") {
		t.Error("the adopted list does not count")
	}
	damaged(t, c)
	refresh(t, late)
}

// TestDamagedKeysInCache: every other key goes on, and it is said once.
func TestDamagedKeysInCache(t *testing.T) {
	t.Parallel()
	w := newTamperWorld(t)
	ctx := t.Context()
	w.exec(t, "UPDATE versions SET revoked_at = NULL WHERE key_name = 'payments'")
	var log bytes.Buffer
	c := store.NewCache(w, store.CacheConfig{Log: slog.New(slog.NewTextHandler(&log, nil))})
	has(t, refresh(t, c), "gone", "other", "payments")
	damaged(t, c, "payments")
	change(t, w, "other")
	refresh(t, c)
	damaged(t, c, "payments")

	// What is altered is found with the change that comes next to it.
	k, err := w.Key(ctx, "other")
	if err != nil {
		t.Fatal(err)
	}
	w.exec(t, "UPDATE keys SET description = 'mine', revision = revision + 100 WHERE name = 'other'; UPDATE meta SET revision = revision + 100")
	refresh(t, c)
	damaged(t, c, "other", "payments")
	if n := strings.Count(log.String(), "level=ERROR"); n != 2 || strings.Count(log.String(), "key=payments") != 1 || strings.Count(log.String(), "key=other") != 1 {
		t.Errorf("it was logged %d times:\n%s", n, log.String())
	}
	if err := w.Adopt(ctx, k); err != nil {
		t.Fatal(err)
	}
	s := refresh(t, c)
	damaged(t, c, "payments")
	if got, _ := s.Key("other"); got.Epoch <= k.Epoch || len(got.Versions) != 3 {
		t.Errorf("adopted was %+v", got)
	}
}

// TestOldRows: rows that were good once, put back behind the store's back,
// are not believed while a gateway knows better.
func TestOldRows(t *testing.T) {
	t.Parallel()
	w := newTamperWorld(t)
	ctx := t.Context()
	c := store.NewCache(w, store.CacheConfig{})
	w.exec(t, "CREATE TABLE old_keys AS SELECT * FROM keys; CREATE TABLE old_versions AS SELECT * FROM versions")
	k, err := w.Key(ctx, "other")
	if err != nil {
		t.Fatal(err)
	}
	revoked := storetest.Step(k, func(k *keys.Key) { k.Versions[2].RevokedAt = time.Now() })
	if err := w.Commit(ctx, store.Change{Key: revoked, FromEpoch: k.Epoch}); err != nil {
		t.Fatal(err)
	}
	refresh(t, c)
	damaged(t, c)
	const replay = "DELETE FROM versions WHERE key_name = 'other'; DELETE FROM keys WHERE name = 'other'; INSERT INTO keys SELECT * FROM old_keys WHERE name = 'other'; " +
		"INSERT INTO versions SELECT * FROM old_versions WHERE key_name = 'other'"
	w.exec(t, "CREATE TABLE new_keys AS SELECT * FROM keys; CREATE TABLE new_versions AS SELECT * FROM versions; "+replay)
	if k, err := w.Key(ctx, "other"); err != nil || k.Epoch != 1 {
		t.Fatalf("the old rows are good by themselves: %+v, %v", k, err)
	}
	change(t, w, "other") // somebody who does not know better goes on from there
	for range 3 {
		refresh(t, c)
		damaged(t, c) // the epochs meet: nothing tells the two apart
	}
	change(t, w, "payments")
	refresh(t, c)

	// Now with an epoch that is behind.
	for range 3 {
		change(t, w, "other")
	}
	refresh(t, c)
	w.exec(t, replay)
	change(t, w, "other")
	for range 3 {
		refresh(t, c)
		damaged(t, c, "other")
	}
	// It stays so when the row changes and is still behind, and ends when the
	// epoch is reached.
	change(t, w, "other")
	refresh(t, c)
	damaged(t, c, "other")
	for range 2 {
		change(t, w, "other")
	}
	refresh(t, c)
	damaged(t, c)
}

// TestDeletionMadeUp: who tells the gateways that a key is deleted, and then
// puts old rows of it back, is not believed either.
func TestDeletionMadeUp(t *testing.T) {
	t.Parallel()
	w := newTamperWorld(t)
	c := store.NewCache(w, store.CacheConfig{})
	w.exec(t, "CREATE TABLE old_keys AS SELECT * FROM keys; CREATE TABLE old_versions AS SELECT * FROM versions")
	for range 3 {
		change(t, w, "other")
	}
	has(t, refresh(t, c), "gone", "other", "payments")
	k, err := w.Key(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	w.exec(t, "DELETE FROM versions WHERE key_name = 'other'; DELETE FROM keys WHERE name = 'other'; "+
		"UPDATE meta SET revision = revision + 1; INSERT INTO deletions SELECT 'other', revision FROM meta")
	has(t, refresh(t, c), "gone", "payments")
	w.exec(t, "INSERT INTO keys SELECT * FROM old_keys WHERE name = 'other'; INSERT INTO versions SELECT * FROM old_versions WHERE key_name = 'other'; DELETE FROM deletions")
	change(t, w, "other")
	refresh(t, c)
	damaged(t, c, "other")
	w.exec(t, "UPDATE keys SET description = 'x' WHERE name = 'other'")
	if err := w.Adopt(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	refresh(t, c)
	damaged(t, c)
}

// TestKeyBegunAnew: a key of which nothing was generated may be deleted and
// made again between two looks.
func TestKeyBegunAnew(t *testing.T) {
	t.Parallel()
	db, _ := newSQLite(t)
	c := store.NewCache(db, store.CacheConfig{})
	create(t, db, storetest.NewKey("a", 0))
	for range 3 {
		change(t, db, "a")
	}
	refresh(t, c)
	remove(t, db, "a")
	create(t, db, storetest.NewKey("a", 1))
	s := refresh(t, c)
	damaged(t, c)
	if k, _ := s.Key("a"); k.Epoch != 1 {
		t.Errorf("the key is at epoch %d", k.Epoch)
	}
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestChangedTellsAll(t *testing.T) {
	t.Parallel()
	db, _ := newSQLite(t)
	ctx := t.Context()
	c := store.NewCache(db, store.CacheConfig{})
	ch := c.Changed()
	if closed(ch) {
		t.Error("nothing is loaded, and something has changed")
	}
	refresh(t, c)
	if !closed(ch) {
		t.Error("the first load is not told")
	}
	ch = c.Changed()
	refresh(t, c)
	if closed(ch) || c.Changed() != ch {
		t.Error("nothing changed, and it was told")
	}
	for what, act := range map[string]func() error{
		"a key": func() error { return db.Commit(ctx, store.Change{Key: storetest.NewKey("a", 1)}) },
		"a rotation": func() error {
			return db.Commit(ctx, store.Change{Key: storetest.NewKey("b", 1), Rotation: storetest.NewRotation("r", "b", 2)})
		},
		"a block": func() error { return db.BlockAgent(ctx, "bob", &keys.Block{At: time.Now()}) },
		"an event": func() error {
			return db.Commit(ctx, store.Change{Notices: []keys.Notice{{Type: keys.NoticeRevoked, At: time.Now(), Key: "a", Version: 1}}})
		},
	} {
		ch := c.Changed()
		if err := act(); err != nil {
			t.Fatal(err)
		}
		if closed(ch) {
			t.Errorf("%s is told before it is in the snapshot", what)
		}
		refresh(t, c)
		if !closed(ch) || closed(c.Changed()) {
			t.Errorf("%s is not told", what)
		}
	}
}

// TestChangedWakesEverybody: many wait, none misses the last change.
func TestChangedWakesEverybody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, _ := newSQLite(t)
		c := store.NewCache(db, store.CacheConfig{})
		create(t, db, storetest.NewKey("a", 1))
		stop := run(t, c)
		const last = 6
		woken := make(chan struct{})
		for range 20 {
			go func() {
				for {
					ch := c.Changed()
					if s, err := c.Snapshot(); err == nil {
						if k, _ := s.Key("a"); k.Epoch == last {
							woken <- struct{}{}
							return
						}
					}
					<-ch
				}
			}()
		}
		for range last - 1 {
			change(t, db, "a")
			<-time.After(700 * time.Millisecond)
		}
		for range 20 {
			<-woken
		}
		stop()
	})
}
