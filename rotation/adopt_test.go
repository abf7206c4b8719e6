package rotation_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
)

// lose makes the kit go on without its database.
func (k *kit) lose(t *testing.T) {
	t.Helper()
	k.over(t, filepath.Join(t.TempDir(), "keyhole.db"))
}

func (k *kit) adopt(s rotation.AdoptSpec) rotation.Adoption {
	k.t.Helper()
	a, err := k.Adopt(k.t.Context(), alice, k.store, s)
	k.must(err)
	return a
}

// adopts checks what is done about each key, as "name action", and that a
// dry run says the same and does nothing.
func (k *kit) adopts(s rotation.AdoptSpec, want ...string) rotation.Adoption {
	k.t.Helper()
	show := func(a rotation.Adoption) (all []string) {
		for _, key := range a.Keys {
			if key.Text == "" {
				k.t.Errorf("nothing is said about %+v", key)
			}
			all = append(all, fmt.Sprint(key.Name, " ", key.Action))
		}
		return all
	}
	before, _, err := k.store.Load(k.t.Context())
	k.must(err)
	objects, records := k.listed(), len(k.records())
	s.DryRun = true
	dry := k.adopt(s)
	if got := strings.ReplaceAll(fmt.Sprint(show(dry)), "would", "adopted"); got != fmt.Sprint(want) {
		k.t.Errorf("a dry run says %s; want %v; %+v", got, want, dry)
	}
	after, _, err := k.store.Load(k.t.Context())
	k.must(err)
	if len(after) != len(before) || len(k.records()) != records {
		k.t.Errorf("a dry run makes %d keys of %d, and writes %d records", len(after), len(before), len(k.records())-records)
	}
	s.DryRun = false
	a := k.adopt(s)
	if got := show(a); !slices.Equal(got, want) {
		k.t.Errorf("got %v, want %v; %+v", got, want, a)
	}
	if got := k.listed(); !slices.Equal(got, objects) {
		k.t.Errorf("the token has changed:\n%v\n%v", objects, got)
	}
	return a
}

// TestAdoptLostDatabase: everything is as it was but for what no token tells.
func TestAdoptLostDatabase(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	ctx := t.Context()
	k.create("payments", keys.Policy{Period: 24 * time.Hour})
	for range 2 {
		k.pass(time.Second)
		k.rotate("payments")
	}
	_, err := k.Revoke(ctx, alice, "payments", 1, "leaked")
	k.must(err)
	_, err = k.CreateKey(ctx, alice, rotation.Spec{Name: "secrets", Algorithm: keys.A256GCM})
	k.must(err)
	_, err = k.CreateKey(ctx, alice, rotation.Spec{Name: "mac", Algorithm: keys.HS512})
	k.must(err)
	was := map[string]*keys.Key{"payments": k.key("payments"), "secrets": k.key("secrets"), "mac": k.key("mac")}
	aes := was["secrets"].Ref(was["secrets"].Versions[0])
	iv, wrapped, err := k.hsm.Wrap(ctx, aes, []byte("0123456789abcdef"), []byte("aad"))
	k.must(err)
	sig, err := k.hsm.Sign(ctx, was["payments"].Ref(was["payments"].Versions[1]), make([]byte, 32))
	k.must(err)

	k.lose(t)
	k.adopts(rotation.AdoptSpec{}, "mac adopted", "payments adopted", "secrets adopted")
	for name, old := range was {
		key := k.key(name)
		if key.Purpose != old.Purpose || key.Algorithm != old.Algorithm || key.Token != old.Token || len(key.Versions) != len(old.Versions) || key.Policy != (keys.Policy{}) || !strings.Contains(key.Description, "adopt") {
			t.Errorf("%s is %+v, was %+v", name, key, old)
			continue
		}
		for i, v := range key.Versions {
			o := old.Versions[i]
			if v.ObjectID != o.ObjectID || v.Number != o.Number || v.Algorithm != o.Algorithm || string(v.PublicKey) != string(o.PublicKey) || string(v.Check) != string(o.Check) ||
				key.StateAt(v, k.now()) != old.StateAt(o, k.now()) || !v.RevokedAt.Equal(o.RevokedAt) || !v.NeverExtractable || !v.AlwaysSensitive || v.Label != "" {
				t.Errorf("%s is %+v, %s; was %+v, %s", key.ID(v), v, key.StateAt(v, k.now()), o, old.StateAt(o, k.now()))
			}
		}
	}
	if n := k.active("payments"); n != 3 {
		t.Errorf("version %d is active, want 3", n)
	}
	// What was made before works, by what the rows say now.
	key := k.key("secrets")
	if got, err := k.hsm.Unwrap(ctx, key.Ref(key.Versions[0]), iv, wrapped, []byte("aad")); err != nil || string(got) != "0123456789abcdef" {
		t.Errorf("unwrapped: %q, %v", got, err)
	}
	key = k.key("payments")
	if ok, err := k.hsm.Verify(ctx, key.Ref(key.Versions[1]), make([]byte, 32), sig); !ok || err != nil {
		t.Errorf("verified: %v, %v", ok, err)
	}
	for _, name := range []string{"mac", "payments", "secrets"} {
		if rec := k.outcome(name, "adopt"); rec.Outcome != audit.OutcomeOK || rec.Intent == nil || rec.Principal != alice.Principal || !strings.Contains(rec.Details[name+".v1"], was[name].Versions[0].ObjectID.String()) {
			t.Errorf("recorded is %+v", rec)
		}
	}
	// Once more, and nothing is to be done.
	records := len(k.records())
	k.adopts(rotation.AdoptSpec{}, "mac kept", "payments kept", "secrets kept")
	if len(k.records()) != records {
		t.Error("records of nothing")
	}
	k.finds(false)
	k.pass(time.Second)
	k.rotate("payments")
	if n := k.active("payments"); n != 4 {
		t.Errorf("after the next rotation version %d is active", n)
	}
	k.finds(false)
}

