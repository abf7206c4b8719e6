package seal

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"keyhole/keys"
)

var secret = []byte("32 bytes to seal rows of a test.")

func sealer(t *testing.T) *Sealer {
	t.Helper()
	s, err := New(secret)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeySize(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 16, 31, 33, 64} {
		if _, err := New(make([]byte, n)); !errors.Is(err, keys.ErrInternal) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	key := bytes.Clone(secret)
	s, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	before := s.Key(&keys.Key{}, 1)
	clear(key) // the caller's slice is not kept
	if !Equal(before, s.Key(&keys.Key{}, 1)) {
		t.Error("the seal follows a slice of the caller's")
	}
	other, err := New(key)
	if err != nil {
		t.Fatal(err)
	}
	if Equal(before, other.Key(&keys.Key{}, 1)) {
		t.Error("two keys make one seal")
	}
	if Equal(nil, nil) || Equal(before[:16], before[:16]) {
		t.Error("no seal is taken for one")
	}
}

var times = reflect.TypeFor[time.Time]()

// fields calls f for each field below v that is not made of others, with its
// path. It sets nil pointers and empty lists up first.
func fields(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	switch {
	case v.Type() == times:
		f(path, v)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fields(v.Field(i), path+"."+v.Type().Field(i).Name, f)
		}
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		fields(v.Elem(), path, f)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		}
		for i := range v.Len() {
			fields(v.Index(i), fmt.Sprintf("%s[%d]", path, i), f)
		}
	default:
		f(path, v)
	}
}

// alter gives a field another value.
func alter(t *testing.T, path string, v reflect.Value) {
	switch {
	case v.Type() == times:
		v.Set(reflect.ValueOf(v.Interface().(time.Time).Add(time.Microsecond)))
	case v.Kind() == reflect.String:
		v.SetString(v.String() + "x")
	case v.CanInt():
		v.SetInt(v.Int() + 1)
	case v.CanUint():
		v.SetUint(v.Uint() + 1)
	case v.Kind() == reflect.Bool:
		v.SetBool(!v.Bool())
	case v.Kind() == reflect.Array:
		last := v.Index(v.Len() - 1)
		last.SetUint(last.Uint() + 1)
	case v.Kind() == reflect.Slice:
		v.SetBytes(append(bytes.Clone(v.Bytes()), 0))
	case v.Kind() == reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"a": "b", "x": v.String()}))
	default:
		t.Fatalf("%s: no way to alter a %s", path, v.Type())
	}
}

// TestEveryFieldIsSealed alters each field alone, those that are added to the
// types in later years too.
func TestEveryFieldIsSealed(t *testing.T) {
	t.Parallel()
	s := sealer(t)
	check := func(of any, seal func() []byte) {
		n := 0
		v := reflect.ValueOf(of).Elem()
		fields(v, v.Type().Name(), func(string, reflect.Value) {}) // set up
		fields(v, v.Type().Name(), func(path string, field reflect.Value) {
			if path == "Key.Damaged" { // not stored
				return
			}
			before := seal()
			if !Equal(before, seal()) {
				t.Fatalf("%s: two seals of one row", path)
			}
			alter(t, path, field)
			if Equal(before, seal()) {
				t.Errorf("%s may be altered", path)
			}
			n++
		})
		if n < 16 {
			t.Errorf("only %d fields of %T", n, of)
		}
	}
	k, r, a := &keys.Key{}, &keys.Rotation{}, &keys.Approval{}
	check(k, func() []byte { return s.Key(k, 7) })
	check(r, func() []byte { return s.Rotation(r) })
	check(a, func() []byte { return s.Approval(a) })
	if Equal(s.Key(k, 7), s.Key(k, 8)) {
		t.Error("the revision of a key may be altered")
	}
	text := s.Text("a", "b", 1)
	for what, other := range map[string][]byte{"name": s.Text("c", "b", 1), "body": s.Text("a", "c", 1), "revision": s.Text("a", "b", 2), "border": s.Text("ab", "", 1)} {
		if Equal(text, other) {
			t.Errorf("the %s of a text may be altered", what)
		}
	}
}

