package rest

import (
	"net/http"
	"net/netip"
	"strings"

	"keyhole/authz"
	"keyhole/keys"
)

// maxToken is the longest bearer token that is looked at, in bytes.
const maxToken = 16 << 10

// credentials finds what a request shows of its caller: one Authorization
// header with a bearer token, and the client certificate that TLS verified.
// A token anywhere else is not looked for.
func credentials(r *http.Request) (authz.Credentials, *authz.Failure) {
	var c authz.Credentials
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		c.Chain = r.TLS.VerifiedChains[0]
	}
	values := r.Header["Authorization"]
	if len(values) == 0 {
		return c, nil
	}
	if len(values) > 1 {
		return c, unreadable("several-headers", "there are several Authorization headers; send one")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return c, unreadable("other-scheme", "the Authorization header must be \"Bearer\" and a token")
	}
	if token = strings.TrimLeft(token, " "); !isToken(token) {
		return c, unreadable("malformed-token", "the bearer token has no such form")
	}
	c.Token = token
	return c, nil
}

func unreadable(reason, detail string) *authz.Failure {
	return &authz.Failure{Reason: reason, Err: keys.Errorf(keys.ErrUnauthenticated, "%s", detail)}
}

// tokenBytes are those of a b64token (RFC 6750, 2.1).
var tokenBytes = func() (in [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=") {
		in[c] = true
	}
	return in
}()

// isToken reports whether s is a b64token of fair length.
func isToken(s string) bool {
	if s == "" || len(s) > maxToken {
		return false
	}
	for i := range len(s) {
		if !tokenBytes[s[i]] {
			return false
		}
	}
	return true
}

// source is the address of the connection. What a header says of it is not
// believed.
func source(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
