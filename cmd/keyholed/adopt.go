package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"keyhole/audit"
	"keyhole/cmd/keyholed/internal/core"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/keys"
	"keyhole/rotation"
)

type adoptFlags struct {
	file        string
	dryRun      bool
	imports     []string
	algorithms  []string
	skip        []string
	unprotected bool
	output      string
	verbose     bool
}

func (a *app) adoptCommand() *cobra.Command {
	var f adoptFlags
	c := &cobra.Command{
		Use:   "adopt --config keyhole.yaml",
		Short: "Build the key database anew from the keys on the tokens, and take in keys of other tools",
		Long: "Finds the keys that Keyhole has made on the tokens, by their labels, and enters those into the database that\n" +
			"it does not know or whose rows were altered: after the database was lost, or replaced by an older copy. Keys\n" +
			"whose rows are good stay as they are. Nothing is changed on a token but for the key by which rows are\n" +
			"authenticated, which is made if it is not there. The gateway must be stopped. It may be repeated.\n\n" +
			"Of each key the highest version that the token does not mark as compromised is active afterwards. What no\n" +
			"token tells is not restored: policies, descriptions, tags, and what was suspended, archived or to be destroyed.\n" +
			"Set the policies anew, and look through what was archived, before agents come back.\n\n" +
			"RSA keys do not tell for which algorithm they were made. The audit log does; where it is lost too, say so:\n" +
			"  --algorithm payments=PS256        of every version of a key\n" +
			"  --algorithm payments.v3=RS256     of one version\n\n" +
			"Keys that other tools have made are taken in by their label:\n" +
			"  --import 'LABEL=NAME[.vN][,algorithm=ALG][,token=TOKEN]'\n" +
			"LABEL is the CKA_LABEL of the key object (of both, for a pair), NAME the key that it becomes a version of: the\n" +
			"first one, if no number is given. Its CKA_ID must be one of 16 bytes; what to do otherwise is shown. With a\n" +
			"lost database, name keys that were imported before with their version: --import web=site.v1.\n\n" +
			"Exit status:\n" +
			"  0  every key that was found is in the database\n" +
			"  1  some are not; it is shown why and what to do\n" +
			"  2 to 6  as of `keyholed serve`",
		Args: cobra.NoArgs,
		RunE: a.action(func(ctx context.Context) error { return a.adopt(ctx, f) }),
	}
	configFlag(c, &f.file)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "change nothing: show what would be done")
	c.Flags().StringArrayVar(&f.imports, "import", nil, "take in the key of another tool: `LABEL=NAME` (may be repeated)")
	c.Flags().StringArrayVar(&f.algorithms, "algorithm", nil, "what a key or a version is for: `KEY=ALGORITHM` (may be repeated)")
	c.Flags().StringArrayVar(&f.skip, "skip", nil, "leave a `version` out, like payments.v2; its number does not come again (may be repeated)")
	c.Flags().BoolVar(&f.unprotected, "allow-unprotected", false, "take keys too that can leave the token, or could have before")
	c.Flags().StringVarP(&f.output, "output", "o", "text", "`format` of the report: text or json")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log what is done on standard error")
	return c
}

func (a *app) adopt(ctx context.Context, f adoptFlags) (err error) {
	spec, err := f.spec()
	if err != nil {
		return exit.With(exit.Config, "", err)
	}
	cfg, err := loadConfig(f.file)
	if err != nil {
		return err
	}
	told, err := recorded(cfg.Audit.Dir)
	if err != nil {
		a.warn("keyholed: the audit log does not tell everything: %v\n", err)
	}
	spec.Recorded, spec.Highest = told.algorithm, told.highest
	k, err := a.openOffline(ctx, cfg, core.Options{Log: a.commandLog(f.verbose), NewSeal: true, Rehearse: f.dryRun})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	blocked, altered, err := k.adoptBlocks(ctx, f.dryRun)
	if err != nil {
		return failed(err)
	}
	if err := k.Cache.Refresh(ctx); err != nil {
		return exit.With(exit.Store, "", err)
	}
	done, err := k.engine.Adopt(ctx, k.actor, k.Store, spec)
	if err != nil && len(done.Keys) == 0 {
		return failed(err)
	}
	report := adoptReport{Adoption: done, config: cfg, blocked: blocked, altered: altered}
	write := report.write
	if f.output == "json" {
		write = report.writeJSON
	}
	if werr := write(a.out); werr != nil || err != nil {
		return errors.Join(failed(err), werr)
	}
	if n := done.Refused(); n > 0 {
		return exit.With(exit.Failure, "", fmt.Errorf("%s not taken", count(n, "key was", "keys were")))
	}
	return nil
}

