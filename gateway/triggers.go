package gateway

import (
	"context"
	"sync"

	"keyhole/authz"
	"keyhole/gateway/api"
	"keyhole/gateway/internal/wire"
	"keyhole/keys"
	"keyhole/rotation"
)

// Trigger rotates the keys that a trigger of the configuration names. It
// needs no right on any of the keys. The failure of one fails no other.
func (s *Service) Trigger(ctx context.Context, req Request, name string, in api.TriggerRequest) (api.TriggerResult, error) {
	o := s.open(req, authz.ActionTrigger, "", 0)
	o.detail("trigger", clip(name))
	return changes(ctx, o,
		func(_ context.Context, o *op) error {
			return o.decide(authz.Resource{Type: authz.TypeTrigger, Name: clip(name)}, "")
		},
		func(ctx context.Context, o *op) (api.TriggerResult, error) {
			t, ok := s.triggers[name]
			if !ok {
				return api.TriggerResult{}, keys.Errorf(keys.ErrNotFound, "no trigger is configured under the name %q", clip(name))
			}
			if err := checkNote(in.Note); err != nil {
				return api.TriggerResult{}, err
			}
			o.detail("reason", string(t.Reason))
			o.detail("note", in.Note)
			return own(ctx, o, func(context.Context) (api.TriggerResult, error) {
				// Each rotation has its own time; a caller who hangs up stops none.
				out := api.TriggerResult{Trigger: name, Reason: string(t.Reason), Results: o.rotateAll(context.WithoutCancel(ctx), t, in.Note)}
				for _, r := range out.Results {
					if r.Rotation != nil {
						o.detail("key:"+r.Key, r.Rotation.ID)
					} else {
						o.detail("key:"+r.Key, r.Error.Code)
					}
				}
				return out, nothingBegun(out.Results)
			})
		})
}

// nothingBegun returns the error of the first key if nothing at all could be
// begun because a part of the gateway is down: whoever pulled the trigger
// shall come again, and must not take it for done.
func nothingBegun(results []api.TriggeredKey) error {
	for _, r := range results {
		if r.Error == nil || r.Error.Status < statusUnavailable {
			return nil
		}
	}
	if len(results) == 0 {
		return nil
	}
	return results[0].Error.Err()
}

// statusUnavailable is the status of what may work later, in package api.
const statusUnavailable = 503

// rotateAll rotates each key of a trigger, a few at a time.
func (o *op) rotateAll(ctx context.Context, t Trigger, note string) []api.TriggeredKey {
	results := make([]api.TriggeredKey, len(t.Keys))
	places := make(chan struct{}, o.s.parallel)
	var wg sync.WaitGroup
	for i, key := range t.Keys {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			results[i] = o.rotateTriggered(ctx, key, rotation.RotateSpec{Reason: t.Reason, Note: note})
		})
	}
	wg.Wait()
	return results
}

func (o *op) rotateTriggered(ctx context.Context, key string, spec rotation.RotateSpec) api.TriggeredKey {
	actor := o.actor()
	// By this id a second attempt finds the rotation of this key among those
	// of the trigger.
	actor.RequestID += "/" + key
	r, err := safely(ctx, o, func(ctx context.Context, o *op) (*keys.Rotation, error) {
		return o.lifecycle().Rotate(ctx, actor, key, spec)
	})
	if err != nil {
		p := api.ProblemOf(err)
		return api.TriggeredKey{Key: key, Error: &api.ItemError{Code: p.Code, Status: p.Status, Detail: p.Detail}}
	}
	shown := wire.Rotation(r, nil) // a narrow credential does not see who uses the key
	return api.TriggeredKey{Key: key, Rotation: &shown}
}
