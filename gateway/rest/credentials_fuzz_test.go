package rest

import (
	"net/http"
	"strings"
	"testing"
)

// What is no single bearer token is refused, with a failure that shows
// nothing of it; what is one, is taken as it stands.
func FuzzCredentials(f *testing.F) {
	f.Add("Bearer a.b.c", "", false)
	f.Add("bearer  a", "", false)
	f.Add("Bearer", "Bearer b", true)
	f.Add("Basic YTpi", "", false)
	f.Add("Bearer a b", "", false)
	f.Add("Bearer \x00", "", false)
	f.Fuzz(func(t *testing.T, first, second string, both bool) {
		r := &http.Request{Header: http.Header{"Authorization": {first}}}
		if both {
			r.Header["Authorization"] = []string{first, second}
		}
		c, failure := credentials(r)
		if c.Chain != nil || failure != nil && c.Token != "" || failure == nil && c.Token == "" {
			t.Fatalf("%+v, %v", c, failure)
		}
		if failure != nil {
			if failure.Reason == "" || len(first) > 12 && strings.Contains(failure.Error(), first) {
				t.Fatalf("the failure is %q: %v", failure.Reason, failure)
			}
			return
		}
		if both || !strings.HasSuffix(first, c.Token) || len(c.Token) > maxToken || strings.ContainsAny(c.Token, " \t\r\n,;\"") {
			t.Fatalf("%q is taken for the token %q", first, c.Token)
		}
	})
}
