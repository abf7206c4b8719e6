package rotation_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

func TestCreateKey(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	start := k.now()
	spec := rotation.Spec{
		Name: "payments", Algorithm: keys.ES384, Description: "card payments", Tags: map[string]string{"team": "billing"},
		Policy: keys.Policy{Period: 24 * time.Hour},
	}
	made, err := k.CreateKey(t.Context(), alice, spec)
	if err != nil {
		t.Fatal(err)
	}
	got := k.key("payments")
	if got.Epoch != made.Epoch || got.Purpose != keys.PurposeSign || got.Algorithm != keys.ES384 || got.Bits != 384 ||
		got.Description != spec.Description || got.Tags["team"] != "billing" || got.Policy != spec.Policy || got.Token != "memory" {
		t.Errorf("%+v", got)
	}
	if len(got.Versions) != 1 || k.active("payments") != 1 {
		t.Fatalf("%d versions, %d is active", len(got.Versions), k.active("payments"))
	}
	v := got.Versions[0]
	if !v.NeverExtractable || !v.AlwaysSensitive || len(v.PublicKey) == 0 || string(v.Check) != string(keys.PublicKeyCheck(v.PublicKey)) {
		t.Errorf("what the token said of version 1 was not kept: %+v", v)
	}
	for name, at := range map[string]time.Time{"reserved": v.ReservedAt, "created": v.CreatedAt, "announced": v.AnnouncedAt, "activated": v.ActivateAt} {
		if at.Before(start.Truncate(time.Microsecond)) || at.After(k.now()) {
			t.Errorf("%s at %v", name, at)
		}
	}
	if all, err := k.cache.Keys(); err != nil || len(all) != 1 || all[0].Epoch != got.Epoch {
		t.Errorf("the snapshot was not refreshed: %v, %v", all, err)
	}
	rotations, err := k.Rotations(t.Context(), store.RotationFilter{Key: "payments"})
	if err != nil || len(rotations) != 1 {
		t.Fatalf("%v, %v", rotations, err)
	}
	r := rotations[0]
	if r.Reason != keys.ReasonInitial || r.From != 0 || r.To != 1 || r.Phase != keys.PhaseCompleted || r.StartedBy != alice.Principal || r.RequestID != "req-1" || len(r.ID) != 26 {
		t.Errorf("%+v", r)
	}
	if one, err := k.Rotation(t.Context(), r.ID); err != nil || one.ID != r.ID {
		t.Errorf("%v, %v", one, err)
	}
	recs := k.records()
	if len(recs) != 2 || recs[0].Outcome != audit.OutcomeIntent || recs[1].Outcome != audit.OutcomeOK {
		t.Fatalf("%+v", recs)
	}
	for _, rec := range recs {
		if rec.Action != "create-key" || rec.Key != "payments" || rec.KeyID != "payments.v1" || rec.Principal != alice.Principal ||
			rec.Initiator != alice.Principal || rec.RequestID != "req-1" || rec.AuthMethod != "jwt" || rec.Rotation != r.ID || rec.ToVersion != 1 ||
			rec.Algorithm != "ES384" || rec.Purpose != "sign" || rec.Details["cka_id"] != v.ObjectID.String() || rec.Details["token"] != "memory" {
			t.Errorf("%+v", rec)
		}
	}
	if recs[1].StartedAt.IsZero() || recs[1].CompletedAt.Before(recs[1].StartedAt) {
		t.Errorf("from %v to %v", recs[1].StartedAt, recs[1].CompletedAt)
	}
	k.consistent384()
}

// consistent384 is consistent for keys whose digests have 48 bytes.
func (k *kit) consistent384() {
	k.t.Helper()
	key := k.key("payments")
	if _, err := k.hsm.Sign(k.t.Context(), key.Ref(key.Latest()), make([]byte, 48)); err != nil {
		k.t.Error(err)
	}
	if got := k.hsm.Objects(); len(got) != 1 || got[0] != "payments.v1" {
		k.t.Errorf("objects: %v", got)
	}
}

