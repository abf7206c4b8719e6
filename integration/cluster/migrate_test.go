package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/integration/internal/proc"
	"keyhole/keys"
)

// A gateway with SQLite and a life behind it becomes three with PostgreSQL:
// they have the same keys, versions, rotations, usage, agents and approvals;
// what was signed verifies, what was encrypted opens, what was begun is ended.
func TestMigrate(t *testing.T) {
	t.Parallel()
	two := map[string]string{"rotation": "{min_period: 1s, min_destroy_delay: 1s, propagation: 1s, two_people: [destroy, delete-key]}"}
	s := newSite(t, options{settings: two})
	old := s.newGate("old", two)
	old.configure(map[string]string{"store": "{sqlite: keyhole.db}"})
	old.start()
	life := s.live(old)
	before := s.facts(old)
	old.stop()

	s.migrate(old, s.gates[0])
	s.start()
	for _, g := range s.gates {
		after := s.facts(g)
		for what, text := range before {
			if after[what] != text {
				t.Errorf("%s: %s were\n%s\nand are\n%s", g.name, what, text, after[what])
			}
		}
	}
	for _, g := range s.gates {
		life.goesOn(g)
	}
	life.ends()
	s.stop()
	s.agree()

	if status, said := s.keyholed("migrate", "--config", s.gates[0].config, "--from", filepath.Join(old.dir, "keyhole.db")); status == 0 || !strings.Contains(said, "empty") {
		t.Errorf("migrating into a database in use: status %d\n%s", status, said)
	}
}

// migrate copies a gateway's SQLite database into the PostgreSQL of another
// one's configuration.
func (s *site) migrate(from, to *gate) {
	s.t.Helper()
	if status, said := s.keyholed("migrate", "--config", to.config, "--from", filepath.Join(from.dir, "keyhole.db")); status != 0 {
		s.t.Fatalf("keyholed migrate: status %d\n%s", status, said)
	}
}

// life is what a gateway did, and left under way.
type life struct {
	s        *site
	made     []item // signatures of payments, ciphertexts of vault
	rotation api.Rotation
	approval api.Approval
	mallory  string // the token of an agent that is blocked
}

// live lets a gateway do all kinds of things.
func (s *site) live(g *gate) *life {
	t := s.t
	t.Helper()
	ctx, admin, agent := t.Context(), g.admin(), g.as("agent")
	l := &life{s: s, mallory: s.caller("mallory")}
	for key, algorithm := range map[string]string{"payments": "ES256", "vault": "A256GCM", "waits": "ES256", "compromised": "EdDSA"} {
		_, err := admin.CreateKey(ctx, api.CreateKeyRequest{
			Name: key, Algorithm: algorithm, Tags: map[string]string{"of": key}, Policy: policy(func(*api.Policy) {}),
		})
		must(t, err)
	}
	for range 2 {
		l.use(agent)
		var begun []api.Rotation
		for _, key := range []string{"payments", "vault"} {
			r, err := admin.Rotate(ctx, key, api.RotateRequest{Note: "on the way"})
			must(t, err)
			begun = append(begun, r)
		}
		for _, r := range begun {
			proc.Eventually(t, r.Key+" is rotated", func() bool {
				r, err := admin.Rotation(ctx, r.ID)
				return err == nil && r.Phase == "completed"
			})
		}
	}
	_, err := admin.Revoke(ctx, keys.VersionID{Key: "compromised", Number: 1}, api.VersionActRequest{Reason: "a test"})
	must(t, err)
	_, err = agent.Subscribe(ctx, "payments")
	must(t, err)
	_, err = agent.Acknowledge(ctx, keys.VersionID{Key: "payments", Number: 3})
	must(t, err)
	announce := api.Duration(time.Hour)
	l.rotation, err = admin.Rotate(ctx, "waits", api.RotateRequest{Announce: &announce})
	must(t, err)
	act, err := admin.Destroy(ctx, keys.VersionID{Key: "payments", Number: 1}, api.DestroyRequest{Reason: "a test", Force: true})
	must(t, err)
	if act.Approval == nil {
		t.Fatalf("a destruction by one person: %+v", act)
	}
	l.approval = *act.Approval
	mallory := s.clientBy(g.api(), l.mallory, -1)
	_, err = mallory.Sign(ctx, "payments", api.SignRequest{Payload: []byte("x")})
	must(t, err)
	_, err = admin.BlockAgent(ctx, "jwt:dev:mallory", "a test")
	must(t, err)
	proc.Eventually(t, "it is written down when mallory was seen", func() bool {
		a, err := admin.Agent(ctx, "jwt:dev:mallory")
		return err == nil && !a.FirstSeenAt.IsZero()
	})
	return l
}

