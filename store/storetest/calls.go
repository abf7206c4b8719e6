package storetest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

// calls are one use of each method, none of which changes anything by itself
// if it is refused.
func calls(t *testing.T, s store.Store) map[string]func(ctx context.Context) error {
	t.Helper()
	all := map[string]func(ctx context.Context) error{
		"Commit":            func(ctx context.Context) error { return s.Commit(ctx, store.Change{Key: NewKey("other", 1)}) },
		"Adopt":             func(ctx context.Context) error { return s.Adopt(ctx, NewKey("other", 1)) },
		"Key":               func(ctx context.Context) error { _, err := s.Key(ctx, "payments"); return err },
		"Readable":          func(ctx context.Context) error { _, err := s.Readable(ctx, "payments"); return err },
		"Load":              func(ctx context.Context) error { _, _, err := s.Load(ctx); return err },
		"Changed":           func(ctx context.Context) error { _, _, _, err := s.Changed(ctx, 0); return err },
		"Rotation":          func(ctx context.Context) error { _, err := s.Rotation(ctx, "x"); return err },
		"Rotations":         func(ctx context.Context) error { _, err := s.Rotations(ctx, store.RotationFilter{}); return err },
		"RotationByRequest": func(ctx context.Context) error { _, err := s.RotationByRequest(ctx, "x"); return err },
		"BeginAttempt":      func(ctx context.Context) error { _, err := s.BeginAttempt(ctx, attempt("p", "k")); return err },
		"FinishAttempt":     func(ctx context.Context) error { return s.FinishAttempt(ctx, "p", "k", 200, nil) },
		"ForgetAttempt":     func(ctx context.Context) error { return s.ForgetAttempt(ctx, "p", "k") },
		"ExpireAttempts":    func(ctx context.Context) error { _, err := s.ExpireAttempts(ctx, t0); return err },
		"Events":            func(ctx context.Context) error { _, err := s.Events(ctx, 0, 1); return err },
		"EventRange":        func(ctx context.Context) error { _, _, err := s.EventRange(ctx); return err },
		"ExpireEvents":      func(ctx context.Context) error { _, err := s.ExpireEvents(ctx, t0); return err },
		"SeeAgents":         func(ctx context.Context) error { return s.SeeAgents(ctx, []store.Sighting{{Principal: "p", At: t0}}) },
		"BlockAgent":        func(ctx context.Context) error { return s.BlockAgent(ctx, "p", &keys.Block{At: t0}) },
		"Blocked":           func(ctx context.Context) error { _, err := s.Blocked(ctx); return err },
		"AdoptBlocks":       func(ctx context.Context) error { _, err := s.AdoptBlocks(ctx); return err },
		"Agent":             func(ctx context.Context) error { _, err := s.Agent(ctx, "x"); return err },
		"Agents":            func(ctx context.Context) error { _, err := s.Agents(ctx, store.AgentFilter{}); return err },
		"Subscribe": func(ctx context.Context) error {
			_, err := s.Subscribe(ctx, keys.Subscription{Key: "payments", Principal: "p", Since: t0})
			return err
		},
		"Unsubscribe":   func(ctx context.Context) error { return s.Unsubscribe(ctx, "payments", "p") },
		"Subscriptions": func(ctx context.Context) error { _, err := s.Subscriptions(ctx, "", ""); return err },
		"Acknowledge": func(ctx context.Context) error {
			_, err := s.Acknowledge(ctx, keys.Ack{Key: "payments", Version: 1, Principal: "p", At: t0})
			return err
		},
		"Acks":       func(ctx context.Context) error { _, err := s.Acks(ctx, "", 0, ""); return err },
		"ClaimUsage": func(ctx context.Context) error { return s.ClaimUsage(ctx, "n") },
		"ReserveUsage": func(ctx context.Context) error {
			return s.ReserveUsage(ctx, "n", []keys.Usage{{Key: "payments", Version: 1, Principal: "p", Applied: 1}})
		},
		"Usage":        func(ctx context.Context) error { _, err := s.Usage(ctx, "", ""); return err },
		"PutApproval":  func(ctx context.Context) error { return s.PutApproval(ctx, newApproval("x", "payments", 1), "") },
		"Approval":     func(ctx context.Context) error { _, err := s.Approval(ctx, "x"); return err },
		"Approvals":    func(ctx context.Context) error { _, err := s.Approvals(ctx, store.ApprovalFilter{}); return err },
		"Hook":         func(ctx context.Context) error { _, err := s.Hook(ctx, "h"); return err },
		"PutHook":      func(ctx context.Context) error { return s.PutHook(ctx, store.Hook{Name: "h"}) },
		"DeadEvents":   func(ctx context.Context) error { _, err := s.DeadEvents(ctx, "", 0); return err },
		"ForgetDead":   func(ctx context.Context) error { return s.ForgetDead(ctx, "h", 1) },
		"AcquireLease": func(ctx context.Context) error { _, err := s.AcquireLease(ctx, "l", "h", time.Minute); return err },
		"ReleaseLease": func(ctx context.Context) error { return s.ReleaseLease(ctx, "l", "h") },
		"Beat":         func(ctx context.Context) error { return s.Beat(ctx, keys.Node{Instance: "i", Name: "n"}, time.Minute) },
		"Leave":        func(ctx context.Context) error { return s.Leave(ctx, "i") },
		"Nodes":        func(ctx context.Context) error { _, _, err := s.Nodes(ctx); return err },
		"Ping":         func(ctx context.Context) error { return s.Ping(ctx) },
	}
	contract := reflect.TypeFor[store.Store]()
	for i := range contract.NumMethod() {
		if name := contract.Method(i).Name; name != "Close" && name != "Hints" && all[name] == nil {
			t.Errorf("%s is not called", name)
		}
	}
	return all
}

