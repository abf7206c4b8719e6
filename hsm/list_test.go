package hsm

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

// object is a template with what every object of these tests has.
func object(class uint, label string, id []byte, more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	return append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
	}, more...)
}

func is(attribute uint, v any) *pkcs11.Attribute { return pkcs11.NewAttribute(attribute, v) }

// TestListForeign: what other tools have made is listed for what it is.
func TestListForeign(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	p, s := raw(t, h)
	create := func(template []*pkcs11.Attribute) {
		t.Helper()
		if _, err := p.CreateObject(s, template); err != nil {
			t.Fatal(err)
		}
	}
	pair := func(mechanism uint, public, private []*pkcs11.Attribute) {
		t.Helper()
		if _, _, err := p.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, public, private); err != nil {
			t.Fatal(err)
		}
	}
	rsaPublic := func(bits int, more ...*pkcs11.Attribute) []*pkcs11.Attribute {
		return append(more, is(pkcs11.CKA_MODULUS_BITS, bits), is(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}))
	}
	// By another tool: extractable, for two purposes, with a short CKA_ID.
	pair(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN,
		object(pkcs11.CKO_PUBLIC_KEY, "web", []byte{1}, rsaPublic(2048, is(pkcs11.CKA_VERIFY, true), is(pkcs11.CKA_ENCRYPT, false))...),
		object(pkcs11.CKO_PRIVATE_KEY, "web", []byte{1}, is(pkcs11.CKA_EXTRACTABLE, true), is(pkcs11.CKA_SENSITIVE, false), is(pkcs11.CKA_SIGN, true), is(pkcs11.CKA_DECRYPT, true)))
	// Of a size and of a curve that Keyhole has no use for.
	pair(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, object(pkcs11.CKO_PUBLIC_KEY, "small", []byte{2}, rsaPublic(1024)...), object(pkcs11.CKO_PRIVATE_KEY, "small", []byte{2}))
	secp256k1 := []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a}
	pair(pkcs11.CKM_EC_KEY_PAIR_GEN, object(pkcs11.CKO_PUBLIC_KEY, "coin", nil, is(pkcs11.CKA_EC_PARAMS, secp256k1)), object(pkcs11.CKO_PRIVATE_KEY, "coin", nil))
	// A secret that was imported, and one that may not sign.
	mac := make([]byte, 32)
	rand.Read(mac)
	create(object(pkcs11.CKO_SECRET_KEY, "mac", []byte("sixteen bytes id"), is(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), is(pkcs11.CKA_VALUE, mac),
		is(pkcs11.CKA_SIGN, true), is(pkcs11.CKA_SENSITIVE, true), is(pkcs11.CKA_EXTRACTABLE, false)))
	create(object(pkcs11.CKO_SECRET_KEY, "idle", []byte{3}, is(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), is(pkcs11.CKA_VALUE, mac), is(pkcs11.CKA_SIGN, false)))
	// Only a public half.
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	create(object(pkcs11.CKO_PUBLIC_KEY, "half", []byte{4}, is(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA), is(pkcs11.CKA_MODULUS, rsaKey.N.Bytes()),
		is(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}), is(pkcs11.CKA_VERIFY, true), is(pkcs11.CKA_ENCRYPT, true)))
	// Not keys, or not on the token.
	create([]*pkcs11.Attribute{is(pkcs11.CKA_CLASS, pkcs11.CKO_DATA), is(pkcs11.CKA_TOKEN, true), is(pkcs11.CKA_LABEL, "data"), is(pkcs11.CKA_VALUE, "data")})
	create([]*pkcs11.Attribute{is(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), is(pkcs11.CKA_TOKEN, false), is(pkcs11.CKA_LABEL, "session"), is(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), is(pkcs11.CKA_VALUE, mac)})

	all, err := h.List(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	rsaSign := []keys.Algorithm{keys.PS256, keys.PS384, keys.PS512, keys.RS256, keys.RS384, keys.RS512}
	rsaOpen := []keys.Algorithm{keys.RSAOAEP, keys.RSAOAEP256}
	want := map[string]struct {
		algs        []keys.Algorithm
		bits        int
		extractable bool
		never       bool
		public      bool
	}{
		"web private":   {slices.Concat(rsaSign, rsaOpen), 2048, true, false, true},
		"web public":    {rsaSign, 2048, false, false, true},
		"small private": {nil, 1024, false, true, false},
		"small public":  {nil, 1024, false, false, false},
		"coin private":  {nil, 0, false, true, false},
		"coin public":   {nil, 0, false, false, false},
		"mac secret":    {[]keys.Algorithm{keys.HS256}, 256, false, false, false},
		"idle secret":   {nil, 256, false, false, false},
		"half public":   {slices.Concat(rsaSign, rsaOpen), 2048, false, false, true},
	}
	for _, o := range all {
		name := fmt.Sprintf("%s %s", o.Label, o.Class)
		w, ok := want[name]
		if !ok {
			t.Errorf("listed, and should not be: %s", name)
			continue
		}
		delete(want, name)
		if !slices.Equal(o.Algorithms, w.algs) || o.Bits != w.bits || o.Extractable != w.extractable || o.NeverExtractable != w.never || len(o.PublicKey) > 0 != w.public {
			t.Errorf("%s is listed as %+v", name, o)
		}
		if o.Label == "mac" && string(o.ID) != "sixteen bytes id" {
			t.Errorf("its CKA_ID is %q", o.ID)
		}
	}
	for name := range want {
		t.Errorf("not listed: %s", name)
	}
}

