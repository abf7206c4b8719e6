package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/postgrestest"
	"keyhole/store/storetest"
)

// advance takes a key to its next epoch, once.
func advance(ctx context.Context, s store.Store, k *keys.Key) (*keys.Key, error) {
	next := storetest.Step(k, func(k *keys.Key) { k.Description += "." })
	return next, s.Commit(ctx, store.Change{Key: next, FromEpoch: k.Epoch})
}

// unavailable checks that an error is the store's, and no deadline of its own.
func unavailable(t *testing.T, what string, err error) {
	t.Helper()
	var detailed *keys.Error
	if !errors.Is(err, keys.ErrStore) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &detailed) {
		t.Errorf("%s: %v, want keys.ErrStore without a detail", what, err)
	}
}

// TestConnectionsAreKilled: nobody notices, neither when they were idle nor
// in the middle of a transaction, and nothing is done twice.
func TestConnectionsAreKilled(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, d := newPostgres(t)
	k := storetest.NewKey("payments", 1)
	create(t, s, k)
	var err error
	for range 5 {
		d.Terminate(t)
		if _, _, err := s.Load(ctx); err != nil {
			t.Fatalf("reading: %v", err)
		}
		if k, err = advance(ctx, s, k); err != nil {
			t.Fatalf("committing: %v", err)
		}
	}

	admin, err := d.Admin(t).BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	exec := func(query string) {
		t.Helper()
		if _, err := admin.ExecContext(ctx, query); err != nil {
			t.Fatal(err)
		}
	}
	committed := make(chan error, 1)
	waits := 0 // the process of the server that waits
	waiting := func() bool {
		if len(committed) > 0 {
			t.Fatalf("the commit did not wait: %v", <-committed)
		}
		exec("SELECT pg_stat_clear_snapshot()")
		pid := 0
		err := admin.QueryRowContext(ctx, "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock' AND pid <> $2", d.User, waits).Scan(&pid)
		if err != nil {
			t.Fatal(err)
		}
		if pid > 0 {
			waits = pid
		}
		return pid > 0
	}
	exec("SELECT * FROM meta FOR UPDATE")
	go func() { _, err := advance(ctx, s, k); committed <- err }()
	for range 2 {
		eventually(t, "the commit waits", waiting)
		d.Terminate(t)
	}
	if err := admin.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-committed; err != nil {
		t.Errorf("a commit whose connection was killed before its end: %v", err)
	}
	now, err := s.Key(ctx, "payments")
	if err != nil || now.Epoch != k.Epoch+1 || uint64(len(now.Description)) != now.Epoch-1 {
		t.Errorf("epoch %d became %+v, %v", k.Epoch, now, err)
	}
	if _, revision, err := s.Load(ctx); err != nil || revision != now.Epoch {
		t.Errorf("revision %d, %v", revision, err)
	}
}

// TestPasswordIsRenewed while the store is open.
func TestPasswordIsRenewed(t *testing.T) {
	t.Parallel()
	s, d := newPostgres(t)
	if _, err := d.Admin(t).ExecContext(t.Context(), "ALTER ROLE "+d.User+" PASSWORD 'renewed'"); err != nil {
		t.Fatal(err)
	}
	d.Terminate(t)
	unavailable(t, "the old password", s.Ping(t.Context()))
	if err := os.WriteFile(d.PasswordFile, []byte("renewed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("the new password: %v", err)
	}
}

// TestServerRestarts: calls fail soon while it is down, and all goes on by
// itself, hints too.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := postgrestest.Start(t, postgrestest.Options{})
	d := server.Database(t)
	s, other := postgresAt(t, config(d)), postgresAt(t, config(d))
	closeAtEnd(t, s)
	closeAtEnd(t, other)
	hints := s.Hints()
	k := storetest.NewKey("payments", 1)
	create(t, s, k)
	var err error
	for what, stop := range map[string]func(testing.TB){"stopped": server.Stop, "crashed": server.Crash} {
		stop(t)
		_, _, err = s.Load(ctx)
		unavailable(t, what+": reading", err)
		_, err = advance(ctx, s, k)
		unavailable(t, what+": committing", err)
		unavailable(t, what+": readiness", s.Ping(ctx))
		_, err = store.OpenPostgres(ctx, config(d), seal)
		operator(t, what+": opening", err, "nobody listens")
		server.Start(t)
		if k, err = advance(ctx, s, k); err != nil {
			t.Fatalf("%s and started: committing: %v", what, err)
		}
		if now, err := s.Key(ctx, "payments"); err != nil || now.Epoch != k.Epoch {
			t.Fatalf("%s and started: %+v, %v", what, now, err)
		}
		eventually(t, what+" and started: a hint", func() bool {
			select {
			case <-hints:
			default:
			}
			if k, err = advance(ctx, other, k); err != nil {
				t.Fatal(err)
			}
			select {
			case <-hints:
				return true
			case <-time.After(100 * time.Millisecond):
				return false
			}
		})
	}
}

