package rest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/audit/audittest"
	"keyhole/authz"
	"keyhole/authz/authztest"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/gateway/rest"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
	"keyhole/usage"
)

const policies = `
@id("admins") permit (principal in Group::"admins", action, resource);
@id("agents") permit (
  principal in Group::"agents",
  action in [Action::"sign", Action::"verify", Action::"encrypt", Action::"decrypt", Action::"rewrap",
             Action::"datakey", Action::"random", Action::"read", Action::"jwks", Action::"subscribe"],
  resource
) unless { resource.hasTag("secret") };
@id("signers") permit (principal == Agent::"mtls:signer", action == Action::"sign", resource);
@id("readers") permit (principal == Agent::"jwt:corp:reader", action == Action::"read", resource);
@id("open") permit (principal == Agent::"anonymous", action == Action::"jwks", resource == Key::"open");
@id("monitor") permit (principal == Agent::"jwt:corp:siem", action == Action::"trigger", resource == Trigger::"alarm");
`

// kit is a gateway over real parts, all but the HSM, which is in memory.
type kit struct {
	hsm      *hsmtest.Faulty
	store    *memory
	engine   *rotation.Engine
	issuer   *authztest.Issuer
	ca       *authztest.CA
	auditDir string
	voucher  *audittest.Voucher
	log      *syncBuffer // of the gateway
	access   *syncBuffer
	cfg      rest.Config
	gateway  gateway.Config
	shape    func(*http.Server) // nil: as NewServer makes it
	observed observed
}

// memory is the real store, which can be made to forget what it is told of
// attempts: as if the process had died before it got so far. And it can fail
// to commit.
type memory struct {
	store.Store
	mu        sync.Mutex
	cut       bool
	failed    error
	uncommits bool
	hangs     bool
}

func (m *memory) EventRange(ctx context.Context) (oldest, newest uint64, err error) {
	m.mu.Lock()
	hangs := m.hangs
	m.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return 0, 0, ctx.Err()
	}
	return m.Store.EventRange(ctx)
}

// hang has the event stream hang from now on, or not.
func (m *memory) hang(hangs bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hangs = hangs
}

func (m *memory) Commit(ctx context.Context, c store.Change) error {
	m.mu.Lock()
	fails := m.uncommits
	m.mu.Unlock()
	if fails {
		return keys.ErrStore
	}
	return m.Store.Commit(ctx, c)
}

// fail has every commit fail from now on, or none.
func (m *memory) fail(fails bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uncommits = fails
}

func (m *memory) dead() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cut {
		return m.failed
	}
	return nil
}

func (m *memory) die(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut, m.failed = err != nil, err
}

func (m *memory) FinishAttempt(ctx context.Context, principal, key string, status int, body []byte) error {
	if err := m.dead(); err != nil {
		return err
	}
	return m.Store.FinishAttempt(ctx, principal, key, status, body)
}

func (m *memory) ForgetAttempt(ctx context.Context, principal, key string) error {
	if err := m.dead(); err != nil {
		return err
	}
	return m.Store.ForgetAttempt(ctx, principal, key)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

type observation struct {
	route, method string
	code          int
}

type observed struct {
	mu  sync.Mutex
	all []observation
}

func (o *observed) observe(route, method string, code int, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, observation{route, method, code})
}

func (o *observed) last() observation {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) == 0 {
		return observation{}
	}
	return o.all[len(o.all)-1]
}

// newKit assembles the parts; changes may alter the configurations.
func newKit(t testing.TB, changes ...func(*kit)) *kit {
	t.Helper()
	sqlite, err := store.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "keyhole.db"), []byte("32 bytes to seal rows of a test."))
	must(t, err)
	return newKitOn(t, sqlite, store.CacheConfig{}, changes...)
}

