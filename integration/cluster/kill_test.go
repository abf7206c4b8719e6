package cluster

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/integration/internal/proc"
	"keyhole/keys"
)

// killing is one gateway killed in front of one durable write.
type killing struct {
	write  string // the phase that it was about to write, or destroyed
	before string // what had been done by then
	policy *api.Policy
	begin  func(s *site, key string) // brings the key there
	end    func(k api.Key, r []api.Rotation) bool
}

var killings = []killing{
	{
		write: "reserved", before: "a rotation by policy was found to be due",
		policy: policy(func(p *api.Policy) { p.Period = api.Duration(time.Second) }),
		begin:  func(*site, string) {},
		end:    func(k api.Key, _ []api.Rotation) bool { return k.ActiveVersion >= 2 },
	},
	{
		write: "announced", before: "the objects were generated, and nobody knows of them",
		policy: policy(func(p *api.Policy) { p.Announce = api.Duration(time.Second) }),
		begin:  rotate, end: activeIs2,
	},
	{
		write: "scheduled", before: "the version was announced",
		policy: policy(func(p *api.Policy) { p.Announce = api.Duration(time.Second) }),
		begin:  rotate, end: activeIs2,
	},
	{write: "activated", before: "the switch came, and is not recorded", policy: policy(func(*api.Policy) {}), begin: rotate, end: activeIs2},
	{write: "completed", before: "the switch was recorded, and its outcome in the audit log", policy: policy(func(*api.Policy) {}), begin: rotate, end: activeIs2},
	{
		write: "aborted", before: "the objects of an aborted rotation were destroyed",
		policy: policy(func(p *api.Policy) { p.Announce = api.Duration(time.Hour) }),
		begin: func(s *site, key string) {
			rotate(s, key)
			var r api.Rotation
			proc.Eventually(s.t, key+" has a version announced", func() bool {
				all := s.rotations(s.admin(), key)
				r = all[len(all)-1]
				return r.Phase == "announced"
			})
			s.act(func(ctx context.Context, c *client.Client) error {
				_, err := c.AbortRotation(ctx, r.ID, api.RotationActRequest{})
				return err
			})
		},
		end: func(k api.Key, r []api.Rotation) bool {
			return k.ActiveVersion == 1 && r[len(r)-1].Phase == "aborted" && k.Versions[0].State == "destroyed"
		},
	},
	{
		write: "destroyed", before: "the objects of a version were destroyed",
		policy: policy(func(*api.Policy) {}),
		begin: func(s *site, key string) {
			s.destroy(s.up(), keys.VersionID{Key: key, Number: 1})
		},
		end: func(k api.Key, _ []api.Rotation) bool { return k.Versions[len(k.Versions)-1].State == "destroyed" },
	},
}

func activeIs2(k api.Key, r []api.Rotation) bool {
	return k.ActiveVersion == 2 && r[len(r)-1].Phase == "completed"
}

// rotate orders a rotation by whichever gateway; who answers may be killed
// over it.
func rotate(s *site, key string) {
	s.act(func(ctx context.Context, c *client.Client) error {
		_, err := c.Rotate(ctx, key, api.RotateRequest{})
		return err
	})
}

// act sends an act through the balancer, beside the test: the gateway that
// takes it is to be killed. What the client makes of that by itself is its
// business; what it is told in the end must be so.
func (s *site) act(f func(ctx context.Context, c *client.Client) error) {
	c, done := s.admin(), make(chan error, 1)
	go func() { done <- f(s.t.Context(), c) }()
	s.acts = append(s.acts, done)
}

