package rest_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"keyhole/gateway/rest"
	"keyhole/keys"
)

func FuzzFollowedKeys(f *testing.F) {
	for _, s := range []string{"", "payments", "a,b", "b,a", "a,a", ",", "a,", "A", "a b", "a\nb", strings.Repeat("a,", 200)} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		names, err := rest.Followed([]string{a, b})
		if err != nil {
			if !errors.Is(err, keys.ErrInvalid) {
				t.Errorf("%q, %q: %v", a, b, err)
			}
			return
		}
		if len(names) == 0 || len(names) > 100 || !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("%q, %q: %q", a, b, names)
		}
		asked := strings.Split(a+","+b, ",")
		for _, name := range names {
			if keys.CheckName(name) != nil || !slices.Contains(asked, name) {
				t.Errorf("%q, %q: %q", a, b, name)
			}
		}
		for _, name := range asked {
			if !slices.Contains(names, name) {
				t.Errorf("%q, %q: without %q", a, b, name)
			}
		}
	})
}

func FuzzLastEventID(f *testing.F) {
	for _, s := range []string{"", "0", "1", "-1", "+1", "01", "1 ", "1_000", "0x1", "9223372036854775807", "9223372036854775808", "\r\n", "١"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, in := range [][2][]string{{{value}, nil}, {{value}, {"7"}}, {nil, {value}}} {
			id, ok, err := rest.Resumed(in[0], in[1])
			if err != nil {
				if !errors.Is(err, keys.ErrInvalid) || ok {
					t.Errorf("%q: %v, %v", in, ok, err)
				}
				continue
			}
			if digits := strings.TrimLeft(value, "0"); !ok || id > 1<<63-1 || digits != "" && strconv.FormatUint(id, 10) != digits || digits == "" && id != 0 {
				t.Errorf("%q: %d, %v", in, id, ok)
			}
		}
	})
}
