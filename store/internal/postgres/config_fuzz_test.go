package postgres

import (
	"strings"
	"testing"
)

// No error about a URL shows it: it may hold a password, which is refused
// wherever it stands.
func FuzzConfig(f *testing.F) {
	f.Add("postgres://user@db.example:5432/keyhole?sslmode=verify-full")
	f.Add("postgres://user:hunter2hunter2@db.example/keyhole")
	f.Add("postgres://user@db.example/keyhole?password=hunter2hunter2")
	f.Add("postgres://user@db.example/keyhole?sslpassword=hunter2hunter2")
	f.Add("host=db.example password=hunter2hunter2 user=x")
	f.Add("postgres://user@/keyhole?host=/run/hunter2hunter2%00")
	f.Add("postgres://user@[::1/keyhole?sslmode=hunter2hunter2")
	f.Fuzz(func(t *testing.T, url string) {
		s, err := Config{URL: url}.parse()
		if err == nil {
			if s.base.Password != "" {
				t.Fatalf("a password is taken from %q", url)
			}
			return
		}
		if strings.Contains(err.Error(), "hunter2hunter2") {
			t.Fatalf("the error shows a part of the URL: %v", err)
		}
	})
}
