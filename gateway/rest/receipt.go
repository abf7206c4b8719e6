package rest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"keyhole/gateway"
)

// receiptHeader says in an answer which record of the audit log the request
// has made.
const receiptHeader = "Keyhole-Receipt"

// receipts has an answer carry the request's receipt. What authentication has
// refused gets none: how busy the gateway is concerns no stranger.
type receipts struct {
	http.ResponseWriter
	c     *call
	taken func() (gateway.Receipt, bool)
}

// newReceipts returns what answers a request that prefers a receipt, and the
// request as it goes on.
func newReceipts(w http.ResponseWriter, req *http.Request) (*receipts, *http.Request) {
	ctx, taken := gateway.WithReceipt(req.Context())
	return &receipts{ResponseWriter: w, taken: taken}, req.WithContext(ctx)
}

// WriteHeader implements http.ResponseWriter.
func (r *receipts) WriteHeader(status int) {
	if got, ok := r.taken(); ok && r.c.req.Caller.ID != "" && !r.c.anonymous() {
		header := r.Header()
		header["Preference-Applied"] = []string{"receipt"}
		header[receiptHeader] = []string{receiptText(got)}
		header["Vary"] = []string{"Prefer"}
	}
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap serves http.ResponseController.
func (r *receipts) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func receiptText(r gateway.Receipt) string {
	count := ""
	if r.Count > 1 {
		count = fmt.Sprintf(" count=%d;", r.Count)
	}
	return fmt.Sprintf("seq=%d;%s leaf=%s", r.Seq, count, base64.StdEncoding.EncodeToString(r.Leaf[:]))
}

// prefersReceipt reads the Prefer header (RFC 7240): whether "receipt" is
// among the preferences, which may have values and parameters.
func prefersReceipt(values []string) bool {
	for _, value := range values {
		for _, preference := range splitPreferences(value) {
			name, _, _ := strings.Cut(preference, ";")
			name, set, _ := strings.Cut(name, "=")
			if set = strings.TrimSpace(set); strings.EqualFold(strings.TrimSpace(name), "receipt") && (set == "" || set == `""`) {
				return true
			}
		}
	}
	return false
}

// splitPreferences splits at the commas that are not within quotes.
func splitPreferences(value string) []string {
	var all []string
	start, quoted := 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			all = append(all, value[start:i])
			start = i + 1
		}
	}
	return append(all, value[start:])
}