// newKitOn is newKit over a store, which it closes.
func newKitOn(t testing.TB, db store.Store, caching store.CacheConfig, changes ...func(*kit)) *kit {
	t.Helper()
	dir := t.TempDir()
	k := &kit{
		hsm: hsmtest.NewFaulty(hsmtest.NewMemory(hsmtest.MemoryOptions{})), auditDir: filepath.Join(dir, "audit"),
		issuer: authztest.NewIssuer(t, "corp", "ES256"), ca: authztest.NewCA(t, "agents", time.Now()), log: &syncBuffer{}, access: &syncBuffer{},
	}
	logger := slog.New(slog.NewTextHandler(k.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	k.store = &memory{Store: db}
	records, err := audit.Open(audit.Config{Dir: k.auditDir, Node: "test", Log: logger})
	must(t, err)
	caching.Log = logger
	cache := store.NewCache(k.store, caching)
	must(t, cache.Refresh(t.Context()))
	meter := usage.New(usage.Config{Store: db, Node: "test", Dir: k.auditDir, Log: logger})
	must(t, meter.Load(t.Context()))
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = cache.Run(ctx) })
	wg.Go(func() { _ = meter.Run(ctx) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
		must(t, records.Close())
		must(t, db.Close())
	})
	k.engine = rotation.New(rotation.Config{Store: k.store, Token: k.hsm, Audit: records, Usage: meter, Keys: cache.Keys, Refresh: cache.Refresh, Log: logger})
	policyFile := filepath.Join(dir, "test.cedar")
	must(t, os.WriteFile(policyFile, []byte(policies), 0o600))
	decider, err := authz.LoadPolicies(policyFile)
	must(t, err)
	k.voucher = audittest.New(t)
	who, err := authz.NewAuthenticator(t.Context(), authz.Config{Issuers: []authz.Issuer{k.issuer.File(t)}, Log: logger})
	must(t, err)
	k.gateway = gateway.Config{
		Crypto: k.hsm, Snapshots: cache, Audit: records, Policy: decider, Authenticator: who, Lifecycle: k.engine, Usage: meter, Store: k.store, Log: logger,
		AuditLog: k.voucher.Lookup(records, k.auditDir),
		Limits:   authz.NewLimiter(authz.LimiterConfig{FailedLoginBurst: 10000, FailedOperationBurst: 10000}),
	}
	k.cfg = rest.Config{Log: logger, Access: slog.New(slog.NewJSONHandler(k.access, nil)), Observe: k.observed.observe}
	for _, change := range changes {
		change(k)
	}
	return k
}

// site is a gateway that serves, and a caller who checks each answer against
// the contract.
type site struct {
	*kit
	url    string
	client *http.Client
	server *httptest.Server
}

// serve starts a gateway over the parts. Called again, it is the gateway
// after a restart.
func (k *kit) serve(t testing.TB) *site {
	t.Helper()
	cfg := k.cfg
	cfg.Service = gateway.New(k.gateway)
	server := httptest.NewUnstartedServer(nil)
	server.Config = rest.NewServer(rest.New(cfg), nil, k.cfg.Log)
	if k.shape != nil {
		k.shape(server.Config)
	}
	server.EnableHTTP2 = true
	pool := x509.NewCertPool()
	pool.AddCert(k.ca.Cert)
	server.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool, MinVersion: tls.VersionTLS13}
	server.StartTLS()
	t.Cleanup(server.Close)
	client := server.Client()
	client.Transport = &contract{t: t, next: client.Transport}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &site{kit: k, url: server.URL, client: client, server: server}
}

// start is a gateway with a signing key "payments", an encryption key
// "orders", both at version 1, and "hidden", which agents may not see.
func start(t testing.TB, changes ...func(*kit)) *site {
	t.Helper()
	s := newKit(t, changes...).serve(t)
	s.populate(t)
	return s
}

