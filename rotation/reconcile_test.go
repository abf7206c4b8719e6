package rotation_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "modernc.org/sqlite" // to alter a database behind the store's back

	"keyhole/audit"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// database is the file of the kit's store.
func (k *kit) database() string { return filepath.Join(filepath.Dir(k.dir), "keyhole.db") }

// saved returns a copy of the database as it is now.
func (k *kit) saved() string {
	k.t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(k.dir), "copy-")
	k.must(err)
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(k.database() + suffix)
		if errors.Is(err, fs.ErrNotExist) && suffix != "" {
			continue
		}
		k.must(err)
		k.must(os.WriteFile(filepath.Join(dir, "keyhole.db"+suffix), b, 0o600))
	}
	return filepath.Join(dir, "keyhole.db")
}

// over makes the kit go on, as a new process, over another database file; it
// need not exist.
func (k *kit) over(t *testing.T, path string) {
	t.Helper()
	seal, err := k.hsm.StoreKey(t.Context(), false)
	k.must(err)
	k.store, err = store.OpenSQLite(t.Context(), path, seal)
	k.must(err)
	db := k.store
	t.Cleanup(func() { db.Close() })
	k.cache = store.NewCache(k.store, store.CacheConfig{Log: slog.New(slog.DiscardHandler)})
	k.must(k.cache.Refresh(t.Context()))
	k.Engine = k.engine(nil)
}

// alter changes the database behind everybody's back.
func (k *kit) alter(query string, args ...any) {
	k.t.Helper()
	db, err := sql.Open("sqlite", "file:"+k.database()+"?_pragma=busy_timeout(10000)")
	k.must(err)
	defer db.Close()
	_, err = db.ExecContext(k.t.Context(), query, args...)
	k.must(err)
}

// reconcile returns what is found, as "kind label action".
func (k *kit) reconcile(dryRun bool) []string {
	k.t.Helper()
	r, err := k.Reconcile(k.t.Context(), alice, dryRun)
	k.must(err)
	return said(k.t, r)
}

func said(t tb, r rotation.Report) []string {
	t.Helper()
	found := []string{}
	for _, f := range r.Findings {
		if f.Text == "" || f.Key == "" {
			t.Errorf("a finding that says too little: %+v", f)
		}
		found = append(found, fmt.Sprintf("%s %s %s", f.Kind, f.Label, f.Action))
	}
	return found
}

func (k *kit) finds(dryRun bool, want ...string) {
	k.t.Helper()
	if got := k.reconcile(dryRun); !slices.Equal(got, want) {
		k.t.Errorf("found, dry run %v:\n %q, want\n %q", dryRun, got, want)
	}
}

// TestNothingToReconcile: a key with a history, and objects of others.
func TestNothingToReconcile(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.rotate("payments")
	k.rotate("payments")
	if _, err := k.Revoke(t.Context(), alice, "payments", 1, "leaked"); err != nil {
		t.Fatal(err)
	}
	k.faulty.Fail(hsmtest.Generate, 1, hsmtest.NotDone, keys.ErrHSM)
	if _, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual}); err == nil {
		t.Fatal("the rotation did not fail")
	}
	_, err := k.hsm.Generate(t.Context(), keys.Ref{Token: "memory", ID: keys.NewObjectID(), Label: "of another tool", Algorithm: keys.ES256, Bits: 256})
	k.must(err)
	k.hsm.Plant(keys.TokenObject{Token: "memory", Class: keys.ClassSecret, Label: "", ID: []byte{1}})
	k.hsm.Plant(keys.TokenObject{Token: "memory", Class: keys.ClassSecret, Label: "keyhole-store.v1", ID: []byte{2}})
	n := len(k.records())
	r, err := k.Reconcile(t.Context(), alice, false)
	k.must(err)
	if r.Objects != 7 || r.Foreign != 3 || r.Versions != 4 || len(r.Findings) != 0 {
		t.Errorf("%+v; want 3 pairs and a secret of Keyhole's, a pair and a secret of others, 4 versions, no finding", r)
	}
	if len(k.records()) != n {
		t.Error("records were written though nothing was done")
	}
}

