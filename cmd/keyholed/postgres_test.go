package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/gateway/api"
	"keyhole/store/postgrestest"
)

// A gateway with its store in PostgreSQL, and a second one beside it: what one
// does the other one knows, and each says who there is.
func TestPostgresLife(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	db := postgrestest.Shared(t).Database(t)
	onPostgres(t, dir, db)
	status, out, errOut := command(t, "check-config", "--config", filepath.Join(dir, "keyhole.yaml"))
	if status != exit.OK || !strings.Contains(out, "PostgreSQL postgres://"+db.User+"@") || strings.Contains(out+errOut, db.Password) {
		t.Fatalf("check-config: status %d\n%s\n%s", status, out, errOut)
	}

	a := gateway(t, dir)
	createKey(t, a.caller(dir, "admin.jwt"), "payments", "ES256")
	other := sibling(t, dir, "other")
	b := gateway(t, other)
	if err := canSign(t.Context(), b.caller(dir, "agent.jwt"), "payments"); err != nil {
		t.Errorf("by the other gateway: %v", err)
	}
	createKey(t, b.caller(dir, "admin.jwt"), "by-other", "ES256")
	eventually(t, "the first one knows the other's key", func() bool { return canSign(t.Context(), a.caller(dir, "agent.jwt"), "by-other") == nil })
	a.metric("keyhole_nodes_live 2")
	a.metric(`keyhole_node_behind_revisions{node="other"} 0`)
	a.metric(`keyhole_store_mode{mode="store"} 1`)
	if status, body := a.get("/readyz"); status != http.StatusOK || !strings.Contains(body, "2 live; this one is 0 revisions behind") {
		t.Errorf("readyz: %d %s", status, body)
	}
	b.stop()
	a.metric("keyhole_nodes_live 1") // it has left
	a.stop()

	a = devGateway(t, dir) // by `keyholed dev`, of which the store is edited
	if err := canSign(t.Context(), a.caller(dir, "agent.jwt"), "by-other"); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	a.stop()
	for _, p := range []*process{a, b} {
		if strings.Contains(p.log.String()+p.out.String(), db.Password) {
			t.Error("the password is shown")
		}
	}
}

// Several that start at once on an empty database make one key for its seals,
// though there is nothing yet to agree about it by.
func TestPostgresBegunByMany(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	onPostgres(t, dir, postgrestest.Shared(t).Database(t))
	dirs := []string{dir, sibling(t, dir, "second"), sibling(t, dir, "third")}
	all := make([]*process, len(dirs))
	for i, d := range dirs {
		all[i] = launch(t, "serve", "--config", filepath.Join(d, "keyhole.yaml"))
	}
	for i, p := range all {
		if p.await(); p.api == "" {
			t.Fatalf("%s: status %d\n%s", dirs[i], p.wait(), p.log)
		}
	}
	createKey(t, all[0].caller(dir, "admin.jwt"), "payments", "ES256")
	for i, p := range all {
		eventually(t, "everybody knows the key", func() bool { return canSign(t.Context(), p.caller(dir, "agent.jwt"), "payments") == nil })
		if n := p.logged("altered"); n > 0 {
			t.Errorf("%s finds something altered:\n%s", dirs[i], p.log)
		}
		p.stop()
	}
	// What each has sealed, each believes.
	for _, d := range dirs {
		gateway(t, d).stop()
	}
}

