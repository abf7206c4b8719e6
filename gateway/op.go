package gateway

import (
	"context"
	"maps"
	"slices"
	"time"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/gateway/internal/forms"
	"keyhole/keys"
)

// op is one operation under way: what was found out about it so far.
type op struct {
	s     *Service
	req   Request
	start time.Time
	rec   audit.Record
	key   *keys.Key // set by authorise
	now   time.Time // the one moment at which the timeline is read
	first string    // request id of an earlier attempt that this one goes on with
	lane  keys.Lane // that policy puts it in; set by decide
}

func (s *Service) open(req Request, action, key string, size int) *op {
	now := s.now()
	return &op{s: s, req: req, start: now, now: now, rec: audit.Record{
		RequestID: req.ID, Principal: req.Caller.ID, AuthMethod: req.Caller.Method, Source: req.Source.String(),
		Action: action, Key: clip(key), Size: int64(size), // a clipped name is no name: it has dots
	}}
}

// notFound is the one answer about a key that is not there and about one
// that the caller may not see.
func notFound(name string) error {
	return keys.Errorf(keys.ErrKeyNotFound, "there is no key %q here, or you may not see it", clip(name))
}

// clip bounds a caller's own text before it is shown back or recorded.
func clip(s string) string { return forms.Clip(s) }

// authorise finds the operation's key and asks the policy. version is the
// one the request names; 0 means the active one. Errors: ErrStale,
// ErrKeyNotFound, ErrForbidden.
func (o *op) authorise(version uint32) error {
	k, err := o.find()
	if err != nil {
		return err
	}
	if err := o.decide(resourceOf(k), o.stateOf(k, version)); err != nil {
		return err
	}
	o.key, o.rec.Purpose = k, string(k.Purpose)
	return nil
}

// authoriseSome is authorise for a batch as a whole, whose items may name
// versions in any state: it passes if the policy lets the caller act on one.
func (o *op) authoriseSome() error {
	k, err := o.find()
	if err != nil {
		return err
	}
	active := o.stateOf(k, 0)
	asked := map[string]bool{active: true}
	for _, v := range k.Versions {
		if state := string(k.StateAt(v, o.now)); !asked[state] {
			asked[state] = true
			if o.ask(o.rec.Action, resourceOf(k), state).Allowed {
				return nil
			}
		}
	}
	return o.decide(resourceOf(k), active)
}

// find returns the operation's key. Errors: ErrStale, ErrKeyNotFound.
func (o *op) find() (*keys.Key, error) {
	snap, err := o.s.snapshots.Snapshot()
	if err != nil {
		return nil, err
	}
	k, ok := snap.Key(o.rec.Key)
	if ok && k.Damaged {
		return nil, o.damaged(k)
	}
	if !ok || !visible(k) {
		// The policy is asked all the same: the time taken must not tell a
		// key that is not there from one that the caller may not see.
		absent := authz.Resource{Type: authz.TypeKey, Name: o.rec.Key}
		if !o.ask(o.rec.Action, absent, "").Allowed {
			o.ask(authz.ActionRead, absent, "")
		}
		return nil, notFound(o.rec.Key)
	}
	return k, nil
}

// damaged is the answer about a key of which what is stored was altered.
// Whoever may not see it is told that there is none; the tags that could say
// otherwise are lost.
func (o *op) damaged(k *keys.Key) error {
	if o.ask(o.rec.Action, resourceOf(k), "").Allowed || o.ask(authz.ActionRead, resourceOf(k), "").Allowed {
		return keys.Errorf(keys.ErrTampered, "what is stored of key %q is not what Keyhole wrote; nothing is done with it until its data are restored", k.Name)
	}
	return notFound(k.Name)
}

// stateOf returns the state of version n, or with 0 of the active one; "" if
// there is none.
func (o *op) stateOf(k *keys.Key, n uint32) string {
	v := k.ActiveAt(o.now)
	if n != 0 {
		v, _ = k.Version(n) // nil with the error
	}
	if v == nil {
		return ""
	}
	return string(k.StateAt(v, o.now))
}

// version returns a version that was generated, or ErrVersionNotFound.
func (o *op) version(n uint32) (*keys.Version, error) {
	v, err := o.key.Version(n)
	if err != nil {
		return nil, err
	}
	if v.CreatedAt.IsZero() {
		return nil, keys.Errorf(keys.ErrVersionNotFound, "key %q has no version %d", o.key.Name, n)
	}
	return v, nil
}

