package hsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/template"
	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

// TestAttributes reads, by code of its own, what every kind of key is.
func TestAttributes(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	p, s := raw(t, h)
	read := func(o pkcs11.ObjectHandle, a uint) []byte {
		got, err := p.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(a, nil)})
		if errors.Is(err, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)) {
			return nil
		}
		if err != nil {
			t.Fatalf("attribute %#x: %v", a, err)
		}
		return got[0].Value
	}
	uses := map[string]uint{
		"sign": pkcs11.CKA_SIGN, "verify": pkcs11.CKA_VERIFY, "encrypt": pkcs11.CKA_ENCRYPT, "decrypt": pkcs11.CKA_DECRYPT,
		"wrap": pkcs11.CKA_WRAP, "unwrap": pkcs11.CKA_UNWRAP, "derive": pkcs11.CKA_DERIVE,
		"sign-recover": pkcs11.CKA_SIGN_RECOVER, "verify-recover": pkcs11.CKA_VERIFY_RECOVER,
	}
	for _, c := range []struct {
		alg     keys.Algorithm
		bits    int
		keyType uint64
		may     string // of the private or secret key
		public  string
	}{
		{keys.ES256, 256, pkcs11.CKK_EC, "sign", "verify"},
		{keys.ES384, 384, pkcs11.CKK_EC, "sign", "verify"},
		{keys.ES512, 521, pkcs11.CKK_EC, "sign", "verify"},
		{keys.EdDSA, 256, template.CKKECEdwards, "sign", "verify"},
		{keys.PS256, 2048, pkcs11.CKK_RSA, "sign", "verify"},
		{keys.RSAOAEP, 2048, pkcs11.CKK_RSA, "decrypt", "encrypt"},
		{keys.HS256, 256, pkcs11.CKK_GENERIC_SECRET, "sign", ""},
		{keys.HS512, 512, pkcs11.CKK_GENERIC_SECRET, "sign", ""},
		{keys.A256GCM, 256, pkcs11.CKK_AES, "encrypt decrypt", ""},
	} {
		ref := generate(t, h, "attributes-"+strings.ToLower(string(c.alg))+".v1", c.alg, c.bits)
		objects := search(t, p, s, pkcs11.NewAttribute(pkcs11.CKA_ID, ref.ID[:]))
		if want := map[bool]int{true: 2, false: 1}[c.public != ""]; len(objects) != want {
			t.Errorf("%s: %d objects", c.alg, len(objects))
		}
		for _, o := range objects {
			public := binary.NativeEndian.Uint64(read(o, pkcs11.CKA_CLASS)) == pkcs11.CKO_PUBLIC_KEY
			may := c.may
			flags := map[uint]byte{
				pkcs11.CKA_TOKEN: 1, pkcs11.CKA_PRIVATE: 1, pkcs11.CKA_LOCAL: 1, pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_EXTRACTABLE: 0,
				pkcs11.CKA_ALWAYS_SENSITIVE: 1, pkcs11.CKA_NEVER_EXTRACTABLE: 1,
			}
			if public {
				may = c.public
				flags = map[uint]byte{pkcs11.CKA_TOKEN: 1, pkcs11.CKA_PRIVATE: 0, pkcs11.CKA_LOCAL: 1}
			}
			for a, want := range flags {
				if got := read(o, a); !bytes.Equal(got, []byte{want}) {
					t.Errorf("%s, public %v: attribute %#x is %v, want %d", c.alg, public, a, got, want)
				}
			}
			for use, a := range uses {
				got := bytes.Equal(read(o, a), []byte{1})
				if want := strings.Contains(" "+may+" ", " "+use+" "); got != want {
					t.Errorf("%s, public %v: may %s: %v, want %v", c.alg, public, use, got, want)
				}
			}
			if got := binary.NativeEndian.Uint64(read(o, pkcs11.CKA_KEY_TYPE)); got != c.keyType {
				t.Errorf("%s: key type %#x", c.alg, got)
			}
			if string(read(o, pkcs11.CKA_LABEL)) != ref.Label {
				t.Errorf("%s: label %q", c.alg, read(o, pkcs11.CKA_LABEL))
			}
			if c.public == "" {
				if got := binary.NativeEndian.Uint64(read(o, pkcs11.CKA_VALUE_LEN)); got != uint64(c.bits/8) {
					t.Errorf("%s: %d bytes", c.alg, got)
				}
			}
			if !public {
				_, err := p.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
				if err == nil {
					t.Errorf("%s: the value can be read", c.alg)
				}
			}
		}
	}
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	h := start(t, softhsmtest.Start(t))
	for _, alg := range keys.Algorithms() {
		err := h.Capable("t", alg)
		info := h.Describe()[0]
		if alg == keys.RSAOAEP256 && err != nil { // SoftHSM before 2.8 has SHA-1 only
			if !errors.Is(err, keys.ErrUnsupported) || !strings.Contains(err.Error(), `"t"`) || !strings.Contains(err.Error(), "CKR_ARGUMENTS_BAD") ||
				!strings.Contains(err.Error(), "RSA-OAEP") || info.Capabilities[alg] || info.Limits[alg] != "CKR_ARGUMENTS_BAD" {
				t.Errorf("%s: %v; %+v", alg, err, info)
			}
			continue
		}
		if err != nil || !info.Capabilities[alg] {
			t.Errorf("%s: %v", alg, err)
		}
	}
	if err := h.Capable("nobody", keys.ES256); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("unknown token: %v", err)
	}
	if err := h.Capable("t", "none"); !errors.Is(err, keys.ErrUnsupported) {
		t.Errorf("none: %v", err)
	}
	p, s := raw(t, h)
	if n := len(search(t, p, s, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))); n != 0 {
		t.Errorf("the probe left %d token objects", n)
	}
}