// With PostgreSQL down a start waits as long as it is told to, and says why.
func TestPostgresDownAtStart(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t, postgrestest.Options{})
	dir := prepared(t)
	onPostgres(t, dir, server.Database(t), "  start_wait: 1h")
	other := sibling(t, dir, "other")
	configure(t, other, "start_wait: 1h", "start_wait: 0s")
	gateway(t, dir).stop()

	server.Stop(t)
	hasty := serve(t, other)
	if status := hasty.wait(); status != exit.Store || !strings.Contains(hasty.log.String(), "nobody listens there") || !strings.Contains(hasty.log.String(), "store.start_wait") {
		t.Errorf("status %d, want %d\n%s", status, exit.Store, hasty.log)
	}
	file := filepath.Join(dir, "keyhole.yaml")
	waiting := launch(t, "serve", "--config", file)
	waiting.log.waitFor(t, waiting, func(log string) bool { return strings.Contains(log, "the store cannot be opened; trying again") })
	waiting.signal(syscall.SIGTERM)
	if status := waiting.wait(); status != exit.OK {
		t.Errorf("stopped while it waits: status %d\n%s", status, waiting.log)
	}
	waiting = launch(t, "serve", "--config", file)
	waiting.log.waitFor(t, waiting, func(log string) bool { return strings.Contains(log, "the store cannot be opened; trying again") })
	server.Start(t)
	if waiting.await(); waiting.api == "" {
		t.Fatalf("status %d\n%s", waiting.wait(), waiting.log)
	}
	waiting.stop()
	if n := waiting.logged("nobody listens there"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}

// The store is lost and comes back, twice, once in order and once without a
// word: requests go on, changes are refused at once and say when to come
// again, the gateway stays ready, each loss is told once, and all goes on by
// itself.
func TestPostgresLost(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t, postgrestest.Options{})
	dir := prepared(t)
	onPostgres(t, dir, server.Database(t), "  max_staleness: 1h")
	p := gateway(t, dir)
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	agent := p.caller(dir, "agent.jwt")
	for i, end := range []func(testing.TB){server.Stop, server.Crash} {
		if err := canSign(t.Context(), agent, "payments"); err != nil { // and what it counts is reserved
			t.Fatal(err)
		}
		end(t)
		p.metric(`keyhole_store_mode{mode="witness"} 1`)
		if err := canSign(t.Context(), agent, "payments"); err != nil {
			t.Errorf("without the store: %v", err)
		}
		// Whom nothing was reserved for is counted in a file.
		newcomer := p.holder(dir, []string{"agent", "admin"}[i])
		if _, err := newcomer.Sign(t.Context(), "payments", api.SignRequest{Payload: []byte("x")}); err != nil {
			t.Errorf("by a newcomer, without the store: %v", err)
		}
		status, body := p.get("/readyz")
		if status != http.StatusOK || !strings.Contains(body, "degraded") || !strings.Contains(body, `"ready":true`) {
			t.Errorf("readyz without the store: %d %s", status, body)
		}
		if status, retry, body := p.change(dir, "payments"); status != http.StatusServiceUnavailable || retry == "" || !strings.Contains(body, "store_unavailable") {
			t.Errorf("a change without the store: %d, Retry-After %q, %s", status, retry, body)
		}
		server.Start(t)
		p.metric(`keyhole_store_mode{mode="store"} 1`)
		eventually(t, "changes are made again", func() bool { status, _, _ := p.change(dir, "payments"); return status == http.StatusOK })
		if status, body := p.get("/readyz"); status != http.StatusOK || strings.Contains(body, "degraded") {
			t.Errorf("readyz: %d %s", status, body)
		}
		if n := p.logged("the store is lost"); n != i+1 {
			t.Errorf("the loss is told %d times, want %d\n%s", n, i+1, p.log)
		}
		if n := p.logged("the store is back"); n != i+1 {
			t.Errorf("the end of the loss is told %d times, want %d", n, i+1)
		}
	}
	p.stop()
	quiet(t, p)
	usage, err := gateway(t, dir).caller(dir, "admin.jwt").Usage(t.Context(), "payments")
	if err != nil || usage.Versions[0].Operations < 6 {
		t.Errorf("6 signatures are counted as %+v, %v", usage, err)
	}
}

