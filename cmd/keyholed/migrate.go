package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"keyhole/audit"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/core"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/store"
)

type migrateFlags struct {
	file    string
	from    string
	to      config.Postgres
	dryRun  bool
	leave   bool
	verbose bool
}

func (a *app) migrateCommand() *cobra.Command {
	var f migrateFlags
	c := &cobra.Command{
		Use:   "migrate --config keyhole.yaml --to URL",
		Short: "Copy the key database from SQLite into PostgreSQL, for several gateways",
		Long: "Copies everything in the SQLite database of a gateway into an empty PostgreSQL database: keys, rotations,\n" +
			"approvals, agents, usage, events. Every row is read again and compared, and its seal checked, before it counts.\n" +
			"It is one transaction: whatever fails, and Ctrl-C, leaves the target empty. The SQLite database stays as it is.\n" +
			"The gateway must be stopped, and none may run on the target.\n\n" +
			"Either the configuration is the gateway's, and --to says where to; what to put into keyhole.yaml afterwards is\n" +
			"shown. Or it names the PostgreSQL database already, and --from names the SQLite database. Both use the tokens\n" +
			"of the configuration, which hold the key that rows are sealed by.\n\n" +
			"  keyholed migrate --config keyhole.yaml --to 'postgres://keyhole@db.example/keyhole?sslmode=verify-full' \\\n" +
			"    --password-file postgres-password --ca-file postgres-ca.crt\n\n" +
			"Exit status:\n" +
			"  0  everything is there\n" +
			"  1 to 6  as of `keyholed serve`; nothing was copied",
		Args: cobra.NoArgs,
		RunE: a.action(func(ctx context.Context) error { return a.migrate(ctx, f) }),
	}
	configFlag(c, &f.file)
	c.Flags().StringVar(&f.to.URL, "to", "", "the target, without a password: `postgres://USER@HOST/DATABASE`")
	c.Flags().StringVar(&f.to.PasswordFile, "password-file", "", "a `file` with the password, mode 0600")
	c.Flags().StringVar(&f.to.CAFile, "ca-file", "", "a `file` with the CAs to trust for it, PEM")
	c.Flags().StringVar(&f.to.CertFile, "cert-file", "", "a `file` with a client certificate, PEM")
	c.Flags().StringVar(&f.to.KeyFile, "key-file", "", "a `file` with its key, PEM")
	c.Flags().StringVar(&f.from, "from", "", "the SQLite `file`, where the configuration names the target")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "copy nothing: show what would be copied, and whether the target can be used")
	c.Flags().BoolVar(&f.leave, "leave-out-altered", false, "leave out what was altered in the SQLite database; `keyholed adopt` rebuilds keys on the target")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log what is done on standard error")
	return c
}

// ends returns what is copied into what.
func (f *migrateFlags) ends(cfg *config.Config) (from string, to config.Postgres, err error) {
	switch {
	case cfg.Store.Shared() && f.from != "" && f.to == (config.Postgres{}):
		return f.from, cfg.Store.Postgres, nil
	case !cfg.Store.Shared() && f.from == "" && f.to.URL != "":
		return cfg.Store.SQLite, f.to, config.CheckPostgres("--to", f.to)
	case cfg.Store.Shared():
		return "", to, errors.New("the configuration names a PostgreSQL database: say with --from which SQLite database to copy into it, and leave out --to and what belongs to it")
	}
	return "", to, errors.New("the configuration names a SQLite database: say with --to where to copy it, and leave out --from")
}

func (a *app) migrate(ctx context.Context, f migrateFlags) (err error) {
	cfg, err := loadConfig(f.file)
	if err != nil {
		return err
	}
	from, to, err := f.ends(cfg)
	if err != nil {
		return exit.With(exit.Config, "nothing was copied", err)
	}
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return exit.With(exit.Store, "", fmt.Errorf("there is no database %s", from))
	}
	log := a.commandLog(f.verbose)
	var record *audit.Log
	if !f.dryRun {
		if record, err = core.OpenAudit(cfg, log, nil); err != nil {
			return stopFirst(err)
		}
		defer func() { err = errors.Join(err, exit.With(exit.Audit, "", record.Close())) }()
	}
	pair, err := core.OpenPair(ctx, cfg, from, to, f.dryRun, log)
	if err != nil {
		return stopFirst(err)
	}
	defer func() { err = errors.Join(err, pair.Close()) }()
	if f.dryRun {
		return a.rehearseMigration(ctx, pair, from, to)
	}
	done, err := a.copyAll(ctx, &offline{audit: record, actor: operator()}, pair, f.leave, from, to)
	if err != nil {
		return err
	}
	return a.migrated(cfg, done, from, to)
}

