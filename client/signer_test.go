package client_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// signing is a gateway with one signing key whose versions are real keys.
type signing struct {
	t   *testing.T
	alg keys.Algorithm

	mu        sync.Mutex
	described uint32 // the active version that GET shows
	signs     uint32 // the version that signs
	versions  []crypto.Signer
	spoil     func(sig []byte) // of each signature before it is answered
	asked     int
}

func newSigning(t *testing.T, alg keys.Algorithm, versions ...crypto.Signer) *signing {
	return &signing{t: t, alg: alg, described: 1, signs: 1, versions: versions}
}

func (g *signing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Method == http.MethodGet {
		k := api.Key{Name: "payments", ActiveVersion: g.described}
		for i, v := range g.versions {
			k.Versions = append(k.Versions, api.Version{Version: uint32(i + 1), Algorithm: string(g.alg), PublicKey: publicPEM(g.t, v.Public())})
		}
		reply(w, 200, k)
		return
	}
	g.asked++
	var in api.SignRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || (in.Digest == nil) == (in.Payload == nil) {
		g.t.Errorf("a request with %+v, %v", in, err)
	}
	var opts crypto.SignerOpts = g.alg.Hash()
	if g.alg.PSS() {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: g.alg.Hash()}
	}
	sig, err := g.versions[g.signs-1].Sign(rand.Reader, append(in.Digest, in.Payload...), opts)
	if err != nil {
		g.t.Error(err)
	}
	if g.spoil != nil {
		g.spoil(sig)
	}
	reply(w, 200, api.SignResponse{Key: "payments", Version: g.signs, Algorithm: string(g.alg), Signature: sig})
}

func (g *signing) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

func (g *signing) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked
}

func publicPEM(t *testing.T, pub crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// newKey makes a key that fits the algorithm. RSA keys are one and the same.
func newKey(t *testing.T, alg keys.Algorithm) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch alg {
	case keys.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case keys.ES384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case keys.ES512:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case keys.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = rsaKey()
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var asymmetric = []keys.Algorithm{
	keys.ES256, keys.ES384, keys.ES512, keys.EdDSA,
	keys.RS256, keys.RS384, keys.RS512, keys.PS256, keys.PS384, keys.PS512,
}

func optsOf(alg keys.Algorithm) crypto.SignerOpts {
	if alg.PSS() {
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: alg.Hash()}
	}
	return alg.Hash()
}

// A Signer signs certificates wherever crypto/x509 takes a crypto.Signer, and
// messages by crypto.SignMessage.
func TestSignerSignsCertificates(t *testing.T) {
	t.Parallel()
	x509Algs := map[keys.Algorithm]x509.SignatureAlgorithm{
		keys.ES256: x509.ECDSAWithSHA256, keys.ES384: x509.ECDSAWithSHA384, keys.ES512: x509.ECDSAWithSHA512, keys.EdDSA: x509.PureEd25519,
		keys.RS256: x509.SHA256WithRSA, keys.RS384: x509.SHA384WithRSA, keys.RS512: x509.SHA512WithRSA,
		keys.PS256: x509.SHA256WithRSAPSS, keys.PS384: x509.SHA384WithRSAPSS, keys.PS512: x509.SHA512WithRSAPSS,
	}
	for _, alg := range asymmetric {
		g := newSigning(t, alg, newKey(t, alg))
		s, ca := serve(t, g.ServeHTTP)
		c := connect(t, s, ca)
		signer, err := c.Signer(t.Context(), "payments")
		if err != nil {
			t.Fatal(err)
		}
		if signer.Algorithm() != alg || signer.VersionID().String() != "payments.v1" {
			t.Errorf("%s: a signer of %s by %s", alg, signer.VersionID(), signer.Algorithm())
		}
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, SignatureAlgorithm: x509Algs[alg],
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
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
		if err := cert.CheckSignatureFrom(cert); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		for _, msg := range [][]byte{nil, {}, []byte("hello")} {
			sig, err := crypto.SignMessage(signer, rand.Reader, msg, optsOf(alg))
			if err != nil || cert.CheckSignature(x509Algs[alg], msg, sig) != nil {
				t.Errorf("%s: the message %q: %v", alg, msg, err)
			}
		}
		s.Close()
		c.Close()
	}
}

// A Signer serves as the private key of a TLS server.
func TestSignerServesTLS(t *testing.T) {
	t.Parallel()
	for _, alg := range []keys.Algorithm{keys.ES256, keys.EdDSA, keys.PS256} {
		g := newSigning(t, alg, newKey(t, alg))
		s, ca := serve(t, g.ServeHTTP)
		c := connect(t, s, ca)
		signer, err := c.Signer(t.Context(), "payments")
		if err != nil {
			t.Fatal(err)
		}
		root := newIssuer(t)
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(2), DNSNames: []string{"service.example"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root.cert, signer.Public(), root.key)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AddCert(root.cert)
		near, far := net.Pipe()
		server := tls.Server(near, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: signer}}})
		peer := tls.Client(far, &tls.Config{RootCAs: pool, ServerName: "service.example"})
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := server.HandshakeContext(t.Context()); err != nil {
				t.Errorf("%s: the server: %v", alg, err)
			}
		})
		if err := peer.HandshakeContext(t.Context()); err != nil {
			t.Errorf("%s: the client: %v", alg, err)
		}
		wg.Wait()
		near.Close()
		far.Close()
		s.Close()
		c.Close()
	}
}

