// Package gatewaytest starts a whole gateway within a test: the real core,
// rotation engine, REST API, SQLite store, audit log, authentication and
// policies, over TLS on a port of its own. Only the HSM is hsmtest.Memory,
// unless Options name another backend. What is tested over it is tested
// against the gateway, not against a picture of it.
//
// It also plays the world around a gateway: a CA that issues certificates to
// the gateway and to clients, and an identity provider that issues tokens.
package gatewaytest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"keyhole/audit"
	"keyhole/audit/audittest"
	"keyhole/authz"
	"keyhole/gateway"
	"keyhole/gateway/rest"
	"keyhole/hsm/hsmtest"
	"keyhole/rotation"
	"keyhole/store"
	"keyhole/usage"
)

// DefaultPolicy lets the group admins do everything and the group agents use
// every key that has no tag "private".
const DefaultPolicy = `@id("admins")
permit (principal in Group::"admins", action, resource);

@id("agents")
permit (
  principal in Group::"agents",
  action in [
    Action::"sign", Action::"verify", Action::"encrypt", Action::"decrypt", Action::"rewrap",
    Action::"datakey", Action::"read", Action::"jwks", Action::"subscribe"
  ],
  resource is Key
)
unless { resource.hasTag("private") };

@id("agents-random")
permit (principal in Group::"agents", action == Action::"random", resource);

@id("public-jwks")
permit (principal == Agent::"anonymous", action == Action::"jwks", resource)
unless { resource is Key && resource.hasTag("private") };
`

// Groups of DefaultPolicy.
const (
	Admins = "admins"
	Agents = "agents"
)

// Options change a gateway from what the zero value has.
type Options struct {
	Peer    *Gateway                        // shares its store, HSM, CA and identity provider; nil: it has its own
	Backend hsmtest.Backend                 // default: a new hsmtest.Memory; closed by the test's end
	Policy  string                          // Cedar; default DefaultPolicy
	Limits  *authz.LimiterConfig            // default: no limits
	Rest    rest.Config                     // all but Service
	Gateway gateway.Config                  // what has a default there: TwoPeople, Triggers, Webhooks ...
	Engine  rotation.Config                 // what has a default there: Propagation, Limits
	Wrap    func(http.Handler) http.Handler // around the API; for what goes wrong on the way
	Log     *slog.Logger                    // default: none
}

// Gateway is a gateway that runs until its test ends.
type Gateway struct {
	URL    string // https://127.0.0.1:port
	CAFile string // PEM, of the CA behind the gateway's and the clients' certificates
	Dir    string // of the test: keyhole.db, audit/, policies/, jwks.json, ca.crt

	Backend hsmtest.Backend
	Store   store.Store
	Cache   *store.Cache
	Audit   *audit.Log
	Voucher *audittest.Voucher // signs its checkpoints
	Usage   *usage.Meter
	Engine  *rotation.Engine
	Service *gateway.Service

	ca     *authority
	issuer *issuer
	server *http.Server
}

// Shut closes the listener and every connection, as the death of the process
// would.
func (g *Gateway) Shut(tb testing.TB) {
	tb.Helper()
	check(tb, g.server.Close())
}

