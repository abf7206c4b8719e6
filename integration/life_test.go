package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the database is edited by hand

	"keyhole/audit"
	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

const approver = "approver"

// state returns the state of a version as the gateway tells it.
func (g *gateway) state(key string, n uint32) string {
	g.t.Helper()
	k, err := g.as(admin).Key(g.t.Context(), key)
	must(g.t, err)
	for _, v := range k.Versions {
		if v.Version == n {
			return v.State
		}
	}
	return ""
}

func (g *gateway) awaitState(key string, n uint32, want string) {
	g.t.Helper()
	eventually(g.t, fmt.Sprintf("%s.v%d is %s", key, n, want), func() bool { return g.state(key, n) == want })
}

func (g *gateway) policy(key string, p api.Policy) {
	g.t.Helper()
	_, err := g.as(admin).UpdateKey(g.t.Context(), key, api.UpdateKeyRequest{Policy: &p})
	must(g.t, err)
}

// agentProcess is integration/agent, as its users would start it.
type agentProcess struct {
	cmd    *exec.Cmd
	out    *output
	errOut *output
}

func (g *gateway) startAgent(keyNames ...string) *agentProcess {
	g.t.Helper()
	program := filepath.Join(g.t.TempDir(), "agent")
	build := exec.Command("go", "build", "-o", program, "./integration/agent")
	build.Dir = repo
	if out, err := build.CombinedOutput(); err != nil {
		g.t.Fatalf("%v\n%s", err, out)
	}
	a := &agentProcess{cmd: exec.Command(program, keyNames...), out: &output{}, errOut: &output{}}
	a.cmd.Env = append(os.Environ(), "KEYHOLE_ADDR="+g.api, "KEYHOLE_CACERT="+g.path("ca.crt"), "KEYHOLE_TOKEN_FILE="+g.path("agent.jwt"))
	a.cmd.Stdout, a.cmd.Stderr = a.out, a.errOut
	must(g.t, a.cmd.Start())
	g.t.Cleanup(func() { _ = a.cmd.Process.Kill() })
	eventually(g.t, "the agent is ready", func() bool { return strings.Contains(a.out.String(), "ready\n") })
	return a
}

// end stops the agent and fails the test if anything failed for it.
func (a *agentProcess) end(t *testing.T) {
	t.Helper()
	must(t, a.cmd.Process.Signal(syscall.SIGTERM))
	if err := a.cmd.Wait(); err != nil {
		t.Fatalf("the agent: %v\n%s\n%s", err, a.out, a.errOut)
	}
}

