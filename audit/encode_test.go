package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"keyhole/audit/segment"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func encodeLine(r Record) []byte {
	return appendBody(appendHead(nil, r.Seq, r.Time), r.Node, &r)
}

// asWritten is what the documentation of Record promises to keep of it.
func asWritten(r Record) Record {
	text := func(s string) string {
		s = strings.ToValidUTF8(s, "\ufffd")
		if len(s) <= 1024 {
			return s
		}
		s = s[:1021]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
		return s + "..."
	}
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String {
			f.SetString(text(f.String()))
		}
	}
	policies := slices.Clone(r.Policies)
	if len(policies) > 64 {
		policies = append(policies[:64], "...")
	}
	for i := range policies {
		policies[i] = text(policies[i])
	}
	r.Policies = policies
	cleaned := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(r.Details)) {
		cleaned[text(k)] = text(r.Details[k])
	}
	details := cleaned
	if len(cleaned) > 64 {
		details = map[string]string{}
		for _, k := range slices.Sorted(maps.Keys(cleaned))[:64] {
			details[k] = cleaned[k]
		}
		if _, ok := cleaned["..."]; !ok {
			details["..."] = "..."
		}
	}
	r.Details = details
	if len(r.Policies) == 0 {
		r.Policies = nil
	}
	if len(r.Details) == 0 {
		r.Details = nil
	}
	return r
}

func checkRoundTrip(t *testing.T, r Record) {
	t.Helper()
	line := encodeLine(r)
	if again := encodeLine(r); !bytes.Equal(line, again) {
		t.Fatalf("two encodings:\n%s%s", line, again)
	}
	if bytes.IndexByte(line, '\n') != len(line)-1 || len(line) > segment.MaxLine {
		t.Fatalf("not one line of %d bytes at most: %q", segment.MaxLine, line)
	}
	for _, c := range string(line[:len(line)-1]) {
		if c < ' ' || c == 0x7f || c == 0x9b || c == 0x202e || c == 0x2028 {
			t.Fatalf("the line holds %U", c)
		}
	}
	got, err := ParseLine(line)
	if err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if d := cmp.Diff(asWritten(r), got); d != "" {
		t.Fatalf("%s\n%s", d, line)
	}
}

// full is a record with every member set, by reflection, so that a new one
// cannot be forgotten in the encoder.
func full(t *testing.T) Record {
	t.Helper()
	var r Record
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch f := v.Field(i).Addr().Interface().(type) {
		case *string:
			*f = "s-" + name
		case *uint64:
			*f = uint64(i) + 1
		case *uint32:
			*f = uint32(i) + 1
		case *int64:
			*f = int64(i) + 1
		case *time.Duration:
			*f = time.Duration(i) + 1
		case *time.Time:
			*f = time.Date(2026, 1, 2, 3, 4, 5, i+1, time.UTC)
		case *[]string:
			*f = []string{name, ""}
		case *map[string]string:
			*f = map[string]string{name: "x", "": "y"}
		case **uint64:
			n := uint64(i)
			*f = &n
		default:
			t.Fatalf("the test does not know the type of %s", name)
		}
	}
	return r
}

// encoding/json, by the tags of Record, gives the same members in the same
// order.
func TestEncodesLikeEncodingJSON(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]Record{"all members": full(t), "none": {Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}} {
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := encodeLine(r); string(got) != string(want)+"\n" {
			t.Errorf("%s:\n%s%s", name, got, want)
		}
		checkRoundTrip(t, r)
	}
}

func TestStrings(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"plain", `"quoted\"`, "a\nb\r\tc\x00\x1b[31m\x7f", "\u009b31m", "é漢😀", "\u202egnp.exe", "\u2028\u2029", "\U000e0001", "\xff\xfe", "a\xc3", "\xed\xa0\x80",
		strings.Repeat("x", 1024), strings.Repeat("x", 1025), strings.Repeat("é", 600), strings.Repeat("\xffa", 2000),
		strings.Repeat("\x00", 5000), "</script>&", "}\n{\"seq\":0}",
	} {
		r := full(t)
		r.Principal, r.Reason, r.Policies, r.Details = s, s, []string{s, s}, map[string]string{s: s, "\xfe": "1", "\xff": "2"}
		checkRoundTrip(t, r)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	r := full(t)
	long := strings.Repeat("\x00", 2000)
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.String {
			v.Field(i).SetString(long)
		}
	}
	r.Policies, r.Details = nil, map[string]string{}
	for i := range 1000 {
		r.Policies = append(r.Policies, long)
		r.Details[fmt.Sprintf("%04d%s", i, long)] = long
	}
	checkRoundTrip(t, r) // and is not longer than segment.MaxLine
	r.Details["..."] = "taken"
	checkRoundTrip(t, r)

	for _, at := range []time.Time{time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(123456, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if got, err := ParseLine(encodeLine(Record{StartedAt: at})); err != nil || got.StartedAt.Equal(at) {
			t.Errorf("%s became %s, %v", at, got.StartedAt, err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(uint64(0), int64(0), "sign", "alice", "k", "v", "p", uint32(1), int64(5), false)
	f.Add(^uint64(0), int64(1)<<62, "\xff\n\"\\", strings.Repeat("é", 2000), "\xfe", "\xff", "", uint32(0), int64(-1), true)
	f.Fuzz(func(t *testing.T, seq uint64, at int64, action, who, k, v, p string, n uint32, size int64, some bool) {
		r := Record{
			Seq: seq, Time: time.Unix(0, at).UTC(), Node: p, RequestID: v, Principal: who, AuthMethod: k, Source: v, Action: action, Key: k,
			Version: n, KeyID: k, Algorithm: v, Purpose: p, Policies: strings.Split(p, ","), Outcome: v, Reason: who, Size: size,
			Duration: time.Duration(-size), Initiator: who, Rotation: p, FromVersion: n, ToVersion: n + 1, Details: map[string]string{k: v, v: k, p: who},
		}
		if some {
			r.Intent, r.StartedAt, r.CompletedAt = &seq, time.Unix(0, size).UTC(), time.Unix(size%1e9, 1).UTC()
		}
		checkRoundTrip(t, r)
	})
}

// FuzzParseLine: whatever is in a file, reading it ends in a record or an
// error, and a record that was read encodes and reads back.
func FuzzParseLine(f *testing.F) {
	f.Add([]byte(`{"seq":1,"time":"2026-01-02T03:04:05.000000006Z","node":"n","action":"sign","outcome":"ok"}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Add([]byte("null\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseLine(line)
		if err != nil {
			return
		}
		r.Time, r.StartedAt, r.CompletedAt = r.Time.UTC(), r.StartedAt.UTC(), r.CompletedAt.UTC()
		checkRoundTrip(t, r)
	})
}

func BenchmarkEncode(b *testing.B) {
	r := Record{
		Seq: 123456, Time: time.Now().UTC(), RequestID: "01J9ZK3Y7Q8W5R2T4V6X8Z0A1B", Principal: "jwt:corp:payments-api", AuthMethod: "jwt",
		Source: "192.0.2.17", Action: "sign", Key: "payments", Version: 3, KeyID: "payments.v3", Algorithm: "ES256",
		Policies: []string{"agents-sign"}, Outcome: OutcomeOK, Size: 512, Duration: 123456,
	}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf = appendBody(appendHead(buf[:0], r.Seq, r.Time), "node-1", &r)
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := json.Marshal(&r); err != nil {
				b.Fatal(err)
			}
		}
	})
}
