// Package storetest is the contract of store.Store as tests. Every
// implementation passes it.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"keyhole/keys"
	"keyhole/store"
)

// Maker makes an empty store for one test and returns a function that opens
// it. Called again, that function opens the same store once more, as another
// process would: also while it is open, or after it was closed.
type Maker func(tb testing.TB) (open func() store.Store)

// Run checks everything that store.Store promises.
func Run(t *testing.T, make Maker) {
	for _, tt := range []struct {
		name string
		test func(t *testing.T, open func() store.Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"RoundTripOfAnything", testRoundTripOfAnything},
		{"Create", testCreate},
		{"Change", testChange},
		{"ForGood", testForGood},
		{"NewVersions", testNewVersions},
		{"Nonsense", testNonsense},
		{"Delete", testDelete},
		{"Retire", testRetire},
		{"Adopt", testAdopt},
		{"RotationRows", testRotationRows},
		{"RotationRoundTrip", testRotationRoundTrip},
		{"RotationPhases", testRotationPhases},
		{"RotationRunning", testRotationRunning},
		{"RotationLists", testRotationLists},
		{"RotationByRequest", testRotationByRequest},
		{"Changed", testChanged},
		{"ChangedByModel", testChangedByModel},
		{"Reopen", testReopen},
		{"SameKeyAtOnce", testSameKeyAtOnce},
		{"ManyKeysAtOnce", testManyKeysAtOnce},
		{"CreateAtOnce", testCreateAtOnce},
		{"RotateAtOnce", testRotateAtOnce},
		{"ReadersSeeWholeCommits", testReadersSeeWholeCommits},
		{"Attempts", testAttempts},
		{"AttemptsAtOnce", testAttemptsAtOnce},
		{"AttemptsExpire", testAttemptsExpire},
		{"Events", testEvents},
		{"EventsExpire", testEventsExpire},
		{"EventsAtOnce", testEventsAtOnce},
		{"Agents", testAgents},
		{"Blocks", testBlocks},
		{"BlocksAtOnce", testBlocksAtOnce},
		{"Subscriptions", testSubscriptions},
		{"Acks", testAcks},
		{"Usage", testUsage},
		{"UsageClaims", testUsageClaims},
		{"Belongings", testBelongings},
		{"Approvals", testApprovals},
		{"ApprovalSteps", testApprovalSteps},
		{"ApprovalLists", testApprovalLists},
		{"ApprovalServesOnce", testApprovalServesOnce},
		{"ApproveAtOnce", testApproveAtOnce},
		{"Hooks", testHooks},
		{"HookAtOnce", testHookAtOnce},
		{"Leases", testLeases},
		{"LeasesAtOnce", testLeasesAtOnce},
		{"Nodes", testNodes},
		{"OddNames", testOddNames},
		{"Many", testMany},
		{"AllAtOnce", testAllAtOnce},
		{"Cancelled", testCancelled},
		{"Closed", testClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(t, make(t))
		})
	}
}

// RunSeveral checks what store.Store promises where several gateways use one.
func RunSeveral(t *testing.T, make Maker) {
	for _, tt := range []struct {
		name string
		test func(t *testing.T, open func() store.Store)
	}{
		{"NamesAreTaken", testNamesAreTaken},
		{"NamesAtOnce", testNamesAtOnce},
		{"Hints", testHints},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(t, make(t))
		})
	}
}

// t0 is when everything begins: in microseconds, as a store keeps times.
var t0 = time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)

// NewKey returns a key at epoch 1 with n generated versions, of which the
// last is active.
func NewKey(name string, n int) *keys.Key {
	k := &keys.Key{Name: name, Purpose: keys.PurposeSign, Algorithm: keys.ES256, Bits: 256, Token: "main", Epoch: 1, CreatedAt: t0}
	for i := range n {
		v := Reserved(uint32(i + 1))
		Generate(v, t0.Add(time.Duration(i+1)*time.Hour))
		k.Versions = append(k.Versions, v)
	}
	return k
}