func TestCreateKeyRefuses(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("taken", keys.Policy{})
	good := rotation.Spec{Name: "payments", Algorithm: keys.ES256}
	for name, c := range map[string]struct {
		edit func(*rotation.Spec)
		want error
	}{
		"a bad name":        {func(s *rotation.Spec) { s.Name = "Payments" }, keys.ErrInvalid},
		"a reserved name":   {func(s *rotation.Spec) { s.Name = "keyhole-canary" }, keys.ErrInvalid},
		"no name":           {func(s *rotation.Spec) { s.Name = "" }, keys.ErrInvalid},
		"no algorithm":      {func(s *rotation.Spec) { s.Algorithm = "" }, keys.ErrInvalid},
		"alg none":          {func(s *rotation.Spec) { s.Algorithm = "none" }, keys.ErrInvalid},
		"wrong size":        {func(s *rotation.Spec) { s.Bits = 384 }, keys.ErrInvalid},
		"a small RSA key":   {func(s *rotation.Spec) { s.Algorithm, s.Bits = keys.RS256, 1024 }, keys.ErrInvalid},
		"a short period":    {func(s *rotation.Spec) { s.Policy.Period = time.Second }, keys.ErrInvalid},
		"an unknown token":  {func(s *rotation.Spec) { s.Token = "nowhere" }, keys.ErrInvalid},
		"a name that is":    {func(s *rotation.Spec) { s.Name = "taken" }, keys.ErrKeyExists},
		"a name, other alg": {func(s *rotation.Spec) { s.Name, s.Algorithm = "taken", keys.A256GCM }, keys.ErrKeyExists},
	} {
		s := good
		c.edit(&s)
		if key, err := k.CreateKey(t.Context(), alice, s); !errors.Is(err, c.want) || key != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if got := k.hsm.Objects(); len(got) != 1 {
		t.Errorf("objects: %v", got)
	}
	if n := len(k.records()); n != 2 {
		t.Errorf("%d audit records, want those of the one key", n)
	}
	k.consistent()
}

func TestCreateKeyOnWeakToken(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	weak := k.engine(func(c *rotation.Config) {
		c.Token = hsmtest.NewMemory(hsmtest.MemoryOptions{Tokens: []string{"weak"}, Without: []keys.Algorithm{keys.RSAOAEP256, keys.EdDSA}})
	})
	if _, err := weak.CreateKey(t.Context(), alice, rotation.Spec{Name: "ed", Algorithm: keys.EdDSA}); !errors.Is(err, keys.ErrUnsupported) {
		t.Errorf("EdDSA: %v, want ErrUnsupported", err)
	}
	key, err := weak.CreateKey(t.Context(), alice, rotation.Spec{Name: "box", Algorithm: keys.RSAOAEP256, Bits: 2048, Description: "mail"})
	if err != nil {
		t.Fatal(err)
	}
	v := key.Versions[0]
	if key.Algorithm != keys.RSAOAEP || v.Algorithm != keys.RSAOAEP || v.Bits != 2048 {
		t.Errorf("%s, version %s with %d bits, want RSA-OAEP", key.Algorithm, v.Algorithm, v.Bits)
	}
	if !strings.HasPrefix(key.Description, "mail ") || !strings.Contains(key.Description, "RSA-OAEP with SHA-1") || !strings.Contains(key.Description, `"weak"`) {
		t.Errorf("the description does not say what happened: %q", key.Description)
	}
	if _, err := weak.Rotate(t.Context(), alice, "box", rotation.RotateSpec{Algorithm: keys.RSAOAEP256}); !errors.Is(err, keys.ErrUnsupported) {
		t.Errorf("rotating to RSA-OAEP-256: %v, want ErrUnsupported", err)
	}
}

// TestNamesOfFailedAndDeletedKeys: a name is free again only as long as
// nothing was ever made under it.
func TestNamesOfFailedAndDeletedKeys(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	for _, mode := range []hsmtest.Mode{hsmtest.NotDone, hsmtest.Done} {
		k.faulty.Fail(hsmtest.Generate, 1, mode, keys.ErrHSM)
		if _, err := k.CreateKey(t.Context(), alice, rotation.Spec{Name: "payments", Algorithm: keys.ES256}); !errors.Is(err, keys.ErrHSM) {
			t.Fatalf("%v, want ErrHSM", err)
		}
		if _, err := k.store.Key(t.Context(), "payments"); !errors.Is(err, keys.ErrKeyNotFound) {
			t.Errorf("a key whose generation failed exists: %v", err)
		}
		k.consistent()
	}
	key := k.create("payments", keys.Policy{})
	k.consistent()

	// Deletion is not the engine's yet; what it leaves is.
	v := key.Versions[0]
	if err := k.hsm.Destroy(t.Context(), key.Ref(v)); err != nil {
		t.Fatal(err)
	}
	gone := key.Clone()
	gone.Versions[0].DestroyAt, gone.Versions[0].DestroyedAt = k.now(), k.now()
	gone.Epoch++
	if err := k.store.Commit(t.Context(), store.Change{Key: gone, FromEpoch: key.Epoch}); err != nil {
		t.Fatal(err)
	}
	if err := k.store.Commit(t.Context(), store.Change{Key: gone, FromEpoch: gone.Epoch, Delete: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.CreateKey(t.Context(), alice, rotation.Spec{Name: "payments", Algorithm: keys.ES256}); !errors.Is(err, keys.ErrKeyRetired) {
		t.Errorf("%v, want ErrKeyRetired", err)
	}
	k.consistent()
}
