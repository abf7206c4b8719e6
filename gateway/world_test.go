package gateway_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keyhole/audit"
	"keyhole/audit/audittest"
	"keyhole/authz"
	"keyhole/authz/authztest"
	"keyhole/gateway"
	"keyhole/gateway/api"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
	"keyhole/usage"
)

// world is a gateway core over its real parts: SQLite, the snapshot cache,
// the audit log, Cedar policies, tokens, the rotation engine. Only the HSM is
// in memory, and can be made to fail.
type world struct {
	config gateway.Config
	*gateway.Service
	t     *testing.T
	hsm   *hsmtest.Faulty
	store *store.SQLite
	cache *store.Cache
	log   *audit.Log
	dir   string // of the log
	dbDir string // of the store
	// snapshots is what the Service has for a cache.
	snapshots *snapshots
	engine    *rotation.Engine
	usage     *usage.Meter
	issuer    *authztest.Issuer
	offset    atomic.Int64 // of the clock
	read      int          // records seen by news
}

// policies of the world: admins may do everything; agents use the keys of
// their team; auditors see every key; signers sign small things.
const policies = `
@id("admins") permit(principal in Group::"admins", action, resource);
@id("agents") permit(
  principal in Group::"agents",
  action in [Action::"sign", Action::"verify", Action::"encrypt", Action::"decrypt", Action::"rewrap", Action::"datakey", Action::"read", Action::"jwks", Action::"list-rotations", Action::"subscribe"],
  resource is Key
) when { resource.hasTag("team") && resource.getTag("team") == "pay" };
@id("random") permit(principal in Group::"agents", action in [Action::"random", Action::"jwks"], resource is Gateway);
@id("auditors") permit(principal in Group::"auditors", action == Action::"read", resource);
@id("late") permit(principal in Group::"late", action in [Action::"decrypt", Action::"verify"], resource) when { context.version_state == "deactivated" };
@id("small") permit(principal in Group::"small", action == Action::"sign", resource) when { context.payload_size <= 8 };
@id("movers") permit(principal in Group::"movers", action in [Action::"read", Action::"update-key"], resource is Key)
  when { resource.hasTag("team") && resource.getTag("team") == "pay" };
@id("everybody") permit(principal, action == Action::"verify", resource is Key) when { resource.hasTag("open") };
@id("clerks") permit(principal in Group::"clerks", action == Action::"list-approvals", resource);
@id("wardens") permit(principal in Group::"wardens", action == Action::"list-agents", resource);
@id("plumbers") permit(principal in Group::"plumbers", action in [Action::"list-webhooks", Action::"retry-webhook"], resource);
@id("inspectors") permit(principal in Group::"inspectors", action == Action::"read-audit", resource);
@id("saviors") permit(principal in Group::"saviors", action == Action::"recover", resource is Key);
@id("destroyers") permit(principal in Group::"destroyers", action in [Action::"read", Action::"destroy"], resource is Key);
@id("siem") permit(principal in Group::"siem", action == Action::"trigger", resource == Trigger::"leak");
@id("public") permit(principal, action == Action::"jwks", resource is Key) when { resource.hasTag("public") };
`

// snapshots lets a test exchange the cache, as a restart does.
type snapshots struct{ *store.Cache }

type option func(*gateway.Config, *store.CacheConfig)

func newWorld(t *testing.T, opts ...option) *world {
	t.Helper()
	ctx, discard := t.Context(), slog.New(slog.DiscardHandler)
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "audit"), hsm: hsmtest.NewFaulty(hsmtest.NewMemory(hsmtest.MemoryOptions{}))}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.dbDir = t.TempDir()
	w.store, err = store.OpenSQLite(ctx, filepath.Join(w.dbDir, "keyhole.db"), []byte("32 bytes to seal rows of a test."))
	must(err)
	t.Cleanup(func() { w.store.Close() })
	w.log, err = audit.Open(audit.Config{Dir: w.dir, Node: "node", Log: discard, Now: w.now})
	must(err)
	t.Cleanup(func() { w.log.Close() })
	policyFile := filepath.Join(t.TempDir(), "p.cedar")
	must(os.WriteFile(policyFile, []byte(policies), 0o600))
	policy, err := authz.LoadPolicies(policyFile)
	must(err)
	w.issuer = authztest.NewIssuer(t, "corp", "ES256")
	authenticator, err := authz.NewAuthenticator(ctx, authz.Config{Issuers: []authz.Issuer{w.issuer.File(t)}, Log: discard, Now: w.now})
	must(err)

	caching := store.CacheConfig{Now: w.now, Log: discard}
	c := gateway.Config{
		Crypto: w.hsm, Audit: w.log, Policy: policy, Authenticator: authenticator, Store: w.store, Now: w.now, Log: discard,
		AuditLog: audittest.New(t).Lookup(w.log, w.dir),
	}
	for _, o := range opts {
		o(&c, &caching)
	}
	w.cache = store.NewCache(w.store, caching)
	must(w.cache.Refresh(ctx))
	w.snapshots = &snapshots{w.cache}
	c.Snapshots = w.snapshots
	w.usage = usage.New(usage.Config{Store: w.store, Node: "node", Now: w.now, Log: discard})
	must(w.usage.Load(ctx))
	if c.Usage == nil {
		c.Usage = w.usage
	}
	w.engine = rotation.New(rotation.Config{
		Store: w.store, Token: w.hsm, Audit: w.log, Usage: w.usage, Keys: w.cache.Keys, Refresh: w.cache.Refresh, Now: w.now, Log: discard,
	})
	c.Lifecycle = w.engine
	w.Service, w.config = gateway.New(c), c
	return w
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