// TestServerHangs: a server that never answers holds nobody longer than its
// context, or the time limit of the store.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t, postgrestest.Options{})
	d := server.Database(t)
	patient, hasty := postgresAt(t, config(d)), postgresAt(t, config(d))
	closeAtEnd(t, patient)
	closeAtEnd(t, hasty)
	hasty.SetTimeout(200 * time.Millisecond)
	k := storetest.NewKey("payments", 1)
	create(t, patient, k)

	server.Pause(t)
	for range 2 { // by a connection that was good, and by a new one
		for what, call := range map[string]func(ctx context.Context, s store.Store) error{
			"reading":    func(ctx context.Context, s store.Store) error { _, _, err := s.Load(ctx); return err },
			"committing": func(ctx context.Context, s store.Store) error { _, err := advance(ctx, s, k); return err },
			"a heartbeat": func(ctx context.Context, s store.Store) error {
				return s.Beat(ctx, keys.Node{Instance: "i", Name: "n"}, time.Hour)
			},
			"a lease": func(ctx context.Context, s store.Store) error {
				_, err := s.AcquireLease(ctx, "l", "h", time.Hour)
				return err
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if err := call(ctx, patient); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v, want the caller's deadline", what, err)
			}
			cancel()
			unavailable(t, what, call(t.Context(), hasty))
		}
	}
	server.Resume(t)
	hasty.SetTimeout(time.Minute)
	for _, s := range []store.Store{hasty, patient} {
		eventually(t, "the store is there again", func() bool { return s.Ping(t.Context()) == nil })
	}
	k, err := patient.Key(t.Context(), "payments")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := advance(t.Context(), patient, k); err != nil {
		t.Errorf("committing again: %v", err)
	}
}

// TestFrozenGateway: one that stands still in the middle of a transaction
// does not keep the others from writing for good.
func TestFrozenGateway(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, d := newPostgres(t)
	c := config(d)
	c.Timeout = 5 * time.Second
	frozen := postgresAt(t, c)
	closeAtEnd(t, frozen)
	release, err := frozen.Freeze(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	create(t, s, storetest.NewKey("payments", 1))
	if err := frozen.Ping(ctx); err != nil {
		t.Errorf("the one that was frozen: %v", err)
	}
}

// TestDemoted: a server that became a standby is not written to, and left.
func TestDemoted(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := postgrestest.Start(t, postgrestest.Options{})
	d := server.Database(t)
	s := postgresAt(t, config(d))
	closeAtEnd(t, s)
	k := storetest.NewKey("payments", 1)
	create(t, s, k)
	admin := d.Admin(t)
	readOnly := func(on string) {
		t.Helper()
		for _, query := range []string{"ALTER SYSTEM SET default_transaction_read_only = " + on, "SELECT pg_reload_conf()"} {
			if _, err := admin.ExecContext(ctx, query); err != nil {
				t.Fatal(err)
			}
		}
	}
	readOnly("on")
	var err error
	eventually(t, "writes are refused", func() bool {
		next, cerr := advance(ctx, s, k)
		if cerr == nil { // the server has not read its settings yet
			k = next
			return false
		}
		err = cerr
		return true
	})
	unavailable(t, "a server that takes no writes", err)
	readOnly("off")
	eventually(t, "writes are taken", func() bool { _, err := advance(ctx, s, k); return err == nil })
}

// TestServerCrashesUnderLoad: what was acknowledged is there, and no commit
// by half.
func TestServerCrashesUnderLoad(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t, postgrestest.Options{})
	d := server.Database(t)
	s := postgresAt(t, config(d))
	closeAtEnd(t, s)
	begun(t, s)
	before := uint64(1)
	for round, acks := range []int{1, 7, 30} {
		cmd := child(t, "commit", d.URL)
		cmd.Env = append(cmd.Env, childPassword+"="+d.PasswordFile)
		cmd.Stderr = nil
		acknowledged := acknowledges(t, cmd, before, acks, func() error { server.Crash(t); return nil })
		server.Start(t)
		before = whole(t, s, fmt.Sprint("round ", round), acknowledged)
	}
}