// TestReconcileFinds: each difference by itself, the repair of those that can
// be repaired, and that a dry run touches nothing.
func TestReconcileFinds(t *testing.T) {
	t.Parallel()
	object := func(class keys.ObjectClass, label string, id []byte) keys.TokenObject {
		return keys.TokenObject{Token: "memory", Class: class, Label: label, ID: id, Algorithms: []keys.Algorithm{keys.ES256}, Bits: 256}
	}
	for name, c := range map[string]struct {
		break_ func(k *kit, key *keys.Key)
		want   string // of a dry run
		after  string // of the second look after the repair; "": nothing
	}{
		"orphan": {func(k *kit, _ *keys.Key) {
			k.hsm.Plant(object(keys.ClassPrivate, "payments.v9", []byte("sixteen bytes id")))
			k.hsm.Plant(object(keys.ClassPublic, "payments.v9", []byte("sixteen bytes id")))
		}, "orphan payments.v9 none", "orphan payments.v9 none"},
		"orphan of no key": {func(k *kit, _ *keys.Key) {
			k.hsm.Plant(object(keys.ClassSecret, "nobody.v1", []byte{1}))
		}, "orphan nobody.v1 none", "orphan nobody.v1 none"},
		"missing": {func(k *kit, key *keys.Key) {
			k.must(k.hsm.Destroy(t.Context(), key.Ref(key.Versions[1])))
		}, "missing payments.v2 none", "missing payments.v2 none"},
		"private half missing": {func(k *kit, _ *keys.Key) {
			k.hsm.Lose("memory", "payments.v2", keys.ClassPrivate)
		}, "half-pair payments.v2 none", "half-pair payments.v2 none"},
		"public half missing": {func(k *kit, _ *keys.Key) {
			k.hsm.Lose("memory", "payments.v2", keys.ClassPublic)
		}, "half-pair payments.v2 none", "half-pair payments.v2 none"},
		"duplicate label": {func(k *kit, _ *keys.Key) {
			k.hsm.Plant(object(keys.ClassPrivate, "payments.v2", []byte("sixteen bytes id")))
		}, "duplicate payments.v2 none", "duplicate payments.v2 none"},
		"duplicate id": {func(k *kit, key *keys.Key) {
			k.hsm.Plant(object(keys.ClassPrivate, "payments.v2", key.Versions[1].ObjectID[:]))
		}, "duplicate payments.v2 none", "duplicate payments.v2 none"},
		"another label": {func(k *kit, key *keys.Key) {
			k.must(k.hsm.Destroy(t.Context(), key.Ref(key.Versions[1])))
			k.hsm.Plant(object(keys.ClassPrivate, "stolen", key.Versions[1].ObjectID[:]))
			k.hsm.Plant(object(keys.ClassPublic, "stolen", key.Versions[1].ObjectID[:]))
		}, "mismatch stolen none", "mismatch stolen none"},
		"another public key": {func(k *kit, key *keys.Key) {
			k.must(k.hsm.Destroy(t.Context(), key.Ref(key.Versions[1])))
			k.hsm.Plant(object(keys.ClassPrivate, "payments.v2", key.Versions[1].ObjectID[:]))
			o := object(keys.ClassPublic, "payments.v2", key.Versions[1].ObjectID[:])
			o.PublicKey = key.Versions[0].PublicKey
			k.hsm.Plant(o)
		}, "mismatch payments.v2 none", "mismatch payments.v2 none"},
		"another algorithm": {func(k *kit, key *keys.Key) {
			k.must(k.hsm.Destroy(t.Context(), key.Ref(key.Versions[1])))
			for _, class := range []keys.ObjectClass{keys.ClassPrivate, keys.ClassPublic} {
				o := object(class, "payments.v2", key.Versions[1].ObjectID[:])
				o.Algorithms = []keys.Algorithm{keys.RS256}
				k.hsm.Plant(o)
			}
		}, "mismatch payments.v2 none", "mismatch payments.v2 none"},
		"not destroyed": {func(k *kit, key *keys.Key) {
			v := key.Versions[2] // of the rotation that failed
			k.hsm.Plant(object(keys.ClassPrivate, "payments.v3", v.ObjectID[:]))
			k.hsm.Plant(object(keys.ClassPublic, "payments.v3", v.ObjectID[:]))
		}, "not-destroyed payments.v3 would-repair", ""},
		"destroyed, and another object": {func(k *kit, _ *keys.Key) {
			k.hsm.Plant(object(keys.ClassPrivate, "payments.v3", []byte("sixteen bytes id")))
		}, "mismatch payments.v3 none", "mismatch payments.v3 none"},
		"damaged": {func(k *kit, _ *keys.Key) {
			k.alter("UPDATE versions SET activate_at = activate_at + 1 WHERE key_name = 'payments' AND number = 1")
			k.over(k.t.(*testing.T), k.database())
		}, "damaged  none", "damaged  none"},
		"mark of another key": {func(k *kit, key *keys.Key) {
			ref := key.Ref(key.Versions[1])
			ref.ID = keys.NewObjectID()
			k.must(k.hsm.MarkRevoked(t.Context(), ref, keys.VersionID{Key: "payments", Number: 2}, time.Now()))
		}, "mismatch payments.v2 none", "mismatch payments.v2 none"},
		"mark of a version that the store has lost": {func(k *kit, key *keys.Key) {
			k.must(k.hsm.MarkRevoked(t.Context(), key.Ref(key.Versions[1]), keys.VersionID{Key: "payments", Number: 7}, time.Now()))
		}, "revocation-lost payments.v7 none", "revocation-lost payments.v7 none"},
		"mark of a deleted key": {func(k *kit, key *keys.Key) {
			k.must(k.hsm.MarkRevoked(t.Context(), key.Ref(key.Versions[1]), keys.VersionID{Key: "gone", Number: 1}, time.Now()))
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t)
			k.create("payments", keys.Policy{})
			k.rotate("payments")
			k.faulty.Fail(hsmtest.Generate, 1, hsmtest.NotDone, keys.ErrHSM)
			if _, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual}); err == nil {
				t.Fatal("the rotation did not fail")
			}
			c.break_(k, k.key("payments"))
			want := func(s string) []string {
				if s == "" {
					return []string{}
				}
				return []string{s}
			}
			records, objects := len(k.records()), k.listed()
			k.finds(true, want(c.want)...)
			if got := k.listed(); !slices.Equal(got, objects) || len(k.records()) != records {
				t.Errorf("a dry run has changed %v to %v, and written %d records", objects, got, len(k.records())-records)
			}
			k.finds(false, want(strings.Replace(c.want, "would-repair", "repaired", 1))...)
			k.finds(false, want(c.after)...)
			repaired := strings.Contains(c.want, "would-repair")
			if got := k.listed(); slices.Equal(got, objects) == repaired {
				t.Errorf("the objects are %v", got)
			}
			outcomes := 0
			for _, r := range k.records()[records:] {
				if r.Outcome == audit.OutcomeOK && r.Intent != nil && r.Action == "destroy" && r.KeyID == "payments.v3" && r.Principal == alice.Principal {
					outcomes++
				}
			}
			if repaired != (outcomes == 1) || !repaired && len(k.records()) != records {
				t.Errorf("%d outcomes among %d records", outcomes, len(k.records())-records)
			}
		})
	}
}

