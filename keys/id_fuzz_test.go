package keys_test

import (
	"math/big"
	"testing"

	"keyhole/keys"
)

// An object's id has one spelling.
func FuzzParseObjectID(f *testing.F) {
	f.Add("00112233445566778899aabbccddeeff")
	f.Add("00112233445566778899AABBCCDDEEFF")
	f.Add("0011")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := keys.ParseObjectID(s)
		if err == nil && id.String() != s {
			t.Fatalf("%q is read as %s", s, id)
		}
	})
}

// Any number is judged, and none that is divisible by a small prime is called
// weak: the weak generator makes none.
func FuzzWeakModulus(f *testing.F) {
	f.Add([]byte{1})
	f.Add([]byte{1, 0, 1})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := new(big.Int).SetBytes(b)
		weak := keys.WeakModulus(n)
		for _, p := range []int64{2, 3, 5, 7, 11, 167} {
			if weak && new(big.Int).Mod(n, big.NewInt(p)).Sign() == 0 {
				t.Fatalf("%d, divisible by %d, is weak", n, p)
			}
		}
	})
}
