package rotation_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/audit/lookup"
	"keyhole/hsm/hsmtest"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
	"keyhole/store/postgrestest"
	"keyhole/usage"
)

// tb is what a kit tells of failures: a test, or one run of a property.
type tb interface {
	Helper()
	Context() context.Context
	Errorf(format string, args ...any)
	Error(args ...any)
	Fatalf(format string, args ...any)
	Fatal(args ...any)
	Failed() bool
}

// kit is an engine over its real parts: SQLite, the snapshot cache, the
// audit log, the meter of uses. Only the HSM is in memory.
type kit struct {
	*rotation.Engine
	t           tb
	hsm         *hsmtest.Memory
	faulty      *hsmtest.Faulty
	store       store.Store
	openStore   func(seal []byte) // makes store and leases; nil: SQLite
	leases      *sql.DB           // another connection to the database
	cache       *store.Cache
	log         *audit.Log
	meter       *usage.Meter
	dir         string       // of the log
	db          string       // the database
	offset      atomic.Int64 // of the clock
	propagation time.Duration
	ahead       time.Duration // of the clock of engines that are made from now on
}

var alice = rotation.Actor{Principal: "jwt:corp:alice", AuthMethod: "jwt", RequestID: "req-1"}

func newKit(t *testing.T) *kit {
	t.Helper()
	k := &kit{t: t}
	k.open(t, t.TempDir(), t.Cleanup)
	return k
}

// open makes the parts under dir.
func (k *kit) open(t tb, dir string, cleanup func(func())) {
	t.Helper()
	k.hsm, k.dir = hsmtest.NewMemory(hsmtest.MemoryOptions{}), filepath.Join(dir, "audit")
	k.faulty = hsmtest.NewFaulty(k.hsm)
	discard := slog.New(slog.DiscardHandler)
	seal, err := k.hsm.StoreKey(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	k.db = filepath.Join(dir, "keyhole.db")
	if k.openStore == nil {
		k.openStore = k.sqlite
	}
	k.openStore(seal)
	cleanup(func() { k.store.Close() })
	if k.log, err = audit.Open(audit.Config{Dir: k.dir, Node: "node", Log: discard, Now: k.now}); err != nil {
		t.Fatal(err)
	}
	cleanup(func() { k.log.Close() })
	k.meter = usage.New(usage.Config{Store: k.store, Node: "node", Now: k.now, Log: discard})
	if err := k.meter.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.reload()
}

// sqlite opens a store on SQLite.
func (k *kit) sqlite(seal []byte) {
	k.t.Helper()
	s, err := store.OpenSQLite(k.t.Context(), k.db, seal)
	k.must(err)
	k.store = s
}

// newPostgresKit is newKit on PostgreSQL.
func newPostgresKit(t *testing.T) *kit {
	t.Helper()
	d := postgrestest.Shared(t).Database(t)
	k := &kit{t: t, leases: d.Admin(t)}
	k.openStore = func(seal []byte) {
		s, err := store.OpenPostgres(t.Context(), store.PostgresConfig{
			URL: d.URL, Password: func() ([]byte, error) { return os.ReadFile(d.PasswordFile) }, Timeout: time.Minute,
		}, seal)
		k.must(err)
		k.store = s
	}
	k.open(t, t.TempDir(), t.Cleanup)
	return k
}

// kits makes a kit for each kind of store.
var kits = map[string]func(t *testing.T) *kit{"SQLite": newKit, "PostgreSQL": newPostgresKit}

// reload is a restart, some time after the process ended: everything in
// memory is read anew.
func (k *kit) reload() {
	k.t.Helper()
	k.lapse()
	k.cache = store.NewCache(k.store, store.CacheConfig{Log: slog.New(slog.DiscardHandler)})
	k.must(k.cache.Refresh(k.t.Context()))
	k.Engine = k.engine(nil)
}

// lapse lets all leases lapse, as if what they last had passed for those who
// have them.
func (k *kit) lapse() {
	k.t.Helper()
	db := k.leases
	if db == nil {
		var err error
		db, err = sql.Open("sqlite", "file:"+k.db+"?_pragma=busy_timeout(30000)")
		k.must(err)
		defer db.Close()
	}
	_, err := db.ExecContext(k.t.Context(), "UPDATE leases SET until = 0")
	k.must(err)
}

// engine returns another engine over the same parts, as after a restart;
// change may put something in front of them.
func (k *kit) engine(change func(c *rotation.Config)) *rotation.Engine {
	ahead := k.ahead
	c := rotation.Config{
		Store: k.store, Token: k.faulty, Audit: k.log, History: lookup.New(lookup.Config{Dir: k.dir, Log: k.log}), Usage: k.meter, Keys: k.cache.Keys, Refresh: k.cache.Refresh, Now: func() time.Time { return k.now().Add(ahead) },
		Propagation: k.propagation, Limits: keys.Limits{MinPeriod: time.Minute, MinDestroyDelay: time.Hour}, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&c)
	}
	return rotation.New(c)
}

