package dev

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// What the development issuer calls itself, and whom its tokens are for.
const (
	issuerName = "dev"
	issuerID   = "https://keyhole-dev.invalid"
	audience   = "keyhole"
)

// Lifetime of a token, and how much of it must be left at a start.
const (
	tokenLifetime = 24 * time.Hour
	tokenLeft     = 12 * time.Hour
)

// issuer makes the development tokens.
type issuer struct {
	key *ecdsa.PrivateKey
	kid string
}

type claims struct {
	jwt.RegisteredClaims
	Groups []string `json:"groups"`
}

// ensureIssuer loads issuer.key or makes it, and writes its public half to
// jwks.json.
func (d dir) ensureIssuer() (*issuer, error) {
	key, err := d.loadKey("issuer.key")
	if errors.Is(err, os.ErrNotExist) {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
			err = d.writeKey("issuer.key", key)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the key of the development issuer: %w", err)
	}
	point, err := key.PublicKey.Bytes() // 0x04, X, Y
	if err != nil {
		return nil, err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	sum := sha256.Sum256(point)
	is := &issuer{key: key, kid: b64(sum[:12])}
	jwks, err := json.MarshalIndent(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:]), "kid": is.kid, "alg": "ES256", "use": "sig",
	}}}, "", "  ")
	if err != nil {
		return nil, err
	}
	if old, err := os.ReadFile(d.path("jwks.json")); err == nil && string(old) == string(jwks)+"\n" {
		return is, nil
	}
	return is, d.write("jwks.json", append(jwks, '\n'))
}

// ensureToken writes a token for subject to file, unless the one there is
// good for long enough. It returns when the token expires.
func (d dir) ensureToken(is *issuer, file, subject, group string, now time.Time) (time.Time, error) {
	if text, err := os.ReadFile(d.path(file)); err == nil {
		if exp := is.expiry(strings.TrimSpace(string(text)), subject, now); now.Add(tokenLeft).Before(exp) {
			return exp, nil
		}
	}
	now = now.Truncate(time.Second)
	exp := now.Add(tokenLifetime)
	t := jwt.NewWithClaims(jwt.SigningMethodES256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuerID, Subject: subject, Audience: jwt.ClaimStrings{audience}, ID: rand.Text(),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(exp),
		},
		Groups: []string{group},
	})
	t.Header["kid"] = is.kid
	signed, err := t.SignedString(is.key)
	if err != nil {
		return time.Time{}, fmt.Errorf("making %s: %w", file, err)
	}
	return exp, d.write(file, []byte(signed+"\n"))
}

// expiry returns when a token of ours for subject ends, or zero if it is not
// a valid one.
func (is *issuer) expiry(token, subject string, now time.Time) time.Time {
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return &is.key.PublicKey, nil },
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(issuerID), jwt.WithAudience(audience), jwt.WithSubject(subject),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil {
		return time.Time{}
	}
	return c.ExpiresAt.Time
}
