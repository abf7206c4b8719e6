package gateway

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"keyhole/authz"
	"keyhole/gateway/internal/tail"
	"keyhole/rotation"
	"keyhole/rotation/lease"
)

// Service is the guarded core. Its methods are safe for concurrent use. They
// take and return the bodies of package api; errors carry a sentinel of
// package keys.
type Service struct {
	crypto        Crypto
	snapshots     Snapshots
	audit         Auditor
	policy        Decider
	authenticator Authenticator
	lifecycle     Lifecycle
	usage         Usage
	store         Store
	limits        *authz.Limiter
	webhooks      Webhooks
	auditLog      AuditLog
	triggers      map[string]Trigger
	instance      string
	twoPeople     []string
	approvalLife  time.Duration
	maxStreams    int
	draining      <-chan struct{}
	now           func() time.Time
	log           *slog.Logger
	parallel      int
	auditTimeout  time.Duration
	events        *tail.Tail
	leases        *lease.Keeper

	mu      sync.Mutex
	running map[attemptID]string // fingerprints of the idempotent requests at work in this process
	streams map[string]int       // event streams by principal
}

// New returns a Service.
func New(c Config) *Service {
	s := &Service{
		crypto: c.Crypto, snapshots: c.Snapshots, audit: c.Audit, policy: c.Policy, authenticator: c.Authenticator,
		lifecycle: c.Lifecycle, usage: c.Usage, store: c.Store, limits: c.Limits, webhooks: c.Webhooks, auditLog: c.AuditLog, triggers: c.Triggers, instance: c.Instance,
		twoPeople: slices.Clone(c.TwoPeople), approvalLife: c.ApprovalLife, maxStreams: c.Streams, draining: c.Draining,
		now: c.Now, log: c.Log, parallel: c.Parallel, auditTimeout: c.AuditTimeout,
		events:  tail.New(c.Store, c.Snapshots),
		running: map[attemptID]string{}, streams: map[string]int{},
	}
	s.leases = lease.New(lease.Config{Store: c.Store, Holder: c.Instance, Log: c.Log})
	if c.TwoPeople == nil {
		s.twoPeople = DefaultTwoPeople()
	}
	if s.approvalLife <= 0 {
		s.approvalLife = 24 * time.Hour
	}
	if s.maxStreams <= 0 {
		s.maxStreams = 256
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.parallel <= 0 {
		s.parallel = 4
	}
	if s.auditTimeout <= 0 {
		s.auditTimeout = 10 * time.Second
	}
	return s
}

// Request is who asks, and what of the transport belongs in the record.
type Request struct {
	ID     string     // request id
	Source netip.Addr // of the connection
	Caller authz.Principal
	Once   *Once // set on a request that changes keys and shall do so once; see Once

	admitted bool // by Admit: its place in flight is taken
}

func (r Request) actor() rotation.Actor {
	return rotation.Actor{Principal: r.Caller.ID, AuthMethod: r.Caller.Method, Source: r.Source.String(), RequestID: r.ID}
}
