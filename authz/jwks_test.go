package authz_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"

	"keyhole/authz"
	"keyhole/authz/authztest"
)

// lockedLog is a log that several goroutines write.
type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *lockedLog) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// eventually polls until ok or the test's patience ends.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestKeysByURL(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.Serve(t)}})
	token := func() string { return corp.Token(t, corp.Claims("alice", c.now())) }
	accept(t, a, token(), nil)
	if n := corp.Fetches(); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}

	// A new key is found without anybody's help, but not twice in 5 s.
	corp.AddKey(t, "2", "ES256")
	refuse(t, a, token(), nil, "unknown-kid")
	c.advance(5 * time.Second)
	accept(t, a, token(), nil)
	if n := corp.Fetches(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}

	// The issuer is down: what is known stays.
	corp.Answer(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusInternalServerError) })
	c.advance(time.Minute)
	corp.AddKey(t, "3", "ES256")
	refuse(t, a, token(), nil, "unknown-kid")
	corp.RemoveKey("3")
	accept(t, a, token(), nil)
}

// TestUnknownKeyFlood: tokens with invented key ids cost the issuer one
// fetch, and valid tokens nothing.
func TestUnknownKeyFlood(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.Serve(t)}})
	good := corp.Token(t, corp.Claims("alice", c.now()))
	c.advance(time.Minute)

	block, arrived := make(chan struct{}), make(chan struct{}, 1)
	corp.Answer(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-block
		_, _ = w.Write(corp.JWKS(t))
	})
	var flood sync.WaitGroup
	for i := range 200 {
		token := authztest.Sign(t, "ES256", map[string]any{"alg": "ES256", "kid": fmt.Sprint("invented-", i)}, corp.Claims("mallory", c.now()), corp.Key())
		flood.Go(func() { refuse(t, a, token, nil, "unknown-kid") })
	}
	<-arrived
	// While the flood waits for one slow fetch, others are served.
	accept(t, a, good, nil)
	accept(t, a, corp.Token(t, corp.Claims("bob", c.now())), nil)
	// And who does not want to wait need not.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := a.Authenticate(ctx, authz.Credentials{Token: authztest.Sign(t, "ES256", map[string]any{"alg": "ES256", "kid": "x"},
		corp.Claims("mallory", c.now()), corp.Key())}); err == nil {
		t.Error("an unknown key is accepted")
	}
	close(block)
	flood.Wait()
	if n := corp.Fetches(); n != 2 {
		t.Errorf("%d fetches, want 2: the first, and one for the flood", n)
	}
}

// TestFewWaitForAFetch: whoever sends tokens with invented key ids while the
// issuer is slow must not fill the gateway with requests that wait.
func TestFewWaitForAFetch(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.Serve(t)}, JWKSTimeout: time.Minute})
	c.advance(time.Minute)
	block := make(chan struct{})
	corp.Answer(func(w http.ResponseWriter, _ *http.Request) {
		<-block
		_, _ = w.Write(corp.JWKS(t))
	})
	open := sync.OnceFunc(func() { close(block) })
	defer open()
	const callers, waiting = 100, 32
	token := authztest.Sign(t, "ES256", map[string]any{"alg": "ES256", "kid": "invented"}, corp.Claims("mallory", c.now()), corp.Key())
	var answered atomic.Int64
	var flood sync.WaitGroup
	for range callers {
		flood.Go(func() {
			refuse(t, a, token, nil, "unknown-kid")
			answered.Add(1)
		})
	}
	eventually(t, "most are answered while the fetch hangs", func() bool { return answered.Load() == callers-waiting })
	open()
	flood.Wait()
}

// TestAbandonedFetch: a caller who leaves does not take the fetch along, so
// that leaving early cannot keep a new key unknown.
func TestAbandonedFetch(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.Serve(t)}})
	c.advance(time.Minute)
	corp.AddKey(t, "2", "ES256")
	token := corp.Token(t, corp.Claims("alice", c.now()))

	block, arrived := make(chan struct{}), make(chan struct{})
	corp.Answer(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-block
		_, _ = w.Write(corp.JWKS(t))
	})
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error)
	go func() {
		_, err := a.Authenticate(ctx, authz.Credentials{Token: token})
		left <- err
	}()
	<-arrived
	cancel()
	if err := <-left; err == nil {
		t.Error("accepted without the key")
	}
	close(block)
	eventually(t, "the fetch brings the key", func() bool {
		_, err := a.Authenticate(context.Background(), authz.Credentials{Token: token})
		return err == nil
	})
}

