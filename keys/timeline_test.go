package keys_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"keyhole/keys"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// legal is the table once more, written by hand: from, event, to.
var legal = map[keys.State]map[keys.Event][]keys.State{
	keys.PreActivation: {
		keys.EventActivate: {keys.Active}, keys.EventSuspend: {keys.Suspended}, keys.EventRevoke: {keys.Compromised},
		keys.EventDestroy: {keys.Destroyed}, keys.EventDelete: {keys.DestroyScheduled},
	},
	keys.Active: {
		keys.EventDeactivate: {keys.Deactivated}, keys.EventSuspend: {keys.Suspended}, keys.EventRevoke: {keys.Compromised},
		keys.EventDelete: {keys.DestroyScheduled},
	},
	keys.Suspended: {
		keys.EventResume: {keys.PreActivation, keys.Active, keys.Deactivated}, keys.EventRevoke: {keys.Compromised},
		keys.EventScheduleDestroy: {keys.DestroyScheduled}, keys.EventDelete: {keys.DestroyScheduled},
	},
	keys.Deactivated: {
		keys.EventActivate: {keys.Active}, keys.EventSuspend: {keys.Suspended}, keys.EventRevoke: {keys.Compromised},
		keys.EventArchive: {keys.Archived}, keys.EventScheduleDestroy: {keys.DestroyScheduled}, keys.EventDelete: {keys.DestroyScheduled},
	},
	keys.Archived: {
		keys.EventRevoke: {keys.Compromised}, keys.EventScheduleDestroy: {keys.DestroyScheduled}, keys.EventDelete: {keys.DestroyScheduled},
	},
	keys.Compromised: {keys.EventScheduleDestroy: {keys.DestroyScheduled}, keys.EventDelete: {keys.DestroyScheduled}},
	keys.DestroyScheduled: {
		keys.EventRestore: {keys.PreActivation, keys.Active, keys.Deactivated, keys.Archived, keys.Suspended, keys.Compromised},
		keys.EventRevoke:  {keys.DestroyScheduled}, keys.EventDestroy: {keys.Destroyed},
	},
	keys.Destroyed: {},
}

var events = []keys.Event{
	keys.EventActivate, keys.EventDeactivate, keys.EventSuspend, keys.EventResume, keys.EventRevoke,
	keys.EventArchive, keys.EventScheduleDestroy, keys.EventRestore, keys.EventDestroy, keys.EventDelete,
}

func TestTransitionTable(t *testing.T) {
	t.Parallel()
	if len(keys.States()) != len(legal) {
		t.Fatalf("%d states are tested, %d exist", len(legal), len(keys.States()))
	}
	for _, from := range append(keys.States(), "", "unknown") {
		if _, known := legal[from]; from.Known() != known {
			t.Errorf("%q: Known is %v", from, !known)
		}
		for _, ev := range append(slices.Clone(events), "", "unknown") {
			got, err := keys.Transition(from, ev)
			want, ok := legal[from][ev]
			if !slices.Equal(got, want) || ok != (err == nil) || !ok && !errors.Is(err, keys.ErrVersionState) {
				t.Errorf("Transition(%s, %s) = %v, %v, want %v", from, ev, got, err, want)
			}
		}
	}
}

func TestUseByState(t *testing.T) {
	t.Parallel()
	tests := map[keys.State]struct{ apply, process, recover, published bool }{
		keys.PreActivation:    {false, true, true, true},
		keys.Active:           {true, true, true, true},
		keys.Suspended:        {},
		keys.Deactivated:      {false, true, true, true},
		keys.Archived:         {false, false, true, false},
		keys.Compromised:      {false, false, true, false},
		keys.DestroyScheduled: {},
		keys.Destroyed:        {},
		"unknown":             {},
	}
	for s, want := range tests {
		for use, ok := range map[keys.Use]bool{keys.UseApply: want.apply, keys.UseProcess: want.process, keys.UseRecover: want.recover} {
			if err := s.CheckUse(use); ok != (err == nil) || !ok && !errors.Is(err, keys.ErrVersionState) {
				t.Errorf("%s, %s: %v, want ok=%v", s, use, err, ok)
			}
		}
		if s.Published() != want.published {
			t.Errorf("%s: Published is %v", s, !want.published)
		}
	}
}

// version is a generated version that activates after d.
func version(n uint32, d time.Duration) *keys.Version {
	return &keys.Version{Number: n, ReservedAt: t0, CreatedAt: t0, ActivateAt: t0.Add(d)}
}

func number(v *keys.Version) uint32 {
	if v == nil {
		return 0
	}
	return v.Number
}

