package authz

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"keyhole/authz/internal/crl"
	"keyhole/authz/internal/jwks"
	"keyhole/authz/internal/lru"
	"keyhole/authz/internal/reason"
	"keyhole/authz/internal/token"
)

// Authenticator finds out who calls. It is safe for concurrent use.
type Authenticator struct {
	cfg      Config
	sources  []*jwks.Source
	verifier token.Verifier
	tokens   *lru.Map[tokenID, remembered] // nil: tokens are not remembered

	state  atomic.Pointer[state]
	reload sync.Mutex // one Reload at a time
}

// state is what Reload replaces. It is immutable.
type state struct {
	members members
	lists   *crl.Lists // nil: certificates are not checked for revocation
}

// tokenID is the SHA-256 of a token.
type tokenID [sha256.Size]byte

// remembered is a token that was found good.
type remembered struct {
	token     *token.Verified
	principal Principal
	state     *state // that the principal's groups are from
}

// NewAuthenticator returns an Authenticator that has read its files and has
// tried once, until ctx ends or the configured timeout passes, to fetch the
// key sets. A key set that cannot be fetched is logged, and tried again by
// Run and for the first token that needs it; a file that cannot be read is
// an error.
func NewAuthenticator(ctx context.Context, c Config) (*Authenticator, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("authentication: %w", err)
	}
	a := &Authenticator{cfg: c}
	if c.CacheSize > 0 {
		a.tokens = lru.New[tokenID, remembered](c.CacheSize)
	}
	var issuers []token.Config
	for _, is := range c.Issuers {
		source, err := newSource(c, is)
		if err != nil {
			return nil, fmt.Errorf("authentication: issuer %q: %w", is.Name, err)
		}
		a.sources = append(a.sources, source)
		issuers = append(issuers, token.Config{
			Name: is.Name, Issuer: is.Issuer, Audience: is.Audience, Algorithms: is.Algorithms,
			SubjectClaim: is.SubjectClaim, GroupsClaim: is.GroupsClaim, GroupPrefix: is.GroupPrefix,
			MaxLifetime: is.MaxLifetime, Leeway: c.Leeway, Now: c.Now, Keys: source,
		})
	}
	a.verifier = token.NewVerifier(issuers)
	if err := a.Reload(ctx); err != nil {
		return nil, fmt.Errorf("authentication: %w", err)
	}
	var wg sync.WaitGroup
	for _, s := range a.sources {
		if s.Remote() {
			wg.Go(func() { _ = s.Load(ctx) }) // an error is logged there
		}
	}
	wg.Wait()
	return a, nil
}

func newSource(c Config, is Issuer) (*jwks.Source, error) {
	s := jwks.Config{
		Issuer: is.Name, URL: is.JWKSURL, File: is.JWKSFile, Algorithms: is.Algorithms,
		Timeout: c.JWKSTimeout, Interval: c.JWKSInterval, MinInterval: c.JWKSMinInterval, Log: c.Log, Now: c.Now,
	}
	if is.JWKSURL != "" {
		client, err := jwks.NewClient(is.CAFile, c.JWKSTimeout)
		if err != nil {
			return nil, err
		}
		s.Client = client
	}
	return jwks.NewSource(s), nil
}

// Run fetches key sets again and again, and tells of revocation lists that
// expire, until ctx ends. It then returns nil.
func (a *Authenticator) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range a.sources {
		wg.Go(func() { s.Run(ctx) })
	}
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	var told *crl.Lists
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if lists := a.state.Load().lists; lists != told && a.tellExpired(ctx, lists) {
				told = lists
			}
		}
	}
}

