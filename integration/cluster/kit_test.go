package cluster

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/integration/internal/p11"
	"keyhole/integration/internal/proc"
	"keyhole/keys"
	"keyhole/softhsm"
	"keyhole/store/postgrestest"
)

// site is what the gateways of one test share.
type site struct {
	t     *testing.T
	dir   string
	token *softhsm.Token
	pg    *postgrestest.Server
	db    *postgrestest.Database
	gates []*gate
	lb    *balancer
	acts  []<-chan error // under way

	clients map[string]*client.Client // by whom they are and where they call
}

// options are how a site differs.
type options struct {
	gates int // default 3
	// own is whether PostgreSQL is the test's own, to be stopped.
	own bool
	// settings replace lines of each gateway's configuration.
	settings map[string]string
}

// newSite makes a token, a database and the gateways' configurations. Nothing
// of Keyhole runs yet.
func newSite(t *testing.T, o options) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), clients: map[string]*client.Client{}}
	var err error
	s.token, err = softhsm.New(filepath.Join(s.dir, "softhsm"), "cluster")
	must(t, err)
	if o.own {
		s.pg = postgrestest.Start(t, postgrestest.Options{})
	} else {
		s.pg = postgrestest.Shared(t)
	}
	s.db = s.pg.Database(t)
	for n := range cmp.Or(o.gates, 3) {
		s.gates = append(s.gates, s.newGate(fmt.Sprint("gate-", n+1), o.settings))
	}
	return s
}

// running is newSite with the gateways started one after the other and the
// balancer in front of them.
func running(t *testing.T, o options) *site {
	t.Helper()
	s := newSite(t, o)
	s.start()
	return s
}

// start starts all gateways and the balancer.
func (s *site) start() {
	s.t.Helper()
	for _, g := range s.gates {
		g.launch()
	}
	for _, g := range s.gates {
		g.ready()
	}
	s.lb = balance(s.t, s.gates)
	s.lb.sees(true, s.gates...)
}

// stop ends all gateways in order.
func (s *site) stop() {
	s.t.Helper()
	for _, g := range s.gates {
		if g.proc != nil && g.proc.Running() {
			g.stop()
		}
	}
}

// client returns a client of an address as one of the names that `keyholed
// dev` made tokens for. retries as client.Config has it.
func (s *site) client(addr, who string, retries int) *client.Client {
	s.t.Helper()
	return s.clientBy(addr, filepath.Join(made, who+".jwt"), retries)
}

func (s *site) clientBy(addr, tokenFile string, retries int) *client.Client {
	s.t.Helper()
	id := fmt.Sprint(addr, " ", tokenFile, " ", retries)
	if c := s.clients[id]; c != nil {
		return c
	}
	c, err := client.New(client.Config{
		Address: "https://" + addr, ServerName: "localhost", CACertFile: filepath.Join(made, "ca.crt"),
		Token: client.TokenFile(tokenFile), Retries: retries, Timeout: proc.Patience,
	})
	must(s.t, err)
	s.t.Cleanup(c.Close)
	s.clients[id] = c
	return c
}

// admin is a client of the balancer that may do everything.
func (s *site) admin() *client.Client { return s.client(s.lb.addr, "admin", 0) }

// create makes a key.
func (s *site) create(name, algorithm string, p *api.Policy) api.Key {
	s.t.Helper()
	k, err := s.admin().CreateKey(s.t.Context(), api.CreateKeyRequest{Name: name, Algorithm: algorithm, Policy: p})
	must(s.t, err)
	s.known(name)
	return k
}

// known waits until every gateway knows a key.
func (s *site) known(name string) {
	s.t.Helper()
	for _, g := range s.gates {
		proc.Eventually(s.t, g.name+" knows "+name, func() bool {
			_, err := g.admin().Key(s.t.Context(), name)
			return err == nil
		})
	}
}

// policy returns a policy in the words of the API, with overlaps long enough
// for a test.
func policy(change func(p *api.Policy)) *api.Policy {
	p := &api.Policy{Overlap: api.Duration(48 * time.Hour), DestroyDelay: api.Duration(time.Second)}
	change(p)
	return p
}

