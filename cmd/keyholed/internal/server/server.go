// Package server is `keyholed serve`: the one place where HSM, store, audit
// log, policies and transports meet.
//
// What is opened first is closed last. The audit log is opened before all
// else and closed after all else, so that everything in between can be
// recorded; the listeners open when everything works, and stop first.
//
// The end, in order: /readyz says 503 while requests go on, for balancers to
// notice; event streams end and every answer asks to close its connection;
// the listeners close, and what is under way has a grace; then the loops end,
// which gives leases up, what was counted is written, and the others are told
// that this gateway uses no key any more.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/core"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/cmd/keyholed/internal/material"
	"keyhole/cmd/keyholed/internal/metrics"
	"keyhole/cmd/keyholed/internal/reload"
	"keyhole/cmd/keyholed/internal/tlsfiles"
	"keyhole/cmd/keyholed/internal/vouch"
	"keyhole/gateway"
	"keyhole/gateway/rest"
	"keyhole/keys"
	"keyhole/store"
	"keyhole/usage"
	"keyhole/webhook"
)

// Options are what is not configuration.
type Options struct {
	Log      *slog.Logger
	Version  string
	Revision string
	Reload   <-chan os.Signal // each value orders a reload of the files; nil: none
	// Serving is called once requests are answered, with the URLs of the API
	// and of the operations listener ("": it is off). An error stops the
	// gateway.
	Serving func(api, ops string) error
}

// Run serves until ctx ends or a part fails for good, and then closes
// everything in order. Its error carries an exit status (package exit); it is
// nil after an orderly end by ctx.
func Run(ctx context.Context, c *config.Config, o Options) error {
	err := run(ctx, c, o)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		o.Log.Info("stopped while starting", "err", err)
		return nil
	}
	return err
}