func (k *kit) now() time.Time { return time.Now().Add(time.Duration(k.offset.Load())) }

func (k *kit) pass(d time.Duration) { k.offset.Add(int64(d)) }

// create makes an ES256 key.
func (k *kit) create(name string, p keys.Policy) *keys.Key {
	k.t.Helper()
	key, err := k.CreateKey(k.t.Context(), alice, rotation.Spec{Name: name, Algorithm: keys.ES256, Policy: p})
	if err != nil {
		k.t.Fatal(err)
	}
	return key
}

func (k *kit) rotate(name string) {
	k.t.Helper()
	if _, err := k.Rotate(k.t.Context(), alice, name, rotation.RotateSpec{Reason: keys.ReasonManual}); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kit) tick() {
	k.t.Helper()
	if err := k.Tick(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kit) key(name string) *keys.Key {
	k.t.Helper()
	key, err := k.store.Key(k.t.Context(), name)
	if err != nil {
		k.t.Fatal(err)
	}
	return key
}

// active returns the number of the active version, 0 for none.
func (k *kit) active(name string) uint32 {
	k.t.Helper()
	if v := k.key(name).ActiveAt(k.now()); v != nil {
		return v.Number
	}
	return 0
}

// consistent checks what must hold whenever nothing is under way: no
// rotation is open, the HSM holds the objects of exactly the versions that
// are generated and not destroyed, and each of them works.
func (k *kit) consistent() {
	k.t.Helper()
	ctx := k.t.Context()
	open, err := k.store.Rotations(ctx, store.RotationFilter{OpenOnly: true})
	if err != nil {
		k.t.Fatal(err)
	}
	for _, r := range open {
		k.t.Errorf("rotation %s to version %d is open, %s", r.ID, r.To, r.Phase)
	}
	all, _, err := k.store.Load(ctx)
	if err != nil {
		k.t.Fatal(err)
	}
	want := []string{}
	for _, key := range all {
		for _, v := range key.Versions {
			if v.CreatedAt.IsZero() || !v.DestroyedAt.IsZero() {
				continue
			}
			want = append(want, key.ID(v).String())
			if _, err := k.hsm.Sign(ctx, key.Ref(v), make([]byte, 32)); err != nil {
				k.t.Errorf("version %s does not sign: %v", key.ID(v), err)
			}
		}
	}
	got := k.hsm.Objects()
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		k.t.Errorf("the HSM holds %v, the store knows of %v", got, want)
	}
}

