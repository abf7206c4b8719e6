// Package strictyaml fills structs from YAML and refuses whatever it does not
// understand exactly: unknown keys, keys given twice, values of another type,
// durations and sizes without a unit, empty values, anchors. It goes on after
// a mistake, so that one run reports them all, each with its line and fix.
//
// Fields are named by a `yaml:"name"` tag; `yaml:"name,path"` marks file
// names, which are taken relative to the file's directory. Fields may be
// string, bool, int, time.Duration, Size, map[string]string, structs, and slices of
// these.
package strictyaml

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Size is a number of bytes, written with a unit: "64KiB".
type Size int64

// Defaulter is a list element whose zero value is not its default.
type Defaulter interface{ SetDefaults() }

// Decode fills into, a pointer to a struct, from the contents of a file. It
// returns the line of every key and list element that it saw, and what was
// wrong. lines is nil if the text holds no keys at all.
func Decode(file string, text []byte, into any) (lines Lines, problems Errors) {
	d := &decoder{file: file, dir: filepath.Dir(file), lines: Lines{}}
	var doc yaml.Node
	if err := yaml.Load(text, &doc); err != nil {
		d.syntax(err, &doc)
		return nil, d.problems
	}
	root := doc.Content[0]
	d.value(root, "", false, reflect.ValueOf(into).Elem())
	if root.Kind != yaml.MappingNode {
		return nil, d.problems
	}
	return d.lines, d.problems
}

// decoder fills structs from YAML nodes and notes every mistake.
type decoder struct {
	file, dir string
	lines     Lines
	problems  Errors
}

func (d *decoder) addf(line int, path, format string, args ...any) {
	d.problems = append(d.problems, Problem{File: d.file, Line: line, Path: path, Text: fmt.Sprintf(format, args...)})
}

func (d *decoder) syntax(err error, doc *yaml.Node) {
	var le *yaml.LoadError
	switch {
	case errors.As(err, &le) && le.Mark.Line > 0:
		d.addf(le.Mark.Line, "", "no valid YAML: %s", le.Message)
	case doc.Kind != 0:
		d.addf(0, "", "holds several YAML documents; remove the \"---\" between them")
	default:
		d.addf(0, "", "is empty; write \"key: value\" lines")
	}
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
)

// value fills v from n. path is the key's, "tls.cert_file"; isPath says that
// strings in it are file names.
func (d *decoder) value(n *yaml.Node, path string, isPath bool, v reflect.Value) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.addf(n.Line, path, "uses a YAML anchor or alias, which is not supported; write the value out")
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		d.addf(n.Line, path, "has no value; give it one or remove the line")
		return
	}
	switch {
	case v.Type() == durationType:
		d.duration(n, path, v)
	case v.Type() == sizeType:
		d.size(n, path, v)
	case v.Kind() == reflect.Struct:
		d.mapping(n, path, v)
	case v.Kind() == reflect.Map:
		d.stringMap(n, path, v)
	case v.Kind() == reflect.Slice:
		d.list(n, path, isPath, v)
	case v.Kind() == reflect.String:
		if s, ok := d.scalar(n, path, "!!str", "a text"); ok {
			if isPath && s != "" && !filepath.IsAbs(s) {
				s = filepath.Join(d.dir, s)
			}
			v.SetString(s)
		}
	case v.Kind() == reflect.Bool:
		if s, ok := d.scalar(n, path, "!!bool", "true or false"); ok {
			v.SetBool(strings.EqualFold(s, "true"))
		}
	case v.Kind() == reflect.Int:
		if s, ok := d.scalar(n, path, "!!int", "a whole number"); ok {
			i, err := strconv.ParseInt(s, 10, 32)
			if err != nil {
				d.addf(n.Line, path, "%q is not a decimal number that fits; write it like 100", Clip(s))
				return
			}
			v.SetInt(i)
		}
	}
}

// scalar returns the text of a scalar of the given tag.
func (d *decoder) scalar(n *yaml.Node, path, tag, what string) (string, bool) {
	switch {
	case n.Kind == yaml.SequenceNode:
		d.addf(n.Line, path, "is a list; it takes %s", what)
	case n.Kind == yaml.MappingNode:
		d.addf(n.Line, path, "is a section; it takes %s", what)
	case n.ShortTag() == tag:
		return n.Value, true
	case tag == "!!str":
		// Unquoted 0123 or 1e3 would not be what it looks like.
		d.addf(n.Line, path, "takes a text, and this is none to YAML; put it in quotes")
	default:
		d.addf(n.Line, path, "takes %s", what)
	}
	return "", false
}

