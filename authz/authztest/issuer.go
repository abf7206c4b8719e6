// Package authztest issues what an authz.Authenticator takes: tokens with
// real signatures, key sets over real TLS, and client certificates with
// revocation lists. It is for tests.
package authztest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"keyhole/authz"
)

// Audience is what tokens of an Issuer are for unless a test says otherwise.
const Audience = "keyhole"

// Issuer issues tokens. It is safe for concurrent use.
type Issuer struct {
	Name string // authz.Issuer.Name
	URL  string // the claim iss

	mu      sync.Mutex
	keys    []signer
	fetches int
	serve   http.HandlerFunc // nil: the key set
}

type signer struct {
	kid, alg string
	key      crypto.Signer
}

// NewIssuer returns an issuer with one key, kid "1", of an algorithm.
func NewIssuer(tb testing.TB, name, alg string) *Issuer {
	tb.Helper()
	i := &Issuer{Name: name, URL: "https://" + name + ".example"}
	i.AddKey(tb, "1", alg)
	return i
}

// AddKey makes a key, publishes it, and signs with it from now on.
func (i *Issuer) AddKey(tb testing.TB, kid, alg string) crypto.Signer {
	tb.Helper()
	k := NewKey(tb, alg)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = append(i.keys, signer{kid, alg, k})
	return k
}

// RemoveKey takes a key out of the published set.
func (i *Issuer) RemoveKey(kid string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for n, s := range i.keys {
		if s.kid == kid {
			i.keys = append(i.keys[:n:n], i.keys[n+1:]...)
			return
		}
	}
}

// Key returns the newest private key.
func (i *Issuer) Key() crypto.Signer { return i.newest().key }

func (i *Issuer) newest() signer {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys[len(i.keys)-1]
}

// NewKey makes a private key for an algorithm.
func NewKey(tb testing.TB, alg string) crypto.Signer {
	tb.Helper()
	var k crypto.Signer
	var err error
	switch alg {
	case "ES256":
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ES512":
		k, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "EdDSA":
		_, k, err = ed25519.GenerateKey(rand.Reader)
	default:
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		tb.Fatalf("making a key for %s: %v", alg, err)
	}
	return k
}

// Claims returns the claims of a good token for a subject, valid from now
// for an hour. Tests change what they are about; nil takes a claim out.
func (i *Issuer) Claims(subject string, now time.Time) map[string]any {
	return map[string]any{
		"iss": i.URL, "sub": subject, "aud": Audience,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
}

// Token signs claims with the newest key.
func (i *Issuer) Token(tb testing.TB, claims map[string]any) string {
	tb.Helper()
	s := i.newest()
	return Sign(tb, s.alg, map[string]any{"alg": s.alg, "typ": "JWT", "kid": s.kid}, claims, s.key)
}

// Sign makes a token of any header and payload, signed by an algorithm that
// the header need not name. Each is JSON text (a string) or is encoded; nil
// members of a map are left out. key may be bytes for HS256 and is
// jwt.UnsafeAllowNoneSignatureType for none.
func Sign(tb testing.TB, alg string, header, payload, key any) string {
	tb.Helper()
	text := Segment(tb, header) + "." + Segment(tb, payload)
	sig, err := jwt.GetSigningMethod(alg).Sign(text, key)
	if err != nil {
		tb.Fatalf("signing with %s: %v", alg, err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// Segment encodes one part of a token.
func Segment(tb testing.TB, v any) string {
	tb.Helper()
	if text, ok := v.(string); ok {
		return base64.RawURLEncoding.EncodeToString([]byte(text))
	}
	if m, ok := v.(map[string]any); ok {
		kept := map[string]any{}
		for k, member := range m {
			if member != nil {
				kept[k] = member
			}
		}
		v = kept
	}
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// JWKS returns the published key set.
func (i *Issuer) JWKS(tb testing.TB) []byte {
	tb.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	set := jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{}}
	for _, s := range i.keys {
		set.Keys = append(set.Keys, JWK(tb, s.key.Public(), s.kid, s.alg))
	}
	b, err := json.Marshal(set)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// JWK returns one key of a set.
func JWK(tb testing.TB, public crypto.PublicKey, kid, alg string) jwkset.JWKMarshal {
	tb.Helper()
	k, err := jwkset.NewJWKFromKey(public, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{
		ALG: jwkset.ALG(alg), KID: kid, USE: jwkset.UseSig,
	}})
	if err != nil {
		tb.Fatal(err)
	}
	return k.Marshal()
}

// File writes the key set to a new file and returns the configuration of
// the issuer with it.
func (i *Issuer) File(tb testing.TB) authz.Issuer {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "jwks.json")
	i.Write(tb, file)
	return authz.Issuer{Name: i.Name, Issuer: i.URL, Audience: []string{Audience}, JWKSFile: file}
}

// Write writes the key set to a file.
func (i *Issuer) Write(tb testing.TB, file string) {
	tb.Helper()
	if err := os.WriteFile(file, i.JWKS(tb), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// Serve serves the key set over TLS until the test ends, and returns the
// configuration of the issuer with it.
func (i *Issuer) Serve(tb testing.TB) authz.Issuer {
	tb.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		i.fetches++
		serve := i.serve
		i.mu.Unlock()
		if serve != nil {
			serve(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(i.JWKS(tb))
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that fail on purpose
	srv.StartTLS()
	tb.Cleanup(srv.Close)
	ca := filepath.Join(tb.TempDir(), "ca.pem")
	der := srv.Certificate().Raw
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		tb.Fatal(err)
	}
	return authz.Issuer{Name: i.Name, Issuer: i.URL, Audience: []string{Audience}, JWKSURL: srv.URL + "/jwks", CAFile: ca}
}

// Fetches returns how often the served key set was asked for.
func (i *Issuer) Fetches() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// Answer makes Serve answer with h; nil makes it answer with the key set.
func (i *Issuer) Answer(h http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.serve = h
}
