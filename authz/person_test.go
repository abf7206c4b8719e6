package authz_test

import (
	"testing"

	"keyhole/authz"
)

func TestSamePerson(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b []string
		want bool
	}{
		{[]string{"jwt:corp:alice"}, []string{"jwt:corp:alice"}, true},
		{[]string{"jwt:corp:alice"}, []string{"jwt:corp:bob"}, false},
		{[]string{"jwt:corp:alice"}, []string{"jwt:other:alice"}, true},
		{[]string{"jwt:corp:alice"}, []string{"jwt:corp:Alice"}, true},
		{[]string{"jwt:corp:alice"}, []string{"mtls:alice"}, true},
		{[]string{"jwt:corp:alice"}, []string{"mtls:ALICE"}, true},
		{[]string{"jwt:corp:idp:alice"}, []string{"mtls:alice"}, true},
		{[]string{"mtls:spiffe://corp/alice"}, []string{"mtls:spiffe://corp/bob"}, false},
		{[]string{"mtls:spiffe://corp/alice"}, []string{"jwt:corp:spiffe://corp/alice"}, true},
		// A caller with a token and a certificate is both.
		{[]string{"jwt:corp:root", "mtls:alice"}, []string{"jwt:corp:bob", "mtls:alice"}, true},
		{[]string{"jwt:corp:root", "mtls:alice"}, []string{"jwt:other:alice"}, true},
		{[]string{"jwt:corp:root", "mtls:alice"}, []string{"jwt:corp:bob", "mtls:laptop-7"}, false},
		{nil, []string{"jwt:corp:bob"}, false},
	} {
		if got := authz.SamePerson(tt.a, tt.b); got != tt.want {
			t.Errorf("%q, %q: %v", tt.a, tt.b, got)
		}
		if got := authz.SamePerson(tt.b, tt.a); got != tt.want {
			t.Errorf("%q, %q: %v the other way round", tt.b, tt.a, got)
		}
	}
}

func TestIdentities(t *testing.T) {
	t.Parallel()
	if got := (authz.Principal{ID: "jwt:corp:a"}).Identities(); len(got) != 1 || got[0] != "jwt:corp:a" {
		t.Errorf("%q", got)
	}
	if got := (authz.Principal{ID: "jwt:corp:a", Also: "mtls:b"}).Identities(); len(got) != 2 || got[1] != "mtls:b" {
		t.Errorf("%q", got)
	}
}