// What does not fit the key is refused here, and nothing is sent.
func TestSignerRefusesOptions(t *testing.T) {
	t.Parallel()
	pss := func(salt int, h crypto.Hash) *rsa.PSSOptions { return &rsa.PSSOptions{SaltLength: salt, Hash: h} }
	type bad struct {
		size int
		opts crypto.SignerOpts
	}
	for alg, all := range map[keys.Algorithm][]bad{
		keys.ES256: {{32, nil}, {32, crypto.Hash(0)}, {32, crypto.SHA384}, {48, crypto.SHA256}, {0, crypto.SHA256}, {31, crypto.SHA256}, {32, pss(32, crypto.SHA256)}, {32, crypto.Hash(99)}},
		keys.EdDSA: {{5, nil}, {64, crypto.SHA512}, {64, &ed25519.Options{Hash: crypto.SHA512}}, {5, &ed25519.Options{Context: "x"}}},
		keys.RS256: {{32, pss(rsa.PSSSaltLengthEqualsHash, crypto.SHA256)}, {36, crypto.MD5SHA1}, {32, crypto.Hash(0)}, {20, crypto.SHA1}},
		keys.PS256: {{32, crypto.SHA256}, {32, pss(20, crypto.SHA256)}, {32, pss(rsa.PSSSaltLengthEqualsHash, crypto.SHA384)}, {32, pss(rsa.PSSSaltLengthEqualsHash, 0)}},
	} {
		g := newSigning(t, alg, newKey(t, alg))
		s, ca := serve(t, g.ServeHTTP)
		c := connect(t, s, ca)
		signer, err := c.Signer(t.Context(), "payments")
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			if _, err := signer.Sign(rand.Reader, make([]byte, b.size), b.opts); !errors.Is(err, keys.ErrInvalid) {
				t.Errorf("%s: %d bytes, %#v: %v, want ErrInvalid", alg, b.size, b.opts, err)
			}
		}
		if g.count() != 0 {
			t.Errorf("%s: %d requests were sent", alg, g.count())
		}
		for _, salt := range []int{rsa.PSSSaltLengthAuto, 32} {
			if _, err := signer.Sign(rand.Reader, make([]byte, 32), pss(salt, crypto.SHA256)); alg == keys.PS256 && err != nil {
				t.Errorf("salt length %d: %v", salt, err)
			}
		}
		s.Close()
		c.Close()
	}
}

// A signature never leaves a Signer that does not match its Public.
func TestSignerAndRotation(t *testing.T) {
	t.Parallel()
	g := newSigning(t, keys.ES256, newKey(t, keys.ES256), newKey(t, keys.ES256))
	s, ca := serve(t, g.ServeHTTP)
	c := connect(t, s, ca)
	signer, err := c.Signer(t.Context(), "payments")
	if err != nil {
		t.Fatal(err)
	}
	first := signer.Public()
	g.set(func() { g.described, g.signs = 2, 2 })
	_, err = signer.Sign(nil, make([]byte, 32), crypto.SHA256)
	var rotated *client.RotatedError
	if !errors.As(err, &rotated) || !errors.Is(err, keys.ErrVersionState) || rotated.Have != 1 || rotated.Got != 2 || rotated.Key != "payments" {
		t.Errorf("after a rotation: %v, want a RotatedError from 1 to 2", err)
	}
	if !first.(*ecdsa.PublicKey).Equal(signer.Public()) {
		t.Error("the public key changed by itself")
	}
	if err := signer.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	sig, err := signer.Sign(nil, make([]byte, 32), crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(signer.Public().(*ecdsa.PublicKey), make([]byte, 32), sig) || first.(*ecdsa.PublicKey).Equal(signer.Public()) {
		t.Errorf("after Refresh: %v", err)
	}

	g.set(func() { g.spoil = func(sig []byte) { sig[len(sig)-1] ^= 1 } })
	if _, err := signer.Sign(nil, make([]byte, 32), crypto.SHA256); !errors.Is(err, keys.ErrInternal) {
		t.Errorf("a wrong signature: %v, want ErrInternal", err)
	}
	g.set(func() { g.spoil, g.signs = nil, 1; g.versions[0], g.versions[1] = g.versions[1], g.versions[0] })
	if _, err := signer.Sign(nil, make([]byte, 32), crypto.SHA256); !errors.As(err, &rotated) {
		t.Errorf("the right key under another number: %v, want a RotatedError", err)
	}

	// A failed Refresh changes nothing.
	was := signer.VersionID()
	g.set(func() { g.described = 0 })
	if err := signer.Refresh(t.Context()); !errors.Is(err, keys.ErrNoActiveVersion) || signer.VersionID() != was {
		t.Errorf("Refresh without an active version: %v, now %s", err, signer.VersionID())
	}
}

func TestSignerContext(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 1)
	g := newSigning(t, keys.ES256, newKey(t, keys.ES256))
	s, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.ReadAll(r.Body)
			arrived <- struct{}{}
			<-r.Context().Done()
			return
		}
		g.ServeHTTP(w, r)
	})
	c := connect(t, s, ca)
	signer, err := c.Signer(t.Context(), "payments")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := signer.SignContext(ctx, make([]byte, 32), crypto.SHA256); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
}

