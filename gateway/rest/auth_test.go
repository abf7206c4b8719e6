package rest_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/authz/authztest"
	"keyhole/gateway/api"
)

func TestCredentialsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	good := s.issuer.Token(t, s.issuer.Claims("agent", time.Now()))
	claims := func(change func(map[string]any)) string {
		c := s.issuer.Claims("agent", time.Now())
		change(c)
		return "Bearer " + s.issuer.Token(t, c)
	}
	stranger := authztest.NewIssuer(t, "corp", "ES256")
	for name, tt := range map[string]struct {
		header []string
		reason string
	}{
		"basic":         {[]string{"Basic YTpi"}, "other-scheme"},
		"no scheme":     {[]string{good}, "other-scheme"},
		"DPoP":          {[]string{"DPoP " + good}, "other-scheme"},
		"empty":         {[]string{""}, "other-scheme"},
		"no token":      {[]string{"Bearer"}, "malformed-token"},
		"spaces":        {[]string{"Bearer   "}, "malformed-token"},
		"two tokens":    {[]string{"Bearer " + good + " " + good}, "malformed-token"},
		"a comma":       {[]string{"Bearer " + good + ",Bearer x"}, "malformed-token"},
		"too long":      {[]string{"Bearer " + strings.Repeat("a", 20<<10)}, "malformed-token"},
		"rubbish":       {[]string{"Bearer x"}, "malformed-token"},
		"two headers":   {[]string{"Bearer " + good, "Bearer " + good}, "several-headers"},
		"expired":       {[]string{claims(func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() })}, "expired"},
		"not yet valid": {[]string{claims(func(c map[string]any) { c["nbf"] = time.Now().Add(time.Hour).Unix() })}, "not-yet-valid"},
		"other issuer":  {[]string{claims(func(c map[string]any) { c["iss"] = "https://other.example" })}, "unknown-issuer"},
		"for others":    {[]string{claims(func(c map[string]any) { c["aud"] = "other" })}, "wrong-audience"},
		"no expiry":     {[]string{claims(func(c map[string]any) { c["exp"] = nil })}, "exp-missing"},
		"forged":        {[]string{"Bearer " + stranger.Token(t, s.issuer.Claims("agent", time.Now()))}, "bad-signature"},
	} {
		c := s.nobody(t)
		c.header["Authorization"] = tt.header
		res := c.post("/v1/keys/payments/sign", `{"payload":""}`)
		detail := res.refused(401, "unauthenticated")
		if got := res.header.Get("WWW-Authenticate"); got != `Bearer realm="keyhole", error="invalid_token"` {
			t.Errorf("%s: the challenge is %q", name, got)
		}
		recs := s.recorded(t, res)
		if len(recs) != 1 || recs[0].Outcome != audit.OutcomeDenied || recs[0].Reason != tt.reason {
			t.Errorf("%s: recorded %+v, want %s", name, recs, tt.reason)
		}
		for _, text := range []string{detail, s.log.String(), s.access.String()} {
			if strings.Contains(text, good) {
				t.Errorf("%s: the token is shown", name)
			}
		}
	}
	c := s.nobody(t)
	c.header.Set("Authorization", "bearer  "+good) // the scheme has any case, and 1*SP behind it
	c.get("/v1/whoami").want(200)
}

func TestWhoAmI(t *testing.T) {
	t.Parallel()
	s := start(t)
	if who := read[api.WhoAmI](s.as(t, "agent").get("/v1/whoami").want(200)); who.Principal != "jwt:corp:agent" || who.Method != "jwt" || who.ExpiresAt.IsZero() || len(who.Groups) != 1 {
		t.Errorf("with a token: %+v", who)
	}
	cert := s.with(t, "signer")
	if who := read[api.WhoAmI](cert.get("/v1/whoami").want(200)); who.Principal != "mtls:signer" || who.Method != "mtls" || who.Groups == nil {
		t.Errorf("with a certificate: %+v", who)
	}
	cert.header = s.as(t, "agent").header
	if who := read[api.WhoAmI](cert.get("/v1/whoami").want(200)); who.Principal != "jwt:corp:agent" || who.Method != "jwt+mtls" {
		t.Errorf("with both: %+v", who)
	}
	// A good certificate does not make up for a bad token.
	for _, header := range []string{"Bearer x", "Basic YTpi"} {
		cert.header = http.Header{"Authorization": {header}}
		cert.get("/v1/whoami").refused(401, "unauthenticated")
	}
}

