package strictyaml

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake in a configuration file.
type Problem struct {
	File string
	Line int    // from 1; 0: of the file as a whole
	Path string // of the key, "tokens[0].module"; may be empty
	Text string // what is wrong and how to put it right
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// Errors are all mistakes that were found, in order of their lines. It holds
// at least one.
type Errors []Problem

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Sorted sorts e by line and returns it.
func (e Errors) Sorted() Errors {
	slices.SortStableFunc(e, func(a, b Problem) int { return a.Line - b.Line })
	return e
}

// Lines holds the line of each key by its path, "tokens[0].name".
type Lines map[string]int

// Of returns the line of a key or, if it is not in the file, of the section
// that it would be in; 0 if there is none.
func (l Lines) Of(path string) int {
	for ; path != ""; path = Parent(path) {
		if n, ok := l[path]; ok {
			return n
		}
	}
	return 0
}

// Parent cuts the last step off a path: "tokens[0].name", "tokens[0]",
// "tokens", "".
func Parent(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

// OneOf spells out a choice: `"a", "b" or "c"`.
func OneOf(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = fmt.Sprintf("%q", w)
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}

// Nearest returns the word that got was probably meant to be, or "".
func Nearest(got string, words []string) string {
	got = strings.ToLower(got)
	best, least := "", 2
	if len(got) > 3 {
		least = max(len(got)/3, 2) + 1
	}
	for _, w := range words {
		d := distance(got, w)
		if len(w) > 2 && strings.HasPrefix(got, w) {
			d = 1 // "warning" for "warn"
		}
		if d < least {
			best, least = w, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours between two words (optimal string alignment).
func distance(a, b string) int {
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, above, row = above, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, above[j]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// Clip bounds text from the file before it is shown.
func Clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}
