package hsmtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"

	"keyhole/keys"
)

func (s *suite) testTokens(t *testing.T) {
	token := s.b.DefaultToken()
	if token == "" || !s.b.HasToken(token) {
		t.Errorf("the default token is %q", token)
	}
	const none = "no-such-token"
	if s.b.HasToken(none) || s.b.HasToken("") {
		t.Error("there is a token that nobody configured")
	}
	if err := s.b.Capable(none, keys.ES256); err == nil {
		t.Error("a token that does not exist is capable of ES256")
	}
	for _, alg := range []keys.Algorithm{"", "none", "es256", "RSA1_5"} {
		if err := s.b.Capable(token, alg); err == nil {
			t.Errorf("the token is capable of %q", alg)
		}
	}
	ref := s.ref(t, keys.ES256, 0)
	ref.Token = none
	if _, err := s.b.Generate(t.Context(), ref); err == nil {
		t.Error("a key on a token that does not exist")
	}
	good := s.generate(t, keys.ES256, 0)
	bad := good
	bad.Token = none
	if err := useSecret(t.Context(), s.b, bad); err == nil {
		t.Error("a token that does not exist signs")
	}
	s.works(t, good)
}

func (s *suite) testRandom(t *testing.T) {
	seen := map[string]bool{}
	for _, token := range []string{"", s.b.DefaultToken()} {
		for _, n := range []int{16, 16, 32, 100, 4096} {
			b, err := s.b.Random(t.Context(), token, n)
			if err != nil || len(b) != n {
				t.Fatalf("Random(%q, %d): %d bytes, %v", token, n, len(b), err)
			}
			if seen[string(b[:16])] {
				t.Errorf("Random(%q, %d) repeats itself", token, n)
			}
			seen[string(b[:16])] = true
		}
		if b, err := s.b.Random(t.Context(), token, 1); err != nil || len(b) != 1 {
			t.Errorf("Random(%q, 1): %d bytes, %v", token, len(b), err)
		}
		for _, n := range []int{0, -1} {
			if b, err := s.b.Random(t.Context(), token, n); err == nil {
				t.Errorf("Random(%q, %d): %d bytes, want an error", token, n, len(b))
			}
		}
	}
	if b, err := s.b.Random(t.Context(), "no-such-token", 16); err == nil {
		t.Errorf("a token that does not exist gives %d bytes", len(b))
	}
}

func (s *suite) testGenerateRefuses(t *testing.T) {
	for _, c := range []testCase{{keys.RS256, 1024}, {keys.RS256, 2047}, {keys.RS256, 2056}, {keys.RS256, -1}, {keys.ES256, 384}, {keys.A256GCM, 128}, {"none", 0}, {"", 0}} {
		ref := s.ref(t, keys.ES256, 0)
		ref.Algorithm, ref.Bits = c.alg, c.bits
		if made, err := s.b.Generate(t.Context(), ref); err == nil {
			t.Errorf("Generate of %s with %d bits: %d bytes of public key", c.alg, c.bits, len(made.PublicKey))
			s.destroy(t, ref)
		}
	}
	for _, alg := range s.opts.Optional {
		if s.b.Capable(s.b.DefaultToken(), alg) == nil {
			continue
		}
		ref := s.ref(t, alg, 0)
		if _, err := s.b.Generate(t.Context(), ref); !errors.Is(err, keys.ErrUnsupported) {
			t.Errorf("Generate of %s, which the token does not do: %v, want ErrUnsupported", alg, err)
		}
	}
}

func (s *suite) testGenerateRefusesWhatIs(t *testing.T) {
	for _, alg := range []keys.Algorithm{keys.ES256, keys.A256GCM} {
		first := s.generate(t, alg, 0)
		sameID, sameLabel := s.ref(t, alg, 0), s.ref(t, alg, 0)
		sameID.ID, sameLabel.Label = first.ID, first.Label
		otherKind := s.ref(t, keys.HS256, 0)
		otherKind.ID = first.ID
		for name, ref := range map[string]keys.Ref{"id and label": first, "id": sameID, "label": sameLabel, "id, another kind": otherKind} {
			if _, err := s.b.Generate(t.Context(), ref); err == nil {
				t.Errorf("%s: a second key with the same %s", alg, name)
			}
		}
		s.works(t, first)
		// Nothing was left behind: the other half of each is still free.
		for _, ref := range []keys.Ref{{ID: sameLabel.ID, Label: sameID.Label}, {ID: keys.NewObjectID(), Label: otherKind.Label}} {
			ref.Token, ref.Algorithm, ref.Bits = first.Token, first.Algorithm, first.Bits
			s.works(t, s.make(t, ref))
		}
	}
}