func (d *decoder) duration(n *yaml.Node, path string, v reflect.Value) {
	const units = `write it with a unit: "500ms", "30s", "15m" or "24h"`
	if n.Kind != yaml.ScalarNode {
		d.addf(n.Line, path, "takes a duration; %s", units)
		return
	}
	if t := n.ShortTag(); t == "!!int" || t == "!!float" {
		d.addf(n.Line, path, "%s is a bare number; %s", Clip(n.Value), units)
		return
	}
	t, err := time.ParseDuration(n.Value)
	if err != nil {
		d.addf(n.Line, path, "%q is no duration; %s", Clip(n.Value), units)
		return
	}
	if t < 0 {
		d.addf(n.Line, path, "is negative")
		return
	}
	v.SetInt(int64(t))
}

var sizeUnits = []struct {
	suffix string
	factor int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}}

func (d *decoder) size(n *yaml.Node, path string, v reflect.Value) {
	const units = `write it with a unit: "512B", "64KiB" or "1MiB"`
	if n.Kind != yaml.ScalarNode {
		d.addf(n.Line, path, "takes a size; %s", units)
		return
	}
	if t := n.ShortTag(); t == "!!int" || t == "!!float" {
		d.addf(n.Line, path, "%s is a bare number; %s", Clip(n.Value), units)
		return
	}
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(n.Value, u.suffix)
		if !ok {
			continue
		}
		i, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 31)
		if err != nil || int64(i) > (1<<40)/u.factor {
			break
		}
		v.SetInt(int64(i) * u.factor)
		return
	}
	d.addf(n.Line, path, "%q is no size; %s", Clip(n.Value), units)
}

// field is one key that a struct takes.
type field struct {
	name   string
	index  int
	isPath bool
}

func fieldsOf(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		name, option, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			all = append(all, field{name, i, option == "path"})
		}
	}
	return all
}

func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		where := "takes a section of \"key: value\" lines"
		if path == "" {
			where = "the file must hold \"key: value\" lines"
		}
		d.addf(n.Line, path, "%s", where)
		return
	}
	fields := fieldsOf(v.Type())
	d.pairs(n, path, func(key, val *yaml.Node, at string) {
		for _, f := range fields {
			if f.name == key.Value {
				d.value(val, at, f.isPath, v.Field(f.index))
				return
			}
		}
		d.unknown(key, at, fields)
	})
}

// pairs walks a mapping, refuses what is no plain key and what comes twice,
// and notes the lines.
func (d *decoder) pairs(n *yaml.Node, path string, each func(key, val *yaml.Node, at string)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Anchor != "" {
			d.addf(key.Line, path, "has a key that is no plain word")
			continue
		}
		at := Clip(key.Value)
		if path != "" {
			at = path + "." + at
		}
		if first, twice := seen[key.Value]; twice {
			d.addf(key.Line, at, "is given twice, first in line %d; remove one", first)
			continue
		}
		seen[key.Value] = key.Line
		d.lines[at] = key.Line
		each(key, val, at)
	}
}

func (d *decoder) unknown(key *yaml.Node, at string, fields []field) {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	switch guess := Nearest(key.Value, names); {
	case slices.Contains(names, key.Value+"_file"):
		d.addf(key.Line, at, "unknown key; name a file that holds it in %s_file", Clip(key.Value))
	case guess != "":
		d.addf(key.Line, at, "unknown key; did you mean %q?", guess)
	default:
		d.addf(key.Line, at, "unknown key; known here: %s", strings.Join(names, ", "))
	}
}

func (d *decoder) stringMap(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.addf(n.Line, path, "takes a section of \"NAME: text\" lines")
		return
	}
	m := map[string]string{}
	d.pairs(n, path, func(key, val *yaml.Node, at string) {
		var s string
		d.value(val, at, false, reflect.ValueOf(&s).Elem())
		m[key.Value] = s
	})
	v.Set(reflect.ValueOf(m))
}

func (d *decoder) list(n *yaml.Node, path string, isPath bool, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.addf(n.Line, path, "takes a list; write one \"- item\" a line, or [a, b]")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.lines[at] = item.Line
		if f, ok := out.Index(i).Addr().Interface().(Defaulter); ok {
			f.SetDefaults()
		}
		d.value(item, at, isPath, out.Index(i))
	}
	v.Set(out)
}
