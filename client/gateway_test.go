package client_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/gateway/gatewaytest"
	"keyhole/keys"
)

// startReal starts a whole gateway and returns a client of its administrator.
func startReal(t *testing.T, o gatewaytest.Options) *client.Client {
	t.Helper()
	g := gatewaytest.Start(t, o)
	c, err := client.New(client.Config{Address: g.URL, CACertFile: g.CAFile, Token: client.TokenFile(g.TokenFile(t, "alice", gatewaytest.Admins))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func create(t *testing.T, c *client.Client, name string, alg keys.Algorithm) api.Key {
	t.Helper()
	req := api.CreateKeyRequest{Name: name, Algorithm: string(alg)}
	if alg.Family() == keys.FamilyRSA {
		req.Bits = 2048
	}
	k, err := c.CreateKey(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// losing does what is asked, and hangs up instead of answering, the first
// time that each path is asked for.
func losing(next http.Handler) http.Handler {
	var n counter
	seen := map[string]int{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		seen[r.Method+r.URL.Path]++
		first := seen[r.Method+r.URL.Path] == 1
		n.mu.Unlock()
		if !first {
			next.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(httptest.NewRecorder(), r)
		hangUp(w)
	})
}

// Every act whose answer is lost is done once all the same, and its answer
// comes in the end.
func TestLostAnswersActOnce(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := startReal(t, gatewaytest.Options{Wrap: losing})
	if k := create(t, c, "payments", keys.ES256); k.ActiveVersion != 1 {
		t.Errorf("created with the active version %d", k.ActiveVersion)
	}
	r, err := c.Rotate(ctx, "payments", api.RotateRequest{})
	if err != nil || r.From != 1 || r.To != 2 {
		t.Errorf("rotated from %d to %d, %v", r.From, r.To, err)
	}
	note := "new"
	k, err := c.Key(ctx, "payments")
	if err != nil {
		t.Fatal(err)
	}
	if k, err = c.UpdateKey(ctx, "payments", api.UpdateKeyRequest{Description: &note, Epoch: k.Epoch}); err != nil || k.Description != note {
		t.Errorf("changed to %q, %v", k.Description, err)
	}
	id := keys.VersionID{Key: "payments", Number: 2}
	if _, err = c.Suspend(ctx, id, api.VersionActRequest{}); err != nil {
		t.Error(err)
	}
	if _, err = c.Resume(ctx, id, api.VersionActRequest{}); err != nil {
		t.Error(err)
	}
	k, err = c.Revoke(ctx, id, api.VersionActRequest{Reason: "why"})
	if err != nil || k.ActiveVersion != 3 || len(k.Versions) != 3 {
		t.Errorf("after a revocation: %d versions, %d is active, %v", len(k.Versions), k.ActiveVersion, err)
	}
	var all []api.Rotation
	for r, err := range c.Rotations(ctx, "payments") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	if len(all) != 3 {
		t.Errorf("%d rotations, want 3: %+v", len(all), all)
	}
	// The data plane: what is lost is done again.
	if _, err := c.Sign(ctx, "payments", api.SignRequest{Payload: []byte("x")}); err != nil {
		t.Error(err)
	}
}

// Signer and Decrypter work over what the gateway really answers, for every
// algorithm that they are for.
func TestSignerAndDecrypterOfRealKeys(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := startReal(t, gatewaytest.Options{})
	for _, alg := range asymmetric {
		name := strings.ToLower(string(alg))
		create(t, c, name, alg)
		signer, err := c.Signer(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
		if alg.PSS() {
			tmpl.SignatureAlgorithm = map[keys.Algorithm]x509.SignatureAlgorithm{
				keys.PS256: x509.SHA256WithRSAPSS, keys.PS384: x509.SHA384WithRSAPSS, keys.PS512: x509.SHA512WithRSAPSS,
			}[alg]
		} else if alg.Family() == keys.FamilyRSA {
			tmpl.SignatureAlgorithm = map[keys.Algorithm]x509.SignatureAlgorithm{
				keys.RS256: x509.SHA256WithRSA, keys.RS384: x509.SHA384WithRSA, keys.RS512: x509.SHA512WithRSA,
			}[alg]
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, signer.Public(), signer)
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if _, err := c.Rotate(ctx, name, api.RotateRequest{}); err != nil {
			t.Fatal(err)
		}
		var rotated *client.RotatedError
		if _, err := crypto.SignMessage(signer, rand.Reader, []byte("x"), optsOf(alg)); !errors.As(err, &rotated) || rotated.Got != 2 {
			t.Errorf("%s after a rotation: %v", alg, err)
		}
		if err := signer.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := crypto.SignMessage(signer, rand.Reader, []byte("x"), optsOf(alg)); err != nil {
			t.Errorf("%s after Refresh: %v", alg, err)
		}
	}
	for alg, name := range map[keys.Algorithm]string{keys.RSAOAEP256: "oaep-256", keys.RSAOAEP: "oaep"} {
		create(t, c, name, alg)
		d, err := c.Decrypter(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		enc, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.KeyAlgorithm(d.Algorithm()), Key: d.Public(), KeyID: d.VersionID().String()}, nil)
		if err != nil {
			t.Fatal(err)
		}
		obj, err := enc.Encrypt([]byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		jwe, err := obj.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := c.Encrypt(ctx, name, api.EncryptRequest{Plaintext: []byte("hello"), AAD: []byte("a")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Rotate(ctx, name, api.RotateRequest{}); err != nil {
			t.Fatal(err)
		}
		for text, opts := range map[string]crypto.DecrypterOpts{jwe: nil, sealed.Ciphertext: &client.DecryptOptions{AAD: []byte("a")}} {
			if got, err := d.Decrypt(nil, []byte(text), opts); err != nil || string(got) != "hello" {
				t.Errorf("%s: %.20q after a rotation opens to %q, %v", alg, text, got, err)
			}
		}
	}
}

// The sentinels of the gateway are those of its clients.
func TestRealRefusals(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := startReal(t, gatewaytest.Options{})
	create(t, c, "payments", keys.ES256)
	create(t, c, "customers", keys.A256GCM)
	payload := []byte("x")
	sealed, err := c.Encrypt(ctx, "customers", api.EncryptRequest{Plaintext: payload})
	if err != nil {
		t.Fatal(err)
	}
	note := "x"
	fails := func(name string, want error, err error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	_, err = c.Sign(ctx, "nokey", api.SignRequest{Payload: payload})
	fails("no such key", keys.ErrKeyNotFound, err)
	_, err = c.Sign(ctx, "customers", api.SignRequest{Payload: payload})
	fails("an encryption key", keys.ErrWrongPurpose, err)
	_, err = c.Sign(ctx, "payments", api.SignRequest{Digest: payload})
	fails("a short digest", keys.ErrInvalid, err)
	_, err = c.Sign(ctx, "payments", api.SignRequest{Payload: make([]byte, 2<<20)})
	fails("too large", keys.ErrTooLarge, err)
	_, err = c.Decrypt(ctx, "customers", api.DecryptRequest{Ciphertext: sealed.Ciphertext, AAD: payload})
	fails("another aad", keys.ErrDecrypt, err)
	_, err = c.CreateKey(ctx, api.CreateKeyRequest{Name: "payments", Algorithm: "ES256"})
	fails("a name in use", keys.ErrKeyExists, err)
	_, err = c.UpdateKey(ctx, "payments", api.UpdateKeyRequest{Description: &note, Epoch: 99})
	fails("another epoch", keys.ErrConflict, err)
	_, err = c.Resume(ctx, keys.VersionID{Key: "payments", Number: 1}, api.VersionActRequest{})
	fails("nothing to resume", keys.ErrVersionState, err)
	_, err = c.Resume(ctx, keys.VersionID{Key: "payments", Number: 9}, api.VersionActRequest{})
	fails("no such version", keys.ErrVersionNotFound, err)
	_, err = c.Rotation(ctx, strings.Repeat("0", 26))
	fails("no such rotation", keys.ErrNotFound, err)

	items, err := c.EncryptBatch(ctx, "customers", []api.EncryptRequest{{Plaintext: payload}, {}})
	if err != nil || items[0].Error != nil || !errors.Is(items[1].Error.Err(), keys.ErrInvalid) {
		t.Errorf("a batch: %+v, %v", items, err)
	}
	var names []string
	for k, err := range c.Keys(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, k.Name)
	}
	if !slices.Equal(names, []string{"customers", "payments"}) {
		t.Errorf("the keys are %v", names)
	}
	for range 2 { // the second time as 304
		if set, err := c.JWKS(ctx, "payments"); err != nil || len(set.Keys) != 1 {
			t.Errorf("the JWKS is %+v, %v", set, err)
		}
	}
}

// The answer of a proxy in between is told from the gateway's.
func TestProxyInBetween(t *testing.T) {
	t.Parallel()
	var n counter
	c := startReal(t, gatewaytest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.next() == 1 {
				w.WriteHeader(http.StatusBadGateway)
				_, _ = io.WriteString(w, "<html>")
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	if who, err := c.WhoAmI(t.Context()); err != nil || who.Principal != gatewaytest.Principal("alice") {
		t.Errorf("%+v, %v", who, err)
	}
}

// The gateway's description of its API is the one that this client was
// built with.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	c := startReal(t, gatewaytest.Options{})
	got, err := c.OpenAPI(t.Context())
	if err != nil || got != api.OpenAPI() {
		t.Errorf("%d bytes, %v; want those of openapi.yaml", len(got), err)
	}
}