// destroy orders the destruction of a version, as the two people that it
// takes while its overlap lasts, and returns when it is due.
func (s *site) destroy(g *gate, id keys.VersionID) time.Time {
	s.t.Helper()
	out, err := g.admin().Destroy(s.t.Context(), id, api.DestroyRequest{Reason: "a test", Force: true})
	must(s.t, err)
	if out.Approval == nil {
		s.t.Fatalf("a forced destruction by one person: %+v", out)
	}
	_, err = g.as("approver").Approve(s.t.Context(), out.Approval.ID, api.DecisionRequest{})
	must(s.t, err)
	k, err := g.admin().Key(s.t.Context(), id.Key)
	must(s.t, err)
	for _, v := range k.Versions {
		if v.Version == id.Number && !v.DestroyAt.IsZero() {
			return v.DestroyAt.Time
		}
	}
	s.t.Fatalf("%v is not to be destroyed: %+v", id, k.Versions)
	return time.Time{}
}

// rotations returns the rotations of a key, oldest first.
func (s *site) rotations(c *client.Client, key string) []api.Rotation {
	s.t.Helper()
	var all []api.Rotation
	for r, err := range c.Rotations(s.t.Context(), key) {
		must(s.t, err)
		all = append([]api.Rotation{r}, all...)
	}
	return all
}

// objects lists the token.
func (s *site) objects() []p11.Object {
	s.t.Helper()
	return p11.Objects(s.t, s.token.Conf, s.token.PIN)
}

// agree fails the test unless the token and the database say the same, with
// the gateways stopped.
func (s *site) agree() {
	s.t.Helper()
	status, said := s.keyholed("reconcile", "--dry-run", "--config", s.gates[0].config)
	if status != 0 {
		s.t.Errorf("token and store differ: status %d\n%s", status, said)
	}
	ids := map[string]int{}
	for _, o := range s.objects() {
		if o.ID != "" {
			ids[o.Kind+" "+o.ID]++
		}
	}
	for id, n := range ids {
		if n > 1 {
			s.t.Errorf("%d objects on the token are %s", n, id)
		}
	}
}

// keyholed runs a command of keyholed to its end.
func (s *site) keyholed(args ...string) (status int, said string) {
	s.t.Helper()
	p := proc.Start(s.t, exec.Command(filepath.Join(bin, "keyholed"), args...))
	status = p.Wait()
	return status, p.Stdout.String() + p.Stderr.String()
}

// caller makes a token of the development issuer for an agent of another name
// and returns the file that it is in.
func (s *site) caller(name string) string {
	s.t.Helper()
	block, _ := pem.Decode(read(s.t, filepath.Join(made, "issuer.key")))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(s.t, err)
	var set jose.JSONWebKeySet
	must(s.t, json.Unmarshal(read(s.t, filepath.Join(made, "jwks.json")), &set))
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iss": "https://keyhole-dev.invalid", "aud": "keyhole", "sub": name, "groups": []string{"agents"},
		"iat": now.Add(-time.Minute).Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	token.Header["kid"] = set.Keys[0].KeyID
	text, err := token.SignedString(key.(*ecdsa.PrivateKey))
	must(s.t, err)
	return write(s.t, s.dir, name+".jwt", text)
}

// loopback returns a loopback address that nothing listens on. A port of
// 127.0.0.1 could be taken by somebody's outgoing connection while a gateway
// is down; these addresses are nobody's but the test's.
func loopback(t *testing.T) string {
	t.Helper()
	for range 100 {
		host := net.IPv4(127, byte(1+rand.IntN(254)), byte(rand.IntN(256)), byte(1+rand.IntN(254))).String()
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", fmt.Sprintf("%s:%d", host, apiPort))
		if err == nil {
			_ = l.Close()
			return host
		}
	}
	t.Fatal("no loopback address is free")
	return ""
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// soon bounds one look at a gateway that may not answer.
func soon(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 10*time.Second)
}