// use signs and encrypts once.
func (l *life) use(agent *client.Client) {
	t := l.s.t
	t.Helper()
	payload := fmt.Appendf(nil, "item %d", len(l.made))
	sig, err := agent.Sign(t.Context(), "payments", api.SignRequest{Payload: payload})
	must(t, err)
	e, err := agent.Encrypt(t.Context(), "vault", api.EncryptRequest{Plaintext: payload})
	must(t, err)
	l.made = append(l.made, item{version: sig.Version, kid: sig.KeyID, payload: payload, signature: sig.Signature, ciphertext: e.Ciphertext})
}

// goesOn looks at what was made before, through a gateway.
func (l *life) goesOn(g *gate) {
	t := l.s.t
	t.Helper()
	agent := g.as("agent")
	for _, i := range l.made {
		v, err := agent.Verify(t.Context(), "payments", api.VerifyRequest{Payload: i.payload, Signature: i.signature, Version: i.version})
		if err != nil || !v.Valid {
			t.Errorf("%s: the signature by %s: %+v, %v", g.name, i.kid, v, err)
		}
		d, err := agent.Decrypt(t.Context(), "vault", api.DecryptRequest{Ciphertext: i.ciphertext})
		if err != nil || string(d.Plaintext) != string(i.payload) {
			t.Errorf("%s: the ciphertext of %q: %q, %v", g.name, i.payload, d.Plaintext, err)
		}
	}
	l.use(agent)
	if _, err := l.s.clientBy(g.api(), l.mallory, -1).Sign(t.Context(), "payments", api.SignRequest{Payload: []byte("x")}); !errors.Is(err, keys.ErrForbidden) {
		t.Errorf("%s: a blocked agent: %v", g.name, err)
	}
}

// ends brings what was under way to its end, by different gateways.
func (l *life) ends() {
	s, t := l.s, l.s.t
	t.Helper()
	if _, err := s.gates[1].admin().ActivateRotation(t.Context(), l.rotation.ID, api.RotationActRequest{}); err != nil {
		t.Errorf("the rotation that was under way: %v", err)
	}
	s.ends("waits", func(k api.Key, _ []api.Rotation) bool { return k.ActiveVersion == 2 })
	if _, err := s.gates[2].as("approver").Approve(t.Context(), l.approval.ID, api.DecisionRequest{}); err != nil {
		t.Errorf("the approval that was waited for: %v", err)
	}
	s.ends("payments", func(k api.Key, _ []api.Rotation) bool { return k.Versions[len(k.Versions)-1].State == "destroyed" })
}

// facts are what a gateway says of everything, as text.
func (s *site) facts(g *gate) map[string]string {
	t := s.t
	t.Helper()
	ctx, c, facts := t.Context(), g.admin(), map[string]string{}
	add := func(what string, v any, err error) {
		must(t, err)
		text, err := json.MarshalIndent(v, "", "  ")
		must(t, err)
		facts[what] += string(text) + "\n"
	}
	for k, err := range c.Keys(ctx) {
		if !strings.HasPrefix(k.Name, keys.ReservedPrefix) {
			add("keys", k, err)
			u, err := c.Usage(ctx, k.Name)
			add("usage", u, err)
			add("rotations", s.rotations(c, k.Name), nil)
		}
		must(t, err)
	}
	for a, err := range c.Approvals(ctx, "") {
		add("approvals", a, err)
	}
	for a, err := range c.Agents(ctx) {
		a.LastSeenAt = api.Time{} // everybody was here just now
		add("agents", a, err)
	}
	return facts
}
