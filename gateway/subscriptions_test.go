package gateway_test

import (
	"slices"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func TestSubscriptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.key("mail", keys.A256GCM)
	w.news()
	sub := of(w.Subscribe(ctx, alice, "payments")).ok(t)
	if sub.Key != "payments" || sub.Since.IsZero() || !slices.Equal(sub.Waiting, []uint32{1}) {
		t.Errorf("%+v", sub)
	}
	if r := w.record(); r.Action != "subscribe" || r.Outcome != audit.OutcomeOK || r.Key != "payments" || r.Principal != alice.Caller.ID {
		t.Errorf("recorded as %+v", r)
	}
	w.offset.Add(int64(time.Second))
	if again := of(w.Subscribe(ctx, alice, "payments")).ok(t); !again.Since.Equal(sub.Since.Time) {
		t.Errorf("%s and then %s", sub.Since, again.Since)
	}
	of(w.Subscribe(ctx, alice, "mail")).ok(t)
	ack := of(w.Acknowledge(ctx, alice, "payments", 1)).ok(t)
	if ack.Key != "payments" || ack.Version != 1 || ack.KeyID != "payments.v1" || ack.AcknowledgedAt.IsZero() {
		t.Errorf("%+v", ack)
	}
	w.offset.Add(int64(time.Second))
	if again := of(w.Acknowledge(ctx, alice, "payments", 1)).ok(t); !again.AcknowledgedAt.Equal(ack.AcknowledgedAt.Time) {
		t.Errorf("%s and then %s", ack.AcknowledgedAt, again.AcknowledgedAt)
	}
	w.rotate("payments")
	list := of(w.Subscriptions(ctx, alice)).ok(t)
	if len(list.Subscriptions) != 2 || list.Subscriptions[0].Key != "mail" || !slices.Equal(list.Subscriptions[1].Waiting, []uint32{2}) {
		t.Errorf("%+v", list)
	}
	if list := of(w.Subscriptions(ctx, admin)).ok(t); list.Subscriptions == nil || len(list.Subscriptions) != 0 {
		t.Errorf("%+v", list)
	}
	if err := w.Unsubscribe(ctx, alice, "mail"); err != nil {
		t.Error(err)
	}
	if err := w.Unsubscribe(ctx, alice, "mail"); err != nil {
		t.Error(err)
	}
	if list := of(w.Subscriptions(ctx, alice)).ok(t); len(list.Subscriptions) != 1 {
		t.Errorf("%+v", list)
	}
}

func TestAcksAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.rotate("payments")
	w.rotate("payments")
	w.news()
	refused := func(n uint32, kind error, reason string) {
		t.Helper()
		of(w.Acknowledge(ctx, alice, "payments", n)).fails(t, kind)
		if r := w.record(); r.Outcome != audit.OutcomeError || r.Reason != reason || r.Details["act"] == "" && kind != keys.ErrVersionNotFound {
			t.Errorf("recorded as %+v", r)
		}
	}
	refused(3, keys.ErrNotSubscribed, "not_subscribed")
	of(w.Subscribe(ctx, alice, "payments")).ok(t)
	w.news()
	refused(4, keys.ErrVersionNotFound, "version_not_found")
	refused(0, keys.ErrVersionNotFound, "version_not_found")
	w.change("payments", func(k *keys.Key) { // generated, and not yet announced
		v := *k.Versions[2]
		v.Number, v.ObjectID = 4, keys.NewObjectID()
		v.AnnouncedAt, v.ActivateAt, v.ActivatedAt = time.Time{}, time.Time{}, time.Time{}
		k.Versions = append(k.Versions, &v)
	})
	refused(4, keys.ErrVersionState, "version_state")
	of(w.Revoke(ctx, admin, "payments", 1, api.VersionActRequest{})).ok(t)
	w.news()
	refused(1, keys.ErrVersionState, "version_state")
	of(w.Acknowledge(ctx, alice, "payments", 2)).ok(t) // in its overlap
	of(w.Acknowledge(ctx, alice, "payments", 3)).ok(t)
}