// TestKindsHaveNoSealInCommon: what is empty is empty in its own way.
func TestKindsHaveNoSealInCommon(t *testing.T) {
	t.Parallel()
	s := sealer(t)
	seen := map[string]string{}
	for kind, seal := range map[string][]byte{
		"key": s.Key(&keys.Key{}, 0), "rotation": s.Rotation(&keys.Rotation{}), "approval": s.Approval(&keys.Approval{}), "text": s.Text("", "", 0),
	} {
		if other, ok := seen[string(seal)]; ok {
			t.Errorf("an empty %s and an empty %s have one seal", kind, other)
		}
		seen[string(seal)] = kind
	}
}

// TestBordersAreSealed: what moves from one field, entry or version into the
// next one makes another message.
func TestBordersAreSealed(t *testing.T) {
	t.Parallel()
	s := sealer(t)
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.StringN(0, 3, -1), 6, 6)
		key := func(x []string) *keys.Key {
			return &keys.Key{
				Name: x[0], Description: x[1], Tags: map[string]string{x[2]: x[3]}, Token: x[4],
				Versions: []*keys.Version{{Label: x[5], PublicKey: []byte(x[0]), Check: []byte(x[1])}, {RevokeReason: x[2]}},
			}
		}
		rotation := func(x []string) *keys.Rotation {
			return &keys.Rotation{ID: x[0], Key: x[1], Expected: x[2:4], Skipped: x[4:6]}
		}
		approval := func(x []string) *keys.Approval {
			return &keys.Approval{ID: x[0], Action: x[1], RequestedBy: x[2], RequestedAs: x[3:6]}
		}
		x, y := all.Draw(t, "x"), all.Draw(t, "y")
		same := reflect.DeepEqual(x, y)
		if Equal(s.Key(key(x), 1), s.Key(key(y), 1)) != same {
			t.Errorf("keys of %q and %q", x, y)
		}
		if Equal(s.Rotation(rotation(x)), s.Rotation(rotation(y))) != same {
			t.Errorf("rotations of %q and %q", x, y)
		}
		if Equal(s.Approval(approval(x)), s.Approval(approval(y))) != same {
			t.Errorf("approvals of %q and %q", x, y)
		}
		// The same characters, cut elsewhere.
		if len(x[0]) > 0 {
			z := append([]string{x[0][:len(x[0])-1], x[0][len(x[0])-1:] + x[1]}, x[2:]...)
			if Equal(s.Key(key(x), 1), s.Key(key(z), 1)) || Equal(s.Rotation(rotation(x)), s.Rotation(rotation(z))) || Equal(s.Approval(approval(x)), s.Approval(approval(z))) {
				t.Errorf("%q and %q have one seal", x, z)
			}
		}
	})
	r := &keys.Rotation{Expected: []string{"a"}, Skipped: []string{"b"}}
	moved := &keys.Rotation{Expected: []string{"a", "b"}}
	if Equal(s.Rotation(r), s.Rotation(moved)) {
		t.Error("an agent may move from one list to the other")
	}
	if !Equal(s.Rotation(&keys.Rotation{Expected: []string{}}), s.Rotation(&keys.Rotation{})) {
		t.Error("an empty list has another seal than none")
	}
}

// TestTimesAreSealedAsStored: in microseconds, wherever the clock stands.
func TestTimesAreSealedAsStored(t *testing.T) {
	t.Parallel()
	s := sealer(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	of := func(at time.Time) []byte { return s.Key(&keys.Key{CreatedAt: at}, 1) }
	if !Equal(of(at), of(at.Add(999).In(time.FixedZone("", 3600)))) {
		t.Error("the seal depends on what is not stored")
	}
	if Equal(of(time.Time{}), of(time.UnixMicro(0))) {
		t.Error("no time and 1970 have one seal")
	}
}
