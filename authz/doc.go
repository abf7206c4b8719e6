// Package authz says who is calling and what they may do.
//
// Who: an Authenticator takes a bearer JWT, a client certificate that TLS has
// verified, or both, and returns a Principal. A token is judged under the one
// issuer that it names, with that issuer's own keys and algorithms; nothing
// in the token can point to a key. Callers learn only that authentication
// failed; the reason goes to the audit log.
//
// What: Policies are Cedar files. Decide is a pure function of the request
// and the files as last read: no clock, no I/O. What no policy permits is
// denied, and whatever a policy forbids is denied too.
//
// How much: a Limiter bounds requests, and failures harder.
//
// Trusted are the configuration, the JWKS documents of the configured
// issuers, the CAs behind client certificates, and the policy files. Tokens,
// certificates' contents and everything else in a request are not.
package authz
