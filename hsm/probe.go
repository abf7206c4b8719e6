package hsm

import (
	"errors"
	"fmt"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/template"
	"keyhole/keys"
)

// probes are the key pairs that the probe makes, each for the algorithms that
// it shows. Lists of mechanisms are no evidence: SoftHSM lists RSA-OAEP and
// refuses SHA-256 with it, NSS lists AES-GCM and fails.
var probes = []struct {
	bits int
	algs []keys.Algorithm
}{
	{256, []keys.Algorithm{keys.ES256}},
	{384, []keys.Algorithm{keys.ES384}},
	{521, []keys.Algorithm{keys.ES512}},
	{256, []keys.Algorithm{keys.EdDSA}},
	{256, []keys.Algorithm{keys.HS256}},
	{384, []keys.Algorithm{keys.HS384}},
	{512, []keys.Algorithm{keys.HS512}},
	{256, []keys.Algorithm{keys.A256GCM}},
	{2048, []keys.Algorithm{keys.RS256, keys.RS384, keys.RS512, keys.PS256, keys.PS384, keys.PS512}},
	{2048, []keys.Algorithm{keys.RSAOAEP, keys.RSAOAEP256}},
}

// probe finds out what the token can do, by doing it once with session
// objects. It fails only when the token does.
func (t *token) probe(s *session) error {
	t.limits = map[keys.Algorithm]error{}
	t.edCurve = template.EdwardsCurves[0]
	for _, p := range probes {
		if err := t.probeFamily(s, p.bits, p.algs); err != nil {
			return err
		}
	}
	if t.limits[keys.EdDSA] != nil {
		t.edCurve = template.EdwardsCurves[1]
		return t.probeFamily(s, 256, []keys.Algorithm{keys.EdDSA})
	}
	return nil
}

func (t *token) probeFamily(s *session, bits int, algs []keys.Algorithm) error {
	var h handle
	have := false
	for _, alg := range algs {
		err := t.ready(s)
		if err == nil && !have {
			h, err = t.sessionKey(s, algs[0], bits)
			have = err == nil
		}
		if err == nil {
			err = t.tryKey(s, h, alg)
		}
		if err != nil {
			if fault.Of(err) == fault.Device || errors.Is(err, ErrPIN) {
				return err
			}
			t.drop(s) // it may hold an unfinished operation; the key goes with it
			have = false
		}
		t.limits[alg] = err
	}
	return nil
}

// sessionKey makes a key that lives as long as s.
func (t *token) sessionKey(s *session, alg keys.Algorithm, bits int) (handle, error) {
	pub, key, err := t.generateOn(s, template.New(template.Spec{Alg: alg, Bits: bits, Curve: t.edCurve}))
	if err != nil {
		return handle{}, err
	}
	h := handle{key: key, alg: alg, bits: bits}
	if alg.Family().Asymmetric() {
		_, h.pub, err = t.export(s, pub, alg, bits)
	}
	return h, err
}

// tryKey makes a round trip by alg, with a key of its family.
func (t *token) tryKey(s *session, h handle, alg keys.Algorithm) error {
	h.alg = alg
	if h.pub != nil {
		h.pub = h.pub.As(alg)
	}
	_, err := t.makeCheck(s, h, nil)
	return err
}

// Capable returns nil if a round trip has shown that the token can do alg.
// Otherwise the error is keys.ErrUnsupported and says what the token can, or
// keys.ErrInvalid when there is no such token.
func (h *HSM) Capable(token string, alg keys.Algorithm) error {
	t, err := h.token(token)
	if err != nil {
		return err
	}
	limit, probed := t.limits[alg]
	switch {
	case !probed:
		return keys.Errorf(keys.ErrUnsupported, "there is no algorithm %q", alg)
	case limit == nil:
		return nil
	}
	return keys.Errorf(keys.ErrUnsupported, "the token %q does not do %s (%s); it does %s", token, alg, reason(limit), join(t.capabilities()))
}

// capabilities lists what the token can do, sorted.
func (t *token) capabilities() []keys.Algorithm {
	var can []keys.Algorithm
	for _, alg := range keys.Algorithms() {
		if limit, probed := t.limits[alg]; probed && limit == nil {
			can = append(can, alg)
		}
	}
	return can
}

// reason is what a caller may know of why a token cannot do something.
func reason(limit error) string {
	var e *fault.Error
	if errors.As(limit, &e) {
		return fault.CodeName(e.Code)
	}
	return "its result was wrong"
}

func join(algs []keys.Algorithm) string {
	if len(algs) == 0 {
		return "nothing that Keyhole uses"
	}
	text := fmt.Sprint(algs)
	return text[1 : len(text)-1]
}
