package cluster

import "testing"

// All gateways are restarted, one after the other, under load: no call fails,
// over connections that are kept, by HTTP/1.1 and HTTP/2, and though the
// agents repeat none.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	s := running(t, options{})
	s.create("payments", "ES256", nil)
	s.create("vault", "A256GCM", nil)
	l := s.load(loadConfig{Sign: []string{"payments"}, Encrypt: []string{"vault"}, Workers: 3, Retries: -1})
	rounds := 1
	if long {
		rounds = 5
	}
	for range rounds {
		for _, g := range s.gates {
			l.goesOn(20)
			g.stop()
			g.start()
			s.lb.sees(true, g)
		}
	}
	l.goesOn(20)
	l.perfect()
	s.stop()
	for _, g := range s.gates {
		g.verified()
	}
	s.agree()
}