// listed is everything on the token.
func (k *kit) listed() (all []string) {
	k.t.Helper()
	objects, err := k.hsm.List(k.t.Context(), "memory")
	k.must(err)
	marks, err := k.hsm.Revoked(k.t.Context(), "memory")
	k.must(err)
	for _, o := range objects {
		all = append(all, fmt.Sprintf("%s %s %x", o.Class, o.Label, o.ID))
	}
	for _, m := range marks {
		all = append(all, fmt.Sprintf("mark %s %s", m.Version, m.ObjectID))
	}
	slices.Sort(all)
	return all
}

// TestLostRevocations: an old copy of the database is put back. It knows
// nothing of a revocation, and all its seals are good.
func TestLostRevocations(t *testing.T) {
	t.Parallel()
	for name, notice := range map[string]func(k *kit) error{
		"at start": func(k *kit) error { return k.ReconcileAtStart(t.Context()) },
		"hourly":   func(k *kit) error { return k.Tick(t.Context()) },
		"asked for": func(k *kit) error {
			_, err := k.Reconcile(t.Context(), alice, false)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t)
			k.create("payments", keys.Policy{})
			k.create("other", keys.Policy{})
			k.rotate("payments")
			old := k.saved()
			revoked, err := k.Revoke(t.Context(), alice, "payments", 1, "leaked")
			k.must(err)
			at := revoked.Versions[0].RevokedAt
			k.over(t, old)
			if v := k.key("payments").Versions[0]; !v.RevokedAt.IsZero() {
				t.Fatal("the old copy knows of the revocation")
			}
			k.finds(true, "revocation-lost payments.v1 would-repair")
			records := len(k.records())
			k.must(notice(k))
			v := k.key("payments").Versions[0]
			if !v.RevokedAt.Equal(at) || k.key("payments").StateAt(v, k.now()) != keys.Compromised {
				t.Errorf("version 1 is %s, revoked at %s; want %s", k.key("payments").StateAt(v, k.now()), v.RevokedAt, at)
			}
			seen, err := k.cache.Keys()
			k.must(err)
			if i := slices.IndexFunc(seen, func(k *keys.Key) bool { return k.Name == "payments" }); seen[i].Versions[0].RevokedAt.IsZero() {
				t.Error("the snapshot does not know of the revocation")
			}
			events, err := k.store.Events(t.Context(), 0, 1000)
			k.must(err)
			if last := events[len(events)-1]; last.Type != keys.NoticeRevoked || last.Key != "payments" || last.Version != 1 {
				t.Errorf("the last notice is %+v", last)
			}
			told := 0
			for _, r := range k.records()[records:] {
				if r.Action == "revoke" && r.KeyID == "payments.v1" && r.Outcome == audit.OutcomeOK && r.Intent != nil {
					told++
				}
			}
			if told != 1 {
				t.Errorf("%d outcomes of the revocation in the audit log", told)
			}
			k.finds(false)
			if len(k.records()) != records+2 {
				t.Errorf("%d records", len(k.records())-records)
			}
		})
	}
}

