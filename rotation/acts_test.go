package rotation_test

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/keys"
	"keyhole/rotation"
)

func TestUpdateKey(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Period: time.Hour})
	first := k.key("payments")
	text, tags := "card payments", map[string]string{"team": "billing"}
	got, err := k.UpdateKey(t.Context(), alice, "payments", rotation.Update{Description: &text, Tags: &tags, Epoch: first.Epoch})
	if err != nil {
		t.Fatal(err)
	}
	stored := k.key("payments")
	if got.Epoch != first.Epoch+1 || stored.Epoch != got.Epoch || stored.Description != text || !maps.Equal(stored.Tags, tags) || stored.Policy.Period != time.Hour {
		t.Errorf("%+v", stored)
	}
	if _, err := k.UpdateKey(t.Context(), alice, "payments", rotation.Update{Policy: &keys.Policy{Period: 2 * time.Hour}}); err != nil {
		t.Fatal(err)
	}
	if stored = k.key("payments"); stored.Description != text || !maps.Equal(stored.Tags, tags) || stored.Policy.Period != 2*time.Hour {
		t.Errorf("%+v", stored)
	}
	n := len(k.records())
	for name, c := range map[string]struct {
		key  string
		u    rotation.Update
		want error
	}{
		"an old epoch":   {"payments", rotation.Update{Description: &text, Epoch: first.Epoch}, keys.ErrConflict},
		"a future epoch": {"payments", rotation.Update{Description: &text, Epoch: stored.Epoch + 1}, keys.ErrConflict},
		"a short period": {"payments", rotation.Update{Policy: &keys.Policy{Period: time.Second}}, keys.ErrInvalid},
		"an unknown key": {"refunds", rotation.Update{Description: &text}, keys.ErrKeyNotFound},
	} {
		if got, err := k.UpdateKey(t.Context(), alice, c.key, c.u); !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
	if k.key("payments").Epoch != stored.Epoch || len(k.records()) != n {
		t.Error("an update that was refused left traces")
	}
	k.consistent()
}

// TestUpdatesCompete: of several updates from one epoch, one is made; without
// an epoch all are.
func TestUpdatesCompete(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	epoch := k.key("payments").Epoch
	update := func(from uint64) (won int) {
		errs := make([]error, 5)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				text := string(rune('a' + i))
				_, errs[i] = k.UpdateKey(t.Context(), alice, "payments", rotation.Update{Description: &text, Epoch: from})
			})
		}
		wg.Wait()
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, keys.ErrConflict) {
				t.Errorf("%v, want ErrConflict", err)
			}
		}
		return won
	}
	if won := update(epoch); won != 1 || k.key("payments").Epoch != epoch+1 {
		t.Errorf("%d updates from epoch %d were made; it is at %d", won, epoch, k.key("payments").Epoch)
	}
	if won := update(0); won != 5 || k.key("payments").Epoch != epoch+6 {
		t.Errorf("%d of 5 updates were made; epoch %d, then %d", won, epoch, k.key("payments").Epoch)
	}
}

func TestSuspendAndResume(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.rotate("payments")
	state := func(n uint32) keys.State {
		key := k.key("payments")
		v, err := key.Version(n)
		if err != nil {
			t.Fatal(err)
		}
		return key.StateAt(v, k.now())
	}
	if _, err := k.Suspend(t.Context(), alice, "payments", 2, "looks odd"); err != nil {
		t.Fatal(err)
	}
	if state(1) != keys.Active || state(2) != keys.Suspended {
		t.Errorf("version 1 is %s, version 2 %s", state(1), state(2))
	}
	k.tick() // a person suspended it: nothing is due
	if _, err := k.Suspend(t.Context(), alice, "payments", 2, ""); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("suspending twice: %v, want ErrVersionState", err)
	}
	if _, err := k.Resume(t.Context(), alice, "payments", 1, ""); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("resuming what is active: %v, want ErrVersionState", err)
	}
	if _, err := k.Suspend(t.Context(), alice, "payments", 1, ""); err != nil {
		t.Fatal(err)
	}
	k.tick()
	if k.active("payments") != 0 || len(k.key("payments").Versions) != 2 {
		t.Errorf("version %d of %d is active, want none", k.active("payments"), len(k.key("payments").Versions))
	}
	key, err := k.Resume(t.Context(), alice, "payments", 2, "false alarm")
	if err != nil {
		t.Fatal(err)
	}
	if state(2) != keys.Active || key.Epoch != k.key("payments").Epoch {
		t.Errorf("version 2 is %s", state(2))
	}
	k.rotate("payments")
	if _, err := k.Resume(t.Context(), alice, "payments", 1, ""); err != nil {
		t.Fatal(err)
	}
	if state(1) != keys.Deactivated || state(3) != keys.Active {
		t.Errorf("version 1 is %s, version 3 %s", state(1), state(3))
	}
	for n, want := range map[uint32]error{0: keys.ErrVersionNotFound, 9: keys.ErrVersionNotFound} {
		if _, err := k.Suspend(t.Context(), alice, "payments", n, ""); !errors.Is(err, want) {
			t.Errorf("version %d: %v, want %v", n, err, want)
		}
	}
	if _, err := k.Suspend(t.Context(), alice, "refunds", 1, ""); !errors.Is(err, keys.ErrKeyNotFound) {
		t.Errorf("%v, want ErrKeyNotFound", err)
	}
	k.consistent()
	k.actsAreTold("suspend", 2)
	k.actsAreTold("resume", 2)
}

