package gateway_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// publicKey is what the API publishes of a version.
func publicKey(t *testing.T, k api.Key, n uint32) any {
	t.Helper()
	for _, v := range k.Versions {
		if v.Version != n {
			continue
		}
		block, _ := pem.Decode([]byte(v.PublicKey))
		if block == nil {
			t.Fatalf("no PEM: %q", v.PublicKey)
		}
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return pub
	}
	t.Fatalf("no version %d", n)
	return nil
}

// joseKeys is the published key set as go-jose reads it.
func joseKeys(t *testing.T, set api.JWKS) jose.JSONWebKeySet {
	t.Helper()
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	var theirs jose.JSONWebKeySet
	if err := json.Unmarshal(b, &theirs); err != nil {
		t.Fatal(err)
	}
	return theirs
}

func TestSignAndVerifyEveryAlgorithm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	payload := []byte("pay 5 to bob")
	for _, alg := range []keys.Algorithm{keys.ES256, keys.ES384, keys.ES512, keys.EdDSA, keys.RS256, keys.PS256, keys.HS256, keys.HS512} {
		name := strings.ToLower(string(alg))
		w.key(name, alg)
		w.news()
		sig := of(w.Sign(ctx, alice, name, api.SignRequest{Payload: payload})).ok(t)
		if sig.Key != name || sig.Version != 1 || sig.KeyID != name+".v1" || sig.Algorithm != string(alg) || sig.JWS != "" {
			t.Errorf("%s: %+v", alg, sig)
		}
		r := w.record()
		if r.Action != "sign" || r.Outcome != audit.OutcomeOK || r.Key != name || r.Version != 1 || r.KeyID != name+".v1" || r.Reason != "" ||
			r.Algorithm != string(alg) || r.Size != int64(len(payload)) || r.Principal != "jwt:corp:alice" || r.Duration <= 0 ||
			r.Purpose != "sign" || len(r.Policies) != 1 || r.Policies[0] != "agents" || r.RequestID != "req-alice" {
			t.Errorf("%s: recorded as %+v", alg, r)
		}
		verify := func(in api.VerifyRequest) api.VerifyResponse {
			t.Helper()
			return of(w.Verify(ctx, alice, name, in)).ok(t)
		}
		if v := verify(api.VerifyRequest{Payload: payload, Signature: sig.Signature, Version: 1}); !v.Valid || v.Reason != "" || v.State != "active" || v.KeyID != sig.KeyID {
			t.Errorf("%s: %+v", alg, v)
		}
		for what, in := range map[string]api.VerifyRequest{
			"another payload": {Payload: []byte("pay 6 to bob"), Signature: sig.Signature, Version: 1},
			"cut":             {Payload: payload, Signature: sig.Signature[1:], Version: 1},
			"longer":          {Payload: payload, Signature: append(bytes.Clone(sig.Signature), 0), Version: 1},
			"empty":           {Payload: payload, Signature: []byte{}, Version: 1},
			"zeros":           {Payload: payload, Signature: make([]byte, len(sig.Signature)), Version: 1},
		} {
			w.news()
			if v := verify(in); v.Valid || v.Reason != api.ReasonBadSignature {
				t.Errorf("%s, %s: %+v", alg, what, v)
			}
			if r := w.record(); r.Outcome != audit.OutcomeOK || r.Reason != api.ReasonBadSignature || r.Version != 1 {
				t.Errorf("%s, %s: recorded as %+v", alg, what, r)
			}
		}

		// The JWS, attached and detached, and go-jose with the published key.
		jws := of(w.Sign(ctx, alice, name, api.SignRequest{Payload: payload, Format: api.FormatJWS})).ok(t)
		detached := of(w.Sign(ctx, alice, name, api.SignRequest{Payload: payload, Format: api.FormatJWSDetached})).ok(t)
		if jws.Signature != nil || !strings.Contains(detached.JWS, "..") {
			t.Errorf("%s: %+v, %+v", alg, jws, detached)
		}
		if v := verify(api.VerifyRequest{JWS: jws.JWS}); !v.Valid || v.Version != 1 {
			t.Errorf("%s: %+v", alg, v)
		}
		if v := verify(api.VerifyRequest{JWS: detached.JWS, Payload: payload}); !v.Valid {
			t.Errorf("%s: %+v", alg, v)
		}
		if v := verify(api.VerifyRequest{JWS: detached.JWS, Payload: []byte("other")}); v.Valid {
			t.Errorf("%s: a detached signature over another payload is valid", alg)
		}
		theirs, err := jose.ParseSignedCompact(jws.JWS, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
		if err != nil {
			t.Fatalf("%s: go-jose: %v", alg, err)
		}
		set := of(w.JWKS(ctx, alice, name)).ok(t)
		if alg.Family() == keys.FamilyHMAC {
			if len(set.Keys) != 0 {
				t.Errorf("%s: a secret key is published: %+v", alg, set)
			}
			// No one else has the key; but the MAC is over the JWS signing input.
			input, last, _ := cutLast(jws.JWS)
			mac := of(w.Sign(ctx, alice, name, api.SignRequest{Payload: []byte(input)})).ok(t)
			if base64.RawURLEncoding.EncodeToString(mac.Signature) != last {
				t.Errorf("%s: the JWS's signature is not the MAC of its signing input", alg)
			}
			continue
		}
		got, err := theirs.Verify(joseKeys(t, set))
		if err != nil || !bytes.Equal(got, payload) || theirs.Signatures[0].Protected.KeyID != name+".v1" {
			t.Errorf("%s: go-jose: %q, %v", alg, got, err)
		}
		own, err := jose.ParseDetached(detached.JWS, payload, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(alg)})
		if err != nil {
			t.Fatal(err)
		}
		if err := own.DetachedVerify(payload, joseKeys(t, set).Keys[0]); err != nil {
			t.Errorf("%s: go-jose, detached: %v", alg, err)
		}
	}
}