// A version's whole life by policy: announced, acknowledged, switched at the
// moment that was told, overlapping, archived, destroyed, while an agent
// follows and never fails. The token, the events and the log agree.
func TestLifeOfAKey(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	a := g.startAgent("payments")
	g.policy("payments", api.Policy{
		Announce: api.Duration(time.Second), Acks: &api.Acks{Require: "all", Timeout: api.Duration(time.Hour)},
		Overlap: api.Duration(time.Hour), DestroyDelay: api.Duration(time.Hour),
	})
	r := g.rotate("payments")
	if r.Phase != "announced" || r.Next == nil || r.Acks == nil {
		t.Fatalf("%+v", r)
	}
	if jwks := g.read(agent, "/v1/keys/payments/jwks.json"); !strings.Contains(string(jwks.body), `"payments.v2"`) || g.state("payments", 2) != "pre-activation" && g.state("payments", 2) != "active" {
		t.Errorf("the announced version is %s, the JWKS %s", g.state("payments", 2), jwks.body)
	}
	g.awaitState("payments", 2, "active")
	g.awaitState("payments", 1, "deactivated")
	eventually(t, "the rotation ends", func() bool {
		var err error
		r, err = g.as(admin).Rotation(t.Context(), r.ID)
		must(t, err)
		return r.Phase == "completed"
	})
	if len(r.Acks.Acknowledged) != 1 || r.Acks.Acknowledged[0].Principal != "jwt:dev:agent" || len(r.Acks.Missing) != 0 {
		t.Errorf("acknowledgements %+v", r.Acks)
	}
	eventually(t, "the agent signs with version 2", func() bool { return strings.Contains(a.out.String(), "signed by payments.v2") })
	a.end(t)

	// The overlap ends, and by policy the version goes.
	g.policy("payments", api.Policy{Overlap: api.Duration(time.Second), AfterOverlap: "archive", DestroyDelay: api.Duration(time.Hour)})
	g.awaitState("payments", 1, "archived")
	if s := g.read(agent, "/v1/keys/payments/jwks.json"); strings.Contains(string(s.body), `"payments.v1"`) {
		t.Error("an archived version is in the JWKS")
	}
	res, err := g.as(admin).Destroy(t.Context(), keys.VersionID{Key: "payments", Number: 1}, api.DestroyRequest{Reason: "gone"})
	must(t, err)
	if res.Approval == nil || res.Key != nil {
		t.Fatalf("destroyed by one person: %+v", res)
	}
	if _, err := g.as(admin).Approve(t.Context(), res.Approval.ID, api.DecisionRequest{}); err == nil {
		t.Fatal("who asked has approved")
	}
	done, err := g.as(approver).Approve(t.Context(), res.Approval.ID, api.DecisionRequest{Reason: "agreed"})
	if err != nil || done.State != "done" {
		t.Fatalf("%+v, %v", done, err)
	}
	g.awaitState("payments", 1, "destroy-scheduled")
	_, err = g.as(admin).Restore(t.Context(), keys.VersionID{Key: "payments", Number: 1}, api.VersionActRequest{Reason: "not yet"})
	must(t, err)
	g.awaitState("payments", 1, "archived")
	g.policy("payments", api.Policy{Overlap: api.Duration(time.Second), DestroyDelay: api.Duration(time.Second)})
	res, err = g.as(admin).Destroy(t.Context(), keys.VersionID{Key: "payments", Number: 1}, api.DestroyRequest{Reason: "gone"})
	must(t, err)
	_, err = g.as(approver).Approve(t.Context(), res.Approval.ID, api.DecisionRequest{Reason: "agreed"})
	must(t, err)
	g.awaitState("payments", 1, "destroyed")
	for _, o := range g.objects(t) {
		if o.Label == "payments.v1" {
			t.Errorf("the token still has %+v", o)
		}
	}
	var types []string
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, line := range g.events(ctx, "payments", "version.destroyed") {
		types = append(types, fmt.Sprintf("%s %d", line.Type, line.Version))
	}
	want := []string{
		"version.announced 1", "version.activated 1", "version.announced 2", "version.activated 2", "version.deactivated 1",
		"version.archived 1", "version.destroy-scheduled 1", "version.restored 1", "version.destroy-scheduled 1", "version.destroyed 1",
	}
	left := types
	for _, w := range want { // in this order, whatever else was told
		i := slices.Index(left, w)
		if i < 0 {
			t.Fatalf("events %v lack %q at its place", types, w)
		}
		left = left[i+1:]
	}
	for _, action := range []string{"create-key", "rotate", "destroy", "restore"} {
		intents := len(g.audited(func(r audit.Record) bool { return r.Action == action && r.Outcome == audit.OutcomeIntent }))
		outcomes := len(g.audited(func(r audit.Record) bool { return r.Action == action && r.Outcome == audit.OutcomeOK }))
		if intents == 0 || outcomes == 0 {
			t.Errorf("%s: %d intents, %d outcomes are recorded", action, intents, outcomes)
		}
	}
}

// events reads the event stream of a key from its beginning up to an event of
// the given type.
func (g *gateway) events(ctx context.Context, key, until string) []api.Event {
	g.t.Helper()
	var all []api.Event
	from := uint64(0)
	for ev, err := range g.as(admin).Events(ctx, client.EventOptions{Keys: []string{key}, After: &from}) {
		must(g.t, err)
		all = append(all, ev)
		if ev.Type == until {
			break
		}
	}
	return all
}