// as is a request of somebody in the given groups.
func as(name string, groups ...string) gateway.Request {
	return gateway.Request{
		ID: "req-" + name, Source: netip.MustParseAddr("192.0.2.7"),
		Caller: authz.Principal{ID: "jwt:corp:" + name, Method: authz.MethodJWT, Groups: groups},
	}
}

// tick lets time pass, and the engine do what is due then.
func (w *world) tick(d time.Duration) {
	w.t.Helper()
	w.offset.Add(int64(d))
	if err := errors.Join(w.cache.Refresh(w.t.Context()), w.engine.Tick(w.t.Context()), w.cache.Refresh(w.t.Context())); err != nil {
		w.t.Fatal(err)
	}
}

// flush writes what is counted and who was seen, as the end of a gateway does.
func (w *world) flush() {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	stop()
	if err := w.usage.Run(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// see has principals seen now.
func (w *world) see(principals ...string) {
	w.t.Helper()
	for _, p := range principals {
		if err := w.store.SeeAgents(w.t.Context(), []store.Sighting{{Principal: p, At: w.now()}}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// also is a request under a second identity too.
func also(r gateway.Request, certificate string) gateway.Request {
	r.Caller.Method, r.Caller.Also = authz.MethodJWTMTLS, certificate
	return r
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

var (
	admin   = as("root", "admins")
	alice   = as("alice", "agents")
	auditor = as("eve", "auditors")
	nobody  = as("mallory")
	second  = as("susan", "admins")
)

// key makes a key of alice's team.
func (w *world) key(name string, alg keys.Algorithm, tags ...string) api.Key {
	w.t.Helper()
	in := api.CreateKeyRequest{Name: name, Algorithm: string(alg), Tags: map[string]string{"team": "pay"}}
	if alg.Family() == keys.FamilyRSA {
		in.Bits = 2048
	}
	for _, tag := range tags {
		in.Tags[tag] = "yes"
	}
	return of(w.CreateKey(w.t.Context(), admin, in)).ok(w.t)
}

func (w *world) rotate(name string) {
	w.t.Helper()
	of(w.Rotate(w.t.Context(), admin, name, api.RotateRequest{})).ok(w.t)
	w.offset.Add(int64(time.Millisecond))
}

// change edits a key in the store as some later feature would.
func (w *world) change(name string, edit func(*keys.Key)) {
	w.t.Helper()
	k, err := w.store.Key(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	from := k.Epoch
	edit(k)
	k.Epoch++
	if err := errors.Join(w.store.Commit(w.t.Context(), store.Change{Key: k, FromEpoch: from}), w.cache.Refresh(w.t.Context())); err != nil {
		w.t.Fatal(err)
	}
}

// commit puts a key into the store that did not come there by the engine.
func (w *world) commit(k *keys.Key) {
	w.t.Helper()
	if err := errors.Join(w.store.Commit(w.t.Context(), store.Change{Key: k}), w.cache.Refresh(w.t.Context())); err != nil {
		w.t.Fatal(err)
	}
}

// news returns the records since the last call.
func (w *world) news() []audit.Record {
	w.t.Helper()
	var recs []audit.Record
	for r, err := range audit.Read(w.dir) {
		if err != nil {
			w.t.Fatal(err)
		}
		recs = append(recs, r)
	}
	n := w.read
	w.read = len(recs)
	return recs[n:]
}

// record returns the one record since the last call.
func (w *world) record() audit.Record {
	w.t.Helper()
	recs := w.news()
	if len(recs) != 1 {
		w.t.Fatalf("%d records, want 1: %+v", len(recs), recs)
	}
	return recs[0]
}

// result is what an operation returned.
type result[T any] struct {
	v   T
	err error
}

func of[T any](v T, err error) result[T] { return result[T]{v, err} }

// ok returns the value, which came without error.
func (r result[T]) ok(t *testing.T) T {
	t.Helper()
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.v
}

// fails checks the kind of the error, and that nothing came with it.
func (r result[T]) fails(t *testing.T, kind error) {
	t.Helper()
	if !errors.Is(r.err, kind) {
		t.Errorf("error is %v, want %v", r.err, kind)
	}
	var zero T
	if !cmp.Equal(r.v, zero) {
		t.Errorf("there is an error, and a result: %+v", r.v)
	}
}
