package integration

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// past is what was made before a restart.
type past struct {
	keys      []api.Key
	rotations []api.Rotation
	objects   []object
}

func snapshot(t *testing.T, g *gateway) (p past) {
	t.Helper()
	for k, err := range g.as(admin).Keys(t.Context()) {
		must(t, err)
		p.keys = append(p.keys, k)
	}
	for r, err := range g.as(admin).Rotations(t.Context(), "") {
		must(t, err)
		p.rotations = append(p.rotations, r)
	}
	p.objects = g.objects(t)
	slices.SortFunc(p.objects, func(a, b object) int { return strings.Compare(a.Label+a.Kind, b.Label+b.Kind) })
	return p
}

// same fails unless keys, rotations and token objects are what they were.
func (p past) same(t *testing.T, now past) {
	t.Helper()
	for name, pair := range map[string][2]any{"keys": {p.keys, now.keys}, "rotations": {p.rotations, now.rotations}} {
		was, err := json.Marshal(pair[0])
		must(t, err)
		is, err := json.Marshal(pair[1])
		must(t, err)
		if string(was) != string(is) {
			t.Errorf("the %s were\n%s\nand are\n%s", name, was, is)
		}
	}
	if !slices.Equal(p.objects, now.objects) {
		t.Errorf("the token held\n%v\nand holds\n%v", p.objects, now.objects)
	}
}

// Keys, states, rotations and the objects on the token are after a restart
// what they were before, whether the gateway was stopped or killed: old
// ciphertexts open, old signatures verify, versions count on from where they
// were, and a retried act is answered and not done again.
func TestRestartLosesNothing(t *testing.T) {
	g := newGateway(t)
	c, boss := g.as(agent), g.as(admin)
	for name, alg := range map[string]string{"payments": "ES256", "seal": "EdDSA", "web": "PS256", "mac": "HS256", "vault": "A256GCM", "inbox": "RSA-OAEP"} {
		bits := 0
		if alg == "PS256" || alg == "RSA-OAEP" {
			bits = 2048
		}
		g.create(name, alg, bits)
	}
	signatures, ciphertexts := map[string]api.SignResponse{}, map[string]string{}
	sign := func() {
		for _, name := range []string{"payments", "seal", "web", "mac"} {
			s, err := c.Sign(t.Context(), name, api.SignRequest{Payload: []byte(text)})
			must(t, err)
			signatures[s.KeyID] = s
		}
		for _, name := range []string{"vault", "inbox"} {
			e, err := c.Encrypt(t.Context(), name, api.EncryptRequest{Plaintext: []byte(secret), AAD: []byte(name)})
			must(t, err)
			ciphertexts[e.KeyID] = e.Ciphertext
		}
	}
	sign()
	for _, name := range []string{"payments", "vault", "inbox", "mac"} {
		g.rotate(name)
	}
	sign()
	// One version is revoked, one suspended, and one key described.
	_, err := boss.Revoke(t.Context(), keys.VersionID{Key: "mac", Number: 1}, api.VersionActRequest{Reason: "lost"})
	must(t, err)
	_, err = boss.Suspend(t.Context(), keys.VersionID{Key: "seal", Number: 1}, api.VersionActRequest{})
	must(t, err)
	description, tags := "signs payment orders", map[string]string{"team": "billing"}
	_, err = boss.UpdateKey(t.Context(), "payments", api.UpdateKeyRequest{Description: &description, Tags: &tags})
	must(t, err)
	retried := g.post(admin, "/v1/admin/keys/payments/rotate", `{"reason":"deployment"}`, "Idempotency-Key", "job-4711").want(http.StatusAccepted)

	before := snapshot(t, g)
	for _, end := range []struct {
		name string
		how  func()
	}{{"stopped", g.stop}, {"killed", g.kill}} {
		end.how()
		g.start()
		before.same(t, snapshot(t, g))

		again := g.post(admin, "/v1/admin/keys/payments/rotate", `{"reason":"deployment"}`, "Idempotency-Key", "job-4711").want(http.StatusAccepted)
		if again.header.Get("Idempotency-Replayed") != "true" || string(again.body) != string(retried.body) {
			t.Errorf("%s: a retry is answered %v %s, was answered %s", end.name, again.header, again.body, retried.body)
		}
		for _, kid := range slices.Sorted(maps.Keys(signatures)) {
			s := signatures[kid]
			v, err := c.Verify(t.Context(), s.Key, api.VerifyRequest{Payload: []byte(text), Signature: s.Signature, Version: s.Version})
			want := map[string]string{"mac.v1": "compromised", "seal.v1": "suspended"}[kid]
			if err != nil || v.Valid != (want == "") || want != "" && (v.State != want || v.Reason != want) {
				t.Errorf("%s: %s: %+v, %v", end.name, kid, v, err)
			}
		}
		for kid, ciphertext := range ciphertexts {
			id, err := keys.ParseVersionID(kid)
			must(t, err)
			d, err := c.Decrypt(t.Context(), id.Key, api.DecryptRequest{Ciphertext: ciphertext, AAD: []byte(id.Key)})
			if err != nil || string(d.Plaintext) != secret {
				t.Errorf("%s: %s opens to %q, %v", end.name, kid, d.Plaintext, err)
			}
		}
		if _, err := c.Sign(t.Context(), "seal", api.SignRequest{Payload: []byte(text)}); !errors.Is(err, keys.ErrNoActiveVersion) {
			t.Errorf("%s: a suspended version signs: %v", end.name, err)
		}
	}

	// Numbers go on, names stay taken.
	if r := g.rotate("payments"); r.From != 3 || r.To != 4 {
		t.Errorf("after the restarts payments went from %d to %d", r.From, r.To)
	}
	if _, err := boss.CreateKey(t.Context(), api.CreateKeyRequest{Name: "mac", Algorithm: "HS256"}); !errors.Is(err, keys.ErrKeyExists) {
		t.Errorf("a second key %q: %v", "mac", err)
	}
	_, err = boss.Resume(t.Context(), keys.VersionID{Key: "seal", Number: 1}, api.VersionActRequest{})
	must(t, err)
	if s, err := c.Sign(t.Context(), "seal", api.SignRequest{Payload: []byte(text)}); err != nil || s.KeyID != "seal.v1" {
		t.Errorf("the resumed version: %+v, %v", s, err)
	}
	if n := len(g.audited(func(r audit.Record) bool { return r.Action == "start" })); n != 3 {
		t.Errorf("%d starts are recorded, want 3", n)
	}
	g.stop()
}

// The addresses that a killed gateway left behind are gone as soon as the next
// one starts, whatever becomes of it: whoever waits for them gets new ones.
func TestKilledGatewayLeavesNoAddress(t *testing.T) {
	g := newGateway(t)
	g.kill()
	if g.line("keyhole.addr") == "" {
		t.Fatal("a killed gateway could not have removed its address")
	}
	g.edit("keyhole.yaml", "node: dev", "nod: dev") // so that the next one does not come to listen
	p := run(t, nil, "dev", "--dir", g.dir, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")
	if status := p.wait(); status != 2 {
		t.Fatalf("a mistake in keyhole.yaml: status %d, want 2", status)
	}
	for _, name := range []string{"keyhole.addr", "ops.addr"} {
		if _, err := os.Stat(g.path(name)); err == nil {
			t.Errorf("%s still says %s", name, g.line(name))
		}
	}
}