// records returns the audit log.
func (k *kit) records() (all []audit.Record) {
	k.t.Helper()
	for r, err := range audit.Read(k.dir) {
		if err != nil {
			k.t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// listing is a store that lets something happen when open rotations have
// been listed, before the caller sees the list.
type listing struct {
	store.Store
	then func()
}

func (l *listing) Rotations(ctx context.Context, f store.RotationFilter) ([]*keys.Rotation, error) {
	all, err := l.Store.Rotations(ctx, f)
	l.then()
	return all, err
}

// mortal is a process that dies at one of its steps outward: the step is not
// done, or it is done and nobody is told. From then on nothing works.
type mortal struct {
	mu    sync.Mutex
	steps int
	at    int // dies at this step
	done  bool
	dead  bool

	// Instead of dying it falls asleep, if there is a wake, until that is
	// closed, and then goes on as if nothing had happened.
	asleep, wake chan struct{}
	slept        bool
}

// sleep is what takes the place of death.
func (m *mortal) sleep() {
	m.mu.Lock()
	first := !m.slept
	m.slept = true
	m.mu.Unlock()
	if first {
		close(m.asleep)
		<-m.wake
	}
}

var errDead = errors.New("the process is dead")

func (m *mortal) step(do func() error) error {
	m.mu.Lock()
	m.steps++
	dying := m.steps == m.at
	if dying && m.wake != nil {
		m.mu.Unlock()
		if !m.done {
			m.sleep()
			return do()
		}
		err := do()
		m.sleep()
		return err
	}
	if m.dead || dying && !m.done {
		m.dead = true
		m.mu.Unlock()
		return errDead
	}
	m.mu.Unlock()
	err := do()
	if dying {
		m.mu.Lock()
		m.dead = true
		m.mu.Unlock()
		return errDead
	}
	return err
}

// arm lets the process die at the step with the given number from now on.
func (m *mortal) arm(at int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps, m.at = 0, at
}

// look is step for what only reads: dying after it is dying before the next.
func (m *mortal) look(read func() error) error {
	m.mu.Lock()
	dead := m.dead
	m.mu.Unlock()
	switch {
	case dead:
		return errDead
	case m.done:
		return read()
	}
	return m.step(read)
}

func (m *mortal) change(c *rotation.Config) {
	c.Store, c.Token, c.Audit = mortalStore{c.Store, m}, mortalToken{c.Token, m}, mortalAudit{c.Audit, m}
}

type mortalStore struct {
	rotation.Store
	m *mortal
}

func (s mortalStore) Commit(ctx context.Context, c store.Change) error {
	return s.m.step(func() error { return s.Store.Commit(ctx, c) })
}

func (s mortalStore) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, err error) {
	err = s.m.step(func() error { held, err = s.Store.AcquireLease(ctx, name, holder, ttl); return err })
	return held && err == nil, err
}

func (s mortalStore) ReleaseLease(ctx context.Context, name, holder string) error {
	return s.m.step(func() error { return s.Store.ReleaseLease(ctx, name, holder) })
}

func (s mortalStore) Rotation(ctx context.Context, id string) (r *keys.Rotation, err error) {
	err = s.m.look(func() error { r, err = s.Store.Rotation(ctx, id); return err })
	return r, err
}

func (s mortalStore) Key(ctx context.Context, name string) (k *keys.Key, err error) {
	err = s.m.look(func() error { k, err = s.Store.Key(ctx, name); return err })
	return k, err
}

type mortalToken struct {
	rotation.Token
	m *mortal
}

func (s mortalToken) Generate(ctx context.Context, ref keys.Ref) (g keys.Generated, err error) {
	err = s.m.step(func() error { g, err = s.Token.Generate(ctx, ref); return err })
	return g, err
}

func (s mortalToken) MarkRevoked(ctx context.Context, ref keys.Ref, id keys.VersionID, at time.Time) error {
	return s.m.step(func() error { return s.Token.MarkRevoked(ctx, ref, id, at) })
}

func (s mortalToken) Destroy(ctx context.Context, ref keys.Ref) error {
	return s.m.step(func() error { return s.Token.Destroy(ctx, ref) })
}

type mortalAudit struct {
	rotation.Auditor
	m *mortal
}

func (s mortalAudit) Append(ctx context.Context, recs ...audit.Record) (first uint64, err error) {
	err = s.m.step(func() error { first, err = s.Auditor.Append(ctx, recs...); return err })
	return first, err
}

// must is for calls that cannot fail here.
func (k *kit) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// begin begins a rotation that waits, and returns it.
func (k *kit) begin(name string, s rotation.RotateSpec) *keys.Rotation {
	k.t.Helper()
	if s.Reason == "" {
		s.Reason = keys.ReasonManual
	}
	r, err := k.Rotate(k.t.Context(), alice, name, s)
	if err != nil {
		k.t.Fatal(err)
	}
	return r
}

// latest returns a key's latest rotation.
func (k *kit) latest(name string) *keys.Rotation {
	k.t.Helper()
	all, err := k.store.Rotations(k.t.Context(), store.RotationFilter{Key: name, Limit: 1})
	if err != nil || len(all) == 0 {
		k.t.Fatalf("no rotation of key %s: %v", name, err)
	}
	return all[0]
}

// phase checks how far a key's latest rotation is.
func (k *kit) phase(name string, want keys.Phase) *keys.Rotation {
	k.t.Helper()
	r := k.latest(name)
	if r.Phase != want {
		k.t.Fatalf("the rotation of key %s is %s, want %s: %+v", name, r.Phase, want, r)
	}
	return r
}

// state returns the state of a version.
func (k *kit) state(name string, n uint32) keys.State {
	k.t.Helper()
	key := k.key(name)
	v, err := key.Version(n)
	if err != nil {
		k.t.Fatal(err)
	}
	return key.StateAt(v, k.now())
}

// subscribe enters agents that were seen just now.
func (k *kit) subscribe(name string, agents ...string) {
	k.t.Helper()
	for _, a := range agents {
		k.must(k.store.SeeAgents(k.t.Context(), []store.Sighting{{Principal: a, At: k.now()}}))
		_, err := k.store.Subscribe(k.t.Context(), keys.Subscription{Key: name, Principal: a, Since: k.now()})
		k.must(err)
	}
}

func (k *kit) ack(name string, n uint32, agents ...string) {
	k.t.Helper()
	for _, a := range agents {
		_, err := k.store.Acknowledge(k.t.Context(), keys.Ack{Key: name, Version: n, Principal: a, At: k.now()})
		k.must(err)
	}
}

// used counts uses of a version, as another gateway has stored them.
func (k *kit) used(u keys.Usage) {
	k.t.Helper()
	u.Principal = "jwt:corp:agent"
	k.must(k.store.ReserveUsage(k.t.Context(), "other-node", []keys.Usage{u}))
	meter := usage.New(usage.Config{Store: k.store, Node: "node", Now: k.now, Log: slog.New(slog.DiscardHandler)})
	k.must(meter.Load(k.t.Context()))
	k.meter = meter
	k.Engine = k.engine(nil)
}

// notices returns the types of what was told of a key, with the versions.
func (k *kit) notices(name string) (all []string) {
	k.t.Helper()
	events, err := k.store.Events(k.t.Context(), 0, 10_000)
	k.must(err)
	for _, n := range events {
		if n.Key == name {
			all = append(all, fmt.Sprintf("%s %d", n.Type, n.Version))
		}
	}
	return all
}

// told checks the latest notices of a key.
func (k *kit) told(name string, want ...string) {
	k.t.Helper()
	all := k.notices(name)
	if got := all[max(0, len(all)-len(want)):]; !slices.Equal(got, want) {
		k.t.Errorf("key %s: told %v, want %v at the end", name, all, want)
	}
}

// outcome returns the last record of an action on a key that is no intent.
func (k *kit) outcome(name, action string) audit.Record {
	k.t.Helper()
	all := k.records()
	for _, r := range slices.Backward(all) {
		if r.Key == name && r.Action == action && r.Outcome != audit.OutcomeIntent {
			return r
		}
	}
	k.t.Fatalf("no outcome of %s on key %s", action, name)
	return audit.Record{}
}

// until waits for something that another goroutine brings about.
func (k *kit) until(done func() bool) {
	k.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			k.t.Fatal("it did not happen")
		}
	}
}
