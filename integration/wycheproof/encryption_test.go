package wycheproof

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
)

// gcm opens each ciphertext twice: as a wrapped data key, by a token that
// holds the vector's key, and as the content of a JWE.
func (fx *fixture) gcm(t *testing.T, f *file, s suite) (ran int) {
	refs := map[string]*keys.Ref{}
	const header = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ" // RSA-OAEP, A256GCM
	for _, g := range f.Groups {
		for _, v := range g.Vectors {
			ran++
			ref, known := refs[string(v.Key)]
			if !known {
				got, err := fx.secret(t, s.alg, v.Key)
				switch {
				case err == nil && g.KeySize == 256:
					ref = &got
				case !errors.Is(err, keys.ErrInvalid) || g.KeySize == 256:
					t.Fatalf("%d: a key of %d bits: %v", v.ID, g.KeySize, err)
				}
				refs[string(v.Key)] = ref
			}
			sealed := append(bytes.Clone(v.Ciphertext), v.Tag...)
			fits := g.KeySize == 256 && g.IVSize == 96
			if ref != nil {
				plain, err := fx.hsm.Unwrap(t.Context(), *ref, v.IV, sealed, v.AAD)
				opened(t, v, "a data key", plain, err)
				if fits && len(v.Message) > 0 && len(v.Message) <= 64 { // what a data key can be
					judge(t, f, v, err == nil)
				} else if err == nil {
					t.Errorf("%d: a data key of %d bytes by a key of %d and an IV of %d bits is accepted", v.ID, len(v.Message), g.KeySize, g.IVSize)
				}
			}
			if g.IVSize == 96 {
				jwe := keys.JWE{Protected: v.AAD, IV: v.IV, Ciphertext: v.Ciphertext, Tag: v.Tag}
				plain, err := jwe.Open(v.Key)
				opened(t, v, "a JWE", plain, err)
				if g.KeySize == 256 {
					judge(t, f, v, err == nil)
				} else if err == nil {
					t.Errorf("%d: a content key of %d bits is accepted", v.ID, g.KeySize)
				}
				continue
			}
			compact := strings.Join([]string{header, "AAAA", b64(v.IV), b64(v.Ciphertext), b64(v.Tag)}, ".")
			if _, err := keys.ParseJWE(compact); !errors.Is(err, keys.ErrInvalid) {
				t.Errorf("%d: an IV of %d bits is read: %v", v.ID, g.IVSize, err)
			}
		}
	}
	return ran
}

// opened checks that what opens is the plaintext, and that what does not
// open says no more than that.
func opened(t *testing.T, v *vector, what string, plain []byte, err error) {
	t.Helper()
	switch {
	case err == nil && !bytes.Equal(plain, v.Message):
		t.Errorf("%d: %s is %x, want %x", v.ID, what, plain, v.Message)
	case err != nil && (!errors.Is(err, keys.ErrDecrypt) || plain != nil):
		t.Errorf("%d: %s: %x, %v", v.ID, what, plain, err)
	}
}

// rsa puts a private key and its public half on the token.
func (fx *fixture) rsa(t *testing.T, alg keys.Algorithm, pkcs8 []byte) (keys.Ref, error) {
	t.Helper()
	parsed, err := x509.ParsePKCS8PrivateKey(pkcs8)
	must(t, err)
	return fx.rsaKey(t, alg, parsed.(*rsa.PrivateKey))
}

func (fx *fixture) rsaKey(t *testing.T, alg keys.Algorithm, k *rsa.PrivateKey) (keys.Ref, error) {
	t.Helper()
	k.Precompute()
	ref := fx.refFor(alg, k.N.BitLen())
	number := func(a uint, n *big.Int) *pkcs11.Attribute { return pkcs11.NewAttribute(a, n.Bytes()) }
	public := []*pkcs11.Attribute{number(pkcs11.CKA_MODULUS, k.N), number(pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(k.E)))}
	use, publicUse := uint(pkcs11.CKA_SIGN), uint(pkcs11.CKA_VERIFY)
	if alg.Purpose() == keys.PurposeEncrypt {
		use, publicUse = pkcs11.CKA_DECRYPT, pkcs11.CKA_ENCRYPT
	}
	fx.create(t, ref, pkcs11.CKO_PUBLIC_KEY, pkcs11.CKK_RSA, []uint{publicUse}, public...)
	fx.create(t, ref, pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_RSA, []uint{use}, append(public,
		number(pkcs11.CKA_PRIVATE_EXPONENT, k.D), number(pkcs11.CKA_PRIME_1, k.Primes[0]), number(pkcs11.CKA_PRIME_2, k.Primes[1]),
		number(pkcs11.CKA_EXPONENT_1, k.Precomputed.Dp), number(pkcs11.CKA_EXPONENT_2, k.Precomputed.Dq), number(pkcs11.CKA_COEFFICIENT, k.Precomputed.Qinv))...)
	return fx.learn(t, ref)
}

// oaep has the token open each ciphertext. SoftHSM has OAEP with SHA-1 and
// no label; nothing else opens. Vectors of RSAES-PKCS1-v1_5 are here too,
// and are all refused.
func (fx *fixture) oaep(t *testing.T, f *file, s suite) (ran int) {
	must(t, fx.hsm.Capable("t", keys.RSAOAEP))
	if err := fx.hsm.Capable("t", keys.RSAOAEP256); !errors.Is(err, keys.ErrUnsupported) {
		t.Fatalf("the token has OAEP with SHA-256 (%v): run its vectors too", err)
	}
	refs := map[string]keys.Ref{}
	for _, g := range f.Groups {
		supported := g.KeySize == 2048 || g.KeySize == 3072 || g.KeySize == 4096
		fits := !s.other && g.SHA == "SHA-1" && g.MGFSHA == "SHA-1"
		if !supported || len(g.PrivateRSA.OtherPrimes) > 0 {
			// No key of Keyhole: it has 2048, 3072 or 4096 bits, and PKCS#11
			// has no place for a third prime.
			if _, err := s.alg.KeyBits(g.KeySize); supported == (err != nil) {
				t.Errorf("%d bits: %v", g.KeySize, err)
			}
			ran += len(g.Vectors)
			continue
		}
		ref, known := refs[string(g.PKCS8)]
		if !known {
			var err error
			ref, err = fx.rsa(t, s.alg, g.PKCS8)
			must(t, err)
			refs[string(g.PKCS8)] = ref
		}
		for _, v := range g.Vectors {
			ran++
			plain, err := fx.hsm.Unwrap(t.Context(), ref, nil, v.Ciphertext, nil)
			switch {
			case !fits || len(v.Label) > 0:
				if err == nil {
					t.Errorf("%d (%s): %s, MGF1 %s, a label of %d bytes: is accepted", v.ID, v.Comment, g.SHA, g.MGFSHA, len(v.Label))
				}
			default:
				opened(t, v, "a data key", plain, err)
				judge(t, f, v, err == nil)
			}
		}
	}
	return ran
}
