package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/storetest"
)

// newSQLite returns a new store, closed at the test's end, and its path.
func newSQLite(tb testing.TB) (*store.SQLite, string) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "keyhole.db")
	s := sqliteAt(tb, path)
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s, path
}

func create(tb testing.TB, s store.Store, all ...*keys.Key) {
	tb.Helper()
	for _, k := range all {
		if err := s.Commit(tb.Context(), store.Change{Key: k}); err != nil {
			tb.Fatal(err)
		}
	}
}

// raw opens the file behind the store's back.
func raw(tb testing.TB, path string) *sql.DB {
	tb.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		tb.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	tb.Cleanup(func() { db.Close() })
	return db
}

// operator checks that an error tells the operator what to do.
func operator(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	var e *keys.Error
	if !errors.Is(err, keys.ErrStore) || !errors.As(err, &e) {
		t.Errorf("%s: %v, want keys.ErrStore with a detail", what, err)
		return
	}
	for _, w := range words {
		if !strings.Contains(e.Detail, w) {
			t.Errorf("%s: %q does not say %q", what, e.Detail, w)
		}
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	t.Parallel()
	s, path := newSQLite(t)
	create(t, s, storetest.NewKey("payments", 1))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o", info.Name(), info.Mode().Perm())
		}
	}
}

func TestModesOfAnExistingFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keyhole.db")
	if err := sqliteAt(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[fs.FileMode]bool{0o600: true, 0o660: true, 0o640: true, 0o644: false, 0o666: false, 0o602: false, 0o601: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		s, err := store.OpenSQLite(t.Context(), path, seal)
		if !ok {
			operator(t, mode.String(), err, path, "chmod 600")
			continue
		}
		if err != nil {
			t.Errorf("%04o: %v", mode, err)
			continue
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%04o: the mode is %v afterwards, %v", mode, info.Mode(), err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOddPaths(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a b", "a?mode=memory", "a#b", "50%41", "ü'\"", "a&_pragma=foreign_keys(0)", ":memory:", "file:x"} {
		path := filepath.Join(t.TempDir(), name)
		s := sqliteAt(t, path)
		create(t, s, storetest.NewKey("payments", 1))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = sqliteAt(t, path)
		if _, err := s.Key(t.Context(), "payments"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(entries) != 1 || entries[0].Name() != name {
			t.Errorf("%s: the directory holds %v, %v", name, entries, err)
		}
	}
}

func TestUnusablePlaces(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "no", "such")
	_, err := store.OpenSQLite(t.Context(), filepath.Join(missing, "keyhole.db"), seal)
	operator(t, "no directory", err, missing, "does not exist")
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	_, err = store.OpenSQLite(t.Context(), dir, seal)
	operator(t, "a directory", err, dir)
	_, err = store.OpenSQLite(t.Context(), filepath.Join(file, "keyhole.db"), seal)
	operator(t, "a file for a directory", err, file)
}

func TestNoDatabase(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"text":         strings.Repeat("no database\n", 1000),
		"short":        "x",
		"old mistakes": "SQLite format 3\x00" + strings.Repeat("\xff", 4096),
	} {
		path := filepath.Join(t.TempDir(), "keyhole.db")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := store.OpenSQLite(t.Context(), path, seal)
		operator(t, name, err, path, "no SQLite database")
		if now, err := os.ReadFile(path); err != nil || string(now) != content {
			t.Errorf("%s: the file was changed, %v", name, err)
		}
	}
}

func TestAnotherProgramsDatabase(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]string{
		"tables":            "CREATE TABLE keys (id INTEGER)",
		"an application id": "PRAGMA application_id = 42; CREATE TABLE t (id INTEGER)",
		"only an id":        "PRAGMA application_id = 42",
		"our tables' names": "CREATE TABLE schema_version (version INTEGER, name TEXT); INSERT INTO schema_version VALUES (1, 'keys')",
	} {
		path := filepath.Join(t.TempDir(), "keyhole.db")
		db := raw(t, path)
		if _, err := db.Exec(setup); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.OpenSQLite(t.Context(), path, seal)
		operator(t, name, err, path, "another program")
		if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
			t.Errorf("%s: the other program's file was changed, %v", name, err)
		}
	}
}

func TestNewerSchema(t *testing.T) {
	t.Parallel()
	s, path := newSQLite(t)
	ctx := t.Context()
	create(t, s, storetest.NewKey("payments", 1))
	s.Exec(t, "INSERT INTO schema_version VALUES (7, 'from the future')")
	_, err := store.OpenSQLite(ctx, path, seal)
	operator(t, "opening", err, "version 7", "up to 3", "newer keyholed")

	// Nor does a process go on when another one has migrated its store.
	operator(t, "committing", s.Commit(ctx, store.Change{Key: storetest.NewKey("other", 1)}), "version 7")
	_, _, err = s.Load(ctx)
	operator(t, "loading", err, "version 7")
	_, _, _, err = s.Changed(ctx, 1)
	operator(t, "following", err, "version 7")
	_, err = s.BeginAttempt(ctx, store.Attempt{Principal: "p", Key: "k", StartedAt: time.Now()})
	operator(t, "beginning", err, "version 7")
	operator(t, "readiness", s.Ping(ctx), "version 7")
	if n := s.Ask(t, true, "SELECT count(*) FROM keys"); n != "1" {
		t.Errorf("there are %s keys", n)
	}
}

