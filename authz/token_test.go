package authz_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"keyhole/authz"
	"keyhole/authz/authztest"
)

func TestGoodTokens(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			c := newClock()
			corp := authztest.NewIssuer(t, "corp", alg)
			a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.File(t)}})
			claims := corp.Claims("alice", c.now())
			claims["groups"] = []string{"signers", "admins", "signers"}
			got := accept(t, a, corp.Token(t, claims), nil)
			want := authz.Principal{ID: "jwt:corp:alice", Groups: []string{"admins", "signers"}, Method: "jwt", ExpiresAt: c.now().Add(time.Hour)}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTokenOfAnotherLibrary takes a token that golang-jwt had no part in.
func TestTokenOfAnotherLibrary(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "PS384")
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.File(t)}})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.PS384, Key: corp.Key()},
		(&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", "1"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := josejwt.Signed(signer).Claims(corp.Claims("alice", c.now())).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	if p := accept(t, a, token, nil); p.ID != "jwt:corp:alice" {
		t.Errorf("the principal is %q", p.ID)
	}
}

// TestAttacks is every way to be let in that must not work: those of RFC
// 8725, and more. Each starts from a token that would be good.
func TestAttacks(t *testing.T) {
	t.Parallel()
	c := newClock()
	now := c.now()
	corp := authztest.NewIssuer(t, "corp", "RS256")
	other := authztest.NewIssuer(t, "other", "ES256")
	conf := corp.File(t)
	conf.MaxLifetime = 2 * time.Hour
	otherConf := other.File(t)
	otherConf.Algorithms = []string{"ES256"}
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{conf, otherConf}})

	public, err := x509.MarshalPKIXPublicKey(corp.Key().Public())
	if err != nil {
		t.Fatal(err)
	}
	type m = map[string]any
	header := func(change m) m {
		h := m{"alg": "RS256", "typ": "JWT", "kid": "1"}
		maps.Copy(h, change)
		return h
	}
	claims := func(change m) m {
		cl := corp.Claims("alice", now)
		maps.Copy(cl, change)
		return cl
	}
	sign := func(h, cl any) string { return authztest.Sign(t, "RS256", h, cl, corp.Key()) }
	good := sign(header(nil), claims(nil))
	body := func() string { b, _ := json.Marshal(claims(nil)); return string(b) }()
	parts := strings.Split(good, ".")

	accept(t, a, good, nil)
	for name, tt := range map[string]struct{ token, reason string }{
		"nothing":          {"", "no-credentials"},
		"not a token":      {"hello", "malformed-token"},
		"two parts":        {parts[0] + "." + parts[1], "malformed-token"},
		"four parts":       {good + ".x", "malformed-token"},
		"five parts (JWE)": {good + ".x.y", "malformed-token"},
		"only dots":        {"..", "malformed-token"},
		"padding":          {parts[0] + "=." + parts[1] + "." + parts[2], "malformed-token"},
		"a line break":     {good + "\n", "malformed-token"},
		"standard base64":  {parts[0] + "." + parts[1] + "." + parts[2][:10] + "+/" + parts[2][12:], "malformed-token"},
		"too long":         {good + strings.Repeat("A", 8193), "token-too-large"},
		"a huge claim":     {sign(header(nil), claims(m{"x": strings.Repeat("A", 10000)})), "token-too-large"},

		"alg none":               {authztest.Sign(t, "none", header(m{"alg": "none"}), claims(nil), jwt.UnsafeAllowNoneSignatureType), "algorithm"},
		"alg None":               {authztest.Sign(t, "none", header(m{"alg": "None"}), claims(nil), jwt.UnsafeAllowNoneSignatureType), "algorithm"},
		"alg none, signature":    {sign(header(m{"alg": "none"}), claims(nil)), "algorithm"},
		"no alg":                 {sign(header(m{"alg": nil}), claims(nil)), "algorithm"},
		"alg not a string":       {sign(header(m{"alg": 1}), claims(nil)), "malformed-token"},
		"unknown alg":            {sign(header(m{"alg": "ES256K"}), claims(nil)), "algorithm"},
		"HS256 with public key":  {authztest.Sign(t, "HS256", header(m{"alg": "HS256"}), claims(nil), public), "algorithm"},
		"HS256 with PEM":         {authztest.Sign(t, "HS256", header(m{"alg": "HS256"}), claims(nil), authztest.PEM("PUBLIC KEY", public)), "algorithm"},
		"HS256 with empty key":   {authztest.Sign(t, "HS256", header(m{"alg": "HS256"}), claims(nil), []byte{}), "algorithm"},
		"alg of another type":    {sign(header(m{"alg": "ES256"}), claims(nil)), "algorithm"},
		"alg other than the JWK": {authztest.Sign(t, "PS256", header(m{"alg": "PS256"}), claims(nil), corp.Key()), "algorithm"},
		"alg of another issuer":  {sign(header(nil), claims(m{"iss": other.URL})), "algorithm"},
		"alg twice":              {sign(`{"alg":"none","alg":"RS256","kid":"1"}`, claims(nil)), "malformed-token"},
		"alg in capitals":        {sign(`{"ALG":"RS256","kid":"1"}`, claims(nil)), "algorithm"},
		"header not an object":   {sign(`["RS256"]`, claims(nil)), "malformed-token"},
		"header null":            {sign(`null`, claims(nil)), "algorithm"},
		"header not UTF-8":       {sign("{\"alg\":\"RS256\",\"kid\":\"\xff\"}", claims(nil)), "malformed-token"},

		"typ of a logout token": {sign(header(m{"typ": "logout+jwt"}), claims(nil)), "token-type"},
		"typ of a DPoP proof":   {sign(header(m{"typ": "dpop+jwt"}), claims(nil)), "token-type"},
		"typ empty":             {sign(header(m{"typ": ""}), claims(nil)), "token-type"},
		"crit":                  {sign(header(m{"crit": []string{"exp"}}), claims(nil)), "critical-header"},
		"crit empty":            {sign(header(m{"crit": []string{}}), claims(nil)), "critical-header"},
		"crit b64":              {sign(header(m{"crit": []string{"b64"}, "b64": false}), claims(nil)), "critical-header"},
		"own key in the header": {func() string {
			k := authztest.NewKey(t, "RS256")
			return authztest.Sign(t, "RS256", header(m{"jwk": authztest.JWK(t, k.Public(), "1", "RS256")}), claims(nil), k)
		}(), "embedded-key"},
		"jku":       {authztest.Sign(t, "RS256", header(m{"jku": "https://evil.example/jwks", "kid": "1"}), claims(nil), authztest.NewKey(t, "RS256")), "bad-signature"},
		"x5u":       {authztest.Sign(t, "RS256", header(m{"x5u": "https://evil.example/cert", "kid": "1"}), claims(nil), authztest.NewKey(t, "RS256")), "bad-signature"},
		"nested":    {sign(header(m{"cty": "JWT"}), good), "malformed-token"},
		"kid path":  {sign(header(m{"kid": "../../../dev/null"}), claims(nil)), "unknown-kid"},
		"kid SQL":   {sign(header(m{"kid": "1' OR '1'='1"}), claims(nil)), "unknown-kid"},
		"kid empty": {sign(header(m{"kid": ""}), claims(nil)), "unknown-kid"},
		"kid 1":     {sign(header(m{"kid": 1}), claims(nil)), "malformed-token"},

		"another key":          {authztest.Sign(t, "RS256", header(nil), claims(nil), authztest.NewKey(t, "RS256")), "bad-signature"},
		"no signature":         {parts[0] + "." + parts[1] + ".", "bad-signature"},
		"half a signature":     {good[:len(good)-98], "bad-signature"},
		"other claims":         {parts[0] + "." + authztest.Segment(t, claims(m{"sub": "root"})) + "." + parts[2], "bad-signature"},
		"other header":         {authztest.Segment(t, header(m{"x": 1})) + "." + parts[1] + "." + parts[2], "bad-signature"},
		"another issuer's key": {authztest.Sign(t, "ES256", m{"alg": "ES256", "kid": "1"}, claims(nil), other.Key()), "algorithm"},
		"another's name": {authztest.Sign(t, "ES256", m{"alg": "ES256", "kid": "1"},
			other.Claims("alice", now), authztest.NewKey(t, "ES256")), "bad-signature"},

		"unknown issuer":      {sign(header(nil), claims(m{"iss": "https://evil.example"})), "unknown-issuer"},
		"issuer with a slash": {sign(header(nil), claims(m{"iss": corp.URL + "/"})), "unknown-issuer"},
		"no issuer":           {sign(header(nil), claims(m{"iss": nil})), "unknown-issuer"},
		"issuer a list":       {sign(header(nil), claims(m{"iss": []string{corp.URL}})), "malformed-token"},
		"issuer twice":        {sign(header(nil), `{"iss":"https://evil.example",`+body[1:]), "malformed-token"},
		"a member twice":      {sign(header(nil), strings.Replace(body, `"sub"`, `"sub":"root","sub"`, 1)), "malformed-token"},
		"nested twice":        {sign(header(nil), `{"x":{"a":1,"a":2},`+body[1:]), "malformed-token"},
		"claims a list":       {sign(header(nil), `[]`), "malformed-token"},
		"claims null":         {sign(header(nil), `null`), "malformed-token"},
		"two documents":       {sign(header(nil), body+body), "malformed-token"},

		"another audience":    {sign(header(nil), claims(m{"aud": "billing"})), "wrong-audience"},
		"audience in capital": {sign(header(nil), claims(m{"aud": "Keyhole"})), "wrong-audience"},
		"no audience":         {sign(header(nil), claims(m{"aud": nil})), "wrong-audience"},
		"empty audience":      {sign(header(nil), claims(m{"aud": ""})), "wrong-audience"},
		"no audiences":        {sign(header(nil), claims(m{"aud": []string{}})), "wrong-audience"},
		"audience an object":  {sign(header(nil), claims(m{"aud": m{"keyhole": true}})), "malformed-token"},
		"audience mixed":      {sign(header(nil), claims(m{"aud": []any{"keyhole", 1}})), "malformed-token"},

		"expired":               {sign(header(nil), claims(m{"exp": now.Add(-11 * time.Second).Unix()})), "expired"},
		"expired at the leeway": {sign(header(nil), claims(m{"exp": now.Add(-10 * time.Second).Unix()})), "expired"},
		"expires never":         {sign(header(nil), claims(m{"exp": nil})), "exp-missing"},
		"exp zero":              {sign(header(nil), claims(m{"exp": 0})), "expired"},
		"exp negative":          {sign(header(nil), claims(m{"exp": -1})), "malformed-token"},
		"exp text":              {sign(header(nil), claims(m{"exp": "2099-01-01"})), "malformed-token"},
		"exp a number as text":  {sign(header(nil), claims(m{"exp": "9999999999"})), "malformed-token"},
		"exp null":              {sign(header(nil), strings.Replace(body, `"exp":`, `"exp":null,"y":`, 1)), "malformed-token"},
		"exp beyond an int64":   {sign(header(nil), claims(m{"exp": 1e300})), "malformed-token"},
		"not yet valid":         {sign(header(nil), claims(m{"nbf": now.Add(11 * time.Second).Unix()})), "not-yet-valid"},
		"nbf text":              {sign(header(nil), claims(m{"nbf": "now"})), "malformed-token"},
		"issued in the future":  {sign(header(nil), claims(m{"iat": now.Add(11 * time.Second).Unix()})), "issued-in-future"},
		"not issued":            {sign(header(nil), claims(m{"iat": nil})), "iat-missing"},
		"lives too long":        {sign(header(nil), claims(m{"exp": now.Add(2*time.Hour + time.Second).Unix()})), "lifetime"},
		"issued long ago":       {sign(header(nil), claims(m{"iat": now.Add(-90 * time.Minute).Unix()})), "lifetime"},

		"no subject":        {sign(header(nil), claims(m{"sub": nil})), "subject"},
		"empty subject":     {sign(header(nil), claims(m{"sub": ""})), "subject"},
		"subject a number":  {sign(header(nil), claims(m{"sub": 7})), "subject"},
		"subject too long":  {sign(header(nil), claims(m{"sub": strings.Repeat("a", 257)})), "subject"},
		"line break in sub": {sign(header(nil), claims(m{"sub": "alice\n{\"principal\":\"root\"}"})), "subject"},
		"escape in sub":     {sign(header(nil), claims(m{"sub": "\x1b[2J"})), "subject"},
		"bidi in sub":       {sign(header(nil), claims(m{"sub": "ali\u202ece"})), "subject"},
		"groups an object":  {sign(header(nil), claims(m{"groups": m{"admins": true}})), "groups"},
		"groups mixed":      {sign(header(nil), claims(m{"groups": []any{"a", m{}}})), "groups"},
		"an empty group":    {sign(header(nil), claims(m{"groups": []string{""}})), "groups"},
		"a group too long":  {sign(header(nil), claims(m{"groups": []string{strings.Repeat("a", 257)}})), "groups"},
		"too many groups":   {sign(header(nil), claims(m{"groups": strings.Repeat("a ", 257)})), "groups"},
		"NUL in a group":    {sign(header(nil), claims(m{"groups": []string{"a\x00b"}})), "groups"},

		"bound to a key (DPoP)":     {sign(header(nil), claims(m{"cnf": m{"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}})), "cnf-unsupported"},
		"bound in two ways":         {sign(header(nil), claims(m{"cnf": m{"x5t#S256": strings.Repeat("A", 43), "jkt": "x"}})), "cnf-unsupported"},
		"bound to nothing":          {sign(header(nil), claims(m{"cnf": m{}})), "cnf-unsupported"},
		"bound, no object":          {sign(header(nil), claims(m{"cnf": "x"})), "cnf-unsupported"},
		"bound to half a hash":      {sign(header(nil), claims(m{"cnf": m{"x5t#S256": strings.Repeat("A", 22)}})), "cnf-unsupported"},
		"bound to a number":         {sign(header(nil), claims(m{"cnf": m{"x5t#S256": 1}})), "cnf-unsupported"},
		"bound to an absent holder": {sign(header(nil), claims(m{"cnf": m{"x5t#S256": strings.Repeat("A", 43)}})), "cnf-no-certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refuse(t, a, tt.token, nil, tt.reason)
			refuse(t, a, tt.token, nil, tt.reason) // remembered or not
		})
	}
}

// TestForms is what tokens may look like.
func TestForms(t *testing.T) {
	t.Parallel()
	c := newClock()
	now := c.now()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	conf := corp.File(t)
	conf.Audience = []string{"keyhole", "https://keyhole.example"}
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{conf}})
	type m = map[string]any
	for name, tt := range map[string]struct {
		header, claims m
		groups         []string
	}{
		"no typ":             {m{"typ": nil}, nil, nil},
		"typ jwt":            {m{"typ": "jwt"}, nil, nil},
		"typ at+jwt":         {m{"typ": "at+jwt"}, nil, nil},
		"typ in full":        {m{"typ": "application/at+jwt"}, nil, nil},
		"no kid":             {m{"kid": nil}, nil, nil},
		"jku is never read":  {m{"jku": "https://127.0.0.1:1/"}, nil, nil},
		"audiences":          {nil, m{"aud": []string{"x", "https://keyhole.example"}}, nil},
		"expired within":     {nil, m{"exp": now.Add(-9 * time.Second).Unix()}, nil},
		"not yet within":     {nil, m{"nbf": now.Add(9 * time.Second).Unix(), "iat": now.Add(9 * time.Second).Unix()}, nil},
		"parts of seconds":   {nil, m{"exp": float64(now.Unix()) + 0.5}, nil},
		"no iat, no nbf":     {nil, m{"iat": nil, "nbf": nil}, nil},
		"groups":             {nil, m{"groups": []string{"b", "a"}}, []string{"a", "b"}},
		"groups in a string": {nil, m{"groups": " b  a "}, []string{"a", "b"}},
		"groups with spaces": {nil, m{"groups": []string{"Domain Users"}}, []string{"Domain Users"}},
		"a group of letters": {nil, m{"groups": []string{"Größe-ключ"}}, []string{"Größe-ключ"}},
	} {
		h := m{"alg": "ES256", "typ": "JWT", "kid": "1"}
		maps.Copy(h, tt.header)
		cl := corp.Claims("alice", now)
		maps.Copy(cl, tt.claims)
		p := accept(t, a, authztest.Sign(t, "ES256", h, cl, corp.Key()), nil)
		if p.ID != "jwt:corp:alice" || !slices.Equal(p.Groups, tt.groups) {
			t.Errorf("%s: %s in %q, want %q", name, p.ID, p.Groups, tt.groups)
		}
	}
	// null is how some issuers say "none".
	body, _ := json.Marshal(corp.Claims("alice", now))
	accept(t, a, authztest.Sign(t, "ES256", m{"alg": "ES256"}, `{"groups":null,`+string(body)[1:], corp.Key()), nil)
}

func TestClaimNamesAndPrefix(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "EdDSA")
	conf := corp.File(t)
	conf.SubjectClaim, conf.GroupsClaim, conf.GroupPrefix = "client_id", "https://corp.example/roles", "corp/"
	a := auth(t, c, authz.Config{
		Issuers: []authz.Issuer{conf},
		Groups:  map[string][]string{"operators": {"jwt:corp:billing", "mtls:x"}, "corp/dev": {"jwt:corp:billing"}},
	})
	claims := corp.Claims("alice", c.now())
	claims["client_id"], claims["https://corp.example/roles"], claims["groups"] = "billing", []string{"ops", "dev"}, []string{"admins"}
	got := accept(t, a, corp.Token(t, claims), nil)
	want := []string{"corp/dev", "corp/ops", "operators"}
	if got.ID != "jwt:corp:billing" || !slices.Equal(got.Groups, want) {
		t.Errorf("%s in %q, want %q", got.ID, got.Groups, want)
	}
	delete(claims, "client_id")
	refuse(t, a, corp.Token(t, claims), nil, "subject")
}

