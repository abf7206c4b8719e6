package rotation_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// TestMachine lets people, agents, the clock and crashes do what they like to
// a key, in any order, and looks after each step that what was promised
// holds: never two active versions, never none unless people took all out,
// numbers and objects never used again, a compromised version never back, one
// rotation at a time, and what is active works.
func TestMachine(t *testing.T) {
	t.Parallel()
	machines(t, 0)
}

// TestMachines is TestMachine with three gateways over one store and token,
// whose clocks differ and whose snapshots are behind.
func TestMachines(t *testing.T) {
	t.Parallel()
	machines(t, 0, 2*time.Second, -2*time.Second)
}

func machines(t *testing.T, clocks ...time.Duration) {
	t.Helper()
	rapid.Check(t, func(rt *rapid.T) {
		if stride > 1 && rapid.IntRange(0, 11).Draw(rt, "race") != 0 {
			return // fewer of them
		}
		dir, err := os.MkdirTemp(t.TempDir(), "machine")
		if err != nil {
			rt.Fatal(err)
		}
		k := &kit{t: rt, propagation: rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(rt, "propagation")}
		k.open(rt, dir, rt.Cleanup)
		m := &machine{kit: k, rt: rt, ids: map[uint32]keys.ObjectID{}, since: map[uint32]time.Time{}}
		for _, ahead := range clocks {
			k.ahead = ahead
			k.reload()
			m.fleet = append(m.fleet, gateway{k.Engine, k.cache, ahead})
		}
		k.create("payments", m.policy())
		rt.Repeat(m.actions())
		m.end()
	})
}

// machine is what is known of the key from outside.
type machine struct {
	*kit
	rt    *rapid.T
	ids   map[uint32]keys.ObjectID // of every number that was seen
	since map[uint32]time.Time     // of every version that is compromised
	out   bool                     // people may have taken every version out
	fleet []gateway
}

// gateway is one of several processes.
type gateway struct {
	*rotation.Engine
	cache *store.Cache
	ahead time.Duration
}

// on lets something happen on one of the gateways, whose snapshot may be
// behind.
func (m *machine) on(act func()) {
	at := 0
	if len(m.fleet) > 1 {
		at = rapid.IntRange(0, len(m.fleet)-1).Draw(m.rt, "gateway")
	}
	g := m.fleet[at]
	m.Engine, m.cache, m.ahead = g.Engine, g.cache, g.ahead
	if len(m.fleet) > 1 && rapid.Bool().Draw(m.rt, "fresh") {
		m.must(m.cache.Refresh(m.t.Context()))
	}
	act()
	m.fleet[at] = gateway{m.Engine, m.cache, m.ahead} // a new one, if it has started again
}

func (m *machine) policy() keys.Policy {
	hours := func(name string, of ...int) time.Duration {
		return time.Duration(rapid.SampledFrom(of).Draw(m.rt, name)) * time.Hour
	}
	p := keys.Policy{Period: hours("period", 0, 48), Announce: hours("announce", 0, 2)}
	if rapid.Bool().Draw(m.rt, "acks") {
		p.Acks = keys.Acks{
			Require: keys.AckAll, Timeout: hours("timeout", 1, 4), AbsentAfter: hours("absent", 3, 100),
			OnTimeout: rapid.SampledFrom([]keys.OnTimeout{keys.TimeoutAbort, keys.TimeoutActivate}).Draw(m.rt, "on timeout"),
		}
	}
	return p
}

// may lets an act be refused for what the key's state forbids, and for
// nothing else.
func (m *machine) may(err error) bool {
	m.t.Helper()
	for _, refusal := range []error{keys.ErrVersionState, keys.ErrVersionNotFound, keys.ErrRotationRunning, keys.ErrConflict, keys.ErrNotSubscribed} {
		if errors.Is(err, refusal) {
			return false
		}
	}
	m.must(err)
	return true
}

func (m *machine) version() uint32 {
	return rapid.Uint32Range(1, m.key("payments").Latest().Number).Draw(m.rt, "version")
}

func (m *machine) agent() string {
	return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(m.rt, "agent")
}

