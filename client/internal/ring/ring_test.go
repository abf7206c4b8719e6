package ring_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/client/internal/ring"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// published is what a gateway publishes of a key with ES256 versions.
type published struct {
	private map[uint32]*ecdsa.PrivateKey
}

func newPublished(t testing.TB, n uint32) *published {
	t.Helper()
	p := &published{private: map[uint32]*ecdsa.PrivateKey{}}
	for i := range n {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		p.private[i+1] = key
	}
	return p
}

func (p *published) jwk(t testing.TB, n uint32) api.JWK {
	t.Helper()
	point, err := p.private[n].PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return api.JWK{KeyType: "EC", Use: "sig", Algorithm: "ES256", KeyID: fmt.Sprintf("payments.v%d", n), Curve: "P-256", X: b64(point[1:33]), Y: b64(point[33:])}
}

func (p *published) jws(t testing.TB, n uint32, alg keys.Algorithm, payload string) string {
	t.Helper()
	in := keys.SigningInput(alg, keys.VersionID{Key: "payments", Number: n}, []byte(payload))
	h := crypto.SHA256.New()
	h.Write(in)
	r, s, err := ecdsa.Sign(rand.Reader, p.private[n], h.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	return keys.CompactJWS(in, append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), false)
}

func status(states ...keys.State) api.StatusSet {
	var set api.StatusSet
	for i, s := range states {
		set.Keys = append(set.Keys, api.KeyStatus{KeyID: fmt.Sprintf("payments.v%d", i+1), State: string(s)})
	}
	return set
}

func verify(t *testing.T, r *ring.Ring, jws string) (api.VerifyResponse, error) {
	t.Helper()
	s, err := ring.Parse("payments", api.VerifyRequest{JWS: jws})
	if err != nil {
		t.Fatal(err)
	}
	return r.Verify(s)
}