// TestTwoKeys: with several keys a token must say which signed it.
func TestTwoKeys(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	corp.AddKey(t, "2", "ES256")
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.File(t)}})
	sign := func(header string) string {
		return authztest.Sign(t, "ES256", header, corp.Claims("alice", c.now()), corp.Key())
	}
	accept(t, a, sign(`{"alg":"ES256","kid":"2"}`), nil)
	refuse(t, a, sign(`{"alg":"ES256","kid":"1"}`), nil, "bad-signature")
	refuse(t, a, sign(`{"alg":"ES256"}`), nil, "kid-missing")
	refuse(t, a, sign(`{"alg":"ES256","kid":null}`), nil, "kid-missing")
	refuse(t, a, sign(`{"alg":"ES256","kid":"3"}`), nil, "unknown-kid")
}

func TestConfirmation(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.File(t)}})
	ca := authztest.NewCA(t, "clients", c.now())
	_, chain := ca.Issue(t, named("billing.example.org"), c.now())
	_, others := ca.Issue(t, named("other.example.org"), c.now())

	claims := corp.Claims("alice", c.now())
	sum := thumbprint(chain[0])
	claims["cnf"] = map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum)}
	token := corp.Token(t, claims)
	for range 2 { // the second time it is remembered
		if p := accept(t, a, token, chain); p.ID != "jwt:corp:alice" || p.Method != "jwt+mtls" {
			t.Errorf("principal %+v", p)
		}
		refuse(t, a, token, others, "cnf-mismatch")
		refuse(t, a, token, nil, "cnf-no-certificate")
	}
	sum[31] ^= 1
	claims["cnf"] = map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum)}
	refuse(t, a, corp.Token(t, claims), chain, "cnf-mismatch")
	claims["cnf"] = map[string]any{"x5t#S256": base64.URLEncoding.EncodeToString(sum)}
	refuse(t, a, corp.Token(t, claims), chain, "cnf-unsupported")
}

