package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"

	"github.com/mattn/go-isatty"

	"keyhole/audit"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/core"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/keys"
	"keyhole/rotation"
)

// offline is what the commands for a stopped gateway work with.
type offline struct {
	*core.Core
	config *config.Config
	engine *rotation.Engine
	audit  rotation.Auditor
	actor  rotation.Actor

	log *audit.Log // nil in a rehearsal
}

// openOffline opens HSM, store and audit log in the place of the gateway,
// which must not run. In a rehearsal nothing that is done lasts.
func (a *app) openOffline(ctx context.Context, cfg *config.Config, o core.Options) (_ *offline, err error) {
	k := &offline{config: cfg, audit: silent{}, actor: operator()}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	if !o.Rehearse {
		if k.log, err = core.OpenAudit(cfg, o.Log, nil); err != nil {
			return nil, stopFirst(err)
		}
		k.audit = k.log
	}
	if k.Core, err = core.Open(ctx, cfg, o); err != nil {
		return nil, stopFirst(err)
	}
	k.engine = core.NewEngine(k.Core, k.audit, nil)
	return k, nil
}

// stopFirst says what to do about a gateway that runs.
func stopFirst(err error) error {
	if errors.Is(err, audit.ErrInUse) || errors.Is(err, core.ErrStoreInUse) || errors.Is(err, core.ErrGatewaysLive) {
		return exit.With(exit.Status(err), "stop the gateway first; a running one compares tokens and database by itself each hour, and when asked to (POST /v1/admin/reconcile)", err)
	}
	return err
}

// Close closes what is open, in reverse.
func (k *offline) Close() error {
	var errs []error
	if k.Core != nil {
		errs = append(errs, k.Core.Close())
	}
	if k.log != nil {
		errs = append(errs, exit.With(exit.Audit, "", k.log.Close()))
	}
	return errors.Join(errs...)
}

// record writes what an operator does into the audit log, before it is done
// (intent nil) or after.
func (k *offline) record(ctx context.Context, action, outcome string, intent *uint64, details map[string]string) (uint64, error) {
	seq, err := k.audit.Append(ctx, audit.Record{
		Action: action, Principal: k.actor.Principal, AuthMethod: k.actor.AuthMethod, Initiator: k.actor.Principal,
		Outcome: outcome, Intent: intent, Details: details,
	})
	return seq, exit.With(exit.Audit, "", err)
}

// silent is the audit log of a rehearsal, in which nothing is to be recorded.
type silent struct{}

func (silent) Append(context.Context, ...audit.Record) (uint64, error) {
	return 0, keys.Errorf(keys.ErrInternal, "a dry run records nothing")
}

// operator is who runs this process.
func operator() rotation.Actor {
	name := fmt.Sprint("uid-", os.Getuid())
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	return rotation.Actor{Principal: "local:" + name, AuthMethod: "local"}
}

// commandLog is the log of a command whose findings go to standard output: with
// verbose everything that a gateway logs, else nothing.
func (a *app) commandLog(verbose bool) *slog.Logger {
	if verbose {
		return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	return slog.New(slog.DiscardHandler)
}

// needsDatabase refuses to make one by accident.
func needsDatabase(cfg *config.Config) error {
	if cfg.Store.Shared() {
		return nil // whether it is empty shows when it is open
	}
	if _, err := os.Stat(cfg.Store.SQLite); errors.Is(err, fs.ErrNotExist) {
		return exit.With(exit.Store, "see that store.sqlite names the database of the gateway; if it is lost, `keyholed adopt` makes it anew from the keys on the token",
			fmt.Errorf("there is no database %s", cfg.Store.SQLite))
	}
	return nil
}

// progress returns what shows how far a long work has come: on a terminal
// only, and nil elsewhere.
func (a *app) progress(doing string) func(done, of int) {
	f, ok := a.err.(*os.File)
	if !ok || !isatty.IsTerminal(f.Fd()) {
		return nil
	}
	return func(done, of int) {
		end := ""
		if done == of {
			end = "\r\x1b[K"
		}
		a.warn("\r%s: %d of %d%s", doing, done, of, end)
	}
}

// chosen refuses an output format that there is not.
func chosen(output string) error {
	if output == "text" || output == "json" {
		return nil
	}
	return exit.With(exit.Config, "", fmt.Errorf("-o %q is no output format; use text or json", output))
}
