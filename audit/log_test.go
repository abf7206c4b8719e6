package audit_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyhole/audit"
	"keyhole/keys"
)

func TestAppendIsReadBack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "audit")
	l := open(t, config(dir))
	before := time.Now()
	intent := uint64(0)
	in := []audit.Record{
		{
			Seq: 77, Time: time.Unix(1, 0), Node: "forged", RequestID: "r1", Principal: "p", AuthMethod: "jwt", Source: "192.0.2.1",
			Action: "rotate", Key: "payments", Version: 2, KeyID: "payments.v2", Algorithm: "ES256", Purpose: "sign",
			Policies: []string{"b", "a"}, Outcome: audit.OutcomeIntent, Reason: "x", Size: 5, Duration: time.Second,
			Initiator: "p", Rotation: "01", FromVersion: 1, ToVersion: 2, StartedAt: time.Unix(5, 7).UTC(),
			CompletedAt: time.Unix(6, 0).UTC(), Intent: &intent, Details: map[string]string{"z": "1", "a": "2"},
		},
		{Action: "sign", Outcome: audit.OutcomeOK},
	}
	if first := appendTo(t, l, in...); first != 0 {
		t.Errorf("first is %d", first)
	}
	if first := appendTo(t, l, rec("r2")); first != 2 {
		t.Errorf("first is %d", first)
	}
	if in[0].Seq != 77 || in[0].Node != "forged" {
		t.Error("the caller's record was changed")
	}
	closeLog(t, l)
	got := readAll(t, dir)
	if len(got) != 3 {
		t.Fatalf("%d records", len(got))
	}
	for i, r := range got {
		if r.Seq != uint64(i) || r.Node != "node-1" || r.Time.Before(before.Add(-time.Second)) || r.Time.Location() != time.UTC {
			t.Errorf("record %d: %+v", i, r)
		}
	}
	want := in[0]
	want.Seq, want.Time, want.Node = got[0].Seq, got[0].Time, got[0].Node
	if d := cmp.Diff(want, got[0]); d != "" {
		t.Error(d)
	}
	for path, mode := range map[string]fs.FileMode{dir: 0o700, segment(dir): 0o600, filepath.Join(dir, "LOCK"): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want mode %o", path, info.Mode(), err, mode)
		}
	}
}

func TestSeqGoesOnAfterRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 3 {
		l := open(t, config(dir))
		if first := appendTo(t, l, rec("a"), rec("b")); first != uint64(2*i) {
			t.Errorf("run %d begins at %d", i, first)
		}
		closeLog(t, l)
	}
	if n := len(readAll(t, dir)); n != 6 {
		t.Errorf("%d records", n)
	}
}