// TestListPages: more objects than are read at one go.
func TestListPages(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	p, s := raw(t, h)
	value := make([]byte, 32)
	const n = 2*listPage + 3
	for i := range n {
		if _, err := p.CreateObject(s, object(pkcs11.CKO_SECRET_KEY, fmt.Sprint("page-", i), []byte(fmt.Sprint(i)), is(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), is(pkcs11.CKA_VALUE, value))); err != nil {
			t.Fatal(err)
		}
	}
	all, err := h.List(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, o := range all {
		seen[o.Label+string(o.ID)] = true
	}
	for i := range n {
		if !seen[fmt.Sprintf("page-%d%d", i, i)] {
			t.Errorf("object %d is not listed", i)
		}
	}
	if len(all) != n {
		t.Errorf("%d objects are listed of %d", len(all), n)
	}
}

// TestInspectForeign: a key that is not protected is taken for what it is, and
// said to be so.
func TestInspectForeign(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	p, s := raw(t, h)
	id := keys.NewObjectID()
	ref := keys.Ref{Token: "t", ID: id, Label: "legacy key", Algorithm: keys.RS256, Bits: 2048}
	create := func() {
		t.Helper()
		_, _, err := p.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)},
			object(pkcs11.CKO_PUBLIC_KEY, ref.Label, id[:], is(pkcs11.CKA_MODULUS_BITS, 2048), is(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})),
			object(pkcs11.CKO_PRIVATE_KEY, ref.Label, id[:], is(pkcs11.CKA_EXTRACTABLE, true), is(pkcs11.CKA_SENSITIVE, false), is(pkcs11.CKA_SIGN, true)))
		if err != nil {
			t.Fatal(err)
		}
	}
	create()
	works := func(got keys.Generated, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if got.NeverExtractable || got.AlwaysSensitive {
			t.Errorf("an extractable key is said to be protected: %+v", got)
		}
		full := ref
		full.PublicKey, full.Check = got.PublicKey, got.Check
		sig, err := h.Sign(t.Context(), full, input(keys.RS256))
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := h.Verify(t.Context(), full, input(keys.RS256), sig); !ok || err != nil {
			t.Errorf("Verify: %v, %v", ok, err)
		}
	}
	works(h.Inspect(t.Context(), ref))
	// An RSA key tells its public half even when that object is gone.
	public := search(t, p, s, is(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), is(pkcs11.CKA_ID, id[:]))
	if err := p.DestroyObject(s, public[0]); err != nil {
		t.Fatal(err)
	}
	works(h.Inspect(t.Context(), ref))
	// One that is there twice is not taken.
	create()
	if _, err := h.Inspect(t.Context(), ref); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("a key that is there twice: %v, want ErrInvalid", err)
	}
	// An EC key without its public half cannot be verified by.
	ec := generate(t, h, "half.v1", keys.ES256, 0)
	public = search(t, p, s, is(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), is(pkcs11.CKA_ID, ec.ID[:]))
	if err := p.DestroyObject(s, public[0]); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Inspect(t.Context(), ec); err != nil || !bytes.Equal(got.PublicKey, ec.PublicKey) {
		t.Errorf("half a pair whose public key is known: %+v, %v", got, err)
	}
	ec.PublicKey, ec.Check = nil, nil
	if _, err := h.Inspect(t.Context(), ec); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("half a pair whose public key nobody knows: %v, want ErrInvalid", err)
	}
}

// TestListOverDeviceErrors: a token that fails is not an empty one.
func TestListOverDeviceErrors(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	f := newFaulty(t, tok)
	h := start(t, tok, f.use)
	ref := generate(t, h, "listed.v1", keys.ES256, 0)
	for _, code := range []uint{pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_GENERAL_ERROR} {
		f.fail(fnFindInit, code, 1)
		if all, err := h.List(t.Context(), "t"); err != nil || len(all) != 2 {
			t.Errorf("%d objects after a session error, %v; want 2", len(all), err)
		}
		f.fail(fnFindInit, code, 1)
		if _, err := h.Inspect(t.Context(), ref); err != nil {
			t.Errorf("Inspect after a session error: %v", err)
		}
	}
	f.fail(fnFindInit, pkcs11.CKR_DEVICE_ERROR, always)
	if all, err := h.List(t.Context(), "t"); !errors.Is(err, keys.ErrHSM) || all != nil {
		t.Errorf("%d objects, %v; want ErrHSM", len(all), err)
	}
	if all, err := h.Revoked(t.Context(), "t"); !errors.Is(err, keys.ErrHSM) || all != nil {
		t.Errorf("%d marks, %v; want ErrHSM", len(all), err)
	}
	if _, err := h.StoreKey(t.Context(), true); !errors.Is(err, keys.ErrHSM) {
		t.Errorf("StoreKey: %v; want ErrHSM", err)
	}
	f.fail(fnFindInit, 0, 0)
	if err := h.MarkRevoked(t.Context(), ref, keys.VersionID{Key: "listed", Number: 1}, time.Now()); err != nil {
		t.Error(err)
	}
}
