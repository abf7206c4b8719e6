package forms

import (
	"bytes"
	"encoding/asn1"
	"math/big"

	"keyhole/keys"
)

// ecdsaSignature is ECDSA-Sig-Value (RFC 3279, 2.2.3).
type ecdsaSignature struct{ R, S *big.Int }

// ECDSAToDER turns r||s into DER.
func ECDSAToDER(raw []byte) ([]byte, error) {
	half := len(raw) / 2
	return asn1.Marshal(ecdsaSignature{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}

// ECDSAFromDER turns DER into r||s, each as wide as a curve of the given
// bits. Only the one DER spelling is taken. The error is keys.ErrInvalid.
func ECDSAFromDER(der []byte, bits int) ([]byte, error) {
	bad := keys.Errorf(keys.ErrInvalid, "the signature is not a DER ECDSA signature")
	var sig ecdsaSignature
	rest, err := asn1.Unmarshal(der, &sig)
	width := (bits + 7) / 8
	if err != nil || len(rest) != 0 || sig.R == nil || sig.S == nil || sig.R.Sign() <= 0 || sig.S.Sign() <= 0 ||
		sig.R.BitLen() > 8*width || sig.S.BitLen() > 8*width {
		return nil, bad
	}
	// asn1 lets more elements follow in the sequence.
	if canonical, err := asn1.Marshal(sig); err != nil || !bytes.Equal(canonical, der) {
		return nil, bad
	}
	raw := make([]byte, 2*width)
	sig.R.FillBytes(raw[:width])
	sig.S.FillBytes(raw[width:])
	return raw, nil
}
