package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"keyhole/audit"
)

// idp is an identity provider.
type idp struct {
	key *ecdsa.PrivateKey
	kid string
}

// devIssuer is the identity provider that `keyholed dev` made.
func (g *gateway) devIssuer() idp {
	g.t.Helper()
	block, _ := pem.Decode([]byte(g.line("issuer.key")))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(g.t, err)
	var set jose.JSONWebKeySet
	must(g.t, json.Unmarshal([]byte(g.line("jwks.json")), &set))
	return idp{key.(*ecdsa.PrivateKey), set.Keys[0].KeyID}
}

// claims are those of a good token of the development issuer, with changes;
// nil takes a claim away.
func claims(changes jwt.MapClaims) jwt.MapClaims {
	now := time.Now()
	c := jwt.MapClaims{
		"iss": "https://keyhole-dev.invalid", "aud": "keyhole", "sub": "agent", "groups": []string{"agents"},
		"iat": now.Add(-time.Minute).Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	for name, v := range changes {
		if c[name] = v; v == nil {
			delete(c, name)
		}
	}
	return c
}

// token signs claims by any method and key.
func token(t *testing.T, method jwt.SigningMethod, key any, kid string, c jwt.MapClaims) string {
	t.Helper()
	tok := jwt.NewWithClaims(method, c)
	if kid != "" {
		tok.Header["kid"] = kid
	}
	text, err := tok.SignedString(key)
	must(t, err)
	return text
}

// Whoever is not who a token says, or not any more, or not yet, or not for
// us, is refused in one and the same way, and each refusal is recorded.
func TestTokensThatAreRefused(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	is := g.devIssuer()
	good := token(t, jwt.SigningMethodES256, is.key, is.kid, claims(nil))
	sign := func(token string) answer {
		return g.call(g.http, token, http.MethodPost, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`)
	}
	sign(good).want(http.StatusOK)

	public, err := x509.MarshalPKIXPublicKey(&is.key.PublicKey)
	must(t, err)
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	strangerRSA, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	es := func(c jwt.MapClaims) string { return token(t, jwt.SigningMethodES256, is.key, is.kid, claims(c)) }
	parts := strings.Split(good, ".")
	bodies := map[string]string{}
	refused := map[string]string{
		"alg none":                token(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, is.kid, claims(nil)),
		"no signature":            parts[0] + "." + parts[1] + ".",
		"HS256 by the public PEM": token(t, jwt.SigningMethodHS256, publicPEM, is.kid, claims(nil)),
		"HS256 by the public DER": token(t, jwt.SigningMethodHS256, public, is.kid, claims(nil)),
		"HS256 by the JWKS":       token(t, jwt.SigningMethodHS256, []byte(g.line("jwks.json")), is.kid, claims(nil)),
		"another key, same kid":   token(t, jwt.SigningMethodES256, stranger, is.kid, claims(nil)),
		"another algorithm":       token(t, jwt.SigningMethodRS256, strangerRSA, is.kid, claims(nil)),
		"unknown kid":             token(t, jwt.SigningMethodES256, is.key, "nobody", claims(nil)),
		"expired":                 es(jwt.MapClaims{"exp": at(-time.Minute)}),
		"no expiry":               es(jwt.MapClaims{"exp": nil}),
		"not yet valid":           es(jwt.MapClaims{"nbf": at(time.Minute)}),
		"issued in the future":    es(jwt.MapClaims{"iat": at(time.Minute)}),
		"valid for too long":      es(jwt.MapClaims{"exp": at(48 * time.Hour)}),
		"wrong issuer":            es(jwt.MapClaims{"iss": "https://elsewhere.example"}),
		"no issuer":               es(jwt.MapClaims{"iss": nil}),
		"wrong audience":          es(jwt.MapClaims{"aud": "vault"}),
		"no audience":             es(jwt.MapClaims{"aud": nil}),
		"no subject":              es(jwt.MapClaims{"sub": nil}),
		"bound to a certificate":  es(jwt.MapClaims{"cnf": map[string]string{"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}}),
		"claims of another":       parts[0] + "." + strings.Split(es(jwt.MapClaims{"sub": "admin"}), ".")[1] + "." + parts[2],
		"garbage":                 "a.b.c",
		"a token and something":   good + ".x",
	}
	for what, tok := range refused {
		a := sign(tok)
		p := a.refused(http.StatusUnauthorized, "unauthenticated")
		if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: WWW-Authenticate is %q", what, a.header.Get("WWW-Authenticate"))
		}
		bodies[strings.ReplaceAll(string(a.body), p.RequestID, "")] = what
		if n := len(g.audited(func(r audit.Record) bool { return r.RequestID == p.RequestID && r.Outcome == audit.OutcomeDenied })); n != 1 {
			t.Errorf("%s: recorded %d times", what, n)
		}
	}
	if len(bodies) != 1 {
		t.Errorf("refusals differ by what was wrong: %v", bodies)
	}
	sign("").refused(http.StatusUnauthorized, "unauthenticated")
	sign(strings.Repeat("x", 20_000)).refused(http.StatusUnauthorized, "unauthenticated")
	sign(good).want(http.StatusOK)
	g.stop()
}

// Tokens with kids that nobody knows cost the identity provider next to
// nothing, and those who have good tokens do not notice.
func TestUnknownKeyFlood(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "corp-1", Algorithm: "ES256", Use: "sig"}}})
	must(t, err)
	var fetches atomic.Int64
	provider := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(set)
	}))
	defer provider.Close()

	g := stopped(t)
	g.put("idp.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: provider.Certificate().Raw})))
	g.edit("keyhole.yaml", "  issuers:\n", "  issuers:\n    - name: corp\n      issuer: https://login.example.com\n      audience: [keyhole]\n"+
		"      algorithms: [ES256]\n      jwks_url: "+provider.URL+"/jwks\n      ca_file: idp.crt\n")
	g.put("policies/corp.cedar", `permit (principal == Agent::"jwt:corp:billing", action == Action::"sign", resource);`)
	g.start()
	g.create("payments", "ES256", 0)
	of := func(kid string, changes jwt.MapClaims) string {
		c := claims(changes)
		c["iss"], c["sub"] = "https://login.example.com", "billing"
		return token(t, jwt.SigningMethodES256, key, kid, c)
	}
	sign := func(token string) answer {
		return g.call(g.http, token, http.MethodPost, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`)
	}
	sign(of("corp-1", nil)).want(http.StatusOK)
	before := fetches.Load()
	for n := range 200 {
		// Each with a kid of its own, as an attacker would.
		if a := sign(of(fmt.Sprintf("unknown-%d", n), nil)); a.status != http.StatusUnauthorized && a.status != http.StatusTooManyRequests {
			t.Fatalf("%d %s", a.status, a.body)
		}
		if n%20 == 0 { // a new token each time, so that none is remembered
			sign(of("corp-1", jwt.MapClaims{"jti": fmt.Sprint(n)})).want(http.StatusOK)
		}
	}
	if n := fetches.Load() - before; n > 10 {
		t.Errorf("200 unknown kids made %d requests to the identity provider", n)
	}
	g.stop()
}