// Who may no longer subscribe can still leave; nobody else learns from it
// whether a key is there.
func TestLeavingWithoutPermission(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	of(w.Subscribe(ctx, alice, "payments")).ok(t)
	tags := map[string]string{"team": "dev"}
	of(w.UpdateKey(ctx, admin, "payments", api.UpdateKeyRequest{Tags: &tags})).ok(t)
	of(w.Acknowledge(ctx, alice, "payments", 1)).fails(t, keys.ErrKeyNotFound)
	if list := of(w.Subscriptions(ctx, alice)).ok(t); len(list.Subscriptions) != 0 {
		t.Errorf("%+v", list)
	}
	w.news()
	if err := w.Unsubscribe(ctx, alice, "payments"); err != nil {
		t.Error(err)
	}
	if r := w.record(); r.Outcome != audit.OutcomeOK || r.Details["act"] != "unsubscribe" {
		t.Errorf("recorded as %+v", r)
	}
	of(struct{}{}, w.Unsubscribe(ctx, alice, "payments")).fails(t, keys.ErrKeyNotFound)
	subs, err := w.store.Subscriptions(ctx, "payments", "")
	if err != nil || len(subs) != 0 {
		t.Errorf("%+v, %v", subs, err)
	}
}

// A rotation waits for those who subscribed, and goes on when they have
// acknowledged.
func TestRotationWaitsForAcks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	policy := api.Policy{Acks: &api.Acks{Require: "all", Timeout: api.Duration(2 * time.Hour), OnTimeout: "abort"}}
	of(w.UpdateKey(ctx, admin, "payments", api.UpdateKeyRequest{Policy: &policy})).ok(t)
	w.see("jwt:corp:alice", "jwt:corp:bob")
	bob := as("bob", "agents")
	of(w.Subscribe(ctx, alice, "payments")).ok(t)
	of(w.Subscribe(ctx, bob, "payments")).ok(t)
	r := of(w.Rotate(ctx, admin, "payments", api.RotateRequest{Note: "quarterly"})).ok(t)
	if r.Phase != "announced" || r.Acks == nil || r.Acks.Require != "all" || r.Acks.OnTimeout != "abort" || len(r.Acks.Missing) != 2 || r.Acks.Deadline.IsZero() ||
		r.Next == nil || r.Next.Step != "schedule" || r.Note != "quarterly" || r.AnnouncedAt.IsZero() {
		t.Errorf("%+v", r)
	}
	if k := of(w.Key(ctx, alice, "payments")).ok(t); k.Rotation != r.ID || k.ActiveVersion != 1 || k.Versions[0].State != "pre-activation" {
		t.Errorf("%+v", k)
	}
	if list := of(w.Keys(ctx, alice, "", 0)).ok(t); list.Keys[0].Rotation != r.ID {
		t.Errorf("%+v", list)
	}
	of(w.Acknowledge(ctx, alice, "payments", 2)).ok(t)
	w.tick(time.Second)
	shown := of(w.Rotation(ctx, alice, r.ID)).ok(t)
	if len(shown.Acks.Acknowledged) != 1 || shown.Acks.Acknowledged[0].Principal != "jwt:corp:alice" || !slices.Equal(shown.Acks.Missing, []string{"jwt:corp:bob"}) || shown.Phase != "announced" {
		t.Errorf("%+v", shown.Acks)
	}
	if list := of(w.Rotations(ctx, alice, "payments", "", 0)).ok(t); list.Rotations[0].Acks == nil || len(list.Rotations[0].Acks.Missing) != 1 {
		t.Errorf("%+v", list)
	}
	of(w.Acknowledge(ctx, bob, "payments", 2)).ok(t)
	w.tick(time.Second)
	shown = of(w.Rotation(ctx, alice, r.ID)).ok(t)
	if shown.Phase != "completed" || shown.CompletedAt.IsZero() || len(shown.Acks.Missing) != 0 {
		t.Errorf("%+v", shown)
	}
	if k := of(w.Key(ctx, alice, "payments")).ok(t); k.ActiveVersion != 2 || k.Rotation != "" {
		t.Errorf("%+v", k)
	}
}
