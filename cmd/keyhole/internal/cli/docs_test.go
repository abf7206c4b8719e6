package cli

//go:generate go test -run TestDocs -update .

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keyhole/cmd/keyhole/internal/app"
	"keyhole/cmd/keyhole/internal/term"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

const docsFile = "../../../../docs/cli.md"

func tree() *cobra.Command {
	root := newRoot(app.New(app.Env{Streams: term.Std(), Getenv: func(string) string { return "" }, Version: "v0.0.0"}))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

// walk visits the commands that people see, in the order of the help.
func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			walk(sub, visit)
		}
	}
}

// docs/cli.md is what the commands say of themselves.
func TestDocs(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	root := tree()
	b.WriteString("# keyhole, the command line\n\n")
	b.WriteString("<!-- Made of the commands' own help: go generate ./cmd/keyhole/... -->\n\n")
	fmt.Fprintf(&b, "```\n%s```\n\n## Flags of every command\n\n```\n%s```\n", root.Long, root.PersistentFlags().FlagUsages())
	walk(root, func(cmd *cobra.Command) {
		if cmd == root || strings.HasPrefix(cmd.CommandPath(), "keyhole completion ") {
			return
		}
		fmt.Fprintf(&b, "\n%s %s\n\n%s\n", strings.Repeat("#", 1+strings.Count(cmd.CommandPath(), " ")), cmd.CommandPath(), plain(cmd.Long))
		if cmd.HasAvailableSubCommands() {
			return
		}
		fmt.Fprintf(&b, "\n```\n%s\n```\n", cmd.UseLine())
		if cmd.Example != "" {
			fmt.Fprintf(&b, "\nExamples:\n\n```sh\n%s\n```\n", unindent(cmd.Example))
		}
		if flags := cmd.NonInheritedFlags().FlagUsages(); flags != "" {
			fmt.Fprintf(&b, "\n```\n%s```\n", flags)
		}
	})
	if *update {
		if err := os.WriteFile(docsFile, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(docsFile)
	if err != nil || !bytes.Equal(got, b.Bytes()) {
		t.Errorf("docs/cli.md is not what the commands say of themselves (%v); run go generate ./cmd/keyhole/...", err)
	}
}

// plain writes a help text as Markdown: what is indented becomes code.
func plain(text string) string {
	var out []string
	code := false
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		indented := strings.HasPrefix(line, "  ") || strings.HasPrefix(line, "\t")
		if indented != code && line != "" {
			out = append(out, "```")
			code = indented
		}
		out = append(out, line)
	}
	if code {
		out = append(out, "```")
	}
	return strings.Join(out, "\n")
}

func unindent(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}

// Every command explains itself, shows an example that begins with its own
// name, and every flag that takes a word knows what the shell shall offer.
func TestCommandsAreComplete(t *testing.T) {
	t.Parallel()
	root := tree()
	walk(root, func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if strings.HasPrefix(path, "keyhole completion") || strings.HasPrefix(path, "keyhole help") {
			return
		}
		if cmd.Short == "" || cmd.Long == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s says of itself %q, %q", path, cmd.Short, cmd.Long)
		}
		if !strings.Contains(cmd.Example, path) {
			t.Errorf("%s has the example %q", path, cmd.Example)
		}
		for line := range strings.SplitSeq(cmd.Long, "\n") {
			if len(line) > 110 {
				t.Errorf("%s: a line of %d bytes in its help: %q", path, len(line), line)
			}
		}
		if cmd.HasAvailableSubCommands() {
			return
		}
		if cmd.Args == nil || cmd.RunE == nil || cmd.ValidArgsFunction == nil {
			t.Errorf("%s takes any operands, does nothing, or completes none", path)
		}
		cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
			name, usage := pflag.UnquoteUsage(f)
			_, offers := cmd.GetFlagCompletionFunc(f.Name)
			text := name == "TEXT" || name == "BASE64" || name == "HEX" || name == "JWS"
			if file := name == "FILE" || name == "PATH"; f.Value.Type() != "bool" && !offers && !file && !text || file && offers {
				t.Errorf("%s --%s (%s): the shell is told to offer something: %v", path, f.Name, name, offers)
			}
			if usage == "" {
				t.Errorf("%s --%s says nothing of itself", path, f.Name)
			}
		})
	})
	if flags := root.PersistentFlags(); flags.Lookup("token") != nil {
		t.Error("there is a flag for the token: it would be seen by everybody")
	}
}

// The examples of the help are command lines that parse: commands, flags and
// numbers of operands that there are.
func TestExamplesParse(t *testing.T) {
	t.Parallel()
	n := 0
	walk(tree(), func(documented *cobra.Command) {
		if strings.HasPrefix(documented.CommandPath(), "keyhole completion") {
			return
		}
		for line := range strings.SplitSeq(documented.Example, "\n") {
			words, ok := keyholeWords(line)
			if !ok {
				continue
			}
			n++
			root := tree() // flags keep what they were set to
			cmd, args, err := root.Find(words)
			if err == nil {
				err = cmd.ParseFlags(args)
			}
			if err == nil {
				err = cmd.ValidateArgs(cmd.Flags().Args())
			}
			if err == nil {
				err = cmd.ValidateRequiredFlags()
			}
			if err == nil {
				err = cmd.ValidateFlagGroups()
			}
			if err != nil {
				t.Errorf("%s: %q: %v", documented.CommandPath(), line, err)
			}
		}
	})
	if n < 30 {
		t.Errorf("only %d examples were looked at", n)
	}
}

// keyholeWords splits a line of shell that begins with keyhole into its
// words, up to a redirection or pipe.
func keyholeWords(line string) (words []string, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), "keyhole ")
	for ok && rest != "" {
		var word string
		if quoted, is := strings.CutPrefix(rest, `"`); is {
			word, rest, _ = strings.Cut(quoted, `"`)
		} else {
			word, rest, _ = strings.Cut(rest, " ")
		}
		rest = strings.TrimLeft(rest, " ")
		if word == ">" || word == "<" || word == "|" {
			break
		}
		words = append(words, word)
	}
	return words, ok
}
