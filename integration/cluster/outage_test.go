package cluster

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/integration/internal/proc"
	"keyhole/keys"
)

// PostgreSQL is stopped under load, and started again. Signatures and
// ciphertexts go on without a failure; changes are refused with 503 and
// Retry-After; usage is not counted too low; and everything goes on by itself
// when it is back.
func TestDatabaseDown(t *testing.T) {
	t.Parallel()
	s := running(t, options{own: true})
	s.create("payments", "ES256", nil)
	s.create("vault", "A256GCM", nil)
	l := s.load(loadConfig{Sign: []string{"payments"}, Encrypt: []string{"vault"}, Workers: 2})
	l.goesOn(20)
	for _, stop := range []func(testing.TB){s.pg.Stop, s.pg.Crash} {
		stop(t)
		began := time.Now()
		for _, g := range s.gates {
			g.refusesChanges()
		}
		l.goesOn(100)
		for long && time.Since(began) < 20*time.Second {
			l.goesOn(100)
		}
		for _, g := range s.gates {
			if status, body, err := g.get("/readyz"); err != nil || status != http.StatusOK {
				t.Errorf("%s: readyz %d %v while keys are used: %s", g.name, status, err, body)
			}
		}
		s.pg.Start(t)
		for _, g := range s.gates {
			g.changes()
		}
		l.goesOn(20)
	}
	seen := l.perfect()
	for _, key := range []string{"payments", "vault"} {
		s.counted(key, seen)
	}
	s.stop()
	for _, g := range s.gates {
		g.verified()
	}
	s.agree()
}

// refusesChanges waits until a gateway refuses a change because its store is
// lost, and looks at how.
func (g *gate) refusesChanges() {
	g.s.t.Helper()
	proc.Eventually(g.s.t, g.name+" refuses changes", func() bool {
		ctx, cancel := soon(g.s.t.Context())
		defer cancel()
		_, err := g.admin().Rotate(ctx, "payments", api.RotateRequest{})
		var refused *client.Error
		switch {
		case errors.Is(err, keys.ErrRotationRunning), errors.Is(err, keys.ErrConflict), err == nil:
			return false // it was before the stop
		case !errors.As(err, &refused):
			g.s.t.Fatalf("%s: a change without the store: %v", g.name, err)
		case refused.Problem.Status != http.StatusServiceUnavailable || refused.Problem.Code != "store_unavailable" || refused.RetryAfter <= 0:
			g.s.t.Fatalf("%s: a change without the store is answered %d %s, Retry-After %s", g.name, refused.Problem.Status, refused.Problem.Code, refused.RetryAfter)
		}
		return true
	})
}

// changes waits until a gateway makes a change again.
func (g *gate) changes() {
	g.s.t.Helper()
	proc.Eventually(g.s.t, g.name+" makes changes again", func() bool {
		ctx, cancel := soon(g.s.t.Context())
		defer cancel()
		text := "changed by " + g.name
		_, err := g.admin().UpdateKey(ctx, "payments", api.UpdateKeyRequest{Description: &text})
		return err == nil
	})
}

// counted fails the test if less use of a key is counted than agents had of
// it.
func (s *site) counted(key string, seen tally) {
	s.t.Helper()
	counts := map[string]uint64{}
	proc.Eventually(s.t, "the use of "+key+" is counted", func() bool {
		u, err := s.admin().Usage(s.t.Context(), key)
		if err != nil {
			return false
		}
		for _, v := range u.Versions {
			counts[v.KeyID] = v.Applied
		}
		for _, v := range u.Versions {
			if counts[v.KeyID] < uint64(seen.Used[v.KeyID].Count) {
				return false
			}
		}
		return true
	})
	s.t.Logf("use of %s: counted %v, seen %v", key, counts, seen.Used)
}
