package term

import (
	"bytes"
	"strings"
	"testing"
)

func TestLive(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	s := Streams{Err: &b, ErrTTY: true}
	l := s.Live()
	l.Show("announced", "in 3s")
	l.Show("announced", "in 3s")
	l.Show("done", "")
	l.Show(strings.Repeat("x", 200)+"\x1b[2J", "")
	l.End()
	l.End()
	long := strings.Repeat("x", 78) + "…"
	want := "\rannounced  in 3s" + "\rdone" + strings.Repeat(" ", 12) + "\r" + long + "\r" + strings.Repeat(" ", 79) + "\r"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
	b.Reset()
	s.ErrTTY = false
	l = s.Live()
	l.Show("announced", "in 3s")
	l.Show("announced", "in 2s")
	l.Show("done\r", "")
	l.End()
	if b.String() != "announced\ndone\\r\n" {
		t.Errorf("%q", b.String())
	}
}
