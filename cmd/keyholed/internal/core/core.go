// Package core opens what every command that acts on keys needs: the tokens,
// the store, which is SQLite's or PostgreSQL's, and the snapshot over it.
//
// A SQLite database belongs to one process, which holds a lock on a file. A
// PostgreSQL database is shared: every gateway is a node there, under a name
// that no other has, and the commands for a time without gateways are refused
// while there are any.
package core

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"keyhole/audit"
	"keyhole/audit/lookup"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/cmd/keyholed/internal/vouch"
	"keyhole/hsm"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// Core is the tokens, and the store with its snapshot.
type Core struct {
	Token *hsm.HSM
	Store store.Store
	Cache *store.Cache // filled, unless a new seal was asked for
	Node  keys.Node    // what this process is to others; Instance has its leases

	config  *config.Config
	log     *slog.Logger
	lock    *os.File
	scratch string // directory of a rehearsal's copy
	joined  bool   // others may know of this node
	alone   func() // gives the right to be alone up; nil: it was not taken
}

// Options say how to open a Core.
type Options struct {
	Log     *slog.Logger
	Version string                                                // of the program
	Observe func(function, token, result string, d time.Duration) // of PKCS#11 calls; nil: nothing
	// Serve makes this process a gateway among those that share the store.
	// Otherwise it wants to be alone with it.
	Serve bool
	// NewSeal lets a database that is there be opened by a new key: no row in
	// it is believed then. Otherwise the key must be on a token, unless there
	// is no database yet. The Cache is not filled, for the list of blocked
	// principals may have to be adopted before.
	NewSeal bool
	// Rehearse works on a copy of the database, or where there is none reads
	// only, and makes nothing on a token: nothing that is done lasts.
	Rehearse bool
}

// Open opens the tokens and, by the key that is on one of them, the store.
// Its errors carry an exit status. A context that ends is context.Canceled.
func Open(ctx context.Context, c *config.Config, o Options) (_ *Core, err error) {
	k := &Core{config: c, log: o.Log, Node: node(c, o.Version)}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	if !c.Store.Shared() {
		if k.lock, err = lockStore(c.Store.SQLite); err != nil {
			return nil, err
		}
	}
	if err := setModuleEnv(c); err != nil {
		return nil, err
	}
	if k.Token, err = openTokens(ctx, c, o); err != nil {
		return nil, HSMError(err)
	}
	if err := k.openStore(ctx, o); err != nil {
		return nil, err
	}
	if !o.Serve {
		if err := k.beAlone(ctx); err != nil {
			return nil, err
		}
	}
	k.Cache = store.NewCache(k.Store, k.cacheConfig(o))
	switch {
	case o.NewSeal:
		return k, nil
	case o.Serve:
		return k, k.join(ctx)
	}
	return k, StoreError(k.Cache.Refresh(ctx))
}

// Close closes what is open, in reverse.
func (k *Core) Close() error {
	var errs []error
	if k.alone != nil {
		k.alone()
	}
	if k.Store != nil {
		k.leave()
		errs = append(errs, StoreError(k.Store.Close()))
	}
	if k.Token != nil {
		errs = append(errs, HSMError(k.Token.Close()))
	}
	if k.scratch != "" {
		errs = append(errs, os.RemoveAll(k.scratch))
	}
	if k.lock != nil {
		_ = k.lock.Close() // gives the lock up, whatever it returns
	}
	return errors.Join(errs...)
}

// OpenAudit opens the audit log. Its errors carry an exit status.
func OpenAudit(c *config.Config, log *slog.Logger, observe func(records int, d time.Duration, err error)) (*audit.Log, error) {
	known, err := vouch.LoadKeys(c.Audit.KeysFile)
	if err != nil {
		return nil, exit.With(exit.Config, "put the file back as the gateway wrote it; if it is lost, move it away: checkpoints are believed unchecked then until the HSM is open", err)
	}
	l, err := audit.Open(audit.Config{
		Dir: c.Audit.Dir, Node: c.Node, Log: log, Observe: observe, Keys: known, SegmentSize: int64(c.Audit.SegmentSize), SegmentAge: c.Audit.SegmentAge,
	})
	return l, AuditError(err)
}

// NewEngine returns the engine over a Core.
func NewEngine(k *Core, log rotation.Auditor, usage rotation.Usage) *rotation.Engine {
	r := k.config.Rotation
	var history rotation.History // of this node, in which a crash may have left intents without an outcome
	if own, ok := log.(*audit.Log); ok {
		history = lookup.New(lookup.Config{Dir: k.config.Audit.Dir, Log: own})
	}
	return rotation.New(rotation.Config{
		History: history, Store: k.Store, Token: k.Token, Audit: log, Usage: usage, Holder: k.Node.Instance, Keys: k.Cache.Keys, Refresh: k.Cache.Refresh, Log: k.log,
		Propagation: r.Propagation, Limits: keys.Limits{MinPeriod: r.MinPeriod, MinDestroyDelay: r.MinDestroyDelay},
	})
}
