package hsm

import (
	"runtime"
	"testing"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
	"keyhole/softhsm/softhsmtest"
)

// callers is how many goroutines call at a time.
const callers = 16

func parallel(b *testing.B, f func() error) {
	b.Helper()
	b.SetParallelism((callers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := f(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkRaw is a C_Sign loop: what there is to lose. Each caller has a
// session of its own.
func BenchmarkRaw(b *testing.B) {
	h := start(b, softhsmtest.Start(b))
	for _, alg := range []keys.Algorithm{keys.ES256, keys.RS256, keys.HS256} {
		b.Run(string(alg), func(b *testing.B) {
			bits := 0
			if alg.Family() == keys.FamilyRSA {
				bits = 2048
			}
			ref := generate(b, h, "raw-"+keys.NewObjectID().String(), alg, bits)
			p, any := raw(b, h)
			slot := h.tokens["t"].tok.Slot().ID
			in := input(alg)
			if alg == keys.RS256 {
				in = append(make([]byte, 19), in...)
			}
			mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(map[keys.Algorithm]uint{
				keys.ES256: pkcs11.CKM_ECDSA, keys.RS256: pkcs11.CKM_RSA_PKCS, keys.HS256: pkcs11.CKM_SHA256_HMAC,
			}[alg], nil)}
			class := map[bool]uint{true: pkcs11.CKO_PRIVATE_KEY, false: pkcs11.CKO_SECRET_KEY}[alg.Family().Asymmetric()]
			key := search(b, p, any, pkcs11.NewAttribute(pkcs11.CKA_ID, ref.ID[:]), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class))[0]
			b.SetParallelism((callers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				s, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
				if err != nil {
					b.Error(err)
					return
				}
				defer func() { _ = p.CloseSession(s) }()
				for err == nil && pb.Next() {
					if err = p.SignInit(s, mechanism, key); err == nil {
						_, err = p.Sign(s, in)
					}
				}
				if err != nil {
					b.Error(err)
				}
			})
		})
	}
}

func BenchmarkSign(b *testing.B) {
	h := start(b, softhsmtest.Start(b))
	for _, alg := range []keys.Algorithm{keys.ES256, keys.RS256, keys.HS256} {
		b.Run(string(alg), func(b *testing.B) {
			bits := 0
			if alg.Family() == keys.FamilyRSA {
				bits = 2048
			}
			ref := generate(b, h, "sign-"+keys.NewObjectID().String(), alg, bits)
			in := input(alg)
			parallel(b, func() error {
				_, err := h.Sign(b.Context(), ref, in)
				return err
			})
		})
	}
}

func BenchmarkWrap(b *testing.B) {
	h := start(b, softhsmtest.Start(b))
	ref := generate(b, h, "wrap.v1", keys.A256GCM, 0)
	key, aad := keys.NewDataKey(), make([]byte, 32)
	parallel(b, func() error {
		_, _, err := h.Wrap(b.Context(), ref, key, aad)
		return err
	})
}

func BenchmarkUnwrap(b *testing.B) {
	h := start(b, softhsmtest.Start(b))
	ref := generate(b, h, "unwrap.v1", keys.A256GCM, 0)
	aad := make([]byte, 32)
	iv, wrapped, err := h.Wrap(b.Context(), ref, keys.NewDataKey(), aad)
	if err != nil {
		b.Fatal(err)
	}
	parallel(b, func() error {
		_, err := h.Unwrap(b.Context(), ref, iv, wrapped, aad)
		return err
	})
}
