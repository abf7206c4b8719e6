package client_test

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"keyhole/client"
)

// An address that is taken leads to one host over TLS, or to this machine.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{"https://keyhole.example:8443/prefix/", "http://127.0.0.1:1", "http://[::1]", "keyhole.example:8443", "https://user:pass@h", "http://localhost.evil"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		c, err := client.New(client.Config{Address: address})
		if err != nil {
			return
		}
		u, err := url.Parse(c.Address())
		if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(u.Path, "/") {
			t.Fatalf("%q became %q, %v", address, c.Address(), err)
		}
		ip, err := netip.ParseAddr(u.Hostname())
		if local := u.Hostname() == "localhost" || err == nil && ip.IsLoopback(); u.Scheme != "https" && (u.Scheme != "http" || !local) {
			t.Fatalf("%q was taken: it is %q", address, c.Address())
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"7", "-1", "99999999999999", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"} {
		f.Add(seed)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		if d := client.RetryAfter(text, now); d < 0 {
			t.Fatalf("%q is %s", text, d)
		}
	})
}
