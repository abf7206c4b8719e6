package mech

import (
	"bytes"
	"testing"
)

func TestSplitGCM(t *testing.T) {
	t.Parallel()
	iv12, iv16, out := bytes.Repeat([]byte{1}, 12), bytes.Repeat([]byte{2}, 16), bytes.Repeat([]byte{3}, 48)
	for name, c := range map[string]struct {
		mode    string
		iv, out []byte
		want    []byte // IV; nil: refused
	}{
		"caller":                   {IVCaller, iv12, out, iv12},
		"param":                    {IVHSMParam, iv12, out, iv12},
		"param not written":        {IVHSMParam, make([]byte, 12), out, nil},
		"appended 12":              {IVHSMAppended, nil, append(bytes.Clone(out), iv12...), iv12},
		"appended 16":              {IVHSMAppended, nil, append(bytes.Clone(out), iv16...), iv16},
		"appended, not there":      {IVHSMAppended, nil, out, nil},
		"appended 3":               {IVHSMAppended, nil, append(bytes.Clone(out), 1, 2, 3), nil},
		"caller, appended":         {IVCaller, iv12, append(bytes.Clone(out), iv16...), nil},
		"no tag":                   {IVCaller, iv12, out[:32], nil},
		"an IV of zeros, appended": {IVHSMAppended, nil, append(bytes.Clone(out), make([]byte, 12)...), nil},
	} {
		iv, wrapped, err := splitGCM(c.mode, c.iv, c.out, 48)
		if (err == nil) != (c.want != nil) || err == nil && (!bytes.Equal(iv, c.want) || !bytes.Equal(wrapped, out)) {
			t.Errorf("%s: iv %x, %d bytes, %v", name, iv, len(wrapped), err)
		}
	}
}

func FuzzSplitCheck(f *testing.F) {
	f.Add([]byte{})
	f.Add(append([]byte{12}, make([]byte, 60)...))
	f.Add(append([]byte{16}, make([]byte, 64)...))
	f.Fuzz(func(t *testing.T, check []byte) {
		iv, wrapped, ok := splitCheck(check)
		if !ok {
			return
		}
		if again := append(append([]byte{byte(len(iv))}, iv...), wrapped...); !bytes.Equal(again, check) {
			t.Errorf("%x reads as %x, %x", check, iv, wrapped)
		}
	})
}