// ownMigrations are the program's own, to be added to or taken from.
func ownMigrations(t *testing.T) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	names, err := fs.Glob(store.Migrations, "migrations/sqlite/*.sql")
	if err != nil || len(names) == 0 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(store.Migrations, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: text}
	}
	return files
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	own := ownMigrations(t)
	files := func(more ...string) fstest.MapFS {
		m := maps.Clone(own)
		for i, text := range more {
			m[fmt.Sprintf("migrations/sqlite/%04d_more.sql", len(own)+1+i)] = &fstest.MapFile{Data: []byte(text)}
		}
		return m
	}
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "keyhole.db")
	s := sqliteAt(t, path)
	create(t, s, storetest.NewKey("payments", 2))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// A migration that fails leaves the version before, whole.
	for _, bad := range []string{"CREATE TABLE half (x INTEGER); CREATE TABLE keys (x INTEGER)", "CREATE TABLE half (x INTEGER); nonsense"} {
		_, err := store.OpenSQLiteWith(ctx, path, seal, files("CREATE TABLE good (x INTEGER)", bad))
		if !errors.Is(err, keys.ErrStore) {
			t.Errorf("a bad migration: %v", err)
		}
	}
	// Several processes at the same moment, the first of which finds version 4.
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := store.OpenSQLiteWith(ctx, path, seal, files("CREATE TABLE good (x INTEGER)", "CREATE TABLE half (x INTEGER)", "ALTER TABLE keys ADD COLUMN extra INTEGER"))
			if err == nil {
				err = s.Close()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, err := store.OpenSQLite(ctx, path, seal)
	operator(t, "an older program", err, "version 6", "up to 3")
	s, err = store.OpenSQLiteWith(ctx, path, seal, files("", "", ""))
	if err != nil {
		t.Fatal(err)
	}
	if k, err := s.Key(ctx, "payments"); err != nil || len(k.Versions) != 2 {
		t.Errorf("the key after the migrations: %+v, %v", k, err)
	}
	if got := s.Ask(t, true, "SELECT group_concat(version || name) FROM (SELECT * FROM schema_version ORDER BY version)"); got != "10001_keys,20002_lifecycle,30003_nodes,40004_more,50005_more,60006_more" {
		t.Errorf("the schema versions are %s", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"0005_gap.sql", "2_short.sql", "0001_again.sql", "x.sql"} {
		m := files()
		m["migrations/sqlite/"+name] = &fstest.MapFile{}
		if _, err := store.OpenSQLiteWith(ctx, path, seal, m); err == nil {
			t.Errorf("a migration named %s was taken", name)
		}
	}
}

// TestDurability checks the settings that a test cannot check by pulling the
// plug.
func TestDurability(t *testing.T) {
	t.Parallel()
	s, _ := newSQLite(t)
	for query, want := range map[string]string{
		"PRAGMA journal_mode": "wal", "PRAGMA synchronous": "2", "PRAGMA foreign_keys": "1", "PRAGMA busy_timeout": "5000",
		"PRAGMA trusted_schema": "0", "PRAGMA query_only": "0",
	} {
		if got := s.Ask(t, true, query); got != want {
			t.Errorf("%s is %s, want %s", query, got, want)
		}
	}
	if got := s.Ask(t, false, "PRAGMA query_only"); got != "1" {
		t.Errorf("readers may write: %s", got)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	s, path := newSQLite(t)
	ctx := t.Context()
	create(t, s, storetest.NewKey("payments", 1))
	s.Exec(t, "PRAGMA max_page_count = "+s.Ask(t, true, "PRAGMA page_count")) // SQLite says SQLITE_FULL, as it does for ENOSPC
	big := storetest.NewKey("big", 1)
	big.Description = strings.Repeat("x", 1<<20)
	rotation := storetest.NewRotation("r", "big", 1)
	err := s.Commit(ctx, store.Change{Key: big, Rotation: rotation})
	var detailed *keys.Error
	if !errors.Is(err, keys.ErrStore) || errors.As(err, &detailed) {
		t.Errorf("a full disk: %v, want keys.ErrStore without a detail", err)
	}
	if err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("the log would say %v", err)
	}
	if _, err := s.Key(ctx, "big"); !errors.Is(err, keys.ErrKeyNotFound) {
		t.Errorf("half of a commit is there: %v", err)
	}
	if err := s.Ping(ctx); err != nil {
		t.Errorf("reading still works: %v", err)
	}
	s.Exec(t, "PRAGMA max_page_count = 100000")
	if err := s.Commit(ctx, store.Change{Key: big, Rotation: rotation}); err != nil {
		t.Errorf("with room again: %v", err)
	}
	again := sqliteAt(t, path)
	defer again.Close()
	if all, revision, err := again.Load(ctx); err != nil || len(all) != 2 || revision != 2 {
		t.Errorf("%d keys at revision %d, %v", len(all), revision, err)
	}
}

func TestLockedByAnotherProcess(t *testing.T) {
	t.Parallel()
	s, path := newSQLite(t)
	create(t, s, storetest.NewKey("payments", 1))
	other := raw(t, path)
	if _, err := other.Exec("BEGIN EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Commit(ctx, store.Change{Key: storetest.NewKey("other", 1)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for the lock: %v", err)
	}
	// Readers and whoever opens the store do not wait for a writer.
	if _, err := s.Key(t.Context(), "payments"); err != nil {
		t.Error(err)
	}
	if err := sqliteAt(t, path).Close(); err != nil {
		t.Error(err)
	}
	committed := make(chan error, 1)
	go func() { committed <- s.Commit(t.Context(), store.Change{Key: storetest.NewKey("other", 1)}) }()
	if _, err := other.Exec("ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := <-committed; err != nil {
		t.Errorf("when the lock was free: %v", err)
	}
}

