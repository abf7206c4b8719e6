package rest_test

import (
	"encoding/base64"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/gateway/rest"
	"keyhole/keys"
	"keyhole/store"
	"keyhole/store/postgrestest"
)

// down is what a call answers while the store is down.
type down struct {
	status int
	code   string // "" of a success
}

var (
	goesOn  = down{status: 200}
	refused = down{status: 503, code: "store_unavailable"}
)

// storeDown is the answer of each call while the store is down: what is
// served from the snapshot, the HSM and the audit log goes on, everything
// else is refused, and nothing is half done.
var storeDown = map[string]down{
	"POST /v1/keys/{key}/sign":                             goesOn,
	"POST /v1/keys/{key}/verify":                           goesOn,
	"POST /v1/keys/{key}/encrypt":                          goesOn,
	"POST /v1/keys/{key}/decrypt":                          goesOn,
	"POST /v1/keys/{key}/sign/batch":                       goesOn,
	"POST /v1/keys/{key}/verify/batch":                     goesOn,
	"POST /v1/keys/{key}/encrypt/batch":                    goesOn,
	"POST /v1/keys/{key}/decrypt/batch":                    goesOn,
	"POST /v1/keys/{key}/datakey":                          goesOn,
	"POST /v1/keys/{key}/rewrap":                           goesOn,
	"POST /v1/keys/{key}/rewrap/batch":                     goesOn,
	"POST /v1/random":                                      goesOn,
	"GET /v1/jwks.json":                                    goesOn,
	"GET /v1/keys/{key}/jwks.json":                         goesOn,
	"GET /v1/status.json":                                  goesOn,
	"GET /v1/keys/{key}/status.json":                       goesOn,
	"GET /v1/keys":                                         goesOn,
	"GET /v1/keys/{key}":                                   goesOn,
	"GET /v1/whoami":                                       goesOn,
	"GET /v1/openapi.yaml":                                 goesOn,
	"GET /v1/events":                                       goesOn, // it waits; see TestStoreDown
	"GET /v1/subscriptions":                                refused,
	"PUT /v1/subscriptions/{key}":                          refused,
	"DELETE /v1/subscriptions/{key}":                       refused,
	"POST /v1/keys/{key}/versions/{version}/ack":           refused,
	"POST /v1/admin/keys":                                  refused,
	"PATCH /v1/admin/keys/{key}":                           refused,
	"POST /v1/admin/keys/{key}/rotate":                     refused,
	"POST /v1/admin/keys/{key}/versions/{version}/suspend": refused,
	"POST /v1/admin/keys/{key}/versions/{version}/resume":  refused,
	"POST /v1/admin/keys/{key}/versions/{version}/revoke":  refused,
	"POST /v1/admin/keys/{key}/versions/{version}/destroy": refused,
	"POST /v1/admin/keys/{key}/versions/{version}/restore": refused,
	"DELETE /v1/admin/keys/{key}":                          refused,
	"POST /v1/admin/keys/{key}/restore":                    refused,
	"GET /v1/admin/keys/{key}/usage":                       refused,
	"GET /v1/admin/rotations":                              refused,
	"GET /v1/admin/rotations/{id}":                         refused,
	"POST /v1/admin/rotations/{id}/activate":               refused,
	"POST /v1/admin/rotations/{id}/abort":                  refused,
	"GET /v1/admin/agents":                                 refused,
	"GET /v1/admin/agents/{id}":                            refused,
	"POST /v1/admin/agents/{id}/block":                     refused,
	"POST /v1/admin/agents/{id}/unblock":                   refused,
	"GET /v1/admin/approvals":                              refused,
	"GET /v1/admin/approvals/{id}":                         refused,
	"POST /v1/admin/approvals/{id}/approve":                refused,
	"POST /v1/admin/approvals/{id}/reject":                 refused,
	"POST /v1/admin/triggers/{name}":                       refused,
	"POST /v1/admin/reconcile":                             refused,
	"GET /v1/admin/webhooks":                               refused,
	"POST /v1/admin/webhooks/{name}/retry":                 refused,
	"GET /v1/admin/nodes":                                  refused,
	"GET /v1/admin/audit":                                  goesOn,
	"GET /v1/admin/audit/checkpoint":                       goesOn,
	"GET /v1/admin/audit/proof/{seq}":                      goesOn,
	"GET /v1/audit-keys.pem":                               goesOn,
}