// TestIssuerDownAtStart: the gateway starts all the same, says so, and keeps
// trying.
func TestIssuerDownAtStart(t *testing.T) {
	t.Parallel()
	c := newClock()
	var log lockedLog
	corp, other := authztest.NewIssuer(t, "corp", "ES256"), authztest.NewIssuer(t, "other", "ES256")
	conf := corp.Serve(t)
	corp.Answer(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) })
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{conf, other.File(t)}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if !strings.Contains(log.String(), "cannot fetch the keys") || !strings.Contains(log.String(), "issuer=corp") {
		t.Errorf("the log does not tell: %s", log.String())
	}
	token := corp.Token(t, corp.Claims("alice", c.now()))
	refuse(t, a, token, nil, "issuer-unavailable")
	accept(t, a, other.Token(t, other.Claims("bob", c.now())), nil)

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	corp.Answer(nil)
	eventually(t, "Run fetches the keys", func() bool {
		_, err := a.Authenticate(context.Background(), authz.Credentials{Token: token})
		return err == nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestPeriodicFetch: a key that the issuer takes back stops counting without
// anybody asking.
func TestPeriodicFetch(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.Serve(t)}, JWKSInterval: time.Millisecond})
	token := corp.Token(t, corp.Claims("alice", c.now()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	accept(t, a, token, nil)
	n := corp.Fetches()
	eventually(t, "another fetch", func() bool { return corp.Fetches() > n })
	accept(t, a, token, nil)
	corp.AddKey(t, "2", "ES256")
	corp.RemoveKey("1")
	eventually(t, "the old key is forgotten", func() bool {
		_, err := a.Authenticate(context.Background(), authz.Credentials{Token: token})
		return err != nil
	})
	refuse(t, a, token, nil, "unknown-kid")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestBadAnswers: whatever an issuer's server says, the last good keys stay
// in use and nothing is read without a bound.
func TestBadAnswers(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	conf := corp.Serve(t)
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) }))
	defer plain.Close()
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{conf}, CacheSize: -1})
	good := corp.Token(t, corp.Claims("alice", c.now()))
	unknown := authztest.Sign(t, "ES256", map[string]any{"alg": "ES256", "kid": "x"}, corp.Claims("mallory", c.now()), corp.Key())
	say := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
	}
	for name, answer := range map[string]http.HandlerFunc{
		"not JSON":        say("hello"),
		"an array":        say("[]"),
		"no keys":         say("{}"),
		"keys twice":      say(`{"keys":[],"keys":[]}`),
		"keys null":       say(`{"keys":null}`),
		"cut":             say(`{"keys":[`),
		"not found":       func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) },
		"no content":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"a redirect away": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, plain.URL, http.StatusFound) },
		"a redirect, file": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
		},
		"redirects for all": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) },
		"too much": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[` + strings.Repeat(" ", 1<<20) + `]}`))
		},
		"a gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write([]byte(`{"keys":[` + strings.Repeat(" ", 8<<20) + `]}`))
			_ = z.Close()
		},
		"hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		corp.Answer(answer)
		c.advance(5 * time.Second)
		before := corp.Fetches()
		refuse(t, a, unknown, nil, "unknown-kid")
		if corp.Fetches() == before {
			t.Errorf("%s: the issuer was not asked", name)
		}
		accept(t, a, good, nil)
	}
	// An empty set is an answer: the issuer took its keys back.
	corp.Answer(say(`{"keys":[]}`))
	c.advance(5 * time.Second)
	refuse(t, a, unknown, nil, "unknown-kid")
	refuse(t, a, good, nil, "unknown-kid")
}

// TestSlowIssuer: a server that does not answer holds nobody for long.
func TestSlowIssuer(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	conf := corp.Serve(t)
	block := make(chan struct{})
	defer close(block)
	corp.Answer(func(http.ResponseWriter, *http.Request) { <-block })
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{conf}, JWKSTimeout: 10 * time.Millisecond})
	c.advance(time.Minute)
	refuse(t, a, corp.Token(t, corp.Claims("alice", c.now())), nil, "issuer-unavailable")
	if n := corp.Fetches(); n > 2 {
		t.Errorf("%d fetches, want 2 at most", n)
	}
}

func TestRedirectWithinTLS(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	conf := corp.Serve(t)
	corp.Answer(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jwks" {
			http.Redirect(w, r, "/keys", http.StatusMovedPermanently)
			return
		}
		_, _ = w.Write(corp.JWKS(t))
	})
	accept(t, auth(t, c, authz.Config{Issuers: []authz.Issuer{conf}}), corp.Token(t, corp.Claims("alice", c.now())), nil)
}

// TestServerNotTrusted: keys from a server whose certificate is not trusted
// are not taken.
func TestServerNotTrusted(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	conf := corp.Serve(t)
	conf.CAFile = authztest.WriteFile(t, "ca.pem", authztest.PEM("CERTIFICATE", authztest.NewCA(t, "x", time.Now()).Cert.Raw))
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{conf}})
	refuse(t, a, corp.Token(t, corp.Claims("alice", c.now())), nil, "issuer-unavailable")
}

// TestKeysLeftOut: keys that must not verify anything do not.
func TestKeysLeftOut(t *testing.T) {
	t.Parallel()
	c := newClock()
	ec, rsa, ed := authztest.NewKey(t, "ES256"), authztest.NewKey(t, "RS256"), authztest.NewKey(t, "EdDSA")
	p384 := authztest.NewKey(t, "ES384")
	change := func(k jwkset.JWKMarshal, f func(*jwkset.JWKMarshal)) jwkset.JWKMarshal { f(&k); return k }
	for name, tt := range map[string]struct {
		key    jwkset.JWKMarshal
		alg    string
		signer any
		reason string // "": accepted
		warned bool
	}{
		"as it should be":     {authztest.JWK(t, ec.Public(), "k", "ES256"), "ES256", ec, "", false},
		"no alg":              {authztest.JWK(t, rsa.Public(), "k", ""), "PS512", rsa, "", false},
		"no use":              {change(authztest.JWK(t, ec.Public(), "k", "ES256"), func(k *jwkset.JWKMarshal) { k.USE = "" }), "ES256", ec, "", false},
		"key_ops verify":      {change(authztest.JWK(t, ec.Public(), "k", "ES256"), func(k *jwkset.JWKMarshal) { k.KEYOPS = []jwkset.KEYOPS{"verify"} }), "ES256", ec, "", false},
		"with a broken x5c":   {change(authztest.JWK(t, ec.Public(), "k", "ES256"), func(k *jwkset.JWKMarshal) { k.X5C = []string{"AAAA"} }), "ES256", ec, "", false},
		"for encryption":      {change(authztest.JWK(t, ec.Public(), "k", "ES256"), func(k *jwkset.JWKMarshal) { k.USE = "enc" }), "ES256", ec, "unknown-kid", false},
		"key_ops encrypt":     {change(authztest.JWK(t, ec.Public(), "k", "ES256"), func(k *jwkset.JWKMarshal) { k.KEYOPS = []jwkset.KEYOPS{"encrypt"} }), "ES256", ec, "unknown-kid", false},
		"alg of another type": {change(authztest.JWK(t, ec.Public(), "k", ""), func(k *jwkset.JWKMarshal) { k.ALG = "RS256" }), "ES256", ec, "unknown-kid", true},
		"alg of a curve":      {change(authztest.JWK(t, p384.Public(), "k", ""), func(k *jwkset.JWKMarshal) { k.ALG = "ES256" }), "ES384", p384, "unknown-kid", true},
		"alg HS256":           {change(authztest.JWK(t, rsa.Public(), "k", ""), func(k *jwkset.JWKMarshal) { k.ALG = "HS256" }), "RS256", rsa, "unknown-kid", true},
		"alg none":            {change(authztest.JWK(t, rsa.Public(), "k", ""), func(k *jwkset.JWKMarshal) { k.ALG = "none" }), "RS256", rsa, "unknown-kid", true},
		"pinned to RS256":     {authztest.JWK(t, rsa.Public(), "k", "RS256"), "PS256", rsa, "algorithm", false},
		"EC with another alg": {authztest.JWK(t, ec.Public(), "k", ""), "EdDSA", ed, "algorithm", false},
		"no kid":              {authztest.JWK(t, ec.Public(), "", "ES256"), "ES256", ec, "unknown-kid", false},
		"off the curve":       {change(authztest.JWK(t, ec.Public(), "k", ""), func(k *jwkset.JWKMarshal) { k.Y = k.X }), "ES256", ec, "unknown-kid", true},
		"symmetric":           {jwkset.JWKMarshal{KTY: "oct", K: "AAAA", KID: "k", ALG: "HS256"}, "ES256", ec, "unknown-kid", true},
		"private": {func() jwkset.JWKMarshal {
			k, err := jwkset.NewJWKFromKey(ec, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: "k"}, Marshal: jwkset.JWKMarshalOptions{Private: true}})
			if err != nil {
				t.Fatal(err)
			}
			return k.Marshal()
		}(), "ES256", ec, "unknown-kid", true},
		"small":     {change(authztest.JWK(t, rsa.Public(), "k", ""), func(k *jwkset.JWKMarshal) { k.N = k.N[:len(k.N)/2] }), "RS256", rsa, "unknown-kid", true},
		"even e":    {change(authztest.JWK(t, rsa.Public(), "k", ""), func(k *jwkset.JWKMarshal) { k.E = "AQAA" }), "RS256", rsa, "unknown-kid", true},
		"X25519":    {jwkset.JWKMarshal{KTY: "OKP", CRV: "X25519", X: strings.Repeat("A", 43), KID: "k"}, "EdDSA", ed, "unknown-kid", true},
		"secp256k1": {change(authztest.JWK(t, ec.Public(), "k", ""), func(k *jwkset.JWKMarshal) { k.CRV = "secp256k1" }), "ES256", ec, "unknown-kid", false},
		"new kty":   {jwkset.JWKMarshal{KTY: "AKP", KID: "k"}, "ES256", ec, "unknown-kid", false},
	} {
		set, err := json.Marshal(jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{tt.key}})
		if err != nil {
			t.Fatal(err)
		}
		var log lockedLog
		a := auth(t, c, authz.Config{Log: slog.New(slog.NewTextHandler(&log, nil)), Issuers: []authz.Issuer{{
			Name: "corp", Issuer: "https://corp.example", Audience: []string{authztest.Audience}, JWKSFile: authztest.WriteFile(t, "jwks.json", set),
		}}})
		corp := authztest.Issuer{URL: "https://corp.example"}
		token := authztest.Sign(t, tt.alg, map[string]any{"alg": tt.alg, "kid": "k"}, corp.Claims("alice", c.now()), tt.signer)
		t.Run(name, func(t *testing.T) {
			if tt.reason == "" {
				accept(t, a, token, nil)
			} else {
				refuse(t, a, token, nil, tt.reason)
			}
			if got := strings.Contains(log.String(), "level=WARN"); got != tt.warned {
				t.Errorf("warned: %v, want %v: %s", got, tt.warned, log.String())
			}
			if secret := tt.key.D + tt.key.K; secret != "" && strings.Contains(log.String(), secret) {
				t.Error("the log holds a secret")
			}
		})
	}
}

// TestSameKeyID: two keys of one id, as some issuers have for two
// algorithms.
func TestSameKeyID(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	first := corp.Key()
	corp.AddKey(t, "1", "EdDSA")
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.File(t)}})
	accept(t, a, corp.Token(t, corp.Claims("alice", c.now())), nil)
	accept(t, a, authztest.Sign(t, "ES256", map[string]any{"alg": "ES256", "kid": "1"}, corp.Claims("alice", c.now()), first), nil)
	refuse(t, a, authztest.Sign(t, "ES256", map[string]any{"alg": "ES256", "kid": "1"}, corp.Claims("alice", c.now()), authztest.NewKey(t, "ES256")), nil, "bad-signature")
}

func TestReloadOfKeyFile(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp, other := authztest.NewIssuer(t, "corp", "ES256"), authztest.NewIssuer(t, "other", "ES256")
	conf, otherConf := corp.File(t), other.File(t)
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{conf, otherConf}})
	old := corp.Token(t, corp.Claims("alice", c.now()))
	otherOld := other.Token(t, other.Claims("bob", c.now()))
	for _, broken := range []string{"", "{", `{"keys":[],"keys":[]}`} {
		if err := os.WriteFile(conf.JWKSFile, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := a.Reload(context.Background()); err == nil || !strings.Contains(err.Error(), `"corp"`) {
			t.Errorf("%q: %v, want an error that names the issuer", broken, err)
		}
		accept(t, a, old, nil)
	}
	// The other issuer's new keys are taken all the same.
	other.AddKey(t, "2", "ES256")
	other.RemoveKey("1")
	other.Write(t, otherConf.JWKSFile)
	if err := a.Reload(context.Background()); err == nil {
		t.Error("no error about the broken file")
	}
	accept(t, a, old, nil)
	refuse(t, a, otherOld, nil, "unknown-kid")
	accept(t, a, other.Token(t, other.Claims("bob", c.now())), nil)
}

func TestConfigRefused(t *testing.T) {
	t.Parallel()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	good := corp.File(t)
	with := func(f func(*authz.Issuer)) authz.Config {
		is := good
		f(&is)
		return authz.Config{Issuers: []authz.Issuer{is}}
	}
	url := func(u string) authz.Config {
		return with(func(i *authz.Issuer) { i.JWKSFile, i.JWKSURL = "", u })
	}
	for name, tt := range map[string]struct {
		conf authz.Config
		says string
	}{
		"no issuer claim":    {with(func(i *authz.Issuer) { i.Issuer = "" }), "any issuer would be accepted"},
		"no audience":        {with(func(i *authz.Issuer) { i.Audience = nil }), "audience is empty"},
		"an empty audience":  {with(func(i *authz.Issuer) { i.Audience = []string{"a", ""} }), "audience is empty"},
		"HS256":              {with(func(i *authz.Issuer) { i.Algorithms = []string{"ES256", "HS256"} }), `"HS256"`},
		"none":               {with(func(i *authz.Issuer) { i.Algorithms = []string{"none"} }), `"none"`},
		"no name":            {with(func(i *authz.Issuer) { i.Name = "" }), "name"},
		"a name with colon":  {with(func(i *authz.Issuer) { i.Name = "a:b" }), "name"},
		"no keys":            {with(func(i *authz.Issuer) { i.JWKSFile = "" }), "key set"},
		"two sources":        {with(func(i *authz.Issuer) { i.JWKSURL = "https://corp.example" }), "key set"},
		"no such file":       {with(func(i *authz.Issuer) { i.JWKSFile = filepath.Join(filepath.Dir(i.JWKSFile), "none") }), "none"},
		"negative lifetime":  {with(func(i *authz.Issuer) { i.MaxLifetime = -1 }), "negative"},
		"http":               {url("http://corp.example/jwks"), "https"},
		"http, this machine": {url("http://127.0.0.1.evil.example/jwks"), "https"},
		"file":               {url("file:///etc/passwd"), "key set"},
		"a password":         {url("https://u:p@corp.example/jwks"), "password"},
		"no host":            {url("https:///jwks"), "key set"},
		"no CA file":         {with(func(i *authz.Issuer) { i.JWKSFile, i.JWKSURL, i.CAFile = "", "https://corp.example", "/none" }), "/none"},
		"an empty CA file": {with(func(i *authz.Issuer) {
			i.JWKSFile, i.JWKSURL, i.CAFile = "", "https://corp.example", authztest.WriteFile(t, "ca", nil)
		}), "no PEM certificate"},
		"twice":           {authz.Config{Issuers: []authz.Issuer{good, good}}, "twice"},
		"leeway":          {authz.Config{Leeway: 61 * time.Second}, "clocks"},
		"name source":     {authz.Config{MTLS: authz.MTLS{Names: []string{"email"}}}, "email"},
		"CRLs without CA": {authz.Config{MTLS: authz.MTLS{CRLFiles: []string{"x"}}}, "CAs"},
		"a bad group":     {authz.Config{Groups: map[string][]string{"a\nb": {"mtls:x"}}}, "printable"},
		"a bad member":    {authz.Config{Groups: map[string][]string{"a": {"alice"}}}, "jwt:<issuer>"},
		"no groups file":  {authz.Config{GroupsFile: "/none"}, "/none"},
	} {
		_, err := authz.NewAuthenticator(context.Background(), tt.conf)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want an error with %q", name, err, tt.says)
		}
		if err != nil && strings.Contains(err.Error(), "u:p@") {
			t.Errorf("%s: the error holds a password: %v", name, err)
		}
	}
	local := url("http://[::1]:1/jwks")
	local.Log = slog.New(slog.DiscardHandler)
	if _, err := authz.NewAuthenticator(context.Background(), local); err != nil {
		t.Errorf("http on this machine: %v", err)
	}
}
