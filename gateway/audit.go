package gateway

import (
	"context"
	"strconv"

	"keyhole/audit"
	"keyhole/audit/lookup"
	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
)

// AuditLog shows the audit log that Auditor writes. Errors are of package
// keys.
type AuditLog interface {
	// Newest returns a page of the newest durable records in front of the seq
	// before (0: the end) that f means. It looks through a bounded part of the
	// log: a page may be empty and not the last one.
	Newest(ctx context.Context, f lookup.Filter, before uint64, limit int) (lookup.Page, error)
	// Checkpoint returns the last signed checkpoint, or with fresh one of the
	// log as it is now.
	Checkpoint(ctx context.Context, fresh bool) (signed []byte, err error)
	// Proof returns a file that proves by public keys alone that a record is
	// in the log. Errors: keys.ErrNotFound, also while no checkpoint vouches
	// for the record.
	Proof(ctx context.Context, seq uint64) (file []byte, err error)
	// Keys returns the file of the public audit keys, all versions. It does
	// no I/O.
	Keys() ([]byte, error)
}

// AuditRecords returns records of the audit log, newest first. Whoever may
// read the log reads all of it: also about keys that they may not see.
func (s *Service) AuditRecords(ctx context.Context, req Request, q api.AuditQuery) (api.AuditList, error) {
	return guarded(ctx, s.open(req, authz.ActionReadAudit, "", 0), func(ctx context.Context, o *op) (api.AuditList, error) {
		list := api.AuditList{Records: []api.AuditRecord{}}
		o.describeQuery(q)
		log, err := o.auditLog()
		if err != nil {
			return list, err
		}
		limit, err := pageSize(q.Limit)
		if err != nil {
			return list, err
		}
		page, err := log.Newest(ctx, lookup.Filter{
			Key: q.Key, KeyID: q.KeyID, Principal: q.Principal, Action: q.Action, Outcome: q.Outcome, RequestID: q.RequestID,
			Since: q.Since.Time, Until: q.Until.Time,
		}, q.Before, limit)
		if err != nil {
			return list, err
		}
		for i := range page.Records {
			list.Records = append(list.Records, wire.AuditRecord(&page.Records[i]))
		}
		list.Next = page.Next
		return list, nil
	})
}

// describeQuery says in the record what of the log was read.
func (o *op) describeQuery(q api.AuditQuery) {
	o.detail("act", "search")
	for _, d := range []struct{ name, value string }{
		{"key", q.Key}, {"kid", q.KeyID}, {"principal", q.Principal}, {"action", q.Action}, {"outcome", q.Outcome}, {"request", q.RequestID},
	} {
		o.detail(d.name, clip(d.value))
	}
	if !q.Since.IsZero() {
		o.detail("since", q.Since.UTC().String())
	}
	if !q.Until.IsZero() {
		o.detail("until", q.Until.UTC().String())
	}
	if q.Before != 0 {
		o.detail("before", strconv.FormatUint(q.Before, 10))
	}
}

// auditLog authorises the reading of the audit log.
func (o *op) auditLog() (AuditLog, error) {
	if err := o.decide(gatewayResource, ""); err != nil {
		return nil, err
	}
	if o.s.auditLog == nil {
		return nil, errNoAuditLog()
	}
	return o.s.auditLog, nil
}

func errNoAuditLog() error {
	return keys.Errorf(keys.ErrNotFound, "this gateway does not show its audit log")
}

// AuditCheckpoint returns the last checkpoint of the audit log, signed, or
// with fresh one of the log as it is now.
func (s *Service) AuditCheckpoint(ctx context.Context, req Request, fresh bool) ([]byte, error) {
	return guarded(ctx, s.open(req, authz.ActionReadAudit, "", 0), func(ctx context.Context, o *op) ([]byte, error) {
		o.detail("act", "checkpoint")
		log, err := o.auditLog()
		if err != nil {
			return nil, err
		}
		return log.Checkpoint(ctx, fresh)
	})
}

// AuditProof returns a file that proves that the record with a seq is in the
// audit log. Errors: keys.ErrNotFound, also while no checkpoint vouches for
// it.
func (s *Service) AuditProof(ctx context.Context, req Request, seq uint64) ([]byte, error) {
	return guarded(ctx, s.open(req, authz.ActionReadAudit, "", 0), func(ctx context.Context, o *op) ([]byte, error) {
		o.detail("act", "proof")
		o.detail("seq", strconv.FormatUint(seq, 10))
		log, err := o.auditLog()
		if err != nil {
			return nil, err
		}
		return log.Proof(ctx, seq)
	})
}

// AuditKeys returns the file of the public audit keys. It is open to
// everybody, and no event for the audit log.
func (s *Service) AuditKeys() ([]byte, error) {
	if s.auditLog == nil {
		return nil, errNoAuditLog()
	}
	return s.auditLog.Keys()
}

// Receipt is what to keep of a request to have it proved later that its
// record is in the audit log.
type Receipt struct {
	Seq   uint64 // of its last record, or of the first one of a batch
	Count int    // how many records were made together
	Leaf  [32]byte
}

// WithReceipt returns a context under which a request leaves its receipt.
// taken returns it, once the request has been recorded.
func WithReceipt(ctx context.Context) (_ context.Context, taken func() (Receipt, bool)) {
	ctx, r := audit.WithReceipts(ctx)
	return ctx, func() (Receipt, bool) {
		last, ok := r.Last()
		return Receipt{Seq: last.Seq, Count: last.Count, Leaf: last.Leaf}, ok
	}
}
