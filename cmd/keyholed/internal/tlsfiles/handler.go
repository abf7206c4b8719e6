package tlsfiles

import "net/http"

// Handler hands requests on to next. A connection may live longer than the
// trust in it: a client certificate whose CA has been taken away since is
// hidden from next and the connection is closed behind the answer. Where
// certificates are required the bearer token is hidden too, for it counts
// only beside a certificate.
func (f *Files) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || f.trusted(r.TLS.VerifiedChains) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close")
		r = r.Clone(r.Context())
		state := *r.TLS
		state.PeerCertificates, state.VerifiedChains = nil, nil
		r.TLS = &state
		if f.required() {
			r.Header.Del("Authorization")
		}
		next.ServeHTTP(w, r)
	})
}