func TestActiveAt(t *testing.T) {
	t.Parallel()
	changed := func(v *keys.Version, f func(v *keys.Version)) *keys.Version { f(v); return v }
	for _, tt := range []struct {
		name     string
		versions []*keys.Version
		at       time.Duration
		want     uint32
	}{
		{"no version", nil, 0, 0},
		{"one", []*keys.Version{version(1, 0)}, 0, 1},
		{"at the very instant", []*keys.Version{version(1, 0), version(2, time.Hour)}, time.Hour, 2},
		{"an instant before", []*keys.Version{version(1, 0), version(2, time.Hour)}, time.Hour - 1, 1},
		{"same instant: the higher number", []*keys.Version{version(1, 0), version(2, 0)}, 0, 2},
		{"the later time wins, not the number", []*keys.Version{version(1, 2*time.Hour), version(2, time.Hour)}, 3 * time.Hour, 1},
		{"not planned", []*keys.Version{version(1, 0), {Number: 2, CreatedAt: t0}}, time.Hour, 1},
		{"reserved, not generated", []*keys.Version{version(1, 0), {Number: 2, ReservedAt: t0, ActivateAt: t0}}, time.Hour, 1},
		{"suspended", []*keys.Version{version(1, 0), changed(version(2, 0), func(v *keys.Version) { v.SuspendedAt = t0 })}, 0, 1},
		{"revoked", []*keys.Version{version(1, 0), changed(version(2, 0), func(v *keys.Version) { v.RevokedAt = t0 })}, 0, 1},
		{"archived", []*keys.Version{version(1, 0), changed(version(2, 0), func(v *keys.Version) { v.ArchivedAt = t0 })}, 0, 1},
		{"to be destroyed", []*keys.Version{version(1, 0), changed(version(2, 0), func(v *keys.Version) { v.DestroyAt = t0.Add(time.Hour) })}, 0, 1},
		{"destroyed", []*keys.Version{version(1, 0), changed(version(2, 0), func(v *keys.Version) { v.DestroyedAt = t0 })}, 0, 1},
		{"all revoked", []*keys.Version{changed(version(1, 0), func(v *keys.Version) { v.RevokedAt = t0 })}, 0, 0},
	} {
		k := &keys.Key{Name: "payments", Versions: tt.versions}
		if got := number(k.ActiveAt(t0.Add(tt.at))); got != tt.want {
			t.Errorf("%s: version %d is active, want %d", tt.name, got, tt.want)
		}
	}
}