// TestAdoptMarked: what is marked stays out of use, and numbers that only
// marks know of do not come again.
func TestAdoptMarked(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.rotate("payments")
	key := k.key("payments")
	k.must(k.hsm.MarkRevoked(t.Context(), key.Ref(key.Versions[1]), keys.VersionID{Key: "payments", Number: 2}, k.now().Add(-time.Hour)))
	gone := key.Ref(key.Versions[1])
	gone.ID = keys.NewObjectID()
	k.must(k.hsm.MarkRevoked(t.Context(), gone, keys.VersionID{Key: "payments", Number: 9}, k.now()))
	k.lose(t)
	k.adopts(rotation.AdoptSpec{}, "payments adopted")
	key = k.key("payments")
	if s := key.StateAt(key.Versions[1], k.now()); s != keys.Compromised || k.active("payments") != 1 {
		t.Errorf("version 2 is %s, version %d is active", s, k.active("payments"))
	}
	k.pass(time.Second)
	k.tick() // it gets a successor, as after any revocation
	if n := k.active("payments"); n != 10 {
		t.Errorf("version %d is active, want 10: nine numbers were used", n)
	}
	k.finds(false)
}

// TestAdoptDamaged: rows that were altered are built anew, whatever they say;
// but a revocation in them stands.
func TestAdoptDamaged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		alter   string
		revoked int
	}{
		"activation":        {"UPDATE versions SET activate_at = activate_at + 1 WHERE key_name = 'payments' AND number = 1", 1},
		"revocation undone": {"UPDATE versions SET revoked_at = NULL WHERE key_name = 'payments' AND number = 1", 1},
		"revocation forged": {"UPDATE versions SET revoked_at = 1 WHERE key_name = 'payments' AND number = 2", 2},
		"row removed":       {"DELETE FROM versions WHERE key_name = 'payments' AND number = 1", 1},
		"another key's id":  {"UPDATE versions SET cka_id = x'00112233445566778899aabbccddeeff' WHERE key_name = 'payments' AND number = 3", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t)
			k.create("payments", keys.Policy{})
			k.create("other", keys.Policy{})
			k.rotate("payments")
			k.rotate("payments")
			_, err := k.Revoke(t.Context(), alice, "payments", 1, "leaked")
			k.must(err)
			k.alter(c.alter)
			k.over(t, k.database())
			if _, err := k.store.Key(t.Context(), "payments"); !errors.Is(err, keys.ErrTampered) {
				t.Fatalf("altered, and the store says %v", err)
			}
			k.adopts(rotation.AdoptSpec{}, "other kept", "payments adopted")
			key := k.key("payments")
			revoked := 0
			for _, v := range key.Versions {
				if !v.RevokedAt.IsZero() {
					revoked++
				}
			}
			if revoked != c.revoked || key.Versions[0].RevokedAt.IsZero() || k.active("payments") != 3 {
				t.Errorf("%d versions are compromised; version %d is active", revoked, k.active("payments"))
			}
			k.finds(false)
			k.consistent()
		})
	}
}

