package keys_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"keyhole/keys"
)

func sealed(t testing.TB, id keys.VersionID, plaintext, aad []byte) (*keys.Envelope, []byte) {
	t.Helper()
	dataKey := keys.NewDataKey()
	e := &keys.Envelope{Version: id, WrapIV: make([]byte, 12), WrappedKey: bytes.Repeat([]byte{0xA5}, 48)}
	if err := e.SealPayload(dataKey, plaintext, aad); err != nil {
		t.Fatal(err)
	}
	return e, dataKey
}

func TestEnvelopeRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		small := func(name string, lo, hi int) []byte {
			return rapid.SliceOfN(rapid.Byte(), lo, hi).Draw(t, name)
		}
		plaintext, aad := small("plaintext", 0, 300), small("aad", 0, 50)
		dataKey := keys.NewDataKey()
		e := &keys.Envelope{
			Version: keys.VersionID{
				Key:    rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?`).Draw(t, "key"),
				Number: rapid.Uint32Min(1).Draw(t, "number"),
			},
			WrapIV: small("iv", 0, 16), WrappedKey: small("wrapped", 1, 512),
		}
		if err := e.SealPayload(dataKey, plaintext, aad); err != nil {
			t.Fatal(err)
		}
		text := e.String()
		if !strings.HasPrefix(text, "kh1:"+e.Version.String()+":") {
			t.Fatalf("%.80s does not name its version", text)
		}
		back, err := keys.ParseEnvelope(text)
		if err != nil {
			t.Fatal(err)
		}
		if back.Version != e.Version || !bytes.Equal(back.WrapIV, e.WrapIV) || !bytes.Equal(back.WrappedKey, e.WrappedKey) || back.String() != text {
			t.Fatalf("came back as %+v", back)
		}
		got, err := back.OpenPayload(dataKey, aad)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Fatalf("opened %q, %v", got, err)
		}
	})
}

func TestEnvelopeIsBound(t *testing.T) {
	t.Parallel()
	id := keys.VersionID{Key: "payments", Number: 3}
	aad := []byte("row 7")
	e, dataKey := sealed(t, id, []byte("card"), aad)
	open := func(change func(e *keys.Envelope), dataKey, aad []byte) error {
		c := *e
		c.PayloadIV, c.Payload = bytes.Clone(e.PayloadIV), bytes.Clone(e.Payload)
		change(&c)
		_, err := c.OpenPayload(dataKey, aad)
		return err
	}
	same := func(*keys.Envelope) {}
	if err := open(same, dataKey, aad); err != nil {
		t.Fatal(err)
	}
	tests := map[string]error{
		"other aad":       open(same, dataKey, []byte("row 8")),
		"no aad":          open(same, dataKey, nil),
		"longer aad":      open(same, dataKey, []byte("row 7\x00")),
		"other key":       open(same, keys.NewDataKey(), aad),
		"short data key":  open(same, dataKey[:16], aad),
		"no data key":     open(same, nil, aad),
		"other version":   open(func(e *keys.Envelope) { e.Version.Number = 4 }, dataKey, aad),
		"other key name":  open(func(e *keys.Envelope) { e.Version.Key = "payment" }, dataKey, aad),
		"flipped IV":      open(func(e *keys.Envelope) { e.PayloadIV[0] ^= 1 }, dataKey, aad),
		"flipped payload": open(func(e *keys.Envelope) { e.Payload[0] ^= 1 }, dataKey, aad),
		"flipped tag":     open(func(e *keys.Envelope) { e.Payload[len(e.Payload)-1] ^= 1 }, dataKey, aad),
		"cut payload":     open(func(e *keys.Envelope) { e.Payload = e.Payload[1:] }, dataKey, aad),
	}
	for name, err := range tests {
		if !errors.Is(err, keys.ErrDecrypt) {
			t.Errorf("%s: %v, want ErrDecrypt", name, err)
		} else if err.Error() != keys.DecryptFailed().Error() {
			t.Errorf("%s: the text tells the cases apart: %v", name, err)
		}
	}
	if err := (&keys.Envelope{Version: id}).SealPayload(make([]byte, 16), nil, nil); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("sealing with a short data key: %v", err)
	}
}

// Every single-bit change of the text is refused by the parser, or by the
// payload or wrap layer's authentication.
func TestEnvelopeTextTampering(t *testing.T) {
	t.Parallel()
	e, dataKey := sealed(t, keys.VersionID{Key: "payments", Number: 3}, []byte("card"), nil)
	text := e.String()
	for i := range text {
		for bit := range 8 {
			b := []byte(text)
			b[i] ^= 1 << bit
			got, err := keys.ParseEnvelope(string(b))
			if err != nil {
				if !errors.Is(err, keys.ErrInvalid) {
					t.Fatalf("byte %d: %v is not ErrInvalid", i, err)
				}
				continue
			}
			wrapChanged := !bytes.Equal(got.WrapIV, e.WrapIV) || !bytes.Equal(got.WrappedKey, e.WrappedKey)
			if _, err := got.OpenPayload(dataKey, nil); err == nil && !wrapChanged {
				t.Fatalf("byte %d, bit %d: the changed text opens", i, bit)
			}
		}
	}
}

func TestParseEnvelopeRefuses(t *testing.T) {
	t.Parallel()
	e, _ := sealed(t, keys.VersionID{Key: "payments", Number: 3}, []byte("card!"), nil)
	text := e.String()
	body := text[strings.LastIndexByte(text, ':')+1:]
	with := func(bin []byte) string { return "kh1:payments.v3:" + base64.RawURLEncoding.EncodeToString(bin) }
	raw := func(iv, wrapped, rest int) []byte {
		b := append([]byte{byte(iv)}, make([]byte, iv)...)
		b = binary.BigEndian.AppendUint16(b, uint16(wrapped))
		return append(b, make([]byte, wrapped+rest)...)
	}
	if _, err := keys.ParseEnvelope(with(raw(16, 512, 28))); err != nil {
		t.Fatalf("the largest wrap with an empty payload: %v", err)
	}
	tests := map[string]string{
		"empty":             "",
		"no prefix":         strings.TrimPrefix(text, "kh1:"),
		"other prefix":      "kh2:" + strings.TrimPrefix(text, "kh1:"),
		"upper-case prefix": "KH1:" + strings.TrimPrefix(text, "kh1:"),
		"no body":           "kh1:payments.v3",
		"empty body":        "kh1:payments.v3:",
		"version zero":      "kh1:payments.v0:" + body,
		"leading zero":      "kh1:payments.v03:" + body,
		"padding":           text + "=",
		"line break":        text[:40] + "\n" + text[40:],
		"carriage return":   text + "\r",
		"space":             " " + text,
		"third colon":       text + ":",
		"standard base64":   "kh1:payments.v3:" + strings.Repeat("+/", 60),
		"half":              text[:len(text)/2],
		"wrap IV too long":  with(raw(17, 48, 28)),
		"wrap too long":     with(raw(12, 513, 28)),
		"no wrapped key":    with(raw(12, 0, 28)),
		"no tag":            with(raw(12, 48, 27)),
		"only an IV length": with([]byte{12}),
		"cut wrapped key":   with(raw(12, 48, 28)[:30]),
	}
	for name, text := range tests {
		if got, err := keys.ParseEnvelope(text); !errors.Is(err, keys.ErrInvalid) || got != nil {
			t.Errorf("%s: %+v, %v, want ErrInvalid", name, got, err)
		}
	}
}

func TestWrapAADIsUnambiguous(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, in := range []struct {
		key string
		n   uint32
		aad string
	}{
		{"a", 1, ""}, {"a", 11, ""}, {"a", 1, "1"}, {"aa", 1, ""}, {"a", 1, "a"}, {"a", 1, "kh1:a.v1"}, {"a", 2, ""},
	} {
		id := keys.VersionID{Key: in.key, Number: in.n}
		sum := keys.WrapAAD(id, []byte(in.aad))
		name := id.String() + "|" + in.aad
		if len(sum) != 32 {
			t.Errorf("%s: %d bytes", name, len(sum))
		}
		if other, ok := seen[string(sum)]; ok {
			t.Errorf("%s and %s share their additional data", name, other)
		}
		seen[string(sum)] = name
	}
	id := keys.VersionID{Key: "a", Number: 1}
	if !bytes.Equal(keys.WrapAAD(id, nil), keys.WrapAAD(id, []byte{})) {
		t.Error("no aad and an empty aad differ")
	}
}

func FuzzParseEnvelope(f *testing.F) {
	e, _ := sealed(f, keys.VersionID{Key: "payments", Number: 3}, []byte("card"), nil)
	f.Add(e.String())
	f.Add("kh1:payments.v3:")
	f.Add("kh1:a.v1:AAABAA")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := keys.ParseEnvelope(s)
		if err != nil {
			if !errors.Is(err, keys.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		if e.String() != s {
			t.Fatalf("two spellings: %q and %q", s, e.String())
		}
		if _, err := e.OpenPayload(make([]byte, keys.DataKeySize), nil); !errors.Is(err, keys.ErrDecrypt) {
			t.Fatalf("opened with the zero key: %v", err)
		}
	})
}
