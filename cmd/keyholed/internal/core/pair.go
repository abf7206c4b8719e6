package core

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/hsm"
	"keyhole/keys"
	"keyhole/store"
)

// Pair is a SQLite database that no gateway uses, and the PostgreSQL one that
// it is to be copied into, opened by the same key on a token.
type Pair struct {
	From *store.SQLite
	To   *store.Postgres

	lock    *os.File
	token   *hsm.HSM
	scratch string
}

// OpenPair opens the database at path and the one that p names, with the
// tokens of c. In a rehearsal the first is a copy. Its errors carry an exit
// status.
func OpenPair(ctx context.Context, c *config.Config, path string, p config.Postgres, rehearse bool, log *slog.Logger) (_ *Pair, err error) {
	k := &Pair{}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	if k.lock, err = lockStore(path); err != nil {
		return nil, err
	}
	if err := setModuleEnv(c); err != nil {
		return nil, err
	}
	if k.token, err = hsm.Open(ctx, hsmConfig(c, log, nil)); err != nil {
		return nil, HSMError(err)
	}
	seal, err := k.token.StoreKey(ctx, false)
	if errors.Is(err, keys.ErrNotFound) {
		return nil, foreignStore(path, err)
	}
	if err != nil {
		return nil, HSMError(err)
	}
	defer clear(seal)
	if rehearse {
		if path, k.scratch, err = rehearsal(path); err != nil {
			return nil, err
		}
	}
	if k.From, err = store.OpenSQLite(ctx, path, seal); err != nil {
		return nil, StoreError(err)
	}
	// The lock says that whoever used it is gone, however that was.
	if err := k.From.Leave(ctx, aloneInstance); err != nil {
		return nil, StoreError(err)
	}
	to := *c
	to.Store.SQLite, to.Store.Postgres = "", p
	if k.To, err = store.OpenPostgres(ctx, PostgresConfig(&to, log), seal); err != nil {
		return nil, exit.With(exit.Store, "nothing was copied", err)
	}
	return k, nil
}

// Vacant reports whether the target holds no keys yet.
func (k *Pair) Vacant(ctx context.Context) (bool, error) { return vacant(ctx, k.To) }

// Close closes what is open, in reverse.
func (k *Pair) Close() error {
	var errs []error
	if k.To != nil {
		errs = append(errs, StoreError(k.To.Close()))
	}
	if k.From != nil {
		errs = append(errs, StoreError(k.From.Close()))
	}
	if k.token != nil {
		errs = append(errs, HSMError(k.token.Close()))
	}
	if k.scratch != "" {
		errs = append(errs, os.RemoveAll(k.scratch))
	}
	if k.lock != nil {
		_ = k.lock.Close() // gives the lock up, whatever it returns
	}
	return errors.Join(errs...)
}