func testCancelled(t *testing.T, open func() store.Store) {
	_, s := start(t, open)
	create(t, s, NewKey("payments", 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, call := range calls(t, s) {
		is(t, what, call(ctx), context.Canceled)
	}
	if all, revision := load(t, s); len(all) != 1 || revision != 1 {
		t.Errorf("%d keys at revision %d", len(all), revision)
	}
	// Callers who leave while they wait or write do no harm to the others.
	together(8, func(i int) {
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			left := make(chan error, 1)
			go func() {
				_, err := increment(ctx, s, "payments")
				left <- err
			}()
			if i%2 == 0 {
				cancel()
			}
			if err := <-left; err != nil && (i%2 == 1 || !errors.Is(err, context.Canceled)) {
				t.Errorf("worker %d: %v", i, err)
			}
			cancel()
		}
	})
	k := stored(t, s, "payments")
	if uint64(len(k.Description)) != k.Epoch-1 || k.Epoch < 41 {
		t.Errorf("epoch %d has %d traces", k.Epoch, len(k.Description))
	}
	if _, revision := load(t, s); revision != k.Epoch {
		t.Errorf("revision %d at epoch %d", revision, k.Epoch)
	}
}

func testClosed(t *testing.T, open func() store.Store) {
	s := open()
	create(t, s, NewKey("payments", 1))
	must(t, s.Close())
	for what, call := range calls(t, s) {
		is(t, what, call(t.Context()), keys.ErrStore)
	}
}

// testAllAtOnce uses every method at once: for the race detector, and because
// nothing may be refused for that others are at work.
func testAllAtOnce(t *testing.T, open func() store.Store) {
	_, s := start(t, open)
	create(t, s, NewKey("payments", 1))
	_, err := s.Subscribe(t.Context(), keys.Subscription{Key: "payments", Principal: "p", Since: t0})
	must(t, err)
	var wg sync.WaitGroup
	for what, call := range calls(t, s) {
		wg.Go(func() {
			for range 4 {
				err := call(t.Context())
				refused := slices.ContainsFunc([]error{keys.ErrKeyExists, keys.ErrNotFound, keys.ErrConflict, keys.ErrNotSubscribed}, func(kind error) bool {
					return errors.Is(err, kind)
				})
				if err != nil && !refused {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
	wg.Wait()
}

// testOddNames: nothing has a name that nobody could have given it.
func testOddNames(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("payments", 1))
	for _, name := range []string{"", "\x00", "\xff", "payments\x00", "payments\xff", "payments ", "' OR ''='", "$1", "?", strings.Repeat("x", 1<<16)} {
		_, err := s.Key(ctx, name)
		detailed(t, "a key", err, keys.ErrKeyNotFound)
		_, err = s.Readable(ctx, name)
		detailed(t, "what can be read of a key", err, keys.ErrKeyNotFound)
		_, err = s.Rotation(ctx, name)
		detailed(t, "a rotation", err, keys.ErrNotFound)
		_, err = s.RotationByRequest(ctx, name)
		detailed(t, "a rotation by its request", err, keys.ErrNotFound)
		_, err = s.Approval(ctx, name)
		detailed(t, "an approval", err, keys.ErrNotFound)
		_, err = s.Agent(ctx, name)
		detailed(t, "an agent", err, keys.ErrNotFound)
		_, err = s.Subscribe(ctx, keys.Subscription{Key: name, Principal: "p", Since: t0})
		detailed(t, "a subscription", err, keys.ErrKeyNotFound)
	}
}