// TestLostRevocationOfTheActiveVersion: it is out of use at once, and gets a
// successor as any other.
func TestLostRevocationOfTheActiveVersion(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	key := k.key("payments")
	k.must(k.hsm.MarkRevoked(t.Context(), key.Ref(key.Versions[0]), key.ID(key.Versions[0]), k.now()))
	k.must(k.ReconcileAtStart(t.Context()))
	if n := k.active("payments"); n != 0 {
		t.Errorf("version %d is active", n)
	}
	k.pass(time.Second)
	k.tick()
	if n := k.active("payments"); n != 2 {
		t.Errorf("version %d is active, want 2", n)
	}
	k.consistent()
}

// TestStartRefusesWithoutMarks: whoever cannot read the marks does not know
// what is compromised.
func TestStartRefusesWithoutMarks(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.faulty.Fail(hsmtest.Revoked, 1, hsmtest.NotDone, keys.ErrHSM)
	if err := k.ReconcileAtStart(t.Context()); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("%v, want ErrHSM", err)
	}
	key := k.key("payments")
	k.must(k.hsm.MarkRevoked(t.Context(), key.Ref(key.Versions[0]), key.ID(key.Versions[0]), k.now()))
	e := k.engine(func(c *rotation.Config) { c.Audit = deaf{} })
	if err := e.ReconcileAtStart(t.Context()); !errors.Is(err, keys.ErrAudit) {
		t.Errorf("without an audit log: %v, want ErrAudit", err)
	}
	if !k.key("payments").Versions[0].RevokedAt.IsZero() {
		t.Error("revoked without an intent record")
	}
}

