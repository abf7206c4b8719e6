package integration

import (
	"bytes"
	"compress/flate"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"keyhole/gateway/api"
)

// publicOf is the public key of a version, from its PEM.
func (g *gateway) publicOf(key api.Key) crypto.PublicKey {
	g.t.Helper()
	block, _ := pem.Decode([]byte(key.Versions[0].PublicKey))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	must(g.t, err)
	return pub
}

// The attacks of RFC 8725 against signatures that Keyhole itself makes: what
// an attacker makes of a JWS is not valid, whatever its header says of how to
// judge it.
func TestRFC8725Verify(t *testing.T) {
	g := newGateway(t)
	key := g.create("payments", "ES256", 0)
	g.create("orders", "ES256", 0)
	rsaOf := g.publicOf(g.create("legacy", "RS256", 2048)).(*rsa.PublicKey)
	g.create("mac", "HS256", 0)
	attacker, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	foreign := idp{attacker, "payments.v1"}

	var signed api.SignResponse
	g.post(agent, "/v1/keys/payments/sign", `{"payload":"`+base64.StdEncoding.EncodeToString([]byte(text))+`","format":"jws"}`).want(http.StatusOK).into(&signed)
	verify := func(key, jws string, more ...string) (valid bool) {
		a := g.post(agent, "/v1/keys/"+key+"/verify", fmt.Sprintf(`{"jws":%q%s}`, jws, strings.Join(more, "")))
		if a.status != http.StatusOK {
			if a.status/100 != 4 {
				t.Errorf("%.80s: %d %s", jws, a.status, a.body)
			}
			return false
		}
		var v api.VerifyResponse
		a.into(&v)
		if !v.Valid && v.Reason == "" {
			t.Errorf("%.80s: no reason", jws)
		}
		return v.Valid
	}
	if !verify("payments", signed.JWS) {
		t.Fatal("what Keyhole signed is not valid")
	}
	p := strings.Split(signed.JWS, ".")
	header := func(members string) string { return b64url([]byte("{" + members + "}")) }
	spki, err := x509.MarshalPKIXPublicKey(g.publicOf(key))
	must(t, err)
	mac := func(secret []byte, head string) string {
		m := hmac.New(sha256.New, secret)
		m.Write([]byte(head + "." + p[1]))
		return head + "." + p[1] + "." + b64url(m.Sum(nil))
	}
	raw, err := base64.RawURLEncoding.DecodeString(p[2])
	must(t, err)
	order := elliptic.P256().Params().N
	r, s := new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])
	two := func(a, b *big.Int) string {
		sig := make([]byte, 64)
		return b64url(append(a.FillBytes(sig[:32:32]), b.FillBytes(sig[32:])...))
	}
	inDER, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	must(t, err)
	// PKCS#1 v1.5 with an exponent of 3 and lax padding was the forgery of 2006; here a block that begins right and ends in garbage.
	block := make([]byte, rsaOf.Size())
	copy(block, []byte{0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0})
	attackerJWK := publicJWK(&attacker.PublicKey, "payments.v1", "ES256")

	for what, jws := range map[string]string{
		"alg none": header(`"alg":"none","kid":"payments.v1"`) + "." + p[1] + ".", "alg NoNe": header(`"alg":"NoNe","kid":"payments.v1"`) + "." + p[1] + ".",
		"alg none and a signature":              header(`"alg":"none","kid":"payments.v1"`) + "." + p[1] + "." + p[2],
		"no alg":                                header(`"kid":"payments.v1"`) + "." + p[1] + "." + p[2],
		"HS256 by the PEM":                      mac([]byte(key.Versions[0].PublicKey), header(`"alg":"HS256","kid":"payments.v1"`)),
		"HS256 by the DER":                      mac(spki, header(`"alg":"HS256","kid":"payments.v1"`)),
		"HS256 by the PEM, for the key of MACs": mac([]byte(key.Versions[0].PublicKey), header(`"alg":"HS256","kid":"mac.v1"`)),
		"HS256 by an empty secret":              mac(nil, header(`"alg":"HS256","kid":"mac.v1"`)),
		"another curve":                         header(`"alg":"ES384","kid":"payments.v1"`) + "." + p[1] + "." + p[2],
		"another's key":                         foreign.signedBy(t, `{"alg":"ES256","kid":"payments.v1"}`, text),
		"jwk":                                   foreign.signedBy(t, `{"alg":"ES256","kid":"payments.v1","jwk":`+attackerJWK+`}`, text),
		"jku":                                   foreign.signedBy(t, `{"alg":"ES256","kid":"payments.v1","jku":"https://127.0.0.1:1/"}`, text),
		"x5u":                                   foreign.signedBy(t, `{"alg":"ES256","kid":"payments.v1","x5u":"https://127.0.0.1:1/"}`, text),
		"x5c":                                   foreign.signedBy(t, `{"alg":"ES256","kid":"payments.v1","x5c":["MIIB"]}`, text),
		"crit":                                  foreign.signedBy(t, `{"alg":"ES256","kid":"payments.v1","crit":["exp"],"exp":1}`, text),
		"b64":                                   foreign.signedBy(t, `{"alg":"ES256","kid":"payments.v1","crit":["b64"],"b64":false}`, text),
		"alg twice":                             header(`"alg":"none","alg":"ES256","kid":"payments.v1"`) + "." + p[1] + "." + p[2],
		"ALG and alg":                           header(`"ALG":"none","alg":"ES256","kid":"payments.v1"`) + "." + p[1] + "." + p[2],
		"kid of another key":                    header(`"alg":"ES256","kid":"orders.v1"`) + "." + p[1] + "." + p[2],
		"kid of a version that is not there":    header(`"alg":"ES256","kid":"payments.v2"`) + "." + p[1] + "." + p[2],
		"kid of version 2^32+1":                 header(`"alg":"ES256","kid":"payments.v4294967297"`) + "." + p[1] + "." + p[2],
		"kid in another spelling":               header(`"alg":"ES256","kid":"payments.v01"`) + "." + p[1] + "." + p[2],
		"kid with a path":                       header(`"alg":"ES256","kid":"../orders.v1"`) + "." + p[1] + "." + p[2],
		"kid with SQL":                          header(`"alg":"ES256","kid":"' OR 1=1 --.v1"`) + "." + p[1] + "." + p[2],
		"no kid":                                header(`"alg":"ES256"`) + "." + p[1] + "." + p[2],
		"a header in another spelling":          header(`"kid":"payments.v1","alg":"ES256"`) + "." + p[1] + "." + p[2],
		"another payload":                       p[0] + "." + b64url([]byte(text+"x")) + "." + p[2],
		"no payload":                            p[0] + ".." + p[2],
		"no signature":                          p[0] + "." + p[1] + ".",
		"psychic signature":                     p[0] + "." + p[1] + "." + b64url(make([]byte, 64)),
		"psychic signature of the order":        p[0] + "." + p[1] + "." + two(order, order),
		"s and the order":                       p[0] + "." + p[1] + "." + b64url(append(raw[:32:32], new(big.Int).Add(s, order).Bytes()...)),
		"signature in DER":                      p[0] + "." + p[1] + "." + b64url(inDER),
		"signature and more":                    signed.JWS + "AAAA",
		"signature with padding":                signed.JWS + "==",
		"a line break":                          p[0] + "." + p[1] + ".\\n" + p[2],
		"unused bits set":                       unusedBits(signed.JWS),
		"the JSON serialisation":                `{"protected":"` + p[0] + `","payload":"` + p[1] + `","signature":"` + p[2] + `"}`,
		"a JWE":                                 signed.JWS + ".AAAA.AAAA",
		"PKCS#1 padding that ends early":        header(`"alg":"RS256","kid":"legacy.v1"`) + "." + p[1] + "." + b64url(block),
		"RSA signature 0":                       header(`"alg":"RS256","kid":"legacy.v1"`) + "." + p[1] + "." + b64url(make([]byte, rsaOf.Size())),
		"RSA signature 1":                       header(`"alg":"RS256","kid":"legacy.v1"`) + "." + p[1] + "." + b64url(append(make([]byte, rsaOf.Size()-1), 1)),
		"PS256 for a key of RS256":              header(`"alg":"PS256","kid":"legacy.v1"`) + "." + p[1] + "." + b64url(block),
	} {
		for _, key := range []string{"payments", "orders", "legacy", "mac"} {
			if verify(key, jws) {
				t.Errorf("%s is valid for %s", what, key)
			}
		}
	}
	if verify("payments", signed.JWS, `,"version":2`) || verify("payments", signed.JWS, `,"payload":"eA=="`) || verify("payments", signed.JWS, `,"hash":"sha-512"`) {
		t.Error("a JWS is judged by what stands beside it")
	}
	// A signature by one key's version is none by another key, raw as well.
	a := g.post(agent, "/v1/keys/orders/verify", `{"payload":"`+base64.StdEncoding.EncodeToString([]byte(p[0]+"."+p[1]))+`","version":1,"signature":"`+base64.StdEncoding.EncodeToString(raw)+`"}`)
	var v api.VerifyResponse
	if a.want(http.StatusOK).into(&v); v.Valid {
		t.Error("it is valid by another key")
	}
	g.stop()
}

