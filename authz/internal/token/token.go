// Package token verifies JSON Web Tokens by the rules of RFC 8725. A token is
// judged under the one issuer that it names: with that issuer's algorithms
// and keys, and for its audience. Errors are of type reason.Reason.
package token

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"keyhole/authz/internal/jwks"
	"keyhole/authz/internal/reason"
)

// Thumbprint is the SHA-256 of a certificate's DER.
type Thumbprint [sha256.Size]byte

// Config describes one issuer. Nothing in it has a default.
type Config struct {
	Name         string
	Issuer       string
	Audience     []string
	Algorithms   []string
	SubjectClaim string
	GroupsClaim  string
	GroupPrefix  string
	MaxLifetime  time.Duration // 0: no bound, and iat need not be there
	Leeway       time.Duration
	Now          func() time.Time
	Keys         *jwks.Source
}

// Verified is what a good token says.
type Verified struct {
	Issuer    string // the configured name, not the claim
	Subject   string
	Groups    []string
	ExpiresAt time.Time
	Bound     *Thumbprint // to this client certificate; nil: to none

	source *jwks.Source
	set    *jwks.Set
}

// Current reports whether the keys that the token was verified with are
// still those of its issuer.
func (v *Verified) Current() bool { return v.set == v.source.Current() }

// Verifier verifies the tokens of several issuers.
type Verifier map[string]*issuer // by the claim iss

type issuer struct {
	Config
	parser *jwt.Parser
}

// NewVerifier returns a Verifier for issuers whose Issuer claims differ.
func NewVerifier(issuers []Config) Verifier {
	v := Verifier{}
	for _, c := range issuers {
		v[c.Issuer] = &issuer{Config: c, parser: jwt.NewParser(
			jwt.WithValidMethods(c.Algorithms),
			jwt.WithExpirationRequired(),
			jwt.WithIssuer(c.Issuer),
			jwt.WithAudience(c.Audience...),
			jwt.WithIssuedAt(),
			jwt.WithLeeway(c.Leeway),
			jwt.WithStrictDecoding(),
			jwt.WithTimeFunc(c.Now),
		)}
	}
	return v
}

// Verify judges a token. Everything but the choice of the issuer rests on its
// signature. For an unknown key it looks once whether the issuer has new
// ones, which is all that it can wait for.
func (v Verifier) Verify(ctx context.Context, token string) (*Verified, error) {
	h, peeked, err := peek(token)
	if err != nil {
		return nil, err
	}
	switch {
	case h.Typ != nil && !acceptedType(*h.Typ):
		return nil, reason.TokenType
	case h.Crit != nil:
		return nil, reason.CriticalHeader
	case h.JWK != nil:
		return nil, reason.EmbeddedKey
	}
	is := v[peeked.issuer]
	if is == nil {
		return nil, reason.UnknownIssuer
	}
	if !slices.Contains(is.Algorithms, h.Alg) {
		return nil, reason.Algorithm
	}
	var c claims
	good := &Verified{Issuer: is.Name, source: is.Keys}
	_, err = is.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) {
		set, found, err := is.find(ctx, h)
		good.set = set
		return verificationKeys(found), err
	})
	if err != nil {
		return nil, reasonOf(err, &c)
	}
	if err := is.read(&c, good); err != nil {
		return nil, err
	}
	return good, nil
}

// acceptedType follows RFC 8725, 3.11: a token made for something else (a
// logout token, a DPoP proof) is not taken for one that gives access.
func acceptedType(typ string) bool {
	switch strings.TrimPrefix(strings.ToLower(typ), "application/") {
	case "jwt", "at+jwt":
		return true
	}
	return false
}

// find returns the keys that may have signed a token with this header.
func (is *issuer) find(ctx context.Context, h header) (*jwks.Set, []crypto.PublicKey, error) {
	kid, named := "", h.Kid != nil
	if named {
		kid = *h.Kid
	}
	set := is.Keys.Current()
	if set != nil {
		found, err := set.Find(kid, named, h.Alg)
		if !errors.Is(err, jwks.ErrUnknownKey) {
			return set, found, err
		}
	}
	// An error is logged there; what matters here is whether there are keys.
	_ = is.Keys.LoadForUnknown(ctx)
	if set = is.Keys.Current(); set == nil {
		return nil, nil, reason.IssuerUnavailable
	}
	found, err := set.Find(kid, named, h.Alg)
	return set, found, err
}

func verificationKeys(found []crypto.PublicKey) jwt.VerificationKeySet {
	var set jwt.VerificationKeySet
	for _, k := range found {
		set.Keys = append(set.Keys, k)
	}
	return set
}

// reasonOf names what the parser found. Of several faults, the first of
// these counts.
func reasonOf(err error, c *claims) error {
	if r, ok := errors.AsType[reason.Reason](err); ok {
		return r
	}
	for _, f := range []struct {
		err    error
		reason reason.Reason
	}{
		{jwks.ErrUnknownKey, reason.UnknownKey},
		{jwks.ErrKeyRequired, reason.KeyRequired},
		{jwks.ErrAlgorithm, reason.Algorithm},
		{jwt.ErrTokenMalformed, reason.Malformed},
		{jwt.ErrTokenSignatureInvalid, reason.BadSignature},
		{jwt.ErrTokenUnverifiable, reason.BadSignature},
		{jwt.ErrTokenInvalidAudience, reason.Audience},
		{jwt.ErrTokenExpired, reason.Expired},
		{jwt.ErrTokenNotValidYet, reason.NotYetValid},
		{jwt.ErrTokenUsedBeforeIssued, reason.IssuedInFuture},
	} {
		if errors.Is(err, f.err) {
			return f.reason
		}
	}
	if c.exp == nil {
		return reason.NoExpiry
	}
	return reason.Audience // the only other claim that is required
}

// read takes what is asked of a token from its claims, which are verified.
func (is *issuer) read(c *claims, v *Verified) (err error) {
	if is.MaxLifetime > 0 {
		if c.iat == nil {
			return reason.NoIssueTime
		}
		if c.exp.Sub(c.iat.Time) > is.MaxLifetime {
			return reason.Lifetime
		}
	}
	if v.Subject, err = c.subject(is.SubjectClaim); err != nil {
		return err
	}
	if v.Groups, err = c.groups(is.GroupsClaim, is.GroupPrefix); err != nil {
		return err
	}
	v.ExpiresAt = c.exp.Time
	v.Bound, err = c.confirmation()
	return err
}
