package keys_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"keyhole/keys"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	good := []string{"a", "0", "payments", "a-b", "a--b", "9z", strings.Repeat("a", keys.MaxNameLen)}
	for _, name := range good {
		if err := keys.CheckName(name); err != nil {
			t.Errorf("CheckName(%q): %v", name, err)
		}
	}
	bad := []string{
		"", "-", "-a", "a-", "A", "pay_ments", "a.b", "a b", "a/b", "ü", "a\x00b", "a\nb", "..",
		strings.Repeat("a", keys.MaxNameLen+1), strings.Repeat("a", 1<<20),
	}
	for _, name := range bad {
		err := keys.CheckName(name)
		if !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("CheckName(%.20q): %v, want ErrInvalid", name, err)
		}
		if err != nil && len(err.Error()) > 250 {
			t.Errorf("CheckName(%.20q): the error repeats %d bytes of input", name, len(err.Error()))
		}
	}
}

func TestCheckNewNameKeepsReservedNames(t *testing.T) {
	t.Parallel()
	if err := keys.CheckNewName("payments"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"keyhole-canary", "keyhole-x", "-keyhole", ""} {
		if err := keys.CheckNewName(name); !errors.Is(err, keys.ErrInvalid) {
			t.Errorf("CheckNewName(%q): %v, want ErrInvalid", name, err)
		}
	}
	if err := keys.CheckName("keyhole-canary"); err != nil {
		t.Errorf("existing reserved keys must have valid names: %v", err)
	}
}

func TestVersionID(t *testing.T) {
	t.Parallel()
	good := map[string]keys.VersionID{
		"payments.v3":           {Key: "payments", Number: 3},
		"a.v1":                  {Key: "a", Number: 1},
		"v1.v1":                 {Key: "v1", Number: 1},
		"payments.v4294967295":  {Key: "payments", Number: math.MaxUint32},
		"keyhole-canary.v12345": {Key: "keyhole-canary", Number: 12345},
	}
	for text, want := range good {
		got, err := keys.ParseVersionID(text)
		if err != nil || got != want {
			t.Errorf("ParseVersionID(%q) = %v, %v", text, got, err)
		}
		if got.String() != text {
			t.Errorf("%q became %q", text, got.String())
		}
	}
	bad := []string{
		"", "payments", "payments.v", "payments.v0", "payments.v01", "payments.v+1", "payments.v-1", "payments.v 1",
		"payments.v1 ", "payments.v4294967296", "payments.V1", "Payments.v1", ".v1", "a.v1.v1", "payments.v1\n",
		"payments.v1_0", "payments.v０", "-a.v1", strings.Repeat("a", 49) + ".v1", strings.Repeat("a", 1<<16) + ".v1",
	}
	for _, text := range bad {
		if got, err := keys.ParseVersionID(text); !errors.Is(err, keys.ErrInvalid) || got != (keys.VersionID{}) {
			t.Errorf("ParseVersionID(%.20q) = %v, %v, want ErrInvalid", text, got, err)
		}
	}
}

func TestLongestVersionIDFitsALabel(t *testing.T) {
	t.Parallel()
	id := keys.VersionID{Key: strings.Repeat("a", keys.MaxNameLen), Number: math.MaxUint32}
	if n := len(id.String()); n > 63 {
		t.Errorf("the longest version id has %d bytes; an RFC 1123 label has 63", n)
	}
	if got, err := keys.ParseVersionID(id.String()); err != nil || got != id {
		t.Errorf("the longest version id does not parse: %v", err)
	}
}

func TestObjectID(t *testing.T) {
	t.Parallel()
	id := keys.NewObjectID()
	if id == keys.NewObjectID() {
		t.Fatal("two object ids are equal")
	}
	var back keys.ObjectID
	if err := back.UnmarshalText([]byte(id.String())); err != nil || back != id {
		t.Errorf("%s came back as %s, %v", id, back, err)
	}
	text := "00112233445566778899aabbccddeeff"
	for _, bad := range []string{"", text[:30], text + "00", text[:31], text[:31] + "g", strings.ToUpper(text), " " + text[1:], strings.Repeat("ab", 1000)} {
		if _, err := keys.ParseObjectID(bad); err == nil {
			t.Errorf("ParseObjectID(%.40q) succeeded", bad)
		}
		before := back
		if err := back.UnmarshalText([]byte(bad)); err == nil || back != before {
			t.Errorf("UnmarshalText(%.40q) changed the id or succeeded", bad)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"payments", "", "-a", "a-", "A", "keyhole-x", strings.Repeat("a", 49), "ü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := keys.CheckName(s)
		if err != nil {
			if !errors.Is(err, keys.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		if id, err := keys.ParseVersionID(s + ".v7"); err != nil || id.Key != s || id.Number != 7 {
			t.Fatalf("a good name makes no version id: %v, %v", id, err)
		}
	})
}

func FuzzParseVersionID(f *testing.F) {
	for _, s := range []string{"payments.v3", "a.v4294967295", "a.v0", "a.v01", "a.v1.v1", ".v1", "", "a.v+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := keys.ParseVersionID(s)
		if err != nil {
			if !errors.Is(err, keys.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		if id.String() != s || id.Number == 0 || keys.CheckName(id.Key) != nil {
			t.Fatalf("%q was read as %+v", s, id)
		}
	})
}