// TestAdoptOlderCopy: a copy of the database from before the last rotation
// gets the version that it lacks, with all else that it knows.
func TestAdoptOlderCopy(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.create("payments", keys.Policy{Period: 24 * time.Hour})
	k.pass(time.Second)
	k.rotate("payments")
	old := k.saved()
	k.pass(time.Second)
	k.rotate("payments")
	k.over(t, old)
	k.finds(true, "orphan payments.v3 none")
	a := k.adopts(rotation.AdoptSpec{}, "payments adopted")
	if v := a.Keys[0].Versions; len(v) != 3 || v[1].New || !v[2].New || v[2].State != keys.Active {
		t.Errorf("the versions are %+v", v)
	}
	if key := k.key("payments"); key.Policy.Period != 24*time.Hour || k.active("payments") != 3 {
		t.Errorf("version %d is active, the policy is %+v", k.active("payments"), key.Policy)
	}
	k.finds(false)
	k.consistent()
	k.adopts(rotation.AdoptSpec{}, "payments kept")
}

// TestAdoptRefuses what is not beyond doubt, with what to do, and does the
// rest.
func TestAdoptRefuses(t *testing.T) {
	t.Parallel()
	object := func(class keys.ObjectClass, label string, id []byte) keys.TokenObject {
		return keys.TokenObject{Token: "memory", Class: class, Label: label, ID: id, Algorithms: []keys.Algorithm{keys.ES256}, Bits: 256}
	}
	for name, c := range map[string]struct {
		break_ func(k *kit)
		says   string
		spec   rotation.AdoptSpec
		mend   func(s *rotation.AdoptSpec) // nil: nothing in the spec helps
	}{
		"private half lost": {func(k *kit) { k.hsm.Lose("memory", "payments.v1", keys.ClassPrivate) }, "public half", rotation.AdoptSpec{},
			func(s *rotation.AdoptSpec) { s.Skip = []keys.VersionID{{Key: "payments", Number: 1}} }},
		"two keys of one label": {func(k *kit) { k.hsm.Plant(object(keys.ClassPrivate, "payments.v2", []byte("sixteen bytes id"))) }, "several key objects", rotation.AdoptSpec{}, nil},
		"halves of two keys": {func(k *kit) {
			k.hsm.Plant(object(keys.ClassPrivate, "payments.v3", []byte("sixteen bytes id")))
			k.hsm.Plant(object(keys.ClassPublic, "payments.v3", []byte("another  16bytes")))
		}, "different CKA_IDs", rotation.AdoptSpec{}, nil},
		"a short CKA_ID": {func(k *kit) { k.hsm.Plant(object(keys.ClassPrivate, "payments.v3", []byte{0x0a})) }, "CKA_ID of 1 bytes", rotation.AdoptSpec{}, nil},
		"of no use": {func(k *kit) {
			o := object(keys.ClassSecret, "payments.v3", []byte("sixteen bytes id"))
			o.Algorithms = nil
			k.hsm.Plant(o)
		}, "fit no algorithm", rotation.AdoptSpec{}, nil},
		"not what is listed": {func(k *kit) { k.hsm.Plant(object(keys.ClassPrivate, "payments.v3", []byte("sixteen bytes id"))) }, "version payments.v3", rotation.AdoptSpec{}, nil},
		"another purpose": {func(k *kit) {
			_, err := k.hsm.Generate(t.Context(), keys.Ref{Token: "memory", ID: keys.NewObjectID(), Label: "payments.v3", Algorithm: keys.A256GCM, Bits: 256})
			k.must(err)
		}, "not both", rotation.AdoptSpec{}, func(s *rotation.AdoptSpec) { s.Skip = []keys.VersionID{{Key: "payments", Number: 3}} }},
		"can leave the token": {func(k *kit) { k.hsm.Expose("memory", "payments.v1") }, "--allow-unprotected", rotation.AdoptSpec{},
			func(s *rotation.AdoptSpec) { s.Unprotected = true }},
		"an algorithm that it is not": {func(*kit) {}, "it can be one of ES256", rotation.AdoptSpec{Algorithms: map[string]keys.Algorithm{"payments": keys.ES384}},
			func(s *rotation.AdoptSpec) { s.Algorithms = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t)
			k.create("other", keys.Policy{})
			k.create("payments", keys.Policy{})
			k.rotate("payments")
			c.break_(k)
			k.lose(t)
			a := k.adopts(c.spec, "other adopted", "payments refused")
			if got := a.Keys[1]; !strings.Contains(got.Text, c.says) || a.Refused() != 1 {
				t.Errorf("%d are refused: %+v; want %q", a.Refused(), got, c.says)
			}
			if name == "a short CKA_ID" && !(len(a.Keys[1].Fix) == 1 && strings.Contains(a.Keys[1].Fix[0], "--type privkey --id 0a --set-id ")) {
				t.Errorf("to be mended by %q", a.Keys[1].Fix)
			}
			if _, err := k.store.Key(t.Context(), "payments"); !errors.Is(err, keys.ErrKeyNotFound) {
				t.Errorf("refused, and the store says %v", err)
			}
			if c.mend == nil {
				return
			}
			c.mend(&c.spec)
			k.adopts(c.spec, "other kept", "payments adopted")
			if n := k.active("payments"); n != 2 {
				t.Errorf("version %d is active", n)
			}
			if v := k.key("payments").Versions[0]; name == "can leave the token" && (v.NeverExtractable || v.AlwaysSensitive) {
				t.Errorf("a key that can leave the token is said to be protected: %+v", v)
			}
			k.rotate("payments")
			if n := k.active("payments"); name == "another purpose" && n != 4 {
				t.Errorf("version %d follows one that was left out, want 4", n)
			}
		})
	}
}

