// Package server is `keyholed serve`: the one place where HSM, store, audit
// log, policies and transports meet.
//
// What is opened first is closed last. The audit log is opened before all
// else and closed after all else, so that everything in between can be
// recorded; the listeners open when everything works, and stop first.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"keyhole/audit"
	"keyhole/authz"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/cmd/keyholed/internal/material"
	"keyhole/cmd/keyholed/internal/metrics"
	"keyhole/cmd/keyholed/internal/reload"
	"keyhole/cmd/keyholed/internal/tlsfiles"
	"keyhole/gateway"
	"keyhole/gateway/rest"
	"keyhole/hsm"
	"keyhole/rotation"
	"keyhole/store"
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

	auditLog, err := audit.Open(audit.Config{Dir: c.Audit.Dir, Node: c.Node, Log: o.Log, Observe: m.AuditCommit})
	if err != nil {
		return auditError(err)
	}
	defer func() { err = errors.Join(err, auditError(auditLog.Close())) }()
	if err := record(ctx, auditLog, "start", map[string]string{"version": o.Version, "revision": o.Revision}); err != nil {
		return auditError(err)
	}
	defer func() {
		if rerr := record(context.WithoutCancel(ctx), auditLog, "stop", nil); rerr != nil {
			o.Log.Error("the stop was not recorded", "err", rerr)
		}
	}()

	lock, err := lockStore(c.Store.SQLite)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := setModuleEnv(c); err != nil {
		return err
	}
	token, err := hsm.Open(ctx, hsmConfig(c, o.Log, m))
	if err != nil {
		return hsmError(err)
	}
	defer func() { err = errors.Join(err, hsmError(token.Close())) }()

	seal, err := token.StoreKey(ctx, true)
	if err != nil {
		return hsmError(err)
	}
	db, err := store.OpenSQLite(ctx, c.Store.SQLite, seal)
	if err != nil {
		return storeError(err)
	}
	defer func() { err = errors.Join(err, storeError(db.Close())) }()
	cache := store.NewCache(db, store.CacheConfig{MaxStaleness: c.Store.MaxStaleness, Poll: c.Store.Poll, Log: o.Log})
	if err := cache.Refresh(ctx); err != nil {
		return storeError(err)
	}

	engine := rotation.New(rotation.Config{
		Store: db, Token: token, Audit: auditLog, Keys: cache.Keys, Refresh: cache.Refresh, Log: o.Log,
	})
	if err := engine.Recover(ctx); err != nil {
		return storeError(err)
	}

	service := gateway.New(gateway.Config{
		Crypto: token, Snapshots: cache, Audit: auditLog, Policy: files.Policies, Lifecycle: engine, Attempts: db,
		Authenticator: m.Authenticator(files.Authenticator), Limits: authz.NewLimiter(limits(c)),
	})
	state := &parts{token: token, store: db, audit: auditLog, cache: cache}
	m.Watch(metrics.State{Tokens: state.tokens, Keys: cache.Keys, SnapshotAge: cache.Age})
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
	})
	ops := rest.NewOps(rest.OpsConfig{Ready: state.ready, Metrics: m.Handler()})
	ls.handle(files.TLS, files.TLS.Handler(api), ops, o.Log)

	// The loops outlive the requests: they end when the listeners have.
	loopCtx, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoops()
	loops, loopCtx := errgroup.WithContext(loopCtx)
	loops.Go(func() error { return hsmError(token.Run(loopCtx)) })
	loops.Go(func() error { return hsmError(watchStuck(loopCtx, c.Tokens, token.Health)) })
	loops.Go(func() error { return storeError(cache.Run(loopCtx)) })
	loops.Go(func() error { return engine.Run(loopCtx) })
	loops.Go(func() error { return files.Authenticator.Run(loopCtx) })
	loops.Go(func() error { return reloader.Run(loopCtx) })
	loops.Go(func() error { return expireAttempts(loopCtx, service, o.Log) })

	served := ls.serve(o.Log)
	err = ls.announce(o)
	if err == nil {
		select {
		case <-ctx.Done():
			o.Log.Info("stopping: no new requests; those under way have time to end", "grace", c.ShutdownGrace)
		case <-loopCtx.Done():
			o.Log.Error("stopping: a part of the gateway has failed")
		case err = <-served:
		}
	}
	state.stopping.Store(true)
	ls.shutdown(c.ShutdownGrace, o.Log)
	stopLoops()
	if lerr := loops.Wait(); lerr != nil && !errors.Is(lerr, context.Canceled) {
		err = errors.Join(err, lerr)
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

// expireAttempts forgets old Idempotency-Keys, until ctx ends.
func expireAttempts(ctx context.Context, s *gateway.Service, log *slog.Logger) error {
	t := time.NewTicker(time.Hour)
	defer t.Stop()
	for {
		if _, err := s.ExpireAttempts(ctx); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "old Idempotency-Keys were not removed", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func setModuleEnv(c *config.Config) error {
	for name, value := range c.ModuleEnv {
		if err := os.Setenv(name, value); err != nil { // reaches the module: the C library's environment is set too
			return exit.With(exit.Config, "", fmt.Errorf("setting %s for the PKCS#11 modules: %w", name, err))
		}
	}
	return nil
}
