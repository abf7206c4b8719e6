package twopeople_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"keyhole/authz"
	"keyhole/gateway/internal/twopeople"
	"keyhole/keys"
	"keyhole/store"
)

func open(t *testing.T) *store.SQLite {
	t.Helper()
	db, err := store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "keyhole.db"), []byte("32 bytes to seal rows of a test."))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// put enters an approval in a state.
func put(t *testing.T, db *store.SQLite, state keys.ApprovalState) *keys.Approval {
	t.Helper()
	now := time.Now()
	a := &keys.Approval{
		ID: keys.NewID(now), Action: "destroy", Key: "payments", Version: 1, State: keys.ApprovalPending,
		RequestedBy: "jwt:corp:root", RequestedAs: []string{"jwt:corp:root", "mtls:laptop"}, RequestedAt: now, ExpiresAt: now.Add(time.Hour),
	}
	if err := db.PutApproval(t.Context(), a, ""); err != nil {
		t.Fatal(err)
	}
	if state == keys.ApprovalPending {
		return a
	}
	a, err := twopeople.Settle(t.Context(), db, a, keys.ApprovalApproved, "jwt:corp:susan", "yes", now)
	if err != nil {
		t.Fatal(err)
	}
	if state != keys.ApprovalApproved {
		a.State = state
		if err := db.PutApproval(t.Context(), a, keys.ApprovalApproved); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

var errFault = errors.New("a fault")

// Whatever an act answered, the store says what it has come to.
func TestConclude(t *testing.T) {
	t.Parallel()
	db := open(t)
	use := keys.Errorf(keys.ErrInUse, "it is used")
	for name, tt := range map[string]struct {
		row           keys.ApprovalState
		aerr          error
		after         keys.ApprovalState // in the store
		refused, fail error
	}{
		"done":                          {keys.ApprovalDone, nil, keys.ApprovalDone, nil, nil},
		"done, but the answer was lost": {keys.ApprovalDone, keys.ErrStore, keys.ApprovalDone, nil, nil},
		"done by another one":           {keys.ApprovalDone, keys.ErrConflict, keys.ApprovalDone, nil, nil},
		"refused":                       {keys.ApprovalApproved, use, keys.ApprovalFailed, keys.ErrInUse, nil},
		"refused without words":         {keys.ApprovalApproved, keys.ErrVersionState, keys.ApprovalFailed, keys.ErrVersionState, nil},
		"not done, for now":             {keys.ApprovalApproved, keys.ErrStore, keys.ApprovalApproved, nil, keys.ErrStore},
		"not recorded":                  {keys.ApprovalApproved, keys.ErrAudit, keys.ApprovalApproved, nil, keys.ErrAudit},
		"a fault":                       {keys.ApprovalApproved, errFault, keys.ApprovalApproved, nil, errFault},
		"done without a trace":          {keys.ApprovalApproved, nil, keys.ApprovalApproved, nil, keys.ErrInternal},
	} {
		a := put(t, db, tt.row)
		after, refused, err := twopeople.Conclude(t.Context(), db, a.ID, tt.aerr)
		if !errors.Is(err, tt.fail) || !errors.Is(refused, tt.refused) || (err == nil) != (after != nil) {
			t.Errorf("%s: %+v, refused %v, %v", name, after, refused, err)
		}
		stored, err := db.Approval(t.Context(), a.ID)
		if err != nil || stored.State != tt.after || (stored.State == keys.ApprovalFailed) != (stored.Error != "") {
			t.Errorf("%s: in the store is %+v, %v", name, stored, err)
		}
		if after != nil && after.State != stored.State {
			t.Errorf("%s: %s, and %s in the store", name, after.State, stored.State)
		}
	}
}

func TestSettleOnce(t *testing.T) {
	t.Parallel()
	db := open(t)
	a := put(t, db, keys.ApprovalPending)
	if _, err := twopeople.Settle(t.Context(), db, a, keys.ApprovalRejected, "jwt:corp:susan", "", time.Now()); err != nil {
		t.Fatal(err)
	}
	if a.State != keys.ApprovalPending {
		t.Error("what was handed in was changed")
	}
	if _, err := twopeople.Settle(t.Context(), db, a, keys.ApprovalApproved, "jwt:corp:bob", "", time.Now()); !errors.Is(err, keys.ErrConflict) {
		t.Errorf("%v", err)
	}
}

func TestMayApprove(t *testing.T) {
	t.Parallel()
	a := &keys.Approval{RequestedBy: "jwt:corp:root", RequestedAs: []string{"jwt:corp:root", "mtls:laptop"}}
	nobody := func(string) bool { return false }
	for _, tt := range []struct{ id, also, want string }{
		{"jwt:corp:susan", "", ""},
		{"jwt:corp:root", "", twopeople.ReasonSamePerson},
		{"jwt:corp:susan", "mtls:LAPTOP", twopeople.ReasonSamePerson},
	} {
		reason, err := twopeople.MayApprove(a, authz.Principal{ID: tt.id, Also: tt.also}, nobody)
		if reason != tt.want || (tt.want != "") != errors.Is(err, keys.ErrForbidden) {
			t.Errorf("%+v: %q, %v", tt, reason, err)
		}
	}
	reason, err := twopeople.MayApprove(a, authz.Principal{ID: "jwt:corp:susan"}, func(p string) bool { return p == "mtls:laptop" })
	if reason != twopeople.ReasonBlocked || !errors.Is(err, keys.ErrForbidden) {
		t.Errorf("%q, %v", reason, err)
	}
}