// deaf is an audit log that takes nothing.
type deaf struct{}

func (deaf) Append(context.Context, ...audit.Record) (uint64, error) { return 0, keys.ErrAudit }

// TestMarkedAgain: a mark that could not be left is left by the next look.
func TestMarkedAgain(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.rotate("payments")
	k.faulty.Fail(hsmtest.MarkRevoked, 1, hsmtest.NotDone, keys.ErrHSM)
	key, err := k.Revoke(t.Context(), alice, "payments", 1, "leaked")
	k.must(err)
	k.finds(true)
	k.finds(false)
	marks, err := k.hsm.Revoked(t.Context(), "memory")
	k.must(err)
	if len(marks) != 1 || marks[0].ObjectID != key.Versions[0].ObjectID || !marks[0].RevokedAt.Equal(key.Versions[0].RevokedAt) {
		t.Errorf("the marks are %+v", marks)
	}
}

// TestAbandonedVersion: the rotation that makes a version has gone from the
// store. Its key must not wait for it for ever.
func TestAbandonedVersion(t *testing.T) {
	t.Parallel()
	for _, generated := range []bool{false, true} {
		k := newKit(t)
		k.create("payments", keys.Policy{})
		dead := &atomic.Bool{}
		e := k.engine(func(c *rotation.Config) {
			c.Token, c.Store, c.Audit = generatesLast{c.Token, dead, generated}, writesNoMore{c.Store, dead}, recordsNoMore{c.Audit, dead}
		})
		if _, err := e.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual}); err == nil {
			t.Fatal("the process did not die")
		}
		k.finds(false) // it is under way
		k.alter("UPDATE rotations SET note = 'altered' WHERE key_name = 'payments' AND to_version = 2")
		k.finds(true, "damaged payments.v2 would-repair")
		k.finds(false, "damaged payments.v2 repaired")
		k.finds(false)
		if v := k.key("payments").Versions[1]; v.DestroyedAt.IsZero() {
			t.Errorf("version 2 is %+v", v)
		}
		if got := k.hsm.Objects(); !slices.Equal(got, []string{"payments.v1"}) {
			t.Errorf("the HSM holds %v", got)
		}
	}
}

// generatesLast is the token of a process that dies when it generates, with
// the key made or not.
type generatesLast struct {
	rotation.Token
	dead *atomic.Bool
	done bool
}

func (g generatesLast) Generate(ctx context.Context, ref keys.Ref) (keys.Generated, error) {
	if g.done {
		if _, err := g.Token.Generate(ctx, ref); err != nil {
			return keys.Generated{}, err
		}
	}
	g.dead.Store(true)
	return keys.Generated{}, errDead
}

func (g generatesLast) Destroy(ctx context.Context, ref keys.Ref) error {
	if g.dead.Load() {
		return errDead
	}
	return g.Token.Destroy(ctx, ref)
}

type writesNoMore struct {
	rotation.Store
	dead *atomic.Bool
}

func (s writesNoMore) Commit(ctx context.Context, c store.Change) error {
	if s.dead.Load() {
		return errDead
	}
	return s.Store.Commit(ctx, c)
}

type recordsNoMore struct {
	rotation.Auditor
	dead *atomic.Bool
}

func (a recordsNoMore) Append(ctx context.Context, recs ...audit.Record) (uint64, error) {
	if a.dead.Load() {
		return 0, errDead
	}
	return a.Auditor.Append(ctx, recs...)
}

