package integration

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// room lets the running gateway's files grow to that size and no further, as
// a disk would that is full then.
func (g *gateway) room(size uint64) {
	g.t.Helper()
	pid := g.proc.cmd.Process.Pid
	var limit unix.Rlimit
	must(g.t, unix.Prlimit(pid, unix.RLIMIT_FSIZE, nil, &limit))
	limit.Cur = min(size, limit.Max) // the hard limit stays, so that nobody has to be root
	must(g.t, unix.Prlimit(pid, unix.RLIMIT_FSIZE, &limit, nil))
}

// auditSize returns the size of the log's last file.
func (g *gateway) auditSize() uint64 {
	g.t.Helper()
	files, err := filepath.Glob(g.path("audit/*.jsonl"))
	if err != nil || len(files) == 0 {
		g.t.Fatalf("no audit log: %v", err)
	}
	info, err := os.Stat(files[len(files)-1])
	must(g.t, err)
	return uint64(info.Size())
}

// When there is no room for the audit log, nothing is answered: not a
// signature, not a denial, and no key is made. The gateway stays up, says
// that it is not ready and why, and goes on by itself once there is room. No
// record of an answer is lost, and the outage is in the log.
func TestNoRoomForTheAuditLog(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	c, ids := g.as(agent), map[string]bool{}
	sign := func() answer { return g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`) }
	for range 5 {
		ids[sign().want(http.StatusOK).requestID()] = true
	}

	g.room(g.auditSize() + 100) // less than a record: its first bytes are written
	p := sign().refused(http.StatusServiceUnavailable, "audit_unavailable")
	if strings.Contains(p.Detail, g.dir) {
		t.Errorf("the refusal tells of the file system: %s", p.Detail)
	}
	g.alive()
	for range 3 {
		if a := sign(); a.header.Get("Retry-After") == "" {
			a.refused(http.StatusServiceUnavailable, "audit_unavailable")
			t.Error("no Retry-After")
		}
	}
	if a := g.post(agent, "/v1/admin/keys", `{"name":"mine","algorithm":"ES256"}`); a.status != http.StatusServiceUnavailable {
		t.Errorf("a denial that is not recorded: %d %s", a.status, a.body)
	}
	if _, err := g.as(admin).CreateKey(t.Context(), api.CreateKeyRequest{Name: "late", Algorithm: "ES256"}); err == nil {
		t.Error("a key was made without a record")
	}
	if s := g.cli(agent, "sign", "payments", g.path("agent.jwt"), "--timeout", "1s"); s.code != 7 || s.out != "" {
		t.Errorf("the command line: status %d, want 7: %s%s", s.code, s.out, s.errOut)
	}
	status, ready := g.page("/readyz")
	if status != http.StatusServiceUnavailable || !strings.Contains(ready, `"audit"`) {
		t.Errorf("readyz: %d %s", status, ready)
	}
	if status, body := g.page("/healthz"); status != http.StatusOK {
		t.Errorf("healthz: %d %s: a restart would not help", status, body)
	}

	g.room(1 << 40)
	eventually(t, "it is ready again", func() bool {
		status, _ := g.page("/readyz")
		return status == http.StatusOK
	})
	for range 5 {
		ids[sign().want(http.StatusOK).requestID()] = true
	}
	if _, err := c.Key(t.Context(), "late"); !errors.Is(err, keys.ErrKeyNotFound) {
		t.Errorf("the key that could not be recorded: %v", err)
	}
	g.create("late", "ES256", 0)
	signed := g.audited(func(r audit.Record) bool { return r.Action == "sign" && r.Outcome == audit.OutcomeOK })
	for _, r := range signed {
		if !ids[r.RequestID] {
			t.Errorf("a signature is recorded that was not given: %+v", r)
		}
		delete(ids, r.RequestID)
	}
	if len(ids) != 0 {
		t.Errorf("not recorded, or twice: %v", ids)
	}
	if n := len(g.audited(func(r audit.Record) bool { return r.Action == audit.ActionRecover })); n == 0 {
		t.Error("the outage is not recorded")
	}
	g.stop()
}
