package integration

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/gateway/api"
	"keyhole/integration/faultmodule"
	"keyhole/softhsm"
)

// brittle is a gateway whose HSM fails to order.
type brittle struct {
	*gateway
	f *faultmodule.T

	mu     sync.Mutex
	public map[string]*ecdsa.PublicKey // by kid
}

// newBrittle starts one, on a token of its own, with lines for its token in
// keyhole.yaml. The canary tries each second, and a request may take 5 s.
func newBrittle(t *testing.T, tokenLines ...string) *brittle {
	t.Helper()
	install, err := softhsm.Find()
	must(t, err)
	f := faultmodule.New(t, install.Module)
	g := stopped(t)
	lines := append([]string{fmt.Sprintf("module: %q", f.Path), "canary_interval: 1s"}, tokenLines...)
	g.edit("keyhole.yaml", fmt.Sprintf("module: %q", install.Module), strings.Join(lines, "\n    "))
	g.edit("keyhole.yaml", "policies:\n", "request:\n  timeout: 5s\n\npolicies:\n")
	g.start()
	return &brittle{gateway: g, f: f, public: map[string]*ecdsa.PublicKey{}}
}

// learn remembers the public keys of an ES256 key's versions.
func (b *brittle) learn(name string) {
	b.t.Helper()
	k, err := b.as(agent).Key(b.t.Context(), name)
	must(b.t, err)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, v := range k.Versions {
		block, _ := pem.Decode([]byte(v.PublicKey))
		if block == nil {
			b.t.Fatalf("%s: the public key is no PEM", v.KeyID)
		}
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		must(b.t, err)
		b.public[v.KeyID] = pub.(*ecdsa.PublicKey)
	}
}

// right judges an answer to sign by the public key that was learnt before, by
// the standard library.
func (b *brittle) right(a answer) error {
	var s api.SignResponse
	if err := json.Unmarshal(a.body, &s); err != nil {
		return err
	}
	b.mu.Lock()
	pub := b.public[s.KeyID]
	b.mu.Unlock()
	if pub == nil {
		return fmt.Errorf("%s is not known", s.KeyID)
	}
	digest := sha256.Sum256([]byte(text))
	if len(s.Signature) != 64 || !ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(s.Signature[:32]), new(big.Int).SetBytes(s.Signature[32:])) {
		return fmt.Errorf("a signature of %s that its public key does not verify: %x", s.KeyID, s.Signature)
	}
	return nil
}

func signBody() string {
	return `{"payload":"` + base64.StdEncoding.EncodeToString([]byte(text)) + `"}`
}

// sign asks for a signature, once; one that is wrong fails the test.
func (b *brittle) sign(name string) answer {
	a, err := b.tryCall(b.http, b.line(agent+".jwt"), http.MethodPost, "/v1/keys/"+name+"/sign", signBody())
	if err != nil {
		b.t.Errorf("signing: %v", err) // the gateway itself never goes away
		return answer{}
	}
	if a.status == http.StatusOK {
		if err := b.right(a); err != nil {
			b.t.Error(err)
		}
	}
	return a
}

// trouble is what a caller is told, in short.
func (a answer) trouble() string {
	var p api.Problem
	_ = json.Unmarshal(a.body, &p) // then the code is empty
	return fmt.Sprintf("%d %s, Retry-After %q", a.status, p.Code, a.header.Get("Retry-After"))
}

// ready is what a balancer asks.
func (b *brittle) ready() bool {
	status, _, err := b.get("/readyz")
	return err == nil && status == http.StatusOK
}

// recovered waits until signatures are made again and the gateway is ready,
// and returns how long either took.
func (b *brittle) recovered(name string) (served, ready time.Duration) {
	b.t.Helper()
	begin := time.Now()
	eventually(b.t, "signatures again", func() bool { b.alive(); return b.sign(name).status == http.StatusOK })
	served = time.Since(begin)
	eventually(b.t, "ready again", func() bool { b.alive(); return b.ready() })
	return served.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond)
}
