package wire

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"slices"
	"time"

	"keyhole/gateway/api"
	"keyhole/keys"
)

// AppendJWKS appends the public keys of k that belong in a JWKS, newest
// first.
func AppendJWKS(set []api.JWK, k *keys.Key, now time.Time) []api.JWK {
	for _, v := range slices.Backward(k.Versions) {
		if v.CreatedAt.IsZero() || !k.StateAt(v, now).Published() {
			continue
		}
		if jwk := JWK(k, v); jwk != nil {
			set = append(set, *jwk)
		}
	}
	return set
}

// AppendStatus appends what has become of the versions of k whose public keys
// are or were in a JWKS, newest first.
func AppendStatus(set []api.KeyStatus, k *keys.Key, now time.Time) []api.KeyStatus {
	for _, v := range slices.Backward(k.Versions) {
		if !v.CreatedAt.IsZero() && len(v.PublicKey) > 0 {
			set = append(set, api.KeyStatus{KeyID: k.ID(v).String(), State: string(k.StateAt(v, now)), RevokedAt: Time(v.RevokedAt)})
		}
	}
	return set
}

// JWK returns the public JWK of a version, or nil for secret keys.
func JWK(k *keys.Key, v *keys.Version) *api.JWK {
	if len(v.PublicKey) == 0 {
		return nil
	}
	pub, err := x509.ParsePKIXPublicKey(v.PublicKey)
	if err != nil {
		return nil
	}
	jwk := &api.JWK{Use: "sig", Algorithm: string(v.Algorithm), KeyID: k.ID(v).String()}
	if k.Purpose == keys.PurposeEncrypt {
		jwk.Use = "enc"
	}
	b64 := base64.RawURLEncoding.EncodeToString
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		point, err := pub.Bytes() // 4 || X || Y
		if err != nil {
			return nil
		}
		width := (len(point) - 1) / 2
		jwk.KeyType, jwk.Curve = "EC", pub.Params().Name
		jwk.X, jwk.Y = b64(point[1:1+width]), b64(point[1+width:])
	case ed25519.PublicKey:
		jwk.KeyType, jwk.Curve, jwk.X = "OKP", "Ed25519", b64(pub)
	case *rsa.PublicKey:
		jwk.KeyType, jwk.N, jwk.E = "RSA", b64(pub.N.Bytes()), b64(big.NewInt(int64(pub.E)).Bytes())
	default:
		return nil
	}
	return jwk
}
