package wycheproof

import (
	"bytes"
	"crypto/x509"
	"errors"
	"testing"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// signatures has the gateway verify each signature by the group's public key.
func (fx *fixture) signatures(t *testing.T, f *file, s suite) (ran int) {
	refs := make([]keys.Ref, len(f.Groups))
	for i, g := range f.Groups {
		bits, err := s.alg.KeyBits(0)
		must(t, err)
		if s.alg.Family() == keys.FamilyRSA {
			bits = g.KeySize
		}
		refs[i] = fx.public(s.alg, bits, g.SPKI)
	}
	names := fx.serve(t, refs...)
	for i, g := range f.Groups {
		var asked []api.VerifyRequest
		for _, v := range g.Vectors {
			asked = append(asked, api.VerifyRequest{Payload: v.Message, Signature: v.Signature, Format: s.format, Version: 1})
		}
		n := len(asked)
		if s.alg.TakesDigest() { // the other way to ask the same
			for _, v := range g.Vectors {
				h := s.alg.Hash().New()
				h.Write(v.Message)
				asked = append(asked, api.VerifyRequest{Digest: h.Sum(nil), Signature: v.Signature, Format: s.format, Version: 1})
			}
		}
		valid := fx.verifyAll(t, names[i], asked)
		for j, v := range g.Vectors {
			ran++
			if n+j < len(valid) && valid[n+j] != valid[j] {
				t.Errorf("%d: by its digest it is another result", v.ID)
			}
			if s.other { // one of a file may differ by having our parameters
				v.Result = "invalid"
			}
			judge(t, f, v, valid[j])
		}
	}
	return ran
}

// pssMixed has signatures by all sorts of parameters; those of a JOSE
// algorithm are accepted, and no others.
func (fx *fixture) pssMixed(t *testing.T, f *file, _ suite) (ran int) {
	accepted := 0
	for _, g := range f.Groups {
		for _, alg := range []keys.Algorithm{keys.PS256, keys.PS384, keys.PS512} {
			name := fx.serve(t, fx.public(alg, g.KeySize, g.SPKI))[0]
			fits := g.SHA == alg.Hash().String() && g.MGFSHA == g.SHA && g.Salt == alg.Hash().Size()
			for _, v := range g.Vectors {
				got := fx.verify(t, name, api.VerifyRequest{Payload: v.Message, Signature: v.Signature, Version: 1})
				if got != (fits && v.valid()) {
					t.Errorf("%d: %s with MGF1 %s and a salt of %d bytes, as %s: accepted: %v", v.ID, g.SHA, g.MGFSHA, g.Salt, alg, got)
				}
				if got {
					accepted++
				}
			}
		}
		ran += len(g.Vectors)
	}
	if accepted != 3 {
		t.Errorf("%d of the vectors have the parameters of a JOSE algorithm, want 3", accepted)
	}
	return ran
}

// restricted has keys that are bound to parameters of PSS (RFC 4055). They
// are none of Keyhole's, and nothing is taken for valid by them.
func (fx *fixture) restricted(t *testing.T, f *file, s suite) (ran int) {
	for _, g := range f.Groups {
		if _, err := x509.ParsePKIXPublicKey(g.SPKI); err == nil {
			t.Fatal("the key is read: run its vectors")
		}
		ref := fx.public(s.alg, g.KeySize, g.SPKI)
		for _, v := range g.Vectors {
			ran++
			h := s.alg.Hash().New()
			h.Write(v.Message)
			valid, err := fx.hsm.Verify(t.Context(), ref, h.Sum(nil), v.Signature)
			if valid || !errors.Is(err, keys.ErrHSM) {
				t.Errorf("%d: %v, %v", v.ID, valid, err)
			}
		}
	}
	return ran
}

// made has the token sign by the vector's private key: the signatures of
// PKCS#1 v1.5 are always the same.
func (fx *fixture) made(t *testing.T, f *file, _ suite) (ran int) {
	algs := map[string]keys.Algorithm{"SHA-256": keys.RS256, "SHA-384": keys.RS384, "SHA-512": keys.RS512}
	for _, g := range f.Groups {
		alg, has := algs[g.SHA]
		if !has {
			alg = keys.RS256 // which then makes another signature
		}
		ref, err := fx.rsa(t, alg, g.PKCS8)
		if err != nil {
			if !errors.Is(err, keys.ErrInvalid) {
				t.Fatal(err)
			}
			for _, v := range g.Vectors {
				ran++
				judge(t, f, v, false)
			}
			continue
		}
		name := fx.serve(t, ref)[0]
		for _, v := range g.Vectors {
			ran++
			payload := append([]byte{}, v.Message...)
			out, err := fx.Service.Sign(t.Context(), caller, name, api.SignRequest{Payload: payload})
			must(t, err)
			if !has { // there is no way to ask for that hash
				v.Result = "invalid"
			}
			judge(t, f, v, bytes.Equal(out.Signature, v.Signature))
			if !fx.verify(t, name, api.VerifyRequest{Payload: payload, Signature: out.Signature, Version: 1}) {
				t.Errorf("%d: what was signed does not verify", v.ID)
			}
		}
	}
	return ran
}

// macs has the gateway verify each MAC; the token makes it again.
func (fx *fixture) macs(t *testing.T, f *file, s suite) (ran int) {
	bits, err := s.alg.KeyBits(0)
	must(t, err)
	// By key: what is asked about one key goes in one batch.
	type asked struct {
		g *group
		v *vector
	}
	byKey := map[string][]asked{}
	for _, g := range f.Groups {
		for _, v := range g.Vectors {
			byKey[string(v.Key)] = append(byKey[string(v.Key)], asked{g, v})
		}
	}
	for key, all := range byKey {
		valid := make([]bool, len(all))
		ref, err := fx.secret(t, s.alg, []byte(key))
		switch {
		case err == nil && ref.Bits == bits:
			var in []api.VerifyRequest
			for _, a := range all {
				in = append(in, api.VerifyRequest{Payload: a.v.Message, Signature: a.v.Tag, Version: 1})
			}
			valid = fx.verifyAll(t, fx.serve(t, ref)[0], in)
		case !errors.Is(err, keys.ErrInvalid) || len(key)*8 == bits:
			t.Fatalf("a key of %d bits: %v", len(key)*8, err)
		}
		for i, a := range all {
			ran++
			switch {
			case (a.g.KeySize != bits || a.g.TagSize != bits) && valid[i]:
				t.Errorf("%d: a MAC of %d bits by a key of %d is accepted", a.v.ID, a.g.TagSize, a.g.KeySize)
			case a.g.KeySize == bits && a.g.TagSize == bits:
				judge(t, f, a.v, valid[i])
			}
		}
	}
	return ran
}
