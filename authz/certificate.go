package authz

import (
	"bytes"
	"crypto/x509"
	"errors"
	"time"

	"keyhole/authz/internal/crl"
	"keyhole/authz/internal/text"
)

// revocation looks a chain up in the revocation lists. The leaf must be
// covered; a CA below the root need not be, but must not be revoked.
func (a *Authenticator) revocation(lists *crl.Lists, chain []*x509.Certificate, now time.Time) *Failure {
	for i, cert := range chain {
		if i > 0 && bytes.Equal(cert.RawIssuer, cert.RawSubject) {
			break // a root vouches for itself
		}
		err := lists.Check(cert, now)
		switch {
		case errors.Is(err, crl.ErrRevoked):
			return failed(ReasonRevoked)
		case errors.Is(err, crl.ErrExpired) && !a.cfg.MTLS.AllowExpiredCRL:
			return failed(ReasonCRLExpired)
		case errors.Is(err, crl.ErrMissing) && i == 0 && !a.cfg.MTLS.AllowMissingCRL:
			return failed(ReasonCRLMissing)
		}
	}
	return nil
}

// unitGroups returns the organizational units of a certificate as groups.
func unitGroups(cert *x509.Certificate, prefix string) ([]string, *Failure) {
	units := cert.Subject.OrganizationalUnit
	if len(units) > maxGroups {
		return nil, failed(ReasonGroups)
	}
	groups := make([]string, len(units))
	for i, u := range units {
		if !text.Printable(u, maxGroup) {
			return nil, failed(ReasonGroups)
		}
		groups[i] = prefix + u
	}
	return groups, nil
}
