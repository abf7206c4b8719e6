package hsmtest

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"keyhole/keys"
)

// kinds are one algorithm of each kind of key that the backend has.
func (s *suite) kinds(t *testing.T) (all []testCase) {
	t.Helper()
	for _, c := range []testCase{{keys.ES256, 256}, {keys.ES384, 384}, {keys.ES512, 521}, {keys.EdDSA, 256}, {keys.RS256, 2048}, {keys.HS256, 256},
		{keys.HS512, 512}, {keys.A256GCM, 256}, {keys.RSAOAEP, 2048}} {
		if s.has(t, c.alg) {
			all = append(all, c)
		}
	}
	return all
}

// listed returns the objects with the CKA_ID of ref.
func (s *suite) listed(t *testing.T, ref keys.Ref) (own []keys.TokenObject) {
	t.Helper()
	all, err := s.b.List(t.Context(), ref.Token)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if bytes.Equal(o.ID, ref.ID[:]) {
			own = append(own, o)
		}
	}
	return own
}

func (s *suite) testList(t *testing.T) {
	if _, err := s.b.List(t.Context(), "no-such-token"); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("List of a token that does not exist: %v, want ErrInvalid", err)
	}
	for _, c := range s.kinds(t) {
		ref := s.generate(t, c.alg, c.bits)
		var classes []keys.ObjectClass
		for _, o := range s.listed(t, ref) {
			classes = append(classes, o.Class)
			if o.Token != ref.Token || o.Label != ref.Label || o.Bits != c.bits || !slices.Contains(o.Algorithms, c.alg) {
				t.Errorf("%s: listed as %+v", c.name(), o)
			}
			for _, alg := range o.Algorithms {
				if alg.Family() != c.alg.Family() || alg.Purpose() != c.alg.Purpose() {
					t.Errorf("%s: its %s key may serve as %s", c.name(), o.Class, alg)
				}
			}
			public := o.Class == keys.ClassPublic
			if public && !bytes.Equal(o.PublicKey, ref.PublicKey) || !public && len(o.PublicKey) > 0 && !bytes.Equal(o.PublicKey, ref.PublicKey) {
				t.Errorf("%s: another public key is listed with its %s key", c.name(), o.Class)
			}
			if !public && (o.Extractable || !o.NeverExtractable || !o.Sensitive || !o.AlwaysSensitive) {
				t.Errorf("%s: its %s key is listed as %+v", c.name(), o.Class, o)
			}
		}
		slices.Sort(classes)
		want := []keys.ObjectClass{keys.ClassPrivate, keys.ClassPublic}
		if !c.alg.Family().Asymmetric() {
			want = []keys.ObjectClass{keys.ClassSecret}
		}
		if !slices.Equal(classes, want) {
			t.Errorf("%s: listed are %v, want %v", c.name(), classes, want)
		}
		s.destroy(t, ref)
		if left := s.listed(t, ref); len(left) > 0 {
			t.Errorf("%s: listed although destroyed: %+v", c.name(), left)
		}
	}
}

func (s *suite) testInspect(t *testing.T) {
	for _, c := range s.kinds(t) {
		ref := s.generate(t, c.alg, c.bits)
		bare := ref
		bare.PublicKey, bare.Check = nil, nil
		for name, r := range map[string]keys.Ref{"all of it": ref, "its name only": bare} {
			got, err := s.b.Inspect(t.Context(), r)
			if err != nil {
				t.Errorf("%s, knowing %s: %v", c.name(), name, err)
				continue
			}
			if !bytes.Equal(got.PublicKey, ref.PublicKey) || len(got.Check) == 0 || !got.NeverExtractable || !got.AlwaysSensitive {
				t.Errorf("%s, knowing %s: %+v", c.name(), name, got)
			}
			s.works(t, complete(r, got)) // a check value that was found out is as good
		}
		s.works(t, ref)
	}
	if s.has(t, keys.PS384) {
		ref := s.generate(t, keys.RS256, 2048)
		ref.Algorithm = keys.PS384
		if _, err := s.b.Inspect(t.Context(), ref); err != nil {
			t.Errorf("an RSA key as PS384: %v", err)
		}
	}
}

func (s *suite) testInspectRefuses(t *testing.T) {
	for _, c := range s.kinds(t) {
		a, b := s.generate(t, c.alg, c.bits), s.generate(t, c.alg, c.bits)
		refused := func(name string, want error, edit func(r *keys.Ref)) {
			t.Helper()
			ref := a
			edit(&ref)
			if got, err := s.b.Inspect(t.Context(), ref); !errors.Is(err, want) {
				t.Errorf("%s with %s: %+v, %v; want %v", c.name(), name, got, err, want)
			}
		}
		refused("another CKA_ID", keys.ErrNotFound, func(r *keys.Ref) { r.ID = keys.NewObjectID() })
		refused("another key's CKA_ID", keys.ErrInvalid, func(r *keys.Ref) { r.ID = b.ID })
		refused("another label", keys.ErrInvalid, func(r *keys.Ref) { r.Label = b.Label })
		refused("another check value", keys.ErrInvalid, func(r *keys.Ref) {
			if r.Check = b.Check; c.alg.Family().Asymmetric() {
				r.PublicKey = b.PublicKey
			}
		})
		for _, other := range []keys.Algorithm{keys.ES256, keys.HS384, keys.A256GCM} {
			if other.Family() == c.alg.Family() && c.alg != keys.HS256 && c.alg != keys.HS512 {
				continue
			}
			want := keys.ErrInvalid
			if other.Family().Asymmetric() != c.alg.Family().Asymmetric() {
				want = keys.ErrNotFound // no object of that class has the CKA_ID
			}
			refused("the algorithm "+string(other), want, func(r *keys.Ref) {
				r.Algorithm, r.Bits, r.PublicKey, r.Check = other, 0, nil, nil
			})
		}
		s.works(t, a)
		s.destroy(t, a)
		refused("no objects any more", keys.ErrNotFound, func(*keys.Ref) {})
	}
	ref := s.ref(t, keys.ES256, 0)
	ref.Token = "no-such-token"
	if _, err := s.b.Inspect(t.Context(), ref); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("Inspect on a token that does not exist: %v, want ErrInvalid", err)
	}
}