func run(ctx context.Context, c *config.Config, o Options) (err error) {
	defer withSlack()()
	m := metrics.New(o.Version, o.Revision)

	files, err := material.Load(ctx, c, material.Options{Fetch: true, Log: o.Log})
	if err != nil {
		return exit.With(exit.Config, "", err)
	}
	for _, cert := range append(files.TLS.ClientCAs(), files.TLS.Certificate()) {
		if err := tlsfiles.Expiring(cert, time.Now()); err != nil {
			o.Log.Warn("a certificate needs attention", "err", err)
		}
	}

	auditLog, err := core.OpenAudit(c, o.Log, m.AuditCommit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, core.AuditError(auditLog.Close())) }()
	began := files.Hashes()
	began["version"], began["revision"], began["config"] = o.Version, o.Revision, c.Hash
	if err := record(ctx, auditLog, "start", began); err != nil {
		return core.AuditError(err)
	}
	recordStop := sync.OnceFunc(func() {
		if rerr := record(context.WithoutCancel(ctx), auditLog, "stop", nil); rerr != nil {
			o.Log.Error("the stop was not recorded", "err", rerr)
		}
	})
	defer recordStop()
	warn(c, o.Log)

	k, err := core.Open(ctx, c, core.Options{Log: o.Log, Version: o.Version, Observe: m.HSMCall, Serve: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	db, cache, token := k.Store, k.Cache, k.Token

	// The loops outlive the requests: they end when the listeners have. The
	// snapshot is kept fresh from the beginning: a start may take longer than
	// keys are good.
	loopCtx, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	loops, loopCtx := errgroup.WithContext(loopCtx)
	defer func() {
		stopLoops()
		_ = loops.Wait() // its error was told before
	}()
	loops.Go(func() error { return runCache(loopCtx, cache) })

	meter := usage.New(usage.Config{Store: m.UsageStore(db), Node: c.Node, Dir: c.Audit.Dir, Log: o.Log})
	if err := meter.Load(ctx); err != nil {
		return core.StoreError(err)
	}
	hooks, err := webhook.New(webhook.Config{
		Hooks: material.Webhooks(c), Store: db, Holder: k.Node.Instance, Changed: cache.Changed, Observe: m.Webhook, Log: o.Log,
		Signer: webhook.Signer{Crypto: token, Snapshots: cache, Audit: auditLog, Usage: meter},
	})
	if err != nil {
		return exit.With(exit.Config, "", err)
	}
	if err := hooks.Load(ctx); err != nil {
		return core.StoreError(err)
	}

	engine := core.NewEngine(k, auditLog, meter)
	if err := engine.ReconcileAtStart(ctx); err != nil { // before anything uses a version that may be compromised
		return core.EngineError(err)
	}
	if err := engine.Recover(ctx); err != nil {
		return core.StoreError(err)
	}

	if err := engine.EnsureAuditKey(ctx); err != nil {
		return core.EngineError(err)
	}
	vouching := voucher(c, auditLog, k, m, o.Log)
	// A key that is out of use is brought back by requests, and a token that
	// cannot sign now by its recovery; vouching.Run tells, and tries again.
	if _, _, err := vouching.Checkpoint(ctx); errors.Is(err, vouch.ErrOtherKeys) || errors.Is(err, keys.ErrAudit) {
		return core.AuditError(fmt.Errorf("signing a checkpoint of the audit log: %w", err))
	}
	exports, err := exporters(ctx, c, auditLog, m, o.Version, o.Log)
	if err != nil {
		return err
	}

	draining := make(chan struct{})
	service := gateway.New(gateway.Config{
		Crypto: token, Snapshots: cache, Audit: auditLog, Policy: files.Policies, Lifecycle: engine, Usage: meter, Store: db,
		Authenticator: m.Authenticator(files.Authenticator), Limits: authz.NewLimiter(limits(c)), Webhooks: hooks, Triggers: triggers(c),
		TwoPeople: c.Rotation.TwoPeople, ApprovalLife: c.Rotation.ApprovalLife, Draining: draining, Log: o.Log,
		AuditLog: shown(c, auditLog, vouching), Instance: k.Node.Instance,
	})
	if err := service.ResumeApprovals(ctx); err != nil { // what was approved and not done
		return core.EngineError(err)
	}
	state := &parts{shared: c.Store.Shared(), token: token, store: db, audit: auditLog, cache: cache, hooks: hooks, exports: exports, self: k.Node.Instance}
	m.Watch(metrics.State{
		Tokens: state.tokens, Keys: cache.Keys, SnapshotAge: cache.Age, Damaged: cache.Damaged, Due: engine.Due,
		Rotations: state.rotations, Webhooks: state.webhooks,
	})
	m.WatchStore(metrics.StoreState{Health: cache.Health, Nodes: state.nodes, Self: k.Node.Instance})
	m.WatchAudit(metrics.AuditState{
		Size: auditLog.Size, Exports: exportStats(exports),
		Vouched: func() int64 { _, c := auditLog.Vouched(); return c.Size },
	})
	m.CertificateExpiry(files.TLS.Certificate().NotAfter)
	reloader := reload.New(reload.Config{
		Parts: files.Parts(c), Interval: c.ReloadInterval, Now: o.Reload, Audit: auditLog, Log: o.Log,
		Observe: func(part string, err error) {
			m.Reload(part, err)
			m.CertificateExpiry(files.TLS.Certificate().NotAfter)
		},
	})

	ls, err := listen(ctx, c)
	if err != nil {
		return err
	}
	api := rest.New(rest.Config{
		Service: service, MaxBody: int64(c.Request.MaxBody), MaxBatchBody: int64(c.Request.MaxBatchBody),
		MaxInFlight: c.Request.MaxInFlight, Timeout: c.Request.Timeout, Log: o.Log, Access: accessLog(c, o.Log), Observe: m.Request,
		Draining: draining,
	})
	ops := rest.NewOps(rest.OpsConfig{Ready: state.ready, Metrics: m.Handler()})
	ls.handle(files.TLS, files.TLS.Handler(m.Streams(api)), ops, o.Log)

	loops.Go(func() error { return core.HSMError(token.Run(loopCtx)) })
	loops.Go(func() error { return core.HSMError(watchStuck(loopCtx, c.Tokens, token.Health)) })
	loops.Go(func() error { return engine.Run(loopCtx) })
	loops.Go(func() error { return service.RunApprovals(loopCtx) })
	loops.Go(func() error { return files.Authenticator.Run(loopCtx) })
	loops.Go(func() error { return reloader.Run(loopCtx) })
	loops.Go(func() error { return hooks.Run(loopCtx) })
	loops.Go(func() error { return forever(loopCtx, o.Log, "Idempotency-Keys", service.ExpireAttempts) })
	loops.Go(func() error {
		return forever(loopCtx, o.Log, "events", func(ctx context.Context) (int, error) {
			return db.ExpireEvents(ctx, time.Now().Add(-c.Events.Keep))
		})
	})
	for _, e := range exports {
		loops.Go(func() error { return e.Run(loopCtx) })
	}
	loops.Go(func() error { return vouching.Run(loopCtx) })
	stopMeter := background(ctx, meter.Run)

	served := ls.serve(o.Log)
	delay := time.Duration(0) // what has failed is not kept going
	if err = ls.announce(o); err == nil {
		select {
		case <-ctx.Done():
			delay = c.ShutdownDelay
		case <-loopCtx.Done():
			o.Log.Error("stopping: a part of the gateway has failed")
		case err = <-served:
		}
	}
	state.stopping.Store(true)
	if delay > 0 {
		o.Log.Info("stopping: not ready any more; requests are taken until balancers have noticed", "delay", delay)
		wait(loopCtx, delay)
	}
	o.Log.Info("stopping: no new requests; those under way have time to end", "grace", c.ShutdownGrace)
	close(draining)
	ls.shutdown(delay, c.ShutdownGrace, o.Log)
	stopLoops()
	if lerr := loops.Wait(); lerr != nil && !errors.Is(lerr, context.Canceled) {
		err = errors.Join(err, lerr)
	}
	if merr := stopMeter(); merr != nil { // the last to count has ended
		o.Log.Warn("usage that was reserved and not needed stays counted", "err", merr)
	}
	recordStop()
	if _, _, verr := vouching.Checkpoint(context.WithoutCancel(ctx)); verr != nil { // the HSM may be what has failed
		o.Log.Error("the end of the audit log is not vouched for until the next start", "err", verr)
	}
	o.Log.Info("stopped serving; closing")
	return err
}

// record writes what the gateway does by itself into the audit log.
func record(ctx context.Context, log *audit.Log, action string, details map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := log.Append(ctx, audit.Record{
		Action: action, Principal: "system", AuthMethod: "system", Initiator: "system", Outcome: audit.OutcomeOK, Details: details,
	})
	return err
}

// runCache ends with an exit status, should another gateway have the name.
func runCache(ctx context.Context, cache *store.Cache) error {
	err := cache.Run(ctx)
	if errors.Is(err, store.ErrNameTaken) {
		return core.NameTaken(err)
	}
	return core.StoreError(err)
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// background runs a loop that goes on after ctx has ended, until stop, which
// returns its error.
func background(ctx context.Context, run func(ctx context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}
