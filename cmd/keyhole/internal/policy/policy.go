// Package policy holds the command that tests policy files.
package policy

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"keyhole/authz"
	"keyhole/cmd/keyhole/internal/app"
)

// Command returns the command policy.
func Command(a *app.App) *cobra.Command {
	return app.Group(&cobra.Command{
		Use:     "policy",
		Short:   "Test policy files, without a gateway",
		Long:    "Tests policy files (Cedar) on this machine, before a gateway takes them up.",
		Example: `  keyhole policy test jwt:corp:billing sign payments --policies /etc/keyhole/policies`,
	}, policyTestCmd(a))
}

func policyTestCmd(a *app.App) *cobra.Command {
	var c authz.Case
	var paths, tags []string
	var casesFile string
	cmd := &cobra.Command{
		Use:   "test [PRINCIPAL] [ACTION] [KEY]",
		Short: "Ask whether a principal may do something, and by which policy",
		Long: `Answers whether PRINCIPAL may do ACTION with KEY, by which policy, and what each
other policy had to do with it. No gateway is asked: the key's tags and the
principal's groups are what you say they are. Exit code 4: denied.

With --cases it holds the policies against a file of expectations (YAML), one
per list item, and exits with 1 if one of them fails:

  - allow: jwt:corp:billing
    groups: [signers]
    action: sign
    key: payments
    tags: {team: billing}
  - deny: jwt:corp:mallory
    action: sign
    key: payments`,
		Example: `  keyhole policy test jwt:corp:billing sign payments --group signers --policies policies/
  keyhole policy test --cases policy-tests.yaml --policies policies/`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := app.Operands(cmd, args); err != nil {
				return err
			}
			if alone := cmd.Flags().Changed("cases"); alone != (len(args) == 0) || len(args) == 1 {
				return errors.New("ask about a PRINCIPAL and an ACTION, or give --cases FILE")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			policies, err := authz.LoadPolicies(paths...)
			if err != nil {
				return app.Usagef("%s", err)
			}
			if casesFile != "" {
				return policyCases(a, cmd, policies, casesFile)
			}
			c.Allow, c.Action = args[0], args[1]
			if len(args) > 2 {
				c.Key = args[2]
			}
			if c.Tags, err = app.ParseTags(tags); err != nil {
				return err
			}
			res := authz.RunCases(policies, []authz.Case{c})[0]
			if res.Explanation.Question == "" { // there was nothing to ask
				return app.Usagef("%s", res.Problem)
			}
			err = a.Print(explanationOf(res.Explanation), func(w io.Writer) error {
				_, err := io.WriteString(w, res.Explanation.String())
				return err
			})
			if err == nil && !res.Explanation.Allowed {
				return app.Silent{Code: app.ExitRefused}
			}
			return err
		},
		ValidArgsFunction: completeQuestion,
	}
	f := cmd.Flags()
	f.StringArrayVar(&paths, "policies", nil, "`PATH` of a policy file, or of a directory of *.cedar files; may be repeated")
	f.StringVar(&casesFile, "cases", "", "`FILE` of expectations to hold the policies against")
	f.StringArrayVar(&c.Groups, "group", nil, "`NAME` of a group that the principal is in; may be repeated")
	f.StringVar(&c.Purpose, "purpose", "", "`PURPOSE` of the key: sign or encrypt (default: as the action has it)")
	f.StringArrayVar(&tags, "tag", nil, "`NAME=VALUE` tag of the key; may be repeated")
	f.StringVar(&c.Context.Method, "method", "", "`METHOD` of authentication: jwt (default), mtls, jwt+mtls or anonymous")
	f.StringVar(&c.Context.SourceIP, "source-ip", "", "`ADDRESS` that the request comes from (default 127.0.0.1)")
	f.StringVar(&c.Context.VersionState, "version-state", "", "`STATE` of the key's version concerned")
	f.Int64Var(&c.Context.PayloadSize, "payload-size", 0, "`BYTES` of the payload")
	app.Complete(cmd, "purpose", "sign", "encrypt")
	app.Complete(cmd, "method", authz.MethodJWT, authz.MethodMTLS, authz.MethodJWTMTLS, authz.MethodAnonymous)
	for _, name := range []string{"group", "tag", "source-ip", "version-state", "payload-size"} {
		app.Complete(cmd, name)
	}
	_ = cmd.MarkFlagRequired("policies") // it exists, a few lines up
	for _, name := range []string{"group", "purpose", "tag", "method", "source-ip", "version-state", "payload-size"} {
		cmd.MarkFlagsMutuallyExclusive("cases", name)
	}
	return cmd
}

// completeQuestion offers the actions as the second operand.
func completeQuestion(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var words []string
	if len(args) == 1 {
		for _, action := range authz.Actions() {
			if strings.HasPrefix(action, prefix) {
				words = append(words, action)
			}
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func policyCases(a *app.App, cmd *cobra.Command, policies *authz.Policies, path string) error {
	data, err := a.Streams.Read(cmd.Context(), path)
	if err != nil {
		return err
	}
	cases, err := authz.ParseCases(data)
	if err != nil {
		return app.Usagef("%s: %s", path, err)
	}
	report := casesReport{Cases: []caseReport{}}
	for _, res := range authz.RunCases(policies, cases) {
		if res.OK {
			report.Held++
		} else {
			report.Failed++
		}
		report.Cases = append(report.Cases, caseReport{
			Line: res.Line, Name: res.Case.Name, OK: res.OK, Problem: res.Problem, Explanation: explanationOf(res.Explanation), text: res.Explanation.String(),
		})
	}
	if err := a.Print(report, func(w io.Writer) error { return report.write(w, path) }); err != nil {
		return err
	}
	if report.Failed > 0 {
		return app.Silent{Code: app.ExitError}
	}
	return nil
}

// casesReport is the answer to policy test --cases.
type casesReport struct {
	Held   int          `json:"held"`
	Failed int          `json:"failed"`
	Cases  []caseReport `json:"cases"`
}

type caseReport struct {
	Line        int         `json:"line"`
	Name        string      `json:"name,omitempty"`
	OK          bool        `json:"ok"`
	Problem     string      `json:"problem,omitempty"`
	Explanation explanation `json:"explanation"`

	text string // the explanation for people
}

func (r casesReport) write(w io.Writer, path string) error {
	for _, c := range r.Cases {
		if c.OK {
			continue
		}
		name := ""
		if c.Name != "" {
			name = " (" + c.Name + ")"
		}
		if _, err := fmt.Fprintf(w, "%s:%d%s: %s\n%s", path, c.Line, name, c.Problem, c.text); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d of %d cases hold\n", r.Held, len(r.Cases))
	return err
}

// explanation is an authz.Explanation as JSON.
type explanation struct {
	Allowed  bool      `json:"allowed"`
	Question string    `json:"question"`
	Policies []string  `json:"policies"` // that decided; none: no policy permits it
	Rules    []account `json:"rules"`
}

type account struct {
	ID      string `json:"id"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Effect  string `json:"effect"`
	Outcome string `json:"outcome"`
	Detail  string `json:"detail,omitempty"`
}

func explanationOf(x authz.Explanation) explanation {
	out := explanation{Allowed: x.Allowed, Question: x.Question, Policies: append([]string{}, x.Policies...), Rules: []account{}}
	for _, r := range x.Rules {
		out.Rules = append(out.Rules, account(r))
	}
	return out
}
