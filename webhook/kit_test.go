package webhook_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
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

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/store"
	"keyhole/usage"
	"keyhole/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen. Nothing is
// measured by it.
const patience = time.Minute

// world is everything that a dispatcher works with, but for the HSM real.
type world struct {
	t     *testing.T
	db    *store.SQLite
	cache *store.Cache
	hsm   *hsmtest.Memory
	audit *audit.Log
	dir   string // of the audit log
	meter *usage.Meter
	log   *syncBuffer
	clock *clock
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	db, err := store.OpenSQLite(t.Context(), filepath.Join(dir, "keyhole.db"), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Config{Dir: filepath.Join(dir, "audit"), Node: "test"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, db: db, cache: store.NewCache(db, store.CacheConfig{}), hsm: hsmtest.NewMemory(hsmtest.MemoryOptions{Tokens: []string{"main"}}),
		audit: log, dir: filepath.Join(dir, "audit"), log: &syncBuffer{}, clock: &clock{},
		meter: usage.New(usage.Config{Store: db, Node: "test"}),
	}
	t.Cleanup(func() {
		if err := errors.Join(log.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	w.create("hooks", keys.ES256)
	return w
}

// clock is the time, and what a test adds to it.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

func (w *world) commit(c store.Change) {
	w.t.Helper()
	if err := errors.Join(w.db.Commit(w.t.Context(), c), w.cache.Refresh(w.t.Context())); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) generate(k *keys.Key, n uint32) {
	w.t.Helper()
	now := time.Now().UTC().Truncate(time.Microsecond).Add(-time.Second)
	v := &keys.Version{Number: n, ObjectID: keys.NewObjectID(), Algorithm: k.Algorithm, Bits: k.Bits, ReservedAt: now}
	gen, err := w.hsm.Generate(w.t.Context(), k.Ref(v))
	if err != nil {
		w.t.Fatal(err)
	}
	v.PublicKey, v.Check, v.NeverExtractable, v.AlwaysSensitive = gen.PublicKey, gen.Check, gen.NeverExtractable, gen.AlwaysSensitive
	v.CreatedAt, v.AnnouncedAt, v.ActivateAt, v.ActivatedAt = now, now, now, now
	k.Versions = append(k.Versions, v)
}

// create makes a key with one active version.
func (w *world) create(name string, alg keys.Algorithm) {
	w.t.Helper()
	bits, err := alg.KeyBits(0)
	if err != nil {
		w.t.Fatal(err)
	}
	k := &keys.Key{Name: name, Purpose: alg.Purpose(), Algorithm: alg, Bits: bits, Token: "main", Epoch: 1, CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
	w.generate(k, 1)
	w.commit(store.Change{Key: k})
}

// change commits the next epoch of a key, with notices.
func (w *world) change(name string, edit func(k *keys.Key), notices ...keys.Notice) {
	w.t.Helper()
	k, err := w.db.Key(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	from := k.Epoch
	k.Epoch++
	k.Description += "."
	if edit != nil {
		edit(k)
	}
	w.commit(store.Change{Key: k, FromEpoch: from, Notices: notices})
}

// notice writes one event about version 1 of a key.
func (w *world) notice(key string, typ keys.NoticeType) {
	w.t.Helper()
	now := time.Now().UTC().Truncate(time.Microsecond)
	w.change(key, nil, keys.Notice{Type: typ, At: now, Key: key, Version: 1, When: now, Reason: "manual"})
}

// config returns a configuration without hooks, quick to try again.
func (w *world) config(hooks ...webhook.Hook) webhook.Config {
	return webhook.Config{
		Hooks: hooks, Store: w.db, Changed: w.cache.Changed, Poll: 10 * time.Millisecond, FirstPause: time.Millisecond, Now: w.clock.now,
		Signer: webhook.Signer{Crypto: w.hsm, Snapshots: w.cache, Audit: w.audit, Usage: w.meter},
		Log:    slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// start runs a dispatcher until stop or the test's end.
func (w *world) start(c webhook.Config) (d *webhook.Dispatcher, stop func()) {
	w.t.Helper()
	d, err := webhook.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := d.Load(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	w.t.Cleanup(stop)
	return d, stop
}

// one returns where the only webhook stands.
func (w *world) one(d *webhook.Dispatcher) api.Webhook {
	w.t.Helper()
	all, err := d.List(w.t.Context())
	if err != nil || len(all) != 1 {
		w.t.Fatalf("List = %v, %v", all, err)
	}
	return all[0]
}

func (w *world) jwks() *jose.JSONWebKeySet {
	w.t.Helper()
	snap, err := w.cache.Snapshot()
	if err != nil {
		w.t.Fatal(err)
	}
	set := &jose.JSONWebKeySet{}
	for _, k := range snap.Keys() {
		for _, v := range k.Versions {
			if len(v.PublicKey) == 0 {
				continue
			}
			pub, err := x509.ParsePKIXPublicKey(v.PublicKey)
			if err != nil {
				w.t.Fatal(err)
			}
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: pub, KeyID: k.ID(v).String(), Algorithm: string(v.Algorithm), Use: "sig"})
		}
	}
	return set
}

// got is one request as a receiver saw it.
type got struct {
	header http.Header
	body   []byte
	event  api.Event
}

func (g got) delivery() string { return g.header.Get("Keyhole-Delivery") }

// receiver is an endpoint. What answer says is what it answers.
type receiver struct {
	t      *testing.T
	server *httptest.Server
	hook   webhook.Hook
	all    chan got

	mu     sync.Mutex
	answer func(w http.ResponseWriter, g got)
}

// secret is in the path of every URL.
const secret = "T0psecretpath"

func newReceiver(t *testing.T, answer func(w http.ResponseWriter, g got)) *receiver {
	t.Helper()
	r := &receiver{t: t, answer: answer, all: make(chan got, 1000)}
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return // the sender left
		}
		g := got{header: req.Header, body: body}
		if err := json.Unmarshal(body, &g.event); err != nil || req.Method != http.MethodPost || req.URL.Path != "/"+secret {
			t.Errorf("%s %s with the body %q: %v", req.Method, req.URL, body, err)
		}
		r.all <- g
		r.mu.Lock()
		answer := r.answer
		r.mu.Unlock()
		if answer != nil {
			answer(w, g)
		}
	}))
	r.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	r.server.StartTLS()
	t.Cleanup(r.server.Close)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	r.hook = webhook.Hook{Name: "siem", URL: r.server.URL + "/" + secret, SigningKey: "hooks", CAFile: ca, Timeout: patience}
	return r
}

func (r *receiver) answers(answer func(w http.ResponseWriter, g got)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func status(code int) func(http.ResponseWriter, got) {
	return func(w http.ResponseWriter, _ got) { w.WriteHeader(code) }
}

// next returns the next request.
func (r *receiver) next() got {
	r.t.Helper()
	select {
	case g := <-r.all:
		return g
	case <-time.After(patience):
		r.t.Fatal("nothing was delivered")
		return got{}
	}
}

// verify checks a delivery as a receiver does, and returns the kid.
func verify(t *testing.T, set *jose.JSONWebKeySet, hook string, g got) string {
	t.Helper()
	jws, err := jose.ParseDetached(g.header.Get("Keyhole-Signature"), g.body, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.PS256, jose.EdDSA, jose.ES384})
	if err != nil {
		t.Fatalf("%q: %v", g.header.Get("Keyhole-Signature"), err)
	}
	h := jws.Signatures[0].Protected
	found := set.Key(h.KeyID)
	if len(found) != 1 {
		t.Fatalf("%d keys of the set are %s", len(found), h.KeyID)
	}
	if err := jws.DetachedVerify(g.body, found[0].Key); err != nil {
		t.Errorf("the signature by %s does not verify: %v", h.KeyID, err)
	}
	if err := jws.DetachedVerify(append([]byte(" "), g.body...), found[0].Key); err == nil {
		t.Error("the signature verifies another body")
	}
	if h.Algorithm != found[0].Algorithm || h.ExtraHeaders["typ"] != "keyhole-event" || h.ExtraHeaders["aud"] != hook || h.ExtraHeaders["jti"] != g.delivery() {
		t.Errorf("the header is %+v", h)
	}
	at, ok := h.ExtraHeaders["iat"].(float64)
	if d := time.Since(time.Unix(int64(at), 0)); !ok || d < -time.Minute || d > time.Hour {
		t.Errorf("iat is %v", h.ExtraHeaders["iat"])
	}
	return h.KeyID
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// recorded returns the audit records that hold every one of parts.
func (w *world) recorded(parts ...string) (found []string) {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "*.jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			w.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			has := true
			for _, p := range parts {
				has = has && strings.Contains(line, p)
			}
			if has {
				found = append(found, line)
			}
		}
	}
	return found
}
