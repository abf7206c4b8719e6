package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"keyhole/audit"
)

func b64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// signedBy is a compact JWS over any header and payload, as they stand.
func (is idp) signedBy(t *testing.T, header, payload string) string {
	t.Helper()
	input := b64url([]byte(header)) + "." + b64url([]byte(payload))
	return input + "." + b64url(is.raw(t, input))
}

// raw is the signature r||s over a signing input.
func (is idp) raw(t *testing.T, input string) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, is.key, sum[:])
	must(t, err)
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return sig
}

// header is that of a good token, with more members.
func (is idp) header(members ...string) string {
	return "{" + strings.Join(append([]string{`"alg":"ES256"`, `"kid":"` + is.kid + `"`}, members...), ",") + "}"
}

// text is the payload of a good token, with changes.
func payloadOf(t *testing.T, changes jwt.MapClaims) string {
	t.Helper()
	b, err := json.Marshal(claims(changes))
	must(t, err)
	return string(b)
}

func publicJWK(key crypto.PublicKey, kid, alg string) string {
	b, _ := json.Marshal(jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: alg, Use: "sig"}) // public keys only: cannot fail
	return string(b)
}

func inUTF16(s string) string {
	var b strings.Builder
	for _, u := range utf16.Encode([]rune(s)) {
		b.WriteByte(byte(u >> 8))
		b.WriteByte(byte(u))
	}
	return b.String()
}

