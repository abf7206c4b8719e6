package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/postgrestest"
	"keyhole/store/storetest"
)

// lived makes a row in every table: all that a store may hold.
func lived(t *testing.T, w *world) {
	t.Helper()
	ctx, at := t.Context(), time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	odd := storetest.NewKey("odd", 2)
	odd.Description, odd.Tags = "a \x00 and a \x01 and \x01\x01 \x01\x02 ü", map[string]string{"\x00": "\x01"}
	odd.Versions[1].Check = nil
	retired := storetest.NewKey("retired", 1)
	notice := keys.Notice{Type: keys.NoticeAnnounced, At: at, Key: "odd", Version: 1, Reason: "\x00"}
	create(t, w, retired)
	gone := storetest.Step(retired, func(k *keys.Key) { k.Versions[0].DestroyedAt = at })
	for what, err := range map[string]error{
		"events":    w.Commit(ctx, store.Change{Key: odd, Notices: []keys.Notice{notice, notice}}),
		"destroyed": w.Commit(ctx, store.Change{Key: gone, FromEpoch: 1}),
		"agents":    w.SeeAgents(ctx, []store.Sighting{{Principal: "jwt:corp:bob", At: at}, {Principal: "jwt:corp:\x01", At: at}}),
		"usage":     w.ReserveUsage(ctx, "node", []keys.Usage{{Key: "odd", Version: 1, Principal: "p", Applied: 1 << 40, LastUse: at}, {Key: "odd", Version: 2, Principal: "p"}}),
		"hooks": w.PutHook(ctx, store.Hook{Name: "hook", Cursor: 1, RetryAt: at}, store.DeadEvent{
			Hook: "hook", Notice: keys.Notice{ID: 1, Type: keys.NoticeAnnounced, At: at, Key: "odd"}, Error: "e", At: at,
		}),
	} {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(nil, w.Commit(ctx, store.Change{Key: gone, FromEpoch: 2, Delete: true}))
	must(w.Subscribe(ctx, keys.Subscription{Key: "payments", Principal: "jwt:corp:bob", Since: at}))
	must(w.Acknowledge(ctx, keys.Ack{Key: "payments", Version: 2, Principal: "jwt:corp:bob", At: at}))
	must(w.BeginAttempt(ctx, store.Attempt{Principal: "p", Key: "k", Fingerprint: "f", RequestID: "r", StartedAt: at}))
	must(nil, w.FinishAttempt(ctx, "p", "k", 200, []byte("\x00body\xff")))
	must(w.AcquireLease(ctx, "due", "somebody", time.Hour))
	must(nil, w.Beat(ctx, keys.Node{Instance: "i", Name: "n"}, time.Microsecond))
	eventually(t, "the node has lapsed", func() bool {
		all, _, err := w.Nodes(ctx)
		return err == nil && len(all) == 1 && !all[0].Live
	})
}

// eventually polls until something is so.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !f(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// everything returns all that can be read of a store.
func everything(t *testing.T, s store.Store) map[string]any {
	t.Helper()
	ctx, all := t.Context(), map[string]any{}
	note := func(what string) func(v any, err error) {
		return func(v any, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			all[what] = v
		}
	}
	loaded, _, err := s.Load(ctx)
	note("keys")(loaded, err)
	changed, deleted, _, err := s.Changed(ctx, 0)
	note("changed")(changed, err)
	note("deleted")(deleted, err)
	note("rotations")(s.Rotations(ctx, store.RotationFilter{}))
	note("approvals")(s.Approvals(ctx, store.ApprovalFilter{}))
	note("events")(s.Events(ctx, 0, 1000))
	oldest, newest, err := s.EventRange(ctx)
	note("event range")([]uint64{oldest, newest}, err)
	note("agents")(s.Agents(ctx, store.AgentFilter{}))
	note("blocked")(s.Blocked(ctx))
	note("subscriptions")(s.Subscriptions(ctx, "", ""))
	note("acks")(s.Acks(ctx, "", 0, ""))
	note("usage")(s.Usage(ctx, "", "node"))
	note("hook")(s.Hook(ctx, "hook"))
	note("dead")(s.DeadEvents(ctx, "", 0))
	note("attempt")(s.BeginAttempt(ctx, store.Attempt{Principal: "p", Key: "k", StartedAt: time.Now()}))
	return all
}

func TestCopy(t *testing.T) {
	t.Parallel()
	w := newTamperWorld(t)
	lived(t, w)
	to, d := newPostgres(t)
	told := map[string]int{}
	done, err := store.Copy(t.Context(), w.file, to, store.CopyConfig{Progress: func(table string, done, total int) {
		if done > total || done < told[table] {
			t.Errorf("%s: %d of %d, after %d", table, done, total, told[table])
		}
		told[table] = done
	}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(everything(t, w), everything(t, to), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the copy is another (-source +copy):\n%s", diff)
	}
	_, revision, err := w.Load(t.Context())
	if err != nil || done.Revision != revision || done.Already || len(done.LeftOut) != 0 {
		t.Errorf("%+v, %v; the source is at %d", done, err, revision)
	}
	if diff := cmp.Diff(told, done.Rows); diff != "" {
		t.Errorf("told and done:\n%s", diff)
	}
	// Nothing that the schema has is forgotten.
	rows, err := d.Admin(t).QueryContext(t.Context(), "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		n, ok := done.Rows[name]
		if ok == slices.Contains([]string{"leases", "nodes", "meta", "schema_version"}, name) || ok && n == 0 {
			t.Errorf("of table %s there are %d, %v", name, n, ok)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Fatal(err)
	}

	// Once more: the operator does not know whether it was made.
	again, err := store.Copy(t.Context(), w.file, to, store.CopyConfig{})
	if err != nil || !again.Already || again.Revision != done.Revision {
		t.Errorf("once more: %+v, %v", again, err)
	}
	// It goes on where the source was.
	k, err := to.Key(t.Context(), "payments")
	if err != nil {
		t.Fatal(err)
	}
	change(t, to, "payments")
	if changed, _, now, err := to.Changed(t.Context(), revision); err != nil || now != revision+1 || len(changed) != 1 || changed[0].Epoch != k.Epoch+1 {
		t.Errorf("the next change: %+v at %d, %v", changed, now, err)
	}
	_, err = store.Copy(t.Context(), w.file, to, store.CopyConfig{})
	if !errors.Is(err, keys.ErrKeyExists) {
		t.Errorf("over a store that goes on: %v", err)
	}
	if _, err := to.Key(t.Context(), "payments"); err != nil {
		t.Error(err)
	}
}

// refusedCopy checks that nothing was written.
func refusedCopy(t *testing.T, to *store.Postgres, err, want error, words ...string) {
	t.Helper()
	var detailed *keys.Error
	if !errors.Is(err, want) || !errors.As(err, &detailed) {
		t.Errorf("%v, want %v", err, want)
		return
	}
	for _, word := range words {
		if !strings.Contains(detailed.Detail, word) {
			t.Errorf("%q does not say %q", detailed.Detail, word)
		}
	}
	if all, revision, err := to.Load(t.Context()); err != nil || len(all) != 0 || revision != 0 {
		t.Errorf("a refused copy left %d keys at revision %d, %v", len(all), revision, err)
	}
}

// TestCopyOfAltered: what was altered is named, and left out only if somebody
// says so.
func TestCopyOfAltered(t *testing.T) {
	t.Parallel()
	for what, tt := range map[string]struct {
		edit string
		left []string
	}{
		"a key":         {"UPDATE versions SET revoked_at = NULL", []string{`key "payments"`, `rotation "rotation"`}},
		"a lost row":    {"DELETE FROM keys WHERE name = 'other'", []string{`key "other"`}},
		"a wrong flag":  {"UPDATE versions SET always_sensitive = 2 WHERE key_name = 'other'", []string{`key "other"`}},
		"a rotation":    {"UPDATE rotations SET started_by = 'x'", []string{`rotation "rotation"`}},
		"an approval":   {"UPDATE approvals SET force = 7", []string{`approval "approval"`}},
		"the blocklist": {"UPDATE sealed SET body = '[]'", nil},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newTamperWorld(t)
			to, _ := newPostgres(t)
			w.exec(t, tt.edit)
			_, err := store.Copy(t.Context(), w.file, to, store.CopyConfig{})
			refusedCopy(t, to, err, keys.ErrTampered, tt.left...)
			done, err := store.Copy(t.Context(), w.file, to, store.CopyConfig{LeaveOut: true})
			if tt.left == nil {
				refusedCopy(t, to, err, keys.ErrTampered, "blocked")
				return
			}
			if err != nil || !slices.Equal(done.LeftOut, tt.left) {
				t.Fatalf("%+v, %v", done, err)
			}
			all, _, err := to.Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range all {
				if k.Damaged || slices.Contains(tt.left, fmt.Sprintf("key %q", k.Name)) {
					t.Errorf("there is %+v", k)
				}
			}
			if again, err := store.Copy(t.Context(), w.file, to, store.CopyConfig{LeaveOut: true}); err != nil || !again.Already {
				t.Errorf("once more: %+v, %v", again, err)
			}
		})
	}
}

func TestCopyIsRefused(t *testing.T) {
	t.Parallel()
	w := newTamperWorld(t)
	ctx := t.Context()
	to, d := newPostgres(t)

	if err := w.Beat(ctx, keys.Node{Instance: "i", Name: "old"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	_, err := store.Copy(ctx, w.file, to, store.CopyConfig{})
	refusedCopy(t, to, err, keys.ErrInUse, `"old"`, "stop it")
	if err := w.Leave(ctx, "i"); err != nil {
		t.Fatal(err)
	}
	if err := to.Beat(ctx, keys.Node{Instance: "i", Name: "new"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	_, err = store.Copy(ctx, w.file, to, store.CopyConfig{})
	refusedCopy(t, to, err, keys.ErrInUse, `"new"`)
	if err := to.Leave(ctx, "i"); err != nil {
		t.Fatal(err)
	}

	// Whoever would read the copy would believe none of it.
	c := config(d)
	other, err := store.OpenPostgres(ctx, c, []byte("another key, of another token..."))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, other)
	_, err = store.Copy(ctx, w.file, other, store.CopyConfig{})
	refusedCopy(t, to, err, keys.ErrTampered, "another key")

	if err := to.SeeAgents(ctx, []store.Sighting{{Principal: "p", At: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	_, err = store.Copy(ctx, w.file, to, store.CopyConfig{})
	refusedCopy(t, to, err, keys.ErrKeyExists, "not empty", "agents")
}

// TestCopyBroken: a copy that did not come to its end has left nothing, and
// the next one is made.
func TestCopyBroken(t *testing.T) {
	t.Parallel()
	for what, tt := range map[string]struct {
		stop func(t *testing.T, d *postgrestest.Database, cancel context.CancelFunc)
		want error
	}{
		"its caller leaves":     {func(_ *testing.T, _ *postgrestest.Database, cancel context.CancelFunc) { cancel() }, context.Canceled},
		"its connection breaks": {func(t *testing.T, d *postgrestest.Database, _ context.CancelFunc) { d.Terminate(t) }, keys.ErrStore},
	} {
		for _, at := range []string{"keys", "agents", "dead_events"} {
			t.Run(what+" at "+at, func(t *testing.T) {
				t.Parallel()
				w := newTamperWorld(t)
				lived(t, w)
				to, d := newPostgres(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				_, err := store.Copy(ctx, w.file, to, store.CopyConfig{Progress: func(table string, _, _ int) {
					if table == at {
						tt.stop(t, d, cancel)
					}
				}})
				if !errors.Is(err, tt.want) {
					t.Errorf("%v, want %v", err, tt.want)
				}
				if all, revision, err := to.Load(t.Context()); err != nil || len(all) != 0 || revision != 0 {
					t.Errorf("%d keys at revision %d are left, %v", len(all), revision, err)
				}
				if done, err := store.Copy(t.Context(), w.file, to, store.CopyConfig{}); err != nil || done.Already {
					t.Errorf("the next one: %+v, %v", done, err)
				}
			})
		}
	}
}

// TestCopyOfAnEmptyStore also counts.
func TestCopyOfAnEmptyStore(t *testing.T) {
	t.Parallel()
	from, _ := newSQLite(t)
	to, _ := newPostgres(t)
	for range 2 {
		if done, err := store.Copy(t.Context(), from, to, store.CopyConfig{}); err != nil || done.Rows["keys"] != 0 {
			t.Errorf("%+v, %v", done, err)
		}
	}
	if _, err := to.Blocked(t.Context()); err != nil {
		t.Error(err)
	}
}
