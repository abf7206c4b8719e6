package gateway_test

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyhole/audit"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/keys"
)

func TestDescribe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	of(w.CreateKey(ctx, admin, api.CreateKeyRequest{
		Name: "payments", Algorithm: "ES256", Description: "card payments", Tags: map[string]string{"team": "pay"},
		Policy: &api.Policy{Period: api.Duration(90 * 24 * time.Hour)},
	})).ok(t)
	w.rotate("payments")
	of(w.Rotate(ctx, admin, "payments", api.RotateRequest{Algorithm: "ES384"})).ok(t)
	of(w.Revoke(ctx, admin, "payments", 1, api.VersionActRequest{Reason: "stolen"})).ok(t)
	w.news()
	k := of(w.Key(ctx, alice, "payments")).ok(t)
	if r := w.record(); r.Action != "read" || r.Outcome != audit.OutcomeOK || r.Key != "payments" || r.Policies[0] != "agents" {
		t.Errorf("recorded as %+v", r)
	}
	if k.Name != "payments" || k.Purpose != "sign" || k.Algorithm != "ES384" || k.Bits != 384 || k.Description != "card payments" ||
		k.Token != "memory" || k.ActiveVersion != 3 || k.Policy.Period.Std() != 90*24*time.Hour || k.Tags["team"] != "pay" ||
		k.Epoch == 0 || k.CreatedAt.IsZero() || len(k.Versions) != 3 {
		t.Errorf("%+v", k)
	}
	v3, v2, v1 := k.Versions[0], k.Versions[1], k.Versions[2]
	if v3.Version != 3 || v3.KeyID != "payments.v3" || v3.State != "active" || v3.Algorithm != "ES384" || v3.Bits != 384 || !v3.DeactivatedAt.IsZero() ||
		v3.CreatedAt.IsZero() || v3.AnnouncedAt.IsZero() || v3.ActivateAt.IsZero() {
		t.Errorf("%+v", v3)
	}
	if v2.State != "deactivated" || !v2.DeactivatedAt.Equal(v3.ActivateAt.Time) || v2.Algorithm != "ES256" {
		t.Errorf("%+v", v2)
	}
	if v1.State != "compromised" || v1.RevokeReason != "stolen" || v1.RevokedAt.IsZero() || !v1.DeactivatedAt.Equal(v2.ActivateAt.Time) {
		t.Errorf("%+v", v1)
	}
	ids := map[string]bool{}
	for _, v := range k.Versions {
		ids[v.HSM.CKAID] = true
		if v.HSM.Token != "memory" || len(v.HSM.CKAID) != 32 || !v.HSM.NeverExtractable || !v.HSM.AlwaysSensitive || v.JWK == nil || v.JWK.KeyID != v.KeyID {
			t.Errorf("%+v", v)
		}
	}
	if len(ids) != 3 {
		t.Errorf("the ids are %v", ids)
	}
}

// The published forms of a public key are one key, in RFC 7518's spelling.
func TestPublicKeysAgree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	width := map[string]int{"P-256": 43, "P-384": 64, "P-521": 88}
	for _, alg := range []keys.Algorithm{keys.ES256, keys.ES384, keys.ES512, keys.EdDSA, keys.RS256, keys.RSAOAEP256} {
		name := strings.ToLower(string(alg))
		k := w.key(name, alg)
		set := of(w.JWKS(ctx, alice, name)).ok(t)
		if len(set.Keys) != 1 {
			t.Fatalf("%s: %+v", alg, set)
		}
		jwk := set.Keys[0]
		if d := cmp.Diff(&jwk, k.Versions[0].JWK); d != "" {
			t.Errorf("%s: JWKS and description differ: %s", alg, d)
		}
		use := "sig"
		if alg.Purpose() == keys.PurposeEncrypt {
			use = "enc"
		}
		if jwk.Use != use || jwk.Algorithm != string(alg) || jwk.KeyID != name+".v1" {
			t.Errorf("%s: %+v", alg, jwk)
		}
		theirs := joseKeys(t, set).Keys[0]
		pub := publicKey(t, k, 1)
		if eq, ok := pub.(interface{ Equal(x any) bool }); ok && !eq.Equal(theirs.Key) {
			t.Errorf("%s: the PEM and the JWK are two keys", alg)
		}
		if !theirs.Valid() || !theirs.IsPublic() || fmt.Sprint(theirs.Key) != fmt.Sprint(pub) {
			t.Errorf("%s: go-jose reads %v, the PEM is %v", alg, theirs.Key, pub)
		}
		if jwk.KeyType == "EC" && (len(jwk.X) != width[jwk.Curve] || len(jwk.Y) != width[jwk.Curve]) {
			t.Errorf("%s: coordinates of %d and %d characters", alg, len(jwk.X), len(jwk.Y))
		}
		if p, ok := pub.(*rsa.PublicKey); ok {
			n, err := base64.RawURLEncoding.DecodeString(jwk.N)
			if err != nil || new(big.Int).SetBytes(n).Cmp(p.N) != 0 || n[0] == 0 || jwk.E != "AQAB" {
				t.Errorf("%s: %+v", alg, jwk)
			}
		}
	}
	for _, alg := range []keys.Algorithm{keys.HS256, keys.A256GCM} {
		name := strings.ToLower(string(alg))
		k := w.key(name, alg)
		if v := k.Versions[0]; v.PublicKey != "" || v.JWK != nil {
			t.Errorf("%s: a secret key has the public key %+v", alg, v)
		}
	}
}

