package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"keyhole/audit"
	"keyhole/cmd/keyholed/internal/core"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/gateway/api"
	"keyhole/keys"
	"keyhole/rotation"
)

type reconcileFlags struct {
	file    string
	dryRun  bool
	quick   bool
	output  string
	verbose bool
}

func (a *app) reconcileCommand() *cobra.Command {
	var f reconcileFlags
	c := &cobra.Command{
		Use:   "reconcile --config keyhole.yaml",
		Short: "Compare the tokens with the key database, and repair what is beyond doubt",
		Long: "Compares every object on the tokens with the key database, and uses every key once. The gateway must be\n" +
			"stopped; a running one does the same by itself each hour (without using every key), and when asked to\n" +
			"(POST /v1/admin/reconcile).\n\n" +
			"Repaired, with a record in the audit log: revocations that the database has lost, and objects of versions\n" +
			"that are destroyed or were never finished. Everything else is shown with what to do about it.\n" +
			"Objects that are not Keyhole's are counted and never touched.\n\n" +
			"Exit status:\n" +
			"  0  no difference is left\n" +
			"  1  differences are left\n" +
			"  2 to 6  as of `keyholed serve`; nothing was compared",
		Args: cobra.NoArgs,
		RunE: a.action(func(ctx context.Context) error { return a.reconcile(ctx, f) }),
	}
	configFlag(c, &f.file)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "change nothing: show what would be repaired")
	c.Flags().BoolVar(&f.quick, "quick", false, "compare what the objects say of themselves, without using every key")
	c.Flags().StringVarP(&f.output, "output", "o", "text", "`format` of the report: text or json")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log what is done on standard error")
	return c
}

func (a *app) reconcile(ctx context.Context, f reconcileFlags) (err error) {
	if err := chosen(f.output); err != nil {
		return err
	}
	cfg, err := loadConfig(f.file)
	if err != nil {
		return err
	}
	if err := needsDatabase(cfg); err != nil {
		return err
	}
	k, err := a.openOffline(ctx, cfg, core.Options{Log: a.commandLog(f.verbose), Rehearse: f.dryRun})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	report, err := k.compare(ctx, f, a.progress("using the keys"))
	if err != nil {
		return failed(err)
	}
	write := writeReport
	if f.output == "json" {
		write = writeReportJSON
	}
	if err := write(a.out, report); err != nil {
		return err
	}
	if left := left(report); left > 0 {
		return exit.With(exit.Failure, "", fmt.Errorf("%s left", count(left, "difference is", "differences are")))
	}
	return nil
}

// compare reconciles, and records that.
func (k *offline) compare(ctx context.Context, f reconcileFlags, progress func(done, of int)) (rotation.Report, error) {
	run := func() (rotation.Report, error) {
		if f.quick {
			return k.engine.Reconcile(ctx, k.actor, f.dryRun)
		}
		return k.engine.ReconcileAll(ctx, k.actor, f.dryRun, progress)
	}
	if f.dryRun {
		return run()
	}
	intent, err := k.record(ctx, "reconcile", audit.OutcomeIntent, nil, nil)
	if err != nil {
		return rotation.Report{}, err
	}
	report, err := run()
	outcome := audit.OutcomeOK
	if err != nil {
		outcome = audit.OutcomeError
	}
	_, rerr := k.record(context.WithoutCancel(ctx), "reconcile", outcome, &intent, map[string]string{
		"objects": strconv.Itoa(report.Objects), "versions": strconv.Itoa(report.Versions),
		"findings": strconv.Itoa(len(report.Findings)), "left": strconv.Itoa(left(report)),
	})
	return report, errors.Join(err, rerr)
}

// failed gives an error of the engine its exit status.
func failed(err error) error {
	switch {
	case errors.Is(err, keys.ErrHSM), errors.Is(err, keys.ErrTimeout), errors.Is(err, keys.ErrOverloaded):
		return exit.With(exit.HSM, "", err)
	case errors.Is(err, keys.ErrStore), errors.Is(err, keys.ErrTampered):
		return exit.With(exit.Store, "", err)
	case errors.Is(err, keys.ErrAudit):
		return exit.With(exit.Audit, "", err)
	}
	return err
}

// left counts the differences that are there still.
func left(r rotation.Report) (n int) {
	for _, f := range r.Findings {
		if f.Action != rotation.FindingRepaired {
			n++
		}
	}
	return n
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n, " ", many)
}

func writeReport(to io.Writer, r rotation.Report) error {
	var b bytes.Buffer
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format, args...) } // a buffer takes everything
	say("Compared %s of Keyhole's on the tokens with %s in the database; %s left alone.\n",
		count(r.Objects, "key object", "key objects"), count(r.Versions, "version", "versions"), count(r.Foreign, "object of others is", "objects of others are"))
	for _, f := range r.Findings {
		what := f.Label
		if what == "" {
			what = f.Key
		}
		say("\n%s: %s", what, f.Kind)
		if f.CKAID != "" {
			say(" (token %s, CKA_ID %s)", f.Token, f.CKAID)
		}
		say("\n  %s.\n  %s\n", upper(f.Text), map[rotation.FindingAction]string{
			rotation.FindingReported:    "Nothing was done.",
			rotation.FindingRepaired:    "It is repaired.",
			rotation.FindingWouldRepair: "It would be repaired: this was a dry run.",
			rotation.FindingFailed:      "The repair has failed.",
		}[f.Action])
	}
	switch n := left(r); {
	case len(r.Findings) == 0:
		say("They agree.\n")
	case n == 0:
		say("\n%s repaired. They agree now.\n", count(len(r.Findings), "difference was", "differences were"))
	default:
		say("\n%s left.\n", count(n, "difference is", "differences are"))
	}
	_, err := b.WriteTo(to)
	return err
}

// upper makes a sentence of a text.
func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func writeReportJSON(to io.Writer, r rotation.Report) error {
	out := api.ReconcileReport{DryRun: r.DryRun, Objects: r.Objects, Versions: r.Versions, Findings: []api.Finding{}}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, api.Finding{
			Kind: string(f.Kind), Token: f.Token, Label: f.Label, CKAID: f.CKAID, Key: f.Key, Text: f.Text, Action: string(f.Action),
		})
	}
	return writeJSON(to, out)
}

func writeJSON(to io.Writer, v any) error {
	e := json.NewEncoder(to)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