// populate makes the keys of start.
func (s *site) populate(t testing.TB) {
	t.Helper()
	admin := s.as(t, "admin")
	for _, body := range []string{
		`{"name":"payments","algorithm":"ES256"}`, `{"name":"orders","algorithm":"A256GCM"}`,
		`{"name":"hidden","algorithm":"ES256","tags":{"secret":"yes"}}`,
	} {
		admin.post("/v1/admin/keys", body).want(201)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// caller sends requests under one set of credentials.
type caller struct {
	t      testing.TB
	s      *site
	header http.Header
	client *http.Client
}

// as returns a caller with a token: "admin" and "boss" are in the group
// admins, "agent" in agents, everybody else in none.
func (s *site) as(t testing.TB, subject string) *caller {
	t.Helper()
	claims := s.issuer.Claims(subject, time.Now())
	switch subject {
	case "admin", "boss":
		claims["groups"] = []string{"admins"}
	case "agent":
		claims["groups"] = []string{"agents"}
	}
	c := s.nobody(t)
	c.header.Set("Authorization", "Bearer "+s.issuer.Token(t, claims))
	return c
}

// nobody is a caller without credentials.
func (s *site) nobody(t testing.TB) *caller {
	return &caller{t: t, s: s, header: http.Header{}, client: s.client}
}

// with is a caller who shows a client certificate of that common name.
func (s *site) with(t testing.TB, name string) *caller {
	t.Helper()
	cert, _ := s.ca.Issue(t, x509.Certificate{Subject: pkix.Name{CommonName: name}}, time.Now())
	transport := s.server.Client().Transport.(*contract).next.(*http.Transport).Clone()
	transport.TLSClientConfig.Certificates = []tls.Certificate{cert}
	t.Cleanup(transport.CloseIdleConnections)
	c := s.nobody(t)
	c.client = &http.Client{Transport: &contract{t: t, next: transport}}
	return c
}

func (c *caller) set(name, value string) *caller {
	d := *c
	d.header = c.header.Clone()
	d.header[http.CanonicalHeaderKey(name)] = append(d.header[http.CanonicalHeaderKey(name)], value)
	return &d
}

func (c *caller) get(path string) *response { return c.do(http.MethodGet, path, nil) }

func (c *caller) post(path, body string) *response {
	return c.do(http.MethodPost, path, strings.NewReader(body))
}

// do sends a body as JSON unless the caller has another type set.
func (c *caller) do(method, path string, body io.Reader) *response {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.s.url+path, body)
	must(c.t, err)
	req.Header = c.header.Clone()
	if body != nil && req.Header["Content-Type"] == nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.client.Do(req)
	must(c.t, err)
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	must(c.t, err)
	return &response{t: c.t, status: res.StatusCode, header: res.Header, body: got, what: method + " " + path}
}

type response struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   []byte
}

// want checks the status.
func (r *response) want(status int) *response {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("%s: %d %s, want %d", r.what, r.status, r.body, status)
	}
	return r
}

// refused checks the status and code of a problem and returns its detail.
func (r *response) refused(status int, code string) string {
	r.t.Helper()
	var p api.Problem
	if err := json.Unmarshal(r.body, &p); err != nil || r.status != status || p.Status != status || p.Code != code {
		r.t.Errorf("%s: %d %s, want %d %s", r.what, r.status, r.body, status, code)
	}
	if p.RequestID != r.header.Get("X-Request-Id") {
		r.t.Errorf("%s: request id %q in the body, %q in the header", r.what, p.RequestID, r.header.Get("X-Request-Id"))
	}
	return p.Detail
}

// read decodes the body.
func read[T any](r *response) T {
	r.t.Helper()
	var v T
	dec := json.NewDecoder(bytes.NewReader(r.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		r.t.Fatalf("%s: %s: %v", r.what, r.body, err)
	}
	return v
}

// records returns the audit log as it is now.
func (k *kit) records(t testing.TB) []audit.Record {
	t.Helper()
	var all []audit.Record
	for rec, err := range audit.Read(k.auditDir) {
		must(t, err)
		all = append(all, rec)
	}
	return all
}

// recorded returns the records of one request.
func (k *kit) recorded(t testing.TB, r *response) []audit.Record {
	t.Helper()
	var all []audit.Record
	for _, rec := range k.records(t) {
		if rec.RequestID == r.header.Get("X-Request-Id") {
			all = append(all, rec)
		}
	}
	return all
}
