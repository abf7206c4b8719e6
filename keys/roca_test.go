package keys_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"testing"

	"keyhole/keys"
)

// A modulus of the weak generator (Project Wycheproof's) is found, also with
// the product of the 39 primes added, and its neighbours and good ones are
// not taken for one.
func TestWeakModulus(t *testing.T) {
	const roca = "AanFpofbj7KjD4Lf-N2hVMKR7yewSyXhhbirIMTGpfYEhZ_lnt5UoK98DnKIgArXGTu3MaW_HhFw16HGaTDUHqPrId7fe4r11CqRw09yBFuW79V8sYIwHdzCaWflUI6auImYbVfoN9_nD5n8N8SY9DwXw7mwZM9wREPXoDPgOoIWl6q_MPsp7n0zs3Z5ZaiQWOOzl1S9OhwAfSiiOwz6efnXEaxuTEtPd7BjSx7NaFka8Dx9U7YqXy2RFj1O9PjyaDGuRh7YXsX3iMUSP_wSyHQg_c_qHRtKUsNSGCT7OZg0hzm2KphtjnayKJvC64vAbROBR4Ubg6Bxg9IQVZ-QYyE"
	b, err := base64.RawURLEncoding.DecodeString(roca)
	if err != nil {
		t.Fatal(err)
	}
	weak := new(big.Int).SetBytes(b)
	if !keys.WeakModulus(weak) {
		t.Error("the weak modulus is not found")
	}
	for _, d := range []int64{2, 4, 6, 30} {
		if keys.WeakModulus(new(big.Int).Add(weak, big.NewInt(d))) {
			t.Errorf("%d beside a weak modulus is one too", d)
		}
	}
	for _, n := range []int64{0, -1} {
		if keys.WeakModulus(big.NewInt(n)) {
			t.Errorf("%d is weak", n)
		}
	}
	for range 3 {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		if keys.WeakModulus(k.N) {
			t.Error("a good modulus is weak")
		}
	}
}
