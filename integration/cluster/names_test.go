package cluster

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keyhole/gateway/api"
	"keyhole/integration/internal/proc"
	"keyhole/keys"
)

// Three gateways are started at the same moment on an empty database and an
// empty token, twice, for the second time on what is there then. What there
// must be one of is made once; each serves what the others make.
func TestStartedAtOnce(t *testing.T) {
	t.Parallel()
	s := running(t, options{}) // all at once
	for i, g := range s.gates {
		name := "by-" + g.name
		_, err := g.admin().CreateKey(t.Context(), api.CreateKeyRequest{Name: name, Algorithm: "ES256"})
		must(t, err)
		s.known(name)
		if _, err := s.gates[(i+1)%len(s.gates)].as("agent").Sign(t.Context(), name, api.SignRequest{Payload: []byte("x")}); err != nil {
			t.Errorf("a key that %s made, by another gateway: %v", g.name, err)
		}
	}
	s.single()
	s.stop()
	s.start()
	s.single()
	nodes, err := s.admin().Nodes(t.Context())
	must(t, err)
	if len(nodes.Nodes) != len(s.gates) {
		t.Errorf("%d gateways run, and the list is %+v", len(s.gates), nodes.Nodes)
	}
	s.stop()
	for _, g := range s.gates {
		g.verified()
	}
	s.agree()
}

// single fails the test unless Keyhole's own keys are on the token once.
func (s *site) single() {
	s.t.Helper()
	own := map[string]int{}
	for _, o := range s.objects() {
		if strings.HasPrefix(o.Label, keys.ReservedPrefix) && o.Kind != "Public Key" {
			own[o.Label]++
		}
	}
	if len(own) != 2 || own[keys.ReservedPrefix+"store.v1"] != 1 || own[keys.AuditKeyName+".v1"] != 1 {
		s.t.Errorf("Keyhole's own keys on the token: %v", own)
	}
	for _, g := range s.gates {
		k, err := g.admin().Key(s.t.Context(), keys.AuditKeyName)
		if err != nil || len(k.Versions) != 1 || k.ActiveVersion != 1 {
			s.t.Errorf("%s: the audit key is %+v, %v", g.name, k, err)
		}
	}
}

// A second gateway under the name of one that runs is refused, by a message
// that says what to do, and the first one notices nothing.
func TestSameName(t *testing.T) {
	t.Parallel()
	s := running(t, options{gates: 2})
	first := s.gates[0]
	twin := s.newGate("twin", map[string]string{"node": first.name})
	p := proc.Start(t, exec.Command(filepath.Join(bin, "keyholed"), "serve", "--config", twin.config))
	if status := p.Wait(); status == 0 || !strings.Contains(p.Stderr.String(), `"`+first.name+`"`) || !strings.Contains(p.Stderr.String(), "its own name") {
		t.Errorf("a second %s: status %d\n%s", first.name, status, p.Stderr)
	}
	if strings.Contains(p.Stdout.String(), "serves") {
		t.Errorf("a second %s served: %s", first.name, p.Stdout)
	}
	first.alive()
	k, err := first.admin().CreateKey(t.Context(), api.CreateKeyRequest{Name: "payments", Algorithm: "ES256"})
	must(t, err)
	_, err = first.as("agent").Sign(t.Context(), k.Name, api.SignRequest{Payload: []byte("x")})
	must(t, err)
	s.stop()
	s.agree()
}
