package public

import (
	"encoding/hex"
	"testing"

	"keyhole/keys"
)

// A public key that is read fits its algorithm, and judges any signature
// without falling over.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"302a300506032b65700321007d4d0e7f6153a69b6242b522abbee685fda4420f8834b108c3bdae369ef549fa",
		"3059301306072a8648ce3d020106082a8648ce3d0301070342000404aaec73635726f213fb8a9e64da3b8632e41495a944d0045b522eba7240fad587d9315798aaa3a5ba01775787ced05eaaf7b4e09fc81d6d1aa546e8365d525d",
		"301b300d06092a864886f70d0101010500030a0030070202010102010", "3000",
	} {
		spki, _ := hex.DecodeString(s) // the odd one is empty: a seed too
		for _, alg := range keys.Algorithms() {
			f.Add(string(alg), spki, []byte("signature"))
		}
	}
	f.Fuzz(func(t *testing.T, alg string, spki, sig []byte) {
		k, err := Parse(keys.Algorithm(alg), spki)
		if err != nil {
			return
		}
		a := keys.Algorithm(alg)
		if !a.Known() || !a.Family().Asymmetric() {
			t.Fatalf("a key for %q", alg)
		}
		if a.Purpose() == keys.PurposeSign {
			size := 32
			if a.TakesDigest() {
				size = a.Hash().Size()
			}
			k.Verify(make([]byte, size), sig)
		}
	})
}