// Reserved returns a version that is not generated yet.
func Reserved(n uint32) *keys.Version {
	return &keys.Version{Number: n, ObjectID: keys.NewObjectID(), Algorithm: keys.ES256, Bits: 256, ReservedAt: t0}
}

// Generate makes v a generated version, active from a moment on.
func Generate(v *keys.Version, at time.Time) {
	v.PublicKey = []byte("public key of " + v.ObjectID.String())
	v.Check = keys.PublicKeyCheck(v.PublicKey)
	v.NeverExtractable, v.AlwaysSensitive = true, true
	v.CreatedAt, v.AnnouncedAt, v.ActivateAt = at, at, at
}

// NewRotation returns a rotation that makes version to of a key.
func NewRotation(id, key string, to uint32) *keys.Rotation {
	return &keys.Rotation{
		ID: id, Key: key, From: to - 1, To: to, Reason: keys.ReasonManual, Phase: keys.PhaseReserved,
		StartedBy: "jwt:corp:alice", RequestID: "req-" + id, StartedAt: t0,
	}
}

// Step returns a copy of k at the next epoch, after change.
func Step(k *keys.Key, change func(k *keys.Key)) *keys.Key {
	c := k.Clone()
	c.Epoch++
	change(c)
	return c
}

func touch(k *keys.Key) { k.Description += "." }

// start opens the test's store.
func start(t *testing.T, open func() store.Store) (context.Context, store.Store) {
	t.Helper()
	s := open()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return t.Context(), s
}

func create(t *testing.T, s store.Store, all ...*keys.Key) {
	t.Helper()
	for _, k := range all {
		must(t, s.Commit(t.Context(), store.Change{Key: k}))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// commit makes a change of the stored key and returns what is stored then.
func commit(t *testing.T, s store.Store, name string, change func(k *keys.Key)) *keys.Key {
	t.Helper()
	k := stored(t, s, name)
	next := Step(k, change)
	must(t, s.Commit(t.Context(), store.Change{Key: next, FromEpoch: k.Epoch}))
	same(t, next, stored(t, s, name))
	return next
}

func stored(t *testing.T, s store.Store, name string) *keys.Key {
	t.Helper()
	k, err := s.Key(t.Context(), name)
	must(t, err)
	return k
}

func load(t *testing.T, s store.Store) ([]*keys.Key, uint64) {
	t.Helper()
	all, revision, err := s.Load(t.Context())
	must(t, err)
	return all, revision
}

func names(all []*keys.Key) []string {
	out := make([]string, 0, len(all))
	for _, k := range all {
		out = append(out, k.Name)
	}
	return out
}

// same compares all that is stored, the location of times included: they
// come back in UTC.
func same(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("not what was stored (-want +got):\n%s", diff)
	}
}

func is(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// detailed checks that an error tells its caller what to do.
func detailed(t *testing.T, what string, err, want error) {
	t.Helper()
	is(t, what, err, want)
	var e *keys.Error
	if !errors.As(err, &e) || e.Detail == "" {
		t.Errorf("%s: %v has no detail", what, err)
	}
}

// unchanged runs f, which is to be refused, and checks that the store is as
// it was.
func unchanged(t *testing.T, s store.Store, what string, f func()) {
	t.Helper()
	all, revision := load(t, s)
	rotations, err := s.Rotations(t.Context(), store.RotationFilter{})
	must(t, err)
	f()
	after, now := load(t, s)
	rotationsAfter, err := s.Rotations(t.Context(), store.RotationFilter{})
	must(t, err)
	if diff := cmp.Diff([]any{all, revision, rotations}, []any{after, now, rotationsAfter}, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: refused, and yet (-before +after):\n%s", what, diff)
	}
}

func id(i int) string { return fmt.Sprintf("01ROTATION%016d", i) }
