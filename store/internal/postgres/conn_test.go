package postgres

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"keyhole/keys"
)

func TestNumbered(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"":                              "",
		"SELECT 1":                      "SELECT 1",
		"SELECT ? + ?":                  "SELECT $1 + $2",
		strings.Repeat("?,", 10) + "?)": "$1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)",
	} {
		for range 2 {
			if got := numbered(query); got != want {
				t.Errorf("%q became %q, want %q", query, got, want)
			}
		}
	}
}

// TestEscape: texts come back, stay apart, and keep their order.
func TestEscape(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "a", "\x00", "\x01", "\x01\x01", "\x01\x02", "\x00\x01\x02", "ü\x00"} {
		e := escape(s)
		if strings.Contains(e, "\x00") || unescape(e) != s {
			t.Errorf("%q became %q, and %q", s, e, unescape(e))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.ByteRange(0, 3)).Draw(t, "bytes")) })
		a, b := text.Draw(t, "a"), text.Draw(t, "b")
		if unescape(escape(a)) != a || strings.Contains(escape(a), "\x00") {
			t.Errorf("%q became %q, and %q", a, escape(a), unescape(escape(a)))
		}
		if cmp.Compare(escape(a), escape(b)) != cmp.Compare(a, b) {
			t.Errorf("%q and %q change their order as %q and %q", a, b, escape(a), escape(b))
		}
	})
}

// FuzzUnescape reads what anybody may have written to the database.
func FuzzUnescape(f *testing.F) {
	for _, s := range []string{"", "\x01", "\x01\x03", "\x01\x01\x01", "a\x01\x02\x01\x01b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if once := unescape(s); unescape(escape(once)) != once {
			t.Errorf("%q is read as %q, and that written and read as %q", s, once, unescape(escape(once)))
		}
	})
}

type valuer struct{ err error }

func (v valuer) Value() (driver.Value, error) { return "v\x00", v.err }

func TestEncode(t *testing.T) {
	t.Parallel()
	args := []driver.NamedValue{{Value: "a\x00"}, {Value: keys.PurposeSign}, {Value: int64(1)}, {Value: nil}, {Value: []byte{0}}, {Value: valuer{}}, {Value: true}}
	if err := encode(args); err != nil {
		t.Fatal(err)
	}
	for i, want := range []any{"a\x01\x01", string(keys.PurposeSign), int64(1), nil, nil, "v\x01\x01", true} {
		if got := args[i].Value; i != 4 && got != want {
			t.Errorf("argument %d is %#v, want %#v", i, got, want)
		}
	}
	if err := encode([]driver.NamedValue{{Value: "\xff"}}); !errors.Is(err, keys.ErrInvalid) {
		t.Errorf("what is no text: %v", err)
	}
	if err := encode([]driver.NamedValue{{Value: valuer{io.EOF}}}); !errors.Is(err, io.EOF) {
		t.Errorf("a value that fails: %v", err)
	}
}

// TestWhatIsDoneAgain: a transaction that the server took back, or whose
// connection broke; nothing else.
func TestWhatIsDoneAgain(t *testing.T) {
	t.Parallel()
	state := func(code string) error { return &pgconn.PgError{Code: code} }
	for _, tt := range []struct {
		err            error
		collided, lost bool
	}{
		{nil, false, false},
		{state("40001"), true, false},
		{state("40P01"), true, false},
		{state("57P01"), false, true},
		{state("57P02"), false, true},
		{state("08006"), false, true},
		{state("25006"), false, true},
		{state("57P03"), false, false}, // it is starting
		{state("23505"), false, false},
		{state("57014"), false, false}, // it took too long
		{state("53100"), false, false},
		{io.ErrUnexpectedEOF, false, true},
		{driver.ErrBadConn, false, true},
		{context.Canceled, false, false},
		{context.DeadlineExceeded, false, false},
		{&pgconn.ConnectError{Config: &pgconn.Config{}}, false, false},
		{errors.New("something"), false, false},
	} {
		if Collided(tt.err) != tt.collided || Lost(tt.err) != tt.lost {
			t.Errorf("%v: collided %v, lost %v", tt.err, Collided(tt.err), Lost(tt.err))
		}
	}
}