func (s *suite) testDestroy(t *testing.T) {
	for _, alg := range []keys.Algorithm{keys.ES256, keys.EdDSA, keys.RS256, keys.HS256, keys.A256GCM, keys.RSAOAEP} {
		if !s.has(t, alg) {
			continue
		}
		bits := 0
		if alg.Family() == keys.FamilyRSA {
			bits = 2048
		}
		reserved := s.ref(t, alg, bits) // as recovery knows it: no public key, no check value
		s.destroy(t, reserved)          // never generated
		ref := s.make(t, reserved)
		var iv, wrapped []byte
		if alg.Purpose() == keys.PurposeEncrypt {
			iv, wrapped = s.wrap(t, ref, random(keys.DataKeySize), nil)
		}
		s.works(t, ref)
		s.destroy(t, reserved)
		s.gone(t, ref, iv, wrapped)
		s.destroy(t, ref)

		// The same id and label again, as recovery does, is another key.
		again := s.make(t, reserved)
		s.works(t, again)
		s.gone(t, ref, iv, wrapped)
		s.works(t, again)
		s.destroy(t, again)
		s.destroy(t, again)
		s.gone(t, again, nil, nil)
	}
}

// gone shows that a key is of no use any more.
func (s *suite) gone(t *testing.T, ref keys.Ref, iv, wrapped []byte) {
	t.Helper()
	if err := useSecret(t.Context(), s.b, ref); err == nil {
		t.Errorf("%s %s works although it was destroyed", ref.Algorithm, ref.Label)
	}
	if wrapped == nil {
		return
	}
	if key, err := s.b.Unwrap(t.Context(), ref, iv, wrapped, nil); err == nil {
		t.Errorf("%s %s unwraps %d bytes although it was destroyed", ref.Algorithm, ref.Label, len(key))
	}
}

// testDestroyOnlyWhatRefNames shows that a damaged row of the store cannot
// take another key with it. What Destroy answers then is its own business.
func (s *suite) testDestroyOnlyWhatRefNames(t *testing.T) {
	for _, alg := range []keys.Algorithm{keys.ES256, keys.HS256} {
		a, b := s.generate(t, alg, 0), s.generate(t, alg, 0)
		otherLabel, otherID, mixed, noToken := a, a, a, a
		otherLabel.Label = s.ref(t, alg, 0).Label
		otherID.ID = keys.NewObjectID()
		mixed.ID, mixed.Label = a.ID, b.Label
		noToken.Token = "no-such-token"
		for _, ref := range []keys.Ref{otherLabel, otherID, mixed, noToken, {}, {Token: a.Token}} {
			_ = s.b.Destroy(t.Context(), ref)
			s.works(t, a)
			s.works(t, b)
		}
	}
}

// testNeverAnotherKey presents refs that do not fit the objects.
func (s *suite) testNeverAnotherKey(t *testing.T) {
	for _, alg := range []keys.Algorithm{keys.ES256, keys.EdDSA, keys.HS256, keys.A256GCM} {
		if !s.has(t, alg) {
			continue
		}
		a, b := s.generate(t, alg, 0), s.generate(t, alg, 0)
		s.works(t, a) // whatever is cached of it
		bad := map[string]keys.Ref{}
		edit := func(name string, f func(*keys.Ref)) {
			ref := a
			f(&ref)
			bad[name] = ref
		}
		edit("another check value", func(r *keys.Ref) { r.Check = flip(a.Check, 0) })
		edit("half a check value", func(r *keys.Ref) { r.Check = a.Check[:len(a.Check)/2] })
		edit("no check value", func(r *keys.Ref) { r.Check = nil })
		edit("the check value of another key", func(r *keys.Ref) { r.Check = b.Check })
		edit("the id of another key", func(r *keys.Ref) { r.ID = b.ID })
		edit("an unknown id", func(r *keys.Ref) { r.ID = keys.NewObjectID() })
		edit("no id", func(r *keys.Ref) { r.ID = keys.ObjectID{} })
		if alg.Family().Asymmetric() {
			edit("the public key of another key", func(r *keys.Ref) { r.PublicKey = b.PublicKey })
			edit("public key and check value of another key", func(r *keys.Ref) { r.PublicKey, r.Check = b.PublicKey, b.Check })
			edit("no public key", func(r *keys.Ref) { r.PublicKey = nil })
			edit("a damaged public key", func(r *keys.Ref) { r.PublicKey = a.PublicKey[:len(a.PublicKey)-1] })
		}
		for name, ref := range bad {
			if err := useSecret(t.Context(), s.b, ref); err == nil {
				t.Errorf("%s: a ref with %s is served", alg, name)
			}
			s.works(t, a)
			s.works(t, b)
		}
	}
	ec := s.generate(t, keys.ES256, 0)
	for _, alg := range []keys.Algorithm{keys.ES512, keys.RS256, keys.HS256, keys.EdDSA, keys.A256GCM, "none", ""} {
		ref := ec
		ref.Algorithm = alg
		if err := useSecret(t.Context(), s.b, ref); err == nil {
			t.Errorf("an ES256 key works as %q", alg)
		}
	}
	s.works(t, ec)
}