// actsAreTold checks that an act is n times in the log, each time as an
// intent and an outcome that names it.
func (k *kit) actsAreTold(action string, n int) {
	k.t.Helper()
	intents := map[uint64]audit.Record{}
	outcomes := 0
	for _, r := range k.records() {
		switch {
		case r.Action != action:
		case r.Outcome == audit.OutcomeIntent:
			intents[r.Seq] = r
		default:
			outcomes++
			if r.Intent == nil || r.Outcome != audit.OutcomeOK {
				k.t.Errorf("%+v", r)
				continue
			}
			i, ok := intents[*r.Intent]
			if !ok || i.KeyID != r.KeyID || i.KeyID == "" || i.Principal != alice.Principal || r.Principal != alice.Principal || r.CompletedAt.IsZero() || !r.CompletedAt.After(r.StartedAt.Add(-1)) {
				k.t.Errorf("outcome %+v of intent %+v", r, i)
			}
		}
	}
	if len(intents) != n || outcomes != n {
		k.t.Errorf("%s: %d intents and %d outcomes, want %d", action, len(intents), outcomes, n)
	}
}

// TestRevokedMeansNotUsed: whoever is told that a version is revoked can rely
// on it. Where the snapshot that requests are served from does not take the
// change in, the caller is told that too.
func TestRevokedMeansNotUsed(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	for name, failures := range map[string]int{"briefly": 3, "for-good": 1 << 30} {
		k.create(name, keys.Policy{})
		refreshes := 0
		e := k.engine(func(c *rotation.Config) {
			refresh := c.Refresh
			c.Refresh = func(ctx context.Context) error {
				if refreshes++; refreshes <= failures {
					return keys.ErrStore
				}
				return refresh(ctx)
			}
		})
		_, err := e.Revoke(t.Context(), alice, name, 1, "")
		snapshot, serr := k.cache.Snapshot()
		if serr != nil {
			t.Fatal(serr)
		}
		key, _ := snapshot.Key(name)
		switch revoked := key.StateAt(key.Versions[0], k.now()) == keys.Compromised; {
		case err == nil && !revoked:
			t.Errorf("%s: told that it is revoked, and it is used", name)
		case failures == 3 && err != nil, failures > 3 && !errors.Is(err, keys.ErrStore):
			t.Errorf("%s: %v", name, err)
		}
		if k.key(name).Versions[0].RevokedAt.IsZero() {
			t.Errorf("%s: the store does not know", name)
		}
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	key, err := k.Revoke(t.Context(), alice, "payments", 1, "found in a public repository")
	if err != nil {
		t.Fatal(err)
	}
	v := key.Versions[0]
	if key.StateAt(v, k.now()) != keys.Compromised || v.RevokeReason != "found in a public repository" || k.active("payments") != 2 {
		t.Errorf("version 1 is %s (%q), version %d is active", key.StateAt(v, k.now()), v.RevokeReason, k.active("payments"))
	}
	for name, act := range map[string]func() (*keys.Key, error){
		"Resume":  func() (*keys.Key, error) { return k.Resume(t.Context(), alice, "payments", 1, "") },
		"Suspend": func() (*keys.Key, error) { return k.Suspend(t.Context(), alice, "payments", 1, "") },
		"Revoke":  func() (*keys.Key, error) { return k.Revoke(t.Context(), alice, "payments", 1, "again") },
	} {
		if _, err := act(); !errors.Is(err, keys.ErrVersionState) {
			t.Errorf("%s of a revoked version: %v, want ErrVersionState", name, err)
		}
	}
	k.tick()
	if n := len(k.key("payments").Versions); n != 2 || k.key("payments").Versions[0].RevokeReason != v.RevokeReason {
		t.Errorf("%d versions", n)
	}
	k.consistent()
	k.actsAreTold("revoke", 1)
	for _, r := range k.records() {
		if r.Action == "revoke" && r.Details["note"] != v.RevokeReason {
			t.Errorf("the note is not in the log: %+v", r)
		}
		if r.Action == "rotate" && (r.Details["reason"] != "compromise" || r.Initiator != alice.Principal) {
			t.Errorf("%+v", r)
		}
	}
}