// The attacks on JSON Web Tokens of RFC 8725, section 2, and what section 3
// asks against them, one by one, against the gateway as it runs. Each is
// signed as well as an attacker could, most by the true key of the issuer.
//
// Every one is refused with the same status, headers and body, so that an
// answer does not tell how far a forgery came. How long one takes is not
// measured. What differs is: a token whose issuer, algorithm or key id is not
// known, or which is malformed, costs no signature check, and one with a new
// key id of an issuer with jwks_url may wait for a fetch. Issuers, algorithms
// and key ids are public (they stand in the JWKS and in each token), so that
// this tells nothing new; what is secret or personal (the rest of the claims,
// who is who, whether a certificate fits) is looked at behind the signature
// check. Each refusal is written to the audit log and to the disk before it is
// answered, which takes longer than what differs.
func TestRFC8725(t *testing.T) {
	g := stopped(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	is := g.devIssuer()
	g.put("corp.json", `{"keys":[`+publicJWK(&other.PublicKey, is.kid, "ES256")+","+publicJWK(&rsaKey.PublicKey, "rsa", "RS256")+","+publicJWK(&weak.PublicKey, "weak", "RS256")+`]}`)
	g.edit("keyhole.yaml", "  issuers:\n", "  issuers:\n    - name: corp\n      issuer: https://login.example.com\n      audience: [keyhole]\n"+
		"      algorithms: [ES256, RS256]\n      jwks_file: corp.json\n")
	g.edit("keyhole.yaml", "log:", "limits:\n  failed_login_burst: 100000\nlog:") // each refusal is looked at
	g.put("policies/corp.cedar", `permit (principal == Agent::"jwt:corp:agent", action == Action::"sign", resource);`)
	g.start()
	g.create("payments", "ES256", 0)

	// Nobody who is named in a token is ever called.
	var called atomic.Int64
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			called.Add(1)
			c.Close()
		}
	}()
	url := "https://" + l.Addr().String() + "/keys"

	sign := func(token string) answer {
		return g.call(g.http, token, http.MethodPost, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`)
	}
	corp := idp{other, is.kid}
	ofCorp := jwt.MapClaims{"iss": "https://login.example.com"}
	embedded := publicJWK(&other.PublicKey, is.kid, "ES256")
	publicPEM := func(key crypto.PublicKey) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		must(t, err)
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	good := is.signedBy(t, is.header(), payloadOf(t, nil))
	parts := strings.Split(good, ".")
	mac := func(key []byte, header string) string {
		input := b64url([]byte(header)) + "." + parts[1]
		m := hmac.New(sha256.New, key)
		m.Write([]byte(input))
		return input + "." + b64url(m.Sum(nil))
	}
	unsigned := func(alg string) string {
		return b64url([]byte(`{"alg":"`+alg+`","kid":"`+is.kid+`"}`)) + "." + parts[1] + "."
	}
	der := func(sig []byte) []byte {
		b, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])})
		must(t, err)
		return b
	}
	with := func(members ...string) string { return is.signedBy(t, is.header(members...), payloadOf(t, nil)) }
	claiming := func(changes jwt.MapClaims) string { return is.signedBy(t, is.header(), payloadOf(t, changes)) }
	saying := func(payload string) string { return is.signedBy(t, is.header(), payload) }
	kid := func(kid string) string {
		return is.signedBy(t, `{"alg":"ES256","kid":`+kid+`}`, payloadOf(t, nil))
	}
	replaced := func(old, new string) string { return strings.Replace(payloadOf(t, nil), old, new, 1) }
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	n := elliptic.P256().Params().N.Bytes()

	// The ways in which a good token may look, so that what follows is
	// refused for what it is.
	for what, token := range map[string]string{
		"plain": good, "typ JWT": with(`"typ":"JWT"`), "typ at+jwt": with(`"typ":"application/at+jwt"`), "cty": with(`"cty":"x"`),
		"of the other issuer": corp.signedBy(t, corp.header(), payloadOf(t, ofCorp)), "several audiences": claiming(jwt.MapClaims{"aud": []string{"vault", "keyhole"}}),
		"RS256 of the other issuer": token(t, jwt.SigningMethodRS256, rsaKey, "rsa", claims(ofCorp)),
		"unknown claims":            claiming(jwt.MapClaims{"admin": true, "groups2": []string{"admins"}, "x": map[string]any{"y": []int{1}}}),
		"an unknown header member":  with(`"x":1`), "groups as one string": claiming(jwt.MapClaims{"groups": "agents others"}),
	} {
		if a := sign(token); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}

	attacks := map[string]string{
		// 2.1, 3.1, 3.2: weak signatures, and algorithms that the token chooses.
		"alg none": unsigned("none"), "alg None": unsigned("None"), "alg NONE": unsigned("NONE"), "alg nOnE": unsigned("nOnE"), "alg empty": unsigned(""),
		"alg none with the good signature": b64url([]byte(`{"alg":"none","kid":"`+is.kid+`"}`)) + "." + parts[1] + "." + parts[2],
		"no alg":                           is.signedBy(t, `{"kid":"`+is.kid+`"}`, payloadOf(t, nil)),
		"alg is a list":                    is.signedBy(t, `{"alg":["ES256"],"kid":"`+is.kid+`"}`, payloadOf(t, nil)),
		"alg in another case":              is.signedBy(t, `{"alg":"es256","kid":"`+is.kid+`"}`, payloadOf(t, nil)),
		"signature stripped":               parts[0] + "." + parts[1] + ".",
		"signature and dot stripped":       parts[0] + "." + parts[1],
		"HS256 by the PEM":                 mac(publicPEM(&is.key.PublicKey), `{"alg":"HS256","kid":"`+is.kid+`"}`),
		"HS256 by the JWK":                 mac([]byte(publicJWK(&is.key.PublicKey, is.kid, "ES256")), `{"alg":"HS256","kid":"`+is.kid+`"}`),
		"HS256 by the PEM of the RSA key":  mac(publicPEM(&rsaKey.PublicKey), `{"alg":"HS256","kid":"rsa"}`),
		"HS256 by nothing":                 mac(nil, `{"alg":"HS256","kid":"`+is.kid+`"}`),
		"RS256 with the EC key's kid":      token(t, jwt.SigningMethodRS256, rsaKey, is.kid, claims(ofCorp)),
		"PS256 by a key for RS256":         token(t, jwt.SigningMethodPS256, rsaKey, "rsa", claims(ofCorp)),
		"ES256 by the RSA key's kid":       corp.signedBy(t, `{"alg":"ES256","kid":"rsa"}`, payloadOf(t, ofCorp)),
		"an algorithm not configured":      token(t, jwt.SigningMethodRS512, rsaKey, "rsa", claims(ofCorp)),
		"a weak RSA key":                   token(t, jwt.SigningMethodRS256, weak, "weak", claims(ofCorp)),
		"psychic signature":                parts[0] + "." + parts[1] + "." + b64url(make([]byte, 64)),
		"psychic signature: n, n":          parts[0] + "." + parts[1] + "." + b64url(append(append([]byte{}, n...), n...)),
		"psychic signature: 0, 1":          parts[0] + "." + parts[1] + "." + b64url(append(make([]byte, 63), 1)),
		"signature in DER":                 parts[0] + "." + parts[1] + "." + b64url(der(is.raw(t, parts[0]+"."+parts[1]))),
		"signature of zero bytes more":     good + "AA",
		"signature with padding":           good + "==",
		"signature of other claims":        parts[0] + "." + strings.Split(claiming(jwt.MapClaims{"sub": "admin"}), ".")[1] + "." + parts[2],
		"signature of another header":      strings.Split(with(`"typ":"JWT"`), ".")[0] + "." + parts[1] + "." + parts[2],
		// 2.3, 2.4, 2.5, 3.3: tokens that are encrypted, nested, compressed.
		"an encrypted token":  b64url([]byte(`{"alg":"RSA-OAEP","enc":"A256GCM","cty":"JWT"}`)) + ".AAAA.AAAA.AAAA.AAAA",
		"a nested token":      is.signedBy(t, is.header(`"cty":"JWT"`), `"`+good+`"`),
		"a compressed token":  is.signedBy(t, is.header(`"zip":"DEF"`, `"crit":["zip"]`), payloadOf(t, nil)),
		"an ephemeral key":    b64url([]byte(`{"alg":"ECDH-ES","enc":"A256GCM","epk":`+embedded+`}`)) + "..AAAA.AAAA.AAAA",
		"a password, 2^31 it": b64url([]byte(`{"alg":"PBES2-HS512+A256KW","enc":"A256GCM","p2s":"AAAA","p2c":2147483647}`)) + ".AAAA.AAAA.AAAA.AAAA",
		// 2.6, 3.7: one JSON text, several readings.
		"alg twice":               is.signedBy(t, `{"alg":"none","alg":"ES256","kid":"`+is.kid+`"}`, payloadOf(t, nil)),
		"kid twice":               with(`"kid":"x"`),
		"sub twice":               saying(replaced(`"sub":"agent"`, `"sub":"agent","sub":"admin"`)),
		"aud twice":               saying(replaced(`"sub":"agent"`, `"sub":"agent","aud":"keyhole"`)),
		"sub twice, escaped":      saying(replaced(`"sub":"agent"`, `"sub":"agent","s\u0075b":"admin"`)),
		"a member twice, below":   saying(replaced(`"sub":"agent"`, `"sub":"agent","x":{"y":1,"y":2}`)),
		"claims in UTF-16":        saying(inUTF16(payloadOf(t, nil))),
		"header in UTF-16":        is.signedBy(t, inUTF16(is.header()), payloadOf(t, nil)),
		"a byte order mark":       saying("\ufeff" + payloadOf(t, nil)),
		"text that is not UTF-8":  saying(replaced(`"sub":"agent"`, "\"sub\":\"agent\",\"x\":\"\xff\"")),
		"claims and more":         saying(payloadOf(t, nil) + `{"sub":"admin"}`),
		"claims that are a list":  saying(`[` + payloadOf(t, nil) + `]`),
		"claims that are null":    saying(`null`),
		"a comment":               saying(replaced(`"sub"`, `/**/"sub"`)),
		"a comma too many":        saying(replaced(`"sub":"agent"`, `"sub":"agent",`) + ","),
		"SUB for sub":             saying(replaced(`"sub":`, `"SUB":`)),
		"the JSON serialisation":  `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"two tokens":              good + "." + good,
		"a header that is a list": is.signedBy(t, `[]`, payloadOf(t, nil)),
		"a space in the base64":   parts[0] + ". " + parts[1] + "." + parts[2],
		"unused bits set":         unusedBits(good),
		// 2.7, 3.8, 3.9: tokens meant for others.
		"audience of another":                 claiming(jwt.MapClaims{"aud": "vault"}),
		"audiences of others":                 claiming(jwt.MapClaims{"aud": []string{"vault", "keyhole2", "KEYHOLE"}}),
		"no audience":                         claiming(jwt.MapClaims{"aud": nil}),
		"an empty audience":                   claiming(jwt.MapClaims{"aud": ""}),
		"an empty list of audiences":          claiming(jwt.MapClaims{"aud": []string{}}),
		"an audience with a space":            claiming(jwt.MapClaims{"aud": "keyhole "}),
		"an audience that looks like ours":    claiming(jwt.MapClaims{"aud": "keyh\u043ele"}),
		"an audience that is a number":        claiming(jwt.MapClaims{"aud": 1}),
		"audiences that are not all text":     claiming(jwt.MapClaims{"aud": []any{"keyhole", 1}}),
		"an audience that is an object":       claiming(jwt.MapClaims{"aud": map[string]string{"keyhole": "keyhole"}}),
		"issuer of another, own key":          claiming(ofCorp),
		"issuer's key of another":             corp.signedBy(t, corp.header(), payloadOf(t, nil)),
		"an issuer with a slash more":         claiming(jwt.MapClaims{"iss": "https://keyhole-dev.invalid/"}),
		"an issuer in another case":           claiming(jwt.MapClaims{"iss": "HTTPS://keyhole-dev.invalid"}),
		"a list of issuers":                   claiming(jwt.MapClaims{"iss": []string{"https://keyhole-dev.invalid", "https://login.example.com"}}),
		"no issuer":                           claiming(jwt.MapClaims{"iss": nil}),
		"no subject":                          claiming(jwt.MapClaims{"sub": nil}),
		"an empty subject":                    claiming(jwt.MapClaims{"sub": ""}),
		"a subject that is a list":            claiming(jwt.MapClaims{"sub": []string{"agent"}}),
		"a subject with a line break":         claiming(jwt.MapClaims{"sub": "agent\n{\"seq\":1}"}),
		"a subject with NUL":                  claiming(jwt.MapClaims{"sub": "agent\x00admin"}),
		"a subject that turns the text":       claiming(jwt.MapClaims{"sub": "agent\u202enimda"}),
		"a subject of 300 bytes":              claiming(jwt.MapClaims{"sub": strings.Repeat("a", 300)}),
		"groups that are an object":           claiming(jwt.MapClaims{"groups": map[string]bool{"admins": true}}),
		"300 groups":                          claiming(jwt.MapClaims{"groups": strings.Fields(strings.Repeat("g ", 300))}),
		"bound to a certificate":              claiming(jwt.MapClaims{"cnf": map[string]string{"x5t#S256": b64url(make([]byte, 32))}}),
		"bound to a key":                      claiming(jwt.MapClaims{"cnf": map[string]any{"jkt": b64url(make([]byte, 32))}}),
		"bound to a certificate and a key":    claiming(jwt.MapClaims{"cnf": map[string]any{"x5t#S256": b64url(make([]byte, 32)), "jwk": map[string]string{"kty": "EC"}}}),
		"bound to nothing":                    claiming(jwt.MapClaims{"cnf": map[string]any{}}),
		"bound to null":                       claiming(jwt.MapClaims{"cnf": json.RawMessage("null")}),
		"claims larger than any token may be": claiming(jwt.MapClaims{"x": strings.Repeat("x", 9000)}),
		// Times.
		"no expiry": claiming(jwt.MapClaims{"exp": nil}), "expired": claiming(jwt.MapClaims{"exp": at(-time.Minute)}), "expiry 0": claiming(jwt.MapClaims{"exp": 0}),
		"a negative expiry": claiming(jwt.MapClaims{"exp": -1}), "an expiry as text": claiming(jwt.MapClaims{"exp": fmt.Sprint(at(time.Hour))}),
		"an expiry of null": claiming(jwt.MapClaims{"exp": json.RawMessage("null")}), "an endless expiry": claiming(jwt.MapClaims{"exp": json.RawMessage("1e308")}),
		"an expiry beyond numbers": claiming(jwt.MapClaims{"exp": json.RawMessage("1e400")}), "an expiry of 2^63": claiming(jwt.MapClaims{"exp": json.RawMessage("9223372036854775808")}),
		"an expiry in 80 years": claiming(jwt.MapClaims{"exp": at(80 * 365 * 24 * time.Hour)}), "an expiry in milliseconds": claiming(jwt.MapClaims{"exp": time.Now().Add(time.Hour).UnixMilli()}),
		"not yet valid": claiming(jwt.MapClaims{"nbf": at(time.Minute)}), "nbf as text": claiming(jwt.MapClaims{"nbf": "0"}), "nbf of true": claiming(jwt.MapClaims{"nbf": true}),
		"issued in the future": claiming(jwt.MapClaims{"iat": at(time.Hour)}), "no time of issue": claiming(jwt.MapClaims{"iat": nil}), "issued in 1970": claiming(jwt.MapClaims{"iat": 0}),
		// 2.8, 3.11: another kind of token.
		"typ logout+jwt": with(`"typ":"logout+jwt"`), "typ dpop+jwt": with(`"typ":"dpop+jwt"`), "typ secevent+jwt": with(`"typ":"secevent+jwt"`),
		"typ JOSE": with(`"typ":"JOSE"`), "typ that is a number": with(`"typ":1`), "typ empty": with(`"typ":""`), "typ null and a second": with(`"typ":null`, `"typ":"JWT"`),
		// 2.9, 3.10: keys that the token brings, or has fetched.
		"jwk of the attacker":             corp.signedBy(t, corp.header(`"jwk":`+embedded), payloadOf(t, nil)),
		"jwk beside the true signature":   with(`"jwk":` + embedded),
		"jwk of null":                     with(`"jwk":null`),
		"jku":                             corp.signedBy(t, corp.header(`"jku":"`+url+`"`), payloadOf(t, nil)),
		"x5u":                             corp.signedBy(t, corp.header(`"x5u":"`+url+`"`), payloadOf(t, nil)),
		"x5c":                             corp.signedBy(t, corp.header(`"x5c":["MIIB"]`), payloadOf(t, nil)),
		"crit exp":                        with(`"crit":["exp"]`),
		"crit empty":                      with(`"crit":[]`),
		"crit null":                       with(`"crit":null`),
		"crit that is unknown":            with(`"crit":["http://example.com/x"]`, `"http://example.com/x":true`),
		"crit b64":                        with(`"crit":["b64"]`, `"b64":false`),
		"kid unknown":                     kid(`"nobody"`),
		"kid empty":                       kid(`""`),
		"kid a number":                    kid(`1`),
		"kid a list":                      kid(`["` + is.kid + `"]`),
		"kid with a path":                 kid(`"../../../../dev/null"`),
		"kid with SQL":                    kid(`"x' UNION SELECT 'AAAA';--"`),
		"kid with a command":              kid(`"x|/bin/true"`),
		"kid with a URL":                  kid(`"` + url + `"`),
		"kid with a NUL":                  kid(`"` + is.kid + `\u0000"`),
		"kid of 4000 bytes":               kid(`"` + strings.Repeat("k", 4000) + `"`),
		"kid absent, by another's key":    corp.signedBy(t, `{"alg":"ES256"}`, payloadOf(t, nil)),
		"kid absent, where there are two": corp.signedBy(t, `{"alg":"ES256"}`, payloadOf(t, ofCorp)),
		"a header 2800 levels deep":       corp.signedBy(t, corp.header(`"x":`+strings.Repeat("[", 2800)+strings.Repeat("]", 2800)), payloadOf(t, nil)),
	}
	bodies, headers, ids := map[string]string{}, map[string]string{}, map[string]string{}
	for what, token := range attacks {
		a := sign(token)
		if a.status == http.StatusOK {
			t.Errorf("%s: is let in", what)
			continue
		}
		id := a.refused(http.StatusUnauthorized, "unauthenticated").RequestID
		ids[id] = what
		if strings.ContainsAny(token, "{ =") && !strings.HasSuffix(token, "==") { // no form of a bearer token at all
			continue
		}
		bodies[strings.ReplaceAll(string(a.body), id, "ID")] = what
		h := a.header.Clone()
		h.Del("Date")
		headers[strings.ReplaceAll(fmt.Sprint(h), id, "ID")] = what
	}
	if len(bodies) != 1 || len(headers) != 1 {
		t.Errorf("the refusals tell what was wrong:\n%v\n%v", bodies, headers)
	}
	if n := called.Load(); n != 0 {
		t.Errorf("somebody whom a token names was called %d times", n)
	}
	sign(good).want(http.StatusOK)
	g.stop()
	for _, r := range g.records() { // the log is whole, and each attack is in it under nobody's name
		if what, attacked := ids[r.RequestID]; attacked {
			if r.Outcome != audit.OutcomeDenied || r.Principal != "" || r.Reason == "" {
				t.Errorf("%s: recorded as %+v", what, r)
			}
			delete(ids, r.RequestID)
		}
	}
	if len(ids) > 0 {
		t.Errorf("not recorded: %v", ids)
	}
}

// unusedBits is a token in another spelling: bits of the last character of
// its signature that decode to nothing are set.
func unusedBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + alphabet[last^1:last^1+1]
}
