package public

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"

	"keyhole/gateway/api"
)

var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

// Bounds of RSA keys in bits. Below is no security, above is work for whoever
// verifies.
const minRSA, maxRSA = 2048, 8192

// keyOf reads the key material of a JWK (RFC 7518, 6; RFC 8037). Every member
// has one spelling.
func keyOf(jwk api.JWK) (crypto.PublicKey, error) {
	switch jwk.KeyType {
	case "EC":
		curve := curves[jwk.Curve]
		if curve == nil {
			return nil, fmt.Errorf("the curve %.16q is unknown", jwk.Curve)
		}
		width := (curve.Params().BitSize + 7) / 8
		x, err := fixed("x", jwk.X, width)
		if err != nil {
			return nil, err
		}
		y, err := fixed("y", jwk.Y, width)
		if err != nil {
			return nil, err
		}
		return ecdsa.ParseUncompressedPublicKey(curve, bytes.Join([][]byte{{4}, x, y}, nil)) // proves that the point is on the curve
	case "OKP":
		if jwk.Curve != "Ed25519" {
			return nil, fmt.Errorf("the curve %.16q is unknown", jwk.Curve)
		}
		x, err := fixed("x", jwk.X, ed25519.PublicKeySize)
		return ed25519.PublicKey(x), err
	case "RSA":
		return rsaOf(jwk)
	}
	return nil, fmt.Errorf("the key type %.16q is unknown", jwk.KeyType)
}

func rsaOf(jwk api.JWK) (crypto.PublicKey, error) {
	n, err := number("n", jwk.N)
	if err != nil {
		return nil, err
	}
	e, err := number("e", jwk.E)
	if err != nil {
		return nil, err
	}
	if bits := n.BitLen(); bits < minRSA || bits > maxRSA || n.Bit(0) == 0 {
		return nil, fmt.Errorf("the modulus has %d bits, or is even", bits)
	}
	if e.BitLen() > 31 || e.Int64() < 3 || e.Bit(0) == 0 {
		return nil, errors.New("the public exponent is out of range")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func fixed(name, text string, width int) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != width || len(text) != base64.RawURLEncoding.EncodedLen(width) {
		return nil, fmt.Errorf("%q is not base64url of %d bytes", name, width)
	}
	return b, nil
}

// number reads a Base64urlUInt (RFC 7518, 2): without leading zeros.
func number(name, text string) (*big.Int, error) {
	if len(text) > base64.RawURLEncoding.EncodedLen(maxRSA/8+1) {
		return nil, fmt.Errorf("%q is too long", name)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) == 0 || b[0] == 0 || base64.RawURLEncoding.EncodeToString(b) != text {
		return nil, fmt.Errorf("%q is no base64url number", name)
	}
	return new(big.Int).SetBytes(b), nil
}
