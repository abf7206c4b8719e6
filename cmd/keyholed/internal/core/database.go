package core

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/keys"
	"keyhole/rotation/lease"
	"keyhole/store"
)

// openStore opens the store by the key that is on a token.
func (k *Core) openStore(ctx context.Context, o Options) error {
	if k.config.Store.Shared() {
		return k.openPostgres(ctx, o)
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

func (k *Core) openPostgres(ctx context.Context, o Options) error {
	seal, err := sharedSeal(ctx, k.Token, false)
	switch {
	case errors.Is(err, keys.ErrNotFound):
		if seal, err = k.beginSeal(ctx, o); err != nil {
			return err
		}
	case err != nil:
		return HSMError(err)
	}
	db, err := k.reach(ctx, o, seal)
	clear(seal)
	if err != nil {
		return err
	}
	k.Store = db
	if o.Rehearse {
		k.Store = &rehearsed{Store: db}
	}
	return begun(ctx, k.Store, k.config.Store.Where(), o)
}

// sealLease is held by the gateway that makes the key for an empty database.
const sealLease = "seal"

// beginSeal makes the key that no token has, for a database in which nothing
// is sealed by another one. Of gateways that begin at once one makes it, under
// a lease. The store is opened for its leases by a key that nobody keeps.
func (k *Core) beginSeal(ctx context.Context, o Options) (seal []byte, err error) {
	view, err := k.reach(ctx, o, throwAway())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, StoreError(view.Close())) }()
	ctx, done, err := lease.New(lease.Config{Store: view, Holder: k.Node.Instance, Log: k.log}).Wait(ctx, sealLease)
	if err != nil {
		return nil, StoreError(err)
	}
	defer done()
	seal, err = sharedSeal(ctx, k.Token, false) // by whoever had the lease before
	if !errors.Is(err, keys.ErrNotFound) {
		return seal, HSMError(err)
	}
	empty, verr := vacant(ctx, view)
	if verr == nil && !empty {
		if seal, err = k.lateSeal(ctx, o); !errors.Is(err, keys.ErrNotFound) {
			return seal, HSMError(err)
		}
	}
	switch {
	case verr != nil:
		return nil, StoreError(verr)
	case !empty && !o.NewSeal, !o.Serve && !o.NewSeal:
		return nil, foreignStore(k.config.Store.Where(), err)
	case o.Rehearse:
		return throwAway(), nil
	}
	if seal, err = sharedSeal(ctx, k.Token, true); err != nil {
		return nil, HSMError(err)
	}
	if err := k.claim(ctx, o, seal); err != nil {
		clear(seal)
		return nil, err
	}
	return seal, nil
}

// lateSeal looks once more for a key that must be there, with the modules
// opened anew: of several processes that make objects at the same moment
// SoftHSM shows some the others' objects only then.
func (k *Core) lateSeal(ctx context.Context, o Options) ([]byte, error) {
	err := k.Token.Close()
	k.Token = nil
	if err != nil {
		return nil, err
	}
	if k.Token, err = openTokens(ctx, k.config, o); err != nil {
		return nil, err
	}
	return sharedSeal(ctx, k.Token, false)
}

// claim begins the database while the lease lasts: whoever has it next finds
// the database begun, and makes no second key though it may not see the first
// one on the token yet.
func (k *Core) claim(ctx context.Context, o Options, seal []byte) error {
	db, err := k.reach(ctx, o, seal)
	if err != nil {
		return err
	}
	return errors.Join(begun(ctx, db, k.config.Store.Where(), o), StoreError(db.Close()))
}

func throwAway() []byte {
	key := make([]byte, sealSize)
	rand.Read(key) // never fails (Go 1.24)
	return key
}

// vacant reports whether no key was ever stored. The list of blocked
// principals is not looked at: it cannot be read by another key.
func vacant(ctx context.Context, db store.Store) (bool, error) {
	all, revision, err := db.Load(ctx)
	return len(all) == 0 && revision == 0, err
}

// begun seals what an empty database begins with by the key that is used from
// now on, and refuses such a one to a command that needs what is in it.
func begun(ctx context.Context, db store.Store, where string, o Options) error {
	if o.NewSeal {
		return nil // adopt looks at all of it
	}
	_, err := db.Blocked(ctx)
	if o.Serve && !errors.Is(err, keys.ErrTampered) {
		return StoreError(err)
	}
	empty, err := vacant(ctx, db)
	switch {
	case err != nil || !empty:
		return StoreError(err) // the snapshot's first load says what was altered
	case !o.Serve:
		return exit.With(exit.Store, "see that store.postgres names the database of the gateways; if it is lost, `keyholed adopt` makes it anew from the keys on the token",
			fmt.Errorf("the database %s is empty", where))
	}
	_, err = db.AdoptBlocks(ctx)
	return StoreError(err)
}

// reachEvery is how often a start tries to open a store that cannot be.
const reachEvery = time.Second

// reach opens the PostgreSQL store. A gateway waits for it as long as the
// configuration says: when a whole site starts, the database may be the last.
func (k *Core) reach(ctx context.Context, o Options, seal []byte) (*store.Postgres, error) {
	deadline, said := time.Now(), ""
	if o.Serve {
		deadline = deadline.Add(k.config.Store.StartWait)
	}
	for {
		db, err := store.OpenPostgres(ctx, PostgresConfig(k.config, k.log), seal)
		switch {
		case err == nil:
			if said != "" {
				k.log.InfoContext(ctx, "the store is there")
			}
			return db, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !errors.Is(err, keys.ErrStore), time.Now().After(deadline):
			return nil, exit.With(exit.Store, "a gateway does not start without its database; store.start_wait says how long it waits for it", err)
		}
		if said != err.Error() {
			said = err.Error()
			k.log.ErrorContext(ctx, "the store cannot be opened; trying again", "until", deadline.UTC().Truncate(time.Second), "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(reachEvery):
		}
	}
}
