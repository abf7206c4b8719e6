package integration

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/audit/checkpoint"
	"keyhole/audit/verify"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// auditVerify is what an auditor does with the directory's log.
func (g *gateway) auditVerify(args ...string) said {
	g.t.Helper()
	return g.cli(admin, append([]string{"audit", "verify", g.path("audit"), "--key", g.path("audit-keys.pem"), "-o", "json"}, args...)...)
}

// whole fails the test unless the log verifies, and returns the result.
func (g *gateway) whole(args ...string) verify.Result {
	g.t.Helper()
	s := g.auditVerify(args...)
	var r verify.Result
	if err := json.Unmarshal([]byte(s.out), &r); s.code != 0 || err != nil || len(r.Findings) != 0 {
		g.t.Fatalf("the log does not verify: status %d, %v\n%s%s", s.code, err, s.out, s.errOut)
	}
	return r
}

// signers are the audit keys of the log's checkpoints, by how many.
func (g *gateway) signers() map[string]int {
	g.t.Helper()
	b, err := os.ReadFile(g.path("audit/checkpoints"))
	must(g.t, err)
	pem, err := os.ReadFile(g.path("audit-keys.pem"))
	must(g.t, err)
	known, err := checkpoint.ParseKeys(pem)
	must(g.t, err)
	all := map[string]int{}
	for n, err := range checkpoint.Notes(bytes.NewReader(b), func(int) {}) {
		must(g.t, err)
		_, signer, err := checkpoint.Open(n.Signed, known)
		must(g.t, err)
		all[signer]++
	}
	return all
}

// copyTree copies a directory's files.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	must(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), b, 0o600)
	}))
}

// The audit key rotates like any other: checkpoints name the version that
// signed them, auditors get both, proofs under the old one hold, and nobody
// can have anything signed by either.
func TestAuditKeyRotates(t *testing.T) {
	g := stopped(t)
	g.edit("keyhole.yaml", "  dir: audit\n", "  dir: audit\n  checkpoint_every: 1s\n")
	g.start()
	g.create("payments", "ES256", 0)
	g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`).want(200)
	seq := g.audited(func(r audit.Record) bool { return r.Action == "sign" })[0].Seq
	eventually(t, "a checkpoint vouches for the signature", func() bool {
		signed, err := checkpoint.Last(g.path("audit/checkpoints"))
		must(t, err)
		c, err := checkpoint.Peek(signed)
		must(t, err)
		return uint64(c.Size) > seq
	})
	proof, old := filepath.Join(t.TempDir(), "proof"), filepath.Join(t.TempDir(), "old-keys.pem")
	copyFile(t, g.path("audit-keys.pem"), old)
	g.keyhole(admin, "audit", "prove", g.path("audit"), strconv.FormatUint(seq, 10), "-O", proof)

	g.keyhole(admin, "rotate", keys.AuditKeyName)
	eventually(t, "version 2 signs checkpoints", func() bool { return g.signers()["keyhole-audit.v2"] > 0 })
	if got := slices.Sorted(maps.Keys(g.signers())); !slices.Equal(got, []string{"keyhole-audit.v1", "keyhole-audit.v2"}) {
		t.Errorf("checkpoints by %v", got)
	}
	for _, who := range []string{admin, agent} {
		a := g.post(who, "/v1/keys/keyhole-audit/sign", `{"payload":"aGVsbG8="}`)
		if a.status == 200 || strings.Contains(string(a.body), `"signature"`) {
			t.Errorf("%s has the audit key sign: %d %s", who, a.status, a.body)
		}
	}
	g.post(admin, "/v1/keys/keyhole-audit/sign", `{"payload":"aGVsbG8="}`).refused(422, "wrong_purpose")
	g.post(admin, "/v1/admin/keys", `{"name":"keyhole-audit2","algorithm":"EdDSA"}`).refused(422, "invalid_argument")
	g.stop()

	if r := g.whole(); r.Vouched != r.Records {
		t.Errorf("after an orderly stop %d of %d records are vouched for", r.Vouched, r.Records)
	}
	if s := g.cli(admin, "audit", "verify", g.path("audit"), "--key", old); s.code != 3 || !strings.Contains(s.out, "UNKNOWN-KEY") {
		t.Errorf("by the old key alone: status %d\n%s%s", s.code, s.out, s.errOut)
	}
	if out := g.keyhole(admin, "audit", "verify-proof", proof, "--key", old); !strings.Contains(out, `"action":"sign"`) {
		t.Errorf("the proof shows %s", out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o600))
}

// Records of acts say who began what, when it was done, with what, for what,
// until when and for whom.
func TestRecordsOfActsAreComplete(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	_, err := g.as(agent).Subscribe(t.Context(), "payments")
	must(t, err)
	g.policy("payments", api.Policy{
		Period: api.Duration(90 * 24 * time.Hour), Overlap: api.Duration(time.Hour),
		Acks: &api.Acks{Require: "all", Timeout: api.Duration(time.Hour)},
	})
	r, err := g.as(admin).Rotate(t.Context(), "payments", api.RotateRequest{Reason: "personnel-change", Note: "Bob left"})
	must(t, err)
	_, err = g.as(agent).Acknowledge(t.Context(), keys.VersionID{Key: "payments", Number: 2})
	must(t, err)
	done := func(a audit.Record) bool { return a.Rotation == r.ID && a.Outcome == audit.OutcomeOK }
	eventually(t, "the rotation's outcome is recorded", func() bool { return len(g.audited(done)) == 1 })
	g.stop()

	rec := g.audited(done)[0]
	if rec.Action != "rotate" || rec.Initiator != "jwt:dev:admin" || rec.StartedAt.IsZero() || rec.CompletedAt.Before(rec.StartedAt) ||
		rec.Key != "payments" || rec.KeyID != "payments.v2" || rec.Version != 2 || rec.FromVersion != 1 || rec.ToVersion != 2 ||
		rec.Algorithm != "ES256" || rec.Purpose != "sign" {
		t.Errorf("the outcome of the rotation: %+v", rec)
	}
	for name, want := range map[string]string{
		"reason": "personnel-change", "note": "Bob left", "agents": "1", "acknowledged": "jwt:dev:agent",
		"expires_at": rec.CompletedAt.Add(90 * 24 * time.Hour).UTC().Format("2006-01-02"),
	} {
		if got := rec.Details[name]; !strings.HasPrefix(got, want) {
			t.Errorf("details %s is %q, want %q", name, got, want)
		}
	}
	intents := g.audited(func(a audit.Record) bool { return a.Rotation == r.ID && a.Outcome == audit.OutcomeIntent })
	if len(intents) != 1 || intents[0].Seq >= rec.Seq || intents[0].Initiator != rec.Initiator || intents[0].StartedAt.IsZero() || intents[0].Details["note"] != "Bob left" {
		t.Errorf("the intents of it: %+v", intents)
	}

	start := g.audited(func(a audit.Record) bool { return a.Action == "start" })
	if len(start) != 1 {
		t.Fatalf("%d starts", len(start))
	}
	for _, name := range []string{"config", "tls", "auth", "policies"} {
		if h := start[0].Details[name]; len(h) != 64 {
			t.Errorf("the start does not tell the hash of %s: %v", name, start[0].Details)
		}
	}
}