// Revocation stops a version at once and brings a successor without waiting
// for anybody; verifiers hear why. Recovery needs its own permission.
func TestEmergency(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	g.create("vault", "A256GCM", 0)
	c := g.as(agent)
	signed, err := c.Sign(t.Context(), "payments", api.SignRequest{Payload: []byte("x")})
	must(t, err)
	sealed, err := c.Encrypt(t.Context(), "vault", api.EncryptRequest{Plaintext: []byte(secret)})
	must(t, err)
	// A rotation that waits for agents that will never answer does not delay it.
	_, err = c.Subscribe(t.Context(), "payments")
	must(t, err)
	g.policy("payments", api.Policy{Announce: api.Duration(time.Hour), Acks: &api.Acks{Require: "all", Timeout: api.Duration(time.Hour)}})
	waiting := g.rotate("payments")
	for _, key := range []string{"payments", "vault"} {
		k, err := g.as(admin).Revoke(t.Context(), keys.VersionID{Key: key, Number: 1}, api.VersionActRequest{Reason: "found on a disk"})
		must(t, err)
		if k.ActiveVersion < 2 {
			t.Errorf("%s: version %d is active behind the revocation", key, k.ActiveVersion)
		}
	}
	if r, err := g.as(admin).Rotation(t.Context(), waiting.ID); err != nil || r.Phase != "completed" && r.Phase != "activated" {
		t.Errorf("the rotation that waited is %+v, %v", r, err)
	}
	v, err := c.Verify(t.Context(), "payments", api.VerifyRequest{Version: 1, Payload: []byte("x"), Signature: signed.Signature})
	if err != nil || v.Valid || v.Reason != "compromised" {
		t.Errorf("a signature by a compromised version: %+v, %v", v, err)
	}
	if _, err := c.Decrypt(t.Context(), "vault", api.DecryptRequest{Ciphertext: sealed.Ciphertext}); !errors.Is(err, keys.ErrVersionState) {
		t.Errorf("an agent decrypts with a compromised version: %v", err)
	}
	d, err := g.as(admin).Decrypt(t.Context(), "vault", api.DecryptRequest{Ciphertext: sealed.Ciphertext})
	if err != nil || string(d.Plaintext) != secret || d.State != "compromised" {
		t.Errorf("recovery: %+v, %v", d, err)
	}
	if len(g.audited(func(r audit.Record) bool {
		return r.Action == "decrypt" && r.Details["recovered_from"] == "compromised"
	})) != 1 {
		t.Error("the recovery is not recorded as one")
	}
	if s := g.read(agent, "/v1/keys/payments/status.json"); !strings.Contains(string(s.body), `"kid":"payments.v1","state":"compromised"`) {
		t.Errorf("the status beside the JWKS: %s", s.body)
	}
	if got := g.events(t.Context(), "payments", "version.revoked"); got[len(got)-1].Version != 1 {
		t.Errorf("events %+v", got)
	}

	// A database from before the revocation does not bring it back, nor does
	// one that was edited.
	g.stop()
	before := g.path("keyhole.db")
	edit(t, before, "UPDATE versions SET revoked_at = NULL, revoke_reason = '' WHERE key_name = 'payments' AND number = 1")
	g.start()
	if _, err := c.Sign(t.Context(), "payments", api.SignRequest{Payload: []byte("x")}); !errors.Is(err, keys.ErrTampered) {
		t.Errorf("a key whose rows were edited signs: %v", err)
	}
	if _, err := c.Encrypt(t.Context(), "vault", api.EncryptRequest{Plaintext: []byte("x")}); err != nil {
		t.Errorf("another key suffers: %v", err)
	}
	if _, body := g.page("/readyz"); !strings.Contains(body, "payments") {
		t.Errorf("readiness does not name the damaged key: %s", body)
	}
}

func edit(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	must(t, err)
	defer db.Close()
	res, err := db.ExecContext(t.Context(), statement)
	must(t, err)
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%s changed %d rows, %v", statement, n, err)
	}
}

