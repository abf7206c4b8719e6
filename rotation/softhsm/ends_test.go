// Package softhsm_test lets the engine work over a real token.
package softhsm_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/hsm"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/softhsm/softhsmtest"
	"keyhole/store"
	"keyhole/usage"
)

func TestMain(m *testing.M) { os.Exit(softhsmtest.Main(m, 1)) }

var alice = rotation.Actor{Principal: "jwt:corp:alice", AuthMethod: "jwt"}

// TestEnds takes keys of every kind on a SoftHSM token from their first
// version to archive, destruction and deletion; what the engine says is gone
// is not on the token, and everything else is.
func TestEnds(t *testing.T) {
	tok := softhsmtest.Start(t)
	ctx, discard := t.Context(), slog.New(slog.DiscardHandler)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	token, err := hsm.Open(ctx, hsm.Config{Log: discard, Tokens: []hsm.TokenConfig{{
		Name: "t", Module: tok.Module, Serial: tok.Serial, PIN: func() ([]byte, error) { return []byte(tok.PIN), nil },
	}}})
	must(err)
	defer token.Close()
	seal, err := token.StoreKey(ctx, true)
	must(err)
	s, err := store.OpenSQLite(ctx, filepath.Join(t.TempDir(), "keyhole.db"), seal)
	must(err)
	defer s.Close()
	var offset atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	log, err := audit.Open(audit.Config{Dir: filepath.Join(t.TempDir(), "audit"), Node: "node", Log: discard, Now: now})
	must(err)
	defer log.Close()
	cache := store.NewCache(s, store.CacheConfig{Log: discard})
	must(cache.Refresh(ctx))
	meter := usage.New(usage.Config{Store: s, Node: "node", Now: now, Log: discard})
	must(meter.Load(ctx))
	e := rotation.New(rotation.Config{
		Store: s, Token: token, Audit: log, Usage: meter, Keys: cache.Keys, Refresh: cache.Refresh, Now: now, Log: discard,
	})

	names := map[string]keys.Algorithm{"ec": keys.ES256, "ed": keys.EdDSA, "mac": keys.HS256, "aes": keys.A256GCM, "rsa": keys.RSAOAEP}
	policy := keys.Policy{Overlap: time.Hour}
	for name, alg := range names {
		bits := 0
		if alg == keys.RSAOAEP {
			bits = 2048
		}
		_, err := e.CreateKey(ctx, alice, rotation.Spec{Name: name, Algorithm: alg, Bits: bits, Policy: policy})
		must(err)
		_, err = e.Rotate(ctx, alice, name, rotation.RotateSpec{Reason: keys.ReasonManual})
		must(err)
	}
	step := func(d time.Duration) {
		t.Helper()
		offset.Add(int64(d))
		for range 10 { // one look does not take longer than its budget
			must(e.Tick(ctx))
		}
	}
	check := func(state keys.State, gone bool) {
		t.Helper()
		objects, err := token.List(ctx, "t")
		must(err)
		for name := range names {
			k, err := s.Key(ctx, name)
			must(err)
			if got := k.StateAt(k.Versions[0], now()); got != state {
				t.Errorf("%s.v1 is %s, want %s", name, got, state)
			}
			for i, v := range k.Versions {
				there := slices.ContainsFunc(objects, func(o keys.TokenObject) bool { return o.Label == k.ID(v).String() })
				_, err := token.Inspect(ctx, k.Ref(v))
				if lost := i == 0 && gone; there == lost || errors.Is(err, keys.ErrNotFound) != lost || !lost && err != nil {
					t.Errorf("%s: on the token: %v; Inspect: %v", k.ID(v), there, err)
				}
			}
		}
	}
	step(2 * time.Hour)
	check(keys.Archived, false)
	for name := range names {
		_, err := e.Destroy(ctx, alice, name, 1, rotation.DestroySpec{Note: "old"})
		must(err)
	}
	step(23 * time.Hour)
	check(keys.DestroyScheduled, false)
	step(2 * time.Hour)
	check(keys.Destroyed, true)

	for name := range names {
		_, err := e.DeleteKey(ctx, alice, name, rotation.DestroySpec{Note: "old"})
		must(err)
	}
	step(25 * time.Hour)
	objects, err := token.List(ctx, "t")
	must(err)
	for _, o := range objects {
		if id, err := keys.ParseVersionID(o.Label); err == nil && names[id.Key] != "" {
			t.Errorf("%s is still on the token", o.Label)
		}
	}
	all, _, err := s.Load(ctx)
	if err != nil || len(all) != 0 {
		t.Errorf("%d keys are still there, %v", len(all), err)
	}
}
