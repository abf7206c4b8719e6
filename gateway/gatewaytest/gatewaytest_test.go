package gatewaytest_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/gateway/gatewaytest"
	"keyhole/keys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T, g *gatewaytest.Gateway, token client.TokenSource, files ...string) *client.Client {
	t.Helper()
	cfg := client.Config{Address: g.URL, CACertFile: g.CAFile, Token: token}
	if len(files) == 2 {
		cfg.CertFile, cfg.KeyFile = files[0], files[1]
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Everybody the kit makes is who they should be to the gateway, and the
// gateway works: from a key's creation to a signature that others verify.
func TestWholeGateway(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g := gatewaytest.Start(t, gatewaytest.Options{})
	admin := connect(t, g, client.TokenString(g.Token(t, "alice", gatewaytest.Admins)))
	agent := connect(t, g, client.TokenFile(g.TokenFile(t, "bob", gatewaytest.Agents)))
	cert, key := g.Certificate(t, "carol.example", gatewaytest.Agents)
	mutual := connect(t, g, nil, cert, key)
	for c, want := range map[*client.Client]string{admin: gatewaytest.Principal("alice"), agent: gatewaytest.Principal("bob"), mutual: "mtls:carol.example"} {
		if who, err := c.WhoAmI(ctx); err != nil || who.Principal != want || len(who.Groups) != 1 {
			t.Errorf("%s is %+v, %v", want, who, err)
		}
	}
	if _, err := admin.CreateKey(ctx, api.CreateKeyRequest{Name: "payments", Algorithm: "ES256"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client.Client{agent, mutual} {
		sig, err := c.Sign(ctx, "payments", api.SignRequest{Payload: []byte("x"), Format: api.FormatDER})
		if err != nil {
			t.Fatal(err)
		}
		k, err := c.Key(ctx, "payments")
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(k.Versions[0].PublicKey))
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256([]byte("x")); !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), sum[:], sig.Signature) {
			t.Error("the signature does not verify")
		}
	}
	if r, err := admin.Rotate(ctx, "payments", api.RotateRequest{}); err != nil || r.To != 2 {
		t.Errorf("rotated: %+v, %v", r, err)
	}
	if set, err := connect(t, g, nil).JWKS(ctx, "payments"); err != nil || len(set.Keys) != 2 {
		t.Errorf("the JWKS for everybody: %+v, %v", set, err)
	}

	for name, tt := range map[string]struct {
		token string
		want  error
	}{
		"nobody's group": {g.Token(t, "mallory"), keys.ErrKeyNotFound},
		"expired":        {g.TokenUntil(t, time.Now().Add(-time.Minute), "bob", gatewaytest.Agents), keys.ErrUnauthenticated},
		"changed":        {g.Token(t, "bob", gatewaytest.Agents) + rand.Text()[:4], keys.ErrUnauthenticated},
	} {
		if _, err := connect(t, g, client.TokenString(tt.token)).Sign(ctx, "payments", api.SignRequest{Payload: []byte("x")}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if _, err := agent.Rotate(ctx, "payments", api.RotateRequest{}); !errors.Is(err, keys.ErrForbidden) {
		t.Errorf("an agent rotates: %v", err)
	}
}