func cutLast(jws string) (before, after string, found bool) {
	i := strings.LastIndexByte(jws, '.')
	return jws[:i], jws[i+1:], i >= 0
}

func TestDigestsAndDER(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	k := w.key("payments", keys.ES256)
	payload := []byte("x")
	digest := sha256.Sum256(payload)
	pub := publicKey(t, k, 1).(*ecdsa.PublicKey)
	for _, hash := range []string{"", "sha-256", "SHA256"} {
		sig := of(w.Sign(ctx, alice, "payments", api.SignRequest{Digest: digest[:], Hash: hash, Format: api.FormatRaw})).ok(t).Signature
		r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
		if len(sig) != 64 || !ecdsa.Verify(pub, digest[:], r, s) {
			t.Errorf("hash %q: crypto/ecdsa does not verify %x", hash, sig)
		}
		if v := of(w.Verify(ctx, alice, "payments", api.VerifyRequest{Payload: payload, Signature: sig, Version: 1})).ok(t); !v.Valid {
			t.Errorf("hash %q: %+v", hash, v)
		}
		if v := of(w.Verify(ctx, alice, "payments", api.VerifyRequest{Digest: digest[:], Hash: hash, Signature: sig, Version: 1})).ok(t); !v.Valid {
			t.Errorf("hash %q: %+v", hash, v)
		}
	}
	der := of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: payload, Format: api.FormatDER})).ok(t).Signature
	if !ecdsa.VerifyASN1(pub, digest[:], der) {
		t.Error("crypto/ecdsa does not verify the DER signature")
	}
	verify := func(sig []byte, format string) api.VerifyResponse {
		t.Helper()
		return of(w.Verify(ctx, alice, "payments", api.VerifyRequest{Payload: payload, Signature: sig, Format: format, Version: 1})).ok(t)
	}
	if v := verify(der, api.FormatDER); !v.Valid {
		t.Errorf("%+v", v)
	}
	for what, sig := range map[string][]byte{
		"trailing byte":   append(bytes.Clone(der), 0),
		"long length":     append([]byte{0x30, 0x81, der[1]}, der[2:]...),
		"empty":           {},
		"r = 0":           {0x30, 0x06, 0x02, 0x01, 0x00, 0x02, 0x01, 0x01},
		"negative":        {0x30, 0x06, 0x02, 0x01, 0xff, 0x02, 0x01, 0x01},
		"too wide":        append([]byte{0x30, 0x26, 0x02, 0x21, 0x01}, append(make([]byte, 32), 0x02, 0x01, 0x01)...),
		"no sequence":     {0x02, 0x01, 0x01},
		"one integer":     {0x30, 0x03, 0x02, 0x01, 0x01},
		"three integers":  {0x30, 0x09, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01},
		"leading zero":    {0x30, 0x07, 0x02, 0x02, 0x00, 0x01, 0x02, 0x01, 0x01},
		"raw, not DER":    make([]byte, 64),
		"length overflow": {0x30, 0x84, 0xff, 0xff, 0xff, 0xff},
	} {
		if v := verify(sig, api.FormatDER); v.Valid || v.Reason != api.ReasonBadSignature {
			t.Errorf("%s: %+v", what, v)
		}
	}
	if v := verify(der, api.FormatRaw); v.Valid {
		t.Error("DER is valid as raw")
	}

	w.key("ed", keys.EdDSA)
	raw := of(w.Sign(ctx, alice, "ed", api.SignRequest{Payload: []byte{}, Format: api.FormatDER})).ok(t).Signature
	if v := of(w.Verify(ctx, alice, "ed", api.VerifyRequest{Payload: []byte{}, Signature: raw, Format: api.FormatDER, Version: 1})).ok(t); !v.Valid || len(raw) != 64 {
		t.Errorf("the empty message, EdDSA in DER: %+v", v)
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("ed", keys.EdDSA)
	w.key("mac", keys.HS256)
	w.key("mail", keys.A256GCM)
	x, d32 := []byte("x"), make([]byte, 32)
	for what, tt := range map[string]struct {
		key  string
		in   api.SignRequest
		kind error
		code string
	}{
		"nothing":              {"payments", api.SignRequest{}, keys.ErrInvalid, "invalid_argument"},
		"both":                 {"payments", api.SignRequest{Payload: x, Digest: d32}, keys.ErrInvalid, "invalid_argument"},
		"short digest":         {"payments", api.SignRequest{Digest: d32[1:]}, keys.ErrInvalid, "invalid_argument"},
		"empty digest":         {"payments", api.SignRequest{Digest: []byte{}}, keys.ErrInvalid, "invalid_argument"},
		"another hash":         {"payments", api.SignRequest{Digest: make([]byte, 48), Hash: "sha-384"}, keys.ErrInvalid, "invalid_argument"},
		"unknown hash":         {"payments", api.SignRequest{Digest: d32, Hash: "md5"}, keys.ErrInvalid, "invalid_argument"},
		"hash of a payload":    {"payments", api.SignRequest{Payload: x, Hash: "sha-256"}, keys.ErrInvalid, "invalid_argument"},
		"unknown format":       {"payments", api.SignRequest{Payload: x, Format: "JWS"}, keys.ErrInvalid, "invalid_argument"},
		"JWS of a digest":      {"payments", api.SignRequest{Digest: d32, Format: api.FormatJWS}, keys.ErrInvalid, "invalid_argument"},
		"JWS of nothing":       {"payments", api.SignRequest{Format: api.FormatJWSDetached}, keys.ErrInvalid, "invalid_argument"},
		"JWS with a hash":      {"payments", api.SignRequest{Payload: x, Hash: "sha-512", Format: api.FormatJWS}, keys.ErrInvalid, "invalid_argument"},
		"EdDSA of a digest":    {"ed", api.SignRequest{Digest: make([]byte, 64)}, keys.ErrInvalid, "invalid_argument"},
		"MAC of a digest":      {"mac", api.SignRequest{Digest: d32}, keys.ErrInvalid, "invalid_argument"},
		"by an encrypting key": {"mail", api.SignRequest{Payload: x}, keys.ErrWrongPurpose, "wrong_purpose"},
	} {
		w.news()
		got := of(w.Sign(ctx, alice, tt.key, tt.in))
		got.fails(t, tt.kind)
		if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != tt.code || r.Key != tt.key {
			t.Errorf("%s: recorded as %+v", what, r)
		}
	}
	if n := w.hsm.Calls("Sign"); n != 0 {
		t.Errorf("the HSM was asked %d times", n)
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("other", keys.ES256)
	w.key("mail", keys.A256GCM)
	x := []byte("x")
	b64 := base64.RawURLEncoding.EncodeToString
	head := func(h string) string { return b64([]byte(h)) + "." + b64(x) + "." + b64(signature) }
	good := of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: x, Format: api.FormatJWS})).ok(t).JWS
	for what, tt := range map[string]struct {
		key  string
		in   api.VerifyRequest
		kind error
	}{
		"nothing":              {"payments", api.VerifyRequest{}, keys.ErrInvalid},
		"no version":           {"payments", api.VerifyRequest{Payload: x, Signature: signature}, keys.ErrInvalid},
		"no such version":      {"payments", api.VerifyRequest{Payload: x, Signature: signature, Version: 9}, keys.ErrVersionNotFound},
		"no payload":           {"payments", api.VerifyRequest{Signature: signature, Version: 1}, keys.ErrInvalid},
		"a jws format":         {"payments", api.VerifyRequest{Payload: x, Signature: signature, Version: 1, Format: api.FormatJWS}, keys.ErrInvalid},
		"short digest":         {"payments", api.VerifyRequest{Digest: x, Signature: signature, Version: 1}, keys.ErrInvalid},
		"JWS and signature":    {"payments", api.VerifyRequest{JWS: good, Signature: signature}, keys.ErrInvalid},
		"JWS and digest":       {"payments", api.VerifyRequest{JWS: good, Digest: make([]byte, 32)}, keys.ErrInvalid},
		"JWS and payload":      {"payments", api.VerifyRequest{JWS: good, Payload: x}, keys.ErrInvalid},
		"JWS, other version":   {"payments", api.VerifyRequest{JWS: good, Version: 2}, keys.ErrInvalid},
		"JWS of another key":   {"other", api.VerifyRequest{JWS: good}, keys.ErrInvalid},
		"JWS without kid":      {"payments", api.VerifyRequest{JWS: head(`{"alg":"ES256"}`)}, keys.ErrInvalid},
		"JWS with crit":        {"payments", api.VerifyRequest{JWS: head(`{"alg":"ES256","kid":"payments.v1","crit":["x"]}`)}, keys.ErrInvalid},
		"JWS of two parts":     {"payments", api.VerifyRequest{JWS: "a.b"}, keys.ErrInvalid},
		"by an encrypting key": {"mail", api.VerifyRequest{Payload: x, Signature: signature, Version: 1}, keys.ErrWrongPurpose},
	} {
		w.news()
		got := of(w.Verify(ctx, alice, tt.key, tt.in))
		if got.fails(t, tt.kind); t.Failed() {
			t.Log(what)
		}
		if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != api.CodeOf(tt.kind) {
			t.Errorf("%s: recorded as %+v", what, r)
		}
	}
}

