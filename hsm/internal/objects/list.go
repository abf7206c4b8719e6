package objects

import (
	"encoding/binary"
	"math"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/mech"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/template"
	"keyhole/keys"
)

// Found is a key object that a search has found. It is good for one generation
// of the token: see package module.
type Found struct {
	Handle pkcs11.ObjectHandle
	Class  keys.ObjectClass
}

// classes are those of keys, as PKCS#11 numbers them.
var classes = map[keys.ObjectClass]uint{
	keys.ClassPrivate: pkcs11.CKO_PRIVATE_KEY, keys.ClassPublic: pkcs11.CKO_PUBLIC_KEY, keys.ClassSecret: pkcs11.CKO_SECRET_KEY,
}

// All finds every key object of the token that outlives a session.
func (k *Keys) All(s *module.Session) ([]Found, error) {
	var all []Found
	for _, class := range []keys.ObjectClass{keys.ClassPrivate, keys.ClassPublic, keys.ClassSecret} {
		handles, err := s.Find(math.MaxInt32,
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_CLASS, classes[class]))
		if err != nil {
			return nil, err
		}
		for _, h := range handles {
			all = append(all, Found{h, class})
		}
	}
	return all, nil
}

// Describe reads what an object is; false if it is gone.
func (k *Keys) Describe(s *module.Session, f Found) (keys.TokenObject, bool, error) {
	d, err := k.describe(s, f)
	if fault.Of(err) == fault.Handle {
		return keys.TokenObject{}, false, nil // destroyed since it was found
	}
	return d.object, err == nil, err
}

// described is an object with the attributes that its public key is made of.
type described struct {
	object keys.TokenObject
	public map[uint][]byte
}

func (k *Keys) describe(s *module.Session, f Found) (described, error) {
	got, err := s.Attributes(f.Handle, pkcs11.CKA_LABEL, pkcs11.CKA_ID, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return described{}, err
	}
	keyType := number(got[pkcs11.CKA_KEY_TYPE])
	more, err := s.Attributes(f.Handle, told(f.Class, keyType)...)
	if err != nil {
		return described{}, err
	}
	is := func(attribute uint) bool { return len(more[attribute]) == 1 && more[attribute][0] == 1 }
	d := described{public: more, object: keys.TokenObject{
		Token: k.token, Class: f.Class, Label: string(got[pkcs11.CKA_LABEL]), ID: got[pkcs11.CKA_ID],
		Sensitive: is(pkcs11.CKA_SENSITIVE), AlwaysSensitive: is(pkcs11.CKA_ALWAYS_SENSITIVE),
		// A token that does not tell is not believed.
		Extractable:      f.Class != keys.ClassPublic && (len(more[pkcs11.CKA_EXTRACTABLE]) != 1 || is(pkcs11.CKA_EXTRACTABLE)),
		NeverExtractable: is(pkcs11.CKA_NEVER_EXTRACTABLE),
	}}
	length := 0
	if value, ok := more[pkcs11.CKA_VALUE_LEN]; ok {
		length = int(number(value))
	}
	o := &d.object
	o.Algorithms, o.Bits = template.Fits(template.Facts{
		Class: f.Class, KeyType: keyType, Curve: more[pkcs11.CKA_EC_PARAMS], Modulus: more[pkcs11.CKA_MODULUS],
		ValueLen: length, May: is,
	})
	if f.Class != keys.ClassSecret && len(o.Algorithms) > 0 {
		// Without an error for what is not there: private keys of curves do
		// not tell their point.
		o.PublicKey, _ = mech.Encode(o.Algorithms[0], o.Bits, more)
	}
	return d, nil
}

// told are the attributes that say what an object is and may do.
func told(class keys.ObjectClass, keyType uint) []uint {
	var a []uint
	switch class {
	case keys.ClassPublic:
		a = []uint{pkcs11.CKA_VERIFY, pkcs11.CKA_ENCRYPT}
	case keys.ClassPrivate:
		a = []uint{pkcs11.CKA_SIGN, pkcs11.CKA_DECRYPT}
	case keys.ClassSecret:
		a = []uint{pkcs11.CKA_SIGN, pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_VALUE_LEN}
	}
	if class != keys.ClassPublic {
		a = append(a, pkcs11.CKA_SENSITIVE, pkcs11.CKA_ALWAYS_SENSITIVE, pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_NEVER_EXTRACTABLE)
	}
	switch keyType {
	case pkcs11.CKK_RSA:
		a = append(a, pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT)
	case pkcs11.CKK_EC, template.CKKECEdwards:
		a = append(a, pkcs11.CKA_EC_PARAMS)
		if class == keys.ClassPublic {
			a = append(a, pkcs11.CKA_EC_POINT)
		}
	}
	return a
}

// number reads a CK_ULONG; what is none is the largest one.
func number(b []byte) uint {
	switch len(b) {
	case 8:
		return uint(binary.NativeEndian.Uint64(b))
	case 4:
		return uint(binary.NativeEndian.Uint32(b))
	}
	return math.MaxUint
}