func TestConcurrentAppends(t *testing.T) {
	t.Parallel()
	const callers, each = 16, 40
	dir := t.TempDir()
	var mu sync.Mutex
	commits, observed := 0, 0
	c := config(dir)
	c.Observe = func(n int, d time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		commits, observed = commits+1, observed+n
		if err != nil || d <= 0 || n <= 0 {
			t.Errorf("observed %d, %s, %v", n, d, err)
		}
	}
	l := open(t, c)
	acked := map[uint64]string{}
	var wg sync.WaitGroup
	for g := range callers {
		wg.Go(func() {
			for i := range each {
				recs := make([]audit.Record, 1+(g+i)%3)
				for k := range recs {
					recs[k] = rec(fmt.Sprintf("%d-%d-%d", g, i, k))
				}
				first, err := l.Append(t.Context(), recs...)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for k := range recs {
					acked[first+uint64(k)] = recs[k].RequestID
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
	got := readAll(t, dir)
	if len(got) != len(acked) || observed != len(acked) {
		t.Errorf("%d records are acknowledged, %d there, %d observed", len(acked), len(got), observed)
	}
	for _, r := range got {
		if acked[r.Seq] != r.RequestID {
			t.Errorf("seq %d is %s, was acknowledged as %s", r.Seq, r.RequestID, acked[r.Seq])
		}
	}
	t.Logf("%d records in %d commits", len(got), commits)
}

// gate lets a test hold the committer between two commits.
type gate struct {
	reached chan struct{}
	open    chan struct{}
}

func gated(dir string) (audit.Config, gate) {
	g := gate{make(chan struct{}, 100), make(chan struct{})}
	c := config(dir)
	c.Observe = func(int, time.Duration, error) {
		g.reached <- struct{}{}
		<-g.open
	}
	return c, g
}

func TestContextEndsTheWait(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, g := gated(dir)
	l := open(t, c)
	appendTo(t, l, rec("first"))
	<-g.reached

	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() {
		_, err := l.Append(ctx, rec("late"))
		errs <- err
	}()
	cancel()
	err := <-errs
	if !errors.Is(err, keys.ErrAudit) || errors.Is(err, context.Canceled) {
		t.Errorf("the wait ended with %v, want ErrAudit and no context error", err)
	}
	if _, err := l.Append(ctx, rec("never")); !errors.Is(err, keys.ErrAudit) {
		t.Errorf("a context that had ended before: %v", err)
	}
	close(g.open)
	closeLog(t, l)
	for _, r := range readAll(t, dir) {
		if r.RequestID == "never" {
			t.Error("a record was written for a context that had ended before")
		}
	}
}

func TestCloseWritesWhatWaits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, g := gated(dir)
	l := open(t, c)
	appendTo(t, l, rec("0"))
	<-g.reached
	big := rec("1")
	big.Details = map[string]string{}
	for i := range 64 {
		big.Details[fmt.Sprint(i)] = strings.Repeat("x", 1000)
	}
	many := make([]audit.Record, 120) // about 8 MB; two fit into the queue, three do not
	for i := range many {
		many[i] = big
	}
	errs := make(chan error)
	for range 3 {
		go func() {
			_, err := l.Append(t.Context(), many...)
			errs <- err
		}()
	}
	if err := <-errs; !errors.Is(err, keys.ErrAudit) {
		t.Errorf("one more than the queue holds: %v", err)
	}
	closed := make(chan error)
	go func() { closed <- l.Close() }()
	if err := eventually(func() error { // until Close has begun
		if l.Health() == nil {
			return errors.New("open")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if _, err := l.Append(t.Context(), rec("after")); !errors.Is(err, keys.ErrAudit) {
		t.Errorf("Append while closing: %v", err)
	}
	close(g.open)
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if n := len(readAll(t, dir)); n != 1+2*len(many) {
		t.Errorf("%d records", n)
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	l := open(t, config(t.TempDir()))
	if _, err := l.Append(t.Context()); err != nil {
		t.Error(err)
	}
	if err := l.Health(); err != nil {
		t.Error(err)
	}
	closeLog(t, l)
	closeLog(t, l)
	if _, err := l.Append(t.Context(), rec("x")); !errors.Is(err, keys.ErrAudit) {
		t.Errorf("Append: %v", err)
	}
	if err := l.Health(); !errors.Is(err, keys.ErrAudit) {
		t.Errorf("Health: %v", err)
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC)
	c := config(dir)
	c.Now = func() time.Time { return at }
	l := open(t, c)
	var want []time.Time
	step := func(d time.Duration, times ...time.Time) {
		at = at.Add(d)
		appendTo(t, l, rec("x"))
		want = append(want, times...)
	}
	noon := at
	step(0, noon)
	step(-clockSlackForTest, noon)                                       // within the slack: no word of it
	step(-time.Hour, noon, noon)                                         // audit-clock, and the record
	step(time.Second, noon)                                              // said already
	closeLog(t, l)                                                       // a restart says it again
	l = open(t, c)                                                       //
	step(0, noon, noon)                                                  //
	step(2*time.Hour, noon.Add(time.Hour+time.Second-clockSlackForTest)) // caught up
	step(-time.Minute, want[len(want)-1], want[len(want)-1])             // and back once more
	closeLog(t, l)
	got := readAll(t, dir)
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	clocks := 0
	for i, r := range got {
		if !r.Time.Equal(want[i]) {
			t.Errorf("record %d (%s) has the time %s, want %s", i, r.Action, r.Time, want[i])
		}
		if r.Action == audit.ActionClock {
			clocks++
			if _, err := time.Parse(time.RFC3339Nano, r.Details["clock"]); err != nil || r.Principal != audit.SystemPrincipal {
				t.Errorf("%+v", r)
			}
		}
	}
	if clocks != 3 {
		t.Errorf("%d %s records, want 3", clocks, audit.ActionClock)
	}
}

const clockSlackForTest = 500 * time.Millisecond

// The wall clock can be stepped back while the monotonic one goes on, as
// time.Now shows both.
func TestTimeIsTheWallClocks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := config(dir)
	c.Now = time.Now
	l := open(t, c)
	appendTo(t, l, rec("x"))
	appendTo(t, l, rec("x"))
	closeLog(t, l)
	for _, r := range readAll(t, dir) {
		if d := time.Since(r.Time); d < 0 || d > time.Minute {
			t.Errorf("the record is %s old", d)
		}
	}
}