func copyDatabase(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		b, err := os.ReadFile(from + suffix)
		if errors.Is(err, os.ErrNotExist) {
			_ = os.Remove(to + suffix)
			continue
		}
		must(t, err)
		must(t, os.WriteFile(to+suffix, b, 0o600))
	}
}

// A copy of the database from before a revocation is put back: the mark on
// the token speaks, before the first request is answered.
func TestOldDatabasePutBack(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	g.stop()
	old := filepath.Join(t.TempDir(), "old.db")
	copyDatabase(t, g.path("keyhole.db"), old)
	g.start()
	_, err := g.as(admin).Revoke(t.Context(), keys.VersionID{Key: "payments", Number: 1}, api.VersionActRequest{Reason: "stolen"})
	must(t, err)
	g.stop()
	copyDatabase(t, old, g.path("keyhole.db"))
	g.start()
	if got := g.state("payments", 1); got != "compromised" {
		t.Errorf("version 1 is %s", got)
	}
	eventually(t, "a successor", func() bool {
		k, err := g.as(admin).Key(t.Context(), "payments")
		must(t, err)
		return k.ActiveVersion > 1
	})
}

// The database is lost: keys are adopted from the token, and what was signed
// and encrypted before holds.
func TestAdopt(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	g.create("vault", "A256GCM", 0)
	c := g.as(agent)
	signed, err := c.Sign(t.Context(), "payments", api.SignRequest{Payload: []byte("x")})
	must(t, err)
	sealed, err := c.Encrypt(t.Context(), "vault", api.EncryptRequest{Plaintext: []byte(secret)})
	must(t, err)
	g.rotate("payments")
	g.rotate("vault")
	_, err = g.as(admin).Revoke(t.Context(), keys.VersionID{Key: "payments", Number: 2}, api.VersionActRequest{Reason: "stolen"})
	must(t, err)
	g.stop()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(g.path("keyhole.db" + suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	offline := func(args ...string) string {
		t.Helper()
		p := run(t, nil, append(args, "--config", g.path("keyhole.yaml"))...)
		if status := p.wait(); status != 0 {
			t.Fatalf("keyholed %s: status %d\n%s%s", strings.Join(args, " "), status, p.stdout, p.stderr)
		}
		return p.stdout.String()
	}
	if plan := offline("adopt", "--dry-run"); !strings.Contains(plan, "payments.v3") {
		t.Errorf("the dry run says %s", plan)
	}
	offline("adopt")
	g.start()
	if got := g.state("payments", 2); got != "compromised" {
		t.Errorf("the revoked version came back as %s", got)
	}
	v, err := c.Verify(t.Context(), "payments", api.VerifyRequest{Version: 1, Payload: []byte("x"), Signature: signed.Signature})
	if err != nil || !v.Valid {
		t.Errorf("%+v, %v", v, err)
	}
	d, err := c.Decrypt(t.Context(), "vault", api.DecryptRequest{Ciphertext: sealed.Ciphertext})
	if err != nil || string(d.Plaintext) != secret {
		t.Errorf("%+v, %v", d, err)
	}
	if r := g.rotate("payments"); r.To != 4 {
		t.Errorf("the next version is %d: numbers came back", r.To)
	}
	g.stop()
	if report := offline("reconcile", "--dry-run"); strings.Contains(report, "orphan") || strings.Contains(report, "missing") {
		t.Errorf("after adoption: %s", report)
	}
}

// kill -9 in each phase of a rotation: the gateway goes on where it was.
func TestKilledInEachPhase(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	_, err := g.as(agent).Subscribe(t.Context(), "payments")
	must(t, err)
	g.policy("payments", api.Policy{Acks: &api.Acks{Require: "all", Timeout: api.Duration(time.Hour)}})
	phase := func(id string) string {
		r, err := g.as(admin).Rotation(t.Context(), id)
		must(t, err)
		return r.Phase
	}
	r := g.rotate("payments")
	g.kill()
	g.start()
	if got := phase(r.ID); got != "announced" {
		t.Fatalf("after a kill the rotation is %s", got)
	}
	_, err = g.as(agent).Acknowledge(t.Context(), keys.VersionID{Key: "payments", Number: 2})
	must(t, err)
	g.kill()
	g.start()
	eventually(t, "the rotation completes", func() bool { return phase(r.ID) == "completed" })
	// Scheduled, and the moment comes while the gateway is down.
	r, err = g.as(admin).Rotate(t.Context(), "payments", api.RotateRequest{ActivateAt: api.At(time.Now().Add(4 * time.Second))})
	must(t, err)
	_, err = g.as(agent).Acknowledge(t.Context(), keys.VersionID{Key: "payments", Number: 3})
	must(t, err)
	eventually(t, "the switch is scheduled", func() bool { p := phase(r.ID); return p == "scheduled" || p == "activated" || p == "completed" })
	g.kill()
	g.start()
	eventually(t, "the rotation completes", func() bool { return phase(r.ID) == "completed" })
	// Abort in the middle, then killed.
	r = g.rotate("payments")
	_, err = g.as(admin).AbortRotation(t.Context(), r.ID, api.RotationActRequest{Reason: "not today"})
	must(t, err)
	g.kill()
	g.start()
	if got := phase(r.ID); got != "aborted" {
		t.Errorf("the aborted rotation is %s", got)
	}
	for _, o := range g.objects(t) {
		if o.Label == "payments.v4" {
			t.Errorf("the token still has %+v", o)
		}
	}
	if k, err := g.as(admin).Key(t.Context(), "payments"); err != nil || k.ActiveVersion != 3 {
		t.Errorf("%+v, %v", k, err)
	}
	if r := g.rotate("payments"); r.To != 5 {
		t.Errorf("the next version is %d: the number of the aborted one came back", r.To)
	}
}

// A trigger needs its own permission and nothing else; a schedule that was
// missed runs once.
func TestTriggerAndSchedule(t *testing.T) {
	g := stopped(t)
	g.edit("keyhole.yaml", "# Keys may be rotated", "triggers:\n  - name: leak\n    keys: [payments, vault]\n    reason: compromise\n\n# Keys may be rotated")
	g.put("policies/siem.cedar", `@id("siem") permit (principal == Agent::"mtls:spiffe://dev.example/siem", action == Action::"trigger", resource == Trigger::"leak");`+"\n")
	g.start()
	g.create("payments", "ES256", 0)
	g.create("vault", "A256GCM", 0)
	_, pair := g.certificate(t, "siem", "spiffe://dev.example/siem")
	siem := g.newHTTP(&pair)
	a := g.call(siem, "", "POST", "/v1/admin/triggers/leak", `{"note":"credentials on a paste site"}`)
	if a.status != 200 && a.status != 202 || strings.Count(string(a.body), `"phase":"completed"`) != 2 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := g.call(siem, "", "POST", "/v1/admin/keys/payments/rotate", `{}`); a.status != 404 && a.status != 403 {
		t.Errorf("the SIEM may rotate by itself: %d", a.status)
	}
	if a := g.call(siem, "", "POST", "/v1/admin/triggers/other", `{}`); a.status != 404 && a.status != 403 {
		t.Errorf("an unknown trigger: %d", a.status)
	}
	if a := g.post(agent, "/v1/admin/triggers/leak", `{}`); a.status != 404 && a.status != 403 {
		t.Errorf("the agent pulls the trigger: %d", a.status)
	}
	// Due each minute; the gateway is down over at least one of them.
	_, err := g.as(admin).UpdateKey(t.Context(), "vault", api.UpdateKeyRequest{Policy: &api.Policy{Schedule: "* * * * *"}})
	must(t, err)
	eventually(t, "the schedule rotates", func() bool {
		k, err := g.as(admin).Key(t.Context(), "vault")
		must(t, err)
		return k.ActiveVersion >= 3
	})
}