func (m *machine) actions() map[string]func(*rapid.T) {
	do := func(act func()) func(*rapid.T) {
		return func(rt *rapid.T) { m.rt, m.t = rt, rt; m.on(act) }
	}
	return map[string]func(*rapid.T){
		"": do(m.check),
		"rotate": do(func() {
			s := rotation.RotateSpec{Reason: rapid.SampledFrom([]keys.Reason{keys.ReasonManual, keys.ReasonCompromise}).Draw(m.rt, "reason")}
			if s.Reason == keys.ReasonManual && rapid.Bool().Draw(m.rt, "coordinated") {
				s.ActivateAt = m.now().Add(time.Duration(rapid.IntRange(3, 9).Draw(m.rt, "hours")) * time.Hour)
			}
			_, err := m.Rotate(m.t.Context(), alice, "payments", s)
			m.may(err)
		}),
		"time passes": do(func() {
			m.pass(time.Duration(rapid.SampledFrom([]int{1, 60, 120, 240, 3000}).Draw(m.rt, "minutes")) * time.Minute)
		}),
		"the timer": do(m.tick),
		"the clock is set back": do(func() {
			m.pass(-time.Duration(rapid.SampledFrom([]int{1, 60, 3000}).Draw(m.rt, "minutes")) * time.Minute)
		}),
		"subscribe":   do(func() { m.subscribe("payments", m.agent()) }),
		"unsubscribe": do(func() { m.must(m.store.Unsubscribe(m.t.Context(), "payments", m.agent())) }),
		"acknowledge": do(func() {
			_, err := m.store.Acknowledge(m.t.Context(), keys.Ack{Key: "payments", Version: m.version(), Principal: m.agent(), At: m.now()})
			m.may(err)
		}),
		"suspend": do(func() {
			_, err := m.Suspend(m.t.Context(), alice, "payments", m.version(), "")
			m.out = m.may(err) || m.out
		}),
		"resume": do(func() {
			_, err := m.Resume(m.t.Context(), alice, "payments", m.version(), "")
			m.may(err)
		}),
		"revoke": do(func() {
			_, err := m.Revoke(m.t.Context(), alice, "payments", m.version(), "")
			m.may(err)
		}),
		"force": do(func() {
			_, err := m.ActivateRotation(m.t.Context(), bob, m.latest("payments").ID, "")
			m.may(err)
		}),
		"abort": do(func() {
			_, err := m.AbortRotation(m.t.Context(), bob, m.latest("payments").ID, "")
			m.may(err)
		}),
		"update": do(func() {
			p := m.policy()
			if _, err := m.UpdateKey(m.t.Context(), alice, "payments", rotation.Update{Policy: &p}); err != nil && !errors.Is(err, keys.ErrInvalid) {
				m.t.Fatal(err)
			}
		}),
		"restart": do(func() {
			m.reload()
			m.must(m.Recover(m.t.Context()))
		}),
		"crash": do(func() {
			dying := &mortal{at: rapid.IntRange(1, 20).Draw(m.rt, "step"), done: rapid.Bool().Draw(m.rt, "done")}
			e := m.engine(dying.change)
			switch rapid.IntRange(0, 3).Draw(m.rt, "in") {
			case 0:
				_ = e.Tick(m.t.Context())
			case 1:
				_, _ = e.Rotate(m.t.Context(), alice, "payments", rotation.RotateSpec{Reason: keys.ReasonManual})
			case 2:
				_, _ = e.Revoke(m.t.Context(), alice, "payments", m.version(), "")
			case 3:
				_, _ = e.AbortRotation(m.t.Context(), bob, m.latest("payments").ID, "")
			}
			if other := m.fleet[len(m.fleet)-1]; rapid.Bool().Draw(m.rt, "another goes on") {
				m.must(other.cache.Refresh(m.t.Context()))
				m.must(other.Tick(m.t.Context()))
			}
			m.reload()
			m.must(m.Recover(m.t.Context()))
		}),
	}
}

// check looks at the key from outside.
func (m *machine) check() {
	key, now := m.key("payments"), m.now()
	active := 0
	for i, v := range key.Versions {
		state := key.StateAt(v, now)
		if state == keys.Active {
			active++
			if _, err := m.hsm.Sign(m.t.Context(), key.Ref(v), make([]byte, 32)); err != nil {
				m.t.Fatalf("version %d is active and does not sign: %v", v.Number, err)
			}
		}
		if v.Number != uint32(i+1) {
			m.t.Fatalf("version %d stands in place %d", v.Number, i+1)
		}
		if v.CreatedAt.IsZero() {
			continue // in the making: whoever takes it over gives it another one
		}
		if id, ok := m.ids[v.Number]; ok && id != v.ObjectID {
			m.t.Fatalf("version %d is another object", v.Number)
		}
		for n, id := range m.ids {
			if id == v.ObjectID && n != v.Number {
				m.t.Fatalf("versions %d and %d are one object", n, v.Number)
			}
		}
		m.ids[v.Number] = v.ObjectID
		if at, ok := m.since[v.Number]; ok && (state != keys.Compromised || !v.RevokedAt.Equal(at)) {
			m.t.Fatalf("version %d was compromised, and is %s", v.Number, state)
		}
		if state == keys.Compromised {
			m.since[v.Number] = v.RevokedAt
		}
	}
	if len(key.Versions) < len(m.ids) {
		m.t.Fatalf("%d versions, and there were %d", len(key.Versions), len(m.ids))
	}
	if active > 1 || active == 0 && !m.out {
		m.t.Fatalf("%d versions are active: %s", active, m.states(key))
	}
	if active == 1 {
		// Nothing is out any more but what is suspended.
		m.out = slices.ContainsFunc(key.Versions, func(v *keys.Version) bool { return !v.SuspendedAt.IsZero() })
	}
}

func (m *machine) states(key *keys.Key) (all []string) {
	for _, v := range key.Versions {
		all = append(all, fmt.Sprintf("%d %s", v.Number, key.StateAt(v, m.now())))
	}
	return all
}

// end lets all that is under way come to its end.
func (m *machine) end() {
	m.t = m.rt
	m.must(m.cache.Refresh(m.t.Context()))
	for _, v := range m.key("payments").Versions {
		_, err := m.Resume(m.t.Context(), alice, "payments", v.Number, "")
		m.may(err)
	}
	m.policyOff()
	for range 4 {
		m.pass(10 * time.Hour)
		m.tick()
	}
	m.pass(4000 * time.Hour)
	m.tick()
	m.check()
	m.consistent()
	m.toldOf()
}

func (m *machine) policyOff() { m.kit.policy("payments", keys.Policy{}) }
