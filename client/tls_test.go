package client_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func whoami(w http.ResponseWriter, r *http.Request) {
	who := api.WhoAmI{Principal: r.Header.Get("Authorization")}
	if len(r.TLS.PeerCertificates) > 0 {
		who.Principal = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	reply(w, 200, who)
}

func TestServerIsVerified(t *testing.T) {
	t.Parallel()
	var n counter
	s, ca := serve(t, func(w http.ResponseWriter, r *http.Request) { n.next(); whoami(w, r) })
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	other := filepath.Join(t.TempDir(), "other.crt")
	newIssuer(t).write(t, "other", other, filepath.Join(t.TempDir(), "other.key"))
	old, oldCA := serve(t, whoami, func(s *httptest.Server) { s.TLS = &tls.Config{MaxVersion: tls.VersionTLS11} })
	for name, cfg := range map[string]client.Config{
		"system roots": {Address: s.URL},
		"another CA":   {Address: s.URL, CACertFile: other},
		"another name": {Address: s.URL, CACertFile: ca, ServerName: "other.example"},
		"no TLS":       {Address: strings.Replace(plain.URL, "http:", "https:", 1), CACertFile: ca},
		"TLS 1.1":      {Address: old.URL, CACertFile: oldCA},
	} {
		c, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		waited := pauses(c)
		_, err = c.WhoAmI(t.Context())
		var conn *client.ConnError
		if !errors.As(err, &conn) || name != "TLS 1.1" && (!conn.Permanent || len(waited()) != 0) {
			t.Errorf("%s: %v after %d pauses, want a permanent ConnError", name, err, len(waited()))
		}
		c.Close()
	}
	if n.count() != 0 {
		t.Error("a request got through")
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "agent.crt"), filepath.Join(dir, "agent.key")
	for _, proto := range [][]func(*httptest.Server){{ca.demand}, {ca.demand, http1}} {
		s, roots := serve(t, whoami, proto...)
		as := func(cfg *client.Config) { cfg.CertFile, cfg.KeyFile, cfg.Token = certFile, keyFile, nil }
		who := func(c *client.Client, want string) {
			t.Helper()
			if got, err := c.WhoAmI(t.Context()); err != nil || got.Principal != want {
				t.Errorf("who: %q, %v, want %q", got.Principal, err, want)
			}
		}
		ca.write(t, "first", certFile, keyFile)
		c := connect(t, s, roots, as)
		who(c, "first")
		ca.write(t, "second", certFile, keyFile)
		who(c, "first") // the connection is still the first one's
		c.Close()
		who(c, "second")
		writeFile(t, keyFile, []byte("half written"))
		c.Close()
		who(c, "second")
		if err := os.Remove(certFile); err != nil {
			t.Fatal(err)
		}
		c.Close()
		who(c, "second")

		// No certificate, or one that the gateway does not know.
		_, err := connect(t, s, roots).WhoAmI(t.Context())
		if !errors.Is(err, keys.ErrUnauthenticated) {
			t.Errorf("without a certificate: %v, want ErrUnauthenticated", err)
		}
		newIssuer(t).write(t, "stranger", certFile, keyFile)
		stranger := connect(t, s, roots, as)
		if _, err := stranger.WhoAmI(t.Context()); !errors.Is(err, keys.ErrUnauthenticated) {
			t.Errorf("with a stranger's certificate: %v, want ErrUnauthenticated", err)
		}
		stranger.Close()
		s.Close()
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	s, ca := serve(t, whoami)
	path := filepath.Join(t.TempDir(), "token")
	writeFile(t, path, []byte("first\n"))
	c := connect(t, s, ca, func(cfg *client.Config) { cfg.Token = client.TokenFile(path) })
	who := func(want string) {
		t.Helper()
		if got, err := c.WhoAmI(t.Context()); err != nil || got.Principal != want {
			t.Errorf("who: %q, %v, want %q", got.Principal, err, want)
		}
	}
	who("Bearer first")
	who("Bearer first")
	writeFile(t, path, []byte("  second-token  \r\n"))
	who("Bearer second-token")
	next := path + ".next" // replaced whole, as by a renewing agent; of the same size
	writeFile(t, next, []byte("third--token"))
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
	who("Bearer third--token")
	for name, text := range map[string]string{"empty": " \n", "two words": "a b", "line break": "a\nb", "control": "a\x00b", "not ASCII": "ä", "huge": strings.Repeat("x", 1<<20)} {
		writeFile(t, path, []byte(text))
		if _, err := c.WhoAmI(t.Context()); !errors.Is(err, keys.ErrUnauthenticated) || strings.Contains(err.Error(), "a b") {
			t.Errorf("%s: %v, want ErrUnauthenticated", name, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WhoAmI(t.Context()); !errors.Is(err, keys.ErrUnauthenticated) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v, want ErrUnauthenticated and ErrNotExist", err)
	}
	writeFile(t, path, []byte("fourth"))
	who("Bearer fourth")

	c = connect(t, s, ca, func(cfg *client.Config) { cfg.Token = client.TokenString(" fixed\n") })
	who("Bearer fixed")
	c = connect(t, s, ca, func(cfg *client.Config) { cfg.Token = nil })
	who("")
	c = connect(t, s, ca, func(cfg *client.Config) { cfg.Token = client.TokenString("") })
	if _, err := c.WhoAmI(t.Context()); !errors.Is(err, keys.ErrUnauthenticated) {
		t.Errorf("an empty token: %v", err)
	}
}

func TestOneTokenFileForManyCalls(t *testing.T) {
	t.Parallel()
	s, ca := serve(t, whoami)
	path := filepath.Join(t.TempDir(), "token")
	writeFile(t, path, []byte("first"))
	c := connect(t, s, ca, func(cfg *client.Config) { cfg.Token = client.TokenFile(path) })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if got, err := c.WhoAmI(t.Context()); err != nil || got.Principal != "Bearer first" && got.Principal != "Bearer later" {
					t.Errorf("who: %+v, %v", got, err)
				}
			}
		})
	}
	wg.Go(func() {
		writeFile(t, path+".next", []byte("later"))
		if err := os.Rename(path+".next", path); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
}
