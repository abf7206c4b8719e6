package hsm

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

// TestStoreKey: the key is one that cannot leave, and whoever has the same one
// derives the same bytes, by these constants, for ever.
func TestStoreKey(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	got, err := h.StoreKey(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	p, s := raw(t, h)
	found := search(t, p, s, is(pkcs11.CKA_LABEL, "keyhole-store.v1"))
	if len(found) != 1 {
		t.Fatalf("%d objects are labelled keyhole-store.v1", len(found))
	}
	for attribute, want := range map[uint]byte{
		pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_EXTRACTABLE: 0, pkcs11.CKA_NEVER_EXTRACTABLE: 1, pkcs11.CKA_ALWAYS_SENSITIVE: 1, pkcs11.CKA_LOCAL: 1,
		pkcs11.CKA_SIGN: 1, pkcs11.CKA_WRAP: 0, pkcs11.CKA_ENCRYPT: 0, pkcs11.CKA_PRIVATE: 1,
	} {
		a, err := p.GetAttributeValue(s, found[0], []*pkcs11.Attribute{is(attribute, nil)})
		if err != nil || !bytes.Equal(a[0].Value, []byte{want}) {
			t.Errorf("attribute %#x is %v, %v; want %d", attribute, a, err, want)
		}
	}
	if err := p.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA256_HMAC, nil)}, found[0]); err != nil {
		t.Fatal(err)
	}
	want, err := p.Sign(s, []byte("keyhole: derivation of the key for MACs of the store's rows, version 1"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the derivation has changed: every row of every store is lost; %v", err)
	}
}

// TestStoreKeyOfOtherMaking: a key that somebody knows the value of is not
// taken, nor is one of two.
func TestStoreKeyOfOtherMaking(t *testing.T) {
	t.Parallel()
	tok := softhsmtest.Start(t)
	h := start(t, tok)
	p, s := raw(t, h)
	known := bytes.Repeat([]byte{7}, 32)
	imported, err := p.CreateObject(s, object(pkcs11.CKO_SECRET_KEY, storeKeyLabel, []byte("sixteen bytes id"), is(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), is(pkcs11.CKA_VALUE, known),
		is(pkcs11.CKA_PRIVATE, true), is(pkcs11.CKA_SENSITIVE, true), is(pkcs11.CKA_EXTRACTABLE, false), is(pkcs11.CKA_SIGN, true), is(pkcs11.CKA_VERIFY, false)))
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, known)
	mac.Write([]byte(storeKeyMessage))
	for _, create := range []bool{false, true} {
		if got, err := h.StoreKey(t.Context(), create); !errors.Is(err, keys.ErrHSM) || bytes.Equal(got, mac.Sum(nil)) {
			t.Errorf("an imported key, create %v: %d bytes, %v; want ErrHSM", create, len(got), err)
		}
	}
	if err := p.DestroyObject(s, imported); err != nil {
		t.Fatal(err)
	}
	if _, err := h.StoreKey(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	second := keys.Ref{Token: "t", ID: keys.NewObjectID(), Label: "second.v1", Algorithm: keys.HS256, Bits: 256}
	if _, err := h.Generate(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	o := search(t, p, s, is(pkcs11.CKA_LABEL, "second.v1"))
	if err := p.SetAttributeValue(s, o[0], []*pkcs11.Attribute{is(pkcs11.CKA_LABEL, storeKeyLabel)}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.StoreKey(t.Context(), true); !errors.Is(err, keys.ErrHSM) || !strings.Contains(err.Error(), "2 keys") {
		t.Errorf("with two keys: %v, want ErrHSM that says so", err)
	}
}

// TestStoreKeyOnAnyToken: it is where it is, wherever that is in the
// configuration.
func TestStoreKeyOnAnyToken(t *testing.T) {
	t.Parallel()
	a, b := softhsmtest.Start(t), softhsmtest.Start(t)
	two := func(c *Config) {
		second := tokenConfig(b)
		second.Name = "second"
		c.Tokens = append(c.Tokens, second)
	}
	turned := func(c *Config) { two(c); c.Tokens[0], c.Tokens[1] = c.Tokens[1], c.Tokens[0] }
	key := func(create bool, change func(*Config)) []byte {
		t.Helper()
		c := Config{Tokens: []TokenConfig{tokenConfig(a)}, Log: slog.New(slog.DiscardHandler)}
		if change != nil {
			change(&c)
		}
		h, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		}()
		got, err := h.StoreKey(t.Context(), create)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	made := key(true, two)
	for i, got := range [][]byte{key(false, two), key(true, turned), key(false, nil)} {
		if !bytes.Equal(got, made) {
			t.Errorf("%d: another key", i)
		}
	}
	// One on each is one too many.
	h := start(t, b)
	if _, err := h.StoreKey(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	both := start(t, a, two)
	if _, err := both.StoreKey(t.Context(), true); !errors.Is(err, keys.ErrHSM) || !strings.Contains(err.Error(), "second") {
		t.Errorf("with a key on each of two tokens: %v", err)
	}
}
