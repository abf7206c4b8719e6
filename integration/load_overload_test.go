package integration

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"testing"
	"time"

	"keyhole/gateway/api"
)

// loadFor is how long each part of the overload takes: a moment, or as long as
// `make load` says, which then prints figures and holds them against what was
// promised.
func loadFor(t *testing.T) (d time.Duration, figures bool) {
	t.Helper()
	s := os.Getenv("KEYHOLE_LOAD")
	if s == "" {
		return time.Second, false
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second {
		t.Fatalf("KEYHOLE_LOAD is %q", s)
	}
	return d, true
}

// verifier checks signatures over "hello" by a key's first version.
func (g *gateway) verifier(k api.Key) func(reply) error {
	block, _ := pem.Decode([]byte(k.Versions[0].PublicKey))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	must(g.t, err)
	digest := sha256.Sum256([]byte("hello"))
	return func(a reply) error {
		var out api.SignResponse
		if err := unmarshal(a.body, &out); err != nil {
			return err
		}
		ok := false
		switch public := public.(type) {
		case *ecdsa.PublicKey:
			n := len(out.Signature) / 2
			ok = n == 32 && ecdsa.Verify(public, digest[:], new(big.Int).SetBytes(out.Signature[:n]), new(big.Int).SetBytes(out.Signature[n:]))
		case *rsa.PublicKey:
			ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], out.Signature) == nil
		}
		if !ok {
			return fmt.Errorf("the signature is wrong: %.300s", a.body)
		}
		return nil
	}
}

const helloBody = `{"payload":"aGVsbG8="}`

// Under four times the load that it can do a gateway does as much as it could
// at its best, what it admits is quick and right, and what it refuses it
// refuses with a word on when to come again. Two kinds of key: one of which the
// token does few, so that its queue bounds the work, and one of which it does
// many, so that the machine does.
func TestOverload(t *testing.T) {
	d, figures := loadFor(t)
	for _, tt := range []struct {
		name, algorithm string
		bits            int
	}{{"slow", "RS256", 4096}, {"quick", "ES256", 0}} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t)
			k := g.create("payments", tt.algorithm, tt.bits)
			var requests [][]byte
			for _, token := range g.agents(8) {
				requests = append(requests, g.request(token, "/v1/keys/payments/sign", helloBody))
			}
			check := g.verifier(k)
			run := func(s storm) *weather {
				s.requests = requests
				if !figures {
					s.check = check
				}
				w := s.rage(t.Context(), g, d)
				w.sound(t)
				if w.good == 0 {
					t.Errorf("%d connections at %.0f/s: nothing was done", s.conns, s.rate)
				}
				return w
			}
			peak := 0.0
			for _, conns := range []int{8, 16, 64} {
				w := run(storm{conns: conns})
				peak = max(peak, w.goodput())
				if figures {
					t.Logf("%s, %d connections: %s", tt.algorithm, conns, w)
				}
			}
			conns := 256
			if figures {
				conns = 1024
			}
			open := run(storm{conns: conns, rate: 4 * peak})
			closed := run(storm{conns: conns})
			after := run(storm{conns: 16})
			eventually(t, "the queue is empty", func() bool {
				using, ok := g.metric(`keyhole_hsm_sessions_in_use{token="keyhole-dev"}`)
				waiting, known := g.metric(`keyhole_hsm_queue{lane="normal",token="keyhole-dev"}`)
				return ok && known && using+waiting == 0
			})
			if open.refused+closed.refused == 0 && tt.name == "slow" {
				t.Error("nothing was refused")
			}
			if !figures {
				return
			}
			for _, w := range []struct {
				name string
				*weather
			}{{"four times the peak, open loop", open}, {"1024 connections, closed loop", closed}, {"16 connections afterwards", after}} {
				t.Logf("%s, %s: %.2f of the peak of %.0f/s; %s", tt.algorithm, w.name, w.goodput()/peak, peak, w)
			}
			if open.goodput() < 0.9*peak || open.percentile(0.99) > time.Second {
				t.Errorf("%s: the goodput did not hold", tt.algorithm)
			}
		})
	}
}

// While batches flood the gateway, single requests pass.
func TestSingleRequestsPassWhileBatchesFlood(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	k := g.create("payments", "RS256", 3072)
	check := g.verifier(k)
	body := `{"items":[`
	for range 63 {
		body += helloBody + ","
	}
	body += helloBody + `]}`
	var batches [][]byte
	tokens := g.agents(3)
	for _, token := range tokens[:2] {
		batches = append(batches, g.request(token, "/v1/keys/payments/sign/batch", body))
	}
	flooding, stop := context.WithCancel(t.Context())
	defer stop()
	flood := make(chan *weather, 1)
	go func() {
		flood <- storm{conns: 32, requests: batches, check: func(a reply) error {
			var out api.BatchResponse[api.SignResponse]
			if err := unmarshal(a.body, &out); err != nil {
				return err
			}
			done := 0
			for _, item := range out.Items {
				if item.Result != nil {
					done++
				} else if item.Error == nil || item.Error.Code != "overloaded" {
					return fmt.Errorf("an item is %+v", item.Error)
				}
			}
			if len(out.Items) != 64 || done == 0 {
				return fmt.Errorf("%d of %d items were done", done, len(out.Items))
			}
			return nil
		}}.rage(flooding, g, patience)
	}()
	eventually(t, "batches wait for sessions", func() bool {
		n, ok := g.metric(`keyhole_hsm_queue{lane="bulk",token="keyhole-dev"}`)
		return ok && n > 1
	})
	w, err := g.wire(t.Context())
	must(t, err)
	defer w.Close()
	single := g.request(tokens[2], "/v1/keys/payments/sign", helloBody)
	for range 50 {
		a, err := w.ask(single)
		must(t, err)
		if a.status != 200 {
			t.Fatalf("a single request: %d %s", a.status, a.body)
		}
		must(t, check(a))
	}
	stop()
	after := <-flood
	after.sound(t)
}
