package core

import (
	"context"
	"errors"
	"log/slog"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/keys"
	"keyhole/store"
)

// PostgresConfig is how the store of a configuration is reached.
func PostgresConfig(c *config.Config, log *slog.Logger) store.PostgresConfig {
	p := c.Store.Postgres
	return store.PostgresConfig{URL: p.URL, Password: p.Password(), CAFile: p.CAFile, CertFile: p.CertFile, KeyFile: p.KeyFile, Log: log}
}

// rehearsed is a shared store on which nothing is changed, nor seems to be.
type rehearsed struct {
	store.Store
	adopted bool // the list of blocked principals, as it can be read
}

var errRehearsal = keys.Errorf(keys.ErrInternal, "a dry run changes nothing")

func (r *rehearsed) Commit(context.Context, store.Change) error            { return errRehearsal }
func (r *rehearsed) Adopt(context.Context, *keys.Key) error                { return errRehearsal }
func (r *rehearsed) BlockAgent(context.Context, string, *keys.Block) error { return errRehearsal }
func (r *rehearsed) PutApproval(context.Context, *keys.Approval, keys.ApprovalState) error {
	return errRehearsal
}

func (r *rehearsed) AdoptBlocks(ctx context.Context) ([]string, error) {
	all, err := r.Store.Blocked(ctx)
	if errors.Is(err, keys.ErrTampered) {
		r.adopted, err = true, nil
	}
	return all, err
}

func (r *rehearsed) Blocked(ctx context.Context) ([]string, error) {
	all, err := r.Store.Blocked(ctx)
	if r.adopted && errors.Is(err, keys.ErrTampered) {
		err = nil
	}
	return all, err
}