func TestDeactivatedAtAndNextSwitch(t *testing.T) {
	t.Parallel()
	k := &keys.Key{Name: "payments", Versions: []*keys.Version{version(1, 0), version(2, time.Hour), version(3, 2*time.Hour)}}
	at := func(d time.Duration) time.Time { return t0.Add(d) }
	if got := k.DeactivatedAt(k.Versions[0], at(0)); !got.IsZero() {
		t.Errorf("the active version was deactivated at %s", got)
	}
	if got := k.DeactivatedAt(k.Versions[0], at(5*time.Hour)); !got.Equal(at(time.Hour)) {
		t.Errorf("v1 was deactivated at %s, want v2's activation", got)
	}
	if got := k.DeactivatedAt(k.Versions[2], at(0)); !got.IsZero() {
		t.Errorf("a version that never started was deactivated at %s", got)
	}
	for d, want := range map[time.Duration]time.Time{0: at(time.Hour), time.Hour: at(2 * time.Hour), 90 * time.Minute: at(2 * time.Hour), 2 * time.Hour: {}} {
		if got := k.NextSwitch(at(d)); !got.Equal(want) {
			t.Errorf("after %s the next switch is at %s, want %s", d, got, want)
		}
	}
	k.Versions[1].SuspendedAt = t0
	if got := k.NextSwitch(at(0)); !got.Equal(at(2 * time.Hour)) {
		t.Errorf("a suspended version switches at %s", got)
	}
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	now := t0.Add(3 * time.Hour)
	fresh := func() *keys.Key {
		return &keys.Key{Name: "payments", Versions: []*keys.Version{
			version(1, 0), version(2, time.Hour), {Number: 3, ReservedAt: t0}, {Number: 4, ReservedAt: t0, CreatedAt: t0},
		}}
	}
	for _, tt := range []struct {
		name string
		n    uint32
		ev   keys.Event
		at   time.Time
		want error
	}{
		{"no such version", 9, keys.EventSuspend, now, keys.ErrVersionNotFound},
		{"version 0", 0, keys.EventSuspend, now, keys.ErrVersionNotFound},
		{"activating what is not generated", 3, keys.EventActivate, now, keys.ErrVersionState},
		{"going back to an older version", 1, keys.EventActivate, now, keys.ErrVersionState},
		{"planning to go back to an older version", 1, keys.EventActivate, now.Add(time.Hour), keys.ErrVersionState},
		{"activating the active one", 2, keys.EventActivate, now, keys.ErrVersionState},
		{"activating in the past, behind the active one", 4, keys.EventActivate, t0, keys.ErrVersionState},
		{"deactivating by hand", 2, keys.EventDeactivate, now, keys.ErrVersionState},
		{"restoring what is not scheduled", 1, keys.EventRestore, now, keys.ErrVersionState},
		{"archiving the active version", 2, keys.EventArchive, now, keys.ErrVersionState},
		{"destroying the active version", 2, keys.EventScheduleDestroy, now, keys.ErrVersionState},
		{"destroying at once", 1, keys.EventDestroy, now, keys.ErrVersionState},
		{"resuming what is not suspended", 1, keys.EventResume, now, keys.ErrVersionState},
		{"suspending at no time", 2, keys.EventSuspend, time.Time{}, keys.ErrVersionState},
		{"revoking at no time", 2, keys.EventRevoke, time.Time{}, keys.ErrVersionState},
		{"an unknown event", 2, "relabel", now, keys.ErrVersionState},
	} {
		k := fresh()
		got, err := k.Apply(tt.n, tt.ev, tt.at, now)
		if !errors.Is(err, tt.want) || got != nil {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	k := fresh()
	planned, err := k.Apply(4, keys.EventActivate, now.Add(time.Hour), now)
	if err != nil {
		t.Fatal(err)
	}
	if got := number(planned.ActiveAt(now)); got != 2 {
		t.Errorf("version %d is active before the planned time", got)
	}
	if got := number(planned.ActiveAt(now.Add(time.Hour))); got != 4 {
		t.Errorf("version %d is active at the planned time", got)
	}
	if !k.Versions[3].ActivateAt.IsZero() {
		t.Error("Apply changed its receiver")
	}
}

// clockMoves are the changes that time alone may bring.
func clockMove(from, to keys.State) bool {
	switch {
	case from == to:
		return true
	case from == keys.PreActivation: // past it, when its successor's time is the same
		return to == keys.Active || to == keys.Deactivated
	case from == keys.Active:
		return to == keys.Deactivated
	}
	return false
}

// TestLifeOfAKey lets random events happen at random times and checks after
// each step what must hold for every version, not only the one acted on.
func TestLifeOfAKey(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := t0
		k := &keys.Key{Name: "payments", Versions: []*keys.Version{version(1, 0)}}
		revoked, destroyed := map[uint32]bool{}, map[uint32]bool{}
		var newest uint32 // number that was ever there
		observe := func() map[uint32]keys.State {
			states := map[uint32]keys.State{}
			active := 0
			for i, v := range k.Versions {
				s := k.StateAt(v, now)
				states[v.Number] = s
				if !s.Known() {
					t.Fatalf("v%d is in the unknown state %q", v.Number, s)
				}
				if s == keys.Active {
					active++
					if number(k.ActiveAt(now)) != v.Number {
						t.Fatalf("v%d is active, ActiveAt says v%d", v.Number, number(k.ActiveAt(now)))
					}
				}
				if revoked[v.Number] && s != keys.Compromised && s != keys.DestroyScheduled && s != keys.Destroyed {
					t.Fatalf("v%d was compromised and is %s now", v.Number, s)
				}
				if destroyed[v.Number] && s != keys.Destroyed {
					t.Fatalf("v%d was destroyed and is %s now", v.Number, s)
				}
				if v.Number > newest {
					newest = v.Number
				} else if i > 0 && v.Number <= k.Versions[i-1].Number {
					t.Fatalf("the number %d came twice", v.Number)
				}
				revoked[v.Number] = revoked[v.Number] || !v.RevokedAt.IsZero()
				destroyed[v.Number] = destroyed[v.Number] || s == keys.Destroyed
			}
			if active > 1 || active == 0 && k.ActiveAt(now) != nil {
				t.Fatalf("%d active versions, ActiveAt says v%d", active, number(k.ActiveAt(now)))
			}
			return states
		}
		before := observe()
		pick := func() uint32 { return uint32(rapid.IntRange(1, len(k.Versions)).Draw(t, "version")) }
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				target := now.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "hours")) * time.Hour)
				for now.Before(target) { // stop at each switch, as a watcher would see it
					next := k.NextSwitch(now)
					if next.IsZero() || next.After(target) {
						next = target
					}
					now = next
					after := observe()
					for n, s := range after {
						if !clockMove(before[n], s) {
							t.Fatalf("time alone took v%d from %s to %s", n, before[n], s)
						}
					}
					before = after
				}
			},
			"the switch is recorded": func(*rapid.T) {
				if active := k.ActiveAt(now); active != nil {
					c := k.Clone()
					v, _ := c.Version(active.Number)
					v.ActivatedAt = now
					k = c
				}
			},
			"the clock steps back": func(t *rapid.T) {
				if active := k.ActiveAt(now); active == nil || active.ActivatedAt.IsZero() {
					return // a switch that nobody has recorded yet may be undone
				}
				active := k.ActiveAt(now)
				now = now.Add(-time.Duration(rapid.IntRange(1, 48).Draw(t, "hours")) * time.Hour)
				if got := k.ActiveAt(now); got != active {
					t.Fatalf("the clock stepped back, and v%d is active in place of v%d", number(got), active.Number)
				}
				before = observe()
			},
			"a version is made": func(t *rapid.T) {
				if len(k.Versions) == 6 {
					return
				}
				c := k.Clone()
				v := &keys.Version{Number: c.Latest().Number + 1, ReservedAt: now}
				if rapid.Bool().Draw(t, "generated") {
					v.CreatedAt = now
				}
				c.Versions = append(c.Versions, v)
				k = c
				before = observe()
				if before[v.Number] != keys.PreActivation {
					t.Fatalf("a new version is %s", before[v.Number])
				}
			},
			"something happens": func(t *rapid.T) {
				n, ev := pick(), rapid.SampledFrom(events).Draw(t, "event")
				at := now.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 0, -2, 1, 3}).Draw(t, "at")) * time.Hour)
				old, snapshot := k, k.Clone()
				c, err := k.Apply(n, ev, at, now)
				if err != nil {
					if !errors.Is(err, keys.ErrVersionState) {
						t.Fatalf("%v is not ErrVersionState", err)
					}
					return
				}
				for i, v := range old.Versions {
					if v.Number != snapshot.Versions[i].Number || old.StateAt(v, now) != snapshot.StateAt(snapshot.Versions[i], now) {
						t.Fatal("Apply changed its receiver")
					}
				}
				k = c
				after := observe()
				// Only an act upon the active version itself leaves a key without one.
				if had := number(old.ActiveAt(now)); had != 0 && number(k.ActiveAt(now)) == 0 && had != n {
					t.Fatalf("%s of v%d left the key without an active version", ev, n)
				}
				for m, s := range after {
					switch {
					case s == before[m]:
					case m == n:
						if !slices.Contains(legal[before[m]][ev], s) {
							t.Fatalf("%s took v%d from %s to %s", ev, m, before[m], s)
						}
					// Another version: it lost or regained its place.
					case before[m] == keys.Active && s == keys.Deactivated:
					case before[m] == keys.Deactivated && s == keys.Active:
						if ev != keys.EventSuspend && ev != keys.EventRevoke && ev != keys.EventDelete {
							t.Fatalf("%s of v%d brought v%d back", ev, n, m)
						}
					default:
						t.Fatalf("%s of v%d took v%d from %s to %s", ev, n, m, before[m], s)
					}
				}
				before = after
			},
		})
	})
}

