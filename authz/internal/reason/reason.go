// Package reason lists why authentication fails, in stable words for the
// audit log and for metrics. Callers are never told.
package reason

// Reason is one of the following. It is an error within authz.
type Reason string

func (r Reason) Error() string { return string(r) }

// Reasons that concern any credentials.
const (
	NoCredentials Reason = "no-credentials"
)

// Reasons that concern tokens.
const (
	TokenTooLarge      Reason = "token-too-large"
	Malformed          Reason = "malformed-token"    // not three parts of base64url and JSON, or a member twice
	TokenType          Reason = "token-type"         // a typ other than JWT or at+jwt
	CriticalHeader     Reason = "critical-header"    // crit: an extension that is not understood
	EmbeddedKey        Reason = "embedded-key"       // a key in the token's own header
	UnknownIssuer      Reason = "unknown-issuer"     //
	Algorithm          Reason = "algorithm"          // none, symmetric, not the issuer's, or not the key's
	UnknownKey         Reason = "unknown-kid"        //
	KeyRequired        Reason = "kid-missing"        // the issuer has several keys and the token names none
	IssuerUnavailable  Reason = "issuer-unavailable" // no key set of the issuer was ever read
	BadSignature       Reason = "bad-signature"      //
	Expired            Reason = "expired"            //
	NoExpiry           Reason = "exp-missing"        //
	NotYetValid        Reason = "not-yet-valid"      // nbf
	IssuedInFuture     Reason = "issued-in-future"   // iat
	NoIssueTime        Reason = "iat-missing"        // where a longest lifetime is set
	Lifetime           Reason = "lifetime"           // exp - iat is more than the issuer may give
	Audience           Reason = "wrong-audience"     //
	Subject            Reason = "subject"            // missing, too long or not printable
	Groups             Reason = "groups"             // not strings, too many, too long or not printable
	Confirmation       Reason = "cnf-unsupported"    // bound to its holder in a way that is not understood
	ConfirmationAbsent Reason = "cnf-no-certificate" // bound to a certificate, and none was shown
	ConfirmationOther  Reason = "cnf-mismatch"       // bound to another certificate
)

// Reasons that concern client certificates.
const (
	CertificateName    Reason = "certificate-name" // none, ambiguous or malformed
	CertificateGroups  Reason = "certificate-groups"
	CertificateExpired Reason = "certificate-expired"
	Revoked            Reason = "revoked"
	CRLExpired         Reason = "crl-expired"
	CRLMissing         Reason = "crl-missing" // no revocation list of the certificate's issuer
)

// All returns every reason.
func All() []Reason {
	return []Reason{
		NoCredentials, TokenTooLarge, Malformed, TokenType, CriticalHeader, EmbeddedKey, UnknownIssuer, Algorithm,
		UnknownKey, KeyRequired, IssuerUnavailable, BadSignature, Expired, NoExpiry, NotYetValid, IssuedInFuture,
		NoIssueTime, Lifetime, Audience, Subject, Groups, Confirmation, ConfirmationAbsent, ConfirmationOther,
		CertificateName, CertificateGroups, CertificateExpired, Revoked, CRLExpired, CRLMissing,
	}
}