// TestAdoptAmbiguous: RSA keys do not tell how they sign.
func TestAdoptAmbiguous(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	_, err := k.CreateKey(t.Context(), alice, rotation.Spec{Name: "web", Algorithm: keys.PS256, Bits: 2048})
	k.must(err)
	_, err = k.Rotate(t.Context(), alice, "web", rotation.RotateSpec{Reason: keys.ReasonManual, Algorithm: keys.RS512})
	k.must(err)
	was := k.key("web")
	for name, s := range map[string]rotation.AdoptSpec{
		"by version and key": {Algorithms: map[string]keys.Algorithm{"web": keys.RS512, "web.v1": keys.PS256}},
		"by the audit log": {Recorded: func(id keys.ObjectID) keys.Algorithm {
			for _, v := range was.Versions {
				if v.ObjectID == id {
					return v.Algorithm
				}
			}
			return ""
		}},
	} {
		k.lose(t)
		if a := k.adopts(rotation.AdoptSpec{}, "web refused"); !strings.Contains(a.Keys[0].Text, "--algorithm web.v1=") {
			t.Errorf("refused: %s", a.Keys[0].Text)
		}
		k.adopts(s, "web adopted")
		if key := k.key("web"); key.Versions[0].Algorithm != keys.PS256 || key.Versions[1].Algorithm != keys.RS512 || key.Algorithm != keys.RS512 || key.Bits != 2048 {
			t.Errorf("%s: %+v, %+v", name, key.Versions[0], key.Versions[1])
		}
	}
}