// outage is a gateway over a PostgreSQL of its own, that can be stopped.
type outage struct {
	*site
	server *postgrestest.Server
	hidden []string // what no answer may tell
	bodies map[string]string
	after  uint64 // the last event
}

func newOutage(t *testing.T) *outage {
	t.Helper()
	server := postgrestest.Start(t, postgrestest.Options{})
	d := server.Database(t)
	db, err := store.OpenPostgres(t.Context(), store.PostgresConfig{
		URL: d.URL, Password: func() ([]byte, error) { return os.ReadFile(d.PasswordFile) }, Timeout: 5 * time.Second,
	}, []byte("32 bytes to seal rows of a test."))
	must(t, err)
	o := &outage{server: server, hidden: []string{server.Addr, server.SocketDir, d.Name, d.User, d.Password, "SQLSTATE", "pgx", "dial"}}
	o.site = newKitOn(t, db, store.CacheConfig{MaxStaleness: time.Hour}, withHooks(t), func(k *kit) {
		k.gateway.Triggers = map[string]gateway.Trigger{"alarm": {Keys: []string{"payments", "orders"}, Reason: keys.ReasonCompromise}}
	}).serve(t)
	o.populate(t)
	o.prepare(t)
	return o
}

// prepare makes what the calls are about.
func (o *outage) prepare(t *testing.T) {
	t.Helper()
	admin := o.as(t, "admin")
	sig := read[api.SignResponse](admin.post("/v1/keys/payments/sign", `{"payload":"eA=="}`).want(200))
	sealed := read[api.EncryptResponse](admin.post("/v1/keys/orders/encrypt", `{"plaintext":"eA=="}`).want(200))
	admin.put("/v1/subscriptions/payments").want(200)
	r := read[api.Rotation](admin.rotate("hidden"))
	admin.get("/v1/admin/audit/checkpoint?fresh=true").want(200)
	verify := `{"payload":"eA==","version":1,"signature":"` + base64.StdEncoding.EncodeToString(sig.Signature) + `"}`
	decrypt := `{"ciphertext":"` + sealed.Ciphertext + `"}`
	o.bodies = map[string]string{
		"sign": `{"payload":"eA=="}`, "verify": verify, "encrypt": `{"plaintext":"eA=="}`, "decrypt": decrypt, "rewrap": decrypt,
		"datakey": `{}`, "random": `{"bytes":8}`, "keys": `{"name":"new","algorithm":"ES256"}`, "PATCH": `{"description":"new"}`, "rotation": r.ID,
	}
}

// request returns what is sent to a route.
func (o *outage) request(r rest.Route) (method, path, body string) {
	words := strings.Split(strings.TrimSuffix(r.Template, "/batch"), "/")
	last := words[len(words)-1]
	key := "payments"
	switch last {
	case "encrypt", "decrypt", "datakey", "rewrap":
		key = "orders"
	}
	path = strings.NewReplacer("{key}", key, "{version}", "1", "{id}", o.bodies["rotation"], "{name}", "alarm", "{seq}", "0").Replace(r.Template)
	switch {
	case strings.Contains(path, "webhooks/"):
		path = "/v1/admin/webhooks/chat/retry"
	case last == "checkpoint":
		path += "?fresh=true"
	}
	if r.Method == http.MethodGet || r.Method == http.MethodDelete || r.Method == http.MethodPut {
		return r.Method, path, ""
	}
	body = o.bodies[last]
	switch {
	case r.Method == http.MethodPatch:
		body = o.bodies["PATCH"]
	case r.Batch:
		body = `{"items":[` + body + `]}`
	case body == "":
		body = `{}`
	}
	return r.Method, path, body
}

