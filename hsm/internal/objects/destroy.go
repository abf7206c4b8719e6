package objects

import (
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/module"
	"keyhole/keys"
)

// Destroy removes the objects of ref, known by CKA_ID and label, and checks
// that they are gone. It is idempotent: nil when there are none. An object
// that has the id but another label is left alone, and is an error.
func (k *Keys) Destroy(s *module.Session, ref *keys.Ref) error {
	k.known.Delete(ref.ID)
	return fault.Again(func() error {
		foreign := 0
		objects, err := keysByID(s, ref.ID)
		if err != nil {
			return err
		}
		for _, o := range objects {
			own, err := hasLabel(s, o, ref.Label)
			if err != nil {
				return err
			}
			if !own {
				foreign++
				continue
			}
			if s.Outdated() { // the handle may be another object's by now
				return fault.ErrOutdated
			}
			start := time.Now()
			if err := s.Note(fault.OpDestroy, start, s.Ctx().DestroyObject(s.Handle(), o)); err != nil {
				return err
			}
		}
		left, err := keysByID(s, ref.ID)
		switch {
		case err != nil:
			return err
		case foreign > 0:
			return fmt.Errorf("token %q has %d objects with the CKA_ID of %s but another label; they are left alone: %w", k.token, foreign, ref.Label, keys.ErrHSM)
		case len(left) > 0:
			return fmt.Errorf("token %q still has %d objects of %s after destroying them: %w", k.token, len(left), ref.Label, keys.ErrHSM)
		}
		return nil
	})
}

// hasLabel reports whether an object has a label. SoftHSM 2.6.1 shows an empty
// one for a moment while objects are made or destroyed.
func hasLabel(s *module.Session, o pkcs11.ObjectHandle, label string) (bool, error) {
	for attempt := 1; ; attempt++ {
		got, err := s.Attribute(o, pkcs11.CKA_LABEL)
		if err != nil || string(got) == label || attempt == findAttempts {
			return err == nil && string(got) == label, err
		}
		time.Sleep(findPause)
	}
}

// maxByID bounds a search by id; more than a pair is an accident already.
const maxByID = 64

// keysByID returns the key objects with an id. Certificates and data that
// carry it too are not Keyhole's.
func keysByID(s *module.Session, id keys.ObjectID) ([]pkcs11.ObjectHandle, error) {
	var all []pkcs11.ObjectHandle
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_SECRET_KEY} {
		found, err := s.Find(maxByID,
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
			pkcs11.NewAttribute(pkcs11.CKA_ID, id[:]))
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}
