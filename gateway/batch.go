package gateway

import (
	"context"
	"sync"
	"sync/atomic"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// SignBatch signs each item.
func (s *Service) SignBatch(ctx context.Context, req Request, key string, in []api.SignRequest) ([]api.BatchItem[api.SignResponse], error) {
	return batch(ctx, s, req, authz.ActionSign, key, in, s.sign,
		func(in *api.SignRequest) int { return len(in.Payload) + len(in.Digest) })
}

// VerifyBatch verifies each item.
func (s *Service) VerifyBatch(ctx context.Context, req Request, key string, in []api.VerifyRequest) ([]api.BatchItem[api.VerifyResponse], error) {
	return batch(ctx, s, req, authz.ActionVerify, key, in, s.verify,
		func(in *api.VerifyRequest) int { return len(in.Payload) + len(in.Digest) + len(in.JWS) })
}

// EncryptBatch encrypts each item.
func (s *Service) EncryptBatch(ctx context.Context, req Request, key string, in []api.EncryptRequest) ([]api.BatchItem[api.EncryptResponse], error) {
	return batch(ctx, s, req, authz.ActionEncrypt, key, in, s.encrypt,
		func(in *api.EncryptRequest) int { return len(in.Plaintext) })
}

// DecryptBatch decrypts each item.
func (s *Service) DecryptBatch(ctx context.Context, req Request, key string, in []api.DecryptRequest) ([]api.BatchItem[api.DecryptResponse], error) {
	return batch(ctx, s, req, authz.ActionDecrypt, key, in, s.decrypt,
		func(in *api.DecryptRequest) int { return len(in.Ciphertext) + len(in.JWE) })
}

// RewrapBatch rewraps each item.
func (s *Service) RewrapBatch(ctx context.Context, req Request, key string, in []api.RewrapRequest) ([]api.BatchItem[api.RewrapResponse], error) {
	return batch(ctx, s, req, authz.ActionRewrap, key, in, s.rewrap,
		func(in *api.RewrapRequest) int { return len(in.Ciphertext) })
}

// batch runs one operation per item, several at a time, behind single
// requests. Each item is authorised and recorded by itself; the records share
// one commit.
func batch[In, Out any](ctx context.Context, s *Service, req Request, action, key string, in []In,
	act func(context.Context, *op, *In) (Out, error), size func(*In) int,
) ([]api.BatchItem[Out], error) {
	whole := s.open(req, action, key, 0)
	refuse := func(err error) error {
		if rerr := s.record(ctx, whole.finish(err)); rerr != nil {
			return rerr
		}
		return err
	}
	release, err := s.place(&req, action)
	if err != nil {
		return nil, refuse(err)
	}
	defer release()
	if len(in) == 0 || len(in) > api.MaxBatch {
		return nil, refuse(keys.Errorf(keys.ErrInvalid, "the batch has %d items; send 1 to %d", len(in), api.MaxBatch))
	}
	// One look first: a caller who may not use the key at all, or asks for
	// one that is not there, gets that answer and not a thousand copies.
	if err := whole.authoriseSome(); err != nil {
		return nil, refuse(err)
	}
	ctx = keys.WithLane(ctx, keys.LaneBulk)
	items := make([]api.BatchItem[Out], len(in))
	records := make([]audit.Record, len(in))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(s.parallel, len(in)) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(in) {
					return
				}
				o := s.open(req, action, key, size(&in[i]))
				res, err := safely(ctx, o, func(ctx context.Context, o *op) (Out, error) { return act(ctx, o, &in[i]) })
				s.noteFailure(o, err)
				records[i] = o.finish(err)
				if err != nil {
					p := api.ProblemOf(err)
					items[i].Error = &api.ItemError{Code: p.Code, Status: p.Status, Detail: p.Detail}
				} else {
					items[i].Result = &res
				}
			}
		})
	}
	wg.Wait()
	if err := s.record(ctx, records...); err != nil {
		return nil, err
	}
	return items, nil
}
