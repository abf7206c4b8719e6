package gateway_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
)

func TestEncryptAndDecrypt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	for name, alg := range map[string]keys.Algorithm{"mail": keys.A256GCM, "rsa": keys.RSAOAEP256, "sha1": keys.RSAOAEP} {
		w.key(name, alg)
		for _, aad := range [][]byte{nil, {}, []byte("row 7")} {
			for _, plaintext := range [][]byte{{}, []byte("hello"), bytes.Repeat([]byte("x"), 100_000)} {
				w.news()
				c := of(w.Encrypt(ctx, alice, name, api.EncryptRequest{Plaintext: plaintext, AAD: aad})).ok(t)
				if c.Key != name || c.Version != 1 || c.KeyID != name+".v1" || !strings.HasPrefix(c.Ciphertext, "kh1:"+name+".v1:") {
					t.Errorf("%s: %+v", name, c)
				}
				if r := w.record(); r.Action != "encrypt" || r.Outcome != audit.OutcomeOK || r.KeyID != name+".v1" || r.Size != int64(len(plaintext)) ||
					r.Algorithm != string(alg) || r.Purpose != "encrypt" {
					t.Errorf("%s: recorded as %+v", name, r)
				}
				p := of(w.Decrypt(ctx, alice, name, api.DecryptRequest{Ciphertext: c.Ciphertext, AAD: aad})).ok(t)
				if !bytes.Equal(p.Plaintext, plaintext) || p.Plaintext == nil && len(plaintext) > 0 || p.Version != 1 || p.State != "active" || p.KeyID != name+".v1" {
					t.Errorf("%s: %+v", name, p)
				}
				if r := w.record(); r.Action != "decrypt" || r.Outcome != audit.OutcomeOK || r.KeyID != name+".v1" || r.Size != int64(len(c.Ciphertext)) {
					t.Errorf("%s: recorded as %+v", name, r)
				}
			}
		}
	}
}

func TestSameTextTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("mail", keys.A256GCM)
	a := of(w.Encrypt(t.Context(), alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t)
	b := of(w.Encrypt(t.Context(), alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t)
	if a.Ciphertext == b.Ciphertext {
		t.Error("two ciphertexts of the same text are the same")
	}
}

// Whatever is wrong with a ciphertext, what comes back is one of few errors,
// and never a plaintext; all that does not open is one answer.
func TestCiphertextsThatDoNotOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	for _, name := range []string{"mail", "post"} {
		w.key(name, keys.A256GCM)
	}
	w.key("rsa", keys.RSAOAEP256)
	w.key("payments", keys.ES256)
	w.rotate("mail")
	good := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("hello"), AAD: []byte("row 7")})).ok(t).Ciphertext
	rsa := of(w.Encrypt(ctx, alice, "rsa", api.EncryptRequest{Plaintext: []byte("hello"), AAD: []byte("row 7")})).ok(t).Ciphertext
	prefix, body := "kh1:mail.v2:", strings.TrimPrefix(good, "kh1:mail.v2:")
	if body == good {
		t.Fatal(good)
	}
	flip := func(text string, i int) string {
		head := text[:strings.LastIndexByte(text, ':')+1]
		bin, err := base64.RawURLEncoding.DecodeString(text[len(head):])
		if err != nil {
			t.Fatal(err)
		}
		bin[(i+len(bin))%len(bin)] ^= 1
		return head + base64.RawURLEncoding.EncodeToString(bin)
	}
	in := func(ciphertext, aad string) api.DecryptRequest {
		r := api.DecryptRequest{Ciphertext: ciphertext}
		if aad != "" {
			r.AAD = []byte(aad)
		}
		return r
	}
	details := map[string]bool{}
	for what, tt := range map[string]struct {
		key  string
		in   api.DecryptRequest
		kind error
	}{
		"no aad":            {"mail", in(good, ""), keys.ErrDecrypt},
		"another aad":       {"mail", in(good, "row 8"), keys.ErrDecrypt},
		"wrap IV":           {"mail", in(flip(good, 1), "row 7"), keys.ErrDecrypt},
		"wrapped key":       {"mail", in(flip(good, 20), "row 7"), keys.ErrDecrypt},
		"payload IV":        {"mail", in(flip(good, -30), "row 7"), keys.ErrDecrypt},
		"payload":           {"mail", in(flip(good, -17), "row 7"), keys.ErrDecrypt},
		"tag":               {"mail", in(flip(good, -1), "row 7"), keys.ErrDecrypt},
		"the older version": {"mail", in("kh1:mail.v1:"+body, "row 7"), keys.ErrDecrypt},
		"relabelled":        {"post", in("kh1:post.v1:"+body, "row 7"), keys.ErrDecrypt},
		"RSA, aad":          {"rsa", in(rsa, "row 8"), keys.ErrDecrypt},
		"RSA, wrapped key":  {"rsa", in(flip(rsa, 20), "row 7"), keys.ErrDecrypt},
		"RSA, payload":      {"rsa", in(flip(rsa, -1), "row 7"), keys.ErrDecrypt},
		"AES under RSA":     {"rsa", in("kh1:rsa.v1:"+body, "row 7"), keys.ErrDecrypt},
		"RSA under AES":     {"post", in("kh1:post.v1:"+strings.TrimPrefix(rsa, "kh1:rsa.v1:"), "row 7"), keys.ErrDecrypt},
		"of another key":    {"post", in(good, "row 7"), keys.ErrInvalid},
		"no such version":   {"mail", in("kh1:mail.v9:"+body, "row 7"), keys.ErrVersionNotFound},
		"cut":               {"mail", in(prefix+body[:60], "row 7"), keys.ErrInvalid},
		"nothing behind":    {"mail", in(prefix, "row 7"), keys.ErrInvalid},
		"no prefix":         {"mail", in(body, "row 7"), keys.ErrInvalid},
		"neither":           {"mail", api.DecryptRequest{}, keys.ErrInvalid},
		"both":              {"mail", api.DecryptRequest{Ciphertext: good, JWE: "a.b.c.d.e"}, keys.ErrInvalid},
		"JWE with aad":      {"rsa", api.DecryptRequest{JWE: "a.b.c.d.e", AAD: []byte("x")}, keys.ErrInvalid},
		"JWE of four parts": {"rsa", api.DecryptRequest{JWE: "a.b.c.d"}, keys.ErrInvalid},
		"by a signing key":  {"payments", in("kh1:payments.v1:"+body, "row 7"), keys.ErrWrongPurpose},
	} {
		w.news()
		got := of(w.Decrypt(ctx, alice, tt.key, tt.in))
		if !errors.Is(got.err, tt.kind) {
			t.Errorf("%s: %v, want %v", what, got.err, tt.kind)
		}
		got.fails(t, tt.kind)
		if errors.Is(got.err, keys.ErrDecrypt) {
			details[api.ProblemOf(got.err).Detail] = true
		}
		if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != api.CodeOf(tt.kind) || r.Key != tt.key {
			t.Errorf("%s: recorded as %+v", what, r)
		}
		if tt.in.JWE == "" {
			w.news()
			of(w.Rewrap(ctx, alice, tt.key, api.RewrapRequest{Ciphertext: tt.in.Ciphertext, AAD: tt.in.AAD})).fails(t, tt.kind)
			if r := w.record(); r.Action != "rewrap" || r.Outcome != audit.OutcomeError {
				t.Errorf("%s: recorded as %+v", what, r)
			}
		}
	}
	if len(details) != 1 {
		t.Errorf("ciphertexts that do not open are told apart: %v", details)
	}
	of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{})).fails(t, keys.ErrInvalid)
	of(w.Encrypt(ctx, alice, "payments", api.EncryptRequest{Plaintext: []byte("x")})).fails(t, keys.ErrWrongPurpose)
	of(w.DataKey(ctx, alice, "payments", api.DataKeyRequest{})).fails(t, keys.ErrWrongPurpose)
}

func TestVersionsThatEncryptedBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("mail", keys.A256GCM)
	old := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x"), AAD: []byte("a")})).ok(t).Ciphertext
	w.rotate("mail")
	in := api.DecryptRequest{Ciphertext: old, AAD: []byte("a")}
	if p := of(w.Decrypt(ctx, alice, "mail", in)).ok(t); p.Version != 1 || p.State != "deactivated" {
		t.Errorf("%+v", p)
	}

	w.news()
	re := of(w.Rewrap(ctx, alice, "mail", api.RewrapRequest{Ciphertext: old, AAD: []byte("a")})).ok(t)
	if re.FromVersion != 1 || re.Version != 2 || re.KeyID != "mail.v2" || !strings.HasPrefix(re.Ciphertext, "kh1:mail.v2:") {
		t.Errorf("%+v", re)
	}
	if r := w.record(); r.Action != "rewrap" || r.FromVersion != 1 || r.ToVersion != 2 || r.KeyID != "mail.v2" || r.Outcome != audit.OutcomeOK {
		t.Errorf("recorded as %+v", r)
	}
	if p := of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: re.Ciphertext, AAD: []byte("a")})).ok(t); string(p.Plaintext) != "x" || p.Version != 2 {
		t.Errorf("%+v", p)
	}

	outOfUse := func(state string) {
		t.Helper()
		w.news()
		of(w.Decrypt(ctx, alice, "mail", in)).fails(t, keys.ErrVersionState)
		of(w.Rewrap(ctx, alice, "mail", api.RewrapRequest{Ciphertext: old, AAD: []byte("a")})).fails(t, keys.ErrVersionState)
		for _, r := range w.news() {
			if r.Outcome != audit.OutcomeError || r.Reason != "version_state" || r.Version != 1 || r.Details != nil {
				t.Errorf("%s: recorded as %+v", state, r)
			}
		}
		if p := of(w.Decrypt(ctx, admin, "mail", in)).ok(t); string(p.Plaintext) != "x" || p.State != state {
			t.Errorf("%s, by those who may recover: %+v", state, p)
		}
		if r := w.record(); r.Outcome != audit.OutcomeOK || r.Details["recovered_from"] != state {
			t.Errorf("%s: recorded as %+v", state, r)
		}
		of(w.Decrypt(ctx, admin, "mail", api.DecryptRequest{Ciphertext: old})).fails(t, keys.ErrDecrypt)
		if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != "decryption_failed" || r.Details["recovered_from"] != state {
			t.Errorf("%s, without the aad: recorded as %+v", state, r)
		}
		of(w.Rewrap(ctx, admin, "mail", api.RewrapRequest{Ciphertext: old, AAD: []byte("a")})).ok(t)
	}
	w.change("mail", func(k *keys.Key) { k.Versions[0].ArchivedAt = w.now() })
	outOfUse("archived")
	of(w.Revoke(ctx, admin, "mail", 1, api.VersionActRequest{})).ok(t)
	outOfUse("compromised")
	w.change("mail", func(k *keys.Key) { k.Versions[0].DestroyAt = w.now() })
	of(w.Decrypt(ctx, admin, "mail", in)).fails(t, keys.ErrVersionState)
}

func TestDataKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("mail", keys.A256GCM)
	yes, no := true, false
	for _, in := range []api.DataKeyRequest{{}, {Bits: 128}, {Bits: 256, Plaintext: &yes, AAD: []byte("a")}, {Plaintext: &no}} {
		w.news()
		k := of(w.DataKey(ctx, alice, "mail", in)).ok(t)
		size := 32
		if in.Bits == 128 {
			size = 16
		}
		if r := w.record(); r.Action != "datakey" || r.Outcome != audit.OutcomeOK || r.KeyID != "mail.v1" || r.Size != int64(size) {
			t.Errorf("recorded as %+v", r)
		}
		p := of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: k.Ciphertext, AAD: in.AAD})).ok(t).Plaintext
		if len(p) != size || bytes.Equal(p, make([]byte, size)) {
			t.Errorf("the data key is %x", p)
		}
		if in.Plaintext == &no && k.Plaintext != nil || in.Plaintext != &no && !bytes.Equal(k.Plaintext, p) {
			t.Errorf("asked with %+v, in the clear it is %x, sealed %x", in, k.Plaintext, p)
		}
	}
	for _, bits := range []int{-1, 1, 64, 192, 512} {
		of(w.DataKey(ctx, alice, "mail", api.DataKeyRequest{Bits: bits})).fails(t, keys.ErrInvalid)
	}
}

