// Package objects is the keys on one token. It makes, finds and destroys them,
// and remembers where they are. Whatever it hands out was found by CKA_ID,
// exactly one match, and was proved against the version's public key or check
// value since the last login.
package objects

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/mech"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/public"
	"keyhole/keys"
)

// Keys are those of one token. Its methods may be called concurrently; those
// that make and destroy keys are for management operations (module.Manage).
type Keys struct {
	token string // its name, for messages
	tok   *module.Token
	log   *slog.Logger
	mode  string // how the token gets its IVs: see mech.Key.Wrap
	curve []byte // how it spells Ed25519: one of template.EdwardsCurves

	known sync.Map // keys.ObjectID to *Object
}

// New returns the Keys of tok. mode is one of the IV constants of package
// mech, curve one of template.EdwardsCurves.
func New(tok *module.Token, log *slog.Logger, mode string, curve []byte) *Keys {
	return &Keys{token: tok.Name(), tok: tok, log: log, mode: mode, curve: curve}
}

// Object is what is known of one version's private or secret key: its public
// key parsed, and where it was found. Objects are cached by CKA_ID and good
// for one Ref content only.
type Object struct {
	id    keys.ObjectID
	alg   keys.Algorithm
	bits  int
	spki  []byte
	check []byte
	pub   *public.Key // nil for secret keys

	turn  chan struct{} // capacity 1: held while searching
	found atomic.Pointer[found]
}

// found is a handle, and the generation that it is good for.
type found struct {
	handle pkcs11.ObjectHandle
	gen    uint64
}

// Object returns the object of ref: the cached one, after checking that the
// cache speaks of the same key. It asks the token nothing. The error is
// fault.ErrIdentity when ref cannot be the description of a key.
func (k *Keys) Object(ref *keys.Ref) (*Object, error) {
	if cached, ok := k.known.Load(ref.ID); ok {
		if o := cached.(*Object); o.is(ref) {
			return o, nil
		}
	}
	o, err := newObject(ref)
	if err != nil {
		return nil, err
	}
	k.known.Store(ref.ID, o)
	return o, nil
}

// Public is the parsed public key; nil for secret keys.
func (o *Object) Public() *public.Key { return o.pub }

// key is the object at a handle.
func (o *Object) key(h pkcs11.ObjectHandle) mech.Key {
	return mech.Key{Handle: h, Alg: o.alg, Bits: o.bits, Public: o.pub}
}

func (o *Object) is(ref *keys.Ref) bool {
	return o.alg == ref.Algorithm && o.bits == ref.Bits && bytes.Equal(o.check, ref.Check) && bytes.Equal(o.spki, ref.PublicKey)
}

func newObject(ref *keys.Ref) (*Object, error) {
	o := &Object{id: ref.ID, alg: ref.Algorithm, bits: ref.Bits, spki: bytes.Clone(ref.PublicKey), check: bytes.Clone(ref.Check), turn: make(chan struct{}, 1)}
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

// Use runs op with the object's key, which is found first where need be. A
// handle that turned out to be stale is forgotten, so that the next attempt
// (module.Exec makes one) finds it again.
func (k *Keys) Use(s *module.Session, o *Object, op func(mech.Key) ([]byte, error)) ([]byte, error) {
	h, err := k.locate(s, o)
	var out []byte
	if err == nil {
		if out, err = op(o.key(h)); fault.Of(err) == fault.Handle {
			o.found.Store(nil)
		}
	}
	if s.Outdated() { // good or bad, it may have come from another key
		clear(out)
		return nil, fault.ErrOutdated
	}
	return out, err
}

// Attempts to find an object that is not there exactly once. SoftHSM 2.6.1
// shows a wrong picture for a moment while objects are made or destroyed.
const (
	findAttempts  = 3
	freshAttempts = 30 // of an object that was made just now: it must be there
	findPause     = 10 * time.Millisecond

	searchPatience = 500 * time.Millisecond // with another search for the same object
)

// locate returns the object's handle for the session's generation. It is
// found by CKA_ID, exactly one match, and proved before it is remembered.
func (k *Keys) locate(s *module.Session, o *Object) (pkcs11.ObjectHandle, error) {
	if f := o.found.Load(); f != nil && f.gen == s.Generation() {
		return f.handle, nil
	}
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
	case <-time.After(searchPatience): // with one that hangs: it must not take every session with it
	}
	if f := o.found.Load(); f != nil && f.gen == s.Generation() {
		return f.handle, nil
	}
	h, err := k.findKey(s, o.id, o.alg, findAttempts)
	if err != nil {
		return 0, err
	}
	if err := o.key(h).Prove(s, o.check); err != nil {
		return 0, fmt.Errorf("the object with CKA_ID %s: %w", o.id, err)
	}
	o.found.Store(&found{h, s.Generation()})
	return h, nil
}

// findKey returns the one private or secret key with this CKA_ID.
func (k *Keys) findKey(s *module.Session, id keys.ObjectID, alg keys.Algorithm, attempts int) (pkcs11.ObjectHandle, error) {
	class := uint(pkcs11.CKO_SECRET_KEY)
	if alg.Family().Asymmetric() {
		class = pkcs11.CKO_PRIVATE_KEY
	}
	return k.findOne(s, id, class, attempts)
}

func (k *Keys) findOne(s *module.Session, id keys.ObjectID, class uint, attempts int) (pkcs11.ObjectHandle, error) {
	for attempt := 1; ; attempt++ {
		got, err := s.Find(2,
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
			pkcs11.NewAttribute(pkcs11.CKA_ID, id[:]))
		switch {
		case err != nil:
			return 0, err
		case len(got) == 1:
			return got[0], nil
		case attempt >= attempts && len(got) == 0:
			return 0, fmt.Errorf("token %q has no key with CKA_ID %s: %w", k.token, id, keys.ErrHSM)
		case attempt >= attempts:
			return 0, fmt.Errorf("token %q has several keys with CKA_ID %s; none of them is used: %w", k.token, id, keys.ErrHSM)
		}
		time.Sleep(findPause)
	}
}