// check sends every call, all at once, and compares with storeDown.
func (o *outage) check(t *testing.T, phase string, hangs bool) {
	t.Helper()
	admin := o.as(t, "admin")
	var wg sync.WaitGroup
	for i, r := range rest.Routes() {
		name := r.Method + " " + r.Template
		want, ok := storeDown[name]
		if !ok {
			t.Errorf("it is not said what %s answers while the store is down", name)
			continue
		}
		if r.Template == "/v1/events" {
			admin.follow("/v1/events?after=" + strconv.FormatUint(o.after, 10)).close()
			continue
		}
		wg.Go(func() {
			method, path, body := o.request(r)
			caller := admin
			if r.Once != 0 && i%2 == 0 { // some of them
				caller = admin.set("Idempotency-Key", phase+strconv.Itoa(i))
			}
			var sent io.Reader
			if body != "" {
				sent = strings.NewReader(body)
			}
			res := caller.do(method, path, sent)
			if res.status != want.status {
				t.Errorf("%s, %s: %d %s, want %d", phase, res.what, res.status, res.body, want.status)
				return
			}
			if want.code != "" {
				code := want.code
				if hangs && strings.Contains(string(res.body), `"timeout"`) {
					code = "timeout" // an act ends before the store's answer is given up
				}
				res.refused(want.status, code)
				if n, err := strconv.Atoi(res.header.Get("Retry-After")); err != nil || n < 1 {
					t.Errorf("%s, %s: Retry-After %q", phase, res.what, res.header.Get("Retry-After"))
				}
			}
			for _, secret := range o.hidden {
				if strings.Contains(string(res.body), secret) {
					t.Errorf("%s, %s tells %q: %s", phase, res.what, secret, res.body)
				}
			}
		})
	}
	wg.Wait()
}

// TestStoreDown: PostgreSQL is stopped, and later stands still. Each call
// answers as the table says, within its time; nothing is half done; streams
// outlive it; and when it is back everything goes on, without a restart.
func TestStoreDown(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	admin := o.as(t, "admin")
	stream := admin.follow("/v1/events")
	admin.rotate("payments")
	o.after = last(stream.until("version.activated")).ID
	before := read[api.Key](admin.get("/v1/keys/payments").want(200))

	o.server.Stop(t)
	o.check(t, "stopped", false)
	o.server.Start(t)
	o.works(t)
	o.server.Pause(t)
	o.check(t, "paused", true)
	o.server.Resume(t)
	o.works(t)

	if after := read[api.Key](admin.get("/v1/keys/payments").want(200)); after.ActiveVersion != before.ActiveVersion || after.Epoch != before.Epoch {
		t.Errorf("something was done: %+v, and before %+v", after, before)
	}
	admin.get("/v1/keys/new").refused(404, "key_not_found")
	r := read[api.Rotation](admin.rotate("payments"))
	for name, f := range map[string]*follower{"a stream from before": stream, "a resumed one": admin.set("Last-Event-ID", strconv.FormatUint(o.after, 10)).follow("/v1/events")} {
		if e := last(f.until("version.activated")); e.Rotation != r.ID || e.ID <= o.after {
			t.Errorf("%s: %+v, want one of rotation %s", name, e, r.ID)
		}
		f.close()
	}
	admin.post("/v1/admin/triggers/alarm", `{}`).want(202)
	admin.get("/v1/admin/keys/payments/usage").want(200)
}

// works waits until a change can be made.
func (o *outage) works(t *testing.T) {
	t.Helper()
	admin := o.as(t, "admin")
	eventually(t, "changes are made again", func() bool {
		res := admin.patch("/v1/admin/keys/hidden", `{"description":"`+time.Now().String()+`"}`)
		return res.status == 200
	})
	eventually(t, "usage is counted in the store again", func() bool { return !o.gateway.Usage.(interface{ Outage() bool }).Outage() })
}

func last(events []api.Event) api.Event { return events[len(events)-1] }
