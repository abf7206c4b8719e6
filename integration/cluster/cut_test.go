package cluster

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/integration/internal/proc"
	"keyhole/keys"
)

// One gateway is cut off from PostgreSQL, and nobody tells it: packets vanish.
// A version that is revoked meanwhile through another gateway is refused by it
// as well, for the token has the mark; other keys are used until they are too
// old, and then nothing is, so that a blocked agent gets in no longer than
// that. When the network is back, so is the gateway.
func TestCutOff(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	w := newWire(t, s.pg.Addr)
	const staleness = 10 * time.Second
	for _, g := range s.gates {
		g.configure(map[string]string{"store": g.store(s.db.TLSURL, staleness)})
	}
	off := s.gates[2]
	off.configure(map[string]string{"store": off.store(strings.Replace(s.db.URL, s.pg.Addr, w.addr, 1), staleness)})
	s.start()
	s.create("payments", "ES256", nil)
	s.create("other", "ES256", nil)
	mallory := off.s.clientBy(off.api(), s.caller("mallory"), -1)
	sign := func(c *client.Client, key string) error {
		ctx, cancel := soon(t.Context())
		defer cancel()
		_, err := c.Sign(ctx, key, api.SignRequest{Payload: []byte("x")})
		return err
	}
	agent := off.as("agent")
	must(t, sign(agent, "payments"))
	must(t, sign(mallory, "other"))

	w.cut()
	began := time.Now()
	revoker := s.gates[0].admin()
	_, err := revoker.Revoke(t.Context(), keys.VersionID{Key: "payments", Number: 1}, api.VersionActRequest{Reason: "a test"})
	must(t, err)
	revoked := time.Now()
	_, err = revoker.BlockAgent(t.Context(), "jwt:dev:mallory", "a test")
	must(t, err)
	proc.Eventually(t, "the gateway that is cut off refuses what is revoked", func() bool {
		err = sign(agent, "payments")
		return err != nil
	})
	if errors.Is(err, keys.ErrStale) {
		t.Errorf("the gateway that is cut off did not see the mark on the token: %v", err)
	}
	t.Logf("refused %s after the revocation, %s after the cut", time.Since(revoked), time.Since(began))
	if err := sign(agent, "payments"); err == nil {
		t.Error("what was refused is signed with again")
	}
	if err := sign(agent, "other"); err != nil && time.Since(began) < staleness/2 {
		t.Errorf("another key is refused long before it is too old: %v", err)
	}
	proc.Eventually(t, "the gateway that is cut off serves nobody", func() bool {
		return errors.Is(sign(mallory, "other"), keys.ErrStale) && errors.Is(sign(agent, "other"), keys.ErrStale)
	})
	t.Logf("it serves nobody %s after the cut", time.Since(began))
	if status, _, err := off.get("/readyz"); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("readyz of a gateway that serves nobody: %d %v", status, err)
	}

	w.mend()
	proc.Eventually(t, "the gateway is back", func() bool { return sign(agent, "other") == nil })
	if err := sign(mallory, "other"); !errors.Is(err, keys.ErrForbidden) {
		t.Errorf("a blocked agent: %v", err)
	}
	s.refusedForGood(off, "payments.v1")
	off.ready()
	s.stop()
	s.agree()
}

// refusedForGood fails the test unless a gateway says that a version is
// compromised, and signs with a successor.
func (s *site) refusedForGood(g *gate, kid string) {
	s.t.Helper()
	proc.Eventually(s.t, g.name+" knows that "+kid+" is compromised, and signs with another", func() bool {
		ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
		defer cancel()
		k, err := g.admin().Key(ctx, "payments")
		if err != nil {
			return false
		}
		for _, v := range k.Versions {
			if v.KeyID == kid && v.State != "compromised" {
				s.t.Fatalf("%s says that %s is %s", g.name, kid, v.State)
			}
		}
		sig, err := g.as("agent").Sign(ctx, "payments", api.SignRequest{Payload: []byte("x")})
		return err == nil && sig.KeyID != kid
	})
}
