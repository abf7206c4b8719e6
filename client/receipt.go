package client

import (
	"context"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
)

// Receipt says which record of the gateway's audit log a call has made. Whoever
// keeps it can have it proved later that the record is there: AuditProof of
// Seq gives a proof of the line whose Merkle leaf hash is Leaf.
type Receipt struct {
	Seq   uint64 `json:"seq"`
	Count int    `json:"count"` // 0: there is no receipt; else how many records of a batch follow each other from Seq on
	Leaf  []byte `json:"leaf"`  // of the record Seq
}

type receiptKey struct{}

// WithReceipt has a call under the returned context ask for a receipt, which
// is in r when the call returns, also if the gateway refused it. If the call
// was sent several times, it is that of the last answer. A context is good
// for one call at a time.
func WithReceipt(ctx context.Context, r *Receipt) context.Context {
	return context.WithValue(ctx, receiptKey{}, r)
}

// wantsReceipt adds the preference to a request whose context asks for it.
func wantsReceipt(req *http.Request) {
	if r, ok := req.Context().Value(receiptKey{}).(*Receipt); ok {
		*r = Receipt{}
		req.Header.Set("Prefer", "receipt")
	}
}

// noteReceipt keeps the receipt of an answer for whom the context names.
func noteReceipt(ctx context.Context, header http.Header) {
	if r, ok := ctx.Value(receiptKey{}).(*Receipt); ok {
		*r, _ = parseReceipt(header.Get("Keyhole-Receipt"))
	}
}

// parseReceipt reads the header. Members that are unknown are left out.
func parseReceipt(text string) (r Receipt, ok bool) {
	r.Count = 1
	var seq, leaf bool
	for part := range strings.SplitSeq(text, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		var err error
		switch name {
		case "seq":
			r.Seq, err = strconv.ParseUint(value, 10, 63)
			seq = true
		case "count":
			r.Count, err = strconv.Atoi(value)
		case "leaf":
			r.Leaf, err = base64.StdEncoding.Strict().DecodeString(value)
			leaf = len(r.Leaf) == 32
		}
		if err != nil {
			return Receipt{}, false
		}
	}
	if !seq || !leaf || r.Count < 1 {
		return Receipt{}, false
	}
	return r, true
}
