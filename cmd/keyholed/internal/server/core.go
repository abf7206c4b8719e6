package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"keyhole/audit"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/cmd/keyholed/internal/vouch"
	"keyhole/hsm"
	"keyhole/keys"
	"keyhole/rotation"
	"keyhole/store"
)

// Core is what every command that acts on keys needs: the tokens, and the
// store with its snapshot. While it is open no other keyholed has the store.
type Core struct {
	Token *hsm.HSM
	Store *store.SQLite
	Cache *store.Cache // filled

	lock    *os.File
	scratch string // directory of a rehearsal's copy
}

// CoreOptions say how to open a Core.
type CoreOptions struct {
	Log     *slog.Logger
	Observe func(function, token, result string, d time.Duration) // of PKCS#11 calls; nil: nothing
	// NewSeal lets a database that is there be opened by a new key: no row in
	// it is believed then. Otherwise the key must be on a token, unless there
	// is no database yet. The Cache is not filled, for the list of blocked
	// principals may have to be adopted before.
	NewSeal bool
	// Rehearse works on a copy of the database, and makes nothing on a token:
	// nothing that is done lasts.
	Rehearse bool
}

// OpenCore opens the tokens and, by the key that is on one of them, the
// store. Its errors carry an exit status.
func OpenCore(ctx context.Context, c *config.Config, o CoreOptions) (_ *Core, err error) {
	k := &Core{}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	if k.lock, err = lockStore(c.Store.SQLite); err != nil {
		return nil, err
	}
	if err := setModuleEnv(c); err != nil {
		return nil, err
	}
	if k.Token, err = hsm.Open(ctx, hsmConfig(c, o.Log, o.Observe)); err != nil {
		return nil, hsmError(err)
	}
	path, seal := c.Store.SQLite, []byte(nil)
	if o.Rehearse {
		if path, k.scratch, err = rehearsal(path); err == nil {
			seal, err = rehearsedSeal(ctx, k.Token, path, o.NewSeal)
		}
	} else {
		seal, err = sealOf(ctx, k.Token, path, o.NewSeal)
	}
	if err != nil {
		return nil, err
	}
	k.Store, err = store.OpenSQLite(ctx, path, seal)
	clear(seal)
	if err != nil {
		return nil, storeError(err)
	}
	k.Cache = store.NewCache(k.Store, store.CacheConfig{MaxStaleness: c.Store.MaxStaleness, Poll: c.Store.Poll, Log: o.Log})
	if o.NewSeal {
		return k, nil
	}
	return k, storeError(k.Cache.Refresh(ctx))
}

// Close closes what is open, in reverse.
func (k *Core) Close() error {
	var errs []error
	if k.Store != nil {
		errs = append(errs, storeError(k.Store.Close()))
	}
	if k.Token != nil {
		errs = append(errs, hsmError(k.Token.Close()))
	}
	if k.scratch != "" {
		errs = append(errs, os.RemoveAll(k.scratch))
	}
	if k.lock != nil {
		_ = k.lock.Close() // gives the lock up, whatever it returns
	}
	return errors.Join(errs...)
}

// sealOf returns the key that the rows of the store at path are sealed by.
// With a database that is there and a token without that key, one of them is
// not the right one; a new key would make every row look altered.
func sealOf(ctx context.Context, token *hsm.HSM, path string, create bool) ([]byte, error) {
	if info, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		create = true
	}
	seal, err := token.StoreKey(ctx, create)
	if errors.Is(err, keys.ErrNotFound) {
		return nil, foreignStore(path, err)
	}
	return seal, hsmError(err)
}

func foreignStore(path string, err error) error {
	return exit.With(exit.Store, "see that tokens[] in the configuration are those that the database was made with; "+
		"`keyholed adopt` makes the database anew from the keys on the token", fmt.Errorf("the database %s cannot be checked: %w", path, err))
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
	return l, auditError(err)
}

// NewEngine returns the engine over a Core.
func NewEngine(c *config.Config, k *Core, log *audit.Log, usage rotation.Usage, out *slog.Logger) *rotation.Engine {
	r := c.Rotation
	return rotation.New(rotation.Config{
		Store: k.Store, Token: k.Token, Audit: log, Usage: usage, Keys: k.Cache.Keys, Refresh: k.Cache.Refresh, Log: out,
		Propagation: r.Propagation, Limits: keys.Limits{MinPeriod: r.MinPeriod, MinDestroyDelay: r.MinDestroyDelay},
	})
}

func setModuleEnv(c *config.Config) error {
	for name, value := range c.ModuleEnv {
		if err := os.Setenv(name, value); err != nil { // reaches the module: the C library's environment is set too
			return exit.With(exit.Config, "", fmt.Errorf("setting %s for the PKCS#11 modules: %w", name, err))
		}
	}
	return nil
}