// adoptBlocks takes the list of blocked principals as it can be read, if it
// was altered or sealed by another key.
func (k *offline) adoptBlocks(ctx context.Context, dryRun bool) (blocked []string, altered bool, err error) {
	blocked, err = k.Store.Blocked(ctx)
	if !errors.Is(err, keys.ErrTampered) {
		return blocked, false, err
	}
	if dryRun { // over a copy
		_, err := k.Store.AdoptBlocks(ctx)
		return blocked, true, err
	}
	details := map[string]string{"blocked": strings.Join(blocked, " ")}
	intent, err := k.record(ctx, "adopt-blocks", audit.OutcomeIntent, nil, details)
	if err != nil {
		return nil, false, err
	}
	outcome := audit.OutcomeOK
	if _, err = k.Store.AdoptBlocks(ctx); err != nil {
		outcome = audit.OutcomeError
	}
	_, rerr := k.record(context.WithoutCancel(ctx), "adopt-blocks", outcome, &intent, details)
	return blocked, true, errors.Join(err, rerr)
}

// spec reads the flags.
func (f adoptFlags) spec() (rotation.AdoptSpec, error) {
	s := rotation.AdoptSpec{DryRun: f.dryRun, Unprotected: f.unprotected, Algorithms: map[string]keys.Algorithm{}}
	if err := chosen(f.output); err != nil {
		return s, err
	}
	for _, text := range f.imports {
		i, err := parseImport(text)
		if err != nil {
			return s, fmt.Errorf("--import %q: %w", text, err)
		}
		s.Imports = append(s.Imports, i)
	}
	for _, text := range f.algorithms {
		of, name, ok := strings.Cut(text, "=")
		if !ok {
			return s, fmt.Errorf("--algorithm %q: write KEY=ALGORITHM, like payments=PS256", text)
		}
		alg, err := keys.ParseAlgorithm(name)
		if err != nil {
			return s, fmt.Errorf("--algorithm %q: %w", text, err)
		}
		if _, err := keys.ParseVersionID(of); err != nil && keys.CheckName(of) != nil {
			return s, fmt.Errorf("--algorithm %q: %q is neither a key nor a version", text, of)
		}
		s.Algorithms[of] = alg
	}
	for _, text := range f.skip {
		id, err := keys.ParseVersionID(text)
		if err != nil {
			return s, fmt.Errorf("--skip: %w", err)
		}
		s.Skip = append(s.Skip, id)
	}
	return s, nil
}

// parseImport reads LABEL=NAME[.vN][,algorithm=ALG][,token=TOKEN]. Labels may
// hold anything, so it is read from its end.
func parseImport(text string) (rotation.Import, error) {
	var i rotation.Import
	rest := text
	for {
		before, option, ok := cutLast(rest, ",")
		name, value, isOption := strings.Cut(option, "=")
		if !ok || !isOption || name != "algorithm" && name != "token" {
			break
		}
		switch {
		case name == "token" && i.Token == "" && value != "":
			i.Token = value
		case name == "algorithm" && i.Algorithm == "":
			alg, err := keys.ParseAlgorithm(value)
			if err != nil {
				return rotation.Import{}, err
			}
			i.Algorithm = alg
		default:
			return rotation.Import{}, fmt.Errorf("%s is given twice, or empty", name)
		}
		rest = before
	}
	label, name, ok := cutLast(rest, "=")
	if !ok || label == "" {
		return rotation.Import{}, errors.New("write LABEL=NAME, like 'Web key 2019=site'")
	}
	i.Label, i.Key = label, name
	if id, err := keys.ParseVersionID(name); err == nil {
		i.Key, i.Number = id.Key, id.Number
	}
	return i, keys.CheckNewName(i.Key)
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// memory is what the audit log tells of versions.
type memory struct {
	algorithms map[keys.ObjectID]keys.Algorithm
	numbers    map[string]uint32
}

func (m memory) algorithm(id keys.ObjectID) keys.Algorithm { return m.algorithms[id] }
func (m memory) highest(key string) uint32                 { return m.numbers[key] }

// recorded reads the audit log in dir. What it returns with an error is what
// stands before the mistake.
func recorded(dir string) (memory, error) {
	m := memory{algorithms: map[keys.ObjectID]keys.Algorithm{}, numbers: map[string]uint32{}}
	for r, err := range audit.Read(dir) {
		if err != nil {
			return m, err
		}
		if n := max(r.Version, r.ToVersion); r.Key != "" && n > m.numbers[r.Key] && made(r) {
			m.numbers[r.Key] = n
		}
		switch {
		case r.Action == "adopt":
			m.adopted(r)
		case made(r):
			m.version(r.Details["cka_id"], r.Algorithm)
		}
	}
	return m, nil
}

// made reports whether a record is about the making of a version. Others
// name versions that callers may have made up.
func made(r audit.Record) bool { return r.Action == "create-key" || r.Action == "rotate" }

func (m memory) version(id, alg string) {
	object, err := keys.ParseObjectID(id)
	if a := keys.Algorithm(alg); err == nil && a.Known() {
		m.algorithms[object] = a
	}
}

// adopted reads the record of an adoption: see rotation.Engine.Adopt.
func (m memory) adopted(r audit.Record) {
	for name, text := range r.Details {
		id, err := keys.ParseVersionID(name)
		fields := strings.Split(text, ", ")
		if err != nil || id.Key != r.Key || len(fields) < 2 {
			continue
		}
		m.numbers[r.Key] = max(m.numbers[r.Key], id.Number)
		m.version(strings.TrimPrefix(fields[0], "cka_id "), fields[1])
	}
}
