package wire_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"keyhole/gateway/internal/wire"
	"keyhole/keys"
)

// A policy comes back from the wire as it went.
func TestPolicyRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		span := rapid.Map(rapid.Int64Range(0, 1<<60), func(n int64) time.Duration { return time.Duration(n) })
		p := keys.Policy{
			Period: span.Draw(t, "period"), Schedule: rapid.String().Draw(t, "schedule"), MaxOperations: rapid.Uint64().Draw(t, "operations"),
			MaxBytes: rapid.Uint64().Draw(t, "bytes"), Announce: span.Draw(t, "announce"), Overlap: span.Draw(t, "overlap"),
			AfterOverlap: rapid.SampledFrom([]keys.AfterOverlap{"", keys.OverlapArchive, keys.OverlapDestroy}).Draw(t, "after"),
			DestroyDelay: span.Draw(t, "delay"),
			Acks: keys.Acks{
				Require: rapid.SampledFrom([]keys.AckRequirement{"", keys.AckNone, keys.AckAll, keys.AckQuorum}).Draw(t, "require"),
				Quorum:  rapid.IntRange(0, 100).Draw(t, "quorum"), Timeout: span.Draw(t, "timeout"),
				OnTimeout:   rapid.SampledFrom([]keys.OnTimeout{"", keys.TimeoutAbort, keys.TimeoutActivate}).Draw(t, "on timeout"),
				AbsentAfter: span.Draw(t, "absent"),
			},
		}
		if back := wire.PolicyOf(wire.Policy(p)); back != p {
			t.Fatal(cmp.Diff(p, back))
		}
	})
}

func TestAgent(t *testing.T) {
	t.Parallel()
	now := time.Now()
	got := wire.Agent(&keys.Agent{Principal: "mtls:till-7", LastSeen: now, Block: &keys.Block{At: now, By: "jwt:corp:root", Reason: "stolen"}},
		[]keys.Subscription{{Key: "payments"}, {Key: "mail"}},
		[]keys.Ack{{Key: "payments", Version: 2, At: now}, {Key: "payments", Version: 10, At: now}, {Key: "mail", Version: 1, At: now}})
	if got.ID != keys.AgentID("mtls:till-7") || got.BlockedBy != "jwt:corp:root" || got.BlockReason != "stolen" || !got.FirstSeenAt.IsZero() {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff([]string{"mail", "payments"}, got.Subscriptions); diff != "" {
		t.Error(diff)
	}
	if len(got.Acks) != 2 || got.Acks[0].KeyID != "mail.v1" || got.Acks[1].KeyID != "payments.v10" {
		t.Errorf("%+v", got.Acks)
	}
	if none := wire.Agent(&keys.Agent{Principal: "mtls:x"}, nil, nil); none.Subscriptions == nil || none.Acks == nil || !none.BlockedAt.IsZero() {
		t.Errorf("%+v", none)
	}
}
