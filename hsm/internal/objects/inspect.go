package objects

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/mech"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/public"
	"keyhole/keys"
)

// Inspect reads what the objects of ref are and uses the key once. What ref
// says of public key and check value must be so; what it does not say is
// found out. How well the key is protected is reported, not judged. Errors:
// keys.ErrNotFound, ErrInvalid (the objects are not what ref says, or not one
// key), ErrHSM.
func (k *Keys) Inspect(s *module.Session, ref *keys.Ref) (keys.Generated, error) {
	class := keys.ClassSecret
	if ref.Algorithm.Family().Asymmetric() {
		class = keys.ClassPrivate
	}
	h, d, err := k.only(s, ref, class)
	if err != nil {
		return keys.Generated{}, err
	}
	o := d.object
	if !slices.Contains(o.Algorithms, ref.Algorithm) || o.Bits != ref.Bits {
		return keys.Generated{}, unfit(ref, "is no key of %s with %d bits, or may not be used as one", ref.Algorithm, ref.Bits)
	}
	made := keys.Generated{
		NeverExtractable: o.NeverExtractable && !o.Extractable, AlwaysSensitive: o.AlwaysSensitive && o.Sensitive,
		PublicKey: o.PublicKey,
	}
	key := mech.Key{Handle: h, Alg: ref.Algorithm, Bits: ref.Bits}
	if class == keys.ClassPrivate {
		if made.PublicKey, key.Public, err = k.publicHalf(s, ref, made.PublicKey); err != nil {
			return keys.Generated{}, err
		}
	}
	if len(ref.Check) > 0 {
		made.Check = bytes.Clone(ref.Check)
		err = key.Prove(s, made.Check)
	} else {
		made.Check, err = key.Check(s, k.mode, made.PublicKey)
	}
	if errors.Is(err, fault.ErrIdentity) {
		return keys.Generated{}, unfit(ref, "is another key: it does not do what its public key or check value says")
	}
	return made, err
}

func unfit(ref *keys.Ref, format string, args ...any) error {
	return keys.Errorf(keys.ErrInvalid, "the object %q with CKA_ID %s on the token %q %s", ref.Label, ref.ID, ref.Token, fmt.Sprintf(format, args...))
}

// publicHalf returns the public key of a pair: that of its public object,
// else told, which the private one has told, else the one of ref. All that
// are there must be the same.
func (k *Keys) publicHalf(s *module.Session, ref *keys.Ref, told []byte) ([]byte, *public.Key, error) {
	_, d, err := k.only(s, ref, keys.ClassPublic)
	if err != nil && !errors.Is(err, keys.ErrNotFound) {
		return nil, nil, err
	}
	var spki []byte
	for _, have := range [][]byte{d.object.PublicKey, told, ref.PublicKey} {
		switch {
		case len(have) == 0:
		case spki == nil:
			spki = have
		case !bytes.Equal(spki, have):
			return nil, nil, unfit(ref, "has another public key than it should")
		}
	}
	if spki == nil {
		return nil, nil, unfit(ref, "has no public half that could be read: without it nothing can be verified")
	}
	pub, err := public.Parse(ref.Algorithm, spki)
	if err != nil {
		return nil, nil, unfit(ref, "has a public key that is none of %s", ref.Algorithm)
	}
	return spki, pub, nil
}

// only returns the one object of a class that has ref's CKA_ID, which must
// have its label too.
func (k *Keys) only(s *module.Session, ref *keys.Ref, class keys.ObjectClass) (pkcs11.ObjectHandle, described, error) {
	for attempt := 1; ; attempt++ {
		got, err := s.Find(2,
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_CLASS, classes[class]), pkcs11.NewAttribute(pkcs11.CKA_ID, ref.ID[:]))
		switch {
		case err != nil:
			return 0, described{}, err
		case len(got) == 1:
			d, err := k.describe(s, Found{got[0], class})
			if err == nil && d.object.Label != ref.Label && attempt < findAttempts {
				break // see findAttempts
			}
			if err == nil && d.object.Label != ref.Label {
				err = unfit(ref, "has another label")
			}
			return got[0], d, err
		case attempt < findAttempts:
		case len(got) == 0:
			return 0, described{}, keys.Errorf(keys.ErrNotFound, "the token %q has no %s key with CKA_ID %s", k.token, class, ref.ID)
		default:
			return 0, described{}, unfit(ref, "is there more than once")
		}
		time.Sleep(findPause)
	}
}
