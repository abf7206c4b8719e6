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

	"keyhole/authz/internal/certname"
	"keyhole/authz/internal/crl"
	"keyhole/authz/internal/lru"
)

// Authenticator finds out who calls. It is safe for concurrent use.
type Authenticator struct {
	cfg     Config
	issuers map[string]*issuer // by the claim iss
	tokens  *lru.Map[tokenID, *verified]

	state  atomic.Pointer[state]
	reload sync.Mutex // one Reload at a time
}

// state is what Reload replaces. It is immutable.
type state struct {
	members members
	lists   *crl.Lists // nil: certificates are not checked for revocation
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
	a := &Authenticator{cfg: c, issuers: make(map[string]*issuer, len(c.Issuers))}
	if c.CacheSize > 0 {
		a.tokens = lru.New[tokenID, *verified](c.CacheSize)
	}
	for _, i := range c.Issuers {
		is, err := newIssuer(c, i)
		if err != nil {
			return nil, fmt.Errorf("authentication: %w", err)
		}
		a.issuers[i.Issuer] = is
	}
	if err := a.Reload(ctx); err != nil {
		return nil, fmt.Errorf("authentication: %w", err)
	}
	var wg sync.WaitGroup
	for _, is := range a.issuers {
		if is.keys.Remote() {
			wg.Go(func() { _ = is.keys.Load(ctx) }) // an error is logged
		}
	}
	wg.Wait()
	return a, nil
}

// Run fetches key sets again and again, and tells of revocation lists that
// expire, until ctx ends. It then returns nil.
func (a *Authenticator) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, is := range a.issuers {
		wg.Go(func() { is.keys.Run(ctx) })
	}
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	var told *crl.Lists
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			return nil
		case <-t.C:
			if lists := a.state.Load().lists; lists != told && a.tellExpired(ctx, lists) {
				told = lists
			}
		}
	}
}

// tellExpired logs which revocation lists have expired, if any.
func (a *Authenticator) tellExpired(ctx context.Context, lists *crl.Lists) bool {
	files := lists.Expired(a.cfg.Now())
	if len(files) > 0 {
		a.cfg.Log.ErrorContext(ctx, "certificate revocation lists have expired; publish new ones and reload",
			"files", files, "certificates_refused", !a.cfg.MTLS.AllowExpiredCRL)
	}
	return len(files) > 0
}

// Reload reads the JWKS files, the revocation lists and the groups again.
// What cannot be read or is not valid stays as it was, and the error tells;
// the rest is replaced all the same. Tokens verified under what was replaced
// are verified anew.
func (a *Authenticator) Reload(ctx context.Context) error {
	a.reload.Lock()
	defer a.reload.Unlock()
	var errs []error
	for _, is := range a.issuers {
		if !is.keys.Remote() {
			errs = append(errs, is.keys.Load(ctx))
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

func (a *Authenticator) readLists(ctx context.Context) (*crl.Lists, error) {
	if len(a.cfg.MTLS.CRLFiles) == 0 {
		return nil, nil
	}
	cas, err := readCertificates(a.cfg.MTLS.CAFiles)
	if err != nil {
		return nil, err
	}
	lists, err := crl.Load(a.cfg.MTLS.CRLFiles, cas, a.cfg.Now())
	if err != nil {
		return nil, err
	}
	a.tellExpired(ctx, lists)
	return lists, nil
}

// Authenticate finds out who calls. With a token and a certificate both must
// be valid, and the token speaks. The error is a *Failure, which is
// keys.ErrUnauthenticated and tells the caller the same whatever failed. The
// Principal's Groups are shared: do not change them.
func (a *Authenticator) Authenticate(ctx context.Context, c Credentials) (Principal, error) {
	p, err := a.authenticate(ctx, c)
	if err != nil {
		if f, ok := errors.AsType[*Failure](err); ok && a.cfg.Log.Enabled(ctx, slog.LevelDebug) {
			a.cfg.Log.DebugContext(ctx, "authentication failed", "reason", f.Reason)
		}
		return Principal{}, err
	}
	return p, nil
}

func (a *Authenticator) authenticate(ctx context.Context, c Credentials) (Principal, error) {
	if c.Token == "" && len(c.Chain) == 0 {
		return Principal{}, failed(ReasonNoCredentials)
	}
	st, now := a.state.Load(), a.cfg.Now()
	var holder Principal
	if len(c.Chain) > 0 {
		var f *Failure
		if holder, f = a.certificate(st, c.Chain, now); f != nil {
			return Principal{}, f
		}
		if c.Token == "" {
			return holder, nil
		}
	}
	v, err := a.token(ctx, st, c.Token, now)
	if err != nil {
		return Principal{}, err
	}
	if f := v.confirm(c.Chain); f != nil {
		return Principal{}, f
	}
	p := v.principal
	if len(c.Chain) > 0 {
		p.Method = MethodJWTMTLS
		if holder.ExpiresAt.Before(p.ExpiresAt) {
			p.ExpiresAt = holder.ExpiresAt
		}
	}
	return p, nil
}

// token verifies a token, or remembers that it was.
func (a *Authenticator) token(ctx context.Context, st *state, token string, now time.Time) (*verified, error) {
	if len(token) > a.cfg.MaxToken {
		return nil, failed(ReasonTokenTooLarge)
	}
	if a.tokens == nil {
		return a.verify(ctx, st, token)
	}
	id := tokenID(sha256.Sum256([]byte(token)))
	if v, ok := a.tokens.Get(id); ok {
		if v.fresh(st, now) {
			return v, nil
		}
		a.tokens.Remove(id)
	}
	v, err := a.verify(ctx, st, token)
	if err == nil {
		a.tokens.Put(id, v)
	}
	return v, err
}

// confirm checks that a token which is bound to a certificate comes over it.
func (v *verified) confirm(chain []*x509.Certificate) *Failure {
	if v.bound == nil {
		return nil
	}
	if len(chain) == 0 {
		return failed(ReasonConfirmationAbsent)
	}
	sum := sha256.Sum256(chain[0].Raw)
	if subtle.ConstantTimeCompare(sum[:], v.bound[:]) != 1 {
		return failed(ReasonConfirmationOther)
	}
	return nil
}

// certificate judges a chain that TLS has verified. Connections live long,
// so expiry and revocation are looked at again for every request.
func (a *Authenticator) certificate(st *state, chain []*x509.Certificate, now time.Time) (Principal, *Failure) {
	leaf := chain[0]
	if now.After(leaf.NotAfter) {
		return Principal{}, failed(ReasonCertificateExpired)
	}
	if st.lists != nil {
		if f := a.revocation(st.lists, chain, now); f != nil {
			return Principal{}, f
		}
	}
	name, err := certname.Of(leaf, a.cfg.MTLS.Names)
	if err != nil {
		return Principal{}, failed(ReasonCertificateName)
	}
	p := Principal{ID: "mtls:" + name, Method: MethodMTLS, ExpiresAt: leaf.NotAfter}
	if a.cfg.MTLS.OUGroups {
		var f *Failure
		if p.Groups, f = unitGroups(leaf, a.cfg.MTLS.GroupPrefix); f != nil {
			return Principal{}, f
		}
	}
	p.Groups = st.members.of(p.ID, p.Groups)
	return p, nil
}
