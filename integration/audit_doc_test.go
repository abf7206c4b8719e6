package integration

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"keyhole/audit"
	"keyhole/authz"
)

func auditDoc(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repo, "docs", "audit.md"))
	must(t, err)
	return string(text)
}

// section returns what stands under a heading, up to the next one.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, below, ok := strings.Cut(text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("docs/audit.md has no heading %q", heading)
	}
	if end := regexp.MustCompile(`(?m)^#`).FindStringIndex(below); end != nil {
		below = below[:end[0]]
	}
	return below
}

// names returns what stands in back quotes.
func names(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// docs/audit.md tells every member of a record, and none that there is not.
func TestRecordIsDocumented(t *testing.T) {
	var documented []string
	for line := range strings.Lines(section(t, auditDoc(t), "## A record")) {
		if member, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " |"); ok && strings.HasPrefix(line, "| `") {
			documented = append(documented, names(member)...)
		}
	}
	var members []string
	for f := range reflect.TypeFor[audit.Record]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		members = append(members, name)
	}
	slices.Sort(documented)
	slices.Sort(members)
	if !slices.Equal(documented, members) {
		t.Errorf("documented %v\nmembers    %v", documented, members)
	}
}

// Every action that is recorded is in docs/audit.md, and every one there is
// recorded.
func TestActionsAreDocumented(t *testing.T) {
	actions := append(authz.Actions(), authz.ActionAuthenticate, audit.ActionRecover, audit.ActionClock)
	found := literalActions(t)
	if len(found) < 10 {
		t.Fatalf("only %v are found in the source", found)
	}
	for _, action := range found {
		if !slices.Contains(actions, action) {
			actions = append(actions, action)
		}
	}
	text := section(t, auditDoc(t), "### Actions")
	var documented []string
	for line := range strings.Lines(text) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			line = cells[1] // the other cells explain
		}
		documented = append(documented, names(line)...)
	}
	slices.Sort(actions)
	slices.Sort(documented)
	if !slices.Equal(documented, actions) {
		t.Errorf("documented %v\nrecorded   %v", documented, actions)
	}
}

// literalActions finds the actions that the source names by a literal: as the
// Action of a record, and as an argument of what makes records.
func literalActions(t *testing.T) []string {
	t.Helper()
	var all []string
	literal := func(e ast.Expr) {
		if l, ok := e.(*ast.BasicLit); ok && l.Kind == gotoken.STRING {
			s, err := strconv.Unquote(l.Value)
			must(t, err)
			all = append(all, s)
		}
	}
	argument := map[string]int{"act": 4, "event": 4} // of the engine; in "record" it is the first string
	must(t, filepath.WalkDir(repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "integration" || name == "client" || name == "bin" || strings.HasPrefix(name, ".") || strings.HasSuffix(name, "test")) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if s, ok := n.Type.(*ast.SelectorExpr); ok && s.Sel.Name == "Record" {
					for _, e := range n.Elts {
						if kv, ok := e.(*ast.KeyValueExpr); ok && kv.Key.(*ast.Ident).Name == "Action" {
							literal(kv.Value)
						}
					}
				}
			case *ast.CallExpr:
				called := ""
				switch f := n.Fun.(type) {
				case *ast.SelectorExpr:
					called = f.Sel.Name
				case *ast.Ident:
					called = f.Name
				}
				if i, ok := argument[called]; ok && len(n.Args) > i {
					literal(n.Args[i])
				}
				if called == "record" {
					if i := slices.IndexFunc(n.Args, func(e ast.Expr) bool { _, ok := e.(*ast.BasicLit); return ok }); i >= 0 {
						literal(n.Args[i])
					}
				}
			}
			return true
		})
		return nil
	}))
	return all
}