// Start starts a gateway. It is stopped, and everything that it began has
// ended, before tb is over.
func Start(tb testing.TB, o Options) *Gateway {
	tb.Helper()
	if o.Peer != nil {
		o.Backend = o.Peer.Backend
	}
	if o.Backend == nil {
		o.Backend = hsmtest.NewMemory(hsmtest.MemoryOptions{})
	}
	if o.Policy == "" {
		o.Policy = DefaultPolicy
	}
	if o.Limits == nil {
		o.Limits = &authz.LimiterConfig{FailedLogins: -1, FailedOperations: -1}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{Dir: tb.TempDir(), Backend: o.Backend}
	if p := o.Peer; p != nil {
		g.Store, g.CAFile, g.ca, g.issuer = p.Store, p.CAFile, p.ca, p.issuer
	} else {
		tb.Cleanup(func() { check(tb, o.Backend.Close()) })
		g.CAFile = filepath.Join(g.Dir, "ca.crt")
		g.ca = newAuthority(tb, g.CAFile)
		g.issuer = newIssuer(tb, filepath.Join(g.Dir, "jwks.json"))
	}
	g.open(tb, o)
	g.run(tb)
	g.serve(tb, o)
	return g
}

// open puts the parts together.
func (g *Gateway) open(tb testing.TB, o Options) {
	tb.Helper()
	ctx, node := tb.Context(), "test"
	if o.Peer != nil {
		node = filepath.Base(filepath.Dir(g.Dir)) + "-" + filepath.Base(g.Dir) // of its own
	} else {
		db, err := store.OpenSQLite(ctx, filepath.Join(g.Dir, "keyhole.db"), []byte("32 bytes to seal rows of a test."))
		check(tb, err)
		tb.Cleanup(func() { check(tb, db.Close()) })
		g.Store = db
	}
	var err error
	g.Cache = store.NewCache(g.Store, store.CacheConfig{Log: o.Log})
	check(tb, g.Cache.Refresh(ctx))
	g.Audit, err = audit.Open(audit.Config{Dir: filepath.Join(g.Dir, "audit"), Node: node, Log: o.Log})
	check(tb, err)
	tb.Cleanup(func() { check(tb, g.Audit.Close()) })

	g.Voucher = audittest.New(tb)

	policyDir := filepath.Join(g.Dir, "policies")
	check(tb, os.Mkdir(policyDir, 0o700))
	write(tb, filepath.Join(policyDir, "policy.cedar"), []byte(o.Policy))
	policies, err := authz.LoadPolicies(policyDir)
	check(tb, err)
	authenticator, err := authz.NewAuthenticator(ctx, authz.Config{
		Issuers: []authz.Issuer{{Name: issuerName, Issuer: issuerURL, Audience: []string{audience}, JWKSFile: g.issuer.file}},
		MTLS:    authz.MTLS{OUGroups: true},
		Log:     o.Log,
	})
	check(tb, err)
	g.Usage = usage.New(usage.Config{Store: g.Store, Node: node, Dir: filepath.Join(g.Dir, "audit"), Log: o.Log})
	check(tb, g.Usage.Load(ctx))

	e := o.Engine
	e.Store, e.Token, e.Audit, e.Usage, e.Log = g.Store, o.Backend, g.Audit, g.Usage, o.Log
	e.Keys, e.Refresh = g.Cache.Keys, g.Cache.Refresh
	e.Holder = o.Gateway.Instance // one process has one name
	g.Engine = rotation.New(e)

	c := o.Gateway
	c.Crypto, c.Snapshots, c.Audit, c.Policy, c.Authenticator = o.Backend, g.Cache, g.Audit, policies, authenticator
	c.Lifecycle, c.Usage, c.Store, c.Limits, c.Log = g.Engine, g.Usage, g.Store, authz.NewLimiter(*o.Limits), o.Log
	c.AuditLog = g.Voucher.Lookup(g.Audit, filepath.Join(g.Dir, "audit"))
	g.Service = gateway.New(c)
}

// run keeps the snapshot fresh, counts, and rotates what is due.
func (g *Gateway) run(tb testing.TB) {
	tb.Helper()
	ctx, stop := context.WithCancel(context.Background())
	check(tb, g.Engine.Recover(ctx))
	check(tb, g.Service.ResumeApprovals(ctx))
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{g.Cache.Run, g.Usage.Run, g.Engine.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				tb.Errorf("the gateway: %v", err)
			}
		})
	}
	tb.Cleanup(func() { stop(); wg.Wait() })
}

// serve listens, with the API behind TLS.
func (g *Gateway) serve(tb testing.TB, o Options) {
	tb.Helper()
	o.Rest.Service = g.Service
	if o.Rest.Log == nil {
		o.Rest.Log = o.Log
	}
	handler := rest.New(o.Rest)
	if o.Wrap != nil {
		handler = o.Wrap(handler)
	}
	pool := x509.NewCertPool()
	pool.AddCert(g.ca.cert)
	server := rest.NewServer(handler, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{g.ca.server(tb)},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: pool,
	}, o.Log)
	g.server = server
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	check(tb, err)
	g.URL = "https://" + listener.Addr().String()
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(listener, "", "") }()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			check(tb, server.Close())
		}
		<-ended
	})
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatalf("gatewaytest: %v", err)
	}
}

func write(tb testing.TB, path string, data []byte) {
	tb.Helper()
	check(tb, os.WriteFile(path, data, 0o600))
}
