package integration

import (
	"errors"
	"strings"
	"testing"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// A rotation whose HSM fails at any step ends, or goes on when the HSM is well
// again; it never leaves an object that no version knows, or a version without
// its key.
func TestFaultsDuringRotation(t *testing.T) {
	t.Parallel()
	b := newBrittle(t)
	b.create("payments", "ES256", 0)
	b.create("vault", "A256GCM", 0)
	sealed := b.seal()
	for _, orders := range [][]string{
		{"C_GenerateKeyPair nth 1 return CKR_DEVICE_ERROR"},
		{"C_GenerateKeyPair nth 1 after CKR_DEVICE_ERROR"}, // done, and told otherwise
		{"C_GenerateKeyPair nth 1 return CKR_DEVICE_MEMORY"},
		{"C_GenerateKeyPair from 1 to 2 after CKR_GENERAL_ERROR"},
		{"C_GenerateKeyPair after CKR_DEVICE_ERROR", "C_DestroyObject return CKR_DEVICE_ERROR"}, // and cannot be cleaned up
		{"C_GenerateKey nth 1 after CKR_HOST_MEMORY"},
		{"C_GetAttributeValue nth 3 return CKR_DEVICE_ERROR"}, // the read-back
		{"C_SignInit nth 1 return CKR_DEVICE_REMOVED"},        // the first use
		{"C_FindObjectsInit nth 2 return CKR_SESSION_HANDLE_INVALID"},
		{"* nth 5 drop"},
		{"C_Login return CKR_DEVICE_ERROR", "* nth 3 drop"},
		{"C_DestroyObject nth 1 return CKR_OK"}, // a lie
		{"C_DestroyObject nth 1 after CKR_DEVICE_ERROR"},
	} {
		b.f.Set(orders...)
		told := map[string]int{}
		for _, key := range []string{"payments", "vault"} {
			_, err := b.as(admin).Rotate(t.Context(), key, api.RotateRequest{})
			told[outcome(err)]++
			if err != nil && !errors.Is(err, keys.ErrHSM) && !errors.Is(err, keys.ErrTimeout) && !errors.Is(err, keys.ErrOverloaded) && !errors.Is(err, keys.ErrConflict) {
				t.Errorf("%v: rotating %s: %v", orders, key, err)
			}
		}
		b.f.Set()
		// Each key can be rotated again, by itself: what was begun has ended.
		for _, key := range []string{"payments", "vault"} {
			eventually(t, key+" rotates again", func() bool {
				b.alive()
				_, err := b.as(admin).Rotate(t.Context(), key, api.RotateRequest{})
				return err == nil
			})
		}
		b.whole(strings.Join(orders, " | "))
		if a := b.unseal(sealed); a.status != 200 {
			t.Errorf("%v: an old ciphertext: %s", orders, a.trouble())
		}
		t.Logf("%-90s %v", strings.Join(orders, " | "), told)
	}
}

// outcome is an error in short.
func outcome(err error) string {
	var p *client.Error
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &p):
		return p.Problem.Code
	}
	return err.Error()
}

// whole has the gateway compare token and database, repeatedly until what can be
// repaired is, and fails the test if they differ after that.
func (b *brittle) whole(what string) {
	b.t.Helper()
	var report api.ReconcileReport
	eventually(b.t, "token and database agree after "+what, func() bool {
		var err error
		if report, err = b.as(admin).Reconcile(b.t.Context(), api.ReconcileRequest{}); err != nil {
			return false
		}
		for _, f := range report.Findings {
			if f.Action != "repaired" {
				b.t.Logf("after %s: %+v", what, f)
			}
		}
		return len(report.Findings) == 0
	})
}

// A revocation that the HSM cannot mark holds all the same, at once; and the
// mark is made when the HSM is well again.
func TestFaultsDuringRevocation(t *testing.T) {
	t.Parallel()
	b := newBrittle(t)
	for name, orders := range map[string][]string{
		"refused":   {"C_CreateObject return CKR_DEVICE_ERROR"},
		"undone":    {"C_CreateObject return CKR_GENERAL_ERROR"},
		"done":      {"C_CreateObject nth 1 after CKR_DEVICE_ERROR"},
		"no-device": {"* return CKR_DEVICE_ERROR", "C_Initialize return CKR_DEVICE_ERROR"},
	} {
		b.create("lost-"+name, "ES256", 0)
		b.learn("lost-" + name)
		signed := b.sign("lost-" + name)
		var s api.SignResponse
		signed.want(200).into(&s)
		b.f.Set(orders...)
		id := keys.VersionID{Key: "lost-" + name, Number: 1}
		_, err := b.as(admin).Revoke(t.Context(), id, api.VersionActRequest{Reason: "compromise"})
		k, kerr := b.as(agent).Key(t.Context(), "lost-"+name)
		must(t, kerr)
		state := ""
		for _, v := range k.Versions {
			if v.Version == 1 {
				state = v.State
			}
		}
		if state != string(keys.Compromised) {
			t.Errorf("%s: v1 is %s right after its revocation (%v)", name, state, err)
		}
		b.f.Set()
		b.whole("a revocation that was " + name)
		eventually(t, "a mark of "+id.String(), func() bool {
			marked := b.pkcs11Tool(t, "--list-objects", "--type", "data")
			return strings.Contains(marked, id.String()+".revoked")
		})
		t.Logf("%-10s the administrator is told %s", name, outcome(err))
	}
}