func TestWhatOneMayNotSeeIsNotThere(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent, signer, other := s.as(t, "agent"), s.with(t, "signer"), s.as(t, "other")
	calls := func(c *caller, key string) []*response {
		return []*response{
			c.post("/v1/keys/"+key+"/sign", `{"payload":""}`), c.post("/v1/keys/"+key+"/sign/batch", `{"items":[{"payload":""}]}`),
			c.get("/v1/keys/" + key), c.get("/v1/keys/" + key + "/jwks.json"), c.post("/v1/admin/keys/"+key+"/rotate", `{}`),
			c.post("/v1/admin/keys/"+key+"/versions/1/revoke", `{}`), c.do("PATCH", "/v1/admin/keys/"+key, strings.NewReader(`{}`)),
		}
	}
	for _, c := range []*caller{agent, other} {
		hidden, none := calls(c, "hidden"), calls(c, "nosuch")
		for i := range hidden {
			a, b := hidden[i].refused(404, "key_not_found"), none[i].refused(404, "key_not_found")
			if a != strings.ReplaceAll(b, "nosuch", "hidden") {
				t.Errorf("%s: %q, and of a key that is not there %q", hidden[i].what, a, b)
			}
			if recs := s.recorded(t, hidden[i]); len(recs) != 1 || recs[0].Outcome != audit.OutcomeDenied || recs[0].Key != "hidden" {
				t.Errorf("%s: recorded %+v", hidden[i].what, recs)
			}
		}
	}
	signer.post("/v1/keys/payments/sign", `{"payload":""}`).want(200)
	signer.post("/v1/keys/payments/verify", `{"payload":"","signature":"","version":1}`).refused(404, "key_not_found")
	agent.post("/v1/admin/keys/payments/rotate", `{}`).refused(403, "forbidden") // it may read the key
	agent.post("/v1/admin/keys", `{"name":"mine","algorithm":"ES256"}`).refused(403, "forbidden")
	signer.post("/v1/random", `{"bytes":1}`).refused(403, "forbidden")
	if list := read[api.KeyList](agent.get("/v1/keys").want(200)); len(list.Keys) != 2 {
		t.Errorf("the agent sees %+v", list)
	}
	if list := read[api.KeyList](signer.get("/v1/keys").want(200)); len(list.Keys) != 0 {
		t.Errorf("the signer sees %+v", list)
	}
}

// A flood without credentials costs at most a bounded number of audit lines.
func TestFloodsWithoutCredentials(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) {
		k.gateway.Limits = authz.NewLimiter(authz.LimiterConfig{FailedLogins: 1e-6, FailedLoginBurst: 5})
	})
	before := len(s.records(t))
	basic := s.nobody(t).set("Authorization", "Basic YTpi")
	limited := 0
	for range 20 {
		for _, res := range []*response{
			s.nobody(t).get("/v1/keys"), s.nobody(t).get("/v1/jwks.json"), s.nobody(t).get("/v1/keys/payments/jwks.json"), basic.get("/none"), s.nobody(t).get("/v1/jwks.json?x=1"),
			s.nobody(t).get("/v1//keys"),
		} {
			if res.status == 429 {
				limited++
				if res.header.Get("Retry-After") == "" {
					t.Error("429 without Retry-After")
				}
			}
		}
	}
	if n := len(s.records(t)) - before; n > 6 || limited == 0 {
		t.Errorf("%d records, %d answers of 429", n, limited)
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) {
		k.gateway.Limits = authz.NewLimiter(authz.LimiterConfig{Rate: 1e-6, Burst: 4})
	})
	agent := s.as(t, "agent")
	for range 4 {
		agent.post("/v1/keys/payments/sign", `{"payload":""}`).want(200)
	}
	res := agent.post("/v1/keys/payments/sign", `{"payload":""}`)
	res.refused(429, "rate_limited")
	if after := res.header.Get("Retry-After"); after == "" || after == "0" {
		t.Errorf("Retry-After is %q", after)
	}
}