// One Signer, many users, while it is refreshed.
func TestSignerIsConcurrent(t *testing.T) {
	t.Parallel()
	g := newSigning(t, keys.ES256, newKey(t, keys.ES256), newKey(t, keys.ES256))
	s, ca := serve(t, g.ServeHTTP)
	c := connect(t, s, ca)
	signer, err := c.Signer(t.Context(), "payments")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				_, err := signer.Sign(nil, make([]byte, 32), crypto.SHA256)
				var rotated *client.RotatedError
				if err != nil && !errors.As(err, &rotated) {
					t.Errorf("sign: %v", err)
				}
			}
		})
	}
	wg.Go(func() {
		g.set(func() { g.described, g.signs = 2, 2 })
		if err := signer.Refresh(t.Context()); err != nil {
			t.Errorf("refresh: %v", err)
		}
	})
	wg.Wait()
}

// Keys that no Signer or Decrypter can be made of.
func TestSignerAndDecrypterNeedTheirKind(t *testing.T) {
	t.Parallel()
	ec, rsaPub := publicPEM(t, newKey(t, keys.ES256).Public()), publicPEM(t, newKey(t, keys.RS256).Public())
	one := func(alg, pub string) api.Key {
		return api.Key{ActiveVersion: 1, Versions: []api.Version{{Version: 1, Algorithm: alg, PublicKey: pub}}}
	}
	for name, tt := range map[string]struct {
		key           api.Key
		sign, decrypt error // nil: works
	}{
		"signing":              {key: one("ES256", ec), decrypt: keys.ErrWrongPurpose},
		"encryption":           {key: one("RSA-OAEP-256", rsaPub), sign: keys.ErrWrongPurpose},
		"encryption by SHA-1":  {key: one("RSA-OAEP", rsaPub), sign: keys.ErrWrongPurpose},
		"MAC":                  {key: one("HS256", ""), sign: keys.ErrWrongPurpose, decrypt: keys.ErrWrongPurpose},
		"AES":                  {key: one("A256GCM", ""), sign: keys.ErrWrongPurpose, decrypt: keys.ErrWrongPurpose},
		"unknown algorithm":    {key: one("XY9", ec), sign: keys.ErrInternal, decrypt: keys.ErrInternal},
		"no active version":    {key: api.Key{Versions: one("ES256", ec).Versions}, sign: keys.ErrNoActiveVersion, decrypt: keys.ErrNoActiveVersion},
		"version not included": {key: api.Key{ActiveVersion: 2, Versions: one("ES256", ec).Versions}, sign: keys.ErrInternal, decrypt: keys.ErrInternal},
	} {
		s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, tt.key) })
		c := connect(t, s, ca)
		if _, err := c.Signer(t.Context(), "payments"); !errors.Is(err, tt.sign) || (err == nil) != (tt.sign == nil) {
			t.Errorf("%s: Signer: %v, want %v", name, err, tt.sign)
		}
		if _, err := c.Decrypter(t.Context(), "payments"); !errors.Is(err, tt.decrypt) || (err == nil) != (tt.decrypt == nil) {
			t.Errorf("%s: Decrypter: %v, want %v", name, err, tt.decrypt)
		}
		s.Close()
		c.Close()
	}

	// A public key that is none, or of another kind than the algorithm says.
	p384 := publicPEM(t, newKey(t, keys.ES384).Public())
	for name, key := range map[string]api.Key{
		"no PEM": one("ES256", "x"), "no key": one("ES256", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
		"RSA for EC": one("ES256", rsaPub), "EC for RSA": one("RS256", ec), "EC for Ed25519": one("EdDSA", ec), "another curve": one("ES256", p384),
	} {
		s, ca := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, key) })
		c := connect(t, s, ca)
		if _, err := c.Signer(t.Context(), "payments"); !errors.Is(err, keys.ErrInternal) || !strings.Contains(err.Error(), "payments.v1") {
			t.Errorf("%s: %v, want ErrInternal", name, err)
		}
		s.Close()
		c.Close()
	}
}