func TestJWKSHoldsWhatMayBeVerified(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.rotate("payments")
	w.key("mail", keys.A256GCM)
	w.key("rsa", keys.RSAOAEP256)
	of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "hidden", Algorithm: "ES256"})).ok(t)
	kids := func(r gateway.Request, name string) []string {
		t.Helper()
		list := []string{}
		for _, k := range of(w.JWKS(ctx, r, name)).ok(t).Keys {
			list = append(list, k.KeyID)
		}
		return list
	}
	check := func(got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("published are %v, want %v", got, want)
		}
	}
	w.news()
	check(kids(alice, ""), "payments.v2", "payments.v1", "rsa.v1")
	check(kids(admin, ""), "hidden.v1", "payments.v2", "payments.v1", "rsa.v1")
	check(kids(alice, "payments"), "payments.v2", "payments.v1")
	check(kids(alice, "mail"))
	if recs := w.news(); len(recs) != 0 {
		t.Errorf("reading public keys wrote %+v", recs)
	}
	of(w.JWKS(ctx, auditor, "")).fails(t, keys.ErrForbidden)
	if r := w.record(); r.Action != "jwks" || r.Outcome != audit.OutcomeDenied {
		t.Errorf("recorded as %+v", r)
	}

	for what, tt := range map[string]struct {
		change func(v *keys.Version)
		want   []string
	}{
		"suspended":         {func(v *keys.Version) { v.SuspendedAt = w.now() }, []string{"payments.v2"}},
		"archived":          {func(v *keys.Version) { v.ArchivedAt = w.now() }, []string{"payments.v2"}},
		"revoked":           {func(v *keys.Version) { v.ArchivedAt, v.RevokedAt = time.Time{}, w.now() }, []string{"payments.v2"}},
		"destroy-scheduled": {func(v *keys.Version) { v.DestroyAt = w.now() }, []string{"payments.v2"}},
		"destroyed":         {func(v *keys.Version) { v.DestroyedAt = w.now() }, []string{"payments.v2"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.key("payments", keys.ES256)
			w.rotate("payments")
			w.change("payments", func(k *keys.Key) { tt.change(k.Versions[0]) })
			var got []string
			for _, k := range of(w.JWKS(t.Context(), alice, "payments")).ok(t).Keys {
				got = append(got, k.KeyID)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("published are %v, want %v", got, tt.want)
			}
		})
	}
}

// A version is published from its announcement on.
func TestJWKSHoldsWhatIsAnnounced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("payments", keys.ES256)
	of(w.Rotate(t.Context(), admin, "payments", api.RotateRequest{ActivateAt: api.At(w.now().Add(time.Hour))})).ok(t)
	set := of(w.JWKS(t.Context(), alice, "payments")).ok(t)
	if len(set.Keys) != 2 || set.Keys[0].KeyID != "payments.v2" {
		t.Errorf("%+v", set)
	}
}

func TestUntilSwitch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.key("payments", keys.ES256)
	w.key("other", keys.ES256)
	if d := w.UntilSwitch("") + w.UntilSwitch("payments") + w.UntilSwitch("none"); d != 0 {
		t.Errorf("nothing is planned, but in %s", d)
	}
	of(w.Rotate(t.Context(), admin, "payments", api.RotateRequest{ActivateAt: api.At(w.now().Add(time.Hour))})).ok(t)
	for name, within := range map[string]bool{"": true, "payments": true, "other": false} {
		if d := w.UntilSwitch(name); within != (d > 59*time.Minute && d <= time.Hour) {
			t.Errorf("%q: %s", name, d)
		}
	}
}

func TestKeysInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	for _, name := range []string{"a", "c", "e", "g"} {
		w.key(name, keys.ES256)
		of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: name + "-hidden", Algorithm: "ES256"})).ok(t)
	}
	page := func(r gateway.Request, after string, limit int) (string, string) {
		t.Helper()
		list := of(w.Keys(ctx, r, after, limit)).ok(t)
		var names []string
		for _, k := range list.Keys {
			names = append(names, k.Name)
		}
		return strings.Join(names, " "), list.Next
	}
	w.news()
	for _, tt := range []struct {
		who   gateway.Request
		after string
		limit int
		names string
		next  string
	}{
		{alice, "", 0, "a c e g", ""},
		{alice, "", 4, "a c e g", ""}, // what is hidden behind the last one is no next page
		{alice, "", 3, "a c e", "e"},
		{alice, "e", 3, "g", ""},
		{alice, "d", 1, "e", "e"},
		{alice, "zzz", 1, "", ""},
		{admin, "a", 2, "a-hidden c", "c"},
		{nobody, "", 0, "", ""},
	} {
		if names, next := page(tt.who, tt.after, tt.limit); names != tt.names || next != tt.next {
			t.Errorf("%s, after %q, %d: %q, next %q, want %q, %q", tt.who.Caller.ID, tt.after, tt.limit, names, next, tt.names, tt.next)
		}
		if r := w.record(); r.Action != "read" || r.Key != "" || r.Outcome != audit.OutcomeOK {
			t.Errorf("recorded as %+v", r)
		}
	}
	for _, limit := range []int{-1, gateway.MaxPage + 1} {
		of(w.Keys(ctx, alice, "", limit)).fails(t, keys.ErrInvalid)
		of(w.Rotations(ctx, alice, "", "", limit)).fails(t, keys.ErrInvalid)
	}
	if list := of(w.Keys(ctx, nobody, "", 0)).ok(t); list.Keys == nil {
		t.Error("an empty list is null")
	}
}

func TestRotations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.key("payments", keys.ES256)
	w.rotate("payments")
	of(w.CreateKey(ctx, admin, api.CreateKeyRequest{Name: "hidden", Algorithm: "ES256"})).ok(t)
	w.rotate("payments")
	all := of(w.Rotations(ctx, admin, "", "", 0)).ok(t)
	if len(all.Rotations) != 4 || all.Next != "" {
		t.Fatalf("%+v", all)
	}
	var hidden string
	for i, r := range all.Rotations {
		if i > 0 && r.ID >= all.Rotations[i-1].ID {
			t.Error("not newest first")
		}
		if r.Phase != "completed" || r.StartedBy != admin.Caller.ID || r.RequestID != admin.ID || r.StartedAt.IsZero() || r.CompletedAt.IsZero() {
			t.Errorf("%+v", r)
		}
		if r.Key == "hidden" {
			hidden = r.ID
		}
		if one := of(w.Rotation(ctx, admin, r.ID)).ok(t); !cmp.Equal(one, r) {
			t.Errorf("%+v, %+v", one, r)
		}
	}
	if r := all.Rotations[0]; r.Key != "payments" || r.From != 2 || r.To != 3 || r.Reason != "manual" {
		t.Errorf("%+v", r)
	}
	if list := of(w.Rotations(ctx, alice, "", "", 0)).ok(t); len(list.Rotations) != 3 {
		t.Errorf("alice sees %+v", list)
	}
	if list := of(w.Rotations(ctx, admin, "hidden", "", 0)).ok(t); len(list.Rotations) != 1 || list.Rotations[0].ID != hidden {
		t.Errorf("%+v", list)
	}
	// Page by page.
	var got []string
	next := ""
	for range 10 {
		page := of(w.Rotations(ctx, alice, "", next, 1)).ok(t)
		if page.Next == hidden || len(page.Rotations) != 1 {
			t.Errorf("a page of alice tells of a rotation that she may not see, or is not full: %+v", page)
		}
		for _, r := range page.Rotations {
			got = append(got, r.Key)
		}
		if next = page.Next; next == "" {
			break
		}
	}
	if len(got) != 3 {
		t.Errorf("page by page alice sees %v", got)
	}

	if list := of(w.Rotations(ctx, auditor, "", "", 1)).ok(t); len(list.Rotations) != 0 || list.Next != "" {
		t.Errorf("one who may see none is told of %+v", list)
	}

	// One that may not be seen is the same answer as none.
	unseen, none := of(w.Rotation(ctx, alice, hidden)).err, of(w.Rotation(ctx, alice, "01ZZZZZZZZZZZZZZZZZZZZZZZZ")).err
	a, b := api.ProblemOf(unseen), api.ProblemOf(none)
	if !errors.Is(unseen, keys.ErrNotFound) || a.Code != b.Code || strings.ReplaceAll(a.Detail, hidden, "X") != strings.ReplaceAll(b.Detail, "01ZZZZZZZZZZZZZZZZZZZZZZZZ", "X") {
		t.Errorf("%+v, %+v", a, b)
	}
	of(w.Rotation(ctx, auditor, hidden)).fails(t, keys.ErrNotFound)
	w.news()
	of(w.Rotation(ctx, alice, hidden)).fails(t, keys.ErrNotFound)
	if r := w.record(); r.Action != "list-rotations" || r.Outcome != audit.OutcomeDenied || r.Key != "hidden" {
		t.Errorf("recorded as %+v", r)
	}
}