// quiet fails the test if a line of warning was said more often than there
// were outages: a loop that says so each time fills the disk.
func quiet(t *testing.T, p *process) {
	t.Helper()
	said := map[string]int{}
	for line := range strings.Lines(p.log.String()) {
		if m := regexp.MustCompile(`level=(?:WARN|ERROR) msg=("[^"]*"|\S+)`).FindStringSubmatch(line); m != nil {
			said[m[1]]++
		}
	}
	for msg, n := range said {
		if n > 3 {
			t.Errorf("%s was said %d times in two outages:\n%s", msg, n, p.log)
		}
	}
}

// Where tokens and store are silent keys are not used, and the gateway says
// that it is not ready.
func TestPostgresStale(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t, postgrestest.Options{})
	dir := prepared(t)
	onPostgres(t, dir, server.Database(t), "  max_staleness: 3s")
	p := gateway(t, dir)
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	server.Pause(t)
	p.metric(`keyhole_store_mode{mode="stale"} 1`)
	if err := canSign(t.Context(), p.caller(dir, "agent.jwt"), "payments"); err == nil {
		t.Error("a key is used that may be revoked")
	}
	if status, body := p.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "silent for") {
		t.Errorf("readyz: %d %s", status, body)
	}
	server.Resume(t)
	eventually(t, "keys are used again", func() bool { return canSign(t.Context(), p.caller(dir, "agent.jwt"), "payments") == nil })
	p.stop()
}

// A second gateway under a name is refused and told what to do; so is the
// first one, should it have been asleep while another took its name.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	onPostgres(t, dir, postgrestest.Shared(t).Database(t))
	twin := sibling(t, dir, "twin")
	configure(t, twin, "node: twin\n", "node: dev\n")
	a := gateway(t, dir)
	second := serve(t, twin)
	if status := second.wait(); status != exit.Config || !strings.Contains(second.log.String(), "hint: give each gateway a name of its own") {
		t.Errorf("status %d, want %d\n%s", status, exit.Config, second.log)
	}
	createKey(t, a.caller(dir, "admin.jwt"), "payments", "ES256")

	a.signal(syscall.SIGSTOP)
	second = gateway(t, twin) // waits until the name is free
	a.signal(syscall.SIGCONT)
	if status := a.wait(); status != exit.Config || !strings.Contains(a.log.String(), "hint: give each gateway a name of its own") {
		t.Errorf("status %d, want %d\n%s", status, exit.Config, a.log)
	}
	if err := canSign(t.Context(), second.caller(dir, "agent.jwt"), "payments"); err != nil {
		t.Error(err)
	}
	second.stop()
}

