package show

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyhole/client"
	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/units"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// mostUsers is how many of those who use a version a question names.
const mostUsers = 5

// Users says who would feel the end of a version, or with number 0 of all
// versions of a key, as far as the caller may see it.
func Users(ctx context.Context, c *client.Client, id keys.VersionID, now time.Time) string {
	use, err := c.Usage(ctx, id.Key)
	if err != nil {
		return "You may not see who uses it."
	}
	var text []string
	for _, v := range use.Versions {
		if id.Number != 0 && v.Version != id.Number || len(v.Agents) == 0 {
			continue
		}
		var who []string
		for _, a := range v.Agents[:min(len(v.Agents), mostUsers)] {
			who = append(who, fmt.Sprintf("%s (%d operations, last %s)", a.Principal, a.Operations, units.Ago(a.LastUsedAt.Time, now)))
		}
		if more := len(v.Agents) - len(who); more > 0 {
			who = append(who, fmt.Sprintf("%d more", more))
		}
		text = append(text, fmt.Sprintf("%s (%s) is used by %s.", v.KeyID, v.State, strings.Join(who, ", ")))
	}
	if len(text) == 0 {
		return "Nobody has used it."
	}
	return strings.Join(text, " ")
}

// Confirm asks the person at the terminal to type word, unless yes is set.
// question is asked for only if it is put; it may look things up.
func Confirm(a *app.App, cmd *cobra.Command, yes bool, word string, question func(context.Context, *client.Client) string) error {
	if yes {
		return nil
	}
	text := ""
	if a.Streams.InTTY {
		c, err := a.Connect(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		text = question(cmd.Context(), c)
	}
	return a.Streams.Confirm(cmd.Context(), text, word)
}

// YesFlag adds --yes.
func YesFlag(cmd *cobra.Command, yes *bool) { cmd.Flags().BoolVar(yes, "yes", false, "do not ask") }

// ReasonFlag adds --reason.
func ReasonFlag(cmd *cobra.Command, reason *string) {
	cmd.Flags().StringVar(reason, "reason", "", "why, in a few words: `TEXT` for the audit log")
	app.Complete(cmd, "reason")
}

// Act prints what became of an act that may need two people; done says it
// of a key after the act. Where the act waits for somebody the error is the
// exit code that says so.
func Act(a *app.App, res api.ActResult, done func(k api.Key) string) error {
	if res.Approval == nil {
		if res.Key == nil {
			return keys.Errorf(keys.ErrInternal, "the gateway answered neither a key nor an approval")
		}
		return a.Print(res, func(w io.Writer) error { return app.Line("%s", done(*res.Key))(w) })
	}
	p := *res.Approval
	err := a.Print(res, func(w io.Writer) error {
		err := app.Line("nothing is done yet: to %s needs another person's approval, before %s, by", ActText(p), app.Stamp(p.ExpiresAt.Time))(w)
		if err != nil {
			return err
		}
		return app.Line("  keyhole approvals approve %s", p.ID)(w)
	})
	if err != nil {
		return err
	}
	return app.Silent{Code: app.ExitPending}
}

// ActText says what an approval is for.
func ActText(p api.Approval) string {
	text := p.Action + " " + p.Key
	switch p.Action {
	case "destroy":
		text = "destroy " + keys.VersionID{Key: p.Key, Number: p.Version}.String()
	case "delete-key":
		text = "delete the key " + p.Key
	}
	if p.Force {
		text += " in spite of what speaks against it"
	}
	return text
}
