package audit

import (
	"context"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
)

// Receipt is what to keep of a record to have it proved later that it is in
// the log.
type Receipt struct {
	Seq   uint64
	Count int       // records from Seq on that were handed in together
	Leaf  tlog.Hash // of the line of Seq
}

// Receipts collects the receipts of one request. Its methods are safe for
// concurrent use.
type Receipts struct {
	mu   sync.Mutex
	last Receipt
}

// Last returns the receipt of the records that were appended last; ok is
// false if there were none.
func (r *Receipts) Last() (_ Receipt, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, r.last.Count > 0
}

func (r *Receipts) note(first uint64, leaves []tlog.Hash) {
	if len(leaves) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = Receipt{Seq: first, Count: len(leaves), Leaf: leaves[0]}
}

type receiptsKey struct{}

// WithReceipts returns a context under which every Append leaves its receipt
// behind, whoever calls it.
func WithReceipts(ctx context.Context) (context.Context, *Receipts) {
	r := new(Receipts)
	return context.WithValue(ctx, receiptsKey{}, r), r
}