// TestImport takes in keys that other tools made.
func TestImport(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	ctx := t.Context()
	k.create("payments", keys.Policy{})
	foreign := func(label string, alg keys.Algorithm) keys.ObjectID {
		t.Helper()
		id := keys.NewObjectID()
		bits, err := alg.KeyBits(0)
		k.must(err)
		_, err = k.hsm.Generate(ctx, keys.Ref{Token: "memory", ID: id, Label: label, Algorithm: alg, Bits: bits})
		k.must(err)
		return id
	}
	first, second := foreign("legacy key, of 2019=", keys.ES384), foreign("legacy 2", keys.ES384)
	foreign("exposed", keys.HS256)
	k.hsm.Expose("memory", "exposed")
	foreign("twice a", keys.ES256)
	k.hsm.Plant(keys.TokenObject{Token: "memory", Class: keys.ClassPrivate, Label: "twice a", ID: []byte("sixteen bytes id")})

	refused := func(says string, i ...rotation.Import) {
		t.Helper()
		if a := k.adopts(rotation.AdoptSpec{Imports: i}, i[0].Key+" refused", "payments kept"); !strings.Contains(a.Keys[0].Text, says) {
			t.Errorf("refused by %q, want %q", a.Keys[0].Text, says)
		}
	}
	refused("is labelled", rotation.Import{Label: "nobody", Key: "legacy"})
	refused("reserved", rotation.Import{Label: "legacy 2", Key: "keyhole-legacy"})
	refused("are those of version", rotation.Import{Label: "keyhole-store.v1", Key: "legacy"})
	refused("are those of version", rotation.Import{Label: "payments.v1", Key: "legacy"})
	refused("several keys", rotation.Import{Label: "twice a", Key: "legacy"})
	refused("can leave the token", rotation.Import{Label: "exposed", Key: "legacy"})
	refused("none of HS256", rotation.Import{Label: "legacy 2", Key: "legacy", Algorithm: keys.HS256})
	if a := k.adopts(rotation.AdoptSpec{Imports: []rotation.Import{{Label: "legacy 2", Key: "payments"}}}, "payments refused"); !strings.Contains(a.Keys[0].Text, "already") {
		t.Errorf("refused by %q", a.Keys[0].Text)
	}

	spec := rotation.AdoptSpec{Imports: []rotation.Import{{Label: "legacy key, of 2019=", Key: "legacy"}, {Label: "legacy 2", Key: "legacy", Algorithm: keys.ES384}}}
	a := k.adopts(spec, "legacy adopted", "payments kept")
	if a.Foreign != 4 {
		t.Errorf("%d foreign objects are left, want 4: a secret, a pair, and one half of another", a.Foreign)
	}
	key := k.key("legacy")
	if len(key.Versions) != 2 || key.Versions[0].ObjectID != first || key.Versions[1].ObjectID != second || key.Versions[0].Label != "legacy key, of 2019=" || k.active("legacy") != 2 {
		t.Errorf("%+v", key)
	}
	for _, v := range key.Versions {
		if _, err := k.hsm.Sign(ctx, key.Ref(v), make([]byte, 48)); err != nil {
			t.Errorf("%s does not sign: %v", key.ID(v), err)
		}
	}
	k.adopts(spec, "legacy kept", "payments kept")
	k.finds(false)
	k.rotate("legacy")
	if n := k.active("legacy"); n != 3 || k.key("legacy").Versions[2].Label != "" {
		t.Errorf("version %d is active", n)
	}
	// Without the database the labels do not say whose versions they are; the
	// operator does.
	k.lose(t)
	a = k.adopts(rotation.AdoptSpec{Imports: []rotation.Import{{Label: "legacy 2", Key: "legacy", Number: 2}, {Label: "legacy key, of 2019=", Key: "legacy", Number: 1}}}, "legacy adopted", "payments adopted")
	if v := a.Keys[0].Versions; len(v) != 3 || v[0].Label != "legacy key, of 2019=" || v[2].Label != "legacy.v3" || v[2].State != keys.Active {
		t.Errorf("%+v", v)
	}
	k.lose(t)
	exposed := rotation.AdoptSpec{Unprotected: true, Imports: []rotation.Import{{Label: "exposed", Key: "mac"}}, Skip: []keys.VersionID{{Key: "legacy", Number: 3}}}
	a = k.adopts(exposed, "legacy refused", "mac adopted", "payments adopted")
	if v := a.Keys[1].Versions[0]; v.Protected {
		t.Errorf("%+v", v)
	}
}

// TestAdoptOverFaults: a token or a store that fails leaves each key whole or
// not there, and the next attempt does the rest.
func TestAdoptOverFaults(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{false, true} {
		k := newKit(t)
		k.create("mac", keys.Policy{})
		k.create("payments", keys.Policy{})
		k.rotate("payments")
		for at := 1; ; at++ {
			k.lose(t)
			m := &mortal{at: at, done: done}
			a, err := k.engine(m.change).Adopt(t.Context(), alice, k.store, rotation.AdoptSpec{})
			if !m.dead {
				k.must(err)
				break
			}
			if err == nil && a.Refused() == 0 {
				t.Errorf("at step %d: the process died, and nothing is said to have failed", at)
			}
			k.Engine = k.engine(nil)
			a = k.adopt(rotation.AdoptSpec{})
			if len(a.Keys) != 2 || a.Refused() != 0 || k.active("payments") != 2 || k.active("mac") != 1 {
				t.Errorf("at step %d: %+v", at, a)
			}
			k.finds(false)
			k.consistent()
		}
	}
	k := newKit(t)
	k.create("payments", keys.Policy{})
	k.lose(t)
	for _, m := range []hsmtest.Method{hsmtest.List, hsmtest.Revoked, hsmtest.Inspect} {
		k.faulty.Fail(m, 1, hsmtest.NotDone, keys.ErrHSM)
		if _, err := k.Adopt(t.Context(), alice, k.store, rotation.AdoptSpec{}); !errors.Is(err, keys.ErrHSM) {
			t.Errorf("%s fails: %v, want ErrHSM", m, err)
		}
	}
	k.adopts(rotation.AdoptSpec{}, "payments adopted")
}
