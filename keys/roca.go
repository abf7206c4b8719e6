package keys

import "math/big"

// rocaPrimes are the small primes of whose product the weak generator knows its
// primes to be powers of 65537, for the smallest moduli; larger ones have more.
var rocaPrimes = []uint64{
	2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113,
	127, 131, 137, 139, 149, 151, 157, 163, 167,
}

// WeakModulus reports whether an RSA modulus was made by the generator of
// ROCA (CVE-2017-15361), which chips of one maker had, HSMs and smart cards
// among them: such a modulus can be factored. Its primes are powers of 65537
// modulo the product of small primes, and so is their product. A good modulus
// is one by chance once in 2^154.
func WeakModulus(n *big.Int) bool {
	if n.Sign() <= 0 {
		return false
	}
	type congruence struct{ exponent, order uint64 }
	var all []congruence
	for _, p := range rocaPrimes {
		want := new(big.Int).Mod(n, new(big.Int).SetUint64(p)).Uint64()
		c, found := congruence{}, false
		for power := uint64(1); c.order == 0 || power != 1; power = power * (65537 % p) % p {
			if !found && power == want {
				c.exponent, found = c.order, true
			}
			c.order++
		}
		if !found {
			return false
		}
		// One exponent must serve all primes.
		for _, other := range all {
			if g := gcd(c.order, other.order); c.exponent%g != other.exponent%g {
				return false
			}
		}
		all = append(all, c)
	}
	return true
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
