// Package probe shows what a token can do by having it done: once for every
// algorithm when the token is opened (Run), and again and again with one key
// of Keyhole's own (Canary). Its keys are session objects, so that nothing is
// left on the token.
package probe

import (
	"errors"
	"fmt"

	"keyhole/hsm/internal/fault"
	"keyhole/hsm/internal/mech"
	"keyhole/hsm/internal/module"
	"keyhole/hsm/internal/template"
	"keyhole/keys"
)

// Capabilities are what a round trip has shown of every algorithm that
// Keyhole knows: nil, or why the token cannot do it.
type Capabilities map[keys.Algorithm]error

// Can lists what the token can do, in the order of keys.Algorithms.
func (c Capabilities) Can() []keys.Algorithm {
	var can []keys.Algorithm
	for _, alg := range keys.Algorithms() {
		if c.can(alg) {
			can = append(can, alg)
		}
	}
	return can
}

func (c Capabilities) can(alg keys.Algorithm) bool {
	limit, probed := c[alg]
	return probed && limit == nil
}

// String lists them for people.
func (c Capabilities) String() string {
	can := c.Can()
	if len(can) == 0 {
		return "nothing that Keyhole uses"
	}
	text := fmt.Sprint(can)
	return text[1 : len(text)-1]
}

// Reason is what a caller may know of why a token cannot do something.
func Reason(limit error) string {
	var e *fault.Error
	if errors.As(limit, &e) {
		return fault.CodeName(e.Code)
	}
	return "its result was wrong"
}

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

// prober is the state of Run.
type prober struct {
	tok   *module.Token
	s     *module.Session
	mode  string
	curve []byte
	found Capabilities
}

// Run finds out what the token can do, by doing it once with session objects,
// and which of template.EdwardsCurves it takes. mode is how it gets its IVs:
// see mech.Key.Wrap. It fails only when the token does.
func Run(tok *module.Token, mode string) (c Capabilities, curve []byte, err error) {
	p := prober{tok: tok, s: &module.Session{}, mode: mode, curve: template.EdwardsCurves[0], found: Capabilities{}}
	err = tok.Inside(func() error {
		defer p.s.Drop()
		return p.all()
	})
	return p.found, p.curve, err
}

func (p *prober) all() error {
	for _, f := range probes {
		if err := p.family(f.bits, f.algs); err != nil {
			return err
		}
	}
	if p.found[keys.EdDSA] != nil {
		p.curve = template.EdwardsCurves[1]
		return p.family(256, []keys.Algorithm{keys.EdDSA})
	}
	return nil
}

func (p *prober) family(bits int, algs []keys.Algorithm) error {
	var k mech.Key
	have := false
	for _, alg := range algs {
		err := p.tok.Ready(p.s)
		if err == nil && !have {
			k, err = sessionKey(p.s, algs[0], bits, p.curve)
			have = err == nil
		}
		if err == nil {
			err = p.try(k, alg)
		}
		if err != nil {
			if fault.Of(err) == fault.Device || errors.Is(err, fault.ErrPIN) {
				return err
			}
			p.s.Drop() // it may hold an unfinished operation; the key goes with it
			have = false
		}
		p.found[alg] = err
	}
	return nil
}

// try makes a round trip by alg, with a key of its family.
func (p *prober) try(k mech.Key, alg keys.Algorithm) error {
	k.Alg = alg
	if k.Public != nil {
		k.Public = k.Public.As(alg)
	}
	_, err := k.Check(p.s, p.mode, nil)
	return err
}

// sessionKey makes a key that lives as long as s.
func sessionKey(s *module.Session, alg keys.Algorithm, bits int, curve []byte) (mech.Key, error) {
	pub, key, err := mech.Generate(s, template.New(template.Spec{Alg: alg, Bits: bits, Curve: curve}))
	if err != nil {
		return mech.Key{}, err
	}
	k := mech.Key{Handle: key, Alg: alg, Bits: bits}
	if alg.Family().Asymmetric() {
		_, k.Public, err = mech.Export(s, pub, alg, bits)
	}
	return k, err
}