// Reload reads the JWKS files, the revocation lists and the groups again.
// What cannot be read or is not valid stays as it was, and the error tells;
// the rest is replaced all the same. Tokens verified under what was replaced
// are verified anew.
func (a *Authenticator) Reload(ctx context.Context) error {
	a.reload.Lock()
	defer a.reload.Unlock()
	var errs []error
	for _, s := range a.sources {
		if !s.Remote() {
			errs = append(errs, s.Load(ctx))
		}
	}
	next := &state{}
	if old := a.state.Load(); old != nil {
		*next = *old
	}
	if m, err := readMembers(a.cfg.Groups, a.cfg.GroupsFile); err != nil {
		errs = append(errs, err)
	} else {
		next.members = m
	}
	if lists, err := a.readLists(ctx); err != nil {
		errs = append(errs, err)
	} else {
		next.lists = lists
	}
	a.state.Store(next)
	return errors.Join(errs...)
}

// Authenticate finds out who calls. With a token and a certificate both must
// be valid, and the token speaks. The error is a *Failure, which is
// keys.ErrUnauthenticated and tells the caller the same whatever failed. The
// Principal's Groups are shared: do not change them.
func (a *Authenticator) Authenticate(ctx context.Context, c Credentials) (Principal, error) {
	p, err := a.authenticate(ctx, c)
	if err != nil {
		f := failure(err)
		if a.cfg.Log.Enabled(ctx, slog.LevelDebug) {
			a.cfg.Log.DebugContext(ctx, "authentication failed", "reason", f.Reason)
		}
		return Principal{}, f
	}
	return p, nil
}

func (a *Authenticator) authenticate(ctx context.Context, c Credentials) (p Principal, err error) {
	st, now := a.state.Load(), a.cfg.Now()
	withCertificate := len(c.Chain) > 0
	if withCertificate {
		if p, err = a.certificate(st, c.Chain, now); err != nil {
			return p, err
		}
	}
	switch {
	case c.Token == "" && withCertificate:
		return p, nil
	case c.Token == "":
		return p, reason.NoCredentials
	}
	t, err := a.token(ctx, st, c.Token, now)
	if err != nil {
		return p, err
	}
	if err := confirm(t.token.Bound, c.Chain); err != nil {
		return p, err
	}
	holder := p
	p = t.principal
	if withCertificate {
		p.Method, p.Also = MethodJWTMTLS, holder.ID
		if holder.ExpiresAt.Before(p.ExpiresAt) {
			p.ExpiresAt = holder.ExpiresAt
		}
	}
	return p, nil
}

// token verifies a token, or remembers that it was.
func (a *Authenticator) token(ctx context.Context, st *state, text string, now time.Time) (remembered, error) {
	if len(text) > a.cfg.MaxToken {
		return remembered{}, reason.TokenTooLarge
	}
	var id tokenID
	if a.tokens != nil {
		var buf [2048]byte // on the stack, for nearly all tokens
		id = sha256.Sum256(append(buf[:0], text...))
		if r, ok := a.tokens.Get(id); ok {
			if now.Before(r.token.ExpiresAt) && r.state == st && r.token.Current() {
				return r, nil
			}
			a.tokens.Remove(id)
		}
	}
	v, err := a.verifier.Verify(ctx, text)
	if err != nil {
		return remembered{}, err
	}
	r := remembered{token: v, state: st, principal: Principal{
		ID: "jwt:" + v.Issuer + ":" + v.Subject, Method: MethodJWT, ExpiresAt: v.ExpiresAt,
	}}
	r.principal.Groups = st.members.of(r.principal.ID, v.Groups)
	if a.tokens != nil {
		a.tokens.Put(id, r)
	}
	return r, nil
}

// confirm checks that a token which is bound to a certificate comes over it.
func confirm(bound *token.Thumbprint, chain []*x509.Certificate) error {
	if bound == nil {
		return nil
	}
	if len(chain) == 0 {
		return reason.ConfirmationAbsent
	}
	sum := sha256.Sum256(chain[0].Raw)
	if subtle.ConstantTimeCompare(sum[:], bound[:]) != 1 {
		return reason.ConfirmationOther
	}
	return nil
}