// The commands for a time without gateways are refused while there are any,
// by their names, and work on PostgreSQL when there are none.
func TestCommandsOnPostgres(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	db := postgrestest.Shared(t).Database(t)
	onPostgres(t, dir, db)
	other := sibling(t, dir, "other")
	file := filepath.Join(dir, "keyhole.yaml")
	if status, _, errOut := toTheEnd(t, "reconcile", "--config", file); status != exit.Store {
		t.Errorf("reconcile on an empty database: status %d\n%s", status, errOut)
	}
	p := gateway(t, other)
	admin := p.caller(dir, "admin.jwt")
	createKey(t, admin, "payments", "ES256")
	if _, err := admin.BlockAgent(t.Context(), "jwt:dev:mallory", "a test"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"adopt"}, {"adopt", "--dry-run"}, {"reconcile"}, {"reconcile", "--dry-run"}} {
		status, _, errOut := toTheEnd(t, append(args, "--config", file)...)
		if status != exit.Store || !strings.Contains(errOut, "gateways run on this database: other") || !strings.Contains(errOut, "hint: stop the gateway first") {
			t.Errorf("%v beside a gateway: status %d\n%s", args, status, errOut)
		}
	}
	p.stop()
	if status, out, errOut := toTheEnd(t, "reconcile", "--config", file); status != exit.OK || !strings.Contains(out, "They agree.") {
		t.Errorf("reconcile: status %d\n%s%s", status, out, errOut)
	}

	// Somebody alters a key, and the list of blocked principals.
	sql := db.Admin(t)
	for _, statement := range []string{"UPDATE keys SET description = 'mine' WHERE name = 'payments'", "UPDATE sealed SET body = '[]'"} {
		if _, err := sql.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if status, out, errOut := toTheEnd(t, "adopt", "--config", file, "--dry-run"); status != exit.OK || !strings.Contains(out, "would be taken") || !strings.Contains(out, "nobody is blocked") {
		t.Errorf("adopt --dry-run: status %d\n%s%s", status, out, errOut)
	}
	refused := serve(t, dir)
	if status := refused.wait(); status != exit.Store || !strings.Contains(refused.log.String(), "keyholed adopt") {
		t.Errorf("a gateway serves over an altered list of blocked principals after a dry run: status %d\n%s", status, refused.log)
	}
	if status, out, errOut := toTheEnd(t, "adopt", "--config", file); status != exit.OK || !strings.Contains(out, "1 key was taken") {
		t.Errorf("adopt: status %d\n%s%s", status, out, errOut)
	}
	p = gateway(t, dir)
	if err := canSign(t.Context(), p.caller(dir, "agent.jwt"), "payments"); err != nil {
		t.Errorf("after adopt: %v", err)
	}
	p.stop()

	// The database is lost as a whole.
	empty := postgrestest.Shared(t).Database(t)
	configure(t, dir, db.TLSURL, empty.TLSURL)
	configure(t, dir, db.PasswordFile, empty.PasswordFile)
	if status, out, errOut := toTheEnd(t, "adopt", "--config", file); status != exit.OK || !strings.Contains(out, "payments.v1") {
		t.Errorf("adopt into an empty database: status %d\n%s%s", status, out, errOut)
	}
	p = gateway(t, dir)
	if _, err := p.caller(dir, "agent.jwt").Sign(t.Context(), "payments", api.SignRequest{Payload: []byte("x")}); err != nil {
		t.Errorf("after adopt into an empty database: %v", err)
	}
	p.stop()
}

// A database that belongs to another token is refused, and nothing is made on
// the token that it does not belong to.
func TestPostgresOfAnotherToken(t *testing.T) {
	t.Parallel()
	dir, foreign := prepared(t), prepared(t)
	db := postgrestest.Shared(t).Database(t)
	onPostgres(t, dir, db)
	onPostgres(t, foreign, db)
	p := gateway(t, dir)
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	p.stop()
	for range 2 { // a key that the first start had made would change the second
		p := serve(t, foreign)
		if status := p.wait(); status != exit.Store || !strings.Contains(p.log.String(), "cannot be checked") || !strings.Contains(p.log.String(), "hint: see that tokens[]") {
			t.Errorf("status %d, want %d\n%s", status, exit.Store, p.log)
		}
	}
	p = gateway(t, dir)
	if err := canSign(t.Context(), p.caller(dir, "agent.jwt"), "payments"); err != nil {
		t.Error(err)
	}
	p.stop()
}

// The same for SQLite: a file that is gone for a while refuses changes, and
// takes no gateway out of a balancer.
func TestSQLiteLost(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	p := gateway(t, dir)
	createKey(t, p.caller(dir, "admin.jwt"), "payments", "ES256")
	file := filepath.Join(dir, "keyhole.db")
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	if status, body := p.get("/readyz"); status != http.StatusOK || !strings.Contains(body, "degraded") {
		t.Errorf("readyz without the file: %d %s", status, body)
	}
	if status, retry, body := p.change(dir, "payments"); status != http.StatusServiceUnavailable || retry == "" {
		t.Errorf("a change without the file: %d, Retry-After %q, %s", status, retry, body)
	}
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "changes are made again", func() bool { status, _, _ := p.change(dir, "payments"); return status == http.StatusOK })
	if status, body := p.get("/readyz"); status != http.StatusOK || strings.Contains(body, "degraded") {
		t.Errorf("readyz: %d %s", status, body)
	}
	p.stop()
}
