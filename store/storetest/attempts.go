package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

func attempt(principal, key string) store.Attempt {
	return store.Attempt{Principal: principal, Key: key, Fingerprint: "fp-" + key, RequestID: "req-" + key, StartedAt: t0}
}

func testAttempts(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	begin := func(a store.Attempt, want *store.Attempt) {
		t.Helper()
		got, err := s.BeginAttempt(ctx, a)
		must(t, err)
		same(t, want, got)
	}
	a := attempt("alice", "k1")
	begin(a, nil)
	begin(a, &a)
	other := a // another request under the same key gets to see the first
	other.Fingerprint, other.RequestID, other.StartedAt = "another", "req-9", t0.Add(time.Hour)
	begin(other, &a)
	begin(attempt("bob", "k1"), nil) // each principal has its own keys
	begin(attempt("alice", "k2"), nil)
	begin(attempt("alice", "K2"), nil)

	body := []byte("{\"a\":\"\x00\xff\"}")
	must(t, s.FinishAttempt(ctx, "alice", "k1", 201, body))
	finished := a
	finished.Status, finished.Body = 201, body
	begin(other, &finished)
	must(t, s.FinishAttempt(ctx, "alice", "k1", 500, []byte("late"))) // the first answer stays
	begin(other, &finished)
	must(t, s.FinishAttempt(ctx, "bob", "k1", 204, nil))
	bob := attempt("bob", "k1")
	bob.Status = 204
	begin(attempt("bob", "k1"), &bob)

	must(t, s.ForgetAttempt(ctx, "alice", "k1"))
	must(t, s.ForgetAttempt(ctx, "alice", "k1"))
	must(t, s.ForgetAttempt(ctx, "nobody", "k1"))
	detailed(t, "finishing what is forgotten", s.FinishAttempt(ctx, "alice", "k1", 200, nil), keys.ErrNotFound)
	detailed(t, "finishing what never began", s.FinishAttempt(ctx, "alice", "k9", 200, nil), keys.ErrNotFound)
	begin(other, nil)
	begin(a, &other)
	begin(attempt("bob", "k1"), &bob)

	for what, a := range map[string]store.Attempt{
		"no principal": attempt("", "k"), "no key": attempt("alice", ""),
		"no time": {Principal: "alice", Key: "k"}, "an answer": {Principal: "alice", Key: "k", StartedAt: t0, Status: 200},
	} {
		_, err := s.BeginAttempt(ctx, a)
		is(t, what, err, keys.ErrInternal)
	}
	for _, status := range []int{0, -1} {
		is(t, "no status", s.FinishAttempt(ctx, "alice", "k2", status, nil), keys.ErrInternal)
	}
	big := attempt("alice", strings.Repeat("k", 255))
	begin(big, nil)
	must(t, s.FinishAttempt(ctx, "alice", big.Key, 200, make([]byte, 1<<20)))
	got, err := s.BeginAttempt(ctx, big)
	must(t, err)
	if len(got.Body) != 1<<20 {
		t.Errorf("a body of %d bytes came back", len(got.Body))
	}
}

// testAttemptsAtOnce: of many who begin the same attempt, one does.
func testAttemptsAtOnce(t *testing.T, open func() store.Store) {
	for round := range 4 {
		other := errors.New("another began it")
		won := atOnce(t, open, 12, func(ctx context.Context, s store.Store, i int) error {
			a := attempt("alice", fmt.Sprint(round))
			a.Fingerprint = fmt.Sprint(i)
			existing, err := s.BeginAttempt(ctx, a)
			switch {
			case err != nil:
				return err
			case existing != nil && existing.Fingerprint == a.Fingerprint:
				return errors.New("the attempt that this call began is said to be another's")
			case existing != nil:
				return other
			}
			return nil
		}, other)
		if len(won) != 1 {
			t.Errorf("round %d: %v began the attempt", round, won)
		}
	}
}

func testAttemptsExpire(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	for i := range 10 {
		a := attempt("alice", fmt.Sprint(i))
		a.StartedAt = t0.Add(time.Duration(i) * time.Hour)
		_, err := s.BeginAttempt(ctx, a)
		must(t, err)
	}
	must(t, s.FinishAttempt(ctx, "alice", "1", 200, nil))
	for _, tt := range []struct {
		before time.Time
		want   int
	}{{t0, 0}, {t0.Add(time.Hour), 1}, {t0.Add(time.Hour), 0}, {t0.Add(3*time.Hour + 1), 2}, {t0.Add(3*time.Hour + time.Microsecond), 1}, {t0.Add(1000 * time.Hour), 6}} {
		n, err := s.ExpireAttempts(ctx, tt.before)
		must(t, err)
		if n != tt.want {
			t.Errorf("before %s: %d expired, want %d", tt.before.Sub(t0), n, tt.want)
		}
	}
	existing, err := s.BeginAttempt(ctx, attempt("alice", "1"))
	must(t, err)
	if existing != nil {
		t.Errorf("an expired attempt is there: %+v", existing)
	}
}