// TestReconcileFails: what cannot be repaired now is said to be, and is
// tried again.
func TestReconcileFails(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.faulty.Fail(hsmtest.Generate, 1, hsmtest.NotDone, keys.ErrHSM)
	_, err := k.Rotate(t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual})
	if err == nil {
		t.Fatal("the rotation did not fail")
	}
	v := k.key("payments").Versions[1]
	k.hsm.Plant(keys.TokenObject{Token: "memory", Class: keys.ClassPrivate, Label: "payments.v2", ID: v.ObjectID[:]})
	k.faulty.Fail(hsmtest.Destroy, 1, hsmtest.NotDone, keys.ErrHSM)
	k.finds(false, "not-destroyed payments.v2 failed")
	e := k.engine(func(c *rotation.Config) { c.Audit = deaf{} })
	r, err := e.Reconcile(t.Context(), alice, false)
	k.must(err)
	if got := said(t, r); !slices.Equal(got, []string{"not-destroyed payments.v2 failed"}) || len(k.hsm.Objects()) != 1 || len(k.listed()) != 3 {
		t.Errorf("without an audit log: %v, %v", got, k.listed())
	}
	k.faulty.Fail(hsmtest.List, 1, hsmtest.NotDone, keys.ErrHSM)
	if _, err := k.Reconcile(t.Context(), alice, false); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("over a token that does not answer: %v, want ErrHSM", err)
	}
	k.finds(false, "not-destroyed payments.v2 repaired")
	k.finds(false)
}

// TestReconcileBesideRotations: what is under way is no difference, whenever
// one looks.
func TestReconcileBesideRotations(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	ended := make(chan error, 1)
	go func() {
		for range 10 {
			if _, err := k.Rotate(context.Background(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual}); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	for looks := 0; ; looks++ {
		k.finds(false)
		select {
		case err := <-ended:
			k.must(err)
			t.Logf("%d looks", looks)
			k.consistent()
			return
		default:
		}
	}
}

// TestReconcileOnce: two at once would each repair.
func TestReconcileOnce(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	entered, release := k.faulty.Block(hsmtest.List, 1)
	first := make(chan error, 1)
	go func() {
		_, err := k.Reconcile(context.Background(), alice, false)
		first <- err
	}()
	<-entered
	if _, err := k.Reconcile(t.Context(), alice, false); !errors.Is(err, keys.ErrConflict) {
		t.Errorf("a second one: %v, want ErrConflict", err)
	}
	release()
	k.must(<-first)
}

// TestReconcileHourly: once at first, and then once an hour.
func TestReconcileHourly(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	for range 3 {
		k.tick()
	}
	if n := k.faulty.Calls(hsmtest.List); n != 1 {
		t.Errorf("%d lists after three ticks", n)
	}
	k.pass(59 * time.Minute)
	k.tick()
	k.pass(2 * time.Minute)
	k.tick()
	k.tick()
	if n := k.faulty.Calls(hsmtest.List); n != 2 {
		t.Errorf("%d lists after an hour", n)
	}
	k.pass(-5 * time.Hour) // a clock that was set back does not stop it for hours
	k.tick()
	if n := k.faulty.Calls(hsmtest.List); n != 3 {
		t.Errorf("%d lists after the clock was set back", n)
	}
}

// TestReconcileAll uses every key.
func TestReconcileAll(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.rotate("payments")
	k.create("tokens", keys.Policy{})
	k.faulty.Fail(hsmtest.Inspect, 2, hsmtest.NotDone, keys.Errorf(keys.ErrInvalid, "the key is another one"))
	steps := []string{}
	r, err := k.ReconcileAll(t.Context(), alice, true, func(done, of int) { steps = append(steps, fmt.Sprint(done, "/", of)) })
	k.must(err)
	if got := said(t, r); !slices.Equal(got, []string{"mismatch payments.v2 none"}) || !slices.Equal(steps, []string{"1/3", "2/3", "3/3"}) {
		t.Errorf("found %v in the steps %v", got, steps)
	}
	k.faulty.Fail(hsmtest.Inspect, 1, hsmtest.NotDone, keys.ErrHSM)
	if _, err := k.ReconcileAll(t.Context(), alice, true, nil); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("over a token that does not answer: %v, want ErrHSM", err)
	}
}