// Each state is judged as the gateway judges it.
func TestStates(t *testing.T) {
	t.Parallel()
	p := newPublished(t, 1)
	for state, want := range map[keys.State]struct {
		valid  bool
		reason string
		err    error
	}{
		keys.PreActivation:    {valid: true},
		keys.Active:           {valid: true},
		keys.Deactivated:      {valid: true},
		keys.Suspended:        {reason: "suspended"},
		keys.Compromised:      {reason: "compromised"},
		keys.DestroyScheduled: {reason: "destroy-scheduled"},
		keys.Destroyed:        {reason: "destroyed"},
		keys.Archived:         {err: keys.ErrVersionState},
		"quarantined":         {err: keys.ErrVersionState}, // of a later gateway
	} {
		r := ring.New("payments")
		if err := r.Fill(api.JWKS{Keys: []api.JWK{p.jwk(t, 1)}}, status(state)); err != nil {
			t.Fatal(err)
		}
		got, err := verify(t, r, p.jws(t, 1, keys.ES256, "x"))
		if got.Valid != want.valid || got.Reason != want.reason || !errors.Is(err, want.err) || got.State != string(state) || got.KeyID != "payments.v1" {
			t.Errorf("%s: %+v, %v; want %+v", state, got, err, want)
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	p := newPublished(t, 2)
	r := ring.New("payments")
	if err := r.Fill(api.JWKS{Keys: []api.JWK{p.jwk(t, 2), p.jwk(t, 1)}}, status(keys.Deactivated, keys.Active)); err != nil {
		t.Fatal(err)
	}
	good := p.jws(t, 2, keys.ES256, "x")
	if got, err := verify(t, r, good); err != nil || !got.Valid || got.Version != 2 || got.Algorithm != "ES256" {
		t.Errorf("%+v, %v", got, err)
	}
	last := map[bool]string{true: "A", false: "B"}[strings.HasSuffix(good[:len(good)-1], "A")]
	if got, err := verify(t, r, good[:len(good)-2]+last+good[len(good)-1:]); err != nil || got.Valid || got.Reason != api.ReasonBadSignature {
		t.Errorf("altered: %+v, %v", got, err)
	}
	if got, err := verify(t, r, p.jws(t, 1, keys.ES384, "x")); err != nil || got.Valid || got.Reason != api.ReasonAlgorithm {
		t.Errorf("another algorithm in its header: %+v, %v", got, err)
	}
	p.private[3] = p.private[1]
	if _, err := verify(t, r, p.jws(t, 3, keys.ES256, "x")); !errors.Is(err, keys.ErrVersionNotFound) {
		t.Errorf("a version not kept: %v", err)
	}
	for name, in := range map[string]api.VerifyRequest{
		"nothing":             {},
		"no version":          {Payload: []byte("x"), Signature: []byte("x")},
		"no payload":          {Signature: []byte("x"), Version: 1},
		"payload and digest":  {Payload: []byte("x"), Digest: []byte("x"), Signature: []byte("x"), Version: 1},
		"hash without digest": {Payload: []byte("x"), Hash: "sha-256", Signature: []byte("x"), Version: 1},
		"an unknown format":   {Payload: []byte("x"), Signature: []byte("x"), Version: 1, Format: "p7"},
		"two signatures":      {JWS: good, Signature: []byte("x")},
		"two versions":        {JWS: good, Version: 1},
		"no JWS":              {JWS: "x.y"},
		"another key's":       {JWS: keys.CompactJWS(keys.SigningInput(keys.ES256, keys.VersionID{Key: "other", Number: 1}, nil), nil, false)},
	} {
		if _, err := ring.Parse("payments", in); !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	s, err := ring.Parse("payments", api.VerifyRequest{Digest: []byte("short"), Signature: []byte("x"), Version: 1})
	if err == nil {
		_, err = r.Verify(s)
	}
	if !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("a short digest: %v", err)
	}
}

// What was revoked stays so, whatever order answers and events come in.
func TestRevokedIsForGood(t *testing.T) {
	t.Parallel()
	p := newPublished(t, 1)
	jwks := api.JWKS{Keys: []api.JWK{p.jwk(t, 1)}}
	jws := p.jws(t, 1, keys.ES256, "x")
	revoked := api.Event{Type: string(keys.NoticeRevoked), Key: "payments", Version: 1}
	steps := map[string]func(*ring.Ring){
		"event":  func(r *ring.Ring) { r.Apply(revoked) },
		"status": func(r *ring.Ring) { _ = r.Fill(api.JWKS{}, status(keys.Compromised)) },
		"destroyed status": func(r *ring.Ring) {
			_ = r.Fill(api.JWKS{}, api.StatusSet{Keys: []api.KeyStatus{{KeyID: "payments.v1", State: "destroy-scheduled", RevokedAt: api.At(time.Now())}}})
		},
	}
	for name, revoke := range steps {
		for _, late := range []keys.State{keys.Active, keys.Suspended, keys.PreActivation, keys.Deactivated, keys.Archived} {
			r := ring.New("payments")
			revoke(r)
			if err := r.Fill(jwks, status(late)); err != nil {
				t.Fatal(err)
			}
			r.Apply(api.Event{Type: string(keys.NoticeSuspended), Key: "payments", Version: 1})
			if got, err := verify(t, r, jws); err != nil || got.Valid || got.Reason != "compromised" {
				t.Errorf("revoked by %s, then %s: %+v, %v", name, late, got, err)
			}
		}
	}
}

// Events take trust away at once, and never give it.
func TestEvents(t *testing.T) {
	t.Parallel()
	p := newPublished(t, 1)
	for _, typ := range keys.NoticeTypes() {
		r := ring.New("payments")
		if err := r.Fill(api.JWKS{Keys: []api.JWK{p.jwk(t, 1)}}, status(keys.Suspended)); err != nil {
			t.Fatal(err)
		}
		r.Apply(api.Event{Type: string(typ), Key: "payments", Version: 1})
		if got, err := verify(t, r, p.jws(t, 1, keys.ES256, "x")); got.Valid {
			t.Errorf("%s gave trust: %+v, %v", typ, got, err)
		}
		r = ring.New("payments")
		if err := r.Fill(api.JWKS{Keys: []api.JWK{p.jwk(t, 1)}}, status(keys.Active)); err != nil {
			t.Fatal(err)
		}
		r.Apply(api.Event{Type: string(typ), Key: "other", Version: 1})
		if got, err := verify(t, r, p.jws(t, 1, keys.ES256, "x")); !got.Valid {
			t.Errorf("%s of another key: %+v, %v", typ, got, err)
		}
		ends := slices.Contains([]keys.NoticeType{
			keys.NoticeRevoked, keys.NoticeSuspended, keys.NoticeArchived, keys.NoticeDestroyScheduled, keys.NoticeDestroyed, keys.NoticeKeyDeleted,
		}, typ)
		ev := api.Event{Type: string(typ), Key: "payments", Version: 1}
		if typ == keys.NoticeKeyDeleted {
			ev.Version = 0
		}
		r.Apply(ev)
		if got, _ := verify(t, r, p.jws(t, 1, keys.ES256, "x")); got.Valid == ends {
			t.Errorf("%s: %+v", typ, got)
		}
	}
}

// A kid has one public key.
func TestAnotherPublicKey(t *testing.T) {
	t.Parallel()
	p, q := newPublished(t, 1), newPublished(t, 1)
	r := ring.New("payments")
	if err := r.Fill(api.JWKS{Keys: []api.JWK{p.jwk(t, 1)}}, status(keys.Active)); err != nil {
		t.Fatal(err)
	}
	if err := r.Fill(api.JWKS{Keys: []api.JWK{q.jwk(t, 1)}}, status(keys.Active)); !errors.Is(err, keys.ErrTampered) {
		t.Errorf("%v, want ErrTampered", err)
	}
	if got, err := verify(t, r, q.jws(t, 1, keys.ES256, "x")); err != nil || got.Valid {
		t.Errorf("by the other key: %+v, %v", got, err)
	}
	if got, err := verify(t, r, p.jws(t, 1, keys.ES256, "x")); err != nil || !got.Valid {
		t.Errorf("by the first key: %+v, %v", got, err)
	}
}

// What cannot be read keeps nothing else out.
func TestPartlyReadable(t *testing.T) {
	t.Parallel()
	p := newPublished(t, 2)
	odd := p.jwk(t, 2)
	odd.Algorithm = "ES999"
	r := ring.New("payments")
	set := status(keys.Active, keys.PreActivation)
	set.Keys = append(set.Keys, api.KeyStatus{KeyID: "?", State: "active"}, api.KeyStatus{KeyID: "other.v1", State: "active"})
	if err := r.Fill(api.JWKS{Keys: []api.JWK{odd, p.jwk(t, 1)}}, set); err == nil {
		t.Error("no word of what was left out")
	}
	if got, err := verify(t, r, p.jws(t, 1, keys.ES256, "x")); err != nil || !got.Valid {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := verify(t, r, p.jws(t, 2, keys.ES256, "x")); !errors.Is(err, keys.ErrWrongPurpose) {
		t.Errorf("a version without a public key: %v", err)
	}
	all := r.Versions()
	if len(all) != 2 || all[0].Number != 2 || all[0].Public != nil || all[1].State != keys.Active {
		t.Errorf("%+v", all)
	}
}

// Whatever is read as a request is judged without a panic, and holds only if
// it is the signature that was made.
func FuzzVerify(f *testing.F) {
	p := newPublished(f, 1)
	r := ring.New("payments")
	if err := r.Fill(api.JWKS{Keys: []api.JWK{p.jwk(f, 1)}}, status(keys.Active)); err != nil {
		f.Fatal(err)
	}
	good := p.jws(f, 1, keys.ES256, "x")
	f.Add(good, []byte(nil), []byte(nil), uint32(0), "")
	f.Add("", []byte("x"), new(big.Int).Lsh(big.NewInt(1), 511).Bytes(), uint32(1), "")
	f.Add("", []byte("x"), []byte{0x30, 6, 2, 1, 1, 2, 1, 1}, uint32(1), "der")
	f.Fuzz(func(t *testing.T, jws string, payload, sig []byte, version uint32, format string) {
		s, err := ring.Parse("payments", api.VerifyRequest{JWS: jws, Payload: payload, Signature: sig, Version: version, Format: format})
		if err != nil {
			return
		}
		if got, _ := r.Verify(s); got.Valid && jws != good {
			// ECDSA lets anybody write s as n-s: the same payload then.
			parsed, err := keys.ParseJWS(jws, payload)
			if err != nil || string(parsed.Payload) != "x" {
				t.Fatalf("%q, %q, %x holds: %+v", jws, payload, sig, got)
			}
		}
	})
}
