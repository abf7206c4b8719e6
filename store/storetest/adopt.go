package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"keyhole/keys"
	"keyhole/store"
)

// testAdopt takes a key in that is not there. What becomes of a damaged one
// depends on how a store can be damaged.
func testAdopt(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("other", 1))
	for range 5 {
		commit(t, s, "other", touch)
	}
	k := NewKey("payments", 3)
	k.Epoch, k.Versions[0].RevokedAt, k.Versions[1].Label = 99, t0, "made elsewhere"
	must(t, s.Adopt(ctx, k))
	if k.Epoch != 99 {
		t.Error("the caller's key was changed")
	}
	adopted := stored(t, s, "payments")
	if adopted.Epoch < 1 || adopted.Epoch > 1<<32 {
		t.Errorf("the epoch is %d", adopted.Epoch)
	}
	want := k.Clone()
	want.Epoch = adopted.Epoch
	same(t, want, adopted)
	readable, err := s.Readable(ctx, "payments")
	must(t, err)
	same(t, want, readable)
	changed, _, revision, err := s.Changed(ctx, 6)
	must(t, err)
	if revision != 7 || len(changed) != 1 || changed[0].Name != "payments" {
		t.Errorf("adopting changed %v at revision %d", names(changed), revision)
	}
	commit(t, s, "payments", touch)
	create(t, s, NewKey("third", 1))

	unchanged(t, s, "adopting", func() {
		detailed(t, "adopting an intact key", s.Adopt(ctx, k), keys.ErrKeyExists)
		thief := NewKey("thief", 1)
		thief.Versions[0].ObjectID = k.Versions[0].ObjectID
		detailed(t, "adopting another key's object", s.Adopt(ctx, thief), keys.ErrKeyExists)
		for what, change := range map[string]func(k *keys.Key){
			"no name":          func(k *keys.Key) { k.Name = "../x" },
			"a damaged key":    func(k *keys.Key) { k.Damaged = true },
			"one object twice": func(k *keys.Key) { k.Versions[1].ObjectID = k.Versions[0].ObjectID },
			"one number twice": func(k *keys.Key) { k.Versions[1].Number = 1 },
			"another purpose":  func(k *keys.Key) { k.Versions[1].Algorithm = keys.A256GCM },
		} {
			k := NewKey("new", 2)
			change(k)
			is(t, what, s.Adopt(ctx, k), keys.ErrInternal)
		}
	})
	_, err = s.Readable(ctx, "missing")
	detailed(t, "what can be read of a missing key", err, keys.ErrKeyNotFound)

	gone := commit(t, s, "third", func(k *keys.Key) { k.Versions[0].DestroyedAt = t0 })
	must(t, s.Commit(ctx, store.Change{Key: gone, FromEpoch: gone.Epoch, Delete: true}))
	unchanged(t, s, "a retired name", func() {
		detailed(t, "a retired name", s.Adopt(ctx, NewKey("third", 1)), keys.ErrKeyRetired)
	})
}

// anyKey draws a key at epoch 1 with whatever a store must keep.
func anyKey(t *rapid.T, name string) *keys.Key {
	text := func(what string) string { return rapid.String().Draw(t, what) }
	at := func(what string) time.Time {
		if rapid.Bool().Draw(t, what+" is zero") {
			return time.Time{}
		}
		return time.UnixMicro(rapid.Int64Range(-1<<50, 1<<57).Draw(t, what)).UTC()
	}
	span := func(what string) time.Duration { return time.Duration(rapid.Int64().Draw(t, what)) }
	some := func(what string) []byte { return rapid.SliceOf(rapid.Byte()).Draw(t, what) }
	k := &keys.Key{
		Name: name, Purpose: keys.PurposeSign, Algorithm: keys.ES256, Bits: rapid.IntRange(0, 1<<20).Draw(t, "bits"), Description: text("description"),
		Tags: rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "tags"), Token: text("token"), Epoch: 1, CreatedAt: at("created"), DeleteAt: at("delete"),
		Policy: keys.Policy{
			Period: span("period"), Schedule: text("schedule"), MaxOperations: rapid.Uint64().Draw(t, "operations"), MaxBytes: rapid.Uint64().Draw(t, "bytes"),
			Announce: span("announce"), Overlap: span("overlap"), AfterOverlap: keys.AfterOverlap(text("after")), DestroyDelay: span("delay"),
			Acks: keys.Acks{Require: keys.AckRequirement(text("require")), Quorum: rapid.Int().Draw(t, "quorum"), Timeout: span("timeout"), OnTimeout: keys.OnTimeout(text("on timeout"))},
		},
	}
	number := uint32(0)
	for range rapid.IntRange(0, 4).Draw(t, "versions") {
		number += rapid.Uint32Range(1, 1<<29).Draw(t, "step")
		v := Reserved(number)
		v.Label, v.PublicKey, v.Check, v.RevokeReason = text("label"), some("public key"), some("check"), text("reason")
		v.NeverExtractable, v.AlwaysSensitive = rapid.Bool().Draw(t, "never"), rapid.Bool().Draw(t, "always")
		v.CreatedAt, v.AnnouncedAt, v.ActivateAt, v.SuspendedAt, v.RevokedAt = at("created"), at("announced"), at("activate"), at("suspended"), at("revoked")
		v.ArchivedAt, v.DestroyAt, v.DestroyedAt = at("archived"), at("destroy"), at("destroyed")
		if !v.CreatedAt.IsZero() && !v.ActivateAt.IsZero() {
			v.ActivatedAt = at("activated")
		}
		k.Versions = append(k.Versions, v)
	}
	return k
}

// testRoundTripOfAnything: what a store takes it gives back, and finds
// nothing wrong with it.
func testRoundTripOfAnything(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		k := anyKey(rt, fmt.Sprint("key-", n))
		if err := s.Commit(ctx, store.Change{Key: k}); err != nil {
			rt.Fatal(err)
		}
		got, err := s.Key(ctx, k.Name)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(k, got, cmpopts.EquateEmpty()); diff != "" {
			rt.Errorf("not what was stored (-want +got):\n%s", diff)
		}
	})
}