func TestRandom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	seen := map[string]bool{}
	for _, n := range []int{1, 32, 32, api.MaxRandom} {
		w.news()
		b := of(w.Random(ctx, alice, api.RandomRequest{Bytes: n})).ok(t).Random
		if len(b) != n || n > 1 && seen[string(b)] {
			t.Errorf("%d bytes: %x", n, b)
		}
		seen[string(b)] = true
		if r := w.record(); r.Action != "random" || r.Outcome != audit.OutcomeOK || r.Size != int64(n) || r.Policies[0] != "random" {
			t.Errorf("recorded as %+v", r)
		}
	}
	calls := w.hsm.Calls(hsmtest.Random)
	for _, n := range []int{0, -1, api.MaxRandom + 1, 1 << 40} {
		of(w.Random(ctx, alice, api.RandomRequest{Bytes: n})).fails(t, keys.ErrInvalid)
	}
	of(w.Random(ctx, nobody, api.RandomRequest{Bytes: 8})).fails(t, keys.ErrForbidden)
	if w.hsm.Calls(hsmtest.Random) != calls {
		t.Error("the HSM was asked for what was refused")
	}
}

// JWEs made offline by go-jose, from the published keys alone, open.
func TestJWE(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("rsa", keys.RSAOAEP256)
	w.key("sha1", keys.RSAOAEP)
	seal := func(key string, alg jose.KeyAlgorithm, kid string) string {
		t.Helper()
		set := joseKeys(t, of(w.JWKS(ctx, alice, key)).ok(t))
		if len(set.Keys) != 1 || set.Keys[0].Use != "enc" {
			t.Fatalf("%+v", set)
		}
		enc, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: alg, Key: set.Keys[0].Key, KeyID: kid}, nil)
		if err != nil {
			t.Fatal(err)
		}
		obj, err := enc.Encrypt([]byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := obj.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for key, alg := range map[string]jose.KeyAlgorithm{"rsa": jose.RSA_OAEP_256, "sha1": jose.RSA_OAEP} {
		jwe := seal(key, alg, key+".v1")
		w.news()
		p := of(w.Decrypt(ctx, alice, key, api.DecryptRequest{JWE: jwe})).ok(t)
		if string(p.Plaintext) != "hello" || p.Version != 1 {
			t.Errorf("%s: %+v", key, p)
		}
		if r := w.record(); r.Action != "decrypt" || r.Outcome != audit.OutcomeOK || r.KeyID != key+".v1" || r.Size != int64(len(jwe)) {
			t.Errorf("recorded as %+v", r)
		}
		parts := strings.Split(jwe, ".")
		for i := 1; i < 5; i++ {
			bin, err := base64.RawURLEncoding.DecodeString(parts[i])
			if err != nil {
				t.Fatal(err)
			}
			bin[0] ^= 1
			changed := append([]string{}, parts...)
			changed[i] = base64.RawURLEncoding.EncodeToString(bin)
			of(w.Decrypt(ctx, alice, key, api.DecryptRequest{JWE: strings.Join(changed, ".")})).fails(t, keys.ErrDecrypt)
		}
	}
	for what, tt := range map[string]struct {
		key, jwe string
		kind     error
	}{
		"another algorithm": {"rsa", seal("rsa", jose.RSA_OAEP, "rsa.v1"), keys.ErrInvalid},
		"no kid":            {"rsa", seal("rsa", jose.RSA_OAEP_256, ""), keys.ErrInvalid},
		"another key's kid": {"rsa", seal("rsa", jose.RSA_OAEP_256, "sha1.v1"), keys.ErrInvalid},
		"no such version":   {"rsa", seal("rsa", jose.RSA_OAEP_256, "rsa.v7"), keys.ErrVersionNotFound},
	} {
		if err := of(w.Decrypt(ctx, alice, tt.key, api.DecryptRequest{JWE: tt.jwe})).err; !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v, want %v", what, err, tt.kind)
		}
	}
}
