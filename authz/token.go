package authz

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"keyhole/authz/internal/jwks"
)

// issuer verifies the tokens of one issuer.
type issuer struct {
	Issuer
	keys   *jwks.Source
	parser *jwt.Parser
	now    func() time.Time
}

func newIssuer(c Config, is Issuer) (*issuer, error) {
	source := jwks.Config{
		Issuer: is.Name, URL: is.JWKSURL, File: is.JWKSFile, Algorithms: is.Algorithms,
		Timeout: c.JWKSTimeout, Interval: c.JWKSInterval, MinInterval: c.JWKSMinInterval, Log: c.Log, Now: c.Now,
	}
	if is.JWKSURL != "" {
		client, err := jwks.NewClient(is.CAFile, c.JWKSTimeout)
		if err != nil {
			return nil, fmt.Errorf("issuer %q: %w", is.Name, err)
		}
		source.Client = client
	}
	return &issuer{
		Issuer: is, keys: jwks.NewSource(source), now: c.Now,
		parser: jwt.NewParser(
			jwt.WithValidMethods(is.Algorithms),
			jwt.WithExpirationRequired(),
			jwt.WithIssuer(is.Issuer),
			jwt.WithAudience(is.Audience...),
			jwt.WithIssuedAt(),
			jwt.WithLeeway(c.Leeway),
			jwt.WithStrictDecoding(),
			jwt.WithTimeFunc(c.Now),
		),
	}, nil
}

// verified is a token that was found good.
type verified struct {
	principal Principal
	bound     *thumbprint // to this certificate; nil: to none
	set       *jwks.Set   // the keys it was verified with
	issuer    *issuer
	state     *state // the groups it was given
}

// verify judges a token. Everything but the choice of the issuer rests on
// its signature.
func (a *Authenticator) verify(ctx context.Context, st *state, token string) (*verified, error) {
	h, peeked, err := peek(token)
	if err != nil {
		return nil, failed(ReasonMalformed)
	}
	switch {
	case h.Typ != nil && !acceptedType(*h.Typ):
		return nil, failed(ReasonTokenType)
	case h.Crit != nil:
		return nil, failed(ReasonCritical)
	case h.JWK != nil:
		return nil, failed(ReasonEmbeddedKey)
	}
	is := a.issuers[peeked.issuer]
	if is == nil {
		return nil, failed(ReasonUnknownIssuer)
	}
	if !slices.Contains(is.Algorithms, h.Alg) {
		return nil, failed(ReasonAlgorithm)
	}
	v := &verified{issuer: is, state: st}
	var c claims
	_, err = is.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) {
		set, found, err := is.find(ctx, h)
		if err != nil {
			return nil, err
		}
		v.set = set
		return verificationKeys(found), nil
	})
	if err != nil {
		return nil, failureOf(err, &c)
	}
	if f := v.read(is, &c); f != nil {
		return nil, f
	}
	v.principal.Groups = st.members.of(v.principal.ID, v.principal.Groups)
	return v, nil
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

// find returns the keys that may have signed a token with this header. For
// an unknown key it looks once whether the issuer has new ones.
func (is *issuer) find(ctx context.Context, h header) (*jwks.Set, []crypto.PublicKey, error) {
	kid, named := "", h.Kid != nil
	if named {
		kid = *h.Kid
	}
	set := is.keys.Current()
	if set != nil {
		found, err := set.Find(kid, named, h.Alg)
		if !errors.Is(err, jwks.ErrUnknownKey) {
			return set, found, err
		}
	}
	if err := is.keys.LoadForUnknown(ctx); err != nil && set == nil {
		return nil, nil, failed(ReasonNoKeys)
	}
	if set = is.keys.Current(); set == nil {
		return nil, nil, failed(ReasonNoKeys)
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

// failureOf names what the parser found. Several faults have one reason: the
// first of these.
func failureOf(err error, c *claims) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	for _, r := range []struct {
		err    error
		reason string
	}{
		{jwks.ErrUnknownKey, ReasonUnknownKey},
		{jwks.ErrKeyRequired, ReasonKeyRequired},
		{jwks.ErrAlgorithm, ReasonAlgorithm},
		{jwt.ErrTokenMalformed, ReasonMalformed},
		{jwt.ErrTokenSignatureInvalid, ReasonSignature},
		{jwt.ErrTokenUnverifiable, ReasonSignature},
		{jwt.ErrTokenInvalidIssuer, ReasonIssuer},
		{jwt.ErrTokenInvalidAudience, ReasonAudience},
		{jwt.ErrTokenExpired, ReasonExpired},
		{jwt.ErrTokenNotValidYet, ReasonNotYetValid},
		{jwt.ErrTokenUsedBeforeIssued, ReasonIssuedInFuture},
	} {
		if errors.Is(err, r.err) {
			return failed(r.reason)
		}
	}
	if c.exp == nil {
		return failed(ReasonNoExpiry)
	}
	if !slices.ContainsFunc(c.audience, func(a string) bool { return a != "" }) {
		return failed(ReasonAudience)
	}
	return failed(ReasonMalformed)
}

// read takes the principal from the claims, which are verified.
func (v *verified) read(is *issuer, c *claims) (f *Failure) {
	if is.MaxLifetime > 0 {
		if c.iat == nil {
			return failed(ReasonNoIssueTime)
		}
		if c.exp.Sub(c.iat.Time) > is.MaxLifetime {
			return failed(ReasonLifetime)
		}
	}
	subject, f := c.subject(is.SubjectClaim)
	if f != nil {
		return f
	}
	if v.principal.Groups, f = c.groups(is.GroupsClaim, is.GroupPrefix); f != nil {
		return f
	}
	if v.bound, f = c.confirmation(); f != nil {
		return f
	}
	v.principal.ID = "jwt:" + is.Name + ":" + subject
	v.principal.Method = MethodJWT
	v.principal.ExpiresAt = c.exp.Time
	return nil
}

// fresh reports whether a remembered token is still as good as when it was
// verified: not expired, its keys still the issuer's, its groups the same.
func (v *verified) fresh(st *state, now time.Time) bool {
	return now.Before(v.principal.ExpiresAt) && v.state == st && v.set == v.issuer.keys.Current()
}

// tokenID is what a token is remembered by.
type tokenID [sha256.Size]byte

// thumbprint is the SHA-256 of a certificate's DER.
type thumbprint [sha256.Size]byte