// mark leaves a mark as of at (nil: now).
func (s *suite) mark(t *testing.T, ref keys.Ref, id keys.VersionID, at *time.Time) {
	t.Helper()
	if at == nil {
		now := time.Now()
		at = &now
	}
	err := s.b.MarkRevoked(t.Context(), ref, id, *at)
	if s.opts.NoMarks && !errors.Is(err, keys.ErrUnsupported) || !s.opts.NoMarks && err != nil {
		t.Fatalf("MarkRevoked: %v", err)
	}
}

// marked counts the marks of a version and key.
func (s *suite) marked(t *testing.T, ref keys.Ref, id keys.VersionID) (n int) {
	t.Helper()
	all, err := s.b.Revoked(t.Context(), ref.Token)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.Version == id && m.ObjectID == ref.ID {
			n++
		}
	}
	return n
}

func (s *suite) testMarks(t *testing.T) {
	ref, other := s.generate(t, keys.ES256, 0), s.generate(t, keys.HS256, 0)
	at := time.Date(2026, 11, 25, 12, 30, 0, 123456789, time.FixedZone("", 3600))
	id := keys.VersionID{Key: "a-key-with-the-longest-name-that-there-can-be-48ch", Number: 4294967295}
	id.Key = id.Key[:keys.MaxNameLen]
	s.mark(t, ref, id, &at)
	if s.opts.NoMarks {
		if n := s.marked(t, ref, id); n != 0 {
			t.Errorf("%d marks on a token that keeps none", n)
		}
		return
	}
	later := at.Add(time.Hour)
	s.mark(t, ref, id, &later)
	s.mark(t, other, id, &later) // another key of that name, before the token was cleared
	s.mark(t, ref, keys.VersionID{Key: id.Key, Number: 1}, &later)
	all, err := s.b.Revoked(t.Context(), ref.Token)
	if err != nil {
		t.Fatal(err)
	}
	var own []keys.RevocationMark
	for _, m := range all {
		if m.Version.Key == id.Key {
			own = append(own, m)
		}
	}
	slices.SortFunc(own, func(a, b keys.RevocationMark) int { return bytes.Compare(a.ObjectID[:], b.ObjectID[:]) })
	want := keys.RevocationMark{Token: ref.Token, Version: id, ObjectID: ref.ID, RevokedAt: at.UTC().Truncate(time.Microsecond)}
	if len(own) != 3 || !slices.Contains(own, want) {
		t.Errorf("the marks are %+v, want three, one of them %+v", own, want)
	}
	if n := s.marked(t, other, id); n != 1 {
		t.Errorf("%d marks of another key of that name", n)
	}
	s.works(t, ref)
	for _, bad := range []keys.VersionID{{}, {Key: "a b", Number: 1}, {Key: "a"}} {
		if err := s.b.MarkRevoked(t.Context(), ref, bad, at); !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("MarkRevoked of %q: %v, want ErrInvalid", bad, err)
		}
	}
	nowhere := ref
	nowhere.Token = "no-such-token"
	if err := s.b.MarkRevoked(t.Context(), nowhere, id, at); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("MarkRevoked on a token that does not exist: %v", err)
	}
	if _, err := s.b.Revoked(t.Context(), "no-such-token"); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("Revoked of a token that does not exist: %v", err)
	}
	// A mark outlives its key.
	s.destroy(t, ref)
	if n := s.marked(t, ref, id); n != 1 {
		t.Errorf("%d marks after the key was destroyed", n)
	}
}

func testStoreKey(t *testing.T, b Backend) {
	ctx := t.Context()
	if k, err := b.StoreKey(ctx, false); !errors.Is(err, keys.ErrNotFound) {
		t.Errorf("without a key for it: %d bytes, %v; want ErrNotFound", len(k), err)
	}
	got := make([][]byte, 4)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = b.StoreKey(ctx, true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	again, err := b.StoreKey(ctx, false)
	if err != nil || len(again) != 32 || bytes.Equal(again, make([]byte, 32)) {
		t.Errorf("StoreKey: %d bytes, %v", len(again), err)
	}
	for _, k := range got {
		if !bytes.Equal(k, again) {
			t.Error("two calls return different keys")
		}
	}
}
