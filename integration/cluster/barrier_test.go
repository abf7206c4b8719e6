package cluster

import (
	"database/sql"
	"slices"
	"strings"
	"testing"
	"time"

	"keyhole/gateway/api"
	"keyhole/integration/internal/p11"
	"keyhole/integration/internal/proc"
	"keyhole/keys"
)

// A gateway stands still while versions are destroyed. Their objects stay
// until it is back and knows that they are not to be used, or until it has
// stopped using keys by itself.
func TestDestructionWaits(t *testing.T) {
	t.Parallel()
	const staleness = 8 * time.Second
	s := newSite(t, options{})
	for _, g := range s.gates {
		g.configure(map[string]string{"store": g.store(s.db.TLSURL, staleness)})
	}
	s.start()
	for _, key := range []string{"back", "dead"} {
		s.create(key, "ES256", policy(func(*api.Policy) {}))
		r, err := s.admin().Rotate(t.Context(), key, api.RotateRequest{})
		must(t, err)
		s.ends(key, func(api.Key, []api.Rotation) bool { return s.rotation(r.ID).Phase == "completed" })
	}
	db := s.db.Admin(t)
	slow := s.gates[2]

	slow.pause()
	until := s.until(db, slow)
	s.destroy(s.gates[0], keys.VersionID{Key: "back", Number: 1})
	proc.Eventually(t, "the destruction waits", func() bool {
		return s.waitsFor(slow) || s.destroyedAt(db, "back").Valid
	})
	if now, left := time.Now(), s.has("back.v1"); !left && time.Now().Before(until) {
		t.Errorf("the objects are gone at %s, and %s may use them until %s", now, slow.name, until)
	}
	back := time.Now()
	slow.resume()
	s.destroyedBehind(db, "back", back, until)
	slow.ready()

	slow.pause()
	until = s.until(db, slow)
	s.destroy(s.gates[0], keys.VersionID{Key: "dead", Number: 1})
	s.destroyedBehind(db, "dead", until)
	slow.resume()
	slow.ready()
	for _, key := range []string{"back", "dead"} {
		for _, g := range s.gates {
			v, err := g.as("agent").Verify(t.Context(), key, api.VerifyRequest{Payload: []byte("x"), Signature: make([]byte, 64), Version: 1})
			if err != nil || v.Valid || v.State != "destroyed" {
				t.Errorf("%s: a version that was destroyed while a gateway stood still: %+v, %v", g.name, v, err)
			}
		}
		if s.has(key + ".v1") {
			t.Errorf("%s.v1 is destroyed, and on the token", key)
		}
	}
	s.stop()
	s.agree()
}

// until returns when a gateway that stands still stops using keys by itself.
func (s *site) until(db *sql.DB, g *gate) time.Time {
	s.t.Helper()
	var micro int64
	must(s.t, db.QueryRowContext(s.t.Context(), "SELECT max(until) FROM nodes WHERE name = $1", g.name).Scan(&micro))
	return time.UnixMicro(micro)
}

// destroyedBehind waits until version 1 of a key is destroyed, and fails the
// test unless that was behind one of the moments.
func (s *site) destroyedBehind(db *sql.DB, key string, moments ...time.Time) {
	s.t.Helper()
	var micro sql.NullInt64
	proc.Eventually(s.t, key+".v1 is destroyed", func() bool {
		micro = s.destroyedAt(db, key)
		return micro.Valid
	})
	at := time.UnixMicro(micro.Int64)
	i := slices.IndexFunc(moments, func(m time.Time) bool { return !at.Before(m) })
	if i < 0 {
		s.t.Fatalf("%s.v1 was destroyed at %s, and a gateway could have used it until %s", key, at, moments)
	}
	s.t.Logf("%s.v1 was destroyed %s after it could not be used any more", key, at.Sub(moments[i]))
}

// destroyedAt returns when version 1 of a key was destroyed, in microseconds.
func (s *site) destroyedAt(db *sql.DB, key string) (micro sql.NullInt64) {
	s.t.Helper()
	must(s.t, db.QueryRowContext(s.t.Context(), "SELECT destroyed_at FROM versions WHERE key_name = $1 AND number = 1", key).Scan(&micro))
	return micro
}

// waitsFor reports whether a gateway has said that a destruction waits for g.
func (s *site) waitsFor(g *gate) bool {
	for _, other := range s.gates {
		for line := range strings.Lines(other.proc.Stderr.String()) {
			if strings.Contains(line, "a destruction waits") && strings.Contains(line, g.name) {
				return true
			}
		}
	}
	return false
}

// has reports whether the token has an object of that label.
func (s *site) has(label string) bool {
	s.t.Helper()
	return slices.ContainsFunc(s.objects(), func(o p11.Object) bool { return o.Label == label })
}
