package crl_test

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"keyhole/authz/authztest"
	"keyhole/authz/internal/crl"
)

// FuzzLoad: no list counts that the CA did not sign.
func FuzzLoad(f *testing.F) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	ca := authztest.NewCA(f, "clients", now)
	_, good := ca.Issue(f, x509.Certificate{DNSNames: []string{"good"}}, now)
	_, bad := ca.Issue(f, x509.Certificate{DNSNames: []string{"bad"}}, now)
	der := ca.CRL(f, now, now.Add(time.Hour), bad[0])
	f.Add(der)
	f.Add(authztest.PEM("X509 CRL", der, der))
	f.Add(authztest.PEM("CERTIFICATE", ca.Cert.Raw))
	f.Add([]byte("-----BEGIN X509 CRL-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(t.TempDir(), "list.crl")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		lists, err := crl.Load([]string{file}, []*x509.Certificate{ca.Cert}, now)
		if (lists == nil) != (err != nil) {
			t.Fatalf("lists %v, %v", lists, err)
		}
		if lists == nil {
			return
		}
		if err := lists.Check(good[0], now); err != nil {
			t.Errorf("the good certificate: %v", err)
		}
		if err := lists.Check(bad[0], now); !errors.Is(err, crl.ErrRevoked) {
			t.Errorf("the bad certificate: %v", err)
		}
	})
}

func TestNoLists(t *testing.T) {
	t.Parallel()
	now := time.Now()
	_, chain := authztest.NewCA(t, "clients", now).Issue(t, x509.Certificate{}, now)
	var none *crl.Lists
	for _, l := range []*crl.Lists{none, {}} {
		if err := l.Check(chain[0], now); !errors.Is(err, crl.ErrMissing) {
			t.Errorf("got %v", err)
		}
		if files := l.Expired(now); files != nil {
			t.Errorf("expired: %q", files)
		}
	}
}