// The attacks against JWEs: only RSA-OAEP with A256GCM is opened, nothing is
// inflated, no work is done at the sender's choice, and what does not open
// says no more than that.
func TestRFC8725Decrypt(t *testing.T) {
	g := stopped(t)
	g.edit("keyhole.yaml", "log:", "limits:\n  failed_decrypt_burst: 100000\nlog:")
	g.start()
	key := g.create("inbox", "RSA-OAEP", 2048)
	g.create("other", "RSA-OAEP", 2048)
	public := g.publicOf(key).(*rsa.PublicKey)
	cek := make([]byte, 32)
	_, _ = rand.Read(cek)
	wrap := func(key []byte) []byte {
		out, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, public, key, nil)
		must(t, err)
		return out
	}
	seal := func(header string, key, content []byte) string {
		protected := b64url([]byte(header))
		block, err := aes.NewCipher(key)
		must(t, err)
		gcm, err := cipher.NewGCM(block)
		must(t, err)
		iv := make([]byte, 12)
		_, _ = rand.Read(iv)
		out := gcm.Seal(nil, iv, content, []byte(protected))
		return strings.Join([]string{protected, b64url(wrap(key)), b64url(iv), b64url(out[:len(out)-16]), b64url(out[len(out)-16:])}, ".")
	}
	const alg = `"alg":"RSA-OAEP","enc":"A256GCM","kid":"inbox.v1"`
	decrypt := func(jwe string) answer {
		return g.post(agent, "/v1/keys/inbox/decrypt", fmt.Sprintf(`{"jwe":%q}`, jwe))
	}
	good := seal("{"+alg+"}", cek, []byte(text))
	var opened api.DecryptResponse
	if decrypt(good).want(http.StatusOK).into(&opened); string(opened.Plaintext) != text {
		t.Fatalf("%+v", opened)
	}

	// 100 MiB of zeros in a body of some 100 KiB.
	var bomb bytes.Buffer
	w, err := flate.NewWriter(&bomb, flate.BestCompression)
	must(t, err)
	for range 100 {
		_, err := w.Write(make([]byte, 1<<20))
		must(t, err)
	}
	must(t, w.Close())
	ephemeral := `{"kty":"EC","crv":"P-256","x":"gTxfUNm3TH9hrhlzW6BM2BWBeKy5O6hxWRBEdmVYHDI","y":"_w4uSZZi0ysNvBSv5VdpQtyXhbHCAPeghE_thBRCAL0"}`
	p := strings.Split(good, ".")
	for what, jwe := range map[string]string{
		"a compression bomb":              seal("{"+alg+`,"zip":"DEF"}`, cek, bomb.Bytes()),
		"crit":                            seal("{"+alg+`,"crit":["exp"],"exp":1}`, cek, []byte(text)),
		"an embedded key":                 seal("{"+alg+`,"jwk":`+ephemeral+`}`, cek, []byte(text)),
		"jku":                             seal("{"+alg+`,"jku":"https://127.0.0.1:1/"}`, cek, []byte(text)),
		"alg twice":                       seal("{"+alg+`,"alg":"dir"}`, cek, []byte(text)),
		"a point that is on no curve":     seal(`{"alg":"ECDH-ES+A256KW","enc":"A256GCM","kid":"inbox.v1","epk":`+ephemeral+`}`, cek, []byte(text)),
		"alg dir":                         seal(`{"alg":"dir","enc":"A256GCM","kid":"inbox.v1"}`, cek, []byte(text)),
		"alg none":                        seal(`{"alg":"none","enc":"A256GCM","kid":"inbox.v1"}`, cek, []byte(text)),
		"alg RSA1_5":                      seal(`{"alg":"RSA1_5","enc":"A256GCM","kid":"inbox.v1"}`, cek, []byte(text)),
		"alg RSA-OAEP-256":                seal(`{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"inbox.v1"}`, cek, []byte(text)),
		"a password, 2^31 times":          seal(`{"alg":"PBES2-HS512+A256KW","enc":"A256GCM","kid":"inbox.v1","p2s":"AAAA","p2c":2147483647}`, cek, []byte(text)),
		"enc A128GCM":                     seal(`{"alg":"RSA-OAEP","enc":"A128GCM","kid":"inbox.v1"}`, cek[:16], []byte(text)),
		"enc A256CBC-HS512":               seal(`{"alg":"RSA-OAEP","enc":"A256CBC-HS512","kid":"inbox.v1"}`, cek, []byte(text)),
		"a content key of 128 bits":       seal("{"+alg+"}", cek[:16], []byte(text)),
		"a content key of another JWE":    strings.Join([]string{p[0], b64url(wrap(make([]byte, 32))), p[2], p[3], p[4]}, "."),
		"kid of another key":              seal(strings.Replace("{"+alg+"}", "inbox", "other", 1), cek, []byte(text)),
		"kid of no version":               seal(strings.Replace("{"+alg+"}", ".v1", ".v2", 1), cek, []byte(text)),
		"no kid":                          seal(`{"alg":"RSA-OAEP","enc":"A256GCM"}`, cek, []byte(text)),
		"another header":                  strings.Join([]string{b64url([]byte("{" + alg + `,"x":1}`)), p[1], p[2], p[3], p[4]}, "."),
		"a tag of 8 bytes":                strings.Join([]string{p[0], p[1], p[2], p[3], p[4][:11]}, "."),
		"a tag of zero bytes":             strings.Join([]string{p[0], p[1], p[2], p[3], ""}, "."),
		"an IV of 16 bytes":               strings.Join([]string{p[0], p[1], b64url(make([]byte, 16)), p[3], p[4]}, "."),
		"a wrapped key of 0":              strings.Join([]string{p[0], b64url(make([]byte, 256)), p[2], p[3], p[4]}, "."),
		"a wrapped key above the modulus": strings.Join([]string{p[0], b64url(bytes.Repeat([]byte{255}, 256)), p[2], p[3], p[4]}, "."),
		"a wrapped key of 512 bytes":      strings.Join([]string{p[0], b64url(make([]byte, 512)), p[2], p[3], p[4]}, "."),
		"no wrapped key":                  strings.Join([]string{p[0], "", p[2], p[3], p[4]}, "."),
		"the tag changed":                 strings.Join([]string{p[0], p[1], p[2], p[3], b64url(make([]byte, 16))}, "."),
		"a JWS":                           strings.Join(p[:3], "."),
		"the JSON serialisation":          `{"protected":"` + p[0] + `","encrypted_key":"` + p[1] + `","iv":"` + p[2] + `","ciphertext":"` + p[3] + `","tag":"` + p[4] + `"}`,
	} {
		if a := decrypt(jwe); a.status/100 != 4 || bytes.Contains(a.body, []byte("plaintext\":")) {
			t.Errorf("%s: %d %.200s", what, a.status, a.body)
		}
	}

	// What is the shape of a JWE and does not open answers alike, whichever
	// layer refused it (Bleichenbacher, Manger): there is no oracle.
	said := map[string]string{}
	for what, jwe := range map[string]string{
		"the wrapped key is random":      strings.Join([]string{p[0], b64url(append(append([]byte{0}, cek...), make([]byte, 223)...)), p[2], p[3], p[4]}, "."),
		"the wrapped key is 0":           strings.Join([]string{p[0], b64url(make([]byte, 256)), p[2], p[3], p[4]}, "."),
		"the wrapped key is 1":           strings.Join([]string{p[0], b64url(append(make([]byte, 255), 1)), p[2], p[3], p[4]}, "."),
		"the wrapped key is too large":   strings.Join([]string{p[0], b64url(bytes.Repeat([]byte{255}, 256)), p[2], p[3], p[4]}, "."),
		"another content key":            strings.Join([]string{p[0], b64url(wrap(make([]byte, 32))), p[2], p[3], p[4]}, "."),
		"a content key of 16 bytes":      strings.Join([]string{p[0], b64url(wrap(make([]byte, 16))), p[2], p[3], p[4]}, "."),
		"a content key of 100 bytes":     strings.Join([]string{p[0], b64url(wrap(make([]byte, 100))), p[2], p[3], p[4]}, "."),
		"the wrapped key is a byte less": strings.Join([]string{p[0], b64url(make([]byte, 255)), p[2], p[3], p[4]}, "."),
		"the content was changed":        strings.Join([]string{p[0], p[1], p[2], b64url([]byte("x")), p[4]}, "."),
		"the tag was changed":            strings.Join([]string{p[0], p[1], p[2], p[3], b64url(make([]byte, 16))}, "."),
		"the IV was changed":             strings.Join([]string{p[0], p[1], b64url(make([]byte, 12)), p[3], p[4]}, "."),
	} {
		a := decrypt(jwe)
		id := a.refused(http.StatusUnprocessableEntity, "decryption_failed").RequestID
		h := a.header.Clone()
		h.Del("Date")
		said[strings.ReplaceAll(fmt.Sprint(h, string(a.body)), id, "ID")] = what
	}
	if len(said) != 1 {
		t.Errorf("the answers differ by what did not open: %v", said)
	}
	decrypt(good).want(http.StatusOK)
	g.alive()
	g.stop()
}
