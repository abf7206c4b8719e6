package core

import (
	"context"
	"errors"

	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/store"
)

// openStore opens the store by the key that is on a token.
func (k *Core) openStore(ctx context.Context, o Options) error {
	if k.config.Store.Shared() {
		return exit.With(exit.Config, "", errors.New("PostgreSQL"))
	}
	return k.openSQLite(ctx, o)
}

func (k *Core) openSQLite(ctx context.Context, o Options) (err error) {
	path, seal := k.config.Store.SQLite, []byte(nil)
	if o.Rehearse {
		if path, k.scratch, err = rehearsal(path); err == nil {
			seal, err = rehearsedSeal(ctx, k.Token, path, o.NewSeal)
		}
	} else {
		seal, err = sealOf(ctx, k.Token, path, o.NewSeal)
	}
	if err != nil {
		return err
	}
	db, err := store.OpenSQLite(ctx, path, seal)
	clear(seal)
	if err != nil {
		return StoreError(err)
	}
	k.Store = db
	return nil
}