func TestBothCredentials(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "ES256")
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.File(t)}, Groups: map[string][]string{"ops": {"mtls:billing.example.org"}}})
	ca := authztest.NewCA(t, "clients", c.now())
	short := named("billing.example.org")
	short.NotAfter = c.now().Add(time.Minute)
	_, chain := ca.Issue(t, short, c.now())
	token := corp.Token(t, corp.Claims("alice", c.now()))

	p := accept(t, a, token, chain)
	want := authz.Principal{ID: "jwt:corp:alice", Method: "jwt+mtls", ExpiresAt: c.now().Add(time.Minute), Also: "mtls:billing.example.org"}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("the token does not speak: %s", diff)
	}
	if p := accept(t, a, token, nil); p.Method != "jwt" || !p.ExpiresAt.Equal(c.now().Add(time.Hour)) {
		t.Errorf("the certificate sticks to the token: %+v", p)
	}
	refuse(t, a, token[:len(token)-4]+"AAAA", chain, "bad-signature")
	c.advance(2 * time.Minute)
	refuse(t, a, token, chain, "certificate-expired")
	accept(t, a, token, nil)
}

// TestRemembered: what is remembered is as good as what is verified.
func TestRemembered(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"remembering": 0, "not": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClock()
			corp := authztest.NewIssuer(t, "corp", "ES256")
			conf := corp.File(t)
			a := auth(t, c, authz.Config{Issuers: []authz.Issuer{conf}, CacheSize: size, Leeway: -1})
			token := corp.Token(t, corp.Claims("alice", c.now()))
			accept(t, a, token, nil)
			accept(t, a, token, nil)
			c.advance(time.Hour - time.Nanosecond)
			accept(t, a, token, nil)
			c.advance(time.Nanosecond)
			refuse(t, a, token, nil, "expired")

			// The key is taken back.
			token = corp.Token(t, corp.Claims("alice", c.now()))
			accept(t, a, token, nil)
			corp.AddKey(t, "2", "ES256")
			corp.RemoveKey("1")
			corp.Write(t, conf.JWKSFile)
			accept(t, a, token, nil) // not read yet
			if err := a.Reload(context.Background()); err != nil {
				t.Fatal(err)
			}
			refuse(t, a, token, nil, "unknown-kid")
			accept(t, a, corp.Token(t, corp.Claims("alice", c.now())), nil)
		})
	}
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newClock()
	corp := authztest.NewIssuer(t, "corp", "EdDSA")
	a := auth(t, c, authz.Config{Issuers: []authz.Issuer{corp.File(t)}, CacheSize: 16})
	first := corp.Token(t, corp.Claims("first", c.now()))
	for i := range 200 {
		claims := corp.Claims("alice", c.now())
		claims["jti"] = i
		accept(t, a, corp.Token(t, claims), nil)
	}
	accept(t, a, first, nil)
	if n := a.Remembered(); n > 16 {
		t.Errorf("%d tokens are remembered, want 16 at most", n)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	for _, alg := range []string{"ES256", "RS256"} {
		c := newClock()
		corp := authztest.NewIssuer(b, "corp", alg)
		claims := corp.Claims("alice", c.now())
		claims["groups"] = []string{"signers", "dev"}
		token := authz.Credentials{Token: corp.Token(b, claims)}
		for name, size := range map[string]int{"remembered": 0, "verified": -1} {
			a := auth(b, c, authz.Config{Issuers: []authz.Issuer{corp.File(b)}, CacheSize: size})
			b.Run(alg+"-"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := a.Authenticate(context.Background(), token); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