// testReplacedKey plays the one who edits the database: own public key in
// the place of the token's.
func (s *suite) testReplacedKey(t *testing.T) {
	ref := s.generate(t, keys.ES256, 0)
	mine, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&mine.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	in := input(keys.ES256, "hello")
	sig, err := (ecKey{key: mine}).sign(keys.ES256, in)
	if err != nil {
		t.Fatal(err)
	}
	s.works(t, ref)
	forged := ref
	forged.PublicKey, forged.Check = spki, keys.PublicKeyCheck(spki)
	if ok, err := s.b.Verify(t.Context(), ref, in, sig); ok || err != nil {
		t.Errorf("a signature of a foreign key: %v, %v", ok, err)
	}
	if got, err := s.b.Sign(t.Context(), forged, in); err == nil {
		t.Errorf("signed under a foreign public key: %d bytes", len(got))
	}
	s.works(t, ref)
}

func testClose(t *testing.T, b Backend, opts Options) {
	s := &suite{b: b, opts: opts}
	var all []keys.Ref
	var made []keys.Generated
	for _, alg := range []keys.Algorithm{keys.ES256, keys.EdDSA, keys.HS256, keys.A256GCM, keys.RSAOAEP} {
		if !s.has(t, alg) {
			continue
		}
		bits := 0
		if alg.Family() == keys.FamilyRSA {
			bits = 2048
		}
		ref := s.ref(t, alg, bits)
		g, err := b.Generate(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		all, made = append(all, complete(ref, g)), append(made, g)
	}
	iv, wrapped := s.wrap(t, all[3], bytes.Repeat([]byte{7}, keys.DataKeySize), nil)
	storeKey, err := b.StoreKey(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	s.mark(t, all[0], keys.VersionID{Key: "closed", Number: 7}, nil)
	if opts.Reopen != nil {
		b = opts.Reopen(t, b)
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		s.b = b
		for i, ref := range all {
			s.works(t, ref)
			wrong := ref
			wrong.Check = flip(ref.Check, 0)
			if err := useSecret(t.Context(), b, wrong); err == nil {
				t.Errorf("%s: any check value is taken after a restart", ref.Algorithm)
			}
			if _, err := b.Generate(t.Context(), ref); err == nil {
				t.Errorf("%s: generated twice over a restart", ref.Algorithm)
			}
			if !bytes.Equal(made[i].Check, ref.Check) {
				t.Errorf("%s: the check value changed in the test", ref.Algorithm)
			}
		}
		if key, err := b.Unwrap(t.Context(), all[3], iv, wrapped, nil); err != nil || !bytes.Equal(key, bytes.Repeat([]byte{7}, keys.DataKeySize)) {
			t.Errorf("a key wrapped before the restart: %d bytes, %v", len(key), err)
		}
		if again, err := b.StoreKey(t.Context(), false); err != nil || !bytes.Equal(again, storeKey) {
			t.Errorf("the store's key is another one after a restart: %d bytes, %v", len(again), err)
		}
		if n := s.marked(t, all[0], keys.VersionID{Key: "closed", Number: 7}); n != 1 && !opts.NoMarks {
			t.Errorf("%d marks after a restart, want the one that was left", n)
		}
		s.destroy(t, all[0])
		s.gone(t, all[0], nil, nil)
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	for _, ref := range all {
		if err := useSecret(t.Context(), b, ref); err == nil {
			t.Errorf("%s works after Close", ref.Algorithm)
		}
	}
	if _, err := b.Generate(t.Context(), s.ref(t, keys.ES256, 0)); err == nil {
		t.Error("Generate works after Close")
	}
	_, lerr := b.List(t.Context(), all[0].Token)
	_, kerr := b.StoreKey(t.Context(), true)
	_, ierr := b.Inspect(t.Context(), all[1])
	for method, err := range map[string]error{"List": lerr, "StoreKey": kerr, "Inspect": ierr} {
		if err == nil {
			t.Errorf("%s works after Close", method)
		}
	}
	if n, err := b.Random(t.Context(), "", 16); err == nil {
		t.Errorf("Random gives %d bytes after Close", len(n))
	}
	if err := b.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}
