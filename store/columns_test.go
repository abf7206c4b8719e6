package store

import (
	"maps"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzTags reads whatever may be in the column: an error, or tags that are
// written and read again as the same.
func FuzzTags(f *testing.F) {
	for _, s := range []string{"{}", `{"team":"pay"}`, `{"a":"b","a":"c"}`, `{"a":null}`, "null", "[]", "", "{", `{"a":1}`, `{"":"\u0000"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var read tags
		if err := read.Scan(s); err != nil {
			return
		}
		written, err := read.Value()
		if err != nil {
			t.Fatal(err)
		}
		var again tags
		if err := again.Scan(written); err != nil || !maps.Equal(read, again) {
			t.Errorf("%q was read as %v, written as %q and read as %v, %v", s, read, written, again, err)
		}
		for k, v := range again {
			if !utf8.ValidString(k) || !utf8.ValidString(v) {
				t.Errorf("%q holds %q: %q", s, k, v)
			}
		}
	})
}

func TestColumnsOfAWrongType(t *testing.T) {
	t.Parallel()
	for _, v := range []any{1.5, "2026-01-01", []byte("x"), true} {
		if err := (&stamp{}).Scan(v); err == nil {
			t.Errorf("%v was read as a time", v)
		}
	}
	for _, v := range []any{nil, int64(1), []byte("{}"), true} {
		if err := (&tags{}).Scan(v); err == nil {
			t.Errorf("%v was read as tags", v)
		}
	}
	s := stamp(time.Now())
	if err := s.Scan(nil); err != nil || !time.Time(s).IsZero() {
		t.Errorf("NULL was read as %v, %v", time.Time(s), err)
	}
}

// FuzzPolicy reads whatever may be in the column: an error, or a policy that
// is written and read again as the same.
func FuzzPolicy(f *testing.F) {
	for _, s := range []string{
		"{}", `{"period":3600000000000}`, `{"acks":{"require":"all","timeout":1}}`, `{"max_bytes":18446744073709551615}`, `{"max_bytes":18446744073709551616}`,
		`{"period":1,"period":2}`, `{"PERIOD":1}`, `{"x":1}`, "{}{}", "{} ", "null", "[]", "", `{"period":1e3}`, `{"schedule":"\ud800"}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var read, again policyJSON
		if err := (object{&read}).Scan(s); err != nil {
			return
		}
		written, err := object{encodePolicy(read.decode())}.Value()
		if err != nil {
			t.Fatal(err)
		}
		if err := (object{&again}).Scan(written); err != nil || read != again {
			t.Errorf("%q was read as %+v, written as %q and read as %+v, %v", s, read, written, again, err)
		}
	})
}
