package authz_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"keyhole/authz"
	"keyhole/keys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that a test moves.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// auth starts an Authenticator on a test's clock.
func auth(t testing.TB, c *clock, cfg authz.Config) *authz.Authenticator {
	t.Helper()
	cfg.Now = c.now
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.JWKSTimeout == 0 {
		cfg.JWKSTimeout = time.Minute // for machines that are busy with other tests
	}
	a, err := authz.NewAuthenticator(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// accept authenticates and expects success.
func accept(t testing.TB, a *authz.Authenticator, token string, chain []*x509.Certificate) authz.Principal {
	t.Helper()
	p, err := a.Authenticate(context.Background(), authz.Credentials{Token: token, Chain: chain})
	if err != nil {
		t.Errorf("refused: %v", err)
	}
	return p
}

const denied = "authentication failed: send a valid token of an accepted issuer, an accepted client certificate, or both"

// refuse authenticates and expects a reason, which the caller is not told.
func refuse(t testing.TB, a *authz.Authenticator, token string, chain []*x509.Certificate, reason string) {
	t.Helper()
	p, err := a.Authenticate(context.Background(), authz.Credentials{Token: token, Chain: chain})
	if err == nil {
		t.Errorf("accepted as %s, want the reason %q", p.ID, reason)
		return
	}
	if p.ID != "" || p.Groups != nil || p.Method != "" {
		t.Errorf("a principal comes with the error: %+v", p)
	}
	f, ok := errors.AsType[*authz.Failure](err)
	if !ok || f.Reason != reason {
		t.Errorf("refused with %v, want the reason %q", err, reason)
	}
	forCaller, ok := errors.AsType[*keys.Error](err)
	if !ok || !errors.Is(err, keys.ErrUnauthenticated) || forCaller.Detail != denied {
		t.Errorf("the caller is told %v", forCaller)
	}
}

// textLog logs what tests read. The builder is used by one goroutine only.
func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func writeFile(t testing.TB, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}
