package rotation_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// TestUsageThresholds: a version that did what it may is replaced; and an
// A256GCM version is long before it stops, without any policy.
func TestUsageThresholds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		alg    keys.Algorithm
		policy keys.Policy
		use    keys.Usage
		due    bool
	}{
		"operations":             {keys.ES256, keys.Policy{MaxOperations: 100}, keys.Usage{Applied: 100}, true},
		"operations, almost":     {keys.ES256, keys.Policy{MaxOperations: 100}, keys.Usage{Applied: 99, Processed: 1000}, false},
		"bytes":                  {keys.ES256, keys.Policy{MaxBytes: 1000}, keys.Usage{Applied: 1, Bytes: 1000}, true},
		"bytes, almost":          {keys.ES256, keys.Policy{MaxBytes: 1000}, keys.Usage{Applied: 1, Bytes: 999}, false},
		"wraps":                  {keys.A256GCM, keys.Policy{}, keys.Usage{Applied: keys.MaxWraps / 2}, true},
		"wraps, almost":          {keys.A256GCM, keys.Policy{}, keys.Usage{Applied: keys.MaxWraps/2 - 1}, false},
		"wraps, with more leave": {keys.A256GCM, keys.Policy{MaxOperations: keys.MaxWraps}, keys.Usage{Applied: keys.MaxWraps / 2}, true},
		"signatures of others":   {keys.ES256, keys.Policy{}, keys.Usage{Applied: keys.MaxWraps}, false},
	} {
		k := newKit(t)
		if _, err := k.CreateKey(t.Context(), alice, rotation.Spec{Name: "payments", Algorithm: c.alg, Policy: c.policy}); err != nil {
			t.Fatal(err)
		}
		c.use.Key, c.use.Version = "payments", 1
		k.used(c.use)
		k.tick()
		if c.alg == keys.ES256 && k.active("payments") != 1 {
			t.Errorf("%s: rotated sooner than the least period behind the last switch", name)
		}
		k.pass(keys.DefaultLimits().MinPeriod)
		k.tick()
		k.tick() // the new version has done nothing yet
		if want := map[bool]uint32{true: 2, false: 1}[c.due]; k.active("payments") != want {
			t.Errorf("%s: version %d is active, want %d", name, k.active("payments"), want)
		}
		if c.due && k.latest("payments").Reason != keys.ReasonUsageThreshold {
			t.Errorf("%s: %+v", name, k.latest("payments"))
		}
	}
}

// TestSchedule: however many ticks were missed, one rotation makes up for
// them; and one that was made by hand since the last tick is none of them.
func TestSchedule(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	// The clock stands at some moment of a Wednesday.
	k.pass(time.Date(2031, 1, 1, 12, 0, 0, 0, time.UTC).Sub(k.now()))
	k.create("payments", keys.Policy{Schedule: "0 3 * * *"})
	if next := k.NextRotation(k.key("payments")); !next.Equal(time.Date(2031, 1, 2, 3, 0, 0, 0, time.UTC)) {
		t.Errorf("the next rotation is at %v", next)
	}
	k.pass(14 * time.Hour) // 02:00
	k.tick()
	if n := k.active("payments"); n != 1 {
		t.Errorf("version %d is active at two", n)
	}
	k.pass(2 * time.Hour) // 04:00
	k.tick()
	k.tick()
	if n := k.active("payments"); n != 2 || k.latest("payments").Reason != keys.ReasonScheduled {
		t.Errorf("version %d is active at four", n)
	}
	k.pass(10 * 24 * time.Hour)
	for range 3 {
		k.tick()
		k.pass(time.Second)
	}
	if n := k.active("payments"); n != 3 {
		t.Errorf("version %d is active after ten days", n)
	}
	k.consistent()
}

// TestAbortedSchedule: the tick of a rotation that was aborted was tried.
func TestAbortedSchedule(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.pass(time.Date(2031, 1, 1, 12, 0, 0, 0, time.UTC).Sub(k.now()))
	k.create("payments", keys.Policy{Schedule: "0 3 * * 1", Announce: time.Hour})
	k.pass(7 * 24 * time.Hour)
	k.tick()
	r := k.phase("payments", keys.PhaseAnnounced)
	if _, err := k.AbortRotation(t.Context(), bob, r.ID, ""); err != nil {
		t.Fatal(err)
	}
	k.pass(3 * 24 * time.Hour) // Saturday
	k.tick()
	if r := k.phase("payments", keys.PhaseAborted); r.To != 2 {
		t.Errorf("%+v", r)
	}
	if next := k.NextRotation(k.key("payments")); next.Weekday() != time.Monday || !next.After(k.now()) {
		t.Errorf("the next rotation is at %v", next)
	}
	k.pass(3 * 24 * time.Hour)
	k.tick()
	if r := k.phase("payments", keys.PhaseAnnounced); r.To != 3 {
		t.Errorf("%+v", r)
	}
}

