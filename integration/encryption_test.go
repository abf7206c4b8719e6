package integration

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyhole/gateway/api"
	"keyhole/keys"
)

const secret = "Alice, DE02 1203 0000 0000 2020 51"

// A ciphertext opens with the key and the aad that it was made with. Changed
// in any part, cut, under another name or with another aad it does not, and
// the caller is not told which of these it was.
func TestEnvelope(t *testing.T) {
	g := newGateway(t)
	g.create("vault", "A256GCM", 0)
	g.create("other", "A256GCM", 0)
	g.create("payments", "ES256", 0)
	c := g.as(agent)
	made, err := c.Encrypt(t.Context(), "vault", api.EncryptRequest{Plaintext: []byte(secret), AAD: []byte("row 17")})
	must(t, err)
	again, err := c.Encrypt(t.Context(), "vault", api.EncryptRequest{Plaintext: []byte(secret), AAD: []byte("row 17")})
	must(t, err)
	prefix, body, ok := strings.Cut(strings.TrimPrefix(made.Ciphertext, "kh1:"), ":")
	if !ok || prefix != "vault.v1" || made.Ciphertext == again.Ciphertext || strings.Contains(made.Ciphertext, secret) {
		t.Fatalf("%s and %s", made.Ciphertext, again.Ciphertext)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	must(t, err)
	pack := func(id string, raw []byte) string {
		return "kh1:" + id + ":" + base64.RawURLEncoding.EncodeToString(raw)
	}

	opened, err := c.Decrypt(t.Context(), "vault", api.DecryptRequest{Ciphertext: pack("vault.v1", raw), AAD: []byte("row 17")})
	if err != nil || string(opened.Plaintext) != secret || opened.KeyID != "vault.v1" {
		t.Fatalf("%+v, %v", opened, err)
	}

	g.rotate("vault") // so that there is a vault.v2
	refusals := map[string]bool{}
	refuse := func(what, key, ciphertext, aad string) {
		t.Helper()
		_, err := c.Decrypt(t.Context(), key, api.DecryptRequest{Ciphertext: ciphertext, AAD: []byte(aad)})
		if !errors.Is(err, keys.ErrDecrypt) {
			t.Errorf("%s: %v, want %v", what, err, keys.ErrDecrypt)
		}
		var detail *keys.Error
		if errors.As(err, &detail) {
			refusals[detail.Detail] = true
		}
	}
	refuse("another aad", "vault", made.Ciphertext, "row 18")
	refuse("no aad", "vault", made.Ciphertext, "")
	refuse("another version's name", "vault", pack("vault.v2", raw), "row 17")
	for _, at := range []int{20, len(raw) / 2, len(raw) - 1} { // in the wrapped key, in between, in the tag
		flipped := append([]byte(nil), raw...)
		flipped[at] ^= 1
		refuse("a changed byte", "vault", pack("vault.v1", flipped), "row 17")
	}
	refuse("cut in the tag", "vault", pack("vault.v1", raw[:len(raw)-1]), "row 17")
	refuse("something behind it", "vault", pack("vault.v1", append(raw[:len(raw):len(raw)], 0)), "row 17")
	if len(refusals) > 1 {
		t.Errorf("refusals tell what was wrong: %v", refusals)
	}

	// What cannot be a ciphertext of that key is a mistake, and named.
	for what, body := range map[string]string{
		"another key's":  `{"ciphertext":"` + pack("other.v1", raw) + `"}`,
		"no ciphertext":  `{"ciphertext":"hello"}`,
		"empty":          `{"ciphertext":"kh1:vault.v1:"}`,
		"another format": `{"ciphertext":"kh2:vault.v1:` + body + `"}`,
		"cut to a stump": `{"ciphertext":"` + pack("vault.v1", raw[:10]) + `"}`,
		"padded base64":  `{"ciphertext":"` + made.Ciphertext + `="}`,
	} {
		a := g.post(agent, "/v1/keys/vault/decrypt", body)
		if a.status != 422 {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	// Under another key's name it is opened as that key's, and does not open.
	refuse("relabelled for another key", "other", pack("other.v1", raw), "row 17")
	g.post(agent, "/v1/keys/payments/decrypt", `{"ciphertext":"`+pack("payments.v1", raw)+`"}`).refused(422, "wrong_purpose")

	// rewrap moves it to the active version, and the old one still opens.
	moved, err := c.Rewrap(t.Context(), "vault", api.RewrapRequest{Ciphertext: made.Ciphertext, AAD: []byte("row 17")})
	must(t, err)
	if moved.KeyID != "vault.v2" || moved.FromVersion != 1 || !strings.HasPrefix(moved.Ciphertext, "kh1:vault.v2:") {
		t.Errorf("rewrapped to %+v", moved)
	}
	for _, ciphertext := range []string{made.Ciphertext, again.Ciphertext, moved.Ciphertext} {
		opened, err := c.Decrypt(t.Context(), "vault", api.DecryptRequest{Ciphertext: ciphertext, AAD: []byte("row 17")})
		if err != nil || string(opened.Plaintext) != secret {
			t.Errorf("%+v, %v", opened, err)
		}
	}
}

// A data key comes from the HSM, is sealed as any plaintext is, and is not
// shown where that is declined.
func TestDataKeys(t *testing.T) {
	g := newGateway(t)
	g.create("vault", "A256GCM", 0)
	c, no := g.as(agent), false
	seen := map[string]bool{}
	for _, bits := range []int{128, 256} {
		k, err := c.DataKey(t.Context(), "vault", api.DataKeyRequest{Bits: bits, AAD: []byte("backup")})
		must(t, err)
		opened, err := c.Decrypt(t.Context(), "vault", api.DecryptRequest{Ciphertext: k.Ciphertext, AAD: []byte("backup")})
		must(t, err)
		if len(k.Plaintext) != bits/8 || string(opened.Plaintext) != string(k.Plaintext) || seen[string(k.Plaintext)] {
			t.Errorf("%d bits: %d bytes; opened %d bytes", bits, len(k.Plaintext), len(opened.Plaintext))
		}
		seen[string(k.Plaintext)] = true
	}
	k, err := c.DataKey(t.Context(), "vault", api.DataKeyRequest{Plaintext: &no})
	if err != nil || k.Plaintext != nil {
		t.Errorf("a key that was not to be shown: %d bytes, %v", len(k.Plaintext), err)
	}
}

// Any JOSE library can encrypt to a key from its JWKS, without the gateway
// (Debian's jose is none of them: it has no RSA-OAEP).
// So can someone with openssl and RFC 7516 at hand.
func TestJWEMadeByOthers(t *testing.T) {
	g := newGateway(t)
	g.create("inbox", "RSA-OAEP", 2048)
	var set jose.JSONWebKeySet
	must(t, json.Unmarshal([]byte(g.keyhole(agent, "jwks", "inbox")), &set))
	pem := write(t, filepath.Join(t.TempDir(), "inbox.pem"), g.keyhole(agent, "key", "public", "inbox"))
	g.rotate("inbox") // what was made for version 1 has to open after this

	e, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.KeyAlgorithm(set.Keys[0].Algorithm), Key: &set.Keys[0]}, nil)
	must(t, err)
	object, err := e.Encrypt([]byte(secret))
	must(t, err)
	byGoJOSE, err := object.CompactSerialize()
	must(t, err)
	byHand := handmadeJWE(t, pem, `{"alg":"RSA-OAEP","enc":"A256GCM","kid":"inbox.v1"}`, secret)
	for maker, jwe := range map[string]string{"go-jose": byGoJOSE, "openssl": byHand} {
		file := write(t, filepath.Join(t.TempDir(), "jwe"), jwe+"\n")
		if got := g.keyhole(agent, "decrypt", "inbox", file); got != secret {
			t.Errorf("by %s: opened %q", maker, got)
		}
		for i := range 5 {
			parts := strings.Split(jwe, ".")
			parts[i] = flip(t, parts[i])
			s := g.cli(agent, "decrypt", "inbox", write(t, file, strings.Join(parts, ".")))
			if s.code == 0 || s.out != "" {
				t.Errorf("by %s, part %d changed: status %d, %q", maker, i, s.code, s.out)
			}
		}
	}
	// The header is bound to the text: the same key and text under another one.
	parts := strings.Split(byHand, ".")
	parts[0] = base64.RawURLEncoding.EncodeToString([]byte(`{"enc":"A256GCM","alg":"RSA-OAEP","kid":"inbox.v1"}`))
	g.post(agent, "/v1/keys/inbox/decrypt", `{"jwe":"`+strings.Join(parts, ".")+`"}`).refused(422, "decryption_failed")
	none := handmadeJWE(t, pem, `{"alg":"RSA1_5","enc":"A256GCM","kid":"inbox.v1"}`, secret)
	if a := g.post(agent, "/v1/keys/inbox/decrypt", `{"jwe":"`+none+`"}`); a.status != 422 {
		t.Errorf("a header with another algorithm: %d %s", a.status, a.body)
	}
}

// flip changes the first byte of a part in base64.
func flip(t *testing.T, part string) string {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(part)
	must(t, err)
	b[0] ^= 1
	return base64.RawURLEncoding.EncodeToString(b)
}

// handmadeJWE makes a compact JWE by RFC 7516, section 5.1: openssl wraps the
// content key.
func handmadeJWE(t *testing.T, pem, header, plaintext string) string {
	t.Helper()
	dir := t.TempDir()
	cek, iv := make([]byte, 32), make([]byte, 12)
	rand.Read(cek)
	rand.Read(iv)
	in, out := write(t, filepath.Join(dir, "cek"), string(cek)), filepath.Join(dir, "wrapped")
	if ok, said := tool(t, "openssl", "pkeyutl", "-encrypt", "-pubin", "-inkey", pem, "-in", in, "-out", out, "-pkeyopt", "rsa_padding_mode:oaep"); !ok {
		t.Fatal(said)
	}
	wrapped, err := os.ReadFile(out)
	must(t, err)
	enc := base64.RawURLEncoding.EncodeToString
	block, err := aes.NewCipher(cek)
	must(t, err)
	gcm, err := cipher.NewGCM(block)
	must(t, err)
	sealed := gcm.Seal(nil, iv, []byte(plaintext), []byte(enc([]byte(header))))
	n := len(sealed) - gcm.Overhead()
	return strings.Join([]string{enc([]byte(header)), enc(wrapped), enc(iv), enc(sealed[:n]), enc(sealed[n:])}, ".")
}