// TestFileTakenAway: what is written to a deleted file is not there after a
// restart, so nothing is acknowledged.
func TestFileTakenAway(t *testing.T) {
	t.Parallel()
	s, path := newSQLite(t)
	ctx := t.Context()
	create(t, s, storetest.NewKey("payments", 1))
	check := func(what string) {
		t.Helper()
		if err := s.Commit(ctx, store.Change{Key: storetest.NewKey("other", 1)}); !errors.Is(err, keys.ErrStore) {
			t.Errorf("%s: a commit: %v", what, err)
		}
		if err := s.Ping(ctx); !errors.Is(err, keys.ErrStore) {
			t.Errorf("%s: readiness: %v", what, err)
		}
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	check("moved away")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check("replaced")
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	create(t, s, storetest.NewKey("other", 1))
}

// TestDamagedFile: what the start finds it says at the start.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keyhole.db")
	s := sqliteAt(t, path)
	for i := range 30 {
		create(t, s, storetest.NewKey(fmt.Sprint("key-", i), 4))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, damage := range map[string]func(b []byte) []byte{
		"cut":            func(b []byte) []byte { return b[:len(b)/2] },
		"a page is gone": func(b []byte) []byte { clear(b[5*4096 : 6*4096]); return b },
		"a page is noise": func(b []byte) []byte {
			for i := range 4096 {
				b[5*4096+i] ^= 0xa5
			}
			return b
		},
	} {
		if err := os.WriteFile(path, damage(bytes.Clone(whole)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.OpenSQLite(t.Context(), path, seal); !errors.Is(err, keys.ErrStore) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzDamagedFile lets single bytes of a good file turn into others: whatever
// comes of it is an error, or keys that are Damaged or exactly as they were,
// and never a panic.
func FuzzDamagedFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "keyhole.db")
	s := sqliteAt(f, path)
	create(f, s, storetest.NewKey("payments", 3), storetest.NewKey("other", 1))
	all, _, err := s.Load(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	known := store.NewSnapshot(all)
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	for _, offset := range []int{0, 16, 18, 28, 40, 52, 68, 100, 103, 4096, 5 * 4096, len(whole) - 1} {
		f.Add(offset, byte(0xff), len(whole))
		f.Add(offset, byte(0), offset)
	}
	f.Fuzz(func(t *testing.T, offset int, value byte, size int) {
		b := bytes.Clone(whole)
		b[uint(offset)%uint(len(b))] = value
		b = b[:uint(size)%uint(len(b)+1)]
		path := filepath.Join(t.TempDir(), "keyhole.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.OpenSQLite(t.Context(), path, seal)
		if err != nil {
			if !errors.Is(err, keys.ErrStore) {
				t.Errorf("opening: %v is not keys.ErrStore", err)
			}
			return
		}
		defer s.Close()
		all, _, err := s.Load(t.Context())
		if err != nil && !errors.Is(err, keys.ErrStore) {
			t.Errorf("loading: %v is not keys.ErrStore", err)
		}
		for _, k := range all {
			if was, ok := known.Key(k.Name); !k.Damaged && (!ok || !cmp.Equal(was, k)) {
				t.Errorf("key %q is another one, and believed: %+v", k.Name, k)
			}
		}
	})
}