// TestSuspendedAndDue: a suspension makes nothing due by itself; the end of
// the suspended version's own period does, and then its time is over.
func TestSuspendedAndDue(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Period: 24 * time.Hour})
	k.pass(24 * time.Hour)
	k.tick() // 2
	k.pass(time.Hour)
	if _, err := k.Suspend(t.Context(), alice, "payments", 2, ""); err != nil {
		t.Fatal(err)
	}
	k.tick() // version 1, far older than the period, stands in
	if k.active("payments") != 1 || len(k.key("payments").Versions) != 2 {
		t.Fatalf("version %d of %d is active", k.active("payments"), len(k.key("payments").Versions))
	}
	k.pass(23 * time.Hour)
	k.tick()
	if n := k.active("payments"); n != 3 {
		t.Errorf("version %d is active, want 3", n)
	}
	if _, err := k.Resume(t.Context(), alice, "payments", 2, ""); err != nil {
		t.Fatal(err)
	}
	if k.active("payments") != 3 || k.state("payments", 2) != keys.Deactivated {
		t.Errorf("version %d is active, 2 is %s", k.active("payments"), k.state("payments", 2))
	}
	k.consistent()
}

// TestClockSteps: a clock that jumps ahead rotates a key once; when it is set
// back nothing is undone, and the key is neither rotated on and on nor never
// again.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	for _, p := range []keys.Policy{{Period: 24 * time.Hour}, {Schedule: "0 3 * * *"}, {Period: 24 * time.Hour, Announce: time.Hour}} {
		k := newKit(t)
		k.create("payments", p)
		settle := func() {
			for range 3 {
				k.tick()
				k.pass(p.Announce)
			}
		}
		const years = 3 * 365 * 24 * time.Hour
		k.pass(years)
		settle()
		k.pass(-years)
		settle()
		if n := k.active("payments"); n != 2 {
			t.Errorf("%+v: version %d is active after a step ahead and back, want 2", p, n)
		}
		k.pass(-48 * time.Hour)
		settle()
		k.pass(48 * time.Hour)
		settle()
		if n := k.active("payments"); n != 2 {
			t.Errorf("%+v: version %d is active after a step back, want 2", p, n)
		}
		for day := range uint32(5) {
			k.pass(25 * time.Hour)
			settle()
			if n := k.active("payments"); n != day+3 {
				t.Errorf("%+v: version %d is active after %d days, want %d", p, n, day+1, day+3)
			}
		}
		k.consistent()
	}
}

// TestWaitsAcrossAClockThatWasAhead: what was announced or scheduled by such
// a clock does not wait for it.
func TestWaitsAcrossAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	const year = 365 * 24 * time.Hour
	k := newKit(t)
	k.propagation = time.Minute
	k.Engine = k.engine(nil)
	k.create("announced", keys.Policy{Announce: time.Hour})
	k.create("scheduled", keys.Policy{})
	k.pass(year)
	k.begin("announced", rotation.RotateSpec{})
	k.begin("scheduled", rotation.RotateSpec{})
	k.pass(-year)
	k.tick()
	k.phase("announced", keys.PhaseAnnounced)
	k.phase("scheduled", keys.PhaseScheduled)
	k.pass(time.Minute)
	k.tick()
	k.phase("scheduled", keys.PhaseCompleted)
	k.pass(time.Hour)
	k.tick()
	k.pass(time.Minute)
	k.tick()
	k.phase("announced", keys.PhaseCompleted)
	if a, s := k.active("announced"), k.active("scheduled"); a != 2 || s != 2 {
		t.Errorf("versions %d and %d are active", a, s)
	}
	k.consistent()
}

