package hsmtest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"keyhole/keys"
)

// half names one object of a pair, or a secret key.
type half struct {
	token, label string
	class        keys.ObjectClass
}

// Plant puts an object on a token, as another tool or an accident may: List
// shows it, Destroy removes it, and nothing else can be done with it.
func (m *Memory) Plant(o keys.TokenObject) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o.ID = bytes.Clone(o.ID)
	m.planted = append(m.planted, o)
}

// Lose takes the objects of a class and label off a token. What is left of a
// pair goes on working if it is the private one.
func (m *Memory) Lose(token, label string, class keys.ObjectClass) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost[half{token, label, class}] = true
	for _, o := range m.objects {
		if o.token == token && o.label == label && !slices.ContainsFunc(o.classes(), func(c keys.ObjectClass) bool { return !m.lost[half{token, label, c}] }) {
			m.objects = slices.DeleteFunc(m.objects, func(other *object) bool { return other == o })
			return
		}
	}
}

// Expose makes a key one that can leave its token.
func (m *Memory) Expose(token, label string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, o := range m.objects {
		if o.token == token && o.label == label {
			exposed := *o
			exposed.exposed = true
			m.objects[i] = &exposed
		}
	}
}

func (o *object) classes() []keys.ObjectClass {
	if o.alg.Family().Asymmetric() {
		return []keys.ObjectClass{keys.ClassPrivate, keys.ClassPublic}
	}
	return []keys.ObjectClass{keys.ClassSecret}
}

// Tokens implements Backend.
func (m *Memory) Tokens() []string { return slices.Clone(m.tokens) }

// List implements Backend.
func (m *Memory) List(ctx context.Context, token string) ([]keys.TokenObject, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	if !m.HasToken(token) {
		return nil, keys.Errorf(keys.ErrInvalid, "no token is configured under the name %q", token)
	}
	all := []keys.TokenObject{}
	for _, o := range m.objects {
		if o.token != token {
			continue
		}
		for _, class := range o.classes() {
			if !m.lost[half{token, o.label, class}] {
				all = append(all, o.listed(class))
			}
		}
	}
	for _, o := range m.planted {
		if o.Token == token {
			o.ID = bytes.Clone(o.ID)
			all = append(all, o)
		}
	}
	return all, nil
}

// listed is one object of the key as a token lists it.
func (o *object) listed(class keys.ObjectClass) keys.TokenObject {
	secret := class != keys.ClassPublic && !o.exposed
	listed := keys.TokenObject{
		Token: o.token, Class: class, Label: o.label, ID: bytes.Clone(o.id[:]), Bits: o.bits,
		Extractable: o.exposed, NeverExtractable: secret, Sensitive: secret, AlwaysSensitive: secret,
	}
	for _, alg := range keys.Algorithms() {
		bits, err := alg.KeyBits(o.bits)
		same := alg.Family() == o.alg.Family() && alg.Purpose() == o.alg.Purpose()
		if same && err == nil && bits == o.bits {
			listed.Algorithms = append(listed.Algorithms, alg)
		}
	}
	if class == keys.ClassPublic || o.alg.Family() == keys.FamilyRSA {
		listed.PublicKey = bytes.Clone(o.public)
	}
	return listed
}

// Inspect implements Backend.
func (m *Memory) Inspect(ctx context.Context, ref keys.Ref) (keys.Generated, error) {
	if err := m.Capable(ref.Token, ref.Algorithm); err != nil {
		return keys.Generated{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(ctx); err != nil {
		return keys.Generated{}, err
	}
	i := slices.IndexFunc(m.objects, func(o *object) bool {
		return o.token == ref.Token && o.id == ref.ID && o.alg.Family().Asymmetric() == ref.Algorithm.Family().Asymmetric()
	})
	if i < 0 {
		return keys.Generated{}, keys.Errorf(keys.ErrNotFound, "the token %q has no key with CKA_ID %s", ref.Token, ref.ID)
	}
	o := m.objects[i]
	fits := slices.Contains(o.listed(o.classes()[0]).Algorithms, ref.Algorithm) && (ref.Bits == 0 || ref.Bits == o.bits)
	if o.label != ref.Label || !fits || len(ref.PublicKey) > 0 && !bytes.Equal(ref.PublicKey, o.public) || len(ref.Check) > 0 && !bytes.Equal(ref.Check, o.check) {
		return keys.Generated{}, keys.Errorf(keys.ErrInvalid, "the object with CKA_ID %s on the token %q is not %s", ref.ID, ref.Token, ref.Label)
	}
	return keys.Generated{PublicKey: bytes.Clone(o.public), Check: bytes.Clone(o.check), NeverExtractable: !o.exposed, AlwaysSensitive: !o.exposed}, nil
}

// MarkRevoked implements Backend.
func (m *Memory) MarkRevoked(ctx context.Context, ref keys.Ref, id keys.VersionID, at time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	switch {
	case !m.HasToken(ref.Token):
		return keys.Errorf(keys.ErrInvalid, "no token is configured under the name %q", ref.Token)
	case m.noMarks:
		return keys.Errorf(keys.ErrUnsupported, "the token %q keeps no data objects", ref.Token)
	}
	if _, err := keys.ParseVersionID(id.String()); err != nil {
		return err
	}
	mark := keys.RevocationMark{Token: ref.Token, Version: id, ObjectID: ref.ID, RevokedAt: at.UTC().Truncate(time.Microsecond)}
	if !slices.ContainsFunc(m.marks, func(o keys.RevocationMark) bool {
		return o.Token == mark.Token && o.Version == id && o.ObjectID == ref.ID
	}) {
		m.marks = append(m.marks, mark)
	}
	return nil
}

// Revoked implements Backend.
func (m *Memory) Revoked(ctx context.Context, token string) ([]keys.RevocationMark, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	if !m.HasToken(token) {
		return nil, keys.Errorf(keys.ErrInvalid, "no token is configured under the name %q", token)
	}
	all := slices.Clone(m.marks)
	return slices.DeleteFunc(all, func(o keys.RevocationMark) bool { return o.Token != token }), nil
}

// StoreKey implements Backend.
func (m *Memory) StoreKey(ctx context.Context, create bool) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	if m.storeBy == nil && !create {
		return nil, keys.Errorf(keys.ErrNotFound, "there is no key for the store")
	}
	if m.storeBy == nil {
		m.storeBy = random(sha256.Size)
	}
	mac := hmac.New(sha256.New, m.storeBy)
	if _, err := mac.Write([]byte("the store's rows")); err != nil {
		return nil, fmt.Errorf("making a MAC: %w", err)
	}
	return mac.Sum(nil), nil
}
