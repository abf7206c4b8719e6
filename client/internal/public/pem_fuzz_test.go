package public_test

import (
	"testing"

	"keyhole/client/internal/public"
	"keyhole/keys"
)

// A public key that is read goes with its algorithm.
func FuzzPEM(f *testing.F) {
	f.Add("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAfU0Of2FTpptiQrUiq77mhf2kQg+INLEIw72uNp71Sfo=\n-----END PUBLIC KEY-----\n", "EdDSA")
	f.Add("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEBKrsc2NXJvIT+4qeZNo7hjLkFJWp\nRNAEW1IuunJA+tWH2TFXmKqjpboBd1eHztBeqve04J/IHW0apUboNl1SXQ==\n-----END PUBLIC KEY-----\n", "ES256")
	f.Add("-----BEGIN X-----\n-----END X-----\n", "RS256")
	f.Fuzz(func(t *testing.T, text, alg string) {
		key, err := public.ParsePEM(text, keys.Algorithm(alg))
		if err == nil && (key == nil || !keys.Algorithm(alg).Family().Asymmetric()) {
			t.Fatalf("%T for %q", key, alg)
		}
	})
}
