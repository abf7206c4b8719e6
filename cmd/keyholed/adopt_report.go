package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/rotation"
)

// adoptReport is what `keyholed adopt` has to say.
type adoptReport struct {
	rotation.Adoption
	config  *config.Config
	blocked []string
	altered bool // the list of blocked principals
}

// write shows a table of the versions of every key that was or would be
// taken, and below it what was not, with what to do.
func (r adoptReport) write(to io.Writer) error {
	var b bytes.Buffer
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format, args...) } // a buffer takes everything
	taken, kept := 0, 0
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, k := range r.Keys {
		switch k.Action {
		case rotation.AdoptKept:
			kept++
		case rotation.AdoptWould, rotation.AdoptDone:
			if taken++; taken == 1 {
				_, _ = fmt.Fprintln(w, "VERSION\tTOKEN\tLABEL\tALGORITHM\tSTATE\tPROTECTION\tROW")
			}
			for _, v := range k.Versions {
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.ID, k.Token, printable(v.Label), size(v), v.State, protection(v), row(v))
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, k := range r.Keys {
		if k.Action == rotation.AdoptWould || k.Action == rotation.AdoptDone {
			say("\n%s: %s.\n", k.Name, k.Text)
		}
		if k.Action == rotation.AdoptRefused || k.Action == rotation.AdoptFailed {
			say("\n%s is not taken: %s.\n", k.Name, k.Text)
			for _, command := range r.fix(k) {
				say("  %s\n", command)
			}
		}
	}
	if r.altered {
		say("\nThe list of blocked principals was altered, or sealed by another key, and is taken as it can be read. Look through it:\n")
		for _, p := range r.blocked {
			say("  %s\n", printable(p))
		}
		if len(r.blocked) == 0 {
			say("  (nobody is blocked)\n")
		}
	}
	verb := "were taken"
	if r.DryRun {
		verb = "would be taken: this was a dry run"
	}
	say("\n%s %s; %s good rows already, %s not taken; %s left alone.\n", count(taken, "key", "keys"), strings.Replace(verb, "were", map[bool]string{true: "was", false: "were"}[taken == 1], 1),
		count(kept, "has", "have"), count(r.Refused(), "is", "are"), count(r.Foreign, "key object of others is", "key objects of others are"))
	if taken > 0 {
		say("Policies, descriptions and tags are not on the token, nor what was suspended, archived or to be destroyed: the keys have none of it.\n")
	}
	_, err := b.WriteTo(to)
	return err
}

// fix fills in what the engine does not know of a token.
func (r adoptReport) fix(k rotation.AdoptedKey) (commands []string) {
	for _, t := range r.config.Tokens {
		if t.Name != k.Token {
			continue
		}
		token := quote(t.Label)
		if t.Label == "" {
			token = "LABEL-OF-THE-TOKEN"
		}
		for _, c := range k.Fix {
			commands = append(commands, strings.NewReplacer("MODULE", quote(t.Module), "TOKEN", token).Replace(c))
		}
	}
	return commands
}

func size(v rotation.AdoptedVersion) string {
	if v.Algorithm.Family() == "RSA" {
		return fmt.Sprintf("%s (%d)", v.Algorithm, v.Bits)
	}
	return string(v.Algorithm)
}

func protection(v rotation.AdoptedVersion) string {
	if v.Protected {
		return "never extractable"
	}
	return "EXTRACTABLE"
}

func row(v rotation.AdoptedVersion) string {
	if v.New {
		return "new"
	}
	return "kept"
}

// printable shows what others have written, whatever it is, in one line.
func printable(s string) string {
	if q := fmt.Sprintf("%q", s); q != `"`+s+`"` {
		return q
	}
	return s
}

func (r adoptReport) writeJSON(to io.Writer) error {
	type version struct {
		KID       string `json:"kid"`
		Label     string `json:"label"`
		CKAID     string `json:"cka_id"`
		Algorithm string `json:"algorithm"`
		Bits      int    `json:"bits"`
		State     string `json:"state"`
		Protected bool   `json:"protected"`
		New       bool   `json:"new"`
	}
	type key struct {
		Name     string    `json:"name"`
		Token    string    `json:"token,omitempty"`
		Action   string    `json:"action"`
		Text     string    `json:"text"`
		Commands []string  `json:"commands,omitempty"`
		Versions []version `json:"versions"`
	}
	out := struct {
		DryRun  bool     `json:"dry_run,omitempty"`
		Keys    []key    `json:"keys"`
		Foreign int      `json:"foreign"`
		Blocked []string `json:"blocked,omitempty"` // of a list that was altered
	}{DryRun: r.DryRun, Keys: []key{}, Foreign: r.Foreign}
	if r.altered {
		out.Blocked = r.blocked
	}
	for _, k := range r.Keys {
		j := key{Name: k.Name, Token: k.Token, Action: string(k.Action), Text: k.Text, Commands: r.fix(k), Versions: []version{}}
		for _, v := range k.Versions {
			j.Versions = append(j.Versions, version{
				KID: v.ID.String(), Label: v.Label, CKAID: v.ObjectID.String(), Algorithm: string(v.Algorithm), Bits: v.Bits,
				State: string(v.State), Protected: v.Protected, New: v.New,
			})
		}
		out.Keys = append(out.Keys, j)
	}
	return writeJSON(to, out)
}
