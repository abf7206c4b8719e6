package authz

import "keyhole/keys"

// Reasons of a Failure.
const (
	ReasonNoCredentials      = "no-credentials"
	ReasonTokenTooLarge      = "token-too-large"
	ReasonMalformed          = "malformed-token"    // not three parts of base64url and JSON, or a member twice
	ReasonTokenType          = "token-type"         // a typ other than JWT or at+jwt
	ReasonCritical           = "critical-header"    // crit: an extension that is not understood
	ReasonEmbeddedKey        = "embedded-key"       // a key in the token's own header
	ReasonUnknownIssuer      = "unknown-issuer"     //
	ReasonAlgorithm          = "algorithm"          // none, symmetric, not the issuer's, or not the key's
	ReasonUnknownKey         = "unknown-kid"        //
	ReasonKeyRequired        = "kid-missing"        // the issuer has several keys and the token names none
	ReasonNoKeys             = "issuer-unavailable" // no key set of the issuer was ever read
	ReasonSignature          = "bad-signature"      //
	ReasonExpired            = "expired"            //
	ReasonNoExpiry           = "exp-missing"        //
	ReasonNotYetValid        = "not-yet-valid"      // nbf
	ReasonIssuedInFuture     = "issued-in-future"   // iat
	ReasonNoIssueTime        = "iat-missing"        // where a longest lifetime is set
	ReasonLifetime           = "lifetime"           // exp - iat is more than the issuer may give
	ReasonIssuer             = "wrong-issuer"       //
	ReasonAudience           = "wrong-audience"     //
	ReasonSubject            = "subject"            // missing, too long or not printable
	ReasonGroups             = "groups"             // not strings, too many, too long or not printable
	ReasonConfirmation       = "cnf-unsupported"    // bound to the holder in a way that is not understood
	ReasonConfirmationAbsent = "cnf-no-certificate" // bound to a certificate, and none was shown
	ReasonConfirmationOther  = "cnf-mismatch"       // bound to another certificate
	ReasonCertificateName    = "certificate-name"   // none, ambiguous or malformed
	ReasonCertificateExpired = "certificate-expired"
	ReasonRevoked            = "revoked"
	ReasonCRLExpired         = "crl-expired"
	ReasonCRLMissing         = "crl-missing" // no revocation list of the certificate's issuer
)

// errDenied is what every caller is told, whatever failed: a more precise
// answer would help to guess issuers, keys and subjects.
var errDenied = keys.Errorf(keys.ErrUnauthenticated,
	"authentication failed: send a valid token of an accepted issuer, an accepted client certificate, or both")

func failed(reason string) *Failure { return &Failure{Reason: reason, Err: errDenied} }