func TestKeyLookupsAndClone(t *testing.T) {
	t.Parallel()
	k := &keys.Key{Name: "payments", Token: "main", Tags: map[string]string{"team": "pay"}, Versions: []*keys.Version{version(1, 0), version(7, time.Hour)}}
	k.Versions[1].PublicKey, k.Versions[1].Check, k.Versions[1].Algorithm, k.Versions[1].Bits = []byte("spki"), []byte("check"), keys.ES256, 256
	if v, err := k.Version(7); err != nil || v.Number != 7 || k.Latest() != v || k.ID(v).String() != "payments.v7" {
		t.Errorf("version 7: %+v, %v", v, err)
	}
	ref := k.Ref(k.Versions[1])
	if ref.Label != "payments.v7" || ref.Token != "main" || ref.Algorithm != keys.ES256 || ref.Bits != 256 || string(ref.Check) != "check" {
		t.Errorf("ref %+v", ref)
	}
	for _, n := range []uint32{0, 2, 8, 1<<32 - 1} {
		if v, err := k.Version(n); !errors.Is(err, keys.ErrVersionNotFound) || v != nil {
			t.Errorf("version %d: %+v, %v", n, v, err)
		}
	}
	if (&keys.Key{}).Latest() != nil {
		t.Error("a key without versions has a latest one")
	}
	c := k.Clone()
	c.Tags["team"], c.Versions[0].RevokedAt, c.Versions[1].PublicKey[0] = "x", t0, 'X'
	if k.Tags["team"] != "pay" || !k.Versions[0].RevokedAt.IsZero() || k.Versions[1].PublicKey[0] != 's' {
		t.Error("a clone shares memory with its original")
	}
}