// decide asks the policy about the operation's action on a resource. A
// caller who may not even read the key is told that there is none.
func (o *op) decide(res authz.Resource, state string) error {
	d := o.ask(o.rec.Action, res, state)
	o.rec.Policies, o.lane = d.Policies, d.Lane
	if d.Allowed {
		return nil
	}
	forbidden := keys.Errorf(keys.ErrForbidden, "policy does not let %s %s %s", clip(o.req.Caller.ID), o.rec.Action, res.Name)
	o.rec.Outcome, o.rec.Reason = audit.OutcomeDenied, "forbidden"
	if res.Type == authz.TypeKey && o.rec.Action != authz.ActionRead && o.rec.Action != authz.ActionCreateKey &&
		o.ask(authz.ActionRead, res, state).Allowed {
		return forbidden
	}
	if res.Type == authz.TypeKey && o.rec.Action != authz.ActionCreateKey {
		return notFound(res.Name)
	}
	return forbidden
}

func (o *op) ask(action string, res authz.Resource, state string) authz.Decision {
	return o.s.policy.Decide(authz.Request{
		Principal: o.req.Caller, Action: action, Resource: res,
		Context: authz.Context{Method: o.req.Caller.Method, SourceIP: o.req.Source, VersionState: state, PayloadSize: o.rec.Size},
	})
}

// in returns ctx in the lane that policy says, for what the HSM does.
func (o *op) in(ctx context.Context) context.Context {
	if o.lane == keys.LaneNormal {
		return ctx // of which a batch has its own
	}
	return keys.WithLane(ctx, o.lane)
}

// mayRecover reports whether the caller may process with a version that is
// out of use, and says in the record that this was done.
func (o *op) mayRecover(v *keys.Version) bool {
	state := string(o.key.StateAt(v, o.now))
	d := o.ask(authz.ActionRecover, resourceOf(o.key), state)
	if d.Allowed {
		o.rec.Policies = slices.Concat(o.rec.Policies, d.Policies)
		o.detail("recovered_from", state)
	}
	return d.Allowed
}

func resourceOf(k *keys.Key) authz.Resource {
	return authz.Resource{Type: authz.TypeKey, Name: k.Name, Purpose: string(k.Purpose), Tags: k.Tags}
}

// gatewayResource stands for acts that concern no key.
var gatewayResource = authz.Resource{Type: authz.TypeGateway, Name: "keyhole"}

// detail adds to the record what belongs into none of its fields, if there is
// something.
func (o *op) detail(name, value string) {
	if value == "" {
		return
	}
	o.rec.Details = maps.Clone(o.rec.Details) // an intent record may hold the former
	if o.rec.Details == nil {
		o.rec.Details = map[string]string{}
	}
	o.rec.Details[name] = value
}

// visible reports whether a key exists for the outside: its first version
// has been generated.
func visible(k *keys.Key) bool {
	for _, v := range k.Versions {
		if !v.CreatedAt.IsZero() {
			return true
		}
	}
	return false
}

// use names the version in the record and checks that its state serves u.
func (o *op) use(v *keys.Version, u keys.Use) error {
	o.name(v)
	return o.key.StateAt(v, o.now).CheckUse(u)
}

func (o *op) name(v *keys.Version) {
	o.rec.Version, o.rec.KeyID, o.rec.Algorithm = v.Number, o.key.ID(v).String(), string(v.Algorithm)
}

// active returns the version that signs and encrypts now.
func (o *op) active() (*keys.Version, error) {
	v := o.key.ActiveAt(o.now)
	if v == nil {
		return nil, keys.Errorf(keys.ErrNoActiveVersion, "key %q has no active version: it is suspended or revoked; rotate it or resume a version", o.key.Name)
	}
	o.name(v)
	return v, nil
}

// purpose refuses a request that the key is not for.
func (o *op) purpose(p keys.Purpose) error {
	if keys.Reserved(o.key.Name) {
		// Whoever could have it sign would be able to forge what it vouches for.
		return keys.Errorf(keys.ErrWrongPurpose, "key %q is kept for Keyhole itself; it cannot %s", o.key.Name, o.rec.Action)
	}
	if o.key.Purpose == p {
		return nil
	}
	return keys.Errorf(keys.ErrWrongPurpose, "key %q (%s) has the purpose %q; it cannot %s", o.key.Name, o.key.Algorithm, o.key.Purpose, o.rec.Action)
}

// count notes a use of v in the usage counters. What signs or encrypts is
// counted before it is done. Errors: keys.ErrStore, and keys.ErrVersionState
// of a version that has wrapped as often as it may.
func (o *op) count(ctx context.Context, v *keys.Version, u keys.Use, bytes int64) error {
	if u == keys.UseApply && v.Algorithm == keys.A256GCM {
		return o.s.usage.CountWrap(ctx, o.key.Name, v.Number, o.req.Caller.ID, int(bytes))
	}
	return o.s.usage.Count(ctx, o.key.Name, v.Number, o.req.Caller.ID, u, int(bytes))
}