// copyAll copies, and records that.
func (a *app) copyAll(ctx context.Context, k *offline, pair *core.Pair, leave bool, from string, to config.Postgres) (store.Copied, error) {
	where := config.Store{Postgres: to}.Where()
	intent, err := k.record(ctx, "migrate", audit.OutcomeIntent, nil, map[string]string{"from": from, "to": where})
	if err != nil {
		return store.Copied{}, err
	}
	done, err := store.Copy(ctx, pair.From, pair.To, store.CopyConfig{LeaveOut: leave, Progress: a.tables()})
	outcome, rows := audit.OutcomeOK, 0
	if err != nil {
		outcome = audit.OutcomeError
	}
	for _, n := range done.Rows {
		rows += n
	}
	_, rerr := k.record(context.WithoutCancel(ctx), "migrate", outcome, &intent, map[string]string{
		"from": from, "to": where, "rows": strconv.Itoa(rows), "left_out": strings.Join(done.LeftOut, ", "),
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return done, errors.Join(exit.With(exit.Failure, "", fmt.Errorf("stopped; nothing was copied: %w", err)), rerr)
	case err != nil:
		return done, errors.Join(exit.With(exit.Store, "nothing was copied; it may be tried again", err), rerr)
	}
	return done, rerr
}

// tables returns what shows how far the copying has come, on a terminal only.
func (a *app) tables() func(table string, done, of int) {
	f, ok := a.err.(*os.File)
	if !ok || !isatty.IsTerminal(f.Fd()) {
		return nil
	}
	return func(table string, done, of int) {
		end := ""
		if done >= of {
			end = "\n"
		}
		a.warn("\rcopying %s: %d of %d\x1b[K%s", table, done, of, end)
	}
}

// migrated says what was done, and what to do now.
func (a *app) migrated(cfg *config.Config, done store.Copied, from string, to config.Postgres) error {
	var b bytes.Buffer
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format, args...) } // a buffer takes everything
	verb := "are copied"
	if done.Already {
		verb = "had been copied already"
	}
	say("%s, %s and all that belongs to them %s from %s into %s. Every row was read again and compared, and its seal checked.\n",
		count(done.Rows["keys"], "key", "keys"), count(done.Rows["rotations"], "rotation", "rotations"), verb, from, config.Store{Postgres: to}.Where())
	for _, what := range done.LeftOut {
		say("Left out, because it was altered: %s.\n", what)
	}
	if len(done.LeftOut) > 0 {
		say("`keyholed adopt` rebuilds keys from their token.\n")
	}
	if !cfg.Store.Shared() {
		say("\nPut into %s, in the place of store.sqlite:\n\nstore:\n  postgres:\n    url: %s\n", cfg.File, strconv.Quote(to.URL))
		for _, l := range []struct{ key, file string }{
			{"password_file", to.PasswordFile}, {"ca_file", to.CAFile}, {"cert_file", to.CertFile}, {"key_file", to.KeyFile},
		} {
			if l.file == "" {
				continue
			}
			path, err := filepath.Abs(l.file)
			if err != nil {
				return err
			}
			say("    %s: %s\n", l.key, strconv.Quote(path))
		}
	}
	say("\nFrom now on no gateway may use %s: it knows nothing of what happens in the new database. Keep it, out of reach, until you trust the new one.\n", from)
	_, err := b.WriteTo(a.out)
	return err
}

// rehearseMigration says what would be done.
func (a *app) rehearseMigration(ctx context.Context, pair *core.Pair, from string, to config.Postgres) error {
	all, _, err := pair.From.Load(ctx)
	if err != nil {
		return exit.With(exit.Store, "", err)
	}
	versions, damaged := 0, []string(nil)
	for _, k := range all {
		versions += len(k.Versions)
		if k.Damaged {
			damaged = append(damaged, k.Name)
		}
	}
	if _, err := pair.From.Blocked(ctx); err != nil {
		return exit.With(exit.Store, "", err)
	}
	empty, err := pair.Vacant(ctx)
	if err != nil {
		return exit.With(exit.Store, "", err)
	}
	where := config.Store{Postgres: to}.Where()
	if _, err := fmt.Fprintf(a.out, "%s with %s would be copied from %s into %s: this was a dry run.\n",
		count(len(all), "key", "keys"), count(versions, "version", "versions"), from, where); err != nil {
		return err
	}
	switch {
	case !empty:
		return exit.With(exit.Store, "name an empty database", fmt.Errorf("the database %s is not empty", where))
	case len(damaged) > 0:
		return exit.With(exit.Store, "run `keyholed adopt` before, or leave them out with --leave-out-altered", fmt.Errorf("altered in %s: %s", from, strings.Join(damaged, ", ")))
	}
	return nil
}
