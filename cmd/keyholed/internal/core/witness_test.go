package core

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"keyhole/hsm"
	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
	"keyhole/store"
)

func TestMain(m *testing.M) { os.Exit(softhsmtest.Main(leakless{m}, 1)) }

// leakless fails if the tests leave a goroutine behind.
type leakless struct{ *testing.M }

func (l leakless) Run() int {
	code := l.M.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// openToken opens a token of the test's own.
func openToken(t *testing.T) *hsm.HSM {
	t.Helper()
	tok := softhsmtest.Start(t)
	h, err := hsm.Open(t.Context(), hsm.Config{Log: slog.New(slog.DiscardHandler), Tokens: []hsm.TokenConfig{{
		Name: "main", Module: tok.Module, Serial: tok.Serial, PIN: func() ([]byte, error) { return []byte(tok.PIN), nil },
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// A revocation that is marked on a real token, while the store is silent,
// takes the version out of use.
func TestWitnessOfATokenIsHeard(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	h := openToken(t)
	seal, err := h.StoreKey(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.OpenSQLite(ctx, filepath.Join(t.TempDir(), "keyhole.db"), seal)
	if err != nil {
		t.Fatal(err)
	}
	k := &keys.Key{Name: "payments", Purpose: keys.PurposeSign, Algorithm: keys.ES256, Token: h.DefaultToken(), Epoch: 1, CreatedAt: time.Now()}
	for n := range uint32(2) {
		v := &keys.Version{Number: n + 1, ObjectID: keys.NewObjectID(), Algorithm: keys.ES256, ReservedAt: time.Now()}
		k.Versions = append(k.Versions, v)
		made, err := h.Generate(ctx, k.Ref(v))
		if err != nil {
			t.Fatal(err)
		}
		v.PublicKey, v.Check, v.NeverExtractable, v.AlwaysSensitive = made.PublicKey, made.Check, made.NeverExtractable, made.AlwaysSensitive
		v.CreatedAt, v.AnnouncedAt, v.ActivateAt = time.Now(), time.Now(), time.Now()
	}
	if err := db.Commit(ctx, store.Change{Key: k}); err != nil {
		t.Fatal(err)
	}
	cache := store.NewCache(db, store.CacheConfig{MaxStaleness: time.Hour, Blind: blind, Witness: witness(h), Log: slog.New(slog.DiscardHandler)})
	if err := cache.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- cache.Run(running) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if err := db.Close(); err != nil { // silent from now on
		t.Fatal(err)
	}
	if err := h.MarkRevoked(ctx, k.Ref(k.Versions[0]), k.ID(k.Versions[0]), time.Now()); err != nil {
		t.Fatal(err)
	}
	until(t, "the version is out of use", func() bool {
		s, err := cache.Snapshot()
		if err != nil {
			return false // this machine was too slow to ask in time
		}
		got, _ := s.Key("payments")
		if !got.Versions[1].RevokedAt.IsZero() {
			t.Fatal("a version without a mark is revoked")
		}
		return !got.Versions[0].RevokedAt.IsZero()
	})
	if health := cache.Health(); health.Marked != 1 {
		t.Errorf("%+v", health)
	}
}

// until waits until ok.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}
