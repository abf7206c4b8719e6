package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/gateway/api"
	"keyhole/integration/internal/proc"
)

// Six keys are rotated by their policies under load, about one each second,
// over three gateways. No call fails; each due moment makes one rotation, which
// one gateway records; every signature and ciphertext of every gateway is by
// the version whose time it was; and the token has each version once.
func TestRotationByPolicy(t *testing.T) {
	t.Parallel()
	s := running(t, options{})
	c := s.rotating()
	versions := uint32(3)
	if long {
		versions = 12
	}
	s.rotateUnderLoad(c, versions, 0)
}

// The same with the clock of one gateway two seconds ahead.
func TestClocksApart(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	s.gates[1].env = []string{"LD_PRELOAD=" + aheadBy(t, 2)}
	s.start()
	const apart = 2 * time.Second
	right := s.gates[0].clock()
	if d := s.gates[1].clock().Sub(right); d < apart {
		t.Fatalf("the clock of %s is ahead by %s", s.gates[1].name, d)
	}
	s.rotateUnderLoad(s.rotating(), 2, apart)
}

// rotating makes keys that their policies rotate.
func (s *site) rotating() loadConfig {
	s.t.Helper()
	var c loadConfig
	p := policy(func(p *api.Policy) { p.Period = api.Duration(time.Second) })
	for n := range 4 {
		c.Sign = append(c.Sign, s.create(fmt.Sprint("payments-", n), "ES256", p).Name)
	}
	for n := range 2 {
		c.Encrypt = append(c.Encrypt, s.create(fmt.Sprint("vault-", n), "A256GCM", p).Name)
	}
	return c
}

// rotateUnderLoad waits until policy has brought each key to a version, and
// checks all that was done. Clocks differ by apart at most.
func (s *site) rotateUnderLoad(c loadConfig, version uint32, apart time.Duration) {
	t := s.t
	t.Helper()
	l := s.load(c)
	all := slices.Concat(c.Sign, c.Encrypt)
	for _, key := range all {
		proc.Eventually(t, fmt.Sprint(key, " has version ", version, " active"), func() bool {
			k, err := s.gates[0].admin().Key(t.Context(), key)
			return err == nil && k.ActiveVersion >= version
		})
	}
	l.goesOn(20)
	seen := l.perfect()
	admin := s.admin()
	rotations, made := 0, map[string][]api.Rotation{}
	for _, key := range all {
		k, err := admin.Key(t.Context(), key)
		must(t, err)
		inTime(t, k, seen, apart)
		made[key] = s.rotations(admin, key)
		dueOnce(t, key, made[key], apart)
		rotations += len(made[key]) - 1
	}
	s.stop()
	s.recordedOnce(all, made)
	for _, g := range s.gates {
		g.verified()
	}
	s.agree()
	t.Logf("%d rotations by policy", rotations)
}

// inTime fails the test if a version was used when it was not its time.
func inTime(t *testing.T, k api.Key, seen tally, apart time.Duration) {
	t.Helper()
	apart += time.Millisecond // the API cuts times
	inUse := 0
	for _, v := range k.Versions {
		u, ok := seen.Used[v.KeyID]
		if !ok {
			continue
		}
		inUse++
		if u.FirstEnd.Before(v.ActivateAt.Add(-apart)) {
			t.Errorf("%s was used by %s, and is active from %s", v.KeyID, u.FirstEnd, v.ActivateAt)
		}
		if !v.DeactivatedAt.IsZero() && u.LastStart.After(v.DeactivatedAt.Add(apart)) {
			t.Errorf("%s was used for a call from %s, and was active until %s", v.KeyID, u.LastStart, v.DeactivatedAt)
		}
	}
	if inUse < 2 {
		t.Errorf("%s was used in %d versions: %+v", k.Name, inUse, seen.Used)
	}
}

// dueOnce fails the test unless rotations follow each other, a period behind
// the switch before.
func dueOnce(t *testing.T, key string, made []api.Rotation, apart time.Duration) {
	t.Helper()
	for i, r := range made {
		if r.To != uint32(i+1) || r.Phase == "aborted" {
			t.Errorf("%s: rotation %d is to version %d and %s: %s", key, i+1, r.To, r.Phase, r.Error)
		}
		if i == 0 {
			continue
		}
		if before := made[i-1]; r.From != before.To || r.StartedAt.Before(before.ActivateAt.Add(time.Second-apart-time.Millisecond)) {
			t.Errorf("%s: version %d was begun at %s, and version %d switched to at %s", key, r.To, r.StartedAt, before.To, before.ActivateAt)
		}
	}
}

// recordedOnce fails the test unless each rotation of the keys was recorded by
// one gateway, its intent and its outcome once.
func (s *site) recordedOnce(all []string, made map[string][]api.Rotation) {
	s.t.Helper()
	intents, outcomes := s.recorded()
	for _, key := range all {
		for _, r := range made[key] {
			if intents[r.ID] != 1 || outcomes[r.ID] > 1 || r.Phase == "completed" && outcomes[r.ID] != 1 {
				s.t.Errorf("%s: rotation to %d is %s, and has %d intents and %d outcomes", key, r.To, r.Phase, intents[r.ID], outcomes[r.ID])
			}
		}
	}
}

// recorded returns how often the audit logs of all gateways have the intent
// and the outcome of each rotation.
func (s *site) recorded() (intents, outcomes map[string]int) {
	s.t.Helper()
	intents, outcomes = map[string]int{}, map[string]int{}
	for _, g := range s.gates {
		for _, r := range g.records() {
			switch {
			case r.Action != "rotate" && r.Action != "create-key" || r.Rotation == "" || r.StartedAt.IsZero() || r.Details["first_request"] != "":
				// somebody looked at it, or was told again
			case r.Outcome == audit.OutcomeIntent:
				intents[r.Rotation]++
			default:
				outcomes[r.Rotation]++
			}
		}
	}
	return intents, outcomes
}
