package usage_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
	"keyhole/usage"
)

// countForever counts for several principals at once, as a gateway does, and
// prints how far each of them was acknowledged.
func countForever(ctx context.Context, path, spillDir string) error {
	s, err := store.OpenSQLite(ctx, path, seal)
	if err != nil {
		return err
	}
	m := usage.New(usage.Config{Store: s, Node: "node", Dir: spillDir, Log: slog.New(slog.DiscardHandler)})
	m.Patience(100 * time.Millisecond)
	if err := m.Load(ctx); err != nil {
		return err
	}
	failed := make(chan error)
	go func() { failed <- m.Run(ctx) }()
	var mu sync.Mutex // of the output
	for i := range killPrincipals {
		before, principal, err := ofPrincipal(ctx, s, i)
		if err != nil {
			return err
		}
		go func() {
			for n := uint64(1); ; n++ {
				if err := m.Count(ctx, "payments", 1, principal, keys.UseApply, 10); err != nil {
					failed <- err
					return
				}
				if n%uint64(i*40+1) == 0 {
					mu.Lock()
					fmt.Println(i, before+n)
					mu.Unlock()
				}
			}
		}()
	}
	return <-failed
}

const killPrincipals = 4

func ofPrincipal(ctx context.Context, s *store.SQLite, i int) (applied uint64, principal string, err error) {
	principal = fmt.Sprint("jwt:corp:", i)
	all, err := s.Usage(ctx, "payments", "node")
	for _, u := range all {
		if u.Principal == principal {
			applied = u.Applied
		}
	}
	return applied, principal, err
}

// TestKill9 kills a process that counts: what the store holds is never below
// what was acknowledged, round after round, and not far above either.
func TestKill9(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keyhole.db")
	s := open(t, path)
	var acknowledged [killPrincipals]uint64
	for round, lines := range []int{1, 50, 700, 3000} {
		cmd := child(t, path, "")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		killed := false
		in := bufio.NewScanner(out)
		for n := 1; in.Scan(); n++ {
			var i int
			var count uint64
			if _, err := fmt.Sscan(in.Text(), &i, &count); err != nil {
				t.Fatalf("%q: %v", in.Text(), err)
			}
			acknowledged[i] = max(acknowledged[i], count)
			if n == lines {
				killed = true
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || !killed {
			t.Fatalf("round %d: the process ended by itself: %v", round, err)
		}
		for i, want := range acknowledged {
			u := stored(t, s, fmt.Sprint("jwt:corp:", i))
			if u.Applied < want || u.Bytes < 10*want {
				t.Errorf("round %d: %d uses of principal %d were acknowledged, the store holds %d and %d bytes", round, want, i, u.Applied, u.Bytes)
			}
			if want > 0 && u.LastUse.IsZero() {
				t.Errorf("round %d: the last use of principal %d is not known", round, i)
			}
			acknowledged[i] = u.Applied // the next process goes on from there
		}
	}
	// Whoever comes next, and ends in order, adds exactly what it did.
	before := stored(t, s, "jwt:corp:0")
	k := kitOn(t, s, "node", &clock{})
	k.count(5, "jwt:corp:0")
	k.stop()
	if after := stored(t, s, "jwt:corp:0"); after.Applied != before.Applied+5 || after.Bytes != before.Bytes+50 {
		t.Errorf("5 uses after %+v came to %+v", before, after)
	}
}
