package authz_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode"

	"keyhole/authz"
	"keyhole/authz/authztest"
	"keyhole/keys"
)

// judged checks what holds for the answer to any credentials.
func judged(t *testing.T, p authz.Principal, err error) {
	t.Helper()
	if err != nil {
		f, ok := errors.AsType[*authz.Failure](err)
		if !ok || !slices.Contains(authz.Reasons(), f.Reason) || !errors.Is(err, keys.ErrUnauthenticated) {
			t.Errorf("refused with %v", err)
		}
		return
	}
	unprintable := func(s string) bool {
		return s == "" || len(s) > 512 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
	}
	if !strings.HasPrefix(p.ID, "jwt:corp:") || unprintable(p.ID) || slices.ContainsFunc(p.Groups, unprintable) || p.ExpiresAt.IsZero() {
		t.Errorf("accepted as %+v", p)
	}
}

// FuzzToken: whatever is sent as a token, the answer is a reason.
func FuzzToken(f *testing.F) {
	c := newClock()
	corp := authztest.NewIssuer(f, "corp", "ES256")
	a := auth(f, c, authz.Config{Issuers: []authz.Issuer{corp.File(f)}})
	good := corp.Token(f, corp.Claims("alice", c.now()))
	for _, seed := range []string{good, good + ".", "..", "eyJhbGciOiJub25lIn0.e30.", strings.Repeat("A", 9000)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		p, err := a.Authenticate(context.Background(), authz.Credentials{Token: token})
		judged(t, p, err)
		if err == nil && token != good {
			t.Error("accepted a token that was not issued")
		}
	})
}

// FuzzClaims: whatever an issuer signs, what comes out is fit for a log.
func FuzzClaims(f *testing.F) {
	c := newClock()
	corp := authztest.NewIssuer(f, "corp", "EdDSA")
	a := auth(f, c, authz.Config{Issuers: []authz.Issuer{corp.File(f)}, CacheSize: -1})
	head := `{"alg":"EdDSA"}`
	f.Add(head, `{"iss":"https://corp.example","sub":"alice","aud":"keyhole","exp":1782910800}`)
	f.Add(head, `{"iss":"https://corp.example","sub":"alice","aud":["a","keyhole"],"exp":1782910800.5,"groups":["a","b"],"cnf":{"jkt":"x"}}`)
	f.Add(`{"alg":"EdDSA","kid":"1","typ":"at+jwt"}`, `{"iss":"https://corp.example","sub":"\u202e","aud":"keyhole","exp":1e9,"groups":"a b"}`)
	f.Add(`{"alg":"none","alg":"EdDSA"}`, `{}`)
	f.Fuzz(func(t *testing.T, header, payload string) {
		token := authztest.Sign(t, "EdDSA", header, payload, corp.Key())
		p, err := a.Authenticate(context.Background(), authz.Credentials{Token: token})
		judged(t, p, err)
	})
}

func FuzzPolicies(f *testing.F) {
	f.Add([]byte(policyText))
	f.Add([]byte(`@id("a") permit(principal, action == Action::"sing", resource) when { context.x like "*" };`))
	f.Add([]byte(`forbid(principal is Agent in Group::"x", action in [Action::"sign"], resource) unless { resource.getTag("a") == "b" };`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := authz.ParsePolicies(data)
		if err != nil && (n != 0 || !strings.Contains(err.Error(), "fuzz.cedar")) {
			t.Errorf("%d policies and %v", n, err)
		}
	})
}

func FuzzGroups(f *testing.F) {
	f.Add([]byte("admins: [jwt:corp:alice, mtls:spiffe://example.org/x]\n"))
	f.Add([]byte("a: &a [mtls:x]\nb: *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := authz.ParseGroups(data); err != nil && err.Error() == "" {
			t.Error("an error without text")
		}
	})
}

func FuzzCases(f *testing.F) {
	f.Add([]byte(caseText))
	f.Add([]byte("- &a {allow: x, action: random}\n- *a\n"))
	p := load(f, policyText)
	f.Fuzz(func(t *testing.T, data []byte) {
		cases, err := authz.ParseCases(data)
		if (err == nil) != (len(cases) > 0) {
			t.Errorf("%d cases and %v", len(cases), err)
		}
		for _, r := range authz.RunCases(p.p, cases) {
			if r.OK == (r.Problem != "") {
				t.Errorf("result %+v", r)
			}
		}
	})
}
