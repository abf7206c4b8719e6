package authz

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"time"

	"keyhole/authz/internal/certname"
	"keyhole/authz/internal/crl"
	"keyhole/authz/internal/reason"
	"keyhole/authz/internal/text"
)

// certificate judges a chain that TLS has verified. Connections live long,
// so expiry and revocation are looked at again for every request.
func (a *Authenticator) certificate(st *state, chain []*x509.Certificate, now time.Time) (Principal, error) {
	leaf := chain[0]
	if now.After(leaf.NotAfter) {
		return Principal{}, reason.CertificateExpired
	}
	if st.lists != nil {
		if err := a.revocation(st.lists, chain, now); err != nil {
			return Principal{}, err
		}
	}
	name, err := certname.Of(leaf, a.cfg.MTLS.Names)
	if err != nil {
		return Principal{}, reason.CertificateName
	}
	p := Principal{ID: "mtls:" + name, Method: MethodMTLS, ExpiresAt: leaf.NotAfter}
	if a.cfg.MTLS.OUGroups {
		if p.Groups, err = unitGroups(leaf, a.cfg.MTLS.GroupPrefix); err != nil {
			return Principal{}, err
		}
	}
	p.Groups = st.members.of(p.ID, p.Groups)
	return p, nil
}

// revocation looks a chain up in the revocation lists. The leaf must be
// covered; a CA below the root need not be, but must not be revoked.
func (a *Authenticator) revocation(lists *crl.Lists, chain []*x509.Certificate, now time.Time) error {
	for i, cert := range chain {
		if i > 0 && bytes.Equal(cert.RawIssuer, cert.RawSubject) {
			break // a root vouches for itself
		}
		err := lists.Check(cert, now)
		switch {
		case errors.Is(err, crl.ErrRevoked):
			return reason.Revoked
		case errors.Is(err, crl.ErrExpired) && !a.cfg.MTLS.AllowExpiredCRL:
			return reason.CRLExpired
		case errors.Is(err, crl.ErrMissing) && i == 0 && !a.cfg.MTLS.AllowMissingCRL:
			return reason.CRLMissing
		}
	}
	return nil
}

// unitGroups returns the organizational units of a certificate as groups.
func unitGroups(cert *x509.Certificate, prefix string) ([]string, error) {
	units := cert.Subject.OrganizationalUnit
	if len(units) > maxGroups {
		return nil, reason.CertificateGroups
	}
	groups := make([]string, len(units))
	for i, u := range units {
		if !text.Printable(u, maxGroup) {
			return nil, reason.CertificateGroups
		}
		groups[i] = prefix + u
	}
	return groups, nil
}

// readLists reads the revocation lists; nil if none are configured.
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

// tellExpired logs which revocation lists have expired, if any.
func (a *Authenticator) tellExpired(ctx context.Context, lists *crl.Lists) bool {
	files := lists.Expired(a.cfg.Now())
	if len(files) > 0 {
		a.cfg.Log.ErrorContext(ctx, "certificate revocation lists have expired; publish new ones and reload",
			"files", files, "certificates_refused", !a.cfg.MTLS.AllowExpiredCRL)
	}
	return len(files) > 0
}
