package gateway_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/store"
)

// lanes notes in which lane operations reach the HSM.
type lanes struct {
	gateway.Crypto
	mu   sync.Mutex
	seen map[keys.Lane]int
}

func (l *lanes) note(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[keys.LaneOf(ctx)]++
}

func (l *lanes) Sign(ctx context.Context, ref keys.Ref, input []byte) ([]byte, error) {
	l.note(ctx)
	return l.Crypto.Sign(ctx, ref, input)
}

func (l *lanes) Verify(ctx context.Context, ref keys.Ref, input, sig []byte) (bool, error) {
	l.note(ctx)
	return l.Crypto.Verify(ctx, ref, input, sig)
}

func (l *lanes) Wrap(ctx context.Context, ref keys.Ref, key, aad []byte) (iv, wrapped []byte, err error) {
	l.note(ctx)
	return l.Crypto.Wrap(ctx, ref, key, aad)
}

func (l *lanes) Unwrap(ctx context.Context, ref keys.Ref, iv, wrapped, aad []byte) ([]byte, error) {
	l.note(ctx)
	return l.Crypto.Unwrap(ctx, ref, iv, wrapped, aad)
}

func (l *lanes) Random(ctx context.Context, token string, n int) ([]byte, error) {
	l.note(ctx)
	return l.Crypto.Random(ctx, token, n)
}

// Single requests go in the normal lane; batches, and what policy puts there,
// in the bulk one.
func TestLanes(t *testing.T) {
	t.Parallel()
	spy := &lanes{seen: map[keys.Lane]int{}}
	file := filepath.Join(t.TempDir(), "lanes.cedar")
	if err := os.WriteFile(file, []byte(policies+`@lane("bulk") permit(principal in Group::"night", action, resource);`), 0o600); err != nil {
		t.Fatal(err)
	}
	policy, err := authz.LoadPolicies(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *gateway.Config, _ *store.CacheConfig) {
		spy.Crypto = c.Crypto
		c.Crypto, c.Policy = spy, policy
	})
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	everything := func(who gateway.Request) {
		t.Helper()
		signed := of(w.Sign(ctx, who, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
		of(w.Sign(ctx, who, "payments", api.SignRequest{Payload: []byte("x"), Format: api.FormatJWS})).ok(t)
		of(w.Verify(ctx, who, "payments", api.VerifyRequest{Payload: []byte("x"), Signature: signed.Signature, Version: 1})).ok(t)
		sealed := of(w.Encrypt(ctx, who, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t)
		of(w.Decrypt(ctx, who, "mail", api.DecryptRequest{Ciphertext: sealed.Ciphertext})).ok(t)
		of(w.Rewrap(ctx, who, "mail", api.RewrapRequest{Ciphertext: sealed.Ciphertext})).ok(t)
		of(w.DataKey(ctx, who, "mail", api.DataKeyRequest{})).ok(t)
		of(w.Random(ctx, who, api.RandomRequest{Bytes: 1})).ok(t)
	}
	const operations = 10
	check := func(what string, normal, bulk int) {
		t.Helper()
		if spy.seen[keys.LaneNormal] != normal || spy.seen[keys.LaneBulk] != bulk {
			t.Errorf("%s: %d operations in the normal lane and %d in the other, want %d and %d", what, spy.seen[keys.LaneNormal], spy.seen[keys.LaneBulk], normal, bulk)
		}
		clear(spy.seen)
	}
	everything(alice)
	check("single requests", operations, 0)
	everything(as("worker", "agents", "night"))
	check("what policy says", 0, operations)
	of(w.SignBatch(ctx, alice, "payments", []api.SignRequest{{Payload: []byte("a")}, {Payload: []byte("b")}})).ok(t)
	of(w.EncryptBatch(ctx, alice, "mail", []api.EncryptRequest{{Plaintext: []byte("a")}})).ok(t)
	check("batches", 0, 3)
}
