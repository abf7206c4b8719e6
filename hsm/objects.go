package hsm

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/public"
	"keyhole/keys"
)

// object is what is known of one version's private or secret key: its public
// key parsed, and where it was found. Objects are cached by CKA_ID and good
// for one Ref content only.
type object struct {
	alg   keys.Algorithm
	bits  int
	spki  []byte
	check []byte
	pub   *public.Key // nil for secret keys

	mu    sync.Mutex // held while searching: one search at a time
	found atomic.Pointer[found]
}

// found is a handle, and the generation that it is good for.
type found struct {
	key pkcs11.ObjectHandle
	gen uint64
}

// object returns the cached object of ref, after checking that the cache
// speaks of the same key.
func (t *token) object(ref *keys.Ref) (*object, error) {
	if cached, ok := t.objects.Load(ref.ID); ok {
		if o := cached.(*object); o.is(ref) {
			return o, nil
		}
	}
	o, err := newObject(ref)
	if err != nil {
		return nil, err
	}
	t.objects.Store(ref.ID, o)
	return o, nil
}

func (o *object) is(ref *keys.Ref) bool {
	return o.alg == ref.Algorithm && o.bits == ref.Bits && bytes.Equal(o.check, ref.Check) && bytes.Equal(o.spki, ref.PublicKey)
}

func newObject(ref *keys.Ref) (*object, error) {
	o := &object{alg: ref.Algorithm, bits: ref.Bits, spki: bytes.Clone(ref.PublicKey), check: bytes.Clone(ref.Check)}
	if !ref.Algorithm.Family().Asymmetric() {
		if len(ref.Check) == 0 {
			return nil, fmt.Errorf("%s has no check value to know its key by: %w", ref.Label, fault.ErrIdentity)
		}
		return o, nil
	}
	var err error
	if o.pub, err = public.Parse(ref.Algorithm, ref.PublicKey); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", ref.Label, fault.ErrIdentity, err)
	}
	if !bytes.Equal(ref.Check, keys.PublicKeyCheck(ref.PublicKey)) {
		return nil, fmt.Errorf("%s: its check value is not that of its public key: %w", ref.Label, fault.ErrIdentity)
	}
	if size := o.pub.Size(); size != 0 && size != (ref.Bits+7)/8 {
		return nil, fmt.Errorf("%s: its RSA key has %d bytes, not %d bits: %w", ref.Label, size, ref.Bits, fault.ErrIdentity)
	}
	return o, nil
}

// forget drops what is known of an id.
func (t *token) forget(id keys.ObjectID) { t.objects.Delete(id) }

// use runs op with the object's handle, which is found first where need be.
// A handle that turned out to be stale is forgotten, so that the next attempt
// (exec makes one) finds it again.
func (t *token) use(s *session, id keys.ObjectID, o *object, op func(handle) ([]byte, error)) ([]byte, error) {
	key, err := t.locate(s, id, o)
	if err != nil {
		return nil, err
	}
	out, err := op(handle{key: key, alg: o.alg, bits: o.bits, pub: o.pub})
	if fault.Of(err) == fault.Handle {
		o.found.Store(nil)
	}
	return out, err
}

// Attempts to find an object that is not there exactly once. SoftHSM 2.6.1
// shows a wrong picture for a moment while objects are made or destroyed.
const (
	findAttempts = 3
	findPause    = 10 * time.Millisecond
)

// locate returns the object's handle for the session's generation. It is
// found by CKA_ID, exactly one match, and proved before it is remembered.
func (t *token) locate(s *session, id keys.ObjectID, o *object) (pkcs11.ObjectHandle, error) {
	if f := o.found.Load(); f != nil && f.gen == s.gen {
		return f.key, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.found.Load(); f != nil && f.gen == s.gen {
		return f.key, nil
	}
	key, err := t.findKey(s, id, o.alg)
	if err != nil {
		return 0, err
	}
	if err := t.prove(s, handle{key: key, alg: o.alg, bits: o.bits, pub: o.pub}, o.check); err != nil {
		return 0, fmt.Errorf("the object with CKA_ID %s: %w", id, err)
	}
	o.found.Store(&found{key, s.gen})
	return key, nil
}

// findKey returns the one private or secret key with this CKA_ID.
func (t *token) findKey(s *session, id keys.ObjectID, alg keys.Algorithm) (pkcs11.ObjectHandle, error) {
	class := uint(pkcs11.CKO_SECRET_KEY)
	if alg.Family().Asymmetric() {
		class = pkcs11.CKO_PRIVATE_KEY
	}
	return t.findOne(s, id, class)
}

func (t *token) findOne(s *session, id keys.ObjectID, class uint) (pkcs11.ObjectHandle, error) {
	for attempt := 1; ; attempt++ {
		got, err := t.find(s, 2,
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
			pkcs11.NewAttribute(pkcs11.CKA_ID, id[:]))
		switch {
		case err != nil:
			return 0, err
		case len(got) == 1:
			return got[0], nil
		case attempt == findAttempts && len(got) == 0:
			return 0, fmt.Errorf("token %q has no key with CKA_ID %s: %w", t.Name, id, keys.ErrHSM)
		case attempt == findAttempts:
			return 0, fmt.Errorf("token %q has several keys with CKA_ID %s; none of them is used: %w", t.Name, id, keys.ErrHSM)
		}
		time.Sleep(findPause)
	}
}