// The gateway that drives a rotation is killed in front of each of its durable
// writes, under load. Another one takes over, and ends what was begun, once;
// then token, store and all audit logs agree.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	for _, g := range s.gates { // a destruction waits for the dead as long as they might use keys
		g.configure(map[string]string{"store": g.store(s.db.TLSURL, 8*time.Second)})
	}
	s.start()
	s.create("payments", "ES256", nil)
	s.create("vault", "A256GCM", nil)
	for _, k := range killings {
		key := "k-" + k.write
		p := *k.policy
		p.Period = 0 // until it is its turn
		s.create(key, "ES256", &p)
		if k.write == "destroyed" {
			r, err := s.admin().Rotate(t.Context(), key, api.RotateRequest{})
			must(t, err)
			s.ends(key, func(api.Key, []api.Rotation) bool { return s.rotation(r.ID).Phase == "completed" })
		}
	}
	h := s.holder()
	l := s.load(loadConfig{Sign: []string{"payments"}, Encrypt: []string{"vault"}})
	var down *gate
	for _, k := range killings {
		key := "k-" + k.write
		began := time.Now()
		h.hold(key, k.write)
		if k.policy.Period > 0 {
			_, err := s.admin().UpdateKey(t.Context(), key, api.UpdateKeyRequest{Policy: k.policy})
			must(t, err)
		}
		k.begin(s, key)
		g := h.kill()
		t.Logf("%s killed after %s: %s", g.name, time.Since(began).Round(time.Millisecond), k.before)
		if down != nil && down != g {
			down.back()
		}
		down = g
		down.launch()
	}
	down.back()
	for _, k := range killings {
		s.ends("k-"+k.write, k.end)
	}
	for _, done := range s.acts {
		if err := <-done; err != nil {
			t.Errorf("an act, repeated by the client, was refused at last: %v", err)
		}
	}
	l.goesOn(20)
	l.perfect()
	s.settled(killings)
	s.stop()
	for _, g := range s.gates {
		g.verified()
	}
	s.agree()
}

// up returns a gateway that is ready.
func (s *site) up() *gate {
	s.t.Helper()
	var up *gate
	proc.Eventually(s.t, "a gateway is ready", func() bool {
		i := slices.IndexFunc(s.gates, func(g *gate) bool {
			status, _, err := g.get("/readyz")
			return err == nil && status == http.StatusOK
		})
		if i >= 0 {
			up = s.gates[i]
		}
		return up != nil
	})
	return up
}

// ends waits until a key has come to an end.
func (s *site) ends(key string, end func(k api.Key, r []api.Rotation) bool) {
	s.t.Helper()
	c := s.admin()
	proc.Eventually(s.t, key+" comes to its end", func() bool {
		k, err := c.Key(s.t.Context(), key)
		return err == nil && end(k, s.rotations(c, key))
	})
}

func (s *site) rotation(id string) api.Rotation {
	s.t.Helper()
	r, err := s.admin().Rotation(s.t.Context(), id)
	must(s.t, err)
	return r
}

// settled fails the test unless each rotation was begun with a recorded
// intent, was ended with a recorded outcome, and no key has more of them than
// were ordered.
func (s *site) settled(all []killing) {
	s.t.Helper()
	intents, outcomes := s.recorded()
	c := s.admin()
	for _, k := range all {
		key := "k-" + k.write
		made := s.rotations(c, key)
		if want := 2; len(made) != want && k.policy.Period == 0 {
			s.t.Errorf("%s has %d rotations, want %d", key, len(made), want)
		}
		for _, r := range made[:min(len(made), 2)] { // policy goes on with others
			done := r.Phase == "completed" || r.Phase == "aborted"
			if n := intents[r.ID]; n == 0 || n > 2 {
				s.t.Errorf("%s: rotation to %d has %d intents", key, r.To, n)
			}
			// By the one that was killed, by the one that went on, and at its next
			// start by the one that has the intent.
			if n := outcomes[r.ID]; done && (n == 0 || n > 3) {
				s.t.Errorf("%s: rotation to %d is %s and has %d outcomes", key, r.To, r.Phase, n)
			}
			if !done && k.policy.Period == 0 {
				s.t.Errorf("%s: rotation to %d is %s still", key, r.To, r.Phase)
			}
		}
	}
}
