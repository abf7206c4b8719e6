package tlsfiles

import (
	"net/http"
)

// Handler hands requests on to next. A client certificate whose CA has been
// taken away since the connection was made is hidden from it, and the
// connection is closed behind the answer. Where certificates are required,
// refuse answers in the place of next.
func (f *Files) Handler(next, refuse http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || f.Trusted(r.TLS.VerifiedChains) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close")
		if f.Required() {
			refuse.ServeHTTP(w, r)
			return
		}
		state := *r.TLS
		state.PeerCertificates, state.VerifiedChains = nil, nil
		r = r.WithContext(r.Context())
		r.TLS = &state
		next.ServeHTTP(w, r)
	})
}
