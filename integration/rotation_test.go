package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyhole/audit"
	"keyhole/gateway/api"
)

// Agents sign, verify, encrypt, decrypt and rewrap without pause while the
// administrator rotates their keys twenty times. No request fails; whoever
// asks after a rotation was acknowledged gets the new version or a newer one;
// what any version made verifies and opens at any later time, by the gateway
// and by the published JWKS alone; and the log has one record per answer.
func TestRotationUnderLoad(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	g.create("vault", "A256GCM", 0)
	const rotations = 20
	var newest [2]atomic.Uint32 // version of payments and of vault that is acknowledged
	var answers atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	halt := sync.OnceFunc(func() {
		close(stop)
		wg.Wait()
	})
	t.Cleanup(halt)
	loop := func(name string, step func(n int) error) {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := step(n); err != nil {
					t.Errorf("%s, round %d: %v", name, n, err)
					return
				}
			}
		})
	}
	var mu sync.Mutex
	var signed []string // JWS
	var sealed []string
	old := func(all *[]string, n int) string { // one of before, or ""
		mu.Lock()
		defer mu.Unlock()
		if len(*all) == 0 {
			return ""
		}
		return (*all)[n%len(*all)]
	}
	keep := func(all *[]string, s string) {
		mu.Lock()
		defer mu.Unlock()
		*all = append(*all, s)
		answers.Add(1)
	}
	ctx := t.Context()
	for i := range 2 {
		c := g.as(agent)
		loop(fmt.Sprintf("sign %d", i), func(n int) error {
			least := newest[0].Load()
			s, err := c.Sign(ctx, "payments", api.SignRequest{Payload: fmt.Appendf(nil, "payment %d", n), Format: api.FormatJWS})
			if err != nil || s.Version < least {
				return fmt.Errorf("signed by version %d, and version %d was acknowledged before: %w", s.Version, least, err)
			}
			keep(&signed, s.JWS)
			return nil
		})
	}
	verifier, encrypter, decrypter := g.as(agent), g.as(agent), g.as(agent)
	loop("verify", func(n int) error {
		jws := old(&signed, n)
		if jws == "" {
			return nil
		}
		v, err := verifier.Verify(ctx, "payments", api.VerifyRequest{JWS: jws})
		if err != nil || !v.Valid {
			return fmt.Errorf("%+v: %w", v, err)
		}
		answers.Add(1)
		return nil
	})
	loop("encrypt", func(n int) error {
		least := newest[1].Load()
		e, err := encrypter.Encrypt(ctx, "vault", api.EncryptRequest{Plaintext: []byte(secret)})
		if err != nil || e.Version < least {
			return fmt.Errorf("encrypted by version %d, and version %d was acknowledged before: %w", e.Version, least, err)
		}
		keep(&sealed, e.Ciphertext)
		return nil
	})
	loop("decrypt and rewrap", func(n int) error {
		ciphertext := old(&sealed, n)
		if ciphertext == "" {
			return nil
		}
		if n%5 == 0 {
			r, err := decrypter.Rewrap(ctx, "vault", api.RewrapRequest{Ciphertext: ciphertext})
			if err != nil {
				return err
			}
			answers.Add(1)
			ciphertext = r.Ciphertext
		}
		d, err := decrypter.Decrypt(ctx, "vault", api.DecryptRequest{Ciphertext: ciphertext})
		if err != nil || string(d.Plaintext) != secret {
			return fmt.Errorf("opened to %q: %w", d.Plaintext, err)
		}
		answers.Add(1)
		return nil
	})
	boss := g.as(admin)
	for range rotations {
		for i, key := range []string{"payments", "vault"} {
			before := answers.Load()
			r, err := boss.Rotate(ctx, key, api.RotateRequest{})
			if err != nil {
				t.Fatal(err)
			}
			newest[i].Store(r.To)
			eventually(t, "the agents go on", func() bool { return t.Failed() || answers.Load() > before+8 })
		}
	}
	halt()

	if a, b := newest[0].Load(), newest[1].Load(); a != rotations+1 || b != rotations+1 {
		t.Errorf("after %d rotations the versions are %d and %d", rotations, a, b)
	}
	versions := verifyAll(t, g, signed)
	if versions < rotations {
		t.Errorf("%d versions signed anything", versions)
	}
	recorded := len(g.audited(func(r audit.Record) bool {
		return r.Principal == "jwt:dev:agent" && r.Outcome == audit.OutcomeOK && strings.Contains(" sign verify encrypt decrypt rewrap ", " "+r.Action+" ")
	}))
	if int64(recorded) != answers.Load() {
		t.Errorf("%d answers, %d records of them", answers.Load(), recorded)
	}
	t.Logf("%d answers during %d rotations", answers.Load(), 2*rotations)
	g.stop()
}

// verifyAll verifies by the published JWKS and returns how many versions had
// signed.
func verifyAll(t *testing.T, g *gateway, signed []string) int {
	t.Helper()
	var set jose.JSONWebKeySet
	must(t, json.Unmarshal(g.read(agent, "/v1/keys/payments/jwks.json").want(200).body, &set))
	seen := map[string]bool{}
	for _, jws := range signed {
		s, err := jose.ParseSignedCompact(jws, []jose.SignatureAlgorithm{jose.ES256})
		must(t, err)
		kid := s.Signatures[0].Protected.KeyID
		published := set.Key(kid)
		if len(published) != 1 {
			t.Fatalf("%s is published %d times", kid, len(published))
		}
		if _, err := s.Verify(published[0]); err != nil {
			t.Errorf("a signature by %s: %v", kid, err)
		}
		seen[kid] = true
	}
	return len(seen)
}