// A JWS is valid only under the algorithm of the version that it names.
func TestAlgorithmConfusion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	k := w.key("rsa", keys.RS256)
	b64 := base64.RawURLEncoding.EncodeToString
	// The classic: HS256 with the public key as the secret.
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(k.Versions[0].PublicKey)},
		(&jose.SignerOptions{}).WithHeader("kid", "rsa.v1"))
	if err != nil {
		t.Fatal(err)
	}
	obj, err := signer.Sign([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	forged, err := obj.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	// Signed by the key itself, under headers that say something else.
	signed := func(header string) string {
		input := b64([]byte(header)) + "." + b64([]byte("x"))
		return input + "." + b64(of(w.Sign(ctx, alice, "rsa", api.SignRequest{Payload: []byte(input)})).ok(t).Signature)
	}
	for what, jws := range map[string]string{
		"HS256 by the public key": forged,
		"none":                    b64([]byte(`{"alg":"none","kid":"rsa.v1"}`)) + "." + b64([]byte("x")) + ".",
		"PS256":                   signed(`{"alg":"PS256","kid":"rsa.v1"}`),
		"RS512":                   signed(`{"alg":"RS512","kid":"rsa.v1"}`),
		"no alg":                  signed(`{"kid":"rsa.v1"}`),
	} {
		v := of(w.Verify(ctx, alice, "rsa", api.VerifyRequest{JWS: jws})).ok(t)
		if v.Valid || v.Reason != api.ReasonAlgorithm {
			t.Errorf("%s: %+v", what, v)
		}
	}
	if v := of(w.Verify(ctx, alice, "rsa", api.VerifyRequest{JWS: signed(`{"alg":"RS256","kid":"rsa.v1","typ":"JWT"}`)})).ok(t); !v.Valid {
		t.Errorf("the right one: %+v", v)
	}
}

func TestVersionsThatSignedBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	x := []byte("x")
	old := of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: x})).ok(t)
	w.rotate("payments")
	if now := of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: x})).ok(t); now.Version != 2 || now.KeyID != "payments.v2" {
		t.Errorf("after the rotation version %d signs", now.Version)
	}
	in := api.VerifyRequest{Payload: x, Signature: old.Signature, Version: 1}
	verify := func() api.VerifyResponse {
		t.Helper()
		return of(w.Verify(ctx, alice, "payments", in)).ok(t)
	}
	if v := verify(); !v.Valid || v.State != "deactivated" {
		t.Errorf("%+v", v)
	}
	if v := of(w.Verify(ctx, alice, "payments", api.VerifyRequest{Payload: x, Signature: old.Signature, Version: 2})).ok(t); v.Valid {
		t.Error("the signature of version 1 is valid under version 2")
	}

	of(w.Suspend(ctx, admin, "payments", 1, api.VersionActRequest{Reason: "looks odd"})).ok(t)
	w.news()
	if v := verify(); v.Valid || v.Reason != "suspended" || v.State != "suspended" {
		t.Errorf("%+v", v)
	}
	if r := w.record(); r.Outcome != audit.OutcomeOK || r.Reason != "suspended" {
		t.Errorf("recorded as %+v", r)
	}
	of(w.Resume(ctx, admin, "payments", 1, api.VersionActRequest{})).ok(t)
	if v := verify(); !v.Valid {
		t.Errorf("%+v", v)
	}

	w.change("payments", func(k *keys.Key) { k.Versions[0].ArchivedAt = w.now() })
	of(w.Verify(ctx, alice, "payments", in)).fails(t, keys.ErrVersionState)
	w.news()
	if v := of(w.Verify(ctx, admin, "payments", in)).ok(t); !v.Valid || v.State != "archived" {
		t.Errorf("by those who may recover: %+v", v)
	}
	if r := w.record(); r.Details["recovered_from"] != "archived" {
		t.Errorf("recorded as %+v", r)
	}

	of(w.Revoke(ctx, admin, "payments", 1, api.VersionActRequest{Reason: "stolen"})).ok(t)
	for _, who := range []string{"alice", "root"} {
		if v := of(w.Verify(ctx, as(who, "agents", "admins"), "payments", in)).ok(t); v.Valid || v.Reason != "compromised" {
			t.Errorf("%s: %+v", who, v)
		}
	}
	w.change("payments", func(k *keys.Key) { k.Versions[0].DestroyAt = w.now() })
	if v := verify(); v.Valid || v.Reason != "destroy-scheduled" {
		t.Errorf("%+v", v)
	}
	w.change("payments", func(k *keys.Key) { k.Versions[0].DestroyedAt = w.now() })
	if v := verify(); v.Valid || v.Reason != "destroyed" {
		t.Errorf("%+v", v)
	}
}

func TestNoActiveVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	sealed := of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).ok(t).Ciphertext
	of(w.Suspend(ctx, admin, "payments", 1, api.VersionActRequest{})).ok(t)
	of(w.Suspend(ctx, admin, "mail", 1, api.VersionActRequest{})).ok(t)
	w.news()
	for what, err := range map[string]error{
		"sign":    of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).err,
		"encrypt": of(w.Encrypt(ctx, alice, "mail", api.EncryptRequest{Plaintext: []byte("x")})).err,
		"datakey": of(w.DataKey(ctx, alice, "mail", api.DataKeyRequest{})).err,
	} {
		if !errors.Is(err, keys.ErrNoActiveVersion) {
			t.Errorf("%s: %v, want ErrNoActiveVersion", what, err)
		}
	}
	for _, r := range w.news() {
		if r.Outcome != audit.OutcomeError || r.Reason != "no_active_version" {
			t.Errorf("recorded as %+v", r)
		}
	}
	of(w.Decrypt(ctx, alice, "mail", api.DecryptRequest{Ciphertext: sealed})).fails(t, keys.ErrVersionState)
	of(w.Decrypt(ctx, admin, "mail", api.DecryptRequest{Ciphertext: sealed})).fails(t, keys.ErrVersionState)
	if k := of(w.Key(ctx, alice, "payments")).ok(t); k.ActiveVersion != 0 || k.Versions[0].State != "suspended" {
		t.Errorf("%+v", k)
	}
	of(w.Resume(ctx, admin, "payments", 1, api.VersionActRequest{})).ok(t)
	of(w.Sign(ctx, alice, "payments", api.SignRequest{Payload: []byte("x")})).ok(t)
}

// Nobody signs with the key that vouches for the audit log, whatever the
// policy lets him do: he could forge a checkpoint.
func TestNobodySignsWithTheAuditKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.engine.EnsureAuditKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, who := range []gateway.Request{admin, alice} {
		if res, err := w.Sign(t.Context(), who, keys.AuditKeyName, api.SignRequest{Payload: []byte("keyhole/node\n1\n")}); err == nil {
			t.Errorf("%s signs: %+v", who.Caller.ID, res)
		}
	}
	of(w.Sign(t.Context(), admin, keys.AuditKeyName, api.SignRequest{Payload: []byte("x")})).fails(t, keys.ErrWrongPurpose)
}