// TestManyDue: all keys that are due at one moment are rotated, one after the
// other, and how many are left can be seen; an emergency does not wait for
// their end.
func TestManyDue(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	const n = 20
	for i := range n {
		k.create(fmt.Sprint("key-", i), keys.Policy{Period: time.Hour})
	}
	k.create("other", keys.Policy{})
	k.pass(time.Hour)
	entered, release := k.faulty.Block(hsmtest.Generate, n/2)
	ticked := make(chan error, 1)
	go func() { ticked <- k.Tick(t.Context()) }()
	<-entered
	if left := k.Due(); left != n/2+1 {
		t.Errorf("%d keys are due in the middle, want %d", left, n/2+1)
	}
	if _, err := k.Revoke(t.Context(), alice, "other", 1, ""); err != nil {
		t.Error(err)
	}
	if v := k.active("other"); v != 2 {
		t.Errorf("version %d of the other key is active while automatic work stands still", v)
	}
	release()
	if err := <-ticked; err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if v := k.active(fmt.Sprint("key-", i)); v != 2 {
			t.Errorf("version %d of key %d is active", v, i)
		}
	}
	if left := k.Due(); left != 0 {
		t.Errorf("%d keys are due at the end", left)
	}
	k.consistent()
}

// TestDueThatFails stays visible.
func TestDueThatFails(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Period: time.Hour})
	k.pass(time.Hour)
	k.faulty.Fail(hsmtest.Generate, 1, hsmtest.NotDone, keys.ErrHSM)
	k.tick()
	k.tick()
	if n := k.Due(); n != 1 {
		t.Errorf("%d keys are due, want 1", n)
	}
	k.pass(time.Hour)
	k.tick()
	if n := k.Due(); n != 0 || k.active("payments") == 1 {
		t.Errorf("%d keys are due, version %d is active", n, k.active("payments"))
	}
}

// TestDamagedKey: it is left alone, and the others go on.
func TestDamagedKey(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("altered", keys.Policy{Period: time.Hour, Announce: time.Minute})
	k.create("payments", keys.Policy{Period: time.Hour})
	k.begin("altered", rotation.RotateSpec{})
	k.edit("UPDATE keys SET description = 'mine' WHERE name = 'altered'")
	k.reload()
	k.pass(time.Hour)
	k.tick()
	k.tick()
	if n := k.active("payments"); n != 2 {
		t.Errorf("version %d of the other key is active", n)
	}
	text := "x"
	for name, act := range map[string]func() error{
		"update": func() error {
			_, err := k.UpdateKey(t.Context(), alice, "altered", rotation.Update{Description: &text})
			return err
		},
		"rotate": func() error { _, err := k.Rotate(t.Context(), alice, "altered", rotation.RotateSpec{}); return err },
		"revoke": func() error { _, err := k.Revoke(t.Context(), alice, "altered", 1, ""); return err },
		"abort":  func() error { _, err := k.AbortRotation(t.Context(), alice, k.latest("altered").ID, ""); return err },
	} {
		if err := act(); !errors.Is(err, keys.ErrTampered) {
			t.Errorf("%s: %v, want ErrTampered", name, err)
		}
	}
}

// edit changes the database behind the store's back.
func (k *kit) edit(query string) {
	k.t.Helper()
	db, err := sql.Open("sqlite", k.db)
	k.must(err)
	defer db.Close()
	_, err = db.ExecContext(k.t.Context(), query)
	k.must(err)
}

// TestOutageIsLoggedOnce: a store that is down for long fills no log.
func TestOutageIsLoggedOnce(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	down := &absent{Store: k.store}
	lines := &lines{}
	e := k.engine(func(c *rotation.Config) {
		c.Store, c.Log = down, slog.New(lines)
		c.Keys = func() ([]*keys.Key, error) { return nil, nil } // no snapshot grows old in the bubble
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		for range 2 {
			down.down.Store(true)
			time.Sleep(time.Minute) // of the bubble
			down.down.Store(false)
			time.Sleep(time.Minute)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if lost, back := lines.count("stand still"), lines.count("go on"); lost != 2 || back != 2 {
		t.Errorf("two outages were logged %d times, their ends %d times", lost, back)
	}
}

// absent is a store that is down now and then.
type absent struct {
	rotation.Store
	down atomic.Bool
}

func (a *absent) Rotations(ctx context.Context, f store.RotationFilter) ([]*keys.Rotation, error) {
	if a.down.Load() {
		return nil, keys.ErrStore
	}
	return a.Store.Rotations(ctx, f)
}

// lines is a log that counts.
type lines struct {
	slog.Handler
	mu  sync.Mutex
	all []string
}

func (*lines) Enabled(context.Context, slog.Level) bool { return true }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, r.Message)
	return nil
}

func (l *lines) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}
